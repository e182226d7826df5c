//! GICv3 (IHI 0069): distributor and redistributors are memory-mapped, CPU and virtual interfaces are system registers.

use super::{Acknowledged, KICK, VirtualState};
use crate::mmio::Registers;
use crate::sysreg::{AFFINITY, isb, read_sysreg, write_sysreg};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use portunus::ids::{IntId, MAX_PCPUS, PcpuId};
use portunus::manifest::host::{self, REDISTRIBUTOR_SIZE};
use portunus::vgic::list_register::{ListRegister, LrState, PriorityMask};
use portunus_gic::distributor::Bank;

const GICD_CTLR: usize = 0x0000;
const GICD_TYPER: usize = 0x0004;
const GICD_IROUTER: usize = 0x6000;
/// Affinity routing and group 1, in the Non-secure view as in that of a single security state.
const GICD_CTLR_ON: u32 = 1 << 4 | 1 << 1;
const GICD_CTLR_RWP: u32 = 1 << 31;

const GICR_TYPER: usize = 0x0008;
const GICR_WAKER: usize = 0x0014;
const GICR_TYPER_LAST: u64 = 1 << 4;
const GICR_TYPER_VLPIS: u64 = 1 << 1;
const WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
const WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;
/// Where the frame with the private interrupts is in a redistributor.
const SGI_FRAME: usize = 0x10000;

const ICH_HCR_EN: u64 = 1;
const ICH_HCR_NPIE: u64 = 1 << 3;

/// How often a register is read for a change that the controller makes by itself.
const POLLS: u32 = 1_000_000;

/// The controller.
#[derive(Debug)]
pub(crate) struct GicV3 {
    distributor: Registers,
    regions: [Option<(usize, usize)>; MAX_PCPUS],
    stride: Option<usize>,
    list_registers: usize,
    /// How many active-priority registers each group has.
    active_registers: usize,
    /// Each pCPU's SGI frame.
    frames: [AtomicUsize; MAX_PCPUS],
    mpidrs: [AtomicU64; MAX_PCPUS],
    /// What kicks each CPU: ICC_SGI1R_EL1; 0, which is no CPU's, before that is known.
    kicks: [AtomicU64; MAX_PCPUS],
}

impl GicV3 {
    /// Sets the distributor up.
    ///
    /// # Safety
    /// Stage 1 maps the blocks as Device memory for good.
    pub(crate) unsafe fn new(blocks: &host::GicV3) -> Self {
        // SAFETY: the caller's promise.
        let distributor = unsafe { Registers::new(blocks.distributor.start.0 as usize) };
        let mut regions = [None; MAX_PCPUS];
        for (slot, region) in regions.iter_mut().zip(&blocks.redistributors) {
            *slot = Some((region.start.0 as usize, region.end() as usize));
        }
        distributor.write(GICD_CTLR, 0);
        wait(|| distributor.read(GICD_CTLR) & GICD_CTLR_RWP == 0);
        // Affinity routing first: without it the private interrupts and IROUTER are not where they are looked for.
        distributor.write(GICD_CTLR, 1 << 4);
        wait(|| distributor.read(GICD_CTLR) & GICD_CTLR_RWP == 0);
        let lines = ((distributor.read(GICD_TYPER) & 31) + 1) * 32;
        for first in (32..lines.min(IntId::SPI_LIMIT)).step_by(32) {
            Bank(distributor).reset(first, true);
        }
        wait(|| distributor.read(GICD_CTLR) & GICD_CTLR_RWP == 0);
        distributor.write(GICD_CTLR, GICD_CTLR_ON);
        enable_system_registers();
        let vtr = read_sysreg!("ich_vtr_el2");
        Self {
            distributor,
            regions,
            stride: blocks.stride.map(|stride| stride as usize),
            list_registers: (vtr & 31) as usize + 1,
            // PREbits is one less than the number of preemption bits, of which one register holds five.
            active_registers: match vtr >> 26 & 7 {
                0..=4 => 1,
                5 => 2,
                _ => 4,
            },
            frames: [const { AtomicUsize::new(0) }; MAX_PCPUS],
            mpidrs: [const { AtomicU64::new(0) }; MAX_PCPUS],
            kicks: [const { AtomicU64::new(0) }; MAX_PCPUS],
        }
    }

    /// The redistributor of the CPU with these affinity fields.
    fn find_redistributor(&self, mpidr: u64) -> Option<Registers> {
        // GICR_TYPER[63:32] is Aff3.Aff2.Aff1.Aff0.
        let wanted = mpidr >> 32 << 24 | mpidr & 0xff_ffff;
        for (start, end) in self.regions.iter().flatten() {
            let mut at = *start;
            while at + REDISTRIBUTOR_SIZE as usize <= *end {
                // SAFETY: inside a region that stage 1 maps.
                let frame = unsafe { Registers::new(at) };
                let typer = frame.read_u64(GICR_TYPER);
                if typer >> 32 == wanted {
                    return Some(frame);
                }
                if typer & GICR_TYPER_LAST != 0 {
                    break;
                }
                let doubled = if typer & GICR_TYPER_VLPIS != 0 { 2 } else { 1 };
                at += self.stride.unwrap_or(REDISTRIBUTOR_SIZE as usize * doubled);
            }
        }
        None
    }

    pub(crate) fn init_cpu(&self, pcpu: PcpuId, mpidr: u64) -> bool {
        let index = usize::from(pcpu.0);
        let Some(redistributor) = self.find_redistributor(mpidr & AFFINITY) else {
            return false;
        };
        let (Some(frame), Some(known)) = (self.frames.get(index), self.mpidrs.get(index)) else {
            return false;
        };
        let waker = redistributor.read(GICR_WAKER);
        redistributor.write(GICR_WAKER, waker & !WAKER_PROCESSOR_SLEEP);
        wait(|| redistributor.read(GICR_WAKER) & WAKER_CHILDREN_ASLEEP == 0);
        let base = redistributor.base() + SGI_FRAME;
        frame.store(base, Ordering::Release);
        known.store(mpidr & AFFINITY, Ordering::Release);
        if let Some(kick) = self.kicks.get(index) {
            kick.store(kick_word(mpidr), Ordering::Release);
        }
        // SAFETY: the second frame of the redistributor just found.
        Bank(unsafe { Registers::new(base) }).reset(0, true);
        enable_system_registers();
        // Every priority passes, no grouping of priorities, EOImode 1, group 1 on.
        write_sysreg!("icc_pmr_el1", 0xff);
        write_sysreg!("icc_bpr1_el1", 0);
        write_sysreg!("icc_ctlr_el1", 1 << 1);
        write_sysreg!("icc_igrpen1_el1", 1);
        write_sysreg!("ich_hcr_el2", 0);
        self.write_active([0; 8]);
        for list_register in 0..self.list_registers {
            write_list_register(list_register, 0);
        }
        isb();
        true
    }

    /// The registers of `interrupt`: the distributor's, or for a private one the redistributor's of `pcpu`.
    pub(super) fn bank(&self, pcpu: PcpuId, interrupt: IntId) -> Bank<Registers> {
        let frame = self
            .frames
            .get(usize::from(pcpu.0))
            .map_or(0, |frame| frame.load(Ordering::Acquire));
        if interrupt.is_private() && frame != 0 {
            // SAFETY: `init_cpu` found it in a region that stage 1 maps.
            Bank(unsafe { Registers::new(frame) })
        } else {
            Bank(self.distributor)
        }
    }

    #[inline]
    pub(crate) fn acknowledge(&self) -> Option<Acknowledged> {
        let raw = read_sysreg!("icc_iar1_el1") as u32;
        let interrupt = IntId(raw & 0xff_ffff);
        (interrupt.0 < IntId::SPI_LIMIT).then_some(Acknowledged { raw, interrupt })
    }
    #[inline]
    pub(crate) fn drop_priority(&self, acknowledged: Acknowledged) {
        write_sysreg!("icc_eoir1_el1", u64::from(acknowledged.raw));
        isb();
    }
    #[inline]
    pub(crate) fn deactivate(&self, raw: u32) {
        write_sysreg!("icc_dir_el1", u64::from(raw));
        isb();
    }

    pub(crate) fn kick(&self, pcpu: PcpuId) {
        if let Some(kick) = self.kicks.get(usize::from(pcpu.0)) {
            let target = kick.load(Ordering::Relaxed);
            write_sysreg!("icc_sgi1r_el1", target);
            isb();
        }
    }

    pub(crate) fn route(&self, interrupt: IntId, pcpu: PcpuId) {
        if let (true, Some(mpidr)) = (interrupt.is_spi(), self.mpidrs.get(usize::from(pcpu.0))) {
            self.distributor
                .write_u64(GICD_IROUTER + interrupt.0 as usize * 8, mpidr.load(Ordering::Acquire));
        }
    }

    pub(crate) fn enable_virtual(&self) {
        write_sysreg!("ich_hcr_el2", ICH_HCR_EN);
    }

    pub(crate) fn virtual_control(&self) -> u64 {
        read_sysreg!("ich_hcr_el2")
    }
    pub(crate) fn set_virtual_control(&self, control: u64) {
        write_sysreg!("ich_hcr_el2", control);
    }
    /// Each group has one active-priority register.
    pub(crate) fn has_one_active(&self) -> bool {
        self.active_registers == 1
    }
    /// Active priorities are 0 but in an interrupt's handler, and 0 is what the hardware holds between two vCPUs. `USUAL`:
    /// [`Self::has_one_active`].
    #[inline]
    pub(crate) fn save_virtual<const USUAL: bool>(&self, state: &mut VirtualState) {
        state.vmcr = read_sysreg!("ich_vmcr_el2");
        let mut any = read_sysreg!("ich_ap0r0_el2") | read_sysreg!("ich_ap1r0_el2");
        if !USUAL && self.active_registers > 1 {
            any |= self.other_active();
        }
        if any != 0 {
            self.save_active(state);
        }
    }

    #[cold]
    #[inline(never)]
    fn other_active(&self) -> u64 {
        let mut any = read_sysreg!("ich_ap0r1_el2") | read_sysreg!("ich_ap1r1_el2");
        if self.active_registers > 2 {
            any |= read_sysreg!("ich_ap0r2_el2") | read_sysreg!("ich_ap1r2_el2");
            any |= read_sysreg!("ich_ap0r3_el2") | read_sysreg!("ich_ap1r3_el2");
        }
        any
    }

    #[inline(never)]
    fn save_active(&self, state: &mut VirtualState) {
        let [a0, b0, c0, d0, a1, b1, c1, d1] = &mut state.active;
        *a0 = read_sysreg!("ich_ap0r0_el2");
        *a1 = read_sysreg!("ich_ap1r0_el2");
        if self.active_registers > 1 {
            *b0 = read_sysreg!("ich_ap0r1_el2");
            *b1 = read_sysreg!("ich_ap1r1_el2");
        }
        if self.active_registers > 2 {
            *c0 = read_sysreg!("ich_ap0r2_el2");
            *c1 = read_sysreg!("ich_ap1r2_el2");
            *d0 = read_sysreg!("ich_ap0r3_el2");
            *d1 = read_sysreg!("ich_ap1r3_el2");
        }
        state.is_active = true;
        self.write_active([0; 8]);
    }

    #[inline]
    pub(crate) fn restore_virtual(&self, state: &mut VirtualState) {
        write_sysreg!("ich_vmcr_el2", state.vmcr);
        if state.is_active {
            state.is_active = false;
            self.write_active(state.active);
        }
        write_sysreg!("ich_hcr_el2", ICH_HCR_EN);
    }

    /// As before the first instruction.
    pub(crate) fn reset_virtual(&self) {
        write_sysreg!("ich_vmcr_el2", 0);
        self.write_active([0; 8]);
        write_sysreg!("ich_hcr_el2", ICH_HCR_EN);
    }

    #[inline(never)]
    fn write_active(&self, [a0, b0, c0, d0, a1, b1, c1, d1]: [u64; 8]) {
        write_sysreg!("ich_ap0r0_el2", a0);
        write_sysreg!("ich_ap1r0_el2", a1);
        if self.active_registers > 1 {
            write_sysreg!("ich_ap0r1_el2", b0);
            write_sysreg!("ich_ap1r1_el2", b1);
        }
        if self.active_registers > 2 {
            write_sysreg!("ich_ap0r2_el2", c0);
            write_sysreg!("ich_ap1r2_el2", c1);
            write_sysreg!("ich_ap0r3_el2", d0);
            write_sysreg!("ich_ap1r3_el2", d1);
        }
    }

    pub(crate) fn list_registers(&self) -> usize {
        self.list_registers
    }
    pub(crate) fn read(&self, index: usize) -> Option<ListRegister> {
        ListRegister::from_ich(read_list_register(index))
    }
    pub(crate) fn state(&self, index: usize) -> LrState {
        LrState::from_bits((read_list_register(index) >> 62) as u32)
    }
    #[inline(always)]
    pub(crate) fn write(&self, index: usize, value: Option<ListRegister>) {
        write_list_register(index, ListRegister::to_ich(value));
    }
    #[inline(always)]
    pub(crate) fn lower(&self, index: usize) -> LrState {
        if lower_list_register(index) == 0 {
            LrState::Inactive
        } else {
            LrState::Active
        }
    }
    pub(crate) fn free(&self) -> u16 {
        read_sysreg!("ich_elrsr_el2") as u16
    }
    pub(crate) fn set_no_pending(&self, wanted: bool) {
        write_sysreg!(
            "ich_hcr_el2",
            if wanted { ICH_HCR_EN | ICH_HCR_NPIE } else { ICH_HCR_EN }
        );
    }
    pub(crate) fn mask(&self) -> PriorityMask {
        // ICH_VMCR_EL2: VPMR in 31:24, VENG1 and VENG0 in 1:0.
        let vmcr = read_sysreg!("ich_vmcr_el2");
        PriorityMask {
            threshold: (vmcr >> 24) as u8,
            group0: vmcr & 1 != 0,
            group1: vmcr & 2 != 0,
        }
    }
}

/// ICC_SGI1R_EL1 of the kick of one CPU.
const fn kick_word(mpidr: u64) -> u64 {
    let [aff0, aff1, aff2, _, aff3, ..] = mpidr.to_le_bytes();
    (aff3 as u64) << 48
        | ((aff0 >> 4) as u64) << 44
        | (aff2 as u64) << 32
        | (KICK.0 as u64) << 24
        | (aff1 as u64) << 16
        | 1 << (aff0 & 15)
}

/// System registers at EL2 and below, and no bypass of a disabled interface (ICC_SRE_EL2: Enable, DIB, DFB, SRE).
fn enable_system_registers() {
    write_sysreg!("icc_sre_el2", 0xf);
    isb();
    write_sysreg!("icc_sre_el1", 0x7);
    isb();
}

fn wait(done: impl Fn() -> bool) {
    // A controller that never answers is found out by its interrupts' absence, not by a hang.
    let _ = (0..POLLS).any(|_| done());
}

macro_rules! list_registers {
    ($($index:literal $name:literal)*) => {
        fn read_list_register(index: usize) -> u64 {
            match index {
                $($index => read_sysreg!($name),)*
                _ => 0,
            }
        }
        /// [`ListRegister::lower_ich`] of one; its value then.
        #[inline(always)]
        fn lower_list_register(index: usize) -> u64 {
            if index == 0 {
                // As it mostly is, and found faster than by a table.
                let word = ListRegister::lower_ich(read_sysreg!("ich_lr0_el2"));
                write_sysreg!("ich_lr0_el2", word);
                return word;
            }
            match index {
                $($index => {
                    let word = ListRegister::lower_ich(read_sysreg!($name));
                    write_sysreg!($name, word);
                    word
                })*
                _ => 0,
            }
        }
        #[inline(always)]
        fn write_list_register(index: usize, value: u64) {
            // Mostly it is the first one; the others are found by a table.
            if index == 0 {
                write_sysreg!("ich_lr0_el2", value);
            } else {
                write_other_list_register(index, value);
            }
        }
        #[inline(never)]
        fn write_other_list_register(index: usize, value: u64) {
            match index {
                $($index => write_sysreg!($name, value),)*
                _ => {}
            }
        }
    };
}

list_registers! {
    0 "ich_lr0_el2" 1 "ich_lr1_el2" 2 "ich_lr2_el2" 3 "ich_lr3_el2"
    4 "ich_lr4_el2" 5 "ich_lr5_el2" 6 "ich_lr6_el2" 7 "ich_lr7_el2"
    8 "ich_lr8_el2" 9 "ich_lr9_el2" 10 "ich_lr10_el2" 11 "ich_lr11_el2"
    12 "ich_lr12_el2" 13 "ich_lr13_el2" 14 "ich_lr14_el2" 15 "ich_lr15_el2"
}
