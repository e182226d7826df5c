//! What the console's keys show, and that looking changes nothing.

use std::rc::Rc;

use portunus::abi::{evtchn, hypercall, sched};
use portunus::cpu::{Cpu, El1Register};
use portunus::domain::report::VcpuReport;
use portunus::ids::{Ticks, VcpuId};
use portunus::machine::Machine;

use crate::guest::vcpu;
use crate::sim::Sim;
use crate::world::{self, BACKEND, DISK, DISTRIBUTOR, EMPTY_GFN, GUEST, MS, Options, RAM, SCRATCH, STRANGER, UART};

const G0: VcpuId = vcpu(GUEST, 0);
const G1: VcpuId = vcpu(GUEST, 1);
const B0: VcpuId = vcpu(BACKEND, 0);
const B1: VcpuId = vcpu(BACKEND, 1);
const S0: VcpuId = vcpu(STRANGER, 0);

/// Milliseconds: longer than a pCPU is waited for.
const SILENCE: u64 = 150;
const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;

impl Sim {
    /// Time passes until the terminal has been silent for long: what it showed.
    fn listen(&self) -> String {
        let mut text = self.shown();
        let mut silence = 0;
        while silence < SILENCE {
            self.advance(MS);
            let more = self.shown();
            silence = if more.is_empty() { silence + 1 } else { 0 };
            text += &more;
        }
        text
    }

    /// Presses Ctrl-a and a key: the hypervisor's lines, without its name.
    fn table(&self, key: u8) -> Vec<String> {
        self.shown();
        self.type_in(&[1, key]);
        lines(&self.listen())
    }

    fn set_el1(&self, vcpu: VcpuId, register: El1Register, value: u64) {
        self.with(vcpu, |context| context.cpu.write_el1(register, value));
    }

    /// The virtual timer fires in so many ticks.
    fn start_timer(&self, vcpu: VcpuId, ticks: u64) {
        self.set_el1(vcpu, El1Register::CntvCvalEl0, self.machine().now().0 + ticks);
        self.set_el1(vcpu, El1Register::CntvCtlEl0, 1);
    }

    fn start(&self, caller: VcpuId, target: u8) {
        assert_eq!(self.psci(caller, &[CPU_ON, target.into(), RAM + 0x1000, 7]), Some(0));
    }

    /// A port between vCPUs; `None`: there is none left.
    fn new_port(&self, vcpu: VcpuId) -> Option<u32> {
        match self.events(vcpu, evtchn::BIND_IPI, evtchn::BindIpi::default()) {
            (0, bound) => Some(bound.port),
            _ => None,
        }
    }

    fn vcpu_report(&self, vcpu: VcpuId) -> VcpuReport {
        self.hypervisor.vcpu_report(vcpu).expect("a vCPU")
    }
}

/// The hypervisor's lines of what the terminal showed.
fn lines(text: &str) -> Vec<String> {
    let own = text.split_terminator("\r\n").filter_map(|line| {
        let own = line.strip_prefix("[portunus] ")?;
        assert!(line.len() <= 100, "{line:?} is too long");
        assert!(own.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
        Some(own.to_string())
    });
    own.collect()
}

/// A guest that waits for its disk, a backend that sleeps and computes, a stranger that sleeps for five seconds.
fn waiting(options: &Options) -> Rc<Sim> {
    let sim = Sim::new(options);
    for (caller, target) in [(G0, 1), (B0, 1)] {
        sim.run_until(caller);
        sim.start(caller, target);
    }
    sim.run_until(B0);
    sim.serve(B0);
    sim.run_until(G1);
    sim.psci(G1, &[CPU_OFF]);
    sim.run_until(S0);
    sim.start_timer(S0, 5_000 * MS);
    sim.wfi(S0);
    sim.run_until(G0);
    assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
    sim.run_until(B0);
    sim.wfi(B0);
    assert!(sim.runs(B1));
    sim
}

/// Everybody with a pCPU of their own.
fn spread() -> Rc<Sim> {
    waiting(&Options::default())
}

#[test]
fn the_keys_are_listed() {
    let sim = Sim::new(&Options::default());
    let expected = [
        "Ctrl-a, then (a small letter: of the domain in focus, its capital: of all)",
        "  ?     these keys",
        "  l     list of domains: state, memory, ports, restarts",
        "  r     run queues: what each vCPU does or waits for, how long",
        "  d D   registers of vCPUs",
        "  i I   interrupts: list registers, enabled, pending, active",
        "  s S   IOREQ servers, and who waits for them",
        "  e E   event channels: peers, pending, masked",
        "  c C   counters of vCPUs and servers",
        "  t T   trace: the last events of vCPUs",
        "  Ctrl-a Ctrl-a        input goes to the next domain",
        "  Ctrl-a, another key  one Ctrl-a and that key are for the domain in focus",
        "  q     quit",
    ];
    assert_eq!(sim.table(b'?'), expected);
}

#[test]
fn the_list_of_domains_says_what_each_does_and_has() {
    let sim = Sim::new(&Options::default());
    sim.serve(B0);
    sim.shutdown(S0, 3);
    sim.listen();
    let shown = sim.table(b'l');
    let title = " id name             state       vCPUs    MiB    frames   maps   refs ports restarts";
    assert_eq!(shown[0], title);
    let rows = [
        (
            "  1 guest            runs          1/2      4    ",
            "      0      2     0        0",
        ),
        (
            "  2 dm               runs          1/2      4    ",
            "      2      0     2        0",
        ),
        (
            "  3 stranger         crashed       0/1      4    ",
            "      0      0     0        0",
        ),
    ];
    assert_eq!(shown.len(), 1 + rows.len());
    for (line, (beginning, end)) in shown[1..].iter().zip(rows) {
        assert!(line.starts_with(beginning) && line.ends_with(end), "{line:?}");
        let frames = line[beginning.len()..line.len() - end.len()].trim();
        let (used, all) = frames.split_once('/').expect("used and all");
        assert!(used.parse::<u64>().unwrap() < all.parse::<u64>().unwrap(), "{line:?}");
    }
}

#[test]
fn every_vcpu_is_shown_with_what_it_waits_for_and_how_long() {
    let sim = spread();
    sim.advance(1_000 * MS);
    let shown = sim.table(b'r');
    assert_eq!(
        shown[0],
        "pCPU  vCPU                does       for  has run  and waits for"
    );
    let rows = [
        ("   0  guest            0  waits  ", "  server 0 (dm)"),
        ("   1  guest            1  off    ", ""),
        ("   2  dm               0  waits  ", "  an interrupt"),
        ("   3  dm               1  runs   ", ""),
        ("   4  stranger         0  waits  ", "  an interrupt, 3.9 s at most"),
    ];
    assert_eq!(shown.len(), 1 + rows.len(), "{shown:#?}");
    for (line, (beginning, end)) in shown[1..].iter().zip(rows) {
        assert!(line.starts_with(beginning) && line.ends_with(end), "{line:?}");
        let times = &line[beginning.len()..line.len() - end.len()];
        assert!(times.trim_start().starts_with("1.0 s"), "{line:?}");
    }
}

#[test]
fn what_polls_or_waits_for_nobody_is_told() {
    let sim = Sim::new(&Options::default());
    let port = sim.new_port(S0).expect("a port");
    sim.put(STRANGER, SCRATCH + 0x800, &[port, port]);
    for (count, expected) in [
        (1, format!("an event of port {port}")),
        (2, "events of some ports".into()),
    ] {
        let request = sched::Poll {
            ports: SCRATCH + 0x800,
            nr_ports: count,
            // In a second, in nanoseconds.
            timeout: (sim.machine().now().0 + 1_000 * MS) * 1_000_000 / MS,
            ..Default::default()
        };
        sim.put(STRANGER, SCRATCH, &request);
        assert_eq!(sim.hypercall(S0, hypercall::SCHED_OP, &[sched::POLL, SCRATCH]), None);
        let shown = sim.table(b'r');
        assert!(shown[5].contains(&format!("  {expected}, ")), "{shown:#?}");
        sim.advance(1_000 * MS);
        sim.run_until(S0);
    }
    assert_eq!(sim.load_from(G0, DISK, 2, 1), None);
    assert!(sim.table(b'r')[1].ends_with("  dm to attach"));
}

#[test]
fn registers_are_those_of_the_vcpu_whatever_it_does() {
    let sim = spread();
    for register in 0..31 {
        sim.set_x(G0, register, 0x1111_0000_0000_0000 + u64::from(register));
    }
    for (register, value) in [
        (El1Register::SpEl0, 0x10),
        (El1Register::SpEl1, 0x11),
        (El1Register::VbarEl1, 0x12),
        (El1Register::ElrEl1, 0x20),
        (El1Register::SpsrEl1, 0x21),
        (El1Register::EsrEl1, 0x9600_0045),
        (El1Register::FarEl1, 0xffff_8000_0000_0040),
        (El1Register::SctlrEl1, 0x30d0_198d),
        (El1Register::CntvCtlEl0, 5),
    ] {
        sim.set_el1(G0, register, value);
    }
    let shown = sim.table(b'd');
    assert!(shown[0].starts_with("guest vCPU 0 on pCPU 0, waits ") && shown[0].ends_with(" for server 0 (dm)"));
    let expected = [
        "  PC        0000000040000004  PSTATE    000003c5 (EL1h D A I F)",
        "  SP_EL0    0000000000000010  SP_EL1    0000000000000011  VBAR_EL1  0000000000000012",
        "  ELR_EL1   0000000000000020  SPSR_EL1  0000000000000021  ESR_EL1   0000000096000045",
        "  FAR_EL1   ffff800000000040  SCTLR_EL1 0000000030d0198d  CNTV_CTL  0000000000000005",
        "  x0  1111000000000000 x1  1111000000000001 x2  1111000000000002 x3  1111000000000003",
    ];
    assert_eq!(shown[1..6], expected);
    assert_eq!(
        shown[12],
        "  x28 111100000000001c x29 111100000000001d x30 111100000000001e"
    );
    assert!(shown[13].starts_with("guest vCPU 1 on pCPU 1, off "), "{shown:#?}");
    assert!(
        shown[14].starts_with("  PC        0000000040001"),
        "it was on once: {shown:#?}"
    );
    assert_eq!(shown.len(), 26);

    // Every domain: one that runs, one that sleeps.
    let shown = sim.table(b'D');
    let heads: Vec<&String> = shown.iter().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(heads.len(), 5);
    assert!(heads[3].starts_with("dm vCPU 1 on pCPU 3, runs "), "{heads:#?}");
    assert!(heads[4].starts_with("stranger vCPU 0 on pCPU 4, waits "), "{heads:#?}");
    assert_eq!(shown.len(), 5 * 13);
}

#[test]
fn a_vcpu_that_never_was_on_has_no_registers() {
    let sim = Sim::new(&Options::default());
    let shown = sim.table(b'd');
    assert_eq!(shown.len(), 15, "{shown:#?}");
    assert_eq!(shown[14], "  was never on");
}

/// Looking neither ends a wait nor lets anybody run who can't, wherever the others are.
#[test]
fn looking_changes_nothing() {
    for pcpus in [[0, 1, 2, 3, 4], [0, 0, 0, 0, 0], [1, 0, 1, 0, 1], [0, 0, 1, 1, 1]] {
        let sim = waiting(&Options {
            pcpus,
            ..Options::default()
        });
        let all = [G0, G1, B0, B1, S0];
        let before = all.map(|vcpu| (sim.vcpu_report(vcpu), sim.pc(vcpu)));
        let then = sim.machine().now().0;
        for key in b"DI" {
            assert!(!sim.table(*key).is_empty());
        }
        let passed = sim.machine().now().0 - then;
        for (vcpu, (before, pc)) in all.into_iter().zip(before) {
            let after = sim.vcpu_report(vcpu);
            assert_eq!(sim.pc(vcpu), pc, "{pcpus:?} {vcpu:?}");
            assert_eq!(after.activity, before.activity, "{pcpus:?} {vcpu:?}");
            assert_eq!(after.since, Ticks(before.since.0 + passed), "{pcpus:?} {vcpu:?}");
            assert_eq!((after.exits, after.interrupts), (before.exits, before.interrupts));
            let ran = after.run_time.0 - before.run_time.0;
            let (least, most) = if vcpu == B1 { (passed - MS, passed) } else { (0, 0) };
            assert!(
                (least..=most).contains(&ran),
                "{pcpus:?} {vcpu:?} ran {ran} of {passed}"
            );
        }
        // Everybody wakes by what they waited for.
        sim.advance(5_000 * MS);
        sim.run_until(S0);
        sim.run_until(B1);
    }
}

#[test]
fn an_answer_after_a_look_goes_where_it_belongs() {
    let sim = Sim::new(&Options::default());
    let server = sim.serve(B0);
    assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
    sim.table(b'D');
    assert!(!sim.runs(G0));
    sim.answer(B0, &server, 0, 0x1234_5678);
    assert!(sim.runs(G0));
    assert_eq!(sim.x(G0, 1), 0x1234_5678);
}

#[test]
fn a_vcpu_that_is_switched_on_while_it_is_looked_at_starts_where_it_should() {
    let sim = Sim::new(&Options::default());
    sim.type_in(b"\x01d");
    for _ in 0..20 {
        sim.advance(MS);
    }
    sim.start(G0, 1);
    sim.type_in(b"\x01d");
    sim.listen();
    assert!(sim.runs(G1));
    assert_eq!((sim.pc(G1), sim.x(G1, 0)), (RAM + 0x1000, 7));
}

#[test]
fn a_pcpu_that_does_not_come_is_named_and_the_others_are_shown() {
    let sim = spread();
    sim.set_stuck(2, true);
    let shown = sim.table(b'D');
    let at = shown
        .iter()
        .position(|line| line.starts_with("dm vCPU 0"))
        .expect("its line");
    assert_eq!(shown[at + 1], "  pCPU 2 does not answer");
    assert!(shown[at + 2].starts_with("dm vCPU 1 on pCPU 3, runs "));
    assert_eq!(shown.len(), 4 * 13 + 2);
    // An answer that comes too late is nobody's, and a later question is answered.
    sim.set_stuck(2, false);
    sim.settle();
    assert_eq!(sim.table(b'D').len(), 5 * 13);
    assert!(sim.table(b'I').iter().all(|line| !line.contains("answer")));
}

#[test]
fn interrupts_are_shown_where_they_are() {
    let sim = Sim::new(&Options::default());
    sim.enable_interrupts(G0);
    assert!(sim.store_to(G0, DISTRIBUTOR + 0x104, 2, 0xf1));
    // GICD_ISPENDR1: SPIs that the guest makes pending itself, one of them disabled.
    assert!(sim.store_to(G0, DISTRIBUTOR + 0x204, 2, 0x30 | 2));
    sim.start_timer(S0, 1);
    let shown = sim.table(b'i');
    assert_eq!(shown[0], "guest: GICv3 with 32 SPIs, group 0 on, group 1 on; by INTID");
    assert_eq!(shown[1], "  vCPU 0: list registers 0: 36 pending, 1: 37 pending");
    assert_eq!(shown[2], "  vCPU 0: enabled 0-31");
    assert_eq!(shown[3], "  vCPU 1: enabled none");
    assert_eq!(shown[4], "  SPIs: enabled 32 36-39");
    assert_eq!(
        shown[5],
        "    33  pending                   to vCPU 0  level low   priority 00 disabled"
    );
    assert_eq!(
        shown[6],
        "    36  pending  LR 0 of vCPU 0   to vCPU 0  level low   priority 00"
    );
    assert_eq!(
        shown[7],
        "    37  pending  LR 1 of vCPU 0   to vCPU 0  level low   priority 00"
    );
    assert_eq!(shown.len(), 8, "{shown:#?}");
}

#[test]
fn servers_are_shown_with_their_ranges_and_who_waits_for_them() {
    let sim = spread();
    sim.advance(500 * MS);
    let shown = sim.table(b's');
    assert_eq!(shown[0], "guest is served by");
    assert_eq!(shown[1], "  server 0 of dm: enabled, ports bound of vCPUs 0-1");
    assert_eq!(shown[2], "     0 answers, 0 failed, 0 posted");
    assert_eq!(shown[3], "    0x2000000 to 0x20001ff");
    assert!(shown[4].starts_with("  vCPU 0: server 0 (dm) has it for 5") && shown[4].contains(" ms of 5.0 s: "));
    assert!(shown[4].ends_with(": load of 4 bytes at 0x2000008"), "{}", shown[4]);
    assert_eq!(shown.len(), 5);
    // The limit passes: what was late is still remembered.
    sim.advance(5_000 * MS);
    let shown = sim.table(b's');
    assert_eq!(shown[1], "  server 0 of dm: suspended, ports bound of vCPUs 0-1");
    assert!(
        shown[4].starts_with("  vCPU 0: waits for dm to attach for "),
        "{}",
        shown[4]
    );
    assert!(shown[4].contains(" of 60.0 s: load of 4 bytes"), "{}", shown[4]);
}

#[test]
fn channels_are_shown_with_their_peers_and_what_is_pending() {
    let sim = Sim::new(&Options {
        channels: [
            "chan0: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <10 &chan1>; };",
            "chan1: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <11 &chan0>; };",
        ],
        ..Options::default()
    });
    sim.serve(B0);
    let shared = (EMPTY_GFN + 0x20) << 12;
    assert_eq!(sim.map_shared_info(G0, shared >> 12), 0);
    sim.put(GUEST, shared + 560, &(1_u64 << 10));
    assert_eq!(sim.send(B0, 11), 0);
    let shown = sim.table(b'e');
    let expected = [
        "guest: 1 of 1023 ports; vCPUs told of events: none",
        "  port   10  to dm port 11                       vCPU 0  pending  masked",
        "  port 1024  to dm port 1                        vCPU 0's requests to server 0",
        "  port 1025  to dm port 2                        vCPU 1's requests to server 0",
        "  port 1026  unbound, for dm                     server 0's buffered page",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn counters_are_shown_by_kind() {
    let sim = Sim::new(&Options::default());
    let server = sim.serve(B0);
    for value in 0..3 {
        assert_eq!(sim.load_from(G0, DISK + 8, 2, 1), None);
        sim.advance(2 * MS);
        sim.answer(B0, &server, 0, value);
    }
    assert!(sim.load_from(G0, UART + 0x18, 2, 5).is_some());
    let shown = sim.table(b'c');
    assert!(shown[0].starts_with("guest vCPU 0: ran ") && shown[0].contains(" waited for servers 6.0 ms, "));
    assert_eq!(
        shown[1].split_whitespace().collect::<Vec<_>>()[..4],
        ["uart", "1", "server", "3"]
    );
    assert!(shown[2].starts_with("guest vCPU 1: ran 0.0 us"), "{shown:#?}");
    assert!(
        shown[3].starts_with("  server 0: 3 answers, 0 failed, 0 posted; half in "),
        "{shown:#?}"
    );
    assert!(shown[3].ends_with(", all in 2.0 ms"), "{shown:#?}");
}

#[test]
fn what_a_guest_has_much_of_is_cut_with_a_count() {
    let sim = Sim::new(&Options::default());
    let ports = std::iter::repeat_with(|| sim.new_port(G0)).take_while(Option::is_some);
    assert_eq!(ports.count(), 1023);
    let shown = sim.table(b'e');
    assert_eq!(shown.len(), 1 + 48 + 1);
    assert_eq!(shown[49], "  and 975 more");
    // Every interrupt pending, private and shared.
    sim.enable_interrupts(G0);
    assert!(sim.store_to(G0, DISTRIBUTOR + 0x104, 2, 0xffff_ffff));
    assert!(sim.store_to(G0, DISTRIBUTOR + 0x204, 2, 0xffff_ffff));
    let frame = crate::world::REDISTRIBUTOR + 0x1_0000;
    assert!(sim.store_to(G0, frame + 0x200, 2, 0xffff_ffff));
    let shown = sim.table(b'i');
    assert!(shown[1].starts_with("  vCPU 0: list registers 0: "), "{shown:#?}");
    assert_eq!(shown[2], "  vCPU 0: more wait than list registers hold; enabled 0-31");
    assert!(shown.len() <= 5 + 64 + 2, "{}", shown.len());
    // Ranges: a server with as many as there can be, none beside another.
    let id = sim.create_server(B0).expect("a server");
    for index in 0..64 {
        assert_eq!(sim.map_range(B0, id, DISK + index * 8, DISK + index * 8 + 3), 0);
    }
    let shown = sim.table(b's');
    assert_eq!(shown.len(), 3 + 8, "{shown:#?}");
    assert_eq!(shown[10], "    0x2000038 to 0x200003b, and 56 more ranges");
}

#[test]
fn a_guest_that_floods_its_console_tears_no_line_and_holds_none_up() {
    let sim = Sim::new(&Options::default());
    let room = 2000;
    sim.machine().set_console_room(room);
    sim.shown();
    sim.type_in(b"\x01D");
    let mut text = String::new();
    let line = "x".repeat(70) + "\n";
    for _ in 0..500 {
        for byte in line.bytes() {
            assert!(sim.store_to(S0, UART, 2, byte.into()));
        }
        sim.advance(MS / 4);
        text += &sim.shown();
        sim.machine().set_console_room(room);
    }
    let quiet = spread_free(&Sim::new(&Options::default()).table(b'D'));
    assert_eq!(spread_free(&lines(&text)), quiet);
    let flood = format!("[stranger] {}", line.trim_end());
    let others = text
        .split_terminator("\r\n")
        .filter(|line| !line.starts_with("[portunus] "));
    assert!(others.clone().count() > 100);
    assert!(
        others.clone().all(|shown| shown == flood),
        "{:#?}",
        others.collect::<Vec<_>>()
    );
}

#[test]
fn a_prompt_comes_back_once_when_the_table_is_through() {
    let sim = spread();
    for byte in b"$ " {
        assert!(sim.store_to(B1, UART, 2, u64::from(*byte)));
    }
    // The backend has the focus.
    sim.type_in(b"\x01\x01\x01");
    assert!(sim.listen().ends_with("[dm] $ "));
    sim.type_in(b"\x01D");
    let mut shown = sim.listen();
    assert_eq!(shown.matches("[dm] $ ").count(), 1, "{shown}");
    assert!(shown.ends_with("\r\n[dm] $ "), "{shown}");
    assert!(sim.store_to(B1, UART, 2, b'x'.into()));
    shown = sim.listen();
    assert_eq!(shown, "x");
}

/// Lines without what depends on when they were made.
fn spread_free(lines: &[String]) -> Vec<String> {
    let end = |line: &String| line.find(", ").unwrap_or(line.len());
    lines
        .iter()
        .filter(|line| !line.starts_with("  x") && !line.starts_with("  PC"))
        .map(|line| line[..end(line)].to_string())
        .collect()
}

#[test]
fn nothing_is_made_while_the_terminal_takes_nothing_and_nothing_is_lost() {
    let sim = Sim::new(&Options::default());
    sim.machine().set_console_room(0);
    sim.type_in(b"\x01?");
    for _ in 0..500 {
        sim.advance(MS);
    }
    assert_eq!(sim.shown(), "");
    sim.machine().set_console_room(usize::MAX);
    assert_eq!(lines(&sim.listen()).len(), 13);
}

#[test]
fn another_key_ends_the_table_before_it() {
    let sim = spread();
    sim.type_in(b"\x01D");
    for _ in 0..20 {
        sim.advance(MS);
    }
    let before = lines(&sim.shown());
    assert!((10..=21).contains(&before.len()), "{before:#?}");
    let after = sim.table(b'l');
    assert_eq!(after.len(), 4, "{after:#?}");
    // The same key: from the beginning.
    sim.type_in(b"\x01D");
    sim.advance(5 * MS);
    assert_eq!(sim.table(b'D').len(), 5 * 13);
}

#[test]
fn quitting_does_not_wait_for_a_table() {
    let sim = Sim::new(&Options::default());
    sim.type_in(b"\x01D");
    sim.advance(MS);
    sim.type_in(b"\x01q");
    assert!(sim.hypervisor.is_finished());
    assert!(lines(&sim.shown()).len() < 10);
}

#[test]
fn a_table_of_as_many_domains_as_there_can_be_ends() {
    let sim = Sim::of(world::crowd());
    sim.forget_log();
    for (key, least, most) in [
        (b'l', 17, 17),
        (b'r', 129, 129),
        (b'D', 16 * (13 + 7 * 2), 16 * (13 + 7 * 2)),
        (b'I', 16 * 10, 16 * 10),
        (b'S', 16, 16),
        (b'E', 16, 16),
        (b'C', 128, 256),
    ] {
        let shown = sim.table(key);
        let count = shown.len();
        assert!((least..=most).contains(&count), "{}: {count} lines", char::from(key));
    }
    let shown = sim.table(b'r');
    assert!(shown[1].contains("crowd-of-many-do 0"), "{}", shown[1]);
}
