use std::fs;

use super::*;
use crate::sense::{
    LossCounters, Observation, ProcessFact, ProcessId, cgroup_namespace::NamespaceRoot,
    sensor::read_after,
};

const MIB: u64 = 1 << 20;

/// A directory that looks like a hierarchy.
struct Tree(PathBuf);

impl Tree {
    fn make(name: &str) -> Self {
        let mount = std::env::temp_dir()
            .join(format!("spillway-cgroup-memory-{name}-{}", std::process::id()));
        fs::create_dir_all(&mount).unwrap();
        Self(mount)
    }

    fn write(&self, cgroup: &str, files: &[(&str, &str)]) {
        let directory = self.0.join(&cgroup[1..]);
        fs::create_dir_all(&directory).unwrap();
        for (file, text) in files {
            fs::write(directory.join(file), text).unwrap();
        }
    }

    fn v2(&self) -> CgroupMemorySensor {
        CgroupMemorySensor::start(&Hierarchy::V2 {
            mount: self.0.clone(),
            root: NamespaceRoot::default(),
        })
        .unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn process(pid: u32, cgroup: &Arc<str>) -> Observation {
    let fact = ProcessFact {
        id: ProcessId { pid, start_ticks: 1 },
        ppid: 1,
        comm: "api".into(),
        cgroup: cgroup.clone(),
        ..ProcessFact::default()
    };
    Observation { t: 0.0, fact: Fact::Process(fact) }
}

/// Reads after a scan that saw processes in these cgroups; returns the cgroups' facts and losses.
fn read(
    sensor: &mut CgroupMemorySensor,
    t: f64,
    cgroups: &[Arc<str>],
) -> (Vec<CgroupFact>, LossCounters) {
    let processes = cgroups.iter().enumerate().map(|(pid, cgroup)| process(pid as u32, cgroup));
    let (facts, losses) = read_after(sensor, t, processes.collect());
    let seen = facts.into_iter().filter_map(|observation| match observation.fact {
        Fact::Cgroup(fact) => Some(fact),
        _ => None,
    });
    (seen.collect(), losses)
}

#[test]
fn reclaimable_slab_is_no_kernel_memory() {
    let stat = "anon 1\nkernel 900\nslab_reclaimable 500\nslab_unreclaimable 100\nsock 7\n";
    assert_eq!(kernel_bytes(stat), Some(407));
    let older = "kernel_stack 10\nslab_reclaimable 500\nslab_unreclaimable 100\nsock 7\n";
    assert_eq!(kernel_bytes(older), Some(117));
    // Without the reclaimable part, a cache could be taken for a leak.
    for text in ["", "kernel 900\n", "kernel_stack 10\npagetables 5\n", "kernel -1\nsock 7\n"] {
        assert_eq!(kernel_bytes(text), None, "{text:?}");
    }
    let huge = format!("kernel {0}\nslab_reclaimable 0\nsock {0}\n", u64::MAX);
    assert_eq!(kernel_bytes(&huge), Some(u64::MAX));
}

#[test]
fn both_versions_give_the_same_fact() {
    let tree = Tree::make("versions");
    let v1 = [
        ("memory.stat", "cache 5\nrss 7\nshmem 9\ntotal_rss 4096\ntotal_shmem 8192\n"),
        ("memory.usage_in_bytes", "99999\n"),
        ("memory.limit_in_bytes", "9223372036854771712\n"),
        ("memory.kmem.usage_in_bytes", "18446744073709551615\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
    ];
    let v2 = [
        ("memory.stat", "anon 4096\nfile 77777\nshmem 8192\nkernel 600\nslab_reclaimable 88\n"),
        ("memory.current", "99999\n"),
        ("memory.max", "max\n"),
        ("memory.events", "low 0\noom 9\noom_kill 3\noom_group_kill 1\n"),
    ];
    tree.write("/one", &v1);
    tree.write("/two", &v2);
    let mut files = Files { mount: tree.0.clone(), is_v1: true, text: Vec::new() };
    let slab_bytes = u64::MAX - 512;
    let one = files.read(&Arc::from("/one"), Some(slab_bytes)).unwrap();
    files.is_v1 = false;
    let two = files.read(&Arc::from("/two"), None).unwrap();
    let expected = CgroupFact {
        cgroup: "/two".into(),
        current_bytes: Some(99_999),
        anon_bytes: Some(4_096),
        shmem_bytes: Some(8_192),
        kernel_bytes: Some(512),
        max_bytes: None,
        oom_kills_total: Some(3),
    };
    assert_eq!(CgroupFact { cgroup: "/one".into(), ..expected.clone() }, one);
    assert_eq!(expected, two);
    tree.write("/two", &[("memory.max", "209715200\n")]);
    assert_eq!(files.read(&Arc::from("/two"), None).unwrap().max_bytes, Some(200 * MIB));
}

#[test]
fn malformed_and_missing_files_are_absent_values() {
    let tree = Tree::make("malformed");
    let bytes = "x".repeat(2 * FILE_BYTES_MAX);
    tree.write("/odd", &[("memory.stat", "anon\nshmem 1 2\nkernel k\n"), ("memory.max", &bytes)]);
    let mut sensor = tree.v2();
    let cgroups: Vec<Arc<str>> =
        ["/odd", "/gone", "/../../etc", "/", ""].into_iter().map(Arc::from).collect();
    let (facts, losses) = read(&mut sensor, 0.0, &cgroups);
    assert_eq!(facts, [CgroupFact { cgroup: "/odd".into(), ..CgroupFact::default() }]);
    assert_eq!(losses.totals().count(), 0, "{losses:?}");
}

#[test]
fn cgroup_that_cannot_be_read_is_counted() {
    let tree = Tree::make("unreadable");
    fs::create_dir_all(tree.0.join("a/memory.stat")).unwrap();
    let (facts, losses) = read(&mut tree.v2(), 0.0, &[Arc::from("/a")]);
    assert_eq!((facts.len(), losses.total(Loss::CgroupReadFailed)), (0, 1));
}

#[test]
fn cgroup_is_read_every_ten_seconds_and_a_minute_longer() {
    let tree = Tree::make("turns");
    let cgroup: Arc<str> = Arc::from("/a");
    tree.write("/a", &[("memory.stat", "anon 1\nshmem 2\n")]);
    let mut sensor = tree.v2();
    let read_at: Vec<_> = (0..200)
        .filter(|t| {
            let cgroups = if *t < 50 { std::slice::from_ref(&cgroup) } else { &[] };
            !read(&mut sensor, f64::from(*t), cgroups).0.is_empty()
        })
        .collect();
    assert_eq!(read_at, (0..=100).step_by(10).collect::<Vec<_>>());
    assert!(sensor.known.is_empty() && sensor.turns.is_empty());
}

#[test]
fn owner_with_many_cgroups_delays_only_its_own() {
    let tree = Tree::make("owners");
    let stat = [("memory.stat", "anon 1\nshmem 2\n")];
    let mut cgroups = vec![Arc::from("/system.slice/api.service")];
    cgroups.extend((0..2_000).map(|n| Arc::from(format!("/user.slice/user-1000.slice/{n}"))));
    cgroups.iter().for_each(|cgroup: &Arc<str>| tree.write(cgroup, &stat));
    let mut sensor = tree.v2();
    let (mut of_service, mut of_user, mut left_out) = (0, 0, 0);
    for t in 0..60 {
        let (facts, losses) = read(&mut sensor, f64::from(t), &cgroups);
        of_service += facts.iter().filter(|fact| fact.cgroup == cgroups[0]).count();
        of_user += facts.iter().filter(|fact| fact.cgroup != cgroups[0]).count();
        left_out += losses.total(Loss::CgroupsLeftOut);
    }
    // Reads rest on a busy host, but never by turns of the user's.
    assert!(of_service >= 4, "{of_service} reads of the service, {of_user} of the user's");
    assert!(of_user > of_service, "{of_user} reads");
    assert_eq!((sensor.known.len(), left_out), (1 + OWNED_MAX, 60));
}

#[test]
fn owner_is_a_user_or_a_unit() {
    for (cgroup, expected) in [
        ("/system.slice/api.service", "/system.slice/api.service"),
        ("/system.slice/api.service/worker/1", "/system.slice/api.service"),
        ("/user.slice/user-1000.slice/user@1000.service/a", "/user.slice/user-1000.slice"),
        ("/docker/0a1b", "/docker"),
        ("/a", "/a"),
        ("/a.slice", "/a.slice"),
        ("relative", "relative"),
        ("", ""),
    ] {
        assert_eq!(owner(cgroup), expected, "{cgroup}");
    }
}
