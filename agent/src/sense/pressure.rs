//! The machine as a whole: available memory and memory pressure.

use std::io;

use procfs::{Current as _, Meminfo, MemoryPressure};

use super::HostFact;

/// Reads the machine's memory and its pressure.
#[derive(Debug, Default)]
pub struct PressureSensor;

impl PressureSensor {
    /// Reads `/proc/meminfo` and `/proc/pressure/memory`.
    ///
    /// # Errors
    ///
    /// Where `/proc/meminfo` cannot be read, or has no `MemAvailable` (before 3.14). A kernel without PSI is no error.
    pub fn read(&self) -> io::Result<HostFact> {
        let memory = Meminfo::current().map_err(io::Error::other)?;
        let mem_available_bytes =
            memory.mem_available.ok_or_else(|| io::Error::other("/proc/meminfo has no MemAvailable"))?;
        let psi = MemoryPressure::current().ok();
        Ok(HostFact { mem_available_bytes, psi_memory_some_avg10: psi.map(|psi| f64::from(psi.some.avg10)) })
    }

    /// Total memory in bytes.
    ///
    /// # Errors
    ///
    /// Where `/proc/meminfo` cannot be read.
    pub fn mem_total_bytes(&self) -> io::Result<u64> {
        Ok(Meminfo::current().map_err(io::Error::other)?.mem_total)
    }
}
