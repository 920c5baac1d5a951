//! Records one network namespace for a while with the agent's own loop and sensors, at its default
//! pace.
//!
//! It runs in this process, so that its clock is that of the truth, and without priority, like an
//! agent.

use std::{
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Instant,
};

use anyhow::{Context as _, anyhow};
use spillway_agent::{
    clock::Clock,
    config::Config,
    engine::HostInfo,
    scan_loop::{Event, Intervals, watch},
    sense::{Fact, Observation, Sensors},
};
use spillway_tests::now;
use tokio::sync::oneshot;

/// Recorded observations.
pub(crate) struct Recorded {
    pub(crate) host: HostInfo,
    pub(crate) pace: Intervals,
    /// Time of second 0.
    pub(crate) origin: Instant,
    pub(crate) observations: Vec<Observation>,
}

/// Sensors that wait for the start of the recording.
pub(crate) struct Recorder {
    begin: mpsc::Sender<u32>,
    end: oneshot::Sender<()>,
    recording: JoinHandle<anyhow::Result<Recorded>>,
}

impl Recorder {
    /// Attaches the sensors, in this thread's network namespace.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let (begin, begun) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        let (attached, attaches) = mpsc::channel();
        let recording = thread::spawn(move || {
            let sensors = Sensors::start();
            attached.send(())?;
            let netns = begun.recv()?;
            record(sensors, netns, ended)
        });
        attaches.recv().context("cannot attach the sensors")?;
        Ok(Self { begin, end, recording })
    }

    /// Begins to record the listeners of this namespace.
    pub(crate) fn begin(&self, netns: u32) -> anyhow::Result<()> {
        self.begin.send(netns).context("the recorder has ended")
    }

    /// Ends the recording.
    pub(crate) fn end(self) -> anyhow::Result<Recorded> {
        // If it has ended by itself, the result gives the reason.
        let _ = self.end.send(());
        self.recording.join().map_err(|_| anyhow!("the recorder panicked"))?
    }
}

fn record(sensors: Sensors, netns: u32, ended: oneshot::Receiver<()>) -> anyhow::Result<Recorded> {
    let config = Config::default();
    let pace =
        Intervals { processes: config.sense.interval, listeners: config.detect.overload.interval };
    let cpus = thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    let host = HostInfo { mem_total_bytes: sensors.mem_total_bytes()?, cpus };
    let mut observations = Vec::new();
    let concerns = |observation: &&Observation| match &observation.fact {
        Fact::Listener(listener) => listener.netns == netns && !listener.addr.starts_with("unix:"),
        Fact::Sensing(_) => true,
        _ => false,
    };
    let consume = |event: Event<'_>| {
        let Event::Scan(batch) = event else { return Ok(()) };
        observations.extend(batch.observations.iter().filter(concerns).cloned());
        Ok::<(), anyhow::Error>(())
    };
    let stop = async {
        let _ = ended.await;
    };
    // Some microseconds apart, on the clock that the truth reads too.
    let (origin, clock) = (now(), Clock::start());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let no_hangup = async || std::future::pending().await;
    runtime.block_on(watch(sensors, pace, clock, stop, no_hangup, consume))?;
    Ok(Recorded { host, pace, origin, observations })
}
