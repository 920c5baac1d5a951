//! Available memory and memory pressure of the machine.
//!
//! Read with every scan, from files that stay open into a buffer that is reused: if memory is
//! short, opening a file and allocating a buffer would stall like everything else.

use std::{fs::File, io, os::unix::fs::FileExt as _, str};

use super::{
    Fact, HostFact, Loss,
    sensor::{Observations, Schedule, Sensor},
};

const MEMINFO: &str = "/proc/meminfo";
const PRESSURE: &str = "/proc/pressure/memory";

/// Size of the buffer. `/proc/meminfo` has some 1,500 bytes, and the fields in use come first.
const BUFFER_BYTES: usize = 4_096;

/// Reads the available memory and the memory pressure of the machine.
#[derive(Debug)]
pub struct HostMemorySensor {
    meminfo: io::Result<File>,
    /// An error on a kernel without PSI.
    pressure: io::Result<File>,
    buffer: [u8; BUFFER_BYTES],
}

impl Default for HostMemorySensor {
    fn default() -> Self {
        Self {
            meminfo: File::open(MEMINFO),
            pressure: File::open(PRESSURE),
            buffer: [0; BUFFER_BYTES],
        }
    }
}

impl HostMemorySensor {
    /// Reads `/proc/meminfo` and `/proc/pressure/memory`.
    ///
    /// # Errors
    ///
    /// Returns an error if `/proc/meminfo` cannot be read, or has no `MemAvailable` (before 3.14).
    /// A kernel without PSI is not an error.
    pub fn read_host(&mut self) -> io::Result<HostFact> {
        let mem_available_bytes =
            field_bytes(text(&self.meminfo, &mut self.buffer)?, "MemAvailable:")?;
        let psi_memory_some_avg10 =
            text(&self.pressure, &mut self.buffer).ok().and_then(some_avg10);
        Ok(HostFact { mem_available_bytes, psi_memory_some_avg10 })
    }

    /// Total memory in bytes.
    ///
    /// # Errors
    ///
    /// Returns an error if `/proc/meminfo` cannot be read.
    pub fn mem_total_bytes(&self) -> io::Result<u64> {
        field_bytes(text(&self.meminfo, &mut [0; BUFFER_BYTES])?, "MemTotal:")
    }
}

impl Sensor for HostMemorySensor {
    fn schedule(&self) -> Schedule {
        Schedule::Processes
    }

    fn failure(&self) -> Loss {
        Loss::HostReadFailed
    }

    fn read(&mut self, _: f64, out: &mut Observations<'_>) -> io::Result<()> {
        out.push(Fact::Host(self.read_host()?));
        Ok(())
    }
}

/// Reads a file from its beginning.
fn text<'a>(file: &io::Result<File>, buffer: &'a mut [u8]) -> io::Result<&'a str> {
    let file = file.as_ref().map_err(|error| io::Error::from(error.kind()))?;
    let length = file.read_at(buffer, 0)?;
    str::from_utf8(&buffer[..length]).map_err(io::Error::other)
}

/// Parses a line of `/proc/meminfo`, which counts in KiB, into bytes.
fn field_bytes(text: &str, name: &str) -> io::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix(" kB"));
    let bytes = line.and_then(|kib| kib.trim().parse::<u64>().ok()?.checked_mul(1_024));
    bytes.ok_or_else(|| {
        io::Error::other(format!("{MEMINFO} has no line {name:?} with a size in kB"))
    })
}

/// Parses `some avg10`, in percent.
fn some_avg10(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("some avg10=")?.split(' ').next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_malformed_lines_are_errors() {
        let text = "MemTotal:        8046612 kB\nMemFree:  7 kB\nMemAvailable:    6021844 kB\n";
        assert_eq!(field_bytes(text, "MemAvailable:").unwrap(), 6_021_844 * 1_024);
        for wrong in [
            "",
            "MemAvailable: 7\n",
            "MemAvailable: -7 kB\n",
            "MemAvailable: 99999999999999999 kB\n",
        ] {
            assert!(field_bytes(wrong, "MemAvailable:").is_err(), "{wrong:?}");
        }
        assert_eq!(
            some_avg10("some avg10=12.34 avg60=0.00 total=9\nfull avg10=1.00\n"),
            Some(12.34)
        );
        assert_eq!(some_avg10("full avg10=1.00\n"), None);
    }

    #[test]
    fn every_read_gives_plausible_memory() {
        let mut sensor = HostMemorySensor::default();
        let total_bytes = sensor.mem_total_bytes().unwrap();
        for _ in 0..2 {
            let bytes = sensor.read_host().unwrap().mem_available_bytes;
            assert!(bytes > 0 && bytes <= total_bytes, "{bytes} of {total_bytes}");
        }
    }
}
