//! The agent's own ports under attack by a local user. Its own listeners never cause a verdict, and
//! it reports its health truthfully.

use std::{
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream},
    thread::sleep,
    time::Duration,
};

use serde_json::Value;
use spillway_tests::{ANY_PORT, Running, Scratch, find_metric, is_root, now, run_with, wait_for};

/// Connections that overload any other server that does not accept.
const CONNECTIONS: usize = 40;

fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a loopback port is free")
}

/// Starts an agent that drains by an agent check.
fn agent(scratch: &Scratch, agent_check: SocketAddr) -> Running {
    let state_dir = scratch.0.join("state");
    let text = format!(
        "mode = \"enforce\"\n{ANY_PORT}[act.limit]\nenabled = \
        false\n[act.drain.agent_check]\nlisten = \"{agent_check}\"\n[record]\nstate_dir = \"{}\"\n",
        state_dir.display()
    );
    let mut command = run_with(&scratch.file("spillway.toml", &text));
    command.arg("--json");
    Running::start(command)
}

/// Child that runs `attack` as the user `nobody`. It makes only system calls, and keeps the
/// connections open until it is dropped.
struct Nobody(libc::pid_t);

impl Nobody {
    fn runs<T>(attack: impl Fn() -> T) -> Self {
        // SAFETY: the child only makes system calls until it is killed.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork failed");
        if pid == 0 {
            // SAFETY: system calls with integers; the child dies with the test's thread.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if libc::setgroups(0, std::ptr::null()) != 0
                    || libc::setgid(65_534) != 0
                    || libc::setuid(65_534) != 0
                {
                    libc::_exit(1);
                }
            }
            let _held = attack();
            loop {
                // SAFETY: waits for a signal.
                unsafe { libc::pause() };
            }
        }
        Self(pid)
    }
}

impl Drop for Nobody {
    fn drop(&mut self) {
        // SAFETY: signals and reaps a child; nothing is written.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// Line of the agent check, and its response time.
fn line_of(addr: SocketAddr) -> (String, Duration) {
    let (asked, mut line) = (now(), String::new());
    let read = TcpStream::connect(addr).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.read_to_string(&mut line)
    });
    read.expect("the agent check answers");
    (line, asked.elapsed())
}

#[test]
fn idle_connections_and_a_freeze_cause_no_verdict() {
    const TEST: &str = "idle_connections_and_a_freeze_cause_no_verdict";
    if !is_root(TEST) {
        return;
    }
    let (scratch, check) = (Scratch::make("own-sockets"), free_addr());
    let running = agent(&scratch, check);
    let http = running.address();
    let hold = || {
        [http, check]
            .map(|addr| std::array::from_fn::<_, CONNECTIONS, _>(|_| TcpStream::connect(addr)))
    };
    let idle = Nobody::runs(hold);
    sleep(Duration::from_millis(1_500));
    let (line, took) = line_of(check);
    assert!(line == "ready 100%\n" && took < Duration::from_secs(1), "{line:?} after {took:?}");
    let (asked, ready) = (now(), running.get("/ready"));
    assert!(
        ready.starts_with("HTTP/1.1 200") && asked.elapsed() < Duration::from_secs(1),
        "{ready}"
    );

    // A paused machine or a frozen cgroup has the same effect. More clients connect meanwhile.
    running.signal(libc::SIGSTOP);
    let more = Nobody::runs(hold);
    sleep(Duration::from_millis(1_500));
    running.signal(libc::SIGCONT);
    let metrics = wait_for(Duration::from_secs(10), || {
        let metrics = running.get("/metrics");
        let gap = find_metric(&metrics, "spillway_loop_gap_max_seconds")?;
        (gap >= 1.0).then_some(metrics)
    });
    let metrics = metrics.expect("the freeze is counted");
    // Longer than it takes to claim an overload.
    sleep(Duration::from_secs(2));
    let printed = running.printed();
    for addr in [http, check].map(|addr| addr.to_string()) {
        assert!(!printed.contains(&addr), "{addr} in {printed}");
        assert!(
            find_metric(&metrics, &format!("spillway_own_backlog{{addr=\"{addr}\"}}")).is_some(),
            "{addr}: {metrics}"
        );
    }
    assert_eq!(line_of(check).0, "ready 100%\n", "{printed}");

    let answer = running.get("/healthz");
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).expect("the answer has a body");
    let health: Value = serde_json::from_str(body).expect("the body is JSON");
    let kinds: Vec<_> =
        health["reasons"].as_array().into_iter().flatten().map(|reason| &reason["kind"]).collect();
    assert!(
        answer.starts_with("HTTP/1.1 200")
            && health["status"] == "degraded"
            && kinds.contains(&&Value::from("gap")),
        "{answer}"
    );
    drop((idle, more));
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn agent_without_one_of_its_ports_reports_degraded() {
    let scratch = Scratch::make("degraded");
    // The port of the agent check is already in use.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let running = agent(&scratch, taken.local_addr().expect("a listener has an address"));
    let answer = running.get("/healthz");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("content-type: application/json"),
        "{answer}"
    );
    assert!(
        answer.contains(r#"{"status":"degraded","reasons":["#)
            && answer.contains(r#"{"kind":"serve","detail":"#),
        "{answer}"
    );
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
}
