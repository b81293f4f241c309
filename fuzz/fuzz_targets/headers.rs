//! Bytes as header fields with credentials and addresses.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| keyguard::fuzz::headers(data));
