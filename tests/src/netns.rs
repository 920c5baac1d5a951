//! Network namespaces for single tests. Their counters see no other traffic and their ports are all
//! free. Each test sets how names are resolved.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
    ptr,
};

/// Moves this thread into a new network namespace with loopback up, and returns the namespace's
/// inode number. Threads and programs that the thread starts from now on are inside too; those
/// started before are not. Needs root.
///
/// # Errors
///
/// Returns an error if the kernel refuses.
pub fn own_network() -> io::Result<u32> {
    // SAFETY: unshare takes a number and touches no memory of ours; it concerns this thread alone.
    done(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    loopback_up()?;
    network()
}

/// Returns the inode number of this thread's network namespace.
///
/// # Errors
///
/// Returns an error if it cannot be read.
pub fn network() -> io::Result<u32> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino() as u32)
}

/// Brings up the loopback interface of this thread's network namespace. Safe between fork and exec,
/// because it only makes system calls.
///
/// # Errors
///
/// Returns an error if the kernel refuses.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: socket takes three integers.
    let socket =
        done(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: the ioctl reads one ifreq, which lives here.
    let up = done(unsafe { libc::ioctl(socket, libc::SIOCSIFFLAGS, &raw const request) });
    // SAFETY: the descriptor was opened here and nothing else knows it.
    unsafe { libc::close(socket) };
    up.map(drop)
}

fn done(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// Moves this thread into a new mount namespace in which names are resolved as the file
/// `resolv_conf` says. Threads and programs started from now on are inside too. Needs root.
///
/// # Errors
///
/// Returns an error if the kernel refuses.
pub fn own_resolver(resolv_conf: &Path) -> io::Result<()> {
    let resolv_conf = CString::new(resolv_conf.as_os_str().as_bytes())?;
    // SAFETY: unshare takes a number and touches no memory of ours; it concerns this thread alone.
    done(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    let mount = |from: *const libc::c_char, to: &CStr, flags| {
        // SAFETY: the paths end with a NUL and outlive the call; there is no type and there are no
        // options.
        done(unsafe { libc::mount(from, to.as_ptr(), ptr::null(), flags, ptr::null()) }).map(drop)
    };
    // Keeps the mounts made here out of the host's namespace.
    mount(ptr::null(), c"/", libc::MS_REC | libc::MS_PRIVATE)?;
    mount(resolv_conf.as_ptr(), c"/etc/resolv.conf", libc::MS_BIND)
}
