//! Takes interrupts on both vCPUs and records them: how often each came, and in which order.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use alloc::vec::Vec;

use guest_runtime::exceptions::{self, ExceptionFrame};
use guest_runtime::gic::{Acknowledged, Gic};
use guest_runtime::{let_others_run, smp, timer};
use spin::Once;

/// vCPUs.
pub(crate) const VCPUS: usize = 2;
const INTIDS: usize = 1024;
const ORDER: usize = 1024;

/// Called between acknowledge and end, on the vCPU that took it.
pub(crate) type Hook = fn(&Gic, Acknowledged);

struct Log {
    gic: Once<Gic>,
    counts: [AtomicU32; INTIDS],
    order: [AtomicU32; ORDER],
    length: AtomicUsize,
    ended: AtomicUsize,
}

static LOGS: [Log; VCPUS] = [const {
    Log {
        gic: Once::new(),
        counts: [const { AtomicU32::new(0) }; INTIDS],
        order: [const { AtomicU32::new(0) }; ORDER],
        length: AtomicUsize::new(0),
        ended: AtomicUsize::new(0),
    }
}; VCPUS];
static HOOK: AtomicUsize = AtomicUsize::new(0);

/// The number of the executing vCPU.
pub(crate) fn own() -> usize {
    (smp::mpidr() & 0xff) as usize
}

/// The controller as the executing vCPU sees it; set up at the first call.
pub(crate) fn gic() -> &'static Gic {
    LOGS[own()].gic.call_once(Gic::init)
}

/// Takes interrupts by the handler of this module; they stay masked at the executing vCPU until it lets them in.
pub(crate) fn install() {
    exceptions::set_interrupt_handler(handle);
}

/// Replaces what is done with every interrupt beyond recording it.
pub(crate) fn set_hook(hook: Hook) {
    HOOK.store(hook as usize, Ordering::SeqCst);
}

/// Forgets everything. No interrupts are on their way.
pub(crate) fn clear() {
    HOOK.store(0, Ordering::SeqCst);
    for log in &LOGS {
        log.counts.iter().for_each(|count| count.store(0, Ordering::SeqCst));
        log.length.store(0, Ordering::SeqCst);
        log.ended.store(0, Ordering::SeqCst);
    }
}

fn handle(_: &mut ExceptionFrame) {
    let (log, gic) = (&LOGS[own()], gic());
    // An interrupt can be gone by the time it is asked for.
    let Some(acknowledged) = gic.acknowledge() else { return };
    log.counts[acknowledged.intid as usize].fetch_add(1, Ordering::SeqCst);
    let position = log.length.fetch_add(1, Ordering::SeqCst);
    if let Some(slot) = log.order.get(position) {
        slot.store(acknowledged.intid, Ordering::SeqCst);
    }
    let hook = HOOK.load(Ordering::SeqCst);
    if hook != 0 {
        // SAFETY: only `set_hook` stores there, and only `Hook`s.
        let hook = unsafe { core::mem::transmute::<usize, Hook>(hook) };
        hook(gic, acknowledged);
    }
    gic.end(acknowledged);
    log.ended.fetch_add(1, Ordering::SeqCst);
}

/// How often `intid` came to `vcpu`.
pub(crate) fn count(vcpu: usize, intid: u32) -> u32 {
    LOGS[vcpu].counts[intid as usize].load(Ordering::SeqCst)
}

/// How many came to `vcpu`.
pub(crate) fn total(vcpu: usize) -> usize {
    LOGS[vcpu].length.load(Ordering::SeqCst)
}

/// How many of those are ended.
pub(crate) fn ended(vcpu: usize) -> usize {
    LOGS[vcpu].ended.load(Ordering::SeqCst)
}

/// What came to `vcpu`, in that order.
pub(crate) fn order(vcpu: usize) -> Vec<u32> {
    let log = &LOGS[vcpu];
    let taken = log.order.iter().take(total(vcpu));
    taken.map(|intid| intid.load(Ordering::SeqCst)).collect()
}

/// Waits until `condition` holds; `false`: it does not for five seconds.
pub(crate) fn wait_until(condition: impl Fn() -> bool) -> bool {
    let deadline = timer::now() + timer::ticks(5_000_000);
    while !condition() {
        if timer::now() > deadline {
            return false;
        }
        let_others_run();
    }
    true
}

/// Lets what is on its way arrive.
pub(crate) fn settle() {
    let deadline = timer::now() + timer::ticks(2_000);
    while timer::now() < deadline {
        let_others_run();
    }
}

/// Runs `function` with interrupts masked at this vCPU.
pub(crate) fn masked<T>(function: impl FnOnce() -> T) -> T {
    exceptions::disable_interrupts();
    let result = function();
    exceptions::enable_interrupts();
    result
}
