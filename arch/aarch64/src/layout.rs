//! Where the linker script (`linker/image.ld`) put the parts of the Image, and how a pCPU's stacks are cut.
//!
//! A pCPU's stride of the stack area is: guard page, exception stack, guard page, main stack. The exception stack is
//! used by the epitaph alone, so that the overflow of the main stack can still be told.

use core::ops::Range;
use portunus::ids::MAX_PCPUS;

/// Bytes of the stack area for each pCPU. Assembling the core moves large values by way of the stack; traps need little.
pub(crate) const STACK_STRIDE: usize = 0x40000;
/// Bytes of a guard page, never mapped.
pub(crate) const GUARD: usize = 0x1000;
/// Bytes of the exception stack.
pub(crate) const EXCEPTION_STACK: usize = 0x3000;
/// Offset of the main stack's lowest byte in the stride.
const MAIN_STACK: usize = GUARD + EXCEPTION_STACK + GUARD;

macro_rules! linker_symbols {
    ($($name:ident)*) => {
        mod symbols {
            unsafe extern "C" { $(pub(super) static $name: u8;)* }
        }
        $(
            #[doc = concat!("The address of the linker's `", stringify!($name), "`.")]
            #[inline]
            pub(crate) fn $name() -> usize {
                &raw const symbols::$name as usize
            }
        )*
    };
}

linker_symbols! {
    image_start text_start text_end rodata_start rodata_end relro_start relro_end data_start bss_end stacks_start
    stacks_end heap_start heap_end image_end
}

/// Every byte that the Image occupies, its zeroed and reserved parts too.
pub(crate) fn image() -> Range<usize> {
    image_start()..image_end()
}

/// The exception stack of the pCPU with this index.
pub(crate) fn exception_stack(index: usize) -> Range<usize> {
    let start = stacks_start() + index * STACK_STRIDE + GUARD;
    start..start + EXCEPTION_STACK
}

/// The main stack of the pCPU with this index.
pub(crate) fn main_stack(index: usize) -> Range<usize> {
    let base = stacks_start() + index * STACK_STRIDE;
    base + MAIN_STACK..base + STACK_STRIDE
}

/// Whether the linker script reserved a stride for each pCPU.
pub(crate) fn stacks_suffice() -> bool {
    stacks_end() - stacks_start() >= MAX_PCPUS * STACK_STRIDE
}
