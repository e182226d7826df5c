//! What belongs to a vCPU besides its general registers, and how it gets into the hardware and out.
//!
//! Only what an AArch64 guest can change without a trap is switched. Not here, because every access traps: debug, trace,
//! performance, activity and profiling registers, ACTLR_EL1, the physical timer, SVE, SME and MTE state.
//!
//! Order: nothing between saving one vCPU and loading the next uses EL1's translation regime; one ISB after the last
//! write makes it whole before an AT or a TLBI, and the ERET covers the guest. TCR_EL1 and VTTBR_EL2 are compared before
//! they are written: under emulation a write flushes translations, the same value or not.

use crate::cpu::El2Cpu;
use crate::features::Features;
use crate::fp::FpState;
use crate::gic::{Gic, VirtualState};
use crate::machine::Arm64;
use crate::sysreg::{isb, read_sysreg, write_sysreg};
use core::mem::offset_of;
use portunus::hypervisor::{Hypervisor, Located, VcpuConstants, VcpuState};

/// HCR_EL2.VSE: a virtual SError is pending.
const HCR_VSE: u64 = 1 << 8;
/// VTCR_EL2's RES1 bit.
const VTCR_RES1: u64 = 1 << 31;

/// Everything that one vCPU has, allocated at boot and touched by its pCPU alone.
#[derive(Debug)]
#[repr(C, align(16))]
pub(crate) struct VcpuContext {
    /// The core's part; its frame is where the vectors save the general registers.
    pub(crate) state: VcpuState,
    /// The core's view of the pCPU, for handlers.
    pub(crate) cpu: El2Cpu,
    /// What the core and the interrupt controller are, and where in the core the vCPU is.
    pub(crate) links: Links,
    /// What never changes.
    pub(crate) constants: VcpuConstants,
    /// EL1's system registers while another vCPU is loaded.
    el1: El1State,
    /// Pointer authentication keys.
    keys: KeyState,
    /// A virtual SError that it has not taken yet.
    system_error: SystemErrorState,
    /// The virtual CPU interface.
    pub(crate) virtual_state: VirtualState,
    /// The physical virtual-timer interrupt is active: handed to this vCPU, which has not deactivated it yet.
    pub(crate) timer_active: bool,
    /// FP and SIMD registers while another vCPU owns them.
    pub(crate) fp: FpState,
    /// For how many more loads the FP registers come along without a trap.
    pub(crate) fp_eager: u8,
}

/// What a handler needs of what lasts for ever, found once.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Links {
    pub(crate) hypervisor: &'static Hypervisor<Arm64>,
    pub(crate) gic: &'static Gic,
    pub(crate) located: Located<'static>,
}

// SP_EL2 points at the frame while the guest runs, and SP is 16-byte aligned.
const _: () = assert!(offset_of!(VcpuContext, state) == 0 && offset_of!(VcpuState, frame) % 16 == 0);

macro_rules! el1_registers {
    ($(#[$doc:meta] $field:ident $name:literal)*) => {
        /// System registers of EL1 and EL0 that a guest changes without a trap.
        #[derive(Copy, Clone, Debug, Default)]
        pub(crate) struct El1State {
            tcr: u64,
            $(#[$doc] $field: u64,)*
        }

        impl El1State {
            fn save(&mut self) {
                self.tcr = read_sysreg!("tcr_el1");
                $(self.$field = read_sysreg!($name);)*
            }
            fn load(&self) {
                if read_sysreg!("tcr_el1") != self.tcr {
                    write_sysreg!("tcr_el1", self.tcr);
                }
                $(write_sysreg!($name, self.$field);)*
            }
        }
    };
}

el1_registers! {
    /// SCTLR_EL1
    sctlr "sctlr_el1"
    /// CPACR_EL1
    cpacr "cpacr_el1"
    /// TTBR0_EL1
    ttbr0 "ttbr0_el1"
    /// TTBR1_EL1
    ttbr1 "ttbr1_el1"
    /// MAIR_EL1
    mair "mair_el1"
    /// AMAIR_EL1
    amair "amair_el1"
    /// ESR_EL1
    esr "esr_el1"
    /// FAR_EL1
    far "far_el1"
    /// AFSR0_EL1
    afsr0 "afsr0_el1"
    /// AFSR1_EL1
    afsr1 "afsr1_el1"
    /// VBAR_EL1
    vbar "vbar_el1"
    /// CONTEXTIDR_EL1
    contextidr "contextidr_el1"
    /// TPIDR_EL0
    tpidr_el0 "tpidr_el0"
    /// TPIDRRO_EL0
    tpidrro_el0 "tpidrro_el0"
    /// TPIDR_EL1
    tpidr_el1 "tpidr_el1"
    /// PAR_EL1
    par "par_el1"
    /// CSSELR_EL1
    csselr "csselr_el1"
    /// SP_EL0
    sp_el0 "sp_el0"
    /// SP_EL1
    sp_el1 "sp_el1"
    /// ELR_EL1
    elr "elr_el1"
    /// SPSR_EL1
    spsr "spsr_el1"
    /// CNTKCTL_EL1
    cntkctl "cntkctl_el1"
    /// CNTV_CVAL_EL0
    cntv_cval "cntv_cval_el0"
    /// CNTV_CTL_EL0, last: the comparison is armed with everything else in place
    cntv_ctl "cntv_ctl_el0"
}

/// What a pending virtual SError consists of: HCR_EL2.VSE, and with FEAT_RAS its syndrome (VSESR_EL2) and what a deferred
/// one left (VDISR_EL2).
#[derive(Copy, Clone, Debug, Default)]
struct SystemErrorState {
    pending: u64,
    syndrome: u64,
    deferred: u64,
}

impl SystemErrorState {
    fn save(&mut self, ras: bool) {
        self.pending = read_sysreg!("hcr_el2") & HCR_VSE;
        if ras {
            self.syndrome = read_sysreg!("s3_4_c5_c2_3");
            self.deferred = read_sysreg!("s3_4_c12_c1_1");
        }
    }
    fn load(&self, ras: bool) {
        let hcr = read_sysreg!("hcr_el2");
        if hcr & HCR_VSE != self.pending {
            write_sysreg!("hcr_el2", hcr & !HCR_VSE | self.pending);
        }
        if ras {
            write_sysreg!("s3_4_c5_c2_3", self.syndrome);
            write_sysreg!("s3_4_c12_c1_1", self.deferred);
        }
    }
}

macro_rules! key_registers {
    ($($index:literal $name:literal)*) => {
        /// The ten halves of the five keys (FEAT_PAuth), by their encodings, for assemblers that know no PAuth.
        #[derive(Copy, Clone, Debug, Default)]
        struct KeyState([u64; 10]);

        impl KeyState {
            fn save(&mut self) {
                $(self.0[$index] = read_sysreg!($name);)*
            }
            fn load(&self) {
                $(write_sysreg!($name, self.0[$index]);)*
            }
        }
    };
}

key_registers! {
    0 "s3_0_c2_c1_0" 1 "s3_0_c2_c1_1" 2 "s3_0_c2_c1_2" 3 "s3_0_c2_c1_3" 4 "s3_0_c2_c2_0"
    5 "s3_0_c2_c2_1" 6 "s3_0_c2_c2_2" 7 "s3_0_c2_c2_3" 8 "s3_0_c2_c3_0" 9 "s3_0_c2_c3_1"
}

impl El1State {
    /// As after a reset: MMU and caches off.
    fn at_reset() -> Self {
        Self {
            // RES1 bits alone (SCTLR_EL1 at reset).
            sctlr: 0x30d0_0800,
            ..Self::default()
        }
    }
}

/// Makes the loaded vCPU's registers what they are before its first instruction. The caller's ISB or ERET follows.
pub(crate) fn reset(features: Features) {
    El1State::at_reset().load();
    if features.pointer_authentication {
        KeyState::default().load();
    }
    SystemErrorState::default().load(features.ras);
}

impl VcpuContext {
    /// A vCPU before its first instruction: EL1's registers as after a reset, MMU and caches off.
    pub(crate) fn new(state: VcpuState, constants: VcpuConstants, links: Links) -> Self {
        Self {
            state,
            cpu: El2Cpu::with(links.gic),
            links,
            constants,
            el1: El1State::at_reset(),
            keys: KeyState::default(),
            system_error: SystemErrorState::default(),
            virtual_state: VirtualState::default(),
            timer_active: false,
            fp: FpState::new(),
            fp_eager: 0,
        }
    }

    /// Takes this vCPU's registers out of the hardware, with `keys` (FEAT_PAuth) and what FEAT_RAS adds; its list registers are the core's and are free by now.
    #[inline]
    pub(crate) fn save(&mut self, keys: bool, ras: bool) {
        self.el1.save();
        if keys {
            self.keys.save();
        }
        self.system_error.save(ras);
    }

    /// Puts them into the hardware. The caller's ISB or ERET follows.
    #[inline]
    pub(crate) fn load(&self, keys: bool, ras: bool) {
        let vttbr = self.constants.vttbr;
        if read_sysreg!("vttbr_el2") != vttbr {
            let vtcr = self.constants.vtcr | VTCR_RES1;
            if read_sysreg!("vtcr_el2") != vtcr {
                write_sysreg!("vtcr_el2", vtcr);
            }
            write_sysreg!("vttbr_el2", vttbr);
        }
        write_sysreg!("vmpidr_el2", self.constants.vmpidr);
        write_sysreg!("cntvoff_el2", self.state.virtual_offset);
        self.el1.load();
        if keys {
            self.keys.load();
        }
        self.system_error.load(ras);
        isb();
    }
}
