//! What a human is told: once when an incident is raised, again when it is more urgent or something else is done about it, and when it is over.
//!
//! Pure: time is an argument. Cold start: what an earlier run has told of and not ended is given to it; an incident that is raised again goes on
//! without a word, one that is not seen again for as long as the agent takes to be sure of it is over. Bounded by the incidents that are open.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value};

use super::{KEY_BYTES_MAX, News, Page, summary, timestamp};
use crate::{
    act::outcome::{Event, Outcome},
    decide::{Action, Decision, IncidentId, Severity},
    detect::Verdict,
    detect::words::Size,
};

/// A moment, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// On the observations' clock, in seconds.
    pub t: f64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

/// Who tells.
#[derive(Debug, Clone)]
pub struct Teller {
    /// This host's name.
    pub host: String,
    /// Tells this run of the agent from every other.
    pub run: String,
    /// An incident of an earlier run that is not raised again within this time is over.
    pub sure_after: Duration,
}

/// The incidents that a human knows of.
pub struct Pager {
    teller: Teller,
    pages_total: u64,
    open: BTreeMap<String, Open>,
}

/// An incident that a human knows of.
struct Open {
    /// What was told last.
    page: Page,
    /// What was claimed last; `None` for one of an earlier run that was not raised again.
    verdict: Option<Verdict>,
    /// What was done about it.
    done: Option<String>,
    /// Since when this run knows of it.
    known_since: f64,
}

impl Pager {
    /// Goes on with what an earlier run has told last of each incident that it did not end. `t` is now.
    pub fn new(teller: Teller, told: Vec<Page>, t: f64) -> Self {
        let open = |page: Page| (page.incident.clone(), Open { page, verdict: None, done: None, known_since: t });
        Self { teller, pages_total: 0, open: told.into_iter().map(open).collect() }
    }

    /// What is to be told on account of a decision. `verdicts` are those that it followed from.
    pub fn decided(&mut self, now: Now, decision: &Decision, verdicts: &[Verdict]) -> Option<Page> {
        let incident = self.key(&decision.id.to_string());
        match decision.action {
            Action::Page { severity } => {
                let verdict = verdicts.iter().rev().find(|verdict| IncidentId::from(*verdict) == decision.id);
                let Some(open) = self.open.get_mut(&incident) else {
                    return verdict.map(|verdict| self.raise(now, incident, severity, verdict.clone()));
                };
                open.verdict = verdict.cloned().or(open.verdict.take());
                let is_worse = severity > open.page.severity;
                is_worse.then(|| self.update(now, &incident, severity)).flatten()
            }
            Action::Resolve => self.resolve(now, &incident, &decision.why),
            Action::Limit | Action::Unlimit | Action::Drain | Action::Undrain | Action::Weigh | Action::Unweigh => None,
        }
    }

    /// What is to be told on account of what was done: how its incident stands now, and the change to this host.
    pub fn done(&mut self, now: Now, outcome: &Outcome) -> Vec<Page> {
        let size = outcome.limit_bytes.map(|bytes| Size(bytes as f64).to_string());
        let why = outcome.why.lines().next().unwrap_or_default();
        let done = match outcome.event {
            Event::Limited => format!("its memory is held below {}", size.unwrap_or_default()),
            Event::Still => format!("its memory is held below {} and grows no more", size.unwrap_or_default()),
            Event::Undone | Event::Gone => "its limit is lifted".to_owned(),
            Event::Refused => format!("it is not limited: {why}"),
            Event::Failed => format!("it could not be limited: {why}"),
            Event::Yielded => format!("its limit is left to somebody else: {why}"),
            Event::BackedOff | Event::Thrashing => format!("a limit does not help: {why}"),
            Event::Slowed => format!("its memory is held below {}, and it gets less CPU", size.unwrap_or_default()),
            Event::Draining => "this node is drained".to_owned(),
            Event::DrainRefused => format!("this node could not be drained: {why}"),
            Event::DrainUseless => format!("this node takes work again: {why}"),
            Event::Undrained => "this node takes work again".to_owned(),
            Event::UndrainFailed => format!("this node does not get its work back: {why}"),
            Event::DrainRequested | Event::Drained | Event::Verifying | Event::UndrainRequested => return Vec::new(),
            Event::Reasserted | Event::Tightened | Event::Widened | Event::Held => return Vec::new(),
        };
        // Whoever was told in an earlier run is told of by its names.
        let incidents: Vec<_> = outcome.id.split(", ").map(|id| self.key(id)).collect();
        let mut pages = Vec::new();
        for incident in &incidents {
            let Some(open) = self.open.get_mut(incident) else { continue };
            let is_news = open.done.as_ref() != Some(&done);
            open.done = Some(done.clone());
            let severity = open.page.severity;
            // A setback that was none before is decided to be urgent, and told of then.
            if is_news && !(outcome.event.is_setback() && severity < Severity::Critical) {
                pages.extend(self.update(now, incident, severity));
            }
        }
        if matches!(outcome.event, Event::Limited | Event::Undone | Event::Draining | Event::Undrained) {
            let incident = incidents.into_iter().next().unwrap_or_default();
            pages.push(self.change(now, incident, outcome));
        }
        pages
    }

    /// What an earlier run has told of and nothing was seen of since: it is over.
    pub fn forgotten(&mut self, now: Now) -> Vec<Page> {
        let sure_after_secs = self.teller.sure_after.as_secs_f64();
        let is_forgotten = |open: &Open| open.verdict.is_none() && now.t - open.known_since >= sure_after_secs;
        let forgotten: Vec<_> =
            self.open.iter().filter(|(_, open)| is_forgotten(open)).map(|(incident, _)| incident.clone()).collect();
        let why = "Nothing was seen of it since the agent was started again.";
        forgotten.iter().filter_map(|incident| self.resolve(now, incident, why)).collect()
    }

    fn raise(&mut self, now: Now, incident: String, severity: Severity, verdict: Verdict) -> Page {
        let claim = &verdict.claim;
        let page = Page {
            id: self.next_id(),
            incident: incident.clone(),
            news: News::Raised,
            severity,
            summary: summary::standing(&verdict, &self.teller.host, &clock_time(now.unix_ms), None),
            host: self.teller.host.clone(),
            component: summary::component(claim),
            group: claim.cgroup().to_string(),
            class: summary::class(claim),
            raised_at_ms: now.unix_ms,
            at_ms: now.unix_ms,
            details: details(&verdict),
        };
        let open = Open { page: page.clone(), verdict: Some(verdict), done: None, known_since: now.t };
        self.open.insert(incident, open);
        page
    }

    fn update(&mut self, now: Now, incident: &str, severity: Severity) -> Option<Page> {
        let (id, host) = (self.next_id(), &self.teller.host);
        let open = self.open.get_mut(incident)?;
        let page = &mut open.page;
        (page.id, page.news, page.severity, page.at_ms) = (id, News::Updated, severity, now.unix_ms);
        if let Some(verdict) = &open.verdict {
            page.summary = summary::standing(verdict, host, &clock_time(page.raised_at_ms), open.done.as_deref());
            page.details = details(verdict);
        }
        page.details.insert("done".to_owned(), open.done.clone().into());
        Some(page.clone())
    }

    fn resolve(&mut self, now: Now, incident: &str, why: &str) -> Option<Page> {
        let Open { page, .. } = self.open.remove(incident)?;
        let secs = now.unix_ms.saturating_sub(page.raised_at_ms) as f64 / 1e3;
        let summary = summary::over(&page.component, &page.class, &page.host, secs, why);
        Some(Page { id: self.next_id(), news: News::Resolved, at_ms: now.unix_ms, summary, ..page })
    }

    fn change(&mut self, now: Now, incident: String, outcome: &Outcome) -> Page {
        let (host, cgroup) = (&self.teller.host, outcome.cgroup.to_string());
        let sentence = format!("Spillway on {host}: {} {cgroup}: {}", outcome.event, outcome.why.replace('\n', ";"));
        Page {
            summary: summary::bounded(&sentence),
            host: host.clone(),
            id: self.next_id(),
            incident,
            news: News::Changed,
            severity: Severity::Warning,
            component: cgroup.clone(),
            group: cgroup,
            class: "limit of memory".to_owned(),
            raised_at_ms: now.unix_ms,
            at_ms: now.unix_ms,
            details: object(outcome),
        }
    }

    /// An incident's name for those who are told of many hosts.
    fn key(&self, incident: &str) -> String {
        let key = format!("spillway/{}/{incident}", self.teller.host);
        if key.len() <= KEY_BYTES_MAX {
            return key;
        }
        // What is cut off still tells it from another.
        let digest = format!("#{:016x}", fnv1a(key.as_bytes()));
        let mut end = KEY_BYTES_MAX - digest.len();
        while !key.is_char_boundary(end) {
            end -= 1;
        }
        format!("{}{digest}", &key[..end])
    }

    fn next_id(&mut self) -> String {
        self.pages_total += 1;
        format!("{}-{}", self.teller.run, self.pages_total)
    }
}

/// The time of day, as `14:02 UTC`.
fn clock_time(unix_ms: u64) -> String {
    let timestamp = timestamp(unix_ms);
    format!("{} UTC", timestamp.get(11..16).unwrap_or(&timestamp))
}

/// Everything that is claimed, as it is printed for programs.
fn details(verdict: &Verdict) -> Map<String, Value> {
    object(verdict)
}

fn object(fields: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(fields) {
        Ok(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

/// A hash that is the same in every version of this program: Fowler, Noll and Vo's 1a.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        config::{DecideConfig, Mode},
        decide::Ladder,
        detect::{Claim, LeakClaim, Resource, State},
        sense::ProcessId,
    };

    const NOW: Now = Now { t: 10.0, unix_ms: 1_764_151_320_000 };

    fn pager(told: Vec<Page>) -> Pager {
        let teller = Teller { host: "web-3".to_owned(), run: "run".to_owned(), sure_after: Duration::from_secs(60) };
        Pager::new(teller, told, 0.0)
    }

    fn leak(state: State) -> Verdict {
        let claim = LeakClaim {
            resource: Resource::Memory,
            id: ProcessId { pid: 812, start_ticks: 4711 },
            comm: Arc::from("api"),
            cgroup: Arc::from("/api.service"),
            growth_bytes_per_sec: Some(1_048_576.0),
            growth_handles_per_sec: None,
            growth_interval_bytes_per_sec: None,
        };
        let (claim, why) = (Claim::Leak(claim), "it stopped growing".to_owned());
        Verdict {
            t: 1.0,
            claim,
            exhaustion_secs: Some(3_000.0),
            exhaustion_interval_secs: None,
            confidence: 1.0,
            state,
            why,
        }
    }

    /// What a claim makes the policy decide, told.
    fn judged(pager: &mut Pager, ladder: &mut Ladder, state: State) -> Vec<Page> {
        let (verdict, mut decisions) = (leak(state), Vec::new());
        ladder.judge(&verdict, &mut decisions);
        let verdicts = [verdict];
        decisions.iter().filter_map(|decision| pager.decided(NOW, decision, &verdicts)).collect()
    }

    fn outcome(event: Event) -> Outcome {
        let (id, cgroup) = (Arc::from("leak-812-4711"), Arc::from("/api.service"));
        Outcome { t: 11.0, event, id, cgroup, limit_bytes: Some(512 << 20), why: "memory.high set".to_owned() }
    }

    fn told(pages: &[Page]) -> Vec<(News, Severity)> {
        pages.iter().map(|page| (page.news, page.severity)).collect()
    }

    #[test]
    fn a_human_is_told_once_again_when_it_matters_and_when_it_is_over() {
        let (mut pager, mut ladder) = (pager(Vec::new()), Ladder::new(&DecideConfig::default(), Mode::Enforce));
        let raised = judged(&mut pager, &mut ladder, State::Raised);
        assert_eq!(told(&raised), [(News::Raised, Severity::Warning)]);
        assert_eq!(raised[0].incident, "spillway/web-3/leak-812-4711");
        let since = "Seen since 10:02 UTC; nothing was done about it.";
        assert!(raised[0].summary.ends_with(since), "{}", raised[0].summary);

        let limited = pager.done(NOW, &outcome(Event::Limited));
        assert_eq!(told(&limited), [(News::Updated, Severity::Warning), (News::Changed, Severity::Warning)]);
        assert!(limited[0].summary.ends_with("its memory is held below 512.0 MiB."), "{}", limited[0].summary);
        assert_eq!(limited[1].summary, "Spillway on web-3: limited /api.service: memory.high set");
        assert!(pager.done(NOW, &outcome(Event::Reasserted)).is_empty(), "nothing else is done now");
        assert_eq!(told(&pager.done(NOW, &outcome(Event::Limited))), [(News::Changed, Severity::Warning)]);

        // A setback is told as what is decided on its account, and once.
        assert!(pager.done(NOW, &outcome(Event::Thrashing)).is_empty());
        let mut decisions = Vec::new();
        ladder.set_back(12.0, "leak-812-4711", "it thrashes", &mut decisions);
        let pages: Vec<_> = decisions.iter().filter_map(|decision| pager.decided(NOW, decision, &[])).collect();
        assert_eq!(told(&pages), [(News::Updated, Severity::Critical)]);
        assert!(pages[0].summary.contains("; a limit does not help: memory.high set."), "{}", pages[0].summary);

        let resolved = judged(&mut pager, &mut ladder, State::Cleared);
        assert_eq!(told(&resolved), [(News::Resolved, Severity::Critical)]);
        assert!(resolved[0].summary.starts_with("Over after 0.0 s: leak of memory, api on web-3."));
        let undone = pager.done(NOW, &outcome(Event::Undone));
        assert_eq!(told(&undone), [(News::Changed, Severity::Warning)]);
        let ids: std::collections::BTreeSet<_> =
            raised.iter().chain(&limited).chain(&pages).chain(&resolved).chain(&undone).map(|page| &page.id).collect();
        assert_eq!(ids.len(), 6, "no page has another's identity");
    }

    #[test]
    fn the_next_run_goes_on_without_a_word_and_ends_what_it_does_not_see() {
        let (mut first, mut ladder) = (pager(Vec::new()), Ladder::new(&DecideConfig::default(), Mode::Enforce));
        let raised = judged(&mut first, &mut ladder, State::Raised);
        let mut ladder = Ladder::new(&DecideConfig::default(), Mode::Enforce);
        let mut seen = pager(raised.clone());
        assert!(judged(&mut seen, &mut ladder, State::Raised).is_empty());
        assert!(seen.forgotten(Now { t: 1_000.0, ..NOW }).is_empty());
        assert_eq!(told(&judged(&mut seen, &mut ladder, State::Cleared)), [(News::Resolved, Severity::Warning)]);

        let mut unseen = pager(raised);
        assert!(unseen.forgotten(Now { t: 59.0, ..NOW }).is_empty());
        let over = unseen.forgotten(Now { t: 60.0, ..NOW });
        assert_eq!(told(&over), [(News::Resolved, Severity::Warning)]);
        assert!(unseen.forgotten(Now { t: 61.0, ..NOW }).is_empty());
    }

    #[test]
    fn a_long_name_is_cut_and_still_its_own() {
        let pager = pager(Vec::new());
        let [one, other] = ["x", "y"].map(|end| pager.key(&format!("cascade-risk-{}{end}", "é".repeat(200))));
        assert!(one.len() <= KEY_BYTES_MAX && other.len() <= KEY_BYTES_MAX && one != other, "{one} {other}");
    }
}
