//! The virtual GIC as a guest and its devices see it: a table of situations on the public interface, with list registers
//! that refuse what hardware leaves unpredictable.

#[path = "vgic_support/guest.rs"]
mod guest;

use guest::{BOTH, Guest, offsets};
use portunus::ids::{IntId, VcpuSet};
use portunus::vgic::list_register::{Backing, LrState, VirtualInterface};
use portunus::vgic::{SgiRegister, Version, VgicError};

const SPI: IntId = IntId(40);

#[test]
fn an_interrupt_is_delivered_once_enabled_and_ends() {
    for version in BOTH {
        let mut guest = Guest::new(version, 2, 4);
        guest.inject(|vgic| vgic.pulse_spi(SPI));
        assert_eq!(guest.acknowledge(0), None, "disabled");
        assert!(guest.pending(0, SPI), "pending is kept while disabled");
        guest.enable(0, SPI);
        assert_eq!(guest.acknowledge(0), Some(SPI));
        assert!(guest.active(0, SPI) && !guest.pending(0, SPI));
        assert_eq!(guest.acknowledge(0), None);
        guest.end(0, SPI);
        assert!(!guest.active(0, SPI) && !guest.pending(0, SPI));
        assert_eq!(guest.acknowledge(0), None);
    }
}

#[test]
fn a_disabled_distributor_keeps_interrupts_pending() {
    for version in BOTH {
        let mut guest = Guest::new(version, 1, 4);
        guest.enable(0, SPI);
        guest.write(0, offsets::CTLR, 0);
        guest.inject(|vgic| vgic.pulse_spi(SPI));
        assert_eq!(guest.acknowledge(0), None);
        guest.write(0, offsets::CTLR, 3);
        assert_eq!(guest.acknowledge(0), Some(SPI));
    }
}

#[test]
fn a_level_that_stays_high_is_pending_again_at_the_end() {
    for version in BOTH {
        let mut guest = Guest::new(version, 1, 4);
        guest.enable(0, SPI);
        guest.inject(|vgic| vgic.set_spi_level(SPI, true));
        for _ in 0..3 {
            assert_eq!(guest.acknowledge(0), Some(SPI));
            assert_eq!(guest.acknowledge(0), None, "not while it is active");
            guest.end(0, SPI);
        }
        assert!(guest.maintenances > 0);
        assert_eq!(guest.acknowledge(0), Some(SPI));
        guest.inject(|vgic| vgic.set_spi_level(SPI, false));
        let before = guest.maintenances;
        guest.end(0, SPI);
        assert_eq!(guest.acknowledge(0), None);
        assert_eq!(
            guest.maintenances, before,
            "a line that was lowered in time needs no maintenance"
        );
    }
}

#[test]
fn a_level_that_falls_before_it_is_taken_leaves_the_list_register() {
    for version in BOTH {
        let mut guest = Guest::new(version, 1, 4);
        guest.enable(0, SPI);
        guest.inject(|vgic| vgic.set_spi_level(SPI, true));
        assert!(guest.listed(0, SPI).is_some());
        guest.inject(|vgic| vgic.set_spi_level(SPI, false));
        assert_eq!(guest.listed(0, SPI), None);
        assert_eq!(guest.acknowledge(0), None);
    }
}

#[test]
fn an_edge_during_the_handler_is_delivered_after_it_without_maintenance() {
    for version in BOTH {
        let mut guest = Guest::new(version, 1, 4);
        guest.enable(0, SPI);
        guest.set_edge(0, SPI, true);
        guest.inject(|vgic| vgic.pulse_spi(SPI));
        assert_eq!(guest.acknowledge(0), Some(SPI));
        guest.inject(|vgic| vgic.pulse_spi(SPI));
        guest.inject(|vgic| vgic.pulse_spi(SPI));
        assert_eq!(
            guest.listed(0, SPI).map(|register| register.state),
            Some(LrState::PendingAndActive)
        );
        guest.end(0, SPI);
        assert_eq!(guest.acknowledge(0), Some(SPI));
        guest.end(0, SPI);
        assert_eq!(guest.acknowledge(0), None, "two edges while active are one");
        assert_eq!(guest.maintenances, 0);
    }
}

#[test]
fn sixty_four_interrupts_pass_through_four_list_registers_without_a_storm() {
    for version in BOTH {
        for (list_registers, bound) in [(1, 128), (4, 22), (16, 5)] {
            let mut guest = Guest::new(version, 1, list_registers);
            for interrupt in 32..96 {
                guest.enable(0, IntId(interrupt));
                guest.inject(|vgic| vgic.pulse_spi(IntId(interrupt)));
            }
            let mut seen = Vec::new();
            while let Some(interrupt) = guest.acknowledge(0) {
                seen.push(interrupt.0);
                guest.end(0, interrupt);
            }
            assert_eq!(seen, (32..96).collect::<Vec<_>>(), "each once, first come first served");
            assert!(
                guest.maintenances <= bound,
                "{} with {list_registers}",
                guest.maintenances
            );
        }
    }
}

#[test]
fn the_most_urgent_come_first_and_preempt() {
    for version in BOTH {
        for list_registers in [2, 3, 4] {
            let mut guest = Guest::new(version, 1, list_registers);
            for (interrupt, priority) in [(40, 0xa0), (41, 0x40), (42, 0x80), (43, 0x20), (44, 0xc0), (45, 0x60)] {
                guest.enable(0, IntId(interrupt));
                guest.set_priority(0, IntId(interrupt), priority);
            }
            for interrupt in [44, 40, 42, 45, 41, 43] {
                guest.inject(|vgic| vgic.pulse_spi(IntId(interrupt)));
                assert_eq!(
                    guest.acknowledge(0),
                    Some(IntId(interrupt)),
                    "each preempts the one before"
                );
            }
            for interrupt in [43, 41, 45, 42, 40, 44] {
                assert!(guest.active(0, IntId(interrupt)), "{interrupt} with {list_registers}");
                guest.end(0, IntId(interrupt));
                assert!(!guest.active(0, IntId(interrupt)), "{interrupt} with {list_registers}");
            }
            for interrupt in 40..46 {
                guest.inject(|vgic| vgic.pulse_spi(IntId(interrupt)));
            }
            for interrupt in [43, 41, 45, 42, 40, 44] {
                assert_eq!(guest.acknowledge(0), Some(IntId(interrupt)));
                guest.end(0, IntId(interrupt));
            }
        }
    }
}

#[test]
fn one_list_register_is_enough_without_preemption() {
    for version in BOTH {
        let mut guest = Guest::new(version, 1, 1);
        for (interrupt, priority) in [(40, 0xa0), (41, 0x40)] {
            guest.enable(0, IntId(interrupt));
            guest.set_priority(0, IntId(interrupt), priority);
            guest.inject(|vgic| vgic.pulse_spi(IntId(interrupt)));
            assert_eq!(guest.acknowledge(0), (interrupt == 40).then_some(IntId(40)));
        }
        guest.end(0, IntId(40));
        assert_eq!(guest.acknowledge(0), Some(IntId(41)));
    }
}

#[test]
fn a_handler_that_masks_interrupts_ends_while_a_more_urgent_one_waits() {
    for version in BOTH {
        for list_registers in [2, 4] {
            let mut guest = Guest::new(version, 1, list_registers);
            for interrupt in 40..48 {
                guest.enable(0, IntId(interrupt));
                guest.set_priority(0, IntId(interrupt), 0xf8 - (interrupt as u8 - 40) * 8);
                guest.inject(|vgic| vgic.pulse_spi(IntId(interrupt)));
                if interrupt < 46 {
                    assert_eq!(guest.acknowledge(0), Some(IntId(interrupt)));
                }
            }
            for interrupt in (40..46).rev() {
                guest.end(0, IntId(interrupt));
            }
            assert_eq!(guest.acknowledge(0), Some(IntId(47)));
        }
    }
}

#[test]
fn the_guests_mask_decides_who_wakes() {
    for version in BOTH {
        let mut guest = Guest::new(version, 1, 4);
        guest.enable(0, SPI);
        guest.set_priority(0, SPI, 0xa0);
        guest.interfaces[0].priority_mask = 0xa0;
        guest.inject(|vgic| vgic.pulse_spi(SPI));
        guest.vgic.wait(0, &mut guest.interfaces[0]);
        assert!(!guest.vgic.has_deliverable(0));
        guest.interfaces[0].priority_mask = 0xa8;
        guest.vgic.unload(0, &mut guest.interfaces[0]);
        assert!(guest.vgic.has_deliverable(0));
        guest.write(0, offsets::CTLR, 0);
        assert!(!guest.vgic.has_deliverable(0));
    }
}

#[test]
fn unloading_frees_the_list_registers_and_loading_goes_on_where_it_was() {
    for version in BOTH {
        let mut guest = Guest::new(version, 2, 4);
        for interrupt in 40..48 {
            guest.enable(0, IntId(interrupt));
            guest.inject(|vgic| vgic.pulse_spi(IntId(interrupt)));
        }
        assert_eq!(guest.acknowledge(0), Some(IntId(40)));
        assert!(guest.interfaces[0].wants_no_pending());
        guest.vgic.unload(0, &mut guest.interfaces[0]);
        assert_eq!(guest.interfaces[0].free(), 0xf);
        assert!(!guest.interfaces[0].wants_no_pending());
        assert!(guest.vgic.needs_flush(0));
        assert!(
            guest.active(1, IntId(40)) && guest.pending(1, IntId(41)),
            "exact while it is unloaded"
        );
        guest.flush(0);
        guest.end(0, IntId(40));
        for interrupt in 41..48 {
            assert_eq!(guest.acknowledge(0), Some(IntId(interrupt)));
            guest.end(0, IntId(interrupt));
        }
    }
}

#[test]
fn a_pending_spi_follows_its_route_and_an_active_one_after_its_end() {
    for version in BOTH {
        let mut guest = Guest::new(version, 2, 4);
        guest.enable(0, SPI);
        guest.set_edge(0, SPI, true);
        guest.inject(|vgic| vgic.pulse_spi(SPI));
        assert!(guest.listed(0, SPI).is_some());
        guest.route(0, SPI, 1);
        assert_eq!((guest.listed(0, SPI), guest.listed(1, SPI).is_some()), (None, true));
        assert_eq!(guest.acknowledge(0), None);
        assert_eq!(guest.acknowledge(1), Some(SPI));
        guest.route(0, SPI, 0);
        guest.inject(|vgic| vgic.pulse_spi(SPI));
        assert_eq!(guest.acknowledge(0), None, "it is active on the other vCPU");
        guest.end(1, SPI);
        assert_eq!(guest.acknowledge(1), None);
        assert_eq!(guest.acknowledge(0), Some(SPI));
    }
}

#[test]
fn an_spi_for_no_vcpu_waits_until_it_has_one() {
    for version in BOTH {
        let mut guest = Guest::new(version, 2, 4);
        guest.enable(0, SPI);
        match version {
            Version::V2 => guest.write_byte(0, offsets::TARGETS + 40, 0),
            Version::V3 => guest.write64(0, offsets::ROUTER + 8 * 40, 0x0001_0000),
        }
        guest.inject(|vgic| vgic.pulse_spi(SPI));
        assert_eq!((guest.acknowledge(0), guest.acknowledge(1)), (None, None));
        guest.route(0, SPI, 1);
        assert_eq!(guest.acknowledge(1), Some(SPI));
    }
}

#[test]
fn state_can_be_read_while_another_vcpu_holds_it_and_written() {
    for version in BOTH {
        let mut guest = Guest::new(version, 2, 4);
        guest.enable(0, SPI);
        guest.inject(|vgic| vgic.pulse_spi(SPI));
        guest.acknowledge_silently(0);
        assert!(guest.active(1, SPI), "the holder is asked");
        assert!(!guest.pending(1, SPI));
        guest.write(1, offsets::CLEAR_ACTIVE + 4, 1 << 8);
        assert!(!guest.active(1, SPI));
        assert_eq!(guest.listed(0, SPI), None);

        guest.write(1, offsets::SET_PENDING + 4, 1 << 8);
        assert!(guest.listed(0, SPI).is_some());
        guest.write(1, offsets::CLEAR_PENDING + 4, 1 << 8);
        assert_eq!((guest.listed(0, SPI), guest.pending(1, SPI)), (None, false));
        guest.write(1, offsets::SET_ACTIVE + 4, 1 << 8);
        assert_eq!(
            guest.listed(0, SPI).map(|register| register.state),
            Some(LrState::Active)
        );
    }
}

#[test]
fn an_interrupt_after_a_clear_is_not_cleared() {
    for version in BOTH {
        let mut guest = Guest::new(version, 2, 4);
        guest.enable(0, SPI);
        guest.inject(|vgic| vgic.pulse_spi(SPI));
        guest.serve = false;
        guest.write(1, offsets::CLEAR_PENDING + 4, 1 << 8);
        guest.inject(|vgic| vgic.pulse_spi(SPI));
        guest.serve = true;
        guest.flush(0);
        assert_eq!(guest.acknowledge(0), Some(SPI));
    }
}

#[test]
fn a_server_that_never_sends_0_makes_it_pending_each_time() {
    for version in BOTH {
        for edge in [false, true] {
            let mut guest = Guest::new(version, 1, 4);
            guest.enable(0, SPI);
            guest.set_edge(0, SPI, edge);
            for _ in 0..3 {
                guest.inject(|vgic| vgic.set_irq_level(SPI, true));
                assert_eq!(guest.acknowledge(0), Some(SPI));
                guest.end(0, SPI);
                assert_eq!(guest.acknowledge(0), None);
            }
            assert_eq!(guest.maintenances, 0);
        }
    }
}

#[test]
fn a_server_that_has_sent_0_drives_a_line() {
    for version in BOTH {
        let mut guest = Guest::new(version, 1, 4);
        guest.enable(0, SPI);
        guest.inject(|vgic| vgic.set_irq_level(SPI, true));
        guest.inject(|vgic| vgic.set_irq_level(SPI, false));
        assert_eq!(guest.acknowledge(0), None, "it was lowered before it was taken");
        guest.inject(|vgic| vgic.set_irq_level(SPI, true));
        assert_eq!(guest.acknowledge(0), Some(SPI));
        guest.end(0, SPI);
        assert_eq!(guest.acknowledge(0), Some(SPI), "still high");
        guest.inject(|vgic| vgic.set_irq_level(SPI, false));
        guest.end(0, SPI);
        assert_eq!(guest.acknowledge(0), None);
    }
}

#[test]
fn reserved_and_foreign_interrupts_are_refused_to_servers() {
    for version in BOTH {
        let mut guest = Guest::new(version, 2, 4);
        let vgic = &mut guest.vgic;
        vgic.reserve(IntId(32)).unwrap();
        vgic.bind_physical(IntId(50), IntId(70), false).unwrap();
        for (interrupt, error) in [
            (IntId(32), VgicError::Reserved(IntId(32))),
            (IntId(50), VgicError::Reserved(IntId(50))),
            (IntId(0), VgicError::NotSpi(IntId(0))),
            (IntId(31), VgicError::NotSpi(IntId(31))),
            (IntId(32 + 128), VgicError::NotSpi(IntId(32 + 128))),
            (IntId(1023), VgicError::NotSpi(IntId(1023))),
            (IntId(u32::MAX), VgicError::NotSpi(IntId(u32::MAX))),
        ] {
            assert_eq!(vgic.set_irq_level(interrupt, true), Err(error));
            assert_eq!(vgic.set_irq_level(interrupt, false), Err(error));
        }
        assert_eq!(
            vgic.set_irq_level(IntId(159), true),
            Ok(VcpuSet::EMPTY),
            "disabled: nobody to kick"
        );
        assert_eq!(
            vgic.bind_physical(IntId(50), IntId(71), false),
            Err(VgicError::Bound(IntId(50)))
        );
        assert_eq!(vgic.physical(IntId(51)), Err(VgicError::NotPhysical(IntId(51))));
        assert_eq!(vgic.pulse_private(2, IntId(30)), Err(VgicError::NoVcpu(2)));
        assert_eq!(vgic.pulse_private(1, IntId(3)), Err(VgicError::NotPpi(IntId(3))));
        assert_eq!(
            vgic.set_private_level(1, IntId(32), true),
            Err(VgicError::NotPpi(IntId(32)))
        );
    }
}

#[test]
fn gicv2_sgis_reach_the_targets_of_the_filter() {
    // (GICD_SGIR, vCPUs that get SGI 5 from vCPU 1)
    for (value, targets) in [
        (0b0101 << 16 | 5, 0b0101),
        (0xff << 16 | 5, 0b1111),
        (5, 0),
        (1 << 24 | 0xff << 16 | 5, 0b1101),
        (2 << 24 | 5, 0b0010),
        (3 << 24 | 0xff << 16 | 5, 0),
    ] {
        let mut guest = Guest::new(Version::V2, 4, 4);
        guest.write(1, offsets::SGIR, value);
        for vcpu in 0..4 {
            let expected = (targets & 1 << vcpu != 0).then_some(IntId(5));
            if expected.is_some() {
                let backing = guest.listed(vcpu, IntId(5)).unwrap().backing;
                assert_eq!(
                    backing,
                    Backing::Software {
                        maintenance: false,
                        source: 1
                    }
                );
            }
            assert_eq!(guest.acknowledge(vcpu), expected, "{value:#x}");
        }
    }
}

#[test]
fn a_gicv2_sgi_from_each_source_is_delivered_once() {
    for list_registers in [1, 4] {
        let mut guest = Guest::new(Version::V2, 4, list_registers);
        for source in [2, 0, 3, 2] {
            guest.write(source, offsets::SGIR, 0b0010 << 16 | 7);
        }
        assert_eq!(guest.read(1, offsets::SET_SGI_PENDING + 4), 0b1101 << 24);
        let mut sources = Vec::new();
        while let Some(source) = guest.listed(1, IntId(7)).map(|register| register.backing) {
            let Backing::Software { source, .. } = source else {
                panic!("an SGI in hardware")
            };
            sources.push(source);
            assert_eq!(guest.acknowledge(1), Some(IntId(7)));
            guest.end(1, IntId(7));
        }
        assert_eq!(sources, [0, 2, 3]);
    }
}

#[test]
fn gicv2_sgi_pending_is_written_by_source() {
    let mut guest = Guest::new(Version::V2, 2, 4);
    guest.write_byte(0, offsets::SET_SGI_PENDING + 3, 0xff);
    assert_eq!(
        guest.read_byte(0, offsets::CLEAR_SGI_PENDING + 3),
        0b11,
        "from vCPUs that exist"
    );
    assert_eq!(guest.read(0, offsets::SET_PENDING), 1 << 3);
    guest.write_byte(0, offsets::CLEAR_SGI_PENDING + 3, 0b01);
    assert_eq!(guest.read_byte(0, offsets::SET_SGI_PENDING + 3), 0b10);
    guest.write(0, offsets::CLEAR_PENDING, 0xffff);
    assert_eq!(
        guest.read_byte(0, offsets::SET_SGI_PENDING + 3),
        0b10,
        "GICD_ICPENDR0 does not clear SGIs"
    );
    assert_eq!(guest.acknowledge(0), Some(IntId(3)));
    assert_eq!(guest.read(1, offsets::SET_SGI_PENDING), 0, "banked");
}

#[test]
fn gicv3_sgis_reach_the_affinities_named() {
    // (register, value, vCPUs that get SGI 5 from vCPU 1)
    for (register, value, targets) in [
        (SgiRegister::Sgi1r, 5 << 24 | 0b0101, 0b0101),
        (SgiRegister::Sgi1r, 5 << 24 | 0xffff, 0b1111),
        (SgiRegister::Sgi1r, 5 << 24 | 0xff00, 0),
        (SgiRegister::Sgi1r, 1 << 40 | 5 << 24, 0b1101),
        (SgiRegister::Sgi1r, 1 << 40 | 5 << 24 | 0xf, 0b1101),
        (SgiRegister::Sgi1r, 1 << 16 | 5 << 24 | 0xf, 0),
        (SgiRegister::Sgi1r, 1 << 32 | 5 << 24 | 0xf, 0),
        (SgiRegister::Sgi1r, 1 << 44 | 5 << 24 | 0xf, 0),
        (SgiRegister::Sgi1r, 1 << 48 | 5 << 24 | 0xf, 0),
        (SgiRegister::Sgi0r, 5 << 24 | 0xf, 0b1000),
        (SgiRegister::Asgi1r, 5 << 24 | 0xf, 0b1000),
    ] {
        let mut guest = Guest::new(Version::V3, 4, 4);
        for vcpu in 0..4 {
            guest.enable(vcpu, IntId(5));
        }
        guest.write_redistributor(3, 3 * 0x2_0000 + 0x1_0080, !(1 << 5));
        let kick = guest.vgic.send_sgi(1, register, value);
        assert_eq!(kick.0, targets, "{value:#x}");
        guest.serve(kick);
        for vcpu in 0..4 {
            let expected = (targets & 1 << vcpu != 0).then_some(IntId(5));
            assert_eq!(guest.acknowledge(vcpu), expected, "{register:?} {value:#x}");
        }
        assert_eq!(guest.vgic.send_sgi(4, register, value), VcpuSet::EMPTY);
    }
}

#[test]
fn what_cannot_be_taken_now_kicks_nobody() {
    let mut guest = Guest::new(Version::V3, 1, 4);
    for interrupt in 40..60 {
        guest.enable(0, IntId(interrupt));
        guest.set_priority(0, IntId(interrupt), 0xa0);
    }
    for interrupt in 40..45 {
        guest.inject(|vgic| vgic.pulse_spi(IntId(interrupt)));
    }
    assert_eq!(
        guest.vgic.pulse_spi(IntId(50)),
        Ok(VcpuSet::EMPTY),
        "list registers are full of its equals"
    );
    assert!(!guest.vgic.needs_flush(0));
    guest.set_priority(0, IntId(51), 0x20);
    assert_eq!(guest.vgic.pulse_spi(IntId(51)), Ok(VcpuSet::only(0)));
    guest.flush(0);
    assert_eq!(guest.acknowledge(0), Some(IntId(51)));
}

#[test]
fn an_end_matches_the_priority_of_the_acknowledge() {
    for version in BOTH {
        let mut guest = Guest::new(version, 1, 4);
        guest.enable(0, SPI);
        guest.set_priority(0, SPI, 0x80);
        guest.inject(|vgic| vgic.pulse_spi(SPI));
        assert_eq!(guest.acknowledge(0), Some(SPI));
        guest.set_priority(0, SPI, 0x20);
        guest.vgic.unload(0, &mut guest.interfaces[0]);
        guest.flush(0);
        assert_eq!(guest.listed(0, SPI).map(|register| register.priority), Some(0x80));
        guest.end(0, SPI);
        assert!(!guest.active(0, SPI));
    }
}

#[test]
fn what_comes_again_during_its_handler_has_the_priority_that_was_written_meanwhile() {
    for version in BOTH {
        let mut guest = Guest::new(version, 1, 4);
        let urgent = IntId(SPI.0 + 16);
        for (interrupt, priority) in [(SPI, 0x10), (urgent, 0x40)] {
            guest.enable(0, interrupt);
            guest.set_edge(0, interrupt, true);
            guest.set_priority(0, interrupt, priority);
        }
        guest.inject(|vgic| vgic.pulse_spi(SPI));
        assert_eq!(guest.acknowledge(0), Some(SPI));
        guest.inject(|vgic| vgic.pulse_spi(SPI));
        guest.set_priority(0, SPI, 0x80);
        guest.vgic.unload(0, &mut guest.interfaces[0]);
        guest.flush(0);
        guest.inject(|vgic| vgic.pulse_spi(urgent));
        guest.end(0, SPI);
        assert_eq!(guest.acknowledge(0), Some(urgent));
        guest.end(0, urgent);
        assert_eq!(guest.acknowledge(0), Some(SPI));
        guest.end(0, SPI);
        assert_eq!(guest.acknowledge(0), None);
    }
}
