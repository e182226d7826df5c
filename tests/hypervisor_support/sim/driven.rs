//! What a test does to the machine: makes vCPUs trap, raises interrupts, lets time pass, types, looks at memory.

use std::cell::Cell;

use portunus::cpu::{Cpu, El1Register};
use portunus::fakes::FakeMachine;
use portunus::hypervisor::{Claim, Hypervisor, News, Quick, RestEnd, Saved, Schedule, Syndrome};
use portunus::ids::{DomainId, IntId, Ipa, Pa, PcpuId, Ticks, VcpuId};
use portunus::machine::Machine;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::{Context, PATIENCE, Sim, VIRTUAL_TIMER};
use crate::world::{self, PCPUS};

impl Sim {
    /// The vCPU, which runs, takes an exception to EL2. Nobody who is kicked notices before [`Self::settle`].
    pub(crate) fn trap_only(&self, vcpu: VcpuId, syndrome: Syndrome) {
        let looks = [Saved::CALLER, Saved::ALL];
        self.trap_by(vcpu, syndrome, if self.slow.get() { &[] } else { &looks });
    }

    /// From now on every trap goes the core's way for everything.
    pub(crate) fn be_slow(&self) {
        self.slow.set(true);
    }

    /// How often the pCPU went from one vCPU to the other without a decision.
    pub(crate) fn across(&self) -> u32 {
        self.across.get()
    }

    /// The vCPU, which runs, takes an exception to EL2. It is answered by a quick look with these registers saved, or the
    /// next, if there is one, and otherwise by the core's way for everything.
    pub(crate) fn trap_by(&self, vcpu: VcpuId, syndrome: Syndrome, looks: &[Saved]) {
        assert!(self.runs(vcpu), "{vcpu:?} does not run");
        let pcpu = self.pcpu_of(vcpu);
        let across = self.with(vcpu, |context| {
            let Context { cpu, state, .. } = context;
            self.on(pcpu, |hypervisor| {
                let at = hypervisor.locate(vcpu).expect("it exists");
                let waits = !looks.is_empty() && hypervisor.waits_across(at, cpu, state, syndrome.esr);
                waits.then_some(state.across)
            })
        });
        if let Some(across) = across {
            self.update(pcpu, |state| (state.busy, state.in_guest) = (true, false));
            self.across.set(self.across.get() + 1);
            self.load(pcpu, across.to, across.news, true);
            self.resume(pcpu);
            return self.update(pcpu, |state| state.busy = false);
        }
        if !looks.is_empty() && self.waits_in_place(pcpu, vcpu, &syndrome) {
            return;
        }
        if self.update(pcpu, |state| std::mem::take(&mut state.in_guest)) {
            self.hypervisor.left_guest(pcpu);
        }
        self.update(pcpu, |state| state.busy = true);
        let (quick, Schedule { run, deadline }, across) = self.with(vcpu, |context| {
            let Context { cpu, state, .. } = context;
            self.on(pcpu, |hypervisor| {
                let at = hypervisor.locate(vcpu).expect("it exists");
                let mut quick = Quick::Registers;
                for saved in looks {
                    if quick == Quick::Registers {
                        quick = hypervisor.on_quick_trap(at, cpu, state, &syndrome, *saved);
                    }
                }
                if matches!(quick, Quick::No | Quick::Registers) {
                    hypervisor.on_trap(cpu, state, syndrome);
                }
                (quick, state.over, state.across)
            })
        });
        if quick == Quick::Rests {
            return self.update(pcpu, |state| {
                let earlier = deadline.filter(|deadline| state.deadline.is_none_or(|set| *deadline < set));
                state.deadline = earlier.or(state.deadline);
                (state.busy, state.in_place) = (false, true);
            });
        }
        if quick == Quick::Across {
            self.across.set(self.across.get() + 1);
            self.load(pcpu, across.to, across.news, true);
        }
        if quick == Quick::Over {
            self.update(pcpu, |state| {
                state.deadline = deadline;
                state.reschedule = run.is_none();
            });
            if let Some(next) = run {
                self.load(pcpu, next, News::Nothing, false);
            }
        }
        self.resume(pcpu);
        self.update(pcpu, |state| state.busy = false);
    }

    /// As [`Self::trap_only`]; then everybody who was kicked has come out.
    pub(crate) fn trap(&self, vcpu: VcpuId, syndrome: Syndrome) {
        self.trap_only(vcpu, syndrome);
        self.settle();
    }

    /// Slices pass until `vcpu` runs.
    pub(crate) fn run_until(&self, vcpu: VcpuId) {
        for _ in 0..PATIENCE {
            if self.runs(vcpu) {
                return;
            }
            self.advance(world::MS);
        }
        panic!("{vcpu:?} does not run");
    }

    /// Time passes; timers fire.
    pub(crate) fn advance(&self, ticks: u64) {
        self.machine().advance(Ticks(ticks));
        let now = self.machine().now();
        for pcpu in (0..PCPUS).map(PcpuId) {
            let due = self.update(pcpu, |state| {
                let due = !state.stuck && state.deadline.is_some_and(|deadline| deadline <= now);
                state.deadline = state.deadline.filter(|_| !due);
                due
            });
            if due {
                self.exit(pcpu, |sim| sim.on(pcpu, |hypervisor| hypervisor.on_deadline(pcpu)));
            }
            self.fire_virtual_timer(pcpu);
        }
        self.settle();
    }

    /// The loaded vCPU's virtual timer raises its interrupt when it is due.
    pub(super) fn fire_virtual_timer(&self, pcpu: PcpuId) {
        let Some(vcpu) = self.pcpus[usize::from(pcpu.0)].get().loaded else {
            return;
        };
        let now = self.machine().now().0;
        let fires = self.with(vcpu, |context| {
            let deactivated = &mut context.cpu.virtual_interface().deactivated;
            if deactivated.contains(&VIRTUAL_TIMER) {
                deactivated.clear();
                context.timer_active = false;
            }
            let read = |register| context.cpu.fake.read_el1(register);
            let enabled = read(El1Register::CntvCtlEl0) & 3 == 1;
            let due = read(El1Register::CntvCvalEl0).wrapping_add(read(El1Register::CntvoffEl2)) <= now;
            let fires = enabled && due && !context.timer_active;
            context.timer_active |= fires;
            fires
        });
        if fires {
            let take = |sim: &Self| {
                sim.with(vcpu, |context| {
                    sim.on(pcpu, |hypervisor| {
                        hypervisor.on_virtual_timer(&mut context.cpu, &mut context.state)
                    });
                });
            };
            if self.update(pcpu, |state| std::mem::take(&mut state.in_place)) {
                return self.end_wait_in_place(pcpu, RestEnd::Timer, take);
            }
            self.exit(pcpu, take);
        }
    }

    /// The guest ended an interrupt whose line is up: the virtual CPU interface asks for maintenance.
    pub(crate) fn maintain(&self, vcpu: VcpuId) {
        let pcpu = self.pcpu_of(vcpu);
        self.exit(pcpu, |sim| {
            sim.with(vcpu, |context| {
                let Context { cpu, state, .. } = context;
                sim.on(pcpu, |hypervisor| hypervisor.on_maintenance(cpu, state));
            });
        });
        self.settle();
    }

    /// A physical SPI comes in on `pcpu`.
    pub(crate) fn interrupt(&self, pcpu: u8, interrupt: IntId) -> Claim {
        let pcpu = PcpuId(pcpu);
        let claim = Cell::new(Claim::Nobody);
        self.exit(pcpu, |sim| {
            claim.set(sim.on(pcpu, |hypervisor| hypervisor.on_interrupt(interrupt)));
        });
        self.settle();
        claim.get()
    }

    /// Somebody directs the hypervisor from pCPU 0; then everybody who was kicked has come out.
    pub(crate) fn direct<R>(&self, order: impl FnOnce(&Hypervisor<FakeMachine>) -> R) -> R {
        let result = Cell::new(None);
        self.exit(PcpuId(0), |sim| result.set(Some(sim.on(PcpuId(0), order))));
        self.settle();
        result.take().expect("an order is carried out")
    }

    /// Somebody types.
    pub(crate) fn type_in(&self, bytes: &[u8]) {
        let pcpu = PcpuId(0);
        self.exit(pcpu, |sim| {
            sim.on(pcpu, |hypervisor| hypervisor.on_console_input(bytes))
        });
        self.settle();
    }

    /// The terminal has room again.
    pub(crate) fn console_ready(&self) {
        let pcpu = PcpuId(0);
        self.exit(pcpu, |sim| sim.on(pcpu, |hypervisor| hypervisor.on_console_ready()));
        self.settle();
    }

    /// What the terminal shows since the last call. When all is over, what `arch` shows before it ends.
    pub(crate) fn shown(&self) -> String {
        if self.hypervisor.is_finished() {
            for _ in 0..256 {
                self.on(PcpuId(0), |hypervisor| hypervisor.on_console_ready());
            }
        }
        String::from_utf8(self.machine().take_console()).expect("text")
    }

    /// Where a guest-physical address of a domain is.
    pub(crate) fn pa(&self, domain: DomainId, ipa: u64) -> Pa {
        let memory = self.domain(domain).memory.lock();
        let mapping = memory.stage2.lookup(self.machine(), Ipa(ipa));
        mapping
            .unwrap_or_else(|| panic!("nothing at {ipa:#x} of {domain:?}"))
            .pa
    }

    /// A domain writes to memory that it has mapped.
    pub(crate) fn put<T: IntoBytes + Immutable + ?Sized>(&self, domain: DomainId, ipa: u64, value: &T) {
        self.machine().poke(self.pa(domain, ipa), value.as_bytes());
    }

    /// A domain reads memory that it has mapped.
    pub(crate) fn get<T: FromZeros + FromBytes + IntoBytes>(&self, domain: DomainId, ipa: u64) -> T {
        let mut value = T::new_zeroed();
        let bytes = self.machine().peek(self.pa(domain, ipa), size_of::<T>());
        value.as_mut_bytes().copy_from_slice(&bytes);
        value
    }
}
