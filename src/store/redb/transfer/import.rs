//! Writing a page of an import.

use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use crate::input::text;
use crate::model::OrgId;
use crate::store::codec::{
    Record, RecordCounts, decode_counters, decode_credential, decode_lock, encode_counters,
    encode_lock, lock_key,
};
use crate::store::redb::credentials::Credentials;
use crate::store::redb::keys::Keys;
use crate::store::redb::orgs::Orgs;
use crate::store::redb::rows::{activity_of, find_key, find_org};
use crate::store::redb::tables::{
    ACTIVITY, BALANCES, CREDENTIALS, KEYS, LOCKS, MINUTES, ORG_SKELETONS, ORGS, SHADOW_DENIED,
    meta, update_meta,
};
use crate::store::redb::totals::{KeyTables, merge_period, note_top_keys, update_row};
use crate::store::transfer::merge::{
    Growth, merge_balances, merge_credential, merge_key, merge_lock, require_same_key,
    require_same_org, require_same_owner,
};
use crate::store::transfer::{LastIds, TransferPage};
use crate::store::{Count, Lifetime, StoreError, Tally};

/// Opens the tables that a page may conflict with. Transactions of redb have no trait in common.
macro_rules! existing {
    ($txn:expr) => {
        Existing {
            orgs: $txn.open_table(ORGS)?,
            skeletons: $txn.open_table(ORG_SKELETONS)?,
            keys: $txn.open_table(KEYS)?,
            credentials: $txn.open_table(CREDENTIALS)?,
        }
    };
}

/// Fails if a page conflicts with existing organizations, keys or credentials.
pub(in crate::store::redb) fn check(
    txn: &ReadTransaction,
    page: &TransferPage,
) -> Result<(), StoreError> {
    existing!(txn).check(page)
}

/// Imports a page, after the same check.
pub(in crate::store::redb) fn import(
    txn: &WriteTransaction,
    page: &TransferPage,
) -> Result<(), StoreError> {
    existing!(txn).check(page)?;
    let mut growth = Growth::default();
    import_orgs(txn, page, &mut growth)?;
    import_keys(txn, page, &mut growth)?;
    update_meta(txn, meta::RECORD_COUNTS, |counts: &mut RecordCounts| {
        let last = LastIds {
            org: counts.last_org_id,
            key: counts.last_key_id,
        };
        let last = last.raised_to(page);
        (counts.last_org_id, counts.last_key_id) = (last.org, last.key);
        counts.orgs = counts.orgs.saturating_add_signed(growth.orgs);
        counts.keys = counts.keys.saturating_add_signed(growth.keys);
        counts.active_keys = counts.active_keys.saturating_add_signed(growth.active_keys);
    })?;
    import_key_totals(txn, page)?;
    import_totals(txn, page)?;
    import_balances(txn, page)?;
    import_locks(txn, page)
}

/// The records that an import may conflict with.
struct Existing<Records, Skeletons, Credentials> {
    orgs: Records,
    skeletons: Skeletons,
    keys: Records,
    credentials: Credentials,
}

impl<R, S, C> Existing<R, S, C>
where
    R: ReadableTable<u64, &'static [u8]>,
    S: ReadableTable<&'static str, u64>,
    C: ReadableTable<&'static [u8; 32], &'static [u8]>,
{
    fn check(&self, page: &TransferPage) -> Result<(), StoreError> {
        for org in &page.orgs {
            let similar = self.skeletons.get(text::skeleton(&org.name).as_str())?;
            let similar = similar.map(|id| OrgId(id.value()));
            for id in [org.id].into_iter().chain(similar) {
                if let Some(existing) = find_org(&self.orgs, id)? {
                    require_same_org(&existing, org)?;
                }
            }
        }
        for transfer in &page.keys {
            if let Some(existing) = find_key(&self.keys, transfer.key.id)? {
                require_same_key(&existing, &transfer.key)?;
            }
            for credential in &transfer.credentials {
                if let Some(row) = self.credentials.get(&credential.hash.0)? {
                    let existing = decode_credential(credential.hash, row.value())?;
                    require_same_owner(existing.key_id, credential)?;
                }
            }
        }
        Ok(())
    }
}

fn import_orgs(
    txn: &WriteTransaction,
    page: &TransferPage,
    growth: &mut Growth,
) -> Result<(), StoreError> {
    let mut table = Orgs::open(txn)?;
    for org in &page.orgs {
        growth.orgs += i64::from(table.put(org)?);
    }
    Ok(())
}

fn import_keys(
    txn: &WriteTransaction,
    page: &TransferPage,
    growth: &mut Growth,
) -> Result<(), StoreError> {
    let orgs = txn.open_table(ORGS)?;
    let mut keys = Keys::open(txn)?;
    let mut credentials = Credentials::open(txn)?;
    let mut activity = txn.open_table(ACTIVITY)?;
    let mut merged_credentials = Vec::with_capacity(page.keys.len());
    for transfer in &page.keys {
        let key = &transfer.key;
        if orgs.get(key.org_id.0)?.is_none() {
            return Err(StoreError::NoOrg(key.org_id));
        }
        let existing = find_key(&keys.by_id, key.id)?;
        let merged = merge_key(existing.as_ref(), key);
        growth.add_key(existing.as_ref(), &merged);
        keys.put(existing.as_ref(), &merged)?;
        if key.last_used_at.is_some() {
            let mut known = activity_of(&activity, key.id)?;
            known.last_used_at = known.last_used_at.max(key.last_used_at);
            activity.insert(key.id.0, known.encode()?.as_slice())?;
        }
        for incoming in &transfer.credentials {
            let known = credentials.get(&incoming.hash)?;
            let merged = merge_credential(known.as_ref(), incoming, existing.is_none());
            merged_credentials.extend(merged);
        }
    }
    // In the order of the table, many rows are written faster and take less space.
    merged_credentials.sort_unstable_by_key(|credential| credential.hash.0);
    merged_credentials
        .iter()
        .try_for_each(|credential| credentials.put(credential))
}

fn import_key_totals(txn: &WriteTransaction, page: &TransferPage) -> Result<(), StoreError> {
    let mut tables = KeyTables::open(txn)?;
    let mut requests = Vec::with_capacity(page.key_totals.len());
    for &(key, count) in &page.key_totals {
        let mut activity = tables.activity(key)?;
        activity.all_time.raise(count);
        requests.push((key, activity.all_time.requests));
        tables.put(key, &activity)?;
    }
    for &(key, hour, count) in &page.key_hours {
        let mut activity = tables.activity(key)?;
        let (hours, row) = (&mut tables.hours, |hour| (hour, key.0));
        merge_period(&mut activity.hour, (hour, count), hours, row, Count::raise)?;
        tables.put(key, &activity)?;
    }
    for &(key, day, count) in &page.key_days {
        let mut activity = tables.activity(key)?;
        let (days, row) = (&mut tables.days, |day| (key.0, day));
        merge_period(&mut activity.day, (day, count), days, row, Count::raise)?;
        tables.put(key, &activity)?;
    }
    note_top_keys(txn, &requests)
}

fn import_totals(txn: &WriteTransaction, page: &TransferPage) -> Result<(), StoreError> {
    let mut minutes = txn.open_table(MINUTES)?;
    for (minute, tally) in &page.minutes {
        update_row(&mut minutes, *minute, |known: &mut Tally| {
            known.raise(tally)
        })?;
    }
    let mut shadow_denied = txn.open_table(SHADOW_DENIED)?;
    for (name, count) in &page.shadow_denied {
        let known = shadow_denied
            .get(name.as_str())?
            .map_or(0, |row| row.value());
        shadow_denied.insert(name.as_str(), known.max(*count))?;
    }
    if let Some(incoming) = &page.lifetime {
        update_meta(txn, meta::LIFETIME, |known: &mut Lifetime| {
            known.raise(incoming)
        })?;
    }
    Ok(())
}

fn import_balances(txn: &WriteTransaction, page: &TransferPage) -> Result<(), StoreError> {
    let mut table = txn.open_table(BALANCES)?;
    for (id, incoming) in &page.balances {
        let row = table.get(id.to_bits())?;
        let existing = row.map(|row| decode_counters(row.value())).transpose()?;
        let merged = merge_balances(existing.unwrap_or_default(), incoming);
        table.insert(id.to_bits(), encode_counters(&merged)?.as_slice())?;
    }
    Ok(())
}

fn import_locks(txn: &WriteTransaction, page: &TransferPage) -> Result<(), StoreError> {
    let mut table = txn.open_table(LOCKS)?;
    for incoming in &page.locks {
        let key = lock_key(&incoming.id());
        let row = table.get(key.as_slice())?;
        let existing = row.map(|row| decode_lock(&key, row.value())).transpose()?;
        if let Some(lock) = merge_lock(existing.as_ref(), incoming) {
            table.insert(key.as_slice(), encode_lock(&lock)?.as_slice())?;
        }
    }
    Ok(())
}
