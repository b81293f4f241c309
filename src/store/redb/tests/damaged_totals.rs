//! Damage in the tables of totals: what it costs, what is named, and that recording goes on.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::LazyLock;

use ::redb::{Key as RowKey, ReadableTableMetadata, TableDefinition, TableHandle, Value};

use super::verification::{altered, damaged};
use super::*;
use crate::model::{UsageGroup, UsageQuery};
use crate::store::Damage;
use crate::store::codec::data_file::BLOCK;

const KEYS_IN_FILE: u64 = 150;
const DAY: u64 = 24 * 60;

/// A closed file with several pages of each of these tables, and a third of the pages whose damage costs only rows of
/// one of them, with all roots.
struct Original {
    bytes: Vec<u8>,
    found: Vec<(usize, Damage)>,
    /// A page of the audit log.
    of_audit: usize,
    requests: u64,
}

impl Original {
    /// The names of the tables with pages in `found`.
    fn tables(&self) -> BTreeSet<&str> {
        let found = self.found.iter();
        found.map(|(_, damage)| damage.table.as_str()).collect()
    }
}

/// A batch with a request of each key.
fn of_all_keys(minute: u64) -> UsageBatch {
    let events = (1..=KEYS_IN_FILE).map(|key| (event(key, after(minute)), "/data"));
    UsageBatch {
        shadow_denied: vec![("a rule in shadow mode".into(), 1)],
        ..batch(events)
    }
}

static ORIGINAL: LazyLock<Original> = LazyLock::new(|| {
    let file = File::new();
    let store = with_keys(&file, KEYS_IN_FILE);
    let hours = (0..20).map(|hour| 60 * hour);
    let days = (1..20).map(|day| DAY * day);
    for minute in hours.chain(days) {
        store.record(&of_all_keys(minute)).unwrap();
    }
    let each_minute = (0..900).map(|minute| (event(1, after(minute)), "/data"));
    store.record(&batch(each_minute)).unwrap();
    let requests = store.totals(NOW).unwrap().all_time.requests;
    drop(store);

    let bytes = fs::read(&file.path).unwrap();
    let pages = 1..bytes.len() / BLOCK;
    let mut of_table = BTreeMap::<String, u32>::new();
    let mut of_audit = None;
    let found = pages.filter_map(|page| {
        let file = damaged(&bytes, &[page]);
        let mut found = RedbStore::verify_file(&file.path).ok()?.damage;
        let damage = found.pop().filter(|_| found.is_empty())?;
        if !is_of_totals(&damage.table) {
            if damage.table == AUDIT.name() {
                of_audit = Some(page);
            }
            return None;
        }
        let number = of_table.entry(damage.table.clone()).or_default();
        *number += 1;
        let is_sample = damage.rows.is_none() || *number % 3 == 1;
        is_sample.then_some((page, damage))
    });
    Original {
        found: found.collect(),
        of_audit: of_audit.expect("no page of the audit log"),
        bytes,
        requests,
    }
});

/// The names of all tables.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl TableVisitor for Names {
    type Error = Infallible;

    fn visit<K: RowKey + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
        _: impl Fn(K::SelfType<'_>) -> Option<String>,
    ) -> Result<(), Infallible> {
        self.0.insert(table.name().to_owned());
        Ok(())
    }
}

fn rows_of(store: &RedbStore, table: &str) -> u64 {
    let rows = store.read(|txn| {
        let tables = txn.list_tables()?;
        let table = tables.into_iter().find(|found| found.name() == table);
        Ok(txn.open_untyped_table(table.unwrap())?.len()?)
    });
    rows.unwrap()
}

/// The damage, as it is named after the table was set aside.
fn set_aside(damage: &Damage) -> Damage {
    Damage {
        table: format!("damaged 1 {}", damage.table),
        problem: format!("{}, and its table was set aside", damage.problem),
        ..damage.clone()
    }
}

#[test]
fn each_table_of_totals_is_damaged() {
    let mut names = Names::default();
    let Ok(()) = visit_all(&mut names);
    names.0.retain(|name| is_of_totals(name));
    let names: BTreeSet<&str> = names.0.iter().map(String::as_str).collect();
    assert_eq!(ORIGINAL.tables(), names);
    let is_root = |(_, damage): &&(usize, Damage)| damage.rows.is_none();
    let roots = ORIGINAL.found.iter().filter(is_root);
    let roots: BTreeSet<&str> = roots.map(|(_, damage)| damage.table.as_str()).collect();
    assert_eq!(roots, names);
    let several = |table: &str| {
        let of_table = ORIGINAL.found.iter().filter(|(_, of)| of.table == table);
        of_table.count() > 1
    };
    assert!(
        ["activity", "key days", "key hours", "minutes"]
            .into_iter()
            .all(several)
    );
}

/// Regression: one damaged page of totals stopped the recording of all usage.
#[test]
fn recording_goes_on_and_the_lost_totals_are_named() {
    let mut replaced = BTreeSet::new();
    for (page, damage) in &ORIGINAL.found {
        let file = damaged(&ORIGINAL.bytes, &[*page]);
        let store = file.open();
        for n in 1..=3 {
            let stored = store.record(&of_all_keys(DAY * (30 + n)));
            assert!(stored.is_ok(), "page {page}: {stored:?}, {damage:?}");
            let totals = store.totals(after(DAY * (30 + n))).unwrap();
            let expected = ORIGINAL.requests + n * KEYS_IN_FILE;
            assert_eq!(totals.all_time.requests, expected, "page {page}");
            assert_eq!(totals.last_hour.requests, KEYS_IN_FILE, "page {page}");
        }
        assert_eq!(store.fault(), None);
        assert!(resolve(&store, 7).unwrap().is_some());
        store.add_org("next");
        store.revoke(KeyId(7));

        // Only what was written to is replaced.
        let found = store.verify().unwrap().damage;
        let is_replaced = found == [set_aside(damage)];
        assert!(
            is_replaced || found == std::slice::from_ref(damage),
            "{found:?}"
        );
        let warnings = store.warnings();
        assert_eq!(warnings.len(), usize::from(is_replaced), "{warnings:?}");
        if is_replaced {
            replaced.insert(damage.table.as_str());
            let name = format!("lack them: damaged 1 {};", damage.table);
            assert!(warnings[0].contains(&name), "{warnings:?}");
        }
        drop(store);
        assert_eq!(RedbStore::verify_file(&file.path).unwrap().damage, found);
        assert_eq!(file.open().warnings(), warnings);
    }
    assert_eq!(replaced, ORIGINAL.tables());
}

/// Regression: a key whose last use could not be read could not be revoked.
#[test]
fn a_key_with_damaged_totals_is_revoked() {
    let mut replaced = 0;
    let of_keys = |(_, damage): &&(usize, Damage)| damage.table == ACTIVITY.name();
    for (page, damage) in ORIGINAL.found.iter().filter(of_keys) {
        let file = damaged(&ORIGINAL.bytes, &[*page]);
        let store = file.open();
        for id in (1..=KEYS_IN_FILE).step_by(10).map(KeyId) {
            let revoked = store.revoke_key(id, &audit_context());
            assert!(revoked.is_ok(), "page {page}: {revoked:?}, {damage:?}");
            assert!(!store.key(id).unwrap().is_active());
        }
        replaced += store.warnings().len();
    }
    assert!(replaced > 1, "{replaced}");
}

/// Regression: for a minute after damage elsewhere was met, damage in totals was not mended.
#[test]
fn damage_elsewhere_delays_no_repair() {
    let (mut read, mut recorded) = (0, 0);
    for (page, damage) in &ORIGINAL.found {
        let file = damaged(&ORIGINAL.bytes, &[ORIGINAL.of_audit]);
        let store = file.open();
        let meet_elsewhere = || {
            let log = store.audit_log(None, 10_000);
            assert!(matches!(log, Err(StoreError::Damaged(_))), "{log:?}");
        };
        meet_elsewhere();
        assert!(store.met_damage.lock().is_new());
        store.recover(false);
        meet_elsewhere();
        // The totals are not searched again and again.
        assert!(!store.met_damage.lock().is_new());

        let bytes = fs::read(&file.path).unwrap();
        fs::write(&file.path, altered(&bytes, &[*page])).unwrap();
        let totals = || store.totals(after(DAY * 19));
        if totals().is_err() {
            store.recover(false);
            assert!(totals().is_ok(), "page {page}: {damage:?}");
            read += store.warnings().len();
        }
        for n in 1..=2 {
            let stored = store.record(&of_all_keys(DAY * (30 + n)));
            assert!(stored.is_ok(), "page {page}: {stored:?}, {damage:?}");
        }
        recorded += store.warnings().len();
    }
    assert!(read > 0 && recorded > read, "{read}, {recorded}");
}

/// Regression: such a table was sound for `verify`, and `compact` deleted the rows without a word.
#[test]
fn a_table_that_was_set_aside_is_named_even_if_it_can_be_read_again() {
    for (page, damage) in &ORIGINAL.found {
        let file = damaged(&ORIGINAL.bytes, &[*page]);
        let store = file.open();
        store.note_damage(&StoreError::damaged("met"));
        assert!(store.repair_totals().unwrap());
        drop(store);
        let bytes = fs::read(&file.path).unwrap();
        fs::write(&file.path, altered(&bytes, &[*page])).unwrap();
        let found = RedbStore::verify_file(&file.path).unwrap();
        let [named] = found.damage.as_slice() else {
            panic!("page {page}: {found:?}, {damage:?}");
        };
        assert_eq!(named.table, set_aside(damage).table);
        assert!(named.problem.contains("can be read now"), "{named:?}");
    }
}

#[test]
fn reading_replaces_damaged_totals_with_all_that_can_be_read() {
    let (mut seen, mut met) = (BTreeSet::new(), BTreeSet::new());
    for (page, damage) in &ORIGINAL.found {
        if !seen.insert((&damage.table, &damage.lost)) {
            continue;
        }
        let sound = damaged(&ORIGINAL.bytes, &[]).open();
        let all = rows_of(&sound, &damage.table);
        let file = damaged(&ORIGINAL.bytes, &[*page]);
        let store = file.open();
        let read = || {
            let by = |group| store.count_usage(&UsageQuery::by(group), after(DAY * 21));
            store.keys(None, None, 1_000)?;
            store.totals(after(DAY * 19))?;
            store.prune(NOW, after(60))?;
            by(UsageGroup::Key)?;
            by(UsageGroup::Day)?;
            by(UsageGroup::Hour).map(drop)
        };
        let first = read();
        assert!(
            matches!(first, Ok(()) | Err(StoreError::Damaged(_))),
            "page {page}: {first:?}"
        );
        store.recover(false);
        let again = read();
        assert!(again.is_ok(), "page {page}: {again:?}, {damage:?}");
        if first.is_ok() {
            continue;
        }
        met.insert(damage.table.as_str());
        // A damaged root costs all rows.
        let lost = damage.rows.unwrap_or(all);
        assert!(lost > 0, "{damage:?}");
        assert_eq!(rows_of(&store, &damage.table), all - lost, "{damage:?}");
        assert_eq!(store.verify().unwrap().damage, [set_aside(damage)]);
    }
    assert!(seen.len() > 10, "{seen:?}");
    assert_eq!(met, ORIGINAL.tables());
}

#[test]
fn a_copy_lacks_only_the_lost_totals() {
    for (page, damage) in &ORIGINAL.found {
        let file = damaged(&ORIGINAL.bytes, &[*page]);
        let (copy, at_rest) = (File::new(), File::new());
        let progress = CopyProgress::default();
        let copied = RedbStore::back_up_file(&file.path, &at_rest.path, &progress).unwrap();
        assert_eq!(
            (copied.lost_totals, copied.lost_blocks),
            (1, 0),
            "{damage:?}"
        );
        // Perhaps they can be read at another time.
        let compacted = RedbStore::compact_file(&file.path, &progress);
        assert!(matches!(compacted, Err(OpenError::Damaged { .. })));

        let store = file.open();
        // Of the file in use, the table is set aside before it is copied.
        let backup = store.backup(&copy.path, &progress).unwrap();
        let lost = (backup.lost_totals, backup.tables_set_aside);
        assert_eq!((backup.rows, lost), (copied.rows, (0, 1)), "{damage:?}");
        for copy in [copy, at_rest] {
            assert!(RedbStore::verify_file(&copy.path).unwrap().is_sound());
            let copy = copy.open();
            let all_time = copy.totals(NOW).unwrap().all_time;
            assert_eq!(all_time.requests, ORIGINAL.requests);
            copy.record(&of_all_keys(DAY * 31)).unwrap();
        }

        drop(store);
        let compacted = RedbStore::compact_file(&file.path, &progress).unwrap();
        assert_eq!((compacted.lost_totals, compacted.tables_set_aside), (0, 1));
        assert_eq!(compacted.rows, copied.rows);
        assert!(RedbStore::verify_file(&file.path).unwrap().is_sound());
        assert_eq!(file.open().warnings(), Vec::<String>::new());
    }
}
