//! Finds the functions behind the addresses in an epitaph.
//!
//! The hypervisor prints addresses relative to its image as `image+0x…`; the image is linked at 0, so they are the
//! addresses in the ELF file. llvm-symbolizer adds source lines where it is installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use elf::ElfBytes;
use elf::abi::{SHN_UNDEF, STT_FUNC};
use elf::endian::LittleEndian;
use regex_lite::Regex;

use crate::failure::{Doing, Result};
use crate::setup::find;

/// A line for each address in `output`, if there is an epitaph in it.
pub(crate) fn explain(output: &str, elf: &Path) -> Result<Vec<String>> {
    let Some(start) = output.find("EPITAPH") else {
        return Ok(Vec::new());
    };
    let addresses = image_addresses(&output[start..]);
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    let file = fs::read(elf).doing(format!("reading {}", elf.display()))?;
    let symbols = Symbols::read(&file)?;
    let line = |address: &u64| {
        let place = source_line(elf, *address)
            .map(|place| format!("  {place}"))
            .unwrap_or_default();
        format!("  image+{address:#x}  {}{place}", symbols.name(*address))
    };
    Ok(addresses.iter().map(line).collect())
}

/// The addresses relative to the image in `text`, each once, in the order in which they appear.
fn image_addresses(text: &str) -> Vec<u64> {
    let regex = Regex::new(r"image\+0x([0-9a-fA-F]{1,16})").expect("this expression is right");
    let mut seen = BTreeSet::new();
    let numbers = regex
        .captures_iter(text)
        .filter_map(|found| u64::from_str_radix(&found[1], 16).ok());
    numbers.filter(|address| seen.insert(*address)).collect()
}

struct Symbols {
    /// Address, size and name, in the order of addresses.
    functions: Vec<(u64, u64, String)>,
}

impl Symbols {
    fn read(file: &[u8]) -> Result<Self> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).doing("reading symbols")?;
        let mut functions = Vec::new();
        if let Some((symbols, names)) = elf.symbol_table().doing("reading symbols")? {
            for symbol in symbols
                .iter()
                .filter(|symbol| symbol.st_symtype() == STT_FUNC && symbol.st_shndx != SHN_UNDEF)
            {
                let name = names.get(symbol.st_name as usize).unwrap_or_default();
                functions.push((
                    symbol.st_value,
                    symbol.st_size,
                    format!("{:#}", rustc_demangle::demangle(name)),
                ));
            }
        }
        functions.sort();
        Ok(Self { functions })
    }

    /// The function at `address` and how far into it that is.
    fn name(&self, address: u64) -> String {
        let after = self.functions.partition_point(|(start, _, _)| *start <= address);
        match after.checked_sub(1).and_then(|index| self.functions.get(index)) {
            Some((start, size, name)) if address - start < (*size).max(1) => format!("{name}+{:#x}", address - start),
            _ => "?".into(),
        }
    }
}

fn source_line(elf: &Path, address: u64) -> Option<String> {
    let mut command = std::process::Command::new(find("llvm-symbolizer")?);
    let object = format!("--obj={}", elf.display());
    let output = command
        .args([&object, "--functions=none", &format!("{address:#x}")])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .next()
        .filter(|line| !line.is_empty() && !line.starts_with("??"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{Symbols, image_addresses};

    #[test]
    fn addresses_are_found_once_each_in_the_order_of_the_text() {
        assert_eq!(
            image_addresses("ELR image+0x1f00 LR image+0x20 called from image+0x1f00, image+0x, 0x40"),
            [0x1f00, 0x20]
        );
    }

    #[test]
    fn an_address_belongs_to_the_function_that_holds_it() {
        let symbols = Symbols {
            functions: vec![(0x100, 0x10, "a".into()), (0x200, 0, "b".into())],
        };
        for (address, name) in [
            (0x100, "a+0x0"),
            (0x10f, "a+0xf"),
            (0x110, "?"),
            (0x50, "?"),
            (0x200, "b+0x0"),
            (0x201, "?"),
        ] {
            assert_eq!(symbols.name(address), name, "{address:#x}");
        }
    }
}
