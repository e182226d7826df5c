//! The two encodings of a list register, bit by bit, and back.

use portunus::ids::IntId;
use portunus::vgic::list_register::{Backing, ListRegister, LrState, PriorityMask};

const fn software(maintenance: bool, source: u8) -> Backing {
    Backing::Software { maintenance, source }
}

#[test]
fn golden_encodings() {
    let cases = [
        // (register, ICH_LR<n>_EL2, GICH_LR<n>)
        (
            ListRegister {
                interrupt: IntId(27),
                priority: 0xa0,
                group1: true,
                state: LrState::Pending,
                backing: Backing::Physical(IntId(27)),
            },
            0x70a0_001b_0000_001b,
            0xda00_6c1b,
        ),
        (
            ListRegister {
                interrupt: IntId(1019),
                priority: 0xf8,
                group1: false,
                state: LrState::Active,
                backing: software(true, 0),
            },
            0x80f8_0200_0000_03fb,
            0x2f88_03fb,
        ),
        (
            ListRegister {
                interrupt: IntId(40),
                priority: 0,
                group1: true,
                state: LrState::PendingAndActive,
                backing: software(false, 0),
            },
            0xd000_0000_0000_0028,
            0x7000_0028,
        ),
        (
            ListRegister {
                interrupt: IntId(33),
                priority: 8,
                group1: false,
                state: LrState::Active,
                backing: Backing::Physical(IntId(1019)),
            },
            0xa008_03fb_0000_0021,
            0xa08f_ec21,
        ),
    ];
    for (register, ich, gich) in cases {
        assert_eq!(ListRegister::to_ich(Some(register)), ich, "{register:?}");
        assert_eq!(ListRegister::to_gich(Some(register)), gich, "{register:?}");
        assert_eq!(ListRegister::from_ich(ich), Some(register));
        assert_eq!(ListRegister::from_gich(gich), Some(register));
    }
    assert_eq!((ListRegister::to_ich(None), ListRegister::to_gich(None)), (0, 0));
}

#[test]
fn a_gicv2_sgi_names_its_source() {
    let register = ListRegister {
        interrupt: IntId(5),
        priority: 0x80,
        group1: false,
        state: LrState::Pending,
        backing: software(true, 6),
    };
    assert_eq!(ListRegister::to_gich(Some(register)), 0x1808_1805);
    assert_eq!(ListRegister::from_gich(0x1808_1805), Some(register));
}

#[test]
fn an_inactive_word_is_a_free_register() {
    assert_eq!(ListRegister::from_ich(0x3fff_ffff_ffff_ffff), None);
    assert_eq!(ListRegister::from_gich(0xcfff_ffff), None);
}

#[test]
fn every_register_survives_both_encodings() {
    let states = [LrState::Pending, LrState::Active, LrState::PendingAndActive];
    let backings = [
        software(false, 0),
        software(true, 0),
        Backing::Physical(IntId(16)),
        Backing::Physical(IntId(1019)),
    ];
    for interrupt in (0..IntId::SPI_LIMIT).map(IntId) {
        for (state, backing) in states
            .into_iter()
            .flat_map(|state| backings.map(|backing| (state, backing)))
        {
            for priority in (0..32).map(|level| level * 8) {
                let group1 = priority & 8 != 0;
                let register = ListRegister {
                    interrupt,
                    priority,
                    group1,
                    state,
                    backing,
                };
                assert_eq!(
                    ListRegister::from_ich(ListRegister::to_ich(Some(register))),
                    Some(register)
                );
                assert_eq!(
                    ListRegister::from_gich(ListRegister::to_gich(Some(register))),
                    Some(register)
                );
            }
        }
    }
}

#[test]
fn the_mask_lets_more_urgent_interrupts_of_enabled_groups_through() {
    let mask = PriorityMask {
        threshold: 0x80,
        group0: false,
        group1: true,
    };
    for (priority, group1, accepted) in [(0x78, true, true), (0x80, true, false), (0, false, false)] {
        assert_eq!(mask.accepts(priority, group1), accepted, "{priority:#x} {group1}");
    }
}
