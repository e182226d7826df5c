//! What a read of 4 KiB costs from a disk that another domain serves, through a driver that knows nothing of who serves it.
//!
//! A sample is the whole request: the driver puts it into the ring and notifies, this vCPU sleeps, the backend reads its RAM
//! disk and completes it, the interrupt is acknowledged in the device and in the interrupt controller, and the driver takes the
//! data. Each disk has a backend domain of its own.

use guest_runtime::disk::Disk;
use guest_runtime::gic::Gic;
use guest_runtime::hypercall::{self, DOMID_SELF, control};
use portunus::abi::dm_op::MAX_SERVERS;

use crate::operations;
use crate::row::{self, is_wanted, row, unavailable};

/// Bytes of a request.
const REQUEST: usize = 4096;
/// Bytes of registers that a device has if its manifest node says `portunus,accel`.
const ACCEL_SIZE: u64 = 4096;

/// Prints the rows of the first accelerated disk and of the first other one.
pub(crate) fn measure(gic: Gic) {
    let mut accel = None;
    let mut plain = None;
    let mut disks = 0;
    while let Some(disk) = Disk::open_nth(gic, disks).expect("the disk's driver works") {
        disks += 1;
        if disk.registers.end - disk.registers.start >= ACCEL_SIZE {
            accel.get_or_insert(disk);
        } else {
            plain.get_or_insert(disk);
        }
    }
    match &mut accel {
        Some(disk) => {
            reads("blk_read_4k_accel", disk);
            exits("blk_sync_exits_accel", disk);
        }
        None => {
            for name in ["blk_read_4k_accel", "blk_sync_exits_accel"] {
                unavailable(name, "no disk of this domain has portunus,accel");
            }
        }
    }
    match &mut plain {
        Some(disk) => reads("blk_read_4k_plain", disk),
        None => unavailable("blk_read_4k_plain", "every disk of this domain has portunus,accel"),
    }
}

fn reads(name: &str, disk: &mut Disk) {
    let mut data = [0; REQUEST];
    row(name, || {
        operations::between_marks(|| disk.read(0, &mut data).expect("a sector that is there can be read"))
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
