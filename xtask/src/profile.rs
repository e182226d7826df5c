//! Where the instructions of one operation go: counted one by one from QEMU's execution log, function by function.
//!
//! QEMU logs the address of every instruction into a pipe. The benchmark's guest walks through two patterns of jumps, one
//! right before its first reading of the counter and one right after the second ([`Mark`]); what lies between, on any CPU, is
//! one operation. The hypervisor's addresses are given to llvm-symbolizer, which also knows what was inlined.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::failure::{Doing, Failure, Result, failed};
use crate::qemu::Board;
use crate::setup::find;

/// An instruction that was executed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
struct Executed {
    address: u64,
    /// Exception level.
    level: u8,
    /// By which CPU.
    cpu: usize,
}

/// What a line of the log says; `None`: something else.
///
/// `Trace CPU: HOST [CS_BASE/PC/FLAGS/CFLAGS]`; bits 7:4 of the flags hold the translation regime, twice the level above
/// EL0 and more.
fn parse(line: &[u8]) -> Option<Executed> {
    let fields = line.strip_prefix(b"Trace ")?;
    let cpu = fields.split(|byte| *byte == b':').next()?;
    let cpu = std::str::from_utf8(cpu).ok()?.trim().parse().ok()?;
    let open = fields.iter().position(|byte| *byte == b'[')?;
    let mut numbers = fields
        .get(open + 1..)?
        .split(|byte| *byte == b'/')
        .skip(1)
        .map(hexadecimal);
    let (address, flags) = (numbers.next()??, numbers.next()??);
    let level = match flags >> 4 & 0xf {
        6.. => 2,
        _ => 1,
    };
    Some(Executed { address, level, cpu })
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(value << 4 | u64::from(digit))
    })
}

/// Jumps of the guest that no compiler makes, as distances from one instruction to the next.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Mark {
    Begin,
    End,
}

const BEGIN: [i64; 3] = [8, -4, 8];
const END: [i64; 4] = [12, -4, -4, 12];

/// Finds operations in the stream of instructions.
#[derive(Debug, Default)]
struct Operations {
    cpus: BTreeMap<usize, Track>,
    /// What the operation at hand has executed, and whose it is.
    open: Option<(usize, Vec<Executed>)>,
    totals: Totals,
}

/// What one CPU did last.
#[derive(Debug, Default)]
struct Track {
    /// The last few distances between instructions of guests.
    distances: [i64; 4],
    last: Option<Executed>,
    /// The vector through which a guest came to EL2, and how many instructions that executes there.
    stay: Option<(u64, u64)>,
}

/// What all operations executed.
#[derive(Debug, Default)]
struct Totals {
    operations: u64,
    guests: u64,
    hypervisor: BTreeMap<u64, u64>,
    /// The longest way through EL2 by the offset of its vector, in all that was logged.
    longest: BTreeMap<u64, u64>,
}

/// Bytes of one exception's code in the table of vectors, and of the table.
const VECTOR: u64 = 0x80;
const VECTORS: u64 = 0x800;

impl Operations {
    fn execute(&mut self, now: Executed) {
        let track = self.cpus.entry(now.cpu).or_default();
        track.follow(now, &mut self.totals);
        if let Some((_, open)) = &mut self.open {
            open.push(now);
        }
        match (track.mark(), &self.open) {
            (Some(Mark::Begin), _) => self.open = Some((now.cpu, Vec::new())),
            (Some(Mark::End), Some((cpu, operation))) if *cpu == now.cpu => {
                self.totals.add(operation);
                self.open = None;
            }
            _ => {}
        }
    }
}

impl Track {
    fn follow(&mut self, now: Executed, totals: &mut Totals) {
        let distance = match self.last {
            Some(last) if last.level == 1 && now.level == 1 => now.address.wrapping_sub(last.address) as i64,
            _ => 0,
        };
        self.stay(now, totals);
        self.last = Some(now);
        self.distances.rotate_left(1);
        self.distances[3] = distance;
    }

    /// Interrupts are masked from a vector to the return to a guest.
    fn stay(&mut self, now: Executed, totals: &mut Totals) {
        match (self.last.map(|last| last.level), now.level, &mut self.stay) {
            (Some(1), 2, stay) => *stay = Some((now.address % VECTORS / VECTOR * VECTOR, 1)),
            (_, 2, Some((_, executed))) => *executed += 1,
            (_, 1, stay) => {
                if let Some((vector, executed)) = stay.take() {
                    let longest = totals.longest.entry(vector).or_default();
                    *longest = executed.max(*longest);
                }
            }
            _ => {}
        }
    }

    fn mark(&self) -> Option<Mark> {
        if self.distances == END {
            Some(Mark::End)
        } else if self.distances[1..] == BEGIN {
            Some(Mark::Begin)
        } else {
            None
        }
    }
}

impl Totals {
    fn add(&mut self, operation: &[Executed]) {
        self.operations += 1;
        for executed in operation {
            if executed.level == 2 {
                *self.hypervisor.entry(executed.address).or_default() += 1;
            } else {
                self.guests += 1;
            }
        }
        // The jumps of the mark at its end.
        self.guests = self.guests.saturating_sub(END.len() as u64 + 1);
    }
}

/// A reader of the log, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Reader(thread::JoinHandle<Result<Totals>>);

/// Makes `command` log into a pipe in `folder`, and starts to read it. The machine must be started, or this waits for ever.
pub(crate) fn attach(command: &mut Command, folder: &Path) -> Result<Reader> {
    let pipe = folder.join("execution.pipe");
    let _ = fs::remove_file(&pipe);
    let made = Command::new("mkfifo").arg(&pipe).status().doing("running mkfifo")?;
    if !made.success() {
        return failed(format!("there is no pipe {}", pipe.display()));
    }
    command.args(["-singlestep", "-d", "exec,nochain", "-D"]).arg(&pipe);
    Ok(Reader(thread::spawn(move || read(&pipe))))
}

fn read(pipe: &Path) -> Result<Totals> {
    let mut log = BufReader::with_capacity(1 << 20, File::open(pipe).doing("opening the execution log")?);
    let mut operations = Operations::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        if log.read_until(b'\n', &mut line).doing("reading the execution log")? == 0 {
            break;
        }
        if let Some(executed) = parse(&line) {
            operations.execute(executed);
        }
    }
    let _ = fs::remove_file(pipe);
    Ok(operations.totals)
}

impl Reader {
    /// Waits for the end of the log and tells where the instructions went, by the symbols in `elf` and the sources under
    /// `root`.
    pub(crate) fn report(self, elf: &Path, root: &Path) -> Result<String> {
        let totals = self
            .0
            .join()
            .map_err(|_| Failure::Failed("the log's reader failed".into()))??;
        if totals.operations == 0 {
            return failed("no operation was found in the execution log");
        }
        let relative = totals
            .hypervisor
            .keys()
            .map(|address| address.wrapping_sub(Board::QemuVirt.image()));
        let places = symbolize(elf, root, relative)?;
        Ok(table(&totals, &places))
    }
}

/// Where an instruction is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Place {
    /// The innermost function of this workspace, which may have been inlined.
    function: String,
    /// The function whose symbol it has.
    symbol: String,
    /// The source file of `function`.
    file: String,
}

fn symbolize(elf: &Path, root: &Path, addresses: impl Iterator<Item = u64>) -> Result<Vec<Place>> {
    let Some(program) = find("llvm-symbolizer") else {
        return failed("llvm-symbolizer is missing: install the package llvm");
    };
    let mut child = Command::new(program)
        .args(["--inlines", "--no-demangle", "--output-style=LLVM", "--obj"])
        .arg(elf)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .doing("running llvm-symbolizer")?;
    let list: String = addresses.map(|address| format!("{address:#x}\n")).collect();
    let mut input = child.stdin.take();
    let writer = thread::spawn(move || input.as_mut().map(|input| input.write_all(list.as_bytes())));
    let output = child.wait_with_output().doing("running llvm-symbolizer")?;
    let _ = writer.join();
    Ok(places(&String::from_utf8_lossy(&output.stdout), root))
}

/// One place for each paragraph: pairs of lines, function and source, from the innermost outwards.
fn places(text: &str, root: &Path) -> Vec<Place> {
    let paragraphs = text.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty());
    let place = |paragraph: &str| {
        let lines: Vec<&str> = paragraph.lines().filter(|line| !line.is_empty()).collect();
        let frames: Vec<(&str, &str)> = lines.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        let root = format!("{}/", root.display());
        let own = frames
            .iter()
            .find_map(|(name, source)| Some((*name, source.strip_prefix(&root)?)));
        let (function, source) = own.or(frames.first().copied()).unwrap_or(("?", "?"));
        Place {
            function: short_name(function),
            symbol: short_name(frames.last().map_or("?", |(name, _)| name)),
            file: source.split(':').next().unwrap_or_default().to_owned(),
        }
    };
    paragraphs.map(place).collect()
}

/// A function's name with the type or module that it belongs to, without type parameters.
fn short_name(name: &str) -> String {
    let name = format!("{:#}", rustc_demangle::demangle(name));
    // The parts between `::` outside of brackets.
    let mut parts = vec![String::new()];
    let mut depth = 0_u32;
    for letter in name.replace("->", "").chars() {
        match letter {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            _ => {}
        }
        match parts.last_mut() {
            Some(part) if letter != ':' || depth > 0 => part.push(letter),
            Some(part) if !part.is_empty() => parts.push(String::new()),
            _ => {}
        }
    }
    // Of a closure, the function that it is in.
    while parts.len() > 1 && parts.last().is_some_and(|part| part == "{{closure}}") {
        parts.pop();
    }
    let parts: Vec<&str> = parts.iter().map(|part| type_name(part)).collect();
    parts
        .get(parts.len().saturating_sub(2)..)
        .unwrap_or_default()
        .join("::")
}

/// The last word of the type that a part of a path names: of `<impl a::B<C>>`, `<a::B as D>` and `B<C>` that is `B`.
fn type_name(part: &str) -> &str {
    let inner = part.strip_prefix('<').unwrap_or(part);
    let inner = inner.strip_prefix("impl ").unwrap_or(inner);
    let inner = inner.split(" as ").next().unwrap_or(inner).trim_start_matches('&');
    let plain = inner.split(['<', '>']).next().unwrap_or(inner);
    plain.rsplit("::").next().unwrap_or(plain)
}

fn table(totals: &Totals, places: &[Place]) -> String {
    let count = totals.operations;
    let each = |sum: u64| sum as f64 / count as f64;
    let all: u64 = totals.hypervisor.values().sum();
    let mut text = format!(
        "{count} operations; each executes {:.1} instructions of EL2 and {:.1} of guests\n",
        each(all),
        each(totals.guests)
    );
    for (vector, executed) in &totals.longest {
        let kind = match vector % (4 * VECTOR) / VECTOR {
            0 => "synchronous exceptions",
            1 => "interrupts",
            2 => "fast interrupts",
            _ => "system errors",
        };
        text.push_str(&format!(
            "longest way with interrupts masked, {kind}: {executed} instructions, the CPU's sleep included\n"
        ));
    }
    type Key = fn(&Place) -> String;
    let kinds: [(&str, Key); 3] = [
        ("by function, with what was inlined into it", |place| {
            place.symbol.clone()
        }),
        ("by function, inlined ones of this workspace apart", |place| {
            place.function.clone()
        }),
        ("by source file", |place| place.file.clone()),
    ];
    for (title, key) in kinds {
        let mut sums = BTreeMap::<String, u64>::new();
        for (executed, place) in totals.hypervisor.values().zip(places) {
            *sums.entry(key(place)).or_default() += executed;
        }
        let mut sums: Vec<(String, u64)> = sums.into_iter().collect();
        sums.sort_by_key(|(_, sum)| std::cmp::Reverse(*sum));
        text.push_str(&format!("\n{title}\n"));
        for (name, sum) in sums {
            text.push_str(&format!("{:>10.1}  {name}\n", each(sum)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Executed, Operations, Place, parse, places, short_name};

    fn run(operations: &mut Operations, level: u8, addresses: &[u64]) {
        for address in addresses {
            operations.execute(Executed {
                address: *address,
                level,
                cpu: 0,
            });
        }
    }

    #[test]
    fn a_line_of_the_log_names_address_and_level() {
        let line = b"Trace 0: 0x7f16a8000100 [0000000000000000/0000000040201abc/00000062/ff000201] \n";
        let executed = parse(line).unwrap();
        assert_eq!((executed.address, executed.level, executed.cpu), (0x4020_1abc, 2, 0));
        let line = b"Trace 13: 0x7f16a8000100 [0000000000000000/0000000040000010/00000042/ff000201] \n";
        assert_eq!(
            parse(line).map(|executed| (executed.level, executed.cpu)),
            Some((1, 13))
        );
        for line in [
            &b"Stopped execution of TB chain"[..],
            b"Trace 0: [",
            b"Trace 0: [0/zz/0/0]",
        ] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn only_what_lies_between_the_marks_counts() {
        let mut operations = Operations::default();
        let begin = [0x100, 0x108, 0x104, 0x10c];
        let end = [0x200, 0x20c, 0x208, 0x204, 0x210];
        run(&mut operations, 2, &[0x900]);
        run(&mut operations, 1, &begin);
        run(&mut operations, 1, &[0x110]);
        run(&mut operations, 2, &[0x900, 0x904]);
        run(&mut operations, 1, &end);
        run(&mut operations, 2, &[0x900]);
        // A second mark of the beginning takes the first one back.
        run(&mut operations, 1, &begin);
        run(&mut operations, 2, &[0x900]);
        run(&mut operations, 1, &begin);
        run(&mut operations, 2, &[0x904]);
        run(&mut operations, 1, &end);
        let totals = operations.totals;
        assert_eq!(totals.longest.into_iter().collect::<Vec<_>>(), [(0x100, 2)]);
        assert_eq!((totals.operations, totals.guests), (2, 1));
        assert_eq!(
            totals.hypervisor.into_iter().collect::<Vec<_>>(),
            [(0x900, 1), (0x904, 2)]
        );
    }

    #[test]
    fn what_other_cpus_execute_between_the_marks_of_one_counts_too() {
        let mut operations = Operations::default();
        let mut execute = |cpu, level, addresses: &[u64]| {
            for address in addresses {
                operations.execute(Executed {
                    address: *address,
                    level,
                    cpu,
                });
            }
        };
        execute(0, 1, &[0x100, 0x108]);
        execute(1, 2, &[0x800]);
        execute(0, 1, &[0x104, 0x10c]);
        execute(1, 2, &[0x904]);
        execute(1, 1, &[0x200, 0x20c, 0x208, 0x204, 0x210]);
        execute(0, 1, &[0x200, 0x20c]);
        execute(1, 2, &[0x908]);
        execute(0, 1, &[0x208, 0x204, 0x210]);
        let totals = operations.totals;
        assert_eq!((totals.operations, totals.guests), (1, 5));
        assert_eq!(
            totals.hypervisor.into_iter().collect::<Vec<_>>(),
            [(0x904, 1), (0x908, 1)]
        );
    }

    #[test]
    fn an_instruction_is_the_innermost_function_s_of_this_workspace() {
        let text = "core::mem::take::<u32>\n/rustc/x/library/core/src/mem/mod.rs:1:2\n<a::b::Vgic>::flush\n/r/src/vgic.rs:3:4\n\
            x::run::decide\n/r/arch/run.rs:5:6\n\nmemcpy\n/r/x.rs:1:1\n\n";
        let found = places(text, Path::new("/r"));
        let place = |function: &str, symbol: &str, file: &str| Place {
            function: function.into(),
            symbol: symbol.into(),
            file: file.into(),
        };
        let expected = [
            place("Vgic::flush", "run::decide", "src/vgic.rs"),
            place("memcpy", "memcpy", "x.rs"),
        ];
        assert_eq!(found, expected);
        for (name, short) in [
            ("a::b::Vgic::flush", "Vgic::flush"),
            ("<a::A<B> as c::C>::f", "A::f"),
            (
                "a::mmio::<impl a::Hypervisor<M>>::route::{{closure}}",
                "Hypervisor::route",
            ),
            ("memcpy", "memcpy"),
        ] {
            assert_eq!(short_name(name), short);
        }
    }
}
