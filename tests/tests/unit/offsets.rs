//! Struct members that a kernel lacks, or has in another form, over this kernel's own type
//! information with names changed.

use std::fs;

use spillway_agent::{
    bpf::{
        Hook,
        btf::Btf,
        btf_offsets::{self, ABSENT},
        fallbacks::Cause,
    },
    sense::{
        AcceptLatency, OutboundSensor, ProcessEventSensor, ProcessMemorySensor,
        ProcessResourceSensor, TcpListenerSensor, UnixListenerSensor, probes,
    },
};
use spillway_tests::skip;

const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// This kernel's type information, with these names exchanged for others of the same length;
/// `None`, told as a skip, where the kernel has none.
fn renamed(test: &str, names: &[(&str, &str)]) -> Option<Btf> {
    let mut bytes = match fs::read(BTF_PATH) {
        Ok(bytes) => bytes,
        Err(error) => {
            skip(test, &format!("{BTF_PATH} cannot be read: {error}"));
            return None;
        }
    };
    // `struct btf_header`: at 16 the strings' offset from the header's end, whose length is at 4;
    // at 20 their length.
    let word =
        |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let strings = word(4) + word(16)..word(4) + word(16) + word(20);
    let places: Vec<_> = names
        .iter()
        .map(|(from, to)| {
            assert_eq!(from.len(), to.len());
            let whole = format!("\0{from}\0");
            let found = bytes[strings.clone()]
                .windows(whole.len())
                .position(|name| name == whole.as_bytes());
            (strings.start + 1 + found.unwrap_or_else(|| panic!("{from} is a name of its own")), to)
        })
        .collect();
    for (place, to) in places {
        bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
    }
    Some(Btf::from_bytes(bytes).expect("it is still type information"))
}

/// The hooks that are ruled out, with the reason.
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
fn a_missing_member_rules_out_what_needs_it_by_name() {
    let test = "a_missing_member_rules_out_what_needs_it_by_name";
    let Some(btf) = renamed(test, &[("rcvq_space", "rcvq_spice")]) else { return };
    let reason = || "this kernel's struct tcp_sock has no rcvq_space.time".to_owned();
    let hooks = [TcpListenerSensor::ITER, AcceptLatency::FEXIT, AcceptLatency::KPROBE];
    assert_eq!(ruled_out(&btf), sorted(hooks.map(|hook| (hook, reason()))));
}

#[test]
fn a_member_of_another_form_rules_out_what_needs_it_by_name() {
    let test = "a_member_of_another_form_rules_out_what_needs_it_by_name";
    // Each now has the other's type and place: an integer where sixteen bytes should be, and the
    // reverse.
    let Some(btf) = renamed(test, &[("tgid", "comm"), ("comm", "tgid")]) else { return };
    let reason = || "this kernel's task_struct.tgid is 16 bytes, not 4 bytes".to_owned();
    let hooks = [
        ProcessMemorySensor::TASK_ITER,
        ProcessMemorySensor::TASK_ITER_PLAIN,
        ProcessEventSensor::BTF,
        ProcessEventSensor::RAW,
        ProcessResourceSensor::FILE_ITER,
        TcpListenerSensor::ITER,
        UnixListenerSensor::ITER,
    ];
    assert_eq!(ruled_out(&btf), sorted(hooks.map(|hook| (hook, reason()))));
}

#[test]
fn what_unix_listeners_and_connects_need_costs_nothing_else() {
    let test = "what_unix_listeners_and_connects_need_costs_nothing_else";
    let Some(btf) = renamed(test, &[("sk_type", "sk_typo"), ("sk_err", "sk_irr")]) else { return };
    let reason = |member| format!("this kernel's struct sock has no {member}");
    let expected =
        [(UnixListenerSensor::ITER, reason("sk_type")), (OutboundSensor::STATES, reason("sk_err"))];
    assert_eq!(ruled_out(&btf), sorted(expected));
}

#[test]
fn without_the_counts_of_what_is_mapped_all_else_is_read() {
    let test = "without_the_counts_of_what_is_mapped_all_else_is_read";
    let Some(btf) = renamed(test, &[("data_vm", "data_wm"), ("stack_vm", "stack_wm")]) else {
        return;
    };
    assert_eq!(ruled_out(&btf), []);
    let offsets = btf_offsets::find(&btf, false, &probes()).offsets;
    assert_eq!([offsets.mm_data_vm, offsets.mm_stack_vm], [ABSENT; 2]);
}

#[test]
fn counts_of_an_unknown_form_rule_out_the_iterators_alone() {
    let test = "counts_of_an_unknown_form_rule_out_the_iterators_alone";
    let Some(btf) = renamed(test, &[("rss_stat", "rss_hall")]) else { return };
    let reason = || "this kernel's mm_struct.rss_stat has a form that is not known".to_owned();
    let hooks = [ProcessMemorySensor::TASK_ITER, ProcessMemorySensor::TASK_ITER_PLAIN];
    assert_eq!(ruled_out(&btf), sorted(hooks.map(|hook| (hook, reason()))));
}
