//! What each pCPU has for itself, found through TPIDR_EL2.
//!
//! [`Pcpu`] is shared and constant once the pCPU runs. [`Local`] is touched by its own pCPU alone, and only by the
//! handler of the one exception that it can be in: interrupts stay masked at EL2, so handlers do not nest.

use crate::features::Features;
use crate::layout;
use crate::switch::{VcpuContext, Way};
use crate::sysreg::{read_sysreg, write_sysreg};
use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use portunus::hypervisor::VcpuState;
use portunus::ids::{MAX_PCPUS, PcpuId};
use portunus::trap::registers::GuestFrame;
use portunus::trap::system_register::identification::RawIdRegisters;
use spin::Once;

/// One pCPU. The vectors use the first two fields by their offsets.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Pcpu {
    /// Top of the main stack: where every handler of an exception from a guest begins.
    pub(crate) stack: AtomicU64,
    /// Top of the exception stack: where the epitaph runs.
    pub(crate) exception_stack: AtomicU64,
    /// Where its next trace event goes ([`crate::trace`]).
    pub(crate) trace: AtomicUsize,
    /// The loaded vCPU as trace events name it; 0: none.
    pub(crate) trace_vcpu: AtomicU64,
    /// Its affinity fields.
    pub(crate) mpidr: AtomicU64,
    /// It is set up and may be used.
    pub(crate) online: AtomicBool,
    /// What it implements.
    pub(crate) id_registers: Once<RawIdRegisters>,
    id: PcpuId,
    local: UnsafeCell<Local>,
}

/// A pCPU's own state.
#[derive(Debug)]
pub(crate) struct Local {
    /// The vCPU whose EL1 registers are in the hardware; null before the first.
    pub(crate) loaded: *mut VcpuContext,
    /// The vCPU whose FP registers are in the hardware; null when nobody's are.
    pub(crate) fp_owner: *mut VcpuContext,
    /// What does not trap although for many vCPUs it does.
    pub(crate) open: Open,
    /// The vCPUs that live here, by [`vcpu_byte`](portunus::trace::vcpu_byte), null for others; each allocated at boot, for
    /// ever.
    pub(crate) contexts: Option<Box<[*mut VcpuContext; PLACES]>>,
    /// How it goes from one vCPU to another.
    pub(crate) way: Way,
    /// The core must be asked who runs before any guest goes on.
    pub(crate) reschedule: bool,
    /// What this pCPU implements.
    pub(crate) features: Features,
    /// Interrupts that were nobody's, counted.
    pub(crate) unclaimed: u64,
}

/// Places of vCPUs in [`Local::contexts`].
pub(crate) const PLACES: usize = 1 << u8::BITS;

/// What the loaded vCPU uses without a trap: a bit each.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Open(u8);

impl Open {
    /// Pointer authentication and its keys.
    pub(crate) const KEYS: u8 = 1 << 0;
    /// FP instructions.
    pub(crate) const FP: u8 = 1 << 1;

    /// Whether this is.
    #[inline(always)]
    pub(crate) const fn has(self, what: u8) -> bool {
        self.0 & what != 0
    }
    /// Whether anything is.
    #[inline(always)]
    pub(crate) const fn is_any(self) -> bool {
        self.0 != 0
    }
    /// From now on it is, or is not.
    pub(crate) const fn set(&mut self, what: u8, open: bool) {
        self.0 = if open { self.0 | what } else { self.0 & !what };
    }
}

impl Local {
    /// The loaded vCPU.
    #[inline]
    pub(crate) fn loaded<'a>(&mut self) -> Option<&'a mut VcpuContext> {
        // SAFETY: contexts live for ever; only the one handler of this pCPU follows the pointer, and no
        // function holds two references that it got here.
        unsafe { self.loaded.as_mut() }
    }

    /// The loaded vCPU's frame; null without one.
    #[inline]
    pub(crate) fn frame(&self) -> *mut GuestFrame {
        // The context begins with the core's state, which begins with the frame (`switch` asserts the first, below the
        // second).
        self.loaded.cast()
    }
}

const _: () = assert!(core::mem::offset_of!(VcpuState, frame) == 0);

// SAFETY: `local` is reached through `local()` alone, whose caller promises that it is this pCPU's only handler.
unsafe impl Sync for Pcpu {}

impl Pcpu {
    const fn new(id: u8) -> Self {
        Self {
            stack: AtomicU64::new(0),
            exception_stack: AtomicU64::new(0),
            trace: AtomicUsize::new(0),
            trace_vcpu: AtomicU64::new(0),
            mpidr: AtomicU64::new(0),
            online: AtomicBool::new(false),
            id_registers: Once::new(),
            id: PcpuId(id),
            local: UnsafeCell::new(Local {
                loaded: null_mut(),
                fp_owner: null_mut(),
                open: Open(0),
                contexts: None,
                way: Way::Any,
                reschedule: true,
                features: Features::NONE,
                unclaimed: 0,
            }),
        }
    }

    /// Its number.
    pub(crate) fn id(&self) -> PcpuId {
        self.id
    }

    /// Its own state.
    ///
    /// # Safety
    /// Called once an exception, by its handler on this pCPU, which keeps the reference no longer than it runs.
    #[allow(
        clippy::mut_from_ref,
        reason = "handlers of one pCPU do not nest: the reference is the only one"
    )]
    pub(crate) unsafe fn local(&self) -> &mut Local {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.local.get() }
    }
}

static PCPUS: [Pcpu; MAX_PCPUS] = [
    Pcpu::new(0),
    Pcpu::new(1),
    Pcpu::new(2),
    Pcpu::new(3),
    Pcpu::new(4),
    Pcpu::new(5),
    Pcpu::new(6),
    Pcpu::new(7),
];

/// The pCPU with this number, running or not.
pub(crate) fn get(id: PcpuId) -> Option<&'static Pcpu> {
    PCPUS.get(usize::from(id.0))
}

/// Every pCPU that runs.
pub(crate) fn online() -> impl Iterator<Item = &'static Pcpu> {
    PCPUS.iter().filter(|pcpu| pcpu.online.load(Ordering::Acquire))
}

/// Makes the executing pCPU number `id`: from now on its exceptions have stacks and its code has a [`this`].
pub(crate) fn install(id: PcpuId) -> Option<&'static Pcpu> {
    let pcpu = get(id)?;
    let index = usize::from(id.0);
    pcpu.stack
        .store(layout::main_stack(index).end as u64, Ordering::Relaxed);
    pcpu.exception_stack
        .store(layout::exception_stack(index).end as u64, Ordering::Relaxed);
    pcpu.trace.store(crate::trace::ring(id), Ordering::Relaxed);
    pcpu.mpidr
        .store(read_sysreg!("mpidr_el1") & crate::sysreg::AFFINITY, Ordering::Relaxed);
    // The register is EL2's own: the address stays valid for ever.
    write_sysreg!("tpidr_el2", core::ptr::from_ref(pcpu) as u64);
    Some(pcpu)
}

/// The executing pCPU; `None` before [`install`].
pub(crate) fn this() -> Option<&'static Pcpu> {
    let address = read_sysreg!("tpidr_el2") as *const Pcpu;
    // SAFETY: zero, or what `install` wrote: the address of a static.
    unsafe { address.as_ref() }
}
