//! Blocks of raw usage: about 9 bytes a request.
//!
//! ```text
//! block  schema byte, time of the first row (ms since the Unix epoch), rows
//! row    time     difference to the row before, in ms, signed
//!        key      index | its id
//!        path     index | length, bytes
//!        ip       index | 0 | 1, 4 bytes | 2, 16 bytes
//!        outcome  index | method, status, reason or 0
//!        latency  µs
//! ```
//!
//! All fields are in postcard's format: numbers are varints, signed ones in zigzag. The four middle
//! fields are indices into dictionaries that start empty; an index that equals the length of its
//! dictionary is followed by one new entry. A row thus depends only on the rows before it, and a block
//! is the concatenation of the pieces it was written in.

use std::borrow::Borrow;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::{StoreError, damaged};
use crate::model::{KeyId, Method, Reason, Usage};
use crate::net::ClientIp;
use crate::policy::path::MAX_STORED_LEN;
use crate::store::UsageEvent;
use crate::time::Timestamp;

/// The longest block whose leaf page in redb is still 64 KiB: the page also holds a header of 4 bytes,
/// the key of 8 bytes and the end of the value in 4 bytes.
pub(crate) const CAPACITY: usize = 65_536 - 16;

const SCHEMA: u8 = 1;

/// No row is longer: eleven numbers of at most 10 bytes, an IPv6 address and a path.
const MAX_ROW_LEN: usize = 11 * 10 + 16 + MAX_STORED_LEN;

/// A growing block. Its dictionaries hold no more than its bytes do.
pub(crate) struct BlockWriter {
    bytes: Vec<u8>,
    at: u64,
    times: Option<TimeRange>,
    keys: Dictionary<u64>,
    paths: Dictionary<Box<[u8]>>,
    ips: Dictionary<StoredIp>,
    outcomes: Dictionary<StoredOutcome>,
}

impl BlockWriter {
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(CAPACITY),
            at: 0,
            times: None,
            keys: Dictionary::default(),
            paths: Dictionary::default(),
            ips: Dictionary::default(),
            outcomes: Dictionary::default(),
        }
    }

    /// Continues a block after its bytes so far.
    pub(crate) fn resume(bytes: Vec<u8>) -> Result<Self, StoreError> {
        let mut reader = BlockReader::new(&bytes);
        let mut times = None;
        for row in reader.by_ref() {
            extend(&mut times, row?.at);
        }
        Ok(Self {
            at: reader.at,
            times,
            keys: reader.keys.into_iter().collect(),
            paths: reader.paths.into_iter().map(Box::from).collect(),
            ips: reader.ips.into_iter().collect(),
            outcomes: reader.outcomes.into_iter().collect(),
            bytes,
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns `None` while the block is empty.
    pub(crate) fn times(&self) -> Option<TimeRange> {
        self.times
    }

    /// Whether any row fits.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes.len() + MAX_ROW_LEN <= CAPACITY
    }

    /// Empties the block, which keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.times = None;
        self.keys.0.clear();
        self.paths.0.clear();
        self.ips.0.clear();
        self.outcomes.0.clear();
    }

    /// Appends a row with the first 256 bytes of `path`.
    pub(crate) fn push(&mut self, event: &UsageEvent, path: &[u8]) -> Result<(), StoreError> {
        let at = event.at.unix_millis();
        let out = &mut self.bytes;
        if out.is_empty() {
            out.push(SCHEMA);
            put(out, &at)?;
            self.at = at;
        }
        extend(&mut self.times, event.at);
        // Milliseconds up to the year 9999 have 48 bits: the difference cannot wrap.
        put(out, &(at.wrapping_sub(self.at) as i64))?;
        self.at = at;
        self.keys.put(out, &event.key_id.0)?;
        let path = path.get(..MAX_STORED_LEN).unwrap_or(path);
        self.paths.put(out, path)?;
        self.ips.put(out, &StoredIp::from(event.ip))?;
        let outcome = StoredOutcome {
            method: event.method as u8,
            status: event.status,
            refused: event.refused.map_or(0, |reason| reason as u8),
        };
        self.outcomes.put(out, &outcome)?;
        put(out, &event.latency_micros)
    }
}

/// The earliest and the latest time in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeRange {
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
}

fn extend(times: &mut Option<TimeRange>, at: Timestamp) {
    let times = times.get_or_insert(TimeRange {
        first: at,
        last: at,
    });
    times.first = times.first.min(at);
    times.last = times.last.max(at);
}

/// Values, numbered in the order of their first occurrence.
struct Dictionary<T>(HashMap<T, u32, RandomState>);

impl<T: Hash + Eq> Dictionary<T> {
    /// Appends the index of `value`, and a new value itself.
    #[inline]
    fn put<Q>(&mut self, out: &mut Vec<u8>, value: &Q) -> Result<(), StoreError>
    where
        Q: Hash + Eq + Serialize + ToOwned<Owned: Into<T>> + ?Sized,
        T: Borrow<Q>,
    {
        if let Some(index) = self.0.get(value) {
            return put(out, index);
        }
        // A block has fewer than 65,536 bytes, so fewer entries.
        let index = self.0.len() as u32;
        put(out, &index)?;
        put(out, value)?;
        self.0.insert(value.to_owned().into(), index);
        Ok(())
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

/// Reads the rows of a block. Ends after an error.
pub(crate) struct BlockReader<'a> {
    rest: &'a [u8],
    at: u64,
    keys: Vec<u64>,
    paths: Vec<&'a [u8]>,
    ips: Vec<StoredIp>,
    outcomes: Vec<StoredOutcome>,
}

/// A row of a block.
pub(crate) struct Row<'a> {
    pub(crate) at: Timestamp,
    pub(crate) key_id: KeyId,
    method: Method,
    path: &'a [u8],
    ip: StoredIp,
    status: u16,
    latency_micros: u32,
    refused: Option<Reason>,
}

impl Row<'_> {
    pub(crate) fn to_usage(&self) -> Usage {
        Usage {
            at: self.at,
            key_id: Some(self.key_id),
            method: self.method,
            path: String::from_utf8_lossy(self.path).into_owned(),
            ip: self.ip.into(),
            status: self.status,
            latency: Duration::from_micros(self.latency_micros.into()),
            refused: self.refused,
        }
    }
}

impl<'a> BlockReader<'a> {
    pub(crate) fn new(block: &'a [u8]) -> Self {
        Self {
            rest: block,
            at: 0,
            keys: Vec::new(),
            paths: Vec::new(),
            ips: Vec::new(),
            outcomes: Vec::new(),
        }
    }

    fn row(&mut self) -> Option<Row<'a>> {
        let rest = &mut self.rest;
        if self.keys.is_empty() {
            if take::<u8>(rest)? != SCHEMA {
                return None;
            }
            self.at = take(rest)?;
        }
        self.at = self.at.checked_add_signed(take(rest)?)?;
        let key = entry(&mut self.keys, rest)?;
        let path = entry(&mut self.paths, rest)?;
        let ip = entry(&mut self.ips, rest)?;
        let outcome = entry(&mut self.outcomes, rest)?;
        Some(Row {
            at: Timestamp::from_unix_millis(self.at),
            key_id: KeyId(key),
            method: Method::from_code(outcome.method)?,
            path,
            ip,
            status: outcome.status,
            latency_micros: take(rest)?,
            refused: match outcome.refused {
                0 => None,
                code => Some(Reason::from_code(code)?),
            },
        })
    }
}

impl<'a> Iterator for BlockReader<'a> {
    type Item = Result<Row<'a>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let row = self.row();
        if row.is_none() {
            self.rest = &[];
        }
        Some(row.ok_or_else(|| damaged("a block of usage cannot be read")))
    }
}

#[inline]
fn entry<'a, T: Copy + Deserialize<'a>>(dictionary: &mut Vec<T>, rest: &mut &'a [u8]) -> Option<T> {
    let index = usize::try_from(take::<u32>(rest)?).ok()?;
    if index == dictionary.len() {
        dictionary.push(take(rest)?);
    }
    dictionary.get(index).copied()
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum StoredIp {
    Local,
    V4([u8; 4]),
    V6([u8; 16]),
}

impl From<ClientIp> for StoredIp {
    fn from(ip: ClientIp) -> Self {
        match ip.ip() {
            None => Self::Local,
            Some(IpAddr::V4(ip)) => Self::V4(ip.octets()),
            Some(IpAddr::V6(ip)) => Self::V6(ip.octets()),
        }
    }
}

impl From<StoredIp> for ClientIp {
    fn from(ip: StoredIp) -> Self {
        match ip {
            StoredIp::Local => Self::LOCAL,
            StoredIp::V4(octets) => IpAddr::V4(Ipv4Addr::from(octets)).into(),
            StoredIp::V6(octets) => IpAddr::V6(Ipv6Addr::from(octets)).into(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct StoredOutcome {
    method: u8,
    status: u16,
    /// The code of the reason; 0 for an admitted request.
    refused: u8,
}

/// Appends a value.
#[inline]
fn put<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), StoreError> {
    *out = postcard::to_extend(value, std::mem::take(out))
        .map_err(|error| StoreError::Unavailable(error.into()))?;
    Ok(())
}

/// Reads a value from the front.
#[inline]
fn take<'a, T: Deserialize<'a>>(rest: &mut &'a [u8]) -> Option<T> {
    let (value, behind) = postcard::take_from_bytes(rest).ok()?;
    *rest = behind;
    Some(value)
}

#[cfg(test)]
mod tests;
