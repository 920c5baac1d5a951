//! Records for a while what the agent's own loop and sensors report, at its default pace.
//!
//! It runs in this process, so that its clock is that of the truth, and without priority, like an
//! agent.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::Instant,
};

use anyhow::{Context as _, anyhow};
use flate2::{Compression, write::GzEncoder};
use spillway_agent::{
    clock::Clock,
    config::Config,
    engine::HostInfo,
    scan_loop::{Event, Intervals, watch},
    sense::{Fact, Observation, Sensors},
    trace::TraceWriter,
};
use tokio::sync::oneshot;

use crate::now;

/// Test of the facts that are kept.
pub type Concerns = Box<dyn Fn(&Fact) -> bool + Send>;

/// Start of a recording.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// Host.
    pub host: HostInfo,
    /// Intervals of the sensors.
    pub pace: Intervals,
    /// Time of second 0.
    pub origin: Instant,
}

/// Sensors that wait for the start of the recording, or record.
pub struct Recorder {
    begin: mpsc::Sender<Concerns>,
    end: oneshot::Sender<()>,
    recording: JoinHandle<anyhow::Result<()>>,
    kept: Arc<Kept>,
}

#[derive(Default)]
struct Kept {
    head: OnceLock<Head>,
    observations: Mutex<Vec<Observation>>,
}

impl Kept {
    fn observations(&self) -> MutexGuard<'_, Vec<Observation>> {
        self.observations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recorder {
    /// Attaches the sensors, in this thread's network namespace.
    ///
    /// # Errors
    ///
    /// Returns an error if they cannot be attached.
    pub fn start() -> anyhow::Result<Self> {
        let (begin, begun) = mpsc::channel();
        let (end, ended) = oneshot::channel();
        let (attached, attaches) = mpsc::channel();
        let kept = Arc::new(Kept::default());
        let shared = kept.clone();
        let recording = thread::spawn(move || {
            let sensors = Sensors::start();
            attached.send(())?;
            record(sensors, begun.recv()?, ended, &shared)
        });
        attaches.recv().context("cannot attach the sensors")?;
        Ok(Self { begin, end, recording, kept })
    }

    /// Begins to record the facts that this is about.
    ///
    /// # Errors
    ///
    /// Returns an error if the recorder has ended.
    pub fn begin(&self, concerns: Concerns) -> anyhow::Result<()> {
        self.begin.send(concerns).map_err(|_| anyhow!("the recorder has ended"))
    }

    /// Returns the start of the recording, and those of its observations so far that are wanted.
    ///
    /// # Errors
    ///
    /// Returns an error if it has not begun.
    pub fn so_far(
        &self,
        wanted: impl FnMut(&&Observation) -> bool,
    ) -> anyhow::Result<(Head, Vec<Observation>)> {
        let head = self.kept.head.get().context("the recorder has not begun")?;
        Ok((*head, self.kept.observations().iter().filter(wanted).cloned().collect()))
    }

    /// Ends the recording.
    ///
    /// # Errors
    ///
    /// Returns the error that ended it before.
    pub fn end(self) -> anyhow::Result<(Head, Vec<Observation>)> {
        // If it has ended by itself, the result gives the reason.
        let _ = self.end.send(());
        self.recording.join().map_err(|_| anyhow!("the recorder panicked"))??;
        let head = self.kept.head.get().context("the recorder has not begun")?;
        Ok((*head, std::mem::take(&mut *self.kept.observations())))
    }
}

/// Writes observations as a compressed trace; returns its size in bytes.
///
/// # Errors
///
/// Returns an error if the file cannot be written.
pub fn write_trace(
    head: &Head,
    observations: impl IntoIterator<Item = Observation>,
    path: &Path,
) -> anyhow::Result<u64> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let file = GzEncoder::new(file, Compression::best());
    let mut writer = TraceWriter::new(file, head.host, head.pace.processes.as_secs_f64())?;
    for observation in observations {
        writer.write(&observation)?;
    }
    let mut file = writer.finish()?.finish()?;
    file.flush()?;
    Ok(file.metadata()?.len())
}

fn record(
    sensors: Sensors,
    concerns: Concerns,
    ended: oneshot::Receiver<()>,
    kept: &Kept,
) -> anyhow::Result<()> {
    let config = Config::default();
    let pace = Intervals {
        processes: config.sense.interval,
        listeners: config.detect.overload.interval,
        alive: None,
    };
    let cpus = thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    let host = HostInfo { mem_total_bytes: sensors.mem_total_bytes()?, cpus };
    let consume = |event: Event<'_>| {
        let Event::Scan(batch) = event else { return Ok(()) };
        let own = batch.observations.iter().filter(|observation| concerns(&observation.fact));
        kept.observations().extend(own.cloned());
        Ok::<(), anyhow::Error>(())
    };
    let stop = async {
        let _ = ended.await;
    };
    // Some microseconds apart, on the clock that the truth reads too.
    let (origin, clock) = (now(), Clock::start());
    kept.head.get_or_init(|| Head { host, pace, origin });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let no_hangup = async || std::future::pending().await;
    runtime.block_on(watch(sensors, pace, clock, stop, no_hangup, consume))?;
    Ok(())
}
