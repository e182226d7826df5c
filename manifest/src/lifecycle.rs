//! What happens when a domain stops: `portunus,on-crash`, `portunus,on-reboot`, `portunus,on-watchdog`, and how often it
//! may start again.

use alloc::string::ToString;

use crate::error::{ManifestError, Reason};
use crate::tree::Node;

/// How often a domain may be restarted when the manifest says nothing.
const DEFAULT_LIMIT: RestartLimit = RestartLimit { count: 5, seconds: 60 };

/// What follows when a domain stops.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum OnShutdown {
    /// It stays down; others run.
    Stop,
    /// It starts again, in place, with a new image.
    Restart,
    /// The machine powers off.
    PowerOff,
}

impl OnShutdown {
    const ALL: [Self; 3] = [Self::Stop, Self::Restart, Self::PowerOff];

    /// Its name in a manifest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::PowerOff => "power-off",
        }
    }
}

/// A domain that starts again more often than this stays down.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct RestartLimit {
    /// Restarts, at least 1 and at most [`Self::MAX_COUNT`].
    pub count: u32,
    /// Within so many seconds, at least 1.
    pub seconds: u32,
}

impl RestartLimit {
    /// Restarts that can be limited: the time of each is remembered.
    pub const MAX_COUNT: u32 = 32;
}

pub(crate) const ON_CRASH: &str = "portunus,on-crash";
pub(crate) const ON_REBOOT: &str = "portunus,on-reboot";
pub(crate) const ON_WATCHDOG: &str = "portunus,on-watchdog";
pub(crate) const RESTART_LIMIT: &str = "portunus,restart-limit";

/// Reads one of the properties that say what follows.
pub(crate) fn on_shutdown(node: Node<'_, '_>, name: &str, default: OnShutdown) -> Result<OnShutdown, ManifestError> {
    let Some(word) = node.string(name)? else {
        return Ok(default);
    };
    let found = OnShutdown::ALL.into_iter().find(|choice| choice.name() == word);
    found.ok_or_else(|| node.error(name, Reason::UnknownText(word.to_string())))
}

/// Reads `portunus,restart-limit = <count seconds>`; a count of 0 is no limit.
pub(crate) fn restart_limit(node: Node<'_, '_>) -> Result<Option<RestartLimit>, ManifestError> {
    let name = RESTART_LIMIT;
    let Some(cells) = node.cells(name)? else {
        return Ok(Some(DEFAULT_LIMIT));
    };
    match *cells.as_slice() {
        [0] | [0, _] => Ok(None),
        [_, 0] => Err(node.error(name, Reason::Zero)),
        [count, seconds] if count <= RestartLimit::MAX_COUNT => Ok(Some(RestartLimit { count, seconds })),
        [count, _] => Err(node.error(
            name,
            Reason::AboveLimit {
                found: count.into(),
                limit: RestartLimit::MAX_COUNT.into(),
            },
        )),
        _ => Err(node.error(name, Reason::Length(cells.len().saturating_mul(4)))),
    }
}
