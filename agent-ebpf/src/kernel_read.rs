//! Reads of kernel memory at offsets from BTF, and counting of losses.
//!
//! There are two ways to read, see [`Reading`].

use core::{ffi::c_void, marker::PhantomData, mem::MaybeUninit, ptr};

use aya_ebpf::{
    helpers::generated::{bpf_get_current_pid_tgid, bpf_probe_read_kernel, bpf_seq_write},
    macros::map,
    maps::PerCpuArray,
};
use aya_log_ebpf::debug;
use spillway_ebpf::{ABSENT, Loss, Offsets};

/// Offsets into this kernel's structs, written by the loader before the programs are loaded.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::UNSET;

/// Numbers of losses by kind, see [`Loss`].
#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::VARIANTS.len() as u32, 0);

/// Returns one of this kernel's offsets, by its field in [`Offsets`].
macro_rules! offset {
    ($field:ident) => {
        $crate::kernel_read::read_offset(core::mem::offset_of!(spillway_ebpf::Offsets, $field))
    };
}
pub(crate) use offset;

/// Reads the `u32` at `field` bytes into [`OFFSETS`]. The read is volatile, so that the compiler
/// does not fold the zeros of build time.
#[inline(always)]
pub(crate) fn read_offset(field: usize) -> usize {
    // SAFETY: `field` comes from offset_of! of a u32 field, inside a live static.
    unsafe { ptr::read_volatile((&raw const OFFSETS).byte_add(field).cast::<u32>()) as usize }
}

/// A way to read kernel structs. Programs that support both are generic over it.
pub(crate) trait Reading {
    /// Reads a `T` at `offset` bytes into the struct at `pointer`; `None` if the read is known to
    /// fault.
    fn read<T: Copy>(pointer: *const c_void, offset: usize) -> Option<T>;

    /// Reads a pointer; `None` if it is null or the read is known to fault.
    #[inline(always)]
    fn pointer(pointer: *const c_void, offset: usize) -> Option<*const c_void> {
        Self::read::<*const c_void>(pointer, offset).filter(|pointer| !pointer.is_null())
    }
}

/// Reading by plain loads, of structs whose type the verifier knows: an argument of an iterator or
/// BTF tracepoint, or a pointer loaded from one. Takes one instruction instead of a helper's call,
/// and works under kernel lockdown; a faulting address reads as zero. A member that this kernel
/// lacks reads as `None`; one of another size makes the verifier reject the program.
pub(crate) enum Typed {}

impl Reading for Typed {
    #[inline(always)]
    fn read<T: Copy>(pointer: *const c_void, offset: usize) -> Option<T> {
        // The verifier knows the offset, and skips a read that it would reject.
        if offset == ABSENT as usize { None } else { Some(load(pointer, offset)) }
    }
}

/// Reading by `bpf_probe_read_kernel`, at any address. Kernel lockdown in confidentiality mode
/// forbids it.
pub(crate) enum Helper {}

impl Reading for Helper {
    #[inline(always)]
    fn read<T: Copy>(pointer: *const c_void, offset: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes exactly size_of::<T>() bytes to `value` or fails, and never
        // faults on a bad address.
        let status = unsafe {
            bpf_probe_read_kernel(
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                pointer.wrapping_byte_add(offset),
            )
        };
        // SAFETY: status 0 means that all bytes were written; every T used here is valid for any
        // bytes.
        (status == 0).then(|| unsafe { value.assume_init() })
    }
}

/// Members of one struct, whichever way they are read.
pub(crate) trait Members {
    /// Reads a member as [`Reading`] does.
    fn read<T: Copy>(&self, offset: usize) -> Option<T>;
}

/// Members that are read one by one.
pub(crate) struct OneByOne<R>(*const c_void, PhantomData<R>);

impl<R> OneByOne<R> {
    #[inline(always)]
    pub(crate) fn of(pointer: *const c_void) -> Self {
        Self(pointer, PhantomData)
    }
}

impl<R: Reading> Members for OneByOne<R> {
    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        R::read(self.0, offset)
    }
}

/// Copy of `LEN` bytes of a struct, in a map. The verifier knows the offsets, and removes the
/// comparisons: a member in the copy costs one instruction.
#[repr(C, align(8))]
pub(crate) struct Window<const LEN: usize>([u8; LEN]);

impl<const LEN: usize> Window<LEN> {
    /// Copies the struct's bytes from those at `offset` on, with one call of the helper.
    #[inline(always)]
    pub(crate) fn fill(&mut self, pointer: *const c_void, offset: usize) -> Option<()> {
        // SAFETY: the helper writes exactly `LEN` bytes to the copy or fails, and never faults on
        // a bad address.
        let status = unsafe {
            bpf_probe_read_kernel(
                (&raw mut self.0).cast(),
                LEN as u32,
                pointer.wrapping_byte_add(offset),
            )
        };
        (status == 0).then_some(())
    }

    /// Returns the member at `offset` if it is in the copy, which begins at `start`.
    #[inline(always)]
    pub(crate) fn get<T: Copy>(&self, start: usize, offset: usize) -> Option<T> {
        if offset < start || offset + size_of::<T>() > start + LEN {
            return None;
        }
        let place = (&raw const self.0).wrapping_byte_add(offset - start);
        // SAFETY: it is within the bytes, and every T used here is valid for any bytes.
        Some(unsafe { ptr::read_unaligned(place.cast::<T>()) })
    }
}

/// Reads as [`Helper`] does; a faulting address reads as zero.
#[inline(always)]
pub(crate) fn read_or_zero<T: Default>(pointer: *const c_void, offset: usize) -> T {
    let mut value = T::default();
    // SAFETY: the helper writes exactly size_of::<T>() bytes to `value`, zeros where the address
    // faults.
    unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            pointer.wrapping_byte_add(offset),
        );
    }
    value
}

/// Reads as [`Typed`] does, a member that every kernel has.
#[inline(always)]
pub(crate) fn load<T: Copy>(pointer: *const c_void, offset: usize) -> T {
    // SAFETY: the verifier proves the access, and the kernel makes a faulting one read zero.
    unsafe { ptr::read_volatile(pointer.byte_add(offset).cast::<T>()) }
}

/// Counts a loss. At `-vv` it is logged as well; otherwise the verifier removes that code, except
/// for the four instructions that check the level.
#[inline(always)]
pub(crate) fn count(loss: Loss) {
    // SAFETY: a plain helper without arguments.
    debug!((), "{} in process {}", loss.name(), unsafe { bpf_get_current_pid_tgid() } >> 32);
    if let Some(counter) = LOSSES.get_ptr_mut(loss as u32) {
        // SAFETY: the slot is this CPU's own and programs are not preempted by themselves on it.
        unsafe { *counter += 1 };
    }
}

/// `struct bpf_iter_meta`, the head of every iterator's context (kernel ABI, `__bpf_md_ptr`
/// fields).
#[repr(C)]
pub(crate) struct IterMeta {
    pub(crate) seq: *mut c_void,
    pub(crate) session_id: u64,
    pub(crate) seq_num: u64,
}

/// Appends a sample to the iterator's output; returns whether it fitted. If the buffer is full, the
/// kernel repeats this element at the reader's next read, so nothing is lost.
#[inline(always)]
pub(crate) fn emit<T: Copy>(meta: *mut IterMeta, sample: &T) -> bool {
    // SAFETY: `meta` is the trusted pointer from the iterator's context; `sample` lives while the
    // program runs.
    unsafe {
        bpf_seq_write((*meta).seq.cast(), ptr::from_ref(sample).cast(), size_of::<T>() as u32) == 0
    }
}

/// `struct bpf_iter__task_file`; task and file are null after the last file.
#[repr(C)]
pub struct IterTaskFile {
    pub(crate) meta: *mut IterMeta,
    pub(crate) task: *mut c_void,
    /// 32 bits in a slot of 64, as the kernel lays it out.
    pub(crate) fd: u64,
    pub(crate) file: *mut c_void,
}

/// `struct bpf_iter__bpf_map_elem`; key and value are null after the last element.
#[repr(C)]
pub struct IterMapElem<K, V> {
    pub(crate) meta: *mut IterMeta,
    pub(crate) map: *mut c_void,
    pub(crate) key: *mut K,
    pub(crate) value: *mut V,
}
