//! nginx, HAProxy, gunicorn, uvicorn and wrk, with which the live tests, the demo and the bench
//! create load; Alertmanager, which receives their alerts; and kubectl, which reads manifests.

use crate::deb_cache::Unpacked;

/// Debian's packages. wrk prints its version with exit code 1.
pub const SERVERS: Unpacked = Unpacked {
    name: "servers",
    what: "nginx, HAProxy, gunicorn, uvicorn, wrk, Alertmanager and kubectl",
    why: "by the live tests",
    packages: &[
        "nginx",
        "haproxy",
        "gunicorn",
        "uvicorn",
        "wrk",
        "prometheus-alertmanager",
        "kubernetes-client",
    ],
    programs: &[
        ("usr/sbin/nginx", "-v", 0),
        ("usr/sbin/haproxy", "-v", 0),
        ("usr/bin/gunicorn", "--version", 0),
        ("usr/bin/uvicorn", "--version", 0),
        ("usr/bin/wrk", "-v", 1),
        ("usr/bin/prometheus-alertmanager", "--version", 0),
        // kubectl prints its version only after asking an API server.
        ("usr/bin/kubectl", "help", 0),
    ],
};
