//! Rules that every schedule has to keep, computed apart from the production code.

use spillway_agent::{
    config::Reach,
    fleet::{GroupLimits, Member, NodeState, Snapshot},
};

use super::{
    super::memory_coordinator::{Store, TTL_SECS},
    Figures,
    node::{Event, Node},
};

/// Time after the end of a time to live by which a slot must be free.
const ORPHAN_SECS: f64 = 15.0;

/// Time for which a node that may leave may wait: a turn of others, and both delays of a request.
const STUCK_SECS: f64 = 120.0;

/// Time in which a node without a reason returns: both minimum times, the time without a reason,
/// and some steps.
const UNDRAIN_SECS: f64 = 30.0 + 30.0 + 60.0 + 30.0;

/// Cool-down of the brake.
const COOL_DOWN_SECS: f64 = 300.0;

/// Observer of a schedule.
pub(super) struct Watch {
    limits: GroupLimits,
    pub(super) figures: Figures,
    /// Slots at the last step.
    had_slot: Vec<bool>,
    /// Time since which somebody might leave and nobody has; time of the last reason to brake.
    free_since: Option<f64>,
    braked_at: f64,
}

impl Watch {
    pub(super) fn new(limits: GroupLimits, nodes: usize) -> Self {
        Self {
            limits,
            figures: Figures::default(),
            had_slot: vec![false; nodes],
            free_since: None,
            braked_at: f64::NEG_INFINITY,
        }
    }

    /// Judges an event.
    pub(super) fn event(&mut self, nth: usize, event: Event, store: &Store) -> Result<(), String> {
        match event {
            Event::Refused => self.figures.refused += 1,
            Event::Operator => self.figures.by_operators += 1,
            Event::Granted => {
                self.figures.granted += 1;
                self.free_since = None;
                let seen = store.snapshot();
                self.may_leave(seen, nth).map_err(|why| format!("node {nth} left, but {why}"))?;
            }
        }
        Ok(())
    }

    /// Checks the rules of budget and capacity for one node.
    fn may_leave(&self, group: &Snapshot, nth: usize) -> Result<(), String> {
        let leaver = group.members[nth].report.as_ref().map_err(Clone::clone)?;
        let state = |member: &Member| {
            member.report.as_ref().ok().filter(|_| member.is_alive).map(|report| report.state)
        };
        let others = || group.members.iter().enumerate().filter(|(place, _)| *place != nth);
        let serves =
            |member: &Member| !member.has_slot && state(member) == Some(NodeState::Serving);
        let gone = others().filter(|(_, member)| !serves(member)).count();
        let most = ((group.members.len() as f64 * self.limits.out_share_max) as usize).max(1);
        if gone + 1 > most {
            return Err(format!("{gone} others are gone, and {most} may be"));
        }
        let drained =
            others().filter(|(_, member)| member.has_slot || state(member) == Some(NodeState::Out));
        if drained.count() + 1 > self.limits.slots {
            return Err("all slots are taken".to_owned());
        }
        let is_mate =
            |member: &Member| member.report.as_ref().is_ok_and(|report| report.zone == leaver.zone);
        let by_zone = self.limits.reach == Reach::Zone
            && others().any(|(_, member)| is_mate(member) && serves(member));
        let (mut room, mut serving) = (0.0, 0);
        for (_, member) in others().filter(|(_, member)| !by_zone || is_mate(member)) {
            let Ok(report) = &member.report else { continue };
            if serves(member) {
                room += (report.cpus.proven - report.cpus.now).max(0.0);
                serving += 1;
            }
            room -= report.given_up.map_or(0.0, |load| load.cpus);
        }
        if serving == 0 {
            return Err("no other serves".to_owned());
        }
        if room < 1.2 * leaver.cpus.now {
            return Err(format!("{room} CPUs are free for {}", leaver.cpus.now));
        }
        if others().any(|(_, member)| is_mate(member))
            && !others().any(|(_, member)| is_mate(member) && serves(member))
        {
            return Err("it is the last of its zone".to_owned());
        }
        Ok(())
    }

    /// Watches the group at the end of a step.
    pub(super) fn step(&mut self, t: f64, nodes: &[Node], store: &Store) -> Result<(), String> {
        let group = store.snapshot();
        for (nth, member) in group.members.iter().enumerate() {
            let silent_secs = store.slot_renewed_at(nth).map(|renewed| t - renewed);
            if silent_secs.is_some_and(|secs| secs > TTL_SECS + ORPHAN_SECS) {
                return Err(format!("node {nth} holds a slot that nobody renews"));
            }
            let had = std::mem::replace(&mut self.had_slot[nth], member.has_slot);
            if had && !member.has_slot && !member.is_alive {
                self.figures.orphaned += 1;
            }
            if nodes[nth].idle_out_secs > UNDRAIN_SECS {
                return Err(format!("node {nth} is out without a reason"));
            }
        }
        let dead = |member: &&Member| {
            let is_out = member.report.as_ref().is_ok_and(|report| !report.state.is_in_rotation());
            !member.is_alive && !is_out
        };
        let dead = group.members.iter().filter(dead).count();
        // The share is of the others, so that one fewer counts.
        if dead as f64 > 0.2 * (group.members.len() - 1) as f64 {
            self.braked_at = t;
        }
        let might_leave = |nth: usize, node: &Node| {
            let report = group.members[nth].report.as_ref();
            node.asks_in_peace(t)
                && report.is_ok_and(|report| report.recent_drains < 3)
                && self.may_leave(group, nth).is_ok()
        };
        let is_free = t - self.braked_at > COOL_DOWN_SECS
            && nodes.iter().enumerate().any(|(nth, node)| might_leave(nth, node));
        self.free_since = is_free.then(|| self.free_since.unwrap_or(t));
        match self.free_since {
            Some(since) if t - since > STUCK_SECS => {
                let asking = nodes.iter().enumerate().filter(|(_, node)| node.asks_in_peace(t));
                let asking: Vec<_> = asking.map(|(nth, node)| (nth, node.permit())).collect();
                Err(format!("somebody may leave, and nobody does: {asking:?}"))
            }
            _ => Ok(()),
        }
    }
}
