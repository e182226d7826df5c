//! What a driver of a serial port can do for the physical console.

/// A serial port's driver. The line's speed is the firmware's business; nothing waits.
pub trait SerialPort: Sync {
    /// Sends a byte if the port has room; says whether it did.
    fn try_send(&self, byte: u8) -> bool;
    /// Takes a received byte.
    fn try_receive(&self) -> Option<u8>;
    /// Chooses which interrupts the port raises.
    fn set_interrupts(&self, receive: bool, transmit: bool);
    /// Acknowledges every interrupt at the port, before its FIFOs are looked at.
    fn clear_interrupts(&self);
}
