//! (to be written)
#![no_std]
#![no_main]

static A: [fn() -> !; 2] = [start, start];

fn start() -> ! {
    loop {}
}

/// The entry.
#[unsafe(no_mangle)]
pub fn _start(i: usize) -> ! {
    A[i]()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
