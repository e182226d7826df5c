//! The trace rings: one a pCPU, written by that pCPU alone, read by anybody at any time.
//!
//! `portunus_trace` is an array of [`MAX_PCPUS`] rings of [`EVENTS`] events ([`portunus::trace`]), zero at first. A pCPU
//! writes the two words of an event by one instruction, the newest over the oldest; where the newest is the times tell.
//! `portunus_trace_about` says what a reader outside of the machine must know besides.

use crate::pcpu::Pcpu;
use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use portunus::ids::{DomainId, MAX_DOMAINS, MAX_PCPUS, PcpuId};
use portunus::trace::{CHECK, Event, Kind, VCPU, word};

/// Events of a ring.
pub(crate) const EVENTS: usize = 8192;
/// Bytes of an event.
const EVENT: usize = 16;
/// Bytes of a ring.
const RING: usize = EVENTS * EVENT;

/// A ring. Its address is a multiple of its size, so that the place of the next event is a matter of low bits.
#[repr(C, align(0x20000))]
struct Ring(UnsafeCell<[[u64; 2]; EVENTS]>);

// SAFETY: no reference to what is inside is ever made: its pCPU writes by `record`, readers copy word by word and check.
unsafe impl Sync for Ring {}

const _: () = assert!(size_of::<Ring>() == RING && align_of::<Ring>() == RING);

#[unsafe(export_name = "portunus_trace")]
static RINGS: [Ring; MAX_PCPUS] = [const { Ring(UnsafeCell::new([[0; 2]; EVENTS])) }; MAX_PCPUS];

/// Bytes of a domain's name that a reader sees.
const NAME: usize = 32;

/// What a reader must know: how many ticks a second has, and the domains' names by number, ended by zeroes.
#[repr(C)]
struct About {
    frequency: AtomicU64,
    names: [[AtomicU8; NAME]; MAX_DOMAINS + 1],
}

#[unsafe(export_name = "portunus_trace_about")]
static ABOUT: About = About {
    frequency: AtomicU64::new(0),
    names: [const { [const { AtomicU8::new(0) }; NAME] }; MAX_DOMAINS + 1],
};

/// Says how many ticks a second has.
pub(crate) fn set_frequency(hertz: u64) {
    ABOUT.frequency.store(hertz, Ordering::Relaxed);
}

/// Says what a domain is called.
pub(crate) fn set_name(domain: DomainId, name: &str) {
    if let Some(places) = ABOUT.names.get(usize::from(domain.0)) {
        for (place, byte) in places.iter().zip(name.bytes()) {
            place.store(byte, Ordering::Relaxed);
        }
    }
}

/// Event number `back` of a pCPU's ring, counted from its newest, which is 0. `None`: there is none, or it is being
/// overwritten.
pub(crate) fn last(pcpu: &Pcpu, back: usize) -> Option<Event> {
    let start = ring(pcpu.id());
    let next = pcpu.trace.load(Ordering::Relaxed);
    let next = next.checked_sub(start).filter(|offset| start != 0 && *offset < RING)?;
    let back = (back < EVENTS).then_some((back + 1) * EVENT)?;
    let at = start + ((next + RING - back) & (RING - EVENT));
    // SAFETY: inside the ring, which is mapped for ever; whatever is there meanwhile is judged by `decode`.
    let words = unsafe { (at as *const [u64; 2]).read_volatile() };
    Event::decode(words)
}

/// Prints the last `count` events of a pCPU, oldest first, for its last words.
pub(crate) fn tell_last(out: &mut impl Write, pcpu: &Pcpu, count: usize) -> fmt::Result {
    let Some(newest) = last(pcpu, 0) else { return Ok(()) };
    let frequency = ABOUT.frequency.load(Ordering::Relaxed).max(1);
    for event in (0..count).rev().filter_map(|back| last(pcpu, back)) {
        let before = newest.time.saturating_sub(event.time).saturating_mul(1_000_000) / frequency;
        writeln!(out, "{before:>10} us before  {event}")?;
    }
    Ok(())
}

/// The address of a pCPU's ring.
pub(crate) fn ring(id: PcpuId) -> usize {
    RINGS.get(usize::from(id.0)).map_or(0, |ring| ring.0.get() as usize)
}

/// Records an event of the vCPU that `pcpu`, the executing pCPU, has loaded.
#[inline(always)]
pub(crate) fn record_loaded(pcpu: &Pcpu, kind: Kind, argument: u32) {
    record(pcpu, word(kind, pcpu.trace_vcpu.load(Ordering::Relaxed), argument));
}

/// The executing pCPU, `pcpu`, goes over to another vCPU, by its [`vcpu_bits`](portunus::trace::vcpu_bits).
pub(crate) fn switch(pcpu: &Pcpu, to: u64) {
    let from = pcpu.trace_vcpu.load(Ordering::Relaxed) >> VCPU;
    pcpu.trace_vcpu.store(to, Ordering::Relaxed);
    record(pcpu, word(Kind::Switched, to, from as u32));
}

/// Records an event of the executing pCPU, which is `pcpu`: its second word is `word`, without the check.
#[inline(always)]
pub(crate) fn record(pcpu: &Pcpu, word: u64) {
    let at = pcpu.trace.load(Ordering::Relaxed);
    // SAFETY: `at` is inside this pCPU's ring, a multiple of an event: `install` put it at the start, and this function
    // keeps it there. Nobody has a reference to it. The counter is read without a barrier: an event's time is as exact as
    // the order of instructions.
    unsafe {
        core::arch::asm!(
            "mrs {time}, cntpct_el0",
            "bfi {word}, {time}, #{check}, #{bits}",
            "stp {time}, {word}, [{at}]",
            time = out(reg) _,
            word = inout(reg) word => _,
            at = in(reg) at,
            check = const CHECK,
            bits = const 64 - CHECK,
            options(nostack, preserves_flags),
        );
    }
    let next = at & !(RING - 1) | (at + EVENT) & (RING - 1);
    pcpu.trace.store(next, Ordering::Relaxed);
}
