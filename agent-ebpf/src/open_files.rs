//! `list_open_files`: regular files that are open for writing, or that were deleted and are still
//! open: those that fill a disk.
//!
//! `/proc/PID/fd` has the same, but for other users' processes only with CAP_SYS_PTRACE, and takes
//! three system calls a file.
//!
//! - Hook: `iter/task_file`, `int (struct bpf_iter__task_file *ctx)`, process context.
//! - Minimum kernel: 5.8.
//! - Cost: 0.15 to 0.3 µs an open file, and 0.9 µs one that is emitted, its reader included. A pass
//!   is made only while a file system fills, twice a minute at most.
//! - Does not see: files that are mapped and closed, files that a process writes to by opening them
//!   anew each time, and those of file systems without a device of their own.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use spillway_ebpf::{FILE_NAME_LEN, OpenFileSample};

use crate::kernel_read::{Helper, IterTaskFile, Reading as _, emit, offset};

const S_IFMT: u16 = 0o170_000;
const S_IFREG: u16 = 0o100_000;

/// `FMODE_WRITE` of include/linux/fs.h.
const FMODE_WRITE: u32 = 2;

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn list_open_files(ctx: *mut IterTaskFile) -> i32 {
    // SAFETY: the kernel passes a valid context; its members are read as the verifier allows.
    let (meta, task, fd, file) = unsafe {
        ((*ctx).meta, (*ctx).task.cast_const(), (*ctx).fd as u32, (*ctx).file.cast_const())
    };
    if task.is_null() || file.is_null() {
        return 0;
    }
    if let Some(mut sample) = sample(task, file) {
        sample.fd = fd;
        // One that does not fit is shown again.
        emit(meta, &sample);
    }
    0
}

#[inline(always)]
fn sample(task: *const c_void, file: *const c_void) -> Option<OpenFileSample> {
    let inode = Helper::pointer(file, offset!(file_inode))?;
    if Helper::read::<u16>(inode, offset!(inode_mode))? & S_IFMT != S_IFREG {
        return None;
    }
    let links: u32 = Helper::read(inode, offset!(inode_links))?;
    if links != 0 && Helper::read::<u32>(file, offset!(file_mode))? & FMODE_WRITE == 0 {
        return None;
    }
    let superblock = Helper::pointer(inode, offset!(inode_super))?;
    let mut sample = OpenFileSample {
        inode: Helper::read(inode, offset!(inode_number))?,
        blocks: Helper::read(inode, offset!(inode_blocks))?,
        size_bytes: Helper::read(inode, offset!(inode_size))?,
        pid: Helper::read(task, offset!(task_tgid))?,
        fd: 0,
        device: Helper::read(superblock, offset!(super_device))?,
        links,
        name_len: 0,
        reserved: 0,
        name: [0; FILE_NAME_LEN],
    };
    let dentry = Helper::pointer(file, offset!(file_dentry))?;
    let name = Helper::pointer(dentry, offset!(dentry_name)).unwrap_or(ptr::null());
    // SAFETY: the helper writes at most that many bytes, a NUL among them, and never faults on a
    // bad address. A concurrent rename may mix two names.
    let written = unsafe {
        bpf_probe_read_kernel_str((&raw mut sample.name).cast(), FILE_NAME_LEN as u32, name.cast())
    };
    if written > 0 {
        sample.name_len = written as u32 - 1;
    }
    Some(sample)
}
