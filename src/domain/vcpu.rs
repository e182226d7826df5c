//! What every pCPU may see of a vCPU. The register file is not here: only the vCPU's own pCPU touches that.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::counters::VcpuCounters;
use crate::domain::runstate::RunstateArea;
use crate::ids::{Ipa, PcpuId, VcpuId};
use crate::sched::{Slot, Wait};
use crate::sync::Mutex;

/// Things that [`crate::hypervisor::Hypervisor::enter`] must look at before the vCPU runs again.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Attention {
    /// Its virtual GIC has something for the list registers.
    Interrupts = 1 << 0,
    /// The server that it waits for was notified, or its servers changed.
    Request = 1 << 1,
    /// Somebody powered it on.
    Power = 1 << 2,
    /// Its domain stopped.
    Stop = 1 << 3,
    /// An event that SCHEDOP_poll waits for.
    Poll = 1 << 4,
    /// Its virtual GIC is to have the event channels' upcall pending.
    Upcall = 1 << 5,
    /// Somebody wants to see its registers.
    Snapshot = 1 << 8,
}

/// Where a vCPU is between PSCI CPU_OFF and CPU_ON.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Power {
    /// Not running; CPU_ON starts it.
    Off,
    /// CPU_ON was accepted; its pCPU has not applied it yet.
    Starting {
        /// First instruction.
        entry: Ipa,
        /// x0 then.
        context: u64,
    },
    /// Running.
    On,
}

/// None of `RUNSTATE_*`.
const NO_RUNSTATE: u32 = u32::MAX;

/// A vCPU as its domain knows it.
#[derive(Debug)]
pub struct Vcpu {
    /// Which.
    pub id: VcpuId,
    /// Where it runs, always.
    pub pcpu: PcpuId,
    /// Its place in that pCPU's run queue.
    pub slot: Slot,
    /// PSCI's view.
    pub power: Mutex<Power>,
    /// Where the guest reads how it spends its time.
    runstate: Mutex<Option<RunstateArea>>,
    /// It is marked while it changes. Only changed with that locked.
    marks_runstate: AtomicBool,
    /// There is such a place, or was until now.
    publishes: AtomicBool,
    /// What it says; no state: nothing yet.
    shown: AtomicU32,
    /// What its pCPU counts; its register file points here too.
    pub counters: Arc<VcpuCounters>,
    attention: AtomicU32,
    /// For its own pCPU's eyes, while it is not loaded: it may wait for something.
    may_wait: AtomicBool,
}

impl Vcpu {
    /// A vCPU that is off.
    pub fn new(id: VcpuId, pcpu: PcpuId, slot: Slot) -> Self {
        Self {
            id,
            pcpu,
            slot,
            power: Mutex::new(Power::Off),
            runstate: Mutex::new(None),
            marks_runstate: AtomicBool::new(false),
            publishes: AtomicBool::new(false),
            shown: AtomicU32::new(NO_RUNSTATE),
            counters: Arc::default(),
            attention: AtomicU32::new(0),
            may_wait: AtomicBool::new(true),
        }
    }

    /// Notes, as it is unloaded, whether it may wait: only one that is loaded begins to.
    #[inline]
    pub fn set_may_wait(&self, may_wait: bool) {
        self.may_wait.store(may_wait, Ordering::Relaxed);
    }

    /// Whether it, which is not loaded, may wait for something; asked by its own pCPU.
    #[inline]
    pub fn may_wait(&self) -> bool {
        self.may_wait.load(Ordering::Relaxed)
    }

    /// Whether it is on, or about to be.
    pub fn is_on(&self) -> bool {
        *self.power.lock() != Power::Off
    }

    /// From now on the guest reads there how it spends its time.
    pub fn set_runstate_area(&self, area: Option<RunstateArea>) {
        let mut runstate = self.runstate.lock();
        *runstate = area.map(|area| area.marked(self.marks_runstate.load(Ordering::Relaxed)));
        self.shown.store(NO_RUNSTATE, Ordering::Relaxed);
        self.publishes.store(runstate.is_some(), Ordering::Release);
    }

    /// What the guest reads there is marked while it changes, or not any more.
    pub fn mark_runstate(&self, marked: bool) {
        let mut runstate = self.runstate.lock();
        self.marks_runstate.store(marked, Ordering::Relaxed);
        *runstate = runstate.map(|area| area.marked(marked));
    }

    /// Whether the guest reads somewhere how it spends its time.
    #[inline(always)]
    pub fn publishes_runstate(&self) -> bool {
        self.publishes.load(Ordering::Relaxed)
    }

    /// From now on the guest is to read there that it is in `state`. Whether that is news.
    pub fn show_runstate(&self, state: u32) -> bool {
        self.shown.swap(state, Ordering::Relaxed) != state
    }

    /// Where the guest reads how it spends its time.
    #[inline]
    pub fn runstate_area(&self) -> Option<RunstateArea> {
        if self.publishes.load(Ordering::Acquire) {
            *self.runstate.lock()
        } else {
            None
        }
    }

    /// Leaves a note for the vCPU's pCPU; whoever does must make that pCPU look ([`crate::hypervisor`]).
    #[inline]
    pub fn note(&self, what: Attention) {
        // Before anything that is read of its pCPU afterwards.
        self.attention.fetch_or(what as u32, Ordering::SeqCst);
    }

    /// Whether there are notes to take.
    #[inline]
    pub fn has_notes(&self) -> bool {
        self.attention.load(Ordering::SeqCst) != 0
    }

    /// Whether there are notes that end a wait of that kind, which stay.
    pub fn has_notes_for(&self, wait: Wait) -> bool {
        const INTERRUPTS: u32 = Attention::Interrupts as u32 | Attention::Upcall as u32;
        let others = match wait {
            Wait::Event => Attention::Snapshot as u32,
            Wait::Request | Wait::Power => Attention::Snapshot as u32 | INTERRUPTS,
        };
        self.attention.load(Ordering::SeqCst) & !others != 0
    }

    /// Whether a note is there, which stays.
    pub fn has_note(&self, what: Attention) -> bool {
        self.attention.load(Ordering::SeqCst) & what as u32 != 0
    }

    /// Takes one note and leaves the others: whether it was there.
    pub fn take_note(&self, what: Attention) -> bool {
        self.has_notes() && self.attention.fetch_and(!(what as u32), Ordering::Acquire) & what as u32 != 0
    }

    /// Takes this note, if it is the only one: whether it was.
    #[inline]
    pub fn take_only(&self, what: Attention) -> bool {
        let taken = self
            .attention
            .compare_exchange(what as u32, 0, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok()
    }

    /// Puts notes back that were not looked at.
    pub fn put_back(&self, notes: Notes) {
        self.attention.fetch_or(notes.0, Ordering::Release);
    }

    /// Takes all notes if there are none but of interrupts and answers; otherwise takes none.
    pub fn take_usual_notes(&self) -> Option<Notes> {
        let notes = self.attention.load(Ordering::Relaxed);
        const USUAL: u32 = Attention::Interrupts as u32 | Attention::Upcall as u32 | Attention::Request as u32;
        if notes & !USUAL != 0 {
            return None;
        }
        let taken = self
            .attention
            .compare_exchange(notes, 0, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok().then_some(Notes(notes))
    }

    /// Takes the note of an upcall, if that is the only one.
    #[inline]
    pub fn take_upcall(&self) -> bool {
        const UPCALL: u32 = Attention::Upcall as u32;
        self.attention.load(Ordering::Relaxed) == UPCALL
            && self
                .attention
                .compare_exchange(UPCALL, 0, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
    }

    /// Takes all notes.
    pub fn take_notes(&self) -> Notes {
        if !self.has_notes() {
            return Notes(0);
        }
        Notes(self.attention.swap(0, Ordering::Acquire))
    }
}

/// Notes taken from a vCPU.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Notes(u32);

impl Notes {
    /// Whether `what` was among them.
    pub fn has(self, what: Attention) -> bool {
        self.0 & what as u32 != 0
    }
    /// The others.
    pub fn without(self, what: Attention) -> Self {
        Self(self.0 & !(what as u32))
    }
    /// Whether there were none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}
