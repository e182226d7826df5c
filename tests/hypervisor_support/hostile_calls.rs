//! Hypercalls at random: half sense, half nonsense.

use portunus::abi::{control, dm_op, evtchn, hypercall, ioreq, memory, sched, vcpu as vcpu_abi};
use portunus::ids::{DomainId, VcpuId};
use zerocopy::IntoBytes;

use crate::hostile::Storm;
use crate::random::Odd;
use crate::world::{BACKEND, DISK, EMPTY_GFN, GUEST, SCRATCH};

impl Storm {
    /// A hypercall with this structure in memory.
    fn issue(&self, vcpu: VcpuId, number: u64, arguments: [u64; 3], structure: &[u8]) {
        self.put(vcpu.domain, SCRATCH, structure);
        self.sim.set_x(vcpu, 16, number);
        for (register, value) in (0..).zip(arguments) {
            self.sim.set_x(vcpu, register, value);
        }
        self.call(vcpu, 0xea1);
    }

    /// The backend finds a request, or what it takes for one, and says something about it.
    fn answer(&mut self, vcpu: VcpuId) {
        let random = &mut self.random;
        let page = (EMPTY_GFN + random.below(16)) << 12;
        let flags = page + random.below(2) * 32 + 30;
        let state = random.pick(&[3, 3, 3, 2, 1, 0, 9]);
        let port = 1 + random.below(6) as u32;
        self.put(vcpu.domain, flags, &[state]);
        self.issue(
            vcpu,
            hypercall::EVENT_CHANNEL_OP,
            [evtchn::SEND, SCRATCH, 0],
            port.as_bytes(),
        );
    }

    /// A request's port of the guest is bound.
    fn bind(&mut self, vcpu: VcpuId) {
        let request = evtchn::BindInterdomain {
            remote_dom: GUEST.0,
            remote_port: 1024 + self.random.below(8) as u32,
            ..Default::default()
        };
        let call = [evtchn::BIND_INTERDOMAIN, SCRATCH, 0];
        self.issue(vcpu, hypercall::EVENT_CHANNEL_OP, call, request.as_bytes());
    }

    /// The backend serves as it should, as far as it gets.
    fn serve_well(&mut self, vcpu: VcpuId) {
        let gfn = EMPTY_GFN + self.random.below(15);
        let runs = || self.sim.runs(vcpu);
        let Ok(id) = self.sim.create_server(vcpu) else { return };
        if !runs() || self.sim.acquire(vcpu, id, gfn, 2) != 0 {
            return;
        }
        let page = (gfn + 1) << 12;
        for index in 0..2 {
            let slot: ioreq::Ioreq = self.sim.get(vcpu.domain, page + index * ioreq::Ioreq::SIZE);
            if !runs() || self.sim.bind(vcpu, GUEST, slot.vp_eport).is_err() {
                return;
            }
        }
        if runs() {
            self.sim.map_range(vcpu, id, DISK, DISK + 0x1ff);
        }
        if runs() {
            self.sim.set_enabled(vcpu, id, true);
        }
    }

    /// Something that a backend does with its servers; the others try, too.
    pub(crate) fn serve(&mut self, vcpu: VcpuId) {
        match self.random.below(4) {
            0 => return self.answer(vcpu),
            1 => return self.bind(vcpu),
            2 if vcpu.domain == BACKEND && self.random.one_in(2) => return self.serve_well(vcpu),
            _ => {}
        }
        let random = &mut self.random;
        // What ends a server's work is rare.
        let ends = random.one_in(6);
        let op = random.pick(if ends {
            &[4, 5, 6, 7]
        } else {
            &[
                1,
                2,
                3,
                3,
                5,
                5,
                19,
                20,
                dm_op::VENDOR_FEATURES,
                dm_op::VENDOR_STATE_PAGE,
            ]
        });
        let id = random.below(9) as u16;
        let start = DISK + random.below(0x200);
        let payload = match op {
            dm_op::CREATE_IOREQ_SERVER => vec![0; 6],
            dm_op::MAP_IO_RANGE_TO_IOREQ_SERVER | dm_op::UNMAP_IO_RANGE_FROM_IOREQ_SERVER => dm_op::IoRange {
                id,
                pad: 0,
                kind: 1,
                start: if random.one_in(2) { DISK } else { start },
                end: if random.one_in(2) {
                    DISK + 0x1ff
                } else {
                    start + random.below(8)
                },
            }
            .as_bytes()
            .to_vec(),
            dm_op::SET_IOREQ_SERVER_STATE => {
                let enabled = u8::from(!ends);
                dm_op::SetIoreqServerState { id, enabled, pad: 0 }.as_bytes().to_vec()
            }
            dm_op::DESTROY_IOREQ_SERVER => dm_op::DestroyIoreqServer { id, pad: 0 }.as_bytes().to_vec(),
            dm_op::SET_IRQ_LEVEL => {
                let irq = 32 + random.below(4) as u32;
                let level = random.below(2) as u8;
                dm_op::SetIrqLevel {
                    irq,
                    level,
                    pad: [0; 3],
                }
                .as_bytes()
                .to_vec()
            }
            dm_op::VENDOR_FEATURES => dm_op::Features {
                id,
                ..Default::default()
            }
            .as_bytes()
            .to_vec(),
            dm_op::VENDOR_STATE_PAGE => dm_op::StatePage {
                id,
                address: if random.one_in(2) { DISK } else { start },
                ..Default::default()
            }
            .as_bytes()
            .to_vec(),
            _ => (0..24).map(|_| random.below(3) as u8).collect(),
        };
        let buffer = dm_op::Buffer {
            pointer: SCRATCH + 0x100,
            size: 8 + payload.len() as u64,
        };
        let target = if random.one_in(8) { random.domain() } else { GUEST.0 };
        let target = u64::from(target);
        self.put(vcpu.domain, SCRATCH + 0x100, dm_op::Header { op, pad: 0 }.as_bytes());
        self.put(vcpu.domain, SCRATCH + 0x108, &payload);
        self.issue(vcpu, hypercall::DM_OP, [target, 1, SCRATCH], buffer.as_bytes());
    }

    pub(crate) fn hypercall(&mut self, vcpu: VcpuId) {
        let random = &mut self.random;
        let list = SCRATCH + 0x400;
        let count = random.below(40);
        let gfns: Vec<u64> = (0..40).map(|_| random.gfn()).collect();
        let places: Vec<u64> = (0..40).map(|_| random.gfn()).collect();
        let structure: Vec<u8>;
        let (number, operation) = match random.below(12) {
            0 => {
                structure = memory::AcquireResource {
                    domid: random.domain(),
                    id: random.below(9) as u32,
                    nr_frames: random.below(4) as u32,
                    frame: random.below(3) + if random.one_in(3) { dm_op::VENDOR_FIRST_FRAME } else { 0 },
                    frame_list: list,
                    ..Default::default()
                }
                .as_bytes()
                .to_vec();
                (hypercall::MEMORY_OP, memory::ACQUIRE_RESOURCE)
            }
            1 => {
                structure = memory::AddToPhysmapBatch {
                    domid: DomainId::SELF.0,
                    space: 4,
                    size: count as u16,
                    foreign_domid: random.domain(),
                    idxs: list,
                    gpfns: list + 0x200,
                    errs: list + 0x400,
                }
                .as_bytes()
                .to_vec();
                (hypercall::MEMORY_OP, memory::ADD_TO_PHYSMAP_BATCH)
            }
            2 => {
                let request = memory::MemoryReservation {
                    extent_start: list,
                    nr_extents: count,
                    extent_order: random.pick(&[0, 0, 0, 1, 4, 5]),
                    domid: DomainId::SELF.0,
                    ..Default::default()
                };
                structure = request.as_bytes().to_vec();
                (
                    hypercall::MEMORY_OP,
                    random.pick(&[memory::DECREASE_RESERVATION, memory::POPULATE_PHYSMAP]),
                )
            }
            3 => {
                let (domid, gpfn) = (DomainId::SELF.0, random.gfn());
                if random.one_in(2) {
                    structure = memory::AddToPhysmap {
                        domid,
                        gpfn,
                        ..Default::default()
                    }
                    .as_bytes()
                    .to_vec();
                    (hypercall::MEMORY_OP, memory::ADD_TO_PHYSMAP)
                } else {
                    let request = memory::RemoveFromPhysmap {
                        domid,
                        gpfn,
                        ..Default::default()
                    };
                    structure = request.as_bytes().to_vec();
                    (hypercall::MEMORY_OP, memory::REMOVE_FROM_PHYSMAP)
                }
            }
            4 => {
                let mfn = random.gfn();
                structure = vcpu_abi::RegisterVcpuInfo {
                    mfn,
                    offset: random.below(600) as u32 * 8,
                    rsvd: 0,
                }
                .as_bytes()
                .to_vec();
                (hypercall::VCPU_OP, vcpu_abi::REGISTER_VCPU_INFO)
            }
            5 => {
                structure = random.address().to_le_bytes().to_vec();
                (hypercall::VCPU_OP, vcpu_abi::REGISTER_RUNSTATE_MEMORY_AREA)
            }
            6 | 7 => {
                let port = random.pick(&[1, 2, 3, 4, 5, 1023, 1024, 1025, 1026]);
                let words = [u32::from(random.domain()), port, random.below(3) as u32, 0, 0, 0];
                let operation = random.below(13);
                structure = match operation {
                    evtchn::BIND_INTERDOMAIN => words.as_bytes().to_vec(),
                    evtchn::SEND | evtchn::CLOSE | evtchn::UNMASK => port.as_bytes().to_vec(),
                    evtchn::ALLOC_UNBOUND => {
                        let domains = [DomainId::SELF.0, random.domain()];
                        domains.as_bytes().to_vec()
                    }
                    _ => [random.below(4) as u32, random.below(3) as u32, 0, 0, 0]
                        .as_bytes()
                        .to_vec(),
                };
                (hypercall::EVENT_CHANNEL_OP, operation)
            }
            8 => {
                structure = sched::Poll {
                    ports: list,
                    nr_ports: random.below(3) as u32,
                    pad: 0,
                    timeout: random.pick(&[0, 1, 1_000_000, u64::MAX]),
                }
                .as_bytes()
                .to_vec();
                (
                    hypercall::SCHED_OP,
                    random.pick(&[sched::YIELD, sched::BLOCK, sched::POLL]),
                )
            }
            9 => {
                // Never one that fires: that ends a storm too soon.
                let day = [86_400, u32::MAX];
                structure = sched::Watchdog {
                    id: random.below(5) as u32,
                    timeout: random.pick(&day),
                }
                .as_bytes()
                .to_vec();
                (hypercall::SCHED_OP, sched::WATCHDOG)
            }
            10 => {
                // The stranger may; the others try.
                let ends = random.one_in(3);
                let operation = random.pick(if ends {
                    &[
                        control::RESTART,
                        control::RESTART,
                        control::RESTART,
                        control::RESTART,
                        control::SHUTDOWN,
                        9,
                    ]
                } else {
                    &[
                        control::DOMAIN,
                        control::NEXT_DOMAIN,
                        control::VCPU,
                        control::SERVER,
                        control::PAUSE,
                        control::UNPAUSE,
                        control::UNPAUSE,
                    ]
                });
                let version = if random.one_in(16) {
                    random.next() as u32
                } else {
                    control::INTERFACE_VERSION
                };
                let second = if operation < control::PAUSE {
                    random.below(9) as u16
                } else {
                    0
                };
                let (domain, third) = (random.domain(), random.pick(&[0, 0, 0, 3, 1]));
                let mut words = vec![version, u32::from(domain) | u32::from(second) << 16, third];
                words.resize(64, 0);
                structure = words.as_bytes().to_vec();
                (hypercall::CONTROL, operation)
            }
            _ => {
                structure = (0..32).map(|_| random.below(256) as u8).collect();
                let numbers = [12, 13, 17, 18, 20, 21, 24, 29, 32, 33, 34, 36, 39, 41, 48, 50];
                (random.pick(&numbers), random.number())
            }
        };
        // A domain that powers off too often ends a storm too soon.
        let shuts_down = number == hypercall::SCHED_OP && matches!(operation as u32 as u64, sched::SHUTDOWN);
        if shuts_down && !random.one_in(8) {
            return;
        }
        let (second, third) = match number {
            hypercall::VCPU_OP => (random.below(3), SCRATCH),
            _ if random.one_in(32) => (random.number(), random.number()),
            _ => (SCRATCH, SCRATCH),
        };
        self.put(vcpu.domain, list, gfns.as_bytes());
        self.put(vcpu.domain, list + 0x200, places.as_bytes());
        self.issue(vcpu, number, [operation, second, third], &structure);
    }
}
