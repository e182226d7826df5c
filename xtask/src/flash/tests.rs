use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use super::device::{Device, System};
use super::{PIECE, compare, write};
use crate::failure::Result;

/// A folder that is gone after the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("portunus-flash-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }

    /// What the kernel would say of some devices: a card reader, a slot, a disk with a mounted partition, and swap.
    fn system(&self) -> System {
        let device = |name: &str, files: &[(&str, &str)]| {
            for (file, text) in files {
                self.file(&format!("block/{name}/{file}"), format!("{text}\n").as_bytes());
            }
        };
        device(
            "sdc",
            &[("dev", "8:32"), ("size", "15523840"), ("removable", "1"), ("ro", "0")],
        );
        device(
            "sdc",
            &[
                ("device/model", "Card Reader  "),
                ("sdc1/partition", "1"),
                ("sdc1/dev", "8:33"),
            ],
        );
        device("sdc1", &[("dev", "8:33"), ("size", "15515648"), ("partition", "1")]);
        device(
            "mmcblk0",
            &[
                ("dev", "179:0"),
                ("size", "15523840"),
                ("removable", "0"),
                ("device/type", "SD"),
            ],
        );
        device(
            "mmcblk1",
            &[
                ("dev", "179:8"),
                ("size", "15523840"),
                ("removable", "0"),
                ("device/type", "MMC"),
            ],
        );
        device("sdd", &[("dev", "8:48"), ("size", "2048"), ("removable", "1")]);
        device(
            "sde",
            &[("dev", "8:64"), ("size", "15523840"), ("removable", "1"), ("ro", "1")],
        );
        device(
            "sdf",
            &[
                ("dev", "8:80"),
                ("size", "15523840"),
                ("removable", "1"),
                ("sdf2/partition", "2"),
            ],
        );
        device("sdf", &[("sdf2/dev", "8:82")]);
        device(
            "sdg",
            &[
                ("dev", "8:96"),
                ("size", "15523840"),
                ("removable", "1"),
                ("sdg1/partition", "1"),
            ],
        );
        device("sdg", &[("sdg1/dev", "8:97"), ("sdg1/holders/dm-0", "")]);
        device("sdh", &[("dev", "8:112"), ("size", "15523840"), ("removable", "1")]);
        let mounts = "22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n\
                      98 22 8:82 / /media/card rw,nosuid - vfat /dev/sdf2 rw\n";
        System {
            block: self.0.join("block"),
            mounts: self.file("mounts", mounts.as_bytes()),
            swaps: self.file(
                "swaps",
                b"Filename Type Size Used Priority\n/dev/sdh partition 1 0 -2\n",
            ),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn yes(_: &str) -> Result<bool> {
    Ok(true)
}

fn contents(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index.wrapping_mul(0x9e37_79b9) >> 13) as u8)
        .collect()
}

#[test]
fn a_regular_file_holds_the_card_afterwards_whether_it_was_there_or_not() {
    let folder = Folder::new("file");
    let image = folder.file("image", &contents(2 * PIECE + 4096));
    let fresh = folder.0.join("fresh");
    let longer = folder.file("longer", &[0xff; 4 * PIECE]);
    for target in [fresh, longer] {
        write(&image, &target, false, &folder.system(), yes).unwrap();
        assert!(
            fs::read(&target).unwrap() == contents(2 * PIECE + 4096),
            "{}",
            target.display()
        );
    }
}

#[test]
fn who_does_not_say_yes_keeps_what_is_there() {
    let folder = Folder::new("no");
    let image = folder.file("image", &contents(100));
    let target = folder.file("target", b"a photograph");
    let asked = RefCell::new(String::new());
    let no = |question: &str| {
        asked.borrow_mut().push_str(question);
        Ok(false)
    };
    let error = write(&image, &target, false, &folder.system(), no)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "nothing was written");
    assert!(asked.borrow().contains(&target.display().to_string()), "{asked:?}");
    assert_eq!(fs::read(&target).unwrap(), b"a photograph");
}

#[test]
fn what_can_be_no_card_is_refused_in_one_line_before_anybody_is_asked() {
    let folder = Folder::new("kinds");
    let image = folder.file("image", &contents(100));
    let never = |_: &str| -> Result<bool> { panic!("asked") };
    for (target, reason) in [
        (folder.0.clone(), "is a folder"),
        (PathBuf::from("/dev/null"), "neither a block device nor a regular file"),
        (PathBuf::from("/dev/there-is-no-such-device"), "there is no"),
        (image.join("below-a-file"), "Not a directory"),
    ] {
        let error = write(&image, &target, true, &folder.system(), never)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(reason) && !error.contains('\n'),
            "{}: {error}",
            target.display()
        );
    }
    let missing = folder.0.join("missing");
    let error = write(&missing, &folder.0.join("x"), false, &folder.system(), never)
        .unwrap_err()
        .to_string();
    assert!(error.contains("missing"), "{error}");
}

#[test]
fn a_file_that_can_not_be_written_is_an_error_that_says_where() {
    let folder = Folder::new("full");
    let image = folder.file("image", &contents(100));
    let error = write(&image, &folder.0.join("no/such/folder"), false, &folder.system(), yes).unwrap_err();
    assert!(error.to_string().contains("no/such/folder"), "{error}");
}

#[test]
fn a_card_that_does_not_keep_a_byte_or_ends_too_early_is_noticed() {
    let folder = Folder::new("verify");
    let bytes = contents(PIECE + 10);
    let image = folder.file("image", &bytes);
    for place in [0, PIECE - 1, PIECE, PIECE + 9] {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1;
        let error = compare(&image, &folder.file("damaged", &damaged))
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("byte {place} differs")), "{error}");
    }
    let error = compare(&image, &folder.file("short", &bytes[..PIECE + 3]))
        .unwrap_err()
        .to_string();
    assert!(error.contains(&format!("byte {} differs", PIECE + 3)), "{error}");
    // A device is larger than what is on it.
    compare(&image, &folder.file("large", &[bytes.clone(), vec![7; 5000]].concat())).unwrap();
}

#[test]
fn devices_are_taken_or_refused_by_what_the_kernel_says_of_them() {
    let folder = Folder::new("devices");
    let system = folder.system();
    let size = 64 << 20;
    for (name, refused, even_forced) in [
        ("sdc", None, false),
        ("mmcblk0", None, false),
        ("mmcblk1", Some("mmcblk1 is built in"), false),
        ("sdc1", Some("is a partition"), true),
        ("sdd", Some("has 1048576 bytes, and the card needs 67108864"), true),
        ("sde", Some("is write-protected"), true),
        ("sdf", Some("sdf2 is mounted at /media/card"), false),
        ("sdg", Some("dm-0 is made of sdg1"), false),
        ("sdh", Some("sdh is swap space"), false),
    ] {
        let device = Device::named(name, &system).unwrap();
        match (device.check(size, false), refused) {
            (Ok(()), None) => {}
            (Err(error), Some(reason)) => assert!(error.to_string().contains(reason), "{name}: {error}"),
            (result, _) => panic!("{name}: {result:?}"),
        }
        assert_eq!(device.check(size, true).is_err(), even_forced, "{name} with --force");
    }
    assert_eq!(
        Device::named("sdc", &system).unwrap().to_string(),
        "7580 MiB, Card Reader"
    );
    assert!(Device::named("sdz", &system).is_err());
    assert!(Device::read(Path::new("/there/is/nothing"), &system).is_err());
}
