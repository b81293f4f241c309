//! Memory by which a thread passes its events to the writer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::model::{KeyId, Method, Reason};
use crate::net::ClientIp;
use crate::policy::path::MAX_STORED_LEN;
use crate::store::{UsageBatch, UsageEvent};
use crate::sys::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::time::Timestamp;

/// The number of words in a chunk: 16 KiB, some 250 events. For loom, one event.
const WORDS: usize = if cfg!(loom) { MAX_EVENT } else { 2_048 };

/// The number of words of the longest event.
const MAX_EVENT: usize = HEAD + 2 + MAX_STORED_LEN.div_ceil(8);

/// The number of words of an event without an IPv6 address and a path.
const HEAD: usize = 4;

/// Events as words, which one thread appends and another one reads without a lock:
///
/// | word | from the highest bit |
/// |---|---|
/// | 0 | id of the key |
/// | 1 | ms since the Unix epoch (48 bits), status |
/// | 2 | latency (µs), IPv4 address or 0 |
/// | 3 | 0 (24 bits), length of the path (16 bits), method, reason or 0, kind of address |
/// | 2 more | IPv6 address, if it is one |
/// | rest | path, in little-endian |
pub(super) struct Chunk {
    words: [AtomicU64; WORDS],
    /// The number of words of whole events.
    len: AtomicUsize,
}

/// The kinds of addresses.
const LOCAL: u64 = 0;
const V4: u64 = 1;
const V6: u64 = 2;

impl Default for Chunk {
    fn default() -> Self {
        Self {
            words: std::array::from_fn(|_| AtomicU64::new(0)),
            len: AtomicUsize::new(0),
        }
    }
}

impl Chunk {
    /// The number of words of whole events. They are visible to the caller.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn clear(&self) {
        self.len.store(0, Ordering::Relaxed);
    }

    /// Writes an event and the first [`MAX_STORED_LEN`] bytes of its path behind the first `len` words.
    /// Returns the new length, or `None` if the chunk is full.
    ///
    /// Must not be called by two threads at a time.
    #[inline]
    pub(super) fn push(&self, len: usize, event: &UsageEvent, path: &[u8]) -> Option<usize> {
        let room: &[AtomicU64; MAX_EVENT] = self.words.get(len..)?.first_chunk()?;
        let path = path.get(..MAX_STORED_LEN).unwrap_or(path);
        let (kind, v4) = match event.ip.ip() {
            None => (LOCAL, 0),
            Some(IpAddr::V4(ip)) => (V4, ip.to_bits()),
            Some(IpAddr::V6(_)) => (V6, 0),
        };
        let refused = event.refused.map_or(0, |reason| reason as u8);
        let put = |at: usize, word| room[at].store(word, Ordering::Relaxed);
        put(0, event.key_id.0);
        put(1, event.at.unix_millis() << 16 | u64::from(event.status));
        put(2, u64::from(event.latency_micros) << 32 | u64::from(v4));
        let codes = u64::from(event.method as u8) << 16 | u64::from(refused) << 8 | kind;
        put(3, (path.len() as u64) << 24 | codes);
        let mut used = HEAD;
        if let Some(IpAddr::V6(ip)) = event.ip.ip() {
            put(HEAD, (ip.to_bits() >> 64) as u64);
            put(HEAD + 1, ip.to_bits() as u64);
            used += 2;
        }
        let (whole, rest) = path.as_chunks();
        for (word, bytes) in room[used..].iter().zip(whole) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        used += whole.len();
        if !rest.is_empty() {
            put(used, last_word(path, rest));
            used += 1;
        }
        self.len.store(len + used, Ordering::Release);
        Some(len + used)
    }

    /// Appends the events in some words to a batch.
    pub(super) fn read(&self, words: Range<usize>, batch: &mut UsageBatch) {
        let words = &self.words[words];
        let mut words = words.iter().map(|word| word.load(Ordering::Relaxed));
        while let Some(event) = read(&mut words, &mut batch.paths) {
            batch.events.push(event);
        }
    }
}

/// The last bytes of a path, fewer than 8, as a word.
#[inline]
fn last_word(path: &[u8], rest: &[u8]) -> u64 {
    match path.last_chunk() {
        Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * rest.len()),
        None => {
            let bytes = rest.iter().rev();
            bytes.fold(0, |word, byte| word << 8 | u64::from(*byte))
        }
    }
}

/// Reads one event, and appends its path.
fn read(words: &mut impl Iterator<Item = u64>, paths: &mut Vec<u8>) -> Option<UsageEvent> {
    let key_id = KeyId(words.next()?);
    let (time, latency, codes) = (words.next()?, words.next()?, words.next()?);
    let ip = match codes & 0xff {
        V4 => IpAddr::from(Ipv4Addr::from_bits(latency as u32)).into(),
        V6 => {
            let high = u128::from(words.next()?) << 64;
            IpAddr::from(Ipv6Addr::from_bits(high | u128::from(words.next()?))).into()
        }
        _ => ClientIp::LOCAL,
    };
    let path_len = (codes >> 24) as u16;
    let end = paths.len() + usize::from(path_len);
    while paths.len() < end {
        paths.extend_from_slice(&words.next()?.to_le_bytes());
    }
    paths.truncate(end);
    Some(UsageEvent {
        at: Timestamp::from_unix_millis(time >> 16),
        key_id,
        ip,
        latency_micros: (latency >> 32) as u32,
        status: time as u16,
        path_len,
        method: Method::from_code((codes >> 16) as u8).unwrap_or_default(),
        refused: Reason::from_code((codes >> 8) as u8),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_event() -> impl Strategy<Value = (UsageEvent, Vec<u8>)> {
        let ip = prop_oneof![
            Just(ClientIp::LOCAL),
            any::<[u8; 4]>().prop_map(|octets| IpAddr::from(octets).into()),
            any::<[u8; 16]>().prop_map(|octets| IpAddr::from(octets).into()),
        ];
        let path = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..30),
            prop::collection::vec(any::<u8>(), MAX_STORED_LEN),
        ];
        let codes = (any::<u16>(), 0..10_u8, any::<u8>());
        let numbers = (0..=Timestamp::MAX.unix_millis(), any::<u64>(), any::<u32>());
        (numbers, codes, ip, path).prop_map(|(numbers, (status, method, reason), ip, path)| {
            let event = UsageEvent {
                at: Timestamp::from_unix_millis(numbers.0),
                key_id: KeyId(numbers.1),
                ip,
                latency_micros: numbers.2,
                status,
                path_len: path.len() as u16,
                method: Method::from_code(method).unwrap(),
                refused: Reason::from_code(reason),
            };
            (event, path)
        })
    }

    proptest! {
        #[test]
        fn events_read_back_in_order(events in prop::collection::vec(any_event(), 1..40)) {
            let chunk = Chunk::default();
            let mut read = UsageBatch::default();
            let mut len = 0;
            for (event, path) in &events {
                let before = len;
                len = chunk.push(len, event, path).unwrap();
                prop_assert_eq!(chunk.len(), len);
                chunk.read(before..len, &mut read);
            }
            let mut at_once = UsageBatch::default();
            chunk.read(0..len, &mut at_once);
            for batch in [read, at_once] {
                let paths: Vec<u8> = events.iter().flat_map(|(_, path)| path.clone()).collect();
                prop_assert_eq!(batch.paths, paths);
                let events = events.iter().map(|(event, _)| format!("{event:?}"));
                let read = batch.events.iter().map(|event| format!("{event:?}"));
                prop_assert_eq!(read.collect::<Vec<_>>(), events.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_full_chunk_takes_no_event() {
        let (event, path) = (longest(), [b'a'; MAX_STORED_LEN]);
        let chunk = Chunk::default();
        let mut len = 0;
        while let Some(longer) = chunk.push(len, &event, &path) {
            assert!(longer - len <= MAX_EVENT && longer <= WORDS);
            len = longer;
        }
        assert!(WORDS - len < MAX_EVENT);
        assert_eq!(chunk.len(), len);
    }

    fn longest() -> UsageEvent {
        UsageEvent {
            at: Timestamp::MAX,
            key_id: KeyId(u64::MAX),
            ip: IpAddr::from([0xff; 16]).into(),
            latency_micros: u32::MAX,
            status: u16::MAX,
            path_len: MAX_STORED_LEN as u16,
            method: Method::Patch,
            refused: Some(Reason::Overloaded),
        }
    }
}
