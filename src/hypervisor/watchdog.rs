//! Watchdogs: a guest that stops setting one again is stopped, and what follows is its manifest's to say.

use crate::abi::HypercallError;
use crate::abi::sched::ShutdownReason;
use crate::domain::Domain;
use crate::domain::watchdog::Watchdogs;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::alarms::Alarm;
use crate::machine::Machine;

impl<M: Machine> Hypervisor<M> {
    /// SCHEDOP_watchdog of a vCPU of `domain`.
    pub(crate) fn set_watchdog(&self, domain: &Domain, id: u32, timeout: u32) -> Result<u32, HypercallError> {
        let mut watchdogs = domain.watchdogs.lock();
        if !domain.life.is_running() {
            // They are dropped for good, or before this is unlocked; the vCPU does not come back.
            return Err(HypercallError::Invalid);
        }
        let id = watchdogs.set(id, timeout, self.machine.now(), self.frequency)?;
        self.set_alarm(domain, Alarm::Watchdog, watchdogs.first());
        Ok(id)
    }

    /// It is time to look at the watchdogs of `domain`.
    pub(crate) fn on_watchdog(&self, domain: &Domain) {
        let mut watchdogs = domain.watchdogs.lock();
        let fired = watchdogs.fired(self.machine.now());
        if fired {
            *watchdogs = Watchdogs::default();
        }
        self.set_alarm(domain, Alarm::Watchdog, watchdogs.first());
        drop(watchdogs);
        if fired {
            self.shut_down(domain, ShutdownReason::Watchdog);
        }
    }

    /// A domain that has stopped has no watchdog.
    pub(crate) fn drop_watchdogs(&self, domain: &Domain) {
        let mut watchdogs = domain.watchdogs.lock();
        *watchdogs = Watchdogs::default();
        self.set_alarm(domain, Alarm::Watchdog, None);
    }
}
