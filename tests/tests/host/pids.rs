//! Live: a pid that one process after the other is given. Each life holds more memory than the
//! last, so that whoever joined their histories would see a leak where nobody grows.
//!
//! `clone3` can be asked for a pid, so that nothing here waits for the kernel's numbering to come
//! round. Two lives that even share the clock tick in which they began are one process to `/proc`,
//! and to a trace but for the exit between them. It does no harm: the first then lived for less
//! than a tick, so that at most one scan saw it.

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

/// Lives one after the other, a second of the detector's time each: growth must last for most of a
/// minute, and is then claimed with the end of a bucket, at 61 s or one or two later.
const LIVES: usize = 80;

/// How much more each holds than the last: steep enough for the shortest horizon.
const MORE: usize = 4 * MIB;

/// A child that holds memory and waits; it ends when dropped.
struct Life(libc::pid_t);

impl Life {
    /// Begins one with this pid, or with any; returns when it holds its memory.
    fn begin(pid: Option<libc::pid_t>, bytes: usize) -> io::Result<Self> {
        let (mut ready, said) = pipe()?;
        // SAFETY: an all-zero `clone_args` asks for nothing.
        let mut wanted: libc::clone_args = unsafe { std::mem::zeroed() };
        wanted.exit_signal = libc::SIGCHLD as u64;
        if let Some(pid) = &pid {
            (wanted.set_tid, wanted.set_tid_size) = (std::ptr::from_ref(pid) as u64, 1);
        }
        // SAFETY: as fork(): without CLONE_VM the child has a copy of this memory, and what it is
        // pointed to lives here.
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
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).expect("it lives");
        // Counted from field 3, which comes first after the name: the start is field 22.
        let start =
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)?.parse().ok());
        ProcessId { pid: self.0 as u32, start_ticks: start.expect("field 22 is a number") }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // SAFETY: a signal to, and the end of, a child that was not waited for yet; no status is
        // asked for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// What the child does. The other threads of this program are not in it, so it makes system calls
/// and nothing else.
fn live(bytes: usize, ready: libc::c_int) -> ! {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
    );
    // SAFETY: fresh memory at an address of the kernel's choice; one byte of a constant; then
    // nothing but waiting.
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
    // SAFETY: both were just made, and nobody else has them.
    Ok(unsafe { (File::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// What is seen of one pid, a scan a second: a life ends and the next begins between each two
/// scans.
fn lives(sensors: &mut Sensors) -> Vec<Observation> {
    let mut life = Life::begin(None, MIB).expect("a process can be made");
    let (pid, mut seen) = (life.0, Vec::new());
    for step in 1..=LIVES {
        let t = step as f64;
        sensors.drain_life(t, &mut seen);
        sensors.scan_processes(t, &mut seen);
        let before = life.id();
        drop(life);
        let reborn = wait_for(Duration::from_secs(5), || {
            let next = Life::begin(Some(pid), (step + 1) * MORE).expect("a pid can be asked for");
            (next.id() != before).then_some(next)
        });
        life = reborn.expect("ticks pass");
    }
    let of_pid = |fact: &Fact| match fact {
        Fact::Process(process) => process.id.pid == pid as u32,
        Fact::Exec(id) | Fact::Exit(id) => id.pid == pid as u32,
        Fact::Host(_) | Fact::Sensing(_) => true,
        Fact::Handles(process) => process.id.pid == pid as u32,
        Fact::Listener(_) | Fact::Outbound(_) | Fact::Requests(_) => false,
    };
    seen.into_iter().filter(|observation| of_pid(&observation.fact)).collect()
}

/// Under the default rule, but that a small leak counts on a large host, and at once.
fn verdicts(observations: &[Observation]) -> Vec<Verdict> {
    let mut config = Config::default();
    config.detect.leak.max_extrapolation = 1e12;
    config.detect.leak.warm_up = Duration::ZERO;
    let mut core = Engine::new(&config, HostInfo { mem_total_bytes: 16 << 30, cpus: 2 });
    observations.iter().flat_map(|observation| core.apply(observation).verdicts).collect()
}

/// The same as whoever told processes apart by pid alone would see it.
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

fn tells_lives_apart(mut sensors: Sensors) {
    let seen = lives(&mut sensors);
    let count =
        seen.iter().filter(|observation| matches!(observation.fact, Fact::Process(_))).count();
    assert_eq!(count, LIVES, "every life is seen");
    assert_eq!(verdicts(&seen), []);
    let joined = verdicts(&joined(&seen));
    assert!(
        joined.iter().any(|verdict| verdict.state == ClaimState::Raised),
        "joined, they are a leak: else this tests nothing"
    );
}

#[test]
fn bpf_tells_lives_with_one_pid_apart() {
    let test = "bpf_tells_lives_with_one_pid_apart";
    if is_root(test)
        && let Some(sensors) = sensors_with(Probe::ProcessMemory, test)
    {
        tells_lives_apart(sensors);
    }
}

#[test]
fn proc_tells_lives_with_one_pid_apart() {
    if is_root("proc_tells_lives_with_one_pid_apart") {
        tells_lives_apart(Sensors::without_bpf("this test is about /proc"));
    }
}

#[test]
fn lives_within_one_tick_differ_by_the_exit_between() {
    let test = "lives_within_one_tick_differ_by_the_exit_between";
    if !is_root(test) {
        return;
    }
    let Some(mut sensors) = sensors_with(Probe::ProcessLife, test) else { return };
    let in_one_tick = wait_for(Duration::from_secs(10), || {
        let mut seen = Vec::new();
        sensors.drain_life(0.0, &mut seen);
        seen.clear();
        let first = Life::begin(None, MIB).expect("a process can be made");
        let (pid, id) = (first.0, first.id());
        drop(first);
        let second = Life::begin(Some(pid), 2 * MIB).expect("a pid can be asked for");
        sensors.drain_life(1.0, &mut seen);
        sensors.scan_processes(1.0, &mut seen);
        (second.id() == id).then_some((id, seen))
    });
    let (id, seen) = in_one_tick.expect("two lives begin within ten milliseconds");
    let exit = seen
        .iter()
        .position(|observation| observation.fact == Fact::Exit(id))
        .expect("the exit is told");
    let alive = |observation: &Observation| matches!(&observation.fact, Fact::Process(process) if process.id == id);
    assert!(
        seen.iter().position(alive).expect("the second is seen") > exit,
        "the exit comes first"
    );
}
