//! Which of a guest's addresses the hypervisor itself answers, and which a server may: neither changes while the machine
//! runs, so both are known without a lock.

use alloc::vec::Vec;

use crate::access::MmioAccess;
use crate::ids::{Ipa, PAGE_SIZE};
use crate::range::IpaRange;
use crate::sorting::sort_by_key;
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
    /// From the first of them to the last: first address, and bytes.
    hull: (u64, u64),
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
        self.hull = match (self.served.first(), self.served.last()) {
            (Some((start, _)), Some((_, end))) => (*start, end - start),
            _ => (0, 0),
        };
    }

    /// Whether `ipa` is between pages of which a server may have something, or in one; if not, [`Self::may_be_served`] says no
    /// as well.
    #[inline(always)]
    pub fn may_be_near_served(&self, ipa: Ipa) -> bool {
        let (start, length) = self.hull;
        ipa.0.wrapping_sub(start) < length
    }

    /// Whether a server may ever have something of the page of `ipa`. Their number's logarithm.
    #[inline(always)]
    pub fn may_be_served(&self, ipa: Ipa) -> bool {
        self.may_be_near_served(ipa) && (self.served.len() == 1 || self.is_among_served(ipa))
    }

    #[inline(never)]
    fn is_among_served(&self, ipa: Ipa) -> bool {
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

#[cfg(test)]
mod tests {
    use super::{Device, Devices, Window};
    use crate::access::{AccessWidth, Direction, MmioAccess};
    use crate::ids::Ipa;
    use crate::range::IpaRange;
    use crate::vgic::Frame;

    #[test]
    fn a_page_may_be_served_if_a_range_has_some_of_it() {
        let tables: [&[(u64, u64)]; 4] = [
            &[],
            &[(0x1000, 0x200)],
            &[(0x1000, 0x200), (0x1200, 0x200), (0x2000, 0x1000)],
            &[
                (0x9000, 0x1000),
                (0x1e00, 0x400),
                (0x5200, 0x10),
                (0xffff_ffff_ffff_f000, 0xfff),
            ],
        ];
        for ranges in tables {
            let mut devices = Devices::default();
            devices.set_served(ranges.iter().map(|(start, size)| IpaRange::new(*start, *size)));
            for page in (0..0x10).chain([0xf_ffff_ffff_fffe]).map(|frame| frame << 12) {
                let wanted = ranges.iter().any(|(start, size)| {
                    let (first, last) = (start >> 12 << 12, (start + size - 1) >> 12 << 12);
                    first <= page && page <= last
                });
                for offset in [0, 8, 0xff8] {
                    assert_eq!(
                        devices.may_be_served(Ipa(page + offset)),
                        wanted,
                        "{page:#x} of {ranges:x?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_window_is_found_in_whatever_order_they_were_added() {
        let windows = [
            (0x3000, 0x1000, Device::Console),
            (0x1000, 0x1000, Device::Interrupts(Frame::Distributor)),
            (0x8000, 0x1000, Device::Clock),
            (0x4000, 0x2000, Device::Interrupts(Frame::Redistributor)),
        ];
        let mut devices = Devices::default();
        for (start, size, device) in windows {
            let start = Ipa(start);
            devices.add(Window { start, size, device }).expect("there is room");
        }
        for address in (0..0xa000).step_by(4) {
            for width in [AccessWidth::Byte, AccessWidth::Word, AccessWidth::Doubleword] {
                let found = devices.find(&MmioAccess {
                    ipa: Ipa(address),
                    width,
                    direction: Direction::Read,
                });
                let wanted = windows.iter().find_map(|(start, size, device)| {
                    let inside = *start <= address && address + width.bytes() <= start + size;
                    inside.then(|| (*device, address - start))
                });
                assert_eq!(found, wanted, "{address:#x}, {width:?}");
            }
        }
    }
}
