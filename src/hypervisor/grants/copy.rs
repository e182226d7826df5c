//! Copies between granted pages and pages of one's own.

use super::ram_at;
use crate::abi::grant::{COPY_DESTINATION_REFERENCE, COPY_SOURCE_REFERENCE, CopyEnd, GrantCopy, GrantStatus};
use crate::domain::{Domain, DomainMemory};
use crate::grant::{Access, Borrowed, GrantTable};
use crate::hypervisor::Hypervisor;
use crate::ids::{DomainId, Ipa, PAGE_SIZE, Pa};
use crate::machine::Machine;
use crate::memory::PhysicalMemory;
use crate::memory::atomic::SharedWords;
use crate::sync::MutexGuard;

/// One end of a copy.
#[derive(Copy, Clone)]
enum End<'a> {
    /// A page of the caller's RAM.
    Own(Pa),
    /// A grant.
    Granted(&'a Domain, u32),
}

impl<'a> End<'a> {
    fn granter(self) -> Option<&'a Domain> {
        match self {
            Self::Own(_) => None,
            Self::Granted(granter, _) => Some(granter),
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Does one copy for `domain`.
    pub(super) fn copy_granted(&self, domain: &Domain, entry: &GrantCopy) -> Result<(), GrantStatus> {
        let source_granted = entry.flags & COPY_SOURCE_REFERENCE != 0;
        let dest_granted = entry.flags & COPY_DESTINATION_REFERENCE != 0;
        let source = self.party(domain, &entry.source, source_granted)?;
        let dest = self.party(domain, &entry.dest, dest_granted)?;
        let source = self.end(domain, source, &entry.source, source_granted)?;
        let dest = self.end(domain, dest, &entry.dest, dest_granted)?;
        let place = |frame: Pa, end: &CopyEnd| {
            let offset = u64::from(end.offset);
            if offset + u64::from(entry.len) > PAGE_SIZE {
                return Err(GrantStatus::BadCopyArgument);
            }
            Ok(Pa(frame.0 + offset))
        };
        self.with_borrowed(domain.id, source, dest, |from, to| {
            let from = place(from, &entry.source)?;
            let to = place(to, &entry.dest)?;
            self.machine.copy(from, to, entry.len.into());
            Ok(())
        })
    }

    /// Whose page an end is.
    fn party<'a>(&'a self, domain: &'a Domain, end: &CopyEnd, granted: bool) -> Result<&'a Domain, GrantStatus> {
        let id = DomainId(end.domid);
        if id == DomainId::SELF {
            return Ok(domain);
        }
        if !granted {
            return Err(GrantStatus::PermissionDenied);
        }
        self.domain(id).ok_or(GrantStatus::BadDomain)
    }

    fn end<'a>(
        &self,
        domain: &Domain,
        party: &'a Domain,
        end: &CopyEnd,
        granted: bool,
    ) -> Result<End<'a>, GrantStatus> {
        if granted {
            return Ok(End::Granted(party, end.frame as u32));
        }
        let ipa = Ipa::from_frame(end.frame).ok_or(GrantStatus::BadPage)?;
        let mapping = domain.memory.lock().stage2.lookup(&self.machine, ipa);
        match mapping {
            // A frame of its RAM is a domain's own for its life.
            Some(mapping) if mapping.page_use.is_own_ram() => Ok(End::Own(mapping.pa.page())),
            _ => Err(GrantStatus::BadPage),
        }
    }

    /// Calls `with` with the frames of both ends, borrowed for `user` to read the first and write the second.
    fn with_borrowed(
        &self,
        user: DomainId,
        source: End<'_>,
        dest: End<'_>,
        with: impl FnOnce(Pa, Pa) -> Result<(), GrantStatus>,
    ) -> Result<(), GrantStatus> {
        let mut granters = Granters::lock(source.granter(), dest.granter());
        self.with_words(|words| {
            let from = granters.borrow(words, source, user, Access::Read)?;
            let result = granters.borrow(words, dest, user, Access::Write).and_then(|to| {
                let result = with(from.frame(), to.frame());
                granters.end(words, dest, to);
                result
            });
            granters.end(words, source, from);
            result
        })
    }
}

/// The granters of a copy, locked.
#[derive(Default)]
struct Granters<'a> {
    lower: Option<Granter<'a>>,
    higher: Option<Granter<'a>>,
}

struct Granter<'a> {
    id: DomainId,
    memory: MutexGuard<'a, DomainMemory>,
    table: MutexGuard<'a, GrantTable>,
}

impl<'a> Granters<'a> {
    #[inline]
    fn lock(source: Option<&'a Domain>, dest: Option<&'a Domain>) -> Self {
        let (lower, higher) = match (source, dest) {
            (Some(one), Some(other)) if one.id < other.id => (one, other),
            (Some(one), Some(other)) if one.id > other.id => (other, one),
            (Some(one), _) | (None, Some(one)) => {
                return Self {
                    lower: Some(Granter {
                        id: one.id,
                        memory: one.memory.lock(),
                        table: one.grants.lock(),
                    }),
                    higher: None,
                };
            }
            (None, None) => return Self::default(),
        };
        let memories = (lower.memory.lock(), higher.memory.lock());
        let tables = (lower.grants.lock(), higher.grants.lock());
        let granter = |domain: &Domain, memory, table| {
            Some(Granter {
                id: domain.id,
                memory,
                table,
            })
        };
        Self {
            lower: granter(lower, memories.0, tables.0),
            higher: granter(higher, memories.1, tables.1),
        }
    }

    fn of(&mut self, domain: &Domain) -> Option<&mut Granter<'a>> {
        let lower = self.lower.as_mut().filter(|granter| granter.id == domain.id);
        lower.or(self.higher.as_mut())
    }

    fn borrow<M: PhysicalMemory>(
        &mut self,
        words: &SharedWords<'_, M>,
        end: End<'_>,
        user: DomainId,
        access: Access,
    ) -> Result<Page, GrantStatus> {
        let (domain, reference) = match end {
            End::Own(frame) => return Ok(Page::Own(frame)),
            End::Granted(domain, reference) => (domain, reference),
        };
        let Granter { memory, table, .. } = self.of(domain).ok_or(GrantStatus::GeneralError)?;
        let borrowed = table.borrow(words, reference, user, access, |gfn| {
            ram_at(words.memory, &memory.stage2, gfn)
        });
        borrowed.map(Page::Granted)
    }

    fn end<M: PhysicalMemory>(&mut self, words: &SharedWords<'_, M>, end: End<'_>, page: Page) {
        if let (End::Granted(domain, _), Page::Granted(borrowed)) = (end, page)
            && let Some(granter) = self.of(domain)
        {
            granter.table.end_borrowed(words, borrowed);
        }
    }
}

/// The page of one end.
enum Page {
    Own(Pa),
    Granted(Borrowed),
}

impl Page {
    fn frame(&self) -> Pa {
        match self {
            Self::Own(frame) => *frame,
            Self::Granted(borrowed) => borrowed.frame,
        }
    }
}
