//! Pages that others granted: taken out by who mapped them, several with one drop of translations.

use super::{Broken, Entry, PAGE_LEVEL, PageUse, Stage2};
use crate::ids::{Ipa, Pa};
use crate::machine::Machine;

/// Pages that were taken out and that TLBs may still have. [`Stage2::finish_granted`] ends that, under the same lock.
#[derive(Default)]
#[must_use]
pub struct Ungranted(Broken);

impl core::fmt::Debug for Ungranted {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Ungranted").finish_non_exhaustive()
    }
}

impl Stage2 {
    /// Takes the page at `ipa` out, if it is `frame`, granted for `writable`; whether it was. What it was may be given back
    /// after [`Self::finish_granted`].
    #[inline]
    pub fn take_granted(
        &mut self,
        machine: &impl Machine,
        ipa: Ipa,
        (frame, writable): (Pa, bool),
        taken: &mut Ungranted,
    ) -> bool {
        if ipa.0 >= self.geometry.ipa_end() {
            return false;
        }
        let place = self.walk(machine, ipa);
        if place.level != PAGE_LEVEL || place.entry != Entry::Leaf(frame, PageUse::Granted { writable }) {
            return false;
        }
        self.break_leaf(machine, &place, ipa.page(), &mut taken.0).is_some()
    }

    /// Maps `frame` at `ipa`, if there is a table for it and nothing in its place; whether that is so.
    #[inline]
    pub fn put_granted(&mut self, machine: &impl Machine, ipa: Ipa, (frame, writable): (Pa, bool)) -> bool {
        if ipa.0 >= self.geometry.ipa_end() {
            return false;
        }
        let place = self.walk(machine, ipa);
        if place.level != PAGE_LEVEL || place.entry != Entry::Invalid {
            return false;
        }
        self.write_leaf(machine, place.at, PAGE_LEVEL, frame, PageUse::Granted { writable });
        machine.publish_tables();
        true
    }

    /// Drops the translations of all that was taken out.
    #[inline]
    pub fn finish_granted(&mut self, machine: &impl Machine, taken: &Ungranted) {
        self.drop_translations(machine, &taken.0);
    }
}
