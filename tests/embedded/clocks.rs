//! A calendar clock that is wrong for a while, or steps, delays quotas, credits, locks and retention by
//! at most one period.

use std::time::Duration;

use crate::common::{DAY, HOUR, Home, IP, MINUTE, check, key_with};
use keyguard::{Config, CreatedKey, KeyGuard, ListUsage};

const YEAR: Duration = Duration::from_secs(365 * 86_400);

fn key_limited_by(kg: &KeyGuard, limit: &str) -> CreatedKey {
    key_with(kg, |key| key.limits([limit]))
}

/// Runs maintenance twice, a minute apart.
fn maintain(home: &Home, kg: &KeyGuard) {
    for _ in 0..2 {
        home.clock.advance(MINUTE);
        kg.flush().unwrap();
        // Again, because the first run may have begun before the clock moved.
        kg.flush().unwrap();
    }
}

/// Runs a function while the calendar is a year ahead.
fn a_year_ahead<T>(home: &Home, work: impl FnOnce() -> T) -> T {
    home.clock.set(home.clock.timestamp().plus(YEAR));
    let done = work();
    home.clock.set(home.clock.timestamp().minus(YEAR));
    done
}

/// Limits of 5 requests by the calendar, each with its longest period.
fn limits_by_the_calendar() -> [(&'static str, Duration); 3] {
    [
        ("5 daily", DAY),
        ("5 monthly", 31 * DAY),
        ("5 credits +5/d", DAY),
    ]
}

fn admitted(kg: &KeyGuard, key: &CreatedKey) -> usize {
    (0..50).filter(|_| check(kg, key).is_ok()).count()
}

#[test]
fn clock_jump_delays_quotas_and_credits_by_one_period_at_most() {
    for (limit, period) in limits_by_the_calendar() {
        let home = Home::new();
        let kg = home.open();
        let key = key_limited_by(&kg, limit);
        a_year_ahead(&home, || assert_eq!(admitted(&kg, &key), 5, "{limit}"));
        let denial = check(&kg, &key).unwrap_err();
        assert!(denial.retry_after().unwrap() <= period, "{denial:?}");
        home.clock.advance(denial.retry_after().unwrap());
        assert_eq!(admitted(&kg, &key), 5, "{limit}");
    }
}

#[test]
fn stored_quotas_from_the_future_are_reset_on_load() {
    let home = Home::new();
    let kg = home.open();
    let key = key_limited_by(&kg, "5 daily");
    a_year_ahead(&home, || {
        assert_eq!(admitted(&kg, &key), 5);
        kg.flush().unwrap();
    });
    drop(kg);
    let kg = home.open();
    assert_eq!(admitted(&kg, &key), 0);
    home.clock.advance(DAY);
    assert_eq!(admitted(&kg, &key), 5);
}

/// Regression: the corrected time stayed in memory, so that each restart began another period.
#[test]
fn restarts_do_not_prolong_a_period_from_the_future() {
    for (limit, period) in limits_by_the_calendar() {
        let home = Home::new();
        let kg = home.open();
        let key = key_limited_by(&kg, limit);
        a_year_ahead(&home, || assert_eq!(admitted(&kg, &key), 5, "{limit}"));
        assert_eq!(admitted(&kg, &key), 0, "{limit}");
        drop(kg);
        home.clock.advance(period);
        assert_eq!(admitted(&home.open(), &key), 5, "{limit}");
    }
}

#[test]
fn reset_quota_ends_at_the_end_of_the_current_period() {
    let home = Home::new();
    let kg = home.open();
    let key = key_limited_by(&kg, "5 monthly");
    a_year_ahead(&home, || {
        admitted(&kg, &key);
        kg.admin().reset_key(key.key.id, None).unwrap();
    });
    assert_eq!(admitted(&kg, &key), 5);
    home.clock.advance(31 * DAY);
    assert_eq!(admitted(&kg, &key), 5);
}

#[test]
fn lock_from_the_future_lasts_its_duration() {
    let home = Home::new();
    let kg = home.open();
    a_year_ahead(&home, || {
        kg.admin().block(IP, None, HOUR).unwrap();
    });
    maintain(&home, &kg);
    let lock = kg.admin().list_blocks().pop().expect("still in force");
    assert!(lock.since <= home.clock.timestamp(), "{lock:?}");
    home.clock.advance(HOUR);
    assert_eq!(kg.admin().list_blocks(), []);

    // As stored.
    kg.flush().unwrap();
    drop(kg);
    assert_eq!(home.open().admin().list_blocks(), []);
}

#[test]
fn clock_jump_ends_no_lock_permanently() {
    let home = Home::new();
    let kg = home.open();
    kg.admin().block(IP, None, "2 days").unwrap();
    maintain(&home, &kg);
    a_year_ahead(&home, || {
        home.clock.advance(MINUTE);
        kg.flush().unwrap();
        kg.flush().unwrap();
    });
    maintain(&home, &kg);
    assert_eq!(kg.admin().list_blocks().len(), 1);

    // Nor does one that is ahead when the file is opened.
    drop(kg);
    a_year_ahead(&home, || drop(home.open()));
    let kg = home.open();
    assert_eq!(kg.admin().list_blocks().len(), 1);
}

#[test]
fn clock_jump_prunes_no_usage() {
    let home = Home::new();
    let config = || -> Config { home.config().usage_retention(DAY) };
    let kg = home.open_with(config());
    let key = key_limited_by(&kg, "5 daily");
    check(&kg, &key).unwrap().finish(200);
    maintain(&home, &kg);
    let recorded = |kg: &KeyGuard| kg.admin().list_usage(ListUsage::new()).unwrap().len();
    assert_eq!(recorded(&kg), 1);
    a_year_ahead(&home, || {
        home.clock.advance(MINUTE);
        kg.flush().unwrap();
        kg.flush().unwrap();
    });
    maintain(&home, &kg);
    assert_eq!(recorded(&kg), 1);

    // Nor does one that is ahead when the file is opened.
    drop(kg);
    a_year_ahead(&home, || drop(home.open_with(config())));
    let kg = home.open_with(config());
    assert_eq!(recorded(&kg), 1);
    home.clock.advance(DAY);
    maintain(&home, &kg);
    assert_eq!(recorded(&kg), 0);
}

#[test]
fn last_use_does_not_stay_in_the_future() {
    let home = Home::new();
    let kg = home.open();
    let key = key_limited_by(&kg, "50 daily");
    a_year_ahead(&home, || {
        check(&kg, &key).unwrap().finish(200);
        kg.flush().unwrap();
    });
    check(&kg, &key).unwrap().finish(200);
    kg.flush().unwrap();
    let used = kg.admin().get_key(key.key.id).unwrap().last_used_at;
    assert_eq!(used, Some(home.clock.timestamp()));
}
