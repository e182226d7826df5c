//! What is wrong in the properties of a domain.

use crate::rows::in_domains;

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
