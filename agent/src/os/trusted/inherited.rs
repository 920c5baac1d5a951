//! Descriptors that this process was started with, by their paths: trusted as much as the parent
//! process.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::AsFd as _,
    path::Path,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{FileType, Mode, OFlags};

use super::{FileRules, read_to_end, refusal::refuse_large};

/// Maximum wait for the next bytes of a pipe.
const PIPE_WAITS_MS: u16 = 5_000;

/// Returns whether a path names a descriptor that this process was started with.
pub(super) fn is_inherited(path: &Path) -> bool {
    let number = |directory: &str| path.strip_prefix(directory).ok().and_then(Path::to_str);
    path == Path::new("/dev/stdin")
        || ["/dev/fd", "/proc/self/fd"]
            .iter()
            .any(|fds| number(fds).is_some_and(|text| text.parse::<u32>().is_ok()))
}

pub(super) fn read_inherited(path: &Path, rules: FileRules) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // A link of the kernel's own, to the inherited file.
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        FileRules { has_one_name: false, ..rules }.check(&stat, path)?;
        return read_to_end(&file, rules.bytes_max, path);
    }
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match (&file).read(&mut part) {
            Ok(0) => return Ok(bytes),
            Ok(read) => bytes.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut awaited = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
                if poll(&mut awaited, PollTimeout::from(PIPE_WAITS_MS))? == 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!(
                            "the pipe {} delivered nothing for {PIPE_WAITS_MS} ms\n  hint: is the \
                             program that writes to it stuck?",
                            path.display()
                        ),
                    ));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if bytes.len() as u64 > rules.bytes_max {
            return refuse_large(path, rules.bytes_max);
        }
    }
}
