use super::*;
use crate::lockout::LockCause;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_millis(1_000 * seconds)
}

fn lock(ip: &str, scope: LockScope, until: u64) -> Lock {
    Lock {
        ip: ip.parse().unwrap(),
        scope,
        cause: LockCause::BadKeys,
        since: at(0),
        until: at(until),
        step: 0,
        remembered_until: at(until),
    }
}

fn is_locked(locks: &Locks, ip: &str, target: &str, now: u64) -> bool {
    let applies = |scope: &LockScope| match scope {
        LockScope::All => true,
        LockScope::Keyless | LockScope::IpLimit(_) => false,
        LockScope::Path(path) => path == target,
    };
    let lock_status = locks.lock_status(ip.parse().unwrap(), applies, || at(now));
    lock_status.is_some_and(|lock_status| *lock_status != LockStatus::default())
}

#[test]
fn locks_end_by_themselves() {
    let locks = Locks::new(16);
    assert!(locks.add(lock("192.0.2.1", LockScope::All, 10), at(0)));
    assert!(is_locked(&locks, "192.0.2.1", "/", 9));
    assert!(!is_locked(&locks, "192.0.2.1", "/", 10));
    assert!(!is_locked(&locks, "192.0.2.2", "/", 9));
    locks.expire(at(10));
    assert_eq!(locks.len(), 0);
}

#[test]
fn a_path_lock_refuses_one_path() {
    let locks = Locks::new(16);
    let login = LockScope::Path("/login".into());
    locks.add(lock("192.0.2.1", login.clone(), 10), at(0));
    assert!(is_locked(&locks, "192.0.2.1", "/login", 1));
    assert!(!is_locked(&locks, "192.0.2.1", "/logins", 1));
    let ip_key: IpKey = "192.0.2.1".parse().unwrap();
    assert!(
        locks
            .remove(ip_key, |scope| *scope == LockScope::All, &[])
            .is_empty()
    );
    assert_eq!(locks.remove(ip_key, |scope| *scope == login, &[]).len(), 1);
    assert!(!is_locked(&locks, "192.0.2.1", "/login", 1));
}

fn manual(ip: &str, until: u64) -> Lock {
    Lock {
        cause: LockCause::Manual,
        ..lock(ip, LockScope::All, until)
    }
}

/// Regression: the two were one manual lock that lasted as long as the longer one.
#[test]
fn manual_and_automatic_locks_end_independently() {
    let automatic = lock("192.0.2.1", LockScope::All, 20);
    let manual = manual("192.0.2.1", 10);
    for order in [[&automatic, &manual], [&manual, &automatic]] {
        let added = Locks::new(16);
        // As another node hears of it.
        let adopted = Locks::new(16);
        for lock in order {
            assert!(added.add(lock.clone(), at(0)));
            assert!(adopted.apply(LockChange::put(lock.clone()), at(0)));
        }
        for locks in [added, adopted] {
            assert_eq!(locks.get(&manual.id()), Some(manual.clone()));
            let lock_status = locks.lock_status(manual.ip, |_| true, || at(1)).unwrap();
            let ends = (lock_status.manual, lock_status.auth_failures);
            assert_eq!(ends, (Some(at(10)), Some(at(20))));
            assert_eq!(locks.remove(manual.ip, |_| true, &[]).len(), 2);
        }
    }
}

/// Regression: a lock that was stored late took the place of one that began after it had ended.
#[test]
fn of_disjoint_locks_the_later_one_wins() {
    let earlier = manual("192.0.2.1", 20);
    let later = Lock {
        since: at(20),
        until: at(30),
        ..earlier.clone()
    };
    assert_eq!(earlier.clone().joined(&later), later);
    assert_eq!(later.clone().joined(&earlier), later);
}

#[test]
fn a_manual_lock_refuses_beside_a_longer_automatic_one() {
    let locks = Locks::new(16);
    locks.add(lock("192.0.2.1", LockScope::All, 20), at(0));
    let manual = Lock {
        cause: LockCause::Manual,
        ..lock("192.0.2.1", LockScope::Path("/login".into()), 10)
    };
    locks.add(manual, at(0));
    let ip_key = "192.0.2.1".parse().unwrap();
    let lock_status = locks.lock_status(ip_key, |_| true, || at(1)).unwrap();
    assert_eq!(
        (lock_status.manual, lock_status.auth_failures),
        (Some(at(10)), Some(at(20)))
    );
}

#[test]
fn a_lock_of_a_limit_stays_one_beside_auth_failures() {
    let failures = lock("192.0.2.1", LockScope::All, 20);
    let limit = Lock {
        cause: LockCause::IpLimit("login".into()),
        ..lock("192.0.2.1", LockScope::All, 10)
    };
    for order in [[&failures, &limit], [&limit, &failures]] {
        let locks = Locks::new(16);
        for lock in order {
            locks.add(lock.clone(), at(0));
        }
        let lock_status = locks.lock_status(limit.ip, |_| true, || at(1)).unwrap();
        assert_eq!(
            (lock_status.limits, lock_status.auth_failures),
            (Some(at(20)), None)
        );
    }
    // In a family, too.
    let locks = Locks::new(8);
    locks.add(limit, at(0));
    for member in 2..10 {
        let member = lock(&format!("192.0.2.{member}"), LockScope::All, 30);
        assert!(locks.add(member, at(0)));
    }
    let ip_key = "192.0.2.77".parse().unwrap();
    let lock_status = locks.lock_status(ip_key, |_| true, || at(1)).unwrap();
    assert_eq!(
        (lock_status.limits, lock_status.auth_failures),
        (Some(at(30)), None)
    );
}

#[test]
fn the_later_end_counts() {
    let locks = Locks::new(16);
    locks.add(lock("192.0.2.1", LockScope::All, 10), at(0));
    locks.add(lock("192.0.2.1", LockScope::All, 5), at(0));
    assert!(is_locked(&locks, "192.0.2.1", "/", 9));
    locks.add(lock("192.0.2.1", LockScope::All, 20), at(0));
    assert!(is_locked(&locks, "192.0.2.1", "/", 19));
    assert_eq!(locks.len(), 1);
}

#[test]
fn a_full_table_merges_the_largest_family_and_frees_nobody() {
    let locks = Locks::new(20);
    let families = [("192.0.2", 2), ("198.51.100", 8), ("203.0.113", 9)];
    let ips = families.iter().flat_map(|(parent, members)| {
        (0..*members).map(move |member| format!("{parent}.{member}"))
    });
    let ips: Vec<_> = ips.chain(["8.8.8.8".into(), "9.9.9.9".into()]).collect();
    for ip in &ips {
        assert!(locks.add(lock(ip, LockScope::All, 10), at(0)), "{ip}");
    }
    for ip in &ips {
        assert!(is_locked(&locks, ip, "/", 1), "{ip}");
    }
    let is_merged = |ip| is_locked(&locks, ip, "/", 1);
    assert!(is_merged("203.0.113.77"), "the /24 is locked as one");
    assert!(!is_merged("198.51.100.77") && !is_merged("192.0.2.77"));
    assert_eq!(locks.len(), 21 - 8);
    for i in 0..8 {
        assert!(locks.add(lock(&format!("10.0.{i}.1"), LockScope::All, 10), at(0)));
    }
    assert!(is_merged("198.51.100.77"), "the next one");
    for i in 8..14 {
        assert!(locks.add(lock(&format!("10.0.{i}.1"), LockScope::All, 10), at(0)));
    }
    assert!(
        !locks.add(lock("10.1.0.1", LockScope::All, 10), at(0)),
        "two neighbours are no family"
    );
    assert!(!is_merged("192.0.2.77"));
    locks.expire(at(10));
    assert!(
        locks.add(lock("10.1.0.1", LockScope::All, 30), at(10)),
        "the others have ended"
    );
}

#[test]
fn manual_locks_are_not_merged() {
    let locks = Locks::new(9);
    for member in 0..9 {
        let manual = Lock {
            cause: LockCause::Manual,
            ..lock(&format!("192.0.2.{member}"), LockScope::All, 10)
        };
        assert!(locks.add(manual, at(0)));
    }
    assert!(!locks.add(lock("192.0.2.10", LockScope::All, 10), at(0)));
    assert!(!is_locked(&locks, "192.0.2.10", "/", 1));
}

#[test]
fn changes_are_taken_once_in_their_current_state() {
    let locks = Locks::new(16);
    locks.add(lock("192.0.2.1", LockScope::All, 10), at(0));
    locks.add(lock("192.0.2.2", LockScope::All, 10), at(0));
    locks.remove("192.0.2.2".parse().unwrap(), |_| true, &[]);
    let mut changes = locks.take_changes();
    let in_force = |changes: &[LockChange]| {
        let in_force = changes.iter().filter(|change| change.lock.is_some());
        in_force.count()
    };
    assert_eq!((changes.len(), in_force(&changes)), (2, 1));
    locks.remove("192.0.2.1".parse().unwrap(), |_| true, &changes);
    locks.refresh(&mut changes);
    assert_eq!((changes.len(), in_force(&changes)), (2, 0));
    assert!(locks.take_changes().is_empty());
}

/// Regression: a node stored a lock once more after another node had deleted it, or deleted it once more after
/// another node had put it back.
#[test]
fn what_is_stored_already_is_not_stored_again() {
    let locks = Locks::new(16);
    let manual = manual("192.0.2.1", 10);
    locks.put(manual.clone(), at(0));
    assert!(locks.take_changes().is_empty());
    // Added and deleted before it was stored.
    let automatic = lock("192.0.2.1", LockScope::All, 10);
    locks.add(automatic.clone(), at(0));
    let deleted = [&manual, &automatic].map(LockChange::delete);
    assert_eq!(locks.remove(manual.ip, |_| true, &deleted).len(), 2);
    assert!(locks.take_changes().is_empty());
    // One that was added after the others had been deleted.
    locks.put(manual.clone(), at(0));
    locks.add(automatic.clone(), at(0));
    locks.remove(manual.ip, |_| true, &deleted[..1]);
    let changes = locks.take_changes().into_iter();
    assert_eq!(
        changes.map(|change| change.id).collect::<Vec<_>>(),
        [automatic.id()]
    );
}

#[test]
fn a_full_table_is_not_searched_for_every_addition() {
    let locks = Locks::new(2);
    for ip in ["192.0.2.1", "198.51.100.1"] {
        assert!(locks.add(lock(ip, LockScope::All, 10), at(0)));
    }
    assert!(!locks.add(lock("203.0.113.1", LockScope::All, 10), at(1)));
    assert_eq!(*locks.searched_at.lock(), Some(at(1)));
    assert!(!locks.make_room(at(1)), "it was just searched");
    // Room that somebody makes is seen at once.
    locks.remove("192.0.2.1".parse().unwrap(), |_| true, &[]);
    assert!(locks.add(lock("203.0.113.1", LockScope::All, 10), at(1)));
}

/// Regression: it ended with the last lock of the family, and refused addresses that are never locked.
#[test]
fn merging_keeps_manual_locks() {
    let locks = Locks::new(10);
    let manual = manual("192.0.2.0/24", 60);
    assert!(locks.add(manual.clone(), at(0)));
    for member in 0..9 {
        assert!(locks.add(
            lock(&format!("192.0.2.{member}"), LockScope::All, 90),
            at(0)
        ));
    }
    assert!(locks.add(lock("8.8.8.8", LockScope::All, 90), at(0)));
    assert_eq!(locks.get(&manual.id()), Some(manual));
    let client = "192.0.2.77".parse().unwrap();
    let lock_status = locks.lock_status(client, |_| true, || at(1)).unwrap();
    let ends = (lock_status.manual, lock_status.auth_failures);
    assert_eq!(ends, (Some(at(60)), Some(at(90))));
}

/// Regression: each merge of eight locks searched the whole table.
#[test]
fn one_pass_makes_room_for_many() {
    let locks = Locks::new(512);
    for i in 0..512 {
        let ip = format!("10.0.{}.{}", i / 8, i % 8);
        assert!(locks.add(lock(&ip, LockScope::All, 10), at(0)));
    }
    assert!(locks.add(lock("8.8.8.8", LockScope::All, 10), at(0)));
    // A sixteenth of 512, in families of 8, and no more.
    assert_eq!(locks.len(), 512 - 5 * 7 + 1);
    assert!((0..512).all(|i| {
        let ip = format!("10.0.{}.{}", i / 8, i % 8);
        is_locked(&locks, &ip, "/", 1)
    }));
}

#[test]
fn unproductive_passes_are_limited_to_one_per_second() {
    let full = || {
        let locks = Locks::new(512);
        for i in 0..512 {
            let ip = match i {
                0..8 => format!("192.0.2.{i}"),
                8 => "8.8.8.200".into(),
                _ => format!("10.{}.{}.1", i / 256, i % 256),
            };
            assert!(locks.add(lock(&ip, LockScope::All, 10), at(0)));
        }
        locks
    };
    let newcomer = |locks: &Locks, i: u64, now| {
        let ip = format!("8.8.8.{i}");
        locks.add(lock(&ip, LockScope::All, 10), at(now))
    };
    let locks = full();
    assert!((0..7).all(|i| newcomer(&locks, i, 1)));
    assert!(!newcomer(&locks, 7, 1), "it was just searched");
    assert!(newcomer(&locks, 7, 2));
    // A clock that ran ahead does not put the next search off.
    let locks = full();
    assert!((0..7).all(|i| newcomer(&locks, i, 1_000_000)));
    assert!(newcomer(&locks, 7, 1));
}

/// Regression: a moment of a clock that ran ahead freed every lock of a full table, for good.
#[test]
fn a_clock_ahead_frees_no_lock() {
    let year = 365 * 86_400;
    let locks = Locks::new(3);
    let remembered = Lock {
        remembered_until: at(90),
        ..lock("192.0.2.2", LockScope::All, 5)
    };
    locks.add(manual("192.0.2.1", 10), at(0));
    locks.add(remembered, at(0));
    locks.add(lock("192.0.2.3", LockScope::All, 10), at(0));
    assert!(!locks.add(lock("8.8.8.8", LockScope::All, year + 9), at(year)));
    assert_eq!(locks.active(at(1)).len(), 3);
    // What had ended when the time was last relied on makes room.
    locks.expire(at(6));
    assert_eq!(locks.len(), 3);
    assert!(locks.add(lock("8.8.8.8", LockScope::All, 10), at(6)));
    assert_eq!(locks.active(at(6)).len(), 3);
}

#[test]
fn keep_removes_unstored_locks_but_not_pending_ones() {
    let locks = Locks::new(16);
    let addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.4"];
    let ids = addresses.map(|address| lock(address, LockScope::All, 10).id());
    let add = |n: usize| assert!(locks.add(lock(addresses[n], LockScope::All, 10), at(0)));
    add(0);
    add(1);
    // Those that were stored before are no longer to be stored.
    locks.take_changes();
    add(2);
    assert_eq!(locks.take_changes().len(), 1);
    add(3);
    locks.keep(&ids[..1]);
    let left = addresses.map(|address| is_locked(&locks, address, "/", 9));
    assert_eq!(left, [true, false, true, true]);
    assert_eq!(locks.len(), 3);
}

/// Regression: while nothing could be stored, each change of a lock took more memory.
#[test]
fn a_lock_that_changes_often_is_noted_once() {
    let locks = Locks::new(16);
    for until in 1..=1_000 {
        locks.add(lock("192.0.2.1", LockScope::All, until), at(0));
    }
    assert_eq!(locks.changed.lock().len(), 1);
    assert_eq!(locks.take_changes().len(), 1);
}
