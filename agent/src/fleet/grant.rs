//! Grant of a drain: whether a node may leave rotation now, judged on a snapshot of its group.
//!
//! Pure: the same snapshot and time give the same answer on every node. Granted only if every rule
//! holds. A rule that cannot be judged refuses. Rules that only ask for patience come last, so that
//! a refusal for good is reported as one.

use std::fmt;

use super::{
    capacity::{Room, Shortfall},
    limits::GroupLimits,
    report::{NodeReport, NodeState},
    snapshot::{Member, Snapshot},
    turns,
};
use crate::config::Reach;

/// Difference between two nodes' clocks up to which times are compared, in milliseconds.
const SKEW_MAX_MS: u64 = 60_000;

/// Turns ahead of a node's own that are examined. More than these cannot leave anyway.
const AHEAD_MAX: usize = 32;

/// Reason for which a node may not leave now.
#[derive(Debug, Clone, PartialEq)]
pub enum GrantRefusal {
    /// The node is not in the snapshot, silent or unreadable there.
    Unlisted(String),
    /// Another agent publishes under the name of this node.
    SameName,
    /// This node's clock differs from those of most others.
    Clock {
        /// Difference in seconds, positive if this node's clock is ahead.
        ahead_secs: f64,
    },
    /// Too many others are unwell.
    Unwell {
        /// Others that are unwell, silent or unreadable.
        unwell: usize,
        /// All others.
        of: usize,
    },
    /// Load surges everywhere.
    Surge {
        /// Nodes whose load surges.
        surging: usize,
        /// Nodes that are alive.
        of: usize,
    },
    /// The node was drained again and again.
    Flapping {
        /// Drains in the last six hours.
        drains: u32,
    },
    /// No other node of the group, zone or region serves.
    Last {
        /// Kind and name of the domain.
        domain: String,
    },
    /// The others cannot carry the load.
    Capacity(Shortfall),
    /// Too large a share of the group is out.
    Share {
        /// Members that are out, silent or unreadable.
        out: usize,
        /// Members.
        of: usize,
    },
    /// Another rule does not hold while a node is out that the agents took out and will bring back.
    Until {
        /// The node that is out.
        holder: String,
        /// The other rule.
        why: Box<GrantRefusal>,
    },
    /// All slots are taken.
    Slots {
        /// Slots of the group.
        slots: usize,
        /// A node that has one.
        holder: String,
    },
    /// Another node goes first.
    Turn {
        /// A node that goes first.
        first: String,
    },
}

impl GrantRefusal {
    /// Returns whether the node only has to wait for another to return or to leave.
    pub fn is_wait(&self) -> bool {
        matches!(self, Self::Until { .. } | Self::Slots { .. } | Self::Turn { .. })
    }

    /// Returns whether the group lacks nodes, so that a person has to add some.
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::Last { .. } | Self::Capacity(_))
    }
}

impl fmt::Display for GrantRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlisted(why) => write!(f, "the group does not know this node: {why}"),
            Self::SameName => f.write_str(
                "another agent publishes under this node's name; give each node a name of its own \
                 (fleet.node)",
            ),
            Self::Clock { ahead_secs } => write!(
                f,
                "this node's clock is {:.0} s {} most others; set it by NTP",
                ahead_secs.abs(),
                if *ahead_secs > 0.0 { "ahead of" } else { "behind" }
            ),
            Self::Unwell { unwell, of } => write!(
                f,
                "{unwell} of the {of} other nodes are unwell or silent, so that this is no problem \
                 of one node; no node leaves until five minutes after"
            ),
            Self::Surge { surging, of } => write!(
                f,
                "load surges on {surging} of {of} nodes; no node leaves until five minutes after"
            ),
            Self::Flapping { drains } => {
                write!(f, "this node was drained {drains} times in six hours, and it did not last")
            }
            Self::Last { domain } => write!(f, "no other node of {domain} serves"),
            Self::Capacity(shortfall) => {
                write!(f, "the others cannot carry this node's load: {shortfall}")
            }
            Self::Share { out, of } => write!(
                f,
                "{out} of {of} nodes are out of rotation or silent, as many as fleet.max_percent \
                 allows"
            ),
            Self::Until { holder, why } => write!(f, "{holder} is out, and until it is back {why}"),
            Self::Slots { slots: 1, holder } => write!(f, "{holder} is out, and one may be"),
            Self::Slots { slots, holder } => {
                write!(f, "{slots} nodes are out, and no more may be; one is {holder}")
            }
            Self::Turn { first } => write!(f, "{first} goes first, because its end is nearer"),
        }
    }
}

/// Grants a drain of the node `own`, whose agent's run has the number `run`. `now_ms` is the time
/// since 1970 by this node's clock.
///
/// # Errors
///
/// Returns the first rule that does not hold.
pub fn grant(
    snapshot: &Snapshot,
    own: &str,
    run: u64,
    now_ms: u64,
    limits: &GroupLimits,
) -> Result<(), GrantRefusal> {
    let member = snapshot.member(own).ok_or_else(|| {
        GrantRefusal::Unlisted("it has no report of it; is this agent allowed to write?".to_owned())
    })?;
    let report = match &member.report {
        Ok(report) if member.is_alive => report,
        Ok(_) => return Err(GrantRefusal::Unlisted("its report has expired".to_owned())),
        Err(why) => return Err(GrantRefusal::Unlisted(why.clone())),
    };
    if report.run != run {
        return Err(GrantRefusal::SameName);
    }
    check_clock(snapshot, own, now_ms, limits)?;
    if turns::is_flapping(report) {
        return Err(GrantRefusal::Flapping { drains: report.recent_drains });
    }
    has_slot(snapshot, own, limits)?;
    may_leave(snapshot, report, limits).map_err(|why| match holders(snapshot, own).next() {
        Some(holder) => GrantRefusal::Until { holder: holder.node.clone(), why: Box::new(why) },
        None => why,
    })?;
    // Whoever has a slot has had its turn, and is judged again.
    if member.has_slot { Ok(()) } else { is_first(snapshot, own, now_ms, limits) }
}

/// Compares this node's clock with the median of the others'. A report is as old as the time after
/// which a node is silent, at most.
fn check_clock(
    snapshot: &Snapshot,
    own: &str,
    now_ms: u64,
    limits: &GroupLimits,
) -> Result<(), GrantRefusal> {
    let others = snapshot.members.iter().filter(|member| member.node != own);
    let mut made_ms: Vec<_> =
        others.filter_map(Member::live_report).map(|report| report.at_ms).collect();
    if made_ms.is_empty() {
        return Ok(());
    }
    let middle = made_ms.len() / 2;
    let median_ms = *made_ms.select_nth_unstable(middle).1;
    let age_max_ms = (limits.silent_after_secs * 1e3) as u64;
    let (oldest_ms, newest_ms) =
        (now_ms.saturating_sub(age_max_ms + SKEW_MAX_MS), now_ms.saturating_add(SKEW_MAX_MS));
    if (oldest_ms..=newest_ms).contains(&median_ms) {
        return Ok(());
    }
    Err(GrantRefusal::Clock { ahead_secs: (now_ms as f64 - median_ms as f64) / 1e3 })
}

/// Checks what does not depend on whose turn it is: others serve and can carry the load, and not
/// too many are out.
fn may_leave(
    snapshot: &Snapshot,
    report: &NodeReport,
    limits: &GroupLimits,
) -> Result<(), GrantRefusal> {
    let stay = || snapshot.members.iter().filter(|member| member.node != report.node);
    check_domains(&stay, report)?;
    let is_near = nearest(&stay, report, limits.reach);
    let rooms = Room::of(std::iter::once(report), stay().filter(|member| is_near(member)));
    if let Some(shortfall) = rooms.iter().find_map(|room| room.shortfall(limits.margin)) {
        return Err(GrantRefusal::Capacity(shortfall));
    }
    let out = stay().filter(|member| !member.is_in_rotation()).count();
    let of = snapshot.members.len();
    if out + 1 > limits.out_max(of) {
        return Err(GrantRefusal::Share { out, of });
    }
    Ok(())
}

/// Refuses to take out the last node of the group, and the last of a zone or region that has other
/// members. A zone with one member was made to be lost.
fn check_domains<'a, I: Iterator<Item = &'a Member>>(
    stay: &impl Fn() -> I,
    report: &NodeReport,
) -> Result<(), GrantRefusal> {
    if !stay().any(Member::is_serving) {
        return Err(GrantRefusal::Last { domain: format!("group {}", report.group) });
    }
    type NameOf = fn(&NodeReport) -> &str;
    let zone: NameOf = |report| &report.zone;
    let region: NameOf = |report| &report.region;
    for (kind, of) in [("zone", zone), ("region", region)] {
        let name = of(report);
        let is_there =
            |member: &&Member| member.report.as_ref().is_ok_and(|other| of(other) == name);
        if stay().any(|member| is_there(&member))
            && !stay().filter(is_there).any(Member::is_serving)
        {
            return Err(GrantRefusal::Last { domain: format!("{kind} {name}") });
        }
    }
    Ok(())
}

/// Returns which nodes get the load of the one that leaves: those in the nearest domain that has
/// one that serves.
fn nearest<'a, I: Iterator<Item = &'a Member>>(
    stay: &impl Fn() -> I,
    report: &NodeReport,
    reach: Reach,
) -> impl Fn(&Member) -> bool {
    let is_in = |member: &Member, reach: Reach, zone: &str, region: &str| match reach {
        Reach::Group => true,
        reach => member.report.as_ref().is_ok_and(|other| {
            other.region == region && (reach == Reach::Region || other.zone == zone)
        }),
    };
    let (zone, region) = (report.zone.clone(), report.region.clone());
    let reaches: &[Reach] = match reach {
        Reach::Zone => &[Reach::Zone, Reach::Region],
        Reach::Region => &[Reach::Region],
        Reach::Group => &[],
    };
    let has_serving = |reach: Reach| {
        stay().any(|member| member.is_serving() && is_in(member, reach, &zone, &region))
    };
    let reach = reaches.iter().copied().find(|reach| has_serving(*reach)).unwrap_or(Reach::Group);
    move |member| is_in(member, reach, &zone, &region)
}

fn has_slot(snapshot: &Snapshot, own: &str, limits: &GroupLimits) -> Result<(), GrantRefusal> {
    let mut holders = holders(snapshot, own);
    match holders.next() {
        Some(holder) if holders.count() + 1 >= limits.slots => {
            let holder = holder.node.clone();
            Err(GrantRefusal::Slots { slots: limits.slots, holder })
        }
        _ => Ok(()),
    }
}

/// Other nodes that the agents took out. A silent one without a slot only counts as gone.
fn holders<'a>(snapshot: &'a Snapshot, own: &'a str) -> impl Iterator<Item = &'a Member> {
    let is_out = |member: &&Member| {
        let report = member.live_report();
        member.has_slot || report.is_some_and(|report| report.state == NodeState::Out)
    };
    snapshot.members.iter().filter(move |member| member.node != own && is_out(member))
}

/// Checks that fewer nodes that wait go first than slots are free. A node that may not leave does
/// not hold up the others. Ends that differ by less than the age of a report are the same: each
/// node knows its own forecast sooner than those of the others, and two whose ends do not come
/// nearer would wait for each other.
fn is_first(
    snapshot: &Snapshot,
    own: &str,
    now_ms: u64,
    limits: &GroupLimits,
) -> Result<(), GrantRefusal> {
    let free = limits.slots.saturating_sub(holders(snapshot, own).count());
    let queue = turns::queue(snapshot, now_ms, limits.silent_after_secs);
    let own_end_secs = queue
        .iter()
        .find(|turn| turn.member.node == own)
        .map_or(f64::INFINITY, |turn| turn.end_secs);
    let is_sooner =
        |turn: &&turns::Turn<'_>| turn.end_secs + limits.silent_after_secs < own_end_secs;
    let ahead = queue.iter().filter(is_sooner);
    let waiting =
        ahead.filter(|turn| !turn.is_flapping && turn.member.waits()).map(|turn| turn.member);
    let mut leaving = waiting.take(AHEAD_MAX).filter(|member| {
        member.live_report().is_some_and(|report| may_leave(snapshot, report, limits).is_ok())
    });
    match leaving.nth(free.saturating_sub(1)) {
        Some(member) => Err(GrantRefusal::Turn { first: member.node.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
pub(super) mod tests;
