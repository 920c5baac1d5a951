//! Verdicts about leaks of memory, with their sentences.

use std::fmt::Write as _;

use super::{headroom::Headroom, process::Process};
use crate::{
    detect::{
        growth::{Beginning, Growth},
        leak_claim::CgroupMemory,
    },
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
    write_pace(&mut why, growth);
    if growth.others_bytes_per_sec > slope / 10.0 {
        let _ = write!(
            why,
            ", and its workload's other processes by {}/s together",
            Size(growth.others_bytes_per_sec)
        );
    }
    write_forecast(&mut why, growth, headroom);
    // A huge page is one fault, so samples may stand for less than there is; they say nothing then.
    // Who frees a page, and when, they never say.
    let touched_bytes = process.touched_bytes(fact).map(|bytes| bytes as f64);
    if let Some(bytes) = touched_bytes.filter(|bytes| *bytes >= growth.grown_bytes) {
        let secs = t - process.origin_t;
        let _ = write!(
            why,
            "; sampled page faults show {} of pages touched for the first time in the last {} \
             ({}/s)",
            Size(bytes),
            Span(secs),
            Size(bytes / secs)
        );
    }
    why
}

/// Evidence that a cgroup leaks memory while none of its processes grows, in a sentence.
pub(super) fn cgroup_evidence(
    cgroup: &str,
    part: CgroupMemory,
    growth: &Growth,
    headroom: &Headroom,
) -> String {
    let mut why = format!("{} grew by ", part.of(cgroup));
    write_pace(&mut why, growth);
    why.push_str(match part {
        CgroupMemory::Processes => ", while no process did",
        _ => ", while that of its processes did not",
    });
    write_forecast(&mut why, growth, headroom);
    // Writing to a String cannot fail.
    let _ = write!(why, "; it is {}", part.whereabouts());
    why
}

/// Appends how fast something grew.
fn write_pace(why: &mut String, growth: &Growth) {
    // Writing to a String cannot fail.
    let _ = write!(
        why,
        "{} in {}{} ({}/s ± {}/s), without slowing down",
        Size(growth.grown_bytes),
        Span(growth.grown_secs),
        if growth.under_sawtooth { " at the low points of its sawtooth" } else { "" },
        Size(growth.slope_bytes_per_sec),
        Size(growth.slope_error_bytes_per_sec),
    );
}

/// Appends how growth began, and when its limit is reached.
fn write_forecast(why: &mut String, growth: &Growth, headroom: &Headroom) {
    let slope = growth.slope_bytes_per_sec;
    // Writing to a String cannot fail.
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
}
