//! Judgement of one run: when each rule flagged the subject, and what it flagged wrongly.
//!
//! A claim about the subject is right from the moment the leak starts, whichever pid of the
//! workload it names, as is one about its cgroup. Any other claim is false; several wrong claims about a process in one day
//! count once.

use std::{collections::HashSet, path::Path};

use serde::Serialize;
use spillway_agent::{
    detect::Severity,
    sense::{Fact, Observation, ProcessFact, ProcessId},
};

use super::super::{
    baselines::{Alarm, Compared, rules},
    curve::DAY,
    manifest::{Entry, Label},
    run::Stream,
};

/// Run with its outcomes.
#[derive(Debug, Clone, Serialize)]
pub struct Scored {
    /// Entry in the manifest.
    #[serde(flatten)]
    pub entry: Entry,
    /// Days of healthy processes watched, summed over processes.
    pub healthy_process_days: f64,
    /// Outcome of each rule, in the order of [`rules`].
    pub outcomes: Vec<Outcome>,
}

/// Outcome of one rule on one run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Name of the rule.
    pub rule: &'static str,
    /// First right claim.
    pub detection: Option<Detection>,
    /// Worst severity of right claims; `None` for a rule that knows none.
    pub severity: Option<Severity>,
    /// Process-days with a wrong claim.
    pub false_alarm_days: u64,
    /// Process-days with a wrong claim that is a warning or critical.
    pub false_severe_days: u64,
    /// First wrong claim: time, process and explanation.
    pub first_false_alarm: Option<(f64, String, String)>,
}

/// Right claim.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Detection {
    /// Seconds since the leak's start.
    pub after_secs: f64,
    /// Share of the headroom at the leak's start that was used.
    pub headroom_used: f64,
    /// Relative error of the forecast; `None` if forecast or truth is unknown.
    pub forecast_error: Option<f64>,
    /// True if the forecast's interval contains the truth; `None` if either is unknown.
    pub interval_holds: Option<bool>,
}

/// Headroom of the subject, updated from facts.
struct Headroom {
    available: f64,
    /// Bytes of each of its processes.
    charged: Vec<(ProcessId, f64)>,
    limit: f64,
    at_start: Option<f64>,
}

impl Headroom {
    fn now(&self) -> f64 {
        self.available.min(self.limit - self.charged.iter().map(|(_, bytes)| bytes).sum::<f64>())
    }

    fn see(&mut self, observation: &Observation, entry: &Entry) {
        match &observation.fact {
            Fact::Host(host) => {
                if entry.leak_start_secs.is_none_or(|start| observation.t < start)
                    && !self.charged.is_empty()
                {
                    self.at_start = Some(self.now());
                }
                self.available = host.mem_available_bytes as f64;
            }
            Fact::Process(fact) if *fact.cgroup == *entry.subject.cgroup => {
                let bytes = (fact.anon_bytes + fact.shmem_bytes) as f64;
                match self.charged.iter_mut().find(|(id, _)| *id == fact.id) {
                    Some((_, seen)) => *seen = bytes,
                    None => self.charged.push((fact.id, bytes)),
                }
                self.limit = fact.memory_max_bytes.map_or(f64::INFINITY, |max| max as f64);
            }
            Fact::Exit(gone) => self.charged.retain(|(id, _)| id != gone),
            _ => {}
        }
    }

    fn used(&self) -> f64 {
        let now = self.now();
        let start = self.at_start.unwrap_or(now);
        if start > 0.0 { ((start - now) / start).clamp(0.0, 1.0) } else { 1.0 }
    }
}

impl Outcome {
    /// Records one claim; `used` is the share of the headroom that is gone.
    pub(super) fn file(
        &mut self,
        alarm: &Alarm,
        entry: &Entry,
        used: f64,
        days: &mut HashSet<(ProcessId, u64, bool)>,
    ) {
        let about_subject = (alarm.of_cgroup || *alarm.comm == *entry.subject.comm)
            && *alarm.cgroup == *entry.subject.cgroup;
        let start =
            entry.leak_start_secs.filter(|start| entry.label == Label::Leak && alarm.t >= *start);
        if let (true, Some(start)) = (about_subject, start) {
            let left = entry.exhausted_secs.map(|end| end - alarm.t).filter(|left| *left > 0.0);
            let forecast_error =
                alarm.exhaustion_secs.zip(left).map(|(said, left)| (said - left).abs() / left);
            let interval = alarm.exhaustion_interval_secs.zip(left);
            let interval_holds =
                interval.map(|([soonest, latest], left)| (soonest..=latest).contains(&left));
            let after_secs = alarm.t - start;
            let detection =
                Detection { after_secs, headroom_used: used, forecast_error, interval_holds };
            self.detection.get_or_insert(detection);
            self.severity = self.severity.max(alarm.severity);
            return;
        }
        let day = (alarm.t / DAY) as u64;
        let is_severe = alarm.severity.is_some_and(|severity| severity > Severity::Info);
        if is_severe && days.insert((alarm.id, day, true)) {
            self.false_severe_days += 1;
        }
        if days.insert((alarm.id, day, false)) {
            self.false_alarm_days += 1;
            let who = || format!("{} in {}", alarm.comm, alarm.cgroup);
            self.first_false_alarm.get_or_insert_with(|| (alarm.t, who(), alarm.why.clone()));
        }
    }
}

/// Runs the compared rules over a run; `dir` is the corpus's directory.
///
/// # Errors
///
/// Returns an error if the run cannot be generated or read.
pub fn score_run(entry: &Entry, dir: &Path, compared: Compared) -> anyhow::Result<Scored> {
    let mut stream = Stream::open(entry, dir)?;
    let (mut truth, mut truly_used) = (stream.truth.take(), None);
    let mut rules = rules(stream.host, compared);
    let mut outcomes: Vec<_> = rules
        .iter()
        .map(|(rule, _)| (Outcome { rule, ..Outcome::default() }, HashSet::new()))
        .collect();
    let available = stream.host.mem_total_bytes as f64;
    let mut headroom =
        Headroom { available, charged: Vec::new(), limit: f64::INFINITY, at_start: None };
    let (mut healthy_facts, mut alarms) = (0_u64, Vec::new());
    for scan in stream.scans {
        for observation in &scan? {
            headroom.see(observation, entry);
            if let (Some(truth), Fact::Host(_)) = (&mut truth, &observation.fact) {
                truly_used = Some(truth.used(observation.t));
            }
            if let Fact::Process(fact) = &observation.fact {
                healthy_facts += u64::from(!leaks(fact, observation.t, entry));
            }
            for ((_, rule), (outcome, days)) in rules.iter_mut().zip(&mut outcomes) {
                rule.observe(observation, &mut alarms);
                for alarm in alarms.drain(..) {
                    let used = truly_used.unwrap_or_else(|| headroom.used());
                    outcome.file(&alarm, entry, used, days);
                }
            }
        }
    }
    Ok(Scored {
        entry: entry.clone(),
        healthy_process_days: healthy_facts as f64 * entry.interval_secs / DAY,
        outcomes: outcomes.into_iter().map(|(outcome, _)| outcome).collect(),
    })
}

fn leaks(fact: &ProcessFact, t: f64, entry: &Entry) -> bool {
    entry.label == Label::Leak
        && entry.leak_start_secs.is_some_and(|start| t >= start)
        && *fact.cgroup == *entry.subject.cgroup
        && *fact.comm == *entry.subject.comm
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{families::FAMILIES, run::Run},
        *,
    };

    #[test]
    fn claims_are_right_only_after_the_start_of_their_leak() {
        let family = FAMILIES.iter().find(|family| family.name == "constant-leak-plain").unwrap();
        let mut entry = Run::new(family, 0).entry;
        (entry.leak_start_secs, entry.exhausted_secs) = (Some(100.0), Some(1_100.0));
        let alarm = |t: f64, comm: &str| Alarm {
            t,
            id: ProcessId { pid: 1, start_ticks: 1 },
            comm: comm.into(),
            cgroup: entry.subject.cgroup.as_str().into(),
            of_cgroup: false,
            severity: None,
            exhaustion_secs: Some(1_080.0),
            exhaustion_interval_secs: Some([1_000.0, 1_090.0]),
            why: String::new(),
        };
        let (mut outcome, mut days) = (Outcome::default(), HashSet::new());
        outcome.file(&alarm(99.0, &entry.subject.comm), &entry, 0.0, &mut days);
        outcome.file(&alarm(120.0, "other"), &entry, 0.0, &mut days);
        assert_eq!(
            (outcome.false_alarm_days, outcome.detection),
            (1, None),
            "one process-day claimed twice"
        );
        outcome.file(&alarm(200.0, &entry.subject.comm), &entry, 0.1, &mut days);
        outcome.file(&alarm(300.0, &entry.subject.comm), &entry, 0.2, &mut days);
        let expected = Detection {
            after_secs: 100.0,
            headroom_used: 0.1,
            forecast_error: Some(0.2),
            interval_holds: Some(false),
        };
        assert_eq!(outcome.detection, Some(expected), "the first claim counts");
        let mut of_cgroup = Outcome::default();
        let another = Alarm { of_cgroup: true, ..alarm(200.0, "another of it") };
        of_cgroup.file(&another, &entry, 0.1, &mut days);
        assert!(of_cgroup.detection.is_some(), "a claim about the cgroup names any process of it");
        let elsewhere = Alarm { cgroup: "/elsewhere".into(), ..another };
        of_cgroup.file(&elsewhere, &entry, 0.1, &mut HashSet::new());
        assert_eq!(of_cgroup.false_alarm_days, 1);
    }
}
