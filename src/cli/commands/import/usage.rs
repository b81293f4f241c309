//! Totals of the requests that the Python package recorded one by one.

use std::collections::BTreeMap;

use super::cell;
use super::error::ImportError;
use super::python_package::Ids;
use super::table::{Column, Database, Row, Table};
use crate::counter::{CounterId, SavedCounter, SavedValue, SubjectId};
use crate::limit::{Balance, Period};
use crate::model::KeyId;
use crate::store::transfer::{PAGE_ROWS, TransferPage};
use crate::store::{Count, Lifetime, Minute, Tally, retention};
use crate::time::{TimeZone, Timestamp};

const USAGE: [Column; 3] = [
    Column::Required(&["key_id", "api_key_id"]),
    Column::Required(&["created_at", "timestamp"]),
    Column::Optional(&["status_code", "status"]),
];

/// The totals of all requests before a time.
pub(super) struct ImportedTotals {
    now: Timestamp,
    end_of_month: Timestamp,
    all: Count,
    minutes: BTreeMap<Minute, Tally>,
    keys: BTreeMap<u64, KeyTotals>,
}

#[derive(Default)]
struct KeyTotals {
    all: Count,
    hours: BTreeMap<u64, Count>,
    days: BTreeMap<u64, Count>,
    /// Requests that count towards the quota of the current month.
    this_month: u64,
}

impl ImportedTotals {
    /// Reads the table of requests, which may be absent.
    pub(super) fn read(
        database: &mut dyn Database,
        keys: &Ids,
        now: Timestamp,
    ) -> Result<Self, ImportError> {
        let mut usage = Self {
            now,
            end_of_month: TimeZone::utc().end_of_month(now),
            all: Count::default(),
            minutes: BTreeMap::new(),
            keys: BTreeMap::new(),
        };
        let names = ["usage_logs", "usage"];
        if let Some(table) = Table::find(database, &names, &USAGE)? {
            table.read(database, |row| usage.add(keys, &row))?;
        }
        Ok(usage)
    }

    fn add(&mut self, keys: &Ids, row: &Row<'_, 3>) -> Result<(), ImportError> {
        let at = row.read(1, cell::time)?;
        let status = row.read_if_any(2, cell::status)?.unwrap_or_default();
        let count = Count {
            requests: 1,
            errors: u64::from(status >= 400),
        };
        self.all.add(count);
        if at.minute() >= retention::first_minute(self.now) {
            self.minutes
                .entry(at.minute())
                .or_default()
                .count
                .add(count);
        }
        // Requests without a key, or with a deleted one, count only in the totals of all.
        let id = row.read_if_any(0, cell::id)?;
        let Some(&key) = id.and_then(|id| keys.get(&id)) else {
            return Ok(());
        };
        let key = self.keys.entry(key).or_default();
        key.all.add(count);
        key.days.entry(at.hour() / 24).or_default().add(count);
        if at.hour() >= retention::first_hour(self.now) {
            key.hours.entry(at.hour()).or_default().add(count);
        }
        let is_this_month = TimeZone::utc().end_of_month(at) == self.end_of_month;
        key.this_month += u64::from(is_this_month && status != REFUSED_BY_A_LIMIT);
        Ok(())
    }

    /// Returns what these keys have used in the current month, in UTC.
    pub(super) fn balances(
        &self,
        keys: impl Iterator<Item = KeyId>,
    ) -> Vec<(SubjectId, Vec<SavedCounter>)> {
        let used = |key: KeyId| Some((key, self.keys.get(&key.0)?.this_month));
        let used = keys.filter_map(used).filter(|(_, used)| *used > 0);
        used.map(|(key, used)| {
            let id = CounterId::plain(Period::Month);
            let value = SavedValue::Balance(Balance::stored(used, self.end_of_month));
            (SubjectId::key(key), vec![SavedCounter { id, value }])
        })
        .collect()
    }

    pub(super) fn pages(self) -> Vec<TransferPage> {
        let keys: Vec<(u64, KeyTotals)> = self.keys.into_iter().collect();
        let mut pages: Vec<TransferPage> = keys.chunks(PAGE_ROWS).map(totals).collect();
        let mut lifetime = Lifetime::default();
        lifetime.tally.count = self.all;
        pages.push(TransferPage {
            minutes: self.minutes.into_iter().collect(),
            lifetime: Some(lifetime),
            ..TransferPage::default()
        });
        pages
    }
}

/// The status of requests that a limit refused, which used nothing of a quota.
const REFUSED_BY_A_LIMIT: u16 = 429;

fn totals(keys: &[(u64, KeyTotals)]) -> TransferPage {
    let mut page = TransferPage::default();
    for (id, of) in keys {
        let id = KeyId(*id);
        page.key_totals.push((id, of.all));
        let rows = |rows: &BTreeMap<u64, Count>| -> Vec<(KeyId, u64, Count)> {
            rows.iter().map(|(at, count)| (id, *at, *count)).collect()
        };
        page.key_hours.extend(rows(&of.hours));
        page.key_days.extend(rows(&of.days));
    }
    page
}
