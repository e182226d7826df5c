//! From an exception's registers to what the guest meant.
//!
//! [`syndrome`] turns ESR, FAR and HPFAR into an exception class; [`instruction`] decodes loads and stores that the
//! syndrome does not describe; [`access`] is the neutral form that devices and servers see; [`exception`] builds the
//! exception that a refused guest gets; [`system_register`] answers trapped system registers; [`quick`] answers what needs
//! no state at all.

pub mod access;
pub mod exception;
pub mod instruction;
pub mod quick;
pub mod registers;
pub mod syndrome;
pub mod system_register;
