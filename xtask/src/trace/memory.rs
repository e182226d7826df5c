//! The trace rings in a machine's memory, which may hold anything.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use elf::ElfBytes;
use elf::endian::LittleEndian;
use portunus::ids::{DomainId, MAX_DOMAINS, MAX_PCPUS};
use portunus::trace::Event;

use crate::failure::{Doing, Result, failed};
use crate::qemu::IMAGE_OFFSET;

/// The name of the file that holds the machine's memory, in the folder of the run.
pub(crate) const MEMORY_FILE: &str = "memory.ram";

/// What a machine's rings hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rings {
    /// Ticks a second.
    pub(crate) frequency: u64,
    /// Names of domains by number; empty: there is none.
    pub(crate) names: Vec<String>,
    /// The events of each pCPU, oldest first.
    pub(crate) events: Vec<Vec<Event>>,
}

impl Rings {
    /// What a domain is called.
    pub(crate) fn name(&self, domain: DomainId) -> String {
        match self.names.get(usize::from(domain.0)) {
            Some(name) if !name.is_empty() => name.clone(),
            _ => format!("domain {}", domain.0),
        }
    }
}

/// Reads the rings of the hypervisor `elf` from a file with the machine's RAM.
pub(crate) fn read(memory: &Path, elf: &Path) -> Result<Rings> {
    let image = fs::read(elf).doing(format!("reading {}", elf.display()))?;
    let memory = File::open(memory).doing(format!("opening {}", memory.display()))?;
    let bytes = |symbol: &str| -> Result<Vec<u8>> {
        let (address, size) = find(&image, symbol)?;
        let mut bytes = vec![0; size as usize];
        memory
            .read_exact_at(&mut bytes, IMAGE_OFFSET + address)
            .doing(format!("reading {symbol} from the machine's memory"))?;
        Ok(bytes)
    };
    decode(&bytes("portunus_trace_about")?, &bytes("portunus_trace")?)
}

/// Address in the image and size of a symbol.
fn find(image: &[u8], wanted: &str) -> Result<(u64, u64)> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(image).doing("reading symbols")?;
    let table = elf.symbol_table().doing("reading symbols")?;
    let found = table.and_then(|(symbols, names)| {
        let named = |symbol: &elf::symbol::Symbol| names.get(symbol.st_name as usize).is_ok_and(|name| name == wanted);
        symbols.iter().find(named)
    });
    match found {
        Some(symbol) => Ok((symbol.st_value, symbol.st_size)),
        None => failed(format!("the hypervisor has no symbol {wanted}")),
    }
}

/// Reads what `portunus_trace_about` and `portunus_trace` hold.
pub(super) fn decode(about: &[u8], rings: &[u8]) -> Result<Rings> {
    let Some((frequency, names)) = about.split_first_chunk::<8>() else {
        return failed("portunus_trace_about is too short");
    };
    let frequency = u64::from_le_bytes(*frequency);
    if frequency == 0 {
        return failed("there is no trace: the hypervisor did not come as far as its first guest");
    }
    let length = (names.len() / (MAX_DOMAINS + 1)).max(1);
    let name = |bytes: &[u8]| {
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        text.chars().filter(|letter| !letter.is_control()).collect()
    };
    let ring = (rings.len() / MAX_PCPUS).max(1);
    Ok(Rings {
        frequency,
        names: names.chunks(length).map(name).collect(),
        events: rings.chunks(ring).map(in_order).collect(),
    })
}

/// The events in a ring's memory, oldest first. What is no event is left out.
fn in_order(ring: &[u8]) -> Vec<Event> {
    let (pairs, _) = ring.as_chunks::<16>();
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    let mut events: Vec<Event> = pairs
        .iter()
        .filter_map(|pair| Event::decode([word(&pair[..8]), word(&pair[8..])]))
        .collect();
    // The newest stands before the oldest, at the greatest step back in time. A smaller one comes of the counter, which is
    // read without a barrier.
    let steps = events.windows(2).map(|pair| pair[0].time.saturating_sub(pair[1].time));
    let greatest = steps.enumerate().max_by_key(|(_, step)| *step);
    if let Some((index, step)) = greatest
        && step > 0
    {
        events.rotate_left(index + 1);
    }
    events.sort_by_key(|event| event.time);
    events
}
