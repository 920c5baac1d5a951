//! Allow-list of names and values in an entry: nothing else is ever written by an undo.

use std::path::{Component, Path};

/// Files of a cgroup that are changed, in both versions of cgroups.
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

/// Suffixes of units that have a cgroup.
const UNIT_KINDS: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// Maximum size of a value, such as "18446744073709551615 1000000".
const VALUE_BYTES_MAX: usize = 64;
/// Maximum of systemd.
const UNIT_BYTES_MAX: usize = 255;
const PATH_BYTES_MAX: usize = 4096;
const INCIDENT_BYTES_MAX: usize = 128;

/// Returns whether a path may be the directory of a cgroup: absolute, and without `..`.
pub fn is_directory(path: &Path) -> bool {
    let mut parts = path.components();
    path.as_os_str().len() <= PATH_BYTES_MAX
        && parts.next() == Some(Component::RootDir)
        && parts.all(|part| matches!(part, Component::Normal(_)))
        && !path.as_os_str().as_encoded_bytes().iter().any(u8::is_ascii_control)
}

/// Returns whether a name may be that of a systemd unit with a cgroup.
pub fn is_unit(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    name.len() <= UNIT_BYTES_MAX
        && !name.starts_with('.')
        && name.bytes().all(is_part)
        && UNIT_KINDS.iter().any(|kind| name.len() > kind.len() && name.ends_with(kind))
}

/// Returns whether a text may be the value of a file or property: numbers, or "max".
pub fn is_value(text: &str) -> bool {
    let is_word = |word: &str| {
        matches!(word, "max" | "-1") || !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
    };
    text.len() <= VALUE_BYTES_MAX && text.split(' ').count() <= 2 && text.split(' ').all(is_word)
}

/// Returns whether a text may be a list of controllers.
pub fn is_controllers(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || matches!(byte, b'_' | b' ' | b'\n');
    text.len() <= PATH_BYTES_MAX && text.bytes().all(is_part)
}

/// Returns whether a text may be printed as the id of an incident.
pub fn is_incident(text: &str) -> bool {
    text.len() <= INCIDENT_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}
