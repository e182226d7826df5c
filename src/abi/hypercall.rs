//! How a hypercall is made, its number, and the one place where an error becomes a negative number.
//!
//! `HVC #0xEA1` from EL1; the number in x16, up to five arguments in x0 to x4, the result in x0: a signed 64-bit number,
//! negative for an error (Xen public headers `arch-arm.h`, `xen.h`, `errno.h`).

use thiserror::Error;

/// The immediate of the HVC instruction that makes a hypercall.
pub const HVC_IMMEDIATE: u16 = 0xea1;

/// platform_op: for a control domain only.
pub const PLATFORM_OP: u64 = 7;
/// memory_op: [`crate::abi::memory`].
pub const MEMORY_OP: u64 = 12;
/// multicall: an array of [`MulticallEntry`].
pub const MULTICALL: u64 = 13;
/// xen_version: [`crate::abi::version`].
pub const XEN_VERSION: u64 = 17;
/// console_io: [`crate::abi::console_io`].
pub const CONSOLE_IO: u64 = 18;
/// grant_table_op: [`crate::abi::grant`].
pub const GRANT_TABLE_OP: u64 = 20;
/// vm_assist.
pub const VM_ASSIST: u64 = 21;
/// vcpu_op: [`crate::abi::vcpu`].
pub const VCPU_OP: u64 = 24;
/// xsm_op.
pub const XSM_OP: u64 = 27;
/// sched_op: [`crate::abi::sched`].
pub const SCHED_OP: u64 = 29;
/// event_channel_op: [`crate::abi::evtchn`].
pub const EVENT_CHANNEL_OP: u64 = 32;
/// physdev_op.
pub const PHYSDEV_OP: u64 = 33;
/// hvm_op: [`crate::abi::hvm_op`].
pub const HVM_OP: u64 = 34;
/// sysctl.
pub const SYSCTL: u64 = 35;
/// domctl: [`crate::abi::domctl`].
pub const DOMCTL: u64 = 36;
/// argo_op.
pub const ARGO_OP: u64 = 39;
/// dm_op: [`crate::abi::dm_op`].
pub const DM_OP: u64 = 41;
/// hypfs_op.
pub const HYPFS_OP: u64 = 42;
/// Portunus' own: [`crate::abi::control`]. The first number that Xen leaves to architectures, unused on Arm.
pub const CONTROL: u64 = 48;

/// Why a hypercall was refused. The numbers are Xen's, which are Linux's.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Hash, Error)]
#[repr(u8)]
pub enum HypercallError {
    /// EPERM
    #[error("operation not permitted")]
    NotPermitted = 1,
    /// ENOENT
    #[error("no such entry")]
    NoEntry = 2,
    /// ESRCH
    #[error("no such domain")]
    NoDomain = 3,
    /// EIO
    #[error("input/output error")]
    InputOutput = 5,
    /// ENXIO
    #[error("no such address")]
    NoAddress = 6,
    /// E2BIG
    #[error("too many arguments")]
    TooManyArguments = 7,
    /// EAGAIN
    #[error("try again")]
    TryAgain = 11,
    /// ENOMEM
    #[error("out of memory")]
    OutOfMemory = 12,
    /// EACCES
    #[error("access denied")]
    AccessDenied = 13,
    /// EFAULT
    #[error("bad pointer")]
    BadPointer = 14,
    /// EBUSY
    #[error("busy")]
    Busy = 16,
    /// EEXIST
    #[error("already exists")]
    Exists = 17,
    /// EXDEV
    #[error("crosses domains")]
    CrossDomain = 18,
    /// ENODEV
    #[error("no such device")]
    NoDevice = 19,
    /// EINVAL
    #[error("invalid argument")]
    Invalid = 22,
    /// ENOSPC
    #[error("no space left")]
    NoSpace = 28,
    /// EROFS
    #[error("read-only")]
    ReadOnly = 30,
    /// EDOM
    #[error("argument out of domain")]
    Domain = 33,
    /// ERANGE
    #[error("result out of range")]
    Range = 34,
    /// EDEADLK
    #[error("would deadlock")]
    Deadlock = 35,
    /// ENOSYS
    #[error("not implemented")]
    NotImplemented = 38,
    /// ENODATA
    #[error("no data")]
    NoData = 61,
    /// EOVERFLOW
    #[error("value too large")]
    Overflow = 75,
    /// EILSEQ
    #[error("illegal sequence")]
    IllegalSequence = 84,
    /// EMSGSIZE
    #[error("message too long")]
    MessageSize = 90,
    /// EOPNOTSUPP
    #[error("operation not supported")]
    NotSupported = 95,
    /// ENOBUFS
    #[error("no buffer space")]
    NoBuffers = 105,
    /// ECONNREFUSED
    #[error("connection refused")]
    ConnectionRefused = 111,
}

impl HypercallError {
    /// Every error, in ascending order of its number.
    pub const ALL: [Self; 28] = [
        Self::NotPermitted,
        Self::NoEntry,
        Self::NoDomain,
        Self::InputOutput,
        Self::NoAddress,
        Self::TooManyArguments,
        Self::TryAgain,
        Self::OutOfMemory,
        Self::AccessDenied,
        Self::BadPointer,
        Self::Busy,
        Self::Exists,
        Self::CrossDomain,
        Self::NoDevice,
        Self::Invalid,
        Self::NoSpace,
        Self::ReadOnly,
        Self::Domain,
        Self::Range,
        Self::Deadlock,
        Self::NotImplemented,
        Self::NoData,
        Self::Overflow,
        Self::IllegalSequence,
        Self::MessageSize,
        Self::NotSupported,
        Self::NoBuffers,
        Self::ConnectionRefused,
    ];

    /// The error's positive number.
    pub const fn errno(self) -> i64 {
        self as i64
    }
    /// What a guest finds in x0.
    pub const fn register(self) -> u64 {
        (-self.errno()) as u64
    }
    /// What a per-entry error array holds.
    pub const fn entry(self) -> i32 {
        -(self as i32)
    }
    /// The error with this positive number.
    pub fn from_errno(errno: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|error| error.errno() == errno)
    }
}

/// A hypercall's result as x0 holds it.
pub const fn to_register(result: Result<u64, HypercallError>) -> u64 {
    match result {
        Ok(value) => value,
        Err(error) => error.register(),
    }
}

/// A hypercall's result from x0. A negative number that is no known error reads as [`HypercallError::InputOutput`].
pub fn from_register(x0: u64) -> Result<u64, HypercallError> {
    let signed = x0 as i64;
    if signed >= 0 {
        Ok(x0)
    } else {
        let known = signed.checked_neg().and_then(HypercallError::from_errno);
        Err(known.unwrap_or(HypercallError::InputOutput))
    }
}

/// One call of a multicall (`multicall_entry_t`).
#[derive(
    Copy,
    Clone,
    Debug,
    Default,
    Eq,
    PartialEq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C)]
pub struct MulticallEntry {
    /// The hypercall's number.
    pub op: u64,
    /// Its result.
    pub result: u64,
    /// Its arguments; the sixth is unused.
    pub args: [u64; 6],
}

const _: () = assert!(size_of::<MulticallEntry>() == 64);
