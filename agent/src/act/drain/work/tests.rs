//! When work counts as done, and what reports say of it.

use std::{
    env, fs,
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::MetadataExt as _,
        net::{UnixListener, UnixStream},
    },
    process,
};

use super::*;

fn report(t: f64, in_flight: u64, waiting: u64) -> RequestsLeft {
    RequestsLeft {
        pass_t: Some(t),
        valid_until: t + 5.0,
        in_flight,
        waiting,
        connections: 50,
        ..RequestsLeft::default()
    }
}

fn own_netns() -> u32 {
    fs::metadata("/proc/self/ns/net").unwrap().ino() as u32
}

/// Reports to a drain that was granted at 100, each with the time at which it is taken; returns
/// whether the work is done after each.
fn done(reports: &[RequestsLeft]) -> Vec<bool> {
    let mut work = Work::new(&[], None);
    let mut done = Vec::new();
    for report in reports {
        let now = report.pass_t.unwrap_or(100.0) + 0.01;
        work.report(report.clone());
        work.update(now.max(100.0), true, Some(100.0));
        done.push(work.is_done());
    }
    done
}

#[test]
fn none_in_flight_is_believed_after_two_passes() {
    let quiet = |t| report(t, 0, 0);
    assert_eq!(done(&[quiet(100.1), quiet(100.2), quiet(100.65)]), [false, false, true]);
    assert_eq!(done(&[quiet(100.1), quiet(100.1)]), [false, false], "one pass is one");
    assert_eq!(
        done(&[quiet(99.0), quiet(99.9), quiet(100.1), quiet(100.7)]),
        [false, false, false, true],
        "passes before the grant do not count"
    );
    assert_eq!(
        done(&[quiet(100.1), report(100.7, 1, 0), quiet(100.8), quiet(101.4)]),
        [false, false, false, true],
        "a request begins the count again"
    );
}

#[test]
fn waiting_connections_are_work() {
    assert_eq!(done(&[report(100.1, 0, 1), report(100.9, 0, 1)]), [false, false]);
}

#[test]
fn responses_that_go_on_are_work() {
    let download = |t| RequestsLeft { responding: 1, ..report(t, 0, 0) };
    assert_eq!(done(&[download(100.1), download(100.9)]), [false, false]);
}

#[test]
fn stale_and_missing_reports_are_not_none() {
    let mut work = Work::new(&[], None);
    work.update(100.0, true, Some(100.0));
    assert_eq!((work.left(), work.is_done()), (WorkLeft::Unknown, false), "none has come yet");
    for t in [100.1, 100.9] {
        work.report(report(t, 0, 0));
        work.update(t, true, Some(100.0));
    }
    assert!(work.is_done());
    // The loop stands still: connections are counted instead, which may be unknown.
    work.update(106.0, true, Some(100.0));
    assert!(!matches!(work.left(), WorkLeft::Requests(_)), "{:?}", work.left());
    work.update(107.0, false, None);
    assert_eq!((work.left(), work.is_done()), (WorkLeft::Unknown, false));
}

#[test]
fn connections_of_unseen_listeners_are_counted() {
    // A listener of this test, whose connections are known.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let netns = own_netns();
    let mut work = Work::new(&[], None);
    let unseen = vec![(netns, Arc::from(addr.to_string()))];
    let client = TcpStream::connect(addr).unwrap();
    work.report(RequestsLeft { unseen: unseen.clone(), ..report(100.1, 2, 0) });
    work.update(100.1, true, Some(100.0));
    let seen = SeenWork { in_flight: 2, connections: 50, ..SeenWork::default() };
    let left = WorkLeft::Connections { connections: 1, seen };
    assert_eq!(work.left(), left);
    drop((client, listener));
    for t in [103.0, 103.1, 103.7] {
        work.report(RequestsLeft { unseen: unseen.clone(), ..report(t, 0, 0) });
        work.update(t, true, Some(100.0));
    }
    assert_eq!(work.left().describe(), "no connection is left, requests unknown");
    assert!(work.is_done());
    // Those of a namespace that cannot be read are unknown.
    let unseen = vec![(1, Arc::from("0.0.0.0:80"))];
    for t in [106.0, 106.9] {
        work.report(RequestsLeft { unseen: unseen.clone(), ..report(t, 0, 0) });
        work.update(t, true, Some(100.0));
    }
    assert_eq!((work.left(), work.is_done()), (WorkLeft::Unknown, false));
}

#[test]
fn unix_connections_of_a_service_are_counted() {
    let path = env::temp_dir().join(format!("spillway-work-{}.sock", process::id()));
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let held = UnixStream::connect(&path).unwrap();
    let accepted = listener.accept().unwrap();
    let netns = own_netns();
    let mut established = EstablishedConnections::new(Hierarchy::detect(), None);
    let at = [(netns, Arc::from(format!("unix:{}", path.display())))];
    assert_eq!(established.count_at(0.0, &at).unwrap(), 1);
    drop((held, accepted));
    assert_eq!(established.count_at(1.0, &at).unwrap(), 0);
    fs::remove_file(&path).unwrap();
}

#[test]
fn work_left_is_described() {
    let requests = |in_flight, waiting, connections| {
        let seen = SeenWork { in_flight, waiting, connections, ..SeenWork::default() };
        WorkLeft::Requests(seen).describe()
    };
    let connections = |connections, in_flight, waiting| {
        let seen = SeenWork { in_flight, waiting, ..SeenWork::default() };
        WorkLeft::Connections { connections, seen }.describe()
    };
    let download = SeenWork { responding: 1, connections: 9, ..SeenWork::default() };
    for (text, described) in [
        (requests(0, 0, 0), "no request is in flight"),
        (requests(0, 0, 1), "no request is in flight on 1 open connection"),
        (requests(1, 0, 9), "1 request is in flight, and the drain no longer waits for it"),
        (
            requests(2, 1, 9),
            "2 requests are in flight and 1 connection waits for accept(), and the drain no \
             longer waits for them",
        ),
        (
            WorkLeft::Requests(download).describe(),
            "1 response is being sent, and the drain no longer waits for it",
        ),
        (connections(0, 0, 0), "no connection is left, requests unknown"),
        (
            connections(3, 0, 0),
            "3 connections are left, requests unknown, and the drain no longer waits for them",
        ),
        (
            connections(3, 1, 0),
            "1 request is in flight and 3 connections are left, requests unknown, and the drain \
             no longer waits for them",
        ),
        (WorkLeft::Unknown.describe(), "the number of requests in flight is unknown"),
    ] {
        assert_eq!(text, described);
    }
}
