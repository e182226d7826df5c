//! console_io: a domain's own output without a UART (Xen public `xen.h`).

/// Writes: x1 = bytes, x2 = buffer. Returns 0.
pub const WRITE: u64 = 0;
/// Reads: x1 = room, x2 = buffer. Returns the bytes read.
pub const READ: u64 = 1;
