//! A Collector of OpenTelemetry, built from Debian's packages of its source.
//!
//! No package has the program, since everybody puts a Collector together from the parts that they
//! need. This one receives OTLP over HTTP and prints what it was sent. Its sources are in Debian
//! unstable alone, with the compiler that they need. Both come from Debian's archive, with its
//! signatures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::built_once::BuiltOnce;
use crate::child::{self, OnInterrupt};
use crate::debian_archive::{Archive, Sites};

/// Suite of the sources and of the compiler.
const SUITE: &str = "sid";
const PACKAGES: [&str; 2] = ["golang-opentelemetry-collector-dev", "golang-go"];

/// Parts of this Collector.
const MAIN: &str = include_str!("collector/main.go");

/// Script that unpacks the sources and builds the program. Its tree is from before modules, as
/// Debian's packages of Go are, and needs no C library.
const BUILD: &str = r#"
for package in *.deb; do dpkg-deb --extract "$package" root && rm "$package" || exit 1; done
GOROOT=$(ls -d "$PWD"/root/usr/lib/go-1.* | tail -n 1)
export GOROOT GOPATH="$PWD:$PWD/root/usr/share/gocode" GOCACHE="$PWD/go-cache" GOTMPDIR="$PWD"
export GO111MODULE=off CGO_ENABLED=0 GOFLAGS= GOTOOLCHAIN=local
cd src/collector && "$GOROOT/bin/go" build -ldflags '-s -w' -o ../../bin/collector .
"#;

/// Builds it unless it is there; returns its directory.
pub fn provide() -> anyhow::Result<PathBuf> {
    let built = BuiltOnce {
        name: "collector",
        what: "a Collector of OpenTelemetry",
        takes: "two minutes on two cores; 330 MB to download",
        programs: &["collector"],
    };
    built.provide(build)
}

fn build(work: &Path) -> anyhow::Result<()> {
    let archive = Archive::open(&work.join("apt"), Sites::find()?.list(SUITE, false))?;
    archive.update("Go's packages in Debian unstable")?;
    let mut packages = archive.with_dependencies(&PACKAGES)?;
    // The others are programs and libraries that sources in Go only recommend.
    packages.retain(|name| name.starts_with("golang-"));
    archive.download("the Collector's sources", &packages, work)?;
    let source = work.join("src/collector");
    fs::create_dir_all(&source).with_context(|| format!("cannot create {}", source.display()))?;
    fs::write(source.join("main.go"), MAIN).context("main.go cannot be written")?;
    let mut command = Command::new("sh");
    command.args(["-c", BUILD]).current_dir(work);
    child::quiet(
        "build the Collector",
        &mut command,
        "check the free disk space",
        OnInterrupt::Stop,
    )
}
