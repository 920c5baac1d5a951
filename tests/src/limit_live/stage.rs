//! Cgroup that may be limited, and ways to read it without the agent.

use std::{ffi::OsString, fs, path::PathBuf, process::Command, sync::Arc, time::Duration};

use spillway_agent::{
    act::{Journal, Outcome, limit::ActiveLimits},
    config::{Config, Pattern},
    decide::IncidentId,
    detect::Resource,
    sense::{Hierarchy, LEAK_CHILD, ProcessId},
};

use crate::{ANY_PORT, OwnCgroup, Scratch, Workload, wait_for};

const MIB: u64 = 1 << 20;
/// Margin of a limit above the usage.
pub const MARGIN_BYTES: u64 = 16 * MIB;
/// Maximum time to wait; milliseconds, or on a busy machine seconds, are usual.
pub const SOON: Duration = Duration::from_secs(20);
/// Incident on whose account the cgroup is limited.
pub const ID: IncidentId = IncidentId::Leak(ProcessId { pid: 1, start_ticks: 1 }, Resource::Memory);

/// Cgroup that may be limited, and the names of its files.
pub struct Stage {
    /// Directory of the journal and everything else.
    pub scratch: Scratch,
    /// The cgroup.
    pub cgroup: OwnCgroup,
    /// Set for version 1.
    pub is_v1: bool,
    /// Configuration of the agent.
    pub config: Config,
    programs: Programs,
    /// Cgroups above it, the innermost first: they are removed after it, in this order.
    _above: Vec<OwnCgroup>,
}

/// Paths of the programs that run in it.
pub struct Programs {
    /// Path of `workload`.
    pub workload: PathBuf,
    /// Path of `crash_target`.
    pub crash_target: PathBuf,
}

impl Stage {
    /// Makes the cgroup.
    ///
    /// # Errors
    ///
    /// Returns the reason if no cgroup can be limited here.
    pub fn set(name: &str, programs: Programs) -> Result<Self, String> {
        Self::set_below(name, &[], programs)
    }

    /// Makes the cgroup as the last of `below`, each below the one before.
    ///
    /// # Errors
    ///
    /// Returns the reason if no cgroup can be limited here.
    pub fn set_below(name: &str, below: &[&str], programs: Programs) -> Result<Self, String> {
        let hierarchy = Hierarchy::detect();
        let mount = hierarchy.mount().ok_or("no cgroup file system is mounted")?;
        let mut cgroup = OwnCgroup::make(mount, name).map_err(|error| error.to_string())?;
        let mut above = Vec::new();
        for name in below {
            if cgroup.has("cgroup.subtree_control") {
                cgroup
                    .set("cgroup.subtree_control", "+memory")
                    .map_err(|error| error.to_string())?;
            }
            let inner = cgroup.make_below(name).map_err(|error| error.to_string())?;
            above.insert(0, std::mem::replace(&mut cgroup, inner));
        }
        if !cgroup.has("memory.high") && !cgroup.has("memory.limit_in_bytes") {
            return Err(format!("cannot enable the memory controller in {}", mount.display()));
        }
        let scratch = Scratch::make(name);
        let mut config = Config::default();
        config.act.limit.margin_bytes = MARGIN_BYTES;
        config.record.state_dir = scratch.0.join("state");
        Ok(Self { scratch, cgroup, is_v1: hierarchy.is_v1(), config, programs, _above: above })
    }

    /// Returns a configuration that judges within seconds and acts, with these lines for
    /// `[decide]`.
    pub fn quick(&self, decide: &str) -> String {
        format!(
            "mode = \"enforce\"\n{ANY_PORT}[sense]\ninterval = \"100ms\"\n[detect.leak]\nwarm_up \
            = \"0s\"\n\
             horizons = [\"4s\", \"6s\", \"10s\", \"20s\"]\nmin_growth \
             = \"16MiB\"\n[decide]\nlimit_within = \"1d\"\n\
             {decide}\n[act.limit]\nmargin = \"16MiB\"\n[record]\nstate_dir = \"{}\"\n",
            self.config.record.state_dir.display()
        )
    }

    /// Returns the option that restricts an agent to this test: other leaks on this machine are not
    /// its own.
    pub fn only_this(&self) -> String {
        format!("allow = [\"{}\"]", self.cgroup.path)
    }

    /// Opens the journal without adding to it.
    ///
    /// # Panics
    ///
    /// Panics if there is none.
    pub fn found_journal(&self) -> Journal {
        let found =
            Journal::find(&self.config.record.state_dir).expect("cannot search for the journal");
        found.expect("there is no journal")
    }

    /// Returns the agent's limits, with none in effect.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn limits(&self) -> ActiveLimits {
        ActiveLimits::new(&self.config, Ok(self.journal()))
    }

    /// Opens the journal to add to it.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn journal(&self) -> Journal {
        Journal::claim(&self.config.record.state_dir).expect("cannot claim the journal")
    }

    /// Limits it on account of a process in it.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn limit(&self, limits: &mut ActiveLimits, pid: u32) -> Outcome {
        limits.limit(0.0, &ID, &Arc::from(self.cgroup.path.as_str()), life(pid))
    }

    /// Returns the name of the limit's file.
    pub fn limit_file(&self) -> &'static str {
        if self.is_v1 { "memory.limit_in_bytes" } else { "memory.high" }
    }

    /// Returns the value that means no limit.
    pub fn unlimited(&self) -> &'static str {
        if self.is_v1 { "-1" } else { "max" }
    }

    /// Returns its current charge.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn usage_bytes(&self) -> u64 {
        self.number(if self.is_v1 { "memory.usage_in_bytes" } else { "memory.current" })
    }

    /// Returns the value of one of its files.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn number(&self, file: &str) -> u64 {
        self.cgroup
            .get(file)
            .expect("the cgroup is gone")
            .trim()
            .parse()
            .expect("the value is not a number")
    }

    /// Returns everything that a limit may change.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn state(&self) -> Vec<String> {
        let files = if self.is_v1 {
            &["memory.limit_in_bytes", "memory.oom_control"][..]
        } else {
            &[
                "memory.high",
                "memory.max",
                "cpu.weight",
                "cpu.max",
                "cgroup.subtree_control",
                "memory.swap.max",
            ]
        };
        let state = files
            .iter()
            .filter(|file| self.cgroup.has(file))
            .map(|file| self.cgroup.get(file).expect("the cgroup is gone"));
        // Flags for tasks that wait at the limit are not settings.
        let files = state.map(|text| text.lines().next().unwrap_or_default().to_owned());
        let entries = fs::read_dir(self.cgroup.directory()).expect("the cgroup is gone").flatten();
        let children = entries.filter(|entry| entry.path().is_dir());
        files
            .chain(children.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    /// Returns the same, and the settings and processes of it and each of its children.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn whole_state(&self) -> Vec<String> {
        let mut state = self.state();
        let entries = fs::read_dir(self.cgroup.directory()).expect("the cgroup is gone").flatten();
        let children = entries.filter(|entry| entry.path().is_dir());
        let mut names: Vec<_> = children.map(|entry| entry.file_name()).collect();
        names.sort();
        for name in [OsString::from(".")].into_iter().chain(names) {
            for file in ["cgroup.procs", self.limit_file(), "memory.max", "cpu.weight", "cpu.max"] {
                let path = self.cgroup.directory().join(&name).join(file);
                let text = fs::read_to_string(&path).unwrap_or_default();
                let mut lines: Vec<_> = text.lines().collect();
                // The kernel promises no order.
                lines.sort_unstable();
                state.push(format!("{}: {}", path.display(), lines.join(" ")));
            }
        }
        state
    }

    /// Returns its configuration, with permission to divide its cgroup.
    ///
    /// # Panics
    ///
    /// Panics if its path is no pattern.
    pub fn delegating(&self) -> Config {
        let mut config = self.config.clone();
        config.act.limit.delegated =
            vec![Pattern::new(&self.cgroup.path).expect("the path is not a pattern")];
        config
    }

    /// Returns whether a process is in its cgroup itself, or in a named child of it.
    ///
    /// # Panics
    ///
    /// Panics if the cgroup does not exist.
    pub fn is_in(&self, child: &str, pid: u32) -> bool {
        let processes =
            self.cgroup.get(&format!("{child}/cgroup.procs")).expect("the cgroup is gone");
        processes.lines().any(|line| line.parse() == Ok(pid))
    }

    /// Sets another limit, like another program.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn set_limit(&self, value: impl ToString) {
        self.cgroup.set(self.limit_file(), value).expect("cannot set the limit");
    }

    /// Returns `crash_target limit` for this cgroup, on account of a process in it; it may divide
    /// the cgroup if `is_delegated` is set.
    pub fn contain(&self, culprit: ProcessId, is_delegated: bool) -> Command {
        let limited = if is_delegated {
            self.cgroup.directory().join(LEAK_CHILD)
        } else {
            self.cgroup.directory().into()
        };
        let mut command = Command::new(&self.programs.crash_target);
        command
            .args(["limit", "--state-dir"])
            .arg(&self.config.record.state_dir)
            .args(["--cgroup", &self.cgroup.path]);
        command.arg("--wipe").arg(limited.join(self.limit_file()));
        // A negative number would be an option.
        command.arg(if self.is_v1 { u64::MAX.to_string() } else { "max".to_owned() });
        command.args([
            format!("--pid={}", culprit.pid),
            format!("--start-ticks={}", culprit.start_ticks),
        ]);
        if is_delegated {
            command.args(["--delegated", &self.cgroup.path]);
        }
        command
    }

    /// Starts a workload in it.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn workload(&self, args: &[&str]) -> Workload {
        let mut command = Command::new(&self.programs.workload);
        Workload::start(self.cgroup.admit(command.args(args)).expect("cannot enter the cgroup"))
    }

    /// Returns how often a process reached the limit.
    ///
    /// # Panics
    ///
    /// Panics if the cgroup is gone.
    pub fn reached(&self) -> u64 {
        if self.is_v1 {
            return self.number("memory.failcnt");
        }
        let events = self.cgroup.get("memory.events").expect("the cgroup is gone");
        let reached = events.lines().find_map(|line| line.strip_prefix("high "));
        reached.and_then(|reached| reached.parse().ok()).expect("the cgroup has no count")
    }

    /// Returns the share of the time, 0 to 1, in which all of it waits for memory: of the last ten
    /// seconds, or in version 1 now.
    ///
    /// # Panics
    ///
    /// Panics if that cannot be read.
    pub fn waiting(&self) -> f64 {
        let (file, field) = if self.is_v1 {
            ("memory.oom_control", "under_oom ")
        } else {
            ("memory.pressure", "full avg10=")
        };
        let text = self.cgroup.get(file).expect("the cgroup is gone");
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.split(' ').next()?.parse::<f64>().ok());
        value.expect("cannot parse the pressure") / if self.is_v1 { 1.0 } else { 100.0 }
    }

    /// Starts another program in it, unrelated to the workloads.
    ///
    /// # Panics
    ///
    /// Panics if it does not start.
    pub fn another_program(&self, args: &[&str]) -> Workload {
        let path = self.scratch.0.join("neighbour");
        // A running program cannot be written.
        if !path.exists() {
            fs::copy(&self.programs.workload, &path).expect("cannot copy the program");
        }
        let mut command = Command::new(path);
        Workload::start(self.cgroup.admit(command.args(args)).expect("cannot enter the cgroup"))
    }

    /// Waits until that much is used.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn until_used(&self, bytes: u64) {
        let used = wait_for(SOON, || (self.usage_bytes() >= bytes).then_some(()));
        assert!(used.is_some(), "{} MiB of {} are used", self.usage_bytes() / MIB, bytes / MIB);
    }

    /// Returns how many of its processes the kernel has killed.
    ///
    /// # Panics
    ///
    /// Panics if that fails.
    pub fn killed(&self) -> u64 {
        let file = if self.is_v1 { "memory.oom_control" } else { "memory.events" };
        let text = self.cgroup.get(file).expect("the cgroup is gone");
        let killed = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        killed.and_then(|killed| killed.parse().ok()).expect("the cgroup has no count of kills")
    }
}

/// Returns the identity of a process.
///
/// # Panics
///
/// Panics if it is gone.
pub fn life(pid: u32) -> ProcessId {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is gone");
    let (_, fields) = stat.rsplit_once(") ").expect("stat has no name in parentheses");
    let start_ticks = fields
        .split(' ')
        .nth(19)
        .and_then(|field| field.parse().ok())
        .expect("stat has no start time");
    ProcessId { pid, start_ticks }
}

/// Returns whether a process exists, and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
