//! What the attacks play with: memory that may be lost or overwritten, addresses that must not work, and numbers that
//! look like arguments.

use alloc::alloc::{Layout, alloc_zeroed};
use core::sync::atomic::{AtomicU64, Ordering};

use guest_runtime::device_tree::{each_memory, find_compatible, reg};
use guest_runtime::mmu::{self, Attribute};

use guest_runtime::random::Random;

const PAGE: u64 = 4096;
const BLOCK: u64 = 2 << 20;
/// Bytes of the memory for arguments.
const SCRATCH: u64 = 16 * PAGE;
/// Bytes of the memory that calls may take away.
const SACRIFICED: u64 = 64 * PAGE;

/// Numbers at the edges of what arguments can be.
const EDGES: [u64; 12] = [
    u64::MAX,
    u64::MAX - 4095,
    i64::MAX as u64,
    1 << 63,
    u32::MAX as u64,
    1 << 31,
    1 << 40,
    (1 << 28) - 1,
    // DOMID_SELF and its neighbours.
    0x7ff0,
    0x7ff1,
    0x7ff4,
    0x7fff,
];

/// Memory and addresses.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    scratch: u64,
    sacrificed: u64,
    /// RAM that stage 1 lets nobody write.
    pub(crate) read_only: u64,
    /// Addresses behind which there is no memory of this domain, and what they are.
    pub(crate) bad: [(&'static str, u64); 9],
    ram: (u64, u64),
}

fn allocate(size: u64, align: u64) -> u64 {
    let layout = Layout::from_size_align(size as usize, align as usize).expect("a power of two");
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc_zeroed(layout) } as u64;
    assert_ne!(memory, 0, "no memory");
    memory
}

impl Ground {
    /// Takes memory from the heap, for good: what calls write beyond the end of the arguments is lost too, and what they
    /// write beyond that can't be written.
    pub(crate) fn new() -> Self {
        let read_only = allocate(2 * BLOCK, BLOCK) + BLOCK;
        let sacrificed = read_only - SACRIFICED;
        // SAFETY: the block is this function's, and is only read from now on.
        unsafe { mmu::map(read_only..read_only + BLOCK, Attribute::ReadOnly) };
        let gic = find_compatible(&["arm,gic-v3", "arm,gic-400"]).and_then(|node| reg(node, 0));
        let distributor = gic.expect("there is an interrupt controller").start;
        let device = find_compatible(&["virtio,mmio"]).and_then(|node| reg(node, 0));
        let mut ram = (u64::MAX, 0);
        each_memory(|range| ram = (ram.0.min(range.start), ram.1.max(range.end)));
        Self {
            scratch: sacrificed - SCRATCH,
            sacrificed,
            read_only,
            bad: [
                ("nothing at stage 1", 0x100),
                ("the interrupt controller", distributor),
                (
                    "another domain's device",
                    device.map_or(distributor, |device| device.start),
                ),
                ("nothing at stage 2", ram.1 + BLOCK),
                ("the end of what stage 1 maps", (1 << 40) - 64),
                ("more than stage 1 has", 1 << 40),
                ("the upper half", 0xffff_0000_4000_0000),
                ("no canonical address", 0x8000_0000_0000_0000),
                ("the end of all addresses", u64::MAX - 7),
            ],
            ram,
        }
    }

    /// A word of the memory for arguments.
    pub(crate) fn word_at(&self, index: u64) -> &'static AtomicU64 {
        let address = self.scratch + index % (SCRATCH / 8) * 8;
        // SAFETY: aligned, inside memory that was taken for good; all use it by atomic accesses.
        unsafe { AtomicU64::from_ptr(address as *mut u64) }
    }

    /// The address of a word of the memory for arguments.
    pub(crate) fn address_of(&self, index: u64) -> u64 {
        self.word_at(index).as_ptr() as u64
    }

    /// Puts numbers that look like arguments from word `index` on.
    pub(crate) fn fill(&self, index: u64, words: u64, random: &mut Random) {
        for index in index..index + words {
            let (low, high) = (self.number(random), self.number(random));
            let word = match random.below(2) {
                0 => low,
                _ => low & 0xffff_ffff | high << 32,
            };
            self.word_at(index).store(word, Ordering::Relaxed);
        }
    }

    /// A number that could mean something to somebody. Never an address of RAM that this guest needs.
    pub(crate) fn number(&self, random: &mut Random) -> u64 {
        match random.below(9) {
            0 | 1 => random.below(8),
            2 => random.below(64),
            3 => self.harmless(random.next()),
            4 => self.harmless(random.next() >> 32),
            5 => self.sacrificed + random.below(SACRIFICED),
            6 => (self.sacrificed + random.below(SACRIFICED)) / PAGE,
            7 => random.choose(&EDGES),
            _ => random.choose(&self.bad).1,
        }
    }

    /// A pointer, good or bad.
    pub(crate) fn pointer(&self, random: &mut Random) -> u64 {
        match random.below(8) {
            0 => random.choose(&self.bad).1,
            1 => self.number(random),
            2 => self.read_only + random.below(BLOCK),
            // Across the end of a page, or of the memory.
            3 => self.scratch + random.below(SCRATCH / PAGE) * PAGE + PAGE - random.below(64),
            _ => self.address_of(random.next()),
        }
    }

    fn harmless(&self, number: u64) -> u64 {
        if (self.ram.0..self.ram.1).contains(&number) {
            !number
        } else {
            number
        }
    }

    /// An address of memory that may be overwritten with anything: for code that runs wild.
    pub(crate) fn wilderness(&self, random: &mut Random) -> u64 {
        let page = allocate(PAGE, PAGE);
        for offset in (0..PAGE).step_by(8) {
            // SAFETY: inside the page, aligned.
            unsafe { ((page + offset) as *mut u64).write_volatile(random.next()) };
        }
        page
    }
}
