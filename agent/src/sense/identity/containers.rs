//! Names and images of containers, from the files of Docker and Podman on the host.
//!
//! Both are root's. Containers of another runtime keep the beginning of their id as a name, and
//! those of Kubernetes are named by the kubelet's directories (see [`super::kubelet_logs`]).

use serde::Deserialize;

use super::host_files::{on_host, read_up_to};
use crate::sense::printable::printable;

/// Podman's list of root's containers.
const PODMAN: &str = "/var/lib/containers/storage/overlay-containers/containers.json";

/// Maximum sizes of the files. A guess at many times the usual.
const DOCKER_BYTES_MAX: u64 = 1 << 20;
const PODMAN_BYTES_MAX: u64 = 4 << 20;

/// Maximum length of a name or an image, in characters.
const CHARS_MAX: usize = 200;

/// Name and image of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) image: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerContainer {
    name: String,
    config: DockerConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerConfig {
    image: Option<String>,
}

#[derive(Deserialize)]
struct PodmanContainer {
    id: String,
    names: Vec<String>,
    /// Another JSON document.
    metadata: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PodmanMetadata {
    image_name: Option<String>,
}

/// Returns the name and image of a container with this id.
pub(super) fn look_up(id: &str) -> Option<Named> {
    let docker = format!("/var/lib/docker/containers/{id}/config.v2.json");
    on_host(&docker).find_map(|path| of_docker(&read_up_to(&path, DOCKER_BYTES_MAX)?)).or_else(
        || on_host(PODMAN).find_map(|path| of_podman(&read_up_to(&path, PODMAN_BYTES_MAX)?, id)),
    )
}

/// Reads Docker's file of a container.
pub(super) fn of_docker(bytes: &[u8]) -> Option<Named> {
    let DockerContainer { name, config } = serde_json::from_slice(bytes).ok()?;
    named(name.trim_start_matches('/'), config.image)
}

/// Reads Podman's list of containers.
pub(super) fn of_podman(bytes: &[u8], id: &str) -> Option<Named> {
    let containers: Vec<PodmanContainer> = serde_json::from_slice(bytes).ok()?;
    let container = containers.into_iter().find(|container| container.id == id)?;
    let metadata = container.metadata.as_deref().map(serde_json::from_str::<PodmanMetadata>);
    let image = metadata.and_then(Result::ok).and_then(|metadata| metadata.image_name);
    named(container.names.first()?, image)
}

fn named(name: &str, image: Option<String>) -> Option<Named> {
    let shown = |text: &str| printable(text).chars().take(CHARS_MAX).collect::<String>();
    let image = image.map(|image| shown(&image)).filter(|image| !image.is_empty());
    (!name.is_empty()).then(|| Named { name: shown(name), image })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_docker_and_podman_name_a_container_and_its_image() {
        let docker = br#"{"ID":"3f","Name":"/web","Config":{"Image":"nginx:1.25","Env":["A=b"]}}"#;
        let web = Named { name: "web".to_owned(), image: Some("nginx:1.25".to_owned()) };
        assert_eq!(of_docker(docker), Some(web));
        assert_eq!(of_docker(br#"{"Name":"/"}"#), None);
        let podman = br#"[{"id":"0a","names":["db"],"image":"x","layer":"y",
            "metadata":"{\"image-name\":\"localhost/db:3\",\"image-id\":\"x\"}"},
            {"id":"0b","names":[]}]"#;
        let db = Named { name: "db".to_owned(), image: Some("localhost/db:3".to_owned()) };
        assert_eq!(of_podman(podman, "0a"), Some(db));
        assert_eq!(of_podman(podman, "0b"), None);
        assert_eq!(of_podman(b"[]", "0a"), None);
    }
}
