//! Description of an offset into a kernel struct.

use std::fmt;

use spillway_ebpf::Offsets;

use super::btf::Btf;

/// An offset that BPF programs need.
#[derive(Debug, Clone, Copy)]
pub enum KernelOffset {
    /// A struct member.
    Member {
        /// Tag of the struct.
        of: &'static str,
        /// Path to the member, with dots between its steps; anonymous structs and unions are
        /// transparent.
        path: &'static str,
        /// Form that the programs expect.
        form: MemberForm,
        /// Place for the offset.
        slot: fn(&mut Offsets) -> &mut u32,
    },
    /// Offsets that depend on more than one member. The flag is set if cgroup version 1 charges
    /// memory.
    Computed(fn(&Btf, bool, &mut Offsets) -> Result<(), String>),
}

/// Form of a struct member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberForm {
    /// An integer of this many bytes, or a struct or array of nothing else, such as `atomic_t`.
    Bytes(usize),
    /// A pointer.
    Pointer,
}

/// Describes the offset of a struct member.
pub const fn member(
    of: &'static str,
    path: &'static str,
    form: MemberForm,
    slot: fn(&mut Offsets) -> &mut u32,
) -> KernelOffset {
    KernelOffset::Member { of, path, form, slot }
}

impl fmt::Display for MemberForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Pointer => f.write_str("a pointer"),
        }
    }
}
