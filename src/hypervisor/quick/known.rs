//! Stores whose way is known: where a vCPU's stores to registers of devices went lately, so that the next one like it goes
//! there at once.
//!
//! What is found out about a store is what no look at its instruction and its address alone can change, or what is checked
//! each time: that the doorbells are as they were ([`Board::changes`]),
//! that the backend's channels are as they were ([`Route`]), that the register and its word are where they were, on a page
//! that is shown ([`KnownLine`]). The table is the vCPU's, so that it has no lock.

use super::register_of;
use crate::access::MmioAccess;
use crate::counters::Exit;
use crate::cpu::Cpu;
use crate::domain::Domain;
use crate::domain::vcpu::Attention;
use crate::evtchn::{Arrived, Delivery, Route, Sender};
use crate::hypervisor::{Hypervisor, Located, Quick, VcpuState};
use crate::ids::{DomainId, EventPort, Ipa, Pa, ServerId};
use crate::ioreq::Board;
use crate::ioreq::shadow::Shadow;
use crate::machine::Machine;
use crate::sync::MutexGuard;
use crate::trace::{Kind, rung};
use crate::trap::registers::Saved;
use crate::vgic::{Cleared, KnownLine, Vgic};

/// Stores that a vCPU remembers.
const ENTRIES: usize = 16;

/// What a vCPU remembers of its stores.
#[derive(Debug)]
pub(crate) struct KnownStores([KnownStore; ENTRIES]);

impl Default for KnownStores {
    fn default() -> Self {
        Self([KnownStore::NONE; ENTRIES])
    }
}

impl KnownStores {
    /// What is known there.
    #[inline(always)]
    pub(super) const fn at(&self, place: usize) -> &KnownStore {
        &self.0[place % ENTRIES]
    }

    fn at_mut(&mut self, virtual_address: u64, value: u64) -> &mut KnownStore {
        &mut self.0[Self::place(virtual_address, value)]
    }

    /// The only place of a store of `value` to `virtual_address`. Registers that drivers write in turns have different ones:
    /// those of one device, of devices whose pages follow each other, and a register to which small numbers are written.
    #[inline(always)]
    pub(super) const fn place(virtual_address: u64, value: u64) -> usize {
        (virtual_address >> 2 ^ virtual_address >> 12 ^ value) as usize % ENTRIES
    }
}

/// One of them.
#[derive(Copy, Clone, Debug)]
pub(super) struct KnownStore {
    /// [`key`] of the instruction; 0: none.
    pub(super) key: u64,
    /// Where it stored.
    pub(super) ipa: Ipa,
    /// The state of the domain's doorbells.
    pub(super) changes: u64,
    /// All of the register that it stored.
    pub(super) value: u64,
    /// The register and its word, if it does.
    word: KnownWord,
    /// It rang this one, if it does not.
    pub(super) bell: KnownBell,
}

// A place in the table is found by a shift.
const _: () = assert!(size_of::<KnownStore>() == 128);

impl KnownStore {
    /// It went to a register that acknowledges.
    #[inline(always)]
    pub(super) const fn acknowledges(&self) -> bool {
        self.word.at.0 != 0
    }

    const NONE: Self = Self {
        key: 0,
        ipa: Ipa(0),
        changes: 0,
        value: 0,
        word: KnownWord {
            at: Pa(0),
            line: KnownLine::NONE,
        },
        bell: KnownBell {
            owner: DomainId(0),
            peer: EventPort(0),
            port: EventPort(0),
            server: ServerId(0),
            traced: 0,
            here: false,
            route: Route::NONE,
        },
    };
}

/// What is said of a store by ESR_EL2 (its width and register, that it is plain, what kind of fault it was) and by which
/// registers are in the frame: where both are the same, so is all that follows from them alone.
#[inline(always)]
pub(super) const fn key(esr: u64, saved: Saved) -> u64 {
    esr ^ (saved.bits() as u64) << 32
}

/// A register that acknowledges.
#[derive(Copy, Clone, Debug)]
pub(super) struct KnownWord {
    /// Where its word is shown; 0: there is none.
    at: Pa,
    /// The word, as long as all of this is so.
    line: KnownLine,
}

/// A doorbell and who hears it.
#[derive(Copy, Clone, Debug)]
pub(super) struct KnownBell {
    owner: DomainId,
    /// The owner's port, and this domain's.
    peer: EventPort,
    port: EventPort,
    server: ServerId,
    /// What the trace says of it.
    traced: u32,
    /// The vCPU that hears it has the same pCPU.
    here: bool,
    route: Route,
}

impl<M: Machine> Hypervisor<M> {
    /// Rings a known doorbell, whose owner it returns: the rest is [`Self::after_ring`]'s. `None`: nothing was done.
    #[inline(always)]
    pub(super) fn ring_known(&self, at: Located<'_>, board: &Board, bell: &KnownBell) -> Option<(&Domain, Arrived)> {
        let owner = self.domain(bell.owner)?;
        // Whoever has the channels may wait for this pCPU to leave its guest.
        let events = owner.events.try_lock()?;
        let arrived = events.arrive(&bell.route, &self.machine);
        drop(events);
        if arrived == Arrived::Not {
            return None;
        }
        board.count(bell.server);
        self.machine.trace_loaded(Kind::Doorbell, at.vcpu.id, bell.traced);
        Some((owner, arrived))
    }

    /// What is left to do once the store is done with.
    #[inline(always)]
    pub(super) fn after_ring(&self, at: Located<'_>, bell: &KnownBell, owner: &Domain, arrived: Arrived) -> Quick {
        match arrived {
            Arrived::Upcall => self.tell_rung(owner, bell),
            Arrived::Not | Arrived::Quietly => Quick::Done,
            Arrived::Halfway => self.finish_ring(at, owner, bell),
        }
    }

    /// The doorbell's event is to reach a vCPU of `owner`.
    #[inline(always)]
    fn tell_rung(&self, owner: &Domain, bell: &KnownBell) -> Quick {
        match owner.vcpus.get(usize::from(bell.route.vcpu())) {
            Some(listener) if bell.here && !listener.may_wait() => {
                // It finds it when it is loaded.
                listener.note(Attention::Upcall);
                Quick::Done
            }
            _ => self.wake_rung(owner, bell.route.vcpu()),
        }
    }

    #[inline(never)]
    fn wake_rung(&self, owner: &Domain, listener: u8) -> Quick {
        if owner.vcpus.get(usize::from(listener)).is_none() {
            return Quick::Done;
        }
        let upcall = Some(listener);
        self.announce(
            owner,
            Delivery {
                upcall,
                ..Delivery::NOBODY
            },
        );
        Quick::Due
    }

    /// The doorbell's event is pending, but its guest fights for the word that tells so.
    #[cold]
    #[inline(never)]
    fn finish_ring(&self, at: Located<'_>, owner: &Domain, bell: &KnownBell) -> Quick {
        self.left_guest(at.vcpu.pcpu);
        let sender = Sender {
            domain: at.domain.id,
            port: bell.port,
        };
        let delivery = self.with_words(|words| owner.events.lock().tell(bell.peer, sender, words));
        self.announce(owner, delivery);
        Quick::Due
    }

    /// A store has rung a doorbell: the next one like it goes the short way.
    #[inline(never)]
    pub(super) fn learn_bell(
        &self,
        at: Located<'_>,
        state: &mut VcpuState,
        (esr, far, saved): (u64, u64, Saved),
        access: &MmioAccess,
    ) {
        let Some((ring, changes)) = at.domain.doorbells.look_up(access) else {
            return;
        };
        let sender = Sender {
            domain: at.domain.id,
            port: ring.port,
        };
        let Some(owner) = self.domain(ring.owner) else { return };
        let events = owner.events.try_lock();
        let Some(route) = events.and_then(|events| events.route(ring.peer, sender)) else {
            return;
        };
        let listener = owner.vcpus.get(usize::from(route.vcpu()));
        let value = state.frame.read(register_of(esr));
        *state.known.at_mut(far, value) = KnownStore {
            key: key(esr, saved),
            ipa: access.ipa,
            changes,
            value,
            bell: KnownBell {
                owner: ring.owner,
                peer: ring.peer,
                port: ring.port,
                server: ring.server,
                traced: rung(ring.owner, ring.peer),
                here: listener.is_some_and(|listener| listener.pcpu == at.vcpu.pcpu),
                route,
            },
            ..KnownStore::NONE
        };
    }

    /// A store to a register that acknowledges, of which all is known, clears its word. `None`: nothing was done.
    #[inline(always)]
    pub(super) fn acknowledge_known<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &mut VcpuState,
        place: usize,
    ) -> Option<Quick> {
        // Whoever has the controller may wait for this pCPU to leave its guest.
        let mut vgic = at.domain.vgic.try_lock()?;
        let KnownWord { at: shown, line } = &state.known.at(place).word;
        let store = || {
            self.machine.store_u32(*shown, 0);
            self.machine.complete_stores();
        };
        match vgic.clear_known_word(at.vcpu.id.index, line, cpu.virtual_interface(), store) {
            Cleared::All => {
                drop(vgic);
                self.machine
                    .trace_loaded(Kind::Acknowledged, at.vcpu.id, line.interrupt().0);
                state.count(Exit::Server);
                state.frame.advance_a64();
                Some(Quick::Done)
            }
            Cleared::ButForItsEnd => Some(self.finish_known(at, state, vgic, place)),
            Cleared::Not => None,
        }
    }

    #[cold]
    #[inline(never)]
    fn finish_known(
        &self,
        at: Located<'_>,
        state: &mut VcpuState,
        mut vgic: MutexGuard<'_, Vgic>,
        place: usize,
    ) -> Quick {
        let line = &state.known.at(place).word.line;
        vgic.end_cleared(at.vcpu.id.index, line);
        drop(vgic);
        self.machine
            .trace_loaded(Kind::Acknowledged, at.vcpu.id, line.interrupt().0);
        state.count(Exit::Server);
        state.frame.advance_a64();
        Quick::Done
    }

    /// A store has acknowledged: the next one like it goes the short way.
    #[inline(never)]
    pub(super) fn learn_acknowledgement(
        &self,
        domain: &Domain,
        state: &mut VcpuState,
        (esr, far, saved): (u64, u64, Saved),
        (shadow, ipa): (&Shadow, Ipa),
    ) {
        let Some(changes) = domain.doorbells.changes_without(ipa) else {
            return;
        };
        let value = state.frame.read(register_of(esr));
        let Some((at, line)) = shadow.know(&mut domain.vgic.lock(), ipa, value as u32) else {
            return;
        };
        *state.known.at_mut(far, value) = KnownStore {
            key: key(esr, saved),
            ipa,
            changes,
            value,
            word: KnownWord { at, line },
            ..KnownStore::NONE
        };
    }
}
