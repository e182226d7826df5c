//! Event channels that exist from the start: Xen's `xen,evtchn-v1` nodes.

use alloc::string::ToString;
use alloc::vec::Vec;

use crate::domain::DomainNode;
use crate::error::{ManifestError, Reason};
use crate::tree::Node;
use portunus_base::ids::{DomainId, EventPort};

/// The highest port that a domain may have (Xen: max_evtchn_port of a dom0less domain).
pub const MAX_PORT: u32 = 1023;

/// One end of a static event channel.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ChannelEnd {
    /// Whose end.
    pub domain: DomainId,
    /// Its port there.
    pub port: EventPort,
}

/// A pair of ports that is connected at boot. As in Xen, the second end's port starts pending.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct StaticChannel {
    /// The end whose node comes first.
    pub first: ChannelEnd,
    /// The other end.
    pub second: ChannelEnd,
}

/// Reads the channels of all domains; each pair once.
pub(crate) fn parse(domains: &[DomainNode<'_, '_>]) -> Result<Vec<StaticChannel>, ManifestError> {
    let mut ends: Vec<(Node<'_, '_>, ChannelEnd, u32)> = Vec::new();
    for domain in domains {
        for node in domain
            .node
            .children()
            .filter(|node| node.is_compatible("xen,evtchn-v1"))
        {
            let cells = node
                .cells("xen,evtchn")?
                .ok_or_else(|| node.error("xen,evtchn", Reason::Missing))?;
            let [port, peer] = *cells.as_slice() else {
                return Err(node.error("xen,evtchn", Reason::Length(cells.len().saturating_mul(4))));
            };
            if port == 0 {
                return Err(node.error("xen,evtchn", Reason::Zero));
            }
            if port > MAX_PORT {
                let reason = Reason::AboveLimit {
                    found: port.into(),
                    limit: MAX_PORT.into(),
                };
                return Err(node.error("xen,evtchn", reason));
            }
            let end = ChannelEnd {
                domain: domain.id,
                port: EventPort(port),
            };
            if ends.iter().any(|(_, other, _)| *other == end) {
                return Err(node.error("xen,evtchn", Reason::Repeated(port.to_string())));
            }
            ends.push((node, end, peer));
        }
    }

    let mut channels = Vec::new();
    for (index, (node, end, peer)) in ends.iter().enumerate() {
        let target = node
            .tree()
            .by_phandle(*peer)
            .ok_or_else(|| node.error("xen,evtchn", Reason::Phandle(*peer)))?;
        let not_mutual = || node.error("xen,evtchn", Reason::NotMutual);
        let other = ends
            .iter()
            .position(|(other, _, _)| other.is(target))
            .ok_or_else(not_mutual)?;
        let (_, other_end, back) = ends.get(other).ok_or_else(not_mutual)?;
        if other == index || !node.tree().by_phandle(*back).is_some_and(|back| back.is(*node)) {
            return Err(not_mutual());
        }
        if index < other {
            channels.push(StaticChannel {
                first: *end,
                second: *other_end,
            });
        }
    }
    Ok(channels)
}
