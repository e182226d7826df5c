//! Reads and writes through what this domain has mapped.

use alloc::vec::Vec;
use core::arch::asm;

use guest_runtime::attempt;

use crate::ledger::{Count, State, Written, pattern};
use crate::others::{Map, Place};
use crate::own::HALF;
use crate::storm::Storm;

impl Storm {
    /// Reads and writes through a mapping.
    pub(crate) fn access(&mut self) {
        if self.maps.is_empty() {
            return;
        }
        let map = self.maps[self.random.below(self.maps.len() as u64) as usize];
        let (Place::Slot(slot), true) = (map.at, map.life == self.lives[map.granter]) else {
            return;
        };
        self.ledger.add(self.me, Count::Operations, 1);
        self.ledger.add(self.me, Count::Accesses, 1);
        match self.random.below(3) {
            0 => self.write_to(&map, slot),
            _ => self.look_at(&map, slot),
        }
    }

    fn look_at(&mut self, map: &Map, slot: usize) {
        let before = self.ledger.contents(map.granter, map.page);
        let mine = self.ledger.written(self.me, map.granter, map.page);
        let mut found = Vec::new();
        for number in 0..8 {
            let half = if number % 2 == 0 { 0 } else { HALF };
            let index = half + self.random.below(HALF as u64) as usize;
            match read(self.address(slot) + index as u64 * 8) {
                Ok(word) => found.push((index, word)),
                Err(_) if self.is_dead(map.granter, map.life) => return,
                Err(fault) => self.fail(format_args!("slot {slot} faults ({:#x}): {map:?}", fault.esr)),
            }
        }
        let same = self.ledger.contents(map.granter, map.page) == before && self.ledger.life(map.granter) == map.life;
        for (index, word) in found {
            let expected = if index < HALF {
                before.filter(|_| same).map(|stamp| pattern(map.granter, stamp, index))
            } else {
                match mine.state {
                    State::Known if mine.id == map.id && mine.stamp != 0 => {
                        Some(pattern(self.me, mine.stamp.into(), index))
                    }
                    State::Known => Some(pattern(map.granter, map.id.into(), index)),
                    State::Busy | State::Unknown => None,
                }
            };
            if expected.is_some_and(|expected| expected != word) {
                self.fail(format_args!(
                    "word {index} at slot {slot} is {word:#x} and not {expected:x?}: {map:?}, {mine:?}, {before:?}"
                ));
            }
        }
    }

    /// A stamp for what this domain writes to pages of others.
    pub(crate) fn new_stamp(&self) -> u32 {
        (self.ledger.stamp(self.me) % ((1 << 30) - 1)) as u32 + 1
    }

    fn write_to(&mut self, map: &Map, slot: usize) {
        let half = self.address(slot) + HALF as u64 * 8;
        if !map.writable {
            let fault = attempt::run(|| {
                // SAFETY: it faults, or changes a page that is for such attempts.
                unsafe { asm!("str xzr, [{0}]", in(reg) half, options(nostack, preserves_flags)) };
            });
            if fault.is_none() {
                self.fail(format_args!("slot {slot}, which is for reading, was written: {map:?}"));
            }
            return;
        }
        let stamp = self.new_stamp();
        let known = Written {
            id: map.id,
            stamp,
            state: State::Known,
        };
        let busy = Written {
            state: State::Busy,
            ..known
        };
        self.ledger.set_written(self.me, map.granter, map.page, busy);
        let me = self.me;
        let fault = attempt::run(|| {
            for index in 0..HALF {
                let word = pattern(me, stamp.into(), HALF + index);
                // SAFETY: a page that was mapped for that; if it is gone the store is skipped.
                unsafe {
                    asm!("str {1}, [{0}]", in(reg) half + index as u64 * 8, in(reg) word, options(nostack, preserves_flags));
                }
            }
        });
        let after = match fault {
            None => known,
            Some(_) if self.is_dead(map.granter, map.life) => Written {
                state: State::Unknown,
                ..known
            },
            Some(fault) => self.fail(format_args!("slot {slot} faults ({:#x}): {map:?}", fault.esr)),
        };
        self.ledger.set_written(self.me, map.granter, map.page, after);
    }
}

/// Reads a word, or says how it faulted.
pub(crate) fn read(address: u64) -> Result<u64, attempt::Fault> {
    let mut value = 0u64;
    let fault = attempt::run(|| {
        // SAFETY: a load into a register; if it faults the register keeps its 0.
        unsafe { asm!("ldr {0}, [{1}]", inout(reg) value, in(reg) address, options(nostack, preserves_flags)) };
    });
    fault.map_or(Ok(value), Err)
}
