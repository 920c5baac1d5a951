//! Cost of the engine per fact: run with `cargo bench -p spillway-agent --bench core`.
//!
//! The numbers that matter are per element: one process observation of 2,000, on a host that is
//! scanned every second and on which nothing leaks; one listener observation of 50, ten times a
//! second; one line of a trace. The last group is not the engine's: what each process costs in the
//! tables of the status, once per scan, and in the history, once per minute and on another thread.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use spillway_agent::{
    config::Config,
    engine::{Engine, HostInfo, Output},
    history::{
        MINUTE_SECS,
        frame::{FrameHeader, pack},
    },
    scan_loop::ScanKind,
    sense::{
        CountFact, CountUser, CountedResource, Fact, HostFact, ListenerFact, Observation,
        ProcessFact, ProcessId,
    },
    status::HostTables,
    trace::{TraceReader, TraceWriter},
};

const INFO: HostInfo = HostInfo { mem_total_bytes: 16 << 30, cpus: 2 };
const PROCESSES: u32 = 2_000;
const LISTENERS: u32 = 50;
const COUNTS: u32 = 100;

fn processes(growth_bytes: u64) -> Vec<Observation> {
    let host =
        Fact::Host(HostFact { mem_available_bytes: 8 << 30, psi_memory_some_avg10: Some(0.0) });
    let process = |pid: u32| {
        Fact::Process(ProcessFact {
            id: ProcessId { pid, start_ticks: u64::from(pid) },
            ppid: 1,
            comm: Arc::from("worker"),
            cgroup: Arc::from("/system.slice/worker.service"),
            anon_bytes: (100 << 20) + growth_bytes,
            file_bytes: 1 << 20,
            mapped_bytes: Some(160 << 20),
            ..ProcessFact::default()
        })
    };
    std::iter::once(host)
        .chain((1..=PROCESSES).map(process))
        .map(|fact| Observation { t: 0.0, fact })
        .collect()
}

fn listeners() -> Vec<Observation> {
    let listener = |netns: u32| {
        Fact::Listener(Box::new(ListenerFact {
            netns,
            addr: Arc::from("0.0.0.0:8080"),
            cgroup: Arc::from("/system.slice/api.service"),
            pid: Some(812),
            backlog: 3,
            backlog_max: 128,
            accepted_total: Some(1_200),
            overflows_total: Some(0),
            sojourn_min_us: Some(40),
            sojourn_mean_us: Some(90),
            sojourn_p99_us: Some(400),
            oldest_wait_us: Some(90),
            ..ListenerFact::default()
        }))
    };
    (0..LISTENERS).map(listener).map(|fact| Observation { t: 0.0, fact }).collect()
}

/// Counts of as many subjects as a large host has, which climb by `growth_bytes` with each scan.
fn counts() -> Vec<Observation> {
    let count = |subject: u32| {
        let user = |name: u32| CountUser {
            name: Arc::from(format!("/srv/{name}")),
            pid: Some(name),
            used: 1 << 30,
        };
        Fact::Count(CountFact {
            resource: CountedResource::DiskBytes,
            subject: Arc::from(format!("/srv/{subject}")),
            used: 40 << 30,
            limit: Some(100 << 30),
            culprits: (0..8).map(user).collect(),
        })
    };
    (0..COUNTS).map(count).map(|fact| Observation { t: 0.0, fact }).collect()
}

/// Feeds the same facts again, `interval_secs` later each time, with memory growing by
/// `growth_bytes`.
fn feed(
    engine: &mut Engine,
    output: &mut Output,
    facts: &mut [Observation],
    interval_secs: f64,
    growth_bytes: u64,
) {
    for observation in facts {
        observation.t += interval_secs;
        if let Fact::Process(process) = &mut observation.fact {
            process.anon_bytes = (process.anon_bytes + growth_bytes) % (1 << 40);
        }
        if let Fact::Count(count) = &mut observation.fact {
            count.used = (count.used + growth_bytes) % (100 << 30);
        }
        engine.apply_into(black_box(observation), output);
    }
    output.verdicts.clear();
    output.decisions.clear();
}

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("observation");
    let cases = [
        ("process, steady", processes(0), 1.0, 0),
        ("process, all leaking", processes(0), 1.0, 1 << 20),
        ("listener", listeners(), 0.1, 0),
        ("count, steady", counts(), 10.0, 0),
        ("count, all climbing", counts(), 10.0, 1 << 20),
    ];
    for (name, mut facts, interval_secs, growth_bytes) in cases {
        group.throughput(Throughput::Elements(facts.len() as u64));
        let mut engine = Engine::new(&Config::default(), INFO);
        let mut output = Output::default();
        // Runs past warm-up and the first horizons, so that every ring is in use.
        (0..500)
            .for_each(|_| feed(&mut engine, &mut output, &mut facts, interval_secs, growth_bytes));
        group.bench_function(name, |bencher| {
            bencher
                .iter(|| feed(&mut engine, &mut output, &mut facts, interval_secs, growth_bytes));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("trace line");
    for (name, facts) in [("process", processes(0)), ("listener", listeners())] {
        let Ok(mut writer) = TraceWriter::new(Vec::new(), INFO, 1.0) else { continue };
        let Ok(bytes) =
            facts.iter().try_for_each(|fact| writer.write(fact)).and_then(|()| writer.finish())
        else {
            continue;
        };
        group.throughput(Throughput::Elements(facts.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                TraceReader::new(black_box(&bytes[..]))
                    .map(|reader| reader.filter(Result::is_ok).count())
            });
        });
    }
    group.finish();

    // What a person sees: the tables of the status at each scan, and a minute of history, packed.
    let mut group = criterion.benchmark_group("status and history");
    let facts = processes(0);
    group.throughput(Throughput::Elements(facts.len() as u64));
    let (mut tables, mut t) = (HostTables::new(INFO), 0.0);
    group.bench_function("tables, process", |bencher| {
        bencher.iter(|| {
            t += 1.0;
            tables.observe(ScanKind::Processes, t, black_box(&facts));
            tables.rows()
        });
    });
    let header = FrameHeader::new(INFO, MINUTE_SECS, String::new(), 0.0, 0);
    group.bench_function("minute, process", |bencher| {
        bencher.iter(|| pack(&header, black_box(&facts), &[]));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
