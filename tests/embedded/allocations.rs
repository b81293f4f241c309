//! Heap allocations of checks, counted in the checking thread.

use std::thread::available_parallelism;
use std::time::Duration;

use crate::common::{Home, IP, key_limited_to};

/// More than a window of a minute holds, at 10 ms each.
const REQUESTS: usize = 8_000;

/// In steady state: the key is cached, its window has been full, and each buffer for usage has held as many
/// requests as are recorded between two writes; buffers keep their memory. Paths have at most 40 bytes.
#[test]
fn hot_check_and_finish_allocate_nothing() {
    let home = Home::new();
    let kg = home.open_with(home.config().usage_queue_capacity(1 << 20));
    let key = key_limited_to(&kg, 1_000_000);
    let headers = [("X-API-Key", key.raw_key.expose())];
    let check_and_finish = || {
        for _ in 0..REQUESTS {
            home.clock.advance(Duration::from_millis(10));
            kg.check(&headers, IP, "/api/data").unwrap().finish(200);
        }
    };

    // The threads' buffers take turns.
    let buffers = 2 * available_parallelism()
        .map_or(4, usize::from)
        .next_power_of_two()
        + 1;
    for _ in 0..=buffers {
        check_and_finish();
        kg.flush().unwrap();
    }
    let counted = allocation_counter::measure(check_and_finish);

    assert_eq!(counted.count_total, 0, "{} bytes", counted.bytes_total);
}
