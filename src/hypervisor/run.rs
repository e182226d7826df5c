//! Who runs where: waking, kicking, blocking. All that one pCPU does to another's vCPU goes through here.
//!
//! A vCPU never loses a wake-up: it is marked as waiting under its run queue's lock *before* it looks once more at what
//! it waits for, and whoever makes that happen wakes it under the same lock *afterwards*.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::domain::Domain;
use crate::domain::vcpu::{Attention, Vcpu};
use crate::hypervisor::alarms::{Alarms, NEVER};
use crate::hypervisor::{Hypervisor, Schedule};
use crate::ids::{PcpuId, Ticks, VcpuId, VcpuSet};
use crate::machine::Machine;
use crate::sched::{RunQueue, Slot, Turns, Wait};
use crate::sync::Mutex;

/// A physical CPU as the core sees it.
#[derive(Debug)]
pub(crate) struct Pcpu {
    pub(crate) queue: Mutex<Turns>,
    pub(crate) alarms: Alarms,
    pub(crate) must_schedule: AtomicBool,
    /// The vCPU that it runs and that waits for nothing, for its own eyes; [`NOBODY`]: there is none.
    pub(crate) running: AtomicUsize,
    /// The vCPU with which it waits in place: a note and a kick are all that this needs. [`NOBODY`]: there is none.
    pub(crate) resting: AtomicUsize,
    /// How long that one could have run but did not get to, in ticks.
    pub(crate) starved: AtomicU64,
}

/// No slot of a run queue.
pub(crate) const NOBODY: usize = usize::MAX;

impl Pcpu {
    /// A pCPU with its vCPUs.
    pub(crate) fn new(queue: RunQueue) -> Self {
        Self {
            queue: Mutex::new(Turns::new(queue)),
            alarms: Alarms::default(),
            must_schedule: AtomicBool::new(true),
            running: AtomicUsize::new(NOBODY),
            resting: AtomicUsize::new(NOBODY),
            starved: AtomicU64::new(0),
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// A vCPU that exists.
    pub(crate) fn vcpu(&self, id: VcpuId) -> Option<(&Domain, &Vcpu)> {
        let domain = self.domain(id.domain)?;
        Some((domain, domain.vcpus.get(usize::from(id.index))?))
    }

    pub(crate) fn pcpu(&self, id: PcpuId) -> Option<&Pcpu> {
        self.pcpus.get(usize::from(id.0)).map(|pcpu| &**pcpu)
    }

    /// Notes `what` for `vcpu`, ends its wait if it is of kind `wait`, and makes its pCPU look.
    #[inline]
    pub(crate) fn notify(&self, vcpu: &Vcpu, what: Attention, wait: Wait) {
        vcpu.note(what);
        let Some(pcpu) = self.pcpu(vcpu.pcpu) else { return };
        // It looks at its notes after it has said that it rests no longer.
        if pcpu.resting.load(Ordering::SeqCst) == vcpu.slot.index() {
            return self.machine.kick(vcpu.pcpu);
        }
        self.make_look(vcpu, pcpu, wait);
    }

    /// Ends the wait of `vcpu`, which has a note and does not rest, if it is of kind `wait`, and makes its pCPU look.
    #[inline(never)]
    fn make_look(&self, vcpu: &Vcpu, pcpu: &Pcpu, wait: Wait) {
        // It came to this pCPU out of its guest, and looks before it goes back.
        if pcpu.running.load(Ordering::Relaxed) == vcpu.slot.index() && self.machine.current_pcpu() == vcpu.pcpu {
            return;
        }
        let mut turns = pcpu.queue.lock();
        let queue = turns.settled();
        let decide = queue.wake(vcpu.slot, wait, self.machine.now());
        let running = queue.is_current(vcpu.slot);
        drop(turns);
        if decide {
            pcpu.must_schedule.store(true, Ordering::Release);
        }
        if decide || running {
            self.machine.kick(vcpu.pcpu);
        }
    }

    /// Changes the place of `vcpu` in its run queue; if that says so, its pCPU decides anew.
    pub(crate) fn reconsider(&self, vcpu: &Vcpu, change: impl FnOnce(&mut RunQueue, Slot, Ticks) -> bool) {
        let Some(pcpu) = self.pcpu(vcpu.pcpu) else { return };
        let decide = change(pcpu.queue.lock().settled(), vcpu.slot, self.machine.now());
        if decide {
            pcpu.must_schedule.store(true, Ordering::Release);
            self.machine.kick(vcpu.pcpu);
        }
    }

    /// Makes `vcpu`'s pCPU load it and look at `what` in [`Self::enter`], whether it can run or not.
    pub(crate) fn visit(&self, vcpu: &Vcpu, what: Attention) {
        let Some(pcpu) = self.pcpu(vcpu.pcpu) else { return };
        // Together, so that no decision sees one without the other.
        let mut turns = pcpu.queue.lock();
        let queue = turns.settled();
        vcpu.note(what);
        queue.visit(vcpu.slot);
        let runs = queue.is_current(vcpu.slot) && queue.waits(vcpu.slot).is_none();
        drop(turns);
        if !runs {
            pcpu.must_schedule.store(true, Ordering::Release);
        }
        self.machine.kick(vcpu.pcpu);
    }

    /// The virtual GIC has news for some vCPUs of `domain`.
    pub(crate) fn interrupt_vcpus(&self, domain: &Domain, vcpus: VcpuSet) {
        for vcpu in vcpus.iter().filter_map(|index| domain.vcpus.get(usize::from(index))) {
            self.notify(vcpu, Attention::Interrupts, Wait::Event);
        }
    }

    /// Ends the loaded vCPU's own wait of kind `wait`.
    pub(crate) fn wake(&self, vcpu: &Vcpu, wait: Wait) {
        if let Some(pcpu) = self.pcpu(vcpu.pcpu) {
            pcpu.queue.lock().settled().wake(vcpu.slot, wait, self.machine.now());
            pcpu.must_schedule.store(true, Ordering::Release);
        }
    }

    /// The loaded vCPU wants its pCPU's attention at `deadline`. Returns whether that is news, for which its pCPU decides anew.
    pub(crate) fn set_deadline(&self, vcpu: &Vcpu, deadline: Option<Ticks>) -> bool {
        let Some(pcpu) = self.pcpu(vcpu.pcpu) else { return false };
        let is_news = pcpu.queue.lock().settled().set_deadline(vcpu.slot, deadline);
        if is_news {
            pcpu.must_schedule.store(true, Ordering::Release);
        }
        is_news
    }

    /// The loaded vCPU stops until `wait` ends, or until `deadline`.
    pub(crate) fn block(&self, vcpu: &Vcpu, wait: Wait, deadline: Option<Ticks>) {
        if let Some(pcpu) = self.pcpu(vcpu.pcpu) {
            pcpu.running.store(NOBODY, Ordering::Relaxed);
            pcpu.queue
                .lock()
                .settled()
                .block(vcpu.slot, wait, deadline, self.machine.now());
            pcpu.must_schedule.store(true, Ordering::Release);
        }
    }

    /// The loaded vCPU, which has just blocked, waits for `server`: if they share a pCPU, `server` runs next.
    pub(crate) fn hand_off(&self, vcpu: &Vcpu, server: &Vcpu) {
        if vcpu.pcpu == server.pcpu
            && let Some(pcpu) = self.pcpu(vcpu.pcpu)
        {
            pcpu.queue.lock().settled().hand_off(vcpu.slot, server.slot);
        }
    }

    /// The loaded vCPU lets others go first.
    pub(crate) fn yield_now(&self, vcpu: &Vcpu) {
        if let Some(pcpu) = self.pcpu(vcpu.pcpu) {
            pcpu.queue.lock().settled().yield_now(vcpu.slot, self.machine.now());
            pcpu.must_schedule.store(true, Ordering::Release);
        }
    }

    /// Whether `pcpu` must call [`Self::schedule`] before it goes back to the vCPU that it has loaded: one load.
    pub fn must_schedule(&self, pcpu: PcpuId) -> bool {
        self.pcpu(pcpu)
            .is_none_or(|pcpu| pcpu.must_schedule.load(Ordering::Acquire))
    }

    /// The time that [`Schedule::deadline`] named has come.
    pub fn on_deadline(&self, pcpu: PcpuId) {
        if let Some(pcpu) = self.pcpu(pcpu) {
            pcpu.must_schedule.store(true, Ordering::Release);
        }
    }

    /// Decides what `pcpu` runs from `now` on.
    pub fn schedule(&self, id: PcpuId, now: Ticks) -> Schedule {
        let Some(pcpu) = self.pcpu(id) else {
            return Schedule {
                run: None,
                deadline: None,
            };
        };
        pcpu.must_schedule.store(false, Ordering::Release);
        let shows = || match (id, self.has_message()) {
            (PcpuId(0), true) => Ticks(now.0.saturating_add(1)),
            (PcpuId(0), false) => self.terminal_deadline(),
            _ => NEVER,
        };
        let mut alarm = pcpu.alarms.first();
        if alarm <= now {
            alarm = self.ring_alarms(pcpu, now);
        }
        // What comes later than this makes its pCPU decide again.
        let mut show = shows();
        if show <= now || self.has_message() {
            self.on_console_ready();
            show = shows();
        }
        let mut turns = pcpu.queue.lock();
        let queue = turns.settled();
        let pick = queue.pick(now);
        let running = queue.running().map_or(NOBODY, Slot::index);
        drop(turns);
        pcpu.running.store(running, Ordering::Relaxed);
        let deadline = pick.until.unwrap_or(NEVER).min(show).min(alarm);
        Schedule {
            run: pick.run,
            deadline: (deadline != NEVER).then_some(deadline),
        }
    }
}
