//! Spillway's BPF programs: one file a probe, and helpers that probes share. See README.md.
//!
//! Kernel structs are read only through `bpf_probe_read_kernel` at offsets that the loader took
//! from the running kernel's BTF: Rust emits no CO-RE relocations, and an offset fixed at compile
//! time is silently wrong elsewhere.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod accept_latency;
mod arrivals;
mod atomic;
mod connections;
mod kernel_read;
mod open_files;
mod outbound;
mod page_faults;
mod process_events;
mod process_memory;
mod process_resources;
mod program_list;
mod requests;
mod rounds;
mod shares;
mod sock;
mod sock_state;
mod socket_list;
mod tcp_listeners;
mod unix_listeners;

// SAFETY: the loader looks for the licence in this section; nothing else is placed there.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No path of these programs panics: the linker would keep this loop and the verifier refuse it.
    loop {}
}
