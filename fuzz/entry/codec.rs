//! Records and blocks of the data file.

use std::fmt::Debug;

use crate::model::{HashedKey, KeyId, OrgId};
use crate::store::StoreError;
use crate::store::codec::usage_block::{UsageBlockReader, UsageBlockWriter};
use crate::store::codec::{self, Record};

/// Decodes every kind of record and block. Decoding must not panic, and re-encoding must give equal
/// values.
pub fn codec(data: &[u8]) {
    let org = |bytes: &[u8]| codec::decode_org(OrgId(1), bytes);
    again(data, org, codec::encode_org);
    let key = |bytes: &[u8]| codec::decode_key(KeyId(1), bytes);
    again(data, key, codec::encode_key);
    let credential = |bytes: &[u8]| codec::decode_credential(HashedKey([0; 32]), bytes);
    again(data, credential, codec::encode_credential);
    again(data, codec::decode_counters, |counters| {
        codec::encode_counters(counters)
    });
    again(data, codec::decode_ip_window, codec::encode_ip_window);
    again(data, codec::decode_balance_id, |id| {
        Ok(codec::encode_balance_id(id)?.expect("a balance"))
    });
    let (lock_key, row) = data.split_at(data.len().min(18));
    let lock = |row: &[u8]| codec::decode_lock(lock_key, row);
    again(row, lock, codec::encode_lock);
    if let Ok(lock) = lock(row) {
        assert_eq!(
            codec::decode_lock_key(&codec::lock_key(&lock.id())),
            Some(lock.id())
        );
    }
    again_as::<crate::store::totals::Activity>(data);
    again_as::<codec::RecordCounts>(data);
    again_as::<crate::store::Lifetime>(data);
    again_as::<crate::store::Tally>(data);
    again_as::<crate::store::totals::TopKeys>(data);
    again_as::<crate::store::Count>(data);
    let _ = codec::decode_entry(1, data);
    let _ = codec::decode_completed_request(data);
    UsageBlockReader::new(data).take(100_000).for_each(drop);
    if let Ok(resumed) = UsageBlockWriter::resume(data.to_vec()) {
        assert!(resumed.bytes().starts_with(data));
    }
    let _ = codec::data_file::read_preamble(data);
}

fn again<T: Debug + PartialEq>(
    data: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, StoreError>,
    encode: impl Fn(&T) -> Result<Vec<u8>, StoreError>,
) {
    if let Ok(record) = decode(data) {
        let encoded = encode(&record).expect("a decoded value can be encoded");
        let again = decode(&encoded).expect("an encoded value can be decoded");
        assert_eq!(again, record);
    }
}

fn again_as<T: Record>(data: &[u8]) {
    if let Ok(record) = T::decode(data) {
        let encoded = record.encode().expect("a decoded value can be encoded");
        let decoded = T::decode(&encoded).expect("an encoded value can be decoded");
        assert_eq!(
            decoded.encode().expect("a decoded value can be encoded"),
            encoded
        );
    }
}
