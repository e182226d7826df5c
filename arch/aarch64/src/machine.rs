//! The machine as the core sees it from any pCPU.

use crate::mmio::Registers;
use crate::sysreg::{dsb_ish, dsb_ishst, dsb_sy, isb, read_sysreg, write_sysreg};
use crate::{cache, console, gic, pcpu, physical, switch, timer, trace};
use portunus::ids::{IntId, Ipa, Pa, PcpuId, Ticks, VcpuId, Vmid};
use portunus::machine::Machine;
use portunus::memory::{Contended, PhysicalMemory};
use portunus::trace::{Event, Kind, vcpu_bits, word};

/// This machine. There is one; its state is the hardware's.
#[derive(Copy, Clone, Debug, Default)]
pub struct Arm64;

impl PhysicalMemory for Arm64 {
    fn read(&self, at: Pa, into: &mut [u8]) {
        // SAFETY: the core passes frames that stage 1 maps; `into` is the caller's and is no such frame.
        unsafe { physical::copy(into.as_mut_ptr() as usize, at.0 as usize, into.len()) }
    }
    fn write(&self, at: Pa, from: &[u8]) {
        // SAFETY: as `read`.
        unsafe { physical::copy(at.0 as usize, from.as_ptr() as usize, from.len()) }
    }
    fn copy(&self, from: Pa, to: Pa, length: u64) {
        // SAFETY: as `read`; overlapping frames are guests' own, and any bytes will do.
        unsafe { physical::copy_pages(to.0 as usize, from.0 as usize, length as usize) }
    }
    fn zero(&self, at: Pa, length: u64) {
        // SAFETY: the core passes frames that stage 1 maps.
        unsafe { physical::zero(at.0 as usize, length as usize) }
    }
    fn load_u8(&self, at: Pa) -> u8 {
        // SAFETY: the core passes frames that stage 1 maps.
        unsafe { physical::load_u8(at.0 as usize) }
    }
    fn load_u32(&self, at: Pa) -> u32 {
        // SAFETY: the core passes frames that stage 1 maps, and aligned words.
        unsafe { physical::load_u32(at.0 as usize) }
    }
    fn load_u64(&self, at: Pa) -> u64 {
        // SAFETY: as `load_u32`.
        unsafe { physical::load_u64(at.0 as usize) }
    }
    fn store_u8(&self, at: Pa, value: u8) {
        // SAFETY: as `load_u8`.
        unsafe { physical::store_u8(at.0 as usize, value) }
    }
    fn store_u32(&self, at: Pa, value: u32) {
        // SAFETY: as `load_u32`.
        unsafe { physical::store_u32(at.0 as usize, value) }
    }
    fn store_u64(&self, at: Pa, value: u64) {
        // SAFETY: as `load_u32`.
        unsafe { physical::store_u64(at.0 as usize, value) }
    }
    fn try_compare_exchange_u32(&self, at: Pa, current: u32, new: u32) -> Result<u32, Contended> {
        // SAFETY: as `load_u32`.
        unsafe { physical::compare_exchange_u32(at.0 as usize, current, new) }
    }
    fn try_compare_exchange_u64(&self, at: Pa, current: u64, new: u64) -> Result<u64, Contended> {
        // SAFETY: as `load_u32`.
        unsafe { physical::compare_exchange_u64(at.0 as usize, current, new) }
    }
    #[inline]
    fn try_set_bits_u64(&self, at: Pa, bits: u64) -> Result<u64, Contended> {
        // SAFETY: as `load_u32`.
        unsafe { physical::set_bits_u64(at.0 as usize, bits) }
    }
    #[inline]
    fn try_clear_bits_u64(&self, at: Pa, bits: u64) -> Result<u64, Contended> {
        // SAFETY: as `load_u32`.
        unsafe { physical::clear_bits_u64(at.0 as usize, bits) }
    }
    fn clean_to_coherency(&self, at: Pa, length: u64) {
        cache::clean_invalidate(at.0 as usize, length as usize);
    }
    fn synchronise_instructions(&self, at: Pa, length: u64) {
        cache::synchronise_instructions(at.0 as usize, length as usize);
    }
}

/// Runs `invalidate` with `vmid`'s VTTBR_EL2 loaded, which chooses whose entries a TLBI by EL2 drops.
fn with_vmid(vmid: Vmid, root: Pa, invalidate: impl FnOnce()) {
    let wanted = u64::from(vmid.0) << 48 | root.0;
    let loaded = read_sysreg!("vttbr_el2");
    if loaded == wanted {
        return invalidate();
    }
    // EL1's registers are the loaded vCPU's and not of `vmid`'s domain: see `switch::close_walks`.
    let closed = switch::must_close_walks().then(switch::close_walks);
    write_sysreg!("vttbr_el2", wanted);
    isb();
    invalidate();
    write_sysreg!("vttbr_el2", loaded);
    isb();
    if let Some(closed) = closed {
        closed.open();
    }
}

macro_rules! tlbi {
    ($operation:literal) => {
        // SAFETY: dropping translations changes no memory.
        unsafe { core::arch::asm!(concat!("tlbi ", $operation), options(nostack, preserves_flags)) }
    };
    ($operation:literal, $value:expr) => {
        // SAFETY: dropping translations changes no memory.
        unsafe {
            core::arch::asm!(concat!("tlbi ", $operation, ", {}"), in(reg) $value, options(nostack, preserves_flags));
        }
    };
}

impl Machine for Arm64 {
    fn now(&self) -> Ticks {
        timer::now()
    }
    fn kick(&self, pcpu: PcpuId) {
        let is_own = pcpu::this().is_some_and(|this| this.id() == pcpu);
        if let (false, Some(gic)) = (is_own, gic::gic()) {
            gic.kick(pcpu);
        }
    }

    fn publish_tables(&self) {
        dsb_ishst();
    }
    #[inline]
    fn complete_stores(&self) {
        dsb_sy();
    }
    fn invalidate_page(&self, vmid: Vmid, root: Pa, page: Ipa) {
        with_vmid(vmid, root, || {
            dsb_ishst();
            tlbi!("ipas2e1is", page.frame());
            // Combined entries are made from the stage-2 entry: they go only after it is gone.
            dsb_ish();
            tlbi!("vmalle1is");
            dsb_ish();
            isb();
        });
    }
    fn invalidate_all(&self, vmid: Vmid, root: Pa) {
        with_vmid(vmid, root, || {
            dsb_ishst();
            tlbi!("vmalls12e1is");
            dsb_ish();
            isb();
        });
    }

    fn enable_interrupt(&self, interrupt: IntId, enabled: bool) {
        if let (true, Some(gic)) = (interrupt.is_spi(), gic::gic()) {
            gic.enable(PcpuId(0), interrupt, enabled);
        }
    }
    fn configure_interrupt(&self, interrupt: IntId, edge: bool) {
        if let (true, Some(gic)) = (interrupt.is_spi(), gic::gic()) {
            gic.configure(PcpuId(0), interrupt, edge);
        }
    }
    fn route_interrupt(&self, interrupt: IntId, pcpu: PcpuId) {
        if let Some(gic) = gic::gic() {
            gic.route(interrupt, pcpu);
        }
    }

    fn reset_interrupt(&self, interrupt: IntId) {
        if let (true, Some(gic)) = (interrupt.is_spi(), gic::gic()) {
            gic.reset_shared(interrupt);
        }
    }

    fn read_device(&self, at: Pa) -> u32 {
        // SAFETY: the core passes registers of devices that boot has mapped for this (`mmu::add_device`).
        unsafe { Registers::new(at.0 as usize) }.read(0)
    }
    fn write_device(&self, at: Pa, value: u32) {
        // SAFETY: as `read_device`.
        unsafe { Registers::new(at.0 as usize) }.write(0, value);
    }

    fn current_pcpu(&self) -> PcpuId {
        pcpu::this().map_or(PcpuId(0), pcpu::Pcpu::id)
    }
    #[inline]
    fn trace(&self, kind: Kind, vcpu: VcpuId, argument: u32) {
        if let Some(pcpu) = pcpu::this() {
            trace::record(pcpu, word(kind, vcpu_bits(vcpu), argument));
        }
    }
    #[inline]
    fn trace_loaded(&self, kind: Kind, _vcpu: VcpuId, argument: u32) {
        if let Some(pcpu) = pcpu::this() {
            trace::record_loaded(pcpu, kind, argument);
        }
    }
    fn traced(&self, pcpu: PcpuId, back: usize) -> Option<Event> {
        trace::last(pcpu::get(pcpu)?, back)
    }
    fn console_room(&self) -> usize {
        console::room()
    }
    fn console_write(&self, bytes: &[u8]) -> usize {
        console::write(bytes)
    }
}
