//! The general registers of a trapped vCPU.

/// x0 to x30, PC and PSTATE of a vCPU that is not executing. `arch` saves and restores it by these offsets.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct GuestFrame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// ELR_EL2: where the guest goes on.
    pub pc: u64,
    /// SPSR_EL2: PSTATE when it goes on.
    pub pstate: u64,
}

impl GuestFrame {
    /// Reads Xn; 31 is the zero register.
    pub fn read(&self, register: u8) -> u64 {
        self.x.get(usize::from(register)).copied().unwrap_or(0)
    }
    /// Writes Xn; a write to 31 is discarded.
    pub fn write(&mut self, register: u8, value: u64) {
        if let Some(x) = self.x.get_mut(usize::from(register)) {
            *x = value;
        }
    }
}

const _: () = assert!(size_of::<GuestFrame>() == 33 * 8);
