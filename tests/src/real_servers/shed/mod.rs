//! Load shed at the door of a real server, beside the same load without: clients that give up after
//! a second and try three times offer twice what the server can do.
//!
//! A new server is a line in [`SHED_SERVERS`].

mod load;
mod picture;

use std::{
    fmt::Write as _,
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};

use super::{
    families::{apache, go, gunicorn, java, node, php_fpm, uvicorn},
    run::allow_files,
    scene::Family,
    stage::{Stage, find},
};
use crate::{ANY_PORT, Running, Scratch, Servers, own_network, run_with, wait_for};

pub use load::Scores;
pub use picture::draw;

/// Shares of the capacity that are answered in time during the surge, with and without, and of what
/// is offered after it.
const SURGE_MIN: f64 = 0.9;
const WITHOUT_MAX: f64 = 0.3;
const AFTER_MIN: f64 = 0.99;

/// Share of the capacity by which a server that cannot be helped may be worse off: chance.
const HARM_MAX: f64 = 0.1;

/// Time after the load in which the original length has to be restored.
const RESTORED_WITHIN: Duration = Duration::from_secs(70);

/// Ports of the two servers. Each has one more for a server behind it.
const PORTS: [u16; 2] = [8_204, 8_206];

/// Server whose load is shed.
#[derive(Clone, Copy)]
pub struct ShedServer {
    /// Server.
    pub family: &'static Family,
    /// Set if a connection is accepted when it can be served. A server that accepts all at once, and
    /// lets their requests wait inside, is not helped, but not harmed either.
    pub is_helped: bool,
}

impl ShedServer {
    /// Checks that its programs are there.
    ///
    /// # Errors
    ///
    /// Returns an error with the reason to skip it if one is missing.
    pub fn is_there(&self, servers: &Servers) -> anyhow::Result<()> {
        self.family.needs.iter().try_for_each(|path| find(servers, path).map(drop))
    }
}

const fn helped(family: &'static Family) -> ShedServer {
    ShedServer { family, is_helped: true }
}

const fn not_helped(family: &'static Family) -> ShedServer {
    ShedServer { family, is_helped: false }
}

/// Every server whose load is shed.
pub static SHED_SERVERS: [ShedServer; 9] = [
    helped(&gunicorn::SYNC),
    helped(&apache::PREFORK),
    helped(&apache::WORKER),
    helped(&php_fpm::TCP),
    helped(&node::BRISK),
    not_helped(&uvicorn::UVICORN),
    not_helped(&go::GO),
    not_helped(&java::FIXED_POOL),
    not_helped(&java::TOMCAT),
];

/// Result of both runs of a server.
pub struct Shedding {
    /// Server.
    pub server: ShedServer,
    /// Scores with the action.
    pub with: Scores,
    /// Scores without it.
    pub without: Scores,
    /// Outcomes of the action that the agent printed.
    pub outcomes: Vec<String>,
    /// Log of the agent.
    pub log: String,
}

impl Shedding {
    /// Returns the targets that were missed, with the figures.
    pub fn missed(&self) -> Vec<String> {
        let Self { with, without, .. } = self;
        let mut missed = Vec::new();
        let mut expect = |is_met: bool, what: String| {
            if !is_met {
                missed.push(what);
            }
        };
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        let (surge, unshed) = (with.surge_of_capacity, without.surge_of_capacity);
        if !self.server.is_helped {
            let least = unshed - HARM_MAX;
            let what = format!("{} of capacity, {} without", percent(surge), percent(unshed));
            expect(surge >= least, what);
            return missed;
        }
        let has = |event: &str| self.outcomes.iter().any(|line| line.contains(event));
        expect(has("\"shedding\""), "no load was shed".to_owned());
        expect(has("restored to "), format!("not restored within {RESTORED_WITHIN:?}"));
        let during = format!("{} of capacity during the surge", percent(surge));
        expect(surge >= SURGE_MIN, format!("{during}, of {}", percent(SURGE_MIN)));
        let after = with.after_of_offered;
        let text = format!("{:.1} % of what was offered after the surge", after * 100.0);
        expect(after >= AFTER_MIN, format!("{text}, of {}", percent(AFTER_MIN)));
        let text = format!("{} of capacity without", percent(unshed));
        expect(unshed <= WITHOUT_MAX, format!("{text}, at most {}", percent(WITHOUT_MAX)));
        missed
    }

    /// Returns a report: outcomes of the action, and both scores.
    pub fn report(&self) -> String {
        let mut text = self.outcomes.join("\n");
        for (way, scores) in [("with", &self.with), ("without", &self.without)] {
            let seconds: Vec<_> = scores.seconds.iter().map(|second| second.in_time).collect();
            let _ = write!(
                text,
                "\n{} {way}: {:.0} % of capacity during the surge, {:.1} % of what was offered from \
                 10 s after it; by second {seconds:?}; {:?}, {}",
                self.server.family.name,
                scores.surge_of_capacity * 100.0,
                scores.after_of_offered * 100.0,
                scores.counts,
                scores.error.as_deref().unwrap_or("no error"),
            );
        }
        text
    }
}

/// Puts two servers of a kind under the same load at the same time, one of which is the only
/// service of an agent.
///
/// # Errors
///
/// Returns an error with the reason if a server or a cgroup is missing, or if one does not start.
pub fn shed(server: &ShedServer, servers: &Servers) -> anyhow::Result<Shedding> {
    let family = server.family;
    server.is_there(servers)?;
    allow_files();
    // Their capacity is the same whatever else runs on the machine.
    let servers = servers.clone().ahead();
    let [shed, unshed] = ["shed", "unshed"].map(|way| format!("{way}-{}", family.name));
    let shed = Stage::make(servers.clone(), &shed, PORTS[0], false);
    let unshed = Stage::make(servers.clone(), &unshed, PORTS[1], false);
    let cgroup = shed.cgroup().context("no cgroup can be made: there is no memory controller")?;
    let scratch = Scratch::make(&format!("shed-agent-{}", family.name));
    let config = format!(
        "mode = \"enforce\"\n{ANY_PORT}[record]\nstate_dir = \"{}\"\n[decide]\n\
         services = [\"{cgroup}\"]\n[act.limit]\nenabled = false\n[act.shed]\nenabled = true\n",
        scratch.0.join("state").display(),
    );
    let mut command = run_with(&scratch.file("spillway.toml", &config));
    command.arg("--json");
    // In a network namespace of the servers' own it would hear of no other, so it starts outside.
    let agent = Running::start(command);
    let outcomes = || {
        let printed = agent.printed();
        let of_action = |line: &&str| line.contains("\"outcome\":\"") && line.contains("shed");
        printed.lines().filter(of_action).map(str::to_owned).collect::<Vec<_>>()
    };
    let until_restored = || {
        let is_restored = |line: &String| line.contains("\"outcome\":\"unshed\"");
        let is_over = || outcomes().iter().any(is_restored).then_some(());
        if !outcomes().is_empty() {
            wait_for(RESTORED_WITHIN, is_over);
        }
    };
    let (with, without) = thread::scope(|scope| {
        let both = scope.spawn(|| {
            own_network().context("a network namespace cannot be made")?;
            thread::scope(|scope| {
                let without = scope.spawn(|| load::run(family, &unshed, || {}));
                anyhow::Ok((load::run(family, &shed, until_restored)?, joined(without)?))
            })
        });
        joined(both)
    })?;
    let outcomes = outcomes();
    let (code, log) = agent.stop();
    if code != Some(0) {
        bail!("the agent ended with {code:?}: {log}");
    }
    Ok(Shedding { server: *server, with, without, outcomes, log })
}

fn joined<T>(thread: ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow!("the thread of a run panicked"))?
}

#[cfg(test)]
mod tests {
    use super::{load::Second, *};

    /// Runs of which this share of the capacity, and of what was offered afterwards, was answered.
    fn shedding(with: (f64, f64), without: (f64, f64)) -> Shedding {
        let scores = |(surge_of_capacity, after_of_offered)| Scores {
            surge_of_capacity,
            after_of_offered,
            seconds: vec![Second { offered: 160, in_time: 80 }; 44],
            counts: Default::default(),
            error: None,
        };
        Shedding {
            server: SHED_SERVERS[0],
            with: scores(with),
            without: scores(without),
            outcomes: vec!["\"shedding\"".to_owned(), "restored to 511".to_owned()],
            log: String::new(),
        }
    }

    #[test]
    fn missed_targets_are_named_with_their_figures() {
        assert_eq!(shedding((0.9, 1.0), (0.3, 0.0)).missed(), [] as [String; 0]);
        assert_eq!(
            shedding((0.88, 0.98), (0.4, 0.0)).missed(),
            [
                "88 % of capacity during the surge, of 90 %",
                "98.0 % of what was offered after the surge, of 99 %",
                "40 % of capacity without, at most 30 %"
            ]
        );
        let unshed = Shedding { outcomes: Vec::new(), ..shedding((1.0, 1.0), (0.1, 0.0)) };
        assert_eq!(unshed.missed(), ["no load was shed", "not restored within 70s"]);
        // A server that is not helped must not be harmed.
        let server = not_helped(&go::GO);
        let harmed = |with| Shedding { server, ..shedding((with, 0.0), (0.3, 0.0)) }.missed();
        assert_eq!(harmed(0.25), [] as [String; 0]);
        assert_eq!(harmed(0.1), ["10 % of capacity, 30 % without"]);
    }

    #[test]
    fn picture_has_both_runs() {
        let svg = draw(&shedding((0.9, 1.0), (0.1, 0.0))).unwrap();
        for text in ["offered", "capacity", "in time, load shed", "in time, without"] {
            assert!(svg.contains(text), "no {text:?} in {svg}");
        }
        for colour in ["#0072B2", "#D55E00"] {
            let is_line = |line: &&str| line.contains("<polyline") && line.contains(colour);
            assert_eq!(svg.lines().filter(is_line).count(), 1, "{colour} in {svg}");
        }
    }
}
