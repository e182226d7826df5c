//! Devices come to rest before the memory that they may use is made anew.

use super::StaysDown;
use super::work::Progress;
use crate::domain::Domain;
use crate::domain::lifecycle::Stage;
use crate::domain::vcpu::{Attention, Vcpu};
use crate::hypervisor::Hypervisor;
use crate::hypervisor::clock::CoreClock;
use crate::ids::{DomainId, DomainSet, Ipa, Pa, Ticks};
use crate::ioreq::{Clock, Effects, Rest, Surroundings};
use crate::machine::Machine;
use crate::manifest::passthrough::Quiesce;
use crate::sched::Wait;

/// MagicValue of a virtio-mmio transport, "virt" (VIRTIO 1.3, section 4.2.2).
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const STATUS: u64 = 0x70;
/// Looks at a device in one step.
const LOOKS: u32 = 32;
/// Milliseconds in which a device of the machine must come to rest.
const LIMIT_MS: u64 = 1000;

impl<M: Machine> Hypervisor<M> {
    /// Device number `device` of those that others serve comes to rest, or its server is taken for lost.
    pub(super) fn rest_served(
        &self,
        domain: &Domain,
        vcpu: &Vcpu,
        device: usize,
        since: Option<Ticks>,
        mut suspects: DomainSet,
    ) -> Progress {
        let next = |suspects| {
            Progress::Next(Stage::Served {
                device: device + 1,
                since: None,
                suspects,
            })
        };
        let clock = CoreClock::new(self);
        let around = Surroundings {
            memory: &self.machine,
            clock: &clock,
        };
        let mut effects = Effects::default();
        let mut servers = domain.servers.lock();
        let rest = servers.quiesce(device, &around, &mut effects);
        let limit = servers.quiesce_limit(device);
        if rest == Rest::NoDevice {
            suspects.merge(servers.suspects());
        }
        drop(servers);
        self.perform(domain, &effects);
        match rest {
            Rest::NoDevice if self.backend_leaves(domain.id) => Progress::Next(Stage::Served {
                device,
                since: None,
                suspects,
            }),
            Rest::NoDevice => Progress::Next(Stage::Revoked { suspects, at: Ipa(0) }),
            Rest::Unserved | Rest::Reset => next(suspects),
            Rest::Failed(owner) => {
                self.condemn(domain, owner);
                suspects.insert(owner);
                next(suspects)
            }
            Rest::Awaited(owner) => {
                let now = clock.runnable(owner);
                let since = since.unwrap_or(now);
                let used = now.0.saturating_sub(since.0);
                let left = limit.map(|limit| limit.0.saturating_sub(used));
                if left == Some(0) {
                    self.condemn(domain, owner);
                    suspects.insert(owner);
                    return next(suspects);
                }
                let deadline = left.map(|left| Ticks(self.machine.now().0.saturating_add(left)));
                self.block(vcpu, Wait::Request, deadline);
                if let Some(server) = self.domain(owner) {
                    self.hand_off_to_domain(vcpu, server);
                }
                // News that came before the vCPU was marked as waiting woke nobody.
                if vcpu.has_note(Attention::Request) {
                    self.wake(vcpu, Wait::Request);
                }
                Progress::Asleep(Stage::Served {
                    device,
                    since: Some(since),
                    suspects,
                })
            }
        }
    }

    fn condemn(&self, target: &Domain, owner: DomainId) {
        let clock = CoreClock::new(self);
        let around = Surroundings {
            memory: &self.machine,
            clock: &clock,
        };
        let effects = target.servers.lock().condemn(owner, &around);
        self.perform(target, &effects);
    }

    /// Whether a domain that serves `guest` has ended and some vCPU of it has not noticed yet: until then it may write into
    /// what it has mapped.
    fn backend_leaves(&self, guest: DomainId) -> bool {
        let mut backends = self.backends.iter().filter(|(target, ..)| *target == guest);
        backends.any(|(.., backend)| {
            let backend = self.domain(*backend);
            backend.is_some_and(|backend| !backend.life.is_running() && backend.live() > 0)
        })
    }

    /// Device number `device` of the machine's that `domain` owns comes to rest: transport by transport.
    pub(super) fn rest_own(&self, domain: &Domain, device: usize, transport: u64, since: Option<Ticks>) -> Progress {
        let Some(own) = domain.plan.devices.get(device) else {
            self.silence(domain);
            return Progress::Next(Stage::Channels);
        };
        let next = |device, transport| {
            Progress::Next(Stage::Own {
                device,
                transport,
                since: None,
            })
        };
        // A device without a method that writes to memory keeps its domain from starting again, but not from stopping.
        let Some(Quiesce::VirtioMmio) = own.quiesce else {
            return next(device + 1, 0);
        };
        let Some(registers) = own.transport(transport) else {
            return next(device + 1, 0);
        };
        let now = self.machine.now();
        let status = Pa(registers.0 + STATUS);
        if since.is_none() {
            if self.machine.read_device(registers) != MAGIC {
                return next(device, transport + 1);
            }
            self.machine.write_device(status, 0);
        }
        let since = since.unwrap_or(now);
        if (0..LOOKS).any(|_| self.machine.read_device(status) == 0) {
            return next(device, transport + 1);
        }
        let limit = u128::from(LIMIT_MS) * u128::from(self.frequency) / 1000;
        if u128::from(now.0.saturating_sub(since.0)) > limit {
            return Progress::Failed(
                StaysDown::DeviceBusy(device),
                Stage::Own {
                    device: device + 1,
                    transport: 0,
                    since: None,
                },
            );
        }
        Progress::Next(Stage::Own {
            device,
            transport,
            since: Some(since),
        })
    }

    /// None of the interrupts of `domain`'s own devices comes any more.
    fn silence(&self, domain: &Domain) {
        for (interrupt, _) in &domain.plan.interrupts {
            self.machine.reset_interrupt(*interrupt);
        }
    }
}
