//! Fingerprints of key texts, by which a cached key is recognized without BLAKE3.
//!
//! A fingerprint is the length of the text and the universal hash NH (Black, Halevi, Krawczyk, Krovetz,
//! Rogaway: *UMAC: Fast and Secure Message Authentication*, CRYPTO 1999; RFC 4418 §5.2) of its blocks, over
//! words of 64 bits, twice, the second time with the hash key shifted by two words. For any two different
//! texts, the probability over the choice of the hash key that their fingerprints are equal is at most 2⁻¹²⁸
//! (ibid., theorem on Toeplitz keys).
//!
//! This is enough to authenticate a text:
//! - The hash key is random and belongs to this process. Neither it nor a fingerprint leaves the process.
//! - A client may choose each text after it knows what became of the texts before, but learns of each only
//!   whether it is accepted. Until a text that is not a key is accepted, every answer is the same whatever
//!   the hash key is, so the choice gains nothing: among *q* texts against *n* cached keys, one is accepted
//!   with a probability of at most *qn* / 2¹²⁸, which is 2⁻⁶⁸ for 2⁴⁰ texts and a million keys.
//! - A text that is not found here is hashed with BLAKE3 and looked up in the store.
//! - The time to compute and to compare fingerprints depends on the length of the text only. The position
//!   in the cache depends on the fingerprint; even who learned the whole hash key from the time of memory
//!   accesses would have to guess the fingerprint of a text that contains 256 random bits.

use std::fmt;

use zeroize::Zeroizing;

/// The length of the longest text with a fingerprint, in bytes.
pub(in crate::guard) const MAX_LEN: usize = 256;

/// The number of word pairs in the longest text.
const PAIRS: usize = MAX_LEN / 16;

/// Computes fingerprints under one random hash key.
pub(in crate::guard) struct Fingerprinter(Zeroizing<[[u64; 2]; PAIRS + 1]>);

impl Fingerprinter {
    /// Draws a hash key from the operating system's entropy.
    pub(in crate::guard) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([[0; 16]; PAIRS + 1]);
        getrandom::fill(bytes.as_flattened_mut())?;
        Ok(Self(Zeroizing::new(bytes.map(words))))
    }

    /// Returns the fingerprint of a text; `None` if it is longer than [`MAX_LEN`].
    #[inline(always)]
    pub(in crate::guard) fn of(&self, text: &[u8]) -> Option<Fingerprint> {
        if text.len() > MAX_LEN {
            return None;
        }
        let mut sums = [0; 2];
        let (blocks, rest) = text.as_chunks();
        for (at, block) in blocks.iter().enumerate() {
            self.add_block(&mut sums, at, block);
        }
        if !rest.is_empty() {
            self.add_block(&mut sums, blocks.len(), &last_block(text));
        }
        let (first, second) = (halves(sums[0]), halves(sums[1]));
        let len = text.len() as u64;
        Some(Fingerprint([first[0], first[1], second[0], second[1], len]))
    }

    #[inline(always)]
    fn add_block(&self, sums: &mut [u128; 2], at: usize, block: &[u8; 16]) {
        let block = words(*block);
        add_product(&mut sums[0], block, &self.0[at]);
        add_product(&mut sums[1], block, &self.0[at + 1]);
    }
}

/// The last 16 bytes of a text, of which some may be in the block before; a shorter text is padded with
/// zeros. Together with its length, the blocks determine the text.
#[inline(always)]
fn last_block(text: &[u8]) -> [u8; 16] {
    match text.last_chunk() {
        Some(last) => *last,
        None => {
            let mut padded = [0; 16];
            padded[..text.len()].copy_from_slice(text);
            padded
        }
    }
}

#[inline(always)]
fn words(bytes: [u8; 16]) -> [u64; 2] {
    halves(u128::from_le_bytes(bytes))
}

#[inline(always)]
fn halves(number: u128) -> [u64; 2] {
    [number as u64, (number >> 64) as u64]
}

#[inline(always)]
fn add_product(sum: &mut u128, block: [u64; 2], key: &[u64; 2]) {
    let a = u128::from(block[0].wrapping_add(key[0]));
    let b = u128::from(block[1].wrapping_add(key[1]));
    *sum = sum.wrapping_add(a * b);
}

impl fmt::Debug for Fingerprinter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprinter(…)")
    }
}

/// The fingerprint of a text: both hashes, each as its lower and its upper half, and the length. The
/// default is that of no text.
#[derive(Clone, Copy, Default)]
pub(in crate::guard) struct Fingerprint(pub(super) [u64; 5]);

impl Fingerprint {
    /// Bits that select a set of the cache, and bits that tell apart the keys of a set.
    #[inline(always)]
    pub(super) fn position(&self) -> (usize, u16) {
        let Self([_, first, _, second, _]) = self;
        (*first as usize, (second >> 48) as u16)
    }
}

/// Takes the same time wherever the difference is.
impl PartialEq for Fingerprint {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let pairs = self.0.iter().zip(&other.0);
        pairs.fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
    }
}

impl Eq for Fingerprint {}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn counted() -> Fingerprinter {
        let mut next = 0x9e37_79b9_7f4a_7c15_u64;
        let key = std::array::from_fn(|_| {
            [0; 2].map(|_: u64| {
                next = next.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
                next
            })
        });
        Fingerprinter(Zeroizing::new(key))
    }

    /// The blocks of a text, of which the last one may overlap the one before.
    fn blocks(text: &[u8]) -> Vec<u8> {
        let mut blocks = text.to_vec();
        if text.len() < 16 {
            blocks.resize(text.len().next_multiple_of(16), 0);
        } else if !text.len().is_multiple_of(16) {
            blocks.truncate(text.len() / 16 * 16);
            blocks.extend_from_slice(&text[text.len() - 16..]);
        }
        blocks
    }

    /// NH as in RFC 4418 §5.2.2, over words of 64 bits.
    fn nh(key: &[u64], text: &[u8]) -> u128 {
        let blocks = blocks(text);
        let word = |at: usize| u64::from_le_bytes(blocks[8 * at..][..8].try_into().unwrap());
        (0..blocks.len() / 8).step_by(2).fold(0, |sum: u128, at| {
            let a = u128::from(word(at).wrapping_add(key[at]));
            let b = u128::from(word(at + 1).wrapping_add(key[at + 1]));
            sum.wrapping_add(a * b)
        })
    }

    #[test]
    fn a_fingerprint_is_nh_with_two_keys() {
        let fingerprinter = counted();
        let key = fingerprinter.0.as_flattened().to_vec();
        for len in 0..=MAX_LEN {
            let text: Vec<u8> = (0..len).map(|n| (n * 37 + len) as u8).collect();
            let [a, b, c, d, found_len] = fingerprinter.of(&text).unwrap().0;
            let found =
                [[a, b], [c, d]].map(|[low, high]| u128::from(high) << 64 | u128::from(low));
            assert_eq!(found, [nh(&key, &text), nh(&key[2..], &text)], "{len}");
            assert_eq!(found_len, len as u64);
        }
    }

    #[test]
    fn a_change_of_any_bit_or_of_the_length_changes_the_fingerprint() {
        let fingerprinter = Fingerprinter::random().unwrap();
        let text: Vec<u8> = (0..57).collect();
        let mut seen = HashSet::new();
        let mut is_new = |text: &[u8]| seen.insert(fingerprinter.of(text).unwrap().0);
        assert!(is_new(&text));
        for bit in 0..8 * text.len() {
            let mut other = text.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(is_new(&other), "bit {bit}");
        }
        let mut longer = text;
        for _ in 0..20 {
            longer.push(0);
            assert!(is_new(&longer), "{} bytes", longer.len());
        }
    }

    #[test]
    fn fingerprints_are_equal_only_if_every_part_is() {
        let one = Fingerprint([1, 2, 3, 4, 5]);
        assert_eq!(one, one);
        for part in 0..5 {
            for bit in [0, 63] {
                let mut other = one;
                other.0[part] ^= 1 << bit;
                assert_ne!(one, other);
            }
        }
    }

    #[test]
    fn each_process_has_a_hash_key_of_its_own() {
        let [one, other] = [0; 2].map(|_| Fingerprinter::random().unwrap());
        assert_ne!(one.of(b"text"), other.of(b"text"));
    }

    #[test]
    fn texts_that_are_too_long_have_no_fingerprint() {
        assert!(counted().of(&[b'a'; MAX_LEN]).is_some());
        assert!(counted().of(&[b'a'; MAX_LEN + 1]).is_none());
    }
}
