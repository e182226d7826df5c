//! Ending an emulated run with an exit code (Semihosting for AArch32 and AArch64, SYS_EXIT).

/// SYS_EXIT.
const SYS_EXIT: u64 = 0x18;
/// ADP_Stopped_ApplicationExit: the parameter block's second word is the exit code.
const APPLICATION_EXIT: u64 = 0x20026;

/// Asks the host to end the run with `code`. Returns only when nobody listens and the trap is not taken as an
/// exception; where it is, the current-EL vector goes on to the next way out.
pub(crate) fn exit(code: u64) {
    let block = [APPLICATION_EXIT, code];
    // SAFETY: the host reads the block, which outlives the instruction, and ends the machine.
    unsafe {
        core::arch::asm!(
            "hlt #0xf000",
            inout("x0") SYS_EXIT => _,
            in("x1") block.as_ptr(),
            options(nostack),
        );
    }
}
