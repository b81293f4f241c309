//! Bytes as a request to the admin service.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| keyguard::fuzz::admin_request(data));
