//! Names of pods and their containers, from the kubelet's directories of logs.
//!
//! They need no network and exist with every container runtime: `/var/log/pods/NAMESPACE_NAME_UID`
//! has a directory for each container, and `/var/log/containers` a link
//! `NAME_NAMESPACE_CONTAINER-ID.log`.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::{CgroupName, Identity};
use crate::sense::printable::printable;

/// A pod's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodName {
    /// Namespace.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
}

impl PodName {
    /// Parses the name of a pod's directory, `NAMESPACE_NAME_UID`, into uid and name.
    fn of_directory(text: &str) -> Option<(String, Self)> {
        let (namespace, rest) = text.split_once('_')?;
        let (name, uid) = rest.split_once('_')?;
        let is_one = !uid.is_empty() && !namespace.is_empty() && !name.is_empty();
        is_one.then(|| {
            (uid.to_owned(), Self { namespace: namespace.to_owned(), name: name.to_owned() })
        })
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The kubelet checks both, but directories on disk may have been made by others.
        write!(f, "{}/{}", printable(&self.namespace), printable(&self.name))
    }
}

/// Returns all pods of this node, by uid.
///
/// # Errors
///
/// Returns an error if the directory cannot be read.
pub fn pods_in(logs_dir: &Path) -> io::Result<BTreeMap<String, PodName>> {
    let mut pods = BTreeMap::new();
    for entry in fs::read_dir(logs_dir)? {
        pods.extend(entry?.file_name().to_str().and_then(PodName::of_directory));
    }
    Ok(pods)
}

/// Pods and containers of this node as their logs name them, at one time.
#[derive(Debug, Default)]
pub struct NodePods {
    logs_dir: PathBuf,
    by_uid: BTreeMap<String, PodName>,
    /// Names of the links to the logs of containers.
    links: Vec<String>,
}

impl NodePods {
    /// Reads the names. A directory that cannot be read has none.
    pub fn read(logs_dir: &Path) -> Self {
        let by_uid = pods_in(logs_dir).unwrap_or_default();
        let links = logs_dir.parent().filter(|_| !by_uid.is_empty());
        let links = links.map(|parent| names_in(&parent.join("containers")).collect());
        Self { logs_dir: logs_dir.to_owned(), by_uid, links: links.unwrap_or_default() }
    }

    /// Replaces the ids of a pod and its container by their names, as far as these are known.
    pub fn name(&self, identity: &mut Identity, cgroup: &CgroupName) {
        let Some(uid) = &cgroup.pod_uid else { return };
        let Some(pod) = self.by_uid.get(uid) else { return };
        if let Some(name) = self.container(uid, pod, cgroup.container.as_deref()) {
            identity.container = Some(name);
        }
        let shown = |name: &str| Some(printable(name).to_string());
        (identity.namespace, identity.pod) = (shown(&pod.namespace), shown(&pod.name));
    }

    /// Returns the name of a pod's container. A container's id is in the names of the links;
    /// without them a pod's only container is the one.
    fn container(&self, uid: &str, pod: &PodName, id: Option<&str>) -> Option<String> {
        let PodName { namespace, name } = pod;
        let linked = || {
            let (start, end) = (format!("{name}_{namespace}_"), format!("-{}.log", id?));
            let mut links = self.links.iter();
            links.find_map(|link| link.strip_prefix(&start)?.strip_suffix(&end))
        };
        let only = || {
            let mut names = names_in(&self.logs_dir.join(format!("{namespace}_{name}_{uid}")));
            names.next().filter(|_| names.next().is_none())
        };
        linked().map(str::to_owned).or_else(only).map(|name| printable(&name).to_string())
    }
}

fn names_in(directory: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use std::{env, process};

    use proptest::prelude::*;

    use super::*;

    const UID: &str = "5af2b6f4-1c0e-4d0f-9d3c-0f6a5b7c8d9e";

    #[test]
    fn directory_name_is_that_of_exactly_one_pod() {
        let of = |text: &str| {
            PodName::of_directory(text)
                .filter(|(uid, _)| uid == UID)
                .map(|(_, name)| name.to_string())
        };
        assert_eq!(of(&format!("shop_db-0_{UID}")).as_deref(), Some("shop/db-0"));
        for text in [
            String::new(),
            UID.to_owned(),
            format!("shop_{UID}"),
            format!("shop__{UID}"),
            format!("_db-0_{UID}"),
            format!("shop_db-0_{UID}f"),
            format!("shop_db-0_f{UID}"),
            format!("shop_db-0_x_{UID}"),
            format!("shop_db-0_{UID}_"),
        ] {
            assert_eq!(of(&text), None, "{text}");
        }
    }

    #[test]
    fn container_is_named_by_its_link_or_as_the_only_one() {
        let base = env::temp_dir().join(format!("spillway-logs-{}", process::id()));
        let logs = base.join("pods");
        let pod = PodName { namespace: "shop".to_owned(), name: "api-7d".to_owned() };
        let container = |id| NodePods::read(&logs).container(UID, &pod, id);
        assert_eq!(container(Some("0a")), None);
        let directory = logs.join(format!("shop_api-7d_{UID}"));
        fs::create_dir_all(directory.join("api")).unwrap();
        assert_eq!(container(Some("0a")).as_deref(), Some("api"));
        fs::create_dir_all(directory.join("proxy")).unwrap();
        assert_eq!(container(Some("0a")), None);
        fs::create_dir_all(base.join("containers")).unwrap();
        fs::write(base.join("containers/api-7d_shop_proxy-0a.log"), "").unwrap();
        assert_eq!(container(Some("0a")).as_deref(), Some("proxy"));
        assert_eq!(container(Some("a")), None);
        fs::remove_dir_all(&base).unwrap();
    }

    proptest! {
        #[test]
        fn what_the_kubelet_names_a_directory_is_read_back(
            namespace in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
            name in "[a-z0-9]([a-z0-9.-]{0,40}[a-z0-9])?",
            uid in "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}",
        ) {
            let found = PodName::of_directory(&format!("{namespace}_{name}_{uid}"));
            prop_assert_eq!(found, Some((uid, PodName { namespace, name })));
        }
    }
}
