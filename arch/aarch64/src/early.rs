//! The first translation tables: the Image and the device tree, nothing else, in 2 MiB blocks, all of it writable and
//! executable. They serve until `mmu` has built the real ones.
//!
//! Runs with stage 1 off: plain loads and stores only.

use crate::layout;
use core::cell::UnsafeCell;

/// Bytes of a level-2 block.
const BLOCK: usize = 1 << 21;
/// A device tree may be this long (boot protocol).
const DEVICE_TREE_LIMIT: usize = 1 << 21;
/// Root, and for each of two ranges two tables on each of two levels.
const TABLES: usize = 9;

/// Valid table descriptor.
const TABLE: u64 = 3;
/// Valid block, attribute 0 (Normal write-back), inner shareable, accessed, AP[1] (RES1 at EL2).
const NORMAL_BLOCK: u64 = 1 | 3 << 8 | 1 << 10 | 1 << 6;

#[repr(C, align(4096))]
struct Table([u64; 512]);

struct Pool(UnsafeCell<[Table; TABLES]>);

// SAFETY: touched by the boot pCPU alone, before any other runs.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool(UnsafeCell::new([const { Table([0; 512]) }; TABLES]));

/// Fills the tables; returns the root's address. `device_tree` is x0 of the entry.
///
/// # Safety
/// Called once, by the boot pCPU, with stage 1 off and the Image relocated.
pub(crate) unsafe extern "C" fn build_tables(device_tree: usize) -> usize {
    // SAFETY: nobody else runs.
    let tables = unsafe { &mut *POOL.0.get() };
    let mut used = 1;
    let image = layout::image();
    map(tables, &mut used, image.start, image.end);
    map(
        tables,
        &mut used,
        device_tree,
        device_tree.saturating_add(DEVICE_TREE_LIMIT),
    );
    tables.as_ptr() as usize
}

fn map(tables: &mut [Table; TABLES], used: &mut usize, start: usize, end: usize) {
    let mut address = start & !(BLOCK - 1);
    while address < end {
        let mut table = 0;
        for shift in [39, 30] {
            let index = address >> shift & 511;
            let base = tables.as_ptr() as usize;
            if tables[table].0[index] & 1 == 0 {
                if *used == TABLES {
                    return;
                }
                tables[table].0[index] = (base + *used * size_of::<Table>()) as u64 | TABLE;
                *used += 1;
            }
            table = (tables[table].0[index] as usize - base) / size_of::<Table>();
            if table >= TABLES {
                return;
            }
        }
        tables[table].0[address >> 21 & 511] = address as u64 | NORMAL_BLOCK;
        address += BLOCK;
    }
}
