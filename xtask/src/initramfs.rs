//! Makes an initial file system for Linux: busybox, kernel modules in an order that works, and a script.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use elf::ElfBytes;
use elf::endian::LittleEndian;

use crate::cpio::Archive;
use crate::failure::{Doing, Failure, Result, failed};
use crate::setup::Tool;

/// What the script does if the scenario says nothing else.
const ENTER_ROOT: &str = "\
mount -t ext4 /dev/vda /root || exec sh
mount --move /dev /root/dev
exec switch_root /root /sbin/init
";

/// Makes the archive: `busybox`, the kernel modules in `wanted` with all that they need, and a script that loads these
/// and goes on with `init`. Modules that are built into the kernel are skipped.
pub(crate) fn make(busybox: &Path, modules: Option<&Path>, wanted: &[String], init: Option<&str>) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules", "proc", "root", "sys", "tmp"] {
        archive.directory(folder);
    }
    archive.character_device("dev/console", 5, 1);
    let program = fs::read(busybox).doing(format!("reading {}", busybox.display()))?;
    archive.file("bin/busybox", &program, true);
    archive.link("bin/sh", "busybox");
    let mut script = String::from(
        "#!/bin/sh\n/bin/busybox --install -s /bin\nmount -t proc proc /proc\nmount -t sysfs sysfs /sys\n\
         mount -t devtmpfs devtmpfs /dev\n",
    );
    if let Some(modules) = modules {
        for (name, contents) in (Library::open(modules)?).in_order(wanted)? {
            archive.file(&format!("modules/{name}.ko"), &contents, false);
            script.push_str(&format!("insmod /modules/{name}.ko\n"));
        }
    }
    script.push_str(init.unwrap_or(ENTER_ROOT));
    archive.file("init", script.as_bytes(), true);
    Ok(archive.finish())
}

/// The modules of one kernel.
struct Library {
    files: Vec<PathBuf>,
    built_in: BTreeSet<String>,
}

impl Library {
    fn open(folder: &Path) -> Result<Self> {
        let built_in = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
        let built_in = built_in
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect();
        let mut files = Vec::new();
        collect(folder, &mut files).doing(format!("reading {}", folder.display()))?;
        Ok(Self { files, built_in })
    }

    /// The contents of the modules, each after those that it depends on.
    fn in_order(&self, wanted: &[String]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut ordered = Vec::new();
        let mut seen = BTreeSet::new();
        for name in wanted {
            self.add(&name.replace('-', "_"), &mut seen, &mut ordered)?;
        }
        Ok(ordered)
    }

    fn add(&self, name: &str, seen: &mut BTreeSet<String>, ordered: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        if self.built_in.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let file = self
            .files
            .iter()
            .find(|file| module_name(file).as_deref() == Some(name));
        let file = file.ok_or_else(|| Failure::Failed(format!("the kernel has no module {name}")))?;
        let contents = read_module(file)?;
        for needed in dependencies(&contents).doing(file.display())? {
            self.add(&needed, seen, ordered)?;
        }
        ordered.push((name.to_owned(), contents));
        Ok(())
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The name of a module from the name of its file, compressed or not. Dashes count as underscores.
fn module_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    Some(
        name.strip_suffix(".ko")
            .or_else(|| name.strip_suffix(".ko.xz"))?
            .replace('-', "_"),
    )
}

fn read_module(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_some_and(|ending| ending == "xz") {
        crate::setup::require(&[Tool::XZ])?;
        let output = Tool::XZ.command().arg("-dc").arg(file).output().doing("running xz")?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            failed(format!("xz can't unpack {}", file.display()))
        }
    } else {
        fs::read(file).doing(format!("reading {}", file.display()))
    }
}

/// The modules that this one depends on: the entry `depends=` of its section .modinfo.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(module).doing("reading the module")?;
    let section = elf.section_header_by_name(".modinfo").doing("reading the module")?;
    let Some(section) = section else { return Ok(Vec::new()) };
    let (data, _) = elf.section_data(&section).doing("reading the module")?;
    Ok(depends_entry(data))
}

fn depends_entry(modinfo: &[u8]) -> Vec<String> {
    let entries = modinfo
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok());
    let list = entries
        .into_iter()
        .find_map(|entry| entry.strip_prefix("depends="))
        .unwrap_or_default();
    list.split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{depends_entry, module_name};
    use std::path::Path;

    #[test]
    fn modules_are_known_by_their_file_names() {
        for (file, name) in [
            ("kernel/drivers/block/virtio_blk.ko", Some("virtio_blk")),
            ("kernel/drivers/char/hw_random/virtio-rng.ko.xz", Some("virtio_rng")),
            ("modules.dep", None),
        ] {
            assert_eq!(module_name(Path::new(file)).as_deref(), name);
        }
    }

    #[test]
    fn dependencies_are_read_from_the_module_information() {
        assert_eq!(
            depends_entry(b"license=GPL\0depends=virtio,virtio-ring\0name=x\0"),
            ["virtio", "virtio_ring"]
        );
        assert!(depends_entry(b"license=GPL\0depends=\0").is_empty());
        assert!(depends_entry(b"").is_empty());
    }
}
