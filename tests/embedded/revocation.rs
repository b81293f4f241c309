//! A tightening is in force when it returns: no later check in any thread uses the old state.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{Home, IP, admit, check, key_with, org, refusal};
use keyguard::{
    AdminError, CreateKey, CreatedKey, Denial, Grant, KeyGuard, KeyStatus, Reason, Request,
    RotateKey, Timestamp, UpdateKey,
};

const THREADS: usize = 8;

/// Checks per thread and round that begin after the change has returned.
const LATE_CHECKS: usize = 3;

#[test]
fn no_check_after_revocation_admits_the_key() {
    Race::of(1_000).run(Reason::RevokedKey, |kg, key| {
        kg.admin().revoke_key(key.key.id).unwrap();
    });
}

#[test]
fn no_check_after_suspension_admits_a_key_of_the_organization() {
    Race::of(100).run(Reason::SuspendedOrg, |kg, key| {
        kg.admin().suspend_org(key.key.org_id).unwrap();
    });
}

#[test]
fn no_check_after_suspension_admits_the_key() {
    Race::of(100).run(Reason::SuspendedKey, |kg, key| {
        kg.admin().suspend_key(key.key.id).unwrap();
    });
}

#[test]
fn no_check_after_scope_removal_has_the_scope() {
    Race::of(100).run(Reason::MissingScope, |kg, key| {
        update(kg, key, |key| key.scopes(["other"]));
    });
}

#[test]
fn no_check_after_tightening_uses_the_looser_rate_limit() {
    Race::of(100).run(Reason::RateLimited, |kg, key| {
        admit_to_read(kg, key);
        update(kg, key, |key| key.rate_limit_per_minute(1));
    });
}

#[test]
fn no_check_after_adding_a_monthly_limit_ignores_it() {
    Race::of(100).run(Reason::QuotaExhausted, |kg, key| {
        update(kg, key, |key| key.limits(["1 monthly"]));
        // The last request of the month, if it is still available.
        drop(check_to_read(kg, key));
    });
}

#[test]
fn no_check_after_rotation_without_grace_admits_the_old_text() {
    Race::of(100).run(Reason::ExpiredKey, |kg, key| {
        let new = kg
            .admin()
            .rotate_key(RotateKey::new(key.key.id).grace(Duration::ZERO))
            .unwrap();
        admit_to_read(kg, &new);
    });
}

#[test]
fn no_check_after_resumption_is_refused() {
    Race::of(100).run_between(
        |kg, key| {
            kg.admin().suspend_org(key.key.org_id).unwrap();
        },
        |kg, key| {
            kg.admin().resume_org(key.key.org_id).unwrap();
        },
        Result::is_ok,
    );
}

type Change = fn(&KeyGuard, &CreatedKey);

/// All tightenings of a key whose requests require the scope `read`, with the resulting refusal.
const TIGHTENINGS: [(Reason, Change); 6] = [
    (Reason::RevokedKey, |kg, key| {
        kg.admin().revoke_key(key.key.id).unwrap();
    }),
    (Reason::SuspendedKey, |kg, key| {
        kg.admin().suspend_key(key.key.id).unwrap();
    }),
    (Reason::SuspendedOrg, |kg, key| {
        kg.admin().suspend_org(key.key.org_id).unwrap();
    }),
    (Reason::ExpiredKey, |kg, key| {
        kg.admin()
            .rotate_key(RotateKey::new(key.key.id).grace(Duration::ZERO))
            .unwrap();
    }),
    (Reason::MissingScope, |kg, key| {
        update(kg, key, |key| key.scopes([""; 0]));
    }),
    (Reason::RateLimited, |kg, key| {
        update(kg, key, |key| key.rate_limit_per_minute(1));
    }),
];

#[test]
fn cached_key_sees_each_change_at_once() {
    for (reason, tighten) in TIGHTENINGS {
        let home = Home::new();
        let kg = home.open();
        let key = reader(&kg);
        admit_to_read(&kg, &key);
        tighten(&kg, &key);
        assert_eq!(refusal(check_to_read(&kg, &key)), reason);
    }
}

#[test]
fn change_by_one_clone_is_seen_by_the_others() {
    for (reason, tighten) in TIGHTENINGS {
        let home = Home::new();
        let kg = home.open();
        let key = reader(&kg);
        let clone = kg.clone();
        admit_to_read(&clone, &key);
        tighten(&kg, &key);
        assert_eq!(refusal(check_to_read(&clone, &key)), reason);
    }
}

#[test]
fn other_keys_are_untouched_by_a_change() {
    for (reason, tighten) in TIGHTENINGS {
        let home = Home::new();
        let kg = home.open();
        let key = reader(&kg);
        let neighbour = reader(&kg);
        let stranger = reader_of(&org(&kg, "other").name);
        let stranger = kg.admin().create_key(stranger).unwrap();
        for key in [&key, &neighbour, &stranger] {
            admit_to_read(&kg, key);
        }
        tighten(&kg, &key);
        admit_to_read(&kg, &stranger);
        let outcome = check_to_read(&kg, &neighbour);
        let suspended = reason == Reason::SuspendedOrg;
        assert_eq!(outcome.is_err(), suspended, "{reason}: {outcome:?}");
    }
}

#[test]
fn tightening_survives_reopening() {
    // Windows are not stored; everything else is.
    let kept = |(reason, _): &(Reason, Change)| *reason != Reason::RateLimited;
    for (reason, tighten) in TIGHTENINGS.into_iter().filter(kept) {
        let home = Home::new();
        let kg = home.open();
        let key = reader(&kg);
        tighten(&kg, &key);
        kg.close().unwrap();

        let kg = home.open();
        assert_eq!(refusal(check_to_read(&kg, &key)), reason, "after close");
        drop(kg);
        let kg = home.open();
        assert_eq!(refusal(check_to_read(&kg, &key)), reason, "after drop");
    }
}

#[test]
fn revoking_again_changes_nothing() {
    let home = Home::new();
    let kg = home.open();
    let key = reader(&kg);
    let revoked = kg.admin().revoke_key(key.key.id).unwrap();
    assert!(!revoked.is_active());
    assert_eq!(kg.admin().revoke_key(key.key.id).unwrap(), revoked);
    assert_eq!(kg.admin().stats().unwrap().active_keys, 0);
}

#[test]
fn resumed_organization_is_admitted_again() {
    let home = Home::new();
    let kg = home.open();
    let key = reader(&kg);
    for _ in 0..3 {
        kg.admin().suspend_org(key.key.org_id).unwrap();
        assert_eq!(refusal(check(&kg, &key)), Reason::SuspendedOrg);
        kg.admin().resume_org(key.key.org_id).unwrap();
        admit(&kg, &key);
    }
}

#[test]
fn resumed_key_is_admitted_again() {
    let home = Home::new();
    let kg = home.open();
    let key = reader(&kg);
    for _ in 0..3 {
        let suspended = kg.admin().suspend_key(key.key.id).unwrap();
        assert_eq!(suspended.status, KeyStatus::Suspended);
        assert!(!suspended.is_active());
        assert_eq!(refusal(check(&kg, &key)), Reason::SuspendedKey);
        let resumed = kg.admin().resume_key(key.key.id).unwrap();
        assert_eq!(resumed.status, KeyStatus::Active);
        admit(&kg, &key);
    }
}

#[test]
fn suspended_key_stays_suspended_whatever_else_changes() {
    let home = Home::new();
    let kg = home.open();
    let key = reader(&kg);
    let id = key.key.id;
    let minute = Duration::from_secs(60);
    update(&kg, &key, |key| {
        key.expires_at(home.clock.timestamp().plus(minute))
    });
    kg.admin().suspend_key(id).unwrap();
    kg.admin().suspend_org(key.key.org_id).unwrap();
    kg.admin().resume_org(key.key.org_id).unwrap();
    update(&kg, &key, |key| key.label("other"));
    let rotated = kg.admin().rotate_key(RotateKey::new(id)).unwrap();
    assert_eq!(rotated.key.status, KeyStatus::Suspended);
    home.clock.advance(minute);
    for text in [&key, &rotated] {
        assert_eq!(refusal(check(&kg, text)), Reason::SuspendedKey);
    }
    update(&kg, &key, |key| key.expires_at(None).reactivate(true));
    assert_eq!(refusal(check(&kg, &rotated)), Reason::SuspendedKey);
    let resumed = kg.admin().resume_key(id).unwrap();
    assert_eq!(resumed.status, KeyStatus::Active);
    admit(&kg, &rotated);
}

#[test]
fn resumption_does_not_restore_an_expired_or_revoked_key() {
    let home = Home::new();
    let kg = home.open();
    let [expired, revoked] = [reader(&kg), reader(&kg)];
    let minute = Duration::from_secs(60);
    update(&kg, &expired, |key| {
        key.expires_at(home.clock.timestamp().plus(minute))
    });
    for key in [&expired, &revoked] {
        kg.admin().suspend_key(key.key.id).unwrap();
    }
    home.clock.advance(minute);
    let resumed = kg.admin().resume_key(expired.key.id).unwrap();
    assert_eq!(resumed.status, KeyStatus::Expired);
    assert_eq!(refusal(check(&kg, &expired)), Reason::ExpiredKey);
    let gone = kg.admin().revoke_key(revoked.key.id).unwrap();
    assert_eq!(gone.status, KeyStatus::Revoked);
    for changed in [
        kg.admin().resume_key(revoked.key.id),
        kg.admin().suspend_key(revoked.key.id),
    ] {
        assert!(
            matches!(changed, Err(AdminError::KeyRevoked(_))),
            "{changed:?}"
        );
    }
    assert_eq!(refusal(check(&kg, &revoked)), Reason::RevokedKey);
    assert_eq!(kg.admin().stats().unwrap().active_keys, 0);
}

#[test]
fn resumption_does_not_restore_a_revoked_key() {
    let home = Home::new();
    let kg = home.open();
    let key = reader(&kg);
    kg.admin().suspend_org(key.key.org_id).unwrap();
    kg.admin().revoke_key(key.key.id).unwrap();
    kg.admin().resume_org(key.key.org_id).unwrap();
    assert_eq!(refusal(check(&kg, &key)), Reason::RevokedKey);
}

#[test]
fn explicit_new_expiry_reactivates_the_key() {
    let home = Home::new();
    let kg = home.open();
    let key = reader(&kg);
    let second = Duration::from_secs(1);
    let expire_at = |at: Option<Timestamp>| {
        update(&kg, &key, |key| key.expires_at(at).reactivate(true));
    };

    expire_at(Some(home.clock.timestamp().plus(second)));
    admit(&kg, &key);
    home.clock.advance(second);
    assert_eq!(refusal(check(&kg, &key)), Reason::ExpiredKey);
    expire_at(Some(home.clock.timestamp().plus(second)));
    admit(&kg, &key);
    expire_at(None);
    home.clock.advance(second);
    admit(&kg, &key);
}

#[test]
fn rotated_text_is_accepted_exactly_during_its_grace() {
    let home = Home::new();
    let kg = home.open();
    let first = reader(&kg);
    let grace = Duration::from_secs(10);
    let second = kg
        .admin()
        .rotate_key(RotateKey::new(first.key.id).grace(grace))
        .unwrap();
    // Another rotation does not extend the grace period.
    home.clock.advance(grace / 2);
    let third = kg
        .admin()
        .rotate_key(RotateKey::new(first.key.id).grace(grace))
        .unwrap();

    home.clock.advance(grace / 2 - Duration::from_millis(1));
    for key in [&first, &second, &third] {
        admit(&kg, key);
    }
    home.clock.advance(Duration::from_millis(1));
    assert_eq!(refusal(check(&kg, &first)), Reason::ExpiredKey);
    admit(&kg, &second);
    home.clock.advance(grace / 2);
    assert_eq!(refusal(check(&kg, &second)), Reason::ExpiredKey);
    admit(&kg, &third);
}

#[test]
fn revoking_a_rotated_key_refuses_every_text_of_it() {
    let home = Home::new();
    let kg = home.open();
    let old = reader(&kg);
    let new = kg
        .admin()
        .rotate_key(RotateKey::new(old.key.id).grace(Duration::from_secs(10)))
        .unwrap();
    for key in [&old, &new] {
        admit(&kg, key);
    }
    kg.admin().revoke_key(old.key.id).unwrap();
    for key in [&old, &new] {
        assert_eq!(refusal(check(&kg, key)), Reason::RevokedKey);
    }
}

/// Rounds in which one thread changes a new key while others check it.
struct Race {
    rounds: usize,
}

impl Race {
    fn of(rounds: usize) -> Self {
        Self { rounds }
    }

    /// Expects every check that begins after `change` has returned to be refused for `reason`.
    fn run(self, reason: Reason, change: impl Fn(&KeyGuard, &CreatedKey)) {
        let prepare = |kg: &KeyGuard, key: &CreatedKey| {
            // The previous round suspended it.
            if reason == Reason::SuspendedOrg {
                kg.admin().resume_org(key.key.org_id).unwrap();
            }
        };
        self.run_between(
            prepare,
            change,
            |outcome| matches!(outcome, Err(denial) if denial.reason() == reason),
        );
    }

    /// Expects every check that begins after `change` has returned to be as `expected`.
    fn run_between(
        self,
        prepare: impl Fn(&KeyGuard, &CreatedKey),
        change: impl Fn(&KeyGuard, &CreatedKey),
        expected: impl Fn(&Result<Grant, Denial>) -> bool + Sync,
    ) {
        let home = Home::new();
        // Checks are faster without recording.
        let kg = home.open_with(home.config().record_usage(false));
        let org = org(&kg, "acme");
        let keys = vec![reader_of(&org.name); self.rounds];
        let keys = kg.admin().create_keys(&keys).unwrap();
        let rounds: Vec<_> = keys.iter().map(Round::of).collect();

        let barrier = Barrier::new(THREADS + 1);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for round in &rounds {
                        barrier.wait();
                        round.check(&kg, &expected);
                        barrier.wait();
                    }
                });
            }
            for (number, round) in rounds.iter().enumerate() {
                prepare(&kg, round.key);
                barrier.wait();
                // In every other round the key is cached; otherwise it is loaded during the change.
                while number % 2 == 0 && round.early.load(Ordering::SeqCst) == 0 {
                    std::thread::yield_now();
                }
                change(&kg, round.key);
                round.returned.store(true, Ordering::SeqCst);
                barrier.wait();
            }
        });
        for (number, round) in rounds.into_iter().enumerate() {
            let wrong = round.wrong.into_inner();
            assert_eq!(wrong, 0, "checks by the old state in round {number}");
        }
    }
}

struct Round<'a> {
    key: &'a CreatedKey,
    returned: AtomicBool,
    /// Checks before the change had returned.
    early: AtomicUsize,
    /// Checks that began after the change had returned and used the old state.
    wrong: AtomicUsize,
}

impl<'a> Round<'a> {
    fn of(key: &'a CreatedKey) -> Self {
        Self {
            key,
            returned: AtomicBool::new(false),
            early: AtomicUsize::new(0),
            wrong: AtomicUsize::new(0),
        }
    }

    fn check(&self, kg: &KeyGuard, expected: impl Fn(&Result<Grant, Denial>) -> bool) {
        let mut late = 0;
        while late < LATE_CHECKS {
            let is_late = self.returned.load(Ordering::SeqCst);
            let outcome = check_to_read(kg, self.key);
            if is_late {
                late += 1;
                // A panic here would block the other threads.
                let wrong = usize::from(!expected(&outcome));
                self.wrong.fetch_add(wrong, Ordering::SeqCst);
            } else {
                self.early.fetch_add(1, Ordering::SeqCst);
                std::thread::yield_now();
            }
        }
    }
}

/// A key with the scope `read` and a high limit.
fn reader_of(org: &str) -> CreateKey {
    CreateKey::new(org, "reader")
        .scopes(vec!["read"])
        .rate_limit_per_minute(u32::MAX)
}

fn reader(kg: &KeyGuard) -> CreatedKey {
    key_with(kg, |_| reader_of("acme"))
}

fn check_to_read(kg: &KeyGuard, key: &CreatedKey) -> Result<Grant, Denial> {
    let headers = [("X-API-Key", key.raw_key.expose())];
    kg.decide(Request::new(&headers, IP, "/api/data").scopes(&["read"]))
}

fn admit_to_read(kg: &KeyGuard, key: &CreatedKey) {
    drop(check_to_read(kg, key).unwrap());
}

fn update(kg: &KeyGuard, key: &CreatedKey, change: impl FnOnce(UpdateKey) -> UpdateKey) {
    let change = change(UpdateKey::new(key.key.id));
    kg.admin().update_key(change).unwrap();
}
