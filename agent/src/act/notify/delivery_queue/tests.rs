use proptest::prelude::*;

use super::*;

const UPDATES: [Update; 4] = [Update::Raised, Update::Updated, Update::Resolved, Update::Changed];

fn add(queue: &mut DeliveryQueue, nth: u64, incident: &str, update: Update) -> Vec<u64> {
    add_of(queue, nth, incident, "", update, Severity::Warning)
}

fn add_of(
    queue: &mut DeliveryQueue,
    nth: u64,
    incident: &str,
    owner: &str,
    update: Update,
    severity: Severity,
) -> Vec<u64> {
    let (incident, owner) = (Arc::from(incident), Arc::from(owner));
    queue.add(nth, QueueItem { incident, owner, update, severity, may_be_known: false })
}

/// Sends what may be sent in a minute that begins at `t`, all of it delivered at once.
fn sent(queue: &mut DeliveryQueue, t: f64) -> Vec<u64> {
    let mut sent = Vec::new();
    while let NextDelivery::Send(nth) = queue.next(t) {
        sent.push(nth);
        queue.settled();
    }
    sent
}

#[test]
fn an_incident_keeps_its_order_and_newer_news_replaces_older() {
    let mut queue = DeliveryQueue::default();
    add(&mut queue, 1, "a", Update::Raised);
    assert_eq!(queue.next(0.0), NextDelivery::Send(1));
    assert!(add(&mut queue, 2, "a", Update::Updated).is_empty());
    assert_eq!(add(&mut queue, 3, "a", Update::Updated), [2]);
    assert_eq!(queue.next(0.0), NextDelivery::Nothing, "one call at a time");
    assert_eq!(add(&mut queue, 4, "a", Update::Resolved), [3]);
    assert_eq!(queue.settled(), Some(1));
    assert_eq!(queue.next(1.0), NextDelivery::Send(4));
}

#[test]
fn a_raise_that_no_sink_has_is_cancelled_by_its_resolve() {
    let mut queue = DeliveryQueue::default();
    add(&mut queue, 1, "a", Update::Raised);
    add(&mut queue, 2, "a", Update::Updated);
    assert_eq!(add(&mut queue, 3, "a", Update::Resolved), [1, 2, 3]);
    // An incident that is over while its raise is in flight, and the raise is not taken.
    add(&mut queue, 4, "a", Update::Raised);
    assert_eq!(queue.next(0.0), NextDelivery::Send(4));
    assert!(add(&mut queue, 5, "a", Update::Resolved).is_empty());
    assert_eq!(queue.failed(0.0, None, false, 0.0), [4, 5]);
    // If the raise may have been taken, the end is sent, and the end alone.
    add(&mut queue, 6, "a", Update::Raised);
    assert_eq!(queue.next(10.0), NextDelivery::Send(6));
    assert!(queue.failed(10.0, None, true, 0.0).is_empty());
    assert_eq!(add(&mut queue, 7, "a", Update::Resolved), [6]);
    // The incident returns before its end was sent: the sink may know of the first raise.
    assert_eq!(add(&mut queue, 8, "a", Update::Raised), [7]);
    assert_eq!(add(&mut queue, 9, "a", Update::Resolved), [8]);
    assert_eq!(sent(&mut queue, 20.0), [9]);
}

#[test]
fn critical_notifications_go_first_and_owners_take_turns() {
    let mut queue = DeliveryQueue::default();
    for (nth, owner, severity) in [
        (1, "x", Severity::Warning),
        (2, "x", Severity::Warning),
        (3, "x", Severity::Warning),
        (4, "y", Severity::Warning),
        (5, "x", Severity::Critical),
        (6, "x", Severity::Critical),
        (7, "z", Severity::Critical),
    ] {
        add_of(&mut queue, nth, &format!("{nth}"), owner, Update::Raised, severity);
    }
    // An incident that becomes critical is critical, and its raise goes before the update.
    add_of(&mut queue, 8, "4", "y", Update::Updated, Severity::Critical);
    assert_eq!(sent(&mut queue, 0.0), [4, 5, 7, 8, 6, 1, 2]);
    assert_eq!(sent(&mut queue, 60.0), [3]);
}

#[test]
fn a_flood_leaves_calls_for_critical_ones_and_other_owners() {
    let mut queue = DeliveryQueue::default();
    for nth in 0..100 {
        add_of(&mut queue, nth, &format!("{nth}"), "flood", Update::Raised, Severity::Warning);
    }
    assert_eq!(sent(&mut queue, 0.0).len(), CALLS_FOR_ANY);
    for nth in 100..200 {
        add_of(&mut queue, nth, &format!("{nth}"), "flood", Update::Raised, Severity::Critical);
    }
    assert_eq!(sent(&mut queue, 1.0), [100]);
    assert_eq!((queue.next(1.0), queue.wakes_at(1.0)), (NextDelivery::At(60.0), Some(60.0)));
    add_of(&mut queue, 300, "real", "api", Update::Raised, Severity::Critical);
    assert_eq!(queue.wakes_at(12.0), Some(12.0));
    assert_eq!(sent(&mut queue, 12.0), [300]);
}

#[test]
fn a_critical_one_waits_briefly_after_a_failure_and_goes_first() {
    let mut queue = DeliveryQueue::default();
    let mut t = 0.0;
    add(&mut queue, 1, "a", Update::Raised);
    add(&mut queue, 2, "b", Update::Raised);
    for _ in 0..20 {
        let NextDelivery::Send(_) = queue.next(t) else { panic!() };
        queue.failed(t, None, true, 1.0);
        let NextDelivery::At(at) = queue.next(t) else { panic!() };
        t = at;
    }
    queue.next(t);
    queue.failed(t, None, true, 1.0);
    add_of(&mut queue, 3, "c", "", Update::Raised, Severity::Critical);
    assert_eq!(queue.wakes_at(t), Some(t + CRITICAL_RETRY_SECS_MAX));
    t += CRITICAL_RETRY_SECS_MAX;
    assert_eq!(queue.next(t), NextDelivery::Send(3));
    queue.failed(t, None, true, 1.0);
    add(&mut queue, 4, "d", Update::Raised);
    t += RETRY_SECS_MAX;
    assert_eq!(queue.next(t), NextDelivery::Send(4), "it has the fewest attempts");
    queue.settled();
    assert_eq!(queue.next(t), NextDelivery::Send(3), "the sink was down, so no attempt counts");
}

#[test]
fn an_incident_that_is_never_taken_blocks_no_other() {
    let mut queue = DeliveryQueue::default();
    for (nth, incident, update) in
        [(1, "a", Update::Raised), (2, "a", Update::Updated), (3, "b", Update::Raised)]
    {
        add(&mut queue, nth, incident, update);
    }
    assert_eq!(queue.next(0.0), NextDelivery::Send(1));
    queue.failed(0.0, None, true, 0.0);
    assert_eq!(queue.next(10.0), NextDelivery::Send(3));
    queue.settled();
    assert_eq!(queue.next(10.0), NextDelivery::Send(1));
}

#[test]
fn retries_begin_within_a_second_and_back_off_to_a_bound() {
    let mut queue = DeliveryQueue::default();
    add(&mut queue, 1, "a", Update::Raised);
    let (mut t, mut pauses) = (0.0, Vec::new());
    for _ in 0..12 {
        // The rate limit of a minute does not extend longer pauses.
        assert_eq!(queue.next(t), NextDelivery::Send(1));
        queue.failed(t, None, true, 1.0);
        let NextDelivery::At(at) = queue.next(t) else { panic!() };
        pauses.push(at - t);
        t = at.max(t + 6.0);
    }
    assert_eq!(pauses[..5], [1.0, 2.0, 4.0, 8.0, 16.0]);
    assert_eq!(pauses[11], 300.0);
    queue.next(t);
    queue.failed(t, Some(Duration::from_secs(1_000)), true, 0.0);
    assert_eq!(queue.next(t), NextDelivery::At(t + 1_000.0));
}

#[test]
fn no_more_than_ten_calls_in_any_minute() {
    let mut queue = DeliveryQueue::default();
    for nth in 0..20 {
        add_of(
            &mut queue,
            nth,
            &format!("{nth}"),
            &format!("{nth}"),
            Update::Raised,
            Severity::Critical,
        );
    }
    for nth in 0..10 {
        assert_eq!(queue.next(nth as f64), NextDelivery::Send(nth));
        queue.settled();
    }
    assert_eq!(queue.next(9.0), NextDelivery::At(60.0));
    assert_eq!(queue.next(60.0), NextDelivery::Send(10));
    queue.settled();
    assert_eq!(queue.next(60.0), NextDelivery::At(61.0));
}

#[test]
fn the_least_important_one_is_dropped_first() {
    let mut queue = DeliveryQueue::default();
    add(&mut queue, 1, "a", Update::Raised);
    add(&mut queue, 2, "a", Update::Updated);
    add(&mut queue, 3, "", Update::Changed);
    add(&mut queue, 4, "b", Update::Resolved);
    add_of(&mut queue, 5, "c", "", Update::Raised, Severity::Critical);
    add_of(&mut queue, 6, "d", "", Update::Raised, Severity::Critical);
    assert_eq!(queue.next(0.0), NextDelivery::Send(5), "the one in flight stays");
    let order: Vec<_> = std::iter::from_fn(|| queue.drop_least_important()).collect();
    assert_eq!(order, [3, 2, 1, 4, 6]);
    assert_eq!(queue.close(), [5]);
    assert_eq!(add(&mut queue, 7, "a", Update::Raised), [7]);
    assert_eq!(queue.next(0.0), NextDelivery::Nothing);
}

/// Incidents 0 to 3 as one sink knows them, and as it should.
#[derive(Default)]
struct Known {
    notifications: Vec<(usize, Update, Severity)>,
    is_open: [bool; 4],
    should_be_open: [bool; 4],
}

impl Known {
    fn take(&mut self, nth: u64) {
        let (incident, update, _) = self.notifications[nth as usize];
        match update {
            Update::Raised | Update::Updated => self.is_open[incident] = true,
            Update::Resolved => self.is_open[incident] = false,
            Update::Changed => {}
        }
    }
}

proptest! {
    /// Notifications come as the policy makes them: an incident is raised, updated, resolved, and
    /// raised again at any time. A sink takes them, refuses them, or takes them without a reply.
    #[test]
    fn any_replies_leave_the_sink_with_the_incidents_that_are_open(
        steps in prop::collection::vec(
            (0..4_usize, 0..4_usize, any::<bool>(), 0.0..30.0_f64, 0..4_u8),
            1..300,
        ),
    ) {
        let (mut queue, mut known) = (DeliveryQueue::default(), Known::default());
        let (mut calls, mut t) = (Vec::new(), 0.0);
        for (incident, update, is_critical, later, answer) in steps {
            t += later;
            let update = match UPDATES[update] {
                Update::Raised | Update::Updated if known.should_be_open[incident] => {
                    Update::Updated
                }
                Update::Raised | Update::Updated => Update::Raised,
                Update::Resolved if !known.should_be_open[incident] => Update::Changed,
                update => update,
            };
            known.should_be_open[incident] = match update {
                Update::Raised => true,
                Update::Resolved => false,
                _ => known.should_be_open[incident],
            };
            let severity = if is_critical { Severity::Critical } else { Severity::Warning };
            let nth = known.notifications.len() as u64;
            known.notifications.push((incident, update, severity));
            add_of(&mut queue, nth, &format!("{incident}"), "", update, severity);
            prop_assert!(queue.len() <= 4 * 4, "{} wait", queue.len());
            match queue.next(t) {
                NextDelivery::Send(nth) => {
                    calls.push(t);
                    match answer {
                        0 => drop(queue.failed(t, None, false, 0.5)),
                        1 => drop(queue.failed(t, None, true, 0.5)),
                        2 => {
                            known.take(nth);
                            queue.failed(t, None, true, 0.5);
                        }
                        _ => {
                            known.take(nth);
                            queue.settled();
                        }
                    }
                }
                NextDelivery::At(at) => prop_assert!(at > t),
                NextDelivery::Nothing => {}
            }
        }
        while let Some(at) = queue.wakes_at(t) {
            t = at;
            let NextDelivery::Send(nth) = queue.next(t) else { continue };
            calls.push(t);
            known.take(nth);
            queue.settled();
        }
        prop_assert_eq!(queue.len(), 0);
        prop_assert_eq!(known.is_open, known.should_be_open);
        // The sum that the queue forms: a difference of times would be rounded differently.
        prop_assert!(calls.windows(11).all(|calls| calls[10] >= calls[0] + 60.0));
    }
}
