//! From the manifest to domains in memory: what the machine's device tree says under `/chosen`, built into RAM that nobody
//! else has.

use crate::machine::Arm64;
use crate::sysreg::field;
use crate::{cache, controls, layout, mmu, random, smp};
use aarch64_paging::MapError;
use portunus::domain::builder::{self, Built, BuiltDomain, CpuLimits};
use portunus::domain::modules::PhysicalModules;
use portunus::entropy::{self, Entropy};
use portunus::ids::DomainId;
use portunus::manifest::guest_tree::GuestTree;
use portunus::manifest::host::Host;
use portunus::manifest::tree::Tree;
use portunus::manifest::{Manifest, ManifestError};
use portunus::memory::frames::FrameError;
use portunus::memory::uncached::Caching;
use portunus::range::PaRange;
use portunus::stage2;
use portunus::trap::system_register::identification::RawIdRegisters;
use thiserror::Error;

/// Why nothing can run.
#[derive(Clone, Debug, Error)]
pub(crate) enum PlanError {
    /// The manifest is malformed, or asks for what the machine can't give.
    #[error("manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// No RAM for the hypervisor's own tables.
    #[error("memory: {0}")]
    Memory(#[from] FrameError),
}

/// All domains, as the manifest describes them and as they are in memory.
pub(crate) struct Plan {
    pub(crate) manifest: Manifest,
    pub(crate) built: Built,
}

/// Reads the manifest out of `blob`, the machine's device tree, and builds every domain that can be built. The boot
/// modules stay, for restarts.
///
/// # Errors
/// What makes the whole manifest void; a domain's own failure is in the plan.
pub(crate) fn build(blob: &[u8], host: &Host, pcpus: &[RawIdRegisters]) -> Result<Plan, PlanError> {
    let tree = Tree::new(blob)?;
    let manifest = Manifest::parse(&tree, host, &PhysicalModules(&Arm64))?;
    let random = random::bytes();
    let sources = entropy::of_firmware(&tree).into_iter().chain([random.as_slice()]);
    let entropy = Entropy::gather(sources);
    let seeds = entropy.is_some();
    let built = builder::build(&Arm64, host, &manifest, limits(pcpus), entropy, |domain, placement| {
        GuestTree {
            manifest: &manifest,
            domain: domain.id,
            memory: placement.memory,
            ramdisk: placement.ramdisk,
            timer_frequency: host.timer.frequency,
            seeds,
        }
        .build()
    })?;
    Ok(Plan { manifest, built })
}

/// What of the RAM is the hypervisor's: the Image and `blob`, the machine's device tree.
pub(crate) fn own(blob: &[u8]) -> [PaRange; 2] {
    let image = layout::image();
    let start = blob.as_ptr() as usize;
    [range(image.start, image.end), range(start, start + blob.len())]
}

impl Plan {
    /// Tells what was built, what was not and why, and what the manifest says that has no effect.
    pub(crate) fn report(&self) {
        if self.built.entropy.is_none() {
            log::warn!("no seed in the device tree and no FEAT_RNG: guests get no seeds");
        }
        for notice in &self.manifest.notices {
            log::warn!("{notice}");
        }
        for (id, error) in &self.built.failed {
            log::error!("domain {} is not started: {}", self.name(*id), error);
        }
        for domain in &self.built.domains {
            log::info!(
                "domain {} ({}): {} vCPUs, {} MiB",
                domain.id.0,
                self.name(domain.id),
                self.manifest.domain(domain.id).map_or(0, |config| config.vcpu_count()),
                domain.ram.size() >> 20,
            );
        }
        for domain in self.manifest.dma_trusted() {
            log::info!(
                "domain {} is trusted like EL2: its devices reach all memory",
                domain.name
            );
        }
        for domain in self.built.domains.iter().filter(|domain| self.is_out_of_reach(domain)) {
            log::warn!(
                "domain {} has RAM above 4 GiB: devices of it that have 32 address bits don't reach that",
                self.name(domain.id)
            );
        }
    }

    /// Registers through which the hypervisor brings devices to rest.
    pub(crate) fn devices_to_quiesce(&self) -> impl Iterator<Item = PaRange> {
        let domains = self.manifest.domains.iter();
        let devices = domains.flat_map(|domain| &domain.passthrough.devices);
        devices
            .filter(|device| device.quiesce.is_some())
            .flat_map(|device| device.mappings.iter().map(|mapping| mapping.physical))
    }

    /// Its devices reach memory by themselves, and some of that is above 4 GiB.
    fn is_out_of_reach(&self, domain: &BuiltDomain) -> bool {
        self.manifest.domain(domain.id).is_some_and(|config| config.dma_trusted)
            && domain.ram.pieces().iter().any(|piece| piece.pa.end() > 1 << 32)
    }

    fn name(&self, id: DomainId) -> &str {
        self.manifest.domain(id).map_or("?", |config| config.name.as_str())
    }
}

fn range(start: usize, end: usize) -> PaRange {
    PaRange::new(start as u64, (end - start) as u64)
}

/// The least that all pCPUs translate (ID_AA64MMFR0_EL1.PARange, ID_AA64MMFR1_EL1.VMIDBits).
fn limits(pcpus: &[RawIdRegisters]) -> CpuLimits {
    let bits = pcpus
        .iter()
        .map(|pcpu| stage2::physical_bits(field(pcpu.space[6][0], 0) as u8));
    CpuLimits {
        physical_bits: bits.min().unwrap_or(32),
        vmid_16_bits: pcpus.iter().all(|pcpu| field(pcpu.space[6][1], 4) == 2),
        caching: caching(pcpus),
    }
}

/// How frames of the uncached pool are mapped (ID_AA64MMFR2_EL1.FWB).
fn caching(pcpus: &[RawIdRegisters]) -> Caching {
    Caching::of(pcpus.iter().all(|pcpu| field(pcpu.space[6][2], 40) != 0))
}

impl Plan {
    /// All pCPUs map the uncached pool as guests and backends will. The other pCPUs are set up and wait.
    ///
    /// # Errors
    /// As `mmu::withdraw`.
    pub(crate) fn share(&self, pcpus: &[RawIdRegisters]) -> Result<(), MapError> {
        let pool = self.built.uncached;
        match caching(pcpus) {
            Caching::ForcedWriteBack => controls::force_write_back(),
            Caching::NonCacheable if pool.is_empty() => {}
            Caching::NonCacheable => {
                mmu::withdraw(pool)?;
                smp::renew_tables();
                // What was brought into caches through the old tables, by speculation too, must not hit any more.
                cache::clean_invalidate(pool.start.0 as usize, pool.size as usize);
            }
        }
        Ok(())
    }
}
