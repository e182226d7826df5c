//! A hypervisor made of built domains: locks around state machines, vCPUs on pCPUs, devices bound to interrupts.
//!
//! Runs once at boot and may allocate. Afterwards nothing here is used again.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::abi::HypercallError;
use crate::abi::dm_op::{MAX_DOORBELLS, MAX_SERVERS};
use crate::abi::evtchn::VIRQ_CONSOLE;
use crate::console::{Colour, Console, TooManyPorts};
use crate::domain::builder::{Built, BuiltDomain};
use crate::domain::devices::{Device, Devices, TooManyWindows, Window};
use crate::domain::homes;
use crate::domain::life::Life;
use crate::domain::plan::{OwnDevice, Plan};
use crate::domain::vcpu::Vcpu;
use crate::domain::{Domain, DomainClock, DomainMemory, PvConsole, SwitchConstants};
use crate::evtchn::{EventChannels, PortLimits, Tables};
use crate::grant::{GrantTable, Maptrack};
use crate::hypervisor::clock::TickLength;
use crate::hypervisor::lifecycle::connect_interrupts;
use crate::hypervisor::messages::Messages;
use crate::hypervisor::run::Pcpu;
use crate::hypervisor::stop::GuestGate;
use crate::hypervisor::wall_clock::NANOSECONDS;
use crate::hypervisor::{Hypervisor, tables};
use crate::ids::{EventPort, IntId, Ipa, MAX_DOMAINS, PAGE_SIZE, Pa, Ticks, VcpuId};
use crate::ioreq::shadow::Shadow;
use crate::ioreq::{DeviceRange, OnFailure, Policy as DevicePolicy, Range, ServerLimits, Servers, ShadowSlot, Shadows};
use crate::machine::Machine;
use crate::manifest::devices::{DEFAULT_ATTACH_TIMEOUT_MS, DEFAULT_TIMEOUT_MS};
use crate::manifest::domain::UnmappedAccess;
use crate::manifest::events::MAX_PORT;
use crate::manifest::layout::VirtualGic;
use crate::manifest::{DeviceConfig, DomainConfig, Manifest};
use crate::memory::pool::{Pool, PoolError};
use crate::policy::Policy;
use crate::range::IpaRange;
use crate::rtc::Reading;
use crate::rtc::pl031::Pl031;
use crate::sched::RunQueue;
use crate::sorting::sort_by_key;
use crate::stage2::{PageUse, Stage2, Stage2Error};
use crate::sync::Mutex;
use crate::trap::syndrome::Hpfar;
use crate::trap::system_register::identification::{IdError, IdOptions, IdRegisters, IdTraps, RawIdRegisters};
use crate::vgic::{Config, Frame, Version, Vgic, VgicError};

/// What only the running machine knows.
#[derive(Clone, Debug)]
pub struct MachineFacts {
    /// The system counter's frequency in Hz.
    pub frequency: u64,
    /// The ID registers of each pCPU that runs guests; the first is pCPU 0.
    pub ids: Vec<RawIdRegisters>,
    /// How far HPFAR_EL2 can be believed, on the worst of them.
    pub hpfar: Hpfar,
    /// The physical interrupt of the EL1 virtual timer, a PPI.
    pub virtual_timer: IntId,
    /// The machine has a GICv3.
    pub gic_system_registers: bool,
    /// What the machine's real-time clock showed; `None`: nobody knows what time it is, and the wall clock begins at 1970.
    pub wall_clock: Option<Reading>,
    /// Names on the console in colour.
    pub colour: Colour,
}

/// Why no hypervisor could be made.
#[derive(Copy, Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AssemblyError {
    /// The pCPUs do not fit each other.
    #[error(transparent)]
    Ids(#[from] IdError),
    /// A domain's interrupt controller.
    #[error("an interrupt controller with {0}")]
    Vgic(#[from] VgicError),
    /// A domain has no frame left for its shared page or the state of a device.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// A console too many.
    #[error(transparent)]
    Console(#[from] TooManyPorts),
    /// The page of a PV console.
    #[error(transparent)]
    Map(#[from] Stage2Error),
    /// A window too many.
    #[error(transparent)]
    Window(#[from] TooManyWindows),
    /// A device at addresses that are no range.
    #[error("a device at {0}")]
    Device(Ipa),
    /// A static event channel that cannot be made.
    #[error("a static event channel: {0}")]
    Channel(crate::abi::HypercallError),
}

/// Ports of the hypervisor's own that a domain may need: of each server, one a vCPU, one for its buffered page, and its
/// doorbells'. A domain without devices has no servers.
fn attached_ports(vcpus: usize, devices: usize) -> u32 {
    if devices == 0 {
        return 0;
    }
    (MAX_SERVERS * (vcpus + 1 + MAX_DOORBELLS)) as u32
}

impl<M: Machine> Hypervisor<M> {
    /// Puts everything together and powers every domain's boot vCPU on.
    ///
    /// # Errors
    /// [`AssemblyError`]
    pub fn assemble(machine: M, facts: MachineFacts, manifest: &Manifest, built: Built) -> Result<Self, AssemblyError> {
        let booted = machine.now();
        let tick_length = TickLength::of(facts.frequency);
        let wall_clock_at_boot = facts.wall_clock.map_or(0, |reading| {
            let since = tick_length.nanoseconds(booted.0.saturating_sub(reading.at.0));
            reading.seconds.saturating_mul(NANOSECONDS).saturating_add(since)
        });
        let slice = Ticks((facts.frequency / 1000).max(1));
        let mut queues: Vec<RunQueue> = facts.ids.iter().map(|_| RunQueue::new(slice)).collect();
        let mut console = Console::new(facts.frequency, facts.colour);
        let ipa_bits = built
            .domains
            .iter()
            .map(|domain| domain.stage2.geometry().ipa_bits())
            .max()
            .unwrap_or(40);
        let options = IdOptions {
            gic_system_registers: facts.gic_system_registers,
            ipa_bits,
        };
        let ids = IdRegisters::combine(&facts.ids, &options)?;
        let mut domains: Vec<Option<Domain>> = (0..=MAX_DOMAINS).map(|_| None).collect();
        let mut interrupts = Vec::new();
        for domain in built.domains {
            let Some(config) = manifest.domain(domain.id) else {
                continue;
            };
            let index = usize::from(domain.id.0);
            let domain = assemble_domain(&machine, &facts, manifest, config, domain, &mut queues, &mut console)?;
            interrupts.extend(
                domain
                    .plan
                    .interrupts
                    .iter()
                    .map(|(interrupt, _)| (*interrupt, domain.id)),
            );
            if let Some(slot) = domains.get_mut(index) {
                *slot = Some(domain);
            }
        }
        sort_by_key(&mut interrupts, |entry| *entry);
        let backends = manifest.domains.iter().flat_map(|guest| {
            guest
                .devices
                .iter()
                .map(move |device| (guest.id, device.range, device.backend))
        });
        let hypervisor = Self {
            machine,
            domains,
            pcpus: queues.into_iter().map(Pcpu::new).map(Arc::new).collect(),
            policy: Policy::new(manifest),
            references: Mutex::new(built.references),
            entropy: Mutex::new(built.entropy),
            console: Mutex::new(console),
            console_due: AtomicU64::new(u64::MAX),
            messages: Messages::default(),
            visit: Mutex::default(),
            tables: tables::Tables::default(),
            gate: GuestGate::default(),
            ids,
            hardware: facts.ids,
            hpfar: facts.hpfar,
            slice,
            virtual_timer: facts.virtual_timer,
            channels: manifest.channels.clone(),
            frequency: facts.frequency.max(1),
            tick_length,
            booted,
            wall_clock_at_boot,
            interrupts,
            backends: backends.collect(),
            finished: AtomicBool::new(false),
        };
        hypervisor.connect_static_channels(manifest)?;
        for domain in hypervisor.domains() {
            hypervisor.reset_clock(domain);
            hypervisor.publish_wall_clock(domain, Ticks(domain.virtual_offset.load(Ordering::Acquire)));
            for (interrupt, edge) in &domain.plan.interrupts {
                hypervisor.prepare_interrupt(domain, *interrupt, *edge);
            }
            hypervisor.boot(domain);
        }
        Ok(hypervisor)
    }

    /// The ID registers of all guests.
    pub fn ids(&self) -> &IdRegisters {
        &self.ids
    }

    /// What `arch` traps because some domain would see hardware's registers change: none, as long as each domain is among
    /// pCPUs that show the same.
    pub fn id_traps(&self) -> IdTraps {
        let mut traps = IdTraps::default();
        for domain in self.domains() {
            let mut pcpus = domain
                .vcpus
                .iter()
                .filter_map(|vcpu| self.hardware.get(usize::from(vcpu.pcpu.0)));
            let Some(first) = pcpus.next() else { continue };
            for pcpu in pcpus {
                let differences = first.differences(pcpu);
                traps.cache |= differences.cache;
                traps.zero_block |= differences.zero_block;
            }
        }
        traps
    }

    fn connect_static_channels(&self, manifest: &Manifest) -> Result<(), AssemblyError> {
        for channel in &manifest.channels {
            let (first, second) = (channel.first, channel.second);
            let (Some(one), Some(other)) = (self.domain(first.domain), self.domain(second.domain)) else {
                continue;
            };
            one.events
                .lock()
                .alloc_static(first.port, second.domain)
                .map_err(AssemblyError::Channel)?;
            let bound = self.with_words(|words| {
                if first.domain == second.domain {
                    Tables::Loopback(&mut one.events.lock()).bind_static(second.port, first.port, words)
                } else {
                    let (mut remote, mut local) = (one.events.lock(), other.events.lock());
                    Tables::Pair {
                        local: &mut local,
                        remote: &mut remote,
                    }
                    .bind_static(second.port, first.port, words)
                }
            });
            let bound = bound.map_err(AssemblyError::Channel)?;
            self.announce(other, bound.delivery);
        }
        Ok(())
    }
}

fn assemble_domain<M: Machine>(
    machine: &M,
    facts: &MachineFacts,
    manifest: &Manifest,
    config: &DomainConfig,
    built: BuiltDomain,
    queues: &mut [RunQueue],
    console: &mut Console,
) -> Result<Domain, AssemblyError> {
    let count = config.vcpu_count();
    let mut pool = built.pool;
    let shared_info = pool.allocate(machine)?;
    let grants = GrantTable::new(machine, &mut pool, config.grants.frames)?;
    let midrs: Vec<u64> = facts.ids.iter().map(|pcpu| pcpu.midr).collect();
    let loads: Vec<usize> = queues.iter().map(RunQueue::len).collect();
    // The manifest's reader has seen that every affinity names a pCPU that exists.
    let homes = homes::choose(&config.vcpus, &midrs, &loads).unwrap_or_default();
    let vcpus = (0..).zip(homes).filter_map(|(index, pcpu)| {
        let id = VcpuId {
            domain: config.id,
            index,
        };
        let slot = queues.get_mut(usize::from(pcpu.0))?.add(id, config.share);
        Some(Vcpu::new(id, pcpu, slot))
    });
    let vcpus: Vec<Vcpu> = vcpus.collect();
    let frequency = facts.frequency;
    let devices: Result<Vec<DeviceRange>, AssemblyError> = config
        .devices
        .iter()
        .map(|device| {
            let state_page = device.accel.then(|| pool.allocate(machine)).transpose()?;
            device_range(device, state_page, frequency)
        })
        .collect();
    let limits = PortLimits {
        attached: attached_ports(vcpus.len(), config.devices.len()),
        ..PortLimits::default()
    };
    let mut stage2 = built.stage2;
    let pv_console = pv_console(machine, manifest, config, &mut stage2, &mut pool)?;
    let mut events = EventChannels::new(config.id, count, limits, shared_info);
    if let Some(pv) = pv_console {
        events.alloc_console(pv.port).map_err(AssemblyError::Channel)?;
    }
    let uart = config.layout.uart.filter(|_| config.vpl011);
    let port = if uart.is_some() {
        Some(console.add(config.id, &config.name)?)
    } else if pv_console.is_some() || config.console_io {
        if pv_console.is_none() {
            events.grant_global_virqs(1 << VIRQ_CONSOLE);
        }
        Some(console.add_stream(config.id, &config.name, pv_console.map(|pv| pv.page))?)
    } else {
        None
    };
    let geometry = stage2.geometry();
    let vgic = interrupt_controller(config, facts)?;
    let controller = vgic.config();
    let servers = Servers::new(count, devices?, fallback(frequency), ServerLimits::default());
    Ok(Domain {
        id: config.id,
        name: config.name.clone(),
        vcpus,
        doorbells: servers.doorbells(),
        shadows: shadows(config, &built.uncached)?,
        servers: Mutex::new(servers),
        grants: Mutex::new(grants),
        events: Mutex::new(events),
        vgic: Box::new(Mutex::new(vgic)),
        watchdogs: Mutex::default(),
        clock: config.layout.rtc.map(|clock| DomainClock {
            registers: Mutex::new(Pl031::new(0)),
            interrupt: clock.interrupt,
        }),
        devices: windows(config)?,
        controller,
        map_changes: stage2.changes(),
        console: port,
        pv_console,
        console_io: config.console_io,
        console_flags: port.and_then(|port| console.idle_flags(port)),
        console_interrupt: uart.map(|uart| uart.interrupt),
        abort_unmapped: config.unmapped == UnmappedAccess::Abort,
        gic_system_registers: matches!(config.layout.gic, VirtualGic::V3 { .. }),
        direct_mapped: config.direct_map,
        serves: manifest.served_by(config.id).next().is_some(),
        entry: built.kernel.entry,
        device_tree: built.device_tree.start,
        ram: built.ram.pieces().iter().map(|piece| piece.pa).collect(),
        blueprint: Mutex::new(built.blueprint),
        constants: SwitchConstants {
            vttbr: stage2.vttbr(),
            vtcr: geometry.vtcr(),
        },
        plan: Plan {
            on_crash: config.on_crash,
            on_reboot: config.on_reboot,
            on_watchdog: config.on_watchdog,
            limit: config.restart_limit,
            controls: !config.controls.is_empty(),
            map: stage2.regions(machine),
            devices: OwnDevice::all(&config.passthrough),
            interrupts: own_interrupts(config),
        },
        memory: Mutex::new(DomainMemory {
            stage2,
            pool,
            maptrack: Maptrack::new(config.grants.maptrack_frames),
            shared_info_at: None,
        }),
        paused: AtomicBool::new(false),
        pausing: Mutex::new(()),
        life: Life::default(),
        live_vcpus: AtomicU32::new(0),
        virtual_offset: AtomicU64::new(machine.now().0),
        restarts: AtomicU32::new(0),
        lifecycle: Mutex::default(),
    })
}

/// The page and the port of a domain's PV console. Static channels have the ports that the manifest gives them, so its own
/// is the lowest besides.
fn pv_console<M: Machine>(
    machine: &M,
    manifest: &Manifest,
    config: &DomainConfig,
    stage2: &mut Stage2,
    pool: &mut Pool,
) -> Result<Option<PvConsole>, AssemblyError> {
    let Some(place) = config.layout.pv_console else {
        return Ok(None);
    };
    let page = pool.allocate(machine)?;
    let page_use = PageUse::Shared { writable: true };
    stage2.map(machine, pool, (place.start, page), PAGE_SIZE, page_use)?;
    let ends = manifest
        .channels
        .iter()
        .flat_map(|channel| [channel.first, channel.second]);
    let named: Vec<EventPort> = ends.filter(|end| end.domain == config.id).map(|end| end.port).collect();
    let port = (1..=MAX_PORT).map(EventPort).find(|port| !named.contains(port));
    Ok(Some(PvConsole {
        ipa: place.start,
        page,
        port: port.ok_or(AssemblyError::Channel(HypercallError::NoSpace))?,
    }))
}

fn ticks(milliseconds: u32, frequency: u64) -> Option<Ticks> {
    (milliseconds != 0).then(|| Ticks((u128::from(milliseconds) * u128::from(frequency) / 1000) as u64))
}

fn device_range(device: &DeviceConfig, state_page: Option<Pa>, frequency: u64) -> Result<DeviceRange, AssemblyError> {
    let range = Range::from_length(device.range.start.0, device.range.size);
    Ok(DeviceRange {
        range: range.ok_or(AssemblyError::Device(device.range.start))?,
        policy: DevicePolicy {
            timeout: ticks(device.timeout_ms, frequency),
            attach_timeout: ticks(device.attach_timeout_ms, frequency),
            on_failure: device.on_failure,
        },
        state_page,
    })
}

/// The pages of the devices that have frames for them.
fn shadows(config: &DomainConfig, frames: &[[Pa; 2]]) -> Result<Shadows, AssemblyError> {
    let accelerated = config.devices.iter().filter(|device| device.accel);
    let slots = accelerated.zip(frames).map(|(device, frames)| {
        let range = Range::from_length(device.range.start.0, device.range.size);
        let before = |other: &&DeviceConfig| other.range.start < device.range.start;
        Ok::<_, AssemblyError>(ShadowSlot {
            device: range.ok_or(AssemblyError::Device(device.range.start))?,
            number: config.devices.iter().filter(before).count(),
            shadow: Mutex::new(Shadow::new(*frames)),
        })
    });
    Ok(Shadows::new(slots.collect::<Result<_, _>>()?))
}

/// The rules for ranges of servers that are no device of the manifest: the defaults.
fn fallback(frequency: u64) -> DevicePolicy {
    DevicePolicy {
        timeout: ticks(DEFAULT_TIMEOUT_MS, frequency),
        attach_timeout: ticks(DEFAULT_ATTACH_TIMEOUT_MS, frequency),
        on_failure: OnFailure::Wait,
    }
}

fn windows(config: &DomainConfig) -> Result<Devices, AssemblyError> {
    let mut devices = Devices::default();
    let mut add = |range: IpaRange, device| {
        devices.add(Window {
            start: range.start,
            size: range.size,
            device,
        })
    };
    match config.layout.gic {
        VirtualGic::V2 { distributor, .. } => add(distributor, Device::Interrupts(Frame::Distributor))?,
        VirtualGic::V3 {
            distributor,
            redistributors,
        } => {
            add(distributor, Device::Interrupts(Frame::Distributor))?;
            add(redistributors, Device::Interrupts(Frame::Redistributor))?;
        }
    }
    if let Some(uart) = config.layout.uart.filter(|_| config.vpl011) {
        add(uart.registers, Device::Console)?;
    }
    if let Some(clock) = config.layout.rtc {
        add(clock.registers, Device::Clock)?;
    }
    devices.set_served(config.devices.iter().map(|device| device.range));
    Ok(devices)
}

fn interrupt_controller(config: &DomainConfig, facts: &MachineFacts) -> Result<Vgic, AssemblyError> {
    let mut vgic = Vgic::new(Config {
        version: match config.layout.gic {
            VirtualGic::V2 { .. } => Version::V2,
            VirtualGic::V3 { .. } => Version::V3,
        },
        vcpus: config.vcpu_count(),
        spis: u16::try_from(config.layout.spis).unwrap_or(u16::MAX),
    })?;
    let console = config.layout.uart.filter(|_| config.vpl011).map(|uart| uart.interrupt);
    let clock = config.layout.rtc.and_then(|clock| clock.interrupt);
    let emulated = console.into_iter().chain(clock);
    connect_interrupts(&mut vgic, facts.virtual_timer, emulated, &own_interrupts(config))?;
    Ok(vgic)
}

/// The interrupts of the machine's devices that a domain owns, and whether each is edge-triggered.
fn own_interrupts(config: &DomainConfig) -> Vec<(IntId, bool)> {
    let interrupts = config.passthrough.interrupts();
    interrupts
        .map(|interrupt| (interrupt.id, interrupt.trigger.is_edge()))
        .collect()
}
