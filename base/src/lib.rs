//! What the core and the crates beside it stand on, and what itself stands on nothing: [`ids`], numbers with types; [`range`],
//! spans of addresses; [`sorting`], of short lists.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod ids;
pub mod range;
pub mod sorting;
