//! What one domain has mapped of others' grants: a record for each handle, 16 bytes in frames of the domain's pool.
//!
//! In use, the first word is the frame, the granter's number above it and flags below, and the second the reference and
//! the life of the granter's table. Free, the first word is where the next free record is, and the second its handle plus 1;
//! nothing follows the last one.

use super::entry::Access;
use super::frames::FrameList;
use super::table::Life;
use crate::ids::{DomainId, PAGE_SIZE, Pa};
use crate::memory::PhysicalMemory;
use crate::memory::pool::{Pool, PoolError};

const SIZE: u64 = 16;
/// Handles in a frame.
pub const HANDLES_PER_FRAME: u32 = (PAGE_SIZE / SIZE) as u32;
const IN_USE: u64 = 1;
const WRITABLE: u64 = 1 << 1;
/// Somebody is unmapping it.
const LEAVING: u64 = 1 << 2;
const DOMAIN_SHIFT: u32 = 48;
const FRAME_MASK: u64 = (1 << DOMAIN_SHIFT) - PAGE_SIZE;

/// The number that a guest unmaps by.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct Handle(pub u32);

/// A handle that is in use, as long as the handles stay locked.
#[derive(Debug)]
pub struct Record {
    at: Pa,
    handle: Handle,
}

/// What a handle stands for.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Mapped {
    /// Whose grant.
    pub granter: DomainId,
    /// Which.
    pub reference: u32,
    /// In which life of its table.
    pub life: Life,
    /// The frame.
    pub frame: Pa,
    /// For what.
    pub access: Access,
}

/// A domain's handles.
#[derive(Debug)]
pub struct Maptrack {
    frames: FrameList,
    /// Frames of records.
    count: u32,
    limit: u32,
    /// The first free handle that was in use before, plus 1; 0: there is none.
    free: u32,
    /// Where its record is.
    free_at: Pa,
    /// Handles from here on never were in use.
    fresh: u32,
    in_use: u32,
}

impl Maptrack {
    /// No handles; records may fill `limit` frames. Allocates: for the time when domains are built.
    pub fn new(limit: u32) -> Self {
        Self {
            frames: FrameList::new(limit),
            count: 0,
            limit,
            free: 0,
            free_at: Pa(0),
            fresh: 0,
            in_use: 0,
        }
    }

    /// Handles in use.
    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    /// A handle for `mapped`.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`]: the domain has as many as it may, or its pool is used up.
    #[inline(always)]
    pub fn add(&mut self, memory: &impl PhysicalMemory, pool: &mut Pool, mapped: &Mapped) -> Result<Handle, PoolError> {
        let (handle, at) = match self.free.checked_sub(1) {
            Some(handle) => {
                let at = self.free_at;
                self.free_at = Pa(memory.load_u64(at));
                self.free = memory.load_u64(Pa(at.0 + 8)) as u32;
                (handle, at)
            }
            None => self.take_fresh(memory, pool)?,
        };
        let access = match mapped.access {
            Access::Read => 0,
            Access::Write => WRITABLE,
        };
        let first = u64::from(mapped.granter.0) << DOMAIN_SHIFT | mapped.frame.0 & FRAME_MASK | access | IN_USE;
        memory.store_u64(
            Pa(at.0 + 8),
            u64::from(mapped.life.0) << 32 | u64::from(mapped.reference),
        );
        memory.store_u64(at, first);
        self.in_use += 1;
        Ok(Handle(handle))
    }

    #[inline(never)]
    fn take_fresh(&mut self, memory: &impl PhysicalMemory, pool: &mut Pool) -> Result<(u32, Pa), PoolError> {
        let handle = self.fresh;
        if handle / HANDLES_PER_FRAME >= self.count {
            if self.count >= self.limit {
                return Err(PoolError::Exhausted);
            }
            let frame = pool.allocate(memory)?;
            if let Err(error) = self.frames.set(memory, pool, self.count, frame.0) {
                // It came from this pool just now.
                let _ = pool.free(frame);
                return Err(error);
            }
            self.count += 1;
        }
        let at = self.find(memory, handle).ok_or(PoolError::Exhausted)?;
        self.fresh += 1;
        Ok((handle, at))
    }

    #[inline(always)]
    fn find(&self, memory: &impl PhysicalMemory, handle: u32) -> Option<Pa> {
        let frame = handle / HANDLES_PER_FRAME;
        if frame >= self.count {
            return None;
        }
        let frame = self.frames.get(memory, frame);
        Some(Pa(frame + u64::from(handle % HANDLES_PER_FRAME) * SIZE))
    }

    /// What `handle` stands for, to be unmapped: nobody else can until [`Self::keep`].
    #[inline]
    pub fn take(&mut self, memory: &impl PhysicalMemory, handle: Handle) -> Option<Mapped> {
        let at = self.find(memory, handle.0)?;
        let first = memory.load_u64(at);
        if first & (IN_USE | LEAVING) != IN_USE {
            return None;
        }
        memory.store_u64(at, first | LEAVING);
        Some(decode(first, memory.load_u64(Pa(at.0 + 8))))
    }

    /// What `handle` stands for; `None`: it is free.
    pub fn get(&self, memory: &impl PhysicalMemory, handle: Handle) -> Option<Mapped> {
        let at = self.find(memory, handle.0)?;
        let first = memory.load_u64(at);
        (first & IN_USE != 0).then(|| decode(first, memory.load_u64(Pa(at.0 + 8))))
    }

    /// As [`Self::get`], of one that nobody else is unmapping, with its record.
    #[inline(always)]
    pub fn find_record(&self, memory: &impl PhysicalMemory, handle: Handle) -> Option<(Record, Mapped)> {
        let at = self.find(memory, handle.0)?;
        let first = memory.load_u64(at);
        if first & (IN_USE | LEAVING) != IN_USE {
            return None;
        }
        let mapped = decode(first, memory.load_u64(Pa(at.0 + 8)));
        Some((Record { at, handle }, mapped))
    }

    /// The handle is free.
    #[inline(always)]
    pub fn free_record(&mut self, memory: &impl PhysicalMemory, Record { at, handle }: Record) {
        memory.store_u64(Pa(at.0 + 8), self.free.into());
        // It is aligned, and so says that the record is not in use.
        memory.store_u64(at, self.free_at.0);
        self.free = handle.0 + 1;
        self.free_at = at;
        self.in_use = self.in_use.saturating_sub(1);
    }

    /// A handle that [`Self::take`] had taken stays after all.
    pub fn keep(&mut self, memory: &impl PhysicalMemory, handle: Handle) {
        if let Some(at) = self.find(memory, handle.0) {
            let first = memory.load_u64(at);
            if first & IN_USE != 0 {
                memory.store_u64(at, first & !LEAVING);
            }
        }
    }

    /// A handle that [`Self::take`] had taken is free.
    #[inline]
    pub fn free(&mut self, memory: &impl PhysicalMemory, handle: Handle) {
        if let Some(at) = self.find(memory, handle.0)
            && memory.load_u64(at) & IN_USE != 0
        {
            self.free_record(memory, Record { at, handle });
        }
    }

    /// The handles from `from` on that are in use, at most as many as `into` has room for among the next 256: the domain
    /// has ended. Where to go on; `None`: there are no more, and nothing is in use.
    pub fn drain<const N: usize>(
        &mut self,
        memory: &impl PhysicalMemory,
        from: Handle,
        into: &mut heapless::Vec<Mapped, N>,
    ) -> Option<Handle> {
        let mut handle = from.0;
        for _ in 0..HANDLES_PER_FRAME {
            if handle >= self.fresh || self.in_use == 0 {
                return None;
            }
            if into.is_full() {
                break;
            }
            if let Some(at) = self.find(memory, handle) {
                let first = memory.load_u64(at);
                if first & IN_USE != 0 {
                    // There is room: it was looked at.
                    let _ = into.push(decode(first, memory.load_u64(Pa(at.0 + 8))));
                    memory.store_u64(at, 0);
                    self.in_use -= 1;
                }
            }
            handle += 1;
        }
        Some(Handle(handle))
    }

    /// Whether a handle stands for `frame`, among those of frame number `number` of records; `Err(next)`: none there, look at
    /// the next frame.
    pub fn find_frame(&self, memory: &impl PhysicalMemory, frame: Pa, number: u32) -> Result<bool, u32> {
        let first = number.saturating_mul(HANDLES_PER_FRAME);
        for handle in first..first.saturating_add(HANDLES_PER_FRAME) {
            if handle >= self.fresh {
                return Ok(false);
            }
            if self
                .get(memory, Handle(handle))
                .is_some_and(|mapped| mapped.frame == frame)
            {
                return Ok(true);
            }
        }
        Err(number + 1)
    }

    /// Gives frames back, at most `limit`; no handle is in use. Whether that was all.
    pub fn shrink(&mut self, memory: &impl PhysicalMemory, pool: &mut Pool, limit: u32) -> bool {
        self.free = 0;
        self.fresh = 0;
        for _ in 0..limit {
            let Some(last) = self.count.checked_sub(1) else {
                self.frames.shrink(pool, 0);
                return true;
            };
            // It came from this pool.
            let _ = pool.free(Pa(self.frames.get(memory, last)));
            self.count = last;
        }
        false
    }
}

#[inline(always)]
fn decode(first: u64, second: u64) -> Mapped {
    Mapped {
        granter: DomainId((first >> DOMAIN_SHIFT) as u16),
        reference: second as u32,
        life: Life((second >> 32) as u32),
        frame: Pa(first & FRAME_MASK),
        access: if first & WRITABLE != 0 {
            Access::Write
        } else {
            Access::Read
        },
    }
}
