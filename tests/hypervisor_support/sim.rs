//! What `arch` does around the core, on a machine that is a model: pCPUs that run one vCPU each, or sleep.
//!
//! Nothing happens by itself. A test makes a vCPU trap; then every pCPU that was kicked comes out of its guest, as it
//! would at once. A pCPU that sleeps is woken by kicks, by its deadline and by interrupts alone, so a wake-up that the
//! core forgets is never made good by accident.

#[path = "sim/driven.rs"]
mod driven;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use portunus::cpu::{Access, Cpu, El1Register, TranslationFault};
use portunus::domain::Domain;
use portunus::domain::report::VcpuActivity;
use portunus::fakes::{FakeCpu, FakeMachine, FakeVirtualInterface, Operation};
use portunus::hypervisor::{Entry, Hypervisor, News, RestEnd, Rested, Syndrome, VcpuState};
use portunus::ids::{DomainId, IntId, Ipa, PcpuId, Ticks, VcpuId};
use portunus::machine::Machine;

use crate::world::{self, Options, PCPUS};

const VIRTUAL_TIMER: IntId = IntId(27);

/// What the core does with a vCPU's registers, at which a test can let something else happen first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Moment {
    /// It translates an address in this page.
    Translate(u64),
    /// It reads a register.
    Read(El1Register),
}

type Hook = Box<dyn FnOnce()>;

/// A vCPU's registers.
pub(crate) struct SimCpu {
    pub(crate) fake: FakeCpu,
    hook: RefCell<Option<(Moment, Hook)>>,
}

impl SimCpu {
    fn passes(&self, moment: Moment) {
        let due = self.hook.borrow().as_ref().is_some_and(|(at, _)| *at == moment);
        if due && let Some((_, hook)) = self.hook.take() {
            hook();
        }
    }
}

impl Cpu for SimCpu {
    type VirtualInterface = FakeVirtualInterface;

    fn virtual_interface(&mut self) -> &mut FakeVirtualInterface {
        self.fake.virtual_interface()
    }
    fn read_el1(&self, register: El1Register) -> u64 {
        self.passes(Moment::Read(register));
        self.fake.read_el1(register)
    }
    fn write_el1(&mut self, register: El1Register, value: u64) {
        self.fake.write_el1(register, value);
    }
    fn is_interrupted(&self) -> bool {
        self.fake.is_interrupted()
    }
    fn reset(&mut self) {
        self.fake.reset();
    }
    fn translate(&self, address: u64, access: Access) -> Result<Ipa, TranslationFault> {
        self.passes(Moment::Translate(address & !0xfff));
        self.fake.translate(address, access)
    }
    fn pend_system_error(&mut self, syndrome: u32) {
        self.fake.pend_system_error(syndrome);
    }
}

/// A vCPU as its pCPU keeps it.
pub(crate) struct Context {
    pub(crate) state: VcpuState,
    pub(crate) cpu: SimCpu,
    timer_active: bool,
}

#[derive(Clone, Copy, Default)]
struct SimPcpu {
    loaded: Option<VcpuId>,
    in_guest: bool,
    reschedule: bool,
    deadline: Option<Ticks>,
    kicked: bool,
    /// It is in EL2, where it notices nothing until it comes to its end.
    busy: bool,
    /// It does not come out of whatever it does.
    stuck: bool,
    /// It waits for an interrupt with its vCPU in place.
    in_place: bool,
}

/// The machine, the core, the vCPUs.
pub(crate) struct Sim {
    pub(crate) hypervisor: Hypervisor<FakeMachine>,
    contexts: BTreeMap<VcpuId, RefCell<Context>>,
    pcpus: [Cell<SimPcpu>; PCPUS as usize],
    /// What the core asked of the machine since the log was taken.
    log: RefCell<Vec<Operation>>,
    keep_log: Cell<bool>,
    /// Nothing is answered by a quick look.
    slow: Cell<bool>,
    /// How often two vCPUs that talk went on without a decision.
    across: Cell<u32>,
}

/// Exits that a pCPU may need before it runs a guest or sleeps.
const PATIENCE: usize = 64;
/// Ticks that a step of work takes.
const STEP: u64 = 10;

impl Sim {
    /// The three domains, each at its first instruction.
    pub(crate) fn new(options: &Options) -> Rc<Self> {
        Self::of(world::hypervisor(options))
    }

    /// Whatever domains `hypervisor` has, each at its first instruction.
    pub(crate) fn of(hypervisor: Hypervisor<FakeMachine>) -> Rc<Self> {
        let contexts = hypervisor.vcpus().map(|id| {
            let cpu = SimCpu {
                fake: FakeCpu::new(4),
                hook: RefCell::new(None),
            };
            let context = Context {
                state: hypervisor.initial_state(id).expect("a vCPU"),
                cpu,
                timer_active: false,
            };
            (id, RefCell::new(context))
        });
        let sim = Self {
            contexts: contexts.collect(),
            hypervisor,
            pcpus: Default::default(),
            log: RefCell::default(),
            keep_log: Cell::new(true),
            slow: Cell::new(false),
            across: Cell::new(0),
        };
        for pcpu in 0..PCPUS {
            sim.resume(PcpuId(pcpu));
        }
        sim.settle();
        Rc::new(sim)
    }

    pub(crate) fn machine(&self) -> &FakeMachine {
        self.hypervisor.machine()
    }

    pub(crate) fn domain(&self, id: DomainId) -> &Domain {
        self.hypervisor.domain(id).expect("a domain")
    }

    /// Looks at, or changes, a vCPU's registers.
    pub(crate) fn with<R>(&self, vcpu: VcpuId, with: impl FnOnce(&mut Context) -> R) -> R {
        with(&mut self.contexts[&vcpu].borrow_mut())
    }

    pub(crate) fn x(&self, vcpu: VcpuId, register: u8) -> u64 {
        self.with(vcpu, |context| context.state.frame.read(register))
    }

    pub(crate) fn set_x(&self, vcpu: VcpuId, register: u8, value: u64) {
        self.with(vcpu, |context| context.state.frame.write(register, value));
    }

    pub(crate) fn pc(&self, vcpu: VcpuId) -> u64 {
        self.with(vcpu, |context| context.state.frame.pc)
    }

    pub(crate) fn el1(&self, vcpu: VcpuId, register: El1Register) -> u64 {
        self.with(vcpu, |context| context.cpu.fake.read_el1(register))
    }

    /// `hook` runs once, when the core next comes to `moment` for `vcpu`.
    pub(crate) fn at(&self, vcpu: VcpuId, moment: Moment, hook: impl FnOnce() + 'static) {
        self.with(vcpu, |context| {
            context.cpu.hook = RefCell::new(Some((moment, Box::new(hook))))
        });
    }

    pub(crate) fn pcpu_of(&self, vcpu: VcpuId) -> PcpuId {
        self.hypervisor.constants(vcpu).expect("a vCPU").pcpu
    }

    fn update<R>(&self, pcpu: PcpuId, with: impl FnOnce(&mut SimPcpu) -> R) -> R {
        let cell = &self.pcpus[usize::from(pcpu.0)];
        let mut state = cell.get();
        let result = with(&mut state);
        cell.set(state);
        result
    }

    /// Who runs on `pcpu` now.
    pub(crate) fn running(&self, pcpu: u8) -> Option<VcpuId> {
        let state = self.pcpus[usize::from(pcpu)].get();
        state.loaded.filter(|_| state.in_guest)
    }

    /// Whether `pcpu` waits for an interrupt with its vCPU in place.
    pub(crate) fn waits_here(&self, pcpu: u8) -> bool {
        self.pcpus[usize::from(pcpu)].get().in_place
    }

    pub(crate) fn runs(&self, vcpu: VcpuId) -> bool {
        self.running(self.pcpu_of(vcpu).0) == Some(vcpu)
    }

    pub(crate) fn deadline(&self, pcpu: u8) -> Option<u64> {
        self.pcpus[usize::from(pcpu)].get().deadline.map(|deadline| deadline.0)
    }

    /// Calls into the core from `pcpu` and notes whom it kicked.
    fn on<R>(&self, pcpu: PcpuId, call: impl FnOnce(&Hypervisor<FakeMachine>) -> R) -> R {
        let before = self.machine().current_pcpu();
        self.collect(before);
        self.machine().set_pcpu(pcpu);
        let result = call(&self.hypervisor);
        self.collect(pcpu);
        self.machine().set_pcpu(before);
        result
    }

    fn collect(&self, pcpu: PcpuId) {
        for operation in self.machine().take_log() {
            match operation {
                // A pCPU in EL2 looks at its own news before it goes back.
                Operation::Kick(other) if other != pcpu => self.update(other, |state| state.kicked = true),
                _ => {}
            }
            if self.keep_log.get() {
                self.log.borrow_mut().push(operation);
            }
        }
    }

    /// The log since the domains were built, or since the last call.
    pub(crate) fn take_log(&self) -> Vec<Operation> {
        self.log.take()
    }

    /// Stops keeping the log, for long runs.
    pub(crate) fn forget_log(&self) {
        self.keep_log.set(false);
        self.log.take();
    }

    /// What a pCPU does after an exception: goes on, runs whom the core names, or sleeps.
    fn resume(&self, pcpu: PcpuId) {
        let state = self.pcpus[usize::from(pcpu.0)].get();
        if let (Some(vcpu), false) = (state.loaded, state.reschedule)
            && self.with(vcpu, |context| {
                self.on(pcpu, |hypervisor| {
                    let at = hypervisor.locate(vcpu).expect("it exists");
                    hypervisor.goes_on(at, &mut context.cpu, &mut context.state)
                })
            })
        {
            self.update(pcpu, |state| state.in_guest = true);
            return self.fire_virtual_timer(pcpu);
        }
        let mut patience = PATIENCE;
        let mut steps = 0;
        while patience > 0 {
            patience -= 1;
            if self.hypervisor.is_finished() {
                return;
            }
            let state = self.pcpus[usize::from(pcpu.0)].get();
            if state.reschedule || state.loaded.is_none() || self.hypervisor.must_schedule(pcpu) {
                let now = self.machine().now();
                let schedule = self.on(pcpu, |hypervisor| hypervisor.schedule(pcpu, now));
                self.update(pcpu, |state| {
                    state.deadline = schedule.deadline;
                    state.reschedule = schedule.run.is_none();
                });
                let Some(next) = schedule.run else {
                    return self.rest(pcpu);
                };
                self.load(pcpu, next, News::Nothing, false);
            }
            let vcpu = self.update(pcpu, |state| state.loaded).expect("loaded");
            let entry = self.with(vcpu, |context| {
                self.on(pcpu, |hypervisor| {
                    hypervisor.enter(&mut context.cpu, &mut context.state)
                })
            });
            match entry {
                Entry::Run => {
                    let report = self.hypervisor.vcpu_report(vcpu).expect("a vCPU");
                    let runs = report.activity == VcpuActivity::Running;
                    assert!(runs && !report.held, "{vcpu:?} runs, which {:?}", report.activity);
                    self.update(pcpu, |state| state.in_guest = true);
                    return self.fire_virtual_timer(pcpu);
                }
                Entry::Blocked => self.update(pcpu, |state| state.reschedule = true),
                Entry::Worked => {
                    self.update(pcpu, |state| state.reschedule = true);
                    // Time passes for everybody.
                    self.machine().advance(Ticks(STEP));
                    self.settle_others(pcpu);
                    patience = PATIENCE;
                    steps += 1;
                    assert!(steps < 1_000_000, "{pcpu:?} works for ever");
                }
            }
        }
        panic!("{pcpu:?} neither runs nor sleeps");
    }

    /// `pcpu` sleeps until something wakes it.
    fn rest(&self, pcpu: PcpuId) {
        if let Some(vcpu) = self.update(pcpu, |state| state.loaded) {
            self.with(vcpu, |context| {
                let Context { cpu, state, .. } = context;
                self.on(pcpu, |hypervisor| hypervisor.rest(cpu, state));
            });
        }
    }

    fn load(&self, pcpu: PcpuId, next: VcpuId, news: News, across: bool) {
        let state = self.pcpus[usize::from(pcpu.0)].get();
        if state.loaded == Some(next) {
            return;
        }
        assert_eq!(self.pcpu_of(next), pcpu, "{next:?} on a strange pCPU");
        if let Some(old) = state.loaded {
            self.with(old, |context| {
                self.on(pcpu, |hypervisor| {
                    let at = hypervisor.locate(old).expect("it exists");
                    hypervisor.leave(at, context.cpu.virtual_interface(), &mut context.state, across);
                });
                let left = context.cpu.fake.interface().used().count();
                assert_eq!(left, 0, "{old:?} leaves list registers in use");
            });
        }
        self.update(pcpu, |state| state.loaded = Some(next));
        self.with(next, |context| {
            self.on(pcpu, |hypervisor| {
                let at = hypervisor.locate(next).expect("it exists");
                hypervisor.load(at, context.cpu.virtual_interface(), &mut context.state, news);
            });
        });
    }

    /// `pcpu` comes out of its guest, if it is in one, handles what came, and goes on.
    fn exit(&self, pcpu: PcpuId, handle: impl FnOnce(&Self)) {
        if self.update(pcpu, |state| std::mem::take(&mut state.in_place)) {
            return self.end_wait_in_place(pcpu, RestEnd::Other, handle);
        }
        if self.update(pcpu, |state| std::mem::take(&mut state.in_guest)) {
            self.hypervisor.left_guest(pcpu);
        }
        self.update(pcpu, |state| state.busy = true);
        handle(self);
        self.resume(pcpu);
        self.update(pcpu, |state| state.busy = false);
    }

    /// `pcpu` waits with `vcpu` in place, if this is a WFI and the core lets it.
    fn waits_in_place(&self, pcpu: PcpuId, vcpu: VcpuId, syndrome: &Syndrome) -> bool {
        self.update(pcpu, |state| state.busy = true);
        let waits = self.with(vcpu, |context| {
            let Context { cpu, state, .. } = context;
            self.on(pcpu, |hypervisor| {
                let at = hypervisor.locate(vcpu).expect("it exists");
                hypervisor.begin_rest(at, cpu, state, syndrome.esr)
            })
        });
        self.update(pcpu, |state| {
            state.busy = false;
            state.in_place = waits;
            state.in_guest &= !waits;
        });
        waits
    }

    /// An interrupt ends that wait: `handle` takes another one than the vCPU's timer's and a kick.
    fn end_wait_in_place(&self, pcpu: PcpuId, end: RestEnd, handle: impl FnOnce(&Self)) {
        let vcpu = self.update(pcpu, |state| state.loaded).expect("loaded");
        self.update(pcpu, |state| state.busy = true);
        let rested = self.with(vcpu, |context| {
            self.on(pcpu, |hypervisor| {
                let at = hypervisor.locate(vcpu).expect("it exists");
                hypervisor.end_rest(at, &mut context.cpu, &mut context.state, end)
            })
        });
        match rested {
            Rested::GoesOn => {
                assert!(end != RestEnd::Other, "{vcpu:?} goes on without an interrupt");
                return self.update(pcpu, |state| {
                    state.in_guest = true;
                    state.busy = false;
                });
            }
            Rested::Due => self.hypervisor.left_guest(pcpu),
            Rested::Waits => {
                handle(self);
                self.with(vcpu, |context| {
                    self.on(pcpu, |hypervisor| {
                        let at = hypervisor.locate(vcpu).expect("it exists");
                        hypervisor.wait_on(at, &mut context.cpu, &mut context.state);
                    })
                });
            }
        }
        self.resume(pcpu);
        self.update(pcpu, |state| state.busy = false);
    }

    /// Every other pCPU that was kicked comes out of its guest, while `pcpu` works.
    fn settle_others(&self, pcpu: PcpuId) {
        let busy = self.update(pcpu, |state| std::mem::replace(&mut state.busy, true));
        self.settle();
        self.update(pcpu, |state| state.busy = busy);
    }

    /// `pcpu` hears no kick and no timer any more, or again.
    pub(crate) fn set_stuck(&self, pcpu: u8, stuck: bool) {
        self.update(PcpuId(pcpu), |state| state.stuck = stuck);
    }

    /// Every pCPU that was kicked comes out of its guest.
    pub(crate) fn settle(&self) {
        for _ in 0..PATIENCE {
            let kicked = (0..PCPUS).map(PcpuId).find(|pcpu| {
                let state = self.pcpus[usize::from(pcpu.0)].get();
                state.kicked && !state.busy && !state.stuck
            });
            let Some(pcpu) = kicked else { return };
            let in_place = self.update(pcpu, |state| {
                state.kicked = false;
                std::mem::take(&mut state.in_place)
            });
            if in_place {
                self.end_wait_in_place(pcpu, RestEnd::Kick, |_| {});
            } else {
                self.exit(pcpu, |_| {});
            }
        }
        panic!("kicks never end");
    }
}
