//! Names and values that an entry may have: nothing else is ever put back, whatever a file says.

use std::path::{Component, Path};

/// Files of a cgroup that are changed, in both versions.
pub const CGROUP_FILES: [&str; 7] = [
    "memory.high",
    "memory.max",
    "memory.swap.max",
    "cpu.weight",
    "cpu.max",
    "memory.limit_in_bytes",
    "memory.oom_control",
];

/// Properties of a systemd unit that are changed.
pub const PROPERTIES: [&str; 5] =
    ["MemoryHigh", "MemoryMax", "MemorySwapMax", "CPUWeight", "CPUQuotaPerSecUSec"];

/// Kinds of unit that have a cgroup.
const UNIT_KINDS: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// Longest value of a file: "18446744073709551615 1000000" is one.
const VALUE_BYTES_MAX: usize = 64;
/// systemd's own bound.
const UNIT_BYTES_MAX: usize = 255;
const PATH_BYTES_MAX: usize = 4096;
const INCIDENT_BYTES_MAX: usize = 128;

/// Tells if this is a directory as an entry has it: absolute, and without a way up.
pub fn is_directory(path: &Path) -> bool {
    let mut parts = path.components();
    path.as_os_str().len() <= PATH_BYTES_MAX
        && parts.next() == Some(Component::RootDir)
        && parts.all(|part| matches!(part, Component::Normal(_)))
        && !path.as_os_str().as_encoded_bytes().iter().any(u8::is_ascii_control)
}

/// Tells if systemd would give this name to a unit that has a cgroup.
pub fn is_unit(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    name.len() <= UNIT_BYTES_MAX
        && !name.starts_with('.')
        && name.bytes().all(is_part)
        && UNIT_KINDS.iter().any(|kind| name.len() > kind.len() && name.ends_with(kind))
}

/// Tells if this is a value that one of the files or properties may have: numbers, or "max".
pub fn is_value(text: &str) -> bool {
    let is_word = |word: &str| {
        matches!(word, "max" | "-1") || !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
    };
    text.len() <= VALUE_BYTES_MAX && text.split(' ').count() <= 2 && text.split(' ').all(is_word)
}

/// Tells if this is a list of controllers.
pub fn is_controllers(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'_' | b' ' | b'\n');
    text.len() <= PATH_BYTES_MAX && text.bytes().all(is_part)
}

/// Tells if this may be printed as the name of an incident.
pub fn is_incident(text: &str) -> bool {
    text.len() <= INCIDENT_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}
