use proptest::prelude::*;

use super::{
    super::{
        capacity::Unit,
        report::{ForecastEnd, GivenUpLoad, Load},
    },
    *,
};

pub(in super::super) const NOW_MS: u64 = 1_700_000_000_000;

const LIMITS: GroupLimits = GroupLimits {
    slots: 1,
    out_share_max: 0.1,
    margin: 1.2,
    reach: Reach::Zone,
    silent_after_secs: 45.0,
};

/// Group of nodes `n0`, `n1`, … that use 2 of 4 proven CPUs each.
pub(in super::super) fn group(nodes: usize) -> Snapshot {
    let member = |nth: usize| {
        let node = format!("n{nth}");
        let report = NodeReport {
            cpus: Load { now: 2.0, proven: 4.0 },
            ..NodeReport::new(&node, "web", nth as u64, NOW_MS)
        };
        Member { node, is_alive: true, has_slot: false, report: Ok(report) }
    };
    Snapshot { members: (0..nodes).map(member).collect(), grant_revision: 0 }
}

fn report(group: &mut Snapshot, nth: usize) -> &mut NodeReport {
    group.members[nth].report.as_mut().unwrap()
}

fn granted(group: &Snapshot) -> Result<(), GrantRefusal> {
    grant(group, "n0", 0, NOW_MS, &LIMITS)
}

fn refused(group: &Snapshot) -> String {
    granted(group).unwrap_err().to_string()
}

#[test]
fn node_leaves_if_others_carry_a_fifth_more_than_its_load() {
    let mut group = group(3);
    assert_eq!(granted(&group), Ok(()), "4 CPUs of headroom for 2");
    report(&mut group, 0).cpus.now = 3.4;
    let shortfall =
        Shortfall { unit: Unit::Cpus, needed: 3.4 * 1.2, headroom: 4.0, nodes: Some(1) };
    assert_eq!(granted(&group), Err(GrantRefusal::Capacity(shortfall)));
    assert_eq!(
        refused(&group),
        "the others cannot carry this node's load: 4.08 CPUs of proven headroom are needed, \
         and there are 4, so that 1 node is missing"
    );
}

#[test]
fn requests_have_to_fit_as_well_and_unknown_headroom_is_none() {
    let mut group = group(3);
    report(&mut group, 0).requests = Some(Load { now: 50.0, proven: 100.0 });
    let short = refused(&group);
    assert!(short.contains("60 requests/s of proven headroom are needed, and there are 0"));
    for nth in 1..3 {
        report(&mut group, nth).requests = Some(Load { now: 50.0, proven: 90.0 });
    }
    assert_eq!(granted(&group), Ok(()));
}

#[test]
fn load_on_its_way_from_an_earlier_leaver_is_taken_off() {
    let mut group = group(20);
    group.members[7].has_slot = false;
    let limits = GroupLimits { slots: 2, ..LIMITS };
    report(&mut group, 7).state = NodeState::Out;
    report(&mut group, 7).given_up = Some(GivenUpLoad { cpus: 34.0, requests: None });
    let refusal = grant(&group, "n0", 0, NOW_MS, &limits).unwrap_err();
    let text = "n7 is out, and until it is back the others cannot carry this node's load: ";
    assert!(refusal.to_string().starts_with(text) && refusal.is_wait(), "{refusal}");
    report(&mut group, 7).given_up = None;
    assert_eq!(grant(&group, "n0", 0, NOW_MS, &limits), Ok(()));
}

#[test]
fn nodes_that_are_silent_unreadable_or_drained_are_gone() {
    for change in [
        (|member| member.is_alive = false) as fn(&mut Member),
        |member| member.report = Err("garbage".to_owned()),
        |member| member.report.as_mut().unwrap().state = NodeState::OutByOperator,
    ] {
        let mut group = group(4);
        change(&mut group.members[1]);
        assert_eq!(granted(&group), Err(GrantRefusal::Share { out: 1, of: 4 }));
        change(&mut group.members[2]);
        assert!(matches!(granted(&group), Err(GrantRefusal::Capacity(_))));
        change(&mut group.members[3]);
        assert_eq!(refused(&group), "no other node of group web serves");
    }
}

#[test]
fn slots_and_the_share_that_may_be_out_are_kept() {
    let mut group = group(30);
    group.members[9].has_slot = true;
    assert_eq!(refused(&group), "n9 is out, and one may be");
    let limits = GroupLimits { slots: 9, ..LIMITS };
    for nth in 1..3 {
        report(&mut group, nth).state = NodeState::Out;
    }
    let refusal = grant(&group, "n0", 0, NOW_MS, &limits).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "n1 is out, and until it is back 3 of 30 nodes are out of rotation or silent, as many \
         as fleet.max_percent allows"
    );
    let limits = GroupLimits { out_share_max: 0.2, ..limits };
    assert_eq!(grant(&group, "n0", 0, NOW_MS, &limits), Ok(()));
}

#[test]
fn last_node_of_a_zone_with_others_stays() {
    let mut group = group(12);
    for nth in 0..12 {
        report(&mut group, nth).zone = ["a", "b"][usize::from(nth >= 3)].to_owned();
    }
    assert_eq!(granted(&group), Ok(()), "4 CPUs of headroom in its zone");
    group.members[1].is_alive = false;
    report(&mut group, 2).state = NodeState::Unwell;
    assert_eq!(refused(&group), "no other node of zone a serves");
    for nth in 1..3 {
        group.members[nth].is_alive = true;
        *report(&mut group, nth) = NodeReport {
            zone: "b".to_owned(),
            cpus: Load { now: 2.0, proven: 4.0 },
            ..NodeReport::new(&format!("n{nth}"), "web", nth as u64, NOW_MS)
        };
    }
    assert_eq!(granted(&group), Ok(()), "the other zone carries it");
}

#[test]
fn headroom_of_another_zone_counts_if_it_is_reached() {
    let mut group = group(8);
    for nth in 0..8 {
        report(&mut group, nth).zone = ["a", "b"][usize::from(nth >= 2)].to_owned();
    }
    report(&mut group, 1).cpus.proven = 2.5;
    assert!(matches!(granted(&group), Err(GrantRefusal::Capacity(_))));
    let limits = GroupLimits { reach: Reach::Group, ..LIMITS };
    assert_eq!(grant(&group, "n0", 0, NOW_MS, &limits), Ok(()));
}

fn ends_in(secs: f64) -> Option<ForecastEnd> {
    let cause = "api.service".to_owned();
    Some(ForecastEnd { secs, soonest_secs: secs, latest_secs: secs, cause })
}

#[test]
fn node_whose_end_is_nearer_goes_first_unless_it_cannot_leave() {
    let mut group = group(10);
    (report(&mut group, 0).end, report(&mut group, 0).waits) = (ends_in(3_600.0), true);
    (report(&mut group, 1).end, report(&mut group, 1).waits) = (ends_in(1_800.0), true);
    assert_eq!(refused(&group), "n1 goes first, because its end is nearer");
    assert_eq!(grant(&group, "n1", 1, NOW_MS, &LIMITS), Ok(()));
    let limits = GroupLimits { slots: 2, out_share_max: 0.2, ..LIMITS };
    assert_eq!(grant(&group, "n0", 0, NOW_MS, &limits), Ok(()), "each has a slot");
    report(&mut group, 1).cpus.now = 4.0;
    for nth in 2..10 {
        report(&mut group, nth).cpus.proven = 2.2;
    }
    report(&mut group, 0).cpus.now = 1.0;
    assert_eq!(granted(&group), Ok(()), "n1 may not leave: the others cannot carry it");
}

#[test]
fn nodes_whose_ends_stay_away_do_not_wait_for_each_other() {
    let mut group = group(10);
    for nth in 0..2 {
        (report(&mut group, nth).end, report(&mut group, nth).waits) = (ends_in(700.0), true);
    }
    // Each asks with a fresh report, and the other's is older.
    report(&mut group, 1).at_ms -= 10_000;
    assert_eq!(grant(&group, "n0", 0, NOW_MS, &LIMITS), Ok(()));
    (report(&mut group, 0).at_ms, report(&mut group, 1).at_ms) = (NOW_MS - 10_000, NOW_MS);
    assert_eq!(grant(&group, "n1", 1, NOW_MS, &LIMITS), Ok(()));
}

#[test]
fn node_that_has_a_slot_waits_for_no_other() {
    let mut group = group(10);
    (report(&mut group, 1).end, report(&mut group, 1).waits) = (ends_in(1_800.0), true);
    (report(&mut group, 0).end, report(&mut group, 0).waits) = (ends_in(3_600.0), true);
    assert_eq!(refused(&group), "n1 goes first, because its end is nearer");
    group.members[0].has_slot = true;
    assert_eq!(granted(&group), Ok(()));
}

#[test]
fn flapping_node_loses_its_turn() {
    let mut group = group(10);
    (report(&mut group, 0).end, report(&mut group, 0).waits) = (ends_in(3_600.0), true);
    (report(&mut group, 1).end, report(&mut group, 1).waits) = (ends_in(1_800.0), true);
    report(&mut group, 1).recent_drains = 3;
    assert_eq!(grant(&group, "n1", 1, NOW_MS, &LIMITS), Ok(()), "it would die instead");
    for (drains, end) in [(12, ends_in(1_800.0)), (3, None)] {
        (report(&mut group, 1).recent_drains, report(&mut group, 1).end) = (drains, end);
        assert_eq!(granted(&group), Ok(()));
        let refusal = grant(&group, "n1", 1, NOW_MS, &LIMITS);
        assert_eq!(refusal, Err(GrantRefusal::Flapping { drains }));
    }
}

#[test]
fn clocks_that_differ_and_taken_names_are_refused() {
    let mut group = group(5);
    for nth in 1..5 {
        report(&mut group, nth).at_ms = NOW_MS - 2 * 3_600_000;
    }
    assert_eq!(refused(&group), "this node's clock is 7200 s ahead of most others; set it by NTP");
    for nth in 1..3 {
        report(&mut group, nth).at_ms = NOW_MS;
    }
    report(&mut group, 3).at_ms = NOW_MS + 7_200_000;
    assert_eq!(granted(&group), Ok(()), "only two clocks are wrong, one each way");
    assert_eq!(grant(&group, "n0", 77, NOW_MS, &LIMITS), Err(GrantRefusal::SameName));
    assert!(matches!(grant(&group, "n9", 9, NOW_MS, &LIMITS), Err(GrantRefusal::Unlisted(_))));
    assert!(matches!(
        grant(&Snapshot::default(), "n0", 0, NOW_MS, &LIMITS),
        Err(GrantRefusal::Unlisted(_))
    ));
}

fn any_member() -> impl Strategy<Value = (f64, f64, u8, bool, u8, bool, f64, u8)> {
    let waits = any::<bool>();
    (0.0..4.0_f64, 0.0..6.0_f64, 0..6_u8, any::<bool>(), 0..3_u8, waits, 0.0..9e3_f64, 0..5_u8)
}

prop_compose! {
    fn any_group()(nodes in prop::collection::vec(any_member(), 1..24)) -> Snapshot {
        let mut group = group(nodes.len());
        for (nth, node) in nodes.into_iter().enumerate() {
            let (now, proven, state, is_alive, zone, waits, end, drains) = node;
            let own = report(&mut group, nth);
            own.cpus = Load { now, proven };
            own.zone = ["a", "b", ""][usize::from(zone)].to_owned();
            (own.waits, own.recent_drains) = (waits, u32::from(drains));
            own.end = ends_in(end).filter(|_| waits);
            own.state = match state {
                0 => NodeState::Out,
                1 => NodeState::Unwell,
                2 => NodeState::OutByOperator,
                _ => NodeState::Serving,
            };
            group.members[nth].is_alive = is_alive || state > 3;
            if state == 5 && drains == 4 {
                group.members[nth].report = Err("garbage".to_owned());
            }
        }
        group
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_snapshot_gets_more_nodes_out_than_the_rules_allow(
        group in any_group(),
        slots in 1..4_usize,
        out_share_max in 0.05..0.6_f64,
    ) {
        let limits = GroupLimits { slots, out_share_max, ..LIMITS };
        let mut group = group;
        // Everyone asks in turn, and whoever is granted leaves.
        for nth in 0..group.members.len() {
            let node = group.members[nth].node.clone();
            if grant(&group, &node, nth as u64, NOW_MS, &limits).is_err() {
                continue;
            }
            let own = group.members[nth].report.clone().unwrap();
            let others = || group.members.iter().filter(|other| other.node != node);
            let serving = others().filter(|other| other.is_serving());
            let headroom: f64 =
                serving.clone().map(|other| other.live_report().unwrap().cpus.headroom()).sum();
            prop_assert!(headroom >= 1.2 * own.cpus.now, "{} for {}", headroom, own.cpus.now);
            prop_assert!(serving.count() >= 1);
            let out = others().filter(|other| !other.is_in_rotation());
            let may_be_out = ((group.members.len() as f64 * out_share_max) as usize).max(1);
            prop_assert!(out.count() < may_be_out);
            group.members[nth].has_slot = true;
            let taken = group.members.iter().filter(|member| member.has_slot).count();
            prop_assert!(taken <= slots);
            group.members[nth].report.as_mut().unwrap().given_up =
                Some(GivenUpLoad { cpus: own.cpus.now, requests: None });
        }
    }

    #[test]
    fn some_node_that_may_leave_is_granted_if_any_waits(group in any_group()) {
        let limits = GroupLimits { slots: 1, out_share_max: 0.5, ..LIMITS };
        let refusals: Vec<_> = group.members.iter().enumerate()
            .filter(|(_, member)| member.waits())
            .map(|(nth, member)| grant(&group, &member.node, nth as u64, NOW_MS, &limits))
            .collect();
        let is_turn = |refusal: &Result<(), GrantRefusal>| {
            matches!(refusal, Err(GrantRefusal::Turn { .. }))
        };
        // Whoever only waits for another's turn waits for one that is granted.
        prop_assert!(
            !refusals.iter().any(is_turn) || refusals.iter().any(Result::is_ok),
            "{:?}", refusals
        );
    }

    #[test]
    fn fewer_others_never_make_room(
        group in any_group(),
        gone in 1..24_usize,
    ) {
        let limits =
            GroupLimits { slots: 24, out_share_max: 1.0, reach: Reach::Group, ..LIMITS };
        let before = grant(&group, "n0", 0, NOW_MS, &limits);
        let mut fewer = group.clone();
        if let Some(member) = fewer.members.get_mut(gone) {
            member.is_alive = false;
        }
        if matches!(before, Err(GrantRefusal::Capacity(_))) {
            prop_assert!(grant(&fewer, "n0", 0, NOW_MS, &limits).is_err());
        }
    }
}
