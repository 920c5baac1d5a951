//! What a failed attempt means: *unsupported*, *refused* or *broken*, and in words.
//!
//! The kernel says little: an error number, and for programs the verifier's log. The long log goes
//! to the debug log.

use std::error::Error;

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use nix::{
    errno::Errno,
    sys::{
        resource::{Resource, getrlimit},
        utsname::uname,
    },
    unistd::geteuid,
};

use super::fallbacks::{Cause, Unavailable};

/// A limit on locked memory below this keeps kernels before 5.11 from creating our maps, which they
/// count against it.
const MEMLOCK_MIN: u64 = 64 << 20;

/// What the kernel said to an attempt at `what`.
pub(super) fn of(what: &str, error: &(dyn Error + 'static)) -> Unavailable {
    if let Some(ProgramError::LoadError { io_error, verifier_log }) = error.downcast_ref() {
        let log = verifier_log.to_string();
        tracing::debug!(what, %log, "the kernel did not take a program");
        return of_program(what, Errno::from_raw(io_error.raw_os_error().unwrap_or(0)), &log);
    }
    // Libraries repeat a cause in their own words; the innermost says it best.
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

/// As [`of`], of a system call that was made here.
pub(super) fn of_io(what: &str, error: &std::io::Error) -> Unavailable {
    of_call(what, Errno::from_raw(error.raw_os_error().unwrap_or(0)), false)
}

/// The error, its cause, that one's cause, and so on.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn missing_type(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.downcast_ref::<aya::BtfError>().is_some())
}

/// A system call's failure.
fn of_call(what: &str, errno: Errno, memlock_is_low: bool) -> Unavailable {
    match errno {
        Errno::EPERM | Errno::EACCES if !geteuid().is_root() => Unavailable::new(
            Cause::Refused,
            format!(
                "kernel refused {what} ({errno:?}), which need root, or CAP_BPF and CAP_PERFMON"
            ),
        ),
        Errno::EPERM | Errno::EACCES if memlock_is_low => Unavailable::new(
            Cause::Refused,
            format!(
                "kernel refused {what} ({errno:?}) under a low RLIMIT_MEMLOCK; set LimitMEMLOCK=infinity"
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

/// A program that was not taken. Without a log the verifier never saw it.
fn of_program(what: &str, errno: Errno, log: &str) -> Unavailable {
    if log.trim().is_empty() {
        return of_call(what, errno, false);
    }
    let unknown_helper =
        ["unknown func", "invalid func", "cannot use helper"].iter().any(|said| log.contains(said));
    if unknown_helper && log.contains("bpf_probe_read") {
        // Every kernel with BTF has it; lockdown in its confidentiality mode hides it, and the
        // older form that the loader then tries as well.
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

/// The line in which the verifier says what is wrong: the last one before its statistics.
fn complaint(log: &str, errno: Errno) -> String {
    let statistics = |line: &str| {
        ["processed ", "verification time ", "stack depth "].iter().any(|it| line.starts_with(it))
    };
    let said = log.lines().map(str::trim).rfind(|line| !line.is_empty() && !statistics(line));
    said.map_or_else(|| format!("{errno:?}"), str::to_owned)
}

/// Whether the limit on locked memory stands in the way of our maps.
fn memlock_is_low() -> bool {
    let counts = uname().is_ok_and(|name| counts_maps_as_locked(&name.release().to_string_lossy()));
    counts && getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft < MEMLOCK_MIN)
}

/// Kernels until 5.10 do; later ones charge the cgroup.
fn counts_maps_as_locked(release: &str) -> bool {
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map_while(|number| number.parse().ok());
    (numbers.next(), numbers.next()) < (Some(5u32), Some(11u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_a_lack_and_a_bug_are_told_apart() {
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
        for (release, counts) in [
            ("5.10.0-46-cloud-amd64", true),
            ("4.19.0", true),
            ("5.11.0", false),
            ("6.1.0-56", false),
        ] {
            assert_eq!(counts_maps_as_locked(release), counts, "{release}");
        }
    }

    #[test]
    fn a_program_that_the_verifier_never_saw_is_judged_by_the_call() {
        assert_eq!(of_program("fexit", Errno::EPERM, "").why, Cause::Refused);
        assert_eq!(of_program("fexit", Errno::EINVAL, " ").why, Cause::Unsupported);
    }

    #[test]
    fn a_rejected_program_is_broken_and_names_the_complaint() {
        let log = "0: (61) r2 = *(u32 *)(r1 +2)\nmisaligned context access off=2 size=4\nverification time 15 usec\nstack depth 0\n\
            processed 1 insns (limit 1000000)\n";
        let told = of_program("iter/task", Errno::EACCES, log);
        assert_eq!(told.why, Cause::Broken);
        assert!(told.reason.ends_with("misaligned context access off=2 size=4"), "{}", told.reason);
    }

    #[test]
    fn a_hidden_helper_is_lockdown_and_an_unknown_one_is_an_old_kernel() {
        let lockdown =
            "12: (85) call bpf_probe_read_kernel#113\nunknown func bpf_probe_read_kernel#113\n";
        assert_eq!(of_program("raw_tp", Errno::EINVAL, lockdown).why, Cause::Refused);
        let older = "12: (85) call bpf_probe_read#4\nunknown func bpf_probe_read#4\n";
        assert_eq!(of_program("raw_tp", Errno::EINVAL, older).why, Cause::Refused);
        let old = "3: (85) call unknown#195\ninvalid func unknown#195\n";
        assert_eq!(of_program("iter/bpf_map", Errno::EINVAL, old).why, Cause::Unsupported);
    }
}
