//! Finds the BPF object that `cargo xtask build` made, for embedding.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() {
    println!("cargo::rerun-if-env-changed=SPILLWAY_BPF_OBJECT");
    let object = env::var_os("SPILLWAY_BPF_OBJECT").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/spillway.bpf.o")),
        PathBuf::from,
    );
    println!("cargo::rerun-if-changed={}", object.display());
    let object = if object.is_file() { object } else { no_object(&object) };
    println!("cargo::rustc-env=SPILLWAY_BPF_OBJECT={}", object.display());
}

/// An empty file in the object's place: such an agent uses its fallbacks and says why.
fn no_object(missing: &Path) -> PathBuf {
    println!(
        "cargo::warning=no BPF object at {}: this agent will use no BPF; hint: `cargo xtask build` \
         makes it",
        missing.display()
    );
    let empty = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("no.bpf.o");
    if let Err(error) = fs::write(&empty, []) {
        println!("cargo::error=cannot write {}: {error}", empty.display());
    }
    empty
}
