//! VirtIO devices, device side, that know no hypervisor: registers, queues and device models, and nothing of who maps
//! the guest's memory or who tells of a register access.
//!
//! Its seams keep it so:
//! * ring code reaches the guest's memory through [`memory::GuestMemory`] only;
//! * who grants pages of its memory instead of opening all of it is served by [`grants::GrantMemory`];
//! * a device model ([`device::DeviceModel`]) sees requests through [`device::Requests`]: bytes to read and bytes to
//!   write at offsets, never an address. Another transport needs no change in a model;
//! * all that is a hypervisor's is behind [`shim::Shim`];
//! * where the hypervisor can, the driver reads registers without it ([`accel`]);
//! * a device's state outlives its backend in a [`state::StatePage`], where there is one.
//!
//! Guarantees: no `unsafe`, no allocation, no panic and no unbounded loop that a driver can reach. Whatever a driver
//! writes into registers or rings harms its own device only: at worst the device says DEVICE_NEEDS_RESET.
//!
//! Section numbers are those of the Virtual I/O Device (VIRTIO) specification, version 1.3.
#![no_std]
#![forbid(unsafe_code)]

pub mod accel;
pub mod block;
pub mod chain;
pub mod device;
pub mod disk;
pub mod feature;
pub mod grants;
pub mod memory;
pub mod mmio;
pub mod queue;
pub mod shim;
pub mod state;
