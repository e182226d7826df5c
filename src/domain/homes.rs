//! Which pCPU each vCPU of a domain lives on.
//!
//! A kernel looks once at what kind of CPU it runs on, and works around that kind's errata on it. So a domain stays among
//! CPUs of one kind unless its affinity says otherwise: on a machine of two clusters it is in one of them.

use alloc::vec::Vec;

use crate::ids::PcpuId;
use crate::manifest::affinity::PcpuSet;

/// The pCPUs of a domain's vCPUs: each the least loaded one that it may run on, the lowest of these. A vCPU with an affinity
/// may run on those in it; one without, on those of the kind of the domain's others: that of the first pCPU that its
/// manifest names, else of the one that its first vCPU got. `midrs` are MIDR_EL1 of the pCPUs, which tells kinds and their
/// revisions, `loads` how many vCPUs each has.
///
/// `None`: a vCPU may run nowhere.
pub fn choose(affinities: &[Option<PcpuSet>], midrs: &[u64], loads: &[usize]) -> Option<Vec<PcpuId>> {
    let named = affinities.iter().flatten().find_map(|set| set.iter().next());
    let mut kind = named.and_then(|pcpu| midrs.get(usize::from(pcpu.0))).copied();
    let mut loads = loads.to_vec();
    let mut homes = Vec::with_capacity(affinities.len());
    for affinity in affinities {
        let pcpus = (0..).map(PcpuId).zip(midrs).zip(&mut loads);
        let allowed = pcpus.filter(|((pcpu, midr), _)| match affinity {
            Some(set) => set.contains(*pcpu),
            None => kind.is_none_or(|kind| kind == **midr),
        });
        let ((pcpu, midr), load) = allowed.min_by_key(|(_, load)| **load)?;
        *load += 1;
        kind.get_or_insert(*midr);
        homes.push(pcpu);
    }
    Some(homes)
}
