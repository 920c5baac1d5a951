//! Containers whose limits are rewritten again and again, as the kubelet does: the agent sets its
//! limit again three times, and then backs off.
//!
//! Both of the kubelet's drivers are covered: one writes the files of cgroups that systemd does not
//! know, the other asks systemd to run each container's cgroup as a scope. A kubelet rewrites
//! limits every minute; this one does every two seconds, which is faster than any.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use spillway_tests::{Workload, now, wait_for};

use crate::{
    checks::Seen,
    installed::{CLAIMED_WITHIN, Installed, QUICK, line_of},
    memory::beside,
    rungs::{Prepared, Rung},
    unit_stage::{MIB, SOON, systemctl, until},
};

const EVERY: Duration = Duration::from_secs(2);
/// Maximum time until a limit is set again. Emulated it took 0.7 to 1.2 s with the emulator on a
/// CPU of its own.
const SET_AGAIN_WITHIN: Duration = Duration::from_secs(15);
/// Time without a change after which the agent counts as having backed off.
const LEFT_ALONE: Duration = Duration::from_secs(5);
/// Four are needed, and more if the agent or systemd is slow: a limit that is already wiped cannot
/// be wiped.
const ROUNDS_MAX: usize = 15;

const MOUNT: &str = "/sys/fs/cgroup";
const POD_LOGS: &str = "/var/log/pods";
const SLICE: &str = "kubepods-burstable-pod1.slice";
const SCOPE: &str = "cri-containerd-1.scope";

/// Limits that the kubelet wants for a container: more than the agent gives a leaker, and enough
/// for all that it leaks.
const WANTED: [(&str, u64); 3] =
    [("memory.high", 280 * MIB), ("memory.max", 320 * MIB), ("cpu.weight", 39)];
const LEAK: [&str; 3] = ["leak", "--rate=6MiB", "--limit=220MiB"];

/// Driver by which a kubelet sets limits.
enum Driver {
    /// Writes files.
    Cgroupfs,
    /// Asks systemd.
    Systemd,
}

/// Container with a leaker in it.
struct Container {
    driver: Driver,
    /// Path from the root, as the agent reports it.
    cgroup: String,
    _leak: Workload,
}

/// Checks that the agent backs off in favour of the kubelet.
pub fn kubelet(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let _pods = Pods::set()?;
    let agent = Installed::start(QUICK)?;
    let containers = [Container::of_systemd()?, Container::of_cgroupfs()?];
    for container in &containers {
        let limited = until(CLAIMED_WITHIN, || container.is_ours().ok()?.then_some(()));
        ensure!(limited.is_some(), "{} is not limited: {}", container.cgroup, agent.said());
    }
    let watch = Watch::over(&containers);
    let mut printed = Vec::new();
    let has_yielded = |printed: &[Value], container: &Container| {
        let of_it: Vec<_> =
            printed.iter().filter(|line| line["cgroup"] == *container.cgroup).cloned().collect();
        line_of(&of_it, "outcome", "yielded").is_some()
    };
    for _ in 0..ROUNDS_MAX {
        let start = now();
        containers.iter().try_for_each(Container::reconcile)?;
        if containers.iter().all(|container| has_yielded(&printed, container)) {
            // One more round, which the agent no longer answers.
            break;
        }
        sleep(EVERY.saturating_sub(start.elapsed()));
        printed = agent.printed();
    }
    sleep(LEFT_ALONE);
    let (printed, again) = (agent.printed(), watch.end());
    let checked = containers
        .iter()
        .zip(&again)
        .try_for_each(|(container, again)| container.is_given_up(&printed, again));
    checked.inspect_err(|_| eprintln!("{}", agent.said()))?;
    let each = containers.iter().zip(&again).map(|(container, again)| container.summary(again));
    let detail =
        format!("set again after {}; then the kubelet's", each.collect::<Vec<_>>().join(", and "));
    Ok(Seen { events: 8, detail })
}

/// Thread that samples the containers' limits.
struct Watch {
    is_over: Arc<AtomicBool>,
    watcher: JoinHandle<Vec<Vec<Duration>>>,
}

impl Watch {
    fn over(containers: &[Container]) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (ends, files) =
            (is_over.clone(), containers.iter().map(|one| one.file("memory.high")).collect());
        Self { is_over, watcher: thread::spawn(move || watch(files, &ends)) }
    }

    /// Returns how long each of the agent's limits was away, each time.
    fn end(self) -> Vec<Vec<Duration>> {
        self.is_over.store(true, Ordering::Relaxed);
        self.watcher.join().expect("the watcher panicked")
    }
}

fn watch(files: Vec<PathBuf>, is_over: &AtomicBool) -> Vec<Vec<Duration>> {
    let mut away: Vec<(Option<Instant>, Vec<Duration>)> = vec![(None, Vec::new()); files.len()];
    while !is_over.load(Ordering::Relaxed) {
        for (file, (since, again)) in files.iter().zip(&mut away) {
            let Ok(text) = fs::read_to_string(file) else { continue };
            if text.trim() == WANTED[0].1.to_string() {
                since.get_or_insert_with(now);
            } else if let Some(since) = since.take() {
                again.push(since.elapsed());
            }
        }
        sleep(Duration::from_millis(10));
    }
    away.into_iter().map(|(_, again)| again).collect()
}

impl Container {
    /// Makes one below cgroups that the kubelet makes itself.
    fn of_cgroupfs() -> anyhow::Result<Self> {
        let cgroup = "/kubepods/burstable/pod2/2".to_owned();
        let mut above = PathBuf::from(MOUNT);
        for part in Path::new(&cgroup[1..]) {
            // A controller must be enabled from the top down.
            for controller in ["+memory", "+cpu"] {
                let _ = fs::write(above.join("cgroup.subtree_control"), controller);
            }
            above.push(part);
            fs::create_dir(&above).with_context(|| format!("cannot create {}", above.display()))?;
        }
        let leak = Workload::start(beside("workload")?.args(LEAK));
        fs::write(above.join("cgroup.procs"), leak.pid().to_string())?;
        Self::with(Driver::Cgroupfs, cgroup, leak)
    }

    /// Makes one as a systemd scope.
    fn of_systemd() -> anyhow::Result<Self> {
        let mut command = Command::new("systemd-run");
        command.args(["--scope", "--quiet", "--collect", "--property=Delegate=yes"]);
        command.args([format!("--slice={SLICE}"), format!("--unit={SCOPE}")]);
        command.arg(beside("workload")?.get_program()).args(LEAK).stderr(Stdio::null());
        let cgroup = format!("/kubepods.slice/kubepods-burstable.slice/{SLICE}/{SCOPE}");
        Self::with(Driver::Systemd, cgroup, Workload::start(&mut command))
    }

    fn with(driver: Driver, cgroup: String, leak: Workload) -> anyhow::Result<Self> {
        let container = Self { driver, cgroup, _leak: leak };
        container.reconcile()?;
        Ok(container)
    }

    /// Writes all limits that a kubelet wants, changed or not.
    fn reconcile(&self) -> anyhow::Result<()> {
        match self.driver {
            Driver::Cgroupfs => WANTED.iter().try_for_each(|(file, value)| {
                fs::write(self.file(file), value.to_string())
                    .with_context(|| format!("{file} of {}", self.cgroup))
            }),
            Driver::Systemd => {
                let names = ["MemoryHigh", "MemoryMax", "CPUWeight"];
                let properties =
                    names.iter().zip(WANTED).map(|(name, (_, value))| format!("{name}={value}"));
                let set = ["set-property", "--runtime", SCOPE].map(str::to_owned);
                let args: Vec<_> = set.into_iter().chain(properties).collect();
                systemctl(&args.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
            }
        }
    }

    /// Returns whether the limit in effect differs from the kubelet's.
    fn is_ours(&self) -> anyhow::Result<bool> {
        Ok(self.read("memory.high")? != WANTED[0].1.to_string())
    }

    /// Checks that the limit was set again three times, that this was reported, and that it was
    /// left alone since.
    fn is_given_up(&self, printed: &[Value], again: &[Duration]) -> anyhow::Result<()> {
        let of_it: Vec<_> = printed.iter().filter(|line| line["cgroup"] == *self.cgroup).collect();
        let count =
            |field: &str, value: &str| of_it.iter().filter(|line| line[field] == value).count();
        let counts = ["limited", "reasserted", "yielded"].map(|outcome| count("outcome", outcome));
        ensure!(
            counts == [1, 3, 1],
            "{}: (limited, set again, given up) is {counts:?}",
            self.cgroup
        );
        // A limit that was wiped and set again between two samples was not seen.
        ensure!(
            (1..=3).contains(&again.len()),
            "{} was set again {} times",
            self.cgroup,
            again.len()
        );
        ensure!(
            again.iter().all(|took| *took < SET_AGAIN_WITHIN),
            "{} was away for too long: {again:?}",
            self.cgroup
        );
        let why = of_it
            .iter()
            .find(|line| line["outcome"] == "yielded")
            .and_then(|line| line["why"].as_str());
        let is_told = |line: &Value| {
            line["why"].as_str().zip(why).is_some_and(|(found, why)| found.starts_with(why))
        };
        let pages = of_it.iter().filter(|line| line["decision"] == "page" && is_told(line)).count();
        ensure!(pages == 1, "{pages} pages report that the limit is given up");
        for (file, value) in WANTED {
            let found = self.read(file)?;
            ensure!(
                found == value.to_string(),
                "{file} of {} is {found}, not {value}",
                self.cgroup
            );
        }
        Ok(())
    }

    fn summary(&self, again: &[Duration]) -> String {
        let each: Vec<_> = again.iter().map(|took| format!("{:.1}", took.as_secs_f64())).collect();
        let driver = match self.driver {
            Driver::Cgroupfs => "in its files",
            Driver::Systemd => "by systemd",
        };
        format!("{} s {driver}", each.join(", "))
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        let text = fs::read_to_string(self.file(file))
            .with_context(|| format!("{file} of {}", self.cgroup))?;
        Ok(text.trim().to_owned())
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(MOUNT).join(&self.cgroup[1..]).join(name)
    }
}

/// Cgroups and pod directories of the kubelet, by which the agent recognises its containers;
/// removed when dropped, after the containers.
struct Pods;

impl Pods {
    fn set() -> anyhow::Result<Self> {
        for directory in ["shop_api-1_1", "shop_db-0_2"] {
            fs::create_dir_all(Path::new(POD_LOGS).join(directory))
                .context("cannot create a pod's directory")?;
        }
        Ok(Self)
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(POD_LOGS);
        let _ = systemctl(&["stop", "kubepods.slice"]);
        let mut left = Some(Path::new(MOUNT).join("kubepods/burstable/pod2/2"));
        while let Some(directory) = left.take().filter(|directory| *directory != *MOUNT) {
            // The kernel may need a moment after the last process.
            wait_for(SOON, || fs::remove_dir(&directory).ok());
            left = directory.parent().map(Path::to_owned);
        }
    }
}
