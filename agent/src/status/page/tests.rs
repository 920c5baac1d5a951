use super::*;
use crate::{
    history::series::{HistoryMark, MarkKind},
    sense::identity::Identity,
    status::report::{
        ActionEntry, ChangeEntry, DrainSection, HealthReason, HealthSection, ResourceEntry,
    },
};

/// History of a test.
#[derive(Default)]
struct Told {
    workload: Option<WorkloadSeries>,
    listener: Option<ListenerSeries>,
    events: Option<Vec<(u64, HistoryEvent)>>,
}

impl PageHistory for Told {
    fn workload(&self, _: &str) -> Option<WorkloadSeries> {
        self.workload.clone()
    }

    fn listener(&self, _: u32, _: &str) -> Option<ListenerSeries> {
        self.listener.clone()
    }

    fn incident(&self, _: Option<&str>) -> Option<Vec<(u64, HistoryEvent)>> {
        self.events.clone()
    }
}

const NONE: Told = Told { workload: None, listener: None, events: None };

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
    let overview = render("/", &report, &NONE).unwrap();
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
    let page = render("/incidents/leak-4711-9", &report, &NONE).unwrap();
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
    let overview = render("/", &quiet, &NONE).unwrap();
    assert!(overview.contains("<title>web-3: no incident</title>"), "{overview}");
    assert!(render("/incidents/leak-1-1", &quiet, &NONE).unwrap().contains("is not open"));
    for path in ["", "/incident", "/index.html", "//", "/workloads/%2Fa"] {
        assert_eq!(render(path, &quiet, &NONE), None, "{path}");
    }
}

#[test]
fn hung_agent_is_the_first_thing_on_the_page() {
    let reason = HealthReason { kind: "hang".to_owned(), detail: "the loop stands".to_owned() };
    let health = HealthSection { status: "failing".to_owned(), reasons: vec![reason] };
    let page = render("/", &StatusReport { health, ..report() }, &NONE).unwrap();
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
    report.workloads = vec![WorkloadEntry {
        name: hostile(),
        cgroup: hostile(),
        comm: hostile(),
        incident: Some(hostile()),
        ..WorkloadEntry::default()
    }];
    report.listeners =
        vec![ListenerEntry { addr: hostile(), comm: hostile(), ..ListenerEntry::default() }];
    report.resources = vec![ResourceEntry { subject: hostile(), ..ResourceEntry::default() }];
    let event = HistoryEvent {
        event: "raised".to_owned(),
        ids: vec![hostile()],
        verdict: hostile(),
        headline: hostile(),
        why: hostile(),
        ..HistoryEvent::default()
    };
    let mark = HistoryMark { at_ms: 1, kind: MarkKind::Raised, text: hostile() };
    let told = Told {
        workload: Some(WorkloadSeries { marks: vec![mark.clone()], ..Default::default() }),
        listener: Some(ListenerSeries { marks: vec![mark], ..Default::default() }),
        events: Some(vec![(1, event)]),
    };
    let (workload, listener) =
        (workload_link(&report.workloads[0]), listener_link(&report.listeners[0]));
    let link = link(&report.incidents[0]);
    for path in ["/", &link, &workload, &listener, "/incidents", "/incidents/another"] {
        assert!(is_page(path), "{path}");
        let page = render(path, &report, &told).unwrap();
        assert!(page.contains("&lt;script&gt;"), "{page}");
        assert!(!page.contains("<script") && !page.contains("onload=\"x"), "{page}");
    }
}

#[test]
fn path_of_an_incident_has_safe_characters_alone() {
    assert_eq!(segment("leak-812-9"), "leak-812-9");
    assert_eq!(segment("overload-[::]:80/ä"), "overload-%5B%3A%3A%5D%3A80%2F%C3%A4");
}

const NOW_MS: u64 = 1_796_007_960_000;
const MINUTE_MS: u64 = 60_000;

/// Report with a workload that leaks and a listener that waits.
fn used() -> StatusReport {
    let mut report = report();
    let incident = &mut report.incidents[0];
    incident.exhaustion_interval_secs = Some([400.0, 900.0]);
    let id = Some(incident.id.clone());
    let cgroup = incident.cgroup.clone();
    StatusReport {
        workloads: vec![WorkloadEntry {
            name: "api.service".to_owned(),
            cgroup,
            processes: 3,
            memory_bytes: 900 << 20,
            growth_bytes_per_sec: Some(1_048_576.0 / 60.0),
            growth_secs: 3_540.0,
            incident: id.clone(),
            ..WorkloadEntry::default()
        }],
        workloads_total: 1,
        listeners: vec![ListenerEntry {
            addr: "[::]:80".to_owned(),
            netns: 7,
            backlog: 12,
            backlog_max: 128,
            in_flight: Some(9),
            ..ListenerEntry::default()
        }],
        listeners_total: 30,
        resources: vec![ResourceEntry {
            resource: "memory".to_owned(),
            subject: "host".to_owned(),
            used: 3 << 30,
            limit: 4 << 30,
            exhaustion_secs: Some(540.0),
            incident: id,
        }],
        ..report
    }
}

#[test]
fn overview_leads_to_each_workload_and_listener() {
    let overview = render("/", &used(), &NONE).unwrap();
    for wanted in [
        "<a href=\"/workloads/%2Fsystem.slice%2Fapi.service\">api.service</a>",
        "+60.0 MiB an hour, over 59 min",
        "<a href=\"/listeners/7/%5B%3A%3A%5D%3A80\">[::]:80</a>",
        "3.0 GiB of 4.0 GiB (75 %)",
        "<td data-of=\"runs out in:\">9 min</td>",
        "20 more; <code>spillway top</code> lists them.",
    ] {
        assert!(overview.contains(wanted), "no {wanted:?} in {overview}");
    }
}

#[test]
fn workload_page_draws_curve_band_limit_and_marks() {
    let path = "/workloads/%2Fsystem.slice%2Fapi.service";
    let memory = (0..60).map(|minute| (NOW_MS - (60 - minute) * MINUTE_MS, 1e6 * minute as f64));
    let memory: Vec<_> = memory.collect();
    let restarted = HistoryMark {
        at_ms: NOW_MS - 30 * MINUTE_MS,
        kind: MarkKind::Restarted,
        text: "restarted: all its processes are new".to_owned(),
    };
    let series = WorkloadSeries {
        limit: vec![(memory[0].0, 7e7), (memory[59].0, 7e7)],
        memory,
        marks: vec![restarted],
    };
    let told = Told { workload: Some(series.clone()), ..Told::default() };
    let page = render(path, &used(), &told).unwrap();
    for wanted in [
        "<h1>api.service</h1>",
        "Anonymous, swapped and shared memory: now 56.3 MiB",
        "<polygon",
        "stroke-dasharray=\"6 4\"",
        "1 · 02:36 UTC",
        "restarted: all its processes are new",
        "content=\"60\"",
    ] {
        assert!(page.contains(wanted), "no {wanted:?} in {page}");
    }
    assert_eq!(page.matches("stroke-width=\"2\"").count(), 1, "one curve without a gap");
    // An hour in which the agent did not run breaks the curve.
    let mut broken = series;
    broken.memory.iter_mut().take(30).for_each(|point| point.0 -= 60 * MINUTE_MS);
    let told = Told { workload: Some(broken), ..Told::default() };
    let page = render(path, &used(), &told).unwrap();
    assert_eq!(page.matches("stroke-width=\"2\"").count(), 2);
    let page = render(path, &used(), &NONE).unwrap();
    assert!(page.contains("There is no history"), "{page}");
}

#[test]
fn incident_that_is_over_is_told_from_the_history() {
    let event = |minute: u64, event: &str, verdict: &str, action: &str| {
        let event = HistoryEvent {
            event: event.to_owned(),
            ids: vec!["leak-9-9".to_owned()],
            verdict: verdict.to_owned(),
            action: action.to_owned(),
            severity: if verdict.is_empty() { "" } else { "warning" }.to_owned(),
            headline: if verdict.is_empty() { "" } else { "db leaks" }.to_owned(),
            why: "so".to_owned(),
            ..HistoryEvent::default()
        };
        (NOW_MS - minute * MINUTE_MS, event)
    };
    let events = vec![
        event(50, "raised", "leak", ""),
        event(49, "ordered", "", "limit"),
        event(48, "limited", "", "limit"),
        event(20, "cleared", "leak", ""),
    ];
    let told = Told { events: Some(events), ..Told::default() };
    let page = render("/incidents/leak-9-9", &report(), &told).unwrap();
    for wanted in
        ["warning · leak · not open", "db leaks", "30 min", "limit begun: so", "leak cleared: so"]
    {
        assert!(page.contains(wanted), "no {wanted:?} in {page}");
    }
    let list = render("/incidents", &report(), &told).unwrap();
    let link = "<a href=\"/incidents/leak-9-9\">db leaks</a>";
    assert_eq!(list.matches(link).count(), 1, "{list}");
}
