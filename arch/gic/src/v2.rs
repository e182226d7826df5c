//! GICv2 with virtualisation extensions (IHI 0048B): GICD, GICC and GICH are memory-mapped; guests get GICV at stage 2.

use core::sync::atomic::{AtomicU8, Ordering};

use portunus::ids::{IntId, MAX_PCPUS, PcpuId};
use portunus::manifest::host;
use portunus::registers::DeviceRegisters;
use portunus::vgic::list_register::{ListRegister, LrState, PriorityMask};

use crate::distributor::Bank;
use crate::{Acknowledged, KICK, VirtualState};

const GICD_CTLR: usize = 0x000;
const GICD_TYPER: usize = 0x004;
const GICD_ITARGETSR: usize = 0x800;
const GICD_SGIR: usize = 0xf00;

const GICC_CTLR: usize = 0x000;
const GICC_PMR: usize = 0x004;
const GICC_BPR: usize = 0x008;
const GICC_IAR: usize = 0x00c;
const GICC_EOIR: usize = 0x010;
const GICC_IIDR: usize = 0x0fc;
/// The same register in the last 4 KiB of a first page that is repeated through 64 KiB.
const GICC_IIDR_AGAIN: usize = 0xf0fc;
const GICC_DIR: usize = 0x1000;
/// Group enable, and EOImode: the same bits whether or not the controller has security states.
const GICC_CTLR_ON: u32 = 1 | 1 << 9;

const GICH_HCR: usize = 0x000;
const GICH_VTR: usize = 0x004;
const GICH_VMCR: usize = 0x008;
const GICH_ELRSR: usize = 0x030;
const GICH_APR: usize = 0x0f0;
const GICH_LR: usize = 0x100;
const HCR_EN: u32 = 1;
const HCR_NPIE: u32 = 1 << 3;

/// The controller.
#[derive(Debug)]
pub struct GicV2<R> {
    distributor: R,
    cpu: R,
    hypervisor: R,
    /// Where GICC_DIR is: in the second page of GICC, which begins 64 KiB behind the first where each is repeated.
    deactivation: usize,
    list_registers: usize,
    /// Each pCPU's CPU interface as a bit, which only that interface can tell: it need not follow from MPIDR_EL1.
    interfaces: [AtomicU8; MAX_PCPUS],
}

impl<R: DeviceRegisters + Copy> GicV2<R> {
    /// Sets the distributor up: everything disabled, one priority. `size` is that of GICC, of which both pages are reached.
    pub fn new([distributor, cpu, hypervisor]: [R; 3], size: u64) -> Self {
        let is_repeated = size >= host::REPEATED_BLOCK
            && host::is_repeated(size, cpu.read_u32(GICC_IIDR), cpu.read_u32(GICC_IIDR_AGAIN));
        distributor.write_u32(GICD_CTLR, 0);
        let lines = ((distributor.read_u32(GICD_TYPER) & 31) + 1) * 32;
        for first in (32..lines.min(IntId::SPI_LIMIT)).step_by(32) {
            Bank(distributor).reset(first, false);
        }
        distributor.write_u32(GICD_CTLR, 1);
        Self {
            distributor,
            cpu,
            hypervisor,
            deactivation: if is_repeated {
                host::REPEATED_PAGE as usize
            } else {
                GICC_DIR
            },
            list_registers: (hypervisor.read_u32(GICH_VTR) & 0x3f) as usize + 1,
            interfaces: [const { AtomicU8::new(0) }; MAX_PCPUS],
        }
    }

    /// Whether GICC's pages are each repeated through 64 KiB; then GICV's are too.
    pub fn is_repeated(&self) -> bool {
        self.deactivation != GICC_DIR
    }

    /// Sets up the executing pCPU's interface and private interrupts, all disabled. `false`: there is no such pCPU.
    pub fn init_cpu(&self, pcpu: PcpuId, _mpidr: u64) -> bool {
        // The first eight target registers are read-only and name the CPU interface that reads them (4.3.12); a
        // controller for one CPU has zeroes there.
        let targets = (0..8)
            .map(|index| self.distributor.read_u32(GICD_ITARGETSR + index * 4))
            .fold(0, |all, word| all | word);
        let [a, b, c, d] = targets.to_ne_bytes();
        let interface = a | b | c | d;
        let Some(slot) = self.interfaces.get(usize::from(pcpu.0)) else {
            return false;
        };
        slot.store(if interface == 0 { 1 } else { interface }, Ordering::Release);
        Bank(self.distributor).reset(0, false);
        // A cold machine's virtual interface holds anything.
        self.hypervisor.write_u32(GICH_HCR, 0);
        self.hypervisor.write_u32(GICH_VMCR, 0);
        self.hypervisor.write_u32(GICH_APR, 0);
        for index in 0..self.list_registers {
            self.hypervisor.write_u32(GICH_LR + index * 4, 0);
        }
        self.cpu.write_u32(GICC_PMR, 0xff);
        self.cpu.write_u32(GICC_BPR, 0);
        self.cpu.write_u32(GICC_CTLR, GICC_CTLR_ON);
        true
    }

    /// The registers of `interrupt`.
    pub fn bank(&self, _pcpu: PcpuId, _interrupt: IntId) -> Bank<R> {
        Bank(self.distributor)
    }

    /// Takes the most urgent pending interrupt; `None` when there is none (spurious).
    #[inline]
    pub fn acknowledge(&self) -> Option<Acknowledged> {
        let raw = self.cpu.read_u32(GICC_IAR);
        let interrupt = IntId(raw & 0x3ff);
        (interrupt.0 < IntId::SPI_LIMIT).then_some(Acknowledged { raw, interrupt })
    }
    /// Lets interrupts of its priority through again; it stays active.
    #[inline]
    pub fn drop_priority(&self, acknowledged: Acknowledged) {
        self.cpu.write_u32(GICC_EOIR, acknowledged.raw);
    }
    /// Ends an interrupt: what was acknowledged, or the number of one that is no SGI.
    #[inline]
    pub fn deactivate(&self, raw: u32) {
        self.cpu.write_u32(self.deactivation, raw);
    }

    /// Raises the kick on a pCPU, for which whatever it announces is visible already.
    pub fn kick(&self, pcpu: PcpuId) {
        if let Some(interface) = self.interfaces.get(usize::from(pcpu.0)) {
            self.distributor
                .write_u32(GICD_SGIR, u32::from(interface.load(Ordering::Acquire)) << 16 | KICK.0);
        }
    }

    /// Routes an SPI to a pCPU.
    pub fn route(&self, interrupt: IntId, pcpu: PcpuId) {
        if let (true, Some(interface)) = (interrupt.is_spi(), self.interfaces.get(usize::from(pcpu.0))) {
            self.distributor
                .write_u8(GICD_ITARGETSR + interrupt.0 as usize, interface.load(Ordering::Acquire));
        }
    }

    /// Lets the loaded vCPU receive virtual interrupts.
    pub fn enable_virtual(&self) {
        self.hypervisor.write_u32(GICH_HCR, HCR_EN);
    }
    /// GICH_HCR.
    pub fn virtual_control(&self) -> u64 {
        self.hypervisor.read_u32(GICH_HCR).into()
    }
    /// Sets GICH_HCR.
    pub fn set_virtual_control(&self, control: u64) {
        self.hypervisor.write_u32(GICH_HCR, control as u32);
    }
    /// Takes the loaded vCPU's virtual interface state out of the hardware, which is the same whatever is `USUAL`.
    pub fn save_virtual<const USUAL: bool>(&self, state: &mut VirtualState) {
        state.vmcr = u64::from(self.hypervisor.read_u32(GICH_VMCR));
        state.active[0] = u64::from(self.hypervisor.read_u32(GICH_APR));
    }
    /// Makes the loaded vCPU's virtual interface what it is before its first instruction.
    pub fn reset_virtual(&self) {
        self.restore_virtual(&mut VirtualState::default());
    }
    /// Puts a vCPU's virtual interface state into the hardware: all that decides what is signalled, then the enable.
    pub fn restore_virtual(&self, state: &mut VirtualState) {
        self.hypervisor.write_u32(GICH_VMCR, state.vmcr as u32);
        self.hypervisor.write_u32(GICH_APR, state.active[0] as u32);
        self.hypervisor.write_u32(GICH_HCR, HCR_EN);
    }

    /// How many list registers there are.
    pub fn list_registers(&self) -> usize {
        self.list_registers
    }
    /// Reads a list register.
    pub fn read(&self, index: usize) -> Option<ListRegister> {
        ListRegister::from_gich(self.hypervisor.read_u32(GICH_LR + index * 4))
    }
    /// The state of a list register.
    pub fn state(&self, index: usize) -> LrState {
        LrState::from_bits(self.hypervisor.read_u32(GICH_LR + index * 4) >> 28)
    }
    /// Writes a list register.
    #[inline(always)]
    pub fn write(&self, index: usize, value: Option<ListRegister>) {
        self.hypervisor
            .write_u32(GICH_LR + index * 4, ListRegister::to_gich(value));
    }
    /// As `VirtualInterface::lower`.
    #[inline(always)]
    pub fn lower(&self, index: usize) -> LrState {
        let word = ListRegister::lower_gich(self.hypervisor.read_u32(GICH_LR + index * 4));
        self.hypervisor.write_u32(GICH_LR + index * 4, word);
        if word == 0 { LrState::Inactive } else { LrState::Active }
    }
    /// One bit for each list register that is free.
    pub fn free(&self) -> u16 {
        self.hypervisor.read_u32(GICH_ELRSR) as u16
    }
    /// Asks for a maintenance interrupt while no list register is pending, or no longer.
    pub fn set_no_pending(&self, wanted: bool) {
        self.hypervisor
            .write_u32(GICH_HCR, if wanted { HCR_EN | HCR_NPIE } else { HCR_EN });
    }
    /// What the guest lets through now.
    pub fn mask(&self) -> PriorityMask {
        // GICH_VMCR: priority mask in 31:27, group enables in 1:0 (5.3.4).
        let vmcr = self.hypervisor.read_u32(GICH_VMCR);
        PriorityMask {
            threshold: (vmcr >> 24) as u8 & 0xf8,
            group0: vmcr & 1 != 0,
            group1: vmcr & 2 != 0,
        }
    }
}
