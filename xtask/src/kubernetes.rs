//! A real Kubernetes API server and its controllers, built from Debian's source package.
//!
//! No package of Debian has them, but the source of kubectl is the whole tree. It needs the
//! compiler of its time: newer ones break a library in it. Both come from Debian's archive, with
//! its signatures. The programs are kept in `~/.cache/spillway/kubernetes-VERSION`; everything else
//! is removed once they run.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::built_once::BuiltOnce;
use crate::child::{self, OnInterrupt};
use crate::debian_archive::{Archive, Sites};

/// Version of the source package.
const VERSION: &str = "1.20.5+really1.20.2-1.1+deb12u1";

/// Suite of the source package.
const SOURCE_SUITE: &str = "bookworm";

/// Suite of the compiler, and its packages.
const GO_SUITE: &str = "bullseye";
const GO: [&str; 2] = ["golang-1.15-go", "golang-1.15-src"];

/// Programs that are built.
const PROGRAMS: [&str; 2] = ["kube-apiserver", "kube-controller-manager"];

const WHAT: &str = "the Kubernetes API server";

/// Script that unpacks the compiler and the source into the places where they look for each other.
const UNPACK: &str = r#"
for package in *.deb; do dpkg-deb --extract "$package" go-root || exit 1; done
mkdir -p go/src/k8s.io && dpkg-source --no-check --extract *.dsc go/src/k8s.io/kubernetes
"#;

/// Script that generates the description of the API, which the source package lacks.
const GENERATE: &str = r#"
go build -o "$WORK/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen || exit 1
packages=$(grep -rl '^// *+k8s:openapi-gen=' --include='*.go' pkg staging/src/k8s.io |
    xargs -n1 dirname | sort -u |
    sed -e 's#^staging/src/#k8s.io/kubernetes/vendor/#' -e 's#^pkg/#k8s.io/kubernetes/pkg/#' |
    paste -sd, -)
"$WORK/openapi-gen" --logtostderr --input-dirs "$packages" \
    --output-package k8s.io/kubernetes/pkg/generated/openapi \
    --output-file-base zz_generated.openapi \
    --go-header-file hack/boilerplate/boilerplate.generatego.txt --report-filename "$WORK/report"
"#;

/// Script that builds one program.
const BUILD: &str = r#"go build -ldflags '-s -w' -o "$WORK/bin/$1" "./cmd/$1""#;

/// Builds the programs unless they are there; returns their directory.
pub fn provide() -> anyhow::Result<PathBuf> {
    let built = BuiltOnce {
        name: &format!("kubernetes-{VERSION}"),
        what: WHAT,
        takes: "some six minutes on two cores",
        programs: &PROGRAMS,
    };
    built.provide(build)
}

fn build(work: &Path) -> anyhow::Result<()> {
    let sites = Sites::find()?;
    let list = sites.list(GO_SUITE, true) + &sites.source_list(SOURCE_SUITE);
    let archive = Archive::open(&work.join("apt"), list)?;
    archive.update("Go's packages and Kubernetes' source")?;
    archive.download("Go", &GO.map(str::to_owned), work)?;
    archive.download_source("Kubernetes' source", &format!("kubernetes={VERSION}"), work)?;
    let mut unpack = Command::new("sh");
    unpack.args(["-c", UNPACK]).current_dir(work);
    let hint = "check the free disk space";
    child::quiet("unpack Go and Kubernetes", &mut unpack, hint, OnInterrupt::Stop)?;
    let generate = "generate the description of the Kubernetes API";
    child::quiet(generate, &mut go(work, GENERATE, ""), hint, OnInterrupt::Stop)?;
    for program in PROGRAMS {
        let what = format!("build {program} (once, some minutes)");
        child::quiet(&what, &mut go(work, BUILD, program), hint, OnInterrupt::Stop)?;
    }
    Ok(())
}

/// Returns a command that runs a script in the source, with the unpacked compiler.
fn go(work: &Path, script: &str, argument: &str) -> Command {
    let root = work.join("go-root/usr/lib/go-1.15");
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", argument]).current_dir(work.join("go/src/k8s.io/kubernetes"));
    let paths = [root.join("bin"), "/usr/bin".into(), "/bin".into()];
    command.env("PATH", paths.map(|path| path.display().to_string()).join(":"));
    command.env("GOROOT", root).env("GOPATH", work.join("go")).env("WORK", work);
    command.env("GOCACHE", work.join("go-cache")).env("GOTMPDIR", work);
    // The tree is from before modules were the default, and needs no C library.
    command.env("GO111MODULE", "off").env("CGO_ENABLED", "0").env("GOFLAGS", "");
    command
}
