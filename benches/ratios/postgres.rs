//! The cost of a check of a cached key from PostgreSQL.

use keyguard_test_support::postgres::Database;

use crate::Run;
use crate::checks::check_all;
use crate::measure::{Measured, median_ratio, timed};
use crate::world::{PATH, UNREACHED, guard_at, unrecorded};

const KEYS: usize = 1_000;

/// Time of a check with keys from PostgreSQL and limits in memory, over the same with a data file.
pub(crate) fn cached(run: &Run) -> Measured {
    let database = Database::new();
    let (shared, shared_keys) = guard_at(&database.url, KEYS, UNREACHED, unrecorded())?;
    let (embedded, embedded_keys) =
        run.world
            .guard("embedded.redb", KEYS, UNREACHED, unrecorded())?;
    // Caches all keys.
    check_all(&shared, &shared_keys, PATH, 1);
    check_all(&embedded, &embedded_keys, PATH, 1);
    Ok(median_ratio(
        run.rounds(4_001),
        || timed(|| check_all(&shared, &shared_keys, PATH, 1)),
        || timed(|| check_all(&embedded, &embedded_keys, PATH, 1)),
    ))
}
