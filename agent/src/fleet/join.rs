//! Entry of this node into the group that the configuration names.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use super::{
    coordinator::{Coordinator, CoordinatorError},
    etcd::{EtcdCoordinator, EtcdOptions},
    fleetlock::FleetLock,
    kubernetes::{self, KubernetesCoordinator, KubernetesOptions, TokenSource},
    limits::GroupLimits,
    member::{FleetMember, NodeNames},
};
use crate::{
    config::{Config, FleetBackend, FleetConfig},
    net::{
        http_client::{ClientFiles, TlsOptions, authority},
        kubernetes::{address, service_account_file},
    },
    os::host,
};

impl NodeNames {
    /// Names that a configuration gives this node.
    pub fn of(config: &FleetConfig) -> Self {
        Self {
            node: config.node.clone().unwrap_or_else(host::name),
            group: config.group.clone(),
            zone: config.zone.clone().unwrap_or_default(),
            region: config.region.clone().unwrap_or_default(),
        }
    }
}

impl FleetMember {
    /// Makes this node a member of its group; `None` without a coordinator. Makes no request.
    ///
    /// # Errors
    ///
    /// Returns an error if a name or an address cannot be used.
    pub fn join(config: &Config) -> Result<Option<Self>, CoordinatorError> {
        let run = RandomState::new().build_hasher().finish();
        let Some(coordinator) = coordinator(config, run)? else { return Ok(None) };
        let config = &config.fleet;
        Ok(Some(
            Self::new(coordinator, NodeNames::of(config), GroupLimits::of(config), run)
                .with_turns(config.turn.as_secs_f64()),
        ))
    }
}

/// TLS options of requests to the coordinator.
pub fn tls_options(config: &Config) -> TlsOptions {
    let fleet = &config.fleet;
    let client = fleet.client_cert_file.clone().zip(fleet.client_key_file.clone());
    let client = client.map(|(cert_file, key_file)| ClientFiles { cert_file, key_file });
    let of_pod = || config.kubernetes.service_account_dir.join("ca.crt");
    let ca_file = fleet.ca_file.clone().or_else(|| is_in_pod(fleet).then(of_pod));
    TlsOptions { ca_file, client }
}

/// Returns whether the API server is that of the pod in which the agent runs.
fn is_in_pod(fleet: &FleetConfig) -> bool {
    fleet.backend == FleetBackend::Kubernetes && fleet.urls.is_empty()
}

/// Makes the coordinator that a configuration names, for this node; `None` without one.
///
/// # Errors
///
/// Returns an error if a name or an address cannot be used.
pub fn coordinator(
    config: &Config,
    run: u64,
) -> Result<Option<Box<dyn Coordinator>>, CoordinatorError> {
    let tls = tls_options(config);
    let fleet = &config.fleet;
    let NodeNames { node, group, .. } = NodeNames::of(fleet);
    // The list of coordinators.
    Ok(match fleet.backend {
        FleetBackend::None => None,
        FleetBackend::FleetLock => {
            let url = fleet.urls.first().map_or("", String::as_str);
            Some(Box::new(FleetLock::new(url, &group, &node, tls)?))
        }
        FleetBackend::Etcd => Some(Box::new(EtcdCoordinator::new(EtcdOptions {
            endpoints: fleet.urls.clone(),
            group,
            node,
            run,
            tls,
            credentials: fleet.user.clone().zip(fleet.password_file.clone()),
            silent_after: fleet.silent_after,
        })?)),
        FleetBackend::Kubernetes => {
            let (url, namespace) = api_server(config)?;
            Some(Box::new(KubernetesCoordinator::new(KubernetesOptions {
                url,
                namespace,
                group,
                node,
                run,
                tls,
                token: token_source(config),
                silent_after: fleet.silent_after,
            })?))
        }
    })
}

/// Returns the URL of the API server, and the namespace of the group.
fn api_server(config: &Config) -> Result<(String, String), CoordinatorError> {
    let fleet = &config.fleet;
    let unusable = |why| CoordinatorError::Unusable { coordinator: kubernetes::NAME, why };
    let url = match fleet.urls.first() {
        Some(url) => url.clone(),
        None => {
            let found = address("every pod has it; elsewhere set fleet.urls to the API server");
            let (host, port) = found.map_err(|error| unusable(error.to_string()))?;
            format!("https://{}", authority(&host, port))
        }
    };
    let namespace = match &fleet.namespace {
        Some(namespace) => namespace.clone(),
        None => {
            let path = config.kubernetes.service_account_dir.join("namespace");
            service_account_file(&path).map_err(|why| {
                unusable(format!(
                    "{}: {why}\n  hint: set fleet.namespace, or run the agent in a pod",
                    path.display()
                ))
            })?
        }
    };
    Ok((url, namespace))
}

fn token_source(config: &Config) -> TokenSource {
    let fleet = &config.fleet;
    match &fleet.password_file {
        Some(secret) => TokenSource::Secret(secret.clone()),
        None if is_in_pod(fleet) && fleet.client_cert_file.is_none() => {
            TokenSource::ServiceAccount(config.kubernetes.service_account_dir.clone())
        }
        None => TokenSource::None,
    }
}
