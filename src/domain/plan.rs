//! What of a domain's manifest matters when it ends and starts again.

use alloc::string::String;
use alloc::vec::Vec;

use crate::ids::{IntId, Pa};
use crate::manifest::lifecycle::{OnShutdown, RestartLimit};
use crate::manifest::passthrough::{Passthrough, Quiesce};
use crate::range::PaRange;
use crate::stage2::Region;

/// Bytes of a virtio-mmio transport's registers, at the least; a page of a machine may hold several.
const TRANSPORT_SIZE: u64 = 0x200;

/// What follows when it ends, and what it is like when it starts.
#[derive(Debug)]
pub struct Plan {
    /// What follows a crash.
    pub on_crash: OnShutdown,
    /// What follows when it asks for a restart.
    pub on_reboot: OnShutdown,
    /// What follows when its watchdog fires.
    pub on_watchdog: OnShutdown,
    /// How often it may start again; `None`: as often as it likes.
    pub limit: Option<RestartLimit>,
    /// It may start others again.
    pub controls: bool,
    /// All that is mapped before its first instruction.
    pub map: Vec<Region>,
    /// The machine's devices that it owns.
    pub devices: Vec<OwnDevice>,
    /// Their interrupts: SPIs, and whether each is edge-triggered.
    pub interrupts: Vec<(IntId, bool)>,
}

/// A device of the machine that a domain owns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OwnDevice {
    /// Its path, for messages.
    pub path: String,
    /// Its registers.
    pub registers: Vec<PaRange>,
    /// It reaches memory by itself.
    pub dma: bool,
    /// How it is brought to rest.
    pub quiesce: Option<Quiesce>,
}

impl OwnDevice {
    /// The devices of a manifest.
    pub fn all(passthrough: &Passthrough) -> Vec<Self> {
        let own = passthrough.devices.iter().map(|device| Self {
            path: device.path.clone(),
            registers: device.mappings.iter().map(|mapping| mapping.physical).collect(),
            dma: device.dma && (!device.mappings.is_empty() || device.host_path.is_some()),
            quiesce: device.quiesce,
        });
        own.collect()
    }

    /// It may write into memory that is made anew, and nothing can stop it.
    pub fn is_restless(&self) -> bool {
        self.dma && self.quiesce.is_none()
    }

    /// The virtio-mmio transport of this number, if there can be so many.
    pub fn transport(&self, mut index: u64) -> Option<Pa> {
        for range in &self.registers {
            let count = range.size / TRANSPORT_SIZE;
            if index < count {
                return Some(Pa(range.start.0 + index * TRANSPORT_SIZE));
            }
            index -= count;
        }
        None
    }
}
