//! What the rows play with: memory for structures, spare pages, addresses that must not work, and what is to be taken back
//! after a row.

use alloc::alloc::{Layout, alloc_zeroed};

use guest_runtime::attempt;
use guest_runtime::device_tree::{self, each_memory, find_compatible, reg};
use guest_runtime::events::Events;
use guest_runtime::granting;
use guest_runtime::mmu::{self, Attribute};
use portunus::abi::evtchn::{self, AllocUnbound, BindInterdomain, BindIpi, Port, Status};
use portunus::abi::hypercall as number;
use portunus::abi::memory::{ADD_TO_PHYSMAP, AddToPhysmap, SPACE_GRANT_TABLE};
use portunus::abi::version;
use zerocopy::{Immutable, IntoBytes};

use crate::trampoline::{Conduit, call};

pub(crate) const DOMID_SELF: u16 = 0x7ff0;
/// The hypervisor itself.
pub(crate) const DOMID_XEN: u16 = 0x7ff2;
/// A domain that does not exist.
pub(crate) const NOBODY: u16 = 1000;
pub(crate) const PAGE: u64 = 4096;
const BLOCK: u64 = 2 << 20;
/// Spare pages.
pub(crate) const SPARE: u64 = 16;
/// Ports, handles and the like that one row makes at most.
const MADE: usize = 16;
/// What the memory around a structure holds.
const GUARD: u64 = 0xc3a5_5ac3_0ff0_f00f;

/// The references that every domain grants.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Grants;

impl Grants {
    /// Spare page [`Self::OWN_PAGE`], to itself, for writing.
    pub(crate) const OWN: u32 = 9;
    /// The next page, to itself, for reading.
    pub(crate) const OWN_READ_ONLY: u32 = 10;
    /// To a domain that does not exist.
    pub(crate) const NOBODYS: u32 = 11;
    /// What is no RAM, to itself.
    pub(crate) const NO_RAM: u32 = 12;
    /// Spare page [`Self::SHARED_PAGE`], to the other domain, for writing.
    pub(crate) const SHARED: u32 = 13;
    /// The next page, to the other domain, for reading.
    pub(crate) const SHARED_READ_ONLY: u32 = 14;
    /// A page to the other domain, for the two to meet.
    pub(crate) const MEETING: u32 = 15;
    /// Nothing.
    pub(crate) const FREE: u32 = 16;
    pub(crate) const OWN_PAGE: u64 = 8;
    pub(crate) const SHARED_PAGE: u64 = 12;
}

/// Everything that rows need.
pub(crate) struct World {
    /// This is Portunus; else it is another hypervisor of the same ABI.
    pub(crate) on_portunus: bool,
    pub(crate) events: &'static Events,
    /// This domain's number.
    pub(crate) me: u16,
    /// The other domain's.
    pub(crate) other: u16,
    /// Two pages for structures.
    arguments: u64,
    /// The first of [`SPARE`] pages of RAM, filled with a pattern, that calls may take away if they are brought back.
    pub(crate) spare: u64,
    /// RAM that stage 1 lets nobody write.
    pub(crate) read_only: u64,
    /// The interrupt controller.
    pub(crate) device: u64,
    /// Nothing at stage 2.
    pub(crate) nowhere: u64,
    /// Where frame 0 of this domain's grant table is.
    table: u64,
    /// Addresses behind which there is nothing, for pages of others.
    pub(crate) window: u64,
    /// The handle of a page that a table has mapped.
    pub(crate) handle: core::cell::Cell<u32>,
    ports: [u32; MADE],
    ports_made: usize,
}

fn allocate(size: u64, align: u64) -> u64 {
    let layout = Layout::from_size_align(size as usize, align as usize).expect("a power of two");
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc_zeroed(layout) } as u64;
    assert_ne!(memory, 0, "no memory");
    memory
}

/// Makes a hypercall that is none of a row's.
pub(crate) fn plain(number: u64, arguments: [u64; 5]) -> u64 {
    // SAFETY: the callers are rows and their cleaning up: what is given is the suite's.
    unsafe { call(Conduit::Hypercall, number, arguments) }.results[0]
}

/// The same, with a structure in x1.
pub(crate) fn ask<T: IntoBytes + Immutable>(number: u64, command: u64, structure: &mut T) -> u64 {
    plain(number, [command, &raw mut *structure as u64, 0, 0, 0])
}

fn is_portunus() -> bool {
    let mut text = [0u8; version::EXTRAVERSION_LENGTH];
    ask(number::XEN_VERSION, version::EXTRAVERSION, &mut text) == 0 && text.starts_with(b".portunus")
}

impl World {
    /// Takes memory from the heap, for good.
    pub(crate) fn new(me: u16, other: u16) -> Self {
        let read_only = allocate(2 * BLOCK, BLOCK) + BLOCK;
        // SAFETY: the block is this function's, and is only read from now on.
        unsafe { mmu::map(read_only..read_only + BLOCK, Attribute::ReadOnly) };
        let gic = find_compatible(&["arm,gic-v3", "arm,gic-400", "arm,cortex-a15-gic"]).and_then(|node| reg(node, 0));
        let mut end = 0;
        each_memory(|range| end = end.max(range.end));
        let events = Events::init().expect("shared pages are the domain's own");
        // The first frame of the table is mapped, and the memory behind the table is Normal at stage 1.
        let reference = granting::grant(0, 0, 1, true);
        granting::end(reference, 1);
        let node = device_tree::device_tree().find_node("/hypervisor");
        let room = node.and_then(|node| reg(node, 0)).expect("a window for grants");
        let world = Self {
            on_portunus: is_portunus(),
            events: alloc::boxed::Box::leak(alloc::boxed::Box::new(events)),
            me,
            other,
            arguments: read_only - 64 * PAGE,
            spare: read_only - 32 * PAGE,
            read_only,
            device: gic.expect("there is an interrupt controller").start,
            nowhere: end + 2 * BLOCK,
            table: room.start,
            window: room.start + 0x10_0000,
            handle: core::cell::Cell::new(0),
            ports: [0; MADE],
            ports_made: 0,
        };
        world.fill_spare();
        let frame = |page| world.spare_frame(page);
        for (reference, domain, frame, read_only) in [
            (Grants::OWN, me, frame(Grants::OWN_PAGE), false),
            (Grants::OWN_READ_ONLY, me, frame(Grants::OWN_PAGE + 1), true),
            (Grants::NOBODYS, NOBODY, frame(Grants::OWN_PAGE + 2), false),
            (Grants::NO_RAM, me, world.nowhere / PAGE, false),
            (Grants::SHARED, other, frame(Grants::SHARED_PAGE), false),
            (Grants::SHARED_READ_ONLY, other, frame(Grants::SHARED_PAGE + 1), true),
            (Grants::MEETING, other, world.meeting_page() / PAGE, false),
        ] {
            assert_eq!(granting::grant(domain, frame, 1, read_only), reference);
        }
        world
    }

    /// Puts its pattern into every spare page.
    pub(crate) fn fill_spare(&self) {
        let whole = |index: &u64| !index.is_multiple_of(PAGE / 8) || self.is_mapped(index * 8 / PAGE);
        for index in (0..SPARE * PAGE / 8).take_while(whole) {
            // SAFETY: inside the spare pages, aligned.
            unsafe { ((self.spare + 8 * index) as *mut u64).write_volatile(index ^ GUARD) };
        }
    }

    /// Whether a spare page holds its pattern.
    pub(crate) fn spare_is_whole(&self, page: u64) -> bool {
        (page * PAGE / 8..(page + 1) * PAGE / 8).all(|index| {
            // SAFETY: inside the spare pages, aligned.
            unsafe { ((self.spare + 8 * index) as *const u64).read_volatile() == index ^ GUARD }
        })
    }

    /// The frame of a spare page.
    pub(crate) fn spare_frame(&self, page: u64) -> u64 {
        self.spare / PAGE + page
    }

    /// Word `index` of the spare pages.
    pub(crate) fn spare_word(&self, index: u64) -> u64 {
        // SAFETY: inside the spare pages, aligned; the caller knows that the page is there.
        unsafe { ((self.spare + 8 * index) as *const u64).read_volatile() }
    }

    /// The word at an address that there is memory at.
    pub(crate) fn word_at(&self, address: u64) -> u64 {
        let words = [0, 4].map(|offset| attempt::read_u32(address + offset).unwrap_or(0));
        u64::from(words[1]) << 32 | u64::from(words[0])
    }

    /// Writes a word there; nothing happens where that is not allowed.
    pub(crate) fn set_word_at(&self, address: u64, value: u64) -> bool {
        let fault = attempt::run(|| {
            // SAFETY: the address is the suite's; if the store faults it is skipped.
            unsafe {
                core::arch::asm!("str {0}, [{1}]", in(reg) value, in(reg) address, options(nostack, preserves_flags))
            };
        });
        fault.is_none()
    }

    /// Whether memory can be written; it holds what it held.
    pub(crate) fn can_write(&self, address: u64) -> bool {
        if self.on_portunus {
            return self.set_word_at(address, self.word_at(address));
        }
        // Xen has a store that stage 2 does not allow tried again, for ever; it does not write there itself, either.
        let places = [address, address + 8];
        let before = places.map(|place| self.word_at(place));
        let x0 = plain(number::XEN_VERSION, [version::EXTRAVERSION, address, 0, 0, 0]);
        x0 == 0
            && places
                .into_iter()
                .zip(before)
                .all(|(place, word)| self.set_word_at(place, word))
    }

    /// The flags of an entry of this domain's grant table.
    pub(crate) fn entry_flags(&self, reference: u32) -> u16 {
        attempt::read_u32(self.table + 8 * u64::from(reference)).map_or(0, |entry| entry as u16)
    }

    /// Whether there is memory at `address`.
    pub(crate) fn is_memory(&self, address: u64) -> bool {
        attempt::read_u32(address).is_ok()
    }

    /// Whether a spare page is there.
    pub(crate) fn is_mapped(&self, page: u64) -> bool {
        self.is_memory(self.spare + page * PAGE)
    }

    /// Where frame 0 of this domain's grant table belongs.
    pub(crate) fn table_frame(&self) -> u64 {
        self.table / PAGE
    }

    /// Puts it there.
    pub(crate) fn map_table(&self) {
        let mut request = AddToPhysmap {
            domid: DOMID_SELF,
            space: SPACE_GRANT_TABLE,
            gpfn: self.table_frame(),
            ..AddToPhysmap::default()
        };
        ask(number::MEMORY_OP, ADD_TO_PHYSMAP, &mut request);
    }

    /// The frame for what the hypervisor tells vCPU 1.
    pub(crate) fn info_frame(&self) -> u64 {
        self.spare / PAGE - 4
    }

    /// The page in which two domains meet.
    pub(crate) fn meeting_page(&self) -> u64 {
        self.spare - 8 * PAGE
    }

    /// Where structures lie.
    pub(crate) fn place(&self) -> u64 {
        self.arguments + 0x400
    }

    /// The same for one of `size` bytes that crosses a page.
    pub(crate) fn place_across(&self, size: usize) -> u64 {
        let before = (size as u64 / 2).next_multiple_of(8).min(size as u64 - 1);
        self.arguments + PAGE - before
    }

    /// Memory that nothing is in, for lists that a structure points to: inside the guarded pages.
    pub(crate) fn list(&self) -> u64 {
        self.arguments + PAGE + 0x800
    }

    /// Writes the guards, and a structure.
    pub(crate) fn put<T: IntoBytes + Immutable>(&self, at: u64, structure: &T) {
        for word in 0..2 * PAGE / 8 {
            // SAFETY: inside the pages for structures, aligned.
            unsafe { ((self.arguments + 8 * word) as *mut u64).write_volatile(GUARD) };
        }
        self.put_structure(at, structure);
    }

    /// Writes a structure.
    pub(crate) fn put_structure<T: IntoBytes + Immutable>(&self, at: u64, structure: &T) {
        for (address, byte) in (at..).zip(structure.as_bytes()) {
            // SAFETY: `at` is one of the places.
            unsafe { (address as *mut u8).write_volatile(*byte) };
        }
    }

    /// What is there now.
    pub(crate) fn get<T: zerocopy::FromBytes + IntoBytes>(&self, at: u64) -> T {
        let mut structure = T::new_zeroed();
        for (address, byte) in (at..).zip(structure.as_mut_bytes()) {
            // SAFETY: `at` is one of the places.
            *byte = unsafe { (address as *const u8).read_volatile() };
        }
        structure
    }

    /// Whether everything but the `size` bytes at `at`, and the lists, is as [`Self::put`] left it.
    pub(crate) fn guards_are_whole(&self, at: u64, size: usize) -> bool {
        let guard = GUARD.to_le_bytes();
        let end = self.list();
        (self.arguments..end).all(|address| {
            let inside = address >= at && address < at + size as u64;
            // SAFETY: inside the pages for structures.
            inside || unsafe { (address as *const u8).read_volatile() } == guard[(address % 8) as usize]
        })
    }

    /// A word of the list.
    pub(crate) fn list_word(&self, index: u64) -> u64 {
        // SAFETY: inside the pages for structures, aligned.
        unsafe { ((self.list() + 8 * index) as *const u64).read_volatile() }
    }

    /// Sets a word of the list.
    pub(crate) fn set_list_word(&self, index: u64, value: u64) {
        // SAFETY: inside the pages for structures, aligned.
        unsafe { ((self.list() + 8 * index) as *mut u64).write_volatile(value) }
    }

    /// A 32-bit word of the list.
    pub(crate) fn list_half(&self, index: u64) -> u32 {
        (self.list_word(index / 2) >> (32 * (index % 2))) as u32
    }

    /// Sets a 32-bit word of the list.
    pub(crate) fn set_list_half(&self, index: u64, value: u32) {
        // SAFETY: inside the pages for structures, aligned.
        unsafe { ((self.list() + 4 * index) as *mut u32).write_volatile(value) }
    }

    /// Closes `port` when the row is over.
    pub(crate) fn closes(&mut self, port: u32) {
        if let Some(slot) = self.ports.get_mut(self.ports_made) {
            *slot = port;
            self.ports_made += 1;
        }
    }

    /// An unbound port for `remote`, until the row is over.
    pub(crate) fn unbound(&mut self, remote: u16) -> u32 {
        let mut request = AllocUnbound {
            dom: DOMID_SELF,
            remote_dom: remote,
            port: 0,
        };
        assert_eq!(ask(number::EVENT_CHANNEL_OP, evtchn::ALLOC_UNBOUND, &mut request), 0);
        self.closes(request.port);
        request.port
    }

    /// Two ports of this domain that are connected, until the row is over.
    pub(crate) fn connected(&mut self) -> (u32, u32) {
        let remote_port = self.unbound(DOMID_SELF);
        let mut request = BindInterdomain {
            remote_dom: DOMID_SELF,
            remote_port,
            ..Default::default()
        };
        assert_eq!(ask(number::EVENT_CHANNEL_OP, evtchn::BIND_INTERDOMAIN, &mut request), 0);
        self.closes(request.local_port);
        // It starts pending.
        self.events.take(|_| {});
        (request.local_port, remote_port)
    }

    /// A port for events to itself, until the row is over.
    pub(crate) fn ipi(&mut self) -> u32 {
        let mut request = BindIpi::default();
        assert_eq!(ask(number::EVENT_CHANNEL_OP, evtchn::BIND_IPI, &mut request), 0);
        self.closes(request.port);
        request.port
    }

    /// What a port of this domain is.
    pub(crate) fn status(&self, port: u32) -> Status {
        let mut request = Status {
            dom: DOMID_SELF,
            port,
            ..Status::default()
        };
        ask(number::EVENT_CHANNEL_OP, evtchn::STATUS, &mut request);
        request
    }

    /// Whether an event waits at a port.
    pub(crate) fn is_pending(&self, port: u32) -> bool {
        use core::sync::atomic::Ordering;
        let word = self.events.words().nth(port as usize / 64);
        word.is_some_and(|word| word.load(Ordering::Acquire) >> (port % 64) & 1 != 0)
    }

    /// Takes the mask of a port away, or sets it.
    pub(crate) fn set_mask(&self, port: u32, masked: bool) {
        use core::sync::atomic::Ordering;
        if let Some(word) = self.events.words().nth(64 + port as usize / 64) {
            let bit = 1 << (port % 64);
            if masked {
                word.fetch_or(bit, Ordering::AcqRel);
            } else {
                word.fetch_and(!bit, Ordering::AcqRel);
            }
        }
    }

    /// Takes back what the row made.
    pub(crate) fn clean(&mut self) {
        for index in (0..self.ports_made).rev() {
            let mut port = Port {
                port: self.ports[index],
            };
            // It may be closed already.
            ask(number::EVENT_CHANNEL_OP, evtchn::CLOSE, &mut port);
            self.set_mask(port.port, false);
        }
        self.ports_made = 0;
        self.events.take(|_| {});
    }
}
