//! A kernel that no distribution offers, built from the distribution's own sources: with VirtIO over grants and over a
//! restricted window, and as little as can be beside them.
//!
//! The source package is used as it is. The configuration is `kernel.config` beside this file; all else is off. What was
//! built is kept, by the version of the sources and the configuration; the sources are not.

use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{provide, unobtainable};
use crate::failure::{Doing, Failure, Result};
use crate::setup::{self, Tool};

const PACKAGE: &str = "linux-source";
const CONFIGURATION: &str = include_str!("kernel.config");
/// Files that a build compiles, more or less: for the progress.
const FILES: usize = 660;
/// Drivers that no configuration here has: two thirds of the sources.
const UNUSED: [&str; 8] = [
    "drivers/gpu",
    "drivers/infiniband",
    "drivers/media",
    "drivers/net",
    "drivers/scsi",
    "drivers/staging",
    "drivers/usb",
    "sound",
];
/// How often a build that nobody watches says how far it is.
const REPORTS: Duration = Duration::from_secs(30);

const TOOLS: [Tool<'_>; 9] = [
    tool("make", "make"),
    tool("gcc", "gcc"),
    tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    tool("flex", "flex"),
    tool("bison", "bison"),
    tool("bc", "bc"),
    tool("perl", "perl"),
    tool("tar", "tar"),
    Tool::XZ,
];

const fn tool(program: &'static str, package: &'static str) -> Tool<'static> {
    Tool { program, package }
}

/// The kernel, built if it isn't there yet.
pub(super) fn kernel() -> Result<PathBuf> {
    let kept = setup::cache()?.join("kernels");
    let ending = format!("-{:016x}", checksum(CONFIGURATION));
    let built = fs::read_dir(&kept).ok().and_then(|entries| {
        let mut folders = entries.flatten().map(|entry| entry.path());
        folders.find(|path| path.to_string_lossy().ends_with(&ending))
    });
    if let Some(folder) = built {
        return Ok(folder.join("Image"));
    }
    setup::require(&TOOLS)?;
    // The C library's headers come with the compiler only where recommendations are installed, too.
    if !Path::new("/usr/include/stdio.h").is_file() {
        setup::install_packages(&["libc6-dev"], "the host's C headers")?;
    }
    let sources = provide(PACKAGE, true)?;
    let archive = find_archive(&sources).ok_or_else(|| unobtainable(PACKAGE, "has no archive of sources"))?;
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let version = name.split_once(".tar").map_or(&*name, |(version, _)| version);
    let folder = kept.join(format!("{version}{ending}"));
    let work = setup::cache()?.join(format!("unfinished-{}", std::process::id()));
    fs::create_dir_all(&work).doing(format!("creating {}", work.display()))?;
    let placed = build(&archive, version, &work).and_then(|image| {
        let result = work.join("result");
        fs::create_dir_all(&result).doing("keeping the kernel")?;
        fs::rename(&image, result.join("Image")).doing("keeping the kernel")?;
        fs::create_dir_all(&kept).doing("keeping the kernel")?;
        // Another process may have been quicker; then its kernel is as good.
        fs::rename(&result, &folder)
            .or_else(|error| if folder.is_dir() { Ok(()) } else { Err(error) })
            .doing("keeping the kernel")
    });
    // Leftovers cost nothing but space, and the reason for a failure is in `placed`.
    let _ = fs::remove_dir_all(&work);
    placed?;
    let _ = fs::remove_dir_all(&sources);
    Ok(folder.join("Image"))
}

/// FNV-1a: the same on every host and with every compiler.
fn checksum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn find_archive(package: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(package.join("usr/src")).ok()?.flatten();
    let archive = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("linux-source") && name.contains(".tar.")
    };
    files.map(|entry| entry.path()).find(archive)
}

fn build(archive: &Path, version: &str, work: &Path) -> Result<PathBuf> {
    println!("building an arm64 kernel with XEN_VIRTIO from {version}: some minutes, once");
    let (source, output) = (work.join("source"), work.join("build"));
    for folder in [&source, &output] {
        fs::create_dir_all(folder).doing(format!("creating {}", folder.display()))?;
    }
    let mut unpack = Command::new("tar");
    unpack.arg("-xf").arg(archive).arg("-C").arg(&source);
    unpack.arg("--strip-components=1");
    // The largest parts of what is not built. What Kconfig and the Makefiles read stays.
    for folder in UNUSED {
        unpack.arg(format!("--exclude=*/{folder}/*.[chS]"));
    }
    for files in [
        "Documentation/*/*",
        "tools/perf/*",
        "tools/testing/*",
        "arch/[b-z]*/*.[chS]",
        "*.dts",
        "*.dtsi",
    ] {
        unpack.arg(format!("--exclude=linux-source*/{files}"));
    }
    unpack.env("LC_ALL", "C");
    succeed(&mut unpack, "unpacking the kernel's sources")?;
    let configuration = work.join("configuration");
    fs::write(&configuration, CONFIGURATION).doing("writing the kernel's configuration")?;
    let make = || {
        let mut make = Command::new("make");
        make.current_dir(&source).arg(format!("O={}", output.display()));
        make.args(["ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-"]);
        make
    };
    succeed(
        make().env("KCONFIG_ALLCONFIG", &configuration).arg("allnoconfig"),
        "configuring the kernel",
    )?;
    check_configuration(&output.join(".config"))?;
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut command = make();
    command.args(["-j", &jobs.to_string(), "Image"]);
    watch(&mut command)?;
    Ok(output.join("arch/arm64/boot/Image"))
}

/// An option that this version of the kernel does not have, or not without others, is left out silently.
fn check_configuration(file: &Path) -> Result<()> {
    let chosen = fs::read_to_string(file).doing("reading the kernel's configuration")?;
    let missing = CONFIGURATION
        .lines()
        .filter(|line| line.starts_with("CONFIG_") && !chosen.lines().any(|chosen| chosen == *line));
    match missing.collect::<Vec<_>>().join(" ") {
        missing if missing.is_empty() => Ok(()),
        missing => Err(unobtainable(PACKAGE, &format!("can't have {missing}"))),
    }
}

fn succeed(command: &mut Command, what: &str) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().doing(what)?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Failure::Failed(format!(
        "{what}: {}",
        complaint.lines().last().unwrap_or("failed").trim()
    )))
}

/// Runs a build and says how far it is.
fn watch(command: &mut Command) -> Result<()> {
    let what = "building the kernel";
    let (reader, writer) = std::io::pipe().doing(what)?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().doing(what)?)
        .stderr(writer);
    let started = Instant::now();
    let mut child = command.spawn().doing(what)?;
    // The command holds the writing end, too: without it the pipe ends with the child.
    *command = Command::new("make");
    let terminal = std::io::stdout().is_terminal();
    let (mut files, mut reported, mut last) = (0, Instant::now(), String::new());
    for line in BufReader::new(reader).lines().map_while(std::result::Result::ok) {
        files += usize::from(line.starts_with("  CC ") || line.starts_with("  AS "));
        let pause = if terminal { Duration::from_secs(1) } else { REPORTS };
        if reported.elapsed() >= pause {
            reported = Instant::now();
            let (done, seconds) = ((100 * files / FILES).min(99), started.elapsed().as_secs());
            let end = if terminal { "\r" } else { "\n" };
            print!("building the kernel: {done} %, {seconds} s{end}");
            // Only the progress would be missing.
            let _ = std::io::stdout().flush();
        }
        if !line.trim().is_empty() {
            last = line;
        }
    }
    let status = child.wait().doing(what)?;
    if !status.success() {
        return Err(Failure::Failed(format!("{what}: {last}")));
    }
    println!("built the kernel in {} s: {files} files", started.elapsed().as_secs());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{CONFIGURATION, checksum};

    #[test]
    fn the_checksum_is_the_published_one() {
        assert_eq!(checksum(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(checksum("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_configuration_is_comments_and_options_that_are_on() {
        for line in CONFIGURATION.lines() {
            let option = line.starts_with("CONFIG_") && line.ends_with("=y");
            assert!(option || line.starts_with('#') || line.is_empty(), "{line}");
        }
    }
}
