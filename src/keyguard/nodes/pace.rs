//! How fast things happen in a world.

use std::ops::Range;

use super::model::STALENESS;

/// Times are in milliseconds, drawn from ranges.
pub(super) struct Pace {
    /// Between two requests of a client.
    pub(super) request: Range<u64>,
    /// Between two changes of an administrator.
    pub(super) change: Range<u64>,
    /// Between two times at which a node stores usage.
    pub(super) round: Range<u64>,
    /// Between the end of faults and the next ones.
    pub(super) calm: &'static [Range<u64>],
    /// Until faults end.
    pub(super) faulty: &'static [Range<u64>],
    /// The number of kinds of faults that occur.
    pub(super) faults: u64,
}

impl Pace {
    /// Every second world is slow.
    pub(super) fn of(seed: u64) -> &'static Self {
        if seed.is_multiple_of(2) { &FAST } else { &SLOW }
    }
}

/// Limits are exceeded, and all kinds of faults follow each other quickly.
const FAST: Pace = Pace {
    request: 0..60,
    change: 0..2_000,
    round: 200..201,
    calm: &[0..100, 0..1_000, 0..5_000, 0..20_000, 0..40_000],
    faulty: &[0..200, 0..1_000, 0..3_000, 0..8_000, 0..30_000],
    faults: 10,
};

/// Nodes are cut off for longer than they may use cached keys, and changes last as long.
#[expect(
    clippy::single_range_in_vec_init,
    reason = "a list of ranges, like that of `FAST`"
)]
const SLOW: Pace = Pace {
    request: 0..1_500,
    change: 0..8_000,
    round: 0..2_000,
    calm: &[0..20_000],
    faulty: &[LONGEST_UNKNOWN..3 * LONGEST_UNKNOWN],
    faults: 2,
};

const LONGEST_UNKNOWN: u64 = STALENESS.as_millis() as u64;
