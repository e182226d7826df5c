//! How domains end and start again.
//!
//! [`Hypervisor::shut_down`] and [`Hypervisor::restart`] are the only ways in. They mark the domain ([`crate::domain::life`])
//! and wake its vCPUs; each leaves its pCPU and turns off ([`Hypervisor::leave_life`]). When the last one has, the *boot
//! vCPU's* pCPU does the rest, in that vCPU's time: step by step, each of bounded length, and others that run there come in
//! between. So a restart is paid for by the domain that restarts.
//!
//! | file | what |
//! |---|---|
//! | `work` | the steps and their order |
//! | `devices` | devices come to rest: those that others serve, and those of the machine |
//! | `memory` | what others have of it and what it has of others; its map and its image |
//! | `state` | interrupts, event channels, console: as before the first instruction |
//!
//! What holds: nothing of a domain is reset before all its vCPUs are off, and only vCPUs that are on turn others on; nothing
//! is written into its RAM before every device that could write there is at rest, or what its server had mapped is taken from
//! it; a domain that does not run gets no new mappings by others.

mod devices;
mod memory;
mod state;
mod work;

pub(crate) use state::connect_interrupts;

use core::sync::atomic::Ordering;

use crate::abi::sched::ShutdownReason;
use crate::cpu::Cpu;
use crate::domain::Domain;
use crate::domain::blueprint::ImagingError;
use crate::domain::life::Phase;
use crate::domain::lifecycle::Lifecycle;
use crate::domain::vcpu::{Attention, Power, Vcpu};
use crate::hypervisor::messages::Message;
use crate::hypervisor::{Entry, Hypervisor, VcpuState};
use crate::machine::Machine;
use crate::manifest::lifecycle::{OnShutdown, RestartLimit};
use crate::sched::Wait;

/// Why a domain starts again.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum RestartCause {
    /// Its guest ended, and the manifest says so.
    Guest(ShutdownReason),
    /// Somebody who may asked for it.
    Control,
}

impl RestartCause {
    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guest(ShutdownReason::Poweroff) => "power-off",
            Self::Guest(ShutdownReason::Reboot) => "reboot",
            Self::Guest(ShutdownReason::Suspend) => "suspend",
            Self::Guest(ShutdownReason::Crash) => "crash",
            Self::Guest(ShutdownReason::Watchdog) => "watchdog",
            Self::Guest(ShutdownReason::SoftReset) => "soft reset",
            Self::Control => "control",
        }
    }
}

/// Why a domain that was to start again stays down.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum StaysDown {
    /// It starts again too often.
    Limit(RestartLimit, RestartCause),
    /// This device of the machine, by number, writes to memory, and the manifest names no way to stop that.
    Restless(usize),
    /// This one does not come to rest.
    DeviceBusy(usize),
    /// Its guest-physical map cannot be made.
    Map,
    /// Its memory cannot be made anew.
    Image(ImagingError),
}

impl<M: Machine> Hypervisor<M> {
    /// `domain` ends for `reason`; what follows is the manifest's. Nothing happens if it does not run.
    pub fn shut_down(&self, domain: &Domain, reason: ShutdownReason) {
        let follows = domain.follows(reason);
        let cause = RestartCause::Guest(reason);
        let refusal = match follows {
            OnShutdown::Restart => self.begin_end(domain, reason, Some(cause)),
            OnShutdown::Stop | OnShutdown::PowerOff => self.begin_end(domain, reason, None),
        };
        let Some(refusal) = refusal else { return };
        if let Err(why) = refusal {
            self.tell(Message::StaysDown { domain: domain.id, why });
        }
        if follows == OnShutdown::PowerOff {
            self.finished.store(true, Ordering::Release);
        }
    }

    /// `domain` stops for good, whatever the manifest says follows: somebody who may asked for it. One that starts again
    /// stops instead.
    pub fn stop(&self, domain: &Domain, reason: ShutdownReason) {
        if domain.life.redirect(false) {
            self.tell(Message::Stopped {
                domain: domain.id,
                reason,
            });
            return self.end_if_over();
        }
        let _ = self.begin_end(domain, reason, None);
    }

    /// `domain` starts again, whether it runs or not: somebody who may asked for it. One that starts already goes on.
    ///
    /// # Errors
    /// [`StaysDown::Restless`]: nothing happens.
    pub fn restart(&self, domain: &Domain, cause: RestartCause) -> Result<(), StaysDown> {
        self.check_devices(domain)?;
        let reason = match cause {
            RestartCause::Guest(reason) => reason,
            RestartCause::Control => ShutdownReason::Reboot,
        };
        if self.begin_end(domain, reason, Some(cause)).is_some() {
            return Ok(());
        }
        // Locked, so that one that stops has not stopped between the two looks.
        let mut lifecycle = domain.lifecycle.lock();
        let begins = domain.life.begin();
        if begins {
            lifecycle.since = self.machine.now();
        }
        let restarts = begins || domain.life.redirect(true);
        drop(lifecycle);
        if restarts {
            self.tell(Message::Restarts {
                domain: domain.id,
                cause,
            });
            self.wake_for_work(domain);
        }
        Ok(())
    }

    /// Marks a running domain as ending and makes its vCPUs leave. `None`: it does not run. An error: it was to start again
    /// and will not.
    fn begin_end(
        &self,
        domain: &Domain,
        reason: ShutdownReason,
        restarts: Option<RestartCause>,
    ) -> Option<Result<(), StaysDown>> {
        if !domain.life.is_running() {
            return None;
        }
        let mut lifecycle = domain.lifecycle.lock();
        let allowed = restarts.map(|cause| self.may_restart(domain, &mut lifecycle, cause).map(|()| cause));
        let cause = allowed.and_then(Result::ok);
        if !domain.life.end(reason, cause.is_some()) {
            return None;
        }
        lifecycle.since = self.machine.now();
        drop(lifecycle);
        self.tell(match cause {
            Some(cause) => Message::Restarts {
                domain: domain.id,
                cause,
            },
            None => Message::Stopped {
                domain: domain.id,
                reason,
            },
        });
        self.cancel_alarms(domain);
        // Only vCPUs that can be scheduled leave.
        self.unpause(domain);
        for vcpu in &domain.vcpus {
            for wait in [Wait::Event, Wait::Request] {
                self.notify(vcpu, Attention::Stop, wait);
            }
        }
        self.wake_for_work(domain);
        self.abandon_servers(domain.id);
        self.end_if_over();
        Some(allowed.map_or(Ok(()), |allowed| allowed.map(|_| ())))
    }

    fn may_restart(&self, domain: &Domain, lifecycle: &mut Lifecycle, cause: RestartCause) -> Result<(), StaysDown> {
        self.check_devices(domain)?;
        if let (RestartCause::Guest(_), Some(limit)) = (cause, domain.plan.limit)
            && !lifecycle.restarts.allow(limit, self.machine.now(), self.frequency)
        {
            return Err(StaysDown::Limit(limit, cause));
        }
        Ok(())
    }

    /// Whether all devices of the machine that `domain` owns can be brought to rest.
    fn check_devices(&self, domain: &Domain) -> Result<(), StaysDown> {
        let restless = domain.plan.devices.iter().position(|device| device.is_restless());
        restless.map_or(Ok(()), |index| Err(StaysDown::Restless(index)))
    }

    /// The machine's work is over when every domain that is there for more than to serve others has stopped.
    pub(crate) fn end_if_over(&self) {
        let mut domains = self.domains().filter(|domain| !domain.serves || domain.plan.controls);
        if domains.all(Domain::is_stopped) {
            self.finished.store(true, Ordering::Release);
        }
    }

    /// The pCPU of the boot vCPU is to look at the work that there is, though that vCPU is off.
    fn wake_for_work(&self, domain: &Domain) {
        if let Some(boot) = domain.vcpus.first() {
            self.notify(boot, Attention::Stop, Wait::Power);
        }
    }

    /// A vCPU of a domain that does not run was scheduled: it turns off, and the boot vCPU does the next step of what is to
    /// be done.
    pub(crate) fn leave_life<C: Cpu>(&self, cpu: &mut C, domain: &Domain, vcpu: &Vcpu, state: &mut VcpuState) -> Entry {
        if *vcpu.power.lock() != Power::Off {
            self.power_off_vcpu(cpu, domain, vcpu, state);
        }
        let is_boot = vcpu.id.index == 0;
        if is_boot && self.has_work(domain) {
            return self.work(domain, vcpu);
        }
        self.block(vcpu, Wait::Power, None);
        // The last one may have turned off meanwhile, and woken nobody.
        if is_boot && self.has_work(domain) {
            self.wake(vcpu, Wait::Power);
        }
        Entry::Blocked
    }

    fn has_work(&self, domain: &Domain) -> bool {
        matches!(domain.life.phase(), Phase::Stopping(_) | Phase::Restarting(_)) && domain.live() == 0
    }

    /// One of `domain`'s vCPUs is off. If it was the last of a domain that ends, the work begins.
    pub(crate) fn one_less(&self, domain: &Domain) {
        if domain.live_vcpus.fetch_sub(1, Ordering::AcqRel) == 1 && !domain.life.is_running() {
            self.wake_for_work(domain);
        }
    }
}
