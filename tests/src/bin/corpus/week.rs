//! Week of a healthy host, made up of the healthy runs of both corpora: the pages that a human
//! would get.
//!
//! Every workload counts as a service that the operator named, so that none is spared for being
//! unknown. Runs are generated one by one, each with a policy of its own: an incident that would
//! join another is counted separately, which can only raise the figure.

use std::process::ExitCode;

use anyhow::Context as _;
use spillway_agent::{
    config::{Config, ServicePattern},
    decide::{Action, Severity},
    engine::{Engine, Output},
    sense::Fact,
};
use spillway_tests::corpus::{Label, Part};

use crate::{
    command::{Corpus, Observations, dir, manifest},
    each::each,
    leaks::Leaks,
    queues::Queues,
};

/// Listeners and processes of the host. A guess for a small node: three services under load and a
/// few dozen processes that matter.
const LISTENERS: f64 = 3.0;
const PROCESSES: f64 = 60.0;

const DAYS: f64 = 7.0;
const DAY_SECS: f64 = 86_400.0;

/// Maximum number of pages in a healthy week.
const PAGES_MAX: usize = 1;

/// Part of the week, and the pages in it.
#[derive(Default)]
struct Share {
    /// Time summed over all listeners or processes, in days.
    days: f64,
    pages: Vec<(String, f64, Severity, String)>,
}

/// Runs the week and prints its pages; with `check`, more than [`PAGES_MAX`] are an error.
///
/// # Errors
///
/// Returns an error if a run cannot be generated or read, or if a check fails.
pub(crate) fn week(part: Part, check: bool) -> anyhow::Result<ExitCode> {
    let queues = runs::<Queues>(part, |entry| entry.overloads.is_empty())?;
    let queues = lasting(&queues, LISTENERS * DAYS, |fact| matches!(fact, Fact::Listener(_)))?;
    let leaks = runs::<Leaks>(part, |entry| entry.label == Label::Healthy)?;
    let leaks = lasting(&leaks, PROCESSES * DAYS, |fact| matches!(fact, Fact::Process(_)))?;
    println!("{:.1} listener-days, {} pages", queues.days, queues.pages.len());
    println!("{:.1} process-days, {} pages", leaks.days, leaks.pages.len());
    let pages: Vec<_> = queues.pages.iter().chain(&leaks.pages).collect();
    for (run, t, severity, why) in &pages {
        println!("  {run} at {t:.0} s, {}: {why}", severity.name());
    }
    // If the corpus has less than a week, all of it counts.
    let weeks = (queues.days / (LISTENERS * DAYS)).min(leaks.days / (PROCESSES * DAYS)).min(1.0);
    let most = (PAGES_MAX as f64 * weeks).ceil() as usize;
    println!("{weeks:.2} of a healthy week: {} pages, at most {most}", pages.len());
    Ok(if check && pages.len() > most { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Healthy run of either corpus: its name, length, interval between reads, and a way to open it.
struct Healthy<'a> {
    name: String,
    open: Box<
        dyn Fn() -> anyhow::Result<(spillway_agent::engine::HostInfo, Observations)> + Sync + 'a,
    >,
    interval_secs: f64,
}

fn runs<C: Corpus>(
    part: Part,
    is_healthy: impl Fn(&C::Entry) -> bool,
) -> anyhow::Result<Vec<Healthy<'static>>>
where
    C::Entry: Send + Sync + 'static,
{
    let entries = C::load(&manifest::<C>())?;
    let healthy =
        entries.into_iter().filter(|entry| C::about(entry).part == part && is_healthy(entry));
    Ok(healthy
        .map(|entry| {
            let (name, interval_secs) =
                (C::about(&entry).run.to_owned(), C::about(&entry).interval_secs);
            Healthy {
                name,
                interval_secs,
                open: Box::new(move || C::observations(&entry, &dir::<C>())),
            }
        })
        .collect())
}

/// Goes through runs until their subjects add up to this many days; each fact that `counts` accepts
/// is one read.
fn lasting(runs: &[Healthy<'_>], days: f64, counts: fn(&Fact) -> bool) -> anyhow::Result<Share> {
    let mut share = Share::default();
    // A few at a time, so that few are generated in vain.
    for some in runs.chunks(16) {
        for one in each(some, |run| pages(run, counts)) {
            let one = one?;
            share.days += one.days;
            share.pages.extend(one.pages);
        }
        if share.days >= days {
            break;
        }
    }
    Ok(share)
}

fn pages(run: &Healthy<'_>, counts: fn(&Fact) -> bool) -> anyhow::Result<Share> {
    let (host, observations) = (run.open)().with_context(|| run.name.clone())?;
    let mut config = Config::default();
    config.decide.services = vec![ServicePattern::new("/*").map_err(anyhow::Error::msg)?];
    let (mut core, mut output, mut share, mut looks) =
        (Engine::new(&config, host), Output::default(), Share::default(), 0_u64);
    for observation in observations {
        let observation = observation?;
        looks += u64::from(counts(&observation.fact));
        core.apply_into(&observation, &mut output);
        output.verdicts.clear();
        for decision in output.decisions.drain(..) {
            if let Action::Page { severity } = decision.action {
                share.pages.push((run.name.clone(), decision.t(), severity, decision.why));
            }
        }
    }
    share.days = looks as f64 * run.interval_secs / DAY_SECS;
    Ok(share)
}
