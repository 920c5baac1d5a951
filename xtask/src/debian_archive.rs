//! Debian's archive, read through apt with a separate configuration.
//!
//! The archive's address comes from this machine's apt configuration; no host is named here. apt
//! checks signatures and hashes against Debian's keyring. The machine's own apt files are not
//! written, so root is not needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::child::{self, OnInterrupt};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Sites that serve the running Debian.
#[derive(Debug, PartialEq, Eq)]
pub struct Sites {
    main: String,
    /// Site of the security suites, if this machine uses them.
    security: Option<String>,
}

impl Sites {
    /// Reads the sites from this machine's apt.
    pub fn find() -> anyhow::Result<Self> {
        let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let format = ["indextargets", "--no-release-info", "--format", "$(SITE) $(RELEASE)"];
        let targets = child::output_of(Command::new("apt-get").args(format)).unwrap_or_default();
        Self::among(&os, &targets)
    }

    fn among(os: &str, targets: &str) -> anyhow::Result<Self> {
        let field =
            |name: &str| os.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        if field("ID") != Some("debian") {
            bail!("this is not Debian, from whose archive this is taken");
        }
        let codename = field("VERSION_CODENAME").unwrap_or("sid").trim_matches('"');
        let site = |wanted: &dyn Fn(&str) -> bool| {
            let mut rows = targets.lines().filter_map(|line| line.split_once(' '));
            rows.find(|(_, release)| wanted(release)).map(|(site, _)| site.to_owned())
        };
        let names = [codename, "stable", "oldstable", "testing", "unstable", "sid"];
        let main = site(&|release| names.contains(&release));
        let main = main
            .with_context(|| format!("apt is configured without a site for Debian {codename}"))?;
        Ok(Self { main, security: site(&|release| release.ends_with("-security")) })
    }

    /// Returns apt's list of packages for a suite and its security updates.
    pub fn list(&self, suite: &str, has_security: bool) -> String {
        let kind = format!("deb [arch=amd64 signed-by={KEYRING} target=Packages]");
        self.lines(&kind, suite, has_security)
    }

    /// Returns apt's list of source packages for a suite and its security updates.
    pub fn source_list(&self, suite: &str) -> String {
        self.lines(&format!("deb-src [signed-by={KEYRING} target=Sources]"), suite, true)
    }

    fn lines(&self, kind: &str, suite: &str, has_security: bool) -> String {
        let line = |site: &str, suite: &str| format!("{kind} {site} {suite} main\n");
        let mut list = line(&self.main, suite);
        if let (true, Some(site)) = (has_security, &self.security) {
            list.push_str(&line(site, &format!("{suite}-security")));
        }
        list
    }
}

/// Separate apt.
pub struct Archive {
    directory: PathBuf,
}

impl Archive {
    /// Creates an apt with this list that keeps all its files in this directory.
    pub fn open(directory: &Path, list: String) -> anyhow::Result<Self> {
        for part in ["lists/partial", "archives/partial"] {
            let path = directory.join(part);
            fs::create_dir_all(&path)
                .with_context(|| format!("{} cannot be created", path.display()))?;
        }
        let machine = child::output_of(Command::new("apt-config").arg("dump")).unwrap_or_default();
        let files = [
            ("apt.conf", configuration(directory, &machine)),
            ("sources.list", list),
            // An empty package status: packages of the machine must not count.
            ("status", String::new()),
        ];
        for (name, text) in files {
            let path = directory.join(name);
            fs::write(&path, text)
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
        Ok(Self { directory: directory.to_path_buf() })
    }

    /// Fetches the lists of packages that have changed.
    pub fn update(&self, what: &str) -> anyhow::Result<()> {
        let mut command = self.apt("apt-get");
        command.args(["-q", "update"]);
        quiet(&format!("fetch the list of {what}"), &mut command)
    }

    /// Returns the packages of the same kernel that a package needs, each as `name=version`. The
    /// package itself is left out, since it only names the newest kernel.
    pub fn needs(&self, package: &str) -> anyhow::Result<Vec<String>> {
        let (mut wanted, mut found) = (self.show(package)?.1, Vec::new());
        while let Some(name) = wanted.pop() {
            let (version, needed) = self.show(&name)?;
            let one = format!("{name}={version}");
            if !found.contains(&one) {
                found.push(one);
                wanted.extend(needed);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Returns packages and everything that they depend on.
    pub fn with_dependencies(&self, packages: &[&str]) -> anyhow::Result<Vec<String>> {
        let mut simulate = self.apt("apt-get");
        simulate.args(["install", "--simulate", "--no-install-recommends"]).args(packages);
        let simulated = child::output(&mut simulate)?;
        Ok(to_be_installed(&String::from_utf8_lossy(&simulated)).map(str::to_owned).collect())
    }

    fn show(&self, package: &str) -> anyhow::Result<(String, Vec<String>)> {
        let shown =
            child::output(self.apt("apt-cache").args(["show", "--no-all-versions", package]))?;
        parse_show(&String::from_utf8_lossy(&shown))
            .with_context(|| format!("apt-cache knows no version of {package}"))
    }

    /// Downloads packages into a directory.
    pub fn download(&self, what: &str, packages: &[String], into: &Path) -> anyhow::Result<()> {
        let mut command = self.apt("apt-get");
        command.args(["-q", "download"]).args(packages).current_dir(into);
        quiet(&format!("download {what}"), &mut command)
    }

    /// Downloads the files of a version of a source package into a directory.
    pub fn download_source(&self, what: &str, package: &str, into: &Path) -> anyhow::Result<()> {
        let mut command = self.apt("apt-get");
        command.args(["-q", "source", "--download-only", package]).current_dir(into);
        quiet(&format!("download {what}"), &mut command)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // The messages are parsed below, and locales may not be installed.
        command.env("LC_ALL", "C").env("APT_CONFIG", self.directory.join("apt.conf"));
        command
    }
}

/// Returns the machine's apt options for fetching, such as a proxy.
pub fn fetching(machine: &str) -> impl Iterator<Item = &str> {
    machine.lines().filter(|line| line.starts_with("Acquire::"))
}

/// Parses a simulated installation of apt: the names of the packages.
pub fn to_be_installed(simulated: &str) -> impl Iterator<Item = &str> {
    simulated.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next())
}

/// Returns the configuration of the separate apt. Only the fetch options come from the machine's
/// own, such as a proxy. Its hooks must not run.
fn configuration(directory: &Path, machine: &str) -> String {
    let at =
        |option: &str, name: &str| format!("{option} \"{}\";\n", directory.join(name).display());
    let mut text: String = fetching(machine).flat_map(|line| [line, "\n"]).collect();
    text += &at("Dir::State", "");
    text += &at("Dir::State::lists", "lists");
    text += &at("Dir::State::status", "status");
    text += &at("Dir::Cache", "");
    text += &at("Dir::Etc::sourcelist", "sources.list");
    for other in ["parts", "main", "sourceparts", "preferences", "preferencesparts"] {
        text += &format!("Dir::Etc::{other} \"/dev/null\";\n");
    }
    text += "APT::Architecture \"amd64\";\n";
    for weak in [
        "AllowInsecureRepositories",
        "AllowWeakRepositories",
        "AllowDowngradeToInsecureRepositories",
    ] {
        text += &format!("Acquire::{weak} \"0\";\n");
    }
    // The cache is in a home directory, which apt's own user may not be allowed to enter.
    text += "APT::Sandbox::User \"root\";\n";
    text += "APT::Update::Error-Mode \"any\";\n";
    text += "Acquire::Languages \"none\";\nAcquire::GzipIndexes \"true\";\n";
    text += "Acquire::Retries \"1\";\n";
    text += "Acquire::http::Timeout \"20\";\nAcquire::https::Timeout \"20\";\n";
    text
}

/// Runs apt; if it fails, the error is apt's own `E:` line.
fn quiet(what: &str, command: &mut Command) -> anyhow::Result<()> {
    let done = child::quiet(what, command, "check the network and the archive", OnInterrupt::Stop);
    done.map_err(|error| {
        let text = error.to_string();
        match text.lines().find_map(|line| line.trim().strip_prefix("E: ")) {
            Some(line) => anyhow::anyhow!("cannot {what}: {line}"),
            None => error,
        }
    })
}

/// Parses the output of `apt-cache show`: the version, and the packages of the same kernel that it
/// depends on.
fn parse_show(text: &str) -> Option<(String, Vec<String>)> {
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let parts = ["linux-image-", "linux-binary-", "linux-modules-"];
    let needed = field("Depends")
        .unwrap_or_default()
        .split(',')
        .filter_map(|one| one.split_whitespace().next());
    let needed = needed.filter(|name| parts.iter().any(|part| name.starts_with(part)));
    Some((field("Version")?.to_owned(), needed.map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "ID=debian\nVERSION_CODENAME=bookworm\n";

    #[test]
    fn sites_are_those_of_the_running_debian() {
        let targets = "https://other/apt nodistro\nhttp://one/debian bookworm\nhttp://one/debian \
        bookworm-updates\n\
                       http://two/security bookworm-security\n";
        let sites = Sites::among(DEBIAN, targets).unwrap();
        assert_eq!(
            (sites.main.as_str(), sites.security.as_deref()),
            ("http://one/debian", Some("http://two/security"))
        );
        let list = sites.list("trixie", true);
        assert!(
            list.contains("http://one/debian trixie main\n")
                && list.contains("http://two/security trixie-security main")
        );
        assert_eq!(sites.list("sid", false).lines().count(), 1);
    }

    #[test]
    fn a_missing_debian_site_is_an_error() {
        assert!(
            Sites::among(DEBIAN, "https://other/apt nodistro\n")
                .unwrap_err()
                .to_string()
                .contains("bookworm")
        );
        assert!(Sites::among("ID=fedora\n", "").unwrap_err().to_string().contains("not Debian"));
    }

    #[test]
    fn only_fetch_options_of_the_machine_are_kept() {
        let text = configuration(
            Path::new("/cache"),
            "Acquire::http::Proxy \"http://proxy\";\nAPT::Update::Post-Invoke:: \"rm\";\n",
        );
        assert!(
            text.contains("Acquire::http::Proxy \"http://proxy\";\n") && !text.contains("Invoke"),
            "{text}"
        );
        assert!(text.contains("Dir::State::lists \"/cache/lists\";\n"), "{text}");
    }

    #[test]
    fn packages_of_the_same_kernel_are_followed() {
        let text = "Package: linux-image-7\nVersion: 7.2-1\n\
                    Depends: dracut | initramfs-tools (>= 0.1), linux-base-7 (= 7.2-1), \
                    linux-binary-7 (= 7.2-1), linux-modules-7\n";
        let (version, needed) = parse_show(text).unwrap();
        assert_eq!(
            (version.as_str(), needed),
            ("7.2-1", vec!["linux-binary-7".to_owned(), "linux-modules-7".to_owned()])
        );
    }
}
