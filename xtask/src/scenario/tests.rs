use super::{Ends, Scenario, size, substitute};

fn refusal(text: &str) -> String {
    Scenario::parse("x", text).unwrap_err().to_string()
}

#[test]
fn a_short_file_gets_the_defaults() {
    let scenario = Scenario::parse("demo", "summary = 'a'").unwrap();
    let machines = scenario.machines().unwrap();
    assert_eq!(machines.len(), 1);
    assert_eq!(
        (
            machines[0].gic,
            machines[0].cpu.as_str(),
            machines[0].smp,
            machines[0].memory
        ),
        (3, "max", 4, 2048)
    );
    assert_eq!(scenario.manifest_file().to_str(), Some("demo.dts"));
    assert_eq!((scenario.timeout, scenario.ends), (60, Ends::ByItself));
}

#[test]
fn lists_in_a_matrix_are_combined_and_rows_are_not() {
    let names = |text: &str| {
        let machines = Scenario::parse("x", text).unwrap().machines().unwrap();
        machines.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        names("summary = 'a'\n[machine]\nsmp = 2\n[matrix]\ngic = [2, 3]\ncpu = ['cortex-a57', 'max']"),
        [
            "gic2-cortex-a57-smp2",
            "gic2-max-smp2",
            "gic3-cortex-a57-smp2",
            "gic3-max-smp2"
        ]
    );
    assert_eq!(
        names("summary = 'a'\n[[matrix]]\ngic = 2\ncpu = 'cortex-a57'\n[[matrix]]\nsmp = 8"),
        ["gic2-cortex-a57-smp4", "gic3-max-smp8"]
    );
}

#[test]
fn what_can_not_be_meant_is_refused_with_the_reason() {
    for (text, reason) in [
        ("", "summary"),
        ("summary = 'a'\nsumary = 'b'", "sumary"),
        ("summary = 'a'\n[machine]\ngicv = 3", "gicv"),
        ("summary = 'a'\n[machine]\ngic = 4", "GIC version 4"),
        ("summary = 'a'\n[machine]\nsmp = 9", "9 CPUs"),
        ("summary = 'a'\n[machine]\nmemory = 100", "100 MiB"),
        ("summary = 'a'\n[modules.a]\ngzip = true", "modules.a"),
        ("summary = 'a'\n[modules.a]\nbuild = 'b'\nfile = 'c'", "exactly one"),
        ("summary = 'a'\n[[disks]]\nname = 'd'\nsize = '1T'", "disk d"),
        (
            "summary = 'a'\n[[disks]]\nname = 'd'\nsize = '1M'\ncontents = 'noise'",
            "noise",
        ),
        ("summary = 'a'\n[plain]\nkernel = 'k'", "no module k"),
        ("summary = 'a'\nends = 'never'", "never"),
        (
            "summary = 'a'\n[[disks]]\nname = 'd'\nsize = '1M'\ncontents = { ext4 = { size = '2M' } }",
            "does not fit",
        ),
        (
            "summary = 'a'\n[[journals]]\nname = 'j'\ndisk = 'd'\nrecord = ''\nrecords = 1\nlimit-ms = 1",
            "no disk d",
        ),
        (
            "summary = 'a'\n[[disks]]\nname = 'd'\nsize = '1M'\n[[journals]]\nname = 'j'\ndisk = 'd'\nrecords = 1\nlimit-ms = 1\n\
             record = '(?<number>a)(?<offset>a)(?P<length>a)(?<ms>a)'",
            "no group sum",
        ),
    ] {
        let line = refusal(text);
        assert!(
            line.contains(reason) && line.contains("qemu/x.toml"),
            "{text:?}: {line:?} lacks {reason:?}"
        );
    }
}

#[test]
fn expectations_are_one_sequence_or_several() {
    let one = Scenario::parse("x", "summary = 'a'\nexpect = ['b', 'c']").unwrap();
    assert_eq!(one.expect.sequences(), [["b", "c"]]);
    let several = Scenario::parse("x", "summary = 'a'\n[expect]\none = ['b']\ntwo = ['c', 'd']").unwrap();
    assert_eq!(several.expect.sequences().len(), 2);
}

#[test]
fn sizes_are_whole_sectors() {
    for (text, bytes) in [
        ("512", Some(512)),
        ("64M", Some(64 << 20)),
        ("2G", Some(2 << 30)),
        ("4K", Some(4096)),
        ("100", None),
    ] {
        assert_eq!(size(text).ok(), bytes, "{text}");
    }
    for text in ["", "M", "0", "-1", "1.5M", "99999999999999G", "\u{e9}"] {
        assert!(size(text).is_err(), "{text:?}");
    }
}

#[test]
fn placeholders_get_their_values_and_unknown_ones_are_named() {
    let values = [
        ("guest".to_owned(), "0x0 0x50000000".to_owned()),
        ("n".to_owned(), "7".to_owned()),
    ]
    .into();
    assert_eq!(
        substitute("reg = <${guest}>; x = <${n}>;$", &values).unwrap(),
        "reg = <0x0 0x50000000>; x = <7>;$"
    );
    assert_eq!(substitute("none", &values).unwrap(), "none");
    assert!(
        substitute("a\nb ${gest} c", &values)
            .unwrap_err()
            .to_string()
            .contains("line 2")
    );
    assert!(substitute("${guest", &values).is_err());
}

#[test]
fn parameters_have_a_quick_and_a_full_size() {
    let scenario = Scenario::parse("x", "summary = 'a'\n[parameters]\ncount = { quick = 5, full = '500' }").unwrap();
    assert_eq!(scenario.parameters(false)["count"], "5");
    assert_eq!(scenario.parameters(true)["count"], "500");
}

#[test]
fn every_scenario_of_the_repository_can_be_read_and_has_its_files() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../qemu");
    for name in super::names(&folder).unwrap() {
        let scenario = Scenario::read(&folder, &name).unwrap();
        let trees = scenario
            .modules
            .values()
            .filter_map(|module| module.device_tree.clone());
        let script = scenario.boot_script.clone();
        for file in trees.chain([scenario.manifest_file()]).chain(script) {
            assert!(
                scenario.folder.join(&file).is_file(),
                "{name}: there is no {}",
                file.display()
            );
        }
    }
}
