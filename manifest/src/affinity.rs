//! Which pCPUs a vCPU may run on: Xen's `xen,vcpu` subnodes.

use alloc::string::ToString;
use alloc::vec::Vec;

use crate::error::{ManifestError, Reason};
use crate::host::Host;
use crate::tree::Node;
use portunus_base::ids::{MAX_PCPUS, PcpuId};

/// A set of pCPUs.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct PcpuSet(pub u8);

impl PcpuSet {
    /// Whether `pcpu` is in the set.
    pub const fn contains(self, pcpu: PcpuId) -> bool {
        (pcpu.0 as usize) < MAX_PCPUS && self.0 & 1 << pcpu.0 != 0
    }
    /// The pCPUs in the set, lowest first.
    pub fn iter(self) -> impl Iterator<Item = PcpuId> {
        (0..MAX_PCPUS as u8)
            .map(PcpuId)
            .filter(move |pcpu| self.contains(*pcpu))
    }
}

/// The hard affinity of each of `vcpus` vCPUs; `None` where the manifest leaves the choice to the scheduler.
pub(crate) fn parse(domain: Node<'_, '_>, vcpus: u8, host: &Host) -> Result<Vec<Option<PcpuSet>>, ManifestError> {
    let mut seen = Vec::new();
    let mut affinities = alloc::vec![None; usize::from(vcpus)];
    for node in domain.children().filter(|node| node.is_compatible("xen,vcpu")) {
        let id = node.u32("id")?.ok_or_else(|| node.error("id", Reason::Missing))?;
        let limit = u64::from(vcpus).saturating_sub(1);
        let above = || {
            node.error(
                "id",
                Reason::AboveLimit {
                    found: id.into(),
                    limit,
                },
            )
        };
        let slot = affinities.get_mut(id as usize).ok_or_else(above)?;
        if seen.contains(&id) {
            return Err(node.error("id", Reason::Repeated(id.to_string())));
        }
        seen.push(id);
        if let Some(list) = node.string("hard-affinity")? {
            *slot = Some(set(node, list, host)?);
        }
    }
    Ok(affinities)
}

/// Reads `0-3,5`: places in the machine's `/cpus`. Of CPUs that did not start, one at least must be left.
fn set(node: Node<'_, '_>, list: &str, host: &Host) -> Result<PcpuSet, ManifestError> {
    let cpus = host.cpus.get(..MAX_PCPUS).unwrap_or(&host.cpus);
    let unknown = || node.error("hard-affinity", Reason::UnknownText(list.to_string()));
    let mut set = 0;
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: u64 = first.trim().parse().map_err(|_| unknown())?;
        let last: u64 = last.trim().parse().map_err(|_| unknown())?;
        let limit = (cpus.len() as u64).saturating_sub(1);
        if last > limit {
            return Err(node.error("hard-affinity", Reason::AboveLimit { found: last, limit }));
        }
        if first > last {
            return Err(unknown());
        }
        let named = cpus.get(first as usize..=last as usize).unwrap_or_default();
        let running = named.iter().filter_map(|cpu| cpu.pcpu);
        set |= running.fold(0, |set, pcpu| set | 1 << pcpu.0);
    }
    if set == 0 {
        return Err(node.error("hard-affinity", Reason::NoCpu(list.to_string())));
    }
    Ok(PcpuSet(set))
}
