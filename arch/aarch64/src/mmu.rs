//! Stage 1 at EL2: an identity map of the Image (write xor execute, guard pages under every stack), of all RAM that
//! guests may use (Normal write-back, once and for all), and of the UART and the GIC. Nothing else is mapped.
//!
//! While domains are built the frames of the uncached pool become non-cacheable, where the CPUs can't force them to be
//! cacheable for guests too. That takes new tables ([`withdraw`]), which each pCPU adopts: parts of a block in use can't be
//! changed in place.

use crate::entry::{SCTLR_EARLY, SCTLR_OFF, SCTLR_ON};
use crate::layout;
use crate::sysreg::{dsb_ish, isb};
use aarch64_paging::MapError;
use aarch64_paging::descriptor::El23Attributes as Attributes;
use aarch64_paging::idmap::IdMap;
use aarch64_paging::paging::{El2, MemoryRegion};
use alloc::vec::Vec;
use core::arch::naked_asm;
use core::ops::Range;
use portunus::ids::MAX_PCPUS;
use portunus::memory::MemoryType;
use portunus::memory::uncached::{Caching, hypervisor_regions};
use portunus::range::PaRange;
use portunus::sync::Mutex;

/// MAIR_EL2: 0 Normal write-back read/write-allocate, 1 Device-nGnRE, 2 Normal non-cacheable.
const MAIR: u64 = 0x44_04_ff;
/// TCR_EL2 without PS: T0SZ = 16, walks inner-shareable write-back, 4 KiB granule, RES1 bits 31 and 23.
const TCR: u64 = 1 << 31 | 1 << 23 | 3 << 12 | 1 << 10 | 1 << 8 | 16;
/// The level of the root table for 48 bits of address.
const ROOT_LEVEL: usize = 0;

const VALID: Attributes = Attributes::VALID
    .union(Attributes::ACCESSED)
    .union(Attributes::USER_RES1);
const NORMAL: Attributes = VALID
    .union(Attributes::ATTRIBUTE_INDEX_0)
    .union(Attributes::INNER_SHAREABLE);
const CODE: Attributes = NORMAL.union(Attributes::READ_ONLY);
const CONSTANTS: Attributes = CODE.union(Attributes::XN);
const DATA: Attributes = NORMAL.union(Attributes::XN);
const DEVICE: Attributes = VALID
    .union(Attributes::ATTRIBUTE_INDEX_1)
    .union(Attributes::OUTER_SHAREABLE)
    .union(Attributes::XN);

const UNCACHED: Attributes = VALID
    .union(Attributes::ATTRIBUTE_INDEX_2)
    .union(Attributes::INNER_SHAREABLE)
    .union(Attributes::XN);

/// The tables in use, and what they were made of.
struct Map {
    tables: IdMap<El2>,
    ram: Vec<PaRange>,
    devices: Vec<Range<usize>>,
}

static MAP: Mutex<Option<Map>> = Mutex::new(None);

/// Builds the real tables and goes over to them. `ram` are the banks, `devices` the registers that EL2 uses.
///
/// # Errors
/// A range that cannot be mapped: beyond 48 bits, or overlapping another with other rights.
pub(crate) fn init(
    ram: impl Iterator<Item = Range<usize>>,
    devices: impl Iterator<Item = Range<usize>>,
) -> Result<(), MapError> {
    let image = layout::image();
    let ram = ram.flat_map(|bank| {
        [
            bank.start..bank.end.min(image.start),
            bank.start.max(image.end)..bank.end,
        ]
    });
    let ram = ram
        .filter(|part| part.start < part.end)
        .map(|part| PaRange::new(part.start as u64, (part.end - part.start) as u64))
        .collect();
    go_over(ram, devices.collect(), PaRange::default())
}

/// The frames of `pool` are no longer write-back here but non-cacheable. The other pCPUs are to [`adopt`] the new tables;
/// then nobody can bring the frames into a cache any more, and what is there of them is to be cleaned and invalidated.
///
/// # Errors
/// As [`init`].
pub(crate) fn withdraw(pool: PaRange) -> Result<(), MapError> {
    let (ram, devices) = match MAP.lock().as_ref() {
        Some(map) => (map.ram.clone(), map.devices.clone()),
        None => return Ok(()),
    };
    go_over(ram, devices, pool)
}

/// Makes the tables that `withdraw` built this pCPU's stage 1.
pub(crate) fn adopt() {
    if let Some(root) = root() {
        // SAFETY: the new tables map what the old ones did, with the same memory type but for frames that nobody uses yet.
        unsafe { switch_to_final(root) }
    }
}

/// Builds tables, goes over to them and keeps them. Those that were there before stay in memory: another pCPU may use them.
fn go_over(ram: Vec<PaRange>, devices: Vec<Range<usize>>, pool: PaRange) -> Result<(), MapError> {
    let mut tables = IdMap::new(ROOT_LEVEL, El2);
    for (part, memory) in hypervisor_regions(ram.iter().copied(), pool, Caching::NonCacheable) {
        let attributes = match memory {
            MemoryType::NonCacheable => UNCACHED,
            MemoryType::WriteBack | MemoryType::Device => DATA,
        };
        tables.map_range(&region(part.start.0 as usize..part.end() as usize), attributes)?;
    }
    for device in &devices {
        tables.map_range(&region(device.clone()), DEVICE)?;
    }
    tables.map_range(&region(layout::text_start()..layout::text_end()), CODE)?;
    tables.map_range(&region(layout::rodata_start()..layout::rodata_end()), CONSTANTS)?;
    tables.map_range(&region(layout::relro_start()..layout::relro_end()), CONSTANTS)?;
    tables.map_range(&region(layout::data_start()..layout::bss_end()), DATA)?;
    tables.map_range(&region(layout::heap_start()..layout::heap_end()), DATA)?;
    for pcpu in 0..MAX_PCPUS {
        tables.map_range(&region(layout::exception_stack(pcpu)), DATA)?;
        tables.map_range(&region(layout::main_stack(pcpu)), DATA)?;
    }
    tables.mark_active();
    // SAFETY: the new tables map everything that runs and is used, with the same memory type as the ones before.
    unsafe { switch_to_final(tables.root_address().0) };
    let before = MAP.lock().replace(Map { tables, ram, devices });
    core::mem::forget(before);
    Ok(())
}

/// Maps more device registers, which were not mapped: no translation of them is cached anywhere.
///
/// # Errors
/// A range that cannot be mapped, or that overlaps memory.
pub(crate) fn add_device(device: Range<usize>) -> Result<(), MapError> {
    if let Some(map) = MAP.lock().as_mut() {
        map.tables.map_range(&region(device.clone()), DEVICE)?;
        map.devices.push(device);
    }
    dsb_ish();
    isb();
    Ok(())
}

/// The root of the tables in use; what a secondary pCPU starts with.
pub(crate) fn root() -> Option<usize> {
    MAP.lock().as_ref().map(|map| map.tables.root_address().0)
}

fn region(range: Range<usize>) -> MemoryRegion {
    MemoryRegion::new(range.start, range.end)
}

/// Makes the early tables, at `root`, this pCPU's stage 1.
///
/// # Safety
/// As [`load_tables`].
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn switch_to_early(root: usize) {
    naked_asm!("ldr    x3, ={sctlr}", "b      {prepare}", sctlr = const SCTLR_EARLY, prepare = sym prepare)
}

/// Makes the real tables, at `root`, this pCPU's stage 1, with write xor execute.
///
/// # Safety
/// As [`load_tables`].
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn switch_to_final(root: usize) {
    naked_asm!("ldr    x3, ={sctlr}", "b      {prepare}", sctlr = const SCTLR_ON, prepare = sym prepare)
}

/// [`load_tables`] with what is the same for all: MAIR_EL2, and TCR_EL2 with as many physical address bits as this pCPU has, 48
/// at most. Needs no stack: a secondary pCPU has none until its stage 1 is on.
///
/// # Safety
/// As [`load_tables`].
#[unsafe(naked)]
unsafe extern "C" fn prepare(root: u64, _tcr: u64, _mair: u64, sctlr: u64) {
    naked_asm!(
        "dsb    ish",
        "mrs    x1, id_aa64mmfr0_el1",
        "and    x1, x1, #0xf",
        "mov    x2, #5",
        "cmp    x1, x2",
        "csel   x1, x1, x2, lo",
        "lsl    x1, x1, #16",
        "ldr    x2, ={tcr}",
        "orr    x1, x1, x2",
        "ldr    x2, ={mair}",
        "b      {load_tables}",
        tcr = const TCR,
        mair = const MAIR,
        load_tables = sym load_tables,
    )
}

/// Changes stage 1 with the MMU off in between, so that entries of different sizes for one address never meet; the code
/// touches registers only while it is.
///
/// # Safety
/// `root` maps the code, the stack and the data in use at their own addresses, and is visible to the table walker.
#[unsafe(naked)]
unsafe extern "C" fn load_tables(root: u64, tcr: u64, mair: u64, sctlr: u64) {
    naked_asm!(
        "ldr    x4, ={off}",
        "isb",
        "msr    sctlr_el2, x4",
        "isb",
        "msr    mair_el2, x2",
        "msr    tcr_el2, x1",
        "msr    ttbr0_el2, x0",
        "isb",
        "tlbi   alle2",
        "tlbi   alle1",
        "ic     iallu",
        "dsb    nsh",
        "isb",
        "msr    sctlr_el2, x3",
        "isb",
        "ret",
        off = const SCTLR_OFF,
    )
}
