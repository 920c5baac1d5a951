//! The policy: answers each claim, one action at a time, and undoes it when the claim is over.
//!
//! A claim is assessed first; only a warning or worse pages. The claim itself knows its severity
//! and which actions it calls for (see [`crate::detect::ClaimDetails`]), which may change long
//! after it was raised, so every fresh forecast is read too. Each action is taken once a claim; the
//! end of the claim undoes it.
//!
//! Claims with one cause (a process, a cgroup, a moment) form one incident with one page. The
//! incident is resolved once it has been quiet for `decide.flap_within`, so that a claim that
//! returns continues it. Cold start: no incidents. Updates of unknown claims are ignored. A refusal
//! by the guard is reported once; if it may be granted later, it is asked for again with every
//! forecast.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use foldhash::{HashMap, HashMapExt as _};

use super::{
    Action, Decision, Guard, GuardRefusal, IncidentId,
    guard::ActionBudget,
    incident::{Incident, IncidentClaim, IncidentView, Stage},
    services::{ServiceStanding, Services},
    shared_pages::{Pager, SharedPages},
    tenant::Tenant,
};
use crate::{
    config::{DecideConfig, Mode},
    detect::{Assessment, Claim, ClaimState, Harm, Severity, Situation, Verdict, Wants},
    sense::{Fact, identity::Identity},
};

/// Time between two claims of different workloads, short of the same resource of the host, up to
/// which they have one cause.
const MOMENT_SECS: f64 = 3.0;

/// Latest incidents that are searched for that cause.
const MOMENT_INCIDENTS_MAX: usize = 16;

/// Time between two updates of a page that do not make it more urgent.
const PAGE_UPDATE_SECS: f64 = 60.0;

/// Time between two updates of a claim that only change its diagnosis.
const DIAGNOSIS_SECS: f64 = 10.0;

/// The policy and its open incidents. There are as many as detectors hold claims, so they are
/// bounded by those, beside the quiet ones of the last `decide.flap_within`, of which each incident
/// keeps a bounded number.
pub struct Policy {
    config: DecideConfig,
    mode: Mode,
    guard: Guard,
    services: Services,
    /// Whether some service grants drains, and so knows whether other nodes can carry the load.
    has_granter: bool,
    /// Set in this node's turn to leave.
    is_turn: bool,
    /// Wait to which accept queues are bounded; `None` if no load is shed.
    shed_wait_secs: Option<f64>,
    incidents: BTreeMap<u64, Incident>,
    /// Incident that each claim belongs to.
    claims: BTreeMap<IncidentId, u64>,
    /// Incident of each process and cgroup.
    causes: HashMap<SharedCause, u64>,
    /// Open claims that have lowered the weight of the node, and that have drained it.
    weighed: usize,
    drained: usize,
    incidents_total: u64,
    shared_pages: SharedPages,
    /// Incidents whose page waits, for another node or for its next update.
    unpaged: BTreeSet<u64>,
}

/// A process or a cgroup, which several claims may be about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum SharedCause {
    Process(u32),
    Cgroup(Arc<str>),
}

/// Reason to look at the page of an incident.
#[derive(Debug, Clone, Copy)]
struct PageReason {
    t: f64,
    /// Set if the page has something to add: otherwise only one that was not sent is.
    is_news: bool,
}

impl Policy {
    /// Creates a policy without incidents.
    pub fn new(config: &DecideConfig, mode: Mode) -> Self {
        Self {
            config: config.clone(),
            mode,
            guard: Guard::new(config),
            services: Services::new(&config.services),
            has_granter: true,
            is_turn: false,
            shed_wait_secs: None,
            incidents: BTreeMap::new(),
            claims: BTreeMap::new(),
            causes: HashMap::new(),
            weighed: 0,
            drained: 0,
            incidents_total: 0,
            shared_pages: SharedPages::default(),
            unpaged: BTreeSet::new(),
        }
    }

    /// Sets that this node is one of a group, of which one node pages for a leak that several have.
    pub fn in_group(mut self) -> Self {
        self.shared_pages.is_in_group = true;
        self
    }

    /// Sets that no service grants drains: then an overload never drains the node.
    pub fn without_granter(self) -> Self {
        Self { has_granter: false, ..self }
    }

    /// Sets that limits are decided and reported, but not set.
    pub fn without_limits(mut self) -> Self {
        self.guard.performed.limits = false;
        self
    }

    /// Sets that drains are decided and reported, but not carried out.
    pub fn without_drains(mut self) -> Self {
        self.guard.performed.drains = false;
        self
    }

    /// Sets whether it is this node's turn to leave, because others of its group have to leave
    /// after it.
    pub fn set_turn(&mut self, is_turn: bool) {
        self.is_turn = is_turn;
    }

    /// Sets that load is shed at overloaded listeners of listed services, whose accept queues are
    /// then bounded to this wait.
    pub fn shedding(self, wait_secs: f64) -> Self {
        Self { shed_wait_secs: Some(wait_secs), ..self }
    }

    /// Takes another configuration. Open incidents, past actions and proven services are kept.
    pub fn reload(&mut self, config: &DecideConfig) {
        self.config.clone_from(config);
        self.guard.reload(config);
        self.services.reload(&config.services);
    }

    /// Registry of services.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Registry of services, for what only the host knows.
    pub fn services_mut(&mut self) -> &mut Services {
        &mut self.services
    }

    /// Open claims, each with its latest forecast, in a stable order.
    pub fn open(&self) -> impl Iterator<Item = &Verdict> {
        self.claims.iter().filter_map(|(id, incident)| {
            let member = self.incidents.get(incident)?.members.get(id)?;
            member.is_open.then_some(&*member.latest)
        })
    }

    /// Open incidents, the worst first: by severity, then by the end that is nearest. At most
    /// `max`, and the number of all.
    pub fn incidents(&self, max: usize) -> (Vec<IncidentView>, usize) {
        let mut open: Vec<_> = self
            .incidents
            .values()
            .filter_map(|incident| Some((incident.rank()?, incident)))
            .collect();
        open.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let listed = open.iter().take(max).filter_map(|(_, incident)| incident.view());
        (listed.collect(), open.len())
    }

    /// Returns whether a claim is open, or quiet and remembered.
    pub fn knows(&self, id: &IncidentId) -> bool {
        self.claims.contains_key(id)
    }

    /// Takes whom a claim is about, which became known after it was raised.
    pub fn identify(&mut self, id: &IncidentId, identity: &Arc<Identity>) {
        let incident = self.claims.get(id).and_then(|seq| self.incidents.get_mut(seq));
        if let Some(member) = incident.and_then(|incident| incident.members.get_mut(id)) {
            Arc::make_mut(&mut member.latest).identity = Some(identity.clone());
        }
    }

    /// Returns whom a claim is about, as far as it is known.
    pub fn identity(&self, id: &IncidentId) -> Option<Arc<Identity>> {
        let incident = self.incidents.get(self.claims.get(id)?)?;
        incident.members.get(id)?.latest.identity.clone()
    }

    /// Actions that are left of the hour's at `t`.
    pub fn budget(&self, t: f64) -> ActionBudget {
        self.guard.budget(t)
    }

    /// Takes a fact before the detectors' verdicts on it: facts show whom services serve, and a
    /// scan is the time at which quiet incidents end.
    pub fn observe(&mut self, t: f64, fact: &Fact, decisions: &mut Vec<Decision>) {
        self.services.observe(t, fact);
        match fact {
            Fact::Host(_) => {
                self.resolve_quiet(t, decisions);
                self.page_late(t, decisions);
            }
            Fact::Pager(pager) => {
                self.shared_pages.observe(t, pager);
                self.page_late(t, decisions);
                self.tell_others(t, decisions);
            }
            _ => {}
        }
    }

    /// Pages for the incidents whose page has waited for another node, or for its answer.
    fn page_late(&mut self, t: f64, decisions: &mut Vec<Decision>) {
        for seq in mem::take(&mut self.unpaged) {
            self.page_again(seq, PageReason { t, is_news: false }, decisions);
        }
    }

    /// Updates the page for a leak that many more nodes have by now.
    fn tell_others(&mut self, t: f64, decisions: &mut Vec<Decision>) {
        let is_told = |incident: &Incident| {
            let mut open = incident.members.values().filter(|member| member.is_open);
            incident.page.is_some() && open.any(|member| self.shared_pages.has_untold(t, member))
        };
        let told = self.incidents.iter().filter(|(_, incident)| is_told(incident));
        for seq in told.map(|(seq, _)| *seq).collect::<Vec<_>>() {
            self.page_again(seq, PageReason { t, is_news: true }, decisions);
        }
    }

    /// Looks at the page of an incident once more, for its worst claim.
    fn page_again(&mut self, seq: u64, reason: PageReason, decisions: &mut Vec<Decision>) {
        if let Some((id, latest)) = self.incidents.get(&seq).and_then(Incident::worst) {
            self.page(seq, &id, reason, &latest, decisions);
        }
    }

    /// Answers a claim that was raised or cleared, and sets its harm.
    pub fn judge(&mut self, verdict: &mut Verdict, decisions: &mut Vec<Decision>) {
        let id = verdict.claim.id();
        match verdict.state {
            ClaimState::Raised | ClaimState::Updated => self.raise(&id, verdict, decisions),
            ClaimState::Cleared => self.clear(&id, verdict, decisions),
        }
    }

    /// Answers a fresh forecast of an open claim. Returns the claim anew if its severity rose or
    /// its diagnosis changed.
    pub fn update(&mut self, forecast: &Verdict, decisions: &mut Vec<Decision>) -> Option<Verdict> {
        let id = forecast.claim.id();
        let seq = *self.claims.get(&id)?;
        let standing = self.services.standing(forecast);
        let member =
            self.incidents.get_mut(&seq)?.members.get_mut(&id).filter(|member| member.is_open)?;
        let t = forecast.t;
        let is_shed = self.mode == Mode::Enforce && member.shed == Stage::Taken;
        let harm = assess(forecast, &standing, t - member.raised_t, is_shed, &self.config);
        let is_worse = harm.severity > member.harm().severity;
        let is_another = forecast.claim.diagnosis() != member.diagnosis
            && t - member.updated_t >= DIAGNOSIS_SECS;
        let harm = if is_worse || harm.severity == member.harm().severity {
            harm
        } else {
            member.harm().clone()
        };
        let identity = member.latest.identity.clone();
        member.latest = Arc::new(Verdict { harm: Some(harm), identity, ..forecast.clone() });
        let latest = member.latest.clone();
        let mut updated = None;
        if is_worse || is_another {
            (member.updated_t, member.diagnosis) = (t, forecast.claim.diagnosis());
            updated = Some(Verdict { state: ClaimState::Updated, ..Verdict::clone(&latest) });
            self.page(seq, &id, PageReason { t, is_news: true }, &latest, decisions);
        }
        self.act(seq, &id, &latest, decisions);
        updated
    }

    /// Answers an action that did not help: a person has to look now, and the node has to be
    /// drained. Returns the claim anew if that made it more severe.
    pub fn set_back(
        &mut self,
        t: f64,
        id: &IncidentId,
        why: &str,
        decisions: &mut Vec<Decision>,
    ) -> Option<Verdict> {
        let seq = *self.claims.get(id)?;
        let incident = self.incidents.get_mut(&seq)?;
        let member = incident.members.get_mut(id)?;
        if !member.is_open || mem::replace(&mut member.is_set_back, true) {
            return None;
        }
        let harm = member.harm().clone();
        let is_worse = harm.is_nodes && harm.severity < Severity::Critical;
        let latest = Arc::make_mut(&mut member.latest);
        latest.t = t;
        if is_worse {
            member.updated_t = t;
            latest.harm =
                Some(Harm { severity: Severity::Critical, reason: why.to_owned(), ..harm });
        }
        let latest = member.latest.clone();
        let updated =
            Verdict { state: ClaimState::Updated, why: why.to_owned(), ..Verdict::clone(&latest) };
        // A page is due at once, however urgent: it is news that the action does not help.
        if let Some(page) = incident.page.as_mut() {
            page.t = f64::NEG_INFINITY;
        }
        self.page(seq, id, PageReason { t, is_news: true }, &Arc::new(updated.clone()), decisions);
        self.act(seq, id, &latest, decisions);
        is_worse.then_some(updated)
    }

    /// Takes the news that no load is shed for a claim, or none any more: its harm is that of the
    /// overload again.
    pub fn not_shed(&mut self, id: &IncidentId) {
        let claims = self.claims.get(id).and_then(|seq| self.incidents.get_mut(seq));
        if let Some(member) = claims.and_then(|incident| incident.members.get_mut(id))
            && member.shed == Stage::Taken
        {
            member.shed = Stage::Refused;
        }
    }

    fn raise(&mut self, id: &IncidentId, verdict: &mut Verdict, decisions: &mut Vec<Decision>) {
        let standing = self.services.standing(verdict);
        verdict.harm = Some(assess(verdict, &standing, 0.0, false, &self.config));
        let seq = match self.claims.get(id) {
            Some(seq) => *seq,
            None => self.cause_of(verdict).unwrap_or_else(|| {
                self.incidents_total += 1;
                self.incidents_total
            }),
        };
        self.claims.insert(id.clone(), seq);
        self.causes.extend(causes(&verdict.claim).map(|cause| (cause, seq)));
        let incident = self.incidents.entry(seq).or_insert_with(|| Incident::new(verdict.t));
        let verdict = Arc::new(verdict.clone());
        incident.raise(id, &verdict);
        self.page(seq, id, PageReason { t: verdict.t, is_news: true }, &verdict, decisions);
        self.act(seq, id, &verdict, decisions);
    }

    fn clear(&mut self, id: &IncidentId, verdict: &mut Verdict, decisions: &mut Vec<Decision>) {
        let Some(seq) = self.claims.get(id).copied() else { return };
        let Some(incident) = self.incidents.get_mut(&seq) else { return };
        let Some(member) = incident.clear(id, verdict) else { return };
        verdict.harm = member.latest.harm.clone();
        let verdict = Arc::new(verdict.clone());
        let mut undo = |action| {
            decisions.push(self.decision(&verdict, id, action, verdict.why.clone()));
        };
        if member.limit == Stage::Taken {
            undo(Action::Unlimit);
        }
        if member.shed == Stage::Taken {
            undo(Action::Unshed);
        }
        let (weighed, drained) = (member.weigh == Stage::Taken, member.drain == Stage::Taken);
        if weighed && self.weighed == 1 {
            undo(Action::Unweigh);
        }
        if drained && self.drained == 1 {
            undo(Action::Undrain);
        }
        self.weighed -= usize::from(weighed);
        self.drained -= usize::from(drained);
        match self.incidents.get_mut(&seq).filter(|incident| incident.page.is_some()) {
            // Without a page there is no flapping to damp.
            None => self.drop_member(seq, id),
            Some(incident) => {
                for surplus in incident.surplus() {
                    self.drop_member(seq, &surplus);
                }
            }
        }
        if self.config.flap_within.is_zero() {
            self.resolve_quiet(verdict.t, decisions);
        }
    }

    /// Resolves the incidents that have been quiet for long enough.
    fn resolve_quiet(&mut self, t: f64, decisions: &mut Vec<Decision>) {
        let within_secs = self.config.flap_within.as_secs_f64();
        let is_over = |incident: &Incident| {
            incident.quiet_since_t.is_some_and(|since_t| t - since_t >= within_secs)
        };
        let over: Vec<u64> = self
            .incidents
            .iter()
            .filter(|(_, incident)| is_over(incident))
            .map(|(seq, _)| *seq)
            .collect();
        for seq in over {
            let Some(incident) = self.incidents.remove(&seq) else { continue };
            self.forget(seq, &incident);
            let Some(page) = incident.page else { continue };
            let Some(member) =
                incident.members.get(&page.id).or_else(|| incident.members.values().next())
            else {
                continue;
            };
            let verdict = Arc::new(Verdict { t, ..Verdict::clone(&member.latest) });
            let why = member.cleared_why.clone();
            decisions.push(self.decision(&verdict, &page.id, Action::Resolve, why));
        }
    }

    /// Pages for an incident, or updates its page, unless another node does.
    fn page(
        &mut self,
        seq: u64,
        id: &IncidentId,
        PageReason { t, is_news }: PageReason,
        verdict: &Arc<Verdict>,
        decisions: &mut Vec<Decision>,
    ) {
        let Some(incident) = self.incidents.get_mut(&seq) else { return };
        let (mut severity, mut pager) = (Severity::Info, Pager::Here);
        for member in incident.members.values().filter(|member| member.is_open) {
            match self.shared_pages.pager(t, member) {
                Pager::Here => severity = severity.max(member.harm().severity),
                other => pager = other,
            }
        }
        // What another node pages for needs no update here.
        let is_news = is_news && (pager == Pager::Here || severity >= Severity::Warning);
        let is_due = match &incident.page {
            None => severity >= Severity::Warning,
            Some(page) => severity > page.severity || (is_news && t - page.t >= PAGE_UPDATE_SECS),
        };
        if pager != Pager::Here {
            self.unpaged.insert(seq);
        }
        if is_due {
            let page_id = incident.paged(id, severity, t);
            let mut why = incident.story(id, verdict);
            let others = incident.members.values().filter(|member| member.is_open);
            for told in others.filter_map(|member| self.shared_pages.tell_others(t, member)) {
                why = why + "; " + &told;
            }
            decisions.push(self.decision(verdict, &page_id, Action::Page { severity }, why));
        } else if let (None, Pager::Elsewhere(pager)) = (&incident.page, pager)
            && incident.paged_by.replace(pager.clone()).as_ref() != Some(&pager)
        {
            let (severity, why) = (incident.severity(), incident.story(id, verdict));
            let decision = self.decision(verdict, id, Action::Page { severity }, why);
            let refused = Some(GuardRefusal::PagedElsewhere { pager });
            decisions.push(Decision { refused, ..decision });
        }
    }

    /// Takes the actions that a claim calls for and that are not taken yet.
    fn act(
        &mut self,
        seq: u64,
        id: &IncidentId,
        verdict: &Arc<Verdict>,
        decisions: &mut Vec<Decision>,
    ) {
        let is_set_back = self.member(seq, id).is_some_and(|member| member.is_set_back);
        let wants = self.wants(verdict, is_set_back);
        let (is_weighed, is_drained) = (self.weighed > 0, self.drained > 0);
        let Some(member) =
            self.incidents.get_mut(&seq).and_then(|incident| incident.members.get_mut(id))
        else {
            return;
        };
        // A drain for another claim serves this one too, and lasts as long as either.
        let before = (member.weigh, member.drain);
        if wants.drain && is_drained {
            member.drain = Stage::Taken;
        }
        if wants.weigh && is_weighed {
            member.weigh = Stage::Taken;
        }
        let mut asked = Vec::new();
        for (action, is_due, stage) in [
            (Action::Limit, wants.limit, &mut member.limit),
            (Action::Shed, wants.shed, &mut member.shed),
            (Action::Weigh, wants.weigh, &mut member.weigh),
            (Action::Drain, wants.drain, &mut member.drain),
        ] {
            if !is_due || matches!(stage, Stage::Refused | Stage::Taken) {
                continue;
            }
            let refused = self.guard.ask(verdict.t, action, verdict.claim.cgroup()).err();
            let now = match &refused {
                None => Stage::Taken,
                Some(refusal) if refusal.is_for_now() => Stage::Deferred,
                Some(_) => Stage::Refused,
            };
            if mem::replace(stage, now) != now {
                asked.push((action, refused));
            }
        }
        let is_new =
            |before: Stage, now: Stage| usize::from(before != Stage::Taken && now == Stage::Taken);
        self.weighed += is_new(before.0, member.weigh);
        self.drained += is_new(before.1, member.drain);
        for (action, refused) in asked {
            let why = match wants.not_shed.filter(|_| action == Action::Weigh) {
                Some(reason) => format!("{}; no load is shed: {reason}", verdict.why),
                None => verdict.why.clone(),
            };
            let decision = self.decision(verdict, id, action, why);
            decisions.push(Decision { refused, ..decision });
        }
    }

    /// Returns the actions that a claim calls for now.
    fn wants(&self, verdict: &Verdict, is_set_back: bool) -> Wants {
        let harm = verdict.harm.as_ref();
        verdict.claim.wants(&Situation {
            left_secs: verdict.exhaustion_secs.unwrap_or(f64::INFINITY),
            severity: harm.map_or(Severity::Info, |harm| harm.severity),
            is_nodes: harm.is_some_and(|harm| harm.is_nodes),
            is_set_back,
            has_granter: self.has_granter,
            is_turn: self.is_turn,
            shed_wait_secs: self.shed_wait_secs.filter(|_| self.lists(verdict)),
            config: &self.config,
        })
    }

    /// Returns whether the operator's list names the listener that a verdict is about.
    fn lists(&self, verdict: &Verdict) -> bool {
        verdict
            .claim
            .listener()
            .is_some_and(|(netns, addr)| self.services.lists(netns, addr, verdict.claim.cgroup()))
    }

    /// Returns the open incident that a new claim shares its cause with.
    fn cause_of(&self, verdict: &Verdict) -> Option<u64> {
        let of_claim = causes(&verdict.claim).find_map(|cause| self.causes.get(&cause).copied());
        let at_once = || {
            let recent = self.incidents.iter().rev().take(MOMENT_INCIDENTS_MAX);
            let mut recent =
                recent.take_while(|(_, incident)| verdict.t - incident.opened_t <= MOMENT_SECS);
            recent.find(|(_, incident)| incident.lacks_same(&verdict.claim)).map(|(seq, _)| *seq)
        };
        of_claim.or_else(at_once)
    }

    fn member(&self, seq: u64, id: &IncidentId) -> Option<&IncidentClaim> {
        self.incidents.get(&seq)?.members.get(id)
    }

    fn drop_member(&mut self, seq: u64, id: &IncidentId) {
        self.claims.remove(id);
        let Some(incident) = self.incidents.get_mut(&seq) else { return };
        let Some(member) = incident.members.remove(id) else { return };
        let is_last = incident.members.is_empty();
        for cause in causes(&member.latest.claim) {
            // Other claims of the incident are likely about the same cgroup.
            if is_last || matches!(cause, SharedCause::Process(_)) {
                self.forget_cause(seq, &cause);
            }
        }
        if is_last {
            self.incidents.remove(&seq);
        }
    }

    /// Forgets an incident that is over.
    fn forget(&mut self, seq: u64, incident: &Incident) {
        for (id, member) in &incident.members {
            self.claims.remove(id);
            causes(&member.latest.claim).for_each(|cause| self.forget_cause(seq, &cause));
        }
    }

    fn forget_cause(&mut self, seq: u64, cause: &SharedCause) {
        if self.causes.get(cause) == Some(&seq) {
            self.causes.remove(cause);
        }
    }

    fn decision(
        &self,
        verdict: &Arc<Verdict>,
        id: &IncidentId,
        action: Action,
        why: String,
    ) -> Decision {
        let (verdict, id) = (verdict.clone(), id.clone());
        Decision { action, mode: self.mode, verdict, id, performed: false, refused: None, why }
    }
}

/// Assesses the harm of a claim about a workload of this standing, `lasted_secs` after it was
/// raised. `is_shed` says that connections are refused at its door.
fn assess(
    verdict: &Verdict,
    standing: &ServiceStanding,
    lasted_secs: f64,
    is_shed: bool,
    config: &DecideConfig,
) -> Harm {
    let importance = standing.importance();
    let (severity, reason) = verdict.claim.severity(&Assessment {
        exhaustion_secs: verdict.exhaustion_secs,
        lasted_secs,
        importance: &importance,
        is_shed,
        config,
    });
    let is_nodes = verdict.claim.endangers_host() || importance.is_service;
    Harm { severity, reason, is_nodes }
}

/// Processes and cgroups that a claim is about. The root cgroup is shared by everything, so it is
/// no cause.
fn causes(claim: &Claim) -> impl Iterator<Item = SharedCause> + use<> {
    let cgroup = (Tenant::of(claim.cgroup()) != Tenant::Shared)
        .then(|| SharedCause::Cgroup(claim.cgroup().clone()));
    claim.pid().map(SharedCause::Process).into_iter().chain(cgroup)
}

#[cfg(test)]
mod tests;
