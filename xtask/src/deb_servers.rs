//! nginx, HAProxy and wrk, which the live tests, the demo and the bench load and load with,
//! Alertmanager, which they tell, and kubectl, which reads manifests.

use crate::deb_cache::Unpacked;

/// Debian's. wrk tells its version and calls that a failure.
pub const SERVERS: Unpacked = Unpacked {
    name: "servers",
    what: "nginx, HAProxy, wrk, Alertmanager and kubectl",
    why: "which the live tests load, tell and ask",
    packages: &["nginx", "haproxy", "wrk", "prometheus-alertmanager", "kubernetes-client"],
    programs: &[
        ("usr/sbin/nginx", "-v", 0),
        ("usr/sbin/haproxy", "-v", 0),
        ("usr/bin/wrk", "-v", 1),
        ("usr/bin/prometheus-alertmanager", "--version", 0),
        // Its version it tells only beside an API's.
        ("usr/bin/kubectl", "help", 0),
    ],
};
