//! Domains built from a manifest: where everything is, what nobody else may find, and whose failure is whose.

#[path = "builder_support/bench.rs"]
mod bench;
#[path = "builder_support/failures.rs"]
mod failures;

use portunus::domain::builder::BuildError;
use portunus::domain::image::ImageError;
use portunus::fakes::{Operation, translation_order};
use portunus::ids::{DomainId, Ipa, PAGE_SIZE, Pa};
use portunus::manifest::devices::{DeviceConfig, DeviceKind, MemoryAccess, OnFailure, Source};
use portunus::manifest::host::{Gic, is_repeated};
use portunus::manifest::layout::VirtualGic;
use portunus::manifest::passthrough::{Mapping, PassthroughDevice};
use portunus::memory::frames::FrameError;
use portunus::range::{IpaRange, PaRange};
use portunus::stage2::PageUse;

use bench::{
    FIRMWARE, GIB, HYPERVISOR, LIMITS, MIB, MODULES, bench, bench_on, domain, gicv2, gicv3, kernel, ppi, ranges,
};

#[test]
fn a_domain_finds_its_kernel_ramdisk_and_tree_and_otherwise_zeroes() {
    let mut bench = bench();
    let kernel = kernel(0x11, 4 * MIB, 3 * MIB as usize);
    bench.machine.poke(Pa(0x7000_0000), b"somebody's secret");
    bench.add(domain(1, GIB), &kernel, Some(&[0x22; 70_000]));
    let mut told = None;
    let built = bench.build_with(LIMITS, |config, placement| {
        told = Some((config.id, placement.memory.to_vec(), placement.ramdisk));
        Ok(vec![0xdb; 5000])
    });
    assert_eq!(built.failed, []);
    let [built_domain] = &built.domains[..] else {
        panic!("one domain")
    };

    assert_eq!(built_domain.kernel.entry, Ipa(0x4000_0000));
    assert_eq!(built_domain.kernel.extent, IpaRange::new(0x4000_0000, 4 * MIB));
    assert_eq!(bench.peek(built_domain, 0x4000_0000, 3 * MIB), kernel);
    let ramdisk = built_domain.ramdisk.expect("a ramdisk");
    assert_eq!(bench.peek(built_domain, ramdisk.start.0, ramdisk.size), [0x22; 70_000]);
    let tree = built_domain.device_tree;
    assert_eq!(bench.peek(built_domain, tree.start.0, tree.size), [0xdb; 5000]);
    assert_eq!(
        told,
        Some((DomainId(1), vec![vec![IpaRange::new(0x4000_0000, GIB)]], Some(ramdisk)))
    );

    let parts = [built_domain.kernel.extent, ramdisk, tree];
    for (index, part) in parts.iter().enumerate() {
        assert!(part.end() <= 0x4000_0000 + 512 * MIB, "{part} is near");
        assert!(
            parts[index + 1..].iter().all(|other| !part.overlaps(*other)),
            "{parts:?}"
        );
    }
    assert_eq!(
        tree.start.0 / (2 * MIB),
        (tree.end() - 1) / (2 * MIB),
        "crosses no boundary that an old kernel minds"
    );
    assert!(
        bench
            .peek(built_domain, 0x4000_0000 + 3 * MIB, MIB)
            .iter()
            .all(|byte| *byte == 0),
        "zero-initialised data"
    );
    for piece in built_domain.ram.pieces() {
        // The bench's machine reads poison where nothing was written.
        for offset in (0..piece.pa.size).step_by(MIB as usize) {
            assert!(bench.machine.is_written(Pa(piece.pa.start.0 + offset)));
        }
    }
    let last = bench.peek(built_domain, 0x7fff_f000, 0x1000);
    assert!(last.iter().all(|byte| *byte == 0));
}

/// A device that is served by a window.
fn windowed(window: IpaRange) -> DeviceConfig {
    DeviceConfig {
        name: "disk".to_string(),
        path: "/chosen/domU1/portunus,devices/disk".to_string(),
        kind: DeviceKind::BLOCK,
        backend: DomainId(2),
        source: Source::None,
        transports: Vec::new(),
        memory_access: MemoryAccess::Window,
        window: Some(window),
        map_quota: 2048,
        read_only: false,
        queues: 1,
        accel: false,
        timeout_ms: 0,
        attach_timeout_ms: 0,
        on_failure: OnFailure::Wait,
        range: IpaRange::new(0x200_0000, 0x200),
        interrupt: ppi(33),
    }
}

#[test]
fn kernel_ramdisk_and_tree_stay_out_of_a_window() {
    let mut bench = bench();
    let mut config = domain(1, 32 * MIB);
    let window = IpaRange::new(0x4000_0000 + 24 * MIB, 8 * MIB);
    config.devices.push(windowed(window));
    bench.add(config, &kernel(0x11, 4 * MIB, 4096), Some(&[0x22; 70_000]));
    let mut covered = domain(2, 32 * MIB);
    covered.devices.push(windowed(window));
    bench.add(covered, &kernel(0x11, 25 * MIB, 4096), None);
    let built = bench.build();
    let [first] = &built.domains[..] else {
        panic!("one domain")
    };
    let ramdisk = first.ramdisk.expect("a ramdisk");
    for part in [first.kernel.extent, ramdisk, first.device_tree] {
        assert!(!part.overlaps(window), "{part}");
    }
    assert!(
        bench
            .peek(first, window.start.0, window.size)
            .iter()
            .all(|byte| *byte == 0)
    );
    let extent = IpaRange::new(0x4000_0000, 25 * MIB);
    assert_eq!(
        built.failed,
        [(DomainId(2), BuildError::Kernel(ImageError::DoesNotFit(extent)))]
    );
}

#[test]
fn the_map_has_ram_in_blocks_and_the_account_knows_every_frame() {
    let mut bench = bench_on(
        gicv3(),
        &[PaRange::new(0x4000_0000, 2 * GIB), PaRange::new(0x1_0000_0000, 6 * GIB)],
    );
    bench.add(domain(1, 4 * GIB), &kernel(1, MIB, 4096), None);
    bench.add(domain(2, 64 * MIB), &kernel(2, MIB, 4096), None);
    let built = bench.build();
    assert_eq!(built.failed, []);
    let [big, small] = &built.domains[..] else {
        panic!("two domains")
    };
    assert_eq!(
        big.ram.banks(),
        [IpaRange::new(0x4000_0000, 3 * GIB), IpaRange::new(0x2_0000_0000, GIB)]
    );
    assert_eq!(small.ram.banks(), [IpaRange::new(0x4000_0000, 64 * MIB)]);
    for (domain, ipa, size) in [
        (big, 0x4000_0000, GIB),
        (big, 0x2_3fff_ffff, GIB),
        (small, 0x43ff_ffff, 2 * MIB),
    ] {
        let found = domain.stage2.lookup(&bench.machine, Ipa(ipa)).expect("mapped");
        assert_eq!((found.page_use, found.size), (PageUse::Ram, size), "{ipa:#x}");
        assert_eq!(Ok(found.pa), domain.ram.physical(Ipa(ipa)));
        assert_eq!(built.references.owner(found.pa), Some(domain.id));
    }
    for outside in [0, 0x3fff_ffff, 0x1_0000_0000, 0x2_4000_0000, 0x0300_1000, 0x0200_0000] {
        assert_eq!(big.stage2.lookup(&bench.machine, Ipa(outside)), None, "{outside:#x}");
    }
    assert_eq!(small.stage2.lookup(&bench.machine, Ipa(0x4400_0000)), None);
    assert_eq!((big.stage2.vmid().0, small.stage2.vmid().0), (1, 2));

    // Nobody shares a frame with anybody, nor with the hypervisor, firmware or a module.
    let mut all: Vec<PaRange> = ranges(big).chain(ranges(small)).chain([HYPERVISOR, FIRMWARE]).collect();
    all.extend(
        bench
            .manifest
            .domains
            .iter()
            .filter_map(|domain| domain.modules.kernel)
            .map(|module| module.range),
    );
    all.extend(built.frames.free_ranges());
    for (index, range) in all.iter().enumerate() {
        assert!(
            all[index + 1..].iter().all(|other| !other.overlaps(*range)),
            "{range} in {all:?}"
        );
    }
    assert_eq!(built.references.owner(big.stage2.root()), Some(DomainId(1)));
    assert_eq!(built.references.owner(HYPERVISOR.start), None);
}

#[test]
fn ram_is_zeroed_then_written_then_cleaned_then_made_executable() {
    let mut bench = bench();
    bench.add(domain(1, 16 * MIB), &kernel(1, 2 * MIB, 70_000), Some(&[2; 100]));
    bench.machine.clear_log();
    let built = bench.build();
    let log = bench.machine.take_log();
    let [built_domain] = &built.domains[..] else {
        panic!("one domain")
    };
    let [piece] = built_domain.ram.pieces() else {
        panic!("one piece")
    };
    let step = |operation: &Operation| match operation {
        Operation::Zero { at, length } if PaRange::new(at.0, *length) == piece.pa => Some("zero"),
        Operation::Write { at, .. } if piece.pa.contains(PaRange::new(at.0, 1)) => Some("write"),
        Operation::CleanToCoherency { at, length } if PaRange::new(at.0, *length) == piece.pa => Some("clean"),
        Operation::SynchroniseInstructions { at, length } => {
            assert_eq!(PaRange::new(at.0, *length), PaRange::new(piece.pa.start.0, 2 * MIB));
            Some("synchronise")
        }
        _ => None,
    };
    let mut steps: Vec<&str> = log.iter().filter_map(step).collect();
    steps.dedup();
    assert_eq!(steps, ["zero", "write", "clean", "synchronise"]);
    let pool = built_domain.pool.range();
    assert_eq!(translation_order::check(&log, (pool.start, pool.size)), Ok(()));
}

#[test]
fn modules_stay_as_they_were_and_no_domain_is_given_them() {
    let mut bench = bench();
    bench.add(domain(1, GIB), &kernel(0x77, MIB, 0x3000), Some(&[0x88; 0x3001]));
    let kernel_module = PaRange::new(MODULES, 0x3000);
    let ramdisk_module = PaRange::new(MODULES + 0x10_0000, 0x3001);
    // One asks for the very page where another's module ends, one for all the RAM that there is yet.
    let last_page = PaRange::new(ramdisk_module.end() - 1, PAGE_SIZE);
    let mut thief = domain(2, PAGE_SIZE);
    thief.static_memory = vec![last_page];
    bench.add(thief, &kernel(1, MIB, 4096), None);
    bench.add(domain(3, 900 * MIB), &kernel(2, MIB, 4096), None);
    let before = bench
        .machine
        .peek(Pa(MODULES), bench.next_module as usize - MODULES as usize);
    let built = bench.build();
    assert_eq!(
        built.failed,
        [(DomainId(2), BuildError::Memory(FrameError::NotFree(last_page)))]
    );
    assert_eq!(bench.machine.peek(Pa(MODULES), before.len()), before);
    for module in [kernel_module, ramdisk_module] {
        let given = built.domains.iter().flat_map(ranges);
        let free = built.frames.free_ranges().iter().copied();
        assert!(given.chain(free).all(|range| !range.overlaps(module.pages())));
        assert_eq!(built.references.owner(module.start), None);
    }
}

#[test]
fn a_direct_mapped_domain_has_machine_addresses() {
    let mut bench = bench();
    let mut direct = domain(2, 128 * MIB);
    direct.direct_map = true;
    direct.layout.memory = Vec::new();
    let page = |physical| Mapping {
        physical: PaRange::new(physical, PAGE_SIZE),
        guest: Ipa(physical),
    };
    let device = |mappings| PassthroughDevice {
        path: "/passthrough/disk".to_string(),
        host_path: None,
        mappings,
        interrupts: Vec::new(),
        dma: true,
        quiesce: None,
    };
    // Two transports in one page, as on QEMU's machine.
    direct.passthrough.devices = vec![
        device(vec![page(0x0a00_3000)]),
        device(vec![page(0x0a00_3000), page(0x0a00_2000)]),
    ];
    bench.add(domain(1, 128 * MIB), &kernel(1, MIB, 4096), None);
    bench.add(direct, &kernel(2, MIB, 4096), None);
    let built = bench.build();
    assert_eq!(built.failed, []);
    let direct = &built.domains[1];
    let [piece] = direct.ram.pieces() else {
        panic!("one piece")
    };
    assert_eq!(piece.ipa.0, piece.pa.start.0);
    assert!(piece.ipa.is_aligned(2 * MIB));
    assert_eq!(direct.kernel.entry, piece.ipa);
    for address in [0x0a00_3000, 0x0a00_2fff] {
        let found = direct.stage2.lookup(&bench.machine, Ipa(address)).expect("mapped");
        assert_eq!((found.pa.0, found.page_use), (address, PageUse::Device));
    }
    assert_eq!(direct.stage2.lookup(&bench.machine, Ipa(0x0a00_1000)), None);
    assert_eq!(built.domains[0].stage2.lookup(&bench.machine, Ipa(0x0a00_3000)), None);
}

#[test]
fn static_memory_is_what_the_manifest_says_whatever_comes_first() {
    let mut bench = bench();
    let given = [PaRange::new(0x6000_0000, 32 * MIB), PaRange::new(0x5800_0000, 32 * MIB)];
    // Without care the first domain would take these.
    bench.add(domain(1, 900 * MIB), &kernel(1, MIB, 4096), None);
    let mut fixed = domain(2, 64 * MIB);
    fixed.static_memory = given.to_vec();
    bench.add(fixed, &kernel(2, MIB, 4096), None);
    let mut direct = domain(3, 64 * MIB);
    direct.static_memory = vec![PaRange::new(0x6800_0000, 64 * MIB)];
    direct.direct_map = true;
    bench.add(direct, &kernel(3, MIB, 4096), None);
    let built = bench.build();
    assert_eq!(built.failed, []);
    let fixed = &built.domains[1];
    assert_eq!(fixed.ram.banks(), [IpaRange::new(0x4000_0000, 64 * MIB)]);
    assert_eq!(
        fixed.ram.pieces().iter().map(|piece| piece.pa).collect::<Vec<_>>(),
        given
    );
    assert_eq!(built.domains[2].ram.banks(), [IpaRange::new(0x6800_0000, 64 * MIB)]);
}

#[test]
fn a_gicv2_guest_has_the_virtual_interface_where_its_cpu_interface_is() {
    // GICV, what GICC_IIDR reads at 0xfc and 0xf0fc, and where GICV's second page is: next to the first, or 64 KiB on where
    // the blocks are big enough for pages that repeat and do.
    let gic_400 = 0x0202_143b;
    let (small, big) = (PaRange::new(0x0804_0000, 0x1_0000), PaRange::new(0xf106_0000, 0x2_0000));
    let rows = [
        (small, gic_400, 0, 0x0804_1000),
        (small, gic_400, gic_400, 0x0804_1000),
        (big, gic_400, 0, 0xf106_1000),
        (big, gic_400, gic_400, 0xf107_0000),
        (big, 0, 0, 0xf106_1000),
        (big, gic_400, 0x0202_043b, 0xf106_1000),
    ];
    for (gicv, first, again, second) in rows {
        let Gic::V2(mut blocks) = gicv2(gicv) else {
            panic!("a GICv2")
        };
        blocks.cpu_interface.size = gicv.size;
        blocks.is_repeated = is_repeated(blocks.cpu_interface.size, first, again);
        let mut bench = bench_on(Gic::V2(blocks), &[PaRange::new(0x4000_0000, GIB)]);
        let mut guest = domain(1, 16 * MIB);
        guest.layout.gic = VirtualGic::V2 {
            distributor: IpaRange::new(0x0300_1000, 0x1000),
            cpu_interface: IpaRange::new(0x0300_2000, 0x2000),
        };
        bench.add(guest, &kernel(1, MIB, 4096), None);
        let built = bench.build();
        assert_eq!(built.failed, []);
        let at = |ipa| {
            built.domains[0]
                .stage2
                .lookup(&bench.machine, Ipa(ipa))
                .map(|found| (found.pa.0, found.page_use))
        };
        assert_eq!(at(0x0300_2000), Some((gicv.start.0, PageUse::Device)));
        assert_eq!(at(0x0300_3000), Some((second, PageUse::Device)));
        assert_eq!(at(0x0300_1000), None, "the distributor is emulated");
        assert_eq!(at(0x0300_4000), None);
    }
}

#[test]
fn a_gicv_that_is_too_small_for_repeated_pages_is_not_believed_to_have_them() {
    let Gic::V2(mut blocks) = gicv2(PaRange::new(0xf106_0000, 0x2000)) else {
        panic!("a GICv2")
    };
    blocks.is_repeated = true;
    assert_eq!(blocks.virtual_page(0), Pa(0xf106_0000));
    assert_eq!(blocks.virtual_page(1), Pa(0xf106_1000));
}
