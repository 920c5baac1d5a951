#!/bin/sh
# Builds the relay against one version of bytes. Arguments: where to build, the version.
set -eu
mkdir -p "$1/src"
cp "$(dirname "$0")/src/main.rs" "$1/src/main.rs"
cat > "$1/Cargo.toml" <<TOML
[package]
name = "relay"
version = "0.0.0"
edition = "2021"
[dependencies]
bytes = "=$2"
[workspace]
TOML
cd "$1"
exec cargo build --quiet --release --target-dir "$1/target"
