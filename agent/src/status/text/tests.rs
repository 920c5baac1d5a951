use proptest::prelude::*;

use super::*;
use crate::{
    sense::printable::is_printable,
    status::report::{
        BudgetSection, FleetMargin, FleetSection, HealthReason, HealthSection, NotificationSection,
        ProbeLine, STATUS_VERSION,
    },
};

fn probe(name: &str, lacks: Option<&str>) -> ProbeLine {
    ProbeLine {
        probe: name.to_owned(),
        state: if lacks.is_some() { "degraded" } else { "attached" }.to_owned(),
        source: "iter/task".to_owned(),
        lacks: lacks.map(str::to_owned),
    }
}

/// Report of an agent that sees no incident.
fn quiet() -> StatusReport {
    StatusReport {
        spillway_status: STATUS_VERSION,
        version: "0.1.0".to_owned(),
        host: "web-3".to_owned(),
        pid: 812,
        at: "2026-11-30T03:06:00.000Z".to_owned(),
        uptime_secs: 262_144.0,
        mode: "observe".to_owned(),
        health: HealthSection { status: "ok".to_owned(), reasons: Vec::new() },
        probes: vec![probe("process_memory", None), probe("accept_queue", None)],
        drain: DrainSection {
            state: "healthy".to_owned(),
            answer: "ready 100%".to_owned(),
            ..DrainSection::default()
        },
        budget: BudgetSection { per_hour: 6, left: 6, for_drain: 0, next_secs: None },
        ..StatusReport::default()
    }
}

fn action(action: &str, state: &str, why: &str) -> ActionEntry {
    ActionEntry {
        action: action.to_owned(),
        state: state.to_owned(),
        why: why.to_owned(),
        since: "2026-11-30T03:02:10.000Z".to_owned(),
    }
}

fn leak() -> IncidentEntry {
    IncidentEntry {
        id: "leak-4711-9".to_owned(),
        severity: "critical".to_owned(),
        severity_why: "the whole host runs out of memory in 9 min".to_owned(),
        verdict: "leak".to_owned(),
        headline: "api (pid 4711) on web-3 leaks memory, 1.0 MiB a second; if nothing is done, \
                   the whole host runs out in 9 min"
            .to_owned(),
        why: "anonymous memory grew in a straight line for 64 s, to 2.1 GiB".to_owned(),
        identity: Some(Identity {
            unit: Some("api.service".to_owned()),
            user: Some("www-data".to_owned()),
            command: Some("/usr/bin/api --port 80".to_owned()),
            ..Identity::default()
        }),
        advice: "restart api before then, and find the leak".to_owned(),
        confidence: 0.97,
        since: "2026-11-30T03:02:00.000Z".to_owned(),
        lasted_secs: 240.0,
        exhaustion_secs: Some(540.0),
        cgroup: "/system.slice/api.service".to_owned(),
        pid: Some(4_711),
        claims: 1,
        paged: true,
        actions: vec![
            action("page", "ordered", ""),
            action("limit", "limited", "memory.high set to 2254857830 bytes"),
            action("drain", "refused", "an action was taken on it recently"),
        ],
        ..IncidentEntry::default()
    }
}

/// Report of an agent that has acted.
fn acting() -> StatusReport {
    let overload = IncidentEntry {
        severity: "warning".to_owned(),
        headline: "0.0.0.0:443 (nginx) on web-3 is overloaded".to_owned(),
        why: "19 connections are waiting".to_owned(),
        advice: "look at nginx".to_owned(),
        confidence: 0.9,
        since: "2026-11-29T23:59:00.000Z".to_owned(),
        lasted_secs: 11_220.0,
        claims: 3,
        also: vec!["overload of 0.0.0.0:80".to_owned()],
        actions: vec![action("weigh", "would", "")],
        ..IncidentEntry::default()
    };
    StatusReport {
        mode: "enforce".to_owned(),
        incidents: vec![leak(), overload],
        incidents_total: 2,
        changes: vec![ChangeEntry {
            action: "limit".to_owned(),
            subject: "/system.slice/api.service".to_owned(),
            limit_bytes: Some(2_254_857_830),
            since: "2026-11-30T03:02:10.000Z".to_owned(),
            state: "limited".to_owned(),
            until: "until the incident is over".to_owned(),
            ..ChangeEntry::default()
        }],
        changes_total: 1,
        drain: DrainSection {
            state: "draining".to_owned(),
            out: true,
            answer: "drain".to_owned(),
            since: Some("2026-11-30T03:03:00.000Z".to_owned()),
            operator: Some("drain".to_owned()),
            work: Some("12 requests are in flight".to_owned()),
            until: Some("until `spillway resume`".to_owned()),
            ..DrainSection::default()
        },
        notifications: NotificationSection {
            receivers: vec!["pagerduty".to_owned()],
            waiting: 2,
            problems: vec!["pagerduty: the last notification was not delivered".to_owned()],
        },
        budget: BudgetSection { per_hour: 6, left: 0, for_drain: 0, next_secs: Some(1_500.0) },
        probes: vec![probe("accept_sojourn", Some("only the longest wait is timed"))],
        ..quiet()
    }
}

#[test]
fn quiet_agent_says_so_on_one_screen() {
    let expected = "\
Spillway 0.1.0 on web-3 only observes: it changes nothing on this host
Agent     up for 3.0 days; pid 812; mode = \"observe\"; no configuration file

Incidents none is open

Changed   nothing on this host
Rotation  in service (ready 100%)
Actions   none is taken, because of mode = \"observe\"; 6 of 6 are left this hour
Notifies  nobody: no receiver is set in [act.page], or act.page.in_observe is
          not
Sees      everything: all 2 probes are at their best

  spillway drain  take this node out of rotation
";
    assert_eq!(print(&quiet(), false, ""), expected);
}

#[test]
fn evidence_of_the_claim_is_kept_beside_that_of_now() {
    let evidence = "api grew by 120 MiB in 64 s, without slowing down".to_owned();
    let why = "api still grows by 1.0 MiB/s".to_owned();
    let incident = IncidentEntry { evidence, why, ..leak() };
    let report = StatusReport { incidents: vec![incident], incidents_total: 1, ..quiet() };
    let text = print(&report, false, "");
    let lines = "  why     api grew by 120 MiB in 64 s, without slowing down\n  now     api still";
    assert!(text.contains(lines), "{text}");
}

#[test]
fn worst_incident_comes_first_with_what_was_done() {
    let expected = "\
Spillway 0.1.0 on web-3 watches and acts
Agent     up for 3.0 days; pid 812; mode = \"enforce\"; no configuration file

CRITICAL  api (pid 4711) on web-3 leaks memory, 1.0 MiB a second; if nothing is
          done, the whole host runs out in 9 min
  since   03:02 UTC, for 4 min; 97 % sure
  why     anonymous memory grew in a straight line for 64 s, to 2.1 GiB
  harm    the whole host runs out of memory in 9 min
  done    paged by pagerduty; limited: memory.high set to 2254857830 bytes
  refused drain this node: an action was taken on it recently
  what    api.service, run by www-data, `/usr/bin/api --port 80`
  to do   restart api before then, and find the leak

WARNING   0.0.0.0:443 (nginx) on web-3 is overloaded
  since   2026-11-29 23:59 UTC, for 3.1 h; 90 % sure; 3 claims, one cause
  why     19 connections are waiting
  also    overload of 0.0.0.0:80
  not set lower this node's weight
  to do   look at nginx

Changed   /system.slice/api.service may use 2.1 GiB of memory since 03:02 UTC,
          until the incident is over
Rotation  draining: no new work is accepted; 12 requests are in flight; since
          03:03 UTC; by an operator; until `spillway resume`
Actions   0 of 6 are left this hour, the next in 25 min
Notifies  pagerduty; 2 notifications are not delivered yet; pagerduty: the last
          notification was not delivered
Sees      0 of 1 probes are at their best
  less    accept_sojourn: only the longest wait is timed

  spillway pause    stop all new actions
  spillway resume   leave the rotation to Spillway again
  spillway undo     restore everything that it changed
  spillway undrain  take this node back into rotation
  spillway doctor   see why a probe is not at its best
";
    assert_eq!(print(&acting(), false, ""), expected);
}

#[test]
fn hang_and_pause_are_said_first() {
    let mut report = StatusReport { paused: true, ..acting() };
    report.health.reasons.push(HealthReason {
        kind: "hang".to_owned(),
        detail: "the next scan of the host is 40.0 s late".to_owned(),
    });
    let text = print(&report, false, "");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].contains("is PAUSED: it watches, and starts no action"), "{text}");
    assert!(lines[1].starts_with("HANGS     it no longer watches this host"), "{text}");
    assert!(text.contains("spillway resume   allow actions again"), "{text}");
    assert!(!text.contains("spillway pause"), "{text}");
}

#[test]
fn only_the_first_incidents_are_printed_and_the_rest_counted() {
    let incidents = vec![leak(); 50];
    let text = print(&StatusReport { incidents, incidents_total: 1_234, ..quiet() }, false, "");
    assert_eq!(text.matches("CRITICAL").count(), LISTED_MAX);
    assert!(text.contains("and       1,229 more incidents are open"), "{text}");
}

#[test]
fn long_commands_are_not_broken() {
    let file = format!("/etc/{}.toml", "x".repeat(80));
    let text = print(&quiet(), false, &format!(" --config {file}"));
    let command =
        format!("  to take this node out of rotation:\n    spillway drain --config {file}");
    assert!(text.contains(&command), "{text}");
}

#[test]
fn colours_are_only_added() {
    let plain = print(&acting(), false, "");
    let coloured = print(&acting(), true, "");
    assert!(coloured.contains("\x1b[1;31mCRITICAL"), "{coloured}");
    let mut stripped = coloured;
    for code in ["\x1b[1m", "\x1b[1;31m", "\x1b[1;33m", "\x1b[0m"] {
        stripped = stripped.replace(code, "");
    }
    assert_eq!(stripped, plain);
}

proptest! {
    #[test]
    fn any_report_fits_the_terminal_and_cannot_control_it(
        hostile in "\\PC{0,200}|[\u{0}-\u{2ff}]{0,200}|[\u{2000}-\u{206f}]{0,20}",
        paused: bool,
    ) {
        let mut report = StatusReport { paused, ..acting() };
        let incident = &mut report.incidents[0];
        for text in [
            &mut incident.headline, &mut incident.why, &mut incident.advice,
            &mut incident.severity, &mut incident.severity_why, &mut incident.since,
            &mut incident.actions[0].state, &mut incident.cgroup,
        ] {
            text.clone_from(&hostile);
        }
        incident.actions[1].why.clone_from(&hostile);
        for text in [
            &mut report.host, &mut report.at, &mut report.drain.state, &mut report.probes[0].probe,
            &mut report.notifications.receivers[0], &mut report.changes[0].subject,
        ] {
            text.clone_from(&hostile);
        }
        report.drain.obstacle = Some(hostile);
        let text = print(&report, false, "");
        prop_assert!(text.chars().all(|c| c == '\n' || is_printable(c)), "{}", text);
        prop_assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{}", text);
        // The report itself may be anything.
        let json = serde_json::to_vec(&report).unwrap();
        prop_assert_eq!(StatusReport::parse(&json).unwrap(), report);
    }
}

#[test]
fn report_of_another_version_is_understood_as_far_as_it_goes() {
    let newer =
        br#"{"spillway_status":1,"mode":"enforce","new":{"a":1},"incidents":[{"why":"x"}]}"#;
    let report = StatusReport::parse(newer).unwrap();
    assert_eq!((&*report.mode, &*report.incidents[0].why), ("enforce", "x"));
    for wrong in
        [&b"{}"[..], b"[]", b"", br#"{"spillway_status":2}"#, br#"{"spillway_status":1,"pid":"x"}"#]
    {
        assert!(StatusReport::parse(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn group_says_what_it_could_lose_and_by_what_margin() {
    let margin = |domain: &str, ratio: Option<f64>, can_be_lost| FleetMargin {
        domain: domain.to_owned(),
        name: format!("{domain}-a"),
        ratio,
        can_be_lost,
    };
    let fleet = FleetSection {
        group: "web".to_owned(),
        backend: "etcd".to_owned(),
        coordinated: Some(true),
        problem: None,
        margins: vec![
            margin("node", Some(3.16), true),
            margin("zone", Some(0.6), false),
            margin("region", None, true),
        ],
    };
    let of = |fleet: &FleetSection| {
        let report = StatusReport { fleet: Some(fleet.clone()), ..quiet() };
        let text = print(&report, false, "");
        let from = text.find("\nGroup ").expect("the group has a line") + 1;
        let to = text[from..].find("\nActions").expect("another line follows");
        text[from..from + to].to_owned()
    };
    assert_eq!(
        of(&fleet),
        "\
Group     web; etcd answers; it could lose node node-a: the others have room for
          3.2 times its load; it could NOT lose zone zone-a: the others have
          room for 0.6 times its load; it could lose region region-a: it has no
          load"
    );
    let silent = FleetSection {
        coordinated: Some(false),
        problem: Some("connection refused".to_owned()),
        ..fleet.clone()
    };
    let words = of(&silent).split_whitespace().collect::<Vec<_>>().join(" ");
    let expected =
        "Group web; without its coordinator this node does not leave: connection refused";
    assert_eq!(words, expected);
    let new = FleetSection { coordinated: None, ..fleet };
    assert_eq!(of(&new), "Group     web; etcd has not answered yet");
    assert!(!print(&quiet(), false, "").contains("\nGroup"));
}
