//! Motorola S-records: an image as text, for monitors that speak over a serial line only.
//!
//! Every record has a sum, so a character that was lost on the way is noticed. Addresses have 32 bits (S3), and the last
//! record (S7) says where to begin.

use std::fmt::Write;

use crate::failure::{Result, failed};

/// Bytes of data in a record: lines of 78 characters.
const DATA: usize = 32;

/// The records of `image`, loaded and begun at `address`.
pub(crate) fn write(name: &str, image: &[u8], address: u32) -> Result<String> {
    if u64::from(address) + image.len() as u64 > 1 << 32 {
        return failed(format!("{} bytes at {address:#x} do not lie below 4 GiB", image.len()));
    }
    let mut text = String::with_capacity(image.len() * 5 / 2);
    let name: Vec<u8> = name.bytes().take(DATA).collect();
    record(&mut text, 0, &0_u16.to_be_bytes(), &name);
    for (index, data) in image.chunks(DATA).enumerate() {
        let place = address + (index * DATA) as u32;
        record(&mut text, 3, &place.to_be_bytes(), data);
    }
    record(&mut text, 7, &address.to_be_bytes(), &[]);
    Ok(text)
}

fn record(text: &mut String, kind: u8, address: &[u8], data: &[u8]) {
    // It counts address, data and sum.
    let count = (address.len() + data.len() + 1) as u8;
    let bytes = [&[count], address, data].concat();
    let _ = write!(text, "S{kind}");
    for byte in bytes.iter().chain([&sum(&bytes)]) {
        let _ = write!(text, "{byte:02X}");
    }
    // Monitors end a record with either; terminals send what is in the file.
    text.push_str("\r\n");
}

/// What makes all bytes of a record add up to 0xff.
fn sum(bytes: &[u8]) -> u8 {
    !bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte))
}

/// Reads records as a monitor does: the address of the first byte, all bytes, and where to begin.
pub(crate) fn read(text: &str) -> Result<(u32, Vec<u8>, u32)> {
    let (mut first, mut image) = (None, Vec::new());
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let Some(digits) = line.strip_prefix('S') else {
            return failed(format!("line {number} is no record"));
        };
        let (kind, digits) = digits.split_at_checked(1).unwrap_or_default();
        let pairs: Vec<u8> = (0..digits.len() / 2)
            .filter_map(|index| u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok())
            .collect();
        let whole =
            pairs.len() * 2 == digits.len() && pairs.first().is_some_and(|count| *count as usize + 1 == pairs.len());
        let Some((last, bytes)) = pairs.split_last().filter(|_| whole) else {
            return failed(format!("line {number} is cut off or has other characters"));
        };
        if sum(bytes) != *last {
            return failed(format!("line {number}: its sum is wrong"));
        }
        let address = bytes
            .get(1..5)
            .and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
        match (kind, address) {
            ("0", _) => {}
            ("3", Some(address)) => {
                let start = *first.get_or_insert(address);
                if u64::from(start) + image.len() as u64 != u64::from(address) {
                    return failed(format!("line {number}: a gap before {address:#x}"));
                }
                image.extend(&bytes[5..]);
            }
            ("7", Some(entry)) => return Ok((first.unwrap_or(entry), image, entry)),
            _ => return failed(format!("line {number}: a record of the type {kind}")),
        }
    }
    failed("the last record, with the entry, is missing")
}

#[cfg(test)]
mod tests {
    use super::{read, write};

    #[test]
    fn records_are_those_of_the_format_s_description() {
        // S3 with four bytes at 0x12345678, worked out by hand: 09 + 12+34+56+78 + 01+02+03+04 = 0x127, so the sum is 0xd8.
        let text = write("HDR", &[1, 2, 3, 4], 0x1234_5678).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        // The S0 record of "HDR" is the example of Motorola's own manual.
        assert_eq!(lines, ["S00600004844521B", "S3091234567801020304D8", "S70512345678E6"]);
    }

    #[test]
    fn what_was_written_is_read_back() {
        for length in [0_usize, 1, 31, 32, 33, 70_001] {
            let image: Vec<u8> = (0..length).map(|index| ((index * 7) >> 3) as u8).collect();
            let text = write("Portunus", &image, 0x4820_0000).unwrap();
            assert_eq!(
                read(&text).unwrap(),
                (0x4820_0000, image, 0x4820_0000),
                "{length} bytes"
            );
            assert!(
                text.lines()
                    .all(|line| line.len() <= 78 && !line.contains(|c: char| c.is_lowercase()))
            );
        }
    }

    #[test]
    fn what_a_serial_line_damages_is_noticed() {
        let text = write("Portunus", &(0..200).collect::<Vec<u8>>(), 0x4820_0000).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let without = |skipped: usize| {
            let kept = lines.iter().enumerate().filter(|(index, _)| *index != skipped);
            kept.map(|(_, line)| *line).collect::<Vec<_>>().join("\n")
        };
        for (damaged, reason) in [
            (text.replacen("48200020", "48200021", 1), "sum"),
            (text.replacen("S315", "S415", 1).replacen("S325", "S425", 1), "type"),
            (without(3), "gap"),
            (without(lines.len() - 1), "missing"),
            (text[..text.len() / 2].to_owned(), "cut off"),
            (text.replacen("S3", "X3", 1), "no record"),
            (text.replacen("482000", "48é00", 1), "other characters"),
            ("S".into(), "cut off"),
            (String::new(), "missing"),
        ] {
            let error = read(&damaged).unwrap_err().to_string();
            assert!(error.contains(reason), "{error} is not about {reason}");
        }
    }

    #[test]
    fn an_image_beyond_32_bits_is_refused() {
        assert!(write("Portunus", &[0; 17], 0xffff_fff0).is_err());
        assert!(write("Portunus", &[0; 16], 0xffff_fff0).is_ok());
    }
}
