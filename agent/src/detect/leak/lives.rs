//! Lives of a workload that ended at its limit: evidence of a leak, however short they are.
//!
//! A crash loop never lives long enough for a warm-up to pass, or for a line to be long. But a life
//! that climbs without slowing down and ends at its limit, and the next that does the same, leave
//! little to explain; the third that climbs alike is claimed on its way. The kernel's reason for an
//! end is not asked for: an end at the limit, at the same pace, twice, is not chance. If there are
//! too many workloads, the owner with the most loses its oldest. Cold start: two lives. A life that
//! is over before half a minute of it was recorded counts as the first only, whatever its climb;
//! those after it are recorded nearly from their start.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    process::{LOADING_SECS, Process, kib},
    workload::Workload,
};
use crate::{
    detect::{
        growth::{Beginning, Growth, climb},
        window::{Horizons, KIB},
    },
    sense::{ProcessFact, cgroup_owner},
    units::{Size, Span},
};

/// Workloads whose ends are kept, and for how long.
const WORKLOADS_MAX: usize = 1_024;
const KEPT_SECS: f64 = 6.0 * 3_600.0;

/// Share of the limit from which a process may be about to end there, and that must have been used
/// when it did, with what it took since it was last seen.
const NEAR_SHARE: f64 = 0.7;
const END_SHARE: f64 = 0.95;

/// Longest time since it was last seen that is taken for growth.
const UNSEEN_SECS_MAX: f64 = 60.0;

/// Share of the limit by which the process itself must have grown in its life, with what it took at
/// the same rate while it was loaded, which is not recorded.
const GROWN_SHARE: f64 = 0.25;

/// Shortest record of a life, after the minute in which it loads.
const RECORDED_SECS_MIN: f64 = 30.0;

/// Share of the limit that a process must hold itself at the end of a life that is too short to be
/// recorded: a job beside page cache ends at the limit as well. A guess.
const HELD_SHARE: f64 = 0.5;

/// Time in which a process loads whose life before was too short to be recorded.
const SHORT_LOADING_SECS: f64 = 5.0;

/// Factor within which two lives climb alike.
const ALIKE: f64 = 2.0;

/// Lives that make the next one a leak once it has used this share of its limit.
const LIVES_MIN: u32 = 2;
const AGAIN_SHARE: f64 = 0.5;

/// Ends of the lives of workloads.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lives {
    ended: HashMap<Workload, EndedLives>,
    /// Processes near their limit, by pid, as they were last seen.
    near: HashMap<u32, Near>,
}

/// Process near its limit.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Near {
    seen_t: f64,
    charged_bytes: f64,
    max_bytes: f64,
    size_kib: u32,
}

/// Lives of one workload that ended at its limit, all alike.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndedLives {
    lives: u32,
    /// Time of the first end, and of the last.
    first_t: f64,
    last_t: f64,
    /// Rate of the last; `None` if its life was too short to tell.
    bytes_per_sec: Option<f64>,
    /// Length of the record of the last.
    lived_secs: f64,
}

impl EndedLives {
    /// Returns whether the last was so short that the next has to be recorded from its start.
    fn is_short(&self) -> bool {
        self.lived_secs < LOADING_SECS + RECORDED_SECS_MIN
    }
}

impl Near {
    /// Returns the rate at which a process climbed to the end of its life at the limit, after so
    /// many seconds in which it loaded, which are not recorded.
    fn pace_to_limit(
        &self,
        process: &Process,
        loading_secs: f64,
        t: f64,
        horizons: &Horizons,
    ) -> Option<f64> {
        let recorded_secs = self.seen_t - process.origin_t;
        let grown_bytes = (f64::from(self.size_kib) - f64::from(process.private_from_kib)) * KIB;
        let bytes_per_sec = pace(process, grown_bytes, recorded_secs, horizons)?;
        (grown_bytes + bytes_per_sec * loading_secs >= GROWN_SHARE * self.max_bytes
            && self.ends_at_limit(bytes_per_sec, t))
        .then_some(bytes_per_sec)
    }

    /// Returns whether a process that lived for so many seconds held a good part of its limit when
    /// it ended there.
    fn is_held_at_limit(&self, lived_secs: f64, t: f64) -> bool {
        let held_bytes = f64::from(self.size_kib) * KIB;
        held_bytes >= HELD_SHARE * self.max_bytes
            && self.ends_at_limit(held_bytes / lived_secs.max(1.0), t)
    }

    /// Returns whether the limit was used at the end, with what the process took since it was last
    /// seen.
    fn ends_at_limit(&self, bytes_per_sec: f64, t: f64) -> bool {
        let unseen_bytes = bytes_per_sec * (t - self.seen_t).clamp(0.0, UNSEEN_SECS_MAX);
        self.charged_bytes + unseen_bytes >= END_SHARE * self.max_bytes
    }
}

/// Life that climbs as those before it, which ended at the limit.
pub(super) struct Again {
    pub(super) growth: Growth,
    pub(super) why: String,
    pub(super) lived_secs: f64,
}

impl Lives {
    /// Takes a process at one scan.
    pub(super) fn see(&mut self, fact: &ProcessFact, t: f64) {
        let Some((charged_bytes, max_bytes)) = charged_of_max(fact) else { return };
        if charged_bytes >= NEAR_SHARE * max_bytes {
            let near = Near { seen_t: t, charged_bytes, max_bytes, size_kib: kib(fact) };
            self.near.insert(fact.id.pid, near);
        } else if !self.near.is_empty() {
            self.near.remove(&fact.id.pid);
        }
    }

    /// Returns whether a process was near its limit when last seen.
    pub(super) fn is_near(&self, pid: u32) -> bool {
        self.near.contains_key(&pid)
    }

    /// Takes the end of a process.
    pub(super) fn end(&mut self, process: &Process, pid: u32, t: f64, horizons: &Horizons) {
        let Some(near) = self.near.remove(&pid) else { return };
        let workload = process.workload.lineage();
        let is_kept = |ended: &EndedLives| t - ended.last_t < KEPT_SECS;
        let before = self.ended.get(&workload).filter(|ended| is_kept(ended)).copied();
        let lived_secs = near.seen_t - process.origin_t;
        let bytes_per_sec = if lived_secs >= RECORDED_SECS_MIN {
            let loading_secs = match before {
                _ if !process.is_young() => 0.0,
                Some(before) if before.is_short() => SHORT_LOADING_SECS,
                _ => LOADING_SECS,
            };
            let bytes_per_sec = near.pace_to_limit(process, loading_secs, t, horizons);
            if bytes_per_sec.is_none() {
                return;
            }
            bytes_per_sec
        } else if before.is_none()
            && process.is_young()
            && near.is_held_at_limit(LOADING_SECS + lived_secs, t)
        {
            None
        } else {
            return;
        };
        self.ended.retain(|_, ended| is_kept(ended));
        if before.is_none() && self.ended.len() >= WORKLOADS_MAX {
            make_room(&mut self.ended, &workload);
        }
        let alike = before.filter(|before| {
            before.bytes_per_sec.zip(bytes_per_sec).is_none_or(|(one, other)| is_alike(one, other))
        });
        let (lives, first_t) = alike.map_or((0, t), |before| (before.lives, before.first_t));
        let lives = lives.saturating_add(1);
        let ended = EndedLives { lives, first_t, last_t: t, bytes_per_sec, lived_secs };
        self.ended.insert(workload, ended);
    }

    /// Returns the time in which a process loads whose life before was short; `None` for others.
    pub(super) fn short_loading_secs(&self, process: &Process) -> Option<f64> {
        if self.ended.is_empty() {
            return None;
        }
        let ended = self.ended.get(&process.workload.lineage())?;
        ended.is_short().then_some(SHORT_LOADING_SECS)
    }

    /// Forgets that a process was near its limit, since it is another program now.
    pub(super) fn forget(&mut self, pid: u32) {
        self.near.remove(&pid);
    }

    /// Returns the leak of a process that climbs as the lives before it did.
    pub(super) fn again(
        &self,
        process: &Process,
        fact: &ProcessFact,
        t: f64,
        headroom_bytes: f64,
        horizons: &Horizons,
    ) -> Option<Again> {
        if self.ended.is_empty() {
            return None;
        }
        let (_, max_bytes) =
            charged_of_max(fact).filter(|(charged, max)| *charged >= AGAIN_SHARE * max)?;
        let ended = self.ended.get(&process.workload.lineage())?;
        if ended.lives < LIVES_MIN || t - ended.last_t >= KEPT_SECS {
            return None;
        }
        let recorded_secs = t - process.origin_t;
        let grown_bytes = (f64::from(kib(fact)) - f64::from(process.private_from_kib)) * KIB;
        let slope = pace(process, grown_bytes, recorded_secs, horizons)?;
        let before = ended.bytes_per_sec.filter(|before| is_alike(slope, *before))?;
        let growth = Growth {
            headroom_bytes,
            others_bytes_per_sec: 0.0,
            slope_bytes_per_sec: slope,
            slope_error_bytes_per_sec: (slope - before).abs(),
            recent_share: 1.0,
            grown_bytes,
            grown_secs: recorded_secs,
            completeness: 1.0,
            points: ended.lives as usize + 1,
            base_kib: process.private_from_kib,
            peak_kib: kib(fact),
            beginning: Beginning::Unseen,
            under_sawtooth: false,
            in_steps: false,
        };
        let why = format!(
            "{} has ended at its cgroup's memory.max of {} {} times in {}, each time after growth \
            without slowing down; now (pid {}) it grows alike, by {}/s, and ends there again in {}",
            process.workload.comm,
            Size(max_bytes),
            ended.lives,
            Span(t - ended.first_t + ended.lived_secs),
            fact.id.pid,
            Size(slope),
            Span(growth.exhaustion_secs()),
        );
        Some(Again { growth, why, lived_secs: ended.lived_secs })
    }
}

/// Forgets the workload that ended longest ago of the owner with the most, the newcomer's included:
/// a user whose workloads come and go by the thousand displaces only its own.
fn make_room(ended: &mut HashMap<Workload, EndedLives>, newcomer: &Workload) {
    let mut owned: HashMap<&str, u32> = HashMap::new();
    for workload in ended.keys().chain([newcomer]) {
        *owned.entry(cgroup_owner(&workload.cgroup)).or_default() += 1;
    }
    let rank = |(workload, ended): &(&Workload, &EndedLives)| {
        (owned.get(cgroup_owner(&workload.cgroup)).copied().unwrap_or(0), -ended.last_t)
    };
    let most = ended.iter().max_by(|one, other| {
        let (one_rank, other_rank) = (rank(one), rank(other));
        let by_age = || one_rank.1.total_cmp(&other_rank.1);
        // Of equals any would do, but a replay must forget the same.
        one_rank.0.cmp(&other_rank.0).then_with(by_age).then_with(|| one.0.cmp(other.0))
    });
    if let Some(workload) = most.map(|(workload, _)| workload.clone()) {
        ended.remove(&workload);
    }
}

/// Returns what is charged against a process's limit, and the limit.
fn charged_of_max(fact: &ProcessFact) -> Option<(f64, f64)> {
    let max = fact.memory_max_bytes.filter(|max| *max > 0)?;
    let charged = fact.memory_charged_bytes.unwrap_or_else(|| fact.private_bytes());
    Some((charged as f64, max as f64))
}

fn is_alike(one: f64, other: f64) -> bool {
    one <= ALIKE * other && other <= ALIKE * one
}

/// Returns the rate at which a process has grown in its life, if its latest part, a third or so, is
/// a straight climb at that rate.
fn pace(
    process: &Process,
    grown_bytes: f64,
    recorded_secs: f64,
    horizons: &Horizons,
) -> Option<f64> {
    if recorded_secs < RECORDED_SECS_MIN || grown_bytes <= 0.0 {
        return None;
    }
    let horizon = horizons.covering(recorded_secs).saturating_sub(1);
    let latest = climb(process.window.floors(horizon).points())? * KIB;
    let mean = grown_bytes / recorded_secs;
    is_alike(latest / horizons.bucket_secs(horizon), mean).then_some(mean)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn owner_with_the_most_workloads_loses_its_oldest() {
        let workload = |cgroup: String| Workload { cgroup: Arc::from(cgroup), comm: "a".into() };
        let lives = |last_t: f64| EndedLives {
            lives: 2,
            first_t: 0.0,
            last_t,
            bytes_per_sec: Some(1e5),
            lived_secs: 300.0,
        };
        let service = workload("/system.slice/api.service".to_owned());
        let of_user = |n: u32| workload(format!("/user.slice/user-1000.slice/{n}"));
        let mut ended = HashMap::from([(service.clone(), lives(1.0))]);
        ended.extend((0..8).map(|n| (of_user(n), lives(100.0 + f64::from(n)))));
        make_room(&mut ended, &of_user(99));
        assert!(ended.contains_key(&service) && !ended.contains_key(&of_user(0)));
        make_room(&mut ended, &workload("/system.slice/web.service".to_owned()));
        assert!(ended.contains_key(&service) && !ended.contains_key(&of_user(1)));
        assert_eq!(ended.len(), 7);
    }
}
