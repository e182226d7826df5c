//! What a read of 4 KiB costs from a disk that another domain serves, through a driver that knows nothing of who serves it.
//!
//! A sample is the whole request: the driver puts it into the ring and notifies, this vCPU sleeps, the backend reads its RAM
//! disk and completes it, the interrupt is acknowledged in the device and in the interrupt controller, and the driver takes the
//! data. Each disk has a backend domain of its own. A request has 4 KiB, or as many bytes as the boot argument `request=N` says.

use alloc::vec;

use guest_runtime::device_tree;
use guest_runtime::disk::{Disk, Found};
use guest_runtime::dma::{GrantHal, Reach, WindowHal};
use guest_runtime::gic::Gic;
use guest_runtime::hypercall::{self, DOMID_SELF, control};
use guest_runtime::virtio::{Hal, IdentityHal};
use portunus::abi::dm_op::MAX_SERVERS;

use crate::operations;
use crate::row::{self, is_wanted, row, unavailable};

/// Bytes of a request, and where they begin.
const REQUEST: usize = 4096;
const PAGE: usize = 4096;
/// Bytes of registers that a device has if its manifest node says `portunus,accel`.
const ACCEL_SIZE: u64 = 4096;

/// Prints the rows of the first disk of each kind.
pub(crate) fn measure(gic: Gic) {
    let disks = || (0..).map_while(Found::nth);
    let has = |accel: bool, right: fn(&Reach) -> bool| {
        disks().find(|found| right(&found.reach) && is_accelerated(found) == accel)
    };
    let whole = |reach: &Reach| *reach == Reach::All;
    match has(true, whole) {
        Some(found) => {
            let mut disk = open::<IdentityHal>(gic, found);
            reads("blk_read_4k_accel", &mut disk);
            exits("blk_sync_exits_accel", &mut disk);
        }
        None => {
            for name in ["blk_read_4k_accel", "blk_sync_exits_accel"] {
                unavailable(name, "no disk of this domain has portunus,accel");
            }
        }
    }
    match has(true, |reach| matches!(reach, Reach::Window(_))) {
        Some(found) => {
            if let Reach::Window(window) = &found.reach {
                WindowHal::use_window(window);
            }
            reads("blk_read_4k_window", &mut open::<WindowHal>(gic, found));
        }
        None => unavailable("blk_read_4k_window", "no disk of this domain has a window"),
    }
    match has(true, |reach| matches!(reach, Reach::Grants(_))) {
        Some(found) => {
            if let Reach::Grants(backend) = found.reach {
                GrantHal::use_backend(backend);
            }
            reads("blk_read_4k_grants", &mut open::<GrantHal>(gic, found));
        }
        None => unavailable("blk_read_4k_grants", "no disk of this domain is granted its memory"),
    }
    match has(false, whole) {
        Some(found) => reads("blk_read_4k_plain", &mut open::<IdentityHal>(gic, found)),
        None => unavailable("blk_read_4k_plain", "every disk of this domain has portunus,accel"),
    }
}

fn is_accelerated(found: &Found) -> bool {
    found.registers.end - found.registers.start >= ACCEL_SIZE
}

fn open<H: Hal>(gic: Gic, found: Found) -> Disk<H> {
    Disk::start(gic, found).expect("the disk's driver works")
}

fn reads<H: Hal>(name: &str, disk: &mut Disk<H>) {
    let length = device_tree::boot_number("request").map_or(REQUEST, |bytes| bytes as usize);
    let mut data = vec![0; length + PAGE];
    let start = data.as_ptr().align_offset(PAGE);
    let data = &mut data[start..start + length];
    row(name, || {
        operations::between_marks(|| disk.read(0, data).expect("a sector that is there can be read"))
    });
}

/// How often the vCPU waits for a backend in one request, rounded up over all of them: one in a thousand counts.
fn exits(name: &str, disk: &mut Disk) {
    if !is_wanted(name) {
        return;
    }
    let mut data = [0; REQUEST];
    let mut read = || disk.read(0, &mut data).expect("a sector that is there can be read");
    for _ in 0..row::WARM_UP {
        read();
    }
    let samples = row::samples() as u64;
    let before = waits();
    for _ in 0..samples {
        read();
    }
    match (before, waits()) {
        (Ok(before), Ok(after)) => row::print(name, &mut [(after - before).div_ceil(samples)]),
        _ => unavailable(name, "the hypervisor does not tell this domain of its servers"),
    }
}

/// Requests of this domain that its servers have answered or lost.
fn waits() -> hypercall::Result<u64> {
    let servers = control::domain(DOMID_SELF)?.servers;
    let ids = (0..MAX_SERVERS as u16).filter(|id| servers >> id & 1 != 0);
    ids.map(|id| control::server(DOMID_SELF, id, 0).map(|server| server.answered + server.failed))
        .sum()
}
