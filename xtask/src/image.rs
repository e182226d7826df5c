//! Turns a bare-metal program from the ELF file that the linker wrote into the flat image that a boot loader takes.
//!
//! Programs are position independent, linked at address 0, and begin with an arm64 Image header, so the image is simply
//! the loadable segments at their addresses. It ends with the last byte that is stored in the ELF file: the header's
//! `image_size` tells how much memory the program needs beyond that.

use elf::ElfBytes;
use elf::abi::{EM_AARCH64, PT_LOAD};
use elf::endian::LittleEndian;

use crate::failure::{Doing, Result, failed};
use crate::neighbours::Places;

/// No program here comes near this size; a file that claims more is damaged.
const LIMIT: u64 = 64 << 20;

/// The memory contents that `file`, an ELF file for AArch64 linked at address 0, asks for.
pub(crate) fn flatten(file: &[u8]) -> Result<Vec<u8>> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).doing("reading the ELF header")?;
    if elf.ehdr.e_machine != EM_AARCH64 {
        return failed(format!(
            "the ELF file is for machine {}, not for AArch64",
            elf.ehdr.e_machine
        ));
    }
    let Some(segments) = elf.segments() else {
        return failed("the ELF file has no program headers");
    };
    let mut image = Vec::new();
    let mut lowest = None;
    for segment in segments.iter().filter(|segment| segment.p_type == PT_LOAD) {
        lowest = lowest.min(Some(segment.p_vaddr)).or(Some(segment.p_vaddr));
        let end = segment
            .p_vaddr
            .checked_add(segment.p_filesz)
            .filter(|end| *end <= LIMIT);
        let Some(end) = end else {
            return failed(format!(
                "a segment at {:#x} lies outside of the first {LIMIT:#x} bytes",
                segment.p_vaddr
            ));
        };
        let data = elf.segment_data(&segment).doing("reading a segment")?;
        let (start, end) = (segment.p_vaddr as usize, end as usize);
        if image.len() < end {
            image.resize(end, 0);
        }
        image[start..end].copy_from_slice(data);
    }
    match lowest {
        Some(0) => Ok(image),
        Some(address) => failed(format!("the program is linked at {address:#x}, not at 0")),
        None => failed("the ELF file has nothing to load"),
    }
}

/// Where the instructions are in the program of `file`, as its mapping symbols say (ELF for the Arm 64-bit Architecture, "Mapping
/// symbols"), and the room that its linker script leaves for stubs; `None` if it leaves none.
pub(crate) fn code_and_stubs(file: &[u8]) -> Result<Option<Places>> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).doing("reading the ELF header")?;
    let Some((symbols, names)) = elf.symbol_table().doing("reading the symbols")? else {
        return Ok(None);
    };
    let (mut start, mut end, mut section, mut marks) = (0, 0, 0, Vec::new());
    for symbol in symbols.iter() {
        let address = symbol.st_value as usize;
        match names.get(symbol.st_name as usize).doing("reading the symbols")? {
            "stubs_start" => (start, section) = (address, symbol.st_shndx),
            "stubs_end" => end = address,
            name if name == "$x" || name.starts_with("$x.") => marks.push((address, true, symbol.st_shndx)),
            name if name == "$d" || name.starts_with("$d.") => marks.push((address, false, symbol.st_shndx)),
            _ => {}
        }
    }
    if start == end {
        return Ok(None);
    }
    // The code is what the linker script has put before the stubs, at the image's beginning.
    marks.retain(|(address, _, of)| *of == section && *address < start);
    marks.sort_unstable();
    if !marks.iter().any(|(_, code, _)| *code) {
        return failed("no symbols say where its instructions are");
    }
    let ends = marks.iter().skip(1).map(|(address, ..)| *address).chain([start]);
    let ranges = marks.iter().zip(ends).filter(|((_, code, _), _)| *code);
    Ok(Some(Places {
        code: ranges.map(|((from, ..), to)| *from..to).collect(),
        stubs: start..end,
    }))
}

/// Whether `image` begins with an arm64 Image header (Linux, Documentation/arch/arm64/booting.rst).
pub(crate) fn has_image_header(image: &[u8]) -> bool {
    image.get(0x38..0x3c) == Some(b"ARM\x64")
}

/// The memory that the header of `image` asks for, in bytes; at least what is in the file.
pub(crate) fn image_size(image: &[u8]) -> u64 {
    let field = image
        .get(0x10..0x18)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_le_bytes);
    field.max(image.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::{code_and_stubs, flatten, has_image_header, image_size};

    /// An ELF64 file for `machine` with the given loadable segments: address, contents, size in memory.
    fn elf(machine: u16, segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend(3_u16.to_le_bytes());
        file.extend(machine.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        for value in [0_u64, 64, 0] {
            file.extend(value.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        for value in [64_u16, 56, segments.len() as u16, 64, 0, 0] {
            file.extend(value.to_le_bytes());
        }
        let mut offset = (64 + 56 * segments.len()) as u64;
        for (address, data, memory) in segments {
            file.extend(1_u32.to_le_bytes());
            file.extend(5_u32.to_le_bytes());
            for value in [offset, *address, *address, data.len() as u64, *memory, 16] {
                file.extend(value.to_le_bytes());
            }
            offset += data.len() as u64;
        }
        for (_, data, _) in segments {
            file.extend(*data);
        }
        file
    }

    #[test]
    fn segments_land_at_their_addresses_and_zeroed_memory_is_left_out() {
        let image = flatten(&elf(183, &[(0, b"text", 4), (8, b"data", 400), (512, b"", 64)])).unwrap();
        assert_eq!(image.len(), 512);
        assert_eq!(&image[..12], b"text\0\0\0\0data");
        assert!(image[12..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_program_without_room_for_stubs_has_none() {
        assert!(code_and_stubs(&elf(183, &[(0, b"text", 4)])).unwrap().is_none());
        assert!(code_and_stubs(b"no ELF file").is_err());
    }

    #[test]
    fn programs_that_can_not_run_are_refused_with_the_reason() {
        for (file, reason) in [
            (elf(62, &[(0, b"text", 4)]), "not for AArch64"),
            (elf(183, &[(0x1000, b"text", 4)]), "linked at 0x1000"),
            (elf(183, &[]), "no"),
            (elf(183, &[(0, b"text", 4), (u64::MAX, b"data", 4)]), "outside"),
            (elf(183, &[(0, b"text", 4)])[..100].to_vec(), "ELF"),
            (
                b"not an ELF file at all, but some text that is long enough to be read as one".to_vec(),
                "ELF",
            ),
        ] {
            let error = flatten(&file).unwrap_err().to_string();
            assert!(error.contains(reason), "{error:?} does not contain {reason:?}");
        }
    }

    #[test]
    fn the_image_header_is_known_by_its_magic_number() {
        let mut image = vec![0; 64];
        assert!(!has_image_header(&image));
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert!(has_image_header(&image));
        assert!(!has_image_header(&image[..0x3a]));
    }

    #[test]
    fn the_size_in_memory_is_the_header_s_unless_the_file_is_longer() {
        let mut image = vec![0; 64];
        assert_eq!(image_size(&image), 64);
        image[0x10..0x18].copy_from_slice(&0x1000_u64.to_le_bytes());
        assert_eq!(image_size(&image), 0x1000);
        assert_eq!(image_size(&[]), 0);
    }
}
