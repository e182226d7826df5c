//! Unmodified arm64 kernels and a static busybox, from the distribution of the host.
//!
//! The packages come by apt-get with lists, cache and status of their own, so nothing is added to the system and no
//! rights are needed. What was unpacked is kept; delete the cache folder to get newer versions.

mod built;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Doing, Failure, Result};
use crate::scenario::KernelFlavour;
use crate::setup::{self, Tool};

/// A kernel package, unpacked.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// The kernel as it is in the package.
    pub(crate) image: PathBuf,
    /// The folder with its modules, which bears the kernel's version as its name.
    pub(crate) modules: Option<PathBuf>,
}

/// The distribution's kernel, downloaded if it isn't there yet.
pub(crate) fn kernel(flavour: KernelFlavour) -> Result<Kernel> {
    let package = match flavour {
        KernelFlavour::Cloud => "linux-image-cloud-arm64",
        KernelFlavour::Grants => {
            return Ok(Kernel {
                image: built::kernel()?,
                modules: None,
            });
        }
    };
    let folder = provide(package, true)?;
    let starting_with = |folder: &Path, start: &str| {
        let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
        entries.into_iter().find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(start))
        })
    };
    let image =
        starting_with(&folder.join("boot"), "vmlinuz-").ok_or_else(|| unobtainable(package, "has no kernel"))?;
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .find_map(|place| starting_with(&folder.join(place), ""));
    Ok(Kernel { image, modules })
}

/// The folder with device trees of boards that are used instead of the distribution's.
const BOARD_TREES: &str = "PORTUNUS_BOARD_DTB";

/// A device tree of the distribution's kernel, by its path among them, downloaded if it isn't there yet.
pub(crate) fn device_tree(path: &str) -> Result<PathBuf> {
    let own = std::env::var_os(BOARD_TREES).zip(Path::new(path).file_name());
    if let Some(file) = own
        .map(|(folder, name)| Path::new(&folder).join(name))
        .filter(|file| file.is_file())
    {
        return Ok(file);
    }
    let package = "linux-image-arm64";
    let folder = provide(package, true)?;
    let kernels = fs::read_dir(folder.join("usr/lib")).doing("looking for device trees")?;
    let files = kernels.flatten().map(|kernel| kernel.path().join(path));
    let found = files.into_iter().find(|file| file.is_file());
    found.ok_or_else(|| unobtainable(package, &format!("has no {path}")))
}

/// U-Boot for QEMU's own machine, downloaded if it isn't there yet.
pub(crate) fn u_boot() -> Result<PathBuf> {
    let package = "u-boot-qemu";
    let program = provide(package, false)?.join("usr/lib/u-boot/qemu_arm64/u-boot.bin");
    if program.is_file() {
        Ok(program)
    } else {
        Err(unobtainable(package, "has no u-boot.bin"))
    }
}

/// Xen for arm64, downloaded if it isn't there yet.
pub(crate) fn xen() -> Result<PathBuf> {
    let package = "xen-hypervisor-4.17-arm64";
    let folder = provide(package, false)?.join("boot");
    let files = fs::read_dir(&folder).doing("looking for Xen")?;
    let mut images = files.flatten().map(|file| file.path());
    let image = images.find(|path| path.to_string_lossy().ends_with("-arm64"));
    image.ok_or_else(|| unobtainable(package, "has no Image"))
}

/// A static busybox for arm64, downloaded if it isn't there yet.
pub(crate) fn busybox() -> Result<PathBuf> {
    let package = "busybox-static";
    let folder = provide(package, false)?;
    let program = ["bin/busybox", "usr/bin/busybox"]
        .iter()
        .map(|place| folder.join(place))
        .find(|file| file.is_file());
    program.ok_or_else(|| unobtainable(package, "has no busybox"))
}

fn unobtainable(package: &str, reason: &str) -> Failure {
    Failure::Skipped(format!(
        "the arm64 package {package} can't be had ({reason}); give your own by --kernel FILE --initrd FILE, device trees of \
         boards by {BOARD_TREES}=FOLDER"
    ))
}

/// The folder that `package` is unpacked in. A meta package stands for the first package that it depends on.
fn provide(package: &str, meta: bool) -> Result<PathBuf> {
    let cache = setup::cache()?;
    let folder = cache.join("arm64").join(package);
    if folder.is_dir() {
        return Ok(folder);
    }
    let work = cache.join(format!("unfinished-{}", std::process::id()));
    fs::create_dir_all(&work).doing(format!("creating {}", work.display()))?;
    let unpacked = download(package, meta, &work);
    let placed = unpacked.and_then(|unpacked| {
        fs::create_dir_all(cache.join("arm64")).doing("creating the cache")?;
        // Another process may have been quicker; then its folder is as good.
        fs::rename(&unpacked, &folder)
            .or_else(|error| if folder.is_dir() { Ok(()) } else { Err(error) })
            .doing("keeping it")
    });
    // Leftovers cost nothing but space, and the reason for a failure is in `placed`.
    let _ = fs::remove_dir_all(&work);
    placed.map(|()| folder)
}

fn download(package: &str, meta: bool, work: &Path) -> Result<PathBuf> {
    if setup::find("apt-get").is_none() {
        return Err(unobtainable(package, "there is no apt-get"));
    }
    setup::require(&[Tool::DPKG_DEB])?;
    for folder in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(work.join(folder)).doing("creating folders for apt-get")?;
    }
    fs::write(work.join("status"), "").doing("creating a status file for apt-get")?;
    println!("getting the arm64 package {package} from the distribution");
    apt(work, "apt-get", &["-q", "update"]).map_err(|reason| unobtainable(package, &reason))?;
    let mut wanted = package.to_owned();
    if meta {
        let depends = apt(work, "apt-cache", &["depends", package]).map_err(|reason| unobtainable(package, &reason))?;
        let first = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        wanted = first
            .ok_or_else(|| unobtainable(package, "it is unknown here"))?
            .to_owned();
    }
    apt(work, "apt-get", &["-q", "download", &wanted]).map_err(|reason| unobtainable(package, &reason))?;
    let files = fs::read_dir(work)
        .doing("looking for the package")?
        .flatten()
        .map(|entry| entry.path());
    let archive = files
        .into_iter()
        .find(|path| path.extension().is_some_and(|ending| ending == "deb"));
    let archive = archive.ok_or_else(|| unobtainable(package, "apt-get brought nothing"))?;
    let unpacked = work.join("unpacked");
    let status = Tool::DPKG_DEB
        .command()
        .arg("-x")
        .args([&archive, &unpacked])
        .status()
        .doing("running dpkg-deb")?;
    if status.success() {
        Ok(unpacked)
    } else {
        Err(unobtainable(package, "dpkg-deb can't unpack it"))
    }
}

/// Runs a program of apt's with everything that it writes inside `work`; returns what it printed, or its last complaint.
fn apt(work: &Path, program: &str, arguments: &[&str]) -> std::result::Result<String, String> {
    let folder = work.display();
    let output = Command::new(program)
        .current_dir(work)
        .args([
            "-o",
            &format!("Dir::State::lists={folder}/lists"),
            "-o",
            &format!("Dir::Cache={folder}/cache"),
        ])
        .args([
            "-o",
            &format!("Dir::State::status={folder}/status"),
            "-o",
            "Acquire::Languages=none",
        ])
        .args([
            "-o",
            "APT::Architecture=arm64",
            "-o",
            "APT::Architectures=arm64",
            "-o",
            "APT::Sandbox::User=root",
        ])
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!(
        "{program}: {}",
        complaint.lines().last().unwrap_or("failed").trim()
    ))
}
