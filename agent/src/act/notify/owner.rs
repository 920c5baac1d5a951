//! The owner of a cgroup: the part of its path that processes inside cannot choose.
//!
//! A process in a unit or a user slice can make any number of cgroups below it, so fairness between
//! cgroups means fairness between owners.
//!
//! Not the same as [`Tenant`](crate::decide::Tenant), which guards actions: an owner is shown in
//! summaries, and its path is part of the key by which receivers and the spool know a summary. A
//! tenant is coarser or has no path: all of `/docker` is one, and a pod is one by its uid.

/// Number of components of an owner's path without a unit, as in `/docker/ID` and `/lxc/NAME`.
const COMPONENTS: usize = 2;

/// Number of components below the root of Kubernetes' cgroups: quality of service, then the pod.
const KUBEPODS_COMPONENTS: usize = 3;

/// Returns the owner of a cgroup: the path of its topmost service, scope or user slice. Empty if
/// the cgroup is unknown.
pub fn owner(cgroup: &str) -> &str {
    let mut end = 0;
    let mut most = COMPONENTS;
    for (nth, component) in cgroup.split('/').filter(|component| !component.is_empty()).enumerate()
    {
        if nth == 0 && component == "kubepods" {
            most = KUBEPODS_COMPONENTS;
        }
        // A slice contains units of different owners, so it neither ends the search nor counts.
        let is_slice = component.ends_with(".slice");
        most += usize::from(is_slice);
        if nth == most {
            break;
        }
        end += cgroup[end..].find(component).map_or(0, |at| at + component.len());
        let is_user = is_slice && component.strip_prefix("user-").is_some_and(|id| id != ".slice");
        if is_user || component.ends_with(".service") || component.ends_with(".scope") {
            break;
        }
    }
    if end == 0 { cgroup } else { &cgroup[..end] }
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn a_path_below_a_unit_or_a_user_belongs_to_it() {
        for (cgroup, expected) in [
            ("/system.slice/api.service/workers/3", "/system.slice/api.service"),
            (
                "/system.slice/system-getty.slice/getty@tty1.service",
                "/system.slice/system-getty.slice/getty@tty1.service",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service",
                "/user.slice/user-1000.slice",
            ),
            ("/user.slice/user-1000.slice/session-4.scope", "/user.slice/user-1000.slice"),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab.slice/cri-1.scope/x",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab.slice/cri-1.scope",
            ),
            ("/kubepods/burstable/pod12/345/evil.service", "/kubepods/burstable/pod12"),
            ("/docker/0a1b/evil.service", "/docker/0a1b"),
            ("/a/a/b", "/a/a"),
            ("/", "/"),
            ("", ""),
        ] {
            assert_eq!(owner(cgroup), expected, "{cgroup}");
        }
    }
}
