//! Raw usage, packed: some 9 bytes a request.
//!
//! ```text
//! block  tag, time of the first row (ms since the Unix epoch), rows
//! row    time     difference to the row before, in ms, zigzag
//!        key      index | its id
//!        path     index | length, bytes
//!        ip       index | 0 | 4, 4 bytes | 6, 16 bytes
//!        outcome  index | method, status, reason or 0
//!        latency  µs
//! ```
//!
//! All numbers are varints. The four middle fields are indices into dictionaries that start
//! empty; an index that equals the length of its dictionary is followed by one new entry. A row
//! therefore depends only on rows before it, and a block is the concatenation of whatever pieces
//! it was written in.

use std::borrow::Borrow;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use foldhash::quality::RandomState;
use hashbrown::HashMap;

use super::varint::{self, Bytes, put, unzigzag, zigzag};
use super::{StoreError, damaged};
use crate::model::{KeyId, Method, Reason, Usage};
use crate::net::ClientIp;
use crate::policy::path::MAX_STORED_LEN;
use crate::store::UsageEvent;
use crate::time::Timestamp;

/// The longest block whose leaf page in redb still is 64 KiB: the page also holds 4 bytes of
/// header, the 8-byte key and the 4-byte end of the value.
pub(crate) const CAPACITY: usize = 65_536 - 16;

const TAG: u8 = 1;

/// No row is longer: eleven numbers, an IPv6 address and a path.
const MAX_ROW_LEN: usize = 11 * varint::MAX_LEN + 16 + MAX_STORED_LEN;

/// A block that grows. Its dictionaries hold no more than its bytes do.
pub(crate) struct BlockWriter {
    bytes: Vec<u8>,
    at: u64,
    period: Option<Period>,
    keys: Dictionary<u64>,
    paths: Dictionary<Box<[u8]>>,
    ips: Dictionary<ClientIp>,
    outcomes: Dictionary<EventOutcome>,
}

/// The earliest and the latest time in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period {
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
}

impl BlockWriter {
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(CAPACITY),
            at: 0,
            period: None,
            keys: Dictionary::default(),
            paths: Dictionary::default(),
            ips: Dictionary::default(),
            outcomes: Dictionary::default(),
        }
    }

    /// Continues a block from its bytes so far.
    pub(crate) fn resume(bytes: Vec<u8>) -> Result<Self, StoreError> {
        let mut reader = BlockReader::new(&bytes);
        let mut period = None;
        for row in reader.by_ref() {
            widen(&mut period, row?.at);
        }
        let (at, keys, ips) = (reader.at, reader.keys, reader.ips);
        let (paths, outcomes) = (reader.paths, reader.outcomes);
        Ok(Self {
            at,
            period,
            keys: keys.into_iter().collect(),
            paths: paths.into_iter().map(Box::from).collect(),
            ips: ips.into_iter().collect(),
            outcomes: outcomes.into_iter().collect(),
            bytes,
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `None` while the block is empty.
    pub(crate) fn span(&self) -> Option<Period> {
        self.period
    }

    /// Whether one more row fits, whichever it is.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes.len() + MAX_ROW_LEN <= CAPACITY
    }

    /// Makes this an empty block, without giving its memory back.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.period = None;
        self.keys.0.clear();
        self.paths.0.clear();
        self.ips.0.clear();
        self.outcomes.0.clear();
    }

    /// Appends a row. Of a path only the first 256 bytes are kept.
    pub(crate) fn push(&mut self, event: &UsageEvent, path: &[u8]) {
        let at = event.at.unix_millis();
        if self.bytes.is_empty() {
            self.bytes.push(TAG);
            put(&mut self.bytes, at);
            self.at = at;
        }
        widen(&mut self.period, event.at);
        let out = &mut self.bytes;
        // Milliseconds up to the year 9999 are 48 bits: the difference cannot wrap.
        put(out, zigzag(at.wrapping_sub(self.at) as i64));
        self.at = at;
        self.keys.put(out, &event.key_id.0, |&id, out| put(out, id));
        let path = path.get(..MAX_STORED_LEN).unwrap_or(path);
        self.paths.put(out, path, |path, out| {
            put(out, path.len() as u64);
            out.extend_from_slice(path);
        });
        self.ips.put(out, &event.ip, |ip, out| match ip.ip() {
            None => out.push(0),
            Some(IpAddr::V4(ip)) => {
                out.push(4);
                out.extend_from_slice(&ip.octets());
            }
            Some(IpAddr::V6(ip)) => {
                out.push(6);
                out.extend_from_slice(&ip.octets());
            }
        });
        let outcome = EventOutcome {
            method: event.method,
            status: event.status,
            refused: event.refused,
        };
        self.outcomes.put(out, &outcome, |outcome, out| {
            out.push(outcome.method as u8);
            put(out, u64::from(outcome.status));
            out.push(outcome.refused.map_or(0, |reason| reason as u8));
        });
        put(out, u64::from(event.latency_micros));
    }
}

fn widen(period: &mut Option<Period>, at: Timestamp) {
    let period = period.get_or_insert(Period {
        first: at,
        last: at,
    });
    period.first = period.first.min(at);
    period.last = period.last.max(at);
}

/// Values and the order in which they first came.
struct Dictionary<T>(HashMap<T, u32, RandomState>);

impl<T: Hash + Eq> Dictionary<T> {
    /// Writes the index of `value` and, if it is new, `value` itself by `literal`.
    #[inline]
    fn put<Q>(&mut self, out: &mut Vec<u8>, value: &Q, literal: impl FnOnce(&Q, &mut Vec<u8>))
    where
        Q: Hash + Eq + ToOwned<Owned: Into<T>> + ?Sized,
        T: Borrow<Q>,
    {
        if let Some(&index) = self.0.get(value) {
            return put(out, u64::from(index));
        }
        // A block has fewer than 65,536 bytes, so fewer entries.
        let index = self.0.len() as u32;
        put(out, u64::from(index));
        literal(value, out);
        self.0.insert(value.to_owned().into(), index);
    }
}

impl<T> Default for Dictionary<T> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<T: Hash + Eq> FromIterator<T> for Dictionary<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self(values.into_iter().zip(0..).collect())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct EventOutcome {
    method: Method,
    status: u16,
    refused: Option<Reason>,
}

/// The rows of a block, first to last. After an error there are no more.
pub(crate) struct BlockReader<'a> {
    rest: Bytes<'a>,
    at: u64,
    keys: Vec<u64>,
    paths: Vec<&'a [u8]>,
    ips: Vec<ClientIp>,
    outcomes: Vec<EventOutcome>,
}

/// One row of a block.
pub(crate) struct Row<'a> {
    pub(crate) at: Timestamp,
    pub(crate) key_id: KeyId,
    path: &'a [u8],
    ip: ClientIp,
    outcome: EventOutcome,
    latency_micros: u32,
}

impl Row<'_> {
    pub(crate) fn to_usage(&self) -> Usage {
        Usage {
            at: self.at,
            key_id: Some(self.key_id),
            method: self.outcome.method,
            path: String::from_utf8_lossy(self.path).into_owned(),
            ip: self.ip,
            status: self.outcome.status,
            latency: Duration::from_micros(self.latency_micros.into()),
            refused: self.outcome.refused,
        }
    }
}

impl<'a> BlockReader<'a> {
    pub(crate) fn new(block: &'a [u8]) -> Self {
        Self {
            rest: Bytes(block),
            at: 0,
            keys: Vec::new(),
            paths: Vec::new(),
            ips: Vec::new(),
            outcomes: Vec::new(),
        }
    }

    fn start(&mut self) -> Option<()> {
        if self.rest.byte()? != TAG {
            return None;
        }
        self.at = self.rest.number()?;
        Some(())
    }

    fn row(&mut self) -> Option<Row<'a>> {
        if self.keys.is_empty() {
            self.start()?;
        }
        let rest = &mut self.rest;
        self.at = self.at.checked_add_signed(unzigzag(rest.number()?))?;
        Some(Row {
            at: Timestamp::from_unix_millis(self.at),
            key_id: KeyId(entry(&mut self.keys, rest, Bytes::number)?),
            path: entry(&mut self.paths, rest, path)?,
            ip: entry(&mut self.ips, rest, ip)?,
            outcome: entry(&mut self.outcomes, rest, outcome)?,
            latency_micros: rest.number()?.try_into().ok()?,
        })
    }
}

impl<'a> Iterator for BlockReader<'a> {
    type Item = Result<Row<'a>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.0.is_empty() {
            return None;
        }
        let row = self.row();
        if row.is_none() {
            self.rest = Bytes(&[]);
        }
        Some(row.ok_or_else(|| damaged("a block of usage cannot be read")))
    }
}

#[inline]
fn entry<'a, T: Copy>(
    dictionary: &mut Vec<T>,
    rest: &mut Bytes<'a>,
    literal: impl FnOnce(&mut Bytes<'a>) -> Option<T>,
) -> Option<T> {
    let index = usize::try_from(rest.number()?).ok()?;
    if index == dictionary.len() {
        dictionary.push(literal(rest)?);
    }
    dictionary.get(index).copied()
}

fn path<'a>(rest: &mut Bytes<'a>) -> Option<&'a [u8]> {
    let len = usize::try_from(rest.number()?).ok()?;
    rest.take(len)
}

fn ip(rest: &mut Bytes<'_>) -> Option<ClientIp> {
    match rest.byte()? {
        0 => Some(ClientIp::LOCAL),
        4 => Some(IpAddr::from(rest.array::<4>()?).into()),
        6 => Some(IpAddr::from(rest.array::<16>()?).into()),
        _ => None,
    }
}

fn outcome(rest: &mut Bytes<'_>) -> Option<EventOutcome> {
    Some(EventOutcome {
        method: Method::from_code(rest.byte()?)?,
        status: rest.number()?.try_into().ok()?,
        refused: match rest.byte()? {
            0 => None,
            code => Some(Reason::from_code(code)?),
        },
    })
}

#[cfg(test)]
mod tests;
