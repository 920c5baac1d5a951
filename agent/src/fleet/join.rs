//! Entry of this node into the group that the configuration names.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use super::{
    coordinator::{Coordinator, CoordinatorError},
    etcd::{EtcdCoordinator, EtcdOptions},
    fleetlock::FleetLock,
    limits::GroupLimits,
    member::{FleetMember, NodeNames},
};
use crate::{
    config::{FleetBackend, FleetConfig},
    net::http_client::{ClientFiles, TlsOptions},
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
    pub fn join(config: &FleetConfig) -> Result<Option<Self>, CoordinatorError> {
        let run = RandomState::new().build_hasher().finish();
        let Some(coordinator) = coordinator(config, run)? else { return Ok(None) };
        Ok(Some(
            Self::new(coordinator, NodeNames::of(config), GroupLimits::of(config), run)
                .with_turns(config.turn.as_secs_f64()),
        ))
    }
}

/// TLS options of requests to the coordinator.
pub fn tls_options(config: &FleetConfig) -> TlsOptions {
    let client = config.client_cert_file.clone().zip(config.client_key_file.clone());
    let client = client.map(|(cert_file, key_file)| ClientFiles { cert_file, key_file });
    TlsOptions { ca_file: config.ca_file.clone(), client }
}

/// Makes the coordinator that a configuration names, for this node; `None` without one.
///
/// # Errors
///
/// Returns an error if a name or an address cannot be used.
pub fn coordinator(
    config: &FleetConfig,
    run: u64,
) -> Result<Option<Box<dyn Coordinator>>, CoordinatorError> {
    let NodeNames { node, group, .. } = NodeNames::of(config);
    let tls = tls_options(config);
    // The list of coordinators.
    Ok(match config.backend {
        FleetBackend::None => None,
        FleetBackend::FleetLock => {
            let url = config.urls.first().map_or("", String::as_str);
            Some(Box::new(FleetLock::new(url, &group, &node, tls)?))
        }
        FleetBackend::Etcd => Some(Box::new(EtcdCoordinator::new(EtcdOptions {
            endpoints: config.urls.clone(),
            group,
            node,
            run,
            tls,
            credentials: config.user.clone().zip(config.password_file.clone()),
            silent_after: config.silent_after,
        })?)),
    })
}
