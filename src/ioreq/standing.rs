//! What a target's servers are to its shadow pages, and what these are to the servers' other attachments.

use super::Servers;
use super::ack::Ack;
use super::ranges::Range;
use super::server::Stage;
use super::shadow::{Holder, MAX_ACKS};
use crate::abi::HypercallError;
use crate::ids::{DomainId, Ipa, PAGE_SIZE, ServerId};

/// What a server is to a page that it has attached.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It gets requests for it.
    Serving,
    /// It does not, by its own wish.
    Disabled,
    /// It closed a port, or there is no such server any more.
    Gone,
    /// It was too slow, or wrong, and need not know yet.
    Failed,
    /// The page is not in its ranges any more.
    Elsewhere,
}

/// A page that a server has attached: who asks for other attachments looks here.
#[derive(Clone, Debug)]
pub(super) struct Shadowed {
    page: u64,
    /// Registers that acknowledge.
    acks: heapless::Vec<u64, MAX_ACKS>,
}

impl Shadowed {
    fn range(&self) -> Option<Range> {
        Range::from_length(self.page, PAGE_SIZE)
    }
}

impl Servers {
    /// What `holder` is to `page`.
    pub fn standing(&self, holder: &Holder, page: Range) -> Standing {
        let server = self.server(holder.server);
        let server = server.filter(|server| server.owner() == holder.domain && server.serial == holder.serial);
        let has_page = self.memory.find(page) == Some(holder.server);
        match server.map(|server| server.stage) {
            Some(Stage::Suspended) => Standing::Failed,
            Some(Stage::Tombstone) if self.suspects.contains(holder.domain) => Standing::Failed,
            None | Some(Stage::Closing | Stage::Tombstone) => Standing::Gone,
            Some(_) if !has_page => Standing::Elsewhere,
            Some(Stage::Disabled) => Standing::Disabled,
            Some(Stage::Enabled) => Standing::Serving,
        }
    }

    /// Whether some server gets requests for all of `page`.
    pub fn is_served(&self, page: Range) -> bool {
        let server = self.memory.find(page).and_then(|id| self.server(id));
        server.is_some_and(|server| server.stage == Stage::Enabled)
    }

    /// Whether a server may attach the shadow page `page`. `permitted`: the manifest lets the caller serve it.
    ///
    /// # Errors
    /// ENOENT: no such server, only its id is left, or it does not have all of the page; EPERM: another domain's, or not
    /// permitted; EINVAL: it has attached something there that the guest may read back.
    pub fn may_shadow(
        &self,
        caller: DomainId,
        id: ServerId,
        page: Range,
        permitted: bool,
    ) -> Result<Holder, HypercallError> {
        self.attachable(caller, id, page, permitted)?;
        if self.some_readable(page) {
            return Err(HypercallError::Invalid);
        }
        let serial = self.server(id).ok_or(HypercallError::NoEntry)?.serial;
        Ok(Holder {
            domain: caller,
            server: id,
            serial,
        })
    }

    /// Whether `register` may acknowledge.
    ///
    /// # Errors
    /// EEXIST: it is a doorbell.
    pub fn may_acknowledge(&self, register: Ipa) -> Result<(), HypercallError> {
        match Range::from_length(register.0, Ack::BYTES) {
            Some(range) if !self.has_doorbell(range) => Ok(()),
            _ => Err(HypercallError::Exists),
        }
    }

    /// Other attachments are to heed that `page` is shown, and that its registers `acks` acknowledge.
    pub fn set_shadowed(&mut self, page: u64, acks: impl Iterator<Item = u64>) {
        self.clear_shadowed(page);
        if self.shadowed.len() < self.shadowed.capacity() {
            let acks = acks.take(MAX_ACKS).collect();
            self.shadowed.push(Shadowed { page, acks });
        }
    }

    /// `page` is shown to nobody any more.
    pub fn clear_shadowed(&mut self, page: u64) {
        self.shadowed.retain(|shadowed| shadowed.page != page);
    }

    /// Whether some of `range` is on a page that the guest is shown.
    pub(super) fn shows(&self, range: Range) -> bool {
        let mut pages = self.shadowed.iter().filter_map(Shadowed::range);
        pages.any(|page| page.overlaps(range))
    }

    /// Whether some of `range` is an acknowledgement register.
    pub(super) fn acknowledges(&self, range: Range) -> bool {
        let mut registers = self.shadowed.iter().flat_map(|shadowed| &shadowed.acks);
        registers
            .any(|register| Range::from_length(*register, Ack::BYTES).is_some_and(|register| register.overlaps(range)))
    }
}
