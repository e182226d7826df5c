//! Sorting the short lists that are made at boot.
//!
//! The standard library's sort is fast for any length at two to four KiB of code for each type; these lists have tens of
//! entries, and are nearly in order.

/// Sorts by `key`, lowest first; what has the same key stays in its order. Takes steps as the square of the length.
pub fn sort_by_key<T, K: Ord>(list: &mut [T], key: impl Fn(&T) -> K) {
    for length in 1..list.len() {
        let (Some(sorted), Some(next)) = (list.get(..length), list.get(length)) else {
            return;
        };
        let next = key(next);
        let at = sorted.partition_point(|entry| key(entry) <= next);
        for index in (at..length).rev() {
            list.swap(index, index + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn it_sorts_as_the_standard_library_does() {
        let mut state = 1_u32;
        for length in 0..60 {
            let list: Vec<(u8, u32)> = (0..length)
                .map(|index| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    ((state >> 28) as u8, index)
                })
                .collect();
            let (mut ours, mut theirs) = (list.clone(), list);
            sort_by_key(&mut ours, |(key, _)| *key);
            theirs.sort_by_key(|(key, _)| *key);
            assert_eq!(ours, theirs);
        }
    }
}
