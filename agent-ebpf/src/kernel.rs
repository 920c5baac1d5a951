//! What every probe needs: reading kernel memory at offsets from BTF, and counting what is lost.
//!
//! There are two ways to read. [`load`] is for pointers whose type the verifier knows; it costs an instruction.
//! [`read`] is for any address, and costs a helper's call.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use aya_ebpf::{
    helpers::generated::{bpf_probe_read_kernel, bpf_seq_write},
    macros::map,
    maps::PerCpuArray,
};
use spillway_ebpf::{Loss, Offsets};

/// Offsets into this kernel's structs, written by the loader before the programs are loaded.
#[unsafe(no_mangle)]
static OFFSETS: Offsets = Offsets::UNSET;

/// Losses by kind, see [`Loss`].
#[map]
static LOSSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::ALL.len() as u32, 0);

/// One of this kernel's offsets, by its field in [`Offsets`].
macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::read_offset(core::mem::offset_of!(spillway_ebpf::Offsets, $field))
    };
}
pub(crate) use offset;

/// Reads the `u32` at `field` bytes into [`OFFSETS`]. The read is volatile: the compiler must not fold the zeros that
/// stand there at build time.
#[inline(always)]
pub(crate) fn read_offset(field: usize) -> usize {
    // SAFETY: `field` comes from offset_of! of a u32 field, inside a live static.
    unsafe { ptr::read_volatile((&raw const OFFSETS).byte_add(field).cast::<u32>()) as usize }
}

/// Loads a `T` at `offset` of the struct that `pointer` points to, where the verifier knows that struct's type: an
/// iterator's argument, or what was loaded from one. It becomes one instruction instead of a helper's call, and reads
/// zero where the address faults. The verifier refuses the program where no such member of that size is.
#[inline(always)]
pub(crate) fn load<T: Copy>(pointer: *const c_void, offset: usize) -> T {
    // SAFETY: the verifier proves the access, and the kernel makes a faulting one read zero.
    unsafe { ptr::read_volatile(pointer.byte_add(offset).cast::<T>()) }
}

/// Reads a `T` from kernel memory at `base + offset`; `None` where the address faults.
#[inline(always)]
pub(crate) fn read<T: Copy>(base: u64, offset: usize) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes exactly size_of::<T>() bytes to `value` or fails, and never faults on a bad address.
    let status = unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            base.wrapping_add(offset as u64) as *const c_void,
        )
    };
    // SAFETY: status 0 means that all bytes were written; every T used here is valid for any bytes.
    (status == 0).then(|| unsafe { value.assume_init() })
}

/// Reads a pointer; `None` where the address faults or the pointer is null.
#[inline(always)]
pub(crate) fn read_pointer(base: u64, offset: usize) -> Option<u64> {
    read::<u64>(base, offset).filter(|&pointer| pointer != 0)
}

/// Counts something that did not reach user space.
#[inline(always)]
pub(crate) fn count(loss: Loss) {
    if let Some(counter) = LOSSES.get_ptr_mut(loss as u32) {
        // SAFETY: the slot is this CPU's own and programs are not preempted by themselves on it.
        unsafe { *counter += 1 };
    }
}

/// `struct bpf_iter_meta`, the head of every iterator's context (kernel ABI, `__bpf_md_ptr` fields).
#[repr(C)]
pub(crate) struct IterMeta {
    pub(crate) seq: *mut c_void,
    pub(crate) session_id: u64,
    pub(crate) seq_num: u64,
}

/// Appends a sample to the iterator's output. When the buffer is full the kernel keeps this element for the reader's
/// next read, so nothing is lost.
#[inline(always)]
pub(crate) fn emit<T: Copy>(meta: *mut IterMeta, sample: &T) {
    // SAFETY: `meta` is the trusted pointer from the iterator's context; `sample` lives on this stack.
    unsafe {
        bpf_seq_write((*meta).seq.cast(), ptr::from_ref(sample).cast(), size_of::<T>() as u32);
    }
}
