//! A machine, modules in its memory, and domains to be built there.

use portunus::domain::builder::{self, Built, BuiltDomain, CpuLimits, Placement};
use portunus::fakes::FakeMachine;
use portunus::ids::{DomainId, IntId, PcpuId};
use portunus::manifest::domain::{DomainConfig, GrantLimits, UnmappedAccess};
use portunus::manifest::host::{Gic, GicV2, GicV3, HostCpu, Timer};
use portunus::manifest::layout::{self, VirtualGic};
use portunus::manifest::lifecycle::OnShutdown;
use portunus::manifest::modules::{Module, Modules};
use portunus::manifest::passthrough::Passthrough;
use portunus::manifest::tree::{Interrupt, Trigger};
use portunus::manifest::{Host, Layout, Manifest, ManifestError};
use portunus::range::{IpaRange, PaRange};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) const GIB: u64 = 1 << 30;

/// The hypervisor's own part of RAM.
pub(crate) const HYPERVISOR: PaRange = PaRange::new(0x4000_0000, 2 * MIB);

pub(crate) const FIRMWARE: PaRange = PaRange::new(0x4020_0000, 0x1_0000);

pub(crate) const MODULES: u64 = 0x5000_0000;

pub(crate) const LIMITS: CpuLimits = CpuLimits {
    physical_bits: 44,
    vmid_16_bits: false,
    caching: portunus::memory::uncached::Caching::NonCacheable,
};

pub(crate) fn ppi(number: u32) -> Interrupt {
    Interrupt {
        id: IntId(number),
        trigger: Trigger::LevelHigh,
    }
}

pub(crate) fn host(gic: Gic, memory: &[PaRange]) -> Host {
    let timer = Timer {
        secure_physical: ppi(29),
        physical: ppi(30),
        virtual_: ppi(27),
        hypervisor: ppi(26),
        frequency: None,
    };
    Host {
        memory: memory.to_vec(),
        reserved: vec![FIRMWARE, HYPERVISOR],
        cpus: vec![HostCpu {
            mpidr: 0,
            pcpu: Some(PcpuId(0)),
        }],
        psci: None,
        gic,
        timer,
        uart: None,
        rtc: None,
        devices: Vec::new(),
    }
}

pub(crate) fn gicv3() -> Gic {
    Gic::V3(GicV3 {
        distributor: PaRange::new(0x800_0000, 0x1_0000),
        redistributors: vec![PaRange::new(0x80a_0000, 0xf6_0000)],
        stride: None,
        maintenance: ppi(25),
    })
}

pub(crate) fn gicv2(virtual_cpu_interface: PaRange) -> Gic {
    Gic::V2(GicV2 {
        distributor: PaRange::new(0xf101_0000, 0x1000),
        cpu_interface: PaRange::new(0xf102_0000, 0x2_0000),
        hypervisor_interface: PaRange::new(0xf104_0000, 0x2_0000),
        virtual_cpu_interface,
        maintenance: ppi(25),
        is_repeated: false,
    })
}

pub(crate) fn domain(number: u16, memory: u64) -> DomainConfig {
    let gic = VirtualGic::V3 {
        distributor: IpaRange::new(0x0300_1000, 0x1_0000),
        redistributors: IpaRange::new(0x0302_0000, 0x2_0000),
    };
    DomainConfig {
        id: DomainId(number),
        name: format!("domU{number}"),
        path: format!("/chosen/domU{number}"),
        memory,
        static_memory: Vec::new(),
        direct_map: false,
        vcpus: vec![None],
        share: 100,
        modules: Modules::default(),
        vpl011: false,
        pv_console: false,
        console_io: false,
        rtc: false,
        spis: 0,
        unmapped: UnmappedAccess::Abort,
        hypervisor_node: false,
        page_table_pool: MIB,
        grants: GrantLimits {
            frames: 64,
            maptrack_frames: 1024,
        },
        dma_trusted: false,
        on_crash: OnShutdown::Stop,
        on_reboot: OnShutdown::Restart,
        on_watchdog: OnShutdown::Restart,
        restart_limit: None,
        controls: Vec::new(),
        passthrough: Passthrough::default(),
        shared_memory: Vec::new(),
        devices: Vec::new(),
        layout: Layout {
            memory: layout::banks(memory),
            gic,
            ..Layout::default()
        },
    }
}

/// An arm64 Image with `byte` as its body.
pub(crate) fn kernel(byte: u8, image_size: u64, length: usize) -> Vec<u8> {
    let mut file = vec![byte; length];
    file[..64].fill(0);
    file[16..24].copy_from_slice(&image_size.to_le_bytes());
    file[24..32].copy_from_slice(&0xa_u64.to_le_bytes());
    file[56..60].copy_from_slice(b"ARM\x64");
    file
}

pub(crate) struct Bench {
    pub(crate) machine: FakeMachine,
    pub(crate) host: Host,
    pub(crate) manifest: Manifest,
    pub(crate) next_module: u64,
}

pub(crate) fn bench_on(gic: Gic, memory: &[PaRange]) -> Bench {
    let machine = FakeMachine::new();
    memory.iter().for_each(|bank| machine.add_memory(bank.start, bank.size));
    Bench {
        machine,
        host: host(gic, memory),
        manifest: Manifest::default(),
        next_module: MODULES,
    }
}

pub(crate) fn bench() -> Bench {
    bench_on(gicv3(), &[PaRange::new(0x4000_0000, 2 * GIB)])
}

impl Bench {
    pub(crate) fn module(&mut self, bytes: &[u8]) -> Option<Module> {
        let range = PaRange::new(self.next_module, bytes.len() as u64);
        self.machine.poke(range.start, bytes);
        self.next_module = (range.end() + 1).next_multiple_of(0x10_0000);
        Some(Module { range })
    }
    pub(crate) fn add(&mut self, mut domain: DomainConfig, kernel: &[u8], ramdisk: Option<&[u8]>) {
        domain.modules.kernel = self.module(kernel);
        domain.modules.ramdisk = ramdisk.and_then(|bytes| self.module(bytes));
        self.manifest.domains.push(domain);
    }
    pub(crate) fn build(&self) -> Built {
        self.build_with(LIMITS, |_, _| Ok(vec![0xdb; 5000]))
    }
    pub(crate) fn build_with(
        &self,
        limits: CpuLimits,
        tree: impl FnMut(&DomainConfig, &Placement<'_>) -> Result<Vec<u8>, ManifestError>,
    ) -> Built {
        builder::build(&self.machine, &self.host, &self.manifest, limits, None, tree).expect("room")
    }
    pub(crate) fn peek(&self, domain: &BuiltDomain, ipa: u64, length: u64) -> Vec<u8> {
        let spans = domain.ram.spans(IpaRange::new(ipa, length)).expect("RAM");
        spans
            .iter()
            .flat_map(|span| self.machine.peek(span.start, span.size as usize))
            .collect()
    }
}

pub(crate) fn ranges(domain: &BuiltDomain) -> impl Iterator<Item = PaRange> {
    domain
        .ram
        .pieces()
        .iter()
        .map(|piece| piece.pa)
        .chain([domain.pool.range()])
}
