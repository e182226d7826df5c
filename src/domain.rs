//! (to be written)

pub mod image;
pub mod ram;
