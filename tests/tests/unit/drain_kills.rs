//! A node's drain continues however often and at whatever point its drainer is killed, including
//! during a call, before and after the response.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use serde_json::Value;
use spillway_agent::act::drain::{Override, OverrideFile};
use spillway_tests::{
    Kills, Scratch, in_lanes, now,
    receiver::{Call, Form, Manner, Receiver},
    tls::Authority,
    wait_for,
};
use standardwebhooks::Webhook;

const SOON: Duration = Duration::from_secs(20);

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Node, its operator's override, and the receiver that grants its drains.
struct Lane {
    scratch: Scratch,
    config: PathBuf,
    word: OverrideFile,
    receiver: Receiver,
    /// Reported outcomes of all runs, with their counts.
    reported: BTreeMap<String, u64>,
    /// Pending request after each kill, if it changed.
    asked: Vec<Option<String>>,
    kills: Kills,
    killed_calling: u64,
}

impl Lane {
    fn start(nth: u64) -> Self {
        let (scratch, receiver) =
            (Scratch::make(&format!("drain-kills-{nth}")), Receiver::start(Form::Webhook));
        let state_dir = scratch.0.join("state");
        let text = format!(
            "[record]\nstate_dir = \"{}\"\n[act.drain]\nurl = \"{}\"\nsecret_file \
            = \"{}\"\nca_file = \"{}\"\n\
             dwell = \"1s\"\ndrained_within = \"1s\"\nverify = \"1s\"\n",
            state_dir.display(),
            receiver.url("/drains"),
            scratch.secret("keys", KEY).display(),
            // The host's own certificates are many and would be read before each call.
            scratch.file("ca.crt", &Authority::make().pem()).display(),
        );
        let config = scratch.file("spillway.toml", &text);
        let (word, reported) = (OverrideFile::below(&state_dir), BTreeMap::new());
        Self {
            scratch,
            config,
            word,
            receiver,
            reported,
            asked: Vec::new(),
            kills: Kills::default(),
            killed_calling: 0,
        }
    }

    fn drainer(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crash_target"));
        command.args(["drain", "--config"]).arg(&self.config).stdout(Stdio::piped());
        command
    }

    /// Starts the drainer, with or without a change of the override, and kills it. Everything
    /// reported by then must be in effect.
    fn kill(&mut self, random: u64) {
        let is_new = !random.is_multiple_of(3);
        if is_new {
            let is_drain = matches!(self.word.read(), Ok(Some(Override::Drain)));
            self.word
                .set(if is_drain { Override::Undrain } else { Override::Drain })
                .expect("writing the override");
        }
        self.receiver.behaves(match (random >> 8) % 16 {
            0 => Manner::Answers(503, "", Vec::new()),
            1 => Manner::Resets,
            2..8 => Manner::Slow(Duration::from_millis(5)),
            _ => Manner::Well,
        });
        let mut drainer = self.drainer().spawn().expect("starting the process");
        sleep(self.kills.after(random));
        self.killed_calling += u64::from(self.receiver.open() > 0);
        drainer.kill().expect("killing the process");
        drainer.wait().expect("waiting for the process");
        // The receiver has the drainer's call and finishes it before the next drainer makes one.
        wait_for(SOON, || (self.receiver.open() == 0).then_some(()));
        let asked = kept(&self.scratch)["request"]["id"].as_str().map(str::to_owned);
        if self.asked.last() != Some(&asked) {
            self.asked.push(asked);
        }
        let reported = BufReader::new(drainer.stdout.take().expect("stdout should be piped"));
        let reported: Vec<_> =
            reported.lines().map(|line| line.expect("output should be UTF-8")).collect();
        let last = reported
            .iter()
            .rev()
            .find(|reported| ["draining", "undrained"].contains(&reported.as_str()));
        if is_new {
            self.kills.note(last.is_some());
        }
        if let Some(last) = last {
            let wanted = if last == "draining" { "drain" } else { "undrain" };
            let taken = self.receiver.taken();
            // The next request may have been made and withdrawn by then.
            let is_asked = taken.iter().rev().take(3).any(|call| ask(call) == wanted);
            assert!(
                is_asked,
                "it reported {reported:?}, but was granted {:?}",
                taken.iter().map(ask).collect::<Vec<_>>()
            );
        }
        reported.into_iter().for_each(|reported| *self.reported.entry(reported).or_default() += 1);
        let unreadable = self.scratch.0.join("state/drain.json.unreadable");
        assert!(!unreadable.exists(), "{:?}", fs::read_to_string(unreadable));
    }

    /// Puts the node back into service and checks all requests.
    fn judge(&self) -> [usize; 3] {
        self.receiver.behaves(Manner::Well);
        self.word.set(Override::Undrain).expect("writing the override");
        let mut drainer = self.drainer().spawn().expect("starting the process");
        let healthy = wait_for(SOON, || (kept(&self.scratch)["phase"] == "healthy").then_some(()));
        drainer.kill().expect("killing the process");
        drainer.wait().expect("waiting for the process");
        assert!(healthy.is_some(), "{}", kept(&self.scratch));
        let calls = self.receiver.calls();
        let mut by_id = BTreeMap::<_, Vec<&Call>>::new();
        for call in &calls {
            let verified = Webhook::new(KEY)
                .expect("the key should be valid")
                .verify(&call.body, &call.header_map());
            verified.unwrap_or_else(|error| panic!("{error}: {call:?}"));
            by_id.entry(call.headers["webhook-id"].clone()).or_default().push(call);
        }
        for (id, calls) in &by_id {
            assert!(
                calls.iter().all(|call| call.body == calls[0].body),
                "{id} has two different requests"
            );
        }
        // A request that was over must never be pending after a later kill.
        let asked: Vec<_> = self.asked.iter().flatten().collect();
        assert_eq!(
            asked.len(),
            asked.iter().collect::<BTreeSet<_>>().len(),
            "a finished request was made again"
        );
        let taken = self.receiver.taken();
        assert_eq!(taken.last().map(ask), Some("undrain"));
        [calls.len(), by_id.len(), taken.len()]
    }
}

/// State of the drain on disk.
fn kept(scratch: &Scratch) -> Value {
    let text = fs::read(scratch.0.join("state/drain.json"));
    text.map_or(Value::Null, |text| {
        serde_json::from_slice(&text).expect("the state file should be complete at any time")
    })
}

fn ask(call: &Call) -> &'static str {
    if call.json()["type"] == "io.spillway.node.drain.requested" { "drain" } else { "undrain" }
}

#[test]
fn drain_survives_any_number_of_kills() {
    let begun = now();
    let (kills, lanes) = in_lanes(|nth, randoms| {
        let mut lane = Lane::start(nth);
        randoms.iter().for_each(|random| lane.kill(*random));
        let [calls, requests, taken] = lane.judge();
        println!(
            "{} kills, {} in a call; {calls} calls for {requests} requests, {taken} taken; \
             reported: {:?}; {:.0} s",
            randoms.len(),
            lane.killed_calling,
            lane.reported,
            begun.elapsed().as_secs_f64()
        );
        (lane.killed_calling, calls, requests)
    });
    for (killed_calling, calls, requests) in lanes {
        // Otherwise the kills came at moments without risk.
        assert!(killed_calling > kills / 200 && requests as u64 > kills / 20 && calls > requests);
    }
}
