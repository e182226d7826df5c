//! The line of a device of the hypervisor, lowered by the guest while it handles the interrupt.

#[path = "vgic_support/guest.rs"]
mod guest;

use guest::{BOTH, Guest, offsets};
use portunus::ids::{IntId, VcpuSet};
use portunus::vgic::VgicError;
use portunus::vgic::list_register::{Backing, LrState};

const SPI: IntId = IntId(40);

/// A guest of two vCPUs whose device has the line of [`SPI`].
fn guest(version: portunus::vgic::Version, edge: bool) -> Guest {
    let mut guest = Guest::new(version, 2, 4);
    assert_eq!(guest.vgic.connect_line(SPI), Ok(VcpuSet::EMPTY));
    guest.set_edge(0, SPI, edge);
    guest.enable(0, SPI);
    guest
}

/// `vcpu` makes the device lower its line: whether it must flush, or others.
fn lower(guest: &mut Guest, vcpu: u8) -> VcpuSet {
    let interface = &mut guest.interfaces[usize::from(vcpu)];
    let kick = guest.vgic.lower_own_spi(vcpu, SPI, interface).expect("an SPI");
    guest.serve(kick);
    for vcpu in 0..2 {
        assert!(!guest.vgic.needs_flush(vcpu), "vCPU {vcpu} was not told");
    }
    kick
}

#[test]
fn a_line_that_falls_in_its_handler_costs_no_flush_and_no_maintenance() {
    for version in BOTH {
        let mut guest = guest(version, false);
        for _ in 0..3 {
            guest.inject(|vgic| vgic.raise_spi(SPI));
            assert_eq!(guest.acknowledge(0), Some(SPI));
            assert_eq!(lower(&mut guest, 0), VcpuSet::EMPTY);
            let listed = guest.listed(0, SPI).expect("it is active");
            assert_eq!(listed.state, LrState::Active);
            assert!(matches!(listed.backing, Backing::Software { maintenance: false, .. }));
            guest.end(0, SPI);
            assert_eq!(guest.acknowledge(0), None);
        }
        assert_eq!(guest.maintenances, 0);
    }
}

#[test]
fn a_line_that_rises_again_in_the_handler_is_delivered_once_more() {
    for version in BOTH {
        for edge in [false, true] {
            let mut guest = guest(version, edge);
            guest.inject(|vgic| vgic.raise_spi(SPI));
            assert_eq!(guest.acknowledge(0), Some(SPI));
            lower(&mut guest, 0);
            guest.inject(|vgic| vgic.raise_spi(SPI));
            guest.end(0, SPI);
            assert_eq!(guest.acknowledge(0), Some(SPI));
            lower(&mut guest, 0);
            guest.end(0, SPI);
            assert_eq!(guest.acknowledge(0), None);
        }
    }
}

#[test]
fn what_was_raised_and_lowered_before_anybody_took_it_is_not_delivered() {
    for version in BOTH {
        for edge in [false, true] {
            for by in [0, 1] {
                let mut guest = guest(version, edge);
                guest.inject(|vgic| vgic.raise_spi(SPI));
                assert!(guest.listed(0, SPI).is_some());
                let kick = lower(&mut guest, by);
                assert_eq!(guest.listed(0, SPI), None);
                assert_eq!(guest.acknowledge(0), None, "edge {edge}");
                assert!(!guest.pending(0, SPI));
                assert_eq!(kick.contains(0), by == 1, "its holder alone has news");
            }
        }
    }
}

#[test]
fn a_second_edge_that_the_handler_took_care_of_is_not_delivered() {
    for version in BOTH {
        let mut guest = guest(version, true);
        guest.inject(|vgic| vgic.raise_spi(SPI));
        assert_eq!(guest.acknowledge(0), Some(SPI));
        guest.inject(|vgic| vgic.raise_spi(SPI));
        assert_eq!(
            guest.listed(0, SPI).map(|listed| listed.state),
            Some(LrState::PendingAndActive)
        );
        lower(&mut guest, 0);
        assert_eq!(guest.listed(0, SPI).map(|listed| listed.state), Some(LrState::Active));
        guest.end(0, SPI);
        assert_eq!(guest.acknowledge(0), None);
    }
}

#[test]
fn a_line_that_falls_after_the_end_leaves_a_list_register_that_others_can_use() {
    for version in BOTH {
        let mut guest = guest(version, false);
        guest.inject(|vgic| vgic.raise_spi(SPI));
        assert_eq!(guest.acknowledge(0), Some(SPI));
        // The guest ends it first; the maintenance interrupt is on its way.
        assert_eq!(guest.interfaces[0].end(SPI), Some(true));
        lower(&mut guest, 0);
        assert!(!guest.interfaces[0].end_fires());
        assert_eq!(guest.listed(0, SPI), None);
        guest.maintenance(0);
        assert_eq!(guest.acknowledge(0), None);
        for other in 50..54 {
            guest.enable(0, IntId(other));
            guest.inject(|vgic| vgic.pulse_spi(IntId(other)));
        }
        assert_eq!(guest.interfaces[0].used().count(), 4);
    }
}

#[test]
fn what_the_guest_made_pending_itself_is_none_of_the_lines() {
    for version in BOTH {
        let mut guest = guest(version, false);
        guest.set_bit(0, offsets::SET_PENDING, SPI);
        guest.inject(|vgic| vgic.raise_spi(SPI));
        lower(&mut guest, 0);
        assert_eq!(guest.acknowledge(0), Some(SPI));
        guest.end(0, SPI);
        assert_eq!(guest.acknowledge(0), None);
    }
}

#[test]
fn a_line_has_one_driver() {
    for version in BOTH {
        let mut guest = Guest::new(version, 1, 4);
        guest.enable(0, SPI);
        guest.inject(|vgic| vgic.set_irq_level(SPI, true));
        assert!(guest.listed(0, SPI).is_some());
        guest.inject(|vgic| vgic.connect_line(SPI));
        assert_eq!(guest.acknowledge(0), None, "what was before is forgotten");
        assert_eq!(guest.vgic.set_irq_level(SPI, true), Err(VgicError::Reserved(SPI)));
        assert_eq!(guest.vgic.connect_line(SPI), Err(VgicError::Reserved(SPI)));
        guest.inject(|vgic| vgic.raise_spi(SPI));
        guest.inject(|vgic| vgic.disconnect_line(SPI));
        assert_eq!(guest.acknowledge(0), None, "the line is low without a driver");
        guest.inject(|vgic| vgic.set_irq_level(SPI, true));
        assert_eq!(guest.acknowledge(0), Some(SPI));
        for strange in [IntId(27), IntId(31), IntId(160), IntId(1023), IntId(u32::MAX)] {
            assert_eq!(guest.vgic.connect_line(strange), Err(VgicError::NotSpi(strange)));
            assert_eq!(guest.vgic.disconnect_line(strange), Err(VgicError::NotSpi(strange)));
            assert_eq!(guest.vgic.lower_spi(strange), Err(VgicError::NotSpi(strange)));
        }
    }
}
