//! Data files that another program deletes, replaces, truncates or overwrites while they are open.

use std::time::Duration;

use super::disk::Failure;
use super::faults::{refused, world};
use super::*;

#[test]
fn the_file_stays_locked_while_it_is_reopened() {
    let file = File::new();
    let store = with_keys(&file, 1);
    store.database().fail();
    assert!(matches!(open(&file.path), Err(OpenError::InUse { .. })));
    store.add_org("other");
    assert!(matches!(open(&file.path), Err(OpenError::InUse { .. })));
    drop(store);
    assert_eq!(open(&file.path).unwrap().totals(NOW).unwrap().orgs, 2);
}

#[test]
fn an_older_copy_of_the_open_file_takes_no_changes() {
    let (_file, disk, _, store) = world();
    let older = disk.sim().cache.clone();
    store.revoke(KeyId(1));
    store.revoke(KeyId(2));
    disk.sim().cache = older;
    disk.fail(0, Failure::Once);
    let _ = store.revoke_key(KeyId(3), &audit_context());
    disk.heal();
    store.recover(true);
    assert!(store.fault().is_some());
    refused(store.revoke_key(KeyId(3), &audit_context()));
}

#[test]
fn a_deleted_or_replaced_file_takes_no_changes_until_it_is_restored() {
    let file = File::new();
    let clock = ManualClock::starting_at(NOW);
    let store = RedbStore::open(&file.path, SECRET, &clock.clone().into(), CACHE).unwrap();
    let away = file.path.with_extension("away");
    fs::rename(&file.path, &away).unwrap();
    let refusal = refused(store.create_org("lost", &audit_context()));
    assert!(refusal.contains("deleted or moved away"), "{refusal}");

    fs::write(&file.path, b"another").unwrap();
    clock.advance(Duration::from_secs(5));
    let refusal = refused(store.create_org("lost", &audit_context()));
    assert!(refusal.contains("another file has replaced"), "{refusal}");
    assert_eq!(fs::read(&file.path).unwrap(), b"another");
    assert_eq!(store.totals(NOW).unwrap().orgs, 0);

    fs::rename(&away, &file.path).unwrap();
    clock.advance(Duration::from_secs(5));
    store.recover(false);
    assert_eq!(store.fault(), None);
    store.add_org("acme");

    // Detected without a change too.
    fs::remove_file(&file.path).unwrap();
    store.recover(false);
    assert!(store.fault().unwrap().contains("deleted or moved away"));
}

#[test]
fn a_truncated_or_overwritten_file_takes_no_changes_until_it_is_restored() {
    type Damage = fn(&Path, older: &[u8]);
    let damages: [Damage; 4] = [
        |path, _| fs::write(path, b"").unwrap(),
        |path, _| fs::write(path, b"something else\n".repeat(1_000_000)).unwrap(),
        |path, older| fs::write(path, older).unwrap(),
        |path, _| {
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        },
    ];
    for damage in damages {
        let file = File::new();
        let clock = ManualClock::starting_at(NOW);
        drop(with_keys(&file, 2));
        let store = RedbStore::open(&file.path, SECRET, &clock.clone().into(), CACHE).unwrap();
        store.add_org("one");
        let older = fs::read(&file.path).unwrap();
        store.add_org("two");
        let sound = fs::read(&file.path).unwrap();

        damage(&file.path, &older);
        let damaged = fs::read(&file.path).unwrap();
        let refusal = refused(store.revoke_key(KeyId(1), &audit_context()));
        assert!(refusal.contains("truncated or overwritten"), "{refusal}");
        assert!(store.fault().unwrap().contains("truncated or overwritten"));
        assert!(fs::read(&file.path).unwrap() == damaged);

        fs::write(&file.path, &sound).unwrap();
        clock.advance(Duration::from_secs(5));
        store.recover(false);
        assert_eq!(store.fault(), None);
        store.revoke(KeyId(1));

        // Detected without a change too, and closing does not write to it.
        damage(&file.path, &older);
        let damaged = fs::read(&file.path).unwrap();
        store.recover(false);
        assert!(store.fault().unwrap().contains("truncated or overwritten"));
        drop(store);
        assert!(fs::read(&file.path).unwrap() == damaged);
    }
}
