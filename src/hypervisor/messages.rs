//! What the hypervisor tells the person at the console about running domains.
//!
//! A trap leaves a value here; text is made of it when a pCPU next asks what to run, one message at a time. When
//! messages come faster than that, the newest are counted instead; so are those about one domain's requests that come
//! faster than a person reads.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::abi::sched::ShutdownReason;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::lifecycle::{RestartCause, StaysDown};
use crate::ids::{DomainId, MAX_DOMAINS, PcpuId, Ticks};
use crate::ioreq::{Event, Failure};
use crate::machine::Machine;
use crate::sync::Mutex;

/// Something worth a line.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Message {
    /// A domain stopped.
    Stopped {
        /// Which.
        domain: DomainId,
        /// Why.
        reason: ShutdownReason,
    },
    /// A domain starts again.
    Restarts {
        /// Which.
        domain: DomainId,
        /// Why.
        cause: RestartCause,
    },
    /// A domain started again. What it has then is the same each time.
    UpAgain {
        /// Which.
        domain: DomainId,
        /// How often it did.
        restarts: u32,
        /// Frames of its pool that are in use.
        frames: u32,
        /// References that others hold to them.
        references: u32,
        /// Ports in use.
        channels: u32,
        /// How long it took.
        microseconds: u32,
    },
    /// A domain was to start again and does not.
    StaysDown {
        /// Which.
        domain: DomainId,
        /// Why.
        why: StaysDown,
    },
    /// Something about a domain's requests or servers.
    Request {
        /// The target.
        domain: DomainId,
        /// What.
        event: Event,
    },
    /// There were more messages about a domain's requests than are shown.
    Hidden {
        /// The target.
        domain: DomainId,
        /// How many.
        count: u32,
    },
}

/// Messages that wait to become text.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    queue: Mutex<Queue>,
    /// Something is in the queue: whoever has nothing to print takes no lock.
    any: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: heapless::Deque<Message, 32>,
    lost: u32,
    /// By number of the domain.
    allowances: [Allowance; MAX_DOMAINS + 1],
}

/// How many more messages about one domain's requests are shown: a guest and its backend can cause as many as they like.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
struct Allowance {
    left: u32,
    /// Up to when it has grown.
    grown: Ticks,
    /// Messages that were not shown since the last one that was.
    hidden: u32,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            left: Self::MOST,
            grown: Ticks(0),
            hidden: 0,
        }
    }
}

impl Allowance {
    /// Shown at once.
    const MOST: u32 = 32;
    /// Shown in each second afterwards.
    const EACH_SECOND: u64 = 4;

    /// Asks for one message: how many were hidden before it, or `None` if it is to be hidden too.
    fn take(&mut self, now: Ticks, frequency: u64) -> Option<u32> {
        let interval = (frequency / Self::EACH_SECOND).max(1);
        let intervals = now.0.saturating_sub(self.grown.0) / interval;
        self.grown = Ticks(self.grown.0.saturating_add(intervals.saturating_mul(interval)));
        let grown = u32::try_from(intervals).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(grown).min(Self::MOST);
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(core::mem::take(&mut self.hidden))
            }
            None => {
                self.hidden = self.hidden.saturating_add(1);
                None
            }
        }
    }
}

impl Queue {
    fn push(&mut self, message: Message) {
        if self.waiting.push_back(message).is_err() {
            self.lost = self.lost.saturating_add(1);
        }
    }
}

/// One line of text.
type Line = heapless::String<160>;

struct Name<'a>(&'a str, DomainId);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            write!(f, "domain {}", self.1.0)
        } else {
            f.write_str(self.0)
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Leaves a message.
    pub(crate) fn tell(&self, message: Message) {
        let mut queue = self.messages.queue.lock();
        if let Message::Request { domain, .. } = message
            && let Some(allowance) = queue.allowances.get_mut(usize::from(domain.0))
        {
            match allowance.take(self.machine.now(), self.frequency) {
                None => return,
                Some(0) => {}
                Some(count) => queue.push(Message::Hidden { domain, count }),
            }
        }
        queue.push(message);
        drop(queue);
        if !self.messages.any.swap(true, Ordering::AcqRel) {
            // The boot pCPU makes a line of it, whatever the others do.
            self.on_deadline(PcpuId(0));
            self.machine.kick(PcpuId(0));
        }
    }

    /// Whether a message waits: one load.
    pub(crate) fn has_message(&self) -> bool {
        self.messages.any.load(Ordering::Acquire)
    }

    /// Makes a line of the oldest message, if there is one.
    pub(crate) fn print_message(&self) {
        if !self.has_message() {
            return;
        }
        let mut queue = self.messages.queue.lock();
        let next = queue.waiting.pop_front();
        let lost = if next.is_none() {
            core::mem::take(&mut queue.lost)
        } else {
            0
        };
        self.messages
            .any
            .store(!queue.waiting.is_empty() || queue.lost > 0, Ordering::Release);
        drop(queue);
        let mut line = Line::new();
        // A line that is too long is cut.
        let _ = match next {
            Some(message) => self.write_message(&mut line, message),
            None if lost > 0 => write!(line, "{lost} more messages"),
            None => return,
        };
        let _ = line.push('\n');
        self.console.lock().print(line.as_bytes());
    }

    fn write_message(&self, line: &mut Line, message: Message) -> fmt::Result {
        let name = |id: DomainId| Name(self.domain_name(id).unwrap_or_default(), id);
        match message {
            Message::Stopped { domain, reason } => {
                let name = name(domain);
                match reason {
                    ShutdownReason::Poweroff => write!(line, "{name} powered off"),
                    ShutdownReason::Reboot | ShutdownReason::SoftReset => {
                        write!(line, "{name} asked for a restart and stays down")
                    }
                    ShutdownReason::Crash => write!(line, "{name} crashed"),
                    ShutdownReason::Suspend => write!(line, "{name} suspended itself and stays down"),
                    ShutdownReason::Watchdog => write!(line, "{name} stopped by its watchdog"),
                }
            }
            Message::Restarts { domain, cause } => write!(line, "{} restarts ({})", name(domain), cause.name()),
            Message::UpAgain {
                domain,
                restarts,
                frames,
                references,
                channels,
                microseconds,
            } => write!(
                line,
                "{} is up again (restart {restarts}): {frames} pool frames, {references} references, {channels} channels, \
                 {microseconds} us",
                name(domain)
            ),
            Message::StaysDown { domain, why } => {
                write!(line, "{} stays down: ", name(domain))?;
                let path = |index: usize| {
                    let device = self.domain(domain).and_then(|domain| domain.plan.devices.get(index));
                    device.map_or("", |device| device.path.as_str())
                };
                match why {
                    StaysDown::Limit(limit, cause) => write!(
                        line,
                        "restarted {} times in {} s (last: {})",
                        limit.count,
                        limit.seconds,
                        cause.name()
                    ),
                    StaysDown::Restless(index) => {
                        write!(
                            line,
                            "its device {} writes to memory and has no portunus,quiesce",
                            path(index)
                        )
                    }
                    StaysDown::DeviceBusy(index) => write!(line, "its device {} does not come to rest", path(index)),
                    StaysDown::Map => write!(line, "no room for its map"),
                    StaysDown::Image(error) => write!(line, "{error}"),
                }
            }
            Message::Hidden { domain, count } => {
                write!(line, "{count} more messages about servers of {}", name(domain))
            }
            Message::Request { domain, event } => {
                let name = name(domain);
                match event {
                    Event::Waits { vcpu, ipa } => {
                        write!(line, "{name} vCPU {vcpu} waits for a server of {ipa}")?;
                        match self.backend_of(domain, ipa) {
                            Some(backend) => write!(line, ", which {} is to attach", Name(backend.1, backend.0)),
                            None => Ok(()),
                        }
                    }
                    Event::Failed { server, failure } => {
                        let reason = match failure {
                            Failure::TimeLimit => "did not answer in time",
                            Failure::BadSlot => "wrote nonsense into its page",
                            Failure::Gone => "is gone",
                        };
                        write!(line, "server {} of {name} {reason}", server.0)
                    }
                    Event::Readmitted { server } => write!(line, "server {} of {name} answers again", server.0),
                    Event::Moved { range, from, to } => write!(
                        line,
                        "{:#x} to {:#x} of {name} went from server {} to {}",
                        range.start(),
                        range.end(),
                        from.0,
                        to.0
                    ),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Allowance, Ticks};

    #[test]
    fn messages_come_in_a_burst_and_then_some_a_second_and_none_is_forgotten() {
        const FREQUENCY: u64 = 1000;
        let mut allowance = Allowance::default();
        let (mut shown, mut hidden) = (0, 0);
        // Ten seconds, a message each tick.
        for now in 0..10 * FREQUENCY {
            if let Some(before) = allowance.take(Ticks(now), FREQUENCY) {
                shown += 1;
                hidden += u64::from(before);
            }
        }
        let expected = u64::from(Allowance::MOST) + 10 * Allowance::EACH_SECOND;
        assert!(shown <= expected && shown + 1 >= expected, "{shown} shown");
        assert_eq!(shown + hidden + u64::from(allowance.hidden), 10 * FREQUENCY);
    }

    #[test]
    fn silence_saves_up_one_burst() {
        let mut allowance = Allowance::default();
        let burst = |allowance: &mut Allowance, now| {
            (0..1000).filter(|_| allowance.take(Ticks(now), 1000).is_some()).count() as u32
        };
        assert_eq!(burst(&mut allowance, 1), Allowance::MOST);
        assert_eq!(burst(&mut allowance, u64::MAX), Allowance::MOST);
        assert_eq!(burst(&mut allowance, u64::MAX), 0);
    }
}
