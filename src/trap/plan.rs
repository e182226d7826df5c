//! What a load or a store to an emulated address does: the plan to perform one instruction.
//!
//! An instruction is performed write-then-advance: an [`AccessPlan`] is made once, from values that were read once; its
//! transfers are answered in order, however long that takes; and only when all are answered do registers, base and PC
//! change, all at once. What the plan holds is final: neither the guest's code nor a device can change it in between.

use thiserror::Error;

use super::instruction::Refusal;
use super::registers::{GuestFrame, GuestMode, InstructionLength};
use super::syndrome::{DataAbort, FaultStatus};
use crate::access::{AccessWidth, Direction, MmioAccess};
use crate::cpu::El1Register;
use crate::ids::{Ipa, PAGE_SIZE};

/// How a loaded value fills its register.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum Extension {
    /// The rest of Xt is zero.
    Zero,
    /// Sign-extended into Wt; bits 63:32 of Xt are zero.
    SignTo32,
    /// Sign-extended into Xt.
    SignTo64,
}

/// What a load of `width` that read `raw` leaves in Xt. Bits of `raw` beyond the width are ignored.
pub const fn load_value(width: AccessWidth, extension: Extension, raw: u64) -> u64 {
    let value = raw & width.mask();
    let unused = 64 - 8 * width.bytes() as u32;
    let signed = ((value << unused) as i64 >> unused) as u64;
    match extension {
        Extension::Zero => value,
        Extension::SignTo32 => signed & 0xffff_ffff,
        Extension::SignTo64 => signed,
    }
}

/// One transfer of a plan.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Transfer {
    /// A load into a register.
    Load {
        /// Where.
        ipa: Ipa,
        /// How wide.
        width: AccessWidth,
        /// How the value fills the register.
        extension: Extension,
        /// Xt; 31 discards.
        register: u8,
    },
    /// A store of a value.
    Store {
        /// Where.
        ipa: Ipa,
        /// How wide.
        width: AccessWidth,
        /// What, masked to the width.
        value: u64,
    },
}

impl Transfer {
    /// The access that a device sees.
    pub const fn access(self) -> MmioAccess {
        match self {
            Self::Load { ipa, width, .. } => MmioAccess {
                ipa,
                width,
                direction: Direction::Read,
            },
            Self::Store { ipa, width, value } => MmioAccess {
                ipa,
                width,
                direction: Direction::Write(value),
            },
        }
    }
}

/// Which register an instruction's base is.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Base {
    /// Xn.
    General(u8),
    /// The SP that PSTATE selected when the instruction trapped.
    StackPointer(El1Register),
}

/// A base register's new value, for post- and pre-indexed forms.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Writeback {
    /// Which register.
    pub base: Base,
    /// Its value after the instruction.
    pub value: u64,
}

/// Everything one load or store instruction does.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct AccessPlan {
    /// The first transfer, at the lower address.
    pub first: Transfer,
    /// The second one of a pair.
    pub second: Option<Transfer>,
    /// The new base.
    pub writeback: Option<Writeback>,
    /// By how much PC moves.
    pub length: InstructionLength,
}

/// What a refused data access asks for, by its syndrome.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum DataAbortPlan {
    /// The syndrome says it all.
    Access(AccessPlan),
    /// The syndrome does not describe the instruction, or not all of it: read the word at PC and call
    /// [`super::instruction::plan_from_instruction`].
    Decode,
    /// Cache maintenance of an address with no memory behind it: nothing to do but to step over it.
    Skip(InstructionLength),
    /// The guest gets a synchronous external abort.
    Refuse(Refusal),
}

/// Plans the access that `abort` describes, at `ipa` (of the abort's own virtual address). `next_page` translates the
/// virtual address of the page behind by the guest's own tables; it is asked only when the access reaches there.
pub fn plan_from_syndrome(
    abort: &DataAbort,
    ipa: Ipa,
    frame: &GuestFrame,
    next_page: impl FnOnce(u64) -> Option<Ipa>,
) -> DataAbortPlan {
    match abort.status {
        FaultStatus::Translation { .. }
        | FaultStatus::AccessFlag { .. }
        | FaultStatus::Permission { .. }
        | FaultStatus::AddressSize { .. } => {}
        status => return DataAbortPlan::Refuse(Refusal::Fault(status)),
    }
    if abort.stage1_walk {
        return DataAbortPlan::Refuse(Refusal::TableWalk);
    }
    if abort.cache_maintenance {
        return DataAbortPlan::Skip(abort.length);
    }
    let Some(transfer) = abort.transfer else {
        return DataAbortPlan::Decode;
    };
    let Some(virtual_address) = abort.address.virtual_address() else {
        return DataAbortPlan::Refuse(Refusal::Fault(abort.status));
    };
    if let Err(refusal) = place(virtual_address, ipa, transfer.width, 1, next_page) {
        return DataAbortPlan::Refuse(refusal);
    }
    // An access that began in the page before, in memory, faults at the first byte of this one, with the syndrome of the
    // whole: only the instruction tells. AArch32 instructions are not decoded.
    if ipa.page_offset() == 0 && transfer.width != AccessWidth::Byte && frame.mode() != GuestMode::El0Aarch32 {
        return DataAbortPlan::Decode;
    }
    let first = if abort.write {
        Transfer::Store {
            ipa,
            width: transfer.width,
            value: frame.read(transfer.register) & transfer.width.mask(),
        }
    } else {
        Transfer::Load {
            ipa,
            width: transfer.width,
            extension: transfer.extension,
            register: transfer.register,
        }
    };
    DataAbortPlan::Access(AccessPlan {
        first,
        second: None,
        writeback: None,
        length: abort.length,
    })
}

/// Where the last of `count` transfers (one, or two in a row) goes whose first is at `ipa`. A transfer that lies in two
/// pages is one only if the guest put them side by side.
pub(super) fn place(
    virtual_address: u64,
    ipa: Ipa,
    width: AccessWidth,
    count: u64,
    next_page: impl FnOnce(u64) -> Option<Ipa>,
) -> Result<Ipa, Refusal> {
    let offset_of_last = ipa.page_offset() + (count - 1) * width.bytes();
    let last = ipa
        .checked_add((count - 1) * width.bytes())
        .ok_or(Refusal::CrossesPage)?;
    if offset_of_last + width.bytes() <= PAGE_SIZE {
        return Ok(last);
    }
    let behind = (virtual_address | (PAGE_SIZE - 1)).wrapping_add(1);
    let page = next_page(behind).ok_or(Refusal::CrossesPage)?.page();
    if ipa.page().checked_add(PAGE_SIZE) == Some(page) {
        Ok(last)
    } else if offset_of_last == PAGE_SIZE {
        Ok(page)
    } else {
        Err(Refusal::CrossesPage)
    }
}

/// [`PendingPlan::commit`] came before the last answer.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Error)]
#[error("{answered} transfers are answered, more are due")]
pub struct Unanswered {
    /// How many were answered.
    pub answered: u8,
}

/// A new value for a stack pointer, which lives in the CPU and not in the frame.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[must_use]
pub struct StackPointerWrite {
    /// SP_EL0 or SP_EL1.
    pub register: El1Register,
    /// Its value.
    pub value: u64,
}

/// A plan on its way: which transfers are answered, and with what.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct PendingPlan {
    plan: AccessPlan,
    answered: u8,
    values: [u64; 2],
}

impl PendingPlan {
    /// A plan of which nothing is done.
    pub const fn new(plan: AccessPlan) -> Self {
        Self {
            plan,
            answered: 0,
            values: [0; 2],
        }
    }

    /// The plan.
    pub const fn plan(&self) -> &AccessPlan {
        &self.plan
    }

    /// How many transfers are answered. From the first answer on the instruction must not simply run again: a device has
    /// seen it.
    pub const fn answered(&self) -> u8 {
        self.answered
    }

    /// The access that is due; `None` when all are answered.
    pub fn next(&self) -> Option<MmioAccess> {
        match self.answered {
            0 => Some(self.plan.first.access()),
            1 => self.plan.second.map(Transfer::access),
            _ => None,
        }
    }

    /// Answers the access that is due: what a load read (any bits beyond its width are ignored), anything for a store.
    /// Without one that is due, nothing changes.
    pub fn complete(&mut self, value: u64) {
        if self.next().is_some()
            && let Some(slot) = self.values.get_mut(usize::from(self.answered))
        {
            *slot = value;
            self.answered += 1;
        }
    }

    /// Finishes the instruction in `frame`: loaded registers, base, PC. A new SP is returned for the caller to write.
    ///
    /// # Errors
    /// [`Unanswered`], and nothing changes, while a transfer is due.
    pub fn commit(&self, frame: &mut GuestFrame) -> Result<Option<StackPointerWrite>, Unanswered> {
        if self.next().is_some() {
            return Err(Unanswered {
                answered: self.answered,
            });
        }
        let transfers = [Some(self.plan.first), self.plan.second];
        for (transfer, value) in transfers.into_iter().flatten().zip(self.values) {
            if let Transfer::Load {
                width,
                extension,
                register,
                ..
            } = transfer
            {
                frame.write(register, load_value(width, extension, value));
            }
        }
        let mut stack_pointer = None;
        match self.plan.writeback {
            Some(Writeback {
                base: Base::General(register),
                value,
            }) => frame.write(register, value),
            Some(Writeback {
                base: Base::StackPointer(register),
                value,
            }) => stack_pointer = Some(StackPointerWrite { register, value }),
            None => {}
        }
        frame.advance(self.plan.length);
        Ok(stack_pointer)
    }
}
