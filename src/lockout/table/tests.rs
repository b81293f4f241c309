use super::*;
use crate::lockout::LockCause;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_millis(1_000 * seconds)
}

fn lock(network: &str, refuses: Refuses, until: u64) -> Lock {
    Lock {
        network: network.parse().unwrap(),
        refuses,
        cause: LockCause::BadKeys,
        since: at(0),
        until: at(until),
        step: 0,
        remembered_until: at(until),
    }
}

fn is_locked(locks: &Locks, ip: &str, target: &str, now: u64) -> bool {
    let standing = locks.standing(ip.parse().unwrap(), target, || at(now));
    standing.is_some_and(|standing| standing.locked.is_some())
}

#[test]
fn a_lock_ends_by_itself() {
    let locks = Locks::new(16);
    assert!(locks.add(lock("192.0.2.1", Refuses::All, 10), at(0)));
    assert!(is_locked(&locks, "192.0.2.1", "/", 9));
    assert!(!is_locked(&locks, "192.0.2.1", "/", 10));
    assert!(!is_locked(&locks, "192.0.2.2", "/", 9));
    locks.expire(at(10));
    assert_eq!(locks.len(), 0);
}

#[test]
fn a_path_lock_refuses_one_path_however_it_is_written() {
    let locks = Locks::new(16);
    locks.add(lock("192.0.2.1", Refuses::Path("/login".into()), 10), at(0));
    for target in [
        "/login",
        "//login",
        "/./login?x=1",
        "/%6cogin",
        "/a/../login",
        "/login/",
    ] {
        assert!(is_locked(&locks, "192.0.2.1", target, 1), "{target}");
    }
    assert!(!is_locked(&locks, "192.0.2.1", "/logins", 1));
    assert!(
        locks
            .remove("192.0.2.1".parse().unwrap(), Some("/other"))
            .is_empty()
    );
    assert_eq!(
        locks
            .remove("192.0.2.1".parse().unwrap(), Some("/login"))
            .len(),
        1
    );
    assert!(!is_locked(&locks, "192.0.2.1", "/login", 1));
}

#[test]
fn the_later_end_counts() {
    let locks = Locks::new(16);
    locks.add(lock("192.0.2.1", Refuses::All, 10), at(0));
    locks.add(lock("192.0.2.1", Refuses::All, 5), at(0));
    assert!(is_locked(&locks, "192.0.2.1", "/", 9));
    locks.add(lock("192.0.2.1", Refuses::All, 20), at(0));
    assert!(is_locked(&locks, "192.0.2.1", "/", 19));
    assert_eq!(locks.len(), 1);
}

#[test]
fn neighbours_merge_when_the_table_is_full_and_nobody_gets_out() {
    let locks = Locks::new(4);
    let ips = [
        "192.0.2.1",
        "198.51.100.1",
        "192.0.2.2",
        "203.0.113.9",
        "203.0.114.9",
    ];
    for ip in ips {
        assert!(locks.add(lock(ip, Refuses::All, 10), at(0)), "{ip}");
    }
    for ip in ips {
        assert!(is_locked(&locks, ip, "/", 1), "{ip}");
    }
    assert!(
        is_locked(&locks, "192.0.2.77", "/", 1),
        "the /24 is locked as one"
    );
    assert_eq!(locks.len(), 4);
    assert!(
        !locks.add(lock("8.8.8.8", Refuses::All, 10), at(0)),
        "nothing left to merge"
    );
    assert!(
        locks.add(lock("8.8.8.8", Refuses::All, 30), at(10)),
        "the others have ended"
    );
}

#[test]
fn manual_locks_are_not_merged() {
    let locks = Locks::new(2);
    for ip in ["192.0.2.1", "192.0.2.2"] {
        let manual = Lock {
            cause: LockCause::Manual,
            ..lock(ip, Refuses::All, 10)
        };
        assert!(locks.add(manual, at(0)));
    }
    assert!(!locks.add(lock("192.0.2.3", Refuses::All, 10), at(0)));
    assert!(!is_locked(&locks, "192.0.2.3", "/", 1));
}

#[test]
fn one_network_has_few_path_locks() {
    let locks = Locks::new(1_000);
    for i in 0..100 {
        locks.add(lock("192.0.2.1", Refuses::Path(format!("/{i}")), 10), at(0));
    }
    assert_eq!(locks.len(), MOST_PATHS);
}

#[test]
fn changes_are_handed_out_once_as_they_are_then() {
    let locks = Locks::new(16);
    locks.add(lock("192.0.2.1", Refuses::All, 10), at(0));
    locks.add(lock("192.0.2.2", Refuses::All, 10), at(0));
    locks.remove("192.0.2.2".parse().unwrap(), None);
    let changes = locks.take_changes();
    assert_eq!(
        changes
            .iter()
            .filter(|change| change.lock.is_some())
            .count(),
        1
    );
    assert_eq!(changes.len(), 2);
    assert!(locks.take_changes().is_empty());
    locks.return_changes(changes);
    assert_eq!(locks.take_changes().len(), 2);
}

#[test]
fn a_full_table_is_not_searched_for_every_newcomer() {
    let locks = Locks::new(2);
    for ip in ["192.0.2.1", "198.51.100.1"] {
        assert!(locks.add(lock(ip, Refuses::All, 10), at(0)));
    }
    assert!(!locks.add(lock("203.0.113.1", Refuses::All, 10), at(1)));
    assert!(!locks.make_room(at(1)), "it was just searched");
    assert_eq!(locks.full_until.load(Ordering::Relaxed), 2_000);
    // Room that somebody makes is seen at once.
    locks.remove("192.0.2.1".parse().unwrap(), None);
    assert!(locks.add(lock("203.0.113.1", Refuses::All, 10), at(1)));
}
