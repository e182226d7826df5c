//! Two machines as their firmware describes them: QEMU's `virt` with either GIC, and a board with a GIC-400, buses that
//! translate, and RAM on both sides of 4 GiB.
#![allow(dead_code, reason = "each test uses its part")]

/// QEMU's `virt` with GICv3, 4 CPUs and 2 GiB; `CHOSEN` stands where the manifest goes.
pub(crate) const VIRT: &str = r#"/ {
    interrupt-parent = <&gic>;
    #address-cells = <2>;
    #size-cells = <2>;
    compatible = "linux,dummy-virt";
    psci { method = "smc"; compatible = "arm,psci-1.0", "arm,psci-0.2", "arm,psci"; };
    memory@40000000 { reg = <0 0x40000000 0 0x80000000>; device_type = "memory"; };
    clk: apb-pclk { clock-frequency = <24000000>; #clock-cells = <0>; compatible = "fixed-clock"; };
    platform-bus@c000000 {
        ranges = <0 0 0xc000000 0x2000000>;
        #address-cells = <1>;
        #size-cells = <1>;
        compatible = "qemu,platform", "simple-bus";
    };
    vmmio0: virtio_mmio@a000000 {
        dma-coherent; interrupts = <0 16 1>; reg = <0 0x0a000000 0 0x200>; compatible = "virtio,mmio";
    };
    vmmio24: virtio_mmio@a003000 {
        dma-coherent; interrupts = <0 40 1>; reg = <0 0x0a003000 0 0x200>; compatible = "virtio,mmio";
    };
    pcie@10000000 {
        device_type = "pci";
        #address-cells = <3>;
        #size-cells = <2>;
        ranges = <0x1000000 0 0 0 0x3eff0000 0 0x10000 0x2000000 0 0x10000000 0 0x10000000 0 0x2eff0000
                  0x3000000 0x80 0 0x80 0 0x80 0>;
        reg = <0x40 0x10000000 0 0x10000000>;
    };
    pl011@9000000 {
        clocks = <&clk &clk>;
        interrupts = <0 1 4>;
        reg = <0 0x9000000 0 0x1000>;
        compatible = "arm,pl011", "arm,primecell";
    };
    pl031@9010000 {
        clock-names = "apb_pclk";
        clocks = <&clk>;
        interrupts = <0 2 4>;
        reg = <0 0x9010000 0 0x1000>;
        compatible = "arm,pl031", "arm,primecell";
    };
    gic: intc@8000000 {
        interrupts = <1 9 4>;
        reg = <0 0x8000000 0 0x10000 0 0x80a0000 0 0xf60000>;
        #redistributor-regions = <1>;
        compatible = "arm,gic-v3";
        ranges;
        #size-cells = <2>;
        #address-cells = <2>;
        interrupt-controller;
        #interrupt-cells = <3>;
        its@8080000 { reg = <0 0x8080000 0 0x20000>; compatible = "arm,gic-v3-its"; };
    };
    cpus {
        #size-cells = <0>;
        #address-cells = <1>;
        cpu@0 { reg = <0>; device_type = "cpu"; enable-method = "psci"; };
        cpu@1 { reg = <1>; device_type = "cpu"; enable-method = "psci"; };
        cpu@2 { reg = <2>; device_type = "cpu"; enable-method = "psci"; };
        cpu@3 { reg = <3>; device_type = "cpu"; enable-method = "psci"; };
    };
    timer {
        interrupts = <1 13 4 1 14 4 1 11 4 1 10 4>;
        always-on;
        compatible = "arm,armv7-timer";
    };
    chosen {
        stdout-path = "/pl011@9000000";
        CHOSEN
    };
};"#;

/// The lines of [`VIRT`] that describe its GICv3.
pub(crate) const VIRT_GICV3: &str = r#"reg = <0 0x8000000 0 0x10000 0 0x80a0000 0 0xf60000>;
        #redistributor-regions = <1>;
        compatible = "arm,gic-v3";"#;

/// What QEMU writes in their place with GICv2.
pub(crate) const VIRT_GICV2: &str = r#"reg = <0 0x8000000 0 0x10000 0 0x8010000 0 0x10000
               0 0x8030000 0 0x10000 0 0x8040000 0 0x10000>;
        compatible = "arm,cortex-a15-gic";"#;

/// A board like Renesas' R-Car H3: GIC-400 and UART on a bus of one cell that translates, named timer interrupts, console
/// by alias, CPUs in two clusters, reserved memory.
pub(crate) const BOARD: &str = r#"/ {
    #address-cells = <2>;
    #size-cells = <2>;
    aliases { serial0 = "/soc/serial@e6e88000"; };
    chosen { stdout-path = "serial0:115200n8"; CHOSEN };
    cpus {
        #address-cells = <1>;
        #size-cells = <0>;
        cpu-map { cluster0 { core0 { cpu = <&a57_0>; }; }; };
        a57_0: cpu@0 { reg = <0>; device_type = "cpu"; };
        cpu@1 { reg = <1>; device_type = "cpu"; status = "disabled"; };
        cpu@100 { reg = <0x100>; device_type = "cpu"; };
        cache-controller-0 { compatible = "cache"; };
    };
    psci { compatible = "arm,psci-0.2"; method = "hvc"; };
    soc {
        compatible = "simple-bus";
        interrupt-parent = <&gic>;
        #address-cells = <1>;
        #size-cells = <1>;
        ranges = <0x60000000 0 0xe0000000 0x20000000>;
        serial@e6e88000 {
            compatible = "renesas,scif-r8a7795", "renesas,scif";
            reg = <0x66e88000 0x40>;
            interrupts = <0 164 4>;
        };
        bridge@70000000 {
            compatible = "simple-bus";
            #address-cells = <2>;
            #size-cells = <1>;
            ranges = <1 0 0x70000000 0x8000000>;
            gic: interrupt-controller@1,1010000 {
                compatible = "arm,gic-400";
                #interrupt-cells = <3>;
                #address-cells = <0>;
                interrupt-controller;
                reg = <1 0x1010000 0x1000 1 0x1020000 0x20000 1 0x1040000 0x20000 1 0x1060000 0x20000>;
                interrupts = <1 9 0xff04>;
            };
            expander: gpio@1,20 {
                compatible = "some,expander"; interrupt-controller; #interrupt-cells = <1>; reg = <1 0x20 0x20>;
            };
        };
        i2c@e6500000 {
            reg = <0x66500000 0x40>;
            #address-cells = <1>;
            #size-cells = <0>;
            clock@10 { reg = <0x10>; interrupt-parent = <&expander>; interrupts = <3>; };
        };
    };
    timer {
        compatible = "arm,armv8-timer";
        interrupts-extended = <&gic 1 14 0xff08 &gic 1 11 0xff08 &gic 1 10 0xff08>;
        interrupt-names = "phys", "virt", "hyp-phys";
        clock-frequency = <8333333>;
    };
    memory@48000000 { device_type = "memory"; reg = <0 0x48000000 0 0x30000000 0 0x78000000 0 0x08000000>; };
    memory@500000000 { device_type = "memory"; reg = <5 0 0 0x40000000>; };
    memory@700000000 { device_type = "memory"; reg = <7 0 0 0x40000000>; status = "disabled"; };
    reserved-memory {
        #address-cells = <2>;
        #size-cells = <2>;
        ranges;
        firmware@7e000000 { reg = <0 0x7e000000 0 0x800000>; no-map; };
        pool { size = <0 0x1000000>; };
    };
};"#;

/// A machine with `chosen` in its /chosen node, compiled.
pub(crate) fn machine(source: &str, chosen: &str) -> Vec<u8> {
    super::source::compile(&source.replace("CHOSEN", chosen))
}
