//! The policy: the answer to each claim, one action at a time, undone when it is over.
//!
//! A claim is weighed first ([`severity`]); only a warning or worse pages. A leak is limited, and
//! then drained away from, when its forecast comes nearer than the configured distances, which may
//! be long after it was raised: so every fresh forecast is read too. Files, threads and sockets are
//! not limited: throttling memory closes none of them. An overload lowers the weight of the node;
//! it drains only if this node alone is at fault, because load that merely moves overloads the next
//! one. Each action is taken once a claim; the end of a claim undoes it.
//!
//! Claims with one cause (a process, a cgroup, a moment) form one incident with one page. The
//! incident is resolved once it has been quiet for `decide.flap_within`, so that what returns
//! continues it. Cold start: no incidents. Failure: an update of an unknown claim is nothing. A
//! refusal by the guard is reported once; if it may grant the same later, it is asked again with
//! every forecast.

use std::{collections::BTreeMap, sync::Arc};

use foldhash::{HashMap, HashMapExt as _};

use super::{
    Action, Decision, Guard, IncidentId,
    incident::{Incident, IncidentClaim, Stage},
    services::Services,
    severity,
    tenant::Tenant,
};
use crate::{
    config::{DecideConfig, Mode},
    detect::{
        Bottleneck, Claim, ClaimState, Harm, OverloadClaim, Resource, Severity, Sign, Verdict,
    },
    sense::Fact,
};

/// Claims of several workloads that begin within this time of each other, short of the same of the
/// host's resources, have one cause.
const MOMENT_SECS: f64 = 3.0;

/// Latest incidents that are looked at for that.
const MOMENT_INCIDENTS_MAX: usize = 16;

/// Time between two updates of a page that do not make it more urgent.
const PAGE_UPDATE_SECS: f64 = 60.0;

/// Time between two updates of a claim that only change its diagnosis.
const DIAGNOSIS_SECS: f64 = 10.0;

/// The policy and its open incidents. As many as detectors hold claims, so bounded by them, beside
/// the quiet ones of the last `decide.flap_within`, of which each incident keeps a bounded number.
pub struct Policy {
    config: DecideConfig,
    mode: Mode,
    guard: Guard,
    services: Services,
    /// Tells if somebody grants drains, who can tell if the other nodes can carry the load.
    has_granter: bool,
    incidents: BTreeMap<u64, Incident>,
    /// The incident that each claim belongs to.
    claims: BTreeMap<IncidentId, u64>,
    /// The incident of each process and cgroup.
    causes: HashMap<SharedCause, u64>,
    /// Claims that stand and have lowered the weight of the node, or drained it.
    weighed: usize,
    drained: usize,
    incidents_total: u64,
}

/// A process or a cgroup, which several claims may be about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum SharedCause {
    Process(u32),
    Cgroup(Arc<str>),
}

impl Policy {
    /// No incidents yet.
    pub fn new(config: &DecideConfig, mode: Mode) -> Self {
        Self {
            config: config.clone(),
            mode,
            guard: Guard::new(config),
            services: Services::new(&config.services),
            has_granter: true,
            incidents: BTreeMap::new(),
            claims: BTreeMap::new(),
            causes: HashMap::new(),
            weighed: 0,
            drained: 0,
            incidents_total: 0,
        }
    }

    /// The same if nobody grants drains: then an overload never takes the node out.
    pub fn without_granter(self) -> Self {
        Self { has_granter: false, ..self }
    }

    /// Follows another configuration. What stands, what was done and who has proven to be a service
    /// are kept.
    pub fn reload(&mut self, config: &DecideConfig) {
        self.config.clone_from(config);
        self.guard.reload(config);
        self.services.reload(&config.services);
    }

    /// Registry of services, to be taught what only the host knows.
    pub fn services(&mut self) -> &mut Services {
        &mut self.services
    }

    /// Claims that stand, each with its latest forecast, in a stable order.
    pub fn open(&self) -> impl Iterator<Item = &Verdict> {
        self.claims.iter().filter_map(|(id, incident)| {
            let member = self.incidents.get(incident)?.members.get(id)?;
            member.stands.then_some(&member.latest)
        })
    }

    /// Takes a fact before it is judged: whom services serve, and the time, at which quiet
    /// incidents end.
    pub fn observe(&mut self, t: f64, fact: &Fact, decisions: &mut Vec<Decision>) {
        self.services.observe(t, fact);
        if matches!(fact, Fact::Host(_)) {
            self.resolve_quiet(t, decisions);
        }
    }

    /// Answers a claim that was made or withdrawn, and weighs it.
    pub fn judge(&mut self, verdict: &mut Verdict, decisions: &mut Vec<Decision>) {
        let id = IncidentId::from(&*verdict);
        match verdict.state {
            ClaimState::Raised | ClaimState::Updated => self.raise(&id, verdict, decisions),
            ClaimState::Cleared => self.clear(&id, verdict, decisions),
        }
    }

    /// Answers a fresh forecast of a claim that stands; gives the claim anew if its severity rose
    /// or its diagnosis changed.
    pub fn update(&mut self, forecast: &Verdict, decisions: &mut Vec<Decision>) -> Option<Verdict> {
        let id = IncidentId::from(forecast);
        let seq = *self.claims.get(&id)?;
        let standing = self.services.standing(forecast);
        let member =
            self.incidents.get_mut(&seq)?.members.get_mut(&id).filter(|member| member.stands)?;
        let t = forecast.t;
        let harm = severity::weigh(forecast, &standing, t - member.raised_t, &self.config);
        let is_worse = harm.severity > member.harm().severity;
        let is_another = diagnosis(&forecast.claim) != member.diagnosis
            && t - member.updated_t >= DIAGNOSIS_SECS;
        let harm = if is_worse || harm.severity == member.harm().severity {
            harm
        } else {
            member.harm().clone()
        };
        member.latest = Verdict { harm: Some(harm), ..forecast.clone() };
        let mut updated = None;
        if is_worse || is_another {
            (member.updated_t, member.diagnosis) = (t, diagnosis(&forecast.claim));
            updated = Some(Verdict { state: ClaimState::Updated, ..member.latest.clone() });
        }
        let latest = member.latest.clone();
        if updated.is_some() {
            self.page(seq, &id, &latest, decisions);
        }
        self.act(seq, &id, &latest, decisions);
        updated
    }

    /// Answers an action of an incident that does not do what it is for: a human has to look now,
    /// and the node to be drained away from. Gives the claim anew if it became more severe by that.
    pub fn set_back(
        &mut self,
        t: f64,
        id: &str,
        why: &str,
        decisions: &mut Vec<Decision>,
    ) -> Option<Verdict> {
        let (id, seq) = self
            .claims
            .iter()
            .find(|(known, _)| known.to_string() == id)
            .map(|(id, seq)| (id.clone(), *seq))?;
        let member = self.incidents.get_mut(&seq)?.members.get_mut(&id)?;
        if !member.stands || std::mem::replace(&mut member.is_set_back, true) {
            return None;
        }
        member.latest.t = t;
        let harm = member.harm().clone();
        let is_worse = harm.is_nodes && harm.severity < Severity::Critical;
        if is_worse {
            member.latest.harm =
                Some(Harm { severity: Severity::Critical, reason: why.to_owned(), ..harm });
        }
        let latest = member.latest.clone();
        let updated = Verdict { state: ClaimState::Updated, why: why.to_owned(), ..latest.clone() };
        // That it does not help is news, however urgent.
        if let Some(page) = self.incidents.get_mut(&seq).and_then(|incident| incident.page.as_mut())
        {
            page.t = f64::NEG_INFINITY;
        }
        self.page(seq, &id, &updated, decisions);
        self.act(seq, &id, &latest, decisions);
        is_worse.then_some(updated)
    }

    fn raise(&mut self, id: &IncidentId, verdict: &mut Verdict, decisions: &mut Vec<Decision>) {
        let standing = self.services.standing(verdict);
        let harm = severity::weigh(verdict, &standing, 0.0, &self.config);
        verdict.harm = Some(harm);
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
        incident.raise(id, verdict, diagnosis(&verdict.claim));
        self.page(seq, id, verdict, decisions);
        self.act(seq, id, verdict, decisions);
    }

    fn clear(&mut self, id: &IncidentId, verdict: &mut Verdict, decisions: &mut Vec<Decision>) {
        let Some(seq) = self.claims.get(id).copied() else { return };
        let Some(incident) = self.incidents.get_mut(&seq) else { return };
        let Some(member) = incident.clear(id, verdict) else { return };
        verdict.harm = member.latest.harm.clone();
        if member.limit == Stage::Taken {
            decisions.push(self.decision(verdict, id, Action::Unlimit, verdict.why.clone()));
        }
        self.weighed -= usize::from(member.weigh == Stage::Taken);
        self.drained -= usize::from(member.drain == Stage::Taken);
        if member.weigh == Stage::Taken && self.weighed == 0 {
            decisions.push(self.decision(verdict, id, Action::Unweigh, verdict.why.clone()));
        }
        if member.drain == Stage::Taken && self.drained == 0 {
            decisions.push(self.decision(verdict, id, Action::Undrain, verdict.why.clone()));
        }
        let incident = &mut self.incidents.get_mut(&seq).filter(|incident| incident.page.is_some());
        match incident {
            // Nobody was paged, so that nothing has to be damped.
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
            let verdict = Verdict { t, ..member.latest.clone() };
            decisions.push(self.decision(
                &verdict,
                &page.id,
                Action::Resolve,
                member.cleared_why.clone(),
            ));
        }
    }

    /// Pages for an incident, or updates its page.
    fn page(
        &mut self,
        seq: u64,
        id: &IncidentId,
        verdict: &Verdict,
        decisions: &mut Vec<Decision>,
    ) {
        let Some(incident) = self.incidents.get_mut(&seq) else { return };
        let severity = incident.severity();
        let is_due = match &incident.page {
            None => severity >= Severity::Warning,
            Some(page) => severity > page.severity || verdict.t - page.t >= PAGE_UPDATE_SECS,
        };
        if !is_due {
            return;
        }
        let page_id = incident.paged(id, severity, verdict.t);
        let why = incident.story(id, verdict);
        decisions.push(self.decision(verdict, &page_id, Action::Page { severity }, why));
    }

    /// Takes the actions that a claim calls for and that are not taken yet.
    fn act(&mut self, seq: u64, id: &IncidentId, verdict: &Verdict, decisions: &mut Vec<Decision>) {
        let is_set_back = self.member(seq, id).is_some_and(|member| member.is_set_back);
        let wants = self.wants(verdict, is_set_back);
        let (is_weighed, is_drained) = (self.weighed > 0, self.drained > 0);
        let Some(member) =
            self.incidents.get_mut(&seq).and_then(|incident| incident.members.get_mut(id))
        else {
            return;
        };
        // Another claim's drain is this one's too, and lasts as long as either.
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
            if std::mem::replace(stage, now) != now {
                asked.push((action, refused));
            }
        }
        let is_new =
            |before: Stage, now: Stage| usize::from(before != Stage::Taken && now == Stage::Taken);
        self.weighed += is_new(before.0, member.weigh);
        self.drained += is_new(before.1, member.drain);
        for (action, refused) in asked {
            let decision = self.decision(verdict, id, action, verdict.why.clone());
            decisions.push(Decision { refused, ..decision });
        }
    }

    /// Actions that a claim calls for now.
    fn wants(&self, verdict: &Verdict, is_set_back: bool) -> Wants {
        let left_secs = verdict.exhaustion_secs.unwrap_or(f64::INFINITY);
        let (severity, is_nodes) = verdict
            .harm
            .as_ref()
            .map_or((Severity::Info, false), |harm| (harm.severity, harm.is_nodes));
        match &verdict.claim {
            Claim::Leak(claim) => Wants {
                limit: claim.resource == Resource::Memory
                    && left_secs <= self.config.limit_within.as_secs_f64(),
                weigh: false,
                drain: is_nodes
                    && (is_set_back || left_secs <= self.config.drain_within.as_secs_f64()),
            },
            Claim::Overload(claim) if claim.scarce != Some(Bottleneck::Backlog) && is_nodes => {
                let drain = self.has_granter
                    && severity >= Severity::Critical
                    && is_this_nodes_fault(claim);
                Wants { limit: false, weigh: severity >= Severity::Warning && !drain, drain }
            }
            // Elsewhere the same bursts meet the same backlog; and what a dependency withholds, no
            // other node has.
            Claim::Overload(_) | Claim::CascadeRisk(_) | Claim::Exhaustion(_) => Wants::default(),
        }
    }

    /// The open incident that a new claim has its cause in common with.
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
            // Other claims of the incident are likely of the same cgroup.
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
        verdict: &Verdict,
        id: &IncidentId,
        action: Action,
        why: String,
    ) -> Decision {
        let cgroup = verdict.claim.cgroup().clone();
        Decision {
            t: verdict.t,
            action,
            mode: self.mode,
            id: id.clone(),
            cgroup,
            performed: false,
            refused: None,
            why,
        }
    }
}

/// Actions that a claim calls for.
#[derive(Debug, Clone, Copy, Default)]
struct Wants {
    limit: bool,
    weigh: bool,
    drain: bool,
}

/// Tells if the load of an overloaded service would fare better elsewhere: the node serves less
/// than before though no more comes, or nothing at all. More load than before, or clients that try
/// again, would only move.
fn is_this_nodes_fault(claim: &OverloadClaim) -> bool {
    let would_move = matches!(claim.sign, Some(Sign::LoadSurge | Sign::RetryStorm));
    let is_broken = matches!(claim.scarce, Some(Bottleneck::AcceptLoop | Bottleneck::Memory));
    !would_move && (is_broken || claim.is_slower)
}

/// Processes and cgroups that a claim is about; the root cgroup is nobody's in particular.
fn causes(claim: &Claim) -> impl Iterator<Item = SharedCause> + use<> {
    let cgroup = (Tenant::of(claim.cgroup()) != Tenant::Shared)
        .then(|| SharedCause::Cgroup(claim.cgroup().clone()));
    claim.pid().map(SharedCause::Process).into_iter().chain(cgroup)
}

/// The part of a claim that names its diagnosis.
fn diagnosis(claim: &Claim) -> (Option<Bottleneck>, Option<Sign>) {
    match claim {
        Claim::Overload(claim) => (claim.scarce, claim.sign),
        Claim::Leak(_) | Claim::CascadeRisk(_) | Claim::Exhaustion(_) => (None, None),
    }
}

#[cfg(test)]
mod tests;
