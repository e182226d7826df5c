//! Manifests with one thing wrong each: the error names the node, the property and the reason.

#[path = "manifest_support/device_errors.rs"]
mod device_errors;
#[path = "manifest_support/domain_errors.rs"]
mod domain_errors;
#[path = "manifest_support/domains.rs"]
mod domains;
#[path = "manifest_support/machines.rs"]
mod machines;
#[path = "manifest_support/module_errors.rs"]
mod module_errors;
#[path = "manifest_support/passthrough_errors.rs"]
mod passthrough_errors;
#[path = "manifest_support/rows.rs"]
mod rows;
#[path = "manifest_support/source.rs"]
mod source;

use domains::{DOMAINS, PARTIAL, read};
use machines::VIRT;

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
