//! From an access to its answer: which server gets it, what its notifications mean, when patience ends.

use super::OnFailure;
use super::ranges::Range;
use super::request::{Answer, IllegalMove, Move, Pending, Request};
use super::server::{Server, Servers, Stage};
use super::slot::Reading;
use super::{Effects, Event, Failure, Surroundings};
use crate::access::MmioAccess;
use crate::ids::{ServerId, Ticks};
use crate::memory::PhysicalMemory;
use crate::trace::{Kind, served};

/// Whether an access is anybody's.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Begun {
    /// No device and no server has all of it: the rules for unmapped addresses apply.
    Unclaimed,
    /// It was a write that nobody needs to answer: it is done.
    Posted,
    /// The vCPU is held until [`Servers::take`] gives the answer, which can be at once.
    Accepted,
}

impl Servers {
    /// Where the request of `vcpu` is.
    pub fn request(&self, vcpu: u8) -> Request {
        self.requests.get(usize::from(vcpu)).copied().unwrap_or_default()
    }

    /// As [`Self::request`], where it is.
    pub(super) fn held(&self, vcpu: u8) -> &Request {
        self.requests.get(usize::from(vcpu)).unwrap_or(&Request::Idle)
    }

    /// Moves a request on and keeps account of what that leaves in slots. A move that is illegal changes nothing; the
    /// callers below make none.
    pub(super) fn apply(&mut self, vcpu: u8, cause: Move, effects: &mut Effects) {
        self.try_apply(vcpu, &cause, effects);
    }

    /// As [`Self::apply`]; `false`: the move is illegal.
    fn try_apply(&mut self, vcpu: u8, cause: &Move, effects: &mut Effects) -> bool {
        let Some(request) = self.requests.get_mut(usize::from(vcpu)) else {
            return false;
        };
        let (had, was_held) = (holder(request), request.holds_vcpu());
        let was_waiting = matches!(request, Request::Waiting { .. });
        if !request.advance(cause) {
            return false;
        }
        let emptied = matches!(cause, Move::Answered { .. } | Move::LateAnswer { .. });
        let limit_changed =
            was_held && request.holds_vcpu() && was_waiting != matches!(request, Request::Waiting { .. });
        // It has its answer, or another limit from now on.
        if limit_changed || matches!(request, Request::Finished { .. }) {
            effects.wake.insert(vcpu);
        }
        let lost = had.filter(|had| !emptied && holder(request) != Some(*had));
        self.trace(vcpu, cause, had, effects);
        if let Some(had) = lost
            && let Some(server) = self.server_mut(had)
        {
            server.stale.insert(vcpu);
            if let Some(counters) = self.counters.get_mut(usize::from(had.0)) {
                counters.failed += 1;
            }
        }
        true
    }

    /// Notes for the trace what `cause` did to the request of `vcpu`, whose slot `had` held.
    fn trace(&self, vcpu: u8, cause: &Move, had: Option<ServerId>, effects: &mut Effects) {
        let (kind, id) = match cause {
            Move::Posted { server, .. } => (Kind::Posted, Some(*server)),
            Move::Answered { .. } | Move::LateAnswer { .. } => (Kind::Answered, had),
            Move::Failed { .. } => (Kind::Failed, had),
            _ => return,
        };
        if let Some(id) = id
            && let Some(server) = self.server(id)
        {
            let _ = effects.traced.push((kind, vcpu, served(server.owner(), id)));
        }
    }

    /// The guest accesses memory that nothing in the hypervisor emulates. What must happen is added to `effects`.
    ///
    /// # Errors
    /// [`IllegalMove`] when the vCPU has a request already.
    pub fn begin<M: PhysicalMemory + ?Sized>(
        &mut self,
        vcpu: u8,
        access: MmioAccess,
        around: &Surroundings<'_, M>,
        effects: &mut Effects,
    ) -> Result<Begun, IllegalMove> {
        let range = Range::from_length(access.ipa.0, access.width.bytes()).filter(|_| vcpu < self.vcpus);
        let Some(range) = range else {
            return Ok(Begun::Unclaimed);
        };
        if self.post(vcpu, &access, range, around.memory, effects).is_some() {
            return Ok(Begun::Posted);
        }
        let device = self.device_policy(range);
        let server = self.memory.find(range);
        let serving = server
            .and_then(|id| self.server(id))
            .is_some_and(|server| server.accepts(vcpu));
        if device.is_none() && !serving {
            return Ok(Begun::Unclaimed);
        }
        let policy = device.unwrap_or(self.fallback());
        let now = around.clock.now();
        let cause = Move::Start {
            pending: Pending { access, policy },
            now,
        };
        if !self.try_apply(vcpu, &cause, effects) {
            return Err(IllegalMove {
                state: self.held(vcpu).name(),
                cause: cause.name(),
            });
        }
        self.offer(vcpu, now, around, effects);
        // It looks itself.
        effects.wake.remove(vcpu);
        if matches!(self.held(vcpu), Request::Waiting { .. }) {
            effects.record(Event::Waits { vcpu, ipa: access.ipa });
            let _ = effects.traced.push((Kind::Absent, vcpu, access.ipa.frame() as u32));
        }
        Ok(Begun::Accepted)
    }

    /// Offers every waiting request to whoever serves its address now.
    pub(super) fn retry<M: PhysicalMemory + ?Sized>(&mut self, around: &Surroundings<'_, M>, effects: &mut Effects) {
        effects.review = true;
        let now = around.clock.now();
        for vcpu in 0..self.vcpus {
            self.offer(vcpu, now, around, effects);
        }
    }

    pub(super) fn offer<M: PhysicalMemory + ?Sized>(
        &mut self,
        vcpu: u8,
        now: Ticks,
        around: &Surroundings<'_, M>,
        effects: &mut Effects,
    ) {
        let Request::Waiting { pending, .. } = self.held(vcpu) else {
            return;
        };
        let range = Range::from_length(pending.access.ipa.0, pending.access.width.bytes());
        let Some(id) = range.and_then(|range| self.memory.find(range)) else {
            return;
        };
        let Some(server) = self.server(id).filter(|server| server.accepts(vcpu)) else {
            return;
        };
        let Some(slot) = server.slot(vcpu) else {
            return;
        };
        let runnable = around.clock.runnable(server.owner());
        match slot.begin(around.memory, &pending.access) {
            Ok(()) => {
                self.apply(vcpu, Move::Posted { server: id, runnable }, effects);
                self.count_posted(vcpu, now);
                if !effects.notify.contains(&slot.port) {
                    let _ = effects.notify.push(slot.port);
                }
            }
            Err(_) => {
                let on_failure = pending.policy.on_failure;
                if let Some(server) = self.server_mut(id) {
                    server.stale.insert(vcpu);
                }
                self.apply(vcpu, Move::Refused, effects);
                self.fail_server(id, on_failure, Failure::BadSlot, around, effects);
            }
        }
    }

    /// The server `id` sent an event for `vcpu`.
    pub fn notified<M: PhysicalMemory + ?Sized>(
        &mut self,
        id: ServerId,
        vcpu: u8,
        around: &Surroundings<'_, M>,
    ) -> Effects {
        let mut effects = Effects::default();
        self.hear(id, vcpu, around, &mut effects);
        effects
    }

    /// As [`Self::notified`]; what must happen is added to `effects`.
    pub fn hear<M: PhysicalMemory + ?Sized>(
        &mut self,
        id: ServerId,
        vcpu: u8,
        around: &Surroundings<'_, M>,
        effects: &mut Effects,
    ) {
        let Some(server) = self.server(id).filter(|server| server.stage != Stage::Tombstone) else {
            return;
        };
        let Some(slot) = server.slot(vcpu) else { return };
        let stale = server.stale.contains(vcpu);
        match self.held(vcpu) {
            Request::InFlight { server, pending, .. } if *server == id => {
                let on_failure = pending.policy.on_failure;
                let now = around.clock.now();
                let cause = match slot.poll(around.memory) {
                    Reading::Working => Move::Working,
                    Reading::Answered(data) => Move::Answered { data },
                    Reading::Nonsense(_) => Move::Nonsense { now },
                };
                if matches!(cause, Move::Answered { .. }) {
                    self.count_answered(id, vcpu, now);
                }
                self.apply(vcpu, cause, effects);
                let still = matches!(self.held(vcpu), Request::InFlight { .. });
                if matches!(cause, Move::Nonsense { .. }) && !still {
                    self.fail_server(id, on_failure, Failure::BadSlot, around, effects);
                }
            }
            Request::Waiting { late: Some(late), .. } if *late == id => {
                if let Reading::Answered(data) = slot.poll(around.memory) {
                    self.count_answered(id, vcpu, around.clock.now());
                    self.apply(vcpu, Move::LateAnswer { server: id, data }, effects);
                    self.readmit(id, around, effects);
                }
            }
            _ if stale => match slot.poll(around.memory) {
                // The answer to a request that nobody waits for, or a slot that the server emptied itself.
                Reading::Answered(_) | Reading::Nonsense(0) => {
                    if let Some(server) = self.server_mut(id) {
                        server.stale.remove(vcpu);
                    }
                    self.readmit(id, around, effects);
                    self.tell_quiescer(effects);
                }
                Reading::Working | Reading::Nonsense(_) => {}
            },
            _ => {}
        }
    }

    /// The server lives after all.
    fn readmit<M: PhysicalMemory + ?Sized>(
        &mut self,
        id: ServerId,
        around: &Surroundings<'_, M>,
        effects: &mut Effects,
    ) {
        if self.server(id).is_some_and(|server| server.stage == Stage::Suspended) {
            self.set_stage(id, Stage::Enabled);
            effects.record(Event::Readmitted { server: id });
        }
        self.retry(around, effects);
    }

    /// The server gets no new requests; unless the device waits, it is detached as if destroyed.
    pub(super) fn fail_server<M: PhysicalMemory + ?Sized>(
        &mut self,
        id: ServerId,
        on_failure: OnFailure,
        failure: Failure,
        around: &Surroundings<'_, M>,
        effects: &mut Effects,
    ) {
        match self.server(id).map(|server| server.stage) {
            None | Some(Stage::Tombstone) => return,
            Some(_) => effects.record(Event::Failed { server: id, failure }),
        }
        effects.review = true;
        match on_failure {
            OnFailure::Wait => {
                if self.server(id).is_some_and(|server| server.stage == Stage::Enabled) {
                    self.set_stage(id, Stage::Suspended);
                }
            }
            OnFailure::Ones | OnFailure::Abort => {
                if let Some(owner) = self.server(id).map(Server::owner) {
                    self.suspects.insert(owner);
                }
                self.bury(id, around, effects);
            }
        }
    }

    /// Ends what has lasted too long. Call it when [`Self::deadline`] of some vCPU has come; calling it more often does
    /// no harm.
    pub fn expire<M: PhysicalMemory + ?Sized>(&mut self, around: &Surroundings<'_, M>) -> Effects {
        let mut effects = Effects::default();
        let now = around.clock.now();
        for vcpu in 0..self.vcpus {
            match self.request(vcpu) {
                Request::InFlight { pending, server, .. } if self.left(vcpu, around) == Some(Ticks(0)) => {
                    self.apply(vcpu, Move::Failed { now, late: true }, &mut effects);
                    self.fail_server(
                        server,
                        pending.policy.on_failure,
                        Failure::TimeLimit,
                        around,
                        &mut effects,
                    );
                    self.offer(vcpu, now, around, &mut effects);
                }
                Request::Waiting { .. } if self.left(vcpu, around) == Some(Ticks(0)) => {
                    self.apply(vcpu, Move::AttachLimit, &mut effects);
                }
                _ => {}
            }
        }
        effects
    }

    /// What is left of the limit that the request of `vcpu` is under.
    fn left<M: ?Sized>(&self, vcpu: u8, around: &Surroundings<'_, M>) -> Option<Ticks> {
        let (limit, used) = match self.held(vcpu) {
            Request::InFlight {
                pending,
                server,
                posted,
                ..
            } => {
                let owner = self.server(*server)?.owner();
                (
                    pending.policy.timeout?,
                    around.clock.runnable(owner).0.saturating_sub(posted.0),
                )
            }
            Request::Waiting { pending, since, .. } => (
                pending.policy.attach_timeout?,
                around.clock.now().0.saturating_sub(since.0),
            ),
            Request::Idle | Request::Finished { .. } => return None,
        };
        Some(Ticks(limit.0.saturating_sub(used)))
    }

    /// When to call [`Self::expire`] for `vcpu` at the earliest; `None`: never.
    pub fn deadline<M: ?Sized>(&self, vcpu: u8, around: &Surroundings<'_, M>) -> Option<Ticks> {
        let left = self.left(vcpu, around)?;
        Some(Ticks(around.clock.now().0.saturating_add(left.0)))
    }

    /// The domain that works on the request of `vcpu`, for a direct handoff.
    pub fn serving(&self, vcpu: u8) -> Option<crate::ids::DomainId> {
        match self.held(vcpu) {
            Request::InFlight { server, .. } => self.server(*server).map(|server| server.owner()),
            _ => None,
        }
    }

    /// Takes the answer, if there is one: the vCPU goes on with it.
    #[inline]
    pub fn take(&mut self, vcpu: u8) -> Option<Answer> {
        let request = self.requests.get_mut(usize::from(vcpu))?;
        let Request::Finished { answer } = *request else {
            return None;
        };
        // [`Move::Taken`]. Nobody hears of it: its slot was emptied, or given up, when it was finished.
        *request = Request::Idle;
        Some(answer)
    }

    /// The target stops: nobody waits for any answer.
    pub fn cancel_all(&mut self) {
        for vcpu in 0..self.vcpus {
            self.apply(vcpu, Move::Cancel, &mut Effects::default());
        }
    }
}

/// The server whose slot holds the request.
fn holder(request: &Request) -> Option<ServerId> {
    match request {
        Request::InFlight { server, .. } => Some(*server),
        Request::Waiting { late, .. } => *late,
        Request::Idle | Request::Finished { .. } => None,
    }
}
