//! What others do to the interrupts of a vCPU that is not on its pCPU, and whose list registers are kept as they were.

#[path = "vgic_support/guest.rs"]
mod guest;

use guest::{BOTH, Guest, offsets};
use portunus::ids::{IntId, VcpuSet};
use portunus::trace::Kind;
use portunus::vgic::Version;
use portunus::vgic::list_register::{Backing, LrState, VirtualInterface};

const TIMER: IntId = IntId(27);
const UPCALL: IntId = IntId(31);
const DISK: IntId = IntId(40);
const WIRED: IntId = IntId(50);
const WIRE: IntId = IntId(150);

/// Two vCPUs; the timer and an SPI have physical interrupts behind them; no kick is served by itself.
fn guest(version: Version, list_registers: usize) -> Guest {
    let mut guest = Guest::new(version, 2, list_registers);
    guest.vgic.bind_physical_ppi(TIMER, TIMER).unwrap();
    guest.vgic.bind_physical(WIRED, WIRE, false).unwrap();
    for interrupt in [TIMER, UPCALL, DISK, WIRED] {
        guest.enable(0, interrupt);
        guest.set_priority(0, interrupt, 0x80);
    }
    guest.serve = false;
    guest
}

fn park(guest: &mut Guest) -> VcpuSet {
    let interface = &mut guest.interfaces[0];
    let kick = guest.vgic.park(0, interface);
    assert_eq!(interface.used().count(), 0, "list registers are left in use");
    assert_eq!(interface.free().count_ones() as usize, interface.list_registers());
    kick
}

/// Whether a flush was due besides.
fn load(guest: &mut Guest) -> bool {
    let due = guest.vgic.load(0, &mut guest.interfaces[0]);
    if due {
        guest.flush(0);
    }
    due
}

fn pend(guest: &mut Guest, interrupt: IntId) -> VcpuSet {
    let kick = if interrupt.is_private() {
        guest.vgic.pulse_private(0, interrupt)
    } else {
        guest.vgic.pulse_spi(interrupt)
    };
    kick.unwrap()
}

/// The guest has `interrupt` pending in a list register, or handles it, and is parked.
fn parked_with(version: Version, interrupt: IntId, handles: bool) -> Guest {
    let mut guest = guest(version, 4);
    pend(&mut guest, interrupt);
    guest.flush(0);
    if handles {
        assert_eq!(guest.acknowledge_silently(0), Some(interrupt));
    }
    park(&mut guest);
    guest
}

fn state(guest: &Guest, interrupt: IntId) -> Option<LrState> {
    guest.listed(0, interrupt).map(|register| register.state)
}

#[test]
fn what_a_list_register_held_is_there_again_without_a_flush() {
    for version in BOTH {
        for (handles, expected) in [(false, LrState::Pending), (true, LrState::Active)] {
            let mut guest = parked_with(version, DISK, handles);
            assert!(!load(&mut guest), "a flush is due");
            assert_eq!(state(&guest, DISK), Some(expected));
            assert_eq!(guest.vgic.injected(0), 1);
        }
    }
}

#[test]
fn an_interrupt_that_comes_meanwhile_is_in_a_list_register_at_the_load() {
    for version in BOTH {
        for interrupt in [UPCALL, DISK] {
            let mut guest = guest(version, 4);
            park(&mut guest);
            assert_eq!(pend(&mut guest, interrupt), VcpuSet::only(0), "its vCPU is told");
            assert!(!load(&mut guest), "a flush is due");
            assert_eq!(state(&guest, interrupt), Some(LrState::Pending));
            // Once more, in the list register that held it.
            for round in 2..5 {
                assert_eq!(guest.acknowledge_silently(0), Some(interrupt));
                guest.end(0, interrupt);
                park(&mut guest);
                pend(&mut guest, interrupt);
                assert!(!load(&mut guest));
                assert_eq!(state(&guest, interrupt), Some(LrState::Pending));
                assert_eq!(guest.vgic.injected(0), round);
            }
            let injected = (Kind::Injected, interrupt);
            let told = guest.interfaces[0].trace.iter().filter(|event| **event == injected);
            assert_eq!(told.count(), 4, "the trace tells of each once");
        }
    }
}

#[test]
fn an_interrupt_that_comes_again_before_it_was_taken_or_ended_is_neither_lost_nor_doubled() {
    for version in BOTH {
        for handles in [false, true] {
            let mut guest = parked_with(version, DISK, handles);
            assert_eq!(pend(&mut guest, DISK), VcpuSet::only(0));
            load(&mut guest);
            if handles {
                guest.end(0, DISK);
            }
            let mut taken = 0;
            while guest.acknowledge_silently(0) == Some(DISK) {
                taken += 1;
                guest.end(0, DISK);
            }
            assert_eq!(taken, 1);
        }
    }
}

#[test]
fn more_than_there_are_list_registers_all_arrive() {
    for version in BOTH {
        let mut guest = guest(version, 1);
        park(&mut guest);
        pend(&mut guest, UPCALL);
        pend(&mut guest, DISK);
        load(&mut guest);
        let mut taken = Vec::new();
        while let Some(interrupt) = guest.acknowledge(0) {
            guest.end(0, interrupt);
            taken.push(interrupt.0);
        }
        taken.sort_unstable();
        assert_eq!(taken, [UPCALL.0, DISK.0]);
    }
}

#[test]
fn a_pending_interrupt_that_another_vcpu_disables_or_clears_is_not_delivered() {
    for version in BOTH {
        for bank in [offsets::CLEAR_ENABLE, offsets::CLEAR_PENDING] {
            let mut guest = parked_with(version, DISK, false);
            guest.set_bit(1, bank, DISK);
            load(&mut guest);
            assert_eq!(guest.acknowledge_silently(0), None, "{bank:#x}");
        }
    }
}

#[test]
fn an_active_interrupt_that_another_vcpu_deactivates_is_active_no_more() {
    for version in BOTH {
        let mut guest = parked_with(version, DISK, true);
        assert!(guest.active(1, DISK), "it is seen at once");
        guest.set_bit(1, offsets::CLEAR_ACTIVE, DISK);
        assert!(!guest.active(1, DISK));
        load(&mut guest);
        assert_eq!(state(&guest, DISK), None);
        assert!(!guest.active(0, DISK));
    }
}

#[test]
fn the_state_of_a_parked_vcpus_interrupts_is_read_at_once() {
    for version in BOTH {
        let mut guest = parked_with(version, DISK, false);
        assert!(guest.pending(1, DISK) && !guest.active(1, DISK));
        let mut guest = parked_with(version, DISK, true);
        assert!(!guest.pending(1, DISK) && guest.active(1, DISK));
        // Handled still, after its load.
        load(&mut guest);
        guest.end(0, DISK);
        assert!(!guest.active(0, DISK));
    }
}

#[test]
fn an_interrupt_with_another_priority_is_delivered_with_that_and_ends_as_it_was_acknowledged() {
    for version in BOTH {
        for (handles, expected) in [(false, 0x20), (true, 0x80)] {
            let mut guest = parked_with(version, DISK, handles);
            guest.set_priority(1, DISK, 0x20);
            load(&mut guest);
            assert_eq!(guest.listed(0, DISK).map(|register| register.priority), Some(expected));
        }
    }
}

#[test]
fn a_pending_interrupt_that_is_routed_elsewhere_goes_there_at_once() {
    for version in BOTH {
        let mut guest = parked_with(version, DISK, false);
        guest.route(1, DISK, 1);
        guest.flush(1);
        assert_eq!(guest.acknowledge_silently(1), Some(DISK));
        load(&mut guest);
        assert_eq!(guest.acknowledge_silently(0), None);
        guest.end(1, DISK);
    }
}

#[test]
fn nothing_of_a_group_that_was_disabled_meanwhile_is_delivered() {
    for version in BOTH {
        let mut guest = parked_with(version, DISK, false);
        guest.write(1, offsets::CTLR, 0);
        load(&mut guest);
        assert_eq!(guest.acknowledge_silently(0), None);
        guest.write(1, offsets::CTLR, 3);
        guest.flush(0);
        assert_eq!(guest.acknowledge_silently(0), Some(DISK));
    }
}

#[test]
fn a_line_that_falls_takes_its_interrupt_along() {
    for version in BOTH {
        let mut guest = guest(version, 4);
        guest.vgic.set_spi_level(DISK, true).unwrap();
        guest.flush(0);
        park(&mut guest);
        guest.vgic.set_spi_level(DISK, false).unwrap();
        load(&mut guest);
        assert_eq!(guest.acknowledge_silently(0), None);
    }
}

#[test]
fn a_high_line_that_the_guest_ended_comes_again() {
    for version in BOTH {
        let mut guest = guest(version, 4);
        guest.vgic.set_spi_level(DISK, true).unwrap();
        guest.flush(0);
        assert_eq!(guest.acknowledge_silently(0), Some(DISK));
        // Its end is announced, so nothing is kept as it is.
        park(&mut guest);
        assert!(load(&mut guest), "no flush is due");
        guest.end(0, DISK);
        assert_eq!(guest.acknowledge_silently(0), Some(DISK));
    }
}

#[test]
fn the_timers_physical_interrupt_is_known_while_its_vcpu_is_away() {
    for version in BOTH {
        for (ends, active) in [(false, true), (true, false)] {
            let mut guest = guest(version, 4);
            guest.vgic.physical_private(0, TIMER).unwrap();
            guest.flush(0);
            assert_eq!(guest.acknowledge_silently(0), Some(TIMER));
            if ends {
                guest.end(0, TIMER);
            }
            park(&mut guest);
            assert_eq!(guest.vgic.holds_physical(0, TIMER), active);
            load(&mut guest);
            assert_eq!(state(&guest, TIMER), active.then_some(LrState::Active));
            assert_eq!(guest.vgic.holds_physical(0, TIMER), active);
        }
    }
}

#[test]
fn a_timer_interrupt_that_another_vcpu_clears_is_not_active_at_the_load() {
    let mut guest = guest(Version::V3, 4);
    guest.vgic.physical_private(0, TIMER).unwrap();
    guest.flush(0);
    park(&mut guest);
    assert!(guest.vgic.holds_physical(0, TIMER));
    guest.write_redistributor(1, 0x1_0000 + offsets::CLEAR_PENDING, 1 << TIMER.0);
    assert!(!guest.vgic.holds_physical(0, TIMER));
    assert_eq!(guest.deactivated(), [], "that is no matter of vCPU 1's pCPU");
    load(&mut guest);
    assert_eq!(guest.acknowledge_silently(0), None);
}

#[test]
fn the_timer_of_a_vcpu_that_rests_on_its_pcpu_is_deactivated_there() {
    let mut guest = guest(Version::V3, 4);
    guest.vgic.physical_private(0, TIMER).unwrap();
    guest.flush(0);
    guest.vgic.rest(0, &mut guest.interfaces[0]);
    guest.write_redistributor(1, 0x1_0000 + offsets::CLEAR_PENDING, 1 << TIMER.0);
    assert_eq!(guest.deactivated(), []);
    guest.flush(0);
    assert_eq!(guest.interfaces[0].deactivated, [TIMER]);
    assert_eq!(guest.acknowledge_silently(0), None);
}

#[test]
fn the_timer_of_a_vcpu_that_rests_comes_as_a_physical_one() {
    for version in BOTH {
        let mut guest = guest(version, 4);
        guest.vgic.rest(0, &mut guest.interfaces[0]);
        assert_eq!(guest.vgic.physical_private(0, TIMER), Ok(VcpuSet::only(0)));
        guest.flush(0);
        let listed = guest.listed(0, TIMER).expect("it is in a list register");
        assert_eq!(
            (listed.state, listed.backing),
            (LrState::Pending, Backing::Physical(TIMER))
        );
        // And once more, when it has ended and the vCPU waits for it again.
        assert_eq!(guest.acknowledge_silently(0), Some(TIMER));
        guest.end(0, TIMER);
        guest.vgic.wait(0, &mut guest.interfaces[0]);
        guest.vgic.rest(0, &mut guest.interfaces[0]);
        assert!(!guest.vgic.holds_physical(0, TIMER));
        guest.vgic.physical_private(0, TIMER).unwrap();
        park(&mut guest);
        assert!(guest.vgic.holds_physical(0, TIMER));
        load(&mut guest);
        assert_eq!(guest.acknowledge_silently(0), Some(TIMER));
    }
}

#[test]
fn a_physical_interrupt_that_another_vcpu_clears_is_deactivated() {
    for version in BOTH {
        let mut guest = guest(version, 4);
        guest.vgic.physical(WIRED).unwrap();
        guest.flush(0);
        park(&mut guest);
        guest.set_bit(1, offsets::CLEAR_PENDING, WIRED);
        assert_eq!(guest.interfaces[1].deactivated, [WIRE]);
        load(&mut guest);
        assert_eq!(guest.acknowledge_silently(0), None);
    }
}

#[test]
fn a_vcpu_that_waits_with_nothing_left_in_its_list_registers_needs_no_flush() {
    for version in BOTH {
        let mut guest = guest(version, 4);
        pend(&mut guest, UPCALL);
        guest.flush(0);
        assert_eq!(guest.acknowledge_silently(0), Some(UPCALL));
        guest.end(0, UPCALL);
        guest.vgic.wait(0, &mut guest.interfaces[0]);
        assert!(!guest.vgic.has_deliverable(0) && !guest.vgic.needs_flush(0));
        // One that is pending is looked at.
        pend(&mut guest, UPCALL);
        guest.flush(0);
        guest.vgic.wait(0, &mut guest.interfaces[0]);
        assert!(guest.vgic.has_deliverable(0));
    }
}

#[test]
fn a_vcpu_that_is_powered_off_while_it_rests_leaves_nothing() {
    for version in BOTH {
        let mut guest = guest(version, 4);
        guest.vgic.physical_private(0, TIMER).unwrap();
        pend(&mut guest, UPCALL);
        guest.flush(0);
        guest.vgic.rest(0, &mut guest.interfaces[0]);
        guest.vgic.power_off(0, &mut guest.interfaces[0]);
        assert_eq!(guest.interfaces[0].used().count(), 0);
        assert!(!guest.vgic.holds_physical(0, TIMER));
        assert_eq!(guest.interfaces[0].deactivated, [TIMER]);
        park(&mut guest);
        assert!(load(&mut guest), "the upcall is pending still");
        assert_eq!(guest.acknowledge_silently(0), Some(UPCALL));
    }
}

#[test]
fn list_registers_that_the_guest_has_emptied_are_given_up_without_a_look_at_them() {
    for version in BOTH {
        for interrupt in [UPCALL, DISK] {
            let mut guest = guest(version, 4);
            pend(&mut guest, interrupt);
            guest.flush(0);
            for round in 2..5 {
                assert!(!guest.vgic.shows_nothing(0, &guest.interfaces[0]), "it is pending");
                assert_eq!(guest.acknowledge_silently(0), Some(interrupt));
                assert!(!guest.vgic.shows_nothing(0, &guest.interfaces[0]), "it is active");
                guest.end(0, interrupt);
                assert!(guest.vgic.shows_nothing(0, &guest.interfaces[0]));
                assert!(guest.vgic.park_ended(0));
                assert_eq!(state(&guest, interrupt), None);
                if round % 2 == 0 || !interrupt.is_private() {
                    assert_eq!(pend(&mut guest, interrupt), VcpuSet::only(0), "its vCPU is told");
                    assert!(!load(&mut guest), "a flush is due");
                } else if guest.vgic.load_pulsed(0, interrupt, &mut guest.interfaces[0]) {
                    guest.flush(0);
                }
                assert_eq!(state(&guest, interrupt), Some(LrState::Pending));
                assert_eq!(guest.vgic.injected(0), round);
            }
        }
    }
}

#[test]
fn a_list_register_with_a_physical_interrupt_behind_it_is_looked_at_before_it_is_given_up() {
    for version in BOTH {
        let mut guest = guest(version, 4);
        guest.vgic.physical_private(0, TIMER).unwrap();
        guest.flush(0);
        assert_eq!(guest.acknowledge_silently(0), Some(TIMER));
        guest.end(0, TIMER);
        assert!(guest.vgic.shows_nothing(0, &guest.interfaces[0]));
        assert!(
            !guest.vgic.park_ended(0),
            "the guest has ended it, and that is not known yet"
        );
        park(&mut guest);
        assert!(!guest.vgic.holds_physical(0, TIMER));
    }
}

#[test]
fn an_upcall_is_written_again_only_where_a_list_register_held_it_pending() {
    for version in BOTH {
        // It held the upcall as active when it was written last, for the guest to end.
        let mut guest = parked_with(version, UPCALL, true);
        load(&mut guest);
        guest.end(0, UPCALL);
        park(&mut guest);
        if guest.vgic.load_pulsed(0, UPCALL, &mut guest.interfaces[0]) {
            guest.flush(0);
        }
        assert_eq!(state(&guest, UPCALL), Some(LrState::Pending));
        assert_eq!(guest.acknowledge_silently(0), Some(UPCALL));
        guest.end(0, UPCALL);
        assert_eq!(guest.acknowledge_silently(0), None);
    }
}
