//! Rows about questions of usage in PostgreSQL, on 10 M requests of one hour.

use std::sync::OnceLock;

use keyguard::{Config, KeyGuard, ManualClock};
use keyguard_benches::Fallible;
use keyguard_test_support::postgres::{Database, Server};

use crate::Run;
use crate::measure::Measured;
use crate::usage::{HOUR, KEYS, LIMITED, REQUESTS, START, ask_address, ask_reasons, ask_top_keys};
use crate::world::{SECRET, UNREACHED, guard_at};

/// Who uses most this hour?
pub(crate) fn top_keys(run: &Run) -> Measured {
    ask_top_keys(run, &filled(run)?)
}

/// Why was this key refused?
pub(crate) fn reasons(run: &Run) -> Measured {
    ask_reasons(run, &filled(run)?)
}

/// What did this address do?
pub(crate) fn address(run: &Run) -> Measured {
    ask_address(run, &filled(run)?)
}

/// Opens the database with the requests; fills it when it is called first. It has the memory of a small server, and
/// takes 3 GB of the disk.
fn filled(run: &Run) -> Fallible<KeyGuard> {
    static DATABASE: OnceLock<(Server, Database)> = OnceLock::new();

    let config = || Config::new(SECRET).clock(ManualClock::starting_at(START.plus(HOUR)));
    if let Some((_, database)) = DATABASE.get() {
        return Ok(KeyGuard::open(&database.url, config())?);
    }
    let settings = ["shared_buffers=128MB", "max_wal_size=512MB"];
    let server = Server::start_with(&settings, |_| {});
    let database = server.database();
    let (kg, _) = guard_at(&database.url, KEYS + 1, UNREACHED, config())?;
    database.execute(&fill(run.size(REQUESTS)));
    DATABASE.get_or_init(|| (server, database));
    Ok(kg)
}

/// Inserts requests as the traffic of the data file: of random keys to random paths, by 1,000 addresses.
fn fill(requests: usize) -> String {
    let (keys, limited, hour) = (KEYS + 1, LIMITED, HOUR.as_secs());
    format!(
        "CREATE TABLE IF NOT EXISTS usage_logs_20260101 PARTITION OF usage_logs \
             FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-01-02 00:00+00'); \
         INSERT INTO usage_logs (key_id, path, method, status_code, latency_ms, ip, created_at, refused) \
         SELECT key, '/api/v1/resource-' || n * 31 % 50 || '/items', '-', \
             CASE WHEN is_refused THEN 429 ELSE 200 END, 0.1, \
             '198.51.' || n * 7919 % 1000 / 256 || '.' || n * 7919 % 1000 % 256, \
             '2026-01-01 00:00+00'::timestamptz + n * interval '{hour} s' / {requests}, \
             CASE WHEN is_refused THEN 12 END \
         FROM (SELECT n, key, key = {limited} AND n % 10 > 0 AS is_refused \
             FROM (SELECT n, 1 + floor(random() * {keys})::bigint AS key \
                 FROM generate_series(0, {requests}::bigint - 1) AS n) AS keys) AS requests"
    )
}
