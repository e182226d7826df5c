//! Event channels of vCPU 0, two-level: shared pages and the scan of what is pending.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use portunus::abi::shared_info::{PORTS_PER_WORD, SharedInfo, VcpuInfo};

use crate::device_tree;
use crate::hypercall::{self, Result, memory};

#[repr(C, align(4096))]
struct Page([AtomicU64; 512]);

/// A page of RAM whose frame the shared-info page takes.
static SHARED_INFO: Page = Page([const { AtomicU64::new(0) }; 512]);

#[repr(C, align(64))]
struct Info {
    upcall_pending: AtomicU8,
    pad: [u8; 7],
    pending_selector: AtomicU64,
    rest: [AtomicU64; 4],
}

const _: () = assert!(size_of::<Info>() as u64 >= VcpuInfo::SIZE);
const _: () = assert!(core::mem::offset_of!(Info, pending_selector) as u64 == VcpuInfo::PENDING_SEL_OFFSET);

static VCPU_INFO: Info = Info {
    upcall_pending: AtomicU8::new(0),
    pad: [0; 7],
    pending_selector: AtomicU64::new(0),
    rest: [const { AtomicU64::new(0) }; 4],
};

/// The event channels of vCPU 0, once set up.
#[derive(Debug)]
pub struct Events {
    /// The interrupt that tells of events.
    pub upcall: u32,
}

impl Events {
    /// Registers the shared pages. To be called once.
    pub fn init() -> Result<Self> {
        // SAFETY: both are statics made of atomics that the hypervisor may write; the page is a frame of its own.
        unsafe {
            memory::map_shared_info(&raw const SHARED_INFO as u64 >> 12)?;
            hypercall::register_vcpu_info(0, &raw const VCPU_INFO as u64)?;
        }
        let node = device_tree::device_tree().find_node("/hypervisor");
        let interrupt = node.and_then(|node| device_tree::interrupt(node, 0));
        Ok(Self {
            upcall: interrupt.map_or(31, |interrupt| interrupt.intid),
        })
    }

    /// Whether there may be something to take.
    pub fn is_pending(&self) -> bool {
        VCPU_INFO.upcall_pending.load(Ordering::Acquire) != 0
    }

    /// Takes every pending, unmasked port and calls `each` with it.
    pub fn take(&self, mut each: impl FnMut(u32)) {
        if !self.is_pending() {
            return;
        }
        VCPU_INFO.upcall_pending.store(0, Ordering::SeqCst);
        let mut words = VCPU_INFO.pending_selector.swap(0, Ordering::AcqRel);
        while words != 0 {
            let word = words.trailing_zeros();
            words &= words - 1;
            let pending = &SHARED_INFO.0[SharedInfo::PENDING_OFFSET as usize / 8 + word as usize];
            let mask = &SHARED_INFO.0[SharedInfo::MASK_OFFSET as usize / 8 + word as usize];
            let ports = pending.load(Ordering::Acquire) & !mask.load(Ordering::Acquire);
            let mut ports = pending.fetch_and(!ports, Ordering::AcqRel) & ports;
            while ports != 0 {
                each(word * PORTS_PER_WORD + ports.trailing_zeros());
                ports &= ports - 1;
            }
        }
    }

    /// Nanoseconds from 1970 to when this guest's counter was zero.
    pub fn wall_clock(&self) -> u64 {
        const AT: usize = offset_of!(SharedInfo, wc_version) / 8;
        loop {
            let first = SHARED_INFO.0[AT].load(Ordering::Acquire);
            let second = SHARED_INFO.0[AT + 1].load(Ordering::Acquire);
            // The version is the low half of the first word, odd while the others change.
            if first & 1 == 0 && SHARED_INFO.0[AT].load(Ordering::Acquire) == first {
                let seconds = second >> 32 << 32 | first >> 32;
                return seconds * 1_000_000_000 + (second & 0xffff_ffff);
            }
        }
    }

    /// Every word that the hypervisor changes with every event: for tests that change them too.
    pub fn words(&self) -> impl Iterator<Item = &'static AtomicU64> {
        let ports = SharedInfo::PENDING_OFFSET as usize / 8..(SharedInfo::MASK_OFFSET as usize + 512) / 8;
        SHARED_INFO.0[ports].iter().chain([&VCPU_INFO.pending_selector])
    }
}
