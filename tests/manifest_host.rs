//! What the machine is, as read from the device trees of real machines and from broken ones.

#[path = "manifest_support/machines.rs"]
mod machines;
#[path = "manifest_support/source.rs"]
mod source;

use machines::{BOARD, VIRT, VIRT_GICV2, VIRT_GICV3};
use portunus::ids::{IntId, PcpuId};
use portunus::manifest::ManifestError;
use portunus::manifest::host::{Conduit, Gic, Host, HostCpu, Psci};
use portunus::manifest::tree::{Interrupt, Tree, Trigger};
use portunus::range::PaRange;

fn host(source: &str) -> Result<Host, ManifestError> {
    let blob = machines::machine(source, "");
    Host::parse(&Tree::new(&blob)?)
}

/// CPUs with these affinities that are numbered as they come.
fn cpus(mpidrs: &[u64]) -> Vec<HostCpu> {
    let numbered = (0..).map(|number| Some(PcpuId(number))).zip(mpidrs);
    numbered.map(|(pcpu, mpidr)| HostCpu { mpidr: *mpidr, pcpu }).collect()
}

fn level(id: u32, trigger: Trigger) -> Interrupt {
    Interrupt { id: IntId(id), trigger }
}

#[test]
fn reads_qemu_virt_with_gicv3() {
    let host = host(VIRT).unwrap();
    assert_eq!(host.memory, [PaRange::new(0x4000_0000, 0x8000_0000)]);
    assert_eq!(host.reserved, []);
    assert_eq!(host.cpus, cpus(&[0, 1, 2, 3]));
    assert_eq!(
        host.psci,
        Some(Psci {
            conduit: Conduit::Smc,
            is_1_0: true
        })
    );
    let Gic::V3(gic) = &host.gic else {
        panic!("{:?}", host.gic)
    };
    assert_eq!(gic.distributor, PaRange::new(0x800_0000, 0x1_0000));
    assert_eq!(gic.redistributors, [PaRange::new(0x80a_0000, 0xf6_0000)]);
    assert_eq!((gic.stride, gic.maintenance), (None, level(25, Trigger::LevelHigh)));
    let timer = host.timer;
    let numbers = [timer.secure_physical, timer.physical, timer.virtual_, timer.hypervisor].map(|i| i.id.0);
    assert_eq!((numbers, timer.frequency), ([29, 30, 27, 26], None));
    let uart = host.uart.unwrap();
    assert_eq!((uart.path.as_str(), uart.options.as_str()), ("/pl011@9000000", ""));
    assert_eq!(uart.compatible, ["arm,pl011", "arm,primecell"]);
    assert_eq!(uart.registers, PaRange::new(0x900_0000, 0x1000));
    assert_eq!(uart.interrupt, Some(level(33, Trigger::LevelHigh)));
    assert_eq!(uart.clock_frequency, Some(24_000_000));
    assert_eq!(host.rtc, Some(PaRange::new(0x901_0000, 0x1000)));
    for window in [
        PaRange::new(0x3eff_0000, 0x1_0000),
        PaRange::new(0x40_1000_0000, 0x1000_0000),
    ] {
        assert!(host.devices.iter().any(|range| range.contains(window)), "{window}");
    }
    assert!(
        host.devices
            .iter()
            .all(|range| !range.overlaps(PaRange::new(0x4000_0000, 0x8000_0000)))
    );
}

#[test]
fn reads_qemu_virt_with_gicv2() {
    let host = host(&VIRT.replace(VIRT_GICV3, VIRT_GICV2)).unwrap();
    let Gic::V2(gic) = host.gic else {
        panic!("{:?}", host.gic)
    };
    assert_eq!(gic.distributor, PaRange::new(0x800_0000, 0x1_0000));
    assert_eq!(gic.cpu_interface, PaRange::new(0x801_0000, 0x1_0000));
    assert_eq!(gic.hypervisor_interface, PaRange::new(0x803_0000, 0x1_0000));
    assert_eq!(gic.virtual_cpu_interface, PaRange::new(0x804_0000, 0x1_0000));
}

#[test]
fn reads_a_board_through_nested_buses() {
    let host = host(BOARD).unwrap();
    assert_eq!(
        host.memory,
        [
            PaRange::new(0x4800_0000, 0x3800_0000),
            PaRange::new(0x5_0000_0000, 0x4000_0000)
        ]
    );
    assert_eq!(host.memory_end().0, 0x5_4000_0000);
    assert_eq!(host.reserved, [PaRange::new(0x7e00_0000, 0x80_0000)]);
    assert_eq!(host.cpus, cpus(&[0, 0x100]));
    assert_eq!(
        host.psci,
        Some(Psci {
            conduit: Conduit::Hvc,
            is_1_0: false
        })
    );
    let Gic::V2(gic) = host.gic else {
        panic!("{:?}", host.gic)
    };
    assert_eq!(gic.distributor, PaRange::new(0xf101_0000, 0x1000));
    assert_eq!(gic.cpu_interface, PaRange::new(0xf102_0000, 0x2_0000));
    assert_eq!(gic.hypervisor_interface, PaRange::new(0xf104_0000, 0x2_0000));
    assert_eq!(gic.virtual_cpu_interface, PaRange::new(0xf106_0000, 0x2_0000));
    let numbers = [host.timer.physical, host.timer.virtual_, host.timer.hypervisor];
    assert_eq!(numbers, [30, 27, 26].map(|id| level(id, Trigger::LevelLow)));
    assert_eq!(host.timer.frequency, Some(8_333_333));
    let uart = host.uart.unwrap();
    assert_eq!(
        (uart.registers, uart.options.as_str()),
        (PaRange::new(0xe6e8_8000, 0x40), "115200n8")
    );
    assert_eq!(
        (uart.interrupt, uart.clock_frequency),
        (Some(level(196, Trigger::LevelHigh)), None)
    );
}

#[test]
fn without_stdout_path_the_first_enabled_pl011_is_the_console() {
    let host = host(&VIRT.replace("stdout-path = \"/pl011@9000000\";", "")).unwrap();
    assert_eq!(host.uart.unwrap().path, "/pl011@9000000");
}

#[test]
fn memory_reservations_count_as_reserved() {
    let blob = machines::machine(VIRT, "");
    let mut model = dtoolkit::model::DeviceTree::from_fdt(&dtoolkit::fdt::Fdt::new(&blob).unwrap());
    model
        .memory_reservations
        .push(dtoolkit::memreserve::MemoryReservation::new(0x4000_1000, 0x2000));
    model
        .memory_reservations
        .push(dtoolkit::memreserve::MemoryReservation::new(0x4000_3000, 0x1000));
    let blob = model.to_dtb();
    let host = Host::parse(&Tree::new(&blob).unwrap()).unwrap();
    assert_eq!(host.reserved, [PaRange::new(0x4000_1000, 0x3000)]);
}

#[test]
fn refuses_machines_that_it_cannot_run_on() {
    let rows: &[(&str, &str, &str, &str)] = &[
        ("no RAM", "device_type = \"memory\";", "", "/: memory: is missing"),
        (
            "RAM past the end",
            "reg = <0 0x40000000 0 0x80000000>",
            "reg = <0xffffffff 0x40000000 1 0>",
            "/memory@40000000: reg: runs past the end of the address space: 0xffffffff40000000..0xffffffffffffffff",
        ),
        (
            "RAM of three cells",
            "reg = <0 0x40000000 0 0x80000000>",
            "reg = <0 0x40000000 0>",
            "/memory@40000000: reg: has a length of 12 bytes, which its type can't have",
        ),
        ("no CPU", "device_type = \"cpu\";", "", "/cpus: cpu: is missing"),
        (
            "a CPU without number",
            "cpu@2 { reg = <2>;",
            "cpu@2 {",
            "/cpus/cpu@2: reg: is missing",
        ),
        (
            "PSCI by an unknown conduit",
            "method = \"smc\"",
            "method = \"svc\"",
            "/psci: method: has the unknown value \"svc\"",
        ),
        (
            "PSCI without method",
            "method = \"smc\";",
            "",
            "/psci: method: is missing",
        ),
        (
            "no GIC",
            "interrupt-controller;",
            "",
            "/: interrupt-controller: is missing",
        ),
        (
            "a GIC of another kind",
            "arm,gic-v3",
            "vendor,gic-900",
            "/intc@8000000: compatible: is not supported: the machine's GIC must be a GICv2 or a GICv3",
        ),
        (
            "no maintenance interrupt",
            "interrupts = <1 9 4>;",
            "",
            "/intc@8000000: interrupts: is missing",
        ),
        (
            "a shared maintenance interrupt",
            "interrupts = <1 9 4>;",
            "interrupts = <0 9 4>;",
            "/intc@8000000: interrupts: names an interrupt that is not the GIC's",
        ),
        (
            "a redistributor region that is not there",
            "#redistributor-regions = <1>",
            "#redistributor-regions = <0xffffffff>",
            "/intc@8000000: reg: is missing",
        ),
        (
            "a redistributor region too small for one",
            "0 0xf60000>",
            "0 0x1ffff>",
            "/intc@8000000: reg: is not supported: a redistributor region is smaller than one redistributor",
        ),
        (
            "a stride below one redistributor",
            "#redistributor-regions = <1>;",
            "redistributor-stride = <0 0x10000>;",
            "/intc@8000000: redistributor-stride: has the unknown value 65536",
        ),
        (
            "a GICv2 without virtualisation",
            VIRT_GICV3,
            "reg = <0 0x8000000 0 0x10000 0 0x8010000 0 0x10000>; compatible = \"arm,cortex-a15-gic\";",
            "/intc@8000000: reg: is missing",
        ),
        (
            "no timer",
            "\"arm,armv7-timer\"",
            "\"some-timer\"",
            "/: timer: is missing",
        ),
        (
            "a timer with one interrupt",
            "1 14 4 1 11 4 1 10 4>",
            ">",
            "/timer: interrupts: is missing",
        ),
        (
            "a timer on a PPI that does not exist",
            "<1 13 4",
            "<1 16 4",
            "/timer: interrupts: names an interrupt that is not the GIC's",
        ),
        (
            "a timer of half an interrupt",
            "1 10 4>",
            "1 10>",
            "/timer: interrupts: has a length of 44 bytes, which its type can't have",
        ),
        (
            "a console that is not there",
            "stdout-path = \"/pl011@9000000\"",
            "stdout-path = \"serial9:115200\"",
            "/chosen: stdout-path: has the unknown value \"serial9:115200\"",
        ),
        (
            "a console path that is no string",
            "stdout-path = \"/pl011@9000000\"",
            "stdout-path = <1>",
            "/chosen: stdout-path: is not a string",
        ),
        (
            "a console without registers",
            "reg = <0 0x9000000 0 0x1000>;",
            "",
            "/pl011@9000000: reg: is missing",
        ),
    ];
    for (what, old, new, expected) in rows {
        assert!(VIRT.contains(old), "{what}: nothing to replace");
        let error = host(&VIRT.replace(old, new)).expect_err(what);
        assert_eq!(error.to_string(), *expected, "{what}");
    }
}

#[test]
fn a_bus_that_does_not_translate_hides_what_is_behind_it() {
    let error = host(&BOARD.replace("ranges = <1 0 0x70000000 0x8000000>;", "")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/soc/bridge@70000000/interrupt-controller@1,1010000: reg: has an address that no bus translates"
    );
    let outside = host(&BOARD.replace(
        "ranges = <0x60000000 0 0xe0000000 0x20000000>;",
        "ranges = <0 0 0 0x1000>;",
    ));
    assert!(outside.unwrap_err().to_string().ends_with("that no bus translates"));
}

#[test]
fn what_is_no_device_tree_is_refused() {
    let blob = machines::machine(VIRT, "");
    let mut long = blob.clone();
    long.extend_from_slice(&[0xff; 64]);
    assert!(Tree::new(&long).is_ok(), "bytes after the blob do not matter");
    for length in [0, 3, 7, 8, 39, blob.len() - 1] {
        assert!(Tree::new(&blob[..length]).is_err(), "{length}");
    }
    let deep = format!("/ {{ {} {} }};", "a {".repeat(40), "};".repeat(40));
    assert_eq!(
        Tree::new(&source::compile(&deep)).unwrap_err().to_string(),
        "/: nested too deeply"
    );
}
