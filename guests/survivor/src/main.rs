//! A guest whose backends die under its accesses, and its neighbour on the same pCPU.
//!
//! The guest has three vCPUs. vCPU 0 uses devices whose manifest says `on-failure = "ones"`, vCPU 1 those with `"abort"`,
//! vCPU 2 those with `"wait"`. For each row of [`TRIALS`] they ask their device for a death, measure how long they were
//! held and compare that and what they got with the policy; then they use the device again.
//!
//! With the boot argument `neighbour` it is the other guest: it looks at the counter all the time, until an event comes,
//! and then says how long it did not run at the longest.
//!
//! Further boot arguments: `timeout-ms` and `attach-timeout-ms` as all devices in the manifest have them, and `slack-ms`,
//! how much later than a limit something may happen, and how long the neighbour may not run.
#![no_std]
#![no_main]

extern crate alloc;

mod neighbour;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use guest_mortal::{ALIVE, Death, LIFE, REBIRTH_AFTER, REBORN};
use guest_runtime::attempt::{self, Fault};
use guest_runtime::{device_tree, println, psci, smp, timer};

guest_runtime::entry!(main);

/// vCPUs on the pCPU of a backend that spins, at the most.
const COMPETITORS: u64 = 8;

/// vCPUs, each with its own policy.
const WORKERS: usize = 3;

/// `on-failure` of a device.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Policy {
    Ones,
    Abort,
    Wait,
}

const POLICIES: [Policy; WORKERS] = [Policy::Ones, Policy::Abort, Policy::Wait];

impl Policy {
    const fn name(self) -> &'static str {
        match self {
            Self::Ones => "ones",
            Self::Abort => "abort",
            Self::Wait => "wait",
        }
    }
}

/// A death, which devices bring it, and which workers ask for it at once.
struct Trial {
    death: Death,
    /// Devices in the order of their addresses: this one is worker 0's, the next is worker 1's, and so on.
    first_device: usize,
    workers: &'static [usize],
}

const TOGETHER: &[usize] = &[0, 1, 2];

const fn trial(death: Death, first_device: usize, workers: &'static [usize]) -> Trial {
    Trial {
        death,
        first_device,
        workers,
    }
}

const TRIALS: [Trial; 9] = [
    trial(Death::PowerOff, 0, TOGETHER),
    trial(Death::Exception, 3, TOGETHER),
    trial(Death::Spin, 6, TOGETHER),
    trial(Death::BadState, 9, &[0]),
    trial(Death::BadState, 9, &[1]),
    trial(Death::BadState, 9, &[2]),
    trial(Death::Destroy, 9, &[0]),
    trial(Death::Destroy, 9, &[1]),
    trial(Death::Destroy, 9, &[2]),
];

/// How an access ended.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum End {
    Value(u32),
    Aborted,
}

impl End {
    fn of(result: Result<u32, Fault>) -> Self {
        match result {
            Ok(value) => Self::Value(value),
            Err(fault) if fault.is_data_abort() => Self::Aborted,
            Err(fault) => panic!("an access to a device ended with ESR_EL1 {:#x}", fault.esr),
        }
    }
    const fn to_bits(self) -> u64 {
        match self {
            Self::Value(value) => value as u64,
            Self::Aborted => u64::MAX,
        }
    }
    const fn from_bits(bits: u64) -> Self {
        match bits {
            u64::MAX => Self::Aborted,
            value => Self::Value(value as u32),
        }
    }
}

/// How an access must end, and after how many microseconds.
#[derive(Copy, Clone, Debug)]
struct Expected {
    end: End,
    least: u64,
    most: u64,
}

/// The boot arguments, in microseconds.
#[derive(Copy, Clone, Debug)]
struct Limits {
    timeout: u64,
    attach: u64,
    slack: u64,
}

impl Limits {
    fn from_boot_arguments() -> Self {
        let microseconds = |name| match device_tree::boot_number(name) {
            Some(milliseconds) => milliseconds * 1000,
            None => panic!("boot argument {name} is missing"),
        };
        Self {
            timeout: microseconds("timeout-ms"),
            attach: microseconds("attach-timeout-ms"),
            slack: microseconds("slack-ms"),
        }
    }

    fn expect(&self, end: End, least: u64) -> Expected {
        Expected {
            end,
            least,
            most: least + self.slack,
        }
    }

    /// The access that asks for the death.
    fn fatal(&self, death: Death, policy: Policy) -> Expected {
        let end = given_up(policy);
        // Only time counts that the backend could use.
        let spun = self.timeout * COMPETITORS;
        match (death, policy) {
            (Death::PowerOff | Death::Exception, Policy::Wait) => self.expect(end, self.attach),
            (Death::Spin, Policy::Wait) => Expected {
                most: spun + self.attach + self.slack,
                ..self.expect(end, self.timeout + self.attach)
            },
            (Death::Spin, _) => Expected {
                most: spun + self.slack,
                ..self.expect(end, self.timeout)
            },
            // The request waits, and the new server answers it.
            (Death::BadState | Death::Destroy, Policy::Wait) => self.expect(End::Value(REBORN), REBIRTH_AFTER),
            _ => self.expect(end, 0),
        }
    }

    /// The next access to the same device.
    fn afterwards(&self, death: Death, policy: Policy) -> Expected {
        if death.is_survived() {
            Expected {
                most: REBIRTH_AFTER + self.slack,
                ..self.expect(End::Value(ALIVE), 0)
            }
        } else {
            // Nobody serves it any more: it waits for a server in vain.
            self.expect(given_up(policy), self.attach)
        }
    }
}

/// What the policy gives when there is no server.
const fn given_up(policy: Policy) -> End {
    match policy {
        Policy::Ones | Policy::Wait => End::Value(u32::MAX),
        Policy::Abort => End::Aborted,
    }
}

/// One access and how long it took.
#[derive(Debug)]
struct Measured {
    end: AtomicU64,
    ticks: AtomicU64,
}

impl Measured {
    const fn new() -> Self {
        Self {
            end: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
        }
    }

    fn measure(&self, address: u64) {
        let start = timer::now();
        let end = End::of(attempt::read_u32(address));
        let ticks = timer::now() - start;
        self.end.store(end.to_bits(), Ordering::Relaxed);
        self.ticks.store(ticks, Ordering::Relaxed);
    }

    /// Compares; whether all is well.
    fn judge(&self, what: &str, death: Death, policy: Policy, expected: Expected) -> bool {
        let end = End::from_bits(self.end.load(Ordering::Relaxed));
        let ticks = self.ticks.load(Ordering::Relaxed);
        let microseconds = (u128::from(ticks) * 1_000_000 / u128::from(timer::frequency())) as u64;
        let well = end == expected.end && (expected.least..=expected.most).contains(&microseconds);
        let verdict = if well { "" } else { ": FAILED" };
        println!(
            "{}, {}, {what}: {end:x?} after {microseconds} us{verdict}",
            death.name(),
            policy.name(),
        );
        if !well {
            println!("expected {expected:x?}");
        }
        well
    }
}

static FATAL: [Measured; WORKERS] = [const { Measured::new() }; WORKERS];
static NEXT: [Measured; WORKERS] = [const { Measured::new() }; WORKERS];

/// Workers that came to the barrier, ever.
static ARRIVED: AtomicUsize = AtomicUsize::new(0);

/// Waits until all workers are here.
fn barrier() {
    let turn = ARRIVED.fetch_add(1, Ordering::AcqRel) / WORKERS + 1;
    while ARRIVED.load(Ordering::Acquire) < turn * WORKERS {
        guest_runtime::give_way();
    }
}

/// Registers of the devices, sorted by address.
fn devices() -> Vec<u64> {
    let mut devices = Vec::new();
    guest_runtime::virtio::each_mmio(|registers, _| devices.push(registers.start));
    devices.sort_unstable();
    devices
}

/// Waits until a device is served: the backends start while this guest does.
fn await_server(device: u64) {
    /// Each access waits up to the attach limit.
    const PATIENCE: usize = 100;
    let served = (0..PATIENCE).any(|_| attempt::read_u32(device + LIFE) == Ok(ALIVE));
    assert!(served, "device {device:#x} is not served");
}

/// Takes one worker through all trials; worker 0 judges. Returns how many deaths were not survived as they should be.
fn work(worker: usize) -> usize {
    let devices = devices();
    let limits = Limits::from_boot_arguments();
    let mut failures = 0;
    for trial in &TRIALS {
        let device = devices[trial.first_device + worker];
        let takes_part = trial.workers.contains(&worker);
        if takes_part {
            await_server(device);
        }
        barrier();
        if takes_part {
            FATAL[worker].measure(device + trial.death.offset());
        }
        barrier();
        if takes_part {
            NEXT[worker].measure(device + LIFE);
        }
        barrier();
        if worker == 0 {
            failures += judge(trial, &limits);
        }
        barrier();
    }
    failures
}

/// Compares what the workers measured; returns how many were wrong.
fn judge(trial: &Trial, limits: &Limits) -> usize {
    let death = trial.death;
    let wrong = |worker: &&usize| {
        let policy = POLICIES[**worker];
        let released = FATAL[**worker].judge("released", death, policy, limits.fatal(death, policy));
        let next = NEXT[**worker].judge("next access", death, policy, limits.afterwards(death, policy));
        !(released && next)
    };
    trial.workers.iter().filter(wrong).count()
}

extern "C" fn worker(index: u64) -> ! {
    work(index as usize);
    let error = psci::cpu_off();
    panic!("CPU_OFF: {error:?}");
}

fn main() -> ! {
    if device_tree::boot_arguments().any(|word| word == "neighbour") {
        neighbour::run(Limits::from_boot_arguments().slack);
    }
    attempt::init();
    let mut vcpus = Vec::new();
    smp::each_vcpu(|mpidr| vcpus.push(mpidr));
    assert_eq!(vcpus.len(), WORKERS, "one vCPU for each policy");
    for (index, mpidr) in vcpus.iter().enumerate().skip(1) {
        smp::start(*mpidr, worker, index as u64).expect("a vCPU starts");
    }
    let failures = work(0);
    let deaths: usize = TRIALS.iter().map(|trial| trial.workers.len()).sum();
    neighbour::tell();
    if failures == 0 {
        println!("backend-dies: all {deaths} deaths survived");
    } else {
        println!("backend-dies: FAILED: {failures} of {deaths} deaths");
    }
    psci::system_off()
}
