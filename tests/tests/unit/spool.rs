//! Pending notifications survive kills at any time and a full disk.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use spillway_agent::act::notify::spool::Spool;
use spillway_tests::{Kills, Scratch};

/// Number of kills. For more: `SPILLWAY_KILLS=1000 cargo xtask test acknowledged`.
const KILLS: u64 = 60;

#[test]
fn acknowledged_entries_survive_any_number_of_kills() {
    let kills =
        env::var("SPILLWAY_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let scratch = Scratch::make("spool-kills");
    let path = scratch.0.join("spool.redb");
    let (mut first, mut accepted, mut settling) = (1, BTreeSet::new(), BTreeSet::new());
    let mut kills_at = Kills::default();
    // A run starts by opening the spool, which on a busy machine takes longer than everything else.
    let opened_within = Duration::from_millis(10);
    for kill in 0..kills {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crash_target"));
        command
            .args(["spool", "--path"])
            .arg(&path)
            .arg(format!("--first={first}"))
            .stdout(Stdio::piped());
        let mut spooler = command.spawn().expect("starting the process");
        // Spread evenly over the time of some commits, in no order, however fast the machine is.
        sleep(opened_within + kills_at.after(kill.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        spooler.kill().expect("killing the process");
        spooler.wait().expect("waiting for the process");
        let output = BufReader::new(spooler.stdout.take().expect("stdout should be piped"));
        let mut commits = 0;
        for line in output.lines() {
            commits += 1;
            let line = line.expect("output should be UTF-8");
            let (what, nth) = line.split_once(' ').expect("the line should have two words");
            let nth: u64 = nth.parse().expect("the second word should be a number");
            if what == "accepted" {
                accepted.insert(nth)
            } else {
                settling.insert(nth)
            };
            first = first.max(nth + 2);
        }
        kills_at.note(commits > 3);
        let (spool, found) = Spool::open::<String>(&path).expect("opening the spool");
        drop(spool);
        // A spool whose creation was interrupted is still empty.
        let is_readable = found.set_aside.is_none() || accepted.is_empty();
        assert!(is_readable, "after kill {kill}: {:?}", found.set_aside);
        let waiting: BTreeSet<_> = found.waiting.iter().map(|(nth, _)| *nth).collect();
        assert!(
            found
                .waiting
                .iter()
                .all(|(nth, entry)| entry.what == format!("entry {nth}") && entry.to.len() == 2)
        );
        let lost: Vec<_> =
            accepted.difference(&settling).filter(|nth| !waiting.contains(nth)).collect();
        assert!(lost.is_empty(), "after kill {kill}: {lost:?}");
    }
    assert!(accepted.len() as u64 > kills, "{} in {kills} runs", accepted.len());
    println!("{kills} kills, {} acknowledged, none lost", accepted.len());
}
