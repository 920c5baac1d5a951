use super::*;
use crate::{
    sense::identity::Identity,
    status::report::{ActionEntry, ChangeEntry, DrainSection, HealthReason, HealthSection},
};

const HOSTILE: &str = "</style><script>alert('1')</script>\" onload=\"x";

fn report() -> StatusReport {
    let action = |action: &str, state: &str, why: &str| ActionEntry {
        action: action.to_owned(),
        state: state.to_owned(),
        why: why.to_owned(),
        since: "2026-11-30T03:02:10.000Z".to_owned(),
    };
    let incident = IncidentEntry {
        id: "leak-4711-9".to_owned(),
        severity: "critical".to_owned(),
        severity_why: "the whole host runs out of memory in 9 min".to_owned(),
        verdict: "leak".to_owned(),
        headline: "api (pid 4711) on web-3 leaks memory".to_owned(),
        why: "api still grows by 1.0 MiB/s".to_owned(),
        evidence: "anonymous memory grew in a straight line for 64 s".to_owned(),
        advice: "restart api in api.service before then".to_owned(),
        confidence: 0.97,
        since: "2026-11-30T03:02:00.000Z".to_owned(),
        lasted_secs: 240.0,
        exhaustion_secs: Some(540.0),
        cgroup: "/system.slice/api.service".to_owned(),
        identity: Some(Identity {
            unit: Some("api.service".to_owned()),
            user: Some("www-data".to_owned()),
            ..Identity::default()
        }),
        claims: 1,
        actions: vec![
            action("limit", "limited", "memory.high set to 2254857830 bytes"),
            action("drain", "refused", "an action was taken on it recently"),
        ],
        ..IncidentEntry::default()
    };
    StatusReport {
        spillway_status: 1,
        version: "0.1.0".to_owned(),
        host: "web-3".to_owned(),
        at: "2026-11-30T03:06:00.000Z".to_owned(),
        mode: "enforce".to_owned(),
        incidents: vec![incident],
        incidents_total: 1,
        drain: DrainSection {
            state: "healthy".to_owned(),
            answer: "ready 100%".to_owned(),
            ..DrainSection::default()
        },
        ..StatusReport::default()
    }
}

#[test]
fn overview_leads_to_each_incident() {
    let report = report();
    let overview = render("/", &report).unwrap();
    for wanted in [
        "<title>1 critical on web-3</title>",
        "Spillway watches and acts.",
        "<a href=\"/incidents/leak-4711-9\">api (pid 4711) on web-3 leaks memory</a>",
        "limited: memory.high set to 2254857830 bytes",
        "restart api in api.service before then",
        "in service (ready 100%)",
    ] {
        assert!(overview.contains(wanted), "no {wanted:?} in {overview}");
    }
    let page = render("/incidents/leak-4711-9", &report).unwrap();
    for wanted in [
        "api.service, run by www-data",
        "anonymous memory grew in a straight line for 64 s (97 % sure)",
        "api still grows by 1.0 MiB/s",
        "claimed 03:02",
        "drain refused 03:02",
        "forecast end, if nothing is done",
        "now, 03:06",
    ] {
        assert!(page.contains(wanted), "no {wanted:?} in {page}");
    }
}

#[test]
fn page_of_a_quiet_host_says_so_and_others_do_not_exist() {
    let quiet = StatusReport { host: "web-3".to_owned(), ..StatusReport::default() };
    let overview = render("/", &quiet).unwrap();
    assert!(overview.contains("<title>web-3: no incident</title>"), "{overview}");
    assert!(render("/incidents/leak-1-1", &quiet).unwrap().contains("is not open"));
    for path in ["", "/incidents", "/index.html", "//"] {
        assert_eq!(render(path, &quiet), None, "{path}");
    }
}

#[test]
fn hung_agent_is_the_first_thing_on_the_page() {
    let reason = HealthReason { kind: "hang".to_owned(), detail: "the loop stands".to_owned() };
    let health = HealthSection { status: "failing".to_owned(), reasons: vec![reason] };
    let page = render("/", &StatusReport { health, ..report() }).unwrap();
    assert!(page.contains("no longer watches this host: the loop stands."), "{page}");
}

#[test]
fn names_that_others_chose_are_text_and_never_markup() {
    let mut report = report();
    let hostile = || HOSTILE.to_owned();
    let incident = &mut report.incidents[0];
    (incident.id, incident.headline, incident.why) = (hostile(), hostile(), hostile());
    (incident.severity, incident.cgroup, incident.advice) = (hostile(), hostile(), hostile());
    (incident.since, incident.also) = (hostile(), vec![hostile()]);
    incident.actions[0].action = hostile();
    incident.actions[0].state = hostile();
    (report.host, report.version, report.at) = (hostile(), hostile(), hostile());
    report.changes = vec![ChangeEntry { subject: hostile(), ..ChangeEntry::default() }];
    let link = link(&report.incidents[0]);
    for path in ["/", &link] {
        let page = render(path, &report).unwrap();
        assert!(page.contains("&lt;script&gt;"), "{page}");
        assert!(!page.contains("<script") && !page.contains("onload=\"x"), "{page}");
    }
}

#[test]
fn path_of_an_incident_has_safe_characters_alone() {
    assert_eq!(segment("leak-812-9"), "leak-812-9");
    assert_eq!(segment("overload-[::]:80/ä"), "overload-%5B%3A%3A%5D%3A80%2F%C3%A4");
}
