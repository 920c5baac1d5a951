//! seccomp: the system calls that a running agent makes, each group with its reason.
//!
//! Every other call fails with ENOSYS, for which libraries have a fallback; those in [`NEVER`] fail
//! with EPERM. No call kills the agent, even if it is missing here by mistake: an agent that lacks
//! one function is better than none. The kernel logs each refusal (`type=1326` in dmesg and the
//! audit log).

use std::{collections::BTreeMap, io};

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// Calls that are allowed with any arguments, by purpose.
#[rustfmt::skip]
const ALLOWED: &[(&str, &[c_long])] = &[
    ("memory of the allocator, of threads and of mapped files, which is unlocked for a moment to \
      give it back; each thread begins with rseq and the robust list", &[
        libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect,
        libc::SYS_madvise, libc::SYS_mlock, libc::SYS_munlock, libc::SYS_mlockall, libc::SYS_futex,
        libc::SYS_membarrier, libc::SYS_rseq, libc::SYS_set_robust_list, libc::SYS_exit,
        libc::SYS_exit_group, libc::SYS_gettid, libc::SYS_getpid, libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
    ]),
    ("signals, and resuming after one", &[
        libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack, libc::SYS_restart_syscall, libc::SYS_tgkill,
    ]),
    ("time, random numbers for hash maps and TLS, and the user for D-Bus", &[
        libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep, libc::SYS_gettimeofday, libc::SYS_getrandom, libc::SYS_uname,
        libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid,
        libc::SYS_sysinfo, libc::SYS_getrusage,
    ]),
    ("the loop: epoll, its wake-ups and timers", &[
        libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_eventfd2,
        libc::SYS_ppoll, libc::SYS_timerfd_create, libc::SYS_timerfd_settime,
    ]),
    ("files in /proc, in cgroups and in the state directory; Landlock restricts writing", &[
        libc::SYS_openat, libc::SYS_openat2, libc::SYS_close, libc::SYS_read, libc::SYS_pread64,
        libc::SYS_readv, libc::SYS_preadv, libc::SYS_write, libc::SYS_pwrite64, libc::SYS_writev,
        libc::SYS_pwritev, libc::SYS_lseek, libc::SYS_fstat, libc::SYS_newfstatat,
        libc::SYS_statx, libc::SYS_fstatfs, libc::SYS_statfs, libc::SYS_readlinkat,
        libc::SYS_getdents64, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_fcntl,
        libc::SYS_dup, libc::SYS_dup3, libc::SYS_pipe2, libc::SYS_getcwd,
    ]),
    ("files in the state directory alone: journal and drain state by rename, the spool as a \
      database, locks, and permissions", &[
        libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_unlinkat, libc::SYS_mkdirat,
        libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_fsync, libc::SYS_fdatasync,
        libc::SYS_flock, libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fadvise64,
        libc::SYS_sync_file_range,
    ]),
    ("sockets: the agent's ports, requests to receivers, D-Bus, the resolver, sock_diag", &[
        libc::SYS_socketpair, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept,
        libc::SYS_accept4, libc::SYS_connect, libc::SYS_shutdown, libc::SYS_getsockname,
        libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_sendto,
        libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_sendmmsg,
        libc::SYS_recvmmsg,
    ]),
    ("real-time priority while memory is short, see `self_protection.rs`", &[
        libc::SYS_sched_setscheduler, libc::SYS_sched_getscheduler,
    ]),
    ("size of a thread's stack", &[libc::SYS_prlimit64]),
];

/// Predecessors of the calls above that exist on x86-64, where the C library still makes them.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLDER: &[c_long] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink,
    libc::SYS_rename, libc::SYS_unlink, libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_chmod,
    libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_dup2, libc::SYS_pipe, libc::SYS_time,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// Calls that are allowed with some values of one argument: the call, the argument's number, its
/// values, and the purpose.
#[rustfmt::skip]
const ALLOWED_WITH: &[(c_long, u8, &[u64], &str)] = &[
    (libc::SYS_socket, 0,
        &[
            libc::AF_UNIX as u64,
            libc::AF_INET as u64,
            libc::AF_INET6 as u64,
            libc::AF_NETLINK as u64,
        ],
        "D-Bus, the network and sock_diag; no raw packets"),
    (libc::SYS_bpf, 0, &[
        BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM, BPF_MAP_GET_NEXT_KEY,
        BPF_OBJ_GET_INFO_BY_FD, BPF_MAP_LOOKUP_AND_DELETE_BATCH, BPF_MAP_LOOKUP_BATCH,
        BPF_MAP_DELETE_BATCH, BPF_MAP_LOOKUP_AND_DELETE_ELEM, BPF_ITER_CREATE,
    ], "maps and iterators of attached programs; no more are loaded"),
    (libc::SYS_ioctl, 1, &[libc::FIONBIO, libc::FIONREAD, libc::TCGETS, PERF_EVENT_IOC_DISABLE],
        "nonblocking sockets, the resolver, terminals, and the end of fault sampling"),
    (libc::SYS_shmctl, 1, &[SHM_INFO], "number of shared memory segments, see `system_v.rs`"),
    (libc::SYS_semctl, 2, &[libc::SEM_INFO as u64], "number of semaphore sets"),
    (libc::SYS_msgctl, 1, &[libc::MSG_INFO as u64], "number of message queues"),
    (libc::SYS_prctl, 0, &[libc::PR_SET_NAME as u64, PR_SET_VMA], "names of threads and of the \
    allocator's mappings"),
];

/// More of [`ALLOWED_WITH`], if BPF does not list the sockets of other network namespaces, or a
/// setting of theirs is changed.
const ENTERS: &[(c_long, u8, &[u64], &str)] = &[(
    libc::SYS_setns,
    1,
    &[libc::CLONE_NEWNET as u64],
    "sock_diag and /proc/sys/net show the namespace in which they were opened",
)];

/// More of [`ALLOWED`], if load is shed: descriptors of other processes' listeners, see
/// `act/shed/foreign_listener.rs`.
const TAKES: &[c_long] = &[libc::SYS_pidfd_open, libc::SYS_pidfd_getfd];

/// From `include/uapi/linux/bpf.h`, `perf_event.h`, `prctl.h` and `shm.h`; user-space ABI.
const BPF_MAP_LOOKUP_ELEM: u64 = 1;
const BPF_MAP_UPDATE_ELEM: u64 = 2;
const BPF_MAP_DELETE_ELEM: u64 = 3;
const BPF_MAP_GET_NEXT_KEY: u64 = 4;
const BPF_OBJ_GET_INFO_BY_FD: u64 = 15;
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: u64 = 21;
const BPF_MAP_LOOKUP_BATCH: u64 = 24;
const BPF_MAP_LOOKUP_AND_DELETE_BATCH: u64 = 25;
const BPF_MAP_DELETE_BATCH: u64 = 27;
const BPF_ITER_CREATE: u64 = 33;
const PERF_EVENT_IOC_DISABLE: u64 = 0x2401;
const PR_SET_VMA: u64 = 0x5356_4d41;
const SHM_INFO: u64 = 14;

/// Calls that run programs, or change other processes or the kernel. EPERM shows that the refusal
/// is intended.
#[rustfmt::skip]
const NEVER: &[c_long] = &[
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_ptrace, libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev, libc::SYS_init_module, libc::SYS_finit_module,
    libc::SYS_delete_module, libc::SYS_kexec_load, libc::SYS_reboot, libc::SYS_mount,
    libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot, libc::SYS_unshare,
    libc::SYS_swapon, libc::SYS_swapoff, libc::SYS_settimeofday, libc::SYS_clock_settime,
    libc::SYS_sethostname, libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setresuid,
    libc::SYS_setresgid, libc::SYS_capset, libc::SYS_keyctl, libc::SYS_add_key,
    libc::SYS_request_key, libc::SYS_userfaultfd, libc::SYS_io_uring_setup,
    libc::SYS_perf_event_open, libc::SYS_open_by_handle_at, libc::SYS_personality,
];

/// Calls whose arguments a filter cannot read and that have a fallback: the C library then calls
/// `clone`.
const WITH_FALLBACK: &[c_long] = &[libc::SYS_clone3];

/// Restricts every thread of the process; returns the number of calls that are allowed.
///
/// # Errors
///
/// Returns an error if the kernel refuses the filters, or there are none for this architecture.
pub fn restrict(enters_namespaces: bool, takes_descriptors: bool) -> io::Result<usize> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let allowed = allowed(enters_namespaces, takes_descriptors).map_err(io::Error::other)?;
    let count = allowed.len();
    let errno = |number: i32| SeccompAction::Errno(number as u32);
    let any = |calls: &[c_long]| calls.iter().map(|call| (*call, Vec::new())).collect::<Rules>();
    // SAFETY: this prctl takes numbers and touches no memory of ours.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    install(filter(any(NEVER), SeccompAction::Allow, errno(libc::EPERM), arch)?)?;
    install(filter(any(WITH_FALLBACK), SeccompAction::Allow, errno(libc::ENOSYS), arch)?)?;
    // Installed last, because it allows no further filter. If two filters refuse a call, the later
    // one's errno is returned, so this one lets pass the calls that the others refuse.
    let passes = allowed.into_iter().chain(any(NEVER)).chain(any(WITH_FALLBACK)).collect();
    install(filter(passes, errno(libc::ENOSYS), SeccompAction::Allow, arch)?)?;
    Ok(count)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn allowed(
    enters_namespaces: bool,
    takes_descriptors: bool,
) -> Result<Rules, seccompiler::BackendError> {
    let takes = TAKES.iter().filter(|_| takes_descriptors);
    let any_arguments = ALLOWED.iter().flat_map(|(_, calls)| *calls).chain(OLDER).chain(takes);
    let mut rules: Rules = any_arguments.map(|call| (*call, Vec::new())).collect();
    let enters = ENTERS.iter().filter(|_| enters_namespaces);
    for (call, argument, values, _) in ALLOWED_WITH.iter().chain(enters) {
        let equals = |value: &u64| {
            SeccompRule::new(vec![SeccompCondition::new(
                *argument,
                Dword,
                SeccompCmpOp::Eq,
                *value,
            )?])
        };
        rules.insert(*call, values.iter().map(equals).collect::<Result<_, _>>()?);
    }
    // Threads only: no processes and no namespaces.
    let thread = SeccompCmpOp::MaskedEq(libc::CLONE_THREAD as u64);
    let thread = SeccompCondition::new(0, Dword, thread, libc::CLONE_THREAD as u64)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![thread])?]);
    Ok(rules)
}

fn filter(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
    arch: TargetArch,
) -> io::Result<BpfProgram> {
    let filter = SeccompFilter::new(rules, otherwise, matched, arch).map_err(io::Error::other)?;
    BpfProgram::try_from(filter).map_err(io::Error::other)
}

/// Installs a filter on every thread; the kernel logs the calls that it refuses.
fn install(program: BpfProgram) -> io::Result<()> {
    let header = libc::sock_fprog {
        len: program.len().try_into().map_err(io::Error::other)?,
        // seccompiler's instruction has the kernel's layout, and so has the C library's.
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    let flags = libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_LOG;
    // SAFETY: the kernel copies the header and the instructions that it points to, which live until
    // it returns.
    match unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const header)
    } {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        thread => Err(io::Error::other(format!("thread {thread} has another filter"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_call_is_listed_twice_or_both_allowed_and_never() {
        let any_arguments = ALLOWED.iter().flat_map(|(_, calls)| *calls).chain(OLDER);
        let all: Vec<_> = any_arguments
            .chain(ALLOWED_WITH.iter().chain(ENTERS).map(|(call, ..)| call))
            .chain(TAKES)
            .chain(NEVER)
            .collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
        filter(allowed(true, true).unwrap(), SeccompAction::Errno(1), SeccompAction::Allow, arch)
            .unwrap();
    }

    /// Runs in a process of its own, because a filter is permanent.
    #[test]
    fn a_restricted_process_works_and_runs_nothing() {
        // SAFETY: the child makes system calls and ends. The thread that forks it is not inside the
        // allocator, and a child that hangs on a lock of another thread is an error below.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let outcome = restricted();
            // SAFETY: ends the child without the exit handlers of the test's process.
            unsafe { libc::_exit(outcome) };
        }
        let mut status = 0;
        // SAFETY: waits for our own child and writes one integer, which lives here.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert!(libc::WIFEXITED(status), "it was killed: {status}");
        assert_eq!(libc::WEXITSTATUS(status), 0, "the step with this number failed");
    }

    fn restricted() -> i32 {
        let errno = || io::Error::last_os_error().raw_os_error();
        if restrict(false, false).is_err() {
            return 1;
        }
        let empty = [std::ptr::null::<libc::c_char>()];
        // SAFETY: paths and lists are terminated, and live until each call returns; none of them
        // succeeds.
        unsafe {
            libc::execve(c"/bin/true".as_ptr(), empty.as_ptr(), empty.as_ptr());
            if errno() != Some(libc::EPERM) {
                return 2;
            }
            libc::mount(c"none".as_ptr(), c"/mnt".as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null());
            if errno() != Some(libc::EPERM) {
                return 3;
            }
            if libc::fork() != -1 || errno() != Some(libc::ENOSYS) {
                return 4;
            }
            if libc::setns(0, libc::CLONE_NEWNET) != -1 || errno() != Some(libc::ENOSYS) {
                return 7;
            }
            if libc::syscall(libc::SYS_pidfd_getfd, 0, 0, 0) != -1 || errno() != Some(libc::ENOSYS)
            {
                return 8;
            }
            if libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) != -1
                || errno() != Some(libc::ENOSYS)
            {
                return 5;
            }
        }
        let mut answer = [0_u64; 16];
        // SAFETY: the command writes a structure of 48 bytes to the memory that it is given.
        if unsafe { libc::syscall(libc::SYS_shmctl, 0, SHM_INFO, answer.as_mut_ptr()) } == -1
            && errno() == Some(libc::ENOSYS)
        {
            return 9;
        }
        // SAFETY: names no memory of ours; it is refused before anything is removed.
        if unsafe { libc::syscall(libc::SYS_shmctl, -1, libc::IPC_RMID, 0) } != -1
            || errno() != Some(libc::ENOSYS)
        {
            return 10;
        }
        if !std::thread::spawn(|| std::fs::read_to_string("/proc/self/stat").is_ok())
            .join()
            .is_ok_and(|read| read)
        {
            return 6;
        }
        0
    }
}
