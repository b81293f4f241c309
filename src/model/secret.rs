//! The secret of an installation and what is derived from it.

use std::{fmt, io};

use zeroize::{Zeroize, Zeroizing};

/// The secret under which API keys are hashed. Without it, a stolen data file cannot be used to
/// verify guesses.
///
/// It is wiped from memory on drop and never printed.
///
/// ```
/// use keyguard::Secret;
/// assert_eq!(format!("{:?}", Secret::from("correct horse")), "Secret(…)");
/// ```
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Generates a secret: 32 bytes of the operating system's entropy, as 64 hexadecimal digits.
    ///
    /// # Errors
    /// The system's entropy source failed.
    pub fn generate() -> io::Result<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut()).map_err(io::Error::other)?;
        let hex = blake3::Hash::from_bytes(*bytes).to_hex();
        Ok(Self::from(hex.as_str()))
    }

    /// The secret itself, to be stored privately.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn is_blank(&self) -> bool {
        self.0.iter().all(u8::is_ascii_whitespace)
    }

    /// Whether it is short, or has few distinct bytes, so that it may be guessed.
    pub(crate) fn is_weak(&self) -> bool {
        const FEWEST: usize = 10;

        let mut distinct = self.0.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let is_regular = distinct.len() < FEWEST;
        distinct.zeroize();
        self.0.len() < 32 || is_regular
    }

    /// Derives the key for hashing API keys.
    pub(crate) fn key_hashing_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(
            "keyguard 2026-11-23 API key hash v1",
            &self.0,
        ))
    }

    /// Derives the admin key, as text.
    #[cfg(any(feature = "cli", feature = "http"))]
    pub(crate) fn admin_key(&self) -> Zeroizing<String> {
        use base64::Engine;

        let key = Zeroizing::new(blake3::derive_key(
            "keyguard 2026-11-24 admin key v1",
            &self.0,
        ));
        let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key.as_slice());
        Zeroizing::new(format!("kg_admin_{text}"))
    }

    /// Derives the key for hashing addresses in Redis key names.
    #[cfg(feature = "redis")]
    pub(crate) fn ip_hash_key(&self) -> [u8; 32] {
        blake3::derive_key("keyguard 2026-11-24 network name v1", &self.0)
    }

    /// Derives a fingerprint that identifies this secret.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint(blake3::derive_key(
            "keyguard 2026-11-23 secret fingerprint v1",
            &self.0,
        ))
    }
}

/// The fingerprint of the secret, stored in the data file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(crate) [u8; 32]);

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.as_bytes().to_vec()))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text.into_bytes()))
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
