//! The script that U-Boot runs: it loads the files of a card, writes the domains into the machine's device tree as
//! ImageBuilder's scripts do, and enters the hypervisor.
//!
//! It uses what U-Boot has had for ten years (`load`, `fdt`, `test`, `booti`), one command a line, and once something has
//! failed nothing more is done but to say so, in a line that begins with `portunus:`. Nodes have no unit addresses, and domains are referred to by name.

use std::fmt::Write;

use portunus::manifest::Tree;
use portunus::manifest::tree::Node;

use super::{Bundle, IMAGE, MACHINE_TREE};
use crate::failure::{Doing, Result, failed};
use crate::manifest::Loaded;

/// What describing the domains may add to the device tree, in bytes.
const ROOM: u64 = 0x1_0000;

/// Properties that name a domain by phandle, or by name.
pub(super) const DOMAINS: [&str; 2] = ["portunus,backend", "portunus,control"];
/// Properties that name a node of the machine by phandle, or by path.
pub(super) const NODES: [&str; 1] = ["portunus,source"];

/// The domains of `tree`.
pub(super) fn domains<'t, 'a>(tree: &'t Tree<'a>) -> impl Iterator<Item = Node<'t, 'a>> {
    let chosen = tree.find("/chosen");
    chosen
        .into_iter()
        .flat_map(Node::children)
        .filter(|node| node.is_compatible("xen,domain"))
}

/// The script's text. `sizes` are those of the Image and of the machine's device tree.
pub(super) fn text(bundle: &Bundle, tree: &Tree<'_>, sizes: [u64; 2]) -> Result<String> {
    // U-Boot's shell takes an apostrophe for the beginning of a string, even within another one and in a comment.
    let title = bundle.title.replace(|character: char| !is_plain(character), " ");
    let mut text = HEAD.replace("${title}", &title);
    let places = &bundle.places;
    load(&mut text, IMAGE, places.image, sizes[0]);
    for module in &bundle.modules {
        load(&mut text, &module.name, module.address, module.size);
    }
    load(&mut text, MACHINE_TREE, places.device_tree, sizes[1]);
    let described = describe(tree).doing("making boot.scr")?;
    let (address, image) = (places.device_tree, places.image);
    text.push_str("\n# The domains.\n");
    step(
        &mut text,
        &format!("fdt addr {address:#x}"),
        &format!("{MACHINE_TREE} is no device tree"),
    );
    step(
        &mut text,
        &format!("fdt resize {ROOM:#x}"),
        "the device tree does not grow",
    );
    let _ = write!(
        text,
        "\
{described}
# The device tree stays where it is.
setenv fdt_high 0xffffffffffffffff
if test -n \"${{portunus_failed}}\"; then
  echo \"portunus: ${{portunus_failed}}; nothing is started\"
else
  booti {image:#x} - {address:#x}
  echo \"portunus: booti refuses the Image\"
fi
false
"
    );
    Ok(text)
}

/// A user's script with `%{NAME.address}` and `%{NAME.size}` replaced, in hexadecimal: of modules, and the addresses of the
/// Image and of the machine's device tree.
pub(super) fn filled(text: &str, bundle: &Bundle) -> Result<String> {
    let mut filled = text
        .replace("%{Image.address}", &format!("{:#x}", bundle.places.image))
        .replace("%{machine.dtb.address}", &format!("{:#x}", bundle.places.device_tree));
    for module in &bundle.modules {
        let Loaded {
            name, address, size, ..
        } = module;
        filled = filled
            .replace(&format!("%{{{name}.address}}"), &format!("{address:#x}"))
            .replace(&format!("%{{{name}.size}}"), &format!("{size:#x}"));
    }
    match filled.split_once("%{") {
        None => Ok(filled),
        Some((_, rest)) => failed(format!(
            "the script names %{{{}, which is no module's address or size",
            rest.lines().next().unwrap_or_default()
        )),
    }
}

const HEAD: &str = "\
# Starts Portunus: ${title}.
# A boot loader that looks for this script says where it found it; one that does not is taken to mean its first SD card.
if test -z \"${devtype}\"; then setenv devtype mmc; fi
if test -z \"${devnum}\"; then setenv devnum 0; fi
if test -z \"${distro_bootpart}\"; then setenv distro_bootpart 1; fi
echo \"portunus: ${title}, from ${devtype} ${devnum}:${distro_bootpart}\"

# The first line that fails leaves its reason here, and the others are left out.
setenv portunus_failed

# The files.
";

/// Whether a character means nothing but itself in U-Boot's shell.
fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || " ,.:/_-()".contains(character)
}

/// A command that is left out once something has failed. (`exit` does not leave a script in every version of U-Boot.)
fn step(text: &mut String, command: &str, reason: &str) {
    let _ = writeln!(
        text,
        "test -n \"${{portunus_failed}}\" || {command} || setenv portunus_failed \"{reason}\""
    );
}

/// Loads `file`, which is known to have `size` bytes: a card that was pulled out too early has less.
fn load(text: &mut String, file: &str, address: u64, size: u64) {
    let command = format!("load ${{devtype}} ${{devnum}}:${{distro_bootpart}} {address:#x} ${{prefix}}{file}");
    step(text, &command, &format!("{file} is not loaded"));
    let reason = format!("{file} has 0x${{filesize}} bytes and should have {size:#x}");
    step(text, &format!("test \"${{filesize}}\" = \"{size:x}\""), &reason);
}

/// The commands that make the domains of `tree`.
fn describe(tree: &Tree<'_>) -> Result<String> {
    let mut text = String::new();
    let Some(chosen) = tree.find("/chosen") else {
        return failed("there is no /chosen");
    };
    for name in ["#address-cells", "#size-cells"] {
        if let Some(value) = chosen.property(name) {
            set(&mut text, "/chosen", name, &[cells(value)]);
        }
    }
    for domain in last_first(domains(tree)) {
        node(&mut text, tree, domain, "/chosen")?;
    }
    Ok(text)
}

/// `fdt mknod` puts a node before its siblings, and the order of domains and devices counts.
fn last_first<'t, 'a: 't>(nodes: impl Iterator<Item = Node<'t, 'a>>) -> impl Iterator<Item = Node<'t, 'a>> {
    let mut nodes: Vec<_> = nodes.collect();
    nodes.reverse();
    nodes.into_iter()
}

/// The commands that make `node` and what is below it as a child of `parent`.
fn node(text: &mut String, tree: &Tree<'_>, node: Node<'_, '_>, parent: &str) -> Result<()> {
    let name = node.name();
    let bare = name.split('@').next().unwrap_or(name);
    let twins = node
        .parent()
        .into_iter()
        .flat_map(Node::children)
        .filter(|other| other.name().split('@').next() == Some(bare))
        .count();
    if twins != 1 {
        return failed(format!(
            "{parent} has {twins} nodes that are called {bare} without their addresses"
        ));
    }
    let path = format!("{parent}/{bare}");
    step(
        text,
        &format!("fdt mknod {parent} {bare}"),
        &format!("{path} is not made"),
    );
    let is_domain = node.is_compatible("xen,domain");
    for (property, value) in node.properties() {
        let referred = |value: &[u8]| {
            let phandle = <[u8; 4]>::try_from(value).ok().map(u32::from_be_bytes);
            phandle.and_then(|phandle| tree.by_phandle(phandle))
        };
        let values = match property.as_str() {
            // What refers to a domain does so by name.
            "phandle" | "linux,phandle" if is_domain => continue,
            "linux,phandle" => continue,
            other if DOMAINS.contains(&other) => match referred(value) {
                Some(domain) => vec![quoted(domain.name())],
                None => values(value),
            },
            other if NODES.contains(&other) => match referred(value) {
                Some(device) => vec![quoted(device.path())],
                None => values(value),
            },
            _ => values(value),
        };
        set(text, &path, &property, &values);
    }
    for child in last_first(node.children()) {
        self::node(text, tree, child, &path)?;
    }
    Ok(())
}

fn set(text: &mut String, path: &str, property: &str, values: &[String]) {
    // A word that begins with # would be a comment.
    let name = property.replace('#', "\\#");
    let mut line = format!("fdt set {path} {name}");
    for value in values {
        let _ = write!(line, " {value}");
    }
    step(text, &line, &format!("{path} {property} is not set"));
}

/// A property's value as words for `fdt set`: strings where it reads as strings, cells, or bytes. Each is the same bytes.
fn values(value: &[u8]) -> Vec<String> {
    if value.is_empty() {
        return Vec::new();
    }
    if let Some(strings) = strings(value) {
        return strings.into_iter().map(quoted).collect();
    }
    if value.len().is_multiple_of(4) {
        return vec![cells(value)];
    }
    let bytes: Vec<String> = value.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![format!("\"[{}]\"", bytes.join(" "))]
}

fn cells(value: &[u8]) -> String {
    let cells: Vec<String> = value
        .chunks_exact(4)
        .map(|cell| {
            format!(
                "{:#x}",
                cell.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte))
            )
        })
        .collect();
    format!("\"<{}>\"", cells.join(" "))
}

/// The strings in `value`, if it is nothing else and each can be written between quotation marks.
fn strings(value: &[u8]) -> Option<Vec<&str>> {
    let text = std::str::from_utf8(value).ok()?.strip_suffix('\0')?;
    let plain = |string: &str| {
        let printable = string.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        printable && !string.is_empty() && !string.starts_with(['<', '[']) && !string.contains(['"', '\\', '$', '\''])
    };
    let strings: Vec<&str> = text.split('\0').collect();
    strings.iter().all(|string| plain(string)).then_some(strings)
}

fn quoted(text: impl AsRef<str>) -> String {
    format!("\"{}\"", text.as_ref())
}
