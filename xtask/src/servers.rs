//! nginx, HAProxy and wrk, which the live tests and the bench load and load with, and Alertmanager, which they tell.

use crate::unpacked::Unpacked;

/// Debian's. wrk tells its version and calls that a failure.
pub const SERVERS: Unpacked = Unpacked {
    name: "servers",
    what: "nginx, HAProxy, wrk and Alertmanager",
    why: "which the live tests load and tell",
    packages: &["nginx", "haproxy", "wrk", "prometheus-alertmanager"],
    programs: &[
        ("usr/sbin/nginx", "-v", 0),
        ("usr/sbin/haproxy", "-v", 0),
        ("usr/bin/wrk", "-v", 1),
        ("usr/bin/prometheus-alertmanager", "--version", 0),
    ],
};
