//! Recording of requests: every request once, regardless of its outcome, and the totals.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::common::{
    HOUR, Home, IP, MINUTE, SECOND, admit, admitted_of, check, check_with, key_limited_to,
    key_with, org, refusal,
};
use keyguard::{
    ClientIp, CreateKey, CreatedKey, Denial, Grant, KeyGuard, KeyId, ListUsage, Method, Reason,
    Request, RotateKey, Stats, Timestamp, Usage,
};

/// A queue large enough for a burst of each thread, for any number of processors.
const AMPLE_QUEUE: usize = 1 << 24;

// One request.

#[test]
fn finished_grant_is_recorded_with_its_status() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    let headers = [("X-API-Key", key.raw_key.expose())];
    let ip: ClientIp = "2001:db8::7".parse().unwrap();
    let at = home.clock.timestamp();

    let request = Request::new(&headers, ip, "/orders/7?page=2").method("PUT");
    let grant = kg.decide(request).unwrap();
    home.clock.advance(Duration::from_micros(250_123));
    grant.finish(201);

    let expected = (
        (at, Some(key.key.id), Method::Put, "/orders/7".into(), ip),
        (201, Duration::from_micros(250_123), None),
    );
    assert_eq!(rows(&usage(&kg)), [expected]);
}

#[test]
fn dropped_grant_counts_once_without_a_status() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    let grant = check(&kg, &key).unwrap();
    home.clock.advance(SECOND);
    drop(grant);
    let recorded = usage(&kg);
    let recorded: Vec<_> = recorded.iter().map(|u| (u.status, u.latency)).collect();
    assert_eq!(recorded, [(0, SECOND)]);
    let stats = kg.admin().stats().unwrap();
    assert_eq!((stats.requests, stats.errors), (1, 0));
}

#[test]
fn nothing_is_recorded_before_a_grant_ends() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    let grant = check(&kg, &key).unwrap();
    assert_eq!(usage(&kg), []);
    assert_eq!(kg.admin().stats().unwrap().requests, 0);
    grant.finish(200);
    assert_eq!(kg.admin().stats().unwrap().requests, 1);
}

#[test]
fn grant_without_a_scope_counts_as_one_denial() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    let denial = check(&kg, &key).unwrap().require("write").unwrap_err();
    let grant = check(&kg, &key).unwrap();
    grant.require("write").unwrap_err();
    grant.finish(denial.status());

    let recorded = usage(&kg);
    let recorded: Vec<_> = recorded.iter().map(|u| (u.status, u.refused)).collect();
    assert_eq!(recorded, [(403, Some(Reason::MissingScope)); 2]);
    let stats = kg.admin().stats().unwrap();
    assert_eq!((stats.requests, stats.errors), (2, 2));
    assert_eq!(stats.refused, [(Reason::MissingScope, 2)]);
}

#[test]
fn status_of_400_or_above_is_an_error() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    for status in [200, 204, 304, 399, 400, 404, 500, 599] {
        check(&kg, &key).unwrap().finish(status);
    }
    let stats = kg.admin().stats().unwrap();
    assert_eq!((stats.requests, stats.errors), (8, 4));
    assert_eq!((stats.requests_1h, stats.errors_1h), (8, 4));
    assert!((stats.error_rate() - 0.5).abs() < f64::EPSILON);
    assert_eq!(stats.refused, []);
}

#[test]
fn last_use_is_the_last_admission() {
    let home = Home::new();
    let kg = home.open();
    let key = key_limited_to(&kg, 2);
    let last_used = |kg: &KeyGuard| {
        kg.flush().unwrap();
        kg.admin().get_key(key.key.id).unwrap().last_used_at
    };
    assert_eq!(last_used(&kg), None);

    for _ in 0..2 {
        home.clock.advance(SECOND);
        admit(&kg, &key);
        assert_eq!(last_used(&kg), Some(home.clock.timestamp()));
    }
    let last = home.clock.timestamp();
    home.clock.advance(SECOND);
    assert_eq!(refusal(check(&kg, &key)), Reason::RateLimited);
    assert_eq!(last_used(&kg), Some(last));
    kg.close().unwrap();
    assert_eq!(last_used(&home.open()), Some(last));
}

// Refusals.

#[test]
fn denials_are_counted_by_reason() {
    let home = Home::new();
    let kg = home.open();
    let spent = key_limited_to(&kg, 1);
    let of_a_month = key_with(&kg, |key| key.limits(vec!["1 monthly"]));
    let revoked = crate::common::key(&kg);
    kg.admin().revoke_key(revoked.key.id).unwrap();
    let unknown = crate::common::key(&Home::new().open());
    let (good, other) = (spent.raw_key.expose(), revoked.raw_key.expose());
    let nobody: [(&str, &str); 0] = [];
    admit(&kg, &spent);
    admit(&kg, &of_a_month);

    type Check<'a> = &'a dyn Fn() -> Result<Grant, Denial>;
    let checks: [(Reason, Check<'_>); 9] = [
        (Reason::MissingKey, &|| kg.check(&nobody, IP, "/")),
        (Reason::MalformedKey, &|| check_with(&kg, "nonsense")),
        (Reason::UnknownKey, &|| check(&kg, &unknown)),
        (Reason::RevokedKey, &|| check(&kg, &revoked)),
        (Reason::AmbiguousKey, &|| {
            let bearer = format!("Bearer {other}");
            kg.check(&[("X-API-Key", good), ("Authorization", &bearer)], IP, "/")
        }),
        (Reason::RepeatedHeader, &|| {
            kg.check(&[("X-API-Key", good), ("X-API-Key", other)], IP, "/")
        }),
        (Reason::OversizedKey, &|| check_with(&kg, &good.repeat(9))),
        (Reason::RateLimited, &|| check(&kg, &spent)),
        (Reason::QuotaExhausted, &|| check(&kg, &of_a_month)),
    ];
    let mut expected = BTreeMap::new();
    // A different number for each reason.
    for ((reason, check), times) in checks.into_iter().zip(1..) {
        for _ in 0..times {
            assert_eq!(refusal(check()), reason);
        }
        expected.insert(reason, times);
    }
    let check = |kg: &KeyGuard| {
        let stats = kg.admin().stats().unwrap();
        let refused: BTreeMap<Reason, u64> = stats.refused.iter().copied().collect();
        assert_eq!(refused, expected);
        let errors = expected.values().sum();
        assert_eq!((stats.requests, stats.errors), (errors + 2, errors));
    };
    check(&kg);
    kg.close().unwrap();
    check(&home.open());
}

#[test]
fn denial_of_a_known_key_is_recorded_with_the_key() {
    let home = Home::new();
    let kg = home.open();
    let key = key_limited_to(&kg, 1);
    admit(&kg, &key);
    home.clock.advance(SECOND);
    assert_eq!(refusal(check(&kg, &key)), Reason::RateLimited);
    let (at, path) = (home.clock.timestamp(), "/api/data".into());
    let expected = (
        (at, Some(key.key.id), Method::Other, path, IP.into()),
        (429, Duration::ZERO, Some(Reason::RateLimited)),
    );
    assert_eq!(rows(&usage(&kg))[1..], [expected]);
}

#[test]
fn denials_without_a_known_key_take_no_space() {
    const TEXTS: usize = 5_000;

    let home = Home::new();
    let kg = home.open();
    let unknown = many_keys(&Home::new().open(), TEXTS);
    let file_len = || {
        kg.flush().unwrap();
        std::fs::metadata(home.file()).unwrap().len()
    };
    // All keys, addresses and paths differ.
    let check_with_all = |texts: &[CreatedKey]| {
        for (number, text) in (0_u32..).zip(texts) {
            let text = text.raw_key.expose();
            let ip = IpAddr::from(number.to_be_bytes());
            let path = format!("/{number}");
            for (text, reason) in [
                (text, Reason::UnknownKey),
                (&text[1..], Reason::MalformedKey),
            ] {
                let outcome = kg.check(&[("X-API-Key", text)], ip, &path);
                assert_eq!(refusal(outcome), reason);
            }
        }
        file_len()
    };
    let after_few = check_with_all(&unknown[..10]);
    let after_all = check_with_all(&unknown[10..]);

    let stats = kg.admin().stats().unwrap();
    let count = TEXTS as u64;
    assert_eq!(
        stats.refused,
        [(Reason::MalformedKey, count), (Reason::UnknownKey, count)]
    );
    assert_eq!((stats.requests, stats.total_keys), (2 * count, 0));
    assert_eq!((usage(&kg), top_keys(&kg)), (vec![], vec![]));
    // The same number of keys would grow the file noticeably.
    many_keys(&kg, TEXTS);
    let grown = after_all.saturating_sub(after_few);
    let by_keys = file_len().saturating_sub(after_all);
    assert!(grown < by_keys / 10, "{grown} bytes; {by_keys} for keys");
}

// Totals.

#[test]
fn totals_count_requests_of_all_threads_once() {
    const THREADS: u64 = 4;
    const REQUESTS: u64 = 2_000;

    let home = Home::new();
    for run in 1..=3 {
        let kg = home.open_with(
            home.config()
                .usage_queue_capacity(AMPLE_QUEUE)
                .lockout_threshold(u32::MAX),
        );
        let keys: Vec<_> = (0..THREADS)
            .map(|_| key_limited_to(&kg, u32::MAX))
            .collect();
        std::thread::scope(|scope| {
            for key in &keys {
                scope.spawn(|| {
                    for number in 0..REQUESTS {
                        let grant = check(&kg, key).unwrap();
                        match number % 4 {
                            0 => grant.finish(200),
                            1 => grant.finish(500),
                            2 => drop(grant),
                            _ => drop(check_with(&kg, "nonsense")),
                        }
                    }
                });
            }
        });
        // The fourth kind sends two requests, as its grant is dropped, too.
        let expected = |runs: u64| {
            let of_a_kind = runs * THREADS * REQUESTS / 4;
            (5 * of_a_kind, 2 * of_a_kind, of_a_kind)
        };
        let counts = |kg: &KeyGuard| {
            let Stats {
                requests,
                errors,
                refused,
                ..
            } = kg.admin().stats().unwrap();
            assert!(
                refused
                    .iter()
                    .all(|(reason, _)| *reason == Reason::MalformedKey)
            );
            (
                requests,
                errors,
                refused.iter().map(|(_, count)| count).sum(),
            )
        };
        assert_eq!(counts(&kg), expected(run));
        assert_eq!(usage(&kg).len() as u64, run * THREADS * REQUESTS);
        // Both kinds of orderly stop lose nothing.
        if run == 2 {
            drop(kg);
        } else {
            kg.close().unwrap();
        }
        assert_eq!(counts(&home.open()), expected(run));
    }
}

#[test]
fn last_hour_moves_with_the_clock() {
    // At the start of a minute.
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    let last_hour = || {
        let stats = kg.admin().stats().unwrap();
        (stats.requests_1h, stats.errors_1h)
    };
    check(&kg, &key).unwrap().finish(200);
    assert_eq!(refusal(check_with(&kg, "nonsense")), Reason::MalformedKey);
    assert_eq!(last_hour(), (2, 1));
    home.clock.advance(30 * MINUTE);
    check(&kg, &key).unwrap().finish(500);
    assert_eq!(last_hour(), (3, 2));

    // The first minute of the hour counts as a whole.
    home.clock.advance(31 * MINUTE - Duration::from_millis(1));
    assert_eq!(last_hour(), (3, 2));
    home.clock.advance(Duration::from_millis(1));
    assert_eq!(last_hour(), (1, 1));
    home.clock.advance(30 * MINUTE);
    assert_eq!(last_hour(), (0, 0));
    let stats = kg.admin().stats().unwrap();
    assert_eq!((stats.requests, stats.errors), (3, 2));
}

#[test]
fn most_used_keys_come_first() {
    let home = Home::new();
    let kg = home.open();
    let keys: Vec<_> = (0..12).map(|_| key_limited_to(&kg, u32::MAX)).collect();
    let id = |number: usize| keys[number].key.id;
    for (key, requests) in keys.iter().zip([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]) {
        admitted_of(&kg, key, requests, Reason::RateLimited);
    }
    // Ties are ordered by the age of the key.
    let mut expected: Vec<_> = [5, 11, 7, 4, 8, 10, 2, 0, 9, 6]
        .into_iter()
        .zip([9, 8, 6, 5, 5, 5, 4, 3, 3, 2])
        .map(|(number, requests)| (id(number), requests))
        .collect();
    assert_eq!(top_keys(&kg), expected);

    // The last one moves to the top, and refusals count, too.
    admitted_of(&kg, &keys[3], 10, Reason::RateLimited);
    kg.admin().revoke_key(id(3)).unwrap();
    admitted_of(&kg, &keys[3], 10, Reason::RevokedKey);
    expected.insert(0, (id(3), 21));
    expected.pop();
    assert_eq!(top_keys(&kg), expected);
    kg.close().unwrap();

    let kg = home.open();
    assert_eq!(top_keys(&kg), expected);
    let first = kg.admin().stats().unwrap().top_keys.swap_remove(0);
    assert_eq!(first.key, kg.admin().get_key(id(3)).unwrap());
    assert_eq!(first.org_name, "acme");
}

#[test]
fn organizations_and_keys_are_counted() {
    let home = Home::new();
    let kg = home.open();
    let counts = |kg: &KeyGuard| {
        let stats = kg.admin().stats().unwrap();
        (stats.organizations, stats.total_keys, stats.active_keys)
    };
    assert_eq!(counts(&kg), (0, 0, 0));
    let (first, _) = (crate::common::key(&kg), crate::common::key(&kg));
    kg.admin().suspend_org(org(&kg, "other").id).unwrap();
    kg.admin().revoke_key(first.key.id).unwrap();
    kg.admin()
        .rotate_key(RotateKey::new(crate::common::key(&kg).key.id).grace(MINUTE))
        .unwrap();
    assert_eq!(counts(&kg), (2, 3, 2));
    kg.close().unwrap();
    assert_eq!(counts(&home.open()), (2, 3, 2));
}

// Listing and retention.

#[test]
fn usage_is_listed_by_key_and_time_in_order() {
    let home = Home::new();
    let kg = home.open();
    let keys = [crate::common::key(&kg), crate::common::key(&kg)];
    let start = home.clock.timestamp();
    for number in 0..20 {
        let headers = [("X-API-Key", keys[number % 2].raw_key.expose())];
        let grant = kg.check(&headers, IP, &format!("/{number}")).unwrap();
        grant.finish(200);
        home.clock.advance(SECOND);
    }
    let listed = |request| {
        let listed = kg.admin().list_usage(request).unwrap();
        let numbers = listed.iter().map(|row| row.path[1..].parse().unwrap());
        numbers.collect::<Vec<usize>>()
    };
    let all = ListUsage::new();
    let key_id = keys[1].key.id;
    let from = start.plus(15 * SECOND);
    assert_eq!(listed(all), (0..20).collect::<Vec<_>>());
    assert_eq!(listed(all.limit(3)), [0, 1, 2]);
    assert_eq!(listed(all.since(from)), [15, 16, 17, 18, 19]);
    assert_eq!(listed(all.key_id(key_id).since(from)), [15, 17, 19]);
    assert_eq!(listed(all.key_id(key_id).since(from).limit(2)), [15, 17]);
    assert!(listed(all.limit(0)).is_empty());
}

#[test]
fn retention_drops_single_requests_and_keeps_totals() {
    let home = Home::new();
    let config = || home.config().usage_retention(HOUR);
    let kg = home.open_with(config());
    let key = crate::common::key(&kg);
    check(&kg, &key).unwrap().finish(500);
    let before = kg.admin().stats().unwrap();

    home.clock.advance(HOUR);
    kg.flush().unwrap();
    assert_eq!(usage(&kg).len(), 1, "at the end of its retention");
    home.clock.advance(MINUTE);
    kg.flush().unwrap();
    assert_eq!(usage(&kg), [], "a minute after its retention");
    let after = kg.admin().stats().unwrap();
    assert_eq!((after.requests_1h, after.errors_1h), (0, 0));
    assert_eq!(
        (after.requests, after.errors, after.top_keys),
        (before.requests, before.errors, before.top_keys)
    );
    // Later requests are kept.
    admit(&kg, &key);
    kg.close().unwrap();
    assert_eq!(usage(&home.open_with(config())).len(), 1);
}

#[test]
fn retention_drops_old_records_and_keeps_new() {
    const OLD: u32 = 30_000;

    let home = Home::new();
    let config = home.config().usage_retention(HOUR);
    let kg = home.open_with(config.usage_queue_capacity(AMPLE_QUEUE));
    let key = key_limited_to(&kg, u32::MAX);
    assert_eq!(admitted_of(&kg, &key, OLD, Reason::RateLimited), OLD);
    kg.flush().unwrap();
    home.clock.advance(HOUR);
    let new = home.clock.timestamp();
    assert_eq!(admitted_of(&kg, &key, 10, Reason::RateLimited), 10);
    kg.flush().unwrap();
    home.clock.advance(MINUTE);
    kg.flush().unwrap();

    let kept = usage(&kg);
    let old = kept.iter().filter(|row| row.at < new).count();
    assert_eq!(kept.len() - old, 10);
    // Requests are deleted by block, and the last block also contains new ones.
    assert!(old < OLD as usize / 2, "{old} of {OLD} are still there");
    assert_eq!(kg.admin().stats().unwrap().requests, u64::from(OLD) + 10);
}

#[test]
fn disabled_recording_records_nothing() {
    let home = Home::new();
    let kg = home.open_with(home.config().record_usage(false));
    let key = key_limited_to(&kg, 2);
    assert_eq!(admitted_of(&kg, &key, 5, Reason::RateLimited), 2);
    assert_eq!(refusal(check_with(&kg, "nonsense")), Reason::MalformedKey);
    assert_eq!(usage(&kg), []);
    let stats = kg.admin().stats().unwrap();
    assert_eq!((stats.requests, stats.dropped), (0, 0));
    assert_eq!((stats.refused, stats.top_keys), (vec![], vec![]));
    assert_eq!(kg.admin().get_key(key.key.id).unwrap().last_used_at, None);
    assert_eq!(stats.total_keys, 1);
}

// Overload.

#[test]
fn events_beyond_the_queue_are_dropped_and_counted() {
    const THREADS: usize = 4;

    let home = Home::new();
    let kg = home.open_with(home.config().usage_queue_capacity(1_024));
    let key = key_limited_to(&kg, u32::MAX);
    let issued = AtomicU64::new(0);
    for _ in 0..20 {
        // A large change delays the writer, and requests arrive faster than it can write.
        let changed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while !changed.load(Ordering::SeqCst) {
                        admit(&kg, &key);
                        issued.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            many_keys(&kg, 1_000);
            changed.store(true, Ordering::SeqCst);
        });
        if kg.admin().stats().unwrap().dropped > 0 {
            break;
        }
    }
    let issued = issued.into_inner();
    let check = |kg: &KeyGuard| {
        let stats = kg.admin().stats().unwrap();
        assert!(stats.dropped > 0, "{issued} requests were no burst");
        assert_eq!(stats.requests + stats.dropped, issued);
        assert_eq!(usage(kg).len() as u64, stats.requests);
        assert_eq!(top_keys(kg), [(key.key.id, stats.requests)]);
    };
    check(&kg);
    kg.close().unwrap();
    check(&home.open());
}

/// All stored requests.
fn usage(kg: &KeyGuard) -> Vec<Usage> {
    let all = ListUsage::new().limit(usize::MAX);
    kg.admin().list_usage(all).unwrap()
}

type Row = (
    (Timestamp, Option<KeyId>, Method, String, ClientIp),
    (u16, Duration, Option<Reason>),
);

/// All fields.
fn rows(usage: &[Usage]) -> Vec<Row> {
    let row = |u: &Usage| {
        let request = (u.at, u.key_id, u.method, u.path.clone(), u.ip);
        (request, (u.status, u.latency, u.refused))
    };
    usage.iter().map(row).collect()
}

fn top_keys(kg: &KeyGuard) -> Vec<(KeyId, u64)> {
    let top = kg.admin().stats().unwrap().top_keys;
    top.iter().map(|top| (top.key.id, top.requests)).collect()
}

fn many_keys(kg: &KeyGuard, number: usize) -> Vec<CreatedKey> {
    let org = org(kg, "acme").name;
    kg.admin()
        .create_keys(&vec![CreateKey::new(org, "one of many"); number])
        .unwrap()
}
