//! Spillway's own commands.
fn main() {}
