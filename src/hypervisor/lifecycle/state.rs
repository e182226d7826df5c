//! Interrupts, event channels, console of a domain: as before its first instruction.

use super::work::Progress;
use crate::domain::Domain;
use crate::domain::lifecycle::Stage;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::interrupts::VIRTUAL_TIMER;
use crate::ids::{IntId, Ipa, PAGE_SIZE};
use crate::machine::Machine;
use crate::manifest::events::{ChannelEnd, StaticChannel};
use crate::routing::{self, Domains};
use crate::vgic::{Vgic, VgicError};

/// Event channels that one step closes; each is looked for among all ports.
const CHANNELS: u32 = 4;

/// Gives an interrupt controller, as it was made, what stands behind its interrupts: the timer, emulated devices, devices
/// of the machine with their trigger.
pub(crate) fn connect_interrupts(
    vgic: &mut Vgic,
    virtual_timer: IntId,
    emulated: impl IntoIterator<Item = IntId>,
    own: &[(IntId, bool)],
) -> Result<(), VgicError> {
    vgic.bind_physical_ppi(VIRTUAL_TIMER, virtual_timer)?;
    for interrupt in emulated {
        vgic.reserve(interrupt)?;
    }
    for (interrupt, edge) in own {
        vgic.bind_physical(*interrupt, *interrupt, *edge)?;
    }
    Ok(())
}

impl<M: Machine> Hypervisor<M> {
    /// Closes some of `domain`'s event channels; their peers see it.
    pub(super) fn close_channels(&self, domain: &Domain) -> Progress {
        let mut domains = self;
        Progress::Next(match routing::close_some(&mut domains, domain.id, CHANNELS) {
            Ok(false) => Stage::Unmapped { at: Ipa(0) },
            // A peer that changes keeps nobody up: its vCPUs get their share meanwhile.
            Ok(true) | Err(_) => Stage::Channels,
        })
    }

    /// All that is left: of the size of the domain's interrupt controller.
    pub(super) fn reset_state(&self, domain: &Domain) {
        self.cancel_alarms(domain);
        if let Some(port) = domain.console {
            let mut console = self.console.lock();
            if let Some(change) = console.reset(port) {
                self.set_console_line(change);
            }
        }
        for vcpu in &domain.vcpus {
            vcpu.mark_runstate(false);
            vcpu.set_runstate_area(None);
        }
        domain.memory.lock().shared_info_at = None;
        domain.servers.lock().clear_state_pages(&self.machine);
        let mut domains = self;
        routing::forget_posted(&mut domains, domain.id);
        let mut events = domain.events.lock();
        self.machine.zero(events.shared_info(), PAGE_SIZE);
        events.restart();
        if let Some(pv) = domain.pv_console {
            self.machine.zero(pv.page, PAGE_SIZE);
            // All ports are free.
            let _ = events.alloc_console(pv.port);
        }
        drop(events);
        self.reset_interrupts(domain);
        self.restart_shadows(domain);
        for channel in &self.channels {
            self.reconnect(domain, channel);
        }
    }

    fn reset_interrupts(&self, domain: &Domain) {
        let interrupts = &domain.plan.interrupts;
        let clock = domain.clock.as_ref().and_then(|clock| clock.interrupt);
        let emulated = domain.console_interrupt.into_iter().chain(clock);
        let mut vgic = domain.vgic.lock();
        vgic.reset();
        // It was connected so before.
        let _ = connect_interrupts(&mut vgic, self.virtual_timer, emulated, interrupts);
        drop(vgic);
        for (interrupt, edge) in interrupts {
            self.prepare_interrupt(domain, *interrupt, *edge);
        }
    }

    /// Sets a physical interrupt of `domain` up; it stays disabled until the guest enables it.
    pub(crate) fn prepare_interrupt(&self, domain: &Domain, interrupt: IntId, edge: bool) {
        if let Some(vcpu) = domain.vcpus.first() {
            self.machine.configure_interrupt(interrupt, edge);
            self.machine.route_interrupt(interrupt, vcpu.pcpu);
        }
    }

    /// A static channel of `domain`, whose ends there are closed, is as at boot; where the peer has done something else with
    /// its end, this one waits for it.
    fn reconnect(&self, domain: &Domain, channel: &StaticChannel) {
        let (first, second) = (channel.first, channel.second);
        let own = |end: ChannelEnd| end.domain == domain.id;
        if own(first) && own(second) {
            self.offer_end(first, second);
            self.connect_ends(second, first);
        } else if own(first) {
            self.connect_ends(first, second);
        } else if own(second) {
            self.connect_ends(second, first);
        }
    }

    fn offer_end(&self, end: ChannelEnd, peer: ChannelEnd) {
        let mut domains = self;
        // The port is free, as it was at boot.
        let _ = domains.events(end.domain, |events, _| events.alloc_static(end.port, peer.domain));
    }

    fn connect_ends(&self, end: ChannelEnd, peer: ChannelEnd) {
        let mut domains = self;
        let bound = domains.event_pair(end.domain, peer.domain, |mut tables, words| {
            tables.bind_static(end.port, peer.port, words)
        });
        match bound {
            Some(Ok(bound)) => domains.deliver(end.domain, bound.delivery),
            _ => self.offer_end(end, peer),
        }
    }
}
