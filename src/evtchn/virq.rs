//! Virtual interrupts: what the hypervisor itself announces.

use super::{Channel, Delivery, EventChannels, Port};
use crate::abi::HypercallError;
use crate::abi::evtchn as abi;
use crate::ids::EventPort;
use crate::memory::PhysicalMemory;
use crate::memory::atomic::SharedWords;

/// Whether each vCPU has its own (public `xen.h`, VIRQ_*).
pub(super) fn is_per_vcpu(virq: u32) -> bool {
    matches!(
        virq,
        abi::VIRQ_TIMER | abi::VIRQ_DEBUG | abi::VIRQ_XENOPROF | abi::VIRQ_XENPMU
    )
}

impl EventChannels {
    /// EVTCHNOP_bind_virq.
    ///
    /// # Errors
    /// EINVAL: no such VIRQ, or one of the whole domain on another vCPU than 0; ENOENT: no such vCPU; EBUSY: a global
    /// one that another domain owns; EEXIST: bound already; ENOSPC: all ports are in use.
    pub fn bind_virq(&mut self, virq: u32, vcpu: u32) -> Result<EventPort, HypercallError> {
        if virq >= abi::VIRQS || (!is_per_vcpu(virq) && vcpu != 0) {
            return Err(HypercallError::Invalid);
        }
        let vcpu = self.check_vcpu(vcpu)?;
        let is_global = !is_per_vcpu(virq) && virq != abi::VIRQ_ARGO;
        if is_global && self.global_virqs & (1 << virq) == 0 {
            return Err(HypercallError::Busy);
        }
        if self.virq_port(virq, vcpu).is_some() {
            return Err(HypercallError::Exists);
        }
        let port = self.free_port()?;
        self.set(port, Port::new(Channel::Virq { virq }, vcpu));
        self.set_virq_port(virq, vcpu, port);
        Ok(port)
    }

    /// Announces `virq` to `vcpu` (0 for those of the whole domain); nothing when the guest has not bound it.
    pub fn raise_virq<M: PhysicalMemory + ?Sized>(
        &mut self,
        virq: u32,
        vcpu: u8,
        words: &SharedWords<'_, M>,
    ) -> Delivery {
        match self.virq_port(virq, vcpu) {
            Some(port) => self.set_port_pending(port, words),
            None => Delivery::default(),
        }
    }

    /// Forgets that `port` was a VIRQ's.
    pub(super) fn unbind_virq(&mut self, port: EventPort) {
        for bound in self.virqs.iter_mut().flatten() {
            if *bound == port {
                *bound = EventPort(0);
            }
        }
    }

    fn virq_port(&self, virq: u32, vcpu: u8) -> Option<EventPort> {
        let bound = *self.virqs.get(usize::from(vcpu))?.get(virq as usize)?;
        (bound.0 != 0).then_some(bound)
    }

    fn set_virq_port(&mut self, virq: u32, vcpu: u8, port: EventPort) {
        let slot = self
            .virqs
            .get_mut(usize::from(vcpu))
            .and_then(|row| row.get_mut(virq as usize));
        if let Some(slot) = slot {
            *slot = port;
        }
    }
}
