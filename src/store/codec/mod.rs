//! The bytes of records and usage blocks.
//!
//! Nothing outside this module knows the layout of a stored value. A record is a schema byte and then a
//! [postcard](https://postcard.jamesmunns.com/wire-format) value. Any change of what is written
//! increments [`FORMAT`].
//!
//! Decoding never panics: unknown bytes are [`StoreError::Damaged`].

mod audit;
mod counter;
pub(crate) mod data_file;
mod key;
mod lock;
mod org;
mod record;
mod text;
mod totals;
pub(crate) mod usage_block;
mod webhook;

use super::StoreError;

pub(crate) use self::audit::{
    decode_completed_request, decode_entry, encode_completed_request, encode_entry,
};
#[cfg(feature = "postgres")]
pub(crate) use self::counter::{decode_balance_id, encode_balance_id};
pub(crate) use self::counter::{
    decode_counters, decode_ip_window, encode_counters, encode_ip_window,
};
#[cfg(feature = "postgres")]
pub(crate) use self::key::read_scheme;
pub(crate) use self::key::{decode_credential, decode_key, encode_credential, encode_key};
#[cfg(feature = "postgres")]
pub(crate) use self::lock::decode_lock_key;
pub(crate) use self::lock::{decode_lock, encode_lock, lock_key};
pub(crate) use self::org::{decode_org, encode_org};
pub(crate) use self::record::Record;
pub(crate) use self::text::{read_allowed_ips, read_limits, read_scopes, texts};
pub(crate) use self::totals::RecordCounts;
pub(crate) use self::webhook::{decode_delivery, encode_delivery};

/// The format that this version writes, and the only one that it reads. A data file states its format
/// in its [preamble](data_file::preamble).
pub(crate) const FORMAT: u32 = 7;
