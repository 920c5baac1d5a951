use std::sync::Arc;

use super::*;
use crate::{
    act::OutcomeCause,
    config::{DecideConfig, Mode},
    decide::Policy,
    detect::{Bound, Claim, ClaimState, LeakClaim, OverloadClaim, Resource},
    sense::ProcessId,
};

const NOW: Now = Now { t: 10.0, unix_ms: 1_764_151_320_000 };

fn tracker(left_open: Vec<Notification>) -> IncidentTracker {
    let reporter = Reporter {
        host: "web-3".to_owned(),
        run: "run".to_owned(),
        sure_after: Duration::from_secs(60),
    };
    IncidentTracker::new(reporter, left_open, 0.0)
}

fn leak(state: ClaimState) -> Verdict {
    let claim = LeakClaim {
        cgroup_memory: None,
        resource: Resource::Memory,
        id: ProcessId { pid: 812, start_ticks: 4711 },
        comm: Arc::from("api"),
        cgroup: Arc::from("/api.service"),
        growth_bytes_per_sec: Some(1_048_576.0),
        growth_handles_per_sec: None,
        growth_interval_bytes_per_sec: None,
        bound: Bound::Host,
    };
    let (claim, why) = (Claim::Leak(claim), "it stopped growing".to_owned());
    Verdict {
        t: 1.0,
        claim,
        exhaustion_secs: Some(3_000.0),
        exhaustion_interval_secs: None,
        harm: None,
        identity: None,
        confidence: 1.0,
        state,
        why,
    }
}

/// Makes a policy that resolves incidents at once.
fn undamped() -> Policy {
    Policy::new(
        &DecideConfig { flap_within: Duration::ZERO, ..DecideConfig::default() },
        Mode::Enforce,
    )
}

/// Returns the notifications for the decisions that a verdict leads to.
fn judged(
    tracker: &mut IncidentTracker,
    policy: &mut Policy,
    state: ClaimState,
) -> Vec<Notification> {
    let (mut verdict, mut decisions) = (leak(state), Vec::new());
    policy.judge(&mut verdict, &mut decisions);
    let verdicts = [verdict];
    decisions.iter().filter_map(|decision| tracker.on_decision(NOW, decision, &verdicts)).collect()
}

fn outcome(event: OutcomeKind) -> Outcome {
    let (cause, cgroup) = (IncidentId::from("leak-812-4711").into(), Arc::from("/api.service"));
    Outcome {
        t: 11.0,
        event,
        cause,
        cgroup,
        limit_bytes: Some(512 << 20),
        why: "memory.high set".to_owned(),
    }
}

fn kinds(notifications: &[Notification]) -> Vec<(Update, Severity)> {
    notifications.iter().map(|notification| (notification.update, notification.severity)).collect()
}

#[test]
fn an_incident_is_reported_once_on_changes_and_at_its_end() {
    let (mut tracker, mut policy) = (tracker(Vec::new()), undamped());
    let raised = judged(&mut tracker, &mut policy, ClaimState::Raised);
    assert_eq!(kinds(&raised), [(Update::Raised, Severity::Warning)]);
    assert_eq!(raised[0].incident, "spillway/web-3/leak-812-4711");
    let since = " Since 10:02 UTC. Spillway: no action taken. To do: ";
    assert!(raised[0].summary.contains(since), "{}", raised[0].summary);

    let limited = tracker.on_outcome(NOW, &outcome(OutcomeKind::Limited));
    assert_eq!(
        kinds(&limited),
        [(Update::Updated, Severity::Warning), (Update::Changed, Severity::Warning)]
    );
    assert!(
        limited[0].summary.contains(" Spillway: memory limited to 512.0 MiB. "),
        "{}",
        limited[0].summary
    );
    assert_eq!(limited[1].summary, "Spillway on web-3: limited /api.service: memory.high set");
    assert!(
        tracker.on_outcome(NOW, &outcome(OutcomeKind::Reasserted)).is_empty(),
        "the action is the same"
    );
    assert_eq!(
        kinds(&tracker.on_outcome(NOW, &outcome(OutcomeKind::Limited))),
        [(Update::Changed, Severity::Warning)]
    );

    // A setback is reported by the decision that follows from it, and once.
    assert!(tracker.on_outcome(NOW, &outcome(OutcomeKind::Thrashing)).is_empty());
    let mut decisions = Vec::new();
    policy.set_back(12.0, &IncidentId::from("leak-812-4711"), "it thrashes", &mut decisions);
    let notifications: Vec<_> =
        decisions.iter().filter_map(|decision| tracker.on_decision(NOW, decision, &[])).collect();
    assert_eq!(kinds(&notifications), [(Update::Updated, Severity::Critical)]);
    assert!(
        notifications[0]
            .summary
            .contains(" Spillway: a limit does not help: memory.high set. Now: "),
        "{}",
        notifications[0].summary
    );

    let resolved = judged(&mut tracker, &mut policy, ClaimState::Cleared);
    assert_eq!(kinds(&resolved), [(Update::Resolved, Severity::Critical)]);
    assert!(resolved[0].summary.starts_with("Resolved after 0.0 s: leak of memory, api on web-3."));
    let undone = tracker.on_outcome(NOW, &outcome(OutcomeKind::Undone));
    assert_eq!(kinds(&undone), [(Update::Changed, Severity::Warning)]);
    let ids: std::collections::BTreeSet<_> = raised
        .iter()
        .chain(&limited)
        .chain(&notifications)
        .chain(&resolved)
        .chain(&undone)
        .map(|notification| &notification.id)
        .collect();
    assert_eq!(ids.len(), 6, "identities differ");
}

#[test]
fn the_next_run_continues_silently_and_ends_the_unseen() {
    let (mut first, mut policy) = (tracker(Vec::new()), undamped());
    let raised = judged(&mut first, &mut policy, ClaimState::Raised);
    let mut policy = undamped();
    let mut seen = tracker(raised.clone());
    assert!(judged(&mut seen, &mut policy, ClaimState::Raised).is_empty());
    assert!(seen.due(Now { t: 1_000.0, ..NOW }).is_empty());
    assert_eq!(
        kinds(&judged(&mut seen, &mut policy, ClaimState::Cleared)),
        [(Update::Resolved, Severity::Warning)]
    );

    let mut unseen = tracker(raised);
    assert!(unseen.due(Now { t: 59.0, ..NOW }).is_empty());
    let over = unseen.due(Now { t: 60.0, ..NOW });
    assert_eq!(kinds(&over), [(Update::Resolved, Severity::Warning)]);
    assert!(unseen.due(Now { t: 61.0, ..NOW }).is_empty());
}

#[test]
fn long_keys_are_cut_and_still_differ() {
    let tracker = tracker(Vec::new());
    let [one, other] =
        ["x", "y"].map(|end| tracker.key(&format!("cascade-risk-{}{end}", "é".repeat(200))));
    assert!(
        one.len() <= KEY_BYTES_MAX && other.len() <= KEY_BYTES_MAX && one != other,
        "{one} {other}"
    );
}

/// Makes a verdict on an overloaded listener in a cgroup.
fn overload(cgroup: &str, addr: &str, state: ClaimState) -> Verdict {
    let claim = OverloadClaim {
        addr: Arc::from(addr),
        cgroup: Arc::from(cgroup),
        ..OverloadClaim::default()
    };
    Verdict { claim: Claim::Overload(claim), ..leak(state) }
}

fn decision(verdict: &Verdict, severity: Severity, why: &str) -> Decision {
    let action = if verdict.state == ClaimState::Raised {
        Action::Page { severity }
    } else {
        Action::Resolve
    };
    let (id, why) = (IncidentId::from(verdict), why.to_owned());
    Decision {
        action,
        mode: Mode::Enforce,
        verdict: Arc::new(verdict.clone()),
        id,
        performed: false,
        refused: None,
        why,
    }
}

fn decide(
    tracker: &mut IncidentTracker,
    t: f64,
    verdict: &Verdict,
    severity: Severity,
) -> Option<Notification> {
    let decision = decision(verdict, severity, &verdict.why);
    tracker.on_decision(Now { t, ..NOW }, &decision, std::slice::from_ref(verdict))
}

#[test]
fn one_outcome_updates_each_of_its_incidents() {
    let mut tracker = tracker(Vec::new());
    // Joined ids could not be told apart again: this address looks like two of them.
    let addr = "unix:/run/a, leak-1-1";
    let verdicts = [leak(ClaimState::Raised), overload("/api.service", addr, ClaimState::Raised)];
    for verdict in &verdicts {
        assert!(decide(&mut tracker, 1.0, verdict, Severity::Warning).is_some());
    }
    let cause = OutcomeCause::Incidents(verdicts.iter().map(IncidentId::from).collect());
    let undone = Outcome { cause, ..outcome(OutcomeKind::Undone) };
    let updated: Vec<_> = tracker
        .on_outcome(NOW, &undone)
        .into_iter()
        .map(|one| (one.incident, one.update))
        .collect();
    let leak = "spillway/web-3/leak-812-4711".to_owned();
    assert_eq!(
        updated,
        [
            (leak.clone(), Update::Updated),
            (format!("spillway/web-3/overload-0-{addr}"), Update::Updated),
            (leak, Update::Changed)
        ]
    );
    let printed = serde_json::to_value(&undone).unwrap();
    assert_eq!(printed["id"], format!("leak-812-4711, overload-0-{addr}"));
}

#[test]
fn page_says_how_much_load_is_shed() {
    let mut tracker = tracker(Vec::new());
    let verdict = overload("/api.service", "0.0.0.0:80", ClaimState::Raised);
    let shedding = |why: &str| Outcome {
        cause: IncidentId::from(&verdict).into(),
        cgroup: Arc::from("0.0.0.0:80"),
        why: why.to_owned(),
        ..outcome(OutcomeKind::Shedding)
    };
    // Load is shed before the overload has lasted for long enough to page.
    let bounded = "accept queue bounded to 9 connections, 511 before";
    assert!(tracker.on_outcome(NOW, &shedding(bounded)).is_empty());
    assert!(decide(&mut tracker, 10.0, &verdict, Severity::Warning).is_some());
    let figures = format!("{bounded}; in 5.0 s, 101/s accepted, and 98/s refused");
    let updated = tracker.on_outcome(NOW, &shedding(&figures));
    assert_eq!(updated.len(), 1);
    let summary = &updated[0].summary;
    assert!(summary.contains(&format!("Spillway: shedding load: {figures}.")), "{summary}");
}

#[test]
fn updates_are_a_minute_apart_unless_it_becomes_critical() {
    let mut tracker = tracker(Vec::new());
    let verdict = leak(ClaimState::Raised);
    let mut at = |t: f64, severity, why: &str| {
        let now = Now { t, ..NOW };
        let decided = tracker.on_decision(
            now,
            &decision(&verdict, severity, why),
            std::slice::from_ref(&verdict),
        );
        let notifications: Vec<_> = decided.into_iter().chain(tracker.due(now)).collect();
        assert!(
            notifications
                .iter()
                .all(|notification| notification.incident == "spillway/web-3/leak-812-4711")
        );
        let sentences = notifications
            .into_iter()
            .map(|notification| (notification.update, notification.severity, notification.summary));
        sentences
            .map(|(update, severity, summary)| {
                (update, severity, summary.contains("Now: "), summary)
            })
            .collect::<Vec<_>>()
    };
    let brief = |notifications: &[(Update, Severity, bool, String)]| {
        notifications
            .iter()
            .map(|(update, severity, has_why, _)| (*update, *severity, *has_why))
            .collect::<Vec<_>>()
    };
    let (warning, critical) = (Severity::Warning, Severity::Critical);
    assert_eq!(brief(&at(0.0, warning, "it grows")), [(Update::Raised, warning, false)]);
    assert!(at(1.0, warning, "it grows").is_empty(), "nothing changed");
    let updated = at(2.0, warning, "it grows faster");
    assert_eq!(brief(&updated), [(Update::Updated, warning, true)]);
    assert!(updated[0].3.contains(" Now: it grows faster. To do: "), "{}", updated[0].3);
    assert!(at(3.0, warning, "it grows fast").is_empty(), "a minute has to pass");
    assert_eq!(brief(&at(4.0, critical, "it ends soon")), [(Update::Updated, critical, true)]);
    assert!(at(5.0, warning, "it ends later").is_empty());
    let updated = at(64.0, warning, "it ends tomorrow");
    assert_eq!(brief(&updated), [(Update::Updated, warning, true)], "it is less urgent");
    assert!(updated[0].3.contains("tomorrow"), "the newest reason counts: {}", updated[0].3);
    // Ten minutes in which it changes every second.
    let flaps =
        (0..600).flat_map(|nth| at(65.0 + f64::from(nth), warning, ["a", "b"][nth as usize % 2]));
    assert!((9..=10).contains(&flaps.count()));
}

#[test]
fn an_incident_of_severity_info_is_not_reported() {
    let mut tracker = tracker(Vec::new());
    // The lowest severity.
    let Ok(info) = serde_json::from_str::<Severity>("\"info\"") else { return };
    let verdict = overload("/a.service", "0.0.0.0:80", ClaimState::Raised);
    assert_eq!(decide(&mut tracker, 0.0, &verdict, info), None);
    assert_eq!(
        decide(&mut tracker, 0.0, &overload("/a.service", "0.0.0.0:80", ClaimState::Cleared), info),
        None
    );
}

/// Lets a thousand listeners flap for a minute, each in the cgroup that `cgroup` returns, and
/// returns the notifications.
fn flood(
    tracker: &mut IncidentTracker,
    severity: Severity,
    cgroup: impl Fn(usize) -> String,
) -> Vec<Notification> {
    let mut notifications = Vec::new();
    for step in 0..48_000_usize {
        let (t, nth) = (step as f64 / 800.0, step % 1_000);
        let state =
            if (step / 1_000).is_multiple_of(2) { ClaimState::Raised } else { ClaimState::Cleared };
        let verdict = overload(&cgroup(nth), &format!("127.0.0.1:{}", 10_000 + nth), state);
        notifications.extend(decide(tracker, t, &verdict, severity));
        notifications.extend(tracker.due(Now { t, ..NOW }));
    }
    notifications
}

#[test]
fn a_thousand_flapping_listeners_of_a_user_are_one_summary() {
    let mut tracker = tracker(Vec::new());
    let user = "/user.slice/user-1000.slice";
    let notifications =
        flood(&mut tracker, Severity::Critical, |nth| format!("{user}/session-{}.scope", nth % 7));
    let count =
        |update| notifications.iter().filter(|notification| notification.update == update).count();
    assert_eq!((count(Update::Raised), count(Update::Resolved)), (6, 5), "{notifications:#?}");
    assert!(count(Update::Updated) <= 2, "{}", count(Update::Updated));
    let summary =
        notifications.iter().rfind(|notification| notification.class == SUMMARY_CLASS).unwrap();
    assert_eq!(
        (summary.incident.as_str(), summary.group.as_str()),
        ("spillway/web-3/many-/user.slice/user-1000.slice", user)
    );
    assert!(summary.summary.contains("critical: 127.0.0.1:1"), "{}", summary.summary);
    println!("{}", summary.summary);
    assert!(tracker.open.is_empty());

    // An incident elsewhere has a notification of its own.
    let real = overload("/system.slice/api.service", "0.0.0.0:443", ClaimState::Raised);
    let notification = decide(&mut tracker, 60.0, &real, Severity::Critical).unwrap();
    assert_eq!((notification.update, notification.severity), (Update::Raised, Severity::Critical));
    // Five minutes after the last member the summary is over.
    for nth in 0..1_000 {
        let addr = format!("127.0.0.1:{}", 10_000 + nth);
        decide(
            &mut tracker,
            61.0,
            &overload(&format!("{user}/session-{}.scope", nth % 7), &addr, ClaimState::Cleared),
            Severity::Critical,
        );
    }
    let sent: Vec<_> =
        (61..420).flat_map(|t| tracker.due(Now { t: f64::from(t), ..NOW })).collect();
    assert_eq!(
        sent.last().map(|notification| (notification.update, &notification.incident)),
        Some((Update::Resolved, &summary.incident))
    );
    assert!(tracker.summaries.is_empty());
}

#[test]
fn a_thousand_cgroups_at_once_are_one_summary_of_the_host() {
    let mut tracker = tracker(Vec::new());
    let notifications =
        flood(&mut tracker, Severity::Warning, |nth| format!("/system.slice/x{nth}.service"));
    assert!(notifications.len() < 120, "{}", notifications.len());
    assert!(
        notifications
            .iter()
            .any(|notification| notification.incident == "spillway/web-3/many-everywhere"),
        "{notifications:#?}"
    );
    let real = overload("/system.slice/api.service", "0.0.0.0:443", ClaimState::Raised);
    let notification = decide(&mut tracker, 60.0, &real, Severity::Critical).unwrap();
    assert!(notification.incident.contains("overload"), "{}", notification.incident);
}

#[test]
fn the_next_run_continues_a_summary_and_ends_it() {
    let mut first = tracker(Vec::new());
    let raised =
        |nth: usize| overload("/a.service", &format!("127.0.0.1:{nth}"), ClaimState::Raised);
    let sent: Vec<_> =
        (0..7).filter_map(|nth| decide(&mut first, 0.0, &raised(nth), Severity::Warning)).collect();
    assert_eq!(sent.len(), 6, "the seventh waits for the summary's first update");
    let mut next = tracker(sent.clone());
    assert_eq!(decide(&mut next, 1.0, &raised(6), Severity::Warning), None, "it is a member");
    assert_eq!(next.open.len(), 5);
    let ends = next.due(Now { t: 60.0, ..NOW });
    assert_eq!(
        ends.iter().filter(|notification| notification.update == Update::Resolved).count(),
        5,
        "{ends:#?}"
    );
    let over = decide(
        &mut next,
        61.0,
        &overload("/a.service", "127.0.0.1:6", ClaimState::Cleared),
        Severity::Warning,
    );
    assert_eq!(over, None);
    let sent: Vec<_> = (62..400).flat_map(|t| next.due(Now { t: f64::from(t), ..NOW })).collect();
    assert_eq!(
        sent.last().map(|notification| notification.update),
        Some(Update::Resolved),
        "{sent:#?}"
    );
    assert!(next.summaries.is_empty() && next.open.is_empty());
}

#[test]
fn hostile_names_are_escaped_and_bounded() {
    let mut tracker = tracker(Vec::new());
    let cgroup = format!("/user.slice/user-1000.slice/\u{202e}{}\n", "é<!channel>".repeat(1_000));
    let verdict =
        overload(&cgroup, &format!("@\0\x1b[2J{}", "x".repeat(4_000)), ClaimState::Raised);
    let notification = decide(
        &mut tracker,
        0.0,
        &Verdict { why: "\n".repeat(100_000), ..verdict },
        Severity::Critical,
    )
    .unwrap();
    assert!(
        notification.bytes() <= super::super::NOTIFICATION_BYTES_MAX
            && notification.incident.len() <= KEY_BYTES_MAX,
        "{} bytes",
        notification.bytes()
    );
    let json = serde_json::to_string(&notification).unwrap();
    let text = [
        &notification.summary,
        &notification.component,
        &notification.group,
        &notification.incident,
        &json,
    ];
    assert!(
        text.iter().all(|text| !text.chars().any(|c| c.is_control() || c == '\u{202e}')),
        "{json}"
    );
    assert!(!json.contains("\\u00") && !json.contains("\\n"), "{json}");
}

#[test]
fn in_observe_mode_no_notification_claims_an_action() {
    let (mut tracker, mut policy) =
        (tracker(Vec::new()), Policy::new(&DecideConfig::default(), Mode::Observe));
    let mut notifications = Vec::new();
    let mut decisions = Vec::new();
    // The forecast is short enough for a limit and a drain.
    for (state, left_secs) in
        [(ClaimState::Raised, 3_000.0), (ClaimState::Raised, 60.0), (ClaimState::Cleared, 0.0)]
    {
        let mut verdict = Verdict { exhaustion_secs: Some(left_secs), ..leak(state) };
        policy.judge(&mut verdict, &mut decisions);
        policy.update(&verdict, &mut decisions);
        for decision in decisions.drain(..) {
            notifications.extend(tracker.on_decision(
                NOW,
                &decision,
                std::slice::from_ref(&verdict),
            ));
        }
    }
    assert!(notifications.len() >= 2);
    for notification in notifications {
        let said = serde_json::to_string(&notification).unwrap();
        assert!(
            ["drain", "limit", "throttled", "in service"].iter().all(|done| !said.contains(done)),
            "{said}"
        );
    }
}
