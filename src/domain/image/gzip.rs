//! gzip (RFC 1952), decompressed in a window of bounded size.

use alloc::boxed::Box;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress as inflate};

use super::{CHUNK, ImageError, Source};
use crate::memory::PhysicalMemory;

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

/// Decompresses the first member of the module and hands the output to `to` in order, each piece with its offset; how
/// many bytes that were. Memory used does not depend on the file.
pub(super) fn decompress<M: PhysicalMemory>(
    source: &Source<'_, M>,
    mut to: impl FnMut(u64, &[u8]) -> Result<(), ImageError>,
) -> Result<u64, ImageError> {
    let length = source.module.size;
    let mut position = data_start(source)?;
    let mut state = Box::<DecompressorOxide>::default();
    // The output buffer is the window as well: it wraps, so it is a power of two and at least 32 KiB.
    let mut window = alloc::vec![0; CHUNK];
    let mut input = alloc::vec![0; CHUNK];
    let (mut crc, mut produced) = (0, 0u64);
    loop {
        let count = input.len().min((length - position) as usize);
        let Some(bytes) = input.get_mut(..count) else { break };
        source.read(position, bytes)?;
        let more = if position + (count as u64) < length {
            TINFL_FLAG_HAS_MORE_INPUT
        } else {
            0
        };
        let mut bytes = &*bytes;
        let status = loop {
            let at = produced as usize % window.len();
            let (status, used, made) = inflate(&mut state, bytes, &mut window, at, more);
            bytes = bytes.get(used..).unwrap_or_default();
            position += used as u64;
            let output = window.get(at..at + made).unwrap_or_default();
            crc = update_crc(crc, output);
            to(produced, output)?;
            produced += made as u64;
            if used == 0 && made == 0 && (status as i32) > 0 {
                // It neither ends nor moves: no file may keep the boot from going on.
                return Err(ImageError::Corrupt(produced));
            }
            if status != TINFLStatus::HasMoreOutput {
                break status;
            }
        };
        match status {
            TINFLStatus::Done => break,
            TINFLStatus::NeedsMoreInput if position < length => {}
            TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => {
                return Err(ImageError::Truncated {
                    needed: length.saturating_add(1),
                    length,
                });
            }
            _ => return Err(ImageError::Corrupt(produced)),
        }
    }
    let mut trailer = [0; 8];
    source.read(position, &mut trailer)?;
    let [a, b, c, d, e, f, g, h] = trailer;
    let expected = u32::from_le_bytes([a, b, c, d]);
    if expected != crc {
        return Err(ImageError::Checksum { expected, found: crc });
    }
    let (expected, found) = (u32::from_le_bytes([e, f, g, h]), produced as u32);
    if expected != found {
        return Err(ImageError::Length { expected, found });
    }
    Ok(produced)
}

/// Where the compressed data begin.
fn data_start<M: PhysicalMemory>(source: &Source<'_, M>) -> Result<u64, ImageError> {
    let mut header = [0; 10];
    source.read(0, &mut header)?;
    let [_, _, method, flags, ..] = header;
    if method != DEFLATE {
        return Err(ImageError::GzipMethod(method));
    }
    if flags & FLAGS_RESERVED != 0 {
        return Err(ImageError::GzipFlags(flags));
    }
    let mut at = header.len() as u64;
    if flags & FLAG_EXTRA != 0 {
        let mut size = [0; 2];
        source.read(at, &mut size)?;
        at += 2 + u64::from(u16::from_le_bytes(size));
    }
    for text in [FLAG_NAME, FLAG_COMMENT] {
        if flags & text != 0 {
            at = after_text(source, at)?;
        }
    }
    if flags & FLAG_HEADER_CRC != 0 {
        at += 2;
    }
    // At least one byte of data follows.
    source.read(at, &mut [0])?;
    Ok(at)
}

/// The offset after a text that ends with a zero byte.
fn after_text<M: PhysicalMemory>(source: &Source<'_, M>, mut at: u64) -> Result<u64, ImageError> {
    loop {
        let mut byte = [0];
        source.read(at, &mut byte)?;
        at += 1;
        if byte == [0] {
            return Ok(at);
        }
    }
}
