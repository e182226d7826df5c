//! What a domain can see of itself: a call that is refused leaves all of it as it was, and so does one that succeeded and
//! was taken back.

use portunus::abi::grant::{self, QuerySize};
use portunus::abi::hypercall as number;
use portunus::abi::memory;

use crate::world::{DOMID_SELF, Grants, SPARE, World, plain};

/// Ports that are looked at.
const PORTS: u32 = 24;
/// Entries of its grant table.
const REFERENCES: usize = 24;

/// What was seen.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) struct Snapshot {
    ports: [(u32, u32, u32, u32); PORTS as usize],
    pending: u64,
    mask: u64,
    pages: [u64; 2],
    frames: u32,
    spare: u32,
    grants: [u16; REFERENCES],
}

/// This domain's pages, or the most that it may have.
fn pages(operation: u64) -> u64 {
    let domain = DOMID_SELF;
    plain(number::MEMORY_OP, [operation, &raw const domain as u64, 0, 0, 0])
}

impl Snapshot {
    /// Looks at everything.
    pub(crate) fn take(world: &World) -> Self {
        use core::sync::atomic::Ordering;
        let mut size = QuerySize {
            dom: DOMID_SELF,
            ..QuerySize::default()
        };
        plain(
            number::GRANT_TABLE_OP,
            [grant::QUERY_SIZE, &raw mut size as u64, 1, 0, 0],
        );
        let word = |index| {
            let word = world.events.words().nth(index);
            word.map_or(0, |word| word.load(Ordering::Acquire))
        };
        let ports = core::array::from_fn(|port| {
            let status = world.status(port as u32);
            (status.status, status.vcpu, status.peer, status.peer_port)
        });
        let whole = (0..SPARE).filter(|page| world.is_mapped(*page) && world.spare_is_whole(*page));
        Self {
            ports,
            pending: word(0),
            mask: word(64),
            pages: [pages(memory::CURRENT_RESERVATION), pages(memory::MAXIMUM_RESERVATION)],
            frames: size.nr_frames,
            // The other domain takes the page where they meet when it comes.
            grants: core::array::from_fn(|reference| match reference as u32 {
                Grants::MEETING => 0,
                reference => world.entry_flags(reference),
            }),
            spare: whole.fold(0, |pages, page| pages | 1 << page),
        }
    }

    /// What is not as it was, in words.
    pub(crate) fn difference(&self, before: &Self) -> Option<&'static str> {
        let differ = [
            (self.ports != before.ports, "its ports"),
            (self.pending != before.pending, "pending events"),
            (self.mask != before.mask, "masks of events"),
            (self.pages != before.pages, "its number of pages"),
            (self.frames != before.frames, "the size of its grant table"),
            (self.grants != before.grants, "its grant table"),
            (self.spare != before.spare, "the contents of its memory"),
        ];
        differ.into_iter().find(|(differs, _)| *differs).map(|(_, what)| what)
    }
}
