//! Allocations of the loop on a host without new processes or listeners. If memory is short, each
//! allocation may have to wait.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::TcpListener,
    time::Duration,
};

use spillway_agent::{
    clock::Clock,
    config::Config,
    engine::{Engine, HostInfo, Output},
    scan_loop::{Batch, ScanKind},
    sense::{Observation, Sensors},
    serve::Metrics,
};
use spillway_tests::is_root;

thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// System allocator that counts each thread's allocations.
struct Counting;

// SAFETY: every call is forwarded unchanged to the system's allocator; counting changes a cell of
// this thread and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.with(|taken| taken.set(taken.get() + 1));
        // SAFETY: guaranteed by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: guaranteed by the caller.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        TAKEN.with(|taken| taken.set(taken.get() + 1));
        // SAFETY: guaranteed by the caller.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Turns of the loop that warm up its caches, so that nothing is seen for the first time later.
const WARM_UP: usize = 200;
const TURNS: usize = 60;

/// Maximum allocations of the median turn. Reading limits every ten scans and owners every ten
/// seconds comes on top. Metrics and the kernel's counters of losses make a few small, short-lived
/// allocations a scan.
const LISTENERS_MOST: u64 = 8;
const PROCESSES_MOST: u64 = 60;

/// Maximum number of turns in which judging allocates: now and then something on the host is new.
const NEWS_MOST: usize = TURNS / 20;

/// Parts of the agent's loop, without its timers.
struct Loop {
    sensors: Sensors,
    core: Engine,
    metrics: Metrics,
    observations: Vec<Observation>,
    output: Output,
    t: f64,
}

impl Loop {
    /// Runs one turn. Returns the allocations of reading, of judging and of counting.
    fn turn(&mut self, read: ScanKind) -> [u64; 3] {
        self.t += 0.1;
        self.observations.clear();
        let before = TAKEN.get();
        self.sensors.drain_life(self.t, &mut self.observations);
        match read {
            ScanKind::Listeners => self.sensors.scan_listeners(self.t, &mut self.observations),
            ScanKind::Processes => self.sensors.scan_processes(self.t, &mut self.observations),
        }
        let seen = TAKEN.get();
        for observation in &self.observations {
            self.core.apply_into(observation, &mut self.output);
        }
        let judged = TAKEN.get();
        let (observations, next_in) = (&self.observations[..], Duration::from_millis(100));
        let sensors = &mut self.sensors;
        self.metrics.note_batch(&mut Batch {
            read,
            observations,
            took_secs: 0.0,
            gap_secs: 0.0,
            next_in,
            sensors,
        });
        [seen - before, judged - seen, TAKEN.get() - judged]
    }

    /// Returns the median allocations of reading and counting, and the number of turns in which
    /// judging allocated.
    fn usual_turn(&mut self, read: ScanKind) -> (u64, usize) {
        for _ in 0..WARM_UP {
            self.turn(read);
        }
        let turns: Vec<_> = (0..TURNS).map(|_| self.turn(read)).collect();
        let mut of_edges: Vec<_> = turns.iter().map(|[seen, _, counted]| seen + counted).collect();
        of_edges.sort_unstable();
        let news = turns.iter().filter(|[_, judged, _]| *judged > 0).count();
        println!(
            "{read:?}: {} observations; {:?} allocations, {news} turns in which judging made some",
            self.observations.len(),
            [of_edges[0], of_edges[TURNS / 2], of_edges[TURNS - 1]],
        );
        (of_edges[TURNS / 2], news)
    }
}

#[test]
fn quiet_turn_of_the_loop_hardly_allocates() {
    if !is_root("allocations") {
        return;
    }
    let sensors = Sensors::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let info = HostInfo {
        mem_total_bytes: sensors.mem_total_bytes().expect("meminfo can be read"),
        cpus: 2,
    };
    let (core, metrics) =
        (Engine::new(&Config::default(), info), Metrics::new(Clock::start(), 1.0));
    let mut daemon = Loop {
        sensors,
        core,
        metrics,
        observations: Vec::new(),
        output: Output::default(),
        t: 0.0,
    };
    for (read, most) in
        [(ScanKind::Listeners, LISTENERS_MOST), (ScanKind::Processes, PROCESSES_MOST)]
    {
        let (of_edges, news) = daemon.usual_turn(read);
        assert!(!daemon.observations.is_empty(), "no {read:?} were seen");
        assert!(news <= NEWS_MOST, "judging known facts allocates in {news} of {TURNS} turns");
        assert!(of_edges <= most, "{of_edges} allocations to read and to count");
    }
    drop(listener);
}
