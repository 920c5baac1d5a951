//! A cgroup of the memory controller: its version, the files and properties that limit it, and its
//! processes.
//!
//! The version is that of the directory's file system, and the owner of the files is asked of
//! systemd; neither is guessed from a name. A cgroup is identified by the inode number of its
//! directory, which a new one of the same name does not share; a unit is identified by its name,
//! because its properties apply to its next cgroup too. If systemd does not answer, the files are
//! written as if they had no owner.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use super::{LimitError, LimitRefusal, failed, systemd};
use crate::{os::CgroupDir, sense::printable::original};

/// Version of the memory controller: version 1 has only a hard limit, at which processes are killed
/// unless they are made to wait; version 2 has one at which they are throttled too.
pub use crate::os::cgroup_dir::CgroupVersion as Version;

/// Switch of version 1: processes wait at the limit instead of being killed.
const OOM_CONTROL: &str = "memory.oom_control";

/// Files that are set, and the properties of a unit for them.
const UNIT_FILES: [(&str, &str); 5] = [
    (MEMORY_HIGH, "MemoryHigh"),
    (MEMORY_SWAP_MAX, "MemorySwapMax"),
    (MEMORY_MAX, "MemoryMax"),
    (CPU_WEIGHT, "CPUWeight"),
    (CPU_MAX, "CPUQuotaPerSecUSec"),
];
const MEMORY_HIGH: &str = "memory.high";
/// Limit of version 2 at which the kernel kills.
pub const MEMORY_MAX: &str = "memory.max";
/// Limit of swap alone; version 1 limits only memory and swap together.
pub const MEMORY_SWAP_MAX: &str = "memory.swap.max";
/// Share of the CPU among neighbours.
pub const CPU_WEIGHT: &str = "cpu.weight";
/// CPU time in each period.
pub const CPU_MAX: &str = "cpu.max";

/// Time to wait for systemd, which answers within milliseconds unless it reloads all units or waits
/// for its own pages: a limit must not wait longer, and an undo may.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const UNDO_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Limit from which a value means no limit; version 1 has such values instead of one for that.
const UNLIMITED_BYTES: u64 = 1 << 62;

/// A cgroup of the memory controller.
#[derive(Debug, Clone)]
pub struct Cgroup {
    /// Directory.
    pub directory: PathBuf,
    /// Inode number of the directory.
    pub inode: u64,
    version: Version,
    owner: FileOwner,
}

/// Writer of a cgroup's files.
#[derive(Debug, Clone, PartialEq, Eq)]
enum FileOwner {
    /// No other program writes them.
    Nobody,
    /// The cgroup is that of a systemd unit: its files are written by setting properties, for which
    /// systemd has this time to answer.
    Unit(String, Duration),
    /// systemd runs the host and does not answer: the files are written until it does. The unit is
    /// given if it is known.
    Unresponsive(Option<String>),
}

impl Cgroup {
    /// Finds the cgroup at `path`, as [`printable`](crate::sense::printable) shows it, in the
    /// hierarchy mounted at `mount`.
    ///
    /// # Errors
    ///
    /// Returns an error if the cgroup does not exist, is partly outside of the agent's namespace,
    /// has no limit of its own, or has a name that the journal cannot hold.
    pub fn find(mount: &Path, path: &str) -> Result<Self, LimitError> {
        let shown = path.trim_start_matches('/');
        let original = original(shown).filter(|_| !mount.join(shown).exists());
        if original.as_ref().is_some_and(|name| str::from_utf8(name).is_err()) {
            return Err(LimitRefusal::OddName.into());
        }
        // systemd makes no such names: a user made this one, in a part of the tree that is the
        // user's own.
        let is_odd = original.is_some();
        let below = original
            .map_or_else(|| PathBuf::from(shown), |name| PathBuf::from(OsString::from_vec(name)));
        // The path of a process outside of the mounted part of the tree is relative to that part,
        // such as "/../a".
        if below.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(LimitRefusal::NotHere.into());
        }
        let target = Self::at(mount.join(below)).ok_or(LimitRefusal::NotHere)?;
        if target.version == Version::V1 || is_odd || !systemd::is_running() {
            return Ok(target);
        }
        let owner = match systemd::unit_of(path, ANSWER_TIMEOUT) {
            Ok(None) => FileOwner::Nobody,
            Ok(Some(unit)) => FileOwner::Unit(unit, ANSWER_TIMEOUT),
            Err(error) if systemd::is_unresponsive(&error) => FileOwner::Unresponsive(None),
            Err(error) => {
                return Err(failed(format!("cannot look up the unit of cgroup {path}"))(error));
            }
        };
        Ok(Self { owner, ..target })
    }

    /// Returns the cgroup at `directory`, as one whose files no other program writes; `None` if
    /// there is none with a limit.
    pub fn at(directory: PathBuf) -> Option<Self> {
        let opened = CgroupDir::open(&directory).ok()?;
        let (version, inode) = (opened.version(), opened.inode().ok()?);
        let target = Self { directory, inode, version, owner: FileOwner::Nobody };
        opened.read(target.cgroup_file()).is_ok().then_some(target)
    }

    /// Version of the memory controller.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the unit whose properties set the files; `None` if the files are written directly.
    pub fn unit(&self) -> Option<&str> {
        match &self.owner {
            FileOwner::Unit(unit, _) => Some(unit),
            FileOwner::Nobody | FileOwner::Unresponsive(_) => None,
        }
    }

    /// Returns whether the files are written only because systemd does not answer.
    pub fn bypasses_systemd(&self) -> bool {
        matches!(self.owner, FileOwner::Unresponsive(_))
    }

    /// Writes the files from now on, because systemd does not answer.
    pub fn bypass_systemd(&mut self) {
        if let FileOwner::Unit(unit, _) = &self.owner {
            self.owner = FileOwner::Unresponsive(Some(unit.clone()));
        }
    }

    /// Looks up the unit again, after systemd did not answer.
    ///
    /// # Errors
    ///
    /// Returns an error if systemd still does not answer.
    pub fn retry_unit_lookup(&self, path: &str) -> io::Result<Self> {
        let unit = match &self.owner {
            FileOwner::Unresponsive(Some(unit)) => Some(unit.clone()),
            _ => systemd::unit_of(path, ANSWER_TIMEOUT)?,
        };
        let owner = unit.map_or(FileOwner::Nobody, |unit| FileOwner::Unit(unit, ANSWER_TIMEOUT));
        Ok(Self { owner, ..self.clone() })
    }

    /// Returns the file or property that sets the limit.
    pub fn limit_file(&self) -> &'static str {
        self.name(self.cgroup_file())
    }

    /// Returns the file or property to write for a file of the cgroup.
    pub fn name(&self, cgroup_file: &'static str) -> &'static str {
        property(cgroup_file).filter(|_| self.unit().is_some()).unwrap_or(cgroup_file)
    }

    /// Returns the file of the limit in the cgroup.
    fn cgroup_file(&self) -> &'static str {
        match self.version {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => MEMORY_HIGH,
        }
    }

    /// Returns the files and values for a limit that kills no process, in the order in which they
    /// have to be written.
    pub fn values(&self, limit_bytes: u64) -> Vec<(&'static str, String)> {
        let limit = (self.limit_file(), limit_bytes.to_string());
        match self.version {
            Version::V1 => vec![(OOM_CONTROL, "1".to_owned()), limit],
            Version::V2 => vec![limit],
        }
    }

    /// Reads the limit in effect in the cgroup, which may differ from systemd's.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read.
    pub fn effective_limit(&self) -> io::Result<String> {
        self.read_file(self.cgroup_file())
    }

    /// Returns whether the cgroup has a file.
    pub fn has(&self, cgroup_file: &str) -> bool {
        fs::exists(self.directory.join(cgroup_file)).unwrap_or(false)
    }

    /// Reads a file or property.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read.
    pub fn read(&self, file: &str) -> io::Result<String> {
        match &self.owner {
            FileOwner::Unit(unit, within) if is_property(file) => {
                systemd::read(unit, file, *within)
            }
            _ => self.read_file(file),
        }
    }

    /// Reads a file of the cgroup, even if systemd writes it.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read.
    pub fn read_file(&self, file: &str) -> io::Result<String> {
        let text = CgroupDir::open(&self.directory)?.read(file)?;
        let line = text.lines().next().unwrap_or_default();
        // The file has a line for each of its values, with the value's name.
        Ok(if file == OOM_CONTROL { line.rsplit(' ').next().unwrap_or_default() } else { line }
            .to_owned())
    }

    /// Writes a value. Takes long if the kernel has to reclaim memory first.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel or systemd rejects the value.
    pub fn write(&self, file: &str, value: &str) -> io::Result<()> {
        match &self.owner {
            FileOwner::Unit(unit, within) if is_property(file) => {
                systemd::write(unit, file, value, *within)
            }
            _ => CgroupDir::open(&self.directory)?.write(file, value),
        }
    }

    /// Reads the bytes charged to the cgroup and its descendants.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read.
    pub fn usage_bytes(&self) -> io::Result<u64> {
        let file = match self.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        };
        self.read_file(file)?.parse().map_err(io::Error::other)
    }

    /// Reads the bytes that the cgroup and its descendants have in swap.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read.
    pub fn swapped_bytes(&self) -> io::Result<u64> {
        self.read_file("memory.swap.current")?.parse().map_err(io::Error::other)
    }

    /// Returns whether the cgroup or an ancestor has a hard limit: at that, the kernel kills
    /// processes whose pages cannot be swapped out.
    ///
    /// # Errors
    ///
    /// Returns an error if a limit cannot be read.
    pub fn is_bounded(&self) -> io::Result<bool> {
        for directory in self.directory.ancestors() {
            match fs::read_to_string(directory.join(MEMORY_MAX)) {
                Ok(text) if text.trim() != "max" => return Ok(true),
                Ok(_) => {}
                // The root has no such file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Reads the CPU time of the cgroup and its descendants so far, in microseconds.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read.
    pub fn cpu_usec(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.directory.join("cpu.stat"))?;
        let usec = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        usec.unwrap_or_default().parse().map_err(io::Error::other)
    }

    /// Reads the share of the last ten seconds, 0 to 1, in which all processes waited for memory;
    /// `None` if unknown.
    pub fn full_pressure(&self) -> Option<f64> {
        match self.version {
            // Version 1 counts no time; the file says whether they wait now.
            Version::V1 => {
                let text = fs::read_to_string(self.directory.join(OOM_CONTROL)).ok()?;
                let waits = text.lines().find_map(|line| line.strip_prefix("under_oom "))?;
                waits.trim().parse().ok()
            }
            Version::V2 => {
                let text = fs::read_to_string(self.directory.join("memory.pressure")).ok()?;
                let percent = text
                    .lines()
                    .find_map(|line| line.strip_prefix("full avg10="))?
                    .split(' ')
                    .next()?;
                percent.parse().ok().map(|percent: f64| percent / 100.0)
            }
        }
    }

    /// Returns the cgroup of a unit, wherever it is now, to restore its properties.
    pub fn of_unit(directory: PathBuf, inode: u64, unit: String) -> Self {
        Self {
            directory,
            inode,
            version: Version::V2,
            owner: FileOwner::Unit(unit, UNDO_ANSWER_TIMEOUT),
        }
    }

    /// Returns whether an error means that the cgroup, or its unit, is gone.
    pub fn is_gone(&self, error: &io::Error) -> bool {
        match self.unit() {
            Some(_) => error.kind() == io::ErrorKind::NotFound,
            None => !self.exists(),
        }
    }

    /// Returns whether the cgroup still exists, and is not a new one of the same name.
    pub fn exists(&self) -> bool {
        fs::metadata(&self.directory).is_ok_and(|directory| directory.ino() == self.inode)
    }

    /// Lists all processes of the cgroup and its descendants.
    ///
    /// # Errors
    ///
    /// Returns an error if a directory or a list of processes cannot be read.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let (mut pids, mut directories) = (Vec::new(), vec![self.directory.clone()]);
        while let Some(directory) = directories.pop() {
            let processes = fs::read_to_string(directory.join("cgroup.procs"))?;
            pids.extend(processes.lines().filter_map(|line| line.parse::<u32>().ok()));
            for entry in fs::read_dir(&directory)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    directories.push(entry.path());
                }
            }
        }
        Ok(pids)
    }
}

/// Returns the property of a unit for a file of its cgroup.
pub fn property(cgroup_file: &str) -> Option<&'static str> {
    UNIT_FILES.iter().find(|(file, _)| *file == cgroup_file).map(|(_, property)| *property)
}

fn is_property(name: &str) -> bool {
    UNIT_FILES.iter().any(|(_, property)| *property == name)
}

/// Parses the value of a limit; `None` for no limit.
pub fn limit_bytes(value: &str) -> Option<u64> {
    value.parse().ok().filter(|bytes| *bytes < UNLIMITED_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::journal::whitelist;

    #[test]
    fn outside_paths_and_other_directories_are_no_cgroup() {
        for path in ["/../a", "/a/../../b", "/a/./b/.."] {
            assert!(
                matches!(
                    Cgroup::find(Path::new("/sys/fs/cgroup"), path),
                    Err(LimitError::Refused(LimitRefusal::NotHere))
                ),
                "{path}"
            );
        }
        // An ordinary directory is refused, even with such a file in it.
        let directory =
            std::env::temp_dir().join(format!("spillway-target-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("memory.high"), "max\n").unwrap();
        let found = Cgroup::at(directory.clone());
        fs::remove_dir_all(&directory).unwrap();
        assert!(found.is_none());
    }

    #[test]
    fn no_limit_is_recognized_in_either_version() {
        assert_eq!(limit_bytes("max"), None);
        assert_eq!(limit_bytes("9223372036854771712"), None);
        assert_eq!(limit_bytes("67108864"), Some(64 << 20));
    }

    #[test]
    fn every_written_value_may_be_restored() {
        for (file, property) in UNIT_FILES {
            assert!(
                whitelist::CGROUP_FILES.contains(&file)
                    && whitelist::PROPERTIES.contains(&property),
                "{file}"
            );
        }
        for version in [Version::V1, Version::V2] {
            let target =
                Cgroup { directory: PathBuf::new(), inode: 0, version, owner: FileOwner::Nobody };
            for (file, value) in target.values(1 << 20) {
                assert!(
                    whitelist::CGROUP_FILES.contains(&file) && whitelist::is_value(&value),
                    "{file}={value}"
                );
            }
        }
    }

    #[test]
    fn only_the_cgroup_of_a_unit_is_written_by_properties() {
        let directory =
            std::env::temp_dir().join(format!("spillway-unit-target-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("memory.high"), "4096\n").unwrap();
        let target = Cgroup::of_unit(directory.clone(), 7, "api.service".to_owned());
        let (read, wrote) = (target.read_file(MEMORY_HIGH), target.write(MEMORY_HIGH, "max"));
        let after = fs::read_to_string(directory.join("memory.high")).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert!(
            read.is_err() && wrote.unwrap_err().to_string().contains("not on a cgroup file system")
        );
        assert_eq!(after, "4096\n");
    }
}
