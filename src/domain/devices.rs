//! Which of a guest's addresses the hypervisor itself answers.

use crate::ids::Ipa;
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

/// The windows of one domain: a handful.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    windows: heapless::Vec<Window, 5>,
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
        self.windows.push(window).map_err(|window| TooManyWindows(window.start))
    }

    /// The device that has all of `access`, and the offset in its window.
    pub fn find(&self, access: &MmioAccess) -> Option<(Device, u64)> {
        self.windows.iter().find_map(|window| {
            let offset = access.ipa.0.checked_sub(window.start.0)?;
            let fits = offset < window.size && window.size - offset >= access.width.bytes();
            fits.then_some((window.device, offset))
        })
    }
}
