//! What is wrong in modules, static memory, vCPUs and event channels.

use crate::domains::{DOMAINS, PARTIAL, read};
use crate::machines::VIRT;
use crate::rows::in_domains;

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
