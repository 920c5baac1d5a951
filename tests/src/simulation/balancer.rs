//! Balancer: sends each request to a host in rotation, all alike, and checks the hosts' health.
//!
//! A host that fails three checks in a row gets no requests until it passes two. If fewer than half
//! of the hosts that are not drained pass, all of these get requests, as in Envoy's panic mode.

use super::hosts::{Host, TIMEOUT_SECS};

/// Checks in a row that take a host out of rotation, and back.
const FALL: u8 = 3;
const RISE: u8 = 2;

/// Share of the hosts that must be healthy for health to count.
const PANIC_SHARE: f64 = 0.5;

/// State of a host at the balancer.
#[derive(Debug, Clone, Copy, Default)]
struct Checked {
    is_drained: bool,
    is_out: bool,
    /// Checks in a row that contradict `is_out`.
    against: u8,
}

/// Balancer in front of all hosts.
#[derive(Debug)]
pub struct Balancer {
    hosts: Vec<Checked>,
    targets: Vec<usize>,
}

impl Balancer {
    /// Creates a balancer with all hosts in rotation.
    pub fn new(hosts: usize) -> Self {
        Self { hosts: vec![Checked::default(); hosts], targets: (0..hosts).collect() }
    }

    /// Hosts that get requests.
    pub fn targets(&self) -> &[usize] {
        &self.targets
    }

    /// Share of the hosts that get none.
    pub fn out_share(&self) -> f64 {
        1.0 - self.targets.len() as f64 / self.hosts.len() as f64
    }

    /// Takes a host out of rotation, or puts it back, at the agent's or the operator's request.
    pub fn set_drained(&mut self, nth: usize, is_drained: bool) {
        if self.hosts[nth].is_drained != is_drained {
            self.hosts[nth].is_drained = is_drained;
            self.retarget();
        }
    }

    /// Checks all hosts.
    pub fn check(&mut self, t: f64, hosts: &[Host]) {
        let mut is_changed = false;
        for (checked, host) in self.hosts.iter_mut().zip(hosts) {
            let passes = host.is_up(t) && host.wait_secs() <= TIMEOUT_SECS;
            if passes != checked.is_out {
                checked.against = 0;
                continue;
            }
            checked.against += 1;
            if checked.against >= if checked.is_out { RISE } else { FALL } {
                (checked.is_out, checked.against) = (!checked.is_out, 0);
                is_changed = true;
            }
        }
        if is_changed {
            self.retarget();
        }
    }

    fn retarget(&mut self) {
        let takes_work = |checked: &&Checked| !checked.is_drained;
        let count = self.hosts.iter().filter(takes_work).count();
        let healthy = self.hosts.iter().filter(takes_work).filter(|host| !host.is_out).count();
        let panics = (healthy as f64) < PANIC_SHARE * count as f64;
        let gets = |checked: &Checked| !checked.is_drained && (panics || !checked.is_out);
        self.targets.clear();
        self.targets.extend((0..self.hosts.len()).filter(|nth| gets(&self.hosts[*nth])));
    }
}
