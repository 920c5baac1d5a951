//! Entry points for the fuzz targets in `tests/fuzz`, one for each parser of bytes that somebody
//! else wrote.
//!
//! Not part of the agent: compiled for tests, and for fuzzing (`--cfg fuzzing`). Each takes any
//! bytes, and panics if the parser does or if what it returns breaks a promise. The tests below
//! feed each a few random inputs, so that a target cannot rot between two fuzzing runs.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, LazyLock, mpsc},
    thread,
    time::Duration,
};

use hyper::{
    StatusCode,
    body::Bytes,
    header::{HeaderMap, HeaderValue, RETRY_AFTER},
};
use tokio::runtime::Builder;

use crate::{
    act::{
        self,
        drain::{self, ReadinessCell},
        notify::{self, Notification, spool},
    },
    bpf,
    clock::Clock,
    config::{Config, Pattern, ServeConfig},
    engine::{Engine, HostInfo},
    fleet::{self, GroupLimits, NodeReport, Survey},
    history::{StoredHistory, frame},
    net::{http_client::Response, kubernetes},
    sense::{
        self, Fact, HostFact, Observation, ProcessFact, ProcessId, identity, kubepods, printable,
        proc_files,
    },
    serve::{self, Metrics},
    status::{self, StatusReport},
};

/// A journal entry names nothing outside of its cgroup.
pub fn journal(bytes: &[u8]) {
    if let Ok(entry) = act::read_entry(bytes) {
        let names = entry
            .changes
            .iter()
            .map(|change| &change.file)
            .chain(entry.unit.iter().map(|unit| &unit.name));
        assert!(names.into_iter().all(|name| !name.contains('/') && name != ".."), "{entry:?}");
    }
}

/// Lengths in an entry for an accept queue are ones that `listen()` takes, and its file, like that
/// of a network namespace, is in the journal's own directory.
pub fn shed_journal(bytes: &[u8]) {
    if let Some(stem) = act::shed::stem_of_reset(bytes) {
        assert!(!stem.contains('/') && stem.starts_with("netns-"), "{stem}");
    }
    if let Ok(entry) = act::shed::read_entry(bytes) {
        let stem = act::shed::stem_of(&entry);
        assert!(!stem.contains('/') && stem.starts_with("socket-"), "{stem}");
        assert!(i32::try_from(entry.prior()).is_ok(), "{entry:?}");
        let ours = (0..=64).map(|bit| u32::MAX.checked_shr(bit).unwrap_or(0));
        assert!(ours.filter(|length| entry.is_ours(*length)).all(|one| i32::try_from(one).is_ok()));
    }
}

/// A report of a node has possible numbers, and whatever etcd or Kubernetes replies with makes a
/// snapshot on which nobody leaves who is not in it.
pub fn fleet(bytes: &[u8]) {
    let limits = GroupLimits::of(&Config::default().fleet);
    if let Ok(report) = NodeReport::parse(bytes, "web-1", "web") {
        assert!(report.cpus.headroom().is_finite(), "{report:?}");
        let again = NodeReport::parse(&report.to_json(), "web-1", "web");
        assert_eq!(again, Ok(report));
    }
    let snapshots = [
        fleet::snapshot_of_reply(bytes, "web", "web-1"),
        fleet::snapshot_of_list(bytes, "web", "web-1"),
    ];
    for snapshot in snapshots.into_iter().flatten() {
        assert!(fleet::grant(&snapshot, "no node", 1, 1_000, &limits).is_err());
        for member in &snapshot.members {
            let run = member.report.as_ref().map_or(0, |report| report.run);
            let now_ms = member.report.as_ref().map_or(0, |report| report.at_ms);
            let granted = fleet::grant(&snapshot, &member.node, run, now_ms, &limits);
            assert!(granted.is_err() || snapshot.members.len() > 1, "the last node left");
        }
        let _ = Survey::of(&snapshot, "web", "web-1", 1_000, &limits, 600.0);
        let _ = fleet::group_outlook(&snapshot, "web-1", "web", 1_000, &limits, 600.0);
    }
}

/// Windows that an earlier run saved are refused or used for a while. The bytes are taken as they
/// are, and as changes (a place and a byte, in four bytes each) of windows that are whole.
pub fn windows(bytes: &[u8]) {
    static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut engine = new_engine();
        (0..500).for_each(|t| scan_once(&mut engine, f64::from(t)));
        engine.save(500.0).expect("windows can be written")
    });
    let mut changed = WHOLE.clone();
    for change in bytes.chunks_exact(4) {
        let place = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize;
        let length = changed.len();
        changed[place % length] = change[3];
    }
    for saved in [bytes, &changed] {
        let mut engine = new_engine();
        if engine.restore(1.0, 30.0, saved).is_ok() {
            (1..40).for_each(|step| scan_once(&mut engine, f64::from(step) * 20.0));
            engine.save(800.0).expect("windows can be written");
        }
    }
}

fn new_engine() -> Engine {
    Engine::new(&Config::default(), HostInfo { mem_total_bytes: 1 << 34, cpus: 2 })
}

/// Shows an engine a leak, a crash loop at a cgroup's limit, and a sawtooth.
fn scan_once(engine: &mut Engine, t: f64) {
    let host = HostFact { mem_available_bytes: 1 << 33, psi_memory_some_avg10: None };
    let life = (t / 200.0) as u32;
    let sizes = [(1, 50.0 + 2.0 * t), (10 + life, 4.0 + t % 200.0), (2, 100.0 + 5.0 * (t % 60.0))];
    let processes = sizes.map(|(pid, mib)| {
        Fact::Process(ProcessFact {
            id: ProcessId { pid, start_ticks: u64::from(pid) },
            ppid: 1,
            comm: Arc::from("api"),
            cgroup: Arc::from(if pid >= 10 { "/loop" } else { "/api" }),
            anon_bytes: (mib * 1_048_576.0) as u64,
            memory_max_bytes: (pid >= 10).then_some(205 << 20),
            ..ProcessFact::default()
        })
    });
    for fact in [Fact::Host(host)].into_iter().chain(processes) {
        engine.apply(&Observation { t, fact });
    }
}

/// A drain that was kept can be asked for again, and is kept as it was read.
pub fn drain_state(bytes: &[u8]) {
    let Ok(kept) = serde_json::from_slice::<drain::SavedState>(bytes) else { return };
    let again = serde_json::from_slice(&serde_json::to_vec(&kept).expect("it is JSON"));
    assert_eq!(again.ok().as_ref(), Some(&kept));
    if let Some(request) = &kept.request {
        serde_json::from_slice::<serde_json::Value>(&request.body("host"))
            .expect("the body is JSON");
    }
}

/// A page from the spool can be put into every receiver's form.
pub fn spool(bytes: &[u8]) {
    let Ok(entry) = serde_json::from_slice::<spool::SpoolEntry<Notification>>(bytes) else {
        return;
    };
    for body in notify::bodies(&entry.what) {
        serde_json::from_slice::<serde_json::Value>(&body).expect("the body is JSON");
    }
}

/// Type information of any kernel gives offsets, or reasons.
pub fn btf(bytes: &[u8]) {
    if let Some(btf) = bpf::Btf::from_bytes(bytes.to_vec()) {
        bpf::look_up(&btf, &sense::probes());
    }
}

/// Records of the ring buffer and of the iterators become facts with printable names.
pub fn records(bytes: &[u8]) {
    for name in sense::from_records(bytes) {
        assert_printable(&name);
    }
}

/// Files of `/proc` and of cgroups, and names in them.
pub fn proc(bytes: &[u8]) {
    if let Some(stat) = proc_files::stat(bytes) {
        assert_printable(&stat.comm);
    }
    let _ = (proc_files::memory(bytes), proc_files::mounts_in(bytes));
    let path = proc_files::cgroup_in(bytes, |_, _| true).unwrap_or(bytes);
    let shown = printable::printable(path);
    assert_printable(&shown);
    if let Some(original) = printable::original(&shown) {
        assert_eq!(printable::printable(original), shown);
    }
    for pattern in PATTERNS.iter() {
        pattern.covers(&shown);
    }
    if let kubepods::CgroupOwner::Pod(uid) = kubepods::owner(&shown) {
        assert!(!uid.contains(['/', '.']), "{uid}");
    }
    sense::from_texts(&String::from_utf8_lossy(bytes));
}

/// Command lines, images of executables, paths of cgroups and files of container engines give
/// printable texts.
pub fn identity(bytes: &[u8]) {
    for text in identity::from_bytes(bytes) {
        assert_printable(&text);
    }
}

/// A minute of history is used only if it is whole, and gives what a trace gives: no time runs
/// backwards.
pub fn history(bytes: &[u8]) {
    if let Some(events) = frame::unpack_events(bytes) {
        assert_eq!(events.observations().count(), 0);
    }
    let Some(frame) = frame::unpack(bytes).or_else(|| frame::of_text(bytes.to_vec())) else {
        return;
    };
    let times: Vec<_> = frame.observations().map(|observation| observation.t).collect();
    assert!(times.is_sorted(), "{times:?}");
    for event in frame.events() {
        let _ = frame.header.unix_ms(event.t);
    }
}

/// Answers of `sock_diag` become listeners with printable addresses.
pub fn sock_diag(bytes: &[u8]) {
    for addr in sense::from_sock_diag(bytes) {
        assert_printable(&addr);
    }
}

/// Replies of receivers, of whoever grants a drain, and of the Kubernetes API.
pub fn replies(bytes: &[u8]) {
    let Some((head, rest)) = bytes.split_at_checked(3) else { return };
    let status = u16::from_le_bytes([head[0], head[1]]);
    let (header, body) = rest.split_at(rest.len().min(head[2].into()));
    let mut headers = HeaderMap::new();
    headers.extend(HeaderValue::from_bytes(header).map(|value| (RETRY_AFTER, value)));
    let Ok(code) = StatusCode::from_u16(status) else { return };
    let answer = Response { status: code, headers, body: Bytes::copy_from_slice(body) };
    let after = answer.retry_after(1_800_000_000_000);
    for said in notify::reply_texts(status, after, body)
        .iter()
        .chain([&drain::said_of(status, after, body)])
    {
        assert!(!said.contains(char::is_control) && said.chars().count() <= 300, "{said:?}");
    }
    let _ = kubernetes::parse_pods(body);
}

/// Whatever a client says, the agent check answers with its one line.
pub fn agent_check(bytes: &[u8]) {
    static SERVER: LazyLock<SocketAddr> = LazyLock::new(|| {
        let metrics = Metrics::new(Clock::start(), 1.0);
        on_a_thread(async move {
            serve::serve_agent_check(LOOPBACK, &[], &metrics, Arc::new(ReadinessCell::default()))
                .await
                .ok()
        })
    });
    // A client that says more than is read may see a reset instead of the line.
    let answer = ask(*SERVER, &bytes[..bytes.len().min(1_000)]);
    assert!(
        answer.ends_with(b"\n") && answer.iter().filter(|byte| **byte == b'\n').count() == 1,
        "{answer:?}"
    );
}

/// Whatever a client says, the server answers in HTTP or closes the connection, and goes on.
pub fn http(bytes: &[u8]) {
    static SERVER: LazyLock<SocketAddr> = LazyLock::new(|| {
        let metrics = Arc::new(Metrics::new(Clock::start(), 1.0));
        let config = ServeConfig { listen: LOOPBACK, ..ServeConfig::default() };
        on_a_thread(async move {
            let history = StoredHistory::below("/nonexistent".into(), Clock::start());
            let pages = status::page::pages(StatusReport::default, history);
            serve::serve(&config, metrics, Arc::new(ReadinessCell::default()), pages).await.ok()
        })
    });
    let answer = ask(*SERVER, bytes);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{answer:?}");
}

const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

static PATTERNS: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
    ["ssh.service", "*", "a?[b-d]*.slice", "/a/*", "/*/b?"]
        .iter()
        .filter_map(|text| Pattern::new(text).ok())
        .collect()
});

/// Runs a server for as long as the process lives.
fn on_a_thread(start: impl Future<Output = Option<SocketAddr>> + Send + 'static) -> SocketAddr {
    let (started, address) = mpsc::channel();
    thread::spawn(move || {
        let runtime =
            Builder::new_current_thread().enable_all().build().expect("a runtime can be had");
        runtime.block_on(async {
            let _ = started.send(start.await);
            std::future::pending::<()>().await;
        });
    });
    address.recv().ok().flatten().expect("a port is free")
}

/// Says something to a server, and takes all that it answers.
fn ask(server: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(8))).expect("it is no zero");
    // The server may have answered and closed before it has read all.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("it hangs"),
        _ => answer,
    }
}

/// A report of another process fits a terminal, and does nothing to it.
pub fn status(bytes: &[u8]) {
    let Ok(report) = StatusReport::parse(bytes) else { return };
    let text = status::text::print(&report, false, "");
    let is_safe = |c| c == '\n' || printable::is_printable(c);
    assert!(text.chars().all(is_safe), "a character is not printable");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "a line is too wide");
}

fn assert_printable(name: &str) {
    assert_eq!(&*printable::printable(name), name, "a name is not printable");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TARGETS: [fn(&[u8]); 16] = [
        journal,
        shed_journal,
        drain_state,
        spool,
        btf,
        records,
        proc,
        sock_diag,
        replies,
        agent_check,
        http,
        windows,
        fleet,
        status,
        identity,
        history,
    ];

    const NAMES: [&str; 16] = [
        "journal",
        "shed_journal",
        "drain_state",
        "spool",
        "btf",
        "records",
        "proc",
        "sock_diag",
        "replies",
        "agent_check",
        "http",
        "windows",
        "fleet",
        "status",
        "identity",
        "history",
    ];

    /// Seeds of each target, in the order of [`TARGETS`].
    fn seeds() -> Vec<Vec<Vec<u8>>> {
        let of = |name| {
            let directory =
                concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/seeds/").to_owned() + name;
            let mut paths: Vec<_> =
                std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
        };
        NAMES.map(of).to_vec()
    }

    /// A seed that is refused at the door would show a fuzzer nothing.
    #[test]
    fn every_seed_is_taken_by_its_target() {
        for ((name, target), seeds) in NAMES.iter().zip(TARGETS).zip(seeds()) {
            for bytes in seeds {
                target(&bytes);
                match *name {
                    "journal" => drop(act::read_entry(&bytes).unwrap()),
                    "shed_journal" => drop(act::shed::read_entry(&bytes).unwrap()),
                    "drain_state" => {
                        drop(serde_json::from_slice::<drain::SavedState>(&bytes).unwrap())
                    }
                    "spool" => drop(
                        serde_json::from_slice::<spool::SpoolEntry<Notification>>(&bytes).unwrap(),
                    ),
                    "btf" => drop(bpf::Btf::from_bytes(bytes.clone()).unwrap()),
                    "fleet" => {
                        let snapshots = [
                            fleet::snapshot_of_reply(&bytes, "web", "web-1"),
                            fleet::snapshot_of_list(&bytes, "web", "web-1"),
                        ];
                        let members = snapshots.iter().flatten().map(|group| group.members.len());
                        let is_report = NodeReport::parse(&bytes, "web-1", "web").is_ok();
                        assert!(is_report || members.max() > Some(1));
                    }
                    "status" => assert!(!StatusReport::parse(&bytes).unwrap().incidents.is_empty()),
                    "identity" => {
                        assert!(identity::from_bytes(&bytes).iter().any(|text| !text.is_empty()))
                    }
                    "history" => {
                        let frame = frame::unpack(&bytes).or_else(|| frame::of_text(bytes));
                        let frame = frame.unwrap();
                        assert!(frame.observations().count() > 0 && frame.events().count() > 0);
                    }
                    "sock_diag" => assert!(!sense::from_sock_diag(&bytes).is_empty()),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn nothing_at_all_is_taken_by_each() {
        TARGETS.iter().for_each(|target| target(b""));
    }

    proptest! {
        // More with PROPTEST_CASES, and far more with `cargo xtask fuzz`.
        #[test]
        fn any_bytes_are_taken_by_each(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            TARGETS.iter().for_each(|target| target(&bytes));
        }

        #[test]
        fn any_seed_with_some_bytes_changed_is_taken(
            nth in any::<prop::sample::Index>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        ) {
            for (target, seeds) in TARGETS.iter().zip(seeds()) {
                let mut bytes = nth.get(&seeds).clone();
                for (at, byte) in &changes {
                    *at.get_mut(&mut bytes) = *byte;
                }
                bytes.truncate(cut.map_or(usize::MAX, |cut| cut.index(bytes.len())));
                target(&bytes);
            }
        }
    }
}
