//! Leaks of cgroups, which no process of theirs shows.

use std::sync::Arc;

use super::tests::{Run, noise, one};
use crate::{
    detect::{CgroupMemory, Claim, ClaimState, IncidentId, Verdict},
    sense::{CgroupFact, Fact, ProcessFact, ProcessId, ProcessResourcesFact},
};

const MIB: f64 = 1_048_576.0;
const CGROUP: &str = "/system.slice/render.service";

/// Memory of a cgroup and of its processes at one moment, in MiB.
#[derive(Clone, Copy, Default)]
struct Seen {
    shmem: f64,
    kernel: f64,
    /// Anonymous memory of each process, and of the cgroup beside that.
    anon: f64,
    in_flight: f64,
    /// Shared memory that each process has mapped.
    mapped: f64,
    max: Option<f64>,
    files: u64,
}

fn bytes(mib: f64) -> u64 {
    (mib.max(0.0) * MIB) as u64 & !4_095
}

fn charge(cgroup: &str, seen: &Seen, processes: u32) -> Fact {
    let anon = seen.anon * f64::from(processes) + seen.in_flight;
    Fact::Cgroup(CgroupFact {
        cgroup: Arc::from(cgroup),
        // Page cache comes and goes, and never counts.
        current_bytes: Some(bytes(anon + seen.shmem + seen.kernel + 900.0)),
        anon_bytes: Some(bytes(anon)),
        shmem_bytes: Some(bytes(seen.shmem)),
        kernel_bytes: Some(bytes(seen.kernel)),
        max_bytes: seen.max.map(bytes),
        oom_kills_total: Some(0),
    })
}

fn process(run: &Run, pid: u32, cgroup: &str, seen: &Seen) -> ProcessFact {
    let id = ProcessId { pid, start_ticks: u64::from(pid) };
    ProcessFact {
        id,
        comm: "render".into(),
        cgroup: cgroup.into(),
        shmem_bytes: bytes(seen.mapped),
        memory_max_bytes: seen.max.map(bytes),
        memory_charged_bytes: seen.max.map(|_| bytes(seen.anon + seen.in_flight + seen.shmem)),
        mapped_bytes: None,
        ..run.fact(seen.anon)
    }
}

/// Runs a cgroup of two processes that were there before the agent, read as the agent reads it.
fn cgroup(secs: u32, seen: impl Fn(f64) -> Seen) -> Vec<Verdict> {
    stopped(secs, &[], seen)
}

/// Runs that too; the agent stops at each of `stops` and is back after its gap.
fn stopped(secs: u32, stops: &[(u32, u32)], seen: impl Fn(f64) -> Seen) -> Vec<Verdict> {
    let mut run = Run::new(1.0, 20.0, None);
    let mut saved = None;
    for second in 0..secs {
        let t = f64::from(second);
        if stops.iter().any(|(at, _)| *at == second) {
            saved = Some((t, run.save(t)));
        }
        if stops.iter().any(|(at, gap)| (*at..at + gap).contains(&second)) {
            continue;
        }
        if let Some((stopped_t, bytes)) = saved.take() {
            run.restart(t, t - stopped_t, &bytes);
        }
        let now = seen(t);
        let facts = [700, 701].map(|pid| process(&run, pid, CGROUP, &now));
        let ids = facts.each_ref().map(|fact| fact.id);
        run.scan(t, facts);
        if second % 10 == 3 {
            run.feed(t, charge(CGROUP, &now, 2));
        }
        if second % 10 == 6 && now.files > 0 {
            let fds = now.files;
            for id in ids {
                let fact =
                    ProcessResourcesFact { id, fds, fds_max: None, threads: 4, close_wait: None };
                run.feed(t, Fact::Handles(fact));
            }
        }
    }
    run.verdicts
}

fn memory_of(verdict: &Verdict) -> Option<CgroupMemory> {
    let Claim::Leak(claim) = &verdict.claim else { panic!("{verdict:?}") };
    assert_eq!((&*claim.cgroup, &*claim.comm), (CGROUP, "render"));
    claim.cgroup_memory
}

#[test]
fn files_left_in_memory_are_a_leak_of_the_cgroup() {
    let seen = |t: f64| Seen {
        shmem: 40.0 + 0.25 * (t - 1_000.0).max(0.0),
        anon: 80.0 + noise(t, 7),
        max: Some(1_024.0),
        ..Seen::default()
    };
    let verdict = one(cgroup(3_000, seen));
    assert_eq!(memory_of(&verdict), Some(CgroupMemory::Shared));
    assert!((1_000.0..2_200.0).contains(&verdict.t), "{verdict:?}");
    assert!(
        verdict.why.starts_with("shared memory of /system.slice/render.service grew by ")
            && verdict.why.contains(", while that of its processes did not, ")
            && verdict.why.contains("left below its cgroup's memory.max run out in ")
            && verdict.why.contains("/dev/shm"),
        "{}",
        verdict.why
    );
    let left = (1_024.0 - 200.0 - 0.25 * (verdict.t - 1_000.0)) / 0.25;
    let exhaustion = verdict.exhaustion_secs.unwrap();
    assert!((exhaustion / left - 1.0).abs() < 0.15, "{exhaustion} of {left}: {}", verdict.why);
    assert_eq!(IncidentId::from(&verdict).to_string(), "leak-cgroup-/system.slice/render.service");
    let json = serde_json::to_value(&verdict).unwrap();
    assert_eq!((&json["verdict"], &json["cgroup_memory"]), (&"leak".into(), &"shared".into()));
}

#[test]
fn page_tables_are_a_leak_of_the_cgroup() {
    let seen = |t: f64| Seen {
        kernel: 6.0 + 0.2 * (t - 300.0).max(0.0),
        anon: 1.0,
        max: Some(800.0),
        ..Seen::default()
    };
    let verdict = one(cgroup(3_600, seen));
    assert_eq!(memory_of(&verdict), Some(CgroupMemory::Kernel));
    assert!(verdict.why.contains("page tables"), "{}", verdict.why);
    // After a quiet time: five minutes, where files in a tmpfs take ten.
    let late = |t: f64| Seen { kernel: 6.0 + 0.3 * (t - 7_200.0).max(0.0), ..seen(0.0) };
    let verdict = one(cgroup(9_000, late));
    assert!(verdict.t < 7_200.0 + 330.0, "{verdict:?}");
}

#[test]
fn memory_in_flight_is_a_leak_of_the_cgroup() {
    let seen = |t: f64| Seen {
        in_flight: 0.2 * (t - 900.0).max(0.0),
        anon: 50.0 + 20.0 * (t / 40.0).fract(),
        max: Some(1_000.0),
        ..Seen::default()
    };
    let verdict = one(cgroup(3_600, seen));
    assert_eq!(memory_of(&verdict), Some(CgroupMemory::Anonymous));
}

/// Runs a cgroup with a process that starts a helper of 4 MiB every `every` seconds after the first
/// quarter of an hour, as many as `most`; each ends after `lives` seconds.
fn helpers(secs: u32, every: f64, lives: f64, most: f64) -> Vec<Verdict> {
    let mut run = Run::new(1.0, 20.0, None);
    for second in 0..secs {
        let t = f64::from(second);
        let started = ((t - 900.0) / every).clamp(0.0, most).floor();
        let ended = ((t - 900.0 - lives) / every).clamp(0.0, most).floor();
        let helpers = (ended as u32..started as u32).map(|nth| {
            let age = t - 900.0 - every * f64::from(nth + 1);
            Seen { anon: 4.0 * (age / 2.0).min(1.0) + 0.02 * noise(t, u64::from(nth)), ..main(t) }
        });
        let all: Vec<_> = [main(t)].into_iter().chain(helpers).collect();
        let pids = [700].into_iter().chain(1_000 + ended as u32..);
        let facts: Vec<_> =
            pids.zip(&all).map(|(pid, seen)| process(&run, pid, CGROUP, seen)).collect();
        run.scan(t, facts);
        if second % 10 == 3 {
            let anon = all.iter().map(|seen| seen.anon).sum();
            run.feed(t, charge(CGROUP, &Seen { anon, ..main(t) }, 1));
        }
    }
    run.verdicts
}

fn main(t: f64) -> Seen {
    Seen { anon: 80.0 + noise(t, 7), max: Some(2_048.0), ..Seen::default() }
}

#[test]
fn processes_left_behind_are_a_leak_of_their_cgroup() {
    let verdict = one(helpers(5_400, 60.0, f64::INFINITY, f64::INFINITY));
    assert_eq!(memory_of(&verdict), Some(CgroupMemory::Processes));
    assert!((2_300.0..3_600.0).contains(&verdict.t), "{verdict:?}");
    assert!(
        verdict.why.starts_with("memory of processes left behind in /system.slice/render.service")
            && verdict.why.contains(", while no process did, "),
        "{}",
        verdict.why
    );
}

#[test]
fn processes_that_end_or_fill_a_pool_are_no_leak() {
    assert!(helpers(9_000, 30.0, 600.0, f64::INFINITY).is_empty());
    assert!(helpers(9_000, 15.0, f64::INFINITY, 40.0).is_empty());
}

#[test]
fn growth_of_a_process_is_not_claimed_of_its_cgroup() {
    let anon = |t: f64| Seen {
        anon: 80.0 + 0.2 * t,
        kernel: 4.0 + 0.001 * t,
        max: Some(4_000.0),
        ..Seen::default()
    };
    assert_eq!(memory_of(&one(cgroup(4_000, anon))), None);
    // Both map the same memory, and each is charged for none of it.
    let shared = |t: f64| Seen {
        anon: 20.0,
        shmem: 0.2 * t,
        mapped: 0.2 * t,
        max: Some(2_000.0),
        ..Seen::default()
    };
    let verdicts = cgroup(4_000, shared);
    assert!(verdicts.iter().all(|verdict| memory_of(verdict).is_none()), "{verdicts:?}");
}

#[test]
fn memory_that_fills_and_stops_is_no_leak_of_a_cgroup() {
    // A cache in /dev/shm that is full after ten minutes; buffers that all processes map; files of
    // jobs that come and go; and memory of the kernel for connections.
    let cache = |t: f64| Seen { shmem: 0.5 * t.min(600.0), anon: 50.0, ..Seen::default() };
    assert_eq!(cgroup(7_200, cache), []);
    // Files of a job after a quiet time, far from the limit and near it.
    for max in [None, Some(1_500.0)] {
        let job = |t: f64| Seen {
            shmem: 20.0 + 1.5 * (t - 1_800.0).clamp(0.0, 420.0),
            anon: 50.0,
            max,
            ..Seen::default()
        };
        assert_eq!(cgroup(3_600, job), []);
    }
    let buffers = |t: f64| {
        let touched = 2_000.0 * (1.0 - (-t / 900.0).exp());
        Seen { shmem: touched, mapped: touched, anon: 9.0, ..Seen::default() }
    };
    assert_eq!(cgroup(7_200, buffers), []);
    let jobs = |t: f64| Seen { shmem: 300.0 * (t / 700.0).fract(), anon: 30.0, ..Seen::default() };
    assert_eq!(cgroup(14_400, jobs), []);
    let connections = |t: f64| {
        let load = 0.5 - 0.5 * (t / 14_400.0 * std::f64::consts::TAU).cos();
        let files = 50 + (4_000.0 * load) as u64;
        Seen { kernel: 10.0 + 200.0 * load, anon: 60.0, files, ..Seen::default() }
    };
    let verdicts = cgroup(14_400, connections);
    assert!(verdicts.iter().all(|verdict| memory_of(verdict).is_none()), "{verdicts:?}");
}

#[test]
fn claim_of_a_cgroup_ends_once_its_files_are_deleted() {
    let seen = |t: f64| Seen {
        shmem: if t < 3_000.0 { 40.0 + 0.5 * (t - 900.0).max(0.0) } else { 10.0 },
        anon: 80.0,
        max: Some(4_096.0),
        ..Seen::default()
    };
    let verdicts = cgroup(4_500, seen);
    let states: Vec<_> = verdicts.iter().map(|verdict| verdict.state).collect();
    assert_eq!(states, [ClaimState::Raised, ClaimState::Cleared], "{verdicts:?}");
    assert!(verdicts[1].why.contains("is no longer leaking shared memory: it gave back"));
    assert!((3_000.0..3_400.0).contains(&verdicts[1].t), "{:?}", verdicts[1]);
}

/// Runs a cgroup of which only the charge against the limit of its process is known, as in traces
/// without facts of cgroups, beside others.
fn charged_only(beside: &[&str], charged: impl Fn(f64) -> f64) -> Vec<Verdict> {
    let mut run = Run::new(1.0, 20.0, None);
    for second in 0..2_400 {
        let t = f64::from(second);
        let seen = Seen {
            anon: 4.0,
            shmem: charged((t / 10.0).floor() * 10.0),
            max: Some(1_024.0),
            ..Seen::default()
        };
        let mut facts = vec![process(&run, 700, CGROUP, &seen)];
        let steady = Seen { shmem: 90.0, ..seen };
        facts.extend(beside.iter().zip(800..).map(|(name, pid)| process(&run, pid, name, &steady)));
        run.scan(t, facts);
    }
    run.verdicts
}

#[test]
fn charge_that_may_be_anothers_is_no_leak_of_a_cgroup() {
    let climbs = |t: f64| 0.25 * (t - 900.0).max(0.0);
    let verdict = one(charged_only(&["/user.slice/a", "/system.slic"], climbs));
    assert_eq!(memory_of(&verdict), Some(CgroupMemory::Shared));
    for beside in ["/system.slice/api.service", "/system.slice/render.service/child"] {
        assert_eq!(charged_only(&[beside], climbs), [], "{beside}");
    }
}

#[test]
fn root_cgroup_is_never_claimed() {
    let mut run = Run::new(1.0, 20.0, None);
    for second in 0..3_000 {
        let t = f64::from(second);
        let seen = Seen { shmem: 0.3 * t, anon: 5.0, ..Seen::default() };
        let fact = process(&run, 700, "/", &seen);
        run.scan(t, [fact]);
        run.feed(t, charge("/", &seen, 1));
    }
    assert_eq!(run.verdicts, []);
}

/// Steady for 1,000 s, then 0.25 MiB/s of files until `ends`.
fn left_files(t: f64, ends: f64) -> Seen {
    Seen {
        shmem: 40.0 + 0.25 * (t.min(ends) - 1_000.0).max(0.0),
        anon: 80.0 + noise(t, 7),
        max: Some(1_024.0),
        ..Seen::default()
    }
}

#[test]
fn restart_without_a_gap_changes_no_claim_of_a_cgroup() {
    let leaks = |stops: &[(u32, u32)], secs| stopped(secs, stops, |t| left_files(t, 1e9));
    let whole = one(leaks(&[], 2_600));
    let end = whole.t as u32;
    let at = [(end / 3, 0), (2 * end / 3, 0), (end - 1, 0)];
    for stops in [&at[..1], &at[1..2], &at[2..], &at] {
        let parts = one(leaks(stops, end + 1));
        assert_eq!((parts.t, &parts.why), (whole.t, &whole.why), "stops at {stops:?}");
    }
    // Minutes without the agent delay it by minutes at most.
    let late = one(leaks(&[(1_100, 120)], 2_600)).t;
    assert!(late <= whole.t + 240.0, "{late}, without a gap {}", whole.t);
}

#[test]
fn claim_about_a_cgroup_is_raised_again_and_then_cleared() {
    let whole = one(cgroup(2_600, |t| left_files(t, 1e9)));
    let stop = whole.t as u32 + 100;
    let verdicts = stopped(stop + 300, &[(stop, 30)], |t| left_files(t, 1e9));
    let [before, after] = &verdicts[..] else { panic!("{verdicts:#?}") };
    assert_eq!((before.t, after.state), (whole.t, ClaimState::Raised));
    assert!(after.t < f64::from(stop) + 45.0, "{after:?}");
    assert_eq!(IncidentId::from(before), IncidentId::from(after));
    assert_eq!(before.confidence, after.confidence);
    let why = &after.why;
    let expected = "shared memory of /system.slice/render.service was growing by ";
    assert!(why.starts_with(expected), "{why}");
    assert!(why.contains(" before the agent restarted; if it goes on, the "), "{why}");
    let left = (1_024.0 - 200.0 - 0.25 * (after.t - 1_000.0)) / 0.25;
    let exhaustion = after.exhaustion_secs.unwrap();
    assert!((exhaustion / left - 1.0).abs() < 0.15, "{exhaustion} of {left}: {why}");
    // It ends after the restart.
    let ends = f64::from(stop) + 60.0;
    let verdicts = stopped(stop + 2_400, &[(stop, 30)], |t| left_files(t, ends));
    let states: Vec<_> = verdicts.iter().map(|verdict| verdict.state).collect();
    let (raised, cleared) = (ClaimState::Raised, ClaimState::Cleared);
    assert_eq!(states, [raised, raised, cleared], "{verdicts:#?}");
    assert_eq!(IncidentId::from(&verdicts[2]), IncidentId::from(before));
}

#[test]
fn saved_cgroup_takes_few_kilobytes() {
    let saved_bytes = |count: u32, has_charges: bool| {
        let mut run = Run::new(1.0, 20.0, None);
        let name = |nth: u32| format!("{CGROUP}/{nth}");
        for second in 0..2_000 {
            let (t, now) = (f64::from(second), left_files(f64::from(second), 1e9));
            let now = Seen { max: None, ..now };
            let facts: Vec<_> =
                (0..count).map(|nth| process(&run, nth + 1, &name(nth), &now)).collect();
            run.scan(t, facts);
            if has_charges && second % 10 == 3 {
                (0..count).for_each(|nth| run.feed(t, charge(&name(nth), &now, 1)));
            }
        }
        run.save(2_000.0).len()
    };
    let bytes = (saved_bytes(20, true) - saved_bytes(20, false)) / 20;
    assert!((1_000..6_000).contains(&bytes), "{bytes} bytes");
}
