//! Which module of the core stands on which: no circles, and as ARCHITECTURE.md ("Who stands on whom") says.
//!
//! `src/X.rs` and `src/X/**` are module `X`. A path that begins at the crate's root, in whatever form, makes its module stand
//! on the one that the path names; comments and strings make nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

/// A word or a sign of Rust, with the number of its line.
type Token<'t> = (usize, &'t str);

/// For each module those that it stands on, each with the lines that say so.
type Graph = BTreeMap<String, BTreeMap<String, Vec<String>>>;

/// The words and signs of a source; `::` is one sign, and of literals nothing is left.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let bytes = source.as_bytes();
    let starts = |at: usize, what: &str| bytes[at..].starts_with(what.as_bytes());
    let end_of = |from: usize, what: &str| {
        source[from..]
            .find(what)
            .map_or(bytes.len(), |at| from + at + what.len())
    };
    let mut found = Vec::new();
    let mut at = 0;
    let mut line = 1;
    while at < bytes.len() {
        let start = at;
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        at = if starts(at, "//") {
            end_of(at, "\n") - usize::from(source[at..].contains('\n'))
        } else if starts(at, "/*") {
            let mut depth = 0;
            loop {
                if starts(at, "/*") {
                    depth += 1;
                    at += 2;
                } else if starts(at, "*/") {
                    depth -= 1;
                    at += 2;
                } else {
                    at += 1;
                }
                if depth == 0 || at >= bytes.len() {
                    break at.min(bytes.len());
                }
            }
        } else if starts(at, "r\"") || starts(at, "r#\"") {
            let hashes = usize::from(starts(at, "r#"));
            end_of(at + 2 + hashes, if hashes == 1 { "\"#" } else { "\"" })
        } else if starts(at, "\"") {
            at += 1;
            while at < bytes.len() && bytes[at] != b'"' {
                at += 1 + usize::from(bytes[at] == b'\\');
            }
            at + 1
        } else if starts(at, "'\\") {
            end_of(at + 3, "'")
        } else if starts(at, "'") {
            let character = source[at + 1..].chars().next().map_or(1, char::len_utf8);
            at + 1
                + if starts(at + 1 + character, "'") {
                    character + 1
                } else {
                    0
                }
        } else if is_word(&bytes[at]) {
            let length = bytes[at..].iter().take_while(|byte| is_word(byte)).count();
            found.push((line, &source[at..at + length]));
            at + length
        } else if starts(at, "::") {
            found.push((line, "::"));
            at + 2
        } else {
            let length = source[at..].chars().next().map_or(1, char::len_utf8);
            if !bytes[at].is_ascii_whitespace() {
                found.push((line, &source[at..at + length]));
            }
            at + length
        };
        line += bytes[start..at.min(bytes.len())]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
    }
    found
}

/// The names at the crate's root that a source uses. The source's module lies `depth` below the root.
fn roots<'t>(source: &'t str, depth: usize) -> Vec<Token<'t>> {
    let tokens = tokens(source);
    let word = |at: usize| tokens.get(at).map_or("", |token| token.1);
    let mut found = Vec::new();
    // Where the modules within end whose beginnings lie behind: how many braces were open.
    let mut within: Vec<usize> = Vec::new();
    let mut open = 0;
    let mut at = 0;
    while at < tokens.len() {
        match word(at) {
            "mod" if word(at + 2) == "{" => within.push(open),
            "{" => open += 1,
            "}" => {
                open -= 1;
                if within.last() == Some(&open) {
                    within.pop();
                }
            }
            "crate" if word(at + 1) == "::" => {
                heads(&tokens, at + 2, &mut found);
                at += 1;
            }
            "super" => {
                let mut up = 1;
                while word(at + 1) == "::" && word(at + 2) == "super" {
                    up += 1;
                    at += 2;
                }
                if up == depth + within.len() && word(at + 1) == "::" {
                    heads(&tokens, at + 2, &mut found);
                    at += 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// The first name of the path at `at`, or, where paths are grouped there, of each of them.
fn heads<'t>(tokens: &[Token<'t>], at: usize, found: &mut Vec<Token<'t>>) {
    let Some(first) = tokens.get(at) else { return };
    if first.1 != "{" {
        return found.push(*first);
    }
    let mut depth = 0;
    let mut begins = true;
    for token in &tokens[at..] {
        match token.1 {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," => begins |= depth == 1,
            _ if depth == 1 && begins => {
                found.push(*token);
                begins = false;
            }
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

/// What stands on what in `sources`: paths below `src/`, and texts.
fn graph(sources: &[(String, String)]) -> Graph {
    let module = |path: &str| {
        let first = path.split('/').next().unwrap_or(path);
        first.trim_end_matches(".rs").to_string()
    };
    let mut graph: Graph = sources
        .iter()
        .map(|(path, _)| (module(path), BTreeMap::new()))
        .collect();
    let names: BTreeSet<String> = graph.keys().cloned().collect();
    for (path, text) in sources {
        let own = module(path);
        let lines: Vec<&str> = text.lines().collect();
        for (line, name) in roots(text, path.split('/').count()) {
            if name != own && names.contains(name) {
                let said = format!("src/{path}:{line}: {}", lines[line - 1].trim());
                let users = graph.entry(own.clone()).or_default();
                users.entry(name.to_string()).or_default().push(said);
            }
        }
    }
    graph
}

/// A shortest circle: its modules, each of which stands on the next, the last on the first.
fn circle(graph: &Graph) -> Option<Vec<&str>> {
    let from_each = graph.keys().filter_map(|start| {
        let mut before: BTreeMap<&str, &str> = BTreeMap::new();
        let mut next = VecDeque::from([start.as_str()]);
        while let Some(module) = next.pop_front() {
            for other in graph.get(module).into_iter().flat_map(BTreeMap::keys) {
                if other == start {
                    let mut way = vec![module];
                    while let Some(earlier) = before.get(way[0]) {
                        way.insert(0, earlier);
                    }
                    return Some(way);
                }
                if !before.contains_key(other.as_str()) {
                    before.insert(other, module);
                    next.push_back(other);
                }
            }
        }
        None
    });
    from_each.min_by_key(Vec::len)
}

/// A circle for a person: who stands on whom, and the lines that say so.
fn told(graph: &Graph, circle: &[&str]) -> String {
    let mut text = String::new();
    for (index, module) in circle.iter().enumerate() {
        let next = circle[(index + 1) % circle.len()];
        text += &format!("{module} -> {next}\n");
        for line in &graph[*module][next] {
            text += &format!("    {line}\n");
        }
    }
    text
}

/// The layers of ARCHITECTURE.md, highest first: the rows of the table below the heading, whose first cells name them.
fn layers(page: &str) -> Vec<Vec<&str>> {
    let (_, section) = page
        .split_once("## Who stands on whom\n")
        .expect("the section is there");
    let section = section.split("\n## ").next().unwrap_or(section);
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        row.split('|')
            .nth(1)
            .unwrap_or_default()
            .split('`')
            .skip(1)
            .step_by(2)
            .collect()
    })
    .collect()
}

/// What contradicts `layers`: modules that they lack or repeat, and lines that reach up or sideways.
fn contradictions(graph: &Graph, layers: &[Vec<&str>]) -> Vec<String> {
    let mut wrong = Vec::new();
    let places = |module: &str| -> Vec<usize> {
        let each = layers.iter().enumerate();
        each.flat_map(|(place, layer)| layer.iter().filter(|name| **name == module).map(move |_| place))
            .collect()
    };
    for name in layers.iter().flatten().filter(|name| !graph.contains_key(**name)) {
        wrong.push(format!("{name} is no module"));
    }
    for (module, below) in graph {
        let [place] = *places(module) else {
            wrong.push(format!("{module} is not there once"));
            continue;
        };
        for (other, lines) in below {
            if places(other).iter().any(|lower| *lower <= place) {
                wrong.extend(
                    lines
                        .iter()
                        .map(|line| format!("{module} does not stand above {other}: {line}")),
                );
            }
        }
    }
    wrong
}

fn read_below(folder: &Path, prefix: &str, into: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("so can its entries").path();
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        if path.is_dir() {
            read_below(&path, &format!("{prefix}{name}/"), into);
        } else if name.ends_with(".rs") && format!("{prefix}{name}") != "lib.rs" {
            into.push((
                format!("{prefix}{name}"),
                fs::read_to_string(&path).expect("it is text"),
            ));
        }
    }
}

fn core() -> Graph {
    let mut sources = Vec::new();
    read_below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut sources);
    graph(&sources)
}

fn made_up(sources: &[(&str, &str)]) -> Graph {
    let own = |(path, text): &(&str, &str)| (path.to_string(), text.to_string());
    graph(&sources.iter().map(own).collect::<Vec<_>>())
}

#[test]
fn no_modules_of_the_core_stand_on_each_other() {
    let graph = core();
    assert!(graph["hypervisor"].contains_key("machine"), "the sources were read");
    if let Some(circle) = circle(&graph) {
        panic!("a circle of {} modules:\n{}", circle.len(), told(&graph, &circle));
    }
}

#[test]
fn the_modules_of_the_core_stand_as_the_architecture_says() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md")).unwrap();
    let wrong = contradictions(&core(), &layers(&page));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_form_of_a_path_from_the_root_is_seen_and_nothing_else() {
    for (what, depth, source, wanted) in [
        ("a path", 1, "use crate::memory::pool;", vec!["memory"]),
        (
            "a path in the code",
            1,
            "fn f() { crate::trace::call(1, 2) }",
            vec!["trace"],
        ),
        ("a macro's path", 1, "$crate::sync::lock()", vec!["sync"]),
        (
            "a group",
            1,
            "use crate::{abi, memory::{pool, frames}, vgic::Vgic as V};",
            vec!["abi", "memory", "vgic"],
        ),
        (
            "a group over lines",
            1,
            "use crate::{\n    abi::{a, b},\n    ids,\n};",
            vec!["abi", "ids"],
        ),
        (
            "a visibility",
            1,
            "pub(crate) mod pool; pub(in crate::stage2) fn f() {}",
            vec!["stage2"],
        ),
        (
            "a line's comment",
            1,
            "// crate::a\n//! crate::b\nuse crate::c;",
            vec!["c"],
        ),
        (
            "a block's comment",
            1,
            "/* crate::a /* crate::b */ crate::c */ use crate::d;",
            vec!["d"],
        ),
        (
            "strings",
            1,
            r##"f("// \" crate::a", r"\", r#"" crate::b"#); use crate::c;"##,
            vec!["c"],
        ),
        (
            "characters and lifetimes",
            1,
            r#"f::<'a>('"', '\'', b'"', '€'); use crate::d;"#,
            vec!["d"],
        ),
        (
            "the module above, at the top",
            1,
            "use super::routing;",
            vec!["routing"],
        ),
        ("the module above, in a folder", 2, "use super::routing;", vec![]),
        (
            "two above, in a folder",
            2,
            "use super::super::{routing, rtc};",
            vec!["routing", "rtc"],
        ),
        (
            "a module within",
            1,
            "mod tests { use super::own; use super::super::rtc; } use super::vgic;",
            vec!["rtc", "vgic"],
        ),
        ("another's name", 1, "mycrate::a(); x.crate_::b; crate_::c;", vec![]),
    ] {
        let found: Vec<&str> = roots(source, depth).into_iter().map(|token| token.1).collect();
        assert_eq!(found, wanted, "{what}");
    }
}

#[test]
fn the_shortest_circle_is_found_with_the_lines_that_make_it() {
    let mut sources = vec![
        ("a.rs", "use crate::b;"),
        ("b.rs", "use crate::{\n    c::x,\n    d,\n};"),
        ("c.rs", "use crate::a;"),
        (
            "d/e.rs",
            "fn f() {\n    crate::d::g(crate::b::h)\n}\nuse crate::f; // crate::a",
        ),
        ("f.rs", "use crate::f::own;"),
    ];
    let graph = made_up(&sources);
    let found = circle(&graph).expect("there are two");
    assert_eq!(
        told(&graph, &found),
        "b -> d\n    src/b.rs:3: d,\nd -> b\n    src/d/e.rs:2: crate::d::g(crate::b::h)\n"
    );
    sources[3].1 = "// use crate::b;";
    let graph = made_up(&sources);
    assert_eq!(circle(&graph), Some(vec!["a", "b", "c"]));
    sources[2].1 = "/* use crate::a; */";
    assert_eq!(circle(&made_up(&sources)), None);
}

#[test]
fn what_contradicts_the_layers_is_told() {
    let page =
        "## Who stands on whom\n\n| a | b |\n|---|---|\n| `a`, `b` | x |\n| `c` | `b` |\n\n## More\n| `d` | y |\n";
    let layers = layers(page);
    assert_eq!(layers, [vec!["a", "b"], vec!["c"]]);
    let graph = made_up(&[("a.rs", "use crate::c;"), ("b/x.rs", ""), ("c.rs", "")]);
    assert_eq!(contradictions(&graph, &layers), Vec::<String>::new());
    let graph = made_up(&[
        ("a.rs", "use crate::b;"),
        ("b.rs", ""),
        ("c.rs", "\nuse crate::a;"),
        ("d.rs", ""),
    ]);
    assert_eq!(
        contradictions(&graph, &layers),
        [
            "a does not stand above b: src/a.rs:1: use crate::b;",
            "c does not stand above a: src/c.rs:2: use crate::a;",
            "d is not there once",
        ]
    );
    let graph = made_up(&[("a.rs", ""), ("b.rs", "")]);
    assert_eq!(contradictions(&graph, &layers), ["c is no module"]);
}
