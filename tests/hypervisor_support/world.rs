//! Three domains as a manifest describes them: a guest with a disk, the domain that serves it, and a stranger.

use portunus::console::Colour;
use portunus::domain::builder::{self, CpuLimits};
use portunus::fakes::FakeMachine;
use portunus::hypervisor::{Hypervisor, MachineFacts};
use portunus::ids::{DomainId, MAX_DOMAINS, MAX_VCPUS, Pa, Ticks};
use portunus::manifest::{Host, Manifest, NoModules, Tree};
use portunus::range::PaRange;
use portunus::rtc::Reading;
use portunus::trap::syndrome::Hpfar;
use portunus::trap::system_register::identification::RawIdRegisters;

use crate::machines;

pub(crate) const GUEST: DomainId = DomainId(1);
pub(crate) const BACKEND: DomainId = DomainId(2);
pub(crate) const STRANGER: DomainId = DomainId(3);

/// Ticks of a millisecond, which is a slice.
pub(crate) const MS: u64 = 1000;
/// The machine's pCPUs.
pub(crate) const PCPUS: u8 = 5;

/// The guest's disk, 512 bytes of registers.
pub(crate) const DISK: u64 = 0x0200_0000;
pub(crate) const DISK_INTERRUPT: u32 = 33;
/// Where RAM begins, and the kernel.
pub(crate) const RAM: u64 = 0x4000_0000;
pub(crate) const RAM_SIZE: u64 = 4 << 20;
pub(crate) const RAM_PAGES: u64 = RAM_SIZE / 4096;
/// A page of RAM that tests put hypercalls' structures in.
pub(crate) const SCRATCH: u64 = RAM + 0x20_0000;
/// Guest frames with nothing in them.
pub(crate) const EMPTY_GFN: u64 = 0x38000;
pub(crate) const UART: u64 = 0x2200_0000;
/// The guest's PL031, and its interrupt, after the disk's.
pub(crate) const CLOCK: u64 = 0x2200_1000;
pub(crate) const CLOCK_INTERRUPT: u32 = 34;
pub(crate) const DISTRIBUTOR: u64 = 0x0300_1000;
pub(crate) const REDISTRIBUTOR: u64 = 0x0302_0000;

const HYPERVISOR: PaRange = PaRange::new(0x4000_0000, 2 << 20);
const KERNELS: [u64; 3] = [0x5000_0000, 0x5010_0000, 0x5020_0000];

/// What the machine's real-time clock shows when it is turned on.
pub(crate) const WALL_CLOCK: u64 = 1_700_000_000;

/// Nothing starts again by itself.
const STAY_DOWN: &str = "portunus,on-reboot = \"stop\"; portunus,on-watchdog = \"stop\";";

/// Everything starts again by itself, as often as it likes.
pub(crate) const ALWAYS_UP: &str = "portunus,on-crash = \"restart\"; portunus,restart-limit = <0>;";

/// What differs between tests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Properties of the disk.
    pub(crate) disk: &'static str,
    /// Properties of the guest.
    pub(crate) guest: &'static str,
    /// The guest's console.
    pub(crate) console: &'static str,
    /// Properties of the stranger.
    pub(crate) stranger: &'static str,
    /// pCPUs of the guest's two vCPUs, the backend's two, and the stranger's one.
    pub(crate) pcpus: [u8; 5],
    /// The backend's second vCPU is not there.
    pub(crate) one_server: bool,
    /// Properties of all domains: what follows when one stops.
    pub(crate) lifecycle: &'static str,
    /// More nodes of the guest, and of the backend.
    pub(crate) channels: [&'static str; 2],
    /// What the machine's clock showed.
    pub(crate) wall_clock: Option<Reading>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            disk: "",
            guest: "",
            console: "vpl011;",
            stranger: "",
            pcpus: [0, 1, 2, 3, 4],
            one_server: false,
            lifecycle: STAY_DOWN,
            channels: [""; 2],
            wall_clock: Some(Reading {
                seconds: WALL_CLOCK,
                at: Ticks(0),
            }),
        }
    }
}

fn chosen(options: &Options) -> String {
    let domain = |name: &str, index: usize, pcpus: &[u8], more: &str| {
        let vcpus: String = pcpus
            .iter()
            .enumerate()
            .map(|(id, pcpu)| {
                format!("vcpu{id} {{ compatible = \"xen,vcpu\"; id = <{id}>; hard-affinity = \"{pcpu}\"; }};\n",)
            })
            .collect();
        format!(
            "{name}: {name} {{
                compatible = \"xen,domain\"; #address-cells = <2>; #size-cells = <2>;
                memory = <0 {}>; cpus = <{}>; {} {} {more}
                kernel {{ compatible = \"multiboot,kernel\", \"multiboot,module\"; reg = <0 {:#x} 0 0x1000>; }};
                {vcpus}
            }};\n",
            RAM_SIZE / 1024,
            pcpus.len(),
            if index == 0 { options.console } else { "vpl011;" },
            options.lifecycle,
            KERNELS[index],
        )
    };
    let [g0, g1, b0, b1, s0] = options.pcpus;
    let guest = format!(
        "{} {} portunus,devices {{ disk0 {{
            portunus,type = \"block\"; portunus,backend = <&dm>; portunus,ram-disk = <1>;
            portunus,memory-access = \"all\"; {}
        }}; }};",
        options.guest, options.channels[0], options.disk
    );
    let mut text = "#address-cells = <2>; #size-cells = <2>;\n".to_string();
    text += &domain("guest", 0, &[g0, g1], &guest);
    let servers = if options.one_server { &[b0][..] } else { &[b0, b1] };
    text += &domain("dm", 1, servers, options.channels[1]);
    text += &domain("stranger", 2, &[s0], options.stranger);
    text
}

/// An arm64 Image that is all header.
fn kernel() -> Vec<u8> {
    let mut file = vec![0; 4096];
    file[16..24].copy_from_slice(&0x1000_u64.to_le_bytes());
    file[24..32].copy_from_slice(&0xa_u64.to_le_bytes());
    file[56..60].copy_from_slice(b"ARM\x64");
    file
}

/// Builds the three domains and powers them on.
pub(crate) fn hypervisor(options: &Options) -> Hypervisor<FakeMachine> {
    assemble(&chosen(options), options.wall_clock)
}

/// As many domains as can be, each with as many vCPUs as can be.
pub(crate) fn crowd() -> Hypervisor<FakeMachine> {
    let mut text = "#address-cells = <2>; #size-cells = <2>;\n".to_string();
    for number in 0..MAX_DOMAINS {
        let kernel = KERNELS[number % KERNELS.len()];
        text += &format!(
            "crowd-of-many-domains-{number} {{
                compatible = \"xen,domain\"; #address-cells = <2>; #size-cells = <2>;
                memory = <0 1024>; cpus = <{MAX_VCPUS}>; vpl011;
                kernel {{ compatible = \"multiboot,kernel\", \"multiboot,module\"; reg = <0 {kernel:#x} 0 0x1000>; }};
            }};\n"
        );
    }
    assemble(&text, None)
}

fn assemble(chosen: &str, wall_clock: Option<Reading>) -> Hypervisor<FakeMachine> {
    let last_cpu = "cpu@3 { reg = <3>; device_type = \"cpu\"; enable-method = \"psci\"; };";
    let more_cpus = format!("{last_cpu}\n{}", last_cpu.replace('3', "4"));
    let blob = machines::machine(&machines::VIRT.replace(last_cpu, &more_cpus), chosen);
    let tree = Tree::new(&blob).expect("a tree");
    let mut host = Host::parse(&tree).expect("a machine");
    host.reserved.push(HYPERVISOR);
    let manifest = Manifest::parse(&tree, &host, &NoModules).expect("a manifest");
    let machine = FakeMachine::new();
    for bank in &host.memory {
        machine.add_memory(bank.start, bank.size);
    }
    for kernel_at in KERNELS {
        machine.poke(Pa(kernel_at), &kernel());
    }
    let limits = CpuLimits {
        physical_bits: 40,
        vmid_16_bits: false,
        caching: portunus::memory::uncached::Caching::NonCacheable,
    };
    let built = builder::build(&machine, &host, &manifest, limits, None, |_, _| Ok(vec![0xdb; 64]));
    let built = built.expect("room");
    assert_eq!(built.failed, []);
    let facts = MachineFacts {
        frequency: 1000 * MS,
        ids: vec![RawIdRegisters::default(); PCPUS.into()],
        hpfar: Hpfar::Architectural,
        virtual_timer: host.timer.virtual_.id,
        gic_system_registers: true,
        wall_clock,
        colour: Colour::Never,
    };
    Hypervisor::assemble(machine, facts, &manifest, built).expect("a hypervisor")
}
