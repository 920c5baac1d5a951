//! Where the members of this kernel's structs are, from its BTF.
//!
//! [`MEMBERS`] is the whole list: a probe that needs another member gets another row. A member that
//! this kernel lacks disables the probes that need it, by name, and nothing else.

use std::{collections::BTreeMap, fmt};

pub use spillway_ebpf::ABSENT;
use spillway_ebpf::{Offsets, UNIX_NAME_LEN};

use super::{
    btf::{Btf, BtfKind, BtfType},
    fallbacks::{
        Cause,
        Hook::{
            self, AcceptFexit, AcceptKprobe, ConnectStates, HandleIter, LifeBtf, LifeRaw,
            ListenerIter, TaskIter, TaskIterPlain, UnixIter,
        },
        Unavailable,
    },
};

/// One member of a kernel struct, who needs it, and where its offset goes.
struct StructMember {
    /// The struct's tag.
    of: &'static str,
    /// The way to the member; anonymous structs and unions are looked through.
    path: &'static str,
    /// What it must be, or the programs would read something else.
    form: MemberForm,
    needed_by: &'static [Hook],
    slot: fn(&mut Offsets) -> &mut u32,
}

/// Form of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MemberForm {
    /// An integer, or a struct of nothing else such as `atomic_t`, of so many bytes.
    Bytes(usize),
    Pointer,
}

use MemberForm::{Bytes, Pointer};

const TASKS: &[Hook] = &[TaskIter, TaskIterPlain];
const TASKS_AND_LIFE: &[Hook] = &[TaskIter, TaskIterPlain, LifeBtf, LifeRaw];
const TASKS_LIFE_AND_HANDLES: &[Hook] = &[TaskIter, TaskIterPlain, LifeBtf, LifeRaw, HandleIter];
const LIFE_AND_HANDLES: &[Hook] = &[LifeBtf, LifeRaw, HandleIter];
const LIFE: &[Hook] = &[LifeBtf, LifeRaw];
const LISTENERS: &[Hook] = &[ListenerIter];
const UNIX: &[Hook] = &[UnixIter];
const QUEUES: &[Hook] = &[ListenerIter, UnixIter];
const FILES: &[Hook] = &[HandleIter, ListenerIter, UnixIter];
const ACCEPT: &[Hook] = &[ListenerIter, AcceptFexit, AcceptKprobe];
const CONNECTS: &[Hook] = &[ConnectStates];
const QUEUES_AND_CONNECTS: &[Hook] = &[ListenerIter, UnixIter, ConnectStates];
const FAMILIES: &[Hook] =
    &[HandleIter, ListenerIter, UnixIter, AcceptFexit, AcceptKprobe, ConnectStates];
const SOCKETS: &[Hook] = &[HandleIter, ListenerIter, AcceptFexit, AcceptKprobe, ConnectStates];

const MEMBERS: &[StructMember] = &[
    row(
        "task_struct",
        "tgid",
        Bytes(4),
        &[TaskIter, TaskIterPlain, LifeBtf, LifeRaw, HandleIter, ListenerIter, UnixIter],
        |o| &mut o.task_tgid,
    ),
    row("task_struct", "pid", Bytes(4), TASKS_AND_LIFE, |o| &mut o.task_pid),
    row("task_struct", "group_leader", Pointer, LIFE_AND_HANDLES, |o| &mut o.task_group_leader),
    row("task_struct", "real_parent", Pointer, TASKS, |o| &mut o.task_real_parent),
    row("task_struct", "start_boottime", Bytes(8), TASKS_LIFE_AND_HANDLES, |o| {
        &mut o.task_start_boottime
    }),
    row("task_struct", "mm", Pointer, TASKS, |o| &mut o.task_mm),
    // Evidence only: without them it is not known how much is mapped, and the processes are read
    // all the same.
    row("mm_struct", "data_vm", Bytes(8), &[], |o| &mut o.mm_data_vm),
    row("mm_struct", "stack_vm", Bytes(8), &[], |o| &mut o.mm_stack_vm),
    row("task_struct", "comm", Bytes(16), TASKS, |o| &mut o.task_comm),
    row("task_struct", "cgroups", Pointer, TASKS, |o| &mut o.task_cgroups),
    row("task_struct", "signal", Pointer, LIFE_AND_HANDLES, |o| &mut o.task_signal),
    row("signal_struct", "live", Bytes(4), LIFE, |o| &mut o.signal_live),
    row("signal_struct", "nr_threads", Bytes(4), &[HandleIter], |o| &mut o.signal_threads),
    // The array's beginning; RLIMIT_NOFILE is added below.
    row("signal_struct", "rlim", Bytes(RLIMITS * 2 * 8), &[HandleIter], |o| &mut o.signal_fds_max),
    row("cgroup", "kn", Pointer, TASKS, |o| &mut o.cgroup_kn),
    row("kernfs_node", "id", Bytes(8), TASKS, |o| &mut o.kernfs_node_id),
    row("bpf_map", "id", Bytes(4), &[TaskIter], |o| &mut o.map_id),
    row("bpf_array", "pptrs", Pointer, &[TaskIter], |o| &mut o.array_slots),
    row("file", "f_inode", Pointer, FILES, |o| &mut o.file_inode),
    row("file", "private_data", Pointer, FILES, |o| &mut o.file_private_data),
    row("inode", "i_mode", Bytes(2), FILES, |o| &mut o.inode_mode),
    row("socket", "sk", Pointer, FILES, |o| &mut o.socket_sk),
    row("sock", "__sk_common.skc_family", Bytes(2), FAMILIES, |o| &mut o.sock_family),
    row("sock", "__sk_common.skc_state", Bytes(1), FILES, |o| &mut o.sock_state),
    row("inet_sock", "inet_sport", Bytes(2), &[ListenerIter, ConnectStates], |o| &mut o.inet_sport),
    row("sock", "__sk_common.skc_num", Bytes(2), LISTENERS, |o| &mut o.sock_num),
    row("sock", "__sk_common.skc_rcv_saddr", Bytes(4), LISTENERS, |o| &mut o.sock_rcv_saddr),
    row("sock", "__sk_common.skc_v6_rcv_saddr", Bytes(16), LISTENERS, |o| &mut o.sock_v6_rcv_saddr),
    row("sock", "__sk_common.skc_daddr", Bytes(4), CONNECTS, |o| &mut o.sock_daddr),
    row("sock", "__sk_common.skc_v6_daddr", Bytes(16), CONNECTS, |o| &mut o.sock_v6_daddr),
    row("sock", "__sk_common.skc_dport", Bytes(2), CONNECTS, |o| &mut o.sock_dport),
    row("sock", "sk_err", Bytes(4), CONNECTS, |o| &mut o.sock_err),
    // Evidence only: without it a timeout whose error was fetched at once counts as given up.
    row("sock", "sk_shutdown", Bytes(1), &[], |o| &mut o.sock_shutdown),
    row("sock", "__sk_common.skc_net.net", Pointer, QUEUES_AND_CONNECTS, |o| &mut o.sock_net),
    row("net", "ns.inum", Bytes(4), QUEUES_AND_CONNECTS, |o| &mut o.net_inum),
    row("sock", "sk_protocol", Bytes(2), SOCKETS, |o| &mut o.sock_protocol),
    row("sock", "sk_ack_backlog", Bytes(4), LISTENERS, |o| &mut o.sock_ack_backlog),
    row("sock", "sk_max_ack_backlog", Bytes(4), QUEUES, |o| &mut o.sock_max_ack_backlog),
    // Evidence only: without it the count of overflows is 0 and the queue is seen all the same.
    row("sock", "sk_drops", Bytes(4), &[], |o| &mut o.sock_drops),
    // Evidence only: without either no connection counts as one from another host.
    row("sock", "sk_rx_dst_ifindex", Bytes(4), &[], |o| &mut o.sock_rx_ifindex),
    row("inet_sock", "rx_dst_ifindex", Bytes(4), &[], |o| &mut o.inet_rx_ifindex),
    // Evidence only: without it users share what their namespace gets.
    row("sock", "sk_uid", Bytes(4), &[], |o| &mut o.sock_uid),
    row("sock", "sk_type", Bytes(2), UNIX, |o| &mut o.sock_type),
    row("sock", "sk_socket", Pointer, UNIX, |o| &mut o.sock_socket),
    row("sock", "sk_receive_queue.qlen", Bytes(4), UNIX, |o| &mut o.sock_receive_queue_len),
    // A socket is the first member of this, and its inode the second.
    row("socket_alloc", "vfs_inode.i_ino", Bytes(8), UNIX, |o| &mut o.socket_inode),
    row("unix_sock", "addr", Pointer, UNIX, |o| &mut o.unix_addr),
    row("unix_address", "len", Bytes(4), UNIX, |o| &mut o.unix_address_len),
    row("unix_address", "name", Bytes(2 + UNIX_NAME_LEN), UNIX, |o| &mut o.unix_address_name),
    row("inet_connection_sock", "icsk_accept_queue.rskq_accept_head", Pointer, LISTENERS, |o| {
        &mut o.accept_head
    }),
    row("request_sock", "sk", Pointer, LISTENERS, |o| &mut o.request_sk),
    row("tcp_sock", "rcvq_space.time", Bytes(8), ACCEPT, |o| &mut o.tcp_established),
];

/// `RLIM_NLIMITS` of include/uapi/asm-generic/resource.h.
const RLIMITS: usize = 16;

/// Anonymous structs and unions within one another, at most. A guess, as of [`super::btf`]: the
/// kernel has three.
const NESTED_MAX: u32 = 16;

const fn row(
    of: &'static str,
    path: &'static str,
    form: MemberForm,
    needed_by: &'static [Hook],
    slot: fn(&mut Offsets) -> &mut u32,
) -> StructMember {
    StructMember { of, path, form, needed_by, slot }
}

/// Offsets on this kernel, and the hooks that cannot do without what is missing.
#[derive(Debug, Default)]
pub struct MemberOffsets {
    /// Where the members are; [`ABSENT`] where one is not.
    pub offsets: Offsets,
    /// Hooks that cannot be used here, each with the member that is missing or not what it was.
    pub ruled_out: BTreeMap<Hook, Unavailable>,
}

/// Looks every member up. `memory_v1` says that the memory controller is mounted as cgroup version
/// 1, so that a process's charge follows that hierarchy and not the default one.
pub fn find(btf: &Btf, memory_v1: bool) -> MemberOffsets {
    let mut found = MemberOffsets::default();
    let mut rule_out = |hooks: &[Hook], reason: String| {
        for &hook in hooks {
            found
                .ruled_out
                .entry(hook)
                .or_insert_with(|| Unavailable::new(Cause::Unsupported, &reason));
        }
    };
    for member in MEMBERS {
        let offset = locate(btf, member.of, member.path, member.form);
        let offset = offset.map_err(|reason| rule_out(member.needed_by, reason));
        *(member.slot)(&mut found.offsets) = offset.unwrap_or(ABSENT);
    }
    if found.offsets.signal_fds_max != ABSENT {
        found.offsets.signal_fds_max += libc::RLIMIT_NOFILE * size_of::<libc::rlimit>() as u32;
    }
    let rest = rss_counters(btf, &mut found.offsets)
        .and_then(|()| cgroup(btf, memory_v1, &mut found.offsets));
    if let Err(reason) = rest {
        rule_out(TASKS, reason);
    }
    found
}

/// Byte offset of the member at `path`, dots between its steps, where it has this form.
fn locate(btf: &Btf, of: &str, path: &str, form: MemberForm) -> Result<u32, String> {
    let (offset, found) = find_member(btf, of, path)
        .ok_or_else(|| format!("this kernel's struct {of} has no {path}"))?;
    let is = form_of(found);
    if is == Some(form) {
        Ok(offset)
    } else {
        let is = is.map_or_else(|| "something else".to_owned(), |is| is.to_string());
        Err(format!("this kernel's {of}.{path} is {is}, not {form}"))
    }
}

/// Form of a member of this type; of an array without a length, that of its elements.
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

impl fmt::Display for MemberForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bytes(bytes) => write!(f, "{bytes} bytes"),
            Pointer => f.write_str("a pointer"),
        }
    }
}

/// Until 6.1 `rss_stat` is a struct with an array of `atomic_long_t`; since 6.2 an array of `struct
/// percpu_counter`, each with its plain count and its slots.
fn rss_counters(btf: &Btf, offsets: &mut Offsets) -> Result<(), String> {
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

fn cgroup(btf: &Btf, memory_v1: bool, offsets: &mut Offsets) -> Result<(), String> {
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

/// Byte offset and type of the member at `path`, dots between its steps.
fn find_member<'a>(btf: &'a Btf, of: &str, path: &str) -> Option<(u32, BtfType<'a>)> {
    path.split('.').try_fold((0, btf.find(BtfKind::Struct, of)?), |(offset, at), step| {
        let (by, to) = member(at, step, NESTED_MAX)?;
        Some((offset + by, to))
    })
}

/// How many parameters a kernel function takes.
pub(super) fn parameters_of(btf: &Btf, function: &str) -> Option<usize> {
    let prototype = btf.find(BtfKind::Func, function)?.referent()?;
    (prototype.kind() == Some(BtfKind::FuncProto)).then(|| prototype.elements())
}

/// Byte offset and type of a member, looking through anonymous structs and unions, so many deep.
/// Bit-fields are no bytes: `None`.
fn member<'a>(of: BtfType<'a>, name: &str, deep: u32) -> Option<(u32, BtfType<'a>)> {
    of.members().find_map(|candidate| {
        let bits = candidate.bit_offset;
        if candidate.name == name.as_bytes() {
            let whole = bits % 8 == 0 && candidate.bits == 0;
            return whole.then_some((bits / 8, candidate.of?.plain()?));
        }
        if !candidate.name.is_empty() || deep == 0 {
            return None;
        }
        let (offset, found) = member(candidate.of?.plain()?, name, deep - 1)?;
        Some((bits / 8 + offset, found))
    })
}
