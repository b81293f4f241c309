//! Bytes as an answer of PostgreSQL.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| keyguard::fuzz::postgres_reply(data));
