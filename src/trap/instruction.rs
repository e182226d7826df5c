//! Loads and stores that the syndrome does not describe (ISV = 0), decoded from the instruction itself.
//!
//! Indexed forms, pairs and a few others arrive without a valid syndrome (Arm ARM, D24.2, ESR_EL2, ISV). The guest can
//! rewrite the instruction between its trap and our reading it, so a decoded instruction counts only if it would have
//! done what hardware reported: same direction (WnR), same address (FAR). If not, the guest simply runs again.
//! What can't be emulated faithfully is refused with the reason; the guest then gets a synchronous external abort.

use thiserror::Error;

use super::plan::{AccessPlan, Base, Extension, Transfer, Writeback, place};
use super::registers::{GuestFrame, GuestMode, InstructionLength};
use super::syndrome::FaultStatus;
use crate::access::AccessWidth;
use crate::ids::Ipa;

/// Why an access to an emulated address is not performed.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Error)]
pub enum Refusal {
    /// Not a fault that emulation answers.
    #[error("fault status {0:?}")]
    Fault(FaultStatus),
    /// The guest's page tables lie at the address.
    #[error("a walk of the guest's own tables")]
    TableWalk,
    /// A transfer lies in two pages that the guest did not put side by side, or the fault is not at the first byte.
    #[error("an access that crosses a page")]
    CrossesPage,
    /// AArch32 code: A32 and T32 are not decoded.
    #[error("an AArch32 instruction that the syndrome does not describe")]
    Aarch32,
    /// Not in the class of loads and stores.
    #[error("not a load or store")]
    NotLoadStore,
    /// SIMD and floating-point registers.
    #[error("a SIMD or floating-point access")]
    Vector,
    /// Load-exclusive or store-exclusive.
    #[error("an exclusive access")]
    Exclusive,
    /// LSE: load and modify.
    #[error("an atomic memory operation")]
    Atomic,
    /// LSE: compare and swap.
    #[error("a compare-and-swap")]
    CompareAndSwap,
    /// DC ZVA, DC GVA, DC GZVA.
    #[error("a cache block operation that stores")]
    CacheBlock,
    /// Prefetches never fault.
    #[error("a prefetch")]
    Prefetch,
    /// Allocation tags.
    #[error("a memory-tag access")]
    Tag,
    /// LDRAA, LDRAB.
    #[error("a load that authenticates its base")]
    Authenticated,
    /// LD64B, ST64B and their kin.
    #[error("a 64-byte access")]
    SixtyFourBytes,
    /// CPY*, SET*.
    #[error("a memory copy or set")]
    MemoryCopy,
    /// Base and data register are the same, with writeback: CONSTRAINED UNPREDICTABLE.
    #[error("writeback to the register that is transferred")]
    WritebackConflict,
    /// A load of both halves of a pair into one register: CONSTRAINED UNPREDICTABLE.
    #[error("a pair loaded into one register")]
    SameRegister,
    /// No instruction has this encoding, or none that is known here.
    #[error("an unallocated encoding")]
    Unallocated,
}

/// An instruction that could not be planned.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Error)]
pub enum PlanError {
    /// It is refused.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    /// It is not the instruction that trapped, or a register changed: run the guest again from the same PC.
    #[error("the instruction no longer does what trapped")]
    Reenter,
}

/// Where a load or store goes.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Addressing {
    /// Base plus an immediate.
    Offset(i64),
    /// Base plus an extended and shifted register.
    Register {
        /// Xm or Wm.
        rm: u8,
        /// How Rm is widened.
        extend: RegisterExtend,
        /// By how much it is shifted left then.
        shift: u8,
    },
    /// Base, which becomes base plus the immediate.
    PostIndex(i64),
    /// Base plus the immediate, which becomes the base.
    PreIndex(i64),
    /// PC plus an immediate.
    Literal(i64),
}

/// How an offset register is widened.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum RegisterExtend {
    /// UXTW.
    UnsignedWord,
    /// LSL: all of Xm.
    Doubleword,
    /// SXTW.
    SignedWord,
}

/// What a load or store does with its register.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Memory to register.
    Load(Extension),
    /// Register to memory.
    Store,
}

/// A load or store of general registers.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct LoadStore {
    /// Load or store.
    pub operation: Operation,
    /// Width of each transfer.
    pub width: AccessWidth,
    /// Register of the transfer at the lower address; 31 is the zero register.
    pub rt: u8,
    /// Register of a pair's second transfer.
    pub rt2: Option<u8>,
    /// Base; 31 is SP. Not used by [`Addressing::Literal`].
    pub rn: u8,
    /// Where.
    pub addressing: Addressing,
}

/// Bits of an instruction.
#[derive(Copy, Clone)]
struct Word(u32);

impl Word {
    const fn bits(self, high: u32, low: u32) -> u32 {
        self.0 >> low & (u32::MAX >> (31 - (high - low)))
    }
    const fn bit(self, index: u32) -> bool {
        self.0 >> index & 1 != 0
    }
    const fn register(self, low: u32) -> u8 {
        (self.0 >> low & 31) as u8
    }
    /// A two's complement field.
    const fn signed(self, high: u32, low: u32) -> i64 {
        (((self.0 << (31 - high)) as i32) >> (31 - high + low)) as i64
    }
}

/// Decodes an A64 load or store (Arm ARM, C4.1.94, Loads and stores).
///
/// # Errors
/// Why the instruction is not one that can be performed on emulated memory.
pub fn decode(instruction: u32) -> Result<LoadStore, Refusal> {
    let word = Word(instruction);
    if word.bits(31, 8) == 0xd5_0b74 && matches!(word.bits(7, 5), 1 | 3 | 4) {
        return Err(Refusal::CacheBlock);
    }
    if !word.bit(27) || word.bit(25) {
        return Err(Refusal::NotLoadStore);
    }
    // Bits 29:28 name the family, bit 26 says vector registers.
    match (word.bits(29, 28), word.bit(26), word.bit(24)) {
        // CPY* and SETG* sit among the vector forms of the unscaled ordered accesses.
        (0b01, true, true) if !word.bit(21) && word.bits(11, 10) == 0b01 => Err(Refusal::MemoryCopy),
        (_, true, _) => Err(Refusal::Vector),
        (0b00, _, false) => decode_exclusive(word),
        (0b01, _, false) => decode_literal(word),
        (0b01, _, true) => decode_unscaled_ordered(word),
        (0b10, _, _) => decode_pair(word),
        (0b11, _, _) => decode_register(word),
        _ => Err(Refusal::Unallocated),
    }
}

/// Load/store exclusive, load-acquire and store-release, compare and swap.
fn decode_exclusive(word: Word) -> Result<LoadStore, Refusal> {
    match (word.bit(23), word.bit(21)) {
        // LDAR, STLR; LDLAR, STLLR. Rs and Rt2 should be 31 and are ignored if they are not.
        (true, false) => Ok(LoadStore {
            operation: if word.bit(22) {
                Operation::Load(Extension::Zero)
            } else {
                Operation::Store
            },
            width: width(word.bits(31, 30)),
            rt: word.register(0),
            rt2: None,
            rn: word.register(5),
            addressing: Addressing::Offset(0),
        }),
        (true, true) => Err(Refusal::CompareAndSwap),
        // CASP shares its class with the exclusive pairs: sizes 0 and 1.
        (false, true) if word.bits(31, 30) < 2 => Err(Refusal::CompareAndSwap),
        (false, _) => Err(Refusal::Exclusive),
    }
}

/// LDR (literal).
fn decode_literal(word: Word) -> Result<LoadStore, Refusal> {
    let (width, extension) = match word.bits(31, 30) {
        0b00 => (AccessWidth::Word, Extension::Zero),
        0b01 => (AccessWidth::Doubleword, Extension::Zero),
        0b10 => (AccessWidth::Word, Extension::SignTo64),
        _ => return Err(Refusal::Prefetch),
    };
    Ok(LoadStore {
        operation: Operation::Load(extension),
        width,
        rt: word.register(0),
        rt2: None,
        rn: 31,
        addressing: Addressing::Literal(word.signed(23, 5) * 4),
    })
}

/// STLUR, LDAPUR; memory tags; memory copy.
fn decode_unscaled_ordered(word: Word) -> Result<LoadStore, Refusal> {
    match (word.bit(21), word.bits(11, 10)) {
        (false, 0b00) => {
            let (operation, width) = size_and_opc(word, Refusal::Unallocated)?;
            Ok(LoadStore {
                operation,
                width,
                rt: word.register(0),
                rt2: None,
                rn: word.register(5),
                addressing: Addressing::Offset(word.signed(20, 12)),
            })
        }
        (true, _) if word.bits(31, 30) == 0b11 => Err(Refusal::Tag),
        (false, 0b01) if word.bits(31, 30) == 0b00 => Err(Refusal::MemoryCopy),
        _ => Err(Refusal::Unallocated),
    }
}

/// LDP, STP, LDPSW, LDNP, STNP.
fn decode_pair(word: Word) -> Result<LoadStore, Refusal> {
    let load = word.bit(22);
    let variant = word.bits(24, 23);
    let (width, extension) = match (word.bits(31, 30), load) {
        (0b00, _) => (AccessWidth::Word, Extension::Zero),
        (0b01, true) if variant != 0b00 => (AccessWidth::Word, Extension::SignTo64),
        (0b01, false) if variant != 0b00 => return Err(Refusal::Tag),
        (0b10, _) => (AccessWidth::Doubleword, Extension::Zero),
        _ => return Err(Refusal::Unallocated),
    };
    let offset = word.signed(21, 15) * width.bytes() as i64;
    let (rt, rt2, rn) = (word.register(0), word.register(10), word.register(5));
    let addressing = match variant {
        0b01 => Addressing::PostIndex(offset),
        0b11 => Addressing::PreIndex(offset),
        _ => Addressing::Offset(offset),
    };
    let writes_base = matches!(addressing, Addressing::PostIndex(_) | Addressing::PreIndex(_));
    if writes_base && rn != 31 && (rn == rt || rn == rt2) {
        return Err(Refusal::WritebackConflict);
    }
    if load && rt == rt2 {
        return Err(Refusal::SameRegister);
    }
    Ok(LoadStore {
        operation: if load {
            Operation::Load(extension)
        } else {
            Operation::Store
        },
        width,
        rt,
        rt2: Some(rt2),
        rn,
        addressing,
    })
}

/// Load/store register in all its forms, atomics and authenticated loads.
fn decode_register(word: Word) -> Result<LoadStore, Refusal> {
    let (rt, rn) = (word.register(0), word.register(5));
    let scale = word.bits(31, 30);
    let (unallocated, prefetch) = (Refusal::Unallocated, Refusal::Prefetch);
    let (form, addressing) = if word.bit(24) {
        let offset = i64::from(word.bits(21, 10)) << scale;
        (size_and_opc(word, prefetch), Addressing::Offset(offset))
    } else if word.bit(21) {
        match word.bits(11, 10) {
            0b00 => return decode_atomic(word),
            0b10 => {
                let extend = match word.bits(15, 13) {
                    0b010 => RegisterExtend::UnsignedWord,
                    0b011 | 0b111 => RegisterExtend::Doubleword,
                    0b110 => RegisterExtend::SignedWord,
                    _ => return Err(unallocated),
                };
                let shift = if word.bit(12) { scale as u8 } else { 0 };
                let rm = word.register(16);
                (size_and_opc(word, prefetch), Addressing::Register { rm, extend, shift })
            }
            _ if scale == 0b11 => return Err(Refusal::Authenticated),
            _ => return Err(unallocated),
        }
    } else {
        let offset = word.signed(20, 12);
        match word.bits(11, 10) {
            0b00 => (size_and_opc(word, prefetch), Addressing::Offset(offset)),
            0b01 => (size_and_opc(word, unallocated), Addressing::PostIndex(offset)),
            0b10 => (size_and_opc(word, unallocated), Addressing::Offset(offset)),
            _ => (size_and_opc(word, unallocated), Addressing::PreIndex(offset)),
        }
    };
    let (operation, width) = form?;
    let writes_base = matches!(addressing, Addressing::PostIndex(_) | Addressing::PreIndex(_));
    if writes_base && rn != 31 && rn == rt {
        return Err(Refusal::WritebackConflict);
    }
    Ok(LoadStore {
        operation,
        width,
        rt,
        rt2: None,
        rn,
        addressing,
    })
}

/// LDAPR is a plain load among the atomics; the others load and modify, or move 64 bytes.
fn decode_atomic(word: Word) -> Result<LoadStore, Refusal> {
    // A = 1, R = 0, o3 = 1, opc = 100.
    if word.bits(23, 22) == 0b10 && word.bits(15, 12) == 0b1100 {
        return Ok(LoadStore {
            operation: Operation::Load(Extension::Zero),
            width: width(word.bits(31, 30)),
            rt: word.register(0),
            rt2: None,
            rn: word.register(5),
            addressing: Addressing::Offset(0),
        });
    }
    let sixty_four =
        word.bits(31, 30) == 0b11 && word.bits(23, 22) == 0b00 && matches!(word.bits(15, 12), 0b1001..=0b1011 | 0b1101);
    Err(if sixty_four {
        Refusal::SixtyFourBytes
    } else {
        Refusal::Atomic
    })
}

/// Fields size and opc of a single-register access; `doubleword_10` is what size = 3, opc = 2 is in this class.
fn size_and_opc(word: Word, doubleword_10: Refusal) -> Result<(Operation, AccessWidth), Refusal> {
    let width = width(word.bits(31, 30));
    let operation = match (word.bits(23, 22), width) {
        (0b00, _) => Operation::Store,
        (0b01, _) => Operation::Load(Extension::Zero),
        (0b10, AccessWidth::Doubleword) => return Err(doubleword_10),
        (0b10, _) => Operation::Load(Extension::SignTo64),
        (_, AccessWidth::Byte | AccessWidth::Halfword) => Operation::Load(Extension::SignTo32),
        _ => return Err(Refusal::Unallocated),
    };
    Ok((operation, width))
}

const fn width(size: u32) -> AccessWidth {
    match size {
        0 => AccessWidth::Byte,
        1 => AccessWidth::Halfword,
        2 => AccessWidth::Word,
        _ => AccessWidth::Doubleword,
    }
}

/// What hardware reported of the access whose instruction is decoded.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ReportedAccess {
    /// FAR_EL2.
    pub virtual_address: u64,
    /// The intermediate physical address of that byte.
    pub ipa: Ipa,
    /// WnR.
    pub write: bool,
}

/// Plans what the instruction word read at PC does, if it is what trapped. `stack_pointer` is the value of the register
/// that [`GuestFrame::stack_pointer`] names; `next_page` translates the virtual address of the page behind by the
/// guest's own tables, and is asked only when the access reaches there.
///
/// # Errors
/// [`PlanError::Refused`] when it can't be performed; [`PlanError::Reenter`] when it is not what trapped.
pub fn plan_from_instruction(
    instruction: u32,
    frame: &GuestFrame,
    stack_pointer: u64,
    reported: &ReportedAccess,
    next_page: impl FnOnce(u64) -> Option<Ipa>,
) -> Result<AccessPlan, PlanError> {
    if let GuestMode::El0Aarch32 = frame.mode() {
        return Err(PlanError::Refused(Refusal::Aarch32));
    }
    let decoded = decode(instruction)?;
    let base = if decoded.rn == 31 {
        stack_pointer
    } else {
        frame.read(decoded.rn)
    };
    let (address, new_base) = match decoded.addressing {
        Addressing::Offset(offset) => (base.wrapping_add_signed(offset), None),
        Addressing::Register { rm, extend, shift } => {
            let offset = match extend {
                RegisterExtend::UnsignedWord => frame.read(rm) & 0xffff_ffff,
                RegisterExtend::Doubleword => frame.read(rm),
                RegisterExtend::SignedWord => frame.read(rm) as u32 as i32 as u64,
            };
            (base.wrapping_add(offset << shift), None)
        }
        Addressing::PostIndex(offset) => (base, Some(base.wrapping_add_signed(offset))),
        Addressing::PreIndex(offset) => {
            let sum = base.wrapping_add_signed(offset);
            (sum, Some(sum))
        }
        Addressing::Literal(offset) => (frame.pc.wrapping_add_signed(offset), None),
    };

    let bytes = decoded.width.bytes();
    let count = if decoded.rt2.is_some() { 2 } else { 1 };
    // FAR_EL2 may or may not keep the tag byte of an address; the bits below it name the byte.
    let distance = reported.virtual_address.wrapping_sub(address) & ADDRESS_BITS;
    if reported.write != (decoded.operation == Operation::Store) || distance >= count * bytes {
        return Err(PlanError::Reenter);
    }
    if distance != 0 {
        return Err(PlanError::Refused(Refusal::CrossesPage));
    }
    let last = place(reported.virtual_address, reported.ipa, decoded.width, count, next_page)?;

    let transfer = |register: u8, ipa: Ipa| match decoded.operation {
        Operation::Load(extension) => Transfer::Load {
            ipa,
            width: decoded.width,
            extension,
            register,
        },
        Operation::Store => Transfer::Store {
            ipa,
            width: decoded.width,
            value: frame.read(register) & decoded.width.mask(),
        },
    };
    Ok(AccessPlan {
        first: transfer(decoded.rt, reported.ipa),
        second: decoded.rt2.map(|rt2| transfer(rt2, last)),
        writeback: new_base.map(|value| Writeback {
            base: match decoded.rn {
                31 => Base::StackPointer(frame.stack_pointer()),
                register => Base::General(register),
            },
            value,
        }),
        length: InstructionLength::Word,
    })
}

const ADDRESS_BITS: u64 = (1 << 56) - 1;
