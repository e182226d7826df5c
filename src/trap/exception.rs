//! Exceptions that a guest gets from the hypervisor, entered exactly as hardware would enter them at EL1.
//!
//! [`enter_el1`] is a function from values to values (Arm ARM, shared/exceptions, AArch64.TakeException); [`inject`]
//! applies it to the loaded vCPU. An SError is not entered here: hardware delivers a virtual one when the guest has it
//! unmasked (HCR_EL2.VSE), so it is handed back as an effect.

use super::registers::{GuestFrame, GuestMode};
use super::syndrome::{DataAbort, Exception, InstructionAbort, Syndrome};
use crate::cpu::{Cpu, El1Register};
use crate::trace::Denial;

/// An exception that the guest is to take.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum GuestException {
    /// The instruction at PC is undefined.
    Undefined,
    /// A load, store or table walk got no answer from memory.
    DataAbort {
        /// The address, for FAR_EL1; `None`: not known (FnV).
        virtual_address: Option<u64>,
        /// WnR.
        write: bool,
        /// CM.
        cache_maintenance: bool,
    },
    /// An instruction fetch got no answer from memory.
    InstructionAbort {
        /// The address, for FAR_EL1; `None`: not known (FnV).
        virtual_address: Option<u64>,
    },
    /// Any other synchronous exception, as hardware would have reported it at EL1 (breakpoints, illegal state).
    Reflected {
        /// ESR_EL1, with the class as for a lower level.
        esr: u64,
        /// FAR_EL1, where the class defines it.
        virtual_address: Option<u64>,
    },
    /// An asynchronous error.
    SystemError {
        /// ISS of the SError (VSESR_EL2, with FEAT_RAS).
        syndrome: u32,
    },
}

impl GuestException {
    /// What giving it to the guest denies it.
    pub const fn denial(&self) -> Denial {
        match self {
            Self::Undefined => Denial::Undefined,
            _ => Denial::Refused,
        }
    }

    /// The external abort that a guest gets for an access that nobody answers.
    pub fn of_data_abort(abort: &DataAbort) -> Self {
        Self::DataAbort {
            virtual_address: abort.address.virtual_address(),
            write: abort.write,
            cache_maintenance: abort.cache_maintenance,
        }
    }

    /// The external abort that a guest gets for a fetch from where no memory is.
    pub fn of_instruction_abort(abort: &InstructionAbort) -> Self {
        Self::InstructionAbort {
            virtual_address: abort.address.virtual_address(),
        }
    }

    /// What a guest gets for an exception that is none of the hypervisor's business: as if it had gone to EL1 at once,
    /// or, for what the ID registers say is absent, an undefined instruction. `None` for what the hypervisor performs:
    /// waits, calls, system registers, floating point, aborts.
    pub fn of_trap(exception: &Exception, syndrome: &Syndrome) -> Option<Self> {
        let reflected = |virtual_address| Self::Reflected {
            esr: syndrome.esr,
            virtual_address,
        };
        match exception {
            Exception::Wait(_)
            | Exception::Hypercall { .. }
            | Exception::SecureCall { .. }
            | Exception::SystemRegister(_)
            | Exception::FloatingPoint
            | Exception::InstructionAbort(_)
            | Exception::DataAbort(_) => None,
            Exception::IllegalState | Exception::SpAlignment => Some(reflected(None)),
            Exception::PcAlignment => Some(reflected(Some(syndrome.far))),
            // Of the debug exceptions only a watchpoint has an address.
            Exception::Debug { class, .. } => Some(reflected((*class == EC_WATCHPOINT).then_some(syndrome.far))),
            Exception::SystemError { iss } => Some(Self::SystemError { syndrome: *iss }),
            Exception::Unknown
            | Exception::ScalableVector
            | Exception::ScalableMatrix
            | Exception::PointerAuthentication
            | Exception::LoadStore64Bytes
            | Exception::Aarch32 { .. }
            | Exception::Other { .. } => Some(Self::Undefined),
        }
    }
}

/// What entering EL1 depends on besides the frame.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct El1Entry {
    /// VBAR_EL1
    pub vector_base: u64,
    /// SCTLR_EL1
    pub sctlr: u64,
    /// What PSTATE has on this machine.
    pub features: PstateFeatures,
}

/// Optional parts of PSTATE that exception entry changes.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct PstateFeatures {
    /// FEAT_PAN.
    pub pan: bool,
    /// FEAT_SSBS.
    pub ssbs: bool,
    /// FEAT_MTE: TCO is set on entry.
    pub mte: bool,
    /// FEAT_NMI: ALLINT follows SCTLR_EL1.SPINTMASK.
    pub nmi: bool,
}

/// EL1's registers after a synchronous exception; the frame goes on at the vector.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct SynchronousEntry {
    /// ELR_EL1
    pub elr: u64,
    /// SPSR_EL1
    pub spsr: u64,
    /// ESR_EL1
    pub esr: u64,
    /// FAR_EL1; `None`: unchanged.
    pub far: Option<u64>,
    /// Where the guest goes on.
    pub pc: u64,
    /// PSTATE there.
    pub pstate: u64,
}

/// What [`inject`] did, or leaves to do.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum Injected {
    /// The guest goes on at its vector.
    Entered,
    /// Pend a virtual SError: VSESR_EL2 = this ISS, HCR_EL2.VSE = 1.
    PendSystemError {
        /// For VSESR_EL2.
        syndrome: u32,
    },
}

const FSC_SYNCHRONOUS_EXTERNAL: u64 = 0x10;
const EC_UNKNOWN: u64 = 0x00;
const EC_INSTRUCTION_ABORT: u64 = 0x20;
const EC_DATA_ABORT: u64 = 0x24;
const EC_WATCHPOINT: u8 = 0x34;
/// Set for every class made here: undefined, instruction aborts, and data aborts without a valid ISS (ESR_EL1.IL).
const ESR_IL: u64 = 1 << 25;
const ISS_WNR: u64 = 1 << 6;
const ISS_CM: u64 = 1 << 8;
const ISS_FNV: u64 = 1 << 10;

const SCTLR_SPAN: u64 = 1 << 23;
const SCTLR_DSSBS: u64 = 1 << 44;
const SCTLR_SPINTMASK: u64 = 1 << 62;

const PSTATE_FLAGS: u64 = 0b1111 << 28;
const PSTATE_TCO: u64 = 1 << 25;
const PSTATE_DIT: u64 = 1 << 24;
const PSTATE_PAN: u64 = 1 << 22;
const PSTATE_ALLINT: u64 = 1 << 13;
const PSTATE_SSBS: u64 = 1 << 12;
const PSTATE_DAIF: u64 = 0b1111 << 6;
const PSTATE_EL1H: u64 = 0b0101;

/// Enters EL1 for a synchronous exception; `None` for an SError, which hardware enters.
#[inline(always)]
pub fn enter_el1(exception: GuestException, frame: &GuestFrame, entry: &El1Entry) -> Option<SynchronousEntry> {
    let mode = frame.mode();
    let same_level = matches!(mode, GuestMode::El1t | GuestMode::El1h);
    // The classes of an abort from the same level are one above those from a lower one.
    let abort_class = |class: u64| (class + u64::from(same_level)) << 26;
    let external = |address: Option<u64>| {
        let fnv = if address.is_some() { 0 } else { ISS_FNV };
        ESR_IL | fnv | FSC_SYNCHRONOUS_EXTERNAL
    };
    let (esr, far) = match exception {
        GuestException::Undefined => (EC_UNKNOWN << 26 | ESR_IL, None),
        GuestException::DataAbort {
            virtual_address,
            write,
            cache_maintenance,
        } => {
            let wnr = u64::from(write || cache_maintenance) * ISS_WNR;
            let cm = u64::from(cache_maintenance) * ISS_CM;
            let esr = abort_class(EC_DATA_ABORT) | wnr | cm | external(virtual_address);
            (esr, virtual_address)
        }
        GuestException::InstructionAbort { virtual_address } => {
            let esr = abort_class(EC_INSTRUCTION_ABORT) | external(virtual_address);
            (esr, virtual_address)
        }
        GuestException::Reflected { esr, virtual_address } => {
            let class = esr >> 26 & 0x3f;
            let has_level = matches!(class, 0x20 | 0x24 | 0x30 | 0x32 | 0x34);
            let class = if same_level && has_level { class + 1 } else { class };
            (esr & 0x03ff_ffff | class << 26, virtual_address)
        }
        GuestException::SystemError { .. } => return None,
    };
    // Of two vectors a level has, the second is for SP_EL1 and for AArch32.
    let vector = match mode {
        GuestMode::El1t | GuestMode::El1h => (frame.pstate & 1) << 9,
        GuestMode::El0 | GuestMode::El0Aarch32 => 0x400 | (frame.pstate >> 4 & 1) << 9,
    };
    Some(SynchronousEntry {
        elr: frame.pc,
        spsr: frame.pstate,
        esr,
        far,
        pc: (entry.vector_base & !0x7ff).wrapping_add(vector),
        pstate: entered_pstate(frame.pstate, entry),
    })
}

/// PSTATE in the handler: condition flags, DIT and PAN carry over (DIT, PAN have the same bits in an AArch32 SPSR),
/// everything else has its value of exception entry.
#[inline(always)]
fn entered_pstate(old: u64, entry: &El1Entry) -> u64 {
    let mut new = old & (PSTATE_FLAGS | PSTATE_DIT | PSTATE_PAN) | PSTATE_DAIF | PSTATE_EL1H;
    if entry.features.pan && entry.sctlr & SCTLR_SPAN == 0 {
        new |= PSTATE_PAN;
    }
    if entry.features.ssbs && entry.sctlr & SCTLR_DSSBS != 0 {
        new |= PSTATE_SSBS;
    }
    if entry.features.mte {
        new |= PSTATE_TCO;
    }
    if entry.features.nmi && entry.sctlr & SCTLR_SPINTMASK == 0 {
        new |= PSTATE_ALLINT;
    }
    new
}

/// Makes the loaded vCPU take `exception` at the instruction that its frame's PC names. For an HVC, whose PC is already
/// behind it, call [`GuestFrame::rewind`] first.
#[inline(always)]
pub fn inject<C: Cpu>(
    cpu: &mut C,
    frame: &mut GuestFrame,
    exception: GuestException,
    features: PstateFeatures,
) -> Injected {
    if let GuestException::SystemError { syndrome } = exception {
        return Injected::PendSystemError { syndrome };
    }
    let entry = El1Entry {
        vector_base: cpu.read_el1(El1Register::VbarEl1),
        sctlr: cpu.read_el1(El1Register::SctlrEl1),
        features,
    };
    if let Some(entered) = enter_el1(exception, frame, &entry) {
        cpu.write_el1(El1Register::ElrEl1, entered.elr);
        cpu.write_el1(El1Register::SpsrEl1, entered.spsr);
        cpu.write_el1(El1Register::EsrEl1, entered.esr);
        if let Some(far) = entered.far {
            cpu.write_el1(El1Register::FarEl1, far);
        }
        frame.pc = entered.pc;
        frame.pstate = entered.pstate;
    }
    Injected::Entered
}
