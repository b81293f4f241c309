//! Organizations.

use std::ops::Bound;

use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};

use super::rows::find_org;
use super::tables::{ORG_NAMES, ORG_SKELETONS, ORGS, meta, update_meta};
use crate::input::text;
use crate::model::{Org, OrgId};
use crate::store::codec::{RecordCounts, decode_org, encode_org};
use crate::store::{OrgChange, Search, StoreError, changes};
use crate::time::Timestamp;

pub(super) fn create(txn: &WriteTransaction, name: &str, at: Timestamp) -> Result<Org, StoreError> {
    let mut table = Orgs::open(txn)?;
    let similar = table.skeletons.get(text::skeleton(name).as_str())?;
    if let Some(id) = similar.map(|id| id.value())
        && let Some(existing) = find_org(&table.by_id, OrgId(id))?
    {
        return Err(changes::org_exists(existing.name, name));
    }
    let id = update_meta(txn, meta::RECORD_COUNTS, |counts: &mut RecordCounts| {
        counts.last_org_id += 1;
        counts.orgs += 1;
        OrgId(counts.last_org_id)
    })?;
    let org = changes::new_org(id, name, at);
    table.put(&org)?;
    Ok(org)
}

pub(super) fn get(txn: &ReadTransaction, id: OrgId) -> Result<Org, StoreError> {
    find_org(&txn.open_table(ORGS)?, id)?.ok_or(StoreError::NoOrg(id))
}

pub(super) fn named(txn: &ReadTransaction, name: &str) -> Result<Org, StoreError> {
    match txn.open_table(ORG_NAMES)?.get(name)? {
        Some(id) => get(txn, OrgId(id.value())),
        None => Err(StoreError::NoOrgNamed(name.into())),
    }
}

pub(super) fn list(
    txn: &ReadTransaction,
    after: Option<OrgId>,
    limit: usize,
) -> Result<Vec<Org>, StoreError> {
    let orgs = txn.open_table(ORGS)?;
    let start = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.0));
    let rows = orgs.range::<u64>((start, Bound::Unbounded))?;
    let rows = rows.take(limit).map(|row| {
        let (id, bytes) = row?;
        decode_org(OrgId(id.value()), bytes.value())
    });
    rows.collect()
}

pub(super) fn search(txn: &ReadTransaction, search: &Search) -> Result<Vec<Org>, StoreError> {
    let orgs = txn.open_table(ORGS)?;
    let mut found = Vec::new();
    for row in orgs.range::<u64>(search.ids.clone())? {
        if found.len() == search.limit {
            break;
        }
        let (id, bytes) = row?;
        let org = decode_org(OrgId(id.value()), bytes.value())?;
        if search.text.finds_org(&org) {
            found.push(org);
        }
    }
    Ok(found)
}

pub(super) fn update(
    txn: &WriteTransaction,
    id: OrgId,
    change: &OrgChange,
) -> Result<Org, StoreError> {
    let mut orgs = txn.open_table(ORGS)?;
    let mut org = find_org(&orgs, id)?.ok_or(StoreError::NoOrg(id))?;
    change.apply(&mut org);
    orgs.insert(id.0, encode_org(&org)?.as_slice())?;
    Ok(org)
}

/// Organizations and the indices of their names.
pub(super) struct Orgs<'txn> {
    pub(super) by_id: Table<'txn, u64, &'static [u8]>,
    names: Table<'txn, &'static str, u64>,
    skeletons: Table<'txn, &'static str, u64>,
}

impl<'txn> Orgs<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            by_id: txn.open_table(ORGS)?,
            names: txn.open_table(ORG_NAMES)?,
            skeletons: txn.open_table(ORG_SKELETONS)?,
        })
    }

    /// Adds or replaces an organization. Returns whether it is new.
    pub(super) fn put(&mut self, org: &Org) -> Result<bool, StoreError> {
        self.names.insert(org.name.as_str(), org.id.0)?;
        self.skeletons
            .insert(text::skeleton(&org.name).as_str(), org.id.0)?;
        let existing = self.by_id.insert(org.id.0, encode_org(org)?.as_slice())?;
        Ok(existing.is_none())
    }
}
