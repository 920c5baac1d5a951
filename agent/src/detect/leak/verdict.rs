//! Verdicts about leaks of memory, with their sentences.

use std::fmt::Write as _;

use super::{headroom::Headroom, process::Process};
use crate::{
    detect::growth::{Beginning, Growth},
    sense::ProcessFact,
    units::{Size, Span, rounded},
};

/// Factor by which the rate of a leak may change before its end, either way: of the leaks in the
/// corpus's tuning part 95 in 100 end between the moments that it gives. The scatter about the line
/// leaves open far less.
const RATE_MAY_CHANGE: f64 = 1.8;

/// Returns the soonest and the latest exhaustion, from slopes in ascending order; `None` if the
/// lowest is no growth.
pub(super) fn exhaustion_interval(growth: &Growth, slopes: [f64; 2]) -> Option<[f64; 2]> {
    let [slowest, fastest] = slopes.map(|slope| slope + growth.others_bytes_per_sec);
    let secs = [fastest * RATE_MAY_CHANGE, slowest / RATE_MAY_CHANGE]
        .map(|slope| growth.headroom_bytes / slope);
    (slowest > 0.0).then_some(secs.map(|secs| rounded(secs, 1)))
}

/// Evidence that a process leaks, in a sentence.
pub(super) fn evidence(
    process: &Process,
    t: f64,
    fact: &ProcessFact,
    growth: &Growth,
    headroom: &Headroom,
) -> String {
    let slope = growth.slope_bytes_per_sec;
    let mut why = format!("{} (pid {}) grew by ", process.workload.comm, fact.id.pid);
    // Writing to a String cannot fail.
    let _ = write!(
        why,
        "{} in {}{} ({}/s ± {}/s), without slowing down",
        Size(growth.grown_bytes),
        Span(growth.grown_secs),
        if growth.under_sawtooth { " at the low points of its sawtooth" } else { "" },
        Size(slope),
        Size(growth.slope_error_bytes_per_sec),
    );
    if growth.others_bytes_per_sec > slope / 10.0 {
        let _ = write!(
            why,
            ", and its workload's other processes by {}/s together",
            Size(growth.others_bytes_per_sec)
        );
    }
    let _ = match growth.beginning {
        Beginning::BrokeOut { steady_secs } => {
            write!(why, ", after {} without growth", Span(steady_secs))
        }
        Beginning::Unseen => write!(why, ", for as long as it has been watched"),
    };
    let _ = write!(
        why,
        "; if it goes on, the {headroom} run out in {}",
        Span(growth.exhaustion_secs())
    );
    let slopes =
        [slope - growth.slope_error_bytes_per_sec, slope + growth.slope_error_bytes_per_sec];
    if let Some([soonest, latest]) = exhaustion_interval(growth, slopes) {
        let _ = write!(why, " ({} to {})", Span(soonest), Span(latest));
    }
    if let Some((allocated, retained)) = process.allocated_and_retained(fact) {
        let _ = write!(
            why,
            "; page-fault samples show {} allocated in the last {}, {} of it still held",
            Size(allocated as f64),
            Span(t - process.origin_t),
            Size(retained as f64)
        );
    }
    why
}
