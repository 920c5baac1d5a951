//! Finds the BPF object that `cargo xtask build` made, for embedding.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=SPILLWAY_BPF_OBJECT");
    let object = env::var_os("SPILLWAY_BPF_OBJECT").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/spillway.bpf.o")),
        PathBuf::from,
    );
    println!("cargo::rerun-if-changed={}", object.display());
    if !object.is_file() {
        println!(
            "cargo::error=no BPF object at {}; hint: run `cargo xtask build` once, which makes it",
            object.display()
        );
        return;
    }
    println!("cargo::rustc-env=SPILLWAY_BPF_OBJECT={}", object.display());
}
