//! What a control domain may do: the hypercall's side of pause, restart and shutdown.

use crate::abi::HypercallError;
use crate::cpu::Cpu;
use crate::domain::life::Phase;
use crate::domain::report::{DomainReport, VcpuReport};
use crate::hypercall::control::Ranges;
use crate::hypercall::{Direction, Supervisor};
use crate::hypervisor::calls::Caller;
use crate::hypervisor::lifecycle::RestartCause;
use crate::ids::{DomainId, ServerId, Ticks, VcpuId};
use crate::ioreq::report::ServerReport;
use crate::machine::Machine;

impl<M: Machine, C: Cpu> Supervisor for Caller<'_, M, C> {
    fn time(&self) -> (Ticks, u64) {
        let now = self.hypervisor.machine.now().0;
        (
            Ticks(now.saturating_sub(self.hypervisor.booted.0)),
            self.hypervisor.frequency,
        )
    }

    fn name(&self, domain: DomainId) -> Option<&str> {
        self.hypervisor.domain_name(domain)
    }

    fn domain_report(&self, domain: DomainId) -> Option<DomainReport> {
        self.hypervisor.domain_report(domain)
    }

    fn vcpu_report(&self, vcpu: VcpuId) -> Option<VcpuReport> {
        self.hypervisor.vcpu_report(vcpu)
    }

    fn server_report(&self, domain: DomainId, server: ServerId) -> Option<ServerReport> {
        self.hypervisor.server_report(domain, server)
    }

    fn server_ranges(&self, domain: DomainId, server: ServerId, first: u32, into: &mut Ranges) {
        self.hypervisor.server_ranges(domain, server, first, into);
    }

    fn direct(&mut self, domain: DomainId, direction: Direction) -> Result<(), HypercallError> {
        let domain = self.hypervisor.domain(domain).ok_or(HypercallError::NoDomain)?;
        match direction {
            Direction::Pause => self.hypervisor.pause(domain).map_err(|_| HypercallError::Invalid),
            Direction::Unpause => {
                self.hypervisor.unpause(domain);
                Ok(())
            }
            Direction::ShutDown(reason) => match domain.life.phase() {
                Phase::Running => {
                    self.hypervisor.shut_down(domain, reason);
                    Ok(())
                }
                Phase::Restarting(_) => {
                    self.hypervisor.stop(domain, reason);
                    Ok(())
                }
                Phase::Stopping(_) => Err(HypercallError::Busy),
                Phase::Stopped(_) => Err(HypercallError::Invalid),
            },
            Direction::Restart => match domain.life.phase() {
                Phase::Restarting(_) => Err(HypercallError::Busy),
                _ => {
                    let begun = self.hypervisor.restart(domain, RestartCause::Control);
                    begun.map_err(|_| HypercallError::NotSupported)
                }
            },
        }
    }
}
