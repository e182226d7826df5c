//! What a scenario file says. A scenario is data: machine, modules, disks, what to type, what must and must not appear.
//!
//! The format is described for people in docs/scenarios.md. Unknown keys are refused, so that a misspelt one is noticed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::{Doing, Failure, Result, failed};

pub(crate) mod evidence;
pub(crate) mod machine;
pub(crate) mod series;

use evidence::{Documented, Growth, Journal, RECORD_GROUPS, Stops, Tally};
pub(crate) use machine::{BoardCard, Boot, CardMachine, Machine, MachineChoice, Matrix};
use series::{Copies, Series};

/// One scenario, as `qemu/NAME.toml` describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Scenario {
    /// The file's name without its ending.
    #[serde(skip)]
    pub(crate) name: String,
    /// The folder that it and its files are in.
    #[serde(skip)]
    pub(crate) folder: PathBuf,
    /// One line for `cargo xtask scenarios`.
    pub(crate) summary: String,
    /// The manifest: a device tree overlay beside the scenario file. Without one the scenario's name is taken.
    pub(crate) manifest: Option<PathBuf>,
    /// The machine it runs on where neither matrix nor options say otherwise.
    #[serde(default)]
    pub(crate) machine: MachineChoice,
    /// Who puts the hypervisor and the modules into memory.
    #[serde(default)]
    pub(crate) boot: Boot,
    /// Whose card U-Boot finds, where it is a board's.
    pub(crate) card: Option<BoardCard>,
    /// U-Boot's script in place of the one that is made of the manifest: a file beside the scenario file.
    pub(crate) boot_script: Option<PathBuf>,
    /// Whether U-Boot trusts one key, and starts only what is signed by it.
    #[serde(default)]
    pub(crate) signed: bool,
    /// The machines that `cargo xtask test` runs it on.
    #[serde(default)]
    pub(crate) matrix: Matrix,
    /// What is loaded into memory beside the hypervisor, by the name that the manifest uses.
    #[serde(default)]
    pub(crate) modules: BTreeMap<String, Module>,
    /// The machine's disks, in order.
    #[serde(default)]
    pub(crate) disks: Vec<Disk>,
    /// Numbers and words for manifest, script and expectations, as quick and as full size.
    #[serde(default)]
    pub(crate) parameters: BTreeMap<String, Parameter>,
    /// What to type once something has appeared.
    #[serde(default)]
    pub(crate) script: Vec<Step>,
    /// Lines that must appear, in this order.
    #[serde(default)]
    pub(crate) expect: Expectations,
    /// Lines that must not appear, beside those that never may.
    #[serde(default)]
    pub(crate) forbid: Vec<String>,
    /// Those of the lines that never may appear which this run provokes.
    #[serde(default)]
    pub(crate) allow: Vec<String>,
    /// Regular expressions whose matches must all be equal.
    #[serde(default)]
    pub(crate) same: Vec<String>,
    /// Figures that must grow as others do.
    #[serde(default)]
    pub(crate) growth: Vec<Growth>,
    /// Counts that documents tell as well.
    #[serde(default)]
    pub(crate) documented: Vec<Documented>,
    /// Numbers that are summed over the run.
    #[serde(default)]
    pub(crate) tally: Vec<Tally>,
    /// Moments at which somebody must wait.
    #[serde(default)]
    pub(crate) stops: Vec<Stops>,
    /// What guests say that they have written and flushed.
    #[serde(default)]
    pub(crate) journals: Vec<Journal>,
    /// Regular expressions for lines that the trace must have, in this order.
    #[serde(default)]
    pub(crate) trace: Vec<String>,
    /// When the run is over.
    #[serde(default)]
    pub(crate) ends: Ends,
    /// Seconds of wall-clock time after which the run has failed.
    #[serde(default = "default_timeout")]
    pub(crate) timeout: u64,
    /// Further programs that the run needs.
    #[serde(default)]
    pub(crate) needs: Vec<Need>,
    /// Whether `cargo xtask test` runs it only with `--full`.
    #[serde(default)]
    pub(crate) full_only: bool,
    /// What it measures. A scenario with rows is run by `cargo xtask bench`, and not by `cargo xtask test`.
    #[serde(default)]
    pub(crate) rows: BTreeMap<String, Goal>,
    /// What it measures at several sizes. A scenario with series is run by `cargo xtask bench NAME`.
    #[serde(default)]
    pub(crate) series: Vec<Series>,
    /// Parts of the manifest that it holds several times, by the name of their place.
    #[serde(default)]
    pub(crate) copies: BTreeMap<String, Copies>,
    /// How the guest is started on the same machine without a hypervisor, as a baseline.
    pub(crate) plain: Option<Plain>,
    /// How it is booted on Xen.
    pub(crate) xen: Option<OnXen>,
}

fn default_timeout() -> u64 {
    60
}

/// One thing that is loaded into memory. Exactly one of the sources is given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Module {
    /// A bare-metal package of this workspace.
    pub(crate) build: Option<String>,
    /// The arm64 kernel of the distribution, of this flavour.
    pub(crate) kernel: Option<KernelFlavour>,
    /// An initial file system of busybox and kernel modules.
    pub(crate) initramfs: Option<Initramfs>,
    /// A device tree source file beside the scenario file.
    pub(crate) device_tree: Option<PathBuf>,
    /// Any file, relative to the scenario file.
    pub(crate) file: Option<PathBuf>,
    /// Load it compressed by gzip.
    #[serde(default)]
    pub(crate) gzip: bool,
    /// Load only this many bytes of it, to see how a truncated file is taken.
    pub(crate) truncate: Option<usize>,
}

/// A flavour of the distribution's kernel.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KernelFlavour {
    /// The small one for virtual machines.
    Cloud,
    /// A small one with VirtIO over grants and over a window, built from the distribution's sources.
    Grants,
}

/// An initial file system.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Initramfs {
    /// Kernel modules to load, in this order; what they depend on is loaded before them.
    #[serde(default)]
    pub(crate) modules: Vec<String>,
    /// Shell lines to run then. Without them the root file system on /dev/vda is entered.
    pub(crate) init: Option<String>,
}

/// One disk of the machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Disk {
    /// The name of its file, for messages.
    pub(crate) name: String,
    /// Its size, as a number with K, M or G.
    pub(crate) size: String,
    /// What is on it when the run begins.
    #[serde(default)]
    pub(crate) contents: Contents,
    /// What must be on it when the run has ended.
    #[serde(default)]
    pub(crate) after: After,
    /// Whether the machine may write to it.
    #[serde(default)]
    pub(crate) read_only: bool,
}

/// What is on a disk when the run begins.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) enum Contents {
    /// Zeroes.
    #[default]
    Zeroes,
    /// The known pattern: see docs/scenarios.md.
    Pattern,
    /// Pseudo-random bytes made from this seed.
    Random(u64),
    /// The contents of a file beside the scenario file, from the start of the disk.
    File(PathBuf),
    /// An ext4 file system.
    Ext4(FileSystem),
}

/// An ext4 file system to make.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FileSystem {
    /// How much of the disk it takes, from the start; all of it if this isn't said.
    pub(crate) size: Option<String>,
    /// Whether busybox and its links, a root file system that boots to a shell, are on it.
    #[serde(default)]
    pub(crate) busybox: bool,
    /// Further files: absolute path to text. Those in /etc/init.d and those that begin with `#!` can be executed.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, String>,
}

/// What must be on a disk when the run has ended. Nothing said: it isn't looked at.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct After {
    /// The first half as it was, the second half with every bit inverted.
    #[serde(default)]
    pub(crate) second_half_inverted: bool,
    /// Everything as it was.
    #[serde(default)]
    pub(crate) unchanged: bool,
    /// Files of an ext4 file system: absolute path to a regular expression for the contents.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, String>,
    /// A file in the format of sha256sum on the ext4 file system: each file that it names is checked.
    pub(crate) sha256sums: Option<String>,
    /// The ext4 file system has no errors.
    #[serde(default)]
    pub(crate) clean: bool,
}

/// A parameter's two sizes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameter {
    /// Without `--full`.
    pub(crate) quick: toml::Value,
    /// With `--full`.
    pub(crate) full: toml::Value,
}

/// One step of a script.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    /// What must appear first, be it a whole line or a prompt.
    pub(crate) expect: String,
    /// What is typed then. `\u0001` is Ctrl-a; a line is sent with the newline that is in it.
    #[serde(default)]
    pub(crate) send: String,
    /// A command for QEMU's monitor, done before anything is typed.
    #[serde(default)]
    pub(crate) monitor: String,
}

/// Lines that must appear: one sequence, or several by name that are independent of each other.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Expectations {
    /// One sequence.
    One(Vec<String>),
    /// Several sequences, each in order.
    Several(BTreeMap<String, Vec<String>>),
}

impl Default for Expectations {
    fn default() -> Self {
        Self::One(Vec::new())
    }
}

impl Expectations {
    /// All sequences.
    pub(crate) fn sequences(&self) -> Vec<&[String]> {
        match self {
            Self::One(lines) => vec![lines],
            Self::Several(sequences) => sequences.values().map(Vec::as_slice).collect(),
        }
    }
}

/// When a run is over.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ends {
    /// The machine must end by itself, with status 0.
    #[default]
    ByItself,
    /// It is ended as soon as the script is through and everything expected has appeared.
    WhenSeen,
    /// The machine must end by itself with a status other than 0: the hypervisor refuses to go on.
    WithError,
}

/// A program that a run needs beside those that its modules and disks ask for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Need {
    /// The program's name.
    pub(crate) program: String,
    /// The Debian package that it comes in.
    pub(crate) package: String,
}

/// A figure that a benchmark's guest prints, what it should be, and what others need for the same.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Goal {
    /// The median may be at most this.
    pub(crate) goal: Option<u64>,
    /// The same on a machine with a GICv2, where it differs.
    pub(crate) gicv2_goal: Option<u64>,
    /// What Xen needs.
    pub(crate) peer: Option<u64>,
    /// The same on a machine with a GICv2.
    pub(crate) gicv2_peer: Option<u64>,
    /// What the least code that can do it needs.
    pub(crate) floor: Option<u64>,
    /// The same on a machine with a GICv2.
    pub(crate) gicv2_floor: Option<u64>,
    /// What others need, by name.
    #[serde(default)]
    pub(crate) others: BTreeMap<String, u64>,
}

impl Goal {
    /// Goal, Xen's figure and floor on a machine with this version of the interrupt controller.
    pub(crate) fn on(&self, gic: u32) -> (Option<u64>, Option<u64>, Option<u64>) {
        if gic == 2 {
            (self.gicv2_goal.or(self.goal), self.gicv2_peer, self.gicv2_floor)
        } else {
            (self.goal, self.peer, self.floor)
        }
    }
}

/// How a scenario is booted on Xen, whose own device tree bindings its manifest uses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct OnXen {
    /// Xen's command line.
    pub(crate) bootargs: String,
    /// QEMU's name of the CPU, where the user does not say.
    pub(crate) cpu: String,
}

/// How the guest is started on the bare machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Plain {
    /// The module that is the kernel.
    pub(crate) kernel: String,
    /// The module that is the initial file system.
    pub(crate) initrd: Option<String>,
    /// The kernel's command line.
    #[serde(default)]
    pub(crate) bootargs: String,
    /// The number of CPUs that the guest has.
    #[serde(default = "one")]
    pub(crate) smp: u32,
    /// The guest's memory in MiB.
    pub(crate) memory: Option<u32>,
    /// What matches this regular expression in lines must be the same there, line for line. Every run then includes one
    /// on the bare machine.
    pub(crate) compare: Option<String>,
}

fn one() -> u32 {
    1
}

impl Scenario {
    /// Reads the scenario `name` from `folder`.
    pub(crate) fn read(folder: &Path, name: &str) -> Result<Self> {
        let file = folder.join(format!("{name}.toml"));
        let text = fs::read_to_string(&file).map_err(|_| {
            let names = names(folder).unwrap_or_default().join(", ");
            Failure::Failed(format!("there is no scenario {name}; there are: {names}"))
        })?;
        let mut scenario = Self::parse(name, &text)?;
        scenario.folder = folder.into();
        if let Some(card) = &scenario.card {
            // What is on a board's card is described in the board's folder.
            let board = folder.join("../boards").join(&card.board);
            let image = Self::read(&board, "image")?;
            scenario.modules = image.modules;
            scenario.manifest = Some(image.manifest.unwrap_or_else(|| "image.dts".into()));
            scenario.folder = board;
        }
        Ok(scenario)
    }

    /// Reads a scenario from its text.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let mut scenario: Self = toml::from_str(text).doing(format!("qemu/{name}.toml"))?;
        scenario.name = name.into();
        scenario.check().doing(format!("qemu/{name}.toml"))?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        if self.boot != Boot::UBoot && (self.card.is_some() || self.boot_script.is_some() || self.signed) {
            return failed("a card, a script and a signature are found by boot = \"u-boot\" alone");
        }
        if self.card.is_some()
            && (self.signed || !self.modules.is_empty() || self.manifest.is_some() || self.boot_script.is_some())
        {
            return failed("a board's card has modules, manifest and script of its own");
        }
        for (name, module) in &self.modules {
            // It is a file's name on a card, and part of a node's name.
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if name.is_empty() || name.len() > 23 || !name.bytes().all(plain) {
                return failed(format!(
                    "modules.{name:?}: a name has 1 to 23 letters, digits and any of -._"
                ));
            }
            let sources = [
                module.build.is_some(),
                module.kernel.is_some(),
                module.initramfs.is_some(),
                module.device_tree.is_some(),
                module.file.is_some(),
            ];
            if sources.iter().filter(|given| **given).count() != 1 {
                return failed(format!(
                    "modules.{name}: give exactly one of build, kernel, initramfs, device-tree and file"
                ));
            }
        }
        for disk in &self.disks {
            let whole = size(&disk.size).doing(format!("disk {}", disk.name))?;
            if disk.file_system_size()? > whole {
                return failed(format!("disk {}: its file system does not fit", disk.name));
            }
        }
        if let Some(plain) = &self.plain {
            for module in [Some(&plain.kernel), plain.initrd.as_ref()].into_iter().flatten() {
                if !self.modules.contains_key(module) {
                    return failed(format!("plain: there is no module {module}"));
                }
            }
        }
        for journal in &self.journals {
            let (name, disk) = (&journal.name, &journal.disk);
            if !self.disks.iter().any(|known| known.name == *disk) {
                return failed(format!("journal {name}: there is no disk {disk}"));
            }
            if let Some(group) = RECORD_GROUPS.iter().find(|group| !names_group(&journal.record, group)) {
                return failed(format!("journal {name}: record has no group {group}"));
            }
        }
        self.machines()?;
        Ok(())
    }

    /// The machines that `cargo xtask test` runs it on; at least one.
    pub(crate) fn machines(&self) -> Result<Vec<Machine>> {
        self.matrix
            .choices()
            .iter()
            .map(|choice| choice.over(&self.machine).complete())
            .collect()
    }

    /// Whether `cargo xtask bench` runs it, and not `cargo xtask test`.
    pub(crate) fn is_benchmark(&self) -> bool {
        !self.rows.is_empty() || !self.series.is_empty()
    }

    /// Adds the manifest's repeated parts to `values`, which has the parameters and the modules.
    pub(crate) fn add_copies(&self, values: &mut BTreeMap<String, String>) -> Result<()> {
        for (name, copies) in &self.copies {
            let text = copies.text(values).doing(format!("copies.{name}"))?;
            values.insert(name.clone(), text);
        }
        Ok(())
    }

    /// The name of its manifest's file.
    pub(crate) fn manifest_file(&self) -> PathBuf {
        self.manifest
            .clone()
            .unwrap_or_else(|| format!("{}.dts", self.name).into())
    }

    /// The values of the parameters.
    pub(crate) fn parameters(&self, full: bool) -> BTreeMap<String, String> {
        let text = |value: &toml::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let value = |parameter: &Parameter| text(if full { &parameter.full } else { &parameter.quick });
        self.parameters
            .iter()
            .map(|(name, parameter)| (name.clone(), value(parameter)))
            .collect()
    }
}

/// Whether the regular expression `text` has a group of this name.
fn names_group(text: &str, group: &str) -> bool {
    text.contains(&format!("(?<{group}>")) || text.contains(&format!("(?P<{group}>"))
}

/// The names of all scenarios in `folder`, in alphabetical order.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).doing(format!("reading {}", folder.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
        .filter(|name| !name.contains('.'))
        .collect();
    names.sort();
    Ok(names)
}

/// A number of bytes from a text such as `64M`.
pub(crate) fn size(text: &str) -> Result<u64> {
    let (digits, unit) = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((digits, "K")) => (digits, 10),
        Some((digits, "M")) => (digits, 20),
        Some((digits, "G")) => (digits, 30),
        _ => (text, 0),
    };
    match digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << unit))
    {
        Some(bytes) if bytes > 0 && bytes % 512 == 0 => Ok(bytes),
        _ => failed(format!("size {text:?} is not a number of whole sectors with K, M or G")),
    }
}

/// Replaces each `${NAME}` in `text` by its value.
pub(crate) fn substitute(text: &str, values: &BTreeMap<String, String>) -> Result<String> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let line = text[..text.len() - rest.len() + before.len()].lines().count().max(1);
        let Some((name, after)) = after.split_once('}') else {
            return failed(format!("line {line}: ${{ without }}"));
        };
        let Some(value) = values.get(name) else {
            return failed(format!("line {line}: there is no module or parameter {name:?}"));
        };
        result.push_str(before);
        result.push_str(value);
        rest = after;
    }
    result.push_str(rest);
    Ok(result)
}

#[cfg(test)]
mod tests;
