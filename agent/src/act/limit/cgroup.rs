//! A cgroup as it can be limited: which files or properties say so, what they say now, and who is
//! in it.
//!
//! What kind of cgroup it is, the file system that its directory is on says, and whose, systemd;
//! nothing is guessed from a name. It is known by the directory's inode number, so that one that
//! was made again under the same name is another; but a unit is known by its name, because what was
//! set for it holds for its next cgroup too. Where systemd gives no answer the files are written as
//! if they were nobody's.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use super::{LimitError, LimitRefusal, failed, systemd};
use crate::{os::CgroupDir, sense::printable::original};

/// Which controller charges its memory: version 1 has a hard limit alone, at which processes are
/// killed unless they are told to wait, and version 2 one above which they are slowed down.
pub use crate::os::cgroup_dir::CgroupVersion as Version;

/// Version 1's switch for what happens at the limit: processes that would be killed wait instead.
const OOM_CONTROL: &str = "memory.oom_control";

/// The files that are set, and the property of a unit that is each.
const UNIT_FILES: [(&str, &str); 5] = [
    (MEMORY_HIGH, "MemoryHigh"),
    (MEMORY_SWAP_MAX, "MemorySwapMax"),
    (MEMORY_MAX, "MemoryMax"),
    (CPU_WEIGHT, "CPUWeight"),
    (CPU_MAX, "CPUQuotaPerSecUSec"),
];
const MEMORY_HIGH: &str = "memory.high";
/// Version 2's limit at which the kernel kills.
pub const MEMORY_MAX: &str = "memory.max";
/// How much of it may be in swap; version 1 knows only memory and swap together.
pub const MEMORY_SWAP_MAX: &str = "memory.swap.max";
/// Share of the CPU among neighbours.
pub const CPU_WEIGHT: &str = "cpu.weight";
/// Time on a CPU in each period.
pub const CPU_MAX: &str = "cpu.max";

/// systemd answers within milliseconds, unless it is reading every unit again or waits for its own
/// pages. A limit does not wait for it for longer than this, and who undoes one has time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const UNDO_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A limit as large is none, and version 1 writes such ones for none.
const UNLIMITED_BYTES: u64 = 1 << 62;

/// A cgroup of the memory controller.
#[derive(Debug, Clone)]
pub struct Cgroup {
    /// Returns the directory.
    pub directory: PathBuf,
    /// The directory's inode number.
    pub inode: u64,
    version: Version,
    owner: FileOwner,
}

/// Whose a cgroup's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum FileOwner {
    /// Nobody writes them.
    Nobody,
    /// It is the own cgroup of a systemd unit: then systemd writes them, and has to be asked, who
    /// answers within this time.
    Unit(String, Duration),
    /// systemd runs the host and gives no answer: they are written until it does, when it may tell
    /// the unit, or was told of it before.
    Unresponsive(Option<String>),
}

impl Cgroup {
    /// The cgroup at `path`, as [`printable`](crate::sense::printable) shows it, of the hierarchy
    /// mounted at `mount`.
    ///
    /// # Errors
    ///
    /// Returns an error if it is not there, is not seen whole from here, has no limit of its own,
    /// or has a name that cannot be written down.
    pub fn find(mount: &Path, path: &str) -> Result<Self, LimitError> {
        let shown = path.trim_start_matches('/');
        let original = original(shown).filter(|_| !mount.join(shown).exists());
        if original.as_ref().is_some_and(|name| str::from_utf8(name).is_err()) {
            return Err(LimitRefusal::OddName.into());
        }
        // Only a user names a cgroup like that, in a part of the tree that is the user's; systemd
        // never does.
        let is_odd = original.is_some();
        let below = original
            .map_or_else(|| PathBuf::from(shown), |name| PathBuf::from(OsString::from_vec(name)));
        // A process outside of the part of the tree that is mounted here has its path from there,
        // as "/../a".
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
            Err(error) => return Err(failed(format!("whose {path} is cannot be told"))(error)),
        };
        Ok(Self { owner, ..target })
    }

    /// The cgroup whose directory is at `directory`, as nobody's; `None` where there is none with a
    /// limit.
    pub fn at(directory: PathBuf) -> Option<Self> {
        let opened = CgroupDir::open(&directory).ok()?;
        let (version, inode) = (opened.version(), opened.inode().ok()?);
        let target = Self { directory, inode, version, owner: FileOwner::Nobody };
        opened.read(target.cgroup_file()).is_ok().then_some(target)
    }

    /// Which controller it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The systemd unit that has to be asked for what its files are to say.
    pub fn unit(&self) -> Option<&str> {
        match &self.owner {
            FileOwner::Unit(unit, _) => Some(unit),
            FileOwner::Nobody | FileOwner::Unresponsive(_) => None,
        }
    }

    /// Whether its files are written only because systemd gives no answer.
    pub fn bypasses_systemd(&self) -> bool {
        matches!(self.owner, FileOwner::Unresponsive(_))
    }

    /// systemd gave no answer: its files are written until it does.
    pub fn bypass_systemd(&mut self) {
        if let FileOwner::Unit(unit, _) = &self.owner {
            self.owner = FileOwner::Unresponsive(Some(unit.clone()));
        }
    }

    /// Asks again whose it is, where there was no answer.
    ///
    /// # Errors
    ///
    /// Returns an error if there is none still.
    pub fn retry_unit_lookup(&self, path: &str) -> io::Result<Self> {
        let unit = match &self.owner {
            FileOwner::Unresponsive(Some(unit)) => Some(unit.clone()),
            _ => systemd::unit_of(path, ANSWER_TIMEOUT)?,
        };
        let owner = unit.map_or(FileOwner::Nobody, |unit| FileOwner::Unit(unit, ANSWER_TIMEOUT));
        Ok(Self { owner, ..self.clone() })
    }

    /// The file, or property, that sets the limit.
    pub fn limit_file(&self) -> &'static str {
        self.name(self.cgroup_file())
    }

    /// What has to be written for this file of the cgroup to say something: itself, or a property
    /// of the unit.
    pub fn name(&self, cgroup_file: &'static str) -> &'static str {
        property(cgroup_file).filter(|_| self.unit().is_some()).unwrap_or(cgroup_file)
    }

    /// The file of the limit in the cgroup, whoever writes it.
    fn cgroup_file(&self) -> &'static str {
        match self.version {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => MEMORY_HIGH,
        }
    }

    /// What has to be in which file for a limit to hold and kill nobody, in the order in which it
    /// is to be put there.
    pub fn values(&self, limit_bytes: u64) -> Vec<(&'static str, String)> {
        let limit = (self.limit_file(), limit_bytes.to_string());
        match self.version {
            Version::V1 => vec![(OOM_CONTROL, "1".to_owned()), limit],
            Version::V2 => vec![limit],
        }
    }

    /// The limit that stands in the cgroup, whatever it was told.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read.
    pub fn effective_limit(&self) -> io::Result<String> {
        self.read_file(self.cgroup_file())
    }

    /// Whether the cgroup has such a file.
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

    /// Reads a file of the cgroup, whoever writes it.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read.
    pub fn read_file(&self, file: &str) -> io::Result<String> {
        let text = CgroupDir::open(&self.directory)?.read(file)?;
        let line = text.lines().next().unwrap_or_default();
        // Says more than what was written to it, and the name of that before it.
        Ok(if file == OOM_CONTROL { line.rsplit(' ').next().unwrap_or_default() } else { line }
            .to_owned())
    }

    /// Puts a value there. May take long where the kernel has to free memory first.
    ///
    /// # Errors
    ///
    /// Returns an error if the kernel, or systemd, does not take it.
    pub fn write(&self, file: &str, value: &str) -> io::Result<()> {
        match &self.owner {
            FileOwner::Unit(unit, within) if is_property(file) => {
                systemd::write(unit, file, value, *within)
            }
            _ => CgroupDir::open(&self.directory)?.write(file, value),
        }
    }

    /// Memory charged now to it and all below it, in bytes.
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

    /// Returns the bytes that it and its descendants have in swap.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read.
    pub fn swapped_bytes(&self) -> io::Result<u64> {
        self.read_file("memory.swap.current")?.parse().map_err(io::Error::other)
    }

    /// Whether it, or one above it, has a hard limit: where that is reached the kernel kills who
    /// cannot be swapped out.
    ///
    /// # Errors
    ///
    /// Returns an error if one cannot be read.
    pub fn is_bounded(&self) -> io::Result<bool> {
        for directory in self.directory.ancestors() {
            match fs::read_to_string(directory.join(MEMORY_MAX)) {
                Ok(text) if text.trim() != "max" => return Ok(true),
                Ok(_) => {}
                // The root has none.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Time that it and all below it have had on CPUs so far, in microseconds.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be read.
    pub fn cpu_usec(&self) -> io::Result<u64> {
        let text = fs::read_to_string(self.directory.join("cpu.stat"))?;
        let usec = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        usec.unwrap_or_default().parse().map_err(io::Error::other)
    }

    /// Share of the last ten seconds, 0 to 1, in which all of its processes at once waited for
    /// memory; `None` where it is not known.
    pub fn full_pressure(&self) -> Option<f64> {
        match self.version {
            // It counts no time, and says whether they wait now.
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

    /// The own cgroup of a unit, wherever that is by now, to put back what was changed.
    pub fn of_unit(directory: PathBuf, inode: u64, unit: String) -> Self {
        Self {
            directory,
            inode,
            version: Version::V2,
            owner: FileOwner::Unit(unit, UNDO_ANSWER_TIMEOUT),
        }
    }

    /// Whether an error says that what is asked for is no longer there.
    pub fn is_gone(&self, error: &io::Error) -> bool {
        match self.unit() {
            Some(_) => error.kind() == io::ErrorKind::NotFound,
            None => !self.exists(),
        }
    }

    /// Whether it is still the one that it was.
    pub fn exists(&self) -> bool {
        fs::metadata(&self.directory).is_ok_and(|directory| directory.ino() == self.inode)
    }

    /// Every process in it and below it.
    ///
    /// # Errors
    ///
    /// Returns an error if they cannot be told.
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

/// The property that a file of a unit's cgroup is written by.
pub fn property(cgroup_file: &str) -> Option<&'static str> {
    UNIT_FILES.iter().find(|(file, _)| *file == cgroup_file).map(|(_, property)| *property)
}

fn is_property(name: &str) -> bool {
    UNIT_FILES.iter().any(|(_, property)| *property == name)
}

/// The limit that a file's value means; `None` where there is none.
pub fn limit_bytes(value: &str) -> Option<u64> {
    value.parse().ok().filter(|bytes| *bytes < UNLIMITED_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::act::journal::whitelist;

    #[test]
    fn what_is_not_seen_whole_or_is_no_cgroup_is_no_target() {
        for path in ["/../a", "/a/../../b", "/a/./b/.."] {
            assert!(
                matches!(
                    Cgroup::find(Path::new("/sys/fs/cgroup"), path),
                    Err(LimitError::Refused(LimitRefusal::NotHere))
                ),
                "{path}"
            );
        }
        // A directory like any other, even with such a file in it.
        let directory =
            std::env::temp_dir().join(format!("spillway-target-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("memory.high"), "max\n").unwrap();
        let found = Cgroup::at(directory.clone());
        fs::remove_dir_all(&directory).unwrap();
        assert!(found.is_none());
    }

    #[test]
    fn no_limit_is_told_in_either_version() {
        assert_eq!(limit_bytes("max"), None);
        assert_eq!(limit_bytes("9223372036854771712"), None);
        assert_eq!(limit_bytes("67108864"), Some(64 << 20));
    }

    #[test]
    fn whatever_is_written_may_be_put_back() {
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
    fn a_units_cgroup_is_written_only_where_it_is_one() {
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
