//! What this domain maps of others' grants, and finds there.

use alloc::vec::Vec;

use guest_runtime::hypercall::grant::{self, HOST_MAP, READ_ONLY};
use portunus::abi::grant::{GrantStatus, MapGrantRef, UnmapGrantRef};

use crate::accesses::read;
use crate::ledger::{Count, Grant, PAGES, Pins, State, Written};
use crate::own::PAGE;
use crate::storm::Storm;

/// Pages of the window that this domain maps at.
pub(crate) const SLOTS: usize = 96;
/// Entries of one call.
const BATCH: u64 = 5;
/// Maps over maps that cost handles for the rest of a life.
const MOST_LOST: usize = 8;
/// A number that no domain has.
const NOBODY: u16 = 99;

/// A handle.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Map {
    pub(crate) granter: usize,
    pub(crate) life: u64,
    pub(crate) page: usize,
    pub(crate) id: u32,
    pub(crate) writable: bool,
    handle: u32,
    pub(crate) at: Place,
}

/// Where the page of a handle is.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    Slot(usize),
    /// Another one took its place.
    Lost,
    /// The handle was given back for another place: until the granter's next life begins something may be there.
    Abandoned(usize),
}

impl Map {
    fn slot(&self) -> Option<usize> {
        match self.at {
            Place::Slot(slot) | Place::Abandoned(slot) => Some(slot),
            Place::Lost => None,
        }
    }
    fn has_handle(&self) -> bool {
        !matches!(self.at, Place::Abandoned(_))
    }
}

/// What an operation must answer.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Forecast {
    pub(crate) granter: usize,
    pub(crate) page: usize,
    pub(crate) grant: Grant,
    pub(crate) life: u64,
    pub(crate) works: bool,
}

impl Storm {
    pub(crate) fn begin_others(&mut self) {
        for domain in 0..self.domains {
            self.lives[domain] = self.ledger.life(domain);
            for page in 0..PAGES {
                let written = self.ledger.written(self.me, domain, page);
                if written.state == State::Busy {
                    let id = self.ledger.grant(domain, page).id;
                    let state = State::Unknown;
                    self.ledger
                        .set_written(self.me, domain, page, Written { id, state, ..written });
                }
                self.publish_pins(domain, page, false);
            }
        }
    }

    /// How often this domain has a page mapped for reading and for writing.
    pub(crate) fn pins_of(&self, granter: usize, page: usize) -> (u8, u8) {
        let life = self.lives[granter];
        let those = |map: &&Map| (map.granter, map.page, map.life) == (granter, page, life) && map.has_handle();
        let count = |writable| {
            self.maps
                .iter()
                .filter(those)
                .filter(|map| map.writable == writable)
                .count()
        };
        (count(false) as u8, count(true) as u8)
    }

    pub(crate) fn publish_pins(&self, granter: usize, page: usize, is_busy: bool) {
        let (readers, writers) = self.pins_of(granter, page);
        let pins = Pins {
            change: self.ledger.pins(self.me, granter, page).change.wrapping_add(1),
            readers,
            writers,
            is_busy,
        };
        self.ledger.set_pins(self.me, granter, page, pins);
    }

    /// What becomes of an attempt to pin a page now. `None`: its granter has just begun another life.
    pub(crate) fn forecast(&self, granter: usize, page: usize, writable: bool) -> Option<Forecast> {
        let life = self.ledger.life(granter);
        if life != self.lives[granter] {
            return None;
        }
        let grant = self.ledger.grant(granter, page);
        let grants = grant.is_granted && grant.to == self.me && (grant.is_writable || !writable);
        let works = match self.pins_of(granter, page) {
            (0, 0) => grants,
            (_, writers) => grants || !writable || writers != 0,
        };
        Some(Forecast {
            granter,
            page,
            grant,
            life,
            works,
        })
    }

    /// Whether what was forecast must have come true: nothing changed meanwhile.
    pub(crate) fn is_certain(&self, forecast: &Forecast) -> bool {
        !forecast.grant.is_busy
            && self.ledger.grant(forecast.granter, forecast.page) == forecast.grant
            && self.ledger.life(forecast.granter) == forecast.life
    }

    /// Compares what was answered with the forecasts: it works if all do.
    pub(crate) fn judge(&mut self, what: &str, forecasts: &[Forecast], status: i16) {
        let refusals = [GrantStatus::GeneralError.code(), GrantStatus::BadReference.code()];
        if status != 0 && !refusals.contains(&status) {
            self.fail(format_args!("{what} answered {status}: {forecasts:?}"));
        }
        if status == refusals[0] {
            self.ledger.add(self.me, Count::Refusals, 1);
        }
        let works = forecasts.iter().all(|forecast| forecast.works);
        let as_forecast = if works { status == 0 } else { status == refusals[0] };
        if as_forecast || !forecasts.iter().all(|forecast| self.is_certain(forecast)) {
            return;
        }
        if !self.is_one_dead(forecasts) {
            self.fail(format_args!("{what} answered {status}: {forecasts:?}"));
        }
    }

    /// A domain that granted, mostly another one.
    pub(crate) fn granter(&mut self) -> usize {
        if self.random.below(12) == 0 {
            self.me
        } else {
            self.peer()
        }
    }

    /// A page of a granter: mostly one that this domain may have something of.
    pub(crate) fn choose_page(&mut self, granter: usize) -> usize {
        let mut page = 0;
        for _ in 0..6 {
            page = self.random.below(PAGES as u64) as usize;
            if self.ledger.grant(granter, page).to == self.me && self.ledger.grant(granter, page).is_granted {
                break;
            }
        }
        page
    }

    pub(crate) fn address(&self, slot: usize) -> u64 {
        self.window + slot as u64 * PAGE
    }

    fn is_taken(&self, slot: usize) -> bool {
        self.maps.iter().any(|map| map.slot() == Some(slot))
    }

    /// Maps some pages by one call.
    pub(crate) fn map(&mut self) {
        let number = if self.random.below(3) == 0 {
            self.random.between(2, BATCH)
        } else {
            1
        };
        let mut wanted: Vec<(Forecast, bool, usize)> = Vec::new();
        let mut entries = Vec::new();
        for _ in 0..number {
            let granter = self.granter();
            let page = self.choose_page(granter);
            let writable = self.random.below(2) == 0;
            let slot = self.random.below(SLOTS as u64) as usize;
            let lost = self.maps.iter().filter(|map| map.at == Place::Lost).count();
            let over = self.maps.iter().find(|map| map.slot() == Some(slot));
            let may_be_over =
                over.is_none_or(|map| lost < MOST_LOST && map.has_handle() && map.life == self.lives[map.granter]);
            let is_twice = |(forecast, _, other): &(Forecast, bool, usize)| {
                (forecast.granter, forecast.page) == (granter, page) || *other == slot
            };
            if !may_be_over || wanted.iter().any(is_twice) {
                continue;
            }
            self.publish_pins(granter, page, true);
            let Some(forecast) = self.forecast(granter, page, writable) else {
                self.publish_pins(granter, page, false);
                continue;
            };
            entries.push(MapGrantRef {
                host_addr: self.address(slot),
                flags: if writable { HOST_MAP } else { HOST_MAP | READ_ONLY },
                reference: forecast.grant.reference.into(),
                dom: granter as u16 + 1,
                status: i16::MAX,
                ..Default::default()
            });
            wanted.push((forecast, writable, slot));
        }
        // SAFETY: the window holds nothing but such pages.
        if let Err(error) = unsafe { grant::map(&mut entries) } {
            self.fail(format_args!("a map of {} pages: {error}", entries.len()));
        }
        self.ledger.add(self.me, Count::Operations, entries.len() as u64);
        for (entry, (forecast, writable, slot)) in entries.iter().zip(&wanted) {
            self.judge("a map", &[*forecast], entry.status);
            if entry.status == 0 {
                self.ledger.add(self.me, Count::Maps, 1);
                self.mapped(forecast, *writable, *slot, entry.handle);
            }
        }
        for (forecast, ..) in wanted {
            self.publish_pins(forecast.granter, forecast.page, false);
        }
    }

    fn mapped(&mut self, forecast: &Forecast, writable: bool, slot: usize, handle: u32) {
        if let Some(under) = self.maps.iter_mut().find(|map| map.at == Place::Slot(slot)) {
            under.at = Place::Lost;
        }
        if self.maps.iter().any(|map| map.has_handle() && map.handle == handle) {
            self.fail(format_args!("handle {handle} twice"));
        }
        let is_certain = self.is_certain(forecast);
        self.maps.push(Map {
            granter: forecast.granter,
            life: forecast.life,
            page: forecast.page,
            id: forecast.grant.id,
            writable,
            handle,
            at: Place::Slot(slot),
        });
        if !is_certain {
            // Nobody knows by which grant.
            self.unmap_those(&[self.maps.len() - 1]);
        }
    }

    /// Gives some handles back by one call, or tries to in wrong ways.
    pub(crate) fn unmap(&mut self) {
        if self.maps.is_empty() {
            return;
        }
        let number = if self.random.below(3) == 0 {
            self.random.between(2, BATCH)
        } else {
            1
        };
        let mut chosen = Vec::new();
        for _ in 0..number {
            let index = self.random.below(self.maps.len() as u64) as usize;
            if !chosen.contains(&index) && self.maps[index].has_handle() {
                chosen.push(index);
            }
        }
        if self.random.below(8) == 0 {
            return self.unmap_elsewhere(&chosen);
        }
        self.unmap_those(&chosen);
    }

    fn unmap_those(&mut self, chosen: &[usize]) {
        let nowhere = self.window + (SLOTS as u64) * PAGE;
        let place = |storm: &Self, map: &Map| map.slot().map_or(nowhere, |slot| storm.address(slot));
        self.give_back(chosen, place, |storm, status, map| {
            let general = GrantStatus::GeneralError.code();
            let is_lost = map.at == Place::Lost;
            // Without its page a handle stays until its granter has died.
            let is_right = match status {
                0 => !is_lost || storm.is_dead(map.granter, map.life),
                status => status == general && is_lost,
            };
            if !is_right {
                storm.fail(format_args!("an unmap answered {status}: {map:?}"));
            }
            if status == 0 {
                storm.ledger.add(storm.me, Count::Unmaps, 1);
                storm
                    .maps
                    .retain(|other| !other.has_handle() || other.handle != map.handle);
                if let Some(slot) = map.slot() {
                    storm.must_fault(slot, "is unmapped");
                }
            }
        });
    }

    /// Gives handles back for a place where their pages are not.
    fn unmap_elsewhere(&mut self, chosen: &[usize]) {
        let address = match self.random.below(3) {
            0 => 0,
            1 => self.window + SLOTS as u64 * PAGE,
            _ => (&raw const *self.buffer) as u64,
        };
        self.give_back(
            chosen,
            |_, _| address,
            |storm, status, map| match status {
                0 if address == 0 => {}
                status if address != 0 && status == GrantStatus::GeneralError.code() => {
                    storm.ledger.add(storm.me, Count::Refusals, 1);
                }
                0 if storm.is_dead(map.granter, map.life) => storm.abandon(map),
                status => storm.fail(format_args!("an unmap at {address:#x} answered {status}: {map:?}")),
            },
        );
        self.notice_deaths();
    }

    /// Gives handles back, each for its place, and has each status judged.
    fn give_back(
        &mut self,
        chosen: &[usize],
        place: impl Fn(&Self, &Map) -> u64,
        judge: impl Fn(&mut Self, i16, &Map),
    ) {
        let those: Vec<Map> = chosen.iter().map(|index| self.maps[*index]).collect();
        let mut entries: Vec<UnmapGrantRef> = those
            .iter()
            .map(|map| UnmapGrantRef {
                host_addr: place(self, map),
                handle: map.handle,
                status: i16::MAX,
                ..Default::default()
            })
            .collect();
        for map in &those {
            self.publish_pins(map.granter, map.page, true);
        }
        // SAFETY: nobody looks at those pages but `attempt`.
        if let Err(error) = unsafe { grant::unmap(&mut entries) } {
            self.fail(format_args!("an unmap of {} pages: {error}", entries.len()));
        }
        self.ledger.add(self.me, Count::Operations, entries.len() as u64);
        for (entry, map) in entries.iter().zip(&those) {
            judge(self, entry.status, map);
        }
        for map in those {
            self.publish_pins(map.granter, map.page, false);
        }
    }

    /// A handle is gone, and its page may be there until its granter's next life begins.
    fn abandon(&mut self, map: &Map) {
        let may_be_there = map.life == self.lives[map.granter];
        let this = |other: &Map| other.has_handle() && other.handle == map.handle;
        match map.at {
            Place::Slot(slot) if may_be_there => {
                if let Some(map) = self.maps.iter_mut().find(|other| this(other)) {
                    map.at = Place::Abandoned(slot);
                }
            }
            _ => self.maps.retain(|other| !this(other)),
        }
    }

    /// `granter` was stopped: gives back all handles of its grants, and no page.
    pub(crate) fn forsake(&mut self, granter: usize) {
        let is_its = |(index, map): (usize, &Map)| (map.granter == granter && map.has_handle()).then_some(index);
        let chosen: Vec<usize> = self.maps.iter().enumerate().filter_map(is_its).collect();
        self.unmap_elsewhere(&chosen);
    }

    /// Looks whether the others live as they did: those that began another life have all their pages back.
    pub(crate) fn notice_deaths(&mut self) {
        for domain in 0..self.domains {
            let life = self.ledger.life(domain);
            if life == self.lives[domain] {
                continue;
            }
            self.lives[domain] = life;
            for map in self.maps.clone() {
                if let Some(slot) = map.slot()
                    && map.granter == domain
                {
                    self.must_fault(slot, "has died");
                }
            }
            self.maps.retain(|map| map.has_handle() || map.granter != domain);
            for page in 0..PAGES {
                self.publish_pins(domain, page, false);
            }
            if self.random.below(2) == 0 {
                let late = |(index, map): (usize, &Map)| (map.granter == domain).then_some(index);
                let late: Vec<usize> = self.maps.iter().enumerate().filter_map(late).collect();
                for index in late.into_iter().rev() {
                    self.unmap_those(&[index]);
                }
            }
        }
    }

    fn must_fault(&self, slot: usize, why: &str) {
        if self.is_taken(slot) && why == "is unmapped" {
            return;
        }
        if let Ok(word) = read(self.address(slot)) {
            self.fail(format_args!("slot {slot} reads {word:#x} though it {why}"));
        }
    }

    /// Calls that name what is not there.
    pub(crate) fn refused(&mut self) {
        let granter = self.peer();
        let address = self.window + SLOTS as u64 * PAGE;
        let rows = [
            (granter as u16 + 1, 0x7fff_ffff, GrantStatus::BadReference),
            (NOBODY, 8, GrantStatus::BadDomain),
            // Nobody grants by those of the toolstack.
            (
                granter as u16 + 1,
                self.random.below(8) as u32,
                GrantStatus::GeneralError,
            ),
        ];
        for (dom, reference, expected) in rows {
            let mut entry = [MapGrantRef {
                host_addr: address,
                flags: HOST_MAP,
                reference,
                dom,
                status: i16::MAX,
                ..Default::default()
            }];
            // SAFETY: nothing of this domain is there.
            let result = unsafe { grant::map(&mut entry) };
            if result.is_err() || entry[0].status != expected.code() {
                self.fail(format_args!(
                    "a map of {reference} of {dom} answered {}",
                    entry[0].status
                ));
            }
        }
        let mut entry = [UnmapGrantRef {
            host_addr: address,
            handle: u32::MAX - self.random.below(1000) as u32,
            status: i16::MAX,
            ..Default::default()
        }];
        // SAFETY: nothing of this domain is there.
        let result = unsafe { grant::unmap(&mut entry) };
        if result.is_err() || entry[0].status != GrantStatus::BadHandle.code() {
            self.fail(format_args!("an unmap of no handle answered {}", entry[0].status));
        }
        self.ledger.add(self.me, Count::Operations, 4);
        self.ledger.add(self.me, Count::Refusals, 4);
    }

    /// Gives all handles back. Those whose pages are lost end with this life.
    pub(crate) fn give_back_all(&mut self) {
        self.notice_deaths();
        while let Some(index) = self.maps.iter().position(|map| matches!(map.at, Place::Slot(_))) {
            self.unmap_those(&[index]);
        }
        if !self.maps.is_empty() {
            self.ledger.add(self.me, Count::Deaths, 1);
            guest_runtime::psci::system_reset();
        }
    }
}
