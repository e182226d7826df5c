//! Real-time clocks: what the machine's showed, and the one that a guest sees.

pub mod pl031;

use crate::ids::Ticks;

/// What a real-time clock showed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Reading {
    /// Seconds since 1970.
    pub seconds: u64,
    /// The system counter then.
    pub at: Ticks,
}
