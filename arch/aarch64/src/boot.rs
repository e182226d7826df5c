//! From stage 1 on to the first guest: read the machine, map it, take its interrupt controller, start its CPUs, build the
//! domains, run.

use crate::board::board;
use crate::machine::Arm64;
use crate::mmio::Registers;
use crate::sysreg::{field, hint, read_sysreg};
use crate::traps::INTERRUPTS;
use crate::{
    cache, console, controls, domains, gic, heap, identity, layout, mmu, pcpu, physical, pl031, power, run, smp, timer,
    trace,
};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::ops::Range;
use core::sync::atomic::Ordering;
use portunus::console::Colour;
use portunus::hypervisor::Hypervisor;
use portunus::hypervisor::MachineFacts;
use portunus::ids::{PAGE_SIZE, PcpuId};
use portunus::manifest::ManifestError;
use portunus::manifest::discovery::{Console, Discovery, Interrupts};
use portunus::manifest::host::{self, Conduit, Gic, Host, Uart};
use portunus::manifest::rtc::Rtc;
use portunus::manifest::tree::Tree;
use portunus::range::PaRange;
use portunus::rtc::Reading;
use portunus::trap::syndrome::Hpfar;
use portunus::trap::system_register::identification::RawIdRegisters;

/// The longest device tree that the boot protocol allows.
const DEVICE_TREE_LIMIT: usize = 1 << 21;
/// First word of a device tree, big-endian (Devicetree Specification, 5.2).
const DEVICE_TREE_MAGIC: u32 = 0xd00d_feed;

/// The boot pCPU's first Rust.
///
/// # Safety
/// Entered once, with stage 1 on; `device_tree` is what the loader passed, and `loaded` is where it put the Image.
pub(crate) unsafe extern "C" fn boot(device_tree: usize, loaded: usize) -> ! {
    let Some(pcpu) = pcpu::install(PcpuId(0)) else {
        power::off()
    };
    portunus::sync::set_hint(hint);
    assert!(
        layout::stacks_suffice(),
        "the linker script has fewer stacks than pCPUs"
    );
    heap::init();
    // SAFETY: the early tables map the device tree, and nobody writes it.
    let blob = match unsafe { blob(device_tree) } {
        Ok(blob) if !loaded.is_multiple_of(PAGE_SIZE as usize) => {
            open_console_alone(Some(blob));
            stop(format_args!(
                "the Image was loaded to {loaded:#x}, which is not a multiple of {PAGE_SIZE:#x}"
            ))
        }
        Ok(blob) => blob,
        Err(error) => {
            open_console_alone(None);
            stop(format_args!("{error}"))
        }
    };
    let (mut host, discovery) = match discover(blob) {
        Ok(found) => found,
        Err(error) => {
            open_console_alone(Some(blob));
            stop(format_args!("{error}"))
        }
    };
    let image = layout::image();
    let image = PaRange::new(image.start as u64, (image.end - image.start) as u64);
    if !host.memory.iter().any(|bank| bank.contains(image)) {
        open_console_alone(Some(blob));
        stop(format_args!(
            "the Image was loaded to {image}, where the device tree has no RAM"
        ))
    }
    power_and_memory(&host, &discovery);
    console::start_logging();
    // SAFETY: stage 1 maps the register blocks since `power_and_memory`.
    unsafe { gic::init(&mut host.gic) };
    set_interrupts(discovery.interrupts);
    smp::set_up(pcpu);
    smp::start_others(&mut host.cpus, read_sysreg!("mpidr_el1"));
    let id_registers: Vec<RawIdRegisters> = pcpu::online()
        .filter_map(|pcpu| pcpu.id_registers.get())
        .copied()
        .collect();
    physical::init(id_registers.iter().all(has_atomics));
    let mitigations = identity::mitigations(&id_registers);
    cache::init(&id_registers, mitigations.clean_and_invalidate);
    banner(&host);
    if mitigations.guests_can_hang {
        log::warn!("a guest without a workaround for Cortex-A57 erratum 832075 can hang the CPUs that it runs on");
    }
    host.reserve(domains::own(blob));
    let plan = match domains::build(blob, &host, &id_registers) {
        Ok(plan) => plan,
        Err(error) => stop(format_args!("{error}")),
    };
    plan.report();
    if let Err(error) = plan.share(&id_registers) {
        stop(format_args!("the uncached pool: {error}"));
    }
    for device in plan.devices_to_quiesce() {
        if let Err(error) = mmu::add_device(pages(device)) {
            stop(format_args!("device registers at {device}: {error}"));
        }
    }
    let facts = MachineFacts {
        frequency: host.timer.frequency.map_or_else(timer::frequency, u64::from),
        hpfar: if mitigations.distrust_hpfar {
            Hpfar::WalksOnly
        } else {
            Hpfar::Architectural
        },
        ids: id_registers,
        virtual_timer: host.timer.virtual_.id,
        gic_system_registers: matches!(host.gic, Gic::V3(_)),
        wall_clock: wall_clock(&plan),
        colour: if plan.manifest.colour {
            Colour::Ansi
        } else {
            Colour::Never
        },
    };
    let frequency = facts.frequency;
    match Hypervisor::assemble(Arm64, facts, &plan.manifest, plan.built) {
        Ok(hypervisor) => {
            trace::set_frequency(frequency);
            for domain in hypervisor.domains() {
                trace::set_name(domain.id, &domain.name);
            }
            controls::trap_unlike(hypervisor.id_traps());
            run::install(hypervisor);
        }
        Err(error) => stop(format_args!("{error}")),
    }
    start_console(pcpu);
    smp::release();
    controls::prepare_guests();
    run::start(pcpu)
}

/// The machine, and what this board does with it.
fn discover(blob: &[u8]) -> Result<(Host, Discovery), ManifestError> {
    let host = Host::parse(&Tree::new(blob)?)?;
    let place = PaRange::new(blob.as_ptr() as u64, blob.len() as u64);
    let discovery = Discovery::new(&host, &board().names(), board().early_console as u64, place)?;
    Ok((host, discovery))
}

/// What the loader passed can't be run: says why, and ends. This is no crash.
fn stop(reason: core::fmt::Arguments<'_>) -> ! {
    console::flush();
    // LastWords never fails.
    let _ = writeln!(console::LastWords, "(portunus) ERROR {reason}");
    power::end(1)
}

/// FEAT_LSE (ID_AA64ISAR0_EL1.Atomic).
fn has_atomics(id_registers: &RawIdRegisters) -> bool {
    field(id_registers.space[5][0], 20) >= 2
}

/// Why what the loader passed in x0 is no device tree (Documentation/arch/arm64/booting.rst, "Setup the device tree").
#[derive(Copy, Clone, Debug, thiserror::Error)]
enum BlobError {
    #[error("the loader passed no device tree: x0 is 0")]
    Absent,
    #[error("the loader passed a device tree at {0:#x} in x0, which is not a multiple of 8")]
    Misaligned(usize),
    #[error("the loader passed {0:#x} in x0, where no device tree begins")]
    Magic(usize),
    #[error("the loader passed a device tree of {0} bytes: at most {DEVICE_TREE_LIMIT} are allowed")]
    TooLong(usize),
}

/// The device tree's bytes, if there is one at `address`.
///
/// # Safety
/// [`DEVICE_TREE_LIMIT`] bytes from `address` on are mapped and constant.
unsafe fn blob(address: usize) -> Result<&'static [u8], BlobError> {
    if address == 0 {
        return Err(BlobError::Absent);
    }
    if !address.is_multiple_of(8) {
        return Err(BlobError::Misaligned(address));
    }
    let header = address as *const [u32; 2];
    // SAFETY: the caller's promise.
    let [magic, size] = unsafe { header.read() }.map(u32::from_be);
    let size = size as usize;
    if magic != DEVICE_TREE_MAGIC {
        return Err(BlobError::Magic(address));
    }
    if size > DEVICE_TREE_LIMIT {
        return Err(BlobError::TooLong(size));
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { core::slice::from_raw_parts(address as *const u8, size) })
}

/// Whole pages around a range.
fn pages(range: PaRange) -> Range<usize> {
    let mask = PAGE_SIZE as usize - 1;
    range.start.0 as usize & !mask..(range.end() as usize + mask) & !mask
}

/// Maps the machine and opens its console. Nothing can be printed before.
fn power_and_memory(host: &Host, discovery: &Discovery) {
    if let Some(conduit) = discovery.conduit {
        power::init(conduit == Conduit::Hvc);
    }
    let ranges = |parts: &[PaRange]| parts.iter().copied().map(pages).collect::<Vec<_>>().into_iter();
    let mapped = mmu::init(ranges(&discovery.ram), ranges(&discovery.devices));
    if let Some(console) = discovery.console {
        // SAFETY: stage 1 maps it, if it maps anything.
        unsafe { open_console(console) };
    }
    if let Err(error) = mapped {
        panic!("stage 1: {error}");
    }
    match &host.uart {
        None => stop(format_args!("/chosen: stdout-path: is missing")),
        Some(uart) if !board().drives(uart) => stop(format_args!(
            "{}: compatible: {} has no driver for {}",
            uart.path,
            board().name,
            uart.compatible
                .first()
                .map_or("a device without a name", String::as_str)
        )),
        Some(_) => {}
    }
}

/// Takes the console.
///
/// # Safety
/// Its page is mapped as Device memory for good, or stage 1 is off.
unsafe fn open_console(console: Console) {
    if let Some(driver) = board().consoles.get(console.driver) {
        // SAFETY: the caller's promise.
        let registers = unsafe { Registers::new(console.registers as usize) };
        console::open((driver.open)(registers));
    }
}

/// Makes the console of a machine that is not understood otherwise usable, so that the reason can be printed.
fn open_console_alone(blob: Option<&[u8]>) {
    if let Some(console) = board().console(blob.and_then(uart_alone).as_ref())
        && mmu::init(core::iter::empty(), core::iter::once(pages(console.page()))).is_ok()
    {
        // SAFETY: just mapped.
        unsafe { open_console(console) };
    }
}

fn uart_alone(blob: &[u8]) -> Option<Uart> {
    let tree = Tree::new(blob).ok()?;
    host::uart(&tree).ok()?
}

fn set_interrupts(interrupts: Interrupts) {
    INTERRUPTS
        .hypervisor_timer
        .store(interrupts.hypervisor_timer.0, Ordering::Relaxed);
    INTERRUPTS
        .virtual_timer
        .store(interrupts.virtual_timer.0, Ordering::Relaxed);
    INTERRUPTS
        .maintenance
        .store(interrupts.maintenance.0, Ordering::Relaxed);
    if let Some(interrupt) = interrupts.console {
        INTERRUPTS.console.store(interrupt.0, Ordering::Relaxed);
    }
}

/// What time it is, by the machine's real-time clock if it is nobody else's.
fn wall_clock(plan: &domains::Plan) -> Option<Reading> {
    let why = match plan.manifest.rtc {
        Rtc::Hypervisor(registers) => {
            // SAFETY: `power_and_memory` mapped the registers, and the manifest gives them to no domain.
            match unsafe { pl031::seconds(registers.start.0 as usize) } {
                Some(seconds) => {
                    return Some(Reading {
                        seconds: seconds.into(),
                        at: timer::now(),
                    });
                }
                None => "its real-time clock stands",
            }
        }
        Rtc::Domain(_) => "its real-time clock is passed through",
        Rtc::Absent => "it has no real-time clock that is known",
    };
    log::warn!("the machine does not say what time it is ({why}): the wall clock begins at 1970");
    None
}

/// Routes the console's interrupt to this pCPU.
fn start_console(pcpu: &'static pcpu::Pcpu) {
    let interrupt = portunus::ids::IntId(INTERRUPTS.console.load(Ordering::Relaxed));
    if let (true, Some(gic)) = (interrupt.is_spi(), gic::gic()) {
        gic.route(interrupt, pcpu.id());
        gic.enable(pcpu.id(), interrupt, true);
        console::start_receiving();
    }
}

fn banner(host: &Host) {
    let megabytes: u64 = host.memory.iter().map(|bank| bank.size >> 20).sum();
    let image = layout::image();
    log::info!("Portunus {} on {}", env!("CARGO_PKG_VERSION"), board().name);
    log::info!(
        "{} pCPUs, GICv{}, {megabytes} MiB of RAM, counter at {} Hz",
        pcpu::online().count(),
        host.gic.version(),
        timer::frequency(),
    );
    let (used, total) = heap::usage();
    log::info!(
        "image at {:#x} to {:#x}, heap {used} of {total} bytes used",
        image.start,
        image.end
    );
}

/// Entered at another exception level: says so and stops. The MMU is off, and the registers that EL2 owns are not ours.
///
/// # Safety
/// Entered once, with the Image relocated; `device_tree` is what the loader passed.
pub(crate) unsafe extern "C" fn wrong_level(device_tree: usize, level: usize) -> ! {
    heap::init();
    // SAFETY: without an MMU everything is readable, and nobody writes the device tree.
    let blob = unsafe { blob(device_tree) }.ok();
    if let Some(console) = board().console(blob.and_then(uart_alone).as_ref()) {
        // SAFETY: stage 1 is off.
        unsafe { open_console(console) };
    }
    // LastWords never fails.
    let _ = writeln!(
        console::LastWords,
        "Portunus needs EL2 and was entered at EL{level}: {}",
        board().el2
    );
    power::end(1)
}
