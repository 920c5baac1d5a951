//! Processes that reuse a pid. Each one holds more memory than the last, so a detector that joined
//! their histories would report a leak although none of them grows.
//!
//! `clone3` can request a pid, so the test need not wait for pids to wrap around. Two processes
//! that start in the same clock tick are one process to `/proc`, and differ in a trace only by the
//! exit between them. That is harmless: the first lived for less than a tick, so at most one scan
//! saw it.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use spillway_agent::{
    bpf::Probe,
    config::Config,
    detect::{ClaimState, Verdict},
    engine::{Engine, HostInfo},
    sense::{Fact, Observation, ProcessId, Sensors},
};
use spillway_tests::{is_root, sensors_with, wait_for};

const MIB: usize = 1 << 20;

/// Successive processes, one in each of [`SCAN_SECS`] of the detector's time. Growth must last for
/// most of a minute, and is claimed later if the kernel's counters are off by a few pages of each
/// CPU, as they are on a busy host.
const LIVES: usize = 80;

/// Detector's time between two scans.
const SCAN_SECS: f64 = 2.0;

/// Growth from one process to the next: steep enough for the shortest horizon.
const MORE: usize = 4 * MIB;

/// Child that holds memory and waits. It ends when dropped.
struct Life(libc::pid_t);

impl Life {
    /// Starts a child with this pid, or with any. Returns once it holds its memory.
    fn begin(pid: Option<libc::pid_t>, bytes: usize) -> io::Result<Self> {
        let (mut ready, said) = pipe()?;
        // SAFETY: an all-zero `clone_args` asks for nothing.
        let mut wanted: libc::clone_args = unsafe { std::mem::zeroed() };
        wanted.exit_signal = libc::SIGCHLD as u64;
        if let Some(pid) = &pid {
            (wanted.set_tid, wanted.set_tid_size) = (std::ptr::from_ref(pid) as u64, 1);
        }
        // SAFETY: as fork(): without CLONE_VM the child has a copy of this memory, and the
        // structure that the argument points to lives here.
        let made = unsafe {
            libc::syscall(libc::SYS_clone3, &raw mut wanted, size_of::<libc::clone_args>())
        };
        match made {
            -1 => return Err(io::Error::last_os_error()),
            0 => live(bytes, said.as_raw_fd()),
            _ => {}
        }
        let life = Self(made as libc::pid_t);
        drop(said);
        ready.read_exact(&mut [0])?;
        Ok(life)
    }

    fn id(&self) -> ProcessId {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.0)).expect("the child is alive");
        // The start is field 22. The first field after the name is field 3.
        let start =
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)?.parse().ok());
        ProcessId { pid: self.0 as u32, start_ticks: start.expect("field 22 is a number") }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // SAFETY: signals and reaps a child that has not been reaped yet; no status is requested.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// Body of the child. It has none of this program's other threads, so it may only make system
/// calls.
fn live(bytes: usize, ready: libc::c_int) -> ! {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
    );
    // SAFETY: maps fresh memory at an address of the kernel's choice, writes one constant byte to
    // the pipe, then only waits.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) != libc::MAP_FAILED {
            libc::write(ready, c"!".as_ptr().cast(), 1);
        }
        loop {
            libc::pause();
        }
    }
}

fn pipe() -> io::Result<(File, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two descriptors into the array.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both were just created and have no other owner.
    Ok(unsafe { (File::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Observes one pid at each scan. Between two scans its process exits and the next one starts.
fn observe_lives(sensors: &mut Sensors) -> Vec<Observation> {
    let mut life = Life::begin(None, MIB).expect("a process can be created");
    let (pid, mut seen) = (life.0, Vec::new());
    for step in 1..=LIVES {
        let t = step as f64 * SCAN_SECS;
        sensors.drain_life(t, &mut seen);
        sensors.scan_processes(t, &mut seen);
        let before = life.id();
        drop(life);
        let reborn = wait_for(Duration::from_secs(5), || {
            let next = Life::begin(Some(pid), (step + 1) * MORE).expect("a pid can be requested");
            (next.id() != before).then_some(next)
        });
        life = reborn.expect("the next process has a later start");
    }
    let of_pid = |fact: &Fact| match fact {
        Fact::Process(process) => process.id.pid == pid as u32,
        Fact::Exec(id) | Fact::Exit(id) => id.pid == pid as u32,
        Fact::Host(_) | Fact::Sensing(_) => true,
        Fact::Handles(process) => process.id.pid == pid as u32,
        Fact::Listener(_)
        | Fact::Outbound(_)
        | Fact::Requests(_)
        | Fact::Cgroup(_)
        | Fact::Count(_)
        | Fact::Fleet(_)
        | Fact::Pager(_) => false,
    };
    seen.into_iter().filter(|observation| of_pid(&observation.fact)).collect()
}

/// Runs the detector with its defaults, except that a small leak counts on a large host and there
/// is no warm-up.
fn verdicts(observations: &[Observation]) -> Vec<Verdict> {
    let mut config = Config::default();
    config.detect.leak.max_extrapolation = 1e12;
    config.detect.leak.warm_up = Duration::ZERO;
    let mut core = Engine::new(&config, HostInfo { mem_total_bytes: 16 << 30, cpus: 2 });
    observations.iter().flat_map(|observation| core.apply(observation).verdicts).collect()
}

/// Same observations as a detector that identified processes by pid alone would see them.
fn joined(observations: &[Observation]) -> Vec<Observation> {
    let mut joined = observations.to_vec();
    joined.retain(|observation| !matches!(observation.fact, Fact::Exit(_) | Fact::Exec(_)));
    for observation in &mut joined {
        if let Fact::Process(process) = &mut observation.fact {
            process.id.start_ticks = 1;
        }
    }
    joined
}

fn check_lives_are_distinguished(mut sensors: Sensors) {
    let seen = observe_lives(&mut sensors);
    let count =
        seen.iter().filter(|observation| matches!(observation.fact, Fact::Process(_))).count();
    assert_eq!(count, LIVES, "a process was not seen");
    assert_eq!(verdicts(&seen), []);
    let joined = verdicts(&joined(&seen));
    assert!(
        joined.iter().any(|verdict| verdict.state == ClaimState::Raised),
        "the joined history is no leak, so this tests nothing"
    );
}

#[test]
fn bpf_distinguishes_processes_with_a_reused_pid() {
    let test = "bpf_distinguishes_processes_with_a_reused_pid";
    if is_root(test)
        && let Some(sensors) = sensors_with(Probe::ProcessMemory, test)
    {
        check_lives_are_distinguished(sensors);
    }
}

#[test]
fn proc_distinguishes_processes_with_a_reused_pid() {
    if is_root("proc_distinguishes_processes_with_a_reused_pid") {
        check_lives_are_distinguished(Sensors::without_bpf("this test is about /proc"));
    }
}

#[test]
fn processes_of_one_tick_are_separated_by_an_exit() {
    let test = "processes_of_one_tick_are_separated_by_an_exit";
    if !is_root(test) {
        return;
    }
    let Some(mut sensors) = sensors_with(Probe::ProcessLife, test) else { return };
    let in_one_tick = wait_for(Duration::from_secs(10), || {
        let mut seen = Vec::new();
        sensors.drain_life(0.0, &mut seen);
        seen.clear();
        let first = Life::begin(None, MIB).expect("a process can be created");
        let (pid, id) = (first.0, first.id());
        drop(first);
        let second = Life::begin(Some(pid), 2 * MIB).expect("a pid can be requested");
        sensors.drain_life(1.0, &mut seen);
        sensors.scan_processes(1.0, &mut seen);
        (second.id() == id).then_some((id, seen))
    });
    let (id, seen) = in_one_tick.expect("two processes start in the same tick");
    let exit = seen
        .iter()
        .position(|observation| observation.fact == Fact::Exit(id))
        .expect("the exit is seen");
    let alive = |observation: &Observation| matches!(&observation.fact, Fact::Process(process) if process.id == id);
    assert!(
        seen.iter().position(alive).expect("the second process is seen") > exit,
        "the exit was seen after the second process"
    );
}
