//! Names in the path of a cgroup: the unit of systemd, or the container and the uid of its pod.
//! Pure.

use crate::sense::kubepods::{self, CgroupOwner};

/// Digits of a container's id in the names of cgroups: of containerd, CRI-O, Docker and Podman.
const ID_DIGITS: usize = 64;

/// Names in the path of a cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupName {
    /// Unit of systemd; `None` in a container.
    pub unit: Option<String>,
    /// Id of the container.
    pub container: Option<String>,
    /// Uid of the pod.
    pub pod_uid: Option<String>,
}

impl CgroupName {
    /// Reads the path of a cgroup.
    pub fn of(cgroup: &str) -> Self {
        let pod_uid = match kubepods::owner(cgroup) {
            CgroupOwner::Pod(uid) => Some(uid),
            CgroupOwner::Host | CgroupOwner::Unnamed => None,
        };
        // What comes before may be the container that the whole node runs in.
        let at = if pod_uid.is_some() { cgroup.find("kubepods").unwrap_or(0) } else { 0 };
        let container = container_id(&cgroup[at..]).map(str::to_owned);
        let is_contained = container.is_some() || pod_uid.is_some();
        let unit = if is_contained { None } else { unit(cgroup).map(str::to_owned) };
        Self { unit, container, pod_uid }
    }
}

/// Returns the id of the outermost container in the path of a cgroup: 64 hexadecimal digits.
pub fn container_id(cgroup: &str) -> Option<&str> {
    let mut runs = cgroup.split(|c: char| !c.is_ascii_hexdigit());
    runs.find(|run| run.len() == ID_DIGITS)
}

/// Returns the topmost unit, or in a user's own systemd the innermost.
fn unit(cgroup: &str) -> Option<&str> {
    let is_unit = |name: &&str| name.ends_with(".service") || name.ends_with(".scope");
    let mut units = cgroup.split('/').filter(is_unit);
    let first = units.next()?;
    if first.starts_with("user@") { Some(units.next_back().unwrap_or(first)) } else { Some(first) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_names_a_unit_or_a_container_and_its_pod() {
        let id = "3f".repeat(32);
        let uid = "5af2b6f4-1c0e-4d0f-9d3c-0f6a5b7c8d9e";
        let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
        let below = "/kubepods.slice/kubepods-burstable.slice";
        let other = "0a".repeat(32);
        for (cgroup, unit, container, pod) in [
            ("/".to_owned(), None, None, None),
            ("/system.slice/api.service/workers/3".to_owned(), Some("api.service"), None, None),
            (
                "/user.slice/user-7.slice/session-4.scope".to_owned(),
                Some("session-4.scope"),
                None,
                None,
            ),
            (
                "/user.slice/user-7.slice/user@7.service/app.slice/sync.service".to_owned(),
                Some("sync.service"),
                None,
                None,
            ),
            (format!("/system.slice/docker-{id}.scope/init.scope"), None, Some(&id), None),
            (format!("/machine.slice/libpod-{id}.scope/container"), None, Some(&id), None),
            (format!("/docker/{id}"), None, Some(&id), None),
            (format!("{below}/{slice}/cri-containerd-{id}.scope"), None, Some(&id), Some(uid)),
            (format!("{below}/{slice}/crio-{id}.scope"), None, Some(&id), Some(uid)),
            (format!("{below}/{slice}"), None, None, Some(uid)),
            (format!("/docker/{other}/kubepods/pod{uid}/{id}"), None, Some(&id), Some(uid)),
        ] {
            let expected = CgroupName {
                unit: unit.map(str::to_owned),
                container: container.cloned(),
                pod_uid: pod.map(str::to_owned),
            };
            assert_eq!(CgroupName::of(&cgroup), expected, "{cgroup}");
        }
    }
}
