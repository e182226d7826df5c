//! A manifest that uses most of what there is: a guest, its backend with a passed-through disk, and a bystander.
#![allow(dead_code, reason = "each test uses its part")]

use portunus::manifest::{Host, Manifest, ManifestError, ModuleReader, Tree};
use portunus::range::PaRange;

/// Goes where a machine's source says `CHOSEN`.
pub(crate) const DOMAINS: &str = r#"
    #address-cells = <2>;
    #size-cells = <2>;
    domU1 {
        compatible = "xen,domain";
        #address-cells = <2>;
        #size-cells = <2>;
        memory = <0 262144>;
        cpus = <2>;
        vpl011 = <1>;
        portunus,share = <50>;
        kernel@50000000 {
            compatible = "multiboot,kernel", "multiboot,module";
            reg = <0 0x50000000 0 0x1e00000>;
            bootargs = "console=ttyAMA0 root=/dev/vda";
        };
        ramdisk@54000000 {
            compatible = "multiboot,ramdisk", "multiboot,module";
            reg = <0 0x54000000 0 0x180000>;
        };
        vcpu0 { compatible = "xen,vcpu"; id = <0>; hard-affinity = "0-1,3"; };
        vcpu1 { compatible = "xen,vcpu"; id = <1>; };
        portunus,devices {
            disk0 {
                portunus,type = "block";
                portunus,backend = <&dm>;
                portunus,source = <&vmmio24>;
                portunus,partition = <2>;
                portunus,transport = "argo", "mmio";
                portunus,memory-access = "all";
                portunus,queues = <4>;
                timeout-ms = <250>;
                attach-timeout-ms = <0>;
                on-failure = "abort";
            };
            net0 {
                portunus,type = "net";
                portunus,backend = "dm";
                portunus,memory-access = "none";
                portunus,accel;
            };
            disk1 {
                portunus,type = <2>;
                portunus,backend = "dm";
                portunus,ram-disk = <16>;
                portunus,memory-access = "all";
                read-only;
            };
        };
        chan0: ec0 { compatible = "xen,evtchn-v1"; xen,evtchn = <10 &chan1>; };
    };
    dm: dm {
        compatible = "xen,domain";
        #address-cells = <2>;
        #size-cells = <2>;
        memory = <0 65536>;
        cpus = <1>;
        vpl011;
        direct-map;
        xen,static-mem = <0 0x70000000 0 0x4000000>;
        portunus,dma-trusted;
        portunus,on-crash = "power-off";
        portunus,on-reboot = "stop";
        portunus,on-watchdog = "power-off";
        portunus,restart-limit = <3 10>;
        portunus,control = "domU1";
        max_maptrack_frames = <0>;
        module0x56000000 {
            compatible = "multiboot,kernel", "multiboot,module";
            reg = <0 0x56000000 0 0x40000>;
        };
        module0x57000000 {
            compatible = "multiboot,device-tree", "multiboot,module";
            reg = <0 0x57000000 0 0x1000>;
        };
        chan1: ec0 { compatible = "xen,evtchn-v1"; xen,evtchn = <11 &chan0>; };
    };
    other@3 {
        compatible = "xen,domain";
        #address-cells = <1>;
        #size-cells = <1>;
        memory = <1024>;
        cpus = <8>;
        trap-unmapped-accesses = <0>;
        xen,enhanced = "no-xenstore";
        portunus,console = "pv";
        portunus,console-io;
        xen,domain-p2m-mem-mb = <3>;
        nr_spis = <100>;
        zimage@58000000 { compatible = "xen,linux-zimage", "xen,multiboot-module"; reg = <0x58000000 0x8000>; };
        initrd@58100000 { compatible = "xen,linux-initrd", "xen,multiboot-module"; reg = <0x58100000 0x8000>; };
    };
"#;

/// The partial device tree of `dm`: QEMU's transport 24 and the page that it is in.
pub(crate) const PARTIAL: &str = r#"/ {
    #address-cells = <2>;
    #size-cells = <2>;
    gic: gic { #interrupt-cells = <3>; interrupt-controller; };
    passthrough {
        compatible = "simple-bus";
        ranges;
        #address-cells = <2>;
        #size-cells = <2>;
        clock: clk { compatible = "fixed-clock"; #clock-cells = <0>; clock-frequency = <1000>; };
        virtio@a003000 {
            compatible = "virtio,mmio";
            reg = <0 0xa003000 0 0x200>;
            interrupts = <0 40 1>;
            interrupt-parent = <&gic>;
            clocks = <&clock>;
            dma-coherent;
            xen,reg = <0 0xa003000 0 0x1000 0 0xa003000>;
            xen,path = "/virtio_mmio@a003000";
            xen,force-assign-without-iommu;
        };
    };
};"#;

/// Boot modules of a test: the partial tree wherever it is asked for.
pub(crate) struct Partial(pub(crate) Vec<u8>);

impl ModuleReader for Partial {
    fn read(&self, _range: PaRange) -> Option<Vec<u8>> {
        Some(self.0.clone())
    }
}

/// Reads a manifest on a machine, with a partial tree for whoever asks.
pub(crate) fn read(machine: &str, domains: &str, partial: &str) -> Result<(Host, Manifest), ManifestError> {
    let blob = super::machines::machine(machine, domains);
    let tree = Tree::new(&blob)?;
    let host = Host::parse(&tree)?;
    let manifest = Manifest::parse(&tree, &host, &Partial(super::source::compile(partial)))?;
    Ok((host, manifest))
}
