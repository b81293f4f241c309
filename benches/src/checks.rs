//! Checks, and their floor.

use std::hint::black_box;
use std::time::Instant;

use keyguard::{Headers, KeyGuard};

use crate::world::{headers, peer};

/// Checks a request with each key, all of which are admitted.
///
/// # Panics
/// If one is refused.
pub fn check_all(kg: &KeyGuard, keys: &[String], path: &str, passes: usize) {
    for _ in 0..passes {
        for key in keys {
            let outcome = kg.check(&headers(key), peer(), path);
            assert!(black_box(&outcome).is_ok());
        }
    }
}

/// The floor of a check of each key: one header look-up, one keyed BLAKE3 of the key, one clock reading.
pub fn floor(keys: &[String], passes: usize) {
    let hash_key = blake3::derive_key("benchmark", b"key");
    for _ in 0..passes {
        for key in keys {
            let headers = black_box(headers(key));
            let key = headers
                .header_values("X-API-Key")
                .next()
                .unwrap_or_default();
            black_box(blake3::keyed_hash(&hash_key, black_box(key)));
            black_box(Instant::now());
        }
    }
}
