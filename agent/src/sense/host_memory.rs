//! The machine as a whole: available memory and memory pressure.
//!
//! Read with every scan, from files that stay open into a buffer that stays: where memory is short,
//! opening one and making room for what it says would wait with everybody else.

use std::{fs::File, io, os::unix::fs::FileExt as _, str};

use super::HostFact;

const MEMINFO: &str = "/proc/meminfo";
const PRESSURE: &str = "/proc/pressure/memory";

/// `/proc/meminfo` has some 1,500 bytes, and what is read of it comes first.
const BUFFER_BYTES: usize = 4_096;

/// Reads the machine's memory and its pressure.
#[derive(Debug)]
pub struct HostMemorySensor {
    meminfo: io::Result<File>,
    /// Not there on a kernel without PSI.
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
    /// Where `/proc/meminfo` cannot be read, or has no `MemAvailable` (before 3.14). A kernel
    /// without PSI is no error.
    pub fn read(&mut self) -> io::Result<HostFact> {
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
    /// Where `/proc/meminfo` cannot be read.
    pub fn mem_total_bytes(&self) -> io::Result<u64> {
        field_bytes(text(&self.meminfo, &mut [0; BUFFER_BYTES])?, "MemTotal:")
    }
}

/// What a file says now.
fn text<'a>(file: &io::Result<File>, buffer: &'a mut [u8]) -> io::Result<&'a str> {
    let file = file.as_ref().map_err(|error| io::Error::from(error.kind()))?;
    let length = file.read_at(buffer, 0)?;
    str::from_utf8(&buffer[..length]).map_err(io::Error::other)
}

/// A line of `/proc/meminfo`, which counts in KiB, as bytes.
fn field_bytes(text: &str, name: &str) -> io::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix(" kB"));
    let bytes = line.and_then(|kib| kib.trim().parse::<u64>().ok()?.checked_mul(1_024));
    bytes.ok_or_else(|| io::Error::other(format!("{MEMINFO} has no {name}")))
}

/// `some avg10` in percent.
fn some_avg10(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("some avg10=")?.split(' ').next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_or_no_number_is_told() {
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
    fn it_says_what_is_so_each_time_it_is_read() {
        let mut sensor = HostMemorySensor::default();
        let total_bytes = sensor.mem_total_bytes().unwrap();
        for _ in 0..2 {
            let bytes = sensor.read().unwrap().mem_available_bytes;
            assert!(bytes > 0 && bytes <= total_bytes, "{bytes} of {total_bytes}");
        }
    }
}
