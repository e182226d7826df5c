//! The physical interrupt controller and the virtual CPU interface, GICv2 or GICv3 as the device tree says.
//!
//! EOImode is 1: acknowledging an interrupt is followed by a priority drop at once, and by a deactivation that is EL2's
//! unless the interrupt was handed to a guest, whose own deactivation then ends it. All interrupts have one priority.

use crate::mmio::Registers;
use crate::sysreg::dsb_ishst;
use core::fmt::Debug;
use portunus::ids::{IntId, PcpuId};
use portunus::manifest::host;
use portunus::vgic::list_register::{ListRegister, LrState, PriorityMask};
use portunus_gic::v2::GicV2;
pub(crate) use portunus_gic::{Acknowledged, KICK, VirtualState};
use spin::Once;

pub(crate) mod v3;

/// The machine's interrupt controller.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one")]
pub(crate) enum Gic {
    /// GICv2: memory-mapped CPU interfaces.
    V2(GicV2<Registers>),
    /// GICv3: system registers.
    V3(v3::GicV3),
}

static GIC: Once<Gic> = Once::new();

/// Takes the controller over and sets the distributor up: everything disabled, one priority. Adds to `host` what only the
/// controller itself tells.
///
/// # Safety
/// Stage 1 maps the register blocks that `host` names as Device memory for good.
pub(crate) unsafe fn init(host: &mut host::Gic) {
    let gic = GIC.call_once(|| match host {
        host::Gic::V2(blocks) => {
            let parts = [blocks.distributor, blocks.cpu_interface, blocks.hypervisor_interface];
            // SAFETY: the caller's promise.
            let parts = parts.map(|block| unsafe { Registers::new(block.start.0 as usize) });
            Gic::V2(GicV2::new(parts, blocks.cpu_interface.size))
        }
        // SAFETY: the caller's promise.
        host::Gic::V3(blocks) => Gic::V3(unsafe { v3::GicV3::new(blocks) }),
    });
    if let (Gic::V2(gic), host::Gic::V2(blocks)) = (gic, host) {
        blocks.is_repeated = gic.is_repeated();
    }
}

/// The controller; `None` before [`init`].
#[inline]
pub(crate) fn gic() -> Option<&'static Gic> {
    GIC.get()
}

/// Calls the same method of whichever controller there is.
macro_rules! either {
    ($self:expr, $gic:ident => $call:expr) => {
        match $self {
            Gic::V2($gic) => $call,
            Gic::V3($gic) => $call,
        }
    };
}

impl Gic {
    /// Sets up the executing pCPU's interface and private interrupts, all disabled but the kick; `false`: the controller
    /// does not know this pCPU.
    #[must_use]
    pub(crate) fn init_cpu(&self, pcpu: PcpuId, mpidr: u64) -> bool {
        let known = either!(self, gic => gic.init_cpu(pcpu, mpidr));
        if known {
            self.enable(pcpu, KICK, true);
        }
        known
    }

    /// Takes the most urgent pending interrupt; `None` when there is none (spurious).
    #[inline]
    pub(crate) fn acknowledge(&self) -> Option<Acknowledged> {
        either!(self, gic => gic.acknowledge())
    }
    /// Lets interrupts of its priority through again; it stays active.
    #[inline]
    pub(crate) fn drop_priority(&self, acknowledged: Acknowledged) {
        either!(self, gic => gic.drop_priority(acknowledged))
    }
    /// Ends an interrupt.
    #[inline]
    pub(crate) fn deactivate(&self, acknowledged: Acknowledged) {
        either!(self, gic => gic.deactivate(acknowledged.raw))
    }
    /// Raises the kick on a pCPU.
    pub(crate) fn kick(&self, pcpu: PcpuId) {
        // What the kick announces must be visible before it arrives.
        dsb_ishst();
        either!(self, gic => gic.kick(pcpu))
    }
    /// Enables or disables an interrupt; a private one must be the executing pCPU's, which `pcpu` is.
    pub(crate) fn enable(&self, pcpu: PcpuId, interrupt: IntId, enabled: bool) {
        either!(self, gic => gic.bank(pcpu, interrupt)).enable(interrupt, enabled);
    }
    /// Sets the trigger of an SPI.
    pub(crate) fn configure(&self, pcpu: PcpuId, interrupt: IntId, edge: bool) {
        either!(self, gic => gic.bank(pcpu, interrupt)).configure(interrupt, edge);
    }
    /// Makes an SPI disabled, inactive and not pending.
    pub(crate) fn reset_shared(&self, interrupt: IntId) {
        let bank = either!(self, gic => gic.bank(PcpuId(0), interrupt));
        bank.enable(interrupt, false);
        bank.clear_pending(interrupt);
        bank.set_active(interrupt, false);
    }
    /// Routes an SPI to a pCPU.
    pub(crate) fn route(&self, interrupt: IntId, pcpu: PcpuId) {
        either!(self, gic => gic.route(interrupt, pcpu))
    }
    /// Makes a private interrupt of the executing pCPU active or inactive.
    pub(crate) fn set_active(&self, pcpu: PcpuId, interrupt: IntId, active: bool) {
        either!(self, gic => gic.bank(pcpu, interrupt)).set_active(interrupt, active);
    }

    /// Lets the loaded vCPU receive virtual interrupts.
    pub(crate) fn enable_virtual(&self) {
        either!(self, gic => gic.enable_virtual())
    }
    /// Signals no virtual interrupt to this pCPU while `sleep` runs: only a physical one may end a WFI of EL2, and there are
    /// machines where a virtual one would, for as long as it stays pending.
    pub(crate) fn without_virtual(&self, sleep: impl FnOnce()) {
        let control = either!(self, gic => gic.virtual_control());
        either!(self, gic => gic.set_virtual_control(0));
        sleep();
        either!(self, gic => gic.set_virtual_control(control));
    }
    /// Makes the loaded vCPU's virtual interface what it is before its first instruction.
    pub(crate) fn reset_virtual(&self) {
        either!(self, gic => gic.reset_virtual())
    }
}

/// The virtual interface of the executing pCPU: that of a controller of one kind, or of whichever there is ([`Gic`]).
pub(crate) trait Controller: Debug + 'static {
    /// Takes the loaded vCPU's virtual interface state out of the hardware.
    /// `USUAL`: [`v3::GicV3::has_one_active`], if it is one.
    fn save_virtual<const USUAL: bool>(&self, state: &mut VirtualState);
    /// Puts a vCPU's virtual interface state into the hardware.
    fn restore_virtual(&self, state: &mut VirtualState);
    /// As [`VirtualInterface`](portunus::vgic::list_register::VirtualInterface) has these.
    fn list_registers(&self) -> usize;
    fn read(&self, index: usize) -> Option<ListRegister>;
    fn state(&self, index: usize) -> LrState;
    fn write(&self, index: usize, value: Option<ListRegister>);
    fn lower(&self, index: usize) -> LrState;
    fn free(&self) -> u16;
    fn set_no_pending(&self, wanted: bool);
    fn mask(&self) -> PriorityMask;
    /// Ends an interrupt (not an SGI) that was acknowledged earlier.
    fn deactivate(&self, interrupt: IntId);
}

macro_rules! one {
    ($self:expr, $gic:ident => $call:expr) => {{
        let $gic = $self;
        $call
    }};
}

macro_rules! controllers {
    ($($type:ty: $call:ident)*) => {
        $(impl Controller for $type {
            #[inline(always)]
            fn save_virtual<const USUAL: bool>(&self, state: &mut VirtualState) {
                $call!(self, gic => gic.save_virtual::<USUAL>(state))
            }
            #[inline(always)]
            fn restore_virtual(&self, state: &mut VirtualState) {
                $call!(self, gic => gic.restore_virtual(state))
            }
            fn list_registers(&self) -> usize {
                $call!(self, gic => gic.list_registers())
            }
            fn read(&self, index: usize) -> Option<ListRegister> {
                $call!(self, gic => gic.read(index))
            }
            #[inline]
            fn state(&self, index: usize) -> LrState {
                $call!(self, gic => gic.state(index))
            }
            #[inline(always)]
            fn write(&self, index: usize, value: Option<ListRegister>) {
                $call!(self, gic => gic.write(index, value))
            }
            #[inline(always)]
            fn lower(&self, index: usize) -> LrState {
                $call!(self, gic => gic.lower(index))
            }
            #[inline]
            fn free(&self) -> u16 {
                $call!(self, gic => gic.free())
            }
            fn set_no_pending(&self, wanted: bool) {
                $call!(self, gic => gic.set_no_pending(wanted))
            }
            fn mask(&self) -> PriorityMask {
                $call!(self, gic => gic.mask())
            }
            fn deactivate(&self, interrupt: IntId) {
                $call!(self, gic => gic.deactivate(interrupt.0))
            }
        })*
    };
}

controllers! {
    GicV2<Registers>: one
    v3::GicV3: one
    Gic: either
}
