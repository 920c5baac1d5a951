//! The history on disk: that a killed agent loses a minute at most, that a full disk costs nothing
//! but the history, and that `spillway record --last` gives a trace.

use std::{
    ffi::CString,
    fs::{self, OpenOptions},
    io::{BufReader, ErrorKind, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use spillway_agent::{
    engine::HostInfo,
    history::{
        FrameReader, HistoryEvent, HistoryRing, Period, RingLimits,
        frame::{FrameHeader, pack},
    },
    sense::{Fact, Observation},
    trace::TraceReader,
};
use spillway_tests::{ANY_PORT, Running, Scratch, agent, is_root, run_with, skip, wait_for};

const SOON: Duration = Duration::from_secs(20);
const ALL: Period = Period { from_secs: 0, to_secs: u64::MAX, step_secs: 0 };

fn configured(scratch: &Scratch, options: &str) -> PathBuf {
    let state_dir = scratch.0.join("state");
    let text = format!("{ANY_PORT}[record]\nstate_dir = \"{}\"\n{options}", state_dir.display());
    scratch.file("spillway.toml", &text)
}

fn private_dir(path: &Path) {
    fs::DirBuilder::new().mode(0o700).create(path).expect("making a directory");
}

fn started(config: &Path) -> Running {
    Running::start(run_with(config))
}

fn minutes(state_dir: &Path) -> Option<usize> {
    FrameReader::open(state_dir, ALL).ok().map(Iterator::count)
}

fn record(config: &Path, out: &Path, last: &str) -> (Option<i32>, String) {
    let mut command = agent();
    command.args(["record", "--last", last, "--config"]).arg(config).arg("--out").arg(out);
    let output = command.output().expect("the agent runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn killed_agents_leave_a_trace_of_their_minutes() {
    if !is_root("killed_agents_leave_a_trace_of_their_minutes") {
        return;
    }
    let scratch = Scratch::make("history");
    let (state_dir, config) = (scratch.0.join("state"), configured(&scratch, ""));
    let (code, text) = record(&config, &scratch.0.join("none.jsonl"), "1h");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("there is no history below"), "{text}");
    private_dir(&state_dir);
    for expected in 1..=2 {
        // Half a minute of an agent that was killed while it wrote.
        if expected == 2 {
            let segment = state_dir.join("history/0000000001.jsonl.gz");
            let bytes = fs::read(&segment).expect("a segment");
            let mut file = OpenOptions::new().append(true).open(&segment).expect("a segment");
            file.write_all(&bytes[..bytes.len() / 2]).expect("writing half of it");
        }
        let running = started(&config);
        let seen = wait_for(SOON, || (minutes(&state_dir) == Some(expected)).then_some(()));
        assert!(seen.is_some(), "{:?} minutes; {}", minutes(&state_dir), running.log());
        running.stop_by(libc::SIGKILL);
    }
    let trace = scratch.0.join("last.jsonl");
    let (code, text) = record(&config, &trace, "1h");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("of 2 minutes"), "{text}");
    let file = fs::File::open(&trace).expect("a trace");
    let reader = TraceReader::new(BufReader::new(file)).expect("a trace");
    let observations: Vec<Observation> =
        reader.collect::<Result<_, _>>().expect("every line is valid");
    let scans = observations.iter().filter(|one| matches!(one.fact, Fact::Host(_))).count();
    let this = std::process::id();
    let lives = observations
        .iter()
        .filter(|one| matches!(&one.fact, Fact::Process(process) if process.id.pid == this));
    assert_eq!((scans, lives.count()), (2, 2));
    let replayed = agent().arg("replay").arg(&trace).output().expect("the agent runs");
    assert!(replayed.status.success(), "{replayed:?}");
    // A file that exists is never overwritten, and a time without an agent has no trace.
    assert_eq!(record(&config, &trace, "1h").0, Some(2));
    std::thread::sleep(Duration::from_millis(2_100));
    let (code, text) = record(&config, &scratch.0.join("second.jsonl"), "1s");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("has nothing of the last 1s"), "{text}");
}

#[test]
fn history_of_0s_keeps_nothing() {
    if !is_root("history_of_0s_keeps_nothing") {
        return;
    }
    let scratch = Scratch::make("history-off");
    let config = configured(&scratch, "history = \"0s\"\n");
    let state_dir = scratch.0.join("state");
    private_dir(&state_dir);
    let running = started(&config);
    let up = wait_for(SOON, || running.log().contains("is watching").then_some(()));
    assert!(up.is_some(), "{}", running.log());
    std::thread::sleep(Duration::from_secs(3));
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!state_dir.join("history").exists() && !state_dir.join("history.lock").exists());
}

/// A file system in memory that is unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, kib: u32) -> Option<Self> {
        private_dir(&path);
        let target = CString::new(path.as_os_str().as_bytes()).expect("a path");
        let options = CString::new(format!("size={kib}k,mode=0700")).expect("options");
        let name = c"spillway-test".as_ptr();
        // SAFETY: every pointer is to a string that ends with zero and lives until it returns.
        let mounted = unsafe {
            libc::mount(name, target.as_ptr(), c"tmpfs".as_ptr(), 0, options.as_ptr().cast())
        };
        (mounted == 0).then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn full_disk_costs_the_history_alone() {
    if !is_root("full_disk_costs_the_history_alone") {
        return;
    }
    let scratch = Scratch::make("history-full");
    let config = configured(&scratch, "");
    let Some(disk) = SmallDisk::mount(scratch.0.join("state"), 512) else {
        return skip("full_disk_costs_the_history_alone", "no file system can be mounted");
    };
    // Without a reserve the disk is filled to its last page. Every minute on it is whole, and the
    // oldest gave room back.
    let limits = RingLimits { free_bytes_min: 0, segment_bytes: 64 << 10, ..RingLimits::default() };
    let mut ring = HistoryRing::new(disk.0.clone(), Duration::from_hours(24), limits);
    let host = HostInfo { mem_total_bytes: 1 << 34, cpus: 2 };
    let (mut written, mut random) = (Vec::new(), 1_u64);
    let failed = (1_000..2_000_u64).find_map(|secs| {
        let mut letter = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'a' + (random >> 59) as u8 % 26)
        };
        let why = (0..40_000).map(|_| letter()).collect();
        let event = HistoryEvent { why, ..HistoryEvent::default() };
        let header = FrameHeader::new(host, 60.0, "boot".to_owned(), 0.0, secs * 1_000);
        let packed = pack(&header, &[], &[event]).expect("packing a minute");
        let appended = ring.append(&packed, secs as u32);
        appended.inspect(|()| written.push(secs)).err()
    });
    let failed = failed.expect("the disk gets full");
    assert_eq!(failed.kind(), ErrorKind::StorageFull, "{failed}");
    let kept = FrameReader::open(&disk.0, ALL).expect("reading the history");
    let kept: Vec<_> = kept.map(|frame| frame.header.at_ms / 1_000).collect();
    let is_latest = written.len() > kept.len() && written.ends_with(&kept);
    assert!(kept.len() > 5 && is_latest, "{kept:?} of {written:?}");
    // An agent leaves far more free than this disk has: it gives all of it back, and goes on.
    let running = started(&config);
    let warned = wait_for(SOON, || {
        running.log().contains("a minute of history is not kept: only").then_some(())
    });
    assert!(warned.is_some(), "{}", running.log());
    assert!(minutes(&disk.0) < Some(kept.len()), "{}", running.log());
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
}
