//! Virtual interrupts that physical ones are behind: passed-through devices and the virtual timer.

#[path = "vgic_support/guest.rs"]
mod guest;

use guest::{BOTH, Guest, offsets};
use portunus::ids::IntId;
use portunus::vgic::list_register::Backing;
use portunus::vgic::{PhysicalChange, Version};

const SPI: IntId = IntId(40);
const TIMER: IntId = IntId(27);

#[test]
fn a_physical_interrupt_is_deactivated_by_the_guest() {
    for version in BOTH {
        let mut guest = Guest::new(version, 2, 4);
        guest.vgic.bind_physical(SPI, IntId(70), true).unwrap();
        let changes = guest.write(0, offsets::SET_ENABLE + 4, 1 << 8);
        assert_eq!(changes, [(IntId(70), PhysicalChange::Enable(true))]);
        assert_eq!(guest.write(0, offsets::SET_ENABLE + 4, 1 << 8), [], "it was enabled");
        guest.inject(|vgic| vgic.physical(SPI));
        let listed = guest.listed(0, SPI).unwrap();
        assert_eq!(listed.backing, Backing::Physical(IntId(70)));
        assert_eq!(guest.acknowledge(0), Some(SPI));
        assert_eq!(guest.interfaces[0].deactivated, []);
        guest.end(0, SPI);
        assert_eq!(guest.interfaces[0].deactivated, [IntId(70)]);
        guest.inject(|vgic| vgic.physical(SPI));
        assert_eq!(guest.acknowledge(0), Some(SPI));
        let changes = guest.route_changes(0, SPI, 1);
        assert_eq!(changes, [(IntId(70), PhysicalChange::Route(1))]);
        let changes = guest.write(0, offsets::CONFIGURATION + 8, 0);
        assert_eq!(changes, [(IntId(70), PhysicalChange::Edge(false))]);
        let changes = guest.write(0, offsets::CLEAR_ENABLE + 4, u64::from(u32::MAX));
        assert_eq!(changes, [(IntId(70), PhysicalChange::Enable(false))]);
    }
}

#[test]
fn a_physical_interrupt_that_fires_again_before_its_end_was_seen_is_a_new_one() {
    for version in BOTH {
        let mut guest = Guest::new(version, 1, 4);
        guest.vgic.bind_physical(SPI, IntId(70), false).unwrap();
        guest.enable(0, SPI);
        for count in 1..4 {
            guest.inject(|vgic| vgic.physical(SPI));
            assert_eq!(guest.listed(0, SPI).unwrap().backing, Backing::Physical(IntId(70)));
            assert_eq!(guest.acknowledge(0), Some(SPI));
            guest.end(0, SPI);
            assert_eq!(guest.deactivated().len(), count);
        }
    }
}

#[test]
fn a_physical_interrupt_that_the_guest_never_takes_is_deactivated_for_it() {
    for version in BOTH {
        for clearer in [0, 1] {
            let mut guest = Guest::new(version, 2, 4);
            guest.vgic.bind_physical(SPI, IntId(70), true).unwrap();
            guest.enable(0, SPI);
            guest.inject(|vgic| vgic.physical(SPI));
            guest.write(clearer, offsets::CLEAR_PENDING + 4, 1 << 8);
            assert_eq!(guest.deactivated(), [IntId(70)], "in a list register");
            guest.write(0, offsets::CLEAR_ENABLE + 4, 1 << 8);
            guest.inject(|vgic| vgic.physical(SPI));
            guest.write(clearer, offsets::CLEAR_PENDING + 4, 1 << 8);
            assert_eq!(guest.deactivated(), [IntId(70), IntId(70)], "disabled");
            guest.enable(0, SPI);
            guest.inject(|vgic| vgic.physical(SPI));
            assert_eq!(guest.acknowledge(0), Some(SPI));
            guest.write(clearer, offsets::CLEAR_ACTIVE + 4, 1 << 8);
            assert_eq!(guest.deactivated(), [IntId(70); 3], "active");
        }
    }
}

#[test]
fn the_virtual_timer_is_backed_by_hardware_on_each_vcpu() {
    for version in BOTH {
        let mut guest = Guest::new(version, 2, 4);
        guest.vgic.bind_physical_ppi(TIMER, TIMER).unwrap();
        guest.enable(1, TIMER);
        guest.inject(|vgic| vgic.physical_private(1, TIMER));
        assert_eq!(guest.listed(0, TIMER), None);
        assert_eq!(guest.listed(1, TIMER).unwrap().backing, Backing::Physical(TIMER));
        assert!(guest.vgic.holds_physical(1, TIMER) && !guest.vgic.holds_physical(0, TIMER));
        assert_eq!(guest.acknowledge(1), Some(TIMER));
        guest.vgic.unload(1, &mut guest.interfaces[1]);
        assert!(
            guest.vgic.holds_physical(1, TIMER),
            "active: the timer must not fire for it"
        );
        guest.flush(1);
        guest.end(1, TIMER);
        guest.vgic.sync(1, &mut guest.interfaces[1]);
        assert!(!guest.vgic.holds_physical(1, TIMER));
        assert_eq!(guest.interfaces[1].deactivated, [TIMER]);
    }
}

#[test]
fn a_ppi_taken_back_by_another_vcpu_is_deactivated_on_its_own_pcpu() {
    let mut guest = Guest::new(Version::V3, 2, 4);
    guest.vgic.bind_physical_ppi(TIMER, TIMER).unwrap();
    guest.inject(|vgic| vgic.physical_private(1, TIMER));
    guest.write_redistributor(0, 0x2_0000 + 0x1_0280, 1 << 27);
    assert_eq!(
        (
            guest.interfaces[0].deactivated.len(),
            guest.interfaces[1].deactivated.len()
        ),
        (0, 1)
    );
    assert!(!guest.vgic.holds_physical(1, TIMER));
}

#[test]
fn software_pending_on_a_hardware_interrupt_does_not_lose_the_second() {
    for version in BOTH {
        let mut guest = Guest::new(version, 1, 4);
        guest.vgic.bind_physical(SPI, IntId(70), true).unwrap();
        guest.enable(0, SPI);
        guest.inject(|vgic| vgic.physical(SPI));
        assert_eq!(guest.acknowledge(0), Some(SPI));
        guest.write(0, offsets::SET_PENDING + 4, 1 << 8);
        guest.end(0, SPI);
        assert_eq!(guest.acknowledge(0), Some(SPI));
        guest.end(0, SPI);
        assert_eq!(guest.acknowledge(0), None);
        assert_eq!(guest.deactivated(), [IntId(70)]);
    }
}
