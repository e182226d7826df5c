//! An SD card as a file: a partition table (MBR) with one FAT partition that has everything on it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use fscommon::StreamSlice;

use super::CardFile;
use crate::failure::{Doing, Result, failed};

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;
/// Where the partition begins: cards erase in pieces of this size.
const FIRST: u64 = 4 * MIB;
/// The partition type "FAT16, by LBA".
const FAT16_LBA: u8 = 0x0e;
/// The least that makes a FAT16, whatever is on it.
const LEAST: u64 = 16 * MIB;
/// The volume's name, padded as it is on disk.
const LABEL: [u8; 11] = *b"PORTUNUS   ";
/// The volume's number, always the same: two cards of the same files are the same.
const VOLUME: u32 = 0x506f_7274;

/// Writes a card with `files` in its root folder to `output`.
pub(crate) fn make(files: &[CardFile], output: &Path) -> Result<()> {
    let what = || format!("making {}", output.display());
    let mut contents = Vec::new();
    for (name, file) in files {
        contents.push((
            name.as_str(),
            fs::read(file).doing(format!("reading {}", file.display()))?,
        ));
    }
    // What it takes, a quarter more for clusters that are half full, and for a file or two of the user.
    let sum: u64 = contents.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let partition = (sum + sum / 4 + LEAST).next_multiple_of(4 * MIB);
    if partition > 2048 * MIB {
        return failed(format!("{sum} bytes are too much for the file system of a card"));
    }
    let mut card = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(output)
        .doing(what())?;
    // What is never written takes no place on the host's disk.
    card.set_len(FIRST + partition).doing(what())?;
    card.write_all(&partition_table(FIRST, partition)).doing(what())?;
    let mut slice = StreamSlice::new(card, FIRST, FIRST + partition).doing(what())?;
    let options = FormatVolumeOptions::new()
        .volume_label(LABEL)
        .volume_id(VOLUME)
        .fat_type(FatType::Fat16);
    fatfs::format_volume(&mut slice, options).doing(what())?;
    let system = FileSystem::new(slice, FsOptions::new()).doing(what())?;
    for (name, bytes) in &contents {
        let mut file = system.root_dir().create_file(name).doing(what())?;
        file.write_all(bytes).doing(what())?;
        file.flush().doing(what())?;
    }
    system.unmount().doing(what())
}

/// The first sector: one primary partition.
fn partition_table(start: u64, size: u64) -> [u8; SECTOR as usize] {
    let mut table = [0; SECTOR as usize];
    // A disk signature, by which operating systems tell cards apart.
    table[440..444].copy_from_slice(&VOLUME.to_le_bytes());
    // Not bootable by a BIOS; cylinders, heads and sectors are beyond what fits (UEFI specification, 5.2.1).
    table[446..450].copy_from_slice(&[0x00, 0xfe, 0xff, 0xff]);
    table[450..454].copy_from_slice(&[FAT16_LBA, 0xfe, 0xff, 0xff]);
    table[454..458].copy_from_slice(&((start / SECTOR) as u32).to_le_bytes());
    table[458..462].copy_from_slice(&((size / SECTOR) as u32).to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    table
}

/// Opens the card in `file`; returns where its partition begins and ends.
fn open(file: &Path) -> Result<(File, u64, u64)> {
    let what = || format!("reading {}", file.display());
    let mut card = File::open(file).doing(what())?;
    let mut table = [0; SECTOR as usize];
    card.read_exact(&mut table).doing(what())?;
    let word = |at: usize| {
        u64::from(u32::from_le_bytes([
            table[at],
            table[at + 1],
            table[at + 2],
            table[at + 3],
        ]))
    };
    let (start, size) = (word(454) * SECTOR, word(458) * SECTOR);
    let length = card.seek(SeekFrom::End(0)).doing(what())?;
    if table[510..] != [0x55, 0xaa] || table[450] != FAT16_LBA || start == 0 || start + size > length {
        return failed(format!("{}: its partition table is damaged", file.display()));
    }
    Ok((card, start, start + size))
}

/// The files on the card in `file`, by the partition table and the file system that are on it.
pub(crate) fn read(file: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let what = || format!("reading {}", file.display());
    let (card, start, end) = open(file)?;
    let slice = StreamSlice::new(card, start, end).doing(what())?;
    let system = FileSystem::new(slice, FsOptions::new()).doing(what())?;
    let mut files = Vec::new();
    for entry in system.root_dir().iter() {
        let entry = entry.doing(what())?;
        if entry.is_file() {
            let mut bytes = Vec::new();
            entry.to_file().read_to_end(&mut bytes).doing(what())?;
            files.push((entry.file_name(), bytes));
        }
    }
    Ok(files)
}

/// Writes the partition of the card in `file` to `output`.
pub(crate) fn extract(file: &Path, output: &Path) -> Result<()> {
    let what = || format!("reading {}", file.display());
    let (mut card, start, end) = open(file)?;
    card.seek(SeekFrom::Start(start)).doing(what())?;
    let mut partition = File::create(output).doing(format!("writing {}", output.display()))?;
    let copied = std::io::copy(&mut card.take(end - start), &mut partition).doing(what())?;
    if copied == end - start {
        Ok(())
    } else {
        failed(format!("{}: it ends within its partition", file.display()))
    }
}
