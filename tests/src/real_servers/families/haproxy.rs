//! HAProxy in front of a server with a pool of threads, whose queue it keeps.

use super::{
    super::scene::{Family, upstream},
    gunicorn, http, nginx,
};

const PROGRAM: &str = "usr/sbin/haproxy";

/// HAProxy in front of gunicorn, to which it passes as many requests as that has threads.
pub const HAPROXY: Family = Family {
    name: "haproxy-upstream",
    needs: &[PROGRAM, gunicorn::PROGRAM],
    service_secs: 0.05,
    workers: gunicorn::WORKERS,
    forks: false,
    wire: http,
    start: |stage| {
        let app = gunicorn::threads(stage, stage.upstream(), gunicorn::WORKERS)?;
        let text = format!(
            "global\n  nbthread 1\n  maxconn 8192\n\
             defaults\n  mode http\n  timeout client 60s\n  timeout connect 10s\n  timeout server \
             60s\n  timeout queue 60s\n\
             frontend front\n  bind {}\n  default_backend behind\n\
             backend behind\n  server one {} maxconn 4\n",
            stage.addr(),
            stage.upstream()
        );
        let config = stage.file("haproxy.cfg", &text)?;
        let mut command = stage.program(PROGRAM)?;
        let proxy = stage.tcp(command.arg("-db").arg("-f").arg(config), stage.addr())?;
        nginx::proxied(stage, vec![proxy, app])
    },
    scenes: || upstream(200),
};
