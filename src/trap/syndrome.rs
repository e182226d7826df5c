//! What an exception's registers say, every field by its name and every kind of exception a variant.
//!
//! HPFAR_EL2 is only defined for some faults (Arm ARM, D24.2, HPFAR_EL2): translation, access-flag and address-size
//! faults at stage 2, and any stage-2 fault of a stage-1 walk. [`FaultAddress`] therefore has no IPA to give for a
//! permission fault: whoever needs one must translate the virtual address, and a test that poisons HPFAR can prove
//! that nobody reads it.

use super::plan::Extension;
use super::registers::InstructionLength;
use crate::access::AccessWidth;
use crate::ids::{Ipa, PAGE_SIZE};

/// The registers that describe an exception taken to EL2 from a lower level, each read once.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Syndrome {
    /// ESR_EL2
    pub esr: u64,
    /// FAR_EL2
    pub far: u64,
    /// HPFAR_EL2; the decoder never uses it where the architecture does not define it.
    pub hpfar: u64,
}

impl Syndrome {
    /// What stands for HPFAR_EL2 where it says nothing: no page of any guest.
    pub const NO_HPFAR: u64 = 0x0000_0fff_ffff_fff0;

    /// Whether HPFAR_EL2 may say something of an abort: it does not of a permission fault outside a walk (Arm ARM, D24.2,
    /// HPFAR_EL2). Who reads the registers passes [`Self::NO_HPFAR`] then, whatever an implementation has there.
    #[inline]
    pub const fn has_hpfar(esr: u64) -> bool {
        /// S1PTW.
        const ON_WALK: u64 = 1 << 7;
        esr & (0b1111 << 2 | ON_WALK) != 0b0011 << 2
    }

    /// The page that HPFAR_EL2 names, where it is defined: FIPA is bits 43:4 and holds IPA\[51:12\].
    pub const fn hpfar_page(&self) -> Ipa {
        Ipa((self.hpfar & 0x0000_0fff_ffff_fff0) << 8)
    }
}

/// How far HPFAR_EL2 can be believed on this pCPU.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Hpfar {
    /// As the architecture says.
    #[default]
    Architectural,
    /// Only for faults of a stage-1 walk: Cortex-A57 erratum 834220 may report a stage-2 translation fault when stage 1
    /// faulted, with an IPA that means nothing.
    WalksOnly,
}

/// Why the vCPU came to EL2 (ESR_EL2.EC, Arm ARM, D24.2, ESR_EL2).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Exception {
    /// An instruction that is undefined, or that a trap reports so (EC 0x00).
    Unknown,
    /// WFI, WFE and their kin (EC 0x01).
    Wait(WaitInstruction),
    /// SVE, Advanced SIMD or floating point while CPTR_EL2 traps it (EC 0x07).
    FloatingPoint,
    /// SVE while CPTR_EL2 traps it (EC 0x19).
    ScalableVector,
    /// SME (EC 0x1d).
    ScalableMatrix,
    /// A pointer-authentication instruction or key while HCR_EL2.API or APK traps it (EC 0x09).
    PointerAuthentication,
    /// LD64B, ST64B and their kin (EC 0x0a).
    LoadStore64Bytes,
    /// Execution with an illegal PSTATE (EC 0x0e).
    IllegalState,
    /// HVC from AArch64; the frame's PC is already behind it (EC 0x16).
    Hypercall {
        /// Its immediate.
        immediate: u16,
    },
    /// SMC from AArch64; the frame's PC is at it (EC 0x17).
    SecureCall {
        /// Its immediate.
        immediate: u16,
    },
    /// MSR, MRS or a system instruction (EC 0x18).
    SystemRegister(SystemRegisterAccess),
    /// A coprocessor or CP15 access of AArch32 code, HVC, SMC, SVC or VMRS in AArch32 (EC 0x03 to 0x06, 0x08, 0x0c,
    /// 0x11 to 0x13).
    Aarch32 {
        /// ESR_EL2.EC.
        class: u8,
    },
    /// ERET and its kin under nested virtualisation, TSTART, GCS, BTI, PAC failure, MOPS, trapped FP exceptions:
    /// nothing here traps them, so that one arrives is the guest's fault (EC as given).
    Other {
        /// ESR_EL2.EC.
        class: u8,
        /// ESR_EL2.ISS.
        iss: u32,
    },
    /// An instruction fetch that stage 2 refused (EC 0x20).
    InstructionAbort(InstructionAbort),
    /// A load, store, cache maintenance or translation that stage 2 refused (EC 0x24).
    DataAbort(DataAbort),
    /// A PC that is not aligned (EC 0x22).
    PcAlignment,
    /// An SP that is not aligned (EC 0x26).
    SpAlignment,
    /// An SError (EC 0x2f).
    SystemError {
        /// ESR_EL2.ISS.
        iss: u32,
    },
    /// Breakpoint, software step, watchpoint, BKPT or BRK (EC 0x30, 0x32, 0x34, 0x38, 0x3c).
    Debug {
        /// ESR_EL2.EC.
        class: u8,
        /// ESR_EL2.ISS.
        iss: u32,
    },
}

/// Which instruction of the WFI family (ESR_EL2.ISS.TI).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum WaitInstruction {
    /// WFI.
    Interrupt,
    /// WFE.
    Event,
    /// WFIT.
    InterruptWithTimeout,
    /// WFET.
    EventWithTimeout,
}

/// A system register by its encoding.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct SystemRegister {
    /// Op0: 0 to 3.
    pub op0: u8,
    /// Op1: 0 to 7.
    pub op1: u8,
    /// CRn: 0 to 15.
    pub crn: u8,
    /// CRm: 0 to 15.
    pub crm: u8,
    /// Op2: 0 to 7.
    pub op2: u8,
}

impl SystemRegister {
    /// S`op0`_`op1`_C`crn`_C`crm`_`op2`.
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self {
            op0,
            op1,
            crn,
            crm,
            op2,
        }
    }
}

/// Which way a register is moved.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum SystemRegisterDirection {
    /// MRS.
    Read,
    /// MSR, or a system instruction.
    Write,
}

/// A trapped MRS or MSR.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct SystemRegisterAccess {
    /// Which register.
    pub register: SystemRegister,
    /// Xt; 31 is the zero register.
    pub rt: u8,
    /// Which way.
    pub direction: SystemRegisterDirection,
}

/// What went wrong in a memory access (DFSC, IFSC).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum FaultStatus {
    /// An address wider than the table or output size allows.
    AddressSize {
        /// Level of the walk.
        level: i8,
    },
    /// No mapping.
    Translation {
        /// Level of the walk.
        level: i8,
    },
    /// Access flag clear.
    AccessFlag {
        /// Level of the walk.
        level: i8,
    },
    /// A mapping without that right.
    Permission {
        /// Level of the walk.
        level: i8,
    },
    /// The memory system answered with an error.
    SynchronousExternal,
    /// The memory system answered a table walk with an error.
    ExternalOnWalk {
        /// Level of the walk.
        level: i8,
    },
    /// Allocation tags differ.
    TagCheck,
    /// Parity or ECC error, on an access or on a walk.
    Parity,
    /// Alignment.
    Alignment,
    /// Two TLB entries for one address.
    TlbConflict,
    /// An atomic update of tables that the memory does not do.
    UnsupportedAtomicUpdate,
    /// An exclusive or atomic access that the memory does not do (0x35).
    UnsupportedExclusive,
    /// Any other code.
    Other(u8),
}

impl FaultStatus {
    /// Decodes a DFSC or IFSC (Arm ARM, D24.2, ISS encoding for an exception from a data abort).
    pub const fn decode(code: u8) -> Self {
        let level = (code & 3) as i8;
        match code & 0x3f {
            0x00..=0x03 => Self::AddressSize { level },
            0x04..=0x07 => Self::Translation { level },
            0x08..=0x0b => Self::AccessFlag { level },
            0x0c..=0x0f => Self::Permission { level },
            0x10 => Self::SynchronousExternal,
            0x11 => Self::TagCheck,
            0x13 => Self::ExternalOnWalk { level: -1 },
            0x14..=0x17 => Self::ExternalOnWalk { level },
            0x18 | 0x1b..=0x1f => Self::Parity,
            0x21 => Self::Alignment,
            0x29 => Self::AddressSize { level: -1 },
            0x2b => Self::Translation { level: -1 },
            0x30 => Self::TlbConflict,
            0x31 => Self::UnsupportedAtomicUpdate,
            0x35 => Self::UnsupportedExclusive,
            other => Self::Other(other),
        }
    }
}

/// What is known of where an access went.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum FaultAddress {
    /// Both addresses of the access.
    Both {
        /// The virtual address (FAR_EL2).
        virtual_address: u64,
        /// The intermediate physical address of the same byte.
        ipa: Ipa,
    },
    /// The guest's own walk met this page of its tables; the virtual address is that of the access that walked.
    Walk {
        /// The virtual address (FAR_EL2).
        virtual_address: u64,
        /// Page that holds the table entry.
        table: Ipa,
    },
    /// HPFAR_EL2 means nothing: the IPA must be found by translating the virtual address.
    VirtualOnly {
        /// The virtual address (FAR_EL2).
        virtual_address: u64,
    },
    /// Not even FAR_EL2 means anything (FnV).
    Unknown,
}

impl FaultAddress {
    fn decode(syndrome: &Syndrome, status: FaultStatus, walk: bool, far_valid: bool, hpfar: Hpfar) -> Self {
        let virtual_address = syndrome.far;
        let page = syndrome.hpfar_page().0;
        let stage2_defined = match status {
            FaultStatus::Translation { .. } | FaultStatus::AccessFlag { .. } | FaultStatus::AddressSize { .. } => {
                hpfar == Hpfar::Architectural
            }
            _ => false,
        };
        let on_walk = walk
            && matches!(
                status,
                FaultStatus::Translation { .. }
                    | FaultStatus::AccessFlag { .. }
                    | FaultStatus::AddressSize { .. }
                    | FaultStatus::Permission { .. }
            );
        if !far_valid {
            Self::Unknown
        } else if on_walk {
            Self::Walk {
                virtual_address,
                table: Ipa(page),
            }
        } else if stage2_defined {
            Self::Both {
                virtual_address,
                ipa: Ipa(page | virtual_address & (PAGE_SIZE - 1)),
            }
        } else {
            Self::VirtualOnly { virtual_address }
        }
    }

    /// FAR_EL2, if it means something.
    pub const fn virtual_address(self) -> Option<u64> {
        match self {
            Self::Both { virtual_address, .. }
            | Self::Walk { virtual_address, .. }
            | Self::VirtualOnly { virtual_address } => Some(virtual_address),
            Self::Unknown => None,
        }
    }
}

/// An instruction fetch that stage 2 refused.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct InstructionAbort {
    /// IFSC.
    pub status: FaultStatus,
    /// Where.
    pub address: FaultAddress,
    /// S1PTW: the guest's own walk faulted.
    pub stage1_walk: bool,
    /// EA: the implementation's classification of an external abort.
    pub external_type: bool,
    /// IL.
    pub length: InstructionLength,
}

/// The register and width of an access, when the syndrome says it (ISV = 1).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct RegisterTransfer {
    /// SRT: Xt; 31 is the zero register.
    pub register: u8,
    /// SAS.
    pub width: AccessWidth,
    /// SSE and SF.
    pub extension: Extension,
    /// AR: an acquire or release.
    pub ordered: bool,
}

/// A data access that stage 2 refused.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct DataAbort {
    /// DFSC.
    pub status: FaultStatus,
    /// Where.
    pub address: FaultAddress,
    /// WnR: a store, or an access that does both and was refused as a store; also cache maintenance.
    pub write: bool,
    /// S1PTW: the guest's own walk faulted.
    pub stage1_walk: bool,
    /// CM: cache maintenance or address translation, not a load or store.
    pub cache_maintenance: bool,
    /// EA: the implementation's classification of an external abort.
    pub external_type: bool,
    /// VNCR: an access by nested virtualisation.
    pub vncr: bool,
    /// SET: state of the PE after a synchronous external abort.
    pub error_state: u8,
    /// SRT, SAS, SSE, SF, AR, when ISV = 1.
    pub transfer: Option<RegisterTransfer>,
    /// IL.
    pub length: InstructionLength,
}

impl Exception {
    /// Decodes a synchronous exception.
    pub fn decode(syndrome: &Syndrome, hpfar: Hpfar) -> Self {
        let class = (syndrome.esr >> 26 & 0x3f) as u8;
        let iss = (syndrome.esr & 0x01ff_ffff) as u32;
        let immediate = iss as u16;
        match class {
            0x00 => Self::Unknown,
            0x01 => Self::Wait(match iss & 3 {
                0 => WaitInstruction::Interrupt,
                1 => WaitInstruction::Event,
                2 => WaitInstruction::InterruptWithTimeout,
                _ => WaitInstruction::EventWithTimeout,
            }),
            0x03..=0x06 | 0x08 | 0x0c | 0x11..=0x13 => Self::Aarch32 { class },
            0x07 => Self::FloatingPoint,
            0x09 => Self::PointerAuthentication,
            0x0a => Self::LoadStore64Bytes,
            0x0e => Self::IllegalState,
            0x16 => Self::Hypercall { immediate },
            0x17 => Self::SecureCall { immediate },
            0x18 => Self::SystemRegister(decode_system_register(iss)),
            0x19 => Self::ScalableVector,
            0x1d => Self::ScalableMatrix,
            0x20 => Self::InstructionAbort(decode_instruction_abort(syndrome, hpfar)),
            0x22 => Self::PcAlignment,
            0x24 => Self::DataAbort(decode_data_abort(syndrome, hpfar)),
            0x26 => Self::SpAlignment,
            0x2f => Self::SystemError { iss },
            0x30 | 0x32 | 0x34 | 0x38 | 0x3c => Self::Debug { class, iss },
            _ => Self::Other { class, iss },
        }
    }
}

fn decode_system_register(iss: u32) -> SystemRegisterAccess {
    let field = |shift: u32, mask: u32| (iss >> shift & mask) as u8;
    SystemRegisterAccess {
        register: SystemRegister {
            op0: field(20, 3),
            op1: field(14, 7),
            crn: field(10, 15),
            crm: field(1, 15),
            op2: field(17, 7),
        },
        rt: field(5, 31),
        direction: if iss & 1 != 0 {
            SystemRegisterDirection::Read
        } else {
            SystemRegisterDirection::Write
        },
    }
}

fn decode_instruction_abort(syndrome: &Syndrome, hpfar: Hpfar) -> InstructionAbort {
    let bit = |shift: u32| syndrome.esr >> shift & 1 != 0;
    let status = FaultStatus::decode(syndrome.esr as u8 & 0x3f);
    InstructionAbort {
        status,
        address: FaultAddress::decode(syndrome, status, bit(7), far_valid(syndrome, status), hpfar),
        stage1_walk: bit(7),
        external_type: bit(9),
        length: InstructionLength::from_esr(syndrome.esr),
    }
}

fn decode_data_abort(syndrome: &Syndrome, hpfar: Hpfar) -> DataAbort {
    let esr = syndrome.esr;
    let bit = |shift: u32| esr >> shift & 1 != 0;
    let status = FaultStatus::decode(esr as u8 & 0x3f);
    let valid = bit(24);
    DataAbort {
        status,
        address: FaultAddress::decode(syndrome, status, bit(7), far_valid(syndrome, status), hpfar),
        write: bit(6),
        stage1_walk: bit(7),
        cache_maintenance: bit(8),
        external_type: bit(9),
        vncr: bit(13),
        error_state: (esr >> 11 & 3) as u8,
        transfer: valid.then(|| RegisterTransfer {
            register: (esr >> 16 & 31) as u8,
            width: AccessWidth::from_sas(esr >> 22),
            extension: match (bit(21), bit(15)) {
                (false, _) => Extension::Zero,
                (true, false) => Extension::SignTo32,
                (true, true) => Extension::SignTo64,
            },
            ordered: bit(14),
        }),
        length: InstructionLength::from_esr(esr),
    }
}

/// FnV is only defined for a synchronous external abort that is not on a walk; elsewhere FAR_EL2 is valid.
fn far_valid(syndrome: &Syndrome, status: FaultStatus) -> bool {
    status != FaultStatus::SynchronousExternal || syndrome.esr >> 10 & 1 == 0
}
