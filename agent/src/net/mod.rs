//! Clients of other hosts: HTTP, name lookups, backoff, webhook signatures, secrets, redaction and
//! the Kubernetes API.

pub(crate) mod backoff;
pub mod dns;
pub mod header_lines;
pub mod http_client;
pub mod kubernetes;
pub(crate) mod redact;
pub mod secret;
pub(crate) mod webhook_signature;
