//! Counts that the kernel keeps for the whole host, each with its limit: open files, threads,
//! tracked connections, keys and the like.
//!
//! One table, [`ROWS`]: one more count is one line. The numbers are in small files of `/proc` that
//! are kept open and read again every [`PERIOD_SECS`]. Cold start: none, the first read is
//! complete. Failure: a file that this kernel does not have, or that may not be read, leaves out
//! its rows, and is tried again at each read, because a module may bring it; any other error is
//! counted. Cost: 30 µs a read on a host with two CPUs and few users of keys.
//!
//! Seen are the agent's own namespaces: in a container without the host's network, sockets in
//! TIME_WAIT and tracked connections are those of the container, and settings that only the host's
//! namespace has leave out their rows; System V objects are those of the container's IPC
//! namespace. Not seen are the users of a resource, except those of keys, and the keys of root, who
//! may have a million. Open files lag behind by some dozens a CPU, as the kernel adds them up.

use std::{
    cmp::Reverse, collections::HashMap, fs::File, io, os::unix::fs::FileExt as _, sync::Arc,
};

use self::{Amount::*, CountedResource as R};
use super::{
    CountFact, CountedResource, Fact, Loss,
    pace::ReadPeriod,
    sensor::{Observations, Schedule, Sensor},
    system_v::SystemV,
};

/// Time between two reads. A guess: the fastest of these counts take minutes to reach their limit,
/// unless it is by a flood, which no forecast helps against.
const PERIOD_SECS: f64 = 10.0;

/// Bytes that are read of a file: `key-users` has some 50 a user, and all others have less than
/// 2,000.
const FILE_BYTES_MAX: usize = 65_536;

/// Bytes that are read at a time: what the kernel fills at most, of most files.
const CHUNK_BYTES: usize = 4_096;

/// Users whose keys are given: those that have most. A guess: more than leak at a time.
const KEY_USERS_MAX: usize = 100;

/// Limits from here on are none: systemd sets `fs.file-max` to it.
const UNLIMITED: u64 = i64::MAX as u64;

const MEMINFO: &str = "/proc/meminfo";
const SOCKSTAT: &str = "/proc/net/sockstat";
const KEY_USERS: &str = "/proc/key-users";

/// Counts of the host: the resource, its use and its limit. A limit of zero is none: it says that
/// there is no limit (`nf_conntrack_max`), or that an administrator allows none on purpose.
#[rustfmt::skip]
const ROWS: &[(CountedResource, Amount, Amount)] = &[
    (R::OpenFiles, In(nth("/proc/sys/fs/file-nr", 0)), In(nth("/proc/sys/fs/file-nr", 2))),
    // `1.45 1.74 2.08 6/114 15412`: the threads that can run, and all of them.
    (R::Pids, In(nth("/proc/loadavg", 4)),
        Smaller(only("/proc/sys/kernel/pid_max"), only("/proc/sys/kernel/threads-max"))),
    (R::Conntrack, In(only("/proc/sys/net/netfilter/nf_conntrack_count")),
        In(only("/proc/sys/net/netfilter/nf_conntrack_max"))),
    (R::OrphanSockets, In(after(SOCKSTAT, "orphan")),
        In(only("/proc/sys/net/ipv4/tcp_max_orphans"))),
    (R::TimeWaitSockets, In(after(SOCKSTAT, "tw")),
        In(only("/proc/sys/net/ipv4/tcp_max_tw_buckets"))),
    // Of several words `mem`, that of TCP is the first.
    (R::TcpMemoryBytes, In(after(SOCKSTAT, "mem").pages()),
        In(nth("/proc/sys/net/ipv4/tcp_mem", 2).pages())),
    (R::Ptys, In(only("/proc/sys/kernel/pty/nr")), In(only("/proc/sys/kernel/pty/max"))),
    (R::SharedMemorySegments, Objects(SystemV::Segments), In(only("/proc/sys/kernel/shmmni"))),
    (R::SemaphoreSets, Objects(SystemV::Semaphores), In(nth("/proc/sys/kernel/sem", 3))),
    (R::MessageQueues, Objects(SystemV::Queues), In(only("/proc/sys/kernel/msgmni"))),
    (R::SwapBytes, Difference(memory("SwapTotal:"), memory("SwapFree:")), In(memory("SwapTotal:"))),
    (R::SlabBytes, In(memory("SUnreclaim:")), In(memory("MemTotal:"))),
    (R::PageTableBytes, In(memory("PageTables:")), In(memory("MemTotal:"))),
    (R::VmallocBytes, NonZero(memory("VmallocUsed:")), In(memory("MemTotal:"))),
    (R::PercpuBytes, In(memory("Percpu:")), In(memory("MemTotal:"))),
    // A host has the tree of version 2 at one of these places.
    (R::DyingCgroups, In(after("/sys/fs/cgroup/cgroup.stat", "nr_dying_descendants")), Unlimited),
    (R::DyingCgroups, In(after("/sys/fs/cgroup/unified/cgroup.stat", "nr_dying_descendants")),
        Unlimited),
];

/// An amount, from one or two numbers.
enum Amount {
    In(Number),
    /// A number that is zero only if the kernel does not count it: Linux 4.4 to 5.2 give no use of
    /// vmalloc.
    NonZero(Number),
    /// The first less the second; absent if the first is zero.
    Difference(Number, Number),
    /// The smaller, or the one that there is.
    Smaller(Number, Number),
    Objects(SystemV),
    Unlimited,
}

/// A number in a file.
#[derive(Clone, Copy)]
struct Number {
    path: &'static str,
    place: NumberPlace,
    unit: NumberUnit,
}

#[derive(Clone, Copy)]
enum NumberPlace {
    /// Word of this number, from zero.
    Nth(usize),
    /// Word after the first that is this one.
    After(&'static str),
}

#[derive(Clone, Copy)]
enum NumberUnit {
    One,
    Kib,
    Page,
}

const fn nth(path: &'static str, nth: usize) -> Number {
    Number { path, place: NumberPlace::Nth(nth), unit: NumberUnit::One }
}

const fn only(path: &'static str) -> Number {
    nth(path, 0)
}

const fn after(path: &'static str, word: &'static str) -> Number {
    Number { path, place: NumberPlace::After(word), unit: NumberUnit::One }
}

const fn memory(name: &'static str) -> Number {
    Number { unit: NumberUnit::Kib, ..after(MEMINFO, name) }
}

impl Number {
    const fn pages(self) -> Self {
        Self { unit: NumberUnit::Page, ..self }
    }

    /// Finds the number in the text of its file; `None` if it is not there.
    fn find(self, text: &str) -> Option<u64> {
        let mut words = words(text);
        let word = match self.place {
            NumberPlace::Nth(nth) => words.nth(nth),
            NumberPlace::After(word) => words.by_ref().find(|&one| one == word).and(words.next()),
        };
        let unit = match self.unit {
            NumberUnit::One => 1,
            NumberUnit::Kib => 1_024,
            NumberUnit::Page => procfs::page_size(),
        };
        word?.parse::<u64>().ok()?.checked_mul(unit)
    }
}

/// Splits at blanks, and at the slash between a use and its limit.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_ascii_whitespace() || c == '/').filter(|word| !word.is_empty())
}

/// Reads counts of the whole host.
pub struct KernelCountSensor {
    files: KeptFiles,
    period: ReadPeriod,
}

impl Default for KernelCountSensor {
    fn default() -> Self {
        Self { files: KeptFiles::default(), period: ReadPeriod::every(PERIOD_SECS) }
    }
}

impl KernelCountSensor {
    fn amount(&mut self, amount: &Amount) -> Option<u64> {
        let files = &mut self.files;
        match *amount {
            In(number) => files.number(number),
            NonZero(number) => files.number(number).filter(|number| *number != 0),
            Difference(all, free) => {
                let all = files.number(all).filter(|all| *all != 0)?;
                all.checked_sub(files.number(free)?)
            }
            Smaller(one, other) => files.number(one).into_iter().chain(files.number(other)).min(),
            Objects(kind) => match kind.in_use() {
                Ok(number) => Some(number),
                Err(error) => {
                    files.fail(error);
                    None
                }
            },
            Unlimited => None,
        }
    }
}

impl Sensor for KernelCountSensor {
    fn schedule(&self) -> Schedule {
        Schedule::Processes
    }

    fn failure(&self) -> Loss {
        Loss::CountReadFailed
    }

    fn read(&mut self, now: f64, out: &mut Observations<'_>) -> io::Result<()> {
        if !self.period.is_due(now) {
            return Ok(());
        }
        self.files.round += 1;
        let host: Arc<str> = Arc::from("host");
        for (resource, used, limit) in ROWS {
            if let Some(used) = self.amount(used) {
                out.push(fact(resource, host.clone(), used, self.amount(limit)));
            }
        }
        for KeyUser { uid, used, limit } in key_users(self.files.text(KEY_USERS)) {
            out.push(fact(&R::Keys, Arc::from(format!("uid {uid}")), used, Some(limit)));
        }
        self.files.failed.take().map_or(Ok(()), Err)
    }
}

fn fact(resource: &CountedResource, subject: Arc<str>, used: u64, limit: Option<u64>) -> Fact {
    Fact::Count(CountFact {
        resource: resource.clone(),
        subject,
        used,
        limit: limit.filter(|limit| (1..UNLIMITED).contains(limit)),
        culprits: Vec::new(),
    })
}

/// Files that are kept open, and an error of this read.
#[derive(Default)]
struct KeptFiles {
    known: HashMap<&'static str, KeptFile>,
    round: u64,
    failed: Option<io::Error>,
}

/// A file, its text, and the read that this is from.
#[derive(Default)]
struct KeptFile {
    file: Option<File>,
    text: String,
    round: u64,
}

impl KeptFiles {
    fn number(&mut self, number: Number) -> Option<u64> {
        number.find(self.text(number.path))
    }

    /// Returns the text of a file, read once in each round; empty if there is none.
    fn text(&mut self, path: &'static str) -> &str {
        let round = self.round;
        let kept = self.known.entry(path).or_default();
        if kept.round != round {
            kept.round = round;
            if let Err(error) = kept.reread(path) {
                // A file of a module that has gone stays unreadable, also when the module returns.
                *kept = KeptFile { round, ..KeptFile::default() };
                self.fail(error);
            }
        }
        self.known.get(path).map_or("", |kept| &kept.text)
    }

    /// Keeps an error, unless it says that this kernel or this sandbox does not have the thing.
    fn fail(&mut self, error: io::Error) {
        let is_absent = matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported
        );
        if !is_absent {
            self.failed = Some(error);
        }
    }
}

impl KeptFile {
    fn reread(&mut self, path: &str) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(File::open(path)?),
        };
        let mut bytes = std::mem::take(&mut self.text).into_bytes();
        bytes.clear();
        loop {
            let length = bytes.len();
            bytes.resize((length + CHUNK_BYTES).min(FILE_BYTES_MAX), 0);
            let read = file.read_at(&mut bytes[length..], length as u64)?;
            bytes.truncate(length + read);
            if read == 0 {
                break;
            }
        }
        // A number in a line that was cut is another number.
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        self.text = String::from_utf8(bytes).map_err(io::Error::other)?;
        Ok(())
    }
}

/// Keys of a user.
#[derive(Debug, PartialEq, Eq)]
struct KeyUser {
    uid: u32,
    used: u64,
    limit: u64,
}

/// Parses `key-users`; returns those with most keys, without root. A line is `1000: 9 8/8 3/200
/// 40/20000`: the user, and in the fourth place the keys that count against the quota.
fn key_users(text: &str) -> Vec<KeyUser> {
    let parse = |line: &str| {
        let (uid, counts) = line.split_once(':')?;
        let (used, limit) = counts.split_ascii_whitespace().nth(2)?.split_once('/')?;
        let uid = uid.trim().parse().ok()?;
        Some(KeyUser { uid, used: used.parse().ok()?, limit: limit.parse().ok()? })
    };
    let mut users: Vec<_> = text.lines().filter_map(parse).filter(|user| user.uid != 0).collect();
    users.sort_unstable_by_key(|user| (Reverse(user.used), user.uid));
    users.truncate(KEY_USERS_MAX);
    users
}

#[cfg(test)]
mod tests;
