//! What is wrong in served devices and their places.

use crate::domains::{DOMAINS, PARTIAL, read};
use crate::machines::VIRT;
use crate::rows::in_domains;

#[test]
fn served_devices() {
    in_domains(&[
        (
            "no type",
            "portunus,type = \"block\";",
            "",
            "/chosen/domU1/portunus,devices/disk0: portunus,type: is missing",
        ),
        (
            "an unknown type",
            "portunus,type = \"block\"",
            "portunus,type = \"tape\"",
            "/chosen/domU1/portunus,devices/disk0: portunus,type: has the unknown value \"tape\"",
        ),
        (
            "type 0",
            "portunus,type = <2>",
            "portunus,type = <0>",
            "/chosen/domU1/portunus,devices/disk1: portunus,type: is zero",
        ),
        (
            "a type of two cells",
            "portunus,type = <2>",
            "portunus,type = <0 2>",
            "/chosen/domU1/portunus,devices/disk1: portunus,type: has a length of 8 bytes, which its type can't have",
        ),
        (
            "no backend",
            "portunus,backend = <&dm>;",
            "",
            "/chosen/domU1/portunus,devices/disk0: portunus,backend: is missing",
        ),
        (
            "a backend that is no domain",
            "portunus,backend = <&dm>;",
            "portunus,backend = <&vmmio0>;",
            "/chosen/domU1/portunus,devices/disk0: portunus,backend: names no other domain: 0x102",
        ),
        (
            "an unknown backend",
            "portunus,backend = \"dm\"",
            "portunus,backend = \"domD\"",
            "/chosen/domU1/portunus,devices/net0: portunus,backend: names no other domain: domD",
        ),
        (
            "a backend that is the guest",
            "portunus,backend = \"dm\"",
            "portunus,backend = \"domU1\"",
            "/chosen/domU1/portunus,devices/net0: portunus,backend: names no other domain: domU1",
        ),
        (
            "no word on memory",
            "portunus,memory-access = \"none\";",
            "",
            "/chosen/domU1/portunus,devices/net0: portunus,memory-access: is missing",
        ),
        (
            "unknown memory access",
            "portunus,memory-access = \"none\"",
            "portunus,memory-access = \"some\"",
            "/chosen/domU1/portunus,devices/net0: portunus,memory-access: has the unknown value \"some\"",
        ),
        (
            "a window of no size",
            "portunus,memory-access = \"none\"",
            "portunus,memory-access = \"window\"; portunus,window-size = <0>",
            "/chosen/domU1/portunus,devices/net0: portunus,window-size: is zero",
        ),
        (
            "a window beyond reason",
            "portunus,memory-access = \"none\"",
            "portunus,memory-access = \"window\"; portunus,window-size = <1025>",
            "/chosen/domU1/portunus,devices/net0: portunus,window-size: is 1025, more than the limit of 1024",
        ),
        (
            "a window as large as the guest",
            "portunus,memory-access = \"none\"",
            "portunus,memory-access = \"window\"; portunus,window-size = <256>",
            "/chosen/domU1/portunus,devices/net0: portunus,window-size: \
             finds no 0x10000000 free bytes in the guest-physical map",
        ),
        (
            "a size of two cells",
            "portunus,memory-access = \"none\"",
            "portunus,memory-access = \"window\"; portunus,window-size = <0 8>",
            "/chosen/domU1/portunus,devices/net0: portunus,window-size: \
             has a length of 8 bytes, which its type can't have",
        ),
        (
            "no page at all",
            "portunus,memory-access = \"none\"",
            "portunus,memory-access = \"all\"; portunus,map-quota = <0>",
            "/chosen/domU1/portunus,devices/net0: portunus,map-quota: is zero",
        ),
        (
            "a quota of nothing",
            "portunus,memory-access = \"none\"",
            "portunus,memory-access = \"grants\"; portunus,map-quota = <5>",
            "/chosen/domU1/portunus,devices/net0: portunus,map-quota: \
             is not supported: a quota without the right to map",
        ),
        (
            "the size of no window",
            "portunus,memory-access = \"none\"",
            "portunus,memory-access = \"grants\"; portunus,window-size = <8>",
            "/chosen/domU1/portunus,devices/net0: portunus,window-size: is not supported: a size without a window",
        ),
        (
            "an unknown transport",
            "\"argo\", \"mmio\"",
            "\"pci\", \"mmio\"",
            "/chosen/domU1/portunus,devices/disk0: portunus,transport: has the unknown value \"pci\"",
        ),
        (
            "no transport that there is",
            "\"argo\", \"mmio\"",
            "\"argo\"",
            "/chosen/domU1/portunus,devices/disk0: portunus,transport: is not supported: no transport but mmio",
        ),
        (
            "no queue",
            "portunus,queues = <4>",
            "portunus,queues = <0>",
            "/chosen/domU1/portunus,devices/disk0: portunus,queues: is zero",
        ),
        (
            "too many queues",
            "portunus,queues = <4>",
            "portunus,queues = <65>",
            "/chosen/domU1/portunus,devices/disk0: portunus,queues: is 65, more than the limit of 64",
        ),
        (
            "a time of two cells",
            "timeout-ms = <250>",
            "timeout-ms = <0 250>",
            "/chosen/domU1/portunus,devices/disk0: timeout-ms: has a length of 8 bytes, which its type can't have",
        ),
        (
            "an unknown failure policy",
            "on-failure = \"abort\"",
            "on-failure = \"panic\"",
            "/chosen/domU1/portunus,devices/disk0: on-failure: has the unknown value \"panic\"",
        ),
        (
            "a source that is nowhere",
            "portunus,source = <&vmmio24>",
            "portunus,source = <0x7777>",
            "/chosen/domU1/portunus,devices/disk0: portunus,source: refers to phandle 0x7777, which no node has",
        ),
        (
            "a source that the backend does not own",
            "portunus,source = <&vmmio24>",
            "portunus,source = <&vmmio0>",
            "/chosen/domU1/portunus,devices/disk0: portunus,source: names /virtio_mmio@a000000, \
             which is not passed through to the backend",
        ),
        (
            "a source path that is nowhere",
            "portunus,source = <&vmmio24>",
            "portunus,source = \"/disk\"",
            "/chosen/domU1/portunus,devices/disk0: portunus,source: names /disk, which is not passed through to the backend",
        ),
        (
            "two sources",
            "portunus,partition = <2>;",
            "portunus,ram-disk = <2>;",
            "/chosen/domU1/portunus,devices/disk0: portunus,ram-disk: repeats the source",
        ),
        (
            "partition 0",
            "portunus,partition = <2>",
            "portunus,partition = <0>",
            "/chosen/domU1/portunus,devices/disk0: portunus,partition: is zero",
        ),
        (
            "a partition of nothing",
            "portunus,source = <&vmmio24>;",
            "",
            "/chosen/domU1/portunus,devices/disk0: portunus,source: is missing",
        ),
        (
            "an empty RAM disk",
            "portunus,ram-disk = <16>",
            "portunus,ram-disk = <0>",
            "/chosen/domU1/portunus,devices/disk1: portunus,ram-disk: is zero",
        ),
        (
            "a RAM disk beyond reason",
            "portunus,ram-disk = <16>",
            "portunus,ram-disk = <0x100001>",
            "/chosen/domU1/portunus,devices/disk1: portunus,ram-disk: is 1048577, more than the limit of 1048576",
        ),
        (
            "a misspelt property",
            "portunus,accel;",
            "portunus,acel;",
            "/chosen/domU1/portunus,devices/net0: portunus,acel: is not supported: an unknown property",
        ),
    ]);
}

#[test]
fn places_of_served_devices() {
    let old = "read-only;";
    in_domains(&[
        (
            "over RAM",
            old,
            "reg = <0 0x40000000 0 0x200>;",
            "/chosen/domU1/portunus,devices/disk1: reg: is at 0x40000000..0x40000200, where RAM is",
        ),
        (
            "over the interrupt controller",
            old,
            "reg = <0 0x3001000 0 0x200>;",
            "/chosen/domU1/portunus,devices/disk1: reg: is at 0x3001000..0x3001200, where the interrupt controller is",
        ),
        (
            "over the UART",
            old,
            "reg = <0 0x22000200 0 0x200>;",
            "/chosen/domU1/portunus,devices/disk1: reg: is at 0x22000200..0x22000400, where the emulated UART is",
        ),
        (
            "over the grant window",
            old,
            "reg = <0 0x38000000 0 0x200>;",
            "/chosen/domU1/portunus,devices/disk1: reg: is at 0x38000000..0x38000200, where the grant window is",
        ),
        (
            "no size",
            old,
            "reg = <0 0x2000000 0 0>;",
            "/chosen/domU1/portunus,devices/disk1: reg: is zero",
        ),
        (
            "off its slot",
            old,
            "reg = <0 0x2000100 0 0x200>;",
            "/chosen/domU1/portunus,devices/disk1: reg: has 0x2000300, which is no multiple of 0x200",
        ),
        (
            "larger than the window",
            old,
            "reg = <0 0x60000000 0 0x200000>;",
            "/chosen/domU1/portunus,devices/disk1: reg: is 2097152, more than the limit of 1048576",
        ),
        (
            "beyond the physical map",
            old,
            "reg = <0x100 0 0 0x200>;",
            "/chosen/domU1/portunus,devices/disk1: reg: is 1099511628288, more than the limit of 1099511627776",
        ),
        (
            "past the end",
            old,
            "reg = <0xffffffff 0xfffffe00 0 0x400>;",
            "/chosen/domU1/portunus,devices/disk1: reg: runs past the end of the address space: \
             0xfffffffffffffe00..0xffffffffffffffff",
        ),
        (
            "two ranges",
            old,
            "reg = <0 0x2000000 0 0x200 0 0x2000400 0 0x200>;",
            "/chosen/domU1/portunus,devices/disk1: reg: repeats a range",
        ),
        (
            "an accelerated device in half a page",
            "portunus,accel;",
            "portunus,accel; reg = <0 0x2000000 0 0x200>;",
            "/chosen/domU1/portunus,devices/net0: reg: has 0x2000200, which is no multiple of 0x1000",
        ),
        (
            "a private interrupt",
            old,
            "interrupts = <1 3 1>;",
            "/chosen/domU1/portunus,devices/disk1: interrupts: names an interrupt that is not the GIC's",
        ),
        (
            "an interrupt that does not exist",
            old,
            "interrupts = <0 988 1>;",
            "/chosen/domU1/portunus,devices/disk1: interrupts: names an interrupt that is not the GIC's",
        ),
        (
            "a number alone",
            old,
            "interrupts = <33>;",
            "/chosen/domU1/portunus,devices/disk1: interrupts: has a length of 4 bytes, which its type can't have",
        ),
    ]);
    let two = DOMAINS.replacen(
        "portunus,accel;",
        "reg = <0 0x2000000 0 0x200>; interrupts = <0 9 1>;",
        1,
    );
    let rows = [
        (
            "reg = <0 0x2000000 0 0x200>;",
            "/chosen/domU1/portunus,devices/disk1: reg: is at 0x2000000..0x2000200, where net0 is",
        ),
        (
            "interrupts = <0 9 1>;",
            "/chosen/domU1/portunus,devices/disk1: interrupts: takes INTID 41, which belongs to net0",
        ),
    ];
    for (property, expected) in rows {
        let domains = two.replacen("read-only;", property, 1);
        assert_eq!(read(VIRT, &domains, PARTIAL).unwrap_err().to_string(), expected);
    }
}
