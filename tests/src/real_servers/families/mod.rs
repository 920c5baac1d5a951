//! Servers of every kind. A new one is a file here and a line in [`FAMILIES`].

mod apache;
mod go;
mod gunicorn;
mod haproxy;
mod java;
mod nginx;
mod node;
mod php_fpm;
mod postgres;
mod redis;
mod uvicorn;

use super::{scene::Family, wire::Wire};

/// Every server.
pub static FAMILIES: [&Family; 14] = [
    &gunicorn::SYNC,
    &gunicorn::THREADS,
    &gunicorn::UNIX,
    &uvicorn::UVICORN,
    &node::SINGLE,
    &node::CLUSTER,
    &nginx::NGINX,
    &haproxy::HAPROXY,
    &redis::REDIS,
    &php_fpm::PHP_FPM,
    &apache::APACHE,
    &go::GO,
    &java::FIXED_POOL,
    &postgres::POSTGRES,
];

fn http() -> Wire {
    Wire::Http
}
