//! The life of one request, as a state machine of values.
//!
//! ```text
//!            Start                Posted                     Answered
//!   Idle ----------> Waiting ---------------> InFlight ---------------------> Finished --Taken--> Idle
//!                     ^   |  <---------------   |  Failed, policy wait            ^
//!                     |   |                     |                                 |
//!                     |   +-- AttachLimit, LateAnswer, Refused (not wait) --------+
//!                     |                         +-- Failed, policy ones or abort -+
//!                     +-- Refused, policy wait
//! ```
//!
//! Every other move is an [`IllegalMove`]; nothing changes then.

use crate::access::MmioAccess;
use crate::ids::{ServerId, Ticks};
use crate::manifest::devices::OnFailure;

/// How long a guest waits for a device, and what then.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Policy {
    /// Time that the backend may use for one request; `None`: no limit (manifest: `timeout-ms`).
    pub timeout: Option<Ticks>,
    /// Time to wait for a server; `None`: for ever (manifest: `attach-timeout-ms`).
    pub attach_timeout: Option<Ticks>,
    /// What then.
    pub on_failure: OnFailure,
}

impl Policy {
    /// No limits.
    pub const NONE: Self = Self {
        timeout: None,
        attach_timeout: None,
        on_failure: OnFailure::Wait,
    };
}

/// How an access ends.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// A read gives this value, masked to the access' width; a write is done.
    Value(u64),
    /// The guest takes an external abort.
    Abort,
}

/// An access on its way: the hypervisor's own copy.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Pending {
    /// What the guest wants.
    pub access: MmioAccess,
    /// The device's rules.
    pub policy: Policy,
}

impl Pending {
    #[inline]
    pub(super) fn answered(&self, data: u64) -> Request {
        Request::Finished {
            answer: Answer::Value(data & self.access.width.mask()),
        }
    }

    fn ones(&self) -> Request {
        self.answered(u64::MAX)
    }

    /// The answer when nobody serves; `None` under [`OnFailure::Wait`]. Of an announcement no other server can take charge.
    fn given_up(&self) -> Option<Request> {
        if self.is_announcement() {
            return Some(self.ones());
        }
        match self.policy.on_failure {
            OnFailure::Wait => None,
            OnFailure::Ones => Some(self.ones()),
            OnFailure::Abort => Some(Request::Finished { answer: Answer::Abort }),
        }
    }
}

/// Where a vCPU's request is.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Request {
    /// There is none.
    #[default]
    Idle,
    /// No server takes it.
    Waiting {
        /// The request.
        pending: Pending,
        /// Since when.
        since: Ticks,
        /// A server that was too slow, but whose answer still counts.
        late: Option<ServerId>,
    },
    /// A server has it.
    InFlight {
        /// The request.
        pending: Pending,
        /// Who.
        server: ServerId,
        /// The server's runnable time when it got it.
        posted: Ticks,
        /// Notifications in succession with nonsense in the slot.
        strikes: u8,
    },
    /// The vCPU can go on.
    Finished {
        /// With this.
        answer: Answer,
    },
}

/// What happens to a request.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Move {
    /// The guest made the access.
    Start {
        /// The access.
        pending: Pending,
        /// The time.
        now: Ticks,
    },
    /// A server got it.
    Posted {
        /// Who.
        server: ServerId,
        /// Its runnable time.
        runnable: Ticks,
    },
    /// The server that should get it has a bad slot.
    Refused,
    /// The slot says that the server works on it.
    Working,
    /// The slot holds nonsense: the second time in succession it counts as [`Self::Failed`] with a late answer allowed.
    Nonsense {
        /// The time.
        now: Ticks,
    },
    /// The slot holds the answer.
    Answered {
        /// Unmasked.
        data: u64,
    },
    /// The server is gone, or its time is over.
    Failed {
        /// The time.
        now: Ticks,
        /// Whether its answer still counts if it comes.
        late: bool,
    },
    /// A server that was too slow answered after all.
    LateAnswer {
        /// Who.
        server: ServerId,
        /// Unmasked.
        data: u64,
    },
    /// A server that was too slow is gone for good.
    LateGone {
        /// Who.
        server: ServerId,
    },
    /// Nobody came in time.
    AttachLimit,
    /// The vCPU took the answer.
    Taken,
    /// The guest stops; legal in every state.
    Cancel,
}

impl Move {
    /// The move's name, for messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Posted { .. } => "posted",
            Self::Refused => "refused",
            Self::Working => "working",
            Self::Nonsense { .. } => "nonsense",
            Self::Answered { .. } => "answered",
            Self::Failed { .. } => "failed",
            Self::LateAnswer { .. } => "late answer",
            Self::LateGone { .. } => "late server gone",
            Self::AttachLimit => "attach limit",
            Self::Taken => "taken",
            Self::Cancel => "cancel",
        }
    }
}

/// A move that the state does not have; the state is unchanged.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a request that is {state} has no move {cause}")]
pub struct IllegalMove {
    /// [`Request::name`] of the state.
    pub state: &'static str,
    /// [`Move::name`] of the move.
    pub cause: &'static str,
}

/// Notifications in succession with a bad slot that make a server fail.
pub const STRIKES: u8 = 2;

impl Request {
    /// The state after `cause`.
    ///
    /// # Errors
    /// [`IllegalMove`] when the state does not have that move.
    pub fn after(mut self, cause: Move) -> Result<Self, IllegalMove> {
        let illegal = IllegalMove {
            state: self.name(),
            cause: cause.name(),
        };
        if self.advance(&cause) { Ok(self) } else { Err(illegal) }
    }

    /// Goes to the state after `cause`, in place; `false`: the state does not have that move, and nothing changed.
    #[must_use]
    pub(super) fn advance(&mut self, cause: &Move) -> bool {
        match (&mut *self, cause) {
            (_, Move::Cancel) | (Self::Finished { .. }, Move::Taken) => *self = Self::Idle,
            (Self::Idle, Move::Start { pending, now }) => {
                *self = Self::Waiting {
                    pending: *pending,
                    since: *now,
                    late: None,
                };
            }
            (Self::Waiting { pending, .. }, Move::Posted { server, runnable }) => {
                *self = Self::InFlight {
                    pending: *pending,
                    server: *server,
                    posted: *runnable,
                    strikes: 0,
                };
            }
            (Self::InFlight { pending, .. }, Move::Answered { data }) => *self = pending.answered(*data),
            (Self::InFlight { strikes, .. }, Move::Working) => *strikes = 0,
            (Self::InFlight { strikes, .. }, Move::Nonsense { now }) => {
                *strikes = strikes.saturating_add(1);
                if *strikes >= STRIKES {
                    return self.advance(&Move::Failed { now: *now, late: true });
                }
            }
            (Self::InFlight { pending, server, .. }, Move::Failed { now, late }) => {
                let waiting = Self::Waiting {
                    pending: *pending,
                    since: *now,
                    late: late.then_some(*server),
                };
                *self = pending.given_up().unwrap_or(waiting);
            }
            (Self::Waiting { pending, .. }, Move::Refused) => {
                if let Some(after) = pending.given_up() {
                    *self = after;
                }
            }
            (Self::Waiting { pending, .. }, Move::AttachLimit) => {
                *self = pending.given_up().unwrap_or(pending.ones());
            }
            (
                Self::Waiting {
                    pending,
                    late: Some(late),
                    ..
                },
                Move::LateAnswer { server, data },
            ) if late == server => *self = pending.answered(*data),
            (Self::Waiting { late, .. }, Move::LateGone { server }) if *late == Some(*server) => *late = None,
            _ => return false,
        }
        true
    }

    /// The state's name, for messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting { .. } => "waiting",
            Self::InFlight { .. } => "in flight",
            Self::Finished { .. } => "finished",
        }
    }

    /// Whether the vCPU must not run its guest.
    pub fn holds_vcpu(&self) -> bool {
        matches!(self, Self::Waiting { .. } | Self::InFlight { .. })
    }
}
