//! The command line of QEMU, the same for describing the machine and for running it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::distribution;
use crate::failure::{Doing, Result, failed};
use crate::manifest::Loaded;
use crate::scenario::Machine;
use crate::setup::{Tool, find};

mod board;

pub(crate) use board::{Board, IMAGE_OFFSET};

/// The port that `--gdb` listens on.
pub(crate) const GDB_PORT: u16 = 1234;

/// Transports that share a page can't be passed through apart: the machine has eight of 0x200 bytes in each 4 KiB page.
const TRANSPORTS_IN_A_PAGE: usize = 8;

/// The machine has four pages of transports.
const MOST_DISKS: usize = 4;

/// A disk of the machine.
#[derive(Clone, Debug)]
pub(crate) struct MachineDisk {
    /// The file behind it.
    pub(crate) file: PathBuf,
    /// Whether the machine may not write to it.
    pub(crate) read_only: bool,
}

/// Everything that decides how QEMU is started.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// The machine.
    pub(crate) machine: &'a Machine,
    /// Whether it has EL2.
    pub(crate) virtualization: bool,
    /// Its disks.
    pub(crate) disks: &'a [MachineDisk],
    /// Whether the emulation may use one host thread for each CPU.
    pub(crate) multi_threaded: bool,
}

/// What is put into the machine's memory before it starts.
#[derive(Debug, Default)]
pub(crate) struct Payload<'a> {
    /// What the machine starts with instead of a kernel, which it finds by itself. The device tree, if any, is its own.
    pub(crate) firmware: Option<PathBuf>,
    /// An arm64 Image that is entered.
    pub(crate) kernel: PathBuf,
    /// Its device tree, where it isn't QEMU's own.
    pub(crate) device_tree: Option<PathBuf>,
    /// Its initial file system.
    pub(crate) initrd: Option<PathBuf>,
    /// Its command line.
    pub(crate) bootargs: Option<String>,
    /// Further modules.
    pub(crate) modules: &'a [Loaded],
    /// Whether to wait for a debugger.
    pub(crate) gdb: bool,
    /// A file that is to hold the machine's memory.
    pub(crate) memory: Option<PathBuf>,
}

impl Launch<'_> {
    /// Writes the machine's device tree to `file`.
    pub(crate) fn dump_tree(&self, file: &Path) -> Result<()> {
        if let Some(tree) = self.machine.board.tree() {
            let tree = distribution::device_tree(tree)?;
            fs::copy(&tree, file).doing(format!("copying {}", tree.display()))?;
            return Ok(());
        }
        let mut command = Tool::QEMU.command();
        self.describe(&mut command, &format!(",dumpdtb={}", file.display()))?;
        let output = command.output().doing("running QEMU")?;
        if output.status.success() && file.is_file() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        failed(format!(
            "QEMU refuses the machine: {}",
            text.lines().last().unwrap_or("it says nothing")
        ))
    }

    /// The command that runs the machine.
    pub(crate) fn run(&self, payload: &Payload<'_>) -> Result<Command> {
        let program = find(Tool::QEMU.program).unwrap_or_else(|| Tool::QEMU.program.into());
        // Where possible QEMU ends when this process does, whatever ended it.
        let mut command = match find("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        let suffix = match &payload.memory {
            Some(file) => {
                let (file, size) = (escape(file), self.machine.memory);
                let memory = format!("memory-backend-file,id=memory,share=on,size={size}M,mem-path={file}");
                command.args(["-object", &memory]);
                ",memory-backend=memory"
            }
            None => "",
        };
        self.describe(&mut command, suffix)?;
        match (&payload.firmware, self.machine.board) {
            (Some(firmware), Board::QemuVirt) => {
                command.args(["-semihosting", "-bios"]).arg(firmware);
                if let Some(tree) = &payload.device_tree {
                    command.arg("-dtb").arg(tree);
                }
            }
            (Some(_), Board::XlnxZcu102) => return failed("this board has no firmware in QEMU"),
            (None, Board::QemuVirt) => boot(&mut command, payload),
            (None, Board::XlnxZcu102) => self.load(&mut command, payload)?,
        }
        for module in payload.modules.iter().filter(|module| module.size > 0) {
            load_raw(&mut command, &module.file, module.address, "");
        }
        if payload.gdb {
            command.args(["-S", "-gdb", &format!("tcp:127.0.0.1:{GDB_PORT}")]);
        }
        Ok(command)
    }

    /// Puts the hypervisor and its device tree into memory, and before them what enters it: QEMU's own boot loader writes
    /// nodes of memory that this board does not have.
    fn load(&self, command: &mut Command, payload: &Payload<'_>) -> Result<()> {
        let board = self.machine.board;
        let (Some(tree), None) = (&payload.device_tree, &payload.initrd) else {
            return failed("this board boots nothing but the hypervisor");
        };
        let loader = tree.with_file_name("loader.bin");
        let device_tree = board.device_tree() + self.machine.tree_offset;
        let image = board.image() + self.machine.image_offset;
        fs::write(&loader, board::loader(image, device_tree)).doing(format!("writing {}", loader.display()))?;
        load_raw(command, &loader, board.memory(), ",cpu-num=0");
        load_raw(command, &payload.kernel, image, "");
        load_raw(command, tree, device_tree, "");
        Ok(())
    }

    fn describe(&self, command: &mut Command, suffix: &str) -> Result<()> {
        let machine = self.machine;
        match machine.board {
            Board::QemuVirt => self.describe_virt(command, suffix),
            Board::XlnxZcu102 if !self.disks.is_empty() => return failed("this board has no disks in QEMU"),
            Board::XlnxZcu102 => {
                command
                    .args(["-M", &format!("xlnx-zcu102,virtualization=on{suffix}")])
                    // Its display has sound, which must go somewhere.
                    .args(["-audiodev", "none,id=none"]);
            }
        }
        command
            .args(["-smp", &machine.smp.to_string(), "-m", &machine.memory.to_string()])
            .args(["-nodefaults", "-display", "none"])
            .args([
                "-chardev",
                "stdio,id=console,mux=off,signal=off",
                "-serial",
                "chardev:console",
            ]);
        match &machine.icount {
            Some(icount) => command.args(["-icount", icount]),
            None if self.multi_threaded => command.args(["-accel", "tcg,thread=multi"]),
            None => command.args(["-accel", "tcg,thread=single"]),
        };
        self.add_disks(command)?;
        command.args(&machine.arguments);
        Ok(())
    }

    fn describe_virt(&self, command: &mut Command, suffix: &str) {
        let machine = self.machine;
        let el2 = if self.virtualization { "on" } else { "off" };
        // The default algorithm of pointer authentication is slow to emulate.
        let max = machine.cpu == "max" || machine.cpu.starts_with("max,");
        let quick = if max && !machine.cpu.contains("pauth") {
            ",pauth-impdef=on"
        } else {
            ""
        };
        command
            .args([
                "-M",
                &format!("virt,virtualization={el2},gic-version={}{suffix}", machine.gic),
            ])
            .args(["-cpu", &format!("{}{quick}", machine.cpu)])
            .args(["-global", "virtio-mmio.force-legacy=false"]);
    }

    fn add_disks(&self, command: &mut Command) -> Result<()> {
        if self.disks.len() > MOST_DISKS {
            return failed(format!(
                "{} disks: the machine has pages for {MOST_DISKS}",
                self.disks.len()
            ));
        }
        for (index, disk) in self.disks.iter().enumerate() {
            let (file, read_only) = (escape(&disk.file), if disk.read_only { ",readonly=on" } else { "" });
            let bus = index * TRANSPORTS_IN_A_PAGE;
            command
                .args([
                    "-drive",
                    &format!("if=none,id=disk{index},format=raw,file={file}{read_only}"),
                ])
                .args([
                    "-device",
                    &format!("virtio-blk-device,drive=disk{index},bus=virtio-mmio-bus.{bus}"),
                ]);
        }
        Ok(())
    }
}

/// Lets QEMU's boot loader enter the kernel.
fn boot(command: &mut Command, payload: &Payload<'_>) {
    command.args(["-semihosting", "-kernel"]).arg(&payload.kernel);
    for (option, file) in [("-dtb", &payload.device_tree), ("-initrd", &payload.initrd)] {
        if let Some(file) = file {
            command.arg(option).arg(file);
        }
    }
    if let Some(bootargs) = &payload.bootargs {
        command.args(["-append", bootargs]);
    }
}

/// Loads the bytes of `file` to `address`.
fn load_raw(command: &mut Command, file: &Path, address: u64, more: &str) {
    let file = escape(file);
    command.args([
        "-device",
        &format!("loader,file={file},addr={address:#x},force-raw=on{more}"),
    ]);
}

/// A file name inside an option of QEMU: commas are doubled.
fn escape(file: &Path) -> String {
    file.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::{Launch, MachineDisk, Payload};
    use crate::manifest::Loaded;
    use crate::scenario::MachineChoice;

    #[test]
    fn disks_get_pages_of_their_own_and_modules_their_addresses() {
        let machine = MachineChoice {
            gic: Some(2),
            ..MachineChoice::default()
        }
        .complete()
        .unwrap();
        let disk = |name: &str| MachineDisk {
            file: name.into(),
            read_only: name == "b",
        };
        let disks = [disk("a,x"), disk("b")];
        let launch = Launch {
            machine: &machine,
            virtualization: true,
            disks: &disks,
            multi_threaded: false,
        };
        let modules = [Loaded {
            name: "m".into(),
            file: "m.img".into(),
            address: 0x5000_0000,
            size: 1,
        }];
        let payload = Payload {
            kernel: "k".into(),
            modules: &modules,
            gdb: true,
            ..Payload::default()
        };
        let line = format!("{:?}", launch.run(&payload).unwrap()).replace('"', "");
        for part in [
            "-M virt,virtualization=on,gic-version=2",
            "-cpu max,pauth-impdef=on",
            "file=a,,x",
            "file=b,readonly=on",
            "drive=disk0,bus=virtio-mmio-bus.0",
            "drive=disk1,bus=virtio-mmio-bus.8",
            "loader,file=m.img,addr=0x50000000,force-raw=on",
            "-S -gdb tcp:127.0.0.1:1234",
        ] {
            assert!(line.contains(part), "{line} lacks {part}");
        }
    }

    #[test]
    fn more_disks_than_pages_are_refused() {
        let machine = MachineChoice::default().complete().unwrap();
        let disks = vec![
            MachineDisk {
                file: "a".into(),
                read_only: false
            };
            5
        ];
        let launch = Launch {
            machine: &machine,
            virtualization: true,
            disks: &disks,
            multi_threaded: false,
        };
        assert!(launch.run(&Payload::default()).is_err());
    }
}
