//! Guest kernels: what is loaded where, and what is refused, with hostile files beside real ones.

use portunus::domain::image::{ImageError, LoadedImage, load};
use portunus::domain::ram::{GuestRam, Piece};
use portunus::fakes::FakeMachine;
use portunus::ids::{Ipa, Pa};
use portunus::memory::PhysicalMemory;
use portunus::range::{IpaRange, PaRange};

const MODULE: u64 = 0x5000_0000;
const MIB: u64 = 1 << 20;
const RAM_SIZE: u64 = 8 * MIB;

struct Bench {
    machine: FakeMachine,
    ram: GuestRam,
}

/// RAM of 8 MiB at guest address 0x40000000, in two pieces that do not touch in the machine.
fn bench() -> Bench {
    let machine = FakeMachine::new();
    machine.add_memory(Pa(0x8000_0000), 3 * MIB);
    machine.add_memory(Pa(0x9000_0000), RAM_SIZE - 3 * MIB);
    let pieces = vec![
        Piece {
            ipa: Ipa(0x4000_0000 + 3 * MIB),
            pa: PaRange::new(0x9000_0000, RAM_SIZE - 3 * MIB),
        },
        Piece {
            ipa: Ipa(0x4000_0000),
            pa: PaRange::new(0x8000_0000, 3 * MIB),
        },
    ];
    let ram = GuestRam::new(pieces);
    ram.zero(&machine);
    Bench { machine, ram }
}

impl Bench {
    fn load(&self, file: &[u8]) -> Result<LoadedImage, ImageError> {
        // The module is all the memory that there is around it: reading past its end panics.
        if !file.is_empty() {
            self.machine.add_memory(Pa(MODULE), file.len() as u64);
            self.machine.poke(Pa(MODULE), file);
        }
        load(&self.machine, PaRange::new(MODULE, file.len() as u64), &self.ram)
    }
    fn peek(&self, ipa: u64, length: u64) -> Vec<u8> {
        let spans = self.ram.spans(IpaRange::new(ipa, length)).expect("RAM");
        spans
            .iter()
            .flat_map(|span| self.machine.peek(span.start, span.size as usize))
            .collect()
    }
}

/// An arm64 Image of `length` bytes with a recognisable body.
fn image(text_offset: u64, image_size: u64, flags: u64, length: usize) -> Vec<u8> {
    let mut file: Vec<u8> = (0..length).map(|index| (index * 7 + index / 251) as u8).collect();
    file[..64].fill(0);
    file[..4].copy_from_slice(&0x1400_0010u32.to_le_bytes());
    file[8..16].copy_from_slice(&text_offset.to_le_bytes());
    file[16..24].copy_from_slice(&image_size.to_le_bytes());
    file[24..32].copy_from_slice(&flags.to_le_bytes());
    file[56..60].copy_from_slice(b"ARM\x64");
    file
}

/// The same with a PE header whose one section ends at `data_end`.
fn efi_image(length: usize, data_end: u32) -> Vec<u8> {
    let mut file = image(0, length as u64 + 0x1000, 0xa, length);
    file[..2].copy_from_slice(b"MZ");
    file[60..64].copy_from_slice(&64u32.to_le_bytes());
    file[64..88].fill(0);
    file[64..68].copy_from_slice(b"PE\0\0");
    file[70] = 1;
    let section = 88;
    file[section..section + 40].fill(0);
    file[section + 16..section + 20].copy_from_slice(&(data_end - 0x1000).to_le_bytes());
    file[section + 20..section + 24].copy_from_slice(&0x1000u32.to_le_bytes());
    file
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 != 0 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

/// A gzip file with these flags and this optional part of the header.
fn gzip_with(flags: u8, optional: &[u8], content: &[u8]) -> Vec<u8> {
    let mut file = vec![0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3];
    file.extend_from_slice(optional);
    file.extend(miniz_oxide::deflate::compress_to_vec(content, 6));
    file.extend(crc32(content).to_le_bytes());
    file.extend((content.len() as u32).to_le_bytes());
    file
}

fn gzip(content: &[u8]) -> Vec<u8> {
    gzip_with(0, &[], content)
}

struct Segment {
    kind: u32,
    virtual_address: u64,
    physical_address: u64,
    offset: u64,
    file_size: u64,
    memory_size: u64,
}

fn elf(file_type: u16, entry: u64, segments: &[Segment], length: usize) -> Vec<u8> {
    let mut file: Vec<u8> = (0..length).map(|index| (index * 13) as u8).collect();
    let mut header = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header.extend(file_type.to_le_bytes());
    header.extend(183u16.to_le_bytes());
    header.extend(1u32.to_le_bytes());
    header.extend(entry.to_le_bytes());
    header.extend(64u64.to_le_bytes());
    header.extend([0; 8 + 4]);
    for half in [64u16, 56, segments.len() as u16, 0, 0, 0] {
        header.extend(half.to_le_bytes());
    }
    for segment in segments {
        header.extend(segment.kind.to_le_bytes());
        header.extend(7u32.to_le_bytes());
        let rest = [
            segment.offset,
            segment.virtual_address,
            segment.physical_address,
            segment.file_size,
            segment.memory_size,
            4096,
        ];
        rest.iter().for_each(|field| header.extend(field.to_le_bytes()));
    }
    file[..header.len()].copy_from_slice(&header);
    file
}

fn load_segment(address: u64, offset: u64, file_size: u64, memory_size: u64) -> Segment {
    Segment {
        kind: 1,
        virtual_address: 0xffff_0000_0000_0000_u64.wrapping_add(address),
        physical_address: address,
        offset,
        file_size,
        memory_size,
    }
}

#[test]
fn an_image_is_placed_at_its_text_offset_and_keeps_room_for_its_zeroes() {
    // text_offset, image_size, length -> entry, extent
    let rows = [
        (0, 5 * MIB, MIB as usize, 0x4000_0000, 5 * MIB),
        (0x8_0000, MIB, 0x1_2345, 0x4008_0000, MIB),
        (0x10, 64, 0x2000, 0x4000_0010, 0x2000),
        // Before Linux 3.17 the size is not given and the offset is always 512 KiB.
        (0x1234_5678, 0, 0x2000, 0x4008_0000, 0x2000),
    ];
    for (text_offset, image_size, length, entry, extent) in rows {
        let bench = bench();
        let file = image(text_offset, image_size, 0xa, length);
        let loaded = bench.load(&file);
        assert_eq!(
            loaded,
            Ok(LoadedImage {
                entry: Ipa(entry),
                extent: IpaRange::new(entry, extent)
            })
        );
        assert_eq!(bench.peek(entry, length as u64), file);
        let after = 0x1000.min(RAM_SIZE - (entry - 0x4000_0000) - length as u64);
        assert!(bench.peek(entry + length as u64, after).iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_compressed_image_is_the_same_as_a_plain_one() {
    let file = image(0x8_0000, 6 * MIB, 0xa, MIB as usize + 77);
    let rows: [(u8, &[u8]); 5] = [
        (0, &[]),
        (1 << 3, b"Image\0"),
        (1 << 2, &[3, 0, 1, 2, 3]),
        (1 << 4 | 1 << 1, b"comment\0\x12\x34"),
        (0b1_1111, b"\x01\x00xname\0comment\0\0\0"),
    ];
    for (flags, optional) in rows {
        let bench = bench();
        let loaded = bench.load(&gzip_with(flags, optional, &file)).expect("loads");
        assert_eq!(
            loaded,
            LoadedImage {
                entry: Ipa(0x4008_0000),
                extent: IpaRange::new(0x4008_0000, 6 * MIB)
            }
        );
        assert_eq!(bench.peek(0x4008_0000, file.len() as u64), file, "flags {flags:#x}");
    }
}

#[test]
fn padding_after_a_compressed_image_is_no_harm() {
    let mut file = gzip(&image(0, MIB, 0, 0x3000));
    file.extend([0; 100]);
    assert!(bench().load(&file).is_ok());
}

#[test]
fn an_executable_goes_where_its_physical_addresses_say() {
    let segments = [
        load_segment(0x4020_0000, 0x1000, 0x2000, 0x2000),
        Segment {
            kind: 4,
            ..load_segment(0xdead_0000, 0x7fff_0000, 9, 9)
        },
        load_segment(0x402f_f000, 0x3000, 0x1800, 0x5000),
    ];
    let bench = bench();
    let file = elf(2, 0xffff_0000_4020_0123, &segments, 0x5000);
    let loaded = bench.load(&file).expect("loads");
    let extent = IpaRange::new(0x4020_0000, 0x10_4000);
    assert_eq!(
        loaded,
        LoadedImage {
            entry: Ipa(0x4020_0123),
            extent
        }
    );
    assert_eq!(bench.peek(0x4020_0000, 0x2000), file[0x1000..0x3000]);
    assert_eq!(bench.peek(0x402f_f000, 0x1800), file[0x3000..0x4800]);
    assert_eq!(bench.peek(0x4030_0800, 0x3800), [0; 0x3800]);
}

#[test]
fn a_position_independent_executable_goes_to_the_lowest_place_with_room() {
    let segments = [Segment {
        virtual_address: 0,
        ..load_segment(0, 0x1000, 0x2000, 0x4000)
    }];
    let bench = bench();
    let loaded = bench.load(&elf(3, 0x40, &segments, 0x3000)).expect("loads");
    let extent = IpaRange::new(0x4000_0000, 0x4000);
    assert_eq!(
        loaded,
        LoadedImage {
            entry: Ipa(0x4000_0040),
            extent
        }
    );
}

#[test]
fn files_that_are_no_kernel_are_refused_with_what_is_wrong() {
    let plain = || image(0, MIB, 0xa, 0x2000);
    let with = |mut file: Vec<u8>, at: usize, bytes: &[u8]| {
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let segments = || [load_segment(0x4000_0000, 0x1000, 0x1000, 0x1000)];
    let executable = || elf(2, 0xffff_0000_4000_0000, &segments(), 0x2000);
    let one = |segment| elf(2, 0xffff_0000_4000_0000, &[segment], 0x2000);
    let packed = || gzip(&plain());
    let crc = crc32(&plain());
    let truncated = |needed, length| ImageError::Truncated { needed, length };
    let outside = |start, size| ImageError::DoesNotFit(IpaRange::new(start, size));
    let rows: Vec<(Vec<u8>, ImageError)> = vec![
        (vec![], truncated(4, 0)),
        (vec![0; 3], truncated(4, 3)),
        (plain()[..63].to_vec(), truncated(64, 63)),
        (vec![0; 64], ImageError::UnknownFormat(0)),
        (
            b"#!/bin/sh\n".repeat(10),
            ImageError::UnknownFormat(u32::from_le_bytes(*b"#!/b")),
        ),
        (image(0, MIB, 1, 0x2000), ImageError::BigEndian(1)),
        (image(0, RAM_SIZE + 1, 0, 0x2000), outside(0x4000_0000, RAM_SIZE + 1)),
        (
            image(RAM_SIZE - 0xfff, 0x1000, 0, 0x1000),
            outside(0x4000_0000 + RAM_SIZE - 0xfff, 0x1000),
        ),
        (image(u64::MAX, 0x1000, 0, 0x1000), outside(u64::MAX, 0x1000)),
        (image(0, u64::MAX, 0, 0x1000), outside(0x4000_0000, u64::MAX)),
        (efi_image(0x3000, 0x3001), truncated(0x3001, 0x3000)),
        (
            with(efi_image(0x3000, 0x3000), 60, &[0xff; 4]),
            truncated(0xffff_ffff + 24, 0x3000),
        ),
        (with(packed(), 2, &[7]), ImageError::GzipMethod(7)),
        (with(packed(), 3, &[0x20]), ImageError::GzipFlags(0x20)),
        (packed()[..9].to_vec(), truncated(10, 9)),
        (packed()[..10].to_vec(), truncated(11, 10)),
        (with(packed(), 3, &[1 << 3])[..10].to_vec(), truncated(11, 10)),
        (
            with(packed()[..12].to_vec(), 3, &[1 << 2]),
            truncated(u64::from(packed()[10]) + (u64::from(packed()[11]) << 8) + 13, 12),
        ),
        (gzip(b"short"), truncated(64, 5)),
        (gzip(&[0; 100]), ImageError::NotAnImage(0)),
        (
            gzip(&image(0, RAM_SIZE + 1, 0, 0x2000)),
            outside(0x4000_0000, RAM_SIZE + 1),
        ),
        (
            gzip(&image(0, 0x1000, 0, RAM_SIZE as usize + 1)),
            outside(0x4000_0000 + RAM_SIZE, 1),
        ),
        (
            with(packed(), packed().len() - 8, &(crc ^ 1).to_le_bytes()),
            ImageError::Checksum {
                expected: crc ^ 1,
                found: crc,
            },
        ),
        (
            with(packed(), packed().len() - 4, &9u32.to_le_bytes()),
            ImageError::Length {
                expected: 9,
                found: 0x2000,
            },
        ),
        (executable()[..50].to_vec(), truncated(64, 50)),
        (executable()[..100].to_vec(), truncated(120, 100)),
        (executable()[..0x1fff].to_vec(), truncated(0x2000, 0x1fff)),
        (with(executable(), 4, &[1]), ImageError::ElfClass(1, 1)),
        (with(executable(), 5, &[2]), ImageError::ElfClass(2, 2)),
        (with(executable(), 6, &[9]), ImageError::ElfHeader),
        (with(executable(), 16, &[1]), ImageError::ElfType(1)),
        (with(executable(), 18, &[62]), ImageError::ElfMachine(62)),
        (with(executable(), 32, &[0xff; 8]), truncated(u64::MAX, 0x2000)),
        (with(executable(), 54, &[32]), ImageError::ElfHeader),
        (with(executable(), 56, &[0, 0]), ImageError::ElfSegments(0)),
        (with(executable(), 56, &[0xff, 0xff]), ImageError::ElfSegments(0xffff)),
        (with(executable(), 64, &[4]), ImageError::ElfSegments(1)),
        (with(executable(), 24, &[0; 8]), ImageError::ElfEntry(0)),
        (
            one(load_segment(0x4000_0000, 0x1000, 0x1001, 0x1000)),
            ImageError::ElfSegment(0),
        ),
        (
            one(load_segment(u64::MAX - 0xfff, 0x1000, 0, 0x1001)),
            ImageError::ElfSegment(0),
        ),
        (
            one(load_segment(0x3fff_f000, 0x1000, 0x1000, 0x1001)),
            outside(0x3fff_f000, 0x1001),
        ),
        (
            one(load_segment(0x4000_0000, u64::MAX - 5, 0x1000, 0x1000)),
            truncated(u64::MAX, 0x2000),
        ),
    ];
    for (index, (file, error)) in rows.into_iter().enumerate() {
        assert_eq!(bench().load(&file), Err(error), "row {index}");
    }
}

#[test]
fn a_kernel_whose_sections_are_all_there_is_accepted() {
    assert!(bench().load(&efi_image(0x3000, 0x3000)).is_ok());
}

#[test]
fn a_compressed_image_cut_anywhere_is_refused() {
    let file = gzip(&image(0, MIB, 0, 0x2000));
    for length in (4..40)
        .chain((40..file.len()).step_by(13))
        .chain(file.len() - 9..file.len())
    {
        let error = bench().load(&file[..length]).expect_err("truncated");
        assert!(matches!(error, ImageError::Truncated { .. }), "{length}: {error}");
    }
}

#[test]
fn damaged_files_are_refused_or_loaded_and_never_anything_else() {
    let segments = [
        load_segment(0x4000_0000, 0x200, 0x400, 0x800),
        load_segment(0x4010_0000, 0x300, 0x100, 0x100),
    ];
    let originals = [
        gzip(&image(0x1000, 0x5000, 0xa, 0x1000)),
        elf(2, 0xffff_0000_4000_0000, &segments, 0x600),
        efi_image(0x1800, 0x1800),
    ];
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut refused = 0;
    for original in originals {
        for _ in 0..400 {
            let mut file = original.clone();
            for _ in 0..1 + random % 3 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let at = (random >> 20) as usize % file.len().min(256);
                file[at] = (random >> 50) as u8;
            }
            let bench = bench();
            match bench.load(&file) {
                Ok(loaded) => assert!(bench.ram.spans(loaded.extent).is_ok(), "{loaded:?} is outside RAM"),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 400, "{refused}");
}

#[test]
fn guest_ram_is_written_across_its_pieces_and_nowhere_else() {
    let Bench { machine, ram } = bench();
    assert_eq!(ram.banks(), [IpaRange::new(0x4000_0000, RAM_SIZE)]);
    let edge = 0x4000_0000 + 3 * MIB;
    ram.write(&machine, Ipa(edge - 2), &[1, 2, 3, 4]).expect("RAM");
    assert_eq!(machine.peek(Pa(0x8000_0000 + 3 * MIB - 2), 2), [1, 2]);
    assert_eq!(machine.peek(Pa(0x9000_0000), 2), [3, 4]);
    machine.clear_log();
    for (start, size) in [(0x3fff_ffff, 2), (0x4000_0000 + RAM_SIZE - 1, 2), (u64::MAX, 2), (0, 1)] {
        let bytes = vec![0xff; size];
        assert!(ram.write(&machine, Ipa(start), &bytes).is_err(), "{start:#x}");
    }
    assert!(machine.take_log().is_empty(), "a refused write touches nothing");
    let mut probe = [0; 2];
    machine.read(ram.physical(Ipa(edge)).expect("RAM"), &mut probe);
    assert_eq!(probe, [3, 4]);
}
