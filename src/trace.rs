//! What happened lately on each pCPU: events of sixteen bytes in a ring, always on, written by the pCPU alone.
//!
//! Nothing is formatted where an event happens. `arch` keeps the rings under the symbol `portunus_trace`; a person at the
//! console, an epitaph or a tool outside of the machine reads them whenever they like. An event is two words: the system
//! counter, and [`word`] with the counter's low bits in it, so that a reader can tell halves of different events, and
//! memory that never held one ([`Event::decode`]).

use core::fmt;

use crate::ids::{DomainId, EventPort, ServerId, VcpuId};

/// What an event is. The words in brackets are what its argument holds.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A guest left for EL2 by a synchronous exception that is no call (ESR_EL2, low word).
    Trap = 1,
    /// A hypercall of the ABI ([`call`]).
    Hypercall = 2,
    /// A call of firmware: PSCI, SMCCC (the function's identifier).
    Firmware = 3,
    /// A physical interrupt was taken while the vCPU was loaded (INTID).
    Interrupt = 4,
    /// A server was given the vCPU's request ([`served`]).
    Posted = 5,
    /// The server answered the vCPU's request ([`served`]).
    Answered = 6,
    /// The vCPU's request waits for a server that is not there (the address, shifted right by the bits of a page).
    Absent = 7,
    /// The server failed or is late: the device's policy decides about the vCPU's request ([`served`]).
    Failed = 8,
    /// The vCPU took the answer and goes on (1: an external abort; 0: a value).
    Taken = 9,
    /// The vCPU wrote to a doorbell ([`rung`]).
    Doorbell = 10,
    /// The vCPU's write was posted to a buffered ring ([`served`]).
    Buffered = 11,
    /// The vCPU acknowledged a device's interrupt by a register that EL2 serves (INTID).
    Acknowledged = 12,
    /// An interrupt became pending for the vCPU in its virtual interrupt controller, or came into its list registers
    /// (INTID).
    Injected = 13,
    /// The vCPU ended an interrupt, where EL2 sees it: its list register was given back (INTID).
    Ended = 14,
    /// The pCPU loaded the vCPU ([`vcpu_byte`] of the one before; 0: none).
    Switched = 15,
    /// The pCPU has nothing to run (0). The vCPU is the one still loaded.
    Idle = 16,
    /// The vCPU wanted what it may not have ([`Denial`]).
    Denied = 17,
}

impl Kind {
    /// Every kind, in the order of their numbers, which begin at 1.
    pub const ALL: [Self; 17] = [
        Self::Trap,
        Self::Hypercall,
        Self::Firmware,
        Self::Interrupt,
        Self::Posted,
        Self::Answered,
        Self::Absent,
        Self::Failed,
        Self::Taken,
        Self::Doorbell,
        Self::Buffered,
        Self::Acknowledged,
        Self::Injected,
        Self::Ended,
        Self::Switched,
        Self::Idle,
        Self::Denied,
    ];

    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Hypercall => "hypercall",
            Self::Firmware => "firmware call",
            Self::Interrupt => "interrupt",
            Self::Posted => "request posted",
            Self::Answered => "request answered",
            Self::Absent => "no server",
            Self::Failed => "server failed",
            Self::Taken => "answer taken",
            Self::Doorbell => "doorbell",
            Self::Buffered => "buffered write",
            Self::Acknowledged => "acknowledged",
            Self::Injected => "injected",
            Self::Ended => "ended",
            Self::Switched => "switch",
            Self::Idle => "idle",
            Self::Denied => "denied",
        }
    }
}

/// What was denied: the argument of [`Kind::Denied`], with the other domain in its upper half where there is one.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u16)]
pub enum Denial {
    /// A right that the manifest does not give.
    Policy = 1,
    /// An access that nobody answers, or that memory or a device refuses: an abort.
    Refused = 2,
    /// An instruction or a call that guests do not have: an undefined instruction.
    Undefined = 3,
}

impl Denial {
    /// As an argument; `object` is whom the vCPU wanted something of.
    pub const fn argument(self, object: Option<DomainId>) -> u32 {
        let object = match object {
            Some(DomainId(number)) => number,
            None => 0,
        };
        (object as u32) << 16 | self as u32
    }
}

/// A hypercall's number and the low half of its first argument, which is the operation for most.
#[inline]
pub const fn call(number: u64, first: u64) -> u32 {
    (first as u16 as u32) << 16 | number as u16 as u32
}

/// Who serves a request: the backend's domain and the server's number.
#[inline]
pub const fn served(backend: DomainId, server: ServerId) -> u32 {
    (backend.0 as u32) << 16 | server.0 as u32
}

/// Whom a doorbell wakes: the backend's domain and its port that becomes pending.
#[inline]
pub const fn rung(backend: DomainId, port: EventPort) -> u32 {
    (backend.0 as u32) << 16 | port.0 as u16 as u32
}

/// Bits of a vCPU's index in [`vcpu_byte`].
const INDEX_BITS: u32 = 3;
const _: () = assert!(crate::ids::MAX_VCPUS <= 1 << INDEX_BITS && crate::ids::MAX_DOMAINS < 1 << (8 - INDEX_BITS));

/// A vCPU in eight bits: its domain above its index; 0 is nobody.
#[inline]
pub const fn vcpu_byte(vcpu: VcpuId) -> u8 {
    (vcpu.domain.0 as u8) << INDEX_BITS | vcpu.index & ((1 << INDEX_BITS) - 1)
}

/// The vCPU of a [`vcpu_byte`].
pub const fn vcpu_of(byte: u8) -> Option<VcpuId> {
    if byte >> INDEX_BITS == 0 {
        return None;
    }
    Some(VcpuId {
        domain: DomainId((byte >> INDEX_BITS) as u16),
        index: byte & ((1 << INDEX_BITS) - 1),
    })
}

/// Bit offset of the vCPU in an event's second word.
pub const VCPU: u32 = 32;
/// Bit offset of the kind.
const KIND: u32 = 40;
/// Where the low bits of the first word are repeated, to the end of the word.
pub const CHECK: u32 = 48;

/// A vCPU where it is in an event's second word.
#[inline]
pub const fn vcpu_bits(vcpu: VcpuId) -> u64 {
    (vcpu_byte(vcpu) as u64) << VCPU
}

/// The second word of an event without its check: argument, vCPU ([`vcpu_bits`]), kind.
#[inline]
pub const fn word(kind: Kind, vcpu: u64, argument: u32) -> u64 {
    (kind as u64) << KIND | vcpu | argument as u64
}

/// An event that was read.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// The system counter then.
    pub time: u64,
    /// What.
    pub kind: Kind,
    /// Whose; `None`: nobody's.
    pub vcpu: Option<VcpuId>,
    /// As `kind` says.
    pub argument: u32,
}

impl Event {
    /// The event's two words.
    pub fn encode(&self) -> [u64; 2] {
        let vcpu = self.vcpu.map_or(0, vcpu_byte);
        let word = word(self.kind, u64::from(vcpu) << VCPU, self.argument);
        [self.time, word | self.time << CHECK]
    }

    /// The event in two words of a ring; `None`: there is none, or halves of two.
    pub fn decode([time, word]: [u64; 2]) -> Option<Self> {
        if word >> CHECK != time & u64::MAX >> CHECK {
            return None;
        }
        Some(Self {
            time,
            kind: Kind::from_number((word >> KIND) as u8)?,
            vcpu: vcpu_of((word >> VCPU) as u8),
            argument: word as u32,
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vcpu {
            Some(vcpu) => write!(f, "d{}v{}", vcpu.domain.0, vcpu.index)?,
            None => f.write_str("-")?,
        }
        write!(f, " {}", self.kind.name())?;
        let (upper, lower) = (self.argument >> 16, self.argument & 0xffff);
        match self.kind {
            Kind::Idle | Kind::Taken if self.argument == 0 => Ok(()),
            Kind::Taken => f.write_str(": external abort"),
            Kind::Hypercall => write!(f, " {lower} operation {upper}"),
            Kind::Posted | Kind::Answered | Kind::Failed | Kind::Buffered => write!(f, " d{upper} server {lower}"),
            Kind::Doorbell => write!(f, " d{upper} port {lower}"),
            Kind::Absent => write!(f, " for page {:#x}", self.argument),
            Kind::Interrupt | Kind::Injected | Kind::Ended | Kind::Acknowledged => write!(f, " {}", self.argument),
            Kind::Switched => match vcpu_of(self.argument as u8) {
                Some(from) => write!(f, " from d{}v{}", from.domain.0, from.index),
                None => Ok(()),
            },
            Kind::Denied if upper != 0 => write!(f, " {lower} of d{upper}"),
            Kind::Denied => write!(f, " {lower}"),
            Kind::Trap | Kind::Firmware | Kind::Idle => write!(f, " {:#x}", self.argument),
        }
    }
}
