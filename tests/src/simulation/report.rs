//! Outcome of a run, as a table and as JSON.

use serde::{Serialize, Serializer};

use super::policies::Policy;

/// Outcome of one scenario with one policy.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Name of the scenario.
    pub scenario: &'static str,
    /// Number of hosts.
    pub nodes: usize,
    /// Name of the policy.
    pub policy: &'static str,
    /// Share of the requests that were answered in time, by any attempt.
    #[serde(serialize_with = "six_digits")]
    pub served_share: f64,
    /// Hosts that ran out of memory, each time.
    pub oom_deaths: u64,
    /// Drains granted.
    pub drains: u64,
    /// Requests for a drain that were refused for another reason than a wait.
    pub refused: u64,
    /// Largest share of the hosts that got no requests, drained or dead.
    #[serde(serialize_with = "six_digits")]
    pub max_out_share: f64,
    /// Hosts that a drain overloaded.
    pub overloaded_by_drain: u64,
    /// Smallest share served in a minute.
    #[serde(skip)]
    pub worst_minute: f64,
    /// State at the end of each minute.
    #[serde(skip)]
    pub samples: Vec<Sample>,
    /// Requests served and lost until the last sample.
    #[serde(skip)]
    totals: [f64; 2],
}

fn six_digits<S: Serializer>(share: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((share * 1e6).round() / 1e6)
}

/// State of the group at the end of a minute.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub t: f64,
    /// Requests answered and lost until then; in an outcome those of the minute.
    pub served: f64,
    pub lost: f64,
    pub in_rotation: f64,
    /// Median and largest share of memory in use.
    pub memory: [f64; 2],
}

impl Sample {
    /// Share of the minute's requests that were answered.
    pub fn served_share(&self) -> f64 {
        let all = self.served + self.lost;
        if all > 0.0 { (self.served / all).clamp(0.0, 1.0) } else { 1.0 }
    }
}

impl Outcome {
    /// Outcome of a run that has not begun.
    pub fn new(scenario: &'static str, nodes: usize, policy: Policy) -> Self {
        Self {
            scenario,
            nodes,
            policy: policy.name(),
            served_share: 1.0,
            oom_deaths: 0,
            drains: 0,
            refused: 0,
            max_out_share: 0.0,
            overloaded_by_drain: 0,
            worst_minute: 1.0,
            samples: Vec::new(),
            totals: [0.0; 2],
        }
    }

    /// Takes the totals at the end of a minute.
    pub fn sample(&mut self, total: Sample) {
        let [served_before, lost_before] =
            std::mem::replace(&mut self.totals, [total.served, total.lost]);
        // A host that dies takes back what counted as served.
        let served = (total.served - served_before).max(0.0);
        let lost = total.lost - lost_before;
        let sample = Sample { served, lost, ..total };
        self.worst_minute = self.worst_minute.min(sample.served_share());
        self.samples.push(sample);
    }
}

/// Table of outcomes.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{:<13} {:>9} {:>12} {:>10} {:>7} {:>8} {:>8} {:>19}\n",
        "policy",
        "served",
        "worst minute",
        "OOM deaths",
        "drains",
        "refused",
        "max out",
        "overloaded by drain"
    );
    for outcome in outcomes {
        text.push_str(&format!(
            "{:<13} {:>7.3} % {:>10.1} % {:>10} {:>7} {:>8} {:>6.1} % {:>19}\n",
            outcome.policy,
            outcome.served_share * 100.0,
            outcome.worst_minute * 100.0,
            outcome.oom_deaths,
            outcome.drains,
            outcome.refused,
            outcome.max_out_share * 100.0,
            outcome.overloaded_by_drain
        ));
    }
    text
}
