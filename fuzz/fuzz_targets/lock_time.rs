//! Any text where the length of a lock is expected.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| keyguard::fuzz::lock_time(data));
