//! Every acknowledged page is delivered, however often and at whatever point the notifier is
//! killed. Only incidents that end before any receiver was notified may be dropped.
//!
//! The agent's own paging runs over its spool and to two receivers at once: one as strict as
//! PagerDuty, the other with signed webhooks. It is killed at random, including during a call,
//! before and after the response.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use spillway_tests::{
    Kills, Scratch, in_lanes, now,
    receiver::{Call, Form, Manner, PAGERDUTY_KEY, Receiver},
    tls::Authority,
    wait_for,
};
use standardwebhooks::Webhook;

/// Time after which a call without a waiting client is over.
const SOON: Duration = Duration::from_secs(20);

const SIGNING_KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Process that sends notifications, its receivers, and its acknowledgements.
struct Lane {
    /// Directory with all state, removed at the end.
    _scratch: Scratch,
    config: PathBuf,
    pagerduty: Receiver,
    webhook: Receiver,
    next: u32,
    /// Incidents acknowledged as raised and not yet to be resolved.
    open: Vec<u32>,
    raised: BTreeSet<u32>,
    changed: BTreeSet<u32>,
    resolved: BTreeSet<u32>,
    /// Incidents reported to it as over, acknowledged or not.
    resolving: BTreeSet<u32>,
    /// Kills during a call, before its response.
    killed_calling: u64,
    kills: u64,
    kills_at: Kills,
}

/// Results of a lane.
#[derive(Debug, Default)]
struct Figures {
    kills: u64,
    killed_calling: u64,
    acknowledged: usize,
    /// Incidents that were over before the webhook was notified.
    cancelled: usize,
    calls: usize,
    again: usize,
}

impl Lane {
    fn start(nth: u64) -> Self {
        let scratch = Scratch::make(&format!("delivery-{nth}"));
        let (pagerduty, webhook) =
            (Receiver::start(Form::PagerDuty), Receiver::start(Form::Webhook));
        let secret = |name: &str, text: &str| scratch.secret(name, text).display().to_string();
        let text = format!(
            "mode = \"enforce\"\n[record]\nstate_dir = \"{}\"\n[act.page]\nca_file \
            = \"{}\"\n[act.page.pagerduty]\nurl = \"{}\"\nrouting_key_file = \"{}\"\n\
             [act.page.webhook]\nurl = \"{}\"\nsecret_file = \"{}\"\n",
            scratch.0.join("state").display(),
            // The host's own certificates are many and would be read before each call.
            scratch.file("ca.crt", &Authority::make().pem()).display(),
            pagerduty.url("/v2/enqueue"),
            secret("routing-key", PAGERDUTY_KEY),
            webhook.url("/spillway"),
            secret("signing-key", SIGNING_KEY),
        );
        let config = scratch.file("spillway.toml", &text);
        let [raised, changed, resolved, resolving] = [(); 4].map(|()| BTreeSet::new());
        let (next, open) = (1, Vec::new());
        Self {
            _scratch: scratch,
            config,
            pagerduty,
            webhook,
            next,
            open,
            raised,
            changed,
            resolved,
            resolving,
            killed_calling: 0,
            kills: 0,
            kills_at: Kills::default(),
        }
    }

    fn notifier(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crash_target"));
        command.args(["notify", "--config"]).arg(&self.config).stdout(Stdio::piped());
        command
    }

    /// Starts the process, passes it something to report, and kills it.
    fn kill(&mut self, random: u64) {
        let mut command = self.notifier();
        command.arg(format!("--raise={}", self.next));
        let mut expected = 1;
        if random.is_multiple_of(3) {
            command.arg("--limit");
            expected += 1;
        }
        // A third of the incidents stays open, so that new runs find some.
        if self.open.len() > 3 {
            command.arg(format!("--resolve={}", self.open[random as usize % self.open.len()]));
            expected += 2;
        }
        let manner = match (random >> 8) % 16 {
            0 => Manner::Answers(503, "", Vec::new()),
            1 => Manner::Resets,
            2 => Manner::Answers(429, "retry-after: 1\r\n", Vec::new()),
            3..8 => Manner::Slow(Duration::from_millis(5)),
            _ => Manner::Well,
        };
        self.pagerduty.behaves(manner.clone());
        self.webhook.behaves(manner);
        let mut notifier = command.spawn().expect("starting the process");
        sleep(self.kills_at.after(random));
        let is_calling = self.pagerduty.open() + self.webhook.open() > 0;
        notifier.kill().expect("killing the process");
        notifier.wait().expect("waiting for the process");
        self.kills += 1;
        self.killed_calling += u64::from(is_calling);
        // The receivers have its calls and finish them before the next run makes one.
        wait_for(SOON, || (self.pagerduty.open() + self.webhook.open() == 0).then_some(()));
        let printed = BufReader::new(notifier.stdout.take().expect("stdout should be piped"));
        let printed: Vec<_> =
            printed.lines().map(|line| line.expect("output should be UTF-8")).collect();
        self.kills_at.note(printed.len() == expected);
        for line in printed {
            let (what, number) = line.split_once(' ').expect("the line should have two words");
            let number: u32 = number.parse().expect("the second word should be a number");
            match what {
                "raised" => {
                    self.raised.insert(number);
                    self.open.push(number);
                }
                "changed" => drop(self.changed.insert(number)),
                "resolving" => {
                    self.open.retain(|open| *open != number);
                    self.resolving.insert(number);
                }
                "resolved" => drop(self.resolved.insert(number)),
                other => panic!("unexpected output {other}"),
            }
        }
        self.next += 1;
    }

    /// Delivers everything pending. A run makes at most ten calls a minute, so several runs are
    /// needed.
    fn drain(&self) {
        for manner in [&self.pagerduty, &self.webhook] {
            manner.behaves(Manner::Well);
        }
        for _ in 0..200 {
            let output = self.notifier().arg("--drain").output().expect("running the process");
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            if printed.trim() == "left 0" {
                return;
            }
            assert!(output.status.success() && printed.starts_with("left "), "{output:?}");
        }
        panic!("pending notifications were not all delivered");
    }

    fn judge(&self) -> Figures {
        let (alerts, events) = (self.pagerduty.taken(), self.webhook.taken());
        // A rejected request means that the agent formed it wrongly.
        let refused = self.pagerduty.calls().into_iter().find(|call| call.status == 400);
        assert!(refused.is_none(), "{refused:?}");
        events.iter().for_each(verify);

        let of_webhook = |call: &Call| {
            let event = call.json();
            let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            (
                text("type").rsplit('.').next().unwrap_or_default().to_owned(),
                number(&text("subject")),
            )
        };
        let of_pagerduty = |call: &Call| {
            let event = call.json();
            let Some(key) = event["dedup_key"].as_str() else {
                let id = event["payload"]["custom_details"]["id"].as_str().unwrap_or_default();
                return ("changed".to_owned(), number(id));
            };
            let is_update = event["payload"]["custom_details"].get("done").is_some();
            let what = match event["event_action"].as_str() {
                Some("resolve") => "resolved",
                _ if is_update => "updated",
                _ => "raised",
            };
            (what.to_owned(), number(key))
        };
        let positions = [positions(&events, of_webhook), positions(&alerts, of_pagerduty)];
        for (positions, calls) in positions.iter().zip([&events, &alerts]) {
            let acknowledged = [
                ("raised", &self.raised),
                ("changed", &self.changed),
                ("resolved", &self.resolved),
            ];
            for (what, numbers) in acknowledged {
                let has =
                    |what: &str, number: u32| positions.contains_key(&(what.to_owned(), number));
                let is_lost = |number: &&u32| match what {
                    "raised" => !has(what, **number) && !self.resolving.contains(number),
                    "resolved" => {
                        !has(what, **number)
                            && (has("raised", **number) || has("updated", **number))
                    }
                    _ => !has(what, **number),
                };
                let lost: Vec<_> = numbers.iter().filter(is_lost).collect();
                assert!(lost.is_empty(), "{what} and not delivered: {lost:?}");
            }
            for (what, at) in positions {
                let first = &calls[at[0]];
                let is_same = |nth: &usize| {
                    calls[*nth].body == first.body && identity(&calls[*nth]) == identity(first)
                };
                assert!(at.iter().all(is_same), "{what:?} has two different bodies");
            }
            for number in
                positions.keys().filter(|(what, _)| what == "resolved").map(|(_, number)| *number)
            {
                let at = |what: &str| {
                    positions.get(&(what.to_owned(), number)).map_or(&[][..], Vec::as_slice)
                };
                let (raised, resolved) = (at("raised"), at("resolved"));
                assert!(
                    raised.first() < resolved.first(),
                    "{number} was resolved before it was raised"
                );
                let opened = raised.iter().chain(at("updated")).max();
                assert!(opened < resolved.last(), "{number} was reopened by a repeated call");
            }
        }
        let calls = events.len() + alerts.len();
        Figures {
            kills: self.kills,
            killed_calling: self.killed_calling,
            acknowledged: self.raised.len() + self.changed.len() + self.resolved.len(),
            cancelled: self
                .raised
                .iter()
                .filter(|number| !positions[0].contains_key(&("raised".to_owned(), **number)))
                .count(),
            calls,
            again: calls - positions.iter().map(BTreeMap::len).sum::<usize>(),
        }
    }
}

/// Positions of each notification among the calls.
fn positions(
    calls: &[Call],
    of: impl Fn(&Call) -> (String, u32),
) -> BTreeMap<(String, u32), Vec<usize>> {
    let mut positions = BTreeMap::<_, Vec<_>>::new();
    for (nth, call) in calls.iter().enumerate() {
        positions.entry(of(call)).or_default().push(nth);
    }
    positions
}

/// Number of an incident, from its name.
fn number(incident: &str) -> u32 {
    let number = incident.rsplit('/').next().and_then(|id| id.split('-').nth(1)?.parse().ok());
    number.unwrap_or_else(|| panic!("invalid incident {incident:?}"))
}

/// Key by which a receiver recognises repeated calls.
fn identity(call: &Call) -> Option<String> {
    let key = call.json()["dedup_key"].as_str().map(str::to_owned);
    call.headers.get("webhook-id").cloned().or(key)
}

fn verify(call: &Call) {
    let verified = Webhook::new(SIGNING_KEY)
        .expect("the key should be valid")
        .verify(&call.body, &call.header_map());
    verified.unwrap_or_else(|error| panic!("{error}: {call:?}"));
}

#[test]
fn acknowledged_pages_survive_a_thousand_kills() {
    let begun = now();
    let (kills, lanes) = in_lanes(|nth, randoms| {
        let mut lane = Lane::start(nth);
        randoms.iter().for_each(|random| lane.kill(*random));
        lane.drain();
        lane.judge()
    });
    let mut all = Figures::default();
    for lane in lanes {
        all.kills += lane.kills;
        all.killed_calling += lane.killed_calling;
        all.acknowledged += lane.acknowledged;
        all.cancelled += lane.cancelled;
        all.calls += lane.calls;
        all.again += lane.again;
    }
    println!("{all:?} in {:.0} s", begun.elapsed().as_secs_f64());
    // Otherwise the kills came at moments without risk.
    assert!(all.acknowledged as u64 > kills / 2, "{all:?}");
    assert!(all.killed_calling > kills / 20 && all.again as u64 > kills / 100, "{all:?}");
}
