//! Messages about a configuration, word for word, and proof that no text makes the reader fail.

use std::{fs, path::Path, time::Duration};

use proptest::prelude::*;
use spillway_agent::config::{Config, Network, Pattern, commented_defaults, load, parse};

const NASTY: &str = r#"# Everything an operator can get wrong in one evening.
mode = "enforced"
interval = "1s"

[sense]
interval = 5
intervall = "1s"

[detect.leak]
treshold = 3
warm_up = "10 parsecs"
horizons = ["32s", 192, "12h",
            "1ms"]
significance = 2.0
min_growth = "16"
max_extrapolation = "240"

[detect.overlaod]
target = "5ms"

[detect.overload]
target = "0s"
interval = 5s
sustain = true
sustain = "2s"

[decide]
limit_within = "10d"
protected = ["ssh.service", 3, "a/b", "[z-a", "namespace:Shop", "pod:app", "pod:a b=c", "pod:app=a/b"]
max_actions_an_hour = 6
max_actions_per_hour = 1.5

[serve]
listen = "localhost:9646"

[fleet
backend = "none"
slots = 1

[act.limit]
enabled = "yes"
margin = "1MiB"
backstop = "off"
cpu_weight = 0
cpu_max = "half"

[act.restart]
url = "https://lb.internal"

[record]
state_dir = "var/lib/spillway"
"#;

const PROBLEMS: &str = r#"configs/spillway.toml:2: mode = "enforced" is not a mode
  hint: "observe" only records what would be done; "enforce" carries out enabled actions
configs/spillway.toml:3: unknown option "interval" at the top level
  hint: "interval" belongs in [sense] or in [detect.overload] or in [export.otlp]
configs/spillway.toml:6: sense.interval = 5 has no unit
  hint: a number with its unit in quotes: "5s", "100ms", "10m", "2h", "1h30m"
configs/spillway.toml:7: unknown option "intervall" in [sense]
  hint: did you mean "interval"?
configs/spillway.toml:10: unknown option "treshold" in [detect.leak]
  hint: options in [detect.leak]: warm_up, horizons, significance, min_growth, max_extrapolation
configs/spillway.toml:11: detect.leak.warm_up = "10 parsecs" is not a duration
  hint: a number with its unit in quotes: "5s", "100ms", "10m", "2h", "1h30m"
configs/spillway.toml:12: detect.leak.horizons[1] = 192 has no unit
  hint: a number with its unit in quotes: "5s", "100ms", "10m", "2h", "1h30m"
configs/spillway.toml:13: detect.leak.horizons[3] = "1ms" is out of range
  hint: 1s to 7d is accepted
configs/spillway.toml:14: detect.leak.significance = 2.0 is out of range
  hint: 1e-7 to 0.5 is accepted
configs/spillway.toml:15: detect.leak.min_growth = "16" has no unit
  hint: a number with its unit in quotes: "64MiB", "1GiB", or "500MB"
configs/spillway.toml:16: detect.leak.max_extrapolation = "240" is a string, not a number
  hint: a number without quotes: 240, 0.5 or 1e-6
configs/spillway.toml:18: unknown table [detect.overlaod]
  hint: did you mean [detect.overload]?
configs/spillway.toml:22: detect.overload.target = "0s" is out of range
  hint: 100us to 1m is accepted
configs/spillway.toml:23: not a TOML value: interval = 5s
  hint: put words, durations and sizes in quotes: "5s"
configs/spillway.toml:24: detect.overload.sustain = true is a boolean, not a duration
  hint: a number with its unit in quotes: "5s", "100ms", "10m", "2h", "1h30m"
configs/spillway.toml:25: given twice: sustain = "2s"
  hint: give each option and each table once
configs/spillway.toml:28: decide.limit_within = "10d" is out of range
  hint: 1s to 7d is accepted
configs/spillway.toml:29: decide.protected[1] = 3 is an integer, not a unit, cgroup, program, namespace or label
  hint: one of "db-*.service", "/kubepods.slice/*", "exe:/usr/bin/db", "namespace:db-*", "pod:app=db"
configs/spillway.toml:29: decide.protected[2] = "a/b" is neither a unit name nor an absolute path
  hint: one of "db-*.service", "/kubepods.slice/*", "exe:/usr/bin/db", "namespace:db-*", "pod:app=db"
configs/spillway.toml:29: decide.protected[3] = "[z-a" is not a valid pattern: invalid range pattern
  hint: one of "db-*.service", "/kubepods.slice/*", "exe:/usr/bin/db", "namespace:db-*", "pod:app=db"
configs/spillway.toml:29: decide.protected[4] = "namespace:Shop" has a namespace with characters other than lowercase letters, digits and dashes
  hint: one of "db-*.service", "/kubepods.slice/*", "exe:/usr/bin/db", "namespace:db-*", "pod:app=db"
configs/spillway.toml:29: decide.protected[5] = "pod:app" has a label without a value: write pod:KEY=VALUE
  hint: one of "db-*.service", "/kubepods.slice/*", "exe:/usr/bin/db", "namespace:db-*", "pod:app=db"
configs/spillway.toml:29: decide.protected[6] = "pod:a b=c" has the label "a b", which Kubernetes does not allow
  hint: one of "db-*.service", "/kubepods.slice/*", "exe:/usr/bin/db", "namespace:db-*", "pod:app=db"
configs/spillway.toml:29: decide.protected[7] = "pod:app=a/b" has a label value with characters other than letters, digits, dashes, dots and underscores
  hint: one of "db-*.service", "/kubepods.slice/*", "exe:/usr/bin/db", "namespace:db-*", "pod:app=db"
configs/spillway.toml:30: unknown option "max_actions_an_hour" in [decide]
  hint: did you mean "max_actions_per_hour"?
configs/spillway.toml:31: decide.max_actions_per_hour = 1.5 is a float, not a whole number
  hint: a whole number without quotes: 6
configs/spillway.toml:34: serve.listen = "localhost:9646" is not an address
  hint: an IP address and a port in quotes: "127.0.0.1:9646" or "[::1]:9646"
configs/spillway.toml:36: not TOML: [fleet
  hint: unclosed table, expected `]`
configs/spillway.toml:41: act.limit.enabled = "yes" is a string, not a boolean
  hint: true or false, without quotes
configs/spillway.toml:42: act.limit.margin = "1MiB" is out of range
  hint: 8MiB to 1TiB is accepted
configs/spillway.toml:43: act.limit.backstop = "off" is not a size
  hint: a number with its unit in quotes: "64MiB", "1GiB", or "500MB", or "none"
configs/spillway.toml:44: act.limit.cpu_weight = 0 is out of range
  hint: 1 to 10000 is accepted, or "none"
configs/spillway.toml:45: act.limit.cpu_max = "half" is not a percentage
  hint: a whole percentage in quotes: "50%", or "none"
configs/spillway.toml:47: unknown table [act.restart]
  hint: options in [act]: limit, shed, drain, page
configs/spillway.toml:51: record.state_dir = "var/lib/spillway" is not an absolute path
  hint: an absolute path in quotes: "/var/lib/spillway""#;

fn problems(text: &str) -> String {
    parse(text, "x.toml").map_or_else(|errors| errors.to_string(), |_| "nothing".to_owned())
}

/// The shipped file with every key set.
fn uncommented() -> String {
    let is_key = |rest: &str| rest.split_once(" = ").is_some_and(|(name, _)| !name.contains(' '));
    let lines = commented_defaults();
    let lines = lines
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn every_problem_is_reported_in_file_order() {
    assert_eq!(parse(NASTY, "configs/spillway.toml").unwrap_err().to_string(), PROBLEMS);
}

#[test]
fn the_shipped_file_is_what_the_agent_prints() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/spillway.toml");
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == commented_defaults(),
        "configs/spillway.toml is out of date: run `target/release/spillway check-config \
         --print-defaults > \
         configs/spillway.toml`"
    );
    assert_eq!(load(&path).unwrap(), Config::default());
}

#[test]
fn the_shipped_file_with_every_key_set_is_still_the_defaults() {
    assert_eq!(key_names().len(), 86);
    assert_eq!(parse(&uncommented(), "x.toml").unwrap(), Config::default());
    assert_eq!(parse("", "x.toml").unwrap(), Config::default());
}

#[test]
fn every_option_is_read_as_set() {
    // Every key with a distinct value, in all of TOML's notations, with a byte order mark and
    // Windows line ends.
    let text = "mode = \"observe\"\r\n\
                detect.leak = { horizons = ['1m', \"2h 30m\"], max_extrapolation = 0x10, \
                min_growth = '1MB' }\r\n\
                sense.interval = \"1.5s\"\r\n\
                detect.overload.target = '7ms'\r\n\
                detect.overload.interval = '11ms'\r\n\
                [decide]\r\n\
                limit_within = \"\"\"40m\"\"\"\r\n\
                'drain_within' = '20m' # the rest is up to us\r\n\
                [serve]\r\n\
                \"listen\" = '[::1]:80'\r\n\
                allow = ['10.0.0.0/8']\r\n\
                token_file = 'credential:t'\r\n\
                host_names = ['Node-1']";
    let rest = "[decide]\nprotected = ['db-*.service', '/a/*', 'namespace:a-*']\nallow = \
    ['/b', \"pod:a/b=c\"]\ncooldown = '23s'\n\
                max_actions_per_hour = 0x1d\n\
                [kubernetes]\npod_logs_dir = '/c'\nservice_account_dir = '/d'\n\
                [detect.leak]\nwarm_up = '13s'\nsignificance = 1_0.0e-3\n\
                [detect.overload]\nsustain = '17s'\nclear_after = '19s'\n\
                [act.limit]\nbackstop = '1GiB'\ncpu_weight = 31\ncpu_max = '37%'\ncpu_after = \
                '41s'\n\
                [act.shed]\nenabled = true\nwait = '42ms'\n\
                [act.drain]\nenabled = false\nurl = 'https://a:1/b'\nsecret_file = \
                'credential:e'\ndeadline = '43s'\n\
                dwell = '47s'\ndrained_within = '53s'\nverify = '59s'\nca_file = \
                '/f'\nclient_cert_file = '/g'\n\
                client_key_file = '/h'\nrequire_echo = false\nhelps_within = '61s'\n\
                agent_check = { listen = '[::1]:81', floor = '67%' }";
    let mut wanted = Config::default();
    wanted.detect.leak.horizons = vec![Duration::from_mins(1), Duration::from_mins(150)];
    wanted.detect.leak.max_extrapolation = 16.0;
    wanted.detect.leak.min_growth_bytes = 1_000_000;
    wanted.sense.interval = Duration::from_millis(1_500);
    wanted.detect.overload.target = Duration::from_millis(7);
    wanted.detect.overload.interval = Duration::from_millis(11);
    wanted.decide.limit_within = Duration::from_mins(40);
    wanted.decide.drain_within = Duration::from_mins(20);
    wanted.serve.listen = "[::1]:80".parse().unwrap();
    wanted.serve.allow = vec![Network::new("10.0.0.0/8").unwrap()];
    wanted.serve.host_names = vec!["node-1".to_owned()];
    let parsed = parse(&format!("\u{feff}{text}"), "x.toml").unwrap();
    assert_eq!(
        parsed.serve.token_file.as_ref().map(ToString::to_string).as_deref(),
        Some("credential:t")
    );
    wanted.serve.token_file = parsed.serve.token_file.clone();
    assert_eq!(parsed, wanted);

    let mut wanted = Config::default();
    wanted.detect.leak.warm_up = Duration::from_secs(13);
    wanted.detect.leak.significance = 0.01;
    wanted.detect.overload.sustain = Duration::from_secs(17);
    wanted.detect.overload.clear_after = Duration::from_secs(19);
    let patterns = |texts: &[&str]| texts.iter().map(|text| Pattern::new(text).unwrap()).collect();
    wanted.decide.protected = patterns(&["db-*.service", "/a/*", "namespace:a-*"]);
    wanted.decide.allow = patterns(&["/b", "pod:a/b=c"]);
    wanted.kubernetes.pod_logs_dir = "/c".into();
    wanted.kubernetes.service_account_dir = "/d".into();
    wanted.decide.cooldown = Duration::from_secs(23);
    wanted.decide.max_actions_per_hour = 29;
    wanted.act.limit.backstop_bytes = Some(1 << 30);
    (wanted.act.limit.cpu_weight, wanted.act.limit.cpu_max_percent) = (Some(31), Some(37));
    wanted.act.limit.cpu_after = Duration::from_secs(41);
    (wanted.act.shed.enabled, wanted.act.shed.wait) = (true, Duration::from_millis(42));
    let drain = &mut wanted.act.drain;
    (drain.enabled, drain.url) = (false, Some("https://a:1/b".to_owned()));
    (drain.deadline, drain.dwell) = (Duration::from_secs(43), Duration::from_secs(47));
    (drain.drained_within, drain.verify) = (Duration::from_secs(53), Duration::from_secs(59));
    (drain.ca_file, drain.client_cert_file) = (Some("/f".into()), Some("/g".into()));
    (drain.client_key_file, drain.agent_check.listen) =
        (Some("/h".into()), Some("[::1]:81".parse().unwrap()));
    (drain.require_echo, drain.helps_within) = (false, Duration::from_secs(61));
    drain.agent_check.floor_percent = 67;
    let secret = parse(rest, "x.toml").unwrap().act.drain.secret_file;
    assert_eq!(secret.as_ref().map(ToString::to_string).as_deref(), Some("credential:e"));
    wanted.act.drain.secret_file = secret;
    assert_eq!(parse(rest, "x.toml").unwrap(), wanted);
}

#[test]
fn contradiction_is_reported_at_the_key_that_was_set() {
    for (text, wanted) in [
        (
            "detect.leak.horizons = []",
            "x.toml:1: detect.leak.horizons has 0 time spans\n  hint: give 1 to 8, or remove the \
            option to use the default",
        ),
        (
            "detect.leak.horizons = ['1m', '2m', '3m', '4m', '5m', '6m', '7m', '8m', '9m']",
            "x.toml:1: detect.leak.horizons has 9 time spans\n  hint: give 1 to 8, or remove the \
            option to use the default",
        ),
        (
            "detect.leak.horizons = ['1m', '1h', '60m']",
            "x.toml:1: detect.leak.horizons is not ascending: 1h follows 1h\n  hint: sort them \
            from the shortest, without duplicates",
        ),
        (
            "[sense]\ninterval = '1m'\n[detect.leak]\nhorizons = ['1m', '10m']",
            "x.toml:4: detect.leak.horizons ends with 10m, which is shorter than 12 scans at \
             sense.interval = 1m: no growth could be judged\n  \
             hint: add a span of 12m or more, or shorten sense.interval",
        ),
        (
            "sense.interval = '10s'\ndetect.leak.horizons = ['1m']",
            "x.toml:2: detect.leak.horizons ends with 1m, which is shorter than 12 scans at \
             sense.interval = 10s: no growth could be judged\n  \
             hint: add a span of 2m or more, or shorten sense.interval",
        ),
        (
            "\ndetect.overload.interval = '600ms'",
            "x.toml:2: detect.overload.sustain = 1s is shorter than two intervals of 600ms\n  \
             hint: set sustain to 1s200ms or more, or shorten the interval",
        ),
        (
            "detect.overload.clear_after = '150ms'",
            "x.toml:1: detect.overload.clear_after = 150ms is shorter than two intervals of \
             100ms\n  \
             hint: set clear_after to 200ms or more, or shorten the interval",
        ),
        (
            "[decide]\ndrain_within = '2h'",
            "x.toml:2: decide.drain_within = 2h is longer than decide.limit_within = 1h\n  \
             hint: draining is the last step: set drain_within to at most limit_within",
        ),
        (
            "act.limit.backstop = '255MiB'",
            "x.toml:1: act.limit.backstop = 255MiB is less than 4 times act.limit.margin = \
             64MiB\n  \
             hint: set 256MiB or more, so that it does not kill what the limit would stop",
        ),
        (
            "\nact.drain.url = 'https://lb.internal/'",
            "x.toml:2: act.drain.url is set, but act.drain.secret_file is not\n  \
             hint: requests have to be signed: give a file with a key, `whsec_` and 24 to 64 \
             random bytes in base64",
        ),
        (
            "act.shed.reset = true\n",
            "x.toml:1: act.shed.reset is true and act.shed.enabled is false: nothing would be \
             reset\n  hint: set act.shed.enabled = true, or remove act.shed.reset",
        ),
        (
            "act.drain.client_key_file = '/a'",
            "x.toml:1: only one of act.drain.client_cert_file and act.drain.client_key_file is \
             set\n  \
             hint: set both or neither: a certificate needs its key",
        ),
    ] {
        assert_eq!(problems(text), wanted, "{text}");
    }
}

#[test]
fn invalid_key_is_reported_once() {
    assert_eq!(
        problems("decide.drain_within = '2h'\ndecide.limit_within = 3"),
        "x.toml:2: decide.limit_within = 3 has no unit\n  \
         hint: a number with its unit in quotes: \"5s\", \"100ms\", \"10m\", \"2h\", \"1h30m\""
    );
}

#[test]
fn remote_urls_require_https() {
    let url =
        |url: &str| problems(&format!("act.drain.secret_file = '/a'\nact.drain.url = '{url}'"));
    for good in [
        "https://lb.internal/a?b=c",
        "http://127.0.0.1:80/",
        "http://[::1]/",
        "http://localhost/a",
        "none",
    ] {
        assert_eq!(url(good), "nothing", "{good}");
    }
    for plain in ["http://lb.internal/", "http://10.0.0.1/", "http://localhost.evil/"] {
        assert!(
            url(plain)
                .contains("is not encrypted: https is required except to this host\n  hint: "),
            "{plain}"
        );
    }
    for (none, wrong) in [
        ("", "is not a URL"),
        ("lb.internal", "is not a URL with scheme and host"),
        ("/a", "is not a URL with scheme and host"),
        ("ftp://lb.internal/", "is neither http nor https"),
        ("https://", "is not a URL"),
        (
            "https://me:secret@lb.internal/",
            "contains a user name or password, which anyone who can read this file would see",
        ),
    ] {
        assert!(url(none).contains(&format!("{wrong}\n  hint: ")), "{none}: {}", url(none));
    }
    assert!(
        problems("act.drain.secret_file = 'key'")
            .contains("is neither an absolute path nor a credential")
    );
}

#[test]
fn public_address_needs_networks_or_a_token() {
    for good in [
        "serve.listen = '127.0.0.1:1'",
        "serve.listen = '[::1]:1'",
        "serve.listen = '0.0.0.0:1'\nserve.allow = ['10.0.0.0/8', 'fd00::/8', '192.0.2.7']",
        "serve.listen = '[::]:1'\nserve.token_file = '/a'",
        "act.drain.agent_check.listen = '10.0.0.1:1'\nserve.allow = ['10.0.0.10']",
    ] {
        assert_eq!(problems(good), "nothing", "{good}");
    }
    assert_eq!(
        problems(
            "mode = 'observe'\nserve.listen = '10.0.0.1:9646'\nact.drain.agent_check.listen = \
            '[::]:9647'"
        ),
        "x.toml:2: serve.listen = \"10.0.0.1:9646\" is open to every network\n  \
         hint: list the networks that may connect in serve.allow, such as [\"10.0.0.0/8\"], or set \
         serve.token_file\n\
         x.toml:3: act.drain.agent_check.listen = \"[::]:9647\" is open to every network\n  \
         hint: list the addresses of HAProxy in serve.allow, such as [\"10.0.0.10\"]: the agent \
         check has no token"
    );
    // HAProxy sends no token.
    assert!(
        problems("serve.token_file = '/a'\nact.drain.agent_check.listen = '10.0.0.1:1'")
            .contains("is open to every network")
    );
    assert_eq!(
        problems("serve.allow = ['10.0.0.1/8', 'lb.internal', 10]\nserve.host_names = ['a:1']"),
        "x.toml:1: serve.allow[0] = '10.0.0.1/8' is an address with a prefix length, not a \
         network: the network is 10.0.0.0/8\n  \
         hint: one of \"10.0.0.0/8\", \"fd00::/8\", \"192.0.2.7\"\n\
         x.toml:1: serve.allow[1] = 'lb.internal' is not an IP network\n  \
         hint: one of \"10.0.0.0/8\", \"fd00::/8\", \"192.0.2.7\"\n\
         x.toml:1: serve.allow[2] = 10 is an integer, not an IP network\n  \
         hint: one of \"10.0.0.0/8\", \"fd00::/8\", \"192.0.2.7\"\n\
         x.toml:2: serve.host_names[0] = 'a:1' is not a host name\n  \
         hint: a name without a port: \"node-1.example.com\""
    );
}

#[test]
fn ranges_include_their_ends_and_nothing_beyond() {
    for (key, within, beyond) in [
        ("sense.interval", "'100ms'", "'99ms'"),
        ("sense.interval", "'1s'", "'61s'"),
        ("detect.leak.warm_up", "'0s'", "'8d'"),
        ("detect.leak.horizons", "['7d']", "['169h']"),
        ("detect.leak.significance", "0.5", "0.51"),
        ("detect.leak.significance", "1e-7", "0"),
        ("detect.leak.significance", "0.1", "nan"),
        ("detect.leak.significance", "0.1", "-inf"),
        ("detect.leak.min_growth", "'4KiB'", "'4095B'"),
        ("detect.leak.min_growth", "'1TiB'", "'2TiB'"),
        ("detect.leak.max_extrapolation", "1", "0.99"),
        ("detect.leak.max_extrapolation", "10000", "999999999999999999999999999999999999999999"),
        ("detect.overload.target", "'100us'", "'0s'"),
        ("detect.overload.interval", "'10ms'", "'9ms'"),
        ("detect.overload.interval", "'500ms'", "'11s'"),
        ("detect.overload.sustain", "'10m'", "'11m'"),
        ("detect.overload.clear_after", "'1h'", "'61m'"),
        ("decide.limit_within", "'7d'", "'8d'"),
        ("decide.drain_within", "'1s'", "'999ms'"),
        ("decide.cooldown", "'1s'", "'999ms'"),
        ("decide.max_actions_per_hour", "0", "-1"),
        ("decide.max_actions_per_hour", "1000", "999999999999999999999999999999999999999999"),
        ("act.limit.backstop", "'1TiB'", "'2TiB'"),
        ("act.limit.backstop", "'none'", "'31MiB'"),
        ("act.limit.cpu_weight", "10000", "10001"),
        ("act.limit.cpu_weight", "'none'", "0"),
        ("act.limit.cpu_max", "'10%'", "'9%'"),
        ("act.limit.cpu_max", "'none'", "'10001%'"),
        ("act.limit.cpu_after", "'0s'", "'61m'"),
        ("act.drain.deadline", "'1s'", "'25h'"),
        ("act.drain.dwell", "'24h'", "'999ms'"),
        ("act.drain.drained_within", "'1s'", "'0s'"),
        ("act.drain.verify", "'1s'", "'0s'"),
        ("act.drain.helps_within", "'1s'", "'999ms'"),
        ("act.drain.agent_check.floor", "'10%'", "'9%'"),
        ("act.drain.agent_check.floor", "'100%'", "'101%'"),
    ] {
        assert_eq!(problems(&format!("{key} = {within}")), "nothing");
        let problems = problems(&format!("{key} = {beyond}"));
        assert!(
            problems.contains(" is out of range\n  hint: ")
                && problems.contains(&beyond.replace(['[', ']'], "")),
            "{problems}"
        );
    }
}

#[test]
fn tables_and_keys_are_distinguished() {
    for (text, wanted) in [
        (
            "[[sense]]",
            "x.toml:1: \"sense\" is an array, not a table\n  hint: write [sense] on a line of its \
            own, and its options below",
        ),
        (
            "detect.leak = 3",
            "x.toml:1: \"detect.leak\" is an integer, not a table\n  \
             hint: write [detect.leak] on a line of its own, and its options below",
        ),
        (
            "[serve.listen]",
            "x.toml:1: [serve.listen] is a table, not an address\n  \
             hint: an IP address and a port in quotes: \"127.0.0.1:9646\" or \"[::1]:9646\"",
        ),
        (
            "'' = { mode = 'observe' }",
            "x.toml:1: unknown table []\n  hint: options at the top level: mode, sense, detect, \
            decide, act, fleet, kubernetes, serve, export, record",
        ),
        (
            "'sense.interval' = '1s'",
            "x.toml:1: unknown option \"sense.interval\" at the top level\n  \
             hint: in quotes a dot is part of the name: write sense.interval without quotes",
        ),
    ] {
        assert_eq!(problems(text), wanted, "{text}");
    }
}

#[test]
fn quoted_text_is_bounded_and_printable() {
    let problems =
        problems(&format!("\"\\u001b[31m\" = 1\nmode = '{}'\n\u{1b} = \u{7}", "é".repeat(1_000)));
    assert!(problems.chars().all(|c| c == '\n' || !c.is_control()), "{problems:?}");
    assert!(problems.lines().all(|line| line.chars().count() < 130), "{problems}");
}

#[test]
fn unreadable_file_is_one_problem() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let write = |name: &str, bytes: &[u8]| {
        let path = directory.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let mut full = vec![b'#'; 1 << 20];
    let exactly_full = write("full.toml", &full);
    full.push(b'\n');
    let large = write("large.toml", &full);
    let latin1 = write("latin1.toml", b"mode = 'observe'\n# caf\xe9\n");
    for (path, wanted) in [
        (
            directory.join("missing.toml"),
            "cannot be read: No such file or directory (os error 2)\n  \
             hint: `spillway check-config --print-defaults` prints a file to start from",
        ),
        (
            directory.to_owned(),
            "cannot be read: Is a directory (os error 21)\n  hint: give a file in it, such as \
            spillway.toml",
        ),
        (
            "/proc/self/mem".into(),
            "cannot be read: Input/output error (os error 5)\n  hint: give a regular file",
        ),
        (
            large.clone(),
            "is refused: it is larger than 1048576 bytes\n  hint: is this the right file?",
        ),
        (
            "/dev/zero".into(),
            "is refused: it is a device, and has to be a regular file\n  hint: put a regular file \
            there, or none",
        ),
        (latin1, "byte 0xe9 is not UTF-8\n  hint: save the file as UTF-8 text"),
    ] {
        let errors = load(&path).unwrap_err();
        assert_eq!(errors.problems().len(), 1);
        let line = errors.problems()[0].line.map(|line| format!("{line}:")).unwrap_or_default();
        assert_eq!(errors.to_string(), format!("{}:{line} {wanted}", path.display()));
    }
    assert_eq!(load(&exactly_full).unwrap(), Config::default());
}

/// Names of all keys, without their tables.
fn key_names() -> Vec<String> {
    uncommented()
        .lines()
        .filter_map(|line| line.split_once(" = ").map(|(name, _)| name.to_owned()))
        .collect()
}

/// Reads `text` and checks the properties of every result.
fn check(text: &str) {
    if let Err(errors) = parse(text, "x.toml") {
        let lines = text.lines().count().max(1);
        let mut last = 1;
        for problem in errors.problems() {
            let line = problem.line.expect("a problem should have a line");
            assert!((last..=lines).contains(&line), "{problem:?} of {lines} lines in {text:?}");
            assert!(!problem.message.is_empty() && !problem.hint.is_empty(), "{problem:?}");
            last = line;
        }
        assert!(!errors.problems().is_empty());
    }
}

/// Range to cut from the text, and its replacement.
fn mutation() -> impl Strategy<Value = (usize, usize, String)> {
    let scrap = prop_oneof![
        4 => "[\\[\\]{}=\",.'#\n\r0-9a-z_µ -]{0,6}",
        2 => prop::sample::select(vec!["\n[", "]]", "\"\"\"", "'5s'", "-1", "1e999", "nan", "[sense]\n", "mode", "\u{0}"])
            .prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    (any::<usize>(), 0..12_usize, scrap)
}

proptest! {
    // Counterexamples become tests; no file is kept.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn anything_like_toml_is_read_or_refused(
        text in "([a-z\\[\\]=\"'.,{}# \n0-9-]|mode|sense|detect|leak|interval|= '5s'\n){0,60}",
    ) {
        check(&text);
    }

    #[test]
    fn any_mutation_of_the_defaults_is_read_or_refused(mutations in prop::collection::vec(mutation(), 1..8)) {
        for mut text in [commented_defaults(), uncommented()] {
            for (at, length, scrap) in &mutations {
                let start = text.floor_char_boundary(at % (text.len() + 1));
                let end = text.floor_char_boundary((start + length).min(text.len())).max(start);
                text.replace_range(start..end, scrap);
            }
            check(&text);
        }
    }

    #[test]
    fn any_value_of_any_key_is_read_or_refused(
        key in prop::sample::select(key_names()),
        table in prop::sample::select(vec!["", "sense", "detect", "detect.leak", "detect.overload", "decide", "serve"]),
        value in prop_oneof![
            "-?[0-9]{0,30}(\\.[0-9]{1,3})?(e[0-9]{1,4})?",
            "\"([0-9]{1,20}(ns|s|h|d|y|MiB|TB)?){0,6}\"",
            "\\[('[0-9]{1,3}[smhd]',){0,8}\\]",
            "true|\\{\\}|1979-05-27",
        ],
    ) {
        check(&format!("[{table}]\n{key} = {value}\n").replace("[]\n", ""));
    }
}
