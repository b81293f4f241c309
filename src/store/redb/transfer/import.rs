//! Writing a page of what moves.

use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};

use crate::input::text;
use crate::model::{Key, KeyId, Org, OrgId};
use crate::store::codec::{
    ACTIVITY, Activity, BALANCES, CREDENTIALS, Counters, KEY_DAYS, KEY_HOURS, KEYS, LOCKS,
    Lifetime, META, MINUTES, ORG_KEYS, ORG_NAMES, ORG_SKELETONS, ORGS, Record, SHADOWED, Tally,
    TopKeys, decode_counters, decode_credential, decode_lock, encode_counters, encode_key,
    encode_lock, encode_org, lock_key, meta,
};
use crate::store::redb::credentials::Credentials;
use crate::store::redb::manage::{self, note_expiry};
use crate::store::redb::rows::{find_key, find_org};
use crate::store::redb::totals;
use crate::store::transfer::{
    LastIds, MovedKey, TransferPage, merged_balances, merged_credential, merged_key, merged_lock,
    same_credential, same_key, same_org,
};
use crate::store::{Count, StoreError};

pub(in crate::store::redb) fn has_room_for(
    txn: &ReadTransaction,
    page: &TransferPage,
) -> Result<(), StoreError> {
    orgs_find_room(
        &txn.open_table(ORGS)?,
        &txn.open_table(ORG_NAMES)?,
        &txn.open_table(ORG_SKELETONS)?,
        page,
    )?;
    keys_find_room(&txn.open_table(KEYS)?, &txn.open_table(CREDENTIALS)?, page)
}

fn orgs_find_room(
    orgs: &impl ReadableTable<u64, &'static [u8]>,
    names: &impl ReadableTable<&'static str, u64>,
    skeletons: &impl ReadableTable<&'static str, u64>,
    page: &TransferPage,
) -> Result<(), StoreError> {
    for org in &page.orgs {
        let named = names.get(org.name.as_str())?;
        let similar = skeletons.get(text::skeleton(&org.name).as_str())?;
        let others = [named, similar].into_iter().flatten();
        let others = others.map(|id| OrgId(id.value()));
        for id in std::iter::once(org.id).chain(others) {
            if let Some(there) = find_org(orgs, id)? {
                same_org(&there, org)?;
            }
        }
    }
    Ok(())
}

fn keys_find_room(
    keys: &impl ReadableTable<u64, &'static [u8]>,
    credentials: &impl ReadableTable<&'static [u8; 32], &'static [u8]>,
    page: &TransferPage,
) -> Result<(), StoreError> {
    for moved in &page.keys {
        if let Some(there) = find_key(keys, moved.key.id)? {
            same_key(&there, &moved.key)?;
        }
        for credential in &moved.credentials {
            if let Some(there) = credentials.get(&credential.hash.0)? {
                let there = decode_credential(credential.hash, there.value())?;
                same_credential(there.key_id, credential)?;
            }
        }
    }
    Ok(())
}

pub(in crate::store::redb) fn import(
    txn: &WriteTransaction,
    page: &TransferPage,
) -> Result<(), StoreError> {
    orgs_find_room(
        &txn.open_table(ORGS)?,
        &txn.open_table(ORG_NAMES)?,
        &txn.open_table(ORG_SKELETONS)?,
        page,
    )?;
    keys_find_room(&txn.open_table(KEYS)?, &txn.open_table(CREDENTIALS)?, page)?;
    let mut counters = manage::counters(txn)?;
    import_orgs(txn, &page.orgs, &mut counters)?;
    import_keys(txn, &page.keys, &mut counters)?;
    let last = LastIds {
        org: counters.last_org_id,
        key: counters.last_key_id,
    };
    let last = last.covering(page);
    (counters.last_org_id, counters.last_key_id) = (last.org, last.key);
    manage::set_counters(txn, &counters)?;
    import_counts_of_keys(txn, page)?;
    import_totals(txn, page)?;
    import_balances(txn, page)?;
    import_locks(txn, page)
}

fn import_orgs(
    txn: &WriteTransaction,
    orgs: &[Org],
    counters: &mut Counters,
) -> Result<(), StoreError> {
    let mut table = txn.open_table(ORGS)?;
    let mut names = txn.open_table(ORG_NAMES)?;
    let mut skeletons = txn.open_table(ORG_SKELETONS)?;
    for org in orgs {
        let earlier = table.insert(org.id.0, encode_org(org)?.as_slice())?;
        counters.orgs += u64::from(earlier.is_none());
        names.insert(org.name.as_str(), org.id.0)?;
        skeletons.insert(text::skeleton(&org.name).as_str(), org.id.0)?;
    }
    Ok(())
}

fn import_keys(
    txn: &WriteTransaction,
    moved: &[MovedKey],
    counters: &mut Counters,
) -> Result<(), StoreError> {
    let orgs = txn.open_table(ORGS)?;
    let mut keys = txn.open_table(KEYS)?;
    let mut org_keys = txn.open_table(ORG_KEYS)?;
    let mut credentials = Credentials::open(txn)?;
    let mut activities = txn.open_table(ACTIVITY)?;
    let mut to_put = Vec::with_capacity(moved.len());
    for MovedKey {
        key,
        credentials: of_key,
    } in moved
    {
        if orgs.get(key.org_id.0)?.is_none() {
            return Err(StoreError::NoOrg(key.org_id));
        }
        let there = find_key(&keys, key.id)?;
        let merged = there
            .as_ref()
            .map_or_else(|| key.clone(), |there| merged_key(there, key));
        counters.keys += u64::from(there.is_none());
        counters.active_keys += u64::from(merged.active);
        counters.active_keys -= u64::from(there.as_ref().is_some_and(|there| there.active));
        keys.insert(key.id.0, encode_key(&merged)?.as_slice())?;
        note_expiry(txn, there.as_ref(), &merged)?;
        org_keys.insert((key.org_id.0, key.id.0), ())?;
        import_last_use(&mut activities, key)?;
        for comes in of_key {
            let known = credentials.get(&comes.hash)?;
            to_put.extend(merged_credential(known.as_ref(), comes, there.is_none()));
        }
    }
    // In the order of the table, many rows are written faster and take less room.
    to_put.sort_unstable_by_key(|credential| credential.hash.0);
    to_put
        .iter()
        .try_for_each(|credential| credentials.put(credential))
}

type Rows<'txn, K> = Table<'txn, K, &'static [u8]>;

fn import_last_use(table: &mut Rows<'_, u64>, key: &Key) -> Result<(), StoreError> {
    if key.last_used_at.is_none() {
        return Ok(());
    }
    let mut activity = activity_of(table, key.id)?;
    activity.last_used_at = activity.last_used_at.max(key.last_used_at);
    table.insert(key.id.0, activity.encode()?.as_slice())?;
    Ok(())
}

fn activity_of(table: &Rows<'_, u64>, key: KeyId) -> Result<Activity, StoreError> {
    match table.get(key.0)? {
        Some(row) => Activity::decode(row.value()),
        None => Ok(Activity::default()),
    }
}

fn import_counts_of_keys(txn: &WriteTransaction, page: &TransferPage) -> Result<(), StoreError> {
    let mut activities = txn.open_table(ACTIVITY)?;
    let mut hours = txn.open_table(KEY_HOURS)?;
    let mut days = txn.open_table(KEY_DAYS)?;
    let mut meta = txn.open_table(META)?;
    let mut top: TopKeys = totals::read_meta(&meta, meta::TOP_KEYS)?;
    for &(key, count) in &page.key_totals {
        let mut activity = activity_of(&activities, key)?;
        activity.all_time = activity.all_time.max(count);
        activities.insert(key.0, activity.encode()?.as_slice())?;
        if activity.all_time.requests > 0 {
            top.note(key.0, activity.all_time.requests);
        }
    }
    for &(key, hour, count) in &page.key_hours {
        let mut activity = activity_of(&activities, key)?;
        let ended = raise_running(&mut activity.hour, &mut activity.in_hour, hour, count);
        if let Some((hour, count)) = ended {
            raise_row(&mut hours, (hour, key.0), count)?;
        }
        activities.insert(key.0, activity.encode()?.as_slice())?;
    }
    for &(key, day, count) in &page.key_days {
        let mut activity = activity_of(&activities, key)?;
        let ended = raise_running(&mut activity.day, &mut activity.in_day, day, count);
        if let Some((day, count)) = ended {
            raise_row(&mut days, (key.0, day), count)?;
        }
        activities.insert(key.0, activity.encode()?.as_slice())?;
    }
    meta.insert(meta::TOP_KEYS, top.encode()?.as_slice())?;
    Ok(())
}

/// Raises the running hour or day to `count` if that is of it, and returns what has to go to the row
/// of one that ended.
fn raise_running(
    running: &mut u64,
    sum: &mut Count,
    period: u64,
    count: Count,
) -> Option<(u64, Count)> {
    if period == *running {
        *sum = sum.max(count);
        return None;
    }
    if period < *running {
        return Some((period, count));
    }
    let ended = (*running, *sum);
    (*running, *sum) = (period, count);
    (ended.1 != Count::default()).then_some(ended)
}

fn raise_row(
    table: &mut Rows<'_, (u64, u64)>,
    row: (u64, u64),
    count: Count,
) -> Result<(), StoreError> {
    let there = table.get(row)?.map(|there| Count::decode(there.value()));
    let count = there.transpose()?.unwrap_or_default().max(count);
    table.insert(row, count.encode()?.as_slice())?;
    Ok(())
}

fn import_totals(txn: &WriteTransaction, page: &TransferPage) -> Result<(), StoreError> {
    let mut minutes = txn.open_table(MINUTES)?;
    for (minute, tally) in &page.minutes {
        let there = minutes
            .get(minute)?
            .map(|there| Tally::decode(there.value()));
        let tally = there.transpose()?.unwrap_or_default().max(tally);
        minutes.insert(minute, tally.encode()?.as_slice())?;
    }
    let mut shadowed = txn.open_table(SHADOWED)?;
    for (name, count) in &page.shadowed {
        let there = shadowed
            .get(name.as_str())?
            .map_or(0, |there| there.value());
        shadowed.insert(name.as_str(), there.max(*count))?;
    }
    let Some(comes) = &page.lifetime else {
        return Ok(());
    };
    let mut meta = txn.open_table(META)?;
    let there: Lifetime = totals::read_meta(&meta, meta::LIFETIME)?;
    let lifetime = Lifetime {
        tally: there.tally.max(&comes.tally),
        dropped: there.dropped.max(comes.dropped),
    };
    meta.insert(meta::LIFETIME, lifetime.encode()?.as_slice())?;
    Ok(())
}

fn import_balances(txn: &WriteTransaction, page: &TransferPage) -> Result<(), StoreError> {
    let mut table = txn.open_table(BALANCES)?;
    for (id, balances) in &page.balances {
        let there = table
            .get(id.to_bits())?
            .map(|row| decode_counters(row.value()));
        let merged = merged_balances(there.transpose()?.unwrap_or_default(), balances);
        table.insert(id.to_bits(), encode_counters(&merged)?.as_slice())?;
    }
    Ok(())
}

fn import_locks(txn: &WriteTransaction, page: &TransferPage) -> Result<(), StoreError> {
    let mut table = txn.open_table(LOCKS)?;
    for lock in &page.locks {
        let key = lock_key(&lock.id());
        let there = table
            .get(key.as_slice())?
            .map(|row| decode_lock(&key, row.value()));
        if let Some(lock) = merged_lock(lock, there.transpose()?.as_ref()) {
            table.insert(key.as_slice(), encode_lock(&lock)?.as_slice())?;
        }
    }
    Ok(())
}
