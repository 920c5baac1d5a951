//! User stacks of the latest page-fault samples of a process: the call paths by which it grows.
//!
//! The number of samples comes with every scan of processes; stacks are fetched only on request.

use std::io;

use aya::{
    maps::{HashMap, MapData, StackTraceMap},
    programs::perf_event::SoftwareEvent,
};
use spillway_ebpf::{FAULT_SAMPLE_PERIOD_PAGES, FAULT_STACKS_KEPT, FaultCount};

use super::{
    Loss,
    sensor::{Observations, Schedule, Sensor},
};
use crate::bpf::{
    Fallback, FallbackChain, Hook, Loader, Need, Probe, ProgramKind, SharedStruct,
    btf_offsets::members,
};

/// Number of fault samples of 256 KiB from which a process's counts are summed over all CPUs: 1 MiB
/// of growth, the error of a plain count on small hosts. It is 0 unless faults are sampled, so that
/// every process is summed.
const SUM_FROM_SAMPLES: u64 = 4;

/// Fetches the stacks of a process's latest samples.
pub struct PageFaultSensor {
    /// Counts by pid.
    counts: HashMap<MapData, u32, SharedStruct<FaultCount>>,
    /// User stacks by id.
    stacks: StackTraceMap<MapData>,
}

impl PageFaultSensor {
    /// Perf event with a sample period.
    pub const EVENT: Hook = Hook::new("page_fault_event");

    /// Sources of fault samples.
    pub const PROBE: FallbackChain = FallbackChain {
        probe: Probe::FaultSamples,
        fallbacks: &[
            Fallback::bpf(
                Self::EVENT,
                "perf software event PAGE_FAULTS",
                &[Need::Programs(ProgramKind::PerfEvent)],
            ),
            Fallback::bpf(
                Hook::new("page_fault_tracepoints"),
                "tp_btf page_fault_{user,kernel}",
                &[Need::Tracepoint("page_fault_user"), Need::Tracepoint("page_fault_kernel")],
            )
            // Without it, faults that bring in no page count too.
            .reading_if_present(&[members::TASK_PAGEFAULT_DISABLED]),
        ],
    };

    /// Attaches the perf event or the tracepoints; `None` if the kernel refuses both.
    pub fn start(bpf: &mut Loader) -> Option<Self> {
        bpf.attach(&Self::PROBE, |context, hook| {
            if hook == Self::EVENT {
                let event = SoftwareEvent::PageFaults;
                context.perf_event("sample_faults", event, FAULT_SAMPLE_PERIOD_PAGES)?;
            } else {
                context.btf_tracepoint("fault_user", "page_fault_user")?;
                context.btf_tracepoint("fault_kernel", "page_fault_kernel")?;
            }
            let maps =
                Self { counts: context.take("FAULTS")?, stacks: context.take("FAULT_STACKS")? };
            context.set("SUM_FROM_SAMPLES", SUM_FROM_SAMPLES)?;
            Ok(maps)
        })
    }

    /// Number of samples of a process so far, and the return addresses of its latest stacks,
    /// innermost first.
    pub fn of_process(&self, pid: u32) -> (u64, Vec<Vec<u64>>) {
        let Ok(count) = self.counts.get(&pid, 0) else { return (0, Vec::new()) };
        let mut stacks = Vec::with_capacity(FAULT_STACKS_KEPT);
        for id in count.0.stacks.iter().filter_map(|id| id.checked_sub(1)) {
            if let Ok(stack) = self.stacks.get(&id, 0) {
                stacks.push(stack.frames().iter().map(|frame| frame.ip).collect());
            }
        }
        (count.0.samples, stacks)
    }
}

impl Sensor for PageFaultSensor {
    fn schedule(&self) -> Schedule {
        Schedule::Processes
    }

    fn failure(&self) -> Loss {
        Loss::FaultStack
    }

    /// Reads nothing: counts come with the facts about processes.
    fn read(&mut self, _: f64, _: &mut Observations<'_>) -> io::Result<()> {
        Ok(())
    }
}
