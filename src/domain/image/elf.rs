//! ELF executables for AArch64 (ELF for the Arm 64-bit Architecture; System V ABI, chapter 5).

use elf::abi::{EM_AARCH64, ET_DYN, ET_EXEC, PT_LOAD};
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader};
use elf::parse::ParseAt as _;
use elf::segment::ProgramHeader;

use super::{ImageError, KERNEL_ALIGNMENT, LoadedImage, Source};
use crate::domain::imaging::{Budget, Cost, Transfer};
use crate::domain::ram::GuestRam;
use crate::ids::Ipa;
use crate::memory::PhysicalMemory;
use crate::range::IpaRange;

const IDENT_SIZE: usize = 16;
const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: u16 = 56;
/// More segments than any kernel or bare-metal program has.
const MAX_SEGMENTS: u16 = 128;
/// EI_CLASS and EI_DATA of a 64-bit little-endian file.
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;

/// An executable that goes to its physical addresses, or a position-independent one at the lowest multiple of 2 MiB that
/// has room.
#[derive(Debug)]
pub(super) struct Executable {
    image: LoadedImage,
    /// The physical address that goes to the start of the extent.
    low: u64,
    table: Table,
    /// The segment that comes next.
    next: u16,
    transfer: Option<Transfer>,
}

impl Executable {
    /// Finds its place.
    pub(super) fn start<M: PhysicalMemory>(source: &Source<'_, M>, ram: &GuestRam) -> Result<Self, ImageError> {
        let header = file_header(source)?;
        let table = Table {
            offset: header.e_phoff,
            count: header.e_phnum,
        };
        source.part(table.offset, u64::from(table.count) * PROGRAM_HEADER_SIZE as u64)?;
        let mut bounds: Option<(u64, u64)> = None;
        let mut entry = None;
        for number in 0..table.count {
            let segment = table.segment(source, number)?;
            if !is_loadable(&segment) {
                continue;
            }
            let end = segment
                .p_paddr
                .checked_add(segment.p_memsz)
                .ok_or(ImageError::ElfSegment(number))?;
            if segment.p_filesz > segment.p_memsz {
                return Err(ImageError::ElfSegment(number));
            }
            let (low, high) = bounds.unwrap_or((segment.p_paddr, end));
            bounds = Some((low.min(segment.p_paddr), high.max(end)));
            entry = entry.or_else(|| physical_entry(&segment, header.e_entry));
        }
        let (low, high) = bounds.ok_or(ImageError::ElfSegments(header.e_phnum))?;
        let entry = entry.ok_or(ImageError::ElfEntry(header.e_entry))?;
        let extent = if header.e_type == ET_DYN {
            place(ram, high - low)?
        } else {
            let extent = IpaRange::new(low, high - low);
            ram.check(extent)?;
            extent
        };
        Ok(Self {
            image: LoadedImage {
                entry: Ipa(extent.start.0 + (entry - low)),
                extent,
            },
            low,
            table,
            next: 0,
            transfer: None,
        })
    }

    /// Loads its segments; the image when all are.
    pub(super) fn step<M: PhysicalMemory>(
        &mut self,
        source: &Source<'_, M>,
        ram: &GuestRam,
        budget: &mut Budget,
    ) -> Result<Option<LoadedImage>, ImageError> {
        loop {
            if let Some(transfer) = &mut self.transfer {
                if !transfer.step(source.memory, ram, budget)? {
                    return Ok(None);
                }
                self.transfer = None;
            }
            if self.next >= self.table.count {
                return Ok(Some(self.image));
            }
            if budget.take(PROGRAM_HEADER_SIZE as u64, Cost::Single) < PROGRAM_HEADER_SIZE as u64 {
                return Ok(None);
            }
            let segment = self.table.segment(source, self.next)?;
            if is_loadable(&segment) {
                let from = source.part(segment.p_offset, segment.p_filesz)?;
                let to = segment.p_paddr.checked_sub(self.low);
                let to = to.and_then(|offset| self.image.extent.start.0.checked_add(offset));
                // It was in bounds when the place was found.
                let to = to.ok_or(ImageError::Changed)?;
                self.transfer = Some(Transfer::new(ram, from, Ipa(to))?);
            }
            self.next += 1;
        }
    }
}

/// The program headers in the file.
#[derive(Copy, Clone, Debug)]
struct Table {
    offset: u64,
    count: u16,
}

impl Table {
    fn segment<M: PhysicalMemory>(self, source: &Source<'_, M>, number: u16) -> Result<ProgramHeader, ImageError> {
        let mut bytes = [0; PROGRAM_HEADER_SIZE as usize];
        let offset = u64::from(number) * bytes.len() as u64;
        source.read(self.offset.saturating_add(offset), &mut bytes)?;
        ProgramHeader::parse_at(LittleEndian, Class::ELF64, &mut 0, &bytes).map_err(|_| ImageError::ElfHeader)
    }
}

fn is_loadable(segment: &ProgramHeader) -> bool {
    segment.p_type == PT_LOAD && segment.p_memsz > 0
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
fn physical_entry(segment: &ProgramHeader, entry: u64) -> Option<u64> {
    let offset = entry.checked_sub(segment.p_vaddr)?;
    if offset < segment.p_memsz {
        segment.p_paddr.checked_add(offset)
    } else {
        None
    }
}

fn place(ram: &GuestRam, size: u64) -> Result<IpaRange, ImageError> {
    let mut refused = IpaRange::new(0, size);
    for bank in ram.each_bank() {
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
