//! Kernel features, read from the kernel's type information or tried with a program that does
//! nothing.

use std::io;

use aya::{programs::ProgramType, sys::is_program_supported};

use super::{
    btf::{Btf, BtfKind},
    error,
    fallbacks::{Cause, FallbackChain, KernelFeatures, Need, ProgramKind, Unavailable},
};

/// Checks every requirement of the chains, except other probes: the loader knows of them only once
/// it has attached them.
pub(super) fn find(btf: &Btf, chains: &[&FallbackChain]) -> KernelFeatures {
    let mut features = KernelFeatures::default();
    let fallbacks = chains.iter().flat_map(|chain| chain.fallbacks);
    for &need in fallbacks.flat_map(|fallback| fallback.needs) {
        if !features.lacks.contains_key(&need)
            && let Some(reason) = missing(need, btf)
        {
            features.lacks.insert(need, reason);
        }
    }
    features
}

fn missing(need: Need, btf: &Btf) -> Option<Unavailable> {
    let has = |kind, name: &str| btf.find(kind, name).is_some();
    let (is_there, what) = match need {
        Need::Iterator(of) => {
            (has(BtfKind::Struct, &format!("bpf_iter__{of}")), format!("iterator over {of}"))
        }
        Need::Tracepoint(name) => {
            (has(BtfKind::Typedef, &format!("btf_trace_{name}")), format!("tracepoint {name}"))
        }
        Need::Function(name) => (has(BtfKind::Func, name), format!("function {name} to trace")),
        Need::Programs(kind) => return programs(kind),
        Need::Probe(_) => return None,
    };
    (!is_there).then(|| Unavailable::new(Cause::Unsupported, format!("this kernel has no {what}")))
}

fn programs(kind: ProgramKind) -> Option<Unavailable> {
    let (program, what) = match kind {
        ProgramKind::RawTracepoint => (ProgramType::RawTracePoint, "raw tracepoint programs"),
        ProgramKind::Kprobe => (ProgramType::KProbe, "kprobe programs"),
        ProgramKind::PerfEvent => (ProgramType::PerfEvent, "perf event programs"),
    };
    match is_program_supported(program) {
        // Tracepoints run programs of this type too, so a kernel without kprobes may accept them.
        Ok(true) if kind == ProgramKind::Kprobe => kprobes(),
        Ok(true) => None,
        Ok(false) => {
            Some(Unavailable::new(Cause::Unsupported, format!("this kernel has no {what}")))
        }
        Err(error) => Some(error::of(what, &error)),
    }
}

/// Checks the performance monitoring unit through which kprobes are attached, which needs no
/// tracefs.
fn kprobes() -> Option<Unavailable> {
    const UNIT: &str = "/sys/bus/event_source/devices/kprobe/type";
    match std::fs::metadata(UNIT) {
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some(Unavailable::new(Cause::Unsupported, "this kernel has no kprobes"))
        }
        Err(error) => Some(error::of_io(UNIT, &error)),
    }
}
