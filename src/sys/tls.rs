//! The process-wide cryptography provider of rustls.

use rustls::crypto::{CryptoProvider, ring};

/// Installs the ring provider unless the process has one. rustls panics if several are compiled in
/// and none is installed.
pub(crate) fn ensure_provider() {
    if CryptoProvider::get_default().is_none() {
        // Another thread may have installed one; that is fine.
        let _ = ring::default_provider().install_default();
    }
}
