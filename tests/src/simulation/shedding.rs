//! Shedding at the doors of overloaded hosts, by the production law.
//!
//! A host's queue is bounded once its requests would wait for a second, and given back once it was
//! calm for five.

use std::collections::BTreeMap;

use spillway_agent::act::shed::{QueueReading, ShedControl, ShedStep};

use super::hosts::{Host, QUEUE_MAX};

/// Wait to which queues are bounded: the default of `act.shed.wait`.
const WAIT_SECS: f64 = 0.1;

/// Time without overload after which it is over: the default of `detect.overload.clear_after`.
const CALM_SECS: f64 = 5.0;

/// Hosts that shed load.
#[derive(Debug, Default)]
pub struct Shedding {
    hosts: BTreeMap<usize, Shed>,
}

#[derive(Debug)]
struct Shed {
    control: ShedControl,
    calm_since: f64,
}

impl Shedding {
    /// Begins at hosts that are overloaded, and takes a step at all that shed.
    pub fn step(&mut self, t: f64, hosts: &mut [Host], overloaded: &[bool]) {
        for (nth, _) in overloaded.iter().enumerate().filter(|(_, is)| **is) {
            let host = &hosts[nth];
            self.hosts.entry(nth).or_insert_with(|| Shed {
                control: ShedControl::new(WAIT_SECS, QUEUE_MAX, Some(host.done), reading(t, host)),
                calm_since: t,
            });
        }
        self.hosts.retain(|nth, shed| {
            let host = &mut hosts[*nth];
            if !host.is_up(t) {
                return false;
            }
            if host.queue > f64::from(shed.control.length()) / 2.0 {
                shed.calm_since = t;
                shed.control.resume();
            } else if t - shed.calm_since >= CALM_SECS {
                shed.control.end(t);
            }
            let step = shed.control.step(reading(t, host));
            host.bound = shed.control.length();
            if matches!(step, ShedStep::Restore | ShedStep::Stuck) {
                host.bound = QUEUE_MAX;
                return false;
            }
            true
        });
    }
}

fn reading(t: f64, host: &Host) -> QueueReading {
    QueueReading {
        t,
        sockets: 1,
        backlog: host.queue as u32,
        accepted_total: Some(host.accepted as u64),
        refused_total: Some(host.refused as u64),
        oldest_wait_secs: Some(host.wait_secs()),
        unread: None,
    }
}
