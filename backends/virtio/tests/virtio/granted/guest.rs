//! A guest of a few pages that grants them, and the hypervisor that looks after its grants.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use portunus_virtio::grants::{
    BATCH, GrantError, GrantMemory, GrantReference, GrantedBytes, GrantedPages, GrantedPart, Granter, PAGE_SIZE,
};
use portunus_virtio::memory::GuestAddress;

/// Bit 63 and a reference.
pub(super) fn granted(reference: u32, offset: u64) -> u64 {
    1 << 63 | u64::from(reference) << 12 | offset
}

/// What the guest says of a page, and how often it is mapped.
#[derive(Default)]
pub(super) struct Grant {
    pub(super) page: usize,
    pub(super) revoked: bool,
    pub(super) read_only: bool,
    pub(super) mapped: u32,
}

/// A guest of a few pages, its grants, and the hypervisor that looks after them.
pub(super) struct Guest {
    pub(super) pages: RefCell<Vec<[u8; PAGE_SIZE]>>,
    pub(super) grants: RefCell<BTreeMap<u32, Grant>>,
    pub(super) calls: RefCell<Vec<&'static str>>,
    /// The guest ends the grant of this reference as soon as it is mapped.
    pub(super) revokes: Cell<Option<u32>>,
    /// Room for mapped pages.
    pub(super) room: Cell<usize>,
}

pub(super) const PAGES: usize = 160;

impl Guest {
    pub(super) fn new() -> Self {
        Self {
            pages: RefCell::new(vec![[0; PAGE_SIZE]; PAGES]),
            grants: RefCell::default(),
            calls: RefCell::default(),
            revokes: Cell::new(None),
            room: Cell::new(PAGES),
        }
    }
    /// Grants page `page` under `reference`.
    pub(super) fn grant(&self, reference: u32, page: usize, read_only: bool) {
        let grant = Grant {
            page,
            read_only,
            ..Grant::default()
        };
        self.grants.borrow_mut().insert(reference, grant);
    }
    /// Ends a grant as Linux does: false if it is still mapped, which makes it give its device up.
    pub(super) fn end(&self, reference: u32) -> bool {
        let mut grants = self.grants.borrow_mut();
        let grant = grants.get_mut(&reference).expect("granted");
        grant.revoked = true;
        grant.mapped == 0
    }
    pub(super) fn mapped(&self) -> u32 {
        self.grants.borrow().values().map(|grant| grant.mapped).sum()
    }
    pub(super) fn put(&self, page: usize, offset: usize, bytes: &[u8]) {
        self.pages.borrow_mut()[page][offset..][..bytes.len()].copy_from_slice(bytes);
    }
    pub(super) fn get(&self, page: usize, offset: usize, length: usize) -> Vec<u8> {
        self.pages.borrow()[page][offset..][..length].to_vec()
    }
    pub(super) fn page_for(&self, reference: GrantReference, write: bool) -> Result<usize, GrantError> {
        let grants = self.grants.borrow();
        let grant = grants.get(&reference.0).ok_or(GrantError(reference))?;
        if grant.revoked || (write && grant.read_only) {
            return Err(GrantError(reference));
        }
        Ok(grant.page)
    }
}

/// Mapped pages: the guest's pages, and the references they were mapped by.
pub(super) struct Pages<'a> {
    pub(super) guest: &'a Guest,
    pub(super) pages: Vec<usize>,
    pub(super) references: Vec<u32>,
    pub(super) writable: bool,
}

impl Pages<'_> {
    pub(super) fn page(&self, offset: usize, length: usize) -> usize {
        assert!(offset % PAGE_SIZE + length <= PAGE_SIZE || self.pages.len() > 1);
        self.pages[offset / PAGE_SIZE]
    }
    pub(super) fn bytes(&self, offset: usize, length: usize) -> Vec<u8> {
        (offset..offset + length)
            .map(|at| self.guest.get(self.page(at, 1), at % PAGE_SIZE, 1)[0])
            .collect()
    }
}

impl GrantedPages for Pages<'_> {
    fn read(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.bytes(offset, into.len()));
    }
    fn write(&self, offset: usize, from: &[u8]) {
        assert!(self.writable, "a write to what was mapped for reading");
        for (at, byte) in (offset..).zip(from) {
            self.guest.put(self.page(at, 1), at % PAGE_SIZE, &[*byte]);
        }
    }
    fn load_acquire_u16(&self, offset: usize) -> u16 {
        assert_eq!(offset % 2, 0);
        u16::from_le_bytes(self.bytes(offset, 2).try_into().unwrap())
    }
    fn store_release_u16(&self, offset: usize, value: u16) {
        assert_eq!(offset % 2, 0);
        self.write(offset, &value.to_le_bytes());
    }
}

impl<'a> Granter for &'a Guest {
    type Pages = Pages<'a>;

    fn map_from(&self) -> usize {
        3 * PAGE_SIZE
    }
    fn map(&self, references: &[GrantReference], writable: bool) -> Result<Pages<'a>, GrantError> {
        self.calls.borrow_mut().push("map");
        assert!(references.len() <= BATCH);
        let pages = references.iter().map(|reference| self.page_for(*reference, writable));
        let pages = pages.collect::<Result<Vec<_>, _>>()?;
        let Some(room) = self.room.get().checked_sub(pages.len()) else {
            return Err(GrantError(references[0]));
        };
        self.room.set(room);
        for reference in references {
            self.grants.borrow_mut().get_mut(&reference.0).unwrap().mapped += 1;
            if self.revokes.get() == Some(reference.0) {
                assert!(!self.end(reference.0), "it is mapped now");
            }
        }
        Ok(Pages {
            guest: self,
            pages,
            references: references.iter().map(|reference| reference.0).collect(),
            writable,
        })
    }
    fn unmap(&self, pages: Pages<'a>) {
        self.calls.borrow_mut().push("unmap");
        self.room.set(self.room.get() + pages.pages.len());
        for reference in pages.references {
            let mut grants = self.grants.borrow_mut();
            let grant = grants.get_mut(&reference).expect("an entry stays while it is mapped");
            grant.mapped = grant.mapped.checked_sub(1).expect("unmapped once");
        }
    }
    fn copy_from(&self, from: &[GrantedBytes], into: &mut [u8]) -> Result<(), GrantError> {
        self.calls.borrow_mut().push("copy from");
        assert!(from.len() <= BATCH);
        let mut into = into;
        for bytes in from {
            let (offset, length) = (usize::from(bytes.offset), usize::from(bytes.length));
            assert!(length != 0 && offset + length <= PAGE_SIZE);
            let (part, rest) = into.split_at_mut(length);
            part.copy_from_slice(&self.get(self.page_for(bytes.reference, false)?, offset, length));
            into = rest;
        }
        assert_eq!(into.len(), 0);
        Ok(())
    }
    fn copy_to(&self, parts: &[GrantedPart<'_>]) -> Result<(), GrantError> {
        self.calls.borrow_mut().push("copy to");
        assert!(parts.len() <= BATCH);
        for GrantedPart { to, bytes } in parts {
            let (offset, length) = (usize::from(to.offset), usize::from(to.length));
            assert!(length != 0 && offset + length <= PAGE_SIZE && bytes.len() == length);
            self.put(self.page_for(to.reference, true)?, offset, bytes);
        }
        Ok(())
    }
}

pub(super) fn memory(guest: &Guest) -> GrantMemory<&Guest> {
    GrantMemory::new(guest)
}

pub(super) fn at(reference: u32, offset: u64) -> GuestAddress {
    GuestAddress(granted(reference, offset))
}
