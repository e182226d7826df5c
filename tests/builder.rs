//! Domains built from a manifest: where everything is, what nobody else may find, and whose failure is whose.

use portunus::domain::builder::{self, BuildError, Built, BuiltDomain, CpuLimits, Placement};
use portunus::domain::image::ImageError;
use portunus::fakes::{FakeMachine, Operation, translation_order};
use portunus::ids::{DomainId, IntId, Ipa, PAGE_SIZE, Pa, PcpuId};
use portunus::manifest::devices::{DeviceConfig, DeviceKind, MemoryAccess, OnFailure, Source};
use portunus::manifest::domain::{DomainConfig, GrantLimits, UnmappedAccess};
use portunus::manifest::host::{Gic, GicV2, GicV3, HostCpu, Timer, is_repeated};
use portunus::manifest::layout::{self, VirtualGic};
use portunus::manifest::lifecycle::OnShutdown;
use portunus::manifest::modules::{Module, Modules};
use portunus::manifest::passthrough::{Mapping, Passthrough, PassthroughDevice};
use portunus::manifest::tree::{Interrupt, Trigger};
use portunus::manifest::{Host, Layout, Manifest, ManifestError, Reason};
use portunus::memory::frames::FrameError;
use portunus::range::{IpaRange, PaRange};
use portunus::stage2::{GeometryError, PageUse};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The hypervisor's own part of RAM.
const HYPERVISOR: PaRange = PaRange::new(0x4000_0000, 2 * MIB);
const FIRMWARE: PaRange = PaRange::new(0x4020_0000, 0x1_0000);
const MODULES: u64 = 0x5000_0000;
const LIMITS: CpuLimits = CpuLimits {
    physical_bits: 44,
    vmid_16_bits: false,
    caching: portunus::memory::uncached::Caching::NonCacheable,
};

fn ppi(number: u32) -> Interrupt {
    Interrupt {
        id: IntId(number),
        trigger: Trigger::LevelHigh,
    }
}

fn host(gic: Gic, memory: &[PaRange]) -> Host {
    let timer = Timer {
        secure_physical: ppi(29),
        physical: ppi(30),
        virtual_: ppi(27),
        hypervisor: ppi(26),
        frequency: None,
    };
    Host {
        memory: memory.to_vec(),
        reserved: vec![FIRMWARE, HYPERVISOR],
        cpus: vec![HostCpu {
            mpidr: 0,
            pcpu: Some(PcpuId(0)),
        }],
        psci: None,
        gic,
        timer,
        uart: None,
        rtc: None,
        devices: Vec::new(),
    }
}

fn gicv3() -> Gic {
    Gic::V3(GicV3 {
        distributor: PaRange::new(0x800_0000, 0x1_0000),
        redistributors: vec![PaRange::new(0x80a_0000, 0xf6_0000)],
        stride: None,
        maintenance: ppi(25),
    })
}

fn gicv2(virtual_cpu_interface: PaRange) -> Gic {
    Gic::V2(GicV2 {
        distributor: PaRange::new(0xf101_0000, 0x1000),
        cpu_interface: PaRange::new(0xf102_0000, 0x2_0000),
        hypervisor_interface: PaRange::new(0xf104_0000, 0x2_0000),
        virtual_cpu_interface,
        maintenance: ppi(25),
        is_repeated: false,
    })
}

fn domain(number: u16, memory: u64) -> DomainConfig {
    let gic = VirtualGic::V3 {
        distributor: IpaRange::new(0x0300_1000, 0x1_0000),
        redistributors: IpaRange::new(0x0302_0000, 0x2_0000),
    };
    DomainConfig {
        id: DomainId(number),
        name: format!("domU{number}"),
        path: format!("/chosen/domU{number}"),
        memory,
        static_memory: Vec::new(),
        direct_map: false,
        vcpus: vec![None],
        share: 100,
        modules: Modules::default(),
        vpl011: false,
        pv_console: false,
        console_io: false,
        rtc: false,
        spis: 0,
        unmapped: UnmappedAccess::Abort,
        hypervisor_node: false,
        page_table_pool: MIB,
        grants: GrantLimits {
            frames: 64,
            maptrack_frames: 1024,
        },
        dma_trusted: false,
        on_crash: OnShutdown::Stop,
        on_reboot: OnShutdown::Restart,
        on_watchdog: OnShutdown::Restart,
        restart_limit: None,
        controls: Vec::new(),
        passthrough: Passthrough::default(),
        shared_memory: Vec::new(),
        devices: Vec::new(),
        layout: Layout {
            memory: layout::banks(memory),
            gic,
            ..Layout::default()
        },
    }
}

/// An arm64 Image with `byte` as its body.
fn kernel(byte: u8, image_size: u64, length: usize) -> Vec<u8> {
    let mut file = vec![byte; length];
    file[..64].fill(0);
    file[16..24].copy_from_slice(&image_size.to_le_bytes());
    file[24..32].copy_from_slice(&0xa_u64.to_le_bytes());
    file[56..60].copy_from_slice(b"ARM\x64");
    file
}

struct Bench {
    machine: FakeMachine,
    host: Host,
    manifest: Manifest,
    next_module: u64,
}

fn bench_on(gic: Gic, memory: &[PaRange]) -> Bench {
    let machine = FakeMachine::new();
    memory.iter().for_each(|bank| machine.add_memory(bank.start, bank.size));
    Bench {
        machine,
        host: host(gic, memory),
        manifest: Manifest::default(),
        next_module: MODULES,
    }
}

fn bench() -> Bench {
    bench_on(gicv3(), &[PaRange::new(0x4000_0000, 2 * GIB)])
}

impl Bench {
    fn module(&mut self, bytes: &[u8]) -> Option<Module> {
        let range = PaRange::new(self.next_module, bytes.len() as u64);
        self.machine.poke(range.start, bytes);
        self.next_module = (range.end() + 1).next_multiple_of(0x10_0000);
        Some(Module { range })
    }
    fn add(&mut self, mut domain: DomainConfig, kernel: &[u8], ramdisk: Option<&[u8]>) {
        domain.modules.kernel = self.module(kernel);
        domain.modules.ramdisk = ramdisk.and_then(|bytes| self.module(bytes));
        self.manifest.domains.push(domain);
    }
    fn build(&self) -> Built {
        self.build_with(LIMITS, |_, _| Ok(vec![0xdb; 5000]))
    }
    fn build_with(
        &self,
        limits: CpuLimits,
        tree: impl FnMut(&DomainConfig, &Placement<'_>) -> Result<Vec<u8>, ManifestError>,
    ) -> Built {
        builder::build(&self.machine, &self.host, &self.manifest, limits, None, tree).expect("room")
    }
    fn peek(&self, domain: &BuiltDomain, ipa: u64, length: u64) -> Vec<u8> {
        let spans = domain.ram.spans(IpaRange::new(ipa, length)).expect("RAM");
        spans
            .iter()
            .flat_map(|span| self.machine.peek(span.start, span.size as usize))
            .collect()
    }
}

fn ranges(domain: &BuiltDomain) -> impl Iterator<Item = PaRange> {
    domain
        .ram
        .pieces()
        .iter()
        .map(|piece| piece.pa)
        .chain([domain.pool.range()])
}

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
