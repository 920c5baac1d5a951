//! Stage of a run: the agent in a cgroup of its own, what it is watched by, and the clock.
//!
//! Everything lives in a network namespace of its own. Whatever ends a run, an error, Ctrl-C or
//! its own end, the stage is dropped, and removes all of it; cgroups of a run that was killed are
//! removed by the next.

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use spillway_agent::{sense::Hierarchy, status::runtime_dir::runtime_dir};
use spillway_tests::{
    OwnCgroup, Running, Scratch, cpu_secs, field_bytes, find_metric, now, own_network, run_with,
};

use crate::figures::{LEFT_BYTES_MAX, Part, Sample, rise};

/// Name of the cgroups of a run, before the number of its process.
const CGROUP: &str = "soak";

/// Memory that the agent's unit may use.
const MEMORY_MAX_BYTES: u64 = 64 << 20;

/// Time between two samples.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);

/// Time between two lines of progress.
const SAY_EVERY: Duration = Duration::from_secs(15);

/// Shortest rest, so that what a flood leaves is seen.
const REST_MIN: Duration = Duration::from_secs(10);

/// Error of a run that a signal ended.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Directory of the agent's status socket, which a killed agent leaves.
struct RuntimeDir(PathBuf);

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Agent that is watched.
pub struct Stage {
    agent: Running,
    _runtime: RuntimeDir,
    /// Cgroup of the agent, and the one in which floods make theirs.
    _agents: OwnCgroup,
    floods: OwnCgroup,
    scratch: Scratch,
    /// Longest rest.
    rest_max: Duration,
    stop: Arc<AtomicBool>,
    began: Instant,
    samples: Vec<Sample>,
    parts: Vec<Part>,
    said: Instant,
}

impl Stage {
    /// Starts the agent, which is to rest for no longer than so after a flood.
    pub fn set(rest_max: Duration) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, stop.clone())
                .with_context(|| format!("no handler for signal {signal}"))?;
        }
        own_network().context("cannot make a network namespace")?;
        let hierarchy = Hierarchy::detect();
        let mount = hierarchy.mount().context("there is no memory controller for cgroups")?;
        remove_stale(mount);
        let agents = OwnCgroup::make(mount, &format!("{CGROUP}-agent"))?;
        let floods = OwnCgroup::make(mount, CGROUP)?;
        let limit = ["memory.max", "memory.limit_in_bytes"].into_iter().find(|it| agents.has(it));
        agents.set(limit.context("the cgroup has no limit on memory")?, MEMORY_MAX_BYTES)?;
        let scratch = Scratch::make("soak");
        let state_dir = scratch.0.join("state");
        fs::create_dir(&state_dir).context("cannot make the state directory")?;
        let runtime = RuntimeDir(runtime_dir(&state_dir));
        let config = scratch.file("spillway.toml", &config(&scratch.0, 1));
        let mut command = run_with(&config);
        agents.admit(&mut command)?;
        let (agent, began) = (Running::start(command), now());
        Ok(Self {
            agent,
            _runtime: runtime,
            _agents: agents,
            floods,
            scratch,
            rest_max,
            stop,
            began,
            samples: Vec::new(),
            parts: Vec::new(),
            said: began,
        })
    }

    /// Stops the agent.
    ///
    /// # Errors
    ///
    /// Returns an error if that does not end it in order.
    pub fn end(self) -> anyhow::Result<()> {
        let Self { agent, .. } = self;
        match agent.stop() {
            (Some(0), _) => Ok(()),
            (code, log) => bail!("the agent ended with {code:?}\n  its log: {log}"),
        }
    }

    /// Cgroup in which floods make theirs.
    pub fn cgroup(&self) -> &OwnCgroup {
        &self.floods
    }

    /// Samples and parts so far.
    pub fn seen(&self) -> (&[Sample], &[Part]) {
        (&self.samples, &self.parts)
    }

    /// Time since the run began, in seconds.
    pub fn secs(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Writes the `nth` version of the agent's configuration, and asks it to read it.
    pub fn reload(&self, nth: u64) {
        self.scratch.file("spillway.toml", &config(&self.scratch.0, nth));
        self.agent.signal(SIGHUP);
    }

    /// Lines of the agent's log that contain a text.
    pub fn logged(&self, text: &str) -> usize {
        self.agent.log().lines().filter(|line| line.contains(text)).count()
    }

    /// Sum of the agent's metrics whose name begins so; 0 if it does not answer.
    pub fn metric(&self, name: &str) -> f64 {
        let Ok(metrics) = spillway_tests::http_get(self.agent.address(), "/metrics") else {
            return 0.0;
        };
        let names = metrics.lines().filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name);
        names.filter(|one| one.starts_with(name)).filter_map(|one| find_metric(&metrics, one)).sum()
    }

    /// Takes a sample if one is due, and says what goes on from time to time.
    ///
    /// # Errors
    ///
    /// Returns an error after a signal to stop, or once the agent has ended.
    pub fn tick(&mut self, what: &str) -> anyhow::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        let t = self.secs();
        if self.samples.last().is_none_or(|last| t - last.t >= SAMPLE_EVERY.as_secs_f64()) {
            let sample = sample(self.agent.pid(), t);
            self.samples.push(sample.with_context(|| {
                format!("the agent has ended\n  its log: {}", self.agent.log())
            })?);
        }
        if self.said.elapsed() >= SAY_EVERY {
            self.said = now();
            let resident = self.samples.last().map_or(0, |sample| sample.resident_bytes);
            eprintln!("soak: {t:.0} s, {what}, {:.1} MiB", crate::figures::mib(resident));
        }
        Ok(())
    }

    /// Waits so long, and takes samples.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Stage::tick`].
    pub fn wait(&mut self, what: &str, time: Duration) -> anyhow::Result<()> {
        let start = now();
        loop {
            self.tick(what)?;
            let left = time.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// Waits until the agent's metric is at least so high, no longer than so long.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Stage::tick`].
    pub fn wait_for_metric(
        &mut self,
        name: &str,
        least: f64,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let start = now();
        while self.metric(name) < least && start.elapsed() < limit {
            self.wait("the agent finds them", Duration::from_millis(500))?;
        }
        Ok(())
    }

    /// Rests: at least until resident memory is near what it was before the latest flood, if that
    /// takes no longer than a while.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`Stage::tick`].
    pub fn rest(&mut self) -> anyhow::Result<()> {
        let (from, start) = (self.secs(), now());
        let before = self.parts.last().map_or(u64::MAX, |flood| {
            let earlier = self.samples.iter().rev().find(|sample| sample.t < flood.from);
            earlier.map_or(u64::MAX, |sample| sample.resident_bytes)
        });
        self.wait("at rest", REST_MIN)?;
        let is_back = |stage: &Self| {
            let last = stage.samples.last();
            last.is_some_and(|last| rise(before, last.resident_bytes) <= LEFT_BYTES_MAX)
        };
        while before != u64::MAX && !is_back(self) && start.elapsed() < self.rest_max {
            self.wait("at rest", Duration::from_millis(500))?;
        }
        // What the figures of the rest are of.
        self.wait("at rest", Duration::from_secs(3))?;
        self.parts.push(Part { flood: None, from, to: self.secs(), peak_bytes: 0 });
        Ok(())
    }

    /// Makes a flood, after a rest.
    ///
    /// # Errors
    ///
    /// Returns the error of the flood.
    pub fn flood<T>(
        &mut self,
        name: &'static str,
        flood: impl FnOnce(&mut Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        eprintln!("soak: {:.0} s, flood of {name}", self.secs());
        self.said = now();
        let pid = self.agent.pid();
        // The kernel notes the most resident memory anew from here on.
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        let from = self.secs();
        let made = flood(self)?;
        let peak_bytes = field_bytes(pid, "status", "VmHWM").unwrap_or(0);
        self.parts.push(Part { flood: Some(name), from, to: self.secs(), peak_bytes });
        Ok(made)
    }
}

/// Configuration of the agent: it notifies a receiver that is down, and changes nothing else. A
/// setting differs from one version to the next.
fn config(scratch: &Path, nth: u64) -> String {
    let (state, clear_after) = (scratch.join("state"), 20 + nth % 2);
    format!(
        "mode = \"enforce\"\n[act.limit]\nenabled = false\n\
         [serve]\nlisten = \"127.0.0.1:0\"\n[record]\nstate_dir = {state:?}\n\
         [decide]\nservices = [\"/spillway-{CGROUP}-*\"]\n\
         [detect.overload]\nclear_after = \"{clear_after}s\"\n\
         [act.page.alertmanager]\nurl = \"http://127.0.0.1:9/api/v2/alerts\"\n"
    )
}

/// Reads the state of the agent at `t`.
fn sample(pid: u32, t: f64) -> anyhow::Result<Sample> {
    let count =
        |what: &str| Ok::<_, io::Error>(fs::read_dir(format!("/proc/{pid}/{what}"))?.count());
    Ok(Sample {
        t,
        resident_bytes: field_bytes(pid, "status", "VmRSS")?,
        anon_bytes: field_bytes(pid, "status", "RssAnon")?,
        cpu_secs: cpu_secs(pid)?,
        threads: count("task")?,
        files: count("fd")?,
    })
}

/// Removes the cgroups of earlier runs that were killed.
fn remove_stale(mount: &Path) {
    for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix(&format!("spillway-{CGROUP}-"))
            .and_then(|rest| rest.trim_start_matches("agent-").parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = remove_with_children(&entry.path());
        }
    }
}

/// Removes a cgroup and those below it.
fn remove_with_children(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.path().is_dir() {
            remove_with_children(&entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

/// Command of a workload that the tests' `workload` program has.
pub fn workload(args: &[&str]) -> anyhow::Result<Command> {
    let own = std::env::current_exe().context("the path of this program is not known")?;
    let mut command = Command::new(own.with_file_name("workload"));
    // Ctrl-C reaches only this process, which ends them.
    command.args(args).process_group(0);
    Ok(command)
}
