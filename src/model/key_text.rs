//! The text of an API key and its hash.
//!
//! ```text
//! kg_live_ Jx3…43 characters…Qk 0aZ81c
//! prefix   32 random bytes      CRC-32 of all before it
//!          base64url            base62, most significant digit first
//! ```
//!
//! A scanner for leaked keys matches
//! `[A-Za-z0-9][A-Za-z0-9_-]{0,30}_[A-Za-z0-9_-]{43}[0-9A-Za-z]{6}` and then compares the
//! checksum; with the default prefix, `kg_live_[A-Za-z0-9_-]{43}[0-9A-Za-z]{6}`.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::input::{InvalidInput, RequestField, deserialize_from_text, try_from_text};
use crate::model::Secret;

const RANDOM_LEN: usize = 43;
const CHECKSUM_LEN: usize = 6;
const MIN_PREFIX_LEN: usize = 2;
const MAX_PREFIX_LEN: usize = 32;
const MIN_LEN: usize = MIN_PREFIX_LEN + RANDOM_LEN + CHECKSUM_LEN;

/// Number of random characters that listings show.
const SHOWN_LEN: usize = 4;

/// The readable start of a key, such as `kg_live_`.
///
/// 2 to 32 characters of `A-Z a-z 0-9 _ -`. The first is a letter or digit, the last an underscore.
///
/// ```
/// use keyguard::KeyPrefix;
/// assert_eq!(KeyPrefix::default().as_str(), "kg_live_");
/// assert!("acme_test_".parse::<KeyPrefix>().is_ok());
/// assert!("acme".parse::<KeyPrefix>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct KeyPrefix(Box<str>);

impl KeyPrefix {
    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_valid(text: &[u8]) -> bool {
        (MIN_PREFIX_LEN..=MAX_PREFIX_LEN).contains(&text.len())
            && text[0].is_ascii_alphanumeric()
            && text[text.len() - 1] == b'_'
            && text.iter().copied().all(is_base64url)
    }
}

impl Default for KeyPrefix {
    /// `kg_live_`
    fn default() -> Self {
        Self("kg_live_".into())
    }
}

impl FromStr for KeyPrefix {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if Self::is_valid(text.as_bytes()) {
            return Ok(Self(text.into()));
        }
        Err(InvalidInput::of(
            "prefix",
            text,
            "is not a key prefix such as `kg_live_`: expected 2 to 32 characters of `A-Z a-z 0-9 _ \
             -`, the first a letter or digit, the last `_`",
        ))
    }
}

deserialize_from_text!(KeyPrefix);
try_from_text!(KeyPrefix);

impl RequestField for KeyPrefix {
    type Json = String;
    const NAME: &str = "prefix";
}

/// The text of a new key. It is never stored.
///
/// It is wiped from memory on drop. `Debug` shows what listings show.
pub struct PlainKey {
    text: Zeroizing<String>,
    prefix_len: usize,
}

impl PlainKey {
    /// Generates a key from the operating system's entropy.
    pub(crate) fn generate(prefix: &KeyPrefix) -> Result<Self, getrandom::Error> {
        let mut random = Zeroizing::new([0; 32]);
        getrandom::fill(random.as_mut())?;
        // Allocated once, so that no copy remains in memory.
        let mut text = Zeroizing::new(String::with_capacity(MAX_PREFIX_LEN + 64));
        text.push_str(prefix.as_str());
        URL_SAFE_NO_PAD.encode_string(random.as_ref(), &mut text);
        let checksum = checksum(text.as_bytes());
        text.extend(checksum.iter().map(|&digit| char::from(digit)));
        Ok(Self {
            text,
            prefix_len: prefix.as_str().len(),
        })
    }

    /// The text of the key, for its owner. It cannot be retrieved again.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The start of the key, as in listings: the prefix and 4 more characters.
    pub fn shown_prefix(&self) -> &str {
        &self.text[..self.prefix_len + SHOWN_LEN]
    }
}

/// Parses the text of a key.
impl FromStr for PlainKey {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !is_well_formed(text.as_bytes()) {
            // Not quoted: it may be a key with a typo.
            return Err(InvalidInput::new("raw_key", "is not the text of a key"));
        }
        Ok(Self {
            prefix_len: text.len() - RANDOM_LEN - CHECKSUM_LEN,
            text: Zeroizing::new(text.to_owned()),
        })
    }
}

impl fmt::Debug for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlainKey({}…)", self.shown_prefix())
    }
}

/// Whether `text` has the shape of a key, regardless of its checksum.
pub(crate) fn has_key_shape(text: &[u8]) -> bool {
    let Some(prefix_len) = text.len().checked_sub(RANDOM_LEN + CHECKSUM_LEN) else {
        return false;
    };
    let (prefix, rest) = text.split_at(prefix_len);
    let (random, digits) = rest.split_at(RANDOM_LEN);
    KeyPrefix::is_valid(prefix)
        && random.iter().copied().all(is_base64url)
        && digits.iter().all(u8::is_ascii_alphanumeric)
}

/// The part of a key-shaped text that listings show.
#[cfg(feature = "cli")]
pub(crate) fn shown_part(text: &str) -> Option<&str> {
    has_key_shape(text.as_bytes())
        .then(|| &text[..text.len() - RANDOM_LEN - CHECKSUM_LEN + SHOWN_LEN])
}

/// Whether `text` has the shape and checksum of a key.
pub(crate) fn is_well_formed(text: &[u8]) -> bool {
    has_key_shape(text) && {
        let (body, digits) = text.split_at(text.len() - CHECKSUM_LEN);
        checksum(body) == digits
    }
}

/// Whether `word` contains a well-formed text, whatever is before and behind it. Computes at most 31 checksums for
/// each `_`.
pub(super) fn contains_well_formed(word: &[u8]) -> bool {
    (MIN_LEN..=word.len()).any(|end| {
        let behind_prefix = end - CHECKSUM_LEN - RANDOM_LEN;
        let mut starts =
            behind_prefix.saturating_sub(MAX_PREFIX_LEN)..=behind_prefix - MIN_PREFIX_LEN;
        word[behind_prefix - 1] == b'_' && starts.any(|start| is_well_formed(&word[start..end]))
    })
}

pub(super) fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_LEN] {
    const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = crc32fast::hash(body) as usize;
    let mut digits = [b'0'; CHECKSUM_LEN];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % 62];
        rest /= 62;
    }
    digits
}

/// The keyed BLAKE3 hash of a key, under which it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct HashedKey(pub(crate) [u8; 32]);

impl fmt::Debug for HashedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashedKey(…)")
    }
}

/// Hashes keys under one secret.
pub(crate) struct KeyHasher(Zeroizing<[u8; 32]>);

impl KeyHasher {
    pub(crate) fn new(secret: &Secret) -> Self {
        Self(secret.key_hashing_key())
    }

    #[inline]
    pub(crate) fn hash(&self, text: &[u8]) -> HashedKey {
        HashedKey(*blake3::keyed_hash(&self.0, text).as_bytes())
    }
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHasher(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_prefixes_do_not_deserialize() {
        let json = serde_json::to_string(&KeyPrefix::default()).unwrap();
        let read: Result<KeyPrefix, _> = serde_json::from_str(&json);
        assert_eq!(read.unwrap(), KeyPrefix::default());
        for text in ["", "acme", "_", "a b_"] {
            let json = serde_json::to_string(text).unwrap();
            assert!(serde_json::from_str::<KeyPrefix>(&json).is_err(), "{text}");
        }
    }

    fn key() -> PlainKey {
        PlainKey::generate(&KeyPrefix::default()).unwrap()
    }

    #[test]
    fn new_keys_are_well_formed_and_unique() {
        let (a, b) = (key(), key());
        assert_eq!(a.expose().len(), "kg_live_".len() + 49);
        assert!(is_well_formed(a.expose().as_bytes()));
        assert_ne!(a.expose(), b.expose());
    }

    #[test]
    fn the_checksum_detects_every_altered_character() {
        let key = key();
        for at in 0..key.expose().len() {
            let mut text = key.expose().as_bytes().to_vec();
            text[at] = if text[at] == b'a' { b'b' } else { b'a' };
            assert!(!is_well_formed(&text), "a change at {at} went unnoticed");
        }
    }

    #[test]
    fn the_checksum_is_the_documented_one() {
        // CRC-32 of "123456789" is 0xCBF43926 = 3,421,780,262, the check value of its definition.
        assert_eq!(&checksum(b"123456789"), b"3jZRME");
    }

    #[test]
    fn other_tokens_do_not_have_the_shape_of_a_key() {
        let jwt = b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlc2lnbmF0dXJl";
        assert!(!has_key_shape(jwt));
        assert!(!has_key_shape(b""));
        assert!(!has_key_shape(&[b'a'; 57]));
        assert!(!has_key_shape(&[b'_'; 500]));
    }

    #[test]
    fn debug_shows_no_more_than_a_listing() {
        let key = key();
        assert_eq!(
            format!("{key:?}"),
            format!("PlainKey({}…)", &key.expose()[..12])
        );
    }

    #[test]
    fn another_secret_gives_another_hash() {
        let (a, b) = (KeyHasher::new(&"a".into()), KeyHasher::new(&"b".into()));
        assert_ne!(a.hash(b"key"), b.hash(b"key"));
    }
}
