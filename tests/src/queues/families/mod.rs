//! The families: every mechanism that makes connections wait, each with its part of the corpus.
//!
//! The split was made by mechanism, before anything was scored: each has two variants that differ
//! in how it comes about, one for tuning and one held out, alternately. Changing a family's part
//! invalidates published figures. A family defines the events; the simulation decides whether they
//! are an overload, and since when. A test compares that with the family's expectation.

mod calm;
mod draw;
mod load;
mod odd;
mod slow;

use super::plan::Plan;
use crate::corpus::{
    Part::{self, HeldOut, Tuning},
    rng::Rng,
};

/// Mechanism.
pub struct Family {
    /// Name of the family.
    pub name: &'static str,
    /// Part that its runs belong to.
    pub part: Part,
    /// Number of runs in the corpus; seeds count from 0.
    pub runs: u64,
    /// True if it is meant to be an overload.
    pub overloads: bool,
    /// Description in one sentence.
    pub why: &'static str,
    pub(super) plan: fn(&mut Rng) -> Plan,
}

/// Runs of an overloaded family: eleven families make over 300 held-out overloads, enough to
/// distinguish 0.97 from 0.94.
const OVERLOADS: u64 = 30;

/// Runs of a healthy family: at about half an hour each they make ten held-out days.
const HEALTHY: u64 = 40;

const fn overload(
    name: &'static str,
    part: Part,
    plan: fn(&mut Rng) -> Plan,
    why: &'static str,
) -> Family {
    Family { name, part, runs: OVERLOADS, overloads: true, why, plan }
}

const fn healthy(
    name: &'static str,
    part: Part,
    plan: fn(&mut Rng) -> Plan,
    why: &'static str,
) -> Family {
    Family { name, part, runs: HEALTHY, overloads: false, why, plan }
}

/// Families in pairs: the two variants of a mechanism are adjacent.
pub const FAMILIES: &[Family] = &[
    overload(
        "ramp-linear",
        Tuning,
        load::linear_ramp,
        "load ramps up to twice an event loop's capacity",
    ),
    overload(
        "ramp-compound",
        HeldOut,
        load::compound_ramp,
        "load grows by shares of itself, in clumps, on a pool",
    ),
    overload(
        "step-poisson",
        HeldOut,
        load::poisson_step,
        "load on a pool jumps to up to three times its capacity",
    ),
    overload(
        "step-regular",
        Tuning,
        load::regular_step,
        "a balancer moves the load of a lost peer to an event loop",
    ),
    overload(
        "slow-cpu-neighbour",
        Tuning,
        slow::noisy_neighbour,
        "a neighbour takes the CPU from an event loop",
    ),
    overload(
        "slow-cpu-quota",
        HeldOut,
        slow::quota,
        "a CPU quota halts an event loop in every tenth of a second",
    ),
    overload(
        "slow-memory-swap",
        HeldOut,
        slow::swapping,
        "the working set of a pool falls out of memory in pieces",
    ),
    overload(
        "slow-memory-reclaim",
        Tuning,
        slow::reclaim,
        "an event loop stalls on reclaim, ever longer",
    ),
    overload(
        "slow-dependency",
        Tuning,
        slow::dependency,
        "all workers suddenly wait for a dependency",
    ),
    overload("slow-lock", HeldOut, slow::lock_convoy, "workers wait ever longer for a lock"),
    overload(
        "stopped",
        HeldOut,
        slow::stopped,
        "an event loop hangs, at any load down to two connections a second",
    ),
    overload(
        "stopped-workers",
        Tuning,
        slow::stopped_by_workers,
        "workers hang one after another until none is left",
    ),
    overload(
        "stopped-trickle",
        Tuning,
        slow::stopped_at_night,
        "a server with almost no clients hangs",
    ),
    overload(
        "stopped-spell",
        HeldOut,
        slow::stopped_for_a_while,
        "a server with few clients halts for a while, then goes on",
    ),
    overload(
        "one-stuck-of-eight",
        Tuning,
        slow::one_stuck_of_eight,
        "one of eight workers that share an address hangs",
    ),
    overload(
        "one-busy-of-many",
        HeldOut,
        slow::one_busy_of_many,
        "one of some workers is kept busy by a long request",
    ),
    overload(
        "flat-loop",
        HeldOut,
        load::flat_loop,
        "a job with more connections than can be served never pauses",
    ),
    overload(
        "flat-pool",
        Tuning,
        load::flat_pool,
        "more clients than workers, each in a loop of wait and think",
    ),
    overload(
        "storm-slowdown",
        Tuning,
        load::storm_after_slowdown,
        "clients retry after a slowdown and sustain the overload",
    ),
    overload(
        "storm-crowd",
        HeldOut,
        load::storm_after_crowd,
        "clients retry after a crowd and sustain the overload",
    ),
    overload(
        "small-backlog",
        HeldOut,
        load::small_backlog,
        "a backlog of 1 to 5 drops at an otherwise harmless load",
    ),
    overload(
        "small-backlog-clumps",
        Tuning,
        load::small_backlog_clumps,
        "a backlog of 1 to 5 and browsers that open many at once",
    ),
    healthy("steady-loop", Tuning, calm::steady_loop, "steady load on an event loop, of any speed"),
    healthy(
        "steady-pool",
        HeldOut,
        calm::steady_pool,
        "steady load on a pool of workers, of any speed",
    ),
    healthy(
        "burst-at-once",
        HeldOut,
        calm::burst_at_once,
        "bursts of up to what the backlog holds, within 10 ms",
    ),
    healthy(
        "burst-spread",
        Tuning,
        calm::burst_spread,
        "bursts of up to what the backlog holds, over up to 100 ms",
    ),
    healthy(
        "crowd-surge",
        Tuning,
        calm::crowd_surge,
        "a crowd within the capacity arrives within seconds",
    ),
    healthy(
        "crowd-at-once",
        HeldOut,
        calm::crowd_at_once,
        "a crowd within the capacity arrives at once",
    ),
    healthy(
        "collections-regular",
        HeldOut,
        odd::collections,
        "collections of up to 200 ms every 2 to 5 s",
    ),
    healthy(
        "collections-mixed",
        Tuning,
        odd::young_and_full,
        "many short collections, and full ones at odd times",
    ),
    healthy(
        "turns-ticking",
        Tuning,
        odd::ticking,
        "accepts all waiting connections every 10 to 50 ms",
    ),
    healthy(
        "turns-odd",
        HeldOut,
        odd::long_turns,
        "accepts all waiting connections in turns of 5 to 50 ms",
    ),
    healthy("day-wave", HeldOut, calm::day_wave, "load follows a wave"),
    healthy("day-office", Tuning, calm::day_office, "load follows office hours"),
    healthy(
        "keepalives-idle",
        Tuning,
        calm::idle_quiet,
        "thousands of idle connections, almost no arrivals",
    ),
    healthy(
        "keepalives-anew",
        HeldOut,
        calm::idle_that_reconnects,
        "thousands of idle connections, some of which reconnect",
    ),
    healthy(
        "restart",
        HeldOut,
        odd::restarts,
        "restarts: a second without a listener, counters reset",
    ),
    healthy(
        "reload",
        Tuning,
        odd::reloads,
        "reloads: the new socket is there before the old one goes",
    ),
    healthy(
        "wrap-loop",
        Tuning,
        odd::wrapping,
        "counters wrap; in half of the runs one burst overflows, once",
    ),
    healthy(
        "wrap-pool",
        HeldOut,
        odd::wrapping_pool,
        "counters of a pool wrap; in half of the runs one burst overflows, once",
    ),
    healthy(
        "held-up",
        HeldOut,
        odd::held_up,
        "a busy server, and an agent that stalls for 2 s now and then",
    ),
    healthy(
        "late-looks",
        Tuning,
        odd::late_looks,
        "a busy server, and an agent whose timers are late",
    ),
    healthy("timers-cron", Tuning, calm::cron, "jobs on the minute"),
    healthy("timers-scrapers", HeldOut, calm::scrapers, "scrapers, each by its own clock"),
    healthy(
        "backlog-one",
        HeldOut,
        calm::backlog_one,
        "a backlog of 1 that never overflows: few, even arrivals",
    ),
    healthy(
        "backlog-one-pooled",
        Tuning,
        calm::backlog_one_pooled,
        "a backlog of 1 and two clients that wait for each response",
    ),
    healthy(
        "eight-by-turns",
        Tuning,
        odd::eight_by_turns,
        "eight workers that share an address collect one after another",
    ),
    healthy(
        "many-odd-times",
        HeldOut,
        odd::many_at_odd_times,
        "workers that share an address collect at odd times",
    ),
];
