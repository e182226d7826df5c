//! Caches of granted pages, cleaned on request.

use portunus::abi::grant;
use portunus::abi::{HypercallError, hypercall};

use crate::grants::{B0, S0, SPARE, WINDOW, WRITE, granting};
use crate::world::{BACKEND, EMPTY_GFN, GUEST, Options, SCRATCH, STRANGER};

const HOST: u32 = grant::MAP_HOST;

#[test]
fn caches_are_cleaned_of_pages_that_one_has_and_no_others() {
    let sim = granting(&Options::default());
    sim.grant(GUEST, 9, WRITE, BACKEND, SPARE);
    sim.map_one(B0, GUEST, 9, HOST, WINDOW).expect("a handle");
    let flush = grant::CacheFlush {
        dev_bus_addr: WINDOW << 12,
        offset: 64,
        length: 128,
        op: grant::CACHE_CLEAN,
    };
    let own = grant::CacheFlush {
        dev_bus_addr: SPARE << 12,
        op: 3,
        ..flush
    };
    let all: [grant::CacheFlush; 100] = std::array::from_fn(|index| if index % 2 == 0 { flush } else { own });
    sim.take_log();
    assert_eq!(sim.grant_op(B0, grant::CACHE_FLUSH, &all).0, 0);
    let granted = sim.pa(GUEST, SPARE << 12).0;
    let cleaned: Vec<(u64, u64)> = sim
        .take_log()
        .into_iter()
        .filter_map(|operation| match operation {
            portunus::fakes::Operation::CleanToCoherency { at, length } => Some((at.0, length)),
            _ => None,
        })
        .collect();
    assert_eq!(cleaned.len(), 100);
    assert_eq!(cleaned[0], (granted + 64, 128));
    assert_eq!(cleaned[1], (sim.pa(BACKEND, SPARE << 12).0 + 64, 128));
    let rows = [
        (
            "nothing",
            grant::CacheFlush {
                length: 0,
                dev_bus_addr: u64::MAX,
                ..flush
            },
            0,
        ),
        (
            "nothing to do",
            grant::CacheFlush {
                op: 0,
                dev_bus_addr: u64::MAX,
                ..flush
            },
            0,
        ),
        (
            "by reference",
            grant::CacheFlush {
                op: 1 << 31 | 1,
                ..flush
            },
            22,
        ),
        ("an unknown operation", grant::CacheFlush { op: 4, ..flush }, 22),
        ("across the page", grant::CacheFlush { offset: 4000, ..flush }, 22),
        (
            "beyond the page",
            grant::CacheFlush {
                offset: 4096,
                length: 0,
                ..flush
            },
            22,
        ),
        (
            "far beyond",
            grant::CacheFlush {
                offset: u16::MAX,
                length: u16::MAX,
                ..flush
            },
            22,
        ),
        (
            "no page",
            grant::CacheFlush {
                dev_bus_addr: (WINDOW + 1) << 12,
                ..flush
            },
            22,
        ),
        (
            "beyond the map",
            grant::CacheFlush {
                dev_bus_addr: u64::MAX,
                ..flush
            },
            22,
        ),
        (
            "its table",
            grant::CacheFlush {
                dev_bus_addr: EMPTY_GFN << 12,
                ..flush
            },
            1,
        ),
    ];
    for (name, request, error) in rows {
        assert_eq!(sim.grant_op(B0, grant::CACHE_FLUSH, &[request]).0, -error, "{name}");
    }
    // A cursor of one's own making.
    sim.put(BACKEND, SCRATCH, &grant::CacheFlush { length: 0, ..flush });
    let call = [grant::CACHE_FLUSH | 7 << 12, SCRATCH, 1];
    let result = sim.hypercall(B0, hypercall::GRANT_TABLE_OP, &call);
    assert_eq!(result, Some(-(HypercallError::IllegalSequence as i64)));
}

#[test]
fn caches_are_cleaned_by_machine_address_where_that_is_what_a_domain_knows() {
    let options = Options {
        stranger: "direct-map;",
        ..Options::default()
    };
    let sim = granting(&options);
    sim.forget_log();
    // Many handles, so that the search goes on and on.
    for reference in 8..20 {
        sim.grant(GUEST, reference, WRITE, STRANGER, SPARE + u64::from(reference));
    }
    let map = |reference, gfn: u64| {
        let request = grant::MapGrantRef {
            host_addr: gfn << 12,
            flags: HOST,
            reference,
            dom: GUEST.0,
            ..Default::default()
        };
        let after = sim.grant_op(S0, grant::MAP_GRANT_REF, &[request]).1[0];
        assert_eq!(after.status, 0);
        after.dev_bus_addr
    };
    for number in 0..600 {
        map(8 + number % 5, WINDOW + u64::from(number));
    }
    let bus = map(19, WINDOW + 600);
    assert_eq!(bus, sim.pa(GUEST, (SPARE + 19) << 12).0, "the machine's address");
    let flush = |address| {
        let request = grant::CacheFlush {
            dev_bus_addr: address,
            offset: 0,
            length: 4095,
            op: 2,
        };
        sim.grant_op(S0, grant::CACHE_FLUSH, &[request]).0
    };
    assert_eq!(flush(bus), 0);
    assert_eq!(flush(sim.pa(GUEST, (SPARE + 18) << 12).0), -1, "granted, not mapped");
    assert_eq!(flush(sim.pa(BACKEND, SPARE << 12).0), -1, "another's");
    assert_eq!(flush(0), -22, "no RAM");
    let own = sim.domain(STRANGER).ram[0].start.0;
    assert_eq!(flush(own), 0);
}
