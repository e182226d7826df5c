//! Keeps instructions apart that a CPU may not execute one right after the other: Cortex-A53 erratum 835769, where a 64-bit
//! multiply-accumulate right after a memory access may give a wrong result.
//!
//! No linker at hand does it, and the compiler does not for code that was compiled before, so it is done in the finished image as GNU
//! ld does: the multiplication moves to a stub at the end of the code, and two branches lead there and back.

use std::ops::Range;

use crate::failure::{Result, failed};

/// Where it is done: ranges of an image that do not overlap.
#[derive(Debug)]
pub(crate) struct Places {
    /// Instructions, and nothing else.
    pub(crate) code: Vec<Range<usize>>,
    /// Room for stubs.
    pub(crate) stubs: Range<usize>,
}

/// Bytes of a stub: the instruction, and the branch back.
const STUB: usize = 8;

/// Moves every multiply-accumulate in the code of `image` that follows a memory access to a stub; returns how many there were.
pub(crate) fn separate(image: &mut [u8], places: &Places) -> Result<usize> {
    let Places { code, stubs } = places;
    let mut free = stubs.start;
    let mut moved = 0;
    for range in code {
        let mut before = None;
        for at in range.clone().step_by(4) {
            let Some(word) = word(image, at) else {
                return failed(format!("there is no code at {at:#x}"));
            };
            if accumulates(word) && before.is_some_and(accesses_memory) {
                if free + STUB > stubs.end {
                    return failed(format!("there is room for {moved} stubs, and more are needed"));
                }
                put(image, free, word);
                put(image, free + 4, branch(free + 4, at + 4)?);
                put(image, at, branch(at, free)?);
                free += STUB;
                moved += 1;
            }
            before = Some(word);
        }
    }
    Ok(moved)
}

/// Whether it is MADD, MSUB, SMADDL, SMSUBL, UMADDL or UMSUBL with 64 bits and something to add to (Arm ARM, C4.1, "Data-processing (3
/// source)": sf = 1, op31 = 000, 001 or 101, Ra not XZR).
fn accumulates(word: u32) -> bool {
    word >> 24 == 0x9b && matches!(word >> 21 & 7, 0 | 1 | 5) && word >> 10 & 31 != 31
}

/// Whether it is a load, a store, a prefetch or an atomic (Arm ARM, C4.1, "Loads and Stores": op0 = x1x0).
fn accesses_memory(word: u32) -> bool {
    word >> 25 & 0b0101 == 0b0100
}

fn branch(from: usize, to: usize) -> Result<u32> {
    let words = (to as i64 - from as i64) / 4;
    if (-(1 << 25)..1 << 25).contains(&words) {
        Ok(0x1400_0000 | words as u32 & 0x03ff_ffff)
    } else {
        failed(format!("{to:#x} is too far from {from:#x} for a branch"))
    }
}

fn word(image: &[u8], at: usize) -> Option<u32> {
    let bytes = image.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn put(image: &mut [u8], at: usize, word: u32) {
    if let Some(place) = image.get_mut(at..at + 4) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::{Places, separate};

    const NOP: u32 = 0xd503_201f;
    const LDR: u32 = 0xf940_63eb; // ldr x11, [sp, #192]
    const STP: u32 = 0xa900_07e0; // stp x0, x1, [sp]
    const PRFM: u32 = 0xf980_0000; // prfm pldl1keep, [x0]
    const CAS: u32 = 0xc8a0_7c41; // cas x0, x1, [x2]
    const ADD: u32 = 0x8b01_0000; // add x0, x0, x1
    const MADD: u32 = 0x9b17_216a; // madd x10, x11, x23, x8
    const MSUB: u32 = 0x9b02_8c20; // msub x0, x1, x2, x3
    const UMADDL: u32 = 0x9bb5_7673; // umaddl x19, w19, w21, x29
    const MUL: u32 = 0x9b02_7c20; // mul x0, x1, x2, which adds nothing
    const MADD_32: u32 = 0x1b02_0c20; // madd w0, w1, w2, w3
    const UMULH: u32 = 0x9bc2_7c20; // umulh x0, x1, x2

    fn one(code: std::ops::Range<usize>, stubs: std::ops::Range<usize>) -> Places {
        let code = std::iter::once(code).collect();
        Places { code, stubs }
    }

    fn image(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn words(image: &[u8]) -> Vec<u32> {
        image
            .chunks(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect()
    }

    #[test]
    fn a_multiplication_after_an_access_goes_by_way_of_a_stub_and_comes_back() {
        let mut image = image(&[LDR, MADD, NOP, NOP, 0, 0, 0, 0]);
        assert_eq!(separate(&mut image, &one(0..16, 16..32)).unwrap(), 1);
        // From 4 to 16: 3 words on; from 20 to 8: 3 words back.
        assert_eq!(words(&image), [LDR, 0x1400_0003, NOP, NOP, MADD, 0x17ff_fffd, 0, 0]);
    }

    #[test]
    fn only_64_bit_multiplications_that_add_and_follow_an_access_are_moved() {
        for (first, second, expected) in [
            (LDR, MADD, 1),
            (STP, MSUB, 1),
            (PRFM, UMADDL, 1),
            (CAS, MADD, 1),
            (ADD, MADD, 0),
            (NOP, UMADDL, 0),
            (MADD, MADD, 0),
            (LDR, MUL, 0),
            (LDR, UMULH, 0),
            (LDR, MADD_32, 0),
            (LDR, NOP, 0),
        ] {
            let mut image = image(&[first, second, NOP, 0, 0]);
            let before = image.clone();
            let moved = separate(&mut image, &one(0..12, 12..20)).unwrap();
            assert_eq!(moved, expected, "{first:#x}, {second:#x}");
            assert_eq!(image == before, expected == 0, "{first:#x}, {second:#x}");
        }
    }

    #[test]
    fn data_between_code_is_left_alone_and_does_not_count_as_an_access() {
        let mut image = image(&[LDR, MADD, MADD, NOP, 0, 0]);
        let before = image.clone();
        assert_eq!(
            separate(
                &mut image,
                &Places {
                    code: vec![0..4, 8..16],
                    stubs: 16..24
                }
            )
            .unwrap(),
            0
        );
        assert_eq!(image, before);
    }

    #[test]
    fn without_room_for_all_stubs_or_with_code_outside_nothing_is_taken_for_done() {
        let mut two = image(&[LDR, MADD, LDR, MADD, 0, 0]);
        let error = separate(&mut two, &one(0..16, 16..24)).unwrap_err().to_string();
        assert!(error.contains("room for 1"), "{error}");
        let mut short = image(&[LDR, MADD]);
        assert!(separate(&mut short, &one(0..16, 8..8)).is_err());
    }
}
