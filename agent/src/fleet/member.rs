//! This node as a member of its group: publishes its report, judges whether it may leave, and takes
//! and returns its slot.
//!
//! Time is an argument, and everything else comes in as [`NodeFacts`], so that tests and
//! simulations drive it. A slot is taken only if the grant holds on a snapshot from before and on
//! one from after. Whatever a coordinator does, a node that is out of rotation says so, and one
//! that is to return returns: a slot that cannot be given back frees itself.
//!
//! Cold start: no report, no permit. Failure: without a complete answer there is no permit, and
//! the reason is told.

use std::collections::VecDeque;

use super::{
    coordinator::{Acquired, Coordinator, CoordinatorError, PageSubject},
    grant::{GrantRefusal, grant},
    group_outlook::group_outlook,
    limits::GroupLimits,
    margins::Margins,
    report::{ForecastEnd, GivenUpLoad, Load, NodeReport, NodeState},
    shared_page::SharedPage,
    snapshot::Snapshot,
    storm_brake::StormBrake,
    surge::SurgeMeter,
    turns,
};
use crate::sense::{Fact, FleetFact};

/// Reports in the time after which a node is silent: one may be lost. With the default of 45 s,
/// 10,000 nodes write 500 times a second at most.
const REPORTS_PER_SILENCE: f64 = 2.25;

/// Time between two looks at a small group, in seconds.
const LOOK_SECS: f64 = 60.0;

/// Time between two looks for each member of a large group, in seconds, so that the load of a
/// coordinator does not grow with the square of the group.
const LOOK_SECS_PER_MEMBER: f64 = 0.3;

/// Time between two requests for a slot for each member, likewise: a request reads all reports.
const REQUEST_SECS_PER_MEMBER: f64 = 0.003;

/// Time between two requests for each waiting node whose turn is before, in seconds: a drain takes
/// longer than that. Otherwise a group that waits for one slot would read itself all the time.
const REQUEST_SECS_PER_TURN: f64 = 2.0;

/// Maximum of that time, in seconds.
const REQUEST_SECS_MAX: f64 = 300.0;

/// Time for which the load that a leaving node gave up may be missing from the reports of the
/// others, as a multiple of the time between two reports.
const GIVEN_UP_REPORTS: f64 = 2.0;

/// Time for which a drain counts as recent, in seconds.
const RECENT_SECS: f64 = 6.0 * 3_600.0;

/// Time that a node needs out of rotation, unless the configuration says another, in seconds.
const TURN_SECS: f64 = 600.0;

/// Names of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNames {
    /// Node.
    pub node: String,
    /// Group.
    pub group: String,
    /// Zone; empty if there is one.
    pub zone: String,
    /// Region; empty if there is one.
    pub region: String,
}

/// Place of this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rotation {
    /// In rotation.
    #[default]
    In,
    /// Out of rotation by the agent.
    Out,
    /// Out of rotation by an operator.
    OutByOperator,
}

/// State of this node, as its agent knows it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeFacts {
    /// Place of the node.
    pub rotation: Rotation,
    /// Set if the agent wants to take the node out.
    pub wants_out: bool,
    /// Set if a service of the node is overloaded.
    pub is_unwell: bool,
    /// CPUs in use.
    pub cpus: Load,
    /// Requests answered per second; `None` if unknown.
    pub requests: Option<Load>,
    /// Requests in flight; `None` if unknown.
    pub in_flight: Option<u64>,
    /// Wait of the oldest connection in a queue, in microseconds.
    pub queue_wait_us: Option<u64>,
    /// Forecast end, from now.
    pub end: Option<ForecastEnd>,
    /// Subject of the page for that leak, if other nodes can have it too.
    pub page: Option<PageSubject>,
}

/// Permission to leave rotation.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Permit {
    /// The node has not asked.
    #[default]
    NotAsked,
    /// The node has a slot.
    Granted,
    /// The node has to wait for others, for this reason.
    Waiting(String),
    /// The node has to stay, for this reason.
    Refused(String),
}

/// This node in its group.
pub struct FleetMember {
    coordinator: Box<dyn Coordinator>,
    names: NodeNames,
    limits: GroupLimits,
    /// Number of this run.
    run: u64,
    brake: StormBrake,
    /// Report that was published last, and when.
    published: Option<(f64, NodeReport)>,
    /// Time of the last look at the group, and the size that it had.
    looked: Option<(f64, usize)>,
    /// Time before which no slot is requested again.
    request_after: f64,
    has_slot: bool,
    permit: Permit,
    /// Last load in rotation, and until when it may be missing from the reports of others.
    given_up: Option<(f64, GivenUpLoad)>,
    in_rotation: GivenUpLoad,
    /// Starts of the recent drains.
    drains: VecDeque<f64>,
    surge: SurgeMeter,
    is_surging: bool,
    turn_secs: f64,
    is_turn: bool,
    margins: Option<Margins>,
    /// Set if this node reports the outlook for the group.
    reports_outlook: bool,
    /// Outlook that was made last, until it is taken.
    outlook: Option<FleetFact>,
    page: SharedPage,
    problem: Option<String>,
}

impl FleetMember {
    /// Creates a member. `run` is a random number of this run of the agent.
    pub fn new(
        coordinator: Box<dyn Coordinator>,
        names: NodeNames,
        limits: GroupLimits,
        run: u64,
    ) -> Self {
        Self {
            coordinator,
            names,
            limits,
            run,
            brake: StormBrake::default(),
            published: None,
            looked: None,
            request_after: f64::NEG_INFINITY,
            has_slot: false,
            permit: Permit::NotAsked,
            given_up: None,
            in_rotation: GivenUpLoad::default(),
            drains: VecDeque::new(),
            surge: SurgeMeter::default(),
            is_surging: false,
            turn_secs: TURN_SECS,
            is_turn: false,
            margins: None,
            reports_outlook: false,
            outlook: None,
            page: SharedPage::default(),
            problem: None,
        }
    }

    /// Sets the time that a node needs out of rotation to be healed.
    pub fn with_turns(self, turn_secs: f64) -> Self {
        Self { turn_secs, ..self }
    }

    /// Returns whether the node has to leave now, so that those after it leave in time.
    pub fn is_turn(&self) -> bool {
        self.is_turn
    }

    /// Ends the membership of a node in rotation whose agent stops. Without an answer of the
    /// coordinator the others count the node as silent for a while.
    pub fn leave(&mut self) {
        if self.problem.is_some() {
            return;
        }
        if let Err(error) = self.coordinator.leave() {
            tracing::debug!(%error, "the group counts this node as silent for a while");
        }
    }

    /// Latest permission.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Latest margins of the group; `None` if they are unknown.
    pub fn margins(&self) -> Option<&Margins> {
        self.margins.as_ref()
    }

    /// Takes the facts that this node has made since the last call: the outlook for the group, and
    /// who pages for this node's leak.
    pub fn take_facts(&mut self) -> impl Iterator<Item = Fact> + use<> {
        let outlook = self.outlook.take().map(Fact::Fleet);
        outlook.into_iter().chain(self.page.take_fact().map(Fact::Pager))
    }

    /// Reason for which the node is not coordinated now; `None` if it is.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Time between two reports, in seconds.
    pub fn report_secs(&self) -> f64 {
        self.limits.silent_after_secs / REPORTS_PER_SILENCE
    }

    /// Publishes, looks, asks and returns what is due at `now`, on any monotonic clock in seconds.
    /// `unix_ms` is the time since 1970. Blocks for as long as the coordinator's calls do.
    pub fn step(&mut self, now: f64, unix_ms: u64, facts: &NodeFacts) {
        if facts.rotation == Rotation::In && !facts.wants_out {
            // A slot that cannot be given back now is no permission for the next time.
            self.permit = Permit::NotAsked;
        }
        self.follow(now, facts);
        let report = self.report(now, unix_ms, facts);
        let is_published = self.publish(now, report);
        if let Err(error) = is_published {
            return self.fail(now, facts, &error);
        }
        if self.coordinator.has_lost_slot() {
            // Another node may have it now.
            (self.has_slot, self.permit) = (false, Permit::NotAsked);
        }
        let done = if facts.rotation == Rotation::Out {
            // The report has put the slot of an earlier run back, or one that expired.
            (self.has_slot, self.permit) = (true, Permit::Granted);
            self.look(now, unix_ms)
        } else if !facts.wants_out {
            self.give_back().and_then(|()| self.look(now, unix_ms))
        } else if !self.has_slot || self.permit != Permit::Granted {
            self.request(now, unix_ms)
        } else {
            Ok(())
        };
        match done.and_then(|()| self.share_page(now, facts)) {
            Ok(()) => self.problem = None,
            Err(error) => self.fail(now, facts, &error),
        }
    }

    /// Follows the node's way out and back, and its usual load.
    fn follow(&mut self, now: f64, facts: &NodeFacts) {
        let was_in = self.published.as_ref().is_none_or(|(_, last)| last.state.is_in_rotation());
        if facts.rotation == Rotation::In {
            self.in_rotation =
                GivenUpLoad { cpus: facts.cpus.now, requests: facts.requests.map(|load| load.now) };
            self.given_up = None;
        } else if was_in && self.published.is_some() {
            self.given_up = Some((now + GIVEN_UP_REPORTS * self.report_secs(), self.in_rotation));
            if facts.rotation == Rotation::Out {
                self.drains.push_back(now);
            }
        }
        self.given_up.take_if(|(until, _)| now >= *until);
        while self.drains.front().is_some_and(|start| now - start >= RECENT_SECS) {
            self.drains.pop_front();
        }
        self.is_surging = self.surge.note(now, facts.cpus.now);
        // Without a forecast nothing is due.
        self.is_turn &= facts.end.is_some();
    }

    fn report(&self, now: f64, unix_ms: u64, facts: &NodeFacts) -> NodeReport {
        let NodeNames { node, group, zone, region } = &self.names;
        NodeReport {
            zone: zone.clone(),
            region: region.clone(),
            state: match facts.rotation {
                Rotation::In if facts.is_unwell => NodeState::Unwell,
                Rotation::In => NodeState::Serving,
                Rotation::Out => NodeState::Out,
                Rotation::OutByOperator => NodeState::OutByOperator,
            },
            waits: facts.wants_out && facts.rotation == Rotation::In,
            is_surging: self.is_surging,
            cpus: facts.cpus,
            requests: facts.requests,
            given_up: self.given_up.filter(|(until, _)| now < *until).map(|(_, load)| load),
            in_flight: facts.in_flight,
            queue_wait_us: facts.queue_wait_us,
            recent_drains: u32::try_from(self.drains.len()).unwrap_or(u32::MAX),
            end: facts.end.clone(),
            ..NodeReport::new(node, group, self.run, unix_ms)
        }
    }

    /// Publishes a report if one is due, or if the node's place, wish or leak has changed.
    fn publish(&mut self, now: f64, report: NodeReport) -> Result<(), CoordinatorError> {
        let is_due = self.published.as_ref().is_none_or(|(then, last)| {
            now - then >= self.report_secs()
                || last.state != report.state
                || last.waits != report.waits
                || cause(last) != cause(&report)
        });
        if is_due {
            self.coordinator.publish(&report)?;
            self.published = Some((now, report));
        }
        Ok(())
    }

    /// Claims the page for this node's leak, or gives it up.
    fn share_page(&mut self, now: f64, facts: &NodeFacts) -> Result<(), CoordinatorError> {
        let Self { page, names, coordinator, .. } = self;
        page.step(now, &names.group, facts.page.as_ref(), &mut **coordinator)
    }

    fn give_back(&mut self) -> Result<(), CoordinatorError> {
        self.permit = Permit::NotAsked;
        if self.has_slot {
            self.coordinator.release()?;
            self.has_slot = false;
        }
        Ok(())
    }

    /// Reads the group for the margins and the turns, rarely. One node looks more often than the
    /// others, for all of them.
    fn look(&mut self, now: f64, unix_ms: u64) -> Result<(), CoordinatorError> {
        let is_due = self.looked.is_none_or(|(then, members)| {
            let each_secs = if self.reports_outlook { 0.0 } else { LOOK_SECS_PER_MEMBER };
            now - then >= LOOK_SECS.max(members as f64 * each_secs)
        });
        if is_due {
            self.read(now, unix_ms)?;
        }
        Ok(())
    }

    fn read(&mut self, now: f64, unix_ms: u64) -> Result<Option<Snapshot>, CoordinatorError> {
        let snapshot = self.coordinator.snapshot()?;
        self.looked = Some((now, snapshot.as_ref().map_or(0, |group| group.members.len())));
        self.margins = snapshot.as_ref().map(Margins::of);
        if let Some(group) = &snapshot {
            self.page.look(now, group, &self.names.node);
        }
        let (NodeNames { node: own, group: name, .. }, limits) = (&self.names, &self.limits);
        self.outlook = snapshot
            .as_ref()
            .and_then(|group| group_outlook(group, own, name, unix_ms, limits, self.turn_secs));
        self.reports_outlook = self.outlook.is_some();
        let starts_in = snapshot
            .as_ref()
            .and_then(|group| turns::starts_in(group, own, unix_ms, limits, self.turn_secs));
        self.is_turn = starts_in.is_some_and(|secs| turns::is_due(secs, self.turn_secs));
        Ok(snapshot)
    }

    /// Judges the group, and takes a slot if this node may leave.
    fn request(&mut self, now: f64, unix_ms: u64) -> Result<(), CoordinatorError> {
        if now < self.request_after {
            return Ok(());
        }
        let snapshot = self.read(now, unix_ms)?;
        let members = snapshot.as_ref().map_or(0, |group| group.members.len());
        let pause_secs = self.report_secs().max(members as f64 * REQUEST_SECS_PER_MEMBER);
        self.request_after = now + pause_secs;
        if let Err(refusal) = self.judge(now, unix_ms, snapshot.as_ref()) {
            self.permit = refused(&refusal);
            self.request_after += snapshot.map_or(0.0, |group| self.wait_secs(&group, unix_ms));
            return Ok(());
        }
        match self.coordinator.acquire(snapshot.as_ref())? {
            Acquired::Taken => {}
            Acquired::Denied(why) => {
                self.permit = Permit::Waiting(why);
                return Ok(());
            }
            Acquired::Stale => {
                let why = "another node left at this moment; judging again".to_owned();
                (self.permit, self.request_after) = (Permit::Waiting(why), f64::NEG_INFINITY);
                return Ok(());
            }
        }
        self.has_slot = true;
        // Reports that changed in between are in this one.
        let after = self.read(now, unix_ms);
        let holds = match &after {
            Ok(after) => self.judge(now, unix_ms, after.as_ref()),
            Err(error) => Err(GrantRefusal::Unlisted(error.to_string())),
        };
        match holds {
            Ok(()) => self.permit = Permit::Granted,
            Err(refusal) => {
                self.permit = refused(&refusal);
                self.has_slot = self.coordinator.release().is_err();
            }
        }
        after.map(drop)
    }

    /// Further time until a refused request is worth another read of the group: the nodes before it
    /// have their turn first.
    fn wait_secs(&self, group: &Snapshot, unix_ms: u64) -> f64 {
        let (own, age_max_secs) = (&self.names.node, self.limits.silent_after_secs);
        let place = turns::place(group, own, unix_ms, age_max_secs);
        place.map_or(0.0, |(ahead, end_secs)| {
            let slots = self.limits.slots.max(1) as f64;
            let wait_secs = ahead as f64 / slots * REQUEST_SECS_PER_TURN;
            // A node without a forecast, and one that ends soon, keep asking.
            wait_secs.min(REQUEST_SECS_MAX).min(end_secs / 4.0)
        })
    }

    fn judge(
        &mut self,
        now: f64,
        unix_ms: u64,
        snapshot: Option<&Snapshot>,
    ) -> Result<(), GrantRefusal> {
        // Without reports the coordinator's count decides.
        let Some(snapshot) = snapshot else { return Ok(()) };
        if let Some(reason) = self.brake.note(now, snapshot, &self.names.node) {
            return Err(reason);
        }
        grant(snapshot, &self.names.node, self.run, unix_ms, &self.limits)
    }

    /// Takes a failure of the coordinator: whoever wants to leave stays, and a node that is out
    /// stays out. A slot that was not renewed for long enough is another node's by now.
    fn fail(&mut self, now: f64, facts: &NodeFacts, error: &CoordinatorError) {
        self.problem = Some(error.to_string());
        let renewed = self.published.as_ref().map(|(then, _)| *then);
        let is_kept =
            self.has_slot && renewed.is_some_and(|then| now - then < self.limits.silent_after_secs);
        if facts.wants_out && facts.rotation == Rotation::In && !is_kept {
            self.permit = Permit::Refused(error.to_string());
        }
    }
}

/// Cause of a node's forecast end.
fn cause(report: &NodeReport) -> Option<&str> {
    report.end.as_ref().map(|end| &*end.cause)
}

fn refused(refusal: &GrantRefusal) -> Permit {
    if refusal.is_wait() {
        Permit::Waiting(refusal.to_string())
    } else {
        Permit::Refused(refusal.to_string())
    }
}

#[cfg(test)]
mod tests;
