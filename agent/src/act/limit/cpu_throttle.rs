//! CPU throttling of a spinning cgroup, an option: a lower weight, a quota, or both.
//!
//! Only if the cpu controller is enabled for the cgroup already: enabling it would change how all
//! of its siblings share the CPUs. A lower value stays.

use std::{fmt::Write as _, io};

use super::{
    LimitError,
    cgroup::{CPU_MAX, CPU_WEIGHT, Cgroup, Version},
    failed,
    reclaim_spin::SpinDetector,
    verified_write::{record_intent, write_and_verify},
};
use crate::{
    act::journal::{Journal, JournalEntry},
    config::LimitConfig,
};

/// Weight of a cgroup that has none set.
const DEFAULT_WEIGHT: u64 = 100;

/// Lowest quota that the kernel accepts, in microseconds.
const MIN_QUOTA_USEC: u64 = 1_000;

/// A setting of the CPU, and its value.
#[derive(Debug, Clone, Copy)]
enum CpuSetting {
    Weight(u32),
    /// In percent of one CPU.
    Quota(u32),
}

fn wanted(config: &LimitConfig) -> Vec<CpuSetting> {
    let weight = config.cpu_weight.map(CpuSetting::Weight);
    weight.into_iter().chain(config.cpu_max_percent.map(CpuSetting::Quota)).collect()
}

/// Returns the detector to run; `None` if throttling is off.
///
/// # Errors
///
/// Returns an error if the CPU of this cgroup cannot be throttled.
pub fn watch(config: &LimitConfig, target: &Cgroup) -> Result<Option<SpinDetector>, String> {
    let wanted = wanted(config);
    if wanted.is_empty() {
        return Ok(None);
    }
    if target.version() == Version::V1 {
        return Err("it needs cgroup v2".to_owned());
    }
    match wanted.into_iter().map(CpuSetting::file).find(|file| !target.has(file)) {
        Some(missing) => Err(format!("{missing} is missing, so the cpu controller is not enabled")),
        None => Ok(Some(SpinDetector::new(config.cpu_after.as_secs_f64()))),
    }
}

/// Throttles the CPU and returns the changes in words; `None` if all values are lower already.
///
/// # Errors
///
/// Returns an error if not all are set: the entry lists possible changes.
pub fn throttle(
    config: &LimitConfig,
    journal: &Journal,
    target: &Cgroup,
    entry: &mut JournalEntry,
) -> Result<Option<String>, LimitError> {
    let (mut due, mut changes) = (Vec::new(), String::new());
    for wanted in wanted(config) {
        let file = target.name(wanted.file());
        let read = || Ok((target.read(file)?, target.read_file(wanted.file())?));
        let (found, effective) = read().map_err(failed(format!("cannot read {file}")))?;
        // The value in the cgroup may be lower than systemd's.
        if wanted.is_lower(&found) || wanted.is_lower(&effective) {
            continue;
        }
        let value = match target.unit() {
            Some(_) => wanted.property(),
            None => wanted.content(&found).map_err(failed(format!("{file} is {found:?}")))?,
        };
        record_intent(target, entry, file, &found, &value)?;
        let _ = write!(changes, "; {file} set from {found} to {value}");
        due.push((file, value));
    }
    if due.is_empty() {
        return Ok(None);
    }
    journal.write(entry).map_err(failed("cannot write the journal"))?;
    for (file, value) in due {
        write_and_verify(target, file, value)?;
    }
    Ok(Some(changes))
}

impl CpuSetting {
    fn file(self) -> &'static str {
        match self {
            Self::Weight(_) => CPU_WEIGHT,
            Self::Quota(_) => CPU_MAX,
        }
    }

    /// Value as a property of a unit.
    fn property(self) -> String {
        match self {
            Self::Weight(weight) => weight.to_string(),
            Self::Quota(percent) => (u64::from(percent) * 10_000).to_string(),
        }
    }

    /// Content for a cgroup's file in which `found` is now.
    fn content(self, found: &str) -> io::Result<String> {
        match self {
            Self::Weight(weight) => Ok(weight.to_string()),
            Self::Quota(percent) => {
                // The period is kept.
                let (_, period) =
                    found.split_once(' ').ok_or_else(|| io::Error::other("it has no period"))?;
                let usec =
                    period.parse::<u64>().map_err(io::Error::other)?.saturating_mul(percent.into())
                        / 100;
                Ok(format!("{} {period}", usec.max(MIN_QUOTA_USEC)))
            }
        }
    }

    /// Returns whether a present value, of a file or a property, is as low.
    fn is_lower(self, found: &str) -> bool {
        match self {
            Self::Weight(weight) => {
                // systemd returns the largest number for a weight that is not set.
                let found = found.parse().ok().filter(|weight| *weight < u64::MAX);
                found.unwrap_or(DEFAULT_WEIGHT) <= u64::from(weight)
            }
            Self::Quota(percent) => {
                usec_per_sec(found).is_some_and(|usec| usec <= u64::from(percent) * 10_000)
            }
        }
    }
}

/// Returns a quota in microseconds of CPU time per second; `None` without one.
fn usec_per_sec(found: &str) -> Option<u64> {
    let Some((quota, period)) = found.split_once(' ') else {
        return found.parse().ok().filter(|usec| *usec < u64::MAX);
    };
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    quota.saturating_mul(1_000_000).checked_div(period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_weight_stays_and_an_unset_one_is_a_hundred() {
        for (found, is_lower) in
            [("100", false), ("11", false), ("10", true), ("1", true), ("0", true)]
        {
            assert_eq!(CpuSetting::Weight(10).is_lower(found), is_lower, "{found}");
        }
        let unset = u64::MAX.to_string();
        assert!(
            !CpuSetting::Weight(99).is_lower(&unset) && CpuSetting::Weight(100).is_lower(&unset)
        );
    }

    #[test]
    fn lower_quota_stays_whatever_its_period() {
        let unset = u64::MAX.to_string();
        for (found, is_lower) in [
            ("max 100000", false),
            ("50000 100000", true),
            ("50001 100000", false),
            ("10000 20000", true),
            ("100000 100000", false),
            (unset.as_str(), false),
            ("500000", true),
            ("510000", false),
        ] {
            assert_eq!(CpuSetting::Quota(50).is_lower(found), is_lower, "{found}");
        }
    }

    #[test]
    fn quota_keeps_the_period_and_is_accepted_by_the_kernel() {
        let content = |percent, found| CpuSetting::Quota(percent).content(found).unwrap();
        assert_eq!(content(50, "max 100000"), "50000 100000");
        assert_eq!(content(250, "900000 20000"), "50000 20000");
        assert_eq!(content(10, "max 1000"), "1000 1000");
        assert!(CpuSetting::Quota(50).content("").is_err());
        assert_eq!(
            (CpuSetting::Quota(50).property(), CpuSetting::Weight(10).property()),
            ("500000".into(), "10".into())
        );
    }
}
