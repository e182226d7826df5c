//! What a person is shown of a target's servers beside what is counted.

use super::server::{Servers, Stage};
use crate::ids::{DomainId, ServerId, VcpuSet};

/// One server.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ServerLook {
    /// Its number.
    pub id: ServerId,
    /// Who serves.
    pub owner: DomainId,
    /// Whether it gets requests.
    pub stage: Stage,
    /// vCPUs of the target whose ports it has bound.
    pub bound: VcpuSet,
    /// vCPUs of the target whose slots hold a request that nobody waits for any more.
    pub stale: VcpuSet,
}

impl Stage {
    /// The stage in a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Enabled => "enabled",
            Self::Suspended => "suspended",
            Self::Closing => "closing",
            Self::Tombstone => "gone",
        }
    }
}

impl Servers {
    /// The first server from `from` on.
    pub fn look(&self, from: ServerId) -> Option<ServerLook> {
        let (index, server) = self
            .slots
            .iter()
            .enumerate()
            .skip(usize::from(from.0))
            .find_map(|(index, server)| Some((index, server.as_ref()?)))?;
        Some(ServerLook {
            id: ServerId(index as u16),
            owner: server.owner,
            stage: server.stage,
            bound: server.bound,
            stale: server.stale,
        })
    }

    /// Who serves, by the server's number.
    pub fn owner_of(&self, id: ServerId) -> Option<DomainId> {
        self.server(id).map(|server| server.owner)
    }
}
