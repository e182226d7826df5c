//! The device trees that guests see, read again by the core's parser, by the rules of Linux' bindings, and by `dtc`.

#[path = "manifest_support/domains.rs"]
mod domains;
#[path = "manifest_support/machines.rs"]
mod machines;
#[path = "manifest_support/source.rs"]
mod source;

use std::io::Write;
use std::process::{Command, Stdio};

use domains::{DOMAINS, PARTIAL, read};
use machines::{VIRT, VIRT_GICV2, VIRT_GICV3};
use portunus::ids::DomainId;
use portunus::manifest::guest_tree::fresh::FreshValues;
use portunus::manifest::host::{Gic, Host};
use portunus::manifest::tree::{Node, Reg, Tree, Trigger};
use portunus::manifest::{GuestTree, Manifest, Reason};
use portunus::range::IpaRange;

/// The tree of one domain, with RAM where the layout puts it.
fn build(manifest: &Manifest, domain: u16) -> Vec<u8> {
    let memory: Vec<_> = manifest
        .domains
        .iter()
        .map(|domain| domain.layout.memory.clone())
        .collect();
    let tree = GuestTree {
        manifest,
        domain: DomainId(domain),
        memory: &memory,
        ramdisk: (domain == 1).then_some(IpaRange::new(0x4800_0000, 0x18_0000)),
        timer_frequency: None,
        seeds: true,
    };
    tree.build().unwrap()
}

fn manifest() -> Manifest {
    read(VIRT, DOMAINS, PARTIAL).unwrap().1
}

fn find<'t, 'a>(tree: &'t Tree<'a>, path: &str) -> Node<'t, 'a> {
    tree.find(path).unwrap_or_else(|| panic!("no {path}"))
}

fn strings(node: Node<'_, '_>, property: &str) -> Vec<String> {
    node.strings(property).map(ToString::to_string).collect()
}

fn reg(address: u64, size: u64) -> Reg {
    Reg { address, size }
}

#[test]
fn our_own_parser_finds_the_machine_of_a_guest() {
    for (machine, version) in [(VIRT.to_string(), 3), (VIRT.replace(VIRT_GICV3, VIRT_GICV2), 2)] {
        let (_, manifest) = read(&machine, DOMAINS, PARTIAL).unwrap();
        let blob = build(&manifest, 1);
        let tree = Tree::new(&blob).unwrap();
        // A guest's GIC has no maintenance interrupt, which is all that a host's parser may miss.
        let error = Host::parse(&tree).unwrap_err();
        assert_eq!(
            (error.property.as_str(), &error.reason),
            ("interrupts", &Reason::Missing)
        );

        let gic = find(&tree, "/interrupt-controller");
        assert_eq!(gic.name(), "interrupt-controller@3001000");
        let frames = match version {
            3 => [reg(0x300_1000, 0x1_0000), reg(0x302_0000, 0x4_0000)],
            _ => [reg(0x300_1000, 0x1000), reg(0x300_2000, 0x2000)],
        };
        assert_eq!(gic.reg().unwrap(), frames);
        assert_eq!(
            strings(gic, "compatible"),
            [if version == 3 { "arm,gic-v3" } else { "arm,gic-400" }]
        );

        let timer: Vec<_> = find(&tree, "/timer")
            .interrupts()
            .unwrap()
            .iter()
            .map(|i| (i.id.0, i.trigger))
            .collect();
        assert_eq!(timer, [29, 30, 27].map(|id| (id, Trigger::LevelLow)));
    }
}

#[test]
fn memory_cpus_and_boot_arguments_are_there() {
    let blob = build(&manifest(), 1);
    let tree = Tree::new(&blob).unwrap();
    let memory = find(&tree, "/memory@40000000");
    assert_eq!(memory.reg().unwrap(), [reg(0x4000_0000, 256 << 20)]);
    assert_eq!(strings(memory, "device_type"), ["memory"]);

    let cpus: Vec<_> = find(&tree, "/cpus").children().collect();
    assert_eq!(
        cpus.iter().map(|cpu| cpu.name()).collect::<Vec<_>>(),
        ["cpu@0", "cpu@1"]
    );
    assert!(cpus.iter().all(|cpu| strings(*cpu, "enable-method") == ["psci"]));
    assert_eq!(cpus[1].rows("reg", [1]).unwrap(), [[1]]);

    let psci = find(&tree, "/psci");
    assert_eq!(strings(psci, "method"), ["hvc"]);
    assert_eq!(strings(psci, "compatible"), ["arm,psci-1.0", "arm,psci-0.2"]);

    let chosen = find(&tree, "/chosen");
    assert_eq!(strings(chosen, "bootargs"), ["console=ttyAMA0 root=/dev/vda"]);
    assert_eq!(chosen.rows("linux,initrd-start", [2]).unwrap(), [[0x4800_0000]]);
    assert_eq!(chosen.rows("linux,initrd-end", [2]).unwrap(), [[0x4818_0000]]);
    assert_eq!(chosen.rows("kaslr-seed", [2]).unwrap(), [[0]]);
    assert_eq!(chosen.property("rng-seed"), Some([0; 32].as_slice()));
    assert_eq!(chosen.u32("portunus,restarts"), Ok(Some(0)));
    let values = FreshValues::find(&blob);
    let at = |offset: Option<u32>, length| {
        let offset = offset.expect("found") as usize;
        blob[offset..offset + length].as_ptr()
    };
    assert_eq!(
        at(values.kaslr_seed, 8),
        chosen.property("kaslr-seed").unwrap().as_ptr()
    );
    assert_eq!(at(values.rng_seed, 32), chosen.property("rng-seed").unwrap().as_ptr());
    assert_eq!(
        at(values.restarts, 4),
        chosen.property("portunus,restarts").unwrap().as_ptr()
    );
    assert_eq!(strings(chosen, "stdout-path"), ["/pl011@22000000"]);
}

#[test]
fn the_real_time_clock_is_a_pl031_with_a_clock() {
    let blob = build(&manifest(), 1);
    let tree = Tree::new(&blob).unwrap();
    let rtc = find(&tree, "/pl031@22001000");
    assert_eq!(strings(rtc, "compatible"), ["arm,pl031", "arm,primecell"]);
    assert_eq!(rtc.physical_reg(0).unwrap().start.0, 0x2200_1000);
    let interrupt = rtc.interrupts().unwrap()[0];
    assert_eq!((interrupt.id.0, interrupt.trigger), (36, Trigger::LevelHigh));
    assert_eq!(strings(rtc, "clock-names"), ["apb_pclk"]);
    let clock = rtc.cells("clocks").unwrap().unwrap();
    assert!(tree.by_phandle(clock[0]).unwrap().is_compatible("fixed-clock"));
    assert_eq!(clock.len(), 1);
    // One without a UART has its clock's clock too.
    let blob = build(&manifest(), 3);
    let tree = Tree::new(&blob).unwrap();
    let clock = find(&tree, "/pl031@22001000").cells("clocks").unwrap().unwrap();
    assert!(tree.by_phandle(clock[0]).unwrap().is_compatible("fixed-clock"));
}

#[test]
fn the_console_is_a_pl011_with_a_clock() {
    let blob = build(&manifest(), 1);
    let tree = Tree::new(&blob).unwrap();
    let uart = find(&tree, "/pl011@22000000");
    assert_eq!(strings(uart, "compatible"), ["arm,pl011", "arm,primecell"]);
    assert_eq!(uart.physical_reg(0).unwrap().start.0, 0x2200_0000);
    let interrupt = uart.interrupts().unwrap()[0];
    assert_eq!((interrupt.id.0, interrupt.trigger), (32, Trigger::LevelHigh));
    let clocks = uart.cells("clocks").unwrap().unwrap();
    let clock = tree.by_phandle(clocks[0]).unwrap();
    assert_eq!(strings(clock, "compatible"), ["fixed-clock"]);
    assert_eq!(strings(uart, "clock-names").len(), clocks.len());
}

#[test]
fn each_device_is_a_virtio_node() {
    let blob = build(&manifest(), 1);
    let tree = Tree::new(&blob).unwrap();
    let rows = [
        ("/virtio@2000000", 0x200, 33, Trigger::EdgeRising),
        ("/virtio@2001000", 0x1000, 34, Trigger::LevelHigh),
        ("/virtio@2002000", 0x200, 35, Trigger::EdgeRising),
    ];
    for (path, size, interrupt, trigger) in rows {
        let node = find(&tree, path);
        assert_eq!(strings(node, "compatible"), ["virtio,mmio"], "{path}");
        assert_eq!(node.reg().unwrap()[0].size, size, "{path}");
        let found = node.interrupts().unwrap()[0];
        assert_eq!((found.id.0, found.trigger), (interrupt, trigger), "{path}");
        assert!(node.has("dma-coherent") && !node.has("iommus"), "{path}");
    }
    assert!(tree.find("/hypervisor").is_none() && tree.find("/portunus").is_none());
}

#[test]
fn a_backend_sees_the_hypervisor_as_linux_wants_it() {
    let (host, manifest) = read(VIRT, DOMAINS, PARTIAL).unwrap();
    let blob = build(&manifest, 2);
    let tree = Tree::new(&blob).unwrap();
    let node = find(&tree, "/hypervisor");
    assert_eq!(node.name(), "hypervisor", "Linux compares the whole name");
    assert_eq!(strings(node, "compatible"), ["xen,xen-4.20", "xen,xen"]);
    let windows = node.reg().unwrap();
    let layout = &manifest.domains[1].layout;
    assert_eq!(windows[0], reg(layout.grant_window.start.0, 16 << 20));
    assert!(windows.len() >= 2 && windows[1..].iter().all(|window| window.address % (128 << 20) == 0));
    let upcall = node.interrupts().unwrap()[0];
    assert_eq!((upcall.id.0, upcall.trigger), (31, Trigger::LevelLow));

    // Direct-mapped: RAM and interrupt controller are where the machine has them.
    assert_eq!(
        find(&tree, "/memory@70000000").reg().unwrap(),
        [reg(0x7000_0000, 64 << 20)]
    );
    let Gic::V3(gic) = host.gic else { panic!("GICv3") };
    let frames = find(&tree, "/interrupt-controller@8000000").reg().unwrap();
    assert_eq!(frames[0].address, gic.distributor.start.0);
    assert_eq!(frames[1], reg(gic.redistributors[0].start.0, 0x2_0000));
}

#[test]
fn a_backend_reads_what_it_serves() {
    let blob = build(&manifest(), 2);
    let tree = Tree::new(&blob).unwrap();
    let node = find(&tree, "/portunus");
    assert!(node.is_compatible("portunus,serves-v1"));
    let [disk0, net0, disk1] = node.children().collect::<Vec<_>>()[..] else {
        panic!("three devices")
    };
    assert_eq!(disk0.name(), "device@0");
    assert_eq!(disk0.reg().unwrap(), [reg(0x200_0000, 0x200)]);
    assert_eq!(disk0.interrupts().unwrap()[0].id.0, 33);
    assert_eq!(
        (disk0.u32("guest").unwrap(), disk0.u32("guest-vcpus").unwrap()),
        (Some(1), Some(2))
    );
    assert_eq!(strings(disk0, "guest-name"), ["domU1"]);
    assert_eq!(strings(disk0, "name-in-guest"), ["disk0"]);
    assert_eq!(disk0.rows("guest-memory", [2, 2]).unwrap(), [[0x4000_0000, 256 << 20]]);
    assert_eq!(strings(disk0, "transport"), ["mmio"]);
    assert_eq!(strings(disk0, "memory-access"), ["all"]);
    assert_eq!(
        (disk0.u32("type").unwrap(), disk0.u32("queues").unwrap()),
        (Some(2), Some(4))
    );
    assert_eq!(disk0.u32("partition").unwrap(), Some(2));
    assert!(!disk0.has("read-only") && !disk0.has("accel") && !disk0.has("ram-disk"));
    // The source is a node of this very tree.
    let path = strings(disk0, "source").remove(0);
    assert!(find(&tree, &path).is_compatible("virtio,mmio"));

    assert!(net0.has("accel") && !net0.has("source"));
    assert_eq!(net0.interrupts().unwrap()[0].trigger, Trigger::LevelHigh);
    assert_eq!(strings(net0, "memory-access"), ["none"]);
    assert!(disk1.has("read-only"));
    assert_eq!(disk1.u32("ram-disk").unwrap(), Some(16));
}

#[test]
fn passed_through_nodes_keep_their_references_and_lose_what_was_for_the_hypervisor() {
    let blob = build(&manifest(), 2);
    let tree = Tree::new(&blob).unwrap();
    let node = find(&tree, "/passthrough/virtio@a003000");
    assert!(node.properties().all(|(name, _)| !name.starts_with("xen,")));
    assert_eq!(node.physical_reg(0).unwrap().start.0, 0xa00_3000);
    assert_eq!(
        node.interrupts().unwrap()[0].id.0,
        72,
        "through the guest's own controller"
    );
    let clock = node.u32("clocks").unwrap().unwrap();
    assert_eq!(tree.by_phandle(clock).unwrap().path(), "/passthrough/clk");
    assert!(tree.find("/gic").is_none(), "the placeholder is not copied");
}

#[test]
fn phandles_of_a_partial_tree_never_clash_with_ours() {
    // The placeholder is named by Xen's number, and a copied node has the number that ours would get next.
    let partial = PARTIAL
        .replace("gic: gic {", "gic { phandle = <65000>;")
        .replace("clock: clk {", "clk { phandle = <65001>;")
        .replace("interrupt-parent = <&gic>", "interrupt-parent = <65000>")
        .replace("clocks = <&clock>", "clocks = <65001>");
    let (_, manifest) = read(VIRT, DOMAINS, &partial).unwrap();
    let blob = build(&manifest, 2);
    let tree = Tree::new(&blob).unwrap();
    let phandles: Vec<_> = tree.nodes().filter_map(|node| node.u32("phandle").unwrap()).collect();
    let mut unique = phandles.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), phandles.len());
    let node = find(&tree, "/passthrough/virtio@a003000");
    assert_eq!(
        tree.by_phandle(node.u32("clocks").unwrap().unwrap()).unwrap().path(),
        "/passthrough/clk"
    );
    assert_eq!(node.interrupt_parent().unwrap().path(), "/interrupt-controller@8000000");
}

#[test]
fn a_domain_that_is_not_in_the_manifest_has_no_tree() {
    let manifest = manifest();
    let tree = GuestTree {
        manifest: &manifest,
        domain: DomainId(9),
        memory: &[],
        ramdisk: None,
        timer_frequency: None,
        seeds: false,
    };
    assert_eq!(tree.build().unwrap_err().to_string(), "/chosen: domain 9: is missing");
}

#[test]
fn dtc_accepts_every_tree() {
    for machine in [VIRT.to_string(), VIRT.replace(VIRT_GICV3, VIRT_GICV2)] {
        let (_, manifest) = read(&machine, DOMAINS, PARTIAL).unwrap();
        for domain in 1..=3 {
            let blob = build(&manifest, domain);
            let dtc = Command::new("dtc")
                .args(["-I", "dtb", "-O", "dts", "-o", "/dev/null", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn();
            // Not everybody has dtc; the tests above read every property that matters.
            let Ok(mut dtc) = dtc else { return };
            dtc.stdin.take().unwrap().write_all(&blob).unwrap();
            let output = dtc.wait_with_output().unwrap();
            let warnings = String::from_utf8_lossy(&output.stderr);
            // Linux wants the hypervisor node without unit address; passed-through nodes are as their author wrote them.
            let expected = ["/hypervisor: node has a reg", "/passthrough/clk: missing or empty reg"];
            let mut matter = warnings
                .lines()
                .filter(|line| expected.iter().all(|text| !line.contains(text)));
            assert!(output.status.success(), "{warnings}");
            assert_eq!(matter.next(), None, "domain {domain}:\n{warnings}");
        }
    }
}

#[test]
fn names_longer_than_the_specification_allows_are_read_and_passed_on() {
    let long = "snps,quirk-frame-length-adjustment";
    let node = "a-node-with-a-name-of-more-than-31-bytes";
    let partial = PARTIAL.replace(
        "clock: clk {",
        &format!("{node} {{ {long} = <32>; }};\n        clock: clk {{ {long} = <32>;"),
    );
    let machine = VIRT.replace("/ {", &format!("/ {{ {node} {{ {long} = <32>; }};"));
    let (_, manifest) = read(&machine, DOMAINS, &partial).unwrap();
    let owner = manifest
        .domains
        .iter()
        .find(|domain| !domain.passthrough.devices.is_empty());
    let blob = build(&manifest, owner.unwrap().id.0);
    let tree = Tree::new(&blob).unwrap();
    for path in ["/passthrough/clk", &format!("/passthrough/{node}")] {
        assert_eq!(find(&tree, path).u32(long).unwrap(), Some(32), "{path}");
    }
    assert!(FreshValues::find(&blob).has_seeds());
}
