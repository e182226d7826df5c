//! What the boot device tree says: the machine ([`host`]), the domains to build on it, and the tree that each of them sees.
//!
//! Everything is read once, at boot, into owned values. The first thing that is wrong stops the boot with the node's path,
//! the property and the reason; no blob, however malformed, makes anything here panic or loop. `docs/manifest.md` lists
//! every property.
//!
//! A crate of its own because all of it runs once, while the machine boots, or on a PC: it is built for size.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod affinity;
pub mod control;
pub mod devices;
pub mod discovery;
pub mod domain;
pub mod error;
pub mod events;
pub mod guest_tree;
pub mod host;
pub mod layout;
pub mod lifecycle;
pub mod modules;
pub mod notice;
pub mod passthrough;
pub mod rtc;
pub mod shared_memory;
pub mod tree;

mod validate;

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use portunus_base::ids::{DomainId, MAX_DOMAINS};

pub use devices::{DeviceConfig, MemoryAccess};
pub use domain::DomainConfig;
pub use error::{ManifestError, Reason};
pub use events::StaticChannel;
pub use guest_tree::GuestTree;
pub use host::Host;
pub use layout::Layout;
pub use modules::{Module, ModuleReader, NoModules};
pub use notice::Notice;
pub use shared_memory::SharedMemory;
pub use tree::Tree;

use domain::DomainNode;
use notice::Notices;
use rtc::Rtc;

/// The number of the first domain that a manifest describes; 0 would be Xen's dom0.
const FIRST_DOMAIN: u16 = 1;

/// The domains that the boot device tree asks for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Manifest {
    /// The domains by number, from 1.
    pub domains: Vec<DomainConfig>,
    /// Event channels that exist from the start.
    pub channels: Vec<StaticChannel>,
    /// Memory that domains share from the start.
    pub shared_memory: Vec<SharedMemory>,
    /// The machine's real-time clock, if it is the hypervisor's to read.
    pub rtc: Rtc,
    /// Domains' names on the console are coloured.
    pub colour: bool,
    /// Lines for the boot console: what was read and has no effect.
    pub notices: Vec<Notice>,
}

impl Manifest {
    /// Reads the domains under `/chosen` for the machine `host`, which the same tree describes.
    ///
    /// `modules` reads what the boot loader placed in memory.
    ///
    /// # Errors
    ///
    /// The first node or property that is malformed, that asks for what the machine can't give, or that Portunus does not
    /// have and must not ignore.
    pub fn parse(tree: &Tree<'_>, host: &Host, modules: &dyn ModuleReader) -> Result<Self, ManifestError> {
        let mut notices = Notices::default();
        let Some(chosen) = tree.find("/chosen") else {
            return Ok(Self::default());
        };
        validate::chosen(chosen, &mut notices)?;

        let mut nodes: Vec<DomainNode<'_, '_>> = Vec::new();
        for node in chosen.children().filter(|node| node.is_compatible("xen,domain")) {
            if nodes.len() >= MAX_DOMAINS {
                let found = nodes.len() as u64 + 1;
                return Err(node.error(
                    "",
                    Reason::AboveLimit {
                        found,
                        limit: MAX_DOMAINS as u64,
                    },
                ));
            }
            let name = node.name().split('@').next().unwrap_or_default();
            if nodes.iter().any(|other| other.name == name) {
                return Err(node.error("", Reason::Repeated(name.to_string())));
            }
            nodes.push(DomainNode {
                node,
                id: DomainId(FIRST_DOMAIN + nodes.len() as u16),
                name,
            });
        }

        let mut domains = Vec::new();
        for node in &nodes {
            domains.push(domain::parse(node, host, modules, &mut notices)?);
        }
        for (index, node) in nodes.iter().enumerate() {
            let devices = devices::parse(node, &nodes, &domains, &mut notices)?;
            let controls = control::parse(node, &nodes)?;
            if let Some(domain) = domains.get_mut(index) {
                domain.devices = devices;
                domain.controls = controls;
            }
        }
        grow_pools(&mut domains, &nodes);
        let rtc = rtc::distribute(&mut domains, &nodes, host)?;
        for (index, node) in nodes.iter().enumerate() {
            let serves = domains
                .iter()
                .flat_map(|domain| &domain.devices)
                .any(|device| device.backend == node.id);
            if let Some(domain) = domains.get_mut(index) {
                // Who serves maps by hypercalls, and a driver that grants finds its hypervisor by that node.
                domain.hypervisor_node |= serves || domain.has_access(MemoryAccess::Grants);
                layout::place(domain, node.node, host)?;
            }
        }
        let channels = events::parse(&nodes)?;
        let shared_memory = shared_memory::join(&domains)?;
        let manifest = Self {
            domains,
            channels,
            shared_memory,
            rtc,
            colour: chosen.has(validate::COLOUR),
            notices: notices.into_lines(),
        };
        validate::across_domains(&manifest, host)?;
        Ok(manifest)
    }

    /// The domain of this number.
    pub fn domain(&self, id: DomainId) -> Option<&DomainConfig> {
        self.domains.iter().find(|domain| domain.id == id)
    }

    /// The name of a domain by number, for messages; empty: there is none.
    pub fn name_of(&self, id: DomainId) -> String {
        name_of(&self.domains, id)
    }

    /// The devices that `backend` serves, each with the guest that sees it; in the order of the manifest.
    pub fn served_by(&self, backend: DomainId) -> impl Iterator<Item = (&DomainConfig, &DeviceConfig)> {
        self.domains
            .iter()
            .flat_map(|guest| guest.devices.iter().map(move |device| (guest, device)))
            .filter(move |(_, device)| device.backend == backend)
    }

    /// Domains that are trusted like EL2, because they own a device that can reach all memory: for the boot banner.
    pub fn dma_trusted(&self) -> impl Iterator<Item = &DomainConfig> {
        self.domains.iter().filter(|domain| domain.dma_trusted)
    }
}

/// A backend that may map a guest's memory needs tables for it, and so does who shares memory, unless the manifest says how
/// much it gets. Mappings of grants are as many as the guest's pages, at the most that makes sense.
fn grow_pools(domains: &mut [DomainConfig], nodes: &[DomainNode<'_, '_>]) {
    let mapped: Vec<(DomainId, DomainId, u64)> = domains
        .iter()
        .flat_map(|guest| guest.devices.iter().map(move |device| (guest, device)))
        .filter_map(|(guest, device)| {
            let bytes = match device.memory_access {
                MemoryAccess::All | MemoryAccess::Grants => guest.memory,
                MemoryAccess::Window => device.window?.size,
                MemoryAccess::None => return None,
            };
            Some((device.backend, guest.id, bytes))
        })
        .collect();
    for (domain, node) in domains.iter_mut().zip(nodes) {
        if node.node.has(domain::PAGE_TABLE_POOL) {
            continue;
        }
        let mut guests: Vec<(DomainId, u64)> = Vec::new();
        for (backend, guest, memory) in &mapped {
            if *backend != domain.id {
                continue;
            }
            match guests.iter_mut().find(|(other, _)| other == guest) {
                Some((_, most)) => *most = (*most).max(*memory),
                None => guests.push((*guest, *memory)),
            }
        }
        let shared = domain.shared_memory.iter().map(|region| region.guest.size);
        for memory in guests.iter().map(|(_, memory)| *memory).chain(shared) {
            domain.page_table_pool += domain::tables_to_map(memory);
        }
    }
}

/// The name of a domain by number, for messages.
fn name_of(domains: &[DomainConfig], id: DomainId) -> String {
    domains
        .iter()
        .find(|domain| domain.id == id)
        .map_or_else(String::new, |domain| domain.name.clone())
}
