//! What a control domain may do, checked against what it should do.

use alloc::vec::Vec;
use core::fmt;

use guest_runtime::gic::Gic;
use guest_runtime::hypercall::{self, control};
use guest_runtime::{device_tree, println, psci, timer};
use portunus::abi::HypercallError;
use portunus::abi::control as abi;
use portunus::abi::control::{Action, Domain, Server, Vcpu};
use portunus::abi::hypercall::CONTROL;

use crate::intruder::every_operation;
use crate::roles::WATCH;

/// How long something is held, in microseconds: longer than the limit of the ticker's device.
const HELD: u64 = 600_000;
/// How long something may take that takes an instant, in microseconds.
const INSTANT: u64 = 5_000_000;

/// Checks, and how many failed.
struct Examiner {
    gic: Gic,
    checks: u32,
    failures: u32,
}

impl Examiner {
    fn check(&mut self, holds: bool, what: fmt::Arguments<'_>) {
        self.checks += 1;
        if !holds {
            self.failures += 1;
            println!("examiner: FAILED: {what}");
        }
    }

    fn domain(&self, name: &str) -> Domain {
        control::domains()
            .find(|domain| domain.name() == name)
            .expect("the manifest has it")
    }

    /// Waits until `done`, for an instant at the most.
    fn until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        let end = timer::now() + timer::ticks(INSTANT);
        while !done() {
            if timer::now() > end {
                self.check(false, format_args!("{what}: not in time"));
                return;
            }
            timer::sleep(&self.gic, 1_000);
        }
        self.check(true, format_args!("{what}"));
    }

    /// Calls with nonsense change nothing.
    fn refusals(&mut self, own: u16) {
        for domain in [0, 17, 0x7fef, 0x7ff1, 0x7ff4, 0xffff] {
            for (operation, result) in every_operation(domain) {
                let expected = Err(HypercallError::NoDomain);
                self.check(
                    result == expected,
                    format_args!("{operation} of domain {domain:#x} that is none: {result:?}"),
                );
            }
        }
        for domain in [own, hypercall::DOMID_SELF] {
            for (operation, result) in every_operation(domain).into_iter().skip(3) {
                let expected = Err(HypercallError::Invalid);
                self.check(result == expected, format_args!("{operation} of itself: {result:?}"));
            }
        }
        let mut memory = 0..0;
        device_tree::each_memory(|range| memory = range);
        let uart = device_tree::find_compatible(&["arm,pl011"]).and_then(|node| device_tree::reg(node, 0));
        let uart = uart.map_or(0, |range| range.start);
        for pointer in [0, 1, uart, memory.start - 4, memory.end, memory.end - 1, !0, !0 << 40] {
            for operation in abi::VERSION..=abi::SHUTDOWN {
                // SAFETY: the hypervisor writes to no RAM of this domain by it.
                let result = unsafe { hypercall::call(CONTROL, [operation, pointer, 0, 0, 0]) };
                let expected = Err(HypercallError::BadPointer);
                self.check(
                    result == expected,
                    format_args!("operation {operation} at {pointer:#x}: {result:?}"),
                );
            }
        }
        for operation in [abi::SHUTDOWN + 1, 1 << 32, !0] {
            let mut action = Action::on(self.domain("ticker").domain);
            // SAFETY: the structure is here.
            let result = unsafe { hypercall::call(CONTROL, [operation, &raw mut action as u64, 0, 0, 0]) };
            let expected = Err(HypercallError::NotSupported);
            self.check(result == expected, format_args!("operation {operation:#x}: {result:?}"));
        }
        let mut action = Action {
            version: 2,
            ..Action::on(self.domain("ticker").domain)
        };
        // SAFETY: the structure is here.
        let result = unsafe { hypercall::call(CONTROL, [abi::PAUSE, &raw mut action as u64, 0, 0, 0]) };
        // SAFETY: it is a live variable, which the hypercall may have changed.
        let version = unsafe { (&raw const action.version).read_volatile() };
        self.check(
            (result, version) == (Err(HypercallError::Invalid), abi::INTERFACE_VERSION),
            format_args!("version 2: {result:?}, {version}"),
        );
        for name in ["ticker", "watcher", "dm"] {
            let domain = self.domain(name);
            self.check(
                (domain.state, domain.flags & Domain::FLAG_PAUSED) == (Domain::STATE_RUNNING, 0),
                format_args!("{name} runs on"),
            );
        }
    }

    /// A guest that is paused gets no time; whoever has to do with it goes on.
    fn pause_guest(&mut self) {
        let (ticker, watcher) = (self.domain("ticker").domain, self.domain("watcher").domain);
        for _ in 0..2 {
            let paused = control::pause(ticker);
            self.check(paused == Ok(()), format_args!("pausing the ticker: {paused:?}"));
        }
        self.until("the ticker leaves its pCPU", || {
            control::domain(ticker).is_ok_and(|domain| domain.flags & Domain::FLAG_LEAVING == 0)
        });
        let interrupts = |id| control::vcpu(id, 0).map_or(0, |vcpu| vcpu.interrupts);
        let before = (run_time(ticker), interrupts(watcher));
        timer::sleep(&self.gic, HELD);
        let after = (run_time(ticker), interrupts(watcher));
        self.check(
            before.0 == after.0,
            format_args!("the paused ticker ran for {} ticks", after.0 - before.0),
        );
        let woken = after.1 - before.1;
        self.check(
            woken >= HELD / WATCH / 2,
            format_args!("its peer woke {woken} times only"),
        );
        let vcpu = control::vcpu(ticker, 0).unwrap_or_default();
        self.check(
            vcpu.flags == Vcpu::FLAG_HELD,
            format_args!("the ticker's vCPU is held: {vcpu:?}"),
        );
        for _ in 0..2 {
            let unpaused = control::unpause(ticker);
            self.check(unpaused == Ok(()), format_args!("unpausing the ticker: {unpaused:?}"));
        }
        let answered = || control::server(ticker, 0, 0).map_or(0, |server| server.answered);
        let before = answered();
        self.until("the ticker ticks again", || answered() > before + 1);
    }

    /// A backend that is paused is not late: its guest waits, and goes on with the right answer.
    fn pause_backend(&mut self) {
        let (ticker, dm) = (self.domain("ticker").domain, self.domain("dm").domain);
        let server = |id| control::server(ticker, id, 0).unwrap_or_default();
        let before = server(0);
        self.check(
            before.owner == dm && before.stage == Server::STAGE_ENABLED,
            format_args!("the ticker's server: {before:?}"),
        );
        let paused = control::pause(dm);
        self.check(paused == Ok(()), format_args!("pausing the backend: {paused:?}"));
        self.until("the ticker waits for its backend", || {
            control::vcpu(ticker, 0).is_ok_and(|vcpu| vcpu.state == Vcpu::STATE_WAITS_SERVER && vcpu.server == 0)
        });
        timer::sleep(&self.gic, HELD);
        let held = server(0);
        self.check(
            (held.in_flight, held.failed, held.stage) == (1, before.failed, Server::STAGE_ENABLED),
            format_args!("the paused backend is not late: {held:?}"),
        );
        let unpaused = control::unpause(dm);
        self.check(unpaused == Ok(()), format_args!("unpausing the backend: {unpaused:?}"));
        self.until("the backend answers", || server(0).answered > held.answered + 1);
        let after = server(0);
        self.check(
            after.longest >= timer::ticks(HELD) && after.failed == before.failed,
            format_args!("its latency shows the pause: {after:?}"),
        );
    }

    /// A restart gives back everything that the domain had.
    fn restart(&mut self) {
        let figures = |domain: &Domain| {
            [
                domain.pool_used,
                domain.foreign_pages,
                domain.references,
                domain.event_channels.into(),
                domain.attached_ports.into(),
            ]
        };
        let ticker = self.domain("ticker");
        for round in 1..=3 {
            // A domain that is paused is restarted, too.
            if round == 2 {
                let paused = control::pause(ticker.domain);
                self.check(paused == Ok(()), format_args!("pausing the ticker: {paused:?}"));
            }
            let restarted = control::restart(ticker.domain);
            self.check(
                restarted == Ok(()),
                format_args!("restarting the ticker: {restarted:?}"),
            );
            let look = || control::domain(ticker.domain).unwrap_or(ticker);
            self.until("the ticker is restarted", || {
                look().restarts == ticker.restarts + round && look().state == Domain::STATE_RUNNING
            });
            let answered = || control::server(ticker.domain, 0, 0).map_or(0, |server| server.answered);
            let before = answered();
            self.until("the ticker ticks again", || answered() > before + 1);
            let (before, after) = (figures(&ticker), figures(&look()));
            self.check(before == after, format_args!("before {before:?}, after {after:?}"));
        }
    }
}

fn run_time(id: u16) -> u64 {
    control::domain(id).map_or(0, |domain| domain.run_time)
}

pub(crate) fn run() -> ! {
    let mut examiner = Examiner {
        gic: Gic::init(),
        checks: 0,
        failures: 0,
    };
    let own = control::domain(hypercall::DOMID_SELF).expect("it may read itself");
    let names: Vec<Domain> = control::domains().collect();
    let expected = ["control", "examiner", "intruder", "ticker", "watcher", "dm"];
    let listed = names.iter().map(Domain::name).eq(expected);
    examiner.check(listed, format_args!("the list"));
    let ticker = examiner.domain("ticker").domain;
    examiner.until("the ticker ticks", || {
        control::server(ticker, 0, 0).is_ok_and(|server| server.answered > 2)
    });
    examiner.refusals(own.domain);
    examiner.pause_guest();
    examiner.pause_backend();
    examiner.restart();
    let Examiner { checks, failures, .. } = examiner;
    if failures == 0 {
        println!("examiner: all {checks} checks passed");
    } else {
        println!("examiner: FAILED: {failures} of {checks} checks");
    }
    psci::system_off()
}
