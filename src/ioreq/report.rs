//! What control domains and the console show of servers and of the requests that they have: values, taken at one moment each.
//!
//! Times are ticks of the system counter.

use super::Stage;
use crate::ids::{DomainId, Ipa, ServerId, Ticks};

/// An access that waits for its answer.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct RequestReport {
    /// Its address.
    pub address: Ipa,
    /// The server that works on it; `None`: no server takes it.
    pub server: Option<ServerId>,
}

/// A server of a domain's devices.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct ServerReport {
    /// Whose it is.
    pub owner: DomainId,
    /// Whether it gets requests.
    pub stage: Stage,
    /// How many ranges of addresses it has.
    pub ranges: u32,
    /// Requests that it has now.
    pub in_flight: u32,
    /// Requests that it answered.
    pub answered: u64,
    /// Requests that were taken from it without an answer.
    pub failed: u64,
    /// Writes that were posted to it.
    pub posted: u64,
    /// What half of its answers did not exceed, from the request to the answer.
    pub median: Ticks,
    /// What 99 in a hundred did not exceed.
    pub percentile_99: Ticks,
    /// The longest.
    pub longest: Ticks,
}
