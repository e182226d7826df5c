//! Domains that end and start again while servers have something to do with it.

use portunus::abi::sched::ShutdownReason;
use portunus::domain::life::Phase;
use portunus::ids::Ipa;

use crate::restarts::{
    B0, G0, G1, SPARE, SYSTEM_OFF, SYSTEM_RESET, account, accounts, answer_reset, crash, is_new, is_up, lives, phase,
    restarts, second,
};
use crate::sim::Sim;
use crate::world::{BACKEND, DISK, EMPTY_GFN, GUEST, MS, Options};

#[test]
fn a_server_resets_its_device_before_anything_is_written_and_goes_on_with_the_next_life() {
    for pcpus in [[0, 1, 2, 3, 4], [0, 1, 0, 1, 2]] {
        let sim = Sim::new(&Options { pcpus, ..lives() });
        sim.run_until(B0);
        let server = sim.serve(B0);
        let (result, _) = sim.map_foreign(B0, GUEST, &[(SPARE, EMPTY_GFN + 0x10)]);
        assert_eq!(result, 0);
        sim.run_until(G0);
        sim.put(GUEST, SPARE << 12, b"old life");
        sim.take_log();
        sim.psci(G0, &[SYSTEM_RESET]);
        assert!(matches!(phase(&sim, GUEST), Phase::Restarting(ShutdownReason::Reboot)));
        assert_eq!(&sim.get::<[u8; 8]>(BACKEND, (EMPTY_GFN + 0x10) << 12), b"old life");
        // Nobody gets more of its memory meanwhile.
        sim.run_until(B0);
        let again = portunus::abi::HypercallError::TryAgain.register() as i64 as i32;
        let (_, errors) = sim.map_foreign(B0, GUEST, &[(SPARE + 1, EMPTY_GFN + 0x11)]);
        assert_eq!(errors, [again]);
        answer_reset(&sim, &server);
        is_new(&sim, G0);
        // What it had mapped is mapped yet: it is the new life's.
        assert_eq!(sim.get::<[u8; 8]>(BACKEND, (EMPTY_GFN + 0x10) << 12), [0; 8]);
        sim.run_until(G0);
        sim.put(GUEST, SPARE << 12, b"new life");
        assert_eq!(&sim.get::<[u8; 8]>(BACKEND, (EMPTY_GFN + 0x10) << 12), b"new life");
        // The same server answers.
        assert_eq!(sim.load_from(G0, DISK, 2, 1), None);
        sim.run_until(B0);
        sim.answer(B0, &server, 0, 7);
        sim.run_until(G0);
        assert_eq!(sim.x(G0, 1), 7);
    }
}

#[test]
fn what_was_asked_in_the_old_life_is_answered_before_the_reset_and_reaches_nobody() {
    let sim = Sim::new(&lives());
    let server = sim.serve(B0);
    second(&sim);
    for vcpu in [G1, G0] {
        assert_eq!(sim.load_from(vcpu, DISK + 4, 2, 1), None);
    }
    sim.direct(|hypervisor| hypervisor.shut_down(sim.domain(GUEST), ShutdownReason::Crash));
    for vcpu in [1, 0] {
        assert_eq!(sim.slot(BACKEND, &server, vcpu).addr, DISK + 4, "the reset waits");
        sim.answer(B0, &server, vcpu, 0x11);
    }
    answer_reset(&sim, &server);
    is_new(&sim, G0);
    assert_eq!(restarts(&sim, GUEST), 1);
}

#[test]
fn a_server_that_does_not_answer_loses_the_guests_memory_and_nothing_else() {
    for disk in ["timeout-ms = <50>;", "timeout-ms = <50>; on-failure = \"ones\";"] {
        let sim = Sim::new(&Options { disk, ..lives() });
        let before = accounts(&sim);
        let server = sim.serve(B0);
        let pages: Vec<(u64, u64)> = (0..200).map(|page| (SPARE - page, EMPTY_GFN + 0x10 + page)).collect();
        for pages in pages.chunks(100) {
            assert_eq!(sim.map_foreign(B0, GUEST, pages).0, 0);
        }
        sim.psci(G0, &[SYSTEM_RESET]);
        sim.advance(49 * MS);
        assert!(!is_up(&sim, GUEST), "{disk}");
        assert_eq!(sim.get::<u64>(BACKEND, (EMPTY_GFN + 0x10) << 12), 0);
        sim.advance(2 * MS);
        is_new(&sim, G0);
        let map = |gfn: u64| {
            sim.domain(BACKEND)
                .memory
                .lock()
                .stage2
                .lookup(sim.machine(), Ipa(gfn << 12))
        };
        for (_, gfn) in &pages {
            assert_eq!(map(*gfn), None, "{disk}");
        }
        // The page of its requests holds nothing of the guest, and its kernel looks at it.
        assert!(map(server.page >> 12).is_some(), "{disk}");
        // A late answer is nobody's.
        sim.answer(B0, &server, 0, 0);
        assert_eq!(
            sim.load_from(G0, DISK, 2, 1),
            None,
            "{disk}: a new server is waited for"
        );
        // Another one may serve the new life.
        let other = sim.serve_at(B0, EMPTY_GFN + 0x1000);
        assert_eq!(sim.slot(BACKEND, &other, 0).addr, DISK, "{disk}");
        sim.answer(B0, &other, 0, 3);
        assert_eq!(sim.x(G0, 1), 3, "{disk}");
        // Nothing is left of it all when the backend starts again.
        sim.psci(B0, &[SYSTEM_RESET]);
        assert_eq!(
            sim.domain(GUEST).memory.lock().pool.free_frames(),
            before[0].free_frames
        );
        assert_eq!(
            (
                account(&sim, sim.domain(GUEST)).references,
                account(&sim, sim.domain(GUEST)).ports
            ),
            (0, (0, 0))
        );
    }
}

#[test]
fn a_server_that_failed_before_the_restart_and_lives_yet_loses_the_memory_too() {
    let sim = Sim::new(&Options {
        disk: "timeout-ms = <50>; on-failure = \"ones\";",
        ..lives()
    });
    sim.serve(B0);
    assert_eq!(sim.map_foreign(B0, GUEST, &[(SPARE, EMPTY_GFN + 0x10)]).0, 0);
    assert_eq!(sim.load_from(G0, DISK, 2, 1), None);
    sim.advance(51 * MS);
    assert_eq!(sim.x(G0, 1), 0xffff_ffff);
    sim.psci(G0, &[SYSTEM_RESET]);
    is_new(&sim, G0);
    let memory = sim.domain(BACKEND).memory.lock();
    assert_eq!(memory.stage2.lookup(sim.machine(), Ipa((EMPTY_GFN + 0x10) << 12)), None);
}

#[test]
fn the_time_of_a_backend_that_is_held_does_not_count() {
    let sim = Sim::new(&Options {
        disk: "timeout-ms = <50>;",
        ..lives()
    });
    let server = sim.serve(B0);
    sim.direct(|hypervisor| hypervisor.pause(sim.domain(BACKEND)).expect("it runs"));
    sim.psci(G0, &[SYSTEM_RESET]);
    for _ in 0..50 {
        sim.advance(20 * MS);
    }
    assert!(!is_up(&sim, GUEST));
    sim.direct(|hypervisor| hypervisor.unpause(sim.domain(BACKEND)));
    sim.advance(30 * MS);
    answer_reset(&sim, &server);
    is_new(&sim, G0);
}

#[test]
fn a_backend_that_ends_while_its_guest_waits_for_it_is_not_waited_for() {
    type Way = fn(&Sim);
    let ways: [(&str, Way); 4] = [
        ("it restarts", |sim| {
            sim.psci(B0, &[SYSTEM_RESET]);
        }),
        ("it stops", |sim| {
            sim.psci(B0, &[SYSTEM_OFF]);
        }),
        ("it crashes", |sim| crash(sim, B0)),
        ("its server is destroyed", |sim| {
            assert_eq!(sim.destroy_server(B0, 0), 0)
        }),
    ];
    for (way, end) in ways {
        let sim = Sim::new(&lives());
        sim.serve(B0);
        assert_eq!(sim.map_foreign(B0, GUEST, &[(SPARE, EMPTY_GFN + 0x10)]).0, 0);
        sim.psci(G0, &[SYSTEM_RESET]);
        assert!(!is_up(&sim, GUEST), "{way}");
        end(&sim);
        is_new(&sim, G0);
        assert_eq!(restarts(&sim, GUEST), 1, "{way}");
    }
}
