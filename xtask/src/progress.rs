//! The progress line: the current step, and how long it has been running.
//!
//! On a terminal it is redrawn in place; elsewhere it is printed at intervals, so that a log
//! neither fills up nor seems to hang.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

/// Interval between lines without a terminal.
const STILL_RUNNING: Duration = Duration::from_secs(15);

/// Progress line: redrawn on a terminal, repeated at intervals elsewhere.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    frame: usize,
    printed: Duration,
}

impl Progress {
    /// Creates a progress line on standard error.
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), frame: 0, printed: Duration::ZERO }
    }

    /// Shows that `what` has been running for `elapsed`, with its latest output.
    pub fn show(&mut self, what: &str, elapsed: Duration, detail: &str) {
        let secs = elapsed.as_secs();
        if self.terminal {
            self.frame += 1;
            let spinner = ['|', '/', '-', '\\'][self.frame % 4];
            let line: String = format!("  {spinner}   {what} ({secs} s) {detail}")
                .chars()
                .take(columns())
                .collect();
            eprint!("\r\x1b[2K{line}");
            std::io::stderr().flush().ok();
        } else if elapsed >= self.printed + STILL_RUNNING {
            self.printed = elapsed;
            eprintln!("  ..  {what} ({secs} s) {detail}");
        }
    }

    /// Removes the line, so that other output can be printed.
    pub fn clear(&mut self) {
        if self.terminal {
            eprint!("\r\x1b[2K");
            std::io::stderr().flush().ok();
        }
    }
}

/// Width of the terminal in columns, less one so that a full line does not wrap.
fn columns() -> usize {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize through the pointer, which is valid and lives until the
    // call returns.
    let read = unsafe { libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    if read == 0 && size.ws_col > 1 { usize::from(size.ws_col) - 1 } else { 79 }
}
