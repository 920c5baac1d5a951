//! Every sensor of this host, and what each read costs.
//!
//! This is the explicit list: a new sensor gets a field, a line in [`Sensors::start`], and a place
//! in one of the reads.

use std::io;

use super::{
    Fact, Hierarchy, HostMemorySensor, Loss, LossCounters, Observation, OutboundSensor, OwnSockets,
    PageFaultSensor, ProcessEventSensor, ProcessEventTotals, ProcessMemorySensor,
    ProcessResourceSensor, SensorHealthSensor, TcpListenerSensor, UnixListenerSensor,
};
use crate::bpf::{Hook, LoadOptions, LoadedBpf, ProbeStatus};

/// The sensors of this host.
pub struct Sensors {
    kernel: LoadedBpf,
    pressure: HostMemorySensor,
    processes: ProcessMemorySensor,
    handles: ProcessResourceSensor,
    listeners: TcpListenerSensor,
    unix: UnixListenerSensor,
    outbound: OutboundSensor,
    life: Option<ProcessEventSensor>,
    faults: Option<PageFaultSensor>,
    sensing: SensorHealthSensor,
    lost: LossCounters,
    own: Option<OwnSockets>,
}

impl Sensors {
    /// Attaches what this kernel allows, and falls back for the rest. Never fails: see
    /// [`Sensors::reports`].
    pub fn start() -> Self {
        Self::start_without(&[])
    }

    /// As [`Sensors::start`], with hooks that are not to be used.
    pub fn start_without(unwanted: &[Hook]) -> Self {
        let hierarchy = Hierarchy::detect();
        let wanted = LoadOptions { memory_v1: hierarchy.is_v1(), unwanted: unwanted.to_vec() };
        Self::over(LoadedBpf::load(&wanted), hierarchy)
    }

    /// Sensors that use no BPF, for the reason given.
    pub fn without_bpf(reason: &str) -> Self {
        Self::over(LoadedBpf::without_bpf(reason), Hierarchy::detect())
    }

    fn over(mut kernel: LoadedBpf, hierarchy: Hierarchy) -> Self {
        let faults = kernel.faults.take().map(PageFaultSensor::new);
        Self {
            pressure: HostMemorySensor::default(),
            processes: ProcessMemorySensor::new(
                kernel.process_memory.take(),
                faults.is_some(),
                hierarchy.clone(),
            ),
            handles: ProcessResourceSensor::new(kernel.process_handles.take()),
            unix: UnixListenerSensor::new(
                kernel.unix_queue.take(),
                kernel.accept_queue.is_some(),
                hierarchy.clone(),
            ),
            listeners: TcpListenerSensor::new(kernel.accept_queue.take(), hierarchy.clone()),
            outbound: OutboundSensor::new(kernel.outbound.take(), hierarchy),
            life: kernel.process_life.take().map(ProcessEventSensor::new),
            faults,
            sensing: SensorHealthSensor::default(),
            lost: LossCounters::default(),
            own: None,
            kernel,
        }
    }

    /// What became of each probe.
    pub fn reports(&self) -> &[ProbeStatus] {
        &self.kernel.reports
    }

    /// Leaves the agent's own sockets out of the observations from now on.
    pub fn leave_out(&mut self, own: OwnSockets) {
        self.own = Some(own);
    }

    /// The agent's own sockets, if they are left out.
    pub fn own_sockets(&self) -> Option<&OwnSockets> {
        self.own.as_ref()
    }

    /// What did not reach an observation so far, the kernel's own losses included.
    pub fn lost(&mut self) -> &LossCounters {
        self.count_losses();
        &self.lost
    }

    /// The same as of the last scan, without asking the kernel again.
    pub fn lost_at_scan(&self) -> &LossCounters {
        &self.lost
    }

    fn count_losses(&mut self) {
        for (what, total) in self.kernel.losses() {
            self.lost.set(what, total);
        }
    }

    /// Total memory of the machine in bytes.
    ///
    /// # Errors
    ///
    /// Where `/proc/meminfo` cannot be read.
    pub fn mem_total_bytes(&self) -> io::Result<u64> {
        self.pressure.mem_total_bytes()
    }

    /// Scans the host at `t`: one `Host` fact, a `Sensing` fact where what is seen has changed or
    /// something was lost since the last scan, then one `Process` fact each, now and then a
    /// `Handles` fact each, and `Outbound` facts about what connected since. A part that fails is
    /// counted and left out.
    pub fn scan_processes(&mut self, t: f64, out: &mut Vec<Observation>) {
        match self.pressure.read() {
            Ok(host) => out.push(Observation { t, fact: Fact::Host(host) }),
            Err(error) => self.lost.count_failure(Loss::HostReadFailed, &error),
        }
        self.count_losses();
        let sensing = self.sensing.look(&self.kernel.reports, &self.lost);
        out.extend(sensing.map(|fact| Observation { t, fact: Fact::Sensing(fact) }));
        let each = |process| out.push(Observation { t, fact: Fact::Process(process) });
        if let Err(error) = self.processes.scan(&mut self.lost, each) {
            self.lost.count_failure(Loss::ProcessScanFailed, &error);
        }
        let each = |handles| out.push(Observation { t, fact: Fact::Handles(handles) });
        if let Err(error) = self.handles.scan(t, &mut self.lost, each) {
            self.lost.count_failure(Loss::HandleScanFailed, &error);
        }
        let own = &self.own;
        let each = |outbound| {
            if !own.as_ref().is_some_and(|own| own.owns_outbound(&outbound)) {
                out.push(Observation { t, fact: Fact::Outbound(outbound) });
            }
        };
        if let Err(error) = self.outbound.read(t, &mut self.lost, each) {
            self.lost.count_failure(Loss::OutboundReadFailed, &error);
        }
    }

    /// Reads every listener's queue at `t`, in seconds on any monotonic clock.
    pub fn scan_listeners(&mut self, t: f64, out: &mut Vec<Observation>) {
        let own = &mut self.own;
        let mut each = |listener| {
            if !own.as_mut().is_some_and(|own| own.owns_listener(&listener)) {
                out.push(Observation { t, fact: Fact::Listener(listener) });
            }
        };
        if let Err(error) = self.listeners.scan(t, &mut self.lost, &mut each) {
            self.lost.count_failure(Loss::ListenerScanFailed, &error);
        }
        if let Err(error) = self.unix.scan(t, &mut self.lost, each) {
            self.lost.count_failure(Loss::UnixScanFailed, &error);
        }
    }

    /// Takes the births and deaths since the last call, as of `t`.
    pub fn drain_life(&mut self, t: f64, out: &mut Vec<Observation>) {
        if let Some(life) = &mut self.life {
            life.drain(&mut self.lost, |fact| out.push(Observation { t, fact }));
        }
    }

    /// Births and deaths so far; zeros where they are not seen.
    pub fn life_totals(&self) -> ProcessEventTotals {
        self.life.as_ref().map(ProcessEventSensor::totals).unwrap_or_default()
    }

    /// Where processes grow, where page faults are sampled.
    pub fn faults(&self) -> Option<&PageFaultSensor> {
        self.faults.as_ref()
    }
}
