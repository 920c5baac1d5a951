//! Tests of the exhaustion detector through the engine.

use std::sync::Arc;

use serde_json::Value;

use crate::{
    config::{Config, ServicePattern},
    decide::{Action, Decision},
    detect::{Claim, ClaimState, ExhaustionClaim, HostInfo, Severity, Verdict},
    engine::{Engine, Output},
    sense::{CountFact, CountUser, CountedResource, Fact, HostFact, Observation},
};

const GIB: u64 = 1 << 30;
const HOUR: f64 = 3_600.0;

/// Engine of a host whose operator named one service.
fn engine() -> Engine {
    let mut config = Config::default();
    config.decide.services = vec![ServicePattern::new("api.service").expect("it is a pattern")];
    Engine::new(&config, HostInfo { mem_total_bytes: 16 << 30, cpus: 4 })
}

/// Count of a resource of `/var`, or of the host.
fn fact(resource: &str, used: f64, limit: Option<u64>, users: &[(&str, u32, f64)]) -> CountFact {
    let resource = CountedResource::named(resource);
    let subject = if resource == CountedResource::DiskBytes { "/var" } else { "host" };
    let user = |&(name, pid, used): &(&str, u32, f64)| CountUser {
        name: Arc::from(name),
        pid: Some(pid),
        used: used as u64,
    };
    let culprits = users.iter().map(user).collect();
    CountFact { resource, subject: Arc::from(subject), used: used as u64, limit, culprits }
}

/// Verdicts about counts that come every ten seconds.
fn run(secs: f64, count: impl Fn(f64) -> CountFact) -> Vec<Verdict> {
    outputs(secs, count).verdicts
}

/// Verdicts and decisions about counts that come every ten seconds.
fn outputs(secs: f64, count: impl Fn(f64) -> CountFact) -> Output {
    let mut engine = engine();
    let mut all = Output::default();
    for sample in 0..(secs / 10.0) as u32 {
        let t = f64::from(sample) * 10.0;
        let host = HostFact { mem_available_bytes: 8 * GIB, psi_memory_some_avg10: None };
        for fact in [Fact::Host(host), Fact::Count(count(t))] {
            let output = engine.apply(&Observation { t, fact });
            all.verdicts.extend(output.verdicts);
            all.decisions.extend(output.decisions);
        }
    }
    all
}

fn claim(verdict: &Verdict) -> &ExhaustionClaim {
    let Claim::Exhaustion(claim) = &verdict.claim else { panic!("{verdict:?}") };
    claim
}

fn severity(verdict: &Verdict) -> Option<Severity> {
    verdict.harm.as_ref().map(|harm| harm.severity)
}

/// Bytes on a disk of 100 GiB that a log fills within ten hours, beside a large database.
fn log_fills_disk(t: f64) -> CountFact {
    let log = 60.0 * GIB as f64 * (t - HOUR).max(0.0) / (10.0 * HOUR);
    let users = [("/var/lib/db/main", 7, 35.0 * GIB as f64), ("/var/log/app.log", 812, log)];
    fact("disk_bytes", 40.0 * GIB as f64 + log, Some(100 * GIB), &users)
}

/// Threads of a unit that come to its `pids.max` within ten hours.
fn unit_starts_threads(unit: &str, t: f64) -> CountFact {
    let threads = 4_000.0 + 6_000.0 * (t - HOUR).max(0.0) / (10.0 * HOUR);
    let subject = Arc::from(format!("/system.slice/{unit}"));
    CountFact { subject, ..fact("pids", threads, Some(10_000), &[]) }
}

#[test]
fn disk_that_fills_is_foretold_with_the_writer() {
    let verdicts = run(10.0 * HOUR, log_fills_disk);
    let raised = &verdicts[0];
    let taken = (raised.t - HOUR) / (10.0 * HOUR);
    assert!((0.15..0.2).contains(&taken), "{taken}");
    let left_secs = 11.0 * HOUR - raised.t;
    let forecast = raised.exhaustion_secs.expect("it is forecast");
    assert!((0.9..1.1).contains(&(forecast / left_secs)), "{forecast} of {left_secs}");
    let culprit = claim(raised).culprit.as_ref().expect("it has a culprit");
    assert_eq!((&*culprit.name, culprit.pid), ("/var/log/app.log", Some(812)));
    assert!(culprit.share > 0.9, "{culprit:?}");
    assert!(raised.why.contains("disk space of /var grew by"), "{}", raised.why);
    assert!(
        raised.why.ends_with("; /var/log/app.log (pid 812) took all of the growth"),
        "{}",
        raised.why
    );
}

#[test]
fn page_about_a_disk_can_be_acted_on() {
    let verdicts = run(4.0 * HOUR, log_fills_disk);
    let (claim, secs) = (&verdicts[0].claim, verdicts[0].exhaustion_secs);
    let headline = claim.headline("web-3", secs);
    let expected = "disk space of /var on web-3: 50.2 GiB of 100.0 GiB in use, 1.7 MiB/s more, \
                    /var/log/app.log (pid 812) took all of the growth; if nothing is done, it runs \
                    out in 8.3 h";
    assert_eq!(headline, expected);
    assert!(claim.advice(secs).starts_with("delete or move what is not needed there"));
    assert_eq!(
        (claim.component(), claim.class()),
        ("disk space of /var".into(), "exhaustion".into())
    );
}

#[test]
fn claim_of_a_disk_names_it_in_json() {
    let verdicts = run(4.0 * HOUR, log_fills_disk);
    let json: Value = serde_json::to_value(&verdicts[0]).expect("it is JSON");
    assert_eq!((&json["verdict"], &json["resource"]), (&"exhaustion".into(), &"disk_bytes".into()));
    assert_eq!((&json["subject"], &json["limit"]), (&"/var".into(), &(100 * GIB).into()));
    assert_eq!(json["culprit"]["name"], "/var/log/app.log");
    assert_eq!(verdicts[0].claim.id().to_string(), "exhaustion-disk_bytes-/var");
}

#[test]
fn urgency_rises_as_the_end_of_a_service_comes_near() {
    let verdicts = run(10.97 * HOUR, |t| unit_starts_threads("api.service", t));
    let severities: Vec<_> = verdicts.iter().filter_map(severity).collect();
    assert_eq!(severities, [Severity::Warning, Severity::Critical]);
    assert!(verdicts[1..].iter().all(|verdict| verdict.state == ClaimState::Updated));
}

#[test]
fn only_the_end_of_a_service_drains_or_wakes_somebody() {
    let drains = |count: &dyn Fn(f64) -> CountFact| {
        let Output { verdicts, decisions } = outputs(10.97 * HOUR, count);
        let drained = decisions.iter().filter(|decision| decision.action == Action::Drain);
        let is_paged = |decision: &Decision| matches!(decision.action, Action::Page { .. });
        let worst = verdicts.iter().filter_map(severity).max();
        (drained.count(), decisions.iter().any(is_paged), worst)
    };
    let of_service = drains(&|t| unit_starts_threads("api.service", t));
    assert_eq!(of_service, (1, true, Some(Severity::Critical)));
    // Any user can fill a disk or /dev/shm, and a unit that nobody uses may end.
    let of_disk = drains(&log_fills_disk);
    let of_other = drains(&|t| unit_starts_threads("cron.service", t));
    assert_eq!([of_disk, of_other], [(0, true, Some(Severity::Warning)); 2]);
}

#[test]
fn disk_that_is_cleaned_up_clears_and_is_judged_anew() {
    let used = |t: f64| {
        let t = if t > 4.0 * HOUR { t - 4.0 * HOUR } else { t };
        fact("disk_bytes", (40.0 + 6.0 * t / HOUR) * GIB as f64, Some(100 * GIB), &[])
    };
    let verdicts = run(7.0 * HOUR, used);
    let of = |state| verdicts.iter().filter(move |verdict| verdict.state == state);
    let [cleared] = &of(ClaimState::Cleared).collect::<Vec<_>>()[..] else {
        panic!("{verdicts:?}")
    };
    assert!(cleared.why.contains("is free again"), "{}", cleared.why);
    let raised: Vec<_> = of(ClaimState::Raised).map(|verdict| verdict.t).collect();
    assert!(matches!(raised[..], [_, again] if again < 6.2 * HOUR), "{raised:?}");
}

#[test]
fn level_that_was_left_long_ago_hides_no_climb() {
    let day = 24.0 * HOUR;
    let used = |t: f64| {
        let climbed = 6.0 * (t - 12.0 * day).max(0.0) / HOUR;
        let percent = if t < 2.0 * day { 90.0 } else { 40.0 + climbed };
        fact("disk_bytes", percent * GIB as f64, Some(100 * GIB), &[])
    };
    let verdicts = run(12.0 * day + 5.0 * HOUR, used);
    assert!(!verdicts.is_empty(), "it is at 70 % by the end");
    let raised_t = verdicts[0].t - 12.0 * day;
    assert!((0.0..2.5 * HOUR).contains(&raised_t), "{raised_t}");
}

#[test]
fn copy_that_ends_is_not_urgent_and_is_cleared() {
    let used = |t: f64| {
        let copied = 20.0 * ((t - HOUR) / 600.0).clamp(0.0, 1.0);
        fact("disk_bytes", (40.0 + copied) * GIB as f64, Some(100 * GIB), &[])
    };
    let verdicts = run(3.0 * HOUR, used);
    assert!(verdicts.iter().all(|verdict| severity(verdict) == Some(Severity::Info)));
    assert!(verdicts.last().is_none_or(|last| last.state == ClaimState::Cleared));
}

#[test]
fn rotated_log_pool_and_full_image_are_nothing() {
    let rotated = |t: f64| {
        let log = 5.0 * (t / HOUR).fract();
        fact("disk_bytes", (40.0 + log) * GIB as f64, Some(100 * GIB), &[])
    };
    assert_eq!(run(30.0 * HOUR, rotated), []);
    let pool = |t: f64| fact("conntrack", 400.0 * (1.0 - (-t / 600.0).exp()), Some(1_000), &[]);
    assert_eq!(run(5.0 * HOUR, pool), []);
    let full = |_| fact("pids", 64.0, Some(64), &[]);
    assert_eq!(run(5.0 * HOUR, full), []);
}

#[test]
fn load_that_begins_fills_conntrack_for_two_minutes_only() {
    // Connections of twenty seconds each, which are kept for two minutes after they were closed.
    for per_sec in [500.0, 900.0] {
        let kept =
            |t: f64| fact("conntrack", per_sec * (t - HOUR).clamp(0.0, 140.0), Some(262_144), &[]);
        assert_eq!(run(3.0 * HOUR, kept), []);
    }
}

#[test]
fn jump_to_the_limit_is_claimed_without_a_forecast() {
    let used = |t: f64| fact("conntrack", if t > HOUR { 1_000.0 } else { 200.0 }, Some(1_000), &[]);
    let verdicts = run(2.0 * HOUR, used);
    let [raised] = &verdicts[..] else { panic!("{verdicts:?}") };
    assert!(raised.t - HOUR < 60.0, "{}", raised.t);
    assert_eq!((raised.exhaustion_secs, severity(raised)), (Some(0.0), Some(Severity::Warning)));
    assert!(raised.why.contains("jumped to its limit: 1,000 of 1,000"), "{}", raised.why);
    let service = |t: f64| CountFact {
        subject: Arc::from("/system.slice/api.service"),
        ..fact("pids", if t > HOUR { 1_000.0 } else { 200.0 }, Some(1_000), &[])
    };
    let verdicts = run(2.0 * HOUR, service);
    assert_eq!(verdicts.iter().map(severity).collect::<Vec<_>>(), [Some(Severity::Critical)]);
}

#[test]
fn count_without_a_limit_takes_long_and_is_no_page() {
    let used = |t: f64| fact("dying_cgroups", 300.0 + t / 6.0, None, &[]);
    let verdicts = run(20.0 * HOUR, used);
    assert_eq!(severity(&verdicts[0]), Some(Severity::Info));
    assert!(verdicts[0].t >= 6.0 * HOUR && verdicts[0].exhaustion_secs.is_none());
}

#[test]
fn kernel_memory_ends_with_the_memory_of_the_host() {
    let used = |t: f64| fact("slab_bytes", 2e8 + t * 1e6, Some(16 * GIB), &[]);
    let verdicts = run(HOUR, used);
    let secs = verdicts[0].exhaustion_secs.expect("it is forecast");
    assert!((8_000.0..9_000.0).contains(&secs), "{secs}");
}

#[test]
fn count_that_disappears_is_cleared() {
    let mut engine = engine();
    let mut verdicts = Vec::new();
    for sample in 0..4_000_u32 {
        let t = f64::from(sample) * 10.0;
        let host = HostFact { mem_available_bytes: GIB, psi_memory_some_avg10: None };
        let facts =
            [Some(Fact::Host(host)), (t < 3.0 * HOUR).then(|| Fact::Count(log_fills_disk(t)))];
        for fact in facts.into_iter().flatten() {
            verdicts.extend(engine.apply(&Observation { t, fact }).verdicts);
        }
    }
    let last = verdicts.last().expect("it was claimed");
    assert_eq!(last.state, ClaimState::Cleared);
    assert!(last.why.ends_with("it is gone") && last.t < 3.2 * HOUR, "{last:?}");
}
