//! A flood of incidents: its cost, and the delay of a real incident in it.

use std::{
    fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, thread::sleep, time::Duration,
};

use spillway_agent::{
    act::Notifier,
    clock::Clock,
    config::{Mode, parse},
    decide::{Action, Decision, IncidentId, Severity},
    detect::{Claim, ClaimState, OverloadClaim, Verdict},
};
use spillway_tests::{
    Held, Scratch, now,
    receiver::{Call, Form, Manner, Receiver},
    wait_for,
};

/// Number of flapping listeners, and of rounds in which each is raised or resolved.
const LISTENERS: usize = 1_000;
const ROUNDS: usize = 60;

/// Round in which a real incident begins.
const REAL_IN_ROUND: usize = 20;

/// Cgroup of a user, and of a service.
const FLOODED: &str = "/user.slice/user-1000.slice/session-4.scope";
const SERVICE: &str = "/system.slice/api.service";

/// Maximum delay of a critical page during a flood.
const SOON: Duration = Duration::from_secs(5);

/// Bound on memory growth: a receiver that is down has 256 pages of 1 to 2 KiB, of which only
/// numbers are in memory.
const GROWN_BYTES_MAX: u64 = 8 << 20;

/// Bound on the size of the spool's file.
const SPOOL_BYTES_MAX: u64 = 1 << 20;

struct Flood {
    paging: Notifier,
    spool: PathBuf,
    _scratch: Scratch,
}

impl Flood {
    fn start(test: &str, webhook: &Receiver, slack: &Receiver) -> Self {
        let scratch = Scratch::make(test);
        let state = scratch.0.join("state");
        let text = format!(
            "mode = \"enforce\"\n[record]\nstate_dir = \"{}\"\n[act.page.webhook]\nurl \
            = \"{}\"\nsecret_file = \"{}\"\n\
             [act.page.slack]\nurl_file = \"{}\"\n",
            state.display(),
            webhook.url("/"),
            scratch.secret("keys", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").display(),
            scratch.secret("url", &slack.url("/services/T0/B0/x")).display(),
        );
        let config = parse(&text, "flood.toml").expect("the configuration should be valid");
        let paging = Notifier::start(&config, Clock::start())
            .expect("starting the notifier")
            .expect("a receiver is configured");
        Self { paging, spool: state.join("spool.redb"), _scratch: scratch }
    }

    fn decide(&mut self, cgroup: &str, addr: &str, state: ClaimState, severity: Severity) {
        let claim = OverloadClaim {
            addr: Arc::from(addr),
            cgroup: Arc::from(cgroup),
            ..OverloadClaim::default()
        };
        let (claim, why) = (Claim::Overload(claim), "its accept queue stands".to_owned());
        let verdict = Verdict {
            t: 1.0,
            claim,
            exhaustion_secs: None,
            exhaustion_interval_secs: None,
            confidence: 1.0,
            state,
            harm: None,
            identity: None,
            why: why.clone(),
        };
        let action = match state {
            ClaimState::Raised | ClaimState::Updated => Action::Page { severity },
            ClaimState::Cleared => Action::Resolve,
        };
        let (id, mode) = (IncidentId::from(&verdict), Mode::Enforce);
        let shared = Arc::new(verdict.clone());
        let decision =
            Decision { action, mode, verdict: shared, id, performed: false, refused: None, why };
        self.paging.decided(&decision, &[verdict]);
    }

    /// Raises half of the listeners that `cgroup` places and resolves the others, as a scan would.
    fn round(&mut self, nth: usize, severity: Severity, cgroup: impl Fn(usize) -> String) {
        for listener in 0..LISTENERS {
            let state = if (listener + nth).is_multiple_of(2) {
                ClaimState::Raised
            } else {
                ClaimState::Cleared
            };
            self.decide(
                &cgroup(listener),
                &format!("127.0.0.1:{}", 10_000 + listener),
                state,
                severity,
            );
        }
        self.paging.tick();
    }

    fn spool_bytes(&self) -> u64 {
        // Space used on the disk: less than the length of a sparse file.
        fs::metadata(&self.spool).map_or(0, |file| file.len().max(file.blocks() * 512))
    }
}

fn is_about(call: &Call, cgroup: &str) -> bool {
    call.json()["data"]["group"] == cgroup
}

/// Floods the policy, starts a real incident meanwhile, and returns the calls to the webhook.
fn flood(
    test: &str,
    down: Manner,
    severity: Severity,
    cgroup: impl Fn(usize) -> String,
) -> Vec<Call> {
    let (webhook, slack) = (Receiver::start(Form::Webhook), Receiver::start(Form::Slack));
    slack.behaves(down);
    let mut flood = Flood::start(test, &webhook, &slack);
    let resident_bytes = || Held::by(std::process::id()).resident_bytes;
    let (before, mut spool_bytes, mut took) = (resident_bytes(), 0, None);
    let mut begun = None;
    for nth in 0..ROUNDS {
        flood.round(nth, severity, &cgroup);
        if nth == REAL_IN_ROUND {
            flood.decide(SERVICE, "0.0.0.0:443", ClaimState::Raised, Severity::Critical);
            begun = Some(now());
        }
        let is_delivered = || webhook.calls().iter().any(|call| is_about(call, SERVICE));
        took = took.or_else(|| begun.filter(|_| is_delivered()).map(|begun| begun.elapsed()));
        spool_bytes = spool_bytes.max(flood.spool_bytes());
        sleep(Duration::from_millis(50));
    }
    let took = took.or_else(|| {
        let delivered = wait_for(SOON, || {
            webhook.calls().iter().any(|call| is_about(call, SERVICE)).then_some(())
        });
        delivered.and(begun).map(|begun| begun.elapsed())
    });
    let waiting = flood.paging.counts().waiting.get();
    let grown_bytes = resident_bytes().saturating_sub(before);
    println!(
        "{test}: delivered after {took:?}, {} calls, {waiting} wait, {grown_bytes} bytes more, \
         a spool of {spool_bytes} bytes",
        webhook.calls().len()
    );
    assert!(took.is_some_and(|took| took < SOON), "the real incident was delivered after {took:?}");
    assert!(waiting <= 2 * 256, "{waiting} wait");
    assert!(grown_bytes < GROWN_BYTES_MAX, "memory grew by {grown_bytes} bytes");
    assert!(spool_bytes < SPOOL_BYTES_MAX, "{spool_bytes} bytes");
    flood.paging.stop();
    webhook.calls()
}

#[test]
fn thousand_flapping_listeners_delay_no_critical_page() {
    let calls =
        flood("page-flood-user", Manner::Answers(503, "", Vec::new()), Severity::Critical, |_| {
            FLOODED.to_owned()
        });
    let summaries: Vec<_> =
        calls.iter().filter(|call| call.json()["data"]["class"] == "many incidents").collect();
    assert!(!summaries.is_empty(), "{calls:?}");
    let text = summaries[0].json()["data"]["summary"].as_str().unwrap_or_default().to_owned();
    println!("delivered: {text}");
    assert!(text.starts_with("/user.slice/user-1000.slice on "), "{text}");
}

#[test]
fn thousand_flapping_cgroups_are_bounded() {
    let cgroup = |nth| format!("/system.slice/x{nth}.service");
    let calls = flood("page-flood-cgroups", Manner::Resets, Severity::Warning, cgroup);
    assert!(calls.len() <= 10, "{}", calls.len());
}
