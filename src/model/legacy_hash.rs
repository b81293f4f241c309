//! Keys of the Python package: arbitrary texts, stored as SHA-256 of the text followed by the
//! secret.
//!
//! Without the feature `legacy`, [`LegacyHasher`] cannot be constructed.

#[cfg(feature = "legacy")]
pub(crate) use self::enabled::LegacyHasher;

#[cfg(feature = "legacy")]
mod enabled {
    use std::fmt;

    use sha2::{Digest, Sha256};

    use crate::model::{HashedKey, Secret};

    /// Hashes keys like the Python package, with its secret.
    pub(crate) struct LegacyHasher(Secret);

    impl LegacyHasher {
        pub(crate) fn new(secret: Secret) -> Self {
            Self(secret)
        }

        pub(crate) fn hash(&self, text: &[u8]) -> HashedKey {
            let hash = Sha256::new().chain_update(text);
            HashedKey(hash.chain_update(self.0.expose()).finalize().into())
        }
    }

    impl fmt::Debug for LegacyHasher {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("LegacyHasher(…)")
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_hash_covers_text_then_secret() {
            // FIPS 180-2, appendix B.1: SHA-256 of "abc".
            let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
            let expected = *blake3::Hash::from_hex(expected).unwrap().as_bytes();
            assert_eq!(
                LegacyHasher::new("bc".into()).hash(b"a"),
                HashedKey(expected)
            );
            assert_ne!(
                LegacyHasher::new("c".into()).hash(b"a"),
                HashedKey(expected)
            );
        }
    }
}

#[cfg(not(feature = "legacy"))]
#[derive(Debug)]
pub(crate) enum LegacyHasher {}

#[cfg(not(feature = "legacy"))]
impl LegacyHasher {
    pub(crate) fn hash(&self, _: &[u8]) -> crate::model::HashedKey {
        match *self {}
    }
}
