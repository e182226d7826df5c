//! (to be written)

pub mod builder;
pub mod image;
mod placement;
pub mod ram;
