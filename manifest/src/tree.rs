//! A flattened device tree, indexed once: parents, phandles and paths at hand.
//!
//! The blob is checked and then walked with a bounded depth, so nothing that it contains can panic,
//! exhaust the stack or loop. Names and values stay where they are; only the index is allocated.

pub(super) mod check;
mod interrupt;

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::CStr;

use dtoolkit::fdt::{FdtNode, FdtProperty};
use dtoolkit::{Node as _, Property as _};

use crate::error::{ManifestError, Reason};
use portunus_base::range::PaRange;

pub use interrupt::{GIC_V2, GIC_V3, Interrupt, Trigger, decode_gic_interrupt, is_gic};

/// Deeper nesting than any board has; a bound on the walk.
const MAX_DEPTH: usize = 32;
/// `#address-cells` of a node that does not say (Devicetree specification, 2.3.5).
const DEFAULT_ADDRESS_CELLS: u32 = 2;
/// `#size-cells` of a node that does not say (Devicetree specification, 2.3.5).
const DEFAULT_SIZE_CELLS: u32 = 1;
/// Offset and width of `totalsize` in the header (Devicetree specification, 5.2).
const TOTAL_SIZE: core::ops::Range<usize> = 4..8;

/// An indexed device tree over the bytes of a blob.
#[derive(Debug)]
pub struct Tree<'a> {
    nodes: Vec<Entry<'a>>,
    phandles: BTreeMap<u32, usize>,
    reservations: Vec<PaRange>,
}

#[derive(Debug)]
struct Entry<'a> {
    name: &'a str,
    parent: Option<usize>,
    children: Vec<usize>,
    blob: FdtNode<'a>,
}

/// A node of a [`Tree`].
#[derive(Copy, Clone, Debug)]
pub struct Node<'t, 'a> {
    tree: &'t Tree<'a>,
    index: usize,
    entry: &'t Entry<'a>,
}

/// One entry of `reg`: an address and a size, in the parent's address space.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct Reg {
    /// The address on the node's bus.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

impl<'a> Tree<'a> {
    /// Checks and indexes the blob at the start of `bytes`, which may be longer than the blob.
    ///
    /// # Errors
    ///
    /// [`Reason::NotADeviceTree`] and [`Reason::TooDeep`].
    pub fn new(bytes: &'a [u8]) -> Result<Self, ManifestError> {
        let refuse = |text: String| whole_tree(Reason::NotADeviceTree(text));
        let header = bytes.get(TOTAL_SIZE).and_then(|field| <[u8; 4]>::try_from(field).ok());
        let Some(size) = header.map(|field| u32::from_be_bytes(field) as usize) else {
            return Err(refuse("shorter than a header".to_string()));
        };
        let Some(blob) = bytes.get(..size) else {
            return Err(refuse("longer than its memory".to_string()));
        };
        let fdt = check::fdt(blob).map_err(|error| refuse(error.to_string()))?;

        let mut tree = Self {
            nodes: Vec::new(),
            phandles: BTreeMap::new(),
            reservations: Vec::new(),
        };
        tree.reservations
            .extend(fdt.memory_reservations().map(|r| PaRange::new(r.address(), r.size())));
        let root = fdt.root();
        let mut ancestors = Vec::new();
        ancestors.push((tree.add(&root, None), root.children()));
        while let Some((parent, children)) = ancestors.last_mut() {
            let parent = *parent;
            match children.next() {
                Some(child) => {
                    let index = tree.add(&child, Some(parent));
                    if ancestors.len() >= MAX_DEPTH {
                        return Err(whole_tree(Reason::TooDeep));
                    }
                    ancestors.push((index, child.children()));
                }
                None => {
                    ancestors.pop();
                }
            }
        }
        Ok(tree)
    }

    fn add(&mut self, node: &FdtNode<'a>, parent: Option<usize>) -> usize {
        let index = self.nodes.len();
        for property in node.properties() {
            if let ("phandle" | "linux,phandle", Ok(bytes)) = (property.name(), <[u8; 4]>::try_from(property.value())) {
                self.phandles.entry(u32::from_be_bytes(bytes)).or_insert(index);
            }
        }
        self.nodes.push(Entry {
            name: node.name(),
            parent,
            children: Vec::new(),
            blob: *node,
        });
        if let Some(parent) = parent.and_then(|parent| self.nodes.get_mut(parent)) {
            parent.children.push(index);
        }
        index
    }

    fn node(&self, index: usize) -> Option<Node<'_, 'a>> {
        self.nodes.get(index).map(|entry| Node {
            tree: self,
            index,
            entry,
        })
    }

    /// The root node.
    pub fn root(&self) -> Option<Node<'_, 'a>> {
        self.node(0)
    }

    /// Every node, parents before their children.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'_, 'a>> {
        self.nodes.iter().enumerate().map(|(index, entry)| Node {
            tree: self,
            index,
            entry,
        })
    }

    /// The node at `path`; a component without unit address matches the first node of that name.
    pub fn find(&self, path: &str) -> Option<Node<'_, 'a>> {
        let mut node = self.root()?;
        for component in path
            .strip_prefix('/')?
            .split('/')
            .filter(|component| !component.is_empty())
        {
            node = node.child(component)?;
        }
        Some(node)
    }

    /// The node with this phandle.
    pub fn by_phandle(&self, phandle: u32) -> Option<Node<'_, 'a>> {
        self.node(*self.phandles.get(&phandle)?)
    }

    /// The highest phandle in use; 0 when there is none.
    pub fn last_phandle(&self) -> u32 {
        self.phandles.last_key_value().map_or(0, |(phandle, _)| *phandle)
    }

    /// The memory reservation block.
    pub fn reservations(&self) -> &[PaRange] {
        &self.reservations
    }
}

/// The value with the blob's lifetime; the trait's own accessor gives it the property's.
fn value<'a>(property: FdtProperty<'a>) -> &'a [u8] {
    property.value_as::<&'a [u8]>().unwrap_or_default()
}

fn whole_tree(reason: Reason) -> ManifestError {
    ManifestError::new("/", "", reason)
}

impl<'t, 'a> Node<'t, 'a> {
    /// The name, with the unit address if it has one.
    pub fn name(self) -> &'a str {
        self.entry.name
    }

    /// The path from the root.
    pub fn path(self) -> String {
        let mut names = Vec::new();
        let mut at = Some(self);
        while let Some(node) = at {
            names.push(node.entry.name);
            at = node.parent();
        }
        names.pop();
        if names.is_empty() {
            return "/".to_string();
        }
        names.iter().rev().fold(String::new(), |path, name| path + "/" + name)
    }

    /// The parent; none for the root.
    pub fn parent(self) -> Option<Self> {
        self.tree.node(self.entry.parent?)
    }

    /// The tree that it is in.
    pub fn tree(self) -> &'t Tree<'a> {
        self.tree
    }

    /// Whether both are the same node of the same tree.
    pub fn is(self, other: Self) -> bool {
        self.index == other.index && core::ptr::eq(self.tree, other.tree)
    }

    /// The children in the order of the blob.
    pub fn children(self) -> impl Iterator<Item = Self> {
        self.entry
            .children
            .iter()
            .filter_map(move |index| self.tree.node(*index))
    }

    /// The first child of this name; without `@`, unit addresses are ignored.
    pub fn child(self, name: &str) -> Option<Self> {
        let whole = name.contains('@');
        self.children().find(|child| {
            let found = child.name();
            found == name || (!whole && found.split('@').next() == Some(name))
        })
    }

    /// Names and values in the order of the blob.
    pub fn properties(self) -> impl Iterator<Item = (String, &'a [u8])> + use<'t, 'a> {
        self.entry
            .blob
            .properties()
            .map(|property| (property.name().to_string(), value(property)))
    }

    /// A property's bytes.
    pub fn property(self, name: &str) -> Option<&'a [u8]> {
        self.entry
            .blob
            .properties()
            .find(|property| property.name() == name)
            .map(value)
    }

    /// Whether the property exists, whatever its value.
    pub fn has(self, name: &str) -> bool {
        self.property(name).is_some()
    }

    /// An error about one of its properties, or (with an empty name) about the node.
    pub fn error(self, property: &str, reason: Reason) -> ManifestError {
        ManifestError::new(&self.path(), property, reason)
    }

    /// One 32-bit cell.
    ///
    /// # Errors
    ///
    /// [`Reason::Length`].
    pub fn u32(self, name: &str) -> Result<Option<u32>, ManifestError> {
        let Some(value) = self.property(name) else {
            return Ok(None);
        };
        match <[u8; 4]>::try_from(value) {
            Ok(bytes) => Ok(Some(u32::from_be_bytes(bytes))),
            Err(_) => Err(self.error(name, Reason::Length(value.len()))),
        }
    }

    /// Any number of 32-bit cells.
    ///
    /// # Errors
    ///
    /// [`Reason::Length`].
    pub fn cells(self, name: &str) -> Result<Option<Vec<u32>>, ManifestError> {
        let Some(value) = self.property(name) else {
            return Ok(None);
        };
        let (cells, rest) = value.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(self.error(name, Reason::Length(value.len())));
        }
        Ok(Some(cells.iter().map(|cell| u32::from_be_bytes(*cell)).collect()))
    }

    /// One string.
    ///
    /// # Errors
    ///
    /// [`Reason::NotAString`], also for a list of several.
    pub fn string(self, name: &str) -> Result<Option<&'a str>, ManifestError> {
        let Some(value) = self.property(name) else {
            return Ok(None);
        };
        let text = CStr::from_bytes_with_nul(value)
            .ok()
            .and_then(|text| text.to_str().ok());
        text.map(Some).ok_or_else(|| self.error(name, Reason::NotAString))
    }

    /// The strings of a list; text that is not UTF-8 or lacks its NUL is left out.
    pub fn strings(self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let value = self.property(name).unwrap_or_default();
        let terminated = value.strip_suffix(&[0]);
        terminated
            .into_iter()
            .flat_map(|list| list.split(|byte| *byte == 0))
            .filter_map(|s| core::str::from_utf8(s).ok())
    }

    /// Whether `compatible` lists `name`.
    pub fn is_compatible(self, name: &str) -> bool {
        self.strings("compatible").any(|found| found == name)
    }

    /// Whether `status` is absent or says that the device may be used.
    pub fn is_enabled(self) -> bool {
        match self.property("status") {
            None => true,
            Some(_) => self
                .strings("status")
                .next()
                .is_some_and(|status| matches!(status, "okay" | "ok")),
        }
    }

    /// Cells of an address on the bus that this node is.
    pub fn address_cells(self) -> u32 {
        self.u32("#address-cells")
            .ok()
            .flatten()
            .unwrap_or(DEFAULT_ADDRESS_CELLS)
    }

    /// Cells of a size on the bus that this node is.
    pub fn size_cells(self) -> u32 {
        self.u32("#size-cells").ok().flatten().unwrap_or(DEFAULT_SIZE_CELLS)
    }

    /// The entries of `reg`, in the parent's address space; empty without one.
    ///
    /// # Errors
    ///
    /// [`Reason::Length`], [`Reason::Cells`].
    pub fn reg(self) -> Result<Vec<Reg>, ManifestError> {
        let (address, size) = match self.parent() {
            Some(parent) => (parent.address_cells(), parent.size_cells()),
            None => (DEFAULT_ADDRESS_CELLS, DEFAULT_SIZE_CELLS),
        };
        let rows = self.rows("reg", [address, size])?;
        Ok(rows.into_iter().map(|[address, size]| Reg { address, size }).collect())
    }

    /// A property of rows with the given numbers of cells a field; empty without the property.
    ///
    /// # Errors
    ///
    /// [`Reason::Length`], [`Reason::Cells`] for a field of more than two cells.
    pub fn rows<const N: usize>(self, name: &str, widths: [u32; N]) -> Result<Vec<[u64; N]>, ManifestError> {
        let Some(cells) = self.cells(name)? else {
            return Ok(Vec::new());
        };
        if let Some(wide) = widths.iter().find(|width| **width > 2) {
            return Err(self.error(name, Reason::Cells(*wide)));
        }
        let row: u32 = widths.iter().sum();
        let row = row as usize;
        if row == 0 || !cells.len().is_multiple_of(row) {
            return Err(self.error(name, Reason::Length(cells.len().saturating_mul(4))));
        }
        let rows = cells.chunks_exact(row).map(|row| {
            let mut row = row.iter();
            widths.map(|width| {
                row.by_ref()
                    .take(width as usize)
                    .fold(0, |sum, cell| sum << 32 | u64::from(*cell))
            })
        });
        Ok(rows.collect())
    }

    /// Where `reg` on this node's bus is in the machine's physical addresses; `None` when a bus on the way does not
    /// translate it.
    pub fn translate(self, reg: Reg) -> Option<PaRange> {
        let mut address = reg.address;
        let mut bus = self.parent()?;
        while let Some(above) = bus.parent() {
            let ranges = bus.property("ranges")?;
            if !ranges.is_empty() {
                let rows = bus
                    .rows("ranges", [bus.address_cells(), above.address_cells(), bus.size_cells()])
                    .ok()?;
                address = rows.iter().find_map(|[child, parent, size]| {
                    let offset = address.checked_sub(*child)?;
                    let end = offset.checked_add(reg.size)?;
                    if end <= *size && offset < *size {
                        parent.checked_add(offset)
                    } else {
                        None
                    }
                })?;
            }
            bus = above;
        }
        let range = PaRange::new(address, reg.size);
        range.fits().then_some(range)
    }

    /// Entry `index` of `reg` as physical addresses.
    ///
    /// # Errors
    ///
    /// [`Reason::Missing`], [`Reason::Untranslatable`], and those of [`Self::reg`].
    pub fn physical_reg(self, index: usize) -> Result<PaRange, ManifestError> {
        let reg = self
            .reg()?
            .get(index)
            .copied()
            .ok_or_else(|| self.error("reg", Reason::Missing))?;
        self.translate(reg)
            .ok_or_else(|| self.error("reg", Reason::Untranslatable))
    }
}
