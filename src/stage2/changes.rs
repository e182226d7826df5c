//! What tells whether a map has changed, without its lock.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering, fence};

/// A number that is another one after any change of what a domain's stage 2 maps, and from before that change on: while
/// it stays, what was not mapped is not, and its fault is none of a change on its way. Who has it needs no lock.
#[derive(Clone, Debug)]
pub struct Changes(Arc<AtomicU64>);

impl Changes {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1)))
    }

    /// The number; never 0. A relaxed load is enough, whoever asks:
    ///
    /// - After a fault: the exception is a context synchronization event (SCTLR_EL2.EIS is 1), so this load comes after the
    ///   walk that faulted. If that walk read a descriptor as [`Self::begin`]'s caller wrote it, the barrier there makes
    ///   this the new number or a later one.
    /// - In a call, for what was known before: a vCPU that has learned of a change, by its own call or from another vCPU by
    ///   an acquire or a branch before the HVC, asks after it in program order, and the changer's number was visible before
    ///   its guest went on. One that has learned of none may as well have called before the change.
    /// - Under the tables' lock nothing changes meanwhile. Only there a number is remembered, so what is remembered is never
    ///   of a change under way.
    #[inline]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// A leaf is about to be written or to go: every writer of one calls this first, under the lock of the tables, which is
    /// why nobody else adds. Linking an empty table where nothing was, and taking empty tables apart, maps nothing and takes
    /// nothing away.
    #[inline]
    pub(super) fn begin(&self) -> Changed {
        let before = self.count();
        self.0.store(before + 1, Ordering::Relaxed);
        // Whoever faults on the descriptor finds the new number.
        fence(Ordering::SeqCst);
        Changed(before)
    }
}

/// One change.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Changed(u64);

impl Changed {
    /// The number before it.
    #[inline]
    pub const fn before(self) -> u64 {
        self.0
    }

    /// The number since it began.
    #[inline]
    pub const fn count(self) -> u64 {
        self.0 + 1
    }
}
