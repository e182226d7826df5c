//! How long requests took: a histogram of fixed size, a few instructions an entry.
//!
//! Log-linear: four buckets for each power of two, so that what is read is at most a quarter above what was measured, from
//! one tick up to [`Latencies::LIMIT`].

use crate::ids::Ticks;

/// log2 of the buckets for each power of two.
const FINE: u32 = 2;
/// Powers of two that are told apart.
const POWERS: u32 = 40;
const BUCKETS: usize = ((POWERS - FINE + 1) << FINE) as usize;

/// Latencies of one server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Latencies {
    buckets: [u32; BUCKETS],
    longest: Ticks,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            longest: Ticks(0),
        }
    }
}

impl Latencies {
    /// Longer ones count as this long, except in [`Self::longest`].
    pub const LIMIT: Ticks = Ticks((1 << POWERS) - 1);

    /// One request took so long.
    #[inline]
    pub fn record(&mut self, latency: Ticks) {
        self.longest = self.longest.max(latency);
        let ticks = latency.0.min(Self::LIMIT.0);
        // The highest bits that are told apart go to the right end.
        let shift = 63 - FINE - (ticks | 1 << FINE).leading_zeros();
        let index = ((shift as usize) << FINE) + (ticks >> shift) as usize;
        if let Some(bucket) = self.buckets.get_mut(index) {
            *bucket = bucket.saturating_add(1);
        }
    }

    /// The longest latency that a bucket counts.
    const fn upper(index: usize) -> u64 {
        let fine = 1 << FINE;
        if index < 2 * fine {
            return index as u64;
        }
        let shift = index / fine - 1;
        (((index % fine + fine + 1) as u64) << shift) - 1
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|count| u64::from(*count)).sum()
    }

    /// The longest.
    pub fn longest(&self) -> Ticks {
        self.longest
    }

    /// What `percent` of all did not exceed, rounded up to the end of a bucket; 0 while there are none.
    pub fn percentile(&self, percent: u32) -> Ticks {
        let wanted = (self.count() * u64::from(percent)).div_ceil(100).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= wanted {
                return Ticks(Self::upper(index).min(self.longest.0));
            }
        }
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, Latencies, Ticks};

    #[test]
    fn every_latency_is_counted_in_a_bucket_that_ends_at_most_a_quarter_above_it() {
        let edges = (0..64).flat_map(|power: u32| {
            let value = 1_u64 << power;
            [value - 1, value, value + 1, value + value / 3]
        });
        for ticks in edges.chain(0..5000).filter(|ticks| *ticks <= Latencies::LIMIT.0) {
            let mut latencies = Latencies::default();
            latencies.record(Ticks(ticks));
            // One far above it, so that the bucket's end is not cut.
            latencies.record(Ticks(u64::MAX));
            let found = latencies.percentile(50).0;
            assert!(found >= ticks && found - ticks <= ticks / 4, "{ticks} became {found}");
            assert_eq!((latencies.count(), latencies.longest()), (2, Ticks(u64::MAX)));
        }
    }

    #[test]
    fn buckets_are_used_up_to_the_last_one_and_no_further() {
        let mut latencies = Latencies::default();
        for ticks in [Latencies::LIMIT.0, Latencies::LIMIT.0 + 1, u64::MAX] {
            latencies.record(Ticks(ticks));
        }
        assert_eq!(latencies.buckets[BUCKETS - 1], 3);
        assert_eq!(latencies.percentile(100), Latencies::LIMIT);
    }

    #[test]
    fn percentiles_are_of_what_was_recorded() {
        let mut latencies = Latencies::default();
        assert_eq!(
            (latencies.percentile(50), latencies.percentile(99)),
            (Ticks(0), Ticks(0))
        );
        for _ in 0..98 {
            latencies.record(Ticks(6));
        }
        latencies.record(Ticks(1000));
        latencies.record(Ticks(100_000));
        assert_eq!(latencies.percentile(50), Ticks(6));
        assert_eq!(latencies.percentile(98), Ticks(6));
        let late = latencies.percentile(99).0;
        assert!((1000..=1250).contains(&late), "{late}");
        assert_eq!(latencies.percentile(100), Ticks(100_000), "not beyond the longest");
    }
}
