//! State pages of devices, mapped into this domain.

use core::sync::atomic::{AtomicU32, Ordering};

use guest_runtime::server::{ConnectError, Server};
use guest_runtime::window::{CHUNK, NoRoom, Window};
use portunus_virtio::state::{StatePage, layout};

use crate::config::ServedConfig;
use crate::fate;

const PAGE: u64 = layout::SIZE as u64;

/// Room for pages of devices, one chunk of the window after the other.
#[derive(Debug, Default)]
pub(crate) struct DevicePages {
    next: u64,
    left: u64,
}

impl DevicePages {
    /// Where `pages` pages may be mapped that follow each other: they are taken once the caller has mapped them.
    pub(crate) fn room(&mut self, pages: u64, window: &mut Window) -> Result<u64, NoRoom> {
        if self.left < pages {
            self.next = window.take(CHUNK)?;
            self.left = CHUNK / PAGE;
        }
        Ok(self.next)
    }
    /// They are.
    pub(crate) fn taken(&mut self, pages: u64) {
        self.next += pages * PAGE;
        self.left -= pages;
    }

    /// Maps the state page of a device; `None`: it has none here.
    pub(crate) fn map_state_page(
        &mut self,
        server: &Server,
        config: &ServedConfig,
        window: &mut Window,
    ) -> Result<Option<MappedPage>, ConnectError> {
        let address = self.room(1, window)?;
        // SAFETY: the page was taken out of the window, and only `MappedPage` uses it from now on.
        if !unsafe { server.map_state_page(config.registers.start, address) }? {
            return Ok(None);
        }
        self.taken(1);
        let page = MappedPage(address);
        fate::remember(config.name, page);
        Ok(Some(page))
    }
}

/// One state page.
#[derive(Copy, Clone, Debug)]
pub(crate) struct MappedPage(u64);

impl MappedPage {
    /// The page at an address.
    ///
    /// # Safety
    /// It is that of another [`MappedPage`].
    pub(crate) const unsafe fn at(address: u64) -> Self {
        Self(address)
    }
    /// Where it is.
    pub(crate) const fn address(self) -> u64 {
        self.0
    }
    fn word(self, offset: usize) -> &'static AtomicU32 {
        assert!(offset < layout::SIZE && offset.is_multiple_of(4));
        let word = (self.0 + offset as u64) as *mut u32;
        // SAFETY: within the page, which is mapped for the domain's life; aligned.
        unsafe { AtomicU32::from_ptr(word) }
    }
    /// Fills it with what no device left there.
    pub(crate) fn scribble(self) {
        for offset in (0..layout::SIZE).step_by(4) {
            let word = (offset as u32).wrapping_mul(0x9e37_79b9) | 1;
            self.word(offset).store(word, Ordering::Release);
        }
    }
}

impl StatePage for MappedPage {
    fn load(&self, offset: usize) -> u32 {
        u32::from_le(self.word(offset).load(Ordering::Acquire))
    }
    fn store(&self, offset: usize, word: u32) {
        fate::step();
        self.word(offset).store(word.to_le(), Ordering::Release);
    }
}
