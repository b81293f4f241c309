//! The keys that administrators authenticate with.

use super::config::Config;
use crate::model::Secret;

/// The accepted admin keys, as hashes.
pub(super) struct AdminKeys {
    hashes: Vec<blake3::Hash>,
    #[cfg(feature = "serve")]
    are_weak: bool,
}

impl AdminKeys {
    pub(super) fn new(config: &Config, secret: &Secret) -> Self {
        let own = match &config.admin_key {
            Some(key) => blake3::hash(key.expose()),
            None => blake3::hash(secret.admin_key().as_bytes()),
        };
        let opted_in = config
            .secret_as_admin_key
            .then(|| blake3::hash(secret.expose()));
        Self {
            hashes: std::iter::once(own).chain(opted_in).collect(),
            #[cfg(feature = "serve")]
            are_weak: secret.expose().len() < 32
                && (config.admin_key.is_none() || config.secret_as_admin_key),
        }
    }

    /// Whether a key is derived from a secret that may be guessed.
    #[cfg(feature = "serve")]
    pub(super) fn are_weak(&self) -> bool {
        self.are_weak
    }

    /// Compares hashes in constant time.
    pub(super) fn contain(&self, text: &[u8]) -> bool {
        let hash = blake3::hash(text);
        self.hashes
            .iter()
            .fold(false, |found, key| found | (*key == hash))
    }
}
