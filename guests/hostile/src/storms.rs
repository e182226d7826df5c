//! Too much of what is allowed: SGIs, sleeps, events, ports.

use core::arch::asm;

use guest_runtime::exceptions::disable_interrupts;
use guest_runtime::{attempt, hypercall, timer, wait_for_interrupt};

use crate::helper::{self, Task};
use crate::{Attacker, CHANNEL};

/// SGIs to all, to itself, to nobody.
pub(crate) fn interrupts(attacker: &mut Attacker) -> u64 {
    const TRIES: u64 = 20_000;
    const GICD_SGIR: usize = 0xf00;
    for _ in 0..TRIES {
        let value = attacker.random.next();
        attempt::run(|| {
            // SAFETY: ICC_SGI1R_EL1 sends interrupts; where it does not exist it is skipped.
            unsafe { asm!("msr S3_0_C12_C11_5, {}", in(reg) value, options(nostack)) };
        });
        attempt::run(|| attacker.gic.distributor().write(GICD_SGIR, value as u32));
        attacker.gic.send_to_self(attacker.random.below(16) as u32);
        if attacker.random.below(4) == 0 {
            attacker.end_interrupts();
        }
    }
    attacker.end_interrupts();
    TRIES
}

/// Sleeps that end at once or after some microseconds, in every way to sleep.
pub(crate) fn sleeps(attacker: &mut Attacker) -> u64 {
    const TRIES: u64 = 5_000;
    for _ in 0..TRIES {
        timer::set_deadline(timer::now() + timer::ticks(attacker.random.below(30)));
        match attacker.random.below(4) {
            0 => wait_for_interrupt(),
            1 => {
                let _ = hypercall::block();
                disable_interrupts();
            }
            2 => {
                let _ = hypercall::yield_now();
            }
            // SAFETY: waits at the most.
            _ => unsafe { asm!("sevl", "wfe", "wfe", options(nostack)) },
        }
        attacker.end_interrupts();
    }
    timer::stop();
    TRIES
}

/// Events to a backend that has other things to do.
pub(crate) fn events(attacker: &mut Attacker) -> u64 {
    const TRIES: u64 = 20_000;
    for _ in 0..TRIES {
        if let Err(error) = hypercall::send(CHANNEL) {
            attacker.fail(format_args!("sending: {error}"));
            break;
        }
    }
    TRIES
}

/// Every port that there is, and all given back.
pub(crate) fn ports(attacker: &mut Attacker) -> u64 {
    /// More than a domain may have.
    const MANY: usize = 2_000;
    let mut ports = alloc::vec::Vec::new();
    for _ in 0..MANY {
        match hypercall::alloc_unbound(hypercall::DOMID_SELF) {
            Ok(port) => ports.push(port),
            Err(_) => break,
        }
    }
    if ports.len() == MANY || ports.is_empty() {
        attacker.fail(format_args!("{} ports", ports.len()));
    }
    for port in &ports {
        if let Err(error) = hypercall::close(*port) {
            attacker.fail(format_args!("closing port {port}: {error}"));
        }
    }
    ports.len() as u64
}

/// Another vCPU writes the words of the event channels all the time, while others send.
pub(crate) fn hammer(attacker: &mut Attacker) -> u64 {
    /// In microseconds.
    const TIME: u64 = 500_000;
    helper::set(Task::Hammer);
    let end = timer::now() + timer::ticks(TIME);
    let mut tries = 0;
    while timer::now() < end {
        // The other end sends as fast as it can, too.
        let _ = hypercall::send(CHANNEL);
        let _ = hypercall::unmask(CHANNEL);
        attacker.events.take(drop);
        attacker.end_interrupts();
        tries += 1;
    }
    helper::set(Task::Devices);
    // Whatever the words hold now, sending works; nothing is masked.
    for word in attacker.events.words() {
        word.store(0, core::sync::atomic::Ordering::Relaxed);
    }
    if let Err(error) = hypercall::send(CHANNEL) {
        attacker.fail(format_args!("sending afterwards: {error}"));
    }
    tries
}
