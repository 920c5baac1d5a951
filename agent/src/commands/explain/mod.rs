//! `spillway explain`: one process of a trace as a picture: what it weighed, what was claimed when,
//! and where that leads.
//!
//! People look before they read. The trace is replayed through the same core as `spillway replay`,
//! so the picture shows the verdicts that the agent gave. A trace may be longer than memory: of a
//! long series every other point is left out, as often as need be.

mod svg;

use std::{collections::BTreeMap, io::BufRead, sync::Arc};

use thiserror::Error;

use crate::{
    config::Config,
    detect::{Claim, Verdict},
    engine::{Engine, Output},
    sense::{Fact, ProcessFact},
    trace::{TraceError, TraceReader},
};

pub use svg::draw;

/// Points kept of one life: four a pixel of the picture.
const POINTS_MAX: usize = 4_096;

/// Processes named where the one that was asked for is not there.
const NAMED_MAX: usize = 10;

/// Why there is no picture.
#[derive(Debug, Error)]
pub enum ExplainError {
    /// The trace cannot be read.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The trace has no such process.
    #[error("the trace has no process with pid {pid}\n  hint: {others}")]
    NoProcess {
        /// The pid that was asked for.
        pid: u32,
        /// What it has instead.
        others: String,
    },
}

/// What is known of one pid.
#[derive(Debug, Default)]
pub struct Explained {
    /// The pid.
    pub pid: u32,
    /// Each process that had it, in order.
    pub lives: Vec<Life>,
    /// Leaks claimed and withdrawn, of memory and of anything else, in order.
    pub verdicts: Vec<Verdict>,
    /// First and last time of the trace, in its seconds.
    pub span: Option<(f64, f64)>,
    /// What the process could weigh at most when it was last seen, in bytes; `None` where the trace
    /// does not tell.
    pub limit_bytes: Option<u64>,
}

/// One process.
#[derive(Debug)]
pub struct Life {
    /// When it began, as `/proc/PID/stat` counts.
    pub start_ticks: u64,
    /// Its name when it was last seen.
    pub comm: Arc<str>,
    /// Its cgroup when it was last seen.
    pub cgroup: Arc<str>,
    /// When, in the trace's seconds, and private memory in bytes.
    pub points: Vec<(f64, u64)>,
    /// Of how many samples one is kept.
    stride: usize,
    seen: usize,
}

impl Life {
    fn of(fact: &ProcessFact) -> Self {
        let (comm, cgroup) = (fact.comm.clone(), fact.cgroup.clone());
        Self {
            start_ticks: fact.id.start_ticks,
            comm,
            cgroup,
            points: Vec::new(),
            stride: 1,
            seen: 0,
        }
    }

    fn add(&mut self, t: f64, fact: &ProcessFact) {
        self.comm = fact.comm.clone();
        self.cgroup = fact.cgroup.clone();
        if self.seen.is_multiple_of(self.stride) {
            self.points.push((t, fact.private_bytes()));
        }
        self.seen += 1;
        if self.points.len() > POINTS_MAX {
            let mut kept = 0;
            self.points.retain(|_| {
                kept += 1;
                kept % 2 == 1
            });
            self.stride *= 2;
        }
    }
}

/// Replays a trace, and keeps what it tells of one pid. Lines that cannot be used are left out.
///
/// # Errors
///
/// Where the trace cannot be read, or has no such process.
pub fn explain<R: BufRead>(input: R, config: &Config, pid: u32) -> Result<Explained, ExplainError> {
    let mut reader = TraceReader::new(input)?;
    let mut core = Engine::new(config, reader.header().host);
    let mut output = Output::default();
    let mut explained = Explained { pid, ..Explained::default() };
    let mut others: BTreeMap<u32, (Arc<str>, u64)> = BTreeMap::new();
    let mut available_bytes = None;
    for observation in (&mut reader).flatten() {
        let t = observation.t;
        explained.span = Some(explained.span.map_or((t, t), |(first, last)| (first, t.max(last))));
        core.apply_into(&observation, &mut output);
        output.decisions.clear();
        let of_pid =
            |verdict: &Verdict| matches!(&verdict.claim, Claim::Leak(claim) if claim.id.pid == pid);
        explained.verdicts.extend(output.verdicts.drain(..).filter(of_pid));
        match &observation.fact {
            Fact::Host(host) => available_bytes = Some(host.mem_available_bytes),
            Fact::Process(fact) if fact.id.pid == pid => explained.add(t, fact, available_bytes),
            Fact::Process(fact) => {
                others.insert(fact.id.pid, (fact.comm.clone(), fact.private_bytes()));
            }
            _ => {}
        }
    }
    reader.finish().map_err(TraceError::from)?;
    if explained.lives.is_empty() {
        return Err(ExplainError::NoProcess { pid, others: largest(&others) });
    }
    Ok(explained)
}

impl Explained {
    fn add(&mut self, t: f64, fact: &ProcessFact, available_bytes: Option<u64>) {
        if self.lives.last().is_none_or(|life| life.start_ticks != fact.id.start_ticks) {
            self.lives.push(Life::of(fact));
        }
        if let Some(life) = self.lives.last_mut() {
            life.add(t, fact);
        }
        let of_host =
            available_bytes.map(|available| fact.private_bytes().saturating_add(available));
        self.limit_bytes = fact.memory_max_bytes.into_iter().chain(of_host).min();
    }
}

fn largest(others: &BTreeMap<u32, (Arc<str>, u64)>) -> String {
    let mut others: Vec<_> = others.iter().collect();
    others.sort_by_key(|(_, (_, bytes))| std::cmp::Reverse(*bytes));
    let named: Vec<_> =
        others.iter().take(NAMED_MAX).map(|(pid, (comm, _))| format!("{pid} ({comm})")).collect();
    match named.len() {
        0 => "it has no processes at all".to_owned(),
        count => format!("the largest of its {} are {}", others.len().max(count), named.join(", ")),
    }
}
