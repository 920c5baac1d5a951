//! Modes of the agent.

/// Choice between carrying decisions out and only reporting them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Decisions are printed and recorded, not carried out.
    #[default]
    Observe,
    /// Enabled actions are carried out.
    Enforce,
}

impl Mode {
    /// Name in the configuration and in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }
}
