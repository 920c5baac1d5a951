//! Owner of a cgroup on a Kubernetes node, by its path alone.
//!
//! The kubelet puts every pod below a cgroup `kubepods` and names the pod's own by its uid, in one
//! way if it writes the cgroup's files itself, and in another if it asks systemd; there may be
//! others above, such as a kubelet's own root or the container that a whole node runs in.
//! Everything below a pod's cgroup belongs to the pod, whatever its name, so the outermost counts.
//! A path of Kubernetes that names no pod is reported as such, because its owner is unknown then.

/// Owner of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupOwner {
    /// The host, no pod.
    Host,
    /// The pod with this uid.
    Pod(String),
    /// Kubernetes, without the name of a pod.
    Unnamed,
}

/// Quality-of-service classes that may come between the root of all pods and a pod; guaranteed pods
/// have none.
const CLASSES: [&str; 2] = ["burstable", "besteffort"];

/// Prefixes of the cgroups that runtimes create for containers, outside [`is_root`] if the kubelet
/// was configured to create none for pods.
const CONTAINERS: [&str; 2] = ["cri-containerd-", "crio-"];

/// Returns the owner of a cgroup.
pub fn owner(cgroup: &str) -> CgroupOwner {
    let mut names = cgroup.split('/');
    let Some(mut parent) = names.find(|name| is_root(name)) else {
        let is_container = |name: &str| {
            name.ends_with(".scope") && CONTAINERS.iter().any(|runtime| name.starts_with(runtime))
        };
        return if cgroup.split('/').any(is_container) {
            CgroupOwner::Unnamed
        } else {
            CgroupOwner::Host
        };
    };
    for name in names.take(2) {
        let Some(part) = part(parent, name) else { break };
        if let Some(uid) = part.strip_prefix("pod") {
            return uid_of(uid).map_or(CgroupOwner::Unnamed, CgroupOwner::Pod);
        }
        if !CLASSES.contains(&part.as_str()) {
            break;
        }
        parent = name;
    }
    CgroupOwner::Unnamed
}

/// Returns the cgroup that outlasts a restart: of a pod's container, whose cgroup each restart
/// changes, the pod's; of others their own.
pub fn outlasting(cgroup: &str) -> &str {
    let parent = cgroup.rsplit_once('/').map(|(parent, _)| parent);
    let pod = parent.filter(|parent| {
        let name = parent.rsplit('/').next().unwrap_or_default();
        cgroup.contains("kubepods") && name.contains("pod")
    });
    pod.unwrap_or(cgroup)
}

/// Returns whether it is the cgroup above all pods: `kubepods`, or systemd's slice of that name
/// below any other.
fn is_root(name: &str) -> bool {
    let slice = name.strip_suffix(".slice");
    name == "kubepods"
        || slice.is_some_and(|slice| slice == "kubepods" || slice.ends_with("-kubepods"))
}

/// Returns the part of a cgroup's name that its parent's lacks: all of it, except that a slice
/// repeats its parent's and has underscores for dashes.
fn part(parent: &str, name: &str) -> Option<String> {
    let Some(parent) = parent.strip_suffix(".slice") else { return Some(name.to_owned()) };
    let part = name.strip_suffix(".slice")?.strip_prefix(parent)?.strip_prefix('-')?;
    (!part.contains('-')).then(|| part.replace('_', "-"))
}

/// Returns a uid: mostly a UUID; for a pod from a file a hash or the file's own.
fn uid_of(text: &str) -> Option<String> {
    let is_one = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    is_one.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UID: &str = "5af2b6f4-1c0e-4d0f-9d3c-0f6a5b7c8d9e";
    const SLICE: &str = "pod5af2b6f4_1c0e_4d0f_9d3c_0f6a5b7c8d9e.slice";

    #[test]
    fn a_pod_is_named_by_either_driver_wherever_its_kubelet_is() {
        for cgroup in [
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-{SLICE}/\
                 cri-containerd-0a1b.scope"
            ),
            format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-{SLICE}/\
                 crio-0a1b.scope/container"
            ),
            format!("/kubepods.slice/kubepods-{SLICE}/docker-0a1b.scope"),
            format!("/kubepods.slice/kubepods-{SLICE}"),
            format!("/kubepods/burstable/pod{UID}/0a1b"),
            format!("/kubepods/pod{UID}/0a1b/system.slice/sshd.service"),
            // A node in a container, and a kubelet with a root of its own.
            format!("/docker/0a1b/kubelet/kubepods/besteffort/pod{UID}/0a1b"),
            format!(
                "/system.slice/docker-0a1b.scope/kubelet.slice/kubelet-kubepods.slice/\
                 kubelet-kubepods-burstable.slice/\
                 kubelet-kubepods-burstable-{SLICE}/cri-containerd-0a1b.scope"
            ),
        ] {
            assert_eq!(owner(&cgroup), CgroupOwner::Pod(UID.to_owned()), "{cgroup}");
        }
        let from_a_file = "/kubepods/burstable/pod81cdabfc720501d9e81b425b15921b4d/0a1b";
        assert_eq!(
            owner(from_a_file),
            CgroupOwner::Pod("81cdabfc720501d9e81b425b15921b4d".to_owned())
        );
    }

    #[test]
    fn a_node_within_a_pod_is_the_pods() {
        let inner = "/kubepods/burstable/pod11111111-1c0e-4d0f-9d3c-0f6a5b7c8d9e/0a1b";
        let cgroup = format!("/kubepods/pod{UID}/0a1b/docker/0a1b{inner}");
        assert_eq!(owner(&cgroup), CgroupOwner::Pod(UID.to_owned()));
    }

    #[test]
    fn what_is_no_pods_and_what_names_none_are_told_apart() {
        for cgroup in [
            "",
            "/",
            "/system.slice/kubelet.service",
            "/system.slice/docker-0a1b.scope",
            "/user.slice/user-1000.slice/user@1000.service/pod.slice",
            "/machine.slice/libpod-0a1b.scope",
            "/mykubepods/pod1",
            "/kubepods-like.slice/pod1",
            "/crio.service",
        ] {
            assert_eq!(owner(cgroup), CgroupOwner::Host, "{cgroup}");
        }
        for cgroup in [
            "/kubepods",
            "/kubepods.slice",
            "/kubepods/burstable",
            "/kubepods/burstable/pod",
            "/kubepods/burstable/pod../x",
            "/kubepods/burstable/burstable/pod1",
            "/kubepods/0a1b",
            "/kubepods.slice/kubepods-burstable.slice",
            "/kubepods.slice/pod1.slice",
            "/kubepods.slice/kubepods-pod1-2.slice",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-pod1.slice",
            "/system.slice/cri-containerd-0a1b.scope",
            "/system.slice/crio-conmon-0a1b.scope",
        ] {
            assert_eq!(owner(cgroup), CgroupOwner::Unnamed, "{cgroup}");
        }
    }

    proptest! {
        #[test]
        fn uid_of_a_pod_is_found_whatever_is_above_and_below(
            uid in "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}|[a-z0-9]{1,20}",
            class in prop::sample::select(vec!["", "burstable", "besteffort"]),
            above in prop::collection::vec("[a-z0-9]{1,9}(\\.(slice|scope|service))?", 0..4),
            prefix in "([a-z]{1,8}-)?",
            below in "(/[a-zA-Z0-9_.:@-]{1,30}){0,4}",
        ) {
            prop_assume!(!above.iter().any(|name| is_root(name)));
            let above: String = above.iter().map(|name| format!("/{name}")).collect();
            let files = if class.is_empty() { String::new() } else { format!("/{class}") };
            let files = format!("{above}/kubepods{files}/pod{uid}{below}");
            prop_assert_eq!(owner(&files), CgroupOwner::Pod(uid.clone()));
            let mut slices = format!("{above}/{prefix}kubepods.slice");
            let mut name = format!("{prefix}kubepods");
            if !class.is_empty() {
                name = format!("{name}-{class}");
                slices = format!("{slices}/{name}.slice");
            }
            let slices = format!("{slices}/{name}-pod{}.slice{below}", uid.replace('-', "_"));
            prop_assert_eq!(owner(&slices), CgroupOwner::Pod(uid));
        }

        #[test]
        fn any_path_has_an_owner_and_no_uid_leads_anywhere(
            path in "(/(kubepods|pod[a-z0-9./_-]{0,9}|.{0,12})(\\.slice)?){0,6}",
        ) {
            if let CgroupOwner::Pod(uid) = owner(&path) {
                prop_assert!(!uid.is_empty() && !uid.contains(['/', '.', '_']), "{uid}");
                prop_assert!(path.contains("kubepods"));
            }
        }

        #[test]
        fn without_kubernetes_in_it_a_path_is_the_hosts(path in "(/[a-z0-9@:_.-]{1,20}){0,6}") {
            prop_assume!(!path.contains("kubepods") && !path.contains("cri"));
            prop_assert_eq!(owner(&path), CgroupOwner::Host);
        }
    }
}
