//! Static shared memory: what a manifest may say, where it is, and what its domains' trees say.

#[path = "manifest_support/domains.rs"]
mod domains;
#[path = "manifest_support/machines.rs"]
mod machines;
#[path = "manifest_support/source.rs"]
mod source;

use domains::{DOMAINS, PARTIAL, read};
use machines::VIRT;
use portunus::domain::builder::{self, BuildError, CpuLimits};
use portunus::fakes::{FakeMachine, Operation};
use portunus::ids::{DomainId, Ipa, PAGE_SIZE, Pa};
use portunus::manifest::tree::Tree;
use portunus::manifest::{GuestTree, Host, Manifest, ManifestError, SharedMemory};
use portunus::memory::frames::FrameError;
use portunus::memory::uncached::Caching;
use portunus::policy::{Policy, Report};
use portunus::range::{IpaRange, PaRange};
use portunus::stage2::PageUse;

const MIB: u64 = 1 << 20;
const HOST: &str = "0 0x60000000";

/// A node of shared memory. `place` is the machine's address, or nothing.
fn node(id: &str, place: &str, guest: &str, size: &str, more: &str) -> String {
    format!(
        "shm-{id} {{ compatible = \"xen,domain-shared-memory-v1\"; xen,shm-id = \"{id}\"; \
         xen,shared-mem = <{place} {guest} {size}>; {more} }};"
    )
}

/// The usual domains, with these nodes in domU1, dm and other.
fn with(nodes: [&str; 3]) -> Result<(Host, Manifest), ManifestError> {
    let [guest, backend, other] = nodes;
    let domains = DOMAINS
        .replacen("vcpu0 {", &format!("{guest} vcpu0 {{"), 1)
        .replacen("chan1: ec0 {", &format!("{backend} chan1: ec0 {{"), 1)
        .replacen("zimage@58000000 {", &format!("{other} zimage@58000000 {{"), 1);
    read(VIRT, &domains, PARTIAL)
}

/// A region of domU1, dm, which is direct-mapped, and other, whose cells are single.
fn usual() -> [String; 3] {
    [
        node(
            "ring-buffer-one",
            HOST,
            "0 0x60000000",
            "0 0x400000",
            "role = \"owner\";",
        ),
        node("ring-buffer-one", HOST, HOST, "0 0x400000", "role = \"borrower\";"),
        node("ring-buffer-one", "0x60000000", "0x50000000", "0x400000", ""),
    ]
}

fn usual_manifest() -> (Host, Manifest) {
    let nodes = usual();
    with([&nodes[0], &nodes[1], &nodes[2]]).expect("a manifest")
}

#[test]
fn a_region_is_one_for_all_who_name_it_each_at_an_address_of_its_own() {
    let (host, manifest) = usual_manifest();
    let size = 4 * MIB;
    let place = PaRange::new(0x6000_0000, size);
    let at = |start| IpaRange::new(start, size);
    assert_eq!(
        manifest.shared_memory,
        [SharedMemory {
            id: "ring-buffer-one".to_string(),
            size,
            host: Some(place),
            users: vec![
                (DomainId(1), at(0x6000_0000)),
                (DomainId(2), at(0x6000_0000)),
                (DomainId(3), at(0x5000_0000)),
            ],
        }]
    );
    let policy = Policy::new(&manifest);
    let report = Report {
        host: &host,
        manifest: &manifest,
        policy: &policy,
    };
    let line = "shared memory ring-buffer-one: 4096 KiB at 0x60000000..0x60400000 of the machine, \
                domU1 at 0x60000000..0x60400000, dm at 0x60000000..0x60400000, other at 0x50000000..0x50400000";
    assert!(report.to_string().lines().any(|found| found == line), "{report}");
}

#[test]
fn mappings_of_other_domains_find_no_room_in_it() {
    let (_, manifest) = usual_manifest();
    // `other` has 1 MiB of RAM and a /hypervisor node.
    assert_eq!(
        manifest.domains[2].layout.extended_regions,
        [
            IpaRange::new(0x4800_0000, 0x800_0000),
            IpaRange::new(0x5800_0000, 0xa800_0000),
            IpaRange::new(0x2_0000_0000, 32 << 30),
        ]
    );
    for (guest, size, low) in [
        // At the start, across a boundary, all of it, and elsewhere.
        ("0x48000000", "0x1000", vec![IpaRange::new(0x5000_0000, 0xb000_0000)]),
        ("0x4ffff000", "0x2000", vec![IpaRange::new(0x5800_0000, 0xa800_0000)]),
        ("0xff000000", "0x1000000", vec![IpaRange::new(0x4800_0000, 0xb000_0000)]),
        (
            "0x48000000",
            "0x70000000",
            vec![IpaRange::new(0xb800_0000, 0x4800_0000)],
        ),
        ("0x10000000", "0x1000", vec![IpaRange::new(0x4800_0000, 0xb800_0000)]),
    ] {
        let node = node("a", "", guest, size, "");
        let (_, manifest) = with(["", "", &node]).unwrap_or_else(|error| panic!("{guest}: {error}"));
        let mut wanted = low;
        wanted.push(IpaRange::new(0x2_0000_0000, 32 << 30));
        assert_eq!(manifest.domains[2].layout.extended_regions, wanted, "{guest} {size}");
    }
}

#[test]
fn a_guests_tree_has_it_as_xen_writes_it() {
    let (_, manifest) = usual_manifest();
    let memory: Vec<_> = manifest
        .domains
        .iter()
        .map(|domain| domain.layout.memory.clone())
        .collect();
    for (domain, start) in [(1, 0x6000_0000_u64), (2, 0x6000_0000), (3, 0x5000_0000)] {
        let tree = GuestTree {
            manifest: &manifest,
            domain: DomainId(domain),
            memory: &memory,
            ramdisk: None,
            timer_frequency: None,
            seeds: false,
        };
        let blob = tree.build().expect("a tree");
        let tree = Tree::new(&blob).expect("a tree");
        let node = tree
            .find(&format!("/reserved-memory/xen-shmem@{start:x}"))
            .expect("a node");
        assert!(node.parent().expect("a parent").has("ranges"));
        assert_eq!(node.strings("compatible").collect::<Vec<_>>(), ["xen,shared-memory-v1"]);
        assert_eq!(node.rows("reg", [2, 2]), Ok(vec![[start, 4 * MIB]]));
        assert_eq!(node.string("xen,id"), Ok(Some("ring-buffer-one")));
        assert_eq!(node.rows("xen,offset", [2]), Ok(vec![[0]]));
        let root = tree.find("/").expect("a root");
        let banks = root.children().find(|node| node.name().starts_with("memory@"));
        let banks = banks.expect("memory").rows("reg", [2, 2]).expect("rows");
        assert_eq!(
            banks.last(),
            Some(&[start, 4 * MIB]),
            "{domain}: Xen lists it as memory"
        );
    }
}

#[test]
fn the_wrong_words_are_refused() {
    let good = |more: &str| node("a", HOST, "0 0x60000000", "0 0x1000", more);
    let at = |place: &str, guest: &str, size: &str| node("a", place, guest, size, "");
    let same = "/chosen/domU1/shm-a: xen,shared-mem: ";
    let rows = [
        (
            good("role = \"lender\";"),
            "/chosen/domU1/shm-a: role: has the unknown value \"lender\"".to_string(),
        ),
        (
            good("xen,size = <1>;"),
            "/chosen/domU1/shm-a: xen,size: is not supported: an unknown property".to_string(),
        ),
        (
            at("0 0x60000800", "0 0x60000000", "0 0x1000"),
            format!("{same}has 0x60000800, which is no multiple of 0x1000"),
        ),
        (
            at(HOST, "0 0x60000001", "0 0x1000"),
            format!("{same}has 0x60000001, which is no multiple of 0x1000"),
        ),
        (
            at(HOST, "0 0x60000000", "0 0x1800"),
            format!("{same}has 0x1800, which is no multiple of 0x1000"),
        ),
        (at(HOST, "0 0x60000000", "0 0"), format!("{same}is zero")),
        (
            at(HOST, "0 0x60000000", "0"),
            format!("{same}has a length of 20 bytes, which its type can't have"),
        ),
        (
            at("", "", "0 0x1000"),
            format!("{same}has a length of 8 bytes, which its type can't have"),
        ),
        (
            at(HOST, "0xffffffff 0xfffff000", "0 0x2000"),
            format!("{same}runs past the end of the address space: 0xfffffffffffff000..0xffffffffffffffff"),
        ),
        (
            at("0xffffffff 0xfffff000", "0 0x60000000", "0 0x2000"),
            format!("{same}runs past the end of the address space: 0xfffffffffffff000..0xffffffffffffffff"),
        ),
        (
            at(HOST, "0x100 0", "0 0x1000"),
            format!("{same}is 1099511631872, more than the limit of 1099511627776"),
        ),
        (
            at("0 0x30000000", "0 0x60000000", "0 0x1000"),
            format!("{same}is not in RAM: 0x30000000..0x30001000"),
        ),
        (
            at("0 0xbffff000", "0 0x60000000", "0 0x2000"),
            format!("{same}is not in RAM: 0xbffff000..0xc0001000"),
        ),
        (
            at("", "0 0x60000000", "0 0x80001000"),
            format!("{same}is 2147487744, more than the limit of 2147483648"),
        ),
        (
            at(HOST, "0 0x40000000", "0 0x1000"),
            format!("{same}is at 0x40000000..0x40001000, where RAM is"),
        ),
        (
            at(HOST, "0 0x3001000", "0 0x1000"),
            format!("{same}is at 0x3001000..0x3002000, where the interrupt controller is"),
        ),
        (
            at(HOST, "0 0x38000000", "0 0x1000"),
            format!("{same}is at 0x38000000..0x38001000, where the grant window is"),
        ),
        (
            at(HOST, "0 0x2000000", "0 0x1000"),
            format!("{same}is at 0x2000000..0x2001000, where the virtio window is"),
        ),
        (
            at("0 0x50000000", "0 0x60000000", "0 0x1000"),
            format!("{same}takes 0x50000000..0x50001000, which belongs to a module of domU1"),
        ),
        (
            at("0 0x73fff000", "0 0x60000000", "0 0x1000"),
            "/chosen/dm: xen,static-mem: takes 0x70000000..0x74000000, which belongs to shared memory a".to_string(),
        ),
        (
            good("").replace("\"a\"", "\"\""),
            "/chosen/domU1/shm-a: xen,shm-id: has a length of 1 bytes, which its type can't have".to_string(),
        ),
        (
            good("").replace("\"a\"", "\"sixteen-letters!\""),
            "/chosen/domU1/shm-a: xen,shm-id: has a length of 17 bytes, which its type can't have".to_string(),
        ),
        (
            good("").replace("xen,shm-id = \"a\";", ""),
            "/chosen/domU1/shm-a: xen,shm-id: is missing".to_string(),
        ),
        (
            good("").replace("-memory-v1", "-memory-v2"),
            "/chosen/domU1/shm-a: compatible: is not supported: xen,shared-mem in another node".to_string(),
        ),
        (
            good("") + &good("").replace("shm-a", "shm-b"),
            "/chosen/domU1/shm-b: xen,shm-id: repeats a".to_string(),
        ),
        (
            good("") + &node("b", "0 0x61000000", "0 0x60000000", "0 0x1000", ""),
            "/chosen/domU1/shm-b: xen,shared-mem: is at 0x60000000..0x60001000, where shared memory is".to_string(),
        ),
        (
            good("") + &node("b", HOST, "0 0x70000000", "0 0x1000", ""),
            "/chosen/domU1/shm-b: xen,shared-mem: takes 0x60000000..0x60001000, which belongs to shared memory a"
                .to_string(),
        ),
    ];
    for (node, error) in rows {
        match with([&node, "", ""]) {
            Ok(_) => panic!("accepted: {node}"),
            Err(found) => assert_eq!(found.to_string(), error, "{node}"),
        }
    }
}

#[test]
fn nodes_of_one_id_that_do_not_fit_each_other_are_refused() {
    let [guest, backend, other] = usual();
    let differs = "xen,shared-mem: differs from what another node says of ring-buffer-one";
    let rows = [
        ([guest.as_str(), "", &other.replace("0x400000", "0x200000")], format!("/chosen/other@3/shm-ring-buffer-one: {differs}")),
        ([&guest, "", &other.replace("<0x60000000", "<0x61000000")], format!("/chosen/other@3/shm-ring-buffer-one: {differs}")),
        // One says where, the other leaves it open.
        ([&guest, "", &other.replace("<0x60000000", "<")], format!("/chosen/other@3/shm-ring-buffer-one: {differs}")),
        (
            [&guest, &backend.replace("borrower", "owner"), ""],
            "/chosen/dm/shm-ring-buffer-one: role: repeats the owner of ring-buffer-one".to_string(),
        ),
        // A direct-mapped domain sees it where the machine has it.
        (
            ["", &backend.replace("0x60000000 0 0x60000000", "0x60000000 0 0x61000000"), ""],
            "/chosen/dm/shm-ring-buffer-one: xen,shared-mem: is at 0x61000000 for the guest, but direct-map needs 0x60000000".to_string(),
        ),
        (
            ["", &backend.replace("0 0x60000000 0 0x60000000", "0 0x60000000"), ""],
            "/chosen/dm/shm-ring-buffer-one: xen,shared-mem: is not supported: direct-map without the machine's address of shared memory".to_string(),
        ),
    ];
    for (nodes, error) in rows {
        match with(nodes) {
            Ok(_) => panic!("accepted: {nodes:?}"),
            Err(found) => assert_eq!(found.to_string(), error, "{nodes:?}"),
        }
    }
}

#[test]
fn a_domain_has_no_more_than_thirty_two() {
    let nodes = |count: u64| -> String {
        let one = |number: u64| {
            node(
                &format!("r{number}"),
                "",
                &format!("0 {:#x}", 0x6000_0000 + number * 0x1000),
                "0 0x1000",
                "",
            )
        };
        (0..count).map(one).collect()
    };
    assert!(with([&nodes(32), "", ""]).is_ok());
    assert_eq!(
        with([&nodes(33), "", ""]).unwrap_err().to_string(),
        "/chosen/domU1/shm-r32: is 33, more than the limit of 32"
    );
}

/// An arm64 Image that is all header.
fn kernel() -> Vec<u8> {
    let mut file = vec![0; 4096];
    file[16..24].copy_from_slice(&0x1000_u64.to_le_bytes());
    file[24..32].copy_from_slice(&0xa_u64.to_le_bytes());
    file[56..60].copy_from_slice(b"ARM\x64");
    file
}

const LIMITS: CpuLimits = CpuLimits {
    physical_bits: 40,
    vmid_16_bits: false,
    caching: Caching::NonCacheable,
};

fn machine(host: &Host, manifest: &mut Manifest) -> FakeMachine {
    let machine = FakeMachine::new();
    for bank in &host.memory {
        machine.add_memory(bank.start, bank.size);
    }
    for domain in &mut manifest.domains {
        domain.modules.ramdisk = None;
        if let Some(kernel_at) = domain.modules.kernel {
            machine.poke(kernel_at.range.start, &kernel());
        }
    }
    machine
}

#[test]
fn all_have_the_same_frames_which_nobody_owns_and_which_hold_zeroes() {
    for place in [HOST, ""] {
        let other = place.trim_start_matches("0 ");
        let nodes = [
            node("a", place, "0 0x60000000", "0 0x400000", ""),
            node("b", place, "0 0x61000000", "0 0x1000", "").replace("0x60000000 0 0x61", "0x61000000 0 0x61"),
            node("a", other, "0x50000000", "0x400000", ""),
        ];
        let (host, mut manifest) = with([&(nodes[0].clone() + &nodes[1]), "", &nodes[2]]).expect("a manifest");
        let machine = machine(&host, &mut manifest);
        machine.clear_log();
        let built = builder::build(&machine, &host, &manifest, LIMITS, None, |_, _| Ok(vec![0xdb; 64])).expect("room");
        assert_eq!(built.failed, []);
        let at = |domain: usize, ipa: u64| {
            built.domains[domain]
                .stage2
                .lookup(&machine, Ipa(ipa))
                .unwrap_or_else(|| panic!("nothing at {ipa:#x}"))
        };
        let first = at(0, 0x6000_0000);
        if !place.is_empty() {
            assert_eq!(first.pa, Pa(0x6000_0000));
        }
        assert_eq!((first.page_use, first.size), (PageUse::Common, 2 * MIB), "by blocks");
        assert_eq!(at(2, 0x5000_0000).pa, first.pa);
        assert_eq!(at(2, 0x503f_f000).pa, Pa(first.pa.0 + 0x3f_f000));
        let second = at(0, 0x6100_0000);
        assert_eq!((second.page_use, second.size), (PageUse::Common, PAGE_SIZE));
        assert!(built.domains[2].stage2.lookup(&machine, Ipa(0x6100_0000)).is_none());
        assert!(built.domains[1].stage2.lookup(&machine, Ipa(first.pa.0)).is_none());
        let log = machine.take_log();
        for (frame, size) in [(first.pa, 4 * MIB), (second.pa, PAGE_SIZE)] {
            let range = PaRange::new(frame.0, size);
            assert_eq!(built.references.owner(frame), None);
            assert!(built.frames.free_ranges().iter().all(|free| !free.overlaps(range)));
            for domain in &built.domains {
                let own = domain
                    .ram
                    .pieces()
                    .iter()
                    .map(|piece| piece.pa)
                    .chain([domain.pool.range()]);
                assert!(own.into_iter().all(|own| !own.overlaps(range)));
            }
            let position = |wanted: &Operation| log.iter().position(|operation| operation == wanted);
            let zeroed = position(&Operation::Zero {
                at: frame,
                length: size,
            });
            let cleaned = position(&Operation::CleanToCoherency {
                at: frame,
                length: size,
            });
            assert!(zeroed.is_some() && zeroed < cleaned, "{range}");
            assert!(machine.peek(frame, size as usize).iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn a_region_without_room_keeps_those_who_share_it_from_being_built_and_no_others() {
    let nodes = [
        node("a", "", "0 0x60000000", "0 0x7fff0000", ""),
        node("a", "", "0x48000000", "0x7fff0000", ""),
    ];
    let (host, mut manifest) = with([&nodes[0], "", &nodes[1]]).expect("a manifest");
    let machine = machine(&host, &mut manifest);
    let built = builder::build(&machine, &host, &manifest, LIMITS, None, |_, _| Ok(vec![0xdb; 64])).expect("room");
    let error = BuildError::SharedMemory("a".to_string(), FrameError::Exhausted(0x7fff_0000));
    assert_eq!(built.failed, [(DomainId(1), error.clone()), (DomainId(3), error)]);
    assert_eq!(built.domains.len(), 1);
}
