//! ELF executables for AArch64 (ELF for the Arm 64-bit Architecture; System V ABI, chapter 5).

use elf::abi::{EM_AARCH64, ET_DYN, ET_EXEC, PT_LOAD};
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader};
use elf::segment::{ProgramHeader, SegmentTable};

use super::{ImageError, KERNEL_ALIGNMENT, LoadedImage, Source};
use crate::domain::ram::GuestRam;
use crate::ids::Ipa;
use crate::manifest::range::IpaRange;
use crate::memory::PhysicalMemory;

const IDENT_SIZE: usize = 16;
const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: u16 = 56;
/// More segments than any kernel or bare-metal program has.
const MAX_SEGMENTS: u16 = 128;
/// EI_CLASS and EI_DATA of a 64-bit little-endian file.
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;

/// Loads an executable at its physical addresses, or a position-independent one at the lowest multiple of 2 MiB that has
/// room.
pub(super) fn load<M: PhysicalMemory>(source: &Source<'_, M>, ram: &GuestRam) -> Result<LoadedImage, ImageError> {
    let header = file_header(source)?;
    let mut table = alloc::vec![0; usize::from(header.e_phnum) * usize::from(PROGRAM_HEADER_SIZE)];
    source.read(header.e_phoff, &mut table)?;
    let segments = SegmentTable::new(LittleEndian, Class::ELF64, &table);

    let loadable = || {
        segments
            .iter()
            .zip(0u16..)
            .filter(|(segment, _)| segment.p_type == PT_LOAD && segment.p_memsz > 0)
    };
    let mut bounds: Option<(u64, u64)> = None;
    for (segment, number) in loadable() {
        let end = segment
            .p_paddr
            .checked_add(segment.p_memsz)
            .ok_or(ImageError::ElfSegment(number))?;
        if segment.p_filesz > segment.p_memsz {
            return Err(ImageError::ElfSegment(number));
        }
        let (low, high) = bounds.unwrap_or((segment.p_paddr, end));
        bounds = Some((low.min(segment.p_paddr), high.max(end)));
    }
    let (low, high) = bounds.ok_or(ImageError::ElfSegments(header.e_phnum))?;
    let entry = physical_entry(loadable().map(|(segment, _)| segment), header.e_entry)?;

    let extent = if header.e_type == ET_DYN {
        place(ram, high - low)?
    } else {
        let extent = IpaRange::new(low, high - low);
        ram.spans(extent)?;
        extent
    };
    for (segment, _) in loadable() {
        let to = extent.start.0 + (segment.p_paddr - low);
        source.copy(segment.p_offset, segment.p_filesz, |offset, chunk| {
            ram.write(source.memory, Ipa(to + offset), chunk)
        })?;
    }
    Ok(LoadedImage {
        entry: Ipa(extent.start.0 + (entry - low)),
        extent,
    })
}

fn file_header<M: PhysicalMemory>(source: &Source<'_, M>) -> Result<FileHeader<LittleEndian>, ImageError> {
    let mut bytes = [0; HEADER_SIZE];
    source.read(0, &mut bytes)?;
    let [_, _, _, _, class, encoding, ..] = bytes;
    if (class, encoding) != (CLASS_64, LITTLE_ENDIAN) {
        return Err(ImageError::ElfClass(class, encoding));
    }
    let (ident, tail) = bytes.split_at(IDENT_SIZE);
    let ident = elf::file::parse_ident::<LittleEndian>(ident).map_err(|_| ImageError::ElfHeader)?;
    let header = FileHeader::parse_tail(ident, tail).map_err(|_| ImageError::ElfHeader)?;
    if header.e_machine != EM_AARCH64 {
        return Err(ImageError::ElfMachine(header.e_machine));
    }
    if header.e_type != ET_EXEC && header.e_type != ET_DYN {
        return Err(ImageError::ElfType(header.e_type));
    }
    if header.e_phnum == 0 || header.e_phnum > MAX_SEGMENTS {
        return Err(ImageError::ElfSegments(header.e_phnum));
    }
    if header.e_phentsize != PROGRAM_HEADER_SIZE {
        return Err(ImageError::ElfHeader);
    }
    Ok(header)
}

/// The entry point, which is a virtual address, as a physical one.
fn physical_entry(mut segments: impl Iterator<Item = ProgramHeader>, entry: u64) -> Result<u64, ImageError> {
    segments
        .find_map(|segment| {
            let offset = entry.checked_sub(segment.p_vaddr)?;
            (offset < segment.p_memsz).then_some(segment.p_paddr.checked_add(offset)?)
        })
        .ok_or(ImageError::ElfEntry(entry))
}

fn place(ram: &GuestRam, size: u64) -> Result<IpaRange, ImageError> {
    let mut refused = IpaRange::new(0, size);
    for bank in ram.banks() {
        let Some(start) = bank.start.0.checked_next_multiple_of(KERNEL_ALIGNMENT) else {
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
