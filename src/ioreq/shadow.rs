//! Shadow pages: a page of registers that the guest reads without a trap, from a frame that the server writes.
//!
//! Each device that the manifest accelerates has two frames for one page of its registers, for ever. A [`Shadow`] is that
//! page: who serves it, which of the frames the guest is shown, which registers acknowledge interrupts. It has a lock of its
//! own, below that of the target's servers and above those of memory and interrupts, which *update*, *replace* and a guest's
//! acknowledgement share.
//!
//! The words that are acknowledged are the interrupt controller's ([`Vgic::word`]), so that one lock is enough for a guest's
//! store of which all is known ([`Shadow::know`]). It has to be told when that ends ([`Vgic::forget_word`]): before the
//! page is shown otherwise, and before a register acknowledges no more.
//!
//! A page is shown while its server gets requests. When that ends, nothing that the server stores is seen any more; then the
//! page says so to the guest, if the server has named bits for that (it is *left*), or is withdrawn, so that reads wait for
//! a successor as everything else does. A server that ended itself loses the frames; one that the hypervisor found too slow
//! or wrong can't know yet, so it keeps memory where it had them, and a store on its way does it no harm.

use alloc::vec::Vec;

use super::ack::Ack;
use super::ranges::Range;
use crate::abi::HypercallError;
use crate::abi::dm_op::VENDOR_FIRST_SHADOW_FRAME;
use crate::ids::{DomainId, IntId, Ipa, PAGE_SIZE, Pa, ServerId};
use crate::machine::Machine;
use crate::sync::Mutex;
use crate::vgic::{KnownLine, Line, Vgic};

/// Acknowledgement registers that a page can have.
pub const MAX_ACKS: usize = 4;

/// The server that a page was attached by. Ids are used again; serial numbers are not.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Holder {
    /// Its domain.
    pub domain: DomainId,
    /// Its id.
    pub server: ServerId,
    /// How many servers the target had before it.
    pub serial: u64,
}

/// What the page says when its server has failed.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct FailureMark {
    /// The word that says it.
    pub offset: u32,
    /// The bits that are set there; 0: the page is withdrawn instead.
    pub bits: u32,
    /// The bits that are set in the words of its acknowledgement registers.
    pub interrupt: u32,
}

/// When a page is shown whose server serves.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Begin {
    /// At once.
    AtOnce,
    /// When it has been replaced once.
    AfterReplace,
}

/// Where a page is in its life.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum State {
    /// Nobody has attached it.
    Idle,
    /// A server has; the guest is shown it or not yet.
    Attached(Holder),
    /// Its server is gone and the guest is shown what it left.
    Left,
}

/// One page. See the module.
#[derive(Debug)]
pub struct Shadow {
    frames: [Pa; 2],
    /// Which of them the guest is shown, or will be.
    current: usize,
    page: Ipa,
    state: State,
    shown: bool,
    begin: Begin,
    mark: FailureMark,
    acks: heapless::Vec<Ack, MAX_ACKS>,
    /// Where each frame is in its server's map, as it was last asked for.
    mapped: [Option<(DomainId, Ipa)>; 2],
}

/// A line that changes, and how.
pub type LineChange = (IntId, Line);

impl Shadow {
    /// A page that nobody has attached.
    pub const fn new(frames: [Pa; 2]) -> Self {
        Self {
            frames,
            current: 0,
            page: Ipa(0),
            state: State::Idle,
            shown: false,
            begin: Begin::AtOnce,
            mark: FailureMark {
                offset: 0,
                bits: 0,
                interrupt: 0,
            },
            acks: heapless::Vec::new(),
            mapped: [None; 2],
        }
    }

    /// Where it is in its life.
    pub const fn state(&self) -> State {
        self.state
    }

    /// The guest's address of it, while somebody has attached it or left it.
    pub const fn page(&self) -> Ipa {
        self.page
    }

    /// Its addresses.
    pub fn range(&self) -> Option<Range> {
        Range::from_length(self.page.0, PAGE_SIZE)
    }

    /// Whether the guest is shown it.
    #[inline]
    pub const fn is_shown(&self) -> bool {
        self.shown
    }

    /// The frames of the device.
    pub const fn frames(&self) -> [Pa; 2] {
        self.frames
    }

    /// The frame that the guest is shown, or will be, and its number among the two.
    pub const fn current(&self) -> (Pa, usize) {
        let [first, second] = self.frames;
        (if self.current == 0 { first } else { second }, self.current)
    }

    /// Its acknowledgement registers.
    pub fn acks(&self) -> &[Ack] {
        &self.acks
    }

    /// Who has it is `domain`'s server of this id.
    ///
    /// # Errors
    /// ENOENT.
    pub fn held_by(&self, domain: DomainId, server: ServerId) -> Result<(), HypercallError> {
        match self.state {
            State::Attached(holder) if holder.domain == domain && holder.server == server => Ok(()),
            _ => Err(HypercallError::NoEntry),
        }
    }

    /// Gives it to a server: both frames are zero, and no register acknowledges. It was idle, and its frames in nobody's map.
    pub fn attach(&mut self, machine: &impl Machine, holder: Holder, page: Ipa, mark: FailureMark, begin: Begin) {
        for frame in self.frames {
            machine.zero(frame, PAGE_SIZE);
        }
        machine.complete_stores();
        self.current = 0;
        self.page = page;
        self.state = State::Attached(holder);
        self.shown = false;
        self.begin = begin;
        self.mark = mark;
        self.acks.clear();
        self.mapped = [None; 2];
    }

    /// Nobody has it any more. The guest is not shown it, and no line is its.
    pub fn release(&mut self) {
        self.state = State::Idle;
        self.shown = false;
        self.acks.clear();
    }

    /// When it is shown, if its server serves.
    pub const fn begin(&self) -> Begin {
        self.begin
    }

    /// The guest is shown it from now on, or no more.
    pub fn set_shown(&mut self, vgic: &mut Vgic, shown: bool) {
        self.forget(vgic);
        self.shown = shown;
    }

    /// Nobody knows any more where its words are.
    fn forget(&self, vgic: &mut Vgic) {
        for ack in &self.acks {
            vgic.forget_word(ack.interrupt);
        }
    }

    /// Where frame number `which` is in its server's map, if it was not moved since.
    pub fn mapped(&self, which: usize) -> Option<(DomainId, Ipa)> {
        self.mapped.get(which).copied().flatten()
    }

    /// Frame number `which` is there in its server's map, or nowhere.
    pub fn set_mapped(&mut self, which: usize, at: Option<(DomainId, Ipa)>) {
        if let Some(mapped) = self.mapped.get_mut(which) {
            *mapped = at;
        }
    }

    /// Another register that acknowledges; its word, now zero, is published.
    ///
    /// # Errors
    /// EEXIST: the register or the word has one already; ENOSPC.
    pub fn add_ack(&mut self, machine: &impl Machine, ack: Ack) -> Result<(), HypercallError> {
        let same = |other: &Ack| other.register == ack.register || other.offset == ack.offset;
        if self.acks.iter().any(same) {
            return Err(HypercallError::Exists);
        }
        self.acks.push(ack).map_err(|_| HypercallError::NoSpace)?;
        machine.store_u32(self.place(&ack), 0);
        machine.complete_stores();
        Ok(())
    }

    /// Where the word of a register is shown.
    const fn place(&self, ack: &Ack) -> Pa {
        Pa(self.current().0.0 | ack.offset as u64)
    }

    /// Takes a register away; its word stays in the page as it is.
    ///
    /// # Errors
    /// ENOENT.
    pub fn remove_ack(&mut self, vgic: &mut Vgic, register: Ipa) -> Result<Ack, HypercallError> {
        let index = self.acks.iter().position(|ack| ack.register == register);
        let removed = index.map(|index| self.acks.swap_remove(index));
        let removed = removed.ok_or(HypercallError::NoEntry)?;
        vgic.forget_word(removed.interrupt);
        Ok(removed)
    }

    /// The vendor operation *update*.
    ///
    /// # Errors
    /// ENOENT: no such register.
    pub fn update(
        &self,
        machine: &impl Machine,
        vgic: &mut Vgic,
        register: Ipa,
        (clear, set): (u32, u32),
    ) -> Result<LineChange, HypercallError> {
        self.change(machine, vgic, register, (clear, set))
            .ok_or(HypercallError::NoEntry)
    }

    /// The guest writes `bits` to `register`; `None`: that register does not acknowledge now.
    #[inline(always)]
    pub fn acknowledge(&self, machine: &impl Machine, vgic: &mut Vgic, register: Ipa, bits: u32) -> Option<LineChange> {
        if !self.shown {
            return None;
        }
        self.change(machine, vgic, register, (bits, 0))
    }

    #[inline(always)]
    fn change(
        &self,
        machine: &impl Machine,
        vgic: &mut Vgic,
        register: Ipa,
        (clear, set): (u32, u32),
    ) -> Option<LineChange> {
        let ack = self.acks.iter().find(|ack| ack.register == register)?;
        let (word, line) = vgic.change_word(ack.interrupt, clear, set);
        machine.store_u32(self.place(ack), word);
        machine.complete_stores();
        Some((ack.interrupt, line))
    }

    /// Where the word of `register` is shown, and the line that it is, for stores of `bits` there that clear all of it: until the
    /// interrupt controller forgets that line, nothing else need be looked at. `None`: it does not acknowledge now.
    pub fn know(&self, vgic: &mut Vgic, register: Ipa, bits: u32) -> Option<(Pa, KnownLine)> {
        let ack = self.acks.iter().find(|ack| ack.register == register && self.shown)?;
        Some((self.place(ack), vgic.know_word(ack.interrupt, bits)?))
    }

    /// The frame that is not shown has the true words, too, for a server that is to have it in place of the other.
    pub fn share_words(&self, machine: &impl Machine, vgic: &Vgic) {
        let [first, second] = self.frames;
        self.publish_in(machine, vgic, if self.current == 0 { second } else { first });
    }

    /// The true words are in the current frame, whatever its server wrote there.
    fn publish(&self, machine: &impl Machine, vgic: &Vgic) {
        self.publish_in(machine, vgic, self.current().0);
    }

    fn publish_in(&self, machine: &impl Machine, vgic: &Vgic, frame: Pa) {
        for ack in &self.acks {
            machine.store_u32(Pa(frame.0 | u64::from(ack.offset)), vgic.word(ack.interrupt));
        }
        machine.complete_stores();
    }

    /// The vendor operation *replace*: the other frame, with the true words in it, is the one to be shown.
    pub fn turn(&mut self, machine: &impl Machine, vgic: &mut Vgic) {
        self.forget(vgic);
        self.current ^= 1;
        self.begin = Begin::AtOnce;
        self.publish(machine, vgic);
    }

    /// Whether the page stays when its server fails.
    pub const fn stays(&self) -> bool {
        self.shown && self.mark.bits != 0
    }

    /// The server has failed, and has lost its mappings: the page says so from now on.
    pub fn leave(&mut self, machine: &impl Machine, vgic: &mut Vgic) -> heapless::Vec<LineChange, MAX_ACKS> {
        self.forget(vgic);
        self.state = State::Left;
        let mark = self.mark;
        let (frame, _) = self.current();
        let mut lines = heapless::Vec::new();
        let at = Pa(frame.0 | u64::from(mark.offset));
        machine.store_u32(at, machine.load_u32(at) | mark.bits);
        for ack in &self.acks {
            let also = if ack.offset == mark.offset { mark.bits } else { 0 };
            let (_, line) = vgic.change_word(ack.interrupt, 0, mark.interrupt | also);
            // There is room: one a register.
            let _ = lines.push((ack.interrupt, line));
        }
        self.publish(machine, vgic);
        lines
    }

    /// The target starts anew, and its interrupt controller was reset: the words are zero. What its map has of the page was
    /// taken out with everything else.
    pub fn restart(&mut self, machine: &impl Machine, vgic: &mut Vgic) {
        self.set_shown(vgic, false);
        for ack in &self.acks {
            let _ = vgic.change_word(ack.interrupt, u32::MAX, 0);
        }
        if self.state != State::Idle {
            self.publish(machine, vgic);
        }
    }
}

/// The page of one device.
#[derive(Debug)]
pub struct ShadowSlot {
    /// The device's registers.
    pub device: Range,
    /// The device's number among the target's, by address.
    pub number: usize,
    /// What is made of its frames.
    pub shadow: Mutex<Shadow>,
}

impl ShadowSlot {
    /// For XENMEM_acquire_resource, the number of frame `which` of the two.
    pub const fn frame_number(&self, which: usize) -> u64 {
        VENDOR_FIRST_SHADOW_FRAME + 2 * self.number as u64 + which as u64
    }
}

/// The pages of one target, by the address of their devices. Which there are is fixed when the domain is built.
#[derive(Debug, Default)]
pub struct Shadows(Vec<ShadowSlot>);

impl Shadows {
    /// `slots` must not overlap.
    pub fn new(mut slots: Vec<ShadowSlot>) -> Self {
        crate::sorting::sort_by_key(&mut slots, |slot| slot.device.start());
        Self(slots)
    }

    /// All of them.
    pub fn iter(&self) -> core::slice::Iter<'_, ShadowSlot> {
        self.0.iter()
    }

    /// The one of the device that has this address.
    #[inline]
    pub fn find(&self, at: Ipa) -> Option<&ShadowSlot> {
        let slot = match self.0.as_slice() {
            // As most guests have it.
            [only] => only,
            slots => {
                let after = slots.partition_point(|slot| slot.device.start() <= at.0);
                slots.get(after.checked_sub(1)?)?
            }
        };
        let device = slot.device;
        (device.start() <= at.0 && at.0 <= device.end()).then_some(slot)
    }

    /// The one of a device's frame, and which of the two frames it is.
    pub fn by_frame_number(&self, number: u64) -> Option<(&ShadowSlot, usize)> {
        let index = number.checked_sub(VENDOR_FIRST_SHADOW_FRAME)?;
        let slot = self.0.iter().find(|slot| slot.number as u64 == index / 2)?;
        Some((slot, (index % 2) as usize))
    }
}

impl<'a> IntoIterator for &'a Shadows {
    type Item = &'a ShadowSlot;
    type IntoIter = core::slice::Iter<'a, ShadowSlot>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
