//! Visible harm of an incident, to compare it before and after a drain.
//!
//! Pure. A drain has helped where the claim is gone; where a queue or its oldest wait fell by a
//! quarter, or no overflow is forecast any more; where a leak's end is no nearer than it was
//! before, though time has passed. A leak need not slow down for that: a node that lost most of its
//! work has fewer requests to lose at the end. What cannot be compared is not held against a
//! drain.

use super::work::WorkLeft;
use crate::detect::{Claim, Verdict};

/// Part of a queue or a wait that may be left. A guess: well beyond the scatter of a queue that
/// stands.
const LEFT_MAX: f64 = 0.75;
/// Part of the work that may be left.
const WORK_LEFT_MAX: f64 = 0.5;

/// Harm of one incident at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Condition {
    /// Set if it is a leak, which may drain this node without a receiver and harms only at its end.
    pub is_leak: bool,
    /// Forecast end of what runs out, in seconds on the observations' clock.
    pub ends_at: Option<f64>,
    /// Waiting connections.
    pub queued: Option<u64>,
    /// Wait of the oldest one, in microseconds.
    pub oldest_wait_us: Option<u64>,
}

/// Work right after the drain began, and now.
pub type WorkLeftThenAndNow = [WorkLeft; 2];

impl Condition {
    /// Reads the harm of a raised verdict.
    pub fn of(verdict: &Verdict) -> Self {
        let overload = if let Claim::Overload(claim) = &verdict.claim { Some(claim) } else { None };
        Self {
            is_leak: matches!(verdict.claim, Claim::Leak(_)),
            ends_at: verdict.exhaustion_secs.map(|secs| verdict.t + secs),
            queued: overload.map(|claim| u64::from(claim.backlog)),
            oldest_wait_us: overload.and_then(|claim| claim.oldest_wait_us),
        }
    }

    /// Seconds until the forecast end.
    pub fn left_secs(&self, now: f64) -> Option<f64> {
        self.ends_at.map(|ends_at| ends_at - now)
    }

    /// Compares this one, of the time `then` before a drain, with that of `now`; `None` is a claim
    /// that is gone.
    ///
    /// # Errors
    ///
    /// Returns the figures if the drain did not help.
    pub fn helped(
        &self,
        then: f64,
        after: Option<&Self>,
        now: f64,
        work: WorkLeftThenAndNow,
    ) -> Result<(), String> {
        let Some(after) = after else { return Ok(()) };
        let (mut compared, mut better) = (Vec::new(), false);
        if let (Some(before), Some(after)) = (self.queued, after.queued) {
            better |= fell(before as f64, after as f64, LEFT_MAX);
            compared.push(format!("{after} connections wait, {before} before"));
        }
        if let (Some(before), Some(after)) = (self.oldest_wait_us, after.oldest_wait_us) {
            better |= fell(before as f64, after as f64, LEFT_MAX);
            compared.push(format!(
                "the oldest for {:.1} s, {:.1} s before",
                after as f64 / 1e6,
                before as f64 / 1e6
            ));
        }
        if let Some(before) = self.left_secs(then) {
            // An overflow that happens now is no forecast to compare.
            match after.left_secs(now) {
                Some(after) if self.is_leak => {
                    better |= after >= before;
                    compared.push(format!(
                        "the end is {:.0} s away, {before:.0} s before",
                        after.max(0.0)
                    ));
                }
                Some(_) => {}
                None => better = true,
            }
        }
        let [before, after] = work;
        if let (Some((before, after, are)), true) = (before.compared(after), self.is_leak) {
            better |= after == 0 || fell(before as f64, after as f64, WORK_LEFT_MAX);
            compared.push(format!("{after} {are}, {before} right after the drain"));
        }
        if better || compared.is_empty() { Ok(()) } else { Err(compared.join("; ")) }
    }
}

fn fell(before: f64, after: f64, left_max: f64) -> bool {
    after < before && after <= before * left_max
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::drain::work::SeenWork;

    const NOTHING: WorkLeftThenAndNow = [WorkLeft::Unknown; 2];

    fn connections(numbers: [u64; 2]) -> WorkLeftThenAndNow {
        numbers.map(|connections| WorkLeft::Connections { connections, seen: SeenWork::default() })
    }

    fn requests(numbers: [u64; 2]) -> WorkLeftThenAndNow {
        numbers.map(|in_flight| {
            WorkLeft::Requests(SeenWork { in_flight, connections: 40, ..SeenWork::default() })
        })
    }

    fn queue(queued: u64, oldest_wait_us: Option<u64>) -> Condition {
        Condition { is_leak: false, ends_at: None, queued: Some(queued), oldest_wait_us }
    }

    fn leak(ends_at: Option<f64>) -> Condition {
        Condition { is_leak: true, ends_at, queued: None, oldest_wait_us: None }
    }

    #[test]
    fn a_queue_has_to_fall_by_a_quarter_or_its_wait() {
        let before = queue(100, Some(2_000_000));
        let judge = |after: Option<Condition>| before.helped(0.0, after.as_ref(), 30.0, NOTHING);
        assert_eq!(judge(None), Ok(()));
        assert_eq!(judge(Some(queue(75, Some(2_000_000)))), Ok(()));
        assert_eq!(judge(Some(queue(120, Some(1_400_000)))), Ok(()));
        let why = judge(Some(queue(76, Some(2_100_000)))).unwrap_err();
        assert_eq!(why, "76 connections wait, 100 before; the oldest for 2.1 s, 2.0 s before");
        assert!(
            queue(0, None).helped(0.0, Some(&queue(0, None)), 30.0, NOTHING).is_err(),
            "nothing fell"
        );
    }

    #[test]
    fn a_leaks_end_has_to_move_away_or_its_work_to_go() {
        let before = leak(Some(700.0));
        let judge = |ends_at, work| before.helped(100.0, Some(&leak(ends_at)), 250.0, work);
        assert_eq!(judge(Some(700.0), NOTHING).unwrap_err(), "the end is 450 s away, 600 s before");
        assert_eq!(judge(Some(850.0), NOTHING), Ok(()), "it stopped");
        assert_eq!(judge(None, NOTHING), Ok(()));
        assert_eq!(judge(Some(700.0), connections([40, 0])), Ok(()), "nobody is hit by the end");
        assert_eq!(judge(Some(700.0), connections([40, 20])), Ok(()));
        let why = judge(Some(700.0), connections([40, 38])).unwrap_err();
        assert!(why.ends_with("38 connections are served, 40 right after the drain"), "{why}");
        assert_eq!(judge(Some(700.0), requests([0, 0])), Ok(()), "connections are idle");
        let why = judge(Some(700.0), requests([9, 9])).unwrap_err();
        assert!(why.ends_with("9 requests are in flight, 9 right after the drain"), "{why}");
        let [before, _] = requests([9, 9]);
        let [_, after] = connections([9, 9]);
        let why = judge(Some(700.0), [before, after]).unwrap_err();
        assert_eq!(why, "the end is 450 s away, 600 s before", "of different kinds");
    }

    #[test]
    fn what_cannot_be_compared_is_not_held_against_a_drain() {
        assert_eq!(leak(None).helped(0.0, Some(&leak(Some(9.0))), 60.0, NOTHING), Ok(()));
    }
}
