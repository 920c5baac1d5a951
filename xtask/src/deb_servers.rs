//! nginx, HAProxy, Caddy, gunicorn, uvicorn and wrk, with which the live tests, the demo and the
//! bench create load; Alertmanager, which receives their alerts; promtool, which checks metrics and
//! rules; etcd, through which nodes take turns; kubectl, which reads manifests; and
//! VictoriaMetrics, which receives telemetry.
//!
//! Servers that only all of the scenes need are a set of their own, because they are large.

use crate::deb_cache::Unpacked;

/// Debian's packages. wrk prints its version with exit code 1.
pub const SERVERS: Unpacked = Unpacked {
    name: "servers",
    what: "nginx, HAProxy, Caddy, gunicorn, uvicorn, wrk, Alertmanager, promtool, etcd and kubectl",
    why: "by the live tests",
    packages: &[
        "nginx",
        "haproxy",
        "caddy",
        "gunicorn",
        "uvicorn",
        "wrk",
        "prometheus-alertmanager",
        "etcd-server",
        "kubernetes-client",
        "prometheus",
        "python3-prometheus-client",
    ],
    suite: None,
    programs: &[
        ("usr/sbin/nginx", "-v", 0),
        ("usr/sbin/haproxy", "-v", 0),
        ("usr/bin/caddy", "version", 0),
        ("usr/bin/gunicorn", "--version", 0),
        ("usr/bin/uvicorn", "--version", 0),
        ("usr/bin/wrk", "-v", 1),
        ("usr/bin/prometheus-alertmanager", "--version", 0),
        ("usr/bin/etcd", "--version", 0),
        // kubectl prints its version only after asking an API server.
        ("usr/bin/kubectl", "help", 0),
        ("usr/bin/promtool", "--version", 0),
    ],
    files: &[],
    may_be_installed: false,
};

/// Debian's packages of the other servers in the scenes. Installed ones serve as well.
pub const MORE_SERVERS: Unpacked = Unpacked {
    name: "more-servers",
    what: "Node, Redis, Apache, PHP-FPM, Go, Java, Tomcat and PostgreSQL",
    why: "by the scenes of `cargo xtask test --thorough`, some 250 MB to download",
    packages: &[
        "nodejs",
        "redis-server",
        "apache2-bin",
        "php-fpm",
        "golang-go",
        "default-jdk-headless",
        "libtomcat10-embed-java",
        "libjakarta-annotation-api-java",
        "postgresql",
    ],
    suite: None,
    programs: &[
        ("usr/bin/node", "--version", 0),
        ("usr/bin/redis-server", "--version", 0),
        ("usr/sbin/apache2", "-v", 0),
        ("usr/sbin/php-fpm*", "--version", 0),
        ("usr/lib/go-*/bin/go", "version", 0),
        ("usr/lib/jvm/*/bin/java", "-version", 0),
        ("usr/lib/postgresql/*/bin/postgres", "--version", 0),
    ],
    files: &["usr/share/java/tomcat10-embed-core.jar", "usr/share/java/jakarta-annotation-api.jar"],
    may_be_installed: true,
};

/// VictoriaMetrics of the Debian after this one: this one's receives no OTLP. It needs nothing but
/// libraries that every Debian has.
pub const TELEMETRY: Unpacked = Unpacked {
    name: "victoria-metrics-trixie",
    what: "VictoriaMetrics",
    why: "by the tests of telemetry",
    packages: &["victoria-metrics"],
    suite: Some("trixie"),
    programs: &[("usr/bin/victoria-metrics", "-version", 0)],
    files: &[],
    may_be_installed: false,
};
