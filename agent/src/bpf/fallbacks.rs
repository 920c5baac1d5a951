//! Which hook each probe tries, in what order, and which it gets.
//!
//! [`LADDERS`] is the whole table: a probe is a row, a way to the same knowledge is a rung of it.
//! [`climb`] chooses, purely, over what the kernel was found to offer and what failed when it was
//! tried. Every rung that is passed over keeps its reason.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Probe;

/// A way to what a probe wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// `iter/task`, with the per-CPU parts of the counts of those that grow.
    TaskIter,
    /// `iter/task`, with plain counts.
    TaskIterPlain,
    /// A scan of `/proc`.
    Proc,
    /// The perf software event.
    PageFaultEvent,
    /// BTF tracepoints.
    LifeBtf,
    /// Raw tracepoints.
    LifeRaw,
    /// What two scans show.
    LifeScans,
    /// `iter/task_file`.
    HandleIter,
    /// A scan of `/proc`.
    HandleProc,
    /// Iterators over known listeners.
    ListenerIter,
    /// Netlink.
    SockDiag,
    /// Iterators over known UNIX listeners.
    UnixIter,
    /// Netlink.
    UnixDiag,
    /// A trampoline at the exit of accept().
    AcceptFexit,
    /// Breakpoints on the way of accept().
    AcceptKprobe,
    /// The time of the connection at the queue's head.
    QueueHead,
    /// The states that connecting sockets go through.
    ConnectStates,
}

/// What a rung cannot do without, beside the struct members that `offsets` lists for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// An iterator, by the name of what it walks.
    Iterator(&'static str),
    /// A tracepoint, by name.
    Tracepoint(&'static str),
    /// A kernel function that can be traced.
    Function(&'static str),
    /// That programs of a kind may be loaded. Iterators, BTF tracepoints and trampolines are
    /// not asked for so: a trial would cost as much as the attempt.
    Programs(ProgramKind),
    /// That another probe got this.
    Hook(Hook),
}

/// Kinds of BPF programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProgramKind {
    /// Raw tracepoints.
    RawTracepoint,
    /// Kprobes.
    Kprobe,
    /// Perf events.
    PerfEvent,
}

/// One way, and what it takes.
#[derive(Debug)]
pub struct Fallback {
    /// Which.
    pub hook: Hook,
    /// Where it attaches or what it reads, for people.
    pub at: &'static str,
    /// What it cannot do without.
    pub needs: &'static [Need],
    /// What is lost against the rungs above; `None` where nothing is.
    pub lacks: Option<&'static str>,
}

/// A probe and its rungs, the best first.
#[derive(Debug)]
pub struct FallbackChain {
    /// Which probe.
    pub probe: Probe,
    /// In the order in which they are tried.
    pub rungs: &'static [Fallback],
}

/// Every probe's ladder. A later row may need what an earlier one got.
pub const FALLBACK_CHAINS: &[FallbackChain] = &[
    FallbackChain {
        probe: Probe::ProcessMemory,
        rungs: &[
            rung(Hook::TaskIter, "iter/task", &[Need::Iterator("task"), Need::Iterator("bpf_map")]),
            rung(Hook::TaskIterPlain, "iter/task, plain counts", &[Need::Iterator("task")])
                .lacking("counts may be off by some pages a CPU"),
            rung(Hook::Proc, "/proc/PID/{stat,status}", &[])
                .lacking("a scan costs a hundred times as much"),
        ],
    },
    FallbackChain {
        probe: Probe::FaultSamples,
        rungs: &[rung(
            Hook::PageFaultEvent,
            "perf software event PAGE_FAULTS",
            &[Need::Programs(ProgramKind::PerfEvent)],
        )],
    },
    FallbackChain {
        probe: Probe::ProcessLife,
        rungs: &[
            rung(
                Hook::LifeBtf,
                "tp_btf sched_process_{fork,exec,exit}",
                &[
                    Need::Tracepoint("sched_process_fork"),
                    Need::Tracepoint("sched_process_exec"),
                    Need::Tracepoint("sched_process_exit"),
                ],
            ),
            rung(
                Hook::LifeRaw,
                "raw_tp sched_process_{fork,exec,exit}",
                &[Need::Programs(ProgramKind::RawTracepoint)],
            ),
            rung(Hook::LifeScans, "comparing scans", &[])
                .lacking("what lives and dies between two scans is not seen"),
        ],
    },
    FallbackChain {
        probe: Probe::ProcessHandles,
        rungs: &[
            rung(Hook::HandleIter, "iter/task_file", &[Need::Iterator("task_file")]),
            rung(Hook::HandleProc, "/proc/PID/{fd,limits,stat}", &[])
                .lacking("sockets left in CLOSE_WAIT are not seen"),
        ],
    },
    FallbackChain {
        probe: Probe::AcceptQueue,
        rungs: &[
            rung(
                Hook::ListenerIter,
                "iter/bpf_map_elem, iter/task_file, tp_btf inet_sock_set_state",
                &[
                    Need::Iterator("bpf_map_elem"),
                    Need::Iterator("task_file"),
                    Need::Tracepoint("inet_sock_set_state"),
                ],
            ),
            rung(Hook::SockDiag, "sock_diag", &[]).lacking("the age of a queue is not seen"),
        ],
    },
    FallbackChain {
        probe: Probe::UnixQueue,
        rungs: &[
            rung(
                Hook::UnixIter,
                "iter/bpf_map_elem, iter/task_file",
                &[
                    Need::Hook(Hook::ListenerIter),
                    Need::Iterator("bpf_map_elem"),
                    Need::Iterator("task_file"),
                ],
            ),
            rung(Hook::UnixDiag, "sock_diag", &[])
                .lacking("a look costs by the number of UNIX sockets"),
        ],
    },
    FallbackChain {
        probe: Probe::AcceptSojourn,
        rungs: &[
            rung(
                Hook::AcceptFexit,
                "fexit inet_csk_accept",
                &[Need::Hook(Hook::ListenerIter), Need::Function("inet_csk_accept")],
            ),
            rung(
                Hook::AcceptKprobe,
                "kprobes inet_csk_accept, security_sock_graft",
                &[
                    Need::Hook(Hook::ListenerIter),
                    Need::Programs(ProgramKind::Kprobe),
                    Need::Function("inet_csk_accept"),
                    Need::Function("security_sock_graft"),
                ],
            ),
            rung(Hook::QueueHead, "age of the queue's head", &[Need::Hook(Hook::ListenerIter)])
                .lacking("only the connection that waits longest is timed"),
        ],
    },
    FallbackChain {
        probe: Probe::OutboundConnects,
        rungs: &[rung(
            Hook::ConnectStates,
            "tp_btf inet_sock_set_state",
            &[Need::Tracepoint("inet_sock_set_state")],
        )],
    },
];

/// The rungs of a probe, the best first.
pub fn of(probe: Probe) -> &'static [Fallback] {
    FALLBACK_CHAINS.iter().find(|ladder| ladder.probe == probe).map_or(&[], |ladder| ladder.rungs)
}

const fn rung(hook: Hook, at: &'static str, needs: &'static [Need]) -> Fallback {
    Fallback { hook, at, needs, lacks: None }
}

impl Fallback {
    const fn lacking(self, what: &'static str) -> Self {
        Self { lacks: Some(what), ..self }
    }
}

impl Hook {
    /// Whether it takes BPF programs of its own.
    pub fn is_bpf(self) -> bool {
        !matches!(
            self,
            Self::Proc
                | Self::LifeScans
                | Self::HandleProc
                | Self::SockDiag
                | Self::UnixDiag
                | Self::QueueHead
        )
    }
}

/// Why a rung is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// This kernel has no such thing.
    Unsupported,
    /// It has, and does not let us.
    Refused,
    /// It should work and does not: a bug here or there.
    Broken,
    /// It was asked not to be used.
    Unwanted,
}

/// What keeps a rung from being taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unavailable {
    /// Its kind.
    pub why: Cause,
    /// In words, to go after "because".
    pub reason: String,
}

impl Unavailable {
    /// A shortfall of a kind, in words.
    pub fn new(why: Cause, reason: impl Into<String>) -> Self {
        Self { why, reason: reason.into() }
    }
}

/// What the kernel offers, as far as the table asks.
#[derive(Debug, Clone, Default)]
pub struct KernelFeatures {
    /// Why BPF cannot be used at all; `None` where it can.
    pub no_bpf: Option<Unavailable>,
    /// Needs that are not met.
    pub lacks: BTreeMap<Need, Unavailable>,
    /// Hooks that cannot be used whatever their needs: a member of a struct is missing, an attempt
    /// failed, nobody wants it.
    pub ruled_out: BTreeMap<Hook, Unavailable>,
}

impl KernelFeatures {
    /// Takes note of what watches accept queues: what follows accept() needs the listeners to be
    /// known.
    pub fn rule_on_listeners(&mut self, taken: Option<Hook>) {
        if taken != Some(Hook::ListenerIter) {
            let shortfall = match &self.no_bpf {
                Some(whole) => whole.clone(),
                None => Unavailable::new(Cause::Unsupported, "listeners are not walked by BPF"),
            };
            self.lacks.insert(Need::Hook(Hook::ListenerIter), shortfall);
        }
    }
}

/// A rung that is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// Where it would attach.
    pub at: &'static str,
    /// Why it does not.
    #[serde(flatten)]
    pub shortfall: Unavailable,
}

/// The first rung that nothing speaks against, and those above it. `None` where the ladder ends.
pub fn select<'a>(
    rungs: &'a [Fallback],
    offer: &KernelFeatures,
) -> (Option<&'a Fallback>, Vec<Passed>) {
    let mut passed = Vec::new();
    for rung in rungs {
        match shortfall(rung, offer) {
            None => return (Some(rung), passed),
            Some(shortfall) => passed.push(Passed { at: rung.at, shortfall: shortfall.clone() }),
        }
    }
    (None, passed)
}

fn shortfall<'a>(rung: &Fallback, offer: &'a KernelFeatures) -> Option<&'a Unavailable> {
    let whole = offer.no_bpf.as_ref().filter(|_| rung.hook.is_bpf());
    whole
        .or_else(|| rung.needs.iter().find_map(|need| offer.lacks.get(need)))
        .or_else(|| offer.ruled_out.get(&rung.hook))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(probe: Probe, offer: &KernelFeatures) -> Option<Hook> {
        select(of(probe), offer).0.map(|rung| rung.hook)
    }

    fn lacking(need: Need, why: Cause) -> KernelFeatures {
        KernelFeatures {
            lacks: BTreeMap::from([(need, Unavailable::new(why, "of this test"))]),
            ..KernelFeatures::default()
        }
    }

    #[test]
    fn every_probe_has_one_ladder_and_every_hook_one_rung() {
        let probes: Vec<_> = FALLBACK_CHAINS.iter().map(|ladder| ladder.probe).collect();
        assert_eq!(probes, Probe::VARIANTS);
        let mut hooks: Vec<_> =
            FALLBACK_CHAINS.iter().flat_map(|ladder| ladder.rungs).map(|rung| rung.hook).collect();
        let count = hooks.len();
        hooks.sort();
        hooks.dedup();
        assert_eq!(hooks.len(), count);
    }

    #[test]
    fn a_kernel_that_offers_all_gets_the_first_rungs() {
        for ladder in FALLBACK_CHAINS {
            let (rung, passed) = select(ladder.rungs, &KernelFeatures::default());
            assert_eq!(rung.map(|rung| rung.hook), Some(ladder.rungs[0].hook));
            assert_eq!(passed, []);
        }
    }

    #[test]
    fn without_bpf_only_what_needs_none_is_left() {
        let offer = KernelFeatures {
            no_bpf: Some(Unavailable::new(Cause::Refused, "bpf() is denied")),
            ..KernelFeatures::default()
        };
        assert_eq!(taken(Probe::ProcessMemory, &offer), Some(Hook::Proc));
        assert_eq!(taken(Probe::FaultSamples, &offer), None);
        assert_eq!(taken(Probe::ProcessLife, &offer), Some(Hook::LifeScans));
        assert_eq!(taken(Probe::AcceptQueue, &offer), Some(Hook::SockDiag));
        assert_eq!(taken(Probe::UnixQueue, &offer), Some(Hook::UnixDiag));
        assert_eq!(taken(Probe::OutboundConnects, &offer), None);
    }

    #[test]
    fn a_rung_that_failed_leaves_the_next_and_its_reason() {
        let broken = Unavailable::new(Cause::Broken, "the verifier rejected it");
        let offer = KernelFeatures {
            ruled_out: BTreeMap::from([(Hook::TaskIter, broken.clone())]),
            ..KernelFeatures::default()
        };
        let (rung, passed) = select(of(Probe::ProcessMemory), &offer);
        assert_eq!(rung.map(|rung| rung.hook), Some(Hook::TaskIterPlain));
        assert_eq!(passed, [Passed { at: "iter/task", shortfall: broken }]);
    }

    #[test]
    fn a_kernel_without_kprobes_and_trampolines_gets_the_head_of_the_queue() {
        let mut offer = lacking(Need::Programs(ProgramKind::Kprobe), Cause::Unsupported);
        assert_eq!(taken(Probe::AcceptSojourn, &offer), Some(Hook::AcceptFexit));
        offer.ruled_out.insert(Hook::AcceptFexit, Unavailable::new(Cause::Refused, "EPERM"));
        let (rung, passed) = select(of(Probe::AcceptSojourn), &offer);
        assert_eq!(rung.map(|rung| rung.hook), Some(Hook::QueueHead));
        assert_eq!(
            passed.iter().map(|one| one.shortfall.why).collect::<Vec<_>>(),
            [Cause::Refused, Cause::Unsupported]
        );
    }

    #[test]
    fn nothing_times_accept_where_listeners_are_not_walked() {
        let offer = lacking(Need::Hook(Hook::ListenerIter), Cause::Unsupported);
        assert_eq!(taken(Probe::AcceptSojourn, &offer), None);
    }
}
