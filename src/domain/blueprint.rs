//! All that is needed to make a domain's memory: at boot and at each restart, by the same code.
//!
//! Guarantees: imaging goes by steps of bounded length and allocates nothing; a domain that was imaged again differs from
//! the first time in its seeds and in the count of its restarts alone; modules that are no longer what they were give an
//! error, and nothing is written outside the domain's RAM.

use core::fmt;

use crate::domain::image::{ImageError, LoadedImage, Loader};
use crate::domain::imaging::{Budget, Sweep, Synchronisation, Transfer};
use crate::domain::ram::{GuestRam, OutsideRam};
use crate::entropy::Seeds;
use crate::ids::Ipa;
use crate::manifest::guest_tree::fresh::FreshValues;
use crate::memory::PhysicalMemory;
use crate::range::{IpaRange, PaRange};

/// Why a domain's memory could not be made.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ImagingError {
    /// Its kernel.
    #[error("its kernel: {0}")]
    Kernel(#[from] ImageError),
    /// Something was placed outside its RAM.
    #[error(transparent)]
    Outside(#[from] OutsideRam),
    /// Its device tree has room for seeds, and there are none: zeroes would pass for random numbers.
    #[error("no seeds for its device tree")]
    NoSeeds,
}

/// What is different each time.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Fresh {
    /// How often the domain was restarted since power-on.
    pub restarts: u32,
    /// Its seeds, unless the machine has no random numbers.
    pub seeds: Option<Seeds>,
}

/// How far a step came.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// There is more to do.
    More,
    /// All is in memory and visible to a guest that runs with its caches off.
    Done(Start),
}

/// How a domain starts: at `entry`, with the address of its device tree in x0.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Start {
    /// The first instruction.
    pub entry: Ipa,
    /// The device tree.
    pub device_tree: Ipa,
}

/// A file in memory of the hypervisor, and where the guest gets it.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Placed {
    /// The file.
    pub from: PaRange,
    /// Its place, of the same size.
    pub to: IpaRange,
}

/// A domain's first image, while it is not known yet what else goes where.
#[derive(Debug)]
pub(super) struct Draft {
    ram: GuestRam,
    loader: Loader,
}

impl Draft {
    pub(super) const fn new(ram: GuestRam, kernel: PaRange) -> Self {
        Self {
            ram,
            loader: Loader::new(kernel),
        }
    }

    /// Sets RAM to zero and loads the kernel, which says where it goes.
    pub(super) fn load(&mut self, memory: &impl PhysicalMemory) -> Result<LoadedImage, ImageError> {
        let mut sweep = Sweep::default();
        while !sweep.zero(memory, &self.ram, &mut Budget::unlimited()) {}
        loop {
            if let Some(kernel) = self.loader.step(memory, &self.ram, &mut Budget::unlimited())? {
                return Ok(kernel);
            }
        }
    }
}

/// How a domain's memory is made. Keeps the place of everything, and the modules that it is made from.
pub struct Blueprint {
    ram: GuestRam,
    loader: Loader,
    kernel: LoadedImage,
    ramdisk: Option<Placed>,
    device_tree: Placed,
    values: FreshValues,
    fresh: Fresh,
    phase: Phase,
}

impl fmt::Debug for Blueprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blueprint")
            .field("kernel", &self.kernel)
            .field("ramdisk", &self.ramdisk)
            .field("device_tree", &self.device_tree)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

/// What comes next. The order is that of the variants.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Phase {
    Zero(Sweep),
    Kernel,
    Ramdisk(Option<Transfer>),
    DeviceTree(Transfer),
    Clean(Sweep),
    Synchronise(Synchronisation),
    Done,
}

impl Blueprint {
    /// A draft whose kernel is loaded becomes a blueprint that goes on from there.
    ///
    /// # Errors
    /// [`ImagingError::Outside`] when the places are no RAM of the domain.
    pub(super) fn new(
        draft: Draft,
        kernel: LoadedImage,
        ramdisk: Option<Placed>,
        device_tree: Placed,
        values: FreshValues,
        fresh: Fresh,
    ) -> Result<Self, ImagingError> {
        let Draft { ram, loader } = draft;
        let mut blueprint = Self {
            ram,
            loader,
            kernel,
            ramdisk,
            device_tree,
            values,
            fresh: Fresh::default(),
            phase: Phase::Done,
        };
        blueprint.set_fresh(fresh)?;
        blueprint.phase = blueprint.after_kernel()?;
        Ok(blueprint)
    }

    /// How the domain starts.
    pub const fn start(&self) -> Start {
        Start {
            entry: self.kernel.entry,
            device_tree: self.device_tree.to.start,
        }
    }

    /// Begins to make the domain's memory anew, from the first byte: nobody else may touch it any more. What was begun
    /// before and not finished is given up.
    ///
    /// # Errors
    /// [`ImagingError::NoSeeds`]: nothing was begun.
    pub fn begin(&mut self, fresh: Fresh) -> Result<(), ImagingError> {
        self.set_fresh(fresh)?;
        self.loader.begin();
        self.phase = Phase::Zero(Sweep::default());
        Ok(())
    }

    /// Goes on as far as `budget` allows.
    ///
    /// # Errors
    /// [`ImagingError`]: the domain can't be started. [`Self::begin`] may be tried again.
    pub fn step(&mut self, memory: &impl PhysicalMemory, mut budget: Budget) -> Result<Step, ImagingError> {
        let budget = &mut budget;
        loop {
            let ram = &self.ram;
            let next = match &mut self.phase {
                Phase::Zero(sweep) => sweep.zero(memory, ram, budget).then_some(Phase::Kernel),
                Phase::Kernel => match self.loader.step(memory, ram, budget)? {
                    None => None,
                    Some(kernel) if kernel == self.kernel => Some(self.after_kernel()?),
                    Some(_) => return Err(ImageError::Changed.into()),
                },
                Phase::Ramdisk(None) => Some(Phase::DeviceTree(transfer(ram, self.device_tree)?)),
                Phase::Ramdisk(Some(ramdisk)) => ramdisk.step(memory, ram, budget)?.then_some(Phase::Ramdisk(None)),
                Phase::DeviceTree(tree) => match tree.step(memory, ram, budget)? {
                    false => None,
                    true => {
                        self.freshen(memory)?;
                        Some(Phase::Clean(Sweep::default()))
                    }
                },
                Phase::Clean(sweep) => {
                    let done = sweep.clean(memory, ram, budget);
                    done.then_some(Phase::Synchronise(Synchronisation::default()))
                }
                Phase::Synchronise(work) => {
                    let done = work.step(memory, ram, self.kernel.extent, budget)?;
                    done.then_some(Phase::Done)
                }
                Phase::Done => return Ok(Step::Done(self.start())),
            };
            match next {
                Some(next) => self.phase = next,
                None => return Ok(Step::More),
            }
        }
    }

    /// Runs all steps, one after the other.
    pub(super) fn finish(&mut self, memory: &impl PhysicalMemory) -> Result<Start, ImagingError> {
        loop {
            if let Step::Done(start) = self.step(memory, Budget::unlimited())? {
                return Ok(start);
            }
        }
    }

    fn set_fresh(&mut self, fresh: Fresh) -> Result<(), ImagingError> {
        if self.values.has_seeds() && fresh.seeds.is_none() {
            return Err(ImagingError::NoSeeds);
        }
        self.fresh = fresh;
        Ok(())
    }

    fn after_kernel(&self) -> Result<Phase, ImagingError> {
        let ramdisk = self.ramdisk.map(|ramdisk| transfer(&self.ram, ramdisk));
        Ok(Phase::Ramdisk(ramdisk.transpose()?))
    }

    /// Writes what is different each time into the guest's device tree. The seeds are then the guest's alone.
    fn freshen(&mut self, memory: &impl PhysicalMemory) -> Result<(), ImagingError> {
        let fresh = core::mem::take(&mut self.fresh);
        let tree = self.device_tree.to.start.0;
        let write = |offset: Option<u32>, bytes: &[u8]| match offset {
            Some(offset) => self.ram.write(memory, Ipa(tree + u64::from(offset)), bytes),
            None => Ok(()),
        };
        write(self.values.restarts, &fresh.restarts.to_be_bytes())?;
        if let Some(seeds) = &fresh.seeds {
            write(self.values.kaslr_seed, &seeds.kaslr.to_be_bytes())?;
            write(self.values.rng_seed, &seeds.rng)?;
        }
        Ok(())
    }
}

fn transfer(ram: &GuestRam, file: Placed) -> Result<Transfer, OutsideRam> {
    Transfer::new(ram, file.from, file.to.start)
}
