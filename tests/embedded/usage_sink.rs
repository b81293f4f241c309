//! Single requests that go to a sink, in addition to the data file or instead of it.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::common::{Home, IP, check, check_with, key, key_limited_to};
use keyguard::{IpLimit, JsonLines, ListUsage, Method, Reason, Request, Usage, UsageSink};
use parking_lot::Mutex;
use serde_json::Value;

/// A sink that keeps what it receives, or refuses it while it is away. The writer may come at any time, so
/// it is away until a test calls it back, and not for a number of calls.
#[derive(Clone, Default)]
struct Taker(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    events: Vec<Usage>,
    is_away: bool,
}

impl Taker {
    fn away() -> Self {
        let taker = Self::default();
        taker.0.lock().is_away = true;
        taker
    }

    fn is_away(&self) -> bool {
        self.0.lock().is_away
    }

    fn come_back(&self) {
        self.0.lock().is_away = false;
    }

    fn events(&self) -> Vec<Usage> {
        self.0.lock().events.clone()
    }

    fn statuses(&self) -> Vec<u16> {
        self.events().iter().map(|usage| usage.status).collect()
    }
}

impl UsageSink for Taker {
    fn write(&mut self, batch: &[Usage]) -> io::Result<()> {
        let mut taken = self.0.lock();
        if taken.is_away {
            return Err(io::Error::other("the queue is away"));
        }
        taken.events.extend_from_slice(batch);
        Ok(())
    }
}

#[test]
fn requests_go_to_the_sink_and_the_file() {
    for only in [false, true] {
        let home = Home::new();
        let taker = Taker::default();
        let config = home.config().usage_sink(taker.clone());
        let kg = home.open_with(config.usage_sink_only(only));
        let key = key_limited_to(&kg, 2);
        for status in [200, 201] {
            check(&kg, &key).unwrap().finish(status);
        }
        check(&kg, &key).unwrap_err();
        let stats = kg.admin().stats().unwrap();
        assert_eq!((stats.requests, stats.dropped), (3, 0));
        assert_eq!(taker.statuses(), [200, 201, 429]);
        assert_eq!(taker.events()[0].path, "/api/data");
        let kept = kg.admin().list_usage(ListUsage::new()).unwrap();
        match only {
            true => assert_eq!(kept, []),
            false => assert_eq!(kept, taker.events()),
        }
        assert!(
            kg.admin()
                .get_key(key.key.id)
                .unwrap()
                .last_used_at
                .is_some()
        );
    }
}

#[test]
fn denials_without_a_known_key_go_to_the_sink_only() {
    let home = Home::new();
    let taker = Taker::default();
    let kg = home.open_with(home.config().usage_sink(taker.clone()));
    let key = key(&kg);
    check_with(&kg, "nonsense").unwrap_err();
    check(&kg, &key).unwrap().finish(200);
    home.clock.advance(Duration::from_millis(1));
    let no_headers: [(&str, &str); 0] = [];
    let request = Request::new(&no_headers, IP, "/orders?page=2").method("PUT");
    kg.decide(request).unwrap_err();
    let login = IpLimit::new("login", "1/min").unwrap();
    for _ in 0..2 {
        let _ = kg.check_ip(&login, Request::new(&(), IP, "/login"));
    }
    let stats = kg.admin().stats().unwrap();
    assert_eq!((stats.requests, stats.dropped), (4, 0));
    let taken = taker.events();
    let all: Vec<_> = taken
        .iter()
        .map(|usage| {
            (
                usage.key_id,
                usage.path.as_str(),
                usage.status,
                usage.refused,
            )
        })
        .collect();
    let expected = [
        (Some(key.key.id), "/api/data", 200, None),
        (None, "/api/data", 401, Some(Reason::MalformedKey)),
        (None, "/orders", 401, Some(Reason::MissingKey)),
        (None, "/login", 429, Some(Reason::IpLimited)),
    ];
    assert_eq!(all, expected);
    assert_eq!((taken[2].method, taken[2].ip), (Method::Put, IP.into()));
    assert_eq!(kg.admin().list_usage(ListUsage::new()).unwrap().len(), 1);
}

#[test]
fn keys_in_paths_are_shortened_before_they_are_recorded() {
    let home = Home::new();
    let taker = Taker::default();
    let kg = home.open_with(home.config().usage_sink(taker.clone()));
    let key = key(&kg);
    let text = key.raw_key.expose();
    let unknown = "kg_live_2loam6jy9PNDwjKpPpShaRI8k1BYhn-t0PeWeGdlHm03z7H35";
    let escaped = |times: usize| {
        let escape = |byte| format!("%{}{byte:02x}", "25".repeat(times - 1));
        text.bytes().map(escape).collect::<String>()
    };
    let cut = format!("/{}/{text}", "a".repeat(200));
    let paths = [
        format!("/{text}/x"),
        format!("/%6b{}/x", &text[1..]),
        format!("/{}/x", escaped(1)),
        format!("/{}/x", escaped(2)),
        format!("/{unknown}/x"),
        cut,
        "/api/data".to_owned(),
    ];
    for path in &paths {
        let headers = [("X-API-Key", text)];
        kg.check(&headers, IP, path).unwrap().finish(200);
        kg.check(&[("X-API-Key", unknown)], IP, path).unwrap_err();
        let request = Request::new(&headers, IP, path);
        let shown = format!("{request:?}");
        assert!(!shown.contains(&text[12..24]), "{shown}");
    }
    kg.admin().stats().unwrap();
    let shown = &text[..12];
    let expected = [
        format!("/{shown}…/x"),
        format!("/{shown}…/x"),
        format!("/{shown}…/x"),
        // Cut within the key.
        format!("/{shown}…"),
        format!("/{}…/x", &unknown[..12]),
        format!("/{}/{shown}…", "a".repeat(200)),
        "/api/data".to_owned(),
    ];
    let paths = |usage: &[Usage], status| {
        let usage = usage.iter().filter(|usage| usage.status == status);
        usage.map(|usage| usage.path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(paths(&taker.events(), 200), expected);
    assert_eq!(paths(&taker.events(), 401), expected);
    let kept = kg.admin().list_usage(ListUsage::new()).unwrap();
    assert_eq!(paths(&kept, 200), expected);
    drop(kg);
    let file = std::fs::read(home.file()).unwrap();
    let whole = text.as_bytes();
    assert!(!file.windows(whole.len()).any(|bytes| bytes == whole));
}

#[test]
fn flood_without_keys_is_bounded_before_a_sink() {
    let home = Home::new();
    let taker = Taker::away();
    let config = home
        .config()
        .usage_queue_capacity(1_024)
        .usage_sink(taker.clone());
    let kg = home.open_with(config);
    for _ in 0..3_000 {
        check_with(&kg, "nonsense").unwrap_err();
    }
    kg.flush().unwrap_err();
    taker.come_back();
    let stats = kg.admin().stats().unwrap();
    assert_eq!(stats.requests, 3_000, "all are counted");
    assert_eq!(taker.statuses().len() as u64, 3_000 - stats.dropped);
    assert!(taker.statuses().len() <= 1_024);
}

#[test]
fn refused_events_are_retried_in_order() {
    let home = Home::new();
    let taker = Taker::away();
    let kg = home.open_with(home.config().usage_sink(taker.clone()));
    let key = key(&kg);
    check(&kg, &key).unwrap().finish(200);
    let error = kg.flush().unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("the queue is away"), "{cause}");
    check(&kg, &key).unwrap().finish(201);
    kg.flush().unwrap_err();
    taker.come_back();
    check(&kg, &key).unwrap().finish(202);
    kg.flush().unwrap();
    assert_eq!(taker.statuses(), [200, 201, 202]);
    let stats = kg.admin().stats().unwrap();
    assert_eq!((stats.requests, stats.dropped), (3, 0));
}

#[test]
fn events_for_an_unavailable_sink_are_bounded_and_drops_counted() {
    let home = Home::new();
    let taker = Taker::away();
    let config = home
        .config()
        .usage_queue_capacity(1_024)
        .usage_sink(taker.clone());
    let kg = home.open_with(config);
    let key = key_limited_to(&kg, 1_000_000);
    for _ in 0..30 {
        for _ in 0..100 {
            check(&kg, &key).unwrap().finish(200);
        }
        kg.flush().unwrap_err();
    }
    taker.come_back();
    let stats = kg.admin().stats().unwrap();
    assert_eq!(stats.requests, 3_000);
    assert_eq!(taker.statuses().len() as u64, 3_000 - stats.dropped);
    assert_eq!(taker.statuses().len(), 1_024);
    let warning = "requests were not written to the sink, because it is too slow";
    let mut warnings = stats.warnings.iter();
    assert!(warnings.any(|text| text.starts_with(warning)));
}

/// A sink that panics while the one behind it is away.
struct Panicking(Taker);

impl UsageSink for Panicking {
    fn write(&mut self, batch: &[Usage]) -> io::Result<()> {
        assert!(!self.0.is_away(), "no such queue");
        self.0.write(batch)
    }
}

#[test]
fn panicking_sink_blocks_nothing_and_gets_the_same_events_again() {
    let home = Home::new();
    let taker = Taker::away();
    let sink = Panicking(taker.clone());
    let kg = home.open_with(home.config().usage_sink(sink));
    let key = key(&kg);
    check(&kg, &key).unwrap().finish(200);
    let error = kg.flush().unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        cause.contains("the sink panicked: no such queue"),
        "{cause}"
    );
    kg.admin().stats().unwrap();
    taker.come_back();
    kg.flush().unwrap();
    assert_eq!(taker.statuses(), [200]);
    check(&kg, &key).unwrap().finish(201);
    kg.close().unwrap();
    assert_eq!(taker.statuses(), [200, 201]);
}

#[test]
fn guard_with_a_panicking_sink_can_be_closed_and_dropped() {
    for closes in [true, false] {
        let home = Home::new();
        let sink = Panicking(Taker::away());
        let kg = home.open_with(home.config().usage_sink(sink));
        let key = key(&kg);
        check(&kg, &key).unwrap().finish(200);
        match closes {
            true => drop(kg.close().unwrap_err()),
            false => drop(kg),
        }
        let kg = home.open();
        assert_eq!(kg.admin().stats().unwrap().requests, 1, "the file has all");
    }
}

#[test]
fn failing_sink_is_reported_until_it_works() {
    let home = Home::new();
    let taker = Taker::away();
    let kg = home.open_with(home.config().usage_sink(taker.clone()));
    let key = key_limited_to(&kg, 1);
    check(&kg, &key).unwrap().finish(200);
    kg.flush().unwrap_err();
    let stats = kg.admin().stats().unwrap();
    assert_eq!((stats.requests, stats.dropped), (1, 0));
    assert!(stats.sink_failures > 0);
    let is_named = |text: &String| text.contains("usage sink") && text.contains("away");
    assert!(stats.warnings.iter().any(is_named), "{:?}", stats.warnings);
    kg.admin().reset_key(key.key.id, None).unwrap();
    check(&kg, &key).unwrap().finish(200);
    assert_eq!(kg.admin().list_usage(ListUsage::new()).unwrap().len(), 2);

    taker.come_back();
    kg.flush().unwrap();
    let stats = kg.admin().stats().unwrap();
    assert!(!stats.warnings.iter().any(is_named), "{:?}", stats.warnings);
    assert!(stats.sink_failures > 0, "the count stays");
    assert_eq!(taker.statuses(), [200, 200]);
}

#[test]
fn close_delivers_pending_events() {
    let home = Home::new();
    let taker = Taker::default();
    let kg = home.open_with(home.config().usage_sink(taker.clone()));
    let key = key(&kg);
    check(&kg, &key).unwrap().finish(200);
    kg.close().unwrap();
    assert_eq!(taker.statuses(), [200]);
}

#[test]
fn json_line_describes_one_request() {
    let home = Home::new();
    let file = home.dir().join("usage.ndjson");
    let config = home.config().usage_sink(JsonLines::append(&file).unwrap());
    let kg = home.open_with(config);
    let key = key(&kg);
    let grant = check(&kg, &key).unwrap();
    home.clock.advance(Duration::from_micros(1_250));
    grant.finish(200);
    kg.admin().revoke_key(key.key.id).unwrap();
    check(&kg, &key).unwrap_err();
    home.clock.advance(Duration::from_millis(1));
    check_with(&kg, "nonsense").unwrap_err();
    kg.close().unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let expected = serde_json::json!({
        "at": "2026-01-15T12:00:00Z", "key_id": 1, "method": "-", "path": "/api/data",
        "ip": "192.0.2.7", "status": 200, "latency_us": 1250, "refused": null,
    });
    assert_eq!(lines[0], expected);
    assert_eq!(lines[1]["refused"], "revoked_key");
    assert_eq!(
        (&lines[2]["key_id"], &lines[2]["status"]),
        (&Value::Null, &401.into())
    );
    assert_eq!(lines.len(), 3);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;

        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

/// Once, the first record after a kill was appended to the incomplete line.
#[test]
fn line_cut_off_by_a_kill_does_not_corrupt_the_next() {
    let home = Home::new();
    let file = home.dir().join("usage.ndjson");
    for (before, whole) in [
        ("{\"at\":\"2026", &[false, true][..]),
        ("{}\n", &[true, true]),
        ("\n{\"at", &[false, false, true]),
        ("", &[true]),
    ] {
        std::fs::write(&file, before).unwrap();
        let config = home.config().usage_sink(JsonLines::append(&file).unwrap());
        let kg = home.open_with(config);
        let key = key(&kg);
        check(&kg, &key).unwrap().finish(200);
        kg.close().unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines();
        let found: Vec<bool> = lines
            .map(|line| serde_json::from_str::<Value>(line).is_ok())
            .collect();
        assert_eq!(found, whole, "{text}");
    }
}

#[test]
fn truncated_line_does_not_corrupt_the_next() {
    let home = Home::new();
    let text = Arc::new(Mutex::new(Vec::new()));
    /// Fails once in the middle of a batch.
    struct Half(Arc<Mutex<Vec<u8>>>, u8);
    impl Write for Half {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            let taken = match self.1 {
                1 => bytes.len() / 2,
                2 => return Err(io::Error::other("no room")),
                _ => bytes.len(),
            };
            self.0.lock().extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let sink = JsonLines::new(Half(Arc::clone(&text), 0));
    let kg = home.open_with(home.config().usage_sink(sink));
    let key = key(&kg);
    check(&kg, &key).unwrap().finish(200);
    kg.flush().unwrap_err();
    kg.flush().unwrap();
    let text = String::from_utf8(text.lock().clone()).unwrap();
    let whole: Vec<bool> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).is_ok())
        .collect();
    assert_eq!(whole, [false, true], "{text}");
}
