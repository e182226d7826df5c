//! Checks of meta-portunus, the layer for Yocto, as far as they go without BitBake.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::boards;
use crate::scenario::Scenario;
use crate::setup;

fn layer() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../meta-portunus")
}

/// What a file of BitBake's says.
#[derive(Debug, Default)]
struct Metadata {
    /// Every assignment, the last of each name and its overrides.
    variables: BTreeMap<String, String>,
    /// The files that are required.
    required: Vec<String>,
    /// Shell functions with their bodies.
    functions: BTreeMap<String, String>,
}

/// Reads the part of BitBake's syntax that the layer uses; anything else is an error with its line.
fn parse(text: &str) -> Result<Metadata, String> {
    let mut metadata = Metadata::default();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let number = number + 1;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut whole = line.to_owned();
        while let Some(start) = whole.strip_suffix('\\') {
            let (_, next) = lines.next().ok_or(format!("line {number} is continued by nothing"))?;
            whole = format!("{start}{next}");
        }
        let words: Vec<&str> = whole.split_whitespace().collect();
        if let ["require" | "include", file] = words[..] {
            metadata.required.push(file.into());
        } else if matches!(words[0], "inherit" | "addtask") && words.len() > 1 {
        } else if let Some(name) = whole.strip_suffix("() {") {
            let mut body = String::new();
            loop {
                match lines.next() {
                    Some((_, "}")) => break,
                    Some((_, line)) => body.push_str(&format!("{line}\n")),
                    None => return Err(format!("the function {name} in line {number} does not end")),
                }
            }
            metadata.functions.insert(name.into(), body);
        } else {
            let (name, value) = assignment(&whole).ok_or(format!("line {number} is nothing that is known: {whole}"))?;
            metadata.variables.insert(name.into(), value.into());
        }
    }
    Ok(metadata)
}

/// `NAME OPERATOR "VALUE"`.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let operators = [" ?= ", " := ", " += ", " =. ", " .= ", " = "];
    let (name, value) = operators.iter().find_map(|operator| line.split_once(operator))?;
    let allowed = |character: char| character.is_ascii_alphanumeric() || "_-/:${}[]".contains(character);
    let value = value.strip_prefix('"')?.strip_suffix('"')?;
    (name.chars().all(allowed) && !value.contains('"')).then_some((name, value))
}

fn read(path: &str) -> Metadata {
    let text = fs::read_to_string(layer().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    parse(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

const RECIPE: &str = "recipes-hypervisor/portunus/portunus_git.bb";
const MACHINES: [&str; 2] = ["h3ulcb", "portunus-qemuarm64"];

#[test]
fn every_file_of_the_layer_is_read_and_what_it_names_in_the_layer_is_there() {
    let configuration = read("conf/layer.conf");
    assert_eq!(configuration.variables["BBFILE_COLLECTIONS"], "portunus");
    let recipe = read(RECIPE);
    let files = layer().join(RECIPE).with_file_name("files");
    let sources: Vec<&str> = recipe.variables["SRC_URI"].split_whitespace().collect();
    assert!(!sources.is_empty());
    for source in sources {
        let name = source.strip_prefix("file://").expect("only files of the layer");
        assert!(files.join(name).is_file(), "{name}");
    }
    for name in MACHINES {
        let machine = read(&format!("conf/machine/{name}.conf"));
        // What is required lies in other layers, or it is there.
        for file in &machine.required {
            let elsewhere = ["conf/machine/include/arm/", "conf/machine/qemuarm64.conf"];
            let found = elsewhere.iter().any(|start| file.starts_with(start)) || layer().join(file).is_file();
            assert!(found, "{name} requires {file}");
        }
        assert!(boards::board(&machine.variables["PORTUNUS_BOARD"]).is_ok(), "{name}");
        let compatible = &recipe.variables["COMPATIBLE_MACHINE"];
        assert!(compatible.split('|').any(|machine| machine == name), "{name}");
    }
}

#[test]
fn the_sums_of_the_licences_are_those_of_the_files() {
    let recipe = read(RECIPE);
    let mut checked = 0;
    for entry in recipe.variables["LIC_FILES_CHKSUM"].split_whitespace() {
        let (file, sum) = entry
            .strip_prefix("file://${PORTUNUS_SOURCE}/")
            .unwrap()
            .split_once(";md5=")
            .unwrap();
        let output = Command::new("md5sum")
            .arg(layer().join("..").join(file))
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).split_whitespace().next(),
            Some(sum),
            "{file}"
        );
        checked += 1;
    }
    assert_eq!(checked, 2);
}

#[test]
fn the_shell_functions_are_shell() {
    let recipe = read(RECIPE);
    assert_eq!(recipe.functions.len(), 3);
    for (name, body) in &recipe.functions {
        let script = std::env::temp_dir().join(format!("portunus-layer-{name}-{}", std::process::id()));
        // BitBake fills these in before a shell sees the text.
        let filled = body.replace("${@", "${");
        fs::write(&script, format!("#!/bin/sh\n{filled}")).unwrap();
        let mut checkers = vec![Command::new("sh")];
        checkers[0].arg("-n");
        if let Some(shellcheck) = setup::find("shellcheck") {
            // Variables come from BitBake.
            let mut command = Command::new(shellcheck);
            command.args(["-e", "SC2154"]);
            checkers.push(command);
        }
        for mut checker in checkers {
            let output = checker.arg(&script).output().unwrap();
            let complaint = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(output.status.success(), "{name}: {complaint}");
        }
        let _ = fs::remove_file(script);
    }
}

#[test]
fn the_scenario_s_template_is_one_and_its_manifest_has_its_modules() {
    let files = layer().join(RECIPE).with_file_name("files");
    let template = fs::read_to_string(files.join("image.toml.in")).unwrap();
    let recipe = fs::read_to_string(layer().join(RECIPE)).unwrap();
    let manifest = fs::read_to_string(files.join("image.dts")).unwrap();
    for place in ["@KERNEL@", "@RAMDISK@"] {
        assert!(
            template.contains(place) && recipe.contains(&format!("s#{place}#")),
            "{place}"
        );
    }
    let scenario = Scenario::parse("image", &template).unwrap();
    for module in scenario.modules.keys() {
        assert!(manifest.contains(&format!("${{{module}}}")), "{module}");
    }
    assert_eq!(manifest.matches("${").count(), scenario.modules.len());
}

#[test]
fn what_is_no_metadata_is_told_with_its_line() {
    for (text, reason) in [
        ("A = \"1\"\nB = 2\n", "line 2"),
        ("A = \"1 \\\n", "continued by nothing"),
        ("do_x() {\n    true\n", "does not end"),
        ("A == \"1\"\n", "line 1"),
        ("A = \"1\" B = \"2\"\n", "line 1"),
        ("frobnicate\n", "line 1"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(reason), "{text:?}: {error}");
    }
    assert_eq!(parse("A:x += \"1 \\\n    2\"\n").unwrap().variables["A:x"], "1     2");
}
