//! The EL1 physical timer of a vCPU, emulated: EL2 keeps the real one for itself.
//!
//! A pure function of CNTP_CTL_EL0, CNTP_CVAL_EL0 and the time (Arm ARM, D12.1, The Generic Timer). Whoever owns it
//! raises the timer's PPI while [`PhysicalTimer::line`] holds and looks again at [`PhysicalTimer::deadline`].

use crate::ids::Ticks;

const ENABLE: u64 = 1 << 0;
const IMASK: u64 = 1 << 1;
const ISTATUS: u64 = 1 << 2;

/// CNTP_CTL_EL0 and CNTP_CVAL_EL0 of one vCPU; the default is the state after reset.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct PhysicalTimer {
    control: u64,
    compare: u64,
}

impl PhysicalTimer {
    /// CNTP_CTL_EL0.ENABLE.
    pub const fn is_enabled(&self) -> bool {
        self.control & ENABLE != 0
    }
    /// CNTP_CTL_EL0: ENABLE, IMASK, and ISTATUS, which is 0 while the timer is disabled.
    pub const fn control(&self, now: Ticks) -> u64 {
        self.control | if self.condition(now) { ISTATUS } else { 0 }
    }
    /// Writes CNTP_CTL_EL0; ISTATUS is read-only.
    pub const fn set_control(&mut self, value: u64) {
        self.control = value & (ENABLE | IMASK);
    }
    /// CNTP_CVAL_EL0.
    pub const fn compare(&self) -> u64 {
        self.compare
    }
    /// Writes CNTP_CVAL_EL0.
    pub const fn set_compare(&mut self, value: u64) {
        self.compare = value;
    }
    /// CNTP_TVAL_EL0: what is left, a signed number of 32 bits, zero-extended into Xt as hardware does.
    pub const fn timer_value(&self, now: Ticks) -> u64 {
        self.compare.wrapping_sub(now.0) & 0xffff_ffff
    }
    /// Writes CNTP_TVAL_EL0: the deadline is `now` plus the signed low 32 bits of `value`.
    pub const fn set_timer_value(&mut self, now: Ticks, value: u64) {
        self.compare = now.0.wrapping_add_signed(value as u32 as i32 as i64);
    }
    /// The timer is enabled and its time has come (ISTATUS).
    pub const fn condition(&self, now: Ticks) -> bool {
        self.control & ENABLE != 0 && now.0 >= self.compare
    }
    /// The level of its interrupt.
    pub const fn line(&self, now: Ticks) -> bool {
        self.control & IMASK == 0 && self.condition(now)
    }
    /// When the line will rise by itself; `None`: not before a register is written.
    pub const fn deadline(&self, now: Ticks) -> Option<Ticks> {
        if self.control & (ENABLE | IMASK) == ENABLE && now.0 < self.compare {
            Some(Ticks(self.compare))
        } else {
            None
        }
    }
}
