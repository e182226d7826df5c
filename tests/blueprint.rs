//! Domains whose memory is made again: the same as the first time but for what must differ, in steps that keep to their
//! budget, and whatever has become of the modules.

use std::alloc::{GlobalAlloc, Layout as AllocationLayout, System};
use std::cell::Cell;
use std::sync::Mutex;

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use portunus::domain::blueprint::{Blueprint, Fresh, ImagingError, Start, Step};
use portunus::domain::builder::{self, BuildError, Built, CpuLimits};
use portunus::domain::image::ImageError;
use portunus::domain::imaging::Budget;
use portunus::entropy::{Entropy, Seeds};
use portunus::fakes::FakeMachine;
use portunus::ids::{DomainId, PAGE_SIZE, Pa};
use portunus::manifest::guest_tree::fresh::FreshValues;
use portunus::manifest::modules::Module;
use portunus::manifest::{Host, Manifest, ModuleReader, NoModules, Tree};
use portunus::memory::{Contended, PhysicalMemory};
use portunus::range::{IpaRange, PaRange};

#[path = "manifest_support/machines.rs"]
mod machines;
#[path = "manifest_support/source.rs"]
mod source;

const MIB: u64 = 1 << 20;
const MEMORY: u64 = 0x4000_0000;
const MEMORY_SIZE: u64 = 20 * MIB;
/// Each domain's RAM.
const RAM: u64 = 3 * MIB;
const KERNEL: u64 = 0x4040_0000;
const RAMDISK: u64 = 0x4060_0000;
const NEIGHBOUR: u64 = 0x4070_0000;

/// Counts what this thread allocates.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: AllocationLayout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: AllocationLayout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Memory that counts the bytes that are read, written, zeroed, cleaned and made executable.
struct Counted {
    bytes: Mutex<Vec<u8>>,
    work: Mutex<u64>,
}

impl Counted {
    fn all(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
    fn poke(&self, at: u64, bytes: &[u8]) {
        let start = (at - MEMORY) as usize;
        self.bytes.lock().unwrap()[start..start + bytes.len()].copy_from_slice(bytes);
    }
    fn work(&self) -> u64 {
        std::mem::take(&mut self.work.lock().unwrap())
    }
    /// Panics when the range is not all in memory.
    fn touch<R>(&self, at: Pa, length: u64, with: impl FnOnce(&mut [u8]) -> R) -> R {
        *self.work.lock().unwrap() += length;
        let start = (at.0 - MEMORY) as usize;
        with(&mut self.bytes.lock().unwrap()[start..start + length as usize])
    }
}

impl PhysicalMemory for Counted {
    fn read(&self, at: Pa, into: &mut [u8]) {
        self.touch(at, into.len() as u64, |bytes| into.copy_from_slice(bytes));
    }
    fn write(&self, at: Pa, from: &[u8]) {
        self.touch(at, from.len() as u64, |bytes| bytes.copy_from_slice(from));
    }
    fn zero(&self, at: Pa, length: u64) {
        self.touch(at, length, |bytes| bytes.fill(0));
    }
    fn clean_to_coherency(&self, at: Pa, length: u64) {
        self.touch(at, length, |_| ());
    }
    fn synchronise_instructions(&self, at: Pa, length: u64) {
        self.touch(at, length, |_| ());
    }
    fn load_u8(&self, _at: Pa) -> u8 {
        unreachable!("files are copied")
    }
    fn load_u32(&self, _at: Pa) -> u32 {
        unreachable!("files are copied")
    }
    fn load_u64(&self, _at: Pa) -> u64 {
        unreachable!("files are copied")
    }
    fn store_u8(&self, _at: Pa, _value: u8) {
        unreachable!("files are copied")
    }
    fn store_u32(&self, _at: Pa, _value: u32) {
        unreachable!("files are copied")
    }
    fn store_u64(&self, _at: Pa, _value: u64) {
        unreachable!("files are copied")
    }
    fn try_compare_exchange_u32(&self, _at: Pa, _current: u32, _new: u32) -> Result<u32, Contended> {
        unreachable!("files are copied")
    }
    fn try_compare_exchange_u64(&self, _at: Pa, _current: u64, _new: u64) -> Result<u64, Contended> {
        unreachable!("files are copied")
    }
}

/// Bytes that neither repeat nor compress well.
fn noise(length: usize, mut state: u64) -> Vec<u8> {
    let word = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as u32).to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(word).take(length / 4 + 1).flatten().collect();
    bytes.truncate(length);
    bytes
}

/// An arm64 Image: half of it compresses, half does not.
fn image(length: usize) -> Vec<u8> {
    let mut file = noise(length / 2, 5);
    file.extend((0..length - length / 2).map(|index| (index / 100) as u8));
    file[..64].fill(0);
    file[16..24].copy_from_slice(&(2 * MIB).to_le_bytes());
    file[24..32].copy_from_slice(&0xa_u64.to_le_bytes());
    file[56..60].copy_from_slice(b"ARM\x64");
    file
}

/// A gzip file with a name, in pieces small enough for a chain of blocks.
fn gzip(content: &[u8]) -> Vec<u8> {
    let crc = !content.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 != 0 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    });
    let mut file = vec![0x1f, 0x8b, 8, 1 << 3, 0, 0, 0, 0, 0, 3];
    file.extend_from_slice(&[b'x'; 1500]);
    file.push(0);
    file.extend(miniz_oxide::deflate::compress_to_vec(content, 6));
    file.extend(crc.to_le_bytes());
    file.extend((content.len() as u32).to_le_bytes());
    file
}

/// An executable of two segments whose file ends with the second; `kind` is 2 for one that has a place, 3 for any.
fn elf(kind: u16, base: u64) -> Vec<u8> {
    let mut file = noise(0x5_1000, 9);
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header.extend(kind.to_le_bytes());
    header.extend(183_u16.to_le_bytes());
    header.extend(1_u32.to_le_bytes());
    header.extend((base + 0x40).to_le_bytes());
    header.extend(64_u64.to_le_bytes());
    header.extend([0; 12]);
    for half in [64_u16, 56, 2, 0, 0, 0] {
        header.extend(half.to_le_bytes());
    }
    for (offset, at, file_size, memory_size) in [(0x1000, 0, 0x2_0000, 0x2_0000), (0x2_1000, 0x4_0000, 0x3_0000, MIB)] {
        header.extend(1_u32.to_le_bytes());
        header.extend(7_u32.to_le_bytes());
        let fields: [u64; 6] = [offset, base + at, base + at, file_size, memory_size, 4096];
        fields.iter().for_each(|field| header.extend(field.to_le_bytes()));
    }
    file[..header.len()].copy_from_slice(&header);
    file
}

/// Every kind of kernel, by name.
fn kernels() -> [(&'static str, Vec<u8>); 4] {
    [
        ("Image", image(0x6_0000 + 77)),
        ("gzip", gzip(&image(0x6_0000 + 77))),
        ("executable", elf(2, 0x4010_0000)),
        ("position-independent executable", elf(3, 0)),
    ]
}

/// A tree with room for what differs, and `more` bytes of something else.
fn tree(more: usize) -> Vec<u8> {
    let mut tree = DeviceTree::new();
    let mut chosen = DeviceTreeNode::new_unchecked("chosen");
    for (name, size) in [("kaslr-seed", 8), ("portunus,restarts", 4), ("rng-seed", 32)] {
        chosen.add_property(DeviceTreeProperty::new_unchecked(name, vec![0_u8; size]));
    }
    let mut filler = DeviceTreeNode::new_unchecked("filler");
    filler.add_property(DeviceTreeProperty::new_unchecked("bytes", noise(more, 3)));
    tree.root.add_child(filler);
    tree.root.add_child(chosen);
    tree.to_dtb()
}

fn entropy() -> Option<Entropy> {
    Entropy::gather([b"a test".as_slice()])
}

/// What a domain is made of.
#[derive(Clone)]
struct Parts {
    kernel: Vec<u8>,
    ramdisk: Vec<u8>,
    tree: Vec<u8>,
}

fn parts(kernel: Vec<u8>) -> Parts {
    Parts {
        kernel,
        ramdisk: noise(300_001, 7),
        tree: tree(70_000),
    }
}

/// A machine with the domain and a neighbour in it.
struct Bench {
    memory: Counted,
    blueprint: Blueprint,
    /// The domain's RAM in the machine.
    ram: Vec<PaRange>,
    device_tree: IpaRange,
    parts: Parts,
}

fn build(parts: &Parts, entropy: Option<Entropy>) -> (FakeMachine, Built) {
    let machine = FakeMachine::new();
    machine.add_memory(Pa(MEMORY), MEMORY_SIZE);
    let chosen = r#"
        #address-cells = <2>; #size-cells = <2>;
        one { compatible = "xen,domain"; #address-cells = <2>; #size-cells = <2>; memory = <0 3072>; cpus = <1>;
            kernel { compatible = "multiboot,kernel", "multiboot,module"; reg = <0 0x41000000 0 0x1000>; }; };
        two { compatible = "xen,domain"; #address-cells = <2>; #size-cells = <2>; memory = <0 3072>; cpus = <1>;
            kernel { compatible = "multiboot,kernel", "multiboot,module"; reg = <0 0x42000000 0 0x1000>; }; };
    "#;
    let blob = machines::machine(machines::VIRT, chosen);
    let tree = Tree::new(&blob).expect("a tree");
    let mut host = Host::parse(&tree).expect("a machine");
    let modules: &dyn ModuleReader = &NoModules;
    let mut manifest = Manifest::parse(&tree, &host, modules).expect("a manifest");
    host.memory = vec![PaRange::new(MEMORY, MEMORY_SIZE)];
    host.reserved = vec![PaRange::new(MEMORY, MIB)];
    let module = |at: u64, bytes: &[u8]| {
        machine.poke(Pa(at), bytes);
        let range = PaRange::new(at, bytes.len() as u64);
        Some(Module { range })
    };
    let [one, two] = &mut manifest.domains[..] else {
        panic!("two domains")
    };
    one.modules.kernel = module(KERNEL, &parts.kernel);
    one.modules.ramdisk = module(RAMDISK, &parts.ramdisk);
    two.modules.kernel = module(NEIGHBOUR, &image(0x1_0000));
    let limits = CpuLimits {
        physical_bits: 40,
        vmid_16_bits: false,
        caching: portunus::memory::uncached::Caching::NonCacheable,
    };
    let built = builder::build(&machine, &host, &manifest, limits, entropy, |_, _| {
        Ok(parts.tree.clone())
    });
    (machine, built.expect("room"))
}

fn bench(parts: Parts) -> Bench {
    let (machine, built) = build(&parts, entropy());
    assert_eq!(built.failed, []);
    let domain = built.domains.into_iter().next().expect("a domain");
    Bench {
        memory: Counted {
            bytes: Mutex::new(machine.peek(Pa(MEMORY), MEMORY_SIZE as usize)),
            work: Mutex::new(0),
        },
        ram: domain.ram.pieces().iter().map(|piece| piece.pa).collect(),
        device_tree: domain.device_tree,
        blueprint: domain.blueprint,
        parts,
    }
}

impl Bench {
    fn ram(&self) -> Vec<u8> {
        let all = self.memory.all();
        let part = |range: &PaRange| &all[(range.start.0 - MEMORY) as usize..][..range.size as usize];
        self.ram.iter().flat_map(part).copied().collect()
    }
    /// All that is not the domain's RAM.
    fn others(&self) -> Vec<u8> {
        let mut all = self.memory.all();
        for range in &self.ram {
            all[(range.start.0 - MEMORY) as usize..][..range.size as usize].fill(0);
        }
        all
    }
    fn spoil(&self, seed: u64) {
        for range in &self.ram {
            let page = noise(PAGE_SIZE as usize, seed);
            self.memory
                .poke(range.start.0, &page.repeat((range.size / PAGE_SIZE) as usize));
        }
    }
    /// Begins and runs to the end; no step works on more bytes than its budget has. How it starts, and how many steps.
    fn image(&mut self, fresh: Fresh, budget: u64) -> Result<(Start, u64), ImagingError> {
        self.blueprint.begin(fresh)?;
        for steps in 1..1_000_000 {
            self.memory.work();
            let step = self.blueprint.step(&self.memory, Budget::new(budget))?;
            let work = self.memory.work();
            assert!(
                work <= budget.max(Budget::LEAST),
                "{work} bytes with a budget of {budget}"
            );
            if let Step::Done(start) = step {
                return Ok((start, steps));
            }
        }
        panic!("a million steps are not enough")
    }
}

fn fresh(restarts: u32) -> Fresh {
    let mut entropy = Entropy::gather([restarts.to_le_bytes().as_slice(), b"and"]).expect("a source");
    Fresh {
        restarts,
        seeds: Some(entropy.seeds()),
    }
}

#[test]
fn a_domain_made_again_out_of_noise_is_as_at_first_but_for_seeds_and_count() {
    for (name, kernel) in kernels() {
        let mut bench = bench(parts(kernel));
        let (first, others, start) = (bench.ram(), bench.others(), bench.blueprint.start());
        for restarts in [1, 2] {
            bench.spoil(restarts.into());
            let given = fresh(restarts);
            assert_eq!(bench.image(given.clone(), Budget::STEP).expect(name).0, start);
            // RAM is one piece at guest address 0x40000000.
            let mut expected = first.clone();
            let tree = &mut expected[(bench.device_tree.start.0 - 0x4000_0000) as usize..];
            let values = FreshValues::find(&bench.parts.tree);
            let mut put = |offset: Option<u32>, bytes: &[u8]| {
                let value = &mut tree[offset.expect("room") as usize..][..bytes.len()];
                assert_ne!(value, bytes, "{name}: as the last time");
                value.copy_from_slice(bytes);
            };
            let seeds = given.seeds.expect("seeds");
            put(values.kaslr_seed, &seeds.kaslr.to_be_bytes());
            put(values.rng_seed, &seeds.rng);
            put(values.restarts, &restarts.to_be_bytes());
            assert!(bench.ram() == expected, "{name}, restart {restarts}");
            assert!(bench.others() == others, "{name}: nothing else is touched");
        }
    }
}

#[test]
fn the_first_start_has_seeds_of_the_generator_and_a_count_of_zero() {
    let bench = bench(parts(image(0x1_0000)));
    let ram = bench.ram();
    let tree = &ram[(bench.device_tree.start.0 - 0x4000_0000) as usize..][..bench.parts.tree.len()];
    let tree = Tree::new(tree).expect("a tree");
    let chosen = tree.find("/chosen").expect("/chosen");
    assert_eq!(chosen.u32("portunus,restarts"), Ok(Some(0)));
    let Seeds { kaslr, rng } = entropy().expect("a source").seeds();
    assert_eq!(chosen.property("kaslr-seed"), Some(kaslr.to_be_bytes().as_slice()));
    assert_eq!(chosen.property("rng-seed"), Some(rng.as_slice()));
}

#[test]
fn steps_of_any_length_end_at_the_same_memory() {
    for (name, kernel) in kernels() {
        let mut bench = bench(parts(kernel));
        let mut expected = None;
        // Each step moves at most one byte for each of its budget, and there are at least as many bytes as the RAM has twice.
        for budget in [u64::MAX, Budget::STEP, 65_537, 20_011, Budget::LEAST, 1, 0] {
            bench.spoil(budget | 1);
            let (_, steps) = bench.image(fresh(3), budget).expect(name);
            let least = 2 * RAM / budget.max(Budget::LEAST);
            assert!(steps >= least, "{name}: {steps} steps with a budget of {budget}");
            let ram = bench.ram();
            assert!(
                *expected.get_or_insert_with(|| ram.clone()) == ram,
                "{name}, budget {budget}"
            );
        }
    }
}

#[test]
fn making_a_domain_again_allocates_nothing() {
    for (name, kernel) in kernels() {
        let mut bench = bench(parts(kernel));
        bench.spoil(1);
        let given = fresh(1);
        let before = ALLOCATIONS.with(Cell::get);
        bench.image(given, Budget::STEP).expect(name);
        assert_eq!(ALLOCATIONS.with(Cell::get), before, "{name}");
    }
}

#[test]
fn imaging_that_is_given_up_can_begin_again_at_any_step() {
    let mut bench = bench(parts(gzip(&image(0x4_0000))));
    bench.image(fresh(2), Budget::STEP).expect("images");
    let expected = bench.ram();
    for steps in (1..100).step_by(7) {
        bench.spoil(steps);
        bench.blueprint.begin(fresh(1)).expect("seeds");
        for _ in 0..steps {
            bench
                .blueprint
                .step(&bench.memory, Budget::new(Budget::STEP))
                .expect("a step");
        }
        bench.image(fresh(2), Budget::STEP).expect("images");
        assert!(bench.ram() == expected, "given up after {steps} steps");
    }
}

#[test]
fn a_tree_with_room_for_seeds_is_refused_when_there_are_none() {
    let (_, built) = build(&parts(image(0x1_0000)), None);
    let refused = |id| (DomainId(id), BuildError::NoSeeds);
    assert_eq!(built.failed, [refused(1), refused(2)]);
    let kept = built.frames.free_bytes();

    let mut without = parts(image(0x1_0000));
    without.tree = vec![0xdb; 5000];
    let (_, built) = build(&without, None);
    assert_eq!(built.failed, []);
    let given: u64 = built
        .domains
        .iter()
        .map(|domain| domain.ram.size() + domain.pool.range().size)
        .sum();
    // What the account of frames takes is the same in both.
    assert_eq!(kept - built.frames.free_bytes(), given + 2 * 2 * PAGE_SIZE);

    let mut bench = bench(parts(image(0x1_0000)));
    let before = bench.memory.all();
    let none = Fresh {
        restarts: 1,
        seeds: None,
    };
    assert_eq!(bench.image(none, Budget::STEP).map(|_| ()), Err(ImagingError::NoSeeds));
    assert!(bench.memory.all() == before);
}

#[test]
fn a_module_that_is_no_longer_what_it_was_gives_an_error_that_says_so() {
    let changed = ImagingError::Kernel(ImageError::Changed);
    let [(_, plain), (_, packed), (_, executable), _] = kernels();
    let with = |file: &[u8], at: usize, bytes: &[u8]| {
        let mut file = file.to_vec();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let end = packed.len();
    let crc = u32::from_le_bytes(packed[end - 8..end - 4].try_into().unwrap());
    let checksum = ImageError::Checksum {
        expected: crc ^ 1,
        found: crc,
    };
    // The kernel, what is in its place later, and the error.
    let rows: Vec<(&Vec<u8>, Vec<u8>, ImagingError)> = vec![
        (&plain, with(&plain, 16, &MIB.to_le_bytes()), changed),
        (&plain, with(&plain, 8, &MIB.to_le_bytes()), changed),
        (&plain, with(&plain, 56, &[0; 4]), ImageError::UnknownFormat(0).into()),
        (&plain, with(&plain, 0, &[0x1f, 0x8b, 8, 0]), changed),
        (&plain, with(&plain, 0, b"\x7fELF"), changed),
        (&packed, with(&packed, 0, &[0; 2]), changed),
        (&packed, with(&packed, 2, &[9]), ImageError::GzipMethod(9).into()),
        (
            &packed,
            with(&packed, end - 8, &(crc ^ 1).to_le_bytes()),
            checksum.into(),
        ),
        (
            &packed,
            with(&packed, 10, &vec![1; end - 10]),
            ImageError::Truncated {
                needed: end as u64 + 1,
                length: end as u64,
            }
            .into(),
        ),
        (
            &executable,
            with(&executable, 24, &0x4010_0044_u64.to_le_bytes()),
            changed,
        ),
        (
            &executable,
            with(&executable, 56, &[0]),
            ImageError::ElfSegments(0).into(),
        ),
    ];
    for (index, (kernel, later, error)) in rows.into_iter().enumerate() {
        let mut bench = bench(parts(kernel.clone()));
        let (others, start) = (bench.others(), bench.blueprint.start());
        bench.memory.poke(KERNEL, &later);
        assert_eq!(bench.image(fresh(1), Budget::STEP), Err(error), "row {index}");
        // The same module as at first is good again.
        bench.memory.poke(KERNEL, kernel);
        assert_eq!(bench.image(fresh(2), Budget::STEP).map(|(start, _)| start), Ok(start));
        assert!(bench.others() == others, "row {index}");
    }
}

#[test]
fn damaged_modules_give_errors_or_images_and_never_anything_else() {
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut next = move || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 24) as usize
    };
    let mut refused = 0;
    for (name, kernel) in [
        ("Image", image(0x4000)),
        ("gzip", gzip(&image(0x4000))),
        ("executable", elf(2, 0x4010_0000)),
    ] {
        let mut small = parts(kernel.clone());
        small.ramdisk.truncate(5000);
        small.tree = tree(100);
        let mut bench = bench(small);
        let (start, others) = (bench.blueprint.start(), bench.others());
        for round in 0..60 {
            let mut damaged = kernel.clone();
            for _ in 0..=next() % 3 {
                // Headers matter more than bodies.
                let at = next() % damaged.len().min([64, 256, usize::MAX][next() % 3]);
                damaged[at] = next() as u8;
            }
            // Or it is cut: what was behind is noise.
            if next() % 4 == 0 {
                let length = next() % damaged.len();
                let tail = noise(damaged.len() - length, next() as u64);
                damaged[length..].copy_from_slice(&tail);
            }
            bench.memory.poke(KERNEL, &damaged);
            match bench.image(fresh(1), Budget::STEP) {
                Ok((found, _)) => assert_eq!(found, start, "{name}, round {round}"),
                Err(_) => refused += 1,
            }
        }
        bench.memory.poke(KERNEL, &kernel);
        assert!(bench.others() == others, "{name}: nothing else is touched");
    }
    assert!(refused > 60, "{refused}");
}
