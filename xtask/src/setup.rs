//! Finds the programs that are needed, and installs what is missing where that is allowed.
//!
//! Packages are installed only as root or by a `sudo` that asks nothing, and never without saying so. Package sources
//! are never changed. Where installing isn't possible the user gets the command to run, and exit code 2.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Failure, Result};

pub(crate) mod rust;

/// A program that the host must have, and the Debian package that it comes in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Tool<'a> {
    /// The name of the program.
    pub(crate) program: &'a str,
    /// The name of the package.
    pub(crate) package: &'a str,
}

impl Tool<'static> {
    /// The machine emulator.
    pub(crate) const QEMU: Self = Self {
        program: "qemu-system-aarch64",
        package: "qemu-system-arm",
    };
    /// The device tree compiler.
    pub(crate) const DEVICE_TREE_COMPILER: Self = Self {
        program: "dtc",
        package: "device-tree-compiler",
    };
    /// Makes ext4 file systems.
    pub(crate) const MAKE_EXT4: Self = Self {
        program: "mkfs.ext4",
        package: "e2fsprogs",
    };
    /// Checks ext4 file systems.
    pub(crate) const CHECK_EXT4: Self = Self {
        program: "e2fsck",
        package: "e2fsprogs",
    };
    /// Reads ext4 file systems without mounting them.
    pub(crate) const DEBUG_EXT4: Self = Self {
        program: "debugfs",
        package: "e2fsprogs",
    };
    /// Unpacks Debian packages.
    pub(crate) const DPKG_DEB: Self = Self {
        program: "dpkg-deb",
        package: "dpkg",
    };
    /// Unpacks kernel modules.
    pub(crate) const XZ: Self = Self {
        program: "xz",
        package: "xz-utils",
    };

    /// A command that runs this tool, which [`require`] has found before.
    pub(crate) fn command(self) -> Command {
        Command::new(find(self.program).unwrap_or_else(|| self.program.into()))
    }
}

/// The oldest QEMU whose `virt` machine does what the scenarios need.
const OLDEST_QEMU: (u32, u32) = (7, 2);

/// Makes sure that `tools` are there, and that QEMU, if it is among them, is recent enough.
pub(crate) fn require(tools: &[Tool<'_>]) -> Result<()> {
    let absent: Vec<Tool<'_>> = tools
        .iter()
        .copied()
        .filter(|tool| find(tool.program).is_none())
        .collect();
    if !absent.is_empty() {
        install(&absent)?;
    }
    if tools.contains(&Tool::QEMU) {
        check_qemu_version()
    } else {
        Ok(())
    }
}

/// Where `program` is: on the search path, or in the system folders that an ordinary user's path lacks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn install(absent: &[Tool<'_>]) -> Result<()> {
    let programs = absent.iter().map(|tool| tool.program).collect::<Vec<_>>().join(", ");
    if find("apt-get").is_none() {
        return Err(Failure::SetupMissing(format!(
            "missing: {programs}; please install them (QEMU 7.2 or newer)"
        )));
    }
    let packages: Vec<&str> = absent.iter().map(|tool| tool.package).collect();
    install_packages(&packages, &programs)?;
    if absent.iter().all(|tool| find(tool.program).is_some()) {
        Ok(())
    } else {
        Err(by_hand(&packages, &programs))
    }
}

fn by_hand(packages: &[&str], what: &str) -> Failure {
    Failure::SetupMissing(format!(
        "missing: {what}; install by: sudo apt-get install --no-install-recommends {}",
        packages.join(" ")
    ))
}

/// Installs packages for `what`, where that is allowed.
pub(crate) fn install_packages(packages: &[&str], what: &str) -> Result<()> {
    let mut packages = packages.to_vec();
    packages.sort_unstable();
    packages.dedup();
    let Some(privilege) = privilege().filter(|_| find("apt-get").is_some()) else {
        return Err(by_hand(&packages, what));
    };
    println!("installing {} for {what}", packages.join(", "));
    if !have_package_lists() && !apt_get(privilege, &["update"]) {
        return Err(by_hand(&packages, what));
    }
    let arguments = [&["install", "-y", "--no-install-recommends"], packages.as_slice()].concat();
    // The lists may name versions that the mirror no longer has: refresh them once.
    let installed =
        apt_get(privilege, &arguments) || (apt_get(privilege, &["update"]) && apt_get(privilege, &arguments));
    if installed {
        Ok(())
    } else {
        Err(by_hand(&packages, what))
    }
}

/// The words that give a command the right to install, if there are any that ask nothing.
fn privilege() -> Option<&'static [&'static str]> {
    let root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    if root {
        return Some(&[]);
    }
    let sudo = Command::new("sudo")
        .args(["-n", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    sudo.is_ok_and(|status| status.success()).then_some(&["sudo", "-n"])
}

fn have_package_lists() -> bool {
    fs::read_dir("/var/lib/apt/lists").is_ok_and(|files| {
        files
            .flatten()
            .any(|file| file.file_name().to_string_lossy().contains("_Packages"))
    })
}

fn apt_get(privilege: &[&str], arguments: &[&str]) -> bool {
    let words = [
        privilege,
        &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"],
        arguments,
    ]
    .concat();
    Command::new(words[0])
        .args(&words[1..])
        .status()
        .is_ok_and(|status| status.success())
}

/// What QEMU says of its version, in one line; empty if it can't be asked.
pub(crate) fn qemu_version_line() -> String {
    let output = Tool::QEMU.command().arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

fn check_qemu_version() -> Result<()> {
    match qemu_version(&qemu_version_line()) {
        Some(version) if version >= OLDEST_QEMU => Ok(()),
        Some((major, minor)) => Err(Failure::SetupMissing(format!(
            "QEMU is {major}.{minor}; 7.2 or newer is needed"
        ))),
        None => Err(Failure::SetupMissing(
            "qemu-system-aarch64 --version can't be understood".into(),
        )),
    }
}

/// Major and minor version from what `qemu-system-aarch64 --version` prints.
fn qemu_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text
        .split_once("version ")?
        .1
        .split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The folder that keeps what was downloaded, over all clones of the repository.
pub(crate) fn cache() -> Result<PathBuf> {
    let named = |variable: &str| {
        std::env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    named("PORTUNUS_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|folder| folder.join("portunus")))
        .or_else(|| named("HOME").map(|home| home.join(".cache/portunus")))
        .map(|folder| {
            if folder.is_absolute() {
                folder
            } else {
                Path::new("/").join(folder)
            }
        })
        .ok_or_else(|| Failure::SetupMissing("no place to keep downloads: set PORTUNUS_CACHE to a folder".into()))
}

#[cfg(test)]
mod tests {
    use super::qemu_version;

    #[test]
    fn the_version_of_qemu_is_read_from_its_first_line() {
        for (text, version) in [
            (
                "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright",
                Some((7, 2)),
            ),
            ("QEMU emulator version 10.0.2", Some((10, 0))),
            ("QEMU emulator version 9.1", Some((9, 1))),
            ("QEMU emulator version x", None),
            ("", None),
        ] {
            assert_eq!(qemu_version(text), version, "{text}");
        }
    }
}
