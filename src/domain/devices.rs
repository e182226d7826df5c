//! Which of a guest's addresses the hypervisor itself answers, and which a server may: neither changes while the machine
//! runs, so both are known without a lock.

use alloc::vec::Vec;

use crate::ids::{Ipa, PAGE_SIZE};
use crate::manifest::IpaRange;
use crate::sorting::sort_by_key;
use crate::trap::access::MmioAccess;
use crate::vgic::Frame;

/// A device inside the hypervisor.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Device {
    /// The virtual GIC.
    Interrupts(Frame),
    /// The vPL011.
    Console,
    /// The PL031.
    Clock,
}

/// A device's registers.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Window {
    /// First address.
    pub start: Ipa,
    /// Bytes.
    pub size: u64,
    /// What is there.
    pub device: Device,
}

/// The windows of one domain, lowest first: a handful.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    windows: heapless::Vec<Window, 5>,
    /// Whole pages of which a server may have some: first address, and the one behind the last; apart from each other.
    served: Vec<(u64, u64)>,
}

/// A domain has more windows than there are kinds of them.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no room for a window at {0}")]
pub struct TooManyWindows(pub Ipa);

impl Devices {
    /// Adds a window.
    ///
    /// # Errors
    /// [`TooManyWindows`]
    pub fn add(&mut self, window: Window) -> Result<(), TooManyWindows> {
        let start = window.start;
        self.windows
            .push(window)
            .map_err(|window| TooManyWindows(window.start))?;
        // The last one goes to its place.
        let at = self.windows.iter().filter(|other| other.start < start).count();
        if let Some(behind) = self.windows.get_mut(at..) {
            behind.rotate_right(1);
        }
        Ok(())
    }

    /// Says which ranges servers may have: the manifest gives a right to no other.
    pub fn set_served(&mut self, ranges: impl Iterator<Item = IpaRange>) {
        let pages = ranges.map(|range| {
            let end = range.end().checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
            (range.start.page().0, end)
        });
        let mut pages: Vec<_> = pages.collect();
        sort_by_key(&mut pages, |pages| *pages);
        self.served.clear();
        for (start, end) in pages {
            match self.served.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => self.served.push((start, end)),
            }
        }
    }

    /// Whether a server may ever have something of the page of `ipa`. Their number's logarithm.
    #[inline(always)]
    pub fn may_be_served(&self, ipa: Ipa) -> bool {
        let after = self.served.partition_point(|(start, _)| *start <= ipa.0);
        let pages = after.checked_sub(1).and_then(|index| self.served.get(index));
        pages.is_some_and(|(_, end)| ipa.0 < *end)
    }

    /// The device that has all of `access`, and the offset in its window.
    #[inline(always)]
    pub fn find(&self, access: &MmioAccess) -> Option<(Device, u64)> {
        for window in &self.windows {
            let offset = access.ipa.0.checked_sub(window.start.0)?;
            if offset < window.size {
                let fits = window.size - offset >= access.width.bytes();
                return fits.then_some((window.device, offset));
            }
        }
        None
    }
}
