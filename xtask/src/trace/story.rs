//! What the events of all pCPUs say together: who ran when, who waited for whom, and what made whom go on.
//!
//! Times are nanoseconds since the first event. An event that does not fit (rings begin in the middle of things, and a
//! ring may hold anything) at worst leaves a lane or an arrow short; lanes never overlap, arrows never go back in time.

use std::collections::BTreeMap;

use portunus::abi::hypercall::DM_OP;
use portunus::ids::{DomainId, IntId, VcpuId};
use portunus::trace::{Event, Kind, vcpu_of};

use super::memory::Rings;
use super::names;

/// A span of time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Window {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Window {
    pub(crate) fn length(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    pub(super) fn has(self, at: u64) -> bool {
        (self.start..=self.end).contains(&at)
    }
}

/// What a vCPU does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// It runs, on this pCPU.
    Runs(u8),
    /// It could run, but another does.
    Ready,
    /// It waits for an interrupt or an event.
    Sleeps,
    /// It waits for an answer of this domain; `None`: for a server that is not there.
    Waits(Option<DomainId>),
}

/// A stay in one state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Span<S> {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) state: S,
}

/// An event at its place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Mark {
    pub(super) at: u64,
    pub(super) pcpu: u8,
    pub(super) event: Event,
}

/// Why somebody went on because of another.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Cause {
    Request,
    Answer,
    Doorbell,
    Interrupt,
}

impl Cause {
    pub(super) const ALL: [Self; 4] = [Self::Request, Self::Answer, Self::Doorbell, Self::Interrupt];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Answer => "answer",
            Self::Doorbell => "doorbell",
            Self::Interrupt => "interrupt",
        }
    }
}

/// From what somebody did to where another went on because of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Arrow {
    pub(super) cause: Cause,
    pub(super) from: (VcpuId, u64),
    pub(super) to: (VcpuId, u64),
}

/// The whole story.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(super) rings: Rings,
    /// What each vCPU did, in order.
    pub(super) vcpus: BTreeMap<VcpuId, Vec<Span<State>>>,
    /// Whom each pCPU had loaded, in order; `None`: it slept.
    pub(super) pcpus: BTreeMap<u8, Vec<Span<Option<VcpuId>>>>,
    pub(super) marks: Vec<Mark>,
    pub(super) arrows: Vec<Arrow>,
    end: u64,
}

/// The most arrows and marks of one picture.
const LEGIBLE_ARROWS: usize = 24;
const LEGIBLE_MARKS: usize = 160;
/// Part of the picture that is left after the last thing that happened.
const MARGIN: u64 = 40;

impl Story {
    /// Makes the story of what rings hold.
    pub(crate) fn tell(rings: Rings) -> Self {
        let first = rings.events.iter().flatten().map(|event| event.time).min().unwrap_or(0);
        let frequency = u128::from(rings.frequency.max(1));
        let nanoseconds = |time: u64| {
            let span = u128::from(time - first) * 1_000_000_000 / frequency;
            u64::try_from(span).unwrap_or(u64::MAX)
        };
        let mut marks = Vec::new();
        for (pcpu, events) in (0..).zip(&rings.events) {
            marks.extend(events.iter().map(|event| Mark {
                at: nanoseconds(event.time),
                pcpu,
                event: *event,
            }));
        }
        marks.sort_by_key(|mark| mark.at);
        let mut teller = Teller::default();
        for mark in &marks {
            teller.take(mark);
        }
        let end = marks.last().map_or(0, |mark| mark.at);
        teller.close(end);
        Self {
            rings,
            marks,
            end,
            ..teller.story
        }
    }

    /// What a vCPU is called.
    pub(super) fn vcpu_name(&self, vcpu: VcpuId) -> String {
        format!("{} vCPU {}", self.rings.name(vcpu.domain), vcpu.index)
    }

    /// The last milliseconds before the last thing that happened; without a number, everything.
    pub(crate) fn last(&self, milliseconds: Option<f64>) -> Window {
        let Some(milliseconds) = milliseconds else {
            return Window {
                start: 0,
                end: self.end,
            };
        };
        self.before(self.last_deed(), (milliseconds * 1e6) as u64)
    }

    /// As much of the end as one picture can show.
    pub(crate) fn legible(&self) -> Window {
        // What comes after the last arrow is one vCPU's alone.
        let deed = self.arrows.iter().map(|arrow| arrow.to.1).max();
        let deed = deed.unwrap_or(self.last_deed());
        let mut times: Vec<u64> = self.arrows.iter().map(|arrow| arrow.from.1).collect();
        times.sort_unstable();
        let by_arrows = times.iter().rev().nth(LEGIBLE_ARROWS).copied().unwrap_or(0);
        let shown = self.marks.iter().filter(|mark| is_deed(mark) && mark.at <= deed);
        let times: Vec<u64> = shown.map(|mark| mark.at).collect();
        let by_marks = times.iter().rev().nth(LEGIBLE_MARKS).copied().unwrap_or(0);
        self.before(deed, deed - by_arrows.max(by_marks).min(deed))
    }

    fn before(&self, deed: u64, length: u64) -> Window {
        let length = length.max(1_000);
        Window {
            start: deed.saturating_sub(length),
            end: deed.saturating_add(length / MARGIN).max(1),
        }
    }

    /// When a guest did something last, sleeping apart.
    fn last_deed(&self) -> u64 {
        let last = self.marks.iter().rev().find(|mark| is_deed(mark));
        last.or(self.marks.last()).map_or(0, |mark| mark.at)
    }

    /// How many events are in a window.
    pub(crate) fn events_in(&self, window: Window) -> usize {
        self.marks.iter().filter(|mark| window.has(mark.at)).count()
    }
}

fn is_deed(mark: &Mark) -> bool {
    !matches!(mark.event.kind, Kind::Idle | Kind::Interrupt | Kind::Switched) && !names::is_wait(&mark.event)
}

/// A request that was not taken yet.
#[derive(Clone, Copy, Debug)]
struct Request {
    backend: Option<DomainId>,
    posted: u64,
    begun: bool,
    answered: Option<(VcpuId, u64)>,
}

/// What is known of a pCPU while the story is told.
#[derive(Clone, Copy, Debug, Default)]
struct Pcpu {
    loaded: Option<VcpuId>,
    since: u64,
    /// It sleeps; since when something may have woken it.
    sleeps: bool,
    woken: Option<u64>,
}

/// What is known of a vCPU.
#[derive(Clone, Copy, Debug)]
struct Vcpu {
    state: State,
    since: u64,
    /// It asked to sleep at this time, and did nothing since.
    asked_to_sleep: Option<u64>,
}

#[derive(Debug, Default)]
struct Teller {
    story: Story,
    pcpus: BTreeMap<u8, Pcpu>,
    vcpus: BTreeMap<VcpuId, Vcpu>,
    requests: BTreeMap<VcpuId, Request>,
    /// Doorbells that nobody went on for yet, by the domain they are for.
    doorbells: BTreeMap<DomainId, Vec<(VcpuId, u64)>>,
    /// Who serves a domain, and calls of theirs that may have raised an interrupt.
    servers: BTreeMap<DomainId, DomainId>,
    raised: BTreeMap<DomainId, (VcpuId, u64)>,
}

impl Teller {
    fn take(&mut self, mark: &Mark) {
        let Mark { at, pcpu, event } = *mark;
        match event.kind {
            // These are about another vCPU than the one that is loaded, or may be.
            Kind::Posted => self.posted(mark),
            Kind::Answered => {
                let by = self.pcpus.get(&pcpu).and_then(|pcpu| pcpu.loaded);
                self.answered(event.vcpu, by, at);
            }
            Kind::Absent => self.absent(event.vcpu, at),
            Kind::Failed => {}
            Kind::Idle => self.idle(pcpu, event.vcpu, at),
            Kind::Interrupt => {
                let known = self.pcpus.entry(pcpu).or_default();
                if known.sleeps {
                    known.woken = Some(at);
                }
            }
            Kind::Switched => {
                let from = vcpu_of(event.argument as u8);
                self.switched(pcpu, from, event.vcpu, at);
            }
            // Found when the vCPU is put away, too.
            Kind::Ended => {}
            _ => self.does(mark),
        }
        if let Some(vcpu) = event.vcpu
            && matches!(event.kind, Kind::Switched | Kind::Injected | Kind::Hypercall)
        {
            self.begins(vcpu, at);
        }
    }

    /// The loaded vCPU does something: it runs.
    fn does(&mut self, mark: &Mark) {
        let Mark { at, pcpu, event } = *mark;
        let Some(vcpu) = event.vcpu else { return };
        self.goes_on(pcpu, vcpu, at);
        match event.kind {
            Kind::Taken => self.taken(vcpu, pcpu, at),
            Kind::Doorbell => {
                let backend = DomainId((event.argument >> 16) as u16);
                self.servers.insert(vcpu.domain, backend);
                self.doorbells.entry(backend).or_default().push((vcpu, at));
            }
            Kind::Injected if event.argument >= IntId::FIRST_SPI => self.interrupted(vcpu, at),
            Kind::Buffered => {
                self.servers
                    .insert(vcpu.domain, DomainId((event.argument >> 16) as u16));
            }
            Kind::Hypercall if names::call(&event).0 == DM_OP => {
                self.raised.insert(vcpu.domain, (vcpu, at));
            }
            _ => {}
        }
        if let Some(known) = self.vcpus.get_mut(&vcpu) {
            known.asked_to_sleep = names::is_wait(&event).then_some(at);
        }
    }

    /// `pcpu` has `vcpu` loaded and does not sleep.
    fn goes_on(&mut self, pcpu: u8, vcpu: VcpuId, at: u64) {
        let known = self.pcpus.entry(pcpu).or_default();
        let since = known.woken.filter(|_| known.sleeps).unwrap_or(at);
        if known.sleeps || known.loaded != Some(vcpu) {
            self.load(pcpu, Some(vcpu), since);
        }
        let known = self.vcpus.get(&vcpu);
        let runs = known.is_some_and(|known| matches!(known.state, State::Runs(_)));
        if !runs && !self.requests.contains_key(&vcpu) {
            self.enter(vcpu, State::Runs(pcpu), since);
        }
    }

    fn switched(&mut self, pcpu: u8, from: Option<VcpuId>, to: Option<VcpuId>, at: u64) {
        if let Some(from) = from {
            self.stops(from, at, State::Ready);
        }
        let Some(to) = to else { return };
        self.load(pcpu, Some(to), at);
        if !self.requests.contains_key(&to) {
            self.enter(to, State::Runs(pcpu), at);
        }
    }

    fn idle(&mut self, pcpu: u8, vcpu: Option<VcpuId>, at: u64) {
        if let Some(vcpu) = vcpu {
            self.stops(vcpu, at, State::Sleeps);
        }
        let known = self.pcpus.entry(pcpu).or_default();
        if known.sleeps {
            known.woken = None;
        } else {
            self.load(pcpu, None, at);
        }
    }

    /// A vCPU runs no more; what it asked for says why, else it is `otherwise`.
    fn stops(&mut self, vcpu: VcpuId, at: u64, otherwise: State) {
        let known = self.vcpus.get(&vcpu).copied();
        if known.is_some_and(|known| !matches!(known.state, State::Runs(_))) {
            return;
        }
        match known.and_then(|known| known.asked_to_sleep) {
            Some(asked) => self.enter(vcpu, State::Sleeps, asked),
            None => self.enter(vcpu, otherwise, at),
        }
    }

    /// `pcpu` has another vCPU from `at` on, or sleeps.
    fn load(&mut self, pcpu: u8, vcpu: Option<VcpuId>, at: u64) {
        let known = self.pcpus.entry(pcpu).or_default();
        let at = at.max(known.since);
        let before = Span {
            start: known.since,
            end: at,
            state: if known.sleeps { None } else { known.loaded },
        };
        let had = known.loaded.is_some() || known.sleeps;
        *known = Pcpu {
            loaded: vcpu.or(known.loaded),
            since: at,
            sleeps: vcpu.is_none(),
            woken: None,
        };
        if had && before.end > before.start {
            self.story.pcpus.entry(pcpu).or_default().push(before);
        }
    }

    /// `vcpu` is in another state from `at` on.
    fn enter(&mut self, vcpu: VcpuId, state: State, at: u64) {
        let new = |since| Vcpu {
            state,
            since,
            asked_to_sleep: None,
        };
        let Some(known) = self.vcpus.get_mut(&vcpu) else {
            self.vcpus.insert(vcpu, new(at));
            self.story.vcpus.entry(vcpu).or_default();
            return;
        };
        if known.state == state {
            return;
        }
        let at = at.max(known.since);
        let before = Span {
            start: known.since,
            end: at,
            state: known.state,
        };
        *known = new(at);
        if before.end > before.start {
            self.story.vcpus.entry(vcpu).or_default().push(before);
        }
    }

    fn posted(&mut self, mark: &Mark) {
        let Some(vcpu) = mark.event.vcpu else { return };
        let backend = DomainId((mark.event.argument >> 16) as u16);
        self.servers.insert(vcpu.domain, backend);
        let request = Request {
            backend: Some(backend),
            posted: mark.at,
            begun: false,
            answered: None,
        };
        self.requests.insert(vcpu, request);
        self.enter(vcpu, State::Waits(Some(backend)), mark.at);
    }

    fn absent(&mut self, vcpu: Option<VcpuId>, at: u64) {
        let Some(vcpu) = vcpu else { return };
        let request = Request {
            backend: None,
            posted: at,
            begun: false,
            answered: None,
        };
        self.requests.insert(vcpu, request);
        self.enter(vcpu, State::Waits(None), at);
    }

    fn answered(&mut self, vcpu: Option<VcpuId>, by: Option<VcpuId>, at: u64) {
        let Some(vcpu) = vcpu else { return };
        let Some(request) = self.requests.get_mut(&vcpu) else {
            return;
        };
        let by = by.filter(|by| Some(by.domain) == request.backend);
        request.answered = by.map(|by| (by, at));
        if let (Some(by), false) = (by, request.begun) {
            request.begun = true;
            let from = (vcpu, request.posted);
            self.arrow(Cause::Request, from, (by, at));
        }
    }

    fn taken(&mut self, vcpu: VcpuId, pcpu: u8, at: u64) {
        if let Some(request) = self.requests.remove(&vcpu)
            && let Some(answered) = request.answered
        {
            self.arrow(Cause::Answer, answered, (vcpu, at));
        }
        self.enter(vcpu, State::Runs(pcpu), at);
    }

    /// `vcpu` runs: what its domain was asked for before, it begins with now.
    fn begins(&mut self, vcpu: VcpuId, at: u64) {
        let mut begun = Vec::new();
        for (guest, request) in &mut self.requests {
            if request.backend == Some(vcpu.domain) && !request.begun {
                request.begun = true;
                begun.push((*guest, request.posted));
            }
        }
        for from in begun {
            self.arrow(Cause::Request, from, (vcpu, at));
        }
        for from in self.doorbells.remove(&vcpu.domain).unwrap_or_default() {
            self.arrow(Cause::Doorbell, from, (vcpu, at));
        }
    }

    /// A guest's device interrupted it: whoever serves the domain raised that, by its last call.
    fn interrupted(&mut self, vcpu: VcpuId, at: u64) {
        let server = self.servers.get(&vcpu.domain).copied();
        if let Some(raised) = server.and_then(|server| self.raised.remove(&server)) {
            self.arrow(Cause::Interrupt, raised, (vcpu, at));
        }
    }

    fn arrow(&mut self, cause: Cause, from: (VcpuId, u64), to: (VcpuId, u64)) {
        if from.1 <= to.1 {
            self.story.arrows.push(Arrow { cause, from, to });
        }
    }

    /// Ends what is open.
    fn close(&mut self, end: u64) {
        for (vcpu, known) in &self.vcpus {
            let span = Span {
                start: known.since,
                end,
                state: known.state,
            };
            if span.end > span.start {
                self.story.vcpus.entry(*vcpu).or_default().push(span);
            }
        }
        for (pcpu, known) in &self.pcpus {
            let span = Span {
                start: known.since,
                end,
                state: if known.sleeps { None } else { known.loaded },
            };
            if span.end > span.start && (known.sleeps || known.loaded.is_some()) {
                self.story.pcpus.entry(*pcpu).or_default().push(span);
            }
        }
    }
}
