//! Numbers that look random and are the same in every run of a seed (xorshift64*), so that a failure can be run again.
//!
//! `PORTUNUS_SEED=NUMBER cargo test` is a run of all tests with other numbers.

/// What is mixed into every seed: 0, unless the build is told a number.
const SEED: u64 = match option_env!("PORTUNUS_SEED") {
    Some(number) => number_of(number.as_bytes()),
    None => 0,
};

const fn number_of(digits: &[u8]) -> u64 {
    let (mut number, mut index) = (0_u64, 0);
    while index < digits.len() {
        assert!(digits[index].is_ascii_digit(), "PORTUNUS_SEED is a decimal number");
        number = number.wrapping_mul(10).wrapping_add((digits[index] - b'0') as u64);
        index += 1;
    }
    number
}

/// A sequence of numbers; its state is not 0.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        // Spread, so that the first numbers of small seeds differ.
        Self((seed ^ SEED << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    /// Any number.
    #[allow(clippy::should_implement_trait, reason = "a sequence without end is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// A number from 0 to `limit` - 1.
    ///
    /// # Panics
    /// If the limit is 0 or negative.
    pub fn below<T: TryFrom<u64> + TryInto<u64>>(&mut self, limit: T) -> T {
        let limit = limit.try_into().ok().expect("a limit is positive");
        // The lower bits are the weaker ones.
        let number = (self.next() >> 11) % limit;
        T::try_from(number).ok().expect("it is below a number of this type")
    }
    /// True once in `count` times.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
    /// One of these.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}
