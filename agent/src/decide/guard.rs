//! What stands between a decision and its performance: protected units, the operator's choice of
//! targets, cooldowns and a budget.
//!
//! Pure: time is the observations' clock. Cold start: nothing was done yet, so nothing cools down
//! and the budget is whole. It says no to what it does not know: a leaker without a cgroup of its
//! own is not limited. Observed decisions count against the budget as if they were carried out, so
//! that what would be done is what will be.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, LazyLock},
};

use serde::{Serialize, Serializer};

use super::{
    Action,
    kubepods::{self, CgroupOwner},
    tenant::Tenant,
};
use crate::config::{DecideConfig, Pattern};

/// Units that are never limited, whatever is configured: without them a host is lost, cannot be
/// reached, or loses what supervises everything else on it. The agent is among them, and the
/// namespaces that Kubernetes keeps for itself. What else a cluster cannot do without, as its
/// network or its storage, has a namespace that an operator chose.
pub const ALWAYS_PROTECTED: [&str; 24] = [
    "init.scope",
    // Somebody's shell, who may be there to help.
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

/// [`ALWAYS_PROTECTED`], read.
pub fn always_protected() -> &'static [Pattern] {
    &ALWAYS
}

const HOUR_SECS: f64 = 3_600.0;

/// Share of the hour's actions that users and pods may take together; the rest is kept for the
/// system's own services.
const TENANTS_SHARE: f64 = 0.5;

/// Share of the hour's actions that one user or pod may take.
const TENANT_SHARE: f64 = 1.0 / 3.0;

/// The guards, and what was done of late. Bounded by the budget.
pub struct Guard {
    protected: Vec<Pattern>,
    allow: Vec<Pattern>,
    cooldown_secs: f64,
    actions_per_hour_max: usize,
    /// When actions were taken and for which tenant, the oldest first; none longer ago than an
    /// hour.
    acted: VecDeque<(f64, Tenant)>,
    /// When each subject was acted on last; none longer ago than the cooldown.
    cooling: BTreeMap<Arc<str>, f64>,
}

/// Why an action is not taken.
#[derive(Debug, Clone, PartialEq)]
pub enum GuardRefusal {
    /// The process has no cgroup of its own that could be limited.
    NoCgroup,
    /// Its unit or cgroup is protected.
    Protected(Pattern),
    /// It is none of those that the operator allows.
    NotAllowed,
    /// It was acted on a moment ago.
    Cooldown {
        /// Until when it is left alone, in seconds from now.
        left_secs: f64,
    },
    /// Enough was done in the last hour.
    Budget {
        /// How much that is.
        actions_per_hour_max: usize,
    },
    /// Enough was done in the last hour for this user or pod, or for all of them.
    TenantBudget {
        /// Actions an hour, of one or of all.
        actions_per_hour_max: usize,
    },
}

impl Guard {
    /// Nothing was done yet.
    pub fn new(config: &DecideConfig) -> Self {
        Self {
            protected: config.protected.clone(),
            allow: config.allow.clone(),
            cooldown_secs: config.cooldown.as_secs_f64(),
            actions_per_hour_max: config.max_actions_per_hour as usize,
            acted: VecDeque::new(),
            cooling: BTreeMap::new(),
        }
    }

    /// Follows another configuration; what was done is remembered.
    pub fn reload(&mut self, config: &DecideConfig) {
        let Self { acted, cooling, .. } = std::mem::replace(self, Self::new(config));
        (self.acted, self.cooling) = (acted, cooling);
    }

    /// Asks for an action on a cgroup at `t`; where it is granted it counts as taken. What puts
    /// things back, and what tells a human, is always granted.
    ///
    /// # Errors
    ///
    /// The first guard that refuses it; those that never will let it pass come first.
    pub fn ask(&mut self, t: f64, action: Action, cgroup: &Arc<str>) -> Result<(), GuardRefusal> {
        // A node is drained, whichever of its cgroups is the reason.
        let subject = match action {
            Action::Limit => self.may_limit(cgroup).map(|()| cgroup.clone())?,
            Action::Drain => Arc::from("node"),
            Action::Page { .. }
            | Action::Unlimit
            | Action::Weigh
            | Action::Unweigh
            | Action::Undrain
            | Action::Resolve => return Ok(()),
        };
        self.cooling.retain(|_, last| t - *last < self.cooldown_secs);
        if let Some(last) = self.cooling.get(&subject) {
            return Err(GuardRefusal::Cooldown { left_secs: self.cooldown_secs - (t - last) });
        }
        while self.acted.front().is_some_and(|(first, _)| t - first >= HOUR_SECS) {
            self.acted.pop_front();
        }
        if self.acted.len() >= self.actions_per_hour_max {
            return Err(GuardRefusal::Budget { actions_per_hour_max: self.actions_per_hour_max });
        }
        let tenant = Tenant::of(cgroup);
        self.may_act_for(&tenant)?;
        self.acted.push_back((t, tenant));
        self.cooling.insert(subject, t);
        Ok(())
    }

    /// Keeps a reserve for the system's services: one user or pod, or all of them together, cannot
    /// use up the hour's actions.
    fn may_act_for(&self, tenant: &Tenant) -> Result<(), GuardRefusal> {
        if tenant.is_system() {
            return Ok(());
        }
        let most = |share: f64| ((self.actions_per_hour_max as f64 * share) as usize).max(1);
        let of_one = self.acted.iter().filter(|(_, other)| other == tenant).count();
        let of_all = self.acted.iter().filter(|(_, other)| !other.is_system()).count();
        for (count, actions_per_hour_max) in
            [(of_one, most(TENANT_SHARE)), (of_all, most(TENANTS_SHARE))]
        {
            if count >= actions_per_hour_max {
                return Err(GuardRefusal::TenantBudget { actions_per_hour_max });
            }
        }
        Ok(())
    }

    fn may_limit(&self, cgroup: &str) -> Result<(), GuardRefusal> {
        // The root has no limit of its own, and is everybody's.
        if cgroup.trim_matches('/').is_empty() {
            return Err(GuardRefusal::NoCgroup);
        }
        if let Some(pattern) =
            ALWAYS.iter().chain(&self.protected).find(|pattern| pattern.covers(cgroup))
        {
            return Err(GuardRefusal::Protected(pattern.clone()));
        }
        // Which program it is, and whose the pod, the action sees.
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
    /// Whether the same may be granted later.
    pub fn is_for_now(&self) -> bool {
        matches!(self, Self::Cooldown { .. } | Self::Budget { .. } | Self::TenantBudget { .. })
    }
}

impl fmt::Display for GuardRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCgroup => f.write_str("the process has no cgroup of its own"),
            Self::Protected(pattern) => write!(f, "unit is protected ({pattern})"),
            Self::NotAllowed => f.write_str("it is not among those of decide.allow"),
            Self::Cooldown { left_secs } => {
                write!(f, "it was acted on, and is left alone for {left_secs:.0} s more")
            }
            Self::Budget { actions_per_hour_max } => {
                write!(
                    f,
                    "{actions_per_hour_max} actions were taken within the hour, as many as may be"
                )
            }
            Self::TenantBudget { actions_per_hour_max } => write!(
                f,
                "{actions_per_hour_max} actions were taken within the hour for this user or pod, or for all of them: the rest is kept for \
                 the system's services"
            ),
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
    fn every_pattern_that_always_holds_is_one() {
        assert_eq!(ALWAYS.len(), ALWAYS_PROTECTED.len());
    }

    #[test]
    fn what_a_host_cannot_do_without_is_never_limited() {
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
            assert!(refused.starts_with("unit is protected"), "{cgroup}: {refused}");
        }
        for cgroup in ["", "/"] {
            assert_eq!(
                limit(&mut guard, 0.0, cgroup),
                Err("the process has no cgroup of its own".to_owned())
            );
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
        assert_eq!(refused, Err("unit is protected (postgresql@*.service)".to_owned()));
        let refused = limit(&mut guard, 0.0, "/user.slice/a.scope");
        assert_eq!(refused, Err("it is not among those of decide.allow".to_owned()));
        assert_eq!(limit(&mut guard, 0.0, "/system.slice/api.service"), Ok(()));
    }

    #[test]
    fn what_is_told_of_pods_concerns_them_alone_and_is_left_to_who_can_ask() {
        let patterns =
            |texts: &[&str]| texts.iter().map(|text| Pattern::new(text).unwrap()).collect();
        let mut guard = guard(|config| {
            config.protected = patterns(&["pod:app=db"]);
            config.allow = patterns(&["namespace:shop", "pod:tier=web"]);
        });
        assert_eq!(limit(&mut guard, 0.0, "/kubepods/burstable/pod1/0a1b"), Ok(()));
        let refused = limit(&mut guard, 0.0, "/system.slice/api.service");
        assert_eq!(refused, Err("it is not among those of decide.allow".to_owned()));
    }

    #[test]
    fn a_cgroup_cools_down_and_another_need_not() {
        let mut guard = guard(|config| config.cooldown = Duration::from_secs(60));
        assert_eq!(limit(&mut guard, 0.0, "/a"), Ok(()));
        assert_eq!(limit(&mut guard, 0.0, "/b"), Ok(()));
        let refused = limit(&mut guard, 59.0, "/a");
        assert_eq!(refused, Err("it was acted on, and is left alone for 1 s more".to_owned()));
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
        assert_eq!(limit(&mut guard, 3_610.0, "/c"), Ok(()));
        for action in [Action::Unlimit, Action::Undrain, Action::Resolve] {
            assert_eq!(guard.ask(3_610.0, action, &cgroup), Ok(()));
        }
    }

    proptest! {
        #[test]
        fn no_order_of_events_gets_past_the_budget_or_a_cooldown(
            asks in prop::collection::vec((0.0..1_500.0_f64, 0..5_usize), 1..200),
            max in 0..8_u32,
        ) {
            const SUBJECTS: [&str; 5] = ["/a", "/b", "/system.slice/c.service", "/system.slice/dbus.service", "node"];
            let mut guard = guard(|config| config.max_actions_per_hour = max);
            let (mut t, mut granted) = (0.0, Vec::new());
            for (later, subject) in asks {
                t += later;
                let action = if SUBJECTS[subject] == "node" { Action::Drain } else { Action::Limit };
                if guard.ask(t, action, &Arc::from(SUBJECTS[subject])).is_ok() {
                    granted.push((t, subject));
                }
            }
            for (nth, (t, subject)) in granted.iter().enumerate() {
                prop_assert_ne!(SUBJECTS[*subject], "/system.slice/dbus.service");
                let within_hour = granted[nth..].iter().filter(|(later, _)| later - t < HOUR_SECS).count();
                prop_assert!(within_hour <= max as usize, "{granted:?}");
                let again = granted[nth + 1..].iter().any(|(later, other)| other == subject && later - t < 600.0);
                prop_assert!(!again, "{granted:?}");
            }
            prop_assert!(guard.acted.len() <= max as usize && guard.cooling.len() <= SUBJECTS.len());
        }
    }
}
