use super::*;
use crate::model::Usage;
use proptest::prelude::*;
use std::time::Duration;

/// The event that is recorded as `usage`.
fn event_of(usage: &Usage) -> UsageEvent {
    UsageEvent {
        at: usage.at,
        key_id: usage.key_id.unwrap(),
        ip: usage.ip,
        latency_micros: u32::try_from(usage.latency.as_micros()).unwrap(),
        status: usage.status,
        path_len: u16::try_from(usage.path.len()).unwrap(),
        method: usage.method,
        refused: usage.refused,
    }
}

fn write(rows: &[Usage]) -> UsageBlockWriter {
    let mut writer = UsageBlockWriter::new();
    for usage in rows {
        writer
            .push(&event_of(usage), usage.path.as_bytes())
            .unwrap();
    }
    writer
}

fn read(block: &[u8]) -> Result<Vec<Usage>, StoreError> {
    UsageBlockReader::new(block)
        .map(|row| row.map(|(event, path)| event.to_usage(path)))
        .collect()
}

fn any_usage() -> impl Strategy<Value = Usage> {
    let ip = prop_oneof![
        Just(ClientIp::LOCAL),
        any::<[u8; 4]>().prop_map(|octets| IpAddr::from(octets).into()),
        any::<[u8; 16]>().prop_map(|octets| IpAddr::from(octets).into()),
        (0..4_u8).prop_map(|last| IpAddr::from([10, 0, 0, last]).into()),
    ];
    (
        0..=Timestamp::MAX.unix_millis(),
        prop_oneof![0..5_u64, any::<u64>()],
        prop_oneof!["/[ab]", "/[a-zé]{0,40}"],
        ip,
        (0..10_u8, any::<u16>(), 0..16_u8),
        any::<u32>(),
    )
        .prop_map(
            |(at, key, path, ip, (method, status, reason), latency)| Usage {
                at: Timestamp::from_unix_millis(at),
                key_id: Some(KeyId(key)),
                method: Method::from_code(method).unwrap(),
                path,
                ip,
                status,
                latency: Duration::from_micros(latency.into()),
                refused: Reason::from_code(reason),
            },
        )
}

fn some_usage() -> impl Strategy<Value = Vec<Usage>> {
    prop::collection::vec(any_usage(), 1..60)
}

proptest! {
    #[test]
    fn rows_read_back_in_order(rows in some_usage()) {
        let writer = write(&rows);
        prop_assert_eq!(read(writer.bytes()).unwrap(), rows.clone());
        prop_assert_eq!(writer.times().unwrap().first, rows.iter().map(|row| row.at).min().unwrap());
        prop_assert_eq!(writer.times().unwrap().last, rows.iter().map(|row| row.at).max().unwrap());
    }

    #[test]
    fn a_resumed_block_equals_an_uninterrupted_one(rows in some_usage(), at in 0..60_usize) {
        let at = at % rows.len();
        let mut resumed = UsageBlockWriter::resume(write(&rows[..at]).bytes().to_vec()).unwrap();
        for usage in &rows[at..] {
            resumed.push(&event_of(usage), usage.path.as_bytes()).unwrap();
        }
        let whole = write(&rows);
        prop_assert_eq!(resumed.bytes(), whole.bytes());
        prop_assert_eq!(resumed.times(), whole.times());
    }

    #[test]
    fn a_cleared_writer_equals_a_new_one(before in some_usage(), rows in some_usage()) {
        let mut writer = write(&before);
        writer.clear();
        for usage in &rows {
            writer.push(&event_of(usage), usage.path.as_bytes()).unwrap();
        }
        let fresh = write(&rows);
        prop_assert_eq!(writer.bytes(), fresh.bytes());
        prop_assert_eq!(writer.times(), fresh.times());
    }

    #[test]
    fn truncated_blocks_yield_a_prefix_of_the_rows(rows in some_usage(), cut: prop::sample::Index) {
        let writer = write(&rows);
        let block = &writer.bytes()[..cut.index(writer.bytes().len())];
        let read: Vec<_> = UsageBlockReader::new(block).collect();
        for ((event, path), expected) in read.iter().flatten().zip(&rows) {
            prop_assert_eq!(&event.to_usage(path), expected);
        }
    }

    #[test]
    fn altered_blocks_never_panic(
        rows in some_usage(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut block = write(&rows).bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(block.len());
            block[at] = byte;
        }
        let _ = read(&block);
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut block: Vec<u8>) {
        let _ = read(&block);
        if let Some(tag) = block.first_mut() {
            *tag = SCHEMA;
        }
        let _ = read(&block);
    }
}

#[test]
fn no_row_exceeds_the_maximum_length() {
    let mut writer = UsageBlockWriter::new();
    let longest = |at: u64| UsageEvent {
        at: Timestamp::from_unix_millis(at),
        key_id: KeyId(u64::MAX),
        ip: IpAddr::from([0xff; 16]).into(),
        latency_micros: u32::MAX,
        status: u16::MAX,
        path_len: u16::MAX,
        method: Method::Patch,
        refused: Some(Reason::Overloaded),
    };
    writer.push(&longest(u64::MAX), &[b'a'; 65_535]).unwrap();
    let first = writer.bytes().len();
    writer.push(&longest(0), &[b'b'; 65_535]).unwrap();
    assert!(first.max(writer.bytes().len() - first) <= MAX_ROW_LEN);
    let rows = read(writer.bytes()).unwrap();
    assert_eq!(rows[1].path, "b".repeat(MAX_STORED_LEN));
}

/// 100 keys × 50 paths × 1,000 addresses, latencies of 0.1 to 20 ms, one request per ms.
fn typical(n: u64) -> (UsageEvent, String) {
    let mut random = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    random ^= random >> 29;
    random = random.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    random ^= random >> 32;
    let address = (random >> 8) % 1_000;
    let path = format!("/api/v1/resource/{}", random % 50);
    let event = UsageEvent {
        at: Timestamp::from_unix_millis(1_800_000_000_000 + n),
        key_id: KeyId(1 + (random >> 20) % 100),
        // Both parts are below 256.
        ip: IpAddr::from([10, 0, (address / 250) as u8, (address % 250) as u8]).into(),
        latency_micros: 100 + u32::try_from((random >> 30) % 20_000).unwrap(),
        status: [200, 200, 200, 201, 404][usize::try_from((random >> 50) % 5).unwrap()],
        path_len: u16::try_from(path.len()).unwrap(),
        method: [Method::Get, Method::Post][usize::from(random >> 60 & 1 == 1)],
        refused: None,
    };
    (event, path)
}

#[test]
fn a_typical_row_takes_less_than_10_bytes() {
    let mut writer = UsageBlockWriter::new();
    let mut rows = 0;
    while writer.has_room() {
        let (event, path) = typical(rows);
        writer.push(&event, path.as_bytes()).unwrap();
        rows += 1;
    }
    let per_row = writer.bytes().len() as f64 / rows as f64;
    println!("{per_row:.2} bytes a row, {rows} rows a block");
    assert!(per_row < 10.0, "{per_row} bytes a row");
    assert!(writer.bytes().len() <= CAPACITY);
}
