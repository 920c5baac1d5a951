//! A node's drain goes on where it was, however often and wherever whoever drains it is killed:
//! also while a call is open, before and after it was answered.

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

/// A node, what an operator says of it, and who gives it its work.
struct Lane {
    scratch: Scratch,
    config: PathBuf,
    word: OverrideFile,
    receiver: Receiver,
    /// What was said to be done in all runs.
    said: BTreeMap<String, u64>,
    /// What was being asked for after each kill, where it is not what it was before.
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
            // Those of this host are many, and read before each call.
            scratch.file("ca.crt", &Authority::make().pem()).display(),
        );
        let config = scratch.file("spillway.toml", &text);
        let (word, said) = (OverrideFile::below(&state_dir), BTreeMap::new());
        Self {
            scratch,
            config,
            word,
            receiver,
            said,
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

    /// Starts it, with or without another word of the operator's, and kills it. What it has said by
    /// then has come to be.
    fn kill(&mut self, random: u64) {
        let is_new = !random.is_multiple_of(3);
        if is_new {
            let is_drain = matches!(self.word.read(), Ok(Some(Override::Drain)));
            self.word
                .set(if is_drain { Override::Undrain } else { Override::Drain })
                .expect("it can be written");
        }
        self.receiver.behaves(match (random >> 8) % 16 {
            0 => Manner::Answers(503, "", Vec::new()),
            1 => Manner::Resets,
            2..8 => Manner::Slow(Duration::from_millis(5)),
            _ => Manner::Well,
        });
        let mut drainer = self.drainer().spawn().expect("it starts");
        sleep(self.kills.after(random));
        self.killed_calling += u64::from(self.receiver.open() > 0);
        drainer.kill().expect("it runs until it is killed");
        drainer.wait().expect("it is ours");
        // What it was asking for is with the receiver, who is done with it before the next one
        // asks.
        wait_for(SOON, || (self.receiver.open() == 0).then_some(()));
        let asked = kept(&self.scratch)["request"]["id"].as_str().map(str::to_owned);
        if self.asked.last() != Some(&asked) {
            self.asked.push(asked);
        }
        let said = BufReader::new(drainer.stdout.take().expect("it is piped"));
        let said: Vec<_> = said.lines().map(|line| line.expect("it is text")).collect();
        let last =
            said.iter().rev().find(|said| ["draining", "undrained"].contains(&said.as_str()));
        if is_new {
            self.kills.note(last.is_some());
        }
        if let Some(last) = last {
            let wanted = if last == "draining" { "drain" } else { "undrain" };
            let taken = self.receiver.taken();
            // The next thing may have been asked for by then, and withdrawn.
            let is_asked = taken.iter().rev().take(3).any(|call| ask(call) == wanted);
            assert!(
                is_asked,
                "it said {said:?}, and was granted {:?}",
                taken.iter().map(ask).collect::<Vec<_>>()
            );
        }
        said.into_iter().for_each(|said| *self.said.entry(said).or_default() += 1);
        let unreadable = self.scratch.0.join("state/drain.json.unreadable");
        assert!(!unreadable.exists(), "{:?}", fs::read_to_string(unreadable));
    }

    /// Gives the node its work back, and judges all that was asked.
    fn judge(&self) -> [usize; 3] {
        self.receiver.behaves(Manner::Well);
        self.word.set(Override::Undrain).expect("it can be written");
        let mut drainer = self.drainer().spawn().expect("it starts");
        let healthy = wait_for(SOON, || (kept(&self.scratch)["phase"] == "healthy").then_some(()));
        drainer.kill().expect("it runs until it is killed");
        drainer.wait().expect("it is ours");
        assert!(healthy.is_some(), "{}", kept(&self.scratch));
        let calls = self.receiver.calls();
        let mut by_id = BTreeMap::<_, Vec<&Call>>::new();
        for call in &calls {
            let verified =
                Webhook::new(KEY).expect("it is a key").verify(&call.body, &call.header_map());
            verified.unwrap_or_else(|error| panic!("{error}: {call:?}"));
            by_id.entry(call.headers["webhook-id"].clone()).or_default().push(call);
        }
        for (id, calls) in &by_id {
            assert!(
                calls.iter().all(|call| call.body == calls[0].body),
                "{id} was asked for in two ways"
            );
        }
        // What was being asked for when each was killed: never what was over by then.
        let asked: Vec<_> = self.asked.iter().flatten().collect();
        assert_eq!(
            asked.len(),
            asked.iter().collect::<BTreeSet<_>>().len(),
            "what was over was asked for again"
        );
        let taken = self.receiver.taken();
        assert_eq!(taken.last().map(ask), Some("undrain"));
        [calls.len(), by_id.len(), taken.len()]
    }
}

/// Where the node is, as it is on disk.
fn kept(scratch: &Scratch) -> Value {
    let text = fs::read(scratch.0.join("state/drain.json"));
    text.map_or(Value::Null, |text| {
        serde_json::from_slice(&text).expect("it is whole, whenever it is read")
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
            "{} kills, {} in a call; {calls} calls for {requests} requests, {taken} taken; said: \
             {:?}; {:.0} s",
            randoms.len(),
            lane.killed_calling,
            lane.said,
            begun.elapsed().as_secs_f64()
        );
        (lane.killed_calling, calls, requests)
    });
    for (killed_calling, calls, requests) in lanes {
        // Else it was killed where nothing can go wrong.
        assert!(killed_calling > kills / 200 && requests as u64 > kills / 20 && calls > requests);
    }
}
