//! One served guest: its IOREQ server, its ports, its memory, in the order that Xen's backends set them up.

use alloc::vec::Vec;
use core::error::Error;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering, fence};

use guest_runtime::hypercall::{self, dm, memory};
use portunus::abi::HypercallError;
use portunus::abi::ioreq::{Ioreq, State};
use portunus::abi::memory::IOREQ_SERVER_FRAME_SYNCHRONOUS;

use crate::config::ServedConfig;
use crate::guest_memory::{GuestRam, NoRoom};
use crate::window::Window;

/// The synchronous page of a server: one slot a vCPU. The hypervisor writes it meanwhile.
#[derive(Copy, Clone, Debug)]
struct IoreqPage(*mut Ioreq);

/// A guest that is connected.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) domain: u16,
    pub(crate) server: u16,
    pub(crate) ram: GuestRam,
    /// The local port of each vCPU.
    pub(crate) ports: Vec<u32>,
    page: IoreqPage,
}

/// A step of the set-up that failed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum ConnectError {
    Hypercall(&'static str, HypercallError),
    TooManyVcpus(u32),
    NoRoom(NoRoom),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hypercall(what, error) => write!(f, "{what}: {error}"),
            Self::TooManyVcpus(vcpus) => write!(f, "a guest of {vcpus} vCPUs"),
            Self::NoRoom(error) => error.fmt(f),
        }
    }
}

impl Error for ConnectError {}

/// Says which step an error belongs to.
pub(crate) fn step<T>(what: &'static str, result: hypercall::Result<T>) -> Result<T, ConnectError> {
    result.map_err(|error| ConnectError::Hypercall(what, error))
}

impl Guest {
    /// Makes a server for the guest and enables it. It has no ranges yet.
    pub(crate) fn connect(config: &ServedConfig, window: &mut Window) -> Result<Self, ConnectError> {
        let domain = config.guest;
        let vcpus = step("asking for its vCPUs", dm::nr_vcpus(domain))?;
        if vcpus as usize > Ioreq::PER_PAGE {
            return Err(ConnectError::TooManyVcpus(vcpus));
        }
        let address = window.take(4096).ok_or(ConnectError::NoRoom(NoRoom { bytes: 4096 }))?;
        let ram = GuestRam::new(domain, &config.guest_memory, window).map_err(ConnectError::NoRoom)?;

        let server = step("creating a server", dm::create_ioreq_server(domain))?;
        // SAFETY: the frame was just taken out of the window.
        let mapped = unsafe { memory::map_ioreq_page(domain, server, IOREQ_SERVER_FRAME_SYNCHRONOUS, address / 4096) };
        step("mapping its requests", mapped)?;
        step("enabling the server", dm::set_ioreq_server_state(domain, server, true))?;
        let page = IoreqPage(address as *mut Ioreq);
        let mut ports = Vec::new();
        for vcpu in 0..vcpus as usize {
            let port = page.read(vcpu).vp_eport;
            let port = step("binding a port", hypercall::bind_interdomain(domain, port))?;
            step("unmasking a port", hypercall::unmask(port))?;
            ports.push(port);
        }
        Ok(Self {
            domain,
            server,
            ram,
            ports,
            page,
        })
    }

    /// The request in a vCPU's slot, if one is ready; it is marked as in work.
    pub(crate) fn take(&self, vcpu: usize) -> Option<Ioreq> {
        let flags = self.page.flags(vcpu);
        let before = flags.load(Ordering::Acquire);
        if State(before & Ioreq::STATE_MASK) != State::READY {
            return None;
        }
        let request = self.page.read(vcpu);
        flags.store(before & !Ioreq::STATE_MASK | State::INPROCESS.0, Ordering::Relaxed);
        Some(request)
    }

    /// Answers the request in a vCPU's slot.
    pub(crate) fn answer(&self, vcpu: usize, value: u64) {
        self.page.write_data(vcpu, value);
        let flags = self.page.flags(vcpu);
        let before = flags.load(Ordering::Relaxed);
        flags.store(before & !Ioreq::STATE_MASK | State::IORESP_READY.0, Ordering::Release);
        fence(Ordering::SeqCst);
        if let Some(port) = self.ports.get(vcpu) {
            // A guest that is gone does not wait.
            let _ = hypercall::send(*port);
        }
    }
}

impl IoreqPage {
    fn slot(self, vcpu: usize) -> *mut Ioreq {
        debug_assert!(vcpu < Ioreq::PER_PAGE);
        self.0.wrapping_add(vcpu)
    }
    fn read(self, vcpu: usize) -> Ioreq {
        // SAFETY: the page is mapped for the domain's life, and any bytes are an `Ioreq`. Volatile: one copy, now.
        unsafe { self.slot(vcpu).read_volatile() }
    }
    fn flags(self, vcpu: usize) -> &'static AtomicU8 {
        let byte = self.slot(vcpu).cast::<u8>().wrapping_add(Ioreq::FLAGS_OFFSET as usize);
        // SAFETY: within the page, which is mapped for the domain's life.
        unsafe { AtomicU8::from_ptr(byte) }
    }
    fn write_data(self, vcpu: usize, value: u64) {
        let data = self
            .slot(vcpu)
            .cast::<u8>()
            .wrapping_add(Ioreq::DATA_OFFSET as usize)
            .cast::<u64>();
        // SAFETY: within the page, aligned.
        unsafe { data.write_volatile(value) };
    }
}
