//! Runs tables, and counts.

use guest_runtime::println;
use portunus::abi::HypercallError;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::case::{Case, Class, Expected, Row, Structure, Table};
use crate::differences::{self, Otherwise};
use crate::snapshot::Snapshot;
use crate::trampoline::{Kept, call};
use crate::world::World;

/// How many rows there were of each class.
#[derive(Copy, Clone, Debug, Default)]
struct Counts([u32; 3]);

impl Counts {
    fn add(&mut self, class: Class) {
        self.0[class as usize] += 1;
    }
    fn all(self) -> u32 {
        self.0.iter().sum()
    }
}

/// Results of one hypercall's tables.
#[derive(Copy, Clone, Debug, Default)]
struct Results {
    rows: Counts,
    failed: u32,
    differ: u32,
    skipped: u32,
}

impl Results {
    fn add(&mut self, other: Self) {
        for (count, more) in self.rows.0.iter_mut().zip(other.rows.0) {
            *count += more;
        }
        self.failed += other.failed;
        self.differ += other.differ;
        self.skipped += other.skipped;
    }
}

/// The whole run.
pub(crate) struct Suite {
    /// This domain's name in what it prints.
    pub(crate) role: &'static str,
    /// A line for each row.
    pub(crate) verbose: bool,
    /// A line for each operation, with its numbers of rows.
    pub(crate) counts: bool,
    pub(crate) world: World,
    call: &'static str,
    now: Results,
    all: Results,
    /// Rows by their difference, wherever the suite runs.
    otherwise: [u32; differences::COUNT],
}

/// Why a row has failed.
enum Failure {
    Returned(u64, Expected),
    Changed(Kept, u64),
    Guards,
    Structure,
    Check,
    State(&'static str),
    Left(&'static str),
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Returned(value, expected) if (*value as i64) < 0 && *value as i64 > -4096 => {
                write!(f, "x0 is {}, not {expected}", *value as i64)
            }
            Self::Returned(value, expected) => write!(f, "x0 is {value:#x}, not {expected}"),
            Self::Changed(what, value) => write!(f, "{what} has become {value:#x}"),
            Self::Guards => write!(f, "memory around the structure has changed"),
            Self::Structure => write!(f, "a refused call has written"),
            Self::Check => write!(f, "its effect is wrong"),
            Self::State(what) => write!(f, "a refused call has changed {what}"),
            Self::Left(what) => write!(f, "it has changed {what} for good"),
        }
    }
}

impl Suite {
    pub(crate) fn new(role: &'static str, verbose: bool, counts: bool, world: World) -> Self {
        Self {
            role,
            verbose,
            counts,
            world,
            call: "",
            now: Results::default(),
            all: Results::default(),
            otherwise: [0; differences::COUNT],
        }
    }

    /// Ends the tables of one hypercall, and says how they went.
    pub(crate) fn finish(&mut self) {
        let now = core::mem::take(&mut self.now);
        if now.rows.all() + now.skipped > 0 {
            println!(
                "xtf {}: {}: {} rows, {} failed, {} differ by design, {} skipped",
                self.role,
                self.call,
                now.rows.all(),
                now.failed,
                now.differ,
                now.skipped
            );
        }
        self.all.add(now);
    }

    /// Says how all of it went.
    pub(crate) fn conclude(&self) {
        let rows = self.otherwise.iter().enumerate();
        for (index, count) in rows.filter(|(_, count)| self.counts && **count > 0) {
            let [call, operation, row] = differences::names(index);
            println!("xtf {}: otherwise: {call} / {operation} / {row}: {count}", self.role);
        }
        let all = self.all;
        println!(
            "xtf {}: {} rows: {} good, {} boundary, {} bad; {} failed, {} differ by design, {} skipped",
            self.role,
            all.rows.all(),
            all.rows.0[0],
            all.rows.0[1],
            all.rows.0[2],
            all.failed,
            all.differ,
            all.skipped
        );
    }

    /// Rows can't be run: that is a failure, too.
    pub(crate) fn fails(&mut self, why: &str) {
        self.now.failed += 1;
        println!("xtf {}: FAILED: {why}", self.role);
    }

    /// Runs a table, and the rows that every structure gets.
    pub(crate) fn table<T: Copy + FromBytes + IntoBytes + Immutable>(&mut self, table: &Table<'_, T>) {
        if self.call != table.call {
            self.finish();
            self.call = table.call;
        }
        let mut counts = Counts::default();
        let place = self.world.place();
        for row in table.rows {
            self.row(table, row, place, &mut counts);
        }
        if matches!(
            table.structure,
            Structure::Input | Structure::Counted | Structure::InOut | Structure::InOutOrNone
        ) {
            let across = self.world.place_across(size_of::<T>());
            self.row(
                table,
                &Row::boundary("structure across two pages", |_, _| {}).returns(Expected::Success),
                across,
                &mut counts,
            );
            let meaning = usize::from(table.structure == Structure::InOutOrNone);
            for (name, change) in BAD_POINTERS.into_iter().skip(meaning) {
                let bad = |case: &mut Case<T>, world: &mut World, place: u64| point(case, place, change(world));
                self.bad_pointer(table, name, place, &mut counts, bad);
            }
            if table.structure == Structure::InOut {
                let bad = |case: &mut Case<T>, world: &mut World, place: u64| point(case, place, world.read_only + 64);
                self.bad_pointer(
                    table,
                    "structure in memory that may only be read",
                    place,
                    &mut counts,
                    bad,
                );
            }
        }
        for (count, more) in self.now.rows.0.iter_mut().zip(counts.0) {
            *count += more;
        }
        if self.counts {
            let [good, boundary, bad] = counts.0;
            println!(
                "xtf {}: counts of {} {}: {good} good, {boundary} boundary, {bad} bad",
                self.role, table.call, table.operation
            );
        }
    }

    fn bad_pointer<T: Copy + FromBytes + IntoBytes + Immutable>(
        &mut self,
        table: &Table<'_, T>,
        name: &'static str,
        place: u64,
        counts: &mut Counts,
        bad: impl Fn(&mut Case<T>, &mut World, u64),
    ) {
        let row = Row::bad(name, HypercallError::BadPointer, |_, _| {});
        let row = match table.structure {
            Structure::Counted => row.returns(Expected::Value(0)),
            _ => row,
        };
        self.row_with(table, &row, place, counts, |case, world| bad(case, world, place));
    }

    fn row<T: Copy + FromBytes + IntoBytes + Immutable>(
        &mut self,
        table: &Table<'_, T>,
        row: &Row<T>,
        place: u64,
        counts: &mut Counts,
    ) {
        self.row_with(table, row, place, counts, row.change);
    }

    fn row_with<T: Copy + FromBytes + IntoBytes + Immutable>(
        &mut self,
        table: &Table<'_, T>,
        row: &Row<T>,
        place: u64,
        counts: &mut Counts,
        change: impl Fn(&mut Case<T>, &mut World),
    ) {
        counts.add(row.class);
        let mut expected = row.expected;
        let mut differs = None;
        let mut perhaps = None;
        let known = differences::find(table.call, table.operation, row.name);
        if let Some((index, ..)) = known {
            self.otherwise[index] += 1;
        }
        if let Some((_, otherwise, reason)) = known.filter(|_| !self.world.on_portunus) {
            differs = Some(reason);
            match otherwise {
                Otherwise::Returns(other) => expected = other,
                Otherwise::Perhaps(other) => perhaps = Some(other),
                Otherwise::Skipped => {
                    self.now.skipped += 1;
                    self.tell(table, row, format_args!("skipped: {reason}"));
                    return;
                }
            }
        }
        match self.try_row(table, row, (expected, perhaps), place, change) {
            Ok(()) => match differs {
                Some(reason) => {
                    self.now.differ += 1;
                    self.tell(table, row, format_args!("differs: {reason}"));
                }
                None => self.tell(table, row, format_args!("ok")),
            },
            Err(failure) => {
                self.now.failed += 1;
                println!(
                    "xtf {}: FAILED: {} {}: {}, {}: {failure}",
                    self.role,
                    table.call,
                    table.operation,
                    row.class.name(),
                    row.name
                );
            }
        }
    }

    fn tell<T>(&self, table: &Table<'_, T>, row: &Row<T>, result: core::fmt::Arguments<'_>) {
        if self.verbose {
            println!(
                "xtf {}: {} {}: {}, {}: {result}",
                self.role,
                table.call,
                table.operation,
                row.class.name(),
                row.name
            );
        }
    }

    fn try_row<T: Copy + FromBytes + IntoBytes + Immutable>(
        &mut self,
        table: &Table<'_, T>,
        row: &Row<T>,
        (expected, perhaps): (Expected, Option<Expected>),
        place: u64,
        change: impl Fn(&mut Case<T>, &mut World),
    ) -> Result<(), Failure> {
        let world = &mut self.world;
        let first = Snapshot::take(world);
        let mut case = Case {
            registers: (table.registers)(place),
            structure: T::new_zeroed(),
            x0: 0,
        };
        // Lists are written by table and row; the guards must be there before.
        world.put(place, &case.structure);
        case.structure = (table.good)(place, world);
        change(&mut case, world);
        world.put_structure(place, &case.structure);
        let before = Snapshot::take(world);
        // SAFETY: rows give what is the suite's.
        let made = unsafe { call(table.conduit, table.number, case.registers) };
        let given = case.structure;
        case.structure = world.get(place);
        case.x0 = made.results[0];
        let expected = perhaps.filter(|other| other.matches(case.x0)).unwrap_or(expected);
        let result = judge(table, row, expected, place, &case, &given, &made, world);
        let refused = row.class == Class::Bad;
        let state = refused.then(|| Snapshot::take(world).difference(&before)).flatten();
        let checked = result.and_then(|()| {
            if differs_from(row.expected, expected) || (row.check)(&case, world) {
                Ok(())
            } else {
                Err(Failure::Check)
            }
        });
        (table.undo)(&case, world);
        world.clean();
        checked?;
        if let Some(what) = state {
            return Err(Failure::State(what));
        }
        match Snapshot::take(world).difference(&first) {
            Some(what) => Err(Failure::Left(what)),
            None => Ok(()),
        }
    }
}

fn differs_from(one: Expected, other: Expected) -> bool {
    one != other
}

#[expect(clippy::too_many_arguments)]
fn judge<T: Copy + FromBytes + IntoBytes + Immutable>(
    table: &Table<'_, T>,
    row: &Row<T>,
    expected: Expected,
    place: u64,
    case: &Case<T>,
    given: &T,
    made: &crate::trampoline::Made,
    world: &World,
) -> Result<(), Failure> {
    if !expected.matches(case.x0) {
        return Err(Failure::Returned(case.x0, expected));
    }
    if let Some((what, value)) = made.changed {
        return Err(Failure::Changed(what, value));
    }
    if table.structure != Structure::None && !world.guards_are_whole(place, size_of::<T>()) {
        return Err(Failure::Guards);
    }
    let refused = (case.x0 as i64) < 0;
    if refused && !row.writes && case.structure.as_bytes() != given.as_bytes() {
        return Err(Failure::Structure);
    }
    Ok(())
}

/// Replaces the structure's address wherever the call has it.
fn point<T>(case: &mut Case<T>, place: u64, to: u64) {
    for register in &mut case.registers {
        if *register == place {
            *register = to;
        }
    }
}

/// An address, once the world is known.
type Address = fn(&World) -> u64;

/// Addresses of nothing that a caller may give.
const BAD_POINTERS: [(&str, Address); 5] = [
    ("no structure", |_| 0),
    ("structure in a device", |world| world.device),
    ("structure where stage 2 has nothing", |world| world.nowhere),
    ("structure at no canonical address", |_| 0x8000_0000_0000_0000),
    ("structure at the end of all addresses", |_| u64::MAX - 7),
];
