//! Making an event pending in the shared page, and waking who waits for it.

use super::EventChannels;
use crate::abi::HypercallError;
use crate::abi::shared_info::{PORTS_PER_WORD, SharedInfo, VcpuInfo};
use crate::ids::{EventPort, MAX_VCPUS, Pa, VcpuSet};
use crate::memory::PhysicalMemory;
use crate::memory::atomic::{SharedWords, Starved};

/// What the caller must do after an event: both parts can be empty.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
#[must_use]
pub struct Delivery {
    /// Make [`super::UPCALL`] pending on this vCPU.
    pub upcall: Option<u8>,
    /// End these vCPUs' SCHEDOP_poll.
    pub wake: VcpuSet,
}

impl Delivery {
    /// Nothing is to be done.
    pub const NOBODY: Self = Self {
        upcall: None,
        wake: VcpuSet::EMPTY,
    };
}

/// What a vCPU in SCHEDOP_poll waits for.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum Poller {
    /// It does not poll.
    #[default]
    None,
    /// An event on this port.
    One(EventPort),
    /// An event on any port: the vCPU looks again itself.
    Any,
}

/// What SCHEDOP_poll found.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum PollOutcome {
    /// One of the ports has an event.
    Ready,
    /// The vCPU sleeps until [`Delivery::wake`] names it.
    Wait,
}

/// Where a port's bit is: the word's index and the bit in it.
pub(super) fn bit(port: EventPort) -> (u64, u64) {
    (u64::from(port.0 / PORTS_PER_WORD), 1 << (port.0 % PORTS_PER_WORD))
}

impl EventChannels {
    pub(super) fn pending_word(&self, index: u64) -> Pa {
        Pa(self.shared_info.0 + SharedInfo::PENDING_OFFSET + index * 8)
    }

    pub(super) fn mask_word(&self, index: u64) -> Pa {
        Pa(self.shared_info.0 + SharedInfo::MASK_OFFSET + index * 8)
    }

    /// Whether `port` has an event, and whether the guest has masked it.
    pub(super) fn state<M: PhysicalMemory + ?Sized>(&self, port: EventPort, memory: &M) -> (bool, bool) {
        let (index, bit) = bit(port);
        let is_set = |word| memory.load_u64(word) & bit != 0;
        (is_set(self.pending_word(index)), is_set(self.mask_word(index)))
    }

    /// Makes `port` pending.
    pub(super) fn set_port_pending<M: PhysicalMemory + ?Sized>(
        &mut self,
        port: EventPort,
        words: &SharedWords<'_, M>,
    ) -> Delivery {
        let vcpu = self.port(port).map_or(0, |entry| entry.vcpu);
        self.set_pending(port, vcpu, words)
    }

    /// Makes `port` pending, which notifies `vcpu`. A word that can't be changed in bounded time loses the event: only the
    /// domain itself can cause that, and only it is harmed.
    #[inline(always)]
    pub(super) fn set_pending<M: PhysicalMemory + ?Sized>(
        &mut self,
        port: EventPort,
        vcpu: u8,
        words: &SharedWords<'_, M>,
    ) -> Delivery {
        let (index, bit) = bit(port);
        match words.set_bits(self.pending_word(index), bit) {
            Ok(before) if before & bit == 0 => self.announce_pending(port, vcpu, words),
            _ => Delivery::default(),
        }
    }

    /// `port` has become pending.
    #[inline(always)]
    pub(super) fn announce_pending<M: PhysicalMemory + ?Sized>(
        &mut self,
        port: EventPort,
        vcpu: u8,
        words: &SharedWords<'_, M>,
    ) -> Delivery {
        let (index, bit) = bit(port);
        let masked = words.memory.load_u64(self.mask_word(index)) & bit != 0;
        let upcall = if masked { None } else { self.select(index, vcpu, words) };
        let wake = if self.polls {
            self.wake_pollers(port)
        } else {
            VcpuSet::EMPTY
        };
        Delivery { upcall, wake }
    }

    /// Tells `vcpu` that word `index` has news.
    #[inline(always)]
    pub(super) fn select<M: PhysicalMemory + ?Sized>(
        &self,
        index: u64,
        vcpu: u8,
        words: &SharedWords<'_, M>,
    ) -> Option<u8> {
        let info = (*self.vcpu_info.get(usize::from(vcpu))?)?;
        let selector = 1 << index;
        let selected = words
            .set_bits(Pa(info.0 + VcpuInfo::PENDING_SEL_OFFSET), selector)
            .ok()?;
        if selected & selector != 0 {
            return None;
        }
        self.mark_upcall(info, words.memory).then_some(vcpu)
    }

    /// Tells the vCPU whose place is `info` that there are words with news; `false`: it was told so before.
    ///
    /// A load and a store are enough. Nobody else sets the byte while this domain is locked; and a guest clears it before it
    /// takes the words, of which one was set before this load, so that one that clears it after the load finds that word.
    #[inline(always)]
    pub(super) fn mark_upcall<M: PhysicalMemory + ?Sized>(&self, info: Pa, memory: &M) -> bool {
        let upcall = Pa(info.0 + VcpuInfo::UPCALL_PENDING_OFFSET);
        let before = memory.load_u8(upcall);
        if before & 1 == 0 {
            memory.store_u8(upcall, 1);
        }
        before & 1 == 0
    }

    #[cold]
    #[inline(never)]
    fn wake_pollers(&mut self, port: EventPort) -> VcpuSet {
        let mut wake = VcpuSet::EMPTY;
        self.polls = false;
        for (index, poller) in self.pollers.iter_mut().enumerate() {
            if *poller == Poller::Any || *poller == Poller::One(port) {
                *poller = Poller::None;
                wake.insert(index as u8);
            }
            self.polls |= *poller != Poller::None;
        }
        wake
    }

    /// EVTCHNOP_unmask.
    ///
    /// # Errors
    /// EINVAL: no such port, or an attached one.
    pub fn unmask<M: PhysicalMemory + ?Sized>(
        &mut self,
        port: EventPort,
        words: &SharedWords<'_, M>,
    ) -> Result<Delivery, HypercallError> {
        if port > self.highest_port() {
            return Err(HypercallError::Invalid);
        }
        let vcpu = self.guest_port(port)?.vcpu;
        let (index, bit) = bit(port);
        let unmasked = || -> Result<Option<u8>, Starved> {
            let was_masked = words.clear_bits(self.mask_word(index), bit)? & bit != 0;
            if was_masked && words.memory.load_u64(self.pending_word(index)) & bit != 0 {
                return Ok(self.select(index, vcpu, words));
            }
            Ok(None)
        };
        Ok(Delivery {
            upcall: unmasked().unwrap_or(None),
            wake: VcpuSet::EMPTY,
        })
    }

    /// Forgets an event of a port that is being freed.
    pub(super) fn clear_pending<M: PhysicalMemory + ?Sized>(&self, port: EventPort, words: &SharedWords<'_, M>) {
        let (index, bit) = bit(port);
        // A guest that fights for the word keeps a stale bit of its own port, as if it had set it itself.
        let _ = words.clear_bits(self.pending_word(index), bit);
    }

    /// SCHEDOP_poll of `vcpu`: if none of `ports` has an event, the vCPU is noted as waiting for them.
    ///
    /// # Errors
    /// EINVAL: no such port, or an attached one; ENOENT: no such vCPU.
    pub fn poll<M: PhysicalMemory + ?Sized>(
        &mut self,
        vcpu: u8,
        ports: &[u32],
        memory: &M,
    ) -> Result<PollOutcome, HypercallError> {
        self.check_vcpu(vcpu.into())?;
        for port in ports {
            self.guest_port(EventPort(*port))?;
        }
        let poller = match ports {
            [only] => Poller::One(EventPort(*only)),
            _ => Poller::Any,
        };
        let has_event = ports.iter().any(|port| {
            let (index, bit) = bit(EventPort(*port));
            memory.load_u64(self.pending_word(index)) & bit != 0
        });
        if has_event {
            return Ok(PollOutcome::Ready);
        }
        if let Some(slot) = self.pollers.get_mut(usize::from(vcpu)) {
            *slot = poller;
            if !core::mem::replace(&mut self.polls, true) {
                self.changes = self.changes.wrapping_add(1);
            }
        }
        Ok(PollOutcome::Wait)
    }

    /// The wait of `vcpu` ended by time or by an interrupt.
    pub fn stop_polling(&mut self, vcpu: u8) {
        if let Some(slot) = self.pollers.get_mut(usize::from(vcpu)) {
            *slot = Poller::None;
        }
    }

    /// Whether `vcpu` has been told of news that it has not taken: what SCHEDOP_block and WFI look at.
    pub fn has_upcall<M: PhysicalMemory + ?Sized>(&self, vcpu: u8, memory: &M) -> bool {
        self.vcpu_info
            .get(usize::from(vcpu))
            .copied()
            .flatten()
            .is_some_and(|info| memory.load_u8(Pa(info.0 + VcpuInfo::UPCALL_PENDING_OFFSET)) != 0)
    }

    /// VCPUOP_register_vcpu_info: `vcpu` reads its news at `info` from now on: 48 bytes in one frame, 8-byte aligned,
    /// which the caller has checked and keeps from being freed. What was pending is copied, and everything is announced
    /// anew.
    ///
    /// # Errors
    /// ENOENT: no such vCPU; EBUSY: it has registered before.
    pub fn register_vcpu_info<M: PhysicalMemory + ?Sized>(
        &mut self,
        vcpu: u32,
        info: Pa,
        words: &SharedWords<'_, M>,
    ) -> Result<Delivery, HypercallError> {
        let vcpu = self.check_vcpu(vcpu)?;
        let shared = self.shared_info;
        let slot = self
            .vcpu_info
            .get_mut(usize::from(vcpu))
            .ok_or(HypercallError::NoEntry)?;
        let mut contents = [0; VcpuInfo::SIZE as usize];
        match *slot {
            Some(old) if old != shared => return Err(HypercallError::Busy),
            Some(old) => words.memory.read(old, &mut contents),
            None => {}
        }
        *slot = Some(info);
        self.changes = self.changes.wrapping_add(1);
        words.memory.write(info, &contents);
        words
            .memory
            .store_u64(Pa(info.0 + VcpuInfo::PENDING_SEL_OFFSET), u64::MAX);
        words.memory.store_u8(Pa(info.0 + VcpuInfo::UPCALL_PENDING_OFFSET), 1);
        Ok(Delivery {
            upcall: Some(vcpu),
            wake: VcpuSet::EMPTY,
        })
    }

    /// The domain starts again: its vCPUs have registered nothing and wait for nothing. The caller has closed its ports
    /// and zeroed its shared page.
    pub fn restart(&mut self) {
        self.changes = self.changes.wrapping_add(1);
        self.vcpu_info = [None; MAX_VCPUS];
        self.vcpu_info[0] = Some(self.shared_info);
        self.pollers = [Poller::None; MAX_VCPUS];
    }

    /// Whether `vcpu` has registered a place of its own.
    pub fn has_registered(&self, vcpu: u8) -> bool {
        let info = self.vcpu_info.get(usize::from(vcpu)).copied().flatten();
        info.is_some_and(|info| info != self.shared_info)
    }

    /// The domain's shared_info page.
    pub fn shared_info(&self) -> Pa {
        self.shared_info
    }
}
