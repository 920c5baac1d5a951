//! A reader of BTF type information in place, as `Documentation/bpf/btf.rst` describes it.
//!
//! A kernel has some 130,000 types, of which the agent needs a hundred. A parser that builds all of
//! them takes 30 MiB for a moment, more than the agent ever needs again; this one keeps the bytes
//! and one offset a type, some 6 MiB. Malformed bytes cause an error or a missing type, never a
//! panic. Only the byte order of this machine is supported, which is also the kernel's.

use std::{fmt, fs, io, path::Path};

const MAGIC: u16 = 0xEB9F;
/// `struct btf_header`: magic, version, flags, then five words.
const HEADER_WORDS: usize = 6;
/// Maximum number of typedefs and qualifiers around one type, so that a cycle ends. A guess: the
/// kernel has a handful.
const CHAIN_MAX: usize = 32;

/// Kind of a type: `BTF_KIND_*` of include/uapi/linux/btf.h, user-space ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the kernel's")]
#[repr(u8)]
pub enum BtfKind {
    Int = 1,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    Datasec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

const KINDS: [BtfKind; 19] = [
    BtfKind::Int,
    BtfKind::Ptr,
    BtfKind::Array,
    BtfKind::Struct,
    BtfKind::Union,
    BtfKind::Enum,
    BtfKind::Fwd,
    BtfKind::Typedef,
    BtfKind::Volatile,
    BtfKind::Const,
    BtfKind::Restrict,
    BtfKind::Func,
    BtfKind::FuncProto,
    BtfKind::Var,
    BtfKind::Datasec,
    BtfKind::Float,
    BtfKind::DeclTag,
    BtfKind::TypeTag,
    BtfKind::Enum64,
];

impl BtfKind {
    fn of(info: u32) -> Option<Self> {
        KINDS.get(((info >> 24 & 0x1F) as usize).checked_sub(1)?).copied()
    }

    /// Number of words after the first three: a fixed number, and a number for each element.
    fn words(self) -> (usize, usize) {
        match self {
            Self::Int | Self::Var | Self::DeclTag => (1, 0),
            Self::Array => (3, 0),
            Self::Struct | Self::Union | Self::Datasec | Self::Enum64 => (0, 3),
            Self::Enum | Self::FuncProto => (0, 2),
            Self::Ptr
            | Self::Fwd
            | Self::Typedef
            | Self::Volatile
            | Self::Const
            | Self::Restrict
            | Self::Func
            | Self::Float
            | Self::TypeTag => (0, 0),
        }
    }
}

/// Type information, and the offset of each type in it.
pub struct Btf {
    bytes: Vec<u8>,
    /// Byte offsets of the types; the first type has the id 1.
    types: Vec<u32>,
    /// Byte offset of the names.
    strings: usize,
}

/// One type.
#[derive(Clone, Copy)]
pub struct BtfType<'a> {
    btf: &'a Btf,
    at: usize,
}

/// Member of a struct or union.
pub struct BtfMember<'a> {
    /// Name; empty for an anonymous struct or union.
    pub name: &'a [u8],
    /// Type; `None` for a broken reference.
    pub of: Option<BtfType<'a>>,
    /// Offset in bits.
    pub bit_offset: u32,
    /// Size in bits of a bit-field; 0 for other members.
    pub bits: u32,
}

impl Btf {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, and [`io::ErrorKind::InvalidData`] if it is not
    /// type information.
    pub fn from_file(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_bytes(fs::read(path)?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not BTF"))
    }

    /// Reads `bytes`; `None` if they are not type information.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let header = |index: usize| word_at(&bytes, 4 * index);
        if bytes.first_chunk().map(|magic| u16::from_ne_bytes(*magic)) != Some(MAGIC) {
            return None;
        }
        let after_header = |offset: u32| (header(1)? as usize).checked_add(offset as usize);
        let (begin, strings) = (after_header(header(2)?)?, after_header(header(4)?)?);
        let end = begin.checked_add(header(3)? as usize)?;
        if end > bytes.len() || strings.checked_add(header(5)? as usize)? > bytes.len() {
            return None;
        }
        // The shortest type has twelve bytes, and most have twelve to 36.
        let mut types = Vec::with_capacity((end - begin) / 24);
        let mut at = begin;
        while at < end {
            types.push(u32::try_from(at).ok()?);
            let info = word_at(&bytes, at + 4)?;
            let (fixed, each) = BtfKind::of(info)?.words();
            at += 4 * (3 + fixed + each * elements(info));
        }
        Some(Self { bytes, types, strings })
    }

    /// Returns the first type of this kind and name.
    pub fn find(&self, kind: BtfKind, name: &str) -> Option<BtfType<'_>> {
        self.all().find(|of| of.kind() == Some(kind) && of.name() == name.as_bytes())
    }

    /// Builds type information with only the names and kinds of the types for which `keeps` returns
    /// true, under the same ids. Parsing it takes a fraction of the memory.
    pub fn outline(&self, keeps: impl Fn(BtfKind, &[u8]) -> bool) -> Vec<u8> {
        let (mut types, mut strings, mut end) = (Vec::new(), vec![0], 0);
        for of in self.all() {
            let kept = of.kind().filter(|kind| keeps(*kind, of.name()));
            let name = if kept.is_some() { strings.len() as u32 } else { 0 };
            let info = (kept.unwrap_or(BtfKind::Fwd) as u32) << 24;
            for word in [name, info, 0] {
                types.extend(word.to_ne_bytes());
            }
            if kept.is_some() {
                strings.extend(of.name());
                strings.push(0);
                end = types.len();
            }
        }
        types.truncate(end);
        let mut outline = Vec::with_capacity(4 * HEADER_WORDS + types.len() + strings.len());
        outline.extend(MAGIC.to_ne_bytes());
        outline.extend([1, 0]);
        for word in [4 * HEADER_WORDS, 0, types.len(), types.len(), strings.len()] {
            outline.extend((word as u32).to_ne_bytes());
        }
        outline.extend(types);
        outline.extend(strings);
        outline
    }

    fn all(&self) -> impl Iterator<Item = BtfType<'_>> {
        self.types.iter().map(|at| BtfType { btf: self, at: *at as usize })
    }

    fn by_id(&self, id: u32) -> Option<BtfType<'_>> {
        let at = *self.types.get((id as usize).checked_sub(1)?)?;
        Some(BtfType { btf: self, at: at as usize })
    }

    fn name(&self, offset: u32) -> &[u8] {
        let bytes = self.strings.checked_add(offset as usize).and_then(|at| self.bytes.get(at..));
        bytes.and_then(|bytes| bytes.split(|byte| *byte == 0).next()).unwrap_or_default()
    }
}

impl fmt::Debug for Btf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Btf").field("types", &self.types.len()).finish_non_exhaustive()
    }
}

impl<'a> BtfType<'a> {
    /// Kind.
    pub fn kind(&self) -> Option<BtfKind> {
        BtfKind::of(self.word(1))
    }

    /// Name; empty for none.
    pub fn name(&self) -> &'a [u8] {
        self.btf.name(self.word(0))
    }

    /// Size in bytes of an integer, enum, struct or union.
    pub fn size(&self) -> usize {
        self.word(2) as usize
    }

    /// Type that this one refers to: a function's prototype, or the target of a typedef.
    pub fn referent(&self) -> Option<Self> {
        self.btf.by_id(self.word(2))
    }

    /// Type without typedefs and qualifiers.
    pub fn plain(self) -> Option<Self> {
        let mut found = self;
        for _ in 0..CHAIN_MAX {
            match found.kind()? {
                BtfKind::Typedef
                | BtfKind::Const
                | BtfKind::Volatile
                | BtfKind::Restrict
                | BtfKind::TypeTag => {
                    found = found.referent()?;
                }
                _ => return Some(found),
            }
        }
        None
    }

    /// Type of an array's elements, and their number.
    pub fn array(&self) -> Option<(Self, usize)> {
        (self.kind() == Some(BtfKind::Array)).then_some(())?;
        Some((self.btf.by_id(self.word(3))?, self.word(5) as usize))
    }

    /// Number of a prototype's parameters, of a struct's members, of an enum's values.
    pub fn elements(&self) -> usize {
        elements(self.word(1))
    }

    /// Members of a struct or union; empty for other types.
    pub fn members(self) -> impl Iterator<Item = BtfMember<'a>> {
        let count = if matches!(self.kind(), Some(BtfKind::Struct | BtfKind::Union)) {
            self.elements()
        } else {
            0
        };
        let has_bit_fields = self.word(1) >> 31 == 1;
        (0..count).map(move |index| {
            let [name, of, offset] = [0, 1, 2].map(|word| self.word(3 + 3 * index + word));
            let (bit_offset, bits) =
                if has_bit_fields { (offset & 0xFF_FFFF, offset >> 24) } else { (offset, 0) };
            BtfMember { name: self.btf.name(name), of: self.btf.by_id(of), bit_offset, bits }
        })
    }

    /// Value of an enum's name.
    pub fn value_of(&self, name: &str) -> Option<u32> {
        (self.kind() == Some(BtfKind::Enum)).then_some(())?;
        let mut values =
            (0..self.elements()).map(|index| (self.word(3 + 2 * index), self.word(4 + 2 * index)));
        values.find(|(found, _)| self.btf.name(*found) == name.as_bytes()).map(|(_, value)| value)
    }

    /// Returns one of the type's words; 0 beyond the end.
    fn word(&self, index: usize) -> u32 {
        word_at(&self.btf.bytes, self.at + 4 * index).unwrap_or(0)
    }
}

/// `vlen` of a type's second word.
fn elements(info: u32) -> usize {
    (info & 0xFFFF) as usize
}

fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `typedef int number; struct pair { number first; const int second[3]; }; enum choice { NONE,
    /// SOME = 7 };`
    fn some() -> Vec<u8> {
        let strings = b"\0int\0number\0pair\0first\0second\0choice\0NONE\0SOME\0";
        let name = |name: &str| {
            let found = strings
                .windows(name.len() + 1)
                .position(|part| part == format!("{name}\0").as_bytes());
            found.unwrap() as u32
        };
        let info = |kind: BtfKind, elements: u32| (kind as u32) << 24 | elements;
        #[rustfmt::skip]
        let types = [
            name("int"), info(BtfKind::Int, 0), 4, 32,
            name("number"), info(BtfKind::Typedef, 0), 1,
            0, info(BtfKind::Const, 0), 1,
            0, info(BtfKind::Array, 0), 0, 3, 1, 3,
            name("pair"), info(BtfKind::Struct, 2), 16, name("first"), 2, 0, name("second"), 4, 32,
            name("choice"), info(BtfKind::Enum, 2), 4, name("NONE"), 0, name("SOME"), 7,
        ];
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        let type_bytes = 4 * types.len() as u32;
        for word in [24, 0, type_bytes, type_bytes, strings.len() as u32].iter().chain(&types) {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn type_is_found_by_kind_and_name() {
        let btf = Btf::from_bytes(some()).unwrap();
        let pair = btf.find(BtfKind::Struct, "pair").unwrap();
        let members: Vec<_> =
            pair.members().map(|member| (member.name, member.bit_offset, member.bits)).collect();
        assert_eq!(members, [(&b"first"[..], 0, 0), (b"second", 32, 0)]);
        let forms: Vec<_> =
            pair.members().map(|member| member.of.and_then(BtfType::plain).unwrap()).collect();
        assert_eq!((forms[0].kind(), forms[0].size()), (Some(BtfKind::Int), 4));
        let (element, count) = forms[1].array().unwrap();
        assert_eq!((element.plain().unwrap().name(), count), (&b"int"[..], 3));
        assert_eq!(btf.find(BtfKind::Enum, "choice").unwrap().value_of("SOME"), Some(7));
        assert!(
            btf.find(BtfKind::Union, "pair").is_none()
                && btf.find(BtfKind::Struct, "peer").is_none()
        );
    }

    #[test]
    fn outline_keeps_ids_names_and_kinds() {
        let btf = Btf::from_bytes(some()).unwrap();
        let outline = Btf::from_bytes(btf.outline(|_, name| name == b"pair")).unwrap();
        assert_eq!(outline.types.len(), 5, "types after the last kept one are left out");
        let kept = outline.by_id(5).unwrap();
        assert_eq!(
            (kept.kind(), kept.name(), kept.elements()),
            (Some(BtfKind::Struct), &b"pair"[..], 0)
        );
        assert_eq!(outline.by_id(2).unwrap().name(), b"");
    }

    proptest! {
        #[test]
        fn broken_bytes_never_panic(at in 0..190_usize, with: u8, cut in 0..200_usize) {
            let mut bytes = some();
            let at = at.min(bytes.len() - 1);
            bytes[at] = with;
            bytes.truncate(bytes.len() - cut.saturating_sub(150).min(bytes.len()));
            if let Some(btf) = Btf::from_bytes(bytes) {
                for of in btf.all() {
                    let _ = of.plain().map(|of| of.size());
                    let _ = (of.array().is_some(), of.value_of("SOME"));
                    for member in of.members() {
                        let _ = member.of.and_then(BtfType::plain).map(|of| of.name().len());
                    }
                }
                btf.outline(|kind, _| kind == BtfKind::Struct);
            }
        }
    }
}
