//! The cost of limits in Redis, compared with the bare script.

use std::time::Duration;

use keyguard::{Config, Fallback, KeyGuard, Request};
use keyguard_test_support::redis::Redis;
use redis::Script;
use redis::aio::MultiplexedConnection;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::Run;
use crate::measure::{Measured, median_ratio, timed_result};
use crate::world::{SECRET, UNREACHED, headers, peer};

const CLIENTS: usize = 64;

const KEYS: usize = 100;

/// Throughput of checks over that of the bare script, with the same arguments, kind of connection and
/// concurrency.
pub(crate) fn check(run: &Run) -> Measured {
    let server = Redis::start();
    let config = Config::new(SECRET)
        .record_usage(false)
        .redis_url(server.url())
        .backend_deadline(Duration::from_secs(10))
        .limiter_fallback(Fallback::Deny);
    let (kg, keys) = run.world.guard("redis.redb", KEYS, UNREACHED, config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = redis::Client::open(server.url())?;
    let connection = runtime.block_on(client.get_multiplexed_async_connection())?;
    let each = run.size(200);
    let checks = || {
        ask_all(&runtime, |first| {
            check_some(kg.clone(), keys.clone(), first, each)
        })
    };
    let runs = || ask_all(&runtime, |first| run_some(connection.clone(), first, each));
    // The first calls create connections and windows.
    let failed = checks().1 + runs().1;
    let failures = std::cell::Cell::new(failed);
    let counted = |(time, failed): (Duration, usize)| {
        failures.set(failures.get() + failed);
        time
    };
    let ratio = median_ratio(run.rounds(11), || counted(runs()), || counted(checks()));
    match failures.get() {
        0 => Ok(ratio),
        failed => Err(format!("{failed} calls failed").into()),
    }
}

/// Runs all clients. Returns the time and the number of failed calls.
fn ask_all<F>(runtime: &Runtime, client: impl Fn(usize) -> F) -> (Duration, usize)
where
    F: Future<Output = usize> + Send + 'static,
{
    timed_result(|| {
        runtime.block_on(async {
            let clients: JoinSet<usize> = (0..CLIENTS).map(client).collect();
            clients.join_all().await.into_iter().sum()
        })
    })
}

async fn check_some(kg: KeyGuard, keys: Vec<String>, first: usize, count: usize) -> usize {
    let mut failed = 0;
    for number in first..first + count {
        let headers = headers(&keys[number % KEYS]);
        let request = Request::new(&headers, peer(), "/api/data");
        failed += usize::from(kg.decide_async(request).await.is_err());
    }
    failed
}

async fn run_some(mut connection: MultiplexedConnection, first: usize, count: usize) -> usize {
    let script = Script::new(include_str!("../../src/limiter/redis/counters.lua"));
    let mut failed = 0;
    for number in first..first + count {
        let number = number % KEYS;
        let key = format!("{{kg:01234567:o{number}}}:{number}:w60000000000");
        let mut run = script.key(key);
        run.arg("admit")
            .arg(0)
            .arg(1)
            .arg("0123456789abcdef")
            .arg(0);
        run.arg("w").arg(UNREACHED).arg(0);
        run.arg(60_000_000).arg(1_000).arg("").arg(0);
        let answer: Result<Vec<i64>, _> = run.invoke_async(&mut connection).await;
        failed += usize::from(answer.is_err());
    }
    failed
}
