//! Every key an operator may set: the single source for parsing, hints and the generated file.
//!
//! Adding an option is one field in `schema.rs` and one row here. A row's `default` is TOML text,
//! for people; that it says the same as `Config::default()` is a test in `generate.rs`.
//!
//! A range refuses what could only be a mistake, so that its ends are generous; what depends on a
//! second key is in `check.rs`.

use std::time::Duration;

use super::{kind::ValueKind, url::Plain};

/// One key that may be set.
pub struct Key {
    /// Table and name, dotted: `sense.interval`.
    pub path: &'static str,
    /// What it does, for an operator; its range is added where it is printed.
    pub doc: &'static str,
    /// The default, as TOML.
    pub default: &'static str,
    /// The values it takes, and the field they go to.
    pub kind: ValueKind,
}

/// A table of keys, for the generated file.
pub struct Table {
    /// Its name, dotted; empty for the top level.
    pub path: &'static str,
    /// What its keys are about, for an operator; of the top level, what the file is about.
    pub doc: &'static str,
}

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

const WEEK: Duration = Duration::from_hours(7 * 24);

/// Tables, in the order in which they are printed.
pub const TABLES: &[Table] = &[
    Table {
        path: "",
        doc: "The configuration of Spillway. Every key stands here with its default, commented out: as it is, this file \
              changes nothing. To change a key, remove the \"# \" before it. Durations and sizes carry their units: \
              \"100ms\", \"5s\", \"1h30m\", \"64MiB\". `spillway check-config` names everything that is wrong with a \
              file, and where.",
    },
    Table { path: "sense", doc: "How often the host is looked at." },
    Table { path: "detect.leak", doc: "When the growth of a process is called a memory leak." },
    Table { path: "detect.overload", doc: "When a listening socket is called overloaded." },
    Table { path: "decide", doc: "What is to be done about it, and when." },
    Table { path: "act.limit", doc: "Limits on the memory of cgroups that leak." },
    Table {
        path: "act.drain",
        doc: "Taking this node out of service before it fails, and putting it back. With a url its receiver grants each drain. With the \
              agent check below and no url nobody does: a leak then drains this node after a delay of its own, so that nodes with the same \
              leak do not leave together, and an overload only lowers its weight. With neither nothing is drained.",
    },
    Table {
        path: "act.drain.agent_check",
        doc: "What HAProxy asks, as its \"agent-check\" does; see configs/haproxy/.",
    },
    Table { path: "act.page", doc: "Who is told of incidents, beside what is printed." },
    Table { path: "act.page.pagerduty", doc: "PagerDuty, by its Events API v2." },
    Table { path: "act.page.alertmanager", doc: "Alertmanager, by its API v2." },
    Table {
        path: "act.page.slack",
        doc: "Slack, and what takes messages as its incoming webhooks do.",
    },
    Table {
        path: "act.page.webhook",
        doc: "A webhook of your own: CloudEvents 1.0, signed as Standard Webhooks 1.0 says.",
    },
    Table {
        path: "kubernetes",
        doc: "How the pods of this node are known, where it is one of Kubernetes.",
    },
    Table { path: "serve", doc: "Where the agent can be asked how it is." },
    Table { path: "record", doc: "What is kept on disk." },
];

/// Keys, in the order in which they are printed.
pub const KEYS: &[Key] = &[
    Key {
        path: "mode",
        doc: "Whether decisions are carried out. With \"observe\" each is recorded as what would be done, and nothing \
              is done; with \"enforce\" the actions below are done that are enabled.",
        default: r#""observe""#,
        kind: ValueKind::Mode(|config| &mut config.mode),
    },
    Key {
        path: "sense.interval",
        doc: "Time between two scans of every process.",
        default: r#""1s""#,
        // Below, the scans themselves are the load; above, a fast leak has run its course between
        // two of them.
        kind: ValueKind::Duration(
            |config| &mut config.sense.interval,
            millis(100)..=Duration::from_mins(1),
        ),
    },
    Key {
        path: "detect.leak.warm_up",
        doc: "How long a process that starts, or replaces its image, under watch may grow before it is judged: filling \
              caches is not a leak. What it weighs is kept from its first minute on. A process that ran before is \
              watched for as long before less than some minutes of growth are a leak: a job may be what it does.",
        default: r#""20m""#,
        kind: ValueKind::Duration(|config| &mut config.detect.leak.warm_up, Duration::ZERO..=WEEK),
    },
    Key {
        path: "detect.leak.horizons",
        doc: "The spans over which growth is judged, shortest first, at most 8. Short ones find fast leaks early, long \
              ones find slow leaks at all and tell growth that slows; the shortest must span at least 32 scans.",
        default: r#"["32s", "1m36s", "5m", "15m", "45m", "2h", "6h", "18h"]"#,
        // How short it may be really depends on the interval: see check.rs.
        kind: ValueKind::Durations(|config| &mut config.detect.leak.horizons, millis(1_000)..=WEEK),
    },
    Key {
        path: "detect.leak.significance",
        doc: "The chance that growth which looks steady over the shortest horizon is noise after all. Longer ones, which \
              are asked less often, may err as often a day. Smaller means fewer false alarms and later true ones.",
        default: "1e-6",
        // Student's t of few points has heavy tails: asking for less than this would silence all
        // but perfect lines.
        kind: ValueKind::Number(|config| &mut config.detect.leak.significance, 1e-7..=0.5),
    },
    Key {
        path: "detect.leak.min_growth",
        doc: "Growth below this is not worth a claim, unless the limit is near.",
        default: r#""24MiB""#,
        // One page, to one tebibyte.
        kind: ValueKind::Size(|config| &mut config.detect.leak.min_growth_bytes, 4 << 10..=1 << 40),
    },
    Key {
        path: "detect.leak.max_extrapolation",
        doc: "How far ahead a forecast may reach, in horizons: exhaustion further off than this many times the time \
              over which growth was seen is not claimed.",
        default: "10000",
        kind: ValueKind::Number(|config| &mut config.detect.leak.max_extrapolation, 1.0..=10_000.0),
    },
    Key {
        path: "detect.overload.target",
        doc: "A connection that waits this long to be accepted stands in a queue.",
        default: r#""5ms""#,
        // Waking a thread takes tens of microseconds: a wait shorter than 100 is no queue.
        kind: ValueKind::Duration(
            |config| &mut config.detect.overload.target,
            Duration::from_micros(100)..=Duration::from_mins(1),
        ),
    },
    Key {
        path: "detect.overload.interval",
        doc: "Time between two looks at every listening socket.",
        default: r#""100ms""#,
        kind: ValueKind::Duration(
            |config| &mut config.detect.overload.interval,
            millis(10)..=millis(10_000),
        ),
    },
    Key {
        path: "detect.overload.sustain",
        doc: "A queue in which every connection has waited longer than the target for this long, and which does not drain, \
              is an overload, unless so few wait that chance explains it. One that nears its limit is claimed after \
              half of it, one from which nothing is accepted after seven tenths. At least two intervals.",
        default: r#""1s""#,
        kind: ValueKind::Duration(
            |config| &mut config.detect.overload.sustain,
            millis(20)..=Duration::from_mins(10),
        ),
    },
    Key {
        path: "detect.overload.clear_after",
        doc: "A queue that was no overload for this long is well again. At least two intervals.",
        default: r#""5s""#,
        kind: ValueKind::Duration(
            |config| &mut config.detect.overload.clear_after,
            millis(20)..=Duration::from_hours(1),
        ),
    },
    Key {
        path: "decide.limit_within",
        doc: "A leak that is forecast to exhaust memory sooner than this is to be limited.",
        default: r#""1h""#,
        kind: ValueKind::Duration(|config| &mut config.decide.limit_within, millis(1_000)..=WEEK),
    },
    Key {
        path: "decide.drain_within",
        doc: "A leak that is forecast to exhaust memory sooner than this is to be drained away from: the last step, so \
              no sooner than the limit.",
        default: r#""10m""#,
        kind: ValueKind::Duration(|config| &mut config.decide.drain_within, millis(1_000)..=WEEK),
    },
    Key {
        path: "decide.services",
        doc: "The services of this node: only they can cause a critical page or a drain. A unit by its name (\"api.service\"), a \
              cgroup by its path, pods by a label (\"pod:app=web\") or their namespace (\"namespace:shop\"), or a listener by its \
              address (\"tcp:0.0.0.0:443\", \"unix:/run/app.sock\"). A listener that has accepted connections from other hosts or \
              other units in three different minutes is one as well, unless it runs in a user's session. Everything else is \
              reported as info, and nobody is paged for it.",
        default: "[]",
        kind: ValueKind::Services(|config| &mut config.decide.services),
    },
    Key {
        path: "decide.protected",
        doc: "What is never limited: a unit of the system by its name (\"db-*.service\") or a cgroup by its path (\"/kubepods.slice/*\"), either \
              with all below it, a program by its path (\"exe:/usr/bin/db\"), the pods of a namespace (\"namespace:db-*\") or with a \
              label (\"pod:app=db\"). Never limited anyway are init, systemd's own services, dbus, ssh, what manages the network, \
              the kubelet, container runtimes, Spillway, and the namespaces kube-system, kube-node-lease and kube-public. A pod of \
              which that cannot be told is not limited. The units of a user's own systemd, or inside a container, are named by \
              path only: their names are anybody's choice.",
        default: "[]",
        kind: ValueKind::Patterns(|config| &mut config.decide.protected),
    },
    Key {
        path: "decide.allow",
        doc: "What alone may be limited, written likewise. With none, everything may be that is not protected.",
        default: "[]",
        kind: ValueKind::Patterns(|config| &mut config.decide.allow),
    },
    Key {
        path: "decide.cooldown",
        doc: "A cgroup that was limited, or a node that was drained, is left alone for this long before it is again.",
        default: r#""10m""#,
        kind: ValueKind::Duration(|config| &mut config.decide.cooldown, millis(1_000)..=WEEK),
    },
    Key {
        path: "decide.max_actions_per_hour",
        doc: "Limits and drains in any hour; what is put back, and telling a human, is not counted.",
        default: "6",
        kind: ValueKind::Count(|config| &mut config.decide.max_actions_per_hour, 0..=1_000),
    },
    Key {
        path: "decide.flap_within",
        doc: "A claim that returns within this time of its end continues its incident: the page that is open is updated, and no new one \
              is sent. An incident is resolved once it has been quiet for this long.",
        default: r#""10m""#,
        kind: ValueKind::Duration(
            |config| &mut config.decide.flap_within,
            Duration::ZERO..=Duration::from_hours(24),
        ),
    },
    Key {
        path: "act.limit.enabled",
        doc: "Whether limits are set where the mode is \"enforce\".",
        default: "true",
        kind: ValueKind::Flag(|config| &mut config.act.limit.enabled),
    },
    Key {
        path: "act.limit.margin",
        doc: "How much more than it uses a cgroup gets at least. A limit is never set closer, so that setting it frees nothing and \
              kills nobody.",
        default: r#""64MiB""#,
        // Below, what a busy service allocates between two looks is in the way; above, it is a
        // share of no host.
        kind: ValueKind::Size(|config| &mut config.act.limit.margin_bytes, (8 << 20)..=(1 << 40)),
    },
    Key {
        path: "act.limit.delegated",
        doc: "Units and cgroups that Spillway may divide, written as in decide.protected, with all below them: a leaker that \
              shares one with other programs is moved to a child of it, and is limited there. Where systemd runs the host \
              the unit needs Delegate=yes as well. With none, a leaker that shares its cgroup is not limited.",
        default: "[]",
        kind: ValueKind::Patterns(|config| &mut config.act.limit.delegated),
    },
    Key {
        path: "act.limit.backstop",
        doc: "How far above its limit (memory.high) a cgroup gets a hard one (memory.max) as well, at least four margins; \"none\" for no \
              hard one. A leaker that reaches it in spite of the limit is killed by the kernel, in its own cgroup alone, before \
              it takes the host. Off, because nothing else that is set here kills anybody. It gives way with the limit, a lower \
              memory.max that is there stays, and one that others set is theirs. Not with cgroup v1, where the limit is a hard one, and \
              killing at it is turned off.",
        default: r#""none""#,
        // Four of the least margins; above, it is a share of no host.
        kind: ValueKind::MaybeSize(
            |config| &mut config.act.limit.backstop_bytes,
            (32 << 20)..=(1 << 40),
        ),
    },
    Key {
        path: "act.limit.cpu_weight",
        doc: "The cpu.weight of a limited cgroup that spins: one that stands at its limit and uses nine tenths of a CPU or more, which it \
              takes from its neighbours to free memory in circles. 100 is everybody's. \"none\" leaves it alone, and so is a lower one. \
              Put back with the limit. Needs cgroup v2 with the cpu controller handed on.",
        default: r#""none""#,
        // What the kernel takes.
        kind: ValueKind::MaybeCount(|config| &mut config.act.limit.cpu_weight, 1..=10_000),
    },
    Key {
        path: "act.limit.cpu_max",
        doc: "How much of one CPU such a cgroup may use at most (cpu.max), likewise: \"50%\" is half of one. What it serves waits \
              then, even where CPUs are idle: a weight is the milder choice.",
        default: r#""none""#,
        // Below, it would hold what others wait for inside of the kernel for too long; above, it is
        // no bound.
        kind: ValueKind::MaybePercent(|config| &mut config.act.limit.cpu_max_percent, 10..=10_000),
    },
    Key {
        path: "act.limit.cpu_after",
        doc: "How long a limited cgroup has to spin before its CPU is limited as well.",
        default: r#""10s""#,
        kind: ValueKind::Duration(
            |config| &mut config.act.limit.cpu_after,
            Duration::ZERO..=Duration::from_hours(1),
        ),
    },
    Key {
        path: "act.drain.enabled",
        doc: "Whether drains are asked for where the mode is \"enforce\". What an operator says with `spillway drain` and `spillway \
              undrain` holds anyway.",
        default: "true",
        kind: ValueKind::Flag(|config| &mut config.act.drain.enabled),
    },
    Key {
        path: "act.drain.url",
        doc: "Who is asked for a drain and for its end, by a signed POST; \"none\" for nobody. A 2xx grants it, 409 and 423 refuse it, \
              410 has nobody asked any more, and anything else is tried again until the deadline. No grant means no drain.",
        default: r#""none""#,
        kind: ValueKind::MaybeUrl(|config| &mut config.act.drain.url, Plain::Loopback),
    },
    Key {
        path: "act.drain.require_echo",
        doc: "A grant has to carry the webhook-id of its request, as a header of that name or as the string \"webhook-id\" of a JSON object, \
              so that no proxy or parked domain that answers 200 to everything can drain this node. Without it a drain is withdrawn. \
              false is for receivers that cannot; an undrain needs none.",
        default: "true",
        kind: ValueKind::Flag(|config| &mut config.act.drain.require_echo),
    },
    Key {
        path: "act.drain.secret_file",
        doc: "File with the keys that requests are signed with, as Standard Webhooks have them, \"whsec_...\", one a line: the newest \
              first, and the one before it until the receiver knows the new one. \"credential:NAME\" for one that systemd hands over.",
        default: r#""none""#,
        kind: ValueKind::MaybeSecret(|config| &mut config.act.drain.secret_file),
    },
    Key {
        path: "act.drain.deadline",
        doc: "How long a request is tried and of use. A drain that is not granted by then is refused: this node goes on, and a human is told.",
        default: r#""5m""#,
        kind: ValueKind::Duration(
            |config| &mut config.act.drain.deadline,
            Duration::from_secs(1)..=Duration::from_hours(24),
        ),
    },
    Key {
        path: "act.drain.dwell",
        doc: "Least time for which this node is healthy after a drain, draining, drained, and looked at once more, so that it does not come \
              and go. What an operator says is done at once.",
        default: r#""30s""#,
        kind: ValueKind::Duration(
            |config| &mut config.act.drain.dwell,
            Duration::from_secs(1)..=Duration::from_hours(24),
        ),
    },
    Key {
        path: "act.drain.drained_within",
        doc: "How long open connections are waited for before this node is called drained all the same.",
        default: r#""2m""#,
        kind: ValueKind::Duration(
            |config| &mut config.act.drain.drained_within,
            Duration::from_secs(1)..=Duration::from_hours(24),
        ),
    },
    Key {
        path: "act.drain.verify",
        doc: "How long nothing may call for the drain before its end is asked for.",
        default: r#""1m""#,
        kind: ValueKind::Duration(
            |config| &mut config.act.drain.verify,
            Duration::from_secs(1)..=Duration::from_hours(24),
        ),
    },
    Key {
        path: "act.drain.helps_within",
        doc: "Time in which a drain has to help: queue or wait fall by a quarter, a leak's end moves away, or its connections go. For a leak \
              it counts once this node is drained. A drain that did not help is undone, and not asked for again in the same incident.",
        default: r#""30s""#,
        kind: ValueKind::Duration(
            |config| &mut config.act.drain.helps_within,
            Duration::from_secs(1)..=Duration::from_hours(24),
        ),
    },
    Key {
        path: "act.drain.ca_file",
        doc: "Certificates, in PEM, one of which has to have signed that of act.drain.url; \"none\" for those that this host trusts.",
        default: r#""none""#,
        kind: ValueKind::MaybePath(|config| &mut config.act.drain.ca_file),
    },
    Key {
        path: "act.drain.client_cert_file",
        doc: "The agent's own certificate, in PEM, where the receiver asks for one.",
        default: r#""none""#,
        kind: ValueKind::MaybePath(|config| &mut config.act.drain.client_cert_file),
    },
    Key {
        path: "act.drain.client_key_file",
        doc: "The key of act.drain.client_cert_file, in PEM.",
        default: r#""none""#,
        kind: ValueKind::MaybePath(|config| &mut config.act.drain.client_key_file),
    },
    Key {
        path: "act.drain.agent_check.listen",
        doc: "Address and port of HAProxy's agent check, as in \"127.0.0.1:9647\"; \"none\" where it does not listen. It answers with \
              \"ready\" and a weight, \"drain\" or \"maint\", and in observe mode that all is well. The weight is a share of the server's in \
              HAProxy, which should be 100 there: of 1 it leaves nothing. Beyond this host, only the networks in serve.allow may connect.",
        default: r#""none""#,
        kind: ValueKind::MaybeAddress(|config| &mut config.act.drain.agent_check),
    },
    Key {
        path: "act.drain.agent_check.floor",
        doc: "Lowest weight that the agent check answers with, however near a leak's end is or however long a queue stands. It falls and \
              rises in steps of 10%. An overload alone never goes further, as its load would only move to the other nodes.",
        default: r#""50%""#,
        kind: ValueKind::Percent(
            |config| &mut config.act.drain.agent_check_floor_percent,
            10..=100,
        ),
    },
    Key {
        path: "act.page.in_observe",
        doc: "Whether somebody is told where the mode is \"observe\": telling changes nothing on this host.",
        default: "false",
        kind: ValueKind::Flag(|config| &mut config.act.page.in_observe),
    },
    Key {
        path: "act.page.runbook_url",
        doc: "What to do, as a link on every page.",
        default: r#""none""#,
        kind: ValueKind::MaybeUrl(|config| &mut config.act.page.runbook_url, Plain::Anywhere),
    },
    Key {
        path: "act.page.picture_url",
        doc: "What it looks like, as a picture on every page that can have one: a graph of this host. PagerDuty asks for https.",
        default: r#""none""#,
        kind: ValueKind::MaybeUrl(|config| &mut config.act.page.picture_url, Plain::Loopback),
    },
    Key {
        path: "act.page.ca_file",
        doc: "Certificates in PEM by which receivers are trusted. With \"none\", by those that this host trusts.",
        default: r#""none""#,
        kind: ValueKind::MaybePath(|config| &mut config.act.page.ca_file),
    },
    Key {
        path: "act.page.pagerduty.url",
        doc: "Where its Events API takes alerts; accounts in Europe have another address.",
        default: r#""https://events.pagerduty.com/v2/enqueue""#,
        kind: ValueKind::Url(|config| &mut config.act.page.pagerduty.url, Plain::Loopback),
    },
    Key {
        path: "act.page.pagerduty.routing_key_file",
        doc: "Where the integration's key is, 32 characters: a file that only its owner reads, or \"credential:NAME\", handed over by \
              systemd's LoadCredential=NAME:PATH. With \"none\" nobody is told there.",
        default: r#""none""#,
        kind: ValueKind::MaybeSecret(|config| &mut config.act.page.pagerduty.routing_key_file),
    },
    Key {
        path: "act.page.alertmanager.url",
        doc: "Where it takes alerts: its address and /api/v2/alerts.",
        default: r#""none""#,
        kind: ValueKind::MaybeUrl(|config| &mut config.act.page.alertmanager.url, Plain::Anywhere),
    },
    Key {
        path: "act.page.slack.url_file",
        doc: "Where the address of an incoming webhook is, likewise: whoever knows it may write.",
        default: r#""none""#,
        kind: ValueKind::MaybeSecret(|config| &mut config.act.page.slack.url_file),
    },
    Key {
        path: "act.page.webhook.url",
        doc: "Where it takes events. It may refuse them for good with 410.",
        default: r#""none""#,
        kind: ValueKind::MaybeUrl(|config| &mut config.act.page.webhook.url, Plain::Loopback),
    },
    Key {
        path: "act.page.webhook.secret_file",
        doc: "Where the keys are that sign what is sent, one a line, as \"whsec_\" and base64: with several each signs, so that one can \
              be replaced.",
        default: r#""none""#,
        kind: ValueKind::MaybeSecret(|config| &mut config.act.page.webhook.secret_file),
    },
    Key {
        path: "kubernetes.pod_logs_dir",
        doc: "Directory in which the kubelet keeps one for each pod, named after its namespace, its name and its uid. In a container, \
              mount it read-only.",
        default: r#""/var/log/pods""#,
        kind: ValueKind::Path(|config| &mut config.kubernetes.pod_logs_dir),
    },
    Key {
        path: "kubernetes.service_account_dir",
        doc: "Directory of the token for the Kubernetes API and of the certificate that signed the API's, as every pod has it. Used for \
              labels alone, where a pattern names one. The API's address is in KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT, as in \
              every pod; NODE_NAME has to say which node this is.",
        default: r#""/var/run/secrets/kubernetes.io/serviceaccount""#,
        kind: ValueKind::Path(|config| &mut config.kubernetes.service_account_dir),
    },
    Key {
        path: "serve.listen",
        doc: "Address and port of /metrics, /healthz and /ready. An address that other hosts reach needs serve.allow or \
              serve.token_file. /healthz answers 200 while the agent watches, with \"ok\" or \"degraded\" and the reasons as JSON, \
              and 503 if it does not.",
        default: r#""127.0.0.1:9646""#,
        kind: ValueKind::Address(|config| &mut config.serve.listen),
    },
    Key {
        path: "serve.allow",
        doc: "Networks that may connect to serve.listen and to the agent check, as in [\"10.0.0.0/8\", \"fd00::/8\"]. This host itself \
              always may. Connections from elsewhere are closed at once, unless serve.token_file is set and this list is empty.",
        default: "[]",
        kind: ValueKind::Networks(|config| &mut config.serve.allow),
    },
    Key {
        path: "serve.token_file",
        doc: "File with a token of 16 or more characters, which only its owner may read, or \"credential:NAME\". Requests then need \
              \"Authorization: Bearer TOKEN\", except those for /healthz and /ready from this host or from serve.allow: probes cannot \
              send one. Read at startup.",
        default: r#""none""#,
        kind: ValueKind::MaybeSecret(|config| &mut config.serve.token_file),
    },
    Key {
        path: "serve.host_names",
        doc: "Names in the Host header of requests, besides IP addresses, \"localhost\" and this host's own name. A request for any \
              other name is refused with 421, unless it carries the token: a page in a browser could have made it (DNS rebinding).",
        default: "[]",
        kind: ValueKind::HostNames(|config| &mut config.serve.host_names),
    },
    Key {
        path: "record.state_dir",
        doc: "Directory of the journal, which says what was changed on this host and what was there before, and of the file \
              \"paused\", which stops every action while it is there; of \"drain.json\", which says whether this node is drained, and \
              of \"operator\", which says what an operator wants of it. It is refused if somebody else than root and the agent's user may \
              write it or a directory above it, or if a symbolic link is on its path.",
        default: r#""/var/lib/spillway""#,
        kind: ValueKind::Path(|config| &mut config.record.state_dir),
    },
];

impl Key {
    /// Its table and its name: `("detect.leak", "warm_up")`; the top level is `""`.
    pub fn split(&self) -> (&'static str, &'static str) {
        self.path.rsplit_once('.').unwrap_or(("", self.path))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_key_and_table_is_documented_for_a_person() {
        let docs = KEYS
            .iter()
            .map(|key| (key.path, key.doc))
            .chain(TABLES.iter().map(|table| (table.path, table.doc)));
        for (path, doc) in docs {
            assert!(
                doc.len() > 20 && doc.ends_with('.') && !doc.contains('\n'),
                "{path:?} wants a sentence: {doc:?}"
            );
        }
    }

    #[test]
    fn every_key_is_listed_once_in_a_listed_table() {
        let mut seen = HashSet::new();
        for key in KEYS {
            assert!(seen.insert(key.path), "{} has two rows", key.path);
            assert!(
                TABLES.iter().any(|table| table.path == key.split().0),
                "{} is in no table of TABLES",
                key.path
            );
        }
    }

    #[test]
    fn every_table_has_keys() {
        for table in TABLES {
            assert!(
                KEYS.iter().any(|key| key.split().0 == table.path),
                "[{}] is empty",
                table.path
            );
        }
    }
}
