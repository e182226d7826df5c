//! Who may do what to whom: one immutable table, made from the manifest at boot.
//!
//! Every operation of one domain on another asks [`Policy::decide`] before it does anything. What the manifest does not
//! give is denied. A declared device gives its backend, for that guest: servers, that range, that interrupt, the memory
//! access named, and the event channels of its requests. A static event channel exists from the start and needs no right.

mod report;

use alloc::vec::Vec;
use core::fmt;

use crate::ids::{DomainId, IntId, MAX_DOMAINS};
use crate::manifest::{Manifest, MemoryAccess};
use crate::range::IpaRange;
use crate::sorting::sort_by_key;

pub use report::Report;

/// What a domain wants to do to another.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Permission {
    /// Be its device model: create, list, enable and destroy servers; map their frames; bind the channels of their
    /// requests; learn its size.
    Serve,
    /// Serve these guest-physical addresses.
    ServeRange(IpaRange),
    /// Drive this interrupt of it.
    RaiseInterrupt(IntId),
    /// Map its RAM, all of it.
    MapMemory,
    /// Map these guest-physical addresses of it, as far as its own RAM is there.
    MapRange(IpaRange),
    /// Map some of its RAM: [`Self::MapRange`] says which.
    MapSome,
    /// Offer it an event-channel port, or bind to one that it offered.
    OpenChannel,
    /// Look at its state and counters, pause it, restart it, stop it.
    Control,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serve => write!(f, "serve devices"),
            Self::ServeRange(range) => write!(f, "serve {range}"),
            Self::RaiseInterrupt(interrupt) => write!(f, "raise INTID {}", interrupt.0),
            Self::MapMemory => write!(f, "map memory"),
            Self::MapRange(range) => write!(f, "map {range}"),
            Self::MapSome => write!(f, "map any memory"),
            Self::OpenChannel => write!(f, "open event channels"),
            Self::Control => write!(f, "control the life"),
        }
    }
}

/// The manifest does not give a right.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("domain {} may not {permission} of domain {}", subject.0, object.0)]
pub struct Denied {
    /// Who wanted it.
    pub subject: DomainId,
    /// What.
    pub permission: Permission,
    /// Of whom.
    pub object: DomainId,
}

/// The rights of all domains.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Policy {
    pairs: [[Pair; DOMAINS]; DOMAINS],
    /// By subject, object, start; disjoint for one object.
    ranges: Vec<(Key, IpaRange)>,
    /// What may be mapped where it is not all; by subject, object, start; disjoint for one object.
    windows: Vec<(Key, IpaRange)>,
    /// By subject, object, number.
    interrupts: Vec<(Key, IntId)>,
}

/// Domains count from 1; number 0 has no rights and no one has rights to it.
const DOMAINS: usize = MAX_DOMAINS + 1;

type Key = (DomainId, DomainId);

/// What a subject may do to an object as a whole.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
struct Pair {
    serve: bool,
    map_memory: bool,
    map_window: bool,
    control: bool,
    /// Pages that may be mapped at once.
    quota: u64,
}

impl Policy {
    /// The rights that a manifest gives.
    pub fn new(manifest: &Manifest) -> Self {
        let mut policy = Self::default();
        for guest in &manifest.domains {
            for device in &guest.devices {
                let key = (device.backend, guest.id);
                if let Some(pair) = policy.pair_mut(device.backend, guest.id) {
                    pair.serve = true;
                    pair.map_memory |= device.memory_access == MemoryAccess::All;
                    pair.map_window |= device.window.is_some();
                    pair.quota = pair.quota.saturating_add(device.map_quota);
                }
                policy.windows.extend(device.window.map(|window| (key, window)));
                policy.ranges.push((key, device.range));
                policy.interrupts.push((key, device.interrupt.id));
            }
        }
        for domain in &manifest.domains {
            for object in &domain.controls {
                if let Some(pair) = policy.pair_mut(domain.id, *object) {
                    pair.control = true;
                }
            }
        }
        sort_by_key(&mut policy.ranges, |entry| *entry);
        sort_by_key(&mut policy.windows, |entry| *entry);
        sort_by_key(&mut policy.interrupts, |entry| *entry);
        policy
    }

    /// Whether `subject` may do this to `object`.
    ///
    /// The cost is a look at a table, and for ranges and interrupts a binary search among the device's of all domains.
    ///
    /// # Errors
    ///
    /// [`Denied`], whose fields repeat the question.
    pub fn decide(&self, subject: DomainId, permission: Permission, object: DomainId) -> Result<(), Denied> {
        let pair = self.pair(subject, object);
        let key = (subject, object);
        let given = match permission {
            Permission::Serve => pair.serve,
            Permission::MapMemory => pair.map_memory,
            Permission::MapSome => pair.map_memory || pair.map_window,
            Permission::MapRange(range) => pair.map_memory || pair.map_window && has(&self.windows, key, range),
            Permission::Control => pair.control,
            Permission::OpenChannel => subject == object && subject.is_ordinary(),
            Permission::ServeRange(range) => has(&self.ranges, key, range),
            Permission::RaiseInterrupt(interrupt) => self.interrupts.binary_search(&(key, interrupt)).is_ok(),
        };
        if given {
            Ok(())
        } else {
            Err(Denied {
                subject,
                permission,
                object,
            })
        }
    }

    /// How many pages of `object`'s RAM `subject` may have mapped at once, for all devices that it serves to it together.
    pub fn map_quota(&self, subject: DomainId, object: DomainId) -> u64 {
        self.pair(subject, object).quota
    }

    /// As [`Self::map_quota`], if `subject` may map all of `object`'s RAM.
    #[inline]
    pub fn map_all_quota(&self, subject: DomainId, object: DomainId) -> Option<u64> {
        let row = self.pairs.get(usize::from(subject.0))?;
        let pair = row.get(usize::from(object.0))?;
        pair.map_memory.then_some(pair.quota)
    }

    fn pair_mut(&mut self, subject: DomainId, object: DomainId) -> Option<&mut Pair> {
        let row = self.pairs.get_mut(usize::from(subject.0));
        row.and_then(|row| row.get_mut(usize::from(object.0)))
    }

    fn pair(&self, subject: DomainId, object: DomainId) -> Pair {
        let row = self.pairs.get(usize::from(subject.0));
        row.and_then(|row| row.get(usize::from(object.0)))
            .copied()
            .unwrap_or_default()
    }

    /// The rights that `subject` has over others: for reports. Each with the object.
    pub fn rights_of(&self, subject: DomainId) -> impl Iterator<Item = (Permission, DomainId)> {
        let objects = (0..DOMAINS as u16).map(DomainId);
        let pairs = objects.flat_map(move |object| {
            let pair = self.pair(subject, object);
            let serve = pair.serve.then_some((Permission::Serve, object));
            let memory = pair.map_memory.then_some((Permission::MapMemory, object));
            let control = pair.control.then_some((Permission::Control, object));
            serve.into_iter().chain(memory).chain(control)
        });
        let mine = move |key: &Key| key.0 == subject;
        let windows = self.windows.iter().filter(move |(key, _)| mine(key));
        let ranges = self.ranges.iter().filter(move |(key, _)| mine(key));
        let interrupts = self.interrupts.iter().filter(move |(key, _)| mine(key));
        pairs
            .chain(windows.map(|(key, range)| (Permission::MapRange(*range), key.1)))
            .chain(ranges.map(|(key, range)| (Permission::ServeRange(*range), key.1)))
            .chain(interrupts.map(|(key, interrupt)| (Permission::RaiseInterrupt(*interrupt), key.1)))
    }
}

/// Whether one entry of `key` in a sorted table has all of `range`.
fn has(table: &[(Key, IpaRange)], key: Key, range: IpaRange) -> bool {
    if range.is_empty() || !range.fits() {
        return false;
    }
    let after = table.partition_point(|(other, entry)| (*other, entry.start) <= (key, range.start));
    let found = after.checked_sub(1).and_then(|index| table.get(index));
    found.is_some_and(|(other, entry)| *other == key && entry.contains(range))
}
