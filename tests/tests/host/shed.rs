//! Bounds on accept queues: an agent that is killed anywhere leaves no bound, and undo restores it.

use std::{fs, net::TcpListener, os::unix::fs::MetadataExt as _, path::PathBuf, process::Command};

use spillway_agent::act::shed::{ShedJournal, undo_all};
use spillway_tests::{Call, Scratch, Stopped, built, is_root};

/// Length of the queue that a listener of the standard library has.
const LENGTH: u32 = 128;

/// A listener of this process on loopback.
struct Listener {
    socket: TcpListener,
    netns: u32,
    scratch: Scratch,
}

impl Listener {
    fn make(test: &str) -> Option<Self> {
        if !is_root(test) {
            return None;
        }
        let netns = fs::metadata("/proc/self/ns/net").expect("it can be read").ino() as u32;
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        // SAFETY: listen takes two integers, and the socket lives here.
        let set = unsafe { libc::listen(fd(&socket), LENGTH as i32) };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        Some(Self { socket, netns, scratch: Scratch::make(test) })
    }

    fn state_dir(&self) -> PathBuf {
        self.scratch.0.join("state")
    }

    /// Returns `crash_target shed` for this listener.
    fn bounding(&self) -> Command {
        let mut command = Command::new(built("crash_target"));
        command.arg("shed").arg("--state-dir").arg(self.state_dir());
        command.args([
            format!("--pid={}", std::process::id()),
            format!("--netns={}", self.netns),
            format!("--addr={}", self.socket.local_addr().expect("it listens")),
        ]);
        command
    }

    /// Reads the length of its queue, as the kernel gives it for a listener.
    fn length(&self) -> u32 {
        let (mut info, mut size) = ([0_u32; 8], 32);
        // SAFETY: the kernel writes at most 32 bytes to as many, and their number beside them.
        let read = unsafe {
            libc::getsockopt(
                fd(&self.socket),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        assert_eq!((read, size), (0, 32), "{}", std::io::Error::last_os_error());
        info[7]
    }

    fn entries(&self) -> usize {
        fs::read_dir(self.state_dir().join("listeners")).map_or(0, Iterator::count)
    }
}

fn fd(socket: &TcpListener) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(socket)
}

#[test]
fn bound_of_an_agent_killed_anywhere_is_undone_by_the_next_run() {
    let test = "bound_of_an_agent_killed_anywhere_is_undone_by_the_next_run";
    let Some(listener) = Listener::make(test) else { return };
    let (mut kills, mut left, mut found) = (0, 0, 0);
    while let Some(stopped) =
        Stopped::at(listener.bounding(), kills + 1, Call::may_change_something)
    {
        stopped.kill();
        kills += 1;
        left += u32::from(listener.length() != LENGTH);
        // Like the next agent when it starts.
        let journal = ShedJournal::claim(&listener.state_dir()).expect("nobody else claims it");
        let undone = undo_all(&journal);
        found += u32::from(!undone.is_empty());
        assert!(undone.iter().all(|one| one.is_done()), "before call {kills}: {undone:?}");
        assert_eq!(listener.length(), LENGTH, "before call {kills}: {undone:?}");
        assert_eq!(listener.entries(), 0, "before call {kills}: {undone:?}");
    }
    assert_eq!((listener.length(), listener.entries()), (LENGTH, 0), "not restored at the end");
    println!("killed before {kills} calls, it left a bound {left} times, an entry {found} times");
    assert!(kills > 40 && left > 0 && found >= left, "{kills} kills, {left} bounds, {found}");
}

#[test]
fn undo_overtakes_an_agent_at_any_call() {
    let test = "undo_overtakes_an_agent_at_any_call";
    let Some(listener) = Listener::make(test) else { return };
    let (mut nth, mut found) = (1, 0);
    loop {
        let mut command = listener.bounding();
        command.arg("--overtaken");
        let Some(stopped) = Stopped::at(command, nth, Call::may_change_something) else { break };
        nth += 1;
        let journal = ShedJournal::find(&listener.state_dir()).expect("it can be read");
        let undone = journal.map(|journal| undo_all(&journal)).unwrap_or_default();
        found += u32::from(!undone.is_empty());
        stopped.go_on();
        assert_eq!(listener.length(), LENGTH, "call {nth}: {undone:?}");
        assert_eq!(listener.entries(), 0, "call {nth}: {undone:?}");
    }
    assert!(found > 5, "only {found} of {nth} stops had something to undo");
}
