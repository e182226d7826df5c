//! One IOREQ server for another domain: set up in the order that Xen's backends use, then requests and answers.

use alloc::vec::Vec;
use core::error::Error;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering, fence};

use portunus::abi::HypercallError;
use portunus::abi::dm_op::Features;
use portunus::abi::ioreq::{Ioreq, State};
use portunus::abi::memory::IOREQ_SERVER_FRAME_SYNCHRONOUS;

use crate::hypercall::{self, dm, memory};
use crate::window::{NoRoom, Window};

/// The synchronous page of a server: one slot a vCPU. The hypervisor writes it meanwhile.
#[derive(Copy, Clone, Debug)]
struct IoreqPage(*mut Ioreq);

/// A server.
#[derive(Debug)]
pub struct Server {
    /// The domain that it serves.
    pub domain: u16,
    /// Its number.
    pub id: u16,
    /// The local port of each vCPU of that domain; none before it is enabled.
    pub ports: Vec<u32>,
    vcpus: usize,
    page: IoreqPage,
}

/// A step of the set-up that failed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum ConnectError {
    /// A hypercall, and what it was for.
    Hypercall(&'static str, HypercallError),
    /// The slots of so many vCPUs are in more than one page.
    TooManyVcpus(u32),
    /// No addresses for the page.
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

impl From<NoRoom> for ConnectError {
    fn from(error: NoRoom) -> Self {
        Self::NoRoom(error)
    }
}

/// Says which step an error belongs to.
fn step<T>(what: &'static str, result: hypercall::Result<T>) -> Result<T, ConnectError> {
    result.map_err(|error| ConnectError::Hypercall(what, error))
}

impl Server {
    /// Makes a server for `domain` and enables it. It has no ranges yet.
    pub fn connect(domain: u16, window: &mut Window) -> Result<Self, ConnectError> {
        Self::connect_at(domain, window.take(4096)?)
    }

    /// As [`Self::connect`], with its page of requests at an address of the window: also at that of a server that was
    /// destroyed.
    pub fn connect_at(domain: u16, address: u64) -> Result<Self, ConnectError> {
        let mut server = Self::create_at(domain, address)?;
        server.enable()?;
        Ok(server)
    }

    /// Makes a server that gets no requests yet. What it attaches is shown to nobody before [`Self::enable`].
    pub fn create(domain: u16, window: &mut Window) -> Result<Self, ConnectError> {
        Self::create_at(domain, window.take(4096)?)
    }

    fn create_at(domain: u16, address: u64) -> Result<Self, ConnectError> {
        let vcpus = step("asking for its vCPUs", dm::nr_vcpus(domain))?;
        if vcpus as usize > Ioreq::PER_PAGE {
            return Err(ConnectError::TooManyVcpus(vcpus));
        }
        let id = step("creating a server", dm::create_ioreq_server(domain))?;
        // SAFETY: the caller took the frame out of the window, and only servers that are gone used it.
        let mapped = unsafe { memory::map_ioreq_page(domain, id, IOREQ_SERVER_FRAME_SYNCHRONOUS, address / 4096) };
        step("mapping its requests", mapped)?;
        Ok(Self {
            domain,
            id,
            vcpus: vcpus as usize,
            ports: Vec::new(),
            page: IoreqPage(address as *mut Ioreq),
        })
    }

    /// Lets it get requests, and listens.
    ///
    /// # Errors
    /// A step that failed.
    pub fn enable(&mut self) -> Result<(), ConnectError> {
        step(
            "enabling the server",
            dm::set_ioreq_server_state(self.domain, self.id, true),
        )?;
        for vcpu in 0..self.vcpus {
            let port = self.bind(self.page.read(vcpu).vp_eport)?;
            self.ports.push(port);
        }
        Ok(())
    }

    /// Binds and unmasks a port of the domain's that is for this server; the local one.
    ///
    /// # Errors
    /// A step that failed.
    pub fn bind(&self, port: u32) -> Result<u32, ConnectError> {
        let port = step("binding a port", hypercall::bind_interdomain(self.domain, port))?;
        step("unmasking a port", hypercall::unmask(port))?;
        Ok(port)
    }

    /// Takes over the domain's accesses to `registers`.
    pub fn claim(&self, registers: &core::ops::Range<u64>) -> Result<(), ConnectError> {
        let mapped = dm::map_io_range(self.domain, self.id, registers.start, registers.end - 1);
        step("claiming its registers", mapped)
    }

    /// What the hypervisor has beside Xen's operations: bits of [`Features`].
    ///
    /// # Errors
    /// The server is not there.
    pub fn features(&self) -> Result<u64, ConnectError> {
        match dm::features(self.domain, self.id) {
            Err(HypercallError::NotSupported | HypercallError::NotImplemented) => Ok(0),
            features => step("asking for the hypervisor's features", features),
        }
    }

    /// Maps the state page of the device at `device` at `address` of the window. `false`: the hypervisor has no state pages,
    /// or none of this device; the device is served without.
    ///
    /// # Safety
    /// Nothing uses the page at `address`, and nothing but the device's state ever will.
    ///
    /// # Errors
    /// A step that failed for another reason.
    pub unsafe fn map_state_page(&self, device: u64, address: u64) -> Result<bool, ConnectError> {
        if self.features()? & Features::STATE_PAGE == 0 {
            return Ok(false);
        }
        let frame = match dm::state_page(self.domain, self.id, device) {
            Err(HypercallError::NotSupported) => return Ok(false),
            frame => step("asking for a state page", frame)?,
        };
        // SAFETY: the caller gives the page.
        let mapped = unsafe { memory::map_ioreq_page(self.domain, self.id, frame, address / 4096) };
        step("mapping a state page", mapped)?;
        Ok(true)
    }

    /// The request in a vCPU's slot, if one is ready; it is marked as in work.
    pub fn take(&self, vcpu: usize) -> Option<Ioreq> {
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
    pub fn answer(&self, vcpu: usize, value: u64) {
        self.page.write_data(vcpu, value);
        self.tell(vcpu, State::IORESP_READY);
    }

    /// Puts a state into a vCPU's slot and sends its event: also for tests, with states that are wrong or do not exist.
    pub fn tell(&self, vcpu: usize, state: State) {
        let flags = self.page.flags(vcpu);
        let before = flags.load(Ordering::Relaxed);
        flags.store(before & !Ioreq::STATE_MASK | state.0, Ordering::Release);
        fence(Ordering::SeqCst);
        if let Some(port) = self.ports.get(vcpu) {
            // A guest that is gone does not wait.
            let _ = hypercall::send(*port);
        }
    }

    /// Where the page of requests is.
    pub fn address(&self) -> u64 {
        self.page.0 as u64
    }

    /// Overwrites the page of requests: for tests.
    pub fn scribble(&self, mut word: impl FnMut() -> u64) {
        for index in 0..4096 / 8 {
            // SAFETY: within the page, aligned; whoever else reads it expects anything.
            unsafe { self.page.0.cast::<u64>().wrapping_add(index).write_volatile(word()) };
        }
    }

    /// Destroys the server, as a backend does that ends in an orderly way: ports first. Its page stays mapped.
    ///
    /// # Errors
    /// A step that failed; the others were done.
    pub fn destroy(&self) -> Result<(), ConnectError> {
        let mut result = Ok(());
        for port in &self.ports {
            result = result.and(step("closing a port", hypercall::close(*port)));
        }
        result.and(step(
            "destroying the server",
            dm::destroy_ioreq_server(self.domain, self.id),
        ))
    }
}

impl IoreqPage {
    fn slot(self, vcpu: usize) -> *mut Ioreq {
        assert!(vcpu < Ioreq::PER_PAGE);
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
