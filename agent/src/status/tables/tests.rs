use proptest::prelude::*;

use super::{entries::IncidentIndex, *};
use crate::sense::{
    CountFact, CountedResource, Fact, HostFact, ListenerFact, ProcessFact, ProcessId,
    ProcessResourcesFact, RequestsFact, identity::NodePods,
};

const HOST: HostInfo = HostInfo { mem_total_bytes: 1 << 34, cpus: 2 };
const MIB: u64 = 1 << 20;

fn process(pid: u32, cgroup: &str, mib: u64) -> Fact {
    Fact::Process(ProcessFact {
        id: ProcessId { pid, start_ticks: 1 },
        comm: format!("p{pid}").into(),
        cgroup: cgroup.into(),
        anon_bytes: mib * MIB,
        shmem_bytes: 16 * MIB,
        ..ProcessFact::default()
    })
}

fn scan(tables: &mut HostTables, read: ScanKind, t: f64, facts: Vec<Fact>) {
    let observations: Vec<_> = facts.into_iter().map(|fact| Observation { t, fact }).collect();
    tables.observe(read, t, &observations);
}

#[test]
fn workload_that_grows_comes_first_then_the_largest() {
    let mut tables = HostTables::new(HOST);
    for minute in 0..90_u32 {
        let t = 60.0 * f64::from(minute);
        let facts = vec![
            process(1, "/big", 900),
            process(2, "/leak", 10 + u64::from(minute)),
            process(3, "/leak", 5),
            process(4, "/shrinks", 600 - u64::from(minute)),
            Fact::Process(ProcessFact { cgroup: "/kernel".into(), ..ProcessFact::default() }),
        ];
        scan(&mut tables, ScanKind::Processes, t, facts);
        if minute == 1 {
            let growth = tables.rows().workloads.0[0].growth_bytes_per_sec;
            assert_eq!(growth, None, "one minute is no pace");
        }
    }
    let (rows, total) = tables.rows().workloads;
    let names: Vec<_> = rows.iter().map(|row| &*row.cgroup).collect();
    assert_eq!((names, total), (vec!["/leak", "/big", "/shrinks"], 3));
    // Both processes map the same shared memory.
    let leak = &rows[0];
    assert_eq!((leak.processes, leak.memory_bytes), (2, (10 + 89 + 5 + 16) * MIB));
    assert_eq!((leak.largest.0, &*leak.largest.1), (2, "p2"));
    assert_eq!(leak.growth_secs, 59.0 * 60.0);
    assert!((leak.growth_bytes_per_sec.unwrap() - MIB as f64 / 60.0).abs() < 1.0, "{leak:?}");
    assert!(rows[2].growth_bytes_per_sec < Some(0.0), "{:?}", rows[2]);
}

#[test]
fn workload_of_a_pod_has_the_names_that_the_kubelet_gives() {
    const UID: &str = "5af2b6f4-1c0e-4d0f-9d3c-0f6a5b7c8d9e";
    let base = std::env::temp_dir().join(format!("spillway-tables-{}", std::process::id()));
    let logs = base.join("pods");
    std::fs::create_dir_all(logs.join(format!("shop_api-7d_{UID}/api"))).unwrap();
    let pod = format!("/kubepods/burstable/pod{UID}");
    let (known, unknown) = (format!("{pod}/{}", "3f".repeat(32)), pod.replace("5af", "6af"));
    let mut tables = HostTables::new(HOST);
    let facts = vec![process(1, &known, 2), process(2, &unknown, 1)];
    scan(&mut tables, ScanKind::Processes, 1.0, facts);
    let (rows, _) = tables.rows().workloads;
    let pods = NodePods::read(&logs);
    let entries = entries::workload_entries(&rows, &IncidentIndex::default(), &pods);
    std::fs::remove_dir_all(&base).unwrap();
    let names: Vec<_> = entries.iter().map(|entry| &*entry.name).collect();
    assert_eq!(names, ["container api of pod shop/api-7d", &format!("pod {}", &unknown[23..])]);
    let entries = entries::workload_entries(&rows, &IncidentIndex::default(), &NodePods::default());
    assert_eq!(entries[0].name, format!("container 3f3f3f3f3f3f of pod {UID}"));
}

#[test]
fn largest_workloads_are_named_and_the_rest_is_summed() {
    let mut tables = HostTables::new(HOST);
    let facts = (1..=25).map(|pid| process(pid, &format!("/{pid}"), pid.into())).collect();
    scan(&mut tables, ScanKind::Processes, 0.0, facts);
    let (largest, others_bytes) = tables.largest_workloads();
    assert_eq!((largest.len(), &*largest[0].0, &*largest[19].0), (20, "/25", "/6"));
    assert_eq!(largest[0].1, (25 + 16) * MIB);
    assert_eq!(others_bytes, (1 + 2 + 3 + 4 + 5 + 5 * 16) * MIB);
}

#[test]
fn workload_keeps_its_history_over_a_restart() {
    let mut tables = HostTables::new(HOST);
    let mut at = |minute: u32, facts| {
        scan(&mut tables, ScanKind::Processes, 60.0 * f64::from(minute), facts);
        tables.rows().workloads.0.first().map(|row| row.growth_secs)
    };
    for minute in 0..5 {
        at(minute, vec![process(1, "/a", 10)]);
    }
    assert_eq!(at(5, vec![]), None);
    assert_eq!(at(7, vec![process(2, "/a", 10)]), Some(7.0 * 60.0));
    assert_eq!(at(20, vec![]), None);
    assert_eq!(at(21, vec![process(3, "/a", 10)]), Some(0.0));
}

#[test]
fn listeners_of_one_address_are_one_row_with_a_pace() {
    let mut tables = HostTables::new(HOST);
    for tick in 0..120_u32 {
        let t = f64::from(tick) / 10.0;
        if tick % 10 == 0 {
            scan(&mut tables, ScanKind::Processes, t, vec![]);
        }
        let listener = |addr: &str, backlog, accepted: u32, wait| {
            Fact::Listener(Box::new(ListenerFact {
                netns: 7,
                addr: addr.into(),
                backlog,
                backlog_max: 128,
                accepted_total: Some(accepted.into()),
                oldest_wait_us: Some(wait),
                ..ListenerFact::default()
            }))
        };
        let requests = RequestsFact {
            netns: 7,
            addr: "0.0.0.0:80".into(),
            in_flight: 3,
            ..RequestsFact::default()
        };
        let facts = vec![
            listener("0.0.0.0:80", 1, tick, 10),
            listener("0.0.0.0:80", 2, tick, 900),
            listener("0.0.0.0:9000", 0, 0, 0),
            Fact::Requests(requests),
        ];
        scan(&mut tables, ScanKind::Listeners, t, facts);
    }
    let (rows, total) = tables.rows().listeners;
    assert_eq!((rows.len(), total), (2, 2));
    assert_eq!(&*rows[0].listener.addr, "0.0.0.0:80");
    assert_eq!((rows[0].backlog, rows[0].backlog_max), (3, 256));
    assert_eq!(rows[0].listener.oldest_wait_us, Some(900));
    assert_eq!(rows[0].requests.as_ref().map(|requests| requests.in_flight), Some(3));
    assert!((rows[0].accepted_per_sec.unwrap() - 20.0).abs() < 0.5, "{:?}", rows[0]);
    assert_eq!(rows[1].requests, None);
    // A listener that is closed is gone with the next scan that is taken.
    scan(&mut tables, ScanKind::Processes, 12.0, vec![]);
    scan(&mut tables, ScanKind::Listeners, 12.0, vec![]);
    assert_eq!(tables.rows().listeners, (vec![], 0));
}

#[test]
fn resources_are_listed_by_the_share_in_use() {
    let mut tables = HostTables::new(HOST);
    let handles = |pid, fds, fds_max| {
        let id = ProcessId { pid, start_ticks: 1 };
        Fact::Handles(ProcessResourcesFact { id, fds, fds_max, threads: 1, close_wait: None })
    };
    let Fact::Process(limited) = process(1, "/limited", 84) else { unreachable!() };
    let limited = Fact::Process(ProcessFact { memory_max_bytes: Some(200 * MIB), ..limited });
    let host = HostFact { mem_available_bytes: 3 << 32, psi_memory_some_avg10: None };
    let facts = vec![
        Fact::Host(host),
        handles(1, 900, Some(1_000)),
        handles(2, 5, Some(1_000)),
        handles(3, 5_000, None),
        limited,
        process(2, "/free", 1_000),
    ];
    scan(&mut tables, ScanKind::Processes, 1.0, facts);
    let files = LimitSubject::Process(1, "p1".into());
    let expected = [
        ("files", files, 900, 1_000),
        ("memory", LimitSubject::Cgroup("/limited".into()), 100 * MIB, 200 * MIB),
        ("memory", LimitSubject::Host, 1 << 32, 1 << 34),
    ];
    let rows = tables.rows().resources;
    let seen: Vec<_> =
        rows.into_iter().map(|row| (row.resource, row.subject, row.used, row.limit)).collect();
    assert_eq!(seen, expected);
    // A scan without open files leaves them; the end of the process does not.
    scan(&mut tables, ScanKind::Processes, 2.0, vec![]);
    assert_eq!(tables.rows().resources.len(), 2);
    let exit = Fact::Exit(ProcessId { pid: 1, start_ticks: 1 });
    scan(&mut tables, ScanKind::Processes, 3.0, vec![exit]);
    assert_eq!(tables.rows().resources.len(), 1);
}

#[test]
fn counts_with_a_limit_are_listed_until_they_are_gone() {
    let mut tables = HostTables::new(HOST);
    let count = |resource, used, limit| {
        let (resource, subject) = (CountedResource::named(resource), "/var".into());
        Fact::Count(CountFact { resource, subject, used, limit, culprits: Vec::new() })
    };
    let facts = vec![count("disk_bytes", 90, Some(100)), count("dying_cgroups", 7, None)];
    scan(&mut tables, ScanKind::Processes, 1.0, facts);
    scan(&mut tables, ScanKind::Processes, 60.0, vec![]);
    let rows = tables.rows().resources;
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((row.resource, &row.subject), ("disk_bytes", &LimitSubject::Counted("/var".into())));
    assert_eq!((row.used, row.limit), (90, 100));
    scan(&mut tables, ScanKind::Processes, 70.0, vec![]);
    assert_eq!(tables.rows().resources, []);
}

proptest! {
    #[test]
    fn tables_are_bounded_whatever_comes(
        facts in prop::collection::vec((any::<u32>(), any::<u16>(), any::<u64>()), 0..300),
    ) {
        let mut tables = HostTables::new(HOST);
        for (t, chunk) in facts.chunks(30).enumerate() {
            let facts = chunk.iter().map(|(pid, name, bytes)| {
                let addr = name.to_string();
                match pid % 3 {
                    0 => Fact::Listener(Box::new(ListenerFact {
                        addr: addr.into(),
                        backlog: *pid,
                        backlog_max: u32::MAX,
                        accepted_total: Some(*bytes),
                        ..ListenerFact::default()
                    })),
                    _ => Fact::Process(ProcessFact {
                        id: ProcessId { pid: *pid, start_ticks: *bytes },
                        cgroup: addr.into(),
                        anon_bytes: *bytes,
                        shmem_bytes: *bytes,
                        memory_max_bytes: Some(*bytes),
                        ..ProcessFact::default()
                    }),
                }
            }).collect::<Vec<_>>();
            scan(&mut tables, ScanKind::Processes, t as f64, facts.clone());
            scan(&mut tables, ScanKind::Listeners, t as f64, facts);
        }
        let rows = tables.rows();
        let counts = [rows.workloads.0.len(), rows.listeners.0.len(), rows.resources.len()];
        prop_assert!(counts.iter().all(|count| *count <= ROWS_MAX));
        prop_assert!(rows.workloads.1 <= workloads::WORKLOADS_MAX);
    }
}
