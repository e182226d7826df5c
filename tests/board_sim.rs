//! What Portunus finds and plans on boards that no emulator has: the R-Car H3, by its own device trees where they can be had
//! and always by a reduced one.
//!
//! Mainline's compiled trees are GPL-2.0 and therefore not here: `PORTUNUS_BOARD_DTB` names the folder that has them.

#[path = "manifest_support/source.rs"]
mod source;

use std::fs;
use std::path::Path;

use dtoolkit::Node as _;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode};
use portunus::console::Colour;
use portunus::domain::builder::{self, Built, CpuLimits};
use portunus::fakes::FakeMachine;
use portunus::hypervisor::{Hypervisor, MachineFacts};
use portunus::ids::{IntId, Pa};
use portunus::manifest::discovery::{self, Console, Discovery, Interrupts};
use portunus::manifest::host::{Conduit, Gic, Psci};
use portunus::manifest::tree::{Interrupt, Trigger};
use portunus::manifest::{GuestTree, Host, IpaRange, Manifest, ModuleReader, PaRange, Tree};
use portunus::memory::uncached::Caching;
use portunus::trap::syndrome::Hpfar;
use portunus::trap::system_register::identification::{IdTraps, RawIdRegisters};
use portunus_serial::{Cadence, Pl011, Scif};

const REDUCED: &str = include_str!("../boards/rcar-h3/reduced.dts");
const FOLDER: &str = "PORTUNUS_BOARD_DTB";
const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
/// Where the loader leaves the device tree in these tests, and the Image.
const BLOB: u64 = 0x4a00_0000;
const IMAGE: PaRange = PaRange::new(0x4808_0000, 4 * MIB);
const MODULES: u64 = 0x5000_0000;
/// The debug console of the starter kit.
const SCIF2: u64 = 0xe6e8_8000;
/// MPIDR_EL1 of four Cortex-A57 and four Cortex-A53.
const CLUSTERS: [u64; 8] = [0, 1, 2, 3, 0x100, 0x101, 0x102, 0x103];

/// The reduced tree, and mainline's for this SoC if they are there. Says so if they are not.
fn trees() -> Vec<(String, Vec<u8>)> {
    let reduced = REDUCED.split_once("*/").expect("a heading").1.trim_start();
    let mut trees = vec![("reduced.dts".to_string(), source::compile(reduced))];
    let Some(folder) = std::env::var_os(FOLDER).filter(|folder| !folder.is_empty()) else {
        println!("skipped: mainline's device trees of the R-Car H3: {FOLDER} names no folder with r8a7795*.dtb");
        return trees;
    };
    let entries = fs::read_dir(Path::new(&folder)).unwrap_or_else(|error| panic!("{FOLDER}: {folder:?}: {error}"));
    let mut found: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    for file in found {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("r8a7795") && name.ends_with(".dtb") {
            trees.push((name, fs::read(&file).expect("readable")));
        }
    }
    if trees.len() == 1 {
        println!("skipped: mainline's device trees of the R-Car H3: no r8a7795*.dtb in {folder:?}");
    }
    trees
}

fn host(blob: &[u8]) -> Host {
    Host::parse(&Tree::new(blob).expect("a device tree")).expect("a machine")
}

/// The names of the drivers of `boards/rcar-h3`, and others after them.
fn drivers() -> [&'static [&'static str]; 3] {
    use nothing::Any;
    [
        Scif::<Any>::COMPATIBLE,
        Pl011::<Any>::COMPATIBLE,
        Cadence::<Any>::COMPATIBLE,
    ]
}

/// Drivers are generic over their registers; their names are not.
mod nothing {
    #[derive(Clone, Copy)]
    pub(crate) struct Any;

    impl portunus::registers::DeviceRegisters for Any {
        fn read_u8(&self, _: usize) -> u8 {
            0
        }
        fn read_u16(&self, _: usize) -> u16 {
            0
        }
        fn read_u32(&self, _: usize) -> u32 {
            0
        }
        fn write_u8(&self, _: usize, _: u8) {}
        fn write_u16(&self, _: usize, _: u16) {}
        fn write_u32(&self, _: usize, _: u32) {}
    }
}

fn discover(host: &Host) -> Discovery {
    Discovery::new(host, &drivers(), SCIF2, PaRange::new(BLOB, 0x1_2345)).expect("a board")
}

#[test]
fn the_machine_is_what_the_tree_says() {
    for (name, blob) in trees() {
        let host = host(&blob);
        assert_eq!(
            host.memory,
            [
                PaRange::new(0x4800_0000, 896 * MIB),
                PaRange::new(0x5_0000_0000, GIB),
                PaRange::new(0x6_0000_0000, GIB),
                PaRange::new(0x7_0000_0000, GIB),
            ],
            "{name}"
        );
        let mpidrs: Vec<u64> = host.cpus.iter().map(|cpu| cpu.mpidr).collect();
        assert_eq!(mpidrs, CLUSTERS, "{name}");
        assert_eq!(
            host.psci,
            Some(Psci {
                conduit: Conduit::Smc,
                is_1_0: true
            }),
            "{name}"
        );
        let Gic::V2(gic) = &host.gic else {
            panic!("{name}: {:?}", host.gic)
        };
        let blocks = [
            gic.distributor,
            gic.cpu_interface,
            gic.hypervisor_interface,
            gic.virtual_cpu_interface,
        ];
        let expected = [
            (0xf101_0000, 0x1000),
            (0xf102_0000, 0x2_0000),
            (0xf104_0000, 0x2_0000),
            (0xf106_0000, 0x2_0000),
        ];
        assert_eq!(blocks, expected.map(|(at, size)| PaRange::new(at, size)), "{name}");
        let timer = [
            host.timer.secure_physical,
            host.timer.physical,
            host.timer.virtual_,
            host.timer.hypervisor,
        ];
        let low = |id| Interrupt {
            id: IntId(id),
            trigger: Trigger::LevelLow,
        };
        assert_eq!(timer, [29, 30, 27, 26].map(low), "{name}");
        assert_eq!(host.timer.frequency, None, "{name}: CNTFRQ_EL0 is the firmware's");
        let uart = host.uart.expect("a console");
        assert_eq!(uart.path, "/soc/serial@e6e88000", "{name}");
        assert_eq!(uart.registers, PaRange::new(SCIF2, 0x40), "{name}");
        assert_eq!(uart.interrupt.map(|interrupt| interrupt.id), Some(IntId(196)), "{name}");
        assert_eq!(uart.options, "115200n8", "{name}");
        let window = PaRange::new(0x3800_0000, 0x800_0000);
        assert!(host.devices.iter().any(|range| range.contains(window)), "{name}");
    }
}

#[test]
fn the_board_maps_its_console_its_controller_and_what_firmware_leaves() {
    for (name, blob) in trees() {
        let found = discover(&host(&blob));
        assert_eq!(found.conduit, Some(Conduit::Smc), "{name}");
        let console = Console {
            driver: 0,
            registers: SCIF2,
        };
        assert_eq!(found.console, Some(console), "{name}");
        let devices = [
            (0xf101_0000, 0x1000),
            (0xf102_0000, 0x2_0000),
            (0xf104_0000, 0x2_0000),
            (SCIF2, 0x1000),
        ];
        assert_eq!(
            found.devices,
            devices.map(|(at, size)| PaRange::new(at, size)),
            "{name}: GICV is the guests'"
        );
        assert_eq!(
            found.interrupts,
            Interrupts {
                hypervisor_timer: IntId(26),
                virtual_timer: IntId(27),
                maintenance: IntId(25),
                console: Some(IntId(196)),
            },
            "{name}"
        );
        let secure = PaRange::new(0x4000_0000, 0x800_0000);
        assert!(found.ram.iter().all(|part| !part.overlaps(secure)), "{name}");
        assert_eq!(found.ram[0], PaRange::new(BLOB, 0x1_3000), "{name}: the device tree");
        assert_eq!(found.ram.len(), 5, "{name}: {:?}", found.ram);
    }
}

#[test]
fn every_other_cpu_is_started_whichever_booted_and_affinities_mean_places_in_the_tree() {
    for (name, blob) in trees() {
        for boot in [0, 0x100] {
            let mut host = host(&blob);
            let mut started = Vec::new();
            discovery::start_others(&mut host.cpus, boot, |mpidr, pcpu| {
                let runs = mpidr != 2;
                started.push((mpidr, pcpu));
                runs
            });
            let others: Vec<u64> = CLUSTERS.into_iter().filter(|mpidr| *mpidr != boot).collect();
            assert_eq!(
                started.iter().map(|(mpidr, _)| *mpidr).collect::<Vec<_>>(),
                others,
                "{name}"
            );
            // Numbers have no gaps though CPU 2 does not start: whoever comes next is asked to run under the same one.
            let numbers: Vec<_> = host.cpus.iter().map(|cpu| cpu.pcpu.map(|pcpu| pcpu.0)).collect();
            let expected = match boot {
                0 => [Some(0), Some(1), None, Some(2), Some(3), Some(4), Some(5), Some(6)],
                _ => [Some(1), Some(2), None, Some(3), Some(0), Some(4), Some(5), Some(6)],
            };
            assert_eq!(numbers, expected, "{name}");
            for (list, found) in [
                ("4", Ok(vec![expected[4]])),
                ("0,2-3", Ok(vec![expected[0], expected[3]])),
                ("2", Err(())),
            ] {
                let vcpu = format!(
                    "cpus = <2>; vcpu0 {{ compatible = \"xen,vcpu\"; id = <0>; hard-affinity = \"{list}\"; }};"
                );
                let text = DOMAINS.replacen("cpus = <2>;", &vcpu, 1);
                let changed = changed(&blob, |tree| add(tree, "/chosen", &text));
                let modules = Partial(source::compile(PARTIAL));
                let parsed = Manifest::parse(&Tree::new(&changed).expect("a tree"), &host, &modules);
                match (parsed, found) {
                    (Ok(manifest), Ok(found)) => {
                        let affinity = manifest.domains[0].vcpus[0].expect("an affinity");
                        let mut found: Vec<_> = found.into_iter().flatten().collect();
                        found.sort_unstable();
                        assert_eq!(
                            affinity.iter().map(|pcpu| pcpu.0).collect::<Vec<_>>(),
                            found,
                            "{name}: {list}"
                        );
                    }
                    (Err(error), Err(())) => assert_eq!(
                        error.to_string(),
                        "/chosen/big/vcpu0: hard-affinity: names no CPU that runs: 2",
                        "{name}"
                    ),
                    (parsed, _) => panic!("{name}: {list}: {parsed:?}"),
                }
            }
        }
    }
}

/// The tree as firmware hands it over: with what it keeps, and what else a test wants of it.
fn changed(blob: &[u8], change: impl FnOnce(&mut DeviceTree)) -> Vec<u8> {
    let mut tree = DeviceTree::from_fdt(&Fdt::new(blob).expect("a device tree"));
    change(&mut tree);
    tree.to_dtb()
}

fn add(tree: &mut DeviceTree, parent: &str, text: &str) {
    let parent = match parent {
        "/" => &mut tree.root,
        path => tree.find_node_mut(path).expect("the parent"),
    };
    let blob = source::compile(&format!("/ {{ {text} }};"));
    let added = DeviceTree::from_fdt(&Fdt::new(&blob).expect("text"));
    let nodes: Vec<DeviceTreeNode> = added.root.children().cloned().collect();
    nodes.into_iter().for_each(|node| parent.add_child(node));
}

#[test]
fn memory_that_firmware_keeps_inside_a_bank_is_not_mapped() {
    // As Renesas' firmware does for its buffers of compressed video, where it is told to keep some.
    let kept = "reserved-memory { #address-cells = <2>; #size-cells = <2>; ranges;
        lossy@54000000 { reg = <0 0x54000000 0 0x3000000>; no-map; };
        other@70000800 { reg = <0 0x70000800 0 0x800>; };
        pool { size = <0 0x1000000>; }; };";
    for (name, blob) in trees() {
        let blob = changed(&blob, |tree| {
            // Trees of other boards of the SoC may have such a node.
            tree.root.remove_child("reserved-memory");
            add(tree, "/", kept);
        });
        let found = discover(&host(&blob));
        assert_eq!(
            found.ram[1..],
            [
                PaRange::new(0x4800_0000, 0x0c00_0000),
                PaRange::new(0x5700_0000, 0x1900_0000),
                PaRange::new(0x7000_1000, 0x0fff_f000),
                PaRange::new(0x5_0000_0000, GIB),
                PaRange::new(0x6_0000_0000, GIB),
                PaRange::new(0x7_0000_0000, GIB),
            ],
            "{name}"
        );
    }
}

/// Modules are where the manifest says.
struct Loaded<'a>(&'a FakeMachine);

impl ModuleReader for Loaded<'_> {
    fn read(&self, range: PaRange) -> Option<Vec<u8>> {
        Some(self.0.peek(range.start, range.size as usize))
    }
}

/// A guest of 1.5 GiB, another of 768 MiB that grants, and the owner of the SD card, which serves both.
const DOMAINS: &str = r#"
    big {
        compatible = "xen,domain";
        #address-cells = <2>; #size-cells = <2>;
        memory = <0 0x180000>;
        cpus = <2>;
        module0 { compatible = "multiboot,kernel", "multiboot,module"; reg = <0 0x50000000 0 0x10000>; };
        portunus,devices {
            disk { portunus,type = "block"; portunus,backend = "owner"; portunus,ram-disk = <16>;
                   portunus,memory-access = "all"; portunus,accel; };
        };
    };
    owner {
        compatible = "xen,domain";
        #address-cells = <2>; #size-cells = <2>;
        memory = <0 0x10000>;
        cpus = <1>;
        direct-map;
        portunus,dma-trusted;
        module0 { compatible = "multiboot,kernel", "multiboot,module"; reg = <0 0x50000000 0 0x10000>; };
        module1 { compatible = "multiboot,device-tree", "multiboot,module"; reg = <0 0x50100000 0 0x10000>; };
    };
    small {
        compatible = "xen,domain";
        #address-cells = <2>; #size-cells = <2>;
        memory = <0 0xc0000>;
        cpus = <1>;
        module0 { compatible = "multiboot,kernel", "multiboot,module"; reg = <0 0x50000000 0 0x10000>; };
    };
"#;

/// What the owner of the SD card gets of the machine.
const PARTIAL: &str = r#"/ {
    #address-cells = <2>;
    #size-cells = <2>;
    gic: gic { #interrupt-cells = <3>; interrupt-controller; };
    passthrough {
        compatible = "simple-bus";
        ranges;
        #address-cells = <2>;
        #size-cells = <2>;
        mmc@ee100000 {
            compatible = "renesas,sdhi-r8a7795";
            reg = <0 0xee100000 0 0x2000>;
            interrupts = <0 165 4>;
            interrupt-parent = <&gic>;
            xen,reg = <0 0xee100000 0 0x2000 0 0xee100000>;
            xen,path = "/soc/mmc@ee100000";
            xen,force-assign-without-iommu;
        };
    };
};"#;

/// Reads the manifest on the machine of `blob` and builds its domains.
fn build(blob: &[u8], partial: &str) -> Result<(Host, Manifest, Built, FakeMachine), String> {
    build_all(blob, DOMAINS, partial)
}

/// As [`build`], with other domains.
fn build_all(blob: &[u8], domains: &str, partial: &str) -> Result<(Host, Manifest, Built, FakeMachine), String> {
    let blob = changed(blob, |tree| add(tree, "/chosen", domains));
    let mut host = host(&blob);
    let machine = FakeMachine::new();
    host.memory
        .iter()
        .for_each(|bank| machine.add_memory(bank.start, bank.size));
    let mut kernel = vec![0; 0x1_0000];
    kernel[16..24].copy_from_slice(&0x1_0000_u64.to_le_bytes());
    kernel[24] = 0xa;
    kernel[56..60].copy_from_slice(b"ARM\x64");
    machine.poke(Pa(MODULES), &kernel);
    let mut partial = source::compile(partial);
    partial.resize(0x1_0000, 0);
    machine.poke(Pa(MODULES + MIB), &partial);
    host.reserve([IMAGE, PaRange::new(BLOB, blob.len() as u64)]);
    let tree = Tree::new(&blob).map_err(|error| error.to_string())?;
    let manifest = Manifest::parse(&tree, &host, &Loaded(&machine)).map_err(|error| error.to_string())?;
    let limits = CpuLimits {
        // What both clusters translate.
        physical_bits: 40,
        vmid_16_bits: false,
        caching: Caching::NonCacheable,
    };
    let built = builder::build(&machine, &host, &manifest, limits, None, |domain, placement| {
        GuestTree {
            manifest: &manifest,
            domain: domain.id,
            memory: placement.memory,
            ramdisk: placement.ramdisk,
            timer_frequency: host.timer.frequency,
            seeds: false,
        }
        .build()
    })
    .map_err(|error| error.to_string())?;
    Ok((host, manifest, built, machine))
}

#[test]
fn guests_lie_above_4_gib_and_owners_of_bus_masters_below() {
    for (name, blob) in trees() {
        let (host, manifest, built, _) = build(&blob, PARTIAL).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(built.failed, [], "{name}");
        for domain in &built.domains {
            let config = manifest.domain(domain.id).expect("its configuration");
            for piece in domain.ram.pieces() {
                assert!(host.is_memory(piece.pa), "{name}: {piece:?}");
                let low = piece.pa.end() <= 4 * GIB;
                assert_eq!(low, config.dma_trusted, "{name}, {}: {piece:?}", config.name);
                assert_eq!(config.direct_map, piece.ipa.0 == piece.pa.start.0, "{name}: {piece:?}");
            }
            let pool = domain.pool.range();
            assert!(pool.start.0 >= 4 * GIB, "{name}: {pool} keeps away from what is scarce");
            let kept = [IMAGE, PaRange::new(MODULES, 2 * MIB), PaRange::new(BLOB, MIB)];
            let mut pieces = domain.ram.pieces().iter();
            assert!(
                pieces.all(|piece| kept.iter().all(|kept| !kept.overlaps(piece.pa))),
                "{name}"
            );
        }
        assert!(built.uncached.start.0 >= 4 * GIB, "{name}");
    }
}

#[test]
fn the_windows_of_a_direct_mapped_domain_keep_off_everything_that_the_machine_has() {
    let grant_window_of_xen = IpaRange::new(0x3800_0000, 16 * MIB);
    for (name, blob) in trees() {
        let (host, manifest, ..) = build(&blob, PARTIAL).unwrap_or_else(|error| panic!("{name}: {error}"));
        let pcie = PaRange::new(0x3000_0000, 0x1000_0000);
        assert!(host.devices.iter().any(|range| range.contains(pcie)), "{name}");
        for domain in &manifest.domains {
            let layout = &domain.layout;
            if !domain.direct_map {
                assert_eq!(
                    layout.grant_window, grant_window_of_xen,
                    "{name}: no device is there for it"
                );
                continue;
            }
            let windows = [layout.grant_window, layout.virtio];
            for window in windows.iter().chain(&layout.extended_regions) {
                let window = PaRange::new(window.start.0, window.size);
                let mut machine = host.devices.iter().chain(&host.memory);
                assert!(machine.all(|range| !range.overlaps(window)), "{name}: {window}");
            }
        }
    }
}

#[test]
fn a_guest_that_is_not_direct_mapped_gets_no_pcie_window_where_its_grant_window_is() {
    let partial = PARTIAL
        .replace(
            "0 0xee100000 0 0x2000 0 0xee100000",
            "0 0x38000000 0 0x8000000 0 0x38000000",
        )
        .replace("xen,path = \"/soc/mmc@ee100000\"; ", "")
        .replace("interrupts = <0 165 4>;", "")
        .replace("xen,path = \"/soc/mmc@ee100000\";", "portunus,no-dma;");
    for (name, blob) in trees() {
        let moved = DOMAINS.replace("direct-map;", "");
        assert_ne!(moved, DOMAINS);
        let blob = changed(&blob, |tree| add(tree, "/chosen", &moved));
        let host = host(&blob);
        let modules = Partial(source::compile(&partial));
        let error = Manifest::parse(&Tree::new(&blob).expect("a tree"), &host, &modules).expect_err(&name);
        assert_eq!(
            error.to_string(),
            "/passthrough/mmc@ee100000: xen,reg: is at 0x38000000..0x40000000, where the grant window is",
            "{name}"
        );
    }
}

#[test]
fn domains_are_assembled_within_a_cluster_and_nothing_traps_for_the_others_sake() {
    let ids = |midr: u64, ctr: u64| RawIdRegisters {
        midr,
        ctr,
        dczid: 4,
        ..RawIdRegisters::NONE
    };
    let (a57, a53) = (ids(0x411f_d071, 0x8444_c004), ids(0x410f_d034, 0x8444_8004));
    let pcpus = [a57, a57, a57, a57, a53, a53, a53, a53];
    let across = DOMAINS.replacen(
        "cpus = <2>;",
        "cpus = <2>; vcpu0 { compatible = \"xen,vcpu\"; id = <0>; hard-affinity = \"0\"; };
         vcpu1 { compatible = \"xen,vcpu\"; id = <1>; hard-affinity = \"4-7\"; };",
        1,
    );
    for (name, blob) in trees() {
        for (domains, homes, cache) in [(DOMAINS, [0, 1, 2, 3], false), (&across, [0, 4, 1, 2], true)] {
            let (host, manifest, built, machine) = build_all(&blob, domains, PARTIAL).expect(&name);
            let facts = MachineFacts {
                frequency: 8_333_333,
                hpfar: Hpfar::Architectural,
                ids: pcpus.to_vec(),
                virtual_timer: host.timer.virtual_.id,
                gic_system_registers: false,
                wall_clock: None,
                colour: Colour::Never,
            };
            let hypervisor = Hypervisor::assemble(machine, facts, &manifest, built).expect(&name);
            let vcpus = hypervisor.domains().flat_map(|domain| &domain.vcpus);
            let found: Vec<u8> = vcpus.map(|vcpu| vcpu.pcpu.0).collect();
            assert_eq!(found, homes, "{name}");
            let expected = IdTraps {
                cache,
                zero_block: false,
            };
            assert_eq!(hypervisor.id_traps(), expected, "{name}");
        }
    }
}

/// One tree for whoever asks.
struct Partial(Vec<u8>);

impl ModuleReader for Partial {
    fn read(&self, _: PaRange) -> Option<Vec<u8>> {
        Some(self.0.clone())
    }
}

#[test]
fn banks_that_a_loader_repeats_are_one_and_banks_that_cross_are_refused() {
    let all = |tree: &mut DeviceTree, cells: &str| {
        tree.root.remove_child("memory@48000000");
        add(
            tree,
            "/",
            &format!("memory@48000000 {{ device_type = \"memory\"; reg = <{cells}>; }};"),
        );
    };
    for (name, blob) in trees() {
        // U-Boot writes every bank into the first node and leaves the others as they are.
        let repeated = "0 0x48000000 0 0x38000000 5 0 0 0x40000000 6 0 0 0x40000000 7 0 0 0x40000000";
        let repeated = changed(&blob, |tree| all(tree, repeated));
        assert_eq!(host(&repeated).memory, host(&blob).memory, "{name}");
        let crossing = changed(&blob, |tree| {
            all(tree, "0 0x48000000 0 0x38000000 4 0xf0000000 0 0x20000000")
        });
        let error = Host::parse(&Tree::new(&crossing).expect("a tree")).expect_err(&name);
        assert!(error.to_string().contains("reg: takes 0x"), "{name}: {error}");
        let onto = changed(&blob, |tree| {
            all(tree, "0 0x48000000 0 0x38000000 0 0xf0000000 0 0x2000000")
        });
        let place = PaRange::new(BLOB, 0x1_0000);
        let error = Discovery::new(&host(&onto), &drivers(), SCIF2, place).expect_err(&name);
        assert_eq!(
            error.to_string(),
            "/: memory: takes 0xf0000000..0xf2000000, which belongs to the device at 0xf1010000..0xf1011000",
            "{name}"
        );
    }
}

/// Names of drivers; number and address of the console that is found with them.
type DriversAndConsole<'a> = (&'a [&'a [&'a str]], Option<(usize, u64)>);

#[test]
fn a_console_without_a_driver_leaves_the_boards_own() {
    for (name, blob) in trees() {
        let mut host = host(&blob);
        let [scif, pl011, cadence] = drivers();
        let rows: [DriversAndConsole<'_>; 4] = [
            (&[scif], Some((0, SCIF2))),
            (&[pl011, scif], Some((1, SCIF2))),
            (&[pl011, cadence], Some((0, 0xe6e6_8000))),
            (&[], None),
        ];
        for (drivers, expected) in rows {
            let found = Console::best(host.uart.as_ref(), drivers, 0xe6e6_8000);
            let found = found.map(|console| (console.driver, console.registers));
            assert_eq!(found, expected, "{name}: {drivers:?}");
        }
        host.uart = None;
        let own = Console::best(None, &[scif], SCIF2).expect("the board's own");
        assert_eq!((own.driver, own.page()), (0, PaRange::new(SCIF2, 0x1000)), "{name}");
    }
}
