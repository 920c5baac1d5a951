//! Struct members that a kernel lacks or has in another form, tested with this kernel's own type
//! information and changed names.

use std::fs;

use spillway_agent::{
    bpf::{
        Hook,
        btf::Btf,
        btf_offsets::{self, ABSENT},
        fallbacks::Cause,
    },
    sense::{
        AcceptLatency, FileSystemSensor, OutboundSensor, ProcessEventSensor, ProcessMemorySensor,
        ProcessResourceSensor, RequestSensor, TcpListenerSensor, UnixListenerSensor, probes,
    },
};
use spillway_tests::skip;

const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// This kernel's type information with names exchanged for others of the same length. Reports a
/// skip and returns `None` if the kernel has none.
fn renamed(test: &str, names: &[(&str, &str)]) -> Option<Btf> {
    let mut bytes = match fs::read(BTF_PATH) {
        Ok(bytes) => bytes,
        Err(error) => {
            skip(test, &format!("{BTF_PATH} cannot be read: {error}"));
            return None;
        }
    };
    // `struct btf_header`: the length of the header is at 4; the strings' offset from its end is at
    // 16, and their length at 20.
    let word = |at: usize| {
        u32::from_le_bytes(bytes[at..at + 4].try_into().expect("the slice has four bytes")) as usize
    };
    let strings = word(4) + word(16)..word(4) + word(16) + word(20);
    let places: Vec<_> = names
        .iter()
        .map(|(from, to)| {
            assert_eq!(from.len(), to.len());
            let delimited = format!("\0{from}\0");
            let found = bytes[strings.clone()]
                .windows(delimited.len())
                .position(|name| name == delimited.as_bytes());
            (strings.start + 1 + found.unwrap_or_else(|| panic!("no name {from}")), to)
        })
        .collect();
    for (place, to) in places {
        bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
    }
    Some(Btf::from_bytes(bytes).expect("reading the changed type information"))
}

/// Hooks that are ruled out, with the reason.
fn ruled_out(btf: &Btf) -> Vec<(Hook, String)> {
    let found = btf_offsets::find(btf, false, &probes());
    found
        .ruled_out
        .into_iter()
        .map(|(hook, shortfall)| {
            assert_eq!(shortfall.why, Cause::Unsupported);
            (hook, shortfall.reason)
        })
        .collect()
}

fn sorted<const N: usize>(mut hooks: [(Hook, String); N]) -> [(Hook, String); N] {
    hooks.sort();
    hooks
}

#[test]
fn this_kernel_has_every_member() {
    if let Some(btf) = renamed("this_kernel_has_every_member", &[]) {
        assert_eq!(ruled_out(&btf), []);
    }
}

#[test]
fn missing_member_rules_out_its_hooks() {
    let test = "missing_member_rules_out_its_hooks";
    let Some(btf) = renamed(test, &[("rcvq_space", "rcvq_spice")]) else { return };
    let reason = || "this kernel's struct tcp_sock has no rcvq_space.time".to_owned();
    let hooks = [TcpListenerSensor::ITER, AcceptLatency::FEXIT, AcceptLatency::KPROBE];
    assert_eq!(ruled_out(&btf), sorted(hooks.map(|hook| (hook, reason()))));
}

#[test]
fn member_of_another_form_rules_out_its_hooks() {
    let test = "member_of_another_form_rules_out_its_hooks";
    // Each now has the other's type and offset: an integer is expected where sixteen bytes are, and
    // the reverse.
    let Some(btf) = renamed(test, &[("tgid", "comm"), ("comm", "tgid")]) else { return };
    let reason = || "this kernel's task_struct.tgid is 16 bytes, not 4 bytes".to_owned();
    let hooks = [
        ProcessMemorySensor::TASK_ITER,
        ProcessMemorySensor::TASK_ITER_PLAIN,
        ProcessEventSensor::BTF,
        ProcessEventSensor::RAW,
        ProcessResourceSensor::FILE_ITER,
        FileSystemSensor::OPEN_FILE_ITER,
        TcpListenerSensor::ITER,
        UnixListenerSensor::ITER,
        RequestSensor::SLOTS,
        RequestSensor::ITER,
        RequestSensor::ITER_HELPER,
    ];
    assert_eq!(ruled_out(&btf), sorted(hooks.map(|hook| (hook, reason()))));
}

#[test]
fn missing_optional_members_rule_out_only_their_hooks() {
    let test = "missing_optional_members_rule_out_only_their_hooks";
    let Some(btf) = renamed(test, &[("sk_type", "sk_typo"), ("sk_err", "sk_irr")]) else { return };
    let reason = |member| format!("this kernel's struct sock has no {member}");
    let expected =
        [(UnixListenerSensor::ITER, reason("sk_type")), (OutboundSensor::STATES, reason("sk_err"))];
    assert_eq!(ruled_out(&btf), sorted(expected));
}

#[test]
fn missing_sizes_and_peak_rule_out_nothing_else() {
    let test = "missing_sizes_and_peak_rule_out_nothing_else";
    let names = [("data_vm", "data_wm"), ("stack_vm", "stack_wm"), ("hiwater_rss", "hiwater_ras")];
    let Some(btf) = renamed(test, &names) else { return };
    assert_eq!(ruled_out(&btf), []);
    let offsets = btf_offsets::find(&btf, false, &probes()).offsets;
    let absent = [offsets.mm_data_vm, offsets.mm_stack_vm, offsets.mm_hiwater_rss];
    assert_eq!(absent, [ABSENT; 3]);
}

#[test]
fn unknown_counter_form_rules_out_only_iterators() {
    let test = "unknown_counter_form_rules_out_only_iterators";
    let Some(btf) = renamed(test, &[("rss_stat", "rss_hall")]) else { return };
    let reason = || "this kernel's mm_struct.rss_stat has a form that is not known".to_owned();
    let hooks = [ProcessMemorySensor::TASK_ITER, ProcessMemorySensor::TASK_ITER_PLAIN];
    assert_eq!(ruled_out(&btf), sorted(hooks.map(|hook| (hook, reason()))));
}
