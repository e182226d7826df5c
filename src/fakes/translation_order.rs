//! Judges a recorded log of stage-2 updates by the architecture's rules, which an emulator does not show.
//!
//! A live descriptor may change to another only through an invalid one whose invalidity was published and whose old
//! translations were dropped everywhere (Arm ARM, "Using break-before-make when updating translation table entries");
//! a frame may be given up only after that too.

use alloc::collections::{BTreeMap, BTreeSet};

use super::machine::Operation;
use crate::ids::{PAGE_SIZE, Pa};

/// Why a log is wrong.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OrderError {
    /// A valid descriptor was overwritten by a different valid one.
    #[error("descriptor at {at} went from {old:#x} to {new:#x} without a break")]
    NoBreak {
        /// The descriptor.
        at: Pa,
        /// Its old value.
        old: u64,
        /// Its new value.
        new: u64,
    },
    /// A descriptor was made valid again before its old translations were gone.
    #[error("descriptor at {at} was made valid before its old translations were dropped")]
    NotInvalidated {
        /// The descriptor.
        at: Pa,
    },
    /// The log ended while a broken descriptor's translations could still be in use.
    #[error("descriptor at {at} was broken and its translations never dropped")]
    NeverInvalidated {
        /// The descriptor.
        at: Pa,
    },
    /// The log ended with a descriptor that the walker need not see.
    #[error("descriptor at {at} was never published")]
    NeverPublished {
        /// The descriptor.
        at: Pa,
    },
}

#[derive(Copy, Clone, Eq, PartialEq)]
enum Old {
    None,
    Broken,
    BreakPublished,
}

struct Descriptor {
    value: u64,
    old: Old,
    published: bool,
}

/// Bits that may change in a live descriptor: S2AP, XN and the bits that hardware ignores.
const HARMLESS: u64 = 0b11 << 6 | 0b11 << 53 | 0b1111 << 55;

/// A frame since it was zeroed so many times.
type FrameLife = (u64, u32);

/// Counts the lives of frames while a log is read.
#[derive(Default)]
struct Lives(BTreeMap<u64, u32>);

impl Lives {
    fn zero(&mut self, at: Pa, length: u64) {
        for frame in at.0 / PAGE_SIZE..(at.0 + length).div_ceil(PAGE_SIZE) {
            *self.0.entry(frame).or_default() += 1;
        }
    }
    fn of(&self, at: Pa) -> FrameLife {
        let frame = at.0 / PAGE_SIZE;
        (frame, self.0.get(&frame).copied().unwrap_or_default())
    }
}

/// Frames that are no tables, which the hypervisor writes descriptor by descriptor: pages of requests, grants, events.
fn no_tables(log: &[Operation]) -> BTreeSet<FrameLife> {
    let (mut lives, mut frames) = (Lives::default(), BTreeSet::new());
    for operation in log {
        match operation {
            Operation::Zero { at, length } => lives.zero(*at, *length),
            Operation::Write { at, .. } | Operation::Exchanged { at, .. } => {
                frames.insert(lives.of(*at));
            }
            Operation::Store { at, width, .. } if *width != 8 => {
                frames.insert(lives.of(*at));
            }
            _ => {}
        }
    }
    frames
}

/// Checks every 8-byte store into `tables` (start, bytes) that goes to a frame to which nothing else is written. The tables
/// are all invalid (zero) when the log starts, or were last seen in `log` from the start; frames that the log zeroes
/// start again.
///
/// # Errors
/// The first rule broken.
pub fn check(log: &[Operation], tables: (Pa, u64)) -> Result<(), OrderError> {
    let mut descriptors: BTreeMap<u64, Descriptor> = BTreeMap::new();
    let inside = |at: &Pa| at.0 >= tables.0.0 && at.0 - tables.0.0 < tables.1;
    let (mut lives, no_tables) = (Lives::default(), no_tables(log));
    for operation in log {
        match operation {
            Operation::Zero { at, length } if inside(at) => {
                lives.zero(*at, *length);
                descriptors.retain(|address, _| *address < at.0 || *address >= at.0 + length.max(&PAGE_SIZE));
            }
            Operation::Store { at, width: 8, value } if inside(at) && !no_tables.contains(&lives.of(*at)) => {
                let descriptor = descriptors.entry(at.0).or_insert(Descriptor {
                    value: 0,
                    old: Old::None,
                    published: true,
                });
                let was = descriptor.value;
                match (was & 1 != 0, value & 1 != 0) {
                    (true, true) if (was ^ value) & !HARMLESS != 0 => {
                        return Err(OrderError::NoBreak {
                            at: *at,
                            old: was,
                            new: *value,
                        });
                    }
                    (true, false) => descriptor.old = Old::Broken,
                    (false, true) if descriptor.old != Old::None => {
                        return Err(OrderError::NotInvalidated { at: *at });
                    }
                    _ => {}
                }
                descriptor.value = *value;
                descriptor.published = false;
            }
            Operation::PublishTables => {
                for descriptor in descriptors.values_mut() {
                    descriptor.published = true;
                    if descriptor.old == Old::Broken {
                        descriptor.old = Old::BreakPublished;
                    }
                }
            }
            Operation::InvalidatePage { .. } | Operation::InvalidateAll { .. } => {
                for descriptor in descriptors.values_mut() {
                    if descriptor.old == Old::BreakPublished {
                        descriptor.old = Old::None;
                    }
                }
            }
            _ => {}
        }
    }
    for (at, descriptor) in &descriptors {
        if descriptor.old != Old::None {
            return Err(OrderError::NeverInvalidated { at: Pa(*at) });
        }
        if !descriptor.published {
            return Err(OrderError::NeverPublished { at: Pa(*at) });
        }
    }
    Ok(())
}
