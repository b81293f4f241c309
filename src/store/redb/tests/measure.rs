//! Figures of design section 4, in a release build:
//! `cargo test --release --lib store::redb::tests::measure -- --ignored --nocapture`

use super::*;
use std::time::Instant;

fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// 100 keys × 50 paths × 1,000 addresses.
fn typical(n: u64, at: Timestamp) -> (UsageEvent, &'static str) {
    static PATHS: std::sync::LazyLock<Vec<String>> =
        std::sync::LazyLock::new(|| (0..50).map(|n| format!("/api/v1/resource/{n}")).collect());
    let random = u64::from_le_bytes(hash(n).0[..8].try_into().unwrap());
    let address = u32::try_from(random % 1_000).unwrap() | 0x0a00_0000;
    let event = UsageEvent {
        ip: IpAddr::from(address.to_be_bytes()).into(),
        latency_micros: u32::try_from(100 + (random >> 10) % 20_000).unwrap(),
        status: if (random >> 30) % 10 == 0 { 404 } else { 200 },
        ..event(1 + (random >> 40) % 100, at)
    };
    let path = usize::try_from((random >> 50) % 50).unwrap();
    (event, PATHS[path].as_str())
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
#[ignore = "a measurement, for release builds"]
fn bytes_per_request() {
    for (name, total, per_batch, millis_per_batch) in [
        ("5,000 a second", 1_000_000, 1_000, 200),
        ("10 a second", 200_000, 2, 200),
    ] {
        let file = File::new();
        let store = with_keys(&file, 100);
        let before = len(&file.path);
        let start = Instant::now();
        let mut in_record = Duration::ZERO;
        for n in 0..total / per_batch {
            let at = NOW.plus(Duration::from_millis(n * millis_per_batch));
            let events = batch((0..per_batch).map(|m| typical(n * per_batch + m, at)));
            let start = Instant::now();
            store.record(&events).unwrap();
            in_record += start.elapsed();
        }
        let open = (len(&file.path) - before) as f64 / total as f64;
        let elapsed = millis(start);
        drop(store);
        let closed = len(&file.path).saturating_sub(before) as f64 / total as f64;
        println!(
            "{name}: {open:.2} bytes a request, {closed:.2} once closed; {:.0} ns a request, \
             {elapsed:.0} ms in all",
            in_record.as_nanos() as f64 / total as f64
        );
    }
}

#[test]
#[ignore = "a measurement, for release builds"]
fn a_million_keys() {
    let file = File::new();
    let start = Instant::now();
    let store = with_keys(&file, 1_000_000);
    println!(
        "created in {:.0} ms, {} MiB",
        millis(start),
        len(&file.path) >> 20
    );

    let start = Instant::now();
    for n in 0..100_000 {
        assert!(store.resolve(&hash(1 + n * 10)).unwrap().is_some());
    }
    println!("resolve: {:.1} µs", millis(start) / 100.0);

    let everyone = batch((0..1_000_000).map(|n| (event(1 + n, NOW), "/data")));
    let start = Instant::now();
    store.record(&everyone).unwrap();
    println!("one request by each, recorded in {:.0} ms", millis(start));
    for n in 0..100 {
        let at = NOW.plus(Duration::from_secs(60 * n));
        let events = batch((0..90_000).map(|m| typical(n * 90_000 + m, at)));
        store.record(&events).unwrap();
    }
    println!("{} MiB with 10 M requests", len(&file.path) >> 20);
    let start = Instant::now();
    store.record(&requests(1, NOW, 1)).unwrap();
    println!("one more request: {:.2} ms", millis(start));

    for _ in 0..3 {
        let start = Instant::now();
        let totals = store.totals(after(99)).unwrap();
        println!("totals: {:.3} ms, {:?}", millis(start), totals.all_time);
    }
    let start = Instant::now();
    assert_eq!(
        store.usage(None, after(99), usize::MAX).unwrap().len(),
        90_000
    );
    println!("90,000 rows of usage: {:.1} ms", millis(start));
    let start = Instant::now();
    store.prune(NOW, after(99)).unwrap();
    println!("nothing to prune: {:.2} ms", millis(start));

    let killed = file.killed();
    // What a copy costs the disk is not what opening it costs.
    fs::File::open(&killed.path).unwrap().sync_all().unwrap();
    drop(store);
    let wrong = Instant::now();
    assert!(RedbStore::open(&file.path, OTHER_SECRET, NOW, CACHE).is_err());
    println!("refused: {:.2} ms", millis(wrong));
    for (name, path) in [("clean", &file.path), ("after a kill", &killed.path)] {
        let start = Instant::now();
        let store = open(path).unwrap();
        let opened = millis(start);
        store.record(&requests(1, NOW, 1)).unwrap();
        println!(
            "{name}: open {opened:.2} ms, with a first record {:.2} ms",
            millis(start)
        );
    }
}
