//! The policy against claims as they are made, worsen, return and end.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    config::{Pattern, ServicePattern},
    detect::{
        Bottleneck, Bound, CascadeRiskClaim, LeakClaim, OverloadClaim, Resource, Sign, Spared,
        WaitingRequests,
    },
    sense::{HostFact, ListenerFact, PagerFact, ProcessId},
};

fn leak(t: f64, state: ClaimState, exhaustion_secs: f64) -> Verdict {
    let claim = LeakClaim {
        cgroup_memory: None,
        resource: Resource::Memory,
        id: ProcessId { pid: 812, start_ticks: 4711 },
        comm: Arc::from("api"),
        cgroup: Arc::from("/api.service"),
        growth_bytes_per_sec: Some(1.0),
        growth_handles_per_sec: None,
        growth_interval_bytes_per_sec: None,
        bound: Bound::Host,
    };
    verdict(t, state, Claim::Leak(claim), Some(exhaustion_secs))
}

fn leak_of(verdict: &mut Verdict) -> &mut LeakClaim {
    let Claim::Leak(claim) = &mut verdict.claim else { unreachable!() };
    claim
}

fn verdict(t: f64, state: ClaimState, claim: Claim, exhaustion_secs: Option<f64>) -> Verdict {
    Verdict {
        t,
        claim,
        exhaustion_secs,
        exhaustion_interval_secs: None,
        confidence: 1.0,
        state,
        harm: None,
        identity: None,
        why: "so".into(),
    }
}

/// An overload of a service in which 50 connections of 128 wait, for as long as the claim stands.
fn overload(t: f64, state: ClaimState, change: impl FnOnce(&mut OverloadClaim)) -> Verdict {
    let mut claim = OverloadClaim {
        addr: Arc::from("0.0.0.0:80"),
        netns: 7,
        pid: Some(9),
        cgroup: Arc::from("/system.slice/web.service"),
        backlog: 50,
        backlog_max: 128,
        oldest_wait_us: Some(3_000_000),
        scarce: Some(Bottleneck::Workers),
        ..OverloadClaim::default()
    };
    change(&mut claim);
    verdict(t, state, Claim::Overload(claim), None)
}

/// The policy, and what it decided last.
struct Run {
    policy: Policy,
    decisions: Vec<Decision>,
}

impl Run {
    fn new(change: impl FnOnce(&mut DecideConfig)) -> Self {
        let mut config = DecideConfig::default();
        change(&mut config);
        Self { policy: Policy::new(&config, Mode::Observe), decisions: Vec::new() }
    }

    /// A policy whose operator named web.service.
    fn with_service() -> Self {
        Self::new(|config| config.services = vec![ServicePattern::new("web.service").unwrap()])
    }

    fn taken(&mut self) -> Vec<String> {
        let taken = mem::take(&mut self.decisions);
        let refused = |decision: &Decision| {
            decision.refused.as_ref().map(|refusal| format!(" refused: {refusal}"))
        };
        taken
            .iter()
            .map(|one| format!("{}{} {}", one.action, refused(one).unwrap_or_default(), one.id))
            .collect()
    }

    fn judge(&mut self, mut verdict: Verdict) -> Vec<String> {
        self.policy.judge(&mut verdict, &mut self.decisions);
        self.taken()
    }

    fn severity(&mut self, mut verdict: Verdict) -> Severity {
        self.policy.judge(&mut verdict, &mut self.decisions);
        verdict.harm.unwrap().severity
    }

    fn update(&mut self, verdict: &Verdict) -> Vec<String> {
        self.policy.update(verdict, &mut self.decisions);
        self.taken()
    }

    /// A scan of the host.
    fn scan(&mut self, t: f64) -> Vec<String> {
        self.policy.observe(t, &host(), &mut self.decisions);
        self.taken()
    }

    /// Looks each second at a listener at which `per_sec` connections arrive.
    fn serves(&mut self, from: f64, secs: u32, fact: &ListenerFact, per_sec: u64) {
        for second in 0..secs {
            let arrived = fact.arrived_total.unwrap_or(0) + u64::from(second) * per_sec;
            let fact = ListenerFact { arrived_total: Some(arrived), ..fact.clone() };
            self.policy.observe(
                from + f64::from(second),
                &Fact::Listener(Box::new(fact)),
                &mut self.decisions,
            );
        }
    }
}

fn host() -> Fact {
    Fact::Host(HostFact { mem_available_bytes: 1 << 33, psi_memory_some_avg10: None })
}

fn listener(cgroup: &str) -> ListenerFact {
    ListenerFact {
        netns: 7,
        addr: Arc::from("0.0.0.0:80"),
        cgroup: Arc::from(cgroup),
        ..ListenerFact::default()
    }
}

const NONE: [&str; 0] = [];

#[test]
fn leak_is_limited_as_its_end_nears_and_undone_once() {
    let mut run = Run::new(|_| {});
    assert_eq!(run.judge(leak(0.0, ClaimState::Raised, 9_000.0)), ["page (warning) leak-812-4711"]);
    assert_eq!(run.update(&leak(1.0, ClaimState::Raised, 3_601.0)), NONE);
    assert_eq!(run.update(&leak(2.0, ClaimState::Raised, 3_600.0)), ["limit leak-812-4711"]);
    let near = ["page (critical) leak-812-4711", "drain leak-812-4711"];
    assert_eq!(run.update(&leak(3.0, ClaimState::Raised, 600.0)), near);
    assert_eq!(run.update(&leak(4.0, ClaimState::Raised, 9_000.0)), NONE);
    assert_eq!(run.update(&leak(5.0, ClaimState::Raised, 1.0)), NONE);
    assert_eq!(run.policy.open().count(), 1);
    assert_eq!(
        run.judge(leak(6.0, ClaimState::Cleared, 0.0)),
        ["unlimit leak-812-4711", "undrain leak-812-4711"]
    );
    assert_eq!(run.policy.open().count(), 0);
    assert_eq!(run.judge(leak(7.0, ClaimState::Cleared, 0.0)), NONE);
    assert_eq!(run.update(&leak(8.0, ClaimState::Raised, 1.0)), NONE);
    assert_eq!(run.scan(605.0), NONE);
    assert_eq!(run.scan(606.0), ["resolve leak-812-4711"]);
    assert_eq!(run.scan(7_000.0), NONE);
}

#[test]
fn without_damping_the_end_resolves_at_once() {
    let mut run = Run::new(|config| config.flap_within = Duration::ZERO);
    run.judge(leak(0.0, ClaimState::Raised, 9_000.0));
    assert_eq!(run.judge(leak(6.0, ClaimState::Cleared, 0.0)), ["resolve leak-812-4711"]);
}

#[test]
fn a_limit_that_does_not_help_pages_as_critical_and_drains_once() {
    let mut run = Run::new(|_| {});
    run.judge(leak(0.0, ClaimState::Raised, 3_000.0));
    run.policy.set_back(2.0, &IncidentId::from("leak-1-1"), "another's", &mut run.decisions);
    assert_eq!(run.taken(), NONE);
    for _ in 0..2 {
        run.policy.set_back(
            2.0,
            &IncidentId::from("leak-812-4711"),
            "it thrashes",
            &mut run.decisions,
        );
    }
    assert_eq!((run.decisions[0].t(), run.decisions[0].why.as_str()), (2.0, "it thrashes"));
    assert_eq!(run.taken(), ["page (critical) leak-812-4711", "drain leak-812-4711"]);
}

#[test]
fn failed_limit_without_a_service_is_reported_without_drain() {
    let mut run = Run::new(|_| {});
    let mut own = leak(0.0, ClaimState::Raised, 3_000.0);
    leak_of(&mut own).bound = Bound::Own;
    assert_eq!(run.judge(own).len(), 2);
    run.policy.set_back(
        2.0,
        &IncidentId::from("leak-812-4711"),
        "left to somebody else",
        &mut run.decisions,
    );
    assert!(run.decisions[0].why.starts_with("left to somebody else"), "{:?}", run.decisions);
    assert_eq!(run.taken(), ["page (warning) leak-812-4711"]);
}

#[test]
fn leaking_files_join_the_incident_and_are_never_limited() {
    let mut run = Run::with_service();
    let files = |t, secs| {
        let mut files = leak(t, ClaimState::Raised, secs);
        let claim = leak_of(&mut files);
        (claim.resource, claim.bound, claim.cgroup) =
            (Resource::Files, Bound::Own, Arc::from("/web.service"));
        files
    };
    run.judge(leak(0.0, ClaimState::Raised, 9_000.0));
    // One process, one incident: no second page, and a minute later an update that names both.
    assert_eq!(run.judge(files(1.0, 3_000.0)), NONE);
    assert_eq!(run.policy.open().count(), 2);
    let near = ["page (critical) leak-812-4711", "drain leak-files-812-4711"];
    assert_eq!(run.update(&files(2.0, 500.0)), near);
}

#[test]
fn a_leak_in_its_own_limit_drains_only_a_service() {
    let own = |secs| {
        let mut own = leak(0.0, ClaimState::Raised, secs);
        leak_of(&mut own).bound = Bound::Own;
        own
    };
    let mut run = Run::new(|_| {});
    assert_eq!(run.judge(own(100.0)), ["page (warning) leak-812-4711", "limit leak-812-4711"]);
    let mut run =
        Run::new(|config| config.services = vec![ServicePattern::new("api.service").unwrap()]);
    let all = ["page (critical) leak-812-4711", "limit leak-812-4711", "drain leak-812-4711"];
    assert_eq!(run.judge(own(100.0)), all);
    // A user's own is limited, and nobody is woken.
    let mut run = Run::new(|_| {});
    let mut users = own(100.0);
    leak_of(&mut users).cgroup = Arc::from("/user.slice/user-1000.slice/session-3.scope/x");
    assert_eq!(run.severity(users), Severity::Info);
}

#[test]
fn leak_with_refused_limit_is_reported_once_and_drained() {
    let mut run = Run::new(|_| {});
    let ssh = |t, exhaustion_secs| {
        let mut verdict = leak(t, ClaimState::Raised, exhaustion_secs);
        leak_of(&mut verdict).cgroup = Arc::from("/system.slice/ssh.service");
        verdict
    };
    let refused = "limit refused: its unit or cgroup is protected (ssh.service) leak-812-4711";
    assert_eq!(run.judge(ssh(0.0, 3_000.0)), ["page (warning) leak-812-4711", refused]);
    assert_eq!(run.update(&ssh(1.0, 2_000.0)), NONE);
    assert_eq!(
        run.update(&ssh(2.0, 500.0)),
        ["page (critical) leak-812-4711", "drain leak-812-4711"]
    );
}

#[test]
fn deferred_action_is_reported_once_and_taken_later() {
    let mut run = Run::new(|config| config.max_actions_per_hour = 0);
    assert_eq!(run.judge(leak(0.0, ClaimState::Raised, 3_000.0)).len(), 2);
    assert_eq!(run.update(&leak(1.0, ClaimState::Raised, 2_000.0)), NONE);
    run.policy.guard = Guard::new(&DecideConfig::default());
    assert_eq!(run.update(&leak(2.0, ClaimState::Raised, 1_000.0)), ["limit leak-812-4711"]);
}

#[test]
fn a_node_is_drained_once_for_all_and_until_the_last_is_over() {
    let mut run = Run::new(|_| {});
    let other = |t, state, exhaustion_secs| {
        let mut verdict = leak(t, state, exhaustion_secs);
        let claim = leak_of(&mut verdict);
        (claim.id.pid, claim.cgroup) = (813, Arc::from("/other.service"));
        verdict
    };
    assert_eq!(run.judge(leak(0.0, ClaimState::Raised, 500.0)).len(), 3);
    assert_eq!(
        run.judge(other(1.0, ClaimState::Raised, 500.0)),
        ["page (critical) leak-813-4711", "limit leak-813-4711"]
    );
    assert_eq!(run.judge(leak(2.0, ClaimState::Cleared, 500.0)), ["unlimit leak-812-4711"]);
    let down = ["unlimit leak-813-4711", "undrain leak-813-4711"];
    assert_eq!(run.judge(other(3.0, ClaimState::Cleared, 500.0)), down);
}

#[test]
fn overload_rises_from_info_and_weighs_before_it_drains() {
    let mut run = Run::with_service();
    let slower = |claim: &mut OverloadClaim| claim.is_slower = true;
    assert_eq!(run.judge(overload(0.0, ClaimState::Raised, slower)), NONE);
    assert_eq!(run.update(&overload(2.9, ClaimState::Raised, slower)), NONE);
    let weighs = ["page (warning) overload-7-0.0.0.0:80", "weigh overload-7-0.0.0.0:80"];
    assert_eq!(run.update(&overload(3.0, ClaimState::Raised, slower)), weighs);
    let drains = ["page (critical) overload-7-0.0.0.0:80", "drain overload-7-0.0.0.0:80"];
    assert_eq!(run.update(&overload(10.0, ClaimState::Raised, slower)), drains);
    let down = ["unweigh overload-7-0.0.0.0:80", "undrain overload-7-0.0.0.0:80"];
    assert_eq!(run.judge(overload(20.0, ClaimState::Cleared, slower)), down);
}

/// A policy that sheds load at the listeners of the unit that the operator named.
fn shedding() -> Run {
    let Run { policy, decisions } = Run::with_service();
    Run { policy: policy.shedding(0.1), decisions }
}

#[test]
fn overload_sheds_load_first_and_stops_when_it_is_over() {
    let mut run = shedding();
    let loaded = |t, state| overload(t, state, |claim| claim.accepts_per_sec = Some(90.0));
    let first = run.judge(loaded(0.0, ClaimState::Raised));
    assert_eq!(first, ["shed overload-7-0.0.0.0:80"]);
    let later = run.update(&loaded(4.0, ClaimState::Raised));
    assert_eq!(later, ["page (warning) overload-7-0.0.0.0:80", "weigh overload-7-0.0.0.0:80"]);
    // Another listener of the service sheds by itself.
    let other = |t, state| {
        overload(t, state, |claim| {
            (claim.addr, claim.accepts_per_sec) = (Arc::from("0.0.0.0:81"), Some(90.0));
        })
    };
    assert!(
        run.judge(other(5.0, ClaimState::Raised)).contains(&"shed overload-7-0.0.0.0:81".into())
    );
    let cleared = run.judge(loaded(20.0, ClaimState::Cleared));
    let ends = ["unshed overload-7-0.0.0.0:80", "unweigh overload-7-0.0.0.0:80"];
    assert_eq!(cleared, ends);
    let cleared = run.judge(other(21.0, ClaimState::Cleared));
    assert!(cleared.contains(&"unshed overload-7-0.0.0.0:81".into()), "{cleared:?}");
}

#[test]
fn refused_connections_are_a_warning_and_no_reason_to_drain() {
    let config = DecideConfig {
        services: vec![ServicePattern::new("web.service").unwrap()],
        ..DecideConfig::default()
    };
    let policy = Policy::new(&config, Mode::Enforce).shedding(0.1);
    let mut run = Run { policy, decisions: Vec::new() };
    // Bounded to nine connections, which is full, and slower than before.
    let shed = |t| {
        overload(t, ClaimState::Raised, |claim| {
            (claim.backlog, claim.backlog_max) = (10, 9);
            (claim.accepts_per_sec, claim.is_slower) = (Some(90.0), true);
            claim.oldest_wait_us = Some(110_000);
        })
    };
    let before = overload(0.0, ClaimState::Raised, |claim| claim.is_slower = true);
    assert_eq!(run.judge(before), ["shed overload-7-0.0.0.0:80"]);
    assert_eq!(run.update(&shed(2.0)), NONE);
    let pages = ["page (warning) overload-7-0.0.0.0:80", "weigh overload-7-0.0.0.0:80"];
    assert_eq!(run.update(&shed(3.0)), pages);
    assert_eq!(run.update(&shed(30.0)), NONE, "whoever gets in is answered");
    let id = IncidentId::from("overload-7-0.0.0.0:80");
    run.policy.not_shed(&id);
    let drains = ["page (critical) overload-7-0.0.0.0:80", "drain overload-7-0.0.0.0:80"];
    assert_eq!(run.update(&shed(40.0)), drains, "the queue is full by itself");
}

#[test]
fn load_is_shed_only_where_that_helps_and_is_allowed() {
    type Change = fn(&mut OverloadClaim);
    let helps: [Change; 4] = [
        |claim| claim.accepts_per_sec = Some(90.0),
        // Its clients wait for a second, or have gone.
        |claim| (claim.oldest_wait_us, claim.accepts_per_sec) = (Some(600_000), Some(45.0)),
        |claim| (claim.oldest_wait_us, claim.is_for_nobody) = (Some(300_000), true),
        |claim| claim.sign = Some(Sign::RetryStorm),
    ];
    let does_not: [Change; 9] = [
        // Without BPF neither rate nor wait is known.
        |claim| claim.oldest_wait_us = None,
        |claim| claim.scarce = Some(Bottleneck::AcceptLoop),
        |claim| claim.scarce = Some(Bottleneck::Backlog),
        |claim| claim.accepts_per_sec = Some(0.0),
        |claim| (claim.oldest_wait_us, claim.is_for_nobody) = (Some(90_000), true),
        // Nobody gives up yet.
        |claim| (claim.oldest_wait_us, claim.accepts_per_sec) = (Some(600_000), Some(80.0)),
        |claim| (claim.oldest_wait_us, claim.accepts_per_sec) = (None, Some(1_000.0)),
        |claim| claim.backlog = 3,
        |claim| claim.cgroup = Arc::from("/system.slice/other.service"),
    ];
    let sheds = |run: &mut Run, change: Change| {
        let decisions = run.judge(overload(0.0, ClaimState::Raised, change));
        decisions.iter().any(|decision| decision == "shed overload-7-0.0.0.0:80")
    };
    assert!(helps.iter().all(|change| sheds(&mut shedding(), *change)));
    for (nth, change) in does_not.iter().enumerate() {
        assert!(!sheds(&mut shedding(), *change), "{nth}");
    }
    assert!(!sheds(&mut Run::with_service(), helps[0]), "it is off by default");
    let Run { policy, decisions } = Run::new(|config| {
        config.services = vec![ServicePattern::new("web.service").unwrap()];
        config.protected = vec![Pattern::new("web.service").unwrap()];
    });
    let mut protected = Run { policy: policy.shedding(0.1), decisions };
    let refused = protected.judge(overload(0.0, ClaimState::Raised, helps[0]));
    assert!(refused[0].starts_with("shed refused: its unit or cgroup is protected"), "{refused:?}");
}

#[test]
fn weight_says_why_no_load_is_shed() {
    type Change = fn(&mut OverloadClaim);
    let whys: [(Change, &str); 3] = [
        (|claim| claim.accepts_per_sec = Some(90.0), "so"),
        (
            |claim| {
                let requests = WaitingRequests { in_flight: 40, ..WaitingRequests::default() };
                (claim.backlog, claim.requests) = (0, Some(requests));
            },
            "so; no load is shed: the requests wait on connections that were accepted before",
        ),
        (
            |claim| claim.scarce = Some(Bottleneck::AcceptLoop),
            "so; no load is shed: the server accepts nothing",
        ),
    ];
    for (change, why) in whys {
        let mut run = shedding();
        run.judge(overload(0.0, ClaimState::Raised, change));
        run.policy.update(&overload(4.0, ClaimState::Raised, change), &mut run.decisions);
        let weighs = run.decisions.iter().find(|decision| decision.action == Action::Weigh);
        assert_eq!(weighs.map(|decision| decision.why.as_str()), Some(why));
    }
}

#[test]
fn leak_of_a_service_drains_early_in_this_nodes_turn() {
    let mut run = Run::with_service();
    let far = |t: f64| leak(t, ClaimState::Raised, 9_000.0);
    run.judge(far(0.0));
    assert_eq!(run.update(&far(1.0)), NONE);
    run.policy.set_turn(true);
    assert_eq!(run.update(&far(2.0)), ["drain leak-812-4711"]);
}

#[test]
fn without_a_granter_an_overload_never_drains() {
    let mut run = Run::with_service();
    run.policy = run.policy.without_granter();
    let stuck = |claim: &mut OverloadClaim| claim.scarce = Some(Bottleneck::AcceptLoop);
    run.judge(overload(0.0, ClaimState::Raised, stuck));
    let page = "page (critical) overload-7-0.0.0.0:80";
    assert_eq!(
        run.update(&overload(60.0, ClaimState::Raised, stuck)),
        [page, "weigh overload-7-0.0.0.0:80"]
    );
}

#[test]
fn load_that_would_only_move_never_drains() {
    for sign in [None, Some(Sign::LoadSurge), Some(Sign::RetryStorm)] {
        let mut run = Run::with_service();
        let surge = |claim: &mut OverloadClaim| {
            (claim.sign, claim.is_slower) = (sign, sign == Some(Sign::RetryStorm));
            claim.scarce = Some(Bottleneck::Cpu);
        };
        run.judge(overload(0.0, ClaimState::Raised, surge));
        run.update(&overload(5.0, ClaimState::Raised, surge));
        let late = run.update(&overload(600.0, ClaimState::Raised, surge));
        assert_eq!(late, ["page (critical) overload-7-0.0.0.0:80"], "{sign:?}");
    }
}

#[test]
fn one_that_waits_is_info_however_long() {
    let mut run = Run::with_service();
    let one = |claim: &mut OverloadClaim| claim.backlog = 1;
    assert_eq!(run.severity(overload(0.0, ClaimState::Raised, one)), Severity::Info);
    assert_eq!(run.update(&overload(60.0, ClaimState::Raised, one)), NONE);
}

#[test]
fn a_small_share_of_the_traffic_is_not_critical() {
    let mut run = Run::with_service();
    // 50 wait for 3 s while a thousand a second come: one stuck worker of many.
    let share = |claim: &mut OverloadClaim| {
        (claim.arrivals_per_sec, claim.scarce) = (Some(1_000.0), Some(Bottleneck::AcceptLoop));
    };
    run.judge(overload(0.0, ClaimState::Raised, share));
    assert_eq!(
        run.update(&overload(60.0, ClaimState::Raised, share)),
        ["page (warning) overload-7-0.0.0.0:80", "weigh overload-7-0.0.0.0:80"]
    );
}

#[test]
fn workload_that_no_other_has_used_is_info() {
    let stuck = |claim: &mut OverloadClaim| claim.scarce = Some(Bottleneck::AcceptLoop);
    for (cgroup, addr) in [
        ("/user.slice/user-1000.slice/session-3.scope", "0.0.0.0:80"),
        ("/user.slice/user-1000.slice/session-3.scope", "unix:/tmp/x"),
        ("/system.slice/web.service", "127.0.0.1:80"),
        ("/", "127.0.0.1:80"),
    ] {
        let mut run = Run::new(|_| {});
        let named = |claim: &mut OverloadClaim| {
            stuck(claim);
            (claim.cgroup, claim.addr) = (Arc::from(cgroup), Arc::from(addr));
        };
        // Its owner connects to it for an hour.
        run.serves(0.0, 3_600, &ListenerFact { addr: Arc::from(addr), ..listener(cgroup) }, 10);
        assert_eq!(
            run.severity(overload(3_600.0, ClaimState::Raised, named)),
            Severity::Info,
            "{cgroup} {addr}"
        );
        assert_eq!(run.update(&overload(3_700.0, ClaimState::Raised, named)), NONE);
    }
}

#[test]
fn others_prove_a_service_only_at_its_own_address() {
    let stuck = |claim: &mut OverloadClaim| claim.scarce = Some(Bottleneck::AcceptLoop);
    let mut run = Run::new(|_| {});
    let web = listener("/system.slice/web.service");
    run.serves(0.0, 100, &web, 5);
    assert_eq!(run.severity(overload(100.0, ClaimState::Raised, stuck)), Severity::Info);
    run.judge(overload(101.0, ClaimState::Cleared, stuck));
    run.serves(102.0, 100, &ListenerFact { arrived_total: Some(1_000), ..web.clone() }, 5);
    run.judge(overload(200.0, ClaimState::Raised, stuck));
    assert_eq!(
        run.update(&overload(206.0, ClaimState::Raised, stuck))[0],
        "page (critical) overload-7-0.0.0.0:80"
    );
    // Only this host's own connections came.
    let mut run = Run::new(|_| {});
    run.serves(0.0, 3_600, &ListenerFact { remote_arrived_total: Some(0), ..web.clone() }, 5);
    run.judge(overload(3_600.0, ClaimState::Raised, stuck));
    assert_eq!(run.update(&overload(3_700.0, ClaimState::Raised, stuck)), NONE);
    // A namespace that somebody made.
    let mut run = Run::new(|_| {});
    run.policy.services_mut().set_host_netns(vec![1]);
    run.serves(0.0, 3_600, &web, 5);
    run.judge(overload(3_600.0, ClaimState::Raised, stuck));
    assert_eq!(run.update(&overload(3_700.0, ClaimState::Raised, stuck)), NONE);
}

#[test]
fn ten_minutes_of_flapping_are_one_page_and_its_updates() {
    let mut run = Run::with_service();
    let mut pages = Vec::new();
    for cycle in 0..30 {
        let t = f64::from(cycle) * 20.0;
        pages.extend(run.judge(overload(t, ClaimState::Raised, |_| {})));
        for second in 1..8 {
            pages.extend(run.update(&overload(t + f64::from(second), ClaimState::Raised, |_| {})));
        }
        pages.extend(run.judge(overload(t + 8.0, ClaimState::Cleared, |_| {})));
        pages.extend(run.scan(t + 9.0));
    }
    assert!(!pages.iter().any(|page| page.starts_with("resolve")), "{pages:#?}");
    let paged = pages.iter().filter(|page| page.starts_with("page")).count();
    assert!((2..=11).contains(&paged), "an update a minute: {pages:#?}");
    assert!(
        pages
            .iter()
            .filter(|page| page.starts_with("page"))
            .all(|page| page.ends_with("overload-7-0.0.0.0:80"))
    );
    assert_eq!(run.scan(1_300.0), ["resolve overload-7-0.0.0.0:80"]);
}

#[test]
fn a_thousand_listeners_of_one_process_are_one_page() {
    let mut run = Run::with_service();
    let (mut paged, mut resolved) = (0, 0);
    let numbered = |number: u32| {
        move |claim: &mut OverloadClaim| claim.addr = Arc::from(format!("0.0.0.0:{number}"))
    };
    for number in 0..1_000 {
        run.judge(overload(0.0, ClaimState::Raised, numbered(number)));
    }
    for second in [3.0, 4.0, 5.0] {
        for number in 0..1_000 {
            let decided = run.update(&overload(second, ClaimState::Raised, numbered(number)));
            paged += decided.iter().filter(|one| one.starts_with("page")).count();
        }
    }
    for number in 0..1_000 {
        run.judge(overload(10.0, ClaimState::Cleared, numbered(number)));
    }
    resolved += run.scan(700.0).len();
    assert_eq!((paged, resolved), (1, 1));
}

#[test]
fn services_short_of_the_same_at_one_moment_are_one_incident() {
    let mut run =
        Run::new(|config| config.services = vec![ServicePattern::new("*.service").unwrap()]);
    let of = |name: &'static str| {
        move |claim: &mut OverloadClaim| {
            (claim.cgroup, claim.addr) =
                (Arc::from(format!("/system.slice/{name}.service")), Arc::from(name));
            (claim.pid, claim.scarce) = (None, Some(Bottleneck::Memory));
        }
    };
    run.judge(overload(0.0, ClaimState::Raised, of("a")));
    run.judge(overload(1.0, ClaimState::Raised, of("b")));
    run.update(&overload(10.0, ClaimState::Raised, of("a")));
    assert_eq!(run.update(&overload(11.0, ClaimState::Raised, of("b"))), NONE);
}

#[test]
fn a_dependency_that_only_health_checks_miss_is_info() {
    let claim = |spared| CascadeRiskClaim {
        sign: Sign::DependencyDown,
        addr: Arc::from("10.0.0.12:8080"),
        netns: 7,
        pid: 3,
        comm: Arc::from("haproxy"),
        cgroup: Arc::from("/system.slice/haproxy.service"),
        failed: 28,
        spared,
    };
    let claim = |spared| verdict(0.0, ClaimState::Raised, Claim::CascadeRisk(claim(spared)), None);
    for spared in [Spared::OnlyChecks, Spared::OthersAnswer] {
        let mut run = Run::new(|config| {
            config.services = vec![ServicePattern::new("haproxy.service").unwrap()]
        });
        assert_eq!(run.judge(claim(Some(spared))), NONE);
    }
    let mut run = Run::new(|_| {});
    let id = "page (warning) cascade-risk-7-10.0.0.12:8080-/system.slice/haproxy.service";
    assert_eq!(run.judge(claim(None)), [id]);
}

#[test]
fn a_diagnosis_is_updated_while_the_claim_stands() {
    let mut run = Run::with_service();
    run.judge(overload(0.0, ClaimState::Raised, |_| {}));
    run.update(&overload(4.0, ClaimState::Raised, |_| {}));
    let storm = |claim: &mut OverloadClaim| claim.sign = Some(Sign::RetryStorm);
    let updated =
        run.policy.update(&overload(15.0, ClaimState::Raised, storm), &mut run.decisions).unwrap();
    assert_eq!((updated.state, updated.t), (ClaimState::Updated, 15.0));
    assert!(
        run.policy.update(&overload(16.0, ClaimState::Raised, storm), &mut run.decisions).is_none()
    );
}

#[test]
fn protected_and_allowed_units_keep_their_meaning_for_limits() {
    let mut run = Run::new(|config| config.allow = vec![Pattern::new("db.service").unwrap()]);
    let refused =
        "limit refused: its unit or cgroup matches no pattern in decide.allow leak-812-4711";
    assert_eq!(
        run.judge(leak(0.0, ClaimState::Raised, 3_000.0)),
        ["page (warning) leak-812-4711", refused]
    );
}

/// The answer of the coordinator on who pages for the leak of [`leak`].
fn answer(pager: Option<&str>, is_critical: bool, others: u32) -> Fact {
    Fact::Pager(PagerFact {
        group: Arc::from("web"),
        cause: Arc::from("api in api.service"),
        pager: pager.map(Arc::from),
        is_critical,
        others,
    })
}

fn run_in_group() -> Run {
    let run = Run::new(|_| {});
    Run { policy: run.policy.in_group(), ..run }
}

impl Run {
    /// Pages sent since the last call, by severity, and those left to another node.
    fn pages(&mut self) -> Vec<String> {
        let pages = self.decisions.drain(..).filter_map(|decision| match decision.action {
            Action::Page { severity } => Some(match decision.refused {
                None => severity.name().to_owned(),
                Some(refused) => refused.to_string(),
            }),
            _ => None,
        });
        pages.collect()
    }

    fn sees(&mut self, t: f64, fact: &Fact) -> Vec<String> {
        self.policy.observe(t, fact, &mut self.decisions);
        self.pages()
    }

    fn scans(&mut self, t: f64) -> Vec<String> {
        self.sees(t, &host())
    }

    fn leaks(&mut self, t: f64, state: ClaimState, exhaustion_secs: f64) -> Vec<String> {
        let mut verdict = leak(t, state, exhaustion_secs);
        self.policy.judge(&mut verdict, &mut self.decisions);
        self.pages()
    }
}

const FAR: f64 = 7_200.0;
const NEAR: f64 = 300.0;

#[test]
fn page_for_a_leak_of_the_group_waits_for_the_answer() {
    let mut run = run_in_group();
    assert_eq!(run.leaks(0.0, ClaimState::Raised, FAR), [""; 0]);
    assert_eq!(run.scans(5.0), [""; 0]);
    assert_eq!(run.sees(6.0, &answer(None, false, 0)), ["warning"]);
    assert_eq!(run.scans(16.0), [""; 0], "it was sent");
}

#[test]
fn page_is_sent_if_nobody_answers() {
    let mut run = run_in_group();
    assert_eq!(run.leaks(0.0, ClaimState::Raised, FAR), [""; 0]);
    assert_eq!(run.scans(14.0), [""; 0]);
    assert_eq!(run.scans(15.0), ["warning"]);
    let mut alone = Run::new(|_| {});
    assert_eq!(alone.leaks(0.0, ClaimState::Raised, FAR), ["warning"], "no group, no wait");
}

#[test]
fn another_nodes_page_stands_for_this_ones_until_it_fails() {
    let mut run = run_in_group();
    run.leaks(0.0, ClaimState::Raised, FAR);
    let left = "node n3 pages for this leak, which it has too";
    assert_eq!(run.sees(1.0, &answer(Some("n3"), false, 5)), [left]);
    for t in [60.0, 500.0] {
        assert_eq!(run.scans(t), [""; 0], "{t}");
    }
    assert_eq!(run.scans(601.0), ["warning"], "the answer is old");
    let mut run = run_in_group();
    run.leaks(0.0, ClaimState::Raised, FAR);
    run.sees(1.0, &answer(Some("n3"), false, 5));
    assert_eq!(run.sees(61.0, &answer(None, false, 5)), ["warning"], "n3 is gone");
}

#[test]
fn leak_that_is_over_before_its_page_is_never_paged() {
    let mut run = run_in_group();
    run.leaks(0.0, ClaimState::Raised, FAR);
    run.sees(1.0, &answer(Some("n3"), false, 5));
    assert_eq!(run.leaks(60.0, ClaimState::Cleared, FAR), [""; 0]);
    for t in [100.0, 700.0, 4_000.0] {
        run.policy.observe(t, &answer(None, false, 5), &mut run.decisions);
        assert_eq!(run.scans(t), [""; 0]);
    }
    assert!(run.decisions.is_empty(), "nothing is resolved that nobody was told of");
}

#[test]
fn critical_leak_wakes_somebody_unless_another_node_does() {
    let mut run = run_in_group();
    run.leaks(0.0, ClaimState::Raised, FAR);
    run.sees(1.0, &answer(Some("n3"), false, 5));
    run.policy.update(&leak(100.0, ClaimState::Raised, NEAR), &mut run.decisions);
    assert_eq!(run.pages(), [""; 0], "who pages for that is asked");
    assert_eq!(run.sees(101.0, &answer(None, true, 5)), ["critical"]);

    let mut run = run_in_group();
    run.leaks(0.0, ClaimState::Raised, FAR);
    run.sees(1.0, &answer(None, false, 0));
    run.policy.update(&leak(100.0, ClaimState::Raised, NEAR), &mut run.decisions);
    assert_eq!(run.sees(101.0, &answer(Some("n2"), true, 5)), [""; 0], "n2 woke somebody");
    assert_eq!(run.scans(200.0), [""; 0]);
}

#[test]
fn page_for_the_group_counts_its_nodes() {
    let mut run = run_in_group();
    run.leaks(0.0, ClaimState::Raised, FAR);
    run.sees(1.0, &answer(None, false, 0));
    let mut told = |t: f64, others: u32| {
        run.policy.observe(t, &answer(None, false, others), &mut run.decisions);
        let mut said = run.decisions.drain(..).map(|decision| decision.why);
        said.next_back().and_then(|why| why.split("; ").last().map(str::to_owned))
    };
    let in_words = |nodes: &str| {
        Some(format!("{nodes} of group web leak in the same way, and this page is for all of them"))
    };
    assert_eq!(told(61.0, 1), in_words("1 other node"));
    assert_eq!(told(121.0, 2), None, "not for each node");
    assert_eq!(told(181.0, 3), in_words("3 other nodes"));
}

#[test]
fn other_claims_of_the_incident_page_as_before() {
    let run = Run::new(|config| {
        config.services = vec![ServicePattern::new("api.service").unwrap()];
    });
    let mut run = Run { policy: run.policy.in_group(), ..run };
    run.leaks(0.0, ClaimState::Raised, FAR);
    run.sees(1.0, &answer(Some("n3"), false, 5));
    let mut own = overload(2.0, ClaimState::Raised, |claim| {
        (claim.cgroup, claim.scarce) = ("/api.service".into(), Some(Bottleneck::Backlog));
    });
    run.policy.judge(&mut own, &mut run.decisions);
    assert_eq!(run.pages(), ["warning"]);
}

#[test]
fn page_is_shared_for_units_of_the_system_alone() {
    let id = "3f".repeat(32);
    for (cgroup, is_shared) in [
        ("/api.service".to_owned(), true),
        ("/system.slice/api.service".to_owned(), true),
        // A user gives a unit any name.
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/api.service".to_owned(), false),
        ("/system.slice/runner.service/api.service".to_owned(), false),
        // Each Java program in a container is a `java`.
        (format!("/system.slice/docker-{id}.scope"), false),
        (format!("/docker/{id}"), false),
        (format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"), false),
    ] {
        let mut run = run_in_group();
        let mut verdict = leak(0.0, ClaimState::Raised, FAR);
        leak_of(&mut verdict).cgroup = Arc::from(cgroup.as_str());
        run.policy.judge(&mut verdict, &mut run.decisions);
        assert_eq!(run.pages().is_empty(), is_shared, "{cgroup}");
    }
}

#[test]
fn open_incidents_are_listed_worst_first() {
    let mut run = Run::with_service();
    let other = |t, secs, pid: u32| {
        let mut far = leak(t, ClaimState::Raised, secs);
        let claim = leak_of(&mut far);
        (claim.id.pid, claim.cgroup) = (pid, format!("/{pid}").into());
        far
    };
    run.judge(other(0.0, 90_000.0, 5));
    run.judge(other(1.0, 80_000.0, 6));
    run.judge(leak(2.0, ClaimState::Raised, 60.0));
    let pids = |incidents: &[IncidentView]| -> Vec<_> {
        incidents.iter().map(|incident| incident.claims[0].claim.pid()).collect()
    };
    let (incidents, total) = run.policy.incidents(2);
    assert_eq!((pids(&incidents), total), (vec![Some(812), Some(6)], 3));
    assert!(incidents[0].is_paged && incidents[0].claims_total == 1);
    // The evidence of the claim outlives that of its forecasts.
    run.update(&Verdict { why: "it still grows".into(), ..leak(2.5, ClaimState::Raised, 60.0) });
    let (incidents, _) = run.policy.incidents(1);
    assert_eq!((&*incidents[0].evidence, &*incidents[0].claims[0].why), ("so", "it still grows"));
    // A quiet one is not open, and is known until it is resolved.
    run.judge(leak(3.0, ClaimState::Cleared, 60.0));
    let (incidents, total) = run.policy.incidents(9);
    assert_eq!((pids(&incidents), total), (vec![Some(6), Some(5)], 2));
    let id = leak(0.0, ClaimState::Raised, 1.0).claim.id();
    assert!(run.policy.knows(&id));
    run.scan(10_000.0);
    assert!(!run.policy.knows(&id));
}
