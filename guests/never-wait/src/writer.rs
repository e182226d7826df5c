//! The guest whose two vCPUs post, ring and read.
//!
//! vCPU 0 leads: it sets what vCPU 1 is to do, and asks the backend for trouble. Boot arguments: `doorbells=N`, `posts=N` and
//! `requests=N` are of both vCPUs together, `troubles=N` is how often each trouble comes, `rounds=N` how many requests
//! are timed.

mod registers;
mod share;

use core::sync::atomic::{AtomicU32, Ordering};

use guest_runtime::gic::Gic;
use guest_runtime::random::Random;
use guest_runtime::{device_tree, hypercall, let_others_run, println, psci, smp, timer, virtio, wait_for_interrupt};

use crate::device::{
    ACKNOWLEDGEMENT, BUFFERED, Command, DOORBELLS, FALLBACKS, LIFE, LIVE, NAKED, SPOILED, STATUS, VCPUS, WAKES,
};
use registers::Vcpu;

/// Microseconds in which the backend must have seen the last ring.
const SEEN_LIMIT: u64 = 10_000_000;
/// Writes that do not fit into a ring.
const FLOOD: u64 = 3_000;
/// Milliseconds in which the backend does nothing.
const SLEEP: u32 = 20;
/// Writes for each way to spoil the ring's pointers.
const SPOILED_WRITES: u64 = 50;

/// Reads of the page in a row.
const READS: u64 = 256;

/// What vCPU 1 does.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u32)]
enum Task {
    Nothing = 0,
    /// Its half of everything.
    Bulk = 1,
    /// Posts, rings and waits until there is another task.
    Load = 2,
    /// Reads the shadow page until there is another task.
    Read = 3,
    /// Powers off.
    End = 4,
}

static TASK: AtomicU32 = AtomicU32::new(Task::Nothing as u32);
/// How many tasks vCPU 1 has begun.
static BEGUN: AtomicU32 = AtomicU32::new(0);
/// How many of them it has finished.
static DONE: AtomicU32 = AtomicU32::new(0);
static BASE: AtomicU32 = AtomicU32::new(0);

/// Numbers from the boot arguments.
fn number(name: &str) -> u64 {
    device_tree::boot_number(name).unwrap_or(1)
}

pub(crate) fn run() {
    println!("writer: hello");
    let gic = Gic::init();
    let mut device = None;
    virtio::each_mmio(|registers, interrupt| device = Some((registers.start, interrupt)));
    let (base, interrupt) = device.expect("the manifest gives this domain a device");
    BASE.store(base as u32, Ordering::Release);
    let mut vcpu = Vcpu::new(base, 0);
    // The first access that the backend answers: the page is shown since then.
    vcpu.tell_counters();
    let mut others = 0;
    smp::each_vcpu(|mpidr| {
        if mpidr != smp::mpidr() {
            others += 1;
            smp::start(mpidr, second, 0).expect("a vCPU that is there can be started");
        }
    });
    assert_eq!(others, VCPUS - 1, "vCPUs");

    bulk_of_both(&mut vcpu);
    sleeping_backend(&mut vcpu);
    spoiled_pointers(&mut vcpu);
    detached_in_flight(&mut vcpu);
    reborn_while_read(&mut vcpu);
    interrupts(&mut vcpu, &gic, interrupt.intid);
    TASK.store(Task::End as u32, Ordering::Release);
    share::measure(&mut vcpu);
    println!("writer: nothing was lost");
}

/// vCPU 1.
extern "C" fn second(_: u64) -> ! {
    let mut vcpu = Vcpu::new(BASE.load(Ordering::Acquire).into(), 1);
    let mut done = 0;
    loop {
        let task = TASK.load(Ordering::Acquire);
        if task == Task::Nothing as u32 {
            pause();
            continue;
        }
        BEGUN.store(done + 1, Ordering::Release);
        match task {
            1 => {
                bulk(&mut vcpu);
                TASK.store(Task::Nothing as u32, Ordering::Release);
            }
            2 => load(&mut vcpu),
            3 => read(&vcpu),
            _ => {
                let error = psci::cpu_off();
                println!("writer: FAILED: vCPU 1 does not end: {error:?}");
            }
        }
        done += 1;
        DONE.store(done, Ordering::Release);
    }
}

/// Lets the other vCPU run, on this pCPU or on another one.
fn pause() {
    hypercall::yield_now().expect("a vCPU can yield");
    let_others_run();
}

/// Sets what vCPU 1 does meanwhile, and works as soon as it has begun.
fn beside<T>(task: Task, work: impl FnOnce() -> T) -> T {
    let before = DONE.load(Ordering::Acquire);
    TASK.store(task as u32, Ordering::Release);
    while BEGUN.load(Ordering::Acquire) == before {
        pause();
    }
    let result = work();
    if task != Task::Bulk {
        TASK.store(Task::Nothing as u32, Ordering::Release);
    }
    while DONE.load(Ordering::Acquire) == before {
        pause();
    }
    result
}

fn bulk_of_both(vcpu: &mut Vcpu) {
    beside(Task::Bulk, || bulk(vcpu));
    println!(
        "writer: {} rings, {} posted writes, {} requests; {} rings came as events, {} writes did not fit",
        number("doorbells"),
        number("posts"),
        number("requests"),
        vcpu.word(WAKES),
        vcpu.word(FALLBACKS)
    );
}

/// One vCPU's part: rings, posted writes and requests, mixed.
fn bulk(vcpu: &mut Vcpu) {
    let mut left = ["doorbells", "posts", "requests"].map(|name| number(name) / VCPUS as u64);
    let mut random = Random::new(vcpu.index as u64);
    while left.iter().any(|left| *left != 0) {
        let mut choice = random.below(left.iter().sum());
        let kind = left.iter().position(|left| match choice.checked_sub(*left) {
            Some(rest) => {
                choice = rest;
                false
            }
            None => true,
        });
        match kind {
            Some(0) => vcpu.ring(),
            Some(1) => vcpu.post(random.below(2) == 0),
            _ => vcpu.request(),
        }
        if let Some(left) = kind.and_then(|kind| left.get_mut(kind)) {
            *left -= 1;
        }
    }
    all_seen(vcpu, "all of it");
}

/// The backend has seen the last ring, without another one; and the last posted write.
fn all_seen(vcpu: &mut Vcpu, after: &str) {
    let limit = timer::now() + timer::ticks(SEEN_LIMIT);
    while vcpu.seen() != vcpu.rings {
        if timer::now() > limit {
            println!(
                "writer: FAILED: vCPU {} rang {} times, the backend saw {} after {after}",
                vcpu.index,
                vcpu.rings,
                vcpu.seen()
            );
            return;
        }
        pause();
    }
    vcpu.request();
}

/// The backend does nothing for a while: the ring fills, and the writes that do not fit wait.
fn sleeping_backend(vcpu: &mut Vcpu) {
    let before = vcpu.word(FALLBACKS);
    vcpu.command(Command::Sleep, SLEEP);
    for number in 0..FLOOD {
        vcpu.post(number % 3 == 0);
    }
    vcpu.ring();
    all_seen(vcpu, "a sleep");
    let waited = vcpu.word(FALLBACKS) - before;
    if waited == 0 {
        println!("writer: FAILED: {FLOOD} writes fitted into the ring of a backend that slept");
    }
    println!("writer: {FLOOD} writes while the backend slept, {waited} of them waited");
}

/// The backend writes pointers that can't be: nothing is posted, everything comes.
fn spoiled_pointers(vcpu: &mut Vcpu) {
    for way in 0..SPOILED.len() {
        let before = vcpu.word(FALLBACKS);
        vcpu.command(Command::Spoil, way as u32);
        for number in 0..SPOILED_WRITES {
            vcpu.post(number % 2 == 0);
        }
        vcpu.request();
        let waited = u64::from(vcpu.word(FALLBACKS) - before);
        if waited != SPOILED_WRITES {
            println!("writer: FAILED: way {way}: {waited} of {SPOILED_WRITES} writes came as requests");
        }
        vcpu.command(Command::Mend, 0);
        vcpu.post(true);
        vcpu.request();
    }
    println!("writer: {} ways to spoil the pointers", SPOILED.len());
}

/// Kinds go and come back while the other vCPU uses them.
fn detached_in_flight(vcpu: &mut Vcpu) {
    let troubles = number("troubles");
    let mut random = Random::new(7);
    beside(Task::Load, || {
        for _ in 0..troubles {
            let mask = random.choose(&[DOORBELLS, BUFFERED, ACKNOWLEDGEMENT, DOORBELLS | BUFFERED]);
            vcpu.command(Command::Detach, mask);
            for _ in 0..random.below(4) {
                vcpu.post(false);
                vcpu.ring();
            }
            vcpu.command(Command::Attach, mask);
            vcpu.post(true);
            vcpu.ring();
        }
    });
    all_seen(vcpu, "detaching");
    println!(
        "writer: {troubles} times detached and attached, {} rings and {} writes came as requests so far",
        vcpu.word(NAKED),
        vcpu.word(FALLBACKS)
    );
}

/// vCPU 1: works until there is nothing to do.
fn load(vcpu: &mut Vcpu) {
    let mut random = Random::new(99);
    while TASK.load(Ordering::Acquire) == Task::Load as u32 {
        match random.below(20) {
            0 => vcpu.request(),
            1..10 => vcpu.ring(),
            even => vcpu.post(even % 2 == 0),
        }
    }
    all_seen(vcpu, "a load");
}

/// The server dies and another one comes, while the other vCPU reads the page without an end.
fn reborn_while_read(vcpu: &mut Vcpu) {
    let troubles = number("troubles");
    beside(Task::Read, || {
        for _ in 0..troubles {
            let life = vcpu.word(LIFE);
            vcpu.post(true);
            vcpu.request();
            vcpu.command(Command::Rebirth, 0);
            // Waits until the new server is there.
            vcpu.ring();
            vcpu.request();
            if vcpu.word(LIFE) != life + 1 {
                println!("writer: FAILED: life {:#x} after {life:#x}", vcpu.word(LIFE));
            }
            all_seen(vcpu, "a rebirth");
        }
    });
    println!("writer: the server died and came back {troubles} times");
}

/// vCPU 1: reads the page until there is nothing to do.
fn read(vcpu: &Vcpu) {
    let (mut reads, mut empty, mut before) = (0_u64, 0_u64, 0);
    while TASK.load(Ordering::Acquire) == Task::Read as u32 {
        let life = vcpu.word(LIFE);
        reads += 1;
        if reads.is_multiple_of(READS) {
            let_others_run();
        }
        if life == 0 {
            // A page that its new server has not filled yet.
            empty += 1;
        } else if life < before || life >> 16 != LIVE >> 16 {
            println!("writer: FAILED: read {life:#x} after {before:#x}");
        } else {
            before = life;
        }
    }
    println!("writer: read {reads} times meanwhile, {empty} times an empty page");
}

/// Each interrupt comes once, and its acknowledgement ends it.
fn interrupts(vcpu: &mut Vcpu, gic: &Gic, intid: u32) {
    let troubles = number("troubles");
    gic.enable(intid, false);
    for number in 0..troubles {
        let bits = 1 + (number as u32 & 2);
        vcpu.command(Command::Interrupt, bits);
        let active = loop {
            match gic.acknowledge() {
                Some(active) => break active,
                None => wait_for_interrupt(),
            }
        };
        let status = vcpu.word(STATUS);
        vcpu.acknowledge(status);
        gic.end(active);
        let again = gic.acknowledge();
        if active.intid != intid || status != bits || vcpu.word(STATUS) != 0 || again.is_some() {
            println!(
                "writer: FAILED: interrupt {number}: {active:?}, status {status:#x}, then {:#x}, then {again:?}",
                vcpu.word(STATUS)
            );
        }
        if let Some(again) = again {
            gic.end(again);
        }
    }
    gic.disable(intid);
    println!("writer: {troubles} interrupts, each once");
}
