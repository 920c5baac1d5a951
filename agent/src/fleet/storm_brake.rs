//! Storm brake: while much of a group is unwell, or load surges everywhere, no node leaves.
//!
//! Pure. A drain helps if one node is worse than the others. If many are unwell at once, the cause
//! is elsewhere, and each drain moves load to nodes that are as bad. The brake stays on for a
//! cool-down after its reason is gone. Cold start: off.

use super::{
    grant::GrantRefusal,
    report::NodeState,
    snapshot::{Member, Snapshot},
};

/// Share of the other nodes that may be unwell.
const UNWELL_SHARE_MAX: f64 = 0.2;

/// Share of the nodes that may see their load surge. One or two of three surge by chance when
/// another is drained.
const SURGING_SHARE_MAX: f64 = 0.5;

/// Time for which the brake stays on, in seconds. A guess: nodes that come back take minutes to
/// warm up.
const COOL_DOWN_SECS: f64 = 300.0;

/// Brake of one node's drains.
#[derive(Debug, Clone, Default)]
pub struct StormBrake {
    /// Time of the last reason, and the reason.
    last: Option<(f64, GrantRefusal)>,
}

impl StormBrake {
    /// Takes a snapshot at `now`, in seconds, and returns why this node must not leave.
    pub fn note(&mut self, now: f64, snapshot: &Snapshot, own: &str) -> Option<GrantRefusal> {
        if let Some(reason) = storm(snapshot, own) {
            self.last = Some((now, reason));
        }
        self.last.take_if(|(at, _)| now - *at >= COOL_DOWN_SECS);
        self.last.as_ref().map(|(_, reason)| reason.clone())
    }
}

/// Returns the reason for which no node leaves now, from the nodes other than `own`.
pub(super) fn storm(snapshot: &Snapshot, own: &str) -> Option<GrantRefusal> {
    let others = || snapshot.members.iter().filter(|member| member.node != own);
    let of = others().count();
    let unwell = others().filter(|member| is_unwell(member)).count();
    if unwell as f64 > UNWELL_SHARE_MAX * of as f64 {
        return Some(GrantRefusal::Unwell { unwell, of });
    }
    let live = || snapshot.members.iter().filter_map(Member::live_report);
    let (surging, of) = (live().filter(|report| report.is_surging).count(), live().count());
    let is_everywhere = surging >= 2 && surging as f64 > SURGING_SHARE_MAX * of as f64;
    is_everywhere.then_some(GrantRefusal::Surge { surging, of })
}

/// Returns whether a node fails. One that was taken out does not.
fn is_unwell(member: &Member) -> bool {
    match &member.report {
        Ok(report) if matches!(report.state, NodeState::Out | NodeState::OutByOperator) => false,
        Ok(report) => !member.is_alive || report.state == NodeState::Unwell,
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{grant::tests::group, report::ForecastEnd},
        *,
    };

    #[test]
    fn many_unwell_nodes_stop_all_drains_for_a_while() {
        let mut group = group(10);
        let mut brake = StormBrake::default();
        assert_eq!(brake.note(0.0, &group, "n0"), None);
        for node in &mut group.members[1..3] {
            node.report.as_mut().unwrap().state = NodeState::Unwell;
        }
        assert_eq!(
            brake.note(1.0, &group, "n0"),
            Some(GrantRefusal::Unwell { unwell: 2, of: 9 }),
            "two of nine others"
        );
        assert_eq!(StormBrake::default().note(1.0, &group, "n1"), None, "one of nine others");
        for node in &mut group.members {
            node.report.as_mut().unwrap().state = NodeState::Serving;
        }
        assert!(brake.note(300.0, &group, "n0").is_some());
        assert_eq!(brake.note(301.0, &group, "n0"), None);
    }

    #[test]
    fn nodes_that_all_leak_and_serve_are_no_storm() {
        let mut group = group(10);
        for (nth, node) in group.members.iter_mut().enumerate() {
            let report = node.report.as_mut().unwrap();
            let cause = "collector".to_owned();
            let end = ForecastEnd { secs: 7e3, soonest_secs: 6e3, latest_secs: 8e3, cause };
            (report.end, report.waits) = (Some(end), nth < 5);
        }
        group.members[9].has_slot = true;
        assert_eq!(StormBrake::default().note(0.0, &group, "n0"), None);
    }

    #[test]
    fn silent_nodes_are_unwell_and_drained_ones_are_not() {
        let mut group = group(5);
        group.members[1].report.as_mut().unwrap().state = NodeState::Out;
        group.members[2].report.as_mut().unwrap().state = NodeState::OutByOperator;
        assert_eq!(StormBrake::default().note(0.0, &group, "n0"), None);
        group.members[3].is_alive = false;
        let refusal = StormBrake::default().note(0.0, &group, "n0");
        assert_eq!(refusal, Some(GrantRefusal::Unwell { unwell: 1, of: 4 }));
        group.members[3].is_alive = true;
        group.members[3].report = Err("garbage".to_owned());
        assert!(StormBrake::default().note(0.0, &group, "n0").is_some());
    }

    #[test]
    fn load_that_surges_everywhere_stops_all_drains() {
        let mut group = group(4);
        for node in &mut group.members[..2] {
            node.report.as_mut().unwrap().is_surging = true;
        }
        assert_eq!(StormBrake::default().note(0.0, &group, "n0"), None, "half of them");
        group.members[2].report.as_mut().unwrap().is_surging = true;
        let refusal = StormBrake::default().note(0.0, &group, "n0");
        assert_eq!(refusal, Some(GrantRefusal::Surge { surging: 3, of: 4 }));
    }
}
