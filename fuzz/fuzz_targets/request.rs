//! Bytes as a request under one of several policies.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| keyguard::fuzz::request(data));
