//! The steps from a domain whose vCPUs are all off to one that is down, or at its first instruction.

use core::sync::atomic::Ordering;

use super::StaysDown;
use crate::domain::Domain;
use crate::domain::life::Phase;
use crate::domain::lifecycle::{Lifecycle, Stage};
use crate::domain::vcpu::Vcpu;
use crate::hypervisor::messages::Message;
use crate::hypervisor::{Entry, Hypervisor};
use crate::ids::{DomainId, DomainSet, Ipa, PAGE_SIZE, Ticks};
use crate::machine::Machine;
use crate::sched::Wait;
use crate::stage2::TableCursor;

/// What a step came to.
pub(super) enum Progress {
    /// There is more to do.
    Next(Stage),
    /// There is more to do when the boot vCPU, which was blocked, is woken.
    Asleep(Stage),
    /// The domain stays down; what is still to be done for that.
    Failed(StaysDown, Stage),
    /// The domain is down, or runs; the boot vCPU was blocked, and woken where it must be.
    Over,
}

impl<M: Machine> Hypervisor<M> {
    /// Does one step in the time of `domain`'s boot vCPU, `vcpu`, which can run and is off.
    pub(super) fn work(&self, domain: &Domain, vcpu: &Vcpu) -> Entry {
        let mut lifecycle = domain.lifecycle.lock();
        match self.step(domain, vcpu, &lifecycle) {
            Progress::Next(stage) => {
                lifecycle.stage = stage;
                Entry::Worked
            }
            Progress::Asleep(stage) => {
                lifecycle.stage = stage;
                Entry::Blocked
            }
            Progress::Failed(why, stage) => {
                lifecycle.stage = stage;
                if domain.life.redirect(false) {
                    self.tell(Message::StaysDown { domain: domain.id, why });
                    self.end_if_over();
                }
                Entry::Worked
            }
            Progress::Over => {
                lifecycle.stage = Stage::Requests;
                Entry::Worked
            }
        }
    }

    fn step(&self, domain: &Domain, vcpu: &Vcpu, lifecycle: &Lifecycle) -> Progress {
        match lifecycle.stage {
            Stage::Requests => {
                self.close_grants(domain);
                domain.servers.lock().cancel_all();
                // A vCPU may have made one after they were abandoned first.
                self.abandon_servers(domain.id);
                Progress::Next(Stage::Served {
                    device: 0,
                    since: None,
                    suspects: DomainSet::default(),
                })
            }
            Stage::Served {
                device,
                since,
                suspects,
            } => self.rest_served(domain, vcpu, device, since, suspects),
            Stage::Revoked { suspects, at } => self.revoke(domain, suspects, at),
            Stage::Own {
                device,
                transport,
                since,
            } => self.rest_own(domain, device, transport, since),
            Stage::Channels => self.close_channels(domain),
            Stage::Unmapped { at } => self.unmap_own(domain, at),
            Stage::Handles { handle } => Progress::Next(match self.drop_handles(domain, handle) {
                Some(handle) => Stage::Handles { handle },
                None => Stage::Grants,
            }),
            Stage::Grants => Progress::Next(if self.shrink_grants(domain) {
                Stage::Tables {
                    cursor: TableCursor::default(),
                }
            } else {
                Stage::Grants
            }),
            Stage::Tables { cursor } => self.free_tables(domain, cursor),
            Stage::Frames { counter } => self.reclaim_frames(domain, counter),
            Stage::Servers { target } => self.discard_servers(domain.id, DomainId(target)),
            Stage::Mapped { region, done } => self.map_own(domain, region, done),
            Stage::State => {
                self.reset_state(domain);
                Progress::Next(Stage::Granted {
                    holders: domain.grants.lock().holders(),
                    at: Ipa(0),
                })
            }
            Stage::Granted { holders, at } => self.revoke_grants(domain, holders, at),
            Stage::Image => self.continue_image(domain),
            Stage::Done => self.done(domain, vcpu, lifecycle),
        }
    }

    fn done(&self, domain: &Domain, vcpu: &Vcpu, lifecycle: &Lifecycle) -> Progress {
        if let Phase::Restarting(_) = domain.life.phase() {
            let counter_zero = self.machine.now();
            domain.virtual_offset.store(counter_zero.0, Ordering::Release);
            self.publish_wall_clock(domain, counter_zero);
            if !domain.life.started() {
                // It is to stop after all.
                return Progress::Next(Stage::Done);
            }
            domain.restarts.fetch_add(1, Ordering::AcqRel);
            self.tell(self.up_again(domain, lifecycle.since));
            self.block(vcpu, Wait::Power, None);
            self.boot(domain);
            return Progress::Over;
        }
        if !domain.life.stopped() {
            // It is to start again after all.
            return Progress::Next(Stage::Requests);
        }
        self.block(vcpu, Wait::Power, None);
        // Whoever starts it again may have woken the vCPU before it slept.
        if self.has_work(domain) {
            self.wake(vcpu, Wait::Power);
        }
        self.end_if_over();
        Progress::Over
    }

    fn up_again(&self, domain: &Domain, since: Ticks) -> Message {
        let memory = domain.memory.lock();
        let range = memory.pool.range();
        let frames = (range.size / PAGE_SIZE).saturating_sub(memory.pool.free_frames());
        let references = self.references.lock().total(&self.machine, range);
        drop(memory);
        let (ports, attached) = domain.events.lock().in_use();
        let elapsed = Ticks(self.machine.now().0.saturating_sub(since.0));
        Message::UpAgain {
            domain: domain.id,
            restarts: domain.restarts.load(Ordering::Acquire),
            frames: u32::try_from(frames).unwrap_or(u32::MAX),
            references: u32::try_from(references).unwrap_or(u32::MAX),
            channels: ports + attached,
            microseconds: u32::try_from(self.nanoseconds(elapsed) / 1000).unwrap_or(u32::MAX),
        }
    }
}
