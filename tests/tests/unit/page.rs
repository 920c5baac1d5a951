//! Paging against receivers that accept and reject what real ones do, and that are slow, down or
//! lying.

use std::{fs, net::TcpListener, path::Path, sync::Arc, thread::sleep, time::Duration};

use serde_json::Value;
use spillway_agent::{
    act::{Notifier, Outcome, OutcomeKind},
    clock::Clock,
    config::{Config, Mode, parse},
    decide::{IncidentId, Policy},
    detect::{Bound, Claim, ClaimState, LeakClaim, Resource, Verdict},
    sense::{Fact, PagerFact, ProcessId},
};
use spillway_tests::{
    Reference, Scratch, Servers, http_get, is_root, now,
    receiver::{Call, Form, Manner, PAGERDUTY_KEY, Receiver},
    skip, wait_for,
};
use standardwebhooks::Webhook;

const KEYS: [&str; 2] =
    ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];
const SOON: Duration = Duration::from_secs(20);

/// Notifier of an agent and its policy.
struct Pager {
    config: Config,
    paging: Option<Notifier>,
    policy: Policy,
    scratch: Scratch,
}

impl Pager {
    /// Starts notifications to receivers configured by `tables`, in which `{}` is the address.
    fn start(test: &str, tables: &[(&str, &str)]) -> Self {
        let scratch = Scratch::make(test);
        let secret = |name: &str, text: &str| scratch.secret(name, text).display().to_string();
        let mut text = format!(
            "mode = \"enforce\"\n[record]\nstate_dir = \"{}\"\n",
            scratch.0.join("state").display()
        );
        for (form, url) in tables {
            let keys = match *form {
                "pagerduty" => format!(
                    "url = \"{url}\"\nrouting_key_file = \"{}\"",
                    secret("key", PAGERDUTY_KEY)
                ),
                "slack" => format!("url_file = \"{}\"", secret("url", url)),
                "webhook" => format!(
                    "url = \"{url}\"\nsecret_file = \"{}\"",
                    secret("keys", &KEYS.join("\n"))
                ),
                _ => format!("url = \"{url}\""),
            };
            text.push_str(&format!("[act.page.{form}]\n{keys}\n"));
        }
        text.push_str(
            "[decide]\nflap_within = \"0s\"\n[act.page]\nrunbook_url \
        = \"https://wiki.internal/leaks\"\npicture_url = \"https://graphs.internal/a.png\"\n",
        );
        let config = parse(&text, "page.toml").expect("the configuration should be valid");
        let mut pager = Self {
            policy: Policy::new(&config.decide, Mode::Enforce),
            config,
            paging: None,
            scratch,
        };
        pager.run();
        pager
    }

    fn run(&mut self) {
        self.paging = Notifier::start(&self.config, Clock::start()).expect("starting the notifier");
        assert!(self.paging.is_some(), "a receiver is configured");
    }

    /// Raises or clears the claim of a leak.
    fn judge(&mut self, pid: u32, state: ClaimState) {
        let claim = LeakClaim {
            cgroup_memory: None,
            resource: Resource::Memory,
            id: ProcessId { pid, start_ticks: 4711 },
            comm: Arc::from("api"),
            cgroup: Arc::from(format!("/system.slice/api@{pid}.service")),
            growth_bytes_per_sec: Some(1_048_576.0),
            growth_handles_per_sec: None,
            growth_interval_bytes_per_sec: Some([1e6, 2e6]),
            bound: Bound::Host,
        };
        let (claim, why) =
            (Claim::Leak(claim), "api grew by 64 MiB in a minute, in a straight line".to_owned());
        let forecast = (Some(8_280.0), Some([4_000.0, 16_000.0]));
        let (exhaustion_secs, exhaustion_interval_secs) = forecast;
        let mut verdict = Verdict {
            t: 1.0,
            claim,
            exhaustion_secs,
            exhaustion_interval_secs,
            confidence: 0.97,
            state,
            harm: None,
            identity: None,
            why,
        };
        let mut decisions = Vec::new();
        self.policy.judge(&mut verdict, &mut decisions);
        let paging = self.paging.as_mut().expect("the notifier should be running");
        let verdicts = [verdict];
        for decision in &decisions {
            paging.decided(decision, &verdicts);
        }
    }

    fn limited(&mut self, pid: u32) {
        let id = ProcessId { pid, start_ticks: 4_711 };
        let cause = IncidentId::Leak(id, Resource::Memory).into();
        let why = "memory.high set to 536870912 bytes".to_owned();
        let outcome = Outcome {
            t: 2.0,
            event: OutcomeKind::Limited,
            cause,
            cgroup: Arc::from("/system.slice/api.service"),
            limit_bytes: Some(512 << 20),
            why,
        };
        self.paging.as_mut().expect("the notifier should be running").done(&outcome);
    }
}

fn until(receiver: &Receiver, what: &str, is_there: impl Fn(&[Call]) -> bool) -> Vec<Call> {
    let calls = wait_for(SOON, || Some(receiver.calls()).filter(|calls| is_there(calls)));
    calls.unwrap_or_else(|| panic!("not {what}: {:?}", receiver.calls()))
}

fn actions(calls: &[Call]) -> Vec<String> {
    calls
        .iter()
        .map(|call| call.json()["event_action"].as_str().unwrap_or("change").to_owned())
        .collect()
}

#[test]
fn page_that_another_node_sends_is_not_sent_here() {
    let webhook = Receiver::start(Form::Webhook);
    let mut pager = Pager::start("page-elsewhere", &[("webhook", &webhook.url("/spillway"))]);
    let alone = Policy::new(&pager.config.decide, Mode::Enforce);
    pager.policy = Policy::new(&pager.config.decide, Mode::Enforce).in_group();
    let fact = PagerFact {
        cause: Arc::from("api in api@812.service"),
        pager: Some(Arc::from("web-3")),
        ..PagerFact::default()
    };
    pager.policy.observe(0.0, &Fact::Pager(fact), &mut Vec::new());
    pager.judge(812, ClaimState::Raised);
    pager.policy = alone;
    pager.judge(900, ClaimState::Raised);
    let calls = until(&webhook, "notified", |calls| !calls.is_empty());
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert!(calls[0].json().to_string().contains("leak-900-4711"), "{calls:?}");
}

#[test]
fn each_receiver_gets_its_own_format() {
    let (pagerduty, slack, webhook) = (
        Receiver::start(Form::PagerDuty),
        Receiver::start(Form::Slack),
        Receiver::start(Form::Webhook),
    );
    let mut pager = Pager::start(
        "page-forms",
        &[
            ("pagerduty", &pagerduty.url("/v2/enqueue")),
            ("slack", &slack.url("/services/T0/B0/x")),
            ("webhook", &webhook.url("/spillway")),
        ],
    );
    // An update that a receiver has not yet got when the incident is resolved is not sent.
    let everybody = |what: &str, count: usize| {
        [&pagerduty, &slack, &webhook].map(|one| until(one, what, |calls| calls.len() == count))
    };
    pager.judge(812, ClaimState::Raised);
    everybody("triggered", 1);
    pager.limited(812);
    everybody("notified of the limit", 3);
    pager.judge(812, ClaimState::Cleared);
    let [calls, to_slack, to_webhook] = everybody("resolved", 4);
    assert!(calls.iter().all(|call| call.status == 202), "{calls:?}");
    assert_eq!(actions(&calls), ["trigger", "trigger", "change", "resolve"]);
    let keys: Vec<_> = calls
        .iter()
        .filter_map(|call| call.json()["dedup_key"].as_str().map(str::to_owned))
        .collect();
    assert!(
        keys.len() == 3 && keys.iter().all(|key| *key == keys[0] && key.ends_with("leak-812-4711")),
        "{keys:?}"
    );
    let first = &calls[0].json()["payload"];
    assert_eq!((&first["severity"], &first["component"]), (&"warning".into(), &"api".into()));
    assert_eq!(first["custom_details"]["growth_bytes_per_sec"], 1_048_576.0);
    assert_eq!(calls[0].json()["links"][0]["href"], "https://wiki.internal/leaks");

    let calls = to_slack;
    assert!(calls.iter().all(|call| call.status == 200), "{calls:?}");
    let text = calls[0].json()["text"].as_str().expect("the message should have a text").to_owned();
    assert!(
        text.starts_with("*Warning* api (pid 812) on ") && text.contains("1.0 MiB a second"),
        "{text}"
    );

    let calls = to_webhook;
    let types: Vec<_> = calls
        .iter()
        .map(|call| call.json()["type"].as_str().unwrap_or_default().to_owned())
        .collect();
    let kinds = ["raised", "updated", "changed", "resolved"];
    assert_eq!(types, kinds.map(|kind| format!("io.spillway.incident.{kind}")));
    for call in &calls {
        let header = |name: &str| call.headers.get(name).cloned().unwrap_or_default();
        let headers = call.header_map();
        for key in KEYS {
            let webhook = Webhook::new(key).expect("the key should be valid");
            webhook.verify(&call.body, &headers).expect("either key should verify");
            assert!(webhook.verify(b"{}", &headers).is_err());
        }
        let event = call.json();
        assert_eq!(
            (&event["specversion"], &event["id"]),
            (&"1.0".into(), &header("webhook-id").into())
        );
        assert!(header("content-type").starts_with("application/cloudevents+json"));
    }
}

#[test]
fn python_library_accepts_only_unchanged_signatures() {
    let test = "page-reference";
    let reference = match Reference::find() {
        Ok(reference) => reference,
        Err(reason) => return skip(test, &reason),
    };
    let webhook = Receiver::start(Form::Webhook);
    let mut pager = Pager::start(test, &[("webhook", &webhook.url("/spillway"))]);
    pager.judge(812, ClaimState::Raised);
    let calls = until(&webhook, "notified", |calls| calls.len() == 1);
    reference.judge(&KEYS, &calls[0]);
    // The older key is removed once every receiver has the newer one.
    fs::write(pager.scratch.0.join("keys"), KEYS[0]).expect("writing a test file");
    pager.judge(812, ClaimState::Cleared);
    let calls = until(&webhook, "notified", |calls| calls.len() == 2);
    reference.judge(&KEYS[..1], &calls[1]);
    assert_eq!(reference.verify(KEYS[1], &calls[1]), Err("No matching signature found".to_owned()));
}

#[test]
fn real_alertmanager_accepts_raise_and_resolve() {
    let test = "page-alertmanager";
    if !is_root(test) {
        return;
    }
    let servers = match Servers::find() {
        Ok(servers) => servers,
        Err(reason) => return skip(test, &reason),
    };
    let scratch = Scratch::make("alertmanager");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let addr = port.expect("finding a free port");
    let _alertmanager = servers.alertmanager(&scratch.0, addr);
    let mut pager =
        Pager::start(test, &[("alertmanager", &format!("http://{addr}/api/v2/alerts"))]);
    // On a busy machine it may be late.
    let alerts = || -> Option<Vec<Value>> {
        let text = http_get(addr, "/api/v2/alerts").ok()?;
        let (_, body) = text.split_once("\r\n\r\n").expect("the response should be HTTP");
        Some(serde_json::from_str(body).expect("the response should list alerts"))
    };
    pager.judge(812, ClaimState::Raised);
    let standing = wait_for(SOON, || alerts()?.into_iter().next())
        .expect("Alertmanager should have the alert");
    assert_eq!(
        (&standing["labels"]["alertname"], &standing["status"]["state"]),
        (&"Spillway".into(), &"active".into())
    );
    assert_eq!(standing["annotations"]["runbook_url"], "https://wiki.internal/leaks");
    pager.limited(812);
    let done = " Spillway: memory limited to 512.0 MiB. ";
    let updated = wait_for(SOON, || {
        let alerts = alerts()?;
        let summary = alerts.first()?["annotations"]["summary"].as_str()?.to_owned();
        (alerts.len() == 1 && summary.contains(done)).then_some(())
    });
    assert!(updated.is_some(), "{:?}", alerts());
    pager.judge(812, ClaimState::Cleared);
    let resolved = wait_for(SOON, || alerts()?.is_empty().then_some(()));
    assert!(resolved.is_some(), "{:?}", alerts());
}

#[test]
fn every_receiver_is_notified_eventually_and_once() {
    let manners = [
        Manner::Answers(503, "", b"down".to_vec()),
        Manner::Answers(429, "retry-after: 1\r\n", Vec::new()),
        Manner::Answers(200, "", b"<html>please log in</html>".to_vec()),
        Manner::Answers(202, "", vec![b'x'; 1 << 20]),
        Manner::Answers(302, "location: http://127.0.0.1:1/\r\n", Vec::new()),
        Manner::Resets,
    ];
    for (nth, manner) in manners.into_iter().enumerate() {
        let receiver = Receiver::start(Form::PagerDuty);
        receiver.behaves(manner.clone());
        let mut pager = Pager::start(
            &format!("page-manners-{nth}"),
            &[("pagerduty", &receiver.url("/v2/enqueue"))],
        );
        let start = now();
        pager.judge(812, ClaimState::Raised);
        until(&receiver, "tried again", |calls| calls.len() == 2);
        let took = start.elapsed();
        assert!(
            took < Duration::from_millis(1_800),
            "{manner:?}: the first retry came after {took:?}"
        );
        receiver.behaves(Manner::Well);
        until(&receiver, "notified", |calls| calls.last().is_some_and(|call| call.status == 202));
        pager.judge(812, ClaimState::Cleared);
        let is_resolve = |call: &Call| call.json()["event_action"] == "resolve";
        let calls = until(&receiver, "notified", |calls| calls.iter().any(is_resolve));
        assert!(calls.iter().rev().skip(1).all(|call| !is_resolve(call)), "{manner:?}: {calls:?}");
        assert_eq!(
            calls[calls.len() - 2].status,
            202,
            "{manner:?}: a resolve should follow its accepted trigger"
        );
        assert_eq!(receiver.most_open(), 1, "{manner:?}: one call at a time");
    }
}

#[test]
fn rejected_page_is_not_resent_and_blocks_nothing() {
    let receiver = Receiver::start(Form::PagerDuty);
    receiver.behaves(Manner::Answers(400, "", b"{\"status\":\"invalid event\"}".to_vec()));
    let mut pager = Pager::start("page-refused", &[("pagerduty", &receiver.url("/v2/enqueue"))]);
    pager.judge(812, ClaimState::Raised);
    until(&receiver, "asked", |calls| calls.len() == 1);
    receiver.behaves(Manner::Well);
    pager.judge(813, ClaimState::Raised);
    let calls = until(&receiver, "notified of the next", |calls| calls.len() == 2);
    assert!(
        calls[1].json()["dedup_key"].as_str().is_some_and(|key| key.ends_with("leak-813-4711"))
    );
}

#[test]
fn next_run_delivers_under_the_same_identity() {
    let receiver = Receiver::start(Form::Webhook);
    receiver.behaves(Manner::Answers(503, "", Vec::new()));
    let mut pager = Pager::start("page-next-run", &[("webhook", &receiver.url("/"))]);
    pager.judge(812, ClaimState::Raised);
    pager.judge(813, ClaimState::Raised);
    let first = until(&receiver, "tried", |calls| !calls.is_empty());
    pager.paging.take().expect("the notifier should be running").stop();
    receiver.behaves(Manner::Well);
    let before = receiver.calls().len();
    pager.run();
    let calls = until(&receiver, "notified", |calls| calls.len() == before + 2);
    let id = |call: &Call| call.headers["webhook-id"].clone();
    assert_eq!(id(&calls[before]), id(&first[0]));
    // It continues from the last run: repeated claims are not new, and cleared ones are resolved.
    pager.policy = Policy::new(&pager.config.decide, Mode::Enforce);
    pager.judge(812, ClaimState::Raised);
    pager.judge(812, ClaimState::Cleared);
    let calls = until(&receiver, "resolved", |calls| calls.len() == before + 3);
    assert_eq!(calls[before + 2].json()["type"], "io.spillway.incident.resolved");
    drop(pager.scratch);
}

#[test]
fn full_disk_delays_no_page_and_saves_later() {
    let test = "page-full-disk";
    if !is_root(test) {
        return;
    }
    let receiver = Receiver::start(Form::Webhook);
    let mut pager = Pager::start(test, &[("webhook", &receiver.url("/"))]);
    pager.paging.take().expect("the notifier should be running").stop();
    let disk = pager.scratch.0.join("disk");
    fs::create_dir(&disk).expect("making a directory");
    let mounted = Mounted::make(&disk);
    pager.config.record.state_dir = disk.join("state");
    let ballast = disk.join("ballast");
    let full = fs::write(&ballast, vec![0; 8 << 20]);
    assert!(full.is_err(), "the disk should be full");
    pager.run();
    pager.judge(812, ClaimState::Raised);
    until(&receiver, "notified", |calls| calls.len() == 1);
    receiver.behaves(Manner::Answers(503, "", Vec::new()));
    pager.judge(812, ClaimState::Cleared);
    let tried = until(&receiver, "tried", |calls| calls.len() >= 2);
    fs::remove_file(&ballast).expect("removing a test file");
    // Delivery is retried every five seconds.
    sleep(Duration::from_secs(7));
    pager.paging.take().expect("the notifier should be running").stop();
    receiver.behaves(Manner::Well);
    let before = receiver.calls().len();
    pager.run();
    let calls = until(&receiver, "notified", |calls| calls.len() > before);
    assert_eq!(calls[before].headers["webhook-id"], tried[1].headers["webhook-id"]);
    assert_eq!(calls[before].json()["type"], "io.spillway.incident.resolved");
    pager.paging.take().expect("the notifier should be running").stop();
    drop(mounted);
}

/// File system of four MiB, visible to this test's process alone.
struct Mounted(std::ffi::CString);

impl Mounted {
    fn make(at: &Path) -> Self {
        let at = std::ffi::CString::new(at.as_os_str().as_encoded_bytes())
            .expect("the path should have no NUL");
        // SAFETY: mount reads NUL-terminated strings, which live until it returns.
        let done = unsafe {
            libc::mount(
                c"tmpfs".as_ptr(),
                at.as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                c"size=4m".as_ptr().cast(),
            )
        };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // SAFETY: umount2 reads a NUL-terminated string, which lives until it returns.
        unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn hanging_receiver_costs_one_socket_and_few_calls() {
    let receiver = Receiver::start(Form::PagerDuty);
    receiver.behaves(Manner::Hangs);
    let mut pager = Pager::start("page-hangs", &[("pagerduty", &receiver.url("/v2/enqueue"))]);
    for pid in 0..100 {
        pager.judge(pid, ClaimState::Raised);
        pager.judge(pid, ClaimState::Cleared);
    }
    let start = now();
    sleep(Duration::from_secs(3));
    assert!(receiver.most_open() <= 1, "{}", receiver.most_open());
    pager.paging.take().expect("the notifier should be running").stop();
    assert!(start.elapsed() < Duration::from_secs(8), "stopping should not wait for the receiver");
}
