//! Turns: the order in which nodes of a group leave, so that each leaves before its end.
//!
//! Pure. The node whose end may come soonest goes first. Turns are scheduled backwards from the
//! ends: the latest start of a node is so early that every node after it has its turn too. Nodes
//! that were drained again and again lose their turn to the others.

use serde::Serialize;

use super::{
    limits::GroupLimits,
    report::NodeReport,
    snapshot::{Member, Snapshot},
};

/// Number of drains within six hours after which a node flaps.
const FLAPS: u32 = 3;

/// Number for a node with a forecast end. A leak whose process is restarted comes back as often
/// as it takes to fill memory, and a node that may not leave for the restart dies instead. The
/// simulated fleet lost half of its hosts that way. More often than every half hour is no cure.
const FLAPS_WITH_END: u32 = 12;

/// Turn of one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn<'a> {
    /// Node.
    pub member: &'a Member,
    /// Seconds until its end may come; 0 if it has to leave without a forecast.
    pub end_secs: f64,
    /// Set if it was drained again and again.
    pub is_flapping: bool,
}

/// Outlook for a group whose nodes all need a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// Nodes that need a turn.
    pub nodes: usize,
    /// Nodes among them whose turn would come after their end.
    pub late: usize,
    /// Smallest number of slots with which none is late; `None` if even a slot for each does not
    /// help.
    pub slots_needed: Option<usize>,
}

/// Returns whether a node was drained so often that it loses its turn.
pub fn is_flapping(report: &NodeReport) -> bool {
    report.recent_drains >= if report.end.is_some() { FLAPS_WITH_END } else { FLAPS }
}

/// Turns of all nodes in rotation that wait for one or have a forecast end, first turn first.
/// `now_ms` is the time since 1970. A report is `age_max_secs` old at most, whatever its clock
/// says.
pub fn queue(snapshot: &Snapshot, now_ms: u64, age_max_secs: f64) -> Vec<Turn<'_>> {
    let in_rotation = snapshot.members.iter().filter(|member| member.is_in_rotation());
    let mut turns: Vec<_> =
        in_rotation.filter_map(|member| turn(member, now_ms, age_max_secs)).collect();
    turns.sort_by(|a, b| {
        let order = a.is_flapping.cmp(&b.is_flapping);
        let order = order.then(a.end_secs.total_cmp(&b.end_secs));
        order.then_with(|| a.member.node.cmp(&b.member.node))
    });
    turns
}

/// Number of waiting nodes whose turn is before that of `own`, and the seconds until its end may
/// come; `None` if it has no turn.
pub fn place(
    snapshot: &Snapshot,
    own: &str,
    now_ms: u64,
    age_max_secs: f64,
) -> Option<(usize, f64)> {
    let turns = queue(snapshot, now_ms, age_max_secs);
    let at = turns.iter().position(|turn| turn.member.node == own)?;
    let ahead = turns[..at].iter().filter(|turn| turn.member.waits()).count();
    Some((ahead, turns[at].end_secs))
}

fn turn(member: &Member, now_ms: u64, age_max_secs: f64) -> Option<Turn<'_>> {
    let report = member.live_report()?;
    if !report.waits && report.end.is_none() {
        return None;
    }
    let age_secs = (now_ms.saturating_sub(report.at_ms) as f64 / 1e3).min(age_max_secs);
    let end_secs = report.end.as_ref().map_or(0.0, |end| (end.soonest_secs - age_secs).max(0.0));
    Some(Turn { member, end_secs, is_flapping: is_flapping(report) })
}

/// Latest starts of the turns of all nodes with a forecast end, in seconds from now, first turn
/// first. As many turns run at a time as the limits allow. Flapping nodes have no turn.
pub fn schedule<'a>(
    snapshot: &'a Snapshot,
    now_ms: u64,
    limits: &GroupLimits,
    turn_secs: f64,
) -> Vec<(Turn<'a>, f64)> {
    let has_end = |turn: &Turn<'_>| {
        let report = turn.member.live_report();
        !turn.is_flapping && report.is_some_and(|report| report.end.is_some())
    };
    let mut turns = queue(snapshot, now_ms, limits.silent_after_secs);
    turns.retain(has_end);
    let ends: Vec<_> = turns.iter().map(|turn| turn.end_secs).collect();
    let together = limits.slots.min(limits.out_max(snapshot.members.len()));
    let starts = latest_starts(&ends, together, turn_secs);
    turns.into_iter().zip(starts).collect()
}

/// Seconds until the latest start of the turn of the node `own`; `None` if it has no forecast end
/// or no turn. It leaves a turn earlier, because forecasts err.
pub fn starts_in(
    snapshot: &Snapshot,
    own: &str,
    now_ms: u64,
    limits: &GroupLimits,
    turn_secs: f64,
) -> Option<f64> {
    let turns = schedule(snapshot, now_ms, limits, turn_secs);
    turns.into_iter().find(|(turn, _)| turn.member.node == own).map(|(_, secs)| secs)
}

/// Returns whether a node whose latest start is so far away should leave now: one turn before, as a
/// reserve.
pub fn is_due(starts_in_secs: f64, turn_secs: f64) -> bool {
    starts_in_secs <= turn_secs
}

/// Latest starts of turns with these ends, in the same order: the latest times at which all can
/// begin so that each is over at its end, with `slots` at a time. Negative if it is too late. Ends
/// need no order.
pub fn latest_starts(ends_secs: &[f64], slots: usize, turn_secs: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..ends_secs.len()).collect();
    // Of turns with one end the first in order starts first.
    order.sort_by(|a, b| ends_secs[*b].total_cmp(&ends_secs[*a]).then(b.cmp(a)));
    let mut starts = vec![0.0; ends_secs.len()];
    // Start of the turn that follows in each slot. Turns take their slots in rotation: the one that
    // was taken first has the latest free end.
    let mut follows = vec![f64::INFINITY; slots.max(1)];
    for (nth, turn) in order.into_iter().enumerate() {
        let slot = nth % follows.len();
        let start = ends_secs[turn].min(follows[slot]) - turn_secs;
        (starts[turn], follows[slot]) = (start, start);
    }
    starts
}

/// Outlook if turns begin now, the soonest end first.
pub fn outlook(ends_secs: &[f64], slots: usize, turn_secs: f64) -> Outlook {
    let mut ends = ends_secs.to_vec();
    ends.sort_by(f64::total_cmp);
    let late = |slots: usize| {
        let is_late = |(nth, end): (usize, &f64)| (nth / slots + 1) as f64 * turn_secs > *end;
        ends.iter().enumerate().filter(|turn| is_late(*turn)).count()
    };
    let slots = slots.max(1);
    let mut needed = slots;
    // The number of late turns falls with each slot.
    if late(slots) > 0 {
        let (mut few, mut enough) = (slots, ends.len());
        while few < enough {
            let middle = usize::midpoint(few, enough);
            if late(middle) == 0 { enough = middle } else { few = middle + 1 }
        }
        needed = enough;
    }
    let late_now = late(slots);
    let slots_needed = (late_now == 0 || late(needed.max(1)) == 0).then_some(needed);
    Outlook { nodes: ends.len(), late: late_now, slots_needed }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            grant::tests::{NOW_MS, group},
            report::ForecastEnd,
        },
        *,
    };
    use crate::config::Reach;

    #[test]
    fn nodes_with_one_end_start_one_turn_apart() {
        let starts = latest_starts(&[3_600.0; 4], 1, 600.0);
        assert_eq!(starts, [1_200.0, 1_800.0, 2_400.0, 3_000.0]);
        assert_eq!(latest_starts(&[3_600.0; 4], 2, 600.0), [2_400.0, 2_400.0, 3_000.0, 3_000.0]);
        assert_eq!(latest_starts(&[600.0, 9_000.0], 1, 600.0), [0.0, 8_400.0]);
        assert_eq!(latest_starts(&[], 1, 600.0), [0.0; 0]);
    }

    const LIMITS: GroupLimits = GroupLimits {
        slots: 2,
        out_share_max: 0.1,
        margin: 1.2,
        reach: Reach::Group,
        silent_after_secs: 45.0,
    };

    fn leaking(nodes: usize, ends_in: impl Fn(usize) -> Option<f64>) -> Snapshot {
        let mut group = group(nodes);
        for (nth, member) in group.members.iter_mut().enumerate() {
            let end = |secs| {
                let cause = "collector".to_owned();
                ForecastEnd { secs, soonest_secs: secs, latest_secs: secs, cause }
            };
            member.report.as_mut().unwrap().end = ends_in(nth).map(end);
        }
        group
    }

    #[test]
    fn nodes_with_one_end_leave_one_after_another_in_time() {
        let group = leaking(30, |nth| (nth < 8).then_some(3_600.0));
        let starts = |node: &str| starts_in(&group, node, NOW_MS, &LIMITS, 300.0);
        assert_eq!(starts("n0"), Some(2_400.0), "fourth from the end, two at a time");
        assert_eq!(starts("n7"), Some(3_300.0));
        assert_eq!(starts("n8"), None, "it has no forecast");
        assert!(is_due(300.0, 300.0) && !is_due(301.0, 300.0));
    }

    #[test]
    fn no_more_turns_at_a_time_than_may_be_out() {
        let group = leaking(10, |_| Some(3_600.0));
        let starts = schedule(&group, NOW_MS, &LIMITS, 300.0);
        assert_eq!(starts.len(), 10);
        assert_eq!((starts[0].1, starts[9].1), (600.0, 3_300.0), "one of ten, despite two slots");
    }

    #[test]
    fn flapping_nodes_take_no_turn_from_the_others() {
        let mut group = leaking(30, |nth| (nth < 2).then_some(900.0));
        let starts = |group: &Snapshot| starts_in(group, "n0", NOW_MS, &LIMITS, 300.0);
        group.members[0].report.as_mut().unwrap().recent_drains = FLAPS;
        assert_eq!(starts(&group), Some(600.0), "a leak that is restarted comes back");
        group.members[0].report.as_mut().unwrap().recent_drains = FLAPS_WITH_END;
        assert_eq!(starts(&group), None);
        assert_eq!(starts_in(&group, "n1", NOW_MS, &LIMITS, 300.0), Some(600.0));
    }

    #[test]
    fn outlook_counts_late_nodes_and_the_slots_that_help() {
        let on_time = Outlook { nodes: 4, late: 0, slots_needed: Some(1) };
        assert_eq!(outlook(&[2_400.0; 4], 1, 600.0), on_time);
        let one_late = Outlook { nodes: 5, late: 1, slots_needed: Some(2) };
        assert_eq!(outlook(&[2_400.0; 5], 1, 600.0), one_late);
        let too_late = Outlook { nodes: 3, late: 3, slots_needed: None };
        assert_eq!(outlook(&[599.0; 3], 1, 600.0), too_late);
        assert_eq!(outlook(&[], 1, 600.0), Outlook { nodes: 0, late: 0, slots_needed: Some(1) });
    }

    proptest! {
        #[test]
        fn turns_at_their_latest_starts_fit_their_slots_and_end_in_time(
            ends in prop::collection::vec(0.0..1e5_f64, 0..60),
            slots in 1..6_usize,
        ) {
            let starts = latest_starts(&ends, slots, 600.0);
            for (start, end) in starts.iter().zip(&ends) {
                prop_assert!(start + 600.0 <= *end + 1e-6);
            }
            // At no start more turns run than there are slots.
            for at in &starts {
                let runs = |start: &&f64| **start <= *at + 1e-6 && *at + 1e-6 < **start + 600.0 - 1e-6;
                prop_assert!(starts.iter().filter(runs).count() <= slots);
            }
        }

        #[test]
        fn all_latest_starts_lie_ahead_exactly_if_no_turn_is_late(
            ends in prop::collection::vec(0.0..2e4_f64, 1..40),
            slots in 1..5_usize,
        ) {
            let earliest = latest_starts(&ends, slots, 600.0).into_iter().fold(f64::MAX, f64::min);
            let outlook = outlook(&ends, slots, 600.0);
            prop_assert_eq!(earliest >= 0.0, outlook.late == 0, "{} {:?}", earliest, outlook);
            if let Some(needed) = outlook.slots_needed {
                prop_assert_eq!(super::outlook(&ends, needed, 600.0).late, 0);
                if needed > slots {
                    prop_assert!(super::outlook(&ends, needed - 1, 600.0).late > 0);
                }
            }
        }
    }
}
