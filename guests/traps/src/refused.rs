//! Accesses that nobody answers, and instructions that can't be performed on a served range: an external abort at EL1, at
//! the instruction, with the address, and no register changed.

use core::fmt;

use crate::checks::Checks;
use crate::encoding::{Addressing, LoadStore, LoadStorePair, ORDERED, PAIR_FORMS, PAIRS, PairForm, SINGLES};
use crate::executor::{End, Executor, State};
use crate::{BEHIND, EIGHTH, SERVED};

/// ESR_EL1.EC: data abort, instruction abort, both from EL1 itself.
const DATA_ABORT: u64 = 0x25;
const INSTRUCTION_ABORT: u64 = 0x21;
/// Synchronous external abort (ESR_EL1.DFSC, IFSC).
const EXTERNAL: u64 = 0x10;
const WNR: u64 = 1 << 6;
/// What of ISS is looked at: ISV, FnV, CM, S1PTW, WnR, DFSC.
const ISS: u64 = 1 << 24 | 1 << 10 | 1 << 8 | 1 << 7 | WNR | 0x3f;

/// Makes the cases.
pub(crate) struct Refused<'a> {
    pub(crate) executor: &'a Executor,
    pub(crate) checks: &'a mut Checks,
}

/// What the syndrome says of the direction.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Direction {
    Read,
    Write,
    /// The architecture leaves it open.
    Any,
}

const fn direction(store: bool) -> Direction {
    if store { Direction::Write } else { Direction::Read }
}

impl Refused<'_> {
    /// Runs `word`, which must abort at address `far`.
    fn aborts(&mut self, name: fmt::Arguments<'_>, word: u32, before: &State, direction: Direction, far: u64) {
        let mut state = before.clone();
        // SAFETY: an access where nothing of this guest is.
        let end = unsafe { self.executor.step(word, &mut state) };
        let iss = match direction {
            Direction::Any => state.esr & ISS & !WNR,
            _ => state.esr & ISS,
        };
        let expected = if direction == Direction::Write {
            WNR | EXTERNAL
        } else {
            EXTERNAL
        };
        let unchanged = state.x == before.x && state.sp_el1 == before.sp_el1 && state.pstate == before.pstate;
        self.checks.check(
            name,
            end == End::Exception(DATA_ABORT) && iss == expected && state.far == far && unchanged,
            format_args!(
                "{end:?} esr {:#x} far {:#x}, not {far:#x}, registers unchanged: {unchanged}",
                state.esr, state.far
            ),
        );
    }

    /// All groups.
    pub(crate) fn run(&mut self) {
        self.nobody_there();
        self.beyond_the_end();
        self.instructions();
        self.fetches();
    }

    fn single(&mut self, where_to: &str, what: LoadStore, address: u64, far: u64) {
        let mut state = State::distinct(far);
        let before = match what.addressing {
            Addressing::PreIndex(offset) => i64::from(offset),
            Addressing::Unsigned(offset) => offset.into(),
            _ => 0,
        };
        state.set_base(what.rn, address.wrapping_sub_signed(before));
        let name = format_args!("{what} {where_to}");
        self.aborts(name, what.word(), &state, direction(what.single.is_store()), far);
    }

    fn pair(&mut self, where_to: &str, what: LoadStorePair, address: u64, far: u64) {
        let mut state = State::distinct(far);
        let before = if what.form == PairForm::PostIndex {
            0
        } else {
            what.offset
        };
        state.set_base(what.rn, address.wrapping_sub_signed(before.into()));
        let name = format_args!("{what} {where_to}");
        self.aborts(name, what.word(), &state, direction(what.pair.is_store()), far);
    }

    /// Every shape at an address that no device has.
    fn nobody_there(&mut self) {
        let (there, address) = ("where nobody is", BEHIND);
        for single in SINGLES {
            for (rt, addressing) in [
                (8, Addressing::Unsigned(0)),
                (31, Addressing::Unsigned(16)),
                (8, Addressing::PostIndex(9)),
                (8, Addressing::PreIndex(-7)),
            ] {
                let what = LoadStore {
                    single,
                    rt,
                    rn: 21,
                    addressing,
                };
                self.single(there, what, address, address);
            }
        }
        for pair in PAIRS {
            for form in PAIR_FORMS.into_iter().filter(|form| pair.has(*form)) {
                let what = LoadStorePair {
                    pair,
                    form,
                    rt: 4,
                    rt2: 5,
                    rn: 6,
                    offset: 16,
                };
                self.pair(there, what, address, address);
            }
        }
        for form in ORDERED {
            let mut state = State::distinct(address);
            state.set_base(7, address);
            let name = format_args!("{} {there}", form.name);
            self.aborts(name, form.word(3, 7), &state, direction(form.store), address);
        }
    }

    /// Accesses of which a part is somewhere else.
    fn beyond_the_end(&mut self) {
        let borders = [
            ("over the end of a device within a page", EIGHTH.end),
            ("over the end of a device and of a page", SERVED.end),
        ];
        for (what, border) in borders {
            for single in SINGLES.into_iter().filter(|single| single.size > 0) {
                for addressing in [
                    Addressing::Unsigned(0),
                    Addressing::PostIndex(1),
                    Addressing::PreIndex(-1),
                ] {
                    let address = border - 1;
                    let shape = LoadStore {
                        single,
                        rt: 3,
                        rn: 4,
                        addressing,
                    };
                    self.single(what, shape, address, address);
                }
            }
        }
        // Memory first: hardware faults at the first byte of the second page, and must not take it for all.
        for single in SINGLES.into_iter().filter(|single| single.size > 0) {
            for addressing in [Addressing::Unsigned(0), Addressing::PostIndex(1)] {
                let shape = LoadStore {
                    single,
                    rt: 3,
                    rn: 4,
                    addressing,
                };
                self.single("from memory into a device", shape, SERVED.start - 1, SERVED.start);
            }
        }
        for pair in PAIRS {
            let bytes = 1 << pair.size;
            let shape = LoadStorePair {
                pair,
                form: PairForm::PreIndex,
                rt: 3,
                rt2: 5,
                rn: 4,
                offset: 16,
            };
            self.pair("from memory into a device", shape, SERVED.start - bytes, SERVED.start);
        }
    }

    /// Instructions that a device can't perform.
    fn instructions(&mut self) {
        // Base x2, no register of x1 and x3 is the base.
        let always = [
            ("ldxr x1", 0xc85f_7c41, Direction::Read),
            ("ldaxrb w1", 0x085f_fc41, Direction::Read),
            ("ldxp x1, x3", 0xc87f_0c41, Direction::Read),
            ("ldr q1", 0x3dc0_0041, Direction::Read),
            ("str d1", 0xfd00_0041, Direction::Write),
            ("ldp q1, q3", 0xad40_0c41, Direction::Read),
            ("ld1 { v1.16b }", 0x4c40_7041, Direction::Read),
            ("st1 { v1.16b }", 0x4c00_7041, Direction::Write),
            ("dc zva", 0xd50b_7422, Direction::Write),
        ];
        let atomics = [
            ("ldadd x1, x3", 0xf821_0043, Direction::Any),
            ("swpalb w1, w3", 0x38e1_8043, Direction::Any),
            ("cas x1, x3", 0xc8a1_7c43, Direction::Any),
        ];
        let none: &[_] = &[];
        let atomics = if has_atomics() { &atomics[..] } else { none };
        for (name, word, direction) in always.iter().chain(atomics) {
            let mut state = State::distinct(1);
            state.set_base(2, SERVED.start + 0x40);
            let name = format_args!("{name} of a device");
            self.aborts(name, *word, &state, *direction, SERVED.start + 0x40);
        }
    }

    /// Code where only devices or nobody is.
    fn fetches(&mut self) {
        for (name, address) in [
            ("instructions of a device", SERVED.start),
            ("instructions where nobody is", BEHIND),
        ] {
            let mut state = State::distinct(2);
            state.pc = address;
            // SAFETY: no instruction is there.
            let end = unsafe { self.executor.run(&mut state) };
            let iss = state.esr & 0x6ff;
            self.checks.check(
                format_args!("{name}"),
                end == End::Exception(INSTRUCTION_ABORT) && iss == EXTERNAL && state.far == address,
                format_args!("{end:?} esr {:#x} far {:#x} pc {:#x}", state.esr, state.far, state.pc),
            );
        }
    }

    /// `virtual_address` is in a part of the map whose tables would be in a device or nowhere.
    pub(crate) fn walks(&mut self, virtual_address: u64, where_tables_are: &str) {
        for (name, word, direction) in [
            ("ldr", 0xf940_0041, Direction::Read),
            ("str post-indexed", 0xf800_8441, Direction::Write),
        ] {
            let mut state = State::distinct(3);
            state.set_base(2, virtual_address);
            let name = format_args!("{name} by tables {where_tables_are}");
            self.aborts(name, word, &state, direction, virtual_address);
        }
        let mut state = State::distinct(4);
        state.pc = virtual_address;
        // SAFETY: no instruction is there.
        let end = unsafe { self.executor.run(&mut state) };
        self.checks.check(
            format_args!("instructions by tables {where_tables_are}"),
            end == End::Exception(INSTRUCTION_ABORT) && state.esr & 0x6ff == EXTERNAL && state.far == virtual_address,
            format_args!("{end:?} esr {:#x} far {:#x}", state.esr, state.far),
        );
    }
}

/// ID_AA64ISAR0_EL1.Atomic: FEAT_LSE.
fn has_atomics() -> bool {
    let register: u64;
    // SAFETY: reads an ID register.
    unsafe { core::arch::asm!("mrs {}, id_aa64isar0_el1", out(reg) register, options(nostack, preserves_flags)) };
    register >> 20 & 0xf != 0
}
