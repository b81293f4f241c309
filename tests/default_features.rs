//! Behaviour of a build without features: it works with a data file, and names the feature that a URL
//! requires. All other tests run with all features, so this target is not part of a plain
//! `cargo test`: `cargo test --test default_features`.

#![cfg(test)]
#![cfg(not(any(feature = "http", feature = "postgres", feature = "redis")))]

mod common;

use common::{Home, admit, check, key_limited_to, refusal};
use keyguard::{KeyGuard, OpenError, Reason};

#[test]
fn data_file_needs_no_feature() {
    let home = Home::new();
    let kg = home.open();
    let key = key_limited_to(&kg, 1);
    assert_eq!(admit(&kg, &key), 0);
    assert_eq!(refusal(check(&kg, &key)), Reason::RateLimited);
    kg.close().unwrap();

    let kg = home.open();
    assert_eq!(kg.admin().stats().unwrap().requests, 2);
    kg.admin().revoke_key(key.key.id).unwrap();
    assert_eq!(refusal(check(&kg, &key)), Reason::RevokedKey);
}

#[test]
fn database_url_needs_the_feature_postgres() {
    let home = Home::new();
    let missing = KeyGuard::open("postgres://u:hunter2@host/db", home.config()).unwrap_err();
    for words in [
        "`postgres:` need the cargo feature `postgres`",
        "enable it, or give another URL",
    ] {
        assert!(missing.to_string().contains(words), "{missing}");
    }
    assert_missing(&missing, "postgres");
}

#[test]
fn redis_url_needs_the_feature_redis() {
    let home = Home::new();
    let config = home.config().redis_url("rediss://:hunter2@host");
    let missing = KeyGuard::open(home.file(), config).unwrap_err();
    let words = "`rediss:` need the cargo feature `redis`";
    assert!(missing.to_string().contains(words), "{missing}");
    assert_missing(&missing, "redis");
}

fn assert_missing(error: &OpenError, name: &str) {
    assert!(
        matches!(error, OpenError::MissingFeature { feature, .. } if *feature == name),
        "{error:?}"
    );
    assert!(!format!("{error}{error:?}").contains("hunter2"));
}
