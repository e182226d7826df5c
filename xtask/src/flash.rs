//! `cargo xtask flash BOARD --device PATH`: writes a board's card and reads it back.
//!
//! What is on the device is gone afterwards, so it looks twice: whole devices only, none that is in use, none that is built
//! in, and it asks. A regular file is taken without looking.

use std::fs::{self, File};
use std::io::{BufRead, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;

use crate::boards;
use crate::failure::{Doing, Failure, Result, failed};
use crate::setup;
use crate::workspace::Workspace;

mod device;

#[cfg(test)]
mod tests;

use device::{Device, System};

/// Bytes that are written or compared at once.
const PIECE: usize = 1 << 20;

/// Options of `cargo xtask flash`.
#[derive(Args, Debug)]
pub(crate) struct Flash {
    /// The board: rcar-h3 or qemu-virt.
    board: String,
    /// The card, as a whole: a block device such as /dev/sdX or /dev/mmcblkN, or a regular file.
    #[arg(long, value_name = "PATH")]
    device: PathBuf,
    /// Don't ask.
    #[arg(long)]
    yes: bool,
    /// Take a device that is in use or can't be removed, too.
    #[arg(long)]
    force: bool,
}

impl Flash {
    /// Writes the card. The last line says how that went.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let workspace = Workspace::find()?;
        let image = boards::folder(&workspace, boards::board(&self.board)?).join(boards::CARD);
        if !image.is_file() {
            return failed(format!(
                "there is no {}; `cargo xtask image {}` makes it",
                image.display(),
                self.board
            ));
        }
        let ask = |question: &str| if self.yes { Ok(true) } else { ask(question) };
        write(&image, &self.device, self.force, &System::default(), ask)?;
        println!("PASS flash {}: {}", self.board, self.device.display());
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether the user types `yes`.
fn ask(question: &str) -> Result<bool> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return failed("there is nobody to ask; --yes answers for them");
    }
    print!("{question} Type yes: ");
    std::io::stdout().flush().doing("asking")?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer).doing("asking")?;
    Ok(answer.trim() == "yes")
}

/// Writes `image` to `target` and compares.
fn write(image: &Path, target: &Path, force: bool, system: &System, ask: impl Fn(&str) -> Result<bool>) -> Result<()> {
    let what = target.display();
    let size = fs::metadata(image).doing(format!("reading {}", image.display()))?.len();
    let device = look(target, system)?;
    if let Some(device) = &device {
        device.check(size, force)?;
    }
    let described = match &device {
        Some(device) => format!("{what} ({device})"),
        None => format!("the file {what}"),
    };
    if !ask(&format!("Everything in {described} will be lost."))? {
        return failed("nothing was written");
    }
    let mut source = File::open(image).doing(format!("reading {}", image.display()))?;
    // Never created below /dev: a name there without a device is a slip of the pen.
    let mut options = File::options();
    options.write(true).create(device.is_none()).truncate(device.is_none());
    let mut output = options.open(target).doing(format!("opening {what}"))?;
    let mut progress = Progress::new("written", size);
    let mut piece = vec![0; PIECE];
    loop {
        let count = read_piece(&mut source, &mut piece).doing(format!("reading {}", image.display()))?;
        if count == 0 {
            break;
        }
        let written = output.write_all(&piece[..count]);
        written.doing(format!("writing {what} at byte {}", progress.done))?;
        progress.add(count);
    }
    output.sync_all().doing(format!("writing {what}"))?;
    drop(output);
    if device.is_some() {
        forget(target);
    }
    compare(image, target)
}

/// What `target` is: `None` for a regular file, be it there yet or not.
fn look(target: &Path, system: &System) -> Result<Option<Device>> {
    let what = target.display();
    let kind = match fs::metadata(target) {
        Ok(data) => data.file_type(),
        Err(_) if target.starts_with("/dev") => return failed(format!("there is no {what}; `lsblk` lists devices")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::Failed(format!("{what}: {error}"))),
    };
    if kind.is_file() {
        Ok(None)
    } else if kind.is_block_device() {
        Device::read(target, system).map(Some)
    } else if kind.is_dir() {
        failed(format!("{what} is a folder"))
    } else {
        failed(format!("{what} is neither a block device nor a regular file"))
    }
}

/// Makes the kernel forget what it keeps of a device, so that what is read comes from there.
fn forget(target: &Path) {
    let program = setup::find("blockdev").unwrap_or_else(|| "blockdev".into());
    let flushed = Command::new(program).arg("--flushbufs").arg(target).status();
    if !flushed.is_ok_and(|status| status.success()) {
        println!("blockdev --flushbufs does not work here: what is compared may come from the kernel's memory");
    }
}

/// Compares the beginning of `target` with `image`.
fn compare(image: &Path, target: &Path) -> Result<()> {
    let what = target.display();
    let size = fs::metadata(image).doing(format!("reading {}", image.display()))?.len();
    let mut wanted = File::open(image).doing(format!("reading {}", image.display()))?;
    let mut found = File::open(target).doing(format!("reading {what}"))?;
    found.seek(SeekFrom::Start(0)).doing(format!("reading {what}"))?;
    let mut progress = Progress::new("verified", size);
    let (mut first, mut second) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let count = read_piece(&mut wanted, &mut first).doing(format!("reading {}", image.display()))?;
        if count == 0 {
            return Ok(());
        }
        let read = read_piece(&mut found, &mut second[..count]).doing(format!("reading {what}"))?;
        let different = first[..count].iter().zip(&second[..read]).position(|(a, b)| a != b);
        if let Some(offset) = different.or((read < count).then_some(read)) {
            let place = progress.done + offset as u64;
            return failed(format!(
                "{what} does not keep what was written to it: byte {place} differs"
            ));
        }
        progress.add(count);
    }
}

/// Fills `piece`, unless the file ends before.
fn read_piece(file: &mut File, piece: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < piece.len() {
        match file.read(&mut piece[count..])? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

/// Says how far it is: on one line of a terminal, else once at the end.
struct Progress {
    word: &'static str,
    done: u64,
    size: u64,
    terminal: bool,
}

impl Progress {
    fn new(word: &'static str, size: u64) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self {
            word,
            done: 0,
            size,
            terminal,
        }
    }

    fn add(&mut self, count: usize) {
        self.done += count as u64;
        let over = self.done >= self.size;
        if self.terminal || over {
            let end = if over { "\n" } else { "\r" };
            print!("{} of {} MiB {}{end}", self.done >> 20, self.size >> 20, self.word);
            // Only the progress would be missing.
            let _ = std::io::stdout().flush();
        }
    }
}
