//! The replay corpus: small traces, each with the exact lines that `spillway replay` prints for it.
//!
//! The traces are committed, so that a change of the core shows as a changed line here and never as
//! a changed trace. Each is also the output of a function below, which documents its origin; after
//! changing one, run `cargo test -p spillway-tests --test replay -- --ignored write_traces`.
//! `hostile` is written by hand.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use spillway_agent::{
    commands::replay::{ReplayOptions, ReplaySummary, replay},
    config::{Config, ServicePattern},
    engine::HostInfo,
    sense::{
        Fact, HostFact, ListenerFact, Observation, OutboundFact, ProcessFact, ProcessId,
        ProcessResourcesFact, SensorHealthFact,
    },
    trace::TraceWriter,
};

use crate::replay_requests;

const MIB: f64 = 1_048_576.0;
const API: ProcessId = ProcessId { pid: 812, start_ticks: 4711 };

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("traces").join(format!("{name}.jsonl"))
}

/// Configuration without a warm-up: traces are only minutes long, so all processes count as known
/// from the first scan on.
fn config() -> Config {
    let mut config = Config::default();
    config.detect.leak.warm_up = Duration::ZERO;
    config
}

fn run(trace: &[u8], decisions: bool) -> (Vec<String>, ReplaySummary) {
    let mut out = Vec::new();
    let summary = replay(trace, &config(), &mut out, ReplayOptions { decisions }).unwrap();
    (String::from_utf8(out).unwrap().lines().map(str::to_owned).collect(), summary)
}

/// Replays a committed trace twice; both must print the same.
fn verdicts(name: &str) -> Vec<String> {
    let trace = fs::read(path(name)).unwrap();
    let (lines, summary) = run(&trace, false);
    assert_eq!(summary.skipped, 0);
    assert_eq!(run(&trace, false).0, lines);
    lines
}

fn host(t: f64) -> Observation {
    let fact = HostFact { mem_available_bytes: 9_000_000_000, psi_memory_some_avg10: Some(0.0) };
    Observation { t, fact: Fact::Host(fact) }
}

fn process(t: f64, id: ProcessId, comm: &str, mib: f64) -> Observation {
    let fact = ProcessFact {
        id,
        ppid: 1,
        comm: Arc::from(comm),
        cgroup: Arc::from("/api.service"),
        anon_bytes: (mib * MIB) as u64,
        ..ProcessFact::default()
    };
    Observation { t, fact: Fact::Process(fact) }
}

fn listener(t: f64, backlog: u32, oldest_wait_us: u64, accepted_total: u64) -> Observation {
    let fact = ListenerFact {
        netns: 4_026_531_840,
        addr: Arc::from("0.0.0.0:8080"),
        cgroup: Arc::from("/api.service"),
        pid: Some(API.pid),
        backlog,
        backlog_max: 128,
        accepted_total: Some(accepted_total),
        overflows_total: Some(0),
        oldest_wait_us: Some(oldest_wait_us),
        ..ListenerFact::default()
    };
    Observation { t, fact: Fact::Listener(Box::new(fact)) }
}

/// One process whose size is a function of time, scanned every `interval` seconds.
fn one_process(interval: u32, secs: u32, mib: impl Fn(f64) -> f64) -> Vec<Observation> {
    let scan = |t: f64| [host(t), process(t, API, "api", mib(t))];
    (0..=secs / interval).flat_map(|step| scan(f64::from(step * interval))).collect()
}

/// One listener, read ten times a second; `look` maps the tenth of a second to backlog, wait of the
/// head in seconds, and total accepted.
fn one_listener(secs: u32, look: impl Fn(u32) -> (u32, f64, u64)) -> Vec<Observation> {
    let look = |step: u32| {
        let (backlog, wait_secs, accepted) = look(step);
        listener(f64::from(step) / 10.0, backlog, (wait_secs * 1e6) as u64, accepted)
    };
    (0..secs * 10).map(look).collect()
}

fn pid_reuse() -> Vec<Observation> {
    let mut all = one_process(1, 60, |t| 100.0 + 4.0 * t);
    let next = ProcessId { start_ticks: 9_001, ..API };
    (61..=120)
        .for_each(|t| all.extend([host(f64::from(t)), process(f64::from(t), next, "cron", 5.0)]));
    all
}

fn gap() -> Vec<Observation> {
    // After an hour of suspend a leaking process has grown and continues to leak.
    let mut all = one_process(1, 30, |t| 100.0 + 4.0 * t);
    let later = one_process(1, 200, |t| 500.0 + 4.0 * t);
    all.extend(later.into_iter().map(|o| Observation { t: o.t + 3_630.0, ..o }));
    all
}

/// Server that leaves twenty connections a minute open and ends before it runs out of files.
fn fd_leak() -> Vec<Observation> {
    let look = |t: f64| {
        let fds = 24 + (t / 3.0) as u64;
        let handles = ProcessResourcesFact {
            id: API,
            fds,
            fds_max: Some(1_024),
            threads: 8,
            close_wait: Some(0),
        };
        [host(t), process(t, API, "api", 64.0), Observation { t, fact: Fact::Handles(handles) }]
    };
    let exit = Observation { t: 1_210.0, fact: Fact::Exit(API) };
    (0..=120).flat_map(|step| look(f64::from(step) * 10.0)).chain([exit]).collect()
}

/// Database that accepts four connects a second for a minute, refuses them for half a minute, and
/// recovers.
fn dependency_down() -> Vec<Observation> {
    let look = |second: u64| {
        let refused = second.clamp(60, 90) - 60;
        let fact = OutboundFact {
            netns: 4_026_531_840,
            addr: Arc::from("10.0.0.5:5432"),
            cgroup: Arc::from("/api.service"),
            pid: API.pid,
            comm: Arc::from("api"),
            established_total: 4 * (second - refused),
            refused_total: 4 * refused,
            ..OutboundFact::default()
        };
        Observation { t: second as f64, fact: Fact::Outbound(fact) }
    };
    (0..100).map(look).collect()
}

/// Leak watched without page faults and with lost births and deaths; one name is from a later
/// version. Halfway, the host's memory cannot be read for a while.
fn half_blind() -> Vec<Observation> {
    let names = |names: &[&str]| names.iter().map(|&name| Arc::from(name)).collect::<Vec<_>>();
    let (degraded, off) = (names(&["process_life"]), names(&["fault_samples", "gpu_memory"]));
    let sensing = |lost: &[(&str, u64)]| {
        let lost = lost.iter().map(|&(what, count)| (Arc::from(what), count)).collect();
        Fact::Sensing(SensorHealthFact { degraded: degraded.clone(), off: off.clone(), lost })
    };
    let mut all = one_process(1, 60, |t| 100.0 + 4.0 * t);
    all.insert(1, Observation { t: 0.0, fact: sensing(&[]) });
    let later = all.partition_point(|observation| observation.t < 20.0);
    all[later].fact = sensing(&[("host_read_failed", 1)]);
    all
}

/// Interval and observations of every generated trace.
fn generated() -> Vec<(&'static str, f64, Vec<Observation>)> {
    let sawtooth = |t: f64| 200.0 + 200.0 * (t % 15.0) / 15.0;
    let stuck = |step: u32| match step {
        0..30 => (1, 0.000_1, u64::from(step) * 20),
        30..70 => ((step - 30) * 2, f64::from(step - 30) / 10.0, 600),
        _ => (0, 0.0, 600 + u64::from(step - 69) * 20),
    };
    let burst = |step: u32| {
        if step % 25 == 7 { (129, 0.000_9, u64::from(step)) } else { (0, 0.0, u64::from(step)) }
    };
    let pauses = |step: u32| match step % 20 {
        pause @ 5..=6 => (pause * 10, f64::from(pause - 4) / 10.0, 5),
        _ => (2, 0.000_3, u64::from(step)),
    };
    let mut all = vec![
        ("leak-linear", 5.0, one_process(5, 420, |t| 100.0 + t)),
        (
            "cache-fill-then-flat",
            1.0,
            one_process(1, 150, |t| 50.0 + 6.0 * (t - 40.0).clamp(0.0, 18.0)),
        ),
        ("sawtooth", 1.0, one_process(1, 300, sawtooth)),
        ("stuck-acceptor", 0.1, one_listener(14, stuck)),
        ("burst", 0.1, one_listener(20, burst)),
        ("gc-pauses", 0.1, one_listener(20, pauses)),
        ("pid-reuse", 1.0, pid_reuse()),
        ("gap", 1.0, gap()),
        ("half-blind", 1.0, half_blind()),
        ("fd-leak", 10.0, fd_leak()),
        ("dependency-down", 1.0, dependency_down()),
    ];
    all.extend(replay_requests::generated());
    all
}

fn serialise(interval_secs: f64, observations: &[Observation]) -> Vec<u8> {
    let info = HostInfo { mem_total_bytes: 17_179_869_184, cpus: 8 };
    let mut writer = TraceWriter::new(Vec::new(), info, interval_secs).unwrap();
    observations.iter().for_each(|observation| writer.write(observation).unwrap());
    writer.finish().unwrap()
}

#[test]
#[ignore = "writes the traces again"]
fn write_traces() {
    for (name, interval_secs, observations) in generated() {
        fs::write(path(name), serialise(interval_secs, &observations)).unwrap();
    }
}

#[test]
fn committed_traces_match_their_functions_and_are_small() {
    for (name, interval_secs, observations) in generated() {
        let trace = fs::read(path(name)).unwrap();
        assert!(trace.len() < 200_000, "{name}: {} bytes", trace.len());
        assert!(
            trace == serialise(interval_secs, &observations),
            "{name} differs: see write_traces"
        );
    }
}

const LEAK_HEAD: &str = r#""verdict":"leak","pid":812,"start_ticks":4711,"comm":"api","cgroup":"/api.service","growth_bytes_per_sec":4194304.0,"#;
const LEAK_FORECAST: &str = r#""growth_interval_bytes_per_sec":[4194304.0,4194304.0],"exhaustion_secs":2145.8,"exhaustion_interval_secs":[1192.1,3862.4],"#;
const LEAK_WHY: &str = "api (pid 812) grew by 120.0 MiB in 30 s (4.0 MiB/s ± 0.0 KiB/s), without \
                        slowing down, for as long as it has been watched; if it goes on, the 8.4 \
                        GiB available on the host run out in 36 min (20 min to 1.1 h)";

/// Harm of that leak, and of a cgroup that is not known to be a service.
const HOSTS: &str =
    r#""severity":"warning","severity_why":"the whole host runs out of memory in 36 min","#;
const UNKNOWN: &str = "it is not known to be a service: no other host or unit has used it for \
                       minutes, and decide.services does not list it";

/// Leak of 4 MiB/s that existed when the watch began, claimed at `t`.
fn steep_leak(t: &str, confidence: &str, unseen: &str) -> String {
    let why = format!("{LEAK_WHY}{unseen}");
    format!(
        r#"{{"t":{t},{LEAK_HEAD}{LEAK_FORECAST}"confidence":{confidence},"state":"raised",{HOSTS}"why":"{why}"}}"#
    )
}

const STUCK_WHY: &str = "0.0.0.0:8080 (pid 812) has accepted no connection for 0.7 s; 14 \
                         connections are waiting, of 128 that fit, growing by 20/s; the queue \
                         overflows in 5.8 s; its accept loop is stuck";
const WELL_WHY: &str = "the accept queue of 0.0.0.0:8080 (pid 812) has been healthy for 5.0 s, \
                        after 8.2 s of overload";

#[test]
fn leak_linear() {
    let line = r#"{"t":105.0,"verdict":"leak","pid":812,"start_ticks":4711,"comm":"api","cgroup":"/api.service","growth_bytes_per_sec":1040632.2,"growth_interval_bytes_per_sec":[982348.7,1098915.8],"exhaustion_secs":8648.6,"exhaustion_interval_secs":[4549.9,16491.1],"confidence":0.99,"state":"raised","severity":"warning","severity_why":"the whole host runs out of memory in 2.4 h","why":"api (pid 812) grew by 90.0 MiB in 90 s (1016.2 KiB/s ± 56.9 KiB/s), without slowing down, for as long as it has been watched; if it goes on, the 8.4 GiB available on the host run out in 2.4 h (1.3 h to 4.6 h)"}"#;
    assert_eq!(verdicts("leak-linear"), [line]);
}

#[test]
fn leak_in_a_protected_unit_is_reported_not_limited() {
    let trace = fs::read_to_string(path("leak-linear")).unwrap();
    let limits = |trace: &str| -> Vec<serde_json::Value> {
        let mut config = config();
        config.decide.limit_within = Duration::from_hours(3);
        let mut out = Vec::new();
        replay(trace.as_bytes(), &config, &mut out, ReplayOptions { decisions: true }).unwrap();
        let lines = String::from_utf8(out).unwrap();
        let decisions =
            lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        decisions.filter(|line| line["decision"] == "limit").collect()
    };
    assert!(matches!(&limits(&trace)[..], [one] if one["refused"].is_null() && one["t"] == 105.0));
    let protected = limits(&trace.replace("/api.service", "/system.slice/ssh.service"));
    let [refused] = &protected[..] else { panic!("{protected:?}") };
    assert_eq!(refused["refused"], "its unit or cgroup is protected (ssh.service)");
    assert_eq!(refused["cgroup"], "/system.slice/ssh.service");
}

#[test]
fn healthy_traces_print_nothing() {
    for name in ["cache-fill-then-flat", "sawtooth", "burst", "gc-pauses"] {
        assert_eq!(verdicts(name), [""; 0], "{name}");
    }
}

#[test]
fn stuck_acceptor() {
    let head = r#""verdict":"overload","addr":"0.0.0.0:8080","netns":4026531840,"pid":812,"cgroup":"/api.service","scarce":"accept_loop","#;
    let harm = format!(r#""severity":"info","severity_why":"{UNKNOWN}","#);
    let lines = [
        format!(
            r#"{{"t":3.7,{head}"backlog":14,"backlog_max":128,"backlog_growth_per_sec":20.0,"accepts_per_sec":0.0,"oldest_wait_us":700000,"exhaustion_secs":5.8,"confidence":0.95,"state":"raised",{harm}"why":"{STUCK_WHY}"}}"#
        ),
        format!(
            r#"{{"t":11.9,{head}"backlog":0,"backlog_max":128,"backlog_growth_per_sec":0.0,"accepts_per_sec":0.0,"oldest_wait_us":0,"exhaustion_secs":null,"confidence":0.95,"state":"cleared",{harm}"why":"{WELL_WHY}"}}"#
        ),
    ];
    assert_eq!(verdicts("stuck-acceptor"), lines);
}

#[test]
fn stuck_acceptor_of_a_service_pages_once_it_lasts() {
    let trace = fs::read(path("stuck-acceptor")).unwrap();
    let (lines, summary) = run(&trace, true);
    assert!(!lines.iter().any(|line| line.contains("\"decision\"")), "{lines:#?}");
    assert_eq!((summary.verdicts, summary.decisions), (2, 0));

    let mut config = config();
    config.decide.services = vec![ServicePattern::new("tcp:0.0.0.0:8080").unwrap()];
    let mut out = Vec::new();
    replay(&trace[..], &config, &mut out, ReplayOptions { decisions: true }).unwrap();
    let lines: Vec<serde_json::Value> = String::from_utf8(out)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let printed: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["t"].as_f64().unwrap(),
                line["decision"].as_str().or(line["state"].as_str()).unwrap(),
            )
        })
        .collect();
    // It recovers before the five seconds that would make it critical.
    assert_eq!(
        printed,
        [
            (3.7, "raised"),
            (6.7, "updated"),
            (6.7, "page"),
            (6.7, "weigh"),
            (11.9, "cleared"),
            (11.9, "unweigh")
        ]
    );
    assert_eq!(
        (lines[0]["severity"].as_str(), lines[1]["severity"].as_str()),
        (Some("info"), Some("warning"))
    );
}

#[test]
fn dependency_down_pages_and_drains_nothing() {
    let (lines, summary) = run(&fs::read(path("dependency-down")).unwrap(), true);
    let head = r#""verdict":"cascade_risk","sign":"dependency_down","addr":"10.0.0.5:5432","netns":4026531840,"pid":812,"comm":"api","cgroup":"/api.service","failed":64,"exhaustion_secs":null,"confidence":0.9,"#;
    let tail = r#""mode":"observe","id":"cascade-risk-4026531840-10.0.0.5:5432-/api.service","cgroup":"/api.service","performed":false,"#;
    let down = "10.0.0.5:5432 does not answer /api.service (api, pid 812): 64 refused in 15 s; the \
                last of 240 successful connects was 16 s ago; services that depend on it will fail \
                next";
    let back = "10.0.0.5:5432 answers again, after 30 s of failures";
    let harm = format!(r#""severity":"warning","severity_why":"{UNKNOWN}","#);
    let expected = [
        format!(r#"{{"t":76.0,{head}"state":"raised",{harm}"why":"{down}"}}"#),
        format!(
            r#"{{"t":76.0,"decision":"page","severity":"warning",{tail}"why":"{down}; warning: {UNKNOWN}"}}"#
        ),
        format!(r#"{{"t":91.0,{head}"state":"cleared",{harm}"why":"{back}"}}"#),
    ];
    assert_eq!(lines, expected);
    assert_eq!((summary.verdicts, summary.decisions), (2, 1));
}

#[test]
fn pid_reuse_clears_the_old_and_judges_the_new() {
    let why = "api (pid 812) is no longer leaking: its pid now belongs to another process, and no \
               process has replaced it";
    let lines = [
        steep_leak("54.0", "1.0", ""),
        format!(
            r#"{{"t":91.0,{LEAK_HEAD}"exhaustion_secs":null,"confidence":1.0,"state":"cleared",{HOSTS}"why":"{why}"}}"#
        ),
    ];
    assert_eq!(verdicts("pid-reuse"), lines);
}

#[test]
fn a_gap_invents_no_growth() {
    // The growth during the suspend looks like faster growth before, so the leak is only believed
    // once the minutes after it confirm it.
    assert_eq!(verdicts("gap"), [steep_leak("3826.0", "1.0", "")]);
}

#[test]
fn missing_data_lowers_confidence_and_is_named() {
    let unseen = "; page faults were not sampled; process starts and exits were seen only \
                  indirectly; the host's memory could not always be read";
    assert_eq!(verdicts("half-blind"), [steep_leak("54.0", "0.86", unseen)]);
}

#[test]
fn hostile_lines_are_skipped() {
    let mut trace = fs::read(path("hostile")).unwrap();
    // A line of 10 MB right after the header, which is too large to commit and exceeds the limit.
    let second_line = trace.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    trace.splice(second_line..second_line, [vec![b'x'; 10_000_000], vec![b'\n']].concat());
    let (lines, summary) = run(&trace, false);
    assert_eq!(lines, [steep_leak("54.0", "1.0", "")]);
    let sorts: Vec<_> = summary.skipped_by_sort.into_iter().collect();
    let expected = [
        ("cut off", 1),
        ("impossible value", 2),
        ("not JSON", 3),
        ("not UTF-8", 1),
        ("not a record", 6),
        ("time runs backwards", 1),
        ("too long", 1),
        ("unknown kind", 3),
    ];
    assert_eq!(sorts, expected);
    assert_eq!((summary.lines, summary.observations, summary.skipped), (144, 122, 18));
    assert_eq!(
        summary.unknown_kinds.into_iter().collect::<Vec<_>>(),
        [("<script>".into(), 1), ("gpu".into(), 2)]
    );
    let first: Vec<_> = summary.first_skips.iter().take(3).map(ToString::to_string).collect();
    let expected = [
        "line 2: longer than 1 MiB",
        "line 25: not JSON: expected value in column 114",
        "line 28: not a record: invalid value: integer `-5`, expected u64 in column 162",
    ];
    assert_eq!(first, expected);
}

#[test]
fn a_bad_header_ends_a_replay_and_names_line_1() {
    for header in [
        "",
        "nonsense",
        "{\"t\":0,\"kind\":\"exit\",\"pid\":1,\"start_ticks\":1}",
        "{\"spillway_trace\":9}",
    ] {
        let error = replay(
            header.as_bytes(),
            &Config::default(),
            &mut Vec::new(),
            ReplayOptions::default(),
        );
        assert!(error.unwrap_err().to_string().starts_with("line 1: "), "{header}");
    }
}

/// Checks a recording by `spillway record` on a real host: a leak that was then killed, a cache
/// that filled, and a server that stopped accepting. Other processes were removed.
#[test]
#[rustfmt::skip]
fn a_recorded_host() {
    let lines = [
        r#"{"t":10.301052719,"verdict":"overload","addr":"127.0.0.1:37607","netns":4026531833,"pid":26925,"cgroup":"/demo","scarce":"accept_loop","backlog":8,"backlog_max":128,"backlog_growth_per_sec":10.0,"oldest_wait_us":771620,"exhaustion_secs":12.1,"confidence":0.93,"state":"raised","severity":"info","severity_why":"it is not known to be a service: no other host or unit has used it for minutes, and decide.services does not list it","why":"127.0.0.1:37607 (pid 26925) has accepted no connection for 0.8 s; 8 connections are waiting, of 128 that fit, growing by 10/s; the queue overflows in 12 s; its accept loop is stuck; only the wait of the oldest connection was timed"}"#,
        r#"{"t":55.001362533,"verdict":"leak","pid":26921,"start_ticks":6489912,"comm":"demo-leak","cgroup":"/demo","growth_bytes_per_sec":4218880.0,"growth_interval_bytes_per_sec":[3998744.5,4439015.5],"exhaustion_secs":462.7,"exhaustion_interval_secs":[244.3,878.7],"confidence":0.99,"state":"raised","severity":"warning","severity_why":"no other workload is affected, and it is not known to be a service: no other host or unit has used it for minutes, and decide.services does not list it","why":"demo-leak (pid 26921) grew by 123.9 MiB in 30 s (4.0 MiB/s ± 215.0 KiB/s), without slowing down, for as long as it has been watched; if it goes on, the 1.8 GiB left below its cgroup's memory.max run out in 8 min (4 min to 15 min); sampled page faults show 220.2 MiB of pages touched for the first time in the last 55 s (4.0 MiB/s)"}"#,
        r#"{"t":75.001895945,"verdict":"overload","addr":"127.0.0.1:37607","netns":4026531833,"pid":26925,"cgroup":"/demo","scarce":"accept_loop","backlog":0,"backlog_max":128,"backlog_growth_per_sec":0.0,"oldest_wait_us":null,"exhaustion_secs":null,"confidence":0.93,"state":"cleared","severity":"info","severity_why":"it is not known to be a service: no other host or unit has used it for minutes, and decide.services does not list it","why":"127.0.0.1:37607 (pid 26925) disappeared from the last scans"}"#,
        r#"{"t":101.001441446,"verdict":"leak","pid":26921,"start_ticks":6489912,"comm":"demo-leak","cgroup":"/demo","growth_bytes_per_sec":4218880.0,"exhaustion_secs":null,"confidence":0.99,"state":"cleared","severity":"warning","severity_why":"no other workload is affected, and it is not known to be a service: no other host or unit has used it for minutes, and decide.services does not list it","why":"demo-leak (pid 26921) is no longer leaking: it exited, and no process has replaced it"}"#,
    ];
    assert_eq!(verdicts("live-demo"), lines);
}
