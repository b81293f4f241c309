//! Tests of several stores on one database.

use super::*;
use crate::counter::SavedValue;
use crate::limit::{Balance, Period};
use crate::lockout::{AuthFailure, LockCause};
use crate::store::IdempotencyKey;
use crate::store::conformance::{after, counter};

#[test]
fn changes_reach_other_stores() {
    let database = Database::new();
    let (one, other) = (with_keys(&database, 2), open(&database));
    let changes = changes_of(&other);
    one.revoke(KeyId(1));
    wait_for(&changes, is_of_key(1));
    one.change_key(KeyId(2), KeyChange::default());
    wait_for(&changes, is_of_key(2));
    one.suspend(OrgId(1));
    wait_for(&changes, |change| {
        matches!(change, ChangeEvent::Org(OrgId(1)))
    });
    assert!(other.warnings().is_empty(), "{:?}", other.warnings());
}

/// Regression: `everything` was reported a second time, which invalidated keys cached in the first
/// second.
#[test]
fn everything_is_reported_once_and_before_keys_are_read() {
    let database = Database::new();
    let (one, other) = (with_keys(&database, 1), open(&database));
    wait_until(|| other.listener.has_pending());
    let (sender, changes) = mpsc::channel();
    other.subscribe(Box::new(move |change| drop(sender.send(change))));
    let at_once: Vec<ChangeEvent> = changes.try_iter().collect();
    assert!(matches!(
        at_once[..],
        [ChangeEvent::Everything, ChangeEvent::AllLocks { .. }]
    ));
    one.revoke(KeyId(1));
    wait_for(&changes, |change| {
        assert!(!matches!(change, ChangeEvent::Everything));
        is_of_key(1)(change)
    });
}

#[test]
fn locks_are_reported_in_their_current_state() {
    let database = Database::new();
    let (one, other) = (open(&database), open(&database));
    let changes = changes_of(&other);
    let lock = AuthFailure::BadKey.lock("192.0.2.1".parse().unwrap(), NOW);
    let batch = UsageBatch {
        locks: vec![LockChange::put(lock.clone())],
        ..UsageBatch::default()
    };
    one.record(&batch).unwrap();
    let wait_for_lock = |wanted: Option<&Lock>| {
        wait_for(
            &changes,
            |change| matches!(change, ChangeEvent::Locks(locks) if locks.len() == 1 && locks[0].lock.as_ref() == wanted),
        );
    };
    wait_for_lock(Some(&lock));
    one.apply_locks(&[LockChange::delete(&lock)]);
    wait_for_lock(None);
}

#[test]
fn a_renewed_lock_survives_deletion_by_another_store() {
    let database = Database::new();
    let (one, other) = (open(&database), open(&database));
    let lock = AuthFailure::BadKey.lock("192.0.2.1".parse().unwrap(), NOW);
    let renewed = Lock {
        until: after(60 * 48),
        ..lock.clone()
    };
    let write = |store: &dyn Store, lock: Option<&Lock>, now| {
        let change = LockChange {
            id: renewed.id(),
            lock: lock.cloned(),
        };
        let batch = UsageBatch {
            locks: vec![change],
            now,
            ..UsageBatch::default()
        };
        store.record(&batch).unwrap();
        other.locks().unwrap()
    };
    write(&one, Some(&lock), NOW);
    write(&other, Some(&renewed), after(60 * 24));
    let stays = write(&one, None, after(60 * 24));
    assert_eq!(stays, std::slice::from_ref(&renewed));
    assert_eq!(write(&one, None, after(60 * 48)), []);
}

#[test]
fn manual_and_automatic_locks_are_stored_separately() {
    let database = Database::new();
    let (one, other) = (open(&database), open(&database));
    let automatic = AuthFailure::BadKey.lock("192.0.2.1".parse().unwrap(), NOW);
    let manual = Lock {
        cause: LockCause::Manual,
        until: after(60),
        remembered_until: after(60),
        ..automatic.clone()
    };
    let found = |store: &dyn Store| {
        let batch = UsageBatch {
            locks: vec![LockChange::put(automatic.clone())],
            now: NOW,
            ..UsageBatch::default()
        };
        store.record(&batch).unwrap();
    };
    let block = |store: &dyn Store| {
        store.change_locks(&[LockChange::put(manual.clone())], &audit_context())
    };
    let both = [automatic.clone(), manual.clone()];
    found(&one);
    block(&other).unwrap();
    assert_eq!(one.locks().unwrap(), both);
    let gone = both.each_ref().map(LockChange::delete);
    other.apply_locks(&gone);
    assert_eq!(one.locks().unwrap(), []);
    block(&other).unwrap();
    found(&one);
    assert_eq!(other.locks().unwrap(), both);
}

#[test]
fn own_changes_are_not_reported() {
    let database = Database::new();
    let store = open(&database);
    let org = store.add_org("acme");
    store.add_key(org.id, 1);
    let changes = changes_of(&store);
    store.revoke(KeyId(1));
    // The next reported change is from another node.
    open(&database).suspend(OrgId(1));
    let change = changes.recv_timeout(SOON).unwrap();
    assert!(matches!(change, ChangeEvent::Org(OrgId(1))), "{change:?}");
}

#[test]
fn keys_created_elsewhere_are_found_after_a_miss() {
    let database = Database::new();
    let (one, other) = (with_keys(&database, 0), open(&database));
    let _changes = changes_of(&other);
    wait_until(|| {
        assert!(resolve(&other, 1).unwrap().is_none());
        other.negative_cache.is_absent(&hash(1))
    });
    one.add_key(OrgId(1), 1);
    wait_until(|| resolve(&other, 1).unwrap().is_some());
    // And at once by its creator.
    wait_until(|| {
        assert!(resolve(&other, 2).unwrap().is_none());
        other.negative_cache.is_absent(&hash(2))
    });
    other.add_key(OrgId(1), 2);
    assert!(resolve(&other, 2).unwrap().is_some());
}

#[test]
fn changes_arrive_without_notifications() {
    let database = Database::new();
    let (one, other) = (with_keys(&database, 40), open(&database));
    let changes = changes_of(&other);
    for key in 1..=10 {
        wait_until(|| database.end_listeners() > 0);
        one.revoke(KeyId(key));
        wait_for(&changes, is_of_key(key));
    }
}

#[test]
fn stores_too_far_behind_treat_everything_as_changed() {
    let database = Database::new();
    let (one, other) = (with_keys(&database, 1), open(&database));
    let changes = changes_of(&other);
    database.execute(
        "BEGIN; UPDATE keyguard_state SET generation = generation + 7; \
         UPDATE keyguard_state SET forgotten = generation; COMMIT",
    );
    wait_for(&changes, |change| matches!(change, ChangeEvent::Everything));
    // Deleted locks are no longer listed either.
    wait_for(
        &changes,
        |change| matches!(change, ChangeEvent::AllLocks { locks, .. } if locks.is_empty()),
    );
    one.revoke(KeyId(1));
    wait_for(&changes, is_of_key(1));
}

#[test]
fn the_later_and_higher_balance_wins() {
    let database = Database::new();
    let (one, other) = (with_keys(&database, 1), open(&database));
    let subject = SubjectId::key(KeyId(1));
    let level = |used, at| {
        let balance = Balance::stored(used, at);
        vec![counter(Period::Month, SavedValue::Balance(balance))]
    };
    let write = |store: &dyn Store, used, at| {
        let batch = UsageBatch {
            balances: vec![(subject, level(used, at))],
            ..UsageBatch::default()
        };
        store.record(&batch).unwrap();
        one.counters(subject).unwrap()
    };
    assert_eq!(write(&*one, 7, after(1)), level(7, after(1)));
    assert_eq!(write(&other, 5, after(1)), level(7, after(1)));
    assert_eq!(write(&other, 2, after(2)), level(2, after(2)));
    assert_eq!(write(&*one, 9, after(1)), level(2, after(2)));
    // Also within a batch, in any order.
    let both = UsageBatch {
        balances: vec![(subject, level(1, after(3))), (subject, level(8, after(2)))],
        ..UsageBatch::default()
    };
    other.record(&both).unwrap();
    assert_eq!(one.counters(subject).unwrap(), level(1, after(3)));
    let month = level(1, after(3)).remove(0).id;
    let day = CounterId {
        period: Period::Day,
        ..month.clone()
    };
    one.delete_counters(&[(subject, day)], &audit_context())
        .unwrap();
    assert_eq!(one.counters(subject).unwrap(), level(1, after(3)));
    one.delete_counters(&[(subject, month)], &audit_context())
        .unwrap();
    assert_eq!(one.counters(subject).unwrap(), []);
}

#[test]
fn look_ups_include_balances() {
    let database = Database::new();
    let store = with_keys(&database, 2);
    let level =
        |period, used| counter(period, SavedValue::Balance(Balance::stored(used, after(1))));
    let of_key = vec![level(Period::Day, 1), level(Period::Month, 2)];
    let of_org = vec![level(Period::Month, 3)];
    let batch = UsageBatch {
        balances: vec![
            (SubjectId::key(KeyId(1)), of_key.clone()),
            (SubjectId::org(OrgId(1)), of_org.clone()),
            (SubjectId::org(OrgId(2)), of_org.clone()),
        ],
        ..UsageBatch::default()
    };
    store.record(&batch).unwrap();
    let org = (SubjectId::org(OrgId(1)), of_org);
    let key = (SubjectId::key(KeyId(1)), of_key);
    let with = |found: Option<Resolved>| {
        let mut balances = found.unwrap().balances.unwrap();
        balances.sort_by_key(|(subject, _)| subject.to_bits());
        balances
    };
    let both = [key, org.clone()];
    assert_eq!(with(resolve(&*store, 1).unwrap()), both);
    assert_eq!(with(store.resolve_id(KeyId(1)).unwrap()), both);
    assert_eq!(with(resolve(&*store, 2).unwrap()), [org]);
}

#[test]
fn concurrent_recording_counts_everything() {
    let database = Database::new();
    drop(with_keys(&database, 20));
    let nodes: Vec<_> = (0..4)
        .map(|node| {
            let store = open(&database);
            thread::spawn(move || {
                for round in 0..10 {
                    let mut batch = UsageBatch::default();
                    let keys = (1..=20).map(|n| 1 + (n * 7 + node * 3 + round) % 20);
                    batch.events.extend(keys.map(|key| event(key, NOW)));
                    store.record(&batch).unwrap();
                    store.prune(Timestamp::default(), NOW).unwrap();
                }
            })
        })
        .collect();
    nodes.into_iter().for_each(|node| node.join().unwrap());
    let store = open(&database);
    assert_eq!(store.totals(NOW).unwrap().all_time.requests, 800);
    assert_eq!(store.usage(None, NOW, 9_999).unwrap().len(), 800);
    let days = "SELECT count(*)::text FROM usage_logs_20230116";
    assert_eq!(database.value(days), "800", "in the table of their day");
}

/// Regression: a prune locked completed requests, then the state; a change that repeats an idempotency
/// key locks them in the other order.
#[test]
fn pruning_locks_nothing_else_while_it_waits_for_a_change() {
    let database = Database::new();
    let store = with_keys(&database, 1);
    let idempotency_key = IdempotencyKey {
        name: [1; 32],
        request: [1; 32],
    };
    store
        .append_audit(&AuditContext {
            idempotency_key: Some(idempotency_key),
            ..audit_context()
        })
        .unwrap();
    database.execute(
        "BEGIN; UPDATE keyguard_state SET generation = generation + 20000; \
         UPDATE keyguard_changes SET changed_at = now() - interval '1 day'; COMMIT",
    );
    let rows_of = |table| database.value(&format!("SELECT count(*)::text FROM {table}"));
    let prune = move || store.prune(NOW, after(2 * 24 * 60));
    let mut pruning = None;
    let change = "UPDATE keyguard_state SET generation = generation + 1";
    server::holding(&database.url, change, || {
        pruning = Some(thread::spawn(prune));
        let is_pruned = || wait_until(|| rows_of("keyguard_completed_requests") == "0");
        thread::scope(|threads| threads.spawn(is_pruned).join().unwrap());
    });
    pruning.unwrap().join().unwrap().unwrap();
    assert_eq!(rows_of("keyguard_changes"), "0");
}

#[test]
fn long_reads_do_not_block_recording() {
    let database = Database::new();
    drop(with_keys(&database, 1));
    let store = open(&database);
    let a_day_on = NOW.plus(Duration::from_secs(86_400));
    server::holding(&database.url, "SELECT count(*) FROM usage_logs", || {
        store.record(&requests(1, NOW, 3)).unwrap();
        assert_eq!(store.usage(None, NOW, 99).unwrap().len(), 3);
    });
    store.record(&requests(1, NOW, 2)).unwrap();
    store.record(&requests(1, a_day_on, 4)).unwrap();
    let rows_of = |table| database.value(&format!("SELECT count(*)::text FROM {table}"));
    assert_eq!(rows_of("usage_logs_default"), "5");
    assert_eq!(rows_of("usage_logs_20230117"), "4", "with a table again");
    assert_eq!(store.totals(a_day_on).unwrap().all_time.requests, 9);
    store.prune(a_day_on, a_day_on).unwrap();
    assert_eq!(rows_of("usage_logs"), "4", "rows without a table end too");
}

const YEAR: Duration = Duration::from_secs(365 * 86_400);

fn server_time(store: &PostgresStore) -> Timestamp {
    store.read(rows::server_time).unwrap()
}

#[test]
fn processes_follow_the_server_clock() {
    let database = Database::new();
    for is_ahead in [true, false] {
        let clock = Clock::system();
        let wrong = match is_ahead {
            true => clock.timestamp().plus(YEAR),
            false => clock.timestamp().minus(YEAR),
        };
        clock.follow(wrong, clock.now());
        let options = Options {
            clock: clock.clone(),
            ..options()
        };
        let store = PostgresStore::open(&database.url, SECRET, options).unwrap();
        let difference = |a: Timestamp, b: Timestamp| a.since(b).max(b.since(a));
        let now = server_time(&store);
        assert!(difference(clock.timestamp(), now) < SOON);
    }
}

#[test]
fn a_clock_ahead_deletes_no_active_data() {
    let database = Database::new();
    let store = open(&database);
    let org = store.add_org("acme");
    store.add_key(org.id, 1);
    let now = server_time(&store);
    store.record(&requests(1, now, 99)).unwrap();
    let lock = AuthFailure::BadKey.lock("192.0.2.1".parse().unwrap(), now);
    store.apply_locks(&[LockChange::put(lock.clone())]);
    let counted = |table: &str| database.value(&format!("SELECT count(*)::text FROM {table}"));
    let tables = [
        "usage_logs",
        "keyguard_minutes",
        "keyguard_key_hours",
        "keyguard_locks",
    ];
    let before = tables.map(counted);

    let wrong = now.plus(YEAR);
    store
        .prune(wrong.minus(Duration::from_secs(30 * 86_400)), wrong)
        .unwrap();
    let ended = UsageBatch {
        locks: vec![LockChange::delete(&lock)],
        now: wrong,
        ..UsageBatch::default()
    };
    store.record(&ended).unwrap();
    assert_eq!(tables.map(counted), before);
    assert_eq!(before[0], "99");
}

#[test]
fn a_balance_ahead_does_not_win() {
    let database = Database::new();
    let store = with_keys(&database, 1);
    let subject = SubjectId::key(KeyId(1));
    let now = server_time(&open(&database));
    let write = |period, used, at| {
        let balance = Balance::stored(used, at);
        let batch = UsageBatch {
            balances: vec![(subject, vec![counter(period, SavedValue::Balance(balance))])],
            ..UsageBatch::default()
        };
        store.record(&batch).unwrap();
        let saved = store.counters(subject).unwrap();
        let of_span = saved.into_iter().find(|saved| saved.id.period == period);
        match of_span.unwrap().value {
            SavedValue::Balance(balance) => balance,
            other => panic!("{other:?}"),
        }
    };
    let longest = Duration::from_secs(32 * 86_400);
    for period in [Period::Day, Period::Month] {
        let cut = write(period, 5, now.plus(YEAR));
        assert!(cut.used() == 5 && cut.at() <= now.plus(longest), "{cut:?}");
        // Written without the cut.
        database.execute(&format!(
            "UPDATE keyguard_balances SET at = {}",
            now.plus(YEAR).unix_millis()
        ));
        let end = now.plus(Duration::from_secs(3_600));
        assert_eq!(write(period, 6, end), Balance::stored(6, end));
    }
}
