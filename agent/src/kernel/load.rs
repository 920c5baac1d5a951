//! Loads the embedded BPF object and attaches what this kernel allows.

use std::{
    io::ErrorKind,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
};

use aya::{
    Btf, Ebpf, EbpfLoader, Pod, include_bytes_aligned,
    maps::{HashMap, Map, MapData, PerCpuArray, RingBuf, StackTraceMap},
    programs::{
        Iter, PerfEvent, ProgramError, RawTracePoint,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
    },
    util::online_cpus,
};
use spillway_ebpf::{FAULT_SAMPLE_PERIOD_PAGES, FaultCount, Loss, Offsets};

use super::{
    iter::IterHandle,
    offsets,
    report::{Probe, ProbeReport},
};

static OBJECT: &[u8] = include_bytes_aligned!(env!("SPILLWAY_BPF_OBJECT"));

/// `PROC_PID_INIT_INO` of include/linux/proc_ns.h, the same on every kernel since 3.8.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// A struct shared with the BPF side, as the loader and the map wrappers want it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Shared<T>(pub T);

// SAFETY: `Offsets` is `repr(C)` with `u32` fields alone: no padding, any bytes are valid.
unsafe impl Pod for Shared<Offsets> {}
// SAFETY: `FaultCount` is `repr(C)`, two u64 and eight u32: no padding, any bytes are valid.
unsafe impl Pod for Shared<FaultCount> {}

/// What the kernel gives: attached probes and the way to their samples. Dropping it detaches everything; nothing is
/// pinned, so nothing outlives the agent.
#[derive(Default)]
pub struct Kernel {
    /// Passes over every process.
    pub process_memory: Option<IterHandle>,
    /// Passes over every listener.
    pub accept_queue: Option<ListenerProbes>,
    /// Births and deaths.
    pub process_life: Option<RingBuf<MapData>>,
    /// Fault samples of each process, with their stacks.
    pub faults: Option<FaultMaps>,
    /// What became of each probe.
    pub reports: Vec<ProbeReport>,
    losses: Option<PerCpuArray<MapData, u64>>,
    /// Holds programs and links.
    ebpf: Option<Ebpf>,
}

/// Passes over every listener.
pub struct ListenerProbes {
    /// One sample a known listener.
    pub scan: IterHandle,
    /// Finds listeners that were there before the agent, and who holds them.
    pub find: IterHandle,
    /// Known listeners by socket address.
    pub known: HashMap<MapData, u64, u32>,
}

/// Fault samples of each process.
pub struct FaultMaps {
    /// Counts by pid.
    pub counts: HashMap<MapData, u32, Shared<FaultCount>>,
    /// User stacks by id.
    pub stacks: StackTraceMap<MapData>,
}

impl Kernel {
    /// Attaches what can be attached. Takes about 0.3 s, most of it reading the kernel's type information.
    pub fn load(memory_v1: bool) -> Self {
        let mut kernel = Self::default();
        let failed = kernel.attach_all(memory_v1).err();
        for probe in Probe::ALL {
            if !kernel.reports.iter().any(|report| report.probe == probe) {
                let reason = failed.clone().unwrap_or_else(|| "it was not tried".to_owned());
                kernel.reports.push(ProbeReport::new(probe, Err(reason)));
            }
        }
        release_freed_memory();
        kernel
    }

    /// No BPF at all, for the reason given: every sensor uses its fallback.
    pub fn without_bpf(reason: &str) -> Self {
        let reports = Probe::ALL.map(|probe| ProbeReport::new(probe, Err(reason.to_owned()))).to_vec();
        Self { reports, ..Self::default() }
    }

    /// What did not reach user space, by name; empty without BPF.
    pub fn losses(&self) -> Vec<(&'static str, u64)> {
        let Some(losses) = &self.losses else { return Vec::new() };
        Loss::ALL
            .iter()
            .filter_map(|&(loss, name)| Some((name, losses.get(&(loss as u32), 0).ok()?.iter().sum())))
            .collect()
    }

    fn attach_all(&mut self, memory_v1: bool) -> Result<(), String> {
        if OBJECT.is_empty() {
            return Err(
                "this agent was built without its BPF programs, as only `cargo xtask build` makes them".to_owned()
            );
        }
        if !in_initial_pid_namespace() {
            return Err(
                "this is a pid namespace of its own, where /proc and the kernel number processes differently; \
                 share the host's (hostPID: true, --pid=host)"
                    .to_owned(),
            );
        }
        let found = {
            let btf = btf_rs::Btf::from_file(BTF_PATH)
                .map_err(|error| format!("{BTF_PATH} cannot be read ({error}): the kernel has no BTF"))?;
            offsets::find(&btf, memory_v1)
        };
        let offsets = Shared(found.offsets);
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("OFFSETS", &offsets, true)
            .load(OBJECT)
            .map_err(|error| refused("BPF maps", &error))?;
        let btf = Btf::from_sys_fs().map_err(|error| refused("to show its BTF", &error))?;

        let mut report = |probe, attached| self.reports.push(ProbeReport::new(probe, attached));
        let known = |probe| match found.missing.get(&probe) {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        };

        let attached = known(Probe::ProcessMemory).and_then(|()| iter(&mut ebpf, "scan_tasks", "task", None, &btf));
        report(Probe::ProcessMemory, keep(attached, &mut self.process_memory));
        let attached = known(Probe::ProcessLife).and_then(|()| life(&mut ebpf));
        report(Probe::ProcessLife, keep(attached, &mut self.process_life));
        report(Probe::FaultSamples, keep(faults(&mut ebpf), &mut self.faults));
        let attached = known(Probe::AcceptQueue).and_then(|()| listeners(&mut ebpf, &btf));
        report(Probe::AcceptQueue, keep(attached, &mut self.accept_queue));

        self.losses = take(&mut ebpf, "LOSSES").ok();
        self.ebpf = Some(ebpf);
        Ok(())
    }
}

/// Iterators and tracepoints tell a process by its pid in the initial namespace; elsewhere that is somebody else's, or
/// nobody's. A host without pid namespaces has only the initial one.
fn in_initial_pid_namespace() -> bool {
    std::fs::metadata("/proc/self/ns/pid").map_or(true, |namespace| namespace.ino() == INITIAL_PID_NAMESPACE)
}

fn keep<T>(attached: Result<T, String>, slot: &mut Option<T>) -> Result<(), String> {
    *slot = Some(attached?);
    Ok(())
}

fn life(ebpf: &mut Ebpf) -> Result<RingBuf<MapData>, String> {
    for (program, tracepoint) in [
        ("process_fork", "sched_process_fork"),
        ("process_exec", "sched_process_exec"),
        ("process_exit", "sched_process_exit"),
    ] {
        raw_tracepoint(ebpf, program, tracepoint)?;
    }
    take(ebpf, "LIFE")
}

fn faults(ebpf: &mut Ebpf) -> Result<FaultMaps, String> {
    let program: &mut PerfEvent = program(ebpf, "sample_faults")?;
    program.load().map_err(|error| refused("perf event programs", &error))?;
    let cpus = online_cpus().map_err(|(path, error)| format!("{path} cannot be read: {error}"))?;
    for cpu in cpus {
        program
            .attach(
                PerfEventConfig::Software(SoftwareEvent::PageFaults),
                PerfEventScope::AllProcessesOneCpu { cpu },
                SamplePolicy::Period(FAULT_SAMPLE_PERIOD_PAGES),
                false,
            )
            .map_err(|error| refused("the page-fault event", &error))?;
    }
    Ok(FaultMaps { counts: take(ebpf, "FAULTS")?, stacks: take(ebpf, "FAULT_STACKS")? })
}

/// The tracepoint goes first, so that no listener that appears while the old ones are found is missed.
fn listeners(ebpf: &mut Ebpf, btf: &Btf) -> Result<ListenerProbes, String> {
    raw_tracepoint(ebpf, "socket_state", "inet_sock_set_state")?;
    let find = iter(ebpf, "find_listeners", "task_file", None, btf)?;
    let scan = iter(ebpf, "scan_listeners", "bpf_map_elem", Some("LISTENERS"), btf)?;
    Ok(ListenerProbes { scan, find, known: take(ebpf, "LISTENERS")? })
}

fn iter(ebpf: &mut Ebpf, name: &str, kind: &str, map: Option<&str>, btf: &Btf) -> Result<IterHandle, String> {
    let program: &mut Iter = program(ebpf, name)?;
    program.load(kind, btf).map_err(|error| refused(&format!("iter/{kind}"), &error))?;
    let fd =
        program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(|error| refused(&format!("iter/{kind}"), &error))?;
    let map = match map {
        Some(name) => match ebpf.map(name) {
            Some(Map::HashMap(data)) => Some(data.fd().as_fd()),
            _ => return Err(format!("the BPF object has no hash map {name}")),
        },
        None => None,
    };
    IterHandle::attach(fd.as_fd(), map).map_err(|error| format!("kernel refused iter/{kind} ({error})"))
}

fn raw_tracepoint(ebpf: &mut Ebpf, name: &str, tracepoint: &str) -> Result<(), String> {
    let program: &mut RawTracePoint = program(ebpf, name)?;
    program
        .load()
        .and_then(|()| program.attach(tracepoint))
        .map_err(|error| refused(&format!("raw tracepoint {tracepoint}"), &error))?;
    Ok(())
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T, String>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or_else(|| format!("the BPF object has no program {name}"))?
        .try_into()
        .map_err(|error: ProgramError| format!("program {name}: {error}"))
}

fn take<T>(ebpf: &mut Ebpf, name: &str) -> Result<T, String>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    ebpf.take_map(name)
        .ok_or_else(|| format!("the BPF object has no map {name}"))?
        .try_into()
        .map_err(|error: aya::maps::MapError| format!("map {name}: {error}"))
}

/// A refusal in one line. The verifier's log is long and goes to the debug log.
fn refused(what: &str, error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(ProgramError::LoadError { io_error, verifier_log }) = error.downcast_ref() {
        tracing::debug!(what, %verifier_log, "the kernel refused a program");
        return format!("kernel refused {what} ({io_error})");
    }
    let causes = || std::iter::successors(Some(error), |error| error.source());
    let denied = |error: &&(dyn std::error::Error + 'static)| {
        error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::PermissionDenied)
    };
    if causes().any(|cause| denied(&cause)) && !nix::unistd::geteuid().is_root() {
        return format!("kernel refused {what} (EPERM), which need root, or CAP_BPF and CAP_PERFMON");
    }
    // Libraries repeat a cause in their own words; the innermost says it best.
    let cause = causes().last().map(ToString::to_string).unwrap_or_default();
    format!("kernel refused {what} ({cause})")
}

/// Type information takes tens of MiB while it is read; the allocator keeps freed pages unless told.
fn release_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no arguments but a number; the allocator takes its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
