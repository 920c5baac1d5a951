//! Samples of page faults: the pace at which processes touch new memory between two scans.
//!
//! The kernel counts them per process, and every scan of processes reads the counts (see
//! [`super::ProcessMemorySensor`]), so there is nothing to read here. They do not show who keeps
//! the memory.

use aya::programs::perf_event::SoftwareEvent;
use spillway_ebpf::FAULT_SAMPLE_PERIOD_PAGES;

use crate::bpf::{
    Fallback, FallbackChain, Hook, Loader, Need, Probe, ProgramKind, btf_offsets::members,
};

/// Number of fault samples of 256 KiB from which a process's counts are summed over all CPUs: 1 MiB
/// of growth, the error of a plain count on small hosts. It is 0 unless faults are sampled, so that
/// every process is summed.
const SUM_FROM_SAMPLES: u64 = 4;

/// Sampling of page faults.
pub struct PageFaults;

impl PageFaults {
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

    /// Attaches the perf event or the tracepoints, unless the kernel refuses both.
    pub fn attach(bpf: &mut Loader) {
        let _ = bpf.attach(&Self::PROBE, |context, hook| {
            if hook == Self::EVENT {
                let event = SoftwareEvent::PageFaults;
                context.perf_event("sample_faults", event, FAULT_SAMPLE_PERIOD_PAGES)?;
            } else {
                context.btf_tracepoint("fault_user", "page_fault_user")?;
                context.btf_tracepoint("fault_kernel", "page_fault_kernel")?;
            }
            context.set("SUM_FROM_SAMPLES", SUM_FROM_SAMPLES)
        });
    }
}
