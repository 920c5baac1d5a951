use std::{fs, path::PathBuf};

use proptest::prelude::*;

use super::*;
use crate::{
    act::notify::{sink, tests::notification},
    config::Config,
    decide::Severity,
};

struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn dir(name: &str) -> Dir {
    let dir =
        Dir(std::env::temp_dir().join(format!("spillway-outbox-{name}-{}", std::process::id())));
    fs::create_dir_all(&dir.0).unwrap();
    dir
}

/// Opens an outbox with an Alertmanager, which gets no changes, and returns what was left open.
fn outbox(dir: &Dir) -> (Outbox, Vec<Notification>) {
    outbox_at(dir, 0)
}

/// Opens it at a time in milliseconds since 1970.
fn outbox_at(dir: &Dir, unix_ms: u64) -> (Outbox, Vec<Notification>) {
    let (spool, found) = Spool::open::<Notification>(&dir.0.join("spool.redb")).unwrap();
    let mut page = Config::default().act.page;
    page.alertmanager.url = Some("http://127.0.0.1:9/".to_owned());
    (Outbox::new(spool, sink::from_config(&page), found.waiting, unix_ms), found.open)
}

fn sent(outbox: &mut Outbox, t: f64) -> Vec<String> {
    let posts = outbox.due(t, 0, 0.5);
    let text = |body: &[u8]| {
        serde_json::from_slice::<serde_json::Value>(body).unwrap()[0]["annotations"]["summary"]
            .clone()
    };
    posts.iter().map(|(_, post)| text(&post.body).as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_next_run_delivers_in_order_what_was_not_delivered() {
    let dir = dir("next-run");
    let (mut first, open) = outbox(&dir);
    assert!(open.is_empty());
    let notifications = vec![
        notification("1", "a", Update::Raised),
        notification("2", "a", Update::Changed),
        notification("3", "b", Update::Raised),
    ];
    first.accept(0.0, notifications);
    assert_eq!((first.waiting(), sent(&mut first, 0.0)), (2, vec!["1".to_owned()]));
    first.answered(0.0, 0, Delivery::Taken, 0.0);
    assert_eq!(first.events(), [OutboxEvent::Kept(2), OutboxEvent::Delivered("alertmanager")]);
    assert_eq!(sent(&mut first, 1.0), ["3"], "and killed before it is answered");
    first.accept(1.0, vec![notification("4", "b", Update::Resolved)]);
    drop(first);

    let (mut next, open) = outbox(&dir);
    assert_eq!(open, [notification("1", "a", Update::Raised)], "b is over");
    assert_eq!(
        next.events(),
        [OutboxEvent::Merged(1)],
        "3 may have been taken, so only its end is sent"
    );
    assert_eq!((next.waiting(), sent(&mut next, 0.0)), (1, vec!["4".to_owned()]));
    next.answered(0.0, 0, Delivery::Taken, 0.0);
    drop(next);
    assert_eq!(outbox(&dir).0.waiting(), 0);
}

#[test]
fn an_incident_over_before_it_is_sent_leaves_nothing_on_disk() {
    let dir = dir("cancelled");
    let (mut first, _) = outbox(&dir);
    first.accept(0.0, vec![notification("1", "a", Update::Raised)]);
    first.accept(0.0, vec![notification("2", "a", Update::Resolved)]);
    assert_eq!(first.events(), [OutboxEvent::Kept(1), OutboxEvent::Merged(2)]);
    assert_eq!((first.waiting(), sent(&mut first, 0.0)), (0, Vec::<String>::new()));
    drop(first);
    let (next, open) = outbox(&dir);
    assert_eq!((next.waiting(), open), (0, Vec::new()));
}

#[test]
fn a_clock_set_between_two_runs_keeps_the_order() {
    let dir = dir("clock");
    let sent_before = [
        ("1", "a", Update::Raised),
        ("2", "b", Update::Raised),
        ("3", "a", Update::Updated),
        ("4", "b", Update::Updated),
    ];
    // Each notification in a run of its own; the clock a year ahead, at 0, at its end, right.
    for ((id, incident, update), unix_ms) in
        sent_before.into_iter().zip([1_800_000_000_000, 0, u64::MAX, 1_770_000_000_000])
    {
        let (mut outbox, _) = outbox_at(&dir, unix_ms);
        outbox.accept(0.0, vec![notification(id, incident, update)]);
        assert!(outbox.events().contains(&OutboxEvent::Kept(1)), "{id}");
    }
    let (mut last, open) = outbox_at(&dir, 1);
    assert_eq!((open.len(), last.waiting()), (2, 4));
    let mut order = Vec::new();
    while last.waiting() > 0 {
        order.extend(sent(&mut last, 0.0));
        last.answered(0.0, 0, Delivery::Taken, 0.0);
    }
    assert_eq!(order, ["1", "2", "3", "4"]);
}

#[test]
fn a_receiver_down_for_a_day_costs_few_calls_and_no_memory() {
    let dir = dir("day");
    let (mut outbox, _) = outbox(&dir);
    let resident_pages = || procfs::process::Process::myself().unwrap().statm().unwrap().resident;
    let (mut calls, mut before) = (0, 0);
    for minute in 0..24 * 60 {
        let t = f64::from(minute) * 60.0;
        if minute == 60 {
            before = resident_pages();
        }
        let update =
            [(0, "r", Update::Raised), (4, "u", Update::Updated), (8, "o", Update::Resolved)];
        if let Some((_, id, update)) = update.into_iter().find(|(at, ..)| minute % 10 == *at) {
            outbox.accept(
                t,
                vec![notification(&format!("{id}{minute}"), &format!("{}", minute / 10), update)],
            );
        }
        for (at, _) in outbox.due(t, 0, 0.5) {
            calls += 1;
            outbox.answered(t, at, Delivery::Unknown("it is down".to_owned()), 0.5);
        }
        outbox.events();
    }
    let grown_bytes = resident_pages().saturating_sub(before) * procfs::page_size();
    println!("{grown_bytes} bytes more, {calls} calls");
    assert!(grown_bytes < 1 << 20, "{grown_bytes} bytes more after a day than after an hour");
    // One in 225 s, the mean of the longest delay, and some until that is reached.
    assert!((300..400).contains(&calls), "{calls} calls");
    // Those that were tried may have been taken.
    assert!(outbox.waiting() <= 144, "{}", outbox.waiting());
}

#[test]
fn the_least_important_notifications_are_dropped_and_counted() {
    let dir = dir("too-much");
    let (mut outbox, _) = outbox(&dir);
    let raised = (0..WAITING_MAX)
        .map(|nth| notification(&format!("{nth}"), &format!("{nth}"), Update::Raised))
        .collect();
    outbox.accept(0.0, raised);
    let critical =
        Notification { severity: Severity::Critical, ..notification("c", "c", Update::Raised) };
    outbox.accept(
        0.0,
        vec![
            notification("u", "0", Update::Updated),
            notification("v", "1", Update::Changed),
            critical,
        ],
    );
    assert_eq!(
        outbox.events(),
        [OutboxEvent::Kept(WAITING_MAX), OutboxEvent::Lost(2), OutboxEvent::Kept(1)]
    );
    assert_eq!((outbox.waiting(), sent(&mut outbox, 0.0)), (WAITING_MAX, vec!["c".to_owned()]));
}

#[test]
fn notifications_take_bounded_space_on_disk() {
    let dir = dir("bytes");
    let (mut outbox, _) = outbox(&dir);
    let long = "x".repeat(16 << 10);
    for nth in 0..100 {
        let summary = long.clone();
        outbox.accept(
            0.0,
            vec![Notification {
                summary,
                ..notification(&format!("{nth}"), &format!("{nth}"), Update::Raised)
            }],
        );
        assert!(outbox.waiting_bytes() <= WAITING_BYTES_MAX);
    }
    assert!(outbox.waiting() > 25, "{}", outbox.waiting());
}

#[test]
fn a_large_spool_of_an_earlier_version_is_bounded_and_shrunk() {
    let dir = dir("large");
    let path = dir.0.join("spool.redb");
    let (mut spool, _) = Spool::open::<Notification>(&path).unwrap();
    let entry = |nth: u64| {
        let summary = "x".repeat(8_000);
        let what = Notification {
            summary,
            ..notification(&format!("{nth}"), &format!("{}", nth / 2), UPDATES[nth as usize % 2])
        };
        (nth, SpoolEntry { to: vec!["alertmanager".to_owned()], what })
    };
    const UPDATES: [Update; 2] = [Update::Raised, Update::Updated];
    spool.accept::<Notification>(&(0..1_200).map(entry).collect::<Vec<_>>(), &[]).unwrap();
    drop(spool);
    let before = fs::metadata(&path).unwrap().len();
    let (mut outbox, _) = outbox(&dir);
    outbox.catch_up(0.0);
    let after = fs::metadata(&path).unwrap().len();
    println!("{before} bytes before, {after} after");
    assert!((1..=WAITING_MAX).contains(&outbox.waiting()), "{}", outbox.waiting());
    assert!(before > 8 << 20 && after < 2 << 20, "{before} bytes, then {after}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn any_notifications_stay_within_bounds_in_memory_and_on_disk(
        notifications in prop::collection::vec(
            (0..400_usize, 0..4_usize, any::<bool>()),
            500..2_000,
        ),
        random in any::<u32>(),
    ) {
        const UPDATES: [Update; 4] =
            [Update::Raised, Update::Updated, Update::Resolved, Update::Changed];
        let dir = dir(&format!("bounds-{random}"));
        let (mut outbox, _) = outbox(&dir);
        for batch in notifications.chunks(500) {
            let notifications = batch.iter().map(|(incident, update, is_critical)| {
                let severity = if *is_critical { Severity::Critical } else { Severity::Warning };
                let incident = incident.to_string();
                Notification { severity, ..notification("", &incident, UPDATES[*update]) }
            });
            outbox.accept(0.0, notifications.collect());
            prop_assert!(outbox.waiting() <= WAITING_MAX);
        }
        let waiting = outbox.waiting();
        drop(outbox);
        let found = Spool::open::<Notification>(&dir.0.join("spool.redb")).unwrap().1;
        prop_assert_eq!(found.waiting.len(), waiting);
    }
}

/// A sink that counts how often it encodes a notification.
#[derive(Debug)]
struct Counting(Arc<std::sync::atomic::AtomicUsize>);

impl Sink for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn encode(&self, notification: &Notification) -> Bytes {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Bytes::from(notification.id.clone())
    }

    fn request(
        &self,
        _notification: &Notification,
        body: Bytes,
        _unix_secs: u64,
    ) -> Result<OutgoingRequest, sink::SecretError> {
        let (url, headers) = (String::new(), Vec::new());
        Ok(OutgoingRequest { url, headers, body, redactor: Default::default() })
    }

    fn classify(&self, _reply: &SinkReply<'_>) -> Delivery {
        Delivery::Taken
    }
}

#[test]
fn a_notification_that_is_tried_ten_times_is_encoded_once() {
    let dir = dir("encoded");
    let (spool, _) = Spool::open::<Notification>(&dir.0.join("spool.redb")).unwrap();
    let encoded = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut outbox = Outbox::new(spool, vec![Box::new(Counting(encoded.clone()))], Vec::new(), 0);
    outbox.accept(0.0, vec![notification("1", "a", Update::Raised)]);
    let mut t = 0.0;
    for _ in 0..10 {
        let requests = outbox.due(t, 0, 0.5);
        assert_eq!(
            requests.iter().map(|(_, request)| &request.body[..]).collect::<Vec<_>>(),
            [b"1"]
        );
        outbox.answered(t, 0, Delivery::Unknown("it is down".to_owned()), 0.5);
        t = outbox.wakes_at(t).unwrap();
    }
    assert_eq!(encoded.load(std::sync::atomic::Ordering::Relaxed), 1);
    // The next notification is another one.
    outbox.due(t, 0, 0.5);
    outbox.answered(t, 0, Delivery::Taken, 0.5);
    outbox.accept(t, vec![notification("2", "b", Update::Raised)]);
    assert_eq!(&outbox.due(t, 0, 0.5)[0].1.body[..], b"2");
    assert_eq!(encoded.load(std::sync::atomic::Ordering::Relaxed), 2);
}
