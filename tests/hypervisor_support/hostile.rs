//! Every domain does whatever comes to its mind, for a long time; nothing of it may harm the core or another domain.

use std::collections::BTreeMap;
use std::rc::Rc;

use portunus::abi::{dm_op, evtchn, hypercall, memory, sched, vcpu as vcpu_abi};
use portunus::cpu::{Access, Cpu, El1Register, TranslationFault};
use portunus::fakes::translation_order;
use portunus::hypervisor::Syndrome;
use portunus::ids::{DomainId, IntId, Ipa, Pa, VcpuId};
use portunus::stage2::PageUse;
use zerocopy::IntoBytes;

use crate::sim::Sim;
use crate::world::{
    BACKEND, DISK, DISTRIBUTOR, EMPTY_GFN, GUEST, MS, Options, PCPUS, RAM, RAM_PAGES, REDISTRIBUTOR, SCRATCH, STRANGER,
    UART,
};

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// A guest frame: RAM, the window, or far away.
    fn gfn(&mut self) -> u64 {
        let odd = [
            0,
            1 << 20,
            u64::MAX >> 12,
            u64::MAX,
            UART >> 12,
            DISK >> 12,
            DISTRIBUTOR >> 12,
        ];
        match self.below(16) {
            0 => self.pick(&odd),
            1..8 => EMPTY_GFN + self.below(16),
            _ => (RAM >> 12) + RAM_PAGES - 1 - self.below(64),
        }
    }

    fn address(&mut self) -> u64 {
        let devices = [
            DISK,
            DISK + 0x1ff,
            UART,
            UART + 0xffc,
            DISTRIBUTOR,
            DISTRIBUTOR + 0x100,
            REDISTRIBUTOR,
        ];
        match self.below(8) {
            0 => self.next(),
            1 => self.gfn().wrapping_shl(12).wrapping_add(self.below(4096)),
            2 => SCRATCH + self.below(4096),
            3 => DISTRIBUTOR + self.below(0x1_0000),
            4 => REDISTRIBUTOR + self.below(0x4_0000),
            5 => UART + self.below(0x1000),
            _ => self.pick(&devices) + self.below(16) * 4,
        }
    }

    fn domain(&mut self) -> u16 {
        self.pick(&[
            GUEST.0,
            GUEST.0,
            BACKEND.0,
            STRANGER.0,
            DomainId::SELF.0,
            0,
            17,
            DomainId::INVALID.0,
        ])
    }

    fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => self.next(),
            1 => self.next() >> self.below(64),
            2 => self.address(),
            3 => SCRATCH + self.below(32) * 8,
            _ => self.below(40),
        }
    }
}

struct Storm {
    sim: Rc<Sim>,
    random: Random,
    /// Where each domain's RAM is.
    ram: BTreeMap<DomainId, (u64, u64)>,
}

impl Storm {
    fn new(seed: u64, keep_log: bool) -> Self {
        let mut random = Random(seed | 1);
        let disk = random.pick(&[
            "timeout-ms = <2>; attach-timeout-ms = <3>;",
            "timeout-ms = <2>; attach-timeout-ms = <3>; on-failure = \"ones\";",
            "timeout-ms = <2>; attach-timeout-ms = <3>; on-failure = \"abort\";",
        ]);
        let sim = Sim::new(&Options {
            disk,
            guest: random.pick(&["", "trap-unmapped-accesses = <0>;"]),
            pcpus: random.pick(&[[0, 1, 2, 3, 4], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 2, 2, 1]]),
            ..Options::default()
        });
        if !keep_log {
            sim.forget_log();
        }
        let ram = sim.hypervisor.domains().map(|domain| {
            let start = domain.ram.iter().map(|range| range.start.0).min().expect("RAM");
            let end = domain.ram.iter().map(|range| range.end()).max().expect("RAM");
            (domain.id, (start, end))
        });
        let ram = ram.collect();
        Self { sim, random, ram }
    }

    fn put(&self, domain: DomainId, ipa: u64, bytes: &[u8]) {
        let memory = self.sim.domain(domain).memory.lock();
        let mapping = memory.stage2.lookup(self.sim.machine(), Ipa(ipa));
        drop(memory);
        if let Some(mapping) = mapping.filter(|_| ipa % 4096 + bytes.len() as u64 <= 4096) {
            self.sim.machine().poke(mapping.pa, bytes);
        }
    }

    /// One vCPU, or the world around them, does something.
    fn step(&mut self) {
        let running: Vec<VcpuId> = (0..PCPUS).filter_map(|pcpu| self.sim.running(pcpu)).collect();
        if running.is_empty() || self.random.one_in(16) {
            return self.world();
        }
        let vcpu = self.random.pick(&running);
        if self.random.one_in(4) {
            self.scribble(vcpu.domain);
        }
        self.registers(vcpu);
        match self.random.below(8) {
            0 => self.any_trap(vcpu),
            1 | 2 => self.access(vcpu),
            3 => self.firmware(vcpu),
            4 => self.serve(vcpu),
            _ => self.hypercall(vcpu),
        }
    }

    /// Time passes, somebody types, the terminal fills up.
    fn world(&mut self) {
        match self.random.below(8) {
            0 => self.sim.type_in(&[self.random.pick(b"a\r\x01?")]),
            1 => {
                let room = self.random.pick(&[0, 1, 100, 100_000]);
                self.sim.machine().set_console_room(room);
                self.sim.console_ready();
                self.sim.machine().take_console();
            }
            2 => {
                let interrupt = IntId(32 + self.random.below(988) as u32);
                let _ = self.sim.interrupt(self.random.below(PCPUS.into()) as u8, interrupt);
            }
            _ => {
                let ticks = self.random.pick(&[1, 10, MS / 2, MS, 3 * MS]);
                self.sim.advance(ticks);
            }
        }
    }

    /// A domain writes into memory that others read.
    fn scribble(&mut self, domain: DomainId) {
        let at = match self.random.below(3) {
            0 => SCRATCH + self.random.below(0x200),
            _ => (self.random.gfn().wrapping_shl(12)).wrapping_add(self.random.below(512) * 8),
        };
        let value = match self.random.below(3) {
            0 => u64::from(self.random.pick(&[0, 1, 2, 3, 4, 15_u8])) << 48,
            _ => self.random.number(),
        };
        self.put(domain, at, value.as_bytes());
    }

    fn registers(&mut self, vcpu: VcpuId) {
        let random = &mut self.random;
        let maps = random.one_in(64);
        let pstate = random.pick(&[0x3c5, 0x3c4, 0x3c0, 0x1d0, 0x6000_03c5]);
        let timer = random.one_in(32).then(|| (random.below(4), random.below(1 << 20)));
        let pc = RAM + 0x8_0000 + random.below(4) * 4;
        self.sim.with(vcpu, |context| {
            context.state.frame.pc = pc;
            context.state.frame.pstate = pstate;
            if let Some((control, at)) = timer {
                context.cpu.write_el1(El1Register::CntvCtlEl0, control);
                context.cpu.write_el1(El1Register::CntvCvalEl0, at);
            }
            if maps {
                context
                    .cpu
                    .fake
                    .set_translation(|address, access| match (address >> 12) % 7 {
                        0 => Err(TranslationFault),
                        1 if access == Access::Write => Err(TranslationFault),
                        _ => Ok(Ipa(address & 0xffff_ffff)),
                    });
            } else {
                context.cpu.fake.set_translation(|address, _| Ok(Ipa(address)));
            }
        });
        if random.one_in(8) {
            // A guest takes what is pending, and leaves some of it active.
            let end = random.one_in(2);
            self.sim.with(vcpu, |context| {
                let interface = context.cpu.virtual_interface();
                if let Some(interrupt) = interface.acknowledge().filter(|_| end) {
                    interface.end(interrupt);
                }
            });
        }
    }

    fn any_trap(&mut self, vcpu: VcpuId) {
        let random = &mut self.random;
        let classes = [
            0, 1, 3, 7, 9, 0xe, 0x16, 0x17, 0x18, 0x19, 0x20, 0x22, 0x24, 0x24, 0x24, 0x26, 0x2f, 0x30, 0x34, 0x3c,
            0x3f,
        ];
        let class = random.pick(&classes);
        let address = random.address();
        let iss = random.next() & 0x01ff_ffff;
        let iss = match class {
            0x24 | 0x20 => iss & !0x3f | random.pick(&[4, 5, 6, 7, 0xf, 0x10, 0x21, 0x35]),
            0x18 => iss | 3 << 20,
            0x16 => random.pick(&[0, 0xea1, 1, 0xffff]),
            1 => random.below(4),
            _ => iss,
        };
        let syndrome = Syndrome {
            esr: class << 26 | 1 << 25 | iss,
            far: address,
            hpfar: random.pick(&[address >> 12 << 4, address.wrapping_shl(4), DISK >> 8]),
        };
        for register in 0..31 {
            if random.one_in(3) {
                let value = random.number();
                self.sim.set_x(vcpu, register, value);
            }
        }
        let code = random.next() as u32;
        self.put(vcpu.domain, self.sim.pc(vcpu), code.as_bytes());
        self.sim.trap(vcpu, syndrome);
    }

    fn access(&mut self, vcpu: VcpuId) {
        let random = &mut self.random;
        let address = random.address() & 0xffff_ffff;
        let size = random.below(4);
        let value = random.number();
        let store = random.one_in(2);
        let opcode: u32 = if store { 0x3900_0000 } else { 0x3940_0000 };
        let instruction = match random.below(4) {
            0 => 0x2940_0861,
            _ => opcode | (size as u32) << 30 | 3 << 5 | 1,
        };
        self.sim.set_x(vcpu, 1, value);
        self.sim.set_x(vcpu, 3, address);
        self.put(vcpu.domain, self.sim.pc(vcpu), instruction.as_bytes());
        let iss = u64::from(store) << 6 | 7;
        let iss = if self.random.one_in(2) {
            iss
        } else {
            iss | crate::guest::transfer(size, 1)
        };
        self.sim.trap(vcpu, crate::guest::data_abort(iss, address));
    }

    fn firmware(&mut self, vcpu: VcpuId) {
        let random = &mut self.random;
        let function = match random.below(1024) {
            0 => random.pick(&[0x8400_0008, 0x8400_0009]),
            1..100 => 0x8400_0002,
            100..600 => 0xc400_0003,
            600..700 => 0xc400_0004,
            700..800 => 0xc400_0001,
            _ => 0x8400_0000 | random.below(64),
        };
        let arguments = [
            function,
            random.below(3),
            random.pick(&[RAM, RAM + 0x8_0000, 0, 1 << 40]),
            random.number(),
        ];
        for (register, value) in (0..).zip(arguments) {
            self.sim.set_x(vcpu, register, value);
        }
        self.call(vcpu, 0);
    }

    fn call(&self, vcpu: VcpuId, immediate: u64) {
        self.sim.with(vcpu, |context| context.state.frame.pc += 4);
        self.sim.trap(vcpu, crate::guest::exception(0x16, immediate));
    }

    /// A hypercall with this structure in memory.
    fn issue(&self, vcpu: VcpuId, number: u64, arguments: [u64; 3], structure: &[u8]) {
        self.put(vcpu.domain, SCRATCH, structure);
        self.sim.set_x(vcpu, 16, number);
        for (register, value) in (0..).zip(arguments) {
            self.sim.set_x(vcpu, register, value);
        }
        self.call(vcpu, 0xea1);
    }

    /// Something that a backend does with its servers; the others try, too.
    fn serve(&mut self, vcpu: VcpuId) {
        let random = &mut self.random;
        let op = random.pick(&[1, 1, 2, 3, 3, 3, 4, 5, 5, 5, 6, 19, 20, 7]);
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
                let enabled = u8::from(!random.one_in(4));
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
            _ => (0..24).map(|_| random.below(3) as u8).collect(),
        };
        let buffer = dm_op::Buffer {
            pointer: SCRATCH + 0x100,
            size: 8 + payload.len() as u64,
        };
        let target = u64::from(random.domain());
        self.put(vcpu.domain, SCRATCH + 0x100, dm_op::Header { op, pad: 0 }.as_bytes());
        self.put(vcpu.domain, SCRATCH + 0x108, &payload);
        self.issue(vcpu, hypercall::DM_OP, [target, 1, SCRATCH], buffer.as_bytes());
    }

    fn hypercall(&mut self, vcpu: VcpuId) {
        let random = &mut self.random;
        let list = SCRATCH + 0x400;
        let count = random.below(40);
        let gfns: Vec<u64> = (0..40).map(|_| random.gfn()).collect();
        let places: Vec<u64> = (0..40).map(|_| random.gfn()).collect();
        let structure: Vec<u8>;
        let (number, operation) = match random.below(10) {
            0 => {
                structure = memory::AcquireResource {
                    domid: random.domain(),
                    id: random.below(9) as u32,
                    nr_frames: random.below(4) as u32,
                    frame: random.below(3),
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
            _ => {
                structure = (0..32).map(|_| random.below(256) as u8).collect();
                let numbers = [12, 13, 17, 18, 20, 21, 24, 29, 32, 33, 34, 36, 39, 41, 50];
                (random.pick(&numbers), random.number())
            }
        };
        // SCHEDOP_shutdown ends a storm too soon.
        if number == hypercall::SCHED_OP && matches!(operation as u32 as u64, sched::SHUTDOWN) {
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

    /// Every mapping is one that its domain may have, and no frame of RAM is in two places of its owner.
    fn check(&self) {
        let frames: Vec<u64> = ((RAM >> 12)..(RAM >> 12) + RAM_PAGES)
            .chain(EMPTY_GFN..EMPTY_GFN + 16)
            .collect();
        let mut shared: BTreeMap<Pa, u32> = BTreeMap::new();
        for domain in self.sim.hypervisor.domains() {
            let memory = domain.memory.lock();
            let (ram_start, ram_end) = self.ram[&domain.id];
            let mut own = std::collections::BTreeSet::new();
            for gfn in &frames {
                let Some(mapping) = memory.stage2.lookup(self.sim.machine(), Ipa(gfn << 12)) else {
                    continue;
                };
                let (frame, pool) = (mapping.pa.page(), memory.pool.range());
                match mapping.page_use {
                    PageUse::Ram => {
                        assert!((ram_start..ram_end).contains(&frame.0), "{frame} in {}", domain.name);
                        assert!(own.insert(frame), "{frame} twice in {}", domain.name);
                    }
                    PageUse::Foreign { .. } => {
                        assert_eq!(domain.id, BACKEND, "{frame} in {}", domain.name);
                        assert!(frame.0 < pool.start.0 || frame.0 >= pool.end());
                        *shared.entry(frame).or_default() += 1;
                    }
                    PageUse::Shared { .. } => {
                        assert_eq!(frame, domain.events.lock().shared_info(), "in {}", domain.name);
                        assert_eq!(memory.shared_info_at, Some(Ipa(gfn << 12)), "in {}", domain.name);
                    }
                    other => panic!("{other:?} at {gfn:#x} of {}", domain.name),
                }
            }
        }
        let guest = self.sim.domain(GUEST).memory.lock();
        let (ram_start, ram_end) = self.ram[&GUEST];
        for frame in shared.keys() {
            let of_ram = (ram_start..ram_end).contains(&frame.0);
            assert!(
                of_ram || guest.pool.is_used(*frame),
                "{frame} is free, and the backend maps it"
            );
            // No page of the guest's own tables or of its shared_info.
            assert_ne!(*frame, guest.stage2.root());
        }
    }
}

fn storm(seed: u64, steps: usize, keep_log: bool) -> Storm {
    let mut storm = Storm::new(seed, keep_log);
    for step in 0..steps {
        if storm.sim.hypervisor.is_finished() {
            break;
        }
        storm.step();
        if step % 512 == 0 {
            storm.check();
        }
    }
    storm.check();
    storm
}

#[test]
fn nothing_that_domains_do_at_random_harms_the_core() {
    for seed in 1..=20_u64 {
        storm(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), 5000, false);
    }
}

#[test]
fn maps_that_change_at_random_are_changed_in_order() {
    for seed in 1..=4_u64 {
        let storm = storm(seed.wrapping_mul(0xd1b5_4a32_d192_ed03), 1500, true);
        let log = storm.sim.take_log();
        for domain in storm.sim.hypervisor.domains() {
            let pool = domain.memory.lock().pool.range();
            let order = translation_order::check(&log, (pool.start, pool.size));
            assert_eq!(order, Ok(()), "{} with seed {seed}", domain.name);
        }
    }
}
