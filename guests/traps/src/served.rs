//! Every shape of access to the served range. Nothing here knows what is right: each case prints what it left behind, and
//! the same program prints the same on a machine that has RAM there.

use core::fmt;
use core::ops::Range;

use guest_runtime::println;

use crate::encoding::{
    Addressing, INDICES, Index, LITERALS, LoadStore, LoadStorePair, ORDERED, ORDERED_PC, ORDERED_UNSCALED, PAIR_FORMS,
    PAIRS, PairForm, Plain, Register, SINGLES,
};
use crate::executor::{EL1H, EL1T, End, Executor, FLAGS, State};

/// Makes the cases.
pub(crate) struct Served<'a> {
    executor: &'a Executor,
    range: Range<u64>,
    cases: u64,
}

/// What a register, SP or the flags became.
struct Changes<'a>(&'a State, &'a State);

impl fmt::Display for Changes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(before, after) = self;
        for (number, (old, new)) in before.x.iter().zip(&after.x).enumerate() {
            if old != new {
                write!(f, " x{number}={new:x}")?;
            }
        }
        for (name, old, new) in [
            ("sp_el1", before.sp_el1, after.sp_el1),
            ("sp_el0", before.sp_el0, after.sp_el0),
            ("pstate", before.pstate, after.pstate),
        ] {
            if old != new {
                write!(f, " {name}={new:x}")?;
            }
        }
        Ok(())
    }
}

impl<'a> Served<'a> {
    /// Fills the range.
    pub(crate) fn new(executor: &'a Executor, range: Range<u64>) -> Self {
        for address in range.clone().step_by(8) {
            let word = (address & 0xfff_ffff).wrapping_mul(0xd1b5_4a32_d192_ed03);
            // SAFETY: the range is nobody's memory but ours; a plain STR.
            unsafe {
                core::arch::asm!("str {}, [{}]", in(reg) word, in(reg) address, options(nostack, preserves_flags))
            };
        }
        Self {
            executor,
            range,
            cases: 0,
        }
    }

    /// How many cases there were.
    pub(crate) const fn cases(&self) -> u64 {
        self.cases
    }

    fn word_at(&self, address: u64) -> u64 {
        let word;
        // SAFETY: as above; a plain LDR.
        unsafe { core::arch::asm!("ldr {}, [{}]", out(reg) word, in(reg) address, options(nostack, preserves_flags)) };
        word
    }

    /// Runs `word` and prints what changed, and of a store what is around `address` then.
    fn case(&mut self, name: fmt::Arguments<'_>, word: u32, mut state: State, stored: Option<u64>) {
        let before = state.clone();
        // SAFETY: the base lies in the range and the address stays in it.
        let end = unsafe { self.executor.step(word, &mut state) };
        self.cases += 1;
        let changes = Changes(&before, &state);
        match (end, stored) {
            (End::Complete, None) => println!("CASE {name}:{changes}"),
            (End::Complete, Some(address)) => {
                let start = (address & !7).max(self.range.start + 8) - 8;
                let words: [u64; 4] = core::array::from_fn(|index| match start + 8 * index as u64 {
                    address if address < self.range.end => self.word_at(address),
                    _ => 0,
                });
                println!("CASE {name}:{changes} -> {words:x?}");
            }
            (end, _) => println!(
                "CASE {name}: {end:?} esr {:x} far {:x} pc {:+}",
                state.esr,
                state.far,
                state.pc.wrapping_sub(self.executor.code()) as i64
            ),
        }
    }

    /// An address for the next case: some multiple of 8 in the first page, away from its ends.
    fn address(&self) -> u64 {
        self.range.start + 0x200 + self.cases * 104 % 0xc00
    }

    /// A load or store of one register. `offset` is what the addressing adds before the access.
    fn single(&mut self, what: LoadStore, mut state: State, address: u64, offset: i64) {
        state.set_base(what.rn, address.wrapping_sub_signed(offset));
        let stored = what.single.is_store().then_some(address);
        self.case(format_args!("{what}"), what.word(), state, stored);
    }

    /// All groups.
    pub(crate) fn run(&mut self) {
        self.each_register();
        self.each_base();
        self.each_index();
        self.bases_that_are_loaded();
        self.pairs();
        self.plain_forms();
        self.literals();
        self.flags();
        self.unaligned();
        self.contents();
    }

    /// x0 to x30 and xzr as Rt, described by the syndrome and not.
    fn each_register(&mut self) {
        for single in SINGLES {
            for rt in 0..32 {
                let rn = (rt + 1) % 31;
                for (addressing, offset) in [
                    (Addressing::Unsigned(3 << single.size), 3 << single.size),
                    (Addressing::PostIndex(-5), 0),
                    (Addressing::PreIndex(7 << single.size), 7 << single.size),
                ] {
                    let (state, address) = (State::distinct(self.cases), self.address());
                    self.single(
                        LoadStore {
                            single,
                            rt,
                            rn,
                            addressing,
                        },
                        state,
                        address,
                        offset,
                    );
                }
            }
        }
    }

    /// x0 to x30, SP_EL1 and SP_EL0 as base, in each form that has a base and an immediate.
    fn each_base(&mut self) {
        for single in SINGLES {
            for (rn, pstate) in (0..32).map(|rn| (rn, EL1H)).chain([(31, EL1T)]) {
                let rt = (rn + 3) % 31;
                for (addressing, offset) in [
                    (Addressing::Unsigned(0xf << single.size), 0xf << single.size),
                    (Addressing::Unscaled(-256), -256),
                    (Addressing::PostIndex(255), 0),
                    (Addressing::PreIndex(-16), -16),
                ] {
                    // SP has to be aligned to 16.
                    let address = (self.address() & !15).wrapping_add_signed(offset & 15);
                    let state = State::distinct(self.cases).with_pstate(pstate | (self.cases & 0xf) << 28);
                    self.single(
                        LoadStore {
                            single,
                            rt,
                            rn,
                            addressing,
                        },
                        state,
                        address,
                        offset,
                    );
                }
            }
        }
    }

    /// Offsets in registers, widened and shifted in each way, above and below the base.
    fn each_index(&mut self) {
        for single in SINGLES {
            for index in INDICES {
                for offset in [0x40, -0x40] {
                    if offset > 0 || index.is_signed() {
                        self.indexed(
                            LoadStore {
                                single,
                                rt: 9,
                                rn: 20,
                                addressing: Addressing::Register(index, 15),
                            },
                            index,
                            offset,
                        );
                        self.indexed(
                            LoadStore {
                                single,
                                rt: 31,
                                rn: 31,
                                addressing: Addressing::Register(index, 30),
                            },
                            index,
                            offset,
                        );
                    }
                }
            }
        }
    }

    fn indexed(&mut self, what: LoadStore, index: Index, offset: i32) {
        let (mut state, address) = (State::distinct(self.cases), self.address() & !15);
        if let Addressing::Register(_, rm) = what.addressing {
            state.x[rm as usize] = index.value(offset, what.single.size);
        }
        self.single(what, state, address, offset.into());
    }

    /// A load into its own base.
    fn bases_that_are_loaded(&mut self) {
        for single in SINGLES {
            for (rt, addressing) in [(4, Addressing::Unsigned(0)), (17, Addressing::Unscaled(0))] {
                let (state, address) = (State::distinct(self.cases), self.address());
                self.single(
                    LoadStore {
                        single,
                        rt,
                        rn: rt,
                        addressing,
                    },
                    state,
                    address,
                    0,
                );
            }
        }
    }

    fn pair(&mut self, what: LoadStorePair, mut state: State, address: u64) {
        let before = if what.form == PairForm::PostIndex {
            0
        } else {
            what.offset
        };
        state.set_base(what.rn, address.wrapping_sub_signed(before.into()));
        let stored = what.pair.is_store().then_some(address);
        self.case(format_args!("{what}"), what.word(), state, stored);
    }

    /// Each register first and second of a pair, in each form; each base; SP in both modes.
    fn pairs(&mut self) {
        for pair in PAIRS {
            for form in PAIR_FORMS.into_iter().filter(|form| pair.has(*form)) {
                for rt in 0..32 {
                    let (rt2, rn) = ((rt + 5) % 32, (rt + 11) % 31);
                    let rn = if rn == rt2 || rn == rt { (rn + 1) % 31 } else { rn };
                    let offset = [4 << pair.size, -(3 << pair.size)][rt as usize % 2];
                    let (state, address) = (State::distinct(self.cases), self.address());
                    self.pair(
                        LoadStorePair {
                            pair,
                            form,
                            rt,
                            rt2,
                            rn,
                            offset,
                        },
                        state,
                        address,
                    );
                }
                for pstate in [EL1H, EL1T] {
                    let what = LoadStorePair {
                        pair,
                        form,
                        rt: 29,
                        rt2: 30,
                        rn: 31,
                        offset: -16,
                    };
                    let state = State::distinct(self.cases).with_pstate(pstate);
                    let address = self.address() & !15;
                    self.pair(what, state, address);
                }
            }
            if pair.is_store() {
                let what = LoadStorePair {
                    pair,
                    form: PairForm::Offset,
                    rt: 7,
                    rt2: 7,
                    rn: 7,
                    offset: 0,
                };
                let (state, address) = (State::distinct(self.cases), self.address());
                self.pair(what, state, address);
            }
        }
    }

    /// Acquire and release, with each register.
    fn plain_forms(&mut self) {
        let [rcpc, rcpc2] = [1, 2].map(|version| release_consistency() >= version);
        let none: &[Plain] = &[];
        let forms = ORDERED
            .iter()
            .chain(if rcpc { &ORDERED_PC[..] } else { none })
            .chain(if rcpc2 { &ORDERED_UNSCALED[..] } else { none });
        for form in forms {
            for rt in 0..32 {
                let rn = (rt + 7) % 31;
                let (mut state, address) = (State::distinct(self.cases), self.address());
                // With an offset of -3 it is aligned again.
                let base = if form.name.contains('#') { address + 3 } else { address };
                state.set_base(rn, base);
                let register = Register {
                    number: rt,
                    wide: form.size == 3,
                };
                let name = format_args!("{} {register}, [x{rn}]", form.name);
                self.case(name, form.word(rt, rn), state, form.store.then_some(address));
            }
        }
    }

    /// Addresses relative to PC.
    fn literals(&mut self) {
        for (name, word) in LITERALS {
            for rt in [0, 13, 30, 31] {
                let address = self.address() + 4;
                let distance = (address - self.executor.code()) as u32 >> 2;
                let state = State::distinct(self.cases);
                self.case(
                    format_args!("{name}{rt}, literal"),
                    word | (distance & 0x7_ffff) << 5 | rt,
                    state,
                    None,
                );
            }
        }
    }

    /// No access changes the flags.
    fn flags(&mut self) {
        for flags in (0..=FLAGS).step_by(1 << 28) {
            for (single, addressing) in [
                (SINGLES[12], Addressing::Unsigned(0)),
                (SINGLES[4], Addressing::PostIndex(1)),
            ] {
                let state = State::distinct(self.cases).with_pstate(EL1H | flags);
                let address = self.address();
                self.single(
                    LoadStore {
                        single,
                        rt: 1,
                        rn: 2,
                        addressing,
                    },
                    state,
                    address,
                    0,
                );
            }
        }
    }

    /// Any alignment, within a page and across the border of two pages that are both served.
    fn unaligned(&mut self) {
        let border = self.range.start + 0x1000;
        for middle in [border - 0x100, border] {
            for distance in -16..=0_i64 {
                let address = middle.wrapping_add_signed(distance);
                for single in SINGLES.into_iter().filter(|single| single.size > 0) {
                    for addressing in [Addressing::Unsigned(0), Addressing::PostIndex(3)] {
                        let state = State::distinct(self.cases);
                        self.single(
                            LoadStore {
                                single,
                                rt: 11,
                                rn: 12,
                                addressing,
                            },
                            state,
                            address,
                            0,
                        );
                    }
                }
                for pair in PAIRS {
                    let what = LoadStorePair {
                        pair,
                        form: PairForm::PreIndex,
                        rt: 3,
                        rt2: 5,
                        rn: 6,
                        offset: 16,
                    };
                    self.pair(what, State::distinct(self.cases), address);
                }
            }
        }
    }

    /// All that the stores have left, as a sum for each line's worth.
    fn contents(&mut self) {
        for start in self.range.clone().step_by(0x200) {
            let words = (start..start + 0x200).step_by(8).map(|address| self.word_at(address));
            let sum = words.fold(0xcbf2_9ce4_8422_2325_u64, |sum, word| {
                (sum ^ word).wrapping_mul(0x100_0000_01b3)
            });
            self.cases += 1;
            println!("CASE contents at {:#x}: {sum:x}", start - self.range.start);
        }
    }
}

/// ID_AA64ISAR1_EL1.LRCPC.
fn release_consistency() -> u64 {
    let register: u64;
    // SAFETY: reads an ID register.
    unsafe { core::arch::asm!("mrs {}, id_aa64isar1_el1", out(reg) register, options(nostack, preserves_flags)) };
    register >> 20 & 0xf
}
