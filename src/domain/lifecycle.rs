//! How far a domain's end and its new start have come. [`crate::hypervisor`] does the work, a step at a time.

use super::limit::RestartTimes;
use crate::grant::Handle;
use crate::ids::{DomainSet, Ipa, Ticks};
use crate::stage2::TableCursor;

/// What ends and starts a domain.
#[derive(Debug, Default)]
pub struct Lifecycle {
    /// What is to be done next.
    pub(crate) stage: Stage,
    /// When it began.
    pub(crate) since: Ticks,
    /// When it started again lately.
    pub(crate) restarts: RestartTimes,
}

/// What is to be done next; the order is that of the variants.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Stage {
    /// Nobody waits for an answer any more, and nobody for its servers.
    #[default]
    Requests,
    /// Devices that others serve come to rest, one after the other. `suspects` may still use its memory.
    Served {
        device: usize,
        /// The server's runnable time when it was first asked.
        since: Option<Ticks>,
        suspects: DomainSet,
    },
    /// What `suspects` have mapped of it is taken from them.
    Revoked { suspects: DomainSet, at: Ipa },
    /// Its own devices come to rest.
    Own {
        device: usize,
        transport: u64,
        /// When the transport was asked to.
        since: Option<Ticks>,
    },
    /// Its event channels are closed.
    Channels,
    /// Its map is taken apart: others get their references back.
    Unmapped { at: Ipa },
    /// What it had of others' grants is given back, by handle.
    Handles { handle: Handle },
    /// Its grant table is as before its first instruction.
    Grants,
    /// Its tables go back to its pool.
    Tables { cursor: TableCursor },
    /// Its RAM is all in its own hands again.
    Frames { counter: u64 },
    /// What its dead servers had of their targets, one after the other, is free.
    Servers { target: u16 },
    /// Its map is as before its first instruction.
    Mapped { region: usize, done: u64 },
    /// So are its interrupts, channels and console.
    State,
    /// If it is to start again, what others still have mapped of its grants is taken from them, and its memory begins to be
    /// made.
    Granted { holders: DomainSet, at: Ipa },
    /// It is being made.
    Image,
    /// All is done.
    Done,
}
