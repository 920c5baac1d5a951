//! Offsets of this kernel's struct members, from its BTF.
//!
//! Each fallback lists the offsets that its programs read; [`members`] has those of every sensor
//! here, and a sensor may define others with [`member`](super::kernel_offset::member). A member
//! that this kernel lacks, or has in another form, rules out the fallbacks that need it, by name,
//! and nothing else.

use std::collections::{BTreeMap, btree_map::Entry};

pub use spillway_ebpf::ABSENT;
use spillway_ebpf::Offsets;

use super::{
    btf::{Btf, BtfKind, BtfType},
    fallbacks::{Cause, FallbackChain, Hook, Unavailable},
    kernel_offset::{
        KernelOffset,
        MemberForm::{self, Bytes, Pointer},
    },
};

/// Offsets by the field of [`Offsets`] that they fill.
#[allow(missing_docs, reason = "each is named <struct>_<member>")]
pub mod members {
    use spillway_ebpf::UNIX_NAME_LEN;

    use super::{Bytes, KernelOffset, Pointer};
    use crate::bpf::kernel_offset::member;

    pub const TASK_TGID: KernelOffset =
        member("task_struct", "tgid", Bytes(4), |o| &mut o.task_tgid);
    pub const TASK_PID: KernelOffset = member("task_struct", "pid", Bytes(4), |o| &mut o.task_pid);
    pub const TASK_GROUP_LEADER: KernelOffset =
        member("task_struct", "group_leader", Pointer, |o| &mut o.task_group_leader);
    pub const TASK_REAL_PARENT: KernelOffset =
        member("task_struct", "real_parent", Pointer, |o| &mut o.task_real_parent);
    pub const TASK_START_BOOTTIME: KernelOffset =
        member("task_struct", "start_boottime", Bytes(8), |o| &mut o.task_start_boottime);
    pub const TASK_MM: KernelOffset = member("task_struct", "mm", Pointer, |o| &mut o.task_mm);
    pub const MM_DATA_VM: KernelOffset =
        member("mm_struct", "data_vm", Bytes(8), |o| &mut o.mm_data_vm);
    pub const MM_STACK_VM: KernelOffset =
        member("mm_struct", "stack_vm", Bytes(8), |o| &mut o.mm_stack_vm);
    pub const MM_HIWATER_RSS: KernelOffset =
        member("mm_struct", "hiwater_rss", Bytes(8), |o| &mut o.mm_hiwater_rss);
    pub const TASK_COMM: KernelOffset =
        member("task_struct", "comm", Bytes(16), |o| &mut o.task_comm);
    pub const TASK_CGROUPS: KernelOffset =
        member("task_struct", "cgroups", Pointer, |o| &mut o.task_cgroups);
    pub const TASK_SIGNAL: KernelOffset =
        member("task_struct", "signal", Pointer, |o| &mut o.task_signal);
    pub const SIGNAL_LIVE: KernelOffset =
        member("signal_struct", "live", Bytes(4), |o| &mut o.signal_live);
    pub const SIGNAL_THREADS: KernelOffset =
        member("signal_struct", "nr_threads", Bytes(4), |o| &mut o.signal_threads);
    pub const CGROUP_KN: KernelOffset = member("cgroup", "kn", Pointer, |o| &mut o.cgroup_kn);
    pub const KERNFS_NODE_ID: KernelOffset =
        member("kernfs_node", "id", Bytes(8), |o| &mut o.kernfs_node_id);
    pub const MAP_ID: KernelOffset = member("bpf_map", "id", Bytes(4), |o| &mut o.map_id);
    pub const ARRAY_SLOTS: KernelOffset =
        member("bpf_array", "pptrs", Pointer, |o| &mut o.array_slots);
    pub const FILE_INODE: KernelOffset = member("file", "f_inode", Pointer, |o| &mut o.file_inode);
    pub const FILE_PRIVATE_DATA: KernelOffset =
        member("file", "private_data", Pointer, |o| &mut o.file_private_data);
    pub const INODE_MODE: KernelOffset = member("inode", "i_mode", Bytes(2), |o| &mut o.inode_mode);
    pub const SOCKET_SK: KernelOffset = member("socket", "sk", Pointer, |o| &mut o.socket_sk);
    pub const SOCK_FAMILY: KernelOffset =
        member("sock", "__sk_common.skc_family", Bytes(2), |o| &mut o.sock_family);
    pub const SOCK_STATE: KernelOffset =
        member("sock", "__sk_common.skc_state", Bytes(1), |o| &mut o.sock_state);
    pub const INET_SPORT: KernelOffset =
        member("inet_sock", "inet_sport", Bytes(2), |o| &mut o.inet_sport);
    pub const SOCK_NUM: KernelOffset =
        member("sock", "__sk_common.skc_num", Bytes(2), |o| &mut o.sock_num);
    pub const SOCK_RCV_SADDR: KernelOffset =
        member("sock", "__sk_common.skc_rcv_saddr", Bytes(4), |o| &mut o.sock_rcv_saddr);
    pub const SOCK_V6_RCV_SADDR: KernelOffset =
        member("sock", "__sk_common.skc_v6_rcv_saddr", Bytes(16), |o| &mut o.sock_v6_rcv_saddr);
    pub const SOCK_DADDR: KernelOffset =
        member("sock", "__sk_common.skc_daddr", Bytes(4), |o| &mut o.sock_daddr);
    pub const SOCK_V6_DADDR: KernelOffset =
        member("sock", "__sk_common.skc_v6_daddr", Bytes(16), |o| &mut o.sock_v6_daddr);
    pub const SOCK_DPORT: KernelOffset =
        member("sock", "__sk_common.skc_dport", Bytes(2), |o| &mut o.sock_dport);
    pub const SOCK_ERR: KernelOffset = member("sock", "sk_err", Bytes(4), |o| &mut o.sock_err);
    pub const SOCK_SHUTDOWN: KernelOffset =
        member("sock", "sk_shutdown", Bytes(1), |o| &mut o.sock_shutdown);
    pub const SOCK_NET: KernelOffset =
        member("sock", "__sk_common.skc_net.net", Pointer, |o| &mut o.sock_net);
    pub const NET_INUM: KernelOffset = member("net", "ns.inum", Bytes(4), |o| &mut o.net_inum);
    pub const SOCK_PROTOCOL: KernelOffset =
        member("sock", "sk_protocol", Bytes(2), |o| &mut o.sock_protocol);
    pub const SOCK_ACK_BACKLOG: KernelOffset =
        member("sock", "sk_ack_backlog", Bytes(4), |o| &mut o.sock_ack_backlog);
    pub const SOCK_MAX_ACK_BACKLOG: KernelOffset =
        member("sock", "sk_max_ack_backlog", Bytes(4), |o| &mut o.sock_max_ack_backlog);
    pub const SOCK_DROPS: KernelOffset =
        member("sock", "sk_drops", Bytes(4), |o| &mut o.sock_drops);
    pub const SOCK_RX_IFINDEX: KernelOffset =
        member("sock", "sk_rx_dst_ifindex", Bytes(4), |o| &mut o.sock_rx_ifindex);
    pub const INET_RX_IFINDEX: KernelOffset =
        member("inet_sock", "rx_dst_ifindex", Bytes(4), |o| &mut o.inet_rx_ifindex);
    pub const SOCK_UID: KernelOffset = member("sock", "sk_uid", Bytes(4), |o| &mut o.sock_uid);
    pub const SOCK_TYPE: KernelOffset = member("sock", "sk_type", Bytes(2), |o| &mut o.sock_type);
    pub const SOCK_SOCKET: KernelOffset =
        member("sock", "sk_socket", Pointer, |o| &mut o.sock_socket);
    pub const SOCK_RECEIVE_QUEUE_LEN: KernelOffset =
        member("sock", "sk_receive_queue.qlen", Bytes(4), |o| &mut o.sock_receive_queue_len);
    pub const SOCKET_INODE: KernelOffset =
        member("socket_alloc", "vfs_inode.i_ino", Bytes(8), |o| &mut o.socket_inode);
    pub const UNIX_ADDR: KernelOffset = member("unix_sock", "addr", Pointer, |o| &mut o.unix_addr);
    pub const UNIX_ADDRESS_LEN: KernelOffset =
        member("unix_address", "len", Bytes(4), |o| &mut o.unix_address_len);
    pub const UNIX_ADDRESS_NAME: KernelOffset =
        member("unix_address", "name", Bytes(2 + UNIX_NAME_LEN), |o| &mut o.unix_address_name);
    pub const ACCEPT_HEAD: KernelOffset =
        member("inet_connection_sock", "icsk_accept_queue.rskq_accept_head", Pointer, |o| {
            &mut o.accept_head
        });
    pub const REQUEST_SK: KernelOffset =
        member("request_sock", "sk", Pointer, |o| &mut o.request_sk);
    pub const TCP_ESTABLISHED: KernelOffset =
        member("tcp_sock", "rcvq_space.time", Bytes(8), |o| &mut o.tcp_established);
    pub const ICSK_RECEIVED: KernelOffset =
        member("inet_connection_sock", "icsk_ack.lrcvtime", Bytes(4), |o| &mut o.icsk_received);
    pub const TCP_SENT: KernelOffset =
        member("tcp_sock", "lsndtime", Bytes(4), |o| &mut o.tcp_sent);
    pub const TCP_RCV_NXT: KernelOffset =
        member("tcp_sock", "rcv_nxt", Bytes(4), |o| &mut o.tcp_rcv_nxt);
    pub const TCP_COPIED_SEQ: KernelOffset =
        member("tcp_sock", "copied_seq", Bytes(4), |o| &mut o.tcp_copied_seq);
    pub const TCP_SND_UNA: KernelOffset =
        member("tcp_sock", "snd_una", Bytes(4), |o| &mut o.tcp_snd_una);
    pub const TCP_WRITE_SEQ: KernelOffset =
        member("tcp_sock", "write_seq", Bytes(4), |o| &mut o.tcp_write_seq);
    pub const TCP_SND_WL1: KernelOffset =
        member("tcp_sock", "snd_wl1", Bytes(4), |o| &mut o.tcp_snd_wl1);
    pub const TCP_BYTES_RECEIVED: KernelOffset =
        member("tcp_sock", "bytes_received", Bytes(8), |o| &mut o.tcp_bytes_received);

    pub const TASK_PAGEFAULT_DISABLED: KernelOffset =
        member("task_struct", "pagefault_disabled", Bytes(4), |o| &mut o.task_pagefault_disabled);
    pub const TASK_NSPROXY: KernelOffset =
        member("task_struct", "nsproxy", Pointer, |o| &mut o.task_nsproxy);
    pub const NSPROXY_NET: KernelOffset =
        member("nsproxy", "net_ns", Pointer, |o| &mut o.nsproxy_net);
    pub const MM_EXE_FILE: KernelOffset =
        member("mm_struct", "exe_file", Pointer, |o| &mut o.mm_exe_file);
    pub const FILE_DENTRY: KernelOffset =
        member("file", "f_path.dentry", Pointer, |o| &mut o.file_dentry);
    pub const FILE_MOUNT: KernelOffset =
        member("file", "f_path.mnt", Pointer, |o| &mut o.file_mount);
    pub const VFSMOUNT_ROOT: KernelOffset =
        member("vfsmount", "mnt_root", Pointer, |o| &mut o.vfsmount_root);
    pub const MOUNT_PARENT: KernelOffset =
        member("mount", "mnt_parent", Pointer, |o| &mut o.mount_parent);
    pub const MOUNT_MOUNTPOINT: KernelOffset =
        member("mount", "mnt_mountpoint", Pointer, |o| &mut o.mount_mountpoint);
    pub const DENTRY_PARENT: KernelOffset =
        member("dentry", "d_parent", Pointer, |o| &mut o.dentry_parent);
    pub const DENTRY_NAME: KernelOffset =
        member("dentry", "d_name.name", Pointer, |o| &mut o.dentry_name);
    pub const FILE_MODE: KernelOffset = member("file", "f_mode", Bytes(4), |o| &mut o.file_mode);
    pub const INODE_NUMBER: KernelOffset =
        member("inode", "i_ino", Bytes(8), |o| &mut o.inode_number);
    pub const INODE_LINKS: KernelOffset =
        member("inode", "i_nlink", Bytes(4), |o| &mut o.inode_links);
    pub const INODE_SIZE: KernelOffset = member("inode", "i_size", Bytes(8), |o| &mut o.inode_size);
    pub const INODE_BLOCKS: KernelOffset =
        member("inode", "i_blocks", Bytes(8), |o| &mut o.inode_blocks);
    pub const INODE_SUPER: KernelOffset = member("inode", "i_sb", Pointer, |o| &mut o.inode_super);
    pub const SUPER_DEVICE: KernelOffset =
        member("super_block", "s_dev", Bytes(4), |o| &mut o.super_device);

    /// The `vfsmount` within a `mount`.
    pub const MOUNT_VFSMOUNT: KernelOffset = KernelOffset::Computed(super::vfsmount);
    /// Resident pages by kind, from `mm_struct`.
    pub const MM_RSS: KernelOffset = KernelOffset::Computed(super::rss_counters);
    /// The cgroup that charges a task's memory, from `css_set`.
    pub const CSS_SET_CGROUP: KernelOffset = KernelOffset::Computed(super::memory_cgroup);
    /// The soft limit on open files, from `signal_struct`.
    pub const SIGNAL_FDS_MAX: KernelOffset = KernelOffset::Computed(super::open_file_limit);
}

/// `RLIM_NLIMITS` of include/uapi/asm-generic/resource.h.
const RLIMITS: usize = 16;

/// Maximum nesting of anonymous structs and unions. A guess: the kernel has three.
const NESTED_MAX: u32 = 16;

/// Offsets on this kernel, and the fallbacks that cannot be used without a missing one.
#[derive(Debug, Default)]
pub struct MemberOffsets {
    /// Offsets; [`ABSENT`] for a member that is missing.
    pub offsets: Offsets,
    /// Fallbacks that cannot be used here, each with the member that is missing or has another
    /// form.
    pub ruled_out: BTreeMap<Hook, Unavailable>,
}

/// Finds every offset that the chains need. `memory_v1` is set if the memory controller is mounted
/// as cgroup version 1: a process's charge then follows that hierarchy, not the default one.
pub fn find(btf: &Btf, memory_v1: bool, chains: &[&FallbackChain]) -> MemberOffsets {
    let mut found = MemberOffsets::default();
    // A search walks all types, and several fallbacks need the same members.
    let mut located = BTreeMap::new();
    let mut find = |offset: &KernelOffset, offsets: &mut Offsets| match *offset {
        KernelOffset::Member { of, path, form, slot } => {
            let at = located.entry((of, path)).or_insert_with(|| locate(btf, of, path, form));
            *slot(offsets) = at.as_ref().map_or(ABSENT, |at| *at);
            at.clone().map(drop)
        }
        KernelOffset::Computed(compute) => compute(btf, memory_v1, offsets),
    };
    for fallback in chains.iter().flat_map(|chain| chain.fallbacks) {
        for offset in fallback.may_read {
            // The programs leave it out.
            let _ = find(offset, &mut found.offsets);
        }
        for offset in fallback.reads {
            if let Err(reason) = find(offset, &mut found.offsets)
                && let Entry::Vacant(entry) = found.ruled_out.entry(fallback.hook)
            {
                entry.insert(Unavailable::new(Cause::Unsupported, reason));
            }
        }
    }
    found
}

/// Returns the byte offset of the member at `path` if it has this form.
fn locate(btf: &Btf, of: &str, path: &str, form: MemberForm) -> Result<u32, String> {
    let (offset, found) = find_member(btf, of, path)
        .ok_or_else(|| format!("this kernel's struct {of} has no {path}"))?;
    let is = form_of(found);
    if is == Some(form) {
        Ok(offset)
    } else {
        let is = is.map_or_else(|| "of another type".to_owned(), |is| is.to_string());
        Err(format!("this kernel's {of}.{path} is {is}, not {form}"))
    }
}

/// Returns the form of a member of this type; for an array without a length, that of its elements.
fn form_of(of: BtfType<'_>) -> Option<MemberForm> {
    match of.kind()? {
        BtfKind::Int | BtfKind::Enum | BtfKind::Struct | BtfKind::Union => Some(Bytes(of.size())),
        BtfKind::Ptr => Some(Pointer),
        BtfKind::Array => {
            let (element, elements) = of.array()?;
            match (form_of(element.plain()?)?, elements) {
                (element, 0) => Some(element),
                (Bytes(bytes), elements) => bytes.checked_mul(elements).map(Bytes),
                (Pointer, _) => None,
            }
        }
        _ => None,
    }
}

/// Finds the counters of resident pages. Until 6.1 `rss_stat` is a struct with an array of
/// `atomic_long_t`; since 6.2 it is an array of `struct percpu_counter`, each with its plain count
/// and its slots.
fn rss_counters(btf: &Btf, _: bool, offsets: &mut Offsets) -> Result<(), String> {
    let unknown = || "this kernel's mm_struct.rss_stat has a form that is not known".to_owned();
    let (base, of) = find_member(btf, "mm_struct", "rss_stat").ok_or_else(unknown)?;
    let (count, stride, slots) = match of.kind() {
        Some(BtfKind::Array) => {
            let counter = btf.find(BtfKind::Struct, "percpu_counter").and_then(form_of);
            let Some(Bytes(stride)) = counter else { return Err(unknown()) };
            let slots = locate(btf, "percpu_counter", "counters", Pointer)?;
            (locate(btf, "percpu_counter", "count", Bytes(8))?, stride as u32, base + slots)
        }
        Some(BtfKind::Struct) => {
            (locate(btf, "mm_rss_stat", "count", Bytes(4 * 8))?, ABSENT, ABSENT)
        }
        _ => return Err(unknown()),
    };
    (offsets.mm_rss_count, offsets.mm_rss_stride, offsets.mm_rss_slots) =
        (base + count, stride, slots);
    Ok(())
}

/// Finds the way from a task's `css_set` to the cgroup that charges its memory.
fn memory_cgroup(btf: &Btf, memory_v1: bool, offsets: &mut Offsets) -> Result<(), String> {
    if memory_v1 {
        let (subsys, _) = find_member(btf, "css_set", "subsys")
            .ok_or("this kernel's struct css_set has no subsys")?;
        let id = btf
            .find(BtfKind::Enum, "cgroup_subsys_id")
            .and_then(|ids| ids.value_of("memory_cgrp_id"));
        let id = id.ok_or("this kernel has no memory controller")?;
        offsets.css_set_cgroup = subsys + id * size_of::<u64>() as u32;
        offsets.css_cgroup = locate(btf, "cgroup_subsys_state", "cgroup", Pointer)?;
    } else {
        offsets.css_set_cgroup = locate(btf, "css_set", "dfl_cgrp", Pointer)?;
        offsets.css_cgroup = ABSENT;
    }
    Ok(())
}

/// Finds the `vfsmount` within a `mount`.
fn vfsmount(btf: &Btf, _: bool, offsets: &mut Offsets) -> Result<(), String> {
    let found = find_member(btf, "mount", "mnt");
    offsets.mount_vfsmount = found.map_or(ABSENT, |(at, _)| at);
    found.map(drop).ok_or_else(|| "this kernel's struct mount has no mnt".to_owned())
}

/// Finds `RLIMIT_NOFILE` in the array of limits.
fn open_file_limit(btf: &Btf, _: bool, offsets: &mut Offsets) -> Result<(), String> {
    const LIMIT_BYTES: usize = size_of::<libc::rlimit>();
    let limits = locate(btf, "signal_struct", "rlim", Bytes(RLIMITS * LIMIT_BYTES));
    offsets.signal_fds_max = ABSENT;
    offsets.signal_fds_max = limits? + libc::RLIMIT_NOFILE * LIMIT_BYTES as u32;
    Ok(())
}

/// Returns the byte offset and type of the member at `path`.
fn find_member<'a>(btf: &'a Btf, of: &str, path: &str) -> Option<(u32, BtfType<'a>)> {
    path.split('.').try_fold((0, btf.find(BtfKind::Struct, of)?), |(offset, at), step| {
        let (by, to) = direct_member(at, step, NESTED_MAX)?;
        Some((offset + by, to))
    })
}

/// Counts the parameters of a kernel function.
pub(super) fn parameters_of(btf: &Btf, function: &str) -> Option<usize> {
    let prototype = btf.find(BtfKind::Func, function)?.referent()?;
    (prototype.kind() == Some(BtfKind::FuncProto)).then(|| prototype.elements())
}

/// Returns the byte offset and type of a member, searching anonymous structs and unions down to
/// `depth`; `None` for a bit-field, which has no byte offset.
fn direct_member<'a>(of: BtfType<'a>, name: &str, depth: u32) -> Option<(u32, BtfType<'a>)> {
    of.members().find_map(|candidate| {
        let bits = candidate.bit_offset;
        if candidate.name == name.as_bytes() {
            let is_bytes = bits % 8 == 0 && candidate.bits == 0;
            return is_bytes.then_some((bits / 8, candidate.of?.plain()?));
        }
        if !candidate.name.is_empty() || depth == 0 {
            return None;
        }
        let (offset, found) = direct_member(candidate.of?.plain()?, name, depth - 1)?;
        Some((bits / 8 + offset, found))
    })
}
