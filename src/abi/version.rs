//! xen_version: x0 = operation, x1 -> where the answer goes (Xen public `version.h`, `features.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Returns major << 16 | minor.
pub const VERSION: u64 = 0;
/// 16 bytes: what follows the version.
pub const EXTRAVERSION: u64 = 1;
/// [`CompileInfo`]
pub const COMPILE_INFO: u64 = 2;
/// 1,024 bytes: kinds of guests.
pub const CAPABILITIES: u64 = 3;
/// 64 bytes: the source revision.
pub const CHANGESET: u64 = 4;
/// u64: not meaningful on Arm, 0.
pub const PLATFORM_PARAMETERS: u64 = 5;
/// [`FeatureInfo`]
pub const GET_FEATURES: u64 = 6;
/// Returns 4096.
pub const PAGESIZE: u64 = 7;
/// 16 bytes: the caller's UUID.
pub const GUEST_HANDLE: u64 = 8;
/// 1,024 bytes: the hypervisor's command line.
pub const COMMANDLINE: u64 = 9;
/// A [`VariableBuffer`]
pub const BUILD_ID: u64 = 10;
/// A [`VariableBuffer`]
pub const EXTRAVERSION2: u64 = 11;
/// A [`VariableBuffer`]
pub const CAPABILITIES2: u64 = 12;
/// A [`VariableBuffer`]
pub const CHANGESET2: u64 = 13;
/// A [`VariableBuffer`]
pub const COMMANDLINE2: u64 = 14;

/// Bytes of [`EXTRAVERSION`].
pub const EXTRAVERSION_LENGTH: usize = 16;
/// Bytes of [`CAPABILITIES`] and [`COMMANDLINE`].
pub const CAPABILITIES_LENGTH: usize = 1024;
/// Bytes of [`CHANGESET`].
pub const CHANGESET_LENGTH: usize = 64;

/// The version that Portunus shows: major.
pub const MAJOR: u64 = 4;
/// The version that Portunus shows: minor.
pub const MINOR: u64 = 20;

/// Bit: page tables are the guest's own.
pub const FEATURE_WRITABLE_PAGE_TABLES: u32 = 1 << 0;
/// Bit: frame numbers are guest-physical.
pub const FEATURE_AUTO_TRANSLATED_PHYSMAP: u32 = 1 << 2;
/// Bit: the caller is the initial domain.
pub const FEATURE_DOM0: u32 = 1 << 11;
/// Bit: memory_op knows virtual nodes.
pub const FEATURE_MEMORY_OP_VNODE: u32 = 1 << 13;
/// Bit: SMCCC 1.1 is there.
pub const FEATURE_ARM_SMCCC: u32 = 1 << 14;
/// Bit: guest-physical addresses are not machine addresses.
pub const FEATURE_NOT_DIRECT_MAPPED: u32 = 1 << 16;
/// Bit: guest-physical addresses are machine addresses.
pub const FEATURE_DIRECT_MAPPED: u32 = 1 << 17;

/// One word of feature bits (`xen_feature_info`).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FeatureInfo {
    /// IN: which word; only 0.
    pub submap_idx: u32,
    /// OUT: the bits.
    pub submap: u32,
}

/// Who built it (`xen_compile_info`).
#[derive(Copy, Clone, Debug, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CompileInfo {
    /// NUL-terminated.
    pub compiler: [u8; 64],
    /// NUL-terminated.
    pub compile_by: [u8; 16],
    /// NUL-terminated.
    pub compile_domain: [u8; 32],
    /// NUL-terminated.
    pub compile_date: [u8; 32],
}

/// How a variable-length answer begins (`xen_build_id`, `xen_varbuf`); the bytes follow.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VariableBuffer {
    /// IN: room for bytes.
    pub len: u32,
}

const _: () = {
    assert!(size_of::<FeatureInfo>() == 8);
    assert!(size_of::<CompileInfo>() == 144);
    assert!(size_of::<VariableBuffer>() == 4);
};
