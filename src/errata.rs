//! Errata of Arm's CPUs that touch a hypervisor: which apply to a pCPU, by its MIDR_EL1, and what is done.
//!
//! `docs/errata.md` says of each what goes wrong and where that is published. The list is of Cortex-A57 and Cortex-A53; other
//! CPUs get nothing. What a kernel or firmware must do is theirs: guests see their pCPU's own MIDR_EL1.

/// A CPU's model: implementer, architecture and part number of MIDR_EL1.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Model(u64);

impl Model {
    /// Cortex-A53.
    pub const CORTEX_A53: Self = Self(0x410f_d030);
    /// Cortex-A57.
    pub const CORTEX_A57: Self = Self(0x410f_d070);

    /// The fields of MIDR_EL1 that tell models.
    const MASK: u64 = 0xff0f_fff0;
}

/// A revision: rXpY.
#[derive(Copy, Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Revision {
    /// X, MIDR_EL1.Variant.
    pub variant: u8,
    /// Y, MIDR_EL1.Revision.
    pub patch: u8,
}

impl Revision {
    /// Later than all that there are.
    const EVERY: Self = Self::new(15, 15);

    /// rXpY.
    pub const fn new(variant: u8, patch: u8) -> Self {
        Self { variant, patch }
    }
}

/// What is done about an erratum.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// HPFAR_EL2 is believed only for faults of a stage-1 walk: [`Mitigations::distrust_hpfar`].
    DistrustHpfar,
    /// No walk can begin while EL1's translation regime is partly one vCPU's and partly another's:
    /// [`Mitigations::close_walks`].
    CloseWalks,
    /// Lines are cleaned by an operation that invalidates them, too: [`Mitigations::clean_and_invalidate`].
    CleanAndInvalidate,
    /// The hypervisor's own loads from devices are load-acquires, on every CPU; a guest's can't be changed, and are told of at
    /// boot: [`Mitigations::guests_can_hang`].
    AcquireDevices,
    /// The Image of a board that has such CPUs has no code that meets it.
    Toolchain,
    /// It takes EL1 in AArch32, or EL1's own context, which a hypervisor of AArch64 guests does not touch.
    Guest,
    /// Firmware sets a bit that EL2 can't.
    Firmware,
}

/// An erratum.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Erratum {
    /// Arm's number.
    pub number: u32,
    /// Whose.
    pub model: Model,
    /// The first revision that has it.
    pub first: Revision,
    /// The last one.
    pub last: Revision,
    /// What is done.
    pub answer: Answer,
}

const fn since_r0p0(number: u32, model: Model, last: Revision, answer: Answer) -> Erratum {
    Erratum {
        number,
        model,
        first: Revision::new(0, 0),
        last,
        answer,
    }
}

const A53: Model = Model::CORTEX_A53;
const A57: Model = Model::CORTEX_A57;
const R0P1: Revision = Revision::new(0, 1);
const R0P2: Revision = Revision::new(0, 2);
const R0P4: Revision = Revision::new(0, 4);
const R1P2: Revision = Revision::new(1, 2);

/// The errata, by model and number.
pub const ERRATA: [Erratum; 15] = [
    since_r0p0(819_472, A53, R0P1, Answer::CleanAndInvalidate),
    since_r0p0(824_069, A53, R0P2, Answer::CleanAndInvalidate),
    since_r0p0(826_319, A53, R0P2, Answer::CleanAndInvalidate),
    since_r0p0(827_319, A53, R0P2, Answer::CleanAndInvalidate),
    since_r0p0(835_769, A53, R0P4, Answer::Toolchain),
    since_r0p0(843_419, A53, R0P4, Answer::Toolchain),
    since_r0p0(845_719, A53, R0P4, Answer::Guest),
    // From r0p3 on firmware can set a bit; what is done for the earlier ones is right for all.
    since_r0p0(855_873, A53, Revision::EVERY, Answer::CleanAndInvalidate),
    since_r0p0(1_530_924, A53, Revision::EVERY, Answer::CloseWalks),
    since_r0p0(832_075, A57, R1P2, Answer::AcquireDevices),
    since_r0p0(834_220, A57, R1P2, Answer::DistrustHpfar),
    since_r0p0(852_523, A57, R1P2, Answer::Guest),
    since_r0p0(859_972, A57, Revision::new(1, 3), Answer::Firmware),
    since_r0p0(1_319_537, A57, Revision::EVERY, Answer::CloseWalks),
    since_r0p0(1_742_098, A57, Revision::EVERY, Answer::Guest),
];

/// What a pCPU needs at run time.
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq)]
pub struct Mitigations {
    /// HPFAR_EL2 may hold nonsense for a fault that is not one of a stage-1 walk.
    pub distrust_hpfar: bool,
    /// Stage-1 walks are closed while a vCPU's translation regime is replaced.
    pub close_walks: bool,
    /// DC CIVAC instead of DC CVAC and DC CVAU.
    pub clean_and_invalidate: bool,
    /// A guest that mixes exclusives and loads from devices can hang the pCPU.
    pub guests_can_hang: bool,
}

impl Mitigations {
    /// What `self` or `other` needs.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            distrust_hpfar: self.distrust_hpfar || other.distrust_hpfar,
            close_walks: self.close_walks || other.close_walks,
            clean_and_invalidate: self.clean_and_invalidate || other.clean_and_invalidate,
            guests_can_hang: self.guests_can_hang || other.guests_can_hang,
        }
    }
}

/// The errata of a pCPU.
pub fn of(midr: u64) -> impl Iterator<Item = &'static Erratum> {
    let revision = Revision::new((midr >> 20 & 0xf) as u8, (midr & 0xf) as u8);
    let has = move |erratum: &&Erratum| {
        erratum.model == Model(midr & Model::MASK) && (erratum.first..=erratum.last).contains(&revision)
    };
    ERRATA.iter().filter(has)
}

/// What a pCPU needs.
pub fn mitigations(midr: u64) -> Mitigations {
    let mut needed = Mitigations::default();
    for erratum in of(midr) {
        match erratum.answer {
            Answer::DistrustHpfar => needed.distrust_hpfar = true,
            Answer::CloseWalks => needed.close_walks = true,
            Answer::CleanAndInvalidate => needed.clean_and_invalidate = true,
            Answer::AcquireDevices => needed.guests_can_hang = true,
            Answer::Toolchain | Answer::Guest | Answer::Firmware => {}
        }
    }
    needed
}
