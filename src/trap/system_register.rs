//! Trapped system registers: what a guest reads, what its writes do, and what it must not have.
//!
//! The policy is Xen's after its advisories 93, 102 and 351, by class of register:
//!
//! | class | answer |
//! |---|---|
//! | ID registers | the common subset ([`identification`]); unlisted ones of the ID space read as zero |
//! | PMU | RAZ/WI at EL1, UNDEFINED at EL0 but for PMUSERENR_EL0, which reads as zero |
//! | debug | RAZ/WI, and OSLSR_EL1 says that an OS lock exists and is unlocked |
//! | AMU, SPE, trace, RAS, LORegions, pointer-authentication keys, implementation-defined | UNDEFINED |
//! | CNTP_* | an emulated timer |
//! | ICC_SGI*R_EL1 | handed to the vGIC |
//! | DC ISW, CSW, CISW | handed back: the caller cleans the domain's memory, as no loop over sets can see all caches |
//! | ACTLR_EL1 | RAZ/WI |
//!
//! Everything else is UNDEFINED.

pub mod identification;
pub mod physical_timer;

use self::identification::{IdRegisters, RawIdRegisters};
use self::physical_timer::PhysicalTimer;
use super::registers::GuestMode;
use super::syndrome::{SystemRegister, SystemRegisterAccess, SystemRegisterDirection};
use crate::ids::Ticks;
pub use crate::vgic::SgiRegister;

/// Registers of a vCPU that exist nowhere but here.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct EmulatedRegisters {
    /// The EL1 physical timer.
    pub physical_timer: PhysicalTimer,
    /// CSSELR_EL1, used only while HCR_EL2.TID2 traps the cache ID registers.
    pub cache_selection: u64,
}

/// What of the vCPU's surroundings decides an access.
#[derive(Copy, Clone, Debug)]
pub struct SystemRegisterContext<'a> {
    /// The ID registers of the machine's guests.
    pub ids: &'a IdRegisters,
    /// Those of the pCPU that the vCPU is pinned to.
    pub pcpu: &'a RawIdRegisters,
    /// The domain has a GICv3.
    pub gic_system_registers: bool,
    /// Where the access came from.
    pub mode: GuestMode,
    /// CNTPCT_EL0.
    pub now: Ticks,
}

/// What to do about a trapped system register.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum SystemRegisterOutcome {
    /// Write this to Xt and step over the instruction.
    Read(u64),
    /// Step over the instruction.
    Written,
    /// Step over the instruction, and look at the physical timer's line and deadline again.
    TimerWritten,
    /// The vGIC sends an SGI by this register value; step over the instruction.
    SendSgi {
        /// Which register.
        register: SgiRegister,
        /// What was written.
        value: u64,
    },
    /// Clean and invalidate the domain's memory to the point of coherency, or know that nobody in it runs with caches
    /// off; step over the instruction.
    CacheBySetWay,
    /// The guest takes an undefined-instruction exception.
    Undefined,
}

use SystemRegisterDirection::{Read, Write};
use SystemRegisterOutcome as Outcome;

/// Performs a trapped MRS, MSR or system instruction. `value` is Xt; it is used by writes alone.
pub fn access(
    access: &SystemRegisterAccess,
    value: u64,
    registers: &mut EmulatedRegisters,
    context: &SystemRegisterContext<'_>,
) -> SystemRegisterOutcome {
    let at_el1 = matches!(context.mode, GuestMode::El1t | GuestMode::El1h);
    let direction = access.direction;
    let SystemRegister {
        op0,
        op1,
        crn,
        crm,
        op2,
    } = access.register;
    match (op0, op1, crn, crm, op2) {
        // ID registers, readable at EL0 by FEAT_IDST's trap-and-emulate only, which goes to EL1.
        (3, 0, 0, 1..=7, _) => read_only(direction, context.ids.read_space(crm, op2)),
        (3, 0, 0, 0, 0) => read_only(direction, context.pcpu.midr),
        (3, 0, 0, 0, 6) => read_only(direction, context.pcpu.revidr),
        // AIDR_EL1, CLIDR_EL1, CCSIDR_EL1, CSSELR_EL1, CTR_EL0.
        (3, 1, 0, 0, 7) => read_only(direction, 0),
        (3, 1, 0, 0, 1) => read_only(direction, context.ids.clidr()),
        (3, 1, 0, 0, 0) => read_only(direction, one_set_one_way(context.ids.ctr(), registers.cache_selection)),
        (3, 2, 0, 0, 0) => match direction {
            Read => Outcome::Read(registers.cache_selection),
            Write => {
                registers.cache_selection = value & 0xf;
                Outcome::Written
            }
        },
        (3, 3, 0, 0, 1) => read_only(direction, context.ids.ctr()),
        // ACTLR_EL1.
        (3, 0, 1, 0, 1) => zero_and_ignored(direction),

        // DC ISW, CSW, CISW.
        (1, 0, 7, 6 | 10 | 14, 2) if direction == Write => Outcome::CacheBySetWay,

        // The physical timer: TVAL, CTL, CVAL, and the counter it compares with.
        (3, 3, 14, 2, 0..=2) => physical_timer(op2, direction, value, registers, context.now),
        (3, 3, 14, 0, 1 | 5) => read_only(direction, context.now.0),

        // ICC_SGI1R_EL1, ICC_ASGI1R_EL1, ICC_SGI0R_EL1, ICC_SRE_EL1: SRE, DFB and DIB are fixed to 1.
        (3, 0, 12, 11, 5..=7) if context.gic_system_registers && direction == Write => Outcome::SendSgi {
            register: match op2 {
                5 => SgiRegister::Sgi1r,
                6 => SgiRegister::Asgi1r,
                _ => SgiRegister::Sgi0r,
            },
            value,
        },
        (3, 0, 12, 12, 5) if context.gic_system_registers => match direction {
            Read => Outcome::Read(0b111),
            Write => Outcome::Written,
        },

        (2, ..) => debug(access, at_el1, context.ids),
        // PMINTENSET_EL1, PMINTENCLR_EL1, PMMIR_EL1.
        (3, 0, 9, 14, 1 | 2 | 6) => zero_and_ignored(direction),
        // PMUSERENR_EL0 is readable, not writable, at EL0.
        (3, 3, 9, 14, 0) if at_el1 || direction == Read => zero_and_ignored(direction),
        // The other PM*_EL0, PMEVCNTRn_EL0, PMEVTYPERn_EL0, PMCCFILTR_EL0: EL0 finds them disabled by PMUSERENR_EL0.
        (3, 3, 9, 12, _) | (3, 3, 9, 13, 0..=2) | (3, 3, 9, 14, 3) | (3, 3, 14, 8..=15, _) if at_el1 => {
            zero_and_ignored(direction)
        }
        _ => Outcome::Undefined,
    }
}

fn read_only(direction: SystemRegisterDirection, value: u64) -> Outcome {
    match direction {
        Read => Outcome::Read(value),
        Write => Outcome::Undefined,
    }
}

fn write_only(direction: SystemRegisterDirection) -> Outcome {
    match direction {
        Read => Outcome::Undefined,
        Write => Outcome::Written,
    }
}

fn zero_and_ignored(direction: SystemRegisterDirection) -> Outcome {
    match direction {
        Read => Outcome::Read(0),
        Write => Outcome::Written,
    }
}

fn physical_timer(
    op2: u8,
    direction: SystemRegisterDirection,
    value: u64,
    registers: &mut EmulatedRegisters,
    now: Ticks,
) -> Outcome {
    let timer = &mut registers.physical_timer;
    match (op2, direction) {
        (0, Read) => return Outcome::Read(timer.timer_value(now)),
        (1, Read) => return Outcome::Read(timer.control(now)),
        (_, Read) => return Outcome::Read(timer.compare()),
        (0, Write) => timer.set_timer_value(now, value),
        (1, Write) => timer.set_control(value),
        (_, Write) => timer.set_compare(value),
    }
    Outcome::TimerWritten
}

/// OSLSR_EL1: OSLM = 0b10, an OS lock that is not locked.
const OS_LOCK_UNLOCKED: u64 = 1 << 3;

/// Debug registers (op0 = 2): a guest may set up its debugger, which then never triggers.
fn debug(access: &SystemRegisterAccess, at_el1: bool, ids: &IdRegisters) -> Outcome {
    let direction = access.direction;
    let SystemRegister { op1, crn, crm, op2, .. } = access.register;
    match (op1, crn, crm, op2) {
        // MDCCSR_EL0 and DBGDTR*_EL0: EL0 may use them unless MDSCR_EL1.TDCC, which reads as zero.
        (3, 0, 1, 0) => read_only(direction, 0),
        (3, 0, 4 | 5, 0) => zero_and_ignored(direction),
        _ if !at_el1 => Outcome::Undefined,
        // OSDTRRX_EL1, MDCCINT_EL1, MDSCR_EL1, OSDTRTX_EL1, OSECCR_EL1.
        (0, 0, 0 | 3 | 6, 2) | (0, 0, 2, 0 | 2) => zero_and_ignored(direction),
        // DBGBVRn_EL1, DBGBCRn_EL1, DBGWVRn_EL1, DBGWCRn_EL1.
        (0, 0, number, 4 | 5) if number < ids.breakpoints() => zero_and_ignored(direction),
        (0, 0, number, 6 | 7) if number < ids.watchpoints() => zero_and_ignored(direction),
        // MDRAR_EL1, OSLAR_EL1, OSLSR_EL1, OSDLR_EL1, DBGPRCR_EL1.
        (0, 1, 0, 0) => read_only(direction, 0),
        (0, 1, 0, 4) => write_only(direction),
        (0, 1, 1, 4) => read_only(direction, OS_LOCK_UNLOCKED),
        (0, 1, 3 | 4, 4) => zero_and_ignored(direction),
        // DBGCLAIMSET_EL1, DBGCLAIMCLR_EL1, DBGAUTHSTATUS_EL1.
        (0, 7, 8 | 9, 6) => zero_and_ignored(direction),
        (0, 7, 14, 6) => read_only(direction, 0),
        _ => Outcome::Undefined,
    }
}

/// CCSIDR_EL1 of a cache of one set and one way: a guest that loops over it wastes no time, since set/way operations
/// of a vCPU promise nothing anyway. The line is the smallest of the machine.
fn one_set_one_way(ctr: u64, selection: u64) -> u64 {
    let log2_words = if selection & 1 != 0 { ctr & 0xf } else { ctr >> 16 & 0xf };
    // LineSize is log2(words) - 2.
    log2_words.saturating_sub(2) & 7
}
