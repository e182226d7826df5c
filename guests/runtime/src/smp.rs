//! Other vCPUs of the guest.

use alloc::alloc::{Layout, alloc};
use alloc::boxed::Box;

use aarch64_cpu::registers::{MPIDR_EL1, Readable};
use dtoolkit::Node;

use crate::device_tree;
use crate::psci::{self, PsciError};

const STACK_SIZE: usize = 64 * 1024;

#[repr(C, align(64))]
struct Start {
    stack_top: u64,
    function: extern "C" fn(u64) -> !,
    argument: u64,
    vectors: u64,
}

/// The affinity bits that name this vCPU (MPIDR_EL1).
pub fn mpidr() -> u64 {
    MPIDR_EL1.get() & 0xff_00ff_ffff
}

/// Calls `visit` with the MPIDR of every vCPU in the device tree, in its order.
pub fn each_vcpu(mut visit: impl FnMut(u64)) {
    let Some(cpus) = device_tree::device_tree().find_node("/cpus") else {
        return;
    };
    for node in cpus.children().filter(|node| node.name_without_address() == "cpu") {
        let reg = node.reg().ok().flatten().and_then(|mut reg| reg.next());
        if let Some(mpidr) = reg.and_then(|reg| reg.address::<u64>().ok()) {
            visit(mpidr);
        }
    }
}

/// Starts the vCPU `mpidr`: MMU on, interrupts off, a stack of its own, at `function` with `argument`.
pub fn start(mpidr: u64, function: extern "C" fn(u64) -> !, argument: u64) -> Result<(), PsciError> {
    unsafe extern "C" {
        static secondary_start: u8;
        static vectors: u8;
    }
    let layout = Layout::from_size_align(STACK_SIZE, 16).expect("a stack is no odd size");
    // SAFETY: the size is not zero.
    let stack = unsafe { alloc(layout) } as u64;
    assert_ne!(stack, 0, "no memory for a stack");
    let start = Box::leak(Box::new(Start {
        stack_top: stack + STACK_SIZE as u64,
        function,
        argument,
        vectors: &raw const vectors as u64,
    }));
    let address = &raw const *start as u64;
    // SAFETY: cleans the line that the vCPU reads before its caches are on.
    unsafe { core::arch::asm!("dc cvac, {}", "dsb sy", in(reg) address, options(nostack, preserves_flags)) };
    psci::cpu_on(mpidr, &raw const secondary_start as u64, address)
}
