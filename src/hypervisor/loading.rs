//! A vCPU before its guest runs and after: loaded, left, and what is looked at in between.
//!
//! [`Hypervisor::enter`] does everything that may be due. [`Hypervisor::goes_on`] and [`Hypervisor::goes_straight_on`] are what
//! it comes to in nearly every case.

use core::sync::atomic::Ordering;

use crate::cpu::Cpu;
use crate::domain::Domain;
use crate::domain::vcpu::Attention;
use crate::evtchn::UPCALL;
use crate::hypervisor::{Across, Entry, Hypervisor, Located, News, VcpuState, interrupts};
use crate::ids::VcpuSet;
use crate::machine::Machine;
use crate::vgic::list_register::VirtualInterface;

impl<M: Machine> Hypervisor<M> {
    /// Whether the loaded vCPU can go on with nothing left to do but to bring interrupts into its list registers: what
    /// [`Self::enter`] would find, at a fraction of its cost. If so, this was the last step before it runs.
    #[inline]
    pub fn goes_on<C: Cpu>(&self, at: Located<'_>, cpu: &mut C, state: &mut VcpuState) -> bool {
        let Located { domain, vcpu } = at;
        let registers = &state.registers.physical_timer;
        let Some(pcpu) = self.pcpu(vcpu.pcpu) else { return false };
        let due = state.flags.polls || state.flags.physical_timer_line || registers.is_enabled() || !state.flags.is_on;
        let decides = || pcpu.must_schedule.load(Ordering::Acquire);
        if due || !domain.life.is_running() || self.is_finished() || decides() {
            return false;
        }
        if vcpu.has_notes() {
            // An access that waits looks for its answer in any case.
            let Some(notes) = vcpu.take_usual_notes() else {
                return false;
            };
            let straight = !notes.has(Attention::Upcall) || self.take_upcall_at_once(cpu, domain, vcpu, state);
            if !straight {
                self.take_upcall(domain, vcpu);
            }
            state.flags.flush_due |= !straight || notes.has(Attention::Interrupts);
        }
        if state.has_access() && !self.take_plain(cpu, domain, vcpu, state) {
            return false;
        }
        if state.flags.flush_due {
            state.flags.flush_due = false;
            let told = self.flush_interrupts(cpu, domain, vcpu);
            if told && decides() {
                return false;
            }
        }
        self.account_running(vcpu, state);
        self.gate.enter(vcpu.pcpu);
        true
    }

    /// [`Self::goes_on`] of a vCPU that was loaded after [`Quick::Across`], where nothing at all is left to do. `false`: nothing
    /// was done.
    #[inline(always)]
    pub fn goes_straight_on(&self, at: Located<'_>, state: &VcpuState) -> bool {
        let Located { domain, vcpu } = at;
        if !state.flags.is_only_on()
            || state.registers.physical_timer.is_enabled()
            || !domain.life.is_running()
            || state.pcpu.must_schedule.load(Ordering::Acquire)
            || vcpu.has_notes()
            || state.has_access()
            || vcpu.publishes_runstate()
        {
            return false;
        }
        self.gate.enter(vcpu.pcpu);
        true
    }

    /// Last step before a guest runs: finishes an access that was answered, applies a start request, moves pending
    /// interrupts into list registers.
    pub fn enter<C: Cpu>(&self, cpu: &mut C, state: &mut VcpuState) -> Entry {
        let Some((domain, vcpu)) = self.vcpu(state.id) else {
            return Entry::Blocked;
        };
        let notes = vcpu.take_notes();
        state.flags.flush_due |= notes.has(Attention::Interrupts);
        if notes.has(Attention::Upcall) {
            self.take_upcall(domain, vcpu);
            state.flags.flush_due = true;
        }
        if notes.has(Attention::Snapshot) && !self.take_snapshot(cpu, vcpu, state) {
            vcpu.put_back(notes.without(Attention::Snapshot));
            return Entry::Blocked;
        }
        if !domain.life.is_running() {
            return self.leave_life(cpu, domain, vcpu, state);
        }
        if notes.has(Attention::Power) {
            self.apply_power(cpu, domain, vcpu, state);
        }
        if !state.flags.is_on {
            return self.stay_off(vcpu);
        }
        if state.has_access() && !self.resume_access(cpu, domain, vcpu, state) {
            return Entry::Blocked;
        }
        if state.flags.polls {
            state.flags.polls = false;
            domain.events.lock().stop_polling(vcpu.id.index);
        }
        let has_timer = state.registers.physical_timer.is_enabled() || state.flags.physical_timer_line;
        if has_timer && self.update_physical_timer(domain, vcpu, state) {
            return Entry::Blocked;
        }
        if state.flags.flush_due || vcpu.take_note(Attention::Interrupts) {
            state.flags.flush_due = false;
            self.flush_interrupts(cpu, domain, vcpu);
        }
        self.account_running(vcpu, state);
        self.gate.enter(vcpu.pcpu);
        Entry::Run
    }

    /// First step when a vCPU is unloaded: takes what the list registers hold into the vGIC. Afterwards no list register
    /// is in use. `across`: its state has who runs next, after [`Quick::Across`]. Returns whether the physical interrupt of the
    /// virtual timer is active, as it was handed to this vCPU.
    #[inline(always)]
    pub fn leave<V: VirtualInterface>(
        &self,
        at: Located<'_>,
        interface: &mut V,
        state: &mut VcpuState,
        across: bool,
    ) -> bool {
        let Located { domain, vcpu } = at;
        let (kick, timer) = match state.across.parked {
            Some(timer) if across => (VcpuSet::EMPTY, timer),
            _ => {
                let mut vgic = domain.vgic.lock();
                let kick = vgic.park(vcpu.id.index, interface);
                (kick, vgic.holds_physical(vcpu.id.index, interrupts::VIRTUAL_TIMER))
            }
        };
        if across {
            self.account_rest(vcpu, state, state.across.leaves);
        } else {
            self.account_stopped(vcpu, state);
        }
        if !kick.is_empty() {
            self.tell_others(domain, kick);
        }
        timer
    }

    #[cold]
    #[inline(never)]
    fn tell_others(&self, domain: &Domain, vcpus: VcpuSet) {
        self.interrupt_vcpus(domain, vcpus);
    }

    /// First step when a vCPU is loaded that [`Self::leave`] unloaded, or none: its list registers hold what they held, and
    /// it has its `news`. Returns whether the physical interrupt of the virtual timer is to be active.
    #[inline(always)]
    pub fn load<V: VirtualInterface>(
        &self,
        at: Located<'_>,
        interface: &mut V,
        state: &mut VcpuState,
        news: News,
    ) -> bool {
        let Located { domain, vcpu } = at;
        let index = vcpu.id.index;
        let holds = {
            let mut vgic = domain.vgic.lock();
            // The same before and after; here it shares a look with what follows.
            let holds = vgic.holds_physical(index, interrupts::VIRTUAL_TIMER);
            state.flags.flush_due = match news {
                News::Upcall | News::Event => vgic.load_pulsed(index, UPCALL, interface),
                _ => vgic.load(index, interface),
            };
            holds
        };
        state.came_across = matches!(news, News::Event);
        if let News::Answer(value) = news {
            self.end_plain(vcpu, state, value);
        }
        holds
    }

    /// The vCPU of [`Quick::Across`] could not be loaded: it has its news all the same, and the one that is loaded has its
    /// list registers again.
    #[cold]
    #[inline(never)]
    pub fn not_across<V: VirtualInterface>(&self, at: Located<'_>, interface: &mut V, state: &mut VcpuState) {
        let Across { to, parked, news, .. } = state.across;
        if let Some((_, vcpu)) = self.vcpu(to)
            && matches!(news, News::Upcall | News::Event)
        {
            vcpu.note(Attention::Upcall);
        }
        if parked.is_some() {
            self.load(at, interface, state, News::Nothing);
        }
    }
}
