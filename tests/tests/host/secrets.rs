//! Checks that no secret leaks if receivers send it back. Every sink and the drain receiver put it
//! into their answers, each in a different place, and the agent logs at its most verbose level.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use spillway_tests::{
    Running, Scratch, agent, apart, http_get,
    http_server::{Request, respond},
    run_with, wait_for,
};

const SOON: Duration = Duration::from_secs(60);

const ROUTING_KEY: &str = "R0utingKeyThatNobodyMayTell00001";
const PAGE_KEYS: [&str; 2] = [
    "whsec_UGFnZUtleVRoYXROb2JvZHlNYXlUZWxsMDAwMDE=",
    "whsec_UGFnZUtleVRoYXROb2JvZHlNYXlUZWxsMDAwMDI=",
];
const DRAIN_KEY: &str = "whsec_RHJhaW5LZXlUaGF0Tm9ib2R5TWF5VGVsbDAwMDE=";
const SLACK_PATH: &str = "/services/T0NOBODYMAY/B0TELLTHIS/SlackPathThatNobodyMayTell";
const TOKENS: [&str; 4] =
    ["q1Zx81PwNobodyTe11s", "q2Kd07RvNobodyTe11s", "q3Mf63UyNobodyTe11s", "q4Hb29WaNobodyTe11s"];
const DRAIN_PATH: &str = "DrainPathThatNobodyMayTell";

/// Server that answers with its own requests, and with the secret that it shares with the agent.
struct Echo {
    addr: SocketAddr,
    calls: Arc<AtomicUsize>,
}

impl Echo {
    fn start(shared: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let echo = Self {
            addr: listener.local_addr().expect("a listener has an address"),
            calls: Arc::default(),
        };
        let calls = echo.calls.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that disconnects gets the same answer next time.
                let _ = answer(stream, calls.load(Ordering::SeqCst), shared);
                calls.fetch_add(1, Ordering::SeqCst);
            }
        });
        echo
    }
}

/// Answers with the request, in a different part of the response each time.
fn answer(mut stream: TcpStream, nth: usize, shared: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let request = Request::read(&mut stream)?;
    let headers = request.headers.iter().map(|(name, value)| format!(" {name}: {value}"));
    let head = format!("{}{} ", request.line, headers.collect::<String>());
    let body = String::from_utf8_lossy(&request.body);
    let (status, said) = match nth % 5 {
        0 => ("401 Unauthorized", format!("{head}{shared}")),
        1 => ("401 Unauthorized", format!("you are not {shared}, with {head}")),
        // Starts at the secret, if there is one.
        2 => ("403 Forbidden", body[body.find("routing_key").unwrap_or(0)..].to_owned()),
        3 => {
            ("503 Service Unavailable", format!("{{\"message\":\"{}\"}}", head.replace('/', "\\/")))
        }
        _ => {
            let (_, location) = request.method_and_target();
            let headers = format!("location: {location}\r\nx-key: {shared}\r\n");
            return respond(&mut stream, &format!("302 {shared}"), &headers, b"");
        }
    };
    let headers = format!("www-authenticate: {shared}\r\n");
    respond(&mut stream, status, &headers, said.as_bytes())
}

/// Contents and names of all files of a directory.
fn contents(directory: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for file in fs::read_dir(directory).expect("the directory exists").flatten() {
        all.extend_from_slice(file.path().to_string_lossy().as_bytes());
        match file.path().is_dir() {
            true => all.extend(contents(&file.path())),
            false => all.extend(fs::read(file.path()).expect("the file can be read")),
        }
    }
    all
}

fn assert_no_secret(what: &str, text: &[u8]) {
    /// Shorter parts could be ordinary words.
    const PART_BYTES: usize = 10;
    let text = text.to_ascii_lowercase();
    let keys = PAGE_KEYS.into_iter().chain([DRAIN_KEY]).map(|key| key.trim_start_matches("whsec_"));
    let secrets =
        keys.chain([ROUTING_KEY, DRAIN_PATH]).chain(TOKENS).chain(SLACK_PATH.split('/').skip(2));
    for secret in secrets {
        for part in secret.to_ascii_lowercase().as_bytes().windows(PART_BYTES) {
            let found = text.windows(PART_BYTES).position(|window| window == part);
            let around = found.map(|at| {
                String::from_utf8_lossy(&text[at.saturating_sub(200)..(at + 80).min(text.len())])
            });
            assert!(found.is_none(), "{what} contains {secret}: {around:?}");
        }
    }
    // Common part of the decoded keys.
    let raw = b"KeyThatNobodyMayTell";
    assert!(
        !text.windows(raw.len()).any(|window| window.eq_ignore_ascii_case(raw)),
        "{what} contains a decoded key"
    );
}

#[test]
fn echoed_secrets_are_neither_logged_nor_served() {
    let scratch = Scratch::make("host-secrets");
    let echoes = [ROUTING_KEY, "", SLACK_PATH, PAGE_KEYS[0], DRAIN_KEY].map(Echo::start);
    let [pagerduty, alertmanager, slack, webhook, balancer] = &echoes;
    scratch.secret("routing-key", ROUTING_KEY);
    let slack_url = scratch.secret("slack", &format!("http://{}{SLACK_PATH}", slack.addr));
    let config = configuration(
        &scratch,
        [pagerduty, alertmanager, webhook, balancer].map(|echo| echo.addr),
        &slack_url,
    );
    let mut leak = Command::new(env!("CARGO_BIN_EXE_workload"));
    let (_cgroup, leak) =
        apart("secrets-leak", leak.args(["leak", "--rate=8MiB", "--limit=1500MiB"]));
    let mut command = run_with(&config);
    command.args(["--json", "-vv"]).env("CREDENTIALS_DIRECTORY", &scratch.0);
    let running = Running::start(command);
    let output =
        agent().args(["-vv", "drain", "--config"]).arg(&config).output().expect("the agent runs");
    assert!(output.status.success(), "{output:?}");

    // Each server answers at least once in each way.
    let all_called =
        || echoes.iter().all(|echo| echo.calls.load(Ordering::SeqCst) >= 5).then_some(());
    let called = wait_for(SOON, all_called);
    let calls = echoes.each_ref().map(|echo| echo.calls.load(Ordering::SeqCst));
    assert!(called.is_some(), "too few calls: {calls:?} {}", running.log());
    let refused = wait_for(SOON, || running.line_of("outcome", "drain_refused", "node"));
    let refused =
        refused.unwrap_or_else(|| panic!("the drain was not refused: {}", running.printed()));
    let mut served = String::new();
    for path in ["/metrics", "/healthz", "/ready", "/nothing"] {
        served.push_str(&http_get(running.address(), path).expect("the agent answers"));
    }
    let status = agent().args(["status", "--json", "--config"]).arg(&config).output();
    let status = status.expect("the agent runs");
    assert!(status.status.success(), "{status:?}");
    served.push_str(&String::from_utf8_lossy(&status.stdout));
    let printed = running.printed();
    let pid = running.pid();
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).expect("the agent runs");
    let (code, log) = running.stop();
    leak.stop();
    assert_eq!(code, Some(0), "{log}");
    // The answers were logged, with the secrets masked.
    for sink in ["pagerduty", "slack", "webhook", "alertmanager"] {
        let masked = log
            .lines()
            .filter(|line| line.contains(&format!("sink={sink} ")) && line.contains("[secret]"))
            .count();
        assert!(masked >= 3, "{sink}: {masked} times in {log}");
    }
    let why = refused["why"].as_str().unwrap_or_default();
    assert!(why.starts_with("no receiver granted it before the deadline: HTTP "), "{why}");
    println!(
        "{calls:?} calls, {} bytes of log, {} masked",
        log.len(),
        log.matches("[secret]").count()
    );
    let state = contents(&scratch.0.join("state"));
    assert!(state.len() > 1_000, "the state has {} bytes", state.len());
    let said = [&output.stdout[..], &output.stderr].concat();
    for (what, text) in [
        ("the log", log.as_bytes()),
        ("standard output", printed.as_bytes()),
        ("the served pages", served.as_bytes()),
        ("the state", &state),
        ("the command line", &arguments),
        ("`spillway drain`", &said),
    ] {
        assert_no_secret(what, text);
    }
}

fn configuration(
    scratch: &Scratch,
    [pagerduty, alertmanager, webhook, balancer]: [SocketAddr; 4],
    slack_url: &Path,
) -> PathBuf {
    let secret = |name: &str, text: &str| scratch.secret(name, text).display().to_string();
    let (page_keys, drain_key) =
        (secret("page-keys", &PAGE_KEYS.join("\n")), secret("drain-key", DRAIN_KEY));
    let [of_pagerduty, of_alertmanager, of_webhook, of_drain] = TOKENS;
    let (state_dir, slack_url) = (scratch.0.join("state"), slack_url.display());
    scratch.file(
        "spillway.toml",
        &format!(
            "[serve]\nlisten = \"127.0.0.1:0\"\n[sense]\ninterval \
            = \"100ms\"\n[detect.leak]\nwarm_up = \"0s\"\n\
             horizons = [\"4s\", \"6s\", \"10s\"]\nmin_growth = \"16MiB\"\n[record]\nstate_dir \
             = \"{}\"\n[act.page]\nin_observe = true\n\
             [act.page.pagerduty]\nurl \
             = \"http://{pagerduty}/v2/enqueue?token={of_pagerduty}\"\nrouting_key_file \
             = \"credential:routing-key\"\n\
             [act.page.alertmanager]\nurl \
             = \"http://{alertmanager}/api/v2/alerts?token={of_alertmanager}\"\n\
             [act.page.slack]\nurl_file = \"{slack_url}\"\n\
             [act.page.webhook]\nurl = \"http://{webhook}/pages?token={of_webhook}\"\nsecret_file \
             = \"{page_keys}\"\n\
             [act.drain]\nurl = \"http://{balancer}/{DRAIN_PATH}?token={of_drain}\"\nsecret_file \
             = \"{drain_key}\"\ndeadline = \"20s\"\n",
            state_dir.display()
        ),
    )
}
