//! Damage in the tables of windows: they count as empty, and everything else goes on.

use std::collections::BTreeSet;

use super::verification::damaged;
use super::*;
use crate::counter::{Events, SavedCounter, SavedIpWindow, SavedValue};
use crate::limit::{Period, WindowLength};
use crate::store::Damage;
use crate::store::codec::data_file::BLOCK;
use crate::store::conformance::counter;

const KEYS_IN_FILE: u64 = 400;

fn subject(key: u64) -> SubjectId {
    SubjectId::key(KeyId(key))
}

fn window(key: u64) -> Vec<SavedCounter> {
    let hits = (0..10).map(|n| (after(n), u32::try_from(key).unwrap()));
    vec![counter(
        Period::Sliding(WindowLength::HOUR),
        SavedValue::Hits(hits.collect()),
    )]
}

fn save(store: &RedbStore, keys: std::ops::RangeInclusive<u64>) -> Result<(), StoreError> {
    store.save_windows(&mut keys.map(|key| (subject(key), window(key))))
}

fn ip_windows() -> Vec<SavedIpWindow> {
    let window = |n: u32| SavedIpWindow {
        ip_key: std::net::Ipv4Addr::from(n).to_string().parse().unwrap(),
        events: Events::IpLimit("login".into()),
        length: WindowLength::HOUR,
        full_at: 3,
        is_shadow: false,
        hits: vec![(NOW, n)],
    };
    (1..=300).map(window).collect()
}

/// A closed file, and the pages whose damage costs only rows of one table of windows, one for each loss.
fn original(table: &str) -> (Vec<u8>, Vec<(usize, Damage)>) {
    let file = File::new();
    let store = with_keys(&file, 2);
    save(&store, 1..=KEYS_IN_FILE).unwrap();
    store.save_ip_windows(ip_windows()).unwrap();
    drop(store);
    let bytes = fs::read(&file.path).unwrap();
    let mut lost = BTreeSet::new();
    let pages = (1..bytes.len() / BLOCK).filter_map(|page| {
        let file = damaged(&bytes, &[page]);
        let mut found = RedbStore::verify_file(&file.path).ok()?.damage;
        let damage = found.pop().filter(|_| found.is_empty())?;
        let is_new = damage.table == table && lost.insert(damage.lost.clone());
        is_new.then_some((page, damage))
    });
    let pages = pages.collect();
    (bytes, pages)
}

/// The windows of all keys. After damage, look-ups fail until another thread has reopened the file.
fn all_windows(store: &RedbStore) -> Vec<Vec<SavedCounter>> {
    let one = |key| loop {
        match store.counters(subject(key)) {
            Err(StoreError::Unavailable(_)) => std::thread::yield_now(),
            read => return read.unwrap(),
        }
    };
    (1..=KEYS_IN_FILE).map(one).collect()
}

/// Regression: one damaged page refused all checks of the keys in it and of new keys, failed every stop, and kept
/// backups from being written.
#[test]
fn unreadable_windows_count_as_empty_and_are_named() {
    let (bytes, pages) = original("windows");
    assert!(pages.len() > 5, "{pages:?}");
    let progress = CopyProgress::default();
    for (page, damage) in &pages {
        let file = damaged(&bytes, &[*page]);
        let store = file.open();
        let read = all_windows(&store);
        let lost = read.iter().filter(|windows| windows.is_empty()).count() as u64;
        assert_eq!(lost, damage.rows.unwrap_or(KEYS_IN_FILE), "{damage:?}");
        for (key, windows) in (1..).zip(&read) {
            assert!(windows.is_empty() || *windows == window(key));
        }

        let (copy, at_rest) = (File::new(), File::new());
        let compacted = damaged(&bytes, &[*page]);
        for copied in [
            RedbStore::back_up_file(&compacted.path, &at_rest.path, &progress).unwrap(),
            RedbStore::compact_file(&compacted.path, &progress).unwrap(),
        ] {
            assert_eq!((copied.lost_windows, copied.lost_totals), (1, 0));
        }

        assert_eq!(store.verify().unwrap().damage, std::slice::from_ref(damage));
        store.recover(false);
        assert_eq!(store.fault(), None);
        let found = store.verify().unwrap().damage;
        assert_eq!(
            (found.len(), found[0].table.as_str()),
            (1, "damaged 1 windows")
        );
        assert_eq!(found[0].lost, damage.lost);
        let warnings = store.warnings();
        assert!(
            warnings.len() == 1 && warnings[0].contains("count as empty: damaged 1 windows;"),
            "{warnings:?}"
        );
        assert_eq!(all_windows(&store), read);

        let copied = store.backup(&copy.path, &progress).unwrap();
        assert_eq!((copied.lost_windows, copied.tables_set_aside), (0, 1));
        for copy in [&copy, &at_rest, &compacted] {
            assert!(RedbStore::verify_file(&copy.path).unwrap().is_sound());
            assert_eq!(all_windows(&copy.open()), read);
        }
    }
}

type Change = fn(&RedbStore) -> Result<(), StoreError>;

#[test]
fn windows_are_stored_and_deleted_in_spite_of_damage() {
    let (bytes, pages) = original("windows");
    let changes: [Change; 3] = [
        |store| save(store, 1..=KEYS_IN_FILE),
        |store| store.delete_ended_windows(after(1)),
        |store| {
            let all = (1..=KEYS_IN_FILE).map(|key| (subject(key), window(key).remove(0).id));
            store.delete_counters(&all.collect::<Vec<_>>(), &audit_context())
        },
    ];
    for (page, damage) in &pages {
        for change in changes {
            let file = damaged(&bytes, &[*page]);
            let store = file.open();
            let changed = change(&store);
            assert!(changed.is_ok(), "{changed:?}, {damage:?}");
            assert_eq!(store.fault(), None);
            save(&store, 1..=KEYS_IN_FILE).unwrap();
            assert_eq!(
                all_windows(&store),
                (1..=KEYS_IN_FILE).map(window).collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn unreadable_windows_of_addresses_count_as_empty_and_are_replaced() {
    let (bytes, pages) = original("ip windows");
    assert!(!pages.is_empty());
    for (page, damage) in &pages {
        let file = damaged(&bytes, &[*page]);
        let store = file.open();
        assert_eq!(store.ip_windows().unwrap(), []);
        let saved = store.save_ip_windows(ip_windows());
        assert!(saved.is_ok(), "{saved:?}, {damage:?}");
        assert_eq!(store.ip_windows().unwrap(), ip_windows());
        assert_eq!(store.fault(), None);
    }
}
