//! Doorbells: a write that makes a port pending, and nothing else.
//!
//! The table of a target is read on every write that might be one, so it has a lock of its own ([`SharedDoorbells`]),
//! held for a search or for one change. [`Servers`](super::Servers) changes it under the servers' lock; who rings needs
//! only this one. An entry says whom it wakes, so that the target's event channels are not asked.
//!
//! A doorbell whose port nobody has bound, or whose server takes no requests, does not match: the write goes on to the
//! other kinds.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::buffered::page_bit;
use super::ranges::Range;
use crate::abi::HypercallError;
use crate::abi::dm_op::{MAX_DOORBELLS, MAX_SERVERS};
use crate::access::{AccessWidth, Direction, MmioAccess};
use crate::ids::{DomainId, EventPort, Ipa, ServerId};
use crate::sync::Mutex;

/// One doorbell.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Doorbell {
    /// The register.
    pub address: u64,
    /// What is written there, under `mask`.
    pub value: u64,
    /// The same for all doorbells of an address.
    pub mask: u64,
    /// The same for all doorbells of an address.
    pub width: AccessWidth,
    /// The guest never reads the register back.
    pub write_only: bool,
    /// Whose.
    pub server: ServerId,
    /// The server's domain.
    pub owner: DomainId,
    /// The target's port.
    pub port: EventPort,
    /// The owner's port that it is bound to; 0: it is not.
    pub peer: EventPort,
    /// It is bound, and its server gets requests.
    pub open: bool,
}

impl Doorbell {
    /// The register's addresses.
    pub fn range(&self) -> Option<Range> {
        Range::from_length(self.address, self.width.bytes())
    }
}

/// Whom a write rings.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Ring {
    /// Whose doorbell.
    pub server: ServerId,
    /// The domain.
    pub owner: DomainId,
    /// Its port.
    pub peer: EventPort,
    /// The target's port, by which the other one knows who sends.
    pub port: EventPort,
}

/// The doorbells of all servers of one target, by address and value. Its memory is reserved when the domain is built.
#[derive(Debug)]
pub struct Doorbells {
    entries: Vec<Doorbell>,
    /// Whether the server of each id gets requests.
    serving: [bool; MAX_SERVERS],
}

impl Doorbells {
    fn new() -> Self {
        Self {
            entries: Vec::with_capacity(MAX_SERVERS * MAX_DOORBELLS),
            serving: [false; MAX_SERVERS],
        }
    }

    /// All of them.
    pub fn entries(&self) -> &[Doorbell] {
        &self.entries
    }

    /// Whom this write rings. All doorbells of an address have one mask, so one search finds address and value.
    #[inline]
    pub fn ring(&self, access: &MmioAccess) -> Option<Ring> {
        let Direction::Write(value) = access.direction else {
            return None;
        };
        let address = access.ipa.0;
        let (mut base, mut size) = (0, self.entries.len());
        while size > 1 {
            let half = size / 2;
            let middle = self.entries.get(base + half)?;
            let not_above =
                middle.address < address || (middle.address == address && middle.value <= value & middle.mask);
            base = if not_above { base + half } else { base };
            size -= half;
        }
        let entry = self.entries.get(base)?;
        if entry.address != address || value & entry.mask != entry.value || entry.width != access.width || !entry.open {
            return None;
        }
        Some(Ring {
            server: entry.server,
            owner: entry.owner,
            peer: entry.peer,
            port: entry.port,
        })
    }

    /// Where `wanted` belongs.
    ///
    /// # Errors
    /// EEXIST: it is there, or overlaps the register of another; EINVAL: the register's doorbells have another size or mask;
    /// ENOSPC: the server has as many as it may have.
    fn place(&self, wanted: &Doorbell) -> Result<usize, HypercallError> {
        let range = wanted.range().ok_or(HypercallError::Invalid)?;
        let at = self
            .entries
            .partition_point(|entry| (entry.address, entry.value) < (wanted.address, wanted.value));
        let before = at.checked_sub(1).and_then(|before| self.entries.get(before));
        // A register is as long as it is aligned: one that overlaps this one contains it, or begins in it. Of those that
        // begin before, only the last can reach it.
        for neighbour in [before, self.entries.get(at)].into_iter().flatten() {
            let same = neighbour.address == wanted.address;
            if same && (neighbour.width, neighbour.mask) != (wanted.width, wanted.mask) {
                return Err(HypercallError::Invalid);
            }
            let overlaps = neighbour.range().is_some_and(|other| other.overlaps(range));
            if if same {
                neighbour.value == wanted.value
            } else {
                overlaps
            } {
                return Err(HypercallError::Exists);
            }
        }
        let own = self
            .entries
            .iter()
            .filter(|entry| entry.server == wanted.server)
            .count();
        if own >= MAX_DOORBELLS || self.entries.len() >= self.entries.capacity() {
            return Err(HypercallError::NoSpace);
        }
        Ok(at)
    }

    /// Whether [`Self::insert`] would succeed.
    ///
    /// # Errors
    /// See [`Self::place`].
    pub(super) fn admits(&self, wanted: &Doorbell) -> Result<(), HypercallError> {
        self.place(wanted).map(|_| ())
    }

    pub(super) fn insert(&mut self, doorbell: Doorbell) -> Result<(), HypercallError> {
        let at = self.place(&doorbell)?;
        self.entries.insert(at, doorbell);
        Ok(())
    }

    /// Takes away what `goes` says, and calls `gone` with each.
    fn remove(&mut self, goes: impl Fn(&Doorbell) -> bool, mut gone: impl FnMut(&Doorbell)) {
        self.entries.retain(|entry| {
            let goes = goes(entry);
            if goes {
                gone(entry);
            }
            !goes
        });
    }

    /// Whether some register overlaps `range`.
    pub(super) fn overlaps(&self, range: Range) -> bool {
        self.any(range, |_| true)
    }

    /// Whether the guest may read some register in `range` back.
    pub(super) fn some_readable(&self, range: Range) -> bool {
        self.any(range, |entry| !entry.write_only)
    }

    fn any(&self, range: Range, is: impl Fn(&Doorbell) -> bool) -> bool {
        let inside = |entry: &&Doorbell| entry.range().is_some_and(|register| register.overlaps(range));
        self.entries.iter().filter(inside).any(is)
    }

    /// A bit for each entry.
    fn filter(&self) -> u64 {
        let bits = self.entries.iter().map(|entry| 1 << filter_bit(entry.address));
        bits.fold(0, |filter: u64, bit: u64| filter | bit)
    }

    /// Notes what the target's `port` is bound to.
    fn bind(&mut self, port: EventPort, peer: EventPort) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.port == port) {
            entry.peer = peer;
            self.reopen();
        }
    }

    /// Notes that the target's `port` is not bound to `peer` any more.
    fn unbind(&mut self, port: EventPort, peer: EventPort) {
        let bound = |entry: &&mut Doorbell| entry.port == port && entry.peer == peer;
        if let Some(entry) = self.entries.iter_mut().find(bound) {
            entry.peer = EventPort(0);
            self.reopen();
        }
    }

    /// What a doorbell needs to ring has changed.
    fn reopen(&mut self) {
        for entry in &mut self.entries {
            let serves = self.serving.get(usize::from(entry.server.0)).copied().unwrap_or(false);
            entry.open = serves && entry.peer != EventPort(0);
        }
    }
}

/// Registers of 4 bytes that follow each other have different bits.
const fn filter_bit(address: u64) -> u64 {
    address >> 2 & 63
}

/// A target's doorbells, for its servers and for its vCPUs. No other lock is taken under theirs.
#[derive(Clone, Debug)]
pub struct SharedDoorbells(Arc<Board>);

/// What of them is read and counted without their lock.
#[derive(Debug)]
pub struct Board {
    /// A bit for some addresses each, set if one of them is a doorbell's: a write elsewhere costs one load.
    filter: AtomicU64,
    /// How often the table was changed.
    changes: AtomicU64,
    /// Writes that rang, by id of the server.
    rung: [AtomicU64; MAX_SERVERS],
    /// A bit for some pages each, set if writes to one of them may be posted.
    posts: AtomicU64,
    table: Mutex<Doorbells>,
}

impl Board {
    /// How often a doorbell came, went, or began or ceased to ring: while this stays, what was found in the table is true.
    /// Who compares it reads nothing else of the table, so nothing need be ordered.
    #[inline(always)]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Whether writes to `ipa` may be posted to a buffered page, which is for the servers to say.
    #[inline]
    pub fn may_post(&self, ipa: Ipa) -> bool {
        self.posts.load(Ordering::Relaxed) & page_bit(ipa) != 0
    }

    /// A write has rung a doorbell of `server`.
    #[inline(always)]
    pub fn count(&self, server: ServerId) {
        self.rung[usize::from(server.0) % MAX_SERVERS].fetch_add(1, Ordering::Relaxed);
    }
}

impl SharedDoorbells {
    pub(super) fn new() -> Self {
        Self(Arc::new(Board {
            filter: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            rung: [const { AtomicU64::new(0) }; MAX_SERVERS],
            posts: AtomicU64::new(0),
            table: Mutex::new(Doorbells::new()),
        }))
    }

    /// Whom this write rings; it is counted.
    pub fn ring(&self, access: &MmioAccess) -> Option<Ring> {
        if self.may_have(access.ipa) {
            self.ring_here(access)
        } else {
            None
        }
    }

    /// As [`Self::ring`], where there may be a doorbell ([`Self::may_have`]).
    #[inline]
    pub fn ring_here(&self, access: &MmioAccess) -> Option<Ring> {
        let ring = self.0.table.lock().ring(access)?;
        self.0.count(ring.server);
        Some(ring)
    }

    /// Whom this write rings, which is not counted, and [`Board::changes`] then.
    pub fn look_up(&self, access: &MmioAccess) -> Option<(Ring, u64)> {
        let table = self.0.table.lock();
        Some((table.ring(access)?, self.0.changes()))
    }

    /// [`Board::changes`], if there is no doorbell in the four bytes at `ipa`.
    pub fn changes_without(&self, ipa: Ipa) -> Option<u64> {
        let range = Range::from_length(ipa.0, 4)?;
        let table = self.0.table.lock();
        (!table.overlaps(range)).then(|| self.0.changes())
    }

    /// Whether there may be a doorbell at `ipa`: one load.
    #[inline]
    pub fn may_have(&self, ipa: Ipa) -> bool {
        self.0.filter.load(Ordering::Acquire) >> filter_bit(ipa.0) & 1 != 0
    }

    /// What of them needs no lock.
    #[inline(always)]
    pub fn board(&self) -> &Board {
        &self.0
    }

    /// A write that was counted reached nobody: the port was closed meanwhile.
    pub fn missed(&self, ring: &Ring) {
        if let Some(rung) = self.0.rung.get(usize::from(ring.server.0)) {
            // It may begin anew meanwhile.
            let _ = rung.try_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
        }
    }

    /// Calls `with` with the table locked.
    pub fn with<T>(&self, with: impl FnOnce(&Doorbells) -> T) -> T {
        with(&self.0.table.lock())
    }

    /// Changes the table.
    fn change<T>(&self, change: impl FnOnce(&mut Doorbells) -> T) -> T {
        let mut table = self.0.table.lock();
        let changed = change(&mut table);
        self.0.filter.store(table.filter(), Ordering::Release);
        self.0.changes.fetch_add(1, Ordering::Release);
        changed
    }

    pub(super) fn insert(&self, doorbell: Doorbell) -> Result<(), HypercallError> {
        self.change(|table| table.insert(doorbell))
    }

    /// Takes away what `goes` says; its ports go to `ports`, which has room for all that there can be.
    pub(super) fn remove(&self, goes: impl Fn(&Doorbell) -> bool, ports: &mut Vec<EventPort>) {
        self.change(|table| {
            table.remove(goes, |entry| {
                if ports.len() < ports.capacity() {
                    ports.push(entry.port);
                }
            });
        });
    }

    pub(super) fn bind(&self, port: EventPort, peer: EventPort) {
        self.change(|table| table.bind(port, peer));
    }

    pub(super) fn unbind(&self, port: EventPort, peer: EventPort) {
        self.change(|table| table.unbind(port, peer));
    }

    pub(super) fn set_serving(&self, server: ServerId, serves: bool) {
        self.change(|table| {
            if let Some(serving) = table.serving.get_mut(usize::from(server.0)) {
                *serving = serves;
            }
            table.reopen();
        });
    }

    /// A bit for each page where writes may be posted: [`page_bit`].
    pub(super) fn set_posts(&self, posts: u64) {
        self.0.posts.store(posts, Ordering::Release);
    }

    pub(super) fn count_from_zero(&self, server: ServerId) {
        if let Some(rung) = self.0.rung.get(usize::from(server.0)) {
            rung.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn rung(&self, server: ServerId) -> u64 {
        let rung = self.0.rung.get(usize::from(server.0));
        rung.map_or(0, |rung| rung.load(Ordering::Relaxed))
    }
}
