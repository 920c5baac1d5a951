//! BPF iterators: one link for the lifetime of the agent, one file a pass.
//!
//! aya's own link cannot name the map that `iter/bpf_map_elem` walks and is consumed by its first
//! pass, so both system calls are made here.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use super::batch::bpf;

/// `enum bpf_cmd` and `enum bpf_attach_type` of include/uapi/linux/bpf.h; user-space ABI, never
/// renumbered.
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_ITER_CREATE: libc::c_int = 33;
const BPF_TRACE_ITER: u32 = 28;

/// The part of `union bpf_attr` that `BPF_LINK_CREATE` reads for an iterator.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    reserved: u32,
}

/// The part of `union bpf_attr` that `BPF_ITER_CREATE` reads.
#[repr(C)]
#[derive(Default)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

/// An attached iterator program, ready for any number of passes.
#[derive(Debug)]
pub struct IterHandle {
    link: OwnedFd,
}

impl IterHandle {
    /// Attaches a loaded iterator program, to `map` if it walks the elements of one.
    pub fn attach(program: BorrowedFd<'_>, map: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        // `union bpf_iter_link_info` begins with the map's descriptor.
        let info = map.map(|map| map.as_raw_fd() as u32);
        let mut attr = LinkCreate {
            prog_fd: program.as_raw_fd() as u32,
            attach_type: BPF_TRACE_ITER,
            iter_info: info.as_ref().map_or(0, |info| std::ptr::from_ref(info) as u64),
            iter_info_len: if info.is_some() { size_of::<u32>() as u32 } else { 0 },
            ..LinkCreate::default()
        };
        Ok(Self { link: opened(BPF_LINK_CREATE, &mut attr)? })
    }

    /// Opens a pass, which is made by reading the file to its end.
    pub fn open(&self) -> io::Result<File> {
        let mut attr = IterCreate { link_fd: self.link.as_raw_fd() as u32, flags: 0 };
        opened(BPF_ITER_CREATE, &mut attr).map(File::from)
    }
}

/// Runs a command that returns a new descriptor.
fn opened<T>(command: libc::c_int, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel just created this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
