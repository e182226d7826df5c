//! PSCI 1.1 and the Arm architecture calls for guests, over `HVC #0` and `SMC #0`.
//!
//! A call is decoded and checked here against a read-only view of the domain's vCPUs; what it does to them is returned
//! as an [`Action`] for the scheduler to perform. (Arm DEN0022, PSCI; DEN0028, SMCCC 1.2; the hypervisor service is
//! Xen's.) A vCPU's MPIDR affinity is its index in Aff0.

use arm_psci::{AffinityInfo, ErrorCode, FeatureFlagsCpuSuspend, Function, FunctionId, Mpidr, PsciFeature, ResetType};

use crate::ids::MAX_VCPUS;

/// Whether a vCPU runs, as PSCI counts it.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub enum PowerState {
    /// Off, until CPU_ON names it.
    #[default]
    Off,
    /// CPU_ON was accepted; it has not executed yet.
    OnPending,
    /// On; it may be waiting for something.
    On,
}

/// What a call asks for.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum Action {
    /// The call is finished: x0 to x3 get these values, of which a PSCI function defines the first.
    Return([u64; 4]),
    /// Start vCPU `target` at `entry` with `context` in x0, EL1h, MMU off, everything masked (DEN0022, 6.4). The caller
    /// answers [`Action::SUCCESS`] or, where `entry` is not the domain's memory, [`Action::INVALID_ADDRESS`].
    CpuOn {
        /// Index of the vCPU; it exists and is off.
        target: u8,
        /// Where it starts: an intermediate physical address.
        entry: u64,
        /// Its x0.
        context: u64,
    },
    /// The caller's vCPU is off; the call does not return.
    CpuOff,
    /// The vCPU waits for an interrupt, then gets [`Action::SUCCESS`]: a power-down request may always be treated as
    /// standby (DEN0022, 5.4).
    Suspend,
    /// The domain powers off; the call does not return.
    SystemOff,
    /// The domain restarts; the call does not return.
    SystemReset,
}

impl Action {
    /// SUCCESS in x0.
    pub const SUCCESS: Self = Self::value(0);
    /// INVALID_ADDRESS in x0.
    pub const INVALID_ADDRESS: Self = Self::value(-9_i32 as u32 as u64);

    /// ALREADY_ON in x0.
    pub const ALREADY_ON: Self = Self::value(-4_i32 as u32 as u64);
    /// ON_PENDING in x0.
    pub const ON_PENDING: Self = Self::value(-5_i32 as u32 as u64);

    const fn value(x0: u64) -> Self {
        Self::Return([x0, 0, 0, 0])
    }
    fn error(code: ErrorCode) -> Self {
        // Bits 63:32 of the result of a 32-bit call are not defined; of the 64-bit calls everybody reads a signed int.
        Self::value(u64::from(u32::from(code)))
    }
}

/// PSCI_VERSION: 1.1.
pub const PSCI_1_1: u64 = 0x1_0001;
/// SMCCC_VERSION: 1.2.
pub const SMCCC_1_2: u64 = 0x1_0002;
/// No such function, or not supported (SMCCC, 7.1; PSCI NOT_SUPPORTED), in 32 bits.
pub const NOT_SUPPORTED: u64 = 0xffff_ffff;

const PSCI_VERSION: u32 = 0x8400_0000;
const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
/// MIGRATE_INFO_TYPE: there is no trusted OS that would have to migrate.
const NO_TRUSTED_OS: u64 = 2;
const SMCCC_VERSION: u32 = 0x8000_0000;
const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;

// Xen has them in the range of the standard hypervisor service; by the convention they belong to that of vendors. Both are answered.
const HYPERVISOR_CALL_COUNT: u32 = 0x8500_ff00;
const HYPERVISOR_CALL_UID: u32 = 0x8500_ff01;
const HYPERVISOR_CALL_REVISION: u32 = 0x8500_ff03;
const VENDOR_CALL_COUNT: u32 = 0x8600_ff00;
const VENDOR_CALL_UID: u32 = 0x8600_ff01;
const VENDOR_CALL_REVISION: u32 = 0x8600_ff03;
/// a71812dc-c698-4369-9acf-79d18ddee667: Xen's, as Portunus answers Xen's hypercalls.
const HYPERVISOR_UID: [u8; 16] = [
    0xa7, 0x18, 0x12, 0xdc, 0xc6, 0x98, 0x43, 0x69, 0x9a, 0xcf, 0x79, 0xd1, 0x8d, 0xde, 0xe6, 0x67,
];

/// What a call returns in x0 if its answer depends on nothing: `arch` may give it at the vector, before it has saved
/// more than a few registers. `None`: call [`call`].
pub const fn immediate(function: u32) -> Option<u64> {
    match function {
        PSCI_VERSION => Some(PSCI_1_1),
        SMCCC_VERSION => Some(SMCCC_1_2),
        MIGRATE_INFO_TYPE => Some(NO_TRUSTED_OS),
        _ => None,
    }
}

/// Decides a call by the values of x0 to x3 and the power states of the domain's vCPUs, by index.
pub fn call(arguments: &[u64; 4], vcpus: &[PowerState]) -> Action {
    let function = arguments[0] as u32;
    if let Some(x0) = immediate(function) {
        return Action::value(x0);
    }
    match function {
        SMCCC_ARCH_FEATURES => Action::value(architecture_feature(arguments[1] as u32)),
        HYPERVISOR_CALL_COUNT | VENDOR_CALL_COUNT => Action::value(3),
        HYPERVISOR_CALL_UID | VENDOR_CALL_UID => {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(HYPERVISOR_UID.chunks_exact(4)) {
                *word = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            }
            Action::Return(words)
        }
        HYPERVISOR_CALL_REVISION | VENDOR_CALL_REVISION => Action::Return([0, 1, 0, 0]),
        _ => match Function::try_from(arguments) {
            Ok(function) => psci(function, vcpus),
            Err(error) => Action::error(error.into()),
        },
    }
}

/// SMCCC_ARCH_FEATURES. No mitigation of speculation is offered to call: whether a CPU needs one, guests read from its
/// ID registers.
fn architecture_feature(function: u32) -> u64 {
    match function {
        SMCCC_VERSION | SMCCC_ARCH_FEATURES => 0,
        _ => NOT_SUPPORTED,
    }
}

fn psci(function: Function, vcpus: &[PowerState]) -> Action {
    match function {
        Function::CpuSuspend { .. } => Action::Suspend,
        Function::CpuOff => Action::CpuOff,
        Function::CpuOn { target_cpu, entry } => match power_state(target_cpu, vcpus) {
            None => Action::error(ErrorCode::InvalidParameters),
            Some((_, PowerState::On)) => Action::error(ErrorCode::AlreadyOn),
            Some((_, PowerState::OnPending)) => Action::error(ErrorCode::OnPending),
            Some((target, PowerState::Off)) => Action::CpuOn {
                target,
                entry: entry.entry_point_address(),
                context: entry.context_id(),
            },
        },
        Function::AffinityInfo {
            mpidr,
            lowest_affinity_level,
        } => affinity_info(mpidr, lowest_affinity_level, vcpus),
        Function::SystemOff => Action::SystemOff,
        Function::SystemReset
        | Function::SystemReset2 {
            reset_type: ResetType::Architectural(_),
            ..
        } => Action::SystemReset,
        Function::SystemReset2 { .. } => Action::error(ErrorCode::InvalidParameters),
        Function::Features { psci_func_id } => features(psci_func_id),
        // The version and the type of migration were answered as immediate.
        _ => Action::error(ErrorCode::NotSupported),
    }
}

/// The vCPU that an MPIDR names; its other affinity levels are 0.
fn power_state(mpidr: Mpidr, vcpus: &[PowerState]) -> Option<(u8, PowerState)> {
    if mpidr.aff1 != 0 || mpidr.aff2 != 0 || mpidr.aff3.unwrap_or(0) != 0 {
        return None;
    }
    let states = vcpus.get(..vcpus.len().min(MAX_VCPUS))?;
    let state = states.get(usize::from(mpidr.aff0))?;
    Some((mpidr.aff0, *state))
}

/// AFFINITY_INFO: of one vCPU at level 0; above it all are one node, which is on while one of them is.
fn affinity_info(mpidr: Mpidr, level: u32, vcpus: &[PowerState]) -> Action {
    let state = if level == 0 {
        power_state(mpidr, vcpus).map(|(_, state)| state)
    } else {
        let node = Mpidr { aff0: 0, ..mpidr };
        let node = if level >= 2 { Mpidr { aff1: 0, ..node } } else { node };
        let node = if level >= 3 { Mpidr { aff2: 0, ..node } } else { node };
        power_state(node, vcpus).map(|_| {
            let any = |wanted| vcpus.contains(&wanted);
            match (any(PowerState::On), any(PowerState::OnPending)) {
                (true, _) => PowerState::On,
                (false, true) => PowerState::OnPending,
                (false, false) => PowerState::Off,
            }
        })
    };
    match state {
        None => Action::error(ErrorCode::InvalidParameters),
        Some(state) => Action::value(match state {
            PowerState::On => AffinityInfo::On as u64,
            PowerState::Off => AffinityInfo::Off as u64,
            PowerState::OnPending => AffinityInfo::OnPending as u64,
        }),
    }
}

/// PSCI_FEATURES: 0 for what is implemented, and the format of CPU_SUSPEND's power state.
fn features(function: PsciFeature) -> Action {
    let PsciFeature::PsciFunction(function) = function else {
        return Action::SUCCESS;
    };
    match function {
        FunctionId::CpuSuspend32 | FunctionId::CpuSuspend64 => {
            Action::value(u64::from(FeatureFlagsCpuSuspend::EXTENDED_POWER_STATE.bits()))
        }
        FunctionId::PsciVersion
        | FunctionId::CpuOff
        | FunctionId::CpuOn32
        | FunctionId::CpuOn64
        | FunctionId::AffinityInfo32
        | FunctionId::AffinityInfo64
        | FunctionId::MigrateInfoType
        | FunctionId::SystemOff
        | FunctionId::SystemReset
        | FunctionId::SystemReset232
        | FunctionId::SystemReset264
        | FunctionId::PsciFeatures => Action::SUCCESS,
        _ => Action::error(ErrorCode::NotSupported),
    }
}
