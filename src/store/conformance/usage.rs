//! Usage, totals and balances.

use std::time::Duration;

use super::{NOW, TestDatabase, after, batch, counter, event, requests, with_keys};
use crate::counter::{SavedValue, SubjectId};
use crate::limit::{Balance, Period};
use crate::model::{KeyId, OrgId, Reason};
use crate::net::ClientIp;
use crate::store::{Count, UsageBatch, UsageEvent};

pub(in crate::store) fn totals_equal_the_events(database: &dyn TestDatabase) {
    let store = with_keys(database, 3);
    let refused = |key, reason| UsageEvent {
        status: 429,
        refused: Some(reason),
        ..event(key, NOW)
    };
    let mut first = batch([
        (event(1, NOW), "/a"),
        (event(1, NOW), "/b"),
        (
            UsageEvent {
                status: 500,
                ..event(2, NOW)
            },
            "/a",
        ),
        (
            UsageEvent {
                status: 0,
                ..event(2, NOW)
            },
            "/a",
        ),
        (refused(3, Reason::RateLimited), "/a"),
    ]);
    let mut unknown = [0; Reason::COUNT];
    unknown[Reason::UnknownKey as usize] = 4;
    first.refusals.push((NOW.minute(), unknown));
    first.dropped = 2;
    store.record(&first).unwrap();
    store.record(&requests(1, after(90), 3)).unwrap();
    store.record(&UsageBatch::default()).unwrap();

    let totals = store.totals(after(90)).unwrap();
    assert_eq!(
        totals.all_time,
        Count {
            requests: 12,
            errors: 6
        }
    );
    assert_eq!(
        totals.last_hour,
        Count {
            requests: 3,
            errors: 0
        }
    );
    assert_eq!(totals.dropped, 2);
    assert_eq!(totals.refused[Reason::UnknownKey as usize], 4);
    assert_eq!(totals.refused[Reason::RateLimited as usize], 1);
    assert_eq!(totals.refused.iter().sum::<u64>(), 5);
    let top: Vec<_> = totals
        .top_keys
        .iter()
        .map(|(key, org, requests)| (key.id.0, org.name.as_str(), *requests))
        .collect();
    assert_eq!(top, [(1, "acme", 5), (2, "acme", 2), (3, "acme", 1)]);

    assert_eq!(store.key(KeyId(1)).unwrap().last_used_at, Some(after(90)));
    assert_eq!(
        store.key(KeyId(3)).unwrap().last_used_at,
        None,
        "a refused key was not used"
    );
    drop(store);
    assert_eq!(totals, database.open().totals(after(90)).unwrap());
}

/// Regression: the data file forgot the last use while the clock was behind it.
pub(in crate::store) fn refused_requests_keep_the_last_use(database: &dyn TestDatabase) {
    let store = with_keys(database, 1);
    store.record(&requests(1, after(10), 1)).unwrap();
    let refused = UsageEvent {
        refused: Some(Reason::RateLimited),
        ..event(1, NOW)
    };
    store.record(&batch([(refused, "/data")])).unwrap();
    assert_eq!(store.key(KeyId(1)).unwrap().last_used_at, Some(after(10)));
}

pub(in crate::store) fn raw_usage_is_the_events_in_order(database: &dyn TestDatabase) {
    let store = with_keys(database, 2);
    store
        .record(&batch([
            (event(1, NOW), "/a"),
            (event(2, after(1)), "/long/b"),
        ]))
        .unwrap();
    store.record(&batch([(event(1, after(2)), "")])).unwrap();

    let usage = store.usage(None, NOW, 9).unwrap();
    let seen: Vec<_> = usage
        .iter()
        .map(|usage| (usage.key_id.unwrap().0, usage.path.as_str(), usage.at))
        .collect();
    assert_eq!(
        seen,
        [(1, "/a", NOW), (2, "/long/b", after(1)), (1, "", after(2))]
    );
    assert_eq!(usage[0].latency, Duration::from_micros(1_500));
    assert_eq!(store.usage(Some(KeyId(1)), NOW, 9).unwrap().len(), 2);
    assert_eq!(store.usage(None, after(1), 9).unwrap(), usage[1..]);
    assert_eq!(store.usage(None, NOW, 1).unwrap(), usage[..1]);
    assert_eq!(store.usage(None, NOW, 0).unwrap(), []);
}

pub(in crate::store) fn balances_are_states(database: &dyn TestDatabase) {
    let store = with_keys(database, 2);
    let (key, other) = (SubjectId::key(KeyId(1)), SubjectId::org(OrgId(1)));
    let state = |used| {
        let balance = Balance::stored(used, after(1));
        vec![counter(Period::Month, SavedValue::Balance(balance))]
    };
    let batch = |used| UsageBatch {
        balances: vec![(key, state(used))],
        ..UsageBatch::default()
    };
    assert_eq!(store.counters(key).unwrap(), []);
    store.record(&batch(6)).unwrap();
    store.record(&batch(7)).unwrap();
    store.record(&batch(7)).unwrap();
    store.record(&requests(1, NOW, 1)).unwrap();
    assert_eq!(store.counters(key).unwrap(), state(7));
    assert_eq!(store.counters(other).unwrap(), []);
    let top = store.totals(NOW).unwrap().top_keys;
    assert_eq!(top.len(), 1, "a balance is not a request");
}

pub(in crate::store) fn paths_of_any_bytes_are_recorded(database: &dyn TestDatabase) {
    let store = with_keys(database, 1);
    let mut batch = requests(1, NOW, 1);
    batch.paths = b"/\0\xff\xfe".to_vec();
    batch.events[0].path_len = 4;
    batch.events[0].ip = ClientIp::LOCAL;
    store.record(&batch).unwrap();
    let usage = store.usage(None, NOW, 9).unwrap();
    assert!(usage[0].path.starts_with('/'), "{usage:?}");
    assert_eq!(usage[0].ip, ClientIp::LOCAL);
}

pub(in crate::store) fn requests_stored_elsewhere_are_counted(database: &dyn TestDatabase) {
    let store = with_keys(database, 1);
    let batch = UsageBatch {
        has_rows_elsewhere: true,
        shadow_denied: vec![("b".into(), 2), ("a".into(), 1)],
        ..requests(1, NOW, 3)
    };
    store.record(&batch).unwrap();
    store.record(&batch).unwrap();
    let totals = store.totals(NOW).unwrap();
    assert_eq!(totals.all_time.requests, 6);
    assert_eq!(totals.shadow_denied, [("a".into(), 2), ("b".into(), 4)]);
    assert_eq!(store.usage(None, NOW, 9).unwrap(), []);
}

pub(in crate::store) fn pruned_usage_stays_in_totals(database: &dyn TestDatabase) {
    let store = with_keys(database, 1);
    let day = 24 * 60;
    store.record(&requests(1, NOW, 3)).unwrap();
    store.prune(NOW, after(60)).unwrap();
    assert_eq!(store.usage(None, NOW, 9).unwrap().len(), 3);
    store.prune(after(2 * day), after(3 * day)).unwrap();
    assert_eq!(store.usage(None, NOW, 9).unwrap(), []);
    store.record(&requests(1, after(3 * day), 1)).unwrap();
    assert_eq!(store.usage(None, NOW, 9).unwrap().len(), 1);
    assert_eq!(store.totals(after(3 * day)).unwrap().all_time.requests, 4);
}
