//! Manifests with one thing wrong each: the error names the node, the property and the reason.

#[path = "manifest_support/domains.rs"]
mod domains;
#[path = "manifest_support/machines.rs"]
mod machines;
#[path = "manifest_support/source.rs"]
mod source;

use domains::{DOMAINS, PARTIAL, read};
use machines::VIRT;

/// What is wrong, the text that is replaced in a good manifest, by what, and the error.
type Row = (&'static str, &'static str, &'static str, &'static str);

fn check(rows: &[Row], read: impl Fn(&str, &str) -> Result<(), String>) {
    for (what, old, new, expected) in rows {
        match read(old, new) {
            Ok(()) => panic!("{what}: accepted"),
            Err(error) => assert_eq!(error, *expected, "{what}"),
        }
    }
}

fn in_domains(rows: &[Row]) {
    check(rows, |old, new| {
        assert!(DOMAINS.contains(old), "nothing to replace: {old}");
        let domains = DOMAINS.replacen(old, new, 1);
        read(VIRT, &domains, PARTIAL)
            .map(|_| ())
            .map_err(|error| error.to_string())
    });
}

#[test]
fn properties_of_a_domain() {
    in_domains(&[
        (
            "no memory",
            "memory = <0 262144>;",
            "",
            "/chosen/domU1: memory: is missing",
        ),
        (
            "no RAM at all",
            "memory = <0 262144>;",
            "memory = <0 0>;",
            "/chosen/domU1: memory: is zero",
        ),
        (
            "memory of three cells",
            "memory = <0 262144>;",
            "memory = <0 0 1>;",
            "/chosen/domU1: memory: has a length of 12 bytes, which its type can't have",
        ),
        (
            "memory as a word",
            "memory = <0 262144>;",
            "memory = \"256M\";",
            "/chosen/domU1: memory: has a length of 5 bytes, which its type can't have",
        ),
        (
            "more memory than there is",
            "memory = <0 262144>;",
            "memory = <0 2097153>;",
            "/chosen/domU1: memory: is 2097153, more than the limit of 2097152",
        ),
        (
            "memory that overflows in bytes",
            "memory = <0 262144>;",
            "memory = <0xffffffff 0xffffffff>;",
            "/chosen/domU1: memory: is 18446744073709551615, more than the limit of 2097152",
        ),
        (
            "half a page of memory",
            "memory = <0 262144>;",
            "memory = <0 262142>;",
            "/chosen/domU1: memory: has 0xffff800, which is no multiple of 0x1000",
        ),
        ("no cpus", "cpus = <2>;", "", "/chosen/domU1: cpus: is missing"),
        (
            "zero cpus",
            "cpus = <2>;",
            "cpus = <0>;",
            "/chosen/domU1: cpus: is zero",
        ),
        (
            "nine cpus",
            "cpus = <2>;",
            "cpus = <9>;",
            "/chosen/domU1: cpus: is 9, more than the limit of 8",
        ),
        (
            "cpus as two cells",
            "cpus = <2>;",
            "cpus = <0 2>;",
            "/chosen/domU1: cpus: has a length of 8 bytes, which its type can't have",
        ),
        (
            "no cells",
            "#address-cells = <2>;\n        #size-cells = <2>;\n        memory",
            "memory",
            "/chosen/domU1: #address-cells: is missing",
        ),
        (
            "a share of zero",
            "portunus,share = <50>;",
            "portunus,share = <0>;",
            "/chosen/domU1: portunus,share: is zero",
        ),
        (
            "a share beyond reason",
            "portunus,share = <50>;",
            "portunus,share = <10001>;",
            "/chosen/domU1: portunus,share: is 10001, more than the limit of 10000",
        ),
        (
            "too many SPIs",
            "nr_spis = <100>;",
            "nr_spis = <989>;",
            "/chosen/other@3: nr_spis: is 989, more than the limit of 988",
        ),
        (
            "fewer SPIs than the devices use",
            "vpl011 = <1>;",
            "vpl011; nr_spis = <3>;",
            "/chosen/domU1: nr_spis: gives 3 SPIs, but INTID 35 of disk1 needs 4",
        ),
        (
            "unmapped accesses trapped thrice",
            "trap-unmapped-accesses = <0>;",
            "trap-unmapped-accesses = <3>;",
            "/chosen/other@3: trap-unmapped-accesses: has the unknown value 3",
        ),
        (
            "an unknown enhancement",
            "xen,enhanced = \"no-xenstore\"",
            "xen,enhanced = \"more\"",
            "/chosen/other@3: xen,enhanced: has the unknown value \"more\"",
        ),
        (
            "an unknown console",
            "portunus,console = \"pv\"",
            "portunus,console = \"vga\"",
            "/chosen/other@3: portunus,console: has the unknown value \"vga\"",
        ),
        (
            "a console that is no word",
            "portunus,console = \"pv\"",
            "portunus,console",
            "/chosen/other@3: portunus,console: is not a string",
        ),
        (
            "two consoles",
            "portunus,console = \"pv\"",
            "portunus,console = \"pv\"; vpl011",
            "/chosen/other@3: portunus,console: is not supported: a PV console beside vpl011",
        ),
        (
            "a device in the page of the console",
            "portunus,console = \"pv\";",
            "portunus,console = \"pv\"; portunus,devices { disk0 { portunus,type = \"block\"; portunus,backend = \"dm\"; \
             portunus,ram-disk = <1>; portunus,memory-access = \"all\"; reg = <0x39000000 0x200>; }; };",
            "/chosen/other@3/portunus,devices/disk0: reg: is at 0x39000000..0x39000200, where the PV console is",
        ),
        (
            "an enhancement that is no word",
            "xen,enhanced = \"no-xenstore\"",
            "xen,enhanced = [ff 00]",
            "/chosen/other@3: xen,enhanced: is not a string",
        ),
        (
            "no tables",
            "xen,domain-p2m-mem-mb = <3>",
            "xen,domain-p2m-mem-mb = <0>",
            "/chosen/other@3: xen,domain-p2m-mem-mb: is zero",
        ),
        (
            "more tables than memory",
            "xen,domain-p2m-mem-mb = <3>",
            "xen,domain-p2m-mem-mb = <2049>",
            "/chosen/other@3: xen,domain-p2m-mem-mb: is 2049, more than the limit of 2048",
        ),
        (
            "more maptrack frames than fit",
            "max_maptrack_frames = <0>",
            "max_maptrack_frames = <0x10001>",
            "/chosen/dm: max_maptrack_frames: is 65537, more than the limit of 65536",
        ),
        (
            "more grant frames than the window has",
            "max_maptrack_frames = <0>",
            "max_grant_frames = <4097>",
            "/chosen/dm: max_grant_frames: is 4097, more than the limit of 4096",
        ),
        (
            "a crash with an unknown end",
            "portunus,on-crash = \"power-off\"",
            "portunus,on-crash = \"reboot\"",
            "/chosen/dm: portunus,on-crash: has the unknown value \"reboot\"",
        ),
        (
            "a clock or not",
            "portunus,on-reboot = \"stop\"",
            "portunus,rtc = \"yes\"",
            "/chosen/dm: portunus,rtc: has the unknown value \"yes\"",
        ),
        (
            "a reboot with an unknown end",
            "portunus,on-reboot = \"stop\"",
            "portunus,on-reboot = \"\"",
            "/chosen/dm: portunus,on-reboot: has the unknown value \"\"",
        ),
        (
            "a restart limit of no time",
            "portunus,restart-limit = <3 10>",
            "portunus,restart-limit = <5 0>",
            "/chosen/dm: portunus,restart-limit: is zero",
        ),
        (
            "a restart limit of more than are remembered",
            "portunus,restart-limit = <3 10>",
            "portunus,restart-limit = <33 60>",
            "/chosen/dm: portunus,restart-limit: is 33, more than the limit of 32",
        ),
        (
            "a restart limit of one cell",
            "portunus,restart-limit = <3 10>",
            "portunus,restart-limit = <5>",
            "/chosen/dm: portunus,restart-limit: has a length of 4 bytes, which its type can't have",
        ),
        (
            "control over a domain that is none",
            "portunus,control = \"domU1\"",
            "portunus,control = \"nobody\"",
            "/chosen/dm: portunus,control: names no other domain: nobody",
        ),
        (
            "control over itself",
            "portunus,control = \"domU1\"",
            "portunus,control = \"dm\"",
            "/chosen/dm: portunus,control: names no other domain: dm",
        ),
        (
            "passthrough perhaps",
            "vpl011 = <1>;",
            "passthrough = \"maybe\";",
            "/chosen/domU1: passthrough: has the unknown value \"maybe\"",
        ),
        ("a name twice", "other@3 {", "dm@3 {", "/chosen/dm@3: repeats dm"),
    ]);
}

#[test]
fn what_would_weaken_isolation_if_it_were_ignored() {
    in_domains(&[
        (
            "cache colours",
            "vpl011 = <1>;",
            "llc-colors = \"0-3\";",
            "/chosen/domU1: llc-colors: is not supported: cache colouring",
        ),
        (
            "a CPU pool",
            "vpl011 = <1>;",
            "domain-cpupool = <&dm>;",
            "/chosen/domU1: domain-cpupool: is not supported: CPU pools; pin vCPUs by xen,vcpu nodes instead",
        ),
        (
            "a CPU pool's node",
            "domU1 {",
            "pool0 { compatible = \"xen,cpupool\"; }; domU1 {",
            "/chosen/pool0: compatible: is not supported: CPU pools; pin vCPUs by xen,vcpu nodes instead",
        ),
        (
            "grant tables of version 2",
            "vpl011 = <1>;",
            "max_grant_version = <2>;",
            "/chosen/domU1: max_grant_version: is not supported: grant tables of version 2",
        ),
        (
            "grant tables of version 3",
            "vpl011 = <1>;",
            "max_grant_version = <3>;",
            "/chosen/domU1: max_grant_version: has the unknown value 3",
        ),
        (
            "unknown capabilities",
            "vpl011 = <1>;",
            "capabilities = <8>;",
            "/chosen/domU1: capabilities: has the unknown value 8",
        ),
        (
            "calls to firmware",
            "vpl011 = <1>;",
            "xen,sci_type = \"scmi_smc\";",
            "/chosen/domU1: xen,sci_type: is not supported: calls to system control firmware",
        ),
        (
            "no MMU",
            "vpl011 = <1>;",
            "v8r_el1_msa = \"mpu\";",
            "/chosen/domU1: v8r_el1_msa: is not supported: a domain without MMU",
        ),
        (
            "a property of Xen that nobody knows",
            "vpl011 = <1>;",
            "xen,firewall = \"on\";",
            "/chosen/domU1: xen,firewall: is not supported: an unknown property",
        ),
        (
            "a misspelt property of ours",
            "portunus,dma-trusted;",
            "portunus,dma-trsuted;",
            "/chosen/dm: portunus,dma-trsuted: is not supported: an unknown property",
        ),
        (
            "an unknown node of ours",
            "portunus,devices {",
            "portunus,device {",
            "/chosen/domU1/portunus,device: is not supported: an unknown node",
        ),
        (
            "a property beside the domains",
            "#size-cells = <2>;\n    domU1",
            "#size-cells = <2>; portunus,policy = \"strict\"; domU1",
            "/chosen: portunus,policy: is not supported: an unknown property",
        ),
        (
            "a policy node",
            "domU1 {",
            "portunus,policy { strict; }; domU1 {",
            "/chosen/portunus,policy: is not supported: an unknown node",
        ),
        (
            "a security policy",
            "domU1 {",
            "flask { compatible = \"xen,xsm-policy\", \"multiboot,module\"; reg = <0 0x50000000 0 0x10>; }; domU1 {",
            "/chosen/flask: compatible: is not supported: a security policy module",
        ),
        (
            "an event channel of dom0",
            "domU1 {",
            "ec { compatible = \"xen,evtchn-v1\"; xen,evtchn = <1 &chan1>; }; domU1 {",
            "/chosen/ec: compatible: is not supported: an event channel of a hardware domain",
        ),
    ]);
}

#[test]
fn modules() {
    in_domains(&[
        (
            "no kernel",
            "\"multiboot,kernel\", \"multiboot,module\"",
            "\"multiboot,other\"",
            "/chosen/domU1: multiboot,kernel: is missing",
        ),
        (
            "two kernels",
            "\"multiboot,ramdisk\"",
            "\"multiboot,kernel\"",
            "/chosen/domU1/ramdisk@54000000: compatible: repeats a module of this kind",
        ),
        (
            "a module without address",
            "reg = <0 0x50000000 0 0x1e00000>;",
            "",
            "/chosen/domU1/kernel@50000000: reg: is missing",
        ),
        (
            "a module with a cell too few",
            "reg = <0 0x50000000 0 0x1e00000>;",
            "reg = <0 0x50000000 0x1e00000>;",
            "/chosen/domU1/kernel@50000000: reg: has a length of 12 bytes, which its type can't have",
        ),
        (
            "a module in two pieces",
            "reg = <0 0x50000000 0 0x1e00000>;",
            "reg = <0 0x50000000 0 0x1000 0 0x60000000 0 0x1000>;",
            "/chosen/domU1/kernel@50000000: reg: repeats a range",
        ),
        (
            "an empty module",
            "reg = <0 0x50000000 0 0x1e00000>;",
            "reg = <0 0x50000000 0 0>;",
            "/chosen/domU1/kernel@50000000: reg: is zero",
        ),
        (
            "a module that runs out of RAM",
            "reg = <0 0x50000000 0 0x1e00000>;",
            "reg = <0 0xbffff000 0 0x2000>;",
            "/chosen/domU1/kernel@50000000: reg: is not in RAM: 0xbffff000..0xc0001000",
        ),
        (
            "a module past the end",
            "reg = <0 0x50000000 0 0x1e00000>;",
            "reg = <0xffffffff 0xfffff000 0 0x2000>;",
            "/chosen/domU1/kernel@50000000: reg: runs past the end of the address space: \
             0xfffffffffffff000..0xffffffffffffffff",
        ),
        (
            "addresses of three cells",
            "#address-cells = <2>;\n        #size-cells = <2>;\n        memory = <0 262144>",
            "#address-cells = <3>;\n        #size-cells = <2>;\n        memory = <0 262144>",
            "/chosen/domU1/kernel@50000000: reg: has a field of 3 cells",
        ),
        (
            "a command line that is no string",
            "bootargs = \"console=ttyAMA0 root=/dev/vda\"",
            "bootargs = [63 6f 6e]",
            "/chosen/domU1/kernel@50000000: bootargs: is not a string",
        ),
        (
            "a device tree beyond reason",
            "reg = <0 0x57000000 0 0x1000>;",
            "reg = <0 0x57000000 0 0x100001>;",
            "/chosen/dm/module0x57000000: reg: is 1048577, more than the limit of 1048576",
        ),
    ]);
}

#[test]
fn static_memory() {
    let old = "xen,static-mem = <0 0x70000000 0 0x4000000>;";
    in_domains(&[
        (
            "a sum that is not memory",
            old,
            "xen,static-mem = <0 0x70000000 0 0x3fff000>;",
            "/chosen/dm: xen,static-mem: adds up to 65532 KiB, but memory is 65536 KiB",
        ),
        (
            "half a range",
            old,
            "xen,static-mem = <0 0x70000000 0>;",
            "/chosen/dm: xen,static-mem: has a length of 12 bytes, which its type can't have",
        ),
        (
            "an empty range",
            old,
            "xen,static-mem = <0 0x70000000 0 0>;",
            "/chosen/dm: xen,static-mem: is zero",
        ),
        (
            "a range off its page",
            old,
            "xen,static-mem = <0 0x70000800 0 0x4000000>;",
            "/chosen/dm: xen,static-mem: has 0x74000800, which is no multiple of 0x1000",
        ),
        (
            "a range outside RAM",
            old,
            "xen,static-mem = <0 0x3f000000 0 0x4000000>;",
            "/chosen/dm: xen,static-mem: is not in RAM: 0x3f000000..0x43000000",
        ),
        (
            "a range past the end",
            old,
            "xen,static-mem = <0xffffffff 0xfffff000 0 0x4000000>;",
            "/chosen/dm: xen,static-mem: runs past the end of the address space: 0xfffffffffffff000..0xffffffffffffffff",
        ),
        (
            "a range that overlaps itself",
            old,
            "xen,static-mem = <0 0x70000000 0 0x2000000 0 0x71000000 0 0x2000000>;",
            "/chosen/dm: xen,static-mem: takes 0x71000000..0x73000000, which belongs to dm",
        ),
        (
            "a range over somebody's kernel",
            old,
            "xen,static-mem = <0 0x4f000000 0 0x4000000>;",
            "/chosen/dm: xen,static-mem: takes 0x4f000000..0x53000000, which belongs to a module of domU1",
        ),
        (
            "a range of another domain",
            "xen,domain-p2m-mem-mb = <3>;",
            "xen,static-mem = <0 0x73f00000 0 0x100000>;",
            "/chosen/other@3: xen,static-mem: takes 0x73f00000..0x74000000, which belongs to dm",
        ),
    ]);
    let machine = VIRT.replace(
        "chosen {",
        "reserved-memory { #address-cells = <2>; #size-cells = <2>; ranges; fw { reg = <0 0x72000000 0 0x1000>; }; }; chosen {",
    );
    let error = read(&machine, DOMAINS, PARTIAL).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/chosen/dm: xen,static-mem: takes 0x70000000..0x74000000, which belongs to firmware or the hypervisor"
    );
    let machine = VIRT.replace(
        "chosen {",
        "reserved-memory { #address-cells = <2>; #size-cells = <2>; ranges; fw { reg = <0 0x50000000 0 0x1000>; }; }; chosen {",
    );
    let error = read(&machine, DOMAINS, PARTIAL).unwrap_err().to_string();
    assert!(
        error.starts_with("/chosen/domU1: reg: takes 0x50000000..") && error.ends_with("firmware or the hypervisor"),
        "a module over what is reserved would be wiped with it: {error}"
    );
}

#[test]
fn vcpus_and_event_channels() {
    in_domains(&[
        (
            "a vCPU without number",
            "id = <0>;",
            "",
            "/chosen/domU1/vcpu0: id: is missing",
        ),
        (
            "a vCPU that is not there",
            "id = <1>",
            "id = <2>",
            "/chosen/domU1/vcpu1: id: is 2, more than the limit of 1",
        ),
        (
            "a vCPU twice",
            "id = <1>",
            "id = <0>",
            "/chosen/domU1/vcpu1: id: repeats 0",
        ),
        (
            "a pCPU that is not there",
            "0-1,3",
            "0-4",
            "/chosen/domU1/vcpu0: hard-affinity: is 4, more than the limit of 3",
        ),
        (
            "pCPUs backwards",
            "0-1,3",
            "3-1",
            "/chosen/domU1/vcpu0: hard-affinity: has the unknown value \"3-1\"",
        ),
        (
            "no pCPU",
            "0-1,3",
            "",
            "/chosen/domU1/vcpu0: hard-affinity: has the unknown value \"\"",
        ),
        (
            "a pCPU in words",
            "0-1,3",
            "0,one",
            "/chosen/domU1/vcpu0: hard-affinity: has the unknown value \"0,one\"",
        ),
        (
            "a pCPU too long for a number",
            "0-1,3",
            "99999999999999999999",
            "/chosen/domU1/vcpu0: hard-affinity: has the unknown value \"99999999999999999999\"",
        ),
        (
            "a channel without ends",
            "xen,evtchn = <10 &chan1>;",
            "",
            "/chosen/domU1/ec0: xen,evtchn: is missing",
        ),
        (
            "a channel with one number",
            "xen,evtchn = <10 &chan1>;",
            "xen,evtchn = <10>;",
            "/chosen/domU1/ec0: xen,evtchn: has a length of 4 bytes, which its type can't have",
        ),
        (
            "port 0",
            "<10 &chan1>",
            "<0 &chan1>",
            "/chosen/domU1/ec0: xen,evtchn: is zero",
        ),
        (
            "port 1024",
            "<10 &chan1>",
            "<1024 &chan1>",
            "/chosen/domU1/ec0: xen,evtchn: is 1024, more than the limit of 1023",
        ),
        (
            "a peer that is not there",
            "<10 &chan1>",
            "<10 0x7777>",
            "/chosen/domU1/ec0: xen,evtchn: refers to phandle 0x7777, which no node has",
        ),
        (
            "a peer that is no channel",
            "<10 &chan1>",
            "<10 &dm>",
            "/chosen/domU1/ec0: xen,evtchn: names a node that does not name this one",
        ),
        (
            "a channel to itself",
            "<10 &chan1>",
            "<10 &chan0>",
            "/chosen/domU1/ec0: xen,evtchn: names a node that does not name this one",
        ),
        (
            "a peer that names another",
            "<11 &chan0>",
            "<11 &chan1>",
            "/chosen/domU1/ec0: xen,evtchn: names a node that does not name this one",
        ),
        (
            "a port twice",
            "chan0: ec0 {",
            "ec9 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <10 &chan1>; }; chan0: ec0 {",
            "/chosen/domU1/ec0: xen,evtchn: repeats 10",
        ),
    ]);
}

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

#[test]
fn at_most_sixteen_domains() {
    let domain = |index: usize| {
        format!(
            "d{index} {{ compatible = \"xen,domain\"; #address-cells = <1>; #size-cells = <1>; memory = <1024>; cpus = <1>;
             k {{ compatible = \"multiboot,kernel\", \"multiboot,module\"; reg = <0x50000000 0x1000>; }}; }};"
        )
    };
    let sixteen: String = (0..16).map(domain).collect();
    assert_eq!(read(VIRT, &sixteen, PARTIAL).unwrap().1.domains.len(), 16);
    let error = read(VIRT, &(sixteen + &domain(16)), PARTIAL).unwrap_err();
    assert_eq!(error.to_string(), "/chosen/d16: is 17, more than the limit of 16");
}

#[test]
fn a_partial_tree_that_is_none_names_the_domain() {
    let blob = machines::machine(VIRT, DOMAINS);
    let tree = portunus::manifest::Tree::new(&blob).unwrap();
    let host = portunus::manifest::Host::parse(&tree).unwrap();
    let error = portunus::manifest::Manifest::parse(&tree, &host, &domains::Partial(vec![0; 64])).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/chosen/dm: multiboot,device-tree: not a device tree:"),
        "{error}"
    );
}

#[test]
fn memory_beyond_any_guest_physical_map_is_refused_whatever_the_machine_has() {
    let machine = VIRT.replace(
        "reg = <0 0x40000000 0 0x80000000>",
        "reg = <0 0x40000000 0xffffffff 0x80000000>",
    );
    let domains = DOMAINS.replacen("memory = <0 262144>", "memory = <0x003fffff 0xff000000>", 1);
    let error = read(&machine, &domains, PARTIAL).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/chosen/domU1: memory: is 18014398492704768, more than the limit of 536870912"
    );
}
