//! TLS for clients that take whatever provider of cryptography the process has.

use rustls::crypto::{CryptoProvider, ring};

/// Gives the process a provider if it has none. Clients that find none panic where several are
/// compiled in.
pub(crate) fn ensure_provider() {
    if CryptoProvider::get_default().is_none() {
        // If another thread is faster, its choice is as good.
        let _ = ring::default_provider().install_default();
    }
}
