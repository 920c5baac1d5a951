//! Tests on listeners of this process.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    os::fd::OwnedFd,
    path::PathBuf,
};

use rustix::net::{self, AddressFamily, SocketType, sockopt};

use super::*;
use crate::act::shed::{
    netns_sysctl::resets_on_overflow, proc_sockets::netns_of, undo::ShedUndone,
};

/// State directory of one test.
struct Fixture {
    config: Config,
}

impl Fixture {
    fn make(name: &str) -> Self {
        let mut config = Config::default();
        config.record.state_dir =
            std::env::temp_dir().join(format!("spillway-shed-{name}-{}", std::process::id()));
        fs::create_dir_all(&config.record.state_dir).unwrap();
        Self { config }
    }

    fn state_dir(&self) -> &PathBuf {
        &self.config.record.state_dir
    }

    /// Starts an agent's part that sheds load.
    fn start(&self) -> ActiveSheds {
        let journal = ShedJournal::claim(self.state_dir()).map_err(|error| error.to_string());
        ActiveSheds::new(&self.config, journal)
    }

    /// Undoes what an agent has left.
    fn recover(&self) -> Vec<ShedUndone> {
        undo_all(&ShedJournal::claim(self.state_dir()).unwrap())
    }

    fn entries(&self) -> usize {
        fs::read_dir(self.state_dir().join("listeners")).map_or(0, Iterator::count)
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.state_dir());
    }
}

fn listen(port: u16) -> OwnedFd {
    let socket = net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseport(&socket, true).unwrap();
    net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).unwrap();
    net::listen(&socket, 100).unwrap();
    socket
}

fn port_of(socket: &OwnedFd) -> u16 {
    TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap().port()
}

fn target(port: u16) -> ShedTarget {
    let pid = std::process::id();
    let (netns, addr) = (netns_of(pid).unwrap(), Arc::from(format!("127.0.0.1:{port}")));
    ShedTarget {
        id: IncidentId::Overload { netns, addr: Arc::clone(&addr) },
        netns,
        addr,
        cgroup: CgroupPaths::new(Hierarchy::detect()).of_process(pid),
        pids: [pid].into(),
        accepts_per_sec: Some(100.0),
        first: QueueReading::default(),
    }
}

fn lengths(port: u16) -> Vec<u32> {
    let pid = std::process::id();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let found = ForeignListener::find(pid, netns_of(pid).unwrap(), addr).unwrap();
    found.into_iter().map(|(_, length)| length).collect()
}

fn calm(sheds: &mut ActiveSheds, id: &IncidentId, from_t: f64) -> Vec<Outcome> {
    let ticks = (0..100).map(|tick| from_t + f64::from(tick) * 0.1);
    ticks.flat_map(|t| sheds.read(id, QueueReading { t, ..QueueReading::default() })).collect()
}

#[test]
fn queue_is_bounded_and_restored_when_the_incident_is_over() {
    let fixture = Fixture::make("bounded");
    let socket = listen(0);
    let target = target(port_of(&socket));
    let mut sheds = fixture.start();
    let begun = sheds.begin(0.0, &target);
    assert_eq!(begun.event, OutcomeKind::Shedding, "{begun:?}");
    let resets = u8::from(resets_on_overflow().unwrap());
    assert_eq!(
        begun.why,
        format!(
            "accept queue bounded to 9 connections, 100 before; \
             net.ipv4.tcp_abort_on_overflow is {resets}"
        )
    );
    assert_eq!((lengths(port_of(&socket)), fixture.entries()), (vec![9], 1));
    // An incident that is raised again continues.
    assert_eq!(sheds.begin(0.5, &target).event, OutcomeKind::Shedding);
    sheds.end(1.0, &target.id);
    let outcomes = calm(&mut sheds, &target.id, 1.0);
    assert_eq!(outcomes.last().unwrap().event, OutcomeKind::Unshed, "{outcomes:?}");
    assert_eq!((lengths(port_of(&socket)), fixture.entries()), (vec![100], 0));
}

#[test]
fn sockets_of_one_address_are_one_listener() {
    let fixture = Fixture::make("group");
    let first = listen(0);
    let _second = listen(port_of(&first));
    let mut sheds = fixture.start();
    let begun = sheds.begin(0.0, &target(port_of(&first)));
    assert_eq!(begun.event, OutcomeKind::Shedding, "{begun:?}");
    let bounded = "accept queue bounded to 9 connections over 2 sockets, 200 before; net";
    assert!(begun.why.starts_with(bounded), "{begun:?}");
    assert_eq!(lengths(port_of(&first)), [4, 4]);
    let undone = sheds.undo_all(1.0);
    assert!(undone.iter().all(|outcome| outcome.event == OutcomeKind::Unshed), "{undone:?}");
    assert_eq!((lengths(port_of(&first)), fixture.entries()), (vec![100, 100], 0));
}

#[test]
fn next_run_restores_what_a_crash_left() {
    let fixture = Fixture::make("crash");
    let socket = listen(0);
    let mut sheds = fixture.start();
    sheds.begin(0.0, &target(port_of(&socket)));
    drop(sheds);
    assert_eq!(lengths(port_of(&socket)), [9]);
    let undone = fixture.recover();
    assert!(undone.len() == 1 && undone[0].is_done(), "{undone:?}");
    assert_eq!((lengths(port_of(&socket)), fixture.entries()), (vec![100], 0));
    // A length that others have set stays, and a closed listener is no obstacle.
    let other = listen(0);
    let mut sheds = fixture.start();
    sheds.begin(0.0, &target(port_of(&socket)));
    sheds.begin(0.0, &target(port_of(&other)));
    drop(sheds);
    net::listen(&socket, 50).unwrap();
    drop(other);
    let events: BTreeSet<_> =
        fixture.recover().iter().map(|undone| undone.outcome(0.0).event.name()).collect();
    assert_eq!(events, ["shed_yielded", "unshed"].into());
    assert_eq!((lengths(port_of(&socket)), fixture.entries()), (vec![50], 0));
}

#[test]
fn program_that_listens_again_three_times_is_left_alone() {
    let fixture = Fixture::make("relisten");
    let socket = listen(0);
    let mut sheds = fixture.start();
    sheds.begin(0.0, &target(port_of(&socket)));
    for (t, length) in [(1.0, 60), (2.0, 70)] {
        net::listen(&socket, length).unwrap();
        assert!(sheds.look(t).is_empty());
        assert_eq!(lengths(port_of(&socket)), [9]);
    }
    net::listen(&socket, 80).unwrap();
    let outcomes = sheds.look(3.0);
    assert_eq!(outcomes[0].event, OutcomeKind::ShedYielded, "{outcomes:?}");
    assert_eq!((lengths(port_of(&socket)), fixture.entries()), (vec![80], 0));
}

#[test]
fn undo_beside_a_running_agent_is_final() {
    let fixture = Fixture::make("overtaken");
    let socket = listen(0);
    let target = target(port_of(&socket));
    let mut sheds = fixture.start();
    sheds.begin(0.0, &target);
    let undone = undo_all(&ShedJournal::find(fixture.state_dir()).unwrap().unwrap());
    assert_eq!((undone.len(), lengths(port_of(&socket))), (1, vec![100]));
    let outcomes = sheds.look(1.5);
    assert_eq!(outcomes[0].event, OutcomeKind::ShedYielded, "{outcomes:?}");
    assert_eq!((lengths(port_of(&socket)), fixture.entries()), (vec![100], 0));
}

#[test]
fn what_is_in_doubt_is_refused() {
    let fixture = Fixture::make("refused");
    let socket = listen(0);
    let right = target(port_of(&socket));
    let mut sheds = fixture.start();
    for (wrong, why) in [
        (ShedTarget { cgroup: Arc::from("/another"), ..right.clone() }, "not in the overloaded"),
        (ShedTarget { netns: 1, ..right.clone() }, "no process is known"),
        (ShedTarget { pids: [].into(), ..right.clone() }, "no process is known"),
        (ShedTarget { addr: Arc::from("127.0.0.1:1"), ..right.clone() }, "no process is known"),
        (ShedTarget { addr: Arc::from("unix:/run/a"), ..right.clone() }, "UNIX socket"),
        (ShedTarget { accepts_per_sec: Some(1e6), ..right.clone() }, "no longer than the bound"),
    ] {
        let refused = sheds.begin(0.0, &wrong);
        assert_eq!(refused.event, OutcomeKind::ShedRefused, "{wrong:?}: {refused:?}");
        assert!(refused.why.contains(why), "{wrong:?}: {refused:?}");
    }
    Pause::below(fixture.state_dir()).turn_on().unwrap();
    assert!(sheds.begin(0.0, &right).why.contains("paused"));
    let mut without = ActiveSheds::new(&fixture.config, Err("the disk is full".to_owned()));
    Pause::below(fixture.state_dir()).turn_off().unwrap();
    assert!(without.begin(0.0, &right).why.contains("the disk is full"));
    assert_eq!((lengths(port_of(&socket)), fixture.entries()), (vec![100], 0));
}

#[test]
fn listener_that_is_not_read_any_more_is_restored() {
    let fixture = Fixture::make("unseen");
    let socket = listen(0);
    let mut sheds = fixture.start();
    sheds.begin(0.0, &target(port_of(&socket)));
    assert!(sheds.look(4.0).is_empty());
    assert_eq!(sheds.look(6.0)[0].event, OutcomeKind::Unshed);
    assert_eq!((lengths(port_of(&socket)), fixture.entries()), (vec![100], 0));
}
