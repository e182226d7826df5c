//! Frames that guest, backend and hypervisor share: every alias has the same memory type, whichever the CPUs allow.

#[path = "manifest_support/machines.rs"]
mod machines;
#[path = "manifest_support/source.rs"]
mod source;

use portunus::domain::builder::{self, Built, BuiltDomain, CpuLimits};
use portunus::fakes::{FakeMachine, Operation};
use portunus::ids::{DomainId, Ipa, PAGE_SIZE, Pa};
use portunus::manifest::{Host, Manifest, NoModules, Tree};
use portunus::memory::MemoryType;
use portunus::memory::uncached::{Caching, hypervisor_regions};
use portunus::range::PaRange;
use portunus::stage2::{Attributes, NewPage, PageUse, hardware_attributes};

const KERNEL: u64 = 0x5000_0000;
const BOTH: [Caching; 2] = [Caching::NonCacheable, Caching::ForcedWriteBack];

/// Two guests with three accelerated devices between them and one plain one, and who serves them.
fn chosen() -> String {
    let domain = |name: &str, more: &str| {
        format!(
            "{name}: {name} {{
                compatible = \"xen,domain\"; #address-cells = <2>; #size-cells = <2>; memory = <0 1024>; cpus = <1>;
                kernel {{ compatible = \"multiboot,kernel\", \"multiboot,module\"; reg = <0 {KERNEL:#x} 0 0x1000>; }};
                portunus,devices {{ {more} }};
            }};\n"
        )
    };
    let device = |name: &str, more: &str| {
        format!(
            "{name} {{ portunus,type = \"block\"; portunus,backend = <&dm>; portunus,memory-access = \"all\"; {more} }};"
        )
    };
    let first = device("a", "portunus,accel;") + &device("b", "") + &device("c", "portunus,accel;");
    let second = device("d", "portunus,accel;");
    "#address-cells = <2>; #size-cells = <2>;\n".to_string()
        + &domain("one", &first)
        + &domain("two", &second)
        + &domain("dm", "")
}

fn build(caching: Caching) -> (FakeMachine, Host, Built) {
    let blob = machines::machine(machines::VIRT, &chosen());
    let tree = Tree::new(&blob).expect("a tree");
    let host = Host::parse(&tree).expect("a machine");
    let manifest = Manifest::parse(&tree, &host, &NoModules).expect("a manifest");
    let machine = FakeMachine::new();
    host.memory
        .iter()
        .for_each(|bank| machine.add_memory(bank.start, bank.size));
    let mut kernel = vec![0; 4096];
    kernel[16..24].copy_from_slice(&0x1000_u64.to_le_bytes());
    kernel[24..32].copy_from_slice(&0xa_u64.to_le_bytes());
    kernel[56..60].copy_from_slice(b"ARM\x64");
    machine.poke(Pa(KERNEL), &kernel);
    let limits = CpuLimits {
        physical_bits: 40,
        vmid_16_bits: false,
        caching,
    };
    let built = builder::build(&machine, &host, &manifest, limits, None, |_, _| Ok(vec![0xdb; 64])).expect("room");
    assert_eq!(built.failed, []);
    (machine, host, built)
}

/// What the walker takes from the descriptor that maps `frame` for `page_use` in the domain's map.
fn alias(machine: &FakeMachine, domain: &mut BuiltDomain, frame: Pa, page_use: PageUse) -> Attributes {
    let ipa = Ipa(0x0200_0000);
    let page = NewPage { ipa, frame, page_use };
    machine.clear_log();
    domain.stage2.replace(machine, &mut domain.pool, page).expect("maps");
    let caching = domain.stage2.geometry().caching();
    let is_leaf = |value: u64| value & 0x0000_ffff_ffff_f000 == frame.0;
    let leaf = machine
        .take_log()
        .into_iter()
        .rev()
        .find_map(|operation| match operation {
            Operation::Store { value, .. } if is_leaf(value) => Some(value),
            _ => None,
        });
    hardware_attributes(leaf.expect("a descriptor"), caching).expect("attributes")
}

/// How the hypervisor maps `frame`.
fn own_alias(host: &Host, built: &Built, caching: Caching, frame: Pa) -> MemoryType {
    let regions = hypervisor_regions(host.memory.iter().copied(), built.uncached, caching);
    let mut found = regions
        .iter()
        .filter(|(range, _)| range.contains(PaRange::new(frame.0, PAGE_SIZE)));
    let (_, memory) = found.next().expect("it is mapped");
    assert_eq!(found.next(), None, "mapped once");
    *memory
}

#[test]
fn every_alias_of_every_shared_frame_has_the_same_memory_type() {
    for caching in BOTH {
        let (machine, host, mut built) = build(caching);
        let expected = caching.memory_type();
        let frames: Vec<(usize, Pa)> = built
            .domains
            .iter()
            .enumerate()
            .flat_map(|(index, domain)| domain.uncached.iter().flatten().map(move |frame| (index, *frame)))
            .collect();
        assert_eq!(frames.len(), 6, "two for each accelerated device");
        for (owner, frame) in frames {
            assert_eq!(own_alias(&host, &built, caching, frame), expected, "the hypervisor's");
            let guest = alias(
                &machine,
                &mut built.domains[owner],
                frame,
                PageUse::Uncached { writable: false },
            );
            let backend = alias(
                &machine,
                &mut built.domains[2],
                frame,
                PageUse::Uncached { writable: true },
            );
            assert_eq!(
                (guest.memory, guest.writable, guest.executable),
                (expected, false, false)
            );
            assert_eq!(
                (backend.memory, backend.writable, backend.executable),
                (expected, true, false)
            );
        }
    }
}

#[test]
fn ordinary_memory_stays_write_back_for_all() {
    for caching in BOTH {
        let (machine, host, mut built) = build(caching);
        let frame = built.domains[0].ram.pieces()[0].pa.start;
        assert_eq!(own_alias(&host, &built, caching, frame), MemoryType::WriteBack);
        let uses = [
            PageUse::Ram,
            PageUse::Foreign { writable: true },
            PageUse::Foreign { writable: false },
            PageUse::Shared { writable: true },
        ];
        for page_use in uses {
            let found = alias(&machine, &mut built.domains[1], frame, page_use);
            assert_eq!(found, page_use.attributes(caching));
            assert_eq!(found.memory, MemoryType::WriteBack);
        }
        let device = alias(&machine, &mut built.domains[1], frame, PageUse::Device);
        assert_eq!(device.memory, MemoryType::Device);
    }
}

#[test]
fn the_pool_is_nobodys_ram_and_each_frame_is_one_devices() {
    let (machine, _, built) = build(Caching::NonCacheable);
    let counts: Vec<usize> = built.domains.iter().map(|domain| domain.uncached.len()).collect();
    assert_eq!(counts, [2, 1, 0]);
    let mut frames = Vec::new();
    for domain in &built.domains {
        for frame in domain.uncached.iter().flatten() {
            assert!(built.uncached.contains(PaRange::new(frame.0, PAGE_SIZE)));
            assert_eq!(built.references.owner(*frame), Some(domain.id));
            assert_eq!(machine.peek(*frame, PAGE_SIZE as usize), [0; PAGE_SIZE as usize]);
            frames.push(*frame);
        }
        let own = domain
            .ram
            .pieces()
            .iter()
            .map(|piece| piece.pa)
            .chain([domain.pool.range()]);
        assert!(own.into_iter().all(|range| !range.overlaps(built.uncached)));
    }
    let count = frames.len();
    frames.sort_unstable();
    frames.dedup();
    assert_eq!(frames.len(), count);
    assert_eq!(built.uncached.size, count as u64 * PAGE_SIZE);
    let free = built.frames.free_ranges();
    assert!(
        free.iter().all(|range| !range.overlaps(built.uncached)),
        "handed out once"
    );
    assert_eq!(built.domains[2].id, DomainId(3));
}

#[test]
fn the_pool_reached_memory_before_it_left_the_caches() {
    let (machine, _, built) = build(Caching::NonCacheable);
    let pool = built.uncached;
    let log = machine.take_log();
    let zeroed = Operation::Zero {
        at: pool.start,
        length: pool.size,
    };
    let cleaned = Operation::CleanToCoherency {
        at: pool.start,
        length: pool.size,
    };
    let zeroed = log.iter().position(|operation| *operation == zeroed).expect("zeroed");
    let cleaned = log.iter().position(|operation| *operation == cleaned).expect("cleaned");
    assert!(zeroed < cleaned);
    let writes_there = |operation: &&Operation| {
        matches!(operation, Operation::Store { at, .. } | Operation::Write { at, .. } | Operation::Zero { at, .. }
            if pool.start <= *at && at.0 < pool.end())
    };
    assert_eq!(log[cleaned..].iter().find(writes_there), None);
}

#[test]
fn the_hypervisors_map_is_cut_around_the_pool_wherever_it_lies() {
    let range = PaRange::new;
    let bank = range(0x4000_0000, 0x10_0000);
    let back = MemoryType::WriteBack;
    let none = MemoryType::NonCacheable;
    let rows: [(PaRange, &[(PaRange, MemoryType)]); 6] = [
        (range(0, 0), &[(bank, back)]),
        (
            range(0x4000_0000, 0x2000),
            &[(range(0x4000_0000, 0x2000), none), (range(0x4000_2000, 0xf_e000), back)],
        ),
        (
            range(0x4008_0000, 0x2000),
            &[
                (range(0x4000_0000, 0x8_0000), back),
                (range(0x4008_0000, 0x2000), none),
                (range(0x4008_2000, 0x7_e000), back),
            ],
        ),
        (
            range(0x400f_e000, 0x2000),
            &[(range(0x4000_0000, 0xf_e000), back), (range(0x400f_e000, 0x2000), none)],
        ),
        (bank, &[(bank, none)]),
        (range(0x5000_0000, 0x2000), &[(bank, back)]),
    ];
    for (pool, expected) in rows {
        assert_eq!(
            hypervisor_regions([bank], pool, Caching::NonCacheable),
            expected,
            "{pool}"
        );
        let forced = hypervisor_regions([bank], pool, Caching::ForcedWriteBack);
        assert!(forced.iter().all(|(_, memory)| *memory == back), "{pool}");
    }
}
