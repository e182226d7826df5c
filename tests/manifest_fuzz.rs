//! No blob, however broken, makes the parsers panic or hang; what they accept can be used to the end.

#[path = "manifest_support/domains.rs"]
mod domains;
#[path = "manifest_support/machines.rs"]
mod machines;
#[path = "manifest_support/source.rs"]
mod source;

use domains::{DOMAINS, PARTIAL, Partial};
use machines::{BOARD, VIRT, VIRT_GICV2, VIRT_GICV3};
use portunus::fakes::Random;
use portunus::manifest::{DomainConfig, GuestTree, Host, Manifest, ManifestError, Tree};
use portunus::policy::{Policy, Report};

/// Numbers that have broken parsers before.
const INTERESTING: [u32; 14] = [
    0,
    1,
    2,
    3,
    4,
    9,
    31,
    32,
    0xff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff0,
    0xffff_fffe,
    0xffff_ffff,
];

/// Breaks a few places of a blob.
fn mutate(blob: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(blob.len());
        match random.below(6) {
            0 => blob[at] ^= 1 << random.below(8),
            1 => blob[at] = random.next() as u8,
            2 | 3 => {
                let value = match random.below(3) {
                    0 => random.next() as u32,
                    _ => INTERESTING[random.below(INTERESTING.len())],
                };
                let cell = at & !3;
                if let Some(bytes) = blob.get_mut(cell..cell + 4) {
                    bytes.copy_from_slice(&value.to_be_bytes());
                }
            }
            4 => {
                // A piece of the tree moves onto another: nodes, properties and names in the wrong places.
                let length = 4 * (1 + random.below(16));
                let (from, to) = (random.below(blob.len()) & !3, at & !3);
                if from + length <= blob.len() && to + length <= blob.len() {
                    blob.copy_within(from..from + length, to);
                }
            }
            _ => {
                // A shorter blob that says so.
                let length = 40 + random.below(blob.len() - 40);
                if random.below(8) == 0 {
                    blob.truncate(length);
                    blob[4..8].copy_from_slice(&(length as u32).to_be_bytes());
                }
            }
        }
    }
}

/// Whatever the manifest says, nothing that was placed is where something else is, and every interrupt has one owner.
fn check_layout(domain: &DomainConfig) {
    let layout = &domain.layout;
    let mut placed = vec![layout.grant_window];
    placed.extend(layout.uart.map(|uart| uart.registers));
    placed.extend(layout.rtc.map(|rtc| rtc.registers));
    placed.extend(layout.pv_console);
    placed.extend(&layout.extended_regions);
    placed.extend(domain.devices.iter().map(|device| device.range));
    let mut given = layout.memory.clone();
    given.extend(layout.gic.frames());
    given.extend(domain.passthrough.mappings().map(|mapping| mapping.guest_range()));
    for (index, window) in placed.iter().enumerate() {
        let others = placed[..index].iter().chain(&given);
        assert!(
            others.clone().all(|other| !other.overlaps(*window)),
            "{}: {window}: {domain:#x?}",
            domain.name
        );
    }
    let mut interrupts: Vec<u32> = domain.devices.iter().map(|device| device.interrupt.id.0).collect();
    interrupts.extend(layout.uart.map(|uart| uart.interrupt.0));
    interrupts.extend(layout.rtc.and_then(|rtc| rtc.interrupt).map(|interrupt| interrupt.0));
    let mut owned: Vec<u32> = domain
        .passthrough
        .interrupts()
        .map(|interrupt| interrupt.id.0)
        .collect();
    owned.sort_unstable();
    owned.dedup();
    interrupts.extend(owned);
    interrupts.sort_unstable();
    assert!(
        interrupts.windows(2).all(|pair| pair[0] != pair[1]),
        "{}: {interrupts:?}",
        domain.name
    );
    assert!(
        interrupts.iter().all(|number| (32..32 + layout.spis).contains(number)),
        "{}: {interrupts:?}",
        domain.name
    );
}

/// Everything that boot does with a tree.
fn use_it(blob: &[u8], partial: &[u8]) -> Result<(), ManifestError> {
    let tree = Tree::new(blob)?;
    let host = Host::parse(&tree)?;
    let manifest = Manifest::parse(&tree, &host, &Partial(partial.to_vec()))?;
    let policy = Policy::new(&manifest);
    let _ = Report {
        host: &host,
        manifest: &manifest,
        policy: &policy,
    }
    .to_string();
    let memory: Vec<_> = manifest
        .domains
        .iter()
        .map(|domain| domain.layout.memory.clone())
        .collect();
    for domain in &manifest.domains {
        check_layout(domain);
        let guest = GuestTree {
            manifest: &manifest,
            domain: domain.id,
            memory: &memory,
            ramdisk: None,
            timer_frequency: host.timer.frequency,
            seeds: true,
        };
        let blob = guest.build()?;
        Tree::new(&blob).expect("what we write we can read");
    }
    Ok(())
}

#[test]
fn no_mutation_of_a_valid_tree_panics() {
    let machines = [
        VIRT.to_string(),
        VIRT.replace(VIRT_GICV3, VIRT_GICV2),
        BOARD.to_string(),
    ];
    let blobs: Vec<_> = machines
        .iter()
        .map(|machine| machines::machine(machine, DOMAINS))
        .collect::<Vec<_>>();
    let partial = source::compile(PARTIAL);
    let mut random = Random::new(0x005e_ed0f_9042);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..2_000 {
        let mut blob = blobs[round % blobs.len()].clone();
        let mut partial = partial.clone();
        match random.below(3) {
            0 => mutate(&mut partial, &mut random),
            1 => mutate(&mut blob, &mut random),
            _ => {
                mutate(&mut blob, &mut random);
                mutate(&mut partial, &mut random);
            }
        }
        match use_it(&blob, &partial) {
            Ok(()) => accepted += 1,
            Err(error) => {
                assert!(
                    error.node.starts_with('/') && !error.reason.to_string().is_empty(),
                    "{error}"
                );
                refused += 1;
            }
        }
    }
    // Else the mutations are too weak, or too strong, to reach anything.
    assert!(
        accepted > 100 && refused > 100,
        "{accepted} accepted, {refused} refused"
    );
}

#[test]
fn noise_with_a_header_does_not_panic() {
    let mut random = Random::new(0xdead_beef);
    let header = machines::machine(VIRT, "")[..40].to_vec();
    for _ in 0..2_000 {
        let length = 40 + random.below(400);
        let mut blob: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        blob[..40].copy_from_slice(&header);
        blob[4..8].copy_from_slice(&(length as u32).to_be_bytes());
        for field in [8, 12, 16, 32, 36] {
            let value = (random.below(length) & !7) as u32;
            blob[field..field + 4].copy_from_slice(&value.to_be_bytes());
        }
        let _ = use_it(&blob, &blob);
    }
}
