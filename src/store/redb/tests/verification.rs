//! Damage at every place of a file: what is found, what is named, and what it costs.

use std::collections::BTreeSet;
use std::io::{Seek, SeekFrom, Write};
use std::sync::LazyLock;

use super::altered::outcomes;
use super::*;
use crate::store::codec::data_file::BLOCK;
use crate::store::{Damage, Verification};

const KEYS_IN_FILE: u64 = 200;
const BATCHES: u64 = 12;
const BATCH: usize = 4_000;

/// A closed file, and what is found when one of its pages is altered; `None` if it is refused.
pub(super) struct Original {
    pub(super) bytes: Vec<u8>,
    pub(super) found: Vec<(usize, Option<Verification>)>,
}

pub(super) static ORIGINAL: LazyLock<Original> = LazyLock::new(|| {
    let file = File::new();
    let store = with_keys(&file, KEYS_IN_FILE);
    for minute in 0..BATCHES {
        store.record(&requests(1, after(minute), BATCH)).unwrap();
    }
    store.revoke(KeyId(2));
    drop(store);
    let bytes = fs::read(&file.path).unwrap();
    let pages = 1..bytes.len() / BLOCK;
    let found = pages.map(|page| {
        let damaged = damaged(&bytes, &[page]);
        let found = verify(&damaged);
        let kept = fs::read(&damaged.path).unwrap();
        assert!(kept == altered(&bytes, &[page]), "page {page} is changed");
        let refused = |error: &OpenError| matches!(error, OpenError::Damaged { .. });
        assert!(found.as_ref().err().is_none_or(refused), "{found:?}");
        (page, found.ok())
    });
    Original {
        found: found.collect(),
        bytes,
    }
});

impl Original {
    /// Pages whose damage costs only rows of this table, one for each loss.
    fn pages(&self, table: &str) -> Vec<(usize, &Damage)> {
        let mut lost = BTreeSet::new();
        let only = self.found.iter().filter_map(|(page, found)| {
            let [damage] = found.as_ref()?.damage.as_slice() else {
                return None;
            };
            (damage.table == table).then_some((*page, damage))
        });
        let mut pages: Vec<_> = only
            .filter(|(_, damage)| lost.insert(damage.lost.clone()))
            .collect();
        pages.sort_by_key(|(_, damage)| damage.lost.clone());
        pages
    }
}

/// Pages of the full blocks of usage, in the order of recording.
pub(super) fn full_blocks() -> Vec<(usize, &'static Damage)> {
    let mut pages = ORIGINAL.pages("usage blocks");
    pages.retain(|(_, damage)| damage.lost.starts_with("requests from 20"));
    pages
}

fn verify(file: &File) -> Result<Verification, OpenError> {
    RedbStore::verify_file(&file.path)
}

pub(super) fn altered(bytes: &[u8], pages: &[usize]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for page in pages {
        // Also the used part of a header.
        bytes[page * BLOCK + 100] ^= 1;
        bytes[page * BLOCK + 1_000] ^= 1;
    }
    bytes
}

pub(super) fn damaged(bytes: &[u8], pages: &[usize]) -> File {
    let file = File::new();
    fs::write(&file.path, altered(bytes, pages)).unwrap();
    file
}

pub(super) fn all_usage(store: &RedbStore) -> Result<usize, StoreError> {
    Ok(store.usage(None, NOW, usize::MAX)?.len())
}

pub(super) const ALL: usize = BATCHES as usize * BATCH;

#[test]
fn sound_file_is_verified_without_changing_it() {
    let file = damaged(&ORIGINAL.bytes, &[]);
    let found = verify(&file).unwrap();
    assert_eq!(found.damage, []);
    assert!(found.rows > KEYS_IN_FILE * 5, "{}", found.rows);
    assert!(fs::read(&file.path).unwrap() == ORIGINAL.bytes);

    let store = file.open();
    assert_eq!(store.verify().unwrap(), found);
    assert!(matches!(verify(&file), Err(OpenError::InUse { .. })));
    // As after a kill.
    assert_eq!(verify(&file.killed()).unwrap(), found);
}

#[test]
fn a_copy_needs_no_free_space() {
    let found = ORIGINAL.found.iter();
    let pages = found.filter_map(|(page, found)| {
        let [damage] = found.as_ref()?.damage.as_slice() else {
            return None;
        };
        (damage.table == "free space").then_some(page)
    });
    let mut copied = 0;
    for page in pages {
        let file = damaged(&ORIGINAL.bytes, &[*page]);
        let copy = File::new();
        let progress = CopyProgress::default();
        file.open().backup(&copy.path, &progress).unwrap();
        assert!(verify(&copy).unwrap().is_sound(), "page {page}");
        copied += 1;
    }
    assert!(copied > 0);
}

#[test]
fn damaged_page_of_checksums_costs_nothing() {
    let found = ORIGINAL.found.iter();
    let of_checksums = found.filter(|(page, _)| [5, 6].contains(page));
    for (page, found) in of_checksums {
        assert!(found.as_ref().unwrap().is_sound(), "page {page}");
        let file = damaged(&ORIGINAL.bytes, &[*page]);
        let store = file.open();
        assert_eq!(all_usage(&store).unwrap(), ALL);
        store.add_org("next");
    }
}

#[test]
fn damage_anywhere_is_found_and_costs_what_is_in_it() {
    let sound = damaged(&ORIGINAL.bytes, &[]);
    let expected = outcomes(&sound.open());
    let (mut refused, mut without_loss, mut with_loss) = (0, 0, 0);
    for (page, found) in &ORIGINAL.found {
        let file = damaged(&ORIGINAL.bytes, &[*page]);
        let Some(found) = found else {
            assert!(matches!(open(&file.path), Err(OpenError::Damaged { .. })));
            refused += 1;
            continue;
        };
        let Ok(store) = open(&file.path) else {
            // The fingerprint of the secret is lost.
            assert_eq!(found.damage[0].table, "keyguard");
            refused += 1;
            continue;
        };
        let now = outcomes(&store);
        let is_lost = found.damage.iter().any(|damage| damage.rows != Some(0));
        for (at, (now, expected)) in now.iter().zip(&expected).enumerate() {
            // A listing of requests omits damaged blocks.
            let is_shorter = is_lost && at == 4;
            let is_same = now == expected || is_lost && (now.is_err() || is_shorter);
            assert!(is_same, "page {page}: {now:?}");
        }
        match is_lost {
            true => with_loss += 1,
            false => {
                without_loss += 1;
                assert_eq!(all_usage(&store).unwrap(), ALL);
            }
        }
    }
    println!("refused {refused}, without loss {without_loss}, with loss {with_loss}");
    assert!(refused > 0 && without_loss > 0 && with_loss > 50);
}

/// Resolves a key. After damage, look-ups fail until another thread has reopened the file.
fn resolve_when_reopened(store: &RedbStore, n: u64) -> Result<Option<Resolved>, StoreError> {
    loop {
        match resolve(store, n) {
            Err(StoreError::Unavailable(_)) => std::thread::yield_now(),
            resolved => return resolved,
        }
    }
}

/// Exactly the named keys are lost, and none is taken for unknown.
#[test]
fn lost_keys_are_named_and_never_guessed() {
    let ids = |lost: &str| {
        let spans = lost.rsplit("keys ").next().unwrap().split(", ");
        let span = |span: &str| {
            let ends: Vec<u64> = span.split(" to ").map(|id| id.parse().unwrap()).collect();
            ends[0]..=*ends.last().unwrap()
        };
        spans.flat_map(span).collect::<BTreeSet<u64>>()
    };
    for table in ["keys", "credentials"] {
        let pages = ORIGINAL.pages(table);
        let is_index = |damage: &Damage| damage.lost.ends_with(" and more");
        let (index, leaves): (Vec<_>, Vec<_>) =
            pages.into_iter().partition(|(_, damage)| is_index(damage));
        assert_eq!(index.len(), 1, "{table}");
        assert!(leaves.len() > 2, "{table}: {leaves:?}");
        for (page, damage) in leaves {
            let lost = ids(&damage.lost);
            assert_eq!(damage.rows, Some(lost.len() as u64), "{damage:?}");
            let file = damaged(&ORIGINAL.bytes, &[page]);
            let store = file.open();
            for n in 1..=KEYS_IN_FILE {
                match resolve_when_reopened(&store, n) {
                    Err(StoreError::Damaged(_)) => assert!(lost.contains(&n), "key {n}"),
                    found => {
                        assert_eq!(found.unwrap().unwrap().key.id, KeyId(n));
                        assert!(!lost.contains(&n), "key {n}");
                    }
                }
            }
        }
    }
}

#[test]
fn damaged_blocks_of_usage_are_skipped_and_counted() {
    let blocks = full_blocks();
    assert!(blocks.len() > 3, "{blocks:?}");
    for (_, damage) in &blocks {
        assert_eq!(damage.rows, Some(1));
        assert!(damage.problem.contains("was altered"), "{damage:?}");
    }
    let two = [blocks[0].0, blocks[2].0];
    for pages in [&two[..1], &two] {
        let file = damaged(&ORIGINAL.bytes, pages);
        assert_eq!(verify(&file).unwrap().damage.len(), pages.len());
        let store = file.open();
        assert_eq!(store.warnings(), Vec::<String>::new());
        let lost = ALL - all_usage(&store).unwrap();
        let of_one = lost / pages.len();
        assert!((9_000..9_500).contains(&of_one), "{lost} lost");
        let warnings = store.warnings();
        let count = format!("could not be read: {};", pages.len());
        assert!(warnings[0].contains(&count), "{warnings:?}");
        // Rows before and behind.
        let listed = store.usage(None, after(BATCHES - 1), usize::MAX).unwrap();
        assert_eq!(listed.len(), BATCH);
        assert_eq!(store.usage(None, NOW, 10).unwrap().len(), 10);
        // Recording goes on.
        store.record(&requests(1, after(BATCHES), BATCH)).unwrap();
        assert_eq!(all_usage(&store).unwrap(), ALL + BATCH - lost);
    }
}

/// Each reading of a damaged block ends with the file being opened again.
#[test]
fn known_damaged_blocks_of_usage_are_not_read_again() {
    let file = damaged(&ORIGINAL.bytes, &[full_blocks()[0].0]);
    let store = file.open();
    let left = all_usage(&store).unwrap();
    assert!(left < ALL);
    let opened = store.database();
    for _ in 0..3 {
        assert_eq!(all_usage(&store).unwrap(), left);
    }
    assert!(Arc::ptr_eq(&opened, &store.database()));
}

#[test]
fn damaged_blocks_of_usage_are_forgotten_after_their_retention() {
    let blocks = full_blocks();
    for (page, _) in &blocks[..3] {
        let file = damaged(&ORIGINAL.bytes, &[*page]);
        let store = file.open();
        let (before, kept) = (after(BATCHES - 1), all_usage(&store).unwrap());
        store.prune(before, before).unwrap();
        let left = all_usage(&store).unwrap();
        assert!(left >= BATCH && left < kept, "{left}");
        store.prune(after(BATCHES), after(BATCHES)).unwrap();
        assert_eq!(all_usage(&store).unwrap(), 0);
        assert_eq!(store.fault(), None);
    }
}

#[test]
fn blocks_of_usage_are_added_behind_a_damaged_one() {
    let blocks = full_blocks();
    let (page, _) = blocks.last().unwrap();
    let file = damaged(&ORIGINAL.bytes, &[*page]);
    let store = file.open();
    let left = all_usage(&store).unwrap();
    for n in 1..=5 {
        store.record(&requests(1, after(BATCHES), BATCH)).unwrap();
        assert_eq!(all_usage(&store).unwrap(), left + n * BATCH);
    }
    assert_eq!(store.fault(), None);
}

#[test]
fn damaged_growing_block_is_set_aside() {
    let pages = ORIGINAL.pages("usage open");
    let (page, damage) = pages[0];
    assert_eq!(damage.lost, "the latest requests");
    let file = damaged(&ORIGINAL.bytes, &[page]);
    let store = file.open();
    let left = all_usage(&store).unwrap();
    assert!(left > ALL - 9_500 && left < ALL, "{left}");
    assert!(store.warnings()[0].contains("could not be read: 1;"));

    for n in 1..=2 {
        store.record(&requests(1, after(BATCHES), 5)).unwrap();
        assert_eq!(all_usage(&store).unwrap(), left + 5 * n);
    }
    assert_eq!(store.fault(), None);
    assert_eq!(
        store.totals(after(BATCHES)).unwrap().all_time.requests,
        ALL as u64 + 10
    );
    drop(store);
    let found = verify(&file).unwrap();
    assert_eq!(found.damage[0].table, "damaged 1 usage open", "{found:?}");
    assert_eq!(all_usage(&file.open()).unwrap(), left + 10);

    let copied = RedbStore::compact_file(&file.path, &CopyProgress::default()).unwrap();
    assert_eq!((copied.tables_set_aside, copied.lost_blocks), (1, 0));
    assert!(verify(&file).unwrap().is_sound());
    assert_eq!(all_usage(&file.open()).unwrap(), left + 10);
}

/// Regression: without the number of the next block, no requests were stored any more.
#[test]
fn damage_in_the_tables_of_usage_stops_no_storing() {
    let of_usage = |found: &Verification| {
        let mut tables = found.damage.iter().map(|damage| damage.table.as_str());
        !found.is_sound() && tables.all(|table| table.starts_with("usage "))
    };
    let mut seen = BTreeSet::new();
    for (page, found) in &ORIGINAL.found {
        let Some(found) = found.as_ref().filter(|found| of_usage(found)) else {
            continue;
        };
        let lost = found.damage.iter().map(|damage| damage.lost.as_str());
        if !seen.insert(lost.collect::<Vec<_>>()) {
            continue;
        }
        let file = damaged(&ORIGINAL.bytes, &[*page]);
        let store = file.open();
        for n in 1..=2 {
            let stored = store.record(&requests(1, after(BATCHES + n), 10_000));
            assert!(stored.is_ok(), "page {page}: {stored:?}, {found:?}");
        }
        assert_eq!(store.fault(), None);
        let since = |store: &RedbStore, minute| {
            let listed = store.usage(None, after(minute), usize::MAX);
            listed.unwrap().len()
        };
        assert_eq!(since(&store, BATCHES), 20_000, "page {page}: {found:?}");
        let left = since(&store, 0);
        let all = store.totals(after(BATCHES + 3)).unwrap().all_time;
        assert_eq!(all.requests as usize, ALL + 20_000);
        drop(store);
        let store = file.open();
        assert_eq!(since(&store, 0), left, "page {page}: {found:?}");
        let lost = ALL + 20_000 - left;
        println!("page {page}: {lost} requests lost, {:?}", found.damage);
        assert!(
            lost < 9_500 * found.damage.len(),
            "page {page}: {lost}, {found:?}"
        );
        store
            .record(&requests(1, after(BATCHES + 3), 10_000))
            .unwrap();
        assert_eq!(since(&store, 0), left + 10_000);
    }
    assert!(seen.len() > 5, "{seen:?}");
}

/// The pages in the cache of the open database are those before the damage.
#[test]
fn damage_beneath_an_open_file_is_found() {
    let (page, damage) = ORIGINAL.pages("keys")[0];
    let file = damaged(&ORIGINAL.bytes, &[]);
    let store = file.open();
    assert_eq!(store.verify().unwrap().damage, []);
    let keys = store.keys(None, None, 1_000).unwrap();
    let flip = |byte: u8| {
        let mut opened = fs::OpenOptions::new().write(true).open(&file.path).unwrap();
        let at = page * BLOCK + 1_000;
        opened.seek(SeekFrom::Start(at as u64)).unwrap();
        opened.write_all(&[ORIGINAL.bytes[at] ^ byte]).unwrap();
    };
    flip(1);
    let found = store.verify().unwrap();
    assert_eq!(found.damage, std::slice::from_ref(damage));
    assert_eq!(store.keys(None, None, 1_000).unwrap(), keys);
    store.add_org("next");
    assert_eq!(store.verify().unwrap().damage, found.damage);
    flip(0);
    assert_eq!(store.verify().unwrap().damage, []);
}

/// Regression: changes were refused because of a page that contains no rows, and the verification found nothing.
#[test]
fn damage_that_only_changes_meet_is_named_with_the_next_step() {
    let mut refused = 0;
    for (page, found) in &ORIGINAL.found {
        let mut found = found.iter().flat_map(|found| &found.damage);
        let Some(damage) = found.find(|damage| damage.table == "free space") else {
            continue;
        };
        let file = damaged(&ORIGINAL.bytes, &[*page]);
        let store = file.open();
        let created = (0..5).map(|n| store.create_org(&format!("org {n}"), &audit_context()));
        if created.filter_map(Result::err).count() == 0 {
            continue;
        }
        refused += 1;
        assert!(store.fault().is_some());
        assert_eq!(store.verify().unwrap().damage, std::slice::from_ref(damage));
        assert!(damage.lost.contains("run `keyguard compact`"), "{damage:?}");
        drop(store);
        RedbStore::compact_file(&file.path, &CopyProgress::default()).unwrap();
        file.open().add_org("next");
    }
    assert!(refused > 0);
}

fn overwrite_first_bytes(file: &File) {
    let mut opened = fs::OpenOptions::new().write(true).open(&file.path).unwrap();
    opened.write_all(&[0; BLOCK]).unwrap();
}

/// Regression: nothing noticed it while the file was open, and then it was refused as that of another program.
#[test]
fn first_bytes_that_were_altered_beneath_an_open_file_are_written_again() {
    let works: [fn(&RedbStore); 3] = [
        |store| {
            let found = store.verify().unwrap().damage;
            assert_eq!((found.len(), found[0].table.as_str()), (1, "first bytes"));
            assert_eq!(found[0].rows, Some(0));
        },
        |store| store.recover(false),
        |store| drop(store.add_org("next")),
    ];
    for work in works {
        let file = damaged(&ORIGINAL.bytes, &[]);
        let store = file.open();
        overwrite_first_bytes(&file);
        work(&store);
        assert_eq!(
            fs::read(&file.path).unwrap()[..BLOCK],
            ORIGINAL.bytes[..BLOCK]
        );
        let warnings = store.warnings();
        assert!(warnings[0].contains("first bytes"), "{warnings:?}");
        assert!(store.verify().unwrap().is_sound());
        drop(store);
        assert_eq!(all_usage(&file.open()).unwrap(), ALL);
    }
}

#[test]
fn closed_file_with_altered_first_bytes_is_damaged_and_not_foreign() {
    let file = damaged(&ORIGINAL.bytes, &[]);
    overwrite_first_bytes(&file);
    let before = fs::read(&file.path).unwrap();
    let to = File::new();
    let copied = RedbStore::back_up_file(&file.path, &to.path, &CopyProgress::default());
    for refused in [verify(&file).err(), open(&file.path).err(), copied.err()] {
        let Some(OpenError::Damaged { source, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(source.to_string(), "its first bytes were altered");
    }
    assert!(fs::read(&file.path).unwrap() == before);
}

#[test]
fn changes_during_a_verification_are_no_damage() {
    let file = damaged(&ORIGINAL.bytes, &[]);
    let store = file.open();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for n in 0..100 {
                store.revoke(KeyId(1 + n % KEYS_IN_FILE));
                store.record(&requests(1, after(n), 500)).unwrap();
            }
            is_done.store(true, Ordering::SeqCst);
        });
        while !is_done.load(Ordering::SeqCst) {
            assert_eq!(store.verify().unwrap().damage, []);
        }
    });
}
