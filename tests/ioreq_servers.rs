//! Servers of a target: rights, lifetime, failure policy, with a fake machine.

#[path = "ioreq_support/failure.rs"]
mod failure;
#[path = "ioreq_support/kinds.rs"]
mod kinds;
#[path = "ioreq_support/model.rs"]
mod model;
#[path = "ioreq_support/rules.rs"]
mod rules;
#[path = "ioreq_support/world.rs"]
mod world;
