//! List registers as the hardware's words.

use portunus::ids::IntId;
use portunus::vgic::list_register::{Backing, ListRegister, LrState};

pub(crate) trait Words: Sized {
    fn to_ich(register: Option<Self>) -> u64;
    fn from_ich(word: u64) -> Option<Self>;
    fn to_gich(register: Option<Self>) -> u32;
    fn from_gich(word: u32) -> Option<Self>;
}

fn bits(state: LrState) -> u32 {
    match state {
        LrState::Inactive => 0,
        LrState::Pending => 1,
        LrState::Active => 2,
        LrState::PendingAndActive => 3,
    }
}

fn state(bits: u32) -> Option<LrState> {
    match bits & 3 {
        1 => Some(LrState::Pending),
        2 => Some(LrState::Active),
        3 => Some(LrState::PendingAndActive),
        _ => None,
    }
}

impl Words for ListRegister {
    fn to_ich(register: Option<Self>) -> u64 {
        let Some(register) = register else { return 0 };
        let backing = match register.backing {
            Backing::Physical(physical) => 1 << 61 | u64::from(physical.0 & 0x1fff) << 32,
            Backing::Software { maintenance, .. } => u64::from(maintenance) << 41,
        };
        u64::from(register.interrupt.0)
            | backing
            | u64::from(register.priority) << 48
            | u64::from(register.group1) << 60
            | u64::from(bits(register.state)) << 62
    }
    fn from_ich(word: u64) -> Option<Self> {
        Some(Self {
            interrupt: IntId(word as u32),
            priority: (word >> 48) as u8,
            group1: word & 1 << 60 != 0,
            state: state((word >> 62) as u32)?,
            backing: if word & 1 << 61 != 0 {
                Backing::Physical(IntId((word >> 32) as u32 & 0x1fff))
            } else {
                Backing::Software {
                    maintenance: word & 1 << 41 != 0,
                    source: 0,
                }
            },
        })
    }
    fn to_gich(register: Option<Self>) -> u32 {
        let Some(register) = register else { return 0 };
        let backing = match register.backing {
            Backing::Physical(physical) => 1 << 31 | (physical.0 & 0x3ff) << 10,
            Backing::Software { maintenance, source } => u32::from(maintenance) << 19 | u32::from(source & 7) << 10,
        };
        register.interrupt.0 & 0x3ff
            | backing
            | u32::from(register.priority >> 3) << 23
            | bits(register.state) << 28
            | u32::from(register.group1) << 30
    }
    fn from_gich(word: u32) -> Option<Self> {
        Some(Self {
            interrupt: IntId(word & 0x3ff),
            priority: (word >> 23 & 0x1f) as u8 * 8,
            group1: word & 1 << 30 != 0,
            state: state(word >> 28)?,
            backing: if word & 1 << 31 != 0 {
                Backing::Physical(IntId(word >> 10 & 0x3ff))
            } else {
                Backing::Software {
                    maintenance: word & 1 << 19 != 0,
                    source: (word >> 10 & 7) as u8,
                }
            },
        })
    }
}
