use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use super::*;
use crate::store::conformance::{
    Changes, NOW, TestDatabase, audit_context, conforms, event, hash, new_key, requests, resolve,
    with_keys,
};
use crate::time::ManualClock;

use keyguard_test_support::pgbouncer::PgBouncer;
use keyguard_test_support::postgres::{self as server, Database, Server};
use keyguard_test_support::wait_until;

mod faults;
mod opening;
mod sharing;
mod transfer;

const SECRET: Fingerprint = Fingerprint([7; 32]);

/// A generous timeout.
const SOON: Duration = Duration::from_secs(60);

conforms!(Database::new());

impl TestDatabase for Database {
    fn open(&self) -> Box<dyn Store> {
        Box::new(open(self))
    }

    fn another(&self) -> Box<dyn TestDatabase> {
        Box::new(Self::new())
    }
}

fn open(database: &Database) -> PostgresStore {
    open_url(&database.url).unwrap()
}

fn open_url(url: &str) -> Result<PostgresStore, OpenError> {
    PostgresStore::open(url, SECRET, options())
}

fn options() -> Options {
    Options {
        deadline: Duration::from_secs(20),
        connections: 4,
        stale_for: Duration::from_secs(30),
        clock: ManualClock::starting_at(NOW).into(),
    }
}

/// The changes reported to a listener.
fn changes_of(store: &PostgresStore) -> mpsc::Receiver<ChangeEvent> {
    let (sender, changes) = mpsc::channel();
    store.subscribe(Box::new(move |change| drop(sender.send(change))));
    // A new listener first receives `everything`.
    wait_for(&changes, |change| {
        matches!(change, ChangeEvent::AllLocks { .. })
    });
    changes
}

fn wait_for(changes: &mpsc::Receiver<ChangeEvent>, is_it: impl Fn(&ChangeEvent) -> bool) {
    let until = Instant::now() + SOON;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if is_it(&changes.recv_timeout(left).expect("a change is reported")) {
            return;
        }
    }
}

fn is_of_key(id: u64) -> impl Fn(&ChangeEvent) -> bool {
    move |change| matches!(change, ChangeEvent::Key(KeyId(changed)) if *changed == id)
}
