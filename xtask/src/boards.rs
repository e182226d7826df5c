//! `cargo xtask image BOARD`: everything that a board starts from, and proof that it is whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use clap::Args;
use portunus::manifest::Tree;

use crate::chain::{self, Bundle, CardFile, FIT, Places, card};
use crate::check;
use crate::evidence::journal::sha256;
use crate::failure::{Doing, Failure, Result, failed};
use crate::image::image_size;
use crate::qemu::{self, Launch};
use crate::scenario::{MachineChoice, Scenario};
use crate::setup::{self, Tool};
use crate::stage::{self, Choices};
use crate::workspace::Workspace;
use crate::{build, distribution, manifest, srec};

/// Checks FAT file systems.
const CHECK_FAT: Tool<'static> = Tool {
    program: "fsck.vfat",
    package: "dosfstools",
};

/// A board that images are made for. Its name is that of its folder in `boards/`, where `image.toml` says what is on the card.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Board {
    pub(crate) name: &'static str,
    /// The package that is the hypervisor for it.
    pub(crate) package: &'static str,
    tree: TreeSource,
    /// Where U-Boot puts what is no module.
    pub(crate) places: Places,
    /// The memory for modules.
    pub(crate) modules: (u64, u64),
}

/// Where a board's device tree comes from.
#[derive(Clone, Copy, Debug)]
enum TreeSource {
    /// The distribution's kernel, by the path among its device trees; or, where neither user nor distribution has that, a file
    /// beside `image.toml` with what is enough for the card.
    Kernel(&'static str, &'static str),
    /// QEMU makes it.
    Qemu,
}

const QEMU_VIRT: Board = Board {
    name: "qemu-virt",
    package: "portunus-qemu-virt",
    tree: TreeSource::Qemu,
    places: qemu::Board::QemuVirt.places(),
    modules: (qemu::Board::QemuVirt.first_module(), 0x6800_0000),
};

const RCAR_H3: Board = Board {
    name: "rcar-h3",
    package: "portunus-rcar-h3",
    tree: TreeSource::Kernel("renesas/r8a77951-ulcb.dtb", "reduced.dts"),
    // Below 4 GiB there are 896 MiB from 0x48000000. U-Boot lies at their end, and is linked at 0x50000000, where nothing
    // goes before it has moved. 0x54000000 to 0x57000000 may be decompressed by the SoC on its way.
    places: Places {
        image: 0x4820_0000,
        device_tree: 0x5000_0000,
        fit: 0x7000_0000,
    },
    modules: (0x5800_0000, 0x7000_0000),
};

/// All of them.
pub(crate) const BOARDS: [Board; 2] = [QEMU_VIRT, RCAR_H3];

/// Options of `cargo xtask image`.
#[derive(Args, Debug)]
pub(crate) struct Image {
    /// The board: rcar-h3, or qemu-virt with a GICv2.
    board: String,
    /// A scenario file whose modules and manifest go onto the card [default: boards/BOARD/image.toml].
    #[arg(long)]
    scenario: Option<PathBuf>,
    /// Sign portunus.itb with this private RSA key of 2048 bits (PEM, its name ends in .key).
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
}

impl Image {
    /// Makes the images and lists them.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        let folder = make(
            &workspace,
            board(&self.board)?,
            self.scenario.as_deref(),
            self.sign.as_deref(),
        )?;
        print!("{}", fs::read_to_string(folder.join(SIZES)).doing(SIZES)?);
        println!("PASS image {}: {}", self.board, folder.display());
        Ok(ExitCode::SUCCESS)
    }
}

/// The board of this name.
pub(crate) fn board(name: &str) -> Result<Board> {
    let known = BOARDS.map(|board| board.name).join(", ");
    let found = BOARDS.into_iter().find(|board| board.name == name);
    found.ok_or_else(|| Failure::Failed(format!("no images are made for a board {name}; there are: {known}")))
}

/// The card in a board's folder of images.
pub(crate) const CARD: &str = "sdcard.img";
/// What they are made of, in the same folder.
const PARTS: &str = "parts";
/// The machine's device tree with all domains, in the folder of images.
pub(crate) const TREE: &str = "parts/manifest.dtb";
const SREC: &str = "portunus.srec";
const SUMS: &str = "SHA256SUMS";
const SIZES: &str = "SIZES";

/// Where the images of `board` are.
pub(crate) fn folder(workspace: &Workspace, board: Board) -> PathBuf {
    workspace.target.join("images").join(board.name)
}

/// Makes everything, reads it back, and returns the folder.
pub(crate) fn make(
    workspace: &Workspace,
    board: Board,
    scenario: Option<&Path>,
    key: Option<&Path>,
) -> Result<PathBuf> {
    setup::require(&chain::TOOLS)?;
    let file = match scenario {
        Some(file) => file.to_owned(),
        None => own_scenario(workspace, board),
    };
    let key = key.map(checked_key).transpose()?;
    let scenario = read_scenario(&file)?;
    stage::require_downloads(&scenario, &Choices::default())?;
    let mut packages = stage::module_packages(&scenario);
    packages.insert(board.package);
    build::build(workspace, &packages)?;
    let folder = folder(workspace, board);
    make_built(workspace, board, &scenario, &folder, key)?;
    Ok(folder)
}

/// What is on a board's card where nobody says otherwise.
fn own_scenario(workspace: &Workspace, board: Board) -> PathBuf {
    workspace.root.join("boards").join(board.name).join("image.toml")
}

/// What a board's card is started with where nobody says otherwise, made in `folder` of what is built.
pub(crate) fn make_own(workspace: &Workspace, board: Board, folder: &Path) -> Result<()> {
    let scenario = read_scenario(&own_scenario(workspace, board))?;
    make_built(workspace, board, &scenario, folder, None)
}

fn make_built(
    workspace: &Workspace,
    board: Board,
    scenario: &Scenario,
    folder: &Path,
    key: Option<PathBuf>,
) -> Result<()> {
    let started = Instant::now();
    let parts = folder.join(PARTS);
    // What an earlier run left here is no part of this one.
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(&parts).doing(format!("creating {}", parts.display()))?;
    let bundle = bundle(workspace, board, scenario, &Choices::default(), &parts, key)?;
    let mut files = bundle.make(&parts)?;
    files.sort_by_key(|(name, _)| name.clone());
    card::make(&files, &folder.join(CARD))?;

    let image = fs::read(&bundle.image).doing("reading the Image")?;
    let address = u32::try_from(board.places.image).doing("the load address")?;
    fs::write(folder.join(SREC), srec::write("Portunus", &image, address)?).doing(SREC)?;
    for (name, file) in files.iter().filter(|(name, _)| PRODUCTS.contains(&name.as_str())) {
        fs::copy(file, folder.join(name)).doing(format!("copying {name}"))?;
    }
    let seconds = started.elapsed().as_secs();
    summarise(folder, &files, &image)?;
    verify(folder, &bundle, &files, &image)?;
    println!("made and read back in {seconds} s; {}", bundle.title);
    Ok(())
}

/// Files that are there beside the card that has them all.
const PRODUCTS: [&str; 3] = ["Image", FIT, "boot.scr"];

fn checked_key(key: &Path) -> Result<PathBuf> {
    let key = fs::canonicalize(key).map_err(|error| Failure::Failed(format!("{}: {error}", key.display())))?;
    if key.extension().is_some_and(|ending| ending == "key") {
        Ok(key)
    } else {
        failed(format!("{}: the name of a key must end in .key", key.display()))
    }
}

fn read_scenario(file: &Path) -> Result<Scenario> {
    let name = file.file_stem().and_then(|name| name.to_str());
    let (Some(folder), Some(name)) = (file.parent(), name) else {
        return failed(format!("{} is no scenario file", file.display()));
    };
    if !file.is_file() {
        return failed(format!("there is no {}", file.display()));
    }
    Scenario::read(folder, name)
}

fn bundle(
    workspace: &Workspace,
    board: Board,
    scenario: &Scenario,
    choices: &Choices,
    parts: &Path,
    key: Option<PathBuf>,
) -> Result<Bundle> {
    let machine = parts.join("board.dtb");
    let origin = write_tree(workspace, board, &machine)?;
    let mut values = scenario.parameters(false);
    let files = stage::module_files(workspace, scenario, choices, parts, &values)?;
    let modules = manifest::place(files, board.modules.0, board.modules.1)?;
    values.extend(manifest::placeholders(&modules));
    scenario.add_copies(&mut values)?;
    let source = scenario.folder.join(scenario.manifest_file());
    let tree = parts.join("manifest.dtb");
    manifest::merge(&manifest::decompile(&machine)?, &source, &values, false, &tree)?;
    let image = build::program(workspace, board.package).image;
    let bytes = fs::read(&image).doing("reading the Image")?;
    let places = board.places;
    manifest::check_reservations(&tree, &modules, places.image..places.image + image_size(&bytes))?;
    // An image with a manifest that the hypervisor would refuse is of no use to anybody.
    let reading = fs::read(&tree).doing("reading the device tree")?;
    let report = check::read(&reading, &modules).doing("the hypervisor refuses the manifest")?;
    fs::write(parts.join("manifest.txt"), report).doing("writing manifest.txt")?;
    Ok(Bundle {
        title: format!("{} on {} ({origin})", scenario.summary, board.name),
        image,
        tree,
        modules,
        places,
        key,
        script: None,
        trust: None,
    })
}

/// Writes the device tree of `board` to `output`; returns where it comes from.
fn write_tree(workspace: &Workspace, board: Board, output: &Path) -> Result<String> {
    let (wanted, reduced) = match board.tree {
        TreeSource::Kernel(wanted, reduced) => (wanted, reduced),
        TreeSource::Qemu => {
            setup::require(&[Tool::QEMU])?;
            let choice = MachineChoice {
                gic: Some(2),
                cpu: Some("cortex-a57".into()),
                ..MachineChoice::default()
            };
            let machine = choice.complete()?;
            let launch = Launch {
                machine: &machine,
                virtualization: true,
                disks: &[],
                multi_threaded: false,
            };
            launch.dump_tree(output)?;
            return Ok(format!("QEMU virt, {machine}"));
        }
    };
    match distribution::device_tree(wanted) {
        Ok(tree) => {
            fs::copy(&tree, output).doing(format!("copying {}", tree.display()))?;
            Ok(wanted.to_owned())
        }
        Err(Failure::Skipped(_)) => {
            let source = workspace.root.join("boards").join(board.name).join(reduced);
            let text = fs::read_to_string(&source).doing(format!("reading {}", source.display()))?;
            manifest::compile(&format!("/dts-v1/;\n{text}"), &source, output)?;
            println!(
                "no {wanted}: its folder can be given by PORTUNUS_BOARD_DTB. Taking the reduced one, which has no devices"
            );
            Ok(format!("boards/{}/{reduced}", board.name))
        }
        Err(other) => Err(other),
    }
}

/// Writes the sums and the sizes.
fn summarise(folder: &Path, files: &[CardFile], image: &[u8]) -> Result<()> {
    let (mut sums, mut sizes) = (String::new(), String::new());
    for name in PRODUCTS.iter().chain(&[SREC, CARD]) {
        let contents = fs::read(folder.join(name)).doing(format!("reading {name}"))?;
        sums.push_str(&format!("{}  {name}\n", sha256(&contents)?));
        sizes.push_str(&format!("{:>12}  {name}\n", contents.len()));
    }
    for (name, file) in files.iter().filter(|(name, _)| !PRODUCTS.contains(&name.as_str())) {
        let size = fs::metadata(file).doing(format!("reading {name}"))?.len();
        sizes.push_str(&format!("{size:>12}  {name} (on the card)\n"));
    }
    sizes.push_str(&format!(
        "{:>12}  memory that the hypervisor takes\n",
        image_size(image)
    ));
    fs::write(folder.join(SUMS), sums).doing(SUMS)?;
    fs::write(folder.join(SIZES), sizes).doing(SIZES)
}

/// Reads everything back as its readers will.
fn verify(folder: &Path, bundle: &Bundle, files: &[CardFile], image: &[u8]) -> Result<()> {
    let card = folder.join(CARD);
    let read = card::read(&card)?;
    if read.len() != files.len() {
        return failed(format!("the card has {} files of {}", read.len(), files.len()));
    }
    for ((name, file), (found, contents)) in files.iter().zip(&read) {
        if name != found || fs::read(file).doing(format!("reading {name}"))? != *contents {
            return failed(format!("{found} on the card is not the {name} that was put there"));
        }
    }
    check_file_system(&card)?;
    verify_fit(&folder.join(FIT), bundle)?;
    let text = fs::read_to_string(folder.join(SREC)).doing(SREC)?;
    let (address, contents, entry) = srec::read(&text).doing(SREC)?;
    if u64::from(address) != bundle.places.image || entry != address || contents != image {
        return failed(format!("{SREC} is not the Image"));
    }
    let output = Command::new("sha256sum")
        .args(["--check", "--status", SUMS])
        .current_dir(folder)
        .status();
    if output.doing("running sha256sum")?.success() {
        Ok(())
    } else {
        failed(format!("{SUMS} is not about these files"))
    }
}

/// Has the host's tool look at the card's file system, where there is one.
fn check_file_system(file: &Path) -> Result<()> {
    if setup::find(CHECK_FAT.program).is_none() && setup::require(&[CHECK_FAT]).is_err() {
        println!(
            "there is no {}: the card was read back, but only by the code that wrote it",
            CHECK_FAT.program
        );
        return Ok(());
    }
    let partition = file.with_extension("partition");
    card::extract(file, &partition)?;
    let output = CHECK_FAT
        .command()
        .arg("-n")
        .arg(&partition)
        .stdin(Stdio::null())
        .output();
    let output = output.doing("running fsck.vfat")?;
    let _ = fs::remove_file(&partition);
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    failed(format!("fsck.vfat: {}", text.lines().last().unwrap_or("finds errors")))
}

/// Compares each part of the file with everything with what it was made of, and with its own sum.
fn verify_fit(file: &Path, bundle: &Bundle) -> Result<()> {
    let bytes = fs::read(file).doing(format!("reading {}", file.display()))?;
    let tree = Tree::new(&bytes).doing(FIT)?;
    let Some(images) = tree.find("/images") else {
        return failed(format!("{FIT} has no images"));
    };
    let mut parts = vec![&bundle.image, &bundle.tree];
    parts.extend(bundle.modules.iter().map(|module| &module.file));
    let mut found = 0;
    for (node, part) in images.children().zip(&parts) {
        let data = node.property("data").unwrap_or_default();
        let sum = node
            .child("hash-1")
            .and_then(|hash| hash.property("value"))
            .unwrap_or_default();
        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        if fs::read(part).doing(format!("reading {}", part.display()))? != data || sha256(data)? != sum {
            return failed(format!("{FIT}: {} is not what it was made of", node.name()));
        }
        found += 1;
    }
    if found != parts.len() || images.children().count() != found {
        return failed(format!("{FIT} has {found} parts of {}", parts.len()));
    }
    let signed = tree
        .nodes()
        .any(|node| node.name() == "signature-1" && node.has("value"));
    if signed == bundle.key.is_some() {
        Ok(())
    } else {
        failed(format!("{FIT} is not signed as it should be"))
    }
}
