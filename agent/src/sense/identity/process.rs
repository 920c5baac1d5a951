//! Command line, user, start and executable of a process, from `/proc`.

use std::{fs, path::Path};

use super::{
    ClaimedWorkload, Identity, command_line,
    host_files::{read_up_to, root_of},
    packages,
};
use crate::sense::{printable::printable, proc_files};

/// Bytes of a command line that are read.
const CMDLINE_BYTES_MAX: u64 = 16_384;

/// Times of the host, which tell when a process started.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostTimes {
    /// Milliseconds since 1970.
    pub(super) unix_ms: u64,
    /// Seconds since the host booted.
    pub(super) boot_secs: f64,
}

/// Adds what `/proc` says of the process, unless another has its pid by now. Users of a container
/// are numbers, because the files that name them are its own.
pub(super) fn add_process(identity: &mut Identity, subject: &ClaimedWorkload, times: HostTimes) {
    let Some(pid) = subject.pid else { return };
    let Some(stat) = proc_files::stat_of(pid) else { return };
    if subject.start_ticks.is_some_and(|ticks| ticks != stat.start_ticks) {
        return;
    }
    let path = |file: &str| format!("/proc/{pid}/{file}");
    let cmdline = read_up_to(path("cmdline").as_ref(), CMDLINE_BYTES_MAX);
    identity.command = cmdline.and_then(|bytes| command_line::shown(&bytes));
    identity.user =
        fs::read(path("status")).ok().and_then(|text| effective_uid(&text)).map(|uid| {
            let name = root_of(pid).and_then(|root| packages::user_name(root, uid));
            name.unwrap_or_else(|| format!("uid {uid}"))
        });
    identity.executable = executable(path("exe").as_ref());
    let started_secs = stat.start_ticks as f64 / procfs::ticks_per_second() as f64;
    let age_secs = (times.boot_secs - started_secs).max(0.0);
    identity.age_secs = Some(crate::units::rounded(age_secs, 0));
    identity.started = started(times.unix_ms, age_secs);
    // It may have ended meanwhile, and then this was somebody else's.
    if proc_files::stat_of(pid).is_none_or(|now| now.start_ticks != stat.start_ticks) {
        *identity = Identity::of_cgroup(&subject.cgroup);
    }
}

/// Formats the time so long before now.
fn started(unix_ms: u64, age_secs: f64) -> Option<String> {
    let at_secs = (unix_ms as f64 / 1e3 - age_secs).round();
    let since = std::time::Duration::try_from_secs_f64(at_secs).ok()?;
    let at = std::time::UNIX_EPOCH.checked_add(since)?;
    Some(humantime::format_rfc3339_seconds(at).to_string())
}

fn executable(link: &Path) -> Option<String> {
    use std::os::unix::ffi::OsStrExt as _;
    let target = fs::read_link(link).ok()?;
    Some(printable(target.as_os_str().as_bytes()).to_string())
}

/// Returns the effective user in `/proc/PID/status`.
fn effective_uid(text: &[u8]) -> Option<u32> {
    let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:"))?;
    str::from_utf8(line).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{process, sync::Arc};

    use super::*;

    const TIMES: HostTimes = HostTimes { unix_ms: 1_800_000_000_000, boot_secs: 1e9 };

    fn of(pid: u32, start_ticks: Option<u64>) -> Identity {
        let subject = ClaimedWorkload { pid: Some(pid), start_ticks, cgroup: Arc::from("/") };
        let mut identity = Identity::default();
        add_process(&mut identity, &subject, TIMES);
        identity
    }

    #[test]
    fn own_process_is_described_and_a_successor_of_its_pid_is_not() {
        let own = of(process::id(), None);
        let exe = std::env::current_exe().unwrap();
        assert_eq!(own.executable.as_deref(), exe.to_str());
        assert!(own.command.is_some_and(|command| command.contains("spillway_agent")));
        let ticks = proc_files::stat_of(process::id()).unwrap().start_ticks;
        assert_eq!(own.age_secs, Some((1e9 - ticks as f64 / 100.0).round()));
        assert_eq!(of(process::id(), Some(ticks)).started, own.started);
        assert_eq!(of(process::id(), Some(ticks + 1)), Identity::default());
    }

    #[test]
    fn start_is_a_time_of_the_hosts_clock() {
        assert_eq!(started(1_800_000_000_000, 60.4).as_deref(), Some("2027-01-15T07:59:00Z"));
        assert_eq!(started(1_000, 60.0), None);
        assert_eq!(effective_uid(b"Name:\tx\nUid:\t0\t33\t33\t33\n"), Some(33));
        assert_eq!(effective_uid(b"Uid:\t0\n"), None);
    }
}
