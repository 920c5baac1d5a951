//! Counts of the work that services have left, from facts.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::config::ServicePattern;

const API: &str = "/system.slice/api.service";
const DB: &str = "/system.slice/db.service";

fn listener(addr: &str, cgroup: &str, backlog: u32) -> Fact {
    listener_in(1, addr, cgroup, backlog)
}

fn listener_in(netns: u32, addr: &str, cgroup: &str, backlog: u32) -> Fact {
    Fact::Listener(Box::new(ListenerFact {
        netns,
        addr: addr.into(),
        cgroup: cgroup.into(),
        backlog,
        // UNIX listeners are in no map of arrivals.
        arrived_total: (!addr.starts_with(UNIX)).then_some(0),
        ..ListenerFact::default()
    }))
}

fn requests(addr: &str, connections: u32, in_flight: u32) -> Fact {
    requests_in(1, addr, connections, in_flight)
}

fn requests_in(netns: u32, addr: &str, connections: u32, in_flight: u32) -> Fact {
    let connections = Some(connections);
    Fact::Requests(RequestsFact {
        netns,
        addr: addr.into(),
        connections,
        in_flight,
        ..RequestsFact::default()
    })
}

fn services(patterns: &[&str]) -> Services {
    let patterns = patterns.iter().map(|text| ServicePattern::new(text).unwrap());
    Services::new(&patterns.collect::<Vec<_>>())
}

/// Takes a scan of listeners and a pass over connections at `t`.
fn scan(tracker: &mut ServiceRequests, t: f64, facts: &[Fact]) {
    facts.iter().for_each(|fact| tracker.observe(t, fact));
    tracker.note_pass(CompletePass { began: t, t, ..CompletePass::default() });
}

fn scanned(facts: &[Fact]) -> ServiceRequests {
    let mut tracker = ServiceRequests::default();
    scan(&mut tracker, 10.0, facts);
    tracker
}

fn left(tracker: &ServiceRequests, patterns: &[&str]) -> RequestsLeft {
    tracker.left(10.1, &services(patterns), &[Pattern::new("guarded.service").unwrap()])
}

/// Requests in flight and waiting connections, if nothing is unseen.
fn seen(left: &RequestsLeft) -> Option<(u64, u64)> {
    left.pass_t.filter(|_| left.unseen.is_empty()).map(|_| (left.in_flight, left.waiting))
}

#[test]
fn idle_connections_are_no_work() {
    let tracker = scanned(&[listener("0.0.0.0:80", API, 0), requests("0.0.0.0:80", 50, 0)]);
    let left = left(&tracker, &["api.service"]);
    assert_eq!((seen(&left), left.connections), (Some((0, 0)), 50));
}

#[test]
fn responses_that_go_on_are_work() {
    let open = listener("0.0.0.0:80", API, 0);
    let fact = RequestsFact {
        netns: 1,
        addr: "0.0.0.0:80".into(),
        connections: Some(9),
        responding: 2,
        ..RequestsFact::default()
    };
    let mut tracker = scanned(&[open, Fact::Requests(fact), listener("0.0.0.0:81", API, 0)]);
    let before = left(&tracker, &["api.service"]);
    assert_eq!((seen(&before), before.responding), (Some((0, 0)), 2));
    // The service stops to listen, and goes on sending.
    scan(&mut tracker, 10.05, &[listener("0.0.0.0:81", API, 0), requests("0.0.0.0:80", 0, 0)]);
    assert_eq!(left(&tracker, &["api.service"]).unseen, [(1, Arc::from("0.0.0.0:80"))]);
}

#[test]
fn requests_of_other_programs_are_no_work() {
    let facts = [
        listener("0.0.0.0:80", API, 0),
        requests("0.0.0.0:80", 5, 2),
        listener("0.0.0.0:5432", DB, 4),
        requests("0.0.0.0:5432", 9, 7),
    ];
    let tracker = scanned(&facts);
    assert_eq!(seen(&left(&tracker, &["api.service"])), Some((2, 0)));
    assert_eq!(seen(&left(&tracker, &["tcp:0.0.0.0:5432"])), Some((7, 4)));
    assert_eq!(seen(&left(&tracker, &["api.service", "db.service"])), Some((9, 4)));
}

#[test]
fn responses_are_counted_of_listed_services_only() {
    let answered = |addr: &str, total: u64| {
        let answered_total = Some(total);
        Fact::Requests(RequestsFact {
            netns: 1,
            addr: addr.into(),
            answered_total,
            ..RequestsFact::default()
        })
    };
    let (api, db) = ("0.0.0.0:80", "0.0.0.0:5432");
    let mut tracker = scanned(&[
        listener(api, API, 0),
        listener(db, DB, 0),
        answered(api, 1_000),
        answered(db, 50),
    ]);
    tracker.observe(10.5, &answered(api, 1_040));
    tracker.observe(10.5, &answered(db, 59));
    let total = |patterns: &[&str]| left(&tracker, patterns).answered_total;
    assert_eq!(total(&["api.service"]), Some(40));
    assert_eq!(total(&["api.service", "db.service"]), Some(49));
    assert_eq!(total(&[]), None, "no service is listed");
    assert_eq!(total(&["web.service"]), None, "none is on this host");
}

#[test]
fn without_services_all_but_protected_listeners_count() {
    let guarded = "/system.slice/guarded.service";
    let facts = [
        listener("0.0.0.0:80", API, 1),
        listener("0.0.0.0:22", "/system.slice/ssh.service", 1),
        requests("0.0.0.0:22", 3, 3),
        listener("0.0.0.0:90", guarded, 1),
        // An owner that is unknown may be a service.
        listener("0.0.0.0:91", "", 1),
        listener("unix:/run/api.sock", API, 1),
    ];
    let tracker = scanned(&facts);
    assert_eq!(seen(&left(&tracker, &[])), Some((0, 2)));
    // A list that names a protected unit means it; one that matches nothing names no service.
    assert_eq!(seen(&left(&tracker, &["guarded.service"])), Some((0, 1)));
    assert_eq!(seen(&left(&tracker, &["web.service"])), Some((0, 2)));
    assert_eq!(seen(&left(&tracker, &["/system.slice/ssh*"])), Some((0, 2)), "ssh never counts");
}

#[test]
fn pods_that_were_not_found_yet_are_not_left_out() {
    let pod = "/kubepods/burstable/pod11-22/c";
    let tracker = scanned(&[
        listener("0.0.0.0:80", API, 0),
        listener_in(2, "0.0.0.0:80", pod, 0),
        requests_in(2, "0.0.0.0:80", 1, 1),
    ]);
    let patterns = ["api.service", "namespace:shop"];
    let mut services = services(&patterns);
    assert_eq!(seen(&tracker.left(10.1, &services, &[])), Some((1, 0)));
    services.name_pods(BTreeMap::from([("33-44".to_owned(), "namespace:shop".to_owned())]));
    assert_eq!(seen(&tracker.left(10.1, &services, &[])), Some((0, 0)), "another pod's");
    services.name_pods(BTreeMap::from([("11-22".to_owned(), "namespace:shop".to_owned())]));
    assert_eq!(seen(&tracker.left(10.1, &services, &[])), Some((1, 0)));
}

#[test]
fn sockets_that_share_an_address_are_added() {
    let facts = [listener("[::]:80", API, 2), listener("[::]:80", API, 3)];
    let mut tracker = scanned(&facts);
    assert_eq!(seen(&left(&tracker, &["api.service"])), Some((0, 5)));
    scan(&mut tracker, 10.05, &facts[..1]);
    assert_eq!(seen(&left(&tracker, &["api.service"])), Some((0, 2)), "one has closed");
}

#[test]
fn nothing_is_known_without_a_recent_pass() {
    let facts = [listener("0.0.0.0:80", API, 0), requests("0.0.0.0:80", 1, 0)];
    let mut tracker = ServiceRequests::default();
    facts.iter().for_each(|fact| tracker.observe(10.0, fact));
    let before = left(&tracker, &["api.service"]);
    assert_eq!((before.pass_t, before.unseen.len()), (None, 1), "no pass was complete");
    scan(&mut tracker, 10.1, &facts);
    let services = services(&["api.service"]);
    let at = |tracker: &ServiceRequests, t| seen(&tracker.left(t, &services, &[]));
    assert_eq!(at(&tracker, 15.0), Some((0, 0)));
    assert_eq!(at(&tracker, 15.2), None, "the pass is old");
    // Passes of a host with very many connections are further apart.
    scan(&mut tracker, 20.1, &facts);
    assert_eq!(at(&tracker, 49.0), Some((0, 0)));
    assert_eq!(at(&tracker, 50.2), None);
}

#[test]
fn pass_in_pieces_counts_from_its_begin() {
    let mut tracker = ServiceRequests::default();
    let facts = [listener("0.0.0.0:80", API, 0), requests("0.0.0.0:80", 9, 3)];
    facts.iter().for_each(|fact| tracker.observe(10.0, fact));
    tracker.note_pass(CompletePass { began: 9.4, t: 10.0, ..CompletePass::default() });
    let left = left(&tracker, &["api.service"]);
    assert_eq!((left.pass_t, seen(&left)), (Some(9.4), Some((3, 0))));
}

#[test]
fn partial_pass_is_not_zero() {
    let mut tracker = scanned(&[listener("0.0.0.0:80", API, 0), requests("0.0.0.0:80", 9, 3)]);
    tracker.observe(10.1, &listener("0.0.0.0:80", API, 0));
    tracker.observe(10.1, &requests("0.0.0.0:80", 2, 0));
    assert_eq!(seen(&left(&tracker, &["api.service"])), None);
}

#[test]
fn address_without_a_fact_in_a_pass_has_no_request() {
    let mut tracker = scanned(&[listener("0.0.0.0:80", API, 0), requests("0.0.0.0:80", 9, 3)]);
    assert_eq!(seen(&left(&tracker, &["api.service"])), Some((3, 0)));
    scan(&mut tracker, 10.1, &[listener("0.0.0.0:80", API, 0)]);
    assert_eq!(seen(&left(&tracker, &["api.service"])), Some((0, 0)));
}

#[test]
fn unix_listener_of_a_service_is_unseen() {
    let tracker = scanned(&[
        listener("0.0.0.0:80", API, 0),
        requests("0.0.0.0:80", 2, 1),
        listener("unix:/run/api.sock", API, 2),
    ]);
    let left = left(&tracker, &["api.service"]);
    assert_eq!(left.unseen, [(1, Arc::from("unix:/run/api.sock"))]);
    assert_eq!((left.in_flight, left.waiting), (1, 2));
}

#[test]
fn listener_out_of_reach_of_passes_is_unseen() {
    let mut outside = scanned(&[listener("0.0.0.0:80", API, 0)]);
    let fact = ListenerFact {
        netns: 1,
        addr: "0.0.0.0:81".into(),
        cgroup: API.into(),
        ..ListenerFact::default()
    };
    outside.observe(10.0, &Fact::Listener(Box::new(fact)));
    let left_of = |tracker: &ServiceRequests| left(tracker, &["api.service"]).unseen;
    assert_eq!(left_of(&outside), [(1, Arc::from("0.0.0.0:81"))], "it found no room in the map");
    let mut elsewhere = ServiceRequests::default();
    elsewhere.observe(10.0, &listener("0.0.0.0:80", API, 0));
    elsewhere.observe(10.0, &listener_in(2, "0.0.0.0:80", API, 0));
    elsewhere.note_pass(CompletePass {
        began: 10.0,
        t: 10.0,
        namespaces: Some(vec![1]),
        ..CompletePass::default()
    });
    assert_eq!(left_of(&elsewhere), [(2, Arc::from("0.0.0.0:80"))], "its namespace is not read");
}

#[test]
fn listener_with_connections_left_out_is_unseen() {
    let mut tracker = ServiceRequests::default();
    let facts = [
        listener("0.0.0.0:80", API, 0),
        requests("0.0.0.0:80", 9, 3),
        listener("[::]:81", API, 0),
        listener_in(2, "0.0.0.0:81", API, 0),
    ];
    facts.iter().for_each(|fact| tracker.observe(10.0, fact));
    let partial = Arc::new([(1, 81)].into());
    tracker.note_pass(CompletePass { began: 10.0, t: 10.0, partial, ..CompletePass::default() });
    let left = left(&tracker, &["api.service"]);
    assert_eq!((left.pass_t, left.in_flight), (Some(10.0), 3));
    assert_eq!(left.unseen, [(1, Arc::from("[::]:81"))], "others' counts hold");
}

#[test]
fn listener_that_closes_with_requests_is_unseen() {
    let open = [listener("0.0.0.0:80", API, 0), listener("0.0.0.0:81", API, 0)];
    let mut tracker = scanned(&open);
    let with = |fact| [open[0].clone(), open[1].clone(), fact];
    scan(&mut tracker, 10.02, &with(requests("0.0.0.0:81", 2, 2)));
    // The pass after it closed sees none of its connections.
    scan(&mut tracker, 10.04, &[open[0].clone(), requests("0.0.0.0:81", 0, 0)]);
    assert_eq!(left(&tracker, &["api.service"]).unseen, [(1, Arc::from("0.0.0.0:81"))]);
    // It listens again, such as a restarted server.
    scan(&mut tracker, 10.06, &with(requests("0.0.0.0:81", 0, 0)));
    assert_eq!(seen(&left(&tracker, &["api.service"])), Some((0, 0)));
    scan(&mut tracker, 10.08, &open[..1]);
    assert_eq!(seen(&left(&tracker, &["api.service"])), Some((0, 0)), "it was idle");
}

#[test]
fn table_that_is_full_knows_nothing() {
    let mut tracker = ServiceRequests::default();
    for n in 0..=ADDRESSES_MAX {
        tracker.observe(10.0, &listener(&format!("0.0.0.0:{n}"), API, 0));
    }
    tracker.note_pass(CompletePass { began: 10.0, t: 10.0, ..CompletePass::default() });
    assert_eq!(left(&tracker, &["api.service"]).pass_t, None);
    tracker.observe(10.0 + FORGET_SECS, &listener("0.0.0.0:1", API, 0));
    tracker.observe(
        10.1 + FORGET_SECS,
        &Fact::Host(crate::sense::HostFact { mem_available_bytes: 1, psi_memory_some_avg10: None }),
    );
    assert_eq!(tracker.addresses.len(), 1);
}

#[test]
fn closed_listeners_of_a_flood_are_forgotten_but_for_some() {
    let mut tracker = ServiceRequests::default();
    let host = |tracker: &mut ServiceRequests, t| {
        let mem_available_bytes = 1;
        let host = crate::sense::HostFact { mem_available_bytes, psi_memory_some_avg10: None };
        tracker.observe(t, &Fact::Host(host));
    };
    tracker.observe(9.0, &listener("0.0.0.0:1", API, 0));
    let Fact::Requests(fact) = requests("0.0.0.0:1", 1, 0) else { unreachable!() };
    let answered = RequestsFact { answered_total: Some(7), ..fact };
    tracker.observe(9.0, &Fact::Requests(answered));
    for n in 2..8_000 {
        tracker.observe(10.0, &listener(&format!("0.0.0.0:{n}"), DB, 0));
    }
    host(&mut tracker, 9.0 + CLOSED_SECS);
    assert_eq!(tracker.addresses.len(), 7_999, "nobody can tell yet that they are closed");
    host(&mut tracker, 11.0 + CLOSED_SECS);
    assert_eq!(tracker.addresses.len(), CLOSED_MAX);
    assert!(tracker.addresses.capacity() < 4_000, "{}", tracker.addresses.capacity());
    let answering = tracker.addresses.get(&(1, Arc::from("0.0.0.0:1")));
    assert!(answering.is_some(), "one that answered requests comes first");
}

/// One listener: network namespace, port, whether it is the service's, connections, requests in
/// flight, and waiting connections.
type Place = (u32, u16, bool, u32, u32, u32);

fn place() -> impl Strategy<Value = Place> {
    (1..4_u32, 1..50_u16, any::<bool>(), 0..9_u32, 0..9_u32, 0..9_u32)
}

proptest! {
    #[test]
    fn work_is_the_sum_over_listeners_and_namespaces(
        places in prop::collection::vec(place(), 1..30),
    ) {
        let mut one_each: BTreeMap<(u32, u16), Place> = BTreeMap::new();
        for place in places {
            one_each.entry((place.0, place.1)).or_insert(place);
        }
        // One of the service's own, so that the list matches something.
        one_each.insert((1, 60), (1, 60, true, 0, 0, 0));
        let (mut scans, mut passes) = (Vec::new(), Vec::new());
        let (mut in_flight, mut waiting) = (0, 0);
        for (netns, port, is_service, connections, busy, backlog) in one_each.into_values() {
            let addr = format!("0.0.0.0:{port}");
            scans.push(listener_in(netns, &addr, if is_service { API } else { DB }, backlog));
            if connections + busy > 0 {
                passes.push(requests_in(netns, &addr, connections + busy, busy));
            }
            if is_service {
                in_flight += u64::from(busy);
                waiting += u64::from(backlog);
            }
        }
        scans.extend(passes);
        prop_assert_eq!(seen(&left(&scanned(&scans), &["api.service"])), Some((in_flight, waiting)));
    }
}
