use std::sync::Arc;

use super::*;
use crate::{
    config::{DecideConfig, Mode},
    decide::Policy,
    detect::{Bound, Claim, ClaimState, LeakClaim, OverloadClaim, Resource},
    sense::ProcessId,
};

const NOW: Now = Now { t: 10.0, unix_ms: 1_764_151_320_000 };

fn pager(told: Vec<Notification>) -> IncidentTracker {
    let teller = Reporter {
        host: "web-3".to_owned(),
        run: "run".to_owned(),
        sure_after: Duration::from_secs(60),
    };
    IncidentTracker::new(teller, told, 0.0)
}

fn leak(state: ClaimState) -> Verdict {
    let claim = LeakClaim {
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
        confidence: 1.0,
        state,
        why,
    }
}

/// A policy that resolves what is over at once.
fn undamped() -> Policy {
    Policy::new(
        &DecideConfig { flap_within: Duration::ZERO, ..DecideConfig::default() },
        Mode::Enforce,
    )
}

/// Pages for what a claim makes the policy decide.
fn judged(
    pager: &mut IncidentTracker,
    policy: &mut Policy,
    state: ClaimState,
) -> Vec<Notification> {
    let (mut verdict, mut decisions) = (leak(state), Vec::new());
    policy.judge(&mut verdict, &mut decisions);
    let verdicts = [verdict];
    decisions.iter().filter_map(|decision| pager.decided(NOW, decision, &verdicts)).collect()
}

fn outcome(event: OutcomeKind) -> Outcome {
    let (id, cgroup) = (Arc::from("leak-812-4711"), Arc::from("/api.service"));
    Outcome {
        t: 11.0,
        event,
        id,
        cgroup,
        limit_bytes: Some(512 << 20),
        why: "memory.high set".to_owned(),
    }
}

fn told(pages: &[Notification]) -> Vec<(Update, Severity)> {
    pages.iter().map(|page| (page.news, page.severity)).collect()
}

#[test]
fn a_human_is_told_once_again_when_it_matters_and_when_it_is_over() {
    let (mut pager, mut policy) = (pager(Vec::new()), undamped());
    let raised = judged(&mut pager, &mut policy, ClaimState::Raised);
    assert_eq!(told(&raised), [(Update::Raised, Severity::Warning)]);
    assert_eq!(raised[0].incident, "spillway/web-3/leak-812-4711");
    let since = "Seen since 10:02 UTC; nothing was done about it.";
    assert!(raised[0].summary.ends_with(since), "{}", raised[0].summary);

    let limited = pager.done(NOW, &outcome(OutcomeKind::Limited));
    assert_eq!(
        told(&limited),
        [(Update::Updated, Severity::Warning), (Update::Changed, Severity::Warning)]
    );
    assert!(
        limited[0].summary.ends_with("its memory is held below 512.0 MiB."),
        "{}",
        limited[0].summary
    );
    assert_eq!(limited[1].summary, "Spillway on web-3: limited /api.service: memory.high set");
    assert!(
        pager.done(NOW, &outcome(OutcomeKind::Reasserted)).is_empty(),
        "nothing else is done now"
    );
    assert_eq!(
        told(&pager.done(NOW, &outcome(OutcomeKind::Limited))),
        [(Update::Changed, Severity::Warning)]
    );

    // A setback is told as what is decided on its account, and once.
    assert!(pager.done(NOW, &outcome(OutcomeKind::Thrashing)).is_empty());
    let mut decisions = Vec::new();
    policy.set_back(12.0, "leak-812-4711", "it thrashes", &mut decisions);
    let pages: Vec<_> =
        decisions.iter().filter_map(|decision| pager.decided(NOW, decision, &[])).collect();
    assert_eq!(told(&pages), [(Update::Updated, Severity::Critical)]);
    assert!(
        pages[0].summary.contains("; a limit does not help: memory.high set."),
        "{}",
        pages[0].summary
    );

    let resolved = judged(&mut pager, &mut policy, ClaimState::Cleared);
    assert_eq!(told(&resolved), [(Update::Resolved, Severity::Critical)]);
    assert!(resolved[0].summary.starts_with("Over after 0.0 s: leak of memory, api on web-3."));
    let undone = pager.done(NOW, &outcome(OutcomeKind::Undone));
    assert_eq!(told(&undone), [(Update::Changed, Severity::Warning)]);
    let ids: std::collections::BTreeSet<_> = raised
        .iter()
        .chain(&limited)
        .chain(&pages)
        .chain(&resolved)
        .chain(&undone)
        .map(|page| &page.id)
        .collect();
    assert_eq!(ids.len(), 6, "no page has another's identity");
}

#[test]
fn the_next_run_goes_on_without_a_word_and_ends_what_it_does_not_see() {
    let (mut first, mut policy) = (pager(Vec::new()), undamped());
    let raised = judged(&mut first, &mut policy, ClaimState::Raised);
    let mut policy = undamped();
    let mut seen = pager(raised.clone());
    assert!(judged(&mut seen, &mut policy, ClaimState::Raised).is_empty());
    assert!(seen.due(Now { t: 1_000.0, ..NOW }).is_empty());
    assert_eq!(
        told(&judged(&mut seen, &mut policy, ClaimState::Cleared)),
        [(Update::Resolved, Severity::Warning)]
    );

    let mut unseen = pager(raised);
    assert!(unseen.due(Now { t: 59.0, ..NOW }).is_empty());
    let over = unseen.due(Now { t: 60.0, ..NOW });
    assert_eq!(told(&over), [(Update::Resolved, Severity::Warning)]);
    assert!(unseen.due(Now { t: 61.0, ..NOW }).is_empty());
}

#[test]
fn a_long_name_is_cut_and_still_its_own() {
    let pager = pager(Vec::new());
    let [one, other] =
        ["x", "y"].map(|end| pager.key(&format!("cascade-risk-{}{end}", "é".repeat(200))));
    assert!(
        one.len() <= KEY_BYTES_MAX && other.len() <= KEY_BYTES_MAX && one != other,
        "{one} {other}"
    );
}

/// A listener of this cgroup that is overloaded, or was.
fn overload(cgroup: &str, addr: &str, state: ClaimState) -> Verdict {
    let claim = OverloadClaim {
        addr: Arc::from(addr),
        cgroup: Arc::from(cgroup),
        ..OverloadClaim::default()
    };
    Verdict { claim: Claim::Overload(claim), ..leak(state) }
}

fn page_of(verdict: &Verdict, severity: Severity, why: &str) -> Decision {
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
    pager: &mut IncidentTracker,
    t: f64,
    verdict: &Verdict,
    severity: Severity,
) -> Option<Notification> {
    let decision = page_of(verdict, severity, &verdict.why);
    pager.decided(Now { t, ..NOW }, &decision, std::slice::from_ref(verdict))
}

#[test]
fn a_change_of_an_open_incident_is_an_update_once_a_minute_unless_it_becomes_critical() {
    let mut pager = pager(Vec::new());
    let verdict = leak(ClaimState::Raised);
    let mut at = |t: f64, severity, why: &str| {
        let now = Now { t, ..NOW };
        let decided =
            pager.decided(now, &page_of(&verdict, severity, why), std::slice::from_ref(&verdict));
        let pages: Vec<_> = decided.into_iter().chain(pager.due(now)).collect();
        assert!(pages.iter().all(|page| page.incident == "spillway/web-3/leak-812-4711"));
        let sentences = pages.into_iter().map(|page| (page.news, page.severity, page.summary));
        sentences
            .map(|(news, severity, summary)| (news, severity, summary.contains("Now: "), summary))
            .collect::<Vec<_>>()
    };
    let brief = |pages: &[(Update, Severity, bool, String)]| {
        pages
            .iter()
            .map(|(news, severity, has_why, _)| (*news, *severity, *has_why))
            .collect::<Vec<_>>()
    };
    let (warning, critical) = (Severity::Warning, Severity::Critical);
    assert_eq!(brief(&at(0.0, warning, "it grows")), [(Update::Raised, warning, false)]);
    assert!(at(1.0, warning, "it grows").is_empty(), "that is known");
    let updated = at(2.0, warning, "it grows faster");
    assert_eq!(brief(&updated), [(Update::Updated, warning, true)]);
    assert!(updated[0].3.ends_with(" Now: it grows faster."), "{}", updated[0].3);
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
fn what_is_of_no_urgency_is_no_page() {
    let mut pager = pager(Vec::new());
    // The lowest severity there is, whatever it is called.
    let Ok(info) = serde_json::from_str::<Severity>("\"info\"") else { return };
    let verdict = overload("/a.service", "0.0.0.0:80", ClaimState::Raised);
    assert_eq!(decide(&mut pager, 0.0, &verdict, info), None);
    assert_eq!(
        decide(&mut pager, 0.0, &overload("/a.service", "0.0.0.0:80", ClaimState::Cleared), info),
        None
    );
}

/// Has a thousand listeners flap for a minute, each in the cgroup that `cgroup` gives; what is told
/// of it.
fn flood(
    pager: &mut IncidentTracker,
    severity: Severity,
    cgroup: impl Fn(usize) -> String,
) -> Vec<Notification> {
    let mut pages = Vec::new();
    for step in 0..48_000_usize {
        let (t, nth) = (step as f64 / 800.0, step % 1_000);
        let state =
            if (step / 1_000).is_multiple_of(2) { ClaimState::Raised } else { ClaimState::Cleared };
        let verdict = overload(&cgroup(nth), &format!("127.0.0.1:{}", 10_000 + nth), state);
        pages.extend(decide(pager, t, &verdict, severity));
        pages.extend(pager.due(Now { t, ..NOW }));
    }
    pages
}

#[test]
fn a_thousand_listeners_of_one_user_that_flap_are_a_few_pages_and_a_summary() {
    let mut pager = pager(Vec::new());
    let user = "/user.slice/user-1000.slice";
    let pages =
        flood(&mut pager, Severity::Critical, |nth| format!("{user}/session-{}.scope", nth % 7));
    let count = |news| pages.iter().filter(|page| page.news == news).count();
    assert_eq!((count(Update::Raised), count(Update::Resolved)), (6, 5), "{pages:#?}");
    assert!(count(Update::Updated) <= 2, "{}", count(Update::Updated));
    let summary = pages.iter().rfind(|page| page.class == SUMMARY_CLASS).unwrap();
    assert_eq!(
        (summary.incident.as_str(), summary.group.as_str()),
        ("spillway/web-3/many-/user.slice/user-1000.slice", user)
    );
    assert!(summary.summary.contains("critical: 127.0.0.1:1"), "{}", summary.summary);
    println!("{}", summary.summary);
    assert!(pager.open.is_empty());

    // A real one elsewhere has a page of its own.
    let real = overload("/system.slice/api.service", "0.0.0.0:443", ClaimState::Raised);
    let page = decide(&mut pager, 60.0, &real, Severity::Critical).unwrap();
    assert_eq!((page.news, page.severity), (Update::Raised, Severity::Critical));
    // Once nothing came back for some minutes, the summary is over.
    for nth in 0..1_000 {
        let addr = format!("127.0.0.1:{}", 10_000 + nth);
        decide(
            &mut pager,
            61.0,
            &overload(&format!("{user}/session-{}.scope", nth % 7), &addr, ClaimState::Cleared),
            Severity::Critical,
        );
    }
    let told: Vec<_> = (61..420).flat_map(|t| pager.due(Now { t: f64::from(t), ..NOW })).collect();
    assert_eq!(
        told.last().map(|page| (page.news, &page.incident)),
        Some((Update::Resolved, &summary.incident))
    );
    assert!(pager.summaries.is_empty());
}

#[test]
fn a_thousand_cgroups_at_once_are_a_summary_of_the_host_that_takes_no_critical_page() {
    let mut pager = pager(Vec::new());
    let pages = flood(&mut pager, Severity::Warning, |nth| format!("/system.slice/x{nth}.service"));
    assert!(pages.len() < 120, "{}", pages.len());
    assert!(
        pages.iter().any(|page| page.incident == "spillway/web-3/many-everywhere"),
        "{pages:#?}"
    );
    let real = overload("/system.slice/api.service", "0.0.0.0:443", ClaimState::Raised);
    let page = decide(&mut pager, 60.0, &real, Severity::Critical).unwrap();
    assert!(page.incident.contains("overload"), "{}", page.incident);
}

#[test]
fn the_next_run_goes_on_with_a_summary_and_ends_it() {
    let mut first = pager(Vec::new());
    let raised =
        |nth: usize| overload("/a.service", &format!("127.0.0.1:{nth}"), ClaimState::Raised);
    let told: Vec<_> =
        (0..7).filter_map(|nth| decide(&mut first, 0.0, &raised(nth), Severity::Warning)).collect();
    assert_eq!(told.len(), 6, "the seventh waits for the summary's first update");
    let mut next = pager(told.clone());
    assert_eq!(decide(&mut next, 1.0, &raised(6), Severity::Warning), None, "it is a member");
    assert_eq!(next.open.len(), 5);
    let ends = next.due(Now { t: 60.0, ..NOW });
    assert_eq!(ends.iter().filter(|page| page.news == Update::Resolved).count(), 5, "{ends:#?}");
    let over = decide(
        &mut next,
        61.0,
        &overload("/a.service", "127.0.0.1:6", ClaimState::Cleared),
        Severity::Warning,
    );
    assert_eq!(over, None);
    let told: Vec<_> = (62..400).flat_map(|t| next.due(Now { t: f64::from(t), ..NOW })).collect();
    assert_eq!(told.last().map(|page| page.news), Some(Update::Resolved), "{told:#?}");
    assert!(next.summaries.is_empty() && next.open.is_empty());
}

#[test]
fn whoever_chose_a_name_it_breaks_no_line_and_takes_no_room() {
    let mut pager = pager(Vec::new());
    let cgroup = format!("/user.slice/user-1000.slice/\u{202e}{}\n", "é<!channel>".repeat(1_000));
    let verdict =
        overload(&cgroup, &format!("@\0\x1b[2J{}", "x".repeat(4_000)), ClaimState::Raised);
    let page = decide(
        &mut pager,
        0.0,
        &Verdict { why: "\n".repeat(100_000), ..verdict },
        Severity::Critical,
    )
    .unwrap();
    assert!(
        page.bytes() <= super::super::PAGE_BYTES_MAX && page.incident.len() <= KEY_BYTES_MAX,
        "{} bytes",
        page.bytes()
    );
    let json = serde_json::to_string(&page).unwrap();
    let text = [&page.summary, &page.component, &page.group, &page.incident, &json];
    assert!(
        text.iter().all(|text| !text.chars().any(|c| c.is_control() || c == '\u{202e}')),
        "{json}"
    );
    assert!(!json.contains("\\u00") && !json.contains("\\n"), "{json}");
}

#[test]
fn where_nothing_is_done_no_page_says_that_something_was() {
    let (mut pager, mut policy) =
        (pager(Vec::new()), Policy::new(&DecideConfig::default(), Mode::Observe));
    let mut pages = Vec::new();
    let mut decisions = Vec::new();
    // Near enough to be limited and drained.
    for (state, left_secs) in
        [(ClaimState::Raised, 3_000.0), (ClaimState::Raised, 60.0), (ClaimState::Cleared, 0.0)]
    {
        let mut verdict = Verdict { exhaustion_secs: Some(left_secs), ..leak(state) };
        policy.judge(&mut verdict, &mut decisions);
        policy.update(&verdict, &mut decisions);
        for decision in decisions.drain(..) {
            pages.extend(pager.decided(NOW, &decision, std::slice::from_ref(&verdict)));
        }
    }
    assert!(pages.len() >= 2);
    for page in pages {
        let said = serde_json::to_string(&page).unwrap();
        assert!(
            ["drain", "limit", "held below", "takes work"].iter().all(|done| !said.contains(done)),
            "{said}"
        );
    }
}
