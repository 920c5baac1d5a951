//! Tenants: the parties that own a host's cgroups, by path alone.
//!
//! Only root creates cgroups outside `user.slice`, so a path tells what an administrator set up
//! from what any user can start. The inside of a container or pod is one tenant, whatever its
//! cgroups are called. A path that says nothing is [`Tenant::Shared`].

use std::sync::Arc;

use crate::sense::kubepods::{self, CgroupOwner};

/// Slice below which systemd keeps every user's session and service manager.
const USERS: &str = "user.slice";

/// A party on the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tenant {
    /// A unit or container that an administrator set up, by the path of its outermost cgroup that
    /// is not a slice.
    System(Arc<str>),
    /// A user, by the name of the slice.
    User(Arc<str>),
    /// A pod, by its uid; empty if the path does not name it.
    Pod(Arc<str>),
    /// The root cgroup, which belongs to no tenant in particular.
    Shared,
}

impl Tenant {
    /// Reads the tenant from a cgroup's path.
    pub fn of(cgroup: &str) -> Self {
        let mut names = cgroup.split('/').filter(|name| !name.is_empty());
        let Some(first) = names.next() else { return Self::Shared };
        if first == USERS {
            return Self::User(Arc::from(names.next().unwrap_or(first)));
        }
        match kubepods::owner(cgroup) {
            CgroupOwner::Pod(uid) => return Self::Pod(Arc::from(uid)),
            CgroupOwner::Unnamed => return Self::Pod(Arc::from("")),
            CgroupOwner::Host => {}
        }
        let mut end = 0;
        for name in cgroup.split_inclusive('/') {
            end += name.len();
            let name = name.trim_end_matches('/');
            if !name.is_empty() && !name.ends_with(".slice") {
                break;
            }
        }
        Self::System(Arc::from(cgroup[..end].trim_end_matches('/')))
    }

    /// Whether it was set up with root's rights.
    pub fn is_set_up_by_root(&self) -> bool {
        matches!(self, Self::System(_) | Self::Pod(_))
    }

    /// Whether its actions may use the reserve for the system's own services.
    pub fn is_system(&self) -> bool {
        matches!(self, Self::System(_) | Self::Shared)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_name_their_tenants() {
        let system = |path: &str| Tenant::System(Arc::from(path));
        for (cgroup, tenant) in [
            ("", Tenant::Shared),
            ("/", Tenant::Shared),
            ("/system.slice/api.service", system("/system.slice/api.service")),
            ("/system.slice/api.service/worker", system("/system.slice/api.service")),
            (
                "/app.slice/app-web.slice/web@1.service/x",
                system("/app.slice/app-web.slice/web@1.service"),
            ),
            ("/docker/0a1b", system("/docker")),
            ("/api", system("/api")),
            ("/odd.slice", system("/odd.slice")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service",
                Tenant::User(Arc::from("user-1000.slice")),
            ),
            ("/user.slice", Tenant::User(Arc::from("user.slice"))),
            ("/kubepods/burstable/pod11-22/0a1b", Tenant::Pod(Arc::from("11-22"))),
            ("/kubepods/burstable", Tenant::Pod(Arc::from(""))),
        ] {
            assert_eq!(Tenant::of(cgroup), tenant, "{cgroup}");
        }
    }

    proptest! {
        #[test]
        fn below_a_users_slice_nothing_is_the_systems(below in "(/[a-zA-Z0-9_.:@-]{1,20}){0,6}") {
            let tenant = Tenant::of(&format!("/user.slice{below}"));
            prop_assert!(!tenant.is_set_up_by_root(), "{:?}", tenant);
        }

        #[test]
        fn what_is_below_a_unit_is_the_units(below in "(/[a-zA-Z0-9_:@-]{1,20}){0,6}") {
            let unit = "/system.slice/a.service";
            prop_assert_eq!(Tenant::of(&format!("{unit}{below}")), Tenant::of(unit));
        }

        #[test]
        fn any_path_has_a_tenant(cgroup in ".{0,60}") {
            let _ = Tenant::of(&cgroup);
        }
    }
}
