//! The organizations and keys of the Python package.

use std::collections::{HashMap, HashSet};
use std::num::{NonZeroU32, NonZeroU64};

use super::cell;
use super::error::{ImportError, listed};
use super::table::{Column, Database, Row, Table};
use super::usage::ImportedTotals;
use crate::input;
use crate::input::text;
use crate::limit::{Limit, Period};
use crate::model::{Credential, HashScheme, Key, KeyId, KeyStatus, Org, OrgId, OrgStatus};
use crate::net::CidrSet;
use crate::store::FIRST_SECRET;
use crate::store::transfer::{PAGE_ROWS, TransferKey, TransferPage};
use crate::time::{Clock, Timestamp};

const ORGS: [Column; 4] = [
    Column::Required(&["id"]),
    Column::Required(&["name"]),
    Column::Required(&["status", "active", "is_active"]),
    Column::Required(&["created_at"]),
];

const KEYS: [Column; 12] = [
    Column::Required(&["id"]),
    Column::Required(&["org_id", "organization_id"]),
    Column::Required(&["hashed_key", "key_hash", "hash"]),
    Column::Required(&["active", "is_active"]),
    Column::Required(&["created_at"]),
    Column::Optional(&["label", "name"]),
    Column::Optional(&["prefix", "key_prefix"]),
    Column::Optional(&["scopes"]),
    Column::Optional(&["rate_limit_per_minute", "rate_limit"]),
    Column::Optional(&["monthly_limit", "monthly_quota"]),
    Column::Optional(&["expires_at"]),
    Column::Optional(&["last_used_at"]),
];

/// The limit of keys that have none in the Python package.
const PER_MINUTE: NonZeroU32 = NonZeroU32::MIN.saturating_add(59);

/// The greatest length of a stored prefix. A longer one may be more of the key than the few characters
/// that the Python package shows.
const MAX_PREFIX: usize = 16;

/// Reads a whole database.
pub(super) fn pages(database: &mut dyn Database) -> Result<Vec<TransferPage>, ImportError> {
    let now = Clock::system().timestamp();
    let (orgs, org_ids) = read_orgs(database)?;
    let (keys, key_ids) = read_keys(database, &org_ids)?;
    let usage = ImportedTotals::read(database, &key_ids, now)?;
    let quotas = keys.iter().filter(|imported| {
        let mut limits = imported.key.limits.iter();
        limits.any(|limit| limit.period == Period::Month)
    });
    let balances = usage.balances(quotas.map(|imported| imported.key.id));
    let mut pages = vec![TransferPage {
        orgs,
        ..TransferPage::default()
    }];
    pages.extend(keys.chunks(PAGE_ROWS).map(|keys| TransferPage {
        keys: keys.to_vec(),
        ..TransferPage::default()
    }));
    pages.push(TransferPage {
        balances,
        ..TransferPage::default()
    });
    pages.extend(usage.pages());
    Ok(pages)
}

/// Ids of the Python package and the new ones.
pub(super) type Ids = HashMap<String, u64>;

fn read_orgs(database: &mut dyn Database) -> Result<(Vec<Org>, Ids), ImportError> {
    let table = find(database, &["organizations", "orgs"], &ORGS)?;
    let (mut orgs, mut ids, mut names) = (Vec::new(), HashSet::new(), HashMap::new());
    table.read(database, |row| {
        let org = org(&row)?;
        if !ids.insert(org.0.clone()) {
            return Err(row.wrong(0, "is also the id of another organization"));
        }
        let name = org.1.name.clone();
        if let Some(other) = names.insert(text::skeleton(&name), name.clone()) {
            let likeness = if other == name { "is" } else { "looks like" };
            let problem = format!(
                "{likeness} `{other}`, the name of another organization; rename one of them there"
            );
            return Err(row.wrong(1, problem));
        }
        orgs.push(org);
        Ok(())
    })?;
    let ids = assign_ids(orgs.iter().map(|(id, org)| (id, org.created_at)));
    for (id, org) in &mut orgs {
        org.id = OrgId(ids[id]);
    }
    let mut orgs: Vec<Org> = orgs.into_iter().map(|(_, org)| org).collect();
    orgs.sort_unstable_by_key(|org| org.id);
    Ok((orgs, ids))
}

fn org(row: &Row<'_, 4>) -> Result<(String, Org), ImportError> {
    let is_active = row.read(2, cell::boolean)?;
    let org = Org {
        // Set when all ids are known.
        id: OrgId(0),
        name: row.read(1, |value| {
            let name = input::name("name", &cell::text(value)?);
            name.map_err(|error| error.problem().to_owned())
        })?,
        status: match is_active {
            true => OrgStatus::Active,
            false => OrgStatus::Suspended,
        },
        limits: Vec::new(),
        overrides: Vec::new(),
        created_at: row.read(3, cell::time)?,
    };
    Ok((row.read(0, cell::id)?, org))
}

fn read_keys(
    database: &mut dyn Database,
    org_ids: &Ids,
) -> Result<(Vec<TransferKey>, Ids), ImportError> {
    let table = find(database, &["api_keys", "keys"], &KEYS)?;
    let (mut keys, mut ids, mut hashes) = (Vec::new(), HashSet::new(), HashSet::new());
    table.read(database, |row| {
        let key = key(&row, org_ids)?;
        if !ids.insert(key.0.clone()) {
            return Err(row.wrong(0, "is also the id of another key"));
        }
        if !hashes.insert(key.1.credentials[0].hash) {
            return Err(row.wrong(2, "is also the hash of another key"));
        }
        keys.push(key);
        Ok(())
    })?;
    let ids = assign_ids(
        keys.iter()
            .map(|(id, imported)| (id, imported.key.created_at)),
    );
    for (id, imported) in &mut keys {
        set_id(imported, KeyId(ids[id]));
    }
    let mut keys: Vec<TransferKey> = keys.into_iter().map(|(_, imported)| imported).collect();
    keys.sort_unstable_by_key(|imported| imported.key.id);
    Ok((keys, ids))
}

fn set_id(imported: &mut TransferKey, id: KeyId) {
    imported.key.id = id;
    if imported.key.label.is_empty() {
        imported.key.label = format!("key {id}");
    }
    for credential in &mut imported.credentials {
        credential.key_id = id;
    }
}

fn key(row: &Row<'_, 12>, org_ids: &Ids) -> Result<(String, TransferKey), ImportError> {
    let org = row.read(1, cell::id)?;
    let Some(org_id) = org_ids.get(&org) else {
        return Err(row.wrong(1, "is not the id of an organization"));
    };
    let created_at = row.read(4, cell::time)?;
    let shown = row.read_if_any(6, cell::text)?.unwrap_or_default();
    let scopes = row.read_if_any(7, cell::scopes)?;
    let per_minute = row.read_if_any(8, cell::limit)?;
    let monthly = row.read_if_any(9, cell::limit)?;
    let active = row.read(3, cell::boolean)?;
    let key = Key {
        id: KeyId(0),
        org_id: OrgId(*org_id),
        label: label(row)?,
        shown_prefix: shown.chars().take(MAX_PREFIX).collect(),
        status: match active {
            true => KeyStatus::Active,
            false => KeyStatus::Revoked,
        },
        scopes: scopes.unwrap_or_default(),
        rate_limit_per_minute: per_minute.unwrap_or(PER_MINUTE),
        limits: monthly.map(monthly_limit).into_iter().collect(),
        allowed_ips: CidrSet::default(),
        overrides: Vec::new(),
        created_at,
        expires_at: row.read_if_any(10, cell::time)?,
        last_used_at: row.read_if_any(11, cell::time)?,
        old_text_until: None,
    };
    let credential = Credential {
        hash: row.read(2, cell::hash)?,
        scheme: HashScheme::Sha256,
        secret_id: FIRST_SECRET,
        key_id: KeyId(0),
        created_at,
        expires_at: None,
    };
    let imported = TransferKey {
        key,
        credentials: vec![credential],
    };
    Ok((row.read(0, cell::id)?, imported))
}

/// Returns the label; empty if there is none.
fn label(row: &Row<'_, 12>) -> Result<String, ImportError> {
    let label = row.read_if_any(5, |value| {
        let text = cell::text(value)?;
        if text.trim().is_empty() {
            return Ok(String::new());
        }
        input::name("label", &text).map_err(|error| error.problem().to_owned())
    })?;
    Ok(label.unwrap_or_default())
}

fn monthly_limit(amount: NonZeroU64) -> Limit {
    Limit {
        amount,
        period: Period::Month,
        shadow: false,
    }
}

fn find<const N: usize>(
    database: &mut dyn Database,
    names: &[&'static str],
    wanted: &[Column; N],
) -> Result<Table<N>, ImportError> {
    if let Some(table) = Table::find(database, names, wanted)? {
        return Ok(table);
    }
    Err(ImportError::NoTable {
        expected: names[0],
        found: listed(&database.tables()?),
    })
}

/// Assigns new ids. Whole numbers from 1 on are kept; if any other id exists, all ids are replaced by
/// numbers in the order of creation.
fn assign_ids<'a>(rows: impl Iterator<Item = (&'a String, Timestamp)>) -> Ids {
    let mut rows: Vec<(Timestamp, &String)> = rows.map(|(id, at)| (at, id)).collect();
    let number = |id: &String| id.parse().ok().filter(|id| (1..1 << 62).contains(id));
    let kept = rows
        .iter()
        .map(|(_, id)| Some(((*id).clone(), number(id)?)));
    if let Some(kept) = kept.collect() {
        return kept;
    }
    rows.sort_unstable();
    let ids = rows.into_iter().map(|(_, id)| id.clone());
    ids.zip(1..).collect()
}
