//! Holding a domain: none of its vCPUs runs until somebody lets it go on.
//!
//! What comes meanwhile is kept for later: events, interrupts, answers of servers. A backend that is held is not late: the
//! clock of its time limits stands. A domain that stops or restarts is let go on, because its vCPUs have to leave. Its
//! watchdogs and the limits on what it waits for count on.

use core::sync::atomic::Ordering;

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::ids::Ticks;
use crate::machine::Machine;
use crate::sched::{RunQueue, Slot};

/// The domain has stopped, or is about to: there is nothing to hold.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the domain does not run")]
pub struct NotRunning;

impl<M: Machine> Hypervisor<M> {
    /// Holds a domain. vCPUs on other pCPUs leave their guests soon afterwards
    /// ([`crate::domain::report::DomainReport::leaving`]). Holding it again changes nothing.
    ///
    /// # Errors
    /// [`NotRunning`]
    pub fn pause(&self, domain: &Domain) -> Result<(), NotRunning> {
        let _one_at_a_time = domain.pausing.lock();
        // Whoever stops it from now on lets it go on afterwards.
        if !domain.life.is_running() {
            return Err(NotRunning);
        }
        domain.paused.store(true, Ordering::Release);
        self.change_all(domain, RunQueue::hold);
        Ok(())
    }

    /// Lets a domain go on that was held. Otherwise nothing changes.
    pub fn unpause(&self, domain: &Domain) {
        let _one_at_a_time = domain.pausing.lock();
        if domain.paused.swap(false, Ordering::AcqRel) {
            self.change_all(domain, RunQueue::release);
        }
    }

    fn change_all(&self, domain: &Domain, change: impl Fn(&mut RunQueue, Slot, Ticks) -> bool) {
        for vcpu in &domain.vcpus {
            self.reconsider(vcpu, &change);
        }
    }
}
