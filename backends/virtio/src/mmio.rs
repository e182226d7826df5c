//! The virtio-mmio register machine, version 2 (VIRTIO 1.3, section 4.2), around any device model.

mod configuration;
mod interrupt;
mod requests;
mod resume;

use crate::chain::Chain;
use crate::device::DeviceModel;
use crate::feature::RingFeature;
use crate::grants::AddressCounts;
use crate::memory::GuestMemory;
use crate::queue::{QUEUE_SIZE_MAX, Queue, QueueError};
use crate::state::layout::{offset as word, queue as queue_word};
use crate::state::record::{QueueRecord, Record};
use crate::state::{NoPage, StatePage};
use requests::MmioRequests;

pub use interrupt::InterruptChange;

/// Queues that one device can have.
pub const MAX_QUEUES: usize = 8;
/// Bytes that a device takes in the guest's map, unless its page is shown to the driver: then it takes the whole page.
pub const REGION_SIZE: u64 = 0x200;
/// VendorID: "PTNS".
pub const VENDOR_ID: u32 = u32::from_le_bytes(*b"PTNS");

/// Register offsets (section 4.2.2).
pub mod register {
    #![allow(missing_docs, reason = "the specification's names")]
    pub const MAGIC_VALUE: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const SHM_SEL: u64 = 0x0ac;
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    pub const SHM_LEN_HIGH: u64 = 0x0b4;
    pub const SHM_BASE_LOW: u64 = 0x0b8;
    pub const SHM_BASE_HIGH: u64 = 0x0bc;
    pub const QUEUE_RESET: u64 = 0x0c0;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

/// Status bits (section 2.1).
pub mod status {
    #![allow(missing_docs, reason = "the specification's names")]
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const DEVICE_NEEDS_RESET: u32 = 64;
    pub const FAILED: u32 = 128;
    /// Every bit that exists.
    pub(crate) const ALL: u32 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | DEVICE_NEEDS_RESET | FAILED;
}

/// InterruptStatus: buffers were used.
pub const INTERRUPT_USED: u32 = 1;
/// InterruptStatus: the configuration changed, or the device needs a reset.
pub const INTERRUPT_CONFIG: u32 = 2;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");

/// A device model behind virtio-mmio registers.
///
/// The owner passes register accesses to [`Self::read`] and [`Self::write`], calls [`Self::process`] while
/// [`Self::has_work`], and raises the device's interrupt whenever [`Self::take_interrupt`] says so.
///
/// With a state page (`P`), every change is stored there before the access is answered or the driver sees it, and
/// [`Self::resume`] goes on from it.
#[derive(Debug)]
pub struct MmioDevice<D, P = NoPage> {
    model: D,
    record: Record<P>,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    queues: [Queue; MAX_QUEUES],
    status: u32,
    interrupt_status: u32,
    config_generation: u32,
    interrupt: bool,
    /// What the word of a device that is accelerated does not say yet.
    change: InterruptChange,
    fault: Option<QueueError>,
    /// It goes on where a predecessor died, and the driver is to be interrupted as it may have missed an interrupt.
    resumed: bool,
    /// The configuration space is not what a predecessor told the driver of.
    untold: bool,
    /// Those of the transport and the rings.
    ring_features: RingFeature,
    /// Buffers that the driver has named since power-on.
    addresses: AddressCounts,
    /// The driver stopped a queue whose rings may still be held.
    stopped: bool,
}

impl<D: DeviceModel<Request = Chain>> MmioDevice<D> {
    /// The device as after power-on.
    pub fn new(model: D) -> Self {
        Self::power_on(model, NoPage)
    }
}

impl<D: DeviceModel<Request = Chain>, P: StatePage> MmioDevice<D, P> {
    fn power_on(model: D, page: P) -> Self {
        Self {
            model,
            record: Record(page),
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            queues: core::array::from_fn(|_| Queue::default()),
            status: 0,
            interrupt_status: 0,
            config_generation: 0,
            interrupt: false,
            change: InterruptChange::default(),
            fault: None,
            resumed: false,
            untold: false,
            ring_features: RingFeature::all(),
            addresses: AddressCounts::default(),
            stopped: false,
        }
    }

    fn forget_registers(&mut self) {
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
        self.interrupt_status = 0;
    }

    /// All as after power-on, and so the page. The status first: from then on nothing else matters.
    fn store_reset(&mut self) {
        self.status = 0;
        self.record.store(word::STATUS, 0);
        self.forget_registers();
        for offset in [
            word::INTERRUPT_STATUS,
            word::DEVICE_FEATURES_SEL,
            word::DRIVER_FEATURES_SEL,
            word::DRIVER_FEATURES,
            word::DRIVER_FEATURES + 4,
            word::QUEUE_SEL,
        ] {
            self.record.store(offset, 0);
        }
        let queues = self.queue_count();
        for (index, queue) in self.queues.iter_mut().enumerate().take(queues) {
            queue.reset(&self.record.queue(index));
        }
        self.store_header();
    }

    /// The model.
    pub fn model(&self) -> &D {
        &self.model
    }
    /// The Status register.
    pub fn status(&self) -> u32 {
        self.status
    }
    /// Why the device needs a reset, said once.
    pub fn take_fault(&mut self) -> Option<QueueError> {
        self.fault.take()
    }
    /// The buffers that the driver has named since power-on.
    pub fn addresses(&self) -> AddressCounts {
        self.addresses
    }
    /// Whether [`Self::process`] has anything to do.
    pub fn has_work(&self) -> bool {
        self.resumed || self.model.is_busy() || (self.is_running() && self.queues.iter().any(Queue::may_have_work))
    }

    fn is_running(&self) -> bool {
        self.status & (status::DRIVER_OK | status::DEVICE_NEEDS_RESET) == status::DRIVER_OK
    }

    fn features(&self) -> u64 {
        self.model.features() | self.ring_features.bits()
    }

    fn queue_count(&self) -> usize {
        usize::from(self.model.queues()).min(MAX_QUEUES)
    }

    fn selected_queue(&mut self) -> Option<(&mut Queue, QueueRecord<'_, P>)> {
        let index = self.queue_sel as usize;
        let queue = self
            .queues
            .get_mut(index)
            .filter(|_| index < usize::from(self.model.queues()))?;
        Some((queue, self.record.queue(index)))
    }

    fn set_status(&mut self, bits: u32) {
        self.status |= bits;
        self.record.store(word::STATUS, self.status);
    }

    fn needs_reset(&mut self, fault: Option<QueueError>) {
        self.fault = fault;
        self.set_status(status::DEVICE_NEEDS_RESET);
        if self.status & status::DRIVER_OK != 0 {
            self.set_interrupt(INTERRUPT_CONFIG);
        }
    }

    fn reset(&mut self) {
        self.model.reset();
        self.store_reset();
        self.interrupt = false;
        self.change = InterruptChange::reset();
        self.fault = None;
        self.resumed = false;
        self.untold = false;
        self.stopped = true;
    }

    /// Gives the rings of stopped queues back to the driver. To be called before a register write is answered: the driver
    /// may use that memory for something else from then on.
    pub fn give_back<M: GuestMemory>(&mut self, memory: &M) {
        if core::mem::take(&mut self.stopped) {
            for queue in &mut self.queues {
                queue.give_back(memory);
            }
        }
    }

    /// A read of `size` bytes at `offset`. Registers are 32 bits wide and read as zero otherwise; the configuration
    /// space takes any size up to 8.
    pub fn read(&mut self, offset: u64, size: u8) -> u64 {
        if let Some(offset) = offset.checked_sub(register::CONFIG) {
            let mut bytes = [0; 8];
            if let (Ok(offset), Some(bytes)) = (usize::try_from(offset), bytes.get_mut(..usize::from(size))) {
                self.model.read_config(offset, bytes);
            }
            return u64::from_le_bytes(bytes);
        }
        if size != 4 {
            return 0;
        }
        let value = match offset {
            register::MAGIC_VALUE => MAGIC,
            register::VERSION => 2,
            register::DEVICE_ID => self.model.device_id(),
            register::VENDOR_ID => VENDOR_ID,
            register::DEVICE_FEATURES => half(self.features(), self.device_features_sel),
            register::QUEUE_NUM_MAX => self.selected_queue().map_or(0, |_| QUEUE_SIZE_MAX.into()),
            register::QUEUE_READY => self.selected_queue().is_some_and(|(queue, _)| queue.is_ready()).into(),
            register::INTERRUPT_STATUS => self.interrupt_status,
            register::STATUS => self.status,
            // No shared memory region: length and address read as -1 (section 4.2.2).
            register::SHM_LEN_LOW | register::SHM_LEN_HIGH | register::SHM_BASE_LOW | register::SHM_BASE_HIGH => !0,
            register::CONFIG_GENERATION => self.config_generation,
            _ => 0,
        };
        value.into()
    }

    /// A write of `size` bytes at `offset`. What is not a 32-bit write to a writable register is ignored.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) {
        if size != 4 {
            return;
        }
        let value = value as u32;
        match offset {
            register::DEVICE_FEATURES_SEL => {
                self.device_features_sel = value;
                self.record.store(word::DEVICE_FEATURES_SEL, value);
            }
            register::DRIVER_FEATURES_SEL => {
                self.driver_features_sel = value;
                self.record.store(word::DRIVER_FEATURES_SEL, value);
            }
            register::DRIVER_FEATURES if self.status & status::FEATURES_OK == 0 => {
                set_half(&mut self.driver_features, self.driver_features_sel, value);
                self.record
                    .store_half(word::DRIVER_FEATURES, self.driver_features_sel, value);
            }
            register::QUEUE_SEL => {
                self.queue_sel = value;
                self.record.store(word::QUEUE_SEL, value);
            }
            register::QUEUE_NUM => self.set_up_queue(|queue, record| {
                queue.size = value;
                record.store(queue_word::SIZE, value);
            }),
            register::QUEUE_DESC_LOW | register::QUEUE_DESC_HIGH => {
                let half = u32::from(offset == register::QUEUE_DESC_HIGH);
                self.set_up_queue(|queue, record| {
                    set_half(&mut queue.descriptors, half, value);
                    record.store_half(queue_word::DESCRIPTORS, half, value);
                });
            }
            register::QUEUE_DRIVER_LOW | register::QUEUE_DRIVER_HIGH => {
                let half = u32::from(offset == register::QUEUE_DRIVER_HIGH);
                self.set_up_queue(|queue, record| {
                    set_half(&mut queue.driver, half, value);
                    record.store_half(queue_word::DRIVER, half, value);
                });
            }
            register::QUEUE_DEVICE_LOW | register::QUEUE_DEVICE_HIGH => {
                let half = u32::from(offset == register::QUEUE_DEVICE_HIGH);
                self.set_up_queue(|queue, record| {
                    set_half(&mut queue.device, half, value);
                    record.store_half(queue_word::DEVICE, half, value);
                });
            }
            register::QUEUE_READY => self.write_queue_ready(value),
            register::QUEUE_NOTIFY => self.notify(value),
            register::INTERRUPT_ACK => self.clear_interrupt(value),
            register::STATUS => self.write_status(value),
            _ => {}
        }
    }

    /// The driver rang for queue `queue`, by QueueNotify or by a doorbell.
    pub fn notify(&mut self, queue: u32) {
        if let Some(queue) = self.queues.get_mut(queue as usize) {
            queue.notify();
        }
    }

    /// A queue's registers are the driver's only while the queue is not ready (section 4.2.3.2).
    fn set_up_queue(&mut self, set: impl FnOnce(&mut Queue, &QueueRecord<'_, P>)) {
        if let Some((queue, record)) = self.selected_queue().filter(|(queue, _)| !queue.is_ready()) {
            set(queue, &record);
        }
    }

    fn write_queue_ready(&mut self, value: u32) {
        let accepted = RingFeature::from_bits_truncate(self.driver_features);
        let Some((queue, record)) = self.selected_queue() else {
            return;
        };
        if value & 1 == 0 {
            queue.disable(&record);
            self.stopped = true;
        } else if !queue.is_ready() {
            let event_idx = accepted.contains(RingFeature::EVENT_IDX);
            let indirect = accepted.contains(RingFeature::INDIRECT_DESC);
            if let Err(error) = queue.enable(event_idx, indirect, &record) {
                self.needs_reset(Some(error));
            }
        }
    }

    fn write_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        // Who zeroed the page meanwhile, for a guest that starts anew, left a page that says nothing.
        self.store_header();
        let driver_bits = status::ACKNOWLEDGE | status::DRIVER | status::FAILED;
        let mut bits = value & driver_bits;
        if value & status::FEATURES_OK != 0 {
            let unknown = self.driver_features & !self.features();
            if unknown == 0 && self.driver_features & RingFeature::VERSION_1.bits() != 0 {
                bits |= status::FEATURES_OK;
            }
        }
        let starts = value & !self.status & status::DRIVER_OK != 0 && (self.status | bits) & status::FEATURES_OK != 0;
        if starts {
            bits |= status::DRIVER_OK;
        }
        if starts && self.status & status::DEVICE_NEEDS_RESET != 0 {
            // Before the status: whoever is to do this again after that does not see that the driver starts.
            self.set_interrupt(INTERRUPT_CONFIG);
        }
        self.set_status(bits);
        if starts {
            self.model.activate(self.driver_features);
        }
    }

    /// Goes on with requests, takes new ones, and finds out whether the driver wants an interrupt. True if it got any
    /// further: then it may at once get further still.
    pub fn process<M: GuestMemory>(&mut self, memory: &M) -> bool {
        if core::mem::take(&mut self.resumed) {
            self.announce();
        }
        self.give_back(memory);
        let running = self.is_running();
        let mut requests = MmioRequests {
            queues: &mut self.queues,
            record: &self.record,
            memory,
            addresses: &mut self.addresses,
            running,
            used: false,
            failure: None,
        };
        let progress = self.model.process(&mut requests);
        let MmioRequests { used, mut failure, .. } = requests;
        let mut interrupt = false;
        if used {
            for queue in self.queues.iter_mut().filter(|queue| queue.is_ready()) {
                match queue.wants_interrupt(memory) {
                    Ok(false) => {}
                    Ok(true) => interrupt = true,
                    Err(error) => failure = Some(Some(error)),
                }
            }
        }
        if interrupt {
            self.set_interrupt(INTERRUPT_USED);
        }
        if let Some(fault) = failure {
            self.needs_reset(fault);
        }
        progress
    }
}

fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, select: u32, half: u32) {
    match select {
        0 => *value = *value & !0xffff_ffff | u64::from(half),
        1 => *value = *value & 0xffff_ffff | u64::from(half) << 32,
        _ => {}
    }
}
