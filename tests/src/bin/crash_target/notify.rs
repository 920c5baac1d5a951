//! Notifies of incidents with the agent's own code, and prints each step once it is on disk, so
//! that it can be killed anywhere in between.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    thread::sleep,
    time::Duration,
};

use anyhow::Context as _;
use spillway_agent::{
    act::{Notifier, Outcome, OutcomeKind},
    clock::Clock,
    config::{self, Mode},
    decide::{Action, Decision, IncidentId, Severity},
    detect::{Bound, Claim, ClaimState, LeakClaim, Resource, Verdict},
    sense::ProcessId,
};

const START_TICKS: u64 = 4_711;

/// Interval between checks for an entry on disk or an answer.
const LOOKS_EVERY: Duration = Duration::from_micros(200);

/// Maximum time of a delivery to a receiver that answers.
const IDLE_FOR: Duration = Duration::from_millis(400);

/// Notify of leaks until killed, with one line on standard output for each step that is on disk
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration of the agent
    #[arg(long)]
    config: PathBuf,
    /// Raise an incident with this number
    #[arg(long)]
    raise: Option<u32>,
    /// Report that incident as limited, too
    #[arg(long)]
    limit: bool,
    /// End an open incident
    #[arg(long)]
    resolve: Option<u32>,
    /// Deliver pending notifications until none is left or deliveries fail, and print how many are
    /// left
    #[arg(long)]
    drain: bool,
}

struct Teller {
    paging: Notifier,
    told: u64,
}

/// Runs until it is killed or done.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    let config = config::load(&args.config)?;
    let paging = Notifier::start(&config, Clock::start())?.context("no receiver is configured")?;
    let mut teller = Teller { paging, told: 0 };
    if args.drain {
        return teller.drain();
    }
    if let Some(number) = args.raise {
        teller.decide(number, Action::Page { severity: Severity::Warning });
        teller.acknowledge("raised", number, 1)?;
        if args.limit {
            teller.limited(number);
            // The new state, and the change.
            teller.acknowledge("changed", number, 2)?;
        }
    }
    if let Some(number) = args.resolve {
        // Printed first: after a kill in between it may have happened.
        say("resolving", number)?;
        teller.decide(number, Action::Resolve);
        teller.acknowledge("resolved", number, 1)?;
    }
    loop {
        sleep(IDLE_FOR);
    }
}

impl Teller {
    fn decide(&mut self, number: u32, action: Action) {
        let id = ProcessId { pid: number, start_ticks: START_TICKS };
        let claim = LeakClaim {
            cgroup_memory: None,
            resource: Resource::Memory,
            id,
            comm: Arc::from("api"),
            cgroup: cgroup(number),
            growth_bytes_per_sec: Some(1_048_576.0),
            growth_handles_per_sec: None,
            growth_interval_bytes_per_sec: None,
            bound: Bound::Host,
        };
        let verdict = Verdict {
            t: 1.0,
            claim: Claim::Leak(claim),
            exhaustion_secs: Some(300.0),
            exhaustion_interval_secs: None,
            harm: None,
            identity: None,
            confidence: 1.0,
            state: ClaimState::Raised,
            why: "it leaks".to_owned(),
        };
        let (id, mode) = (IncidentId::Leak(id, Resource::Memory), Mode::Enforce);
        let (shared, why) = (Arc::new(verdict.clone()), "it leaks".to_owned());
        let decision =
            Decision { action, mode, verdict: shared, id, performed: true, refused: None, why };
        self.paging.decided(&decision, &[verdict]);
    }

    fn limited(&mut self, number: u32) {
        let id = ProcessId { pid: number, start_ticks: START_TICKS };
        let cause = IncidentId::Leak(id, Resource::Memory).into();
        let why = "memory.high set to 536870912 bytes".to_owned();
        self.paging.done(&Outcome {
            t: 2.0,
            event: OutcomeKind::Limited,
            cause,
            cgroup: cgroup(number),
            limit_bytes: Some(512 << 20),
            why,
        });
    }

    /// Waits until that many more pages are on disk, and prints it.
    fn acknowledge(&mut self, what: &str, number: u32, pages: u64) -> io::Result<()> {
        self.told += pages;
        let counts = self.paging.counts();
        while counts.kept.get() < self.told {
            sleep(LOOKS_EVERY);
        }
        say(what, number)
    }

    fn drain(self) -> anyhow::Result<ExitCode> {
        let counts = self.paging.counts();
        let (mut waiting, mut idle) = (counts.waiting.get(), Duration::ZERO);
        while waiting > 0 && idle < IDLE_FOR {
            sleep(LOOKS_EVERY);
            idle += LOOKS_EVERY;
            let now = counts.waiting.get();
            if now != waiting {
                (waiting, idle) = (now, Duration::ZERO);
            }
        }
        self.paging.stop();
        println!("left {waiting}");
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns a cgroup for each number, so that no incident is merged with others of its cgroup.
fn cgroup(number: u32) -> Arc<str> {
    Arc::from(format!("/system.slice/api-{number}.service"))
}

fn say(what: &str, number: u32) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{what} {number}")?;
    out.flush()
}
