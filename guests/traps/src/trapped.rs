//! Instructions and registers that trap: calls, ID and other system registers, cache maintenance, floating point, the
//! physical timer.

use core::fmt;

use guest_runtime::gic::{Acknowledged, Gic};
use guest_runtime::{device_tree, timer, wait_for_interrupt};

use crate::SERVED;
use crate::checks::Checks;
use crate::executor::{End, Executor, State};

/// ESR_EL1.EC of an undefined instruction.
const UNKNOWN: u64 = 0;

/// A system register by its encoding.
type Encoding = [u32; 5];

const fn fields([op0, op1, crn, crm, op2]: Encoding) -> u32 {
    (op0 & 1) << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
}

const fn mrs(encoding: Encoding, rt: u32) -> u32 {
    0xd530_0000 | fields(encoding) | rt
}

const fn msr(encoding: Encoding, rt: u32) -> u32 {
    0xd510_0000 | fields(encoding) | rt
}

/// What a register must do.
#[derive(Copy, Clone, Debug)]
enum Rule {
    /// Reads and writes are undefined.
    Undefined,
    /// Reads as zero, writes are ignored.
    ZeroIgnored,
    /// Reads as this, writes are undefined.
    ReadOnly(u64),
    /// These fields of four bits, by their lowest bit, read as zero.
    HiddenFields(&'static [u32]),
}

use Rule::{HiddenFields, ReadOnly, Undefined, ZeroIgnored};

#[rustfmt::skip]
const REGISTERS: &[(&str, Encoding, Rule)] = &[
    ("ID_AA64PFR0_EL1: RAS, SVE, MPAM, AMU", [3, 0, 0, 4, 0], HiddenFields(&[28, 32, 40, 44])),
    ("ID_AA64PFR1_EL1: MTE, SME", [3, 0, 0, 4, 1], HiddenFields(&[8, 24])),
    ("ID_AA64ZFR0_EL1", [3, 0, 0, 4, 4], ReadOnly(0)),
    ("ID_AA64SMFR0_EL1", [3, 0, 0, 4, 5], ReadOnly(0)),
    ("ID_AA64DFR0_EL1: TraceVer, PMUVer, PMSVer, TraceFilt", [3, 0, 0, 5, 0], HiddenFields(&[4, 8, 32, 40])),
    ("ID_AA64AFR0_EL1", [3, 0, 0, 5, 4], ReadOnly(0)),
    ("ID_AA64MMFR1_EL1: LO", [3, 0, 0, 7, 1], HiddenFields(&[16])),
    ("an ID register that has no name", [3, 0, 0, 7, 7], ReadOnly(0)),
    ("ACTLR_EL1", [3, 0, 1, 0, 1], ZeroIgnored),
    ("PMCR_EL0", [3, 3, 9, 12, 0], ZeroIgnored),
    ("PMCNTENSET_EL0", [3, 3, 9, 12, 1], ZeroIgnored),
    ("PMCNTENCLR_EL0", [3, 3, 9, 12, 2], ZeroIgnored),
    ("PMOVSCLR_EL0", [3, 3, 9, 12, 3], ZeroIgnored),
    ("PMSELR_EL0", [3, 3, 9, 12, 5], ZeroIgnored),
    ("PMCCNTR_EL0", [3, 3, 9, 13, 0], ZeroIgnored),
    ("PMXEVTYPER_EL0", [3, 3, 9, 13, 1], ZeroIgnored),
    ("PMUSERENR_EL0", [3, 3, 9, 14, 0], ZeroIgnored),
    ("PMOVSSET_EL0", [3, 3, 9, 14, 3], ZeroIgnored),
    ("PMINTENSET_EL1", [3, 0, 9, 14, 1], ZeroIgnored),
    ("PMINTENCLR_EL1", [3, 0, 9, 14, 2], ZeroIgnored),
    ("PMCCFILTR_EL0", [3, 3, 14, 15, 7], ZeroIgnored),
    ("PMEVCNTR0_EL0", [3, 3, 14, 8, 0], ZeroIgnored),
    ("PMEVTYPER0_EL0", [3, 3, 14, 12, 0], ZeroIgnored),
    ("MDSCR_EL1", [2, 0, 0, 2, 2], ZeroIgnored),
    ("DBGBVR0_EL1", [2, 0, 0, 0, 4], ZeroIgnored),
    ("DBGBCR0_EL1", [2, 0, 0, 0, 5], ZeroIgnored),
    ("DBGWVR0_EL1", [2, 0, 0, 0, 6], ZeroIgnored),
    ("DBGWCR0_EL1", [2, 0, 0, 0, 7], ZeroIgnored),
    ("OSLSR_EL1", [2, 0, 1, 1, 4], ReadOnly(8)),
    ("OSDLR_EL1", [2, 0, 1, 3, 4], ZeroIgnored),
    ("MDRAR_EL1", [2, 0, 1, 0, 0], ReadOnly(0)),
    ("TRCPRGCTLR", [2, 1, 0, 1, 0], Undefined),
    ("ZCR_EL1", [3, 0, 1, 2, 0], Undefined),
    ("SMCR_EL1", [3, 0, 1, 2, 6], Undefined),
    ("SVCR", [3, 3, 4, 2, 2], Undefined),
    ("TRFCR_EL1", [3, 0, 1, 2, 1], Undefined),
    ("RGSR_EL1", [3, 0, 1, 0, 5], Undefined),
    ("GCR_EL1", [3, 0, 1, 0, 6], Undefined),
    ("TFSR_EL1", [3, 0, 5, 6, 0], Undefined),
    ("AMCR_EL0", [3, 3, 13, 2, 0], Undefined),
    ("AMEVCNTR00_EL0", [3, 3, 13, 4, 0], Undefined),
    ("PMSCR_EL1", [3, 0, 9, 9, 0], Undefined),
    ("PMBLIMITR_EL1", [3, 0, 9, 10, 0], Undefined),
    ("ERRIDR_EL1", [3, 0, 5, 3, 0], Undefined),
    ("ERRSELR_EL1", [3, 0, 5, 3, 1], Undefined),
    ("LORSA_EL1", [3, 0, 10, 4, 0], Undefined),
    ("LORC_EL1", [3, 0, 10, 4, 3], Undefined),
    ("MPAM1_EL1", [3, 0, 10, 5, 0], Undefined),
    ("implementation-defined S3_0_C15_C0_0", [3, 0, 15, 0, 0], Undefined),
    ("implementation-defined S3_0_C11_C3_0", [3, 0, 11, 3, 0], Undefined),
    ("implementation-defined S3_3_C15_C1_1", [3, 3, 15, 1, 1], Undefined),
    ("HCR_EL2", [3, 4, 1, 1, 0], Undefined),
    ("VBAR_EL2", [3, 4, 12, 0, 0], Undefined),
    ("CNTVOFF_EL2", [3, 4, 14, 0, 3], Undefined),
    ("SCR_EL3", [3, 6, 1, 1, 0], Undefined),
];

const ICC_SRE_EL1: Encoding = [3, 0, 12, 12, 5];
const CPACR_EL1: Encoding = [3, 0, 1, 0, 2];
const FPCR: Encoding = [3, 3, 4, 4, 0];
const FPSR: Encoding = [3, 3, 4, 4, 1];
const CNTP_TVAL_EL0: Encoding = [3, 3, 14, 2, 0];
const CNTP_CTL_EL0: Encoding = [3, 3, 14, 2, 1];
const CNTP_CVAL_EL0: Encoding = [3, 3, 14, 2, 2];
const CNTPCT_EL0: Encoding = [3, 3, 14, 0, 1];

const PSCI_VERSION: u64 = 0x8400_0000;
const PSCI_1_1: u64 = 0x1_0001;

/// Makes the cases.
pub(crate) struct Trapped<'a> {
    pub(crate) executor: &'a Executor,
    pub(crate) checks: &'a mut Checks,
}

impl Trapped<'_> {
    /// All groups.
    pub(crate) fn run(&mut self) {
        // Bits of what is not there are ignored; bits of what is only hidden let its instructions reach the hypervisor.
        self.writes("CPACR_EL1: SMEN, FPEN, ZEN", CPACR_EL1, 3 << 24 | 3 << 20 | 3 << 16);
        self.calls();
        self.registers();
        self.cache_maintenance();
        self.undefined_instructions();
        self.floating_point();
        self.physical_timer();
    }

    /// Runs `word` with `value` in x1: how it ended, and x1 then.
    fn step(&mut self, word: u32, value: u64) -> (End, u64, State) {
        let mut state = State::distinct(0);
        state.x[1] = value;
        // SAFETY: the words of this file access no memory but the served range.
        let end = unsafe { self.executor.step(word, &mut state) };
        (end, state.x[1], state)
    }

    fn undefined(&mut self, name: fmt::Arguments<'_>, word: u32) {
        let (end, _, after) = self.step(word, 0);
        let mut before = State::distinct(0);
        before.x[1] = 0;
        let passed = end == End::Exception(UNKNOWN) && after.esr & 0x1ff_ffff == 0 && after.x == before.x;
        self.checks.check(
            format_args!("{name} is undefined"),
            passed,
            format_args!("{end:?} esr {:#x}", after.esr),
        );
    }

    fn reads(&mut self, name: &str, encoding: Encoding, expected: u64) {
        let (end, value, _) = self.step(mrs(encoding, 1), !0);
        self.checks.check(
            format_args!("{name} reads as {expected:#x}"),
            end == End::Complete && value == expected,
            format_args!("{end:?} {value:#x}"),
        );
    }

    fn writes(&mut self, name: &str, encoding: Encoding, value: u64) {
        let (end, _, after) = self.step(msr(encoding, 1), value);
        self.checks.check(
            format_args!("{name} can be written"),
            end == End::Complete,
            format_args!("{end:?} esr {:#x}", after.esr),
        );
    }

    /// HVC and SMC with every kind of immediate and function.
    fn calls(&mut self) {
        const HVC: u32 = 0xd400_0002;
        const SMC: u32 = 0xd400_0003;
        for immediate in [1, 0x4a1, 0xea0, 0xea2, 0xffe0, 0xffff] {
            self.undefined(format_args!("HVC #{immediate:#x}"), HVC | immediate << 5);
        }
        for immediate in [1, 0xea1, 0xffff] {
            self.undefined(format_args!("SMC #{immediate:#x}"), SMC | immediate << 5);
        }
        let unknown = u64::from(u32::MAX);
        for (name, word, x0, x16, expected, kept_from) in [
            ("PSCI_VERSION by HVC", HVC, PSCI_VERSION, 0, PSCI_1_1, 4),
            ("PSCI_VERSION by SMC", SMC, PSCI_VERSION, 0, PSCI_1_1, 4),
            ("an unknown function by HVC", HVC, 0xc400_1234, 0, unknown, 4),
            ("an unknown function by SMC", SMC, 0xc400_1234, 0, unknown, 4),
            (
                "an unknown hypercall",
                HVC | 0xea1 << 5,
                0,
                999,
                -38_i64 as u64 & unknown,
                1,
            ),
        ] {
            let mut state = State::distinct(0);
            (state.x[0], state.x[16]) = (x0, x16);
            let before = state.clone();
            // SAFETY: calls that do nothing.
            let end = unsafe { self.executor.step(word, &mut state) };
            let kept = state.x[kept_from..] == before.x[kept_from..];
            self.checks.check(
                format_args!("{name}"),
                end == End::Complete && state.x[0] & unknown == expected && kept,
                format_args!("{end:?} x0 {:#x}, others kept: {kept}", state.x[0]),
            );
        }
    }

    fn registers(&mut self) {
        for (name, encoding, rule) in REGISTERS {
            let (read, write) = (mrs(*encoding, 1), msr(*encoding, 1));
            match *rule {
                Undefined => {
                    self.undefined(format_args!("reading {name}"), read);
                    self.undefined(format_args!("writing {name}"), write);
                }
                ZeroIgnored => {
                    self.reads(name, *encoding, 0);
                    self.writes(name, *encoding, !0);
                    self.reads(name, *encoding, 0);
                }
                ReadOnly(value) => {
                    self.reads(name, *encoding, value);
                    self.undefined(format_args!("writing {name}"), write);
                }
                HiddenFields(shifts) => {
                    let (end, value, _) = self.step(read, 0);
                    let hidden = shifts.iter().all(|shift| value >> shift & 0xf == 0);
                    self.checks.check(
                        format_args!("hidden fields of {name}"),
                        end == End::Complete && hidden,
                        format_args!("{end:?} {value:#x}"),
                    );
                }
            }
        }
        match device_tree::find_compatible(&["arm,gic-v3"]) {
            Some(_) => {
                self.reads("ICC_SRE_EL1", ICC_SRE_EL1, 7);
                self.writes("ICC_SRE_EL1", ICC_SRE_EL1, 0);
                self.reads("ICC_SRE_EL1", ICC_SRE_EL1, 7);
            }
            None => self.undefined(format_args!("reading ICC_SRE_EL1 of a GICv2"), mrs(ICC_SRE_EL1, 1)),
        }
    }

    /// By address, of a device: skipped. By set and way: does nothing that can be seen.
    fn cache_maintenance(&mut self) {
        for (name, word, value) in [
            ("DC CIVAC of a device", 0xd50b_7e21, SERVED.start),
            ("DC CVAC of a device", 0xd50b_7a21, SERVED.start),
            ("DC CVAU of a device", 0xd50b_7b21, SERVED.start),
            ("DC IVAC of a device", 0xd508_7621, SERVED.start),
            ("IC IVAU of a device", 0xd50b_7521, SERVED.start),
            ("DC ISW", 0xd508_7641, 0),
            ("DC CSW", 0xd508_7a41, 0),
            ("DC CISW", 0xd508_7e41, 2),
            ("a prefetch of a device", 0xf980_0020, SERVED.start),
        ] {
            let (end, _, after) = self.step(word, value);
            self.checks.check(
                format_args!("{name} is stepped over"),
                end == End::Complete,
                format_args!("{end:?} esr {:#x} far {:#x}", after.esr, after.far),
            );
        }
    }

    fn undefined_instructions(&mut self) {
        for (name, word) in [
            ("RDVL", 0x04bf_5021),
            ("PTRUE", 0x2518_e3e0),
            ("SMSTART", 0xd503_477f),
            ("UDF", 0),
            ("an unallocated word", 0xffff_ffff),
        ] {
            self.undefined(format_args!("{name}"), word);
        }
    }

    /// FP and SIMD registers are this guest's, whoever else used them meanwhile.
    fn floating_point(&mut self) {
        const TO_LOW: u32 = 0x9e67_0020;
        const TO_HIGH: u32 = 0x9eaf_0020;
        const FROM_LOW: u32 = 0x9e66_0001;
        const FROM_HIGH: u32 = 0x9eae_0001;
        const RMODE: u64 = 3 << 22;
        for round in 0..4 {
            let value = |number: u32, half: u64| State::distinct(64 + round).x[number as usize % 31] ^ half;
            for number in 0..32 {
                self.step(TO_LOW | number, value(number, 1));
                self.step(TO_HIGH | number, value(number, 2));
            }
            self.step(msr(FPCR, 1), RMODE);
            self.step(msr(FPSR, 1), round);
            // Whoever serves this fills the registers with something else.
            self.step(0xf940_0021, SERVED.start);
            if round > 1 {
                let deadline = timer::now() + timer::ticks(2_000);
                while timer::now() < deadline {}
            }
            let wrong = (0..32).find_map(|number| {
                let low = self.step(FROM_LOW | number << 5, 0).1;
                let high = self.step(FROM_HIGH | number << 5, 0).1;
                let right = low == value(number, 1) && high == value(number, 2);
                (!right).then_some((number, high, low))
            });
            self.checks.check(
                format_args!("v0 to v31 are kept while another domain uses its own"),
                wrong.is_none(),
                format_args!("{wrong:x?}"),
            );
            let (control, status) = (self.step(mrs(FPCR, 1), 0).1, self.step(mrs(FPSR, 1), 0).1);
            self.checks.check(
                format_args!("FPCR and FPSR are kept"),
                (control, status) == (RMODE, round),
                format_args!("{control:#x} {status:#x}"),
            );
        }
    }

    /// The emulated physical timer and its interrupt.
    fn physical_timer(&mut self) {
        let node = device_tree::find_compatible(&["arm,armv8-timer"]);
        let interrupt = node.and_then(|node| device_tree::interrupt(node, 1));
        let intid = interrupt.map_or(30, |interrupt| interrupt.intid);
        let gic = Gic::init();
        gic.enable(intid, false);

        self.writes("CNTP_CTL_EL0", CNTP_CTL_EL0, 2);
        self.reads("CNTP_CTL_EL0", CNTP_CTL_EL0, 2);
        self.writes("CNTP_CVAL_EL0", CNTP_CVAL_EL0, 0x1234_5678_9abc_def0);
        self.reads("CNTP_CVAL_EL0", CNTP_CVAL_EL0, 0x1234_5678_9abc_def0);
        self.writes("CNTP_CTL_EL0", CNTP_CTL_EL0, 3);
        self.reads("CNTP_CTL_EL0 of a timer that has long to go", CNTP_CTL_EL0, 3);
        let none = gic.acknowledge();
        self.checks.check(
            format_args!("a masked timer does not interrupt"),
            none.is_none(),
            format_args!("{none:?}"),
        );

        for asleep in [false, true] {
            let ticks = timer::ticks(3_000);
            let start = self.step(mrs(CNTPCT_EL0, 1), 0).1;
            self.step(msr(CNTP_TVAL_EL0, 1), ticks);
            self.step(msr(CNTP_CTL_EL0, 1), 1);
            let found = await_interrupt(&gic, asleep);
            let (end, control) = {
                let (_, control, _) = self.step(mrs(CNTP_CTL_EL0, 1), 0);
                (self.step(mrs(CNTPCT_EL0, 1), 0).1, control)
            };
            self.checks.check(
                format_args!("the physical timer interrupts, asleep: {asleep}"),
                found.is_some_and(|found| found.intid == intid) && end - start >= ticks && control == 5,
                format_args!("{found:?} after {} ticks of {ticks}, control {control:#x}", end - start),
            );
            let left = self.step(mrs(CNTP_TVAL_EL0, 1), 0).1;
            self.checks.check(
                format_args!("the physical timer's value is below zero"),
                left >> 31 == 1,
                format_args!("{left:#x}"),
            );
            // Deactivated while its line is high, it comes again; then not any more.
            if let Some(found) = found {
                gic.end(found);
            }
            let again = await_interrupt(&gic, false);
            self.checks.check(
                format_args!("the physical timer interrupts as long as its line is high"),
                again.is_some_and(|again| again.intid == intid),
                format_args!("{again:?}"),
            );
            self.step(msr(CNTP_CTL_EL0, 1), 0);
            if let Some(again) = again {
                gic.end(again);
            }
            let none = gic.acknowledge();
            self.checks.check(
                format_args!("a timer that is off does not interrupt"),
                none.is_none(),
                format_args!("{none:?}"),
            );
        }
    }
}

/// The next interrupt; `None`: there was none for two seconds.
fn await_interrupt(gic: &Gic, asleep: bool) -> Option<Acknowledged> {
    let deadline = timer::now() + timer::ticks(2_000_000);
    loop {
        if asleep {
            wait_for_interrupt();
        }
        match gic.acknowledge() {
            None if timer::now() < deadline => {}
            found => return found,
        }
    }
}
