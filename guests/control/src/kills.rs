//! Restarts of a domain at random moments.

use alloc::string::{String, ToString};

use guest_runtime::console;
use guest_runtime::gic::Gic;
use guest_runtime::hypercall::control;
use guest_runtime::{println, timer};
use portunus::abi::HypercallError;
use portunus::abi::control::{Action, Domain};

use crate::failure::Failure;
use crate::line::CTRL_C;
use crate::{argument, commands};
use guest_runtime::random::Random;

/// How long a domain may take to come up again, in microseconds.
const PATIENCE: u64 = 120_000_000;
/// How often it is looked at meanwhile.
const LOOK: u64 = 1_000;

const USAGE: &str = "kill NAME [TIMES [MIN-MAX [SEED [crash]]]], times in milliseconds";

/// What to restart, how often, when.
pub(crate) struct Plan {
    domain: Domain,
    times: u64,
    between: (u64, u64),
    seed: u64,
    start: u64,
    crash: bool,
}

impl Plan {
    /// A plan from words, each of which may be left out but the first.
    fn new(
        name: &str,
        times: Option<&str>,
        between: Option<&str>,
        seed: Option<&str>,
        usage: &'static str,
    ) -> Result<Self, Failure> {
        let number = |word: Option<&str>, otherwise| match word {
            Some(word) => word.parse::<u64>().map_err(|_| Failure::Usage(usage)),
            None => Ok(otherwise),
        };
        let (least, most) = match between {
            Some(word) => word.split_once('-').unwrap_or((word, word)),
            None => ("500", "500"),
        };
        let between = (number(Some(least), 0)?, number(Some(most), 0)?);
        if between.0 > between.1 || between.1 > u64::MAX / 1_000_000 {
            return Err(Failure::Usage(usage));
        }
        Ok(Self {
            domain: commands::find(name)?,
            times: number(times, 1)?,
            between,
            seed: number(seed, 1)?,
            start: 0,
            crash: false,
        })
    }

    /// What the boot arguments say.
    pub(crate) fn from_boot_arguments() -> Result<Self, Failure> {
        const USAGE: &str = "kill=NAME times=N between-ms=MIN-MAX seed=N start-ms=N how=restart|crash then=listen|off";
        let words = ["times", "between-ms", "seed"].map(argument);
        let mut plan = Self::new(
            argument("kill").unwrap_or_default(),
            words[0],
            words[1],
            words[2],
            USAGE,
        )?;
        let start = argument("start-ms").unwrap_or("0");
        plan.start = start.parse().map_err(|_| Failure::Usage(USAGE))?;
        plan.crash = match argument("how") {
            None | Some("restart") => false,
            Some("crash") => true,
            Some(_) => return Err(Failure::Usage(USAGE)),
        };
        Ok(plan)
    }

    /// What the words after the command `kill` say.
    pub(crate) fn from_words<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<Self, Failure> {
        let name = words.next().ok_or(Failure::Usage(USAGE))?;
        let mut plan = Self::new(name, words.next(), words.next(), words.next(), USAGE)?;
        plan.crash = match (words.next(), words.next()) {
            (None, None) => false,
            (Some("crash"), None) => true,
            _ => return Err(Failure::Usage(USAGE)),
        };
        Ok(plan)
    }

    /// Does it.
    pub(crate) fn run(&self, gic: &Gic) -> Result<(), Failure> {
        let mut random = Random::new(self.seed);
        sleep(gic, self.start.saturating_mul(1000))?;
        for number in 1..=self.times {
            let (least, most) = self.between;
            let wait = random.between(least * 1000, most * 1000);
            sleep(gic, wait)?;
            self.restart(gic, number, wait)?;
        }
        println!("control: all {} kills done", self.times);
        Ok(())
    }

    fn restart(&self, gic: &Gic, number: u64, waited: u64) -> Result<(), Failure> {
        let (id, name) = (self.domain.domain, self.domain.name());
        let refused = |error| Failure::Refused(alloc::format!("restarting {name}"), error);
        let began = timer::now();
        let before = loop {
            let restarts = control::domain(id).map_err(refused)?.restarts;
            let done = if self.crash {
                control::shut_down(id, Action::CRASH)
            } else {
                control::restart(id)
            };
            match done {
                Ok(()) => break restarts,
                // It restarts for another reason already.
                Err(HypercallError::Busy) => sleep(gic, LOOK)?,
                Err(error) => return Err(refused(error)),
            }
            if microseconds_since(began) > PATIENCE {
                return Err(refused(HypercallError::Busy));
            }
        };
        println!(
            "control: kill {number} of {}: {name} after {} ms",
            self.times,
            waited / 1000
        );
        let began = timer::now();
        loop {
            let domain = control::domain(id).map_err(refused)?;
            let time = microseconds_since(began);
            match domain.state {
                Domain::STATE_RUNNING if domain.restarts != before => {
                    println!(
                        "control: {name} is up again after {}.{:03} ms (restart {})",
                        time / 1000,
                        time % 1000,
                        domain.restarts
                    );
                    return Ok(());
                }
                Domain::STATE_STOPPED => return Err(self.down("it has stopped".to_string())),
                _ if time > PATIENCE => {
                    return Err(self.down(alloc::format!("not in {} s", PATIENCE / 1_000_000)));
                }
                _ => sleep(gic, LOOK)?,
            }
        }
    }

    fn down(&self, why: String) -> Failure {
        Failure::Down(self.domain.name().to_string(), why)
    }
}

fn microseconds_since(began: u64) -> u64 {
    let ticks = timer::now().saturating_sub(began);
    (u128::from(ticks) * 1_000_000 / u128::from(timer::frequency())) as u64
}

/// Sleeps; Ctrl-C ends it.
fn sleep(gic: &Gic, microseconds: u64) -> Result<(), Failure> {
    let end = timer::now().saturating_add(timer::ticks(microseconds));
    while let Some(typed) = console::read_byte_until(gic, end) {
        if typed == CTRL_C {
            return Err(Failure::Interrupted);
        }
    }
    Ok(())
}
