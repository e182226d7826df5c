//! Rows: which are wanted, how often an operation is repeated, and how its samples are printed.

use alloc::vec::Vec;

use guest_runtime::{device_tree, println};

/// Measurements of a row.
pub(crate) const SAMPLES: usize = 1_000;
/// Repetitions before the first one, in which buffers, server and caches come to rest.
pub(crate) const WARM_UP: usize = 16;

/// Whether the boot arguments let the row be measured.
pub(crate) fn is_wanted(name: &str) -> bool {
    let mut wanted = device_tree::boot_arguments().filter_map(|word| word.strip_prefix("only="));
    wanted.all(|only| only == "all" || only == name)
}

/// How often a row's operation is measured.
pub(crate) fn samples() -> usize {
    device_tree::boot_number("samples").map_or(SAMPLES, |samples| samples.max(1) as usize)
}

/// Measures `operation` and prints its row.
pub(crate) fn row(name: &str, mut operation: impl FnMut() -> u64) {
    if !is_wanted(name) {
        return;
    }
    for _ in 0..WARM_UP {
        operation();
    }
    let mut samples: Vec<u64> = (0..samples()).map(|_| operation()).collect();
    print(name, &mut samples);
}

/// Prints the row of these samples, of which there is one at least.
pub(crate) fn print(name: &str, samples: &mut [u64]) {
    samples.sort_unstable();
    let at = |percent| samples[(samples.len() - 1) * percent / 100];
    println!("BENCH {name} {} {} {}", at(0), at(50), at(90));
}

/// Says why there is no figure for a row.
pub(crate) fn unavailable(name: &str, reason: &str) {
    if is_wanted(name) {
        println!("BENCH {name} - {reason}");
    }
}
