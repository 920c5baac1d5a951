//! Loads the embedded BPF object and climbs each probe's ladder.

use std::{fs, os::unix::fs::MetadataExt as _};

use aya::{
    Btf, Ebpf, EbpfLoader, Endianness, include_bytes_aligned,
    maps::{MapData, PerCpuArray, RingBuf},
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use spillway_ebpf::Loss;

use super::{
    Probe,
    attach::{
        self, AttachContext, FaultMaps, ListenerProbes, OutboundMaps, SharedStruct, UnixProbes,
    },
    btf, btf_offsets, error,
    fallbacks::{Cause, FALLBACK_CHAINS, Fallback, Hook, Unavailable, select},
    features,
    iter::IterHandle,
    status::ProbeStatus,
};

static OBJECT: &[u8] = include_bytes_aligned!(env!("SPILLWAY_BPF_OBJECT"));

/// `PROC_PID_INIT_INO` of include/linux/proc_ns.h, the same on every kernel since 3.8.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// Growth, in fault samples of 256 KiB, from which a process matters enough to sum its counts over
/// all CPUs: 1 MiB, which is what a plain count may be off by on small hosts. Until faults are
/// sampled it is 0, and every process matters.
const SUM_FROM_SAMPLES: u64 = 4;

/// What to load, and for what host.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// The memory controller is mounted as cgroup version 1.
    pub memory_v1: bool,
    /// Hooks that are not to be used, so that those below them are.
    pub unwanted: Vec<Hook>,
}

/// What the kernel gives: attached probes and the way to their samples. Dropping it detaches
/// everything; nothing is pinned, so nothing outlives the agent.
#[derive(Default)]
pub struct LoadedBpf {
    /// Passes over every process.
    pub process_memory: Option<IterHandle>,
    /// Passes over every process's files.
    pub process_handles: Option<IterHandle>,
    /// Passes over every listener.
    pub accept_queue: Option<ListenerProbes>,
    /// Passes over every UNIX listener.
    pub unix_queue: Option<UnixProbes>,
    /// Births and deaths.
    pub process_life: Option<RingBuf<MapData>>,
    /// Fault samples of each process, with their stacks.
    pub faults: Option<FaultMaps>,
    /// How outbound connects end.
    pub outbound: Option<OutboundMaps>,
    /// What became of each probe.
    pub reports: Vec<ProbeStatus>,
    losses: Option<PerCpuArray<MapData, u64>>,
    /// Holds programs and links.
    ebpf: Option<Ebpf>,
}

impl LoadedBpf {
    /// Attaches what can be attached. Takes about 0.3 s, most of it reading the kernel's type
    /// information.
    pub fn load(wanted: &LoadOptions) -> Self {
        let mut kernel = Self::default();
        if let Err(shortfall) = kernel.climb_all(wanted) {
            kernel.reports = ProbeStatus::without_bpf(&shortfall);
        }
        release_freed_memory();
        kernel
    }

    /// No BPF at all, for the reason given: every sensor uses its fallback.
    pub fn without_bpf(reason: &str) -> Self {
        let reports = ProbeStatus::without_bpf(&Unavailable::new(Cause::Unwanted, reason));
        Self { reports, ..Self::default() }
    }

    /// What did not reach user space, by name; empty without BPF.
    pub fn losses(&self) -> Vec<(Loss, u64)> {
        let Some(losses) = &self.losses else { return Vec::new() };
        Loss::VARIANTS
            .iter()
            .take(Loss::COUNTED_BY_BPF)
            .filter_map(|&loss| Some((loss, losses.get(&(loss as u32), 0).ok()?.iter().sum())))
            .collect()
    }

    /// Loaded programs by name, for what the kernel knows of them.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &aya::programs::Program)> {
        self.ebpf.iter().flat_map(Ebpf::programs)
    }

    fn climb_all(&mut self, wanted: &LoadOptions) -> Result<(), Unavailable> {
        may_use_bpf()?;
        let (found, mut offer, accept_parameters, outline) = {
            let btf = btf::Btf::from_file(BTF_PATH).map_err(|error| {
                Unavailable::new(
                    Cause::Unsupported,
                    format!("{BTF_PATH} cannot be read ({error}): the kernel has no BTF"),
                )
            })?;
            let accept_parameters = btf_offsets::parameters_of(&btf, "inet_csk_accept");
            (
                btf_offsets::find(&btf, wanted.memory_v1),
                features::find(&btf),
                accept_parameters,
                btf.outline(is_attached_to),
            )
        };
        offer.ruled_out = found.ruled_out;
        for &hook in &wanted.unwanted {
            offer.ruled_out.insert(hook, Unavailable::new(Cause::Unwanted, "it is not wanted"));
        }
        raise_memlock();
        let offsets = SharedStruct(spillway_ebpf::Offsets {
            init_netns: initial_network_namespace(),
            ..found.offsets
        });
        let mut loader = EbpfLoader::new();
        // It has read all of the kernel's type information, which our programs do not ask for:
        // before the maps take memory it goes.
        loader.btf(None);
        release_freed_memory();
        let mut ebpf = loader
            .override_global("OFFSETS", &offsets, true)
            .load(OBJECT)
            .map_err(|error| error::of("BPF maps", &error))?;
        let btf = Btf::parse(&outline, Endianness::default())
            .map_err(|error| error::of("type information", &error))?;
        drop(outline);
        let mut target = AttachContext {
            ebpf: &mut ebpf,
            btf: &btf,
            offsets: &found.offsets,
            accept_parameters,
            states_watched: 0,
        };
        for ladder in FALLBACK_CHAINS {
            let (rung, passed) = loop {
                let (rung, passed) = select(ladder.rungs, &offer);
                let Some(taken) = rung else { break (None, passed) };
                match self.attach(taken, &mut target) {
                    Ok(()) => break (Some(taken), passed),
                    Err(shortfall) => {
                        // Half a probe would fill maps that nobody reads.
                        target.detach(taken.hook);
                        offer.ruled_out.insert(taken.hook, shortfall);
                    }
                }
            };
            if ladder.probe == Probe::AcceptQueue {
                offer.rule_on_listeners(rung.map(|rung| rung.hook));
            }
            self.reports.push(ProbeStatus::new(ladder.probe, rung, passed));
        }
        self.losses = attach::take(&mut ebpf, "LOSSES").ok();
        self.ebpf = Some(ebpf);
        Ok(())
    }

    fn attach(
        &mut self,
        rung: &Fallback,
        target: &mut AttachContext<'_>,
    ) -> Result<(), Unavailable> {
        match rung.hook {
            Hook::TaskIter => self.process_memory = Some(target.tasks(rung.at)?),
            Hook::TaskIterPlain => {
                self.process_memory =
                    Some(target.iter("scan_tasks_plain", "task", None, rung.at)?)
            }
            Hook::PageFaultEvent => {
                let faults = target.faults(rung.at)?;
                target.sum_from(SUM_FROM_SAMPLES)?;
                self.faults = Some(faults);
            }
            Hook::LifeBtf => self.process_life = Some(target.life_btf()?),
            Hook::LifeRaw => self.process_life = Some(target.life_raw()?),
            Hook::HandleIter => {
                self.process_handles =
                    Some(target.iter("count_handles", "task_file", None, rung.at)?);
            }
            Hook::ListenerIter => self.accept_queue = Some(target.listeners()?),
            Hook::AcceptFexit | Hook::AcceptKprobe => {
                if rung.hook == Hook::AcceptFexit {
                    target.accept_fexit(rung.at)?
                } else {
                    target.accept_kprobe()?
                }
                if let Some(listeners) = &mut self.accept_queue {
                    listeners.sojourns = Some(target.take("SOJOURNS")?);
                }
            }
            Hook::UnixIter => self.unix_queue = Some(target.unix()?),
            Hook::ConnectStates => self.outbound = Some(target.connects()?),
            Hook::Proc
            | Hook::LifeScans
            | Hook::HandleProc
            | Hook::SockDiag
            | Hook::UnixDiag
            | Hook::QueueHead => {}
        }
        Ok(())
    }
}

/// Tells if a program is attached to this type: an iterator, a tracepoint, or a function that is
/// traced.
fn is_attached_to(kind: btf::BtfKind, name: &[u8]) -> bool {
    match kind {
        btf::BtfKind::Typedef => name.starts_with(b"btf_trace_"),
        btf::BtfKind::Func => name.starts_with(b"bpf_iter_") || name == b"inet_csk_accept",
        _ => false,
    }
}

fn may_use_bpf() -> Result<(), Unavailable> {
    if OBJECT.is_empty() {
        return Err(Unavailable::new(
            Cause::Unsupported,
            "this agent was built without its BPF programs, as only `cargo xtask build` makes them",
        ));
    }
    if !in_initial_pid_namespace() {
        return Err(Unavailable::new(
            Cause::Refused,
            "this is a pid namespace of its own, where /proc and the kernel number processes differently; \
             share the host's (hostPID: true, --pid=host)",
        ));
    }
    Ok(())
}

/// Iterators and tracepoints tell a process by its pid in the initial namespace; elsewhere that is
/// somebody else's, or nobody's. A host without pid namespaces has only the initial one.
fn in_initial_pid_namespace() -> bool {
    fs::metadata("/proc/self/ns/pid")
        .map_or(true, |namespace| namespace.ino() == INITIAL_PID_NAMESPACE)
}

/// That of pid 1, or our own where that may not be read.
fn initial_network_namespace() -> u32 {
    let namespace = fs::metadata("/proc/1/ns/net").or_else(|_| fs::metadata("/proc/self/ns/net"));
    namespace.map_or(0, |namespace| namespace.ino() as u32)
}

/// Kernels before 5.11 count maps against the limit on locked memory. Our own limit alone is
/// raised; where even that is not allowed, creating the maps tells.
fn raise_memlock() {
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, libc::RLIM_INFINITY, libc::RLIM_INFINITY).or_else(
        |_| {
            let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
            setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)
        },
    );
}

/// Type information takes tens of MiB while it is read; the allocator keeps freed pages unless
/// told.
fn release_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no arguments but a number; the allocator takes its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
