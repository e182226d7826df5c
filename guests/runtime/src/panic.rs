//! The end of a guest that can't go on: it says why and powers off.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::exceptions::ExceptionFrame;
use crate::{println, psci};

static PANICKING: AtomicBool = AtomicBool::new(false);

/// Prints what an exception found; addresses relative to the image, as the ELF file has them, follow in brackets.
pub(crate) fn report_registers(frame: &ExceptionFrame) {
    let base = crate::entry::image().start;
    println!(
        "esr {:#x} (class {:#x}) far {:#x} elr {:#x} [{:#x}] spsr {:#x} sp {:#x}",
        frame.esr,
        frame.class(),
        frame.far,
        frame.elr,
        frame.elr.wrapping_sub(base),
        frame.spsr,
        frame.sp
    );
    for (index, pair) in frame.registers.chunks(4).enumerate() {
        for (offset, value) in pair.iter().enumerate() {
            crate::print!("x{:<2} {value:016x}  ", 4 * index + offset);
        }
        println!();
    }
    println!("x30 is [{:#x}]", frame.registers[30].wrapping_sub(base));
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if !PANICKING.swap(true, Ordering::Relaxed) {
        crate::console::break_lock();
        println!("guest panic: {info}");
    }
    psci::system_off()
}
