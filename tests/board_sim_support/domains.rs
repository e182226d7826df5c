//! Domains on the board: where they and their windows lie, and what they are assembled to.

use portunus::console::Colour;
use portunus::domain::builder::{self, Built, CpuLimits};
use portunus::fakes::FakeMachine;
use portunus::hypervisor::{Hypervisor, MachineFacts};
use portunus::ids::Pa;
use portunus::manifest::{GuestTree, Host, Manifest, ModuleReader, Tree};
use portunus::memory::uncached::Caching;
use portunus::range::{IpaRange, PaRange};
use portunus::trap::syndrome::Hpfar;
use portunus::trap::system_register::identification::{IdTraps, RawIdRegisters};

use crate::board::{BLOB, GIB, IMAGE, MIB, MODULES, add, changed, host, trees};
use crate::source;

/// Modules are where the manifest says.
struct Loaded<'a>(&'a FakeMachine);

impl ModuleReader for Loaded<'_> {
    fn read(&self, range: PaRange) -> Option<Vec<u8>> {
        Some(self.0.peek(range.start, range.size as usize))
    }
}

/// A guest of 1.5 GiB, another of 768 MiB that grants, and the owner of the SD card, which serves both.
pub(crate) const DOMAINS: &str = r#"
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
pub(crate) const PARTIAL: &str = r#"/ {
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

/// One tree for whoever asks.
pub(crate) struct Partial(pub(crate) Vec<u8>);

impl ModuleReader for Partial {
    fn read(&self, _: PaRange) -> Option<Vec<u8>> {
        Some(self.0.clone())
    }
}

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
