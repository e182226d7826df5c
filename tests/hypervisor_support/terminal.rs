//! The serial line: whose output it shows, who gets what is typed, what the hypervisor itself says.

use portunus::abi::hypercall;
use portunus::ids::VcpuId;

use crate::guest::vcpu;
use crate::sim::Sim;
use crate::world::{BACKEND, DISK, GUEST, MS, Options, SCRATCH, STRANGER, UART};

const G0: VcpuId = vcpu(GUEST, 0);
const B0: VcpuId = vcpu(BACKEND, 0);
const S0: VcpuId = vcpu(STRANGER, 0);

const DR: u64 = UART;
const FR: u64 = UART + 0x18;
const IMSC: u64 = UART + 0x38;
const TXFF: u64 = 1 << 5;
const RXFE: u64 = 1 << 4;
/// The UART's SPI in every domain.
const UART_INTERRUPT: u32 = 32;

impl Sim {
    fn print(&self, vcpu: VcpuId, text: &str) {
        for byte in text.bytes() {
            assert!(self.store_to(vcpu, DR, 2, byte.into()));
        }
    }

    fn flags(&self, vcpu: VcpuId) -> u64 {
        self.load_from(vcpu, FR, 2, 5).expect("FR")
    }

    /// What a guest reads of its input.
    fn typed(&self, vcpu: VcpuId) -> String {
        let mut text = String::new();
        while self.flags(vcpu) & RXFE == 0 {
            text.push(self.load_from(vcpu, DR, 2, 5).expect("DR") as u8 as char);
        }
        text
    }
}

#[test]
fn lines_of_all_domains_are_shown_whole_behind_their_names() {
    let sim = Sim::new(&Options::default());
    sim.print(G0, "hel");
    sim.print(B0, "rea");
    sim.print(G0, "lo\r\n");
    sim.print(B0, "dy\n");
    sim.put(STRANGER, SCRATCH, b"by hypercall\n");
    assert_eq!(sim.hypercall(S0, hypercall::CONSOLE_IO, &[0, 13, SCRATCH]), Some(0));
    assert_eq!(
        sim.shown(),
        "[guest] hello\r\n[dm] ready\r\n[stranger] by hypercall\r\n"
    );
}

#[test]
fn a_prompt_is_shown_after_a_pause_without_anybody_doing_anything() {
    let sim = Sim::new(&Options::default());
    sim.print(G0, "login: ");
    assert_eq!(sim.shown(), "");
    sim.advance(25 * MS);
    assert_eq!(sim.shown(), "[guest] login: ");
    // Every vCPU sleeps; the pCPU wakes for the console alone.
    sim.print(B0, "half a line");
    [G0, B0, S0].into_iter().for_each(|vcpu| sim.wfi(vcpu));
    sim.advance(600 * MS);
    // The line in focus comes back behind it.
    assert_eq!(sim.shown(), "\r\n[dm] half a line\r\n[guest] login: ");
}

#[test]
fn a_full_terminal_is_told_to_the_guest_and_loses_nothing() {
    let sim = Sim::new(&Options::default());
    sim.machine().set_console_room(0);
    let mut sent = String::new();
    let line = "0123456789abcdef0123456789abcdef\n";
    while sim.flags(G0) & TXFF == 0 {
        let byte = line.as_bytes()[sent.len() % line.len()];
        sent.push(byte as char);
        assert!(sim.store_to(G0, DR, 2, byte.into()));
    }
    assert!(sent.len() >= 16 * 1024, "{}", sent.len());
    assert_eq!(sim.shown(), "");
    // Others are not held up, and nothing waits in EL2.
    sim.print(B0, "here\n");
    sim.machine().set_console_room(1 << 20);
    for _ in 0..20 {
        sim.console_ready();
    }
    assert_eq!(sim.flags(G0) & TXFF, 0);
    let shown = sim.shown();
    assert!(shown.contains("[dm] here\r\n"));
    let whole = format!("[guest] {}", line.trim_end());
    let lines = shown.split("\r\n").filter(|shown| *shown == whole).count();
    assert_eq!(lines, sent.matches('\n').count());
}

#[test]
fn what_is_typed_goes_to_the_domain_in_focus_and_interrupts_it() {
    let sim = Sim::new(&Options::default());
    sim.enable_interrupts(G0);
    // GICD_ISENABLER1, GICD_IROUTER32; the UART's receive interrupts.
    assert!(sim.store_to(G0, crate::world::DISTRIBUTOR + 0x104, 2, 1));
    assert!(sim.store_to(G0, IMSC, 2, 0x50));
    sim.wfi(G0);
    assert!(!sim.runs(G0));
    sim.type_in(b"ls\r");
    assert!(sim.runs(G0), "input wakes the guest");
    assert_eq!(sim.take_interrupt(G0), Some(UART_INTERRUPT));
    assert_eq!(sim.typed(G0), "ls\r");
    // Ctrl-a three times: the next domain.
    sim.type_in(b"\x01\x01\x01for dm");
    assert_eq!((sim.typed(G0), sim.typed(B0)), (String::new(), "for dm".to_string()));
    let shown = sim.shown();
    assert_eq!(shown.matches("input goes to").count(), 1, "{shown}");
    assert!(shown.contains("[portunus] input goes to dm"), "{shown}");
    // A Ctrl-a before anything else is the guest's.
    sim.type_in(b"\x01x");
    assert_eq!(sim.typed(B0), "\x01x");
    assert!(!sim.hypervisor.is_finished());
    sim.type_in(b"\x01q");
    assert!(sim.hypervisor.is_finished());
}

#[test]
fn every_message_is_shown_even_if_nothing_happens_any_more() {
    let sim = Sim::new(&Options {
        disk: "timeout-ms = <250>; attach-timeout-ms = <0>;",
        ..Options::default()
    });
    sim.shown();
    assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
    let server = sim.serve(B0);
    assert_eq!(sim.close(B0, server.ports[0]), 0);
    sim.shutdown(B0, 3);
    for _ in 0..10 {
        sim.advance(1);
    }
    let shown = sim.shown();
    for line in [
        "[portunus] guest vCPU 0 waits for a server of 0x2000008, which dm is to attach\r\n",
        "[portunus] server 0 of guest is gone\r\n",
        "[portunus] dm crashed\r\n",
    ] {
        assert_eq!(shown.matches(line).count(), 1, "{line:?} in {shown:?}");
    }
}

#[test]
fn the_last_message_is_shown_before_the_machine_goes_off() {
    let sim = Sim::new(&Options::default());
    sim.psci(S0, &[0x8400_0008]);
    assert!(!sim.hypervisor.is_finished());
    sim.print(G0, "bye");
    sim.psci(G0, &[0x8400_0008]);
    assert!(
        sim.hypervisor.is_finished(),
        "only the backend is left, and nobody needs it"
    );
    let shown = sim.shown();
    assert!(shown.contains("[portunus] stranger powered off\r\n"), "{shown}");
    assert!(shown.contains("[portunus] guest powered off\r\n"), "{shown}");
}
