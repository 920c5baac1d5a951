//! Connection of an output stream to the systemd journal, which adds the time to each line itself.
//!
//! systemd sets `JOURNAL_STREAM` to the device and inode numbers of the socket that it connects to
//! the journal, both in decimal (`systemd.exec(5)`). A process that inherits the variable but
//! writes elsewhere, as a shell in a unit with a redirection does, has another file there, so the
//! numbers have to be compared with those of the stream itself (`sd_journal_stream_fd(3)`).

use std::{env, io, os::fd::AsFd};

use rustix::fs::fstat;

/// Returns whether standard error is connected to the journal.
pub fn stderr_is_journal() -> bool {
    is_journal(io::stderr())
}

/// Returns whether a stream is the one that `JOURNAL_STREAM` names. If the kernel cannot say which
/// file it is, it is not. systemd names one for both outputs, which are one socket then.
pub fn is_journal(stream: impl AsFd) -> bool {
    let named = env::var("JOURNAL_STREAM").ok();
    fstat(stream).is_ok_and(|stat| names(named.as_deref(), stat.st_dev, stat.st_ino))
}

/// Returns whether a value of `JOURNAL_STREAM` names the file with these numbers.
fn names(journal_stream: Option<&str>, device: u64, inode: u64) -> bool {
    journal_stream
        .and_then(|value| value.split_once(':'))
        .is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_stream_names_a_file_by_device_and_inode() {
        assert!(names(Some("8:4711"), 8, 4711));
        assert!(names(Some("18446744073709551615:0"), u64::MAX, 0));
        assert!(!names(None, 8, 4711));
        for other in ["8:4712", "9:4711", "4711:8", "", ":", "8:", ":4711", "8:4711:1", "8: 4711"] {
            assert!(!names(Some(other), 8, 4711), "{other:?}");
        }
    }
}
