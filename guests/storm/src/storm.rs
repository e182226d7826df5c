//! One domain in the storm: what it does next, what it may wait for, how it dies and how it ends.

use alloc::boxed::Box;
use alloc::vec::Vec;

use guest_runtime::random::Random;
use guest_runtime::window::Window;
use guest_runtime::{device_tree, give_way, hypercall, let_others_run, println, psci, timer};
use portunus::abi::control::{Action, Domain};
use portunus::abi::sched::ShutdownReason;

use crate::ledger::{CLEAN, Count, DOMAINS, LAST, Ledger, OVER, QUIET, STORM};
use crate::others::{Forecast, Map};
use crate::own::{Own, PAGE, Words};

/// How long another domain may take for what it must do, in microseconds.
const PATIENCE: u64 = 30_000_000;
/// How often the others' phases are looked at.
const LOOK: u64 = 64;

/// Ends the run without a model to ask.
pub(crate) fn failed(what: core::fmt::Arguments<'_>) -> ! {
    println!("storm: FAILED: {what}");
    psci::system_off()
}

pub(crate) struct Storm {
    pub(crate) me: usize,
    pub(crate) domains: usize,
    pub(crate) ledger: Ledger,
    pub(crate) life: u64,
    pub(crate) random: Random,
    pub(crate) own: Own,
    /// What this domain has mapped.
    pub(crate) maps: Vec<Map>,
    /// Where: the first of [`crate::others::SLOTS`] pages.
    pub(crate) window: u64,
    /// Lives of the others as far as this domain has noticed.
    pub(crate) lives: [u64; DOMAINS],
    pub(crate) buffer: Box<Words>,
    seed: u64,
    step: u64,
    /// Operations of all domains together.
    goal: u64,
    /// One step in so many is somebody's last.
    span: u64,
}

impl Storm {
    pub(crate) fn new() -> Option<Self> {
        let number = device_tree::boot_number;
        let ledger = Ledger::find()?;
        let me = number("me")? as usize - 1;
        // Nobody is told of it before the words of the last life are put right.
        let life = ledger.life(me) + 1;
        let seed = number("seed").unwrap_or(1);
        let mut storm = Self {
            me,
            domains: (number("domains").unwrap_or(2) as usize).clamp(1, DOMAINS),
            ledger,
            life,
            random: Random::new(seed.wrapping_mul(0x1_0001) ^ (me as u64) << 32 ^ life << 40),
            own: Own::new(number("frames").unwrap_or(4))?,
            maps: Vec::new(),
            window: Window::from_device_tree()?
                .take(crate::others::SLOTS as u64 * PAGE)
                .ok()?,
            lives: [0; DOMAINS],
            buffer: Box::new(Words([const { core::sync::atomic::AtomicU64::new(0) }; 512])),
            seed,
            step: 0,
            goal: number("operations").unwrap_or(10_000),
            span: number("span").unwrap_or(800).max(1),
        };
        storm.begin_own();
        storm.begin_others();
        ledger.begin_life(me);
        storm.lives[me] = life;
        Some(storm)
    }

    /// Says what went wrong, and how to come to it again.
    pub(crate) fn fail(&self, what: core::fmt::Arguments<'_>) -> ! {
        println!(
            "storm: FAILED: domain {} seed {} life {} step {}: {what}",
            self.me + 1,
            self.seed,
            self.life,
            self.step
        );
        psci::system_off()
    }

    /// Domains that have been stopped start again, unless all is over.
    fn raise_the_dead(&self) {
        for domain in (0..self.domains).filter(|domain| *domain != self.me) {
            let is_down = |report: Domain| report.state == Domain::STATE_STOPPED;
            if self.ledger.phase(domain) != OVER && hypercall::control::domain(domain as u16 + 1).is_ok_and(is_down) {
                // It may be starting already.
                let _ = hypercall::control::restart(domain as u16 + 1);
            }
        }
    }

    /// Waits until a domain has stopped. `false`: somebody started it again.
    fn has_stopped(&self, domain: usize) -> bool {
        loop {
            match hypercall::control::domain(domain as u16 + 1).map(|report| report.state) {
                Ok(Domain::STATE_STOPPED) => return true,
                Ok(Domain::STATE_STOPPING) => give_way(),
                _ => return false,
            }
        }
    }

    /// Waits for what another domain must do. `None`: it cannot be told any more, and need not come true.
    pub(crate) fn comes_true(&mut self, what: &str, number: usize, mut is_true: impl FnMut(&mut Self) -> Option<bool>) {
        let start = timer::now();
        while is_true(self) == Some(false) {
            self.raise_the_dead();
            if timer::now() - start > timer::ticks(PATIENCE) {
                self.fail(format_args!("{what} {number} was waited for in vain"));
            }
            give_way();
        }
    }

    /// Whether `domain` is not in that life any more, or ends it now. Only its end explains what the model does not.
    pub(crate) fn is_dead(&self, domain: usize, life: u64) -> bool {
        self.dies(|storm| storm.ledger.life(domain) != life)
    }

    /// Whether the granter of one of `forecasts` is.
    pub(crate) fn is_one_dead(&self, forecasts: &[Forecast]) -> bool {
        self.dies(|storm| {
            let mut forecasts = forecasts.iter();
            forecasts.any(|forecast| storm.ledger.life(forecast.granter) != forecast.life)
        })
    }

    fn dies(&self, is_dead: impl Fn(&Self) -> bool) -> bool {
        let start = timer::now();
        while !is_dead(self) {
            self.raise_the_dead();
            if timer::now() - start > timer::ticks(PATIENCE) {
                return false;
            }
            give_way();
        }
        true
    }

    pub(crate) fn run(mut self) -> ! {
        if self.ledger.phase(self.me) == STORM {
            self.storm();
            self.ledger.set_phase(self.me, QUIET);
        }
        if self.ledger.phase(self.me) == QUIET {
            self.give_back_all();
            self.end_all();
            self.ledger.set_phase(self.me, CLEAN);
        }
        if self.ledger.phase(self.me) == CLEAN {
            self.wait_for(CLEAN);
            self.ledger.set_phase(self.me, LAST);
            psci::system_reset();
        }
        self.wait_for(LAST);
        self.balance();
        self.ledger.set_phase(self.me, OVER);
        self.wait_for(OVER);
        psci::system_off()
    }

    /// All domains have come to a phase.
    fn wait_for(&mut self, phase: u64) {
        self.comes_true("phase", phase as usize, |storm| {
            let mut phases = (0..storm.domains).map(|domain| storm.ledger.phase(domain));
            Some(phases.all(|there| there >= phase))
        });
    }

    fn storm(&mut self) {
        loop {
            self.step += 1;
            if self.step.is_multiple_of(LOOK) {
                let done = (0..self.domains).map(|domain| self.ledger.count(domain, Count::Operations));
                if done.sum::<u64>() >= self.goal {
                    return;
                }
            }
            // Where CPUs take turns, steps do.
            let_others_run();
            self.notice_deaths();
            match self.random.below(100) {
                0..18 => self.grant(),
                18..34 => self.revoke(),
                34..58 => self.map(),
                58..70 => self.unmap(),
                70..82 => self.access(),
                82..92 => self.copy(),
                92..97 => self.check_own(),
                97 => self.refused(),
                98 => self.grow_table(),
                _ => self.die(),
            }
        }
    }

    /// Once in a while a life ends, this one's or another's.
    fn die(&mut self) {
        // Called in one step of a hundred.
        if self.random.below((self.span / 100).max(1)) != 0 {
            return;
        }
        let other = self.peer();
        let is_other = other != self.me && self.ledger.phase(other) == STORM;
        match self.random.below(6) {
            0 if is_other => {
                self.ledger.add(self.me, Count::Kills, 1);
                // It may have died just now.
                let _ = hypercall::control::restart(other as u16 + 1);
            }
            1..4 if is_other => {
                self.ledger.add(self.me, Count::Kills, 1);
                let _ = hypercall::control::shut_down(other as u16 + 1, Action::POWEROFF);
                // Whoever waits for it starts it again.
                if self.random.below(4) != 0 && self.has_stopped(other) {
                    self.forsake(other);
                }
            }
            4 => {
                self.ledger.add(self.me, Count::Deaths, 1);
                let refused = hypercall::shutdown(ShutdownReason::Crash);
                self.fail(format_args!("a crash was survived: {refused:?}"))
            }
            _ => {
                self.ledger.add(self.me, Count::Deaths, 1);
                psci::system_reset()
            }
        }
    }

    /// Nobody has anything of anybody.
    fn balance(&mut self) {
        for domain in 0..self.domains {
            let report = match hypercall::control::domain(domain as u16 + 1) {
                Ok(report) => report,
                Err(_) if domain == self.me => continue,
                Err(error) => self.fail(format_args!("domain {} cannot be looked at: {error}", domain + 1)),
            };
            if (report.references, report.foreign_pages, report.event_channels) != (0, 0, 0) {
                self.fail(format_args!(
                    "domain {} is held by {} references, has {} foreign pages and {} event channels",
                    domain + 1,
                    report.references,
                    report.foreign_pages,
                    report.event_channels
                ));
            }
        }
        let count = |what| self.ledger.count(self.me, what);
        println!(
            "storm: {} operations in {} lives, {} ended by itself, and {} of others: {} maps, {} unmaps, {} copies, {} grants, \
             {} revoked, {} refused, {} accesses; nothing is left",
            count(Count::Operations),
            self.life,
            count(Count::Deaths),
            count(Count::Kills),
            count(Count::Maps),
            count(Count::Unmaps),
            count(Count::Copies),
            count(Count::Grants),
            count(Count::Revocations),
            count(Count::Refusals),
            count(Count::Accesses),
        );
    }
}
