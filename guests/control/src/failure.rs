//! Why something was not done, in one line.

use alloc::string::String;
use core::fmt;

use portunus::abi::HypercallError;

/// Why a command failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// There is no such command.
    Unknown(String),
    /// How it is to be used.
    Usage(&'static str),
    /// No domain that may be read has that name or number.
    NoDomain(String),
    /// The hypervisor refused: what, and why.
    Refused(String, HypercallError),
    /// A domain did not come up again: why.
    Down(String, String),
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(command) => write!(f, "no command {command}: type help for a list"),
            Self::Usage(usage) => write!(f, "usage: {usage}"),
            Self::NoDomain(name) => write!(f, "no domain {name} that this one may control: type list"),
            Self::Refused(what, error) => {
                let reason = match error {
                    HypercallError::NotPermitted => "this domain may not control that one",
                    HypercallError::NoDomain => "there is no such domain",
                    HypercallError::Busy => "it is being stopped or restarted",
                    HypercallError::Invalid => "it is this domain itself, or it has stopped",
                    HypercallError::NotSupported => "the hypervisor does not know that operation",
                    other => return write!(f, "{what}: {other}"),
                };
                write!(f, "{what}: {reason}")
            }
            Self::Down(name, why) => write!(f, "{name} does not come up again: {why}"),
            Self::Interrupted => write!(f, "interrupted"),
        }
    }
}
