//! The agent in a cgroup namespace of its own, as a container runtime starts it: it has to name the
//! cgroups of other processes as the host does.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use serde_json::Value;
use spillway_agent::sense::Hierarchy;
use spillway_tests::{OwnCgroup, Workload, agent, apart, is_root};

/// Records for a second in a cgroup and a namespace of its own; returns the facts.
fn recorded(from: &OwnCgroup, args: &[&str]) -> Vec<Value> {
    let mut command = agent();
    command.args(["record", "--out", "-", "--duration", "1s"]).args(args);
    from.admit(&mut command).expect("entering the cgroup");
    let leave_the_hosts = || {
        // SAFETY: a new cgroup namespace for this process; the call touches no memory.
        let done = unsafe { libc::unshare(libc::CLONE_NEWCGROUP) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(leave_the_hosts) };
    let output = command.stdin(Stdio::null()).output().expect("running the agent");
    assert!(output.status.success(), "{output:?}");
    let lines = output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("a trace is JSON")).collect()
}

#[test]
fn container_names_cgroups_as_the_host_does() {
    if !is_root("container_names_cgroups_as_the_host_does") {
        return;
    }
    let hierarchy = Hierarchy::detect();
    let mount = hierarchy.mount().expect("cgroups are mounted");
    let pod = OwnCgroup::make(mount, "namespace-pod").expect("making a cgroup");
    let [container, beside] =
        ["container", "beside"].map(|name| pod.make_below(name).expect("making a cgroup"));
    let touch = || {
        let mut workload = Command::new(env!("CARGO_BIN_EXE_workload"));
        workload.arg("touch");
        workload
    };
    let sibling = Workload::start(beside.admit(&mut touch()).expect("entering the cgroup"));
    let (Some(cgroup), elsewhere) = apart("namespace-elsewhere", &mut touch()) else {
        panic!("root can make a cgroup");
    };
    let limit = if hierarchy.is_v1() { "memory.limit_in_bytes" } else { "memory.max" };
    cgroup.set(limit, 1 << 30).expect("setting a limit");
    for args in [&[][..], &["--no-bpf"]] {
        let facts = recorded(&container, args);
        let of = |pid: u32| {
            let is_its = |fact: &&Value| fact["kind"] == "process" && fact["pid"] == pid;
            facts.iter().find(is_its).unwrap_or_else(|| panic!("{args:?}: no fact of {pid}"))
        };
        assert_eq!(of(elsewhere.pid())["cgroup"], *cgroup.path, "{args:?}");
        assert_eq!(of(elsewhere.pid())["memory_max_bytes"], 1 << 30, "{args:?}");
        assert_eq!(of(sibling.pid())["cgroup"], *beside.path, "{args:?}");
    }
}
