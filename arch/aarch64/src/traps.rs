//! Exceptions from guests: read the syndrome once, hand it to the core, go on with whoever runs next.

use crate::cpu::El2Cpu;
use crate::gic::{self, Acknowledged, Gic};
use crate::pcpu::{Local, Pcpu};
use crate::run::{self, hypervisor};
use crate::switch::{Links, VcpuContext};
use crate::sysreg::{isb, read_sysreg, wfi};
use crate::{console, epitaph, fp, keys, power, timer, trace};
use core::sync::atomic::{AtomicU32, Ordering};
use portunus::abi::hypercall::{EVENT_CHANNEL_OP, GRANT_TABLE_OP, MEMORY_OP};
use portunus::counters::Exit;
use portunus::hypervisor::at_vector::{self, Answered};
use portunus::hypervisor::{Claim, HYPERCALL, Quick, RestEnd, Rested, Saved, Syndrome, is_send};
use portunus::ids::IntId;
use portunus::trace::{Kind, call as trace_of};
use portunus::trap::event;
use portunus::trap::registers::GuestFrame;

/// ESR_EL2.EC of an FP or SIMD instruction that trapped.
const FP_CLASS: u64 = 0x07;
/// Of WFI and WFE.
const WAIT_CLASS: u64 = 0x01;
/// Of MSR, MRS or a system instruction.
const SYSTEM_REGISTER_CLASS: u64 = 0x18;
/// Of a data abort of a guest.
const DATA_ABORT_CLASS: u64 = 0x24;
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

/// What a handler has made of an exception, and so what is left to do. The vectors know [`Self::Guest`] by its number.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
#[repr(u64)]
pub(crate) enum Next {
    /// The vCPU goes on at once.
    Guest = Quick::Done as u64,
    /// The trap is done with; what is due before any vCPU goes on is to be looked at.
    Due = Quick::Due as u64,
    /// It is decided who runs: the loaded vCPU's state has it.
    Over = Quick::Over as u64,
    /// The pCPU is to wait in place ([`await_answer`]).
    Rests = Quick::Rests as u64,
    /// Nothing is done: it is more than a quick look.
    Core = Quick::No as u64,
    /// Nothing is done: the handler needs a register that was not saved.
    Registers = Quick::Registers as u64,
    /// Another vCPU goes on: the loaded vCPU's state has it.
    Across = Quick::Across as u64,
    /// It is to be decided who runs.
    Decide,
}

const _: () = assert!(Next::Guest as u64 == 0);

impl Next {
    /// The numbers are the same, so this costs nothing.
    #[inline]
    const fn of(quick: Quick) -> Self {
        match quick {
            Quick::Done => Self::Guest,
            Quick::Due => Self::Due,
            Quick::Over => Self::Over,
            Quick::Rests => Self::Rests,
            Quick::No => Self::Core,
            Quick::Registers => Self::Registers,
            Quick::Across => Self::Across,
        }
    }
}

/// A synchronous exception from a guest. Every kind has a function of its own, so that each keeps no more registers than
/// it needs.
pub(crate) unsafe extern "C" fn synchronous(pcpu: &'static Pcpu, context: &'static mut VcpuContext) -> Next {
    let esr = read_sysreg!("esr_el2");
    let class = esr >> 26 & 0x3f;
    if class == DATA_ABORT_CLASS {
        trace::record_loaded(pcpu, Kind::Trap, esr as u32);
        return data_abort(Saved::CALLER, context, esr);
    }
    if class == SYSTEM_REGISTER_CLASS {
        trace::record_loaded(pcpu, Kind::Trap, esr as u32);
        return system_register(context, esr, Saved::CALLER);
    }
    if esr == HYPERCALL {
        return hypercall(pcpu, context);
    }
    if let Some(answered) = at_vector::answer(esr, &mut context.state.frame) {
        return answer(pcpu, context, answered);
    }
    if class == WAIT_CLASS {
        trace::record_loaded(pcpu, Kind::Trap, esr as u32);
        return if context.state.came_across() {
            wait_across(pcpu, context, esr)
        } else {
            wait(pcpu, context, esr)
        };
    }
    let (kind, argument) = event::of_exception(esr, &context.state.frame);
    trace::record_loaded(pcpu, kind, argument);
    match class {
        FP_CLASS => floating_point(pcpu),
        _ => Next::Core,
    }
}

/// What divides the numbers of the hypercalls that have a straight way.
const STRAIGHT: u64 = 4;
const _: () = assert!(
    EVENT_CHANNEL_OP.is_multiple_of(STRAIGHT)
        && GRANT_TABLE_OP.is_multiple_of(STRAIGHT)
        && MEMORY_OP.is_multiple_of(STRAIGHT)
);

/// A hypercall. Those that serve requests come first, and each of them goes straight to what it asks for.
#[inline(always)]
fn hypercall(pcpu: &'static Pcpu, context: &mut VcpuContext) -> Next {
    let frame = &context.state.frame;
    let (number, first) = (frame.read(16), frame.read(0));
    let record = || trace::record_loaded(pcpu, Kind::Hypercall, trace_of(number, first));
    // One look for all of them, which most other calls end at.
    if number.is_multiple_of(STRAIGHT) {
        if is_send(HYPERCALL, frame) {
            record();
            return send(context);
        }
        if number == GRANT_TABLE_OP {
            record();
            return grants(context);
        }
        if number == MEMORY_OP {
            record();
            return memory(context);
        }
    }
    if let Some(answered) = at_vector::answer(HYPERCALL, &mut context.state.frame) {
        return answer(pcpu, context, answered);
    }
    record();
    Next::Core
}

#[inline(always)]
fn answer(pcpu: &'static Pcpu, context: &mut VcpuContext, answered: Answered) -> Next {
    trace::record_loaded(pcpu, answered.kind, answered.argument);
    context.state.count(answered.exit);
    Next::Guest
}

#[inline(always)]
fn send(context: &mut VcpuContext) -> Next {
    let Links {
        hypervisor, located, ..
    } = context.links;
    Next::of(hypervisor.on_send(located, &mut context.cpu, &mut context.state))
}

#[inline(always)]
fn grants(context: &mut VcpuContext) -> Next {
    let Links {
        hypervisor, located, ..
    } = context.links;
    Next::of(hypervisor.on_grant_call(located, &mut context.cpu, &mut context.state))
}

#[inline(always)]
fn memory(context: &mut VcpuContext) -> Next {
    let Links {
        hypervisor, located, ..
    } = context.links;
    Next::of(hypervisor.on_memory_call(located, &mut context.cpu, &mut context.state))
}

/// HPFAR_EL2, where it says something.
#[inline]
fn fault_page(esr: u64) -> u64 {
    if Syndrome::has_hpfar(esr) {
        read_sysreg!("hpfar_el2")
    } else {
        Syndrome::NO_HPFAR
    }
}

#[inline(never)]
fn data_abort(saved: Saved, context: &mut VcpuContext, esr: u64) -> Next {
    let far = read_sysreg!("far_el2");
    let hpfar = || read_sysreg!("hpfar_el2");
    let Links {
        hypervisor, located, ..
    } = context.links;
    Next::of(hypervisor.on_quick_access(located, &mut context.cpu, &mut context.state, (esr, far, hpfar), saved))
}

#[inline(never)]
fn system_register(context: &mut VcpuContext, esr: u64, saved: Saved) -> Next {
    let Links {
        hypervisor, located, ..
    } = context.links;
    Next::of(hypervisor.on_quick_system_register(located, &mut context.cpu, &mut context.state, esr, saved))
}

/// WFI of a vCPU that the event of another has brought here.
#[inline(never)]
fn wait_across(pcpu: &'static Pcpu, context: &'static mut VcpuContext, esr: u64) -> Next {
    let Links {
        hypervisor, located, ..
    } = context.links;
    if hypervisor.waits_across(located, &mut context.cpu, &mut context.state, esr) {
        return Next::Across;
    }
    wait(pcpu, context, esr)
}

#[inline(never)]
fn wait(pcpu: &'static Pcpu, context: &'static mut VcpuContext, esr: u64) -> Next {
    let Links {
        hypervisor,
        gic,
        located,
    } = context.links;
    let mut cpu = El2Cpu::with(gic);
    if !hypervisor.begin_rest(located, &mut cpu, &mut context.state, esr) {
        return Next::of(hypervisor.on_quick_wait(located, &mut cpu, &mut context.state, esr));
    }
    // No list register holds anything, so that only a physical interrupt ends this.
    trace::record_loaded(pcpu, Kind::Idle, 0);
    isb();
    wfi();
    let first = acknowledge(pcpu, gic);
    if first.is_some_and(is_virtual_timer) && hypervisor.end_rest_by_timer(located, &mut cpu, &mut context.state) {
        return Next::Guest;
    }
    rested(pcpu, context, first)
}

/// The pCPU waits in place until the loaded vCPU has the answer to its request, or until another interrupt than a kick.
pub(crate) unsafe extern "C" fn await_answer(pcpu: &'static Pcpu, context: &'static mut VcpuContext) -> Next {
    timer::set_earlier(context.state.over.deadline);
    let gic = context.links.gic;
    trace::record_loaded(pcpu, Kind::Idle, 0);
    gic.without_virtual(|| {
        isb();
        wfi();
    });
    let first = acknowledge(pcpu, gic);
    rested(pcpu, context, first)
}

/// An interrupt has ended the wait of the loaded vCPU's pCPU; after its timer's, that did not end the vCPU's.
#[inline]
fn rested(pcpu: &'static Pcpu, context: &'static mut VcpuContext, first: Option<Acknowledged>) -> Next {
    let Links {
        hypervisor,
        gic,
        located,
    } = context.links;
    let mut left = first;
    let mut end = RestEnd::Other;
    if let Some(acknowledged) = first
        && acknowledged.interrupt == gic::KICK
        && !epitaph::happened()
    {
        gic.deactivate(acknowledged);
        (left, end) = (None, RestEnd::Kick);
    }
    match hypervisor.end_rest(located, &mut El2Cpu::with(gic), &mut context.state, end) {
        Rested::GoesOn => Next::Guest,
        Rested::Due => Next::Due,
        Rested::Waits => woken(pcpu, gic, left),
    }
}

/// Another interrupt, which is yet to be taken, or a kick that was for something else, has ended the wait of the loaded vCPU's
/// pCPU.
#[inline(never)]
fn woken(pcpu: &'static Pcpu, gic: &'static Gic, first: Option<Acknowledged>) -> Next {
    // SAFETY: this is the only handler that runs on this pCPU.
    let local = unsafe { pcpu.local() };
    if let Some(acknowledged) = first {
        take(pcpu, local, gic, acknowledged);
        take_interrupts(pcpu, local);
    }
    if let Some(context) = local.loaded() {
        let Links {
            hypervisor, located, ..
        } = context.links;
        hypervisor.wait_on(located, &mut El2Cpu::with(gic), &mut context.state);
    }
    Next::Due
}

#[inline(never)]
fn floating_point(pcpu: &'static Pcpu) -> Next {
    // SAFETY: this is the only handler that runs on this pCPU.
    let local = unsafe { pcpu.local() };
    if let Some(context) = local.loaded() {
        context.state.count(Exit::Other);
    }
    fp::on_trap(local, local.features);
    Next::Guest
}

/// What is left of an exception that did not end with [`Next::Guest`], with all of the guest's registers in the frame.
/// Returns the frame to go on with.
pub(crate) unsafe extern "C" fn finish(pcpu: &'static Pcpu, next: Next) -> *mut GuestFrame {
    if next == Next::Across {
        // SAFETY: this is the only handler that runs on this pCPU.
        run::go_across(pcpu, unsafe { pcpu.local() });
    }
    finish_otherwise(pcpu, next)
}

#[inline(never)]
fn finish_otherwise(pcpu: &'static Pcpu, next: Next) -> *mut GuestFrame {
    // SAFETY: this is the only handler that runs on this pCPU.
    let local = unsafe { pcpu.local() };
    let next = match next {
        Next::Registers => again(local),
        other => other,
    };
    let next = match (next, local.loaded()) {
        // SAFETY: as for `finish` itself; the context is the loaded vCPU's.
        (Next::Rests, Some(context)) => unsafe { await_answer(pcpu, context) },
        (other, _) => other,
    };
    match next {
        Next::Guest => return local.frame(),
        Next::Decide => return run::decide(pcpu, local),
        Next::Over => return run::go_over(pcpu, local),
        Next::Across => run::go_across(pcpu, local),
        Next::Due => leave(pcpu),
        Next::Core | Next::Registers | Next::Rests => {
            leave(pcpu);
            core(local);
        }
    }
    run::resume(pcpu, local)
}

fn leave(pcpu: &Pcpu) {
    if let Some(hypervisor) = hypervisor() {
        hypervisor.left_guest(pcpu.id());
    }
}

/// The quick look once more, now that every register is saved. The syndrome registers still are of this exception: none
/// was taken to EL2 since.
#[inline(never)]
fn again(local: &mut Local) -> Next {
    let Some(context) = local.loaded() else {
        return Next::Core;
    };
    let esr = read_sysreg!("esr_el2");
    match esr >> 26 & 0x3f {
        DATA_ABORT_CLASS => data_abort(Saved::ALL, context, esr),
        SYSTEM_REGISTER_CLASS => system_register(context, esr, Saved::ALL),
        _ => Next::Core,
    }
}

/// The core's way for exceptions of every kind.
#[inline(never)]
fn core(local: &mut Local) {
    let esr = read_sysreg!("esr_el2");
    let gets_keys = keys::on_trap(local, esr);
    let Some(context) = local.loaded() else { return };
    if gets_keys {
        context.state.count(Exit::Other);
        return;
    }
    let syndrome = Syndrome {
        esr,
        far: read_sysreg!("far_el2"),
        hpfar: fault_page(esr),
    };
    let mut cpu = El2Cpu::with(context.links.gic);
    context.links.hypervisor.on_trap(&mut cpu, &mut context.state, syndrome);
}

/// An interrupt while a guest ran.
pub(crate) unsafe extern "C" fn interrupt(pcpu: &'static Pcpu, context: &'static mut VcpuContext) -> Next {
    context.state.count(Exit::Interrupt);
    let Links {
        hypervisor,
        gic,
        located,
    } = context.links;
    let first = acknowledge(pcpu, gic);
    if let Some(acknowledged) = first
        && is_virtual_timer(acknowledged)
        && hypervisor.on_virtual_timer_again(located, &mut El2Cpu::with(gic), &context.state)
    {
        return Next::Guest;
    }
    interrupted(pcpu, context, first)
}

/// An interrupt that may change more than one list register.
#[inline(never)]
fn interrupted(pcpu: &'static Pcpu, context: &'static mut VcpuContext, first: Option<Acknowledged>) -> Next {
    let Links {
        hypervisor,
        gic,
        located,
    } = context.links;
    if let Some(acknowledged) = first
        && is_virtual_timer(acknowledged)
        && hypervisor.on_virtual_timer_at_once(located, &mut El2Cpu::with(gic), &context.state)
    {
        return Next::Guest;
    }
    hypervisor.left_guest(pcpu.id());
    // SAFETY: this is the only handler that runs on this pCPU, and it does not use `context` any more.
    let local = unsafe { pcpu.local() };
    if let Some(acknowledged) = first {
        take(pcpu, local, gic, acknowledged);
        take_interrupts(pcpu, local);
    }
    if !local.reschedule
        && let Some(context) = local.loaded()
        && hypervisor.goes_on(located, &mut El2Cpu::with(gic), &mut context.state)
    {
        return Next::Guest;
    }
    Next::Decide
}

#[inline]
fn is_virtual_timer(acknowledged: Acknowledged) -> bool {
    acknowledged.interrupt.0 == INTERRUPTS.virtual_timer.load(Ordering::Relaxed)
}

/// An SError while a guest ran.
pub(crate) unsafe extern "C" fn system_error(pcpu: &'static Pcpu, context: &'static mut VcpuContext) -> Next {
    let Links { hypervisor, gic, .. } = context.links;
    let syndrome = Syndrome {
        esr: read_sysreg!("esr_el2"),
        far: 0,
        hpfar: 0,
    };
    hypervisor.left_guest(pcpu.id());
    hypervisor.on_system_error(&mut El2Cpu::with(gic), &mut context.state, syndrome);
    Next::Due
}

/// Takes every pending interrupt, up to a bound.
pub(crate) fn take_interrupts(pcpu: &'static Pcpu, local: &mut Local) {
    let Some(gic) = gic::gic() else { return };
    for _ in 0..INTERRUPTS_PER_EXIT {
        let Some(acknowledged) = acknowledge(pcpu, gic) else {
            break;
        };
        take(pcpu, local, gic, acknowledged);
    }
}

/// The most urgent pending interrupt, with its priority dropped.
#[inline]
fn acknowledge(pcpu: &'static Pcpu, gic: &'static Gic) -> Option<Acknowledged> {
    let acknowledged = gic.acknowledge()?;
    trace::record_loaded(pcpu, Kind::Interrupt, acknowledged.interrupt.0);
    gic.drop_priority(acknowledged);
    Some(acknowledged)
}

/// Handles one interrupt.
fn take(pcpu: &'static Pcpu, local: &mut Local, gic: &'static Gic, acknowledged: Acknowledged) {
    if !hand_on(pcpu, local, gic, acknowledged) {
        gic.deactivate(acknowledged);
    }
}

/// Brings an interrupt to whom it is for; says whether a guest will deactivate it.
fn hand_on(pcpu: &'static Pcpu, local: &mut Local, gic: &'static Gic, acknowledged: Acknowledged) -> bool {
    let interrupt = acknowledged.interrupt;
    if interrupt == gic::KICK {
        // What it is about is in the core's own notes.
        if epitaph::happened() {
            power::halt();
        }
    } else if is_virtual_timer(acknowledged) {
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
