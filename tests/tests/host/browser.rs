//! The pages of the running agent in a real browser: headless Chromium, narrow and wide, light and
//! dark. `cargo xtask test --thorough browser` takes the pictures in `tests/pictures` anew.

use std::{
    env, fs,
    net::TcpListener,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use spillway_agent::{
    clock::Clock,
    engine::HostInfo,
    history::{
        HistoryEvent, HistoryRing, RingLimits,
        frame::{FrameHeader, pack},
    },
    sense::{Fact, ListenerFact, Observation, ProcessFact, ProcessId},
};
use spillway_tests::{
    ANY_PORT, Running, Scratch, apart, http_get, is_root, run_with, skip, wait_for,
};

const TEST: &str = "browser";
const SOON: Duration = Duration::from_secs(30);

/// Size of a blank page of these dimensions: a few kilobytes.
const PICTURE_BYTES_MIN: usize = 15_000;

/// Pictures: name, index of the page, width, height, and whether in dark colours.
const PICTURES: [(&str, usize, u32, u32, bool); 8] = [
    ("overview-narrow", 0, 400, 2_000, true),
    ("overview-wide", 0, 1_200, 1_500, false),
    ("incident-narrow", 1, 400, 1_500, false),
    ("incident-wide", 1, 1_200, 1_000, true),
    ("workload-narrow", 2, 400, 1_200, false),
    ("workload-wide", 2, 1_200, 1_000, true),
    ("listener-wide", 3, 1_200, 1_300, false),
    ("past-wide", 4, 1_200, 700, false),
];

/// Time between two minutes of history before the test, and the number of them: ten hours.
const PAST_STEP_SECS: u64 = 300;
const PAST_STEPS: u64 = 120;

/// Address of a listener that the test makes.
const LISTENER: &str = "127.0.0.1:18446";

/// Writes a past of ten hours: a workload that grew and was restarted once, a claim that was raised
/// and cleared, and a listener with a busy hour.
fn write_past(state_dir: &Path, cgroup: &str, netns: u32) {
    let limits = RingLimits { free_bytes_min: 0, ..RingLimits::default() };
    let mut ring = HistoryRing::new(state_dir.to_owned(), Duration::from_hours(24), limits);
    let host = HostInfo { mem_total_bytes: 1 << 34, cpus: 2 };
    let now_ms = Clock::start().unix_ms();
    for step in 0..PAST_STEPS {
        let at_ms = now_ms - (PAST_STEPS - step) * PAST_STEP_SECS * 1_000;
        let header = FrameHeader::new(host, 60.0, "before".to_owned(), 0.0, at_ms);
        let (life, age) = if step < 70 { (1, step) } else { (2, step - 70) };
        let process = ProcessFact {
            id: ProcessId { pid: 100 + life, start_ticks: life.into() },
            comm: "workload".into(),
            cgroup: cgroup.into(),
            anon_bytes: (60 + 4 * age) << 20,
            ..ProcessFact::default()
        };
        let busy = if (40..52).contains(&step) { 46 - (46_i64 - step as i64).abs() } else { 1 };
        let listener = ListenerFact {
            netns,
            addr: LISTENER.into(),
            backlog: busy as u32,
            backlog_max: 128,
            oldest_wait_us: Some(busy as u64 * 9_000),
            ..ListenerFact::default()
        };
        let facts = [Fact::Process(process), Fact::Listener(Box::new(listener))];
        let observations = facts.map(|fact| Observation { t: 0.0, fact });
        let event = |event: &str| HistoryEvent {
            event: event.to_owned(),
            ids: vec!["leak-101-1".to_owned()],
            verdict: "leak".to_owned(),
            severity: "warning".to_owned(),
            cgroup: cgroup.to_owned(),
            headline: "workload (pid 101) leaks memory, 48.0 MiB an hour".to_owned(),
            advice: "restart workload before then, and find the leak".to_owned(),
            why: "anonymous memory grew in a straight line for 2.5 h".to_owned(),
            ..HistoryEvent::default()
        };
        let events = match step {
            30 => vec![event("raised")],
            70 => vec![HistoryEvent { why: "it has ended".to_owned(), ..event("cleared") }],
            _ => Vec::new(),
        };
        let packed = pack(&header, &observations, &events).expect("packing a minute");
        ring.append(&packed, (at_ms / 1_000) as u32).expect("writing a minute");
    }
}

#[test]
fn pages_of_a_leak_are_drawn_by_a_browser() {
    let Some(chromium) = env::var_os("SPILLWAY_BROWSER").map(PathBuf::from) else {
        return skip(TEST, "needs the browser that `cargo xtask test --thorough` installs");
    };
    if !is_root(TEST) {
        return;
    }
    let mut leak = Command::new(env!("CARGO_BIN_EXE_workload"));
    let (Some(cgroup), leak) =
        apart("browser-leak", leak.args(["leak", "--rate=8MiB", "--limit=1500MiB"]))
    else {
        return skip(TEST, "no cgroup can be made");
    };
    let scratch = Scratch::make(TEST);
    let state_dir = scratch.0.join("state");
    fs::DirBuilder::new().mode(0o700).create(&state_dir).expect("making the state directory");
    let netns = fs::metadata("/proc/self/ns/net").expect("a network namespace").ino() as u32;
    write_past(&state_dir, &cgroup.path, netns);
    let _listener = TcpListener::bind(LISTENER).expect("listening");
    let config = scratch.file(
        "spillway.toml",
        &format!(
            "mode = \"enforce\"\n{ANY_PORT}[record]\nstate_dir = \"{}\"\n[sense]\n\
             interval = \"100ms\"\n[detect.leak]\nwarm_up = \"0s\"\n\
             horizons = [\"4s\", \"6s\", \"10s\", \"20s\"]\nmin_growth = \"16MiB\"\n[decide]\n\
             limit_within = \"1d\"\nallow = [\"{}\"]\n[act.limit]\nmargin = \"16MiB\"\n",
            state_dir.display(),
            cgroup.path
        ),
    );
    let running = Running::start(run_with(&config));
    let addr = running.address();
    let limited = wait_for(SOON, || {
        let page = http_get(addr, "/").ok().filter(|page| page.contains("limited: memory."))?;
        let (_, rest) = page.split_once(&format!("/incidents/leak-{}-", leak.pid()))?;
        Some(format!("/incidents/leak-{}-{}", leak.pid(), rest.split('"').next()?))
    });
    let incident = limited.unwrap_or_else(|| panic!("{}", running.log()));
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("pictures");
    fs::create_dir_all(&pictures).expect("making the folder of pictures");
    let segment = |text: &str| text.replace('/', "%2F").replace(':', "%3A");
    let pages = [
        "/".to_owned(),
        incident,
        format!("/workloads/{}", segment(&cgroup.path)),
        format!("/listeners/{netns}/{}", segment(LISTENER)),
        "/incidents/leak-101-1".to_owned(),
    ];
    let drawn = [(&pages[2], "restarted: all"), (&pages[3], "<polyline"), (&pages[4], "not open")];
    for (page, wanted) in drawn {
        let text = http_get(addr, page).expect("a page");
        assert!(text.contains(wanted), "no {wanted:?} in {page}: {text}");
    }
    for (name, page, width, height, is_dark) in PICTURES {
        let path = &pages[page];
        let picture = pictures.join(format!("{name}.png"));
        let mut browser = Command::new(&chromium);
        browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
        browser.arg(format!("--user-data-dir={}", scratch.0.join("browser").display()));
        browser.arg(format!("--window-size={width},{height}"));
        browser.arg(format!("--screenshot={}", picture.display()));
        if is_dark {
            browser.arg("--blink-settings=preferredColorScheme=0");
        }
        let status = browser.arg(format!("http://{addr}{path}")).stderr(Stdio::null()).status();
        assert!(status.expect("the browser runs").success(), "{name}");
        let bytes = fs::read(&picture).expect("reading the picture");
        let side = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        assert_eq!((&bytes[1..4], side(16), side(20)), (&b"PNG"[..], width, height), "{name}");
        assert!(bytes.len() > PICTURE_BYTES_MIN, "{name} is blank: {} bytes", bytes.len());
    }
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    leak.stop();
}
