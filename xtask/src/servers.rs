//! nginx, HAProxy and wrk, which the live tests and the bench load and load with.

use crate::unpacked::Unpacked;

/// Debian's. wrk tells its version and calls that a failure.
pub const SERVERS: Unpacked = Unpacked {
    name: "servers",
    what: "nginx, HAProxy and wrk",
    why: "which the live tests load",
    packages: &["nginx", "haproxy", "wrk"],
    programs: &[("usr/sbin/nginx", "-v", 0), ("usr/sbin/haproxy", "-v", 0), ("usr/bin/wrk", "-v", 1)],
};
