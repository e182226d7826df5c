//! Makes the device tree that the hypervisor boots with: QEMU's tree of the machine, merged with a scenario's manifest.
//!
//! The manifest is device tree source that is read after the machine's own, so it can add to every node, refer to nodes
//! by path and delete them. `${NAME}` in it becomes the address and the size of a module, as four cells.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use portunus::manifest::Tree;

use crate::failure::{Doing, Result, failed};
use crate::scenario::substitute;
use crate::setup::Tool;

/// Kernels want a base that is aligned to this.
const ALIGNMENT: u64 = 2 << 20;

/// A module with its place in memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Loaded {
    /// The name that the manifest uses.
    pub(crate) name: String,
    /// The file to load.
    pub(crate) file: PathBuf,
    /// The physical address of the first byte.
    pub(crate) address: u64,
    /// The number of bytes.
    pub(crate) size: u64,
}

/// Gives each module its place, one after the other, from `first` on; all end before `end`.
pub(crate) fn place(modules: Vec<(String, PathBuf)>, first: u64, end: u64) -> Result<Vec<Loaded>> {
    let mut address = first;
    let mut placed = Vec::new();
    for (name, file) in modules {
        let size = fs::metadata(&file).doing(format!("reading {}", file.display()))?.len();
        placed.push(Loaded {
            name,
            file,
            address,
            size,
        });
        address = (address + size.max(1)).next_multiple_of(ALIGNMENT);
        if address > end {
            return failed(format!(
                "the modules do not fit into the memory between {first:#x} and {end:#x}"
            ));
        }
    }
    Ok(placed)
}

/// What `${NAME}` stands for, for each module.
pub(crate) fn placeholders(modules: &[Loaded]) -> BTreeMap<String, String> {
    let cells = |value: u64| format!("{:#x} {:#x}", value >> 32, value & 0xffff_ffff);
    let text = |module: &Loaded| format!("{} {}", cells(module.address), cells(module.size));
    modules
        .iter()
        .map(|module| (module.name.clone(), text(module)))
        .collect()
}

/// Compiles device tree source. `origin` names the file in messages, and is where includes are looked for.
pub(crate) fn compile(source: &str, origin: &Path, output: &Path) -> Result<()> {
    let input = output.with_extension("dts");
    fs::write(&input, source).doing(format!("writing {}", input.display()))?;
    let mut command = Tool::DEVICE_TREE_COMPILER.command();
    if let Some(folder) = origin.parent() {
        command.arg("-i").arg(folder);
    }
    let result = command
        .args(["-q", "-I", "dts", "-O", "dtb", "-@", "-o"])
        .args([output, &input])
        .output()
        .doing("running dtc")?;
    if result.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&result.stderr).into_owned();
    failed(text.lines().next().unwrap_or("dtc failed and said nothing").to_owned())
}

/// Compiles the device tree source in `file`, with its placeholders replaced.
pub(crate) fn compile_file(file: &Path, values: &BTreeMap<String, String>, output: &Path) -> Result<()> {
    let text = fs::read_to_string(file).doing(format!("reading {}", file.display()))?;
    let text = substitute(&text, values).doing(file.display())?;
    compile(&format!("# 1 \"{}\"\n{text}", file.display()), file, output)
}

/// The source of a device tree that dtc can read, from a binary one.
pub(crate) fn decompile(file: &Path) -> Result<String> {
    let result = Tool::DEVICE_TREE_COMPILER
        .command()
        .args(["-q", "-I", "dtb", "-O", "dts"])
        .arg(file)
        .output();
    let result = result.doing("running dtc")?;
    if !result.status.success() {
        return failed(format!("{} is no device tree", file.display()));
    }
    String::from_utf8(result.stdout).doing("reading the machine's device tree")
}

/// Asks the hypervisor for coloured names.
const COLOUR: &str = "\n/ { chosen { portunus,colour; }; };\n";

/// Writes the machine's tree with `manifest` merged into it to `output`; with `colour`, names on the console have one.
pub(crate) fn merge(
    machine: &str,
    manifest: &Path,
    values: &BTreeMap<String, String>,
    colour: bool,
    output: &Path,
) -> Result<()> {
    let text = fs::read_to_string(manifest).doing(format!("reading {}", manifest.display()))?;
    let text = substitute(&text, values).doing(manifest.display())?;
    // A file of its own may have the version tag; behind another tree it would be a syntax error. Lines keep their numbers.
    let text = text.replacen("/dts-v1/;", "", 1);
    let mut source = machine.to_owned();
    if colour {
        source.push_str(COLOUR);
    }
    write!(source, "\n# 1 \"{}\"\n{text}", manifest.display()).doing("merging")?;
    compile(&source, manifest, output)
}

/// Adds Xen's command line to a merged tree; the file of the result, which lies beside it.
pub(crate) fn for_xen(tree: &Path, bootargs: &str) -> Result<PathBuf> {
    let output = tree.with_file_name("xen.dtb");
    let source = decompile(tree)?;
    let source = format!("{source}\n/ {{ chosen {{ xen,xen-bootargs = \"{bootargs}\"; }}; }};\n");
    compile(&source, tree, &output)?;
    Ok(output)
}

/// Refuses memory that the manifest reserves for a domain where something else will be loaded: in `hypervisor`, or a module.
pub(crate) fn check_reservations(tree: &Path, modules: &[Loaded], hypervisor: Range<u64>) -> Result<()> {
    let data = fs::read(tree).doing(format!("reading {}", tree.display()))?;
    let tree = Tree::new(&data).doing("reading the merged device tree")?;
    let Some(chosen) = tree.find("/chosen") else {
        return Ok(());
    };
    for domain in chosen.children().filter(|node| node.has("xen,static-mem")) {
        let cells = [chosen.address_cells(), chosen.size_cells()];
        for [start, size] in domain
            .rows("xen,static-mem", cells)
            .doing("reading the merged device tree")?
        {
            let overlaps = |from: u64, to: u64| start < to && from < start.saturating_add(size);
            let module = modules
                .iter()
                .find(|module| overlaps(module.address, module.address + module.size));
            let other = match module {
                Some(module) => &module.name,
                None if overlaps(hypervisor.start, hypervisor.end) => "the hypervisor",
                None => continue,
            };
            return failed(format!(
                "{}: xen,static-mem at {start:#x} overlaps {other}",
                domain.name()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Loaded, place, placeholders};

    #[test]
    fn modules_are_placed_apart_and_aligned() {
        let file = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let modules = vec![("a".to_owned(), file.clone()), ("b".to_owned(), file.clone())];
        let placed = place(modules.clone(), 0x5000_0000, 0x6000_0000).unwrap();
        assert_eq!(
            placed.iter().map(|module| module.address).collect::<Vec<_>>(),
            [0x5000_0000, 0x5020_0000]
        );
        assert!(place(modules, 0x5000_0000, 0x5020_0000).is_err());
        assert!(place(vec![("c".to_owned(), "/nonexistent".into())], 0, 1 << 30).is_err());
    }

    #[test]
    fn a_placeholder_is_four_cells() {
        let module = Loaded {
            name: "k".into(),
            file: "k".into(),
            address: 0x1_5000_0000,
            size: 0x1234,
        };
        assert_eq!(placeholders(&[module])["k"], "0x1 0x50000000 0x0 0x1234");
    }
}
