//! What this kernel offers, as far as the ladders ask: looked up in its type information, or tried
//! with a program that does nothing.

use std::io;

use aya::{programs::ProgramType, sys::is_program_supported};

use super::{
    btf::{Btf, BtfKind},
    error,
    fallbacks::{Cause, FALLBACK_CHAINS, KernelFeatures, Need, ProgramKind, Unavailable},
};

/// Asks for every need in the table, hooks of other probes apart: see [`Offer::rule_on_listeners`].
pub(super) fn find(btf: &Btf) -> KernelFeatures {
    let mut offer = KernelFeatures::default();
    let needs = FALLBACK_CHAINS.iter().flat_map(|ladder| ladder.rungs).flat_map(|rung| rung.needs);
    for &need in needs {
        if !offer.lacks.contains_key(&need)
            && let Some(shortfall) = shortfall(need, btf)
        {
            offer.lacks.insert(need, shortfall);
        }
    }
    offer
}

fn shortfall(need: Need, btf: &Btf) -> Option<Unavailable> {
    let has = |kind, name: &str| btf.find(kind, name).is_some();
    let (there, what) = match need {
        Need::Iterator(of) => {
            (has(BtfKind::Struct, &format!("bpf_iter__{of}")), format!("iterator over {of}"))
        }
        Need::Tracepoint(name) => {
            (has(BtfKind::Typedef, &format!("btf_trace_{name}")), format!("tracepoint {name}"))
        }
        Need::Function(name) => (has(BtfKind::Func, name), format!("function {name} to trace")),
        Need::Programs(kind) => return programs(kind),
        Need::Hook(_) => return None,
    };
    (!there).then(|| Unavailable::new(Cause::Unsupported, format!("this kernel has no {what}")))
}

fn programs(kind: ProgramKind) -> Option<Unavailable> {
    let (program, what) = match kind {
        ProgramKind::RawTracepoint => (ProgramType::RawTracePoint, "raw tracepoint programs"),
        ProgramKind::Kprobe => (ProgramType::KProbe, "kprobe programs"),
        ProgramKind::PerfEvent => (ProgramType::PerfEvent, "perf event programs"),
    };
    match is_program_supported(program) {
        // Programs of this type are also what tracepoints run: whether there are kprobes is another
        // question.
        Ok(true) if kind == ProgramKind::Kprobe => kprobes(),
        Ok(true) => None,
        Ok(false) => {
            Some(Unavailable::new(Cause::Unsupported, format!("this kernel has no {what}")))
        }
        Err(error) => Some(error::of(what, &error)),
    }
}

/// The performance unit through which kprobes are attached; it needs no tracefs.
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
