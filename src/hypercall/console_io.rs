//! console_io: a domain writes to its console without a UART, and reads what is typed if the manifest lets it.

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
        abi::READ => return read(host, count, pointer).map(Done::Value),
        _ => return Err(HypercallError::NotImplemented),
    }
    let now = u64::from(count).min(LIMIT);
    let mut done = 0;
    while done < now {
        let mut piece = [0; PIECE];
        let length = (now - done).min(PIECE as u64) as usize;
        let bytes = piece.get_mut(..length).ok_or(HypercallError::BadPointer)?;
        host.read(pointer.checked_add(done).ok_or(HypercallError::BadPointer)?, bytes)?;
        let written = host.console_write(bytes)?;
        done += written as u64;
        if written < length {
            break;
        }
    }
    if done == u64::from(count) {
        return Ok(Done::Value(0));
    }
    // Where the console is full, the guest waits in its own time.
    arguments[1] = u64::from(count) - done;
    arguments[2] = pointer.checked_add(done).ok_or(HypercallError::BadPointer)?;
    Ok(Done::Continue(arguments))
}

/// Reads what was typed, at most [`PIECE`] bytes; the result is how many.
fn read<H: Host>(host: &mut H, count: u32, pointer: u64) -> Result<u64, HypercallError> {
    let mut piece = [0; PIECE];
    let room = piece.get_mut(..count.min(PIECE as u32) as usize);
    let room = room.ok_or(HypercallError::BadPointer)?;
    // Nothing is taken that can't be handed over.
    host.read(pointer, room)?;
    host.write(pointer, room)?;
    let length = host.console_read(room)?;
    host.write(pointer, piece.get(..length).ok_or(HypercallError::BadPointer)?)?;
    Ok(length as u64)
}
