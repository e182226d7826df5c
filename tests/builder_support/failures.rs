//! Domains that can't be built, beside those that can.

use portunus::domain::builder::BuildError;
use portunus::domain::image::ImageError;
use portunus::ids::DomainId;
use portunus::manifest::domain::DomainConfig;
use portunus::manifest::{ManifestError, Reason};
use portunus::memory::frames::FrameError;
use portunus::range::{IpaRange, PaRange};
use portunus::stage2::GeometryError;

use crate::bench::{FIRMWARE, GIB, LIMITS, MIB, MODULES, bench, domain, kernel, ranges};

#[test]
fn a_domain_that_can_not_be_built_says_why_and_the_others_are_built() {
    let good = || kernel(9, MIB, 4096);
    let pool_of = |pool| DomainConfig {
        page_table_pool: pool,
        ..domain(2, 16 * MIB)
    };
    let placed = |at| DomainConfig {
        static_memory: vec![PaRange::new(at, 16 * MIB)],
        ..domain(2, 16 * MIB)
    };
    let mut beyond = domain(2, 16 * MIB);
    beyond.layout.extended_regions = vec![IpaRange::new(1 << 44, GIB)];
    let firmware = PaRange::new(FIRMWARE.start.0, 16 * MIB);
    type Row = (DomainConfig, Vec<u8>, Option<Vec<u8>>, BuildError);
    let rows: Vec<Row> = vec![
        (
            domain(2, 4 * GIB),
            good(),
            None,
            BuildError::Memory(FrameError::Exhausted(4 * GIB)),
        ),
        (
            placed(firmware.start.0),
            good(),
            None,
            BuildError::Memory(FrameError::NotFree(firmware)),
        ),
        (
            pool_of(3 * GIB),
            good(),
            None,
            BuildError::Pool(FrameError::Exhausted(3 * GIB)),
        ),
        (
            beyond,
            good(),
            None,
            BuildError::Geometry(GeometryError::TooFewBits {
                needed: 45,
                available: 44,
            }),
        ),
        (
            domain(2, 16 * MIB),
            vec![0; 64],
            None,
            BuildError::Kernel(ImageError::UnknownFormat(0)),
        ),
        (
            domain(2, 16 * MIB),
            kernel(1, 17 * MIB, 4096),
            None,
            BuildError::Kernel(ImageError::DoesNotFit(IpaRange::new(0x4000_0000, 17 * MIB))),
        ),
        (
            domain(2, 16 * MIB),
            kernel(1, 15 * MIB, 4096),
            Some(vec![1; 2 * MIB as usize]),
            BuildError::Ramdisk(2 * MIB),
        ),
        (
            domain(2, 16 * MIB),
            kernel(1, 16 * MIB, 4096),
            None,
            BuildError::DeviceTree(5000),
        ),
    ];
    for (index, (config, kernel, ramdisk, error)) in rows.into_iter().enumerate() {
        let mut bench = bench();
        bench.add(domain(1, 16 * MIB), &good(), None);
        bench.add(config, &kernel, ramdisk.as_deref());
        bench.add(domain(3, 16 * MIB), &good(), None);
        let built = bench.build();
        assert_eq!(built.failed, [(DomainId(2), error)], "row {index}");
        assert_eq!(
            built.domains.iter().map(|domain| domain.id.0).collect::<Vec<_>>(),
            [1, 3],
            "row {index}"
        );
        // What the failed domain had is free again.
        let had: u64 = built.domains.iter().flat_map(ranges).map(|range| range.size).sum();
        assert!(built.frames.free_bytes() > 2 * GIB - had - 8 * MIB - bench.next_module.saturating_sub(MODULES));
    }
}

#[test]
fn a_tree_that_can_not_be_made_or_mapped_is_that_domains_failure() {
    let mut bench = bench();
    bench.add(domain(1, 16 * MIB), &kernel(1, MIB, 4096), None);
    bench.add(domain(2, 16 * MIB), &kernel(1, MIB, 4096), None);
    let refusal = ManifestError::new("/x", "y", Reason::Missing);
    let built = bench.build_with(LIMITS, |config, _| {
        if config.id == DomainId(1) {
            Err(refusal.clone())
        } else {
            Ok(vec![0; 2 * MIB as usize + 1])
        }
    });
    let expected = [
        (DomainId(1), BuildError::Manifest(refusal)),
        (DomainId(2), BuildError::DeviceTree(2 * MIB + 1)),
    ];
    assert_eq!(built.failed, expected);
    assert!(built.domains.is_empty());
}

#[test]
fn every_tree_is_told_the_memory_of_all_domains_in_the_manifests_order() {
    let mut bench = bench();
    let mut direct = domain(1, 64 * MIB);
    direct.direct_map = true;
    bench.add(direct, &kernel(1, MIB, 4096), None);
    bench.add(domain(2, 16 * GIB), &kernel(2, MIB, 4096), None);
    bench.add(domain(3, 16 * MIB), &kernel(3, MIB, 4096), None);
    let mut told = Vec::new();
    let built = bench.build_with(LIMITS, |_, placement| {
        told.push(placement.memory.to_vec());
        Ok(vec![0; 100])
    });
    let [first, third] = &built.domains[..] else {
        panic!("two domains")
    };
    let expected = vec![first.ram.banks(), Vec::new(), third.ram.banks()];
    assert_eq!(told, [expected.clone(), expected]);
}

#[test]
fn sixteen_domains_of_every_kind_fit_side_by_side() {
    let mut bench = bench();
    for number in 1..=16 {
        let mut config = domain(number, 48 * MIB);
        config.direct_map = number % 4 == 0;
        bench.add(
            config,
            &kernel(number as u8, 2 * MIB, 8192),
            Some(&[number as u8; 5000]),
        );
    }
    let built = bench.build();
    assert_eq!(built.failed, []);
    assert_eq!(built.domains.len(), 16);
    for domain in &built.domains {
        let body = bench.peek(domain, domain.kernel.entry.0 + 4096, 4096);
        assert!(
            body.iter().all(|byte| u16::from(*byte) == domain.id.0),
            "each has its own kernel"
        );
        let ramdisk = domain.ramdisk.expect("a ramdisk");
        assert_eq!(bench.peek(domain, ramdisk.start.0, 1), [domain.id.0 as u8]);
    }
}
