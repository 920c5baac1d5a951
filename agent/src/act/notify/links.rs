//! Where whoever is told finds more.

/// What every page is linked to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Links {
    /// What to do.
    pub runbook: Option<String>,
    /// What it looks like.
    pub picture: Option<String>,
}
