//! What a row of a table is: a good, a boundary or a bad call, what it must return, and what it must leave behind.

use portunus::abi::HypercallError;
use zerocopy::FromZeros;

use crate::trampoline::Conduit;
use crate::world::World;

/// What a row tries.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Class {
    /// What callers do every day.
    Good,
    /// The first or last value that is allowed.
    Boundary,
    /// What must be refused, with nothing changed.
    Bad,
}

impl Class {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Boundary => "boundary",
            Self::Bad => "bad",
        }
    }
}

/// What x0 must be.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Expected {
    /// This value.
    Value(u64),
    /// Whatever it is, the row looks at it.
    Anything,
    /// Any value that is no error.
    Success,
    /// This error.
    Error(HypercallError),
}

impl Expected {
    pub(crate) fn matches(self, x0: u64) -> bool {
        match self {
            Self::Value(value) => x0 == value,
            Self::Anything => true,
            Self::Success => (x0 as i64) >= 0,
            Self::Error(error) => x0 == error.register(),
        }
    }
}

impl core::fmt::Display for Expected {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Value(value) => write!(f, "{value:#x}"),
            Self::Anything => write!(f, "anything"),
            Self::Success => write!(f, "no error"),
            Self::Error(error) => write!(f, "{}", -error.errno()),
        }
    }
}

/// The registers of one call, and the structure that one of them points to.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Case<T> {
    /// x0 to x4.
    pub(crate) registers: [u64; 5],
    /// Before the call what is given, after it what is there.
    pub(crate) structure: T,
    /// x0 after the call.
    pub(crate) x0: u64,
}

/// One row: the good call of its table, changed.
pub(crate) struct Row<T> {
    pub(crate) class: Class,
    pub(crate) name: &'static str,
    pub(crate) change: fn(&mut Case<T>, &mut World),
    pub(crate) expected: Expected,
    pub(crate) check: fn(&Case<T>, &mut World) -> bool,
    /// The structure has results although the call is refused.
    pub(crate) writes: bool,
}

impl<T> Row<T> {
    /// A call that does what it is for. `change` makes it of the table's own.
    pub(crate) const fn good(name: &'static str, change: fn(&mut Case<T>, &mut World)) -> Self {
        Self {
            class: Class::Good,
            name,
            change,
            expected: Expected::Value(0),
            check: |_, _| true,
            writes: false,
        }
    }
    /// A call at the edge of what is allowed.
    pub(crate) const fn boundary(name: &'static str, change: fn(&mut Case<T>, &mut World)) -> Self {
        Self {
            class: Class::Boundary,
            ..Self::good(name, change)
        }
    }
    /// A call that is refused.
    pub(crate) const fn bad(name: &'static str, error: HypercallError, change: fn(&mut Case<T>, &mut World)) -> Self {
        Self {
            class: Class::Bad,
            expected: Expected::Error(error),
            ..Self::good(name, change)
        }
    }
    /// x0 is to be this.
    pub(crate) const fn returns(mut self, expected: Expected) -> Self {
        self.expected = expected;
        self
    }
    /// The refusal is told in the structure, too.
    pub(crate) const fn writes(mut self) -> Self {
        self.writes = true;
        self
    }
    /// And this is to be so afterwards.
    pub(crate) const fn check(mut self, check: fn(&Case<T>, &mut World) -> bool) -> Self {
        self.check = check;
        self
    }
}

/// x0 to x4 of a call whose structure is at this address.
pub(crate) type Registers = fn(u64) -> [u64; 5];

/// How the structure of a table is passed.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Structure {
    /// There is none.
    None,
    /// It is only read.
    Input,
    /// It is only read; a call without one is refused by having done nothing.
    Counted,
    /// It has results.
    InOut,
    /// It has results; a null pointer means something.
    InOutOrNone,
    /// It is never looked at.
    Ignored,
}

/// The rows of one operation.
pub(crate) struct Table<'a, T> {
    /// The hypercall's name.
    pub(crate) call: &'static str,
    /// The operation's name, as docs/abi.md has it.
    pub(crate) operation: &'static str,
    pub(crate) conduit: Conduit,
    /// The hypercall's number.
    pub(crate) number: u64,
    /// x0 to x4 of the good call, with the structure's address.
    pub(crate) registers: Registers,
    /// How the structure is used; for the rows about bad pointers, which every table with one gets.
    pub(crate) structure: Structure,
    /// The structure of the good call, at this address.
    pub(crate) good: fn(u64, &mut World) -> T,
    /// Takes back what the call did, if it did, and what [`Self::good`] has set up.
    pub(crate) undo: fn(&Case<T>, &mut World),
    pub(crate) rows: &'a [Row<T>],
}

impl<'a, T: FromZeros> Table<'a, T> {
    /// A hypercall with zeroes all over, which leaves nothing to take back.
    pub(crate) fn hypercall(
        (call, number): (&'static str, u64),
        operation: &'static str,
        structure: Structure,
        rows: &'a [Row<T>],
    ) -> Self {
        Self {
            call,
            operation,
            conduit: Conduit::Hypercall,
            number,
            registers: |_| [0; 5],
            structure,
            good: |_, _| T::new_zeroed(),
            undo: |_, _| {},
            rows,
        }
    }
}
