//! A limit that stands: what [`Hold`] says is next, done; and where that is nothing, what [`Spin`]
//! says.

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
    /// Of what.
    pub target: Cgroup,
    /// Controller of the limit.
    pub controller: LimitController,
    /// Of a cgroup whose CPU is to be limited if it spins.
    pub spin_detector: Option<SpinDetector>,
    /// Of one whose processes were moved there.
    pub recharge: Option<Recharge>,
}

/// A limit that stands.
pub struct ActiveLimit {
    target: Cgroup,
    recharge: Option<Recharge>,
    pub entry: JournalEntry,
    pub controller: LimitController,
    /// Of a cgroup whose CPU is to be limited if it spins, and was not yet.
    spin_detector: Option<SpinDetector>,
    /// Whether it was to be put back and could not be.
    is_stuck: bool,
    /// Whether it was to be changed and could not be.
    has_reported_failure: bool,
}

/// Result of a check.
pub enum Tick {
    /// Nothing that is worth a word.
    Nothing,
    /// This, for this reason, and it stands.
    Report(OutcomeKind, String),
    /// This, for this reason, and it is over.
    End(OutcomeKind, String),
}

impl Tick {
    /// The same, of an end with its reason first.
    fn with_reason(self, reason: &str) -> Self {
        match self {
            Self::End(event, why) => Self::End(event, format!("{reason}; {why}")),
            next => next,
        }
    }
}

impl ActiveLimit {
    /// One that was just set.
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

    /// Whether it holds for this process of its cgroup: where that is divided, not for all.
    pub fn applies_to(&self, pid: u32) -> bool {
        self.entry.split.is_none() || isolate::contains(&self.target, pid)
    }

    /// Tells systemd of it, which gave no answer before and may by now.
    pub fn sync_with_systemd(&mut self, cgroup: &str, journal: &Journal) {
        if !self.target.bypasses_systemd() || !journal.holds(&self.entry) {
            return;
        }
        let limit_bytes = self.controller.limit_bytes();
        match sync_with_systemd(journal, &self.target, &mut self.entry, cgroup, limit_bytes) {
            Ok(target) => {
                self.target = target;
                tracing::info!(%cgroup, "systemd answers again, and knows of the limit");
            }
            Err(failure) => {
                tracing::debug!(%cgroup, %failure, "systemd is not told of the limit yet")
            }
        }
    }

    /// Looks at it and does what is next, unless somebody has undone it: before, or while that was
    /// being done.
    pub fn step(&mut self, t: f64, journal: &Journal, pause: &Pause, config: &LimitConfig) -> Tick {
        let next = if journal.holds(&self.entry) {
            self.next(t, journal, pause, config)
        } else {
            Tick::Nothing
        };
        if matches!(next, Tick::End(..)) || journal.holds(&self.entry) {
            return next;
        }
        // What was written after it was put back.
        undo(journal, &self.entry);
        Tick::End(OutcomeKind::Undone, "by `spillway undo`, or the journal was removed".to_owned())
    }

    fn next(&mut self, t: f64, journal: &Journal, pause: &Pause, config: &LimitConfig) -> Tick {
        let file = self.target.limit_file();
        let found =
            self.target.effective_limit().and_then(|found| Ok((found, self.target.usage_bytes()?)));
        let (found, usage_bytes) = match found {
            Ok(found) if self.target.exists() => found,
            // Removed since, or for a moment not to be read: the next look will tell.
            _ if self.target.exists() => return Tick::Nothing,
            _ => return self.lift(journal, OutcomeKind::CgroupRemoved),
        };
        if self.entry.split.is_some() && self.target.pids().is_ok_and(|pids| pids.is_empty()) {
            return self
                .lift(journal, OutcomeKind::Undone)
                .with_reason("nobody is left who was moved");
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
                    "it waits for memory, and got all that it gets".to_owned(),
                );
            }
            Adjustment::GrowthStopped => {
                return Tick::Report(
                    OutcomeKind::GrowthStopped,
                    format!(
                        "it stands still at {usage_bytes} bytes below {}",
                        self.controller.limit_bytes()
                    ),
                );
            }
            Adjustment::KeptAfterIncident => {
                return Tick::Report(
                    OutcomeKind::KeptAfterIncident,
                    "without it the memory would grow again".to_owned(),
                );
            }
            Adjustment::Lift => return self.lift(journal, OutcomeKind::Undone),
            Adjustment::Yield => {
                let who_won = match self.controller.reasserts() {
                    _ if limit_bytes.is_some_and(|bytes| bytes < self.controller.limit_bytes()) => {
                        format!(
                            "somebody set {file} to {found}, below the {} that we set",
                            self.controller.limit_bytes()
                        )
                    }
                    reasserts => {
                        format!(
                            "others set {file} {} times, to {found} at last, and we {reasserts} \
                             times again",
                            reasserts + 1
                        )
                    }
                };
                return self
                    .lift(journal, OutcomeKind::Overridden)
                    .with_reason(&format!("{who_won}: it is left to them"));
            }
        };
        if pause.is_on() {
            self.controller = before;
            return Tick::Nothing;
        }
        let wanted_bytes = self.controller.limit_bytes();
        let prior = self.entry.change(file).and_then(|change| cgroup::limit_bytes(&change.prior));
        if prior.is_some_and(|prior| prior <= wanted_bytes) {
            // What was there before holds as well as what would be set, and nobody is let have more
            // than that.
            let event = if event == OutcomeKind::Reasserted {
                OutcomeKind::Overridden
            } else {
                OutcomeKind::Undone
            };
            return match event {
                OutcomeKind::Overridden => self.lift(journal, event).with_reason(&format!(
                    "somebody set {file} to {found}, and what was there before us is no wider than \
                     ours would be: it is left to them"
                )),
                _ => self.lift(journal, event),
            };
        }
        let why = match event {
            OutcomeKind::Reasserted => format!("somebody set {file} to {found}"),
            OutcomeKind::Relaxed => {
                format!(
                    "all of it waited for memory for 10 s; {file} is {wanted_bytes} bytes now, \
                     from {found}"
                )
            }
            OutcomeKind::Widened => {
                format!(
                    "it replaces what it had before; {file} is {wanted_bytes} bytes now, from \
                     {found}"
                )
            }
            _ => format!(
                "{usage_bytes} bytes are in use; {file} is {wanted_bytes} bytes now, from {found}"
            ),
        };
        // One that is only made wider needs to leave no margin.
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

    /// What was to be done is not, and due with the next look as well.
    fn report_failure(&mut self, failure: LimitError) -> Tick {
        match failure {
            // It grew meanwhile.
            LimitError::Refused(_) => Tick::Nothing,
            // Told once.
            _ if std::mem::replace(&mut self.has_reported_failure, true) => Tick::Nothing,
            failure => Tick::Report(OutcomeKind::Failed, failure.to_string()),
        }
    }

    /// Limits its CPU as well once it spins: once, whatever comes of it.
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
                        "it stood at its limit for {secs:.0} s and used a CPU, or nearly{done}"
                    ),
                )
            }
            Ok(None) => Tick::Nothing,
            Err(failure) => Tick::Report(OutcomeKind::Failed, failure.to_string()),
        }
    }

    /// Ends the limit: puts back what is still ours to put back.
    fn lift(&mut self, journal: &Journal, event: OutcomeKind) -> Tick {
        let undone = undo(journal, &self.entry);
        match undone.is_done() {
            true if undone.is_in_use() => Tick::End(OutcomeKind::Overridden, undone.to_string()),
            true => Tick::End(event, undone.to_string()),
            // Tried again with every look, and told once.
            false if std::mem::replace(&mut self.is_stuck, true) => Tick::Nothing,
            false => Tick::Report(OutcomeKind::Failed, undone.to_string()),
        }
    }
}
