//! The serial line: domains' UARTs on one side, the machine's console on the other.
//!
//! Output is pulled: after each access to a UART, and whenever a pCPU asks what to run, as much as the machine's console
//! has room for. Nothing is lost and nobody waits in EL2: a domain whose buffer is full sees that in its FIFO flag.

use core::sync::atomic::Ordering;

use crate::abi::evtchn::VIRQ_CONSOLE;
use crate::access::MmioAccess;
use crate::console::{Console, InputEffect, LineChange};
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::ids::{DomainId, MAX_DOMAINS, PcpuId, Ticks};
use crate::machine::Machine;

/// Bytes moved at once.
const CHUNK: usize = 256;
/// Chunks moved in one go.
const CHUNKS: usize = 8;

impl<M: Machine> Hypervisor<M> {
    /// A guest's access to its UART; an access that no PL011 answers reads as zero.
    pub(crate) fn access_console(&self, domain: &Domain, offset: u64, access: &MmioAccess) -> u64 {
        let Some(port) = domain.console else { return 0 };
        self.with_console(|console| {
            let result = console.access(port, offset, access.width, access.direction);
            let Ok(result) = result else { return 0 };
            if let Some(change) = result.line {
                self.set_console_line(change);
            }
            result.value
        })
    }

    /// What a domain writes to its console by hypercall; how many bytes there was room for. Without a console all go nowhere.
    pub(crate) fn write_console(&self, domain: &Domain, bytes: &[u8]) -> usize {
        let Some(port) = domain.console else { return bytes.len() };
        self.with_console(|console| console.write(port, bytes))
    }

    /// What was typed for a domain that reads by hypercall; how many bytes.
    pub(crate) fn read_console(&self, domain: &Domain, into: &mut [u8]) -> usize {
        let Some(port) = domain.console else { return 0 };
        self.console.lock().read(port, into)
    }

    /// A domain has done something with the rings of its PV console.
    pub(crate) fn ring_console(&self, domain: &Domain) {
        if let Some(port) = domain.console {
            self.with_console(|console| console.ring(port));
        }
    }

    /// Calls `with` with the console, shows what waits then, and tells those whose rings have news.
    fn with_console<T>(&self, with: impl FnOnce(&mut Console) -> T) -> T {
        let mut told = heapless::Vec::new();
        let mut console = self.console.lock();
        let result = with(&mut console);
        self.pump(&mut console, &mut told);
        drop(console);
        for id in told {
            self.tell_of_console(id);
        }
        result
    }

    /// There are bytes for a domain that has no UART, or room for its own. Event channels come before the console in the
    /// order of locks, so nobody holds that now.
    fn tell_of_console(&self, id: DomainId) {
        let Some(domain) = self.domain(id) else { return };
        let mut events = domain.events.lock();
        let delivery = self.with_words(|words| match domain.pv_console {
            Some(pv) => events.notify_console(pv.port, words),
            None => events.raise_virq(VIRQ_CONSOLE, 0, words),
        });
        drop(events);
        self.announce(domain, delivery);
    }

    /// Bytes typed at the machine's console.
    pub fn on_console_input(&self, bytes: &[u8]) {
        self.with_console(|console| {
            for byte in bytes {
                match console.input(*byte) {
                    // The console itself says where input goes.
                    InputEffect::None | InputEffect::Focus(_) => {}
                    InputEffect::Line(change) => self.set_console_line(change),
                    InputEffect::Quit => self.finished.store(true, Ordering::Release),
                    InputEffect::Show { topic, domain } => self.order_table(topic, domain),
                }
            }
        });
    }

    /// The machine's console has room again, or time has passed: shows what waits. Of the hypervisor's own messages one
    /// becomes a line each time, and of the table that a person wants.
    pub fn on_console_ready(&self) {
        self.print_message();
        self.continue_table();
        self.with_console(|_| ());
    }

    /// Shows what waits. The console's lock is held while lines change, so that levels arrive in order.
    fn pump(&self, console: &mut Console, told: &mut heapless::Vec<DomainId, MAX_DOMAINS>) {
        let now = self.machine.now();
        let mut buffer = [0; CHUNK];
        for _ in 0..CHUNKS {
            console.exchange(&self.machine, told);
            let room = self.machine.console_room().min(CHUNK);
            let mut lines = heapless::Vec::<LineChange, MAX_DOMAINS>::new();
            let Some(out) = buffer.get_mut(..room) else { break };
            let filled = console.drain(now, out, &mut lines);
            for change in lines {
                self.set_console_line(change);
            }
            if filled == 0 {
                break;
            }
            self.machine.console_write(buffer.get(..filled).unwrap_or_default());
        }
        let due = if console.is_due() && self.machine.console_room() != 0 {
            now.0 + 1
        } else {
            console
                .deadline()
                .map_or(u64::MAX, |deadline| deadline.0.max(now.0 + 1))
        };
        if self.console_due.swap(due, Ordering::Relaxed) > due {
            // The boot pCPU shows it in time.
            self.on_deadline(PcpuId(0));
            self.machine.kick(PcpuId(0));
        }
    }

    /// When the boot pCPU must call [`Self::on_console_ready`] at the latest, messages apart; the last tick of all: never.
    #[inline]
    pub(crate) fn terminal_deadline(&self) -> Ticks {
        Ticks(self.console_due.load(Ordering::Relaxed)).min(self.tables.due())
    }

    pub(crate) fn set_console_line(&self, change: LineChange) {
        let Some(domain) = self.domain(change.domain) else {
            return;
        };
        let Some(interrupt) = domain.console_interrupt else {
            return;
        };
        self.with_vgic(domain, |vgic| {
            vgic.set_spi_level(interrupt, change.asserted).unwrap_or_default()
        });
    }
}
