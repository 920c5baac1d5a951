//! Where a process grows: the user stacks of its latest page-fault samples.
//!
//! The counts come with every scan of processes; the stacks are fetched only for a process that
//! matters.

use spillway_ebpf::FAULT_STACKS_KEPT;

use crate::bpf::FaultMaps;

/// Fetches the stacks of a process's latest samples.
pub struct PageFaultSensor {
    maps: FaultMaps,
}

impl PageFaultSensor {
    /// A sensor over the probe's maps.
    pub fn new(maps: FaultMaps) -> Self {
        Self { maps }
    }

    /// Samples taken in this process so far, and the return addresses of its latest stacks,
    /// innermost first.
    pub fn of_process(&self, pid: u32) -> (u64, Vec<Vec<u64>>) {
        let Ok(count) = self.maps.counts.get(&pid, 0) else { return (0, Vec::new()) };
        let mut stacks = Vec::with_capacity(FAULT_STACKS_KEPT);
        for id in count.0.stacks.iter().filter_map(|id| id.checked_sub(1)) {
            if let Ok(stack) = self.maps.stacks.get(&id, 0) {
                stacks.push(stack.frames().iter().map(|frame| frame.ip).collect());
            }
        }
        (count.0.samples, stacks)
    }
}
