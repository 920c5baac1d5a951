//! `xtask hold`: runs a command for as long as standard input stays open, then stops it.
//!
//! The demo holds the agent this way, as root through sudo where need be. A user may not signal a
//! process that sudo started, but may close a pipe; and a pipe closes by itself when the demo is
//! killed, so the agent never outlives it. Paths given with `--own` that do not exist at the start
//! are removed at the end: what the agent makes on a machine that never ran it. Paths that exist
//! already are left alone.

use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::child::Group;

/// What goes before the command's pid on standard error, for the demo to see that it is gone in the
/// end.
pub const PID_LINE: &str = "hold: pid ";
/// How long the command may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// Run a command for as long as standard input stays open.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove this path at the end if it does not exist at the start
    #[arg(long)]
    own: Vec<PathBuf>,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Runs the command and returns its exit code; 128 plus the signal where one killed it.
pub fn main(args: &Args) -> ExitCode {
    let own: Vec<&PathBuf> = args.own.iter().filter(|path| !exists(path)).collect();
    // A stopping signal to this process is answered by closing the pipe instead; the flag keeps it
    // from dying.
    if let Err(error) = crate::signals::install() {
        eprintln!("hold: {error:#}");
        return ExitCode::from(125);
    }
    let (program, arguments) = match args.command.split_first() {
        Some(split) => split,
        None => return ExitCode::from(2),
    };
    let mut group = match Group::spawn(Command::new(program).args(arguments).stdin(Stdio::null())) {
        Ok(group) => group,
        Err(error) => {
            eprintln!("hold: {error:#}");
            return ExitCode::from(127);
        }
    };
    eprintln!("{PID_LINE}{}", group.child().id());
    let (sender, closed) = channel();
    thread::spawn(move || {
        let mut ignored = [0; 64];
        while std::io::stdin().read(&mut ignored).is_ok_and(|read| read > 0) {}
        sender.send(()).ok();
    });
    let status = loop {
        match group.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) => {}
            Err(error) => eprintln!("hold: {error:#}"),
        }
        let over = !matches!(
            closed.recv_timeout(Duration::from_millis(50)),
            Err(RecvTimeoutError::Timeout)
        );
        if over || crate::signals::stopped() {
            break group.stop(GRACE);
        }
    };
    for path in own {
        remove(path);
    }
    let code = status
        .and_then(|status| status.code().or_else(|| status.signal().map(|signal| 128 + signal)));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(125))
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn remove(path: &Path) {
    if !exists(path) {
        return;
    }
    let removed =
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Ok(()) => eprintln!("hold: removed {}", path.display()),
        Err(error) => eprintln!("hold: could not remove {}: {error}", path.display()),
    }
}
