//! `list_programs`: the programs that processes run, by the path of each executable.
//!
//! `/proc/PID/exe` has the same, but for other users' processes only with CAP_SYS_PTRACE. This
//! needs no capability beyond those of every other probe.
//!
//! - Hook: `iter/task`, `int (struct bpf_iter__task *ctx)`, process context.
//! - Minimum kernel: 5.8.
//! - Cost: a lookup for each process, and some reads for each component of the paths asked for. A
//!   pass is made only before a cgroup is limited.
//! - Emits the components of a path from the last to the first, each as a sample, then an end. The
//!   path is followed as by `d_path`, through mount points, up to the root of the process's mount
//!   namespace. The kernel's locks are not taken: a concurrent rename may mix two names.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str,
    macros::map,
    maps::{HashMap, PerCpuArray},
};
use spillway_ebpf::{PROGRAM_COMPONENTS_MAX, PROGRAM_NAME_LEN, PROGRAMS_MAX, ProgramNameSample};

use crate::{
    kernel_read::{Helper, Reading as _, emit, load, offset},
    process_memory::IterTask,
    rounds::Rounds,
};

/// Processes whose programs are asked for, written by the reader.
#[map]
static PROGRAMS_WANTED: HashMap<u32, u32> = HashMap::with_max_entries(PROGRAMS_MAX, 0);

/// Walk along the path of the process that is shown on this CPU.
#[map]
static WALK: PerCpuArray<PathWalk> = PerCpuArray::with_max_entries(1, 0);

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn list_programs(ctx: *mut IterTask) -> i32 {
    // SAFETY: the kernel passes a valid context; both members are read as the verifier allows.
    let (meta, task) = unsafe { ((*ctx).meta, (*ctx).task.cast_const()) };
    if task.is_null() {
        return 0;
    }
    let pid: u32 = load(task, offset!(task_tgid));
    if load::<u32>(task, offset!(task_pid)) != pid || PROGRAMS_WANTED.get_ptr(pid).is_none() {
        return 0;
    }
    let (Some(at), Some(walk)) = (PathWalk::of_program(task), WALK.get_ptr_mut(0)) else {
        return 0;
    };
    // SAFETY: the entry is there as long as the map; only one pass is made at a time, and it does
    // not leave this CPU.
    let walk = unsafe {
        *walk = at;
        &*walk
    };
    let mut sample = ProgramNameSample { pid, is_end: 0, name_len: 0, name: [0; PROGRAM_NAME_LEN] };
    let mut steps = Rounds::new();
    while steps.next(u64::from(PROGRAM_COMPONENTS_MAX)).is_some() {
        match walk_component() {
            MOUNT => continue,
            NAME => {
                // SAFETY: the helper writes at most that many bytes, a NUL among them, and never
                // faults on a bad address.
                let written = unsafe {
                    bpf_probe_read_kernel_str(
                        (&raw mut sample.name).cast(),
                        PROGRAM_NAME_LEN as u32,
                        ptr::read_volatile(&raw const walk.name).cast(),
                    )
                };
                if written <= 0 {
                    return 0;
                }
                sample.name_len = written as u32 - 1;
            }
            END => (sample.is_end, sample.name_len) = (1, 0),
            _ => return 0,
        }
        // If not all of a process's samples fit, the kernel discards them and shows it again.
        if !emit(meta, &sample) || sample.is_end != 0 {
            return 0;
        }
    }
    0
}

/// Makes a step of the walk in [`WALK`]; returns its kind.
///
/// A global function takes no pointers. In return the verifier walks it once, not once for each
/// component that a path may have.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_component() -> i32 {
    let Some(walk) = WALK.get_ptr_mut(0) else { return UNREADABLE };
    // SAFETY: as where the walk begins.
    unsafe { (*walk).step() }.unwrap_or(UNREADABLE)
}

/// A name that cannot be read.
const UNREADABLE: i32 = 0;
/// From the root of a mount to the place where it is mounted.
const MOUNT: i32 = 1;
/// A component, whose name's address is in the walk.
const NAME: i32 = 2;
/// The end of the path.
const END: i32 = 3;

/// A directory entry, and the mount through which it was reached.
#[derive(Clone, Copy)]
#[repr(C)]
struct PathWalk {
    dentry: *const c_void,
    mount: *const c_void,
    /// Address of the last component's name.
    name: *const c_void,
    /// 1 after an entry that has no parent and is not the root of its mount, such as a memfd.
    is_detached: u64,
}

// SAFETY: addresses in the kernel, which only helpers read.
unsafe impl Send for PathWalk {}
// SAFETY: as above.
unsafe impl Sync for PathWalk {}

impl PathWalk {
    #[inline(always)]
    fn of_program(task: *const c_void) -> Option<Self> {
        let mm = Helper::pointer(task, offset!(task_mm))?;
        let file = Helper::pointer(mm, offset!(mm_exe_file))?;
        let mount = Helper::pointer(file, offset!(file_mount))?;
        Some(Self {
            dentry: Helper::pointer(file, offset!(file_dentry))?,
            mount: mount.wrapping_byte_sub(offset!(mount_vfsmount)),
            name: ptr::null(),
            is_detached: 0,
        })
    }

    #[inline(always)]
    fn step(&mut self) -> Option<i32> {
        if self.is_detached != 0 {
            return Some(END);
        }
        let dentry = self.dentry;
        let root = offset!(mount_vfsmount) + offset!(vfsmount_root);
        if dentry == Helper::pointer(self.mount, root)? {
            let parent = Helper::pointer(self.mount, offset!(mount_parent))?;
            if ptr::eq(parent, self.mount) {
                return Some(END);
            }
            self.dentry = Helper::pointer(self.mount, offset!(mount_mountpoint))?;
            self.mount = parent;
            return Some(MOUNT);
        }
        let parent = Helper::pointer(dentry, offset!(dentry_parent))?;
        self.is_detached = u64::from(ptr::eq(parent, dentry));
        self.dentry = parent;
        self.name = Helper::pointer(dentry, offset!(dentry_name))?;
        Some(NAME)
    }
}
