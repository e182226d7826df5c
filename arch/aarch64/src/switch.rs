//! What belongs to a vCPU besides its general registers, and how it gets into the hardware and out.
//!
//! Only what an AArch64 guest can change without a trap is switched. Not here, because every access traps: debug, trace,
//! performance, activity and profiling registers, ACTLR_EL1, the physical timer, SVE, SME and MTE state.
//!
//! Order: nothing between saving one vCPU and loading the next uses EL1's translation regime; one ISB after the last
//! write makes it whole before an AT or a TLBI, and the ERET covers the guest. TCR_EL1 is compared before
//! it is written: under emulation a write flushes translations, the same value or not. CPUs whose errata let a speculative
//! AT mix two vCPUs have EL1's walks closed in between.
//!
//! Most CPUs need none of what some do ([`Way`]); what runs on such a one is compiled apart.

use crate::cpu::El2Cpu;
use crate::features::Features;
use crate::fp::{self, FpState};
use crate::gic::v3::GicV3;
use crate::gic::{Gic, VirtualState};
use crate::keys::{self, Keys};
use crate::machine::Arm64;
use crate::mmio::Registers;
use crate::pcpu::Local;
use crate::sysreg::{isb, load_sysregs, read_sysreg, store_sysregs, write_sysreg};
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, Ordering};
use portunus::hypervisor::{Hypervisor, Located, VcpuConstants, VcpuState};
use portunus::ids::VcpuId;
use portunus::trace::vcpu_bits;
use portunus_gic::v2::GicV2;

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
    pub(crate) keys: Keys,
    /// Those of EL1's that are not there on usual CPUs.
    defined: ImplementationDefined,
    /// A virtual SError that it has not taken yet.
    system_error: SystemErrorState,
    /// What it has that most vCPUs do without.
    pub(crate) extras: Extras,
    /// How trace events name it.
    pub(crate) traced: u64,
    /// The virtual CPU interface.
    pub(crate) virtual_state: VirtualState,
    /// FP and SIMD registers while another vCPU owns them.
    pub(crate) fp: FpState,
    /// For how many more loads the FP registers come along without a trap.
    pub(crate) fp_eager: u8,
}

/// What few vCPUs have, or only now and then: a bit each, so that one look tells that a vCPU has nothing of it.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Extras(u8);

impl Extras {
    /// It has used pointer authentication keys.
    pub(crate) const KEYS: u8 = 1 << 0;
    /// It has used FP registers.
    pub(crate) const FP: u8 = 1 << 1;
    /// A virtual SError, or what is left of one, is in its `system_error`.
    const SYSTEM_ERROR: u8 = 1 << 2;

    /// Whether it has this.
    #[inline(always)]
    const fn has(self, what: u8) -> bool {
        self.0 & what != 0
    }
    /// It has nothing of this kind.
    #[inline(always)]
    const fn are_none(self) -> bool {
        self.0 == 0
    }
    /// It has this from now on.
    pub(crate) const fn add(&mut self, what: u8) {
        self.0 |= what;
    }
    const fn remove(&mut self, what: u8) {
        self.0 &= !what;
    }
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
    ($($offset:literal $first:ident $first_name:literal, $second:ident $second_name:literal;)* last $last:literal;) => {
        /// System registers of EL1 and EL0 that a guest changes without a trap, in pairs; the last one are those that are
        /// loaded one by one.
        #[derive(Copy, Clone, Debug, Default)]
        #[repr(C)]
        pub(crate) struct El1State {
            $($first: u64, $second: u64,)*
            tcr: u64,
            cntv_ctl: u64,
        }

        $(const _: () = assert!(offset_of!(El1State, $first) == $offset && offset_of!(El1State, $second) == $offset + 8);)*
        const _: () = assert!(offset_of!(El1State, tcr) == $last && offset_of!(El1State, cntv_ctl) == $last + 8);

        impl El1State {
            #[inline]
            fn save(&mut self) {
                store_sysregs!(
                    (&raw mut *self).cast(),
                    $($offset $first_name $second_name)* $last "tcr_el1" "cntv_ctl_el0"
                );
            }
            /// They are a guest's own, and no guest runs before all of them are.
            #[inline]
            fn load(&self) {
                self.load_tcr();
                self.load_others();
            }
            #[inline]
            fn load_tcr(&self) {
                if read_sysreg!("tcr_el1") != self.tcr {
                    write_sysreg!("tcr_el1", self.tcr);
                }
            }
            #[inline]
            fn load_others(&self) {
                load_sysregs!((&raw const *self).cast(), $($offset $first_name $second_name)*);
                // The comparison is armed with everything else in place.
                write_sysreg!("cntv_ctl_el0", self.cntv_ctl);
            }
        }
    };
}

el1_registers! {
    0 sctlr "sctlr_el1", cpacr "cpacr_el1";
    16 ttbr0 "ttbr0_el1", ttbr1 "ttbr1_el1";
    32 mair "mair_el1", vbar "vbar_el1";
    48 esr "esr_el1", far "far_el1";
    64 contextidr "contextidr_el1", tpidr_el0 "tpidr_el0";
    80 tpidrro_el0 "tpidrro_el0", tpidr_el1 "tpidr_el1";
    96 par "par_el1", csselr "csselr_el1";
    112 cntkctl "cntkctl_el1", sp_el0 "sp_el0";
    128 sp_el1 "sp_el1", elr "elr_el1";
    144 spsr "spsr_el1", cntv_cval "cntv_cval_el0";
    last 160;
}

/// What each implementation defines for itself, and most as zero whatever is written: auxiliary memory attributes and fault
/// status.
#[derive(Copy, Clone, Debug, Default)]
struct ImplementationDefined {
    amair: u64,
    afsr0: u64,
    afsr1: u64,
}

impl ImplementationDefined {
    fn save(&mut self) {
        self.amair = read_sysreg!("amair_el1");
        self.afsr0 = read_sysreg!("afsr0_el1");
        self.afsr1 = read_sysreg!("afsr1_el1");
    }

    /// They are a guest's own.
    fn load(&self) {
        write_sysreg!("amair_el1", self.amair);
        write_sysreg!("afsr0_el1", self.afsr0);
        write_sysreg!("afsr1_el1", self.afsr1);
    }

    /// Whether the executing pCPU keeps anything in them. No guest has run yet: nothing uses them.
    fn exist() -> bool {
        let all = Self {
            amair: u64::MAX,
            afsr0: u64::MAX,
            afsr1: u64::MAX,
        };
        all.load();
        isb();
        let mut kept = Self::default();
        kept.save();
        Self::default().load();
        isb();
        kept.amair | kept.afsr0 | kept.afsr1 != 0
    }
}

/// How a pCPU goes from one vCPU to another.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Way {
    /// What all CPUs need is enough: SErrors are those of FEAT_RAS, walks need not be closed, no register is defined by the
    /// implementation; and there is a GICv3 that has one register of active priorities for each group.
    UsualV3(&'static GicV3),
    /// The same with a GICv2.
    UsualV2(&'static GicV2<Registers>),
    /// Everything that may be necessary is looked at.
    Any,
}

impl Way {
    /// Of the executing pCPU, which has these features. No guest has run yet.
    pub(crate) fn of(features: Features, gic: &'static Gic) -> Self {
        if !features.ras || features.close_walks || ImplementationDefined::exist() {
            return Self::Any;
        }
        match gic {
            Gic::V3(gic) if gic.has_one_active() => Self::UsualV3(gic),
            Gic::V3(_) => Self::Any,
            Gic::V2(gic) => Self::UsualV2(gic),
        }
    }
}

/// What a pending virtual SError consists of: HCR_EL2.VSE, and with FEAT_RAS its syndrome (VSESR_EL2) and what a deferred
/// one left (VDISR_EL2). Nearly always there is nothing, and nothing is what the hardware holds between two vCPUs.
#[derive(Copy, Clone, Debug, Default)]
struct SystemErrorState {
    pending: u64,
    syndrome: u64,
    deferred: u64,
}

impl SystemErrorState {
    /// Whether there is any.
    #[inline]
    fn save(&mut self, ras: bool) -> bool {
        let pending = read_sysreg!("hcr_el2") & HCR_VSE;
        let deferred = if ras { read_sysreg!("s3_4_c12_c1_1") } else { 0 };
        let is_any = pending | deferred != 0;
        if is_any {
            self.take(ras, pending, deferred);
        }
        is_any
    }

    #[cold]
    #[inline(never)]
    fn take(&mut self, ras: bool, pending: u64, deferred: u64) {
        let syndrome = if ras { read_sysreg!("s3_4_c5_c2_3") } else { 0 };
        Self::default().put(ras);
        *self = Self {
            pending,
            syndrome,
            deferred,
        };
    }

    #[cold]
    #[inline(never)]
    fn put(&self, ras: bool) {
        write_sysreg!("hcr_el2", read_sysreg!("hcr_el2") & !HCR_VSE | self.pending);
        if ras {
            write_sysreg!("s3_4_c5_c2_3", self.syndrome);
            write_sysreg!("s3_4_c12_c1_1", self.deferred);
        }
    }
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

/// Some pCPU has [`Features::close_walks`].
static MUST_CLOSE_WALKS: AtomicBool = AtomicBool::new(false);

/// A pCPU with these features is there.
pub(crate) fn prepare(features: Features) {
    if features.close_walks {
        MUST_CLOSE_WALKS.store(true, Ordering::Relaxed);
    }
}

/// Whether VTTBR_EL2 is changed only between [`close_walks`] and [`ClosedWalks::open`] or the next vCPU's registers.
#[inline]
pub(crate) fn must_close_walks() -> bool {
    MUST_CLOSE_WALKS.load(Ordering::Relaxed)
}

/// What was there before walks were closed.
#[derive(Copy, Clone, Debug)]
#[must_use]
pub(crate) struct ClosedWalks {
    tcr: u64,
    sctlr: u64,
}

impl ClosedWalks {
    /// Puts back what was there, with VTTBR_EL2 as it was.
    pub(crate) fn open(self) {
        write_sysreg!("sctlr_el1", self.sctlr);
        isb();
        write_sysreg!("tcr_el1", self.tcr);
        isb();
    }
}

/// Lets no stage-1 walk of EL1's translation regime begin, nor stage 2 alone translate: whatever is speculated until the next
/// vCPU's TCR_EL1 is there finds nothing that a TLB could keep (Cortex-A57 erratum 1319537 and its kin).
#[cold]
#[inline(never)]
pub(crate) fn close_walks() -> ClosedWalks {
    /// TCR_EL1.EPD0 and EPD1.
    const EPD: u64 = 1 << 7 | 1 << 23;
    let closed = ClosedWalks {
        tcr: read_sysreg!("tcr_el1"),
        sctlr: read_sysreg!("sctlr_el1"),
    };
    write_sysreg!("tcr_el1", closed.tcr | EPD);
    isb();
    write_sysreg!("sctlr_el1", closed.sctlr | 1);
    isb();
    closed
}

/// Makes the loaded vCPU's registers what they are before its first instruction. The caller's ISB or ERET follows.
pub(crate) fn reset(features: Features) {
    El1State::at_reset().load();
    ImplementationDefined::default().load();
    keys::reset(features);
    SystemErrorState::default().put(features.ras);
}

impl VcpuContext {
    /// A vCPU before its first instruction: EL1's registers as after a reset, MMU and caches off.
    pub(crate) fn new(id: VcpuId, state: VcpuState, constants: VcpuConstants, links: Links) -> Self {
        Self {
            state,
            cpu: El2Cpu::with(links.gic),
            links,
            constants,
            el1: El1State::at_reset(),
            keys: Keys::default(),
            defined: ImplementationDefined::default(),
            system_error: SystemErrorState::default(),
            extras: Extras::default(),
            traced: vcpu_bits(id),
            virtual_state: VirtualState::default(),
            fp: FpState::new(),
            fp_eager: 0,
        }
    }

    /// Takes this vCPU's registers out of the hardware; its list registers are the core's and are free by now. `USUAL`: the
    /// pCPU's [`Way`] is.
    #[inline]
    pub(crate) fn save<const USUAL: bool>(&mut self, features: Features) {
        self.el1.save();
        if !USUAL {
            self.defined.save();
        }
        if self.extras.has(Extras::KEYS) {
            self.keys.save();
        }
        if self.system_error.save(USUAL || features.ras) {
            self.extras.add(Extras::SYSTEM_ERROR);
        }
    }

    /// Puts them into the hardware, and makes FP registers and keys trap if they are not this vCPU's. What is seen of it
    /// afterwards is whole.
    #[inline]
    pub(crate) fn load<const USUAL: bool>(&mut self, local: &mut Local) {
        let features = local.features;
        let closes_walks = !USUAL && features.close_walks;
        if closes_walks {
            // This vCPU's registers take the place of what was there.
            let _ = close_walks();
        }
        write_sysreg!("vtcr_el2", self.constants.vtcr | VTCR_RES1);
        write_sysreg!("vttbr_el2", self.constants.vttbr);
        write_sysreg!("vmpidr_el2", self.constants.vmpidr);
        write_sysreg!("cntvoff_el2", self.state.virtual_offset);
        if !USUAL {
            self.defined.load();
        }
        if closes_walks {
            isb();
            self.el1.load_others();
            // Walks begin again when everything that they depend on is this vCPU's.
            isb();
            self.el1.load_tcr();
        } else {
            self.el1.load();
        }
        if !self.extras.are_none() || local.open.is_any() {
            self.load_extras(local);
        }
        isb();
    }

    #[inline(never)]
    fn load_extras(&mut self, local: &mut Local) {
        let uses_keys = self.extras.has(Extras::KEYS);
        if uses_keys {
            self.keys.load();
        }
        keys::set_open(local, uses_keys);
        if self.extras.has(Extras::SYSTEM_ERROR) {
            self.extras.remove(Extras::SYSTEM_ERROR);
            self.system_error.put(local.features.ras);
        }
        fp::on_switch(local, &raw mut *self);
    }
}
