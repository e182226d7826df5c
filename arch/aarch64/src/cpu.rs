//! The core's view of this pCPU with one vCPU loaded.

use crate::gic::{self, Controller, Gic};
use crate::sysreg::{isb, read_sysreg, write_sysreg};
use crate::{pcpu, trace};
use portunus::cpu::{Access, Cpu, El1Register, TranslationFault};
use portunus::ids::{IntId, Ipa};
use portunus::trace::Kind;
use portunus::vgic::list_register::{ListRegister, LrState, PriorityMask, VirtualInterface};

/// PAR_EL1.F: the translation failed.
const PAR_FAULT: u64 = 1;
/// PAR_EL1.PA.
const PAR_ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// The executing pCPU. Made by a handler for its own time; the hardware's registers are the state.
#[derive(Debug)]
pub(crate) struct El2Cpu {
    interface: ListRegisters,
}

impl El2Cpu {
    /// `None` before the interrupt controller was set up.
    #[inline]
    pub(crate) fn new() -> Option<Self> {
        gic::gic().map(Self::with)
    }
    /// With the interrupt controller at hand.
    #[inline]
    pub(crate) fn with(gic: &'static Gic) -> Self {
        Self {
            interface: ListRegisters(gic),
        }
    }
}

/// The virtual CPU interface of the executing pCPU, by the kind of its controller where that is known.
#[derive(Debug)]
pub(crate) struct ListRegisters<G: 'static = Gic>(pub(crate) &'static G);

impl<G: Controller> VirtualInterface for ListRegisters<G> {
    fn list_registers(&self) -> usize {
        self.0.list_registers()
    }
    fn read(&self, index: usize) -> Option<ListRegister> {
        self.0.read(index)
    }
    #[inline]
    fn state(&self, index: usize) -> LrState {
        self.0.state(index)
    }
    #[inline(always)]
    fn write(&mut self, index: usize, value: Option<ListRegister>) {
        self.0.write(index, value);
    }
    #[inline(always)]
    fn lower(&mut self, index: usize) -> LrState {
        self.0.lower(index)
    }
    #[inline]
    fn free(&self) -> u16 {
        self.0.free()
    }
    fn set_no_pending(&mut self, wanted: bool) {
        self.0.set_no_pending(wanted);
    }
    fn mask(&self) -> PriorityMask {
        self.0.mask()
    }
    fn deactivate(&mut self, physical: IntId) {
        Controller::deactivate(self.0, physical);
    }
    #[inline]
    fn trace(&mut self, kind: Kind, interrupt: IntId) {
        if let Some(pcpu) = pcpu::this() {
            trace::record_loaded(pcpu, kind, interrupt.0);
        }
    }
}

macro_rules! el1_registers {
    ($($register:ident $name:literal)*) => {
        fn read_el1(&self, register: El1Register) -> u64 {
            match register {
                $(El1Register::$register => read_sysreg!($name),)*
            }
        }
        fn write_el1(&mut self, register: El1Register, value: u64) {
            match register {
                $(El1Register::$register => write_sysreg!($name, value),)*
            }
        }
    };
}

impl Cpu for El2Cpu {
    type VirtualInterface = ListRegisters;

    fn virtual_interface(&mut self) -> &mut ListRegisters {
        &mut self.interface
    }

    el1_registers! {
        SpEl0 "sp_el0" SpEl1 "sp_el1" ElrEl1 "elr_el1" SpsrEl1 "spsr_el1" EsrEl1 "esr_el1" FarEl1 "far_el1"
        VbarEl1 "vbar_el1" SctlrEl1 "sctlr_el1" CntkctlEl1 "cntkctl_el1" VmpidrEl2 "vmpidr_el2"
        CntvCtlEl0 "cntv_ctl_el0" CntvCvalEl0 "cntv_cval_el0" CntvoffEl2 "cntvoff_el2"
    }

    /// Stage 1 alone: the combined AT S12E1* ends an emulator that finds a stage-2 permission fault.
    #[inline]
    fn translate(&self, address: u64, access: Access) -> Result<Ipa, TranslationFault> {
        let kept = read_sysreg!("par_el1");
        // SAFETY: an address translation changes PAR_EL1 alone, which is put back.
        unsafe {
            match access {
                Access::Read => core::arch::asm!("at s1e1r, {}", in(reg) address, options(nostack, preserves_flags)),
                Access::Write => core::arch::asm!("at s1e1w, {}", in(reg) address, options(nostack, preserves_flags)),
            }
        }
        isb();
        let par = read_sysreg!("par_el1");
        write_sysreg!("par_el1", kept);
        if par & PAR_FAULT != 0 {
            return Err(TranslationFault);
        }
        Ok(Ipa(par & PAR_ADDRESS | address & !PAR_ADDRESS & 0xfff))
    }

    #[inline]
    fn is_interrupted(&self) -> bool {
        read_sysreg!("isr_el1") != 0
    }

    fn reset(&mut self) {
        crate::switch::reset(crate::features::Features::read());
        self.interface.0.reset_virtual();
    }

    fn pend_system_error(&mut self, syndrome: u32) {
        /// HCR_EL2.VSE
        const VIRTUAL_SYSTEM_ERROR: u64 = 1 << 8;
        if crate::features::Features::read().ras {
            write_sysreg!("s3_4_c5_c2_3", u64::from(syndrome));
        }
        write_sysreg!("hcr_el2", read_sysreg!("hcr_el2") | VIRTUAL_SYSTEM_ERROR);
    }
}
