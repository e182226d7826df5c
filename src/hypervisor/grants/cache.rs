//! Cache maintenance of pages that a domain has, or has mapped, by their bus addresses.

use crate::abi::HypercallError;
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::ids::{Ipa, Pa};
use crate::machine::Machine;
use crate::stage2::PageUse;

impl<M: Machine> Hypervisor<M> {
    /// Cleans and invalidates (offset, length) of the page at `bus_address`. Where `domain` is not direct-mapped that is an
    /// address of its own map; else one of the machine, at which it has RAM, or of a page that one of its handles stands for:
    /// these are looked through in steps.
    pub(super) fn flush_cache(
        &self,
        domain: &Domain,
        bus_address: u64,
        (offset, length): (u64, u64),
        cursor: u32,
    ) -> Result<Option<u32>, HypercallError> {
        let page = Ipa(bus_address).page();
        let memory = domain.memory.lock();
        let there = memory.stage2.lookup(&self.machine, page);
        drop(memory);
        let frame = match there.map(|there| (there.pa, there.page_use)) {
            Some((frame, PageUse::Ram)) if !domain.direct_mapped || frame.0 == page.0 => frame,
            Some((frame, PageUse::Granted { .. })) if !domain.direct_mapped => frame,
            Some(_) if !domain.direct_mapped => return Err(HypercallError::NotPermitted),
            None if !domain.direct_mapped => return Err(HypercallError::Invalid),
            _ => {
                let frame = Pa(page.0);
                if self.references.lock().owner(frame).is_none() {
                    return Err(HypercallError::Invalid);
                }
                let found = domain.memory.lock().maptrack.find_frame(&self.machine, frame, cursor);
                match found {
                    Ok(true) => frame,
                    Ok(false) => return Err(HypercallError::NotPermitted),
                    Err(next) => return Ok(Some(next)),
                }
            }
        };
        self.machine.clean_to_coherency(Pa(frame.0 + offset), length);
        Ok(None)
    }
}
