//! Every domain does whatever comes to its mind, for a long time; nothing of it may harm the core or another domain.

use std::collections::BTreeMap;
use std::rc::Rc;

use portunus::abi::sched::ShutdownReason;
use portunus::cpu::{Access, Cpu, El1Register, TranslationFault};
use portunus::evtchn::Channel;
use portunus::fakes::{Random, translation_order};
use portunus::hypervisor::Syndrome;
use portunus::hypervisor::lifecycle::RestartCause;
use portunus::ids::{DomainId, EventPort, IntId, Ipa, Pa, VcpuId};
use portunus::machine::Machine;
use portunus::stage2::PageUse;
use zerocopy::IntoBytes;

use crate::guest::vcpu;
use crate::random::Odd;
use crate::restarts::{Account, account};
use crate::sim::Sim;
use crate::world::{ALWAYS_UP, BACKEND, DISK, EMPTY_GFN, GUEST, MS, Options, PCPUS, RAM, RAM_PAGES, SCRATCH, STRANGER};

pub(crate) struct Storm {
    pub(crate) sim: Rc<Sim>,
    pub(crate) random: Random,
    /// What each domain had at first.
    accounts: Vec<Account>,
    /// Where each domain's RAM is.
    ram: BTreeMap<DomainId, (u64, u64)>,
}

impl Storm {
    fn new(seed: u64, keep_log: bool) -> Self {
        let mut random = Random::new(seed | 1);
        let disk = random.pick(&[
            "timeout-ms = <20>; attach-timeout-ms = <30>;",
            "timeout-ms = <50>; attach-timeout-ms = <30>; on-failure = \"ones\";",
            "timeout-ms = <2>; attach-timeout-ms = <3>; on-failure = \"abort\";",
            "timeout-ms = <20>; attach-timeout-ms = <30>; portunus,accel;",
        ]);
        let sim = Sim::new(&Options {
            disk,
            guest: random.pick(&["", "trap-unmapped-accesses = <0>;"]),
            console: random.pick(&["vpl011;", "portunus,console = \"pv\";", "portunus,console-io;"]),
            stranger: "portunus,control;",
            pcpus: random.pick(&[[0, 1, 2, 3, 4], [0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 2, 2, 1]]),
            lifecycle: ALWAYS_UP,
            channels: [
                "chan0: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <10 &chan1>; };",
                "chan1: ec0 { compatible = \"xen,evtchn-v1\"; xen,evtchn = <11 &chan0>; };",
            ],
            ..Options::default()
        });
        let accounts = sim.hypervisor.domains().map(|domain| account(&sim, domain)).collect();
        if random.one_in(2) {
            let backend = vcpu(BACKEND, 0);
            sim.run_until(backend);
            sim.serve(backend);
        }
        if !keep_log {
            sim.forget_log();
        }
        let ram = sim.hypervisor.domains().map(|domain| {
            let start = domain.ram.iter().map(|range| range.start.0).min().expect("RAM");
            let end = domain.ram.iter().map(|range| range.end()).max().expect("RAM");
            (domain.id, (start, end))
        });
        let ram = ram.collect();
        Self {
            sim,
            random,
            accounts,
            ram,
        }
    }

    pub(crate) fn put(&self, domain: DomainId, ipa: u64, bytes: &[u8]) {
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
        match self.random.below(10) {
            0 => self.any_trap(vcpu),
            1 | 2 => self.access(vcpu),
            3 => self.firmware(vcpu),
            4 | 5 => self.serve(vcpu),
            _ => self.hypercall(vcpu),
        }
    }

    /// Domains are stopped, started again, held, by somebody who may.
    fn direct(&mut self) {
        let domain = self.random.pick(&[GUEST, BACKEND, STRANGER]);
        let order = self.random.below(8);
        self.sim.direct(|hypervisor| {
            let domain = hypervisor.domain(domain).expect("a domain");
            match order {
                0 => hypervisor.stop(domain, ShutdownReason::Poweroff),
                1 => hypervisor.shut_down(domain, ShutdownReason::Watchdog),
                2 => hypervisor.shut_down(domain, ShutdownReason::Crash),
                3 => drop(hypervisor.pause(domain)),
                4 => hypervisor.unpause(domain),
                _ => hypervisor.restart(domain, RestartCause::Control).expect("no devices"),
            }
        });
    }

    /// Whatever domains did: made anew, each has what it had at first, and nobody has anything of another.
    fn check_leaks(&self) {
        let sim = &self.sim;
        if sim.hypervisor.is_finished() {
            return;
        }
        for id in [BACKEND, GUEST, STRANGER] {
            sim.direct(|hypervisor| {
                let domain = hypervisor.domain(id).expect("a domain");
                hypervisor.unpause(domain);
                hypervisor.restart(domain, RestartCause::Control).expect("no devices");
            });
        }
        for _ in 0..100 {
            if sim.hypervisor.domains().all(|domain| domain.life.is_running()) {
                break;
            }
            sim.advance(20 * MS);
        }
        let now: Vec<Account> = sim.hypervisor.domains().map(|domain| account(sim, domain)).collect();
        assert_eq!(now, self.accounts);
    }

    /// Time passes, somebody types, the terminal fills up.
    fn world(&mut self) {
        if self.random.one_in(12) {
            return self.direct();
        }
        match self.random.below(9) {
            0 => self.sim.type_in(&[self.random.pick(b"a\r\x01?")]),
            // A table, which looks at everything.
            8 => self.sim.type_in(&[1, self.random.pick(b"lrdDiIsSeEcC")]),
            1 => {
                let room = self.random.pick(&[0, 1, 100, 100_000]);
                self.sim.machine().set_console_room(room);
                self.sim.console_ready();
                self.sim.machine().take_console();
            }
            2 => {
                let interrupt = IntId(32 + self.random.below(988) as u32);
                let _ = self.sim.interrupt(self.random.below(PCPUS), interrupt);
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
        // Mostly a timer that wakes it soon, should it sleep.
        let now = self.sim.machine().now().0;
        let timer = match random.below(32) {
            0 => (random.below(4), random.number()),
            _ => (1, now + random.below(4 * MS)),
        };
        let pc = RAM + 0x8_0000 + random.below(4) * 4;
        self.sim.with(vcpu, |context| {
            context.state.frame.pc = pc;
            context.state.frame.pstate = pstate;
            context.cpu.write_el1(El1Register::CntvCtlEl0, timer.0);
            context.cpu.write_el1(El1Register::CntvCvalEl0, timer.1);
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
        let address = if random.one_in(2) {
            DISK + random.below(0x80) * 4
        } else {
            random.address() & 0xffff_ffff
        };
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
            1..8 => 0x8400_0009,
            8..100 => 0x8400_0002,
            100..600 => 0xc400_0003,
            600..700 => 0xc400_0004,
            700..800 => 0xc400_0001,
            _ => 0x8400_0000 | random.below(64),
        };
        // A domain without a vCPU does nothing any more.
        let function = if function == 0x8400_0002 && vcpu.index == 0 {
            0x8400_0000
        } else {
            function
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

    pub(crate) fn call(&self, vcpu: VcpuId, immediate: u64) {
        self.sim.with(vcpu, |context| context.state.frame.pc += 4);
        self.sim.trap(vcpu, crate::guest::exception(0x16, immediate));
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
        self.check_counters();
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

impl Storm {
    /// What is counted is what there is.
    fn check_counters(&self) {
        let (mut maps, mut references) = (0, 0);
        for domain in self.sim.hypervisor.domains() {
            let counters = self.sim.hypervisor.domain_counters(domain.id).expect("a domain");
            maps += counters.foreign_pages;
            references += counters.references;
            let events = domain.events.lock();
            let ports = (0..).map_while(|port| events.port(EventPort(port)));
            let open = ports.filter(|port| port.channel != Channel::Free).count();
            let counted = counters.event_channels + counters.attached_ports;
            assert_eq!(counted as usize, open, "ports of {}", domain.name);
        }
        assert_eq!(maps, references, "each map of another's page holds a reference");
    }
}

/// At most `steps` steps, fewer when nobody does anything any more; how many.
fn rage(storm: &mut Storm, steps: usize) -> usize {
    let mut quiet = 0;
    for step in 0..steps {
        let busy = (0..PCPUS).any(|pcpu| storm.sim.running(pcpu).is_some());
        quiet = if busy { 0 } else { quiet + 1 };
        if storm.sim.hypervisor.is_finished() || quiet > 32 {
            storm.check();
            return step;
        }
        storm.step();
        if step % 512 == 0 {
            storm.check();
        }
    }
    storm.check();
    steps
}

#[test]
fn nothing_that_domains_do_at_random_harms_the_core() {
    let mut seed = 0_u64;
    let (mut steps, mut restarts) = (0, 0);
    while steps < 50_000 {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut storm = Storm::new(seed, false);
        steps += rage(&mut storm, 5000);
        let reports = [GUEST, BACKEND].map(|id| storm.sim.hypervisor.domain_report(id).expect("a domain"));
        restarts += reports.map(|report| report.restarts).iter().sum::<u32>();
        storm.check_leaks();
    }
    assert!(restarts > 5, "only {restarts} restarts");
}

#[test]
fn maps_that_change_at_random_are_changed_in_order() {
    for seed in 1..=4_u64 {
        let mut storm = Storm::new(seed.wrapping_mul(0xd1b5_4a32_d192_ed03), true);
        rage(&mut storm, 1500);
        let log = storm.sim.take_log();
        for domain in storm.sim.hypervisor.domains() {
            let pool = domain.memory.lock().pool.range();
            let order = translation_order::check(&log, (pool.start, pool.size));
            assert_eq!(order, Ok(()), "{} with seed {seed}", domain.name);
        }
    }
}
