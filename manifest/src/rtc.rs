//! Whose the machine's real-time clock is, and which domains have an emulated one (`portunus,rtc`).

use alloc::string::ToString;

use crate::domain::{DomainConfig, DomainNode};
use crate::error::{ManifestError, Reason};
use crate::host::Host;
use portunus_base::ids::DomainId;
use portunus_base::range::PaRange;

/// The property.
pub(crate) const RTC: &str = "portunus,rtc";

/// The machine's real-time clock.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Rtc {
    /// There is none that Portunus knows.
    #[default]
    Absent,
    /// The hypervisor reads it once, at boot.
    Hypervisor(PaRange),
    /// It is passed through, and nobody else touches it.
    Domain(DomainId),
}

/// Decides both. Without a word in the manifest a domain has a clock if the hypervisor knows what time it is.
///
/// # Errors
/// A value of the property that is none.
pub(crate) fn distribute(
    domains: &mut [DomainConfig],
    nodes: &[DomainNode<'_, '_>],
    host: &Host,
) -> Result<Rtc, ManifestError> {
    let rtc = host.rtc.map_or(Rtc::Absent, |registers| {
        let owns = |domain: &&DomainConfig| {
            let mut mappings = domain.passthrough.devices.iter().flat_map(|device| &device.mappings);
            mappings.any(|mapping| mapping.physical.overlaps(registers))
        };
        let owner = domains.iter().find(owns);
        owner.map_or(Rtc::Hypervisor(registers), |owner| Rtc::Domain(owner.id))
    });
    for (domain, DomainNode { node, .. }) in domains.iter_mut().zip(nodes) {
        domain.rtc = match node.string(RTC)? {
            None => matches!(rtc, Rtc::Hypervisor(_)),
            Some("enabled") => true,
            Some("disabled") => false,
            Some(other) => return Err(node.error(RTC, Reason::UnknownText(other.to_string()))),
        };
    }
    Ok(rtc)
}
