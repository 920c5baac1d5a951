//! History of one pid in a trace: what it used and could use, the verdicts about it, and the other
//! lives of its workload.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::BufRead,
    sync::Arc,
};

use thiserror::Error;

use super::{
    ended_lives::LivesAtLimit,
    series::{Curve, Thinned},
    svg::{Charted, ChartedVerdict, Picture},
};
use crate::{
    config::Config,
    detect::{Claim, Resource, Verdict},
    engine::{Engine, Output},
    sense::{Fact, Observation, ProcessFact, ProcessResourcesFact},
    trace::{TraceError, TraceReader},
};

/// Maximum processes listed if the requested one is missing.
const NAMED_MAX: usize = 10;

/// Failure to draw a picture.
#[derive(Debug, Error)]
pub enum ExplainError {
    /// The trace cannot be read.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The trace has no such process.
    #[error("the trace has no process with pid {pid}\n  hint: {others}")]
    NoProcess {
        /// Requested pid.
        pid: u32,
        /// Hint that lists the largest processes of the trace.
        others: String,
    },
    /// The trace has no such count.
    #[error("the trace has no count {name}\n  hint: {others}")]
    NoCount {
        /// Requested count.
        name: String,
        /// Hint that lists counts of the trace.
        others: String,
    },
}

/// History of one pid.
#[derive(Debug, Default)]
pub struct Explained {
    /// Process id.
    pub pid: u32,
    /// Processes that had this pid, in order.
    pub lives: Vec<Life>,
    /// Memory of the other processes of its workload that ended near their limit, as in a crash
    /// loop, in order of their ends.
    pub other_lives: Vec<Thinned>,
    /// Leak verdicts about it, raised and cleared, in order.
    pub verdicts: Vec<Verdict>,
    /// First and last time of the trace, in seconds of its clock.
    pub span: Option<(f64, f64)>,
    /// All memory that it could have had of the host when it was last seen, in bytes; `None` if the
    /// trace does not say.
    host_limit_bytes: Option<u64>,
}

/// One process, from its start to its exit.
#[derive(Debug)]
pub struct Life {
    /// Start time in clock ticks since boot, as in `/proc/PID/stat`.
    pub start_ticks: u64,
    /// Command name when it was last seen.
    pub comm: Arc<str>,
    /// Cgroup when it was last seen.
    pub cgroup: Arc<str>,
    /// What it used of each resource, and the limit.
    curves: BTreeMap<Resource, Curve>,
}

impl Life {
    fn of(fact: &ProcessFact) -> Self {
        let (comm, cgroup) = (fact.comm.clone(), fact.cgroup.clone());
        Self { start_ticks: fact.id.start_ticks, comm, cgroup, curves: BTreeMap::new() }
    }

    fn add(&mut self, t: f64, fact: &ProcessFact) {
        self.comm = fact.comm.clone();
        self.cgroup = fact.cgroup.clone();
        let memory = self.curves.entry(Resource::Memory).or_default();
        memory.push(t, fact.private_bytes(), fact.memory_max_bytes);
    }

    fn add_resources(&mut self, t: f64, fact: &ProcessResourcesFact) {
        let mut add = |resource, value, limit| {
            self.curves.entry(resource).or_default().push(t, value, limit);
        };
        add(Resource::Files, fact.fds, fact.fds_max);
        add(Resource::Threads, fact.threads, None);
        if let Some(close_wait) = fact.close_wait {
            add(Resource::CloseWait, close_wait, fact.fds_max);
        }
    }

    /// Returns what it used of a resource, if the trace says so.
    pub fn curve(&self, resource: Resource) -> Option<&Curve> {
        self.curves.get(&resource)
    }
}

impl Explained {
    /// Returns the resources that the picture is about: those of which something is claimed, or
    /// memory.
    pub fn resources(&self) -> BTreeSet<Resource> {
        let claimed: BTreeSet<_> = self.verdicts.iter().filter_map(resource).collect();
        if claimed.is_empty() { BTreeSet::from([Resource::Memory]) } else { claimed }
    }

    /// Returns the limit of a resource at each time at which it changed: its own, or the whole
    /// host's memory if that is nearer in the end, which is drawn as it was then.
    pub fn limits(&self, resource: Resource) -> Vec<(f64, u64)> {
        let curves = self.lives.iter().filter_map(|life| life.curve(resource));
        let own: Vec<_> = curves.flat_map(|curve| curve.limit.iter().copied()).collect();
        let of_host = self.host_limit_bytes.filter(|_| resource == Resource::Memory);
        let of_host = of_host.filter(|host| own.last().is_none_or(|(_, own)| host < own));
        of_host.map_or(own, |bytes| vec![(self.span.map_or(0.0, |(first, _)| first), bytes)])
    }

    /// Returns the picture of it.
    pub fn picture(&self) -> Picture<'_> {
        let charts = self.resources().into_iter().map(|resource| self.charted(resource)).collect();
        Picture { title: self.title(), span: self.span, charts, verdicts: &self.verdicts }
    }

    fn charted(&self, about: Resource) -> Charted<'_> {
        let of_resource = self.verdicts.iter().filter(|verdict| resource(verdict) == Some(about));
        let is_memory = about == Resource::Memory;
        Charted {
            name: described(about).to_owned(),
            is_bytes: is_memory,
            curves: self.lives.iter().filter_map(|life| life.curve(about)).collect(),
            others: if is_memory { &self.other_lives } else { &[] },
            limits: self.limits(about),
            verdicts: of_resource
                .map(|verdict| ChartedVerdict { verdict, claimed: self.claimed(verdict, about) })
                .collect(),
        }
    }

    /// Returns what a process used that is claimed to leak, and the claimed pace.
    fn claimed(&self, verdict: &Verdict, about: Resource) -> Option<(&Curve, f64)> {
        let Claim::Leak(claim) = &verdict.claim else { return None };
        if claim.cgroup_memory.is_some() {
            return None;
        }
        let mut lives = self.lives.iter();
        let life = lives.find(|life| life.start_ticks == claim.id.start_ticks)?;
        Some((life.curve(about)?, claim.growth_bytes_per_sec.or(claim.growth_handles_per_sec)?))
    }

    fn title(&self) -> String {
        let Some(life) = self.lives.last() else { return String::new() };
        let lives = match (self.lives.len(), self.other_lives.len()) {
            (1, 0) => String::new(),
            (1, 1) => ", with another life of its workload that ended near its limit".to_owned(),
            (1, others) => {
                format!(", with {others} other lives of its workload that ended near their limit")
            }
            (count, _) => format!(", the last of {count} processes with this pid"),
        };
        format!("{} (pid {}) in {}{lives}", life.comm, self.pid, life.cgroup)
    }

    fn add(&mut self, t: f64, fact: &ProcessFact, available_bytes: Option<u64>) {
        let of_host = |available: u64| fact.private_bytes().saturating_add(available);
        self.host_limit_bytes = available_bytes.map(of_host);
        if self.lives.last().is_none_or(|life| life.start_ticks != fact.id.start_ticks) {
            self.lives.push(Life::of(fact));
        }
        if let Some(life) = self.lives.last_mut() {
            life.add(t, fact);
        }
    }

    fn add_resources(&mut self, t: f64, fact: &ProcessResourcesFact) {
        let life = self.lives.last_mut().filter(|life| life.start_ticks == fact.id.start_ticks);
        if let Some(life) = life {
            life.add_resources(t, fact);
        }
    }
}

fn described(resource: Resource) -> &'static str {
    match resource {
        Resource::Memory => "anonymous, swapped and shared memory",
        Resource::Files => "open files",
        Resource::Threads => "threads",
        Resource::CloseWait => "sockets that only the peer has closed",
    }
}

/// Returns the resource of a process that a verdict is about.
pub fn resource(verdict: &Verdict) -> Option<Resource> {
    match &verdict.claim {
        Claim::Leak(claim) => Some(claim.resource),
        _ => None,
    }
}

/// Replays a trace and collects the history of one pid. Skips invalid lines.
///
/// # Errors
///
/// Returns an error if the trace cannot be read or has no such process.
pub fn explain<R: BufRead>(input: R, config: &Config, pid: u32) -> Result<Explained, ExplainError> {
    let mut explained = Explained { pid, ..Explained::default() };
    let mut others: BTreeMap<u32, (Arc<str>, u64)> = BTreeMap::new();
    let mut at_limit = LivesAtLimit::default();
    let mut available_bytes = None;
    let of_pid =
        |verdict: &Verdict| matches!(&verdict.claim, Claim::Leak(claim) if claim.id.pid == pid);
    explained.span = replayed(input, config, |observation, verdicts| {
        let t = observation.t;
        explained.verdicts.extend(verdicts.drain(..).filter(of_pid));
        match &observation.fact {
            Fact::Host(host) => available_bytes = Some(host.mem_available_bytes),
            Fact::Process(fact) => {
                if fact.id.pid == pid {
                    explained.add(t, fact, available_bytes);
                } else {
                    others.insert(fact.id.pid, (fact.comm.clone(), fact.private_bytes()));
                }
                at_limit.see(t, fact);
            }
            Fact::Handles(fact) if fact.id.pid == pid => explained.add_resources(t, fact),
            Fact::Exit(id) => at_limit.end(*id),
            _ => {}
        }
    })?;
    let Some(last) = explained.lives.last() else {
        return Err(ExplainError::NoProcess { pid, others: largest(&others) });
    };
    explained.other_lives = at_limit.of(last, pid);
    Ok(explained)
}

/// Replays a trace, and passes each observation with the verdicts that came of it. Skips invalid
/// lines. Returns the first and the last time.
///
/// # Errors
///
/// Returns an error if the trace cannot be read.
pub(super) fn replayed<R: BufRead>(
    input: R,
    config: &Config,
    mut each: impl FnMut(&Observation, &mut Vec<Verdict>),
) -> Result<Option<(f64, f64)>, TraceError> {
    let mut reader = TraceReader::new(input)?;
    let mut engine = Engine::new(config, reader.header().host);
    let (mut output, mut span) = (Output::default(), None);
    for observation in (&mut reader).flatten() {
        let t = observation.t;
        span = Some(span.map_or((t, t), |(first, last): (f64, f64)| (first, t.max(last))));
        engine.apply_into(&observation, &mut output);
        output.decisions.clear();
        each(&observation, &mut output.verdicts);
        output.verdicts.clear();
    }
    reader.finish().map_err(TraceError::from)?;
    Ok(span)
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

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::{super::draw, *};

    const HEADER: &str = "{\"spillway_trace\":1,\"host\":{\"mem_total_bytes\":17179869184,\"cpus\":8},\
                          \"interval_secs\":1.0}\n";

    /// Adds a life of 190 seconds that climbs to its limit, in a container of its own.
    fn live(trace: &mut String, pid: u32, limit_mib: u64) {
        let start = f64::from(pid) * 200.0;
        for second in 0..190_u32 {
            let (t, bytes) = (start + f64::from(second), u64::from(10 + second) << 20);
            let (cgroup, limit) = (format!("/kubepods/podaaaa/{pid}"), limit_mib << 20);
            writeln!(
                trace,
                "{{\"t\":{t},\"kind\":\"process\",\"pid\":{pid},\"start_ticks\":{pid},\"ppid\":1,\
                 \"comm\":\"api\",\"cgroup\":\"{cgroup}\",\"anon_bytes\":{bytes},\"file_bytes\":0,\
                 \"shmem_bytes\":0,\"swap_bytes\":0,\"memory_max_bytes\":{limit}}}"
            )
            .unwrap();
        }
        let end = start + 190.0;
        writeln!(trace, "{{\"t\":{end},\"kind\":\"exit\",\"pid\":{pid},\"start_ticks\":{pid}}}")
            .unwrap();
    }

    fn explained(trace: &str, pid: u32) -> Explained {
        explain(trace.as_bytes(), &Config::default(), pid).unwrap()
    }

    #[test]
    fn crash_loop_is_drawn_with_the_lives_that_ended_at_the_limit() {
        let mut trace = HEADER.to_owned();
        for (pid, limit_mib) in [(1, 200), (2, 2_000), (3, 200), (4, 200)] {
            live(&mut trace, pid, limit_mib);
        }
        let last = explained(&trace, 4);
        assert_eq!(last.other_lives.len(), 2, "the second ended far from its limit");
        let svg = draw(&last.picture()).unwrap();
        assert!(svg.contains("with 2 other lives of its workload"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2);
    }

    #[test]
    fn limit_is_drawn_as_it_changed() {
        let mut trace = HEADER.to_owned();
        live(&mut trace, 1, 200);
        let half = trace.rfind("\"t\":300").unwrap();
        let changed = trace[half..].replace(&(200_u64 << 20).to_string(), "157286400");
        trace.replace_range(half.., &changed);
        let limits = explained(&trace, 1).limits(Resource::Memory);
        assert_eq!(limits, [(200.0, 200 << 20), (300.0, 150 << 20)]);
    }

    #[test]
    fn claim_about_open_files_is_drawn_as_their_number_and_limit() {
        let trace = include_str!("../../../../tests/traces/fd-leak.jsonl");
        let of_files = explained(trace, 812);
        assert_eq!(of_files.resources(), BTreeSet::from([Resource::Files]));
        let svg = draw(&of_files.picture()).unwrap();
        assert!(svg.contains("open files") && svg.contains("raised"), "{svg}");
        assert_eq!(svg.matches("<polygon").count(), 1, "its forecast is a band");
        assert!(!svg.contains("swapped"), "{svg}");
    }
}
