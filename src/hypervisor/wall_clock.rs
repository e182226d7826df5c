//! What time it is: the wall clock, which goes on from what the machine's real-time clock showed at boot, and how guests see
//! it: in their shared page, and as a PL031.

use core::mem::offset_of;

use crate::abi::shared_info::SharedInfo;
use crate::access::MmioAccess;
use crate::domain::{Domain, DomainClock};
use crate::hypervisor::Hypervisor;
use crate::hypervisor::alarms::Alarm;
use crate::ids::{Pa, Ticks};
use crate::machine::Machine;
use crate::rtc::pl031::Pl031;

/// Nanoseconds of a second.
pub(crate) const NANOSECONDS: u64 = 1_000_000_000;

impl<M: Machine> Hypervisor<M> {
    /// Nanoseconds since 1970. They never go back.
    fn wall_time(&self) -> u64 {
        self.wall_clock_at_boot.saturating_add(self.system_time())
    }

    /// Writes the wall clock into the shared page of `domain`: the time at which its virtual counter is zero. To it Linux
    /// adds the time since it booted, so the time is right in a domain that was restarted, too.
    pub(crate) fn publish_wall_clock(&self, domain: &Domain, counter_zero: Ticks) {
        let since_boot = self.nanoseconds(Ticks(counter_zero.0.saturating_sub(self.booted.0)));
        let zero = self.wall_clock_at_boot.saturating_add(since_boot);
        let seconds = zero / NANOSECONDS;
        let page = domain.events.lock().shared_info();
        let field = |offset: usize| Pa(page.0 + offset as u64);
        let version_at = field(offset_of!(SharedInfo, wc_version));
        let version = self.machine.load_u32(version_at) & !1;
        // Odd while it changes.
        self.machine.store_u32(version_at, version | 1);
        for (offset, value) in [
            (offset_of!(SharedInfo, wc_sec), seconds as u32),
            (offset_of!(SharedInfo, wc_nsec), (zero % NANOSECONDS) as u32),
            (offset_of!(SharedInfo, wc_sec_hi), (seconds >> 32) as u32),
        ] {
            self.machine.store_u32(field(offset), value);
        }
        self.machine.store_u32(version_at, version.wrapping_add(2));
    }

    /// A guest's access to its PL031; an access that no PL031 answers reads as zero.
    pub(crate) fn access_clock(&self, domain: &Domain, offset: u64, access: &MmioAccess) -> u64 {
        let Some(clock) = &domain.clock else { return 0 };
        let mut registers = clock.registers.lock();
        let now = self.wall_time() / NANOSECONDS;
        let value = registers.access(offset, access.width, access.direction, now);
        self.settle_clock(domain, clock, &registers);
        value.unwrap_or(0)
    }

    /// It is time to look at the PL031 of `domain`.
    pub(crate) fn on_clock(&self, domain: &Domain) {
        let Some(clock) = &domain.clock else { return };
        let mut registers = clock.registers.lock();
        registers.advance(self.wall_time() / NANOSECONDS);
        self.settle_clock(domain, clock, &registers);
    }

    /// A domain that has stopped has a PL031 as after reset.
    pub(crate) fn reset_clock(&self, domain: &Domain) {
        let Some(clock) = &domain.clock else { return };
        let mut registers = clock.registers.lock();
        *registers = Pl031::new(self.wall_time() / NANOSECONDS);
        self.settle_clock(domain, clock, &registers);
    }

    /// Line and alarm follow the registers, whose lock is held so that levels arrive in order.
    fn settle_clock(&self, domain: &Domain, clock: &DomainClock, registers: &Pl031) {
        if let Some(interrupt) = clock.interrupt {
            self.with_vgic(domain, |vgic| {
                vgic.set_spi_level(interrupt, registers.line()).unwrap_or_default()
            });
        }
        let alarm = registers.alarm().filter(|_| domain.life.is_running());
        self.set_alarm(domain, Alarm::Clock, alarm.map(|second| self.ticks_at_second(second)));
    }

    /// The first tick of the system counter that lies in a second of the wall clock, or after it began.
    fn ticks_at_second(&self, second: u64) -> Ticks {
        let time = second.saturating_mul(NANOSECONDS);
        let ticks = self.ticks_at(time.saturating_sub(self.wall_clock_at_boot));
        Ticks(ticks.0.saturating_add(1))
    }
}
