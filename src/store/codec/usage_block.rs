//! Blocks of raw usage: about 9 bytes a request.
//!
//! ```text
//! block  schema byte, time of the first row (ms since the Unix epoch), rows
//! row    ms since the row before (signed), indices of key, path, ip and outcome, latency (µs);
//!        then each new entry: id of the key | path | ip | method, status, reason or 0
//! ```
//!
//! All fields are in postcard's format: numbers are varints, signed ones in zigzag. The indices point
//! into dictionaries that start empty; an index that equals the length of its dictionary announces a new
//! entry. A row thus depends only on the rows before it, and a block is the concatenation of the pieces
//! it was written in.

use std::borrow::Borrow;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::model::{KeyId, Method, Reason};
use crate::net::ClientIp;
use crate::policy::path::MAX_STORED_LEN;
use crate::store::UsageEvent;
use crate::time::Timestamp;

/// The longest block whose leaf page in redb is still 64 KiB: the page also holds a header of 4 bytes,
/// the key of 8 bytes and the end of the value in 4 bytes.
pub(crate) const CAPACITY: usize = 65_536 - 16;

const SCHEMA: u8 = 1;

/// The length of the longest row: the first of a block, with a new path and an IPv6 address.
const MAX_ROW_LEN: usize = 11 + StoredRow::MAX_LEN + 10 + (2 + MAX_STORED_LEN) + 17 + 5;

/// A growing block. Its dictionaries hold no more than its bytes do.
pub(crate) struct UsageBlockWriter {
    bytes: Vec<u8>,
    at: u64,
    times: Option<TimeRange>,
    keys: Dictionary<u64>,
    paths: Dictionary<Box<[u8]>>,
    ips: Dictionary<StoredIp>,
    outcomes: Dictionary<StoredOutcome>,
}

impl UsageBlockWriter {
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
        let mut reader = UsageBlockReader::new(&bytes);
        let mut times = None;
        for row in reader.by_ref() {
            extend(&mut times, row?.0.at);
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
        let path = path.get(..MAX_STORED_LEN).unwrap_or(path);
        let ip = StoredIp::from(event.ip);
        let outcome = StoredOutcome {
            method: event.method as u8,
            status: event.status,
            refused: event.refused.map_or(0, |reason| reason as u8),
        };
        let key_index = self.keys.index_of(&event.key_id.0);
        let path_index = self.paths.index_of(path);
        let ip_index = self.ips.index_of(&ip);
        let outcome_index = self.outcomes.index_of(&outcome);
        let row = StoredRow {
            // Milliseconds up to the year 9999 have 48 bits: the difference cannot wrap.
            elapsed: at.wrapping_sub(self.at) as i64,
            key: key_index.number,
            path: path_index.number,
            ip: ip_index.number,
            outcome: outcome_index.number,
            latency_micros: event.latency_micros,
        };
        self.at = at;
        let mut buffer = [0; StoredRow::MAX_LEN];
        out.extend_from_slice(postcard::to_slice(&row, &mut buffer).map_err(unencodable)?);
        put_new(out, key_index, &event.key_id.0)?;
        put_new(out, path_index, path)?;
        put_new(out, ip_index, &ip)?;
        put_new(out, outcome_index, &outcome)
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

/// The index of a value in its dictionary.
#[derive(Clone, Copy)]
struct Index {
    number: u32,
    /// Whether the value follows as a new entry.
    is_new: bool,
}

impl<T: Hash + Eq> Dictionary<T> {
    #[inline]
    fn index_of<Q>(&mut self, value: &Q) -> Index
    where
        Q: Hash + Eq + ToOwned<Owned: Into<T>> + ?Sized,
        T: Borrow<Q>,
    {
        if let Some(&number) = self.0.get(value) {
            return Index {
                number,
                is_new: false,
            };
        }
        // A block has fewer than 65,536 bytes, so fewer entries.
        let number = self.0.len() as u32;
        self.0.insert(value.to_owned().into(), number);
        Index {
            number,
            is_new: true,
        }
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
pub(crate) struct UsageBlockReader<'a> {
    rest: &'a [u8],
    at: u64,
    keys: Vec<u64>,
    paths: Vec<&'a [u8]>,
    ips: Vec<StoredIp>,
    outcomes: Vec<StoredOutcome>,
}

/// An event and its path.
type Row<'a> = (UsageEvent, &'a [u8]);

/// A row whose values are indices into the dictionaries of its reader. Reading it costs little more than
/// its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexedRow {
    pub(crate) at: Timestamp,
    pub(crate) key: usize,
    pub(crate) path: usize,
    pub(crate) ip: usize,
    pub(crate) outcome: usize,
    pub(crate) latency_micros: u32,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) method: Method,
    pub(crate) status: u16,
    pub(crate) refused: Option<Reason>,
}

impl<'a> UsageBlockReader<'a> {
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

    /// Reads the next row; `None` at the end.
    #[inline]
    pub(crate) fn next_indexed(&mut self) -> Option<Result<IndexedRow, StoreError>> {
        if self.rest.is_empty() {
            return None;
        }
        let row = self.indexed();
        if row.is_none() {
            self.rest = &[];
        }
        Some(row.ok_or_else(unreadable))
    }

    /// Returns an entry of the dictionary of keys; `None` behind its end.
    pub(crate) fn key(&self, index: usize) -> Option<KeyId> {
        self.keys.get(index).copied().map(KeyId)
    }

    pub(crate) fn path(&self, index: usize) -> Option<&'a [u8]> {
        self.paths.get(index).copied()
    }

    pub(crate) fn ip(&self, index: usize) -> Option<ClientIp> {
        self.ips.get(index).copied().map(ClientIp::from)
    }

    pub(crate) fn outcome(&self, index: usize) -> Option<Result<Outcome, StoreError>> {
        let outcome = self.outcomes.get(index)?;
        Some(outcome.decode().ok_or_else(unreadable))
    }

    #[inline]
    fn indexed(&mut self) -> Option<IndexedRow> {
        let rest = &mut self.rest;
        if self.keys.is_empty() {
            if take::<u8>(rest)? != SCHEMA {
                return None;
            }
            self.at = take(rest)?;
        }
        let row: StoredRow = take(rest)?;
        self.at = self.at.checked_add_signed(row.elapsed)?;
        Some(IndexedRow {
            at: Timestamp::from_unix_millis(self.at),
            key: index(&mut self.keys, row.key, rest)?,
            path: index(&mut self.paths, row.path, rest)?,
            ip: index(&mut self.ips, row.ip, rest)?,
            outcome: index(&mut self.outcomes, row.outcome, rest)?,
            latency_micros: row.latency_micros,
        })
    }

    /// Returns the event and the path of a row that this reader has read.
    fn event(&self, row: IndexedRow) -> Option<Row<'a>> {
        let path = self.path(row.path)?;
        let outcome = self.outcomes.get(row.outcome)?.decode()?;
        let event = UsageEvent {
            at: row.at,
            key_id: self.key(row.key)?,
            ip: self.ip(row.ip)?,
            latency_micros: row.latency_micros,
            status: outcome.status,
            path_len: u16::try_from(path.len()).ok()?,
            method: outcome.method,
            refused: outcome.refused,
        };
        Some((event, path))
    }
}

impl<'a> Iterator for UsageBlockReader<'a> {
    type Item = Result<Row<'a>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = match self.next_indexed()? {
            Ok(row) => self.event(row).ok_or_else(unreadable),
            Err(error) => Err(error),
        };
        if event.is_err() {
            self.rest = &[];
        }
        Some(event)
    }
}

fn unreadable() -> StoreError {
    StoreError::damaged("a block of usage cannot be read")
}

/// Returns an index into a dictionary, after reading a new entry.
#[inline]
fn index<'a, T: Deserialize<'a>>(
    dictionary: &mut Vec<T>,
    index: u32,
    rest: &mut &'a [u8],
) -> Option<usize> {
    let index = usize::try_from(index).ok()?;
    if index == dictionary.len() {
        dictionary.push(take(rest)?);
    }
    (index < dictionary.len()).then_some(index)
}

#[derive(Serialize, Deserialize)]
struct StoredRow {
    elapsed: i64,
    key: u32,
    path: u32,
    ip: u32,
    outcome: u32,
    latency_micros: u32,
}

impl StoredRow {
    /// The length of the longest varints.
    const MAX_LEN: usize = 10 + 5 * 5;
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

impl StoredOutcome {
    /// Returns `None` for an unknown code.
    fn decode(self) -> Option<Outcome> {
        Some(Outcome {
            method: Method::from_code(self.method)?,
            status: self.status,
            refused: match self.refused {
                0 => None,
                code => Some(Reason::from_code(code)?),
            },
        })
    }
}

fn put_new<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    index: Index,
    value: &T,
) -> Result<(), StoreError> {
    match index.is_new {
        true => put(out, value),
        false => Ok(()),
    }
}

fn put<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), StoreError> {
    *out = postcard::to_extend(value, std::mem::take(out)).map_err(unencodable)?;
    Ok(())
}

fn unencodable(error: postcard::Error) -> StoreError {
    StoreError::Unavailable(error.into())
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
