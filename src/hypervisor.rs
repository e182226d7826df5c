//! The whole core behind a handful of entry points: one a kind of exception, and two around running a vCPU.
//!
//! `arch` owns the vCPUs' register files; each is touched by the pCPU that it is pinned to and by no other. What other
//! pCPUs want of a vCPU is left in its domain's shared state and looked at in [`Hypervisor::enter`].
//!
//! | file | what |
//! |---|---|
//! | `assemble` | a hypervisor from built domains |
//! | `run` | who runs where: wake, kick, block, schedule |
//! | `loading` | a vCPU before its guest runs and after |
//! | `traps` | a synchronous exception, decoded and handed on |
//! | `at_vector` | calls that are answered before anything else is looked at |
//! | `quick` | accesses that are answered at once |
//! | `mmio` | an access to a device: from the abort to the register that it loads |
//! | `interrupts` | everything that makes or takes interrupts |
//! | `rest` | a wait while nobody else can run: nothing is put away |
//! | `handoff` | a request to a server on the same pCPU and its answer: one straight path |
//! | `volleys` | two vCPUs that wait for each other's events: a straight path |
//! | `own_event` | an event that a domain sends to itself: a straight path |
//! | `events` | event channels across domains, and what servers cause |
//! | `shadow` | pages of registers that guests read without a trap, and what they acknowledge there |
//! | `power` | starting and stopping vCPUs |
//! | `lifecycle` | how domains end and start again |
//! | `grants` | what domains map and copy of what others grant |
//! | `calls`, `buffers` | hypercalls: what they ask of the domains, and the guest's arguments |
//! | `account` | how vCPUs spend their time, for their guests |
//! | `visits` | looking at the registers of a vCPU that another pCPU has |
//! | `terminal`, `messages` | the serial line, and what the hypervisor says on it |
//! | `alarms`, `watchdog`, `wall_clock` | what happens to a domain at a time; what time it is |
//! | `tables` | what a person at the serial line asks for by a key |
//! | `pause`, `reports`, `control` | holding domains; what is read of them while they run; what control domains may do |
//! | `clock`, `stop`, `set_way` | backend time; holding pCPUs out of guests; cache maintenance by set and way |

mod account;
mod alarms;
mod announce;
mod assemble;
pub mod at_vector;
mod buffers;
mod calls;
mod clock;
mod control;
mod elsewhere;
mod events;
mod foreign;
mod grants;
mod handoff;
mod interrupts;
pub mod lifecycle;
mod loading;
mod messages;
mod mmio;
mod own_event;
mod pause;
mod posted;
mod power;
mod quick;
mod reports;
mod rest;
mod run;
mod set_way;
mod shadow;
mod stop;
mod tables;
mod terminal;
mod traps;
mod visits;
mod volleys;
mod wall_clock;
mod watchdog;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use crate::trap::registers::Saved;
pub use crate::trap::syndrome::Syndrome;
pub use assemble::{AssemblyError, MachineFacts};
pub use quick::{HYPERCALL, Quick, is_send};
pub use rest::{RestEnd, Rested};

use crate::abi::vcpu::RUNSTATE_RUNNABLE;
use crate::console::Console;
use crate::counters::{Exit, VcpuCounters};
use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
use crate::entropy::Entropy;
use crate::hypervisor::mmio::{AwaitedAccess, PendingAccess};
use crate::hypervisor::run::Pcpu;
use crate::hypervisor::set_way::SetWayWalk;
use crate::ids::{DomainId, DomainSet, EventPort, IntId, Ipa, PcpuId, Ticks, VcpuId};
use crate::ioreq::Unheard;
use crate::machine::Machine;
use crate::memory::references::FrameReferences;
use crate::policy::Policy;
use crate::range::IpaRange;
use crate::sched::Spent;
use crate::sync::Mutex;
use crate::trap::registers::GuestFrame;
use crate::trap::syndrome::Hpfar;
use crate::trap::system_register::EmulatedRegisters;
use crate::trap::system_register::identification::{IdRegisters, RawIdRegisters};

/// A vCPU's state that only its pCPU touches. `arch` finds the frame at its start.
#[derive(Debug)]
#[repr(C, align(16))]
pub struct VcpuState {
    /// Its general registers while it does not run.
    pub frame: GuestFrame,
    /// Whose.
    pub id: VcpuId,
    /// An access that waits for its answer.
    access: Option<PendingAccess>,
    /// The same, one of the usual kind.
    plain: Option<AwaitedAccess>,
    /// Domains that map pages that have left its domain's map in the hypercall that it is about, and the servers that are
    /// yet to be told.
    departed: DomainSet,
    unheard: Unheard,
    /// Registers that exist in the core alone.
    registers: EmulatedRegisters,
    flags: Flags,
    /// The port by which it last sent an event to its own domain.
    own_port: EventPort,
    /// The port by which it sent to another domain last.
    peer: volleys::KnownPeer,
    /// An event of another vCPU brought it here.
    came_across: bool,
    /// Where it had an argument of a call last.
    argument: buffers::KnownPage,
    /// Where it found nothing last.
    hole: quick::Hole,
    /// Before the page at whose start it accessed something last.
    hole_before: quick::Hole,
    /// Where its stores to registers went lately.
    known: quick::KnownStores,
    /// How often its domain had been restarted when it was powered on.
    restarts: u32,
    /// CNTVOFF_EL2.
    pub virtual_offset: u64,
    /// What it spent before its domain's last restart.
    spent_before: Spent,
    /// What it does once it is unloaded, if that is known.
    leaves_as: Option<u32>,
    /// Who runs after [`Quick::Over`]; of [`Quick::Rests`] the deadline.
    pub over: Schedule,
    /// Who runs after [`Quick::Across`], until EL2's timer as it is set.
    pub across: Across,
    set_way: SetWayWalk,
    counters: Arc<VcpuCounters>,
    /// Its own.
    pcpu: Arc<Pcpu>,
}

/// What is asked of a vCPU each time before it goes on, looked at together.
#[derive(Copy, Clone, Debug)]
#[repr(C)]
struct Flags {
    /// It sleeps in SCHEDOP_poll.
    polls: bool,
    /// It was powered on, and has not turned off since.
    is_on: bool,
    /// What its physical timer's line was last.
    physical_timer_line: bool,
    /// Its list registers do not show what its vGIC holds.
    flush_due: bool,
}

impl Flags {
    /// It is on, and that is all.
    #[inline(always)]
    const fn is_only_on(self) -> bool {
        let flags = [
            self.polls as u8,
            self.is_on as u8,
            self.physical_timer_line as u8,
            self.flush_due as u8,
        ];
        u32::from_le_bytes(flags) == u32::from_le_bytes([0, 1, 0, 0])
    }
}

impl VcpuState {
    /// An event of another vCPU brought it here, and it has not waited since.
    #[inline(always)]
    pub const fn came_across(&self) -> bool {
        self.came_across
    }

    /// The pCPU goes over to `to`, which is to have this news; `vcpu`, whose state this is, leaves it as one that is `leaves`,
    /// a `RUNSTATE_*`.
    #[inline(always)]
    fn go_across(&mut self, vcpu: &Vcpu, to: VcpuId, news: News, leaves: u32) {
        vcpu.set_may_wait(leaves != RUNSTATE_RUNNABLE);
        self.across = Across {
            to,
            leaves,
            parked: None,
            news,
        };
    }

    /// It waits for the answer to an access.
    #[inline]
    fn has_access(&self) -> bool {
        self.plain.is_some() || self.access.is_some()
    }

    fn new(id: VcpuId, counters: Arc<VcpuCounters>, pcpu: Arc<Pcpu>) -> Self {
        Self {
            id,
            frame: GuestFrame::default(),
            access: None,
            plain: None,
            departed: DomainSet::default(),
            unheard: Unheard::default(),
            registers: EmulatedRegisters::default(),
            flags: Flags {
                polls: false,
                is_on: false,
                physical_timer_line: false,
                flush_due: true,
            },
            own_port: EventPort(0),
            peer: volleys::KnownPeer::NONE,
            came_across: false,
            argument: buffers::KnownPage::default(),
            hole: quick::Hole::default(),
            hole_before: quick::Hole::default(),
            known: quick::KnownStores::default(),
            restarts: 0,
            virtual_offset: 0,
            spent_before: Spent::default(),
            leaves_as: None,
            over: Schedule {
                run: None,
                deadline: None,
            },
            across: Across {
                leaves: RUNSTATE_RUNNABLE,
                parked: None,
                to: id,
                news: News::Upcall,
            },
            set_way: SetWayWalk::default(),
            counters,
            pcpu,
        }
    }

    /// Counts that the vCPU left its guest. `arch` says so of what it answers itself and of interrupts.
    #[inline]
    pub fn count(&self, exit: Exit) {
        self.counters.exit(exit);
    }
}

/// What `arch` must load besides the register file to run a vCPU; constant for the vCPU's life.
#[derive(Copy, Clone, Debug)]
pub struct VcpuConstants {
    /// VTTBR_EL2.
    pub vttbr: u64,
    /// VTCR_EL2, without the bits that are RES1.
    pub vtcr: u64,
    /// VMPIDR_EL2.
    pub vmpidr: u64,
    /// The pCPU that it is pinned to.
    pub pcpu: PcpuId,
}

/// A vCPU and its domain.
#[derive(Copy, Clone, Debug)]
pub struct Located<'a> {
    pub(crate) domain: &'a Domain,
    pub(crate) vcpu: &'a Vcpu,
}

/// What a pCPU does next.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Schedule {
    /// The vCPU to run; `None`: wait for an interrupt.
    pub run: Option<VcpuId>,
    /// When to come back at the latest (CNTHP_CVAL_EL2); `None`: never by time.
    pub deadline: Option<Ticks>,
}

/// A vCPU that can run, and what it does not know yet.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Across {
    /// The vCPU.
    pub to: VcpuId,
    /// What the one does meanwhile that is loaded now: a `RUNSTATE_*`.
    leaves: u32,
    /// That one's list registers are given up already; whether the physical interrupt of its virtual timer is active.
    parked: Option<bool>,
    /// What has happened.
    pub news: News,
}

/// What has happened to a vCPU that is about to be loaded, and that nothing else tells it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum News {
    /// Nothing.
    Nothing,
    /// Its event channels' upcall is pending.
    Upcall,
    /// The same, by an event of a vCPU that goes on as soon as this one waits again.
    Event,
    /// The access that it waits for gives this value.
    Answer(u64),
}

/// What [`Hypervisor::enter`] found.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Entry {
    /// Run the guest now.
    Run,
    /// It still waits for something, or stopped, or its timer is to be set: ask [`Hypervisor::schedule`] again.
    Blocked,
    /// In its time something was done that took some: take pending interrupts, then ask [`Hypervisor::schedule`] again.
    Worked,
}

/// Who a physical SPI was for.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Claim {
    /// A guest: it stays active until the guest deactivates it (EOImode 1: `arch` only dropped the priority).
    Guest,
    /// Nobody: `arch` deactivates it and counts it.
    Nobody,
}

/// The hypervisor: every domain, every table, a lock for each.
#[derive(Debug)]
pub struct Hypervisor<M: Machine> {
    machine: M,
    /// By number; number 0 is nobody's.
    domains: Vec<Option<Domain>>,
    pcpus: Vec<Arc<Pcpu>>,
    policy: Policy,
    references: Mutex<FrameReferences>,
    /// Where the seeds of guests come from. No other lock is taken under it.
    entropy: Mutex<Option<Entropy>>,
    console: Mutex<Console>,
    /// When the console has something to show that it has not yet; `u64::MAX`: never.
    console_due: AtomicU64,
    messages: messages::Messages,
    visit: Mutex<visits::Visit>,
    tables: tables::Tables,
    gate: stop::GuestGate,
    ids: IdRegisters,
    /// The ID registers of each pCPU.
    hardware: Vec<RawIdRegisters>,
    hpfar: Hpfar,
    slice: Ticks,
    /// The physical interrupt of the EL1 virtual timer.
    virtual_timer: IntId,
    /// Event channels that exist from the start.
    channels: Vec<crate::manifest::events::StaticChannel>,
    /// The system counter in Hz, and what it showed at boot.
    frequency: u64,
    tick_length: clock::TickLength,
    booted: Ticks,
    /// Nanoseconds from 1970 to `booted`; 0: nobody knows.
    wall_clock_at_boot: u64,
    /// Owners of physical SPIs, by number.
    interrupts: Vec<(IntId, DomainId)>,
    /// Who serves which addresses of whom: for messages.
    backends: Vec<(DomainId, IpaRange, DomainId)>,
    finished: AtomicBool,
}

impl<M: Machine> Hypervisor<M> {
    /// The machine under it.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Every domain that was built, by number.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.domains.iter().flatten()
    }

    /// The domain of that number.
    pub fn domain(&self, id: DomainId) -> Option<&Domain> {
        self.domains.get(usize::from(id.0))?.as_ref()
    }

    /// The name of a domain, for messages.
    pub fn domain_name(&self, domain: DomainId) -> Option<&str> {
        self.domain(domain).map(|domain| domain.name.as_str())
    }

    /// Every vCPU that exists, in no particular order: `arch` makes a register file for each at boot.
    pub fn vcpus(&self) -> impl Iterator<Item = VcpuId> {
        self.domains()
            .flat_map(|domain| domain.vcpus.iter().map(|vcpu| vcpu.id))
    }

    /// A vCPU's constants; `None` if there is no such vCPU.
    pub fn constants(&self, id: VcpuId) -> Option<VcpuConstants> {
        /// MPIDR_EL1.RES1.
        const MPIDR_RES1: u64 = 1 << 31;
        let (domain, vcpu) = self.vcpu(id)?;
        Some(VcpuConstants {
            vttbr: domain.constants.vttbr,
            vtcr: domain.constants.vtcr,
            vmpidr: MPIDR_RES1 | u64::from(id.index),
            pcpu: vcpu.pcpu,
        })
    }

    /// Where a vCPU is, so that `arch` need not look for it at each exception; `None` if there is no such vCPU.
    pub fn locate(&self, id: VcpuId) -> Option<Located<'_>> {
        let (domain, vcpu) = self.vcpu(id)?;
        Some(Located { domain, vcpu })
    }

    /// A vCPU's state before its first instruction; asked for once, at boot. `None` if there is no such vCPU.
    pub fn initial_state(&self, id: VcpuId) -> Option<VcpuState> {
        let (_, vcpu) = self.vcpu(id)?;
        let pcpu = self.pcpus.get(usize::from(vcpu.pcpu.0))?;
        Some(VcpuState::new(id, Arc::clone(&vcpu.counters), Arc::clone(pcpu)))
    }

    /// Whether everything is over: all guests have stopped, or the person at the console quits. `arch` then shows what the
    /// console still holds and powers the machine off.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// `pcpu` came from a guest: the first call after an exception from a lower level.
    pub fn left_guest(&self, pcpu: PcpuId) {
        self.gate.leave(pcpu);
    }

    /// The domain that a physical SPI belongs to.
    fn owner_of(&self, interrupt: IntId) -> Option<&Domain> {
        let index = self
            .interrupts
            .binary_search_by_key(&interrupt, |(interrupt, _)| *interrupt)
            .ok()?;
        self.domain(self.interrupts.get(index)?.1)
    }

    /// Who is to serve an address of `guest`, by the manifest.
    fn backend_of(&self, guest: DomainId, ipa: Ipa) -> Option<(DomainId, &str)> {
        let (.., backend) = self
            .backends
            .iter()
            .find(|(owner, range, _)| *owner == guest && range.start <= ipa && ipa.0 < range.end())?;
        Some((*backend, self.domain_name(*backend).unwrap_or_default()))
    }
}
