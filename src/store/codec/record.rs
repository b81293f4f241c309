//! A schema byte and a postcard value.

use serde::{Deserialize, Serialize};

use super::StoreError;

/// The first byte of every record. A record of another schema is damaged.
const SCHEMA: u8 = 1;

/// A record that is decoded by its type alone.
pub(crate) trait Record: Sized {
    fn encode(&self) -> Result<Vec<u8>, StoreError>;
    fn decode(bytes: &[u8]) -> Result<Self, StoreError>;
}

pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, StoreError> {
    postcard::to_extend(record, vec![SCHEMA]).map_err(|error| StoreError::Unavailable(error.into()))
}

pub(super) fn decode<'a, T: Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<T, StoreError> {
    if let Some((&SCHEMA, body)) = bytes.split_first()
        && let Ok((record, [])) = postcard::take_from_bytes(body)
    {
        return Ok(record);
    }
    Err(StoreError::damaged(format!("{what} cannot be read")))
}
