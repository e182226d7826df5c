//! What the machine is, from the device tree that its firmware passes.
//!
//! Nothing here is board knowledge: banks, CPUs, interrupt controller, timer and console are found by their standard
//! bindings, through nested buses and any number of cells.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::error::{ManifestError, Reason};
use crate::tree::{GIC_V2, GIC_V3, Interrupt, Node, Reg, Tree, is_gic};
use portunus_base::ids::{MAX_PCPUS, PAGE_SIZE, Pa, PcpuId};
use portunus_base::range::PaRange;
use portunus_base::sorting::sort_by_key;

/// Bytes of the registers of a PL031 (PrimeCell Real Time Clock PL031 Technical Reference Manual, 3.2).
const RTC_FRAME: u64 = 0x1000;
/// Frames that GICv2's distributor and each of its other register blocks have at least (GICv2 specification, chapter 4).
const GICV2_MIN_FRAME: u64 = 0x1000;
/// A register block of a GICv2 whose pages are each repeated through 64 KiB is at least this big.
pub const REPEATED_BLOCK: u64 = 128 << 10;
/// Bytes from one page to the next in such a block.
pub const REPEATED_PAGE: u64 = 64 << 10;
/// Bytes of the two frames of one GICv3 redistributor (GICv3 specification, 12.10).
pub const REDISTRIBUTOR_SIZE: u64 = 0x20000;

/// The machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Host {
    /// RAM, lowest first; banks that touch are joined.
    pub memory: Vec<PaRange>,
    /// Parts of RAM that firmware keeps: the reservation block and `/reserved-memory`, lowest first, joined.
    pub reserved: Vec<PaRange>,
    /// Enabled CPUs in the order of the tree.
    pub cpus: Vec<HostCpu>,
    /// How to call firmware; `None` without PSCI 0.2 or newer.
    pub psci: Option<Psci>,
    /// The interrupt controller.
    pub gic: Gic,
    /// The architected timer.
    pub timer: Timer,
    /// The console.
    pub uart: Option<Uart>,
    /// The registers of the real-time clock, a PL031.
    pub rtc: Option<PaRange>,
    /// Every device's registers, lowest first, joined: where a direct-mapped domain's windows must not be.
    pub devices: Vec<PaRange>,
}

/// A CPU of the machine.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct HostCpu {
    /// Its affinity as in MPIDR_EL1: Aff3 in bits 39:32, Aff2 to Aff0 in 23:0.
    pub mpidr: u64,
    /// The number that it runs under; `None`: it does not run. Until the CPUs are started, its place in the tree.
    pub pcpu: Option<PcpuId>,
}

/// How firmware is called.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Conduit {
    /// By SMC.
    Smc,
    /// By HVC.
    Hvc,
}

/// The firmware's PSCI.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Psci {
    /// How it is called.
    pub conduit: Conduit,
    /// Whether it says 1.0 or newer; else it is 0.2.
    pub is_1_0: bool,
}

/// The physical interrupt controller.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Gic {
    /// GICv2 with virtualisation extensions.
    V2(GicV2),
    /// GICv3 or newer.
    V3(GicV3),
}

impl Gic {
    /// The distributor's registers.
    pub fn distributor(&self) -> PaRange {
        match self {
            Self::V2(gic) => gic.distributor,
            Self::V3(gic) => gic.distributor,
        }
    }
    /// The maintenance interrupt.
    pub fn maintenance(&self) -> Interrupt {
        match self {
            Self::V2(gic) => gic.maintenance,
            Self::V3(gic) => gic.maintenance,
        }
    }
    /// 2 or 3.
    pub fn version(&self) -> u8 {
        match self {
            Self::V2(_) => 2,
            Self::V3(_) => 3,
        }
    }
}

/// A GICv2's register blocks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GicV2 {
    /// GICD.
    pub distributor: PaRange,
    /// GICC.
    pub cpu_interface: PaRange,
    /// GICH.
    pub hypervisor_interface: PaRange,
    /// GICV.
    pub virtual_cpu_interface: PaRange,
    /// The maintenance interrupt.
    pub maintenance: Interrupt,
    /// The 4 KiB pages of GICC and GICV are each repeated through 64 KiB: [`is_repeated`], which no device tree says.
    pub is_repeated: bool,
}

impl GicV2 {
    /// Where page `page` of GICV is, of which a guest's GICC is made.
    pub const fn virtual_page(&self, page: u64) -> Pa {
        let repeated = self.is_repeated && self.virtual_cpu_interface.size >= REPEATED_BLOCK;
        let stride = if repeated { REPEATED_PAGE } else { PAGE_SIZE };
        Pa(self.virtual_cpu_interface.start.0 + page * stride)
    }
}

/// Whether the 4 KiB pages of a GICv2's register blocks are each repeated through 64 KiB, so that the second of a block is
/// 64 KiB behind the first. Boards wire a GIC-400 so for kernels with pages of 64 KiB. `size` is that of GICC; `first` and
/// `again` are what GICC_IIDR reads at offsets 0xfc and 0xf0fc, which is read only if the block is [`REPEATED_BLOCK`]: a size
/// alone says nothing, since trees round sizes up.
pub const fn is_repeated(size: u64, first: u32, again: u32) -> bool {
    size >= REPEATED_BLOCK && first == again && first != 0
}

/// A GICv3's register blocks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GicV3 {
    /// GICD.
    pub distributor: PaRange,
    /// GICR, region by region.
    pub redistributors: Vec<PaRange>,
    /// Bytes from one redistributor to the next; `None`: as each one's GICR_TYPER.VLPIS says.
    pub stride: Option<u64>,
    /// The maintenance interrupt.
    pub maintenance: Interrupt,
}

/// The architected timer's interrupts.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Timer {
    /// EL3 physical.
    pub secure_physical: Interrupt,
    /// EL1 physical.
    pub physical: Interrupt,
    /// EL1 virtual.
    pub virtual_: Interrupt,
    /// EL2 physical.
    pub hypervisor: Interrupt,
    /// `clock-frequency` in Hz, where firmware left CNTFRQ_EL0 wrong.
    pub frequency: Option<u32>,
}

/// The console's UART.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Uart {
    /// Path of its node.
    pub path: String,
    /// `compatible`, the most specific first.
    pub compatible: Vec<String>,
    /// Its registers.
    pub registers: PaRange,
    /// Its first interrupt.
    pub interrupt: Option<Interrupt>,
    /// Rate of its first clock in Hz, when that is a fixed one.
    pub clock_frequency: Option<u32>,
    /// The options after ':' in `stdout-path`, as in `115200n8`.
    pub options: String,
}

impl Host {
    /// Reads the machine out of its device tree.
    ///
    /// # Errors
    ///
    /// The first node without which Portunus can't run that is absent or malformed: RAM, CPUs, GIC, timer.
    pub fn parse(tree: &Tree<'_>) -> Result<Self, ManifestError> {
        let root = tree.root().ok_or(ManifestError::new("/", "", Reason::Missing))?;
        Ok(Self {
            memory: memory(root)?,
            reserved: reserved(tree)?,
            cpus: cpus(root)?,
            psci: psci(tree)?,
            gic: gic(root)?,
            timer: timer(root)?,
            uart: uart(tree)?,
            rtc: rtc(tree),
            devices: devices(tree),
        })
    }

    /// Keeps `ranges` from domains and modules, as what firmware reserves.
    pub fn reserve(&mut self, ranges: impl IntoIterator<Item = PaRange>) {
        self.reserved.extend(ranges.into_iter().map(PaRange::pages));
        self.reserved = joined(core::mem::take(&mut self.reserved));
    }

    /// Whether every byte of `range` is RAM.
    pub fn is_memory(&self, range: PaRange) -> bool {
        self.memory.iter().any(|bank| bank.contains(range))
    }

    /// One past the last byte of RAM.
    pub fn memory_end(&self) -> Pa {
        Pa(self.memory.last().map_or(0, |bank| bank.end()))
    }
}

/// Sorts ranges and joins those that touch; drops empty ones.
pub fn joined(mut ranges: Vec<PaRange>) -> Vec<PaRange> {
    ranges.retain(|range| !range.is_empty());
    sort_by_key(&mut ranges, |range| *range);
    let mut joined: Vec<PaRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start.0 <= last.end() => last.size = last.end().max(range.end()) - last.start.0,
            _ => joined.push(range),
        }
    }
    joined
}

fn memory(root: Node<'_, '_>) -> Result<Vec<PaRange>, ManifestError> {
    let mut banks: Vec<PaRange> = Vec::new();
    for node in root
        .children()
        .filter(|node| node.strings("device_type").any(|kind| kind == "memory"))
    {
        if !node.is_enabled() {
            continue;
        }
        for Reg { address, size } in node.reg()? {
            let bank = PaRange::new(address, size);
            if !bank.fits() {
                return Err(node.error("reg", Reason::Overflow(bank)));
            }
            // A loader that writes all banks into the first node repeats those of the others.
            let repeats = |other: &PaRange| other.contains(bank) || bank.contains(*other);
            if let Some(other) = banks.iter().find(|other| other.overlaps(bank) && !repeats(other)) {
                let owner = format!("the bank {other}");
                return Err(node.error("reg", Reason::Taken { range: bank, owner }));
            }
            banks.push(bank);
        }
    }
    let banks = joined(banks);
    if banks.is_empty() {
        return Err(root.error("memory", Reason::Missing));
    }
    Ok(banks)
}

fn reserved(tree: &Tree<'_>) -> Result<Vec<PaRange>, ManifestError> {
    let mut ranges: Vec<PaRange> = tree.reservations().to_vec();
    if let Some(parent) = tree.find("/reserved-memory") {
        // A node without `reg` asks its reader to choose a place: there is nothing to keep away from.
        for node in parent.children().filter(|node| node.is_enabled()) {
            for reg in node.reg()? {
                ranges.push(
                    node.translate(reg)
                        .ok_or_else(|| node.error("reg", Reason::Untranslatable))?,
                );
            }
        }
    }
    Ok(joined(ranges))
}

fn cpus(root: Node<'_, '_>) -> Result<Vec<HostCpu>, ManifestError> {
    let node = root.child("cpus").ok_or_else(|| root.error("cpus", Reason::Missing))?;
    let cells = node.address_cells();
    let mut cpus: Vec<HostCpu> = Vec::new();
    for cpu in node
        .children()
        .filter(|node| node.strings("device_type").any(|kind| kind == "cpu"))
    {
        if !cpu.is_enabled() {
            continue;
        }
        let rows = cpu.rows("reg", [cells])?;
        let [mpidr] = *rows.first().ok_or_else(|| cpu.error("reg", Reason::Missing))?;
        let pcpu = (cpus.len() < MAX_PCPUS).then_some(PcpuId(cpus.len() as u8));
        cpus.push(HostCpu { mpidr, pcpu });
    }
    if cpus.is_empty() {
        return Err(node.error("cpu", Reason::Missing));
    }
    Ok(cpus)
}

fn psci(tree: &Tree<'_>) -> Result<Option<Psci>, ManifestError> {
    let names = ["arm,psci-1.0", "arm,psci-0.2"];
    let found = tree
        .nodes()
        .find(|node| node.is_enabled() && names.iter().any(|name| node.is_compatible(name)));
    let Some(node) = found else { return Ok(None) };
    let conduit = match node.string("method")? {
        Some("smc") => Conduit::Smc,
        Some("hvc") => Conduit::Hvc,
        Some(other) => return Err(node.error("method", Reason::UnknownText(other.to_string()))),
        None => return Err(node.error("method", Reason::Missing)),
    };
    Ok(Some(Psci {
        conduit,
        is_1_0: node.is_compatible("arm,psci-1.0"),
    }))
}

fn gic(root: Node<'_, '_>) -> Result<Gic, ManifestError> {
    let find = |wanted: fn(Node<'_, '_>) -> bool| root.tree().nodes().find(|node| node.is_enabled() && wanted(*node));
    let node = find(is_gic).ok_or_else(|| {
        let other = find(|node| node.has("interrupt-controller"));
        other.map_or_else(
            || root.error("interrupt-controller", Reason::Missing),
            |node| {
                node.error(
                    "compatible",
                    Reason::Unsupported("the machine's GIC must be a GICv2 or a GICv3"),
                )
            },
        )
    })?;
    let maintenance = *node
        .interrupts()?
        .first()
        .ok_or_else(|| node.error("interrupts", Reason::Missing))?;
    if !maintenance.id.is_private() {
        return Err(node.error("interrupts", Reason::Interrupt));
    }
    let distributor = node.physical_reg(0)?;
    if node.is_compatible(GIC_V3) {
        let regions = node.u32("#redistributor-regions")?.unwrap_or(1);
        let redistributors = (1..=regions as usize).map(|index| node.physical_reg(index));
        let redistributors = redistributors.collect::<Result<Vec<_>, _>>()?;
        if redistributors.is_empty() {
            return Err(node.error("#redistributor-regions", Reason::Zero));
        }
        if redistributors.iter().any(|region| region.size < REDISTRIBUTOR_SIZE) {
            return Err(node.error(
                "reg",
                Reason::Unsupported("a redistributor region is smaller than one redistributor"),
            ));
        }
        let stride = stride(node)?;
        return Ok(Gic::V3(GicV3 {
            distributor,
            redistributors,
            stride,
            maintenance,
        }));
    }
    debug_assert!(GIC_V2.iter().any(|name| node.is_compatible(name)));
    let gic = GicV2 {
        distributor,
        cpu_interface: node.physical_reg(1)?,
        hypervisor_interface: node.physical_reg(2)?,
        virtual_cpu_interface: node.physical_reg(3)?,
        maintenance,
        is_repeated: false,
    };
    let frames = [
        gic.distributor,
        gic.cpu_interface,
        gic.hypervisor_interface,
        gic.virtual_cpu_interface,
    ];
    if frames.iter().any(|frame| frame.size < GICV2_MIN_FRAME) {
        return Err(node.error(
            "reg",
            Reason::Unsupported("a register block of the GIC is smaller than a page"),
        ));
    }
    Ok(Gic::V2(gic))
}

fn stride(node: Node<'_, '_>) -> Result<Option<u64>, ManifestError> {
    let name = "redistributor-stride";
    let Some(cells) = node.cells(name)? else {
        return Ok(None);
    };
    let stride = match *cells {
        [low] => u64::from(low),
        [high, low] => u64::from(high) << 32 | u64::from(low),
        _ => return Err(node.error(name, Reason::Length(cells.len().saturating_mul(4)))),
    };
    match stride {
        0 => Ok(None),
        stride if stride < REDISTRIBUTOR_SIZE || !stride.is_multiple_of(0x10000) => {
            Err(node.error(name, Reason::UnknownNumber(stride)))
        }
        stride => Ok(Some(stride)),
    }
}

fn timer(root: Node<'_, '_>) -> Result<Timer, ManifestError> {
    let names = ["arm,armv8-timer", "arm,armv7-timer"];
    let found = root
        .tree()
        .nodes()
        .find(|node| node.is_enabled() && names.iter().any(|name| node.is_compatible(name)));
    let node = found.ok_or_else(|| root.error("timer", Reason::Missing))?;
    let interrupts = node.interrupts()?;
    if let Some(_shared) = interrupts.iter().find(|interrupt| !interrupt.id.is_private()) {
        return Err(node.error("interrupts", Reason::Interrupt));
    }
    let names: Vec<&str> = node.strings("interrupt-names").collect();
    let pick = |name: &str, position: usize| {
        let named = names.iter().position(|found| *found == name);
        let index = if names.is_empty() { Some(position) } else { named };
        index.and_then(|index| interrupts.get(index)).copied()
    };
    let needed = |name: &str, position| pick(name, position).ok_or_else(|| node.error("interrupts", Reason::Missing));
    let physical = needed("phys", 1)?;
    Ok(Timer {
        // Only EL3 needs it; some trees leave it out when they name the others.
        secure_physical: pick("sec-phys", 0).unwrap_or(physical),
        physical,
        virtual_: needed("virt", 2)?,
        hypervisor: needed("hyp-phys", 3)?,
        frequency: node.u32("clock-frequency")?,
    })
}

/// The console that `/chosen` names, else the first PL011: found even where the rest of the machine is not understood, so
/// that there is a place to say so.
///
/// # Errors
///
/// What is wrong with `stdout-path` or the node.
pub fn uart(tree: &Tree<'_>) -> Result<Option<Uart>, ManifestError> {
    let mut options = "";
    let mut found = None;
    if let Some(chosen) = tree.find("/chosen") {
        let property = if chosen.has("stdout-path") {
            "stdout-path"
        } else {
            "linux,stdout-path"
        };
        if let Some(text) = chosen.string(property)? {
            let (path, rest) = text.split_once(':').unwrap_or((text, ""));
            options = rest;
            let alias = || {
                tree.find("/aliases")
                    .and_then(|aliases| aliases.string(path).ok().flatten())
            };
            let path = if path.starts_with('/') { Some(path) } else { alias() };
            found = Some(
                path.and_then(|path| tree.find(path))
                    .ok_or_else(|| chosen.error(property, Reason::UnknownText(text.to_string())))?,
            );
        }
    }
    let first = || {
        tree.nodes()
            .find(|node| node.is_enabled() && node.is_compatible("arm,pl011"))
    };
    let Some(node) = found.or_else(first) else {
        return Ok(None);
    };
    Ok(Some(Uart {
        path: node.path(),
        compatible: node.strings("compatible").map(ToString::to_string).collect(),
        registers: node.physical_reg(0)?,
        interrupt: node.interrupts()?.first().copied(),
        clock_frequency: fixed_clock(node),
        options: options.to_string(),
    }))
}

/// The first PL031. The machine is usable without one, so a node that is malformed is none.
fn rtc(tree: &Tree<'_>) -> Option<PaRange> {
    let mut clocks = tree
        .nodes()
        .filter(|node| node.is_enabled() && node.is_compatible("arm,pl031"));
    let registers = clocks.next()?.physical_reg(0).ok()?;
    (registers.size >= RTC_FRAME && registers.fits() && registers.is_aligned(4)).then_some(registers)
}

/// The rate of a node's first clock when it is a fixed one.
fn fixed_clock(node: Node<'_, '_>) -> Option<u32> {
    let clock = node.tree().by_phandle(*node.cells("clocks").ok()??.first()?)?;
    if clock.is_compatible("fixed-clock") {
        clock.u32("clock-frequency").ok()?
    } else {
        None
    }
}

/// Registers of all devices, used or not, and the windows of PCI host bridges. What can't be translated is on no bus that
/// a CPU sees.
fn devices(tree: &Tree<'_>) -> Vec<PaRange> {
    let mut ranges = Vec::new();
    for node in tree.nodes() {
        let kind = node.strings("device_type").next();
        if matches!(kind, Some("memory" | "cpu"))
            || node.parent().is_none_or(|parent| parent.name() == "reserved-memory")
        {
            continue;
        }
        let regs = node.reg().unwrap_or_default();
        ranges.extend(regs.into_iter().filter_map(|reg| node.translate(reg)));
        if kind == Some("pci") {
            ranges.extend(pci_windows(node));
        }
    }
    joined(ranges)
}

/// The CPU's side of a host bridge's windows (PCI bus binding: 3 cells of PCI address, the parent's, 2 of size).
fn pci_windows(node: Node<'_, '_>) -> Vec<PaRange> {
    let Some(parent) = node.parent() else { return Vec::new() };
    let Ok(rows) = node.rows("ranges", [1, 2, parent.address_cells(), 2]) else {
        return Vec::new();
    };
    rows.into_iter()
        .filter_map(|[_, _, address, size]| node.translate(Reg { address, size }))
        .collect()
}
