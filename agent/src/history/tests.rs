use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use proptest::prelude::*;

use super::{
    frame::{FrameHeader, pack, start, unpack, unpack_events},
    *,
};
use crate::{
    detect::HostInfo,
    scan_loop::ScanKind,
    sense::{
        CgroupFact, CountFact, CountedResource, Fact, HostFact, ListenerFact, Observation,
        ProcessFact, ProcessId,
    },
};

const HOST: HostInfo = HostInfo { mem_total_bytes: 1 << 34, cpus: 2 };
const HOUR: Duration = Duration::from_hours(1);
const LIMITS: RingLimits =
    RingLimits { bytes_max: 1 << 20, segment_bytes: 1 << 15, free_bytes_min: 0 };

/// A state directory of one test, which is removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("spillway-history-{}-{nth}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn ring(&self) -> HistoryRing {
        HistoryRing::new(self.0.clone(), HOUR, LIMITS)
    }

    /// Times of the frames that a reader finds.
    fn times(&self) -> Vec<u64> {
        self.frames(Period { from_secs: 0, to_secs: u64::MAX, step_secs: 0 })
    }

    fn frames(&self, period: Period) -> Vec<u64> {
        let frames = FrameReader::open(&self.0, period).unwrap();
        frames.map(|frame| frame.header.at_ms / 1_000).collect()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut paths: Vec<_> = fs::read_dir(self.0.join("history"))
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        paths.sort();
        paths
    }

    fn bytes(&self) -> u64 {
        self.segments().iter().map(|path| fs::metadata(path).unwrap().len()).sum()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn header(unix_secs: u64) -> FrameHeader {
    FrameHeader::new(HOST, MINUTE_SECS, "boot".to_owned(), 100.0, unix_secs * 1_000)
}

fn process(t: f64, pid: u32, anon_bytes: u64) -> Observation {
    let id = ProcessId { pid, start_ticks: 7 };
    let fact = ProcessFact {
        id,
        comm: "api".into(),
        cgroup: "/a".into(),
        anon_bytes,
        ..Default::default()
    };
    Observation { t, fact: Fact::Process(fact) }
}

fn exit(t: f64, pid: u32) -> Observation {
    Observation { t, fact: Fact::Exit(ProcessId { pid, start_ticks: 7 }) }
}

fn host(t: f64) -> Observation {
    let fact = HostFact { mem_available_bytes: 1 << 30, psi_memory_some_avg10: None };
    Observation { t, fact: Fact::Host(fact) }
}

fn listener(t: f64) -> Observation {
    Observation {
        t,
        fact: Fact::Listener(Box::new(ListenerFact { backlog: 3, ..Default::default() })),
    }
}

fn packed(unix_secs: u64) -> Vec<u8> {
    pack(&header(unix_secs), &[host(99.0), process(99.0, 1, 4096)], &[]).unwrap()
}

/// A frame of about so many bytes, which do not shrink.
fn large(unix_secs: u64, kib: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(unix_secs);
    let why = (0..kib * 1_024).map(|_| random.alphanumeric()).collect();
    let event = HistoryEvent { why, ..HistoryEvent::default() };
    pack(&header(unix_secs), &[], &[event]).unwrap()
}

fn append(ring: &mut HistoryRing, unix_secs: u64) {
    ring.append(&packed(unix_secs), unix_secs as u32).unwrap();
}

#[test]
fn frame_is_a_gzip_file_with_a_trace() {
    let event = HistoryEvent { event: "raised".to_owned(), t: 98.0, ..HistoryEvent::default() };
    let observations = [host(99.0), process(99.0, 1, 4096)];
    let bytes = pack(&header(1_700_000_000), &observations, std::slice::from_ref(&event)).unwrap();
    let beginning = start(&bytes).unwrap();
    assert_eq!((beginning.unix_secs, beginning.len), (1_700_000_000, bytes.len()));
    let frame = unpack(&bytes).unwrap();
    assert_eq!(frame.observations().collect::<Vec<_>>(), observations);
    assert_eq!(frame.observations_with(br#""kind":"host""#).collect::<Vec<_>>(), observations[..1]);
    assert_eq!(frame.events().collect::<Vec<_>>(), std::slice::from_ref(&event));
    let events = unpack_events(&bytes).unwrap();
    assert_eq!(events.events().collect::<Vec<_>>(), [event]);
    assert_eq!((events.header.at_ms, events.observations().count()), (1_700_000_000_000, 0));
    assert_eq!(frame.header.unix_ms(98.5), 1_699_999_998_500);
    let file = std::env::temp_dir().join(format!("spillway-frame-{}.gz", std::process::id()));
    fs::write(&file, &bytes).unwrap();
    let shown = std::process::Command::new("zcat").arg(&file).output().unwrap();
    fs::remove_file(&file).unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.starts_with(r#"{"spillway_trace":1,"host":"#), "{text}");
    assert_eq!(text.lines().count(), 4, "{text}");
}

proptest! {
    #[test]
    fn damaged_frame_is_not_used(at in 0_usize..200, bit in 0_u8..8, cut in 0_usize..200) {
        let good = packed(1_700_000_000);
        let mut bad = good.clone();
        let at = at % bad.len();
        bad[at] ^= 1 << bit;
        // The operating system and the time of a gzip header mean nothing to its content.
        if let Some(frame) = unpack(&bad) {
            prop_assert!((4..10).contains(&at), "byte {at}");
            prop_assert_eq!(frame.observations().count(), 2);
        }
        prop_assert_eq!(unpack(&good[..cut % good.len()]), None);
    }

    #[test]
    fn sample_is_bounded_and_in_order(
        reads in prop::collection::vec((any::<bool>(), 0.0_f64..200.0, 1_u32..5), 0..40),
    ) {
        let (mut minute, mut t) = (Minute::default(), 0.0);
        for (is_processes, step, pid) in reads {
            t += step;
            let read = if is_processes { ScanKind::Processes } else { ScanKind::Listeners };
            let facts = match read {
                ScanKind::Processes => vec![exit(t, pid), host(t), process(t, pid, 1)],
                ScanKind::Listeners => vec![exit(t, pid), listener(t)],
            };
            if let Some(sample) = minute.observe(read, t, &facts) {
                prop_assert!(sample.is_sorted_by(|one, other| one.t <= other.t));
                let count = |is: fn(&Fact) -> bool| {
                    sample.iter().filter(|observation| is(&observation.fact)).count()
                };
                prop_assert_eq!(count(|fact| matches!(fact, Fact::Host(_))), 1);
                prop_assert_eq!(count(|fact| matches!(fact, Fact::Process(_))), 1);
                prop_assert_eq!(count(|fact| matches!(fact, Fact::Listener(_))), 1);
            }
        }
    }
}

#[test]
fn sample_has_one_scan_and_what_came_between() {
    let mut minute = Minute::default();
    let cgroup = |t, bytes| {
        let fact =
            CgroupFact { cgroup: "/a".into(), anon_bytes: Some(bytes), ..Default::default() };
        Observation { t, fact: Fact::Cgroup(fact) }
    };
    assert_eq!(minute.observe(ScanKind::Listeners, 0.0, &[listener(0.0)]), None);
    assert_eq!(minute.observe(ScanKind::Processes, 1.0, &[host(1.0), process(1.0, 1, 5)]), None);
    assert_eq!(minute.observe(ScanKind::Processes, 1.5, &[host(1.5), process(1.5, 1, 6)]), None);
    let first = minute.observe(ScanKind::Listeners, 2.0, &[listener(2.0)]).unwrap();
    assert_eq!(first, [host(1.0), process(1.0, 1, 5), listener(2.0)]);
    // Process 2 was in no sample.
    let later = [exit(10.0, 1), exit(10.0, 2), cgroup(10.0, 1)];
    assert_eq!(minute.observe(ScanKind::Processes, 10.0, &later), None);
    assert_eq!(minute.observe(ScanKind::Processes, 20.0, &[cgroup(20.0, 2)]), None);
    assert_eq!(minute.observe(ScanKind::Listeners, 30.0, &[listener(30.0)]), None);
    assert_eq!(minute.observe(ScanKind::Processes, 61.0, &[host(61.0)]), None);
    let second = minute.observe(ScanKind::Listeners, 61.1, &[listener(61.1)]).unwrap();
    assert_eq!(second, [exit(10.0, 1), cgroup(20.0, 2), host(61.0), listener(61.1)]);
    // A host that was suspended gets no samples afterwards to make up for it.
    assert_eq!(minute.observe(ScanKind::Processes, 1_000.0, &[host(1_000.0)]), None);
    assert!(minute.observe(ScanKind::Listeners, 1_000.1, &[]).is_some());
    assert_eq!(minute.observe(ScanKind::Processes, 1_050.0, &[host(1_050.0)]), None);
    assert_eq!(minute.observe(ScanKind::Listeners, 1_050.1, &[]), None);
}

#[test]
fn history_of_a_count_is_what_was_in_use_and_its_limit() {
    let count = |subject: &str, used| Observation {
        t: 99.0,
        fact: Fact::Count(CountFact {
            resource: CountedResource::DiskBytes,
            subject: subject.into(),
            used,
            limit: Some(1_000),
            culprits: Vec::new(),
        }),
    };
    let frame = |unix_secs: u64, used| {
        let sample = [host(99.0), count("/var", used), count("/var/log", 7)];
        unpack(&pack(&header(unix_secs), &sample, &[]).unwrap()).unwrap()
    };
    let frames = [frame(60, 10), frame(120, 20)].into_iter();
    let series = series::of_count(frames, &CountedResource::DiskBytes, "/var");
    let [first, second] = [60, 120].map(|unix_secs| header(unix_secs).at_ms);
    assert_eq!(series.used, [(first, 10.0), (second, 20.0)]);
    assert_eq!(series.limit, [(first, 1_000.0), (second, 1_000.0)]);
}

#[test]
fn sample_of_a_huge_host_keeps_its_largest_processes() {
    let mut minute = Minute::default();
    let scan: Vec<_> = (0..25_000).map(|pid| process(0.0, pid, u64::from(pid / 2))).collect();
    assert_eq!(minute.observe(ScanKind::Processes, 0.0, &scan), None);
    let sample = minute.observe(ScanKind::Listeners, 0.1, &[listener(0.1)]).unwrap();
    let pids = sample.iter().filter_map(|observation| match &observation.fact {
        Fact::Process(process) => Some(process.id.pid),
        _ => None,
    });
    let pids: Vec<_> = pids.collect();
    assert_eq!((pids.len(), pids.first(), sample.len()), (20_000, Some(&5_000), 20_001));
}

#[test]
fn half_a_frame_of_a_killed_agent_is_cut_off() {
    let scratch = Scratch::new();
    append(&mut scratch.ring(), 1_000);
    append(&mut scratch.ring(), 1_060);
    let whole = scratch.bytes();
    let [segment] = &scratch.segments()[..] else { panic!("{:?}", scratch.segments()) };
    let torn = packed(1_120);
    let mut file = OpenOptions::new().append(true).open(segment).unwrap();
    file.write_all(&torn[..torn.len() - 1]).unwrap();
    assert_eq!(scratch.times(), [1_000, 1_060]);
    append(&mut scratch.ring(), 1_180);
    assert_eq!(scratch.times(), [1_000, 1_060, 1_180]);
    assert_eq!(scratch.bytes(), whole + packed(1_180).len() as u64);
}

#[test]
fn damaged_frame_costs_itself_alone() {
    let scratch = Scratch::new();
    let mut ring = scratch.ring();
    [1_000, 1_060, 1_120].into_iter().for_each(|secs| append(&mut ring, secs));
    let [segment] = &scratch.segments()[..] else { panic!("{:?}", scratch.segments()) };
    let mut bytes = fs::read(segment).unwrap();
    let second = packed(1_000).len();
    bytes[second + 40] ^= 0xff;
    fs::write(segment, &bytes).unwrap();
    assert_eq!(scratch.times(), [1_000, 1_120]);
    // Another file is neither read nor removed.
    let other = scratch.0.join("history/notes.txt");
    fs::write(&other, "mine").unwrap();
    append(&mut ring, 1_180);
    assert_eq!(scratch.times(), [1_000, 1_120, 1_180]);
    assert_eq!(fs::read_to_string(other).unwrap(), "mine");
}

#[test]
fn frame_of_another_version_is_skipped() {
    let scratch = Scratch::new();
    let mut ring = scratch.ring();
    append(&mut ring, 1_000);
    let newer = FrameHeader { spillway_trace: 2, ..header(1_060) };
    ring.append(&pack(&newer, &[], &[]).unwrap(), 1_060).unwrap();
    append(&mut ring, 1_120);
    assert_eq!(scratch.times(), [1_000, 1_120]);
}

#[test]
fn period_and_step_choose_the_frames() {
    let scratch = Scratch::new();
    let mut ring = scratch.ring();
    (0..10).for_each(|minute| append(&mut ring, 1_000 + 60 * minute));
    let every_third = Period { from_secs: 1_060, to_secs: 1_480, step_secs: 180 };
    let sampled = || -> Vec<u64> {
        let frames = FrameReader::open(&scratch.0, every_third).unwrap();
        let frames = frames.filter(|frame| frame.observations().count() > 0);
        frames.map(|frame| frame.header.at_ms / 1_000).collect()
    };
    assert_eq!(sampled(), [1_060, 1_240, 1_420]);
    // Of no frame after the first one.
    let once = Period { step_secs: u64::MAX, ..every_third };
    assert_eq!(scratch.frames(once).len(), 8);
    // Those between are there for their events.
    assert_eq!(scratch.frames(every_third).len(), 8);
    // The clock was set back: that time has its observations already.
    append(&mut ring, 1_100);
    assert_eq!(sampled(), [1_060, 1_240, 1_420]);
}

#[test]
fn ring_stays_within_its_bytes_and_its_time() {
    let scratch = Scratch::new();
    let mut ring = scratch.ring();
    for minute in 0..50_u64 {
        let secs = 1_000 + minute;
        ring.append(&large(secs, 40), secs as u32).unwrap();
        assert!(scratch.bytes() <= LIMITS.bytes_max, "{}", scratch.bytes());
    }
    let times = scratch.times();
    assert!(times.len() > 20 && times.last() == Some(&1_049), "{times:?}");
    // Two hours later all of it is too old, except the last segment.
    let later = 1_049 + 2 * HOUR.as_secs();
    append(&mut ring, later);
    append(&mut ring, later + 60);
    let times = scratch.times();
    assert!(times.len() <= 4 && times.ends_with(&[later, later + 60]), "{times:?}");
}

#[test]
fn nearly_full_disk_gets_room_back() {
    let scratch = Scratch::new();
    let mut ring = scratch.ring();
    for secs in 0..3 {
        ring.append(&large(secs, 60), secs as u32).unwrap();
    }
    assert_eq!(scratch.segments().len(), 3);
    let limits = RingLimits { free_bytes_min: 1 << 60, ..LIMITS };
    let mut full = HistoryRing::new(scratch.0.clone(), HOUR, limits);
    for left in [2, 1, 0, 0] {
        let error = full.append(&packed(10), 10).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(scratch.segments().len(), left);
    }
    append(&mut ring, 20);
    assert_eq!(scratch.times(), [20]);
}
