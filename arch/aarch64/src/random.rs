//! Random numbers of the CPU (FEAT_RNG).

use crate::sysreg::{field, read_sysreg};

/// As many words as seed a generator.
const WORDS: usize = 4;
/// Attempts for a word: the CPU may say that it has none yet (Arm ARM, D23.2, RNDR).
const ATTEMPTS: u32 = 100;

/// Bytes from RNDR; zeroes as far as the pCPU has none (ID_AA64ISAR0_EL1.RNDR).
pub(crate) fn bytes() -> [u8; WORDS * 8] {
    let mut bytes = [0; WORDS * 8];
    if field(read_sysreg!("id_aa64isar0_el1"), 60) == 0 {
        return bytes;
    }
    for word in bytes.chunks_mut(8) {
        if let Some(random) = (0..ATTEMPTS).find_map(|_| rndr()) {
            word.copy_from_slice(&random.to_le_bytes());
        }
    }
    bytes
}

/// One read of RNDR.
fn rndr() -> Option<u64> {
    let (value, failed): (u64, u64);
    // SAFETY: the register exists, as the caller saw; reading it changes the flags alone.
    unsafe {
        core::arch::asm!(
            "mrs {value}, s3_3_c2_c4_0",
            "cset {failed}, eq",
            value = out(reg) value,
            failed = out(reg) failed,
            options(nomem, nostack),
        );
    }
    (failed == 0).then_some(value)
}
