//! How a command ends when it doesn't succeed: one line for people, one exit code for scripts.

use std::fmt;
use std::process::ExitCode;

/// Why a command did not succeed. Each variant holds the one line that the user sees.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// What was asked for was tried and did not work. Exit code 1.
    Failed(String),
    /// Something that the user must install or provide is missing. Exit code 2.
    SetupMissing(String),
    /// Inputs can't be had here, so nothing was tried. Exit code 3.
    Skipped(String),
}

/// The result of whatever a command does.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// The process exit code that belongs to this failure.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::SetupMissing(_) => 2,
            Self::Skipped(_) => 3,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(line) | Self::SetupMissing(line) | Self::Skipped(line) => f.write_str(line),
        }
    }
}

/// A shorthand for [`Failure::Failed`].
pub(crate) fn failed<T>(line: impl Into<String>) -> Result<T> {
    Err(Failure::Failed(line.into()))
}

/// Turns any error into a failure that says what was being done.
pub(crate) trait Doing<T> {
    /// Prefixes the error with `what`, and makes it a [`Failure::Failed`].
    fn doing(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Failure::Failed(format!("{what}: {error}")))
    }
}
