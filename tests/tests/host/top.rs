//! `spillway top` in a real terminal: what it shows of a running agent, what its keys do, and that
//! the terminal is itself again however it ends.

use std::{fs, process::Command, time::Duration};

use spillway_tests::{ANY_PORT, agent, is_root, skip, wait_for};

use crate::status::Node;

const SOON: Duration = Duration::from_secs(20);

/// Terminal without a screen, in which a shell runs.
struct Tmux<'a> {
    node: &'a Node,
}

impl<'a> Tmux<'a> {
    /// Starts it with eighty columns and 24 lines, as every terminal has. Reports a skip and
    /// returns `None` without tmux.
    fn start(node: &'a Node, test: &str) -> Option<Self> {
        if Command::new("tmux").arg("-V").output().is_err() {
            skip(test, "needs tmux");
            return None;
        }
        let terminal = Self { node };
        // Without the user's own configuration, and with UTF-8 whatever the locale.
        terminal.tmux(&["-u", "-f", "/dev/null", "new-session", "-d", "-x80", "-y24", "sh"]);
        terminal.keys(&["PS1='$ '", "Enter"]);
        Some(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        let socket = self.node.scratch.0.join("tmux");
        command.arg("-S").arg(socket).args(arguments).env_remove("TMUX").env_remove("NO_COLOR");
        let output = command.output().expect("tmux runs");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn screen(&self) -> String {
        self.tmux(&["-u", "capture-pane", "-p"])
    }

    /// Returns the colours of texts on the screen, as codes of a terminal: 30 to 37, and 38 before
    /// the number of one in a palette.
    fn colours(&self) -> Vec<String> {
        let screen = self.tmux(&["-u", "capture-pane", "-e", "-p"]);
        let codes = screen.split("\x1b[").skip(1).filter_map(|rest| rest.split('m').next());
        let codes = codes.flat_map(|codes| codes.split(';'));
        codes.filter(|code| ("30".."39").contains(code)).map(str::to_owned).collect()
    }

    /// Types the command, and its exit status behind it.
    fn run_top(&self) {
        self.run_top_with("");
    }

    /// Types the command behind a setting of its environment.
    fn run_top_with(&self, setting: &str) {
        let program = agent().get_program().to_string_lossy().into_owned();
        let config = self.node.config.display();
        let command = format!("clear; {setting} {program} top --config {config}; echo \"exit=$?\"");
        self.keys(&["-l", &command]);
        self.keys(&["Enter"]);
    }

    /// Waits until the screen has all of these texts, and returns it.
    fn wait_for(&self, wanted: &[&str]) -> String {
        let found = wait_for(SOON, || {
            let screen = self.screen();
            wanted.iter().all(|text| screen.contains(text)).then_some(screen)
        });
        found.unwrap_or_else(|| panic!("no {wanted:?} in\n{}", self.screen()))
    }

    /// Waits until the screen no longer has a text.
    fn wait_without(&self, text: &str) {
        let gone = wait_for(SOON, || (!self.screen().contains(text)).then_some(()));
        assert!(gone.is_some(), "still {text:?} in\n{}", self.screen());
    }

    /// Waits until the command has ended with this status, and checks the terminal that it left: the
    /// shell's own screen, a cursor, and keys that are shown and taken by the line.
    fn assert_restored(&self, status: i32) {
        self.wait_for(&[&format!("exit={status}")]);
        let modes = self.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        assert_eq!(modes, "0 1", "{}", self.screen());
        self.keys(&["-l", "echo a-$((40 + 2))"]);
        self.wait_for(&["$ echo a-$((40 + 2))"]);
        self.keys(&["Enter"]);
        self.wait_for(&["\na-42"]);
    }

    /// Process id of the running command.
    fn top_pid(&self) -> i32 {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let found = wait_for(SOON, || {
            let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"));
            children.ok()?.split_whitespace().next()?.parse().ok()
        });
        found.unwrap_or_else(|| panic!("no command runs in\n{}", self.screen()))
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[test]
fn top_shows_a_running_agent_and_pauses_it() {
    let test = "top_shows_a_running_agent";
    if !is_root(test) {
        return;
    }
    let node = Node::make("top", ANY_PORT);
    let Some(terminal) = Tmux::start(&node, test) else { return };
    let paused = node.scratch.0.join("state/paused");

    terminal.run_top();
    terminal.wait_for(&["spillway: no agent answers at", "systemctl start spillway"]);
    terminal.assert_restored(1);

    let running = node.start();
    terminal.run_top();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("the kernel tells");
    let host: String = host.trim().chars().take(20).collect();
    let pid = format!("pid {}", running.pid());
    let screen = terminal.wait_for(&["[1 Workloads]", "WORKLOAD", "? help", &host, &pid]);
    assert!(screen.contains("  observe  health ") && screen.contains("  up "), "{screen}");
    assert!(screen.contains("rotation: in service (ready 100%)"), "{screen}");

    terminal.keys(&["2"]);
    terminal.wait_for(&["[2 Listeners]", "ADDRESS"]);
    terminal.keys(&["Tab"]);
    terminal.wait_for(&["[3 Resources]", "RESOURCE"]);
    terminal.keys(&["6"]);
    // Without BPF each probe says what it lacks.
    terminal.wait_for(&["[6 Probes]", "process_memory"]);
    terminal.keys(&["-l", "/process_mem"]);
    terminal.wait_for(&["/process_mem_"]);
    terminal.keys(&["Enter"]);
    terminal.wait_for(&["1 of 1", "only lines with \"process_mem\""]);
    terminal.keys(&["Enter"]);
    terminal.wait_for(&["probe       process_memory", "lacks  "]);
    terminal.keys(&["Escape"]);
    terminal.wait_for(&["1 of 1"]);
    terminal.keys(&["?"]);
    terminal.wait_for(&["1-6, Tab", "choose the column to sort by"]);
    terminal.keys(&["Escape"]);
    terminal.wait_without("1-6, Tab");
    terminal.keys(&["C-l"]);
    terminal.wait_for(&["[6 Probes]", "1 of 1"]);
    terminal.tmux(&["resize-window", "-x120", "-y40"]);
    terminal.wait_for(&["[6 Probes (", "1 Workloads ("]);
    terminal.tmux(&["resize-window", "-x80", "-y24"]);
    terminal.wait_for(&["1 Workloads  2"]);

    terminal.keys(&["p"]);
    terminal.wait_for(&["Pause all new actions of this agent? y/n"]);
    assert!(!paused.exists());
    terminal.keys(&["y"]);
    let screen = terminal.wait_for(&["Paused: Spillway starts no action", "observe  PAUSED"]);
    assert!(paused.exists(), "{screen}");
    assert!(!terminal.colours().is_empty(), "{screen}");
    terminal.keys(&["q"]);
    terminal.assert_restored(0);

    terminal.run_top_with("NO_COLOR=1");
    terminal.wait_for(&["observe  PAUSED", "p resume"]);
    assert_eq!(terminal.colours(), Vec::<String>::new());
    terminal.keys(&["p"]);
    terminal.wait_for(&["may the agent act again", "y/n"]);
    terminal.keys(&["y"]);
    terminal.wait_for(&["Resumed: Spillway observes again"]);
    terminal.wait_without("PAUSED");
    assert!(!paused.exists());

    terminal.keys(&["q"]);
    terminal.assert_restored(0);
    assert_eq!(running.stop().0, Some(0));
}

#[test]
fn top_keeps_the_last_report_of_a_killed_agent() {
    let test = "top_keeps_the_last_report";
    if !is_root(test) {
        return;
    }
    let node = Node::make("top-killed", ANY_PORT);
    let Some(terminal) = Tmux::start(&node, test) else { return };
    let running = node.start();
    let pid = format!("pid {}", running.pid());
    terminal.run_top();
    terminal.wait_for(&[&pid]);
    terminal.keys(&["6"]);
    terminal.wait_for(&["process_memory"]);
    running.signal(libc::SIGKILL);
    drop(running);
    let screen = terminal.wait_for(&["NO ANSWER since", "no agent answers at"]);
    assert!(screen.contains("process_memory") && screen.contains("observe"), "{screen}");
    let next = node.start();
    let pid = format!("pid {}", next.pid());
    terminal.wait_for(&["health", &pid]);
    terminal.wait_without("NO ANSWER");
    assert_eq!(next.stop().0, Some(0));
    terminal.wait_for(&["NO ANSWER since"]);
    terminal.keys(&["C-c"]);
    terminal.assert_restored(0);
}

#[test]
fn top_restores_the_terminal_at_each_signal() {
    let test = "top_restores_the_terminal";
    if !is_root(test) {
        return;
    }
    let node = Node::make("top-signals", ANY_PORT);
    let Some(terminal) = Tmux::start(&node, test) else { return };
    let running = node.start();
    let end = |signal: i32| {
        terminal.run_top();
        terminal.wait_for(&["[1 Workloads]"]);
        // SAFETY: a signal to a process whose parent, the shell, has not waited for it yet.
        assert_eq!(unsafe { libc::kill(terminal.top_pid(), signal) }, 0);
    };
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        end(signal);
        terminal.assert_restored(0);
    }
    // A terminal that is gone ends it, too, with the signal or without.
    terminal.run_top();
    terminal.wait_for(&["[1 Workloads]"]);
    let pid = terminal.top_pid();
    terminal.tmux(&["kill-server"]);
    let ended = wait_for(SOON, || fs::metadata(format!("/proc/{pid}")).err());
    assert!(ended.is_some(), "it goes on without a terminal");
    assert_eq!(running.stop().0, Some(0));
}

#[test]
fn top_without_a_terminal_names_the_alternative() {
    let test = "top_without_a_terminal";
    if !is_root(test) {
        return;
    }
    let node = Node::make("top-piped", ANY_PORT);
    let output = node.command("top").output().expect("the agent runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("needs a terminal") && text.contains("`spillway status`"), "{text}");
    assert!(output.stdout.is_empty(), "{output:?}");
}
