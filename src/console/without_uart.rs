//! The consoles of domains that have no UART: what they write and read by hypercall, and by the rings of their pages.

use heapless::Vec as Array;

use super::mux::{Console, PortId, TooManyPorts};
use super::port::Source;
use super::stream::Stream;
use crate::ids::{DomainId, MAX_DOMAINS, Pa};
use crate::memory::PhysicalMemory;

impl Console {
    /// Gives `domain` a console without registers. `page` is that of its rings, zeroed and kept for it; without one it writes
    /// and reads by hypercall alone. Otherwise as [`Self::add`].
    ///
    /// # Errors
    /// [`TooManyPorts`]
    pub fn add_stream(&mut self, domain: DomainId, name: &str, page: Option<Pa>) -> Result<PortId, TooManyPorts> {
        self.has_streams = true;
        self.add_port(domain, name, Source::Stream(Stream::new(domain, page)))
    }

    /// What a domain writes by hypercall, as if its UART or its rings had brought it; how many bytes there was room for.
    pub fn write(&mut self, port: PortId, bytes: &[u8]) -> usize {
        match self.ports.get_mut(usize::from(port.0)).map(|port| &mut port.source) {
            Some(Source::Stream(stream)) => stream.send(bytes),
            Some(Source::Uart { uart, .. }) => uart.append(bytes),
            _ => 0,
        }
    }

    /// What was typed for a domain without UART and rings, as much as fits; how many bytes.
    pub fn read(&mut self, port: PortId, into: &mut [u8]) -> usize {
        match self.ports.get_mut(usize::from(port.0)).map(|port| &mut port.source) {
            Some(Source::Stream(stream)) if !stream.has_page() => stream.read(into),
            _ => 0,
        }
    }

    /// A guest has moved an index of its rings: [`Self::exchange`] looks.
    pub fn ring(&mut self, port: PortId) {
        if let Some(Source::Stream(stream)) = self.ports.get_mut(usize::from(port.0)).map(|port| &mut port.source) {
            stream.ring();
        }
    }

    /// Moves bytes between the guests' rings and here, a bounded number for each, where something may be to be done. The
    /// domains that must be told are put into `told`, which has room for all.
    pub fn exchange<M: PhysicalMemory + ?Sized>(&mut self, memory: &M, told: &mut Array<DomainId, MAX_DOMAINS>) {
        if !self.has_streams {
            return;
        }
        for port in &mut self.ports {
            if let Source::Stream(stream) = &mut port.source
                && stream.exchange(memory)
                && !told.contains(&stream.domain)
            {
                let _ = told.push(stream.domain);
            }
        }
    }

    /// Whether [`Self::exchange`] may find something to do.
    pub fn is_due(&self) -> bool {
        let mut ports = self.ports.iter();
        self.has_streams && ports.any(|port| matches!(&port.source, Source::Stream(stream) if stream.is_due()))
    }
}
