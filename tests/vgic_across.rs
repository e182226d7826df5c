//! A vCPU is loaded with its upcall: in one step, and as if that had become pending while it was away.

#[path = "vgic_support/guest.rs"]
mod guest;

use guest::{BOTH, Guest, offsets};
use portunus::ids::IntId;
use portunus::vgic::Version;

const UPCALL: IntId = IntId(31);
const OTHER: IntId = IntId(28);
const DISK: IntId = IntId(40);

/// What happens to a vCPU before it is parked, and then while it is away.
#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    /// It is taken and ended.
    Takes(IntId),
    /// It is in a list register.
    Has(IntId),
    /// It is being handled.
    Handles(IntId),
    /// It is given back, and its enable bit cleared.
    Disables(IntId),
    /// Its priority changes.
    Lowers(IntId),
    /// It comes while the vCPU is away.
    Later(IntId),
    /// The vCPU is looked at while it is away.
    Looked,
}

use Before::{Disables, Handles, Has, Later, Looked, Lowers, Nothing, Takes};

const FIRST: [Before; 9] = [
    Nothing,
    Takes(UPCALL),
    Takes(DISK),
    Has(UPCALL),
    Has(DISK),
    Handles(UPCALL),
    Handles(OTHER),
    Disables(UPCALL),
    Lowers(UPCALL),
];
const SECOND: [Before; 8] = [
    Nothing,
    Takes(UPCALL),
    Has(OTHER),
    Disables(UPCALL),
    Lowers(UPCALL),
    Later(UPCALL),
    Later(DISK),
    Looked,
];

fn pend(guest: &mut Guest, interrupt: IntId) {
    let _ = if interrupt.is_private() {
        guest.vgic.pulse_private(0, interrupt)
    } else {
        guest.vgic.pulse_spi(interrupt)
    }
    .unwrap();
}

fn prepare(guest: &mut Guest, before: Before) {
    match before {
        Nothing | Later(_) | Looked => {}
        Takes(interrupt) | Has(interrupt) | Handles(interrupt) => {
            pend(guest, interrupt);
            guest.flush(0);
            if !matches!(before, Has(_))
                && guest.acknowledge_silently(0) == Some(interrupt)
                && matches!(before, Takes(_))
            {
                guest.end(0, interrupt);
            }
        }
        Disables(interrupt) => {
            guest.set_bit(0, offsets::CLEAR_ENABLE, interrupt);
            guest.flush(0);
        }
        Lowers(interrupt) => {
            guest.set_priority(0, interrupt, 0xc0);
            guest.flush(0);
        }
    }
}

/// What the guest finds when it goes on: the interrupts that it takes, in their order, each ended before the next.
fn taken(version: Version, count: usize, history: [Before; 2], at_once: bool) -> (Vec<IntId>, bool, u64) {
    let mut guest = Guest::new(version, 1, count);
    for interrupt in [UPCALL, OTHER, DISK] {
        guest.enable(0, interrupt);
        guest.set_priority(0, interrupt, 0x80);
    }
    guest.serve = false;
    guest.flush(0);
    for before in history {
        prepare(&mut guest, before);
    }
    let _ = guest.vgic.park(0, &mut guest.interfaces[0]);
    for before in history {
        match before {
            Later(interrupt) => pend(&mut guest, interrupt),
            Looked => {
                guest.pending(0, UPCALL);
                guest.active(0, DISK);
            }
            _ => {}
        }
    }
    let due = if at_once {
        guest.vgic.load_pulsed(0, UPCALL, &mut guest.interfaces[0])
    } else {
        pend(&mut guest, UPCALL);
        guest.vgic.load(0, &mut guest.interfaces[0])
    };
    if due {
        guest.flush(0);
    }
    let mut taken = Vec::new();
    for _ in 0..10 {
        // Enabled at last, it shows whether it was pending.
        if taken.len() == 3 {
            guest.enable(0, UPCALL);
            guest.flush(0);
        }
        if let Some(interrupt) = guest.acknowledge_silently(0) {
            taken.push(interrupt);
            guest.end(0, interrupt);
        } else {
            guest.enable(0, UPCALL);
            guest.flush(0);
        }
    }
    let pending = guest.pending(0, UPCALL);
    (taken, pending, guest.vgic.injected(0))
}

#[test]
fn an_upcall_that_comes_with_its_vcpu_is_taken_like_one_that_came_before() {
    for version in BOTH {
        for first in FIRST {
            for second in SECOND {
                for count in [1, 4] {
                    let history = [first, second];
                    let (one, other) = (
                        taken(version, count, history, true),
                        taken(version, count, history, false),
                    );
                    assert_eq!(one, other, "{version:?} {history:?} {count} list registers");
                }
            }
        }
    }
    let (plain, ..) = taken(Version::V3, 4, [Takes(UPCALL), Nothing], true);
    assert_eq!(plain, [UPCALL]);
}
