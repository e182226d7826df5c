//! Where a domain is in its life: one word, which every pCPU reads before it enters a guest.
//!
//! ```text
//!   Running --end--> Stopping <--redirect--> Restarting --started--> Running
//!                       |                        ^
//!                       +--stopped--> Stopped ---+ begin
//! ```
//!
//! Whoever ends a domain makes the first move; the rest is done by the pCPU that does the work of ending and starting it
//! ([`crate::hypervisor`], `lifecycle`). A move that the state does not have changes nothing and says so.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::abi::sched::ShutdownReason;

/// Where a domain is in its life.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Phase {
    /// Its guest runs.
    Running,
    /// Its guest has ended; what it had is being released.
    Stopping(ShutdownReason),
    /// As [`Self::Stopping`]; then it starts again.
    Restarting(ShutdownReason),
    /// It is down.
    Stopped(ShutdownReason),
}

const RUNNING: u32 = 0;
const STOPPING: u32 = 1;
const RESTARTING: u32 = 2;
const STOPPED: u32 = 3;
const PHASE_BITS: u32 = 2;

impl Phase {
    const fn word(self) -> u32 {
        match self {
            Self::Running => RUNNING,
            Self::Stopping(reason) => STOPPING | (reason as u32) << PHASE_BITS,
            Self::Restarting(reason) => RESTARTING | (reason as u32) << PHASE_BITS,
            Self::Stopped(reason) => STOPPED | (reason as u32) << PHASE_BITS,
        }
    }

    const fn from_word(word: u32) -> Self {
        // Every word was made by the function above.
        let reason = match ShutdownReason::from_number(word >> PHASE_BITS) {
            Some(reason) => reason,
            None => ShutdownReason::Crash,
        };
        match word & ((1 << PHASE_BITS) - 1) {
            RUNNING => Self::Running,
            STOPPING => Self::Stopping(reason),
            RESTARTING => Self::Restarting(reason),
            _ => Self::Stopped(reason),
        }
    }

    /// Why it does not run; `None` while it does.
    pub const fn reason(self) -> Option<ShutdownReason> {
        match self {
            Self::Running => None,
            Self::Stopping(reason) | Self::Restarting(reason) | Self::Stopped(reason) => Some(reason),
        }
    }

    /// Its guest has ended, and nothing will start it again by itself.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Stopping(_) | Self::Stopped(_))
    }
}

/// A domain's [`Phase`], shared by all pCPUs.
#[derive(Debug, Default)]
pub struct Life(AtomicU32);

impl Life {
    /// Where it is.
    pub fn phase(&self) -> Phase {
        Phase::from_word(self.0.load(Ordering::Acquire))
    }

    /// Whether its guest runs: one load.
    #[inline]
    pub fn is_running(&self) -> bool {
        self.0.load(Ordering::Acquire) == RUNNING
    }

    /// Its guest ends, for the first reason that is given; whether this is the first.
    pub fn end(&self, reason: ShutdownReason, restarts: bool) -> bool {
        let next = if restarts {
            Phase::Restarting(reason)
        } else {
            Phase::Stopping(reason)
        };
        self.change(Phase::Running, next)
    }

    /// Changes what follows while it ends; whether it ends and the other would have followed.
    pub fn redirect(&self, restarts: bool) -> bool {
        match (self.phase(), restarts) {
            (before @ Phase::Stopping(reason), true) => self.change(before, Phase::Restarting(reason)),
            (before @ Phase::Restarting(reason), false) => self.change(before, Phase::Stopping(reason)),
            _ => false,
        }
    }

    /// A stopped domain begins to start again; whether it was stopped.
    pub fn begin(&self) -> bool {
        match self.phase() {
            before @ Phase::Stopped(reason) => self.change(before, Phase::Restarting(reason)),
            _ => false,
        }
    }

    /// All that a domain which stops had is released; `false`: it is to start again after all.
    pub fn stopped(&self) -> bool {
        match self.phase() {
            before @ Phase::Stopping(reason) => self.change(before, Phase::Stopped(reason)),
            _ => false,
        }
    }

    /// The domain was made anew; `false`: it is to stop after all.
    pub fn started(&self) -> bool {
        match self.phase() {
            before @ Phase::Restarting(_) => self.change(before, Phase::Running),
            _ => false,
        }
    }

    fn change(&self, before: Phase, after: Phase) -> bool {
        let changed = self
            .0
            .compare_exchange(before.word(), after.word(), Ordering::AcqRel, Ordering::Acquire);
        changed.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::{Life, Phase, ShutdownReason};

    const REASONS: [ShutdownReason; 6] = [
        ShutdownReason::Poweroff,
        ShutdownReason::Reboot,
        ShutdownReason::Suspend,
        ShutdownReason::Crash,
        ShutdownReason::Watchdog,
        ShutdownReason::SoftReset,
    ];

    #[test]
    fn a_phase_survives_its_word() {
        for reason in REASONS {
            for phase in [
                Phase::Running,
                Phase::Stopping(reason),
                Phase::Restarting(reason),
                Phase::Stopped(reason),
            ] {
                assert_eq!(Phase::from_word(phase.word()), phase);
            }
        }
    }

    #[test]
    fn only_the_moves_of_the_diagram_change_anything() {
        type Move = fn(&Life) -> bool;
        let moves: [(&str, Move); 7] = [
            ("end, restart", |life| life.end(ShutdownReason::Crash, true)),
            ("end, stop", |life| life.end(ShutdownReason::Crash, false)),
            ("redirect to restart", |life| life.redirect(true)),
            ("redirect to stop", |life| life.redirect(false)),
            ("begin", Life::begin),
            ("stopped", Life::stopped),
            ("started", Life::started),
        ];
        let reason = ShutdownReason::Reboot;
        let crash = ShutdownReason::Crash;
        let legal = [
            (Phase::Running, "end, restart", Phase::Restarting(crash)),
            (Phase::Running, "end, stop", Phase::Stopping(crash)),
            (
                Phase::Stopping(reason),
                "redirect to restart",
                Phase::Restarting(reason),
            ),
            (Phase::Restarting(reason), "redirect to stop", Phase::Stopping(reason)),
            (Phase::Stopping(reason), "stopped", Phase::Stopped(reason)),
            (Phase::Restarting(reason), "started", Phase::Running),
            (Phase::Stopped(reason), "begin", Phase::Restarting(reason)),
        ];
        for before in [
            Phase::Running,
            Phase::Stopping(reason),
            Phase::Restarting(reason),
            Phase::Stopped(reason),
        ] {
            for (name, act) in moves {
                let life = Life::default();
                life.0.store(before.word(), core::sync::atomic::Ordering::Relaxed);
                let after = legal.iter().find(|(from, what, _)| *from == before && *what == name);
                assert_eq!(act(&life), after.is_some(), "{name} of {before:?}");
                assert_eq!(
                    life.phase(),
                    after.map_or(before, |(.., after)| *after),
                    "{name} of {before:?}"
                );
            }
        }
    }
}
