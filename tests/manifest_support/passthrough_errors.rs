//! What is wrong in passed-through devices.

use crate::domains::{DOMAINS, PARTIAL, read};
use crate::machines::VIRT;
use crate::rows::{Row, check, in_domains};

#[test]
fn passed_through_devices() {
    let reg = "xen,reg = <0 0xa003000 0 0x1000 0 0xa003000>;";
    let rows: &[Row] = &[
        (
            "no /passthrough",
            "passthrough {",
            "devices {",
            "/chosen/dm: multiboot,device-tree: is missing",
        ),
        (
            "a device that may be a bus master, unsaid",
            "xen,force-assign-without-iommu;",
            "",
            "/passthrough/virtio@a003000: xen,force-assign-without-iommu: is missing",
        ),
        (
            "a range off its page",
            reg,
            "xen,reg = <0 0xa003e00 0 0x200 0 0xa003e00>;",
            "/passthrough/virtio@a003000: xen,reg: has 0xa003e00, which is no multiple of 0x1000",
        ),
        (
            "an empty range",
            reg,
            "xen,reg = <0 0xa003000 0 0 0 0xa003000>;",
            "/passthrough/virtio@a003000: xen,reg: is zero",
        ),
        (
            "a range of five cells",
            reg,
            "xen,reg = <0 0xa003000 0 0x1000 0>;",
            "/passthrough/virtio@a003000: xen,reg: has a length of 20 bytes, which its type can't have",
        ),
        (
            "a range past the end",
            reg,
            "xen,reg = <0xffffffff 0xfffff000 0 0x2000 0 0>;",
            "/passthrough/virtio@a003000: xen,reg: runs past the end of the address space: \
             0xfffffffffffff000..0xffffffffffffffff",
        ),
        (
            "a range elsewhere in a direct map",
            reg,
            "xen,reg = <0 0xa003000 0 0x1000 0 0xa004000>;",
            "/passthrough/virtio@a003000: xen,reg: is at 0xa004000 for the guest, but direct-map needs 0xa003000",
        ),
        (
            "RAM",
            reg,
            "xen,reg = <0 0x60000000 0 0x1000 0 0x60000000>;",
            "/passthrough/virtio@a003000: xen,reg: takes 0x60000000..0x60001000, which belongs to RAM",
        ),
        (
            "the hypervisor's console",
            reg,
            "xen,reg = <0 0x9000000 0 0x1000 0 0x9000000>;",
            "/passthrough/virtio@a003000: xen,reg: takes 0x9000000..0x9001000, which belongs to the console",
        ),
        (
            "the interrupt controller",
            reg,
            "xen,reg = <0 0x80a0000 0 0x1000 0 0x80a0000>;",
            "/passthrough/virtio@a003000: xen,reg: takes 0x80a0000..0x80a1000, which belongs to the interrupt controller",
        ),
        (
            "a host device that is not there",
            "xen,path = \"/virtio_mmio@a003000\"",
            "xen,path = \"/disk\"",
            "/passthrough/virtio@a003000: xen,path: has the unknown value \"/disk\"",
        ),
        (
            "an interrupt of another device",
            "interrupts = <0 40 1>",
            "interrupts = <0 41 1>",
            "/passthrough/virtio@a003000: interrupts: is not supported: an interrupt that the host's node does not have",
        ),
        (
            "half an interrupt",
            "interrupts = <0 40 1>",
            "interrupts = <0 40>",
            "/passthrough/virtio@a003000: interrupts: has a length of 8 bytes, which its type can't have",
        ),
        (
            "interrupts by another name",
            "interrupts = <0 40 1>",
            "interrupts-extended = <&gic 0 40 1>",
            "/passthrough/virtio@a003000: interrupts-extended: is not supported: use interrupts",
        ),
        (
            "a private interrupt",
            "xen,path = \"/virtio_mmio@a003000\"",
            "xen,path = \"/timer\"",
            "/passthrough/virtio@a003000: interrupts: is not supported: an interrupt that the host's node does not have",
        ),
        (
            "the console's interrupt",
            "interrupts = <0 40 1>;\n            interrupt-parent = <&gic>;\n            clocks = <&clock>;\n            \
             dma-coherent;\n            xen,reg = <0 0xa003000 0 0x1000 0 0xa003000>;\n            xen,path = \
             \"/virtio_mmio@a003000\";",
            "interrupts = <0 1 4>; xen,path = \"/pl011@9000000\";",
            "/passthrough/virtio@a003000: interrupts: takes INTID 33, which belongs to the console",
        ),
    ];
    check(rows, |old, new| {
        assert!(PARTIAL.contains(old), "nothing to replace: {old}");
        // Nothing names the disk as its source, so that each row fails for its own reason.
        let domains = DOMAINS.replace(
            "portunus,source = <&vmmio24>;\n                portunus,partition = <2>;",
            "",
        );
        read(VIRT, &domains, &PARTIAL.replacen(old, new, 1))
            .map(|_| ())
            .map_err(|error| error.to_string())
    });
    in_domains(&[
        (
            "a bus master of a domain that nobody trusts",
            "portunus,dma-trusted;",
            "",
            "/passthrough/virtio@a003000: may reach any memory without an IOMMU: the domain needs portunus,dma-trusted, \
             or the device portunus,no-dma",
        ),
        (
            "a bus master of a domain with other addresses",
            "direct-map;",
            "",
            "/passthrough/virtio@a003000: reaches memory by machine addresses: the domain needs direct-map",
        ),
    ]);
}

#[test]
fn a_page_or_an_interrupt_of_the_machine_belongs_to_one_domain() {
    // `other` gets a partial tree too: the same one.
    let tree = "module0x59000000 { compatible = \"multiboot,device-tree\", \"multiboot,module\"; reg = <0x59000000 0x1000>; };";
    let domains = DOMAINS.replace("zimage@58000000 {", &format!("{tree} zimage@58000000 {{"));
    let harmless = PARTIAL.replace("xen,force-assign-without-iommu;", "portunus,no-dma;");
    let error = read(VIRT, &domains, &harmless).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/passthrough/virtio@a003000: xen,reg: takes 0xa003000..0xa004000, which belongs to dm"
    );
    let no_registers = harmless.replace("xen,reg = <0 0xa003000 0 0x1000 0 0xa003000>;", "");
    let error = read(VIRT, &domains, &no_registers).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/passthrough/virtio@a003000: interrupts: takes INTID 72, which belongs to dm"
    );
}

#[test]
fn a_passed_through_device_must_not_be_where_the_guest_has_something_else() {
    let domains = DOMAINS.replace("direct-map;", "");
    for (guest, owner) in [
        ("0x40000000", "0x40000000..0x40001000, where RAM is"),
        ("0x3001000", "0x3001000..0x3002000, where the interrupt controller is"),
        ("0x2000000", "0x2000000..0x2001000, where the virtio window is"),
        ("0x22000000", "0x22000000..0x22001000, where the emulated UART is"),
        ("0x38fff000", "0x38fff000..0x39000000, where the grant window is"),
    ] {
        let partial = PARTIAL
            .replace("xen,force-assign-without-iommu;", "portunus,no-dma;")
            .replace("0 0x1000 0 0xa003000>", &format!("0 0x1000 0 {guest}>"));
        let error = read(VIRT, &domains, &partial).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("/passthrough/virtio@a003000: xen,reg: is at {owner}")
        );
    }
}
