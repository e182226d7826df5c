//! Machines of unlike CPUs: what their guests see, and where a domain's vCPUs live.

use portunus::domain::homes;
use portunus::ids::{PcpuId, Ticks};
use portunus::manifest::affinity::PcpuSet;
use portunus::trap::registers::GuestMode;
use portunus::trap::syndrome::{SystemRegister, SystemRegisterAccess, SystemRegisterDirection};
use portunus::trap::system_register::identification::{IdOptions, IdRegisters, IdTraps, RawIdRegisters};
use portunus::trap::system_register::{EmulatedRegisters, SystemRegisterContext, SystemRegisterOutcome, access};

const A57: u64 = 0x411f_d071;
const A53: u64 = 0x410f_d034;
/// The R-Car H3's pCPUs.
const H3: [u64; 8] = [A57, A57, A57, A57, A53, A53, A53, A53];

/// ID registers as the manuals of both state them (Arm DDI 0488 and DDI 0500, "AArch64 register summary"), without
/// cryptography extensions and without a GIC's system registers.
fn cpu(midr: u64) -> RawIdRegisters {
    let is_a57 = midr == A57;
    let mut raw = RawIdRegisters {
        midr,
        revidr: if is_a57 { 0 } else { 0x180 },
        ctr: if is_a57 { 0x8444_c004 } else { 0x8444_8004 },
        clidr: 0x0a20_0023,
        dczid: 4,
        ..RawIdRegisters::NONE
    };
    raw.space[3][0] = 0x2222;
    raw.space[4][0] = 0x1030_5106;
    raw.space[5][0] = 0x0001_0000;
    raw.space[6][0] = if is_a57 { 0x1124 } else { 0x1122 };
    raw.space[0] = [
        0x131,
        0x1_1011,
        0x0301_0066,
        0,
        if is_a57 { 0x1010_1105 } else { 0x1020_1105 },
        0x4000_0000,
        0x0126_0000,
        0x0210_2211,
    ];
    raw
}

fn combined() -> IdRegisters {
    let options = IdOptions {
        gic_system_registers: false,
        ipa_bits: 40,
    };
    IdRegisters::combine(&H3.map(cpu), &options).expect("CPUs")
}

#[test]
fn guests_see_what_both_kinds_have() {
    let ids = combined();
    assert_eq!(
        ids.read_space(7, 0) & 0xf,
        2,
        "40 bits of address: those of the Cortex-A53"
    );
    assert_eq!(ids.read_space(4, 0), 0x12, "AArch64 alone at EL1, both at EL0");
    assert_eq!(ids.read_space(1, 4), 0x1010_1105, "ID_MMFR0: the least of each field");
    assert_eq!(
        ids.ctr(),
        0x8444_8004,
        "instruction caches by virtual index, as the Cortex-A53's"
    );
    for pcpus in [[cpu(A57), cpu(A53)], [cpu(A53), cpu(A57)]] {
        let options = IdOptions {
            gic_system_registers: false,
            ipa_bits: 40,
        };
        assert_eq!(
            IdRegisters::combine(&pcpus, &options),
            Ok(ids),
            "whichever booted, and however many there are"
        );
    }
}

#[test]
fn only_who_runs_on_both_kinds_needs_traps() {
    let differ = IdTraps {
        cache: true,
        zero_block: false,
    };
    assert_eq!(cpu(A57).differences(&cpu(A53)), differ);
    assert_eq!(cpu(A57).differences(&cpu(A57)), IdTraps::default());
}

#[test]
fn a_vcpu_sees_the_midr_of_its_own_pcpu() {
    let ids = combined();
    for midr in [A57, A53] {
        let pcpu = cpu(midr);
        let context = SystemRegisterContext {
            ids: &ids,
            pcpu: &pcpu,
            gic_system_registers: false,
            mode: GuestMode::El1h,
            now: Ticks(0),
        };
        for (op2, expected) in [(0, midr), (6, pcpu.revidr)] {
            let read = SystemRegisterAccess {
                register: SystemRegister::new(3, 0, 0, 0, op2),
                rt: 0,
                direction: SystemRegisterDirection::Read,
            };
            let outcome = access(&read, 0, &mut EmulatedRegisters::default(), &context);
            assert_eq!(outcome, SystemRegisterOutcome::Read(expected), "{midr:#x}");
        }
    }
}

#[test]
fn a_domain_stays_in_one_cluster_unless_its_affinity_says_otherwise() {
    let none = [0; 8];
    let set = |bits| Some(PcpuSet(bits));
    type Row<'a> = (&'a str, &'a [Option<PcpuSet>], [usize; 8], Option<&'a [u8]>);
    let rows: &[Row<'_>] = &[
        ("one after the other", &[None; 3], none, Some(&[0, 1, 2])),
        (
            "more vCPUs than a cluster has",
            &[None; 6],
            none,
            Some(&[0, 1, 2, 3, 0, 1]),
        ),
        (
            "the other cluster is empty",
            &[None; 2],
            [1, 1, 1, 1, 0, 0, 0, 0],
            Some(&[4, 5]),
        ),
        (
            "the first chooses, though the other has more room for the rest",
            &[None; 2],
            [0, 9, 9, 9, 1, 1, 1, 1],
            Some(&[0, 0]),
        ),
        (
            "an affinity decides for those without",
            &[None, set(0b0010_0000), None],
            none,
            Some(&[4, 5, 6]),
        ),
        (
            "across clusters by affinity",
            &[set(0b0000_0001), set(0b0001_0000)],
            none,
            Some(&[0, 4]),
        ),
        (
            "any of all CPUs",
            &[set(0xff), set(0xff)],
            [0, 1, 1, 1, 1, 0, 1, 1],
            Some(&[0, 5]),
        ),
        ("a CPU that is not there", &[set(0), None], none, None),
    ];
    for (what, affinities, loads, expected) in rows {
        let homes = homes::choose(affinities, &H3, loads);
        let expected = expected.map(|homes| homes.iter().copied().map(PcpuId).collect::<Vec<_>>());
        assert_eq!(homes, expected, "{what}");
    }
    assert_eq!(
        homes::choose(&[set(0x80)], &[A57; 4], &[0; 4]),
        None,
        "a pCPU that did not start"
    );
    assert_eq!(
        homes::choose(&[None; 2], &[A57, 0x411f_d073], &[0; 2]),
        Some(vec![PcpuId(0); 2]),
        "another revision has other errata"
    );
}
