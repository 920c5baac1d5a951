//! The agent installed by the commands in its unit file, at work, and removed by the commands
//! beside them: nothing is left of it.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};
use aya::{maps::loaded_maps, programs::loaded_programs};
use spillway_tests::Scratch;

use crate::{
    checks::Seen,
    installed::{AGENT_UNIT, CLAIMED_WITHIN, ENFORCE, QUICK, UNIT_FILE},
    rungs::{Prepared, Rung},
    unit_stage::{SOON, Stage, systemctl, until},
};

const PROGRAM: &str = "/usr/local/bin/spillway";

/// Places in which a host keeps persistent and volatile files. The systemd journal, which is not
/// the agent's to remove, is left out, and so are the copies that Debian's dpkg-db-backup makes at
/// midnight, what apt remembers of the packages that it has handled, and the terminals that
/// systemctl could ask for passwords.
const PLACES: [&str; 6] = ["/etc", "/run", "/usr", "/var", "/sys/fs/cgroup", "/sys/fs/bpf"];
const LEFT_OUT: [&str; 8] = [
    "/run/log/journal",
    "/var/log/journal",
    "/run/systemd/journal",
    "/run/systemd/ask-password-block",
    "/var/backups",
    "/var/cache/apt",
    "/var/lib/apt",
    "/var/log/apt",
];

/// Directories that systemd creates at the first use of a property, a transient unit or a mount, and
/// keeps. Earlier checks may have caused that, or not.
const MADE_AT_FIRST_USE: [&str; 6] = [
    "/run/systemd/ask-password-block",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/incoming",
    "/run/systemd/propagate",
    "/run/systemd/unit-root",
];

/// Prefix of systemd's own BPF programs, which it reloads at any time.
const OF_SYSTEMD: &str = "sd_";

/// Everything that an agent may leave behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Files, directories and cgroups.
    pub paths: BTreeSet<String>,
    /// BPF programs and maps, by kind, id and name.
    bpf: BTreeSet<(&'static str, u32, String)>,
    /// Limits of a unit that it has limited.
    pub limits: String,
}

/// Checks that nothing of the agent is left.
pub fn uninstall(_: &mut Prepared, _: Rung) -> anyhow::Result<Seen> {
    let scratch = Scratch::make("uninstall");
    // The program that the machine has for the other checks is put back at the end of this one.
    let _program = MovedAway::to(&scratch)?;
    scratch.file("spillway.toml", QUICK);
    scratch.file("spillway.service", UNIT_FILE);
    scratch.file("enforce.conf", ENFORCE);
    let stage = Stage::running("leak", "leak --rate=6MiB --limit=400MiB", "")?;
    let before = Found::before(&stage)?;

    run_lines(UNIT_FILE, "To install it", &scratch.0)?;
    run_lines(ENFORCE, "Install it beside the unit", &scratch.0)?;
    let limited = until(CLAIMED_WITHIN, || stage.high().ok()?.parse::<u64>().ok());
    ensure!(
        limited.is_some(),
        "no limit was set: {}",
        systemctl(&["status", "--full", AGENT_UNIT])?
    );
    let at_work = Found::read(&stage)?;
    let (files, programs) =
        (at_work.paths.difference(&before.paths), at_work.bpf.difference(&before.bpf));
    let (files, programs) =
        (files.count(), programs.filter(|(kind, ..)| *kind == "program").count());
    // At least program, configuration, unit file, its link, state and drop-in, and a cgroup.
    ensure!(
        files >= 7 && programs >= 5,
        "only {files} files and {programs} programs exist while it runs"
    );
    ensure!(at_work.limits != before.limits, "the limit is missing: {}", before.limits);

    run_lines(UNIT_FILE, "To remove it", &scratch.0)?;
    before.is_restored(&stage)?;
    Ok(Seen {
        events: 1,
        detail: format!("{files} files and {programs} BPF programs came and went"),
    })
}

/// Runs the commands that a unit file or drop-in gives to its reader.
fn run_lines(file: &str, what_for: &str, directory: &Path) -> anyhow::Result<()> {
    let lines = file.lines().skip_while(|line| !line.contains(what_for)).skip(1);
    let lines: Vec<_> = lines.map_while(|line| line.strip_prefix("#   ")).collect();
    ensure!(!lines.is_empty(), "the file has no commands for: {what_for}");
    let mut shell = Command::new("sh");
    let output =
        shell.arg("-ec").arg(lines.join("\n")).current_dir(directory).output().context("no sh")?;
    ensure!(output.status.success(), "{lines:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Found {
    /// Reads the state before the agent is installed.
    pub fn before(stage: &Stage) -> anyhow::Result<Self> {
        for directory in MADE_AT_FIRST_USE {
            fs::create_dir_all(directory)?;
        }
        Self::read(stage)
    }

    /// Checks that this state is back: nothing more and nothing less.
    pub fn is_restored(&self, stage: &Stage) -> anyhow::Result<()> {
        // The kernel frees a program once it can no longer run.
        let gone =
            until(SOON, || Self::read(stage).ok().filter(|after| after.bpf.is_subset(&self.bpf)));
        let after = gone.map_or_else(|| Self::read(stage), Ok)?;
        let left: Vec<_> = after.paths.difference(&self.paths).collect();
        let lost: Vec<_> = self.paths.difference(&after.paths).collect();
        ensure!(left.is_empty() && lost.is_empty(), "left: {left:?}; lost: {lost:?}");
        let left: Vec<_> = after.bpf.difference(&self.bpf).collect();
        ensure!(left.is_empty(), "left in the kernel: {left:?}");
        ensure!(after.limits == self.limits, "before: {}; after: {}", self.limits, after.limits);
        Ok(())
    }

    /// Reads the state as it is.
    pub fn read(stage: &Stage) -> anyhow::Result<Self> {
        let mut paths = BTreeSet::new();
        PLACES.iter().for_each(|place| walk(Path::new(place), &mut paths));
        let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let programs = loaded_programs()
            .flatten()
            .map(|program| ("program", program.id(), name(program.name())));
        let maps = loaded_maps().flatten().map(|map| ("map", map.id(), name(map.name())));
        let bpf =
            programs.chain(maps).filter(|(_, _, name)| !name.starts_with(OF_SYSTEMD)).collect();
        Ok(Self {
            paths,
            bpf,
            limits: format!("{}; memory.high {}", stage.properties()?, stage.high()?),
        })
    }
}

fn walk(directory: &Path, paths: &mut BTreeSet<String>) {
    if LEFT_OUT.iter().any(|left_out| directory.starts_with(left_out)) {
        return;
    }
    // Entries that disappear meanwhile are gone.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        // Files of cgroups are the kernel's.
        if is_directory || !path.starts_with("/sys/fs/cgroup") {
            paths.insert(path.to_string_lossy().into_owned());
        }
        if is_directory {
            walk(&path, paths);
        }
    }
}

/// The agent's program, moved away from its place.
struct MovedAway(std::path::PathBuf);

impl MovedAway {
    fn to(scratch: &Scratch) -> anyhow::Result<Self> {
        let kept = std::env::temp_dir().join("spillway-kept");
        fs::copy(PROGRAM, scratch.0.join("spillway"))?;
        fs::copy(PROGRAM, &kept)?;
        fs::remove_file(PROGRAM)?;
        Ok(Self(kept))
    }
}

impl Drop for MovedAway {
    fn drop(&mut self) {
        let _ = fs::copy(&self.0, PROGRAM);
        let _ = fs::remove_file(&self.0);
    }
}
