//! A kernel that refuses: a seccomp filter fails system calls, and empty file systems hide files.
//!
//! Both are set up between fork and exec, so that only the agent under test is affected.

use std::{ffi::OsStr, io, mem::offset_of, os::unix::process::CommandExt as _, process::Command};

/// System call to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// Number of the system call.
    pub call: libc::c_long,
    /// Required value of the first argument, if any.
    pub first_argument: Option<u32>,
    /// Error returned.
    pub errno: libc::c_int,
}

impl Refused {
    /// Refuses every `bpf()`, as lockdown, seccomp and `unprivileged_bpf_disabled` do.
    pub const BPF: Self = Self { call: libc::SYS_bpf, first_argument: None, errno: libc::EPERM };
    /// Refuses every map, as a kernel out of memory does; `BPF_MAP_CREATE` is 0.
    pub const BPF_MAPS: Self =
        Self { call: libc::SYS_bpf, first_argument: Some(0), errno: libc::ENOMEM };
    /// Refuses every perf event, as `kernel.perf_event_paranoid` does.
    pub const PERF_EVENTS: Self =
        Self { call: libc::SYS_perf_event_open, first_argument: None, errno: libc::EPERM };
}

/// `AUDIT_ARCH_X86_64` of include/uapi/linux/audit.h.
const ARCH: u32 = 0xC000_003E;

const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Makes the kernel refuse a system call to the process that `command` starts.
pub fn refuse(command: &mut Command, refused: Refused) {
    let filter = filter(refused);
    // SAFETY: between fork and exec, the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(move || install(&filter)) };
}

fn filter(refused: Refused) -> Vec<libc::sock_filter> {
    let load = |at: usize| libc::sock_filter { code: LOAD_WORD, jt: 0, jf: 0, k: at as u32 };
    let answer = |k: u32| libc::sock_filter { code: RETURN, jt: 0, jf: 0, k };
    // A mismatch jumps to the last instruction but one, which allows the call.
    let require = |k: u32, to_the_end: u8| libc::sock_filter {
        code: JUMP_IF_EQUAL,
        jt: 0,
        jf: to_the_end,
        k,
    };
    let mut checks = vec![
        (offset_of!(libc::seccomp_data, arch), ARCH),
        (offset_of!(libc::seccomp_data, nr), refused.call as u32),
    ];
    // Compares the low half of the 64-bit argument; the layout is that of x86-64.
    checks.extend(
        refused.first_argument.map(|argument| (offset_of!(libc::seccomp_data, args), argument)),
    );
    let count = checks.len();
    let checks = checks.into_iter().enumerate();
    let mut filter: Vec<_> = checks
        .flat_map(|(n, (at, wanted))| [load(at), require(wanted, 2 * (count - n - 1) as u8 + 1)])
        .collect();
    filter.push(answer(libc::SECCOMP_RET_ERRNO | refused.errno as u32));
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    filter
}

fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel reads the program, which lives until the calls return, and writes nothing.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if installed { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Wraps `command` in its own mount namespace in which these directories are empty. Missing
/// directories are skipped.
pub fn hide(command: &Command, directories: &[&str]) -> Command {
    let mounts = directories
        .iter()
        .map(|at| format!("if [ -d {at} ]; then mount -t tmpfs none {at} || exit 1; fi; "));
    let script = format!("{}exec \"$0\" \"$@\"", mounts.collect::<String>());
    let mut hidden = Command::new("unshare");
    hidden.args([OsStr::new("--mount"), OsStr::new("sh"), OsStr::new("-c"), OsStr::new(&script)]);
    hidden.arg(command.get_program()).args(command.get_args());
    hidden
}
