//! Attaches one rung: loads its programs, hooks them up, and takes the maps through which they
//! tell.

use std::os::fd::AsFd as _;

use aya::{
    Btf, Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, RingBuf, StackTraceMap},
    programs::{
        BtfTracePoint, FExit, Iter, KProbe, PerfEvent, Program, ProgramError, RawTracePoint,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
    util::online_cpus,
};
use spillway_ebpf::{
    ABSENT, CPUS_MAX, CpuOffsets, CpuSlotSample, FAULT_SAMPLE_PERIOD_PAGES, FaultCount,
    KnownListener, KnownUnix, Offsets, OutboundConnect, OutboundCount, OutboundKey, Sojourn,
    WATCHES_CONNECTS, WATCHES_LISTENERS,
};
pub use spillway_ebpf::{LISTENERS_MAX, OUTBOUND_MAX, UNIX_LISTENERS_MAX};

use super::{
    batch::BatchMap,
    error,
    fallbacks::{Cause, Hook, Unavailable},
    iter::IterHandle,
    samples::{Plain, pass},
};

/// The program at the states of TCP sockets.
const STATES_PROGRAM: &str = "socket_state";

/// A struct shared with the BPF side, as the loader and the map wrappers want it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct SharedStruct<T>(pub T);

// SAFETY: `Offsets` is `repr(C)` with `u32` fields alone: no padding, any bytes are valid.
unsafe impl Pod for SharedStruct<Offsets> {}
// SAFETY: `FaultCount` is `repr(C)`, two u64 and eight u32: no padding, any bytes are valid.
unsafe impl Pod for SharedStruct<FaultCount> {}
// SAFETY: `KnownListener` is `repr(C)`, one u64 and two u32: no padding, any bytes are valid.
unsafe impl Pod for SharedStruct<KnownListener> {}
// SAFETY: `KnownUnix` is `repr(C)`, two u64: no padding, any bytes are valid.
unsafe impl Pod for SharedStruct<KnownUnix> {}
// SAFETY: `Sojourn` is `repr(C)`, two u64 and an even number of u32: no padding, any bytes are
// valid.
unsafe impl Pod for SharedStruct<Sojourn> {}

/// Passes over every listener.
pub struct ListenerProbes {
    /// One sample a known listener.
    pub scan: IterHandle,
    /// Finds listeners that were there before the agent, and who holds them.
    pub find: IterHandle,
    /// Known listeners by socket address.
    pub known: HashMap<MapData, u64, SharedStruct<KnownListener>>,
    /// Number of them by owner.
    pub shares: BatchMap<u64, u64>,
    /// The same of those whose waits are kept.
    pub sojourn_shares: BatchMap<u64, u64>,
    /// Number of times that one found no room there.
    pub outside: Array<MapData, u64>,
    /// Waits by the listener's socket address; `None` where accept() is not followed.
    pub sojourns: Option<Sojourns>,
}

/// Waits by the listener's socket address.
pub type Sojourns = HashMap<MapData, u64, SharedStruct<Sojourn>>;

/// Fault samples of each process.
pub struct FaultMaps {
    /// Counts by pid.
    pub counts: HashMap<MapData, u32, SharedStruct<FaultCount>>,
    /// User stacks by id.
    pub stacks: StackTraceMap<MapData>,
}

/// Passes over every UNIX listener.
pub struct UnixProbes {
    /// One sample a known listener.
    pub scan: IterHandle,
    /// Finds them, and who holds them.
    pub find: IterHandle,
    /// Known listeners by socket address.
    pub known: HashMap<MapData, u64, SharedStruct<KnownUnix>>,
    /// Number of them by owner.
    pub shares: BatchMap<u64, u64>,
    /// Number of times that one found no room there.
    pub outside: Array<MapData, u64>,
}

/// Outbound connects.
pub struct OutboundMaps {
    /// How they ended, by whose they were and where to.
    pub ended: BatchMap<OutboundKey, OutboundCount>,
    /// Those under way, by socket address.
    pub under_way: BatchMap<u64, OutboundConnect>,
    /// Number of the former by owner, and of the latter.
    pub ended_shares: BatchMap<u64, u64>,
    /// See above.
    pub under_way_shares: BatchMap<u64, u64>,
}

/// What rungs attach from and to.
pub(super) struct AttachContext<'a> {
    pub(super) ebpf: &'a mut Ebpf,
    pub(super) btf: &'a Btf,
    pub(super) offsets: &'a Offsets,
    /// How many parameters this kernel's `inet_csk_accept` takes.
    pub(super) accept_parameters: Option<usize>,
    /// For which probes the states of TCP sockets are watched.
    pub(super) states_watched: u32,
}

impl AttachContext<'_> {
    /// Where counts are per CPU, it is found out first where each CPU's are.
    pub(super) fn tasks(&mut self, at: &str) -> Result<IterHandle, Unavailable> {
        if self.offsets.mm_rss_slots != ABSENT {
            self.find_cpu_slots()?;
        }
        self.iter("scan_tasks", "task", None, at)
    }

    fn find_cpu_slots(&mut self) -> Result<(), Unavailable> {
        let id = match self.ebpf.map("CPU_SLOT") {
            Some(Map::PerCpuArray(data)) => {
                data.info().map_err(|error| error::of("map CPU_SLOT", &error))?.id()
            }
            _ => return Err(broken("the BPF object has no per-CPU array CPU_SLOT")),
        };
        self.set("CPU_SLOT_ID", id)?;
        let find = self.iter("find_cpu_slots", "bpf_map", None, "iter/bpf_map")?;
        let mut found = Vec::with_capacity(CPUS_MAX);
        let each = |sample: CpuSlotSample| found.push(sample.slot.wrapping_sub(sample.base));
        pass(&find, &mut Vec::new(), each)
            .map_err(|error| error::of_io("a pass of iter/bpf_map", &error))?;
        if found.is_empty() {
            return Err(broken("iter/bpf_map did not find the per-CPU slots of a map of ours"));
        }
        found.resize(CPUS_MAX, 0);
        let offsets: CpuOffsets =
            found.try_into().map_err(|_| broken("there are more per-CPU slots than expected"))?;
        self.set("CPU_OFFSETS", offsets)
    }

    /// Sets the one value of an array that stays with the programs.
    fn set<T: Pod>(&mut self, name: &str, value: T) -> Result<(), Unavailable> {
        let map = self
            .ebpf
            .map_mut(name)
            .ok_or_else(|| broken(&format!("the BPF object has no map {name}")))?;
        Array::<_, T>::try_from(map)
            .and_then(|mut array| array.set(0, value, 0))
            .map_err(|error| error::of(&format!("map {name}"), &error))
    }

    /// Says from how many fault samples on a process's slots are summed.
    pub(super) fn sum_from(&mut self, samples: u64) -> Result<(), Unavailable> {
        self.set("SUM_FROM_SAMPLES", samples)
    }

    pub(super) fn faults(&mut self, at: &str) -> Result<FaultMaps, Unavailable> {
        let program: &mut PerfEvent = self.program("sample_faults")?;
        program.load().map_err(|error| error::of("perf event programs", &error))?;
        let cpus = online_cpus().map_err(|(path, error)| error::of_io(path, &error))?;
        for cpu in cpus {
            program
                .attach(
                    PerfEventConfig::Software(SoftwareEvent::PageFaults),
                    PerfEventScope::AllProcessesOneCpu { cpu },
                    SamplePolicy::Period(FAULT_SAMPLE_PERIOD_PAGES),
                    false,
                )
                .map_err(|error| error::of(at, &error))?;
        }
        Ok(FaultMaps { counts: self.take("FAULTS")?, stacks: self.take("FAULT_STACKS")? })
    }

    pub(super) fn life_btf(&mut self) -> Result<RingBuf<MapData>, Unavailable> {
        for (name, tracepoint) in [
            ("process_fork", "sched_process_fork"),
            ("process_exec", "sched_process_exec"),
            ("process_exit", "sched_process_exit"),
        ] {
            self.btf_tracepoint(name, tracepoint)?;
        }
        self.take("LIFE")
    }

    pub(super) fn life_raw(&mut self) -> Result<RingBuf<MapData>, Unavailable> {
        for (name, tracepoint) in [
            ("process_fork_raw", "sched_process_fork"),
            ("process_exec_raw", "sched_process_exec"),
            ("process_exit_raw", "sched_process_exit"),
        ] {
            self.raw_tracepoint(name, tracepoint)?;
        }
        self.take("LIFE")
    }

    /// The tracepoint goes first, so that no listener that appears while the old ones are found is
    /// missed.
    pub(super) fn listeners(&mut self) -> Result<ListenerProbes, Unavailable> {
        self.watch_states(WATCHES_LISTENERS)?;
        let find = self.iter("find_listeners", "task_file", None, "iter/task_file")?;
        let scan =
            self.iter("scan_listeners", "bpf_map_elem", Some("LISTENERS"), "iter/bpf_map_elem")?;
        Ok(ListenerProbes {
            scan,
            find,
            known: self.take("LISTENERS")?,
            shares: self.take_whole("LISTENER_SHARES")?,
            sojourn_shares: self.take_whole("SOJOURN_SHARES")?,
            outside: self.take("OUTSIDE")?,
            sojourns: None,
        })
    }

    pub(super) fn unix(&mut self) -> Result<UnixProbes, Unavailable> {
        let find = self.iter("find_unix", "task_file", None, "iter/task_file")?;
        let scan =
            self.iter("scan_unix", "bpf_map_elem", Some("UNIX_LISTENERS"), "iter/bpf_map_elem")?;
        Ok(UnixProbes {
            scan,
            find,
            known: self.take("UNIX_LISTENERS")?,
            shares: self.take_whole("UNIX_SHARES")?,
            outside: self.take("UNIX_OUTSIDE")?,
        })
    }

    pub(super) fn connects(&mut self) -> Result<OutboundMaps, Unavailable> {
        self.watch_states(WATCHES_CONNECTS)?;
        Ok(OutboundMaps {
            ended: self.take_whole("CONNECTED")?,
            under_way: self.take_whole("CONNECTING")?,
            ended_shares: self.take_whole("CONNECTED_SHARES")?,
            under_way_shares: self.take_whole("CONNECTING_SHARES")?,
        })
    }

    /// The states of TCP sockets, for one probe more. The first attaches the program that serves
    /// them all.
    fn watch_states(&mut self, probe: u32) -> Result<(), Unavailable> {
        if self.states_watched == 0 {
            self.btf_tracepoint(STATES_PROGRAM, "inet_sock_set_state")?;
        }
        self.states_watched |= probe;
        self.set("WATCHED", self.states_watched)
    }

    fn unwatch_states(&mut self, probe: u32) {
        self.states_watched &= !probe;
        // What cannot be written goes with the program.
        if self.set("WATCHED", self.states_watched).is_err() {
            self.states_watched = 0;
        }
        if self.states_watched == 0
            && let Ok(program) = self.program::<BtfTracePoint>(STATES_PROGRAM)
        {
            // Not loaded is as good as unloaded.
            let _ = program.unload();
        }
    }

    /// A hash map that is read whole, which is tried once.
    fn take_whole<K: Plain + Default, V: Plain + Default>(
        &mut self,
        name: &str,
    ) -> Result<BatchMap<K, V>, Unavailable> {
        let map = match self.ebpf.take_map(name) {
            Some(Map::HashMap(data)) => BatchMap::over(data),
            _ => None,
        };
        let mut map = map.ok_or_else(|| {
            broken(&format!("the BPF object has no hash map {name} of this form"))
        })?;
        map.read(|_, _| ())
            .map_err(|error| error::of_io("lookup of map entries in batches", &error))?;
        Ok(map)
    }

    /// What a function returns comes after its arguments, so that there is a program for each
    /// number of them.
    pub(super) fn accept_fexit(&mut self, at: &str) -> Result<(), Unavailable> {
        let name = match self.accept_parameters {
            Some(2) => "accept_exit_2",
            Some(4) => "accept_exit_4",
            other => {
                let reason =
                    format!("this kernel's inet_csk_accept takes {other:?} parameters, not 2 or 4");
                return Err(Unavailable::new(Cause::Unsupported, reason));
            }
        };
        let btf = self.btf;
        let program: &mut FExit = self.program(name)?;
        let attached = program.load("inet_csk_accept", btf).and_then(|()| program.attach());
        attached.map(drop).map_err(|error| error::of(at, &error))
    }

    /// The listener first: a connection whose thread was not seen to begin is not counted.
    pub(super) fn accept_kprobe(&mut self) -> Result<(), Unavailable> {
        for (name, function) in
            [("accept_enter", "inet_csk_accept"), ("accept_graft", "security_sock_graft")]
        {
            let program: &mut KProbe = self.program(name)?;
            program
                .load()
                .and_then(|()| program.attach(function, 0))
                .map_err(|error| error::of(&format!("kprobe {function}"), &error))?;
        }
        Ok(())
    }

    /// Takes everything of a hook away again, whatever of it was attached.
    pub(super) fn detach(&mut self, hook: Hook) {
        match hook {
            Hook::ListenerIter => self.unwatch_states(WATCHES_LISTENERS),
            Hook::ConnectStates => self.unwatch_states(WATCHES_CONNECTS),
            _ => {}
        }
        let names: &[&str] = match hook {
            Hook::TaskIter => &["scan_tasks", "find_cpu_slots"],
            Hook::TaskIterPlain => &["scan_tasks_plain"],
            Hook::PageFaultEvent => &["sample_faults"],
            Hook::LifeBtf => &["process_fork", "process_exec", "process_exit"],
            Hook::LifeRaw => &["process_fork_raw", "process_exec_raw", "process_exit_raw"],
            Hook::HandleIter => &["count_handles"],
            Hook::ListenerIter => &["find_listeners", "scan_listeners"],
            Hook::UnixIter => &["find_unix", "scan_unix"],
            Hook::AcceptFexit => &["accept_exit_2", "accept_exit_4"],
            Hook::AcceptKprobe => &["accept_enter", "accept_graft"],
            Hook::ConnectStates
            | Hook::Proc
            | Hook::LifeScans
            | Hook::HandleProc
            | Hook::SockDiag
            | Hook::UnixDiag
            | Hook::QueueHead => &[],
        };
        for name in names {
            // Not loaded is as good as unloaded.
            let _ = match self.ebpf.program_mut(name) {
                Some(Program::Iter(program)) => program.unload(),
                Some(Program::BtfTracePoint(program)) => program.unload(),
                Some(Program::RawTracePoint(program)) => program.unload(),
                Some(Program::PerfEvent(program)) => program.unload(),
                Some(Program::FExit(program)) => program.unload(),
                Some(Program::KProbe(program)) => program.unload(),
                _ => Ok(()),
            };
        }
    }

    /// Loads an iterator and links it, over `map` where it walks the elements of one.
    pub(super) fn iter(
        &mut self,
        name: &str,
        kind: &str,
        map: Option<&str>,
        at: &str,
    ) -> Result<IterHandle, Unavailable> {
        let btf = self.btf;
        let program: &mut Iter = self.program(name)?;
        program.load(kind, btf).map_err(|error| error::of(at, &error))?;
        let fd = program
            .fd()
            .and_then(|fd| Ok(fd.try_clone()?))
            .map_err(|error| error::of(at, &error))?;
        let map = match map {
            Some(name) => match self.ebpf.map(name) {
                Some(Map::HashMap(data)) => Some(data.fd().as_fd()),
                _ => return Err(broken(&format!("the BPF object has no hash map {name}"))),
            },
            None => None,
        };
        IterHandle::attach(fd.as_fd(), map).map_err(|error| error::of_io(at, &error))
    }

    fn btf_tracepoint(&mut self, name: &str, tracepoint: &str) -> Result<(), Unavailable> {
        let btf = self.btf;
        let program: &mut BtfTracePoint = self.program(name)?;
        program
            .load(tracepoint, btf)
            .and_then(|()| program.attach())
            .map(drop)
            .map_err(|error| error::of(&format!("tp_btf {tracepoint}"), &error))
    }

    fn raw_tracepoint(&mut self, name: &str, tracepoint: &str) -> Result<(), Unavailable> {
        let program: &mut RawTracePoint = self.program(name)?;
        program
            .load()
            .and_then(|()| program.attach(tracepoint))
            .map(drop)
            .map_err(|error| error::of(&format!("raw_tp {tracepoint}"), &error))
    }

    fn program<'a, T>(&'a mut self, name: &str) -> Result<&'a mut T, Unavailable>
    where
        &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        self.ebpf
            .program_mut(name)
            .ok_or_else(|| broken(&format!("the BPF object has no program {name}")))?
            .try_into()
            .map_err(|error: ProgramError| broken(&format!("program {name}: {error}")))
    }

    pub(super) fn take<T>(&mut self, name: &str) -> Result<T, Unavailable>
    where
        T: TryFrom<Map, Error = aya::maps::MapError>,
    {
        take(self.ebpf, name)
    }
}

pub(super) fn take<T>(ebpf: &mut Ebpf, name: &str) -> Result<T, Unavailable>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    ebpf.take_map(name)
        .ok_or_else(|| broken(&format!("the BPF object has no map {name}")))?
        .try_into()
        .map_err(|error: aya::maps::MapError| broken(&format!("map {name}: {error}")))
}

fn broken(reason: &str) -> Unavailable {
    Unavailable::new(Cause::Broken, reason)
}
