//! Servers of every kind. A new one is a file here and a line in [`FAMILIES`].

pub(super) mod apache;
pub(super) mod go;
pub(super) mod gunicorn;
mod haproxy;
pub(super) mod java;
mod nginx;
pub(super) mod node;
pub(super) mod php_fpm;
mod postgres;
mod redis;
pub(super) mod uvicorn;

use super::{
    scene::{Family, SLOW_SECS},
    wire::Wire,
};

/// Every server.
pub static FAMILIES: [&Family; 15] = [
    &gunicorn::SYNC,
    &gunicorn::THREADS,
    &gunicorn::UNIX,
    &uvicorn::UVICORN,
    &node::SINGLE,
    &node::CLUSTER,
    &nginx::NGINX,
    &haproxy::HAPROXY,
    &redis::REDIS,
    &php_fpm::UNIX,
    &apache::PREFORK,
    &go::GO,
    &java::FIXED_POOL,
    &java::TOMCAT,
    &postgres::POSTGRES,
];

fn http() -> Wire {
    Wire::Http
}

/// Returns an application with its number of workers and its times in milliseconds.
fn in_millis(app: &str, workers: u32, service_secs: f64) -> String {
    app.replace("WORKERS", &workers.to_string())
        .replace("SLOW", &format!("{:.0}", SLOW_SECS * 1e3))
        .replace("SECS", &format!("{:.0}", service_secs * 1e3))
}
