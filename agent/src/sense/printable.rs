//! Names from processes, tenants and files, made safe to print.
//!
//! Process and cgroup names contain almost any byte, chosen by the user who runs the process.
//! Printed unchanged they could control a terminal (`ESC ]0;…`), forge a line of a log, or read
//! from right to left. Every name is made printable on input, so that no output has to do it.
//! Printable names stay unchanged, backslashes included: systemd's own `\x2d` is part of a
//! directory's name.

use std::{fmt::Write as _, os::unix::ffi::OsStrExt as _, path::Path, sync::Arc};

use serde::{Deserialize as _, Deserializer};

/// Maximum length of a result in bytes, including `…`. The kernel gives no path longer than 4,096
/// bytes.
pub const NAME_BYTES_MAX: usize = 4_096;

/// Replacement for the end of a name that is too long.
const CUT: char = '…';

/// Makes a name printable: control characters, characters that are invisible or turn the text
/// around, and bytes that are not UTF-8 become `\xNN`, a byte each. At most [`NAME_BYTES_MAX`]
/// long. Doing it twice changes nothing.
pub fn printable(name: impl AsRef<[u8]>) -> Arc<str> {
    let name = name.as_ref();
    if name.len() <= NAME_BYTES_MAX && name.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Arc::from(String::from_utf8_lossy(name));
    }
    let (mut text, mut piece) =
        (String::with_capacity(name.len().min(NAME_BYTES_MAX)), String::new());
    for chunk in name.utf8_chunks() {
        let valid = chunk.valid().char_indices().map(|(at, c)| {
            let bytes = &chunk.valid().as_bytes()[at..at + c.len_utf8()];
            (Some(c).filter(|c| is_printable(*c)), bytes)
        });
        let invalid = Some((None, chunk.invalid())).filter(|(_, bytes)| !bytes.is_empty());
        for (c, bytes) in valid.chain(invalid) {
            piece.clear();
            match c {
                Some(c) => piece.push(c),
                None => {
                    bytes.iter().for_each(|byte| write!(piece, "\\x{byte:02x}").unwrap_or_default())
                }
            }
            if text.len() + piece.len() > NAME_BYTES_MAX {
                cut(&mut text);
                return Arc::from(text);
            }
            text.push_str(&piece);
        }
    }
    Arc::from(text)
}

/// Makes a path printable.
pub fn printable_path(path: &Path) -> Arc<str> {
    printable(path.as_os_str().as_bytes())
}

/// Returns the bytes of a name before [`printable`]; `None` if nothing was escaped, the name was
/// cut, or it would be shown otherwise. A name that contained such an escape from the beginning
/// cannot be distinguished: callers must check that the result exists.
pub fn original(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest, mut is_escaped) = (Vec::with_capacity(text.len()), text, false);
    while let Some(c) = rest.chars().next() {
        let escaped = rest.strip_prefix("\\x").and_then(|hex| hex.get(..2)).and_then(|hex| {
            let is_ours = hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
            u8::from_str_radix(hex, 16).ok().filter(|byte| is_ours && !matches!(byte, b' '..=b'~'))
        });
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
                is_escaped = true;
            }
            None => {
                bytes.extend_from_slice(&rest.as_bytes()[..c.len_utf8()]);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    // The bytes of two escapes may be one printable character, which is never escaped.
    (is_escaped && !text.ends_with(CUT) && *printable(&bytes) == *text).then_some(bytes)
}

/// Deserializes a name of a trace, made printable.
///
/// # Errors
///
/// Returns an error if it is not a string.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    let name = Arc::<str>::deserialize(deserializer)?;
    // The reader rejects a name that is too long.
    Ok(if name.chars().all(is_printable) { name } else { printable(&*name) })
}

/// Reads a name that may be missing, and makes it printable.
///
/// # Errors
///
/// Returns an error if it is neither a string nor null.
pub fn deserialize_some<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Arc<str>>, D::Error> {
    let name = Option::<Arc<str>>::deserialize(deserializer)?;
    Ok(name.map(|name| printable(&*name)))
}

fn cut(text: &mut String) {
    while text.len() + CUT.len_utf8() > NAME_BYTES_MAX {
        text.pop();
    }
    text.push(CUT);
}

/// Returns whether a character is shown as itself: not a control character, not invisible or blank,
/// and without effect on how others are shown.
pub fn is_printable(c: char) -> bool {
    match c {
        ' '..='~' => true,
        _ if c.is_control() || c.is_whitespace() => false,
        // Unicode's Default_Ignorable_Code_Point, which its DerivedCoreProperties.txt lists:
        // fillers, joiners, marks of direction, variation selectors and tags. Interlinear
        // annotations (U+FFF9 to U+FFFB) beside them.
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' => {
            false
        }
        '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' => false,
        '\u{2060}'..='\u{206f}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{ffa0}' => false,
        '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' => false,
        '\u{e0000}'..='\u{e0fff}' => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn name_cannot_control_a_terminal_or_forge_a_line() {
        for (name, shown) in [
            (&b"\x1b]0;pwned\x07"[..], "\\x1b]0;pwned\\x07"),
            (b"a\nb\r\t\0", "a\\x0ab\\x0d\\x09\\x00"),
            (b"\xff\xfe", "\\xff\\xfe"),
            (b"\xc3", "\\xc3"),
            ("\u{202e}gpj.exe".as_bytes(), "\\xe2\\x80\\xaegpj.exe"),
            (
                "a\u{200b}b\u{feff}\u{85}\u{a0}".as_bytes(),
                "a\\xe2\\x80\\x8bb\\xef\\xbb\\xbf\\xc2\\x85\\xc2\\xa0",
            ),
            (b"nginx: worker", "nginx: worker"),
            ("größe-中文".as_bytes(), "größe-中文"),
            (
                b"/system.slice/systemd-fsck\\x2d1.service",
                "/system.slice/systemd-fsck\\x2d1.service",
            ),
            (b"", ""),
        ] {
            assert_eq!(&*printable(name), shown);
        }
    }

    #[test]
    fn long_name_is_cut() {
        let cut = printable(vec![0xff; 2_000]);
        assert!(cut.len() <= NAME_BYTES_MAX && cut.ends_with(CUT), "{}", cut.len());
        assert_eq!(original(&cut), None);
        assert_eq!(printable("a".repeat(NAME_BYTES_MAX + 1)).chars().last(), Some(CUT));
        assert_eq!(printable("a".repeat(NAME_BYTES_MAX)).len(), NAME_BYTES_MAX);
    }

    #[test]
    fn only_escapes_made_here_are_reversed() {
        assert_eq!(original("/a\\x1b\\x2d").as_deref(), Some(&b"/a\x1b\\x2d"[..]));
        for text in
            ["", "/a", "/systemd\\x2dfsck", "\\x", "\\x1", "\\x1B", "\\xé", "\\x+1", "/a\\xce\\x95"]
        {
            assert_eq!(original(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_become_printable_and_are_reversible(
            name in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let shown = printable(&name);
            prop_assert!(shown.chars().all(is_printable), "{}", shown);
            prop_assert_eq!(&printable(&*shown), &shown);
            prop_assume!(!name.contains(&b'\\'));
            let back = original(&shown).unwrap_or_else(|| shown.as_bytes().to_vec());
            prop_assert_eq!(back, name);
        }

        #[test]
        fn any_text_becomes_printable(
            name in "\\PC{0,60}|[\u{0}-\u{2ff}]{0,60}|[\u{2000}-\u{20ff}\u{e0000}-\u{e01ff}]{0,40}",
        ) {
            let shown = printable(&name);
            prop_assert!(shown.chars().all(is_printable), "{}", shown);
            prop_assert_eq!(printable(&*shown), shown);
        }
    }
}
