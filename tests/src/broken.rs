//! Breaks one BPF program of an agent's binary, so that the kernel's verifier refuses it.
//!
//! The agent embeds its BPF object unchanged, so the program is found in the agent's own file: the
//! only ELF image for the BPF machine, its symbol table, and the symbol's instructions.

/// `EM_BPF` of include/uapi/linux/elf-em.h, as bytes of `e_machine`.
const BPF_MACHINE: [u8; 2] = [247, 0];
const ELF_64_LITTLE: [u8; 6] = [0x7F, b'E', b'L', b'F', 2, 1];

const SYMBOL_TABLE: u32 = 2;
const SECTION_BYTES: usize = 64;
const SYMBOL_BYTES: usize = 24;
const INSTRUCTION_BYTES: usize = 8;

/// Instruction code that no kernel knows.
const INVALID_CODE: u8 = 0xFF;

/// Makes the last instruction of a BPF program in an agent's binary invalid.
///
/// # Panics
///
/// Panics if the binary contains no BPF object or the object has no such program.
pub fn break_program(binary: &mut [u8], program: &str) {
    let object = binary
        .windows(64)
        .position(|bytes| bytes.starts_with(&ELF_64_LITTLE) && bytes[18..20] == BPF_MACHINE)
        .expect("the agent should contain a BPF object");
    let (at, bytes) = instructions(&binary[object..], program)
        .unwrap_or_else(|| panic!("no BPF program {program}"));
    binary[object + at + bytes - INSTRUCTION_BYTES] = INVALID_CODE;
}

/// Offset and length of a function's instructions in an object.
fn instructions(elf: &[u8], function: &str) -> Option<(usize, usize)> {
    let sections = number(elf, 0x28, 8)?;
    let section = |index: usize| elf.get(sections + index * SECTION_BYTES..)?.get(..SECTION_BYTES);
    let table = (0..number(elf, 0x3C, 2)?)
        .filter_map(section)
        .find(|s| number(s, 4, 4) == Some(SYMBOL_TABLE as usize))?;
    let (symbols, size) = (number(table, 24, 8)?, number(table, 32, 8)?);
    let names = number(section(number(table, 40, 4)?)?, 24, 8)?;
    elf.get(symbols..symbols + size)?.chunks_exact(SYMBOL_BYTES).find_map(|symbol| {
        let name = elf.get(names + number(symbol, 0, 4)?..)?;
        let found = name.strip_prefix(function.as_bytes())?.first() == Some(&0);
        let start = number(section(number(symbol, 6, 2)?)?, 24, 8)?;
        found.then_some((start + number(symbol, 8, 8)?, number(symbol, 16, 8)?))
    })
}

/// Little-endian number of `size` bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<usize> {
    bytes
        .get(at..at + size)?
        .iter()
        .rev()
        .try_fold(0, |number: usize, &byte| number.checked_mul(256)?.checked_add(byte.into()))
}
