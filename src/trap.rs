//! From an exception's registers to what the guest meant.
//!
//! [`syndrome`] turns ESR, FAR and HPFAR into an exception class; [`instruction`] decodes loads and stores that the
//! syndrome does not describe; [`plan`] is what they do, step by step; [`exception`] builds the exception that a
//! refused guest gets; [`system_register`] answers trapped system registers; [`event`] is what the trace says of it all.

pub mod event;
pub mod exception;
pub mod instruction;
pub mod plan;
pub mod registers;
pub mod syndrome;
pub mod system_register;
