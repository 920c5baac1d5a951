//! Outlook for a whole group, which one of its nodes reports: whether each node that has to leave
//! gets its turn in time, and whether there is a storm.
//!
//! Pure. The first live node by name reports, so that the group pages once. If that one is cut off
//! from the others, they see it as silent, and the next one reports as well.

use std::sync::Arc;

use super::{
    grant::GrantRefusal,
    limits::GroupLimits,
    snapshot::{Member, Snapshot},
    storm_brake::storm,
    turns::{self, Outlook},
};
use crate::sense::FleetFact;

/// Number of nodes from which a problem is one of the group: of one node it pages anyway.
const NODES_MIN: usize = 2;

/// Outlook for a group, if the node `own` is the one that reports it. A turn takes `turn_secs`.
pub fn group_outlook(
    snapshot: &Snapshot,
    own: &str,
    group: &str,
    now_ms: u64,
    limits: &GroupLimits,
    turn_secs: f64,
) -> Option<FleetFact> {
    let live = snapshot.members.iter().filter(|member| member.live_report().is_some());
    if live.map(|member| &*member.node).min() != Some(own) {
        return None;
    }
    let ends: Vec<f64> =
        snapshot.members.iter().filter_map(|member| end_secs(member, now_ms, limits)).collect();
    let slots = limits.slots.min(limits.out_max(snapshot.members.len()));
    let Outlook { nodes, late, slots_needed } = turns::outlook(&ends, slots, turn_secs);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let late = if nodes >= NODES_MIN { late } else { 0 };
    Some(FleetFact {
        group: Arc::from(group),
        nodes: count(snapshot.members.len()),
        need_turn: count(nodes),
        late: count(late),
        first_end_secs: ends.into_iter().min_by(f64::total_cmp),
        slots_needed: slots_needed.map(count),
        storm: storm_text(snapshot).map(Arc::from),
    })
}

/// Time until the forecast end of a node in rotation. The forecast counts, not the soonest end that
/// its interval allows: nobody is woken up for what is merely possible.
fn end_secs(member: &Member, now_ms: u64, limits: &GroupLimits) -> Option<f64> {
    let report = member.live_report().filter(|_| member.is_in_rotation())?;
    let age_secs = now_ms.saturating_sub(report.at_ms) as f64 / 1e3;
    let age_secs = age_secs.min(limits.silent_after_secs);
    report.end.as_ref().map(|end| (end.secs - age_secs).max(0.0))
}

fn storm_text(snapshot: &Snapshot) -> Option<String> {
    // No node is left out: all of them are counted.
    match storm(snapshot, "")? {
        GrantRefusal::Unwell { unwell, of } if unwell >= NODES_MIN => {
            Some(format!("{unwell} of {of} nodes are unwell or silent"))
        }
        GrantRefusal::Surge { surging, of } => {
            Some(format!("load surges on {surging} of {of} nodes"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            grant::tests::{NOW_MS, group},
            report::{ForecastEnd, NodeState},
        },
        *,
    };
    use crate::config::Reach;

    const LIMITS: GroupLimits = GroupLimits {
        slots: 1,
        out_share_max: 0.1,
        margin: 1.2,
        reach: Reach::Group,
        silent_after_secs: 45.0,
    };

    fn outlook(snapshot: &Snapshot, own: &str) -> Option<FleetFact> {
        group_outlook(snapshot, own, "web", NOW_MS, &LIMITS, 600.0)
    }

    fn ends_in(snapshot: &mut Snapshot, nodes: usize, secs: f64) {
        for member in &mut snapshot.members[..nodes] {
            let cause = "api in api.service".to_owned();
            member.report.as_mut().unwrap().end =
                Some(ForecastEnd { secs, soonest_secs: 1.0, latest_secs: 2.0 * secs, cause });
        }
    }

    #[test]
    fn first_live_node_reports_for_all() {
        let mut group = group(20);
        assert!(outlook(&group, "n0").is_some() && outlook(&group, "n1").is_none());
        group.members[0].is_alive = false;
        assert!(outlook(&group, "n0").is_none() && outlook(&group, "n1").is_some());
    }

    #[test]
    fn nodes_that_come_too_late_are_counted_with_what_would_help() {
        let mut group = group(20);
        ends_in(&mut group, 6, 3_600.0);
        let in_time = outlook(&group, "n0").unwrap();
        assert_eq!((in_time.need_turn, in_time.late), (6, 0));
        ends_in(&mut group, 9, 3_600.0);
        let late = outlook(&group, "n0").unwrap();
        assert_eq!((late.need_turn, late.late, late.slots_needed), (9, 3, Some(2)));
        assert_eq!((late.nodes, late.first_end_secs), (20, Some(3_600.0)));
        ends_in(&mut group, 9, 500.0);
        let lost = outlook(&group, "n0").unwrap();
        assert_eq!((lost.late, lost.slots_needed), (9, None));
    }

    #[test]
    fn problem_of_one_node_is_none_of_the_group() {
        let mut group = group(3);
        ends_in(&mut group, 1, 60.0);
        group.members[2].report.as_mut().unwrap().state = NodeState::Unwell;
        let outlook = outlook(&group, "n0").unwrap();
        assert_eq!((outlook.need_turn, outlook.late, outlook.storm), (1, 0, None));
    }

    #[test]
    fn storm_is_said_in_words() {
        let mut group = group(8);
        for member in &mut group.members[1..3] {
            member.report.as_mut().unwrap().state = NodeState::Unwell;
        }
        let storm = |group: &Snapshot| outlook(group, "n0").unwrap().storm;
        assert_eq!(storm(&group).as_deref(), Some("2 of 8 nodes are unwell or silent"));
        for member in &mut group.members {
            let report = member.report.as_mut().unwrap();
            (report.state, report.is_surging) = (NodeState::Serving, true);
        }
        assert_eq!(storm(&group).as_deref(), Some("load surges on 8 of 8 nodes"));
    }
}
