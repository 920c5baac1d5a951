//! What may be configured: one struct for each part of the agent, with its defaults.
//!
//! A field says nothing of how it is written or what it may be: its row in `keys.rs` does, and a
//! test in `generate.rs` holds the row's default to the one here.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{network::Network, pattern::Pattern, service::ServicePattern};
use crate::net::secret::SecretSource;

/// Everything that may be configured.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// Whether decisions are carried out.
    pub mode: Mode,
    /// How often the host is scanned.
    pub sense: SenseConfig,
    /// When a detector claims something.
    pub detect: DetectConfig,
    /// What the policy makes of it.
    pub decide: DecideConfig,
    /// What is done about it.
    pub act: ActConfig,
    /// How this node's pods are known.
    pub kubernetes: KubernetesConfig,
    /// Where metrics and health are served.
    pub serve: ServeConfig,
    /// What is kept on disk.
    pub record: RecordConfig,
}

/// Whether decisions are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Every decision is recorded as what would be done, and nothing is done.
    #[default]
    Observe,
    /// What is enabled is done.
    Enforce,
}

/// How often the host is scanned.
#[derive(Debug, Clone, PartialEq)]
pub struct SenseConfig {
    /// Time between two scans of every process.
    pub interval: Duration,
}

/// When a detector claims something.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DetectConfig {
    /// Memory leaks.
    pub leak: LeakConfig,
    /// Overloaded listeners.
    pub overload: OverloadConfig,
}

/// Memory leaks.
#[derive(Debug, Clone, PartialEq)]
pub struct LeakConfig {
    /// Growth this soon after a process starts, or replaces its image, is not looked at.
    pub warm_up: Duration,
    /// Spans over which growth is judged, ascending, at most [`LeakConfig::HORIZONS_MAX`].
    pub horizons: Vec<Duration>,
    /// Chance at which growth over the shortest horizon may be noise (Student's t of the slope,
    /// one-sided); longer ones, asked less often, may err as often a day.
    pub significance: f64,
    /// Growth over a horizon below this is not worth a claim, in bytes.
    pub min_growth_bytes: u64,
    /// How many times its horizon ahead a forecast may reach: the further off the end, the longer
    /// the growth must have been seen.
    pub max_extrapolation: f64,
}

/// Overloaded listeners.
#[derive(Debug, Clone, PartialEq)]
pub struct OverloadConfig {
    /// A connection that waits this long for accept() stands in a queue.
    pub target: Duration,
    /// Time between two looks at every listener.
    pub interval: Duration,
    /// A queue that never falls below `target` for this long, and does not drain, is an overload.
    pub sustain: Duration,
    /// A queue that was no overload for this long is well again.
    pub clear_after: Duration,
}

/// What the policy makes of a verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct DecideConfig {
    /// A leak whose forecast is nearer than this is to be limited.
    pub limit_within: Duration,
    /// A leak whose forecast is nearer than this is to be drained away from.
    pub drain_within: Duration,
    /// Services that may page as critical and drain the node, beside those that have proven to be
    /// one.
    pub services: Vec<ServicePattern>,
    /// What is never limited, beside what never is.
    pub protected: Vec<Pattern>,
    /// What alone may be limited; everything else may be where there is none.
    pub allow: Vec<Pattern>,
    /// A cgroup that was limited, or a node that was drained, is not again for this long.
    pub cooldown: Duration,
    /// Limits and drains in any hour.
    pub max_actions_per_hour: u32,
    /// Time within which a claim that returns continues its incident.
    pub flap_within: Duration,
}

/// What is done about it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ActConfig {
    /// Limits on cgroups.
    pub limit: LimitConfig,
    /// Taking this node out of service.
    pub drain: DrainConfig,
    /// Telling a human.
    pub page: PageConfig,
}

/// Telling a human.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PageConfig {
    /// Whether somebody is told in observe mode too.
    pub in_observe: bool,
    /// What every page is linked to: what to do.
    pub runbook_url: Option<String>,
    /// The same: what it looks like.
    pub picture_url: Option<String>,
    /// Certificates that receivers' have to be signed by; the host's where there is none.
    pub ca_file: Option<PathBuf>,
    /// PagerDuty.
    pub pagerduty: PagerDutyConfig,
    /// Alertmanager.
    pub alertmanager: AlertmanagerConfig,
    /// Slack, and what speaks like it.
    pub slack: SlackConfig,
    /// A webhook of the operator's own.
    pub webhook: PageWebhookConfig,
}

/// PagerDuty.
#[derive(Debug, Clone, PartialEq)]
pub struct PagerDutyConfig {
    /// Where its Events API takes alerts.
    pub url: String,
    /// The integration's key; nobody is told there without one.
    pub routing_key_file: Option<SecretSource>,
}

/// Alertmanager.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AlertmanagerConfig {
    /// Where it takes alerts.
    pub url: Option<String>,
}

/// Slack, and what speaks like it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SlackConfig {
    /// The address of an incoming webhook, which is a secret.
    pub url_file: Option<SecretSource>,
}

/// A webhook of the operator's own.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PageWebhookConfig {
    /// Its address.
    pub url: Option<String>,
    /// The keys that sign what is sent there.
    pub secret_file: Option<SecretSource>,
}

/// Limits on cgroups.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitConfig {
    /// Whether limits are set at all.
    pub enabled: bool,
    /// How much more than it uses a cgroup gets at least, in bytes.
    pub margin_bytes: u64,
    /// How far above the throttle `memory.max` is put, in bytes; `None` where it is left alone.
    pub backstop_bytes: Option<u64>,
    /// The `cpu.weight` that a cgroup gets which spins at its limit, at most.
    pub cpu_weight: Option<u32>,
    /// Share of one CPU that it gets at most, in percent.
    pub cpu_max_percent: Option<u32>,
    /// How long it has to spin before.
    pub cpu_after: Duration,
    /// Where a leaker that shares its cgroup may be moved to a child of it.
    pub delegated: Vec<Pattern>,
}

/// Taking this node out of service.
#[derive(Debug, Clone, PartialEq)]
pub struct DrainConfig {
    /// Whether drains are asked for at all.
    pub enabled: bool,
    /// Who grants them; `None` where nobody is to be asked.
    pub url: Option<String>,
    /// The keys that requests are signed with.
    pub secret_file: Option<SecretSource>,
    /// Set if a grant has to carry the `webhook-id` of its request.
    pub require_echo: bool,
    /// How long a request is of use.
    pub deadline: Duration,
    /// Least time in each state that waits for no answer.
    pub dwell: Duration,
    /// How long connections are waited for.
    pub drained_within: Duration,
    /// How long nothing may call for a drain before it ends.
    pub verify: Duration,
    /// Time in which a drain has to help; it is undone otherwise.
    pub helps_within: Duration,
    /// Certificates one of which signed the server's; `None` for those that this host trusts.
    pub ca_file: Option<PathBuf>,
    /// The agent's own certificate.
    pub client_cert_file: Option<PathBuf>,
    /// Its key.
    pub client_key_file: Option<PathBuf>,
    /// Address of HAProxy's agent check; `None` where it is off.
    pub agent_check: Option<SocketAddr>,
    /// Lowest weight that the agent check answers with, in percent.
    pub agent_check_floor_percent: u32,
}

/// How this node's pods are known.
#[derive(Debug, Clone, PartialEq)]
pub struct KubernetesConfig {
    /// Where the kubelet keeps a directory for each pod, named after its namespace, its name and
    /// its uid.
    pub pod_logs_dir: PathBuf,
    /// Where the token for the API is, and the certificate of who signed the API's.
    pub service_account_dir: PathBuf,
}

/// What is kept on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordConfig {
    /// Where.
    pub state_dir: PathBuf,
}

/// Where metrics and health are served.
#[derive(Debug, Clone, PartialEq)]
pub struct ServeConfig {
    /// Address of `/metrics`, `/healthz` and `/ready`.
    pub listen: SocketAddr,
    /// Networks that may connect, besides this host.
    pub allow: Vec<Network>,
    /// Bearer token that requests have to carry.
    pub token_file: Option<SecretSource>,
    /// Further names of this host that a `Host` header may have, in lower case.
    pub host_names: Vec<String>,
}

impl Mode {
    /// As it is configured and printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }
}

impl LeakConfig {
    /// Most horizons that a process's bounded state has room for.
    pub const HORIZONS_MAX: usize = 8;

    /// Buckets in which growth over one horizon is judged: each must see at least one scan.
    pub const BUCKETS_PER_HORIZON: u32 = 16;
}

impl Default for SenseConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1) }
    }
}

impl Default for LeakConfig {
    fn default() -> Self {
        Self {
            warm_up: Duration::from_mins(20),
            horizons: [32, 96, 300, 900, 2_700, 7_200, 21_600, 64_800]
                .map(Duration::from_secs)
                .to_vec(),
            significance: 1e-6,
            min_growth_bytes: 24 << 20,
            max_extrapolation: 10_000.0,
        }
    }
}

impl Default for OverloadConfig {
    fn default() -> Self {
        Self {
            target: Duration::from_millis(5),
            interval: Duration::from_millis(100),
            sustain: Duration::from_secs(1),
            clear_after: Duration::from_secs(5),
        }
    }
}

impl Default for DecideConfig {
    fn default() -> Self {
        Self {
            limit_within: Duration::from_secs(3_600),
            drain_within: Duration::from_secs(600),
            services: Vec::new(),
            protected: Vec::new(),
            allow: Vec::new(),
            cooldown: Duration::from_mins(10),
            max_actions_per_hour: 6,
            flap_within: Duration::from_mins(10),
        }
    }
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            margin_bytes: 64 << 20,
            delegated: Vec::new(),
            backstop_bytes: None,
            cpu_weight: None,
            cpu_max_percent: None,
            cpu_after: Duration::from_secs(10),
        }
    }
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            url: None,
            secret_file: None,
            require_echo: true,
            deadline: Duration::from_mins(5),
            dwell: Duration::from_secs(30),
            drained_within: Duration::from_mins(2),
            verify: Duration::from_mins(1),
            helps_within: Duration::from_secs(30),
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            agent_check: None,
            agent_check_floor_percent: 50,
        }
    }
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            pod_logs_dir: PathBuf::from("/var/log/pods"),
            service_account_dir: PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount"),
        }
    }
}

impl Default for PagerDutyConfig {
    fn default() -> Self {
        Self { url: "https://events.pagerduty.com/v2/enqueue".to_owned(), routing_key_file: None }
    }
}

impl Default for RecordConfig {
    fn default() -> Self {
        Self { state_dir: PathBuf::from("/var/lib/spillway") }
    }
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9646)),
            allow: Vec::new(),
            token_file: None,
            host_names: Vec::new(),
        }
    }
}
