//! Cgroup that only waits for memory at its limit: the limit is raised a few times, and then the
//! incident is reported.
//!
//! The scenario has its own clock, so that eleven seconds of waiting take none; the share of
//! waiting is read from the kernel.

use std::time::Duration;

use spillway_agent::act::{Outcome, OutcomeKind, limit::ActiveLimits};

use super::stage::{Stage, is_alive};
use crate::wait_for;

const MIB: u64 = 1 << 20;
/// Version 2 reports the last ten seconds, so that waiting shows after a few of them.
const WAITS_WITHIN: Duration = Duration::from_secs(40);
/// Well above the half that is too much: between two reads it may fall a little.
const WAITS: f64 = 0.6;
/// Number of attempts to see it wait for too long.
const TRIES: u32 = 20;
/// Longer than a cgroup may wait.
const TOO_LONG_SECS: f64 = 11.0;

/// Checks that the limit of a cgroup that only waits for memory is raised three times, and that it
/// is then reported and left alone.
///
/// # Panics
///
/// Panics if that does not hold.
pub fn thrashing(stage: &Stage) -> String {
    let before = stage.state();
    let leak = stage.workload(&["leak", "--rate=100MiB", "--limit=600MiB"]);
    stage.until_used(40 * MIB);
    let mut limits = stage.limits();
    let mut limit_bytes =
        stage.limit(&mut limits, leak.pid()).limit_bytes.expect("the cgroup is not limited");
    let (first_bytes, mut t) = (limit_bytes, 0.0);
    // Returns the outcome once it has waited too long. If it makes progress for a moment between
    // two reads, the wait starts again.
    let mut too_long = |limits: &mut ActiveLimits| -> Vec<Outcome> {
        for _ in 0..TRIES {
            let waits = wait_for(WAITS_WITHIN, || (stage.waiting() >= WAITS).then_some(()));
            assert!(
                waits.is_some(),
                "it waits for only {:.0} % of the time",
                stage.waiting() * 100.0
            );
            for secs in [1.0, TOO_LONG_SECS] {
                t += secs;
                let looked: Vec<_> = limits
                    .look(t)
                    .into_iter()
                    .filter(|one| one.event != OutcomeKind::GrowthStopped)
                    .collect();
                if !looked.is_empty() {
                    return looked;
                }
            }
        }
        Vec::new()
    };
    for _ in 0..3 {
        let looked = too_long(&mut limits);
        let [Outcome { event: OutcomeKind::Relaxed, limit_bytes: Some(wider_bytes), .. }] =
            looked[..]
        else {
            panic!("{looked:?}")
        };
        assert_eq!(stage.number(stage.limit_file()), wider_bytes);
        assert!(wider_bytes > limit_bytes);
        limit_bytes = wider_bytes;
    }
    let looked = too_long(&mut limits);
    assert!(
        matches!(&looked[..], [one] if one.event == OutcomeKind::Thrashing && one.event.is_setback()),
        "{looked:?}"
    );
    let looked = too_long(&mut limits);
    assert!(looked.is_empty(), "reported more than once: {looked:?}");
    assert_eq!(stage.number(stage.limit_file()), limit_bytes);
    assert!(is_alive(leak.pid()));
    assert_eq!(stage.killed(), 0);
    let undone = limits.undo_all(999.0);
    assert!(matches!(&undone[..], [one] if one.event == OutcomeKind::Undone), "{undone:?}");
    assert_eq!(stage.state(), before);
    leak.stop();
    format!("from {} to {} MiB in three steps, then reported", first_bytes / MIB, limit_bytes / MIB)
}
