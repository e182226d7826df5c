//! Seeds for guests: where they come from, and that none is given twice.

use portunus::entropy::{Entropy, Seeds, of_firmware};
use portunus::manifest::Tree;

#[path = "manifest_support/machines.rs"]
mod machines;
#[path = "manifest_support/source.rs"]
mod source;

fn seeds(sources: &[&[u8]]) -> Option<Seeds> {
    Entropy::gather(sources.iter().copied()).map(|mut entropy| entropy.seeds())
}

#[test]
fn without_a_source_there_are_no_seeds() {
    let rows: [&[&[u8]]; 4] = [&[], &[&[]], &[&[0; 32], &[0; 8]], &[&[], &[0]]];
    for sources in rows {
        assert_eq!(seeds(sources), None, "{sources:?}");
    }
}

#[test]
fn the_same_sources_give_the_same_seeds_and_any_other_byte_gives_others() {
    let long: Vec<u8> = (1..=100).collect();
    let original = [long.as_slice(), &[7; 8]];
    let given = seeds(&original).expect("seeds");
    assert_eq!(seeds(&original), Some(given.clone()));
    for changed in 0..long.len() {
        let mut other = long.clone();
        other[changed] ^= 0x10;
        let other = seeds(&[&other, &[7; 8]]).expect("seeds");
        assert_ne!((other.kaslr, other.rng), (given.kaslr, given.rng), "byte {changed}");
    }
    for other in [vec![long.as_slice()], vec![&[7; 8], &long], vec![&long, &[7; 7]]] {
        assert_ne!(seeds(&other), Some(given.clone()));
    }
}

#[test]
fn no_seed_comes_twice_and_none_is_shown_in_messages() {
    let mut entropy = Entropy::gather([b"of a test".as_slice()]).expect("a source");
    let given: Vec<Seeds> = (0..1000).map(|_| entropy.seeds()).collect();
    let mut places: Vec<u64> = given.iter().map(|seeds| seeds.kaslr).collect();
    let mut numbers: Vec<[u8; 32]> = given.iter().map(|seeds| seeds.rng).collect();
    places.sort_unstable();
    places.dedup();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!((places.len(), numbers.len()), (1000, 1000));
    assert_eq!(format!("{:?} {:?}", given[0], entropy), "Seeds { .. } Entropy { .. }");
}

#[test]
fn firmware_leaves_seeds_under_chosen() {
    let blob = machines::machine(machines::VIRT, "rng-seed = [01 02 03]; kaslr-seed = <4 5>;");
    let tree = Tree::new(&blob).expect("a tree");
    assert_eq!(of_firmware(&tree), [[1, 2, 3].as_slice(), &[0, 0, 0, 4, 0, 0, 0, 5]]);
    let blob = machines::machine(machines::VIRT, "");
    let tree = Tree::new(&blob).expect("a tree");
    assert_eq!(of_firmware(&tree), [[].as_slice(), &[]]);
}
