//! The corpora: their manifests, recordings and labels. `cargo xtask corpus` scores them.

mod independent;
mod leaks;
mod queues;
mod requests;
