//! Starting the other pCPUs by PSCI CPU_ON.
//!
//! A pCPU that starts has its MMU off: what it needs first is in its mailbox, cleaned to the point of coherency. It sets
//! itself up, says that it is online, and waits until the core is built.

use crate::features::Features;
use crate::sysreg::{AFFINITY, wfi};
use crate::{cache, controls, entry, gic, identity, layout, mmu, pcpu, power, run, switch, timer};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use portunus::ids::{MAX_PCPUS, PcpuId};
use portunus::manifest::discovery;
use portunus::manifest::host::HostCpu;

/// How long a pCPU may take to come up, in seconds.
const PATIENCE: u64 = 1;

/// What a starting pCPU reads with its MMU off; `entry` knows the layout.
#[derive(Copy, Clone)]
#[repr(C, align(128))]
pub(crate) struct Mailbox {
    root: u64,
    stack: u64,
    id: u64,
}

struct Mailboxes(UnsafeCell<[Mailbox; MAX_PCPUS]>);

// SAFETY: the boot pCPU writes a mailbox before its owner starts, and never again.
unsafe impl Sync for Mailboxes {}

static MAILBOXES: Mailboxes = Mailboxes(UnsafeCell::new(
    [Mailbox {
        root: 0,
        stack: 0,
        id: 0,
    }; MAX_PCPUS],
));

/// Set once the core is built.
static GO: AtomicBool = AtomicBool::new(false);
/// Set when there are new tables of stage 1 to adopt.
static RENEWED: AtomicBool = AtomicBool::new(false);
/// pCPUs that have adopted them, without the boot pCPU.
static ADOPTED: AtomicUsize = AtomicUsize::new(0);

/// Starts every CPU that the device tree lists, as far as Portunus uses them. One that does not start is left out, with
/// a line that says so.
pub(crate) fn start_others(cpus: &mut [HostCpu], boot_mpidr: u64) {
    discovery::start_others(cpus, boot_mpidr & AFFINITY, |mpidr, pcpu| {
        if usize::from(pcpu.0) >= MAX_PCPUS {
            log::warn!("CPU {mpidr:#x} is not used: {MAX_PCPUS} are the limit");
            return false;
        }
        let result = start(pcpu, mpidr);
        if let Err(reason) = result {
            log::warn!("CPU {mpidr:#x} does not start: {reason}");
        }
        result.is_ok()
    });
}

fn start(id: PcpuId, mpidr: u64) -> Result<(), &'static str> {
    let index = usize::from(id.0);
    let mailbox = Mailbox {
        root: mmu::root().ok_or("stage 1 is not built")? as u64,
        stack: layout::main_stack(index).end as u64,
        id: u64::from(id.0),
    };
    let slot = MAILBOXES.0.get().cast::<Mailbox>().wrapping_add(index);
    // SAFETY: inside the array, and its owner has not started.
    unsafe { slot.write(mailbox) };
    cache::clean_invalidate(slot as usize, size_of::<Mailbox>());
    let entry = entry::secondary_entry as *const () as u64;
    power::cpu_on(mpidr, entry, slot as u64).map_err(|_| "the firmware refuses")?;
    let pcpu = pcpu::get(id).ok_or("no such pCPU")?;
    let limit = timer::now().0 + timer::frequency() * PATIENCE;
    while !pcpu.online.load(Ordering::Acquire) {
        if timer::now().0 > limit {
            return Err("it does not answer");
        }
        portunus::sync::pause();
    }
    Ok(())
}

/// A secondary pCPU's first Rust: stage 1 is on, the stack is its own.
pub(crate) extern "C" fn secondary(id: u64) -> ! {
    let Some(pcpu) = pcpu::install(PcpuId(id as u8)) else {
        power::off()
    };
    set_up(pcpu);
    let mut adopted = false;
    while !GO.load(Ordering::Acquire) {
        if !adopted && RENEWED.load(Ordering::Acquire) {
            mmu::adopt();
            adopted = true;
            ADOPTED.fetch_add(1, Ordering::Release);
        }
        // A kick ends the sleep though interrupts are masked, and stays pending until guests run.
        wfi();
    }
    controls::prepare_guests();
    run::start(pcpu)
}

/// What each pCPU does for itself before its first guest: controls, interrupt interface.
pub(crate) fn set_up(pcpu: &'static pcpu::Pcpu) {
    let features = Features::read();
    controls::init(features);
    switch::prepare(features);
    // SAFETY: this pCPU runs no guest yet: there is no handler.
    unsafe { pcpu.local() }.features = features;
    pcpu.id_registers.call_once(identity::read);
    let mpidr = pcpu.mpidr.load(Ordering::Relaxed);
    if gic::gic().is_some_and(|gic| gic.init_cpu(pcpu.id(), mpidr)) {
        pcpu.online.store(true, Ordering::Release);
    }
}

/// Lets the other pCPUs run: the core is built.
pub(crate) fn release() {
    GO.store(true, Ordering::Release);
    kick_all();
}

/// Makes the other pCPUs adopt the tables that this one has gone over to, and waits until they have. Once, before
/// [`release`].
pub(crate) fn renew_tables() {
    RENEWED.store(true, Ordering::Release);
    kick_all();
    while ADOPTED.load(Ordering::Acquire) + 1 < pcpu::online().count() {
        portunus::sync::pause();
    }
}

fn kick_all() {
    if let Some(gic) = gic::gic() {
        pcpu::online().for_each(|pcpu| gic.kick(pcpu.id()));
    }
}
