//! Where everything is in a domain's guest-physical map.
//!
//! An ordinary domain has Xen's map, which backends rely on. A direct-mapped one sees RAM, interrupt controller and its
//! devices where the machine has them, so its virtual windows go into holes of the machine's map: an address that a device
//! or a driver gets wrong hits nothing.

mod devices;
mod extended;
mod interrupts;
mod taken;

use alloc::vec::Vec;

use crate::domain::DomainConfig;
use crate::error::{ManifestError, Reason};
use crate::host::{Gic, Host, REDISTRIBUTOR_SIZE};
use crate::rtc;
use crate::tree::Node;
use portunus_base::ids::{IntId, PAGE_SIZE};
use portunus_base::range::IpaRange;
use portunus_base::sorting::sort_by_key;

use devices::{place_devices, place_windows};
use extended::extended_regions;
use interrupts::{Interrupts, allocate_interrupts, spis};
use taken::{HOLE_ALIGNMENT, LAST_HOLE, Taken};

/// Who has the addresses of shared memory.
const SHARED_MEMORY: &str = "shared memory";

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Bytes of the registers of a virtio-mmio device in Xen's map (xen-abi: libxl).
pub const VIRTIO_STRIDE: u64 = 0x200;
/// Where an ordinary domain's virtio devices begin, and how much room they have.
const VIRTIO: IpaRange = IpaRange::new(0x0200_0000, MIB);
/// GICD of an ordinary domain.
const DISTRIBUTOR: u64 = 0x0300_1000;
/// GICC of an ordinary domain with GICv2.
const CPU_INTERFACE: u64 = 0x0300_2000;
/// GICR of an ordinary domain with GICv3.
const REDISTRIBUTORS: u64 = 0x0302_0000;
/// The emulated UART of an ordinary domain.
const UART: IpaRange = IpaRange::new(0x2200_0000, PAGE_SIZE);
/// The emulated real-time clock of an ordinary domain, which Xen does not have.
const RTC: IpaRange = IpaRange::new(0x2200_1000, PAGE_SIZE);
/// Where an ordinary domain maps its grant table.
const GRANT_WINDOW: IpaRange = IpaRange::new(0x3800_0000, 16 * MIB);
/// The page of an ordinary domain's PV console: where Xen's tools put it.
const PV_CONSOLE: IpaRange = IpaRange::new(0x3900_0000, PAGE_SIZE);
/// First bank of an ordinary domain's RAM: at most this much.
const RAM0: IpaRange = IpaRange::new(0x4000_0000, 3 * GIB);
/// Where the second bank begins.
const RAM1: u64 = 0x2_0000_0000;
/// Linux plugs unpopulated memory in naturally aligned pieces of this size.
const EXTENDED_ALIGNMENT: u64 = 128 * MIB;
/// Room for mappings of other domains' memory above RAM; costs nothing until used.
const EXTENDED_SIZE: u64 = 32 * GIB;
/// Sizes to try for it where the machine's map has no such hole.
const EXTENDED_SIZES: [u64; 4] = [EXTENDED_SIZE, 8 * GIB, GIB, EXTENDED_ALIGNMENT];

/// SPI of the emulated UART in Xen's map.
const UART_INTERRUPT: u32 = 32;
/// First SPI of virtio devices in Xen's map.
const FIRST_DEVICE_INTERRUPT: u32 = 33;
/// GICs count SPIs in steps of this.
const SPI_STEP: u32 = 32;

/// A domain's guest-physical map.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Layout {
    /// RAM, lowest first. Empty for a direct-mapped domain without static memory: it is where the machine's is.
    pub memory: Vec<IpaRange>,
    /// The interrupt controller.
    pub gic: VirtualGic,
    /// The emulated UART and its SPI.
    pub uart: Option<VirtualUart>,
    /// The emulated real-time clock.
    pub rtc: Option<VirtualRtc>,
    /// The page of the PV console.
    pub pv_console: Option<IpaRange>,
    /// Where virtio devices without an address of their own are.
    pub virtio: IpaRange,
    /// Where the domain may map its grant table.
    pub grant_window: IpaRange,
    /// Room for mappings of others' memory, 128 MiB aligned, lowest first.
    pub extended_regions: Vec<IpaRange>,
    /// SPIs of its interrupt controller: a multiple of 32, or 988.
    pub spis: u32,
}

/// The frames of a virtual interrupt controller.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum VirtualGic {
    /// GICv2.
    V2 {
        /// GICD, 4 KiB.
        distributor: IpaRange,
        /// GICC, 8 KiB: two pages of the machine's GICV, which need not touch there.
        cpu_interface: IpaRange,
    },
    /// GICv3.
    V3 {
        /// GICD, 64 KiB.
        distributor: IpaRange,
        /// GICR, 128 KiB a vCPU.
        redistributors: IpaRange,
    },
}

impl Default for VirtualGic {
    fn default() -> Self {
        Self::V3 {
            distributor: IpaRange::default(),
            redistributors: IpaRange::default(),
        }
    }
}

impl VirtualGic {
    /// Its frames.
    pub fn frames(self) -> [IpaRange; 2] {
        match self {
            Self::V2 {
                distributor,
                cpu_interface,
            } => [distributor, cpu_interface],
            Self::V3 {
                distributor,
                redistributors,
            } => [distributor, redistributors],
        }
    }
}

/// The emulated UART of a domain.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct VirtualUart {
    /// Its registers.
    pub registers: IpaRange,
    /// Its interrupt, level-high.
    pub interrupt: IntId,
}

/// The emulated real-time clock of a domain.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct VirtualRtc {
    /// Its registers.
    pub registers: IpaRange,
    /// Its interrupt, level-high; `None` if `nr_spis` leaves none for it.
    pub interrupt: Option<IntId>,
}

/// What a manifest says of a device's place; `None`: anywhere.
#[derive(Copy, Clone, Debug)]
pub(crate) struct DeviceWindow {
    pub(crate) range: Option<IpaRange>,
    pub(crate) interrupt: Option<IntId>,
}

impl Layout {
    /// One past the highest address that anything in the map has; RAM of a direct-mapped domain without static memory is
    /// not counted.
    pub fn end(&self) -> u64 {
        let frames = self.gic.frames();
        let all = self
            .memory
            .iter()
            .chain(&self.extended_regions)
            .chain(&frames)
            .chain([&self.grant_window, &self.virtio]);
        all.map(|range| range.end())
            .chain(self.uart.map(|uart| uart.registers.end()))
            .chain(self.rtc.map(|rtc| rtc.registers.end()))
            .chain(self.pv_console.map(IpaRange::end))
            .max()
            .unwrap_or(0)
    }
}

/// The banks of an ordinary domain with `bytes` of RAM.
pub fn banks(bytes: u64) -> Vec<IpaRange> {
    let first = bytes.min(RAM0.size);
    let mut banks = alloc::vec![IpaRange {
        start: RAM0.start,
        size: first
    }];
    if bytes > first {
        banks.push(IpaRange::new(RAM1, bytes - first));
    }
    banks
}

/// Places everything of `domain`, whose node is `node`: fills its layout and the ranges and interrupts of its devices.
pub(crate) fn place(domain: &mut DomainConfig, node: Node<'_, '_>, host: &Host) -> Result<(), ManifestError> {
    let mut taken = Taken::default();
    let mut layout = Layout::default();
    if domain.direct_map {
        for range in host.memory.iter().chain(&host.reserved).chain(&host.devices) {
            let range = range.pages();
            taken.add(IpaRange::new(range.start.0, range.size), "the machine's own map");
        }
        layout.memory = domain
            .static_memory
            .iter()
            .map(|range| IpaRange::new(range.start.0, range.size))
            .collect();
        sort_by_key(&mut layout.memory, |range| *range);
    } else {
        layout.memory = banks(domain.memory);
        for bank in &layout.memory {
            taken.add(*bank, "RAM");
        }
    }

    layout.gic = virtual_gic(domain, host).map_err(|reason| node.error("cpus", reason))?;
    for frame in layout.gic.frames() {
        taken.add(frame, "the interrupt controller");
    }
    if !domain.direct_map {
        // Nothing is placed by search, so that these are Xen's addresses whatever the domain has.
        taken.add(GRANT_WINDOW, "the grant window");
        if domain.pv_console {
            taken.add(PV_CONSOLE, "the PV console");
        }
        taken.add(UART, "the emulated UART");
        if domain.rtc {
            taken.add(RTC, "the emulated real-time clock");
        }
        taken.add(VIRTIO, "the virtio window");
    }
    for region in &domain.shared_memory {
        // Of a direct-mapped domain all the machine's RAM is taken; `validate` sees that the region is in nobody's.
        if !domain.direct_map {
            taken
                .claim(region.guest, SHARED_MEMORY)
                .map_err(|reason| ManifestError::new(&region.path, "xen,shared-mem", reason))?;
        }
        if region.guest.end() > LAST_HOLE {
            let reason = Reason::AboveLimit {
                found: region.guest.end(),
                limit: LAST_HOLE,
            };
            return Err(ManifestError::new(&region.path, "xen,shared-mem", reason));
        }
    }
    for device in &domain.passthrough.devices {
        for mapping in &device.mappings {
            let range = mapping.guest_range();
            let error = |reason| ManifestError::new(&device.path, "xen,reg", reason);
            if domain.direct_map {
                taken.add(range, "a passed-through device");
            } else if taken.owner(range) != Some("a passed-through device") {
                taken.claim(range, "a passed-through device").map_err(error)?;
            }
        }
    }
    if domain.direct_map {
        layout.virtio = taken
            .window(VIRTIO, "the virtio window")
            .map_err(|reason| node.error("direct-map", reason))?;
        layout.grant_window = taken
            .window(GRANT_WINDOW, "the grant window")
            .map_err(|reason| node.error("direct-map", reason))?;
    } else {
        layout.virtio = VIRTIO;
        layout.grant_window = GRANT_WINDOW;
    }

    if domain.pv_console {
        layout.pv_console = Some(match domain.direct_map {
            true => taken
                .window(PV_CONSOLE, "the PV console")
                .map_err(|reason| node.error("portunus,console", reason))?,
            false => PV_CONSOLE,
        });
    }

    let mut interrupts = Interrupts::new(domain);
    place_devices(domain, node, &layout, &mut taken, &mut interrupts)?;
    if domain.vpl011 {
        let registers = match domain.direct_map {
            true => taken
                .window(UART, "the emulated UART")
                .map_err(|reason| node.error("vpl011", reason))?,
            false => UART,
        };
        let interrupt = interrupts.allocate(UART_INTERRUPT, "the emulated UART");
        layout.uart = Some(VirtualUart {
            registers,
            interrupt: interrupt.map_err(|reason| node.error("vpl011", reason))?,
        });
    }
    allocate_interrupts(domain, &mut interrupts)?;
    if domain.rtc {
        let registers = match domain.direct_map {
            true => taken
                .window(RTC, "the emulated real-time clock")
                .map_err(|reason| node.error(rtc::RTC, reason))?,
            false => RTC,
        };
        // The last to choose, so that every other number is what it is without a clock.
        let limit = match domain.spis {
            0 => IntId::SPI_LIMIT,
            spis => IntId::FIRST_SPI + spis,
        };
        let interrupt = interrupts.allocate_in(FIRST_DEVICE_INTERRUPT..limit, "the emulated real-time clock");
        layout.rtc = Some(VirtualRtc {
            registers,
            interrupt: interrupt.ok(),
        });
    }
    place_windows(domain, &layout)?;
    layout.extended_regions = extended_regions(domain, &layout, host, &taken);
    if domain.hypervisor_node && layout.extended_regions.is_empty() {
        return Err(node.error("xen,enhanced", Reason::NoRoom(EXTENDED_ALIGNMENT)));
    }
    layout.spis = spis(domain, node, &interrupts)?;
    domain.layout = layout;
    Ok(())
}

fn virtual_gic(domain: &DomainConfig, host: &Host) -> Result<VirtualGic, Reason> {
    let needed = u64::from(domain.vcpu_count()) * REDISTRIBUTOR_SIZE;
    Ok(match (&host.gic, domain.direct_map) {
        (Gic::V2(_), false) => VirtualGic::V2 {
            distributor: IpaRange::new(DISTRIBUTOR, PAGE_SIZE),
            cpu_interface: IpaRange::new(CPU_INTERFACE, 2 * PAGE_SIZE),
        },
        (Gic::V2(gic), true) => VirtualGic::V2 {
            distributor: IpaRange::new(gic.distributor.start.0, PAGE_SIZE),
            cpu_interface: IpaRange::new(gic.cpu_interface.start.0, 2 * PAGE_SIZE),
        },
        (Gic::V3(_), false) => VirtualGic::V3 {
            distributor: IpaRange::new(DISTRIBUTOR, HOLE_ALIGNMENT),
            redistributors: IpaRange::new(REDISTRIBUTORS, needed),
        },
        (Gic::V3(gic), true) => {
            let region = gic.redistributors.iter().find(|region| region.size >= needed);
            let region = region.ok_or(Reason::NoRoom(needed))?;
            VirtualGic::V3 {
                distributor: IpaRange::new(gic.distributor.start.0, HOLE_ALIGNMENT),
                redistributors: IpaRange::new(region.start.0, needed),
            }
        }
    })
}
