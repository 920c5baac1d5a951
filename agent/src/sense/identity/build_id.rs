//! Build id of an executable, from the notes in its image.
//!
//! The file belongs to whoever runs it, so only its beginning is read, where linkers put the notes.

use std::path::Path;

use object::{
    Endianness,
    elf::{FileHeader32, FileHeader64, NT_GNU_BUILD_ID, PT_NOTE},
    read::elf::{FileHeader, ProgramHeader as _},
};

use super::host_files::read_up_to;

/// Bytes of a file that are read. The notes are within the first page in most executables.
const IMAGE_BYTES_MAX: u64 = 65_536;

/// Maximum length of an id. The GNU linker's has 20 bytes.
const ID_BYTES_MAX: usize = 64;

/// Maximum length of Go's id in characters: it has 83.
const GO_ID_CHARS_MAX: usize = 128;

/// Type of Go's note.
const NT_GO_BUILD_ID: u32 = 4;

/// Returns the build id of an executable.
pub(super) fn of_file(path: &Path) -> Option<String> {
    in_image(&read_up_to(path, IMAGE_BYTES_MAX)?)
}

/// Returns the build id in the beginning of an executable.
pub(super) fn in_image(image: &[u8]) -> Option<String> {
    in_notes::<FileHeader64<Endianness>>(image)
        .or_else(|| in_notes::<FileHeader32<Endianness>>(image))
}

fn in_notes<Header: FileHeader<Endian = Endianness>>(image: &[u8]) -> Option<String> {
    let header = Header::parse(image).ok()?;
    let endian = header.endian().ok()?;
    let mut go = None;
    for segment in header.program_headers(endian, image).ok()? {
        if segment.p_type(endian) != PT_NOTE {
            continue;
        }
        let Ok(Some(mut notes)) = segment.notes(endian, image) else { continue };
        while let Ok(Some(note)) = notes.next() {
            match (note.name(), note.n_type(endian), note.desc()) {
                (b"GNU", NT_GNU_BUILD_ID, id) if (1..=ID_BYTES_MAX).contains(&id.len()) => {
                    return Some(id.iter().map(|byte| format!("{byte:02x}")).collect());
                }
                (b"Go", NT_GO_BUILD_ID, id) => go = go_id(id),
                _ => {}
            }
        }
    }
    go
}

fn go_id(id: &[u8]) -> Option<String> {
    let text = str::from_utf8(id).ok()?;
    let is_one = (1..=GO_ID_CHARS_MAX).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/_-".contains(c));
    is_one.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn own_build_id_is_what_the_linker_wrote() {
        let image = std::fs::read("/proc/self/exe").unwrap();
        let file = object::File::parse(&*image).unwrap();
        let expected = object::Object::build_id(&file).unwrap();
        let expected: Option<String> =
            expected.map(|id| id.iter().map(|byte| format!("{byte:02x}")).collect());
        assert_eq!(of_file("/proc/self/exe".as_ref()), expected);
    }

    proptest! {
        #[test]
        fn damaged_images_give_a_short_id_or_none(
            cuts in prop::collection::vec((0_usize..4_096, any::<u8>()), 0..40),
            length in 0_usize..4_096,
        ) {
            let mut image = read_up_to("/proc/self/exe".as_ref(), 4_096).unwrap();
            for (at, byte) in cuts {
                image[at] = byte;
            }
            let id = in_image(&image[..length]);
            prop_assert!(id.is_none_or(|id| id.len() <= 2 * ID_BYTES_MAX));
        }
    }
}
