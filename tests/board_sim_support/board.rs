//! The machine: the reduced device tree of the R-Car H3, mainline's where they are, and what a test changes in them.

use std::fs;
use std::path::Path;

use dtoolkit::Node as _;
use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode};
use portunus::manifest::discovery::Discovery;
use portunus::manifest::{Host, Tree};
use portunus::range::PaRange;
use portunus_serial::{Cadence, Pl011, Scif};

use crate::source;

pub(crate) const REDUCED: &str = include_str!("../../boards/rcar-h3/reduced.dts");
pub(crate) const FOLDER: &str = "PORTUNUS_BOARD_DTB";
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const MIB: u64 = 1 << 20;
/// Where the loader leaves the device tree in these tests, and the Image.
pub(crate) const BLOB: u64 = 0x4a00_0000;
pub(crate) const IMAGE: PaRange = PaRange::new(0x4808_0000, 4 * MIB);
pub(crate) const MODULES: u64 = 0x5000_0000;
/// The debug console of the starter kit.
pub(crate) const SCIF2: u64 = 0xe6e8_8000;
/// MPIDR_EL1 of four Cortex-A57 and four Cortex-A53.
pub(crate) const CLUSTERS: [u64; 8] = [0, 1, 2, 3, 0x100, 0x101, 0x102, 0x103];

/// The reduced tree, and mainline's for this SoC if they are there. Says so if they are not.
pub(crate) fn trees() -> Vec<(String, Vec<u8>)> {
    let reduced = REDUCED.split_once("*/").expect("a heading").1.trim_start();
    let mut trees = vec![("reduced.dts".to_string(), source::compile(reduced))];
    let Some(folder) = std::env::var_os(FOLDER).filter(|folder| !folder.is_empty()) else {
        println!("skipped: mainline's device trees of the R-Car H3: {FOLDER} names no folder with r8a7795*.dtb");
        return trees;
    };
    let entries = fs::read_dir(Path::new(&folder)).unwrap_or_else(|error| panic!("{FOLDER}: {folder:?}: {error}"));
    let mut found: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    for file in found {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("r8a7795") && name.ends_with(".dtb") {
            trees.push((name, fs::read(&file).expect("readable")));
        }
    }
    if trees.len() == 1 {
        println!("skipped: mainline's device trees of the R-Car H3: no r8a7795*.dtb in {folder:?}");
    }
    trees
}

pub(crate) fn host(blob: &[u8]) -> Host {
    Host::parse(&Tree::new(blob).expect("a device tree")).expect("a machine")
}

/// The names of the drivers of `boards/rcar-h3`, and others after them.
pub(crate) fn drivers() -> [&'static [&'static str]; 3] {
    use nothing::Any;
    [
        Scif::<Any>::COMPATIBLE,
        Pl011::<Any>::COMPATIBLE,
        Cadence::<Any>::COMPATIBLE,
    ]
}

/// Drivers are generic over their registers; their names are not.
mod nothing {
    #[derive(Clone, Copy)]
    pub(crate) struct Any;

    impl portunus::registers::DeviceRegisters for Any {
        fn read_u8(&self, _: usize) -> u8 {
            0
        }
        fn read_u16(&self, _: usize) -> u16 {
            0
        }
        fn read_u32(&self, _: usize) -> u32 {
            0
        }
        fn write_u8(&self, _: usize, _: u8) {}
        fn write_u16(&self, _: usize, _: u16) {}
        fn write_u32(&self, _: usize, _: u32) {}
    }
}

pub(crate) fn discover(host: &Host) -> Discovery {
    Discovery::new(host, &drivers(), SCIF2, PaRange::new(BLOB, 0x1_2345)).expect("a board")
}

/// The tree as firmware hands it over: with what it keeps, and what else a test wants of it.
pub(crate) fn changed(blob: &[u8], change: impl FnOnce(&mut DeviceTree)) -> Vec<u8> {
    let mut tree = DeviceTree::from_fdt(&Fdt::new(blob).expect("a device tree"));
    change(&mut tree);
    tree.to_dtb()
}

pub(crate) fn add(tree: &mut DeviceTree, parent: &str, text: &str) {
    let parent = match parent {
        "/" => &mut tree.root,
        path => tree.find_node_mut(path).expect("the parent"),
    };
    let blob = source::compile(&format!("/ {{ {text} }};"));
    let added = DeviceTree::from_fdt(&Fdt::new(&blob).expect("text"));
    let nodes: Vec<DeviceTreeNode> = added.root.children().cloned().collect();
    nodes.into_iter().for_each(|node| parent.add_child(node));
}
