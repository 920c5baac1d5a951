//! The compared rules: the detector itself, and reference rules as small baselines over the same
//! facts.
//!
//! Baselines read the resident memory of all processes once a minute, as a metrics system does when
//! it scrapes, and keep at most an hour. They claim once until their condition no longer holds.
//! They know pids, not workloads, just as the originals know instances.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use spillway_agent::{
    config::Config,
    detect::{Claim, ClaimState, Resource, Severity},
    engine::{Engine, HostInfo, Output},
    sense::{Fact, Observation, ProcessFact, ProcessId},
};

/// Interval between two samples and the number kept: an hour of the usual scrape interval.
const SAMPLE_SECS: f64 = 60.0;
const SAMPLES_MAX: usize = 60;

/// Minimum number of samples for a verdict on a trend: the 15 minutes that the first rule requires.
const SAMPLES_MIN: usize = 15;

/// Coroot's check for memory leaks: ordinary least squares over an instance's last hour, growth of
/// 10 % an hour (its default threshold), held for the 15 minutes of its built-in alert.
const COROOT_PER_HOUR: f64 = 0.10;
const COROOT_HELD: usize = 15;

/// Condition that Coroot added in April 2026: growth of at least a share of the limit per hour (an
/// absolute rate without a limit), and a last quarter that still rises at a share of the whole.
const COROOT_LIMIT_SHARE: f64 = 0.05;
const COROOT_UNLIMITED_BYTES: f64 = 50e6;
const COROOT_LAST_QUARTER: f64 = 0.3;

/// Mann-Kendall with the Theil-Sen slope: z of 5 %, two-sided, the usual default of
/// implementations. Machida and others (2013) find it prone to false alarms in software ageing; it
/// is included because that field uses it nevertheless.
const MANN_KENDALL_Z: f64 = 1.96;

/// Precog (Jindal and others, 2021): a line with R² of at least 0.8, as in its authors' published
/// results (their code defaults to 0.78 in one variant and 0.88 in another), that reaches the limit
/// within seven days. Its training on the past and the six hours that a trend must last are
/// omitted: they would keep it silent on short runs.
const R2_MIN: f64 = 0.8;
const R2_WITHIN_SECS: f64 = 7.0 * 86_400.0;

/// The usual alert on memory: 80 % of the limit, as in widely used collections of alerting rules.
const THRESHOLD: f64 = 0.8;

/// Claim that a process leaks.
#[derive(Debug, Clone, PartialEq)]
pub struct Alarm {
    /// Time of the claim.
    pub t: f64,
    /// Process claimed.
    pub id: ProcessId,
    /// Name of the process.
    pub comm: Arc<str>,
    /// Cgroup of the process.
    pub cgroup: Arc<str>,
    /// True if the claim is about the cgroup, and the process is only one of it.
    pub of_cgroup: bool,
    /// Urgency; `None` for a rule that knows none.
    pub severity: Option<Severity>,
    /// Seconds until memory is exhausted.
    pub exhaustion_secs: Option<f64>,
    /// Interval of that forecast; `None` for a rule that gives none.
    pub exhaustion_interval_secs: Option<[f64; 2]>,
    /// Explanation by the rule; may be empty.
    pub why: String,
}

/// A rule that claims leaks from observations.
pub trait Rule {
    /// Processes one observation and appends new claims.
    fn observe(&mut self, observation: &Observation, alarms: &mut Vec<Alarm>);
}

/// Rules to score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// The detector beside the baselines.
    All,
    /// The detector alone, which takes half the time.
    Detector,
}

impl Compared {
    /// Returns the baselines of those to score.
    pub(crate) fn of<T>(self, baselines: &[T]) -> &[T] {
        match self {
            Self::All => baselines,
            Self::Detector => &[],
        }
    }
}

/// The detector first, then the baselines, each with its column name.
pub fn rules(host: HostInfo, compared: Compared) -> Vec<(&'static str, Box<dyn Rule>)> {
    let mut rules: Vec<(&'static str, Box<dyn Rule>)> = vec![(
        "spillway",
        Box::new(Detector {
            core: Engine::new(&Config::default(), host),
            output: Output::default(),
        }),
    )];
    for &(name, condition) in compared.of(&BASELINES) {
        rules.push((
            name,
            Box::new(Baseline {
                host,
                available: host.mem_total_bytes,
                condition,
                next_sample: 0.0,
                is_sampled: false,
                processes: HashMap::new(),
            }),
        ));
    }
    rules
}

const BASELINES: [(&str, Condition); 4] = [
    ("coroot", coroot),
    ("mann-kendall", mann_kendall),
    ("ols-r2", ols_r2),
    ("threshold", threshold),
];

struct Detector {
    core: Engine,
    output: Output,
}

impl Rule for Detector {
    fn observe(&mut self, observation: &Observation, alarms: &mut Vec<Alarm>) {
        self.core.apply_into(observation, &mut self.output);
        self.output.decisions.clear();
        for verdict in self.output.verdicts.drain(..) {
            // Other verdicts are ignored: the labels are about memory.
            if let (Claim::Leak(claim), ClaimState::Raised) = (verdict.claim, verdict.state)
                && claim.resource == Resource::Memory
            {
                let (id, t, exhaustion_secs) = (claim.id, verdict.t, verdict.exhaustion_secs);
                let (why, exhaustion_interval_secs) =
                    (verdict.why, verdict.exhaustion_interval_secs);
                let (comm, cgroup) = (claim.comm, claim.cgroup);
                let of_cgroup = claim.cgroup_memory.is_some();
                let severity = verdict.harm.map(|harm| harm.severity);
                alarms.push(Alarm {
                    t,
                    id,
                    comm,
                    cgroup,
                    of_cgroup,
                    severity,
                    exhaustion_secs,
                    exhaustion_interval_secs,
                    why,
                });
            }
        }
    }
}

/// Samples of one process kept by a baseline.
struct Seen {
    start_ticks: u64,
    samples: VecDeque<(f64, f64)>,
    held: usize,
    raised: bool,
}

/// State at a sample, apart from the past.
struct Now {
    rss: f64,
    limit: f64,
    /// True if the limit is the cgroup's, not the host's.
    limited: bool,
    headroom: f64,
}

/// Condition of a rule: `Some` with its forecast while it holds.
type Condition = fn(&mut Seen, &Now) -> Option<Option<f64>>;

struct Baseline {
    host: HostInfo,
    available: u64,
    condition: Condition,
    next_sample: f64,
    /// True if this scan is sampled.
    is_sampled: bool,
    processes: HashMap<u32, Seen>,
}

impl Rule for Baseline {
    fn observe(&mut self, observation: &Observation, alarms: &mut Vec<Alarm>) {
        match &observation.fact {
            Fact::Host(host) => {
                self.available = host.mem_available_bytes;
                self.is_sampled = observation.t >= self.next_sample;
                if self.is_sampled {
                    self.next_sample = observation.t + SAMPLE_SECS;
                }
            }
            Fact::Exit(id) | Fact::Exec(id) => drop(self.processes.remove(&id.pid)),
            Fact::Process(fact) if self.is_sampled => self.sample(observation.t, fact, alarms),
            _ => {}
        }
    }
}

impl Baseline {
    fn sample(&mut self, t: f64, fact: &ProcessFact, alarms: &mut Vec<Alarm>) {
        let start_ticks = fact.id.start_ticks;
        let fresh = || Seen {
            start_ticks,
            samples: VecDeque::with_capacity(SAMPLES_MAX),
            held: 0,
            raised: false,
        };
        let seen = self.processes.entry(fact.id.pid).or_insert_with(fresh);
        if seen.start_ticks != start_ticks {
            *seen = fresh();
        }
        let rss = (fact.anon_bytes + fact.shmem_bytes) as f64;
        if seen.samples.len() == SAMPLES_MAX {
            seen.samples.pop_front();
        }
        seen.samples.push_back((t, rss));
        let limit = fact.memory_max_bytes.unwrap_or(self.host.mem_total_bytes) as f64;
        let left = fact.memory_max_bytes.map_or(f64::INFINITY, |max| max as f64 - rss);
        let limited = fact.memory_max_bytes.is_some();
        let now = Now { rss, limit, limited, headroom: left.min(self.available as f64) };
        let claim = (self.condition)(seen, &now);
        if let (Some(exhaustion_secs), false) = (claim, seen.raised) {
            alarms.push(Alarm {
                t,
                id: fact.id,
                comm: fact.comm.clone(),
                cgroup: fact.cgroup.clone(),
                of_cgroup: false,
                severity: None,
                exhaustion_secs,
                exhaustion_interval_secs: None,
                why: String::new(),
            });
        }
        seen.raised = claim.is_some();
    }
}

fn coroot(seen: &mut Seen, now: &Now) -> Option<Option<f64>> {
    let least = COROOT_PER_HOUR * now.rss;
    let least = least.max(if now.limited {
        COROOT_LIMIT_SHARE * now.limit
    } else {
        COROOT_UNLIMITED_BYTES
    });
    let trend = line(seen.samples.iter()).filter(|_| seen.samples.len() >= SAMPLES_MIN);
    let growing = trend.is_some_and(|(slope, _)| {
        let quarter = seen.samples.len() * 3 / 4;
        let last = line(seen.samples.iter().skip(quarter)).map_or(0.0, |(slope, _)| slope);
        slope > 0.0 && slope * 3_600.0 >= least && last >= COROOT_LAST_QUARTER * slope
    });
    seen.held = if growing { seen.held + 1 } else { 0 };
    (seen.held >= COROOT_HELD).then_some(None)
}

fn mann_kendall(seen: &mut Seen, now: &Now) -> Option<Option<f64>> {
    let n = seen.samples.len();
    if n < SAMPLES_MIN {
        return None;
    }
    let (mut s, mut slopes) = (0.0, Vec::with_capacity(n * n / 2));
    for (place, (t, y)) in seen.samples.iter().enumerate() {
        for (earlier, before) in seen.samples.iter().take(place) {
            s += if y > before {
                1.0
            } else if y < before {
                -1.0
            } else {
                0.0
            };
            slopes.push((y - before) / (t - earlier));
        }
    }
    let mut sorted: Vec<f64> = seen.samples.iter().map(|sample| sample.1).collect();
    sorted.sort_by(f64::total_cmp);
    let term = |m: f64| m * (m - 1.0) * (2.0 * m + 5.0);
    let ties: f64 = sorted.chunk_by(|a, b| a == b).map(|group| term(group.len() as f64)).sum();
    let variance = (term(n as f64) - ties) / 18.0;
    let z = if variance > 0.0 { (s - 1.0) / variance.sqrt() } else { 0.0 };
    if z < MANN_KENDALL_Z {
        return None;
    }
    let middle = slopes.len() / 2;
    let slope = *slopes.select_nth_unstable_by(middle, f64::total_cmp).1;
    (slope > 0.0).then(|| Some(now.headroom / slope))
}

fn ols_r2(seen: &mut Seen, now: &Now) -> Option<Option<f64>> {
    let (slope, r2) = line(seen.samples.iter()).filter(|_| seen.samples.len() >= SAMPLES_MIN)?;
    let secs = now.headroom / slope;
    (slope > 0.0 && r2 >= R2_MIN && secs <= R2_WITHIN_SECS).then_some(Some(secs))
}

fn threshold(_: &mut Seen, now: &Now) -> Option<Option<f64>> {
    (now.rss >= THRESHOLD * now.limit).then_some(None)
}

/// Slope and R² of ordinary least squares.
fn line<'a>(samples: impl ExactSizeIterator<Item = &'a (f64, f64)> + Clone) -> Option<(f64, f64)> {
    if samples.len() < 3 {
        return None;
    }
    let n = samples.len() as f64;
    let (mx, my) =
        samples.clone().fold((0.0, 0.0), |(x, y), sample| (x + sample.0 / n, y + sample.1 / n));
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in samples {
        xx += (x - mx) * (x - mx);
        xy += (x - mx) * (y - my);
        yy += (y - my) * (y - my);
    }
    Some((xy / xx, if yy > 0.0 { xy * xy / (xx * yy) } else { 0.0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(y: impl Fn(f64) -> f64) -> Vec<bool> {
        let conditions = BASELINES.iter().map(|(_, condition)| {
            let mut seen =
                Seen { start_ticks: 0, samples: VecDeque::new(), held: 0, raised: false };
            (0..40).any(|sample| {
                let rss = y(f64::from(sample));
                seen.samples.push_back((f64::from(sample) * 60.0, rss));
                condition(&mut seen, &Now { rss, limit: 1e9, limited: true, headroom: 1e9 - rss })
                    .is_some()
            })
        });
        conditions.collect()
    }

    #[test]
    fn a_straight_line_is_claimed_and_a_flat_one_is_not() {
        assert_eq!(claims(|minute| 1e8 + 1e6 * minute), [true, true, true, false]);
        assert_eq!(claims(|_| 1e8), [false; 4]);
        assert_eq!(claims(|_| 9e8), [false, false, false, true]);
    }
}
