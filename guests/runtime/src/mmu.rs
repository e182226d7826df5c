//! Stage 1: an identity map of 40 address bits.
//!
//! RAM is Normal write-back, inner shareable, as Xen's ABI demands for shared memory; the rest is Device and not
//! executable. Blocks are 1 GiB and 2 MiB. The first 2 MiB are not mapped unless they are RAM: a null pointer faults.

use core::cell::UnsafeCell;
use core::ops::Range;

use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, Readable};
use spin::mutex::SpinMutex;

use crate::device_tree;

const GIB: u64 = 1 << 30;
const BLOCK: u64 = 1 << 21;
const ENTRIES: usize = 512;
/// 2 MiB granularity for as many different GiB.
const LEVEL2_TABLES: usize = 24;
const ADDRESS_BITS: u64 = 40;

const VALID: u64 = 1;
const TABLE: u64 = 3;
const ACCESSED: u64 = 1 << 10;
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 3 << 8;
const EXECUTE_NEVER: u64 = 3 << 53;
const ADDRESS_MASK: u64 = 0x0000_ffff_ffff_f000;

/// Device-nGnRE, Normal write-back, Normal non-cacheable.
const MAIR: u64 = 0x44_ff_04;

/// How memory is mapped.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Attribute {
    /// Device-nGnRE, not executable.
    Device,
    /// Normal write-back, read, write and execute.
    Normal,
    /// Normal non-cacheable, not executable.
    NonCacheable,
    /// Normal write-back, read only.
    ReadOnly,
}

impl Attribute {
    fn bits(self) -> u64 {
        match self {
            Self::Device => VALID | ACCESSED | EXECUTE_NEVER,
            Self::Normal => VALID | ACCESSED | INNER_SHAREABLE | 1 << 2,
            Self::NonCacheable => VALID | ACCESSED | INNER_SHAREABLE | EXECUTE_NEVER | 2 << 2,
            Self::ReadOnly => VALID | ACCESSED | INNER_SHAREABLE | EXECUTE_NEVER | READ_ONLY | 1 << 2,
        }
    }
}

#[repr(C, align(4096))]
struct Table([u64; ENTRIES]);

#[repr(C)]
struct Tables {
    level0: Table,
    level1: [Table; 2],
    level2: [Table; LEVEL2_TABLES],
    level2_used: usize,
}

struct Shared<T>(UnsafeCell<T>);
// SAFETY: before the MMU is on there is one CPU; afterwards `LOCK` is held around each use.
unsafe impl<T> Sync for Shared<T> {}

const EMPTY: Table = Table([0; ENTRIES]);
static TABLES: Shared<Tables> = Shared(UnsafeCell::new(Tables {
    level0: EMPTY,
    level1: [EMPTY; 2],
    level2: [EMPTY; LEVEL2_TABLES],
    level2_used: 0,
}));
static LOCK: SpinMutex<()> = SpinMutex::new(());

/// What `enable_mmu` loads: MAIR_EL1, TCR_EL1, TTBR0_EL1.
#[unsafe(no_mangle)]
static TRANSLATION: Shared<[u64; 3]> = Shared(UnsafeCell::new([0; 3]));

fn address_of(table: &Table) -> u64 {
    &raw const *table as u64
}

impl Tables {
    fn init(&mut self) {
        let mut address = 0;
        for (level1, entry) in self.level1.iter_mut().zip(&mut self.level0.0) {
            for block in &mut level1.0 {
                *block = address | Attribute::Device.bits();
                address += GIB;
            }
            *entry = address_of(level1) | TABLE;
        }
        self.set(0..BLOCK, 0, &mut |_| {});
    }

    /// Maps the 2 MiB blocks that `range` touches with `bits` (0: not at all). `changing` is told of every entry that is
    /// about to change, after it was made invalid.
    fn set(&mut self, range: Range<u64>, bits: u64, changing: &mut dyn FnMut(u64)) {
        let mut address = range.start & !(BLOCK - 1);
        let end = range.end.min(1 << ADDRESS_BITS);
        while address < end {
            let gib = (address / GIB) as usize;
            let entry = &mut self.level1[gib / ENTRIES].0[gib % ENTRIES];
            if address.is_multiple_of(GIB) && end - address >= GIB && *entry & TABLE != TABLE {
                replace(entry, if bits == 0 { 0 } else { address | bits }, address, changing);
                address += GIB;
                continue;
            }
            if *entry & TABLE != TABLE {
                assert!(self.level2_used < LEVEL2_TABLES, "no room to map {address:#x}");
                let table = &mut self.level2[self.level2_used];
                self.level2_used += 1;
                for (index, block) in table.0.iter_mut().enumerate() {
                    *block = if *entry == 0 { 0 } else { *entry + index as u64 * BLOCK };
                }
                replace(entry, address_of(table) | TABLE, address, changing);
            }
            // SAFETY: a level-1 table entry points to one of `level2`, which `self` owns; identity map.
            let table = unsafe { &mut *((*entry & ADDRESS_MASK) as *mut Table) };
            let block = &mut table.0[(address / BLOCK) as usize % ENTRIES];
            replace(block, if bits == 0 { 0 } else { address | bits }, address, changing);
            address += BLOCK;
        }
    }
}

/// Break before make.
fn replace(entry: &mut u64, new: u64, address: u64, changing: &mut dyn FnMut(u64)) {
    if *entry == new {
        return;
    }
    // SAFETY: the table walker reads the entry at any time; volatile keeps both stores, in order.
    unsafe {
        core::ptr::write_volatile(entry, 0);
        changing(address);
        core::ptr::write_volatile(entry, new);
    }
}

/// Builds the tables, with the MMU off.
pub(crate) fn prepare() {
    // SAFETY: one CPU, MMU off, called once.
    let (tables, translation) = unsafe { (&mut *TABLES.0.get(), &mut *TRANSLATION.0.get()) };
    tables.init();
    let mut map = |range: Range<u64>| tables.set(range, Attribute::Normal.bits(), &mut |_| {});
    device_tree::each_memory(&mut map);
    // Whatever the tree says, the guest itself and the tree are in memory.
    map(crate::entry::image());
    map(device_tree::extent());

    let physical_size = ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange).min(5);
    // T0SZ, walks inner and outer write-back and inner shareable, TTBR1 off, 4 KiB granule.
    let tcr = (64 - ADDRESS_BITS) | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | physical_size << 32;
    *translation = [MAIR, tcr, address_of(&tables.level0)];
}

/// Maps the 2 MiB blocks that `range` touches, one to one.
///
/// # Panics
/// When too many GiB are mapped in parts.
///
/// # Safety
/// Nothing that is in use lies in those blocks: not this code, its stack or heap, nor registers that another vCPU uses
/// meanwhile. Memory there may be mapped with that attribute.
pub unsafe fn map(range: Range<u64>, attribute: Attribute) {
    let _guard = LOCK.lock();
    // SAFETY: `LOCK` is held.
    let tables = unsafe { &mut *TABLES.0.get() };
    tables.set(range, attribute.bits(), &mut |address| {
        // SAFETY: drops translations; the caller says that nobody needs the changing one.
        unsafe {
            core::arch::asm!(
                "dsb ishst", "tlbi vaae1is, {}", "dsb ish", "isb",
                in(reg) address >> 12, options(nostack, preserves_flags)
            );
        }
    });
    // SAFETY: barriers only: the new entries are seen by every table walk from here on.
    unsafe { core::arch::asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
}
