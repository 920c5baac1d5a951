//! Lists of the programs that processes run, by a pass of BPF.
//!
//! `/proc/PID/exe` has the same for a reader with CAP_SYS_PTRACE. A limit asks for the programs of
//! the cgroup's other processes. Failure: without BPF there is no list, and a process whose program
//! is unknown keeps its cgroup from being limited.

use std::{
    collections::HashMap,
    ffi::OsString,
    io,
    os::unix::ffi::OsStringExt as _,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use aya::maps::{HashMap as BpfHashMap, MapData};
use spillway_ebpf::{PROGRAMS_MAX, ProgramNameSample};

use crate::bpf::{
    AttachContext, IterHandle, Unavailable, btf_offsets::ABSENT, fallbacks::Cause, pass,
};

/// Lists programs. Any thread may do so at any time; they wait for each other.
#[derive(Debug)]
pub struct ProgramList {
    pass: Mutex<ProgramPass>,
}

/// A pass over every process, and the map of those that are asked for.
#[derive(Debug)]
struct ProgramPass {
    iter: IterHandle,
    wanted: BpfHashMap<MapData, u32, u32>,
}

impl ProgramList {
    /// Attaches the iterator. Its offsets belong to the probe of processes.
    pub(super) fn attach(context: &mut AttachContext<'_>) -> Result<Self, Unavailable> {
        let at = context.offsets();
        let offsets = [
            at.mm_exe_file,
            at.file_dentry,
            at.file_mount,
            at.mount_vfsmount,
            at.vfsmount_root,
            at.mount_parent,
            at.mount_mountpoint,
            at.dentry_parent,
            at.dentry_name,
        ];
        if offsets.contains(&ABSENT) {
            let reason = "this kernel's struct file, mount or dentry has another form";
            return Err(Unavailable::new(Cause::Unsupported, reason));
        }
        let iter = context.iter("list_programs", "task")?;
        let wanted = context.take("PROGRAMS_WANTED")?;
        Ok(Self { pass: Mutex::new(ProgramPass { iter, wanted }) })
    }

    /// Returns the paths of the programs that these processes run, each as seen from the root of
    /// its mount namespace. Leaves out processes that have ended, kernel threads, and those whose
    /// path has more than [`spillway_ebpf::PROGRAM_COMPONENTS_MAX`] components.
    ///
    /// # Errors
    ///
    /// Returns an error if a pass failed.
    pub fn programs(&self, pids: &[u32]) -> io::Result<HashMap<u32, PathBuf>> {
        let mut pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        let mut paths = PathAssembly::default();
        for wanted in pids.chunks(PROGRAMS_MAX as usize) {
            pass.list(wanted, &mut paths)?;
        }
        Ok(paths.complete)
    }
}

impl ProgramPass {
    fn list(&mut self, pids: &[u32], paths: &mut PathAssembly) -> io::Result<()> {
        let inserted = pids.iter().try_for_each(|pid| self.wanted.insert(pid, 1, 0));
        let passed = pass(&self.iter, &mut Vec::new(), |sample| paths.add(&sample));
        for pid in pids {
            // One that could not be inserted is not there.
            let _ = self.wanted.remove(pid);
        }
        inserted.map_err(io::Error::other)?;
        passed.map(drop)
    }
}

/// Paths, assembled from their components.
#[derive(Default)]
struct PathAssembly {
    /// Process of the components at hand.
    pid: u32,
    /// Components of its path, the last first.
    reversed: Vec<Vec<u8>>,
    complete: HashMap<u32, PathBuf>,
}

impl PathAssembly {
    fn add(&mut self, sample: &ProgramNameSample) {
        if self.pid != sample.pid {
            self.pid = sample.pid;
            self.reversed.clear();
        }
        if sample.is_end == 0 {
            let length = (sample.name_len as usize).min(sample.name.len());
            self.reversed.push(sample.name[..length].to_vec());
            return;
        }
        let mut path = Vec::new();
        for component in self.reversed.drain(..).rev() {
            path.push(b'/');
            path.extend(component);
        }
        self.pid = 0;
        if !path.is_empty() {
            self.complete.insert(sample.pid, PathBuf::from(OsString::from_vec(path)));
        }
    }
}

/// Assembles the paths of samples, for the fuzz target.
#[cfg(any(test, fuzzing))]
pub(super) fn programs_in(
    samples: impl Iterator<Item = ProgramNameSample>,
) -> HashMap<u32, PathBuf> {
    let mut paths = PathAssembly::default();
    samples.for_each(|sample| paths.add(&sample));
    paths.complete
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use spillway_ebpf::PROGRAM_NAME_LEN;

    use super::*;

    #[test]
    fn path_is_complete_only_with_its_end() {
        let sample = |pid, text: &str, is_end| {
            let mut name = [0; PROGRAM_NAME_LEN];
            name[..text.len()].copy_from_slice(text.as_bytes());
            ProgramNameSample { pid, is_end, name_len: text.len() as u32, name }
        };
        let samples = [
            sample(7, "db", 0),
            sample(7, "bin", 0),
            sample(7, "", 1),
            // Its path has too many components.
            sample(8, "deep", 0),
            sample(8, "deeper", 0),
            sample(9, "api", 0),
            sample(9, "", 1),
            sample(10, "", 1),
        ];
        let paths = programs_in(samples.into_iter());
        assert_eq!(paths.len(), 2);
        assert_eq!(paths.get(&7).map(PathBuf::as_path), Some(Path::new("/bin/db")));
        assert_eq!(paths.get(&9).map(PathBuf::as_path), Some(Path::new("/api")));
    }
}
