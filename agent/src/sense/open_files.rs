//! The files that fill a file system, and who has them open.
//!
//! One pass over the open files of all processes, made only while a file system fills. A file is
//! counted once, for one of the processes that have it open. Deleted files of one process are one
//! culprit, because a journal may hold gigabytes in many of them of which none is large.

use std::{collections::HashMap, fs, io, path::Path, sync::Arc};

use spillway_ebpf::OpenFileSample;

use super::{CountUser, LossCounters, printable::printable, thread_time::thread_secs};
use crate::{
    bpf::{IterHandle, pass},
    os::proc_reader::unrestricted,
};

/// Files that are kept of a pass. Of more, the smaller half is dropped, again and again.
const FILES_MAX: usize = 1_024;

/// Culprits of a file system that are named, and how many of these for their growth alone: a disk
/// may have many files that are large and do not grow.
const NAMED_MAX: usize = 8;
const GROWING_MAX: usize = 4;

/// Unit of `i_blocks`.
const BLOCK_BYTES: u64 = 512;

/// Deleted files of one process, as a name. One alone is named by its path.
const DELETED: &str = "deleted files";

/// Lists the files that are open for writing.
pub(super) struct Writers {
    iter: IterHandle,
    buffer: Vec<u8>,
    /// Bytes of the culprits of the last pass; `None` before the first.
    before: Option<HashMap<CulpritKey, u64>>,
}

/// A culprit between passes: the file system, and an inode or a process that holds deleted files.
type CulpritKey = (usize, bool, u64);

/// A file that is open, on the file system with this number.
#[derive(Debug, Clone)]
struct OpenFile {
    file_system: usize,
    sample: OpenFileSample,
    bytes: u64,
}

/// A culprit before it has a name.
#[derive(Debug, Clone)]
struct DiskCulprit {
    key: CulpritKey,
    bytes: u64,
    /// The only file, or `None` for several that were deleted.
    file: Option<OpenFileSample>,
    pid: u32,
}

/// Files of a pass, each once.
#[derive(Default)]
struct OpenFileTable {
    files: HashMap<(u32, u64), OpenFile>,
}

impl Writers {
    /// Creates a list from its iterator.
    pub(super) fn new(iter: IterHandle) -> Self {
        Self { iter, buffer: Vec::new(), before: None }
    }

    /// Lists the culprits of file systems, the largest first, by the numbers in `devices`. A device
    /// is an overlay if the flag is set: the sizes of its files are then their lengths. Returns the
    /// processor time that it took, too.
    ///
    /// # Errors
    ///
    /// Returns an error if the pass failed.
    pub(super) fn list(
        &mut self,
        devices: &HashMap<u32, (usize, bool)>,
        losses: &mut LossCounters,
    ) -> io::Result<(HashMap<usize, Vec<CountUser>>, f64)> {
        let before_secs = thread_secs();
        let mut table = OpenFileTable::default();
        let rest = pass(&self.iter, &mut self.buffer, |sample: OpenFileSample| {
            if let Some((file_system, is_overlay)) = devices.get(&sample.device) {
                table.add(*file_system, *is_overlay, sample);
            }
        })?;
        losses.count_short_read(rest);
        let culprits = table.culprits();
        let mut named: HashMap<usize, Vec<CountUser>> = HashMap::new();
        for culprit in chosen(&culprits, self.before.as_ref()) {
            let user =
                CountUser { name: culprit.name(), pid: Some(culprit.pid), used: culprit.bytes };
            named.entry(culprit.key.0).or_default().push(user);
        }
        self.before = Some(culprits.iter().map(|one| (one.key, one.bytes)).collect());
        Ok((named, thread_secs() - before_secs))
    }
}

impl OpenFileTable {
    fn add(&mut self, file_system: usize, is_overlay: bool, sample: OpenFileSample) {
        // Xfs does not keep the number in the inode, nor do others before they write.
        let bytes = match sample.blocks {
            _ if is_overlay => sample.size_bytes,
            0 => sample.size_bytes,
            blocks => blocks.saturating_mul(BLOCK_BYTES),
        };
        if bytes == 0 {
            return;
        }
        self.files.entry((sample.device, sample.inode)).or_insert(OpenFile {
            file_system,
            sample,
            bytes,
        });
        if self.files.len() > FILES_MAX {
            // With its key, because many may be of one size.
            let rank = |key: &(u32, u64), file: &OpenFile| (file.bytes, *key);
            let mut ranks: Vec<_> = self.files.iter().map(|(key, file)| rank(key, file)).collect();
            let (_, &mut median, _) = ranks.select_nth_unstable(FILES_MAX / 2);
            self.files.retain(|key, file| rank(key, file) > median);
        }
    }

    /// Returns every culprit, with deleted files of one process together.
    fn culprits(&self) -> Vec<DiskCulprit> {
        let mut deleted: HashMap<CulpritKey, DiskCulprit> = HashMap::new();
        let mut culprits = Vec::new();
        for OpenFile { file_system, sample, bytes } in self.files.values() {
            let (pid, is_deleted) = (sample.pid, sample.links == 0);
            let key =
                (*file_system, is_deleted, if is_deleted { pid.into() } else { sample.inode });
            let culprit = DiskCulprit { key, bytes: *bytes, file: Some(*sample), pid };
            if !is_deleted {
                culprits.push(culprit);
                continue;
            }
            let join = |known: &mut DiskCulprit| {
                known.bytes = known.bytes.saturating_add(*bytes);
                known.file = None;
            };
            deleted.entry(key).and_modify(join).or_insert(culprit);
        }
        culprits.extend(deleted.into_values());
        culprits
    }
}

impl DiskCulprit {
    /// Returns its name: the path as the process sees it, where that may be read, and the last
    /// component alone otherwise.
    fn name(&self) -> Arc<str> {
        let Some(sample) = self.file else { return Arc::from(DELETED) };
        let length = (sample.name_len as usize).min(sample.name.len());
        let last = &sample.name[..length];
        let (pid, fd) = (sample.pid, sample.fd);
        let path = unrestricted(move || fs::read_link(format!("/proc/{pid}/fd/{fd}")));
        // The descriptor may have been used for another file since.
        let path = path.ok().filter(|path| is_path_of(path, last));
        let mut name = match path {
            Some(path) => path.into_os_string().into_encoded_bytes(),
            None => last.to_vec(),
        };
        if sample.links == 0 && !name.ends_with(b" (deleted)") {
            name.extend_from_slice(b" (deleted)");
        }
        printable(name)
    }
}

/// Returns whether the last component of a path begins with what BPF read of it.
fn is_path_of(path: &Path, last: &[u8]) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(last))
}

/// Chooses the culprits to name of each file system: those that grew most since the last pass, and
/// the largest; the largest first.
fn chosen(culprits: &[DiskCulprit], before: Option<&HashMap<CulpritKey, u64>>) -> Vec<DiskCulprit> {
    let growth = |culprit: &DiskCulprit| {
        let before = before.map(|before| before.get(&culprit.key).copied().unwrap_or(0));
        before.map_or(0, |before| culprit.bytes.saturating_sub(before))
    };
    let mut by_file_system: HashMap<usize, Vec<&DiskCulprit>> = HashMap::new();
    culprits.iter().for_each(|one| by_file_system.entry(one.key.0).or_default().push(one));
    let mut chosen = Vec::new();
    for mut all in by_file_system.into_values() {
        all.sort_by_key(|one| std::cmp::Reverse((growth(one), one.bytes)));
        let growing = all.iter().take(GROWING_MAX).take_while(|one| growth(one) != 0).count();
        let mut rest = all.split_off(growing);
        rest.sort_by_key(|one| std::cmp::Reverse(one.bytes));
        all.extend(rest.into_iter().take(NAMED_MAX - growing));
        all.sort_by_key(|one| std::cmp::Reverse(one.bytes));
        chosen.extend(all.into_iter().cloned());
    }
    chosen
}

#[cfg(test)]
mod tests {
    use spillway_ebpf::FILE_NAME_LEN;

    use super::*;

    fn file(inode: u64, blocks: u64, pid: u32, links: u32) -> OpenFileSample {
        OpenFileSample {
            inode,
            blocks,
            size_bytes: 7,
            pid,
            fd: u32::MAX,
            device: 1,
            links,
            name_len: u32::MAX,
            reserved: 0,
            name: [b'a'; FILE_NAME_LEN],
        }
    }

    fn culprits(files: impl IntoIterator<Item = OpenFileSample>) -> Vec<DiskCulprit> {
        let mut table = OpenFileTable::default();
        files.into_iter().for_each(|file| table.add(0, false, file));
        table.culprits()
    }

    #[test]
    fn deleted_files_of_a_process_are_one_culprit() {
        let files = [
            file(1, 8, 10, 0),
            file(2, 16, 10, 0),
            file(2, 16, 11, 0),
            file(3, 4, 12, 0),
            file(4, 2, 13, 1),
            OpenFileSample { size_bytes: 0, ..file(5, 0, 13, 1) },
            file(6, 0, 14, 1),
        ];
        let all = chosen(&culprits(files), None);
        let seen: Vec<_> = all.iter().map(|one| (one.pid, one.bytes, one.name())).collect();
        let name = "a".repeat(FILE_NAME_LEN);
        assert_eq!(
            seen,
            [
                (10, 24 * 512, Arc::from(DELETED)),
                (12, 4 * 512, Arc::from(format!("{name} (deleted)"))),
                (13, 2 * 512, Arc::from(&*name)),
                (14, 7, Arc::from(name)),
            ]
        );
    }

    #[test]
    fn those_that_grow_are_named_beside_larger_ones() {
        let all = culprits((1..=20).map(|inode| file(inode, inode * 100, 1, 1)));
        let before = all.iter().map(|one| (one.key, one.bytes - u64::from(one.key.2 == 1)));
        let named = chosen(&all, Some(&before.collect()));
        let inodes: Vec<_> = named.iter().map(|one| one.key.2).collect();
        assert_eq!(inodes, [20, 19, 18, 17, 16, 15, 14, 1]);
        let inodes: Vec<_> = chosen(&all, None).iter().map(|one| one.key.2).collect();
        assert_eq!(inodes, [20, 19, 18, 17, 16, 15, 14, 13]);
    }

    #[test]
    fn of_many_files_the_largest_are_kept() {
        let mut table = OpenFileTable::default();
        for inode in 1..=50_000 {
            table.add(0, false, file(inode, inode % 9_973 + 1, 1, 1));
            assert!(table.files.len() <= FILES_MAX);
        }
        table.add(0, true, file(1 << 40, u64::MAX, 1, 1));
        assert_eq!(table.files.values().map(|file| file.bytes).max(), Some(9_973 * 512));
        (0..5_000).for_each(|inode| table.add(0, false, file(inode, u64::MAX, 1, 1)));
        assert!((FILES_MAX / 2..=FILES_MAX).contains(&table.files.len()), "all of one size");
    }

    #[test]
    fn path_of_another_file_is_not_taken() {
        let path = Path::new("/var/log/app.log (deleted)");
        assert!(is_path_of(path, b"app.log"));
        assert!(!is_path_of(path, b"db.log"));
        assert!(!is_path_of(Path::new("/"), b"x"));
    }
}
