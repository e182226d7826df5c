//! x
use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
use crate::hypervisor::*;
impl<M: Machine> Hypervisor<M> {
    pub(crate) fn on_hypercall<C: Cpu>(&self, _cpu: &mut C, _domain: &Domain, _vcpu: &Vcpu, _state: &mut VcpuState) {}
}
