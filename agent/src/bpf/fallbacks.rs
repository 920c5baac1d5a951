//! Selection of the source that a probe reads.
//!
//! Each sensor declares its probe as a [`FallbackChain`]: the hooks and files that answer its
//! question, best first. [`select`] chooses, as a pure function of what the kernel offers and what
//! failed when it was tried. Every fallback that is passed over keeps its reason.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Probe, kernel_offset::KernelOffset};

/// Identity of a fallback: the name of its hook or source, unique among all probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hook(&'static str);

impl Hook {
    /// Creates the identity of a fallback.
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }
}

/// A requirement of a fallback, besides the struct members that its programs read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// An iterator, by the name of what it walks.
    Iterator(&'static str),
    /// A tracepoint, by name.
    Tracepoint(&'static str),
    /// A kernel function that can be traced.
    Function(&'static str),
    /// Permission to load programs of a kind. Not used for iterators, BTF tracepoints and
    /// trampolines: a trial would cost as much as the attempt.
    Programs(ProgramKind),
    /// Another probe that runs on BPF.
    Probe(Probe),
}

/// Kinds of BPF programs that are tried before they are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProgramKind {
    /// Raw tracepoints.
    RawTracepoint,
    /// Kprobes.
    Kprobe,
    /// Perf events.
    PerfEvent,
}

/// One source for a probe, and its requirements.
#[derive(Debug, Clone, Copy)]
pub struct Fallback {
    /// Identity.
    pub hook: Hook,
    /// Description for people: the hook it attaches to, or the file it reads.
    pub at: &'static str,
    /// Set if it loads BPF programs of its own.
    pub is_bpf: bool,
    /// Requirements.
    pub needs: &'static [Need],
    /// Offsets that its programs cannot do without.
    pub reads: &'static [KernelOffset],
    /// Offsets of evidence that its programs leave out if the kernel lacks it.
    pub may_read: &'static [KernelOffset],
    /// Flag of `spillway_ebpf` by which the hook on socket states serves it; 0 for none.
    pub watches: u32,
    /// Loss against the better fallbacks; `None` if nothing is lost.
    pub lacks: Option<&'static str>,
}

/// A probe and its fallbacks, best first.
#[derive(Debug, Clone, Copy)]
pub struct FallbackChain {
    /// Probe.
    pub probe: Probe,
    /// Fallbacks, in the order in which they are tried.
    pub fallbacks: &'static [Fallback],
}

impl Fallback {
    /// Creates a fallback that loads BPF programs.
    pub const fn bpf(hook: Hook, at: &'static str, needs: &'static [Need]) -> Self {
        Self { is_bpf: true, needs, ..Self::without_bpf(hook, at) }
    }

    /// Creates a fallback that loads no BPF programs of its own.
    pub const fn without_bpf(hook: Hook, at: &'static str) -> Self {
        Self {
            hook,
            at,
            is_bpf: false,
            needs: &[],
            reads: &[],
            may_read: &[],
            watches: 0,
            lacks: None,
        }
    }

    /// Sets the requirements.
    pub const fn needing(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }

    /// Sets the offsets that the programs cannot do without.
    pub const fn reading(self, reads: &'static [KernelOffset]) -> Self {
        Self { reads, ..self }
    }

    /// Sets the offsets that the programs leave out if the kernel lacks them.
    pub const fn reading_if_present(self, may_read: &'static [KernelOffset]) -> Self {
        Self { may_read, ..self }
    }

    /// Sets the flag by which the hook on socket states serves this fallback.
    pub const fn watching(self, watches: u32) -> Self {
        Self { watches, ..self }
    }

    /// Sets the loss against the better fallbacks.
    pub const fn lacking(self, lacks: &'static str) -> Self {
        Self { lacks: Some(lacks), ..self }
    }
}

/// Reason category for passing over a fallback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Cause {
    /// This kernel lacks a requirement.
    Unsupported,
    /// This kernel has it, but does not permit it.
    Refused,
    /// It should work but does not: a bug in the agent or in the kernel.
    Broken,
    /// The caller asked not to use it.
    Unwanted,
}

/// A fallback's obstacle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unavailable {
    /// Category.
    pub why: Cause,
    /// Sentence that can follow "because".
    pub reason: String,
}

impl Unavailable {
    /// Creates an obstacle.
    pub fn new(why: Cause, reason: impl Into<String>) -> Self {
        Self { why, reason: reason.into() }
    }
}

/// Features of the kernel, as far as the chains need them.
#[derive(Debug, Clone, Default)]
pub struct KernelFeatures {
    /// Reason that BPF cannot be used at all; `None` if it can.
    pub no_bpf: Option<Unavailable>,
    /// Requirements that are not met.
    pub lacks: BTreeMap<Need, Unavailable>,
    /// Fallbacks that cannot be used whatever their requirements: a struct member is missing, an
    /// attempt failed, or the caller does not want them.
    pub ruled_out: BTreeMap<Hook, Unavailable>,
}

impl KernelFeatures {
    /// Records that a probe does not run on BPF, so that fallbacks which need it are passed over.
    pub fn rule_out_dependents(&mut self, probe: Probe) {
        let reason = self.no_bpf.clone().unwrap_or_else(|| {
            let reason = format!("probe {} does not use BPF", probe.name());
            Unavailable::new(Cause::Unsupported, reason)
        });
        self.lacks.insert(Need::Probe(probe), reason);
    }
}

/// A fallback that is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// Hook that it would attach to, or file that it would read.
    pub at: &'static str,
    /// Reason that it cannot be used.
    #[serde(flatten)]
    pub shortfall: Unavailable,
}

/// Returns the first fallback that has no obstacle, and those above it; `None` if every one has.
pub fn select<'a>(
    fallbacks: &'a [Fallback],
    features: &KernelFeatures,
) -> (Option<&'a Fallback>, Vec<Passed>) {
    let mut passed = Vec::new();
    for fallback in fallbacks {
        match obstacle(fallback, features) {
            None => return (Some(fallback), passed),
            Some(why) => passed.push(Passed { at: fallback.at, shortfall: why.clone() }),
        }
    }
    (None, passed)
}

fn obstacle<'a>(fallback: &Fallback, features: &'a KernelFeatures) -> Option<&'a Unavailable> {
    let no_bpf = features.no_bpf.as_ref().filter(|_| fallback.is_bpf);
    no_bpf
        .or_else(|| fallback.needs.iter().find_map(|need| features.lacks.get(need)))
        .or_else(|| features.ruled_out.get(&fallback.hook))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEST: Hook = Hook::new("best");
    const CHAIN: &[Fallback] = &[
        Fallback::bpf(BEST, "iter/task", &[Need::Iterator("task")]),
        Fallback::bpf(Hook::new("kprobe"), "kprobe", &[Need::Programs(ProgramKind::Kprobe)]),
        Fallback::without_bpf(Hook::new("head"), "head").needing(&[Need::Probe(Probe::UnixQueue)]),
        Fallback::without_bpf(Hook::new("proc"), "/proc").lacking("it is slow"),
    ];

    fn taken(features: &KernelFeatures) -> (&'static str, Vec<Cause>) {
        let (fallback, passed) = select(CHAIN, features);
        (fallback.unwrap().at, passed.iter().map(|one| one.shortfall.why).collect())
    }

    #[test]
    fn kernel_with_every_feature_gets_the_first_fallback() {
        assert_eq!(taken(&KernelFeatures::default()), ("iter/task", vec![]));
    }

    #[test]
    fn failed_fallback_leaves_the_next_and_its_reason() {
        let broken = Unavailable::new(Cause::Broken, "the verifier rejected it");
        let mut features = KernelFeatures::default();
        features.ruled_out.insert(BEST, broken.clone());
        let (fallback, passed) = select(CHAIN, &features);
        assert_eq!(fallback.map(|fallback| fallback.at), Some("kprobe"));
        assert_eq!(passed, [Passed { at: "iter/task", shortfall: broken }]);
        let no_kprobes = Unavailable::new(Cause::Unsupported, "no kprobes");
        features.lacks.insert(Need::Programs(ProgramKind::Kprobe), no_kprobes);
        assert_eq!(taken(&features), ("head", vec![Cause::Broken, Cause::Unsupported]));
    }

    #[test]
    fn without_bpf_only_independent_fallbacks_remain() {
        let mut features = KernelFeatures {
            no_bpf: Some(Unavailable::new(Cause::Refused, "bpf() is denied")),
            ..KernelFeatures::default()
        };
        features.rule_out_dependents(Probe::UnixQueue);
        assert_eq!(taken(&features), ("/proc", vec![Cause::Refused; 3]));
    }
}
