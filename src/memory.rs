//! Physical memory that guests share with the hypervisor, as the core may touch it.
//!
//! The core never forms a reference to memory that a guest can write: it copies in, decides, copies out. Every
//! shared word is reached through [`PhysicalMemory`], whose test implementation can be a scripted adversary.

pub mod atomic;
pub mod frames;
pub mod pool;
pub mod references;
pub mod uncached;

use crate::ids::Pa;

/// Access to frames that the hypervisor maps: guest RAM, shared pages, page tables, boot modules.
///
/// Callers pass addresses that they got from the frame allocator or from a stage-2 walk, never a number out of a
/// guest. Accesses do not cross the end of the region that the address is in. Words are naturally aligned.
pub trait PhysicalMemory: Sync {
    /// Copies `into.len()` bytes out of physical memory.
    fn read(&self, at: Pa, into: &mut [u8]);
    /// Copies `from` into physical memory.
    fn write(&self, at: Pa, from: &[u8]);
    /// Copies `length` bytes within physical memory; where the two ranges overlap, what arrives is some of both.
    fn copy(&self, from: Pa, to: Pa, length: u64) {
        let mut buffer = [0; 64];
        let mut done = 0;
        while done < length {
            let count = (length - done).min(buffer.len() as u64);
            if let Some(piece) = buffer.get_mut(..count as usize) {
                self.read(Pa(from.0 + done), piece);
                self.write(Pa(to.0 + done), piece);
            }
            done += count;
        }
    }
    /// Sets `length` bytes to zero.
    fn zero(&self, at: Pa, length: u64);

    /// One load with acquire order.
    fn load_u8(&self, at: Pa) -> u8;
    /// One load with acquire order.
    fn load_u32(&self, at: Pa) -> u32;
    /// One load with acquire order.
    fn load_u64(&self, at: Pa) -> u64;
    /// One store with release order.
    fn store_u8(&self, at: Pa, value: u8);
    /// One store with release order.
    fn store_u32(&self, at: Pa, value: u32);
    /// One store with release order.
    fn store_u64(&self, at: Pa, value: u64);

    /// One attempt to replace `current` by `new`, sequentially consistent. `Ok(previous)`: the attempt was decided, and
    /// it stored if `previous == current`. `Err(Contended)`: another observer broke the exclusive; nothing was stored.
    fn try_compare_exchange_u32(&self, at: Pa, current: u32, new: u32) -> Result<u32, Contended>;
    /// As [`Self::try_compare_exchange_u32`], on 64 bits.
    fn try_compare_exchange_u64(&self, at: Pa, current: u64, new: u64) -> Result<u64, Contended>;
    /// One attempt to set `bits`, sequentially consistent: what was there. `Err(Contended)`: another observer interfered;
    /// nothing was stored.
    #[inline]
    fn try_set_bits_u64(&self, at: Pa, bits: u64) -> Result<u64, Contended> {
        let expected = self.load_u64(at);
        match self.try_compare_exchange_u64(at, expected, expected | bits) {
            Ok(previous) if previous == expected => Ok(previous),
            _ => Err(Contended),
        }
    }
    /// As [`Self::try_set_bits_u64`], but the bits are cleared.
    #[inline]
    fn try_clear_bits_u64(&self, at: Pa, bits: u64) -> Result<u64, Contended> {
        let expected = self.load_u64(at);
        match self.try_compare_exchange_u64(at, expected, expected & !bits) {
            Ok(previous) if previous == expected => Ok(previous),
            _ => Err(Contended),
        }
    }

    /// Cleans (and invalidates) the data cache by address to the point of coherency: a guest that starts with its caches
    /// off sees what was written.
    fn clean_to_coherency(&self, at: Pa, length: u64);
    /// Makes instructions written at `at` visible to execution on every pCPU (clean to PoU, invalidate instruction caches).
    fn synchronise_instructions(&self, at: Pa, length: u64);
}

/// A memory type, as a mapping gives it (Arm ARM, "Memory types and attributes").
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash)]
pub enum MemoryType {
    /// Normal, inner and outer write-back, inner shareable.
    WriteBack,
    /// Normal, non-cacheable.
    NonCacheable,
    /// Device-nGnRE.
    Device,
}

/// An exclusive access failed because somebody else touched the line: try again, a bounded number of times.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Contended;
