//! A domain that shares nothing, and tries to.

use guest_runtime::{attempt, device_tree, hypercall, mmu, println, psci};
use portunus::abi::HypercallError;

use crate::{PORT, fail};

/// The domains that share, and where each sees the region.
const OTHERS: [(u16, u64); 2] = [(1, 0x6000_0000), (2, 0x7000_0000)];
/// A frame of its own map with nothing in it.
const FREE: u64 = 0x5000_0000 >> 12;
/// A port that nobody has.
const NONE: u32 = 900;

pub(crate) fn run() -> ! {
    attempt::init();
    let mut refused = 0;
    let mut expect = |holds: bool, what: core::fmt::Arguments<'_>| {
        if !holds {
            fail(what);
        }
        refused += 1;
    };
    let reserved = device_tree::device_tree().find_node("/reserved-memory");
    expect(reserved.is_none(), format_args!("its tree names shared memory"));
    for (domain, address) in OTHERS {
        // SAFETY: nothing of this guest is there.
        unsafe { mmu::map(address..address + 4096, mmu::Attribute::Normal) };
        let read = attempt::read_u32(address);
        expect(
            read.is_err_and(|fault| fault.is_data_abort()),
            format_args!("it reads {address:#x} as {read:x?}"),
        );
        let mut errors = [0];
        // SAFETY: nothing is at that frame.
        let mapped = unsafe { hypercall::memory::map_foreign(domain, &[address >> 12], &[FREE], &mut errors) };
        expect(
            mapped.is_ok() && errors == [HypercallError::NotPermitted.entry()],
            format_args!("mapping the region of domain {domain}: {mapped:?}, {errors:?}"),
        );
        let bound = hypercall::bind_interdomain(domain, PORT);
        expect(
            bound.is_err(),
            format_args!("binding to a static port of domain {domain}: {bound:?}"),
        );
        let offered = hypercall::alloc_unbound(domain);
        expect(
            offered == Err(HypercallError::NotPermitted),
            format_args!("offering a port to domain {domain}: {offered:?}"),
        );
    }
    for port in [PORT, 0, NONE, 1024, u32::MAX] {
        let sent = hypercall::send(port);
        expect(sent.is_err(), format_args!("sending by port {port}: {sent:?}"));
    }
    println!("stranger: refused {refused} times, as it should be");
    psci::system_off()
}
