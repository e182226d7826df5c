//! Every interleaving of a device's updates with its driver's handler, on the real hypervisor: hypercalls, faults, list
//! registers.
//!
//! The device posts entries in a ring and then says so by an update, as often as the case says. The driver takes the
//! interrupt, reads the status, acknowledges it in the device before or after it scans the ring, and ends the interrupt. A
//! schedule is a choice at each step where both could go on; all are tried, by trying anew from the first step. Between
//! two schedules everything is as before the first, which is checked.

use std::rc::Rc;

use portunus::cpu::Cpu;
use portunus::fakes::Operation;
use portunus::ids::IntId;
use portunus::vgic::list_register::LrState;

use crate::backend::PAGES;
use crate::shadow_server::{G0, INTERRUPT_ACK, INTERRUPT_STATUS, world};
use crate::sim::Sim;
use crate::world::{DISK, DISK_INTERRUPT, DISTRIBUTOR, GUEST};

const INTERRUPT: IntId = IntId(DISK_INTERRUPT);

/// What a driver's handler does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// Takes the interrupt from the interrupt controller.
    Take,
    /// Reads the status; if it is zero, there is nothing but to end the interrupt.
    Read,
    /// Acknowledges in the device what was read.
    Acknowledge,
    /// Looks at the ring.
    Scan,
    /// Ends the interrupt.
    End,
}

use Step::{Acknowledge, End, Read, Scan, Take};

/// As VirtIO's drivers do it.
const BEFORE: &[Step] = &[Take, Read, Acknowledge, Scan, End];
/// The other way round: what comes between its scan and its acknowledgement is lost on any device, so it looks once more.
const AFTER: &[Step] = &[Take, Read, Scan, Acknowledge, Scan, End];
/// One that does not look once more.
const CARELESS: &[Step] = &[Take, Read, Scan, Acknowledge, End];

#[derive(Clone, Copy, Debug)]
struct Case {
    handler: &'static [Step],
    edge: bool,
    /// The bit that each update sets.
    bits: &'static [u32],
    /// The guest also looks at its interrupt controller after each step.
    looks: bool,
}

/// One schedule under way.
struct Run<'a> {
    sim: &'a Sim,
    case: Case,
    server: u16,
    /// Entries posted, and updates made.
    posted: usize,
    updated: usize,
    /// Entries that a scan found.
    seen: usize,
    /// Entries whose update's bit was acknowledged before a scan came.
    excused: usize,
    /// The handler's next step; `None`: it does not run.
    at: Option<usize>,
    status: u32,
    /// Interrupts taken, and those of them whose status was zero.
    taken: usize,
    for_nothing: usize,
}

impl Run<'_> {
    fn device_goes_on(&self) -> bool {
        self.updated < self.case.bits.len()
    }

    /// The next entry, or the update that tells of it.
    fn device_step(&mut self) {
        if self.posted == self.updated {
            self.posted += 1;
            return;
        }
        let bit = self.case.bits[self.updated];
        self.updated += 1;
        let word = self.sim.true_word().expect("a register") | bit;
        self.sim.take_log();
        assert_eq!(self.sim.change_word(self.server, 0, bit), 0);
        self.check_order(word);
    }

    /// The word is stored, the store is complete, and then others hear of it.
    fn check_order(&self, word: u32) {
        let log = self.sim.take_log();
        let at = self.sim.pa(GUEST, DISK + INTERRUPT_STATUS);
        let stored = Operation::Store {
            at,
            width: 4,
            value: word.into(),
        };
        let stored = log.iter().position(|operation| *operation == stored).expect("stored");
        let complete = log.iter().position(|operation| *operation == Operation::CompleteStores);
        assert!(Some(stored) < complete, "{log:?}");
        let told = log.iter().position(|operation| matches!(operation, Operation::Kick(_)));
        assert!(told.is_none() || complete < told, "{log:?}");
    }

    fn is_pending(&self) -> bool {
        self.sim.with(G0, |context| {
            let listed = context.cpu.fake.interface().find(INTERRUPT);
            listed.is_some_and(|listed| listed.state == LrState::Pending)
        })
    }

    fn driver_goes_on(&self) -> bool {
        self.at.is_some() || self.is_pending()
    }

    fn driver_step(&mut self) {
        let at = self.at.unwrap_or(0);
        let mut next = at + 1;
        match self.case.handler[at] {
            Take => {
                let taken = self
                    .sim
                    .with(G0, |context| context.cpu.virtual_interface().acknowledge());
                assert_eq!(taken, Some(INTERRUPT));
                self.taken += 1;
            }
            Read => {
                self.status = self.sim.shown_word(INTERRUPT_STATUS);
                if self.status == 0 {
                    self.for_nothing += 1;
                    next = self.case.handler.len() - 1;
                }
            }
            Acknowledge => {
                let acknowledged = |update: &usize| self.case.bits[*update] & self.status != 0;
                let unseen = (self.seen..self.updated).filter(acknowledged).count();
                self.excused = self.excused.max(self.seen + unseen);
                let rest = self.sim.true_word().expect("a register") & !self.status;
                self.sim.take_log();
                assert!(self.sim.store_to_shown(G0, DISK + INTERRUPT_ACK, 2, self.status.into()));
                self.check_order(rest);
            }
            Scan => self.seen = self.posted,
            End => {
                let maintenance = self
                    .sim
                    .with(G0, |context| context.cpu.virtual_interface().end(INTERRUPT));
                if maintenance.expect("it is active") {
                    self.sim.maintain(G0);
                }
            }
        }
        self.at = (next < self.case.handler.len()).then_some(next);
    }

    /// The page shows the true word, and the line is what the word says.
    fn check(&self) {
        let word = self.sim.true_word().expect("a register");
        assert_eq!(self.sim.shown_word(INTERRUPT_STATUS), word);
        if self.case.looks {
            let offset = 0x200 + u64::from(DISK_INTERRUPT / 32) * 4;
            let pending = self
                .sim
                .load_from(G0, DISTRIBUTOR + offset, 2, 1)
                .expect("GICD_ISPENDR");
            let pending = pending >> (DISK_INTERRUPT % 32) & 1 != 0;
            if !self.case.edge {
                assert_eq!(pending, word != 0, "the line");
            }
            assert!(word != 0 || !pending, "pending for nothing");
        }
    }
}

/// Runs one schedule: `script` has the choices of its first steps, and gets those of the others; the first choice each.
/// How many choices each step had.
fn run(sim: &Sim, server: u16, case: Case, script: &mut Vec<usize>) -> (Vec<usize>, usize) {
    let mut run = Run {
        sim,
        case,
        server,
        posted: 0,
        updated: 0,
        seen: 0,
        excused: 0,
        at: None,
        status: 0,
        taken: 0,
        for_nothing: 0,
    };
    let mut choices = Vec::new();
    loop {
        let (device, driver) = (run.device_goes_on(), run.driver_goes_on());
        let count = usize::from(device) + usize::from(driver);
        if count == 0 {
            break;
        }
        let step = choices.len();
        choices.push(count);
        if script.len() <= step {
            script.push(0);
        }
        if device && (script[step] == 0 || !driver) {
            run.device_step();
        } else {
            run.driver_step();
        }
        run.check();
        assert!(step < 100, "{case:?} {script:?}: it never ends");
    }
    let told = format!("{case:?}, schedule {script:?}");
    let lost = case.bits.len() - run.seen;
    assert!(
        run.seen == case.bits.len() || run.excused > run.seen,
        "{told}: {lost} lost"
    );
    if case.handler != CARELESS {
        assert_eq!(lost, 0, "{told}: lost");
    }
    assert_eq!(run.for_nothing, 0, "{told}: an interrupt without a status");
    assert!(
        (1..=case.bits.len()).contains(&run.taken),
        "{told}: {} interrupts",
        run.taken
    );
    // As before the first step.
    assert_eq!(sim.true_word(), Some(0), "{told}");
    let left = sim.with(G0, |context| context.cpu.fake.interface().find(INTERRUPT));
    assert_eq!(left, None, "{told}");
    (choices, lost)
}

/// Tries all schedules: how many, and how many of them lost something.
fn explore(sim: &Sim, server: u16, case: Case) -> (usize, usize) {
    let mut script = Vec::new();
    let (mut count, mut losses) = (0, 0);
    loop {
        let (choices, lost) = run(sim, server, case, &mut script);
        count += 1;
        losses += usize::from(lost != 0);
        let Some(last) = (0..choices.len()).rev().find(|step| script[*step] + 1 < choices[*step]) else {
            return (count, losses);
        };
        script.truncate(last + 1);
        script[last] += 1;
    }
}

fn served() -> (Rc<Sim>, u16) {
    let sim = world();
    let server = sim.serve_shown(PAGES);
    (sim, server.id)
}

#[test]
fn no_interleaving_of_updates_and_handler_loses_an_interrupt_or_makes_one_for_nothing() {
    let mut total = 0;
    for edge in [false, true] {
        let (sim, server) = served();
        if edge {
            let register = DISTRIBUTOR + 0xc00 + u64::from(DISK_INTERRUPT / 16) * 4;
            assert!(sim.store_to(G0, register, 2, 2 << (DISK_INTERRUPT % 16 * 2)));
        }
        for handler in [BEFORE, AFTER] {
            for (bits, looks) in [
                (&[1, 1][..], false),
                (&[1, 2], false),
                (&[1, 1], true),
                (&[1, 2], true),
                (&[1, 1, 1], false),
            ] {
                let case = Case {
                    handler,
                    edge,
                    bits,
                    looks,
                };
                let (count, _) = explore(&sim, server, case);
                assert!(count > 20, "{case:?}: {count} schedules");
                total += count;
            }
        }
    }
    assert!(total > 2000, "{total} schedules");
}

#[test]
fn a_driver_that_scans_first_and_never_again_loses_what_it_would_lose_on_any_device_and_nothing_else() {
    for edge in [false, true] {
        let (sim, server) = served();
        if edge {
            let register = DISTRIBUTOR + 0xc00 + u64::from(DISK_INTERRUPT / 16) * 4;
            assert!(sim.store_to(G0, register, 2, 2 << (DISK_INTERRUPT % 16 * 2)));
        }
        let case = |bits| Case {
            handler: CARELESS,
            edge,
            bits,
            looks: false,
        };
        let (_, losses) = explore(&sim, server, case(&[1, 1]));
        assert!(losses > 0, "the model sees losses");
        let (_, losses) = explore(&sim, server, case(&[1, 2]));
        assert_eq!(losses, 0, "another bit is another interrupt");
    }
}
