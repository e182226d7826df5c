//! The gzip container (RFC 1952) around a deflate stream, for modules that are passed compressed.

use miniz_oxide::deflate::compress_to_vec;

/// Compresses `data` into a gzip file without a name or a date, so that equal input gives equal output.
pub(crate) fn compress(data: &[u8]) -> Vec<u8> {
    const LEVEL: u8 = 6;
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    file.extend(compress_to_vec(data, LEVEL));
    file.extend(crc32(data).to_le_bytes());
    // RFC 1952 section 2.3.1: the size is given modulo 2^32.
    file.extend(((data.len() as u64 & 0xffff_ffff) as u32).to_le_bytes());
    file
}

/// CRC-32 as RFC 1952 section 8 defines it.
fn crc32(data: &[u8]) -> u32 {
    let mut table = [0_u32; 256];
    for (index, entry) in (0_u32..).zip(table.iter_mut()) {
        *entry = (0..8).fold(index, |value, _| {
            if value & 1 == 1 {
                (value >> 1) ^ 0xedb8_8320
            } else {
                value >> 1
            }
        });
    }
    !data.iter().fold(!0, |crc, byte| {
        (crc >> 8) ^ table[usize::from(crc.to_le_bytes()[0] ^ byte)]
    })
}

#[cfg(test)]
mod tests {
    use super::{compress, crc32};

    #[test]
    fn the_check_value_of_crc32_is_met() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn what_is_compressed_can_be_inflated() {
        let data: Vec<u8> = (0..100_000_u32).map(|value| (value / 7) as u8).collect();
        let file = compress(&data);
        assert!(file.len() < data.len() / 4);
        let stream = &file[10..file.len() - 8];
        assert_eq!(miniz_oxide::inflate::decompress_to_vec(stream).unwrap(), data);
        assert_eq!(file[file.len() - 4..], 100_000_u32.to_le_bytes());
    }
}
