//! A line's word that a guest clears again and again: what is known of it holds for as long as nothing of it has changed.

#[path = "vgic_support/guest.rs"]
mod guest;

use guest::{BOTH, Guest, offsets};
use portunus::fakes::FakeVirtualInterface;
use portunus::ids::{IntId, VcpuSet};
use portunus::vgic::list_register::LrState;
use portunus::vgic::{Cleared, KnownLine, Line, Version, Vgic};

const SPI: IntId = IntId(40);
const OTHER: IntId = IntId(41);

/// Bits are set in the word of [`SPI`].
fn raise(guest: &mut Guest, bits: u32) {
    guest.inject(|vgic| {
        vgic.change_word(SPI, 0, bits);
        vgic.raise_spi(SPI)
    });
}

/// vCPU 0 clears 1 in the word, by what is known of it; what is stored where the word is shown is counted.
fn clear(guest: &mut Guest, vcpu: u8, known: &KnownLine) -> (Cleared, u32) {
    let mut stores = 0;
    let interface = &mut guest.interfaces[usize::from(vcpu)];
    let cleared = guest.vgic.clear_known_word(vcpu, known, interface, || stores += 1);
    if cleared == Cleared::ButForItsEnd {
        guest.vgic.end_cleared(vcpu, known);
    }
    (cleared, stores)
}

/// As a store of which nothing is known does it.
fn clear_anew(guest: &mut Guest, vcpu: u8) {
    assert_eq!(guest.vgic.change_word(SPI, 1, 0), (0, Line::Low));
    let interface = &mut guest.interfaces[usize::from(vcpu)];
    let kick = guest.vgic.lower_own_spi(vcpu, SPI, interface).expect("an SPI");
    guest.serve(kick);
}

/// A guest that has taken the interrupt once, and cleared its word; what is known since.
fn known(version: Version, edge: bool) -> (Guest, KnownLine) {
    let mut guest = Guest::new(version, 2, 4);
    assert_eq!(guest.vgic.connect_line(SPI), Ok(VcpuSet::EMPTY));
    guest.set_edge(0, SPI, edge);
    guest.enable(0, SPI);
    guest.enable(0, OTHER);
    raise(&mut guest, 1);
    assert_eq!(guest.acknowledge(0), Some(SPI));
    clear_anew(&mut guest, 0);
    let known = guest.vgic.know_word(SPI, 1).expect("a word");
    guest.end(0, SPI);
    (guest, known)
}

#[test]
fn a_word_that_is_known_is_cleared_in_the_list_register_again_and_again() {
    for version in BOTH {
        for edge in [false, true] {
            let (mut guest, known) = known(version, edge);
            for _ in 0..3 {
                raise(&mut guest, 1);
                assert_eq!(guest.acknowledge(0), Some(SPI));
                assert_eq!(clear(&mut guest, 0, &known), (Cleared::All, 1), "edge {edge}");
                assert_eq!(guest.vgic.word(SPI), 0);
                assert_eq!(guest.listed(0, SPI).map(|held| held.state), Some(LrState::Active));
                assert_eq!(
                    clear(&mut guest, 0, &known),
                    (Cleared::Not, 0),
                    "there is nothing left to clear"
                );
                guest.end(0, SPI);
                assert_eq!(guest.acknowledge(0), None);
            }
            assert_eq!(guest.maintenances, 0);
            // Before it was taken, nothing of it is left.
            raise(&mut guest, 1);
            assert_eq!(clear(&mut guest, 0, &known), (Cleared::ButForItsEnd, 1), "edge {edge}");
            assert_eq!((guest.acknowledge(0), guest.pending(0, SPI)), (None, false));
            raise(&mut guest, 1);
            assert_eq!(guest.acknowledge(0), Some(SPI));
        }
    }
}

#[test]
fn what_is_known_is_no_longer_so_once_anything_of_it_has_changed() {
    type Change = fn(&mut Guest);
    // What changes while the handler runs, with the word 1.
    let rows: [(&str, Change); 12] = [
        ("the word is shown elsewhere, or not", |guest| {
            guest.vgic.forget_word(SPI);
        }),
        ("it was known anew since", |guest| {
            guest.vgic.forget_word(SPI);
            assert!(guest.vgic.know_word(SPI, 1).is_some());
        }),
        ("another bit is set", |guest| {
            guest.vgic.change_word(SPI, 0, 2);
        }),
        ("it is zero already", |guest| {
            guest.vgic.change_word(SPI, 1, 0);
        }),
        ("the line is another device's", |guest| {
            guest.inject(|vgic| vgic.disconnect_line(SPI));
            guest.inject(|vgic| vgic.connect_line(SPI));
            guest.vgic.change_word(SPI, 0, 1);
            assert!(guest.vgic.know_word(SPI, 1).is_some());
        }),
        ("the guest wants it edge-triggered", |guest| {
            guest.set_edge(0, SPI, true)
        }),
        ("the guest disables it", |guest| {
            guest.set_bit(0, offsets::CLEAR_ENABLE, SPI);
        }),
        ("the guest makes it pending itself", |guest| {
            guest.set_bit(0, offsets::SET_PENDING, SPI);
        }),
        ("another interrupt waits for a list register", |guest| {
            let _ = guest.vgic.raise_spi(OTHER);
        }),
        ("it is in no list register any more", |guest| {
            guest.end(0, SPI);
            guest.vgic.unload(0, &mut guest.interfaces[0]);
        }),
        ("its vCPU is parked", |guest| {
            guest.vgic.park(0, &mut guest.interfaces[0]);
        }),
        ("the controller was reset", |guest| {
            guest.vgic.power_off(0, &mut guest.interfaces[0]);
            guest.vgic.reset();
            assert_eq!(guest.vgic.connect_line(SPI), Ok(VcpuSet::EMPTY));
            guest.vgic.change_word(SPI, 0, 1);
            assert!(guest.vgic.know_word(SPI, 1).is_some());
        }),
    ];
    for version in BOTH {
        for (name, change) in rows {
            let (mut guest, known) = known(version, false);
            raise(&mut guest, 1);
            assert_eq!(guest.acknowledge(0), Some(SPI));
            change(&mut guest);
            let word = guest.vgic.word(SPI);
            assert_eq!(clear(&mut guest, 0, &known), (Cleared::Not, 0), "{name}");
            assert_eq!(guest.vgic.word(SPI), word, "{name}");
        }
    }
}

#[test]
fn nobody_else_clears_a_word_by_what_one_vcpu_holds() {
    for version in BOTH {
        let (mut guest, known) = known(version, false);
        raise(&mut guest, 1);
        assert_eq!(guest.acknowledge(0), Some(SPI));
        for other in [1, 7, 8, u8::MAX] {
            let interface = &mut guest.interfaces[1];
            let cleared = guest
                .vgic
                .clear_known_word(other, &known, interface, || panic!("stored"));
            assert_eq!(cleared, Cleared::Not);
        }
        assert_eq!(clear(&mut guest, 0, &known), (Cleared::All, 1));
    }
}

#[test]
fn what_is_no_word_is_not_known() {
    let mut guest = Guest::new(Version::V3, 1, 4);
    for strange in [IntId(0), IntId(31), IntId(1020), IntId(u32::MAX)] {
        assert_eq!(guest.vgic.know_word(strange, 1), None);
        assert_eq!(guest.vgic.change_word(strange, 0, 1), (0, Line::Unchanged));
        assert_eq!(guest.vgic.word(strange), 0);
        guest.vgic.forget_word(strange);
    }
    // A store of nothing clears nothing.
    assert_eq!(guest.vgic.know_word(SPI, 0), None);
    let clear = |vgic: &mut Vgic, known: &KnownLine, interface: &mut FakeVirtualInterface| {
        vgic.clear_known_word(0, known, interface, || panic!("stored"))
    };
    assert_eq!(
        clear(&mut guest.vgic, &KnownLine::NONE, &mut guest.interfaces[0]),
        Cleared::Not
    );
}
