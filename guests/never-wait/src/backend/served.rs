//! One device of one guest: its server, what is attached to it, and what must come next.

use core::sync::atomic::{AtomicU32, Ordering};

use guest_runtime::buffered::{BufferedPage, Posted};
use guest_runtime::hypercall::{self, Result, dm, kinds, memory};
use guest_runtime::server::Server;
use guest_runtime::window::Window;
use guest_runtime::{println, timer};
use portunus::abi::dm_op::{AttachAck, AttachDoorbell, AttachShadow, Detach, WRITE_ONLY};
use portunus::abi::ioreq::Ioreq;

use crate::device::{
    ACK, ACKNOWLEDGEMENT, BELL, BUFFERED, CONTROL, COUNTER_STRIDE, COUNTERS, Command, DEVICE_STATUS, DOORBELLS,
    FALLBACKS, LIFE, LIVE, NAKED, PAGE, POST4, POST8, POSTED, SEEN, SPOILED, STATUS, SYNC, VCPUS, WAKES, of_vcpu,
};

/// Pages of a server's piece of the window, after the one of its requests.
const BUFFERED_PAGE: u64 = 1;
const SHADOW_PAGE: u64 = 2;
const COUNTERS_PAGE: u64 = 4;

/// One device.
pub(super) struct Served {
    guest: u16,
    base: u64,
    intid: u32,
    /// Its piece of the window.
    window: u64,
    server: Server,
    buffered: Option<BufferedPage>,
    buffered_port: Option<u32>,
    /// The pointers of the buffered page are not what they were: nothing is taken.
    spoiled: bool,
    bells: [Option<u32>; VCPUS],
    has_shadow: bool,
    /// What the guest reads, shown in a shadow page or not.
    words: [u32; PAGE as usize / 4],
    /// Of each vCPU, the number of the last write that was posted.
    posted: [u32; VCPUS],
    has_counters: bool,
}

impl Served {
    /// Serves the device at `base` of `guest`.
    pub(super) fn new(guest: u16, base: u64, intid: u32, window: &mut Window) -> Self {
        let window = window.take(8 * PAGE).expect("there is room for pages");
        let server = Server::connect_at(guest, window).expect("the guest can be served");
        let mut served = Self {
            guest,
            base,
            intid,
            window,
            server,
            buffered: None,
            buffered_port: None,
            spoiled: false,
            bells: [None; VCPUS],
            has_shadow: false,
            words: [0; PAGE as usize / 4],
            posted: [0; VCPUS],
            has_counters: false,
        };
        served.begin_life(1);
        served
    }

    /// Claims the registers for a server that is new, and attaches everything.
    fn begin_life(&mut self, life: u32) {
        self.words[LIFE as usize / 4] = LIVE | life;
        self.server
            .claim(&(self.base..self.base + PAGE))
            .expect("the registers are free");
        match self.show() {
            Ok(()) => self.has_shadow = true,
            Err(error) => self.report("shadow page", error),
        }
        self.attach(DOORBELLS | BUFFERED | ACKNOWLEDGEMENT);
    }

    fn report(&self, what: &str, error: impl core::fmt::Display) {
        println!("backend: FAILED: {what} of domain {}: {error}", self.guest);
    }

    /// Where a page of the window is.
    fn page(&self, number: u64) -> u64 {
        self.window + number * PAGE
    }

    fn show(&mut self) -> Result<()> {
        let (domain, id) = (self.guest, self.server.id);
        let shadow = AttachShadow {
            id,
            address: self.base,
            ..Default::default()
        };
        let frame = kinds::attach_shadow(domain, shadow)?;
        // SAFETY: the piece of the window is this device's.
        unsafe { memory::map_ioreq_page(domain, id, frame, self.page(SHADOW_PAGE) / PAGE) }?;
        for (index, word) in (0..).zip(self.words) {
            // The interrupt's bits are the hypervisor's.
            if 4 * index != STATUS {
                self.shadow_word(4 * index).store(word, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn shadow_word(&self, offset: u64) -> &AtomicU32 {
        let word = self.page(SHADOW_PAGE) + offset % PAGE;
        // SAFETY: the page is mapped, and all use it by single words.
        unsafe { AtomicU32::from_ptr(word as *mut u32) }
    }

    /// The guest reads `value` at `offset` from now on.
    fn publish(&mut self, offset: u64, value: u32) {
        if let Some(word) = self.words.get_mut(offset as usize / 4) {
            *word = value;
        }
        if self.has_shadow {
            self.shadow_word(offset).store(value, Ordering::Release);
        }
    }

    fn count(&mut self, offset: u64) {
        let value = self.words.get(offset as usize / 4).map_or(0, |word| word + 1);
        self.publish(offset, value);
    }

    /// Attaches the kinds in the mask.
    fn attach(&mut self, mask: u32) {
        if mask & BUFFERED != 0 {
            match self.attach_buffered() {
                Ok(page) => self.buffered = Some(page),
                Err(error) => self.report("buffered range", error),
            }
        }
        if mask & DOORBELLS != 0 {
            for vcpu in 0..VCPUS {
                match self.attach_bell(vcpu) {
                    Ok(port) => self.bells[vcpu] = Some(port),
                    Err(error) => self.report("doorbell", error),
                }
            }
        }
        if mask & ACKNOWLEDGEMENT != 0 {
            let ack = AttachAck {
                id: self.server.id,
                irq: self.intid,
                address: self.base + ACK,
                offset: STATUS as u32,
                ..Default::default()
            };
            if let Err(error) = kinds::attach_ack(self.guest, ack) {
                self.report("acknowledgement", error);
            }
        }
    }

    fn attach_buffered(&mut self) -> Result<BufferedPage> {
        let (domain, id) = (self.guest, self.server.id);
        let page = match self.buffered {
            Some(page) => page,
            // SAFETY: the piece of the window is this device's.
            None => unsafe { BufferedPage::map(domain, id, self.page(BUFFERED_PAGE)) }?,
        };
        for vcpu in 0..VCPUS {
            let start = self.base + of_vcpu(POSTED.start, vcpu);
            let end = self.base + of_vcpu(POSTED.end, vcpu) - 1;
            kinds::attach_buffered(domain, id, WRITE_ONLY, start, end)?;
        }
        if self.buffered_port.is_none() {
            self.buffered_port = Some(bind(domain, dm::bufioreq_port(domain, id)?)?);
        }
        Ok(page)
    }

    fn attach_bell(&self, vcpu: usize) -> Result<u32> {
        let bell = AttachDoorbell {
            id: self.server.id,
            flags: WRITE_ONLY,
            address: self.base + of_vcpu(BELL, vcpu),
            size: 4,
            ..Default::default()
        };
        bind(self.guest, kinds::attach_doorbell(self.guest, bell)?)
    }

    /// Detaches the kinds in the mask. Ports of doorbells go with them.
    fn detach(&mut self, mask: u32) {
        for vcpu in 0..VCPUS {
            if mask & BUFFERED != 0 {
                self.detach_one(Detach::BUFFERED, of_vcpu(POSTED.start, vcpu));
            }
            if mask & DOORBELLS != 0 {
                self.detach_one(Detach::DOORBELL, of_vcpu(BELL, vcpu));
                // A ring may have come just before.
                self.look(vcpu);
                if let Some(port) = self.bells[vcpu].take() {
                    // The hypervisor may have closed the other end with it.
                    let _ = hypercall::close(port);
                }
            }
        }
        if mask & ACKNOWLEDGEMENT != 0 {
            self.detach_one(Detach::ACK, ACK);
        }
    }

    fn detach_one(&self, kind: u32, register: u64) {
        if let Err(error) = kinds::detach(self.guest, self.server.id, kind, self.base + register, 0) {
            println!("backend: FAILED: detaching kind {kind} at {register:#x}: {error}");
        }
    }

    /// Whether an event of this port is this device's.
    pub(super) fn has(&self, port: u32) -> bool {
        let bells = self.bells.iter().flatten();
        self.server.ports.contains(&port) || self.buffered_port == Some(port) || bells.copied().any(|bell| bell == port)
    }

    /// An event of one of its ports.
    pub(super) fn event(&mut self, port: u32) {
        if let Some(slot) = self.server.ports.iter().position(|own| *own == port) {
            if let Some(request) = self.server.take(slot) {
                self.request(slot, &request);
            }
        } else if self.buffered_port == Some(port) {
            self.drain();
        } else if let Some(vcpu) = self.bells.iter().position(|bell| *bell == Some(port)) {
            self.count(WAKES);
            self.look(vcpu);
        }
    }

    /// Takes everything that was posted.
    fn drain(&mut self) {
        while let Some(posted) = self.buffered.filter(|_| !self.spoiled).and_then(|page| page.take()) {
            // The ring has 20 bits of the address.
            let offset = u64::from(posted.address).wrapping_sub(self.base) & 0xf_ffff;
            self.posted(offset, &posted);
        }
    }

    /// A write to a register that is posted, wherever it came from.
    fn posted(&mut self, offset: u64, posted: &Posted) {
        let registers = (0..VCPUS).flat_map(|vcpu| [(vcpu, POST4, 4), (vcpu, POST8, 8)]);
        let mut registers = registers.filter(|(vcpu, register, _)| of_vcpu(*register, *vcpu) == offset);
        let number = posted.value as u32;
        match registers.next() {
            Some((vcpu, _, bytes)) => {
                let wanted = self.posted[vcpu].wrapping_add(1);
                let whole = bytes == 4 || (posted.value >> 32) as u32 == !number;
                if posted.bytes != bytes || number != wanted || !whole {
                    println!("backend: FAILED: vCPU {vcpu} posts {wanted}, but {posted:x?} comes");
                }
                self.posted[vcpu] = number;
            }
            None => println!("backend: FAILED: {posted:x?} comes, which nobody posts"),
        }
    }

    /// Looks at a vCPU's counter of rings.
    fn look(&mut self, vcpu: usize) {
        if !self.has_counters {
            return;
        }
        let counter = self.page(COUNTERS_PAGE) + (vcpu * COUNTER_STRIDE) as u64;
        // SAFETY: the page is mapped since `has_counters`, and both sides use it by single words.
        let rings = unsafe { AtomicU32::from_ptr(counter as *mut u32) }.load(Ordering::Acquire);
        self.publish(SEEN + 4 * vcpu as u64, rings);
    }

    /// A request, which its vCPU waits for: everything that it posted before comes first.
    fn request(&mut self, slot: usize, request: &Ioreq) {
        self.drain();
        let offset = request.addr.wrapping_sub(self.base);
        if request.is_read() {
            let word = self.words.get(offset as usize / 4).copied();
            self.server.answer(slot, word.unwrap_or(!0).into());
            return;
        }
        let value = request.data;
        let command = (offset == CONTROL).then(|| Command::from_value(value as u32)).flatten();
        if command.is_none() {
            self.write(offset, request);
        }
        match command {
            // These are done once the writer goes on.
            Some((Command::Sleep, milliseconds)) => {
                self.server.answer(slot, 0);
                timer::spin(u64::from(milliseconds) * 1_000);
            }
            Some((Command::Rebirth, _)) => {
                self.server.answer(slot, 0);
                self.rebirth();
            }
            Some((command, argument)) => {
                self.obey(command, argument);
                self.server.answer(slot, 0);
            }
            None => self.server.answer(slot, 0),
        }
    }

    fn write(&mut self, offset: u64, request: &Ioreq) {
        let vcpu = (0..VCPUS).find(|vcpu| (of_vcpu(0, *vcpu)..of_vcpu(0x100, *vcpu)).contains(&offset));
        let register = vcpu.map(|vcpu| (vcpu, offset - of_vcpu(0, vcpu)));
        match register {
            Some((_, POST4 | POST8)) => {
                self.count(FALLBACKS);
                let posted = Posted {
                    address: request.addr as u32,
                    bytes: request.size as u8,
                    value: request.data,
                };
                self.posted(offset, &posted);
            }
            Some((vcpu, SYNC)) if request.data as u32 == self.posted[vcpu] => {}
            Some((vcpu, SYNC)) => println!(
                "backend: FAILED: vCPU {vcpu} has posted {}, but {} came before its request",
                request.data, self.posted[vcpu]
            ),
            Some((vcpu, BELL)) => {
                self.count(NAKED);
                self.look(vcpu);
            }
            _ if offset == COUNTERS => {
                let (from, to, mut errors) = ([request.data / PAGE], [self.page(COUNTERS_PAGE) / PAGE], [0]);
                // SAFETY: the piece of the window is this device's; the guest's page is used by single words.
                let mapped = unsafe { memory::map_foreign(self.guest, &from, &to, &mut errors) };
                self.has_counters = mapped.is_ok() && errors == [0];
                if !self.has_counters {
                    println!("backend: FAILED: the counters can't be mapped: {mapped:?} {errors:?}");
                }
            }
            // Without an acknowledgement register; and what the hypervisor writes when the guest ends.
            _ if offset == ACK || (offset == DEVICE_STATUS && request.data == 0) => {}
            _ => println!("backend: FAILED: a write that nobody makes, at {offset:#x}"),
        }
    }

    fn obey(&mut self, command: Command, argument: u32) {
        match command {
            Command::Spoil | Command::Mend => {
                let Some(page) = &self.buffered else { return };
                let pointers = page.pointers();
                let write = (pointers.load(Ordering::Acquire) >> 32) as u32;
                let way = SPOILED.get(argument as usize).filter(|_| command == Command::Spoil);
                self.spoiled = way.is_some();
                pointers.store(way.map_or(0, |way| way(write)), Ordering::Release);
            }
            Command::Detach => self.detach(argument),
            Command::Attach => self.attach(argument),
            Command::Interrupt => {
                if let Err(error) = kinds::update(self.guest, self.server.id, self.base + ACK, 0, argument) {
                    self.report("interrupt", error);
                }
            }
            Command::Sleep | Command::Rebirth => {}
        }
    }

    /// Destroys the server and makes another one of it. Nothing is posted now.
    fn rebirth(&mut self) {
        self.has_shadow = false;
        let other = self.bells.iter_mut().chain([&mut self.buffered_port]);
        for port in other.filter_map(Option::take) {
            let _ = hypercall::close(port);
        }
        self.buffered = None;
        if let Err(error) = self.server.destroy() {
            self.report("destroying a server", error);
        }
        self.server = Server::connect_at(self.guest, self.window).expect("the guest can be served again");
        let life = self.words[LIFE as usize / 4] & 0xffff;
        self.begin_life(life + 1);
        for vcpu in 0..VCPUS {
            // A ring may have come while there was nobody.
            self.look(vcpu);
        }
    }
}

/// The local port that is bound to `port` of `domain`, unmasked.
fn bind(domain: u16, port: u32) -> Result<u32> {
    let local = hypercall::bind_interdomain(domain, port)?;
    hypercall::unmask(local)?;
    Ok(local)
}
