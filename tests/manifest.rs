//! What a manifest means: the domains, devices, addresses and interrupts that come out of it.

#[path = "manifest_support/domains.rs"]
mod domains;
#[path = "manifest_support/machines.rs"]
mod machines;
#[path = "manifest_support/source.rs"]
mod source;

use domains::{DOMAINS, PARTIAL, read};
use machines::{BOARD, VIRT, VIRT_GICV2, VIRT_GICV3};
use portunus::ids::{DomainId, EventPort, IntId, Ipa, PcpuId};
use portunus::manifest::devices::{DeviceKind, OnFailure, Source, Transport};
use portunus::manifest::domain::{GrantLimits, UnmappedAccess};
use portunus::manifest::events::ChannelEnd;
use portunus::manifest::layout::VirtualGic;
use portunus::manifest::lifecycle::{OnShutdown, RestartLimit};
use portunus::manifest::rtc::Rtc;
use portunus::manifest::tree::{Interrupt, Trigger};
use portunus::manifest::{Host, Manifest, MemoryAccess, NoModules, Tree};
use portunus::range::{IpaRange, PaRange};

const MIB: u64 = 1 << 20;

fn manifest() -> Manifest {
    read(VIRT, DOMAINS, PARTIAL).unwrap().1
}

/// The smallest domain, with `inside` in its node.
fn small(inside: &str) -> String {
    format!(
        r#"#address-cells = <2>; #size-cells = <2>;
        domU1 {{
            compatible = "xen,domain"; #address-cells = <2>; #size-cells = <2>; memory = <0 65536>; cpus = <1>;
            kernel {{ compatible = "multiboot,kernel", "multiboot,module"; reg = <0 0x50000000 0 0x10000>; }};
            {inside}
        }};
        dm {{
            compatible = "xen,domain"; #address-cells = <2>; #size-cells = <2>; memory = <0 65536>; cpus = <1>;
            kernel {{ compatible = "multiboot,kernel", "multiboot,module"; reg = <0 0x51000000 0 0x10000>; }};
        }};"#
    )
}

fn device(name: &str, more: &str) -> String {
    format!(r#"{name} {{ portunus,type = "block"; portunus,backend = "dm"; portunus,memory-access = "all"; {more} }};"#)
}

#[test]
fn domains_are_numbered_and_named_in_order() {
    let manifest = manifest();
    let found: Vec<_> = manifest
        .domains
        .iter()
        .map(|domain| (domain.id.0, domain.name.as_str()))
        .collect();
    assert_eq!(found, [(1, "domU1"), (2, "dm"), (3, "other")]);
    assert_eq!(manifest.domain(DomainId(2)).unwrap().path, "/chosen/dm");
    assert_eq!(manifest.domain(DomainId(4)), None);
}

#[test]
fn a_guest_has_what_its_node_says() {
    let guest = &manifest().domains[0];
    assert_eq!((guest.memory, guest.vcpu_count(), guest.share), (256 * MIB, 2, 50));
    assert!(guest.vpl011 && !guest.direct_map && !guest.dma_trusted && !guest.hypervisor_node);
    assert!(!guest.pv_console && !guest.console_io && guest.layout.pv_console.is_none());
    assert_eq!(guest.unmapped, UnmappedAccess::Abort);
    assert_eq!(guest.on_crash, OnShutdown::Stop);
    assert_eq!(
        (guest.on_reboot, guest.on_watchdog),
        (OnShutdown::Restart, OnShutdown::Restart)
    );
    assert_eq!(guest.restart_limit, Some(RestartLimit { count: 5, seconds: 60 }));
    assert_eq!(guest.controls, []);
    assert_eq!(
        guest.grants,
        GrantLimits {
            frames: 64,
            maptrack_frames: 1024
        }
    );
    assert_eq!(guest.page_table_pool, 2 * MIB + 256 * 4096 + MIB / 2);
    let affinity: Vec<_> = guest.vcpus[0].unwrap().iter().collect();
    assert_eq!(affinity, [PcpuId(0), PcpuId(1), PcpuId(3)]);
    assert_eq!(guest.vcpus[1], None);
    assert_eq!(
        guest.modules.kernel.unwrap().range,
        PaRange::new(0x5000_0000, 0x1e0_0000)
    );
    assert_eq!(
        guest.modules.ramdisk.unwrap().range,
        PaRange::new(0x5400_0000, 0x18_0000)
    );
    assert_eq!(guest.modules.bootargs.as_deref(), Some("console=ttyAMA0 root=/dev/vda"));
}

#[test]
fn legacy_module_names_single_cells_and_defaults_are_understood() {
    let other = &manifest().domains[2];
    assert_eq!((other.memory, other.vcpu_count()), (MIB, 8));
    assert_eq!(other.unmapped, UnmappedAccess::Ones);
    assert!(other.hypervisor_node && !other.vpl011);
    assert!(other.pv_console && other.console_io);
    assert_eq!(other.layout.pv_console, Some(IpaRange::new(0x3900_0000, 4096)));
    assert_eq!(other.page_table_pool, 3 * MIB);
    assert_eq!(other.modules.kernel.unwrap().range, PaRange::new(0x5800_0000, 0x8000));
    assert_eq!(other.modules.ramdisk.unwrap().range, PaRange::new(0x5810_0000, 0x8000));
    assert_eq!(other.modules.bootargs, None);
    assert_eq!(other.layout.spis, 128, "100 in steps of 32");
}

#[test]
fn devices_have_what_their_nodes_say() {
    let manifest = manifest();
    let [disk0, net0, disk1] = manifest.domains[0].devices.as_slice() else {
        panic!("three devices")
    };
    assert_eq!(
        (disk0.kind, disk0.backend, disk0.queues),
        (DeviceKind::BLOCK, DomainId(2), 4)
    );
    let source = Source::Device {
        path: "/passthrough/virtio@a003000".to_string(),
        partition: Some(2),
    };
    assert_eq!(disk0.source, source);
    assert_eq!(
        (disk0.timeout_ms, disk0.attach_timeout_ms, disk0.on_failure),
        (250, 0, OnFailure::Abort)
    );
    assert_eq!(disk0.transports, [Transport::Mmio]);
    assert!(!disk0.read_only && !disk0.accel);
    assert_eq!(
        (net0.kind, net0.memory_access, &net0.source),
        (DeviceKind::NET, MemoryAccess::None, &Source::None)
    );
    assert_eq!(
        (net0.timeout_ms, net0.attach_timeout_ms, net0.on_failure),
        (5_000, 60_000, OnFailure::Wait)
    );
    assert!(disk1.read_only);
    assert_eq!(
        (disk1.kind, &disk1.source),
        (DeviceKind::BLOCK, &Source::RamDisk { mib: 16 })
    );

    // The accelerated device has a page of its own.
    assert_eq!(disk0.range, IpaRange::new(0x0200_0000, 0x200));
    assert_eq!(net0.range, IpaRange::new(0x0200_1000, 0x1000));
    assert_eq!(disk1.range, IpaRange::new(0x0200_2000, 0x200));
    assert_eq!(
        disk0.interrupt,
        Interrupt {
            id: IntId(33),
            trigger: Trigger::EdgeRising
        }
    );
    assert_eq!(
        net0.interrupt,
        Interrupt {
            id: IntId(34),
            trigger: Trigger::LevelHigh
        }
    );
    assert_eq!(
        disk1.interrupt,
        Interrupt {
            id: IntId(35),
            trigger: Trigger::EdgeRising
        }
    );

    let served: Vec<_> = manifest
        .served_by(DomainId(2))
        .map(|(guest, device)| (guest.id.0, device.name.as_str()))
        .collect();
    assert_eq!(served, [(1, "disk0"), (1, "net0"), (1, "disk1")]);
    assert_eq!(manifest.served_by(DomainId(1)).count(), 0);
}

#[test]
fn a_backend_gets_hypervisor_node_passthrough_and_tables_for_its_guests() {
    let manifest = manifest();
    let dm = &manifest.domains[1];
    assert!(dm.hypervisor_node && dm.direct_map && dm.dma_trusted);
    assert_eq!(dm.static_memory, [PaRange::new(0x7000_0000, 64 * MIB)]);
    assert_eq!(dm.on_crash, OnShutdown::PowerOff);
    assert_eq!((dm.on_reboot, dm.on_watchdog), (OnShutdown::Stop, OnShutdown::PowerOff));
    assert_eq!(dm.restart_limit, Some(RestartLimit { count: 3, seconds: 10 }));
    assert_eq!(dm.controls, [DomainId(1)]);
    assert_eq!(dm.grants.maptrack_frames, 0);
    let own = MIB + 64 * 4096 + MIB / 2;
    assert_eq!(
        dm.page_table_pool,
        own + 256 * MIB / 512 + 0x1_0000,
        "one guest, counted once"
    );
    let [device] = dm.passthrough.devices.as_slice() else {
        panic!("one device")
    };
    assert_eq!(device.path, "/passthrough/virtio@a003000");
    assert_eq!(device.host_path.as_deref(), Some("/virtio_mmio@a003000"));
    let mapping = device.mappings[0];
    assert_eq!(
        (mapping.physical, mapping.guest),
        (PaRange::new(0xa00_3000, 0x1000), Ipa(0xa00_3000))
    );
    assert_eq!(
        device.interrupts,
        [Interrupt {
            id: IntId(72),
            trigger: Trigger::EdgeRising
        }]
    );
    assert_eq!(
        manifest.dma_trusted().map(|domain| domain.id).collect::<Vec<_>>(),
        [DomainId(2)]
    );
}

#[test]
fn static_event_channels_are_pairs_in_order() {
    let manifest = manifest();
    let [channel] = manifest.channels.as_slice() else {
        panic!("{:?}", manifest.channels)
    };
    assert_eq!(
        channel.first,
        ChannelEnd {
            domain: DomainId(1),
            port: EventPort(10)
        }
    );
    assert_eq!(
        channel.second,
        ChannelEnd {
            domain: DomainId(2),
            port: EventPort(11)
        }
    );
}

#[test]
fn an_ordinary_domain_has_the_addresses_of_xen() {
    let layout = &manifest().domains[0].layout;
    assert_eq!(layout.memory, [IpaRange::new(0x4000_0000, 256 * MIB)]);
    let expected = VirtualGic::V3 {
        distributor: IpaRange::new(0x300_1000, 0x1_0000),
        redistributors: IpaRange::new(0x302_0000, 0x4_0000),
    };
    assert_eq!(layout.gic, expected);
    let uart = layout.uart.unwrap();
    assert_eq!(
        (uart.registers, uart.interrupt),
        (IpaRange::new(0x2200_0000, 0x1000), IntId(32))
    );
    assert_eq!(layout.grant_window, IpaRange::new(0x3800_0000, 16 * MIB));
    let regions = [
        IpaRange::new(0x5000_0000, 0xb000_0000),
        IpaRange::new(0x2_0000_0000, 32 << 30),
    ];
    assert_eq!(layout.extended_regions, regions);
    assert_eq!((layout.spis, layout.end()), (32, 0xa_0000_0000));

    let (_, manifest) = read(&VIRT.replace(VIRT_GICV3, VIRT_GICV2), DOMAINS, PARTIAL).unwrap();
    let expected = VirtualGic::V2 {
        distributor: IpaRange::new(0x300_1000, 0x1000),
        cpu_interface: IpaRange::new(0x300_2000, 0x2000),
    };
    assert_eq!(manifest.domains[0].layout.gic, expected);
    let direct = VirtualGic::V2 {
        distributor: IpaRange::new(0x800_0000, 0x1000),
        cpu_interface: IpaRange::new(0x801_0000, 0x2000),
    };
    assert_eq!(manifest.domains[1].layout.gic, direct);
}

#[test]
fn a_domain_has_a_clock_where_the_machine_has_one_unless_the_manifest_says_otherwise() {
    let absent = VIRT.replace("\"arm,pl031\",", "");
    let disabled = VIRT.replace(
        "reg = <0 0x9010000 0 0x1000>;",
        "status = \"disabled\"; reg = <0 0x9010000 0 0x1000>;",
    );
    let short = VIRT.replace("reg = <0 0x9010000 0 0x1000>;", "reg = <0 0x9010000 0 0x10>;");
    let hypervisors = Rtc::Hypervisor(PaRange::new(0x901_0000, 0x1000));
    let (enabled, refused) = ("portunus,rtc = \"enabled\";", "portunus,rtc = \"disabled\";");
    for (machine, property, rtc, has_clock) in [
        (VIRT, "", hypervisors, true),
        (VIRT, enabled, hypervisors, true),
        (VIRT, refused, hypervisors, false),
        (&absent, "", Rtc::Absent, false),
        (&absent, enabled, Rtc::Absent, true),
        (&absent, refused, Rtc::Absent, false),
        (&disabled, "", Rtc::Absent, false),
        (&short, "", Rtc::Absent, false),
        (BOARD, "", Rtc::Absent, false),
    ] {
        let (_, manifest) = read(machine, &small(property), PARTIAL).unwrap();
        let clock = manifest.domains[0].layout.rtc;
        assert_eq!((manifest.rtc, clock.is_some()), (rtc, has_clock), "{property}");
        if let Some(clock) = clock {
            assert_eq!(clock.registers, IpaRange::new(0x2200_1000, 0x1000));
        }
    }
}

#[test]
fn the_clocks_interrupt_comes_after_all_others_and_moves_none() {
    let clocks: Vec<_> = manifest()
        .domains
        .iter()
        .map(|domain| domain.layout.rtc.unwrap())
        .collect();
    // After the UART and three devices, after the UART of a domain with a passed-through device, and in one with nothing.
    let interrupts: Vec<_> = clocks.iter().map(|clock| clock.interrupt).collect();
    assert_eq!(interrupts, [Some(IntId(36)), Some(IntId(33)), Some(IntId(33))]);

    // Where the manifest counts interrupts and leaves none, the clock goes without.
    for (spis, interrupt) in [(4, None), (5, Some(IntId(36)))] {
        let domains = DOMAINS.replacen("vpl011 = <1>;", &format!("vpl011; nr_spis = <{spis}>;"), 1);
        let (_, manifest) = read(VIRT, &domains, PARTIAL).unwrap();
        let layout = &manifest.domains[0].layout;
        assert_eq!((layout.rtc.unwrap().interrupt, layout.spis), (interrupt, 32));
    }
}

#[test]
fn a_passed_through_clock_is_its_owners_alone() {
    let partial = PARTIAL
        .replace("0xa003000", "0x9010000")
        .replace("/virtio_mmio@a003000", "/pl031@9010000")
        .replace("virtio,mmio", "arm,pl031")
        .replace("<0 40 1>", "<0 2 4>");
    let domains = DOMAINS.replace(
        "portunus,source = <&vmmio24>;\n                portunus,partition = <2>;",
        "portunus,ram-disk = <1>;",
    );
    let (_, manifest) = read(VIRT, &domains, &partial).unwrap();
    assert_eq!(manifest.rtc, Rtc::Domain(DomainId(2)));
    assert!(manifest.domains.iter().all(|domain| domain.layout.rtc.is_none()));
}

#[test]
fn memory_above_3_gib_is_a_second_bank() {
    let machine = VIRT.replace("0 0x80000000>", "2 0>");
    let domains = small("").replacen("memory = <0 65536>", "memory = <0 0x500000>", 1);
    let (_, manifest) = read(&machine, &domains, PARTIAL).unwrap();
    let layout = &manifest.domains[0].layout;
    assert_eq!(
        layout.memory,
        [
            IpaRange::new(0x4000_0000, 3 << 30),
            IpaRange::new(0x2_0000_0000, 2 << 30)
        ]
    );
    assert_eq!(layout.extended_regions, [IpaRange::new(0x2_8000_0000, 32 << 30)]);
}

#[test]
fn a_direct_mapped_domain_has_its_windows_in_holes_of_the_machine() {
    for (machine, domains) in [
        (VIRT.to_string(), DOMAINS.to_string()),
        (
            BOARD.to_string(),
            small("vpl011; xen,enhanced = \"no-xenstore\"; direct-map;"),
        ),
    ] {
        let (host, manifest) = read(&machine, &domains, PARTIAL).unwrap();
        let domain = manifest.domains.iter().find(|domain| domain.direct_map).unwrap();
        let layout = &domain.layout;
        assert_eq!(layout.gic.frames()[0].start.0, host.gic.distributor().start.0);
        let uart = layout.uart.unwrap().registers;
        let mut windows = vec![uart, layout.virtio, layout.grant_window];
        windows.extend(layout.rtc.map(|rtc| rtc.registers));
        windows.extend(&layout.extended_regions);
        for (index, window) in windows.iter().enumerate() {
            let physical = PaRange::new(window.start.0, window.size);
            let machine = host.devices.iter().chain(&host.memory).chain(&host.reserved);
            assert!(machine.clone().all(|range| !range.overlaps(physical)), "{window}");
            assert!(
                windows[..index].iter().all(|other| !other.overlaps(*window)),
                "{window}"
            );
        }
        assert_eq!(layout.extended_regions.len(), 1);
        let region = layout.extended_regions[0];
        assert!(
            region.start.0 >= host.memory_end().0 && region.start.is_aligned(128 * MIB) && region.size >= 128 * MIB
        );
    }
}

#[test]
fn a_direct_mapped_domain_has_its_pv_console_in_a_hole() {
    for machine in [VIRT, BOARD] {
        let domains = small("portunus,console = \"pv\"; direct-map;");
        let (host, manifest) = read(machine, &domains, PARTIAL).unwrap();
        let layout = &manifest.domains[0].layout;
        let page = layout.pv_console.unwrap();
        assert!(page.size == 4096 && page.start.is_aligned(4096) && page.end() <= layout.end());
        let physical = PaRange::new(page.start.0, page.size);
        let mut taken = host.devices.iter().chain(&host.memory).chain(&host.reserved);
        assert!(taken.all(|range| !range.overlaps(physical)), "{page}");
        let windows = [layout.virtio, layout.grant_window];
        assert!(windows.iter().all(|window| !window.overlaps(page)), "{page}");
    }
}

#[test]
fn given_places_are_kept_and_others_go_around_them() {
    let devices = [
        device("a", ""),
        device("b", "reg = <0 0x2000200 0 0x200>; interrupts = <0 1 1>;"),
        device("c", ""),
        device("d", "reg = <0 0x10000000 0 0x1000>; portunus,accel;"),
        device("e", "portunus,accel;"),
    ];
    let domains = small(&format!("vpl011; portunus,devices {{ {} }};", devices.concat()));
    let (_, manifest) = read(VIRT, &domains, PARTIAL).unwrap();
    let found: Vec<_> = manifest.domains[0]
        .devices
        .iter()
        .map(|d| (d.range.start.0, d.range.size, d.interrupt.id.0))
        .collect();
    let expected = [
        (0x200_0000, 0x200, 34),
        (0x200_0200, 0x200, 33),
        (0x200_0400, 0x200, 35),
        (0x1000_0000, 0x1000, 36),
        (0x200_1000, 0x1000, 37),
    ];
    assert_eq!(found, expected);
}

#[test]
fn more_devices_than_xen_has_are_fine() {
    let devices: String = (0..200).map(|index| device(&format!("disk{index}"), "")).collect();
    let (_, manifest) = read(VIRT, &small(&format!("portunus,devices {{ {devices} }};")), PARTIAL).unwrap();
    let last = &manifest.domains[0].devices[199];
    assert_eq!(
        (last.range.start.0, last.interrupt.id),
        (0x0200_0000 + 199 * 0x200, IntId(33 + 199))
    );
    assert_eq!(manifest.domains[0].layout.spis, 224);
    let devices: String = (0..257)
        .map(|index| device(&format!("disk{index}"), "portunus,accel;"))
        .collect();
    let error = read(VIRT, &small(&format!("portunus,devices {{ {devices} }};")), PARTIAL).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/chosen/domU1/portunus,devices/disk256: finds no 0x1000 free bytes in the guest-physical map"
    );
}

#[test]
fn virtual_interrupts_go_around_those_of_passed_through_devices() {
    let machine = VIRT.replace("interrupts = <0 40 1>", "interrupts = <0 0 4 0 2 4>");
    let partial = PARTIAL.replace("interrupts = <0 40 1>", "interrupts = <0 0 4>, <0 2 4>");
    let devices: String = ["a", "b"]
        .map(|name| device(name, "").replace("\"dm\"", "\"domU1\""))
        .concat();
    let domains = DOMAINS.replace(
        "module0x57000000 {",
        &format!("portunus,devices {{ {devices} }}; module0x57000000 {{"),
    );
    let (_, manifest) = read(&machine, &domains, &partial).unwrap();
    let dm = &manifest.domains[1];
    assert_eq!(
        dm.passthrough.interrupts().map(|i| i.id.0).collect::<Vec<_>>(),
        [32, 34]
    );
    assert_eq!(
        dm.devices.iter().map(|d| d.interrupt.id.0).collect::<Vec<_>>(),
        [35, 36]
    );
    assert_eq!(dm.layout.uart.unwrap().interrupt, IntId(33));
}

#[test]
fn harmless_leftovers_are_ignored_with_a_line() {
    let domains = small("capabilities = <1>; sve; passthrough = \"enabled\"; xen,enhanced; colour = \"red\";")
        + r#"xen,xen-bootargs = "x"; dom0 { compatible = "xen,linux-zimage", "xen,multiboot-module"; };"#;
    // Properties come before nodes in a tree.
    let (chosen, nodes) = domains.split_at(domains.find("domU1").unwrap());
    let (nodes, bootargs) = nodes.split_at(nodes.find("xen,xen-bootargs").unwrap());
    let (bootargs, dom0) = bootargs.split_at(bootargs.find("dom0 {").unwrap());
    let domains = [chosen, bootargs, nodes, dom0].concat().replace("sve;", "sve = <128>;");
    let (_, manifest) = read(VIRT, &domains, PARTIAL).unwrap();
    let lines: Vec<_> = manifest.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "/chosen: xen,xen-bootargs: ignored: Portunus has no command line",
            "/chosen/dom0: ignored: there is no dom0",
            "/chosen/domU1: capabilities: ignored: rights come from declared devices and channels alone",
            "/chosen/domU1: sve: ignored: guests see no SVE",
            "/chosen/domU1: colour: ignored: an unknown property",
            "/chosen/domU1: passthrough: ignored: no IOMMU is used",
            "/chosen/domU1: xen,enhanced: ignored: there is no xenstore; the rest is there",
        ]
    );
}

#[test]
fn without_modules_a_manifest_can_still_be_read() {
    let blob = machines::machine(VIRT, DOMAINS);
    let tree = Tree::new(&blob).unwrap();
    let manifest = Manifest::parse(&tree, &Host::parse(&tree).unwrap(), &NoModules).unwrap();
    assert!(manifest.domains[1].passthrough.unread);
    let source = Source::Device {
        path: "/virtio_mmio@a003000".to_string(),
        partition: Some(2),
    };
    assert_eq!(manifest.domains[0].devices[0].source, source);
    let expected = "/chosen/dm: multiboot,device-tree: ignored: the module can't be read here";
    assert!(manifest.notices.iter().any(|notice| notice.to_string() == expected));
}

#[test]
fn a_tree_without_domains_gives_an_empty_manifest() {
    let expected = Manifest {
        rtc: Rtc::Hypervisor(PaRange::new(0x901_0000, 0x1000)),
        ..Manifest::default()
    };
    assert_eq!(read(VIRT, "", PARTIAL).unwrap().1, expected);
}
