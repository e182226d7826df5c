//! Accesses to the pages of registers that a guest is shown: its stores, which stage 2 refuses, and what comes while a page
//! is being changed.

use super::known::{KnownStores, key};
use super::{AARCH32, PLAIN_ACCESS_MASK, Quick, WRITE, register_of};
use crate::access::{AccessWidth, Direction, MmioAccess};
use crate::counters::Exit;
use crate::cpu::{Access, Cpu};
use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
use crate::hypervisor::mmio::PlainAccess;
use crate::hypervisor::posted::Rang;
use crate::hypervisor::shadow::Met;
use crate::hypervisor::{Hypervisor, Located, VcpuState};
use crate::ids::{Ipa, PAGE_SIZE};
use crate::ioreq::ShadowSlot;
use crate::machine::Machine;
use crate::trap::plan::Extension;
use crate::trap::registers::Saved;

/// As [`super::PLAIN_ACCESS`], of a store without the right (WnR, DFSC 0b0011xx).
const PLAIN_STORE_REFUSED: u64 = 0x24 << 26 | 1 << 25 | 1 << 24 | WRITE | 0b0011 << 2;

impl<M: Machine> Hypervisor<M> {
    /// A store to a page that the guest may only read: in a shadow page, one to a register that something is behind. Where
    /// it went is for stage 1 to say, as HPFAR_EL2 does not.
    #[inline(never)]
    pub(super) fn quick_store<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &mut VcpuState,
        esr: u64,
        far: u64,
        saved: Saved,
    ) -> Quick {
        if state.frame.pstate & AARCH32 != 0 {
            return Quick::No;
        }
        // A register that is not in the frame makes this the place of another store, which has another key.
        let value = state.frame.read(register_of(esr));
        let place = KnownStores::place(far, value);
        let (known, board) = (state.known.at(place), at.domain.doorbells.board());
        if known.key == key(esr, saved)
            && cpu.translate(far, Access::Read) == Ok(known.ipa)
            && known.changes == board.changes()
            && known.value == value
        {
            if known.acknowledges() {
                if let Some(quick) = self.acknowledge_known(at, cpu, state, place) {
                    return quick;
                }
            } else if let Some((owner, arrived)) = self.ring_known(at, board, &known.bell) {
                state.count(Exit::Server);
                state.frame.advance_a64();
                return self.after_ring(at, &known.bell, owner, arrived);
            }
        }
        self.quick_store_anew(at, cpu, state, esr, far, saved)
    }

    /// As [`Self::quick_store`], of one whose way is not known.
    #[inline(never)]
    pub(super) fn quick_store_anew<C: Cpu>(
        &self,
        at: Located<'_>,
        cpu: &mut C,
        state: &mut VcpuState,
        esr: u64,
        far: u64,
        saved: Saved,
    ) -> Quick {
        let Located { domain, vcpu } = at;
        let offset = far % PAGE_SIZE;
        let width = AccessWidth::from_sas(esr >> 22);
        let is_store = esr & (PLAIN_ACCESS_MASK | WRITE) == PLAIN_STORE_REFUSED;
        // One at the start of the page, not aligned, may have begun in the page before.
        let is_inside = offset != 0 && offset.is_multiple_of(width.bytes());
        if !is_store || !is_inside || state.frame.pstate & AARCH32 != 0 {
            return Quick::No;
        }
        let register = register_of(esr);
        if !saved.has(register) {
            return Quick::Registers;
        }
        let Ok(ipa) = cpu.translate(far, Access::Read) else {
            // The guest changed its tables meanwhile: it faults there, or not at all.
            return Quick::Done;
        };
        let Some(slot) = domain.shadows.find(ipa) else {
            return Quick::No;
        };
        if domain.doorbells.may_have(ipa) {
            let access = MmioAccess {
                ipa,
                width,
                direction: Direction::Write(state.frame.read(register) & width.mask()),
            };
            if let Some(quick) = self.quick_ring(domain, vcpu, state, &access) {
                self.learn_bell(at, state, (esr, far, saved), &access);
                return quick;
            }
        }
        if width == AccessWidth::Word {
            let Some(shadow) = slot.shadow.try_lock() else {
                return self.store_beside(cpu, (domain, vcpu), state, (slot, true), (esr, far, ipa));
            };
            let (here, bits) = (
                (domain, vcpu, !state.flags.flush_due),
                state.frame.read(register) as u32,
            );
            if let Some(told) = self.acknowledge(cpu, here, &shadow, (ipa, bits)) {
                self.learn_acknowledgement(domain, state, (esr, far, saved), (&shadow, ipa));
                drop(shadow);
                state.count(Exit::Server);
                state.frame.advance_a64();
                return if told { Quick::Due } else { Quick::Done };
            }
        }
        self.store_beside(cpu, (domain, vcpu), state, (slot, false), (esr, far, ipa))
    }

    /// A store of `esr` to `slot`'s page that did not acknowledge at once; `contended`: as somebody else had the page.
    #[inline(never)]
    fn store_beside<C: Cpu>(
        &self,
        cpu: &mut C,
        (domain, vcpu): (&Domain, &Vcpu),
        state: &mut VcpuState,
        (slot, contended): (&ShadowSlot, bool),
        (esr, virtual_address, ipa): (u64, u64, Ipa),
    ) -> Quick {
        let (register, width) = ((esr >> 16 & 31) as u8, AccessWidth::from_sas(esr >> 22));
        let access = MmioAccess {
            ipa,
            width,
            direction: Direction::Write(state.frame.read(register) & width.mask()),
        };
        let plain = PlainAccess {
            access,
            register,
            extension: Extension::Zero,
            virtual_address,
        };
        if contended {
            // Whoever has the page may wait for this pCPU to leave its guest.
            self.left_guest(vcpu.pcpu);
            if self.meets_shadow(cpu, (domain, vcpu), state, (slot, &access)) {
                return Quick::Due;
            }
            return match self.quick_post(cpu, domain, vcpu, state, &plain) {
                Quick::Done => Quick::Due,
                quick => quick,
            };
        }
        self.quick_post(cpu, domain, vcpu, state, &plain)
    }

    /// An access to a shadow page that is dealt with, in whatever state the page is: a register that acknowledges, or a read
    /// that is to be made again. The guest was left.
    #[inline(never)]
    pub(super) fn meets_shadow<C: Cpu>(
        &self,
        cpu: &mut C,
        (domain, vcpu): (&Domain, &Vcpu),
        state: &mut VcpuState,
        (slot, access): (&ShadowSlot, &MmioAccess),
    ) -> bool {
        let met = self.meet_shadow(cpu, (domain, vcpu, !state.flags.flush_due), slot, access);
        if met == Some(Met::Acknowledged) {
            state.count(Exit::Server);
            state.frame.advance_a64();
        }
        met.is_some()
    }

    /// An access to a device of another domain: a doorbell at once, anything else as it comes.
    #[inline]
    pub(super) fn quick_post<C: Cpu>(
        &self,
        cpu: &mut C,
        domain: &Domain,
        vcpu: &Vcpu,
        state: &mut VcpuState,
        plain: &PlainAccess,
    ) -> Quick {
        let may_ring = domain.doorbells.may_have(plain.access.ipa);
        if may_ring && let Some(quick) = self.quick_ring(domain, vcpu, state, &plain.access) {
            return quick;
        }
        if domain.doorbells.board().may_post(plain.access.ipa)
            && let Some(quick) = self.quick_buffered(domain, vcpu, state, &plain.access)
        {
            return quick;
        }
        self.leave_for(cpu, domain, vcpu, state, plain, may_ring)
    }

    /// A write to what may be a buffered range; `None`: it is to be a request, or somebody has what it needs.
    #[inline(never)]
    fn quick_buffered(
        &self,
        domain: &Domain,
        vcpu: &Vcpu,
        state: &mut VcpuState,
        access: &MmioAccess,
    ) -> Option<Quick> {
        if access.direction == Direction::Read {
            return None;
        }
        let quick = match self.post_at_once(domain, vcpu, access) {
            Rang::Yes => Quick::Done,
            Rang::Told => Quick::Due,
            Rang::No => return None,
        };
        state.count(Exit::Server);
        state.frame.advance_a64();
        Some(quick)
    }

    /// A write to what may be a doorbell; `None`: nobody listens, or somebody has what it needs.
    #[inline]
    fn quick_ring(&self, domain: &Domain, vcpu: &Vcpu, state: &mut VcpuState, access: &MmioAccess) -> Option<Quick> {
        let quick = match self.ring_at_once(domain, vcpu, access) {
            Rang::Yes => Quick::Done,
            Rang::Told => Quick::Due,
            Rang::No => return None,
        };
        state.count(Exit::Server);
        state.frame.advance_a64();
        Some(quick)
    }
}
