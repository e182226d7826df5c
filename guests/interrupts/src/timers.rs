//! Private interrupts: the two timers of each vCPU, and those that no device has.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use guest_runtime::gic::{Acknowledged, Gic};
use guest_runtime::timer::{now, ticks};
use guest_runtime::{exceptions, wait_for_interrupt};

use crate::recorder::{count, gic, masked, own, set_hook, settle, wait_until};
use crate::registers::{self, ISPENDR};
use crate::worker::{self, OTHER};
use crate::{Bench, Case, Needs, Outcome};

pub(crate) const CASES: &[Case] = &[
    (
        "the virtual timer interrupts a vCPU that spins",
        Needs::Nothing,
        virtual_spinning,
    ),
    (
        "the virtual timer interrupts a vCPU that sleeps",
        Needs::Nothing,
        virtual_sleeping,
    ),
    (
        "the physical timer interrupts a vCPU that spins",
        Needs::Nothing,
        physical_spinning,
    ),
    (
        "the physical timer interrupts a vCPU that sleeps",
        Needs::Nothing,
        physical_sleeping,
    ),
    (
        "both timers of both vCPUs interrupt a hundred times each",
        Needs::Nothing,
        all_timers,
    ),
    (
        "a timer interrupts again while its time has passed",
        Needs::Nothing,
        level,
    ),
    (
        "the physical timer does not interrupt when it is switched off while it is pending",
        Needs::Nothing,
        withdrawn,
    ),
    (
        "a PPI without a device is made pending and taken back by registers",
        Needs::Nothing,
        unused,
    ),
    ("PPIs of one vCPU are not those of the other", Needs::Nothing, private),
];

const VIRTUAL: u32 = 27;
const PHYSICAL: u32 = 30;
/// A PPI that no device of either machine has.
const UNUSED: u32 = 20;

fn start_virtual(microseconds: u64) {
    guest_runtime::timer::set_deadline(now() + ticks(microseconds));
}

fn start_physical(microseconds: u64) {
    // SAFETY: the physical timer is this guest's.
    unsafe {
        asm!(
            "msr cntp_tval_el0, {}", "msr cntp_ctl_el0, {}", "isb",
            in(reg) ticks(microseconds), in(reg) 1_u64, options(nostack, preserves_flags)
        );
    }
}

fn stop(intid: u32) {
    match intid {
        VIRTUAL => guest_runtime::timer::stop(),
        // SAFETY: as above.
        PHYSICAL => unsafe { asm!("msr cntp_ctl_el0, xzr", "isb", options(nostack, preserves_flags)) },
        _ => {}
    }
}

fn stop_taken(_: &Gic, acknowledged: Acknowledged) {
    stop(acknowledged.intid);
}

fn one(gic: &Gic, intid: u32, start: fn(u64), asleep: bool) -> Outcome {
    gic.enable(intid, false);
    set_hook(stop_taken);
    for round in 1..=20 {
        let begun = now();
        start(500);
        if asleep {
            while count(0, intid) < round {
                exceptions::disable_interrupts();
                if count(0, intid) < round {
                    wait_for_interrupt();
                }
                exceptions::enable_interrupts();
            }
        } else {
            ensure!(
                wait_until(|| count(0, intid) >= round),
                "it does not come in round {round}"
            );
        }
        let taken = now() - begun;
        ensure!(taken >= ticks(500), "it came after {taken} ticks");
    }
    settle();
    ensure!(count(0, intid) == 20, "{} came in 20 rounds", count(0, intid));
    Ok(())
}

fn virtual_spinning(bench: &Bench) -> Outcome {
    one(bench.gic, VIRTUAL, start_virtual, false)
}
fn virtual_sleeping(bench: &Bench) -> Outcome {
    one(bench.gic, VIRTUAL, start_virtual, true)
}
fn physical_spinning(bench: &Bench) -> Outcome {
    one(bench.gic, PHYSICAL, start_physical, false)
}
fn physical_sleeping(bench: &Bench) -> Outcome {
    one(bench.gic, PHYSICAL, start_physical, true)
}

const ROUNDS: u32 = 100;

fn restart(_: &Gic, acknowledged: Acknowledged) {
    match acknowledged.intid {
        intid if count(own(), intid) >= ROUNDS => stop(intid),
        VIRTUAL => start_virtual(100),
        PHYSICAL => start_physical(150),
        _ => {}
    }
}

fn begin_both() {
    gic().enable(VIRTUAL, false);
    gic().enable(PHYSICAL, false);
    start_virtual(100);
    start_physical(100);
}

fn all_timers(_: &Bench) -> Outcome {
    set_hook(restart);
    ensure!(worker::run(begin_both), "vCPU 1 hangs");
    begin_both();
    let counts = || {
        [
            count(0, VIRTUAL),
            count(0, PHYSICAL),
            count(OTHER, VIRTUAL),
            count(OTHER, PHYSICAL),
        ]
    };
    let come = wait_until(|| counts() == [ROUNDS; 4]);
    settle();
    ensure!(come && counts() == [ROUNDS; 4], "{:?} came", counts());
    Ok(())
}

fn level(bench: &Bench) -> Outcome {
    let virtual_timer = (VIRTUAL, start_virtual as fn(u64));
    let physical_timer = (PHYSICAL, start_physical as fn(u64));
    // The virtual timer is the hardware's: QEMU's GICv2 does not look at the line when a virtual interface deactivates.
    let timers = match bench.gic {
        Gic::V2(_) => &[physical_timer][..],
        Gic::V3(_) => &[virtual_timer, physical_timer],
    };
    for (intid, start) in timers.iter().copied() {
        bench.gic.enable(intid, false);
        set_hook(|_, acknowledged| {
            if count(own(), acknowledged.intid) >= 5 {
                stop(acknowledged.intid);
            }
        });
        start(10);
        let come = wait_until(|| count(0, intid) >= 5);
        settle();
        ensure!(come && count(0, intid) == 5, "{intid} came {} times", count(0, intid));
    }
    Ok(())
}

fn withdrawn(bench: &Bench) -> Outcome {
    // The virtual timer's registers do not trap, so its interrupt may come although it was switched off: a hypervisor
    // that put it into a list register does not hear of that.
    bench.gic.enable(PHYSICAL, false);
    let pending = masked(|| {
        start_physical(10);
        let pending = wait_until(|| registers::get(bench.gic, ISPENDR, PHYSICAL));
        stop(PHYSICAL);
        pending && wait_until(|| !registers::get(bench.gic, ISPENDR, PHYSICAL))
    });
    settle();
    ensure!(
        pending && count(0, PHYSICAL) == 0,
        "pending: {pending}, it came {} times",
        count(0, PHYSICAL)
    );
    Ok(())
}

fn unused(bench: &Bench) -> Outcome {
    bench.gic.enable(UNUSED, true);
    bench.gic.set_pending(UNUSED);
    ensure!(wait_until(|| count(0, UNUSED) == 1), "it does not come");
    masked(|| {
        bench.gic.set_pending(UNUSED);
        bench.gic.clear_pending(UNUSED);
    });
    settle();
    ensure!(count(0, UNUSED) == 1, "it came {} times", count(0, UNUSED));
    Ok(())
}

static OTHERS_PRIORITY: AtomicU32 = AtomicU32::new(0);

fn private(bench: &Bench) -> Outcome {
    bench.gic.enable(UNUSED, true);
    bench.gic.set_priority(UNUSED, 0x40);
    let other = worker::run(|| {
        gic().enable(UNUSED, true);
        gic().set_priority(UNUSED, 0x80);
        gic().set_pending(UNUSED);
        OTHERS_PRIORITY.store(registers::priority(gic(), UNUSED).into(), Ordering::SeqCst);
    });
    ensure!(
        other && wait_until(|| count(OTHER, UNUSED) == 1),
        "vCPU 1 does not get its own"
    );
    let priorities = (
        registers::priority(bench.gic, UNUSED),
        OTHERS_PRIORITY.load(Ordering::SeqCst),
    );
    settle();
    ensure!(
        count(0, UNUSED) == 0 && priorities == (0x40, 0x80),
        "vCPU 0 got {}, priorities {priorities:x?}",
        count(0, UNUSED)
    );
    Ok(())
}
