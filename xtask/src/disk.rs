//! The machine's disks: what is on them before a run, and whether the right thing is on them after it.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use regex_lite::Regex;

use crate::failure::{Doing, Result, failed};
use crate::scenario::{Contents, Disk, FileSystem, size};
use crate::setup::{self, Tool};

/// Bytes that are made or compared at once.
const PIECE: usize = 1 << 20;

/// What busybox's init does on a root file system that says nothing else.
const INITTAB: &str = "::sysinit:/etc/init.d/rcS\n::respawn:-/bin/sh\n::ctrlaltdel:/sbin/reboot\n";
const RC_S: &str = "#!/bin/sh\n/bin/busybox --install -s /bin\nmount -t proc proc /proc\nmount -t sysfs sysfs /sys\n\
                    mount -o remount,rw /\n";

impl Disk {
    /// The programs that making and checking it takes.
    pub(crate) fn tools(&self) -> Vec<Tool<'static>> {
        match self.contents {
            Contents::Ext4(_) => vec![Tool::MAKE_EXT4, Tool::DEBUG_EXT4, Tool::CHECK_EXT4],
            _ => Vec::new(),
        }
    }

    /// How many bytes at its start are the file system's, if there is one.
    pub(crate) fn file_system_size(&self) -> Result<u64> {
        let part = match &self.contents {
            Contents::Ext4(files) => files.size.as_ref(),
            _ => None,
        };
        size(part.unwrap_or(&self.size)).doing(format!("disk {}", self.name))
    }

    /// Makes the disk in `folder` and returns its file. `beside` is where files that the scenario names are.
    pub(crate) fn make(&self, folder: &Path, beside: &Path, busybox: Option<&Path>) -> Result<PathBuf> {
        let path = folder.join(format!("{}.disk", self.name));
        let size = size(&self.size)?;
        let what = format!("making disk {}", self.name);
        let file = File::create(&path).doing(&what)?;
        file.set_len(size).doing(&what)?;
        match &self.contents {
            Contents::Zeroes => {}
            Contents::Pattern => write_words(file, size, pattern).doing(&what)?,
            Contents::Random(seed) => {
                let mut state = *seed;
                write_words(file, size, move |_| split_mix(&mut state)).doing(&what)?;
            }
            Contents::File(source) => {
                let contents = fs::read(beside.join(source)).doing(format!("{what}: {}", source.display()))?;
                if contents.len() as u64 > size {
                    return failed(format!("{what}: {} does not fit", source.display()));
                }
                { file }.write_all(&contents).doing(&what)?;
            }
            Contents::Ext4(files) => make_ext4(files, &path, self.file_system_size()?, folder, busybox)?,
        }
        if self.after.unchanged || self.after.second_half_inverted {
            fs::copy(&path, before(&path)).doing(&what)?;
        }
        Ok(path)
    }

    /// Looks at the disk after the run.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        let what = format!("disk {}", self.name);
        let after = &self.after;
        let half = size(&self.size)? / 2;
        if after.unchanged {
            compare(path, |_| 0).doing(&what)?;
        }
        if after.second_half_inverted {
            compare(path, |offset| if offset < half { 0 } else { 0xff }).doing(&what)?;
        }
        if after.clean || after.sha256sums.is_some() || !after.files.is_empty() {
            // What the guest wrote may be in the journal only, where debugfs doesn't look. Its verdict comes below.
            Tool::CHECK_EXT4
                .command()
                .arg("-p")
                .arg(path)
                .output()
                .doing("running e2fsck")?;
        }
        if after.clean {
            let status = Tool::CHECK_EXT4
                .command()
                .args(["-f", "-n"])
                .arg(path)
                .output()
                .doing("running e2fsck")?
                .status;
            if !status.success() {
                return failed(format!("{what}: e2fsck finds errors in the file system"));
            }
        }
        for (name, expression) in &after.files {
            let expression = Regex::new(expression).doing(format!("{what}: the regular expression for {name}"))?;
            let text = read_ext4(path, name).doing(&what)?;
            if !expression.is_match(&text) {
                let start: String = text.chars().take(80).collect();
                return failed(format!(
                    "{what}: {name} holds {start:?}, which does not match {:?}",
                    expression.as_str()
                ));
            }
        }
        if let Some(list) = &after.sha256sums {
            check_sums(path, list).doing(&what)?;
        }
        Ok(())
    }
}

/// The word at `index` (counted in 8-byte words, little-endian) of the known pattern: its offset in bytes combined with
/// "Portunus" in ASCII, as guests/demo checks it.
fn pattern(index: u64) -> u64 {
    (index * 8) ^ 0x506f_7274_756e_7573
}

/// The generator SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn write_words(file: File, size: u64, mut word: impl FnMut(u64) -> u64) -> std::io::Result<()> {
    let mut writer = BufWriter::with_capacity(PIECE, file);
    for index in 0..size / 8 {
        writer.write_all(&word(index).to_le_bytes())?;
    }
    writer.flush()
}

fn before(path: &Path) -> PathBuf {
    path.with_extension("before")
}

/// Compares the disk with what it was, each byte combined by exclusive or with `change` of its piece's offset.
fn compare(path: &Path, change: impl Fn(u64) -> u8) -> Result<()> {
    let open = |path: &Path| File::open(path).doing(path.display()).map(BufReader::new);
    let (mut now, mut then) = (open(path)?, open(&before(path))?);
    let (mut new, mut old) = (vec![0; 512], vec![0; 512]);
    let length = fs::metadata(before(path)).doing("reading the disk's size")?.len();
    if fs::metadata(path).doing("reading the disk's size")?.len() != length {
        return failed("its size has changed");
    }
    for offset in (0..length).step_by(512) {
        now.read_exact(&mut new).doing("reading")?;
        then.read_exact(&mut old).doing("reading")?;
        let change = change(offset);
        if let Some(at) = new.iter().zip(&old).position(|(new, old)| *new != *old ^ change) {
            let (found, wanted) = (new[at], old[at] ^ change);
            return failed(format!(
                "byte {:#x} is {found:#04x} and should be {wanted:#04x}",
                offset + at as u64
            ));
        }
    }
    Ok(())
}

fn make_ext4(files: &FileSystem, path: &Path, size: u64, folder: &Path, busybox: Option<&Path>) -> Result<()> {
    let root = folder.join("root");
    let _ = fs::remove_dir_all(&root);
    fill_root(files, &root, busybox).doing("making a root file system")?;
    let output = Tool::MAKE_EXT4
        .command()
        .args(["-q", "-F", "-E", "root_owner=0:0", "-d"])
        .arg(&root)
        .arg(path)
        .arg(format!("{}k", size / 1024))
        .output()
        .doing("running mkfs.ext4")?;
    let _ = fs::remove_dir_all(&root);
    if output.status.success() {
        return Ok(());
    }
    failed(format!("mkfs.ext4: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn fill_root(files: &FileSystem, root: &Path, busybox: Option<&Path>) -> std::io::Result<()> {
    for name in ["bin", "dev", "etc/init.d", "proc", "root", "sys", "tmp"] {
        fs::create_dir_all(root.join(name))?;
    }
    let write = |name: &str, text: &str| {
        let path = root.join(name.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(&path, text)?;
        let program = text.starts_with("#!") || name.starts_with("/etc/init.d/");
        fs::set_permissions(&path, fs::Permissions::from_mode(if program { 0o755 } else { 0o644 }))
    };
    if let Some(busybox) = busybox.filter(|_| files.busybox) {
        fs::copy(busybox, root.join("bin/busybox"))?;
        fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
        symlink("busybox", root.join("bin/sh"))?;
        symlink("bin", root.join("sbin"))?;
        symlink("busybox", root.join("bin/init"))?;
        write("/etc/inittab", INITTAB)?;
        write("/etc/init.d/rcS", RC_S)?;
    }
    files.files.iter().try_for_each(|(name, text)| write(name, text))
}

fn read_ext4(disk: &Path, name: &str) -> Result<String> {
    let output = Tool::DEBUG_EXT4
        .command()
        .args(["-R", &format!("cat {name}")])
        .arg(disk)
        .output()
        .doing("running debugfs")?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    // Whatever happens debugfs exits with 0; after its version it prints only complaints.
    match complaint.lines().find(|line| !line.starts_with("debugfs ")) {
        Some(line) => failed(format!("{name}: {line}")),
        None => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
    }
}

/// Checks the files that `list`, a file in the format of sha256sum on the file system, names by absolute paths.
fn check_sums(disk: &Path, list: &str) -> Result<()> {
    setup::require(&[Tool {
        program: "sha256sum",
        package: "coreutils",
    }])?;
    let text = read_ext4(disk, list)?;
    if text.trim().is_empty() {
        return failed(format!("{list} names no file"));
    }
    let copy = disk.with_extension("copy");
    for line in text.lines() {
        let Some((sum, name)) = line.split_once("  ") else {
            return failed(format!("{list}: {line:?} is no checksum"));
        };
        let command = format!("dump {name} {}", copy.display());
        Tool::DEBUG_EXT4
            .command()
            .args(["-R", &command])
            .arg(disk)
            .output()
            .doing("running debugfs")?;
        let output = Command::new("sha256sum")
            .arg(&copy)
            .output()
            .doing("running sha256sum")?;
        let _ = fs::remove_file(&copy);
        let found = String::from_utf8_lossy(&output.stdout).into_owned();
        if found.split_whitespace().next() != Some(sum) {
            return failed(format!(
                "{name} does not have the checksum that the guest wrote to {list}"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::path::PathBuf;

    use crate::scenario::{After, Contents, Disk};

    /// A folder of its own for each test.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("portunus-xtask-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn disk(contents: Contents, after: After) -> Disk {
        Disk {
            name: "d".into(),
            size: "8K".into(),
            contents,
            after,
            read_only: false,
        }
    }

    #[test]
    fn an_inverted_second_half_is_told_from_everything_else() {
        let folder = folder("inverted");
        let disk = disk(
            Contents::Pattern,
            After {
                second_half_inverted: true,
                ..After::default()
            },
        );
        let path = disk.make(&folder, &folder, None).unwrap();
        assert!(disk.check(&path).unwrap_err().to_string().contains("byte 0x1000"));
        let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut half = vec![0; 4096];
        file.seek(SeekFrom::Start(4096)).unwrap();
        file.read_exact(&mut half).unwrap();
        half.iter_mut().for_each(|byte| *byte = !*byte);
        file.seek(SeekFrom::Start(4096)).unwrap();
        file.write_all(&half).unwrap();
        disk.check(&path).unwrap();
        file.seek(SeekFrom::Start(17)).unwrap();
        file.write_all(b"x").unwrap();
        assert!(disk.check(&path).unwrap_err().to_string().contains("byte 0x11 is 0x78"));
        file.set_len(4096).unwrap();
        assert!(disk.check(&path).unwrap_err().to_string().contains("size"));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn random_contents_depend_on_the_seed_alone_and_a_changed_disk_is_noticed() {
        let folder = folder("random");
        let disk = |seed| {
            disk(
                Contents::Random(seed),
                After {
                    unchanged: true,
                    ..After::default()
                },
            )
        };
        let contents = |seed| {
            let path = disk(seed).make(&folder, &folder, None).unwrap();
            disk(seed).check(&path).unwrap();
            fs::read(path).unwrap()
        };
        assert_eq!(contents(1), contents(1));
        assert_ne!(contents(1), contents(2));
        let path = disk(3).make(&folder, &folder, None).unwrap();
        fs::write(&path, vec![0; 8192]).unwrap();
        assert!(disk(3).check(&path).is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_is_larger_than_the_disk_is_refused() {
        let folder = folder("file");
        fs::write(folder.join("large"), vec![1; 8193]).unwrap();
        assert!(
            disk(Contents::File("large".into()), After::default())
                .make(&folder, &folder, None)
                .is_err()
        );
        fs::remove_dir_all(folder).unwrap();
    }
}
