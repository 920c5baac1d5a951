//! Nodes of a group that coordinate through a real etcd, each test in a network namespace of its
//! own.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread::{scope, sleep},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use spillway_agent::{
    fleet::{
        Acquired, Coordinator as _, CoordinatorError, EtcdCoordinator, EtcdOptions, ForecastEnd,
        Load, Member, NodeReport, NodeState, Snapshot,
    },
    net::{
        http_client::{ClientFiles, TlsOptions},
        secret::SecretSource,
    },
};
use spillway_tests::{
    Scratch, Servers,
    etcd::Etcd,
    group_node::{GroupNode, member, page_subject, pages_are_claimed_once},
    is_root, now, own_network, skip,
    tls::Authority,
    wait_for,
};

const GROUP: &str = "web";
const NO_TLS: TlsOptions = TlsOptions { ca_file: None, client: None };

/// Time after which a node is silent. etcd notices it within half a second.
const SILENT_AFTER: Duration = Duration::from_secs(2);

/// Key of the group.
fn key(name: &str) -> String {
    format!("/spillway/v1/{GROUP}/{name}")
}

/// Prepares a test. Returns `None` and reports a skip if something is missing.
fn set(test: &str) -> Option<(Scratch, Servers)> {
    let test = format!("etcd-{test}");
    let servers = Servers::find().inspect_err(|reason| skip(&test, reason)).ok()?;
    if !is_root(&test) {
        return None;
    }
    own_network().expect("root can make a network namespace");
    Some((Scratch::make(&test), servers))
}

/// Starts an etcd of one member. Returns `None` and reports a skip if something is missing.
fn start(test: &str) -> Option<(Scratch, Etcd)> {
    let (scratch, servers) = set(test)?;
    let etcd = Etcd::start(&servers, &scratch.0, &[]);
    Some((scratch, etcd))
}

type Node = GroupNode<EtcdCoordinator>;

fn new_node(endpoints: &[String], name: &str, run: u64) -> Node {
    node_with(endpoints, name, run, NO_TLS, None)
}

fn node_with(
    endpoints: &[String],
    name: &str,
    run: u64,
    tls: TlsOptions,
    credentials: Option<(String, SecretSource)>,
) -> Node {
    let coordinator = EtcdCoordinator::new(EtcdOptions {
        endpoints: endpoints.to_vec(),
        group: GROUP.to_owned(),
        node: name.to_owned(),
        run,
        tls,
        credentials,
        silent_after: SILENT_AFTER,
    });
    Node::new(coordinator.expect("the names are allowed"), name, GROUP, run)
}

/// Nodes `web-1` to `web-3`, published.
fn three(endpoints: &[String]) -> [Node; 3] {
    let mut nodes = [1, 2, 3].map(|nth| new_node(endpoints, &format!("web-{nth}"), nth));
    nodes.iter_mut().for_each(Node::publish);
    nodes
}

#[test]
fn silent_node_loses_its_slot_and_stays_a_member() {
    let Some((_scratch, etcd)) = start("silent") else { return };
    let [mut first, mut second, mut third] = three(&[etcd.url()]);
    let expected = [&first, &second, &third].map(|node| Member {
        node: node.report.node.clone(),
        is_alive: true,
        has_slot: false,
        report: Ok(node.report.clone()),
    });
    let snapshot = third.snapshot();
    assert_eq!((&snapshot.members[..], snapshot.grant_revision), (&expected[..], 0));

    first.takes_slot();
    assert!(member(&second.snapshot(), "web-1").has_slot);
    // From now on it stops renewing, as a paused agent does. The others go on.
    let stopped = now();
    let silent = wait_for(Duration::from_secs(8), || {
        second.publish();
        third.publish();
        let snapshot = third.snapshot();
        (!member(&snapshot, "web-1").is_alive).then_some(snapshot)
    });
    let silent = silent.expect("a node that does not renew becomes silent");
    println!("silent and without a slot after {:.1} s", stopped.elapsed().as_secs_f64());
    assert!(stopped.elapsed() > Duration::from_secs(1), "it had a lease of two seconds");
    assert!(!member(&silent, "web-1").has_slot, "the slot frees itself");
    assert_eq!(member(&silent, "web-1").report, Ok(first.report.clone()), "a member for an hour");
    assert!(member(&silent, "web-2").is_alive && member(&silent, "web-3").is_alive);

    // Back from the pause: fenced until it publishes.
    let since = first.snapshot();
    assert_eq!(first.acquire(&since), Acquired::Stale);
    assert!(!member(&first.snapshot(), "web-1").has_slot);
    assert!(!first.coordinator.has_lost_slot(), "not noticed yet");
    first.publish();
    assert!(first.coordinator.has_lost_slot());
    assert!(member(&second.snapshot(), "web-1").is_alive);
    first.takes_slot();
    assert!(!first.coordinator.has_lost_slot());
    assert_eq!(second.acquire(&since), Acquired::Stale, "another took a slot since");
    // Removed by hand: noticed with the next report that is written.
    etcd.delete(&key("slot/web-1"));
    first.report.cpus.now = 1.0;
    first.publish();
    assert!(first.coordinator.has_lost_slot());
    first.release();
    assert!(!first.coordinator.has_lost_slot() && !second.coordinator.has_lost_slot());
}

#[test]
fn node_that_leaves_is_forgotten_and_may_come_back() {
    let Some((_scratch, etcd)) = start("leaves") else { return };
    let [mut first, mut second, _third] = three(&[etcd.url()]);
    first.takes_slot();
    first.coordinator.leave().expect("leaving");
    let names = |snapshot: Snapshot| -> Vec<String> {
        snapshot.members.into_iter().map(|member| member.node).collect()
    };
    assert_eq!(names(second.snapshot()), ["web-2", "web-3"]);
    first.coordinator.leave().expect("leaving again");
    // Another run of its agent need not wait until the last one is silent.
    let mut again = new_node(&[etcd.url()], "web-1", 11);
    again.publish();
    assert_eq!(names(second.snapshot()), ["web-1", "web-2", "web-3"]);
    assert!(!member(&second.snapshot(), "web-1").has_slot, "its slot went with it");
}

#[test]
fn of_two_that_judged_one_snapshot_one_takes_the_slot() {
    let Some((_scratch, etcd)) = start("one") else { return };
    let [mut first, mut second, mut third] = three(&[etcd.url()]);
    assert_eq!(first.coordinator.acquire(None), Ok(Acquired::Stale), "it judged nothing");
    for round in 0..10 {
        let since = third.snapshot();
        let both = Barrier::new(2);
        let acquire = |node: &mut Node| {
            both.wait();
            node.acquire(&since)
        };
        let taken = scope(|threads| {
            let other = threads.spawn(|| acquire(&mut second));
            [acquire(&mut first), other.join().expect("the thread does not panic")]
        });
        let holders = third.snapshot().members.into_iter().filter(|member| member.has_slot);
        let holders: Vec<_> = holders.map(|member| member.node).collect();
        match taken {
            [Acquired::Taken, Acquired::Stale] => assert_eq!(holders, ["web-1"], "round {round}"),
            [Acquired::Stale, Acquired::Taken] => assert_eq!(holders, ["web-2"], "round {round}"),
            taken => panic!("round {round}: {taken:?}"),
        }
        // Repeats are harmless: the holder has it, the other does not, whatever they judged.
        let (winner, loser) = if holders == ["web-1"] {
            (&mut first, &mut second)
        } else {
            (&mut second, &mut first)
        };
        assert_eq!(winner.acquire(&since), Acquired::Taken);
        loser.release();
        assert!(member(&third.snapshot(), &holders[0]).has_slot);
        winner.release();
        winner.release();
        assert_eq!(loser.acquire(&since), Acquired::Stale);
        let free = third.snapshot();
        assert!(free.members.iter().all(|member| !member.has_slot));
        assert!(free.grant_revision > since.grant_revision);
        assert_eq!(etcd.get(&key("turn")).map(|turn| turn.1), Some(free.grant_revision));
        first.publish();
        second.publish();
    }
}

#[test]
fn node_that_is_out_takes_its_slot_back_after_a_pause() {
    let Some((_scratch, etcd)) = start("out") else { return };
    let [mut first, mut second, mut third] = three(&[etcd.url()]);
    first.takes_slot();
    first.publishes_state(NodeState::Out);
    let turn = etcd.get(&key("turn"));
    first.report.recent_drains = 1;
    first.publish();
    assert_eq!(etcd.get(&key("turn")), turn, "it had the slot");
    let lost = wait_for(Duration::from_secs(8), || {
        second.publish();
        etcd.get(&key("slot/web-1")).is_none().then_some(())
    });
    lost.expect("the slot frees itself");
    let since = second.snapshot();
    first.publish();
    let snapshot = third.snapshot();
    assert!(member(&snapshot, "web-1").has_slot && member(&snapshot, "web-1").is_alive);
    assert_eq!(second.acquire(&since), Acquired::Stale, "that was a grant as well");
    // Removed by hand: found out with the next report that is written.
    etcd.delete(&key("slot/web-1"));
    first.report.recent_drains = 2;
    first.publish();
    assert!(member(&third.snapshot(), "web-1").has_slot);
    first.release();
    first.publishes_state(NodeState::Serving);
    assert!(!member(&third.snapshot(), "web-1").has_slot);
    // A request for a slot was carried out after the node had given up waiting for the reply.
    etcd.put(&key("slot/web-1"), b"1");
    first.report.recent_drains = 3;
    first.publish();
    assert!(!member(&third.snapshot(), "web-1").has_slot && !first.coordinator.has_lost_slot());
}

#[test]
fn one_node_pages_for_a_leak_of_all_until_it_fails() {
    let Some((_scratch, etcd)) = start("page") else { return };
    let mut nodes = three(&[etcd.url()]);
    let warning = pages_are_claimed_once(&mut nodes);
    // The pager fails: it publishes no more.
    let freed = wait_for(4 * SILENT_AFTER, || {
        nodes[0].publish();
        nodes[0].claims_page(&warning).is_none().then_some(())
    });
    assert!(freed.is_some(), "a silent node still pages");
    // A key that no lease ends names nobody who lives.
    let page = format!("page/warning/{}", "files of db");
    etcd.put(&key(&page), b"web-3");
    assert_eq!(nodes[0].claims_page(&page_subject("files of db", false)), None);
    let value = etcd.get(&key(&page)).map(|(node, _)| node);
    assert_eq!(value.as_deref(), Some("web-1"));
}

#[test]
fn report_is_written_when_it_changes_or_is_lost() {
    let Some((_scratch, etcd)) = start("changes") else { return };
    let mut node = new_node(&[etcd.url()], "web-1", 7);
    node.publish();
    let written = || etcd.get(&key("node/web-1")).map(|(_, revision)| revision);
    let first = written();
    node.report.at_ms += 1_000;
    node.publish();
    assert_eq!(written(), first, "only the time changed");
    node.report.cpus.now = 1.5;
    node.publish();
    let second = written();
    assert!(second > first);
    // A time is written at last, so that others can compare clocks.
    sleep(SILENT_AFTER / 2);
    node.publish();
    sleep(SILENT_AFTER / 2);
    node.report.at_ms += 1_000;
    node.publish();
    assert!(written() > second);
    // Keys that were removed by hand are back with the next report.
    for name in ["node/web-1", "alive/web-1"] {
        etcd.delete(&key(name));
        node.report.cpus.now += 1.0;
        node.publish();
        assert!(etcd.get(&key(name)).is_some(), "{name}");
    }
    // All leases revoked: the next report makes new ones.
    let leases = etcd.call("lease/leases", &json!({}));
    for lease in leases["leases"].as_array().expect("there are leases") {
        etcd.call("lease/revoke", &json!({ "ID": lease["ID"] }));
    }
    assert_eq!((written(), etcd.get(&key("alive/web-1"))), (None, None));
    node.publish();
    assert!(written().is_some() && etcd.get(&key("alive/web-1")).is_some());
}

#[test]
fn keys_of_others_are_unreadable_members_or_ignored() {
    let Some((_scratch, etcd)) = start("keys") else { return };
    let mut node = new_node(&[etcd.url()], "web-1", 7);
    node.publish();
    let good = NodeReport::new("web-2", GROUP, 8, 1).to_json();
    let newer = String::from_utf8_lossy(&good).replace("\"v\":1", "\"v\":2");
    etcd.put(&key("node/garbage"), b"\xff{");
    etcd.put(&key("node/newer"), newer.as_bytes());
    etcd.put(&key("node/forged"), &good);
    etcd.put(&key("node/large"), &[b' '; 100_000]);
    etcd.put(&key("slot/only-slot"), b"9");
    etcd.put(&key("node/a/b"), &good);
    etcd.put(&key("other"), b"");
    etcd.put("/spillway/v1/web-other/node/x", &good);
    etcd.put("/spillway/v2/web/node/x", &good);
    let snapshot = node.snapshot();
    let names: Vec<_> = snapshot.members.iter().map(|member| member.node.as_str()).collect();
    assert_eq!(names, ["forged", "garbage", "large", "newer", "only-slot", "web-1"]);
    let why = |name| member(&snapshot, name).report.clone().expect_err(name);
    assert!(why("garbage").starts_with("it is no report: "), "{}", why("garbage"));
    assert_eq!(why("newer"), "it has version 2, and this agent reads version 1");
    assert_eq!(why("forged"), r#"it names node "web-2", and its key "forged""#);
    assert_eq!(why("large"), "it has 100000 bytes, more than 2048");
    assert_eq!(why("only-slot"), "it has no report");
    assert!(member(&snapshot, "only-slot").has_slot);
    assert_eq!(member(&snapshot, "web-1").report, Ok(node.report.clone()));
    // More than a group may have: refused with the reason.
    for nth in 0..26 {
        etcd.put(&key(&format!("node/huge-{nth}")), &vec![b'a'; 1_000_000]);
    }
    // On a busy machine, so large a response may take longer than an attempt may.
    let mut refused = || {
        let error = node.coordinator.snapshot().expect_err("it is too large").to_string();
        (!error.contains("timed out after ")).then_some(error)
    };
    let error = wait_for(Duration::from_secs(8), &mut refused).expect("etcd responds in time");
    assert!(error.contains("the response is larger than 33554432 bytes\n  hint: "), "{error}");
}

#[test]
fn two_runs_with_one_name_are_reported_and_the_older_gives_way() {
    let Some((_scratch, etcd)) = start("name") else { return };
    let endpoints = [etcd.url()];
    let [mut older, mut newer] = [7, 8].map(|run| new_node(&endpoints, "web-1", run));
    older.publish();
    let error = newer.refused();
    assert!(error.contains(" refused: another agent, of run 7, publishes as web-1\n  "), "{error}");
    assert!(error.contains("hint: give each node a name of its own"), "{error}");
    older.takes_slot();
    let since = newer.snapshot();
    assert_eq!(newer.acquire(&since), Acquired::Stale);
    assert!(newer.coordinator.release().is_err(), "the slot is of another run");
    // While both renew, the first stays.
    for _ in 0..6 {
        sleep(SILENT_AFTER / 4);
        older.publish();
        newer.refused();
    }
    assert_eq!(member(&newer.snapshot(), "web-1").report, Ok(older.report.clone()));
    // The older run ended: an agent that was restarted takes over.
    let ended = now();
    let taken = wait_for(Duration::from_secs(8), || newer.coordinator.publish(&newer.report).ok());
    taken.expect("the newer run takes over");
    println!("taken over after {:.1} s", ended.elapsed().as_secs_f64());
    assert_eq!(newer.coordinator.release(), Ok(()), "the slot went with the older run");
    newer.takes_slot();
    assert!(older.refused().contains("of run 8"));
    older.coordinator.release().expect_err("the slot is of the newer run");
}

#[test]
fn endpoints_that_cannot_help_are_named_with_a_hint() {
    let Some((scratch, servers)) = set("endpoints") else { return };
    let disabled = Etcd::start(&servers, &scratch.0, &["--enable-grpc-gateway=false"]);
    let url = disabled.url();
    let mut node = new_node(std::slice::from_ref(&url), "web-1", 7);
    let error = node.refused();
    let expected = format!("etcd at {url} refused: the JSON gateway of etcd 3.");
    assert!(error.starts_with(&expected), "{error}");
    let hint = "start etcd with --enable-grpc-gateway=true, which is the default";
    assert!(error.ends_with(&format!(" is disabled\n  hint: {hint}")), "{error}");
    drop(disabled);
    let started = now();
    let error = node.coordinator.publish(&node.report).expect_err("nobody listens");
    assert!(matches!(&error, CoordinatorError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("Connection refused"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1));

    // Silent endpoints leave no time for all.
    let silent = TcpListener::bind("127.0.0.1:0").expect("binding a port");
    let silent = format!("http://{}", silent.local_addr().expect("it has an address"));
    let mut stuck = new_node(&vec![silent.clone(); 9], "web-1", 7);
    let started = now();
    let error = stuck.coordinator.snapshot().expect_err("nobody replies");
    assert!(matches!(error, CoordinatorError::Unreachable { .. }), "{error}");
    let took = started.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(7)).contains(&took), "{took:?}");
    // The same again, so that a log has it once.
    let again = stuck.coordinator.snapshot().expect_err("nobody replies");
    assert_eq!(again, error);

    // One that is silent is passed over once, and tried last from then on.
    let scratch = Scratch::make("etcd-endpoints-2");
    let etcd = Etcd::start(&servers, &scratch.0, &[]);
    let mut node = new_node(&[silent, etcd.url()], "web-1", 7);
    node.publish();
    let started = now();
    assert!(member(&node.snapshot(), "web-1").is_alive);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn certificates_are_checked_on_both_sides() {
    let Some((scratch, servers)) = set("tls") else { return };
    let authority = Authority::make();
    let file = |name: &str| scratch.0.join(name);
    scratch.file("ca.crt", &authority.pem());
    authority.files("127.0.0.1", &file("server.crt"), &file("server.key"));
    authority.client(&file("client.crt"), &file("client.key"));
    let argument = |name: &str, path: &str| format!("--{name}={}", file(path).display());
    let arguments = [
        argument("cert-file", "server.crt"),
        argument("key-file", "server.key"),
        argument("trusted-ca-file", "ca.crt"),
        "--client-cert-auth".to_owned(),
    ];
    let etcd = Etcd::start(&servers, &scratch.0, &arguments.each_ref().map(String::as_str));
    let client = ClientFiles { cert_file: file("client.crt"), key_file: file("client.key") };
    let tls = TlsOptions { ca_file: Some(file("ca.crt")), client: Some(client) };
    let node = |tls| node_with(&[etcd.url()], "web-1", 7, tls, None);
    let mut trusted = node(tls.clone());
    trusted.publish();
    trusted.takes_slot();
    for tls in [NO_TLS, TlsOptions { client: None, ..tls.clone() }] {
        let error = node(tls).coordinator.snapshot().expect_err("it is not trusted");
        assert!(matches!(error, CoordinatorError::Unreachable { .. }), "{error}");
    }
    let missing = TlsOptions { ca_file: Some(file("missing")), ..tls };
    let error = node(missing).coordinator.snapshot().expect_err("there is no such file");
    assert!(error.to_string().starts_with("etcd cannot be used: "), "{error}");
}

#[test]
fn users_of_etcd_need_a_password_and_a_role() {
    let Some((scratch, servers)) = set("users") else { return };
    let arguments = ["--auth-token-ttl=1", "--bcrypt-cost=4"];
    let etcd = Etcd::start(&servers, &scratch.0, &arguments);
    let password = scratch.secret("password", "s3cr3t-of-agent\n");
    let wrong = scratch.secret("wrong", "another-s3cr3t");
    let node = |user: &str, path: &PathBuf| {
        let credentials = Some((user.to_owned(), SecretSource::File(path.clone())));
        node_with(&[etcd.url()], "web-1", 7, NO_TLS, credentials)
    };
    let error = node("agent", &password).refused();
    assert!(error.contains("authentication is not enabled\n  hint: "), "{error}");
    let range = [STANDARD.encode("/spillway/v1/"), STANDARD.encode("/spillway/v10")];
    let permission = json!({ "permType": "READWRITE", "key": range[0], "range_end": range[1] });
    for (path, request) in [
        ("user/add", json!({ "name": "root", "password": "root" })),
        ("role/add", json!({ "name": "root" })),
        ("user/grant", json!({ "user": "root", "role": "root" })),
        ("user/add", json!({ "name": "agent", "password": "s3cr3t-of-agent" })),
        ("user/add", json!({ "name": "stranger", "password": "s3cr3t-of-agent" })),
        ("role/add", json!({ "name": "spillway" })),
        ("role/grant", json!({ "name": "spillway", "perm": permission })),
        ("user/grant", json!({ "user": "agent", "role": "spillway" })),
        ("enable", json!({})),
    ] {
        etcd.call(&format!("auth/{path}"), &request);
    }
    let error = new_node(&[etcd.url()], "web-1", 7).refused();
    assert!(error.contains("user name is empty\n  hint: this etcd wants a user"), "{error}");
    let error = node("agent", &wrong).refused();
    assert!(error.contains("invalid user ID or password\n  hint: "), "{error}");
    let error = node("stranger", &password).refused();
    assert!(error.contains("permission denied\n  hint: the user needs a role"), "{error}");
    let mut trusted = node("agent", &password);
    trusted.publish();
    trusted.takes_slot();
    // The token has expired.
    sleep(Duration::from_millis(1_800));
    trusted.report.cpus.now = 1.0;
    trusted.publish();
    let report = member(&trusted.snapshot(), "web-1").report.clone();
    assert_eq!(report, Ok(trusted.report.clone()));
    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).expect("setting a mode");
    let error = node("agent", &password).coordinator.snapshot().expect_err("others can read it");
    assert!(error.to_string().starts_with("etcd cannot be used: "), "{error}");
    assert!(!error.to_string().contains("s3cr3t"), "{error}");
}

#[test]
fn three_members_serve_without_one_and_refuse_without_two() {
    let Some((scratch, servers)) = set("three") else { return };
    let mut members = Etcd::cluster(&servers, &scratch.0);
    let endpoints = members.each_ref().map(Etcd::url);
    let [mut first, mut second, _] = three(&endpoints);
    let since = second.snapshot();
    members[0].kill();
    // Whichever member led: the others elect a new leader within two seconds.
    let works = wait_for(Duration::from_secs(6), || first.coordinator.publish(&first.report).ok());
    works.expect("two of three members are enough");
    let acquired =
        wait_for(Duration::from_secs(6), || first.coordinator.acquire(Some(&since)).ok());
    assert_eq!(acquired, Some(Acquired::Taken));
    assert!(member(&second.snapshot(), "web-1").has_slot);
    let since = second.snapshot();
    members[1].kill();
    let started = now();
    for result in [
        second.coordinator.acquire(Some(&since)).err(),
        second.coordinator.snapshot().err(),
        second.coordinator.publish(&second.report).err(),
    ] {
        let error = result.expect("one of three members is not enough");
        assert!(matches!(error, CoordinatorError::Unreachable { .. }), "{error}");
        let why = error.to_string();
        assert!(endpoints.iter().all(|endpoint| why.contains(endpoint)), "{why}");
        assert!(why.contains("hint: more than half of etcd's members have to be up"), "{why}");
    }
    let took = started.elapsed();
    println!("three refusals without a majority took {:.1} s", took.as_secs_f64());
    assert!(took < Duration::from_secs(16), "{took:?}");
}

#[test]
fn snapshot_of_a_thousand_members_is_small_and_fast() {
    const MEMBERS: usize = 1_000;
    let Some((_scratch, etcd)) = start("thousand") else { return };
    let mut node = new_node(&[etcd.url()], "web-0000", 0);
    node.publish();
    let names: Vec<_> = (1..MEMBERS).map(|nth| (nth, format!("web-{nth:04}"))).collect();
    for some in names.chunks(60) {
        let puts: Vec<_> = some.iter().flat_map(|(run, name)| as_published(name, *run)).collect();
        etcd.call("kv/txn", &json!({ "success": puts }));
    }
    let mut times: Vec<_> = (0..5)
        .map(|_| {
            // A node is alive for two seconds, and a busy machine may take longer for the rest.
            node.publish();
            let started = now();
            let snapshot = node.snapshot();
            let took = started.elapsed();
            let alive = snapshot.members.iter().filter(|member| member.live_report().is_some());
            assert_eq!(alive.count(), MEMBERS);
            took
        })
        .collect();
    times.sort();
    let per_member = node.coordinator.snapshot_bytes() / MEMBERS;
    let (median, longest) = (times[2], times[4]);
    println!("{MEMBERS} members: {per_member} bytes each, {median:?}, at most {longest:?}");
    assert!(per_member < 1_200, "{per_member} bytes");
    assert!(median < Duration::from_secs(1), "{median:?}");

    // All pages are of one time: a run that changes is alive in each snapshot.
    let is_over = AtomicBool::new(false);
    scope(|threads| {
        threads.spawn(|| {
            for run in (MEMBERS..).take_while(|_| !is_over.load(Ordering::SeqCst)) {
                etcd.call("kv/txn", &json!({ "success": as_published("web-0001", run) }));
            }
        });
        let torn = (0..10).find(|_| !member(&node.snapshot(), "web-0001").is_alive);
        is_over.store(true, Ordering::SeqCst);
        assert_eq!(torn, None);
    });
    assert!(
        member(&node.snapshot(), "web-0001").report.as_ref().is_ok_and(|report| report.run > 1)
    );
}

/// Operations that write the keys of a node with a forecast, as it publishes them.
fn as_published(name: &str, run: usize) -> [Value; 2] {
    let load = Load { now: 3.171_59, proven: 7.25 };
    let end = ForecastEnd {
        secs: 7_200.5,
        soonest_secs: 5_400.25,
        latest_secs: 9_000.75,
        cause: "api.service 2.4.1".to_owned(),
    };
    let report = NodeReport {
        zone: "eu-central-1a".to_owned(),
        region: "eu-central-1".to_owned(),
        cpus: load,
        requests: Some(load),
        queue_wait_us: Some(1_250),
        end: Some(end),
        ..NodeReport::new(name, GROUP, run as u64, 1_700_000_000_000)
    };
    let run = run.to_string();
    [
        Etcd::put_operation(&key(&format!("node/{name}")), &report.to_json()),
        Etcd::put_operation(&key(&format!("alive/{name}")), run.as_bytes()),
    ]
}
