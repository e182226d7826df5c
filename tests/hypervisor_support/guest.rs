//! What guests do: instructions that trap, as ESR, FAR and HPFAR tell of them.

use portunus::abi::hypercall::{self, HVC_IMMEDIATE};
use portunus::abi::shared_info::SharedInfo;
use portunus::abi::{HypercallError, evtchn, memory, sched};
use portunus::cpu::Cpu;
use portunus::hypervisor::Syndrome;
use portunus::ids::{DomainId, VcpuId};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::sim::Sim;
use crate::world::{DISTRIBUTOR, REDISTRIBUTOR, SCRATCH};

pub(crate) const fn vcpu(domain: DomainId, index: u8) -> VcpuId {
    VcpuId { domain, index }
}

const IL: u64 = 1 << 25;
pub(crate) const ISV: u64 = 1 << 24;
pub(crate) const SSE: u64 = 1 << 21;
pub(crate) const SF: u64 = 1 << 15;
pub(crate) const CM: u64 = 1 << 8;
pub(crate) const S1PTW: u64 = 1 << 7;
pub(crate) const WNR: u64 = 1 << 6;
/// DFSC: no mapping, or one without the right, at level 3.
pub(crate) const TRANSLATION: u64 = 0x07;
pub(crate) const PERMISSION: u64 = 0x0f;

/// ISS of a load or store of 1 << `size` bytes with register `rt`.
pub(crate) const fn transfer(size: u64, rt: u64) -> u64 {
    ISV | size << 22 | rt << 16 | SF
}

/// A data abort from a lower level, at an address whose virtual and physical addresses are the same.
pub(crate) const fn data_abort(iss: u64, address: u64) -> Syndrome {
    // HPFAR_EL2 is not valid for a permission fault that is not on a walk: there it says the wrong thing.
    let invalid = iss & 0x3c == PERMISSION & 0x3c && iss & S1PTW == 0;
    assert!(invalid != Syndrome::has_hpfar(iss));
    let page = if invalid { DISTRIBUTOR } else { address };
    Syndrome {
        esr: 0x24 << 26 | IL | iss,
        far: address,
        hpfar: page >> 12 << 4,
    }
}

pub(crate) const fn instruction_abort(iss: u64, address: u64) -> Syndrome {
    Syndrome {
        esr: 0x20 << 26 | IL | iss,
        far: address,
        hpfar: address >> 12 << 4,
    }
}

/// An exception of a class without addresses.
pub(crate) const fn exception(class: u64, iss: u64) -> Syndrome {
    Syndrome {
        esr: class << 26 | IL | iss,
        far: 0,
        hpfar: 0,
    }
}

impl Sim {
    /// LDR of 1 << `size` bytes into `rt`; what it loaded if it is done.
    pub(crate) fn load_from(&self, vcpu: VcpuId, address: u64, size: u64, rt: u8) -> Option<u64> {
        let pc = self.pc(vcpu);
        self.will_execute(
            vcpu,
            0x3940_0000 | (size as u32) << 30 | 8 << 5 | u32::from(rt),
            address,
        );
        self.trap(vcpu, data_abort(transfer(size, rt.into()) | TRANSLATION, address));
        (self.pc(vcpu) == pc + 4).then(|| self.x(vcpu, rt))
    }

    /// STR of 1 << `size` bytes; whether it is done.
    pub(crate) fn store_to(&self, vcpu: VcpuId, address: u64, size: u64, value: u64) -> bool {
        let pc = self.pc(vcpu);
        self.set_x(vcpu, 9, value);
        self.will_execute(vcpu, 0x3900_0000 | (size as u32) << 30 | 8 << 5 | 9, address);
        self.trap(vcpu, data_abort(transfer(size, 9) | WNR | TRANSLATION, address));
        self.pc(vcpu) == pc + 4
    }

    /// STR of 1 << `size` bytes to a page that the guest may only read; whether it is done.
    pub(crate) fn store_to_shown(&self, vcpu: VcpuId, address: u64, size: u64, value: u64) -> bool {
        let pc = self.pc(vcpu);
        self.set_x(vcpu, 9, value);
        self.will_execute(vcpu, 0x3900_0000 | (size as u32) << 30 | 8 << 5 | 9, address);
        self.trap(vcpu, data_abort(transfer(size, 9) | WNR | PERMISSION, address));
        self.pc(vcpu) == pc + 4
    }

    /// The instruction at PC, a load or store with the base X8.
    fn will_execute(&self, vcpu: VcpuId, instruction: u32, base: u64) {
        self.set_x(vcpu, 8, base);
        self.put(vcpu.domain, self.pc(vcpu), &instruction);
    }

    pub(crate) fn wfi(&self, vcpu: VcpuId) {
        self.trap(vcpu, exception(0x01, 0));
    }

    /// HVC #0 with a PSCI function; x0 if the vCPU still runs.
    pub(crate) fn psci(&self, vcpu: VcpuId, arguments: &[u64]) -> Option<i64> {
        self.call(vcpu, 0, arguments);
        self.runs(vcpu).then(|| self.x(vcpu, 0) as i32 as i64)
    }

    fn call(&self, vcpu: VcpuId, immediate: u16, arguments: &[u64]) {
        for register in 0..5 {
            let value = arguments.get(usize::from(register)).copied().unwrap_or(0);
            self.set_x(vcpu, register, value);
        }
        self.execute_hvc(vcpu, immediate);
    }

    /// The vCPU executes an HVC with the registers that it has.
    pub(crate) fn execute_hvc(&self, vcpu: VcpuId, immediate: u16) {
        self.with(vcpu, |context| context.state.frame.pc += 4);
        self.trap(vcpu, exception(0x16, immediate.into()));
    }

    /// A hypercall, as often as it takes; x0 if the vCPU still runs.
    pub(crate) fn hypercall(&self, vcpu: VcpuId, number: u64, arguments: &[u64]) -> Option<i64> {
        let pc = self.pc(vcpu);
        self.set_x(vcpu, 16, number);
        self.call(vcpu, HVC_IMMEDIATE, arguments);
        for _ in 0..1000 {
            if !self.runs(vcpu) {
                return None;
            }
            if self.pc(vcpu) != pc {
                return Some(self.x(vcpu, 0) as i64);
            }
            self.execute_hvc(vcpu, HVC_IMMEDIATE);
        }
        panic!("hypercall {number} never ends");
    }

    /// A hypercall with a structure that it may change: the result and the structure afterwards.
    pub(crate) fn with_structure<T>(&self, vcpu: VcpuId, number: u64, operation: u64, value: T) -> (i64, T)
    where
        T: IntoBytes + FromBytes + Immutable,
    {
        self.put(vcpu.domain, SCRATCH, &value);
        let pc = self.pc(vcpu);
        let result = self.hypercall(vcpu, number, &[operation, SCRATCH]).unwrap_or_else(|| {
            // It is done, and somebody else runs now.
            assert_eq!(self.pc(vcpu), pc + 4, "hypercall {number} {operation} did not return");
            self.x(vcpu, 0) as i64
        });
        (result, self.get(vcpu.domain, SCRATCH))
    }

    pub(crate) fn events<T>(&self, vcpu: VcpuId, operation: u64, value: T) -> (i64, T)
    where
        T: IntoBytes + FromBytes + Immutable,
    {
        self.with_structure(vcpu, hypercall::EVENT_CHANNEL_OP, operation, value)
    }

    pub(crate) fn send(&self, vcpu: VcpuId, port: u32) -> i64 {
        self.events(vcpu, evtchn::SEND, evtchn::Port { port }).0
    }

    pub(crate) fn close(&self, vcpu: VcpuId, port: u32) -> i64 {
        self.events(vcpu, evtchn::CLOSE, evtchn::Port { port }).0
    }

    pub(crate) fn memory_op<T>(&self, vcpu: VcpuId, operation: u64, value: T) -> (i64, T)
    where
        T: IntoBytes + FromBytes + Immutable,
    {
        self.with_structure(vcpu, hypercall::MEMORY_OP, operation, value)
    }

    pub(crate) fn map_shared_info(&self, vcpu: VcpuId, gfn: u64) -> i64 {
        let request = memory::AddToPhysmap {
            domid: DomainId::SELF.0,
            gpfn: gfn,
            ..Default::default()
        };
        self.memory_op(vcpu, memory::ADD_TO_PHYSMAP, request).0
    }

    pub(crate) fn remove(&self, vcpu: VcpuId, gfn: u64) -> i64 {
        let request = memory::RemoveFromPhysmap {
            domid: DomainId::SELF.0,
            gpfn: gfn,
            ..Default::default()
        };
        self.memory_op(vcpu, memory::REMOVE_FROM_PHYSMAP, request).0
    }

    /// decrease_reservation or populate_physmap; how many entries were done.
    pub(crate) fn reservation(&self, vcpu: VcpuId, operation: u64, gfns: &[u64]) -> i64 {
        let list = SCRATCH + 0x1000;
        self.put(vcpu.domain, list, gfns);
        let request = memory::MemoryReservation {
            extent_start: list,
            nr_extents: gfns.len() as u64,
            domid: DomainId::SELF.0,
            ..Default::default()
        };
        self.memory_op(vcpu, operation, request).0
    }

    /// Maps pages of another domain; the call's result and each page's.
    pub(crate) fn map_foreign(&self, vcpu: VcpuId, of: DomainId, pages: &[(u64, u64)]) -> (i64, Vec<i32>) {
        let [sources, places, errors] = [1, 2, 3].map(|page| SCRATCH + page * 0x1000);
        let list = |of: fn(&(u64, u64)) -> u64| pages.iter().map(of).collect::<Vec<_>>();
        self.put(vcpu.domain, sources, list(|page| page.0).as_slice());
        self.put(vcpu.domain, places, list(|page| page.1).as_slice());
        self.put(vcpu.domain, errors, vec![1_i32; pages.len()].as_slice());
        let request = memory::AddToPhysmapBatch {
            domid: DomainId::SELF.0,
            space: memory::SPACE_GMFN_FOREIGN as u16,
            size: pages.len() as u16,
            foreign_domid: of.0,
            idxs: sources,
            gpfns: places,
            errs: errors,
        };
        let (result, _) = self.memory_op(vcpu, memory::ADD_TO_PHYSMAP_BATCH, request);
        let errors = (0..pages.len() as u64).map(|index| self.get(vcpu.domain, errors + index * 4));
        (result, errors.collect())
    }

    pub(crate) fn shutdown(&self, vcpu: VcpuId, reason: u32) {
        self.put(vcpu.domain, SCRATCH, &sched::Shutdown { reason });
        self.hypercall(vcpu, hypercall::SCHED_OP, &[sched::SHUTDOWN, SCRATCH]);
    }

    /// The guest reads its acknowledge register, and ends what it got.
    pub(crate) fn take_interrupt(&self, vcpu: VcpuId) -> Option<u32> {
        self.with(vcpu, |context| {
            let interface = context.cpu.virtual_interface();
            let interrupt = interface.acknowledge()?;
            interface.end(interrupt);
            Some(interrupt.0)
        })
    }

    /// The vCPU's handler of the upcall, for vCPU 0: the ports that have news, by the shared page at `shared`.
    pub(crate) fn take_events(&self, vcpu: VcpuId, shared: u64) -> Vec<u32> {
        let mut page: SharedInfo = self.get(vcpu.domain, shared);
        let mut ports = Vec::new();
        if page.vcpu_info[0].upcall_pending != 0 {
            for (word, pending) in page.evtchn_pending.iter_mut().enumerate() {
                let selected = page.vcpu_info[0].pending_sel >> word & 1 != 0;
                let masked = page.evtchn_mask[word];
                let news = if selected { *pending & !masked } else { 0 };
                ports.extend(
                    (0..64)
                        .filter(|bit| news >> bit & 1 != 0)
                        .map(|bit| word as u32 * 64 + bit),
                );
                *pending &= !news;
            }
            page.vcpu_info[0].upcall_pending = 0;
            page.vcpu_info[0].pending_sel = 0;
        }
        self.put(vcpu.domain, shared, &page);
        ports
    }

    /// The vCPU lets every private interrupt through, and every group.
    pub(crate) fn enable_interrupts(&self, vcpu: VcpuId) {
        assert!(self.store_to(vcpu, DISTRIBUTOR, 2, 0x13));
        let frame = REDISTRIBUTOR + u64::from(vcpu.index) * 0x2_0000 + 0x1_0000;
        assert!(self.store_to(vcpu, frame + 0x100, 2, 0xffff_ffff));
    }

    /// The vCPU lets one of the first shared interrupts through (GICD_ISENABLER1).
    pub(crate) fn enable_shared(&self, vcpu: VcpuId, interrupt: u32) {
        assert!(self.store_to(vcpu, DISTRIBUTOR + 0x104, 2, 1 << (interrupt - 32)));
    }
}

/// The number that a refused hypercall returns.
pub(crate) const fn refused(error: HypercallError) -> i64 {
    error.register() as i64
}
