//! The memory-mapped registers: what they say, what they keep, and that no access whatever does harm.

#[path = "vgic_support/guest.rs"]
mod guest;

use guest::{BOTH, Guest, offsets};
use portunus::access::{AccessWidth, Direction};
use portunus::ids::IntId;
use portunus::vgic::{Config, Frame, Version, Vgic, VgicError};

const WIDTHS: [AccessWidth; 4] = [
    AccessWidth::Byte,
    AccessWidth::Halfword,
    AccessWidth::Word,
    AccessWidth::Doubleword,
];
const GICD: Frame = Frame::Distributor;
const GICR: Frame = Frame::Redistributor;
const WORD: AccessWidth = AccessWidth::Word;
const DOUBLEWORD: AccessWidth = AccessWidth::Doubleword;

#[test]
fn configurations_out_of_range_are_refused() {
    for (vcpus, spis, error) in [
        (0, 32, VgicError::Vcpus(0)),
        (9, 32, VgicError::Vcpus(9)),
        (1, 31, VgicError::Spis(31)),
        (1, 989, VgicError::Spis(989)),
    ] {
        for version in BOTH {
            assert_eq!(Vgic::new(Config { version, vcpus, spis }).err(), Some(error));
        }
    }
}

#[test]
fn the_type_register_counts_interrupts_and_cpus() {
    // (version, vCPUs, SPIs, GICD_TYPER): ITLinesNumber 4:0, CPUNumber 7:5 (GICv2), IDbits 23:19 and No1N 25 (GICv3)
    for (version, vcpus, spis, value) in [
        (Version::V2, 1, 32, 0x01),
        (Version::V2, 4, 64, 0x62),
        (Version::V2, 8, 988, 0xff),
        (Version::V3, 1, 32, 0x0248_0001),
        (Version::V3, 8, 43, 0x0248_0002),
        (Version::V3, 8, 988, 0x0248_001f),
    ] {
        let mut vgic = Vgic::new(Config { version, vcpus, spis }).unwrap();
        let mut interface = portunus::fakes::FakeVirtualInterface::new(4);
        let result = vgic.mmio(&mut interface, 0, GICD, 4, WORD, Direction::Read);
        assert_eq!(
            result.answer,
            portunus::vgic::Answer::Value(value),
            "{version:?} {vcpus} {spis}"
        );
    }
}

#[test]
fn identification() {
    for (version, frame, offset, width, value) in [
        (Version::V2, GICD, 0xfe8, WORD, 0x2b),
        (Version::V3, GICD, 0xffe8, WORD, 0x3b),
        (Version::V3, GICR, 0xffe8, WORD, 0x3b),
        (Version::V3, GICR, 0x3_ffe8, WORD, 0x3b),
        (Version::V2, GICD, 8, WORD, 0x5000_043b),
        (Version::V3, GICD, 8, WORD, 0x5000_043b),
        (Version::V3, GICD, 0xc, WORD, 0),
        (Version::V3, GICR, 4, WORD, 0x5000_043b),
        // Affinity 63:32, processor number 23:8, Last in bit 4.
        (Version::V3, GICR, 0x8, DOUBLEWORD, 0),
        (Version::V3, GICR, 0x2_0008, DOUBLEWORD, 0x1_0000_0100),
        (Version::V3, GICR, 0x4_0008, DOUBLEWORD, 0x2_0000_0210),
        (Version::V3, GICR, 0x4_0008, WORD, 0x210),
        (Version::V3, GICR, 0x4_000c, WORD, 2),
        (Version::V3, GICR, 0x6_0008, DOUBLEWORD, 0),
        // GICR_CTLR, GICR_SYNCR
        (Version::V3, GICR, 0, WORD, 0),
        (Version::V3, GICR, 0xc0, WORD, 0),
    ] {
        let mut guest = Guest::new(version, 3, 4);
        guest.access(0, frame, offset, width, Direction::Write(width.mask()));
        assert_eq!(
            guest.access(0, frame, offset, width, Direction::Read).0,
            value,
            "{frame:?} {offset:#x}"
        );
    }
}

#[test]
fn control_keeps_the_enables_alone() {
    for (version, fixed) in [(Version::V2, 0), (Version::V3, 0x50)] {
        let mut guest = Guest::new(version, 1, 4);
        for (written, kept) in [(0, 0), (1, 1), (2, 2), (0xffff_ffff, 3)] {
            guest.write(0, offsets::CTLR, written);
            assert_eq!(guest.read(0, offsets::CTLR), kept | fixed);
        }
    }
}

#[test]
fn what_is_written_to_a_register() {
    const ONES: u64 = 0xffff_ffff;
    // (version, frame, offset, width, written, read)
    for (version, frame, offset, width, written, read) in [
        // Five priority bits.
        (Version::V2, GICD, 0x420, WORD, 0xff07_a108, 0xf800_a008),
        (Version::V2, GICD, 0x423, AccessWidth::Byte, 0xff, 0xf8),
        (Version::V2, GICD, 0x422, AccessWidth::Halfword, 0xffff, 0),
        (Version::V2, GICD, 0x420, DOUBLEWORD, u64::MAX, 0),
        // Private targets are one's own; others exist or not; after reset vCPU 0.
        (Version::V2, GICD, 0x800, WORD, ONES, 0x0101_0101),
        (Version::V2, GICD, 0x820, WORD, 0xff05_0200, 0x0705_0200),
        (Version::V2, GICD, 0x825, AccessWidth::Byte, 0x84, 0x04),
        // SGIs are edge-triggered and, in a GICv2, enabled.
        (Version::V2, GICD, 0xc00, WORD, 0, 0xaaaa_aaaa),
        (Version::V2, GICD, 0xc04, WORD, ONES, 0xaaaa_aaaa),
        (Version::V2, GICD, 0xc08, WORD, 0x5555_5555, 0),
        (Version::V2, GICD, 0x180, WORD, ONES, 0xffff),
        (Version::V2, GICD, 0x100, WORD, ONES, ONES),
        (Version::V2, GICD, 0x80, WORD, 0x1234_5678, 0x1234_5678),
        (Version::V2, GICD, 0xf00, WORD, 3 << 24, 0),
        // 128 SPIs: interrupts beyond 159 do not exist.
        (Version::V2, GICD, 0x110, WORD, ONES, ONES),
        (Version::V2, GICD, 0x114, WORD, ONES, 0),
        (Version::V2, GICD, 0x4a0, WORD, ONES, 0),
        (Version::V2, GICD, 0xc28, WORD, ONES, 0),
        (Version::V2, GICD, 0x8a0, WORD, ONES, 0),
        (Version::V2, GICD, 0x1100, WORD, ONES, 0),
        (Version::V3, GICD, 0x114, WORD, ONES, 0),
        // A GICv3's GICD has no private interrupts and no target lists.
        (Version::V3, GICD, 0x100, WORD, ONES, 0),
        (Version::V3, GICD, 0x400, WORD, ONES, 0),
        (Version::V3, GICD, 0xc04, WORD, ONES, 0),
        (Version::V3, GICD, 0x820, WORD, ONES, 0),
        (Version::V3, GICD, 0xf20, WORD, ONES, 0),
        (Version::V3, GICD, 0xd04, WORD, ONES, 0),
        (Version::V3, GICD, 0x104, WORD, 0x8000_0001, 0x8000_0001),
        (Version::V3, GICD, 0x104, AccessWidth::Byte, 1, 0),
        // IROUTER as one and as two words: no 1-of-N routing, no Aff3.
        (Version::V3, GICD, 0x6100, DOUBLEWORD, u64::MAX, 0x00ff_ffff),
        (Version::V3, GICD, 0x6100, WORD, 2, 2),
        (Version::V3, GICD, 0x6104, WORD, 0xff, 0),
        (Version::V3, GICD, 0x60f8, DOUBLEWORD, 1, 0),
        (Version::V3, GICD, 0x6104, DOUBLEWORD, 1, 0),
        (Version::V3, GICD, 0x6500, DOUBLEWORD, 1, 0),
        // Redistributors, also somebody else's; none beyond the last.
        (Version::V3, GICR, 0x1_0100, WORD, 0x0800_0001, 0x0800_0001),
        (Version::V3, GICR, 0x5_0104, WORD, ONES, 0),
        (Version::V3, GICR, 0x5_0400, WORD, ONES, 0xf8f8_f8f8),
        (Version::V3, GICR, 0x5_041f, AccessWidth::Byte, 0x81, 0x80),
        (Version::V3, GICR, 0x5_0420, WORD, ONES, 0),
        (Version::V3, GICR, 0x1_0c00, WORD, 0, 0xaaaa_aaaa),
        (Version::V3, GICR, 0x1_0c04, WORD, 2, 2),
        (Version::V3, GICR, 0x7_0100, WORD, ONES, 0),
        (Version::V2, GICR, 0x1_0100, WORD, ONES, 0),
        // ChildrenAsleep follows ProcessorSleep.
        (Version::V3, GICR, 0x14, WORD, ONES, 6),
        (Version::V3, GICR, 0x14, WORD, 4, 0),
    ] {
        let mut guest = Guest::new(version, 3, 4);
        guest.access(0, frame, offset, width, Direction::Write(written & width.mask()));
        let got = guest.access(0, frame, offset, width, Direction::Read).0;
        assert_eq!(got, read, "{version:?} {frame:?} {offset:#x} {width:?}: {got:#x}");
    }
}

#[test]
fn gicv2_private_registers_are_banked() {
    let mut guest = Guest::new(Version::V2, 3, 4);
    for vcpu in 0..3 {
        guest.set_priority(vcpu, IntId(30), vcpu * 16);
        assert_eq!(guest.read_byte(vcpu, offsets::TARGETS + 30), 1 << vcpu);
    }
    for vcpu in 0..3 {
        assert_eq!(guest.read_byte(vcpu, offsets::PRIORITY + 30), u64::from(vcpu) * 16);
    }
}

#[test]
fn the_last_spi_works() {
    for version in BOTH {
        let mut vgic = Vgic::new(Config {
            version,
            vcpus: 1,
            spis: 988,
        })
        .unwrap();
        let mut interface = portunus::fakes::FakeVirtualInterface::new(4);
        for (offset, value) in [(0, 3), (0x17c, 0xffff_ffff)] {
            vgic.mmio(&mut interface, 0, GICD, offset, WORD, Direction::Write(value));
        }
        let enabled = vgic.mmio(&mut interface, 0, GICD, 0x17c, WORD, Direction::Read).answer;
        assert_eq!(
            enabled,
            portunus::vgic::Answer::Value(0x0fff_ffff),
            "1020 to 1023 are no interrupts"
        );
        vgic.pulse_spi(IntId(1019)).unwrap();
        vgic.flush(0, &mut interface);
        assert_eq!(interface.acknowledge(), Some(IntId(1019)));
        assert_eq!(vgic.pulse_spi(IntId(1020)), Err(VgicError::NotSpi(IntId(1020))));
    }
}

#[test]
fn every_offset_with_every_width_in_and_past_every_frame_is_harmless() {
    for version in BOTH {
        let mut guest = Guest::new(version, 3, 4);
        guest.vgic.bind_physical(IntId(40), IntId(70), true).unwrap();
        guest.vgic.bind_physical_ppi(IntId(27), IntId(27)).unwrap();
        let interesting = [
            u64::MAX,
            u64::MAX - 3,
            u64::MAX - 7,
            1 << 63,
            0x1_0000_0000,
            0x20_0000 * 255,
            0x200_0000,
        ];
        let distributor = (0..0x1_0000 + 0x40).chain(interesting);
        // Every byte of two frames, then what is past the last.
        let redistributors = (0..0x1000)
            .chain(0x1_0000..0x1_1000)
            .chain(0x3_f000..0x4_0040)
            .chain(0x5_ff00..0x6_0100);
        let accesses = distributor
            .map(|offset| (GICD, offset))
            .chain(redistributors.chain(interesting).map(|offset| (GICR, offset)));
        for (index, (frame, offset)) in accesses.enumerate() {
            let vcpu = (index % 3) as u8;
            for width in WIDTHS {
                for value in [u64::MAX, 0, 0x5a5a_5a5a_a5a5_a5a5] {
                    guest.access(vcpu, frame, offset, width, Direction::Write(value & width.mask()));
                    guest.access(vcpu, frame, offset, width, Direction::Read);
                }
            }
        }
        // No vCPU of that number.
        for vcpu in [3, 8, 255] {
            let interface = &mut guest.interfaces[0];
            for direction in [Direction::Read, Direction::Write(u64::MAX)] {
                guest.vgic.mmio(interface, vcpu, GICD, 0x200, WORD, direction);
            }
            guest.vgic.sync(vcpu, interface);
            guest.vgic.flush(vcpu, interface);
            guest.vgic.wait(vcpu, interface);
            guest.vgic.unload(vcpu, interface);
            assert!(!guest.vgic.has_deliverable(vcpu) && !guest.vgic.needs_flush(vcpu));
        }
    }
}
