//! `spillway fleet`: shows this node's group as its coordinator knows it.
//!
//! It asks the coordinator itself and changes nothing, so it works with or without a running agent.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::anyhow;
use serde::Serialize;

use super::{CommandError, load};
use crate::{
    clock::Clock,
    config::Config,
    fleet::{CoordinatorError, GroupLimits, NodeNames, Survey, SurveyedNode, coordinator},
    units::Span,
};

/// Maximum number of nodes that are printed for a person, the worst first. `--json` has all.
const NODES_MAX: usize = 40;

/// Reply of a coordinator.
#[derive(Debug, Serialize)]
pub(super) struct FleetReply {
    /// Name of the coordinator.
    pub coordinator: &'static str,
    /// Survey of the group; `None` if the coordinator only counts the nodes that are out.
    #[serde(flatten)]
    pub survey: Option<Survey>,
}

/// Asks the coordinator for the group, and prints it.
///
/// # Errors
///
/// Returns an error if the configuration is invalid, or the coordinator does not answer.
pub fn fleet(config: Option<&Path>, json: bool) -> Result<(), CommandError> {
    let config = load(config)?;
    let asked = ask(&config).map_err(|error| CommandError::Failed(error.into()))?;
    let Some(reply) = asked else {
        return Err(CommandError::BadInput(anyhow!(
            "fleet.backend is \"none\": this node coordinates its drains with nobody\n  \
             hint: set [fleet] backend and urls in the file that --config names"
        )));
    };
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&reply)?)?;
    } else {
        reply.print(&mut out)?;
    }
    Ok(())
}

/// Asks the coordinator for the group; `None` without a coordinator.
///
/// # Errors
///
/// Returns an error if the coordinator does not answer.
pub(super) fn ask(config: &Config) -> Result<Option<FleetReply>, CoordinatorError> {
    // This run publishes nothing.
    let Some(mut coordinator) = coordinator(config, 0)? else { return Ok(None) };
    let config = &config.fleet;
    let NodeNames { node, group, .. } = NodeNames::of(config);
    let (limits, turn_secs) = (GroupLimits::of(config), config.turn.as_secs_f64());
    let snapshot = coordinator.snapshot()?;
    let now_ms = Clock::start().unix_ms();
    let survey =
        snapshot.map(|snapshot| Survey::of(&snapshot, &group, &node, now_ms, &limits, turn_secs));
    Ok(Some(FleetReply { coordinator: coordinator.name(), survey }))
}

impl FleetReply {
    /// Describes in a sentence whether the coordinator answers, and what this node may do.
    pub(super) fn summary(&self) -> String {
        let Some(survey) = &self.survey else {
            return format!(
                "{} counts the nodes that are out, and knows nothing of their load",
                self.coordinator
            );
        };
        let (of, is_in) = (survey.nodes.len(), survey.in_rotation());
        let may = match &survey.refused {
            None => "this node could leave now".to_owned(),
            Some(why) => format!("this node could not leave now: {why}"),
        };
        format!("{} answers; {is_in} of {of} nodes are in rotation; {may}", self.coordinator)
    }

    fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(survey) = &self.survey else { return writeln!(out, "{}", self.summary()) };
        writeln!(out, "group {}: {}", survey.group, self.summary())?;
        for margin in &survey.margins {
            let verdict = if margin.can_be_lost { "can be lost" } else { "CANNOT be lost" };
            let (domain, name) = (margin.domain, &margin.name);
            writeln!(
                out,
                "  {domain} {name} {verdict}: its load is {} {}, and the others have proven \
                 headroom for {}",
                margin.load, margin.unit, margin.headroom
            )?;
        }
        let turns = survey.turns;
        if turns.nodes > 0 {
            let late = match (turns.late, turns.slots_needed) {
                (0, _) => "each gets one in time".to_owned(),
                (late, Some(slots)) => {
                    format!("{late} would be too late; fleet.slots = {slots} would be enough")
                }
                (late, None) => format!(
                    "{late} would be too late, with any number of slots; heal them faster than \
                     fleet.turn"
                ),
            };
            writeln!(out, "  {} nodes need a turn to leave: {late}", turns.nodes)?;
        }
        let mut nodes: Vec<_> = survey.nodes.iter().collect();
        // `serving` is the last of what a person looks for.
        nodes.sort_by_key(|node| (node.state == "serving", node.end_secs.is_none(), &node.node));
        writeln!(
            out,
            "  {:<28} {:<16} {:<16} {:>15} {:>17}  end in",
            "node", "zone", "state", "CPUs of proven", "requests/s of"
        )?;
        for node in nodes.iter().take(NODES_MAX) {
            print_node(out, node)?;
        }
        if nodes.len() > NODES_MAX {
            writeln!(out, "  … and {} more; --json has all", nodes.len() - NODES_MAX)?;
        }
        Ok(())
    }
}

fn print_node(out: &mut dyn Write, node: &SurveyedNode) -> io::Result<()> {
    let loads = |loads: Option<[f64; 2]>| {
        loads.map_or_else(|| "-".to_owned(), |[now, proven]| format!("{now} of {proven}"))
    };
    let (cpus, requests) = (loads(node.cpus), loads(node.requests));
    let end = match (&node.problem, node.end_secs) {
        (Some(problem), _) => problem.clone(),
        (None, Some(secs)) => Span(secs).to_string(),
        (None, None) => "-".to_owned(),
    };
    writeln!(
        out,
        "  {:<28} {:<16} {:<16} {cpus:>15} {requests:>17}  {end}",
        node.node, node.zone, node.state
    )
}
