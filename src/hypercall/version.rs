//! xen_version: who answers, and what guests may rely on.

use super::buffers::{read_for_update, read_value, write_value};
use super::host::Host;
use crate::abi::HypercallError;
use crate::abi::version as abi;

const EXTRAVERSION: &str = ".portunus";
const CAPABILITIES: &str = "xen-3.0-aarch64 ";
const CHANGESET: &str = concat!("portunus ", env!("CARGO_PKG_VERSION"));
/// Portunus has no command line.
const COMMANDLINE: &str = "";
/// Bytes written at once to a fixed-size answer.
const PIECE: usize = 64;

pub(super) fn run<H: Host>(host: &mut H, command: u32, pointer: u64) -> Result<u64, HypercallError> {
    match u64::from(command) {
        abi::VERSION => Ok(abi::MAJOR << 16 | abi::MINOR),
        abi::EXTRAVERSION => fixed(host, pointer, EXTRAVERSION, abi::EXTRAVERSION_LENGTH),
        abi::COMPILE_INFO => {
            let info = abi::CompileInfo {
                compiler: text("rustc"),
                compile_by: text("portunus"),
                compile_domain: text(""),
                compile_date: text(""),
            };
            write_value(host, pointer, &info).map(|()| 0)
        }
        abi::CAPABILITIES => fixed(host, pointer, CAPABILITIES, abi::CAPABILITIES_LENGTH),
        abi::CHANGESET => fixed(host, pointer, CHANGESET, abi::CHANGESET_LENGTH),
        abi::PLATFORM_PARAMETERS => write_value(host, pointer, &0u64).map(|()| 0),
        abi::GET_FEATURES => features(host, pointer),
        abi::PAGESIZE if pointer == 0 => Ok(crate::ids::PAGE_SIZE),
        abi::PAGESIZE => Err(HypercallError::Invalid),
        abi::GUEST_HANDLE => {
            let caller = host.caller().domain;
            let handle = host.domain(caller).ok_or(HypercallError::NoDomain)?.handle;
            host.write(pointer, &handle).map(|()| 0)
        }
        abi::COMMANDLINE => fixed(host, pointer, COMMANDLINE, abi::CAPABILITIES_LENGTH),
        abi::BUILD_ID => Err(HypercallError::NoData),
        abi::EXTRAVERSION2 => variable(host, pointer, EXTRAVERSION),
        abi::CAPABILITIES2 => variable(host, pointer, CAPABILITIES),
        abi::CHANGESET2 => variable(host, pointer, CHANGESET),
        abi::COMMANDLINE2 => variable(host, pointer, COMMANDLINE),
        _ => Err(HypercallError::NotImplemented),
    }
}

fn text<const LENGTH: usize>(value: &str) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    for (byte, from) in bytes.iter_mut().zip(value.bytes()) {
        *byte = from;
    }
    bytes
}

/// Writes `value` and zeroes up to `length`, a multiple of 16.
fn fixed<H: Host>(host: &mut H, pointer: u64, value: &str, length: usize) -> Result<u64, HypercallError> {
    let mut rest = value.as_bytes();
    let mut at = 0;
    while at < length {
        let mut piece = [0; PIECE];
        let room = PIECE.min(length - at);
        let (now, later) = rest.split_at_checked(room).unwrap_or((rest, &[]));
        for (byte, from) in piece.iter_mut().zip(now) {
            *byte = *from;
        }
        let address = pointer.checked_add(at as u64).ok_or(HypercallError::BadPointer)?;
        host.write(address, piece.get(..room).unwrap_or(&piece))?;
        rest = later;
        at += room;
    }
    Ok(0)
}

/// The newer operations: the length alone for a null pointer, ENOBUFS when there is not room for all.
fn variable<H: Host>(host: &mut H, pointer: u64, value: &str) -> Result<u64, HypercallError> {
    let length = value.len() as u64;
    if pointer == 0 {
        return Ok(length);
    }
    let header: abi::VariableBuffer = read_value(host, pointer)?;
    if header.len == 0 {
        return Err(HypercallError::Invalid);
    }
    if length > u64::from(header.len) {
        return Err(HypercallError::NoBuffers);
    }
    let bytes = pointer
        .checked_add(size_of::<abi::VariableBuffer>() as u64)
        .ok_or(HypercallError::BadPointer)?;
    host.write(bytes, value.as_bytes())?;
    Ok(length)
}

fn features<H: Host>(host: &mut H, pointer: u64) -> Result<u64, HypercallError> {
    let mut request: abi::FeatureInfo = read_for_update(host, pointer)?;
    if request.submap_idx != 0 {
        return Err(HypercallError::Invalid);
    }
    let caller = host.caller().domain;
    let direct = host.domain(caller).ok_or(HypercallError::NoDomain)?.direct_mapped;
    let mapping = if direct {
        abi::FEATURE_DIRECT_MAPPED
    } else {
        abi::FEATURE_NOT_DIRECT_MAPPED
    };
    request.submap = abi::FEATURE_WRITABLE_PAGE_TABLES
        | abi::FEATURE_AUTO_TRANSLATED_PHYSMAP
        | abi::FEATURE_MEMORY_OP_VNODE
        | abi::FEATURE_ARM_SMCCC
        | mapping;
    write_value(host, pointer, &request)?;
    Ok(0)
}
