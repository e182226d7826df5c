//! When this backend crashes, for scenarios that kill it at every step of its work.
//!
//! A step is a store to a guest's memory or to a state page, a request to a disk, an answer, an interrupt. With the boot
//! argument `lives=N` it crashes before the n-th step of its n-th life, and lives on in life N + 1 (a domain's first life
//! is 1; `portunus,restarts` in its device tree counts the others). Its disks then tell the life in their names, so that a
//! guest can see how far it is. With `nonsense=DEVICE` it overwrites the state page of that device before step
//! `nonsense-at=N` of its first life, and crashes.

use core::sync::atomic::{AtomicU64, Ordering};

use alloc::format;
use guest_runtime::{device_tree, hypercall, println, psci};
use portunus::abi::sched::ShutdownReason;

use crate::state_page::MappedPage;

/// Steps up to the crash, that one included; 0: none comes.
static LEFT: AtomicU64 = AtomicU64::new(0);
/// Where the page is that is overwritten then; 0: none is.
static VICTIM: AtomicU64 = AtomicU64::new(0);

fn life() -> u64 {
    u64::from(device_tree::restarts()) + 1
}

/// Reads the boot arguments.
pub(crate) fn begin() {
    let life = life();
    if let Some(lives) = device_tree::boot_number("lives") {
        if life <= lives {
            LEFT.store(life, Ordering::Relaxed);
        } else {
            println!("backend: lived through {lives} lives");
        }
    }
    if let Some(step) = device_tree::boot_number("nonsense-at").filter(|_| life == 1) {
        LEFT.store(step, Ordering::Relaxed);
    }
}

/// A device has this state page.
pub(crate) fn remember(device: &str, page: MappedPage) {
    let victim = device_tree::boot_arguments().find_map(|word| word.strip_prefix("nonsense="));
    if victim == Some(device) {
        VICTIM.store(page.address(), Ordering::Relaxed);
    }
}

/// The name of a disk.
pub(crate) fn disk_id(device: &str) -> [u8; 20] {
    match device_tree::boot_number("lives") {
        Some(_) => portunus_virtio::disk::disk_id(&format!("life {}", life())),
        None => portunus_virtio::disk::disk_id(device),
    }
}

/// One more step of the work.
#[inline]
pub(crate) fn step() {
    let left = LEFT.load(Ordering::Relaxed);
    if left != 0 {
        LEFT.store(left - 1, Ordering::Relaxed);
        if left == 1 {
            die();
        }
    }
}

#[cold]
fn die() -> ! {
    let victim = VICTIM.load(Ordering::Relaxed);
    if victim != 0 {
        // SAFETY: `remember` got it from a page.
        unsafe { MappedPage::at(victim) }.scribble();
    }
    let error = hypercall::shutdown(ShutdownReason::Crash);
    println!("backend: FAILED: it does not crash: {error:?}");
    psci::system_off()
}
