use std::{fs, path::PathBuf};

use proptest::prelude::*;

use super::*;
use crate::{
    act::notify::{links::Links, sink::SinkFormat, tests::page},
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
        Dir(std::env::temp_dir().join(format!("spillway-desk-{name}-{}", std::process::id())));
    fs::create_dir_all(&dir.0).unwrap();
    dir
}

/// A desk with an Alertmanager, which is told of no changes, and of what an earlier one left.
fn desk(dir: &Dir) -> (Outbox, Vec<Notification>) {
    desk_at(dir, 0)
}

/// The same, begun at this time in milliseconds since 1970.
fn desk_at(dir: &Dir, unix_ms: u64) -> (Outbox, Vec<Notification>) {
    let (spool, found) = Spool::open::<Notification>(&dir.0.join("spool.redb")).unwrap();
    let sink = Sink {
        form: SinkFormat::Alertmanager { url: "http://127.0.0.1:9/".to_owned() },
        links: Links::default(),
    };
    (Outbox::new(spool, vec![sink], found.waiting, unix_ms), found.open)
}

fn sent(desk: &mut Outbox, t: f64) -> Vec<String> {
    let posts = desk.due(t, 0, 0.5);
    let text = |body: &[u8]| {
        serde_json::from_slice::<serde_json::Value>(body).unwrap()[0]["annotations"]["summary"]
            .clone()
    };
    posts.iter().map(|(_, post)| text(&post.body).as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_is_not_delivered_is_told_by_the_next_run_in_its_order() {
    let dir = dir("next-run");
    let (mut first, open) = desk(&dir);
    assert!(open.is_empty());
    let pages = vec![
        page("1", "a", Update::Raised),
        page("2", "a", Update::Changed),
        page("3", "b", Update::Raised),
    ];
    first.accept(0.0, pages);
    assert_eq!((first.waiting(), sent(&mut first, 0.0)), (2, vec!["1".to_owned()]));
    first.answered(0.0, 0, Delivery::Taken, 0.0);
    assert_eq!(
        first.events(),
        [OutboxEvent::Kept(2), OutboxEvent::Delivered(SinkKind::Alertmanager)]
    );
    assert_eq!(sent(&mut first, 1.0), ["3"], "and killed before it is answered");
    first.accept(1.0, vec![page("4", "b", Update::Resolved)]);
    drop(first);

    let (mut next, open) = desk(&dir);
    assert_eq!(open, [page("1", "a", Update::Raised)], "b is over");
    assert_eq!(
        next.events(),
        [OutboxEvent::Merged(1)],
        "nobody knows whether 3 was taken, so its end alone is told"
    );
    assert_eq!((next.waiting(), sent(&mut next, 0.0)), (1, vec!["4".to_owned()]));
    next.answered(0.0, 0, Delivery::Taken, 0.0);
    drop(next);
    assert_eq!(desk(&dir).0.waiting(), 0);
}

#[test]
fn what_is_over_before_it_is_sent_is_told_to_nobody_and_leaves_nothing_on_disk() {
    let dir = dir("cancelled");
    let (mut first, _) = desk(&dir);
    first.accept(0.0, vec![page("1", "a", Update::Raised)]);
    first.accept(0.0, vec![page("2", "a", Update::Resolved)]);
    assert_eq!(first.events(), [OutboxEvent::Kept(1), OutboxEvent::Merged(2)]);
    assert_eq!((first.waiting(), sent(&mut first, 0.0)), (0, Vec::<String>::new()));
    drop(first);
    let (next, open) = desk(&dir);
    assert_eq!((next.waiting(), open), (0, Vec::new()));
}

#[test]
fn a_clock_that_is_set_between_two_runs_changes_no_order_and_loses_nothing() {
    let dir = dir("clock");
    let told = [
        ("1", "a", Update::Raised),
        ("2", "b", Update::Raised),
        ("3", "a", Update::Updated),
        ("4", "b", Update::Updated),
    ];
    // Each page in a run of its own, the clock a year ahead, at zero, at its end, and right.
    for ((id, incident, news), unix_ms) in
        told.into_iter().zip([1_800_000_000_000, 0, u64::MAX, 1_770_000_000_000])
    {
        let (mut desk, _) = desk_at(&dir, unix_ms);
        desk.accept(0.0, vec![page(id, incident, news)]);
        assert!(desk.events().contains(&OutboxEvent::Kept(1)), "{id}");
    }
    let (mut last, open) = desk_at(&dir, 1);
    assert_eq!((open.len(), last.waiting()), (2, 4));
    let mut order = Vec::new();
    while last.waiting() > 0 {
        order.extend(sent(&mut last, 0.0));
        last.answered(0.0, 0, Delivery::Taken, 0.0);
    }
    assert_eq!(order, ["1", "2", "3", "4"]);
}

#[test]
fn a_day_at_a_receiver_that_is_down_takes_few_calls_and_no_memory() {
    let dir = dir("day");
    let (mut desk, _) = desk(&dir);
    let resident_pages = || procfs::process::Process::myself().unwrap().statm().unwrap().resident;
    let (mut calls, mut before) = (0, 0);
    for minute in 0..24 * 60 {
        let t = f64::from(minute) * 60.0;
        if minute == 60 {
            before = resident_pages();
        }
        let news =
            [(0, "r", Update::Raised), (4, "u", Update::Updated), (8, "o", Update::Resolved)];
        if let Some((_, id, news)) = news.into_iter().find(|(at, ..)| minute % 10 == *at) {
            desk.accept(t, vec![page(&format!("{id}{minute}"), &format!("{}", minute / 10), news)]);
        }
        for (at, _) in desk.due(t, 0, 0.5) {
            calls += 1;
            desk.answered(t, at, Delivery::Unknown("it is down".to_owned()), 0.5);
        }
        desk.events();
    }
    let grown_bytes = resident_pages().saturating_sub(before) * procfs::page_size();
    println!("{grown_bytes} bytes more, {calls} calls");
    assert!(grown_bytes < 1 << 20, "{grown_bytes} bytes more after a day than after an hour");
    // Once in 225 s at the longest rest's mean, and some to get there.
    assert!((300..400).contains(&calls), "{calls} calls");
    // Nobody knows whether those were taken that were tried.
    assert!(desk.waiting() <= 144, "{}", desk.waiting());
}

#[test]
fn what_is_too_much_is_lost_by_its_weight_and_counted() {
    let dir = dir("too-much");
    let (mut desk, _) = desk(&dir);
    let raised = (0..WAITING_MAX)
        .map(|nth| page(&format!("{nth}"), &format!("{nth}"), Update::Raised))
        .collect();
    desk.accept(0.0, raised);
    let critical = Notification { severity: Severity::Critical, ..page("c", "c", Update::Raised) };
    desk.accept(
        0.0,
        vec![page("u", "0", Update::Updated), page("v", "1", Update::Changed), critical],
    );
    assert_eq!(
        desk.events(),
        [OutboxEvent::Kept(WAITING_MAX), OutboxEvent::Lost(2), OutboxEvent::Kept(1)]
    );
    assert_eq!((desk.waiting(), sent(&mut desk, 0.0)), (WAITING_MAX, vec!["c".to_owned()]));
}

#[test]
fn pages_take_so_much_of_the_disk_and_no_more() {
    let dir = dir("bytes");
    let (mut desk, _) = desk(&dir);
    let long = "x".repeat(16 << 10);
    for nth in 0..100 {
        let summary = long.clone();
        desk.accept(
            0.0,
            vec![Notification {
                summary,
                ..page(&format!("{nth}"), &format!("{nth}"), Update::Raised)
            }],
        );
        assert!(desk.waiting_bytes() <= WAITING_BYTES_MAX);
    }
    assert!(desk.waiting() > 25, "{}", desk.waiting());
}

#[test]
fn a_spool_that_an_earlier_version_left_too_large_is_bounded_and_shrunk() {
    let dir = dir("large");
    let path = dir.0.join("spool.redb");
    let (mut spool, _) = Spool::open::<Notification>(&path).unwrap();
    let entry = |nth: u64| {
        let summary = "x".repeat(8_000);
        let what = Notification {
            summary,
            ..page(&format!("{nth}"), &format!("{}", nth / 2), NEWS[nth as usize % 2])
        };
        (nth, SpoolEntry { to: vec!["alertmanager".to_owned()], what })
    };
    const NEWS: [Update; 2] = [Update::Raised, Update::Updated];
    spool.accept::<Notification>(&(0..1_200).map(entry).collect::<Vec<_>>(), &[]).unwrap();
    drop(spool);
    let before = fs::metadata(&path).unwrap().len();
    let (mut desk, _) = desk(&dir);
    desk.catch_up(0.0);
    let after = fs::metadata(&path).unwrap().len();
    println!("{before} bytes before, {after} after");
    assert!((1..=WAITING_MAX).contains(&desk.waiting()), "{}", desk.waiting());
    assert!(before > 8 << 20 && after < 2 << 20, "{before} bytes, then {after}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn whatever_comes_it_stays_in_its_bounds_in_memory_and_on_disk(
        pages in prop::collection::vec((0..400_usize, 0..4_usize, any::<bool>()), 500..2_000),
        random in any::<u32>(),
    ) {
        const NEWS: [Update; 4] = [Update::Raised, Update::Updated, Update::Resolved, Update::Changed];
        let dir = dir(&format!("bounds-{random}"));
        let (mut desk, _) = desk(&dir);
        for batch in pages.chunks(500) {
            let pages = batch.iter().map(|(incident, news, is_critical)| {
                let severity = if *is_critical { Severity::Critical } else { Severity::Warning };
                Notification { severity, ..page("", &format!("{incident}"), NEWS[*news]) }
            });
            desk.accept(0.0, pages.collect());
            prop_assert!(desk.waiting() <= WAITING_MAX);
        }
        let waiting = desk.waiting();
        drop(desk);
        let found = Spool::open::<Notification>(&dir.0.join("spool.redb")).unwrap().1;
        prop_assert_eq!(found.waiting.len(), waiting);
    }
}
