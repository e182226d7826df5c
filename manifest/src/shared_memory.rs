//! Memory that domains share from the start: Xen's `xen,domain-shared-memory-v1` nodes.
//!
//! A region is RAM that is no domain's own: whoever names its id has it in its map, at an address of its own, and nobody
//! else has. Guarantee: all nodes of an id agree on the region, and regions do not overlap.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::DomainConfig;
use crate::error::{ManifestError, Reason};
use crate::host::Host;
use crate::tree::Node;
use portunus_base::ids::{DomainId, PAGE_SIZE, Pa};
use portunus_base::range::{IpaRange, PaRange};

/// What a node of a region says it is.
pub(crate) const COMPATIBLE: &str = "xen,domain-shared-memory-v1";
/// Bytes of an id with its NUL (Xen: MAX_SHM_ID_LENGTH).
const ID_LENGTH: usize = 16;
/// Regions of one domain at most (Xen: NR_SHMEM_BANKS).
const MAX_REGIONS: usize = 32;

const ID: &str = "xen,shm-id";
const PLACE: &str = "xen,shared-mem";
const ROLE: &str = "role";

/// Properties of a region's node.
const KNOWN: [&str; 6] = ["compatible", ID, PLACE, ROLE, "phandle", "linux,phandle"];

/// A region in one domain's map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SharedRegion {
    /// Path of its node.
    pub path: String,
    /// What all domains call it.
    pub id: String,
    /// Where this domain sees it.
    pub guest: IpaRange,
    /// Where the manifest wants it; `None`: in any RAM.
    pub host: Option<Pa>,
    /// This one is said to own it, which gives no more than the others have.
    pub owner: bool,
}

impl SharedRegion {
    /// Where the manifest wants it.
    pub fn host_range(&self) -> Option<PaRange> {
        self.host.map(|start| PaRange::new(start.0, self.guest.size))
    }

    fn error(&self, property: &str, reason: Reason) -> ManifestError {
        ManifestError::new(&self.path, property, reason)
    }
}

/// A region, once for all who have it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SharedMemory {
    /// What all domains call it.
    pub id: String,
    /// Bytes, whole pages.
    pub size: u64,
    /// Where it is to be; `None`: in any RAM.
    pub host: Option<PaRange>,
    /// Who has it, and where each sees it.
    pub users: Vec<(DomainId, IpaRange)>,
}

/// Reads the regions of a domain.
pub(crate) fn parse(domain: Node<'_, '_>, host: &Host, direct_map: bool) -> Result<Vec<SharedRegion>, ManifestError> {
    let mut regions: Vec<SharedRegion> = Vec::new();
    for node in domain.children() {
        if !node.is_compatible(COMPATIBLE) {
            if node.has(PLACE) {
                return Err(node.error("compatible", Reason::Unsupported("xen,shared-mem in another node")));
            }
            continue;
        }
        if regions.len() >= MAX_REGIONS {
            let reason = Reason::AboveLimit {
                found: regions.len() as u64 + 1,
                limit: MAX_REGIONS as u64,
            };
            return Err(node.error("", reason));
        }
        let region = region(domain, node, host, direct_map)?;
        if regions.iter().any(|other| other.id == region.id) {
            return Err(node.error(ID, Reason::Repeated(region.id)));
        }
        regions.push(region);
    }
    Ok(regions)
}

fn region(
    domain: Node<'_, '_>,
    node: Node<'_, '_>,
    host: &Host,
    direct_map: bool,
) -> Result<SharedRegion, ManifestError> {
    let unknown = |name: &String| !KNOWN.contains(&name.as_str());
    if let Some((name, _)) = node.properties().find(|(name, _)| unknown(name)) {
        return Err(node.error(&name, Reason::Unsupported("an unknown property")));
    }
    let id = node.string(ID)?.ok_or_else(|| node.error(ID, Reason::Missing))?;
    if id.is_empty() || id.len() >= ID_LENGTH {
        return Err(node.error(ID, Reason::Length(id.len() + 1)));
    }
    let owner = match node.string(ROLE)? {
        Some("owner") => true,
        None | Some("borrower") => false,
        Some(other) => return Err(node.error(ROLE, Reason::UnknownText(other.to_string()))),
    };
    let (found, guest) = place(domain, node)?;
    for value in [guest.start.0, guest.size, found.map_or(0, |start| start.0)] {
        if !value.is_multiple_of(PAGE_SIZE) {
            let reason = Reason::Misaligned {
                value,
                alignment: PAGE_SIZE,
            };
            return Err(node.error(PLACE, reason));
        }
    }
    if guest.is_empty() {
        return Err(node.error(PLACE, Reason::Zero));
    }
    if !guest.fits() {
        let range = PaRange::new(guest.start.0, guest.size);
        return Err(node.error(PLACE, Reason::Overflow(range)));
    }
    match found {
        Some(start) => {
            let range = PaRange::new(start.0, guest.size);
            if !range.fits() {
                return Err(node.error(PLACE, Reason::Overflow(range)));
            }
            if !host.is_memory(range) {
                return Err(node.error(PLACE, Reason::NotMemory(range)));
            }
            if direct_map && start.0 != guest.start.0 {
                let reason = Reason::NotDirect {
                    found: guest.start.0,
                    needed: start.0,
                };
                return Err(node.error(PLACE, reason));
            }
        }
        None if direct_map => {
            let why = "direct-map without the machine's address of shared memory";
            return Err(node.error(PLACE, Reason::Unsupported(why)));
        }
        None => {
            let all = host
                .memory
                .iter()
                .fold(0_u64, |sum, bank| sum.saturating_add(bank.size));
            if guest.size > all {
                let reason = Reason::AboveLimit {
                    found: guest.size,
                    limit: all,
                };
                return Err(node.error(PLACE, reason));
            }
        }
    }
    Ok(SharedRegion {
        path: node.path(),
        id: id.to_string(),
        guest,
        host: found,
        owner,
    })
}

/// `xen,shared-mem`: the machine's address, which may be left out, the guest's, and the size, in the domain's cells.
fn place(domain: Node<'_, '_>, node: Node<'_, '_>) -> Result<(Option<Pa>, IpaRange), ManifestError> {
    let (address, size) = (domain.address_cells(), domain.size_cells());
    let cells = node.cells(PLACE)?.ok_or_else(|| node.error(PLACE, Reason::Missing))?;
    let short = u64::from(address) + u64::from(size);
    let long = short + u64::from(address);
    let found = cells.len() as u64;
    if found == short && short != long {
        let rows = node.rows(PLACE, [address, size])?;
        if let [[guest, size]] = *rows.as_slice() {
            return Ok((None, IpaRange::new(guest, size)));
        }
    } else if found == long {
        let rows = node.rows(PLACE, [address, address, size])?;
        if let [[host, guest, size]] = *rows.as_slice() {
            return Ok((Some(Pa(host)), IpaRange::new(guest, size)));
        }
    }
    Err(node.error(PLACE, Reason::Length(cells.len().saturating_mul(4))))
}

/// The regions of all domains, in the order in which they are named first.
pub(crate) fn join(domains: &[DomainConfig]) -> Result<Vec<SharedMemory>, ManifestError> {
    let mut joined: Vec<SharedMemory> = Vec::new();
    let mut owners: Vec<&str> = Vec::new();
    for domain in domains {
        for region in &domain.shared_memory {
            if region.owner {
                if owners.contains(&region.id.as_str()) {
                    return Err(region.error(ROLE, Reason::Repeated(alloc::format!("the owner of {}", region.id))));
                }
                owners.push(&region.id);
            }
            match joined.iter_mut().find(|other| other.id == region.id) {
                Some(known) if known.size != region.guest.size || known.host != region.host_range() => {
                    return Err(region.error(PLACE, Reason::OtherRegion(region.id.clone())));
                }
                Some(known) => known.users.push((domain.id, region.guest)),
                None => joined.push(SharedMemory {
                    id: region.id.clone(),
                    size: region.guest.size,
                    host: region.host_range(),
                    users: alloc::vec![(domain.id, region.guest)],
                }),
            }
        }
    }
    Ok(joined)
}
