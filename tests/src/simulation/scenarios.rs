//! Scenarios: the load, the fault and the size of each.
//!
//! A scenario is a handful of parameters, so that a sweep can vary them one by one.

use super::hosts::Leaker;

const MINUTE: f64 = 60.0;
const HOUR: f64 = 3_600.0;
const DAY: f64 = 86_400.0;

/// One scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Name on the command line.
    pub name: &'static str,
    /// Story in a sentence.
    pub about: &'static str,
    /// Number of hosts, unless `--nodes` says otherwise.
    pub nodes: usize,
    /// Simulated time, in seconds.
    pub secs: f64,
    /// Time between two scans of a host by its agent, in seconds.
    pub scan_secs: f64,
    /// Mean load at the start, as a share of what all hosts can do.
    pub load: f64,
    /// Half of the difference between the highest and the lowest load of a day.
    pub swing: f64,
    /// Surge on top.
    pub surge: Option<Surge>,
    /// Leak.
    pub leak: Option<Leak>,
    /// Time at which a third of the hosts, one zone, dies, and at which it is back.
    pub zone_loss: Option<(f64, f64)>,
    /// Time between two deploys, in seconds; each restarts every host's service, one a second.
    pub deploy_secs: Option<f64>,
    /// Time for which a host that ran out of memory is gone, in seconds.
    pub revive_secs: f64,
    /// Load that each host has carried well in recent days, as a share of what it can do.
    pub proven: f64,
    /// Share of the group that may have a slot at a time; one host always may.
    pub slots: f64,
}

/// Surge of load.
#[derive(Debug, Clone, Copy)]
pub struct Surge {
    /// Beginning and end, and the time that each takes.
    pub from: f64,
    pub until: f64,
    pub ramp: f64,
    /// Multiple of the usual load.
    pub factor: f64,
}

/// Leak on hosts.
#[derive(Debug, Clone, Copy)]
pub struct Leak {
    /// Process that leaks.
    pub of: Leaker,
    /// Time at which the first host's leak begins, and at which its cause is removed everywhere.
    pub from: f64,
    pub until: f64,
    /// Time over which the hosts' leaks begin one by one.
    pub spread_secs: f64,
    /// Time from a leak's beginning to the end of the host's memory.
    pub lasts_secs: f64,
    /// Difference between the rates of any two hosts at most, as a share.
    pub rates: f64,
    /// Share of the hosts that leak.
    pub share: f64,
}

impl Scenario {
    /// Load at a time, as a share of what all hosts can do.
    pub fn load_at(&self, t: f64) -> f64 {
        let day = -libm::cos(t / DAY * std::f64::consts::TAU) * self.swing;
        let surge = self.surge.map_or(1.0, |surge| surge.at(t));
        (self.load + day) * surge
    }

    /// Scenario of this name.
    pub fn named(name: &str) -> Option<Self> {
        all().into_iter().find(|scenario| scenario.name == name)
    }
}

impl Surge {
    fn at(self, t: f64) -> f64 {
        let up = ((t - self.from) / self.ramp).clamp(0.0, 1.0);
        let down = ((self.until + self.ramp - t) / self.ramp).clamp(0.0, 1.0);
        1.0 + (self.factor - 1.0) * up.min(down)
    }
}

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    let quiet = Scenario {
        name: "quiet",
        about: "",
        nodes: 1_000,
        secs: 6.0 * HOUR,
        scan_secs: 10.0,
        load: 0.6,
        swing: 0.0,
        surge: None,
        leak: None,
        zone_loss: None,
        deploy_secs: None,
        revive_secs: 5.0 * MINUTE,
        proven: 0.75,
        slots: 0.05,
    };
    let collector = Leak {
        of: Leaker::Collector,
        from: HOUR,
        until: 5.5 * HOUR,
        spread_secs: 0.0,
        lasts_secs: 2.5 * HOUR,
        rates: 0.04,
        share: 1.0,
    };
    vec![
        Scenario {
            name: "ebs-2012",
            about: "a collection server dies, and the collector agent on every host leaks with \
                    each retry, all on one schedule",
            leak: Some(collector),
            ..quiet.clone()
        },
        Scenario {
            name: "deploy-leak",
            about: "a new release leaks on all hosts, deployed within ten minutes",
            leak: Some(Leak {
                of: Leaker::Service,
                spread_secs: 10.0 * MINUTE,
                rates: 0.1,
                ..collector
            }),
            revive_secs: 90.0,
            ..quiet.clone()
        },
        Scenario {
            name: "retry-storm",
            about: "three minutes of 1.8 times the load make clients retry",
            secs: 2.0 * HOUR,
            surge: Some(Surge { from: HOUR, until: HOUR + 180.0, ramp: 5.0, factor: 1.8 }),
            ..quiet.clone()
        },
        Scenario {
            name: "zone-loss",
            about: "one of three zones dies for an hour while a tenth of the hosts leaks",
            load: 0.55,
            zone_loss: Some((2.5 * HOUR, 3.5 * HOUR)),
            leak: Some(Leak { share: 0.1, rates: 0.4, ..collector }),
            ..quiet.clone()
        },
        Scenario {
            name: "flash-crowd",
            about: "load doubles everywhere for an hour, and no host is at fault",
            secs: 4.0 * HOUR,
            load: 0.42,
            surge: Some(Surge { from: 1.5 * HOUR, until: 2.5 * HOUR, ramp: 300.0, factor: 2.0 }),
            ..quiet.clone()
        },
        Scenario {
            name: "healthy-month",
            about: "30 days of daily load with deploys and caches that fill, without a fault",
            nodes: 100,
            secs: 30.0 * DAY,
            scan_secs: 60.0,
            load: 0.45,
            swing: 0.2,
            deploy_secs: Some(3.0 * DAY + HOUR),
            ..quiet
        },
    ]
}
