//! The device that a mortal backend serves, as its guest and the backend know it: 32-bit registers that are only read.
#![no_std]

/// Offset of the register that gives [`ALIVE`].
pub const LIFE: u64 = 0x00;
/// What [`LIFE`] gives.
pub const ALIVE: u32 = 0x616c_6976;
/// What the register of a death gives when the backend has died that death already.
pub const REBORN: u32 = 0x7265_626f;
/// After a death that the backend's domain survives: when it makes a new server, in microseconds.
pub const REBIRTH_AFTER: u64 = 20_000;

/// How a backend dies when its guest reads the register at that offset.
///
/// Of the deaths that end its domain's work, a backend dies when each of its devices has been asked for one.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u64)]
pub enum Death {
    /// PSCI SYSTEM_OFF.
    PowerOff = 0x10,
    /// An exception that nothing handles: the domain crashes.
    Exception = 0x20,
    /// An endless loop.
    Spin = 0x30,
    /// States that do not exist, twice in the slot of the request; then a new server.
    BadState = 0x40,
    /// The server is destroyed; then a new one.
    Destroy = 0x50,
}

impl Death {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::PowerOff,
        Self::Exception,
        Self::Spin,
        Self::BadState,
        Self::Destroy,
    ];

    /// The offset of its register.
    pub const fn offset(self) -> u64 {
        self as u64
    }

    /// The death whose register is at `offset`.
    pub fn at(offset: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|death| death.offset() == offset)
    }

    /// Whether the domain still runs afterwards.
    pub const fn is_survived(self) -> bool {
        matches!(self, Self::BadState | Self::Destroy)
    }

    /// For messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PowerOff => "power-off",
            Self::Exception => "unhandled exception",
            Self::Spin => "endless spin",
            Self::BadState => "illegal slot state",
            Self::Destroy => "server destroyed",
        }
    }
}
