//! Arm PrimeCell real-time clock (PL031, DDI 0224): read, never written.

const RTCDR: usize = 0x00;
const RTCCR: usize = 0x0c;
/// RTCCR.RTC start: the counter runs.
const STARTED: u32 = 1;

/// Seconds since 1970, if the clock with registers at `base` runs.
///
/// # Safety
/// The registers are mapped as Device memory.
pub(crate) unsafe fn seconds(base: usize) -> Option<u32> {
    // SAFETY: the caller's promise; both registers can be read without effect.
    let read = |offset: usize| unsafe { ((base + offset) as *const u32).read_volatile() };
    (read(RTCCR) & STARTED != 0).then(|| read(RTCDR))
}
