//! Usage and its totals.

use std::time::Duration;

use super::*;
use crate::counter::{SavedValue, SubjectId};
use crate::limit::{Period, WindowLength};
use crate::store::codec::usage_block::CAPACITY;
use crate::store::conformance::counter;
use crate::store::totals::Activity;

#[test]
fn a_block_continues_after_a_restart() {
    let file = File::new();
    drop(with_keys(&file, 1));
    for minute in 0..4 {
        let store = file.open();
        assert_eq!(store.usage(None, NOW, 99).unwrap().len(), 2 * minute);
        let at = after(minute as u64);
        store.record(&requests(1, at, 1)).unwrap();
        store.record(&requests(1, at, 1)).unwrap();
    }
    let store = file.open();
    let minutes: Vec<_> = store.usage(None, NOW, 99).unwrap();
    let minutes: Vec<_> = minutes
        .iter()
        .map(|usage| usage.at.minute() - NOW.minute())
        .collect();
    assert_eq!(minutes, [0, 0, 1, 1, 2, 2, 3, 3]);
    let read = store.database().begin_read().unwrap();
    assert!(
        ::redb::ReadableTableMetadata::is_empty(&read.open_table(USAGE_BLOCKS).unwrap()).unwrap()
    );
}

#[test]
fn full_blocks_replace_their_pieces() {
    use ::redb::ReadableTableMetadata;

    let file = File::new();
    let store = with_keys(&file, 1);
    let mut expected = 0;
    // About 6 bytes a row: about 3 blocks, across and within batches.
    for size in [10_000, 1, 5_000, 20_000, 7] {
        store.record(&requests(1, after(expected), size)).unwrap();
        expected += size as u64;
        let usage = store.usage(None, NOW, usize::MAX).unwrap();
        assert_eq!(usage.len() as u64, expected);
    }
    let read = store.database().begin_read().unwrap();
    let blocks = read.open_table(USAGE_BLOCKS).unwrap();
    let times = read.open_table(USAGE_TIMES).unwrap();
    assert_eq!(blocks.len().unwrap(), 3 + 1);
    assert_eq!(times.len().unwrap(), 3);
    assert!(read.open_table(USAGE_OPEN).unwrap().len().unwrap() <= 2);
    // Rows of the last block are found without reading earlier ones.
    assert_eq!(
        store.usage(None, after(15_001), usize::MAX).unwrap().len(),
        20_007
    );
}

#[test]
fn a_failed_batch_changes_nothing_and_the_next_is_readable() {
    let file = File::new();
    let store = with_keys(&file, 2);
    store.record(&batch([(event(1, NOW), "/first")])).unwrap();
    let before = store.totals(NOW).unwrap();

    let set_activity = |bytes: &[u8]| {
        let write = store.database().begin_write().unwrap();
        write
            .open_table(ACTIVITY)
            .unwrap()
            .insert(2, bytes)
            .unwrap();
        write.commit().unwrap();
    };
    set_activity(b"nonsense");
    let failed = store.record(&batch([
        (event(1, NOW), "/lost"),
        (event(2, NOW), "/lost too"),
    ]));
    assert!(matches!(failed, Err(StoreError::Damaged(_))));
    assert_eq!(store.totals(NOW).unwrap(), before);

    set_activity(&Record::encode(&Activity::default()).unwrap());
    store
        .record(&batch([
            (event(1, NOW), "/second"),
            (event(2, NOW), "/lost"),
        ]))
        .unwrap();
    let paths: Vec<_> = store.usage(None, NOW, 9).unwrap();
    let paths: Vec<_> = paths.iter().map(|usage| usage.path.as_str()).collect();
    assert_eq!(paths, ["/first", "/second", "/lost"]);
    assert_eq!(store.totals(NOW).unwrap().all_time.requests, 3);
}

#[test]
fn windows_are_kept_until_they_end() {
    let file = File::new();
    let store = with_keys(&file, 2);
    let (one, two) = (SubjectId::key(KeyId(1)), SubjectId::key(KeyId(2)));
    let window = |at| {
        let minute = Period::Sliding(WindowLength::MINUTE);
        vec![counter(minute, SavedValue::Hits(vec![(at, 3)]))]
    };
    let save = |id, at| {
        let mut windows = std::iter::once((id, window(at)));
        store.save_windows(&mut windows).unwrap();
    };
    save(one, NOW);
    store.delete_ended_windows(NOW).unwrap();
    save(two, after(1));
    assert_eq!(store.counters(one).unwrap(), window(NOW));
    store.delete_ended_windows(after(1)).unwrap();
    assert_eq!(store.counters(one).unwrap(), []);
    assert_eq!(store.counters(two).unwrap(), window(after(1)));
    let counter = window(NOW).remove(0).id;
    store
        .delete_counters(&[(two, counter)], &audit_context())
        .unwrap();
    assert_eq!(store.counters(two).unwrap(), []);
}

#[test]
fn ended_hours_and_days_are_kept_per_key() {
    let file = File::new();
    let store = with_keys(&file, 2);
    // Hours 0, 1, again 0 (late), 25; within and across batches.
    store
        .record(&batch([
            (event(1, NOW), ""),
            (event(1, after(60)), ""),
            (event(2, NOW), ""),
        ]))
        .unwrap();
    store.record(&requests(1, NOW, 2)).unwrap();
    store.record(&requests(1, after(25 * 60), 1)).unwrap();

    let read = store.database().begin_read().unwrap();
    let rows = |table| -> BTreeMap<(u64, u64), u64> {
        let table = read.open_table::<(u64, u64), &[u8]>(table).unwrap();
        let rows = ::redb::ReadableTable::iter(&table).unwrap().map(|row| {
            let (key, value) = row.unwrap();
            let count: Count = Record::decode(value.value()).unwrap();
            (key.value(), count.requests)
        });
        rows.collect()
    };
    let hour = NOW.hour();
    assert_eq!(
        rows(KEY_HOURS),
        BTreeMap::from([((hour, 1), 3), ((hour + 1, 1), 1)])
    );
    assert_eq!(
        rows(KEY_DAYS),
        BTreeMap::from([((1, NOW.unix_millis() / 86_400_000), 4)])
    );
}

#[test]
fn pruning_deletes_data_past_its_retention() {
    use ::redb::ReadableTableMetadata;

    let file = File::new();
    let store = with_keys(&file, 1);
    let day = 24 * 60;
    store.record(&requests(1, NOW, 20_000)).unwrap();
    store.record(&requests(1, after(60), 1)).unwrap();
    let rows = |store: &RedbStore| {
        let read = store.database().begin_read().unwrap();
        [
            read.open_table(USAGE_BLOCKS).unwrap().len().unwrap(),
            read.open_table(USAGE_TIMES).unwrap().len().unwrap(),
            read.open_table(USAGE_OPEN).unwrap().len().unwrap(),
            read.open_table(MINUTES).unwrap().len().unwrap(),
            read.open_table(KEY_HOURS).unwrap().len().unwrap(),
        ]
    };
    let all = rows(&store);
    assert_eq!(all, [2 + 1, 2, 2, 2, 1]);
    store.prune(NOW, after(60)).unwrap();
    assert_eq!(rows(&store), all, "nothing is due");

    store.prune(after(1), after(2 * day + 1)).unwrap();
    assert_eq!(rows(&store), [1, 0, 2, 1, 1]);
    assert!(
        !store.usage(None, NOW, 9).unwrap().is_empty(),
        "the growing block has a later row"
    );

    store.prune(after(61), after(90 * day)).unwrap();
    assert_eq!(rows(&store), [1, 0, 0, 0, 1]);
    assert_eq!(store.usage(None, NOW, 9).unwrap(), []);
    store.record(&requests(1, after(91 * day), 1)).unwrap();
    assert_eq!(store.usage(None, NOW, 9).unwrap().len(), 1);

    assert_eq!(rows(&store)[4], 2, "the hour that ended with this request");
    store.prune(NOW, after(91 * day)).unwrap();
    assert_eq!(rows(&store)[4], 0);
    let totals = store.totals(after(91 * day)).unwrap();
    assert_eq!(totals.all_time.requests, 20_002);
}

/// Returns the size of the pages of ten blocks of `len` bytes.
fn pages_of_blocks(len: usize) -> u64 {
    use ::redb::ReadableTableMetadata;

    let db = ::redb::Database::builder()
        .create_with_backend(::redb::backends::InMemoryBackend::new())
        .unwrap();
    let write = db.begin_write().unwrap();
    let mut blocks = write.open_table(USAGE_BLOCKS).unwrap();
    for number in 0..10 {
        blocks.insert(number, vec![7; len].as_slice()).unwrap();
    }
    let stats = blocks.stats().unwrap();
    stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes()
}

#[test]
fn a_full_block_exactly_fits_its_page() {
    // Ten pages of 64 KiB and the one of 4 KiB that lists them.
    assert_eq!(pages_of_blocks(CAPACITY), 10 * 65_536 + 4_096);
    assert!(pages_of_blocks(CAPACITY + 1) > 10 * 100_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn batches_are_counted_once_each(
        batches in prop::collection::vec(
            prop::collection::vec((1..=30_u64, 0..200_u64, any::<bool>()), 0..40),
            1..8,
        ),
        reopen_at in 0..8_usize,
    ) {
        let file = File::new();
        let mut store = with_keys(&file, 30);
        let mut per_key = BTreeMap::new();
        let mut expected = Count::default();
        let mut last_hour = 0;
        for (n, events) in batches.iter().enumerate() {
            if n == reopen_at {
                drop(store);
                store = file.open();
            }
            store.record(&batch(events.iter().map(|&(key, minute, failed)| {
                let status = if failed { 404 } else { 200 };
                (UsageEvent { status, ..event(key, after(minute)) }, "/p")
            }))).unwrap();
            for &(key, minute, failed) in events {
                *per_key.entry(key).or_insert(0_u64) += 1;
                expected.add(Count { requests: 1, errors: failed.into() });
                last_hour += u64::from(minute >= 140);
            }
        }
        let totals = store.totals(after(200)).unwrap();
        prop_assert_eq!(totals.all_time, expected);
        prop_assert_eq!(totals.last_hour.requests, last_hour);
        prop_assert_eq!(store.usage(None, NOW, usize::MAX).unwrap().len() as u64, expected.requests);
        let mut naive: Vec<_> = per_key.into_iter().collect();
        naive.sort_by_key(|&(key, requests)| (std::cmp::Reverse(requests), key));
        naive.truncate(10);
        let top: Vec<_> = totals.top_keys.iter().map(|(key, _, n)| (key.id.0, *n)).collect();
        prop_assert_eq!(top, naive);
    }
}

#[test]
fn windows_of_many_keys_are_stored_in_parts() {
    let file = File::new();
    let store = with_keys(&file, 1);
    let period = Period::Sliding(WindowLength::MINUTE);
    let hits =
        |n: u64| (0..60).map(move |second| (NOW.plus(Duration::from_secs(second)), n as u32 + 1));
    let window = |n| vec![counter(period, SavedValue::Hits(hits(n).collect()))];
    // In no order, like those of the limiter.
    let ids = (0..20_000_u64).map(|n| n.wrapping_mul(7_919) % 20_000);
    let before = fs::metadata(&file.path).unwrap().len();
    let since = std::time::Instant::now();
    store
        .save_windows(&mut ids.map(|n| (SubjectId::key(KeyId(n)), window(n))))
        .unwrap();
    println!(
        "{:?}, {} bytes",
        since.elapsed(),
        fs::metadata(&file.path).unwrap().len() - before
    );
    for n in [0, 1, 12_345, 19_999] {
        assert_eq!(store.counters(SubjectId::key(KeyId(n))).unwrap(), window(n));
    }
}
