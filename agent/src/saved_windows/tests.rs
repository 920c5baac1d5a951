use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    sync::Arc,
};

use super::*;
use crate::{
    config::Config,
    detect::Verdict,
    engine::HostInfo,
    sense::{Fact, HostFact, Observation, ProcessFact, ProcessId},
};

const MIB: f64 = 1_048_576.0;

fn engine() -> Engine {
    Engine::new(&Config::default(), HostInfo { mem_total_bytes: 1 << 34, cpus: 2 })
}

/// Feeds processes of these sizes in MiB at `t`.
fn scan(engine: &mut Engine, t: f64, sizes: impl IntoIterator<Item = f64>) -> Vec<Verdict> {
    let host = HostFact { mem_available_bytes: 1 << 33, psi_memory_some_avg10: None };
    let mut verdicts = engine.apply(&Observation { t, fact: Fact::Host(host) }).verdicts;
    for (mib, pid) in sizes.into_iter().zip(1..) {
        let fact = Fact::Process(ProcessFact {
            id: ProcessId { pid, start_ticks: 1 },
            ppid: 1,
            comm: Arc::from("api"),
            cgroup: Arc::from("/system.slice/api.service"),
            anon_bytes: (mib * MIB) as u64,
            ..ProcessFact::default()
        });
        verdicts.extend(engine.apply(&Observation { t, fact }).verdicts);
    }
    verdicts
}

/// Engine that has seen 25 minutes of steady memory and then, for a minute, a leak.
fn leaking() -> Engine {
    let mut engine = engine();
    let verdicts: Vec<_> = (0..1_570)
        .flat_map(|t| scan(&mut engine, t.into(), [500.0 + (f64::from(t) - 1_500.0).max(0.0)]))
        .collect();
    assert_eq!(verdicts.len(), 1, "{verdicts:#?}");
    engine
}

/// State directory of a test, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("spillway-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        drop(StateDir::create(&path).unwrap());
        Self(path)
    }

    fn open(&self) -> SavedWindows {
        SavedWindows::try_open(&self.0, &Clock::start()).unwrap().unwrap()
    }

    fn file(&self) -> PathBuf {
        self.0.join(NAME)
    }

    /// Writes the windows of an engine that has seen a leak.
    fn with_a_leak(test: &str) -> Self {
        let scratch = Self::new(test);
        scratch.open().stop(&leaking(), &Clock::start());
        scratch
    }

    fn restored(&self) -> Result<Option<f64>, String> {
        self.open().restore(&mut engine(), &Clock::start())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn windows_of_a_stopped_agent_are_used_by_the_next() {
    let scratch = Scratch::with_a_leak("windows-next");
    let mode = fs::metadata(scratch.file()).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    let (mut next, clock) = (engine(), Clock::start());
    let age_secs = scratch.open().restore(&mut next, &clock).unwrap().unwrap();
    assert!((0.0..60.0).contains(&age_secs), "{age_secs}");
    let verdicts = scan(&mut next, clock.now() + 1.0, [571.0]);
    assert_eq!(verdicts.len(), 1, "{verdicts:#?}");
    assert!(verdicts[0].why.contains("before the agent restarted"), "{verdicts:#?}");
    assert!(scan(&mut next, clock.now() + 2.0, [572.0]).is_empty());
}

#[test]
fn windows_are_saved_every_five_minutes() {
    let scratch = Scratch::new("windows-every");
    let (engine, clock) = (leaking(), Clock::start());
    let mut windows = scratch.open();
    windows.saved_t = clock.now();
    windows.save_if_due(&engine, &clock);
    windows.saved_t = clock.now() - EVERY_SECS;
    windows.save_if_due(&engine, &clock);
    windows.written.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    assert!(windows.saved_t >= 0.0 && windows.written.try_recv().is_err());
    // As if it had been killed now.
    drop(windows);
    assert!(scratch.restored().unwrap().is_some());
}

#[test]
fn absent_windows_are_a_cold_start() {
    let scratch = Scratch::new("windows-absent");
    assert_eq!(scratch.restored(), Ok(None));
    let nowhere = scratch.0.join("nowhere");
    assert!(SavedWindows::try_open(&nowhere, &Clock::start()).unwrap().is_none());
    assert!(SavedWindows::open(&nowhere, &Clock::start()).is_none());
}

#[test]
fn damaged_foreign_and_stale_windows_are_refused() {
    let scratch = Scratch::with_a_leak("windows-damaged");
    let whole = fs::read(scratch.file()).unwrap();
    let boot_id = host::boot_id().unwrap();
    let boot_secs = Clock::start().boot_secs();
    assert!(unpack(&whole, &boot_id, boot_secs).is_ok());
    let why = |bytes: &[u8], boot: &str, secs: f64| unpack(bytes, boot, secs).unwrap_err();
    assert_eq!(why(&whole, "another", boot_secs), "it is of another boot of this host");
    assert!(why(&whole, &boot_id, boot_secs + 1_000.0).contains("up to 900 s"));
    assert!(why(&whole, &boot_id, boot_secs - 1_000.0).contains("up to 900 s"));
    assert!(why(&whole, &boot_id, f64::NAN).contains("NaN"));
    let changed = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    for at in [0, MAGIC.len() - 2, MAGIC.len(), MAGIC.len() + DIGEST_LEN, whole.len() - 1] {
        fs::write(scratch.file(), changed(at)).unwrap();
        assert!(scratch.restored().is_err(), "byte {at}");
    }
    for length in [0, 1, MAGIC.len(), MAGIC.len() + 5, whole.len() / 2, whole.len() - 1] {
        fs::write(scratch.file(), &whole[..length]).unwrap();
        assert!(scratch.restored().is_err(), "{length} bytes");
    }
    // An agent that was killed while it wrote leaves an unfinished file, which the next replaces.
    fs::write(scratch.0.join("windows.new"), "half").unwrap();
    scratch.open().stop(&leaking(), &Clock::start());
    assert!(scratch.restored().unwrap().is_some());
    assert!(!scratch.0.join("windows.new").exists());
}

#[test]
fn windows_that_others_can_write_are_refused() {
    let scratch = Scratch::with_a_leak("windows-others");
    let set = |mode| fs::set_permissions(scratch.file(), fs::Permissions::from_mode(mode)).unwrap();
    set(0o666);
    let why = scratch.restored().unwrap_err();
    assert!(why.contains("windows.bin") || why.contains("write"), "{why}");
    set(0o600);
    assert!(scratch.restored().is_ok());
    let aside = scratch.0.join("aside");
    fs::rename(scratch.file(), &aside).unwrap();
    symlink(&aside, scratch.file()).unwrap();
    assert!(scratch.restored().is_err());
}

#[test]
fn two_agents_do_not_share_windows() {
    let scratch = Scratch::with_a_leak("windows-two");
    let first = scratch.open();
    let error = SavedWindows::try_open(&scratch.0, &Clock::start()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    drop(first);
    scratch.open();
}

#[test]
fn windows_of_two_thousand_processes_are_small() {
    let mut engine = engine();
    for t in 0..400 {
        let sizes = (0..2_000).map(|nth| 10.0 + f64::from(nth % 97) + f64::from(t % 7));
        scan(&mut engine, f64::from(t), sizes);
    }
    let bytes = engine.save(400.0).unwrap();
    println!("{} bytes", bytes.len());
    assert!(bytes.len() < 2_000 * 1_300, "{} bytes", bytes.len());
}
