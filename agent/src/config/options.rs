//! The options of the configuration, each declared once: key, type, default, accepted values and
//! documentation.
//!
//! Parsing, hints and the generated `configs/spillway.toml` follow from these declarations; see
//! [`options!`]. A range refuses only mistakes, so its ends are generous. Rules that involve two
//! options are in `validate.rs`.

use std::{marker::PhantomData, net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    choice::{CounterForm, FleetBackend, Mode, Reach},
    kind::{
        AbsolutePath, Address, CountIn, DurationIn, DurationsIn, Flag, HostNames, Name, Networks,
        NumberIn, OneOf, OrNone, Patterns, PercentIn, SecretFile, ServiceList, SizeIn, Url, Urls,
    },
    network::Network,
    option::{ConfigOption, Field, Table, option_path, options, place, table_path},
    pattern::Pattern,
    service::ServicePattern,
    url::Plain,
};
use crate::net::secret::SecretSource;

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const WEEK: Duration = Duration::from_hours(7 * 24);

options! {
    /// Configuration of Spillway. Every option is listed with its default, commented out, so this
    /// file as it is changes nothing. To change an option, remove the "# " before it. Durations and
    /// sizes have units: "100ms", "5s", "1h30m", "64MiB". `spillway check-config` reports every
    /// mistake in a file with its line.
    pub struct Config [] {
        /// Whether decisions are carried out. "observe" only records what would be done; "enforce"
        /// carries out the actions that are enabled below.
        mode: Mode = Mode::Observe, OneOf(PhantomData);
        tables {
            /// Intervals of scans.
            sense: SenseConfig,
            /// When an incident is detected.
            detect: DetectConfig,
            /// Actions, and their conditions.
            decide: DecideConfig,
            /// Actions.
            act: ActConfig,
            /// Coordination with other nodes.
            fleet: FleetConfig,
            /// Identification of pods.
            kubernetes: KubernetesConfig,
            /// Metrics and health.
            serve: ServeConfig,
            /// Telemetry that the agent sends.
            export: ExportConfig,
            /// Files of the agent.
            record: RecordConfig,
        }
    }

    /// Intervals of scans.
    pub struct SenseConfig [sense] {
        /// Time between two scans of all processes.
        // A shorter interval makes the scans themselves the load; with a longer one, a fast leak
        // has run its course between two scans.
        interval: Duration = Duration::from_secs(1), DurationIn(millis(100)..=MINUTE);
    }

    /// Conditions for incidents.
    pub struct DetectConfig [detect] {
        tables {
            /// Memory leaks.
            leak: LeakConfig,
            /// Overloaded listeners.
            overload: OverloadConfig,
        }
    }

    /// When the growth of a process is a memory leak.
    pub struct LeakConfig [detect.leak] {
        /// Time for which a process may grow after it starts, or replaces its image, under watch:
        /// filling caches is not a leak. A process that was already running is watched for as long
        /// before short growth counts as a leak, because it may be a job in progress.
        warm_up: Duration = Duration::from_mins(20), DurationIn(Duration::ZERO..=WEEK);
        /// Time spans over which growth is judged, shortest first, at most 8. Short spans find fast
        /// leaks early; long spans find slow leaks and recognize growth that slows down. A span is
        /// judged if it has at least 12 scans.
        horizons: Vec<Duration> = [32, 96, 300, 900, 2_700, 7_200, 21_600, 64_800]
            .map(Duration::from_secs)
            .to_vec(), DurationsIn(millis(1_000)..=WEEK);
        /// Probability that growth which appears steady over the shortest span is noise. Longer
        /// spans are judged less often and may be wrong as often a day. Smaller means fewer false
        /// alarms and later detection.
        // Student's t of few points has heavy tails: less than 1e-7 would accept only perfect
        // lines. The test is one-sided, of the slope.
        significance: f64 = 1e-6, NumberIn(1e-7..=0.5);
        /// Growth below this is ignored, unless a limit is near.
        // From a page to a tebibyte.
        min_growth_bytes as "min_growth": u64 = 24 << 20, SizeIn(4 << 10..=1 << 40);
        /// Maximum forecast, as a multiple of the time span over which growth was seen. A leak that
        /// would exhaust memory later is not reported.
        max_extrapolation: f64 = 10_000.0, NumberIn(1.0..=10_000.0);
    }

    /// When a listening socket is overloaded.
    pub struct OverloadConfig [detect.overload] {
        /// Maximum time that a connection may wait to be accepted without counting as queued.
        // Waking a thread takes tens of microseconds, so a wait below 100 µs is no queue.
        target: Duration = millis(5), DurationIn(Duration::from_micros(100)..=MINUTE);
        /// Time between two samples of all listening sockets.
        interval: Duration = millis(100), DurationIn(millis(10)..=millis(10_000));
        /// Time for which every connection in a queue has to wait longer than the target, while the
        /// queue does not drain, until the listener is overloaded. Queues short enough to be chance
        /// do not count. Half of it is enough if the queue is about to overflow, seven tenths if
        /// nothing is accepted. At least two intervals.
        sustain: Duration = Duration::from_secs(1),
            DurationIn(millis(20)..=Duration::from_mins(10));
        /// Time without overload after which a listener has recovered. At least two intervals.
        clear_after: Duration = Duration::from_secs(5), DurationIn(millis(20)..=HOUR);
    }

    /// Actions, and their conditions.
    pub struct DecideConfig [decide] {
        /// A leak is limited if it would exhaust memory within this time.
        limit_within: Duration = HOUR, DurationIn(millis(1_000)..=WEEK);
        /// The node is drained if a leak would exhaust memory within this time. At most
        /// limit_within, because draining is the last step.
        drain_within: Duration = Duration::from_mins(10), DurationIn(millis(1_000)..=WEEK);
        /// Services of this node; only they can cause a critical page or a drain. A unit by its
        /// name ("api.service"), a cgroup by its path, pods by a label ("pod:app=web") or a
        /// namespace ("namespace:shop"), or a listener by its address ("tcp:0.0.0.0:443",
        /// "unix:/run/app.sock"). A listener that has accepted connections from other hosts or
        /// other units in three different minutes is a service too, unless it runs in a user's
        /// session. Everything else is reported with severity info and pages nobody.
        services: Vec<ServicePattern> = Vec::new(), ServiceList;
        /// Never limited: system units by name ("db-*.service") and cgroups by path
        /// ("/kubepods.slice/*"), each with everything below; programs by path
        /// ("exe:/usr/bin/db"); pods by namespace ("namespace:db-*") or label ("pod:app=db").
        /// Protected in any case: init, systemd's own services, dbus, ssh, network managers, the
        /// kubelet, container runtimes, Spillway, the namespaces kube-system, kube-node-lease and
        /// kube-public, and pods for which this cannot be determined. Units of a user's systemd or
        /// inside a container match by path only, because anyone can choose their names.
        protected: Vec<Pattern> = Vec::new(), Patterns;
        /// Allow-list for limits, with the same syntax as protected. Empty: everything that is not
        /// protected.
        allow: Vec<Pattern> = Vec::new(), Patterns;
        /// Minimum time between two limits of a cgroup, and between two drains of this node.
        cooldown: Duration = Duration::from_mins(10), DurationIn(millis(1_000)..=WEEK);
        /// Maximum number of limits and drains in any hour. The last one is kept for a drain.
        /// Undoing them, notifications and what act.* disables do not count.
        max_actions_per_hour: u32 = 6, CountIn(0..=1_000);
        /// A verdict that returns within this time continues its incident: the open page is
        /// updated, and no new one is sent. An incident is resolved after as long without a
        /// verdict.
        flap_within: Duration = Duration::from_mins(10), DurationIn(Duration::ZERO..=DAY);
    }

    /// Actions.
    pub struct ActConfig [act] {
        tables {
            /// Limits on cgroups.
            limit: LimitConfig,
            /// Bounds on accept queues.
            shed: ShedConfig,
            /// Drains of this node.
            drain: DrainConfig,
            /// Notifications.
            page: PageConfig,
        }
    }

    /// Memory limits on cgroups that leak.
    pub struct LimitConfig [act.limit] {
        /// Whether limits are set in mode "enforce".
        enabled: bool = true, Flag;
        /// Minimum distance of a limit above the current use, so that setting it neither reclaims
        /// memory nor kills anything.
        // Less is in the way of what a busy service allocates between two samples; more is larger
        // than any host.
        margin_bytes as "margin": u64 = 64 << 20, SizeIn((8 << 20)..=(1 << 40));
        /// Units and cgroups that Spillway may divide, with the syntax of decide.protected, each
        /// with everything below: a leaking process that shares its cgroup with other programs is
        /// moved to a child cgroup, and limited there. Under systemd the unit also needs
        /// Delegate=yes. Empty: a process that shares its cgroup is not limited.
        delegated: Vec<Pattern> = Vec::new(), Patterns;
        /// Distance of a hard limit (memory.max) above the limit (memory.high), at least four
        /// margins; "none" sets no hard limit. A process that reaches it is killed by the kernel,
        /// in its own cgroup, before it takes down the host. Off by default, because nothing else
        /// here kills. It is raised and removed together with the limit; a lower memory.max stays,
        /// and so does one that somebody else sets. Ignored on cgroup v1, where the limit is a hard
        /// one and killing at it is turned off.
        // Four times the smallest margin; more is larger than any host.
        backstop_bytes as "backstop": Option<u64> = None,
            OrNone(SizeIn((32 << 20)..=(1 << 40)));
        /// cpu.weight for a limited cgroup that spins: one that is at its limit and spends 90 % of
        /// a CPU or more on reclaiming memory, at the expense of its neighbours. The default weight
        /// of a cgroup is 100. "none" changes nothing, and a lower weight stays. Restored together
        /// with the limit. Needs cgroup v2 with the cpu controller enabled.
        // The range that the kernel accepts.
        cpu_weight: Option<u32> = None, OrNone(CountIn(1..=10_000));
        /// Maximum CPU time (cpu.max) of such a cgroup: "50%" is half a CPU. Requests to it then
        /// wait even if CPUs are idle: cpu_weight is the milder choice.
        // Less would keep kernel locks that others need for too long; more is no limit.
        cpu_max_percent as "cpu_max": Option<u32> = None, OrNone(PercentIn(10..=10_000));
        /// Time for which a limited cgroup has to spin before its CPU is limited.
        cpu_after: Duration = Duration::from_secs(10), DurationIn(Duration::ZERO..=HOUR);
    }

    /// Bounds on the accept queues of overloaded listeners, so that a service works for clients
    /// that still wait. The kernel drops the first packet of a connection that finds the queue
    /// full, and the client repeats it after a second.
    pub struct ShedConfig [act.shed] {
        /// Whether load is shed in mode "enforce", at TCP listeners of decide.services only. Needs
        /// Linux 5.6 and, under systemd, configs/systemd/shed.conf.
        enabled: bool = false, Flag;
        /// Time within which each connection is to be accepted. The accept queue is made as long as
        /// what the service accepts in this time, four connections at least, and gets its original
        /// length back when the overload is over.
        // Less is no queue at all; of a longer queue nobody waits for the end.
        wait: Duration = millis(100), DurationIn(millis(10)..=millis(10_000));
        /// Whether net.ipv4.tcp_abort_on_overflow is set to 1 meanwhile, if the service has a
        /// network namespace of its own: clients whose handshake finds the queue full are then
        /// reset, instead of waiting for a second or more. Behind nginx that turns waits into
        /// errors. Needs CAP_SYS_ADMIN: under systemd, configs/systemd/shed-reset.conf.
        reset: bool = false, Flag;
    }

    /// Taking this node out of service before it fails, and putting it back. With a url, the
    /// receiver grants each drain. With only the agent check below, nobody does: a leak drains this
    /// node after a delay of its own, so that nodes with the same leak do not leave together, and
    /// an overload only lowers its weight. With neither, the node is never drained.
    pub struct DrainConfig [act.drain] {
        /// Whether this node is drained automatically in mode "enforce". `spillway drain` and
        /// `spillway undrain` work in any case.
        enabled: bool = true, Flag;
        /// Receiver of requests to drain and undrain, as signed POSTs; "none" for no receiver. A
        /// 2xx grants the request; 409 and 423 refuse it; 410 ends all requests; anything else is
        /// retried until the deadline. Without a grant the node is not drained.
        url: Option<String> = None, OrNone(Url(Plain::Loopback));
        /// Whether a grant has to return the webhook-id of its request, as a header of that name or
        /// as the string "webhook-id" in a JSON object. This prevents a proxy or a parked domain
        /// that answers 200 to everything from draining this node: a drain without the id is
        /// withdrawn. Set false for receivers that cannot return it. An undrain needs no id.
        require_echo: bool = true, Flag;
        /// File with the keys that sign requests, as in Standard Webhooks: "whsec_...", one per
        /// line, the newest first. Keep the old key below it until the receiver has the new one.
        /// "credential:NAME" reads a credential passed by systemd.
        secret_file: Option<SecretSource> = None, OrNone(SecretFile);
        /// Time for which a request is retried. A drain that is not granted by then counts as
        /// refused: the node stays in service, and a human is paged.
        deadline: Duration = Duration::from_mins(5), DurationIn(Duration::from_secs(1)..=DAY);
        /// Minimum time in each of the states healthy, draining, drained and verifying, so that the
        /// node does not flap. Commands of an operator take effect at once.
        dwell: Duration = Duration::from_secs(30), DurationIn(Duration::from_secs(1)..=DAY);
        /// Time after which this node counts as drained although its services (decide.services)
        /// still have requests in flight or send responses: long polls and streams may never end.
        /// Idle connections hold no drain. If requests are not seen, connections are counted.
        drained_within: Duration = Duration::from_mins(2),
            DurationIn(Duration::from_secs(1)..=DAY);
        /// Time without a reason for the drain before its end is requested.
        verify: Duration = MINUTE, DurationIn(Duration::from_secs(1)..=DAY);
        /// Time in which a drain has to help: the queue or the wait shrinks by a quarter, the
        /// forecast of a leak moves away, or half of the requests in flight are gone. For a leak it
        /// starts when the node is drained. A drain that does not help is undone, and not repeated
        /// in the same incident.
        helps_within: Duration = Duration::from_secs(30),
            DurationIn(Duration::from_secs(1)..=DAY);
        /// CA certificates, in PEM, for act.drain.url; "none" uses those of this host.
        ca_file: Option<PathBuf> = None, OrNone(AbsolutePath);
        /// Client certificate of the agent, in PEM, if the receiver asks for one.
        client_cert_file: Option<PathBuf> = None, OrNone(AbsolutePath);
        /// Private key of act.drain.client_cert_file, in PEM.
        client_key_file: Option<PathBuf> = None, OrNone(AbsolutePath);
        tables {
            /// HAProxy's agent check.
            agent_check: AgentCheckConfig,
        }
    }

    /// Server for HAProxy's "agent-check"; see configs/haproxy/.
    pub struct AgentCheckConfig [act.drain.agent_check] {
        /// Address and port of the agent check, such as "127.0.0.1:9647"; "none" turns it off. It
        /// answers "ready" with a weight, "drain" or "maint"; in mode "observe" always full weight.
        /// The weight is a percentage of the server's weight in HAProxy, which should be 100: of a
        /// weight of 1 any percentage below 100 leaves nothing. Other hosts may connect only from
        /// the networks in serve.allow.
        listen: Option<SocketAddr> = None, OrNone(Address);
        /// Minimum weight, however near the end of a leak is or however long a queue lasts. The
        /// weight moves in steps of 10%. An overload alone never goes below it, because the load
        /// would only move to other nodes.
        floor_percent as "floor": u32 = 50, PercentIn(10..=100);
    }

    /// Receivers of notifications about incidents, in addition to the output.
    pub struct PageConfig [act.page] {
        /// Whether notifications are sent in mode "observe": they change nothing on this host.
        in_observe: bool = false, Flag;
        /// Address of the runbook, as a link in every notification.
        runbook_url: Option<String> = None, OrNone(Url(Plain::Anywhere));
        /// Address of a graph of this host, as an image in notifications that can have one.
        /// PagerDuty requires https.
        picture_url: Option<String> = None, OrNone(Url(Plain::Loopback));
        /// CA certificates, in PEM, for all receivers; "none" uses those of this host.
        ca_file: Option<PathBuf> = None, OrNone(AbsolutePath);
        tables {
            /// PagerDuty.
            pagerduty: PagerDutyConfig,
            /// Alertmanager.
            alertmanager: AlertmanagerConfig,
            /// Slack and services that take the same messages.
            slack: SlackConfig,
            /// A webhook of the operator's own.
            webhook: PageWebhookConfig,
        }
    }

    /// PagerDuty, by its Events API v2.
    pub struct PagerDutyConfig [act.page.pagerduty] {
        /// Address of the Events API for alerts; European accounts have another one.
        url: String = "https://events.pagerduty.com/v2/enqueue".to_owned(), Url(Plain::Loopback);
        /// File with the integration's key of 32 characters, readable by its owner only, or
        /// "credential:NAME" for one passed by systemd's LoadCredential=NAME:PATH. "none" sends
        /// nothing to PagerDuty.
        routing_key_file: Option<SecretSource> = None, OrNone(SecretFile);
    }

    /// Alertmanager, by its API v2.
    pub struct AlertmanagerConfig [act.page.alertmanager] {
        /// Address of its alerts: that of Alertmanager followed by /api/v2/alerts.
        url: Option<String> = None, OrNone(Url(Plain::Anywhere));
    }

    /// Slack, and services that take messages like its incoming webhooks.
    pub struct SlackConfig [act.page.slack] {
        /// File with the address of an incoming webhook, or "credential:NAME". The address is a
        /// secret: anyone who knows it can post.
        url_file: Option<SecretSource> = None, OrNone(SecretFile);
    }

    /// A webhook of your own: CloudEvents 1.0, signed as in Standard Webhooks 1.0.
    pub struct PageWebhookConfig [act.page.webhook] {
        /// Address that takes events. It can end them for good with the status 410.
        url: Option<String> = None, OrNone(Url(Plain::Loopback));
        /// File with the keys that sign events, one per line, each "whsec_" and base64. With
        /// several, every key signs, so that keys can be rotated.
        secret_file: Option<SecretSource> = None, OrNone(SecretFile);
    }

    /// Coordination of drains among the nodes of a group, so that they leave one after another, and
    /// only while the others can carry the load. Every node of a group needs the same settings,
    /// except for node, zone, region and capacity.
    pub struct FleetConfig [fleet] {
        /// Coordinator. "none": whoever grants drains by act.drain.url decides. "fleetlock": a
        /// FleetLock server counts the nodes that are out, and knows nothing of their load. "etcd":
        /// each node publishes its load and its forecast in etcd 3.4 or later, and a node leaves
        /// only if the others have proven that they can carry its load. "kubernetes": the same, by
        /// Lease objects of Kubernetes 1.14 or later.
        backend: FleetBackend = FleetBackend::None, OneOf(PhantomData);
        /// Address of the FleetLock server, addresses of etcd's members, or address of the API
        /// server of Kubernetes; a pod needs none for that of its cluster.
        urls: Vec<String> = Vec::new(), Urls(Plain::Loopback);
        /// Group of nodes that serve the same, and can take each other's load.
        group: String = "default".to_owned(), Name;
        /// Name of this node, unique in its group; "none" for the name of the host.
        node: Option<String> = None, OrNone(Name);
        /// Zone of this node; "none" if there is one.
        zone: Option<String> = None, OrNone(Name);
        /// Region of this node; "none" if there is one.
        region: Option<String> = None, OrNone(Name);
        /// Nodes that the load balancer gives the load of a node that leaves: those in its "zone",
        /// in its "region", or all of the "group". If none of them serves, the next larger set
        /// counts.
        balances_within: Reach = Reach::Zone, OneOf(PhantomData);
        /// Number of nodes of the group that the agents may take out together.
        slots: u32 = 1, CountIn(1..=1_000);
        /// Share of the group that may be out of rotation, silent or drained by hand together; one
        /// node always may.
        max_percent: u32 = 10, PercentIn(1..=100);
        /// CPUs that this node can use well, for the headroom that others count on; "none" for the
        /// most that it has used for five minutes in the last week without an overload.
        capacity_cpus: Option<f64> = None, OrNone(NumberIn(0.1..=4_096.0));
        /// Requests per second that this node can answer well; "none" for the most that it has
        /// answered, likewise.
        capacity_requests: Option<f64> = None, OrNone(NumberIn(0.1..=1e9));
        /// Time after its last sign of life at which a node counts as gone, and its slot is free.
        // etcd's leases last for seconds; a node that restarts its agent must not lose its slot.
        silent_after: Duration = Duration::from_secs(45), DurationIn(Duration::from_secs(2)..=HOUR);
        /// Time that a node needs out of rotation to be healed. Nodes with forecasts leave so early
        /// that each has as long.
        turn: Duration = Duration::from_mins(10), DurationIn(Duration::from_secs(1)..=DAY);
        /// Namespace of the Lease objects of Kubernetes; "none" for that of the agent's pod.
        namespace: Option<String> = None, OrNone(Name);
        /// User of etcd; "none" without authentication.
        user: Option<String> = None, OrNone(Name);
        /// File with the password of fleet.user, or with a token for Kubernetes; or
        /// "credential:NAME". A pod needs none: its service account has a token.
        password_file: Option<SecretSource> = None, OrNone(SecretFile);
        /// CA certificates, in PEM, for fleet.urls; "none" uses those of this host, and for the
        /// cluster of the agent's pod that of its service account.
        ca_file: Option<PathBuf> = None, OrNone(AbsolutePath);
        /// Client certificate of the agent, in PEM, if the coordinator asks for one.
        client_cert_file: Option<PathBuf> = None, OrNone(AbsolutePath);
        /// Private key of fleet.client_cert_file, in PEM.
        client_key_file: Option<PathBuf> = None, OrNone(AbsolutePath);
    }

    /// Identification of pods on a Kubernetes node.
    pub struct KubernetesConfig [kubernetes] {
        /// Directory in which the kubelet has one directory per pod, named after its namespace,
        /// name and uid. In a container, mount it read-only.
        pod_logs_dir: PathBuf = PathBuf::from("/var/log/pods"), AbsolutePath;
        /// Directory with the token for the Kubernetes API and the CA certificate of the API, as in
        /// every pod. Used only if a pattern names a label, or fleet.backend is "kubernetes" and
        /// fleet.urls empty. The API's address is taken from KUBERNETES_SERVICE_HOST and
        /// KUBERNETES_SERVICE_PORT, as in every pod; for labels, NODE_NAME has to name this node.
        service_account_dir: PathBuf =
            PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount"), AbsolutePath;
    }

    /// Metrics and health of the agent.
    pub struct ServeConfig [serve] {
        /// Address and port of /metrics, /healthz and /ready. An address that other hosts can reach
        /// needs serve.allow or serve.token_file. /healthz answers 200 while the agent watches,
        /// with "ok" or "degraded" and the reasons as JSON, and 503 otherwise.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9646)), Address;
        /// Networks that may connect to serve.listen and to the agent check, such as
        /// ["10.0.0.0/8", "fd00::/8"]. This host always may. Other connections are closed at once,
        /// unless serve.token_file is set and this list is empty.
        allow: Vec<Network> = Vec::new(), Networks;
        /// File with a token of 16 or more characters, readable by its owner only, or
        /// "credential:NAME". Requests then need "Authorization: Bearer TOKEN", except for /healthz
        /// and /ready from this host or from serve.allow, because probes cannot send one. Read at
        /// startup.
        token_file: Option<SecretSource> = None, OrNone(SecretFile);
        /// Names accepted in the Host header, in addition to IP addresses, "localhost" and this
        /// host's name. A request for any other name is refused with 421 unless it has the token: a
        /// page in a browser could have made it (DNS rebinding).
        host_names: Vec<String> = Vec::new(), HostNames;
    }

    /// Telemetry that the agent sends, for those who do not scrape /metrics.
    pub struct ExportConfig [export] {
        tables {
            /// OpenTelemetry.
            otlp: OtlpConfig,
        }
    }

    /// OpenTelemetry: metrics, and verdicts, decisions and outcomes as log records, by OTLP over
    /// HTTP in protobuf. configs/README.md has the settings for some receivers.
    pub struct OtlpConfig [export.otlp] {
        /// Address of a receiver, to which /v1/metrics and /v1/logs are appended, such as
        /// "http://127.0.0.1:4318" for a Collector on this host. "none" sends nothing.
        url: Option<String> = None, OrNone(Url(Plain::Anywhere));
        /// File with the headers that the receiver asks for, one per line, such as "api-key: KEY",
        /// readable by its owner only, or "credential:NAME". They are sent only over https, or to
        /// this host.
        headers_file: Option<SecretSource> = None, OrNone(SecretFile);
        /// CA certificates, in PEM, for the receiver; "none" uses those of this host.
        ca_file: Option<PathBuf> = None, OrNone(AbsolutePath);
        /// Time between two exports.
        interval: Duration = MINUTE, DurationIn(Duration::from_secs(1)..=HOUR);
        /// Counters as "cumulative" since the start of the agent, or as "delta" since the last
        /// export.
        counters: CounterForm = CounterForm::Cumulative, OneOf(PhantomData);
        /// Whether verdicts, decisions and outcomes are sent as log records; set it to false for a
        /// receiver that only takes metrics.
        events: bool = true, Flag;
    }

    /// Files of the agent.
    pub struct RecordConfig [record] {
        /// Directory for the journal, which records every change to this host and what was there
        /// before; for "paused", a file that stops all actions while it exists; for "drain.json",
        /// the drain state; for "operator", an operator's drain command; and for "windows.bin", the
        /// windows of processes, with which a restarted agent goes on. Refused if anyone but
        /// root and the agent's user can write to it or to a directory above it, or if its path
        /// has a symbolic link.
        state_dir: PathBuf = PathBuf::from("/var/lib/spillway"), AbsolutePath;
        /// Time for which a sample of each minute is kept in "history" below the state directory,
        /// for the page and for `spillway record --last`. It takes 64 MiB at most: on a host with
        /// many processes it reaches less far back. "0s" keeps none. Read at startup.
        history: Duration = DAY, DurationIn(Duration::ZERO..=WEEK);
    }
}

/// Iterates over all options, in the order in which they are printed.
pub fn all() -> impl Iterator<Item = &'static ConfigOption<Config>> {
    TABLES.iter().flat_map(|table| table.options)
}

impl Config {
    /// Returns whether drains are carried out in mode "enforce": they are enabled, and a receiver,
    /// an agent check or a load balancer that polls `/ready` hears of them.
    pub fn drains(&self) -> bool {
        let drain = &self.act.drain;
        // Whoever has a coordinator and no receiver has a load balancer that polls /ready.
        let is_heard = drain.url.is_some()
            || drain.agent_check.listen.is_some()
            || self.fleet.backend != FleetBackend::None;
        drain.enabled && is_heard
    }

    /// Returns whether somebody who knows the load of the other nodes grants drains: a receiver or
    /// a coordinator.
    pub fn has_granter(&self) -> bool {
        self.act.drain.url.is_some() || self.fleet.backend.knows_load()
    }
}

impl LeakConfig {
    /// Maximum number of horizons: a process's bounded state has room for no more.
    pub const HORIZONS_MAX: usize = 8;

    /// Number of buckets in a horizon.
    pub const BUCKETS_PER_HORIZON: u32 = 16;

    /// Minimum number of them in which there was a scan, for the horizon to be judged: the design's
    /// 75 %.
    pub const BUCKETS_SEEN_MIN: u32 = 12;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_option_and_table_has_a_sentence() {
        let docs = all()
            .map(|option| (option.path, option.doc()))
            .chain(TABLES.iter().map(|table| (table.path, table.doc())));
        for (path, doc) in docs {
            let is_sentence = doc.ends_with('.') && !doc.contains('\n') && !doc.contains("  ");
            assert!(is_sentence, "{path:?}: {doc:?}");
        }
    }

    #[test]
    fn every_option_is_declared_once() {
        let mut seen = HashSet::new();
        for option in all() {
            assert!(seen.insert(option.path), "{} is declared twice", option.path);
        }
    }
}
