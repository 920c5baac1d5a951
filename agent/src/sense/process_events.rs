//! Forks, execs and exits of processes.

use std::io;

use aya::maps::{MapData, RingBuf};
use spillway_ebpf::{LIFE_EXEC, LIFE_EXIT, LIFE_FORK, LifeSample};

use super::{
    Fact, Loss, LossCounters,
    process_memory::{ns_per_tick, sample_id},
    sensor::{Observations, Schedule, Sensor},
};
use crate::bpf::{
    Fallback, FallbackChain, Hook, Loader, Need, Probe, ProgramKind, btf_offsets::members, decode,
    kernel_offset::KernelOffset,
};

/// Numbers of process events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessEventTotals {
    /// Processes forked.
    pub forks: u64,
    /// Program images replaced.
    pub execs: u64,
    /// Processes ended.
    pub exits: u64,
}

/// Reads process events from the kernel's ring buffer.
pub struct ProcessEventSensor {
    ring: RingBuf<MapData>,
    ns_per_tick: u64,
    totals: ProcessEventTotals,
}

const READS: &[KernelOffset] = &[
    members::TASK_TGID,
    members::TASK_PID,
    members::TASK_GROUP_LEADER,
    members::TASK_START_BOOTTIME,
    members::TASK_SIGNAL,
    members::SIGNAL_LIVE,
];

impl ProcessEventSensor {
    /// BTF tracepoints.
    pub const BTF: Hook = Hook::new("life_btf");
    /// Raw tracepoints.
    pub const RAW: Hook = Hook::new("life_raw");

    /// Sources of process events.
    pub const PROBE: FallbackChain = FallbackChain {
        probe: Probe::ProcessLife,
        fallbacks: &[
            Fallback::bpf(
                Self::BTF,
                "tp_btf sched_process_{fork,exec,exit}",
                &[
                    Need::Tracepoint("sched_process_fork"),
                    Need::Tracepoint("sched_process_exec"),
                    Need::Tracepoint("sched_process_exit"),
                ],
            )
            .reading(READS),
            Fallback::bpf(
                Self::RAW,
                "raw_tp sched_process_{fork,exec,exit}",
                &[Need::Programs(ProgramKind::RawTracepoint)],
            )
            .reading(READS),
            Fallback::without_bpf(Hook::new("life_scans"), "comparing scans")
                .lacking("what lives and dies between two scans is not seen"),
        ],
    };

    /// Attaches the tracepoints; `None` if events are only seen by comparing scans.
    pub fn start(bpf: &mut Loader) -> Option<Self> {
        let ring = bpf.attach(&Self::PROBE, |context, hook| {
            for event in ["fork", "exec", "exit"] {
                let tracepoint = format!("sched_process_{event}");
                if hook == Self::BTF {
                    context.btf_tracepoint(&format!("process_{event}"), &tracepoint)?;
                } else {
                    context.raw_tracepoint(&format!("process_{event}_raw"), &tracepoint)?;
                }
            }
            context.take("LIFE")
        })?;
        Some(Self { ring, ns_per_tick: ns_per_tick(), totals: ProcessEventTotals::default() })
    }

    /// Totals so far.
    pub fn totals(&self) -> ProcessEventTotals {
        self.totals
    }

    /// Empties the ring buffer. A fork is only counted: the next scan sees the process.
    fn drain(&mut self, losses: &mut LossCounters, mut push: impl FnMut(Fact)) {
        while let Some(item) = self.ring.next() {
            let Some(sample) = decode::<LifeSample>(&item).next() else {
                losses.count(Loss::ShortRead);
                continue;
            };
            let id = sample_id(sample.pid, sample.start_boottime_ns, self.ns_per_tick);
            match sample.kind {
                LIFE_FORK => self.totals.forks += 1,
                LIFE_EXEC => {
                    self.totals.execs += 1;
                    push(Fact::Exec(id));
                }
                LIFE_EXIT => {
                    self.totals.exits += 1;
                    push(Fact::Exit(id));
                }
                _ => losses.count(Loss::UnknownSample),
            }
        }
    }
}

impl Sensor for ProcessEventSensor {
    fn schedule(&self) -> Schedule {
        Schedule::Events
    }

    fn failure(&self) -> Loss {
        Loss::ShortRead
    }

    fn read(&mut self, _: f64, out: &mut Observations<'_>) -> io::Result<()> {
        let (losses, push) = out.split();
        self.drain(losses, push);
        Ok(())
    }
}
