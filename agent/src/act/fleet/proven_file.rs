//! Proven loads on disk, so that a restart of the agent does not take away the headroom that others
//! count on.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    fleet::ProvenLoad,
    os::{
        StateDir,
        atomic_file::{self, Before},
    },
};

const STEM: &str = "proven";
const ENDING: &str = ".json";
const VERSION: u32 = 1;

/// Maximum size of the file. A real one has some hundred bytes.
const BYTES_MAX: u64 = 16 << 10;

/// Proven loads of this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ProvenLoads {
    version: u32,
    /// CPUs in use.
    pub cpus: ProvenLoad,
    /// Requests answered per second.
    pub requests: ProvenLoad,
}

impl ProvenLoads {
    /// Reads the loads of an earlier run; none if the file is missing, damaged or of another
    /// version.
    pub fn read(state_dir: &Path) -> Self {
        let read = || {
            let dir = StateDir::open(state_dir).ok()??;
            let bytes = dir.read(&format!("{STEM}{ENDING}"), BYTES_MAX).ok()??;
            serde_json::from_slice::<Self>(&bytes).ok()
        };
        let loads = read().filter(|loads| loads.version == VERSION).unwrap_or_default();
        Self { version: VERSION, ..loads }
    }

    /// Writes the loads, if there is a state directory.
    ///
    /// # Errors
    ///
    /// Returns an error if the next run may not find them.
    pub fn write(&self, state_dir: &Path) -> std::io::Result<()> {
        let Some(dir) = StateDir::open(state_dir)? else { return Ok(()) };
        let bytes = serde_json::to_vec(self)?;
        atomic_file::replace(&dir, STEM, ENDING, &bytes, Before::Any)
    }
}
