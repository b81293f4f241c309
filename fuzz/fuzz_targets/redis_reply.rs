//! Bytes as a reply of Redis.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| keyguard::fuzz::redis_reply(data));
