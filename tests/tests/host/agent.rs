//! The installed agent: what it serves, what it logs when BPF is unavailable, and how it stops.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write as _, pipe},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use spillway_agent::bpf::OBJECT;
use spillway_tests::{
    ANY_PORT, Running, Scratch, agent, find_metric, http_get, is_root, metric, run_with, wait_for,
    warnings,
};

#[test]
fn agent_serves_health_and_metrics_and_stops_on_request() {
    let scratch = Scratch::make("serves");
    let running = Running::start(run_with(&scratch.file("spillway.toml", ANY_PORT)));
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(running.get("/healthz").starts_with("HTTP/1.1 200"));
    let answer = running.get("/metrics");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(metric(&answer, "spillway_processes") >= 2.0);
    assert!(metric(&answer, "spillway_listeners") >= 1.0, "its own listener is missing");
    assert!(metric(&answer, "spillway_resident_bytes") > 1e6);
    assert!(metric(&answer, "spillway_cpu_seconds_total") > 0.0);
    assert!(metric(&answer, "spillway_observations_total{sensor=\"processes\"}") >= 2.0);
    assert!(running.get("/nothing").starts_with("HTTP/1.1 404"));
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn agent_memory_is_locked_and_resident() {
    if !is_root("agent_memory_is_locked_and_resident") {
        return;
    }
    let scratch = Scratch::make("locked");
    let mut command = run_with(&scratch.file("spillway.toml", ANY_PORT));
    command.args(["--verbose"]);
    let running = Running::start(command);
    std::thread::sleep(Duration::from_millis(1_500));
    let status =
        fs::read_to_string(format!("/proc/{}/status", running.pid())).expect("the agent runs");
    let kib = |field: &str| -> u64 {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .expect("the kernel has this field");
        line.trim().trim_end_matches(" kB").parse().expect("the value is a size")
    };
    // The unlocked rest is memory that was not touched since, or that is shared with the kernel.
    assert!(kib("VmLck:") >= kib("VmRSS:") / 2, "{status}");
    // Code that has not run yet is locked too, in libraries as well. Only the object with the BPF
    // programs has left memory, as far as it has whole pages.
    let maps =
        fs::read_to_string(format!("/proc/{}/smaps", running.pid())).expect("the agent runs");
    let (mut files, mut of, mut size_kib) = (BTreeSet::new(), None, 0);
    let mut absent_kib = Vec::new();
    for line in maps.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let kib = || words[1].parse::<u64>().expect("the value is a size");
        match (words[0], of) {
            ("Size:", _) => size_kib = kib(),
            ("Rss:", Some(_)) if kib() == 0 => absent_kib.push(size_kib),
            ("Rss:", Some(file)) => assert_eq!(kib(), size_kib, "of {file}"),
            (range, _) if range.contains('-') => {
                of = words
                    .get(5)
                    .copied()
                    .filter(|file| words[1].starts_with('r') && file.starts_with('/'));
                files.extend(of);
            }
            _ => {}
        }
    }
    let object_kib = OBJECT.len() as u64 >> 10;
    let is_object = |kib: u64| (object_kib.saturating_sub(8)..=object_kib).contains(&kib);
    assert!(matches!(absent_kib[..], [kib] if is_object(kib)), "{absent_kib:?} of {object_kib}");
    let has = |name: &str| files.iter().any(|file| file.contains(name));
    assert!(has("/spillway") && has("/libc.so"), "{files:?}");
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", running.pid()))
        .expect("the agent runs");
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(score.trim() == "-900" || log.contains("OOM score is not lowered"), "{score} {log}");
}

/// Agent whose output is not read. It is killed at the end of the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Creates a pipe and fills it. Nothing reads from it.
fn full() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().expect("a pipe can be created");
    // SAFETY: fcntl takes integers here, and the descriptor is open.
    let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_GETPIPE_SZ) };
    let size = usize::try_from(size).expect("a pipe has a size");
    writer.write_all(&vec![b'\n'; size]).expect("the pipe has room");
    (reader, writer)
}

#[test]
fn unread_output_does_not_block_the_agent() {
    let scratch = Scratch::make("unread");
    let port =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    let addr: SocketAddr = port.expect("a loopback port is free");
    let config = scratch.file("spillway.toml", &format!("[serve]\nlisten = \"{addr}\"\n"));
    let ((printed, prints), (logged, logs)) = (full(), full());
    let mut command = run_with(&config);
    // Produces more than fits into the pipe and the agent's queue.
    command.args(["--json", "-vv"]).stdin(Stdio::null()).stdout(prints).stderr(logs);
    let mut agent = Killed(command.spawn().expect("the agent starts"));
    let reads = || {
        find_metric(
            &http_get(addr, "/metrics").ok()?,
            "spillway_observations_total{sensor=\"processes\"}",
        )
    };
    let first = wait_for(Duration::from_secs(20), || reads().filter(|&reads| reads > 0.0))
        .expect("the agent scans");
    let goes_on =
        wait_for(Duration::from_secs(20), || reads().filter(|&reads| reads > first * 2.0));
    assert!(goes_on.is_some(), "the agent is blocked");
    // The agent still stops in time.
    // SAFETY: signals a child that has not been reaped yet.
    unsafe { libc::kill(agent.0.id() as i32, libc::SIGTERM) };
    let ended =
        wait_for(Duration::from_secs(10), || agent.0.try_wait().expect("the child can be polled"));
    assert!(ended.is_some(), "the agent does not stop");
    drop((printed, logged));
}

/// Number of warnings, except that the host stood still, which a busy host causes.
fn own_warnings(log: &str) -> usize {
    let stalls = "the agent or the whole host stood still";
    warnings(log).iter().filter(|line| !line.contains(stalls)).count()
}

#[test]
fn agent_without_bpf_warns_once_and_watches() {
    let scratch = Scratch::make("no-bpf");
    let mut command = run_with(&scratch.file("spillway.toml", ANY_PORT));
    command.arg("--no-bpf");
    let running = Running::start(command);
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(metric(&running.get("/metrics"), "spillway_processes") >= 2.0);
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("BPF is not used: --no-bpf was given").count(), 1, "{log}");
    assert_eq!(own_warnings(&log), 1, "{log}");
}

#[test]
fn unprivileged_agent_warns_once_and_watches() {
    if !is_root("unprivileged_agent_warns_once_and_watches") {
        return;
    }
    // The binary may be in a directory that other users cannot read.
    let scratch = Scratch::make("user");
    let binary = scratch.0.join("spillway");
    fs::copy(agent().get_program(), &binary).expect("the agent can be copied");
    let config = scratch.file("spillway.toml", ANY_PORT);
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
    command.args(["run", "--config"]).arg(&config);
    let running = Running::start(command);
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(metric(&running.get("/metrics"), "spillway_processes") >= 2.0);
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(own_warnings(&log), 1, "{log}");
    assert!(
        log.contains("root, or CAP_BPF and CAP_PERFMON, are needed; process_memory from /proc"),
        "{log}"
    );
}

#[test]
fn port_in_use_does_not_prevent_watching() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let addr = taken.local_addr().expect("a listener has an address");
    let scratch = Scratch::make("port");
    let config = scratch.file("spillway.toml", &format!("[serve]\nlisten = \"{addr}\"\n"));
    let (code, log) = Running::start(run_with(&config)).stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains(&format!("cannot serve metrics on {addr}")), "{log}");
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the agent runs")
}

#[test]
fn recording_can_be_replayed() {
    let scratch = Scratch::make("record");
    let trace = scratch.0.join("host.jsonl");
    let recorded = run(agent().args(["record", "--duration", "2s", "--out"]).arg(&trace));
    assert!(recorded.status.success(), "{}", String::from_utf8_lossy(&recorded.stderr));
    let text = fs::read_to_string(&trace).expect("the trace exists");
    assert!(text.starts_with("{\"spillway_trace\":1,"), "{text}");
    for kind in ["host", "process"] {
        assert!(text.contains(&format!("\"kind\":\"{kind}\"")), "no {kind} in {text}");
    }
    let replayed = run(agent().args(["replay", "--decisions"]).arg(&trace));
    let said = String::from_utf8_lossy(&replayed.stderr);
    assert!(replayed.status.success(), "{said}");
    assert!(said.is_empty(), "a recorded line was not used: {said}");

    let again = run(agent().args(["record", "--duration", "1s", "--out"]).arg(&trace));
    assert_eq!(again.status.code(), Some(2), "an existing trace was overwritten");
    assert!(String::from_utf8_lossy(&again.stderr).contains("hint: remove it"));
}

/// Returns the first line of the log of a short recording. `named` makes `JOURNAL_STREAM` from the
/// device and inode numbers of the recording's standard error.
fn first_log_line(named: impl Fn(u64, u64) -> Option<String>) -> String {
    let (reader, writer) = pipe().expect("a pipe can be created");
    let writer = fs::File::from(std::os::fd::OwnedFd::from(writer));
    let stderr = writer.metadata().expect("the pipe is open");
    let mut command = agent();
    command.args(["record", "--no-bpf", "--duration", "1ms", "--out", "-"]);
    command.env_remove("JOURNAL_STREAM").stdout(Stdio::null()).stderr(writer);
    command.envs(named(stderr.dev(), stderr.ino()).map(|value| ("JOURNAL_STREAM", value)));
    assert!(command.status().expect("the agent runs").success());
    // The command still owns the write end of the pipe.
    drop(command);
    let line = BufReader::new(reader).lines().next().expect("the agent logs");
    line.expect("the log is text")
}

#[test]
fn log_lines_have_the_time_unless_journald_adds_it() {
    let plain = first_log_line(|dev, ino| Some(format!("{dev}:{ino}")));
    assert!(plain.trim_start().starts_with("WARN "), "{plain}");
    let utc = || {
        let date = run(Command::new("date").args(["--utc", "+%Y-%m-%dT%H:%M:%S"]));
        String::from_utf8(date.stdout).expect("a date is text").trim_end().to_owned()
    };
    let elsewhere = |dev, ino: u64| Some(format!("{dev}:{}", ino + 1));
    for named in [&(|_, _| None) as &dyn Fn(u64, u64) -> Option<String>, &elsewhere] {
        let before = utc();
        let line = first_log_line(named);
        let (time, rest) = line.split_once(' ').expect("a line has several words");
        assert!(rest.trim_start().starts_with("WARN "), "{line}");
        // Such times also sort as text.
        let (secs, fraction) = time.split_at(before.len());
        assert!(*before <= *secs && *secs <= *utc(), "{line} at {before}");
        assert!(fraction.starts_with('.') && fraction.ends_with('Z'), "{line}");
    }
}

#[test]
fn doctor_names_every_probe() {
    let output = run(agent().arg("doctor"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    for probe in ["process_memory", "fault_samples", "process_life", "accept_queue"] {
        assert!(said.contains(probe), "{said}");
    }
    let output = run(agent().args(["doctor", "--json", "--no-bpf"]));
    let found: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("the output is JSON");
    assert_eq!(found["probes"][0]["state"], "degraded");
    assert_eq!(found["probes"][1]["state"], "off");
    assert_eq!(found["probes"][0]["reason"], "--no-bpf was given");
    let passed =
        found["probes"][0]["passed_over"].as_array().expect("the rungs passed over are listed");
    let whys: Vec<_> =
        passed.iter().map(|rung| (rung["at"].as_str(), rung["why"].as_str())).collect();
    assert_eq!(
        whys,
        [
            (Some("iter/task"), Some("unwanted")),
            (Some("iter/task, plain counts"), Some("unwanted"))
        ]
    );
    assert!(found["processes"].as_u64().is_some_and(|count| count > 1));
}

#[test]
fn doctor_fails_if_nothing_can_be_sensed() {
    if !is_root("doctor_fails_if_nothing_can_be_sensed") {
        return;
    }
    // A mount namespace with an empty /proc.
    let script = format!(
        "mount -t tmpfs none /proc && exec {} doctor --no-bpf",
        agent().get_program().display()
    );
    let output = run(Command::new("unshare").args(["--mount", "sh", "-c", &script]));
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("sees 0 processes"));
}

#[test]
fn agent_in_a_pid_namespace_trusts_only_proc() {
    if !is_root("agent_in_a_pid_namespace_trusts_only_proc") {
        return;
    }
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--mount-proc"])
        .arg(agent().get_program())
        .args(["doctor", "--json"]);
    let output = run(&mut command);
    let found: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("the output is JSON");
    assert_eq!(found["probes"][0]["state"], "degraded");
    assert!(
        found["probes"][0]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("hostPID: true")),
        "{found}"
    );
    assert_eq!(found["processes"], 1, "it sees only itself");
}
