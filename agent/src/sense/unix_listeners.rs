//! Accept queues of every listening UNIX socket, in every network namespace.
//!
//! With BPF each is read by its socket's address; every [`REFRESH_SECS`] all are found again, with
//! their names and owners. Those that find no room in the map are read by such a pass. Without BPF
//! `sock_diag` has the same data. Cold start: a socket that began to listen is found at the next
//! refresh. Neither source shows how long the head of a queue has waited, nor how many connections
//! were refused.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
};

use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use spillway_ebpf::{KnownUnix, UnixFoundSample, UnixSample};

use super::{
    CgroupPaths, Fact, Hierarchy, ListenerFact, Loss, LossCounters, addr,
    outside::Outside,
    sensor::{Observations, Schedule, Sensor},
    shares::{self, Shares},
    sock_diag::{DiagListener, Kinds, SockDiag},
    unix_workers::UnixWorkers,
};
use crate::bpf::{
    Fallback, FallbackChain, Hook, IterHandle, Loader, Need, Probe, SharedStruct,
    btf_offsets::members, pass,
};

/// Time between two passes over every open file, as for the owners of TCP listeners. A guess: long
/// against their cost, short against the time to a notification.
const REFRESH_SECS: f64 = 10.0;

/// Reads the accept queue of every UNIX listener.
pub struct UnixListenerSensor {
    source: UnixSource,
    cgroups: CgroupPaths,
    refreshed: Option<f64>,
    buffer: Vec<u8>,
}

enum UnixSource {
    Bpf { probes: Box<UnixProbes>, known: HashMap<u64, KnownUnixListener>, outside: Outside },
    SockDiag(Box<SockDiag>),
}

/// Passes over every UNIX listener.
pub struct UnixProbes {
    /// Reads one sample of each known listener.
    pub scan: IterHandle,
    /// Finds listeners and their owners.
    pub find: IterHandle,
    /// Known listeners by socket address.
    known: BpfHashMap<MapData, u64, SharedStruct<KnownUnix>>,
    /// Number of known listeners by owner.
    shares: Shares,
    /// Number of times that a listener found no room there.
    outside: Array<MapData, u64>,
    /// Look-out for stuck workers.
    workers: UnixWorkers,
}

struct KnownUnixListener {
    inode: u64,
    /// Address of its name in the kernel.
    address: u64,
    netns: u32,
    pid: u32,
    /// Number of processes that hold it, and the last of them.
    holders: u32,
    latest_pid: u32,
    addr: Arc<str>,
    cgroup: Arc<str>,
}

impl UnixListenerSensor {
    /// Iterators over known listeners.
    pub const ITER: Hook = Hook::new("unix_iter");

    /// Sources of the queues of UNIX listeners.
    pub const PROBE: FallbackChain = FallbackChain {
        probe: Probe::UnixQueue,
        fallbacks: &[
            Fallback::bpf(
                Self::ITER,
                "iter/bpf_map_elem, iter/task_file",
                &[
                    Need::Probe(Probe::AcceptQueue),
                    Need::Iterator("bpf_map_elem"),
                    Need::Iterator("task_file"),
                ],
            )
            .reading(&[
                members::TASK_TGID,
                members::FILE_INODE,
                members::FILE_PRIVATE_DATA,
                members::INODE_MODE,
                members::SOCKET_SK,
                members::SOCK_FAMILY,
                members::SOCK_STATE,
                members::SOCK_NET,
                members::NET_INUM,
                members::SOCK_MAX_ACK_BACKLOG,
                members::SOCK_TYPE,
                members::SOCK_SOCKET,
                members::SOCK_RECEIVE_QUEUE_LEN,
                members::SOCKET_INODE,
                members::UNIX_ADDR,
                members::UNIX_ADDRESS_LEN,
                members::UNIX_ADDRESS_NAME,
            ])
            .reading_if_present(&[members::SOCK_UID]),
            Fallback::without_bpf(Hook::new("unix_diag"), "sock_diag")
                .lacking("a look costs by the number of UNIX sockets"),
        ],
    };

    /// Attaches the iterators, or uses `sock_diag`. TCP listeners must have been attached before:
    /// if they do not use BPF either, one `sock_diag` reads both, and there is nothing to read
    /// here.
    pub fn start(bpf: &mut Loader, hierarchy: &Hierarchy) -> Option<Self> {
        let probes = bpf.attach(&Self::PROBE, |context, _| {
            Ok(UnixProbes {
                find: context.iter("find_unix", "task_file")?,
                scan: context.iter_map("scan_unix", "UNIX_LISTENERS")?,
                known: context.take("UNIX_LISTENERS")?,
                shares: context.take_batched("UNIX_SHARES")?,
                outside: context.take("UNIX_OUTSIDE")?,
                workers: UnixWorkers::new(context.iter("list_unix_accepted", "task_file")?),
            })
        });
        let source = match probes {
            Some(probes) => UnixSource::Bpf {
                probes: Box::new(probes),
                known: HashMap::new(),
                outside: Outside::default(),
            },
            None if bpf.uses_bpf(Probe::AcceptQueue) => {
                UnixSource::SockDiag(Box::new(SockDiag::of(Kinds::Unix, None)))
            }
            None => return None,
        };
        let cgroups = CgroupPaths::new(hierarchy.clone());
        Some(Self { source, cgroups, refreshed: None, buffer: Vec::new() })
    }

    /// The iterators; `None` if `sock_diag` is used.
    pub fn probes(&self) -> Option<&UnixProbes> {
        match &self.source {
            UnixSource::Bpf { probes, .. } => Some(probes),
            UnixSource::SockDiag(_) => None,
        }
    }

    /// Reads every listener, and passes each to `each`.
    fn scan(
        &mut self,
        now: f64,
        losses: &mut LossCounters,
        mut each: impl FnMut(ListenerFact),
    ) -> io::Result<()> {
        let refresh = self.refreshed.is_none_or(|then| now - then >= REFRESH_SECS);
        if refresh {
            self.refreshed = Some(now);
        }
        match &mut self.source {
            UnixSource::Bpf { probes, known, outside } => {
                if refresh {
                    *known = find(probes, &self.cgroups, &mut self.buffer, losses)?;
                    let names: HashSet<_> = known.values().map(|known| known.address).collect();
                    probes.workers.keep(|listener| names.contains(&listener));
                }
                let UnixProbes { scan, workers, .. } = &mut **probes;
                let (mut gone, mut owners) = (Vec::new(), Vec::new());
                let rest = pass(scan, &mut self.buffer, |sample: UnixSample| {
                    match known
                        .get(&sample.sock)
                        .filter(|known| sample.listens != 0 && known.inode == sample.inode)
                    {
                        Some(known) => {
                            owners.push(sample.share);
                            let stuck = (known.holders > 1)
                                .then(|| workers.observe(now, known.address, sample.backlog))
                                .flatten();
                            each(ListenerFact {
                                stuck_pid: stuck.map(|(pid, _)| pid),
                                stuck_us: stuck.map(|(_, secs)| (secs * 1e6) as u64),
                                ..known.fact(&sample)
                            });
                        }
                        None => gone.push(sample.sock),
                    }
                })?;
                losses.count_short_read(rest);
                let looked = workers.look_if_due(now, losses);
                for sock in gone {
                    known.remove(&sock);
                    // The BPF side may have removed it already.
                    let _ = probes.known.remove(&sock);
                }
                if refresh {
                    shares::settle(&mut probes.shares, owners)?;
                }
                let turned_away = probes.outside.get(&0, 0).unwrap_or(0);
                if outside.is_due(now, turned_away) {
                    let (cgroups, buffer) = (&self.cgroups, &mut self.buffer);
                    outside.read(now, losses, |losses, wants| {
                        let is_known = |found: &UnixFoundSample| {
                            known.get(&found.sock).is_some_and(|known| known.inode == found.inode)
                        };
                        let wants =
                            |found: &UnixFoundSample| wants(&listener_of(found), is_known(found));
                        read_outside(probes, cgroups, buffer, losses, wants, each)
                    })?;
                }
                looked
            }
            UnixSource::SockDiag(sockets) => {
                sockets.scan(refresh, &self.cgroups, losses, |_| true, each)
            }
        }
    }
}

impl Sensor for UnixListenerSensor {
    fn schedule(&self) -> Schedule {
        Schedule::Listeners
    }

    fn failure(&self) -> Loss {
        Loss::UnixScanFailed
    }

    fn read(&mut self, now: f64, out: &mut Observations<'_>) -> io::Result<()> {
        let (losses, mut push) = out.split();
        self.scan(now, losses, |fact| push(Fact::Listener(Box::new(fact))))
    }
}

/// Finds every UNIX listener that a process holds. Processes come in order of pid, so that of a
/// master and its workers the master is the owner.
fn find(
    probes: &UnixProbes,
    cgroups: &CgroupPaths,
    buffer: &mut Vec<u8>,
    losses: &mut LossCounters,
) -> io::Result<HashMap<u64, KnownUnixListener>> {
    let mut known = HashMap::new();
    let rest = pass(&probes.find, buffer, |found: UnixFoundSample| {
        if found.is_known == 0 {
            return;
        }
        let listener =
            known.entry(found.sock).or_insert_with(|| KnownUnixListener::new(&found, cgroups));
        // One that holds it twice comes twice in a row.
        if listener.latest_pid != found.pid {
            listener.latest_pid = found.pid;
            listener.holders += 1;
        }
    })?;
    losses.count_short_read(rest);
    Ok(known)
}

/// Reads the listeners that found no room in the map and that are wanted, each once.
fn read_outside(
    probes: &UnixProbes,
    cgroups: &CgroupPaths,
    buffer: &mut Vec<u8>,
    losses: &mut LossCounters,
    mut wants: impl FnMut(&UnixFoundSample) -> bool,
    mut each: impl FnMut(ListenerFact),
) -> io::Result<()> {
    let mut seen = HashSet::new();
    let rest = pass(&probes.find, buffer, |found: UnixFoundSample| {
        if seen.insert(found.sock) && wants(&found) {
            let (backlog, backlog_max) = (found.backlog, found.backlog_max);
            let sample = UnixSample { backlog, backlog_max, ..UnixSample::GONE };
            each(KnownUnixListener::new(&found, cgroups).fact(&sample));
        }
    })?;
    losses.count_short_read(rest);
    Ok(())
}

fn listener_of(found: &UnixFoundSample) -> DiagListener {
    let waiting = found.backlog > 0;
    DiagListener { netns: found.netns, uid: found.uid, waiting, socket: None }
}

impl KnownUnixListener {
    fn new(found: &UnixFoundSample, cgroups: &CgroupPaths) -> Self {
        let length = (found.name_len as usize).min(found.name.len());
        Self {
            inode: found.inode,
            address: found.address,
            netns: found.netns,
            pid: found.pid,
            holders: 1,
            latest_pid: found.pid,
            addr: addr::unix_addr(&found.name[..length]),
            cgroup: cgroups.of_process(found.pid),
        }
    }

    fn fact(&self, sample: &UnixSample) -> ListenerFact {
        ListenerFact {
            netns: self.netns,
            addr: self.addr.clone(),
            socket: self.inode,
            cgroup: self.cgroup.clone(),
            pid: Some(self.pid),
            holders: Some(self.holders).filter(|&holders| holders > 1),
            backlog: sample.backlog,
            backlog_max: sample.backlog_max,
            oldest_wait_us: (sample.backlog == 0).then_some(0),
            // No other host can connect to it.
            remote_arrived_total: Some(0),
            ..ListenerFact::default()
        }
    }
}
