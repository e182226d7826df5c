//! The general registers of a trapped vCPU, and what PSTATE says of it.

use crate::cpu::El1Register;

/// How long the instruction that trapped is (ESR_ELx.IL).
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum InstructionLength {
    /// A T32 instruction of 16 bits.
    Halfword,
    /// Every other instruction.
    Word,
}

impl InstructionLength {
    /// From bit 25 of an ESR.
    pub const fn from_esr(esr: u64) -> Self {
        if esr >> 25 & 1 != 0 { Self::Word } else { Self::Halfword }
    }
    /// 2 or 4.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Halfword => 2,
            Self::Word => 4,
        }
    }
}

/// x0 to x30, PC and PSTATE of a vCPU that is not executing. `arch` saves and restores it by these offsets.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct GuestFrame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// ELR_EL2: where the guest goes on.
    pub pc: u64,
    /// SPSR_EL2: PSTATE when it goes on.
    pub pstate: u64,
}

/// Which general registers of a trapped vCPU are in its frame. The others must be neither read nor written there.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Saved(u32);

impl Saved {
    /// x0 to x19 and x30: those that a function may change without keeping them for its caller, and one more.
    pub const CALLER: Self = Self(0x400f_ffff | Self::ZERO);
    /// All.
    pub const ALL: Self = Self(u32::MAX);
    const ZERO: u32 = 1 << 31;

    /// A bit each.
    #[inline]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether Xn is; 31 is the zero register, which always is.
    #[inline]
    pub const fn has(self, register: u8) -> bool {
        self.0 >> (register & 31) & 1 != 0
    }
}

/// Which exception level and state a vCPU is in.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum GuestMode {
    /// EL0 in AArch32.
    El0Aarch32,
    /// EL0 in AArch64.
    El0,
    /// EL1 with SP_EL0.
    El1t,
    /// EL1 with SP_EL1.
    El1h,
}

impl GuestFrame {
    /// Reads Xn; 31 is the zero register.
    #[inline]
    pub fn read(&self, register: u8) -> u64 {
        self.x.get(usize::from(register)).copied().unwrap_or(0)
    }
    /// Writes Xn; a write to 31 is discarded.
    #[inline]
    pub fn write(&mut self, register: u8, value: u64) {
        if let Some(x) = self.x.get_mut(usize::from(register)) {
            *x = value;
        }
    }

    /// Level and state by PSTATE.M. EL1 is always AArch64, and hardware never reports a level that is not there.
    #[inline]
    pub const fn mode(&self) -> GuestMode {
        match (self.pstate >> 4 & 1, self.pstate & 0xf) {
            (1, _) => GuestMode::El0Aarch32,
            (_, 0b0100) => GuestMode::El1t,
            (_, 0b0101) => GuestMode::El1h,
            _ => GuestMode::El0,
        }
    }

    /// The register that SP names now.
    pub const fn stack_pointer(&self) -> El1Register {
        match self.mode() {
            GuestMode::El1h => El1Register::SpEl1,
            _ => El1Register::SpEl0,
        }
    }

    /// It takes interrupts when it goes on: PSTATE.I.
    pub const fn unmask_interrupts(&mut self) {
        self.pstate &= !PSTATE_I;
    }
    /// Steps over an instruction that was performed for the guest: PC, and the parts of PSTATE that every completed
    /// instruction changes (BTYPE and SS are cleared; in AArch32 the IT block advances).
    #[inline]
    pub fn advance(&mut self, length: InstructionLength) {
        self.pc = self.pc.wrapping_add(length.bytes());
        self.pstate &= !PSTATE_SS;
        if let GuestMode::El0Aarch32 = self.mode() {
            self.pc &= 0xffff_ffff;
            self.advance_it_block();
        } else {
            self.pstate &= !PSTATE_BTYPE;
        }
    }

    /// [`Self::advance`] over an A64 instruction.
    #[inline]
    pub fn advance_a64(&mut self) {
        self.pc = self.pc.wrapping_add(InstructionLength::Word.bytes());
        self.pstate &= !(PSTATE_SS | PSTATE_BTYPE);
    }

    /// Goes back to an HVC, whose preferred return address is the instruction behind it, so that an exception can be
    /// taken from it.
    pub fn rewind(&mut self) {
        self.pc = self.pc.wrapping_sub(InstructionLength::Word.bytes());
    }

    /// ITAdvance() of the Arm ARM; SPSR holds IT\[1:0\] in bits 26:25 and IT\[7:2\] in bits 15:10.
    fn advance_it_block(&mut self) {
        let it = (self.pstate >> 25 & 0b11) | (self.pstate >> 10 & 0b11_1111) << 2;
        let next = if it & 0b111 == 0 {
            0
        } else {
            it & 0b1110_0000 | it << 1 & 0b1_1111
        };
        self.pstate &= !(0b11 << 25 | 0b11_1111 << 10);
        self.pstate |= (next & 0b11) << 25 | (next >> 2) << 10;
    }
}

const PSTATE_I: u64 = 1 << 7;
const PSTATE_SS: u64 = 1 << 21;
const PSTATE_BTYPE: u64 = 0b11 << 10;

const _: () = assert!(size_of::<GuestFrame>() == 33 * 8);
