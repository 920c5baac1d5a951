//! Births and deaths of processes.

use aya::maps::{MapData, RingBuf};
use spillway_ebpf::{LIFE_EXEC, LIFE_EXIT, LIFE_FORK, LifeSample};

use super::{
    Fact, Loss, LossCounters,
    process_memory::{ns_per_tick, sample_id},
};
use crate::bpf::decode;

/// How many births and deaths there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessEventTotals {
    /// Processes forked.
    pub forks: u64,
    /// Program images replaced.
    pub execs: u64,
    /// Processes gone.
    pub exits: u64,
}

/// Reads births and deaths from the kernel's ring.
pub struct ProcessEventSensor {
    ring: RingBuf<MapData>,
    ns_per_tick: u64,
    totals: ProcessEventTotals,
}

impl ProcessEventSensor {
    /// A sensor over the probe's ring.
    pub fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring, ns_per_tick: ns_per_tick(), totals: ProcessEventTotals::default() }
    }

    /// Totals so far.
    pub fn totals(&self) -> ProcessEventTotals {
        self.totals
    }

    /// Empties the ring, and hands each fact to `each`. A birth is counted only: the next scan sees
    /// the process whole.
    pub fn drain(&mut self, lost: &mut LossCounters, mut each: impl FnMut(Fact)) {
        while let Some(item) = self.ring.next() {
            let Some(sample) = decode::<LifeSample>(&item).next() else {
                lost.count(Loss::ShortRead);
                continue;
            };
            let id = sample_id(sample.pid, sample.start_boottime_ns, self.ns_per_tick);
            match sample.kind {
                LIFE_FORK => self.totals.forks += 1,
                LIFE_EXEC => {
                    self.totals.execs += 1;
                    each(Fact::Exec(id));
                }
                LIFE_EXIT => {
                    self.totals.exits += 1;
                    each(Fact::Exit(id));
                }
                _ => lost.count(Loss::UnknownSample),
            }
        }
    }
}
