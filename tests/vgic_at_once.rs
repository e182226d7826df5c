//! Interrupts that go straight into a list register end up as they do by way of the queues: the same random history for
//! two guests, one of which takes the straight way wherever there is one.

#[path = "vgic_support/guest.rs"]
mod guest;

use guest::{BOTH, Guest, offsets};
use portunus::access::AccessWidth;
use portunus::fakes::Random;
use portunus::ids::IntId;
use portunus::vgic::list_register::ListRegister;
use portunus::vgic::{Frame, SgiRegister, Version};

const TIMER: IntId = IntId(27);
const UPCALL: IntId = IntId(31);
const SGI: IntId = IntId(5);
const SPI: IntId = IntId(40);
const OPERATIONS: u32 = 8_000;

/// A guest, what it handles (outermost first), and how many of its interrupts went straight, and of those by writing the
/// same once more.
struct Side {
    guest: Guest,
    handles: Vec<IntId>,
    straight: Option<u32>,
    again: u32,
}

impl Side {
    fn new(version: Version, list_registers: usize, straight: Option<u32>) -> Self {
        let mut guest = Guest::new(version, 2, list_registers);
        guest.vgic.bind_physical_ppi(TIMER, TIMER).unwrap();
        for (interrupt, priority) in [(TIMER, 0x40), (UPCALL, 0x50), (SGI, 0x60), (SPI, 0x70)] {
            guest.enable(0, interrupt);
            guest.set_priority(0, interrupt, priority);
        }
        let handles = Vec::new();
        Self {
            guest,
            handles,
            straight,
            again: 0,
        }
    }

    /// An interrupt comes: 0 the timer's, 1 an upcall, 2 an SGI of vCPU 0 to itself.
    fn come(&mut self, what: u32) {
        let sgi = 1 | u64::from(SGI.0) << 24;
        let sgir = 2 << 24 | u64::from(SGI.0);
        let is_v2 = self.guest.version == Version::V2;
        let Guest { vgic, interfaces, .. } = &mut self.guest;
        if let Some(straight) = &mut self.straight {
            let again = match what {
                0 => vgic.physical_private_again(0, TIMER, &mut interfaces[0]),
                1 => vgic.pulse_private_again(0, UPCALL, &mut interfaces[0]),
                _ => vgic.send_sgi_again(0, SgiRegister::Sgi1r, sgi, &mut interfaces[0]),
            };
            self.again += u32::from(again);
            let done = match what {
                _ if again => true,
                0 => vgic.physical_private_at_once(0, TIMER, &mut interfaces[0]),
                1 => vgic.pulse_private_at_once(0, UPCALL, &mut interfaces[0]),
                _ if is_v2 => {
                    let register = (Frame::Distributor, offsets::SGIR);
                    vgic.store_at_once(0, register, (AccessWidth::Word, sgir), &mut interfaces[0])
                }
                _ => vgic.send_sgi_at_once(0, SgiRegister::Sgi1r, sgi, &mut interfaces[0]),
            };
            if done {
                assert!(!vgic.needs_flush(0));
                *straight += 1;
                return;
            }
        }
        match what {
            0 => self.guest.inject(|vgic| vgic.physical_private(0, TIMER)),
            1 => self.guest.inject(|vgic| vgic.pulse_private(0, UPCALL)),
            _ if is_v2 => drop(self.guest.write(0, offsets::SGIR, sgir)),
            _ => self.guest.inject(|vgic| Ok(vgic.send_sgi(0, SgiRegister::Sgi1r, sgi))),
        }
    }

    fn end(&mut self) {
        let Some(interrupt) = self.handles.pop() else { return };
        if self.guest.interfaces[0].end(interrupt) == Some(true) || self.guest.interfaces[0].no_pending_fires() {
            let kick = self.guest.vgic.sync(0, &mut self.guest.interfaces[0]);
            self.guest.serve(kick);
            self.guest.flush(0);
        }
    }

    fn step(&mut self, operation: u32, argument: u32) {
        let interrupt = [TIMER, UPCALL, SGI, SPI][argument as usize % 4];
        match operation {
            0..4 => self.come(argument % 3),
            4..8 => {
                if let Some(taken) = self.guest.interfaces[0].acknowledge() {
                    self.handles.push(taken);
                }
            }
            8..14 => self.end(),
            14 => self.guest.enable(0, interrupt),
            15 if argument.is_multiple_of(8) => drop(self.guest.set_bit(0, offsets::CLEAR_ENABLE, interrupt)),
            16 => self.guest.inject(|vgic| vgic.set_spi_level(SPI, argument & 8 != 0)),
            17 => self.guest.set_edge(0, UPCALL, argument & 8 != 0),
            18 => self
                .guest
                .inject(|vgic| vgic.set_private_level(0, UPCALL, argument & 64 != 0)),
            19 => drop(self.guest.set_bit(0, offsets::CLEAR_PENDING, interrupt)),
            20 => drop(self.guest.set_bit(0, offsets::SET_PENDING, interrupt)),
            21 => {
                let interface = &mut self.guest.interfaces[0];
                let kick = self.guest.vgic.unload(0, interface);
                self.guest.serve(kick);
                self.guest.flush(0);
            }
            22 => drop(self.guest.write(0, offsets::CTLR, u64::from(argument & 1 != 0) * 3)),
            _ => drop(self.guest.write(0, offsets::CTLR, 3)),
        }
    }

    /// What the guest could see.
    fn shown(&mut self) -> (Vec<ListRegister>, Vec<bool>, Vec<IntId>, u64) {
        let mut used: Vec<_> = self.guest.interfaces[0].used().copied().collect();
        used.sort_by_key(|register| register.interrupt.0);
        let bits = [TIMER, UPCALL, SGI, SPI]
            .map(|interrupt| [self.guest.pending(0, interrupt), self.guest.active(0, interrupt)]);
        let deactivated = self.guest.interfaces[0].deactivated.clone();
        (used, bits.concat(), deactivated, self.guest.vgic.injected(0))
    }
}

/// The same history for both ways: operations and their arguments as `next` says. The least number of interrupts that
/// went straight, and that were written once more, with any of the interfaces.
fn compare(seed: u64, next: impl Fn(&mut Random, u32) -> (u32, u32)) -> (u32, u32) {
    let mut least = (u32::MAX, u32::MAX);
    for (version, list_registers) in BOTH
        .into_iter()
        .flat_map(|version| [1, 2, 4].map(|count| (version, count)))
    {
        let (mut straight, mut queued) = (
            Side::new(version, list_registers, Some(0)),
            Side::new(version, list_registers, None),
        );
        let mut random = Random::new(seed + list_registers as u64);
        let mut timer_is_active = false;
        for number in 0..OPERATIONS {
            let (operation, argument) = next(&mut random, number);
            let ended = straight.guest.interfaces[0].deactivated.len();
            if operation < 4 && argument.is_multiple_of(3) {
                // An active physical interrupt does not come again.
                if std::mem::replace(&mut timer_is_active, true) {
                    continue;
                }
            }
            for side in [&mut straight, &mut queued] {
                side.step(operation, argument);
            }
            timer_is_active &= straight.guest.interfaces[0].deactivated.len() == ended;
            let what = format!("{version:?}, {list_registers} list registers, operation {number}: {operation}");
            // Looking reads list registers back: not every time, or the straight way would never be there.
            if random.one_in(8) {
                assert_eq!(straight.shown(), queued.shown(), "{what}");
            }
            assert_eq!(straight.handles, queued.handles, "{what}");
        }
        least.0 = least.0.min(straight.straight.unwrap_or(0));
        least.1 = least.1.min(straight.again);
    }
    least
}

#[test]
fn the_straight_way_and_the_queues_lead_to_the_same() {
    let (straight, _) = compare(0x5eed, |random, _| (random.below(24), random.below(256)));
    assert!(straight > 10, "{straight}");
}

#[test]
fn a_list_register_written_once_more_is_what_the_queues_lead_to() {
    // An interrupt comes, is acknowledged and ended; now and then something else happens between.
    let (straight, again) = compare(0xca1f, |random, number| match random.one_in(12) {
        true => (random.below(24), random.below(256)),
        false => (number % 3 * 4, random.below(3)),
    });
    assert!(straight > 100 && again > 50, "{straight}, {again}");
}
