//! The screen as text, and properties that hold for any keys and any report.

use proptest::{collection::vec, option, prelude::*};
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Color,
};

use super::{
    cell::{CellValue, pace},
    draw::draw,
    state::{TopDialog, TopState, TopWish},
    views::VIEWS,
};
use crate::{
    sense::printable::is_printable,
    status::{
        StatusReport,
        report::{
            ActionEntry, BudgetSection, ChangeEntry, DrainSection, HealthReason, HealthSection,
            IncidentEntry, ListenerEntry, ProbeLine, ResourceEntry, STATUS_VERSION, WorkloadEntry,
        },
    },
};

fn workload(name: &str, memory_mib: u64, growth: Option<f64>) -> WorkloadEntry {
    WorkloadEntry {
        name: name.to_owned(),
        cgroup: format!("/system.slice/{name}"),
        processes: 3,
        comm: "worker".to_owned(),
        pid: 4_711,
        memory_bytes: memory_mib << 20,
        growth_bytes_per_sec: growth,
        growth_secs: 600.0,
        limit_bytes: None,
        incident: None,
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

fn incident(id: &str, severity: &str, headline: &str) -> IncidentEntry {
    IncidentEntry {
        id: id.to_owned(),
        severity: severity.to_owned(),
        verdict: "leak".to_owned(),
        headline: headline.to_owned(),
        why: "it grew in a straight line for 64 s, to 2.1 GiB".to_owned(),
        advice: "restart api before then, and find the leak".to_owned(),
        confidence: 0.97,
        since: "2026-11-30T03:02:00.000Z".to_owned(),
        lasted_secs: 240.0,
        exhaustion_secs: Some(540.0),
        cgroup: "/system.slice/api.service".to_owned(),
        pid: Some(4_711),
        claims: 1,
        actions: vec![
            action("limit", "limited", "memory.high set to 2254857830 bytes"),
            action("page", "would", ""),
            action("drain", "refused", "an action was taken on it recently"),
        ],
        ..IncidentEntry::default()
    }
}

/// Report with something in every view.
fn sample() -> StatusReport {
    let mut api = workload("api.service", 2_150, Some(1_048_576.0));
    api.incident = Some("leak-1".to_owned());
    api.limit_bytes = Some(4 << 30);
    StatusReport {
        spillway_status: STATUS_VERSION,
        version: "0.1.0".to_owned(),
        host: "web-3".to_owned(),
        pid: 812,
        at: "2026-11-30T03:06:00.000Z".to_owned(),
        uptime_secs: 262_144.0,
        mode: "enforce".to_owned(),
        health: HealthSection {
            status: "degraded".to_owned(),
            reasons: vec![HealthReason {
                kind: "probe".to_owned(),
                detail: "accept_sojourn is degraded".to_owned(),
            }],
        },
        probes: vec![ProbeLine {
            probe: "process_memory".to_owned(),
            state: "attached".to_owned(),
            source: "iter/task".to_owned(),
            lacks: None,
        }],
        incidents: vec![
            incident("leak-1", "critical", "api (pid 4711) leaks memory, 1.0 MiB a second"),
            incident("leak-2", "info", "cron leaks memory"),
        ],
        incidents_total: 60,
        changes: vec![ChangeEntry {
            action: "limit".to_owned(),
            subject: "/system.slice/api.service".to_owned(),
            limit_bytes: Some(2_254_857_830),
            since: "2026-11-30T03:02:10.000Z".to_owned(),
            state: "limited".to_owned(),
            why: "memory.high set to 2254857830 bytes".to_owned(),
            incidents: vec!["leak-1".to_owned()],
            until: "until the incident is over".to_owned(),
        }],
        changes_total: 1,
        drain: DrainSection {
            state: "draining".to_owned(),
            out: true,
            answer: "drain".to_owned(),
            since: Some("2026-11-30T03:03:00.000Z".to_owned()),
            operator: Some("drain".to_owned()),
            until: Some("until `spillway resume`".to_owned()),
            ..DrainSection::default()
        },
        budget: BudgetSection { per_hour: 6, left: 4, for_drain: 1, next_secs: Some(1_500.0) },
        workloads: vec![
            workload("cron.service", 10, None),
            api,
            workload("db.service", 9_000, Some(-4_096.0)),
            workload("web.service", 80, Some(1_048_576.0)),
        ],
        workloads_total: 250,
        listeners: vec![
            ListenerEntry {
                addr: "0.0.0.0:80".to_owned(),
                netns: 4_026_531_840,
                name: "nginx.service".to_owned(),
                backlog: 3,
                backlog_max: 4_096,
                in_flight: Some(2),
                ..ListenerEntry::default()
            },
            ListenerEntry {
                addr: "0.0.0.0:443".to_owned(),
                backlog: 12,
                backlog_max: 128,
                oldest_wait_secs: Some(1.25),
                in_flight: Some(1_040),
                oldest_in_flight_secs: Some(32.0),
                ..ListenerEntry::default()
            },
            ListenerEntry {
                addr: "[::1]:5432".to_owned(),
                in_flight: Some(7),
                ..ListenerEntry::default()
            },
        ],
        listeners_total: 3,
        resources: vec![
            ResourceEntry {
                resource: "files".to_owned(),
                subject: "nginx (pid 812)".to_owned(),
                used: 1_000,
                limit: 1_024,
                ..ResourceEntry::default()
            },
            ResourceEntry {
                resource: "memory".to_owned(),
                subject: "host".to_owned(),
                used: 3 << 30,
                limit: 16 << 30,
                exhaustion_secs: Some(540.0),
                incident: Some("leak-1".to_owned()),
            },
        ],
        ..StatusReport::default()
    }
}

fn screen_of(state: &TopState, size: (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    terminal.draw(|frame| draw(state, frame.buffer_mut(), true)).unwrap();
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(usize::from(size.0).max(1)).map(|line| {
        let text: String = line.iter().map(|cell| cell.symbol()).collect();
        text.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// State after keys, on a screen of the usual size.
fn after(report: StatusReport, keys: &str) -> TopState {
    let mut state = TopState::new(report, (80, 24));
    press_all(&mut state, keys);
    state
}

/// Presses keys: characters, and `⏎`, `⎋`, `⇥` and `↓` for those without.
fn press_all(state: &mut TopState, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '⏎' => KeyCode::Enter,
            '⎋' => KeyCode::Esc,
            '⇥' => KeyCode::Tab,
            '↓' => KeyCode::Down,
            key => KeyCode::Char(key),
        };
        state.press(KeyEvent::new(code, KeyModifiers::NONE));
    }
}

fn shown(keys: &str) -> String {
    screen_of(&after(sample(), keys), (80, 24))
}

/// First column of each line of the table at this position.
fn column_of(screen: &str, from: usize, width: usize) -> Vec<String> {
    let text = |line: &str| line.chars().skip(from).take(width).collect::<String>();
    let lines = screen.lines().skip(4).map(text).map(|text| text.trim().to_owned());
    lines.take_while(|text| !text.is_empty()).collect()
}

#[test]
fn workloads_fit_eighty_columns() {
    let expected = "\
web-3  enforce  health degraded  up 3.0 days  spillway 0.1.0, pid 812
1 critical  1 info  58 more  rotation: draining: no new work is accepted; since…
[1 Workloads]  2 Listeners  3 Resources  4 Incidents  5 Actions  6 Probes
          GROWTH▼     MEMORY      LIMIT  PROCS WORKLOAD
>C      1.0 MiB/s    2.1 GiB    4.0 GiB      3 api.service
        1.0 MiB/s   80.0 MiB          -      3 web.service
       -4.0 KiB/s    8.8 GiB          -      3 db.service
                -   10.0 MiB          -      3 cron.service














the report lists 4 of 250                                                 1 of 4
? help  Tab view  s sort  r reverse  / filter  Enter explain  p pause  q quit";
    assert_eq!(shown(""), expected);
}

#[test]
fn other_views_show_their_own_columns() {
    let listeners = shown("2");
    assert_eq!(column_of(&listeners, 39, 21), ["0.0.0.0:443", "[::1]:5432", "0.0.0.0:80"]);
    assert!(listeners.contains("  1.2 s   1,040     32 s    12/128 0.0.0.0:443"), "{listeners}");
    let resources = shown("3");
    let line = ">C     9 min   19 %    3.0 GiB   16.0 GiB memory       host";
    assert!(resources.contains(line), "{resources}");
    assert!(resources.contains("  98 %      1,000      1,024 files        nginx"), "{resources}");
    let incidents = shown("4");
    let line = ">C CRITICAL     4 min    9 min limited, would page… api (pid 4711) leaks memory";
    assert!(incidents.contains(line), "{incidents}");
    assert!(incidents.contains("the report lists 2 of 60"), "{incidents}");
    let actions = shown("5");
    assert!(actions.contains("03:03 UTC  drain   draining"), "{actions}");
    assert!(actions.contains("limited         2.1 GiB /system.slice/api.service"), "{actions}");
    assert!(actions.contains("4 of 6 are left this hour, 1 of them for a drain"), "{actions}");
    let probes = shown("6");
    assert!(probes.contains("attached process_memory"), "{probes}");
}

#[test]
fn titles_fit_with_the_mark_of_the_order() {
    for view in VIEWS {
        for head in view.heads() {
            let needed = head.title.chars().count() + 1;
            assert!(head.width == 0 || needed <= head.width.into(), "{} {head:?}", view.title());
        }
    }
}

#[test]
fn larger_screen_shows_more_columns_and_the_selection() {
    let report = sample();
    let mut state = TopState::new(report, (120, 40));
    let screen = screen_of(&state, (120, 40));
    assert!(screen.contains("[1 Workloads (250)]  2 Listeners (3)"), "{screen}");
    assert!(screen.contains("LARGEST") && screen.contains("PID"), "{screen}");
    assert!(screen.contains("growth      1.0 MiB/s, over 10 min"), "{screen}");
    assert!(screen.contains("CRITICAL    api (pid 4711) leaks memory"), "{screen}");
    state.press(KeyEvent::new(KeyCode::Down, KeyModifiers::NONE));
    let screen = screen_of(&state, (120, 40));
    assert!(screen.contains("cgroup      /system.slice/web.service"), "{screen}");
}

#[test]
fn small_screen_still_shows_the_selected_line() {
    let mut state = TopState::new(sample(), (20, 5));
    press_all(&mut state, "↓");
    let expected = "\
web-3  enforce  hea…
[1 Workloads]  2  3
   WORKLOAD
>  web.service
? help  Tab view  s…";
    assert_eq!(screen_of(&state, (20, 5)), expected);
}

#[test]
fn tabs_and_digits_switch_the_view() {
    let titles = |keys: &str| VIEWS[after(sample(), keys).view].title();
    assert_eq!(titles("⇥"), "Listeners");
    assert_eq!(titles("⇥⇥⇥⇥⇥⇥"), "Workloads");
    assert_eq!(titles("4"), "Incidents");
    assert_eq!(titles("9"), "Workloads");
    let mut state = after(sample(), "");
    state.press(KeyEvent::new(KeyCode::BackTab, KeyModifiers::SHIFT));
    assert_eq!(VIEWS[state.view].title(), "Probes");
}

#[test]
fn selection_follows_its_line_to_the_next_report() {
    let mut state = after(sample(), "↓");
    assert_eq!(state.selected_details()[0].text, "web.service");
    let mut next = sample();
    next.workloads[3].growth_bytes_per_sec = Some(-1e9);
    state.take(next);
    assert_eq!(state.selected_details()[0].text, "web.service");
    assert_eq!(state.place().selected, 2);
    state.take(StatusReport { workloads: Vec::new(), ..sample() });
    assert_eq!(state.selected_details(), []);
    assert!(screen_of(&state, (80, 24)).contains("no workload is listed"));
}

#[test]
fn lines_with_one_identity_are_all_reached() {
    let mut report = sample();
    report.workloads = vec![workload("twin.service", 1, None); 3];
    let mut state = after(report.clone(), "jj");
    assert_eq!(state.place().selected, 2);
    state.take(report);
    assert_eq!(state.place().selected, 2);
}

#[test]
fn selection_scrolls_a_long_list() {
    let mut report = sample();
    report.workloads =
        (0..100).map(|at| workload(&format!("job-{at:02}"), 1_000 - at, None)).collect();
    let mut state = after(report, "");
    for code in [KeyCode::PageDown, KeyCode::PageDown, KeyCode::Up] {
        state.press(KeyEvent::new(code, KeyModifiers::NONE));
    }
    let screen = screen_of(&state, (80, 24));
    assert!(screen.contains("job-35") && screen.contains("36 of 100"), "{screen}");
    assert!(screen.contains("job-19") && !screen.contains("job-18"), "{screen}");
    state.press(KeyEvent::new(KeyCode::End, KeyModifiers::NONE));
    assert!(screen_of(&state, (80, 24)).contains("job-99"));
    state.press(KeyEvent::new(KeyCode::Home, KeyModifiers::NONE));
    assert!(screen_of(&state, (80, 24)).contains("job-00"));
}

#[test]
fn sort_column_is_chosen_from_a_list_and_reversed() {
    let names = |keys: &str| column_of(&shown(keys), 47, 20);
    assert_eq!(names(""), ["api.service", "web.service", "db.service", "cron.service"]);
    // What is unknown stays last.
    assert_eq!(names("r"), ["db.service", "api.service", "web.service", "cron.service"]);
    assert_eq!(names("sj⏎"), ["db.service", "api.service", "web.service", "cron.service"]);
    assert_eq!(names("ss⏎r"), ["cron.service", "web.service", "api.service", "db.service"]);
    assert_eq!(names("sj⎋"), names(""));
    let choice = shown("sj");
    assert!(choice.contains("Sort by:\n   GROWTH (now)\n>  MEMORY"), "{choice}");
}

#[test]
fn filter_keeps_lines_with_its_text() {
    let names = |keys: &str| column_of(&shown(keys), 47, 20);
    assert_eq!(names("/CRON⏎"), ["cron.service"]);
    // By what is not shown, too.
    assert_eq!(names("/system.slice/web⏎"), ["web.service"]);
    assert_eq!(names("/web⎋").len(), 4);
    assert_eq!(names("/web⏎⎋").len(), 4);
    let mut state = after(sample(), "/web");
    state.press(KeyEvent::new(KeyCode::Char('?'), KeyModifiers::ALT));
    assert_eq!((state.rows().len(), state.dialog), (4, TopDialog::Help { scroll: 0 }));
    // Keys are text there.
    let screen = shown("/q1");
    assert!(screen.contains("/q1_  Enter keeps") && screen.contains("no line has"), "{screen}");
    assert!(shown("/web⏎").contains("only lines with \"web\"; Esc clears it"));
}

#[test]
fn incident_is_explained_with_evidence_and_actions() {
    let screen = shown("4⏎");
    for line in [
        "CRITICAL    api (pid 4711) leaks memory, 1.0 MiB a second",
        "since       03:02 UTC, for 4 min; 97 % sure",
        "runs out    in 9 min",
        "evidence    it grew in a straight line for 64 s, to 2.1 GiB",
        "to do       restart api before then, and find the leak",
        "done        03:02 UTC: limited: memory.high set to 2254857830 bytes",
        "would       03:02 UTC: page a person",
        "refused     03:02 UTC: drain this node: an action was taken on it recently",
    ] {
        assert!(screen.contains(line), "no {line:?} in {screen}");
    }
    // The incident of a workload, of a resource and of a change.
    for keys in ["e", "3e", "5je"] {
        assert!(shown(keys).contains("CRITICAL    api (pid 4711)"), "{}", shown(keys));
    }
    // One that is over.
    let mut state = after(sample(), "4⏎");
    state.take(StatusReport { incidents: Vec::new(), ..sample() });
    assert!(screen_of(&state, (80, 24)).contains("It is no longer in the report"));
}

#[test]
fn pause_asks_first() {
    let mut state = after(sample(), "p");
    assert!(screen_of(&state, (80, 24)).contains("Pause all new actions of this agent? y/n"));
    let press = |state: &mut TopState, key| {
        state.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE))
    };
    assert_eq!(press(&mut state, 'x'), TopWish::Nothing);
    assert_eq!(press(&mut state, 'n'), TopWish::Nothing);
    assert_eq!(state.dialog, TopDialog::None);
    assert_eq!(
        (press(&mut state, 'p'), press(&mut state, 'y')),
        (TopWish::Nothing, TopWish::Pause)
    );
    assert!(screen_of(&state, (80, 24)).contains("Pausing …"));
    // A second request waits for the first.
    assert_eq!(
        (press(&mut state, 'p'), press(&mut state, 'y')),
        (TopWish::Nothing, TopWish::Nothing)
    );
    state.done(Err("cannot create /var/lib/spillway/paused".to_owned()));
    assert!(screen_of(&state, (80, 24)).contains("cannot create /var/lib"));
    state.take(StatusReport { paused: true, ..sample() });
    assert!(screen_of(&state, (80, 24)).starts_with("web-3  enforce  PAUSED"));
    assert_eq!(
        (press(&mut state, 'p'), press(&mut state, 'y')),
        (TopWish::Nothing, TopWish::Resume)
    );
}

#[test]
fn pause_without_an_agent_can_be_taken_back() {
    let mut state = after(sample(), "py");
    state.lose("no agent answers".to_owned(), "03:06:01");
    state.done(Ok("No agent runs; the next one will start paused.".to_owned()));
    let screen = screen_of(&state, (80, 24));
    assert!(screen.contains("enforce  PAUSED") && screen.contains("No agent runs"), "{screen}");
    press_all(&mut state, "p");
    assert_eq!(state.dialog, TopDialog::Confirm { is_pause: false });
}

#[test]
fn quit_keys_quit() {
    let quits = |keys: &str, key: KeyEvent| after(sample(), keys).press(key) == TopWish::Quit;
    let q = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
    let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert!(quits("", q) && quits("?", q) && quits("e", q) && quits("s", q));
    assert!(!quits("/", q) && !quits("p", q));
    for keys in ["", "?", "e", "s", "/", "p"] {
        assert!(quits(keys, ctrl_c), "{keys}");
    }
}

#[test]
fn lost_agent_is_said_with_the_time_since() {
    let mut state = after(sample(), "");
    state.now = 10.0;
    state.lose("no agent answers at /run/spillway/status.sock".to_owned(), "03:06:01");
    state.now = 44.0;
    state.lose("no agent answers at /run/spillway/status.sock".to_owned(), "03:06:35");
    let screen = screen_of(&state, (80, 24));
    let first = "NO ANSWER since 03:06:01 UTC, for 34 s; last report:  web-3  enforce";
    assert!(screen.starts_with(first) && screen.contains("api.service"), "{screen}");
    assert!(screen.contains("no agent answers at /run/spillway/status.sock"), "{screen}");
    state.take(StatusReport { pid: 813, ..sample() });
    let screen = screen_of(&state, (80, 24));
    assert!(!screen.contains("NO ANSWER") && screen.contains("with pid 813"), "{screen}");
}

#[test]
fn help_names_every_key() {
    let screen = shown("?");
    for key in ["1-6, Tab", "Enter, e", "/ ", "p ", "q, Ctrl-C", "`spillway status`"] {
        assert!(screen.contains(key), "no {key:?} in {screen}");
    }
    assert!(!shown("??").contains("Ctrl-L"));
}

#[test]
fn severity_needs_no_colour() {
    let colours = |has_colour| {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        let state = after(sample(), "");
        terminal.draw(|frame| draw(&state, frame.buffer_mut(), has_colour)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        buffer.content().iter().filter(|cell| cell.fg != Color::Reset).count()
    };
    assert!(colours(true) > 0);
    assert_eq!(colours(false), 0);
    let screen = shown("");
    assert!(screen.contains("1 critical") && screen.contains(">C "), "{screen}");
}

#[test]
fn paces_are_told_by_the_shortest_time_that_shows_them() {
    for (bytes_per_sec, expected) in [
        (1_048_576.0, "1.0 MiB/s"),
        (-2_048.0, "-2.0 KiB/s"),
        (100.0, "5.9 KiB/min"),
        (1.0, "3.5 KiB/h"),
        (0.02, "1.7 KiB/day"),
        (0.0, "0"),
    ] {
        assert_eq!(pace(bytes_per_sec), expected);
    }
    for unknown in [
        CellValue::Bytes(Some(f64::NAN)),
        CellValue::Secs(Some(f64::INFINITY)),
        CellValue::Pace(None),
        CellValue::Share(1, 0),
        CellValue::Text(String::new()),
    ] {
        assert_eq!(unknown.text(), "-", "{unknown:?}");
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("leak-1".to_owned()),
        "\\PC{0,80}",
        "[\u{0}-\u{2ff}]{0,80}",
        "[\u{300}-\u{36f}\u{1f300}-\u{1f64f}\u{4e00}-\u{4e20}\u{200b}-\u{202e} ]{0,200}",
    ]
}

fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![prop::num::f64::ANY, Just(f64::NAN), Just(f64::MAX), Just(0.0), 0.0..1e6]
}

fn any_count() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), Just(u64::MAX), 0..10_u64]
}

prop_compose! {
    fn any_workload()(
        name in any_text(),
        memory_bytes in any_count(),
        growth_bytes_per_sec in option::of(any_number()),
        growth_secs in any_number(),
        limit_bytes in option::of(any_count()),
        incident in option::of(any_text()),
    ) -> WorkloadEntry {
        WorkloadEntry {
            cgroup: name.clone(),
            comm: name.clone(),
            processes: memory_bytes,
            name, memory_bytes, growth_bytes_per_sec, growth_secs, limit_bytes, incident,
            ..WorkloadEntry::default()
        }
    }
}

prop_compose! {
    fn any_listener()(
        addr in any_text(),
        backlog in any_count(),
        count in option::of(any_count()),
        number in option::of(any_number()),
        incident in option::of(any_text()),
    ) -> ListenerEntry {
        ListenerEntry {
            name: addr.clone(),
            comm: addr.clone(),
            oldest_wait_secs: number,
            wait_p99_secs: number,
            accepted_per_sec: number,
            overflows_total: count,
            connections: count,
            in_flight: count,
            oldest_in_flight_secs: number,
            addr, backlog, incident,
            ..ListenerEntry::default()
        }
    }
}

prop_compose! {
    fn any_incident()(
        id in any_text(),
        text in any_text(),
        severity in prop_oneof![any_text(), Just("critical".to_owned())],
        number in any_number(),
        claims in any_count(),
        states in vec(any_text(), 0..4),
    ) -> IncidentEntry {
        let action = |state| ActionEntry {
            action: text.clone(),
            why: text.clone(),
            since: text.clone(),
            state,
        };
        let actions = states.into_iter().map(action).collect();
        IncidentEntry {
            severity_why: text.clone(),
            verdict: text.clone(),
            why: text.clone(),
            advice: text.clone(),
            since: text.clone(),
            cgroup: text.clone(),
            also: vec![text.clone()],
            paged_by: Some(text.clone()),
            headline: text,
            confidence: number,
            lasted_secs: number,
            exhaustion_secs: Some(number),
            actions,
            id, severity, claims,
            ..IncidentEntry::default()
        }
    }
}

prop_compose! {
    fn any_report()(
        text in any_text(),
        number in any_number(),
        count in any_count(),
        paused: bool,
        workloads in vec(any_workload(), 0..5),
        listeners in vec(any_listener(), 0..5),
        incidents in vec(any_incident(), 0..4),
        resource in prop_oneof![any_text(), Just("memory".to_owned())],
    ) -> StatusReport {
        let resource = ResourceEntry {
            resource,
            subject: text.clone(),
            used: count,
            limit: count / 2,
            exhaustion_secs: Some(number),
            incident: Some(text.clone()),
        };
        let change = ChangeEntry {
            action: text.clone(),
            subject: text.clone(),
            limit_bytes: Some(count),
            since: text.clone(),
            state: text.clone(),
            why: text.clone(),
            incidents: vec![text.clone()],
            until: text.clone(),
        };
        let probe = ProbeLine {
            probe: text.clone(),
            state: text.clone(),
            source: text.clone(),
            lacks: Some(text.clone()),
        };
        let drain = DrainSection {
            state: text.clone(),
            answer: text.clone(),
            since: Some(text.clone()),
            why: Some(text.clone()),
            ..DrainSection::default()
        };
        let health = HealthSection {
            status: text.clone(),
            reasons: vec![HealthReason { kind: text.clone(), detail: text.clone() }],
        };
        StatusReport {
            host: text.clone(),
            version: text.clone(),
            mode: text.clone(),
            at: text,
            uptime_secs: number,
            incidents_total: count,
            workloads_total: count,
            changes_total: count / 2,
            resources: vec![resource],
            changes: vec![change],
            probes: vec![probe],
            paused, workloads, listeners, incidents, drain, health,
            ..StatusReport::default()
        }
    }
}

fn any_key() -> impl Strategy<Value = KeyEvent> {
    let named = prop::sample::select(vec![
        KeyCode::Tab,
        KeyCode::BackTab,
        KeyCode::Enter,
        KeyCode::Esc,
        KeyCode::Up,
        KeyCode::Down,
        KeyCode::PageUp,
        KeyCode::PageDown,
        KeyCode::Home,
        KeyCode::End,
        KeyCode::Backspace,
        KeyCode::F(1),
    ]);
    let command =
        prop::sample::select("123456sre/?pyn".chars().map(KeyCode::Char).collect::<Vec<_>>());
    let code = prop_oneof![named, command, any::<char>().prop_map(KeyCode::Char)];
    let modifiers = prop_oneof![
        4 => Just(KeyModifiers::NONE),
        1 => Just(KeyModifiers::CONTROL),
        1 => Just(KeyModifiers::ALT),
    ];
    (code, modifiers).prop_map(|(code, modifiers)| KeyEvent::new(code, modifiers))
}

/// Step of a session.
#[derive(Debug, Clone)]
enum Step {
    Press(KeyEvent),
    Report(Box<StatusReport>),
    Lose(String),
    Done(Result<String, String>),
    Resize(u16, u16),
}

fn any_size() -> impl Strategy<Value = (u16, u16)> {
    prop_oneof![
        8 => (0..200_u16, 0..70_u16),
        1 => Just((0, 0)),
        1 => Just((u16::MAX, 1)),
        1 => Just((1, u16::MAX)),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any_key().prop_map(Step::Press),
        1 => any_report().prop_map(|report| Step::Report(report.into())),
        1 => any_text().prop_map(Step::Lose),
        1 => any_text().prop_map(|text| Step::Done(Err(text))),
        1 => any_text().prop_map(|text| Step::Done(Ok(text))),
        1 => any_size().prop_map(|(width, height)| Step::Resize(width, height)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_session_is_drawn_and_cannot_control_the_terminal(
        report in any_report(),
        steps in vec(any_step(), 0..20),
        sizes in vec(any_size(), 1..3),
    ) {
        let mut size = sizes[0];
        let mut state = TopState::new(report, size);
        for step in steps {
            match step {
                Step::Press(key) => drop(state.press(key)),
                Step::Report(report) => state.take(*report),
                Step::Lose(why) => state.lose(why, "03:06:01"),
                Step::Done(result) => state.done(result),
                Step::Resize(width, height) => {
                    size = (width, height);
                    state.resize(size);
                }
            }
            let screen = screen_of(&state, size);
            prop_assert!(screen.chars().all(|c| c == '\n' || is_printable(c)), "{screen:?}");
            let rows = state.rows().len();
            prop_assert!(state.place().selected < rows.max(1));
            prop_assert!(state.place().first <= state.place().selected);
        }
        // The terminal can change between the notice and the drawing.
        for other in sizes {
            screen_of(&state, other);
        }
    }
}
