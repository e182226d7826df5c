//! What a pCPU does after each exception: ask the core who runs, load it, sleep when nobody does.

use crate::cpu::{El2Cpu, ListRegisters};
use crate::gic::{Controller, Gic};
use crate::machine::Arm64;
use crate::pcpu::{Local, PLACES, Pcpu};
use crate::switch::{Links, VcpuContext, Way};
use crate::sysreg::{wfi, write_sysreg};
use crate::traps::{INTERRUPTS, take_interrupts};
use crate::vectors::enter_guest;
use crate::{console, gic, power, timer, trace};
use alloc::boxed::Box;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, Ordering};
use portunus::hypervisor::{Across, Entry, Hypervisor, News};
use portunus::ids::{IntId, VcpuId};
use portunus::trace::{Kind, vcpu_byte};
use portunus::trap::registers::GuestFrame;
use spin::Once;

/// Whether a pCPU is ending the run.
static FINISHING: AtomicBool = AtomicBool::new(false);

/// Rounds of output before the end: more than all domains' buffers.
const FINAL_DRAINS: usize = 256;

static HYPERVISOR: Once<Hypervisor<Arm64>> = Once::new();

/// The core; `None` until boot has built it.
#[inline]
pub(crate) fn hypervisor() -> Option<&'static Hypervisor<Arm64>> {
    HYPERVISOR.get()
}

/// Makes `hypervisor` the core of this machine.
pub(crate) fn install(hypervisor: Hypervisor<Arm64>) {
    HYPERVISOR.call_once(|| hypervisor);
}

/// Runs this pCPU's vCPUs for ever. The core is installed.
pub(crate) fn start(pcpu: &'static Pcpu) -> ! {
    // SAFETY: no guest runs yet: there is no other handler.
    let local = unsafe { pcpu.local() };
    if let (Some(hypervisor), Some(gic)) = (hypervisor(), gic::gic()) {
        let mut contexts = Box::new([null_mut(); PLACES]);
        for id in hypervisor.vcpus() {
            if let Some(constants) = hypervisor.constants(id).filter(|constants| constants.pcpu == pcpu.id())
                && let (Some(located), Some(state)) = (hypervisor.locate(id), hypervisor.initial_state(id))
            {
                let links = Links {
                    hypervisor,
                    gic,
                    located,
                };
                let context = VcpuContext::new(id, state, constants, links);
                contexts[usize::from(vcpu_byte(id))] = Box::into_raw(Box::new(context));
            }
        }
        local.contexts = Some(contexts);
        local.way = Way::of(local.features, gic);
    }
    if let Some(gic) = gic::gic() {
        gic.enable_virtual();
        for interrupt in [
            &INTERRUPTS.hypervisor_timer,
            &INTERRUPTS.virtual_timer,
            &INTERRUPTS.maintenance,
        ] {
            gic.enable(pcpu.id(), IntId(interrupt.load(Ordering::Relaxed)), true);
        }
    }
    local.reschedule = true;
    run(resume(pcpu, local))
}

/// Goes on with the loaded vCPU if nothing speaks against it, else decides anew; returns the frame of who runs, loaded.
#[inline]
pub(crate) fn resume(pcpu: &'static Pcpu, local: &mut Local) -> *mut GuestFrame {
    if !local.reschedule
        && let Some(context) = local.loaded()
    {
        let Links {
            hypervisor,
            gic,
            located,
        } = context.links;
        if hypervisor.goes_on(located, &mut El2Cpu::with(gic), &mut context.state) {
            return local.frame();
        }
    }
    decide(pcpu, local)
}

#[inline(never)]
fn resume_slowly(pcpu: &'static Pcpu, local: &mut Local) -> *mut GuestFrame {
    resume(pcpu, local)
}

/// Goes over to the vCPU that the core has decided on, or sleeps if that is none; returns the frame of who runs, loaded.
#[inline(never)]
pub(crate) fn go_over(pcpu: &'static Pcpu, local: &mut Local) -> *mut GuestFrame {
    if let Some(context) = local.loaded() {
        let schedule = context.state.over;
        timer::set(schedule.deadline);
        if !schedule.run.is_some_and(|vcpu| switch_over(local, vcpu, pcpu)) {
            local.reschedule = true;
            return decide_after(pcpu, local, !context.links.hypervisor.must_schedule(pcpu.id()));
        }
    }
    resume(pcpu, local)
}

/// Goes over to the vCPU that the loaded one talks to, with what it is to hear, and runs whoever can.
#[inline(always)]
pub(crate) fn go_across(pcpu: &'static Pcpu, local: &mut Local) -> ! {
    match local.way {
        Way::UsualV3(gic) => go_across_by::<_, true>(pcpu, local, gic),
        Way::UsualV2(gic) => go_across_by::<_, true>(pcpu, local, gic),
        Way::Any => go_across_anyhow(pcpu, local),
    }
}

#[inline(never)]
fn go_across_anyhow(pcpu: &'static Pcpu, local: &mut Local) -> ! {
    match gic::gic() {
        Some(gic) => go_across_by::<Gic, false>(pcpu, local, gic),
        None => run(decide(pcpu, local)),
    }
}

/// [`go_across`] with a controller of a known kind.
#[inline(never)]
fn go_across_by<G: Controller, const USUAL: bool>(pcpu: &'static Pcpu, local: &mut Local, gic: &'static G) -> ! {
    if let Some(context) = local.loaded() {
        let Across { to, news, .. } = context.state.across;
        let next = place_of(local, to).filter(|next| *next != local.loaded);
        if let Some(next) = next {
            switch_to::<G, USUAL>(local, next, news, true, (pcpu, gic));
            // SAFETY: as `Local::loaded`, which it is now.
            let context = unsafe { next.as_mut() };
            if let Some(context) = context
                && !local.reschedule
                && (context.links.hypervisor).goes_straight_on(context.links.located, &context.state)
            {
                run(next.cast());
            }
        } else {
            let Links {
                hypervisor, located, ..
            } = context.links;
            hypervisor.not_across(located, &mut ListRegisters(gic), &mut context.state);
            local.reschedule = true;
        }
    }
    run(resume_slowly(pcpu, local))
}

/// Goes to the guest of the loaded vCPU, whose frame this is.
#[inline(always)]
fn run(frame: *mut GuestFrame) -> ! {
    // SAFETY: every caller has just loaded the vCPU or found it loaded, and a handler's stack frame is not needed again.
    unsafe { enter_guest(frame) }
}

/// Decides what this pCPU does next and does it until a guest can run; returns that guest's frame, loaded.
pub(crate) fn decide(pcpu: &'static Pcpu, local: &mut Local) -> *mut GuestFrame {
    decide_after(pcpu, local, false)
}

/// As [`decide`], after a sleep if the core has said so already.
#[inline(never)]
fn decide_after(pcpu: &'static Pcpu, local: &mut Local, sleep: bool) -> *mut GuestFrame {
    if sleep {
        wait(pcpu, local);
        if goes_on_in_place(local) {
            return local.frame();
        }
    }
    loop {
        let (Some(hypervisor), Some(mut cpu)) = (hypervisor(), El2Cpu::new()) else {
            wait(pcpu, local);
            continue;
        };
        if hypervisor.is_finished() {
            finish(hypervisor);
        }
        if local.reschedule || local.loaded.is_null() || hypervisor.must_schedule(pcpu.id()) {
            local.reschedule = false;
            let schedule = hypervisor.schedule(pcpu.id(), timer::now());
            timer::set(schedule.deadline);
            if !schedule.run.is_some_and(|vcpu| make_loaded(local, vcpu, pcpu)) {
                wait(pcpu, local);
                if goes_on_in_place(local) {
                    return local.frame();
                }
                local.reschedule = true;
                continue;
            }
        }
        let Some(context) = local.loaded() else { continue };
        match hypervisor.enter(&mut cpu, &mut context.state) {
            Entry::Run => return local.frame(),
            Entry::Blocked => local.reschedule = true,
            Entry::Worked => {
                local.reschedule = true;
                take_interrupts(pcpu, local);
            }
        }
    }
}

/// After a sleep: whether the vCPU that is still loaded goes on at once, as nobody else is to run.
#[inline]
fn goes_on_in_place(local: &mut Local) -> bool {
    let Some(context) = local.loaded() else { return false };
    let Links {
        hypervisor,
        gic,
        located,
    } = context.links;
    let Some(schedule) = hypervisor.resume(located) else {
        return false;
    };
    timer::set(schedule.deadline);
    let goes_on = hypervisor.goes_on(located, &mut El2Cpu::with(gic), &mut context.state);
    local.reschedule = !goes_on;
    goes_on
}

/// Shows what the console still holds and ends the run. The first pCPU that comes here does it; the others would only
/// wait for the console's lock in turns.
fn finish(hypervisor: &Hypervisor<Arm64>) -> ! {
    if FINISHING.swap(true, Ordering::AcqRel) {
        power::halt();
    }
    for _ in 0..FINAL_DRAINS {
        hypervisor.on_console_ready();
        console::flush();
    }
    power::end(0)
}

/// Sleeps until an interrupt, which the caller's vCPU, still loaded, may be waiting for, and takes it. An interrupt that
/// came since the core was asked is pending, so it ends the sleep before it begins.
fn wait(pcpu: &'static Pcpu, local: &mut Local) {
    if let (Some(hypervisor), Some(mut cpu), Some(context)) = (hypervisor(), El2Cpu::new(), local.loaded()) {
        hypervisor.rest(&mut cpu, &mut context.state);
    }
    trace::record_loaded(pcpu, Kind::Idle, 0);
    let sleep = || {
        crate::sysreg::isb();
        wfi();
    };
    match gic::gic() {
        Some(gic) => gic.without_virtual(sleep),
        None => sleep(),
    }
    take_interrupts(pcpu, local);
}

/// [`switch_over`], where it is not in anybody's way.
#[inline(never)]
fn make_loaded(local: &mut Local, vcpu: VcpuId, pcpu: &'static Pcpu) -> bool {
    switch_over(local, vcpu, pcpu)
}

/// Loads `vcpu` unless it is; `false`: it does not live on this pCPU.
#[inline(always)]
fn switch_over(local: &mut Local, vcpu: VcpuId, pcpu: &'static Pcpu) -> bool {
    let (Some(next), Some(gic)) = (place_of(local, vcpu), gic::gic()) else {
        return false;
    };
    if next != local.loaded {
        switch_to::<Gic, false>(local, next, News::Nothing, false, (pcpu, gic));
    }
    true
}

/// Loads `next`, which is another vCPU of this pCPU, with its `news`; `across`: as the loaded one's state says.
#[inline(always)]
fn switch_to<G: Controller, const USUAL: bool>(
    local: &mut Local,
    next: *mut VcpuContext,
    news: News,
    across: bool,
    (pcpu, gic): (&'static Pcpu, &'static G),
) {
    let mut timer_is_active = false;
    let features = local.features;
    if let Some(context) = local.loaded() {
        let Links {
            hypervisor, located, ..
        } = context.links;
        timer_is_active = hypervisor.leave(located, &mut ListRegisters(gic), &mut context.state, across);
        context.save::<USUAL>(features);
        gic.save_virtual::<USUAL>(&mut context.virtual_state);
    }
    // The incoming timer must not fire before its interrupt's state is this vCPU's.
    write_sysreg!("cntv_ctl_el0", 0);
    local.loaded = next;
    // SAFETY: as `Local::loaded`, which it is now: the reference to the one before is not used any more.
    if let Some(context) = unsafe { next.as_mut() } {
        trace::switch(pcpu, context.traced);
        let Links {
            hypervisor, located, ..
        } = context.links;
        gic.restore_virtual(&mut context.virtual_state);
        let has_timer = hypervisor.load(located, &mut ListRegisters(gic), &mut context.state, news);
        if has_timer != timer_is_active {
            let virtual_timer = IntId(INTERRUPTS.virtual_timer.load(Ordering::Relaxed));
            context.links.gic.set_active(pcpu.id(), virtual_timer, has_timer);
        }
        context.load::<USUAL>(local);
    }
}

/// The vCPU's context, if it lives on this pCPU.
#[inline(always)]
fn place_of(local: &Local, vcpu: VcpuId) -> Option<*mut VcpuContext> {
    let next = local.contexts.as_ref()?[usize::from(vcpu_byte(vcpu))];
    (!next.is_null()).then_some(next)
}
