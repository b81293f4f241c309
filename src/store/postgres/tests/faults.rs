//! Tests of servers that stop, crash and return.

use super::*;
use crate::lockout::AuthFailure;

fn open_on(server: &Server, stale_for: Duration) -> PostgresStore {
    let options = Options {
        stale_for,
        ..options()
    };
    PostgresStore::open(&server.url("postgres"), SECRET, options).unwrap()
}

#[test]
fn acknowledged_changes_survive_a_server_crash() {
    let mut server = Server::start();
    let store = open_on(&server, SOON);
    let org = store.add_org("acme");
    let changes = changes_of(&store);
    let mut created = 0;
    for _ in 0..3 {
        created += 1;
        store.add_key(org.id, created);
        store.record(&requests(created, NOW, 1)).unwrap();
        server.kill();
        assert!(resolve(&store, created).is_err());
        assert!(store.create_org("lost", &audit_context()).is_err());
        wait_until(|| !store.warnings().is_empty());
        server.restart();
        wait_for(&changes, |change| matches!(change, ChangeEvent::Everything));
        wait_until(|| store.warnings().is_empty());
        for n in 1..=created {
            assert!(resolve(&store, n).unwrap().is_some(), "key {n}");
        }
        let totals = store.totals(NOW).unwrap();
        assert_eq!((totals.keys, totals.all_time.requests), (created, created));
    }
}

#[test]
fn the_server_may_start_later() {
    let mut server = Server::start();
    server.stop();
    let store = open_on(&server, SOON);
    let warning = store.warnings().pop().unwrap();
    assert!(
        warning.starts_with("PostgreSQL cannot be reached: "),
        "{warning}"
    );
    assert!(!warning.contains("postgres@"), "{warning}");
    assert!(matches!(
        store.org(OrgId(1)),
        Err(StoreError::Unavailable(_))
    ));
    server.restart();
    wait_until(|| store.create_org("acme", &audit_context()).is_ok());
    wait_until(|| store.warnings().is_empty());
}

#[test]
fn problems_of_a_late_server_are_reported() {
    let mut server = Server::start();
    server::execute(&server.url("postgres"), "CREATE TABLE api_keys (id serial)");
    server.stop();
    let store = open_on(&server, SOON);
    server.restart();
    let is_said = |text: String| text.contains("keyguard --db NEW import --from");
    wait_until(|| store.warnings().into_iter().any(is_said));
    match store.org(OrgId(1)) {
        Err(StoreError::Unavailable(why)) => assert!(is_said(why.to_string()), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn cached_keys_are_invalidated_without_contact() {
    let mut server = Server::start();
    let store = open_on(&server, Duration::from_secs(2));
    let changes = changes_of(&store);
    server.stop();
    wait_for(&changes, |change| matches!(change, ChangeEvent::Everything));
    assert!(resolve(&store, 1).is_err());
    server.restart();
    wait_for(&changes, |change| {
        matches!(change, ChangeEvent::AllLocks { .. })
    });
    assert!(resolve(&store, 1).unwrap().is_none());
}

#[test]
fn an_unacknowledged_batch_counts_once() {
    let database = Database::new();
    drop(with_keys(&database, 1));
    let store = open(&database);
    let batch = requests(1, NOW, 3);
    store.record(&batch).unwrap();
    // As if the reply to the commit was lost.
    store.batch_ids.lock().not_acknowledged(&batch);
    store.record(&batch).unwrap();
    assert_eq!(store.totals(NOW).unwrap().all_time.requests, 3);
    store.record(&batch).unwrap();
    assert_eq!(store.totals(NOW).unwrap().all_time.requests, 6);
    assert_eq!(store.usage(None, NOW, 99).unwrap().len(), 6);
}

#[test]
fn a_lock_of_an_unacknowledged_batch_is_stored_once() {
    let database = Database::new();
    let store = open(&database);
    let changes = changes_of(&store);
    let lock = AuthFailure::BadKey.lock("192.0.2.1".parse().unwrap(), NOW);
    let batch = UsageBatch {
        locks: vec![LockChange::put(lock.clone())],
        now: NOW,
        ..UsageBatch::default()
    };
    store.record(&batch).unwrap();
    // As if the reply to the commit was lost.
    store.batch_ids.lock().not_acknowledged(&batch);
    store.apply_locks(&[LockChange::delete(&lock)]);
    store.record(&batch).unwrap();
    assert_eq!(store.locks().unwrap(), []);
    // The guard may have the lock still.
    wait_for(&changes, |change| match change {
        ChangeEvent::Locks(changes) => matches!(changes[..], [LockChange { lock: None, .. }]),
        _ => false,
    });
    store.record(&batch).unwrap();
    assert_eq!(store.locks().unwrap(), [lock]);
}

#[test]
fn reads_survive_a_lost_connection() {
    let database = Database::new();
    let store = with_keys(&database, 1);
    for _ in 0..5 {
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND application_name = 'keyguard'",
        );
        assert!(resolve(&*store, 1).unwrap().is_some());
        wait_until(|| store.revoke_key(KeyId(1), &audit_context()).is_ok());
    }
}

#[test]
fn a_decision_has_a_deadline() {
    let database = Database::new();
    let options = Options {
        deadline: Duration::from_millis(100),
        ..options()
    };
    let store = PostgresStore::open(&database.url, SECRET, options).unwrap();
    let (locked, is_locked) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let url = database.url.clone();
    let subject = thread::spawn(move || {
        server::holding(&url, "LOCK TABLE keyguard_credentials", || {
            locked.send(()).unwrap();
            let _ = released.recv();
        });
    });
    is_locked.recv().unwrap();
    let began = Instant::now();
    // While the table is locked.
    assert!(resolve(&store, 1).is_err());
    assert!(began.elapsed() >= Duration::from_millis(100));
    drop(release);
    subject.join().unwrap();
    wait_until(|| resolve(&store, 1).is_ok());
}

#[test]
fn blocked_look_ups_do_not_delay_changes_or_invalidate_the_cache() {
    let database = Database::new();
    let one = with_keys(&database, 1);
    let options = Options {
        deadline: Duration::from_millis(10),
        connections: 2,
        stale_for: Duration::from_secs(600),
        ..options()
    };
    let other = PostgresStore::open(&database.url, SECRET, options).unwrap();
    let changes = changes_of(&other);
    let sessions = || -> u32 {
        let count = "SELECT count(*)::text FROM pg_stat_activity \
            WHERE datname = current_database() AND application_name = 'keyguard'";
        let counted = thread::scope(|scope| scope.spawn(|| database.value(count)).join());
        counted.unwrap().parse().unwrap()
    };
    let tables = "LOCK TABLE keyguard_credentials, api_keys, organizations";
    let address = "192.0.2.1".parse().unwrap();
    let lock = crate::lockout::AuthFailure::BadKey.lock(address, NOW);
    let mut most = 0;
    server::holding(&database.url, tables, || {
        for round in 0..20 {
            for n in 0..10 {
                assert!(resolve(&other, 100 * round + n).is_err());
            }
            most = most.max(sessions());
            let change = LockChange {
                id: lock.id(),
                lock: (round % 2 == 0).then(|| lock.clone()),
            };
            one.apply_locks(&[change]);
            wait_for(&changes, |change| {
                assert!(!matches!(change, ChangeEvent::Everything), "round {round}");
                matches!(change, ChangeEvent::Locks(_))
            });
        }
        assert!(!other.health().unwrap().is_up);
        let warnings = other.warnings();
        assert!(
            warnings[0].contains("known keys are served"),
            "{warnings:?}"
        );
    });
    assert!(most <= 50, "{most} sessions");
    wait_until(|| resolve(&other, 1).is_ok_and(|found| found.is_some()));
    wait_until(|| other.warnings().is_empty());
    assert!(
        changes
            .try_iter()
            .all(|change| !matches!(change, ChangeEvent::Everything))
    );
}
