//! A device whose registers spare a wait, one of each kind, and another way to have many doorbells.

use alloc::vec::Vec;
use core::ops::Range;

use guest_runtime::buffered::BufferedPage;
use guest_runtime::hypercall::{self, Result, dm, kinds, memory};
use guest_runtime::println;
use guest_runtime::server::Server;
use portunus::abi::dm_op::{AttachAck, AttachDoorbell, AttachShadow, WRITE_ONLY};

/// Offsets of its registers.
const DOORBELL: u64 = 0x50;
const BUFFERED: Range<u64> = 0x58..0x60;
const STATUS: u32 = 0x60;
const ACK: u64 = 0x64;

/// Bits that say which kinds it has.
const HAS_BUFFERED: u64 = 1;
const HAS_DOORBELL: u64 = 2;
const HAS_SHADOW: u64 = 4;

/// The device.
pub(crate) struct Posts {
    registers: Range<u64>,
    domain: u16,
    server: u16,
    buffered: Option<BufferedPage>,
    /// Which kinds it has.
    pub(crate) kinds: u64,
}

impl Posts {
    /// Attaches what the hypervisor has to `registers`, which the server has.
    pub(crate) fn attach(server: &Server, registers: &Range<u64>, intid: u32) -> Self {
        let mut posts = Self {
            registers: registers.clone(),
            domain: server.domain,
            server: server.id,
            buffered: None,
            kinds: 0,
        };
        let mut attached = |what: &str, bit: u64, result: Result<()>| match result {
            Ok(()) => posts.kinds |= bit,
            Err(error) => println!("backend: no {what}: {error}"),
        };
        attached("shadow page", HAS_SHADOW, shadow(server, registers, intid));
        attached(
            "doorbell",
            HAS_DOORBELL,
            doorbell(server, registers.start + DOORBELL, 0, 0),
        );
        let buffered = buffered(server, registers);
        attached("buffered page", HAS_BUFFERED, buffered.map(drop));
        posts.buffered = buffered.ok();
        posts
    }

    /// Whether `address` is one of its registers.
    pub(crate) fn contains(&self, domain: u16, address: u64) -> bool {
        self.domain == domain && self.registers.contains(&address)
    }

    /// A write that its vCPU waits for: takes what was posted, and sets bits of the interrupt status.
    pub(crate) fn settle(&self, set: u32) {
        while self.buffered.as_ref().and_then(BufferedPage::take).is_some() {}
        if set != 0 {
            kinds::update(self.domain, self.server, self.registers.start + ACK, 0, set).expect("the status is there");
        }
    }
}

/// Where the pages of a server go that come after its page of requests, in the same piece of the window.
fn page(server: &Server, number: u64) -> u64 {
    server.address() + number * 4096
}

fn shadow(server: &Server, registers: &Range<u64>, intid: u32) -> Result<()> {
    let frame = kinds::attach_shadow(
        server.domain,
        AttachShadow {
            id: server.id,
            address: registers.start,
            ..Default::default()
        },
    )?;
    // SAFETY: the piece of the window is the server's.
    unsafe { memory::map_ioreq_page(server.domain, server.id, frame, page(server, 2) / 4096) }?;
    let ack = AttachAck {
        id: server.id,
        irq: intid,
        address: registers.start + ACK,
        offset: STATUS,
        ..Default::default()
    };
    kinds::attach_ack(server.domain, ack)
}

fn buffered(server: &Server, registers: &Range<u64>) -> Result<BufferedPage> {
    // SAFETY: the piece of the window is the server's.
    let page = unsafe { BufferedPage::map(server.domain, server.id, page(server, 1)) }?;
    let (start, end) = (registers.start + BUFFERED.start, registers.start + BUFFERED.end - 1);
    kinds::attach_buffered(server.domain, server.id, WRITE_ONLY, start, end)?;
    bind(server.domain, dm::bufioreq_port(server.domain, server.id)?)?;
    Ok(page)
}

/// Lets 4-byte writes of `value` under `mask` to `address` ring.
pub(crate) fn doorbell(server: &Server, address: u64, value: u64, mask: u64) -> Result<()> {
    let port = kinds::attach_doorbell(
        server.domain,
        AttachDoorbell {
            id: server.id,
            flags: WRITE_ONLY,
            address,
            value,
            mask,
            size: 4,
            ..Default::default()
        },
    )?;
    bind(server.domain, port)
}

fn bind(domain: u16, port: u32) -> Result<()> {
    hypercall::unmask(hypercall::bind_interdomain(domain, port)?)
}

/// Gives each server a part of `registers`, the same number of doorbells at the beginning of each.
pub(crate) fn many(servers: &[&Server], registers: &Range<u64>, doorbells: u64) {
    let each: Vec<u64> = (0..doorbells / servers.len() as u64).collect();
    for (number, server) in (0..).zip(servers) {
        let start = registers.start + number * crate::DOORBELL_STRIDE;
        server
            .claim(&(start..start + crate::DOORBELL_STRIDE))
            .expect("the registers are free");
        for value in &each {
            if let Err(error) = doorbell(server, start, *value, u32::MAX.into()) {
                println!("backend: FAILED: doorbell {value} of server {}: {error}", server.id);
            }
        }
    }
}
