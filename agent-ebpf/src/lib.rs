//! The samples that Spillway's BPF programs emit, as both sides of the kernel boundary see them.
#![no_std]
