//! The file with everything: a flattened image tree that `bootm` checks, takes apart and starts.
//!
//! Its device tree has all domains in it, so nothing is left to a script, and one signature of the configuration covers all.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::{Bundle, DUMP_IMAGE, MAKE_IMAGE, succeed};
use crate::failure::{Doing, Result, failed};

/// How a key signs.
const SIGNATURE: &str = "sha256,rsa2048";

/// Writes it to `output`, with its source beside it.
pub(super) fn make(bundle: &Bundle, folder: &Path, output: &Path) -> Result<()> {
    let source_file = folder.join("portunus.its");
    fs::write(&source_file, source(bundle, bundle.key.as_deref())).doing("writing portunus.its")?;
    let mut command = MAKE_IMAGE.command();
    command.arg("-f").args([&source_file, output]);
    succeed(command, "mkimage for portunus.itb")?;
    if let Some(key) = &bundle.key {
        let mut command = MAKE_IMAGE.command();
        command
            .args(["-F", "-r", "-k"])
            .arg(key.parent().unwrap_or(Path::new(".")));
        if let Some(trust) = &bundle.trust {
            command.arg("-K").arg(trust);
        }
        command.arg(output);
        succeed(command, "mkimage signing portunus.itb")?;
    }
    let mut list = DUMP_IMAGE.command();
    list.arg("-l").arg(output);
    let list = String::from_utf8_lossy(&succeed(list, "dumpimage")?).into_owned();
    if list.contains("Sign value:  unavailable") {
        return failed("portunus.itb was not signed");
    }
    fs::write(folder.join("portunus.itb.txt"), list).doing("writing portunus.itb.txt")
}

/// Writes the same without a signature.
pub(super) fn make_unsigned(bundle: &Bundle, folder: &Path, output: &Path) -> Result<()> {
    let source_file = folder.join("unsigned.its");
    fs::write(&source_file, source(bundle, None)).doing("writing unsigned.its")?;
    let mut command = MAKE_IMAGE.command();
    command.arg("-f").args([&source_file, output]);
    succeed(command, "mkimage for unsigned.itb").map(drop)
}

/// The names of the images, by which configuration and tools refer to them.
fn module_image(name: &str) -> String {
    format!("module-{name}")
}

/// The source, for mkimage, to be signed with `key`.
pub(super) fn source(bundle: &Bundle, key: Option<&Path>) -> String {
    let mut images = String::new();
    let places = &bundle.places;
    let at = |address: u64| format!("<{:#x} {:#x}>", address >> 32, address & 0xffff_ffff);
    let mut image = |name: &str, description: &str, file: &Path, kind: &str, more: &str| {
        let _ = write!(
            images,
            "        {name} {{
            description = {};
            data = /incbin/({});
            type = \"{kind}\";
            arch = \"arm64\";
            compression = \"none\";
{more}            hash-1 {{ algo = \"sha256\"; }};
        }};
",
            string(description),
            string(&file.display().to_string())
        );
    };
    let load = |address: u64| format!("            load = {};\n", at(address));
    let kernel = format!(
        "            os = \"linux\";\n{}            entry = {};\n",
        load(places.image),
        at(places.image)
    );
    image("portunus", "Portunus", &bundle.image, "kernel", &kernel);
    image(
        "tree",
        "device tree with the domains",
        &bundle.tree,
        "flat_dt",
        &load(places.device_tree),
    );
    for module in &bundle.modules {
        let os = "            os = \"linux\";\n";
        let more = format!("{os}{}", load(module.address));
        image(
            &module_image(&module.name),
            &module.name,
            &module.file,
            "firmware",
            &more,
        );
    }
    let loadables: Vec<String> = bundle
        .modules
        .iter()
        .map(|module| string(&module_image(&module.name)))
        .collect();
    let loadables = match loadables.join(", ") {
        none if none.is_empty() => String::new(),
        list => format!("            loadables = {list};\n"),
    };
    let signature = match key {
        None => String::new(),
        Some(key) => format!(
            "            signature-1 {{
                algo = \"{SIGNATURE}\";
                key-name-hint = {};
                sign-images = \"kernel\", \"fdt\", \"loadables\";
            }};
",
            string(&key.file_stem().unwrap_or_default().to_string_lossy())
        ),
    };
    format!(
        "/dts-v1/;

/ {{
    description = {title};
    #address-cells = <2>;

    images {{
{images}    }};

    configurations {{
        default = \"domains\";
        domains {{
            description = {title};
            kernel = \"portunus\";
            fdt = \"tree\";
{loadables}{signature}        }};
    }};
}};
",
        title = string(&bundle.title)
    )
}

/// A string as device tree source has it: what would end it or begin an escape is escaped, and what cannot be seen is left out.
fn string(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars().filter(|character| !character.is_control()) {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}
