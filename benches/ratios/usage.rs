//! Rows about questions of usage, on 10 M requests of one hour.

use std::time::Duration;

use keyguard::{
    Config, KeyGuard, KeyId, ManualClock, Timestamp, UsageGroup, UsageQuery, UsageReport,
};
use keyguard_benches::Fallible;

use crate::Run;
use crate::measure::{Measured, median, millis, timed_result};
use crate::world::{SECRET, Traffic, UNREACHED, create_keys, headers, limited};

pub(crate) const REQUESTS: usize = 10_000_000;
pub(crate) const KEYS: usize = 100;
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
/// The start of a day.
pub(crate) const START: Timestamp = Timestamp::from_unix_millis(1_767_225_600_000);

/// Who uses most this hour? It begins within an hour of the clock, so that individual requests are read.
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

pub(crate) fn ask_top_keys(run: &Run, kg: &KeyGuard) -> Measured {
    let query = UsageQuery::by(UsageGroup::Key).since(START.plus(HOUR / 3));
    measure(run, kg, &query, |report| report.rows.len() > KEYS / 2)
}

pub(crate) fn ask_reasons(run: &Run, kg: &KeyGuard) -> Measured {
    let query = UsageQuery::by(UsageGroup::Reason).key_id(LIMITED).refused();
    measure(run, kg, &query, |report| report.requests > 0)
}

pub(crate) fn ask_address(run: &Run, kg: &KeyGuard) -> Measured {
    let query = UsageQuery::by(UsageGroup::Path).ip("198.51.1.7");
    measure(run, kg, &query, |report| report.requests > 0)
}

/// The median time of a question, in milliseconds.
fn measure(
    run: &Run,
    kg: &KeyGuard,
    query: &UsageQuery,
    is_right: fn(&UsageReport) -> bool,
) -> Measured {
    let mut times = Vec::new();
    for _ in 0..run.rounds(7) {
        let (time, report) = timed_result(|| kg.admin().usage(query));
        let report = report?;
        if !is_right(&report) {
            return Err(format!("a wrong answer: {report:?}").into());
        }
        times.push(millis(time));
    }
    Ok(median(times))
}

/// The key with a limit.
pub(crate) const LIMITED: KeyId = KeyId(KEYS as u64 + 1);

/// Opens the file with the requests; fills it when it is called first.
fn filled(run: &Run) -> Fallible<KeyGuard> {
    let path = run.world.path("usage.redb");
    let config = |clock: ManualClock| Config::new(SECRET).clock(clock);
    let requests = run.size(REQUESTS);
    if !path.exists() {
        let clock = ManualClock::starting_at(START);
        let (kg, mut keys) =
            run.world
                .guard("usage.redb", KEYS, UNREACHED, config(clock.clone()))?;
        keys.extend(create_keys(&kg, &[limited("org 0", 1)])?);
        let mut traffic = Traffic::default();
        for number in 0..requests {
            clock.advance(HOUR / requests as u32);
            let (key, ip, path) = traffic.next(&keys);
            if let Ok(grant) = kg.check(&headers(key), ip, path) {
                grant.finish(200);
            }
            if number % 10_000 == 0 {
                kg.flush()?;
            }
        }
        kg.close()?;
    }
    let kg = KeyGuard::open(&path, config(ManualClock::starting_at(START.plus(HOUR))))?;
    let stats = kg.admin().stats()?;
    match stats.requests == requests as u64 {
        true => Ok(kg),
        false => Err(format!("{} of {requests} requests recorded", stats.requests).into()),
    }
}
