//! Things of which the host has a limited number, made by the tests for real: what the sensor says
//! of them before and after.

use std::{
    fs::{self, File},
    io,
    os::fd::{FromRawFd as _, OwnedFd},
    path::Path,
    ptr,
    sync::{
        Arc, Mutex,
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use spillway_agent::sense::{CountFact, CountedResource as R, Fact, Sensors};
use spillway_tests::{OwnCgroup, Script, is_root, skip, wait_for};

/// Things that a test makes.
const MADE: usize = 60;

/// Attempts to see them counted: other tests make and remove as many meanwhile.
const ATTEMPTS: u32 = 50;

/// System V objects that are removed when dropped.
#[derive(Default)]
struct Objects {
    segments: Vec<libc::c_int>,
    semaphores: Vec<libc::c_int>,
    queues: Vec<libc::c_int>,
}

impl Objects {
    /// Makes as many of each kind.
    fn make(count: usize) -> io::Result<Self> {
        let mut made = Self::default();
        let id = |id: libc::c_int| if id < 0 { Err(io::Error::last_os_error()) } else { Ok(id) };
        for _ in 0..count {
            // SAFETY: each call takes numbers and makes an object of its own.
            unsafe {
                made.segments.push(id(libc::shmget(libc::IPC_PRIVATE, 4_096, 0o600))?);
                made.semaphores.push(id(libc::semget(libc::IPC_PRIVATE, 1, 0o600))?);
                made.queues.push(id(libc::msgget(libc::IPC_PRIVATE, 0o600))?);
            }
        }
        Ok(made)
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        // SAFETY: removes objects that only this test knows; the command takes no memory.
        unsafe {
            for id in &self.segments {
                libc::shmctl(*id, libc::IPC_RMID, ptr::null_mut());
            }
            for id in &self.semaphores {
                libc::semctl(*id, 0, libc::IPC_RMID);
            }
            for id in &self.queues {
                libc::msgctl(*id, libc::IPC_RMID, ptr::null_mut());
            }
        }
    }
}

/// Returns the counts of a reading.
fn counts(sensors: &mut Sensors, t: f64) -> Vec<CountFact> {
    let mut seen = Vec::new();
    sensors.scan_processes(t, &mut seen);
    let count = |one| if let Fact::Count(fact) = one { Some(fact) } else { None };
    seen.into_iter().filter_map(|one| count(one.fact)).collect()
}

/// Returns the count of a resource of a subject.
fn of(counts: &[CountFact], resource: &R, subject: &str) -> Option<CountFact> {
    let mut found =
        counts.iter().filter(|fact| fact.resource == *resource && &*fact.subject == subject);
    let first = found.next().cloned();
    assert_eq!(found.next(), None, "one fact each");
    first
}

/// Returns the one number in a file.
fn setting(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Checks that the sensor counts what `make` makes, while it exists, in one of several attempts: a
/// third more or less are what others on the host make or remove meanwhile, or what the kernel has
/// not yet added up. Returns the counts with them, or the error for which they cannot be made.
fn counted<T>(
    resources: &[R],
    made: usize,
    mut make: impl FnMut() -> io::Result<T>,
) -> io::Result<Vec<CountFact>> {
    let mut sensors = Sensors::without_bpf("the test needs none");
    let mut seen = Vec::new();
    for attempt in 0..ATTEMPTS {
        let t = f64::from(attempt) * 30.0;
        let before = counts(&mut sensors, t);
        let things = make()?;
        let with = counts(&mut sensors, t + 10.0);
        drop(things);
        let after = counts(&mut sensors, t + 20.0);
        let used = |counts: &[CountFact], resource| {
            let fact = of(counts, resource, "host");
            fact.unwrap_or_else(|| panic!("{resource} is not counted")).used as i64
        };
        let changes = resources.iter().flat_map(|resource| {
            let with = used(&with, resource);
            [&before, &after].map(|without| with - used(without, resource))
        });
        let is_made = |change: &i64| change.abs_diff(made as i64) <= made as u64 / 3;
        seen = changes.collect();
        if seen.iter().all(is_made) {
            return Ok(with);
        }
    }
    panic!("{made} of {resources:?} were made, and {seen:?} counted");
}

/// Returns a new pseudo-terminal.
fn terminal() -> io::Result<OwnedFd> {
    // SAFETY: takes a number and returns a new descriptor, or -1.
    let terminal = unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY) };
    if terminal < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(terminal) })
}

/// Threads that end when dropped.
struct Threads(Option<Sender<()>>, Vec<JoinHandle<()>>);

impl Threads {
    fn start(count: usize) -> Self {
        let (end, wait) = mpsc::channel();
        let wait = Arc::new(Mutex::new(wait));
        let start = |_| {
            let wait = wait.clone();
            // It ends as soon as the sender is dropped.
            thread::spawn(move || drop(wait.lock().map(|wait| wait.recv())))
        };
        Self(Some(end), (0..count).map(start).collect())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.0 = None;
        self.1.drain(..).for_each(|thread| drop(thread.join()));
    }
}

#[test]
fn ptys_and_threads_are_counted_while_they_exist() {
    let test = "ptys_and_threads_are_counted_while_they_exist";
    let make = || (0..MADE).map(|_| terminal()).collect::<io::Result<Vec<_>>>();
    let with = match counted(&[R::Ptys], MADE, make) {
        Ok(with) => with,
        Err(error) => return skip(test, &format!("no pseudo-terminal can be made: {error}")),
    };
    let ptys = of(&with, &R::Ptys, "host").expect("ptys are counted");
    assert_eq!(ptys.limit, setting("/proc/sys/kernel/pty/max"), "{ptys:?}");
    let with = counted(&[R::Pids], MADE, || Ok(Threads::start(MADE))).expect("threads start");
    let limits =
        ["pid_max", "threads-max"].map(|name| setting(&format!("/proc/sys/kernel/{name}")));
    let pids = of(&with, &R::Pids, "host").expect("threads are counted");
    assert_eq!(pids.limit, limits.into_iter().flatten().min(), "{pids:?}");
}

#[test]
fn open_files_are_counted_while_they_are_open() {
    // The kernel adds up what each CPU has counted, some dozens a CPU late.
    const FILES: usize = 1_500;
    let make = || (0..FILES).map(|_| File::open("/dev/null")).collect::<io::Result<Vec<_>>>();
    if let Err(error) = counted(&[R::OpenFiles], FILES, make) {
        skip("open_files_are_counted_while_they_are_open", &error.to_string());
    }
}

#[test]
fn system_v_objects_are_counted_until_they_are_removed() {
    let kinds = [R::SharedMemorySegments, R::SemaphoreSets, R::MessageQueues];
    let with = match counted(&kinds, MADE, || Objects::make(MADE)) {
        Ok(with) => with,
        Err(error) => {
            let test = "system_v_objects_are_counted_until_they_are_removed";
            return skip(test, &format!("no System V objects can be made: {error}"));
        }
    };
    let [segments, semaphores, queues] = kinds;
    for (resource, limit) in [
        (segments, setting("/proc/sys/kernel/shmmni")),
        (semaphores, None),
        (queues, setting("/proc/sys/kernel/msgmni")),
    ] {
        let fact = of(&with, &resource, "host").expect("it is counted");
        assert!(fact.limit.is_some() && (limit.is_none() || fact.limit == limit), "{fact:?}");
    }
}

#[test]
fn keys_of_a_user_are_counted_until_its_process_ends() {
    /// A user that nothing else runs as.
    const UID: u32 = 61_877;
    let test = "keys_of_a_user_are_counted_until_its_process_ends";
    if !is_root(test) {
        return;
    }
    let (mut ends, mut said) = ([0; 2], [0_u8]);
    // SAFETY: the kernel writes two descriptors into the array.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // SAFETY: the child makes system calls only, and then waits for its end.
    let child = unsafe { libc::fork() };
    if child == 0 {
        add_keys(UID, ends[1]);
    }
    let child = Child(child);
    // SAFETY: reads one byte into the array, from a descriptor that is open.
    unsafe { libc::read(ends[0], said.as_mut_ptr().cast(), 1) };
    let mut sensors = Sensors::without_bpf("the test needs none");
    let subject = format!("uid {UID}");
    let before = of(&counts(&mut sensors, 0.0), &R::Keys, &subject);
    drop(child);
    if said != *b"!" {
        return skip(test, "no key can be added as another user");
    }
    let keys = before.expect("its keys are counted");
    assert!((10..20).contains(&keys.used), "{keys:?}");
    assert_eq!(keys.limit, setting("/proc/sys/kernel/keys/maxkeys"), "{keys:?}");
    // The kernel collects the keys of a process that has ended some time later.
    let gone = (1..200).any(|round| {
        thread::sleep(Duration::from_millis(40));
        let counts = counts(&mut sensors, f64::from(round) * 10.0);
        of(&counts, &R::Keys, &subject).is_none_or(|keys| keys.used == 0)
    });
    assert!(gone, "keys without a process are still counted");
}

/// Process that ends when dropped.
struct Child(libc::pid_t);

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: ends and reaps our own child; no status is requested.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, ptr::null_mut(), 0);
        }
    }
}

/// Body of the child, which may only make system calls: becomes this user, adds ten keys to a
/// session of its own, says whether that worked, and waits.
fn add_keys(uid: u32, ready: libc::c_int) -> ! {
    /// From `include/uapi/linux/keyctl.h`.
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    const KEY_SPEC_SESSION_KEYRING: libc::c_int = -3;
    let name = |digit: u8| [b'k', digit, 0];
    // SAFETY: all names are terminated and live until the call returns.
    unsafe {
        let mut works = libc::syscall(libc::SYS_setresuid, uid, uid, uid) == 0
            // A change of the user clears this.
            && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0) != -1;
        for digit in b'0'..=b'9' {
            let (kind, name) = (c"user".as_ptr(), name(digit));
            let payload = name.as_ptr();
            let to = KEY_SPEC_SESSION_KEYRING;
            works &=
                libc::syscall(libc::SYS_add_key, kind, name.as_ptr(), payload, 1_usize, to) != -1;
        }
        let said = if works { c"!" } else { c"-" };
        libc::write(ready, said.as_ptr().cast(), 1);
        loop {
            libc::pause();
        }
    }
}

/// Mount points of the pids controller: of its own as version 1, or of version 2.
const PIDS_MOUNTS: [&str; 2] = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];

#[test]
fn cgroup_with_a_pids_limit_is_counted_with_its_programs() {
    let test = "cgroup_with_a_pids_limit_is_counted_with_its_programs";
    if !is_root(test) {
        return;
    }
    let made = PIDS_MOUNTS.iter().find_map(|mount| {
        let cgroup = OwnCgroup::make(Path::new(mount), "pids").ok()?;
        cgroup.has("pids.max").then_some(cgroup)
    });
    let Some(cgroup) = made else {
        return skip(test, "no cgroup with the pids controller can be made");
    };
    cgroup.set("pids.max", 200).expect("the limit can be set");
    let _script = Script::start_in(&cgroup, "for i in $(seq 60); do sleep 60 & done; wait");
    let mut sensors = Sensors::without_bpf("the test needs none");
    let mut t = 0.0;
    let full = wait_for(Duration::from_secs(10), || {
        // A round is made every ten seconds.
        t += 10.0;
        let fact = of(&counts(&mut sensors, t), &R::Pids, &cgroup.path)?;
        (fact.used == 61).then_some(fact)
    });
    let full = full.expect("it is counted");
    assert_eq!(full.limit, Some(200));
    let sleeps = full.culprits.first().expect("its users are named");
    assert_eq!((&*sleeps.name, sleeps.used), ("sleep", 60));
}
