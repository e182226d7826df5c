//! From a manifest to domains in memory, ready for their first instruction.
//!
//! Guarantees: a domain's RAM holds nothing of anybody else; all that the hypervisor wrote into it has reached the point
//! of coherency before the domain runs; a domain whose image is bad or that does not fit is left out with the reason, and
//! the others are built.

use alloc::string::String;
use alloc::vec::Vec;

use crate::domain::blueprint::{Blueprint, Draft, Fresh, ImagingError, Placed};
use crate::domain::image::{ImageError, LoadedImage};
use crate::domain::placement::Placer;
use crate::domain::ram::{GuestRam, OutsideRam, Piece};
use crate::domain::shared::SharedFrames;
use crate::entropy::Entropy;
use crate::ids::{DomainId, Ipa, PAGE_SIZE, Pa, Vmid};
use crate::machine::Machine;
use crate::manifest::domain::DomainConfig;
use crate::manifest::guest_tree::fresh::FreshValues;
use crate::manifest::host::{Gic, Host};
use crate::manifest::layout::VirtualGic;
use crate::manifest::{Manifest, ManifestError};
use crate::memory::frames::{FrameAllocator, FrameError, Zone};
use crate::memory::pool::Pool;
use crate::memory::references::{FrameReferences, ReferenceError};
use crate::memory::uncached::{Caching, FRAMES_PER_DEVICE, frames_of};
use crate::range::{IpaRange, PaRange};
use crate::sorting::sort_by_key;
use crate::stage2::{Geometry, GeometryError, PageUse, Stage2, Stage2Error};

/// The largest device tree: kernels map 2 MiB for it before they know more (Linux, booting.rst).
const MAX_TREE: u64 = 2 << 20;
/// Concatenated root tables are at most this big, and aligned to their size.
const POOL_ALIGNMENT: u64 = 64 << 10;
/// What every pCPU can do.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct CpuLimits {
    /// Bits of physical address (see [`crate::stage2::physical_bits`]); the least of all pCPUs.
    pub physical_bits: u8,
    /// Whether all pCPUs have 16-bit VMIDs (ID_AA64MMFR1_EL1.VMIDBits).
    pub vmid_16_bits: bool,
    /// How frames of the uncached pool are mapped.
    pub caching: Caching,
}

/// Why a domain was not built.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BuildError {
    /// There is no RAM for it.
    #[error("its memory: {0}")]
    Memory(FrameError),
    /// There is no RAM for its page tables.
    #[error("its page-table pool: {0}")]
    Pool(FrameError),
    /// There is no RAM for memory that it shares.
    #[error("its shared memory {0}: {1}")]
    SharedMemory(String, FrameError),
    /// Its guest-physical map is larger than the pCPUs translate.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// Its guest-physical map could not be made.
    #[error("its guest-physical map: {0}")]
    Stage2(#[from] Stage2Error),
    /// It has no kernel.
    #[error("it has no kernel")]
    NoKernel,
    /// Its kernel is none.
    #[error("its kernel: {0}")]
    Kernel(ImageError),
    /// Its RAM has no room for its ramdisk of this size.
    #[error("no room for its ramdisk of {0:#x} bytes")]
    Ramdisk(u64),
    /// Its RAM has no room for its device tree of this size, or no kernel could map one.
    #[error("no room for its device tree of {0:#x} bytes")]
    DeviceTree(u64),
    /// There is no RAM to keep its device tree for restarts.
    #[error("a copy of its device tree: {0}")]
    TreeCopy(FrameError),
    /// Its device tree has room for seeds, and there are none.
    #[error("no seeds for its device tree")]
    NoSeeds,
    /// Its device tree could not be made.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Its frames could not be accounted for.
    #[error(transparent)]
    References(#[from] ReferenceError),
    /// Something was placed outside its RAM.
    #[error(transparent)]
    Outside(#[from] OutsideRam),
}

impl From<ImagingError> for BuildError {
    fn from(error: ImagingError) -> Self {
        match error {
            ImagingError::Kernel(error) => Self::Kernel(error),
            ImagingError::Outside(outside) => Self::Outside(outside),
            ImagingError::NoSeeds => Self::NoSeeds,
        }
    }
}

/// What a domain's device tree is made from besides the manifest.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Placement<'a> {
    /// RAM of each domain of the manifest, in the manifest's order: a backend's tree speaks of its guests. Empty for a
    /// domain that gets none.
    pub memory: &'a [Vec<IpaRange>],
    /// The ramdisk of this one.
    pub ramdisk: Option<IpaRange>,
}

/// A domain in memory. It starts at `kernel.entry` with x0 = `device_tree.start`.
#[derive(Debug)]
pub struct BuiltDomain {
    /// Which.
    pub id: DomainId,
    /// Its translations.
    pub stage2: Stage2,
    /// Its frames for tables and shared pages.
    pub pool: Pool,
    /// Its RAM.
    pub ram: GuestRam,
    /// Its kernel.
    pub kernel: LoadedImage,
    /// Its ramdisk.
    pub ramdisk: Option<IpaRange>,
    /// Its device tree.
    pub device_tree: IpaRange,
    /// How its memory is made anew.
    pub blueprint: Blueprint,
    /// Frames of the uncached pool, for each of its devices that are served with them, in the manifest's order.
    pub uncached: Vec<[Pa; 2]>,
}

/// All that was built.
#[derive(Debug)]
pub struct Built {
    /// The domains, by number.
    pub domains: Vec<BuiltDomain>,
    /// Those that were not, and why.
    pub failed: Vec<(DomainId, BuildError)>,
    /// Who owns which frame.
    pub references: FrameReferences,
    /// RAM that nobody has.
    pub frames: FrameAllocator,
    /// The uncached pool, zeroed and clean: whoever maps memory for the hypervisor maps it as
    /// [`crate::memory::uncached::hypervisor_regions`] says before any domain runs.
    pub uncached: PaRange,
    /// Where seeds come from.
    pub entropy: Option<Entropy>,
}

/// Builds every domain of `manifest`. What is reserved on the host, the hypervisor's own memory included, and the
/// modules are left alone: no domain is given any of it, since domains are made from the modules again at each restart.
/// `tree` makes a domain's device tree, a flattened one; its seeds come from `entropy`.
///
/// # Errors
/// [`FrameError`] when there is no RAM for the uncached pool or the account of frames; a domain's own failure is in
/// [`Built::failed`].
pub fn build<M: Machine>(
    machine: &M,
    host: &Host,
    manifest: &Manifest,
    limits: CpuLimits,
    mut entropy: Option<Entropy>,
    mut tree: impl FnMut(&DomainConfig, &Placement<'_>) -> Result<Vec<u8>, ManifestError>,
) -> Result<Built, FrameError> {
    let mut frames = FrameAllocator::new(&host.memory, &host.reserved);
    for range in modules(manifest) {
        frames.reserve(range);
    }
    let mut shared = SharedFrames::at_given_places(&mut frames, manifest);
    // Those who want a certain place come first, then those who want one piece.
    let mut order: Vec<&DomainConfig> = manifest.domains.iter().collect();
    sort_by_key(&mut order, |domain| {
        (domain.static_memory.is_empty(), !domain.direct_map, domain.id)
    });
    let mut allocated: Vec<(&DomainConfig, Result<Frames, BuildError>)> = order
        .into_iter()
        .map(|domain| (domain, allocate(&mut frames, domain)))
        .collect();
    sort_by_key(&mut allocated, |(domain, _)| domain.id);
    shared.add_others(&mut frames, manifest);
    shared.clear(machine);

    let uncached = set_aside(machine, &mut frames, manifest)?;
    let given = allocated.iter().filter_map(|(_, result)| result.as_ref().ok());
    let bytes: u64 = given.map(|given| given.ram.size() + given.pool.size).sum::<u64>() + uncached.size;
    let table = match FrameReferences::table_size(bytes / PAGE_SIZE) {
        0 => PaRange::default(),
        size => frames.allocate(size)?,
    };
    let mut references = FrameReferences::new(machine, table);

    let memory: Vec<Vec<IpaRange>> = manifest
        .domains
        .iter()
        .map(|domain| {
            let given = allocated.iter().find(|(config, _)| config.id == domain.id);
            given
                .and_then(|(_, given)| given.as_ref().ok())
                .map_or_else(Vec::new, |given| given.ram.banks())
        })
        .collect();

    let mut domains = Vec::new();
    let mut failed = Vec::new();
    let mut devices = 0;
    for (config, given) in allocated {
        let first = devices;
        devices += accelerated(config);
        let result = given.and_then(|given| {
            let ranges: Vec<PaRange> = given.ranges().collect();
            let builder = Builder {
                machine,
                host,
                limits,
                config,
                memory: &memory,
                shared: &shared,
            };
            let fresh = Fresh {
                restarts: 0,
                seeds: entropy.as_mut().map(Entropy::seeds),
            };
            let built = builder.build(given, &mut frames, fresh, &mut tree).inspect_err(|_| {
                // Nothing maps what a failed domain had.
                ranges.iter().for_each(|range| frames.add(*range));
            });
            built.map(|mut domain| {
                domain.uncached = (first..devices)
                    .filter_map(|index| frames_of(uncached, index))
                    .collect();
                domain
            })
        });
        match result {
            Ok(domain) => domains.push(domain),
            Err(error) => failed.push((config.id, error)),
        }
    }
    for domain in &domains {
        let mut ram = domain.ram.pieces().iter().map(|piece| piece.pa);
        let shared = domain
            .uncached
            .iter()
            .flatten()
            .map(|frame| PaRange::new(frame.0, PAGE_SIZE));
        let mut others = [domain.pool.range()].into_iter().chain(shared);
        let added = ram.try_for_each(|range| references.add_ram(range, domain.id));
        let added = added.and_then(|()| others.try_for_each(|range| references.add(range, domain.id)));
        if let Err(error) = added {
            failed.push((domain.id, error.into()));
        }
    }
    domains.retain(|domain| failed.iter().all(|(id, _)| *id != domain.id));
    Ok(Built {
        domains,
        failed,
        references,
        frames,
        uncached,
        entropy,
    })
}

/// How many devices of a domain have frames of the uncached pool.
fn accelerated(config: &DomainConfig) -> u64 {
    config.devices.iter().filter(|device| device.accel).count() as u64
}

/// Takes the uncached pool out of the free memory.
fn set_aside<M: Machine>(machine: &M, frames: &mut FrameAllocator, manifest: &Manifest) -> Result<PaRange, FrameError> {
    let devices: u64 = manifest.domains.iter().map(accelerated).sum();
    if devices == 0 {
        return Ok(PaRange::default());
    }
    let pool = frames.allocate(devices.saturating_mul(FRAMES_PER_DEVICE * PAGE_SIZE))?;
    machine.zero(pool.start, pool.size);
    machine.clean_to_coherency(pool.start, pool.size);
    Ok(pool)
}

/// The boot modules of all domains.
fn modules(manifest: &Manifest) -> impl Iterator<Item = PaRange> {
    manifest.domains.iter().flat_map(|domain| {
        let modules = &domain.modules;
        [modules.kernel, modules.ramdisk, modules.device_tree]
            .into_iter()
            .flatten()
            .map(|module| module.range)
    })
}

/// The frames that a domain is given.
struct Frames {
    ram: GuestRam,
    pool: PaRange,
}

impl Frames {
    fn ranges(&self) -> impl Iterator<Item = PaRange> {
        self.ram.pieces().iter().map(|piece| piece.pa).chain([self.pool])
    }
}

/// Takes a domain's frames; on failure none of them stays taken.
fn allocate(frames: &mut FrameAllocator, config: &DomainConfig) -> Result<Frames, BuildError> {
    let mut attempt = frames.clone();
    let ram = allocate_ram(&mut attempt, config).map_err(BuildError::Memory)?;
    let size = config.page_table_pool;
    let pool = attempt
        .allocate_aligned(size, POOL_ALIGNMENT)
        .or_else(|_| attempt.allocate(size))
        .map_err(BuildError::Pool)?;
    *frames = attempt;
    Ok(Frames { ram, pool })
}

fn allocate_ram(frames: &mut FrameAllocator, config: &DomainConfig) -> Result<GuestRam, FrameError> {
    let ranges = if !config.static_memory.is_empty() {
        config.static_memory.iter().try_for_each(|range| frames.carve(*range))?;
        config.static_memory.clone()
    } else if config.direct_map {
        // Its own devices write where it says: those with 32 address bits too.
        alloc::vec![frames.allocate_in(Zone::Low, config.memory)?]
    } else {
        frames.allocate_pieces(config.memory)?
    };
    if config.direct_map {
        return Ok(GuestRam::new(
            ranges
                .iter()
                .map(|pa| Piece {
                    ipa: Ipa(pa.start.0),
                    pa: *pa,
                })
                .collect(),
        ));
    }
    Ok(GuestRam::new(fill_banks(&config.layout.memory, &ranges)))
}

/// Lays `ranges` one after the other into `banks`, which have the same size together.
fn fill_banks(banks: &[IpaRange], ranges: &[PaRange]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut banks = banks.iter().copied();
    let mut bank = banks.next();
    for range in ranges {
        let mut left = *range;
        while let Some(room) = bank
            && !left.is_empty()
        {
            let size = left.size.min(room.size);
            pieces.push(Piece {
                ipa: room.start,
                pa: PaRange::new(left.start.0, size),
            });
            left = PaRange::new(left.start.0 + size, left.size - size);
            let rest = IpaRange::new(room.start.0 + size, room.size - size);
            bank = if rest.is_empty() { banks.next() } else { Some(rest) };
        }
    }
    pieces
}

struct Builder<'a, M> {
    machine: &'a M,
    host: &'a Host,
    limits: CpuLimits,
    config: &'a DomainConfig,
    memory: &'a [Vec<IpaRange>],
    shared: &'a SharedFrames,
}

impl<M: Machine> Builder<'_, M> {
    fn build(
        &self,
        Frames { ram, pool }: Frames,
        frames: &mut FrameAllocator,
        fresh: Fresh,
        mut tree: impl FnMut(&DomainConfig, &Placement<'_>) -> Result<Vec<u8>, ManifestError>,
    ) -> Result<BuiltDomain, BuildError> {
        let mut pool = Pool::new(pool);
        let stage2 = self.map(&mut pool, &ram)?;
        let module = self.config.modules.kernel.ok_or(BuildError::NoKernel)?;
        let mut draft = Draft::new(ram.clone(), module.range);
        let kernel = draft.load(self.machine).map_err(BuildError::Kernel)?;
        let mut placer = Placer::new(ram.banks(), kernel.extent);
        for window in self.config.windows() {
            if window.overlaps(kernel.extent) {
                return Err(BuildError::Kernel(ImageError::DoesNotFit(kernel.extent)));
            }
            placer.keep_out(window);
        }

        let ramdisk = match self.config.modules.ramdisk {
            None => None,
            Some(module) => {
                let size = module.range.size;
                let to = placer.place(size, PAGE_SIZE).ok_or(BuildError::Ramdisk(size))?;
                Some(Placed { from: module.range, to })
            }
        };
        let bytes = tree(
            self.config,
            &Placement {
                memory: self.memory,
                ramdisk: ramdisk.map(|ramdisk| ramdisk.to),
            },
        )?;
        let size = bytes.len() as u64;
        // At a multiple of its size it crosses no boundary of 2 MiB, which old kernels could not map.
        let alignment = size.next_power_of_two().max(PAGE_SIZE);
        let place = if size <= MAX_TREE {
            placer.place(size, alignment)
        } else {
            None
        };
        let to = place.ok_or(BuildError::DeviceTree(size))?;

        let kept = frames.allocate(size).map_err(BuildError::TreeCopy)?;
        self.machine.write(kept.start, &bytes);
        let device_tree = Placed {
            from: PaRange::new(kept.start.0, size),
            to,
        };
        let blueprint = Blueprint::new(draft, kernel, ramdisk, device_tree, FreshValues::find(&bytes), fresh);
        let imaged = blueprint.and_then(|mut blueprint| blueprint.finish(self.machine).map(|_| blueprint));
        let blueprint = imaged.inspect_err(|_| frames.add(kept))?;
        Ok(BuiltDomain {
            id: self.config.id,
            stage2,
            pool,
            ram,
            kernel,
            ramdisk: ramdisk.map(|ramdisk| ramdisk.to),
            device_tree: to,
            blueprint,
            uncached: Vec::new(),
        })
    }

    /// RAM, the machine's devices that are its own, memory that it shares, and the virtual CPU interface of a GICv2.
    fn map(&self, pool: &mut Pool, ram: &GuestRam) -> Result<Stage2, BuildError> {
        let limits = self.limits;
        let geometry = Geometry::new(self.map_end(ram), limits.physical_bits, limits.vmid_16_bits)?;
        let geometry = geometry.with_caching(limits.caching);
        let mut stage2 = Stage2::new(self.machine, pool, geometry, Vmid(self.config.id.0))?;
        for piece in ram.pieces() {
            stage2.map(
                self.machine,
                pool,
                (piece.ipa, piece.pa.start),
                piece.pa.size,
                PageUse::Ram,
            )?;
        }
        for mapping in self.config.passthrough.mappings() {
            let (guest, physical) = (mapping.guest, mapping.physical);
            // Devices of one domain may share a page.
            let already = stage2.lookup(self.machine, guest);
            let same = already.is_some_and(|found| found.pa == physical.start && found.page_use == PageUse::Device);
            if !same {
                stage2.map(
                    self.machine,
                    pool,
                    (guest, physical.start),
                    physical.size,
                    PageUse::Device,
                )?;
            }
        }
        for region in &self.config.shared_memory {
            let frames = self.shared.find(&region.id)?;
            let places = (region.guest.start, frames.start);
            stage2.map(self.machine, pool, places, frames.size, PageUse::Common)?;
        }
        if let (Gic::V2(gic), VirtualGic::V2 { cpu_interface, .. }) = (&self.host.gic, self.config.layout.gic) {
            for page in 0..cpu_interface.size / PAGE_SIZE {
                let to = gic.virtual_page(page);
                let at = Ipa(cpu_interface.start.0 + page * PAGE_SIZE);
                stage2.map(self.machine, pool, (at, to), PAGE_SIZE, PageUse::Device)?;
            }
        }
        Ok(stage2)
    }

    /// One past the highest address that the domain's map has.
    fn map_end(&self, ram: &GuestRam) -> u64 {
        let ram = ram.banks().into_iter().map(IpaRange::end);
        let devices = self.config.devices.iter().map(|device| device.range.end());
        let owned = self
            .config
            .passthrough
            .mappings()
            .map(|mapping| mapping.guest_range().end());
        let shared = self.config.shared_memory.iter().map(|region| region.guest.end());
        ram.chain(devices)
            .chain(owned)
            .chain(shared)
            .fold(self.config.layout.end(), u64::max)
    }
}
