//! What a person asks for by the console's keys: tables of what domains are, do and wait for.
//!
//! A key only leaves a wish. The report is a cursor, and whoever next has the console's output in hand makes one line of
//! it: a short look under one lock at a time, some text, a place to go on from. The next line comes when the one before is
//! on its way and a slice has passed, so a report costs guests next to nothing and what they print comes in between, line
//! by line. How much a guest has of anything does not matter: what is long is cut with a count, and what does not answer
//! is said not to. Another wish takes the place of a report that is not through.

mod counters;
mod domains;
mod events;
mod interrupts;
mod registers;
mod servers;
mod text;
mod trace;

use core::fmt::Write;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::console::keys::{KEYS, Topic};
use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
use crate::hypervisor::Hypervisor;
use crate::hypervisor::tables::text::Line;
use crate::hypervisor::visits::Snapshot;
use crate::ids::{DomainId, PcpuId, Ticks};
use crate::machine::Machine;
use crate::sync::Mutex;

/// Looks that one call takes for a line: the others go on with theirs.
const LOOKS: usize = 4;
/// Rows of one kind that are shown of one domain.
const ROWS: u32 = 48;
/// How long a pCPU may need to come, in slices.
const PATIENCE: u64 = 100;

/// What a look gave.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Step {
    /// A line.
    Line,
    /// No line so far.
    Further,
    /// Nothing yet: somebody else has to do something first.
    Wait,
    /// The domain has no more lines.
    Done,
}

/// Where a report is inside a domain.
#[derive(Debug, Default)]
struct Place {
    /// Which part.
    part: u8,
    vcpu: u8,
    /// Which row of the part, by whatever number rows have there.
    row: u32,
    /// Rows of the part that were shown, and that were not for their number.
    shown: u32,
    hidden: u32,
    snapshot: Option<Snapshot>,
    tail: trace::Tail,
}

impl Place {
    /// The next part, from its first row on.
    fn next_part(&mut self) -> Step {
        self.part += 1;
        self.row = 0;
        self.shown = 0;
        self.hidden = 0;
        Step::Further
    }

    /// The first part of the next vCPU.
    fn next_vcpu(&mut self) -> Step {
        *self = Self {
            vcpu: self.vcpu + 1,
            ..Self::default()
        };
        Step::Further
    }

    /// Whether one more row is shown; others are counted.
    fn has_room(&self) -> bool {
        self.shown < ROWS
    }

    /// Says how many rows were not shown, and goes on to the next part.
    fn end_rows(&mut self, line: &mut Line) -> Step {
        let hidden = self.hidden;
        self.next_part();
        if hidden == 0 {
            return Step::Further;
        }
        let _ = write!(line, "  and {hidden} more");
        Step::Line
    }
}

#[derive(Debug)]
struct Table {
    topic: Topic,
    /// The one that it is about; else all.
    only: Option<DomainId>,
    /// Its title was shown.
    begun: bool,
    /// The domain that comes next, or that it is in the middle of.
    domain: DomainId,
    place: Place,
}

/// The report that is being made, and what was asked for since.
#[derive(Debug)]
pub(crate) struct Tables {
    /// [`encode`]d; [`NOTHING`].
    wanted: AtomicU32,
    /// When its next line is due; `u64::MAX`: there is none.
    due: AtomicU64,
    current: Mutex<Option<Table>>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            wanted: AtomicU32::new(NOTHING),
            due: AtomicU64::new(u64::MAX),
            current: Mutex::new(None),
        }
    }
}

impl Tables {
    /// When the boot pCPU is to make the next line, or could have already; the last tick of all: never.
    #[inline]
    pub(crate) fn due(&self) -> Ticks {
        Ticks(self.due.load(Ordering::Relaxed))
    }
}

const NOTHING: u32 = u32::MAX;

fn encode(topic: Topic, domain: Option<DomainId>) -> u32 {
    (topic as u32) << 16 | u32::from(domain.map_or(u16::MAX, |domain| domain.0))
}

fn decode(wanted: u32) -> Option<Table> {
    let topic = Topic::ALL.into_iter().find(|topic| *topic as u32 == wanted >> 16)?;
    let only = DomainId(wanted as u16);
    Some(Table {
        topic,
        only: (only.0 != u16::MAX).then_some(only),
        begun: false,
        domain: DomainId(0),
        place: Place::default(),
    })
}

impl<M: Machine> Hypervisor<M> {
    /// Somebody at the console wants to know. The console may be locked.
    pub(crate) fn order_table(&self, topic: Topic, domain: Option<DomainId>) {
        self.tables.wanted.store(encode(topic, domain), Ordering::SeqCst);
        self.tables.due.store(0, Ordering::SeqCst);
        self.on_deadline(PcpuId(0));
        self.machine.kick(PcpuId(0));
    }

    /// Makes the next line, if one is due and the one before is on its way to the terminal.
    #[inline(never)]
    pub(crate) fn continue_table(&self) {
        let now = self.machine.now();
        if self.tables.due() > now || self.is_finished() {
            return;
        }
        let Some(mut current) = self.tables.current.try_lock() else {
            return;
        };
        let wanted = self.tables.wanted.swap(NOTHING, Ordering::SeqCst);
        if let Some(table) = decode(wanted) {
            *current = Some(table);
            self.forget_snapshot();
        }
        let goes_on = current.as_mut().is_some_and(|table| self.make_line(table));
        if !goes_on {
            *current = None;
            self.console.lock().hold_back(false);
        }
        let due = if goes_on {
            now.0.saturating_add(self.slice.0)
        } else {
            u64::MAX
        };
        self.tables.due.store(due, Ordering::SeqCst);
        if self.tables.wanted.load(Ordering::SeqCst) != NOTHING {
            self.tables.due.store(0, Ordering::SeqCst);
        }
    }

    /// Whether there is more to come.
    fn make_line(&self, table: &mut Table) -> bool {
        if self.console.lock().backlog() > 0 {
            return true;
        }
        for _ in 0..LOOKS {
            let mut line = Line::new();
            match self.next_line(table, &mut line) {
                Some(Step::Line) => {
                    let mut console = self.console.lock();
                    console.hold_back(true);
                    console.print(line.as_bytes());
                    console.print(b"\n");
                    return true;
                }
                Some(Step::Further | Step::Done) => {}
                Some(Step::Wait) => return true,
                None => return false,
            }
        }
        true
    }

    /// One look; `None`: that was all.
    fn next_line(&self, table: &mut Table, line: &mut Line) -> Option<Step> {
        if !table.begun {
            table.begun = true;
            if let Some(title) = title(table.topic) {
                line.push(title);
                return Some(Step::Line);
            }
        }
        let place = &mut table.place;
        if table.topic == Topic::Keys {
            return keys(place, line);
        }
        let wanted = |domain: &&Domain| domain.id >= table.domain && table.only.is_none_or(|only| only == domain.id);
        let domain = self.domains().find(wanted)?;
        table.domain = domain.id;
        let step = match table.topic {
            Topic::Keys => Step::Done,
            Topic::Domains => self.domain_line(domain, place, line),
            Topic::Vcpus => self.vcpu_line(domain, place, line),
            Topic::Registers => self.register_line(domain, place, line),
            Topic::Interrupts => self.interrupt_line(domain, place, line),
            Topic::Servers => self.server_line(domain, place, line),
            Topic::Events => self.event_line(domain, place, line),
            Topic::Counters => self.counter_line(domain, place, line),
            Topic::Trace => self.trace_line(domain, place, line),
        };
        if step == Step::Done {
            table.domain = DomainId(domain.id.0.saturating_add(1));
            table.place = Place::default();
        }
        Some(step)
    }

    /// Has the registers of `vcpu` in `place`, once its pCPU has copied them. `Err`: what to do instead; a line says that the
    /// pCPU does not come, and then there will be none.
    fn fetch_snapshot(&self, vcpu: &Vcpu, place: &mut Place, line: &mut Line) -> Result<(), Step> {
        match self.snapshot_of(vcpu.id) {
            Ok(snapshot) => {
                place.snapshot = Some(snapshot);
                Ok(())
            }
            Err(None) => {
                self.ask_for_snapshot(vcpu);
                Err(Step::Wait)
            }
            Err(Some(since)) => {
                let waited = self.machine.now().0.saturating_sub(since.0);
                if waited < self.slice.0.saturating_mul(PATIENCE) {
                    return Err(Step::Wait);
                }
                self.forget_snapshot();
                let _ = write!(line, "  pCPU {} does not answer", vcpu.pcpu.0);
                Err(Step::Line)
            }
        }
    }
}

/// The first line of a table.
fn title(topic: Topic) -> Option<&'static str> {
    match topic {
        Topic::Keys => Some("Ctrl-a, then (a small letter: of the domain in focus, its capital: of all)"),
        Topic::Domains => Some(domains::TITLE),
        Topic::Vcpus => Some(domains::VCPU_TITLE),
        Topic::Registers | Topic::Interrupts | Topic::Servers | Topic::Events | Topic::Counters | Topic::Trace => None,
    }
}

/// What is no table.
const OTHER_KEYS: [&str; 3] = [
    "  Ctrl-a Ctrl-a        input goes to the next domain",
    "  Ctrl-a, another key  one Ctrl-a and that key are for the domain in focus",
    "  q     quit",
];

fn keys(place: &mut Place, line: &mut Line) -> Option<Step> {
    let index = place.row as usize;
    place.row += 1;
    match KEYS.get(index) {
        Some(key) => {
            let byte = char::from(key.byte);
            let _ = if key.one {
                write!(line, "  {byte} {}   {}", byte.to_ascii_uppercase(), key.text)
            } else {
                write!(line, "  {byte}     {}", key.text)
            };
        }
        None => line.push(OTHER_KEYS.get(index - KEYS.len())?),
    }
    Some(Step::Line)
}
