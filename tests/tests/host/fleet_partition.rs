//! Agents that are nodes of one group, each in a network and a PID namespace of its own, whose links
//! to each other and to a real etcd are cut.

use std::{path::Path, thread::sleep};

use spillway_tests::{
    OwnCgroup, Running, Scratch, Servers, Workload, built,
    etcd::Etcd,
    is_root,
    node::{Node, OUTSIDE, only_child},
    own_network, run_with, skip,
    tls::Authority,
    wait_for,
};

use super::fleet::{SILENT_AFTER, SOON, config, limited_cgroup};

const TEST: &str = "fleet-partition";
const NODES: usize = 3;

/// Node with its agent, and a process that leaks there.
struct LeakingNode {
    agent: Running,
    leak: Option<Workload>,
    node: Node,
    // Removed once its processes are gone.
    cgroup: OwnCgroup,
}

impl LeakingNode {
    fn start(nth: usize, ca_file: &Path, scratch: &Scratch) -> Self {
        let node = Node::make(nth).expect("root can make namespaces");
        let cgroup = limited_cgroup(&format!("{TEST}-{nth}"));
        let url = format!("https://{OUTSIDE}:2301");
        let ca_file = format!("\n[fleet]\nca_file = \"{}\"\n", ca_file.display());
        let text = config(nth + 1, 64.0, &cgroup, &url, scratch).replace("\n[fleet]\n", &ca_file);
        let agent = run_with(&scratch.file(&format!("n{}.toml", nth + 1), &text));
        let mut command = node.enter(agent.get_program());
        command.args(agent.get_args()).args(["--json", "--no-bpf"]);
        Self { agent: Running::start(command), leak: None, node, cgroup }
    }

    /// Starts a process that leaks toward the limit of its cgroup.
    fn leaks(&mut self) {
        let mut command = self.node.enter(built("workload"));
        command.args(["leak", "--rate", "4MiB", "--limit", "400MiB"]);
        self.cgroup.admit(&mut command).expect("the process can join the cgroup");
        self.leak = Some(Workload::start(&mut command));
    }

    fn has(&self, event: &str) -> bool {
        self.agent.line_of("outcome", event, "node").is_some()
    }

    fn refusal(&self) -> Option<String> {
        let refused = self.agent.line_of("outcome", "drain_refused", "node")?;
        refused["why"].as_str().map(str::to_owned)
    }
}

fn logs(nodes: &[LeakingNode]) -> String {
    let logs = nodes.iter().map(|node| node.agent.log() + &node.agent.printed());
    logs.collect::<Vec<_>>().join("\n---\n")
}

#[test]
fn node_that_is_cut_off_stays_and_holds_up_the_others() {
    if !is_root(TEST) {
        return;
    }
    let Ok(servers) = Servers::find().inspect_err(|reason| skip(TEST, reason)) else { return };
    own_network().expect("root can create a network namespace");
    let scratch = Scratch::make(TEST);
    let authority = Authority::make();
    let file = |name: &str| scratch.0.join(name);
    let ca_file = scratch.file("ca.crt", &authority.pem());
    authority.files(OUTSIDE, &file("server.crt"), &file("server.key"));
    let argument = |name: &str, path: &str| format!("--{name}={}", file(path).display());
    let arguments = [
        argument("cert-file", "server.crt"),
        argument("key-file", "server.key"),
        "--listen-client-urls=http://127.0.0.1:2300,https://0.0.0.0:2301".to_owned(),
    ];
    let etcd = Etcd::start(&servers, &scratch.0, &arguments.each_ref().map(String::as_str));
    let start = |nth| LeakingNode::start(nth, &ca_file, &scratch);
    let mut nodes: Vec<_> = (0..NODES).map(start).collect();
    let is_member = |nth: usize| etcd.get(&format!("/spillway/v1/web/alive/n{nth}")).is_some();
    let are_members = || (1..=NODES).all(is_member).then_some(());
    assert!(wait_for(SOON, are_members).is_some(), "{}", logs(&nodes));

    // All leak, and the first is cut off from etcd and from the others.
    nodes[0].node.set_connected(false).expect("the link can be cut");
    assert!(wait_for(SOON, || (!is_member(1)).then_some(())).is_some(), "it still renews");
    nodes.iter_mut().for_each(LeakingNode::leaks);
    let all_refused = || nodes.iter().map(LeakingNode::refusal).collect::<Option<Vec<_>>>();
    let refusals = wait_for(SOON, all_refused).unwrap_or_else(|| panic!("{}", logs(&nodes)));
    assert!(refusals[0].contains("did not answer"), "{refusals:?}");
    for why in &refusals[1..] {
        assert!(why.contains("silent"), "{why}");
    }
    assert!(!nodes.iter().any(|node| node.has("draining")), "{}", logs(&nodes));

    // It is connected again: one node leaves, and its agent is killed while it is out.
    nodes[0].node.set_connected(true).expect("the link can be restored");
    let out = || nodes.iter().position(|node| node.has("draining"));
    let first = wait_for(SOON, out).unwrap_or_else(|| panic!("{}", logs(&nodes)));
    let slot = || etcd.get(&format!("/spillway/v1/web/slot/n{}", first + 1));
    assert!(wait_for(SOON, slot).is_some(), "{}", logs(&nodes));
    let agent = only_child(nodes[first].agent.pid()).expect("the agent runs");
    // SAFETY: kill takes two integers.
    unsafe { libc::kill(agent as i32, libc::SIGKILL) };
    let freed = wait_for(SILENT_AFTER * 3, || slot().is_none().then_some(()));
    assert!(freed.is_some(), "the slot of a killed agent stays taken");
    sleep(SILENT_AFTER);
    let out = nodes.iter().filter(|node| node.has("draining")).count();
    assert_eq!(out, 1, "a node left although another is silent: {}", logs(&nodes));
}
