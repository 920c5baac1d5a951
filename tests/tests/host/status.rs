//! Status of the running agent over its socket: to whom it is given, that it comes while the loop
//! hangs and after a kill, and that nothing on either side of the socket is trusted.

use std::{
    fs,
    io::Write as _,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        net::{UnixListener, UnixStream},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::Duration,
};

use serde_json::Value;
use spillway_agent::status::runtime_dir::socket_path;
use spillway_tests::{
    ANY_PORT, Running, Scratch, agent, apart, find_metric, http_get, is_root, metric, now,
    run_with, skip, wait_for,
};

const SOON: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65_534;

/// Configuration of an agent, and the directory of its socket, which is removed at the end.
pub(crate) struct Node {
    pub(crate) scratch: Scratch,
    pub(crate) config: PathBuf,
    socket: PathBuf,
}

impl Node {
    pub(crate) fn make(test: &str, options: &str) -> Self {
        let scratch = Scratch::make(&format!("status-{test}"));
        let state_dir = scratch.0.join("state");
        let text = format!("{options}\n[record]\nstate_dir = \"{}\"\n", state_dir.display());
        let config = scratch.file("spillway.toml", &text);
        Self { scratch, config, socket: socket_path(&state_dir) }
    }

    /// Starts an agent that reads `/proc` alone: what it sees does not matter here.
    pub(crate) fn start(&self) -> Running {
        let mut command = run_with(&self.config);
        command.args(["--no-bpf", "--json"]);
        Running::start(command)
    }

    pub(crate) fn command(&self, command: &str) -> Command {
        let mut spillway = agent();
        spillway.args([command, "--config"]).arg(&self.config);
        spillway
    }

    fn run(&self, command: &str) -> (Option<i32>, String) {
        said(&self.command(command).output().expect("the agent runs"))
    }

    fn json(&self) -> Value {
        let output = self.command("status").arg("--json").output().expect("the agent runs");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.socket.parent().map(fs::remove_dir_all);
    }
}

fn said(output: &Output) -> (Option<i32>, String) {
    let texts = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&texts).into_owned())
}

fn observing(test: &str) -> Option<Node> {
    is_root(test).then(|| Node::make(test, ANY_PORT))
}

#[test]
fn status_of_a_leak_says_what_was_done_and_what_to_do() {
    if !is_root("status_of_a_leak") {
        return;
    }
    let program = env!("CARGO_BIN_EXE_workload");
    let mut leak = Command::new(program);
    leak.arg0("leaker --db=postgres://app:hunter2@db/shop --api-key hunter2 --port=80");
    let (cgroup, leak) =
        apart("status-leak", leak.args(["leak", "--rate=8MiB", "--limit=1500MiB"]));
    let Some(cgroup) = cgroup else { return skip("status_of_a_leak", "no cgroup can be made") };
    let path = &cgroup.path;
    let node = Node::make(
        "leak",
        &format!(
            "mode = \"enforce\"\n{ANY_PORT}[sense]\ninterval = \"100ms\"\n[detect.leak]\n\
             warm_up = \"0s\"\nhorizons = [\"4s\", \"6s\", \"10s\", \"20s\"]\n\
             min_growth = \"16MiB\"\n[decide]\nlimit_within = \"1d\"\nallow = [\"{path}\"]\n\
             [act.limit]\nmargin = \"16MiB\""
        ),
    );
    let mut running = run_with(&node.config);
    running.arg("--json");
    let running = Running::start(running);
    let limited = wait_for(SOON, || {
        let status = node.json();
        let changes = status["changes"].as_array()?;
        let is_limited = changes.iter().any(|change| change["subject"] == path.as_str());
        // On a busy host the command line comes after the claim, and the build id after that.
        let is_known = status["incidents"].as_array()?.iter().any(|incident| {
            incident["pid"] == leak.pid() && incident["identity"]["build_id"].is_string()
        });
        (is_limited && is_known).then_some(status)
    });
    let status = limited.unwrap_or_else(|| panic!("{}{}", running.printed(), running.log()));
    let incidents = status["incidents"].as_array().expect("incidents");
    let of_leak = |incident: &&Value| incident["cgroup"] == path.as_str();
    let incident = incidents.iter().find(of_leak).unwrap_or_else(|| panic!("{status:#}"));
    assert_eq!((&incident["pid"], &incident["verdict"]), (&leak.pid().into(), &"leak".into()));
    let headline = incident["headline"].as_str().unwrap_or_default();
    assert!(headline.contains("; Spillway holds it at "), "{headline}");
    let identity = &incident["identity"];
    let command = "leaker --db=postgres://app:[secret]@db/shop --api-key [secret] --port=80 leak \
                   --rate=8MiB --limit=1500MiB";
    assert_eq!(
        (&identity["command"], &identity["user"], &identity["executable"]),
        (&command.into(), &"root".into(), &program.into()),
        "{incident:#}"
    );
    assert!(identity["age_secs"].as_f64() < Some(60.0) && identity["build_id"].is_string());
    let printed = running.printed();
    assert!(!printed.contains("hunter2"), "{printed}");
    let actions = incident["actions"].as_array().expect("actions");
    let limit = actions.iter().find(|action| action["action"] == "limit").expect("a limit");
    assert_eq!(limit["state"], "limited", "{limit:#}");
    assert!(status["changes"][0]["limit_bytes"].as_u64() > Some(16 << 20), "{status:#}");
    assert!(status["budget"]["left"].as_u64() < status["budget"]["per_hour"].as_u64());

    let (code, text) = node.run("status");
    assert_eq!(code, Some(0), "{text}");
    for wanted in
        ["leaks memory", "limited: memory.", "restart", "run by root", "may use", "spillway undo"]
    {
        assert!(text.contains(wanted), "no {wanted:?} in {text}");
    }
    let is_command = |line: &&str| line.contains("--config");
    let wide = text.lines().filter(|line| !is_command(line)).find(|line| line.chars().count() > 80);
    assert_eq!(wide, None, "{text}");

    // By hand: the agent is told, and says what holds then.
    let (code, text) = node.run("pause");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("starts no action") && text.contains("1 change stays"), "{text}");
    assert!(node.run("status").1.contains("is PAUSED"));
    let (code, text) = node.run("undo");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("lifted the limit of"), "{text}");
    let after = node.json();
    assert_eq!((&after["changes_total"], &after["paused"]), (&0.into(), &true.into()));
    let (code, text) = node.run("resume");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("may act again"), "{text}");
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    leak.stop();
    assert!(!node.socket.exists(), "the agent left its socket");

    // What was claimed and done outlives the agent.
    let explained = |id: &str| {
        let mut explain = node.command("explain");
        said(&explain.args(["--incident", id]).output().expect("the agent runs"))
    };
    let (code, svg) = explained(incident["id"].as_str().expect("an id"));
    assert_eq!(code, Some(0), "{svg}");
    for wanted in ["<svg xmlns=", "leaks memory", "Memory of the process", "limit limited: memory."]
    {
        assert!(svg.contains(wanted), "no {wanted:?} in {svg}");
    }
    let (code, text) = explained("leak-1-1");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("has no incident leak-1-1"), "{text}");
}

#[test]
fn requests_without_an_agent_say_so() {
    let Some(node) = observing("requests_without_an_agent") else { return };
    let (code, text) = node.run("status");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("no agent answers at") && text.contains("systemctl start"), "{text}");
    for (command, exits, wanted) in [
        ("pause", 0, "No agent runs; the next one will start paused."),
        ("drain", 1, "the next agent will drain this node"),
        ("undrain", 0, "No agent runs, and this node is in service"),
        ("undo", 0, "nothing to undo"),
    ] {
        let (code, text) = node.run(command);
        assert_eq!(code, Some(exits), "{command}: {text}");
        assert!(text.contains(wanted), "{command}: {text}");
    }
    let (_, text) = node.run("status");
    assert!(text.contains("the next agent will start paused"), "{text}");
    let (code, text) = node.run("resume");
    assert_eq!((code, text.contains("No agent runs")), (Some(0), true), "{text}");
}

#[test]
fn drain_says_who_hears_of_it_and_what_is_left() {
    let Some(node) = observing("drain_says_who_hears") else { return };
    let running = node.start();
    // Drained, and nobody has ever asked whether it is.
    let (code, text) = node.run("drain");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is drain") && text.contains("nobody is known to hear of it"), "{text}");
    let ready = http_get(running.address(), "/ready").expect("the agent answers");
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    let (code, text) = node.run("drain");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("until `spillway resume`"), "{text}");
    let (_, text) = node.run("status");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("by an operator; until `spillway resume`"), "{text}");
    let (code, text) = node.run("undrain");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("in service, at a weight of 100 %"), "{text}");
    let (code, text) = node.run("resume");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("This node: in service (ready 100%)."), "{text}");
    assert_eq!(running.stop().0, Some(0));
}

#[test]
fn socket_of_a_killed_agent_is_replaced() {
    let Some(node) = observing("socket_of_a_killed_agent") else { return };
    let first = node.start();
    assert_eq!(node.json()["pid"], first.pid());
    // A second agent leaves the socket to the first, and takes it over.
    let second = node.start();
    assert_eq!(node.json()["pid"], first.pid());
    first.signal(libc::SIGKILL);
    drop(first);
    assert!(node.socket.exists());
    let (code, text) = node.run("status");
    assert!(code == Some(0) || text.contains("no agent answers"), "{text}");
    let taken = wait_for(SOON, || node.run("status").0.filter(|code| *code == 0));
    assert!(taken.is_some(), "{}", second.log());
    assert_eq!(node.json()["pid"], second.pid());
    second.signal(libc::SIGKILL);
    drop(second);
    // An agent with another state directory removes what the killed one left.
    assert!(node.socket.exists());
    let other = Node::make("killed-other", ANY_PORT);
    assert_eq!(other.start().stop().0, Some(0));
    assert!(!node.socket.exists() && !node.socket.parent().expect("a directory").exists());
    let third = node.start();
    assert_eq!(node.json()["pid"], third.pid());
    assert_eq!(third.stop().0, Some(0));
    assert!(!node.socket.exists());
}

#[test]
fn only_root_and_the_group_may_ask() {
    let Some(node) = observing("only_root_and_the_group") else { return };
    const GROUP: u32 = 54_321;
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode is set");
    };
    let mode = |path: &Path| fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
    let dir = node.socket.parent().expect("it has a directory");
    fs::create_dir_all(dir).expect("it can be made");
    set_mode(dir, 0o750);
    chown(dir, None, Some(GROUP)).expect("the group is set");
    set_mode(&node.scratch.0, 0o755);
    let running = node.start();
    assert_eq!((mode(dir), mode(&node.socket)), (0o750, 0o660));
    let socket = fs::metadata(&node.socket).expect("it exists");
    assert_eq!((socket.uid(), socket.gid()), (0, GROUP));
    let as_nobody = |gid: u32| {
        // Other agents of this host are below the same directory.
        set_mode(Path::new("/run/spillway"), 0o751);
        let mut command = node.command("status");
        let output = command.uid(NOBODY).gid(gid).current_dir("/").output();
        let output = said(&output.expect("the agent runs"));
        set_mode(Path::new("/run/spillway"), 0o750);
        output
    };
    let admitted = as_nobody(GROUP);
    assert_eq!(admitted.0, Some(0), "{admitted:?}");
    let refused = as_nobody(NOBODY);
    assert_eq!(refused.0, Some(1), "{refused:?}");
    assert!(refused.1.contains("only root and the group of"), "{refused:?}");
    // Opened to all by mistake: the peer's credentials are checked all the same.
    set_mode(dir, 0o755);
    set_mode(&node.socket, 0o666);
    let refused = as_nobody(NOBODY);
    assert_eq!(refused.0, Some(1), "{refused:?}");
    assert!(refused.1.contains("only root and the group of"), "{refused:?}");
    assert_eq!(as_nobody(GROUP).0, Some(0));
    assert_eq!(running.stop().0, Some(0));
}

#[test]
fn peers_that_do_not_read_delay_neither_status_nor_loop() {
    let Some(node) = observing("peers_that_do_not_read") else { return };
    let running = node.start();
    let idle: Vec<_> =
        (0..100).map(|_| UnixStream::connect(&node.socket).expect("the agent accepts")).collect();
    let began = now();
    let (code, text) = node.run("status");
    assert_eq!(code, Some(0), "{text}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    drop(idle);
    let metrics = http_get(running.address(), "/metrics").expect("the agent answers");
    assert!(find_metric(&metrics, "spillway_loop_gap_max_seconds").is_some());
    assert!(metric(&metrics, "spillway_loop_gap_max_seconds") < 1.0, "{metrics}");
    assert_eq!(running.stop().0, Some(0));
}

#[test]
fn stopped_agent_is_reported_in_time() {
    let Some(node) = observing("stopped_agent") else { return };
    let running = node.start();
    running.signal(libc::SIGSTOP);
    for command in ["status", "pause", "resume"] {
        let began = now();
        let (code, text) = node.run(command);
        assert_eq!(code, Some(1), "{command}: {text}");
        let wanted = format!("the agent (pid {}) did not answer", running.pid());
        assert!(text.contains(&wanted) && text.contains("systemctl restart"), "{command}: {text}");
        assert!(began.elapsed() < Duration::from_secs(8), "{command}: {:?}", began.elapsed());
    }
    running.signal(libc::SIGCONT);
    let goes_on = wait_for(SOON, || node.run("status").0.filter(|code| *code == 0));
    assert!(goes_on.is_some(), "{}", node.run("status").1);
    assert_eq!(running.stop().0, Some(0));
}

#[test]
fn hostile_answers_are_bounded_and_escaped() {
    let Some(node) = observing("hostile_answers") else { return };
    let dir = node.socket.parent().expect("it has a directory");
    fs::create_dir_all(dir).expect("it can be made");
    // As an agent does: other agents of this host remove a socket whose directory is not locked.
    let lock = fs::File::open(dir).expect("the directory can be opened");
    lock.lock().expect("the directory can be locked");
    let endless = [&b"{\"a\":\""[..], &vec![b'x'; 8 << 20]].concat();
    let escapes = format!(
        "{{\"spillway_status\":1,\"host\":\"\\u001b]0;x\\u0007{}\",\"health\":{{\"status\":\"ok\"}}}}",
        '\u{202e}'
    );
    for (answer, stays, exits, wanted) in [
        (&b"{}"[..], false, 1, "no valid report"),
        (b"\x1b[31mnothing", false, 1, "no valid report"),
        (&[b'['; 100_000], false, 1, "no valid report"),
        (&endless, true, 1, "no valid report"),
        (b"{", true, 1, "did not answer"),
        (escapes.as_bytes(), false, 0, "Spillway"),
    ] {
        let _ = fs::remove_file(&node.socket);
        let listener = UnixListener::bind(&node.socket).expect("the socket can be bound");
        let answer = answer.to_vec();
        let server = thread::spawn(move || {
            let mut held = Vec::new();
            // One for the text, one for the JSON.
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().expect("a client connects");
                let _ = stream.write_all(&answer);
                if stays {
                    held.push(stream);
                }
            }
            thread::sleep(Duration::from_secs(if stays { 4 } else { 0 }));
        });
        for json in [false, true] {
            let began = now();
            let mut command = node.command("status");
            command.args(json.then_some("--json"));
            let (code, text) = said(&command.output().expect("the agent runs"));
            assert_eq!(code, Some(exits), "{text}");
            assert!(json && exits == 0 || text.contains(wanted), "no {wanted:?} in {text}");
            assert!(!text.contains(['\x1b', '\u{7}', '\u{202e}']), "{text:?}");
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        }
        server.join().expect("the server ends");
    }
}

#[test]
fn agent_without_a_runtime_directory_runs_and_says_so() {
    let Some(node) = observing("without_a_runtime_directory") else { return };
    fs::create_dir_all("/run/spillway").expect("it can be made");
    let dir = node.socket.parent().expect("it has a directory").to_owned();
    fs::write(&dir, "in its way").expect("a file can be made");
    let running = node.start();
    let health = running.get("/healthz");
    let log = running.log();
    let (code, text) = node.run("status");
    assert_eq!(running.stop().0, Some(0));
    assert!(health.contains("cannot report status at"), "{health}");
    assert!(log.contains("cannot report status at") && log.contains("RuntimeDirectory"), "{log}");
    assert_eq!(code, Some(1), "{text}");

    // The state directory takes its place, if there is one.
    let state_dir = node.scratch.0.join("state");
    fs::create_dir(&state_dir).expect("it can be made");
    let running = node.start();
    let (code, text) = node.run("status");
    let health = running.get("/healthz");
    assert_eq!(code, Some(0), "{text}");
    assert!(!health.contains("cannot report status"), "{health}");
    assert!(state_dir.join("status.sock").exists());
    assert_eq!(running.stop().0, Some(0));
    assert!(!state_dir.join("status.sock").exists());
    fs::remove_file(&dir).expect("the file can be removed");
}

/// Status of an agent with a leak that is only observed: it says what it would do.
#[test]
fn observing_agent_says_what_it_would_do() {
    if !is_root("observing_agent_says_what_it_would_do") {
        return;
    }
    let mut leak = Command::new(env!("CARGO_BIN_EXE_workload"));
    let (cgroup, leak) =
        apart("status-would", leak.args(["leak", "--rate=8MiB", "--limit=1500MiB"]));
    let Some(cgroup) = cgroup else { return skip("observing_agent", "no cgroup can be made") };
    let node = Node::make(
        "would",
        &format!(
            "{ANY_PORT}[sense]\ninterval = \"100ms\"\n[detect.leak]\nwarm_up = \"0s\"\n\
             horizons = [\"4s\", \"6s\", \"10s\", \"20s\"]\nmin_growth = \"16MiB\"\n\
             [decide]\nlimit_within = \"1d\"\nallow = [\"{}\"]",
            cgroup.path
        ),
    );
    let running = node.start();
    let would = wait_for(SOON, || {
        Some(node.run("status").1).filter(|text| text.contains("limit its memory"))
    });
    let text = would.unwrap_or_else(|| panic!("{}{}", running.printed(), node.run("status").1));
    assert!(text.contains("  would   ") && text.contains("only observes"), "{text}");
    assert!(text.contains("Changed   nothing on this host"), "{text}");
    let (code, text) = node.run("pause");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("It would take none anyway"), "{text}");
    assert_eq!(running.stop().0, Some(0));
    leak.stop();
}
