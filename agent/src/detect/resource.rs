//! Resources that a process can leak.

use serde::Serialize;

/// A resource that can leak.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    strum::IntoStaticStr,
    strum::EnumString,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Resource {
    /// Anonymous, swapped and shared memory.
    Memory,
    /// Open files other than sockets in CLOSE_WAIT.
    Files,
    /// Threads.
    Threads,
    /// TCP sockets that the peer has closed and the process has not.
    CloseWait,
}

impl Resource {
    /// Name as printed.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Name in a sentence.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Files => "open files",
            Self::Threads => "threads",
            Self::CloseWait => "sockets in CLOSE_WAIT",
        }
    }

    /// Printed claims of memory do not name it, as before anything else could leak.
    pub(super) fn is_memory(&self) -> bool {
        *self == Self::Memory
    }
}
