//! Claim that a count nears its limit, or has reached it.

use std::sync::{Arc, LazyLock};

use serde::Serialize;

use super::{
    users::CountCulprit,
    words::{amount, rate, resource_of, words},
};
use crate::{
    detect::{
        claim::{Assessment, ClaimDetails, Severity, Situation, Wants},
        incident_id::IncidentId,
    },
    sense::CountedResource,
    units::Span,
};

/// Time to the end beyond which it can wait for working hours, in seconds: two days.
const FAR_SECS: f64 = 172_800.0;

/// Share of what was left that has to be taken, or share of the limit that has to be in use, before
/// anybody is woken: a copy or a backup climbs as evenly, and ends. Guesses.
const TAKEN_SHARE: f64 = 0.5;
const USED_SHARE: f64 = 0.9;

/// Time for which a climb has to last to be worth a look before that, in seconds.
const LASTING_SECS: f64 = 3_600.0;

/// Time after which growth without a limit is worth a look, in seconds: a day.
const UNLIMITED_SECS: f64 = 86_400.0;

/// A count that nears its limit, or has reached it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExhaustionClaim {
    /// Resource that is counted.
    pub resource: CountedResource,
    /// Subject that has the limit, such as a mount point or a cgroup.
    pub subject: Arc<str>,
    /// Number in use; bytes if the resource's name ends in `_bytes`.
    pub used: u64,
    /// Number at which it has run out; `None` if there is none or it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Growth; `None` if the count jumped to its limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth_per_sec: Option<f64>,
    /// User that causes the growth; `None` if nobody stands out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub culprit: Option<CountCulprit>,
    /// Way in which it comes to its end.
    #[serde(skip)]
    pub(super) course: Course,
}

/// Way in which a count comes to its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Course {
    /// It climbs.
    Climb {
        /// Share of what was left at the beginning that it has taken; `None` without a limit.
        taken_share: Option<f64>,
        /// Time for which it had climbed when it was claimed, in seconds.
        secs: f64,
    },
    /// It was far from its limit, and has jumped to it.
    Jump,
    /// It was at its limit when it was first seen.
    Full,
}

impl ExhaustionClaim {
    fn resource_of(&self) -> String {
        resource_of(&self.resource, &self.subject)
    }

    fn used_share(&self) -> f64 {
        self.limit.map_or(0.0, |limit| self.used as f64 / (limit as f64).max(1.0))
    }

    /// Cgroup whose limit it is; `None` if the limit is not one of a cgroup.
    fn limited_cgroup(&self) -> Option<&Arc<str>> {
        let is_of_cgroup = self.resource == CountedResource::Pids && self.subject.starts_with('/');
        is_of_cgroup.then_some(&self.subject)
    }

    /// Names the subject, the level and the culprit.
    fn evidence(&self, host: &str) -> String {
        let used = amount(&self.resource, self.used as f64);
        let mut text = match self.limit {
            Some(limit) => format!("{used} of {} in use", amount(&self.resource, limit as f64)),
            None => format!("{used} in use"),
        };
        if let Some(per_sec) = self.growth_per_sec {
            text.push_str(&format!(", {} more", rate(&self.resource, per_sec)));
        }
        if let Some(culprit) = &self.culprit {
            text.push_str(&format!(", {}", culprit.sentence()));
        }
        let subject = match &*self.subject {
            "" | "host" => resource_of(&self.resource, host),
            _ => format!("{} on {host}", self.resource_of()),
        };
        format!("{subject}: {text}")
    }

    fn severity_alone(&self, assessment: &Assessment<'_>) -> Severity {
        let Assessment { exhaustion_secs, lasted_secs, config, .. } = assessment;
        let Course::Climb { taken_share, secs } = self.course else {
            let is_end = self.course == Course::Jump && self.used_share() >= 1.0;
            return if is_end { Severity::Critical } else { Severity::Warning };
        };
        let lasted_secs = secs + lasted_secs;
        let Some(left_secs) = *exhaustion_secs else {
            let is_long = lasted_secs >= UNLIMITED_SECS;
            return if is_long { Severity::Warning } else { Severity::Info };
        };
        let is_believed = taken_share.is_some_and(|share| share >= TAKEN_SHARE)
            || self.used_share() >= USED_SHARE;
        let is_near = left_secs <= config.drain_within.as_secs_f64();
        match (is_believed, is_near) {
            (true, true) => Severity::Critical,
            (true, false) if left_secs <= FAR_SECS => Severity::Warning,
            (false, _) if left_secs <= FAR_SECS && lasted_secs >= LASTING_SECS => Severity::Warning,
            _ => Severity::Info,
        }
    }
}

impl ClaimDetails for ExhaustionClaim {
    fn id(&self) -> IncidentId {
        IncidentId::Exhaustion { resource: self.resource.clone(), subject: self.subject.clone() }
    }

    fn resource(&self) -> &'static str {
        self.resource.metric_name()
    }

    fn cgroup(&self) -> &Arc<str> {
        static NONE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));
        self.limited_cgroup().unwrap_or(&NONE)
    }

    fn pid(&self) -> Option<u32> {
        self.culprit.as_ref().and_then(|culprit| culprit.pid).filter(|pid| *pid > 0)
    }

    fn severity(&self, assessment: &Assessment<'_>) -> (Severity, String) {
        let words = words(&self.resource);
        let severity = self.severity_alone(assessment).min(words.most);
        let when = match assessment.exhaustion_secs {
            Some(secs) if secs > 0.0 => format!("it runs out in {}; then", Span(secs)),
            Some(_) => "nothing is left:".to_owned(),
            None => "it has no limit, but".to_owned(),
        };
        let reason = format!("{when} {}", words.end);
        if self.limited_cgroup().is_none() {
            return (severity.min(Severity::Warning), reason);
        }
        let importance = assessment.importance;
        let most = if importance.is_service { severity } else { importance.severity_if_alone() };
        (severity.min(most), format!("{reason}; {}", importance.reason))
    }

    /// New work is kept away while the end of a service is near. What the whole host shares moves
    /// no node: any user can fill a disk or open terminals. A count that jumped is left to a
    /// person, because it is not known that work brings it there.
    fn wants(&self, situation: &Situation<'_>) -> Wants {
        let is_near = situation.left_secs <= situation.config.drain_within.as_secs_f64();
        let is_climb = matches!(self.course, Course::Climb { .. });
        let is_urgent = situation.is_nodes && situation.severity == Severity::Critical;
        Wants { drain: is_urgent && is_near && is_climb, ..Wants::default() }
    }

    fn label(&self) -> String {
        self.resource_of()
    }

    fn component(&self) -> String {
        self.resource_of()
    }

    fn class(&self) -> String {
        "exhaustion".to_owned()
    }

    fn headline(&self, host: &str, exhaustion_secs: Option<f64>) -> String {
        let consequence = match exhaustion_secs {
            Some(secs) if secs > 0.0 => {
                format!("if nothing is done, it runs out in {}", Span(secs))
            }
            Some(_) => format!("nothing is left: {}", words(&self.resource).end),
            None => "it has no limit, but it does not stop".to_owned(),
        };
        format!("{}; {consequence}", self.evidence(host))
    }

    fn advice(&self, _exhaustion_secs: Option<f64>) -> String {
        words(&self.resource).advice.to_owned()
    }
}

impl CountCulprit {
    /// Names it and its share, such as `/var/log/a (pid 7) took 93 % of the growth`.
    pub(super) fn sentence(&self) -> String {
        let pid = self.pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
        let share = match self.share {
            share if share >= 0.995 => "all".to_owned(),
            share => format!("{:.0} %", share * 100.0),
        };
        let part = if self.is_of_growth { "took" } else { "holds" };
        let whole = if self.is_of_growth { "the growth" } else { "what is in use" };
        format!("{}{pid} {part} {share} of {whole}", self.name)
    }
}
