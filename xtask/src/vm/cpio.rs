//! Archive in the format of the kernel's initial file system: cpio, "newc". Compression is
//! optional, and under emulation the kernel reads it faster without.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Writer of one archive.
pub struct Cpio<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Cpio<W> {
    /// Starts an empty archive.
    pub fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    /// Adds a directory; its parents have to exist.
    pub fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY, (0, 0), b"")
    }

    /// Adds an executable file.
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.entry(name, PROGRAM, (0, 0), bytes)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, to: &str) -> io::Result<()> {
        self.entry(name, LINK, (0, 0), to.as_bytes())
    }

    /// Adds a character device with its major and minor number.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(name, CHARACTER_DEVICE, (major, minor), b"")
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), b"")?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let name_size = name.len() as u32 + 1;
        write!(self.out, "070701")?;
        // Inode, mode, owner, group, links, time, size, device of the file, device of the node,
        // size of the name, no checksum.
        for field in [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0]
        {
            write!(self.out, "{field:08X}")?;
        }
        self.out.write_all(name.as_bytes())?;
        // The header is 110 bytes; name and contents are each padded to a multiple of four.
        self.pad(1, 110 + name_size as usize)?;
        self.out.write_all(bytes)?;
        self.pad(0, bytes.len())
    }

    fn pad(&mut self, least: usize, after: usize) -> io::Result<()> {
        self.out.write_all(&[0; 4][..least + after.next_multiple_of(4) - after])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_end_with_a_trailer() {
        let mut cpio = Cpio::new(Vec::new());
        cpio.directory("dev").unwrap();
        cpio.device("dev/console", 5, 1).unwrap();
        cpio.file("init", b"12345").unwrap();
        let bytes = cpio.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<_> = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, w)| w == b"070701")
            .map(|(at, _)| at)
            .collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|at| at % 4 == 0), "{starts:?}");
        let init = &bytes[starts[2]..starts[3]];
        assert_eq!(&init[54..62], b"00000005");
        assert_eq!(&init[110..115], b"init\0");
        assert_eq!(&init[116..121], b"12345");
    }
}
