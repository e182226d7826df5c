use std::collections::BTreeMap;
use std::path::PathBuf;

use portunus::manifest::Tree;
use portunus::manifest::tree::Node;

use super::card;
use super::{Bundle, CardFile, Places, fit, same_domains, script};
use crate::manifest::Loaded;

/// A device tree with two domains, as dtc makes it of this source:
/// one refers to the other by phandle, and to a node of the machine.
fn tree() -> Vec<u8> {
    use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
    let property = |name: &str, value: &[u8]| DeviceTreeProperty::new_unchecked(name, value.to_vec());
    let cell = |value: u32| value.to_be_bytes();
    let mut tree = DeviceTree::new();
    let mut disk = DeviceTreeNode::new_unchecked("virtio_mmio@a000000");
    disk.add_property(property("phandle", &cell(0x81)));
    let mut chosen = DeviceTreeNode::new_unchecked("chosen");
    chosen.add_property(property("#address-cells", &cell(2)));
    chosen.add_property(property("stdout-path", b"/pl011@9000000\0"));
    let mut guest = DeviceTreeNode::new_unchecked("domU1");
    guest.add_property(property("compatible", b"xen,domain\0"));
    guest.add_property(property("#size-cells", &cell(2)));
    guest.add_property(property("vpl011", b""));
    guest.add_property(property("memory", &[cell(0), cell(0x1_0000)].concat()));
    guest.add_property(property("portunus,odd", &[1, 2, 3]));
    let mut kernel = DeviceTreeNode::new_unchecked("kernel@50000000");
    kernel.add_property(property("compatible", b"multiboot,kernel\0multiboot,module\0"));
    kernel.add_property(property("bootargs", b"console=ttyAMA0 quiet\0"));
    guest.add_child(kernel);
    let mut devices = DeviceTreeNode::new_unchecked("portunus,devices");
    for name in ["disk0", "disk1"] {
        let mut device = DeviceTreeNode::new_unchecked(name);
        device.add_property(property("portunus,backend", &cell(0x80)));
        device.add_property(property("portunus,source", &cell(0x81)));
        devices.add_child(device);
    }
    guest.add_child(devices);
    let mut backend = DeviceTreeNode::new_unchecked("dm");
    backend.add_property(property("compatible", b"xen,domain\0"));
    backend.add_property(property("phandle", &cell(0x80)));
    backend.add_property(property("bootargs", b"a \"quoted\" $word\0"));
    chosen.add_child(guest);
    chosen.add_child(backend);
    tree.root.add_child(disk);
    tree.root.add_child(chosen);
    tree.to_dtb()
}

fn bundle() -> Bundle {
    Bundle {
        title: "another domain's \"demo\" $x; y".into(),
        image: "/i/Image".into(),
        tree: "/i/manifest.dtb".into(),
        modules: vec![Loaded {
            name: "guest".into(),
            file: "/i/guest.img".into(),
            address: 0x6_5000_0000,
            size: 0x1234,
        }],
        places: Places {
            image: 0x4020_0000,
            device_tree: 0x4800_0000,
            fit: 0x6800_0000,
        },
        key: None,
        script: None,
        trust: None,
    }
}

/// The words of a command as U-Boot's shell takes them apart.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\'' => panic!("a quotation mark that U-Boot's shell takes for the beginning of a string: {line}"),
            '"' => (quoted, any) = (!quoted, true),
            '\\' => word.extend(characters.next()),
            ' ' if !quoted => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            other => word.push(other),
        }
    }
    assert!(!quoted, "a string without end: {line}");
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

/// What `fdt set` makes of its words.
fn value(words: &[String]) -> Vec<u8> {
    let mut value = Vec::new();
    for word in words {
        if let Some(cells) = word.strip_prefix('<') {
            for cell in cells.trim_end_matches('>').split_whitespace() {
                let cell = u32::from_str_radix(cell.trim_start_matches("0x"), 16).unwrap();
                value.extend(cell.to_be_bytes());
            }
        } else if let Some(bytes) = word.strip_prefix('[') {
            let bytes = bytes.trim_end_matches(']').split_whitespace();
            value.extend(bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
        } else {
            value.extend(word.bytes().chain([0]));
        }
    }
    value
}

type Nodes = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// What the script's commands make, by path; and the paths in the order in which the tree has them.
fn run(script: &str) -> (Nodes, Vec<String>) {
    let (mut nodes, mut order) = (Nodes::new(), Vec::new());
    for line in script.lines().filter(|line| line.contains(" || fdt ")) {
        let mut parts = line.split(" || ");
        assert_eq!(parts.next(), Some("test -n \"${portunus_failed}\""), "{line}");
        let (command, otherwise) = (parts.next().unwrap(), parts.next().unwrap());
        assert!(otherwise.starts_with("setenv portunus_failed \""), "{line}");
        assert_eq!(words(otherwise).len(), 3, "{line}");
        let words = words(command);
        // U-Boot's CONFIG_SYS_MAXARGS may be as little as this.
        assert!(words.len() <= 16, "{line}");
        match words[1].as_str() {
            "mknod" => {
                let path = format!("{}/{}", words[2], words[3]);
                assert!(words[2] == "/chosen" || nodes.contains_key(&words[2]), "{line}");
                assert!(nodes.insert(path.clone(), BTreeMap::new()).is_none(), "{line}");
                order.insert(0, path);
            }
            "set" => {
                let properties = nodes.entry(words[2].clone()).or_default();
                properties.insert(words[3].clone(), value(&words[4..]));
            }
            other => assert!(["addr", "resize"].contains(&other), "{line}"),
        }
    }
    (nodes, order)
}

#[test]
fn the_script_makes_the_domains_of_the_manifest_in_their_order_by_names_without_addresses() {
    let bytes = tree();
    let tree = Tree::new(&bytes).unwrap();
    let text = script::text(&bundle(), &tree, [0x1000, 0x2000]).unwrap();
    let (made, order) = run(&text);
    let siblings = |parent: &str| {
        let mut names: Vec<String> = order
            .iter()
            .filter_map(|path| path.strip_prefix(parent)?.strip_prefix('/'))
            .filter(|name| !name.contains('/'))
            .map(str::to_owned)
            .collect();
        names.dedup();
        names
    };
    assert_eq!(siblings("/chosen"), ["domU1", "dm"]);
    assert_eq!(siblings("/chosen/domU1"), ["kernel", "portunus,devices"]);
    assert_eq!(siblings("/chosen/domU1/portunus,devices"), ["disk0", "disk1"]);
    let mut properties = 0;
    let mut check = |node: Node<'_, '_>, path: &str| {
        for (name, value) in node.properties() {
            let made = made[path].get(&name).cloned();
            properties += 1;
            match name.as_str() {
                "phandle" => assert_eq!(made, None, "domains are referred to by name"),
                "portunus,backend" => assert_eq!(made.unwrap(), b"dm\0"),
                "portunus,source" => assert_eq!(made.unwrap(), b"/virtio_mmio@a000000\0"),
                _ => assert_eq!(made.as_deref(), Some(value), "{path} {name}"),
            }
        }
    };
    for path in [
        "/chosen/domU1",
        "/chosen/domU1/portunus,devices",
        "/chosen/domU1/portunus,devices/disk0",
        "/chosen/domU1/portunus,devices/disk1",
        "/chosen/dm",
    ] {
        check(tree.find(path).unwrap(), path);
    }
    check(
        tree.find("/chosen/domU1/kernel@50000000").unwrap(),
        "/chosen/domU1/kernel",
    );
    assert_eq!(properties, 14);
    assert_eq!(made["/chosen"].len(), 1, "what else is in /chosen is the machine's");
}

#[test]
fn each_file_is_loaded_to_its_place_and_its_length_is_checked() {
    let bytes = tree();
    let tree = Tree::new(&bytes).unwrap();
    let text = script::text(&bundle(), &tree, [0x1000, 0x2000]).unwrap();
    for (place, file, size) in [
        ("0x40200000", "Image", "1000"),
        ("0x650000000", "guest", "1234"),
        ("0x48000000", "machine.dtb", "2000"),
    ] {
        let load = format!(" || load ${{devtype}} ${{devnum}}:${{distro_bootpart}} {place} ${{prefix}}{file} || ");
        let rest = text.split_once(&load).unwrap_or_else(|| panic!("{load}")).1;
        let check = rest.lines().find(|line| line.contains("filesize")).unwrap();
        assert!(check.contains(&format!(
            " || test \"${{filesize}}\" = \"{size}\" || setenv portunus_failed \"{file} has "
        )));
    }
    assert!(!text.contains('\''), "an apostrophe, of the title's or of a message's");
    assert!(
        text.contains("echo \"portunus: another domain s  demo   x  y, from ${devtype} "),
        "{text}"
    );
    assert!(text.contains("\nelse\n  booti 0x40200000 - 0x48000000\n"));
}

#[test]
fn nodes_that_only_their_addresses_tell_apart_are_refused() {
    use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
    let mut domain = DeviceTreeNode::new_unchecked("domU1");
    domain.add_property(DeviceTreeProperty::new_unchecked("compatible", "xen,domain"));
    domain.add_child(DeviceTreeNode::new_unchecked("module@1"));
    domain.add_child(DeviceTreeNode::new_unchecked("module@2"));
    let mut chosen = DeviceTreeNode::new_unchecked("chosen");
    chosen.add_child(domain);
    let mut tree = DeviceTree::new();
    tree.root.add_child(chosen);
    let bytes = tree.to_dtb();
    let error = script::text(&bundle(), &Tree::new(&bytes).unwrap(), [1, 1]).unwrap_err();
    assert!(error.to_string().contains("module"), "{error}");
}

#[test]
fn the_file_with_everything_names_every_part_with_its_place_and_a_checksum() {
    let mut bundle = bundle();
    let source = fit::source(&bundle, bundle.key.as_deref());
    for part in [
        "data = /incbin/(\"/i/Image\")",
        "load = <0x0 0x40200000>",
        "entry = <0x0 0x40200000>",
        "data = /incbin/(\"/i/manifest.dtb\")",
        "data = /incbin/(\"/i/guest.img\")",
        "load = <0x6 0x50000000>",
        "loadables = \"module-guest\"",
    ] {
        assert!(source.contains(part), "{source} lacks {part}");
    }
    assert_eq!(source.matches("algo = \"sha256\"").count(), 3);
    assert!(!source.contains("signature"));
    bundle.key = Some("/keys/dev.key".into());
    bundle.modules.clear();
    let signed = fit::source(&bundle, bundle.key.as_deref());
    assert!(signed.contains("key-name-hint = \"dev\"") && signed.contains("sign-images"));
    assert!(!signed.contains("loadables ="));
}

#[test]
fn a_title_with_quotation_marks_and_backslashes_stays_one_string_of_the_source() {
    let mut bundle = bundle();
    bundle.title = "a \"demo\" of C:\\x\nand more".into();
    bundle.image = "/i/the \"best\" Image".into();
    let source = fit::source(&bundle, bundle.key.as_deref());
    assert_eq!(
        source
            .matches(r#"description = "a \"demo\" of C:\\xand more";"#)
            .count(),
        2,
        "{source}"
    );
    assert!(
        source.contains(r#"data = /incbin/("/i/the \"best\" Image");"#),
        "{source}"
    );
    // As dtc reads it: an odd number of quotation marks in a line would open a string that swallows the rest.
    for line in source.lines() {
        let marks = line.replace("\\\\", "").replace("\\\"", "").matches('"').count();
        assert_eq!(marks % 2, 0, "{line}");
    }
}

#[test]
fn a_script_of_ones_own_gets_the_places_of_the_files_and_a_misspelt_name_is_refused() {
    let bundle = bundle();
    let filled = script::filled(
        "load %{guest.address} guest; reg <0x6 0x50000000 0x0 %{guest.size}>; booti %{Image.address} - %{machine.dtb.address} ${x}",
        &bundle,
    );
    assert_eq!(
        filled.unwrap(),
        "load 0x650000000 guest; reg <0x6 0x50000000 0x0 0x1234>; booti 0x40200000 - 0x48000000 ${x}"
    );
    let error = script::filled("load %{gest.address} gest\nbooti", &bundle)
        .unwrap_err()
        .to_string();
    assert!(error.contains("%{gest.address} gest, which"), "{error}");
}

#[test]
fn a_tree_has_the_domains_that_it_should_only_if_order_names_and_values_agree() {
    use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
    let wanted = tree();
    let wanted = Tree::new(&wanted).unwrap();
    assert!(
        same_domains(&wanted, &wanted).is_err(),
        "what U-Boot makes refers to domains by name, and this does by phandle"
    );
    /// What U-Boot makes of the source of `tree`, with one thing changed.
    fn made(change: &str) -> Vec<u8> {
        let node = DeviceTreeNode::new_unchecked;
        let property = |name: &str, value: &[u8]| DeviceTreeProperty::new_unchecked(name, value.to_vec());
        let mut guest = node("domU1");
        guest.add_property(property("compatible", b"xen,domain\0"));
        guest.add_property(property("#size-cells", &[0, 0, 0, 2]));
        guest.add_property(property("vpl011", b""));
        guest.add_property(property("memory", &[0, 0, 0, 0, 0, 1, 0, u8::from(change == "memory")]));
        guest.add_property(property("portunus,odd", &[1, 2, 3]));
        if change == "more" {
            guest.add_property(property("direct-map", b""));
        }
        let mut kernel = node(if change == "name" { "kernal" } else { "kernel" });
        kernel.add_property(property("compatible", b"multiboot,kernel\0multiboot,module\0"));
        if change != "less" {
            kernel.add_property(property("bootargs", b"console=ttyAMA0 quiet\0"));
        }
        guest.add_child(kernel);
        let mut devices = node("portunus,devices");
        for name in ["disk0", "disk1"] {
            let mut device = node(name);
            device.add_property(property("portunus,backend", b"dm\0"));
            device.add_property(property("portunus,source", b"/virtio_mmio@a000000\0"));
            devices.add_child(device);
        }
        guest.add_child(devices);
        let mut backend = node("dm");
        backend.add_property(property("compatible", b"xen,domain\0"));
        backend.add_property(property("bootargs", b"a \"quoted\" $word\0"));
        let mut chosen = node("chosen");
        let mut domains = [guest, backend];
        if change == "order" {
            domains.reverse();
        }
        for domain in domains {
            chosen.add_child(domain);
        }
        let mut tree = DeviceTree::new();
        tree.root.add_child(chosen);
        tree.to_dtb()
    }
    same_domains(&Tree::new(&made("nothing")).unwrap(), &wanted).unwrap();
    for (change, complaint) in [
        ("order", "/chosen has the nodes"),
        ("name", "/chosen/domU1 has the nodes"),
        ("more", "/chosen/domU1 has the properties"),
        ("less", "/chosen/domU1/kernel has the properties"),
        ("memory", "/chosen/domU1: memory has another value"),
    ] {
        let error = same_domains(&Tree::new(&made(change)).unwrap(), &wanted)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(complaint), "{change}: {error}");
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("portunus-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn what_is_put_on_a_card_is_read_back_and_two_cards_of_the_same_files_are_the_same() {
    let folder = folder("card");
    let mut files: Vec<CardFile> = Vec::new();
    for (name, size) in [
        ("boot.scr", 1),
        ("Image", 700_001),
        ("backend-devices", 0),
        ("portunus.itb", 3 << 20),
    ] {
        let contents: Vec<u8> = (0..size)
            .map(|index: u32| (index.wrapping_mul(0x9e37_79b9) >> 24) as u8)
            .collect();
        let file = folder.join(format!("{name}.source"));
        std::fs::write(&file, contents).unwrap();
        files.push((name.into(), file));
    }
    let (first, second) = (folder.join("first.img"), folder.join("second.img"));
    card::make(&files, &first).unwrap();
    card::make(&files, &second).unwrap();
    let read = card::read(&first).unwrap();
    assert_eq!(read.len(), files.len());
    for ((name, file), (read_name, contents)) in files.iter().zip(&read) {
        assert_eq!(name, read_name);
        assert!(std::fs::read(file).unwrap() == *contents, "{name} differs");
    }
    let bytes = std::fs::read(&first).unwrap();
    assert!(bytes == std::fs::read(&second).unwrap(), "the cards differ");
    // The partition table, as any tool reads it: one partition, its type, its first sector and its length.
    assert_eq!(bytes[510..512], [0x55, 0xaa]);
    assert_eq!(bytes[450], 0x0e);
    assert_eq!(bytes[454..458], (8192_u32).to_le_bytes());
    assert_eq!(
        bytes.len() as u64,
        (4 << 20) + 512 * u64::from(u32::from_le_bytes(bytes[458..462].try_into().unwrap()))
    );

    let damaged = folder.join("damaged.img");
    for (place, what) in [(510, "the mark at its end"), (450, "the type"), (457, "the place")] {
        let mut wrong = bytes.clone();
        wrong[place] ^= 0xff;
        std::fs::write(&damaged, wrong).unwrap();
        assert!(card::read(&damaged).is_err(), "{what}");
    }
    std::fs::write(&damaged, &bytes[..100]).unwrap();
    assert!(card::read(&damaged).is_err(), "a card of 100 bytes");
    std::fs::remove_dir_all(folder).unwrap();
}
