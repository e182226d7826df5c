//! console_io: output of a domain without a UART goes to its console.

use super::Done;
use super::host::Host;
use crate::abi::HypercallError;
use crate::abi::console_io as abi;

/// Bytes that one execution writes.
const LIMIT: u64 = 512;
const PIECE: usize = 64;

pub(super) fn run<H: Host>(
    host: &mut H,
    command: u32,
    count: u32,
    pointer: u64,
    mut arguments: [u64; 5],
) -> Result<Done, HypercallError> {
    match u64::from(command) {
        abi::WRITE => {}
        // There is never any input.
        abi::READ => return Ok(Done::Value(0)),
        _ => return Err(HypercallError::NotImplemented),
    }
    let now = u64::from(count).min(LIMIT);
    let mut done = 0;
    while done < now {
        let mut piece = [0; PIECE];
        let length = (now - done).min(PIECE as u64) as usize;
        let bytes = piece.get_mut(..length).ok_or(HypercallError::BadPointer)?;
        host.read(pointer.checked_add(done).ok_or(HypercallError::BadPointer)?, bytes)?;
        host.console_write(bytes);
        done += length as u64;
    }
    if now == u64::from(count) {
        return Ok(Done::Value(0));
    }
    arguments[1] = u64::from(count) - now;
    arguments[2] = pointer.checked_add(now).ok_or(HypercallError::BadPointer)?;
    Ok(Done::Continue(arguments))
}
