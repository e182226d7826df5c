//! Guest kernels: an arm64 Image, a gzip-compressed one, or an ELF file, from a boot module into a domain's RAM.
//!
//! Guarantees: an image that is truncated, corrupt, for another machine or too big is refused with the value that is
//! wrong; whatever it contains, nothing is read outside the module or written outside the domain's RAM.

mod arm64;
mod elf;
mod gzip;

use alloc::vec::Vec;

use crate::domain::ram::{GuestRam, OutsideRam};
use crate::ids::Ipa;
use crate::manifest::range::{IpaRange, PaRange};
use crate::memory::PhysicalMemory;

/// Bytes copied or decompressed at once.
const CHUNK: usize = 64 << 10;
/// Kernels are placed at multiples of this (Linux, Documentation/arch/arm64/booting.rst).
const KERNEL_ALIGNMENT: u64 = 2 << 20;

/// Why an image can't be started.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ImageError {
    /// The module ends before something that it must contain.
    #[error("truncated: {needed:#x} bytes are needed, the module has {length:#x}")]
    Truncated {
        /// Bytes that it would have to have.
        needed: u64,
        /// Bytes that it has.
        length: u64,
    },
    /// Neither Image nor gzip nor ELF; the first four bytes.
    #[error("no arm64 Image, gzip or ELF file: it begins with {0:#010x}")]
    UnknownFormat(u32),
    /// What was decompressed is no arm64 Image; the word where its magic number should be.
    #[error("the compressed file is no arm64 Image: {0:#010x} stands for its magic number")]
    NotAnImage(u32),
    /// An Image for big-endian CPUs; its flags.
    #[error("a big-endian kernel (flags {0:#x})")]
    BigEndian(u64),
    /// The domain's RAM has no room where the image must be.
    #[error("{0} does not fit into the domain's RAM")]
    DoesNotFit(IpaRange),
    /// A gzip method other than deflate.
    #[error("gzip method {0}")]
    GzipMethod(u8),
    /// Reserved gzip flags are set.
    #[error("gzip flags {0:#x}")]
    GzipFlags(u8),
    /// The compressed data are corrupt, found after this many bytes of output.
    #[error("corrupt compressed data after {0:#x} bytes")]
    Corrupt(u64),
    /// The checksum of the decompressed data is wrong.
    #[error("the decompressed data have CRC-32 {found:#010x}, the file says {expected:#010x}")]
    Checksum {
        /// What the file says.
        expected: u32,
        /// What it is.
        found: u32,
    },
    /// The length of the decompressed data is wrong (modulo 2^32).
    #[error("{found:#x} bytes were decompressed, the file says {expected:#x}")]
    Length {
        /// What the file says.
        expected: u32,
        /// What it is.
        found: u32,
    },
    /// The ELF file's header is malformed.
    #[error("malformed ELF header")]
    ElfHeader,
    /// Not a 64-bit little-endian ELF file; its class and encoding.
    #[error("ELF class {0}, encoding {1}")]
    ElfClass(u8, u8),
    /// For another architecture (e_machine).
    #[error("ELF machine {0}")]
    ElfMachine(u16),
    /// Not an executable (e_type).
    #[error("ELF type {0}")]
    ElfType(u16),
    /// More program headers than any kernel has, or none.
    #[error("{0} ELF program headers")]
    ElfSegments(u16),
    /// A segment of this number says that it is larger in the file than in memory, or overflows.
    #[error("ELF segment {0} is malformed")]
    ElfSegment(u16),
    /// The entry point is in no segment.
    #[error("ELF entry point {0:#x} is in no segment")]
    ElfEntry(u64),
}

impl From<OutsideRam> for ImageError {
    fn from(OutsideRam(range): OutsideRam) -> Self {
        Self::DoesNotFit(range)
    }
}

/// An image in a domain's RAM.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct LoadedImage {
    /// The first instruction.
    pub entry: Ipa,
    /// All that it needs, zero-initialised data included: nothing else may be placed here.
    pub extent: IpaRange,
}

/// Puts the image in `module` into `ram`, whose other bytes are zero, at the lowest place that it accepts.
///
/// # Errors
/// An [`ImageError`]; what was written so far stays.
pub fn load(memory: &impl PhysicalMemory, module: PaRange, ram: &GuestRam) -> Result<LoadedImage, ImageError> {
    let source = Source { memory, module };
    let mut magic = [0; 4];
    source.read(0, &mut magic)?;
    match magic {
        [0x1f, 0x8b, ..] => load_compressed(&source, ram),
        [0x7f, b'E', b'L', b'F'] => elf::load(&source, ram),
        _ => load_plain(&source, ram),
    }
}

/// Copies a whole module to `to`, as it is.
///
/// # Errors
/// [`ImageError::DoesNotFit`] when the domain has no RAM there.
pub fn copy(memory: &impl PhysicalMemory, module: PaRange, ram: &GuestRam, to: Ipa) -> Result<(), ImageError> {
    ram.spans(IpaRange::new(to.0, module.size))?;
    let source = Source { memory, module };
    source.copy(0, module.size, |offset, chunk| {
        ram.write(memory, Ipa(to.0 + offset), chunk)
    })
}

fn load_plain<M: PhysicalMemory>(source: &Source<'_, M>, ram: &GuestRam) -> Result<LoadedImage, ImageError> {
    let mut bytes = [0; arm64::HEADER_SIZE];
    let header = match source.read(0, &mut bytes) {
        Ok(()) => arm64::Header::parse(&bytes),
        Err(error) => return Err(error),
    };
    let header = match header {
        Err(ImageError::NotAnImage(_)) => {
            let [a, b, c, d, ..] = bytes;
            return Err(ImageError::UnknownFormat(u32::from_le_bytes([a, b, c, d])));
        }
        other => other?,
    };
    arm64::check_complete(source, &header)?;
    let length = source.module.size;
    let extent = header.extent(ram, length)?;
    source.copy(0, length, |offset, chunk| {
        ram.write(source.memory, Ipa(extent.start.0 + offset), chunk)
    })?;
    Ok(LoadedImage {
        entry: extent.start,
        extent,
    })
}

fn load_compressed<M: PhysicalMemory>(source: &Source<'_, M>, ram: &GuestRam) -> Result<LoadedImage, ImageError> {
    let mut start = Vec::with_capacity(arm64::HEADER_SIZE);
    let mut placed: Option<(arm64::Header, IpaRange)> = None;
    let length = gzip::decompress(source, |offset, bytes| {
        let mut chunk = bytes;
        let mut at = offset;
        let extent = match &placed {
            Some((_, extent)) => *extent,
            None => {
                // The header comes first and says where all of it goes.
                let missing = arm64::HEADER_SIZE.saturating_sub(start.len());
                let (head, tail) = chunk.split_at_checked(missing).unwrap_or((chunk, &[]));
                start.extend_from_slice(head);
                chunk = tail;
                at += head.len() as u64;
                let Ok(header_bytes) = <&[u8; arm64::HEADER_SIZE]>::try_from(start.as_slice()) else {
                    return Ok(());
                };
                let header = arm64::Header::parse(header_bytes)?;
                let extent = header.extent(ram, arm64::HEADER_SIZE as u64)?;
                ram.write(source.memory, extent.start, header_bytes)?;
                placed = Some((header, extent));
                extent
            }
        };
        let to = extent.start.checked_add(at).ok_or(ImageError::DoesNotFit(extent))?;
        Ok(ram.write(source.memory, to, chunk)?)
    })?;
    let Some((header, _)) = placed else {
        return Err(ImageError::Truncated {
            needed: arm64::HEADER_SIZE as u64,
            length,
        });
    };
    let extent = header.extent(ram, length)?;
    Ok(LoadedImage {
        entry: extent.start,
        extent,
    })
}

/// A boot module, read with bounds.
struct Source<'a, M> {
    memory: &'a M,
    module: PaRange,
}

impl<M: PhysicalMemory> Source<'_, M> {
    /// Fills `into` from `offset`.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), ImageError> {
        let length = self.module.size;
        let needed = offset.saturating_add(into.len() as u64);
        if needed > length {
            return Err(ImageError::Truncated { needed, length });
        }
        self.memory.read(crate::ids::Pa(self.module.start.0 + offset), into);
        Ok(())
    }

    /// Hands `length` bytes from `offset` to `to` in chunks, each with its distance from `offset`.
    fn copy(
        &self,
        offset: u64,
        length: u64,
        mut to: impl FnMut(u64, &[u8]) -> Result<(), OutsideRam>,
    ) -> Result<(), ImageError> {
        let mut buffer = alloc::vec![0; CHUNK.min(length as usize)];
        let mut done = 0;
        while done < length {
            let count = buffer.len().min((length - done) as usize);
            let Some(chunk) = buffer.get_mut(..count) else { break };
            self.read(offset.saturating_add(done), chunk)?;
            to(done, chunk)?;
            done += count as u64;
        }
        Ok(())
    }
}
