//! The device tree that a guest sees: its memory, CPUs, interrupt controller, timer, console and devices.
//!
//! It has the nodes that Xen writes for a domain, at the same addresses, and one `virtio,mmio` node a device. A domain that
//! serves devices gets `/hypervisor`, and `/portunus`, which says what it serves to whom. The UART is a PL011 with a fixed
//! clock, not Xen's SBSA UART: every kernel that drives the one drives the other as ttyAMA0, and kernels and boot loaders
//! that know only the PL011 have a console too.

mod backend;
pub mod fresh;
mod memory;
mod nodes;
mod passthrough;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::model::{DeviceTree, DeviceTreeNode};

use crate::Manifest;
use crate::devices::{DeviceConfig, MemoryAccess};
use crate::domain::DomainConfig;
use crate::error::{ManifestError, Reason};
use crate::layout::{VirtualGic, VirtualRtc, VirtualUart};
use crate::tree::{Interrupt, Tree, Trigger};
use portunus_base::ids::{DomainId, IntId};
use portunus_base::range::IpaRange;

use nodes::{Builder, cells, regs};
use passthrough::Phandles;

/// The machine as Linux's `of_machine_is_compatible` and boot loaders see it.
const MACHINE: [&str; 2] = ["xen,xenvm-4.20", "xen,xenvm"];
/// The hypervisor node's compatible: Linux wants the version first (xen-abi 4.1).
const HYPERVISOR: [&str; 2] = ["xen,xen-4.20", "xen,xen"];
/// Event-channel upcall: PPI 15.
const UPCALL: Interrupt = Interrupt {
    id: IntId(31),
    trigger: Trigger::LevelLow,
};
/// Timer interrupts of a guest: secure physical, physical, virtual.
const TIMER: [u32; 3] = [29, 30, 27];
/// Rate of the clock of UART and real-time clock; any that divides to a usual baud rate does.
const UART_CLOCK: u32 = 24_000_000;

/// What a guest's tree is made from.
#[derive(Copy, Clone, Debug)]
pub struct GuestTree<'m> {
    /// All domains: a backend's tree speaks of its guests.
    pub manifest: &'m Manifest,
    /// Whose tree.
    pub domain: DomainId,
    /// RAM of each domain of the manifest, in the manifest's order, in its own guest-physical addresses.
    pub memory: &'m [Vec<IpaRange>],
    /// Where the ramdisk was copied to.
    pub ramdisk: Option<IpaRange>,
    /// `clock-frequency` of the timer, where CNTFRQ_EL0 is wrong.
    pub timer_frequency: Option<u32>,
    /// Whether it has room for seeds, zeroes that whoever starts the domain replaces (see [`fresh::FreshValues`]).
    pub seeds: bool,
}

impl GuestTree<'_> {
    /// The tree as a blob.
    ///
    /// # Errors
    ///
    /// [`Reason::Missing`] for a domain that the manifest does not have; what [`Tree::new`] says of the partial tree.
    pub fn build(&self) -> Result<Vec<u8>, ManifestError> {
        let missing = || ManifestError::new("/chosen", &format!("domain {}", self.domain.0), Reason::Missing);
        let domain = self.manifest.domain(self.domain).ok_or_else(missing)?;
        let partial = match domain.passthrough.tree.as_slice() {
            [] => None,
            bytes => Some(Tree::new(bytes)?),
        };
        let phandles = Phandles::new(partial.as_ref(), domain.windows().count());

        let mut tree = DeviceTree::new();
        let uart = domain.layout.uart;
        let uart_name = uart.map(|uart| format!("pl011@{:x}", uart.registers.start.0));
        tree.root = Builder::new("")
            .strings("compatible", &MACHINE)
            .strings("model", &["Portunus"])
            .cell("#address-cells", 2)
            .cell("#size-cells", 2)
            .cell("interrupt-parent", phandles.gic)
            .build();
        let root = &mut tree.root;
        root.add_child(self.chosen(domain, uart_name.as_deref()));
        let aliases = uart_name.as_ref().map(|name| format!("/{name}"));
        passthrough::aliases(root, partial.as_ref(), aliases.as_deref());
        root.add_child(cpus(domain));
        root.add_child(
            Builder::new("psci")
                .strings("compatible", &["arm,psci-1.0", "arm,psci-0.2"])
                .strings("method", &["hvc"])
                .build(),
        );
        let shared = domain.shared_memory.iter().map(|region| region.guest);
        let banks: Vec<IpaRange> = self.memory_of(self.domain).iter().copied().chain(shared).collect();
        if let Some(memory) = memory_node(&banks) {
            root.add_child(memory);
        }
        root.add_child(self.timer());
        root.add_child(gic(domain.layout.gic, phandles.gic));
        let rtc = domain.layout.rtc;
        if uart.is_some() || rtc.is_some() {
            root.add_child(clock(phandles.clock));
        }
        if let Some(rtc) = rtc {
            root.add_child(pl031(rtc, phandles.clock));
        }
        if let (Some(uart), Some(name)) = (uart, uart_name) {
            root.add_child(pl011(&name, uart, phandles.clock));
        }
        if domain.hypervisor_node {
            root.add_child(hypervisor(domain));
        }
        if let Some(reserved) = memory::reserved(domain, &phandles.windows) {
            root.add_child(reserved);
        }
        if domain.has_access(MemoryAccess::Grants) {
            root.add_child(memory::grant_dma(phandles.iommu));
        }
        let mut windows = phandles.windows.iter();
        for device in &domain.devices {
            let access = memory::of_device(device, phandles.iommu, &mut windows);
            root.add_child(virtio(device, access));
        }
        if self.manifest.served_by(self.domain).next().is_some() {
            root.add_child(backend::node(self));
        }
        if let Some(partial) = &partial {
            passthrough::copy(root, partial, &phandles);
        }
        Ok(tree.to_dtb())
    }

    /// The RAM of a domain.
    fn memory_of(&self, id: DomainId) -> &[IpaRange] {
        let index = self.manifest.domains.iter().position(|domain| domain.id == id);
        index
            .and_then(|index| self.memory.get(index))
            .map_or(&[], Vec::as_slice)
    }

    fn chosen(&self, domain: &DomainConfig, uart: Option<&str>) -> DeviceTreeNode {
        let mut node = Builder::new("chosen");
        if let Some(bootargs) = &domain.modules.bootargs {
            node = node.strings("bootargs", &[bootargs]);
        }
        if let Some(ramdisk) = self.ramdisk {
            node = node
                .long("linux,initrd-start", ramdisk.start.0)
                .long("linux,initrd-end", ramdisk.end());
        }
        if let Some(uart) = uart {
            node = node.strings("stdout-path", &[&format!("/{uart}")]);
        }
        if self.seeds {
            node = node
                .bytes("kaslr-seed", &[0; fresh::KASLR_SEED])
                .bytes("rng-seed", &[0; fresh::RNG_SEED]);
        }
        node = node.cell(fresh::RESTARTS, 0);
        node.build()
    }

    fn timer(&self) -> DeviceTreeNode {
        let interrupts = TIMER.map(|id| Interrupt {
            id: IntId(id),
            trigger: Trigger::LevelLow,
        });
        let mut node = Builder::new("timer")
            .strings("compatible", &["arm,armv8-timer"])
            .interrupts(&interrupts);
        if let Some(frequency) = self.timer_frequency {
            node = node.cell("clock-frequency", frequency);
        }
        node.build()
    }
}

/// A vCPU's affinity: eight at most, so that both GICs address them by Aff0 alone.
pub const fn affinity(vcpu: u8) -> u32 {
    vcpu as u32
}

fn cpus(domain: &DomainConfig) -> DeviceTreeNode {
    let mut node = Builder::new("cpus").cell("#address-cells", 1).cell("#size-cells", 0);
    for vcpu in 0..domain.vcpu_count() {
        let affinity = affinity(vcpu);
        let cpu = Builder::new(&format!("cpu@{affinity:x}"))
            .strings("device_type", &["cpu"])
            .strings("compatible", &["arm,armv8"])
            .strings("enable-method", &["psci"])
            .cell("reg", affinity);
        node = node.child(cpu.build());
    }
    node.build()
}

fn memory_node(banks: &[IpaRange]) -> Option<DeviceTreeNode> {
    let first = banks.first()?;
    let node = Builder::new(&format!("memory@{:x}", first.start.0)).strings("device_type", &["memory"]);
    Some(node.bytes("reg", &regs(banks)).build())
}

fn gic(gic: VirtualGic, phandle: u32) -> DeviceTreeNode {
    let frames = gic.frames();
    let [distributor, _] = frames;
    let compatible = match gic {
        VirtualGic::V2 { .. } => "arm,gic-400",
        VirtualGic::V3 { .. } => "arm,gic-v3",
    };
    Builder::new(&format!("interrupt-controller@{:x}", distributor.start.0))
        .strings("compatible", &[compatible])
        .cell("#address-cells", 0)
        .cell("#interrupt-cells", 3)
        .flag("interrupt-controller")
        .bytes("reg", &regs(&frames))
        .cell("phandle", phandle)
        .build()
}

fn clock(phandle: u32) -> DeviceTreeNode {
    Builder::new("apb-pclk")
        .strings("compatible", &["fixed-clock"])
        .cell("#clock-cells", 0)
        .cell("clock-frequency", UART_CLOCK)
        .cell("phandle", phandle)
        .build()
}

fn pl011(name: &str, uart: VirtualUart, clock: u32) -> DeviceTreeNode {
    Builder::new(name)
        .strings("compatible", &["arm,pl011", "arm,primecell"])
        .bytes("reg", &regs(&[uart.registers]))
        .interrupts(&[Interrupt {
            id: uart.interrupt,
            trigger: Trigger::LevelHigh,
        }])
        .bytes("clocks", &cells(&[clock, clock]))
        .strings("clock-names", &["uartclk", "apb_pclk"])
        .build()
}

fn pl031(rtc: VirtualRtc, clock: u32) -> DeviceTreeNode {
    let interrupt = rtc.interrupt.map(|id| Interrupt {
        id,
        trigger: Trigger::LevelHigh,
    });
    let node = Builder::new(&format!("pl031@{:x}", rtc.registers.start.0))
        .strings("compatible", &["arm,pl031", "arm,primecell"])
        .bytes("reg", &regs(&[rtc.registers]));
    let node = match interrupt {
        Some(interrupt) => node.interrupts(&[interrupt]),
        None => node,
    };
    node.cell("clocks", clock).strings("clock-names", &["apb_pclk"]).build()
}

fn hypervisor(domain: &DomainConfig) -> DeviceTreeNode {
    let mut windows = Vec::from([domain.layout.grant_window]);
    windows.extend_from_slice(&domain.layout.extended_regions);
    Builder::new("hypervisor")
        .strings("compatible", &HYPERVISOR)
        .bytes("reg", &regs(&windows))
        .interrupts(&[UPCALL])
        .build()
}

fn virtio(device: &DeviceConfig, access: Option<(&str, Vec<u8>)>) -> DeviceTreeNode {
    let node = Builder::new(&virtio_name(device))
        .strings("compatible", &["virtio,mmio"])
        .bytes("reg", &regs(&[device.range]))
        .interrupts(&[device.interrupt])
        .flag("dma-coherent");
    match access {
        Some((name, value)) => node.bytes(name, &value).build(),
        None => node.build(),
    }
}

fn virtio_name(device: &DeviceConfig) -> String {
    format!("virtio@{:x}", device.range.start.0)
}
