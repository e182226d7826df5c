//! The serial line: domains' UARTs on one side, the machine's console on the other.
//!
//! Output is pulled: after each access to a UART, and whenever a pCPU asks what to run, as much as the machine's console
//! has room for. Nothing is lost and nobody waits in EL2: a domain whose buffer is full sees that in its FIFO flag.

use core::sync::atomic::Ordering;

use crate::console::{Console, InputEffect, LineChange};
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::ids::{MAX_DOMAINS, PcpuId, Ticks};
use crate::machine::Machine;
use crate::trap::access::{AccessWidth, Direction, MmioAccess};

/// Bytes moved at once.
const CHUNK: usize = 256;
/// Chunks moved in one go.
const CHUNKS: usize = 8;

impl<M: Machine> Hypervisor<M> {
    /// A guest's access to its UART; an access that no PL011 answers reads as zero.
    pub(crate) fn access_console(&self, domain: &Domain, offset: u64, access: &MmioAccess) -> u64 {
        let Some(port) = domain.console else { return 0 };
        let mut console = self.console.lock();
        let result = console.access(port, offset, access.width, access.direction);
        let Ok(result) = result else { return 0 };
        if let Some(change) = result.line {
            self.set_console_line(change);
        }
        self.pump(&mut console);
        result.value
    }

    /// What a domain writes to its console by hypercall, as if its UART had sent it.
    pub(crate) fn write_console(&self, domain: &Domain, bytes: &[u8]) {
        let Some(port) = domain.console else { return };
        let mut console = self.console.lock();
        for byte in bytes {
            // The data register takes every byte; a full FIFO drops it.
            let _ = console.access(port, 0, AccessWidth::Byte, Direction::Write(u64::from(*byte)));
        }
        self.pump(&mut console);
    }

    /// Bytes typed at the machine's console.
    pub fn on_console_input(&self, bytes: &[u8]) {
        let mut console = self.console.lock();
        for byte in bytes {
            match console.input(*byte) {
                // The console itself says where input goes.
                InputEffect::None | InputEffect::Focus(_) => {}
                InputEffect::Line(change) => self.set_console_line(change),
                InputEffect::Quit => self.finished.store(true, Ordering::Release),
                InputEffect::Show { topic, domain } => self.order_table(topic, domain),
            }
        }
        self.pump(&mut console);
    }

    /// The machine's console has room again, or time has passed: shows what waits. Of the hypervisor's own messages one
    /// becomes a line each time, and of the table that a person wants.
    pub fn on_console_ready(&self) {
        self.print_message();
        self.continue_table();
        self.pump(&mut self.console.lock());
    }

    /// Shows what waits. The console's lock is held while lines change, so that levels arrive in order.
    fn pump(&self, console: &mut Console) {
        let now = self.machine.now();
        let mut buffer = [0; CHUNK];
        for _ in 0..CHUNKS {
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
        let due = console
            .deadline()
            .map_or(u64::MAX, |deadline| deadline.0.max(now.0 + 1));
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
