//! Event channels: rules of each operation, delivery into the shared page, and a naive model under random operations.

#[path = "evtchn_support/delivery.rs"]
mod delivery;
#[path = "evtchn_support/model.rs"]
mod model;
#[path = "evtchn_support/ports.rs"]
mod ports;
#[path = "evtchn_support/world.rs"]
mod world;
