//! One of many guests: each prints, counts ticks on every vCPU, sends an SGI from vCPU to vCPU in a ring, and an event to
//! the domain before it, and powers off once it has heard from the one behind.
//!
//! The manifest connects port [`NEXT`] with the domain behind and port [`PREVIOUS`] with the one before, where there is
//! one. Of a static channel only the later domain's port starts with an event, which is therefore not waited for.
#![no_std]
#![no_main]

extern crate alloc;

use core::sync::atomic::{AtomicU32, Ordering};

use alloc::vec::Vec;
use guest_runtime::events::Events;
use guest_runtime::gic::Gic;
use guest_runtime::{device_tree, hypercall, println, psci, smp, timer, wait_for_interrupt};

guest_runtime::entry!(main);

/// Ticks of each vCPU, and microseconds between them.
const TICKS: u32 = 10;
const TICK: u64 = 2_000;
/// How often the SGI goes round.
const ROUNDS: u32 = 20;
const SGI: u32 = 3;
const PREVIOUS: u32 = 1;
const NEXT: u32 = 2;

/// vCPUs that are through, and how many there are.
static FINISHED: AtomicU32 = AtomicU32::new(0);
static VCPUS: AtomicU32 = AtomicU32::new(0);

/// One vCPU, and what has come to it.
struct Vcpu {
    gic: Gic,
    timer: u32,
    ticks: u32,
    sgis: u32,
    others: u32,
}

impl Vcpu {
    fn new() -> Self {
        let (gic, timer) = (Gic::init(), timer::intid());
        gic.enable(SGI, true);
        gic.enable(timer, false);
        Self {
            gic,
            timer,
            ticks: 0,
            sgis: 0,
            others: 0,
        }
    }

    /// Sleeps and takes interrupts until `done`. They stay masked at the CPU: a pending one still ends the sleep.
    fn wait_until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            match self.gic.acknowledge() {
                Some(acknowledged) => {
                    match acknowledged.intid {
                        SGI => self.sgis += 1,
                        timer if timer == self.timer => {
                            timer::stop();
                            self.ticks += 1;
                        }
                        _ => self.others += 1,
                    }
                    self.gic.end(acknowledged);
                }
                None => wait_for_interrupt(),
            }
        }
    }

    /// Ticks, then takes the SGI on as often as it comes round.
    fn run(&mut self, index: usize, mpidrs: &[u64]) {
        for tick in 1..=TICKS {
            timer::set_deadline(timer::now() + timer::ticks(TICK));
            self.wait_until(|vcpu| vcpu.ticks == tick);
        }
        let next = mpidrs[(index + 1) % mpidrs.len()];
        for round in 1..=ROUNDS {
            // The first one starts each round and ends the one before.
            if index == 0 {
                self.gic.send_to(SGI, next);
                self.wait_until(|vcpu| vcpu.sgis == round);
            } else {
                self.wait_until(|vcpu| vcpu.sgis == round);
                self.gic.send_to(SGI, next);
            }
        }
        FINISHED.fetch_add(1, Ordering::Release);
    }
}

fn mpidrs() -> Vec<u64> {
    let mut all = Vec::new();
    smp::each_vcpu(|mpidr| all.push(mpidr));
    all
}

extern "C" fn secondary(index: u64) -> ! {
    Vcpu::new().run(index as usize, &mpidrs());
    let error = psci::cpu_off();
    panic!("CPU_OFF returned {error:?}");
}

fn main() -> ! {
    let mpidrs = mpidrs();
    println!("crowd: hello from {} vCPUs", mpidrs.len());
    let mut vcpu = Vcpu::new();
    let events = Events::init().expect("the manifest gives channels");
    vcpu.gic.enable(events.upcall, false);
    // The manifest's boot arguments say on which sides there is a domain.
    let [has_previous, has_next] = ["before", "behind"].map(|side| device_tree::boot_number(side) == Some(1));
    for (port, is_there) in [(PREVIOUS, has_previous), (NEXT, has_next)] {
        if is_there {
            hypercall::unmask(port).expect("the manifest gives this port");
        }
    }
    VCPUS.store(mpidrs.len() as u32, Ordering::Relaxed);
    for (index, mpidr) in (0..).zip(&mpidrs).skip(1) {
        smp::start(*mpidr, secondary, index).expect("a vCPU that is off starts");
    }
    vcpu.run(0, &mpidrs);
    while FINISHED.load(Ordering::Acquire) < VCPUS.load(Ordering::Relaxed) {
        core::hint::spin_loop();
    }
    println!("crowd: {TICKS} ticks and {ROUNDS} rounds on each vCPU");

    if has_previous {
        hypercall::send(PREVIOUS).expect("the domain before is there until it has heard from this one");
    }
    let mut heard = !has_next;
    loop {
        events.take(|port| heard |= port == NEXT);
        if heard {
            break;
        }
        let before = vcpu.others;
        vcpu.wait_until(|vcpu| vcpu.others != before);
    }
    println!(
        "crowd: heard from {} domain behind",
        if has_next { "the" } else { "no" }
    );
    psci::system_off()
}
