//! Single requests as entries of a stream in Redis.

use crate::common::redis::Redis;
use crate::common::{Home, IP};
use keyguard::{KeyGuard, ListUsage, RedisStream, Request};

fn entries(redis: &Redis) -> Vec<Vec<(String, String)>> {
    let found: Vec<(String, Vec<(String, String)>)> = redis.run("XRANGE usage - +");
    found.into_iter().map(|(_, fields)| fields).collect()
}

#[test]
fn each_request_is_a_stream_entry_and_totals_stay_in_the_file() {
    let (home, redis) = (Home::new(), Redis::start());
    let stream = RedisStream::new(&redis.url(), "usage").unwrap();
    let kg = KeyGuard::open(home.file(), home.config().usage_sink(stream)).unwrap();
    let key = crate::common::key(&kg);
    let headers = [("X-API-Key", key.raw_key.expose())];
    let request = Request::new(&headers, IP, "/orders?page=2").method("POST");
    kg.decide(request).unwrap().finish(201);
    kg.admin().revoke_key(key.key.id).unwrap();
    assert!(kg.check(&headers, IP, "/orders").is_err());
    kg.flush().unwrap();

    let entries = entries(&redis);
    let id = key.key.id.to_string();
    let expected = [
        ("at", "2026-01-15T12:00:00Z"),
        ("key_id", &id),
        ("method", "POST"),
        ("path", "/orders"),
        ("ip", "192.0.2.7"),
        ("status", "201"),
        ("latency_us", "0"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(entries[0], expected);
    let refused = ("refused".to_owned(), "revoked_key".to_owned());
    assert!(entries[1].contains(&refused), "{entries:?}");
    assert_eq!(entries.len(), 2);
    assert_eq!(kg.admin().stats().unwrap().requests, 2);
    assert_eq!(kg.admin().list_usage(ListUsage::new()).unwrap().len(), 2);
}

#[test]
fn requests_are_delivered_once_after_an_outage() {
    let (home, mut redis) = (Home::new(), Redis::start());
    let stream = RedisStream::new(&redis.url(), "usage").unwrap();
    let kg = KeyGuard::open(home.file(), home.config().usage_sink(stream)).unwrap();
    let key = crate::common::key(&kg);
    let headers = [("X-API-Key", key.raw_key.expose())];
    let check = || kg.check(&headers, IP, "/").unwrap().finish(200);
    check();
    kg.flush().unwrap();
    redis.kill();
    (0..3).for_each(|_| check());
    let failed = kg.flush().unwrap_err();
    assert!(!format!("{failed:?}").contains("redis://"), "{failed:?}");
    redis.restart();
    check();
    kg.flush().unwrap();
    // The restarted server has lost its data.
    assert_eq!(entries(&redis).len(), 4);
    assert_eq!(kg.admin().stats().unwrap().dropped, 0);
}

#[test]
fn stream_keeps_its_latest_entries() {
    let (home, redis) = (Home::new(), Redis::start());
    let stream = RedisStream::new(&redis.url(), "usage")
        .unwrap()
        .keep_latest(100);
    let kg = KeyGuard::open(home.file(), home.config().usage_sink(stream)).unwrap();
    let key = crate::common::key_limited_to(&kg, 10_000);
    let headers = [("X-API-Key", key.raw_key.expose())];
    for _ in 0..2_000 {
        kg.check(&headers, IP, "/").unwrap().finish(200);
    }
    kg.flush().unwrap();
    let kept: usize = redis.run("XLEN usage");
    // Redis trims whole nodes of 100 entries.
    assert!((100..=300).contains(&kept), "{kept}");
}

#[test]
fn server_password_is_never_printed() {
    let stream = RedisStream::new("redis://user:hunter2@localhost", "usage").unwrap();
    assert!(!format!("{stream:?}").contains("hunter2"));
    let invalid = RedisStream::new("http://user:hunter2@localhost", "usage").unwrap_err();
    assert!(!format!("{invalid} {invalid:?}").contains("hunter2"));
}
