//! A device's registers as its driver sees them: drivers are written against this, so that they run on the machine and,
//! in a test, on a model that looks at every access.

/// A block of registers of one device. Offsets are in bytes and naturally aligned; each access is one load or store of
/// just that width, in program order.
pub trait DeviceRegisters {
    /// Reads a register of one byte.
    fn read_u8(&self, offset: usize) -> u8;
    /// Reads a register of two bytes.
    fn read_u16(&self, offset: usize) -> u16;
    /// Reads a register of four bytes.
    fn read_u32(&self, offset: usize) -> u32;
    /// Writes a register of one byte.
    fn write_u8(&self, offset: usize, value: u8);
    /// Writes a register of two bytes.
    fn write_u16(&self, offset: usize, value: u16);
    /// Writes a register of four bytes.
    fn write_u32(&self, offset: usize, value: u32);
}
