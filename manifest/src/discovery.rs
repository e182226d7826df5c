//! What a board needs to know of its device tree before it can do anything: a function from values to values, which the
//! machine's code performs and tests on a PC call with device trees of real boards.
//!
//! Guarantee: what is mapped as memory is RAM that firmware does not keep, and holds no register that EL2 drives.

use alloc::format;
use alloc::vec::Vec;

use crate::error::{ManifestError, Reason};
use crate::host::{Conduit, Gic, Host, HostCpu, Uart, joined};
use portunus_base::ids::{IntId, PcpuId};
use portunus_base::range::PaRange;

/// A console that there is a driver for.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Console {
    /// Which of the board's drivers.
    pub driver: usize,
    /// Where its registers begin.
    pub registers: u64,
}

impl Console {
    /// The one that `uart` is or, for what must be said where that has no driver, the board's own at `early`: one of the
    /// first driver's. `drivers` are the names that each driver's devices have in device trees.
    pub fn best(uart: Option<&Uart>, drivers: &[&[&str]], early: u64) -> Option<Self> {
        let named = uart.and_then(|uart| {
            Some(Self {
                driver: driver(uart, drivers)?,
                registers: uart.registers.start.0,
            })
        });
        let own = Self {
            driver: 0,
            registers: early,
        };
        named.or((!drivers.is_empty()).then_some(own))
    }

    /// What is mapped for it: a driver uses one page.
    pub const fn page(self) -> PaRange {
        PaRange::new(self.registers, 1).pages()
    }
}

/// The driver for `uart`, if there is one.
pub fn driver(uart: &Uart, drivers: &[&[&str]]) -> Option<usize> {
    let drives = |names: &&[&str]| uart.compatible.iter().any(|name| names.contains(&name.as_str()));
    drivers.iter().position(drives)
}

/// The interrupts that EL2 itself takes.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Interrupts {
    /// Its own timer.
    pub hypervisor_timer: IntId,
    /// The guests' timer.
    pub virtual_timer: IntId,
    /// The virtual CPU interface wants something.
    pub maintenance: IntId,
    /// The console's.
    pub console: Option<IntId>,
}

/// What a board does with its device tree.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Discovery {
    /// How firmware is called.
    pub conduit: Option<Conduit>,
    /// The console.
    pub console: Option<Console>,
    /// RAM that EL2 maps, the device tree's own pages first.
    pub ram: Vec<PaRange>,
    /// Registers that EL2 maps.
    pub devices: Vec<PaRange>,
    /// Interrupts that EL2 takes.
    pub interrupts: Interrupts,
}

impl Discovery {
    /// For a machine with its device tree at `blob`, on a board with these drivers of consoles.
    ///
    /// # Errors
    /// RAM where there are registers that EL2 drives.
    pub fn new(host: &Host, drivers: &[&[&str]], early: u64, blob: PaRange) -> Result<Self, ManifestError> {
        let console = Console::best(host.uart.as_ref(), drivers, early);
        let mut devices = alloc::vec![host.gic.distributor()];
        match &host.gic {
            Gic::V2(gic) => devices.extend([gic.cpu_interface, gic.hypervisor_interface]),
            Gic::V3(gic) => devices.extend(gic.redistributors.iter().copied()),
        }
        devices.extend(console.map(Console::page));
        devices.extend(host.rtc);
        let devices: Vec<PaRange> = devices.into_iter().map(PaRange::pages).collect();
        let mut ram = alloc::vec![blob.pages()];
        for bank in &host.memory {
            if let Some(device) = devices.iter().find(|device| device.overlaps(*bank)) {
                let owner = format!("the device at {device}");
                return Err(ManifestError::new("/", "memory", Reason::Taken { range: *bank, owner }));
            }
            without(bank.pages(), &host.reserved, &mut ram);
        }
        Ok(Self {
            conduit: host.psci.map(|psci| psci.conduit),
            console,
            ram,
            devices,
            interrupts: Interrupts {
                hypervisor_timer: host.timer.hypervisor.id,
                virtual_timer: host.timer.virtual_.id,
                maintenance: host.gic.maintenance().id,
                console: host
                    .uart
                    .as_ref()
                    .and_then(|uart| uart.interrupt)
                    .map(|interrupt| interrupt.id),
            },
        })
    }
}

/// Starts the other CPUs in the order of the tree and notes which number each runs under: 0 for the one that booted, whose
/// affinity is `boot`, wherever in the tree it is; then without gaps. `start` starts the CPU of an MPIDR_EL1 as a pCPU.
pub fn start_others(cpus: &mut [HostCpu], boot: u64, mut start: impl FnMut(u64, PcpuId) -> bool) {
    let mut next = 1;
    for cpu in cpus {
        cpu.pcpu = if cpu.mpidr == boot {
            Some(PcpuId(0))
        } else {
            let pcpu = PcpuId(next);
            let runs = start(cpu.mpidr, pcpu);
            next += u8::from(runs);
            runs.then_some(pcpu)
        };
    }
}

/// Appends the parts of `bank` that firmware does not keep.
fn without(bank: PaRange, reserved: &[PaRange], parts: &mut Vec<PaRange>) {
    let mut start = bank.start.0;
    for kept in joined(reserved.iter().copied().map(PaRange::pages).collect()) {
        if kept.start.0 < bank.end() && kept.end() > start {
            if kept.start.0 > start {
                parts.push(PaRange::new(start, kept.start.0 - start));
            }
            start = kept.end();
        }
    }
    if start < bank.end() {
        parts.push(PaRange::new(start, bank.end() - start));
    }
}
