//! A backend that serves the guest's disk with a shadow page: its calls, and what the guest has of it.

use std::rc::Rc;

use portunus::abi::dm_op::{self, AttachAck, AttachShadow, Detach, Replace, Update};
use portunus::abi::ioreq;
use portunus::ids::{DomainId, Ipa, Pa, VcpuId};
use portunus::ioreq::shadow::{Shadow, State};
use portunus::stage2::PageUse;

use crate::backend::{PAGES, Server};
use crate::guest::vcpu;
use crate::sim::Sim;
use crate::world::{BACKEND, DISK, DISK_INTERRUPT, GUEST, Options};

pub(crate) const G0: VcpuId = vcpu(GUEST, 0);
pub(crate) const G1: VcpuId = vcpu(GUEST, 1);
pub(crate) const B0: VcpuId = vcpu(BACKEND, 0);

/// VirtIO's registers.
pub(crate) const MAGIC: u64 = 0x00;
pub(crate) const NOTIFY: u64 = 0x50;
pub(crate) const INTERRUPT_STATUS: u64 = 0x60;
pub(crate) const INTERRUPT_ACK: u64 = 0x64;
pub(crate) const STATUS: u64 = 0x70;
/// DEVICE_NEEDS_RESET.
pub(crate) const NEEDS_RESET: u32 = 0x40;
/// The first frame of the first device's page.
pub(crate) const FRAME: u64 = 0x2000;
/// Where the backend maps the page's frames.
pub(crate) const SHADOW: u64 = PAGES + 0x10;

pub(crate) fn world() -> Rc<Sim> {
    with(Options::default())
}

pub(crate) fn with(options: Options) -> Rc<Sim> {
    let sim = Sim::new(&Options {
        disk: "portunus,accel; timeout-ms = <10>;",
        ..options
    });
    sim.enable_interrupts(G0);
    sim.enable_shared(G0, DISK_INTERRUPT);
    sim
}

/// What a server of the disk asks for at first.
pub(crate) fn page(id: u16) -> AttachShadow {
    AttachShadow {
        id,
        address: DISK,
        failure_offset: STATUS as u32,
        failure_bits: NEEDS_RESET,
        failure_interrupt: 2,
        ..Default::default()
    }
}

pub(crate) fn register(id: u16) -> AttachAck {
    AttachAck {
        id,
        irq: DISK_INTERRUPT,
        address: DISK + INTERRUPT_ACK,
        offset: INTERRUPT_STATUS as u32,
        ..Default::default()
    }
}

impl Sim {
    /// A server with the disk's page of registers, not enabled yet; its pages are from `gfn` on.
    pub(crate) fn prepare(&self, vcpu: VcpuId, gfn: u64) -> Server {
        let id = self.create_server(vcpu).expect("a server");
        assert_eq!(self.acquire(vcpu, id, gfn, 2), 0);
        let page = (gfn + 1) << 12;
        let ports = (0..2).map(|index| {
            let slot: ioreq::Ioreq = self.get(vcpu.domain, page + index * 32);
            self.bind(vcpu, GUEST, slot.vp_eport).expect("a port")
        });
        let ports = ports.collect();
        assert_eq!(self.map_range(vcpu, id, DISK, DISK + 0xfff), 0);
        Server { id, ports, page }
    }

    pub(crate) fn attach_shadow(&self, request: AttachShadow) -> Result<u64, i64> {
        match self.dm_op(B0, dm_op::VENDOR_ATTACH_SHADOW, request) {
            (0, attached) => Ok(attached.frame),
            (error, _) => Err(error),
        }
    }

    pub(crate) fn attach_ack(&self, request: AttachAck) -> i64 {
        self.dm_op(B0, dm_op::VENDOR_ATTACH_ACK, request).0
    }

    pub(crate) fn change_word(&self, id: u16, clear: u32, set: u32) -> i64 {
        let request = Update {
            id,
            address: DISK + INTERRUPT_ACK,
            clear,
            set,
            ..Default::default()
        };
        self.dm_op(B0, dm_op::VENDOR_UPDATE, request).0
    }

    pub(crate) fn replace_shown(&self, id: u16) -> Result<u64, i64> {
        let request = Replace {
            id,
            address: DISK,
            ..Default::default()
        };
        match self.dm_op(B0, dm_op::VENDOR_REPLACE, request) {
            (0, replaced) => Ok(replaced.frame),
            (error, _) => Err(error),
        }
    }

    pub(crate) fn detach(&self, id: u16, kind: u32, address: u64) -> i64 {
        let request = Detach {
            id,
            kind,
            address,
            ..Default::default()
        };
        self.dm_op(B0, dm_op::VENDOR_DETACH, request).0
    }

    /// A server that shows its page, with "virt" in it, and acknowledges.
    pub(crate) fn serve_shown(&self, gfn: u64) -> Server {
        let server = self.prepare(B0, gfn);
        self.show(server.id);
        server
    }

    /// What [`Self::serve_shown`] does after [`Self::prepare`].
    pub(crate) fn show(&self, id: u16) {
        assert_eq!(self.attach_shadow(page(id)), Ok(FRAME));
        assert_eq!(self.attach_ack(register(id)), 0);
        assert_eq!(self.acquire_from(B0, id, (FRAME, 2), SHADOW), 0);
        self.put(BACKEND, (SHADOW << 12) + MAGIC, b"virt");
        assert_eq!(self.set_enabled(B0, id, true), 0);
    }

    /// What `domain` has at `ipa`.
    pub(crate) fn mapping(&self, domain: DomainId, ipa: u64) -> Option<(Pa, PageUse)> {
        let memory = self.domain(domain).memory.lock();
        let mapping = memory.stage2.lookup(self.machine(), Ipa(ipa));
        mapping.map(|mapping| (mapping.pa.page(), mapping.page_use))
    }

    /// Whether the guest reads the disk's registers without a trap.
    pub(crate) fn is_shown(&self) -> bool {
        self.mapping(GUEST, DISK)
            .is_some_and(|(_, page_use)| page_use == PageUse::Uncached { writable: false })
    }

    /// Whether the backend has the frame that it mapped at `gfn`.
    pub(crate) fn has_frame(&self, gfn: u64) -> bool {
        self.mapping(BACKEND, gfn << 12)
            .is_some_and(|(_, page_use)| page_use == PageUse::Uncached { writable: true })
    }

    /// A register of the shown page, as the guest reads it.
    pub(crate) fn shown_word(&self, offset: u64) -> u32 {
        assert!(self.is_shown(), "a read would trap");
        self.get(GUEST, DISK + offset)
    }

    pub(crate) fn with_shadow<R>(&self, with: impl FnOnce(&Shadow) -> R) -> R {
        let slot = self.domain(GUEST).shadows.find(Ipa(DISK)).expect("a page");
        with(&slot.shadow.lock())
    }

    pub(crate) fn state_of_shadow(&self) -> State {
        self.with_shadow(Shadow::state)
    }

    /// The true word of the acknowledgement register.
    pub(crate) fn true_word(&self) -> Option<u32> {
        let interrupt = self.with_shadow(|shadow| shadow.acks().first().map(|ack| ack.interrupt))?;
        Some(self.domain(GUEST).vgic.lock().word(interrupt))
    }

    /// References that are held to the guest's shadow frames.
    pub(crate) fn references_to_shadow(&self) -> u64 {
        let frames = self.with_shadow(Shadow::frames);
        frames
            .iter()
            .map(|frame| {
                self.hypervisor
                    .references_to(portunus::range::PaRange::new(frame.0, 4096))
            })
            .sum()
    }
}
