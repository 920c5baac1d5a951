//! Agents that are nodes of one group, through a real etcd in the test's network namespace. All of
//! them watch this host, so that they find the same leak at the same time.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use serde_json::{Value, json};
use spillway_agent::sense::Hierarchy;
use spillway_tests::{
    ANY_PORT, OwnCgroup, Running, Scratch, Servers, Workload, agent, etcd::Etcd, is_root, metric,
    now, own_network, run_with, skip, wait_for,
};

const MIB: u64 = 1 << 20;

/// Maximum time until a leak is found and answered, on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);

/// Maximum time until a node is back once its leak has ended: for half a minute another process may
/// go on with it.
const BACK_WITHIN: Duration = Duration::from_secs(120);

/// Time after which a node is silent.
pub const SILENT_AFTER: Duration = Duration::from_secs(3);

/// Group of agents, and what they watch.
struct Group {
    // Agents end before the etcd that they ask.
    agents: Vec<Running>,
    configs: Vec<PathBuf>,
    etcd: Etcd,
    cgroup: OwnCgroup,
    _scratch: Scratch,
}

impl Group {
    /// Starts this many agents, each of which claims this capacity. Returns `None` and reports a
    /// skip if something is missing.
    fn start(test: &str, nodes: usize, capacity_cpus: f64) -> Option<Self> {
        if !is_root(test) {
            return None;
        }
        let servers = Servers::find().inspect_err(|reason| skip(test, reason)).ok()?;
        own_network().expect("root can create a network namespace");
        let scratch = Scratch::make(test);
        let cgroup = limited_cgroup(test);
        let etcd = Etcd::start(&servers, &scratch.0, &[]);
        let configs: Vec<_> = (1..=nodes)
            .map(|nth| {
                scratch.file(
                    &format!("n{nth}.toml"),
                    &config(nth, capacity_cpus, &cgroup, &etcd.url(), &scratch),
                )
            })
            .collect();
        let agents: Vec<_> = configs
            .iter()
            .map(|config| {
                let mut command = run_with(config);
                command.args(["--json", "--no-bpf"]);
                Running::start(command)
            })
            .collect();
        let group = Self { agents, configs, etcd, cgroup, _scratch: scratch };
        let is_there =
            || group.fleet(0).contains(&format!("{nodes} of {nodes} nodes")).then_some(());
        assert!(wait_for(SOON, is_there).is_some(), "{}", group.fleet(0));
        Some(group)
    }

    /// Starts a process that leaks toward the cgroup's limit.
    fn leak(&self) -> Workload {
        let mut leak = Command::new(env!("CARGO_BIN_EXE_workload"));
        leak.args(["leak", "--rate", "4MiB", "--limit", "400MiB"]);
        self.cgroup.admit(&mut leak).expect("the process can join the cgroup");
        Workload::start(&mut leak)
    }

    /// Agents whose nodes are out of rotation.
    fn out(&self) -> Vec<usize> {
        let is_out = |agent: &Running| agent.get("/ready").starts_with("HTTP/1.1 503");
        (0..self.agents.len()).filter(|nth| is_out(&self.agents[*nth])).collect()
    }

    /// Output of `spillway fleet` with the configuration of one node.
    fn fleet(&self, nth: usize) -> String {
        self.output(&["fleet"], nth)
    }

    /// Group in `spillway status` of one node.
    fn status(&self, nth: usize) -> Value {
        let output = self.output(&["status", "--json"], nth);
        let status: Value =
            serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
        status["fleet"].clone()
    }

    fn output(&self, command: &[&str], nth: usize) -> String {
        let output = agent().args(command).arg("--config").arg(&self.configs[nth]).output();
        let output = output.expect("the agent runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    }

    fn logs(&self) -> String {
        let logs = self.agents.iter().map(|agent| agent.log() + &agent.printed());
        logs.collect::<Vec<_>>().join("\n---\n")
    }

    /// Nodes that paged for the leak with this severity, and those that left it to another one.
    fn pagers(&self, severity: &str) -> [Vec<usize>; 2] {
        let paged = |agent: &Running, is_refused: bool| {
            agent.printed().lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).any(
                |line| {
                    line["decision"] == "page"
                        && line["severity"] == severity
                        && line["id"].as_str().is_some_and(|id| id.contains("leak"))
                        && line["refused"].is_string() == is_refused
                },
            )
        };
        [false, true].map(|is_refused| {
            let nodes = self.agents.iter().enumerate();
            nodes.filter(|(_, agent)| paged(agent, is_refused)).map(|(nth, _)| nth).collect()
        })
    }

    fn slot(&self, nth: usize) -> Option<String> {
        self.etcd.get(&format!("/spillway/v1/web/slot/n{}", nth + 1)).map(|(run, _)| run)
    }

    fn stop(self) {
        for agent in self.agents {
            agent.stop();
        }
    }
}

/// Makes a cgroup with a limit of memory that a leak reaches.
pub fn limited_cgroup(name: &str) -> OwnCgroup {
    let hierarchy = Hierarchy::detect();
    let mount = hierarchy.mount().expect("cgroups are mounted");
    let cgroup = OwnCgroup::make(mount, name).expect("a cgroup can be created");
    let file = if hierarchy.is_v1() { "memory.limit_in_bytes" } else { "memory.max" };
    cgroup.set(file, 512 * MIB).expect("the limit can be set");
    cgroup
}

/// Configuration that judges within seconds. The cgroup that leaks is the only service, and the only
/// one that actions are asked for: the agents see the leaks of other tests too, whose limits would
/// use up the budget of actions, a drain's included.
pub fn config(
    nth: usize,
    capacity_cpus: f64,
    cgroup: &OwnCgroup,
    etcd_url: &str,
    scratch: &Scratch,
) -> String {
    let service = &cgroup.path;
    format!(
        "mode = \"enforce\"\n{ANY_PORT}[sense]\ninterval = \"100ms\"\n[detect.leak]\n\
         warm_up = \"0s\"\nhorizons = [\"4s\", \"6s\", \"10s\", \"20s\"]\nmin_growth = \"8MiB\"\n\
         [decide]\ndrain_within = \"4m\"\nservices = [\"{service}\"]\nallow = [\"{service}\"]\n\
         [act.limit]\nenabled = false\n[act.drain]\ndwell = \"1s\"\n\
         drained_within = \"2s\"\nverify = \"1s\"\nhelps_within = \"10m\"\n\
         [fleet]\nbackend = \"etcd\"\nurls = [\"{}\"]\ngroup = \"web\"\nnode = \"n{nth}\"\n\
         capacity_cpus = {capacity_cpus:.1}\nsilent_after = \"{}s\"\nturn = \"10s\"\n\
         [record]\nstate_dir = \"{}\"\n",
        etcd_url,
        SILENT_AFTER.as_secs(),
        state_dir(&scratch.0, nth).display(),
    )
}

fn state_dir(scratch: &Path, nth: usize) -> PathBuf {
    let dir = scratch.join(format!("state-{nth}"));
    fs::create_dir_all(&dir).expect("a directory can be created");
    dir
}

#[test]
fn nodes_with_one_leak_leave_one_at_a_time() {
    let Some(group) = Group::start("fleet-turns", 3, 64.0) else { return };
    let leak = group.leak();
    let begun = now();
    let mut first = None;
    let waits = || {
        let is_waiting = |agent: &Running| agent.log().contains("waiting for this node's turn");
        group.agents.iter().filter(|agent| is_waiting(agent)).count()
    };
    while first.is_none() || waits() < 2 {
        assert!(begun.elapsed() < SOON, "first: {first:?}, {}", group.logs());
        let out = group.out();
        assert!(out.len() <= 1, "{out:?} are out together: {}", group.logs());
        first = first.or(out.first().copied());
        sleep(Duration::from_millis(50));
    }
    let first = first.expect("a node left");
    // The leak is near its end at once, and one node wakes somebody for all three.
    let pagers = || group.pagers("critical");
    wait_for(SOON, || (pagers()[1].len() == 2).then_some(()));
    let [paged, left] = pagers();
    assert_eq!((paged.len(), left.len()), (1, 2), "{paged:?} {left:?}: {}", group.logs());
    let run = group.slot(first).expect("it has a slot");
    let fleet = group.fleet(first);
    assert!(fleet.contains("2 of 3 nodes are in rotation"), "{fleet}");

    // A paused agent loses its slot, and takes it back, because its node is out.
    group.agents[first].signal(libc::SIGSTOP);
    let freed = wait_for(SOON, || group.slot(first).is_none().then_some(()));
    let others = || (0..3).filter(|nth| *nth != first);
    let is_out = |nth: usize| group.agents[nth].get("/ready").starts_with("HTTP/1.1 503");
    let left: Vec<_> = others().filter(|nth| is_out(*nth)).collect();
    group.agents[first].signal(libc::SIGCONT);
    assert!(freed.is_some(), "an orphaned slot stays taken");
    assert_eq!(left, [0; 0], "a node left although another is silent: {}", group.logs());
    let back = wait_for(SOON, || group.slot(first).filter(|again| *again == run));
    assert!(back.is_some(), "{}", group.logs());
    assert_eq!(group.out(), [first]);

    leak.stop();
    let all_in = wait_for(BACK_WITHIN, || {
        (group.out().is_empty() && group.slot(first).is_none()).then_some(())
    });
    assert!(all_in.is_some(), "{:?} are out: {}", group.out(), group.logs());
    group.stop();
}

#[test]
fn node_stays_if_the_rest_cannot_carry_it_and_says_so() {
    // A node that computes uses more than a tenth of a CPU.
    let Some(group) = Group::start("fleet-short", 2, 0.1) else { return };
    let mut busy = Command::new(env!("CARGO_BIN_EXE_workload"));
    let busy = Workload::start(busy.args(["roam", "--size", "16MiB", "--threads", "1"]));
    let leak = group.leak();
    let refused = |agent: &Running| agent.line_of("outcome", "drain_refused", "node");
    for agent in &group.agents {
        let refusal =
            wait_for(SOON, || refused(agent)).unwrap_or_else(|| panic!("{}", group.logs()));
        let why = refusal["why"].as_str().unwrap_or_default();
        assert!(why.starts_with("the others cannot carry this node's load: "), "{why}");
        assert!(why.contains("CPUs of proven headroom are needed"), "{why}");
    }
    // Status and metrics say the same of the whole group.
    let status = group.status(0);
    let margin = &status["margins"][0];
    assert_eq!((&status["coordinated"], &margin["domain"]), (&json!(true), &json!("node")));
    assert_eq!(margin["can_be_lost"], false, "{status}");
    let metrics = group.agents[0].get("/metrics");
    let ratio = metric(&metrics, "spillway_fleet_margin{domain=\"node\"}");
    assert!(ratio < 1.2, "{ratio}");
    assert_eq!(group.out(), [0; 0], "{}", group.logs());
    leak.stop();
    busy.stop();
    group.stop();
}

#[test]
fn silent_coordinator_holds_up_drains_and_no_undrain() {
    let Some(mut group) = Group::start("fleet-silent", 2, 64.0) else { return };
    let leak = group.leak();
    let out = wait_for(SOON, || group.out().first().copied());
    let out = out.unwrap_or_else(|| panic!("nobody left: {}", group.logs()));
    group.etcd.kill();
    let other = 1 - out;
    let refused = || group.agents[other].line_of("outcome", "drain_refused", "node");
    let refusal = wait_for(SOON, refused).unwrap_or_else(|| panic!("{}", group.logs()));
    let why = refusal["why"].as_str().unwrap_or_default();
    assert!(why.contains("etcd at http://127.0.0.1:") && why.contains("did not answer"), "{why}");
    assert_eq!(group.out(), [out], "{}", group.logs());
    leak.stop();
    let all_in = wait_for(BACK_WITHIN, || group.out().is_empty().then_some(()));
    assert!(all_in.is_some(), "{}", group.logs());
    let fleet = group.fleet(other);
    assert!(fleet.contains("did not answer"), "{fleet}");
    // An operator needs nobody's permission.
    let drained = agent().args(["drain", "--config"]).arg(&group.configs[other]).status();
    assert!(drained.is_ok_and(|status| status.success()));
    assert!(wait_for(SOON, || (group.out() == [other]).then_some(())).is_some());
    group.stop();
}
