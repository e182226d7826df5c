//! Between a domain's vGIC and everything that makes or takes interrupts.

use crate::abi::vcpu::RUNSTATE_BLOCKED;
use crate::access::{Direction, MmioAccess};
use crate::cpu::{Cpu, El1Register};
use crate::domain::Domain;
use crate::domain::vcpu::{Attention, Vcpu};
use crate::hypervisor::{Claim, Hypervisor, Located, Quick, VcpuState};
use crate::ids::{IntId, Ticks, VcpuSet};
use crate::machine::Machine;
use crate::sched::Wait;
use crate::vgic::{Answer, Frame, PhysicalChange, PhysicalChanges, SgiRegister, Vgic};

/// The virtual timer's PPI in every guest.
pub(crate) const VIRTUAL_TIMER: IntId = IntId(27);
/// The physical timer's PPI in every guest; its timer is emulated.
const PHYSICAL_TIMER: IntId = IntId(30);
/// CNTV_CTL_EL0.ENABLE and IMASK.
const TIMER_ENABLE: u64 = 1;
const TIMER_MASK: u64 = 1 << 1;

impl<M: Machine> Hypervisor<M> {
    /// The loaded vCPU's virtual timer fired; the physical interrupt stays active.
    pub fn on_virtual_timer<C: Cpu>(&self, cpu: &mut C, state: &mut VcpuState) {
        let Some((domain, vcpu)) = self.vcpu(state.id) else {
            return;
        };
        self.with_own_vgic(cpu, domain, vcpu, !state.flags.flush_due, |vgic, _| {
            vgic.physical_private(vcpu.id.index, VIRTUAL_TIMER).unwrap_or_default()
        });
    }

    /// As [`Self::on_virtual_timer`] if that is all there is to do before the vCPU goes on, and no more than to write a list
    /// register again. `false`: nothing was done.
    #[inline(always)]
    pub fn on_virtual_timer_again<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &VcpuState) -> bool {
        let index = at.vcpu.id.index;
        !state.flags.flush_due
            && at
                .domain
                .vgic
                .try_lock()
                .is_some_and(|mut vgic| vgic.physical_private_again(index, VIRTUAL_TIMER, cpu.virtual_interface()))
    }

    /// As [`Self::on_virtual_timer`] if that is all there is to do before the vCPU goes on. `false`: nothing was done.
    pub fn on_virtual_timer_at_once<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &VcpuState) -> bool {
        let index = at.vcpu.id.index;
        !state.flags.flush_due
            && at
                .domain
                .vgic
                .lock()
                .physical_private_at_once(index, VIRTUAL_TIMER, cpu.virtual_interface())
    }

    /// The virtual CPU interface asked for maintenance.
    pub fn on_maintenance<C: Cpu>(&self, cpu: &mut C, state: &mut VcpuState) {
        let Some((domain, vcpu)) = self.vcpu(state.id) else {
            return;
        };
        let kick = domain.vgic.lock().sync(state.id.index, cpu.virtual_interface());
        vcpu.note(Attention::Interrupts);
        self.interrupt_vcpus(domain, kick);
    }

    /// A physical SPI was acknowledged.
    pub fn on_interrupt(&self, interrupt: IntId) -> Claim {
        let Some(domain) = self.owner_of(interrupt) else {
            return Claim::Nobody;
        };
        let kick = domain.vgic.lock().physical(interrupt);
        match kick {
            Ok(kick) => {
                self.interrupt_vcpus(domain, kick);
                Claim::Guest
            }
            Err(_) => Claim::Nobody,
        }
    }

    /// Moves the loaded vCPU's most urgent interrupts into list registers. Whether other vCPUs were told of news.
    pub(crate) fn flush_interrupts<C: Cpu>(&self, cpu: &mut C, domain: &Domain, vcpu: &Vcpu) -> bool {
        let kick = domain.vgic.lock().flush(vcpu.id.index, cpu.virtual_interface());
        if kick.is_empty() {
            return false;
        }
        self.interrupt_vcpus(domain, kick);
        true
    }

    /// Does something to the vGIC of the loaded vCPU's domain and tells whom it concerns: the vCPU itself at once, if its
    /// list registers are in use (`live`). Whether others were told.
    #[inline]
    pub(crate) fn with_own_vgic<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        live: bool,
        operation: impl FnOnce(&mut Vgic, &mut C::VirtualInterface) -> VcpuSet,
    ) -> bool {
        let mut vgic = domain.vgic.lock();
        let mut kick = operation(&mut vgic, cpu.virtual_interface());
        if live && kick.contains(vcpu.id.index) {
            kick.remove(vcpu.id.index);
            kick.merge(vgic.flush(vcpu.id.index, cpu.virtual_interface()));
        }
        drop(vgic);
        if kick.is_empty() {
            return false;
        }
        self.interrupt_vcpus(domain, kick);
        true
    }

    /// Does something to a domain's vGIC and tells whom it concerns.
    pub(crate) fn with_vgic(&self, domain: &Domain, operation: impl FnOnce(&mut Vgic) -> VcpuSet) {
        let kick = operation(&mut domain.vgic.lock());
        self.interrupt_vcpus(domain, kick);
    }

    /// GICD or GICR; `None`: the guest is to make the access again. And whether others were told.
    pub(crate) fn access_interrupt_controller<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        live: bool,
        (frame, offset): (Frame, u64),
        access: &MmioAccess,
    ) -> (Option<u64>, bool) {
        if let Direction::Write(value) = access.direction
            && live
            && domain.vgic.lock().store_at_once(
                vcpu.id.index,
                (frame, offset),
                (access.width, value),
                cpu.virtual_interface(),
            )
        {
            return (Some(0), false);
        }
        let (mut answer, mut physical) = (Answer::Again, None);
        let told = self.with_own_vgic(cpu, domain, vcpu, live, |vgic, interface| {
            let index = vcpu.id.index;
            let result = vgic.mmio(interface, index, frame, offset, access.width, access.direction);
            (answer, physical) = (result.answer, result.physical);
            result.kick
        });
        if let Some(changes) = physical {
            self.configure_physical(domain, changes);
        }
        let value = match answer {
            Answer::Value(value) => Some(value),
            Answer::Written => Some(0),
            Answer::Again => None,
        };
        (value, told)
    }

    fn configure_physical(&self, domain: &Domain, changes: PhysicalChanges) {
        let vgic = domain.vgic.lock();
        for (interrupt, change) in vgic.physical_changes(changes) {
            match change {
                PhysicalChange::Enable(enabled) => self.machine.enable_interrupt(interrupt, enabled),
                PhysicalChange::Edge(edge) => self.machine.configure_interrupt(interrupt, edge),
                PhysicalChange::Route(index) => {
                    if let Some(vcpu) = domain.vcpus.get(usize::from(index)) {
                        self.machine.route_interrupt(interrupt, vcpu.pcpu);
                    }
                }
            }
        }
    }

    /// The loaded vCPU wrote an SGI register of the CPU interface, and nothing is to be done than to write a list register
    /// again. `false`: nothing was done.
    #[inline(always)]
    pub(crate) fn send_sgi_again<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        live: bool,
        (register, value): (SgiRegister, u64),
    ) -> bool {
        if live && let Some(mut vgic) = domain.vgic.try_lock() {
            return vgic.send_sgi_again(vcpu.id.index, register, value, cpu.virtual_interface());
        }
        false
    }

    /// The loaded vCPU wrote an SGI register of the CPU interface. Whether others were told.
    pub(crate) fn send_sgi<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        live: bool,
        (register, value): (SgiRegister, u64),
    ) -> bool {
        let index = vcpu.id.index;
        let at_once = live
            && domain
                .vgic
                .lock()
                .send_sgi_at_once(index, register, value, cpu.virtual_interface());
        !at_once && self.with_own_vgic(cpu, domain, vcpu, live, |vgic, _| vgic.send_sgi(index, register, value))
    }

    /// The loaded vCPU waits for an interrupt or an event (WFI, SCHEDOP_block), unless there is one already.
    pub(crate) fn wait_for_event<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        state: &mut VcpuState,
        limit: Option<Ticks>,
    ) {
        let now = self.machine.now();
        if let Some(deadline) = self.wait_until(cpu, state, limit, now) {
            self.block(vcpu, Wait::Event, deadline);
            self.recheck_wait(cpu, domain, vcpu, state);
        }
    }

    /// As [`Self::wait_for_event`], for WFI: who runs is decided at once.
    #[inline]
    pub(crate) fn wait_for_interrupt<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        state: &mut VcpuState,
    ) -> Quick {
        let now = self.machine.now();
        let Some(deadline) = self.wait_until(cpu, state, None, now) else {
            return Quick::Due;
        };
        let over = self.switch_from_waiter(vcpu, Wait::Event, deadline, now);
        if over.is_none() {
            self.block(vcpu, Wait::Event, deadline);
        }
        let woken = self.recheck_wait(cpu, domain, vcpu, state);
        match over {
            Some(schedule) if !woken => {
                state.over = schedule;
                state.leaves_as = schedule.run.map(|_| RUNSTATE_BLOCKED);
                Quick::Over
            }
            _ => Quick::Due,
        }
    }

    /// Until when the loaded vCPU may wait, if it may: a timer of its own ends it. `None`: one has come already.
    #[inline]
    pub(crate) fn wait_until<C: Cpu>(
        &self,
        cpu: &C,
        state: &VcpuState,
        limit: Option<Ticks>,
        now: Ticks,
    ) -> Option<Option<Ticks>> {
        let timer = &state.registers.physical_timer;
        // Its time has come since the vCPU was entered: the line rises when it is entered again.
        if timer.line(now) && !state.flags.physical_timer_line {
            return None;
        }
        let physical = timer.deadline(now);
        let earlier = |one: Option<Ticks>, other: Option<Ticks>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let deadline = earlier(earlier(self.virtual_deadline(cpu), physical), limit);
        deadline.is_none_or(|deadline| deadline > now).then_some(deadline)
    }

    /// The loaded vCPU is marked as waiting: what came before woke nobody, and ends its wait now. Whether something did.
    pub(crate) fn recheck_wait<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        state: &mut VcpuState,
    ) -> bool {
        let mut vgic = domain.vgic.lock();
        let kick = vgic.wait(vcpu.id.index, cpu.virtual_interface());
        let deliverable = vgic.has_deliverable(vcpu.id.index);
        state.flags.flush_due |= vgic.needs_flush(vcpu.id.index);
        drop(vgic);
        if !kick.is_empty() {
            self.interrupt_vcpus(domain, kick);
        }
        // The notes are an event's for SCHEDOP_poll, and of the domain's end.
        let wakes = deliverable || vcpu.has_note(Attention::Poll) || vcpu.has_note(Attention::Stop);
        if wakes {
            self.wake(vcpu, Wait::Event);
        }
        wakes
    }

    /// The pCPU has nothing to run and keeps the vCPU loaded: what its list registers hold is taken into the vGIC, so that
    /// the domain's other vCPUs can see it.
    pub fn rest<C: Cpu>(&self, cpu: &mut C, state: &mut VcpuState) {
        if state.flags.flush_due {
            return;
        }
        let Some((domain, _)) = self.vcpu(state.id) else { return };
        let kick = domain.vgic.lock().rest(state.id.index, cpu.virtual_interface());
        state.flags.flush_due = true;
        self.interrupt_vcpus(domain, kick);
    }

    /// When the loaded vCPU's virtual timer fires, on the system counter.
    pub(crate) fn virtual_deadline<C: Cpu>(&self, cpu: &C) -> Option<Ticks> {
        let control = cpu.read_el1(El1Register::CntvCtlEl0);
        let fires = control & (TIMER_ENABLE | TIMER_MASK) == TIMER_ENABLE;
        let compare = cpu.read_el1(El1Register::CntvCvalEl0);
        fires.then(|| Ticks(compare.saturating_add(cpu.read_el1(El1Register::CntvoffEl2))))
    }

    /// Brings the emulated physical timer's line up to date, and has the vCPU's pCPU look again when that changes by itself:
    /// after the guest wrote the timer, and before it runs, since a wait has a deadline of its own. Returns whether its pCPU
    /// decides anew for that.
    pub(crate) fn update_physical_timer(&self, domain: &Domain, vcpu: &Vcpu, state: &mut VcpuState) -> bool {
        let now = self.machine.now();
        let line = state.registers.physical_timer.line(now);
        if line != state.flags.physical_timer_line {
            state.flags.physical_timer_line = line;
            self.with_vgic(domain, |vgic| {
                vgic.set_private_level(vcpu.id.index, PHYSICAL_TIMER, line)
                    .unwrap_or_default()
            });
        }
        self.set_deadline(vcpu, state.registers.physical_timer.deadline(now))
    }
}
