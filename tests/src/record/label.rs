//! Labels of a recording: overloads by the corpus's definition, from the truth's samples and the
//! actions on the server.
//!
//! The capacity is known only roughly, so the moment at which the load exceeds it is not taken from
//! the load: a queue that stands for a second or more was offered more than was accepted, and the
//! overload begins when it began to stand. The time at which an acceptor was stopped is known, and
//! the samples show since when a connection waits for it. The kernel counts drops. The scarce
//! resource follows from the recording's setup.

use std::time::{Duration, Instant};

use anyhow::bail;
use spillway_tests::{
    overload_live::truth::{History, Look},
    queues::{Drops, Kind, Overload, Scarce, together},
};

/// Minimum time that a queue stands under an overload, as defined by the corpus.
const STANDS: Duration = Duration::from_secs(1);

/// Actions on a server.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Did {
    /// Time from which it was overloaded on purpose; `None` if it never was.
    pub(crate) overloads_from: Option<Instant>,
    /// Times at which its acceptor was stopped, and continued.
    pub(crate) stopped: Option<(Instant, Option<Instant>)>,
}

/// Returns the overloads of a recording whose second 0 is `origin`.
pub(crate) fn overloads(
    history: &History,
    did: Did,
    (origin, target): (Instant, Duration),
    scarce: Option<Scarce>,
) -> Vec<Overload> {
    let since = |at: Instant| at.saturating_duration_since(origin).as_nanos() as u64;
    let looks = history.looks();
    let drained = |after: Instant| {
        looks.iter().find(|look| look.at >= after && look.depth == 0).or(looks.last())
    };
    let span = |kind, from: Instant, over: Instant| {
        let to = drained(over).map_or(over, |look| look.at);
        Overload::new(kind, (since(from), since(to)), scarce)
    };
    let long = history.stands(target).into_iter().filter(|stand| stand.to - stand.from >= STANDS);
    // While no connection is accepted, the stopped acceptor is the cause.
    let by_load = long.filter(|stand| did.stopped.is_none_or(|(stopped, _)| stand.from < stopped));
    let mut spans: Vec<_> = by_load.map(|stand| span(Kind::Load, stand.from, stand.to)).collect();
    if let Some((stopped, goes_on)) = did.stopped
        && let Some(waits) = waits(looks, stopped, goes_on)
    {
        let until = goes_on.or(looks.last().map(|look| look.at)).unwrap_or(waits);
        spans.push(span(Kind::Stopped, waits, until));
    }
    let mut drops = Drops::default();
    for pair in looks.windows(2).filter(|pair| pair[1].overflows > pair[0].overflows) {
        drops.note(since(pair[1].at));
    }
    together(spans, &drops, scarce)
}

/// Returns the time since which a connection waits for a stopped acceptor: that of the first sample
/// after which none shows an empty queue.
fn waits(looks: &[Look], stopped: Instant, goes_on: Option<Instant>) -> Option<Instant> {
    let within = looks
        .iter()
        .filter(|look| look.at >= stopped && goes_on.is_none_or(|goes_on| look.at < goes_on));
    within.rev().take_while(|look| look.depth > 0).last().map(|look| look.at)
}

/// Rejects a label that contradicts the actions.
pub(crate) fn check(overloads: &[Overload], did: Did, origin: Instant) -> anyhow::Result<()> {
    match (did.overloads_from, overloads) {
        (None, []) => Ok(()),
        (None, [first, ..]) => {
            bail!("meant to be healthy, but overloaded at {} s", first.onset_secs)
        }
        (Some(_), []) => bail!("meant to be overloaded, but never was"),
        // Labels are accurate to a millisecond.
        (Some(from), [first, ..])
            if first.onset_secs + 0.001 < from.duration_since(origin).as_secs_f64() =>
        {
            bail!("overloaded at {} s, earlier than intended", first.onset_secs)
        }
        (Some(_), _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use spillway_tests::now;

    use super::*;

    const TARGET: Duration = Duration::from_millis(5);

    /// Ten samples a second; `seen` returns those of number `n`: waiting, arrived, overflows.
    fn labelled(
        seen: impl Fn(u64) -> (u64, u64, u64),
        did: impl Fn(Instant) -> Did,
    ) -> (Instant, Did, Vec<Overload>) {
        let origin = now();
        let look = |n: u64| {
            let (depth, arrived, overflows) = seen(n);
            Look { at: origin + Duration::from_millis(100 * n), depth, arrived, overflows }
        };
        let (history, did) = (History::of((0..600).map(look).collect()), did(origin));
        (origin, did, overloads(&history, did, (origin, TARGET), Some(Scarce::Cpu)))
    }

    fn overloaded_from(secs: u64) -> impl Fn(Instant) -> Did {
        move |origin| Did {
            overloads_from: Some(origin + Duration::from_secs(secs)),
            stopped: None,
        }
    }

    #[test]
    fn standing_queue_is_an_overload_until_it_has_drained() {
        // From sample 100 on ten wait, and each time one is accepted and one arrives; in sample 200
        // none waits.
        let seen = |n: u64| {
            (if (100..200).contains(&n) { 10 } else { 0 }, if n < 100 { n } else { n + 10 }, 0)
        };
        let (origin, did, found) = labelled(seen, overloaded_from(9));
        assert_eq!(found.len(), 1, "{found:?}");
        let Overload { kind, onset_secs, end_secs, overflow_secs, stopped_secs, scarce } = found[0];
        assert_eq!(
            (kind, overflow_secs, stopped_secs, scarce),
            (Kind::Load, None, None, Some(Scarce::Cpu))
        );
        // Those that wait in sample 100 have arrived since sample 99, and are old one sample later.
        assert_eq!((onset_secs, end_secs), (10.1, 20.0));
        check(&found, did, origin).unwrap();
        assert!(
            check(&found, Did::default(), origin).is_err(),
            "a healthy recording with an overload is accepted"
        );
        let later = Did { overloads_from: Some(origin + Duration::from_secs(11)), stopped: None };
        assert!(
            check(&found, later, origin).is_err(),
            "an overload before its intended start is accepted"
        );
    }

    #[test]
    fn burst_below_one_second_is_no_overload() {
        let seen = |n: u64| {
            (if (100..109).contains(&n) { 10 } else { 0 }, if n < 100 { n } else { n + 10 }, 0)
        };
        let (origin, did, found) = labelled(seen, |_| Did::default());
        assert_eq!(found, []);
        check(&found, did, origin).unwrap();
        assert!(
            check(&found, overloaded_from(9)(origin), origin).is_err(),
            "a recording without its intended overload is accepted"
        );
    }

    #[test]
    fn stopped_acceptor_overloads_once_a_connection_waits() {
        // Stopped from sample 100 to 300; one waits in sample 150 for a moment, another from sample
        // 180 until sample 310.
        let seen = |n: u64| {
            let waits = n == 150 || (180..310).contains(&n);
            (u64::from(waits), u64::from(n >= 150) + u64::from(n >= 180), u64::from(n >= 250))
        };
        let did = |origin: Instant| {
            let at = |secs| origin + Duration::from_secs(secs);
            Did { overloads_from: Some(at(10)), stopped: Some((at(10), Some(at(30)))) }
        };
        let (_, _, found) = labelled(seen, did);
        assert_eq!(found.len(), 1, "{found:?}");
        let Overload { kind, onset_secs, end_secs, overflow_secs, stopped_secs, scarce } = found[0];
        assert_eq!((kind, scarce), (Kind::Stopped, Some(Scarce::AcceptLoop)));
        assert_eq!(
            (onset_secs, stopped_secs, overflow_secs, end_secs),
            (18.0, Some(18.0), Some(25.0), 31.0)
        );
    }

    #[test]
    fn drops_in_three_seconds_of_a_minute_are_an_overload() {
        let drops = |every: u64| move |n: u64| (0, n, n / every);
        let (_, _, found) = labelled(drops(150), overloaded_from(10));
        assert_eq!(found.len(), 1, "{found:?}");
        let Overload { kind, onset_secs, end_secs, overflow_secs, .. } = found[0];
        assert_eq!(
            (kind, onset_secs, overflow_secs, end_secs),
            (Kind::Drops, 15.0, Some(15.0), 45.0)
        );
        assert_eq!(labelled(drops(250), overloaded_from(10)).2, []);
    }
}
