//! The system call `bpf`, for what aya has no words for.

use std::io;

/// Makes the call. `attr` is what the command reads of `union bpf_attr`, in the kernel's layout;
/// some commands write to it.
pub(super) fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is a plain struct of the size given, and what it points to lives until the
    // call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
