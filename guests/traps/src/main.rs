//! A guest that makes every trap it can.
//!
//! *Served accesses.* Each shape of load and store goes to a range behind which another domain stands, and prints a line
//! that begins with `CASE` and says what the registers and the memory became. Without a hypervisor the same addresses are
//! RAM; every line must be the same.
//!
//! *Traps.* Under the hypervisor (known by a device at those addresses in the device tree) it also makes accesses that
//! leave the range, uses registers and instructions that trap, and checks each by itself against what a guest must see.
#![no_std]
#![no_main]

mod checks;
mod encoding;
mod executor;
mod refused;
mod served;
mod trapped;

use core::ops::Range;

use checks::Checks;
use executor::Executor;
use guest_runtime::mmu::{self, Attribute};
use guest_runtime::{device_tree, println, psci, virtio};
use refused::Refused;
use served::Served;
use trapped::Trapped;

guest_runtime::entry!(main);

/// The served range, behind the RAM of the guest: see the manifest.
const SERVED: Range<u64> = 0x4400_0000..0x4400_2000;
/// A device that ends within its page.
const EIGHTH: Range<u64> = 0x4400_4000..0x4400_4200;
/// Nobody is there.
const BEHIND: u64 = 0x4400_6000;
/// A page of code. LDR (literal) reaches the served range from there.
const CODE: u64 = SERVED.start - 0x8_0000;

fn main() -> ! {
    let mut served_by_another = false;
    virtio::each_mmio(|registers, _| served_by_another |= registers == SERVED);
    // Blocks of 2 MiB: what the manifest serves or leaves empty behind the range is in it, too.
    // SAFETY: nothing of this guest is there.
    unsafe { mmu::map(SERVED, Attribute::Normal) };
    let tree = device_tree::extent();
    assert!(
        tree.end <= CODE || tree.start >= CODE + 0x1000,
        "the device tree is where the code should be"
    );
    // SAFETY: RAM, and nothing is there: neither image nor tree, and the heap is not used.
    let executor = unsafe { Executor::new(CODE) };

    let mut served = Served::new(&executor, SERVED);
    served.run();
    println!("traps: {} accesses made", served.cases());
    let mut checks = Checks::default();
    if served_by_another {
        let checks = &mut checks;
        Trapped {
            executor: &executor,
            checks,
        }
        .run();
        let mut refused = Refused {
            executor: &executor,
            checks,
        };
        refused.run();
        for (name, table) in [("in a device", SERVED.start), ("where nobody is", BEHIND)] {
            with_table_at(table, |virtual_address| refused.walks(virtual_address, name));
        }
    }
    checks.conclude(served.cases());
    psci::system_off()
}

/// Calls `test` with a virtual address whose level-2 table is said to be at `table`.
fn with_table_at(table: u64, test: impl FnOnce(u64)) {
    const GIB: u64 = 200;
    const ADDRESS: u64 = 0x0000_ffff_ffff_f000;
    let root: u64;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mrs {}, ttbr0_el1", out(reg) root, options(nostack, preserves_flags)) };
    // SAFETY: the runtime's map is an identity map of 40 bits: entry 0 of level 0 points to the table of the first 512 GiB.
    let level1 = unsafe { core::ptr::read_volatile((root & ADDRESS) as *const u64) } & ADDRESS;
    let entry = (level1 + 8 * GIB) as *mut u64;
    let replace = |new: u64| {
        // SAFETY: nothing is at those addresses, whatever they are mapped to.
        unsafe {
            let old = core::ptr::replace(entry, new);
            core::arch::asm!(
                "dsb ishst",
                "tlbi vmalle1",
                "dsb ish",
                "isb",
                options(nostack, preserves_flags)
            );
            old
        }
    };
    let old = replace(table | 3);
    test(GIB << 30);
    replace(old);
}
