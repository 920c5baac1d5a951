//! How the name of a UNIX socket is written: `unix:/run/api.sock`, or `unix:@api` where it is
//! abstract.
//!
//! A name may hold any byte. What is not printable ASCII is written `\xNN`, and a backslash twice,
//! so that no two names look alike.

use std::{fmt::Write as _, sync::Arc};

/// Of a path, with or without the NUL that ends it.
pub(super) fn of_path(path: &[u8]) -> Arc<str> {
    let end = path.iter().position(|&byte| byte == 0).unwrap_or(path.len());
    escaped("unix:", &path[..end])
}

/// Of an abstract name, without the NUL that begins it.
pub(super) fn of_abstract(name: &[u8]) -> Arc<str> {
    escaped("unix:@", name)
}

/// Of what the kernel keeps: a path, or a NUL and an abstract name.
pub(super) fn of_kernel(name: &[u8]) -> Arc<str> {
    match name.split_first() {
        Some((0, name)) => of_abstract(name),
        _ => of_path(name),
    }
}

fn escaped(prefix: &str, name: &[u8]) -> Arc<str> {
    let mut text = String::from(prefix);
    for &byte in name {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => write!(text, "\\x{byte:02x}").expect("a string takes all"),
        }
    }
    Arc::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_abstract_names_are_told_apart() {
        assert_eq!(&*of_kernel(b"/run/api.sock\0"), "unix:/run/api.sock");
        assert_eq!(&*of_kernel(b"\0api"), "unix:@api");
        assert_eq!(&*of_kernel(b""), "unix:");
    }

    #[test]
    fn what_is_not_printable_is_escaped_and_no_two_names_look_alike() {
        assert_eq!(&*of_abstract(b"a\0b \x1b\xff"), "unix:@a\\x00b \\x1b\\xff");
        assert_ne!(of_abstract(b"\\x00"), of_abstract(b"\0"));
        assert!(of_abstract(&[0xFF; 108]).len() <= 512, "what a trace takes of an address");
    }
}
