//! Names that control a terminal, forge a line or hide a process: they are escaped everywhere, and
//! hide nothing.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    path::Path,
    process::Command,
    time::Duration,
};

use spillway_agent::sense::{Hierarchy, ProcessFact, Sensors};
use spillway_tests::{
    OwnCgroup, Running, Scratch, Workload, agent, is_root,
    limit_live::{Programs, Stage},
    processes,
    receiver::{Form, Receiver},
    run_with, skip, wait_for,
};

const SOON: Duration = Duration::from_secs(60);
/// Sets a terminal's title.
const COMM: &str = "\x1b]0;pwned\x07";
const COMM_SHOWN: &str = "\\x1b]0;pwned\\x07";
/// Clears a terminal, and switches the direction of the text to right-to-left.
const CGROUP: &str = "\x1b[2J\u{202e}odd";
const CGROUP_SHOWN: &str = "\\x1b[2J\\xe2\\x80\\xaeodd";

/// Command that runs the workload under another name, which becomes its process's name.
fn named(scratch: &Scratch, comm: &OsStr) -> Command {
    let program = scratch.0.join(comm);
    symlink(env!("CARGO_BIN_EXE_workload"), &program).expect("the link can be created");
    Command::new(program)
}

fn assert_harmless(what: &str, text: &str) {
    let odd = text.chars().find(|c| c.is_control() && *c != '\n' || *c == '\u{202e}');
    assert_eq!(odd, None, "{what}: {text:?}");
}

#[test]
fn odd_name_is_escaped_and_its_cgroup_still_limited() {
    let test = "odd";
    if !is_root(test) {
        return;
    }
    let programs = Programs {
        workload: env!("CARGO_BIN_EXE_workload").into(),
        crash_target: env!("CARGO_BIN_EXE_crash_target").into(),
    };
    let stage = match Stage::set_below(test, &[CGROUP], programs) {
        Ok(stage) => stage,
        Err(reason) => return skip(test, &reason),
    };
    let shown = stage.cgroup.path.replace(CGROUP, CGROUP_SHOWN);
    let slack = Receiver::start(Form::Slack);
    let url = stage.scratch.secret("slack", &slack.url("/services/T0/B0/x"));
    // A bracket starts a character class in a pattern.
    let allow = format!("allow = ['{}']", shown.replace('[', "?"));
    let text =
        format!("{}[act.page.slack]\nurl_file = \"{}\"\n", stage.quick(&allow), url.display());
    let config = stage.scratch.file("spillway.toml", &text);
    let file = if stage.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
    stage.cgroup.set(file, 512_u64 << 20).expect("the limit can be set");
    let mut leak = named(&stage.scratch, OsStr::new(COMM));
    let leak = stage
        .cgroup
        .admit(leak.args(["leak", "--rate=8MiB", "--limit=300MiB"]))
        .expect("the process can join the cgroup");
    let leak = Workload::start(leak);
    let running = Running::start(run_with(&config));
    let limited =
        wait_for(SOON, || running.printed().contains(&format!("limited {shown}")).then_some(()));
    assert!(limited.is_some(), "{}{}", running.printed(), running.log());
    let call = wait_for(SOON, || {
        slack.calls().into_iter().find(|call| call.json()["text"].to_string().contains("pwned"))
    });
    let text = call.expect("Slack is called").json()["text"]
        .as_str()
        .expect("the message has a text")
        .to_owned();
    println!("Slack: {text}");
    assert!(text.contains(COMM_SHOWN), "{text}");
    assert_harmless("Slack", &text);
    let printed = running.printed();
    assert!(printed.contains(COMM_SHOWN) && printed.contains(CGROUP_SHOWN), "{printed}");
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_harmless("printed", &printed);
    assert_harmless("log", &log);
    leak.stop();
}

#[test]
fn non_utf8_name_hides_no_process_with_or_without_bpf() {
    let test = "hides";
    if !is_root(test) {
        return;
    }
    let hierarchy = Hierarchy::detect();
    let Some(mount) = hierarchy.mount() else {
        return skip(test, "no cgroup file system is mounted");
    };
    let outer = OwnCgroup::make(mount, test).expect("root can create a cgroup");
    let inner = Inner::make(outer.directory());
    let scratch = Scratch::make(test);
    let mut command = named(&scratch, OsStr::from_bytes(b"a) R \xff\x1b"));
    let process = Workload::start(command.args(["touch", "--anon-bytes=1MiB"]));
    fs::write(inner.0.join("cgroup.procs"), process.pid().to_string())
        .expect("the process can join the cgroup");
    for mut sensors in [Sensors::start(), Sensors::without_bpf("this test compares")] {
        let found = processes(&mut sensors)
            .into_iter()
            .find(|fact: &ProcessFact| fact.id.pid == process.pid());
        let found = found.expect("the process is seen");
        assert_eq!(&*found.comm, "a) R \\xff\\x1b");
        assert_eq!(found.cgroup.strip_prefix(&*outer.path), Some("/\\xffin"), "{found:?}");
        assert!(found.anon_bytes >= 1 << 20, "{found:?}");
    }
    process.stop();
}

/// Cgroup whose name is not valid UTF-8.
struct Inner(std::path::PathBuf);

impl Inner {
    fn make(outer: &Path) -> Self {
        let directory = outer.join(OsStr::from_bytes(b"\xffin"));
        fs::create_dir(&directory).expect("root can create a cgroup");
        Self(directory)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // It is empty once its last process has been reaped.
        wait_for(SOON, || fs::remove_dir(&self.0).ok());
    }
}

#[test]
fn trace_with_odd_names_is_replayed_escaped() {
    let scratch = Scratch::make("odd-trace");
    let mut trace = String::from(
        "{\"spillway_trace\":1,\"host\":{\"mem_total_bytes\":8589934592,\"cpus\":2},\"interval_secs\":1.0}\n",
    );
    let (comm, cgroup) =
        (serde_json::json!(format!("<b>{COMM}")), serde_json::json!(format!("/{CGROUP}")));
    for t in 0..1_300_u64 {
        let bytes = (64 << 20) + t * (4 << 20);
        trace += &format!(
            "{{\"t\":{t},\"kind\":\"host\",\"mem_available_bytes\":{}}}\n{{\"t\":{t},\"kind\":\"process\",\"pid\":812,\"start_ticks\":1,\"ppid\":1,\
             \"comm\":{comm},\"cgroup\":{cgroup},\"anon_bytes\":{bytes},\"file_bytes\":0,\"shmem_bytes\":0,\"swap_bytes\":0}}\n",
            (8_u64 << 30) - bytes
        );
    }
    let trace = scratch.file("trace.jsonl", &trace);
    for args in [&["replay", "--decisions"][..], &["explain", "--pid", "812"]] {
        let output = agent().args(args).arg(&trace).output().expect("the agent runs");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        // JSON escapes a backslash again.
        let shown = text.replace("\\\\x", "\\x");
        assert!(shown.contains(COMM_SHOWN) && shown.contains(CGROUP_SHOWN), "{args:?}: {text}");
        assert_harmless(args[0], &text);
        assert!(args[0] != "explain" || !text.contains("<b>"), "{text}");
    }
    let output =
        agent().args(["explain", "--pid", "7"]).arg(&trace).output().expect("the agent runs");
    assert_harmless("the error", &String::from_utf8_lossy(&output.stderr));
}
