//! Start and reads of all sensors of this host.

use std::{any::Any, io, sync::Arc};

use super::{
    Hierarchy, HostMemorySensor, LossCounters, Observation, OwnSockets, ProcessEventSensor,
    ProcessEventTotals, ProcessMemorySensor, ProgramList, SENSORS, SocketList, TcpListenerSensor,
    UnixListenerSensor,
    sensor::{Observations, Schedule, Sensor, SensorEntry},
    waiting_requests::BusyAddresses,
};
use crate::bpf::{FallbackChain, Hook, LoadOptions, LoadedBpf, Loader, ProbeStatus};

/// Returns the probes of every sensor.
pub fn probes() -> Vec<&'static FallbackChain> {
    probes_of(SENSORS)
}

fn probes_of(entries: &[SensorEntry]) -> Vec<&'static FallbackChain> {
    entries.iter().flat_map(|entry| entry.probes).copied().collect()
}

/// Started sensors.
pub struct Sensors {
    bpf: LoadedBpf,
    sensors: Vec<Box<dyn Sensor>>,
    losses: LossCounters,
    own: Option<OwnSockets>,
    waiting: BusyAddresses,
}

impl Sensors {
    /// Attaches the probes that this kernel supports, and uses fallbacks for the rest. Never fails:
    /// see [`Sensors::reports`].
    pub fn start() -> Self {
        Self::start_without(&[])
    }

    /// Starts the sensors without the hooks in `unwanted`.
    pub fn start_without(unwanted: &[Hook]) -> Self {
        Self::start_entries(SENSORS, unwanted)
    }

    /// Starts the sensors without BPF, for the reason given.
    pub fn without_bpf(reason: &str) -> Self {
        Self::over(SENSORS, Loader::without_bpf(reason), &Hierarchy::detect())
    }

    fn start_entries(entries: &[SensorEntry], unwanted: &[Hook]) -> Self {
        let hierarchy = Hierarchy::detect();
        let options = LoadOptions { memory_v1: hierarchy.is_v1(), unwanted: unwanted.to_vec() };
        Self::over(entries, Loader::load(&options, &probes_of(entries)), &hierarchy)
    }

    fn over(entries: &[SensorEntry], mut loader: Loader, hierarchy: &Hierarchy) -> Self {
        let sensors =
            entries.iter().filter_map(|entry| (entry.start)(&mut loader, hierarchy)).collect();
        Self {
            bpf: loader.finish(),
            sensors,
            losses: LossCounters::default(),
            own: None,
            waiting: BusyAddresses::default(),
        }
    }

    /// Status of each probe.
    pub fn reports(&self) -> &[ProbeStatus] {
        self.bpf.statuses()
    }

    /// The BPF object that the sensors use.
    pub fn bpf(&self) -> &LoadedBpf {
        &self.bpf
    }

    /// Returns the sensor of a type; `None` if it has nothing to read on this host.
    pub fn get<S: Sensor>(&self) -> Option<&S> {
        self.sensors.iter().find_map(|sensor| (&**sensor as &dyn Any).downcast_ref())
    }

    /// Returns the sensor of a type for reading; `None` if it has nothing to read on this host.
    pub fn get_mut<S: Sensor>(&mut self) -> Option<&mut S> {
        self.sensors.iter_mut().find_map(|sensor| (&mut **sensor as &mut dyn Any).downcast_mut())
    }

    /// The list of every TCP socket, for any thread; `None` if BPF lists none.
    pub fn socket_list(&self) -> Option<Arc<SocketList>> {
        self.get::<TcpListenerSensor>().and_then(TcpListenerSensor::socket_list)
    }

    /// The list of programs, for any thread; `None` if BPF lists none.
    pub fn program_list(&self) -> Option<Arc<ProgramList>> {
        self.get::<ProcessMemorySensor>().and_then(ProcessMemorySensor::program_list)
    }

    /// Returns whether sockets of other network namespaces are read by entering those.
    pub fn enters_namespaces(&self) -> bool {
        let unix = self.get::<UnixListenerSensor>().and_then(UnixListenerSensor::probes);
        unix.is_none() || self.socket_list().is_none()
    }

    /// Drops facts about the agent's own sockets from now on.
    pub fn leave_out(&mut self, own: OwnSockets) {
        self.own = Some(own);
    }

    /// The agent's own sockets, if facts about them are dropped.
    pub fn own_sockets(&self) -> Option<&OwnSockets> {
        self.own.as_ref()
    }

    /// Losses so far, those that BPF programs have just counted included.
    pub fn lost(&mut self) -> &LossCounters {
        self.count_bpf_losses();
        &self.losses
    }

    /// Losses as of the last scan of processes, without asking the kernel again.
    pub fn lost_at_scan(&self) -> &LossCounters {
        &self.losses
    }

    fn count_bpf_losses(&mut self) {
        for (loss, total) in self.bpf.losses() {
            self.losses.set(loss, total);
        }
        self.bpf.flush_log();
    }

    /// Total memory of the machine in bytes.
    ///
    /// # Errors
    ///
    /// Returns an error if `/proc/meminfo` cannot be read.
    pub fn mem_total_bytes(&self) -> io::Result<u64> {
        let sensor = self.get::<HostMemorySensor>();
        sensor.map_or_else(
            || HostMemorySensor::default().mem_total_bytes(),
            HostMemorySensor::mem_total_bytes,
        )
    }

    /// Scans the host at `t`. The observations are one `Host` fact; a `Sensing` fact if a probe has
    /// changed or something was lost since the last scan; a `Process` fact each; now and then a
    /// `Handles` fact each; and `Outbound` facts about recent connects. A sensor that fails is
    /// counted as a loss and left out.
    pub fn scan_processes(&mut self, t: f64, out: &mut Vec<Observation>) {
        self.count_bpf_losses();
        self.read(Schedule::Processes, t, out);
    }

    /// Reads the queue of every listener at `t`, in seconds on any monotonic clock.
    pub fn scan_listeners(&mut self, t: f64, out: &mut Vec<Observation>) {
        self.read(Schedule::Listeners, t, out);
    }

    /// Takes the process events since the last call, as of `t`.
    pub fn drain_life(&mut self, t: f64, out: &mut Vec<Observation>) {
        self.read(Schedule::Events, t, out);
    }

    fn read(&mut self, schedule: Schedule, t: f64, facts: &mut Vec<Observation>) {
        let Self { bpf, sensors, losses, own, waiting } = self;
        let mut out = Observations { t, facts, losses, probes: bpf.statuses(), own, waiting };
        for sensor in sensors.iter_mut().filter(|sensor| sensor.schedule() == schedule) {
            if let Err(error) = sensor.read(t, &mut out) {
                out.losses.count_failure(sensor.failure(), &error);
            }
        }
    }

    /// Process events so far; zeros if they are not seen.
    pub fn life_totals(&self) -> ProcessEventTotals {
        self.get().map(ProcessEventSensor::totals).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
