//! Loading of the embedded BPF object, and selection of each probe's fallback.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _};

use aya::{
    Btf, Ebpf, EbpfLoader, Endianness, include_bytes_aligned,
    maps::{MapData, PerCpuArray},
    programs::Program,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use spillway_ebpf::{CPUS_MAX, Loss, Offsets, Probe};

use super::{
    attach::{self, AttachContext},
    btf, btf_offsets, error,
    fallbacks::{Cause, Fallback, FallbackChain, Hook, KernelFeatures, Need, Unavailable, select},
    features,
    program_log::{self, ProgramLog},
    samples::SharedStruct,
    status::ProbeStatus,
};

/// BPF programs and their maps, as they were compiled; empty in an agent that was built without.
pub static OBJECT: &[u8] = include_bytes_aligned!(env!("SPILLWAY_BPF_OBJECT"));

/// `PROC_PID_INIT_INO` of include/linux/proc_ns.h, the same on every kernel since 3.8.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// Options of loading.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Set if the memory controller is mounted as cgroup version 1.
    pub memory_v1: bool,
    /// Hooks that must not be used, so that the fallbacks below them are.
    pub unwanted: Vec<Hook>,
}

/// The loaded BPF object, to which sensors attach their probes.
pub struct Loader {
    features: KernelFeatures,
    object: Option<LoadedObject>,
    /// Probes that the hook on socket states serves, as flags.
    watched: u32,
    statuses: Vec<ProbeStatus>,
}

struct LoadedObject {
    ebpf: Ebpf,
    btf: Btf,
    offsets: Offsets,
    parameters: BTreeMap<&'static str, usize>,
}

/// Attached probes. Dropping it detaches all of them; nothing is pinned, so nothing outlives the
/// agent.
#[derive(Default)]
pub struct LoadedBpf {
    statuses: Vec<ProbeStatus>,
    losses: Option<PerCpuArray<MapData, u64>>,
    log: Option<ProgramLog>,
    /// Owner of programs and links.
    ebpf: Option<Ebpf>,
}

impl Loader {
    /// Loads the BPF object for these probes. Takes about 0.3 s, most of it spent on reading the
    /// kernel's type information. If BPF cannot be used, every probe gets a fallback without it.
    pub fn load(options: &LoadOptions, chains: &[&FallbackChain]) -> Self {
        let loaded = try_load(options, chains);
        release_freed_memory();
        match loaded {
            Ok((object, features)) => {
                Self { features, object: Some(object), watched: 0, statuses: Vec::new() }
            }
            Err(reason) => Self::without(reason),
        }
    }

    /// Uses no BPF at all, for the reason given.
    pub fn without_bpf(reason: &str) -> Self {
        Self::without(Unavailable::new(Cause::Unwanted, reason))
    }

    fn without(reason: Unavailable) -> Self {
        let features = KernelFeatures { no_bpf: Some(reason), ..KernelFeatures::default() };
        Self { features, object: None, watched: 0, statuses: Vec::new() }
    }

    /// Attaches a probe to the best hook that the kernel accepts. `attach` does it for a hook on
    /// BPF; what it returns is returned. `None` if the probe uses a fallback without BPF, or
    /// nothing.
    pub fn attach<T>(
        &mut self,
        chain: &FallbackChain,
        mut attach: impl FnMut(&mut AttachContext<'_>, Hook) -> Result<T, Unavailable>,
    ) -> Option<T> {
        let (taken, passed_over, attached) = loop {
            let (fallback, passed) = select(chain.fallbacks, &self.features);
            let Some(fallback) = fallback else { break (None, passed, None) };
            if !fallback.is_bpf {
                break (Some(fallback), passed, None);
            }
            match self.try_attach(fallback, &mut attach) {
                Ok(attached) => break (Some(fallback), passed, Some(attached)),
                Err(reason) => drop(self.features.ruled_out.insert(fallback.hook, reason)),
            }
        };
        if attached.is_none() {
            self.features.rule_out_dependents(chain.probe);
        }
        self.statuses.push(ProbeStatus::new(chain.probe, taken, passed_over));
        attached
    }

    fn try_attach<T>(
        &mut self,
        fallback: &Fallback,
        attach: &mut impl FnMut(&mut AttachContext<'_>, Hook) -> Result<T, Unavailable>,
    ) -> Result<T, Unavailable> {
        let Some(LoadedObject { ebpf, btf, offsets, parameters }) = &mut self.object else {
            return Err(attach::broken("no BPF object is loaded"));
        };
        let mut context =
            AttachContext { ebpf, btf, offsets, parameters, at: fallback.at, loaded: Vec::new() };
        let (before, watched) = (self.watched, self.watched | fallback.watches);
        // Socket states go first, so that no listener is missed that appears while the existing
        // ones are found.
        let watching =
            if watched == before { Ok(()) } else { context.watch_states(before, watched) };
        let attached = watching.and_then(|()| attach(&mut context, fallback.hook));
        match attached {
            Ok(_) => self.watched = watched,
            Err(_) => {
                // Half a probe would fill maps that nothing reads.
                context.undo();
                if watched != before && context.watch_states(watched, before).is_err() {
                    tracing::warn!(
                        at = fallback.at,
                        "the hook on socket states still serves a probe that could not be attached"
                    );
                }
            }
        }
        attached
    }

    /// Returns whether a probe that was attached before runs on BPF.
    pub fn uses_bpf(&self, probe: Probe) -> bool {
        self.statuses.iter().any(|status| status.probe == probe)
            && !self.features.lacks.contains_key(&Need::Probe(probe))
    }

    /// Ends attaching. Statuses are in the order of [`Probe`].
    pub fn finish(mut self) -> LoadedBpf {
        self.statuses.sort_by_key(|status| status.probe);
        let mut ebpf = self.object.map(|object| object.ebpf);
        let losses = ebpf.as_mut().and_then(|ebpf| attach::take(ebpf, "LOSSES").ok());
        let log = ebpf.as_mut().and_then(ProgramLog::open);
        // Type information that attaching needed has just been freed.
        release_freed_memory();
        LoadedBpf { statuses: self.statuses, losses, log, ebpf }
    }
}

impl LoadedBpf {
    /// Status of each probe.
    pub fn statuses(&self) -> &[ProbeStatus] {
        &self.statuses
    }

    /// Totals of the losses that BPF programs count; empty without BPF.
    pub fn losses(&self) -> impl Iterator<Item = (Loss, u64)> + '_ {
        let counted = self.losses.iter().flat_map(|losses| {
            Loss::VARIANTS.iter().take(Loss::COUNTED_BY_BPF).map(move |&loss| (losses, loss))
        });
        counted.filter_map(|(losses, loss)| {
            Some((loss, losses.get(&(loss as u32), 0).ok()?.iter().sum()))
        })
    }

    /// Logs what the programs have logged since the last call.
    pub fn flush_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }

    /// Programs of the object by name, loaded or not.
    pub fn programs(&self) -> impl Iterator<Item = (&str, &Program)> {
        self.ebpf.iter().flat_map(Ebpf::programs)
    }
}

fn try_load(
    options: &LoadOptions,
    chains: &[&FallbackChain],
) -> Result<(LoadedObject, KernelFeatures), Unavailable> {
    may_use_bpf()?;
    let traced: Vec<&'static str> = chains
        .iter()
        .flat_map(|chain| chain.fallbacks)
        .flat_map(|fallback| fallback.needs)
        .filter_map(|need| if let Need::Function(name) = *need { Some(name) } else { None })
        .collect();
    // The kernel's type information takes some 6 MiB, which are freed before the maps are made.
    let (found, mut features, parameters, outline) = {
        let btf = btf::Btf::from_file(BTF_PATH).map_err(|error| {
            let reason = format!("{BTF_PATH} cannot be read ({error}): the kernel has no BTF");
            Unavailable::new(Cause::Unsupported, reason)
        })?;
        let parameters = traced
            .iter()
            .filter_map(|&name| Some((name, btf_offsets::parameters_of(&btf, name)?)))
            .collect();
        let found = btf_offsets::find(&btf, options.memory_v1, chains);
        let outline = btf.outline(|kind, name| is_attached_to(kind, name, &traced));
        (found, features::find(&btf, chains), parameters, outline)
    };
    features.ruled_out = found.ruled_out;
    for &hook in &options.unwanted {
        features.ruled_out.insert(hook, Unavailable::new(Cause::Unwanted, "it is not wanted"));
    }
    raise_memlock();
    let offsets =
        Offsets { init_netns: initial_network_namespace(), cpus: possible_cpus(), ..found.offsets };
    let mut loader = EbpfLoader::new();
    // By default it reads all of the kernel's type information, which our programs do not need.
    loader.btf(None);
    release_freed_memory();
    let (offsets_global, log_level) = (SharedStruct(offsets), ProgramLog::level());
    if log_level == 0 {
        loader.map_max_entries(program_log::RING, program_log::UNUSED_RING_BYTES);
    }
    let ebpf = loader
        .override_global("OFFSETS", &offsets_global, true)
        .override_global(program_log::LEVEL, &log_level, true)
        .load(OBJECT)
        .map_err(|error| error::of("BPF maps", &error))?;
    let btf = Btf::parse(&outline, Endianness::default())
        .map_err(|error| error::of("type information", &error))?;
    Ok((LoadedObject { ebpf, btf, offsets, parameters }, features))
}

/// Returns whether programs attach to this type: an iterator, a tracepoint or a traced function.
fn is_attached_to(kind: btf::BtfKind, name: &[u8], traced: &[&str]) -> bool {
    match kind {
        btf::BtfKind::Typedef => name.starts_with(b"btf_trace_"),
        btf::BtfKind::Func => {
            name.starts_with(b"bpf_iter_") || traced.iter().any(|traced| traced.as_bytes() == name)
        }
        _ => false,
    }
}

fn may_use_bpf() -> Result<(), Unavailable> {
    if OBJECT.is_empty() {
        return Err(Unavailable::new(
            Cause::Unsupported,
            "this agent was built without its BPF programs, which only `cargo xtask build` builds",
        ));
    }
    if !in_initial_pid_namespace() {
        return Err(Unavailable::new(
            Cause::Refused,
            "the agent runs in a pid namespace of its own, in which /proc and the kernel number \
             processes differently; share the host's (hostPID: true, --pid=host)",
        ));
    }
    Ok(())
}

/// Iterators and tracepoints report a process by its pid in the initial namespace; in another one
/// that number belongs to another process, or to none. A host without pid namespaces has only the
/// initial one.
fn in_initial_pid_namespace() -> bool {
    fs::metadata("/proc/self/ns/pid")
        .map_or(true, |namespace| namespace.ino() == INITIAL_PID_NAMESPACE)
}

/// Returns the network namespace of pid 1, or the agent's own if that may not be read.
fn initial_network_namespace() -> u32 {
    let namespace = fs::metadata("/proc/1/ns/net").or_else(|_| fs::metadata("/proc/self/ns/net"));
    namespace.map_or(0, |namespace| namespace.ino() as u32)
}

/// Returns the number of CPUs that this kernel can have, those that are missing included, or the
/// most that are supported if it is unknown.
fn possible_cpus() -> u32 {
    fs::read_to_string("/sys/devices/system/cpu/possible")
        .ok()
        .and_then(|ranges| end_of(&ranges))
        .map_or(CPUS_MAX as u32, |cpus| cpus.min(CPUS_MAX as u32))
}

/// Parses ranges of CPUs, such as `0-3,8`: returns the number after the last.
fn end_of(ranges: &str) -> Option<u32> {
    ranges.trim().rsplit([',', '-']).next()?.parse::<u32>().ok()?.checked_add(1)
}

/// Raises the agent's own limit on locked memory, against which kernels before 5.11 count maps. If
/// even that is not allowed, the error of creating the maps says so.
fn raise_memlock() {
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, libc::RLIM_INFINITY, libc::RLIM_INFINITY).or_else(
        |_| {
            let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
            setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard)
        },
    );
}

/// Returns freed pages to the kernel: reading type information takes tens of MiB, and the allocator
/// keeps them otherwise.
fn release_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function takes a number and locks the allocator itself.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_cpus_end_after_the_last() {
        assert_eq!(end_of("0-7\n"), Some(8));
        assert_eq!(end_of("0\n"), Some(1));
        assert_eq!(end_of("0-3,8,16-31\n"), Some(32));
        assert_eq!(end_of("0-4294967295\n"), None);
        assert_eq!(end_of("\n"), None);
    }
}
