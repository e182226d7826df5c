//! Device registers.

use core::arch::asm;

/// Device registers that start at an address.
#[derive(Copy, Clone, Debug)]
pub struct Registers(usize);

impl Registers {
    /// The registers at `base`.
    ///
    /// # Safety
    /// From `base` on there are device registers, identity-mapped, as far as the caller goes with offsets; and accesses to
    /// them have no effect on memory that Rust knows of.
    pub const unsafe fn new(base: usize) -> Self {
        Self(base)
    }
    /// The address of the first one.
    pub const fn base(self) -> usize {
        self.0
    }
    /// Reads the 32-bit register at `offset`.
    ///
    /// A plain LDR: the compiler could choose a form of which a hypervisor is told too little.
    pub fn read(self, offset: usize) -> u32 {
        let value: u32;
        // SAFETY: `new`'s caller vouches for the address.
        unsafe { asm!("ldr {:w}, [{}]", out(reg) value, in(reg) self.0 + offset, options(nostack, preserves_flags)) };
        value
    }
    /// Writes the 32-bit register at `offset`.
    pub fn write(self, offset: usize, value: u32) {
        // SAFETY: `new`'s caller vouches for the address.
        unsafe { asm!("str {:w}, [{}]", in(reg) value, in(reg) self.0 + offset, options(nostack, preserves_flags)) };
    }
    /// Reads the 64-bit register at `offset`.
    pub fn read_u64(self, offset: usize) -> u64 {
        let value: u64;
        // SAFETY: `new`'s caller vouches for the address.
        unsafe { asm!("ldr {}, [{}]", out(reg) value, in(reg) self.0 + offset, options(nostack, preserves_flags)) };
        value
    }
    /// Writes the 64-bit register at `offset`.
    pub fn write_u64(self, offset: usize, value: u64) {
        // SAFETY: `new`'s caller vouches for the address.
        unsafe { asm!("str {}, [{}]", in(reg) value, in(reg) self.0 + offset, options(nostack, preserves_flags)) };
    }
    /// Writes the byte at `offset`.
    pub fn write_u8(self, offset: usize, value: u8) {
        // SAFETY: `new`'s caller vouches for the address.
        unsafe { asm!("strb {:w}, [{}]", in(reg) value, in(reg) self.0 + offset, options(nostack, preserves_flags)) };
    }
}
