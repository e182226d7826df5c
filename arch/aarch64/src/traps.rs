//! Exceptions from guests: read the syndrome once, hand it to the core, go on with whoever runs next.

use crate::cpu::El2Cpu;
use crate::gic::{self, Acknowledged, Gic};
use crate::pcpu::{Local, Pcpu};
use crate::run::{self, hypervisor};
use crate::sysreg::read_sysreg;
use crate::{console, epitaph, fp, power, timer, trace};
use core::sync::atomic::{AtomicU32, Ordering};
use portunus::counters::Exit;
use portunus::hypervisor::{Claim, Quick, Syndrome};
use portunus::ids::IntId;
use portunus::trace::{Kind, exception};
use portunus::trap::quick;
use portunus::trap::registers::GuestFrame;

/// ESR_EL2.EC of an FP or SIMD instruction that trapped.
const FP_CLASS: u64 = 0x07;
/// The most interrupts that one exit takes; what is left raises the next exit at once.
const INTERRUPTS_PER_EXIT: usize = 16;
/// Bytes typed at the console that one interrupt takes.
const INPUT: usize = 64;
/// Such pieces taken for one interrupt: more than a person or a script sends at once.
const INPUT_ROUNDS: usize = 256;

/// The private interrupts that the device tree names, and the console's; 0: none.
pub(crate) struct Interrupts {
    pub(crate) hypervisor_timer: AtomicU32,
    pub(crate) virtual_timer: AtomicU32,
    pub(crate) maintenance: AtomicU32,
    pub(crate) console: AtomicU32,
}

/// Set at boot.
pub(crate) static INTERRUPTS: Interrupts = Interrupts {
    hypervisor_timer: AtomicU32::new(0),
    virtual_timer: AtomicU32::new(0),
    maintenance: AtomicU32::new(0),
    console: AtomicU32::new(0),
};

/// A synchronous exception from a guest. Returns the frame to go on with.
pub(crate) unsafe extern "C" fn synchronous(pcpu: &'static Pcpu) -> *mut GuestFrame {
    // SAFETY: this is the only handler that runs on this pCPU.
    let local = unsafe { pcpu.local() };
    let esr = read_sysreg!("esr_el2");
    if let Some(context) = local.loaded()
        && let Some(answered) = quick::answer(esr, &mut context.state.frame)
    {
        trace::record_loaded(pcpu, answered.kind, answered.argument);
        context.state.count(answered.exit);
        return local.frame();
    }
    look_closer(pcpu, local, esr)
}

/// What the registers alone do not answer. Functions of their own, so that the quicker an answer is the fewer registers
/// are kept for it.
#[inline(never)]
fn look_closer(pcpu: &'static Pcpu, local: &mut Local, esr: u64) -> *mut GuestFrame {
    if let Some(context) = local.loaded() {
        let (kind, argument) = exception(esr, &context.state.frame);
        trace::record_loaded(pcpu, kind, argument);
    }
    if esr >> 26 & 0x3f == FP_CLASS {
        if let Some(context) = local.loaded() {
            context.state.count(Exit::Other);
        }
        fp::on_trap(local, local.features);
        return local.frame();
    }
    let syndrome = Syndrome {
        esr,
        far: read_sysreg!("far_el2"),
        hpfar: read_sysreg!("hpfar_el2"),
    };
    let mut quick = Quick::No;
    if let (Some(hypervisor), Some(mut cpu), Some(context)) = (hypervisor(), El2Cpu::new(), local.loaded()) {
        quick = hypervisor.on_quick_trap(&mut cpu, &mut context.state, &syndrome);
    }
    match quick {
        Quick::Done => local.frame(),
        Quick::Due => go_on(pcpu, local, None),
        Quick::No => go_on(pcpu, local, Some(syndrome)),
    }
}

/// The guest has left for more than a look: the core gets what is left of the exception, and says who goes on.
#[inline(never)]
fn go_on(pcpu: &'static Pcpu, local: &mut Local, exception: Option<Syndrome>) -> *mut GuestFrame {
    if let (Some(hypervisor), Some(mut cpu), Some(context)) = (hypervisor(), El2Cpu::new(), local.loaded()) {
        hypervisor.left_guest(pcpu.id());
        if let Some(syndrome) = exception {
            hypervisor.on_trap(&mut cpu, &mut context.state, syndrome);
        }
    }
    run::resume(pcpu, local)
}

/// An interrupt while a guest ran.
pub(crate) unsafe extern "C" fn interrupt(pcpu: &'static Pcpu) -> *mut GuestFrame {
    // SAFETY: this is the only handler that runs on this pCPU.
    let local = unsafe { pcpu.local() };
    if let Some(context) = local.loaded() {
        context.state.count(Exit::Interrupt);
    }
    if let Some(hypervisor) = hypervisor() {
        hypervisor.left_guest(pcpu.id());
    }
    take_interrupts(pcpu, local);
    run::resume(pcpu, local)
}

/// An SError while a guest ran.
pub(crate) unsafe extern "C" fn system_error(pcpu: &'static Pcpu) -> *mut GuestFrame {
    // SAFETY: this is the only handler that runs on this pCPU.
    let local = unsafe { pcpu.local() };
    let syndrome = Syndrome {
        esr: read_sysreg!("esr_el2"),
        far: 0,
        hpfar: 0,
    };
    if let (Some(hypervisor), Some(mut cpu), Some(context)) = (hypervisor(), El2Cpu::new(), local.loaded()) {
        hypervisor.left_guest(pcpu.id());
        hypervisor.on_system_error(&mut cpu, &mut context.state, syndrome);
    }
    run::resume(pcpu, local)
}

/// Takes every pending interrupt, up to a bound.
pub(crate) fn take_interrupts(pcpu: &'static Pcpu, local: &mut Local) {
    let Some(gic) = gic::gic() else { return };
    for _ in 0..INTERRUPTS_PER_EXIT {
        let Some(acknowledged) = gic.acknowledge() else { break };
        trace::record_loaded(pcpu, Kind::Interrupt, acknowledged.interrupt.0);
        gic.drop_priority(acknowledged);
        if !take(pcpu, local, gic, acknowledged) {
            gic.deactivate(acknowledged);
        }
    }
}

/// Handles one interrupt; says whether a guest will deactivate it.
fn take(pcpu: &'static Pcpu, local: &mut Local, gic: &'static Gic, acknowledged: Acknowledged) -> bool {
    let interrupt = acknowledged.interrupt;
    if interrupt == gic::KICK {
        // What it is about is in the core's own notes.
        if epitaph::happened() {
            power::halt();
        }
    } else if interrupt.0 == INTERRUPTS.virtual_timer.load(Ordering::Relaxed) {
        return on_virtual_timer(local, gic);
    } else if interrupt.0 == INTERRUPTS.hypervisor_timer.load(Ordering::Relaxed) {
        timer::set(None);
        if let Some(hypervisor) = hypervisor() {
            hypervisor.on_deadline(pcpu.id());
        }
    } else if interrupt.0 == INTERRUPTS.maintenance.load(Ordering::Relaxed) {
        on_maintenance(local, gic);
    } else if interrupt.0 == INTERRUPTS.console.load(Ordering::Relaxed) {
        on_console();
    } else if interrupt.is_spi() {
        return on_shared(local, interrupt);
    } else {
        local.unclaimed += 1;
    }
    false
}

fn on_virtual_timer(local: &mut Local, gic: &'static Gic) -> bool {
    let (Some(hypervisor), Some(context)) = (hypervisor(), local.loaded()) else {
        timer::stop_virtual();
        return false;
    };
    hypervisor.on_virtual_timer(&mut El2Cpu::with(gic), &mut context.state);
    true
}

fn on_maintenance(local: &mut Local, gic: &'static Gic) {
    if let (Some(hypervisor), Some(context)) = (hypervisor(), local.loaded()) {
        hypervisor.on_maintenance(&mut El2Cpu::with(gic), &mut context.state);
    }
}

/// Takes what was typed until the port is empty: its interrupt comes again only for the first byte after that.
fn on_console() {
    let Some(hypervisor) = hypervisor() else { return };
    for _ in 0..INPUT_ROUNDS {
        let mut bytes = [0; INPUT];
        let count = console::on_interrupt(&mut bytes);
        match bytes.get(..count) {
            Some(typed) if count > 0 => hypervisor.on_console_input(typed),
            _ => break,
        }
    }
    hypervisor.on_console_ready();
}

fn on_shared(local: &mut Local, interrupt: IntId) -> bool {
    let claim = hypervisor().map_or(Claim::Nobody, |hypervisor| hypervisor.on_interrupt(interrupt));
    if claim == Claim::Nobody {
        local.unclaimed += 1;
    }
    claim == Claim::Guest
}
