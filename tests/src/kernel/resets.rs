//! Connections that are reset while load is shed, in the network namespace of a service
//! (`act.shed.reset`).

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::PathBuf,
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context as _, ensure};
use spillway_agent::{
    act::{
        OutcomeKind,
        shed::{ActiveSheds, QueueReading, ShedJournal, ShedTarget, undo_recorded},
    },
    config::Config,
    decide::IncidentId,
    sense::{CgroupPaths, Hierarchy},
};
use spillway_tests::{Call, OwnCgroup, Scratch, Stopped, Workload, own_network};

use crate::{
    checks::{NotOffered, Seen},
    guest::is_thorough,
    memory::beside,
    rungs::{Prepared, Rung},
};

const FILE: &str = "/proc/sys/net/ipv4/tcp_abort_on_overflow";

/// A service in a cgroup and a network namespace of its own. The thread that made it is in the
/// namespace, too. Its process ends before the cgroup is removed.
struct OwnNamespace {
    service: Workload,
    cgroup: OwnCgroup,
    netns: u32,
    state: Scratch,
}

impl OwnNamespace {
    fn make(name: &str) -> anyhow::Result<Self> {
        let netns = own_network().map_err(NotOffered::from)?;
        // As on any host where the agent may take descriptors.
        fs::metadata("/proc/1/ns/net").map_err(NotOffered::from)?;
        let (service, cgroup) = in_cgroup(name)?;
        Ok(Self { service, cgroup, netns, state: Scratch::make(name) })
    }

    fn state_dir(&self) -> PathBuf {
        self.state.0.join("state")
    }

    fn entries(&self) -> usize {
        let count = |dir: &str| fs::read_dir(self.state_dir().join(dir)).map_or(0, Iterator::count);
        count("listeners") + count("namespaces")
    }

    /// Sheds load at the service. Returns what is reported, and whether connections were reset
    /// meanwhile.
    fn shed(&self) -> anyhow::Result<(String, bool)> {
        let mut config = Config::default();
        config.record.state_dir = self.state_dir();
        config.act.shed.reset = true;
        let journal = ShedJournal::claim(&self.state_dir()).map_err(|error| error.to_string());
        let mut sheds = ActiveSheds::new(&config, journal);
        let (pid, addr) = (self.service.pid(), Arc::from(self.service.addr().to_string()));
        let target = ShedTarget {
            id: IncidentId::Overload { netns: self.netns, addr: Arc::clone(&addr) },
            netns: self.netns,
            addr,
            cgroup: CgroupPaths::new(Hierarchy::detect()).of_process(pid),
            pids: [pid].into(),
            accepts_per_sec: Some(100.0),
            first: QueueReading::default(),
        };
        let begun = sheds.begin(0.0, &target);
        ensure!(begun.event == OutcomeKind::Shedding, "{begun:?}");
        let resets = resets()?;
        let undone = sheds.undo_all(1.0);
        ensure!(undone.iter().all(|one| one.event == OutcomeKind::Unshed), "{undone:?}");
        self.is_restored()?;
        Ok((begun.why, resets))
    }

    fn is_restored(&self) -> anyhow::Result<()> {
        let (resets, entries) = (resets()?, self.entries());
        ensure!(!resets && entries == 0, "resets: {resets}, {entries} entries of the journal");
        Ok(())
    }
}

/// Starts a listener in a cgroup of its own, in the network namespace of this thread.
fn in_cgroup(name: &str) -> anyhow::Result<(Workload, OwnCgroup)> {
    let mount = Hierarchy::detect().mount().context("no cgroups are mounted")?.to_owned();
    let cgroup = OwnCgroup::make(&mount, name).map_err(NotOffered::from)?;
    let mut command = beside("workload")?;
    let service = Workload::start(cgroup.admit(command.args(["listen", "--backlog=64"]))?);
    Ok((service, cgroup))
}

/// Returns the setting in the network namespace of this thread.
fn resets() -> anyhow::Result<bool> {
    Ok(fs::read_to_string(FILE)?.trim() == "1")
}

/// Lets a program begin in the namespace of pid 1, as an agent does.
fn outside(command: &mut Command) -> anyhow::Result<()> {
    let netns = File::open("/proc/1/ns/net")?;
    // SAFETY: after fork the closure makes one system call, and allocates nothing.
    unsafe {
        command.pre_exec(move || match libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        })
    };
    Ok(())
}

/// Runs a check on a thread that may enter a network namespace.
fn apart(
    name: &'static str,
    check: fn(&OwnNamespace) -> anyhow::Result<Seen>,
) -> anyhow::Result<Seen> {
    let done = thread::spawn(move || check(&OwnNamespace::make(name)?)).join();
    done.map_err(|_| anyhow::anyhow!("the thread in the namespace panicked"))?
}

/// Sheds load at a service alone in its namespace, and at one that shares it.
pub fn own_namespace(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    apart("reset", |own| {
        let (why, resets) = own.shed()?;
        let is_one =
            "net.ipv4.tcp_abort_on_overflow is 1 in the service's network namespace, 0 before";
        ensure!(resets && why.ends_with(is_one), "resets: {resets}: {why}");
        let (other, cgroup) = in_cgroup("shares")?;
        let (why, resets) = own.shed()?;
        let refusal = format!(
            "net.ipv4.tcp_abort_on_overflow is not changed: pid {} in {} shares the service's \
             network namespace",
            other.pid(),
            cgroup.path
        );
        ensure!(!resets && why.ends_with(&refusal), "resets: {resets}: {why}");
        drop(other);
        Ok(Seen { events: 2, detail: format!("alone and shared, in netns {}", own.netns) })
    })
}

/// Kills an agent before each call that may change something; the next run restores the setting.
pub fn killed(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    apart("reset-killed", |own| {
        let program = beside("crash_target")?.get_program().to_owned();
        let begin = || {
            let mut command = Command::new(&program);
            command.args(["shed", "--reset", "--state-dir"]).arg(own.state_dir()).args([
                format!("--pid={}", own.service.pid()),
                format!("--netns={}", own.netns),
                format!("--addr={}", own.service.addr()),
            ]);
            outside(&mut command)?;
            anyhow::Ok(command)
        };
        // One kill takes a quarter of a second if emulated.
        let step = if is_thorough() { 1 } else { 3 };
        let (mut call, mut kills, mut left) = (1, 0, 0);
        while let Some(stopped) = Stopped::at(begin()?, call, Call::may_change_something) {
            stopped.kill();
            (call, kills) = (call + step, kills + 1);
            left += u64::from(resets()?);
            for undone in undo_recorded(&own.state_dir()) {
                for one in undone? {
                    ensure!(one.is_done(), "kill {kills}: {one}");
                }
            }
            own.is_restored().with_context(|| format!("kill {kills}"))?;
        }
        own.is_restored().context("at the end")?;
        ensure!(kills > 20 && left > 5, "{kills} kills, {left} of them with resets");
        let detail = format!("{left} of {kills} left it at 1, in {}", own.cgroup.path);
        Ok(Seen { events: left, detail })
    })
}
