//! Pointer authentication keys, switched for vCPUs that use them.
//!
//! Ten registers are much for a vCPU that never signs a pointer. So instructions of FEAT_PAuth and accesses to the keys trap
//! (HCR_EL2.API, APK) until a vCPU makes the first; from then on its keys are switched with its other registers, for the
//! rest of its life. What the registers hold while they trap is nobody's business: their last user's keys are in its context.

use crate::features::Features;
use crate::pcpu::{Local, Open};
use crate::switch::Extras;
use crate::sysreg::{load_sysregs, read_sysreg, store_sysregs, write_sysreg};

/// HCR_EL2.APK and API: key registers and instructions do not trap.
const HCR_APK_API: u64 = 1 << 40 | 1 << 41;
/// ESR_EL2.EC of an instruction that trapped.
const INSTRUCTION_CLASS: u64 = 0x09;
/// Of MSR and MRS.
const SYSTEM_REGISTER_CLASS: u64 = 0x18;
/// ESR_EL2.ISS of such an access, without its direction and general register.
const ISS_REGISTER: u64 = 0x3f_fc1e;

macro_rules! key_registers {
    ($($offset:literal $first:literal $second:literal)*) => {
        /// The ten halves of the five keys.
        #[derive(Copy, Clone, Debug, Default)]
        struct Values([u64; 10]);

        impl Values {
            fn save(&mut self) {
                store_sysregs!(self.0.as_mut_ptr().cast(), $($offset $first $second)*);
            }
            /// They are a guest's own.
            fn load(&self) {
                load_sysregs!(self.0.as_ptr().cast(), $($offset $first $second)*);
            }
        }
    };
}

// By their encodings, for assemblers that know no FEAT_PAuth.
key_registers! {
    0 "s3_0_c2_c1_0" "s3_0_c2_c1_1"
    16 "s3_0_c2_c1_2" "s3_0_c2_c1_3"
    32 "s3_0_c2_c2_0" "s3_0_c2_c2_1"
    48 "s3_0_c2_c2_2" "s3_0_c2_c2_3"
    64 "s3_0_c2_c3_0" "s3_0_c2_c3_1"
}

/// A vCPU's keys.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Keys(Values);

impl Keys {
    /// The vCPU, which uses them, is unloaded.
    #[inline]
    pub(crate) fn save(&mut self) {
        self.0.save();
    }

    /// It is loaded.
    #[inline]
    pub(crate) fn load(&self) {
        self.0.load();
    }
}

/// The registers of the loaded vCPU are as at reset.
pub(crate) fn reset(features: Features) {
    if features.pointer_authentication {
        Values::default().load();
    }
}

/// If the loaded vCPU trapped for its keys, it has them from now on, and makes the access again.
pub(crate) fn on_trap(local: &mut Local, esr: u64) -> bool {
    if !local.features.pointer_authentication || local.open.has(Open::KEYS) || !is_about_keys(esr) {
        return false;
    }
    let Some(context) = local.loaded() else { return false };
    context.extras.add(Extras::KEYS);
    context.keys.load();
    set_open(local, true);
    true
}

/// APIAKeyLo_EL1 (S3_0_C2_C1_0) to APGAKeyHi_EL1 (S3_0_C2_C3_1).
fn is_about_keys(esr: u64) -> bool {
    /// ISS: Op0 in 21:20, Op2 in 19:17, Op1 in 16:14, CRn in 13:10, CRm in 4:1.
    const fn register(crm: u64, op2: u64) -> u64 {
        3 << 20 | op2 << 17 | 2 << 10 | crm << 1
    }
    match esr >> 26 & 0x3f {
        INSTRUCTION_CLASS => true,
        SYSTEM_REGISTER_CLASS => {
            let accessed = esr & ISS_REGISTER;
            let mut all = (0..10).map(|index| register(1 + index / 4, index % 4));
            all.any(|register| register == accessed)
        }
        _ => false,
    }
}

/// Makes them trap or not. It takes effect for the guest at the ERET.
pub(crate) fn set_open(local: &mut Local, open: bool) {
    if local.open.has(Open::KEYS) == open {
        return;
    }
    local.open.set(Open::KEYS, open);
    let others = read_sysreg!("hcr_el2") & !HCR_APK_API;
    write_sysreg!("hcr_el2", if open { others | HCR_APK_API } else { others });
}
