//! What the boot loader placed in memory, for who reads the manifest.

use alloc::vec::Vec;

use crate::manifest::ModuleReader;
use crate::memory::PhysicalMemory;
use crate::range::PaRange;

/// Modules in the memory of this machine.
#[derive(Copy, Clone, Debug)]
pub struct PhysicalModules<'m, M>(pub &'m M);

impl<M: PhysicalMemory> ModuleReader for PhysicalModules<'_, M> {
    fn read(&self, range: PaRange) -> Option<Vec<u8>> {
        let mut bytes = alloc::vec![0; usize::try_from(range.size).ok()?];
        self.0.read(range.start, &mut bytes);
        Some(bytes)
    }
}
