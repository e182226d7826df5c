//! A domain whose console is a page and an event channel, or hypercalls, instead of a UART.

use std::rc::Rc;

use portunus::abi::console::Interface;
use portunus::abi::hvm_op::{self, Parameter};
use portunus::abi::{HypercallError, evtchn, hypercall, memory, vcpu};
use portunus::ids::{DomainId, VcpuId};

use crate::guest::{refused, vcpu as vcpu_of};
use crate::restarts::{SPARE, SYSTEM_RESET, account, lives};
use crate::sim::Sim;
use crate::world::{BACKEND, EMPTY_GFN, GUEST, MS, Options, SCRATCH, UART};

const G0: VcpuId = vcpu_of(GUEST, 0);
const B0: VcpuId = vcpu_of(BACKEND, 0);
const PAGE: u64 = 0x3900_0000;
const SHARED: u64 = SPARE << 12;
const UPCALL: u32 = 31;
const SELF: u16 = DomainId::SELF.0;

fn pv() -> Options {
    Options {
        console: "portunus,console = \"pv\"; xen,enhanced = \"no-xenstore\";",
        ..lives()
    }
}

fn parameter(sim: &Sim, vcpu: VcpuId, index: u32) -> u64 {
    let request = Parameter {
        domid: SELF,
        index,
        ..Default::default()
    };
    let (result, answer) = sim.with_structure(vcpu, hypercall::HVM_OP, hvm_op::GET_PARAM, request);
    assert_eq!(result, 0);
    answer.value
}

/// A guest that has found its console and listens. Its port.
fn open(sim: &Sim) -> u32 {
    assert_eq!(parameter(sim, G0, hvm_op::PARAM_CONSOLE_PFN), PAGE >> 12);
    sim.enable_interrupts(G0);
    assert_eq!(sim.map_shared_info(G0, SPARE), 0);
    parameter(sim, G0, hvm_op::PARAM_CONSOLE_EVTCHN) as u32
}

fn word(sim: &Sim, offset: u64) -> u32 {
    sim.get(GUEST, PAGE + offset)
}

fn put_text(sim: &Sim, text: &str) {
    let produced = word(sim, Interface::OUT_PROD_OFFSET);
    for (byte, index) in text.bytes().zip(0..) {
        let at = u64::from((produced + index) % 2048);
        sim.put(GUEST, PAGE + Interface::OUT_OFFSET + at, &byte);
    }
    sim.put(
        GUEST,
        PAGE + Interface::OUT_PROD_OFFSET,
        &(produced + text.len() as u32),
    );
}

fn typed(sim: &Sim) -> String {
    let (from, to) = (
        word(sim, Interface::IN_CONS_OFFSET),
        word(sim, Interface::IN_PROD_OFFSET),
    );
    sim.put(GUEST, PAGE + Interface::IN_CONS_OFFSET, &to);
    let byte = |index: u32| sim.get::<u8>(GUEST, PAGE + Interface::IN_OFFSET + u64::from(index % 1024));
    (from..to).map(|index| byte(index) as char).collect()
}

#[test]
fn text_goes_out_when_the_guest_sends_and_comes_in_with_an_upcall() {
    let sim = Sim::new(&pv());
    let port = open(&sim);
    put_text(&sim, "hello\r\nlogin: ");
    assert_eq!(sim.shown(), "", "it has not said so");
    assert_eq!(sim.send(G0, port), 0);
    assert_eq!(sim.shown(), "[guest] hello\r\n");
    assert_eq!(word(&sim, Interface::OUT_CONS_OFFSET), 14);
    assert_eq!(sim.take_interrupt(G0), Some(UPCALL), "there is room again");
    assert_eq!(sim.take_events(G0, SHARED), [port]);
    sim.advance(30 * MS);
    assert_eq!(sim.shown(), "[guest] login: ");
    sim.wfi(G0);
    assert!(!sim.runs(G0));
    sim.type_in(b"root\r");
    assert!(sim.runs(G0), "input wakes the guest");
    assert_eq!(sim.take_interrupt(G0), Some(UPCALL));
    assert_eq!(sim.take_events(G0, SHARED), [port]);
    assert_eq!(typed(&sim), "root\r");
    assert_eq!(sim.send(G0, port), 0);
    assert_eq!(sim.take_interrupt(G0), None, "it has all");
}

#[test]
fn its_port_is_as_one_to_another_domain() {
    let sim = Sim::new(&pv());
    let port = open(&sim);
    let status = evtchn::Status {
        dom: SELF,
        port,
        ..Default::default()
    };
    let (result, status) = sim.events(G0, evtchn::STATUS, status);
    assert_eq!(result, 0);
    assert_eq!(
        (status.status, status.vcpu, status.peer, status.peer_port),
        (evtchn::STATUS_INTERDOMAIN, 0, DomainId::XEN.0.into(), 0)
    );
    let bind = evtchn::BindVcpu { port, vcpu: 1 };
    assert_eq!(sim.events(G0, evtchn::BIND_VCPU, bind).0, 0);
    assert_eq!(sim.events(G0, evtchn::UNMASK, evtchn::Port { port }).0, 0);
    // Nobody else gets at it.
    for remote_port in [port, 0, 1023] {
        let bind = evtchn::BindInterdomain {
            remote_dom: GUEST.0,
            remote_port,
            ..Default::default()
        };
        let refusal = refused(HypercallError::Invalid);
        assert_eq!(sim.events(B0, evtchn::BIND_INTERDOMAIN, bind).0, refusal);
    }
    let before = account(&sim, sim.domain(GUEST)).ports;
    assert_eq!(sim.close(G0, port), 0);
    assert_eq!(sim.send(G0, port), refused(HypercallError::Invalid));
    sim.type_in(b"x");
    assert_eq!(sim.take_events(G0, SHARED), [], "what is typed tells nobody");
    let ipi = evtchn::BindIpi { vcpu: 0, port: 0 };
    assert_eq!(sim.events(G0, evtchn::BIND_IPI, ipi).1.port, port);
    sim.type_in(b"y");
    assert_eq!(sim.take_events(G0, SHARED), [], "it is another's port now");
    assert_eq!(account(&sim, sim.domain(GUEST)).ports, before);
}

#[test]
fn no_static_channel_loses_its_port_to_the_console() {
    let sim = Sim::new(&Options {
        channels: [
            "ec1: e1 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <1 &ec2>; };",
            "ec2: e2 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <9 &ec1>; };",
        ],
        ..pv()
    });
    assert_eq!(open(&sim), 2);
    put_text(&sim, "text\n");
    assert_eq!(sim.send(G0, 2), 0);
    assert_eq!(sim.shown(), "[guest] text\r\n");
    assert_eq!((sim.send(G0, 1), sim.send(B0, 9)), (0, 0));
}

#[test]
fn its_page_is_its_own_and_no_ram() {
    let sim = Sim::new(&pv());
    let port = open(&sim);
    let frame = PAGE >> 12;
    // No buffer, no vcpu_info, nobody else's.
    assert_eq!(
        sim.hypercall(G0, hypercall::XEN_VERSION, &[6, PAGE]),
        Some(refused(HypercallError::BadPointer))
    );
    let info = vcpu::RegisterVcpuInfo {
        mfn: frame,
        offset: 0,
        rsvd: 0,
    };
    sim.put(GUEST, SCRATCH, &info);
    assert_eq!(
        sim.hypercall(G0, hypercall::VCPU_OP, &[10, 0, SCRATCH]),
        Some(refused(HypercallError::Invalid))
    );
    assert_eq!(sim.reservation(G0, memory::DECREASE_RESERVATION, &[frame]), 0);
    let (result, errors) = sim.map_foreign(B0, GUEST, &[(frame, EMPTY_GFN)]);
    assert_eq!((result, errors), (0, vec![-22]));
    // A guest that takes it out of its map has a console that says nothing, and harms nobody.
    assert_eq!(sim.remove(G0, frame), 0);
    assert_eq!(sim.send(G0, port), 0);
    sim.type_in(b"typed");
    assert_eq!(sim.send(G0, port), 0);
    assert_eq!(sim.shown(), "");
}

#[test]
fn a_restart_begins_with_an_empty_page_at_the_same_place_and_port() {
    let sim = Sim::new(&pv());
    let before = account(&sim, sim.domain(GUEST));
    for life in 0..3 {
        let port = open(&sim);
        put_text(&sim, "half");
        assert_eq!(sim.send(G0, port), 0);
        sim.type_in(b"unread");
        if life == 1 {
            assert_eq!((sim.close(G0, port), sim.remove(G0, PAGE >> 12)), (0, 0));
        }
        sim.psci(G0, &[SYSTEM_RESET]);
        for _ in 0..10_000 {
            if sim.runs(G0) {
                break;
            }
            sim.advance(MS / 10);
        }
        assert_eq!(account(&sim, sim.domain(GUEST)), before);
        let page: [u8; 4096] = sim.get(GUEST, PAGE);
        assert_eq!(page, [0; 4096]);
    }
    let shown = sim.shown();
    assert_eq!(shown.matches("[guest] half\r\n").count(), 3, "{shown}");
}

#[test]
fn a_ring_that_is_never_empty_costs_what_one_send_may_cost() {
    let sim = Sim::new(&pv());
    let port = open(&sim);
    sim.machine().set_console_room(1 << 20);
    for _ in 0..100 {
        let consumed = word(&sim, Interface::OUT_CONS_OFFSET);
        sim.put(GUEST, PAGE + Interface::OUT_PROD_OFFSET, &(consumed.wrapping_add(2048)));
        assert_eq!(sim.send(G0, port), 0);
        let moved = word(&sim, Interface::OUT_CONS_OFFSET).wrapping_sub(consumed);
        assert!(moved <= 2048, "{moved}");
        for hostile in [0, 1, 2049, u32::MAX] {
            sim.put(GUEST, PAGE + Interface::OUT_PROD_OFFSET, &hostile);
            sim.put(GUEST, PAGE + Interface::IN_CONS_OFFSET, &hostile);
            assert_eq!(sim.send(G0, port), 0);
            sim.type_in(b"x");
        }
    }
}

#[test]
fn a_terminal_that_is_full_tells_the_guest_when_it_has_room() {
    let sim = Sim::new(&pv());
    let port = open(&sim);
    sim.machine().set_console_room(0);
    let line = "0123456789abcde\n";
    let mut sent = 0;
    while word(&sim, Interface::OUT_PROD_OFFSET) - word(&sim, Interface::OUT_CONS_OFFSET) <= 2048 - 16 {
        put_text(&sim, line);
        assert_eq!(sim.send(G0, port), 0);
        sent += 1;
    }
    assert!(sent > 300);
    sim.take_interrupt(G0);
    sim.take_events(G0, SHARED);
    sim.machine().set_console_room(1 << 20);
    for _ in 0..50 {
        sim.console_ready();
    }
    assert_eq!(sim.take_interrupt(G0), Some(UPCALL));
    assert_eq!(sim.take_events(G0, SHARED), [port]);
    assert_eq!(sim.shown().matches("[guest] 0123456789abcde\r\n").count(), sent);
}

fn by_hypercall() -> Rc<Sim> {
    Sim::new(&Options {
        console: "portunus,console-io;",
        ..lives()
    })
}

#[test]
fn console_io_goes_both_ways_and_input_is_a_virq() {
    let sim = by_hypercall();
    sim.enable_interrupts(G0);
    assert_eq!(sim.map_shared_info(G0, SPARE), 0);
    for index in [hvm_op::PARAM_CONSOLE_PFN, hvm_op::PARAM_CONSOLE_EVTCHN] {
        assert_eq!(parameter(&sim, G0, index), 0);
    }
    let bind = evtchn::BindVirq {
        virq: evtchn::VIRQ_CONSOLE,
        ..Default::default()
    };
    let (result, bound) = sim.events(G0, evtchn::BIND_VIRQ, bind);
    assert_eq!(result, 0);
    assert_eq!(sim.events(B0, evtchn::BIND_VIRQ, bind).0, refused(HypercallError::Busy));
    sim.put(GUEST, SCRATCH, b"hello\n");
    assert_eq!(sim.hypercall(G0, hypercall::CONSOLE_IO, &[0, 6, SCRATCH]), Some(0));
    assert_eq!(sim.shown(), "[guest] hello\r\n");
    sim.type_in(b"typed");
    assert_eq!(sim.take_interrupt(G0), Some(UPCALL));
    assert_eq!(sim.take_events(G0, SHARED), [bound.port]);
    assert_eq!(sim.hypercall(G0, hypercall::CONSOLE_IO, &[1, 64, SCRATCH]), Some(5));
    assert_eq!(&sim.get::<[u8; 5]>(GUEST, SCRATCH), b"typed");
    assert_eq!(sim.hypercall(G0, hypercall::CONSOLE_IO, &[1, 64, SCRATCH]), Some(0));
    // A UART's domain may write and not read.
    let refusal = Some(refused(HypercallError::NotPermitted));
    assert_eq!(sim.hypercall(B0, hypercall::CONSOLE_IO, &[1, 64, SCRATCH]), refusal);
    assert!(!sim.store_to(G0, UART, 0, u64::from(b'x')), "it has no UART");
}
