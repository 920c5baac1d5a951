//! Options that take effect on a reload, and those that need a restart.
//!
//! Thresholds of detectors and the whole policy change at once; open incidents, active limits and
//! collected samples stay. Secrets, keys and certificates are read for each call anyway. Everything
//! else belongs to a socket, a file, a thread or the size of a window that exists already, and
//! stays until the agent restarts.

use super::Config;

/// A new configuration, split into what can change now and what cannot.
#[derive(Debug, Clone, PartialEq)]
pub struct Reload {
    /// The running configuration with everything from the new one that can change now.
    pub applied: Config,
    /// Options and tables that differ and need a restart.
    pub needs_restart: Vec<&'static str>,
}

impl Reload {
    /// Compares `new` with the `running` configuration.
    pub fn new(running: &Config, new: &Config) -> Self {
        let mut applied = running.clone();
        applied.decide.clone_from(&new.decide);
        applied.detect.clone_from(&new.detect);
        // Windows keep their length, and timers their interval.
        applied.detect.leak.horizons.clone_from(&running.detect.leak.horizons);
        applied.detect.overload.interval = running.detect.overload.interval;
        let differs = [
            ("mode", running.mode != new.mode),
            ("[sense]", running.sense != new.sense),
            ("detect.leak.horizons", running.detect.leak.horizons != new.detect.leak.horizons),
            (
                "detect.overload.interval",
                running.detect.overload.interval != new.detect.overload.interval,
            ),
            ("[act.limit]", running.act.limit != new.act.limit),
            ("[act.shed]", running.act.shed != new.act.shed),
            ("[act.drain]", running.act.drain != new.act.drain),
            ("[act.page]", running.act.page != new.act.page),
            ("[fleet]", running.fleet != new.fleet),
            ("[kubernetes]", running.kubernetes != new.kubernetes),
            ("[serve]", running.serve != new.serve),
            ("[export]", running.export != new.export),
            ("[record]", running.record != new.record),
        ];
        let mut needs_restart: Vec<_> =
            differs.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect();
        // An option that is added without an entry above is reported nonetheless.
        let named = Config {
            mode: new.mode,
            sense: new.sense.clone(),
            detect: new.detect.clone(),
            act: new.act.clone(),
            fleet: new.fleet.clone(),
            kubernetes: new.kubernetes.clone(),
            serve: new.serve.clone(),
            export: new.export.clone(),
            record: new.record.clone(),
            ..applied.clone()
        };
        if named != *new {
            needs_restart.push("an option that is not listed here");
        }
        Self { applied, needs_restart }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn policy_and_thresholds_change_and_the_rest_is_listed() {
        let running = Config::default();
        let new = "mode = \"enforce\"\n[decide]\ncooldown = \"1h\"\n[detect.leak]\nmin_growth \
        = \"1MiB\"\n\
            horizons = [\"1m\", \"5m\"]\n[serve]\nlisten = \"127.0.0.1:9999\"\n";
        let new = parse(new, "new.toml").unwrap();
        let Reload { applied, needs_restart } = Reload::new(&running, &new);
        assert_eq!(applied.decide, new.decide);
        assert_eq!(applied.detect.leak.min_growth_bytes, 1 << 20);
        assert_eq!(applied.detect.leak.horizons, running.detect.leak.horizons);
        assert_eq!((applied.mode, applied.serve), (running.mode, running.serve));
        assert_eq!(needs_restart, ["mode", "detect.leak.horizons", "[serve]"]);
    }

    #[test]
    fn the_same_file_changes_nothing() {
        let running = Config::default();
        let Reload { applied, needs_restart } = Reload::new(&running, &running.clone());
        assert_eq!((applied, needs_restart), (running, vec![]));
    }
}
