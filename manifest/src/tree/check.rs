//! Whether bytes are a device tree that can be walked.
//!
//! `dtoolkit` checks that too, but refuses names of more than the 31 bytes that the specification allows, which trees of
//! real machines have (`snps,quirk-frame-length-adjustment`) and every other reader takes. What it needs in order not to
//! panic is checked here; names may be of any length.

use core::ffi::CStr;

use dtoolkit::fdt::Fdt;

/// First word (Devicetree specification, 5.2).
const MAGIC: u32 = 0xd00d_feed;
/// The version of the format that is read here and by `dtoolkit`.
const VERSION: u32 = 17;
/// Bytes of the header.
const HEADER: usize = 40;
/// Bytes of an entry of the memory reservation block.
const RESERVATION: usize = 16;

/// Tokens of the structure block (Devicetree specification, 5.4.1).
mod token {
    pub(super) const BEGIN_NODE: u32 = 1;
    pub(super) const END_NODE: u32 = 2;
    pub(super) const PROP: u32 = 3;
    pub(super) const NOP: u32 = 4;
    pub(super) const END: u32 = 9;
}

/// What is wrong with a blob, and where.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum BlobError {
    #[error("it does not begin with the magic number")]
    Magic,
    #[error("it has version {0}, compatible with {1}: 17 is needed")]
    Version(u32, u32),
    #[error("its {0} block is not where it may be")]
    Block(&'static str),
    #[error("the memory reservation block has no end")]
    Reservations,
    #[error("it ends in the middle at offset {0:#x}")]
    Short(usize),
    #[error("there is token {0:#x} at offset {1:#x}, where none may be")]
    Token(u32, usize),
    #[error("the name at offset {0:#x} is not one")]
    Name(usize),
}

/// Where things are in a blob.
struct Blob<'a> {
    bytes: &'a [u8],
    /// Bytes of the strings block.
    strings: &'a [u8],
    /// Where the structure block ends.
    end: usize,
}

/// The tree in `bytes`, if all of them are one. Nothing that is done with it panics.
pub(crate) fn fdt(bytes: &[u8]) -> Result<Fdt<'_>, BlobError> {
    check(bytes)?;
    Ok(Fdt::new_unchecked(bytes))
}

fn check(bytes: &[u8]) -> Result<(), BlobError> {
    let field = |index: usize| word(bytes, index * 4).ok_or(BlobError::Short(bytes.len()));
    if field(0)? != MAGIC {
        return Err(BlobError::Magic);
    }
    let (version, compatible) = (field(5)?, field(6)?);
    if !(compatible..=version).contains(&VERSION) {
        return Err(BlobError::Version(version, compatible));
    }
    let block = |name, offset: u32, size: u32| {
        let (start, size) = (offset as usize, size as usize);
        let end = start.checked_add(size).filter(|end| *end <= bytes.len());
        end.map(|end| start..end).ok_or(BlobError::Block(name))
    };
    let structure = block("structure", field(2)?, field(9)?)?;
    let strings = block("strings", field(3)?, field(8)?)?;
    let reservations = block("memory reservation", field(4)?, 0)?.start;
    if !structure.start.is_multiple_of(4) || structure.end > strings.start {
        return Err(BlobError::Block("structure"));
    }
    if reservations < HEADER || !reservations.is_multiple_of(8) || reservations > structure.start {
        return Err(BlobError::Block("memory reservation"));
    }
    let mut entries = bytes
        .get(reservations..structure.start)
        .unwrap_or_default()
        .chunks_exact(RESERVATION);
    if !entries.any(|entry| entry.iter().all(|byte| *byte == 0)) {
        return Err(BlobError::Reservations);
    }
    let blob = Blob {
        bytes,
        strings: bytes.get(strings).unwrap_or_default(),
        end: structure.end,
    };
    blob.walk(structure.start)
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_be_bytes(field.try_into().ok()?))
}

impl Blob<'_> {
    fn word(&self, offset: usize) -> Result<u32, BlobError> {
        let end = offset.checked_add(4).filter(|end| *end <= self.end);
        end.and_then(|_| word(self.bytes, offset))
            .ok_or(BlobError::Short(offset))
    }

    /// Walks one root node, whose token is at `offset`, and the end behind it.
    fn walk(&self, mut offset: usize) -> Result<(), BlobError> {
        let mut depth = 0_usize;
        // Properties of a node come before its children.
        let mut in_properties = false;
        loop {
            let token = self.word(offset)?;
            let at = offset;
            offset += 4;
            match token {
                token::BEGIN_NODE => {
                    let bytes = self.bytes.get(offset..self.end).unwrap_or_default();
                    let name = name(bytes).ok_or(BlobError::Name(offset))?;
                    if name.is_empty() != (depth == 0) {
                        return Err(BlobError::Name(offset));
                    }
                    offset = self.aligned(offset, name.len() + 1)?;
                    depth += 1;
                    in_properties = true;
                }
                token::PROP if in_properties => {
                    let (length, name_offset) = (self.word(offset)?, self.word(offset + 4)?);
                    let bytes = self.strings.get(name_offset as usize..).unwrap_or_default();
                    if name(bytes).is_none_or(str::is_empty) {
                        return Err(BlobError::Name(offset + 4));
                    }
                    offset = self.aligned(offset + 8, length as usize)?;
                }
                token::END_NODE if depth > 0 => {
                    depth -= 1;
                    in_properties = false;
                    if depth == 0 {
                        return self.ends(offset);
                    }
                }
                token::NOP if depth > 0 => {}
                other => return Err(BlobError::Token(other, at)),
            }
        }
    }

    /// The token at `offset` ends the structure block.
    fn ends(&self, offset: usize) -> Result<(), BlobError> {
        match self.word(offset)? {
            token::END => Ok(()),
            other => Err(BlobError::Token(other, offset)),
        }
    }

    /// The multiple of 4 after `length` bytes from `offset` on, which are in the structure block.
    fn aligned(&self, offset: usize, length: usize) -> Result<usize, BlobError> {
        let end = offset.checked_add(length).filter(|end| *end <= self.end);
        end.map(|end| end.next_multiple_of(4)).ok_or(BlobError::Short(offset))
    }
}

/// The name at the start of `bytes`: printable ASCII without the separator of paths.
fn name(bytes: &[u8]) -> Option<&str> {
    let name = CStr::from_bytes_until_nul(bytes).ok()?.to_str().ok()?;
    name.bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'/')
        .then_some(name)
}
