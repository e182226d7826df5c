//! Three domains that grant, map, copy, revoke, stop and start again at random, beside a model that knows each result, each
//! entry, each page of each map and each reference.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use portunus::abi::control;
use portunus::abi::grant::{self, CopyEnd, GrantCopy, GrantStatus};
use portunus::domain::life::Phase;
use portunus::fakes::Random;
use portunus::ids::{DomainId, VcpuId};
use portunus::stage2::PageUse;

use crate::grants::{
    B0, G0, GENERAL, HOST_READ, OKAY, READ, READING, S0, SELF, SPARE, WINDOW, WRITE, WRITING, granting,
};
use crate::restarts::{Account, SYSTEM_RESET, accounts, is_new, lives, phase, references};
use crate::sim::{Moment, Sim};
use crate::world::{MS, Options, SCRATCH};

const HOST: u32 = grant::MAP_HOST;
const VCPUS: [VcpuId; 3] = [G0, B0, S0];
/// Entries of each table that are used, frames that are granted, and places that are mapped at.
const ENTRIES: u32 = 6;
const FIRST: u32 = 8;
const FRAMES: u64 = 5;
const PLACES: u64 = 12;
/// A place where nothing ever is.
const NOWHERE: u64 = WINDOW + 0x100;
/// Where a domain keeps what it copies.
const BUFFER: u64 = SPARE + 0x40;

/// What a domain's guest wrote into an entry, but for the hypervisor's bits.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    flags: u16,
    to: usize,
    gfn: u64,
}

#[derive(Clone, Copy, Debug)]
struct Handle {
    number: u32,
    mapper: usize,
    granter: usize,
    reference: u32,
    life: u32,
    gfn: u64,
    writable: bool,
    at: u64,
}

#[derive(Default)]
struct Party {
    is_down: bool,
    life: u32,
    entries: [Entry; ENTRIES as usize],
    /// What its map has of others: the granter, the frame there, whether it may be written.
    places: BTreeMap<u64, (usize, u64, bool)>,
    /// What its frames hold, and its buffer.
    bytes: [u8; FRAMES as usize],
    buffer: u8,
}

struct World {
    sim: Rc<Sim>,
    parties: [Party; 3],
    handles: Vec<Handle>,
    random: Random,
    step: u32,
    /// Who began another life in the middle of a call.
    began_meanwhile: Rc<Cell<Option<usize>>>,
    interruptions: u32,
}

fn id(party: usize) -> DomainId {
    VCPUS[party].domain
}

impl World {
    fn new(options: &Options, seed: u64) -> Self {
        let sim = granting(options);
        sim.forget_log();
        assert_eq!(sim.map_table(S0, 0), 0);
        Self {
            sim,
            parties: Default::default(),
            handles: Vec::new(),
            random: Random::new(seed),
            step: 0,
            began_meanwhile: Rc::default(),
            interruptions: 0,
        }
    }

    fn party(&mut self) -> usize {
        self.random.below(3) as usize
    }

    fn reference(&mut self) -> u32 {
        FIRST + self.random.below(ENTRIES)
    }

    fn entry(&self, granter: usize, reference: u32) -> Entry {
        self.parties[granter].entries[(reference - FIRST) as usize]
    }

    /// The handles that pin an entry now.
    fn pins(&self, granter: usize, reference: u32) -> Vec<Handle> {
        let life = self.parties[granter].life;
        let pins = |handle: &&Handle| (handle.granter, handle.reference, handle.life) == (granter, reference, life);
        self.handles.iter().filter(pins).copied().collect()
    }

    /// The frame that an entry's page is, if `user` may have it so.
    fn pinned(&self, user: usize, granter: usize, reference: u32, writable: bool) -> Option<u64> {
        if self.parties[granter].is_down {
            return None;
        }
        let entry = self.entry(granter, reference);
        let allows = entry.flags == WRITE || entry.flags == READ && !writable;
        let grants = allows && entry.to == user;
        let pins = self.pins(granter, reference);
        match pins.first() {
            None => grants.then_some(entry.gfn),
            Some(first) if first.mapper != user => None,
            Some(first) => {
                let announced = !writable || pins.iter().any(|pin| pin.writable);
                // The first to write what others read writes the page that they read.
                (announced || grants && entry.gfn == first.gfn).then_some(first.gfn)
            }
        }
    }

    /// What a party's guest writes into an entry, in use or not.
    fn write_entry(&mut self) {
        let granter = self.party();
        if self.parties[granter].is_down {
            return;
        }
        let reference = self.reference();
        let entry = Entry {
            flags: [0, READ, WRITE, WRITE][self.random.below(4) as usize],
            to: self.party(),
            gfn: SPARE + self.random.below(FRAMES),
        };
        let busy = self.sim.entry_flags(id(granter), reference) & (READING | WRITING);
        self.sim
            .grant(id(granter), reference, entry.flags | busy, id(entry.to), entry.gfn);
        self.parties[granter].entries[(reference - FIRST) as usize] = entry;
    }

    fn map(&mut self) {
        let writable = self.random.below(2) == 0;
        let (mut mapper, mut granter, mut reference) = (self.party(), self.party(), self.reference());
        for _ in 0..6 {
            // Mostly what works.
            if self.pinned(mapper, granter, reference, writable).is_some() {
                break;
            }
            (mapper, granter, reference) = (self.party(), self.party(), self.reference());
        }
        if self.parties[mapper].is_down {
            return;
        }
        let at = WINDOW + self.random.below(PLACES);
        self.perhaps_interrupt(mapper);
        let flags = if writable { HOST } else { HOST_READ };
        let result = self.sim.map_one(VCPUS[mapper], id(granter), reference, flags, at);
        self.interrupted(mapper);
        let expected = self.pinned(mapper, granter, reference, writable);
        match (result, expected) {
            (Ok(number), Some(gfn)) => {
                assert!(
                    !self
                        .handles
                        .iter()
                        .any(|one| (one.mapper, one.number) == (mapper, number)),
                    "step {}: handle {number} twice",
                    self.step
                );
                self.parties[mapper].places.insert(at, (granter, gfn, writable));
                let life = self.parties[granter].life;
                self.handles.push(Handle {
                    number,
                    mapper,
                    granter,
                    reference,
                    life,
                    gfn,
                    writable,
                    at,
                });
            }
            (Err(GENERAL), None) => {}
            (result, expected) => panic!("step {}: {result:?}, not {expected:?}", self.step),
        }
    }

    fn unmap(&mut self) {
        if self.handles.is_empty() {
            return;
        }
        let index = self.random.below(self.handles.len() as u64) as usize;
        let handle = self.handles[index];
        let at = match self.random.below(6) {
            0 => WINDOW + self.random.below(PLACES),
            1 => NOWHERE,
            2 => 0,
            _ => handle.at,
        };
        self.unmap_at(handle, at);
    }

    fn unmap_at(&mut self, handle: Handle, at: u64) {
        self.perhaps_interrupt(handle.mapper);
        let status = self.sim.unmap_one(VCPUS[handle.mapper], handle.number, at);
        self.interrupted(handle.mapper);
        let place = (handle.granter, handle.gfn, handle.writable);
        let is_there = at != 0 && self.parties[handle.mapper].places.get(&at) == Some(&place);
        let is_over = self.parties[handle.granter].life != handle.life;
        let (expected, is_gone) = match (at, is_there) {
            (0, _) => (OKAY, false),
            (_, true) => (OKAY, true),
            _ if is_over => (OKAY, true),
            _ => (GENERAL, false),
        };
        assert_eq!(status, expected, "step {}: {handle:?} at {at:#x}", self.step);
        if is_there {
            self.parties[handle.mapper].places.remove(&at);
        }
        if is_gone {
            self.handles
                .retain(|one| (one.mapper, one.number) != (handle.mapper, handle.number));
            let again = self.sim.unmap_one(VCPUS[handle.mapper], handle.number, at);
            assert_eq!(again, GrantStatus::BadHandle, "step {}", self.step);
        }
    }

    /// Somebody gives back all that it has of `granter`, for a place where nothing is.
    fn forsake(&mut self, granter: usize) {
        let Some(mapper) = self.handles.iter().find(|handle| handle.granter == granter) else {
            return;
        };
        let mapper = mapper.mapper;
        let is_its = |handle: &&Handle| (handle.mapper, handle.granter) == (mapper, granter);
        let those: Vec<Handle> = self.handles.iter().filter(is_its).copied().collect();
        for handle in those {
            self.unmap_at(handle, NOWHERE);
        }
    }

    /// Copies a whole page, between the buffer of `user` and an entry.
    fn copy(&mut self) {
        let (user, granter, reference) = (self.party(), self.party(), self.reference());
        if self.parties[user].is_down {
            return;
        }
        let to_grant = self.random.below(2) == 0;
        let own = CopyEnd {
            frame: BUFFER,
            domid: SELF,
            ..Default::default()
        };
        let granted = CopyEnd {
            frame: reference.into(),
            domid: id(granter).0,
            ..Default::default()
        };
        let (source, dest) = if to_grant { (own, granted) } else { (granted, own) };
        let flags = if to_grant {
            grant::COPY_DESTINATION_REFERENCE
        } else {
            grant::COPY_SOURCE_REFERENCE
        };
        let request = GrantCopy {
            source,
            dest,
            len: 4096,
            flags,
            ..Default::default()
        };
        if to_grant {
            self.parties[user].buffer = self.random.next() as u8;
            let page = [self.parties[user].buffer; 4096];
            self.sim.put(id(user), BUFFER << 12, &page);
        }
        self.perhaps_interrupt(user);
        let status = self.sim.copy_one(VCPUS[user], request);
        self.interrupted(user);
        let expected = self.pinned(user, granter, reference, to_grant);
        let is_right = status == if expected.is_some() { OKAY } else { GENERAL };
        assert!(is_right, "step {}: {status:?}, not {expected:?}", self.step);
        if let Some(gfn) = expected {
            let frame = (gfn - SPARE) as usize;
            if to_grant {
                self.parties[granter].bytes[frame] = self.parties[user].buffer;
            } else {
                self.parties[user].buffer = self.parties[granter].bytes[frame];
            }
        }
        let buffer: [u8; 4096] = self.sim.get(id(user), BUFFER << 12);
        assert_eq!(buffer, [self.parties[user].buffer; 4096], "step {}", self.step);
    }

    /// Where the domains have a pCPU each: when the hypervisor first looks at the argument of the next call of `user`,
    /// another domain starts again.
    fn perhaps_interrupt(&mut self, user: usize) {
        let other = self.party();
        let apart = self.sim.pcpu_of(VCPUS[user]) != self.sim.pcpu_of(VCPUS[other]);
        if !apart || self.parties[other].is_down || self.random.below(16) != 0 {
            return;
        }
        self.sim.run_until(VCPUS[user]);
        let (sim, began) = (self.sim.clone(), self.began_meanwhile.clone());
        self.sim.at(VCPUS[user], Moment::Translate(SCRATCH), move || {
            let busy = sim.pcpu_of(VCPUS[user]).0;
            sim.set_stuck(busy, true);
            sim.run_until(VCPUS[other]);
            sim.psci(VCPUS[other], &[SYSTEM_RESET]);
            sim.run_until(VCPUS[other]);
            sim.set_stuck(busy, false);
            began.set(Some(other));
        });
    }

    /// After that call: what the other one's new life means for it. Its guest has granted nothing yet.
    fn interrupted(&mut self, user: usize) {
        // A hook that is left does nothing.
        self.sim.at(VCPUS[user], Moment::Translate(1), || {});
        if let Some(other) = self.began_meanwhile.take() {
            self.interruptions += 1;
            self.ended(other);
            self.began(other);
            self.settle_in(other);
        }
    }

    /// What `party` had of others is given back, and what it granted is of an earlier life.
    fn ended(&mut self, party: usize) {
        self.handles.retain(|handle| handle.mapper != party);
        self.parties[party].places.clear();
        self.parties[party].life += 1;
        self.parties[party].entries = Default::default();
        self.parties[party].is_down = true;
    }

    /// It is up again: nobody else has anything of it.
    fn began(&mut self, party: usize) {
        for other in &mut self.parties {
            other.places.retain(|_, (granter, ..)| *granter != party);
        }
        self.parties[party].is_down = false;
        self.parties[party].bytes = [0; FRAMES as usize];
        self.parties[party].buffer = 0;
    }

    /// A new life of a guest has its table.
    fn settle_in(&mut self, party: usize) {
        is_new(&self.sim, VCPUS[party]);
        assert_eq!(self.sim.map_table(VCPUS[party], 0), 0);
    }

    fn end_or_begin(&mut self) {
        let party = self.party();
        if self.parties[party].is_down {
            let by = (party + 1) % 3;
            let by = if self.parties[by].is_down { (party + 2) % 3 } else { by };
            if self.parties[by].is_down {
                return;
            }
            self.sim.run_until(VCPUS[by]);
            assert_eq!(self.sim.act(VCPUS[by], control::RESTART, id(party)), 0);
            self.began(party);
            self.settle_in(party);
            return;
        }
        let stops = self.random.below(2) == 0 && self.parties.iter().filter(|party| !party.is_down).count() > 1;
        self.sim.run_until(VCPUS[party]);
        self.ended(party);
        if stops {
            let by = (0..3).find(|by| *by != party && !self.parties[*by].is_down);
            let by = by.expect("another one");
            self.sim.run_until(VCPUS[by]);
            let action = control::Action {
                reason: control::Action::POWEROFF,
                ..control::Action::on(id(party).0)
            };
            let (result, _) =
                self.sim
                    .with_structure(VCPUS[by], portunus::abi::hypercall::CONTROL, control::SHUTDOWN, action);
            assert_eq!(result, 0);
            for _ in 0..1000 {
                if matches!(phase(&self.sim, id(party)), Phase::Stopped(_)) {
                    break;
                }
                self.sim.advance(MS);
            }
            assert!(matches!(phase(&self.sim, id(party)), Phase::Stopped(_)));
            if self.random.below(2) == 0 {
                self.forsake(party);
            }
            return;
        }
        self.sim.psci(VCPUS[party], &[SYSTEM_RESET]);
        self.began(party);
        self.settle_in(party);
    }

    /// Everything is as the model says.
    fn check(&self) {
        for (number, party) in self.parties.iter().enumerate() {
            let (domain, step) = (id(number), self.step);
            for at in WINDOW..WINDOW + PLACES {
                let expected = party.places.get(&at);
                let page_use = expected.map(|(.., writable)| PageUse::Granted { writable: *writable });
                assert_eq!(
                    self.sim.page_use(domain, at),
                    page_use,
                    "step {step}: {domain:?} at {at:#x}"
                );
                if let Some((granter, gfn, _)) = expected.filter(|(granter, ..)| !self.parties[*granter].is_down) {
                    let there = self.sim.pa(domain, at << 12);
                    assert_eq!(
                        there,
                        self.sim.pa(id(*granter), gfn << 12),
                        "step {step}: {domain:?} at {at:#x}"
                    );
                    let byte: u8 = self.sim.get(domain, at << 12);
                    assert_eq!(
                        byte,
                        self.parties[*granter].bytes[(gfn - SPARE) as usize],
                        "step {step}"
                    );
                }
            }
            let references: u64 = self
                .sim
                .domain(domain)
                .ram
                .iter()
                .map(|ram| references(&self.sim, *ram))
                .sum();
            let places = self.parties.iter().flat_map(|other| other.places.values());
            let expected = places.filter(|(granter, ..)| *granter == number).count() as u64;
            assert_eq!(references, expected, "step {step}: references to {domain:?}");
            let handles = self.handles.iter().filter(|handle| handle.mapper == number).count();
            assert_eq!(
                self.sim.domain(domain).memory.lock().maptrack.in_use() as usize,
                handles,
                "step {step}"
            );
            let given = self.handles.iter().filter(|handle| handle.granter == number).count();
            assert_eq!(
                self.sim.domain(domain).grants.lock().handles() as usize,
                given,
                "step {step}"
            );
            if party.is_down {
                continue;
            }
            for reference in FIRST..FIRST + ENTRIES {
                let pins = self.pins(number, reference);
                let reading = if pins.is_empty() { 0 } else { READING };
                let writing = if pins.iter().any(|pin| pin.writable) {
                    WRITING
                } else {
                    0
                };
                let expected = self.entry(number, reference).flags | reading | writing;
                let found = self.sim.entry_flags(domain, reference);
                assert_eq!(found, expected, "step {step}: entry {reference} of {domain:?}");
            }
        }
    }

    fn run(&mut self, steps: u32) {
        for step in 0..steps {
            self.step = step;
            match self.random.below(40) {
                0..10 => self.write_entry(),
                10..22 => self.map(),
                22..31 => self.unmap(),
                31..38 => self.copy(),
                _ => self.end_or_begin(),
            }
            self.check();
        }
    }

    /// All start again: nobody has anything of anybody, and each has what it had at first.
    fn end(mut self) -> Vec<Account> {
        for party in [0, 1, 2, 0, 1, 2] {
            self.step += 1;
            if self.parties[party].is_down {
                let by = (0..3).find(|by| !self.parties[*by].is_down).expect("one that runs");
                self.sim.run_until(VCPUS[by]);
                assert_eq!(self.sim.act(VCPUS[by], control::RESTART, id(party)), 0);
            } else {
                self.sim.run_until(VCPUS[party]);
                self.sim.psci(VCPUS[party], &[SYSTEM_RESET]);
                self.ended(party);
            }
            self.began(party);
            self.settle_in(party);
            self.check();
        }
        accounts(&self.sim)
    }
}

fn storm(pcpus: [u8; 5], seeds: std::ops::Range<u64>) -> u32 {
    let options = Options {
        pcpus,
        guest: "portunus,control;",
        stranger: "portunus,control;",
        channels: ["", "portunus,control;"],
        ..lives()
    };
    let at_first = World::new(&options, 1).end();
    assert!(at_first.iter().all(|account| account.references == 0));
    let mut interruptions = 0;
    for seed in seeds {
        let mut world = World::new(&options, 0x9e37_79b9 + seed);
        world.run(1000);
        interruptions += world.interruptions;
        assert_eq!(world.end(), at_first, "seed {seed}");
    }
    interruptions
}

#[test]
fn whoever_dies_at_whatever_step_the_model_knows_who_has_what_of_whom() {
    let interruptions = storm([0, 1, 2, 3, 4], 0..2);
    assert!(interruptions > 10, "{interruptions} in the middle of a call");
}

#[test]
fn so_it_does_where_all_share_a_pcpu() {
    storm([0; 5], 2..3);
}
