//! Every Cortex-A57 and Cortex-A53 gets what its errata need, and the book says the same.

use portunus::errata::{self, Answer, ERRATA, Mitigations, Model, Revision};

const NONE: Mitigations = Mitigations {
    distrust_hpfar: false,
    close_walks: false,
    clean_and_invalidate: false,
    guests_can_hang: false,
};

#[test]
fn each_revision_gets_its_mitigations() {
    let a57 = Mitigations {
        close_walks: true,
        ..NONE
    };
    let old_a57 = Mitigations {
        distrust_hpfar: true,
        guests_can_hang: true,
        ..a57
    };
    let a53 = Mitigations {
        close_walks: true,
        clean_and_invalidate: true,
        ..NONE
    };
    let rows: &[(&str, u64, Mitigations, &[u32])] = &[
        (
            "A57 r0p0",
            0x410f_d070,
            old_a57,
            &[832_075, 834_220, 852_523, 859_972, 1_319_537, 1_742_098],
        ),
        (
            "A57 r1p0, QEMU's",
            0x411f_d070,
            old_a57,
            &[832_075, 834_220, 852_523, 859_972, 1_319_537, 1_742_098],
        ),
        (
            "A57 r1p2",
            0x411f_d072,
            old_a57,
            &[832_075, 834_220, 852_523, 859_972, 1_319_537, 1_742_098],
        ),
        (
            "A57 r1p3, the R-Car H3's",
            0x411f_d073,
            a57,
            &[859_972, 1_319_537, 1_742_098],
        ),
        (
            "A53 r0p0",
            0x410f_d030,
            a53,
            &[
                819_472, 824_069, 826_319, 827_319, 835_769, 843_419, 845_719, 855_873, 1_530_924,
            ],
        ),
        (
            "A53 r0p2",
            0x410f_d032,
            a53,
            &[824_069, 826_319, 827_319, 835_769, 843_419, 845_719, 855_873, 1_530_924],
        ),
        (
            "A53 r0p4, the R-Car H3's",
            0x410f_d034,
            a53,
            &[835_769, 843_419, 845_719, 855_873, 1_530_924],
        ),
        ("A72 r0p3", 0x410f_d083, NONE, &[]),
        ("another implementer's part of the same number", 0x510f_d070, NONE, &[]),
        ("a pCPU that says nothing", 0, NONE, &[]),
        ("all ones", u64::MAX, NONE, &[]),
    ];
    for (what, midr, expected, numbers) in rows {
        assert_eq!(errata::mitigations(*midr), *expected, "{what}");
        let found: Vec<u32> = errata::of(*midr).map(|erratum| erratum.number).collect();
        assert_eq!(found, *numbers, "{what}");
    }
}

#[test]
fn every_revision_of_an_erratum_is_mitigated_and_the_next_one_is_not_because_of_it() {
    for erratum in &ERRATA {
        let model = match erratum.model {
            Model::CORTEX_A53 => 0x410f_d030,
            _ => 0x410f_d070,
        };
        for variant in 0..2_u8 {
            for patch in 0..8_u8 {
                let midr = model | u64::from(variant) << 20 | u64::from(patch);
                let revision = Revision::new(variant, patch);
                let has = errata::of(midr).any(|found| found == erratum);
                assert_eq!(has, erratum.first <= revision && revision <= erratum.last, "{midr:#x}");
                let needed = errata::mitigations(midr);
                let answered = match erratum.answer {
                    Answer::DistrustHpfar => needed.distrust_hpfar,
                    Answer::CloseWalks => needed.close_walks,
                    Answer::CleanAndInvalidate => needed.clean_and_invalidate,
                    Answer::AcquireDevices => needed.guests_can_hang,
                    Answer::Toolchain | Answer::Guest | Answer::Firmware => true,
                };
                assert!(!has || answered, "{midr:#x}: {erratum:?}");
            }
        }
    }
}

#[test]
fn a_machine_of_both_needs_what_either_needs() {
    let both = errata::mitigations(0x411f_d072).or(errata::mitigations(0x410f_d034));
    let all = Mitigations {
        distrust_hpfar: true,
        close_walks: true,
        clean_and_invalidate: true,
        guests_can_hang: true,
    };
    assert_eq!(both, all);
    assert_eq!(NONE.or(NONE), NONE);
}

#[test]
fn the_book_lists_the_same_errata() {
    let text = include_str!("../docs/errata.md");
    let rows: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("| A5"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>())
        .collect();
    let listed: Vec<_> = rows
        .iter()
        .map(|row| (row[0], row[1].parse().unwrap(), row[2]))
        .collect();
    let expected: Vec<(&str, u32, String)> = ERRATA
        .iter()
        .map(|erratum| {
            let Revision { variant, patch } = erratum.last;
            let revisions = if variant == 15 {
                "all".to_string()
            } else {
                format!("to r{variant}p{patch}")
            };
            let model = if erratum.model == Model::CORTEX_A53 {
                "A53"
            } else {
                "A57"
            };
            (model, erratum.number, revisions)
        })
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(model, number, revisions)| (*model, *number, revisions.as_str()))
        .collect();
    assert_eq!(listed, expected);
    assert!(
        rows.iter()
            .all(|row| row.len() == 6 && row.iter().all(|cell| !cell.is_empty()))
    );
}
