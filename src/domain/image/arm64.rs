//! The arm64 Image header (Linux, Documentation/arch/arm64/booting.rst).

use super::{ImageError, KERNEL_ALIGNMENT, Source};
use crate::domain::ram::GuestRam;
use crate::memory::PhysicalMemory;
use crate::range::IpaRange;

/// Bytes of the header.
pub(super) const HEADER_SIZE: usize = 64;
/// "ARM\x64"
const MAGIC: u32 = 0x644d_5241;
/// Where kernels before Linux 3.17, whose header gives no size, expect to be.
const LEGACY_TEXT_OFFSET: u64 = 0x8_0000;
const FLAG_BIG_ENDIAN: u64 = 1;
/// Sections that a PE file of an operating system's kernel may have.
const MAX_SECTIONS: u16 = 96;
const SECTION_SIZE: u64 = 40;

/// What the header says of placement.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Header {
    text_offset: u64,
    image_size: u64,
    /// Offset of the PE header, in kernels that are EFI programs too.
    pe_offset: Option<u32>,
}

fn word<const N: usize>(bytes: &[u8; HEADER_SIZE], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER_SIZE]) -> Result<Self, ImageError> {
        let magic = u32::from_le_bytes(word(bytes, 56));
        if magic != MAGIC {
            return Err(ImageError::NotAnImage(magic));
        }
        let flags = u64::from_le_bytes(word(bytes, 24));
        if flags & FLAG_BIG_ENDIAN != 0 {
            return Err(ImageError::BigEndian(flags));
        }
        let image_size = u64::from_le_bytes(word(bytes, 16));
        let text_offset = if image_size == 0 {
            LEGACY_TEXT_OFFSET
        } else {
            u64::from_le_bytes(word(bytes, 8))
        };
        let is_pe = bytes.starts_with(b"MZ");
        let pe_offset = is_pe.then(|| u32::from_le_bytes(word(bytes, 60)));
        Ok(Self {
            text_offset,
            image_size,
            pe_offset,
        })
    }

    /// Where an Image of `length` bytes goes: text_offset above the lowest multiple of 2 MiB in the first bank that has
    /// room for it and its zero-initialised data.
    pub(super) fn extent(&self, ram: &GuestRam, length: u64) -> Result<IpaRange, ImageError> {
        let size = self.image_size.max(length);
        let mut refused = IpaRange::new(self.text_offset, size);
        for bank in ram.each_bank() {
            let start = bank.start.0.checked_next_multiple_of(KERNEL_ALIGNMENT);
            let Some(start) = start.and_then(|base| base.checked_add(self.text_offset)) else {
                continue;
            };
            let extent = IpaRange::new(start, size);
            if extent.fits() && bank.contains(extent) {
                return Ok(extent);
            }
            refused = extent;
        }
        Err(ImageError::DoesNotFit(refused))
    }
}

/// Whether the module holds all that the kernel's own section table (PE/COFF) says is in the file: without it a truncated
/// kernel looks like one with more zero-initialised data.
pub(super) fn check_complete<M: PhysicalMemory>(source: &Source<'_, M>, header: &Header) -> Result<(), ImageError> {
    let Some(pe) = header.pe_offset.map(u64::from) else {
        return Ok(());
    };
    let mut coff = [0; 24];
    source.read(pe, &mut coff)?;
    if !coff.starts_with(b"PE\0\0") {
        // "MZ" is also an instruction that has no effect; only the signature makes it a PE file.
        return Ok(());
    }
    let [_, _, _, _, _, _, s0, s1, _, _, _, _, _, _, _, _, _, _, _, _, o0, o1, ..] = coff;
    let sections = u16::from_le_bytes([s0, s1]).min(MAX_SECTIONS);
    let table = pe + coff.len() as u64 + u64::from(u16::from_le_bytes([o0, o1]));
    for index in 0..u64::from(sections) {
        let mut fields = [0; 8];
        // SizeOfRawData and PointerToRawData.
        source.read(table + index * SECTION_SIZE + 16, &mut fields)?;
        let [a, b, c, d, e, f, g, h] = fields;
        let needed = u64::from(u32::from_le_bytes([a, b, c, d])) + u64::from(u32::from_le_bytes([e, f, g, h]));
        if needed > source.module.size {
            return Err(ImageError::Truncated {
                needed,
                length: source.module.size,
            });
        }
    }
    Ok(())
}
