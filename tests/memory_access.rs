//! What a backend may reach of a guest's memory: all, a window, granted pages, or nothing; in the manifest, in the device
//! trees of both, and in the rights.

#[path = "manifest_support/domains.rs"]
mod domains;
#[path = "manifest_support/machines.rs"]
mod machines;
#[path = "manifest_support/source.rs"]
mod source;

use domains::{DOMAINS, PARTIAL, read};
use machines::VIRT;
use portunus::ids::DomainId;
use portunus::manifest::tree::{Node, Tree};
use portunus::manifest::{GuestTree, Manifest, MemoryAccess};
use portunus::policy::{Permission, Policy};
use portunus::range::IpaRange;

const GUEST: DomainId = DomainId(1);
const BACKEND: DomainId = DomainId(2);
const MIB: u64 = 1 << 20;
/// The guest's RAM ends here.
const RAM_END: u64 = 0x5000_0000;

/// The usual domains, with these words and properties for disk0, net0 and disk1.
fn manifest(access: [&str; 3]) -> Manifest {
    let mut parts = DOMAINS.split("portunus,memory-access = ");
    let mut text = parts.next().expect("a beginning").to_string();
    for (part, access) in parts.zip(access) {
        let (_, rest) = part.split_once(';').expect("a property");
        text += &format!("portunus,memory-access = {access};{rest}");
    }
    read(VIRT, &text, PARTIAL).expect("a manifest").1
}

fn tree(manifest: &Manifest, domain: DomainId) -> Vec<u8> {
    let memory: Vec<_> = manifest
        .domains
        .iter()
        .map(|domain| domain.layout.memory.clone())
        .collect();
    let tree = GuestTree {
        manifest,
        domain,
        memory: &memory,
        ramdisk: None,
        timer_frequency: None,
        seeds: false,
    };
    tree.build().expect("a tree")
}

fn find<'t, 'a>(tree: &'t Tree<'a>, path: &str) -> Node<'t, 'a> {
    tree.find(path).unwrap_or_else(|| panic!("no {path}"))
}

fn rows(node: Node<'_, '_>, name: &str) -> Vec<IpaRange> {
    let rows = node.rows(name, [2, 2]).expect("rows");
    rows.iter().map(|[start, size]| IpaRange::new(*start, *size)).collect()
}

#[test]
fn grants_give_the_guest_an_iommu_that_names_its_backend() {
    let manifest = manifest(["\"grants\"", "\"none\"", "\"grants\""]);
    let blob = tree(&manifest, GUEST);
    let tree = Tree::new(&blob).expect("a tree");
    let iommu = find(&tree, "/xen_iommu");
    assert_eq!(iommu.strings("compatible").collect::<Vec<_>>(), ["xen,grant-dma"]);
    assert_eq!(iommu.u32("#iommu-cells"), Ok(Some(1)));
    let phandle = iommu.u32("phandle").expect("a number").expect("a phandle");
    assert!(tree.by_phandle(phandle).expect("it").is(iommu));
    for disk in ["/virtio@2000000", "/virtio@2002000"] {
        assert_eq!(
            find(&tree, disk).cells("iommus"),
            Ok(Some(vec![phandle, BACKEND.0.into()]))
        );
    }
    assert!(!find(&tree, "/virtio@2001000").has("iommus"));
    assert!(tree.find("/reserved-memory").is_none());
    // Without it a kernel has no grants to give.
    assert!(find(&tree, "/hypervisor").is_compatible("xen,xen"));
}

#[test]
fn a_guest_that_grants_nothing_has_no_such_iommu() {
    let manifest = manifest(["\"all\"", "\"none\"", "\"window\""]);
    let blob = tree(&manifest, GUEST);
    let tree = Tree::new(&blob).expect("a tree");
    assert!(tree.find("/xen_iommu").is_none());
    assert!(tree.find("/hypervisor").is_none());
}

#[test]
fn windows_are_pools_at_the_end_of_ram_one_a_device() {
    let manifest = manifest(["\"window\"", "\"window\"; portunus,window-size = <3>", "\"all\""]);
    let blob = tree(&manifest, GUEST);
    let tree = Tree::new(&blob).expect("a tree");
    let parent = find(&tree, "/reserved-memory");
    assert!(parent.has("ranges"));
    assert_eq!((parent.address_cells(), parent.size_cells()), (2, 2));
    let wanted = [
        ("/virtio@2000000", IpaRange::new(RAM_END - 8 * MIB, 8 * MIB)),
        ("/virtio@2001000", IpaRange::new(RAM_END - 11 * MIB, 3 * MIB)),
    ];
    assert_eq!(parent.children().count(), 2);
    for (device, window) in wanted {
        let phandle = find(&tree, device).u32("memory-region").expect("a cell");
        let pool = tree.by_phandle(phandle.expect("a phandle")).expect("a node");
        assert!(pool.parent().expect("a parent").is(parent));
        assert!(pool.is_compatible("restricted-dma-pool"));
        assert_eq!(rows(pool, "reg"), [window]);
        // Linux refuses pools with any of these.
        for property in ["no-map", "reusable", "linux,dma-default"] {
            assert!(!pool.has(property), "{property}");
        }
    }
    assert!(!find(&tree, "/virtio@2002000").has("memory-region"));
    let memory = find(&tree, "/memory@40000000");
    assert_eq!(rows(memory, "reg"), [IpaRange::new(0x4000_0000, RAM_END - 0x4000_0000)]);
}

#[test]
fn a_backend_is_told_what_it_may_reach() {
    let manifest = manifest(["\"window\"", "\"grants\"", "\"all\""]);
    let blob = tree(&manifest, BACKEND);
    let tree = Tree::new(&blob).expect("a tree");
    let all = IpaRange::new(0x4000_0000, 256 * MIB);
    let window = IpaRange::new(RAM_END - 8 * MIB, 8 * MIB);
    for (device, access, reachable) in [
        ("0", "window", vec![window]),
        ("1", "grants", vec![]),
        ("2", "all", vec![all]),
    ] {
        let node = find(&tree, &format!("/portunus/device@{device}"));
        assert_eq!(node.string("memory-access"), Ok(Some(access)));
        assert_eq!(rows(node, "guest-memory"), reachable);
    }
}

#[test]
fn a_window_gives_the_right_to_its_pages_and_to_no_other() {
    let policy = Policy::new(&manifest([
        "\"window\"",
        "\"window\"; portunus,window-size = <3>",
        "\"grants\"",
    ]));
    let map = |start, size| Permission::MapRange(IpaRange::new(start, size));
    let (first, second) = (RAM_END - 8 * MIB, RAM_END - 11 * MIB);
    for (subject, permission, object, given) in [
        (BACKEND, Permission::MapSome, GUEST, true),
        (BACKEND, Permission::MapMemory, GUEST, false),
        (BACKEND, map(first, 0x1000), GUEST, true),
        (BACKEND, map(first, 8 * MIB), GUEST, true),
        (BACKEND, map(RAM_END - 0x1000, 0x1000), GUEST, true),
        (BACKEND, map(second, 0x1000), GUEST, true),
        (BACKEND, map(RAM_END - 0x1000, 0x1001), GUEST, false),
        (BACKEND, map(RAM_END, 0x1000), GUEST, false),
        (BACKEND, map(second - 0x1000, 0x1000), GUEST, false),
        (BACKEND, map(0x4000_0000, 0x1000), GUEST, false),
        (BACKEND, map(first, 0), GUEST, false),
        (BACKEND, map(0, u64::MAX), GUEST, false),
        (BACKEND, map(u64::MAX - 0xfff, 0x1000), GUEST, false),
        (BACKEND, map(u64::MAX, 0x1000), GUEST, false),
        // Not the other way round, and not of or by a third.
        (GUEST, Permission::MapSome, BACKEND, false),
        (GUEST, map(first, 0x1000), BACKEND, false),
        (BACKEND, map(first, 0x1000), DomainId(3), false),
        (DomainId(3), map(first, 0x1000), GUEST, false),
        (DomainId(3), Permission::MapSome, GUEST, false),
    ] {
        let decision = policy.decide(subject, permission, object);
        assert_eq!(decision.is_ok(), given, "{subject:?} {permission} {object:?}");
    }
    let rights: Vec<_> = policy
        .rights_of(BACKEND)
        .filter(|(_, object)| *object == GUEST)
        .collect();
    assert!(rights.contains(&(map(first, 8 * MIB), GUEST)), "{rights:?}");
    assert!(!rights.contains(&(Permission::MapMemory, GUEST)), "{rights:?}");
}

#[test]
fn grants_and_none_give_no_right_to_map() {
    for access in ["\"grants\"", "\"none\""] {
        let policy = Policy::new(&manifest([access; 3]));
        assert!(policy.decide(BACKEND, Permission::Serve, GUEST).is_ok());
        for permission in [
            Permission::MapMemory,
            Permission::MapSome,
            Permission::MapRange(IpaRange::new(0x4000_0000, 0x1000)),
        ] {
            assert!(
                policy.decide(BACKEND, permission, GUEST).is_err(),
                "{access} {permission}"
            );
        }
    }
}

#[test]
fn all_for_one_device_is_all() {
    let policy = Policy::new(&manifest(["\"window\"", "\"grants\"", "\"all\""]));
    for permission in [
        Permission::MapMemory,
        Permission::MapSome,
        Permission::MapRange(IpaRange::new(0x4000_0000, 0x1000)),
    ] {
        assert_eq!(policy.decide(BACKEND, permission, GUEST), Ok(()));
    }
}

#[test]
fn a_window_of_a_direct_mapped_guest_is_in_its_static_memory() {
    let device =
        "disk0 { portunus,type = \"block\"; portunus,backend = \"other\"; portunus,memory-access = \"window\"; };";
    let domains = DOMAINS.replacen(
        "max_maptrack_frames = <0>;",
        &format!("max_maptrack_frames = <0>; portunus,devices {{ {device} }};"),
        1,
    );
    let manifest = read(VIRT, &domains, PARTIAL).expect("a manifest").1;
    let device = &manifest.domain(BACKEND).expect("it").devices[0];
    assert_eq!(device.memory_access, MemoryAccess::Window);
    assert_eq!(device.window, Some(IpaRange::new(0x7380_0000, 8 * MIB)));

    let anywhere = domains.replacen("xen,static-mem = <0 0x70000000 0 0x4000000>;", "", 1);
    assert_eq!(
        read(VIRT, &anywhere, PARTIAL).unwrap_err().to_string(),
        "/chosen/dm/portunus,devices/disk0: portunus,window-size: is not supported: \
         a window of a direct-mapped domain without xen,static-mem"
    );
}

#[test]
fn the_quota_is_what_may_be_reached_once_for_each_device_unless_the_manifest_says_less() {
    for (access, quota) in [
        (["\"all\"", "\"none\"", "\"all\""], 2 * 65536),
        (["\"all\"; portunus,map-quota = <7>", "\"none\"", "\"none\""], 7),
        (
            ["\"window\"", "\"grants\"", "\"all\"; portunus,map-quota = <1>"],
            2048 + 1,
        ),
        (["\"grants\"", "\"none\"", "\"grants\""], 0),
        (
            [
                "\"all\"; portunus,map-quota = <0xffffffff>",
                "\"none\"",
                "\"all\"; portunus,map-quota = <0xffffffff>",
            ],
            2 * 0xffff_ffff,
        ),
    ] {
        let manifest = manifest(access);
        let policy = Policy::new(&manifest);
        assert_eq!(policy.map_quota(BACKEND, GUEST), quota, "{access:?}");
        assert_eq!(policy.map_quota(GUEST, BACKEND), 0);
        assert_eq!(policy.map_quota(BACKEND, DomainId(17)), 0);
        let blob = tree(&manifest, BACKEND);
        let tree = Tree::new(&blob).expect("a tree");
        let told: u64 = (0..3)
            .filter_map(|device| {
                find(&tree, &format!("/portunus/device@{device}"))
                    .u32("map-quota")
                    .expect("a cell")
            })
            .map(u64::from)
            .sum();
        assert_eq!(told, quota, "{access:?}");
    }
}

#[test]
fn what_maps_has_tables_for_it() {
    let pool = |access| {
        let manifest = manifest(access);
        manifest.domain(BACKEND).expect("it").page_table_pool
    };
    let none = pool(["\"none\""; 3]);
    let window = pool(["\"none\"", "\"window\"", "\"none\""]);
    let grants = pool(["\"none\"", "\"grants\"", "\"none\""]);
    let all = pool(["\"none\"", "\"all\"", "\"window\""]);
    assert!(none < window && window < all, "{none} {window} {all}");
    assert_eq!(grants, all);
}
