//! Guards of an action: protected units, the operator's choice of targets, cooldowns and a budget.
//!
//! Pure: time is the observations' clock. Cold start: no action was taken yet, so nothing cools
//! down and the whole budget is left. Unknown subjects are refused: a leaking process without a
//! cgroup of its own is not limited. Decisions in observe mode count against the budget as if they
//! were carried out, so that they predict those of enforce mode; those that enforce mode would not
//! carry out either do not count.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, LazyLock},
};

use serde::{Serialize, Serializer};

use super::{Action, tenant::Tenant};
use crate::{
    config::{DecideConfig, Pattern},
    sense::kubepods::{self, CgroupOwner},
};

/// Units that are never limited, whatever is configured: without them a host is lost, cannot be
/// reached, or loses what supervises everything else on it. The agent is among them, and the
/// namespaces that Kubernetes keeps for itself. Other parts that a cluster cannot do without, such
/// as its network or its storage, are in namespaces that an operator chose.
pub const ALWAYS_PROTECTED: [&str; 24] = [
    "init.scope",
    // A shell of a person who may be there to help.
    "session-*.scope",
    "systemd-*",
    "dbus.service",
    "dbus-broker.service",
    "polkit.service",
    "NetworkManager.service",
    "networking.service",
    "ssh.service",
    "ssh@*.service",
    "sshd.service",
    "sshd@*.service",
    "*getty@*.service",
    "kubelet.service",
    "k3s*.service",
    "containerd.service",
    "docker.service",
    "cri-docker.service",
    "crio.service",
    "podman.service",
    "spillway.service",
    "namespace:kube-system",
    "namespace:kube-node-lease",
    "namespace:kube-public",
];

static ALWAYS: LazyLock<Vec<Pattern>> =
    LazyLock::new(|| ALWAYS_PROTECTED.iter().filter_map(|text| Pattern::new(text).ok()).collect());

/// Returns [`ALWAYS_PROTECTED`] as patterns.
pub fn always_protected() -> &'static [Pattern] {
    &ALWAYS
}

const HOUR_SECS: f64 = 3_600.0;

/// Share of the hour's actions that users and pods may take together; the rest is reserved for the
/// system's own services.
const TENANTS_SHARE: f64 = 0.5;

/// Share of the hour's actions that one user or pod may take.
const TENANT_SHARE: f64 = 1.0 / 3.0;

/// Guards and recent actions. Bounded by the budget.
pub struct Guard {
    /// Actions that are carried out: all, unless the configuration disables some.
    pub(super) performed: Performed,
    protected: Vec<Pattern>,
    allow: Vec<Pattern>,
    cooldown_secs: f64,
    actions_per_hour_max: usize,
    /// Counted actions of the last hour, oldest first.
    acted: VecDeque<Acted>,
    /// Time of the last action on each subject, within the cooldown.
    cooling: BTreeMap<Arc<str>, f64>,
}

/// Actions that the configuration lets the agent carry out in enforce mode. The others are decided
/// and reported too, but take nothing from the budget.
#[derive(Debug, Clone, Copy)]
pub(super) struct Performed {
    /// Limits are set.
    pub limits: bool,
    /// This node is drained.
    pub drains: bool,
}

/// Action that counts against the budget.
struct Acted {
    t: f64,
    tenant: Tenant,
    is_drain: bool,
}

/// Actions that are left of the hour's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActionBudget {
    /// Actions an hour.
    pub per_hour: usize,
    /// Actions left now.
    pub left: usize,
    /// Of these, actions that only a drain may take.
    pub for_drain: usize,
    /// Time until another one is, in seconds; `None` if all are left.
    pub next_secs: Option<f64>,
}

/// Reason for which an action is not taken.
#[derive(Debug, Clone, PartialEq)]
pub enum GuardRefusal {
    /// The process has no cgroup of its own that could be limited.
    NoCgroup,
    /// The unit or cgroup is protected by this pattern.
    Protected(Pattern),
    /// The operator's allow-list does not contain it.
    NotAllowed,
    /// It was acted on recently.
    Cooldown {
        /// Time for which it is still left alone, in seconds.
        left_secs: f64,
    },
    /// The budget of the last hour is used up.
    Budget {
        /// Budget in actions an hour.
        actions_per_hour_max: usize,
    },
    /// The share of this user or pod, or of all of them, is used up.
    TenantBudget {
        /// Share in actions an hour, of one or of all.
        actions_per_hour_max: usize,
    },
    /// Only the action that is reserved for a drain is left.
    ReservedForDrain {
        /// Budget in actions an hour, with the reserved one.
        actions_per_hour_max: usize,
    },
    /// Another node of the group pages for the same leak.
    PagedElsewhere {
        /// Name of that node.
        pager: Arc<str>,
    },
}

impl Guard {
    /// Creates the guards with no action taken yet.
    pub fn new(config: &DecideConfig) -> Self {
        Self {
            performed: Performed { limits: true, drains: true },
            protected: config.protected.clone(),
            allow: config.allow.clone(),
            cooldown_secs: config.cooldown.as_secs_f64(),
            actions_per_hour_max: config.max_actions_per_hour as usize,
            acted: VecDeque::new(),
            cooling: BTreeMap::new(),
        }
    }

    /// Takes another configuration; past actions are remembered.
    pub fn reload(&mut self, config: &DecideConfig) {
        let new = Self { performed: self.performed, ..Self::new(config) };
        let Self { acted, cooling, .. } = std::mem::replace(self, new);
        (self.acted, self.cooling) = (acted, cooling);
    }

    /// Asks for an action on a cgroup at `t`. A granted action counts as taken. Undoing and
    /// notifying are always granted.
    ///
    /// # Errors
    ///
    /// Returns the first guard that refuses the action. Guards that refuse for good come first.
    pub fn ask(&mut self, t: f64, action: Action, cgroup: &Arc<str>) -> Result<(), GuardRefusal> {
        // A drain is an action on the node, whichever of its cgroups is the reason.
        let subject = match action {
            Action::Limit => self.may_limit(cgroup).map(|()| cgroup.clone())?,
            Action::Drain => Arc::from("node"),
            // It moves no load, and has to follow a surge that returns: it is neither counted nor
            // cooled down.
            Action::Shed => return Self::unprotected(&self.protected, cgroup),
            Action::Page { .. }
            | Action::Unlimit
            | Action::Unshed
            | Action::Weigh
            | Action::Unweigh
            | Action::Undrain
            | Action::Resolve => return Ok(()),
        };
        self.cooling.retain(|_, last| t - *last < self.cooldown_secs);
        if let Some(last) = self.cooling.get(&subject) {
            return Err(GuardRefusal::Cooldown { left_secs: self.cooldown_secs - (t - last) });
        }
        let is_drain = action == Action::Drain;
        let is_performed = if is_drain { self.performed.drains } else { self.performed.limits };
        if is_performed {
            self.spend(t, Tenant::of(cgroup), is_drain)?;
        }
        self.cooling.insert(subject, t);
        Ok(())
    }

    /// Counts an action against the budget of the hour.
    fn spend(&mut self, t: f64, tenant: Tenant, is_drain: bool) -> Result<(), GuardRefusal> {
        while self.acted.front().is_some_and(|first| t - first.t >= HOUR_SECS) {
            self.acted.pop_front();
        }
        let actions_per_hour_max = self.actions_per_hour_max;
        if self.acted.len() >= actions_per_hour_max {
            return Err(GuardRefusal::Budget { actions_per_hour_max });
        }
        if !is_drain && self.acted.len() + self.reserve(t) >= actions_per_hour_max {
            return Err(GuardRefusal::ReservedForDrain { actions_per_hour_max });
        }
        self.may_act_for(&tenant, is_drain)?;
        self.acted.push_back(Acted { t, tenant, is_drain });
        Ok(())
    }

    /// Returns the number of actions that limits leave over: limits of unimportant workloads must
    /// not use up a service's drain. A budget of one goes to whichever comes first.
    fn reserve(&self, t: f64) -> usize {
        let is_recent_drain = |acted: &Acted| acted.is_drain && t - acted.t < HOUR_SECS;
        let has_drained = self.acted.iter().any(is_recent_drain);
        usize::from(self.performed.drains && !has_drained && self.actions_per_hour_max > 1)
    }

    /// Returns the actions that are left at `t`.
    pub fn budget(&self, t: f64) -> ActionBudget {
        let mut recent =
            self.acted.iter().map(|acted| acted.t).filter(|first| t - first < HOUR_SECS);
        let oldest = recent.next();
        let taken = usize::from(oldest.is_some()) + recent.count();
        let left = self.actions_per_hour_max.saturating_sub(taken);
        ActionBudget {
            per_hour: self.actions_per_hour_max,
            left,
            for_drain: self.reserve(t).min(left),
            next_secs: oldest.map(|first| HOUR_SECS - (t - first)),
        }
    }

    /// Keeps a reserve for the system's services: one user or pod, or all of them together, cannot
    /// use up the hour's actions. Limits do not count against a share in the drains.
    fn may_act_for(&self, tenant: &Tenant, is_drain: bool) -> Result<(), GuardRefusal> {
        if tenant.is_system() {
            return Ok(());
        }
        let most = |share: f64| ((self.actions_per_hour_max as f64 * share) as usize).max(1);
        let counted = || self.acted.iter().filter(|acted| acted.is_drain || !is_drain);
        let of_one = counted().filter(|acted| acted.tenant == *tenant).count();
        let of_all = counted().filter(|acted| !acted.tenant.is_system()).count();
        for (count, actions_per_hour_max) in
            [(of_one, most(TENANT_SHARE)), (of_all, most(TENANTS_SHARE))]
        {
            if count >= actions_per_hour_max {
                return Err(GuardRefusal::TenantBudget { actions_per_hour_max });
            }
        }
        Ok(())
    }

    fn unprotected(protected: &[Pattern], cgroup: &str) -> Result<(), GuardRefusal> {
        match ALWAYS.iter().chain(protected).find(|pattern| pattern.covers(cgroup)) {
            Some(pattern) => Err(GuardRefusal::Protected(pattern.clone())),
            None => Ok(()),
        }
    }

    fn may_limit(&self, cgroup: &str) -> Result<(), GuardRefusal> {
        // The root has no limit of its own, and is shared by everything.
        if cgroup.trim_matches('/').is_empty() {
            return Err(GuardRefusal::NoCgroup);
        }
        Self::unprotected(&self.protected, cgroup)?;
        // Only the action knows the program and the owner of the pod.
        let is_pod = kubepods::owner(cgroup) != CgroupOwner::Host;
        let allows = |pattern: &Pattern| {
            pattern.covers(cgroup) || pattern.is_program() || is_pod && pattern.is_pods()
        };
        if !self.allow.is_empty() && !self.allow.iter().any(allows) {
            return Err(GuardRefusal::NotAllowed);
        }
        Ok(())
    }
}

impl GuardRefusal {
    /// Whether the same action may be granted later.
    pub fn is_for_now(&self) -> bool {
        matches!(
            self,
            Self::Cooldown { .. }
                | Self::Budget { .. }
                | Self::TenantBudget { .. }
                | Self::ReservedForDrain { .. }
        )
    }
}

impl fmt::Display for GuardRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCgroup => f.write_str(
                "the process has no cgroup of its own; run it as a unit or in a container so that \
                 it can be limited",
            ),
            Self::Protected(pattern) => write!(f, "its unit or cgroup is protected ({pattern})"),
            Self::NotAllowed => {
                f.write_str("its unit or cgroup matches no pattern in decide.allow")
            }
            Self::Cooldown { left_secs } => write!(
                f,
                "an action was taken on it recently; decide.cooldown leaves it alone for another \
                 {left_secs:.0} s"
            ),
            Self::Budget { actions_per_hour_max } => write!(
                f,
                "{actions_per_hour_max} actions were taken within the last hour, as many as \
                 decide.max_actions_per_hour allows"
            ),
            Self::TenantBudget { actions_per_hour_max } => write!(
                f,
                "{actions_per_hour_max} actions were taken within the last hour for this user or \
                 pod, or for all of them; the rest of decide.max_actions_per_hour is reserved for \
                 the system's services"
            ),
            Self::ReservedForDrain { actions_per_hour_max } => write!(
                f,
                "of the {actions_per_hour_max} actions that decide.max_actions_per_hour allows the \
                 last one is reserved for a drain of this node"
            ),
            Self::PagedElsewhere { pager } => {
                write!(f, "node {pager} pages for this leak, which it has too")
            }
        }
    }
}

impl Serialize for GuardRefusal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::decide::Severity;

    fn guard(change: impl FnOnce(&mut DecideConfig)) -> Guard {
        let mut config = DecideConfig::default();
        change(&mut config);
        Guard::new(&config)
    }

    fn limit(guard: &mut Guard, t: f64, cgroup: &str) -> Result<(), String> {
        guard.ask(t, Action::Limit, &Arc::from(cgroup)).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn budget_counts_the_actions_of_the_last_hour() {
        let mut guard = guard(|config| config.max_actions_per_hour = 3);
        let budget = |guard: &Guard, t| {
            let ActionBudget { per_hour, left, for_drain, next_secs } = guard.budget(t);
            (per_hour, left, for_drain, next_secs)
        };
        assert_eq!(budget(&guard, 0.0), (3, 3, 1, None));
        for (t, cgroup) in [(10.0, "/a.service"), (20.0, "/b.service"), (30.0, "/c.service")] {
            let _ = limit(&mut guard, t, cgroup);
        }
        assert_eq!(budget(&guard, 40.0), (3, 1, 1, Some(HOUR_SECS - 30.0)));
        assert_eq!(guard.ask(50.0, Action::Drain, &Arc::from("/a.service")), Ok(()));
        assert_eq!(budget(&guard, 60.0), (3, 0, 0, Some(HOUR_SECS - 50.0)));
        assert_eq!(budget(&guard, HOUR_SECS + 15.0), (3, 1, 0, Some(5.0)));
        assert_eq!(budget(&guard, 2.0 * HOUR_SECS), (3, 3, 1, None));
    }

    #[test]
    fn every_pattern_that_always_holds_is_one() {
        assert_eq!(ALWAYS.len(), ALWAYS_PROTECTED.len());
    }

    #[test]
    fn essential_units_are_never_limited() {
        let mut guard = guard(|config| config.max_actions_per_hour = 1_000);
        for cgroup in [
            "/init.scope",
            "/system.slice/ssh.service",
            "/system.slice/systemd-journald.service",
            "/system.slice/dbus.service",
            "/system.slice/kubelet.service",
            "/system.slice/containerd.service",
            "/system.slice/spillway.service",
            "/spillway.service",
            "/user.slice/user-0.slice/session-3.scope",
            "/system.slice/system-getty.slice/getty@tty1.service",
        ] {
            let refused = limit(&mut guard, 0.0, cgroup).unwrap_err();
            assert!(refused.starts_with("its unit or cgroup is protected"), "{cgroup}: {refused}");
        }
        for cgroup in ["", "/"] {
            let refused = limit(&mut guard, 0.0, cgroup).unwrap_err();
            assert!(refused.starts_with("the process has no cgroup of its own"), "{refused}");
        }
        // A container of docker's is none of its own processes.
        assert_eq!(limit(&mut guard, 0.0, "/system.slice/docker-0123abcd.scope"), Ok(()));
    }

    #[test]
    fn an_operator_protects_more_and_allows_less() {
        let patterns =
            |texts: &[&str]| texts.iter().map(|text| Pattern::new(text).unwrap()).collect();
        let mut guard = guard(|config| {
            config.protected = patterns(&["postgresql@*.service"]);
            config.allow = patterns(&["/system.slice/*"]);
        });
        let refused = limit(&mut guard, 0.0, "/system.slice/postgresql@15-main.service");
        assert_eq!(
            refused,
            Err("its unit or cgroup is protected (postgresql@*.service)".to_owned())
        );
        let refused = limit(&mut guard, 0.0, "/user.slice/a.scope");
        assert_eq!(
            refused,
            Err("its unit or cgroup matches no pattern in decide.allow".to_owned())
        );
        assert_eq!(limit(&mut guard, 0.0, "/system.slice/api.service"), Ok(()));
    }

    #[test]
    fn pod_patterns_concern_pods_alone_and_are_left_to_the_action() {
        let patterns =
            |texts: &[&str]| texts.iter().map(|text| Pattern::new(text).unwrap()).collect();
        let mut guard = guard(|config| {
            config.protected = patterns(&["pod:app=db"]);
            config.allow = patterns(&["namespace:shop", "pod:tier=web"]);
        });
        assert_eq!(limit(&mut guard, 0.0, "/kubepods/burstable/pod1/0a1b"), Ok(()));
        let refused = limit(&mut guard, 0.0, "/system.slice/api.service");
        assert_eq!(
            refused,
            Err("its unit or cgroup matches no pattern in decide.allow".to_owned())
        );
    }

    #[test]
    fn a_cgroup_cools_down_and_another_need_not() {
        let mut guard = guard(|config| config.cooldown = Duration::from_secs(60));
        assert_eq!(limit(&mut guard, 0.0, "/a"), Ok(()));
        assert_eq!(limit(&mut guard, 0.0, "/b"), Ok(()));
        let refused = limit(&mut guard, 59.0, "/a");
        let refused = refused.unwrap_err();
        assert!(refused.ends_with("leaves it alone for another 1 s"), "{refused}");
        assert_eq!(limit(&mut guard, 60.0, "/a"), Ok(()));
    }

    #[test]
    fn no_more_than_the_budget_within_any_hour_and_telling_is_free() {
        let mut guard = guard(|config| config.max_actions_per_hour = 2);
        let cgroup = Arc::from("/a");
        for t in 0..100 {
            assert_eq!(
                guard.ask(f64::from(t), Action::Page { severity: Severity::Warning }, &cgroup),
                Ok(())
            );
        }
        assert_eq!(limit(&mut guard, 0.0, "/a"), Ok(()));
        assert_eq!(
            guard.ask(10.0, Action::Drain, &cgroup),
            Ok(()),
            "a limit and a drain cool down apart"
        );
        let refused = guard.ask(3_599.0, Action::Limit, &Arc::from("/b"));
        assert_eq!(refused, Err(GuardRefusal::Budget { actions_per_hour_max: 2 }));
        assert_eq!(limit(&mut guard, 3_600.0, "/b"), Ok(()));
        assert!(limit(&mut guard, 3_609.0, "/c").is_err());
        assert_eq!(guard.ask(3_610.0, Action::Drain, &cgroup), Ok(()));
        assert!(limit(&mut guard, 7_199.0, "/c").is_err());
        assert_eq!(limit(&mut guard, 7_200.0, "/c"), Ok(()));
        for action in [Action::Unlimit, Action::Undrain, Action::Resolve, Action::Unshed] {
            assert_eq!(guard.ask(3_610.0, action, &cgroup), Ok(()));
        }
    }

    #[test]
    fn limits_leave_one_action_for_a_drain() {
        let mut guard = guard(|_| {});
        for nth in 0..5 {
            assert_eq!(limit(&mut guard, 0.0, &format!("/system.slice/{nth}.service")), Ok(()));
        }
        let another = Arc::from("/system.slice/another.service");
        let refused = guard.ask(1.0, Action::Limit, &another).unwrap_err();
        assert_eq!(refused, GuardRefusal::ReservedForDrain { actions_per_hour_max: 6 });
        assert!(refused.is_for_now());
        assert_eq!(guard.ask(2.0, Action::Drain, &another), Ok(()));
        let refused = guard.ask(1_000.0, Action::Drain, &another);
        assert_eq!(refused, Err(GuardRefusal::Budget { actions_per_hour_max: 6 }));
    }

    #[test]
    fn limits_of_pods_leave_a_pods_service_its_drain() {
        let mut guard = guard(|_| {});
        for pod in ["a", "b", "c"] {
            assert_eq!(limit(&mut guard, 0.0, &format!("/kubepods/burstable/pod{pod}/x")), Ok(()));
        }
        let api = Arc::from("/kubepods/burstable/podapi/x");
        let refused = guard.ask(1.0, Action::Limit, &api);
        assert_eq!(refused, Err(GuardRefusal::TenantBudget { actions_per_hour_max: 3 }));
        assert_eq!(guard.ask(1.0, Action::Drain, &api), Ok(()));
    }

    #[test]
    fn disabled_actions_take_nothing_from_the_budget() {
        let mut guard = guard(|config| config.max_actions_per_hour = 2);
        guard.performed.limits = false;
        guard.reload(&DecideConfig { max_actions_per_hour: 2, ..DecideConfig::default() });
        for nth in 0..10 {
            assert_eq!(limit(&mut guard, 0.0, &format!("/system.slice/{nth}.service")), Ok(()));
        }
        assert!(limit(&mut guard, 1.0, "/system.slice/0.service").is_err(), "it still cools down");
        for t in [2.0, 1_000.0] {
            assert_eq!(guard.ask(t, Action::Drain, &Arc::from("/api.service")), Ok(()));
        }
        guard.performed = Performed { limits: true, drains: false };
        assert!(limit(&mut guard, 4_700.0, "/system.slice/a.service").is_ok());
        assert!(
            limit(&mut guard, 4_800.0, "/system.slice/b.service").is_ok(),
            "nothing is reserved"
        );
    }

    proptest! {
        #[test]
        fn no_order_of_events_gets_past_the_budget_or_a_cooldown(
            asks in prop::collection::vec((0.0..1_500.0_f64, 0..5_usize), 1..200),
            max in 0..8_u32,
        ) {
            const DBUS: &str = "/system.slice/dbus.service";
            const SUBJECTS: [&str; 5] = ["/a", "/b", "/system.slice/c.service", DBUS, "node"];
            let mut guard = guard(|config| config.max_actions_per_hour = max);
            let (mut t, mut granted) = (0.0, Vec::new());
            for (later, subject) in asks {
                t += later;
                let is_node = SUBJECTS[subject] == "node";
                let action = if is_node { Action::Drain } else { Action::Limit };
                if guard.ask(t, action, &Arc::from(SUBJECTS[subject])).is_ok() {
                    granted.push((t, subject));
                }
            }
            for (nth, (t, subject)) in granted.iter().enumerate() {
                prop_assert_ne!(SUBJECTS[*subject], DBUS);
                let is_within_hour = |(later, _): &&(f64, usize)| later - t < HOUR_SECS;
                let within_hour = granted[nth..].iter().filter(is_within_hour).count();
                prop_assert!(within_hour <= max as usize, "{granted:?}");
                let is_again =
                    |(later, other): &(f64, usize)| other == subject && later - t < 600.0;
                let again = granted[nth + 1..].iter().any(is_again);
                prop_assert!(!again, "{granted:?}");
            }
            prop_assert!(guard.acted.len() <= max as usize && guard.cooling.len() <= SUBJECTS.len());
        }
    }
}
