use std::sync::{Arc, Mutex, PoisonError};

use super::{super::snapshot::Member, *};
use crate::config::Reach;

const LIMITS: GroupLimits = GroupLimits {
    slots: 1,
    out_share_max: 0.5,
    margin: 1.2,
    reach: Reach::Zone,
    silent_after_secs: 45.0,
};

/// Group in memory, which all its members share.
#[derive(Clone, Default)]
struct SharedGroup(Arc<Mutex<GroupState>>);

#[derive(Default)]
struct GroupState {
    group: Snapshot,
    is_down: bool,
    /// Called between a grant and the slot, and between the slot and the look after it.
    before_acquire: Option<fn(&mut Snapshot)>,
    after_acquire: Option<fn(&mut Snapshot)>,
    published: usize,
    /// Nodes that read the group, in order.
    reads: Vec<String>,
    /// Nodes that page, each for its subject.
    pagers: Vec<(PageSubject, String)>,
}

/// Coordinator of one node in a [`SharedGroup`].
struct SharedCoordinator {
    group: SharedGroup,
    node: String,
    took_slot: bool,
}

impl SharedGroup {
    fn with<T>(&self, change: impl FnOnce(&mut GroupState) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn member(&self, node: &str) -> FleetMember {
        let names = NodeNames {
            node: node.to_owned(),
            group: "web".to_owned(),
            zone: String::new(),
            region: String::new(),
        };
        let coordinator =
            SharedCoordinator { group: self.clone(), node: node.to_owned(), took_slot: false };
        FleetMember::new(Box::new(coordinator), names, LIMITS, 7)
    }

    fn slots(&self) -> Vec<String> {
        self.with(|state| {
            let holders = state.group.members.iter().filter(|member| member.has_slot);
            holders.map(|member| member.node.clone()).collect()
        })
    }

    fn report(&self, node: &str) -> NodeReport {
        self.with(|state| state.group.member(node).unwrap().report.clone().unwrap())
    }
}

impl SharedCoordinator {
    fn call<T>(
        &self,
        change: impl FnOnce(&mut GroupState, &str) -> T,
    ) -> Result<T, CoordinatorError> {
        self.group.with(|state| match state.is_down {
            true => Err(CoordinatorError::Unreachable {
                coordinator: "memory",
                address: "here".to_owned(),
                why: "a test turned it off".to_owned(),
            }),
            false => Ok(change(state, &self.node)),
        })
    }
}

impl Coordinator for SharedCoordinator {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn publish(&mut self, report: &NodeReport) -> Result<(), CoordinatorError> {
        self.call(|state, node| {
            state.published += 1;
            match state.group.members.iter_mut().find(|member| member.node == node) {
                Some(member) => {
                    member.report = Ok(report.clone());
                    member.has_slot |= report.state == NodeState::Out;
                }
                None => state.group.members.push(Member {
                    node: node.to_owned(),
                    is_alive: true,
                    has_slot: false,
                    report: Ok(report.clone()),
                }),
            }
        })
    }

    fn snapshot(&mut self) -> Result<Option<Snapshot>, CoordinatorError> {
        self.call(|state, node| {
            state.reads.push(node.to_owned());
            Some(state.group.clone())
        })
    }

    fn has_lost_slot(&self) -> bool {
        self.took_slot && !self.group.slots().contains(&self.node)
    }

    fn acquire(&mut self, since: Option<&Snapshot>) -> Result<Acquired, CoordinatorError> {
        let acquired = self.call(|state, node| {
            if let Some(change) = state.before_acquire.take() {
                change(&mut state.group);
            }
            if since.is_some_and(|since| since.grant_revision != state.group.grant_revision) {
                return Acquired::Stale;
            }
            state.group.grant_revision += 1;
            let members = &mut state.group.members;
            members.iter_mut().filter(|member| member.node == node).for_each(|member| {
                member.has_slot = true;
            });
            if let Some(change) = state.after_acquire.take() {
                change(&mut state.group);
            }
            Acquired::Taken
        });
        self.took_slot |= acquired == Ok(Acquired::Taken);
        acquired
    }

    fn claim_page(&mut self, subject: &PageSubject) -> Result<Option<String>, CoordinatorError> {
        self.call(|state, node| {
            let pager = state.pagers.iter().find(|(claimed, _)| claimed == subject);
            let other = pager.map(|(_, pager)| pager.clone()).filter(|pager| pager != node);
            if pager.is_none() {
                state.pagers.push((subject.clone(), node.to_owned()));
            }
            other
        })
    }

    fn release_page(&mut self, subject: &PageSubject) -> Result<(), CoordinatorError> {
        self.call(|state, node| {
            state.pagers.retain(|(claimed, pager)| claimed != subject || pager != node);
        })
    }

    fn release(&mut self) -> Result<(), CoordinatorError> {
        self.took_slot = false;
        self.call(|state, node| {
            for member in state.group.members.iter_mut().filter(|member| member.node == node) {
                member.has_slot = false;
            }
        })
    }
}

fn facts() -> NodeFacts {
    NodeFacts { cpus: Load { now: 1.0, proven: 4.0 }, ..NodeFacts::default() }
}

fn wants_out() -> NodeFacts {
    NodeFacts { wants_out: true, ..facts() }
}

fn out() -> NodeFacts {
    NodeFacts { rotation: Rotation::Out, wants_out: true, ..facts() }
}

/// Group of four nodes that have published once.
fn four() -> (SharedGroup, Vec<FleetMember>) {
    let group = SharedGroup::default();
    let mut members: Vec<_> = (0..4).map(|nth| group.member(&format!("n{nth}"))).collect();
    for member in &mut members {
        member.step(0.0, 1_000_000, &facts());
    }
    (group, members)
}

#[test]
fn one_node_leaves_at_a_time_and_the_next_once_it_is_back() {
    let (group, mut nodes) = four();
    nodes[0].step(1.0, 1_001_000, &wants_out());
    assert_eq!((nodes[0].permit(), group.slots()), (&Permit::Granted, vec!["n0".to_owned()]));
    nodes[1].step(2.0, 1_002_000, &wants_out());
    assert_eq!(nodes[1].permit(), &Permit::Waiting("n0 is out, and one may be".to_owned()));
    nodes[0].step(3.0, 1_003_000, &out());
    assert_eq!(group.report("n0").state, NodeState::Out);
    nodes[1].step(22.0, 1_022_000, &wants_out());
    assert!(matches!(nodes[1].permit(), Permit::Waiting(_)));
    nodes[0].step(40.0, 1_040_000, &facts());
    assert_eq!((nodes[0].permit(), group.slots()), (&Permit::NotAsked, vec![]));
    nodes[1].step(43.0, 1_043_000, &wants_out());
    assert_eq!((nodes[1].permit(), group.slots()), (&Permit::Granted, vec!["n1".to_owned()]));
}

#[test]
fn node_that_lost_its_slot_before_it_left_asks_again() {
    let (group, mut nodes) = four();
    nodes[0].step(1.0, 1_001_000, &wants_out());
    assert_eq!(nodes[0].permit(), &Permit::Granted);
    // It was paused, its slot expired, and another node took it.
    group.with(|state| {
        (state.group.members[0].has_slot, state.group.members[2].has_slot) = (false, true);
    });
    nodes[0].step(22.0, 1_022_000, &wants_out());
    assert_eq!(nodes[0].permit(), &Permit::Waiting("n2 is out, and one may be".to_owned()));
    assert_eq!(group.slots(), ["n2"]);
}

#[test]
fn grant_in_between_makes_the_node_judge_again() {
    let (group, mut nodes) = four();
    group.with(|state| state.before_acquire = Some(|group| group.grant_revision += 1));
    nodes[0].step(1.0, 1_001_000, &wants_out());
    assert!(matches!(nodes[0].permit(), Permit::Waiting(_)), "{:?}", nodes[0].permit());
    assert_eq!(group.slots(), [""; 0]);
    nodes[0].step(1.5, 1_001_500, &wants_out());
    assert_eq!(nodes[0].permit(), &Permit::Granted, "at once, without a pause");
}

#[test]
fn slot_is_given_back_if_the_group_has_changed_meanwhile() {
    let (group, mut nodes) = four();
    group.with(|state| {
        state.after_acquire = Some(|group| {
            for member in &mut group.members[1..] {
                member.is_alive = false;
            }
        });
    });
    nodes[0].step(1.0, 1_001_000, &wants_out());
    let Permit::Refused(why) = nodes[0].permit() else { panic!("{:?}", nodes[0].permit()) };
    assert!(why.starts_with("3 of the 3 other nodes are unwell or silent"), "{why}");
    assert_eq!(group.slots(), [""; 0]);
}

#[test]
fn coordinator_that_is_down_keeps_nodes_where_they_are() {
    let (group, mut nodes) = four();
    group.with(|state| state.is_down = true);
    nodes[0].step(1.0, 1_001_000, &wants_out());
    let down = "memory at here did not answer: a test turned it off";
    assert_eq!(nodes[0].permit(), &Permit::Refused(down.to_owned()));
    assert_eq!(nodes[0].problem(), Some(down));
    group.with(|state| state.is_down = false);
    nodes[0].step(2.0, 1_002_000, &wants_out());
    assert_eq!((nodes[0].permit(), nodes[0].problem()), (&Permit::Granted, None));
    nodes[0].step(3.0, 1_003_000, &out());
    group.with(|state| state.is_down = true);
    nodes[0].step(30.0, 1_030_000, &out());
    assert_eq!(nodes[0].permit(), &Permit::Granted, "a node that is out stays out");
    nodes[0].step(60.0, 1_060_000, &facts());
    assert_eq!(group.slots(), ["n0"], "it is back, and its slot is not yet");
    group.with(|state| state.is_down = false);
    nodes[0].step(61.0, 1_061_000, &facts());
    assert_eq!(group.slots(), [""; 0]);
}

#[test]
fn restarted_agent_of_a_node_that_is_out_keeps_its_slot() {
    let (group, _) = four();
    let mut again = group.member("n0");
    again.step(1.0, 1_001_000, &out());
    assert_eq!((again.permit(), group.slots()), (&Permit::Granted, vec!["n0".to_owned()]));
    again.step(2.0, 1_002_000, &facts());
    assert_eq!(group.slots(), [""; 0]);
}

#[test]
fn node_that_an_operator_took_out_needs_no_slot() {
    let (group, mut nodes) = four();
    nodes[0].step(1.0, 1_001_000, &wants_out());
    let by_operator = NodeFacts { rotation: Rotation::OutByOperator, ..facts() };
    nodes[0].step(2.0, 1_002_000, &by_operator);
    assert_eq!(group.slots(), [""; 0]);
    assert_eq!(group.report("n0").state, NodeState::OutByOperator);
}

#[test]
fn slot_that_was_not_renewed_permits_nothing() {
    let (group, mut nodes) = four();
    nodes[0].step(1.0, 1_001_000, &wants_out());
    assert_eq!(nodes[0].permit(), &Permit::Granted);
    group.with(|state| state.is_down = true);
    nodes[0].step(40.0, 1_040_000, &wants_out());
    assert_eq!(nodes[0].permit(), &Permit::Granted, "the coordinator keeps it");
    nodes[0].step(46.0, 1_046_000, &wants_out());
    assert!(matches!(nodes[0].permit(), Permit::Refused(_)), "{:?}", nodes[0].permit());
    group.with(|state| state.is_down = false);
    nodes[0].step(47.0, 1_047_000, &wants_out());
    assert_eq!(nodes[0].permit(), &Permit::Granted, "it is judged anew");
}

#[test]
fn load_that_was_given_up_is_reported_until_the_others_show_it() {
    let (group, mut nodes) = four();
    nodes[0].step(1.0, 1_001_000, &wants_out());
    nodes[0].step(2.0, 1_002_000, &NodeFacts { cpus: Load::default(), ..out() });
    let given_up = GivenUpLoad { cpus: 1.0, requests: None };
    assert_eq!(group.report("n0").given_up, Some(given_up));
    nodes[0].step(20.0, 1_020_000, &out());
    assert_eq!(group.report("n0").given_up, Some(given_up));
    nodes[0].step(43.0, 1_043_000, &out());
    assert_eq!(group.report("n0").given_up, None, "two reports later");
}

#[test]
fn third_drain_in_six_hours_loses_the_turn() {
    let (group, mut nodes) = four();
    for drain in 0..3 {
        let t = f64::from(drain) * 600.0;
        nodes[0].step(t + 1.0, 1_001_000, &wants_out());
        assert_eq!(nodes[0].permit(), &Permit::Granted, "drain {drain}");
        nodes[0].step(t + 2.0, 1_001_000, &out());
        nodes[0].step(t + 300.0, 1_001_000, &facts());
    }
    assert_eq!(group.report("n0").recent_drains, 3);
    nodes[0].step(2_000.0, 1_001_000, &wants_out());
    assert!(matches!(nodes[0].permit(), Permit::Refused(why) if why.contains("3 times")));
    nodes[0].step(6.0 * 3_600.0 + 3.0, 1_001_000, &wants_out());
    assert_eq!(nodes[0].permit(), &Permit::Granted, "six hours after the first");
}

#[test]
fn node_whose_turn_is_late_asks_rarely() {
    let group = SharedGroup::default();
    let mut nodes: Vec<_> = (10..60).map(|nth| group.member(&format!("n{nth}"))).collect();
    let waits = |secs: f64| {
        let end =
            ForecastEnd { secs, soonest_secs: secs, latest_secs: secs, cause: "api".to_owned() };
        NodeFacts { end: Some(end), ..wants_out() }
    };
    nodes.iter_mut().for_each(|node| node.step(0.0, 1_000_000, &facts()));
    let mut step = |t: u32| {
        for (nth, node) in nodes.iter_mut().enumerate() {
            let facts = waits(9e3 + 60.0 * nth as f64);
            node.step(f64::from(t), 1_000_000 + u64::from(t) * 1_000, &facts);
        }
    };
    step(1);
    assert_eq!(group.slots(), ["n10"]);
    (2..=201).for_each(step);
    let reads =
        |node: &str| group.with(|state| state.reads.iter().filter(|by| *by == node).count());
    // After one look, the next node asks every 20 s. The last has 48 nodes before it.
    assert_eq!([reads("n11"), reads("n59")], [1 + 11, 1 + 2]);
}

#[test]
fn reports_and_looks_keep_to_their_pace() {
    let (group, mut nodes) = four();
    let before = group.with(|state| state.published);
    for t in 1..=150 {
        nodes[0].step(f64::from(t), 1_000_000 + u64::from(t as u32) * 1_000, &facts());
    }
    assert_eq!(group.with(|state| state.published) - before, 7, "one in 20 s");
    assert_eq!(nodes[0].margins().unwrap().node.as_ref().unwrap().headroom, 9.0);
}

#[test]
fn node_leaves_hours_before_its_end_if_others_have_to_follow() {
    let (_, mut nodes) = four();
    let ends_in = |secs: f64| NodeFacts {
        end: Some(ForecastEnd {
            secs,
            soonest_secs: secs,
            latest_secs: secs,
            cause: "api in api.service".to_owned(),
        }),
        ..facts()
    };
    let turns = |nodes: &mut Vec<FleetMember>, t: f64, secs: f64| {
        // The second look comes after all have published.
        for t in [t, t + 61.0] {
            nodes.iter_mut().for_each(|node| node.step(t, 1_000_000, &ends_in(secs)));
        }
        nodes.iter().map(FleetMember::is_turn).collect::<Vec<_>>()
    };
    // A turn takes ten minutes, and as long is kept in reserve.
    assert_eq!(turns(&mut nodes, 100.0, 3_700.0), [false; 4]);
    assert_eq!(turns(&mut nodes, 300.0, 2_950.0), [true, false, false, false]);
    assert_eq!(turns(&mut nodes, 500.0, 2_350.0), [true, true, false, false]);
    nodes[0].step(700.0, 1_000_000, &facts());
    assert!(!nodes[0].is_turn(), "its leak is over");
}

#[test]
fn first_node_reports_the_outlook_once_for_each_look() {
    let (_, mut nodes) = four();
    for node in &mut nodes {
        node.step(61.0, 1_061_000, &facts());
    }
    let facts: Vec<_> = nodes[0].take_facts().collect();
    let [Fact::Fleet(outlook)] = &facts[..] else { panic!("{facts:?}") };
    assert_eq!((&*outlook.group, outlook.nodes, outlook.late), ("web", 4, 0));
    assert_eq!(nodes[0].take_facts().count(), 0, "they were taken");
    assert!(nodes[1..].iter_mut().all(|node| node.take_facts().count() == 0));
}

fn leaks(cause: &str, is_critical: bool) -> NodeFacts {
    let cause = cause.to_owned();
    let page = PageSubject { cause: cause.clone(), is_critical };
    NodeFacts {
        end: Some(ForecastEnd { secs: 9e3, soonest_secs: 8e3, latest_secs: 1e4, cause }),
        page: Some(page),
        ..facts()
    }
}

/// Last fact on who pages: the node, if it is another, and the other nodes with the leak.
fn pager(node: &mut FleetMember) -> Option<(Option<String>, u32)> {
    let pagers = node.take_facts().filter_map(|fact| match fact {
        Fact::Pager(fact) => Some((fact.pager.map(|pager| pager.to_string()), fact.others)),
        _ => None,
    });
    pagers.last()
}

#[test]
fn first_node_with_a_leak_pages_and_another_takes_over() {
    let (group, mut nodes) = four();
    let n2 = || Some("n2".to_owned());
    nodes[2].step(1.0, 1_001_000, &leaks("api in api.service", false));
    assert_eq!(pager(&mut nodes[2]), Some((None, 0)));
    nodes[1].step(2.0, 1_002_000, &leaks("api in api.service", false));
    nodes[3].step(2.0, 1_002_000, &leaks("worker in jobs.service", false));
    assert_eq!(pager(&mut nodes[1]), Some((n2(), 0)));
    assert_eq!(pager(&mut nodes[3]), Some((None, 0)), "it is another leak");
    nodes[1].step(30.0, 1_030_000, &leaks("api in api.service", false));
    assert_eq!(pager(&mut nodes[1]), None, "it was asked lately");
    nodes[1].step(61.0, 1_061_000, &leaks("api in api.service", false));
    nodes[2].step(61.0, 1_061_000, &leaks("api in api.service", false));
    assert_eq!(pager(&mut nodes[2]), Some((None, 1)));
    nodes[1].step(62.0, 1_062_000, &leaks("api in api.service", false));
    assert_eq!(pager(&mut nodes[1]), Some((n2(), 1)));
    // Its leak is over.
    nodes[2].step(63.0, 1_063_000, &facts());
    assert_eq!(group.with(|state| state.pagers.len()), 1);
    nodes[1].step(123.0, 1_123_000, &leaks("api in api.service", false));
    assert_eq!(pager(&mut nodes[1]), Some((None, 0)));
}

#[test]
fn page_in_working_hours_does_not_stand_for_a_critical_one() {
    let (group, mut nodes) = four();
    nodes[0].step(1.0, 1_001_000, &leaks("api", false));
    nodes[1].step(2.0, 1_002_000, &leaks("api", false));
    nodes[1].step(3.0, 1_003_000, &leaks("api", true));
    assert_eq!(pager(&mut nodes[1]), Some((None, 0)));
    nodes[0].step(4.0, 1_004_000, &leaks("api", true));
    assert_eq!(pager(&mut nodes[0]), Some((Some("n1".to_owned()), 0)));
    assert_eq!(group.with(|state| state.pagers.len()), 2, "the first claim stands");
    for node in &mut nodes[..2] {
        node.step(5.0, 1_005_000, &facts());
    }
    assert_eq!(group.with(|state| state.pagers.len()), 0);
}

#[test]
fn claim_of_a_node_without_the_leak_does_not_count() {
    let (group, mut nodes) = four();
    let subject = PageSubject { cause: "api".to_owned(), is_critical: false };
    group.with(|state| state.pagers.push((subject, "n3".to_owned())));
    nodes[0].step(1.0, 1_001_000, &leaks("api", false));
    assert_eq!(pager(&mut nodes[0]), Some((Some("n3".to_owned()), 0)), "its report may be late");
    // The look that shows its report is a minute after the claim.
    for t in [61.0, 122.0] {
        nodes[0].step(t, 1_122_000, &leaks("api", false));
    }
    assert_eq!(pager(&mut nodes[0]), Some((None, 0)));
}

#[test]
fn coordinator_that_is_down_leaves_nobody_to_page_elsewhere() {
    let (group, mut nodes) = four();
    group.with(|state| state.is_down = true);
    nodes[0].step(30.0, 1_030_000, &leaks("api", false));
    assert_eq!(pager(&mut nodes[0]), None);
    group.with(|state| state.is_down = false);
    nodes[0].step(31.0, 1_031_000, &leaks("api", false));
    assert_eq!(pager(&mut nodes[0]), Some((None, 0)));
}
