//! gzip (RFC 1952), decompressed in a window of bounded size, by bounded steps.

use alloc::boxed::Box;
use core::fmt;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress_with_limit as inflate};

use super::arm64::{HEADER_SIZE, Header};
use super::{ImageError, LoadedImage, Source};
use crate::domain::imaging::{Budget, Cost};
use crate::domain::ram::GuestRam;
use crate::memory::PhysicalMemory;
use crate::range::IpaRange;

/// As far back as compressed data refer (RFC 1951, 2).
const WINDOW: usize = 32 << 10;
/// Bytes of the file that are decompressed at once.
const INPUT: usize = 1 << 10;
const DEFLATE: u8 = 8;
const FLAG_HEADER_CRC: u8 = 1 << 1;
const FLAG_EXTRA: u8 = 1 << 2;
const FLAG_NAME: u8 = 1 << 3;
const FLAG_COMMENT: u8 = 1 << 4;
const FLAGS_RESERVED: u8 = 0b1110_0000;

/// CRC-32 of each byte (polynomial 0x04c11db7, reflected).
static CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn update_crc(crc: u32, bytes: &[u8]) -> u32 {
    let update = |crc: u32, byte: &u8| {
        let index = usize::from(crc as u8 ^ byte);
        crc >> 8 ^ CRC_TABLE.get(index).copied().unwrap_or(0)
    };
    !bytes.iter().fold(!crc, update)
}

/// Working memory of a decompression; it does not depend on the file.
pub(super) struct Inflater {
    state: Box<DecompressorOxide>,
    /// The output, and what later output refers back to.
    window: Box<[u8]>,
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

impl Inflater {
    /// 43 KiB of the heap.
    pub(super) fn new() -> Self {
        Self {
            state: Box::default(),
            window: alloc::vec![0; WINDOW].into_boxed_slice(),
        }
    }

    /// Makes it ready for another file.
    pub(super) fn reset(&mut self) {
        self.state.init();
    }
}

/// Decompresses the first member of a module into RAM.
#[derive(Debug)]
pub(super) struct Decompression {
    /// The next byte of the module.
    position: u64,
    part: Part,
    crc: u32,
    produced: u64,
    /// The Image's header, as far as it has come, and where it says that all of it goes.
    head: [u8; HEADER_SIZE],
    placed: Option<(Header, IpaRange)>,
}

/// What comes next in the file.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Part {
    /// The optional texts of the header that these flags announce.
    Texts(u8),
    Data,
    Trailer,
}

impl Decompression {
    /// Reads the header as far as its length is fixed.
    pub(super) fn start<M: PhysicalMemory>(source: &Source<'_, M>) -> Result<Self, ImageError> {
        let mut header = [0; 10];
        source.read(0, &mut header)?;
        let [_, _, method, flags, ..] = header;
        if method != DEFLATE {
            return Err(ImageError::GzipMethod(method));
        }
        if flags & FLAGS_RESERVED != 0 {
            return Err(ImageError::GzipFlags(flags));
        }
        let mut position = header.len() as u64;
        if flags & FLAG_EXTRA != 0 {
            let mut size = [0; 2];
            source.read(position, &mut size)?;
            position += 2 + u64::from(u16::from_le_bytes(size));
        }
        Ok(Self {
            position,
            part: Part::Texts(flags),
            crc: 0,
            produced: 0,
            head: [0; HEADER_SIZE],
            placed: None,
        })
    }

    /// Goes on; the image when all of it is in RAM and its checksum is right.
    pub(super) fn step<M: PhysicalMemory>(
        &mut self,
        inflater: &mut Inflater,
        source: &Source<'_, M>,
        ram: &GuestRam,
        budget: &mut Budget,
    ) -> Result<Option<LoadedImage>, ImageError> {
        loop {
            let done = match self.part {
                Part::Texts(flags) => self.skip_text(flags, source, budget)?,
                Part::Data => self.inflate(inflater, source, ram, budget)?,
                Part::Trailer => return self.finish(source, ram).map(Some),
            };
            if !done {
                return Ok(None);
            }
        }
    }

    /// Skips texts, each of which ends with a zero byte; whether the data come next.
    fn skip_text<M: PhysicalMemory>(
        &mut self,
        flags: u8,
        source: &Source<'_, M>,
        budget: &mut Budget,
    ) -> Result<bool, ImageError> {
        for text in [FLAG_NAME, FLAG_COMMENT] {
            if flags & text == 0 {
                continue;
            }
            loop {
                if budget.take(1, Cost::Deflated) == 0 {
                    return Ok(false);
                }
                let mut byte = [0];
                source.read(self.position, &mut byte)?;
                self.position += 1;
                if byte == [0] {
                    self.part = Part::Texts(flags & !text);
                    return Ok(true);
                }
            }
        }
        if flags & FLAG_HEADER_CRC != 0 {
            self.position += 2;
        }
        // At least one byte of data follows.
        source.part(self.position, 1)?;
        self.part = Part::Data;
        Ok(true)
    }

    /// Decompresses some bytes; whether there is budget for more, or the data have ended.
    fn inflate<M: PhysicalMemory>(
        &mut self,
        inflater: &mut Inflater,
        source: &Source<'_, M>,
        ram: &GuestRam,
        budget: &mut Budget,
    ) -> Result<bool, ImageError> {
        let length = source.module.size;
        let mut buffer = [0; INPUT];
        let available = length.saturating_sub(self.position).min(INPUT as u64);
        let count = available.min(budget.affordable(Cost::Deflated));
        let limit = budget.affordable(Cost::Inflated).min(WINDOW as u64);
        if limit == 0 || (count == 0 && available > 0) {
            return Ok(false);
        }
        let input = buffer.get_mut(..count as usize).unwrap_or_default();
        source.read(self.position, input)?;
        let more = if self.position + count < length {
            TINFL_FLAG_HAS_MORE_INPUT
        } else {
            0
        };
        // The window wraps: it is a power of two of at least 32 KiB.
        let at = self.produced as usize % WINDOW;
        let Inflater { state, window } = inflater;
        let (status, used, made) = inflate(state, input, window, at, limit as usize, more);
        budget.pay(used as u64, Cost::Deflated);
        budget.pay(made as u64, Cost::Inflated);
        self.position += used as u64;
        let output = window.get(at..at + made).unwrap_or_default();
        self.crc = update_crc(self.crc, output);
        self.write(source, ram, output)?;
        match status {
            TINFLStatus::Done => {
                self.part = Part::Trailer;
                Ok(true)
            }
            TINFLStatus::HasMoreOutput | TINFLStatus::NeedsMoreInput if used == 0 && made == 0 => {
                // It neither ends nor moves: no file may keep others from going on.
                Err(ImageError::Corrupt(self.produced))
            }
            TINFLStatus::HasMoreOutput => Ok(true),
            TINFLStatus::NeedsMoreInput if self.position < length => Ok(true),
            TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => Err(ImageError::Truncated {
                needed: length.saturating_add(1),
                length,
            }),
            _ => Err(ImageError::Corrupt(self.produced)),
        }
    }

    /// Puts `output` where it belongs.
    fn write<M: PhysicalMemory>(
        &mut self,
        source: &Source<'_, M>,
        ram: &GuestRam,
        output: &[u8],
    ) -> Result<(), ImageError> {
        let mut at = self.produced;
        self.produced += output.len() as u64;
        let mut rest = output;
        let extent = match &self.placed {
            Some((_, extent)) => *extent,
            None => {
                // The header comes first and says where all of it goes.
                let missing = self.head.get_mut(at as usize..).unwrap_or_default();
                let (now, later) = rest.split_at_checked(missing.len()).unwrap_or((rest, &[]));
                if let Some(room) = missing.get_mut(..now.len()) {
                    room.copy_from_slice(now);
                }
                at += now.len() as u64;
                rest = later;
                if at < HEADER_SIZE as u64 {
                    return Ok(());
                }
                let header = Header::parse(&self.head)?;
                let extent = header.extent(ram, HEADER_SIZE as u64)?;
                ram.write(source.memory, extent.start, &self.head)?;
                self.placed = Some((header, extent));
                extent
            }
        };
        let to = extent.start.checked_add(at).ok_or(ImageError::DoesNotFit(extent))?;
        Ok(ram.write(source.memory, to, rest)?)
    }

    fn finish<M: PhysicalMemory>(&self, source: &Source<'_, M>, ram: &GuestRam) -> Result<LoadedImage, ImageError> {
        let mut trailer = [0; 8];
        source.read(self.position, &mut trailer)?;
        let [a, b, c, d, e, f, g, h] = trailer;
        let expected = u32::from_le_bytes([a, b, c, d]);
        if expected != self.crc {
            return Err(ImageError::Checksum {
                expected,
                found: self.crc,
            });
        }
        let (expected, found) = (u32::from_le_bytes([e, f, g, h]), self.produced as u32);
        if expected != found {
            return Err(ImageError::Length { expected, found });
        }
        let Some((header, _)) = &self.placed else {
            return Err(ImageError::Truncated {
                needed: HEADER_SIZE as u64,
                length: self.produced,
            });
        };
        let extent = header.extent(ram, self.produced)?;
        Ok(LoadedImage {
            entry: extent.start,
            extent,
        })
    }
}
