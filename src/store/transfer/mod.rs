//! Copying all data from one store to another, page by page.
//!
//! Ids are kept. Windows, raw usage and the audit log are not copied: windows start empty, as after a
//! kill.

pub(super) mod merge;

use serde::Serialize;

use super::{Count, Lifetime, Minute, Store, StoreError, Tally};
use crate::counter::{SavedCounter, SubjectId};
use crate::lockout::Lock;
use crate::model::{Credential, Key, KeyId, Org, OrgId};

/// The most rows of one kind in a page.
pub(crate) const PAGE_ROWS: usize = 4_096;

/// Where a page of an export begins. Valid for the store that returned it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageCursor {
    pub(super) stage: Stage,
    /// The last row of the page before; `None` at the start of the stage.
    pub(super) after: Option<RowId>,
}

/// The ids of a row within its stage.
pub(super) type RowId = (u64, u64);

/// The kinds of rows, in the order of export: organizations before their keys, and keys before their
/// counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    Orgs,
    Keys,
    KeyTotals,
    KeyHours,
    KeyDays,
    Minutes,
    Balances,
    /// All that is bounded, in one page.
    Rest,
}

impl PageCursor {
    /// Returns the cursor after a page that ended with the row `last`, or with the stage if `None`.
    pub(super) fn next(self, last: Option<RowId>) -> Option<Self> {
        let stage = match last {
            Some(_) => Some(self.stage),
            None => self.stage.next(),
        };
        stage.map(|stage| Self { stage, after: last })
    }
}

impl Stage {
    fn next(self) -> Option<Self> {
        Some(match self {
            Self::Orgs => Self::Keys,
            Self::Keys => Self::KeyTotals,
            Self::KeyTotals => Self::KeyHours,
            Self::KeyHours => Self::KeyDays,
            Self::KeyDays => Self::Minutes,
            Self::Minutes => Self::Balances,
            Self::Balances => Self::Rest,
            Self::Rest => return None,
        })
    }
}

/// Returns the last row of a full page; `None` if no rows can follow.
pub(super) fn last_if_full<T>(rows: &[T], id: impl FnOnce(&T) -> RowId) -> Option<RowId> {
    rows.last().filter(|_| rows.len() == PAGE_ROWS).map(id)
}

/// A page of an export. Most pages hold rows of one or two kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TransferPage {
    pub(crate) orgs: Vec<Org>,
    pub(crate) keys: Vec<TransferKey>,
    /// Calendar quotas and credits, never windows.
    pub(crate) balances: Vec<(SubjectId, Vec<SavedCounter>)>,
    pub(crate) locks: Vec<Lock>,
    /// The requests of each key, of all time.
    pub(crate) key_totals: Vec<(KeyId, Count)>,
    /// By hour since the Unix epoch, including the running one.
    pub(crate) key_hours: Vec<(KeyId, u64, Count)>,
    /// By day since the Unix epoch, including the running one.
    pub(crate) key_days: Vec<(KeyId, u64, Count)>,
    pub(crate) minutes: Vec<(Minute, Tally)>,
    pub(crate) shadow_denied: Vec<(String, u64)>,
    pub(crate) lifetime: Option<Lifetime>,
    pub(crate) last_ids: Option<LastIds>,
    /// Where the next page begins; `None` after the last one.
    pub(crate) next: Option<PageCursor>,
}

/// A key with all its credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TransferKey {
    /// Includes the last use.
    pub(crate) key: Key,
    pub(crate) credentials: Vec<Credential>,
}

/// The greatest ids ever assigned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LastIds {
    pub(crate) org: u64,
    pub(crate) key: u64,
}

impl LastIds {
    /// Raises the ids to those of a page.
    pub(super) fn raised_to(mut self, page: &TransferPage) -> Self {
        let OrgId(org) = page.orgs.iter().map(|org| org.id).max().unwrap_or(OrgId(0));
        let keys = page.keys.iter().map(|transfer| transfer.key.id);
        let KeyId(key) = keys.max().unwrap_or(KeyId(0));
        let stated = page.last_ids.unwrap_or_default();
        self.org = self.org.max(org).max(stated.org);
        self.key = self.key.max(key).max(stated.key);
        self
    }
}

/// Numbers of copied records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct TransferStats {
    #[serde(rename = "organizations")]
    pub(crate) orgs: u64,
    pub(crate) keys: u64,
    pub(crate) credentials: u64,
    /// Keys and organizations with balances.
    pub(crate) balances: u64,
    pub(crate) locks: u64,
    /// Rows of totals.
    pub(crate) totals: u64,
}

impl TransferStats {
    fn add(&mut self, page: &TransferPage) {
        let credentials = page.keys.iter().map(|transfer| transfer.credentials.len());
        let totals = page.key_totals.len()
            + page.key_hours.len()
            + page.key_days.len()
            + page.minutes.len()
            + page.shadow_denied.len()
            + usize::from(page.lifetime.is_some());
        self.orgs += page.orgs.len() as u64;
        self.keys += page.keys.len() as u64;
        self.credentials += credentials.sum::<usize>() as u64;
        self.balances += page.balances.len() as u64;
        self.locks += page.locks.len() as u64;
        self.totals += totals as u64;
    }
}

/// Copies all data from one store to another. Calls `progress` after each page.
///
/// All organizations and keys are checked before anything is written. A copy can be
/// repeated after an interruption; complete records do not change.
pub(crate) fn transfer_all(
    from: &dyn Store,
    to: &dyn Store,
    progress: impl FnMut(&TransferStats),
) -> Result<TransferStats, StoreError> {
    let pages = |handle: &mut PageHandler<'_>| {
        let mut next = Some(PageCursor::default());
        while let Some(cursor) = next {
            let page = from.export(cursor)?;
            handle(&page)?;
            next = page.next;
        }
        Ok(())
    };
    transfer(pages, to, progress)
}

/// Like [`transfer_all`], from pages in memory.
pub(crate) fn import_pages(
    pages: &[TransferPage],
    to: &dyn Store,
    progress: impl FnMut(&TransferStats),
) -> Result<TransferStats, StoreError> {
    let pages = |handle: &mut PageHandler<'_>| pages.iter().try_for_each(handle);
    transfer(pages, to, progress)
}

type PageHandler<'a> = dyn FnMut(&TransferPage) -> Result<(), StoreError> + 'a;

/// `for_each_page` calls a function for each page; it is called twice.
fn transfer(
    for_each_page: impl Fn(&mut PageHandler<'_>) -> Result<(), StoreError>,
    to: &dyn Store,
    mut progress: impl FnMut(&TransferStats),
) -> Result<TransferStats, StoreError> {
    for_each_page(&mut |page| to.check_import(page))?;
    let mut stats = TransferStats::default();
    for_each_page(&mut |page| {
        to.import(page)?;
        stats.add(page);
        progress(&stats);
        Ok(())
    })?;
    Ok(stats)
}
