//! A page of registers that the guest reads without a trap: what it reads, what its writes do, and the interrupt.

use portunus::abi::HypercallError;
use portunus::abi::dm_op::{self, Detach, SetIrqLevel};
use portunus::cpu::{Cpu, El1Register, TranslationFault};
use portunus::fakes::Operation;
use portunus::ids::Ipa;

use crate::backend::PAGES;
use crate::guest::{CM, PERMISSION, S1PTW, WNR, data_abort, refused, transfer};
use crate::shadow_server::{
    B0, FRAME, G0, G1, INTERRUPT_ACK, INTERRUPT_STATUS, MAGIC, NOTIFY, SHADOW, STATUS, page, register, world,
};
use crate::sim::Sim;
use crate::world::{BACKEND, DISK, DISK_INTERRUPT, DISTRIBUTOR, GUEST, RAM};

/// GICD_ICFGR2: the disk's interrupt is edge-triggered.
fn make_edge(sim: &Sim) {
    let shift = (DISK_INTERRUPT % 16) * 2 + 1;
    assert!(sim.store_to(
        G0,
        DISTRIBUTOR + 0xc00 + u64::from(DISK_INTERRUPT / 16) * 4,
        2,
        1 << shift
    ));
}

#[test]
fn a_page_is_shown_when_its_server_serves_and_is_what_the_server_writes() {
    let sim = world();
    let server = sim.prepare(B0, PAGES);
    assert_eq!(sim.attach_shadow(page(server.id)), Ok(FRAME));
    assert!(!sim.is_shown(), "its server gets no requests yet");
    assert_eq!(sim.acquire_from(B0, server.id, (FRAME, 2), SHADOW), 0);
    assert_eq!(sim.get::<[u8; 4096]>(BACKEND, SHADOW << 12), [0; 4096]);
    sim.put(BACKEND, (SHADOW << 12) + MAGIC, b"virt");
    assert_eq!(sim.set_enabled(B0, server.id, true), 0);
    assert!(sim.is_shown());
    assert_eq!(sim.shown_word(MAGIC), u32::from_le_bytes(*b"virt"));
    sim.put(BACKEND, (SHADOW << 12) + STATUS, &7_u32);
    assert_eq!(sim.shown_word(STATUS), 7);
    // The other frame is the server's alone.
    sim.put(BACKEND, ((SHADOW + 1) << 12) + STATUS, &9_u32);
    assert_eq!(sim.shown_word(STATUS), 7);
}

#[test]
fn a_page_attached_by_a_server_that_serves_is_shown_at_once() {
    let sim = world();
    let server = sim.prepare(B0, PAGES);
    assert_eq!(sim.set_enabled(B0, server.id, true), 0);
    assert_eq!(sim.load_from(G0, DISK + MAGIC, 2, 1), None, "a request");
    sim.answer(B0, &server, 0, 5);
    assert_eq!(sim.x(G0, 1), 5);
    assert_eq!(sim.attach_shadow(page(server.id)), Ok(FRAME));
    assert_eq!(sim.shown_word(MAGIC), 0);
}

#[test]
fn a_write_to_another_register_goes_to_the_server_as_without_a_page() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    for size in 0..4 {
        let pc = sim.pc(G0);
        assert!(!sim.store_to_shown(G0, DISK + 0x100, size, 0x1234_5678_9abc_def0));
        let slot = sim.slot(BACKEND, &server, 0);
        let mask = if size == 3 { u64::MAX } else { (1 << (8 << size)) - 1 };
        assert_eq!(
            (slot.addr, slot.size, slot.data),
            (DISK + 0x100, 1 << size, 0x1234_5678_9abc_def0 & mask)
        );
        sim.answer(B0, &server, 0, 0);
        assert_eq!(sim.pc(G0), pc + 4);
    }
    // At the first register, unaligned, and to the register that acknowledges but not as a word.
    for (address, size) in [
        (DISK, 2),
        (DISK + 0x101, 1),
        (DISK + INTERRUPT_ACK, 1),
        (DISK + INTERRUPT_ACK, 0),
    ] {
        assert!(!sim.store_to_shown(G0, address, size, 1), "{address:#x}");
        sim.answer(B0, &server, 0, 0);
        assert!(sim.runs(G0));
    }
    assert_eq!(sim.true_word(), Some(0));
}

#[test]
fn an_update_is_in_the_page_before_its_interrupt_and_the_guest_acknowledges_without_the_server() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    for bits in [1, 3, 0x8000_0002] {
        sim.take_log();
        assert_eq!(sim.change_word(server.id, 0, bits), 0);
        let frame = sim.pa(GUEST, DISK + INTERRUPT_STATUS);
        let log = sim.take_log();
        let stored = Operation::Store {
            at: frame,
            width: 4,
            value: bits.into(),
        };
        let stored = log.iter().position(|operation| *operation == stored).expect("stored");
        let complete = log.iter().position(|operation| *operation == Operation::CompleteStores);
        let kicked = log.iter().position(|operation| matches!(operation, Operation::Kick(_)));
        assert!(stored < complete.expect("complete"), "{log:?}");
        assert!(complete < kicked, "the guest is told when it can see it: {log:?}");

        let interface =
            |context: &mut crate::sim::Context| context.cpu.fake.interface().find(portunus::ids::IntId(DISK_INTERRUPT));
        assert!(sim.with(G0, interface).is_some());
        let taken = sim.with(G0, |context| context.cpu.virtual_interface().acknowledge());
        assert_eq!(taken.map(|interrupt| interrupt.0), Some(DISK_INTERRUPT));
        assert_eq!(sim.shown_word(INTERRUPT_STATUS), bits);
        assert!(sim.store_to_shown(G0, DISK + INTERRUPT_ACK, 2, bits.into()));
        assert_eq!((sim.shown_word(INTERRUPT_STATUS), sim.true_word()), (0, Some(0)));
        let asked = sim.with(G0, |context| {
            context
                .cpu
                .virtual_interface()
                .end(portunus::ids::IntId(DISK_INTERRUPT))
        });
        assert_eq!(asked, Some(false), "no maintenance for a line that fell");
        assert_eq!(sim.take_interrupt(G0), None);
        assert!(sim.runs(G0), "nobody was asked");
    }
}

#[test]
fn the_line_is_high_until_every_bit_is_acknowledged() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    assert_eq!(sim.change_word(server.id, 0, 3), 0);
    assert_eq!(sim.take_interrupt(G0), Some(DISK_INTERRUPT));
    assert!(sim.store_to_shown(G0, DISK + INTERRUPT_ACK, 2, 2));
    assert_eq!(sim.shown_word(INTERRUPT_STATUS), 1);
    sim.maintain(G0);
    assert_eq!(sim.take_interrupt(G0), Some(DISK_INTERRUPT), "the other bit");
    sim.maintain(G0);
    // What is not set can be acknowledged, and nothing else than bits is.
    assert!(sim.store_to_shown(G0, DISK + INTERRUPT_ACK, 2, 0xffff_fffe));
    assert_eq!(sim.shown_word(INTERRUPT_STATUS), 1);
    assert!(sim.store_to_shown(G0, DISK + INTERRUPT_ACK, 2, 1));
    assert_eq!(sim.take_interrupt(G0), None);
    // The server takes back what the guest has not seen: a reset.
    assert_eq!(sim.change_word(server.id, 0, 1), 0);
    assert_eq!(sim.change_word(server.id, u32::MAX, 0), 0);
    assert_eq!(sim.take_interrupt(G0), None);
    // Clear comes before set.
    assert_eq!(sim.change_word(server.id, u32::MAX, 4), 0);
    assert_eq!(sim.shown_word(INTERRUPT_STATUS), 4);
    assert_eq!(sim.take_interrupt(G0), Some(DISK_INTERRUPT));
}

#[test]
fn what_the_server_writes_over_the_word_changes_nothing_but_what_is_read() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    assert_eq!(sim.change_word(server.id, 0, 1), 0);
    sim.put(BACKEND, (SHADOW << 12) + INTERRUPT_STATUS, &0xffff_ffff_u32);
    assert_eq!(sim.take_interrupt(G0), Some(DISK_INTERRUPT));
    assert!(sim.store_to_shown(G0, DISK + INTERRUPT_ACK, 2, 1));
    assert_eq!((sim.true_word(), sim.shown_word(INTERRUPT_STATUS)), (Some(0), 0));
    sim.put(BACKEND, (SHADOW << 12) + INTERRUPT_STATUS, &0xffff_ffff_u32);
    assert_eq!(sim.take_interrupt(G0), None, "a page is no line");
}

#[test]
fn an_edge_triggered_interrupt_comes_again_with_each_update_that_sets_a_bit() {
    let sim = world();
    make_edge(&sim);
    let server = sim.serve_shown(PAGES);
    for _ in 0..3 {
        assert_eq!(sim.change_word(server.id, 0, 1), 0);
        assert_eq!(
            sim.take_interrupt(G0),
            Some(DISK_INTERRUPT),
            "though the bit was set before"
        );
    }
    assert_eq!(sim.change_word(server.id, 2, 0), 0);
    assert_eq!(sim.take_interrupt(G0), None);
    assert_eq!(sim.change_word(server.id, 0, 1), 0);
    assert_eq!(sim.change_word(server.id, 1, 0), 0);
    assert_eq!(sim.take_interrupt(G0), None, "a reset drops what is pending");
}

#[test]
fn another_vcpu_that_acknowledges_takes_the_interrupt_back_from_where_it_is_pending() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    assert_eq!(sim.psci(G0, &[0xc400_0003, 1, RAM, 0]), Some(0));
    sim.run_until(G1);
    assert_eq!(sim.change_word(server.id, 0, 1), 0);
    assert!(sim.store_to_shown(G1, DISK + INTERRUPT_ACK, 2, 1));
    assert_eq!(sim.take_interrupt(G0), None);
}

#[test]
fn plain_levels_are_refused_while_a_word_is_the_line() {
    let sim = world();
    let server = sim.prepare(B0, PAGES);
    let raise = SetIrqLevel {
        irq: DISK_INTERRUPT,
        level: 1,
        ..Default::default()
    };
    assert_eq!(sim.dm_op(B0, dm_op::SET_IRQ_LEVEL, raise).0, 0);
    sim.show(server.id);
    assert_eq!(
        sim.take_interrupt(G0),
        None,
        "what was pending before is the old driver's of the line"
    );
    assert_eq!(
        sim.dm_op(B0, dm_op::SET_IRQ_LEVEL, raise).0,
        refused(HypercallError::Invalid)
    );
    assert_eq!(sim.detach(server.id, Detach::ACK, DISK + INTERRUPT_ACK), 0);
    assert_eq!(sim.dm_op(B0, dm_op::SET_IRQ_LEVEL, raise).0, 0);
    assert_eq!(sim.take_interrupt(G0), Some(DISK_INTERRUPT));
}

#[test]
fn a_replaced_page_is_whole_old_or_whole_new_and_has_the_true_words() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    let (old, _) = sim.mapping(GUEST, DISK).expect("shown");
    assert_eq!(sim.change_word(server.id, 0, 1), 0);
    let spare = (SHADOW + 1) << 12;
    sim.put(BACKEND, spare + MAGIC, b"new!");
    sim.put(BACKEND, spare + INTERRUPT_STATUS, &0xdead_beef_u32);
    sim.take_log();
    assert_eq!(sim.replace_shown(server.id), Ok(FRAME + 1));
    let log = sim.take_log();
    assert_eq!(sim.shown_word(MAGIC), u32::from_le_bytes(*b"new!"));
    assert_eq!(sim.shown_word(INTERRUPT_STATUS), 1);
    let (new, _) = sim.mapping(GUEST, DISK).expect("shown");
    assert_ne!(old, new);
    // Broken, dropped everywhere, and only then made.
    let is_break = |operation: &Operation| matches!(operation, Operation::Store { value: 0, width: 8, .. });
    let is_make = |operation: &Operation| matches!(operation, Operation::Store { value, width: 8, .. } if value & 0xffff_ffff_f000 == new.0);
    let is_dropped =
        |operation: &Operation| matches!(operation, Operation::InvalidatePage { page, .. } if page.0 == DISK);
    let at = |is: &dyn Fn(&Operation) -> bool| log.iter().position(is).expect("it happened");
    assert!(at(&is_break) < at(&is_dropped) && at(&is_dropped) < at(&is_make));
    // The one that is not shown is now the other.
    sim.put(BACKEND, (SHADOW << 12) + MAGIC, b"next");
    assert_eq!(sim.shown_word(MAGIC), u32::from_le_bytes(*b"new!"));
    assert_eq!(sim.change_word(server.id, 1, 2), 0);
    assert_eq!(sim.replace_shown(server.id), Ok(FRAME));
    assert_eq!(
        (sim.shown_word(MAGIC), sim.shown_word(INTERRUPT_STATUS)),
        (u32::from_le_bytes(*b"next"), 2)
    );
}

#[test]
fn a_read_that_came_while_the_page_was_changed_is_made_again() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    for size in 0..4 {
        let pc = sim.pc(G0);
        assert_eq!(sim.load_from(G0, DISK + 0x100, size, 1), None);
        assert_eq!(sim.pc(G0), pc);
        assert!(sim.runs(G0), "no request was made of it");
    }
    // At the start of the page too, and in pieces.
    assert_eq!(sim.load_from(G0, DISK, 2, 1), None);
    assert_eq!(sim.load_from(G0, DISK + 0x103, 2, 1), None);
    assert!(sim.runs(G0));
    assert_eq!(sim.slot(BACKEND, &server, 0).addr, 0);
    // A write that came then needs no second attempt.
    assert!(sim.store_to(G0, DISK + INTERRUPT_ACK, 2, 1));
}

#[test]
fn where_a_refused_store_went_is_asked_of_stage_1() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    assert_eq!(sim.change_word(server.id, 0, 1), 0);
    let elsewhere = 0xffff_0000_1234_0000;
    let store = |address| data_abort(transfer(2, 9) | WNR | PERMISSION, address);
    sim.set_x(G0, 9, 1);
    let pc = sim.pc(G0);
    // The guest has changed its tables meanwhile: nothing is there, or something that is no page of its, or memory.
    sim.with(G0, |context| {
        context.cpu.fake.set_translation(|_, _| Err(TranslationFault))
    });
    sim.trap(G0, store(elsewhere + INTERRUPT_ACK));
    assert_eq!((sim.pc(G0), sim.true_word()), (pc, Some(1)));
    for other in [RAM + INTERRUPT_ACK, 0x3000_0000, DISK + 0x10_0000] {
        sim.with(G0, |context| {
            context.cpu.fake.set_translation(move |_, _| Ok(Ipa(other)))
        });
        sim.trap(G0, store(elsewhere + INTERRUPT_ACK));
        assert_eq!((sim.pc(G0), sim.true_word()), (pc, Some(1)), "{other:#x}");
        assert!(sim.runs(G0));
    }
    // It is the page, wherever the guest has it.
    sim.with(G0, |context| {
        let translate = move |address: u64, _| Ok(Ipa(DISK + (address & 0xfff)));
        context.cpu.fake.set_translation(translate);
    });
    sim.trap(G0, store(elsewhere + INTERRUPT_ACK));
    assert_eq!((sim.pc(G0), sim.true_word()), (pc + 4, Some(0)));
}

#[test]
fn cache_maintenance_of_the_page_is_skipped_and_tables_in_it_are_refused() {
    let sim = world();
    sim.serve_shown(PAGES);
    let pc = sim.pc(G0);
    sim.trap(G0, data_abort(WNR | CM | PERMISSION, DISK + 0x40));
    assert_eq!(sim.pc(G0), pc + 4);
    sim.with(G0, |context| {
        context.cpu.write_el1(El1Register::VbarEl1, RAM + 0x800);
    });
    sim.trap(G0, data_abort(S1PTW | WNR | PERMISSION, DISK));
    assert_ne!(sim.pc(G0) & !0x7ff, (pc + 4) & !0x7ff, "an exception");
    assert!(sim.runs(G0));
}

#[test]
fn exclusive_and_atomic_stores_to_the_page_are_external_aborts_and_change_nothing() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    assert_eq!(sim.change_word(server.id, 0, 1), 0);
    let (code, vectors) = (RAM + 0x8_0000, RAM + 0x800);
    // STXR W0, W1, [X3]; STLXR W0, W1, [X3]; LDADD W1, W2, [X3]; SWP W1, W2, [X3]; CAS W1, W2, [X3]
    for instruction in [0x8800_7c61_u32, 0x8800_fc61, 0xb821_0062, 0xb821_8062, 0x88a1_7c62] {
        sim.put(GUEST, code, &instruction);
        sim.with(G0, |context| {
            context.state.frame.pc = code;
            context.state.frame.write(1, 1);
            context.state.frame.write(3, DISK + INTERRUPT_ACK);
            context.cpu.write_el1(El1Register::VbarEl1, vectors);
        });
        sim.trap(G0, data_abort(WNR | PERMISSION, DISK + INTERRUPT_ACK));
        let syndrome = sim.el1(G0, El1Register::EsrEl1);
        assert_eq!(
            syndrome & 0x3f,
            0x10,
            "{instruction:#x}: an external abort, not on a table walk"
        );
        assert_eq!(sim.pc(G0) & !0x7ff, vectors, "{instruction:#x}");
        assert_eq!(sim.true_word(), Some(1), "{instruction:#x}");
        assert!(sim.runs(G0));
    }
}

#[test]
fn a_doorbell_in_the_page_rings() {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    let bell = dm_op::AttachDoorbell {
        id: server.id,
        flags: dm_op::WRITE_ONLY,
        address: DISK + NOTIFY,
        value: 0,
        mask: u64::from(u32::MAX),
        size: 4,
        ..Default::default()
    };
    let (result, attached) = sim.dm_op(B0, dm_op::VENDOR_ATTACH_DOORBELL, bell);
    assert_eq!(result, 0);
    let port = sim.bind(B0, GUEST, attached.port).expect("a port");
    assert_eq!(sim.map_shared_info(B0, SHADOW + 8), 0);
    assert!(sim.store_to_shown(G0, DISK + NOTIFY, 2, 0));
    assert!(sim.runs(G0));
    let ports = sim.take_events(B0, (SHADOW + 8) << 12);
    assert!(ports.contains(&port), "{ports:?}");
    assert!(
        !sim.store_to_shown(G0, DISK + NOTIFY, 2, 1),
        "another value is a request"
    );
}

#[test]
fn registers_and_pages_heed_each_other() {
    let sim = world();
    let server = sim.prepare(B0, PAGES);
    let bell = |address, flags| dm_op::AttachDoorbell {
        id: server.id,
        flags,
        address,
        mask: u64::from(u32::MAX),
        size: 4,
        ..Default::default()
    };
    let ring = |address, flags| sim.dm_op(B0, dm_op::VENDOR_ATTACH_DOORBELL, bell(address, flags)).0;
    // What the guest may read back can't be on a page that it reads by itself.
    assert_eq!(ring(DISK + NOTIFY, 0), 0);
    assert_eq!(
        sim.attach_shadow(page(server.id)),
        Err(refused(HypercallError::Invalid))
    );
    assert_eq!(sim.detach(server.id, Detach::DOORBELL, DISK + NOTIFY), 0);
    assert_eq!(sim.attach_shadow(page(server.id)), Ok(FRAME));
    assert_eq!(ring(DISK + NOTIFY, 0), refused(HypercallError::Invalid));
    assert_eq!(ring(DISK + NOTIFY, dm_op::WRITE_ONLY), 0);
    assert_eq!(ring(DISK + INTERRUPT_ACK, dm_op::WRITE_ONLY), 0);
    assert_eq!(sim.attach_ack(register(server.id)), refused(HypercallError::Exists));
    assert_eq!(sim.detach(server.id, Detach::DOORBELL, DISK + INTERRUPT_ACK), 0);
    assert_eq!(sim.attach_ack(register(server.id)), 0);
    assert_eq!(
        ring(DISK + INTERRUPT_ACK, dm_op::WRITE_ONLY),
        refused(HypercallError::Exists)
    );
    assert_eq!(sim.detach(server.id, Detach::SHADOW, DISK), 0);
    assert_eq!(ring(DISK + INTERRUPT_ACK, 0), 0);
}
