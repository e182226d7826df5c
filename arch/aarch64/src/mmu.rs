//! Stage 1 at EL2: an identity map of the Image (write xor execute, guard pages under every stack), of all RAM that
//! guests may use (Normal write-back, once and for all), and of the UART and the GIC. Nothing else is mapped.

use crate::entry::{SCTLR_EARLY, SCTLR_OFF, SCTLR_ON};
use crate::layout;
use crate::sysreg::{dsb_ish, field, isb, read_sysreg};
use aarch64_paging::MapError;
use aarch64_paging::descriptor::El23Attributes as Attributes;
use aarch64_paging::idmap::IdMap;
use aarch64_paging::paging::{El2, MemoryRegion};
use core::arch::naked_asm;
use core::ops::Range;
use portunus::ids::MAX_PCPUS;
use portunus::sync::Mutex;

/// MAIR_EL2: 0 Normal write-back read/write-allocate, 1 Device-nGnRE.
const MAIR: u64 = 0x04_ff;
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

static MAP: Mutex<Option<IdMap<El2>>> = Mutex::new(None);

/// TCR_EL2 of this pCPU: as many physical address bits as it has, 48 at most.
fn tcr() -> u64 {
    TCR | field(read_sysreg!("id_aa64mmfr0_el1"), 0).min(5) << 16
}

/// Builds the real tables and goes over to them. `ram` are the banks, `devices` the registers that EL2 uses.
///
/// # Errors
/// A range that cannot be mapped: beyond 48 bits, or overlapping another with other rights.
pub(crate) fn init(
    ram: impl Iterator<Item = Range<usize>>,
    devices: impl Iterator<Item = Range<usize>>,
) -> Result<(), MapError> {
    let mut map = IdMap::new(ROOT_LEVEL, El2);
    let image = layout::image();
    for bank in ram {
        for part in [
            bank.start..bank.end.min(image.start),
            bank.start.max(image.end)..bank.end,
        ] {
            if part.start < part.end {
                map.map_range(&region(part), DATA)?;
            }
        }
    }
    for device in devices {
        map.map_range(&region(device), DEVICE)?;
    }
    map.map_range(&region(layout::text_start()..layout::text_end()), CODE)?;
    map.map_range(&region(layout::rodata_start()..layout::rodata_end()), CONSTANTS)?;
    map.map_range(&region(layout::relro_start()..layout::relro_end()), CONSTANTS)?;
    map.map_range(&region(layout::data_start()..layout::bss_end()), DATA)?;
    map.map_range(&region(layout::heap_start()..layout::heap_end()), DATA)?;
    for pcpu in 0..MAX_PCPUS {
        map.map_range(&region(layout::exception_stack(pcpu)), DATA)?;
        map.map_range(&region(layout::main_stack(pcpu)), DATA)?;
    }
    map.mark_active();
    // SAFETY: the new tables map everything that runs and is used, with the same memory type as the early ones.
    unsafe { switch_to_final(map.root_address().0) };
    *MAP.lock() = Some(map);
    Ok(())
}

/// Maps more device registers, which were not mapped: no translation of them is cached anywhere.
///
/// # Errors
/// A range that cannot be mapped, or that overlaps memory.
pub(crate) fn add_device(device: Range<usize>) -> Result<(), MapError> {
    if let Some(map) = MAP.lock().as_mut() {
        map.map_range(&region(device), DEVICE)?;
    }
    dsb_ish();
    isb();
    Ok(())
}

/// The root of the tables that `init` built; what a secondary pCPU starts with.
pub(crate) fn root() -> Option<usize> {
    MAP.lock().as_ref().map(|map| map.root_address().0)
}

fn region(range: Range<usize>) -> MemoryRegion {
    MemoryRegion::new(range.start, range.end)
}

/// Makes the early tables, at `root`, this pCPU's stage 1.
///
/// # Safety
/// As [`load_tables`].
pub(crate) unsafe extern "C" fn switch_to_early(root: usize) {
    dsb_ish();
    // SAFETY: the caller's promise.
    unsafe { load_tables(root as u64, tcr(), MAIR, SCTLR_EARLY) }
}

/// Makes the real tables, at `root`, this pCPU's stage 1, with write xor execute.
///
/// # Safety
/// As [`load_tables`].
pub(crate) unsafe extern "C" fn switch_to_final(root: usize) {
    dsb_ish();
    // SAFETY: the caller's promise.
    unsafe { load_tables(root as u64, tcr(), MAIR, SCTLR_ON) }
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
