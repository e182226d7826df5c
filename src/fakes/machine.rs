//! The machine from any pCPU: memory and a log of everything asked of it.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use super::memory::{Interference, SharedAccess, SharedAccessKind, SparseMemory};
use crate::ids::{IntId, Ipa, Pa, PcpuId, Ticks, VcpuId, Vmid};
use crate::machine::Machine;
use crate::memory::{Contended, PhysicalMemory};
use crate::sync::Mutex;
use crate::trace;

/// One thing asked of the machine. Loads and plain reads are not recorded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Operation {
    /// A store of one word.
    Store {
        /// Where.
        at: Pa,
        /// 1, 4 or 8 bytes.
        width: u8,
        /// What.
        value: u64,
    },
    /// A compare-and-exchange that stored.
    Exchanged {
        /// Where.
        at: Pa,
        /// 4 or 8 bytes.
        width: u8,
        /// What was there.
        previous: u64,
        /// What is there now.
        value: u64,
    },
    /// A copy into memory.
    Write {
        /// Where.
        at: Pa,
        /// How many bytes.
        length: u64,
    },
    /// A range set to zero.
    Zero {
        /// Where.
        at: Pa,
        /// How many bytes.
        length: u64,
    },
    /// Data cache cleaned to the point of coherency.
    CleanToCoherency {
        /// Where.
        at: Pa,
        /// How many bytes.
        length: u64,
    },
    /// Instructions made visible to execution.
    SynchroniseInstructions {
        /// Where.
        at: Pa,
        /// How many bytes.
        length: u64,
    },
    /// Every store before it is complete.
    CompleteStores,
    /// Stage-2 stores made visible to the walker.
    PublishTables,
    /// One page's translations dropped.
    InvalidatePage {
        /// Of this VMID.
        vmid: Vmid,
        /// The root that was loaded for it.
        root: Pa,
        /// The page.
        page: Ipa,
    },
    /// A physical SPI disabled, inactive and not pending.
    ResetInterrupt(IntId),
    /// A register of a passed-through device written.
    WriteDevice {
        /// Which.
        at: Pa,
        /// What.
        value: u32,
    },
    /// Every translation of a VMID dropped.
    InvalidateAll {
        /// The VMID.
        vmid: Vmid,
        /// The root that was loaded for it.
        root: Pa,
    },
    /// A pCPU asked to come out of its guest.
    Kick(PcpuId),
    /// A physical SPI enabled or disabled.
    EnableInterrupt(IntId, bool),
    /// A physical SPI made edge (true) or level.
    ConfigureInterrupt(IntId, bool),
    /// A physical SPI routed.
    RouteInterrupt(IntId, PcpuId),
    /// Bytes that the console took.
    Console(Vec<u8>),
}

/// How a physical SPI is set up now.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct InterruptConfig {
    /// Forwarded at all.
    pub enabled: bool,
    /// Edge-triggered.
    pub edge: bool,
    /// Where it goes.
    pub route: Option<PcpuId>,
}

/// A register of a passed-through device.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct DeviceRegister {
    /// What it holds.
    pub value: u32,
    /// Reads that still give the old value after a write of the new one.
    pub delay: u32,
    /// What it will hold after those.
    pub next: Option<u32>,
}

type Adversary = Box<dyn FnMut(&mut SparseMemory, SharedAccess) -> Interference + Send>;

struct State {
    memory: SparseMemory,
    log: Vec<Operation>,
    now: Ticks,
    adversary: Option<Adversary>,
    interrupts: BTreeMap<u32, InterruptConfig>,
    devices: BTreeMap<u64, DeviceRegister>,
    console: Vec<u8>,
    console_room: usize,
    pcpu: PcpuId,
    trace: Vec<(PcpuId, trace::Event)>,
}

/// A machine made of a map and a log.
pub struct FakeMachine {
    state: Mutex<State>,
}

impl fmt::Debug for FakeMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeMachine").finish_non_exhaustive()
    }
}

impl Default for FakeMachine {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeMachine {
    /// A machine without memory, at time 0, whose console takes everything.
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State {
                memory: SparseMemory::default(),
                log: Vec::new(),
                now: Ticks(0),
                adversary: None,
                interrupts: BTreeMap::new(),
                devices: BTreeMap::new(),
                console: Vec::new(),
                console_room: usize::MAX,
                pcpu: PcpuId(0),
                trace: Vec::new(),
            }),
        }
    }

    /// A machine with one region of memory.
    pub fn with_memory(start: Pa, length: u64) -> Self {
        let machine = Self::new();
        machine.add_memory(start, length);
        machine
    }

    /// Adds a region of memory, poisoned until written.
    pub fn add_memory(&self, start: Pa, length: u64) {
        self.state.lock().memory.add(start, length);
    }

    /// Whether the page of `at` was ever written or zeroed.
    pub fn is_written(&self, at: Pa) -> bool {
        self.state.lock().memory.is_written(at)
    }

    /// Reads and writes memory behind the core's back: no log, no adversary.
    pub fn memory<R>(&self, with: impl FnOnce(&mut SparseMemory) -> R) -> R {
        with(&mut self.state.lock().memory)
    }

    /// Writes memory behind the core's back, as a guest or a boot loader would.
    pub fn poke(&self, at: Pa, bytes: &[u8]) {
        self.memory(|memory| memory.write(at, bytes));
    }

    /// Reads memory behind the core's back.
    pub fn peek(&self, at: Pa, length: usize) -> Vec<u8> {
        let mut bytes = alloc::vec![0; length];
        self.memory(|memory| memory.read(at, &mut bytes));
        bytes
    }

    /// Calls `adversary` before each shared load and compare-and-exchange, until the next call of this function or of
    /// [`Self::dismiss_adversary`]. It may change memory and break the exclusive. Its own accesses are not intercepted.
    pub fn set_adversary(
        &self,
        adversary: impl FnMut(&mut SparseMemory, SharedAccess) -> Interference + Send + 'static,
    ) {
        self.state.lock().adversary = Some(Box::new(adversary));
    }

    /// Lets shared accesses alone again.
    pub fn dismiss_adversary(&self) {
        self.state.lock().adversary = None;
    }

    /// Takes the log so far and starts a new one.
    pub fn take_log(&self) -> Vec<Operation> {
        core::mem::take(&mut self.state.lock().log)
    }

    /// Takes the events so far, each with the pCPU that recorded it.
    pub fn take_trace(&self) -> Vec<(PcpuId, trace::Event)> {
        core::mem::take(&mut self.state.lock().trace)
    }

    /// Forgets the log so far.
    pub fn clear_log(&self) {
        self.state.lock().log.clear();
    }

    /// Sets the system counter.
    pub fn set_now(&self, now: Ticks) {
        self.state.lock().now = now;
    }

    /// Moves the system counter on.
    pub fn advance(&self, by: Ticks) {
        self.state.lock().now.0 += by.0;
    }

    /// How a physical SPI is set up.
    pub fn interrupt(&self, interrupt: IntId) -> InterruptConfig {
        self.state
            .lock()
            .interrupts
            .get(&interrupt.0)
            .copied()
            .unwrap_or_default()
    }

    /// Makes a register of a passed-through device hold `value`; after a write, `delay` reads still give what it held.
    pub fn set_device(&self, at: Pa, value: u32, delay: u32) {
        let register = DeviceRegister {
            value,
            delay,
            next: None,
        };
        self.state.lock().devices.insert(at.0, register);
    }

    /// Takes what the console got so far.
    pub fn take_console(&self) -> Vec<u8> {
        core::mem::take(&mut self.state.lock().console)
    }

    /// How many more bytes the console takes before it refuses.
    pub fn set_console_room(&self, bytes: usize) {
        self.state.lock().console_room = bytes;
    }

    /// Calls come from `pcpu` from now on; pCPU 0 at first.
    pub fn set_pcpu(&self, pcpu: PcpuId) {
        self.state.lock().pcpu = pcpu;
    }

    fn record(&self, operation: Operation) {
        self.state.lock().log.push(operation);
    }

    fn load(&self, at: Pa, width: u8) -> u64 {
        let mut state = self.state.lock();
        state.interfere(SharedAccess {
            kind: SharedAccessKind::Load,
            at,
            width,
        });
        state.memory.word(at, width)
    }

    fn store(&self, at: Pa, width: u8, value: u64) {
        let mut state = self.state.lock();
        aligned(at, width);
        state.memory.set_word(at, width, value);
        state.log.push(Operation::Store { at, width, value });
    }

    fn exchange(&self, at: Pa, width: u8, current: u64, value: u64) -> Result<u64, Contended> {
        let mut state = self.state.lock();
        let access = SharedAccess {
            kind: SharedAccessKind::CompareExchange,
            at,
            width,
        };
        if state.interfere(access) == Interference::Contend {
            return Err(Contended);
        }
        let previous = state.memory.word(at, width);
        if previous == current {
            state.memory.set_word(at, width, value);
            state.log.push(Operation::Exchanged {
                at,
                width,
                previous,
                value,
            });
        }
        Ok(previous)
    }
}

impl State {
    fn interfere(&mut self, access: SharedAccess) -> Interference {
        aligned(access.at, access.width);
        match &mut self.adversary {
            Some(adversary) => adversary(&mut self.memory, access),
            None => Interference::None,
        }
    }
}

fn aligned(at: Pa, width: u8) {
    assert!(
        at.is_aligned(u64::from(width)),
        "a word of {width} bytes at {at} is not aligned"
    );
}

fn interrupt_is_spi(interrupt: IntId) {
    assert!(interrupt.is_spi(), "{interrupt:?} is no SPI");
}

impl PhysicalMemory for FakeMachine {
    fn read(&self, at: Pa, into: &mut [u8]) {
        self.state.lock().memory.read(at, into);
    }
    fn write(&self, at: Pa, from: &[u8]) {
        let mut state = self.state.lock();
        state.memory.write(at, from);
        state.log.push(Operation::Write {
            at,
            length: from.len() as u64,
        });
    }
    fn zero(&self, at: Pa, length: u64) {
        let mut state = self.state.lock();
        state.memory.zero(at, length);
        state.log.push(Operation::Zero { at, length });
    }
    fn load_u8(&self, at: Pa) -> u8 {
        self.load(at, 1) as u8
    }
    fn load_u32(&self, at: Pa) -> u32 {
        self.load(at, 4) as u32
    }
    fn load_u64(&self, at: Pa) -> u64 {
        self.load(at, 8)
    }
    fn store_u8(&self, at: Pa, value: u8) {
        self.store(at, 1, value.into());
    }
    fn store_u32(&self, at: Pa, value: u32) {
        self.store(at, 4, value.into());
    }
    fn store_u64(&self, at: Pa, value: u64) {
        self.store(at, 8, value);
    }
    fn try_compare_exchange_u32(&self, at: Pa, current: u32, new: u32) -> Result<u32, Contended> {
        self.exchange(at, 4, current.into(), new.into())
            .map(|previous| previous as u32)
    }
    fn try_compare_exchange_u64(&self, at: Pa, current: u64, new: u64) -> Result<u64, Contended> {
        self.exchange(at, 8, current, new)
    }
    fn clean_to_coherency(&self, at: Pa, length: u64) {
        self.memory(|memory| memory.check(at, length));
        self.record(Operation::CleanToCoherency { at, length });
    }
    fn synchronise_instructions(&self, at: Pa, length: u64) {
        self.memory(|memory| memory.check(at, length));
        self.record(Operation::SynchroniseInstructions { at, length });
    }
}

impl Machine for FakeMachine {
    fn now(&self) -> Ticks {
        self.state.lock().now
    }
    fn kick(&self, pcpu: PcpuId) {
        self.record(Operation::Kick(pcpu));
    }
    fn complete_stores(&self) {
        self.record(Operation::CompleteStores);
    }
    fn publish_tables(&self) {
        self.record(Operation::PublishTables);
    }
    fn invalidate_page(&self, vmid: Vmid, root: Pa, page: Ipa) {
        assert_eq!(page.page_offset(), 0, "{page} is no page");
        self.record(Operation::InvalidatePage { vmid, root, page });
    }
    fn invalidate_all(&self, vmid: Vmid, root: Pa) {
        self.record(Operation::InvalidateAll { vmid, root });
    }
    fn enable_interrupt(&self, interrupt: IntId, enabled: bool) {
        interrupt_is_spi(interrupt);
        let mut state = self.state.lock();
        state.interrupts.entry(interrupt.0).or_default().enabled = enabled;
        state.log.push(Operation::EnableInterrupt(interrupt, enabled));
    }
    fn configure_interrupt(&self, interrupt: IntId, edge: bool) {
        interrupt_is_spi(interrupt);
        let mut state = self.state.lock();
        let config = state.interrupts.entry(interrupt.0).or_default();
        // Changing the trigger of an enabled interrupt is unpredictable (GICv3 specification, GICD_ICFGR<n>).
        assert!(
            !config.enabled || config.edge == edge,
            "{interrupt:?} changes its trigger while enabled"
        );
        config.edge = edge;
        state.log.push(Operation::ConfigureInterrupt(interrupt, edge));
    }
    fn route_interrupt(&self, interrupt: IntId, pcpu: PcpuId) {
        interrupt_is_spi(interrupt);
        let mut state = self.state.lock();
        state.interrupts.entry(interrupt.0).or_default().route = Some(pcpu);
        state.log.push(Operation::RouteInterrupt(interrupt, pcpu));
    }
    fn reset_interrupt(&self, interrupt: IntId) {
        interrupt_is_spi(interrupt);
        let mut state = self.state.lock();
        state.interrupts.entry(interrupt.0).or_default().enabled = false;
        state.log.push(Operation::ResetInterrupt(interrupt));
    }
    fn read_device(&self, at: Pa) -> u32 {
        let mut state = self.state.lock();
        let Some(register) = state.devices.get_mut(&at.0) else {
            return 0;
        };
        if let Some(next) = register.next {
            match register.delay.checked_sub(1) {
                Some(left) => register.delay = left,
                None => {
                    register.value = next;
                    register.next = None;
                }
            }
        }
        register.value
    }
    fn write_device(&self, at: Pa, value: u32) {
        let mut state = self.state.lock();
        if let Some(register) = state.devices.get_mut(&at.0) {
            register.next = Some(value);
        }
        state.log.push(Operation::WriteDevice { at, value });
    }
    fn current_pcpu(&self) -> PcpuId {
        self.state.lock().pcpu
    }
    fn trace(&self, kind: trace::Kind, vcpu: VcpuId, argument: u32) {
        let mut state = self.state.lock();
        let event = trace::Event {
            time: state.now.0,
            kind,
            vcpu: Some(vcpu),
            argument,
        };
        let pcpu = state.pcpu;
        state.trace.push((pcpu, event));
    }
    fn traced(&self, pcpu: PcpuId, back: usize) -> Option<trace::Event> {
        let state = self.state.lock();
        let own = state.trace.iter().rev().filter(|(recorder, _)| *recorder == pcpu);
        own.map(|(_, event)| *event).nth(back)
    }
    fn console_room(&self) -> usize {
        self.state.lock().console_room
    }
    fn console_write(&self, bytes: &[u8]) -> usize {
        let mut state = self.state.lock();
        let taken = bytes.get(..state.console_room).unwrap_or(bytes);
        state.console_room -= taken.len();
        state.console.extend_from_slice(taken);
        state.log.push(Operation::Console(taken.into()));
        taken.len()
    }
}
