//! Live: limits on cgroups, with real processes in them: nobody is killed, nobody else is touched, and nothing stays.

use std::{fs, path::PathBuf, process::Command, sync::Arc, time::Duration};

use serde_json::Value;
use spillway_agent::{
    act::{Event, Journal, Outcome, Pause, Undone, limit::Limits, undo_all},
    config::Config,
    sense::{Hierarchy, ProcessId},
};
use spillway_tests::{
    ANY_PORT, Came, OwnCgroup, Running, Scratch, Workload, agent, is_root, run_until, run_with, skip, wait_for,
};

const MIB: u64 = 1 << 20;
const MARGIN_BYTES: u64 = 16 * MIB;
/// What a CPU keeps of a cgroup's charge to itself, and what is charged over memory.high before a process is slowed down.
const OVER_BYTES: u64 = 8 * MIB;
/// What to wait for is there within milliseconds, or on a busy machine seconds.
const SOON: Duration = Duration::from_secs(10);
const ID: &str = "leak-1-1";

/// A cgroup that may be limited, and the names of its files.
struct Stage {
    scratch: Scratch,
    cgroup: OwnCgroup,
    is_v1: bool,
    config: Config,
}

impl Stage {
    /// `None`, told as a skip, where no cgroup can be limited here.
    fn set(test: &str) -> Option<Self> {
        if !is_root(test) {
            return None;
        }
        let hierarchy = Hierarchy::detect();
        let cgroup = match hierarchy.mount().map(|mount| OwnCgroup::make(mount, test)) {
            Some(Ok(cgroup)) if cgroup.has("memory.high") || cgroup.has("memory.limit_in_bytes") => cgroup,
            other => {
                skip(test, &format!("no cgroup can be limited here: {:?}", other.and_then(Result::err)));
                return None;
            }
        };
        let scratch = Scratch::make(test);
        let mut config = Config::default();
        config.act.limit.margin_bytes = MARGIN_BYTES;
        config.record.state_dir = scratch.0.join("state");
        Some(Self { scratch, cgroup, is_v1: hierarchy.is_v1(), config })
    }

    fn limits(&self) -> Limits {
        Limits::new(&self.config, Ok(self.journal()))
    }

    fn journal(&self) -> Journal {
        Journal::claim(&self.config.record.state_dir).expect("the journal is nobody else's")
    }

    fn limit(&self, limits: &mut Limits, pid: u32) -> Outcome {
        limits.limit(0.0, ID, &Arc::from(self.cgroup.path.as_str()), life(pid))
    }

    fn limit_file(&self) -> &'static str {
        if self.is_v1 { "memory.limit_in_bytes" } else { "memory.high" }
    }

    fn unlimited(&self) -> &'static str {
        if self.is_v1 { "-1" } else { "max" }
    }

    fn usage_bytes(&self) -> u64 {
        self.number(if self.is_v1 { "memory.usage_in_bytes" } else { "memory.current" })
    }

    fn number(&self, file: &str) -> u64 {
        self.cgroup.get(file).expect("the cgroup is there").trim().parse().expect("it is a number")
    }

    /// All that a limit may change.
    fn state(&self) -> Vec<String> {
        let files = if self.is_v1 {
            &["memory.limit_in_bytes", "memory.oom_control"][..]
        } else {
            &["memory.high", "memory.max"]
        };
        let state = files.iter().map(|file| self.cgroup.get(file).expect("the cgroup is there"));
        // Whether somebody waits at the limit is not changed by anybody.
        state.map(|text| text.lines().next().unwrap_or_default().to_owned()).collect()
    }

    fn set_limit(&self, value: impl ToString) {
        self.cgroup.set(self.limit_file(), value).expect("the kernel takes it");
    }

    fn workload(&self, args: &[&str]) -> Workload {
        let mut command = Command::new(env!("CARGO_BIN_EXE_workload"));
        Workload::start(self.cgroup.admit(command.args(args)).expect("the cgroup can be entered"))
    }

    /// Waits until so much is used.
    fn until_used(&self, bytes: u64) {
        let used = wait_for(SOON, || (self.usage_bytes() >= bytes).then_some(()));
        assert!(used.is_some(), "{} MiB of {} are used", self.usage_bytes() / MIB, bytes / MIB);
    }

    /// Whether the kernel has killed anybody in it.
    fn killed(&self) -> u64 {
        let file = if self.is_v1 { "memory.oom_control" } else { "memory.events" };
        let text = self.cgroup.get(file).expect("the cgroup is there");
        let killed = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        killed.and_then(|killed| killed.parse().ok()).expect("it counts whom it kills")
    }
}

fn life(pid: u32) -> ProcessId {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    let (_, fields) = stat.rsplit_once(") ").expect("its name is in parentheses");
    let start_ticks = fields.split(' ').nth(19).and_then(|field| field.parse().ok()).expect("it has a start");
    ProcessId { pid, start_ticks }
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn a_leaker_is_held_and_nobody_is_killed_and_it_goes_on_when_that_is_over() {
    let Some(stage) = Stage::set("held") else { return };
    let before = stage.state();
    let leak = stage.workload(&["leak", "--rate=100MiB", "--limit=600MiB"]);
    stage.until_used(40 * MIB);
    let mut limits = stage.limits();
    let outcome = stage.limit(&mut limits, leak.pid());
    assert_eq!(outcome.event, Event::Limited, "{outcome:?}");
    let limit_bytes = outcome.limit_bytes.expect("it says which");
    assert_eq!(stage.number(stage.limit_file()), limit_bytes);
    stage.until_used(limit_bytes - OVER_BYTES);
    for _ in 0..20 {
        assert!(stage.usage_bytes() <= limit_bytes + OVER_BYTES, "{} MiB", stage.usage_bytes() / MIB);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(is_alive(leak.pid()));
    let undone = limits.undo_all(1.0);
    assert!(matches!(&undone[..], [one] if one.event == Event::Undone && one.id.as_ref() == ID), "{undone:?}");
    assert_eq!(stage.state(), before);
    stage.until_used(limit_bytes + 4 * OVER_BYTES);
    assert!(is_alive(leak.pid()));
    assert_eq!(stage.killed(), 0);
    leak.stop();
}

#[test]
fn what_should_not_be_limited_is_refused_with_the_reason_and_left_as_it_is() {
    let Some(stage) = Stage::set("refused") else { return };
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let mut limits = stage.limits();
    let before = stage.state();
    let refused = |limits: &mut Limits, pid: u32| {
        let outcome = stage.limit(limits, pid);
        assert_eq!(outcome.event, Event::Refused, "{outcome:?}");
        let (entries, _) = Journal::find(&stage.config.record.state_dir).unwrap().unwrap().entries().unwrap();
        assert!(entries.is_empty(), "{entries:?}");
        outcome.why
    };

    // Not in it, and one that had the same pid before.
    assert_eq!(refused(&mut limits, std::process::id()), "the process is not in it any more");
    let gone = ProcessId { start_ticks: 1, ..life(leak.pid()) };
    let outcome = limits.limit(0.0, ID, &Arc::from(stage.cgroup.path.as_str()), gone);
    assert_eq!(outcome.why, "the process is not in it any more");
    assert_eq!(limits.limit(0.0, ID, &Arc::from("/no/such"), life(leak.pid())).event, Event::Refused);

    let mut neighbour = Command::new("sleep");
    let mut neighbour = stage.cgroup.admit(neighbour.arg("60")).unwrap().spawn().expect("sleep is there");
    let named = wait_for(SOON, || {
        let why = refused(&mut limits, leak.pid());
        why.starts_with(&format!("it is shared with sleep (pid {})", neighbour.id())).then_some(())
    });
    assert!(named.is_some(), "{}", refused(&mut limits, leak.pid()));
    neighbour.kill().and_then(|()| neighbour.wait()).expect("it ends");

    let pause = Pause::below(&stage.config.record.state_dir);
    pause.turn_on().unwrap();
    assert!(refused(&mut limits, leak.pid()).starts_with(&format!("paused by {}", pause.path().display())));
    pause.turn_off().unwrap();
    assert_eq!(stage.state(), before);

    stage.set_limit(16 * MIB);
    let before = stage.state();
    let why = refused(&mut limits, leak.pid());
    assert!(why.starts_with(&format!("it has {}={} already", stage.limit_file(), 16 * MIB)), "{why}");
    assert_eq!(stage.state(), before);
    leak.stop();
}

#[test]
fn what_others_change_is_set_again_three_times_and_then_theirs() {
    let Some(stage) = Stage::set("others") else { return };
    let before = stage.state();
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let mut limits = stage.limits();
    let limit_bytes = stage.limit(&mut limits, leak.pid()).limit_bytes.expect("it is limited");
    assert!(limits.look(1.0).is_empty());
    for turn in 0..3 {
        stage.set_limit(stage.unlimited());
        let looked = limits.look(2.0 + f64::from(turn));
        assert!(matches!(&looked[..], [one] if one.event == Event::Reasserted), "{looked:?}");
        assert_eq!(stage.number(stage.limit_file()), limit_bytes);
    }
    let theirs = limit_bytes + 64 * MIB;
    stage.set_limit(theirs);
    let looked = limits.look(9.0);
    assert!(matches!(&looked[..], [one] if one.event == Event::Yielded), "{looked:?}");
    assert_eq!(stage.number(stage.limit_file()), theirs);
    // All but what they changed is as before, and the limit is nobody's business any more.
    assert_eq!(stage.state()[1], before[1]);
    assert!(limits.look(10.0).is_empty() && limits.undo_all(11.0).is_empty());
    assert_eq!(stage.number(stage.limit_file()), theirs);
    leak.stop();
}

#[test]
fn whatever_is_paused_or_undone_by_hand_is_not_set_again() {
    let Some(stage) = Stage::set("by-hand") else { return };
    let before = stage.state();
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let mut limits = stage.limits();
    assert_eq!(stage.limit(&mut limits, leak.pid()).event, Event::Limited);
    let pause = Pause::below(&stage.config.record.state_dir);
    pause.turn_on().unwrap();
    stage.set_limit(stage.unlimited());
    assert!(limits.look(1.0).is_empty());
    assert_eq!(stage.state()[0], before[0]);
    pause.turn_off().unwrap();
    assert_eq!(limits.look(2.0).len(), 1);
    assert_ne!(stage.state(), before);

    // As `spillway undo` does, beside an agent that holds the journal.
    let undone = undo_all(&Journal::find(&stage.config.record.state_dir).unwrap().unwrap());
    assert!(matches!(&undone[..], [one] if one.is_done()), "{undone:?}");
    assert_eq!(stage.state(), before);
    let looked = limits.look(3.0);
    assert!(matches!(&looked[..], [one] if one.event == Event::Undone), "{looked:?}");
    assert!(limits.look(4.0).is_empty());
    assert_eq!(stage.state(), before);
    leak.stop();
}

#[test]
fn an_incident_that_is_over_gives_back_what_was_there_and_one_of_two_does_not() {
    let Some(stage) = Stage::set("over") else { return };
    let before = stage.state();
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let mut limits = stage.limits();
    assert_eq!(stage.limit(&mut limits, leak.pid()).event, Event::Limited);
    let cgroup = Arc::from(stage.cgroup.path.as_str());
    let again = limits.limit(0.5, "leak-2-2", &cgroup, life(leak.pid()));
    assert_eq!(again.why, "it is limited already");
    limits.end(ID);
    assert!(limits.look(1.0).is_empty());
    assert_ne!(stage.state(), before);
    limits.end("leak-2-2");
    let looked = limits.look(2.0);
    assert!(matches!(&looked[..], [one] if one.event == Event::Undone), "{looked:?}");
    assert_eq!(stage.state(), before);
    leak.stop();
}

#[test]
fn killed_between_any_two_system_calls_it_leaves_what_undo_puts_back() {
    let Some(stage) = Stage::set("killed") else { return };
    let before = stage.state();
    let leak = stage.workload(&["touch", "--anon-bytes=8MiB"]);
    let life = life(leak.pid());
    let contain = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_contain"));
        command.arg("--state-dir").arg(&stage.config.record.state_dir).args(["--cgroup", &stage.cgroup.path]);
        command.arg("--wipe").arg(stage.cgroup.directory().join(stage.limit_file()));
        // A negative number would be an option.
        command.arg(if stage.is_v1 { u64::MAX.to_string() } else { "max".to_owned() });
        command.args([format!("--pid={}", life.pid), format!("--start-ticks={}", life.start_ticks)]);
        command
    };
    let (mut stops, mut left, mut found) = (0, 0, 0);
    // Each run ends a step later than the one before it, and the last one by itself.
    while run_until(contain(), stops + 1) == Came::Killed {
        stops += 1;
        left += u32::from(stage.state() != before);
        // As the next agent does when it starts.
        let undone = undo_all(&stage.journal());
        found += u32::from(!undone.is_empty());
        assert!(undone.iter().all(Undone::is_done), "stop {stops}: {undone:?}");
        assert_eq!(stage.state(), before, "stop {stops}: {undone:?}");
        assert!(undo_all(&stage.journal()).is_empty(), "stop {stops}");
    }
    assert_eq!(stage.state(), before, "it puts everything back itself");
    println!("killed at {stops} stops: the limit stood after {left}, the journal spoke after {found}");
    assert!(stops > 100 && left > 20 && found > left, "{left} of {stops} left a limit, {found} an entry");
    leak.stop();
}

/// A configuration that judges within seconds and acts.
fn quick(stage: &Stage) -> String {
    format!(
        "mode = \"enforce\"\n{ANY_PORT}[sense]\ninterval = \"100ms\"\n[detect.leak]\nwarm_up = \"0s\"\n\
         horizons = [\"4s\", \"6s\", \"10s\", \"20s\"]\nmin_growth = \"16MiB\"\n[decide]\nlimit_within = \"1d\"\n\
         [act.limit]\nmargin = \"16MiB\"\n[record]\nstate_dir = \"{}\"\n",
        stage.config.record.state_dir.display()
    )
}

/// The first line that the agent prints of this kind, as JSON.
fn line_of(running: &Running, kind: &str, value: &str) -> Option<Value> {
    let is_it = |line: &Value| line[kind] == value;
    running.printed().lines().filter_map(|line| serde_json::from_str(line).ok()).find(is_it)
}

/// What the cgroup was before, an agent that has limited it, and the leaker in it.
fn limited(stage: &Stage) -> (Vec<String>, Running, Workload) {
    // An end that is near, for a forecast.
    let file = if stage.is_v1 { "memory.limit_in_bytes" } else { "memory.max" };
    stage.cgroup.set(file, 1_024 * MIB).expect("the kernel takes it");
    let before = stage.state();
    let config = stage.scratch.0.join("spillway.toml");
    fs::write(&config, quick(stage)).expect("a configuration can be written");
    let mut command = run_with(&config);
    command.arg("--json");
    let running = Running::start(command);
    let leak = stage.workload(&["leak", "--rate=8MiB", "--limit=800MiB"]);
    let outcome = wait_for(Duration::from_secs(60), || line_of(&running, "outcome", "limited"));
    let outcome = outcome.unwrap_or_else(|| panic!("it limits nothing: {}{}", running.printed(), running.log()));
    let decision = line_of(&running, "decision", "limit").expect("it was decided");
    assert_eq!((&decision["performed"], &decision["mode"]), (&Value::Bool(true), &Value::from("enforce")));
    assert_eq!(outcome["cgroup"], stage.cgroup.path);
    let limit_bytes = outcome["limit_bytes"].as_u64().expect("it says which");
    assert_eq!(stage.number(stage.limit_file()), limit_bytes);
    let t = |line: &Value| line["t"].as_f64().expect("it has a time");
    let took = t(&outcome) - t(&decision);
    println!("limited {:.0} ms after it was decided, at {} MiB", took * 1e3, limit_bytes / MIB);
    assert!(took < 0.5, "{took} s");
    (before, running, leak)
}

#[test]
fn the_agent_limits_a_leaker_and_puts_back_what_was_when_it_is_told_to_stop() {
    let Some(stage) = Stage::set("agent") else { return };
    let (before, running, leak) = limited(&stage);
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(stage.state(), before);
    assert!(is_alive(leak.pid()));
    assert_eq!(stage.killed(), 0);
    leak.stop();
}

#[test]
fn a_killed_agent_leaves_what_the_undo_command_and_the_next_agent_put_back() {
    let Some(stage) = Stage::set("undo") else { return };
    let config = stage.scratch.0.join("spillway.toml");
    for by_command in [true, false] {
        let (before, running, leak) = limited(&stage);
        running.signal(libc::SIGKILL);
        drop(running);
        assert_ne!(stage.state(), before);
        if by_command {
            let undone = agent().args(["undo", "--config"]).arg(&config).output().expect("the agent runs");
            let told = String::from_utf8_lossy(&undone.stdout).into_owned();
            assert!(undone.status.success() && told.starts_with("put back the limit of "), "{told}");
        } else {
            // Whatever it is configured to do.
            let observe = quick(&stage).replace("enforce", "observe");
            fs::write(&config, observe).expect("a configuration can be written");
            let mut command = run_with(&config);
            command.arg("--json");
            let next = Running::start(command);
            assert!(line_of(&next, "outcome", "undone").is_some(), "{}{}", next.printed(), next.log());
        }
        assert_eq!(stage.state(), before);
        assert!(is_alive(leak.pid()));
        leak.stop();
    }
    let again = agent().args(["undo", "--config"]).arg(&config).output().expect("the agent runs");
    assert!(String::from_utf8_lossy(&again.stdout).starts_with("nothing to undo"), "{again:?}");
}

#[test]
fn a_directory_that_is_not_to_be_had_keeps_it_from_acting_and_not_from_watching() {
    let Some(stage) = Stage::set("no-journal") else { return };
    let taken: PathBuf = stage.scratch.file("taken", "");
    let config =
        quick(&stage).replace(&stage.config.record.state_dir.display().to_string(), &taken.display().to_string());
    let running = Running::start(run_with(&stage.scratch.file("spillway.toml", &config)));
    assert!(running.is_well());
    let (code, log) = running.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(log.matches("nothing will be limited: there is no journal").count(), 1, "{log}");
}
