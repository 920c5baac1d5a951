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

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel_str, macros::map, maps::HashMap};
use spillway_ebpf::{PROGRAM_COMPONENTS_MAX, PROGRAM_NAME_LEN, PROGRAMS_MAX, ProgramNameSample};

use crate::{
    kernel_read::{Helper, Reading as _, emit, load, offset},
    process_memory::IterTask,
};

/// Processes whose programs are asked for, written by the reader.
#[map]
static PROGRAMS_WANTED: HashMap<u32, u32> = HashMap::with_max_entries(PROGRAMS_MAX, 0);

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
    let Some(mut at) = PathWalk::of_program(task) else { return 0 };
    let mut sample = ProgramNameSample { pid, is_end: 0, name_len: 0, name: [0; PROGRAM_NAME_LEN] };
    let mut steps = 0;
    while steps < PROGRAM_COMPONENTS_MAX {
        steps += 1;
        let Some(step) = at.step() else { return 0 };
        sample.is_end = u32::from(matches!(step, Step::End));
        match step {
            Step::Mount => continue,
            Step::End => sample.name_len = 0,
            Step::Name(name) => {
                // SAFETY: the helper writes at most that many bytes, a NUL among them, and never
                // faults on a bad address.
                let written = unsafe {
                    bpf_probe_read_kernel_str(
                        (&raw mut sample.name).cast(),
                        PROGRAM_NAME_LEN as u32,
                        name.cast(),
                    )
                };
                if written <= 0 {
                    return 0;
                }
                sample.name_len = written as u32 - 1;
            }
        }
        // If not all of a process's samples fit, the kernel discards them and shows it again.
        if !emit(meta, &sample) || sample.is_end != 0 {
            return 0;
        }
    }
    0
}

/// A directory entry, and the mount through which it was reached.
struct PathWalk {
    dentry: *const c_void,
    mount: *const c_void,
    /// Set after an entry that has no parent and is not the root of its mount, such as a memfd.
    is_detached: bool,
}

enum Step {
    /// Address of a component's name.
    Name(*const c_void),
    /// From the root of a mount to the place where it is mounted.
    Mount,
    End,
}

impl PathWalk {
    #[inline(always)]
    fn of_program(task: *const c_void) -> Option<Self> {
        let mm = Helper::pointer(task, offset!(task_mm))?;
        let file = Helper::pointer(mm, offset!(mm_exe_file))?;
        let mount = Helper::pointer(file, offset!(file_mount))?;
        Some(Self {
            dentry: Helper::pointer(file, offset!(file_dentry))?,
            mount: mount.wrapping_byte_sub(offset!(mount_vfsmount)),
            is_detached: false,
        })
    }

    #[inline(always)]
    fn step(&mut self) -> Option<Step> {
        if self.is_detached {
            return Some(Step::End);
        }
        let dentry = self.dentry;
        let root = offset!(mount_vfsmount) + offset!(vfsmount_root);
        if dentry == Helper::pointer(self.mount, root)? {
            let parent = Helper::pointer(self.mount, offset!(mount_parent))?;
            if ptr::eq(parent, self.mount) {
                return Some(Step::End);
            }
            self.dentry = Helper::pointer(self.mount, offset!(mount_mountpoint))?;
            self.mount = parent;
            return Some(Step::Mount);
        }
        let parent = Helper::pointer(dentry, offset!(dentry_parent))?;
        self.is_detached = ptr::eq(parent, dentry);
        self.dentry = parent;
        Some(Step::Name(Helper::pointer(dentry, offset!(dentry_name))?))
    }
}
