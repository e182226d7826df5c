//! Pages of another domain: what fails the whole call, and what only an entry.

use crate::errors::{NOBODY, SELF};
use crate::host::{Action, BACKEND, FakeHost, GUEST, MAXIMUM_GFN, READ_ONLY, SECOND_BACKEND, STRANGER, UNMAPPED, VA};
use portunus::abi::HypercallError::{BadPointer, Invalid, NoDomain, NotPermitted};
use portunus::abi::memory::ADD_TO_PHYSMAP_BATCH;
use portunus::abi::{HypercallError, hypercall, memory};
use portunus::hypercall::Outcome;
use portunus::ids::DomainId;

const SOURCES: u64 = VA + 0x1000;
const DESTINATIONS: u64 = VA + 0x2000;
const ERRORS: u64 = VA + 0x3000;
/// What no entry's result is.
const UNTOUCHED: i32 = 0x5555;
const DOMID_XEN: u16 = 0x7ff2;

/// What is bad about a request, how it is made so, and the call's error.
type Bad = (&'static str, fn(&mut memory::AddToPhysmapBatch), HypercallError);

/// A host whose caller asks for `size` pages of `foreign`.
fn asking(caller: DomainId, foreign: u16, size: u16) -> FakeHost {
    let mut host = FakeHost::new(caller);
    let batch = memory::AddToPhysmapBatch {
        domid: SELF,
        space: memory::SPACE_GMFN_FOREIGN as u16,
        size,
        foreign_domid: foreign,
        idxs: SOURCES,
        gpfns: DESTINATIONS,
        errs: ERRORS,
    };
    host.put(VA, &batch);
    for index in 0..u64::from(size) + 1 {
        host.put(SOURCES + index * 8, &(0x40000 + index));
        host.put(DESTINATIONS + index * 8, &(0x100 + index));
        host.put(ERRORS + index * 4, &UNTOUCHED);
    }
    host
}

fn errors(host: &FakeHost, count: u64) -> Vec<i32> {
    (0..count).map(|index| host.get(ERRORS + index * 4)).collect()
}

fn map(host: &mut FakeHost) -> Outcome {
    host.call_to_end(hypercall::MEMORY_OP, &[ADD_TO_PHYSMAP_BATCH, VA]).0
}

#[test]
fn a_domain_whose_memory_the_caller_may_not_have_fails_each_entry_and_not_the_call() {
    let mut rows: Vec<(&str, DomainId, u16, HypercallError)> = vec![
        ("its own memory", BACKEND, BACKEND.0, NotPermitted),
        ("its own memory by name", BACKEND, SELF, NoDomain),
        ("a stranger's", BACKEND, STRANGER.0, NotPermitted),
        ("a server's without the right", SECOND_BACKEND, GUEST.0, NotPermitted),
        ("the hypervisor's", BACKEND, DOMID_XEN, NotPermitted),
    ];
    let nobody = NOBODY.into_iter().filter(|&number| number != DOMID_XEN);
    rows.extend(nobody.map(|number| ("nobody's", BACKEND, number, NoDomain)));
    for (what, caller, foreign, error) in rows {
        for size in [1, 2, 150] {
            let mut host = asking(caller, foreign, size);
            // Nothing is looked at in the other domain.
            host.put(SOURCES, &u64::MAX);
            assert_eq!(map(&mut host), Outcome::Return(0), "{what}, {foreign:#x}, {size}");
            let expected = vec![error.entry(); size.into()];
            assert_eq!(errors(&host, size.into()), expected, "{what}, {foreign:#x}");
            assert_eq!(errors(&host, u64::from(size) + 1).last(), Some(&UNTOUCHED), "{what}");
            assert!(host.actions.is_empty(), "{what}: {:?}", host.actions);
        }
        let mut host = asking(caller, foreign, 0);
        assert_eq!(map(&mut host), Outcome::Return(0), "{what}, no entries");
        assert_eq!(errors(&host, 1), [UNTOUCHED], "{what}, no entries");
    }
}

#[test]
fn what_can_not_be_read_or_answered_fails_the_call_whoever_is_asked() {
    for foreign in [GUEST.0, STRANGER.0, NOBODY[1]] {
        for size in [1, 2] {
            let rows: [Bad; 3] = [
                ("sources fault", |batch| batch.idxs = UNMAPPED, BadPointer),
                ("destinations fault", |batch| batch.gpfns = u64::MAX - 8, BadPointer),
                ("errors read-only", |batch| batch.errs = READ_ONLY, BadPointer),
            ];
            for (what, change, error) in rows {
                let mut host = asking(BACKEND, foreign, size);
                let mut batch: memory::AddToPhysmapBatch = host.get(VA);
                change(&mut batch);
                host.put(VA, &batch);
                assert_eq!(
                    map(&mut host),
                    Outcome::Return(error.register()),
                    "{what}, {foreign:#x}"
                );
                assert!(host.actions.is_empty(), "{what}: {:?}", host.actions);
            }
            let mut host = asking(BACKEND, foreign, size);
            host.put(DESTINATIONS, &u64::MAX);
            assert_eq!(map(&mut host), Outcome::Return(Invalid.register()), "{foreign:#x}");
            assert_eq!(errors(&host, 1), [UNTOUCHED], "{foreign:#x}");
        }
    }
}

#[test]
fn entries_before_one_that_fails_the_call_are_done() {
    for bad in [1, 31, 32, 33, 63, 64, 100, 149] {
        let mut host = asking(BACKEND, GUEST.0, 150);
        host.put(DESTINATIONS + bad * 8, &u64::MAX);
        // The one before it fails by itself.
        host.put(DESTINATIONS + (bad - 1) * 8, &MAXIMUM_GFN);
        assert_eq!(map(&mut host), Outcome::Return(Invalid.register()), "{bad}");
        let mapped: Vec<_> = (0..bad - 1)
            .map(|index| Action::Foreign(GUEST, 0x40000 + index, 0x100 + index))
            .collect();
        assert_eq!(host.actions, mapped, "{bad}");
        let mut expected = vec![0; bad as usize - 1];
        expected.extend([Invalid.entry(), UNTOUCHED]);
        assert_eq!(errors(&host, bad + 1), expected, "{bad}");
    }
}
