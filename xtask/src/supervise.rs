//! `xtask hold`: runs a command for as long as standard input stays open, then stops it.
//!
//! The demo runs the agent this way, as root and if necessary through sudo. A user may not signal a
//! process that sudo started, but may close a pipe. The pipe also closes when the demo is killed,
//! so the agent never outlives it. Paths given with `--own` that do not exist at the start are
//! removed at the end: the agent creates them on a machine where it has never run. Paths that
//! already exist are left alone.

use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::child::Group;

/// Prefix of the line on standard error with the command's pid, by which the demo checks that the
/// process has ended.
pub const PID_LINE: &str = "hold: pid ";
/// Time for the command to end after SIGTERM.
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

/// Runs the command and returns its exit code, or 128 plus the number of the signal that killed it.
pub fn main(args: &Args) -> ExitCode {
    let own: Vec<&PathBuf> = args.own.iter().filter(|path| !exists(path)).collect();
    // On a stop signal, the loop below stops the command; the flag keeps this process alive until
    // then.
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
