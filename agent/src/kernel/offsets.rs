//! Where the members of this kernel's structs are, from its BTF.
//!
//! [`MEMBERS`] is the whole list: a probe that needs another member gets another row. A member that this kernel lacks
//! disables the probes that need it, by name, and nothing else.

use std::collections::HashMap;

use btf_rs::{Btf, BtfType, Type};
use spillway_ebpf::{ABSENT, Offsets};

use super::report::Probe::{self, AcceptQueue, ProcessLife, ProcessMemory};

/// One member of a kernel struct, who needs it, and where its offset goes.
struct Member {
    /// The struct's tag.
    of: &'static str,
    /// The way to the member; anonymous structs and unions are looked through.
    path: &'static str,
    needed_by: &'static [Probe],
    slot: fn(&mut Offsets) -> &mut u32,
}

const MEMBERS: &[Member] = &[
    row("task_struct", "tgid", &[ProcessMemory, ProcessLife, AcceptQueue], |o| &mut o.task_tgid),
    row("task_struct", "pid", &[ProcessMemory, ProcessLife], |o| &mut o.task_pid),
    row("task_struct", "group_leader", &[ProcessLife], |o| &mut o.task_group_leader),
    row("task_struct", "real_parent", &[ProcessMemory], |o| &mut o.task_real_parent),
    row("task_struct", "start_boottime", &[ProcessMemory, ProcessLife], |o| &mut o.task_start_boottime),
    row("task_struct", "mm", &[ProcessMemory], |o| &mut o.task_mm),
    row("task_struct", "comm", &[ProcessMemory], |o| &mut o.task_comm),
    row("task_struct", "cgroups", &[ProcessMemory], |o| &mut o.task_cgroups),
    row("task_struct", "signal", &[ProcessLife], |o| &mut o.task_signal),
    row("signal_struct", "live", &[ProcessLife], |o| &mut o.signal_live),
    row("cgroup", "kn", &[ProcessMemory], |o| &mut o.cgroup_kn),
    row("kernfs_node", "id", &[ProcessMemory], |o| &mut o.kernfs_node_id),
    row("file", "f_inode", &[AcceptQueue], |o| &mut o.file_inode),
    row("file", "private_data", &[AcceptQueue], |o| &mut o.file_private_data),
    row("inode", "i_mode", &[AcceptQueue], |o| &mut o.inode_mode),
    row("socket", "sk", &[AcceptQueue], |o| &mut o.socket_sk),
    row("sock", "__sk_common.skc_family", &[AcceptQueue], |o| &mut o.sock_family),
    row("sock", "__sk_common.skc_state", &[AcceptQueue], |o| &mut o.sock_state),
    row("sock", "__sk_common.skc_num", &[AcceptQueue], |o| &mut o.sock_num),
    row("sock", "__sk_common.skc_rcv_saddr", &[AcceptQueue], |o| &mut o.sock_rcv_saddr),
    row("sock", "__sk_common.skc_v6_rcv_saddr", &[AcceptQueue], |o| &mut o.sock_v6_rcv_saddr),
    row("sock", "__sk_common.skc_net.net", &[AcceptQueue], |o| &mut o.sock_net),
    row("net", "ns.inum", &[AcceptQueue], |o| &mut o.net_inum),
    row("sock", "sk_protocol", &[AcceptQueue], |o| &mut o.sock_protocol),
    row("sock", "sk_ack_backlog", &[AcceptQueue], |o| &mut o.sock_ack_backlog),
    row("sock", "sk_max_ack_backlog", &[AcceptQueue], |o| &mut o.sock_max_ack_backlog),
    // Evidence only: without it the count of overflows is 0 and the queue is seen all the same.
    row("sock", "sk_drops", &[], |o| &mut o.sock_drops),
    row("inet_connection_sock", "icsk_accept_queue.rskq_accept_head", &[AcceptQueue], |o| &mut o.accept_head),
    row("request_sock", "sk", &[AcceptQueue], |o| &mut o.request_sk),
    row("tcp_sock", "lsndtime", &[AcceptQueue], |o| &mut o.tcp_lsndtime),
];

const fn row(
    of: &'static str,
    path: &'static str,
    needed_by: &'static [Probe],
    slot: fn(&mut Offsets) -> &mut u32,
) -> Member {
    Member { of, path, needed_by, slot }
}

/// Offsets on this kernel, and why some probes cannot do without what is missing.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) offsets: Offsets,
    pub(super) missing: HashMap<Probe, String>,
}

/// Looks every member up. `memory_v1` says that the memory controller is mounted as cgroup version 1, so that a
/// process's charge follows that hierarchy and not the default one.
pub(super) fn find(btf: &Btf, memory_v1: bool) -> Found {
    let mut found = Found::default();
    for member in MEMBERS {
        let offset = offset_of(btf, member.of, member.path);
        if offset.is_none() {
            for &probe in member.needed_by {
                found
                    .missing
                    .entry(probe)
                    .or_insert_with(|| format!("this kernel's struct {} has no {}", member.of, member.path));
            }
        }
        *(member.slot)(&mut found.offsets) = offset.unwrap_or(ABSENT);
    }
    if let Err(reason) = rss_counters(btf, &mut found.offsets).and_then(|()| cgroup(btf, memory_v1, &mut found.offsets))
    {
        found.missing.entry(ProcessMemory).or_insert(reason);
    }
    found
}

/// Until 6.1 `rss_stat` is a struct with an array of `atomic_long_t`; since 6.2 an array of `struct percpu_counter`,
/// each with its plain count.
fn rss_counters(btf: &Btf, offsets: &mut Offsets) -> Result<(), String> {
    let unknown = || "this kernel's mm_struct.rss_stat has a form that is not known".to_owned();
    let (base, of) = member(btf, &structure(btf, "mm_struct").ok_or_else(unknown)?, "rss_stat").ok_or_else(unknown)?;
    let (count, stride) = match of {
        Type::Array(_) => {
            let counter = structure(btf, "percpu_counter").ok_or_else(unknown)?;
            (offset_of(btf, "percpu_counter", "count").ok_or_else(unknown)?, size_of_struct(&counter))
        }
        Type::Struct(_) => (member(btf, &of, "count").ok_or_else(unknown)?.0, Some(8)),
        _ => return Err(unknown()),
    };
    offsets.mm_rss_count = base + count;
    offsets.mm_rss_stride = stride.ok_or_else(unknown)?;
    Ok(())
}

fn cgroup(btf: &Btf, memory_v1: bool, offsets: &mut Offsets) -> Result<(), String> {
    let missing = |what: &str| format!("this kernel has no {what}");
    if memory_v1 {
        let subsys = offset_of(btf, "css_set", "subsys").ok_or_else(|| missing("css_set.subsys"))?;
        let id = enumerator(btf, "cgroup_subsys_id", "memory_cgrp_id").ok_or_else(|| missing("memory_cgrp_id"))?;
        offsets.css_set_cgroup = subsys + id * size_of::<u64>() as u32;
        offsets.css_cgroup =
            offset_of(btf, "cgroup_subsys_state", "cgroup").ok_or_else(|| missing("cgroup_subsys_state.cgroup"))?;
    } else {
        offsets.css_set_cgroup = offset_of(btf, "css_set", "dfl_cgrp").ok_or_else(|| missing("css_set.dfl_cgrp"))?;
        offsets.css_cgroup = ABSENT;
    }
    Ok(())
}

/// Byte offset of the member at `path`, dots between its steps.
fn offset_of(btf: &Btf, of: &str, path: &str) -> Option<u32> {
    let mut at = structure(btf, of)?;
    let mut offset = 0;
    for step in path.split('.') {
        let (by, to) = member(btf, &at, step)?;
        offset += by;
        at = to;
    }
    Some(offset)
}

fn structure(btf: &Btf, name: &str) -> Option<Type> {
    btf.resolve_types_by_name(name).ok()?.into_iter().find(|found| matches!(found, Type::Struct(_)))
}

fn size_of_struct(of: &Type) -> Option<u32> {
    match of {
        Type::Struct(found) | Type::Union(found) => Some(found.size() as u32),
        _ => None,
    }
}

/// Byte offset and type of a member, looking through anonymous structs and unions. Bit-fields are no bytes: `None`.
fn member(btf: &Btf, of: &Type, name: &str) -> Option<(u32, Type)> {
    let (Type::Struct(of) | Type::Union(of)) = of else { return None };
    of.members.iter().find_map(|candidate| {
        let bits = candidate.bit_offset();
        let found = btf.resolve_name(candidate).unwrap_or_default();
        if found == name {
            let whole = bits % 8 == 0 && candidate.bitfield_size().unwrap_or(0) == 0;
            return whole.then_some((bits / 8, plain(btf, candidate)?));
        }
        if !found.is_empty() {
            return None;
        }
        let (offset, found) = member(btf, &plain(btf, candidate)?, name)?;
        Some((bits / 8 + offset, found))
    })
}

/// The type behind typedefs and qualifiers.
fn plain(btf: &Btf, of: &dyn BtfType) -> Option<Type> {
    let mut found = btf.resolve_chained_type(of).ok()?;
    loop {
        found = match &found {
            Type::Typedef(of) => btf.resolve_chained_type(of).ok()?,
            Type::Const(of) | Type::Volatile(of) | Type::Restrict(of) => btf.resolve_chained_type(of).ok()?,
            Type::TypeTag(of) => btf.resolve_chained_type(of).ok()?,
            _ => return Some(found),
        };
    }
}

fn enumerator(btf: &Btf, of: &str, name: &str) -> Option<u32> {
    btf.resolve_types_by_name(of).ok()?.into_iter().find_map(|found| match found {
        Type::Enum(found) => {
            found.members.iter().find(|one| btf.resolve_name(*one).is_ok_and(|it| it == name)).map(|one| one.val())
        }
        _ => None,
    })
}
