//! The slots of a run queue that wait for something, by how early it comes: the first at once, any other in logarithmic time.
//!
//! A binary heap in which each slot knows its place, and beside it the slot that was put in last: one that comes and goes, as
//! whoever serves does, moves nobody else. All memory is reserved when a slot is made.

use alloc::vec::Vec;

/// Not in the heap.
const ABSENT: usize = usize::MAX;

/// Nobody is apart.
const NOBODY: (u64, usize) = (u64::MAX, ABSENT);

/// Slots by key; of equal keys the lower slot is first.
#[derive(Debug)]
pub(super) struct Heap {
    /// The slot that came last, if it is still here: in no order to the others.
    apart: (u64, usize),
    /// The first key of `items`, or more than any.
    first: u64,
    items: Vec<(u64, usize)>,
    /// By slot: where it is in `items`.
    places: Vec<usize>,
}

impl Default for Heap {
    fn default() -> Self {
        Self {
            apart: NOBODY,
            first: u64::MAX,
            items: Vec::new(),
            places: Vec::new(),
        }
    }
}

impl Heap {
    /// Makes room for one slot more; allocates.
    pub(super) fn add_slot(&mut self) {
        self.places.push(ABSENT);
        self.items.reserve_exact(self.places.len() - self.items.len());
    }

    /// How many slots wait.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.items.len() + usize::from(self.apart.1 != ABSENT)
    }

    /// Whether none does.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.apart.1 == ABSENT && self.items.is_empty()
    }

    /// The first key and its slot.
    #[inline]
    pub(super) fn first(&self) -> Option<(u64, usize)> {
        let first = match self.items.first() {
            Some(first) => self.apart.min(*first),
            None => self.apart,
        };
        (first.1 != ABSENT).then_some(first)
    }

    /// The first key, or more than any.
    #[inline]
    pub(super) fn first_key(&self) -> u64 {
        self.apart.0.min(self.first)
    }

    /// The first key of all slots but `slot`, or more than any.
    #[inline]
    pub(super) fn first_key_but(&self, slot: usize) -> u64 {
        if self.apart.1 == slot {
            return self.first;
        }
        self.apart.0.min(self.first_item_but(slot))
    }

    #[inline(never)]
    fn first_item_but(&self, slot: usize) -> u64 {
        match self.items.as_slice() {
            [(_, first), rest @ ..] if *first == slot => rest.iter().take(2).map(|(key, _)| *key).min(),
            _ => Some(self.first),
        }
        .unwrap_or(u64::MAX)
    }

    /// Puts `slot` in, or gives it another key.
    #[inline(always)]
    pub(super) fn put(&mut self, slot: usize, key: u64) {
        match self.places.get(slot) {
            Some(&ABSENT) if self.apart.1 == slot || self.apart.1 == ABSENT => self.apart = (key, slot),
            Some(place) => self.put_among(slot, key, *place),
            None => {}
        }
    }

    #[inline(never)]
    fn put_among(&mut self, slot: usize, key: u64, place: usize) {
        if let Some(item) = self.items.get_mut(place) {
            *item = (key, slot);
            self.settle(place);
        } else {
            let before = core::mem::replace(&mut self.apart, (key, slot));
            let place = self.items.len();
            // There is room for every slot.
            if place < self.items.capacity() {
                self.items.push(before);
                self.rise(place, before);
            }
        }
        self.note_first();
    }

    /// Takes `slot` out. Whether it was in.
    #[inline(always)]
    pub(super) fn remove(&mut self, slot: usize) -> bool {
        if self.apart.1 == slot {
            self.apart = NOBODY;
            // Nobody has that number.
            return slot != ABSENT;
        }
        self.remove_among(slot)
    }

    #[inline(never)]
    fn remove_among(&mut self, slot: usize) -> bool {
        match self.places.get_mut(slot) {
            Some(place) if *place != ABSENT => {
                let place = core::mem::replace(place, ABSENT);
                self.take_out(place);
                true
            }
            _ => false,
        }
    }

    fn note_first(&mut self) {
        self.first = self.items.first().map_or(u64::MAX, |(key, _)| *key);
    }

    fn take_out(&mut self, place: usize) {
        let Some(last) = self.items.pop() else { return };
        if let Some(item) = self.items.get_mut(place) {
            *item = last;
            self.settle(place);
        }
        self.note_first();
    }

    /// What is at `place` may belong elsewhere.
    fn settle(&mut self, place: usize) {
        let Some(item) = self.items.get(place).copied() else {
            return;
        };
        if self.rise(place, item) == place {
            self.sink(place, item);
        }
    }

    /// Moves `item` from `place` up to where it belongs, and returns that place.
    fn rise(&mut self, mut place: usize, item: (u64, usize)) -> usize {
        while place > 0 {
            let above = (place - 1) / 2;
            match self.items.get(above).copied() {
                Some(parent) if item < parent => {
                    self.set(place, parent);
                    place = above;
                }
                _ => break,
            }
        }
        self.set(place, item);
        place
    }

    /// Moves `item` from `place` down to where it belongs.
    fn sink(&mut self, mut place: usize, item: (u64, usize)) {
        loop {
            let below = 2 * place + 1;
            let Some(left) = self.items.get(below).copied() else {
                break;
            };
            let (below, child) = match self.items.get(below + 1).copied() {
                Some(right) if right < left => (below + 1, right),
                _ => (below, left),
            };
            if item < child {
                break;
            }
            self.set(place, child);
            place = below;
        }
        self.set(place, item);
    }

    #[inline]
    fn set(&mut self, place: usize, item: (u64, usize)) {
        if let Some(to) = self.items.get_mut(place) {
            *to = item;
        }
        if let Some(to) = self.places.get_mut(item.1) {
            *to = place;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Heap;
    use alloc::vec::Vec;

    #[test]
    fn the_first_of_any_history_is_the_least_of_what_is_in() {
        const SLOTS: usize = 17;
        let mut heap = Heap::default();
        (0..SLOTS).for_each(|_| heap.add_slot());
        let mut model: Vec<Option<u64>> = alloc::vec![None; SLOTS];
        let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
        for step in 0..20_000 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let (slot, key) = ((seed >> 33) as usize % (SLOTS + 1), seed >> 60);
            if seed >> 40 & 3 == 0 {
                let was_in = model.get_mut(slot).is_some_and(|entry| entry.take().is_some());
                assert_eq!(heap.remove(slot), was_in, "step {step}");
            } else {
                heap.put(slot, key);
                if let Some(entry) = model.get_mut(slot) {
                    *entry = Some(key);
                }
            }
            let least = (0..).zip(&model).filter_map(|(slot, key)| Some(((*key)?, slot))).min();
            assert_eq!(heap.first(), least, "step {step}");
            let others = (0..).zip(&model).filter(|(other, _)| *other != slot);
            let least = others.filter_map(|(_, key)| *key).min();
            assert_eq!(heap.first_key_but(slot), least.unwrap_or(u64::MAX), "step {step}");
            assert_eq!(
                heap.first_key(),
                heap.first().map_or(u64::MAX, |(key, _)| key),
                "step {step}"
            );
            assert_eq!(heap.is_empty(), heap.first().is_none(), "step {step}");
            assert_eq!(heap.len(), model.iter().flatten().count(), "step {step}");
        }
    }
}
