//! Package for Fedora, RHEL and their relatives, made by rpmbuild.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::stage::Stage;
use super::{VERSION, made, run};

impl Stage {
    /// Makes the package in a directory.
    pub fn rpm(&self, directory: &Path) -> anyhow::Result<PathBuf> {
        let (work, arch) = (directory.join("rpmbuild"), self.arch.kernel);
        let name = format!("spillway-{VERSION}-1.{arch}.rpm");
        let mut build = Command::new("rpmbuild");
        build.args(["-bb", "--quiet", "--target", &format!("{arch}-linux")]);
        let paths =
            [("_topdir", &work), ("_rpmdir", &directory.to_owned()), ("staged", &self.root)];
        let defines = paths.map(|(name, path)| (name, path.display().to_string()));
        let defines = defines.into_iter().chain([
            ("packaged_version", VERSION.to_owned()),
            ("_rpmfilename", name.clone()),
            // Nothing is changed or added: no links by build id, no stripped copies.
            ("_build_id_links", "none".to_owned()),
            ("debug_package", "%{nil}".to_owned()),
            ("__os_install_post", "%{nil}".to_owned()),
            ("_binary_payload", "w9.xzdio".to_owned()),
            // Nothing of this machine or of now.
            ("_buildhost", "localhost".to_owned()),
            ("use_source_date_epoch_as_buildtime", "1".to_owned()),
            ("clamp_mtime_to_source_date_epoch", "1".to_owned()),
        ]);
        for (name, value) in defines {
            build.args(["--define", &format!("{name} {value}")]);
        }
        build.arg(self.source.join("packaging/rpm/spillway.spec"));
        build.env("SOURCE_DATE_EPOCH", &self.epoch);
        run(&format!("pack spillway {VERSION} for RPM"), &mut build)?;
        made(directory.join(name))
    }
}
