//! Guest kernels: an arm64 Image, a gzip-compressed one, or an ELF file, from a boot module into a domain's RAM.
//!
//! Guarantees: an image that is truncated, corrupt, for another machine or too big is refused with the value that is
//! wrong; whatever it contains, nothing is read outside the module or written outside the domain's RAM, and no step does
//! more than its budget allows. Once an image was loaded, loading it again allocates nothing.

mod arm64;
mod elf;
mod gzip;

use crate::domain::imaging::{Budget, Cost, Transfer};
use crate::domain::ram::{GuestRam, OutsideRam};
use crate::ids::Ipa;
use crate::memory::PhysicalMemory;
use crate::range::{IpaRange, PaRange};

use elf::Executable;
use gzip::{Decompression, Inflater};

/// Bytes of headers and tables that finding an image's place reads at most: those of an ELF file.
const HEADERS: u64 = 8 << 10;
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
    /// The module is not what it was when the domain was built.
    #[error("the module has changed")]
    Changed,
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
    let mut loader = Loader::new(module);
    loop {
        if let Some(image) = loader.step(memory, ram, &mut Budget::unlimited())? {
            return Ok(image);
        }
    }
}

/// The file formats.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Format {
    Plain,
    Compressed,
    Executable,
}

/// Puts one module's image into RAM, step by step, as often as it is asked to.
#[derive(Debug)]
pub struct Loader {
    module: PaRange,
    state: State,
    /// What the module was the first time.
    format: Option<Format>,
    /// Working memory that outlives an image's loading, so that the next one needs none.
    inflater: Option<Inflater>,
}

#[derive(Debug)]
enum State {
    Start,
    Plain { extent: IpaRange, transfer: Transfer },
    Compressed(Decompression),
    Executable(Executable),
    Done(LoadedImage),
}

impl Loader {
    /// Of the image in `module`.
    pub const fn new(module: PaRange) -> Self {
        Self {
            module,
            state: State::Start,
            format: None,
            inflater: None,
        }
    }

    /// The next [`Self::step`] is the first again.
    pub fn begin(&mut self) {
        self.state = State::Start;
    }

    /// Goes on as far as `budget` allows. `ram` is zero where nothing was loaded yet.
    ///
    /// # Errors
    /// An [`ImageError`]; what was written so far stays. [`ImageError::Changed`] when the format is not the one of the first
    /// time.
    pub fn step(
        &mut self,
        memory: &impl PhysicalMemory,
        ram: &GuestRam,
        budget: &mut Budget,
    ) -> Result<Option<LoadedImage>, ImageError> {
        let source = Source {
            memory,
            module: self.module,
        };
        if matches!(self.state, State::Start) {
            if budget.take(HEADERS, Cost::Single) < HEADERS {
                return Ok(None);
            }
            self.state = self.start(&source, ram)?;
        }
        let done = match &mut self.state {
            State::Start => None,
            State::Plain { extent, transfer } => transfer.step(memory, ram, budget)?.then_some(LoadedImage {
                entry: extent.start,
                extent: *extent,
            }),
            State::Compressed(decompression) => {
                let inflater = self.inflater.as_mut().ok_or(ImageError::Changed)?;
                decompression.step(inflater, &source, ram, budget)?
            }
            State::Executable(executable) => executable.step(&source, ram, budget)?,
            State::Done(image) => Some(*image),
        };
        if let Some(image) = done {
            self.state = State::Done(image);
        }
        Ok(done)
    }

    fn start<M: PhysicalMemory>(&mut self, source: &Source<'_, M>, ram: &GuestRam) -> Result<State, ImageError> {
        let mut magic = [0; 4];
        source.read(0, &mut magic)?;
        let format = match magic {
            [0x1f, 0x8b, ..] => Format::Compressed,
            [0x7f, b'E', b'L', b'F'] => Format::Executable,
            _ => Format::Plain,
        };
        if *self.format.get_or_insert(format) != format {
            return Err(ImageError::Changed);
        }
        match format {
            Format::Plain => start_plain(source, ram),
            Format::Compressed => {
                let decompression = Decompression::start(source)?;
                self.inflater.get_or_insert_with(Inflater::new).reset();
                Ok(State::Compressed(decompression))
            }
            Format::Executable => Executable::start(source, ram).map(State::Executable),
        }
    }
}

fn start_plain<M: PhysicalMemory>(source: &Source<'_, M>, ram: &GuestRam) -> Result<State, ImageError> {
    let mut bytes = [0; arm64::HEADER_SIZE];
    source.read(0, &mut bytes)?;
    let header = match arm64::Header::parse(&bytes) {
        Err(ImageError::NotAnImage(_)) => {
            let [a, b, c, d, ..] = bytes;
            return Err(ImageError::UnknownFormat(u32::from_le_bytes([a, b, c, d])));
        }
        other => other?,
    };
    arm64::check_complete(source, &header)?;
    let extent = header.extent(ram, source.module.size)?;
    Ok(State::Plain {
        extent,
        transfer: Transfer::new(ram, source.module, extent.start)?,
    })
}

/// A boot module, read with bounds.
struct Source<'a, M> {
    memory: &'a M,
    module: PaRange,
}

impl<M: PhysicalMemory> Source<'_, M> {
    /// Sees that `length` bytes from `offset` are in the module.
    fn part(&self, offset: u64, length: u64) -> Result<PaRange, ImageError> {
        let needed = offset.saturating_add(length);
        if needed > self.module.size {
            return Err(ImageError::Truncated {
                needed,
                length: self.module.size,
            });
        }
        Ok(PaRange::new(self.module.start.0 + offset, length))
    }

    /// Fills `into` from `offset`.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), ImageError> {
        let part = self.part(offset, into.len() as u64)?;
        self.memory.read(part.start, into);
        Ok(())
    }
}
