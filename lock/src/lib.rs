//! A fair spin lock for what CPUs share: each gets it in the order in which they came, so that nobody waits for more than the
//! others' turns.
//!
//! It is a crate of its own because only `unsafe` code can lend what a lock keeps, and the core has none. What a guest's exit
//! pays for a lock that nobody has is as few instructions as exclusives allow: [`TicketLock::try_lock`] looks at one word and
//! exchanges the other, and a guard knows what it will store at its end.

#![no_std]

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

/// How a CPU waits.
pub trait Wait {
    /// It has looked in vain once.
    fn wait();
}

/// A value that one CPU at a time can reach.
///
/// Who comes takes the next ticket and waits until it is served; there are fewer CPUs than tickets, so none is given out twice
/// at a time.
pub struct TicketLock<T: ?Sized, W> {
    /// The ticket that may have the value, or has it.
    serving: AtomicU32,
    /// The ticket that whoever comes gets. Equal to `serving`: nobody has the value.
    next: AtomicU32,
    wait: PhantomData<fn() -> W>,
    value: UnsafeCell<T>,
}

// SAFETY: the value is lent to one guard at a time, so that it is only sent from one CPU to another.
unsafe impl<T: ?Sized + Send, W> Sync for TicketLock<T, W> {}

impl<T, W> TicketLock<T, W> {
    /// Nobody has it.
    pub const fn new(value: T) -> Self {
        Self {
            serving: AtomicU32::new(0),
            next: AtomicU32::new(0),
            wait: PhantomData,
            value: UnsafeCell::new(value),
        }
    }

    /// What was locked.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized, W> TicketLock<T, W> {
    /// The value, if nobody has it and nobody waits for it.
    #[inline(always)]
    pub fn try_lock(&self) -> Option<TicketGuard<'_, T, W>> {
        let ticket = self.serving.load(Ordering::Acquire);
        let after = ticket.wrapping_add(1);
        // Nobody has taken this ticket yet, so whoever had the one before is done, and what that did has been seen.
        self.next
            .compare_exchange(ticket, after, Ordering::Relaxed, Ordering::Relaxed)
            .ok()?;
        Some(TicketGuard { lock: self, after })
    }

    /// The value, without a lock: nobody else can reach it.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// Whether somebody has it. It may have changed by the time that this returns.
    pub fn is_locked(&self) -> bool {
        self.serving.load(Ordering::Relaxed) != self.next.load(Ordering::Relaxed)
    }
}

impl<T: ?Sized, W: Wait> TicketLock<T, W> {
    /// The value, when it is this caller's turn.
    #[inline(always)]
    pub fn lock(&self) -> TicketGuard<'_, T, W> {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        while self.serving.load(Ordering::Acquire) != ticket {
            W::wait();
        }
        TicketGuard {
            lock: self,
            after: ticket.wrapping_add(1),
        }
    }
}

impl<T: Default, W> Default for TicketLock<T, W> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug, W> fmt::Debug for TicketLock<T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(guard) => f.debug_tuple("TicketLock").field(&&*guard).finish(),
            None => f.write_str("TicketLock(<locked>)"),
        }
    }
}

/// The value, lent until this is dropped.
#[must_use]
pub struct TicketGuard<'a, T: ?Sized, W> {
    lock: &'a TicketLock<T, W>,
    /// Who is served next.
    after: u32,
}

// SAFETY: a shared guard gives shared references to the value and nothing else.
unsafe impl<T: ?Sized + Sync, W> Sync for TicketGuard<'_, T, W> {}

impl<T: ?Sized, W> Deref for TicketGuard<'_, T, W> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: only this guard's ticket is served, and the guard is borrowed.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized, W> DerefMut for TicketGuard<'_, T, W> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: only this guard's ticket is served, and the guard is borrowed for this alone.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized, W> Drop for TicketGuard<'_, T, W> {
    #[inline(always)]
    fn drop(&mut self) {
        self.lock.serving.store(self.after, Ordering::Release);
    }
}

impl<T: ?Sized + fmt::Debug, W> fmt::Debug for TicketGuard<'_, T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::{TicketLock, Wait};
    use core::sync::atomic::{AtomicU32, Ordering};
    use std::thread;
    use std::vec::Vec;

    #[derive(Debug)]
    struct Yield;

    impl Wait for Yield {
        fn wait() {
            thread::yield_now();
        }
    }

    type Lock<T> = TicketLock<T, Yield>;

    /// A lock whose tickets begin anew soon.
    fn late(value: u64) -> Lock<u64> {
        let mut lock = Lock::new(value);
        *lock.serving.get_mut() = u32::MAX - 100;
        *lock.next.get_mut() = u32::MAX - 100;
        lock
    }

    #[test]
    fn who_has_it_is_alone_with_it() {
        for lock in [Lock::new(0), late(0)] {
            thread::scope(|scope| {
                for tries in [false, true, false, true] {
                    let lock = &lock;
                    scope.spawn(move || {
                        for _ in 0..500 {
                            let mut guard = loop {
                                let guard = if tries { lock.try_lock() } else { Some(lock.lock()) };
                                match guard {
                                    Some(guard) => break guard,
                                    None => thread::yield_now(),
                                }
                            };
                            let seen = *guard;
                            thread::yield_now();
                            *guard = seen + 1;
                        }
                    });
                }
            });
            assert!(!lock.is_locked());
            assert_eq!(lock.into_inner(), 2000);
        }
    }

    #[test]
    fn what_somebody_has_or_waits_for_is_not_had_by_a_try() {
        let lock = late(7);
        let guard = lock.try_lock().unwrap();
        assert!(lock.is_locked());
        assert!(lock.try_lock().is_none());
        drop(guard);
        assert_eq!(*lock.try_lock().unwrap(), 7);
        // Somebody has taken a ticket and has not come to its turn.
        let waiter = lock.next.fetch_add(1, Ordering::Relaxed);
        assert!(lock.try_lock().is_none());
        lock.serving.store(waiter.wrapping_add(1), Ordering::Relaxed);
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn they_get_it_in_the_order_in_which_they_came() {
        let lock = late(0);
        let order = Lock::new(Vec::new());
        let first = lock.lock();
        thread::scope(|scope| {
            for number in 0..8_u32 {
                let came = lock.next.load(Ordering::Relaxed);
                let (lock, order) = (&lock, &order);
                scope.spawn(move || {
                    let guard = lock.lock();
                    order.lock().push(number);
                    drop(guard);
                });
                while lock.next.load(Ordering::Relaxed) == came {
                    thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(order.into_inner(), (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn it_is_two_words_beside_its_value() {
        assert_eq!(size_of::<Lock<AtomicU32>>(), 12);
        assert_eq!(size_of::<Lock<u64>>(), 16);
    }
}
