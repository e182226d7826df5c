//! The seam between a transport and a device model.

use crate::chain::TransferError;

/// The requests of one device, as its model sees them: bytes at offsets, no addresses, no rings.
pub trait Requests {
    /// One request; the model owns it from [`Self::take`] to [`Self::complete`] and can look inside only through this
    /// trait.
    type Request;

    /// Puts the next request of `queue` into `into`; false when there is none now.
    fn take(&mut self, queue: u16, into: &mut Self::Request) -> bool;
    /// Bytes that the driver gives.
    fn readable(&self, request: &Self::Request) -> u32;
    /// Bytes that the driver wants.
    fn writable(&self, request: &Self::Request) -> u32;
    /// Copies from the bytes that the driver gives.
    fn read(&self, request: &Self::Request, offset: u32, into: &mut [u8]) -> Result<(), TransferError>;
    /// Copies each of `parts` to the bytes that the driver wants, from its offset on.
    fn write(&self, request: &Self::Request, parts: &[(u32, &[u8])]) -> Result<(), TransferError>;
    /// Gives the request back with the number of bytes written, counted from the first writable one.
    fn complete(&mut self, request: &Self::Request, written: u32);
    /// A request that can't even be answered: the device needs a reset.
    fn fail(&mut self);
}

/// What a kind of device does.
pub trait DeviceModel {
    /// How requests reach it.
    type Request: Default;

    /// The device ID (VIRTIO 1.3, section 5).
    fn device_id(&self) -> u32;
    /// The feature bits of its kind that it offers.
    fn features(&self) -> u64;
    /// How many queues it has.
    fn queues(&self) -> u16;
    /// Copies out of its configuration space; what is beyond it reads as zero.
    fn read_config(&self, offset: usize, into: &mut [u8]);
    /// Whether the configuration space is another one than at the last call.
    fn take_configuration_change(&mut self) -> bool {
        false
    }
    /// Whether a device that a successor makes of the same things has what this one was given to keep.
    fn outlives_backend(&self) -> bool;
    /// The driver is ready and has accepted `features`.
    fn activate(&mut self, features: u64);
    /// The driver gave it up. Requests it holds are not to be answered.
    fn reset(&mut self);
    /// Goes on with the requests it holds and takes new ones, a bounded number. True if it got any further: then it may
    /// at once get further still.
    fn process<R: Requests<Request = Self::Request>>(&mut self, requests: &mut R) -> bool;
    /// Whether it holds requests that [`Self::process`] can get further with.
    fn is_busy(&self) -> bool;
}

impl<D: DeviceModel> DeviceModel for &mut D {
    type Request = D::Request;

    fn device_id(&self) -> u32 {
        (**self).device_id()
    }
    fn features(&self) -> u64 {
        (**self).features()
    }
    fn queues(&self) -> u16 {
        (**self).queues()
    }
    fn read_config(&self, offset: usize, into: &mut [u8]) {
        (**self).read_config(offset, into);
    }
    fn take_configuration_change(&mut self) -> bool {
        (**self).take_configuration_change()
    }
    fn outlives_backend(&self) -> bool {
        (**self).outlives_backend()
    }
    fn activate(&mut self, features: u64) {
        (**self).activate(features);
    }
    fn reset(&mut self) {
        (**self).reset();
    }
    fn process<R: Requests<Request = Self::Request>>(&mut self, requests: &mut R) -> bool {
        (**self).process(requests)
    }
    fn is_busy(&self) -> bool {
        (**self).is_busy()
    }
}
