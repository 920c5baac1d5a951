//! Rules for combinations of options that cannot work.
//!
//! Each rule reads the complete [`Config`], so an option that was left out takes part with its
//! default. A rule names its options: a conflict is reported at the first one that the operator
//! set, and is not reported if one of them is already refused, because the rule would judge a
//! default that was not meant.

use std::{net::SocketAddr, time::Duration};

use super::{
    choice::{Choice as _, FleetBackend},
    error::ConfigProblem,
    options::{Config, LeakConfig},
    units::{duration_text, size_text},
    url::{self, Plain},
};

/// A conflict between options.
#[derive(Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Paths of the options, the more likely mistake first.
    pub keys: &'static [&'static str],
    /// Description with the values.
    pub message: String,
    /// Advice.
    pub hint: String,
}

/// Minimum number of sampling intervals in `sustain` and `clear_after`: less means the same as a
/// single sample.
const SUSTAIN_INTERVALS_MIN: u32 = 2;

/// Returns all conflicts in `config`.
pub fn conflicts(config: &Config) -> Vec<Conflict> {
    [
        horizon_count(config),
        horizon_order(config),
        horizon_resolution(config),
        sustain(config),
        clear_after(config),
        drain_after_limit(config),
        backstop(config),
        page_webhook(config),
        shed_reset(config),
        delegated_program(config),
        drain_secret(config),
        drain_client(config),
        fleet_urls(config),
        fleet_namespace(config),
        fleet_password(config),
        fleet_client(config),
        serve_beyond_loopback(config),
        agent_check_beyond_loopback(config),
        otlp_headers(config),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn horizon_count(config: &Config) -> Option<Conflict> {
    let count = config.detect.leak.horizons.len();
    (!(1..=LeakConfig::HORIZONS_MAX).contains(&count)).then(|| Conflict {
        keys: &["detect.leak.horizons"],
        message: format!("detect.leak.horizons has {count} time spans"),
        hint: format!(
            "give 1 to {}, or remove the option to use the default",
            LeakConfig::HORIZONS_MAX
        ),
    })
}

fn horizon_order(config: &Config) -> Option<Conflict> {
    let pair = config.detect.leak.horizons.windows(2).find(|pair| pair[0] >= pair[1])?;
    let [first, second] = [pair[0], pair[1]].map(duration_text);
    Some(Conflict {
        keys: &["detect.leak.horizons"],
        message: format!("detect.leak.horizons is not ascending: {second} follows {first}"),
        hint: "sort them from the shortest, without duplicates".to_owned(),
    })
}

/// Returns the spans of the leak detector in which so few buckets are seen that they are never
/// judged.
fn unseen_horizons(config: &Config) -> impl Iterator<Item = &Duration> {
    let least = config.sense.interval.saturating_mul(LeakConfig::BUCKETS_SEEN_MIN);
    config.detect.leak.horizons.iter().filter(move |span| **span < least)
}

fn horizon_resolution(config: &Config) -> Option<Conflict> {
    let (longest, interval) = (*config.detect.leak.horizons.iter().max()?, config.sense.interval);
    let scans = LeakConfig::BUCKETS_SEEN_MIN;
    (unseen_horizons(config).count() == config.detect.leak.horizons.len()).then(|| Conflict {
        keys: &["detect.leak.horizons", "sense.interval"],
        message: format!(
            "detect.leak.horizons ends with {}, which is shorter than {scans} scans at \
             sense.interval = {}: no growth could be judged",
            duration_text(longest),
            duration_text(interval),
        ),
        hint: format!(
            "add a span of {} or more, or shorten sense.interval",
            duration_text(interval.saturating_mul(scans))
        ),
    })
}

/// Returns what a configuration without conflicts gives up: a message and a hint each.
pub fn notices(config: &Config) -> Vec<ConfigProblem> {
    slow_scans(config).into_iter().collect()
}

/// Returns the longest interval at which a span is judged, in whole seconds or tenths of one, the
/// shortest that is accepted; zero if there is none.
fn longest_interval(span: Duration) -> Duration {
    let millis = (span / LeakConfig::BUCKETS_SEEN_MIN).as_millis() as u64;
    Duration::from_millis(millis - millis % if millis >= 1_000 { 1_000 } else { 100 })
}

fn slow_scans(config: &Config) -> Option<ConfigProblem> {
    let horizons = &config.detect.leak.horizons;
    let [first, last] = [unseen_horizons(config).min()?, unseen_horizons(config).max()?];
    let judged = horizons.iter().filter(|span| *span > last).min()?;
    let unseen = match first == last {
        true => format!("span of {}", duration_text(*first)),
        false => format!("spans of {} to {}", duration_text(*first), duration_text(*last)),
    };
    Some(ConfigProblem {
        line: None,
        message: format!(
            "sense.interval = {} is too long for the {unseen} in detect.leak.horizons: \
             growth is judged over {} and longer, so a fast leak is reported minutes later",
            duration_text(config.sense.interval),
            duration_text(*judged),
        ),
        hint: match longest_interval(*first) {
            Duration::ZERO => "remove them: no interval is short enough".to_owned(),
            least => {
                format!("with an interval of {} or less every span is judged", duration_text(least))
            }
        },
    })
}

fn sustain(config: &Config) -> Option<Conflict> {
    let overload = &config.detect.overload;
    let least = overload.interval.saturating_mul(SUSTAIN_INTERVALS_MIN);
    (overload.sustain < least).then(|| Conflict {
        keys: &["detect.overload.sustain", "detect.overload.interval"],
        message: format!(
            "detect.overload.sustain = {} is shorter than two intervals of {}",
            duration_text(overload.sustain),
            duration_text(overload.interval),
        ),
        hint: format!("set sustain to {} or more, or shorten the interval", duration_text(least)),
    })
}

fn clear_after(config: &Config) -> Option<Conflict> {
    let overload = &config.detect.overload;
    let least = overload.interval.saturating_mul(SUSTAIN_INTERVALS_MIN);
    (overload.clear_after < least).then(|| Conflict {
        keys: &["detect.overload.clear_after", "detect.overload.interval"],
        message: format!(
            "detect.overload.clear_after = {} is shorter than two intervals of {}",
            duration_text(overload.clear_after),
            duration_text(overload.interval),
        ),
        hint: format!(
            "set clear_after to {} or more, or shorten the interval",
            duration_text(least)
        ),
    })
}

fn drain_after_limit(config: &Config) -> Option<Conflict> {
    let decide = &config.decide;
    (decide.drain_within > decide.limit_within).then(|| Conflict {
        keys: &["decide.drain_within", "decide.limit_within"],
        message: format!(
            "decide.drain_within = {} is longer than decide.limit_within = {}",
            duration_text(decide.drain_within),
            duration_text(decide.limit_within),
        ),
        hint: "draining is the last step: set drain_within to at most limit_within".to_owned(),
    })
}

/// Minimum distance of the backstop above a limit, in margins. A limit is widened by up to three of
/// them; memory that a CPU has charged ahead, or that is charged before the kernel throttles a
/// process, comes on top. A nearer backstop would kill processes that the limit is about to stop.
const BACKSTOP_MARGINS_MIN: u64 = 4;

fn backstop(config: &Config) -> Option<Conflict> {
    let limit = &config.act.limit;
    let (backstop_bytes, least) =
        (limit.backstop_bytes?, limit.margin_bytes.saturating_mul(BACKSTOP_MARGINS_MIN));
    (backstop_bytes < least).then(|| Conflict {
        keys: &["act.limit.backstop", "act.limit.margin"],
        message: format!(
            "act.limit.backstop = {} is less than {BACKSTOP_MARGINS_MIN} times act.limit.margin = \
             {}",
            size_text(backstop_bytes),
            size_text(limit.margin_bytes),
        ),
        hint: format!(
            "set {} or more, so that it does not kill what the limit would stop",
            size_text(least)
        ),
    })
}

fn delegated_program(config: &Config) -> Option<Conflict> {
    let program = config.act.limit.delegated.iter().find(|pattern| pattern.is_program())?;
    Some(Conflict {
        keys: &["act.limit.delegated"],
        message: format!("act.limit.delegated contains a program, {program}"),
        hint: "give the unit or the cgroup that may be divided: \"app.service\", \"/apps/*\""
            .to_owned(),
    })
}

fn page_webhook(config: &Config) -> Option<Conflict> {
    let webhook = &config.act.page.webhook;
    (webhook.url.is_some() != webhook.secret_file.is_some()).then(|| Conflict {
        keys: &["act.page.webhook.url", "act.page.webhook.secret_file"],
        message: "act.page.webhook has only one of url and secret_file".to_owned(),
        hint: "set both or neither: events are never sent unsigned".to_owned(),
    })
}

fn drain_secret(config: &Config) -> Option<Conflict> {
    let drain = &config.act.drain;
    (drain.url.is_some() && drain.secret_file.is_none()).then(|| Conflict {
        keys: &["act.drain.url", "act.drain.secret_file"],
        message: "act.drain.url is set, but act.drain.secret_file is not".to_owned(),
        hint: "requests have to be signed: give a file with a key, `whsec_` and 24 to 64 random \
               bytes in base64"
            .to_owned(),
    })
}

fn shed_reset(config: &Config) -> Option<Conflict> {
    let shed = &config.act.shed;
    (shed.reset && !shed.enabled).then(|| Conflict {
        keys: &["act.shed.reset", "act.shed.enabled"],
        message: "act.shed.reset is true and act.shed.enabled is false: nothing would be reset"
            .to_owned(),
        hint: "set act.shed.enabled = true, or remove act.shed.reset".to_owned(),
    })
}

fn fleet_urls(config: &Config) -> Option<Conflict> {
    let (backend, urls) = (config.fleet.backend, config.fleet.urls.len());
    let hint = match (backend, urls) {
        (FleetBackend::None, 1..) => "set backend to what answers there, or remove urls",
        (FleetBackend::FleetLock, 0 | 2..) => "give the one address of the FleetLock server",
        (FleetBackend::Etcd, 0) => "give the client address of each member of etcd",
        (FleetBackend::Kubernetes, 2..) => {
            "give the one address of the API server, or none in a pod of the cluster"
        }
        _ => return None,
    };
    Some(Conflict {
        keys: &["fleet.urls", "fleet.backend"],
        message: format!(
            "fleet.urls has {urls} {}, and fleet.backend is {:?}",
            if urls == 1 { "address" } else { "addresses" },
            backend.name()
        ),
        hint: hint.to_owned(),
    })
}

fn fleet_namespace(config: &Config) -> Option<Conflict> {
    let fleet = &config.fleet;
    let is_kubernetes = fleet.backend == FleetBackend::Kubernetes;
    let (message, hint) = match fleet.namespace {
        None if is_kubernetes && !fleet.urls.is_empty() => (
            "fleet.urls is set, and fleet.namespace is not".to_owned(),
            "set fleet.namespace to that of the Role of configs/kubernetes/fleet.yaml",
        ),
        Some(_) if !is_kubernetes => (
            format!("fleet.namespace is set, and fleet.backend is {:?}", fleet.backend.name()),
            "only \"kubernetes\" has namespaces: remove fleet.namespace",
        ),
        _ => return None,
    };
    let keys = &["fleet.namespace", "fleet.backend"];
    Some(Conflict { keys, message, hint: hint.to_owned() })
}

fn fleet_password(config: &Config) -> Option<Conflict> {
    let fleet = &config.fleet;
    if fleet.backend == FleetBackend::Kubernetes {
        return fleet.user.is_some().then(|| Conflict {
            keys: &["fleet.user", "fleet.backend"],
            message: "fleet.user is set, and fleet.backend is \"kubernetes\"".to_owned(),
            hint: "a token says which user it is of: remove fleet.user".to_owned(),
        });
    }
    (fleet.user.is_some() != fleet.password_file.is_some()).then(|| Conflict {
        keys: &["fleet.user", "fleet.password_file"],
        message: "only one of fleet.user and fleet.password_file is set".to_owned(),
        hint: "set both, or neither if etcd asks for no password".to_owned(),
    })
}

fn fleet_client(config: &Config) -> Option<Conflict> {
    let fleet = &config.fleet;
    (fleet.client_cert_file.is_some() != fleet.client_key_file.is_some()).then(|| Conflict {
        keys: &["fleet.client_cert_file", "fleet.client_key_file"],
        message: "only one of fleet.client_cert_file and fleet.client_key_file is set".to_owned(),
        hint: "set both, or neither if the coordinator asks for no certificate".to_owned(),
    })
}

fn drain_client(config: &Config) -> Option<Conflict> {
    let drain = &config.act.drain;
    (drain.client_cert_file.is_some() != drain.client_key_file.is_some()).then(|| Conflict {
        keys: &["act.drain.client_cert_file", "act.drain.client_key_file"],
        message: "only one of act.drain.client_cert_file and act.drain.client_key_file is set"
            .to_owned(),
        hint: "set both or neither: a certificate needs its key".to_owned(),
    })
}

fn serve_beyond_loopback(config: &Config) -> Option<Conflict> {
    let serve = &config.serve;
    let is_guarded = !serve.allow.is_empty() || serve.token_file.is_some();
    (!is_loopback(serve.listen) && !is_guarded).then(|| Conflict {
        keys: &["serve.listen", "serve.allow", "serve.token_file"],
        message: format!("serve.listen = {:?} is open to every network", serve.listen.to_string()),
        hint:
            "list the networks that may connect in serve.allow, such as [\"10.0.0.0/8\"], or set \
               serve.token_file"
                .to_owned(),
    })
}

fn otlp_headers(config: &Config) -> Option<Conflict> {
    let otlp = &config.export.otlp;
    let url = otlp.url.as_deref().filter(|_| otlp.headers_file.is_some())?;
    url::check(url, Plain::Loopback).err().map(|why| Conflict {
        keys: &["export.otlp.url", "export.otlp.headers_file"],
        message: format!("export.otlp.url = {url:?} {why}"),
        hint: "use https, or remove headers_file: its headers are secrets".to_owned(),
    })
}

fn agent_check_beyond_loopback(config: &Config) -> Option<Conflict> {
    let listen = config.act.drain.agent_check.listen.filter(|listen| !is_loopback(*listen))?;
    config.serve.allow.is_empty().then(|| Conflict {
        keys: &["act.drain.agent_check.listen", "serve.allow"],
        message: format!(
            "act.drain.agent_check.listen = {:?} is open to every network",
            listen.to_string()
        ),
        hint: "list the addresses of HAProxy in serve.allow, such as [\"10.0.0.10\"]: the agent \
               check has no token"
            .to_owned(),
    })
}

fn is_loopback(listen: SocketAddr) -> bool {
    listen.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::FleetConfig, *};
    use crate::config::{Pattern, options};
    use crate::net::secret::SecretSource;

    /// Returns the options of the only conflict that `change` causes in the defaults.
    fn conflict(change: impl FnOnce(&mut Config)) -> Vec<&'static str> {
        let mut config = Config::default();
        change(&mut config);
        let found = conflicts(&config);
        assert!(found.len() <= 1, "{found:?}");
        for key in found.iter().flat_map(|conflict| conflict.keys) {
            assert!(options::all().any(|option| option.path == *key), "{key} is not an option");
        }
        found.first().map(|conflict| conflict.keys.to_vec()).unwrap_or_default()
    }

    fn secs(counts: &[u64]) -> Vec<Duration> {
        counts.iter().copied().map(Duration::from_secs).collect()
    }

    #[test]
    fn the_defaults_agree() {
        assert_eq!(conflicts(&Config::default()), []);
    }

    #[test]
    fn long_interval_is_accepted_and_says_what_is_lost() {
        let notice = |interval: Duration| {
            let mut config = Config::default();
            config.sense.interval = interval;
            assert_eq!(conflicts(&config), []);
            notices(&config).pop().map(|notice| [notice.message, notice.hint])
        };
        assert_eq!(notice(Duration::from_millis(100)), None);
        assert_eq!(notice(Duration::from_secs(2)), None);
        assert_eq!(
            notice(Duration::from_secs(5)).unwrap(),
            [
                "sense.interval = 5s is too long for the span of 32s in detect.leak.horizons: \
                 growth is judged over 1m36s and longer, so a fast leak is reported minutes later",
                "with an interval of 2s or less every span is judged",
            ]
        );
        assert_eq!(longest_interval(Duration::from_secs(6)), Duration::from_millis(500));
        assert_eq!(longest_interval(Duration::from_secs(1)), Duration::ZERO);
        let [message, _] = notice(Duration::from_mins(1)).unwrap();
        assert!(message.contains("32s to 5m") && message.contains("over 15m"), "{message}");
    }

    #[test]
    fn horizons_are_one_to_eight() {
        assert_eq!(
            conflict(|config| config.detect.leak.horizons = secs(&[])),
            ["detect.leak.horizons"]
        );
        assert_eq!(
            conflict(|config| config.detect.leak.horizons = secs(&[32, 33, 34, 35, 36, 37, 38, 39])),
            [""; 0]
        );
        assert_eq!(
            conflict(
                |config| config.detect.leak.horizons = secs(&[32, 33, 34, 35, 36, 37, 38, 39, 40])
            ),
            ["detect.leak.horizons"]
        );
    }

    #[test]
    fn horizons_ascend() {
        for horizons in [secs(&[60, 60]), secs(&[60, 40]), secs(&[40, 90, 60])] {
            assert_eq!(
                conflict(|config| config.detect.leak.horizons = horizons),
                ["detect.leak.horizons"]
            );
        }
    }

    #[test]
    fn some_horizon_has_twelve_scans() {
        let interval = |secs: u64| {
            conflict(|config| {
                config.detect.leak.horizons = self::secs(&[60, 300]);
                config.sense.interval = Duration::from_secs(secs);
            })
        };
        assert_eq!(interval(25), [""; 0]);
        assert_eq!(interval(26), ["detect.leak.horizons", "sense.interval"]);
    }

    #[test]
    fn sustain_and_clear_after_span_two_intervals() {
        assert_eq!(
            conflict(|config| config.detect.overload.interval = Duration::from_millis(500)),
            [""; 0]
        );
        assert_eq!(
            conflict(|config| config.detect.overload.interval = Duration::from_millis(501)),
            ["detect.overload.sustain", "detect.overload.interval"]
        );
        assert_eq!(
            conflict(|config| config.detect.overload.clear_after = Duration::from_millis(199)),
            ["detect.overload.clear_after", "detect.overload.interval"]
        );
    }

    #[test]
    fn coordinator_needs_its_addresses_and_the_rest_in_pairs() {
        let urls = |count: usize| vec!["http://127.0.0.1:2379".to_owned(); count];
        for (backend, count, is_right) in [
            (FleetBackend::None, 0, true),
            (FleetBackend::None, 1, false),
            (FleetBackend::FleetLock, 0, false),
            (FleetBackend::FleetLock, 1, true),
            (FleetBackend::FleetLock, 2, false),
            (FleetBackend::Etcd, 0, false),
            (FleetBackend::Etcd, 3, true),
            (FleetBackend::Kubernetes, 0, true),
            (FleetBackend::Kubernetes, 1, true),
            (FleetBackend::Kubernetes, 2, false),
        ] {
            let found = conflict(|config| {
                (config.fleet.backend, config.fleet.urls) = (backend, urls(count));
                config.fleet.namespace =
                    (backend == FleetBackend::Kubernetes).then(|| "spillway".to_owned());
            });
            assert_eq!(found.is_empty(), is_right, "{backend:?} {count}");
        }
        assert_eq!(
            conflict(|config| config.fleet.user = Some("spillway".to_owned())),
            ["fleet.user", "fleet.password_file"]
        );
        let kubernetes = |change: &dyn Fn(&mut FleetConfig)| {
            conflict(|config| {
                config.fleet.backend = FleetBackend::Kubernetes;
                change(&mut config.fleet);
            })
        };
        assert_eq!(
            kubernetes(&|fleet| fleet.user = Some("spillway".to_owned())),
            ["fleet.user", "fleet.backend"]
        );
        let token = SecretSource::new("/etc/token").ok();
        assert_eq!(kubernetes(&|fleet| fleet.password_file = token.clone()), [""; 0]);
        assert_eq!(kubernetes(&|fleet| fleet.urls = urls(1)), ["fleet.namespace", "fleet.backend"]);
        assert_eq!(
            conflict(|config| config.fleet.namespace = Some("spillway".to_owned())),
            ["fleet.namespace", "fleet.backend"]
        );
        assert_eq!(
            conflict(|config| config.fleet.client_key_file = Some("/etc/key".into())),
            ["fleet.client_cert_file", "fleet.client_key_file"]
        );
    }

    #[test]
    fn draining_comes_after_the_limit() {
        assert_eq!(
            conflict(|config| config.decide.drain_within = config.decide.limit_within),
            [""; 0]
        );
        assert_eq!(
            conflict(|config| config.decide.limit_within = Duration::from_secs(599)),
            ["decide.drain_within", "decide.limit_within"]
        );
    }

    #[test]
    fn a_backstop_is_well_above_the_limit() {
        let set = |backstop_bytes| {
            conflict(|config| config.act.limit.backstop_bytes = Some(backstop_bytes))
        };
        assert_eq!(set(256 << 20), [""; 0]);
        assert_eq!(set((256 << 20) - 1), ["act.limit.backstop", "act.limit.margin"]);
    }

    #[test]
    fn a_program_cannot_be_delegated() {
        let delegated = |text: &str| {
            let pattern = Pattern::new(text).unwrap();
            conflict(|config| config.act.limit.delegated = vec![pattern])
        };
        assert_eq!(delegated("app-*.service"), [""; 0]);
        assert_eq!(delegated("exe:/usr/bin/app"), ["act.limit.delegated"]);
    }

    #[test]
    fn a_webhook_needs_keys() {
        let keys = ["act.page.webhook.url", "act.page.webhook.secret_file"];
        let set = |config: &mut Config| config.act.page.webhook.url = Some("https://a/".to_owned());
        assert_eq!(conflict(set), keys);
        let secret = SecretSource::new("/a").unwrap();
        assert_eq!(
            conflict(|config| config.act.page.webhook.secret_file = Some(secret.clone())),
            keys
        );
        let both = |config: &mut Config| {
            set(config);
            config.act.page.webhook.secret_file = Some(secret);
        };
        assert_eq!(conflict(both), [""; 0]);
    }

    #[test]
    fn durations_that_would_overflow_do_not_panic() {
        let mut config = Config::default();
        config.sense.interval = Duration::MAX;
        config.detect.overload.interval = Duration::MAX;
        assert_eq!(conflicts(&config).len(), 3);
    }
}
