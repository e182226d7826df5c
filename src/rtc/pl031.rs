//! A PL031, as Linux's `arm,pl031` driver uses it (Arm DDI 0224, PL031 technical reference manual).
//!
//! The counter is the hypervisor's wall clock and an offset that the guest sets by RTCLR and nobody else sees. It runs from
//! the start: RTCCR reads 1, and writes to it have no effect, as in hardware once it was started. The match is found when
//! somebody looks, so the model needs an alarm only while the guest waits for its interrupt. A match that has passed comes
//! again when the counter, of 32 bits, comes round.

use crate::access::{AccessWidth, Direction};
use crate::primecell::{self, BadAccess, PERIPH_ID0};

const RTCDR: u64 = 0x000;
const RTCMR: u64 = 0x004;
const RTCLR: u64 = 0x008;
const RTCCR: u64 = 0x00c;
const RTCIMSC: u64 = 0x010;
const RTCRIS: u64 = 0x014;
const RTCMIS: u64 = 0x018;
const RTCICR: u64 = 0x01c;

/// RTCPeriphID0 to 3, RTCPCellID0 to 3.
const IDENTIFICATION: [u8; 8] = [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// RTCCR.RTC start.
const STARTED: u32 = 1;
/// The one interrupt's bit, in each register that has it.
const INTERRUPT: u32 = 1;
/// Seconds in which the counter comes round.
const ROUND: u64 = 1 << 32;

/// The register machine. `now` is always the wall clock in seconds since 1970, and never goes back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pl031 {
    /// What the counter shows beyond the wall clock.
    offset: u32,
    load: u32,
    matched: u32,
    /// When the counter next shows `matched`, by the wall clock.
    matches_at: u64,
    raw_interrupt: bool,
    interrupt_enabled: bool,
}

impl Pl031 {
    /// After reset: the counter shows the wall clock.
    pub fn new(now: u64) -> Self {
        let mut clock = Self {
            offset: 0,
            load: 0,
            matched: 0,
            matches_at: 0,
            raw_interrupt: false,
            interrupt_enabled: false,
        };
        clock.expect(now);
        clock
    }

    /// Performs one access of the guest; a store returns 0. The interrupt line and the alarm may change.
    ///
    /// # Errors
    /// [`BadAccess`]; nothing changes.
    pub fn access(
        &mut self,
        offset: u64,
        width: AccessWidth,
        direction: Direction,
        now: u64,
    ) -> Result<u64, BadAccess> {
        let (register, lane) = primecell::register_and_lane(offset, width)?;
        self.advance(now);
        Ok(match direction {
            Direction::Read => u64::from(self.read(register, now)) >> (8 * lane) & width.mask(),
            Direction::Write(value) if lane == 0 => {
                self.write(register, (value & width.mask()) as u32, now);
                0
            }
            // The upper bytes of a register can't be written by themselves.
            Direction::Write(_) => 0,
        })
    }

    /// Finds a match that has come.
    pub fn advance(&mut self, now: u64) {
        if let Some(since) = now.checked_sub(self.matches_at) {
            self.raw_interrupt = true;
            let rounds = since / ROUND + 1;
            self.matches_at = self.matches_at.saturating_add(rounds.saturating_mul(ROUND));
        }
    }

    /// The level of the interrupt line, as far as [`Self::advance`] has looked.
    pub fn line(&self) -> bool {
        self.raw_interrupt && self.interrupt_enabled
    }

    /// When the line rises, by the wall clock; `None`: it is up, or stays down.
    pub fn alarm(&self) -> Option<u64> {
        (self.interrupt_enabled && !self.raw_interrupt).then_some(self.matches_at)
    }

    fn counter(&self, now: u64) -> u32 {
        (now as u32).wrapping_add(self.offset)
    }

    /// The counter or the match has changed. A match that is there already counts.
    fn expect(&mut self, now: u64) {
        let seconds = self.matched.wrapping_sub(self.counter(now));
        self.matches_at = now.saturating_add(seconds.into());
    }

    fn read(&self, register: u64, now: u64) -> u32 {
        match register {
            RTCDR => self.counter(now),
            RTCMR => self.matched,
            RTCLR => self.load,
            RTCCR => STARTED,
            RTCIMSC => u32::from(self.interrupt_enabled),
            RTCRIS => u32::from(self.raw_interrupt),
            RTCMIS => u32::from(self.line()),
            PERIPH_ID0.. => primecell::identification(IDENTIFICATION, register).into(),
            _ => 0,
        }
    }

    fn write(&mut self, register: u64, value: u32, now: u64) {
        match register {
            RTCMR => {
                self.matched = value;
                self.expect(now);
                self.advance(now);
            }
            RTCLR => {
                self.load = value;
                self.offset = value.wrapping_sub(now as u32);
                self.expect(now);
                self.advance(now);
            }
            RTCIMSC => self.interrupt_enabled = value & INTERRUPT != 0,
            RTCICR if value & INTERRUPT != 0 => self.raw_interrupt = false,
            _ => {}
        }
    }
}
