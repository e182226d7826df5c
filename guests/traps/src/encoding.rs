//! Load and store instructions as words (Arm ARM, C4.1.94, Loads and stores).

use core::fmt;

/// A load or store of one register.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Single {
    pub(crate) name: &'static str,
    /// log2 of its bytes.
    pub(crate) size: u32,
    opc: u32,
    /// The register is Xt.
    wide: bool,
}

impl Single {
    pub(crate) const fn is_store(&self) -> bool {
        self.opc == 0
    }
}

const fn single(name: &'static str, size: u32, opc: u32, wide: bool) -> Single {
    Single { name, size, opc, wide }
}

/// All of them.
pub(crate) const SINGLES: [Single; 13] = [
    single("strb", 0, 0, false),
    single("ldrb", 0, 1, false),
    single("ldrsb", 0, 2, true),
    single("ldrsb", 0, 3, false),
    single("strh", 1, 0, false),
    single("ldrh", 1, 1, false),
    single("ldrsh", 1, 2, true),
    single("ldrsh", 1, 3, false),
    single("str", 2, 0, false),
    single("ldr", 2, 1, false),
    single("ldrsw", 2, 2, true),
    single("str", 3, 0, true),
    single("ldr", 3, 1, true),
];

/// How a register offset is widened and shifted.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Index {
    pub(crate) name: &'static str,
    option: u32,
    /// Shifted by the access size.
    pub(crate) scaled: bool,
}

/// All of them.
pub(crate) const INDICES: [Index; 8] = [
    Index {
        name: "uxtw",
        option: 0b010,
        scaled: false,
    },
    Index {
        name: "uxtw #s",
        option: 0b010,
        scaled: true,
    },
    Index {
        name: "lsl #0",
        option: 0b011,
        scaled: false,
    },
    Index {
        name: "lsl #s",
        option: 0b011,
        scaled: true,
    },
    Index {
        name: "sxtw",
        option: 0b110,
        scaled: false,
    },
    Index {
        name: "sxtw #s",
        option: 0b110,
        scaled: true,
    },
    Index {
        name: "sxtx",
        option: 0b111,
        scaled: false,
    },
    Index {
        name: "sxtx #s",
        option: 0b111,
        scaled: true,
    },
];

impl Index {
    /// A register value that means `offset`, with bits that must be ignored.
    pub(crate) const fn value(&self, offset: i32, size: u32) -> u64 {
        let offset = if self.scaled { offset >> size } else { offset };
        match self.option {
            0b010 | 0b110 => 0xdead_beef_0000_0000 | (offset as u32) as u64,
            _ => offset as i64 as u64,
        }
    }
    /// Whether offsets below 0 exist.
    pub(crate) const fn is_signed(&self) -> bool {
        self.option != 0b010
    }
}

/// Where a load or store goes.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Addressing {
    /// An offset that is a multiple of the size.
    Unsigned(u32),
    /// Any offset of nine bits.
    Unscaled(i32),
    PostIndex(i32),
    PreIndex(i32),
    /// Plus a register.
    Register(Index, u32),
}

/// One instruction, for its name and its word.
#[derive(Copy, Clone, Debug)]
pub(crate) struct LoadStore {
    pub(crate) single: Single,
    pub(crate) rt: u32,
    pub(crate) rn: u32,
    pub(crate) addressing: Addressing,
}

const fn nine(offset: i32) -> u32 {
    (offset as u32 & 0x1ff) << 12
}

impl LoadStore {
    pub(crate) const fn word(&self) -> u32 {
        let fields = self.single.size << 30 | self.single.opc << 22 | self.rn << 5 | self.rt;
        fields
            | match self.addressing {
                Addressing::Unsigned(offset) => 0x3900_0000 | (offset >> self.single.size) << 10,
                Addressing::Unscaled(offset) => 0x3800_0000 | nine(offset),
                Addressing::PostIndex(offset) => 0x3800_0400 | nine(offset),
                Addressing::PreIndex(offset) => 0x3800_0c00 | nine(offset),
                Addressing::Register(index, rm) => {
                    0x3820_0800 | rm << 16 | index.option << 13 | (index.scaled as u32) << 12
                }
            }
    }
}

/// A register's name.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Register {
    pub(crate) number: u32,
    pub(crate) wide: bool,
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = if self.wide { 'x' } else { 'w' };
        match self.number {
            31 => write!(f, "{letter}zr"),
            number => write!(f, "{letter}{number}"),
        }
    }
}

/// A base register's name.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Base(pub(crate) u32);

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            31 => f.write_str("sp"),
            number => write!(f, "x{number}"),
        }
    }
}

impl fmt::Display for LoadStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            single,
            rt,
            rn,
            addressing,
        } = *self;
        let unscaled = if matches!(addressing, Addressing::Unscaled(_)) {
            "unscaled "
        } else {
            ""
        };
        let (rt, base) = (
            Register {
                number: rt,
                wide: single.wide,
            },
            Base(rn),
        );
        write!(f, "{unscaled}{} {rt}, ", single.name)?;
        match addressing {
            Addressing::Unsigned(offset) => write!(f, "[{base}, #{offset}]"),
            Addressing::Unscaled(offset) => write!(f, "[{base}, #{offset}]"),
            Addressing::PostIndex(offset) => write!(f, "[{base}], #{offset}"),
            Addressing::PreIndex(offset) => write!(f, "[{base}, #{offset}]!"),
            Addressing::Register(index, rm) => write!(f, "[{base}, r{rm}, {}]", index.name),
        }
    }
}

/// A load or store of two registers.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) name: &'static str,
    opc: u32,
    load: bool,
    /// log2 of the bytes of each.
    pub(crate) size: u32,
    wide: bool,
}

/// All of them.
pub(crate) const PAIRS: [Pair; 5] = [
    Pair {
        name: "stp",
        opc: 0,
        load: false,
        size: 2,
        wide: false,
    },
    Pair {
        name: "ldp",
        opc: 0,
        load: true,
        size: 2,
        wide: false,
    },
    Pair {
        name: "ldpsw",
        opc: 1,
        load: true,
        size: 2,
        wide: true,
    },
    Pair {
        name: "stp",
        opc: 2,
        load: false,
        size: 3,
        wide: true,
    },
    Pair {
        name: "ldp",
        opc: 2,
        load: true,
        size: 3,
        wide: true,
    },
];

impl Pair {
    pub(crate) const fn is_store(&self) -> bool {
        !self.load
    }
    /// LDPSW has no form without a hint of allocation.
    pub(crate) const fn has(&self, form: PairForm) -> bool {
        self.opc != 1 || !matches!(form, PairForm::NonTemporal)
    }
}

/// Where a pair goes.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum PairForm {
    /// LDNP, STNP
    NonTemporal,
    PostIndex,
    Offset,
    PreIndex,
}

/// All forms.
pub(crate) const PAIR_FORMS: [PairForm; 4] = [
    PairForm::NonTemporal,
    PairForm::PostIndex,
    PairForm::Offset,
    PairForm::PreIndex,
];

/// One instruction on a pair.
#[derive(Copy, Clone, Debug)]
pub(crate) struct LoadStorePair {
    pub(crate) pair: Pair,
    pub(crate) form: PairForm,
    pub(crate) rt: u32,
    pub(crate) rt2: u32,
    pub(crate) rn: u32,
    /// A multiple of the size.
    pub(crate) offset: i32,
}

impl LoadStorePair {
    pub(crate) const fn word(&self) -> u32 {
        let Self { pair, rt, rt2, rn, .. } = *self;
        let offset = ((self.offset >> pair.size) as u32 & 0x7f) << 15;
        0x2800_0000
            | pair.opc << 30
            | (self.form as u32) << 23
            | (pair.load as u32) << 22
            | offset
            | rt2 << 10
            | rn << 5
            | rt
    }
}

impl fmt::Display for LoadStorePair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pair, form, offset, .. } = *self;
        let register = |number| Register {
            number,
            wide: pair.wide,
        };
        let (rt, rt2, base) = (register(self.rt), register(self.rt2), Base(self.rn));
        let hint = if form == PairForm::NonTemporal {
            "non-temporal "
        } else {
            ""
        };
        write!(f, "{hint}{} {rt}, {rt2}, ", pair.name)?;
        match form {
            PairForm::NonTemporal | PairForm::Offset => write!(f, "[{base}, #{offset}]"),
            PairForm::PostIndex => write!(f, "[{base}], #{offset}"),
            PairForm::PreIndex => write!(f, "[{base}, #{offset}]!"),
        }
    }
}

/// An instruction with Rt and a base and nothing else.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Plain {
    pub(crate) name: &'static str,
    /// With both register fields zero.
    word: u32,
    pub(crate) size: u32,
    pub(crate) store: bool,
}

impl Plain {
    pub(crate) const fn word(&self, rt: u32, rn: u32) -> u32 {
        self.word | rn << 5 | rt
    }
}

const fn plain(name: &'static str, word: u32, size: u32, store: bool) -> Plain {
    Plain {
        name,
        word: word | size << 30,
        size,
        store,
    }
}

/// Acquire and release.
pub(crate) const ORDERED: [Plain; 8] = [
    plain("stlrb", 0x089f_fc00, 0, true),
    plain("ldarb", 0x08df_fc00, 0, false),
    plain("stlrh", 0x089f_fc00, 1, true),
    plain("ldarh", 0x08df_fc00, 1, false),
    plain("stlr w", 0x089f_fc00, 2, true),
    plain("ldar w", 0x08df_fc00, 2, false),
    plain("stlr x", 0x089f_fc00, 3, true),
    plain("ldar x", 0x08df_fc00, 3, false),
];

/// FEAT_LRCPC.
pub(crate) const ORDERED_PC: [Plain; 4] = [
    plain("ldaprb", 0x38bf_c000, 0, false),
    plain("ldaprh", 0x38bf_c000, 1, false),
    plain("ldapr w", 0x38bf_c000, 2, false),
    plain("ldapr x", 0x38bf_c000, 3, false),
];

/// FEAT_LRCPC2, with offset -3.
pub(crate) const ORDERED_UNSCALED: [Plain; 13] = [
    plain("stlurb #-3", 0x191f_d000, 0, true),
    plain("ldapurb #-3", 0x195f_d000, 0, false),
    plain("ldapursb x #-3", 0x199f_d000, 0, false),
    plain("ldapursb w #-3", 0x19df_d000, 0, false),
    plain("stlurh #-3", 0x191f_d000, 1, true),
    plain("ldapurh #-3", 0x195f_d000, 1, false),
    plain("ldapursh x #-3", 0x199f_d000, 1, false),
    plain("ldapursh w #-3", 0x19df_d000, 1, false),
    plain("stlur w #-3", 0x191f_d000, 2, true),
    plain("ldapur w #-3", 0x195f_d000, 2, false),
    plain("ldapursw #-3", 0x199f_d000, 2, false),
    plain("stlur x #-3", 0x191f_d000, 3, true),
    plain("ldapur x #-3", 0x195f_d000, 3, false),
];

/// Loads from an address relative to PC: name and word with Rt and offset zero.
pub(crate) const LITERALS: [(&str, u32); 3] =
    [("ldr w", 0x1800_0000), ("ldr x", 0x5800_0000), ("ldrsw x", 0x9800_0000)];
