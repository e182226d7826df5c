//! Device registers by address.
//!
//! Loads are load-acquires: on a Cortex-A57 with erratum 832075 others could hang the CPU.

use portunus::registers::DeviceRegisters;

/// A block of device registers, mapped for the hypervisor's life.
#[derive(Copy, Clone, Debug)]
pub struct Registers(usize);

impl Registers {
    /// The block at `base`.
    ///
    /// # Safety
    /// Stage 1 maps the block as Device memory for good, and the offsets used with it stay inside.
    pub(crate) const unsafe fn new(base: usize) -> Self {
        Self(base)
    }

    /// Where the block begins.
    pub(crate) const fn base(self) -> usize {
        self.0
    }

    /// Reads the word at `offset`.
    #[inline]
    pub(crate) fn read(self, offset: usize) -> u32 {
        let value: u32;
        // SAFETY: `new`'s promise. One load of a general register, which a hypervisor above can emulate too.
        unsafe {
            core::arch::asm!("ldar {:w}, [{}]", out(reg) value, in(reg) self.0 + offset, options(nostack, preserves_flags));
        }
        value
    }

    /// Writes the word at `offset`.
    #[inline]
    pub(crate) fn write(self, offset: usize, value: u32) {
        // SAFETY: as `read`.
        unsafe {
            core::arch::asm!("str {:w}, [{}]", in(reg) value, in(reg) self.0 + offset, options(nostack, preserves_flags));
        }
    }

    /// Reads the doubleword at `offset`.
    pub(crate) fn read_u64(self, offset: usize) -> u64 {
        let value: u64;
        // SAFETY: as `read`.
        unsafe {
            core::arch::asm!("ldar {}, [{}]", out(reg) value, in(reg) self.0 + offset, options(nostack, preserves_flags));
        }
        value
    }

    /// Writes the doubleword at `offset`.
    pub(crate) fn write_u64(self, offset: usize, value: u64) {
        // SAFETY: as `read`.
        unsafe {
            core::arch::asm!("str {}, [{}]", in(reg) value, in(reg) self.0 + offset, options(nostack, preserves_flags));
        }
    }
}

/// An access of each width, by an instruction that a hypervisor above can emulate too.
macro_rules! access {
    ($read:ident, $write:ident, $type:ty, $load:literal, $store:literal) => {
        #[inline]
        fn $read(&self, offset: usize) -> $type {
            let value: u32;
            // SAFETY: `new`'s promise.
            unsafe {
                core::arch::asm!(concat!($load, " {:w}, [{}]"), out(reg) value, in(reg) self.0 + offset, options(nostack, preserves_flags));
            }
            value as $type
        }
        #[inline]
        fn $write(&self, offset: usize, value: $type) {
            // SAFETY: `new`'s promise.
            unsafe {
                core::arch::asm!(concat!($store, " {:w}, [{}]"), in(reg) u32::from(value), in(reg) self.0 + offset, options(nostack, preserves_flags));
            }
        }
    };
}

impl DeviceRegisters for Registers {
    access!(read_u8, write_u8, u8, "ldarb", "strb");
    access!(read_u16, write_u16, u16, "ldarh", "strh");
    access!(read_u32, write_u32, u32, "ldar", "str");
}
