//! Shadow pages while servers fail, go and follow each other, and while the guest starts anew.

use portunus::abi::HypercallError;
use portunus::abi::dm_op::Detach;
use portunus::abi::sched::ShutdownReason;
use portunus::ids::Ipa;
use portunus::ioreq::shadow::State;
use portunus::manifest::lifecycle::OnShutdown;

use crate::backend::{PAGES, Server};
use crate::guest::refused;
use crate::restarts::{answer_reset, is_up};
use crate::shadow_server::{
    B0, FRAME, G0, INTERRUPT_ACK, INTERRUPT_STATUS, MAGIC, NEEDS_RESET, SHADOW, STATUS, page, register, with, world,
};
use crate::sim::Sim;
use crate::world::{ALWAYS_UP, BACKEND, DISK, DISK_INTERRUPT, GUEST, MS, Options};

/// How a server is lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Disabled,
    Destroyed,
    OnePortClosed,
    AllPortsClosed,
    TooSlow,
    DomainStopped,
}

const LOSSES: [Loss; 6] = [
    Loss::Disabled,
    Loss::Destroyed,
    Loss::OnePortClosed,
    Loss::AllPortsClosed,
    Loss::TooSlow,
    Loss::DomainStopped,
];

fn lose(sim: &Sim, server: &Server, loss: Loss) {
    match loss {
        Loss::Disabled => assert_eq!(sim.set_enabled(B0, server.id, false), 0),
        Loss::Destroyed => assert_eq!(sim.destroy_server(B0, server.id), 0),
        Loss::OnePortClosed => assert_eq!(sim.close(B0, server.ports[1]), 0),
        Loss::AllPortsClosed => server.ports.iter().for_each(|port| assert_eq!(sim.close(B0, *port), 0)),
        Loss::TooSlow => {
            assert!(!sim.store_to_shown(G0, DISK + STATUS, 2, 1));
            sim.advance(20 * MS);
            sim.advance(20 * MS);
        }
        Loss::DomainStopped => {
            sim.direct(|hypervisor| hypervisor.shut_down(sim.domain(BACKEND), ShutdownReason::Crash));
        }
    }
}

#[test]
fn a_lost_servers_page_is_taken_from_it_and_then_says_so_to_the_guest() {
    for loss in LOSSES {
        let sim = world();
        let server = sim.serve_shown(PAGES);
        sim.put(BACKEND, (SHADOW << 12) + STATUS, &7_u32);
        assert!(sim.has_frame(SHADOW) && sim.has_frame(SHADOW + 1));
        assert_eq!(sim.references_to_shadow(), 2);
        lose(&sim, &server, loss);
        assert_eq!(sim.state_of_shadow(), State::Left, "{loss:?}");
        if matches!(loss, Loss::TooSlow) {
            // It can't know yet, and stores what nobody sees.
            assert_eq!(sim.references_to_shadow(), 2);
            sim.scribble(SHADOW);
            sim.scribble(SHADOW + 1);
        } else {
            assert!(!sim.has_frame(SHADOW) && !sim.has_frame(SHADOW + 1), "{loss:?}");
            assert_eq!(sim.references_to_shadow(), 0, "{loss:?}");
        }
        assert_eq!(sim.shown_word(STATUS), 7 | NEEDS_RESET);
        assert_eq!(sim.shown_word(INTERRUPT_STATUS), 2);
        if matches!(loss, Loss::TooSlow) {
            // The vCPU waits for a server; the interrupt waits for it.
            continue;
        }
        assert_eq!(sim.take_interrupt(G0), Some(DISK_INTERRUPT), "{loss:?}");
        sim.maintain(G0);
        assert_eq!(sim.take_interrupt(G0), Some(DISK_INTERRUPT), "it was not acknowledged");
        sim.maintain(G0);
        assert!(sim.store_to_shown(G0, DISK + INTERRUPT_ACK, 2, 2), "it can be");
        assert_eq!(sim.take_interrupt(G0), None);
        assert!(sim.runs(G0));
    }
}

#[test]
fn a_lost_server_that_named_no_bits_leaves_nothing_and_reads_wait() {
    for loss in LOSSES {
        let sim = world();
        let server = sim.prepare(B0, PAGES);
        let silent = portunus::abi::dm_op::AttachShadow {
            failure_bits: 0,
            ..page(server.id)
        };
        assert_eq!(sim.attach_shadow(silent), Ok(FRAME));
        assert_eq!(sim.attach_ack(register(server.id)), 0);
        assert_eq!(sim.acquire_from(B0, server.id, (FRAME, 2), SHADOW), 0);
        assert_eq!(sim.set_enabled(B0, server.id, true), 0);
        assert_eq!(sim.change_word(server.id, 0, 1), 0);
        lose(&sim, &server, loss);
        assert_eq!(sim.state_of_shadow(), State::Idle, "{loss:?}");
        assert!(!sim.is_shown(), "{loss:?}");
        if matches!(loss, Loss::TooSlow) {
            assert_eq!(sim.references_to_shadow(), 2);
            sim.scribble(SHADOW);
            sim.scribble(SHADOW + 1);
        } else {
            assert!(!sim.has_frame(SHADOW) && !sim.has_frame(SHADOW + 1), "{loss:?}");
            assert_eq!(sim.references_to_shadow(), 0);
            assert_eq!(sim.take_interrupt(G0), None, "the line fell with its word");
            assert_eq!(sim.load_from(G0, DISK + MAGIC, 2, 1), None);
            assert!(!sim.runs(G0), "{loss:?}: it waits for a server");
        }
    }
}

#[test]
fn a_lost_server_can_do_nothing_to_the_page_any_more() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    lose(&sim, &server, Loss::Disabled);
    let gone = refused(HypercallError::NoEntry);
    assert_eq!(sim.change_word(server.id, 0, 1), gone);
    assert_eq!(sim.replace_shown(server.id), Err(gone));
    assert_eq!(sim.attach_ack(register(server.id)), gone);
    assert_eq!(sim.detach(server.id, Detach::SHADOW, DISK), gone);
    assert_eq!(sim.detach(server.id, Detach::ACK, DISK + INTERRUPT_ACK), gone);
    assert_eq!(
        sim.acquire_from(B0, server.id, (FRAME, 1), SHADOW),
        refused(HypercallError::Invalid)
    );
    assert_eq!(sim.state_of_shadow(), State::Left);
    // Enabled again without a page of its own, it is asked for every read.
    assert_eq!(sim.set_enabled(B0, server.id, true), 0);
    assert!(!sim.is_shown());
    assert_eq!(sim.load_from(G0, DISK + MAGIC, 2, 1), None);
    sim.answer(B0, &server, 0, 5);
    assert_eq!(sim.x(G0, 1), 5);
    // And it can have one again.
    assert_eq!(sim.attach_shadow(page(server.id)), Ok(FRAME));
    assert_eq!(sim.shown_word(STATUS), 0);
}

#[test]
fn a_successors_page_takes_the_place_of_what_its_predecessor_left() {
    for loss in [
        Loss::Disabled,
        Loss::Destroyed,
        Loss::AllPortsClosed,
        Loss::OnePortClosed,
    ] {
        let sim = world();
        let first = sim.serve_shown(PAGES);
        assert_eq!(sim.change_word(first.id, 0, 1), 0);
        lose(&sim, &first, loss);
        let second = sim.prepare(B0, PAGES + 4);
        assert!(sim.is_shown(), "{loss:?}: until the successor has a page");
        sim.show(second.id);
        assert_eq!(sim.state_of_shadow_server(), Some(second.id), "{loss:?}");
        assert_eq!(sim.shown_word(MAGIC), u32::from_le_bytes(*b"virt"));
        assert_eq!((sim.shown_word(STATUS), sim.shown_word(INTERRUPT_STATUS)), (0, 0));
        assert_eq!(sim.take_interrupt(G0), None, "its word begins anew");
        assert_eq!(sim.change_word(second.id, 0, 1), 0);
        assert_eq!(sim.take_interrupt(G0), Some(DISK_INTERRUPT));
        assert!(sim.store_to_shown(G0, DISK + INTERRUPT_ACK, 2, 1));
        assert_eq!(sim.references_to_shadow(), 2);
    }
}

/// Ways in which the hypervisor itself ends that a server that is too slow shows a page, and what the page is then.
const TOO_SLOW: [(&str, u32, State); 4] = [
    ("portunus,accel; timeout-ms = <10>;", NEEDS_RESET, State::Left),
    ("portunus,accel; timeout-ms = <10>;", 0, State::Idle),
    (
        "portunus,accel; timeout-ms = <10>; on-failure = \"ones\";",
        NEEDS_RESET,
        State::Left,
    ),
    (
        "portunus,accel; timeout-ms = <10>; on-failure = \"abort\";",
        0,
        State::Idle,
    ),
];

#[test]
fn a_store_that_a_slow_server_was_about_to_make_harms_neither_it_nor_its_guest() {
    for (disk, failure_bits, state) in TOO_SLOW {
        for turned in [false, true] {
            let sim = Sim::new(&Options {
                disk,
                ..Options::default()
            });
            let server = sim.prepare(B0, PAGES);
            let attached = portunus::abi::dm_op::AttachShadow {
                failure_bits,
                ..page(server.id)
            };
            assert_eq!(sim.attach_shadow(attached), Ok(FRAME));
            assert_eq!(sim.attach_ack(register(server.id)), 0);
            assert_eq!(sim.acquire_from(B0, server.id, (FRAME, 2), SHADOW), 0);
            assert_eq!(sim.set_enabled(B0, server.id, true), 0);
            if turned {
                assert_eq!(sim.replace_shown(server.id), Ok(FRAME + 1));
            }
            assert_eq!(sim.change_word(server.id, 0, 1), 0);
            // It asks whether it still has the page. Before it stores there, its time is over.
            assert_eq!(sim.change_word(server.id, 0, 0), 0);
            lose(&sim, &server, Loss::TooSlow);
            assert_eq!(sim.state_of_shadow(), state, "{disk}");
            let seen = (state == State::Left).then(|| sim.shown_page());
            let places = [SHADOW, SHADOW + 1];
            for gfn in places {
                assert!(sim.has_frame(gfn), "{disk}: its store has somewhere to go");
                let word: u32 = sim.get(BACKEND, (gfn << 12) + INTERRUPT_STATUS);
                assert!(
                    word == 1 || state == State::Idle,
                    "{disk}: it knows what was not acknowledged"
                );
            }
            places.iter().for_each(|gfn| sim.scribble(*gfn));
            if let Some(seen) = seen {
                assert_eq!(sim.shown_page(), seen, "{disk}: nobody sees it");
            } else {
                assert!(!sim.is_shown());
            }
            assert_eq!(sim.references_to_shadow(), 2);
            assert_eq!(sim.change_word(server.id, 0, 0), refused(HypercallError::NoEntry));

            // Whoever attaches the page next has it for itself, and zero.
            let second = sim.prepare(B0, PAGES + 4);
            assert_eq!(sim.attach_shadow(page(second.id)), Ok(FRAME));
            assert!(!sim.has_frame(SHADOW) && !sim.has_frame(SHADOW + 1), "{disk}");
            assert_eq!(sim.references_to_shadow(), 0);
            assert_eq!(sim.acquire_from(B0, second.id, (FRAME, 2), SHADOW + 2), 0);
            let words = [SHADOW + 2, SHADOW + 3].map(|gfn| sim.get::<u64>(BACKEND, (gfn << 12) + STATUS));
            assert_eq!(words, [0, 0]);
        }
    }
}

#[test]
fn a_server_that_answers_after_all_shows_its_page_again_when_it_has_filled_it() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    lose(&sim, &server, Loss::TooSlow);
    sim.answer(B0, &server, 0, 0);
    assert_eq!((sim.state_of_shadow(), sim.is_shown()), (State::Idle, false));
    let after_replace = portunus::abi::dm_op::AttachShadow {
        flags: portunus::abi::dm_op::AttachShadow::AFTER_REPLACE,
        ..page(server.id)
    };
    assert_eq!(sim.attach_shadow(after_replace), Ok(FRAME));
    assert_eq!(sim.attach_ack(register(server.id)), 0);
    assert_eq!(sim.acquire_from(B0, server.id, (FRAME, 2), SHADOW), 0);
    sim.put(BACKEND, ((SHADOW + 1) << 12) + STATUS, &9_u32);
    assert_eq!(sim.change_word(server.id, 0, 1), 0);
    assert!(!sim.is_shown(), "not before it is filled, though its server serves");
    assert_eq!(sim.load_from(G0, DISK + STATUS, 2, 1), None);
    sim.answer(B0, &server, 0, 3);
    assert_eq!(sim.x(G0, 1), 3);
    assert!(
        !sim.store_to(G0, DISK + INTERRUPT_ACK, 2, 1),
        "nor does it acknowledge, as the driver has not read the word"
    );
    sim.answer(B0, &server, 0, 0);
    // What changes its servers shows nothing of it either.
    assert_eq!(sim.set_enabled(B0, server.id, false), 0);
    assert_eq!(sim.set_enabled(B0, server.id, true), 0);
    assert!(!sim.is_shown());

    assert_eq!(sim.replace_shown(server.id), Ok(FRAME + 1));
    assert_eq!((sim.shown_word(STATUS), sim.shown_word(INTERRUPT_STATUS)), (9, 1));
    assert_eq!(sim.take_interrupt(G0), Some(DISK_INTERRUPT));
    sim.maintain(G0);
    assert!(sim.store_to_shown(G0, DISK + INTERRUPT_ACK, 2, 1));
    assert_eq!(sim.replace_shown(server.id), Ok(FRAME));
    assert_eq!(sim.shown_word(STATUS), 0);
}

#[test]
fn a_page_that_waits_to_be_replaced_is_shown_when_its_server_is_enabled_and_not_by_a_lost_one() {
    let after_replace = |id| portunus::abi::dm_op::AttachShadow {
        flags: portunus::abi::dm_op::AttachShadow::AFTER_REPLACE,
        ..page(id)
    };
    let sim = world();
    let server = sim.prepare(B0, PAGES);
    assert_eq!(sim.attach_shadow(after_replace(server.id)), Ok(FRAME));
    assert_eq!(sim.replace_shown(server.id), Ok(FRAME + 1));
    assert!(!sim.is_shown(), "its server does not serve yet");
    assert_eq!(sim.set_enabled(B0, server.id, true), 0);
    assert!(sim.is_shown());

    for loss in LOSSES {
        let sim = world();
        let server = sim.prepare(B0, PAGES);
        assert_eq!(sim.attach_shadow(after_replace(server.id)), Ok(FRAME));
        assert_eq!(sim.set_enabled(B0, server.id, true), 0);
        lose(&sim, &server, loss);
        if matches!(loss, Loss::Disabled) {
            assert_eq!(sim.replace_shown(server.id), Ok(FRAME + 1), "it is still its page");
        } else {
            let gone = if matches!(loss, Loss::DomainStopped) {
                continue;
            } else {
                refused(HypercallError::NoEntry)
            };
            assert_eq!(sim.replace_shown(server.id), Err(gone), "{loss:?}");
        }
        assert!(!sim.is_shown(), "{loss:?}");
    }
}

impl Sim {
    /// The guest's view of the whole page.
    fn shown_page(&self) -> Vec<u32> {
        (0..0x1000).step_by(4).map(|offset| self.shown_word(offset)).collect()
    }

    /// The backend stores to all of what it has at `gfn`.
    fn scribble(&self, gfn: u64) {
        for offset in (0..0x1000).step_by(4) {
            self.put(BACKEND, (gfn << 12) + offset, &0xa5a5_a5a5_u32);
        }
    }

    fn state_of_shadow_server(&self) -> Option<u16> {
        match self.state_of_shadow() {
            State::Attached(holder) => Some(holder.server.0),
            _ => None,
        }
    }
}

#[test]
fn a_newer_server_that_takes_the_range_takes_the_page_along() {
    let sim = world();
    let first = sim.serve_shown(PAGES);
    let second = sim.prepare(B0, PAGES + 4);
    assert!(!sim.is_shown() && !sim.has_frame(SHADOW));
    assert_eq!(sim.state_of_shadow(), State::Idle);
    assert_eq!(sim.change_word(first.id, 0, 1), refused(HypercallError::NoEntry));
    sim.show(second.id);
    assert!(sim.is_shown());
    assert_eq!(sim.destroy_server(B0, first.id), 0);
    assert_eq!(sim.state_of_shadow_server(), Some(second.id));
}

#[test]
fn a_page_that_its_server_gives_up_or_destroys_while_the_guest_reads_makes_the_read_a_request() {
    let gives_up: [fn(&Sim, &Server); 3] = [
        |sim, server| assert_eq!(sim.detach(server.id, Detach::SHADOW, DISK), 0),
        |sim, server| {
            let range = portunus::abi::dm_op::IoRange {
                id: server.id,
                kind: portunus::abi::dm_op::IoRange::MEMORY,
                start: DISK,
                end: DISK + 0xfff,
                ..Default::default()
            };
            let op = portunus::abi::dm_op::UNMAP_IO_RANGE_FROM_IOREQ_SERVER;
            assert_eq!(sim.dm_op(B0, op, range).0, 0);
            assert_eq!(sim.map_range(B0, server.id, DISK, DISK + 0xfff), 0);
        },
        |sim, server| {
            assert_eq!(sim.destroy_server(B0, server.id), 0);
        },
    ];
    for (case, give_up) in gives_up.into_iter().enumerate() {
        let sim = world();
        let server = sim.serve_shown(PAGES);
        assert_eq!(sim.change_word(server.id, 0, 1), 0);
        give_up(&sim, &server);
        if case == 2 {
            assert_eq!(sim.shown_word(STATUS), NEEDS_RESET, "it was its death");
            continue;
        }
        // The guest's read was on its way: it comes as a fault, and finds no page.
        assert_eq!(sim.load_from(G0, DISK + STATUS, 2, 1), None);
        sim.answer(B0, &server, 0, 0x55);
        assert_eq!(sim.x(G0, 1), 0x55);
        assert_eq!(sim.take_interrupt(G0), None);
        assert!(!sim.has_frame(SHADOW) && sim.references_to_shadow() == 0);
        // A write that was refused by the old page is a request too.
        assert!(!sim.store_to_shown(G0, DISK + INTERRUPT_ACK, 2, 1));
        assert_eq!(sim.slot(BACKEND, &server, 0).addr, DISK + INTERRUPT_ACK);
    }
}

#[test]
fn a_guest_that_takes_the_page_out_of_its_own_map_asks_the_server_and_harms_nobody() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    assert_eq!(sim.remove(G0, DISK >> 12), 0);
    assert_eq!(sim.load_from(G0, DISK + STATUS, 2, 1), None);
    sim.answer(B0, &server, 0, 3);
    assert_eq!(sim.x(G0, 1), 3);
    assert!(
        sim.store_to(G0, DISK + INTERRUPT_ACK, 2, 1),
        "what acknowledges still does"
    );
    // With memory of its own there, it keeps that.
    assert_eq!(
        sim.reservation(G0, portunus::abi::memory::DECREASE_RESERVATION, &[0x40300]),
        1
    );
    assert_eq!(
        sim.reservation(G0, portunus::abi::memory::POPULATE_PHYSMAP, &[DISK >> 12]),
        1
    );
    let own = sim.mapping(GUEST, DISK);
    assert_eq!(sim.replace_shown(server.id), Ok(FRAME + 1));
    assert_eq!(sim.mapping(GUEST, DISK), own);
    assert_eq!(sim.detach(server.id, Detach::SHADOW, DISK), 0);
    assert_eq!(sim.mapping(GUEST, DISK), own);
    assert_eq!(sim.references_to_shadow(), 0);
}

#[test]
fn a_frame_is_in_one_place_of_its_servers_map() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    assert_eq!(sim.acquire_from(B0, server.id, (FRAME, 1), SHADOW + 2), 0);
    assert!(!sim.has_frame(SHADOW) && sim.has_frame(SHADOW + 2));
    assert_eq!(sim.references_to_shadow(), 2);
    assert_eq!(sim.remove(B0, SHADOW + 2), 0);
    assert_eq!(sim.references_to_shadow(), 1);
    assert_eq!(sim.acquire_from(B0, server.id, (FRAME, 1), SHADOW + 2), 0);
    // Something else where it was is left alone.
    assert_eq!(sim.acquire(B0, server.id, SHADOW + 2, 1), 0);
    let there = sim.mapping(BACKEND, (SHADOW + 2) << 12);
    assert_eq!(sim.detach(server.id, Detach::SHADOW, DISK), 0);
    assert_eq!(sim.mapping(BACKEND, (SHADOW + 2) << 12), there);
    assert_eq!(sim.references_to_shadow(), 0);
}

#[test]
fn a_guest_that_starts_anew_finds_its_page_shown_and_its_words_zero() {
    let sim = with(Options {
        lifecycle: ALWAYS_UP,
        ..Options::default()
    });
    assert_eq!(sim.domain(GUEST).plan.on_crash, OnShutdown::Restart);
    let server = sim.serve_shown(PAGES);
    assert_eq!(sim.change_word(server.id, 0, 3), 0);
    for restart in 1..=3 {
        sim.direct(|hypervisor| hypervisor.shut_down(sim.domain(GUEST), ShutdownReason::Crash));
        answer_reset(&sim, &server);
        sim.run_until(G0);
        is_up(&sim, GUEST);
        assert_eq!(
            sim.domain(GUEST).restarts.load(std::sync::atomic::Ordering::Acquire),
            restart
        );
        assert_eq!(
            (sim.shown_word(MAGIC), sim.true_word()),
            (u32::from_le_bytes(*b"virt"), Some(0))
        );
        assert_eq!(sim.shown_word(INTERRUPT_STATUS), 0);
        sim.enable_interrupts(G0);
        sim.enable_shared(G0, DISK_INTERRUPT);
        assert_eq!(sim.take_interrupt(G0), None);
        assert_eq!(sim.change_word(server.id, 0, 1), 0);
        assert_eq!(sim.take_interrupt(G0), Some(DISK_INTERRUPT));
        assert!(sim.has_frame(SHADOW));
        assert_eq!(sim.references_to_shadow(), 2);
    }
    // What a lost server left is gone with the life that it was left for.
    assert_eq!(sim.destroy_server(B0, server.id), 0);
    assert!(sim.is_shown());
    sim.direct(|hypervisor| hypervisor.shut_down(sim.domain(GUEST), ShutdownReason::Crash));
    sim.run_until(G0);
    assert_eq!((sim.state_of_shadow(), sim.is_shown()), (State::Idle, false));
}

#[test]
fn nothing_is_shown_to_a_guest_that_does_not_run_before_it_runs_again() {
    let sim = world();
    sim.direct(|hypervisor| hypervisor.shut_down(sim.domain(GUEST), ShutdownReason::Poweroff));
    let server = sim.prepare(B0, PAGES);
    sim.show(server.id);
    assert!(!sim.is_shown());
    assert_eq!(sim.change_word(server.id, 0, 1), 0);
    assert!(sim.replace_shown(server.id).is_ok());
    let slot = sim.domain(GUEST).shadows.find(Ipa(DISK)).expect("a page");
    assert!(!slot.shadow.lock().is_shown());
}
