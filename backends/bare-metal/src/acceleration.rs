//! What the hypervisor does for an accelerated device, asked for by hypercalls: a page of registers that the guest is
//! shown, an acknowledgement register, doorbells. Each is left out where it can't be had; then the guest waits as ever.

use core::sync::atomic::{AtomicU32, Ordering};

use alloc::vec::Vec;

use guest_runtime::hypercall::{kinds, memory};
use guest_runtime::println;
use guest_runtime::server::{ConnectError, Server};
use guest_runtime::window::Window;
use portunus::abi::HypercallError;
use portunus::abi::dm_op::{AttachAck, AttachDoorbell, AttachShadow, Detach, Features, WRITE_ONLY};
use portunus_virtio::accel::{Acceleration, Withdrawn};
use portunus_virtio::mmio::register;

use crate::config::ServedConfig;
use crate::fate;
use crate::state_page::DevicePages;

const PAGE: u64 = 4096;
/// Of a page that is shown.
const FRAMES: u64 = 2;

/// The register page of one device.
#[derive(Copy, Clone, Debug)]
pub(crate) struct ShownPage {
    pub(crate) domain: u16,
    server: u16,
    /// Where the guest has it.
    pub(crate) base: u64,
    intid: u32,
    /// Where its frames are, one after the other.
    frames: u64,
}

impl ShownPage {
    /// Attaches the page and its acknowledgement register; `None`: the device has none here. Nothing is shown before the
    /// server is enabled.
    pub(crate) fn attach(
        server: &Server,
        config: &ServedConfig,
        pages: &mut DevicePages,
        window: &mut Window,
    ) -> Result<Option<Self>, ConnectError> {
        if server.features()? & Features::SHADOW == 0 {
            return Ok(None);
        }
        let frames = pages.room(FRAMES, window)?;
        let this = Self {
            domain: server.domain,
            server: server.id,
            base: config.registers.start,
            intid: config.intid,
            frames,
        };
        if let Err(error) = this.attach_with(0) {
            println!("backend: {} is not shown to its guest: {error}", config.name);
            return Ok(None);
        }
        pages.taken(FRAMES);
        Ok(Some(this))
    }

    /// Attaches the page, which was withdrawn, once more; the guest is not shown it before it is replaced.
    pub(crate) fn attach_again(self) -> Result<Self, HypercallError> {
        self.attach_with(AttachShadow::AFTER_REPLACE).map(|()| self)
    }

    fn attach_with(&self, flags: u32) -> Result<(), HypercallError> {
        let shadow = AttachShadow {
            id: self.server,
            flags,
            address: self.base,
            // No failure bits: a successor finishes what this backend has begun, and until then the guest waits.
            ..Default::default()
        };
        let frame = kinds::attach_shadow(self.domain, shadow)?;
        let attached = (0..FRAMES).try_for_each(|which| {
            // SAFETY: the pages were taken out of the window for this page, and only `ShownPage` uses them.
            unsafe { memory::map_ioreq_page(self.domain, self.server, frame + which, self.frames / PAGE + which) }
        });
        let ack = AttachAck {
            id: self.server,
            irq: self.intid,
            address: self.base + register::INTERRUPT_ACK,
            offset: register::INTERRUPT_STATUS as u32,
            ..Default::default()
        };
        let attached = attached.and_then(|()| kinds::attach_ack(self.domain, ack));
        if attached.is_err() {
            // It was attached just now.
            let _ = kinds::detach(self.domain, self.server, Detach::SHADOW, self.base, 0);
        }
        attached
    }

    fn word(&self, frame: usize, offset: usize) -> &AtomicU32 {
        assert!((frame as u64) < FRAMES && offset < PAGE as usize && offset.is_multiple_of(4));
        let word = (self.frames + frame as u64 * PAGE + offset as u64) as *mut u32;
        // SAFETY: within the frames, aligned. They stay mapped when the hypervisor withdraws the page, until this backend
        // attaches it again.
        unsafe { AtomicU32::from_ptr(word) }
    }

    fn done(result: Result<(), HypercallError>) -> Result<(), Withdrawn> {
        result.map_err(|_| Withdrawn)
    }
}

impl Acceleration for ShownPage {
    fn load(&self, frame: usize, offset: usize) -> u32 {
        u32::from_le(self.word(frame, offset).load(Ordering::Acquire))
    }
    fn store(&mut self, frame: usize, offset: usize, word: u32) {
        fate::step();
        self.word(frame, offset).store(word.to_le(), Ordering::Release);
    }
    fn update(&mut self, clear: u32, set: u32) -> Result<(), Withdrawn> {
        fate::step();
        let register = self.base + register::INTERRUPT_ACK;
        Self::done(kinds::update(self.domain, self.server, register, clear, set))
    }
    fn replace(&mut self) -> Result<(), Withdrawn> {
        fate::step();
        Self::done(kinds::replace(self.domain, self.server, self.base).map(drop))
    }
}

/// Attaches a doorbell to each queue of a device; returns the local port and the queue of those that there are.
pub(crate) fn attach_doorbells(server: &Server, config: &ServedConfig) -> Result<Vec<(u32, u16)>, ConnectError> {
    let mut attached = Vec::new();
    if server.features()? & Features::DOORBELL == 0 {
        return Ok(attached);
    }
    for queue in 0..config.queues {
        let doorbell = AttachDoorbell {
            id: server.id,
            flags: WRITE_ONLY,
            address: config.registers.start + register::QUEUE_NOTIFY,
            value: queue.into(),
            mask: u32::MAX.into(),
            size: 4,
            ..Default::default()
        };
        match kinds::attach_doorbell(server.domain, doorbell) {
            Ok(port) => attached.push((server.bind(port)?, queue)),
            Err(error) => println!("backend: queue {queue} of {} has no doorbell: {error}", config.name),
        }
    }
    Ok(attached)
}
