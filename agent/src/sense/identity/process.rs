//! Command line, user, start and executable of a process, from `/proc`.

use std::{
    fs,
    time::{Duration, UNIX_EPOCH},
};

use super::{
    ClaimedWorkload, Identity, command_line,
    host_files::{read_up_to, root_of},
    packages,
};
use crate::sense::{ProgramList, printable::printable_path, proc_files};

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
///
/// Returns the time at which it started, in seconds since 1970, and `None` without a process.
pub(super) fn add_process(
    identity: &mut Identity,
    subject: &ClaimedWorkload,
    times: HostTimes,
    programs: Option<&ProgramList>,
) -> Option<f64> {
    let pid = subject.pid?;
    let stat = proc_files::stat_of(pid)?;
    if subject.start_ticks.is_some_and(|ticks| ticks != stat.start_ticks) {
        return None;
    }
    let path = |file: &str| format!("/proc/{pid}/{file}");
    let cmdline = read_up_to(path("cmdline").as_ref(), CMDLINE_BYTES_MAX);
    identity.command = cmdline.and_then(|bytes| command_line::shown(&bytes));
    identity.user =
        fs::read(path("status")).ok().and_then(|text| effective_uid(&text)).map(|uid| {
            let name = root_of(pid).and_then(|root| packages::user_name(root, uid));
            name.unwrap_or_else(|| format!("uid {uid}"))
        });
    identity.executable = executable(pid, programs);
    let started_secs = stat.start_ticks as f64 / procfs::ticks_per_second() as f64;
    let age_secs = (times.boot_secs - started_secs).max(0.0);
    identity.age_secs = Some(crate::units::rounded(age_secs, 0));
    let started_secs = (times.unix_ms as f64 / 1e3 - age_secs).round();
    identity.started = timestamp(started_secs);
    // It may have ended meanwhile, and then this was somebody else's.
    if proc_files::stat_of(pid).is_none_or(|now| now.start_ticks != stat.start_ticks) {
        *identity = Identity::of_cgroup(&subject.cgroup);
        return None;
    }
    Some(started_secs)
}

/// Formats a time in seconds since 1970.
fn timestamp(unix_secs: f64) -> Option<String> {
    let since = Duration::try_from_secs_f64(unix_secs).ok()?;
    let at = UNIX_EPOCH.checked_add(since)?;
    Some(humantime::format_rfc3339_seconds(at).to_string())
}

/// Returns the path of a process's executable. The link in `/proc` needs CAP_SYS_PTRACE, which the
/// agent does not have where BPF tells the same.
fn executable(pid: u32, programs: Option<&ProgramList>) -> Option<String> {
    let link = fs::read_link(format!("/proc/{pid}/exe")).ok();
    let target = link.or_else(|| programs?.programs(&[pid]).ok()?.remove(&pid))?;
    Some(printable_path(&target).to_string())
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
        add_process(&mut identity, &subject, TIMES, None);
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
        assert_eq!(timestamp(1_799_999_940.0).as_deref(), Some("2027-01-15T07:59:00Z"));
        assert_eq!(timestamp(-59.0), None);
        assert_eq!(effective_uid(b"Name:\tx\nUid:\t0\t33\t33\t33\n"), Some(33));
        assert_eq!(effective_uid(b"Uid:\t0\n"), None);
    }
}
