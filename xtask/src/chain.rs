//! The boot chain of boards: firmware starts U-Boot, and U-Boot takes the hypervisor, its device tree and the domains'
//! modules from a card.
//!
//! A [`Bundle`] says what belongs together and where each part goes in memory. From it come both ways that a card offers,
//! which end in the same: `boot.scr`, which loads single files and describes the domains by `fdt set`, and `portunus.itb`,
//! one file with checksums, or signed, for `bootm`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use portunus::manifest::Tree;

use crate::failure::{Doing, Result, failed};
use crate::manifest::{self, Loaded};
use crate::setup::Tool;

pub(crate) mod card;
mod compare;
mod fit;
mod script;

#[cfg(test)]
mod tests;

pub(crate) use compare::same_domains;

/// Makes U-Boot's images.
const MAKE_IMAGE: Tool<'static> = Tool {
    program: "mkimage",
    package: "u-boot-tools",
};
/// Reads them.
const DUMP_IMAGE: Tool<'static> = Tool {
    program: "dumpimage",
    package: "u-boot-tools",
};
/// Makes keys for scenarios.
pub(crate) const KEY_TOOL: Tool<'static> = Tool {
    program: "openssl",
    package: "openssl",
};

/// Makes a key in `folder`, and the certificate from which mkimage takes its public part.
pub(crate) fn make_key(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).doing(format!("creating {}", folder.display()))?;
    let (key, certificate) = (folder.join("dev.key"), folder.join("dev.crt"));
    let mut command = KEY_TOOL.command();
    command.args([
        "req", "-batch", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "36500", "-subj", "/CN=dev",
    ]);
    command.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    succeed(command, "openssl for a key")?;
    Ok(key)
}

/// The programs that making a bundle takes.
pub(crate) const TOOLS: [Tool<'static>; 3] = [MAKE_IMAGE, DUMP_IMAGE, Tool::DEVICE_TREE_COMPILER];

/// The hypervisor on a card.
const IMAGE: &str = "Image";
/// The machine's own device tree on a card.
const MACHINE_TREE: &str = "machine.dtb";
/// What U-Boot looks for.
const SCRIPT: &str = "boot.scr";
/// Everything in one.
pub(crate) const FIT: &str = "portunus.itb";

/// The same as anybody could make it who has no key.
const UNSIGNED: &str = "unsigned.itb";

/// Where U-Boot is to put things that are no modules.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Places {
    /// The hypervisor.
    pub(crate) image: u64,
    /// Its device tree.
    pub(crate) device_tree: u64,
    /// The file with everything, while it is taken apart.
    pub(crate) fit: u64,
}

/// What boots together.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// What U-Boot says that it starts.
    pub(crate) title: String,
    /// The hypervisor.
    pub(crate) image: PathBuf,
    /// The machine's device tree with all domains.
    pub(crate) tree: PathBuf,
    /// The domains' modules with their places.
    pub(crate) modules: Vec<Loaded>,
    /// The places of the rest.
    pub(crate) places: Places,
    /// A private key for the file with everything, in a folder that mkimage reads.
    pub(crate) key: Option<PathBuf>,
    /// U-Boot's own device tree, which gets the public part of the key; a file without a signature is then made as well.
    pub(crate) trust: Option<PathBuf>,
    /// U-Boot's script, where it is not to be made of the device tree.
    pub(crate) script: Option<String>,
}

/// A file for a card: its name there, and where it is here.
pub(crate) type CardFile = (String, PathBuf);

impl Bundle {
    /// Makes in `folder` what U-Boot takes, and returns all files of a card.
    pub(crate) fn make(&self, folder: &Path) -> Result<Vec<CardFile>> {
        let bytes = fs::read(&self.tree).doing(format!("reading {}", self.tree.display()))?;
        let tree = Tree::new(&bytes).doing("reading the device tree")?;
        let machine = folder.join(MACHINE_TREE);
        self.write_machine_tree(&tree, &machine)?;

        let commands = folder.join("boot.cmd");
        let sizes = [size(&self.image)?, size(&machine)?];
        let text = match &self.script {
            Some(text) => script::filled(text, self)?,
            None => script::text(self, &tree, sizes)?,
        };
        fs::write(&commands, text).doing("writing boot.cmd")?;
        let script = folder.join(SCRIPT);
        let mut command = MAKE_IMAGE.command();
        command.args(["-A", "arm64", "-O", "linux", "-T", "script", "-C", "none"]);
        command.args(["-n", &self.title, "-d"]).args([&commands, &script]);
        succeed(command, "mkimage for boot.scr")?;

        let fit = folder.join(FIT);
        fit::make(self, folder, &fit)?;
        let unsigned = folder.join(UNSIGNED);
        if self.trust.is_some() {
            fit::make_unsigned(self, folder, &unsigned)?;
        }

        let mut files = vec![
            (SCRIPT.to_owned(), script),
            (IMAGE.to_owned(), self.image.clone()),
            (MACHINE_TREE.to_owned(), machine),
            (FIT.to_owned(), fit),
        ];
        files.extend(self.trust.iter().map(|_| (UNSIGNED.to_owned(), unsigned.clone())));
        files.extend(
            self.modules
                .iter()
                .map(|module| (module.name.clone(), module.file.clone())),
        );
        Ok(files)
    }

    /// The device tree without its domains: what a board's own files have, before a script describes them.
    fn write_machine_tree(&self, tree: &Tree<'_>, output: &Path) -> Result<()> {
        let mut source = manifest::decompile(&self.tree)?;
        let names: String = script::domains(tree)
            .map(|domain| format!("/delete-node/ {};", domain.name()))
            .collect();
        source.push_str(&format!("\n/ {{ chosen {{ {names} }}; }};\n"));
        manifest::compile(&source, &self.tree, output)
    }
}

fn size(file: &Path) -> Result<u64> {
    Ok(fs::metadata(file).doing(format!("reading {}", file.display()))?.len())
}

/// Runs a program that says nothing unless it fails.
fn succeed(mut command: Command, what: &str) -> Result<Vec<u8>> {
    let output = command.output().doing(format!("running {what}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    failed(format!(
        "{what}: {}",
        complaint.lines().last().unwrap_or("it says nothing").trim()
    ))
}
