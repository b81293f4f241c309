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
    let refused = |refuses: &Refuses| match refuses {
        Refuses::All => true,
        Refuses::Keyless | Refuses::Route(_) => false,
        Refuses::Path(path) => path == target,
    };
    let standing = locks.standing(ip.parse().unwrap(), refused, || at(now));
    standing.is_some_and(|standing| *standing != Standing::default())
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
fn a_path_lock_refuses_one_path() {
    let locks = Locks::new(16);
    let login = Refuses::Path("/login".into());
    locks.add(lock("192.0.2.1", login.clone(), 10), at(0));
    assert!(is_locked(&locks, "192.0.2.1", "/login", 1));
    assert!(!is_locked(&locks, "192.0.2.1", "/logins", 1));
    let network: Network = "192.0.2.1".parse().unwrap();
    assert!(
        locks
            .remove(network, |what| *what == Refuses::All)
            .is_empty()
    );
    assert_eq!(locks.remove(network, |what| *what == login).len(), 1);
    assert!(!is_locked(&locks, "192.0.2.1", "/login", 1));
}

#[test]
fn a_manual_lock_wins_wherever_it_comes_from() {
    let automatic = lock("192.0.2.1", Refuses::All, 20);
    let manual = Lock {
        cause: LockCause::Manual,
        ..lock("192.0.2.1", Refuses::All, 10)
    };
    let both = Lock {
        cause: LockCause::Manual,
        ..automatic.clone()
    };
    let id = manual.id();
    for order in [[&automatic, &manual], [&manual, &automatic]] {
        let locks = Locks::new(16);
        for lock in order {
            assert!(locks.add(lock.clone(), at(0)));
        }
        assert_eq!(locks.get(&id), Some(both.clone()));
        // As another node hears of it.
        let locks = Locks::new(16);
        for lock in order {
            let change = LockChange {
                id: id.clone(),
                lock: Some(lock.clone()),
            };
            assert!(locks.adopt(change, at(0)));
        }
        assert_eq!(locks.get(&id), Some(both.clone()));
        let standing = locks.standing(id.network, |_| true, || at(1)).unwrap();
        assert_eq!(standing.manual, Some(both.until));
    }
    // Not one that has ended.
    let later = Lock {
        since: at(10),
        ..automatic.clone()
    };
    assert_eq!(later.clone().joined(&manual), later);
    // Nor one that had ended before a later one began, whichever comes last.
    let later = Lock {
        since: at(20),
        until: at(30),
        ..manual
    };
    assert_eq!(automatic.clone().joined(&later), later);
    assert_eq!(later.clone().joined(&automatic), later);
}

#[test]
fn a_manual_lock_refuses_beside_a_longer_automatic_one() {
    let locks = Locks::new(16);
    locks.add(lock("192.0.2.1", Refuses::All, 20), at(0));
    let manual = Lock {
        cause: LockCause::Manual,
        ..lock("192.0.2.1", Refuses::Path("/login".into()), 10)
    };
    locks.add(manual, at(0));
    let network = "192.0.2.1".parse().unwrap();
    let standing = locks.standing(network, |_| true, || at(1)).unwrap();
    assert_eq!(
        (standing.manual, standing.strikes),
        (Some(at(10)), Some(at(20)))
    );
}

#[test]
fn a_lock_of_a_limit_stays_one_beside_strikes() {
    let strikes = lock("192.0.2.1", Refuses::All, 20);
    let limit = Lock {
        cause: LockCause::IpLimit("login".into()),
        ..lock("192.0.2.1", Refuses::All, 10)
    };
    for order in [[&strikes, &limit], [&limit, &strikes]] {
        let locks = Locks::new(16);
        for lock in order {
            locks.add(lock.clone(), at(0));
        }
        let standing = locks.standing(limit.network, |_| true, || at(1)).unwrap();
        assert_eq!((standing.limits, standing.strikes), (Some(at(20)), None));
    }
    // In a family, too.
    let locks = Locks::new(8);
    locks.add(limit, at(0));
    for member in 2..10 {
        let member = lock(&format!("192.0.2.{member}"), Refuses::All, 30);
        assert!(locks.add(member, at(0)));
    }
    let network = "192.0.2.77".parse().unwrap();
    let standing = locks.standing(network, |_| true, || at(1)).unwrap();
    assert_eq!((standing.limits, standing.strikes), (Some(at(30)), None));
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
fn the_largest_family_merges_when_the_table_is_full_and_nobody_gets_out() {
    let locks = Locks::new(20);
    let families = [("192.0.2", 2), ("198.51.100", 8), ("203.0.113", 9)];
    let ips = families.iter().flat_map(|(parent, members)| {
        (0..*members).map(move |member| format!("{parent}.{member}"))
    });
    let ips: Vec<_> = ips.chain(["8.8.8.8".into(), "9.9.9.9".into()]).collect();
    for ip in &ips {
        assert!(locks.add(lock(ip, Refuses::All, 10), at(0)), "{ip}");
    }
    for ip in &ips {
        assert!(is_locked(&locks, ip, "/", 1), "{ip}");
    }
    let is_merged = |ip| is_locked(&locks, ip, "/", 1);
    assert!(is_merged("203.0.113.77"), "the /24 is locked as one");
    assert!(!is_merged("198.51.100.77") && !is_merged("192.0.2.77"));
    assert_eq!(locks.len(), 21 - 8);
    for i in 0..8 {
        assert!(locks.add(lock(&format!("10.0.{i}.1"), Refuses::All, 10), at(0)));
    }
    assert!(is_merged("198.51.100.77"), "the next one");
    for i in 8..14 {
        assert!(locks.add(lock(&format!("10.0.{i}.1"), Refuses::All, 10), at(0)));
    }
    assert!(
        !locks.add(lock("10.1.0.1", Refuses::All, 10), at(0)),
        "two neighbours are no family"
    );
    assert!(!is_merged("192.0.2.77"));
    assert!(
        locks.add(lock("10.1.0.1", Refuses::All, 30), at(10)),
        "the others have ended"
    );
}

#[test]
fn manual_locks_are_not_merged() {
    let locks = Locks::new(9);
    for member in 0..9 {
        let manual = Lock {
            cause: LockCause::Manual,
            ..lock(&format!("192.0.2.{member}"), Refuses::All, 10)
        };
        assert!(locks.add(manual, at(0)));
    }
    assert!(!locks.add(lock("192.0.2.10", Refuses::All, 10), at(0)));
    assert!(!is_locked(&locks, "192.0.2.10", "/", 1));
}

#[test]
fn changes_are_handed_out_once_as_they_are_then() {
    let locks = Locks::new(16);
    locks.add(lock("192.0.2.1", Refuses::All, 10), at(0));
    locks.add(lock("192.0.2.2", Refuses::All, 10), at(0));
    locks.remove("192.0.2.2".parse().unwrap(), |_| true);
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
    locks.remove("192.0.2.1".parse().unwrap(), |_| true);
    assert!(locks.add(lock("203.0.113.1", Refuses::All, 10), at(1)));
}
