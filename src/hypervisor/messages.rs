//! What the hypervisor tells the person at the console about running domains.
//!
//! A trap leaves a value here; text is made of it when a pCPU next asks what to run, one message at a time. When
//! messages come faster than that, the newest are counted instead.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::abi::sched::ShutdownReason;
use crate::hypervisor::Hypervisor;
use crate::ids::DomainId;
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
    /// Something about a domain's requests or servers.
    Request {
        /// The target.
        domain: DomainId,
        /// What.
        event: Event,
    },
    /// Input goes to another domain.
    Focus(DomainId),
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
        if queue.waiting.push_back(message).is_err() {
            queue.lost = queue.lost.saturating_add(1);
        }
        self.messages.any.store(true, Ordering::Release);
    }

    /// Makes a line of the oldest message; whether there was one.
    pub(crate) fn print_message(&self) -> bool {
        if !self.messages.any.load(Ordering::Acquire) {
            return false;
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
            None => return false,
        };
        let _ = line.push('\n');
        self.console.lock().print(line.as_bytes());
        true
    }

    fn write_message(&self, line: &mut Line, message: Message) -> fmt::Result {
        let name = |id: DomainId| Name(self.domain_name(id).unwrap_or_default(), id);
        match message {
            Message::Stopped { domain, reason } => {
                let name = name(domain);
                match reason {
                    ShutdownReason::Poweroff => write!(line, "{name} powered off"),
                    ShutdownReason::Reboot | ShutdownReason::SoftReset => {
                        write!(line, "{name} asked for a restart and stays down: restart is not built")
                    }
                    ShutdownReason::Crash => write!(line, "{name} crashed"),
                    ShutdownReason::Suspend => write!(line, "{name} suspended itself and stays down"),
                    ShutdownReason::Watchdog => write!(line, "{name} stopped by its watchdog"),
                }
            }
            Message::Focus(domain) => write!(line, "input goes to {}", name(domain)),
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
