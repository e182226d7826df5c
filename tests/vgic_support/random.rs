//! Pseudo-random numbers (xorshift64), the same in each run.

#![allow(unreachable_pub, reason = "a support module")]

#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }
    /// 0 to `limit` - 1.
    pub fn below(&mut self, limit: u32) -> u32 {
        (self.next() % u64::from(limit)) as u32
    }
    pub fn one_in(&mut self, count: u32) -> bool {
        self.below(count) == 0
    }
}
