//! Builds the bare-metal programs and makes flat images of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Doing, Result, failed};
use crate::image;
use crate::neighbours;
use crate::setup;
use crate::setup::rust::CoreLibrary;
use crate::workspace::{TARGET, Workspace, cargo};

/// A program, built.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// The file that the linker wrote, with symbols.
    pub(crate) elf: PathBuf,
    /// What is loaded.
    pub(crate) image: PathBuf,
}

/// Builds `packages` for the bare-metal target, optimised, and makes an image of each.
pub(crate) fn build(workspace: &Workspace, packages: &BTreeSet<&str>) -> Result<()> {
    for package in packages {
        if !workspace.bare_metal.iter().any(|name| name == package) {
            return failed(format!("there is no bare-metal package {package}"));
        }
    }
    let core = CoreLibrary::prepare(&setup::cache()?)?;
    let mut command = Command::new(cargo());
    command.current_dir(&workspace.root).args(["build", "--release"]);
    core.apply(&mut command);
    for package in packages {
        command.args(["--package", package]);
    }
    let status = command.status().doing("running cargo build")?;
    if !status.success() {
        return failed("the build failed");
    }
    for package in packages {
        let program = program(workspace, package);
        let elf = fs::read(&program.elf).doing(format!("reading {}", program.elf.display()))?;
        let mut flat = image::flatten(&elf).doing(package)?;
        if let Some(places) = image::code_and_stubs(&elf).doing(package)? {
            neighbours::separate(&mut flat, &places).doing(package)?;
        }
        if !image::has_image_header(&flat) {
            return failed(format!("{package} has no arm64 Image header"));
        }
        write_if_changed(&program.image, &flat)?;
    }
    Ok(())
}

/// Where the products of `package` are.
pub(crate) fn program(workspace: &Workspace, package: &str) -> Program {
    let elf = workspace.target.join(TARGET).join("release").join(package);
    Program {
        image: elf.with_extension("img"),
        elf,
    }
}

/// A machine that runs right now may have the file open: it is replaced, never written into.
fn write_if_changed(path: &Path, contents: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == contents) {
        return Ok(());
    }
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, contents).doing(format!("writing {}", unfinished.display()))?;
    fs::rename(&unfinished, path).doing(format!("writing {}", path.display()))
}
