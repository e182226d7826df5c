//! What others have of a domain that ends, what it has of others, its guest-physical map, and its image.

use core::sync::atomic::Ordering;

use super::StaysDown;
use super::work::Progress;
use crate::domain::blueprint::{Fresh, Step};
use crate::domain::imaging::Budget;
use crate::domain::lifecycle::Stage;
use crate::domain::{Domain, DomainMemory};
use crate::entropy::Entropy;
use crate::grant::Handle;
use crate::hypervisor::Hypervisor;
use crate::ids::{DomainId, DomainSet, Ipa, MAX_DOMAINS};
use crate::machine::Machine;
use crate::range::PaRange;
use crate::routing::Domains;
use crate::stage2::{PageUse, TableCursor, Taken};

/// Counters of frames that one step looks at.
const COUNTERS: u64 = 2048;

impl<M: Machine> Hypervisor<M> {
    /// How many references domains hold to the frames of `range`, which are others'.
    pub fn references_to(&self, range: PaRange) -> u64 {
        self.references.lock().total(&self.machine, range)
    }

    /// Takes pages of `domain` out of the map of the first of `suspects`, from `at` on. The pages through which its servers
    /// are asked stay: they hold nothing of the guest.
    pub(super) fn revoke(&self, domain: &Domain, mut suspects: DomainSet, at: Ipa) -> Progress {
        let own = Progress::Next(Stage::Own {
            device: 0,
            transport: 0,
            since: None,
        });
        let Some(id) = suspects.first() else { return own };
        let pages = domain.servers.lock().pages();
        let Some(suspect) = self.domain(id).filter(|suspect| suspect.id != domain.id) else {
            suspects.remove(id);
            return Progress::Next(Stage::Revoked { suspects, at: Ipa(0) });
        };
        let mut taken = Taken::new();
        let mut memory = suspect.memory.lock();
        let references = self.references.lock();
        let next = memory.stage2.unmap_some(
            &self.machine,
            at,
            |page| {
                matches!(page.page_use, PageUse::Foreign { .. })
                    && references.owner(page.frame) == Some(domain.id)
                    && !pages.contains(&page.frame)
            },
            &mut taken,
        );
        drop(references);
        drop(memory);
        for (at, page) in taken {
            self.release(suspect, at, page);
        }
        match next {
            Some(at) => Progress::Next(Stage::Revoked { suspects, at }),
            None => {
                domain.servers.lock().acquit(id);
                suspects.remove(id);
                Progress::Next(Stage::Revoked { suspects, at: Ipa(0) })
            }
        }
    }

    /// Takes mappings out of `domain`'s own map from `at` on, and gives references back.
    pub(super) fn unmap_own(&self, domain: &Domain, at: Ipa) -> Progress {
        let mut taken = Taken::new();
        let next = domain
            .memory
            .lock()
            .stage2
            .unmap_some(&self.machine, at, |_| true, &mut taken);
        for (at, page) in taken {
            // RAM stays the domain's own and comes back to its place.
            if page.page_use != PageUse::Ram {
                self.release(domain, at, page);
            }
        }
        Progress::Next(match next {
            Some(at) => Stage::Unmapped { at },
            None => Stage::Handles {
                handle: Handle::default(),
            },
        })
    }

    /// Takes granted pages of `domain` out of the map of the first of `holders`, from `at` on: its memory is about to be made
    /// anew. That of one that stops is left as it is.
    pub(super) fn revoke_grants(&self, domain: &Domain, mut holders: DomainSet, at: Ipa) -> Progress {
        let Some(id) = holders.first() else {
            return self.begin_image(domain);
        };
        if domain.is_stopped() {
            return Progress::Next(Stage::Done);
        }
        let next = self.domain(id).and_then(|holder| {
            let mut taken = Taken::new();
            let mut memory = holder.memory.lock();
            let references = self.references.lock();
            let next = memory.stage2.unmap_some(
                &self.machine,
                at,
                |page| {
                    matches!(page.page_use, PageUse::Granted { .. }) && references.owner(page.frame) == Some(domain.id)
                },
                &mut taken,
            );
            drop(references);
            drop(memory);
            for (at, page) in taken {
                self.release(holder, at, page);
            }
            next
        });
        let at = next.unwrap_or_else(|| {
            holders.remove(id);
            Ipa(0)
        });
        Progress::Next(Stage::Granted { holders, at })
    }

    pub(super) fn free_tables(&self, domain: &Domain, cursor: TableCursor) -> Progress {
        let mut memory = domain.memory.lock();
        let DomainMemory { stage2, pool, .. } = &mut *memory;
        Progress::Next(match stage2.free_tables(&self.machine, pool, cursor) {
            Some(cursor) => Stage::Tables { cursor },
            None => Stage::Frames { counter: 0 },
        })
    }

    pub(super) fn reclaim_frames(&self, domain: &Domain, counter: u64) -> Progress {
        let mut references = self.references.lock();
        Progress::Next(match references.reclaim(&self.machine, domain.id, counter, COUNTERS) {
            Some(counter) => Stage::Frames { counter },
            None => Stage::Servers { target: 0 },
        })
    }

    /// Nothing of what `owner` had of `target` is in use any more.
    pub(super) fn discard_servers(&self, owner: DomainId, target: DomainId) -> Progress {
        if usize::from(target.0) > MAX_DOMAINS {
            return Progress::Next(Stage::Mapped { region: 0, done: 0 });
        }
        let mut domains = self;
        // There are numbers that no domain has.
        let _ = domains.servers(target, |servers, _, resources| servers.discard_dead(owner, resources));
        Progress::Next(Stage::Servers { target: target.0 + 1 })
    }

    /// Maps what `domain` has before its first instruction, from the first `done` bytes of region number `region` on.
    pub(super) fn map_own(&self, domain: &Domain, region: usize, done: u64) -> Progress {
        let Some(wanted) = domain.plan.map.get(region) else {
            return Progress::Next(Stage::State);
        };
        let mut memory = domain.memory.lock();
        let DomainMemory { stage2, pool, .. } = &mut *memory;
        match stage2.map_some(&self.machine, pool, wanted, done) {
            Ok(done) if done < wanted.size => Progress::Next(Stage::Mapped { region, done }),
            Ok(_) => Progress::Next(Stage::Mapped {
                region: region + 1,
                done: 0,
            }),
            // It had room for the same tables before.
            Err(_) => Progress::Failed(StaysDown::Map, Stage::State),
        }
    }

    /// Begins to make `domain`'s memory, if it is to start again.
    fn begin_image(&self, domain: &Domain) -> Progress {
        if domain.is_stopped() {
            return Progress::Next(Stage::Done);
        }
        domain.grants.lock().open();
        let fresh = Fresh {
            restarts: domain.restarts.load(Ordering::Acquire).saturating_add(1),
            seeds: self.entropy.lock().as_mut().map(Entropy::seeds),
        };
        match domain.blueprint.lock().begin(fresh) {
            Ok(()) => Progress::Next(Stage::Image),
            Err(error) => Progress::Failed(StaysDown::Image(error), Stage::Done),
        }
    }

    pub(super) fn continue_image(&self, domain: &Domain) -> Progress {
        if domain.is_stopped() {
            return Progress::Next(Stage::Done);
        }
        let budget = Budget::new(Budget::STEP);
        match domain.blueprint.lock().step(&self.machine, budget) {
            Ok(Step::More) => Progress::Next(Stage::Image),
            Ok(Step::Done(_)) => Progress::Next(Stage::Done),
            Err(error) => Progress::Failed(StaysDown::Image(error), Stage::Done),
        }
    }
}
