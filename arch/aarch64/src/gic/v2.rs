//! GICv2 with virtualisation extensions (IHI 0048B): GICD, GICC and GICH are memory-mapped; guests get GICV at stage 2.

use super::distributor::Bank;
use super::{Acknowledged, KICK, VirtualState};
use crate::mmio::Registers;
use core::sync::atomic::{AtomicU8, Ordering};
use portunus::ids::{IntId, MAX_PCPUS, PcpuId};
use portunus::manifest::host;
use portunus::vgic::list_register::{ListRegister, LrState, PriorityMask};

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

/// Where the second of a GICC's two pages is when each is repeated through 64 KiB: such a block is used from here on.
const ALIASED_OFFSET: usize = 0xf000;

/// The controller.
#[derive(Debug)]
pub(crate) struct GicV2 {
    distributor: Registers,
    cpu: Registers,
    hypervisor: Registers,
    list_registers: usize,
    /// Each pCPU's CPU interface as a bit, which only that interface can tell.
    interfaces: [AtomicU8; MAX_PCPUS],
}

impl GicV2 {
    /// Sets the distributor up.
    ///
    /// # Safety
    /// Stage 1 maps the blocks as Device memory for good.
    pub(crate) unsafe fn new(blocks: &host::GicV2) -> Self {
        // SAFETY: the caller's promise.
        let [distributor, mut cpu, hypervisor] =
            [&blocks.distributor, &blocks.cpu_interface, &blocks.hypervisor_interface]
                .map(|block| unsafe { Registers::new(block.start.0 as usize) });
        if blocks.cpu_interface.size >= 0x20000 && cpu.read(GICC_IIDR) == cpu.read(ALIASED_OFFSET + GICC_IIDR) {
            // SAFETY: inside the block; GICC_DIR is then in the block's second half.
            cpu = unsafe { Registers::new(blocks.cpu_interface.start.0 as usize + ALIASED_OFFSET) };
        }
        distributor.write(GICD_CTLR, 0);
        let lines = ((distributor.read(GICD_TYPER) & 31) + 1) * 32;
        for first in (32..lines.min(IntId::SPI_LIMIT)).step_by(32) {
            Bank(distributor).reset(first, false);
        }
        distributor.write(GICD_CTLR, 1);
        Self {
            distributor,
            cpu,
            hypervisor,
            list_registers: (hypervisor.read(GICH_VTR) & 0x3f) as usize + 1,
            interfaces: [const { AtomicU8::new(0) }; MAX_PCPUS],
        }
    }

    pub(crate) fn init_cpu(&self, pcpu: PcpuId, _mpidr: u64) -> bool {
        // The first eight target registers are read-only and name the CPU interface that reads them (4.3.12); a
        // controller for one CPU has zeroes there.
        let targets = (0..8)
            .map(|index| self.distributor.read(GICD_ITARGETSR + index * 4))
            .fold(0, |all, word| all | word);
        let [a, b, c, d] = targets.to_ne_bytes();
        let interface = a | b | c | d;
        let Some(slot) = self.interfaces.get(usize::from(pcpu.0)) else {
            return false;
        };
        slot.store(if interface == 0 { 1 } else { interface }, Ordering::Release);
        Bank(self.distributor).reset(0, false);
        self.hypervisor.write(GICH_HCR, 0);
        for index in 0..self.list_registers {
            self.hypervisor.write(GICH_LR + index * 4, 0);
        }
        self.cpu.write(GICC_PMR, 0xff);
        self.cpu.write(GICC_BPR, 0);
        self.cpu.write(GICC_CTLR, GICC_CTLR_ON);
        true
    }

    pub(super) fn bank(&self, _pcpu: PcpuId, _interrupt: IntId) -> Bank {
        Bank(self.distributor)
    }

    #[inline]
    pub(crate) fn acknowledge(&self) -> Option<Acknowledged> {
        let raw = self.cpu.read(GICC_IAR);
        let interrupt = IntId(raw & 0x3ff);
        (interrupt.0 < IntId::SPI_LIMIT).then_some(Acknowledged { raw, interrupt })
    }
    #[inline]
    pub(crate) fn drop_priority(&self, acknowledged: Acknowledged) {
        self.cpu.write(GICC_EOIR, acknowledged.raw);
    }
    #[inline]
    pub(crate) fn deactivate(&self, raw: u32) {
        self.cpu.write(GICC_DIR, raw);
    }

    pub(crate) fn kick(&self, pcpu: PcpuId) {
        if let Some(interface) = self.interfaces.get(usize::from(pcpu.0)) {
            // What the kick announces must be visible before it arrives.
            crate::sysreg::dsb_ishst();
            self.distributor
                .write(GICD_SGIR, u32::from(interface.load(Ordering::Acquire)) << 16 | KICK.0);
        }
    }

    pub(crate) fn route(&self, interrupt: IntId, pcpu: PcpuId) {
        if let (true, Some(interface)) = (interrupt.is_spi(), self.interfaces.get(usize::from(pcpu.0))) {
            self.distributor
                .write_u8(GICD_ITARGETSR + interrupt.0 as usize, interface.load(Ordering::Acquire));
        }
    }

    pub(crate) fn enable_virtual(&self) {
        self.hypervisor.write(GICH_HCR, HCR_EN);
    }
    pub(crate) fn virtual_control(&self) -> u64 {
        self.hypervisor.read(GICH_HCR).into()
    }
    pub(crate) fn set_virtual_control(&self, control: u64) {
        self.hypervisor.write(GICH_HCR, control as u32);
    }
    pub(crate) fn save_virtual(&self, state: &mut VirtualState) {
        state.vmcr = u64::from(self.hypervisor.read(GICH_VMCR));
        state.active[0] = u64::from(self.hypervisor.read(GICH_APR));
    }
    pub(crate) fn reset_virtual(&self) {
        self.restore_virtual(&mut VirtualState::default());
    }
    pub(crate) fn restore_virtual(&self, state: &mut VirtualState) {
        self.hypervisor.write(GICH_VMCR, state.vmcr as u32);
        self.hypervisor.write(GICH_APR, state.active[0] as u32);
        self.hypervisor.write(GICH_HCR, HCR_EN);
    }

    pub(crate) fn list_registers(&self) -> usize {
        self.list_registers
    }
    pub(crate) fn read(&self, index: usize) -> Option<ListRegister> {
        ListRegister::from_gich(self.hypervisor.read(GICH_LR + index * 4))
    }
    pub(crate) fn state(&self, index: usize) -> LrState {
        LrState::from_bits(self.hypervisor.read(GICH_LR + index * 4) >> 28)
    }
    #[inline(always)]
    pub(crate) fn write(&self, index: usize, value: Option<ListRegister>) {
        self.hypervisor.write(GICH_LR + index * 4, ListRegister::to_gich(value));
    }
    pub(crate) fn lower(&self, index: usize) -> LrState {
        let word = ListRegister::lower_gich(self.hypervisor.read(GICH_LR + index * 4));
        self.hypervisor.write(GICH_LR + index * 4, word);
        if word == 0 { LrState::Inactive } else { LrState::Active }
    }
    pub(crate) fn free(&self) -> u16 {
        self.hypervisor.read(GICH_ELRSR) as u16
    }
    pub(crate) fn set_no_pending(&self, wanted: bool) {
        self.hypervisor
            .write(GICH_HCR, if wanted { HCR_EN | HCR_NPIE } else { HCR_EN });
    }
    pub(crate) fn mask(&self) -> PriorityMask {
        // GICH_VMCR: priority mask in 31:27, group enables in 1:0 (5.3.4).
        let vmcr = self.hypervisor.read(GICH_VMCR);
        PriorityMask {
            threshold: (vmcr >> 24) as u8 & 0xf8,
            group0: vmcr & 1 != 0,
            group1: vmcr & 2 != 0,
        }
    }
}
