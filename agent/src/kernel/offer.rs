//! What this kernel offers, as far as the ladders ask: looked up in its type information, or tried with a program that does
//! nothing.

use std::io;

use aya::{programs::ProgramType, sys::is_program_supported};

use super::{
    btf::{Btf, Kind as BtfKind},
    failure,
    ladder::{Kind, LADDERS, Need, Offer, Shortfall, Why},
};

/// Asks for every need in the table, hooks of other probes apart: see [`Offer::rule_on_listeners`].
pub(super) fn find(btf: &Btf) -> Offer {
    let mut offer = Offer::default();
    let needs = LADDERS.iter().flat_map(|ladder| ladder.rungs).flat_map(|rung| rung.needs);
    for &need in needs {
        if !offer.lacks.contains_key(&need)
            && let Some(shortfall) = shortfall(need, btf)
        {
            offer.lacks.insert(need, shortfall);
        }
    }
    offer
}

fn shortfall(need: Need, btf: &Btf) -> Option<Shortfall> {
    let has = |kind, name: &str| btf.find(kind, name).is_some();
    let (there, what) = match need {
        Need::Iterator(of) => (has(BtfKind::Struct, &format!("bpf_iter__{of}")), format!("iterator over {of}")),
        Need::Tracepoint(name) => (has(BtfKind::Typedef, &format!("btf_trace_{name}")), format!("tracepoint {name}")),
        Need::Function(name) => (has(BtfKind::Func, name), format!("function {name} to trace")),
        Need::Programs(kind) => return programs(kind),
        Need::Hook(_) => return None,
    };
    (!there).then(|| Shortfall::new(Why::Unsupported, format!("this kernel has no {what}")))
}

fn programs(kind: Kind) -> Option<Shortfall> {
    let (program, what) = match kind {
        Kind::RawTracepoint => (ProgramType::RawTracePoint, "raw tracepoint programs"),
        Kind::Kprobe => (ProgramType::KProbe, "kprobe programs"),
        Kind::PerfEvent => (ProgramType::PerfEvent, "perf event programs"),
    };
    match is_program_supported(program) {
        // Programs of this type are also what tracepoints run: whether there are kprobes is another question.
        Ok(true) if kind == Kind::Kprobe => kprobes(),
        Ok(true) => None,
        Ok(false) => Some(Shortfall::new(Why::Unsupported, format!("this kernel has no {what}"))),
        Err(error) => Some(failure::of(what, &error)),
    }
}

/// The performance unit through which kprobes are attached; it needs no tracefs.
fn kprobes() -> Option<Shortfall> {
    const UNIT: &str = "/sys/bus/event_source/devices/kprobe/type";
    match std::fs::metadata(UNIT) {
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some(Shortfall::new(Why::Unsupported, "this kernel has no kprobes"))
        }
        Err(error) => Some(failure::of_io(UNIT, &error)),
    }
}
