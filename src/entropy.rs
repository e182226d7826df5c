//! Random numbers for guests: seeds for the place of their kernel in memory and for their own generators.
//!
//! Guarantees: a seed tells nothing of those before and after it, nor of what the machine gave: the generator replaces its
//! key with every use, and what it was is gone. Without a source there is no generator, and no guest gets a seed that
//! only looks like one.

use core::fmt;

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};

use crate::manifest::tree::Tree;

const KEY: usize = 32;

/// What a guest's device tree gets anew at each start.
#[derive(Clone, Eq, PartialEq)]
pub struct Seeds {
    /// `kaslr-seed`: where the kernel goes in its virtual memory.
    pub kaslr: u64,
    /// `rng-seed`: what its random numbers come from.
    pub rng: [u8; 32],
}

impl fmt::Debug for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seeds").finish_non_exhaustive()
    }
}

/// A generator: ChaCha20 with a key that is used once.
pub struct Entropy {
    key: [u8; KEY],
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entropy").finish_non_exhaustive()
    }
}

impl Entropy {
    /// A generator made from all `sources`; it is as unpredictable as the best of them. `None` when none has anything but
    /// zeroes: firmware wipes seeds that it has used.
    pub fn gather<'s>(sources: impl IntoIterator<Item = &'s [u8]>) -> Option<Self> {
        let mut gathered: Option<Self> = None;
        for source in sources {
            if source.iter().any(|byte| *byte != 0) {
                gathered.get_or_insert(Self { key: [0; KEY] }).absorb(source);
            }
        }
        gathered
    }

    /// The next seeds; no two calls give the same ones.
    pub fn seeds(&mut self) -> Seeds {
        let mut generator = ChaCha20Rng::from_seed(self.key);
        generator.fill_bytes(&mut self.key);
        let mut seeds = Seeds {
            kaslr: generator.next_u64(),
            rng: [0; 32],
        };
        generator.fill_bytes(&mut seeds.rng);
        seeds
    }

    fn absorb(&mut self, source: &[u8]) {
        for part in source.chunks(KEY) {
            for (byte, new) in self.key.iter_mut().zip(part) {
                *byte ^= new;
            }
            ChaCha20Rng::from_seed(self.key).fill_bytes(&mut self.key);
        }
    }
}

/// The seeds that the machine's firmware left under `/chosen`.
pub fn of_firmware<'a>(tree: &Tree<'a>) -> [&'a [u8]; 2] {
    let chosen = tree.find("/chosen");
    ["rng-seed", "kaslr-seed"].map(|name| chosen.and_then(|node| node.property(name)).unwrap_or_default())
}
