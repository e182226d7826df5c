//! Random hypercalls, and tables of those that must be refused.

use guest_runtime::hypercall::{self, DOMID_SELF, dm, memory, raw};
use guest_runtime::timer;
use portunus::abi::hypercall::{self as abi, HypercallError, from_register};
use portunus::abi::{dm_op, evtchn, memory as memory_op, sched, vcpu, version};

use crate::Attacker;
use crate::ground::Ground;
use guest_runtime::random::Random;

/// Domains that are neither the guest nor the backend of this program: the honest ones.
pub(crate) const OTHERS: [u16; 2] = [1, 2];

const NUMBERS: [u64; 12] = [
    abi::MEMORY_OP,
    abi::MULTICALL,
    abi::XEN_VERSION,
    abi::CONSOLE_IO,
    abi::VCPU_OP,
    abi::SCHED_OP,
    abi::EVENT_CHANNEL_OP,
    abi::HVM_OP,
    abi::DOMCTL,
    abi::DM_OP,
    abi::GRANT_TABLE_OP,
    abi::ARGO_OP,
];

const MEMORY_OPS: [u64; 8] = [
    memory_op::ADD_TO_PHYSMAP,
    memory_op::ADD_TO_PHYSMAP_BATCH,
    memory_op::REMOVE_FROM_PHYSMAP,
    memory_op::ACQUIRE_RESOURCE,
    memory_op::DECREASE_RESERVATION,
    memory_op::POPULATE_PHYSMAP,
    memory_op::MAXIMUM_GPFN,
    memory_op::MEMORY_MAP,
];

/// Makes hypercalls up.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Inventor<'a> {
    pub(crate) ground: &'a Ground,
}

impl Inventor<'_> {
    /// A call that does not stop this domain; what its pointers point to is set.
    fn call(&self, random: &mut Random) -> (u64, [u64; 5]) {
        let ground = self.ground;
        let number = match random.below(16) {
            0 => random.below(64),
            1 => random.next(),
            _ => random.choose(&NUMBERS),
        };
        let mut arguments: [u64; 5] = core::array::from_fn(|_| ground.number(random));
        let at = random.next();
        ground.fill(at, 8, random);
        let pointer = match random.below(4) {
            0 => ground.pointer(random),
            _ => ground.address_of(at),
        };
        match number {
            abi::MEMORY_OP => {
                let resumed = match random.below(8) {
                    0 => random.below(1 << 20) << memory_op::EXTENT_SHIFT,
                    _ => 0,
                };
                arguments[0] = random.choose(&MEMORY_OPS) | resumed;
                arguments[1] = pointer;
            }
            abi::MULTICALL => {
                arguments[0] = pointer;
                arguments[1] = random.below(4);
                self.entries(at, random);
            }
            abi::CONSOLE_IO => {
                // Nothing that would be read by a person.
                arguments[0] = 1 + random.below(64);
                arguments[2] = pointer;
            }
            abi::SCHED_OP => {
                const SHUTDOWN: u64 = sched::SHUTDOWN;
                arguments[0] = match random.below(8) {
                    SHUTDOWN => sched::YIELD,
                    command => command,
                };
                arguments[1] = match arguments[0] {
                    sched::WATCHDOG => self.watchdog(at, random),
                    _ => pointer,
                };
            }
            abi::XEN_VERSION | abi::EVENT_CHANNEL_OP | abi::HVM_OP => {
                arguments[0] = random.below(20);
                arguments[1] = pointer;
            }
            abi::VCPU_OP => {
                arguments[0] = random.choose(&[
                    vcpu::REGISTER_VCPU_INFO,
                    vcpu::REGISTER_RUNSTATE_MEMORY_AREA,
                    arguments[0],
                ]);
                arguments[2] = pointer;
            }
            abi::DM_OP => {
                arguments[0] = random.below(6);
                arguments[1] = random.below(4);
                arguments[2] = pointer;
                self.device_model(at, random);
            }
            abi::DOMCTL => arguments[0] = pointer,
            _ => {}
        }
        (number, arguments)
    }

    /// The place of a watchdog in word `at`, or of none: never one that fires, which would stop this domain.
    fn watchdog(&self, at: u64, random: &mut Random) -> u64 {
        const DAY: u64 = 86_400;
        let id = random.below(4);
        let timeout = match random.below(4) {
            0 if id != 0 => 0,
            1 => u64::from(u32::MAX),
            _ => DAY + random.below(DAY),
        };
        self.ground
            .word_at(at)
            .store(id | timeout << 32, core::sync::atomic::Ordering::Relaxed);
        match random.below(4) {
            0 => random.choose(&self.ground.bad).1,
            _ => self.ground.address_of(at),
        }
    }

    /// A dm_op's buffers from word `at` on, with an operation in the first.
    fn device_model(&self, at: u64, random: &mut Random) {
        let put = |index, value| {
            self.ground
                .word_at(at + index)
                .store(value, core::sync::atomic::Ordering::Relaxed);
        };
        let operation = match random.below(4) {
            0 => u64::from(dm_op::VENDOR_FIRST) + random.below(8),
            1 => random.below(32),
            _ => random.below(7),
        };
        put(0, self.ground.address_of(at + 4));
        put(1, random.choose(&[8, 12, 16, 24, 40, 4096, u64::MAX]));
        put(4, operation);
    }

    /// Entries of a multicall from word `at` on: calls of the same kinds, but for multicalls and sched_op.
    fn entries(&self, at: u64, random: &mut Random) {
        for entry in 0..4 {
            let number = random.choose(&[
                abi::XEN_VERSION,
                abi::EVENT_CHANNEL_OP,
                abi::MEMORY_OP,
                abi::MULTICALL,
                63,
            ]);
            let values = [
                number,
                0,
                random.below(20),
                self.ground.pointer(random),
                self.ground.number(random),
            ];
            for (index, value) in (0..).zip(values) {
                let word = self.ground.word_at(at + entry * 8 + index);
                word.store(value, core::sync::atomic::Ordering::Relaxed);
            }
        }
    }

    /// Makes one random call; the result is what the ABI knows: no error that does not exist.
    pub(crate) fn attack(&self, random: &mut Random) -> Result<(), (u64, u64)> {
        /// The highest error number of the ABI and beyond.
        const ERRORS: i64 = 4095;
        let (number, arguments) = self.call(random);
        // SAFETY: pointers are to memory that may be lost, or bad.
        let result = unsafe { raw(number, arguments) };
        let signed = result as i64;
        if (-ERRORS..0).contains(&signed) && HypercallError::from_errno(-signed).is_none() {
            return Err((number, result));
        }
        Ok(())
    }
}

/// As many random calls as the boot argument `calls` says.
pub(crate) fn random(attacker: &mut Attacker) -> u64 {
    let inventor = Inventor {
        ground: &attacker.ground.clone(),
    };
    for _ in 0..attacker.calls {
        // Whatever sleeps is woken.
        timer::set_deadline(timer::now() + timer::ticks(50));
        if let Err((number, result)) = inventor.attack(&mut attacker.random) {
            attacker.fail(format_args!("hypercall {number} gave {result:#x}"));
        }
        attacker.end_interrupts();
    }
    timer::stop();
    attacker.calls
}

/// A call that takes a pointer.
struct PointerCall {
    name: &'static str,
    number: u64,
    command: u64,
    /// Which argument the pointer is.
    argument: usize,
    writes: bool,
}

const fn pointer_call(name: &'static str, number: u64, command: u64, argument: usize, writes: bool) -> PointerCall {
    PointerCall {
        name,
        number,
        command,
        argument,
        writes,
    }
}

const POINTER_CALLS: [PointerCall; 12] = [
    pointer_call("extraversion", abi::XEN_VERSION, version::EXTRAVERSION, 1, true),
    pointer_call("get_features", abi::XEN_VERSION, version::GET_FEATURES, 1, true),
    pointer_call("maximum_gpfn", abi::MEMORY_OP, memory_op::MAXIMUM_GPFN, 1, false),
    pointer_call("add_to_physmap", abi::MEMORY_OP, memory_op::ADD_TO_PHYSMAP, 1, false),
    pointer_call("acquire_resource", abi::MEMORY_OP, memory_op::ACQUIRE_RESOURCE, 1, true),
    pointer_call("register_vcpu_info", abi::VCPU_OP, vcpu::REGISTER_VCPU_INFO, 2, false),
    pointer_call("poll", abi::SCHED_OP, sched::POLL, 1, false),
    pointer_call("alloc_unbound", abi::EVENT_CHANNEL_OP, evtchn::ALLOC_UNBOUND, 1, true),
    pointer_call("send", abi::EVENT_CHANNEL_OP, evtchn::SEND, 1, false),
    pointer_call("status", abi::EVENT_CHANNEL_OP, evtchn::STATUS, 1, true),
    pointer_call("shutdown", abi::SCHED_OP, sched::SHUTDOWN, 1, false),
    pointer_call("watchdog", abi::SCHED_OP, sched::WATCHDOG, 1, false),
];

impl PointerCall {
    fn make(&self, pointer: u64) -> Result<u64, HypercallError> {
        let mut arguments = [self.command, 0, 0, 0, 0];
        arguments[self.argument] = pointer;
        // SAFETY: the pointer is bad: nothing is written.
        from_register(unsafe { raw(self.number, arguments) })
    }
}

/// Whether every call refuses `pointer`; says which does not.
pub(crate) fn refuse_pointer(pointer: u64, readable: bool) -> Result<u64, (&'static str, Result<u64, HypercallError>)> {
    let mut tries = 0;
    for call in POINTER_CALLS.iter().filter(|call| call.writes || !readable) {
        let result = call.make(pointer);
        if result != Err(HypercallError::BadPointer) {
            return Err((call.name, result));
        }
        tries += 1;
    }
    Ok(tries)
}

/// Pointers to what is no memory of this domain, or may only be read.
pub(crate) fn bad_pointers(attacker: &mut Attacker) -> u64 {
    let mut tries = 0;
    let read_only = ("memory that may only be read", attacker.ground.read_only);
    let rows = attacker.ground.bad.map(|row| (row, false));
    for ((name, pointer), readable) in rows.into_iter().chain([(read_only, true)]) {
        match refuse_pointer(pointer, readable) {
            Ok(count) => tries += count,
            Err((call, result)) => attacker.fail(format_args!("{call} with a pointer to {name}: {result:?}")),
        }
    }
    tries
}

/// Whose memory, servers, interrupts and channels are not to be had, and what does not exist.
pub(crate) fn refused(attacker: &mut Attacker) -> u64 {
    use HypercallError::{NoDomain, NotImplemented, NotPermitted, NotSupported};
    let number = |number| {
        // SAFETY: a call that does nothing.
        from_register(unsafe { raw(number, [0; 5]) }).map(drop)
    };
    // SAFETY: it is refused.
    let grant = |operation| from_register(unsafe { raw(abi::GRANT_TABLE_OP, [operation, 0, 1, 0, 0]) }).map(drop);
    let frame = attacker.ground.address_of(0) / 4096;
    let map = |domain| {
        let mut errors = [0];
        // SAFETY: it is refused.
        let result = unsafe { memory::map_foreign(domain, &[0x4_0000], &[frame], &mut errors) };
        result.and_then(|()| from_register(i64::from(errors[0]) as u64).map(drop))
    };
    let mut rows = alloc::vec![
        ("an operation on grants that does not exist", grant(99), NotImplemented),
        ("argo_op", number(abi::ARGO_OP), NotSupported),
        ("sysctl", number(abi::SYSCTL), NotPermitted),
        ("physdev_op", number(abi::PHYSDEV_OP), NotImplemented),
        ("hypercall 63", number(63), NotImplemented),
        (
            "hypercall 2^32 + 17",
            number(abi::XEN_VERSION | 1 << 32),
            NotImplemented
        ),
        ("mapping its own memory as another's", map(DOMID_SELF), NoDomain),
        ("mapping the memory of nobody", map(15), NoDomain),
    ];
    for other in OTHERS {
        // SAFETY: it is refused.
        let page = unsafe { memory::map_ioreq_page(other, 0, 1, frame) };
        rows.extend([
            ("mapping another's memory", map(other), NotPermitted),
            ("another's requests", page, NotPermitted),
            (
                "a server for another",
                dm::create_ioreq_server(other).map(drop),
                NotPermitted,
            ),
            (
                "destroying another's server",
                dm::destroy_ioreq_server(other, 0),
                NotPermitted,
            ),
            (
                "another's address",
                dm::map_io_range(other, 0, 0x200_0000, 0x200_01ff),
                NotPermitted,
            ),
            ("another's interrupt", dm::set_irq_level(other, 33, true), NotPermitted),
            ("another's vCPUs", dm::nr_vcpus(other).map(drop), NotPermitted),
            (
                "a channel to another",
                hypercall::alloc_unbound(other).map(drop),
                NotPermitted,
            ),
            (
                "another's port",
                hypercall::bind_interdomain(other, 1).map(drop),
                NotPermitted,
            ),
        ]);
    }
    for (name, result, expected) in &rows {
        if *result != Err(*expected) {
            attacker.fail(format_args!("{name}: {result:?}, not {expected:?}"));
        }
    }
    rows.len() as u64
}
