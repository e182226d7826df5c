//! The Rust side of the set-up: the bare-metal target, and the components that the checks need.
//!
//! With rustup the target is added to the toolchain in use. Where that fails, and for a compiler without rustup, `core`
//! and `alloc` are built from matching sources, which needs features that only `RUSTC_BOOTSTRAP=1` opens on a stable
//! compiler: that is said aloud.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::find;
use crate::failure::{Doing, Failure, Result};
use crate::workspace::{TARGET, cargo};

/// How Cargo is to be called for the bare-metal target.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum CoreLibrary {
    /// The toolchain has it, compiled.
    Installed,
    /// It is built from these sources (the folder that holds `library`).
    Source(PathBuf),
}

/// The oldest compiler that builds the sources.
const OLDEST_COMPILER: (u32, u32) = (1, 95);

impl CoreLibrary {
    /// Finds or adds what the bare-metal target needs. `folder` is where sources may be unpacked.
    pub(crate) fn prepare(folder: &Path) -> Result<Self> {
        check_compiler()?;
        let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?);
        if has_target(&sysroot) || (add_by_rustup("target", TARGET) && has_target(&sysroot)) {
            return Ok(Self::Installed);
        }
        let source = find_source(&sysroot, folder)?.ok_or_else(|| {
            Failure::SetupMissing(format!(
                "the Rust target is missing: rustup target add {TARGET}; or give the sources by PORTUNUS_RUST_SRC"
            ))
        })?;
        println!(
            "no {TARGET} in this toolchain: building core and alloc from {} (RUSTC_BOOTSTRAP=1)",
            source.display()
        );
        Ok(Self::Source(source))
    }

    /// Adds to a Cargo command what building for the bare-metal target needs.
    pub(crate) fn apply(&self, command: &mut Command) {
        command.args(["--target", TARGET]);
        if let Self::Source(source) = self {
            command
                .args(["-Zbuild-std=core,alloc", "-Zbuild-std-features=compiler-builtins-mem"])
                .env("RUSTC_BOOTSTRAP", "1")
                .env("__CARGO_TESTS_ONLY_SRC_ROOT", source.join("library"));
        }
    }
}

/// Makes sure that `cargo NAME` runs, adding `component` by rustup if it doesn't.
pub(crate) fn require_component(subcommand: &str, component: &str) -> Result<()> {
    let runs = || {
        let quiet = Command::new(cargo())
            .args([subcommand, "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        quiet.is_ok_and(|status| status.success())
    };
    if runs() || (add_by_rustup("component", component) && runs()) {
        return Ok(());
    }
    Err(Failure::SetupMissing(format!(
        "cargo {subcommand} is missing; install by: rustup component add {component}"
    )))
}

fn check_compiler() -> Result<()> {
    let version = rustc(&["--version"])?;
    match compiler_version(&version) {
        Some(found) if found >= OLDEST_COMPILER => Ok(()),
        _ => Err(Failure::SetupMissing(format!(
            "{version} is too old: Rust 1.95 or newer is needed"
        ))),
    }
}

fn compiler_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("rustc ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let program = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| Failure::SetupMissing(format!("rustc can't be run: {error}")))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn has_target(sysroot: &Path) -> bool {
    fs::read_dir(sysroot.join("lib/rustlib").join(TARGET).join("lib")).is_ok_and(|files| {
        files
            .flatten()
            .any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

fn add_by_rustup(kind: &str, name: &str) -> bool {
    if find("rustup").is_none() {
        return false;
    }
    println!("rustup {kind} add {name}");
    Command::new("rustup")
        .args([kind, "add", name])
        .status()
        .is_ok_and(|status| status.success())
}

/// Sources of the standard library: those that the user names, else the toolchain's own.
fn find_source(sysroot: &Path, folder: &Path) -> Result<Option<PathBuf>> {
    let complete = |place: &Path| place.join("library/core/src/lib.rs").is_file();
    if let Some(named) = std::env::var_os("PORTUNUS_RUST_SRC").map(PathBuf::from) {
        let places = [
            named.clone(),
            named.join("lib/rustlib/src/rust"),
            named.parent().unwrap_or(&named).to_path_buf(),
        ];
        if named.is_dir() {
            return match places.into_iter().find(|place| complete(place)) {
                Some(place) => Ok(Some(place)),
                None => Err(Failure::SetupMissing(format!(
                    "PORTUNUS_RUST_SRC={}: there is no library/core in it",
                    named.display()
                ))),
            };
        }
        return unpack(&named, folder).map(Some);
    }
    let own = sysroot.join("lib/rustlib/src/rust");
    Ok(complete(&own).then_some(own))
}

/// Unpacks an archive of the sources, once, and returns the folder that holds `library`.
fn unpack(archive: &Path, folder: &Path) -> Result<PathBuf> {
    let name = archive
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    let place = folder.join("rust-src").join(name);
    if !place.exists() {
        let unfinished = place.with_extension("unfinished");
        let _ = fs::remove_dir_all(&unfinished);
        fs::create_dir_all(&unfinished).doing(format!("creating {}", unfinished.display()))?;
        let unpacked = Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(&unfinished)
            .status();
        if !unpacked.is_ok_and(|status| status.success()) {
            return Err(Failure::SetupMissing(format!(
                "{} can't be unpacked",
                archive.display()
            )));
        }
        fs::rename(&unfinished, &place).doing(format!("creating {}", place.display()))?;
    }
    holder_of_library(&place, 6)
        .ok_or_else(|| Failure::SetupMissing(format!("{} has no library/core in it", archive.display())))
}

fn holder_of_library(folder: &Path, depth: u32) -> Option<PathBuf> {
    if folder.join("library/core/src/lib.rs").is_file() {
        return Some(folder.into());
    }
    let inner = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir());
    if depth == 0 {
        None
    } else {
        inner.into_iter().find_map(|path| holder_of_library(&path, depth - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::compiler_version;

    #[test]
    fn the_version_of_the_compiler_is_read_from_its_first_line() {
        for (text, version) in [
            ("rustc 1.95.0 (59807616e 2026-04-14)", Some((1, 95))),
            ("rustc 1.100.1-nightly", Some((1, 100))),
            ("gcc 12", None),
        ] {
            assert_eq!(compiler_version(text), version, "{text}");
        }
    }
}
