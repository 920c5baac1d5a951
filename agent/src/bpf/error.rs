//! Classification of errors from the kernel: *unsupported*, *refused* or *broken*, with a reason.
//!
//! The kernel returns little: an error number, and for programs the verifier's log, which goes to
//! the debug log.

use std::error::Error;

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use nix::{
    errno::Errno,
    sys::resource::{Resource, getrlimit},
    unistd::geteuid,
};

use super::fallbacks::{Cause, Unavailable};
use crate::os::host::kernel_version;

/// Limit on locked memory below which kernels before 5.11 cannot create our maps, which they count
/// against it.
const MEMLOCK_MIN: u64 = 64 << 20;

/// Classifies an error of aya from an attempt at `what`.
pub(super) fn of(what: &str, error: &(dyn Error + 'static)) -> Unavailable {
    if let Some(ProgramError::LoadError { io_error, verifier_log }) = error.downcast_ref() {
        let log = verifier_log.to_string();
        tracing::debug!(program = what, %log, "the kernel rejected a program");
        return of_program(what, Errno::from_raw(io_error.raw_os_error().unwrap_or(0)), &log);
    }
    // Libraries wrap the cause in their own words; the innermost error is the most precise.
    let errno =
        causes(error).find_map(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error());
    match errno.map(Errno::from_raw) {
        Some(errno) => {
            let maps = matches!(
                error.downcast_ref(),
                Some(EbpfError::MapError(MapError::CreateError { .. }))
            );
            of_call(what, errno, maps && memlock_is_low())
        }
        None => Unavailable::new(
            if missing_type(error) { Cause::Unsupported } else { Cause::Broken },
            format!(
                "{what} failed ({})",
                causes(error).last().map(ToString::to_string).unwrap_or_default()
            ),
        ),
    }
}

/// Classifies an error of a system call that the agent made itself.
pub(super) fn of_io(what: &str, error: &std::io::Error) -> Unavailable {
    of_call(what, Errno::from_raw(error.raw_os_error().unwrap_or(0)), false)
}

/// Iterates over the error and the chain of its causes.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn missing_type(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.downcast_ref::<aya::BtfError>().is_some())
}

/// Classifies the error number of a system call.
fn of_call(what: &str, errno: Errno, memlock_is_low: bool) -> Unavailable {
    match errno {
        Errno::EPERM | Errno::EACCES if !geteuid().is_root() => Unavailable::new(
            Cause::Refused,
            format!(
                "kernel refused {what} ({errno:?}): root, or CAP_BPF and CAP_PERFMON, are needed"
            ),
        ),
        Errno::EPERM | Errno::EACCES if memlock_is_low => Unavailable::new(
            Cause::Refused,
            format!(
                "kernel refused {what} ({errno:?}) under a low RLIMIT_MEMLOCK; \
                 set LimitMEMLOCK=infinity"
            ),
        ),
        Errno::EPERM | Errno::EACCES => {
            Unavailable::new(Cause::Refused, format!("kernel refused {what} ({errno:?})"))
        }
        Errno::ENOSYS | Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::UnknownErrno => {
            Unavailable::new(Cause::Unsupported, format!("this kernel has no {what} ({errno:?})"))
        }
        _ => Unavailable::new(Cause::Broken, format!("{what} failed ({errno:?})")),
    }
}

/// Classifies the rejection of a program. Without a log the verifier never saw it.
fn of_program(what: &str, errno: Errno, log: &str) -> Unavailable {
    if log.trim().is_empty() {
        return of_call(what, errno, false);
    }
    let unknown_helper =
        ["unknown func", "invalid func", "cannot use helper"].iter().any(|said| log.contains(said));
    if unknown_helper && log.contains("bpf_probe_read") {
        // Every kernel with BTF has this helper; lockdown in confidentiality mode hides it, and
        // also the older one that the loader then tries.
        return Unavailable::new(
            Cause::Refused,
            format!("kernel lockdown refuses {what} to read kernel memory"),
        );
    }
    if unknown_helper {
        return Unavailable::new(
            Cause::Unsupported,
            format!("this kernel lacks a helper for {what}"),
        );
    }
    Unavailable::new(
        Cause::Broken,
        format!("the kernel's verifier rejected {what}: {}", complaint(log, errno)),
    )
}

/// Returns the verifier's complaint: the last line before its statistics.
fn complaint(log: &str, errno: Errno) -> String {
    let statistics = |line: &str| {
        ["processed ", "verification time ", "stack depth "].iter().any(|it| line.starts_with(it))
    };
    let said = log.lines().map(str::trim).rfind(|line| !line.is_empty() && !statistics(line));
    said.map_or_else(|| format!("{errno:?}"), str::to_owned)
}

/// Returns whether the limit on locked memory prevents our maps.
fn memlock_is_low() -> bool {
    kernel_version().is_some_and(counts_maps_as_locked)
        && getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft < MEMLOCK_MIN)
}

/// Kernels up to 5.10 count maps as locked memory; later ones charge the cgroup.
fn counts_maps_as_locked(version: (u32, u32)) -> bool {
    version < (5, 11)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_lack_and_bug_have_different_causes() {
        assert_eq!(of_call("kprobes", Errno::EPERM, false).why, Cause::Refused);
        assert_eq!(of_call("kprobes", Errno::ENOENT, false).why, Cause::Unsupported);
        assert_eq!(
            of_call("BPF maps", Errno::ENOMEM, false),
            Unavailable::new(Cause::Broken, "BPF maps failed (ENOMEM)")
        );
        assert!(of_call("BPF maps", Errno::EPERM, true).reason.contains("RLIMIT_MEMLOCK"));
    }

    #[test]
    fn only_old_kernels_count_maps_as_locked() {
        for (version, counts) in
            [((5, 10), true), ((4, 19), true), ((5, 11), false), ((6, 1), false)]
        {
            assert_eq!(counts_maps_as_locked(version), counts, "{version:?}");
        }
    }

    #[test]
    fn program_without_a_log_is_classified_by_its_errno() {
        assert_eq!(of_program("fexit", Errno::EPERM, "").why, Cause::Refused);
        assert_eq!(of_program("fexit", Errno::EINVAL, " ").why, Cause::Unsupported);
    }

    #[test]
    fn rejected_program_is_broken_and_quotes_the_complaint() {
        let log = "0: (61) r2 = *(u32 *)(r1 +2)\nmisaligned context access off=2 size=4\n\
            verification time 15 usec\nstack depth 0\n\
            processed 1 insns (limit 1000000)\n";
        let found = of_program("iter/task", Errno::EACCES, log);
        assert_eq!(found.why, Cause::Broken);
        assert!(
            found.reason.ends_with("misaligned context access off=2 size=4"),
            "{}",
            found.reason
        );
    }

    #[test]
    fn hidden_helper_is_lockdown_and_unknown_one_an_old_kernel() {
        let lockdown =
            "12: (85) call bpf_probe_read_kernel#113\nunknown func bpf_probe_read_kernel#113\n";
        assert_eq!(of_program("raw_tp", Errno::EINVAL, lockdown).why, Cause::Refused);
        let older = "12: (85) call bpf_probe_read#4\nunknown func bpf_probe_read#4\n";
        assert_eq!(of_program("raw_tp", Errno::EINVAL, older).why, Cause::Refused);
        let old = "3: (85) call unknown#195\ninvalid func unknown#195\n";
        assert_eq!(of_program("iter/bpf_map", Errno::EINVAL, old).why, Cause::Unsupported);
    }
}
