//! The last words of a hypervisor that cannot go on: an exception at EL2, or a panic.
//!
//! The first line begins with `EPITAPH`. Addresses inside the Image are printed relative to its start, so that the ELF
//! file resolves them. The record under the symbol `portunus_epitaph` holds the same registers for a debugger. Output is
//! polled and takes no lock.

use crate::console::LastWords;
use crate::{console, layout, pcpu, power, trace};
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use portunus::ids::MAX_PCPUS;

/// The registers of an exception at EL2, as the vector stores them.
#[derive(Copy, Clone, Debug)]
#[repr(C)]
pub(crate) struct Registers {
    x: [u64; 31],
    sp: u64,
    elr: u64,
    spsr: u64,
    esr: u64,
    far: u64,
}

/// What a debugger finds: whether there was an end, and where.
#[repr(C)]
struct Record {
    happened: AtomicBool,
    elr: AtomicU64,
    esr: AtomicU64,
    far: AtomicU64,
    sp: AtomicU64,
}

#[unsafe(export_name = "portunus_epitaph")]
static RECORD: Record = Record {
    happened: AtomicBool::new(false),
    elr: AtomicU64::new(0),
    esr: AtomicU64::new(0),
    far: AtomicU64::new(0),
    sp: AtomicU64::new(0),
};

/// How many of the pCPU's last trace events are printed.
const EVENTS: usize = 12;
/// The most return addresses that are printed.
const BACKTRACE: usize = 16;

/// Whether some pCPU writes an epitaph: the others stop where they are.
pub(crate) fn happened() -> bool {
    RECORD.happened.load(Ordering::Relaxed)
}

/// Makes the executing pCPU the one that writes the epitaph; another that comes later stops here, so that the first one's
/// words are whole. Whatever failed may fail again in the epitaph: each time one more thing is left out.
fn begin() {
    static WRITER: AtomicU64 = AtomicU64::new(0);
    static TIMES: AtomicU64 = AtomicU64::new(0);
    let own = pcpu::this().map_or(0, |pcpu| u64::from(pcpu.id().0)) + 1;
    match WRITER.compare_exchange(0, own, Ordering::AcqRel, Ordering::Acquire) {
        Err(writer) if writer != own => power::halt(),
        _ => {}
    }
    match TIMES.fetch_add(1, Ordering::Relaxed) {
        0 => {}
        1 => power::end(1),
        2 => power::off(),
        _ => power::halt(),
    }
}

/// An exception at EL2. `kind` is its vector: synchronous, IRQ, FIQ, SError.
pub(crate) extern "C" fn fatal_exception(kind: u64, registers: &Registers) -> ! {
    begin();
    RECORD.elr.store(registers.elr, Ordering::Relaxed);
    RECORD.esr.store(registers.esr, Ordering::Relaxed);
    RECORD.far.store(registers.far, Ordering::Relaxed);
    RECORD.sp.store(registers.sp, Ordering::Relaxed);
    RECORD.happened.store(true, Ordering::Release);
    console::flush();
    // LastWords never fails.
    let _ = tell_exception(&mut LastWords, kind, registers);
    power::end(1)
}

fn tell_exception(out: &mut impl Write, kind: u64, registers: &Registers) -> fmt::Result {
    let name = match kind {
        0 => "synchronous exception",
        1 => "IRQ",
        2 => "FIQ",
        _ => "SError",
    };
    writeln!(out, "\nEPITAPH pCPU {}: {name} at EL2", Number)?;
    writeln!(out, "esr {:#x}: {}", registers.esr, Words(registers.esr))?;
    let overflow = if in_guard(registers.far) {
        " (a stack's guard page: overflow)"
    } else {
        ""
    };
    writeln!(out, "far {:#018x}{overflow}", registers.far)?;
    writeln!(out, "pc  {:#018x} {}", registers.elr, Symbol(registers.elr))?;
    writeln!(out, "lr  {:#018x} {}", registers.x[30], Symbol(registers.x[30]))?;
    writeln!(out, "sp  {:#018x} pstate {:#x}", registers.sp, registers.spsr)?;
    for (index, pair) in registers.x[..30].chunks(3).enumerate() {
        for (offset, value) in pair.iter().enumerate() {
            write!(out, "x{:<2} {value:#018x}  ", index * 3 + offset)?;
        }
        writeln!(out)?;
    }
    backtrace(out, registers.sp)?;
    last_events(out)
}

/// What the pCPU did last, as the trace has it.
fn last_events(out: &mut impl Write) -> fmt::Result {
    let Some(pcpu) = pcpu::this() else { return Ok(()) };
    writeln!(out, "last events of pCPU {}:", pcpu.id().0)?;
    trace::tell_last(out, pcpu, EVENTS)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let sp: u64;
    // SAFETY: reads the stack pointer.
    unsafe { core::arch::asm!("mov {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    begin();
    RECORD.happened.store(true, Ordering::Release);
    RECORD.sp.store(sp, Ordering::Relaxed);
    console::flush();
    // LastWords never fails.
    let _ = writeln!(LastWords, "\nEPITAPH pCPU {}: {info}", Number);
    let _ = backtrace(&mut LastWords, sp);
    let _ = last_events(&mut LastWords);
    power::end(1)
}

/// The executing pCPU's number.
struct Number;

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match pcpu::this() {
            Some(pcpu) => write!(f, "{}", pcpu.id().0),
            None => f.write_str("0 (early)"),
        }
    }
}

/// An address relative to the Image, if it is inside.
struct Symbol(u64);

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = layout::image();
        if image.contains(&(self.0 as usize)) {
            write!(f, "image+{:#x}", self.0 - image.start as u64)
        } else {
            f.write_str("(outside)")
        }
    }
}

/// ESR_EL2 in words (Arm ARM, D24.2.40), as far as EL2 itself can cause it.
struct Words(u64);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = self.0 >> 26 & 0x3f;
        f.write_str(match class {
            0x00 => "unknown reason (undefined instruction)",
            0x07 => "FP or SIMD used",
            0x0e => "illegal execution state",
            0x16 => "HVC",
            0x17 => "SMC",
            0x18 => "system register trapped",
            0x20 | 0x21 => "instruction abort",
            0x22 => "PC not aligned",
            0x24 | 0x25 => "data abort",
            0x26 => "SP not aligned",
            0x2f => "SError",
            0x3c => "BRK",
            _ => "other class",
        })?;
        if matches!(class, 0x20 | 0x21 | 0x24 | 0x25) {
            if class >= 0x24 {
                f.write_str(if self.0 & 1 << 6 != 0 {
                    " on a write"
                } else {
                    " on a read"
                })?;
            }
            let status = self.0 & 0x3f;
            f.write_str(match status >> 2 {
                0 => ", address size fault",
                1 => ", translation fault",
                2 => ", access flag fault",
                3 => ", permission fault",
                _ if status == 0x10 => ", external abort",
                _ if status == 0x21 => ", alignment fault",
                _ => ", other fault",
            })?;
            if status < 0x10 {
                write!(f, " at level {}", status & 3)?;
            }
        }
        Ok(())
    }
}

fn in_guard(address: u64) -> bool {
    let address = address as usize;
    (layout::stacks_start()..layout::stacks_end()).contains(&address)
        && (0..MAX_PCPUS).all(|pcpu| {
            !layout::main_stack(pcpu).contains(&address) && !layout::exception_stack(pcpu).contains(&address)
        })
}

/// Prints what looks like return addresses on the stack that `sp` is in, or has run out of: words that point behind a
/// call in the Image's code. Without frame pointers a few may be left over from calls that are done.
fn backtrace(out: &mut impl Write, sp: u64) -> fmt::Result {
    let sp = sp as usize;
    let stacks = (0..MAX_PCPUS).flat_map(|pcpu| [layout::main_stack(pcpu), layout::exception_stack(pcpu)]);
    let Some(stack) = stacks
        .into_iter()
        .find(|stack| (stack.start - layout::GUARD..stack.end).contains(&sp))
    else {
        return writeln!(out, "sp is outside of every stack");
    };
    write!(out, "calls")?;
    let code = layout::text_start() + 4..layout::text_end();
    let first = sp.max(stack.start).next_multiple_of(8);
    let mut found = 0;
    for at in (first..stack.end).step_by(8) {
        // SAFETY: inside a stack, which is mapped for the hypervisor's life; the value is only looked at.
        let word = unsafe { (at as *const usize).read_volatile() };
        if code.contains(&word) && word & 3 == 0 {
            // SAFETY: inside the Image's code, which is mapped and never written.
            let before = unsafe { ((word - 4) as *const u32).read_volatile() };
            let is_call = before >> 26 == 0b10_0101 || before & 0xffff_fc1f == 0xd63f_0000;
            if is_call {
                write!(out, " image+{:#x}", word - 4 - layout::image_start())?;
                found += 1;
                if found == BACKTRACE {
                    break;
                }
            }
        }
    }
    writeln!(out)
}
