//! What the kernel knows of a block device: whether it is whole, removable, in use, and large enough.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Doing, Result, failed};

/// Where the kernel tells of devices.
#[derive(Clone, Debug)]
pub(super) struct System {
    /// A folder for each block device, by the kernel's name.
    pub(super) block: PathBuf,
    /// What is mounted.
    pub(super) mounts: PathBuf,
    /// What memory is swapped to.
    pub(super) swaps: PathBuf,
}

impl Default for System {
    fn default() -> Self {
        Self {
            block: "/sys/class/block".into(),
            mounts: "/proc/self/mountinfo".into(),
            swaps: "/proc/swaps".into(),
        }
    }
}

/// A block device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Device {
    name: String,
    model: String,
    bytes: u64,
    partition: bool,
    removable: bool,
    read_only: bool,
    /// What uses it or a partition of it.
    users: Vec<String>,
}

impl Device {
    /// Asks the kernel about the device with the file `path`.
    pub(super) fn read(path: &Path, system: &System) -> Result<Self> {
        let real = fs::canonicalize(path).doing(path.display())?;
        let name = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self::named(&name, system)
    }

    /// Asks the kernel about the device that it calls `name`.
    pub(super) fn named(name: &str, system: &System) -> Result<Self> {
        let folder = system.block.join(name);
        if !folder.is_dir() {
            return failed(format!("the kernel knows no block device {name}"));
        }
        let text = |file: &str| {
            let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
            text.trim().to_owned()
        };
        // What has the number of the device itself or of one of its partitions, which are folders in its own.
        let mut parts = vec![(name.to_owned(), text("dev"))];
        for entry in fs::read_dir(&folder).doing(folder.display())?.flatten() {
            if entry.path().join("partition").is_file() {
                let number = fs::read_to_string(entry.path().join("dev")).unwrap_or_default();
                parts.push((
                    entry.file_name().to_string_lossy().into_owned(),
                    number.trim().to_owned(),
                ));
            }
        }
        let mounts = fs::read_to_string(&system.mounts).doing(system.mounts.display())?;
        let swaps = fs::read_to_string(&system.swaps).unwrap_or_default();
        let mut users = Vec::new();
        for (part, number) in &parts {
            // Documentation/filesystems/proc.rst, 3.5: the third field is the device's number, the fifth the place.
            let lines = mounts.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let places = lines.filter(|fields| fields.get(2) == Some(&number.as_str()));
            users.extend(places.filter_map(|fields| Some(format!("{part} is mounted at {}", fields.get(4)?))));
            let swapped = swaps
                .lines()
                .any(|line| line.split_whitespace().next() == Some(&format!("/dev/{part}")));
            users.extend(swapped.then(|| format!("{part} is swap space")));
            let place = if part == name {
                folder.clone()
            } else {
                folder.join(part)
            };
            let holders = fs::read_dir(place.join("holders")).into_iter().flatten().flatten();
            users.extend(holders.map(|holder| format!("{} is made of {part}", holder.file_name().to_string_lossy())));
        }
        // A slot of the SoC's or a laptop's own SD controller does not call its cards removable.
        let removable = text("removable") == "1" || text("device/type") == "SD";
        let model = [text("device/model"), text("device/name")];
        Ok(Self {
            name: name.into(),
            model: model.into_iter().find(|model| !model.is_empty()).unwrap_or_default(),
            // Documentation/ABI: always in units of 512 bytes.
            bytes: text("size").parse::<u64>().unwrap_or(0).saturating_mul(512),
            partition: folder.join("partition").is_file(),
            removable,
            read_only: text("ro") == "1",
            users,
        })
    }

    /// Refuses what can't be or should not be written; with `force` only what can't.
    pub(super) fn check(&self, size: u64, force: bool) -> Result<()> {
        let name = &self.name;
        if self.partition {
            return failed(format!("{name} is a partition; a card is written as a whole"));
        }
        if self.read_only {
            return failed(format!("{name} is write-protected"));
        }
        if self.bytes < size {
            return failed(format!("{name} has {} bytes, and the card needs {size}", self.bytes));
        }
        if force {
            return Ok(());
        }
        if let Some(user) = self.users.first() {
            return failed(format!("{user}; unmount it first, or --force"));
        }
        if self.removable {
            Ok(())
        } else {
            failed(format!("{name} is built in, not a card; --force takes it nevertheless"))
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.bytes >> 20)?;
        if self.model.is_empty() {
            Ok(())
        } else {
            write!(f, ", {}", self.model)
        }
    }
}
