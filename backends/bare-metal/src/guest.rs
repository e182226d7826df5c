//! One served guest: its IOREQ server and its memory.

use guest_runtime::server::{ConnectError, Server};
use guest_runtime::window::Window;

use crate::config::ServedConfig;
use crate::guest_memory::GuestRam;

/// A guest that is served, or will be once its server is enabled.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) server: Server,
    pub(crate) ram: GuestRam,
}

impl Guest {
    /// Makes room for the guest's memory and a server for it, which has no ranges and gets no requests yet.
    pub(crate) fn connect(config: &ServedConfig, window: &mut Window) -> Result<Self, ConnectError> {
        let ram = GuestRam::new(config.guest, &config.guest_memory, window)?;
        let server = Server::create(config.guest, window)?;
        Ok(Self { server, ram })
    }
}
