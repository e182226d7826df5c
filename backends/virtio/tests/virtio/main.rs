//! The library from outside: a simulated driver, honest and hostile, over memory that is a vector.

mod block;
mod chains;
mod granted;
mod hostile;
mod negotiation;
mod served;
mod simulator;
mod takeover;
mod third_party;
