//! A queue of interrupts by urgency: 32 first-in-first-out lists, threaded through the interrupts themselves, and a bitmap
//! of those that are not empty. Every operation takes the same time whatever the number of interrupts.

use super::irq::{Irqs, Slot};

/// Distinct priorities: five bits.
const LEVELS: usize = 32;

/// See the module. An interrupt is in one queue at most, at the level that its [`super::irq::Place`] names.
#[derive(Debug)]
pub(super) struct PriorityQueue {
    occupied: u32,
    lists: [List; LEVELS],
}

#[derive(Copy, Clone, Debug)]
struct List {
    head: Slot,
    tail: Slot,
}

impl PriorityQueue {
    /// Empty.
    pub(super) const fn new() -> Self {
        Self {
            occupied: 0,
            lists: [List {
                head: Slot::NONE,
                tail: Slot::NONE,
            }; LEVELS],
        }
    }

    /// Whether nothing waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// The level of the most urgent interrupt; 32 when nothing waits.
    pub(super) const fn best_level(&self) -> u8 {
        self.occupied.trailing_zeros() as u8
    }

    /// The most urgent interrupt, the longest waiting of its level.
    pub(super) fn first(&self) -> Option<Slot> {
        self.lists.get(usize::from(self.best_level())).map(|list| list.head)
    }

    /// Appends behind those of the same level.
    pub(super) fn push_back(&mut self, irqs: &mut Irqs, slot: Slot, level: u8) {
        let Some(list) = self.lists.get_mut(usize::from(level)) else {
            return;
        };
        let last = list.tail;
        irqs[slot].previous = last;
        irqs[slot].next = Slot::NONE;
        list.tail = slot;
        if last == Slot::NONE {
            list.head = slot;
            self.occupied |= 1 << level;
        } else {
            irqs[last].next = slot;
        }
    }

    /// Puts before those of the same level.
    pub(super) fn push_front(&mut self, irqs: &mut Irqs, slot: Slot, level: u8) {
        let Some(list) = self.lists.get_mut(usize::from(level)) else {
            return;
        };
        let first = list.head;
        irqs[slot].previous = Slot::NONE;
        irqs[slot].next = first;
        list.head = slot;
        if first == Slot::NONE {
            list.tail = slot;
            self.occupied |= 1 << level;
        } else {
            irqs[first].previous = slot;
        }
    }

    /// Takes out an interrupt that is in this queue at `level`.
    pub(super) fn remove(&mut self, irqs: &mut Irqs, slot: Slot, level: u8) {
        let Some(list) = self.lists.get_mut(usize::from(level)) else {
            return;
        };
        let (previous, next) = (irqs[slot].previous, irqs[slot].next);
        if previous == Slot::NONE {
            list.head = next;
        } else {
            irqs[previous].next = next;
        }
        if next == Slot::NONE {
            list.tail = previous;
        } else {
            irqs[next].previous = previous;
        }
        if list.head == Slot::NONE {
            self.occupied &= !(1 << level);
        }
    }
}
