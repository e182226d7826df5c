//! Stores whose way a vCPU remembers: whatever changes meanwhile, none goes where it would not go if nothing were
//! remembered. Each change is made before the store, and in the middle of it.

use std::rc::Rc;

use portunus::abi::dm_op::{self, AttachDoorbell, Detach};
use portunus::abi::sched::ShutdownReason;
use portunus::abi::shared_info::SharedInfo;
use portunus::abi::vcpu as vcpu_abi;
use portunus::abi::{evtchn, hypercall};
use portunus::ids::Ipa;
use portunus::ioreq::shadow::State;

use crate::backend::PAGES;
use crate::guest::{PERMISSION, WNR, data_abort, transfer};
use crate::shadow_server::{B0, G0, G1, INTERRUPT_ACK, INTERRUPT_STATUS, NOTIFY, SHADOW, register, world};
use crate::sim::{Moment, Sim};
use crate::world::{BACKEND, DISK, DISK_INTERRUPT, GUEST, RAM, SCRATCH};

const SHARED: u64 = (SHADOW + 8) << 12;

/// A backend with a doorbell on the page that it shows.
#[derive(Clone, Copy)]
struct Served {
    server: u16,
    port: u32,
}

fn attach(sim: &Sim, server: u16) -> u32 {
    let bell = AttachDoorbell {
        id: server,
        flags: dm_op::WRITE_ONLY,
        address: DISK + NOTIFY,
        value: 0,
        mask: u64::from(u32::MAX),
        size: 4,
        ..Default::default()
    };
    let (result, attached) = sim.dm_op(B0, dm_op::VENDOR_ATTACH_DOORBELL, bell);
    assert_eq!(result, 0);
    attached.port
}

/// The target's port may be bound again only once; its number is kept by the doorbell.
fn bell_port(sim: &Sim) -> u32 {
    sim.domain(GUEST).doorbells.with(|table| table.entries()[0].port.0)
}

/// A guest that has rung the doorbell and acknowledged, twice each, so that its vCPU knows both ways.
fn served() -> (Rc<Sim>, Served) {
    let sim = world();
    let server = sim.serve_shown(PAGES).id;
    assert_eq!(sim.map_shared_info(B0, SHARED >> 12), 0);
    let unbound = attach(&sim, server);
    let port = sim.bind(B0, GUEST, unbound).expect("a port");
    sim.take_events(B0, SHARED);
    for _ in 0..2 {
        assert!(sim.store_to_shown(G0, DISK + NOTIFY, 2, 0));
        assert_eq!(sim.take_events(B0, SHARED), [port]);
        assert_eq!(sim.change_word(server, 0, 1), 0);
        assert_eq!(sim.take_interrupt(G0), Some(DISK_INTERRUPT));
        assert!(sim.store_to_shown(G0, DISK + INTERRUPT_ACK, 2, 1));
        assert_eq!(sim.true_word(), Some(0));
    }
    (sim, Served { server, port })
}

fn is_pending(sim: &Sim, port: u32) -> bool {
    let page: SharedInfo = sim.get(BACKEND, SHARED);
    page.evtchn_pending[0] >> port & 1 != 0
}

type Change = fn(&Sim, Served);
type Look = fn(&Sim, Served) -> bool;

fn close_and_use_its_number(sim: &Sim, served: Served) {
    assert_eq!(sim.close(B0, served.port), 0);
    let (result, allocated) = sim.events(B0, evtchn::BIND_IPI, evtchn::BindIpi::default());
    assert_eq!((result, allocated.port), (0, served.port), "the number is used again");
}

#[test]
fn a_doorbell_that_changed_since_it_was_rung_last_is_rung_as_it_is_now() {
    // What changes -> whether the store rings, and what is so then.
    let rows: [(&str, Change, bool, Look); 12] = [
        (
            "nothing",
            |_, _| (),
            true,
            |sim, served| sim.take_events(B0, SHARED) == [served.port],
        ),
        (
            "the doorbell is detached",
            |sim, served| assert_eq!(sim.detach(served.server, Detach::DOORBELL, DISK + NOTIFY), 0),
            false,
            |sim, served| !is_pending(sim, served.port),
        ),
        (
            "its listener closes the port",
            |sim, served| assert_eq!(sim.close(B0, served.port), 0),
            false,
            |sim, served| !is_pending(sim, served.port),
        ),
        (
            "the port's number is of another channel",
            close_and_use_its_number,
            false,
            |sim, served| !is_pending(sim, served.port),
        ),
        (
            "it is bound to another port",
            |sim, served| {
                close_and_use_its_number(sim, served);
                let port = sim.bind(B0, GUEST, bell_port(sim)).expect("a port");
                assert_ne!(port, served.port);
                sim.take_events(B0, SHARED);
            },
            true,
            |sim, served| {
                let news = sim.take_events(B0, SHARED);
                news.len() == 1 && news[0] != served.port
            },
        ),
        (
            "another doorbell has its place",
            |sim, served| {
                assert_eq!(sim.detach(served.server, Detach::DOORBELL, DISK + NOTIFY), 0);
                attach(sim, served.server);
            },
            false,
            |sim, served| !is_pending(sim, served.port),
        ),
        (
            "its server gets no more requests",
            |sim, served| assert_eq!(sim.set_enabled(B0, served.server, false), 0),
            false,
            |sim, served| !is_pending(sim, served.port),
        ),
        (
            "its server is destroyed",
            |sim, served| assert_eq!(sim.destroy_server(B0, served.server), 0),
            false,
            |sim, served| !is_pending(sim, served.port),
        ),
        (
            "its domain ends",
            |sim, _| sim.shutdown(B0, ShutdownReason::Crash as u32),
            false,
            // Its page is gone with it.
            |sim, _| sim.domain(BACKEND).shutdown().is_some(),
        ),
        (
            "the port notifies another vCPU, which has no place for news",
            |sim, served| {
                let request = evtchn::BindVcpu {
                    port: served.port,
                    vcpu: 1,
                };
                assert_eq!(sim.events(B0, evtchn::BIND_VCPU, request).0, 0);
            },
            true,
            |sim, served| is_pending(sim, served.port) && sim.take_events(B0, SHARED).is_empty(),
        ),
        (
            "the port is masked",
            |sim, served| sim.put(BACKEND, SHARED + SharedInfo::MASK_OFFSET, &(1_u64 << served.port)),
            true,
            |sim, served| is_pending(sim, served.port) && sim.take_events(B0, SHARED).is_empty(),
        ),
        (
            "the vCPU's place for news is another",
            |sim, _| {
                let info = vcpu_abi::RegisterVcpuInfo {
                    mfn: (SCRATCH + 0x1000) >> 12,
                    ..Default::default()
                };
                sim.put(BACKEND, SCRATCH, &info);
                let call = [vcpu_abi::REGISTER_VCPU_INFO, 0, SCRATCH];
                assert_eq!(sim.hypercall(B0, hypercall::VCPU_OP, &call), Some(0));
                sim.put(BACKEND, SCRATCH + 0x1000, &[0_u64; 2]);
            },
            true,
            |sim, served| {
                let news: [u64; 2] = sim.get(BACKEND, SCRATCH + 0x1000);
                let old: [u64; 2] = sim.get(BACKEND, SHARED);
                is_pending(sim, served.port) && news == [1, 1] && old == [0, 0]
            },
        ),
    ];
    for (name, change, rings, look) in rows {
        for during in [false, true] {
            let (sim, served) = served();
            if during {
                let other = Rc::clone(&sim);
                sim.at(G0, Moment::Translate(DISK), move || change(&other, served));
            } else {
                change(&sim, served);
            }
            let done = sim.store_to_shown(G0, DISK + NOTIFY, 2, 0);
            assert_eq!(done, rings, "{name}, during the store: {during}");
            assert!(look(&sim, served), "{name}, during the store: {during}");
        }
    }
}

#[test]
fn a_known_doorbell_wakes_a_backend_that_sleeps() {
    let (sim, served) = served();
    sim.enable_interrupts(B0);
    while sim.take_interrupt(B0).is_some() {}
    sim.wfi(B0);
    assert!(!sim.runs(B0));
    assert!(sim.store_to_shown(G0, DISK + NOTIFY, 2, 0));
    sim.run_until(B0);
    assert_eq!(sim.take_events(B0, SHARED), [served.port]);
}

#[test]
fn another_instruction_value_or_page_at_the_same_address_is_another_store() {
    let (sim, served) = served();
    assert!(
        !sim.store_to_shown(G0, DISK + NOTIFY, 2, 1),
        "another value is a request"
    );
    assert!(!is_pending(&sim, served.port));

    // The same instruction by a register that the vectors don't save at first, whose old value rang.
    let (sim, served) = self::served();
    sim.set_x(G0, 20, 0);
    let pc = sim.pc(G0);
    sim.trap(G0, data_abort(transfer(2, 20) | WNR | PERMISSION, DISK + NOTIFY));
    assert_eq!(sim.pc(G0), pc + 4);
    assert_eq!(sim.take_events(B0, SHARED), [served.port]);
    sim.set_x(G0, 20, 7);
    sim.trap(G0, data_abort(transfer(2, 20) | WNR | PERMISSION, DISK + NOTIFY));
    assert!(!is_pending(&sim, served.port), "it is a request");

    // The guest has other memory there now, as its tables say.
    let (sim, served) = self::served();
    sim.with(G0, |context| {
        context
            .cpu
            .fake
            .set_translation(|address, _| Ok(Ipa(RAM | address & 0xfff)))
    });
    assert!(!sim.store_to_shown(G0, DISK + NOTIFY, 2, 0), "it is to be made again");
    assert!(!is_pending(&sim, served.port));
}

#[test]
fn a_word_that_changed_since_it_was_acknowledged_last_is_acknowledged_as_it_is_now() {
    let raise: Change = |sim, served| assert_eq!(sim.change_word(served.server, 0, 1), 0);
    // What changes while the word is 1 -> whether writing 1 acknowledges, and what is so then.
    let rows: [(&str, Change, bool, Look); 7] = [
        ("nothing", |_, _| (), true, |sim, _| sim.true_word() == Some(0)),
        (
            "the register acknowledges no more",
            |sim, served| assert_eq!(sim.detach(served.server, Detach::ACK, DISK + INTERRUPT_ACK), 0),
            false,
            |sim, _| sim.true_word().is_none(),
        ),
        (
            "it is attached anew, with its word zero",
            |sim, served| {
                assert_eq!(sim.detach(served.server, Detach::ACK, DISK + INTERRUPT_ACK), 0);
                assert_eq!(sim.attach_ack(register(served.server)), 0);
            },
            true,
            |sim, _| sim.true_word() == Some(0),
        ),
        (
            "another bit is set",
            |sim, served| assert_eq!(sim.change_word(served.server, 0, 2), 0),
            true,
            |sim, _| sim.true_word() == Some(2) && sim.shown_word(INTERRUPT_STATUS) == 2,
        ),
        (
            "the other frame is shown",
            |sim, served| assert!(sim.replace_shown(served.server).is_ok()),
            true,
            |sim, _| sim.true_word() == Some(0) && sim.shown_word(INTERRUPT_STATUS) == 0,
        ),
        (
            "the server clears it itself",
            |sim, served| assert_eq!(sim.change_word(served.server, 1, 0), 0),
            true,
            |sim, _| sim.true_word() == Some(0),
        ),
        (
            "the server is gone and its page says so",
            |sim, served| assert_eq!(sim.destroy_server(B0, served.server), 0),
            true,
            // Bit 0 is acknowledged; the failure's bit stays.
            |sim, _| sim.state_of_shadow() == State::Left && sim.true_word() == Some(2),
        ),
    ];
    for (name, change, done, look) in rows {
        for during in [false, true] {
            let (sim, served) = served();
            raise(&sim, served);
            assert_eq!(sim.take_interrupt(G0), Some(DISK_INTERRUPT));
            if during {
                let other = Rc::clone(&sim);
                sim.at(G0, Moment::Translate(DISK), move || change(&other, served));
            } else {
                change(&sim, served);
            }
            let acknowledged = sim.store_to_shown(G0, DISK + INTERRUPT_ACK, 2, 1);
            assert_eq!(acknowledged, done, "{name}, during the store: {during}");
            assert!(look(&sim, served), "{name}, during the store: {during}");
        }
    }
}

#[test]
fn an_interrupt_that_is_not_where_it_was_acknowledged_last_falls_all_the_same() {
    let (sim, served) = served();
    // Pending in the list register still.
    assert_eq!(sim.change_word(served.server, 0, 1), 0);
    assert!(sim.store_to_shown(G0, DISK + INTERRUPT_ACK, 2, 1));
    assert_eq!(sim.take_interrupt(G0), None);
    // Of another vCPU, which knows nothing.
    assert_eq!(sim.psci(G0, &[0xc400_0003, 1, RAM, 0]), Some(0));
    assert_eq!(sim.change_word(served.server, 0, 1), 0);
    assert!(sim.store_to_shown(G1, DISK + INTERRUPT_ACK, 2, 1));
    assert_eq!((sim.true_word(), sim.take_interrupt(G0)), (Some(0), None));
    // And it comes again.
    assert_eq!(sim.change_word(served.server, 0, 1), 0);
    assert_eq!(sim.take_interrupt(G0), Some(DISK_INTERRUPT));
}
