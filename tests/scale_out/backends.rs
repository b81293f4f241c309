//! Keys in PostgreSQL and limits in Redis: behaviour during failures, and recovery without a restart.

use std::time::Duration;

use crate::common::postgres::{Database, Server, holding};
use crate::common::redis::Redis;
use crate::common::{Home, IP, SECRET, wait_until};
use keyguard::{
    Config, CreateKey, CreatedKey, Fallback, IpTarget, KeyGuard, Policy, Reason, Request,
    RotateKey, UpdateKey,
};

/// Longer than any response takes, even on a busy machine.
const PATIENT: Duration = Duration::from_secs(20);

fn status(kg: &KeyGuard, key: &CreatedKey) -> u16 {
    match kg.check(&[("X-API-Key", key.raw_key.expose())], IP, "/") {
        Ok(grant) => {
            grant.finish(200);
            200
        }
        Err(denial) => denial.status(),
    }
}

fn is_up(kg: &KeyGuard) -> bool {
    kg.backends().iter().all(|backend| backend.is_up)
}

/// A guard with limits in Redis and a long deadline.
fn with_redis(home: &Home, url: &str) -> KeyGuard {
    let config = home.config().redis_url(url).backend_deadline(PATIENT);
    KeyGuard::open(home.file(), config).unwrap()
}

fn key(kg: &KeyGuard, per_minute: u32) -> CreatedKey {
    crate::common::key_limited_to(kg, per_minute)
}

/// A port without a listener.
fn late_redis() -> (String, Redis) {
    let mut redis = Redis::start();
    redis.kill();
    (redis.url(), redis)
}

#[test]
fn redis_is_used_once_it_is_up() {
    let (url, mut redis) = late_redis();
    let home = Home::new();
    let kg = with_redis(&home, &url);
    let key = key(&kg, 2);
    let statuses: Vec<u16> = (0..3).map(|_| status(&kg, &key)).collect();
    assert_eq!(statuses, [200, 200, 429], "this process counts for itself");
    let backend = kg.backends().remove(0);
    assert_eq!((backend.server, backend.is_up), ("redis", false));
    assert!(backend.fallbacks >= 3);
    let warnings = kg.admin().stats().unwrap().warnings;
    assert!(warnings.iter().any(|w| w.contains("Redis")), "{warnings:?}");

    redis.restart();
    wait_until(|| is_up(&kg));
    let before = redis.calls("evalsha");
    assert_eq!(status(&kg, &key), 200, "Redis has counted nothing yet");
    assert!(redis.calls("evalsha") > before);
}

#[test]
fn readiness_names_the_failing_backend() {
    let (home, mut redis) = (Home::new(), Redis::start());
    let kg = with_redis(&home, &redis.url());
    let problems = || kg.readiness().problems;
    assert_eq!(problems(), Vec::<String>::new());
    // Redis responds, but may evict.
    let _: () = redis.run("CONFIG SET maxmemory-policy allkeys-lru");
    wait_until(|| !problems().is_empty());
    let [problem] = &problems()[..] else {
        panic!("{:?}", problems());
    };
    let expected = "redis: its `maxmemory-policy` is `allkeys-lru`";
    assert!(problem.starts_with(expected), "{problem}");

    redis.kill();
    wait_until(|| {
        let [problem] = &problems()[..] else {
            return false;
        };
        problem.starts_with("redis: ") && !problem.contains("maxmemory")
    });
}

#[test]
fn requests_admitted_by_redis_count_after_its_failure() {
    let (home, mut redis) = (Home::new(), Redis::start());
    let kg = with_redis(&home, &redis.url());
    let key = key(&kg, 3);
    assert_eq!([status(&kg, &key), status(&kg, &key)], [200, 200]);
    redis.kill();
    assert_eq!([status(&kg, &key), status(&kg, &key)], [200, 429]);
}

#[test]
fn reset_without_redis_is_an_error() {
    let (home, mut redis) = (Home::new(), Redis::start());
    let kg = with_redis(&home, &redis.url());
    let key = key(&kg, 1);
    assert_eq!([status(&kg, &key), status(&kg, &key)], [200, 429]);
    kg.admin().reset_key(key.key.id, None).unwrap();
    assert_eq!([status(&kg, &key), status(&kg, &key)], [200, 429]);
    redis.kill();
    assert!(kg.admin().reset_key(key.key.id, None).is_err());
}

#[test]
fn fallback_policy_decides_without_redis() {
    for (fallback, expected) in [(Fallback::Deny, 503), (Fallback::Allow, 200)] {
        let (url, _redis) = late_redis();
        let home = Home::new();
        let config = home.config().redis_url(url).limiter_fallback(fallback);
        let kg = KeyGuard::open(home.file(), config).unwrap();
        let key = key(&kg, 1);
        let statuses: Vec<u16> = (0..3).map(|_| status(&kg, &key)).collect();
        assert_eq!(statuses, [expected; 3], "{fallback:?}");
    }
}

#[test]
fn hanging_redis_delays_one_request() {
    let (home, redis) = (Home::new(), Redis::start());
    let config = home
        .config()
        .redis_url(redis.url())
        .backend_deadline(Duration::from_millis(20));
    let kg = KeyGuard::open(home.file(), config).unwrap();
    let key = key(&kg, 1_000);
    assert_eq!(status(&kg, &key), 200);
    redis.pause();
    wait_until(|| {
        assert_eq!(status(&kg, &key), 200);
        !is_up(&kg)
    });
    let failures = kg.backends()[0].failures;
    assert!((1..=10).contains(&failures), "{failures}");
    redis.resume();
    wait_until(|| is_up(&kg));
}

#[test]
fn redis_with_eviction_is_refused() {
    let (home, redis) = (
        Home::new(),
        Redis::with(&["--maxmemory-policy", "allkeys-lru"]),
    );
    let error = KeyGuard::open(home.file(), home.config().redis_url(redis.url())).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("allkeys-lru") && said.contains("noeviction"),
        "{said}"
    );
}

/// A configuration with a long deadline.
fn database_config() -> Config {
    Config::new(SECRET).backend_deadline(PATIENT)
}

#[test]
fn cached_keys_are_accepted_for_a_time_without_the_database() {
    let mut server = Server::start();
    let database = server.database();
    let open = |stale_for| {
        let config = database_config().max_key_staleness(stale_for);
        KeyGuard::open(&database.url, config).unwrap()
    };
    let (kg, cautious) = (open(Duration::from_secs(600)), open(Duration::from_secs(1)));
    let (known, unknown) = (key(&kg, 1_000_000), key(&kg, 1_000_000));
    wait_until(|| status(&kg, &known) == 200 && status(&cautious, &known) == 200);
    server.kill();
    assert_eq!(status(&kg, &unknown), 503);
    wait_until(|| status(&cautious, &known) == 503);
    assert_eq!(status(&kg, &known), 200);
    let warnings = kg.backends().remove(0);
    assert_eq!((warnings.server, warnings.is_up), ("postgres", false));

    server.restart();
    wait_until(|| status(&kg, &known) == 200 && status(&kg, &unknown) == 200 && is_up(&kg));
}

#[test]
fn cached_keys_are_accepted_while_a_table_is_locked() {
    let database = Database::new();
    let config = database_config()
        .backend_deadline(Duration::from_millis(10))
        .max_database_connections(2)
        .max_key_staleness(Duration::from_secs(600));
    let kg = KeyGuard::open(&database.url, config).unwrap();
    let known = key(&kg, 1_000_000);
    wait_until(|| status(&kg, &known) == 200);
    let elsewhere = Home::new();
    let elsewhere = elsewhere.open();
    crate::common::org(&elsewhere, "acme");
    let unknown: Vec<_> = (0..100).map(|_| key(&elsewhere, 10)).collect();
    let tables = "LOCK TABLE keyguard_credentials, api_keys, organizations";
    holding(&database.url, tables, || {
        for round in 0..10 {
            for key in &unknown {
                assert_eq!(status(&kg, key), 503);
            }
            assert_eq!(status(&kg, &known), 200, "round {round}");
        }
        assert!(!is_up(&kg));
    });
    wait_until(|| status(&kg, &unknown[0]) == 401 && is_up(&kg));
}

#[test]
fn backend_failures_are_not_failed_authentications() {
    let mut server = Server::start();
    let database = server.database();
    let config = database_config().lockout_threshold(2);
    let kg = KeyGuard::open(&database.url, config).unwrap();
    let unread: Vec<_> = (0..20).map(|_| key(&kg, 10)).collect();
    server.kill();
    for key in &unread {
        assert_eq!(status(&kg, key), 503);
    }
    server.restart();
    wait_until(|| status(&kg, &unread[0]) == 200);
    assert!(kg.admin().list_blocks().is_empty());
}

#[test]
fn requests_get_503_until_the_database_is_up() {
    let mut server = Server::start();
    let database = server.database();
    let made = KeyGuard::open(&database.url, database_config()).unwrap();
    let key = key(&made, 1_000_000);
    made.close().unwrap();
    server.stop();
    let kg = KeyGuard::open(&database.url, database_config()).unwrap();
    assert_eq!(status(&kg, &key), 503);
    assert!(!is_up(&kg));
    server.restart();
    wait_until(|| status(&kg, &key) == 200);
}

#[test]
fn tightening_on_one_node_applies_on_the_other() {
    let database = Database::new();
    let open = || KeyGuard::open(&database.url, database_config()).unwrap();
    let (here, there) = (open(), open());
    let key = key(&here, 1_000_000);
    assert_eq!(status(&there, &key), 200);
    let update = UpdateKey::new(key.key.id).rate_limit_per_minute(1);
    here.admin().update_key(update).unwrap();
    wait_until(|| status(&there, &key) == 429);
    here.admin().suspend_org(key.key.org_id).unwrap();
    wait_until(|| status(&there, &key) == 401);
    here.admin().resume_org(key.key.org_id).unwrap();
    wait_until(|| status(&there, &key) == 429);
    here.admin().suspend_key(key.key.id).unwrap();
    wait_until(|| status(&there, &key) == 401);
    here.admin().resume_key(key.key.id).unwrap();
    wait_until(|| status(&there, &key) == 429);
    let rotated = here
        .admin()
        .rotate_key(RotateKey::new(key.key.id).grace(Duration::ZERO))
        .unwrap();
    wait_until(|| status(&there, &key) == 401 && status(&there, &rotated) == 429);
    here.admin().revoke_key(key.key.id).unwrap();
    wait_until(|| status(&there, &rotated) == 401);
}

#[test]
fn lock_on_one_node_starts_and_ends_on_the_other() {
    let database = Database::new();
    let open = || KeyGuard::open(&database.url, database_config()).unwrap();
    let (here, there) = (open(), open());
    let key = key(&here, 1_000_000);
    assert_eq!(status(&there, &key), 200);
    let hour = "1 hour".parse::<keyguard::LockDuration>().unwrap();
    here.admin().block(IP, None, hour).unwrap();
    wait_until(|| status(&there, &key) == 403);
    here.admin()
        .unblock("192.0.2.7".parse::<IpTarget>().unwrap(), None)
        .unwrap();
    wait_until(|| status(&there, &key) == 200);
}

#[test]
fn unknown_key_is_looked_up_once_and_accepted_after_creation() {
    let database = Database::new();
    let open = |deadline| {
        let config = database_config().backend_deadline(deadline);
        KeyGuard::open(&database.url, config).unwrap()
    };
    let (here, there) = (open(PATIENT), open(Duration::from_millis(200)));
    // A well-formed but unknown key.
    let elsewhere = Home::new();
    let stranger = key(&elsewhere.open(), 10);
    wait_until(|| status(&there, &stranger) == 401);
    let other = key(&elsewhere.open(), 10);
    let tables = "LOCK TABLE keyguard_credentials, api_keys IN ACCESS EXCLUSIVE MODE";
    holding(&database.url, tables, || {
        assert_eq!(status(&there, &other), 503, "needs a query");
        assert_eq!(status(&there, &stranger), 401, "needs no query");
    });
    let created = key(&here, 10);
    wait_until(|| status(&there, &created) == 200);
}

#[test]
fn decisions_work_from_threads_and_any_runtime() {
    let (database, redis) = (Database::new(), Redis::start());
    let config = database_config().redis_url(redis.url());
    let kg = KeyGuard::open(&database.url, config).unwrap();
    let keys: Vec<_> = (0..4).map(|_| key(&kg, 1_000_000)).collect();
    let headers = |at: usize| [("X-API-Key", keys[at].raw_key.expose())];
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(kg.check(&headers(0), IP, "/").is_ok()));
    });
    let single = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    // Works without the drivers of tokio, and more often than tokio's cooperative budget.
    single.block_on(async {
        for _ in 0..300 {
            assert!(kg.check(&headers(1), IP, "/").is_ok());
        }
    });
    single.block_on(async {
        let headers = headers(2);
        let request = Request::new(&headers, IP, "/");
        assert!(kg.decide_async(request).await.is_ok());
    });
    let multi = tokio::runtime::Runtime::new().unwrap();
    let (guard, text) = (kg.clone(), keys[3].raw_key.expose().to_owned());
    multi.block_on(async move {
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let (kg, text) = (guard.clone(), text.clone());
                tokio::spawn(async move {
                    let headers = [("X-API-Key", text.as_str())];
                    kg.decide_async(Request::new(&headers, IP, "/"))
                        .await
                        .is_ok()
                })
            })
            .collect();
        for task in tasks {
            assert!(task.await.unwrap());
        }
    });
}

#[test]
fn ip_limits_are_shared() {
    let (database, redis) = (Database::new(), Redis::start());
    let policy: Policy = "[[route]]\nname = 'login'\npath = '/login'\nip_limits = ['3/min']\n"
        .parse()
        .unwrap();
    let open = || {
        let config = database_config()
            .redis_url(redis.url())
            .policy(policy.clone());
        KeyGuard::open(&database.url, config).unwrap()
    };
    let (here, there) = (open(), open());
    let key = key(&here, 1_000_000);
    let headers = [("X-API-Key", key.raw_key.expose())];
    let check = |kg: &KeyGuard| kg.check(&headers, IP, "/login").map(drop);
    for kg in [&here, &there, &here] {
        assert!(check(kg).is_ok());
    }
    for kg in [&there, &here] {
        assert_eq!(check(kg).unwrap_err().reason(), Reason::IpLimited);
    }
    // Redis knows neither the address nor the key.
    let names: Vec<String> = redis.run("KEYS *");
    assert!(!names.is_empty());
    for name in names {
        assert!(
            !name.contains("192.0.2.7") && !name.contains("kg_live_"),
            "{name}"
        );
    }
}

#[test]
fn database_holds_usage_and_quotas_of_all_nodes() {
    let (database, redis) = (Database::new(), Redis::start());
    let open = || {
        let config = database_config().redis_url(redis.url());
        KeyGuard::open(&database.url, config).unwrap()
    };
    let (here, there) = (open(), open());
    crate::common::org(&here, "acme");
    let key = here
        .admin()
        .create_key(
            CreateKey::new("acme", "shop")
                .rate_limit_per_minute(1_000_000)
                .limits(vec!["10 monthly"]),
        )
        .unwrap();
    for kg in [&here, &there, &there] {
        assert_eq!(status(kg, &key), 200);
    }
    for kg in [here, there] {
        kg.close().unwrap();
    }
    // Redis has lost its data; the month continues from the database.
    let _: () = redis.run("FLUSHALL");
    let kg = open();
    assert_eq!(kg.admin().stats().unwrap().requests, 3);
    let admitted = (0..10).filter(|_| status(&kg, &key) == 200).count();
    assert_eq!(admitted, 7);
}
