//! (to be written)
pub mod list_register;
