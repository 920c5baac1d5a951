//! One limit in effect: carries out what [`LimitController`] and [`SpinDetector`] decide.

use super::{
    LimitError,
    apply::apply,
    cgroup::{self, Cgroup},
    controller::{Adjustment, CgroupReading, LimitController},
    cpu_throttle::throttle,
    isolate::{self, Recharge},
    reclaim_spin::SpinDetector,
    systemd_sync::sync_with_systemd,
    undo::undo,
};
use crate::{
    act::{
        journal::{Journal, JournalEntry},
        outcome::OutcomeKind,
        pause::Pause,
    },
    config::LimitConfig,
};

/// A limit that was just set.
pub struct NewLimit {
    /// Cgroup that is limited.
    pub target: Cgroup,
    /// Controller of the limit.
    pub controller: LimitController,
    /// Detector of spinning, if CPU throttling is on.
    pub spin_detector: Option<SpinDetector>,
    /// Memory that moved processes had before; `None` if no processes were moved.
    pub recharge: Option<Recharge>,
}

/// A limit in effect.
pub struct ActiveLimit {
    target: Cgroup,
    recharge: Option<Recharge>,
    pub entry: JournalEntry,
    pub controller: LimitController,
    /// Detector of spinning, if CPU throttling is on and not applied yet.
    spin_detector: Option<SpinDetector>,
    /// Set if it could not be undone, which was reported.
    is_stuck: bool,
    /// Set if it could not be changed, which was reported.
    has_reported_failure: bool,
}

/// Result of a check.
pub enum Tick {
    /// Nothing to report.
    Nothing,
    /// An outcome with its reason; the limit stays.
    Report(OutcomeKind, String),
    /// An outcome with its reason; the limit has ended.
    End(OutcomeKind, String),
}

impl Tick {
    /// Puts a reason before that of an end.
    fn with_reason(self, reason: &str) -> Self {
        match self {
            Self::End(event, why) => Self::End(event, format!("{reason}; {why}")),
            next => next,
        }
    }
}

impl ActiveLimit {
    /// Takes a limit that was just set.
    pub fn new(
        NewLimit { target, controller, spin_detector, recharge }: NewLimit,
        entry: JournalEntry,
    ) -> Self {
        Self {
            target,
            recharge,
            entry,
            controller,
            spin_detector,
            is_stuck: false,
            has_reported_failure: false,
        }
    }

    /// Returns whether a process of the cgroup is limited: in an isolated cgroup, not all are.
    pub fn applies_to(&self, pid: u32) -> bool {
        self.entry.split.is_none() || isolate::contains(&self.target, pid)
    }

    /// Sets the limit in systemd too, if systemd did not answer before and does now.
    pub fn sync_with_systemd(&mut self, cgroup: &str, journal: &Journal) {
        if !self.target.bypasses_systemd() || !journal.contains(&self.entry) {
            return;
        }
        let limit_bytes = self.controller.limit_bytes();
        match sync_with_systemd(journal, &self.target, &mut self.entry, cgroup, limit_bytes) {
            Ok(target) => {
                self.target = target;
                tracing::info!(%cgroup, "systemd answers again and has the limit now");
            }
            Err(failure) => {
                tracing::debug!(%cgroup, %failure, "cannot set the limit in systemd yet")
            }
        }
    }

    /// Checks the limit and makes the next change, unless somebody undid it before or meanwhile.
    pub fn step(&mut self, t: f64, journal: &Journal, pause: &Pause, config: &LimitConfig) -> Tick {
        let next = if journal.contains(&self.entry) {
            self.next(t, journal, pause, config)
        } else {
            Tick::Nothing
        };
        if matches!(next, Tick::End(..)) || journal.contains(&self.entry) {
            return next;
        }
        // A value may have been written after the undo.
        undo(journal, &self.entry);
        Tick::End(
            OutcomeKind::Undone,
            "undone by `spillway undo`, or the journal was removed".to_owned(),
        )
    }

    fn next(&mut self, t: f64, journal: &Journal, pause: &Pause, config: &LimitConfig) -> Tick {
        let file = self.target.limit_file();
        let found =
            self.target.effective_limit().and_then(|found| Ok((found, self.target.usage_bytes()?)));
        let (found, usage_bytes) = match found {
            Ok(found) if self.target.exists() => found,
            // Either removed after the first read, or unreadable for a moment: checked again.
            _ if self.target.exists() => return Tick::Nothing,
            _ => return self.lift(journal, OutcomeKind::CgroupRemoved),
        };
        if self.entry.split.is_some() && self.target.pids().is_ok_and(|pids| pids.is_empty()) {
            return self.lift(journal, OutcomeKind::Undone).with_reason("no moved process is left");
        }
        let limit_bytes = cgroup::limit_bytes(&found);
        let full_pressure = self.target.full_pressure();
        let before = self.controller.clone();
        if let Some(recharge) = self.recharge.filter(|_| self.controller.is_pressed(usage_bytes)) {
            self.controller.allow_recharged(recharge.replaced_bytes(&self.target));
        }
        let Some(step) =
            self.controller.adjust(CgroupReading { t, limit_bytes, usage_bytes, full_pressure })
        else {
            return self.throttle_cpu(t, usage_bytes, journal, pause, config);
        };
        let event = match step {
            Adjustment::Reassert(_) => OutcomeKind::Reasserted,
            Adjustment::Tighten(_) => OutcomeKind::Tightened,
            Adjustment::BackOff(_) => OutcomeKind::Relaxed,
            Adjustment::Widen(_) => OutcomeKind::Widened,
            Adjustment::Thrashing => {
                return Tick::Report(
                    OutcomeKind::Thrashing,
                    "processes wait for memory, and the limit has been raised as often as it may"
                        .to_owned(),
                );
            }
            Adjustment::GrowthStopped => {
                return Tick::Report(
                    OutcomeKind::GrowthStopped,
                    format!(
                        "memory stays at {usage_bytes} bytes, below the limit of {}",
                        self.controller.limit_bytes()
                    ),
                );
            }
            Adjustment::KeptAfterIncident => {
                return Tick::Report(
                    OutcomeKind::KeptAfterIncident,
                    "without the limit, memory would grow again".to_owned(),
                );
            }
            Adjustment::Lift => return self.lift(journal, OutcomeKind::Undone),
            Adjustment::Yield => {
                let reason = match self.controller.reasserts() {
                    _ if limit_bytes.is_some_and(|bytes| bytes < self.controller.limit_bytes()) => {
                        format!(
                            "{file} was changed to {found}, below Spillway's {}",
                            self.controller.limit_bytes()
                        )
                    }
                    reasserts => {
                        format!(
                            "{file} was changed by others {} times, at last to {found}, and \
                             restored {reasserts} times",
                            reasserts + 1
                        )
                    }
                };
                return self
                    .lift(journal, OutcomeKind::Overridden)
                    .with_reason(&format!("{reason}; Spillway backs off"));
            }
        };
        if pause.is_on() {
            self.controller = before;
            return Tick::Nothing;
        }
        let wanted_bytes = self.controller.limit_bytes();
        let prior = self.entry.change(file).and_then(|change| cgroup::limit_bytes(&change.prior));
        if prior.is_some_and(|prior| prior <= wanted_bytes) {
            // The original limit is as strict as the new one would be, and it must not be exceeded.
            let event = if event == OutcomeKind::Reasserted {
                OutcomeKind::Overridden
            } else {
                OutcomeKind::Undone
            };
            return match event {
                OutcomeKind::Overridden => self.lift(journal, event).with_reason(&format!(
                    "{file} was changed to {found}; the original limit is at least as strict, so \
                     Spillway backs off"
                )),
                _ => self.lift(journal, event),
            };
        }
        let why = match event {
            OutcomeKind::Reasserted => format!("{file} was changed to {found}"),
            OutcomeKind::Relaxed => {
                format!(
                    "all processes waited for memory for 10 s; {file} raised from {found} to \
                     {wanted_bytes} bytes"
                )
            }
            OutcomeKind::Widened => {
                format!(
                    "moved processes replace memory that they had before; {file} raised from \
                     {found} to {wanted_bytes} bytes"
                )
            }
            _ => format!(
                "{usage_bytes} bytes are in use; {file} lowered from {found} to {wanted_bytes} \
                 bytes"
            ),
        };
        // A limit that is only raised needs no margin.
        let margin_bytes = if event == OutcomeKind::Widened { 0 } else { config.margin_bytes };
        let config = LimitConfig { margin_bytes, ..config.clone() };
        match apply(journal, &mut self.target, &mut self.entry, &config, Some(wanted_bytes)) {
            Ok(_) => {
                self.has_reported_failure = false;
                Tick::Report(event, why)
            }
            Err(failure) => {
                self.controller = before;
                self.report_failure(failure)
            }
        }
    }

    /// Reports a change that failed, once. The next check tries it again.
    fn report_failure(&mut self, failure: LimitError) -> Tick {
        match failure {
            // The memory has grown since.
            LimitError::Refused(_) => Tick::Nothing,
            // Reported once.
            _ if std::mem::replace(&mut self.has_reported_failure, true) => Tick::Nothing,
            failure => Tick::Report(OutcomeKind::Failed, failure.to_string()),
        }
    }

    /// Throttles the CPU once the cgroup spins; never again, whatever the result.
    fn throttle_cpu(
        &mut self,
        t: f64,
        usage_bytes: u64,
        journal: &Journal,
        pause: &Pause,
        config: &LimitConfig,
    ) -> Tick {
        let Some(spin_detector) = &mut self.spin_detector else { return Tick::Nothing };
        let cpu_usec = self.target.cpu_usec().ok();
        if !spin_detector.observe(t, cpu_usec, self.controller.is_pressed(usage_bytes))
            || pause.is_on()
        {
            return Tick::Nothing;
        }
        self.spin_detector = None;
        match throttle(config, journal, &self.target, &mut self.entry) {
            Ok(Some(done)) => {
                let secs = config.cpu_after.as_secs_f64();
                Tick::Report(
                    OutcomeKind::CpuThrottled,
                    format!(
                        "memory was at its limit for {secs:.0} s while a CPU was almost fully \
                         used{done}"
                    ),
                )
            }
            Ok(None) => Tick::Nothing,
            Err(failure) => Tick::Report(OutcomeKind::Failed, failure.to_string()),
        }
    }

    /// Ends the limit: restores the original values that others have not changed since.
    fn lift(&mut self, journal: &Journal, event: OutcomeKind) -> Tick {
        let undone = undo(journal, &self.entry);
        match undone.is_done() {
            true if undone.is_in_use() => Tick::End(OutcomeKind::Overridden, undone.to_string()),
            true => Tick::End(event, undone.to_string()),
            // Tried again with every check, and reported once.
            false if std::mem::replace(&mut self.is_stuck, true) => Tick::Nothing,
            false => Tick::Report(OutcomeKind::Failed, undone.to_string()),
        }
    }
}
