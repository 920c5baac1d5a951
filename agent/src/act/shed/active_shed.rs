//! A listener whose accept queue is bounded: its sockets, and their entries in the journal.

use std::sync::Arc;

use super::{
    control::{QueueReading, ShedControl, ShedFigures, ShedStep},
    entry::{ShedEntry, ShedJournal},
    error::{ShedError, ShedRefusal, SocketError},
    foreign_listener::{ForeignListener, LengthChange},
    undo::{ShedUndone, undo},
};
use crate::{decide::IncidentId, units::Span};

/// Time between two checks that nobody else has set the lengths.
const CHECK_SECS: f64 = 1.0;

/// Time from the first length to the first figures, and from one report of figures to the next.
const FIRST_FIGURES_SECS: f64 = 5.0;
const FIGURES_SECS: f64 = 60.0;

/// Time without a reading after which the length is restored: the sensor reads ten times a second.
const UNSEEN_SECS: f64 = 5.0;

/// A listener, which may have several sockets.
pub struct ActiveShed {
    pub id: IncidentId,
    pub addr: Arc<str>,
    control: ShedControl,
    sockets: Vec<BoundSocket>,
    checked_t: f64,
    read_t: f64,
    reported_t: f64,
    has_figures: bool,
}

/// A socket of the listener.
struct BoundSocket {
    listener: ForeignListener,
    entry: ShedEntry,
    /// Length in effect.
    length: u32,
}

/// Result of a reading or a check.
pub enum ShedTick {
    Nothing,
    /// A report, and load is shed as before.
    Report(String),
    /// The bound is over, for this reason.
    Restore(String),
    /// The queue is left to others, for this reason.
    Yield(String),
    /// The bound is over, because it could not be set.
    Fail(ShedError),
}

impl ActiveShed {
    /// Finds the sockets of a listener, and bounds them. On an error nothing stays bounded that can
    /// be restored.
    pub fn begin(
        journal: &ShedJournal,
        id: &IncidentId,
        addr: &Arc<str>,
        found: Vec<(ForeignListener, u32)>,
        control: impl FnOnce(u32) -> ShedControl,
        t: f64,
    ) -> Result<Self, ShedError> {
        let original = found.iter().fold(0_u32, |sum, (_, length)| sum.saturating_add(*length));
        let control = control(original);
        if control.length() >= original {
            return Err(ShedRefusal::Short { original }.into());
        }
        let sockets: Vec<_> = found
            .into_iter()
            .map(|(listener, length)| BoundSocket {
                entry: ShedEntry::new(journal, &listener, length, id),
                listener,
                length,
            })
            .collect();
        if sockets.iter().any(|socket| journal.contains(&socket.entry)) {
            // Only the earlier entry has the original length.
            return Err(ShedRefusal::NotUndone.into());
        }
        let mut shed = Self {
            id: id.clone(),
            addr: addr.clone(),
            control,
            sockets,
            checked_t: t,
            read_t: t,
            reported_t: t,
            has_figures: false,
        };
        match shed.apply(journal, t) {
            Ok(()) => Ok(shed),
            Err(error) => {
                // The journal keeps what cannot be restored now.
                shed.undo(journal);
                Err(error)
            }
        }
    }

    /// Number of sockets.
    pub fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// Description of the bound in effect.
    pub fn describe(&self) -> String {
        let sockets = match self.sockets.len() {
            1 => String::new(),
            count => format!(" over {count} sockets"),
        };
        format!(
            "accept queue bounded to {} connections{sockets}, {} before",
            self.control.length(),
            self.control.original()
        )
    }

    /// Continues, because the incident has returned.
    pub fn resume(&mut self) {
        self.control.resume();
    }

    /// Ends the incident: the queue is widened step by step.
    pub fn end(&mut self, t: f64) {
        self.control.end(t);
    }

    /// Takes a reading. While `is_paused`, nothing is bounded further.
    pub fn read(
        &mut self,
        journal: &ShedJournal,
        reading: QueueReading,
        is_paused: bool,
    ) -> ShedTick {
        self.read_t = reading.t;
        match self.control.step(reading) {
            ShedStep::Restore => return ShedTick::Restore(self.figures_text()),
            ShedStep::Stuck => {
                let why = "it accepts nothing, so that a shorter queue does not help";
                return ShedTick::Restore(format!("{why}; {}", self.figures_text()));
            }
            ShedStep::Set(_) if !is_paused => {
                if let Err(error) = self.apply(journal, reading.t) {
                    return self.failed(error);
                }
            }
            ShedStep::Set(_) | ShedStep::Keep => {}
        }
        self.report(reading.t)
    }

    /// Checks that the lengths in effect are still ours, if it is time for that.
    pub fn check(&mut self, journal: &ShedJournal, t: f64, is_paused: bool) -> ShedTick {
        if t - self.read_t >= UNSEEN_SECS {
            return ShedTick::Restore("the listener is not seen any more".to_owned());
        }
        if t - self.checked_t < CHECK_SECS || is_paused {
            return ShedTick::Nothing;
        }
        self.checked_t = t;
        match self.apply(journal, t) {
            Ok(()) => ShedTick::Nothing,
            Err(error) => self.failed(error),
        }
    }

    fn failed(&self, error: ShedError) -> ShedTick {
        match error {
            ShedError::Socket(SocketError::Gone) => {
                ShedTick::Restore("the listener was closed".to_owned())
            }
            ShedError::Refused(refusal) => ShedTick::Yield(refusal.to_string()),
            error => ShedTick::Fail(error),
        }
    }

    /// Brings every socket to its share of the length. A length that somebody else has set becomes
    /// the original one.
    fn apply(&mut self, journal: &ShedJournal, t: f64) -> Result<(), ShedError> {
        // Sockets that were closed are no longer ours.
        let mut gone = Vec::new();
        let mut relistened = false;
        for (nth, socket) in self.sockets.iter_mut().enumerate() {
            match socket.listener.length() {
                Ok(found) if found == socket.length => {}
                Ok(found) => {
                    socket.entry.set_prior(found);
                    socket.length = found;
                    relistened = true;
                }
                Err(SocketError::Gone) => gone.push(nth),
                Err(error) => return Err(error.into()),
            }
        }
        for nth in gone.into_iter().rev() {
            let socket = self.sockets.remove(nth);
            journal.remove(&socket.entry).map_err(ShedError::Journal)?;
        }
        if self.sockets.is_empty() {
            return Err(SocketError::Gone.into());
        }
        if relistened {
            let priors = self.sockets.iter().map(|socket| socket.entry.prior());
            let original = priors.fold(0_u32, u32::saturating_add);
            if !self.control.relisten(t, original) {
                return Err(ShedRefusal::Relistened.into());
            }
        }
        let (length, original) = (self.control.length(), self.control.original());
        for socket in &mut self.sockets {
            socket.set(journal, share(length, original, socket.entry.prior()))?;
        }
        Ok(())
    }

    /// Restores the original lengths. The journal keeps what cannot be restored.
    pub fn undo(&self, journal: &ShedJournal) -> Vec<ShedUndone> {
        let written = self.sockets.iter().filter(|socket| journal.contains(&socket.entry));
        written.map(|socket| undo(journal, &socket.entry)).collect()
    }

    fn report(&mut self, t: f64) -> ShedTick {
        let after_secs = if self.has_figures { FIGURES_SECS } else { FIRST_FIGURES_SECS };
        if t - self.reported_t < after_secs {
            return ShedTick::Nothing;
        }
        (self.reported_t, self.has_figures) = (t, true);
        ShedTick::Report(format!("{}; {}", self.describe(), self.figures_text()))
    }

    fn figures_text(&self) -> String {
        figures_text(&self.control.figures())
    }
}

/// Describes what was accepted and refused.
fn figures_text(figures: &ShedFigures) -> String {
    let per_sec = |count: u64| format!("{:.0}/s", count as f64 / figures.secs.max(1.0));
    let accepted = match figures.accepted {
        Some(count) => format!("{} accepted", per_sec(count)),
        None => "an unknown number accepted".to_owned(),
    };
    let waits = match figures.longest_wait_secs {
        Some(secs) => format!(", each within {}", Span(secs)),
        None => String::new(),
    };
    let refused = match figures.refused {
        Some(count) => format!("{} refused", per_sec(count)),
        None => "an unknown number refused".to_owned(),
    };
    format!("in {}, {accepted}{waits}, and {refused}", Span(figures.secs))
}

/// Returns the share of the length of a socket whose original length is `prior`; exactly that in
/// the end.
fn share(length: u32, original: u32, prior: u32) -> u32 {
    if length >= original {
        return prior;
    }
    let share = u64::from(length) * u64::from(prior) / u64::from(original.max(1));
    u32::try_from(share).unwrap_or(prior).max(1).min(prior)
}

impl BoundSocket {
    /// Records a length in the journal, sets it and reads it back.
    fn set(&mut self, journal: &ShedJournal, length: u32) -> Result<(), ShedError> {
        if length == self.length {
            return Ok(());
        }
        self.record(journal, length)?;
        let in_effect = self.length;
        match self.listener.set_length(|found| found == in_effect, length)? {
            LengthChange::Set(now) => {
                self.length = now;
                if now != length {
                    self.record(journal, now)?;
                }
            }
            // Another listen() in between is seen by the next check.
            LengthChange::Unexpected(_) => {}
        }
        if !journal.contains(&self.entry) {
            // `spillway undo` ran between the journal and the change.
            undo(journal, &self.entry);
            return Err(ShedRefusal::Undone.into());
        }
        Ok(())
    }

    fn record(&mut self, journal: &ShedJournal, length: u32) -> Result<(), ShedError> {
        self.entry.record(self.length, length);
        journal.write(&mut self.entry).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ShedRefusal::Undone.into(),
            _ => ShedError::Journal(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn figures_are_described_as_far_as_they_are_known() {
        let figures = ShedFigures {
            secs: 15.0,
            accepted: Some(1_515),
            refused: Some(1_470),
            longest_wait_secs: Some(0.1),
        };
        assert_eq!(
            figures_text(&figures),
            "in 15 s, 101/s accepted, each within 0.1 s, and 98/s refused"
        );
        assert_eq!(
            figures_text(&ShedFigures { secs: 2.0, ..ShedFigures::default() }),
            "in 2.0 s, an unknown number accepted, and an unknown number refused"
        );
    }

    proptest! {
        #[test]
        fn shares_are_in_proportion_and_exact_in_the_end(
            priors in prop::collection::vec(1_u32..5_000, 1..16),
            per_mille in 0_u32..1_100,
        ) {
            let original: u32 = priors.iter().sum();
            let length = (u64::from(original) * u64::from(per_mille) / 1_000) as u32;
            let shares: Vec<_> =
                priors.iter().map(|prior| share(length, original, *prior)).collect();
            for (share, prior) in shares.iter().zip(&priors) {
                prop_assert!((1..=*prior).contains(share));
            }
            let sum: u32 = shares.iter().sum();
            prop_assert!(sum <= length.max(priors.len() as u32) + priors.len() as u32);
            if length >= original {
                prop_assert_eq!(shares, priors);
            }
        }
    }
}
