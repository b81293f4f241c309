//! Heap allocations of checks, counted in the checking thread.

use std::time::Duration;

use crate::common::{Home, IP, key_limited_to};

/// More than a window of a minute holds, at 10 ms each, and more than a buffer for usage holds.
const WARM_UP: usize = 8_000;

/// So few that they fill at most one buffer.
const COUNTED: usize = 250;

/// In steady state: the key is cached, its window has been full, and there are two buffers for usage, one of
/// which is empty after a flush; buffers keep their memory. Paths have at most 40 bytes.
#[test]
fn hot_check_and_finish_allocate_nothing() {
    let home = Home::new();
    let kg = home.open_with(home.config().usage_queue_capacity(1 << 20));
    let key = key_limited_to(&kg, 1_000_000);
    let headers = [("X-API-Key", key.raw_key.expose())];
    let check_and_finish = |requests| {
        for _ in 0..requests {
            home.clock.advance(Duration::from_millis(10));
            kg.check(&headers, IP, "/api/data").unwrap().finish(200);
        }
    };

    check_and_finish(WARM_UP);
    for _ in 0..WARM_UP / COUNTED {
        kg.flush().unwrap();
        let counted = allocation_counter::measure(|| check_and_finish(COUNTED));
        assert_eq!(counted.count_total, 0, "{} bytes", counted.bytes_total);
    }
}
