//! A domain at run time: its state machines, each behind its own lock, and what about it never changes.

pub mod blueprint;
pub mod builder;
pub mod devices;
pub mod homes;
pub mod image;
pub mod imaging;
pub mod life;
pub mod lifecycle;
pub mod limit;
pub mod modules;
mod placement;
pub mod plan;
pub mod ram;
pub mod report;
pub mod runstate;
mod shared;
pub mod vcpu;
pub mod watchdog;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::abi::sched::ShutdownReason;
use crate::console::PortId;
use crate::console::pl011::IdleFlags;
use crate::domain::blueprint::Blueprint;
use crate::domain::devices::Devices;
use crate::domain::life::Life;
use crate::domain::lifecycle::Lifecycle;
use crate::domain::plan::Plan;
use crate::domain::vcpu::Vcpu;
use crate::domain::watchdog::Watchdogs;
use crate::evtchn::EventChannels;
use crate::grant::{GrantTable, Maptrack};
use crate::ids::{DomainId, EventPort, IntId, Ipa, Pa};
use crate::ioreq::{Servers, Shadows, SharedDoorbells};
use crate::manifest::lifecycle::OnShutdown;
use crate::memory::pool::Pool;
use crate::range::PaRange;
use crate::rtc::pl031::Pl031;
use crate::stage2::{Changes, Stage2};
use crate::sync::Mutex;
use crate::vgic::{self, Vgic};

/// A domain's guest-physical memory.
#[derive(Debug)]
pub struct DomainMemory {
    /// Its translations.
    pub stage2: Stage2,
    /// Its frames for tables and shared pages.
    pub pool: Pool,
    /// What it has mapped of others' grants.
    pub maptrack: Maptrack,
    /// Where the guest has put its shared_info page.
    pub shared_info_at: Option<Ipa>,
}

/// A domain.
#[derive(Debug)]
pub struct Domain {
    /// Its number.
    pub id: DomainId,
    /// Its name in the manifest.
    pub name: String,
    /// Its vCPUs by index.
    pub vcpus: Vec<Vcpu>,
    /// Its memory.
    pub memory: Mutex<DomainMemory>,
    /// The servers of its devices.
    pub servers: Mutex<Servers>,
    /// Those of them that a vCPU looks at without that lock.
    pub doorbells: SharedDoorbells,
    /// Their pages that the guest reads without a trap.
    pub shadows: Shadows,
    /// What it grants.
    pub grants: Mutex<GrantTable>,
    /// Its event channels.
    pub events: Mutex<EventChannels>,
    /// Its interrupts.
    pub vgic: Box<Mutex<Vgic>>,
    /// Its watchdogs.
    pub watchdogs: Mutex<Watchdogs>,
    /// Its real-time clock.
    pub clock: Option<DomainClock>,
    /// Where the hypervisor answers itself.
    pub devices: Devices,
    /// What its interrupt controller is made of.
    pub controller: vgic::Config,
    /// Whether its memory's map has changed.
    pub map_changes: Changes,
    /// Its place on the console.
    pub console: Option<PortId>,
    /// Its PV console.
    pub pv_console: Option<PvConsole>,
    /// It may write to and read from its console by hypercall.
    pub console_io: bool,
    /// Its UART's flag register, while nothing is to be shown.
    pub console_flags: Option<IdleFlags>,
    /// Its UART's interrupt.
    pub console_interrupt: Option<IntId>,
    /// An access that nobody answers aborts; else it reads as ones.
    pub abort_unmapped: bool,
    /// It has a GICv3.
    pub gic_system_registers: bool,
    /// Its guest-physical addresses are the machine's.
    pub direct_mapped: bool,
    /// It serves devices of others.
    pub serves: bool,
    /// Its first instruction.
    pub entry: Ipa,
    /// Its device tree.
    pub device_tree: Ipa,
    /// Its RAM in the machine.
    pub ram: Vec<PaRange>,
    /// How its memory is made anew. Locked by whoever images it, for one step at a time; no other lock is taken under it.
    pub blueprint: Mutex<Blueprint>,
    /// Its constants of the world switch.
    pub constants: SwitchConstants,
    /// Where it is in its life.
    pub life: Life,
    /// Its vCPUs that are not off. Only one that is on turns another on, so at 0 it stays there.
    pub live_vcpus: AtomicU32,
    /// CNTVOFF_EL2: the guest's counter begins at 0.
    pub virtual_offset: AtomicU64,
    /// How often it was restarted since the machine's power-on.
    pub restarts: AtomicU32,
    /// What ends and starts it; only the pCPU of its boot vCPU takes this lock for longer than a look.
    pub lifecycle: Mutex<Lifecycle>,
    /// What is needed to make it anew.
    pub plan: Plan,
    /// Its vCPUs are held.
    pub paused: AtomicBool,
    /// Somebody changes that.
    pub pausing: Mutex<()>,
}

/// Where a domain finds its PV console.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct PvConsole {
    /// The page of its rings, in its own map.
    pub ipa: Ipa,
    /// The same in the machine: a frame that is kept for it.
    pub page: Pa,
    /// Its port.
    pub port: EventPort,
}

/// A domain's PL031.
#[derive(Debug)]
pub struct DomainClock {
    /// Its registers.
    pub registers: Mutex<Pl031>,
    /// Its interrupt, if its interrupt controller had one to spare.
    pub interrupt: Option<IntId>,
}

/// What the world switch loads for every vCPU of a domain.
#[derive(Copy, Clone, Debug)]
pub struct SwitchConstants {
    /// VTTBR_EL2.
    pub vttbr: u64,
    /// VTCR_EL2, without the bits that are RES1.
    pub vtcr: u64,
}

impl Domain {
    /// Whether its guest has ended and is not to start again by itself.
    pub fn is_stopped(&self) -> bool {
        self.life.phase().is_over()
    }

    /// Why its guest does not run; `None` while it does, and while it restarts.
    pub fn shutdown(&self) -> Option<ShutdownReason> {
        let phase = self.life.phase();
        phase.reason().filter(|_| phase.is_over())
    }

    /// How many of its vCPUs are not off.
    pub fn live(&self) -> u32 {
        self.live_vcpus.load(Ordering::Acquire)
    }

    /// What follows when it ends for `reason`, by its manifest.
    pub const fn follows(&self, reason: ShutdownReason) -> OnShutdown {
        match reason {
            ShutdownReason::Poweroff | ShutdownReason::Suspend => OnShutdown::Stop,
            ShutdownReason::Reboot | ShutdownReason::SoftReset => self.plan.on_reboot,
            ShutdownReason::Crash => self.plan.on_crash,
            ShutdownReason::Watchdog => self.plan.on_watchdog,
        }
    }
}
