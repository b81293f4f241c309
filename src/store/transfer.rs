//! What moves from one store to another, a page at a time.
//!
//! Ids stay what they are. Windows, raw usage and the audit log stay behind: windows begin anew, as
//! after a kill.

pub(crate) use super::codec::{Lifetime, Tally};
use super::{Count, Minute, Store, StoreError};
use crate::counter::SubjectId;
use crate::counter::{SavedCounter, SavedValue};
use crate::lockout::Lock;
use crate::model::{Credential, HashScheme, Key, KeyId, KeyStatus, Org, OrgId};
use crate::time::Timestamp;

/// Up to where a store was read. Only the store that it is of knows what it means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageCursor {
    pub(crate) stage: u8,
    /// Behind which row of the stage; `None` for its start.
    pub(crate) after: Option<(u64, u64)>,
}

/// A page of what moves. Most of them hold rows of one or two kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TransferPage {
    pub(crate) orgs: Vec<Org>,
    pub(crate) keys: Vec<MovedKey>,
    /// Of calendar quotas and credits, never of windows.
    pub(crate) balances: Vec<(SubjectId, Vec<SavedCounter>)>,
    pub(crate) locks: Vec<Lock>,
    /// All that a key was ever asked for.
    pub(crate) key_totals: Vec<(KeyId, Count)>,
    /// By the hour, counted since the Unix epoch. The running one is among them.
    pub(crate) key_hours: Vec<(KeyId, u64, Count)>,
    /// By the day, counted since the Unix epoch. The running one is among them.
    pub(crate) key_days: Vec<(KeyId, u64, Count)>,
    pub(crate) minutes: Vec<(Minute, Tally)>,
    pub(crate) shadowed: Vec<(String, u64)>,
    pub(crate) lifetime: Option<Lifetime>,
    pub(crate) last_ids: Option<LastIds>,
    /// Where the next page begins; `None` for the last one.
    pub(crate) next: Option<PageCursor>,
}

/// A key with all texts that authenticate it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MovedKey {
    /// With its last use.
    pub(crate) key: Key,
    pub(crate) credentials: Vec<Credential>,
}

/// The greatest ids that were ever given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LastIds {
    pub(crate) org: u64,
    pub(crate) key: u64,
}

/// How much has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TransferStats {
    pub(crate) orgs: u64,
    pub(crate) keys: u64,
    pub(crate) credentials: u64,
    /// Groups that have balances.
    pub(crate) balances: u64,
    pub(crate) locks: u64,
    /// Rows of totals.
    pub(crate) totals: u64,
}

impl TransferStats {
    fn add(&mut self, page: &TransferPage) {
        let credentials = page.keys.iter().map(|moved| moved.credentials.len());
        let totals = page.key_totals.len()
            + page.key_hours.len()
            + page.key_days.len()
            + page.minutes.len()
            + page.shadowed.len()
            + usize::from(page.lifetime.is_some());
        self.orgs += page.orgs.len() as u64;
        self.keys += page.keys.len() as u64;
        self.credentials += credentials.sum::<usize>() as u64;
        self.balances += page.balances.len() as u64;
        self.locks += page.locks.len() as u64;
        self.totals += totals as u64;
    }
}

/// Moves all of one store to another, and says after each page how much has moved so far.
///
/// Nothing is written before all organizations and keys are known to find room. Doing it again, also
/// after it was cut off in the middle, changes nothing that is there already.
pub(crate) fn move_all(
    from: &dyn Store,
    to: &dyn Store,
    mut progress: impl FnMut(&TransferStats),
) -> Result<TransferStats, StoreError> {
    for_each(from, |page| to.has_room_for(page))?;
    let mut moved = TransferStats::default();
    for_each(from, |page| {
        to.import(page)?;
        moved.add(page);
        progress(&moved);
        Ok(())
    })?;
    Ok(moved)
}

/// As [`move_all`], of pages that are at hand.
pub(crate) fn take_in(
    pages: &[TransferPage],
    to: &dyn Store,
    mut progress: impl FnMut(&TransferStats),
) -> Result<TransferStats, StoreError> {
    pages.iter().try_for_each(|page| to.has_room_for(page))?;
    let mut moved = TransferStats::default();
    for page in pages {
        to.import(page)?;
        moved.add(page);
        progress(&moved);
    }
    Ok(moved)
}

fn for_each(
    store: &dyn Store,
    mut take: impl FnMut(&TransferPage) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut place = PageCursor::default();
    loop {
        let page = store.page(place)?;
        take(&page)?;
        match page.next {
            Some(next) => place = next,
            None => return Ok(()),
        }
    }
}

/// That an organization that is there, by its id or its name, is the one that comes.
pub(crate) fn same_org(there: &Org, comes: &Org) -> Result<(), StoreError> {
    let told = |org: &Org| (org.id, org.created_at);
    if told(there) == told(comes) && there.name == comes.name {
        return Ok(());
    }
    Err(StoreError::Occupied(format!(
        "organization {} `{}` is to be moved, but there is another one, {} `{}`, in its place",
        comes.id, comes.name, there.id, there.name
    )))
}

/// That a key that is there under the id of one that comes is the same.
pub(crate) fn same_key(there: &Key, comes: &Key) -> Result<(), StoreError> {
    let told = |key: &Key| (key.id, key.org_id, key.created_at);
    if told(there) == told(comes) {
        return Ok(());
    }
    Err(StoreError::Occupied(format!(
        "key {} of organization {} is to be moved, but there is another key, of organization {}, in \
         its place",
        comes.id, comes.org_id, there.org_id
    )))
}

/// That a credential that is there under the hash of one that comes opens the same key.
pub(crate) fn same_credential(there: KeyId, comes: &Credential) -> Result<(), StoreError> {
    if there == comes.key_id {
        return Ok(());
    }
    Err(StoreError::Occupied(format!(
        "the text of key {} is to be moved, but it is that of key {there} there",
        comes.key_id
    )))
}

/// A key that is there, brought to the state in which it comes. What is final stays so.
pub(crate) fn merged_key(there: &Key, comes: &Key) -> Key {
    Key {
        active: there.active && comes.active,
        status: KeyStatus::stored(there.active && comes.active),
        last_used_at: there.last_used_at.max(comes.last_used_at),
        ..comes.clone()
    }
}

/// The credential to store for one that comes, if any: `there` is what has its hash. A text that was
/// to expire does so no later. One of the Python package comes only together with its key, since it may have
/// been stored anew there.
pub(crate) fn merged_credential(
    there: Option<&Credential>,
    comes: &Credential,
    is_new_key: bool,
) -> Option<Credential> {
    match there {
        None if comes.scheme == HashScheme::Sha256 && !is_new_key => None,
        None => Some(comes.clone()),
        Some(there) => {
            let expiries = [there.expires_at, comes.expires_at];
            Some(Credential {
                expires_at: expiries.into_iter().flatten().min(),
                ..there.clone()
            })
        }
    }
}

/// Balances of both sides. Of one that both have, the later day, month or refill counts, and within
/// one the greater use.
pub(crate) fn merged_balances(
    there: Vec<SavedCounter>,
    come: &[SavedCounter],
) -> Vec<SavedCounter> {
    let mut merged = there;
    for comes in come {
        match merged.iter_mut().find(|there| there.id == comes.id) {
            Some(there) if state(there) < state(comes) => *there = comes.clone(),
            Some(_) => {}
            None => merged.push(comes.clone()),
        }
    }
    merged
}

fn state(counter: &SavedCounter) -> Option<(Timestamp, u64)> {
    match &counter.value {
        SavedValue::Balance(balance) => Some((balance.at(), balance.used())),
        SavedValue::Hits(_) => None,
    }
}

/// What takes the place of a lock that is there when another of the same comes; `None` if it stays.
pub(crate) fn merged_lock(comes: &Lock, there: Option<&Lock>) -> Option<Lock> {
    let merged = match there {
        Some(there) => comes.clone().joined(there),
        None => comes.clone(),
    };
    (there != Some(&merged)).then_some(merged)
}

impl Count {
    /// The greater of both sides, number by number.
    pub(crate) fn max(self, other: Self) -> Self {
        Self {
            requests: self.requests.max(other.requests),
            errors: self.errors.max(other.errors),
        }
    }
}

impl Tally {
    /// The greater of both sides, number by number.
    pub(crate) fn max(mut self, other: &Self) -> Self {
        self.count = self.count.max(other.count);
        for (there, comes) in self.refused.iter_mut().zip(other.refused) {
            *there = (*there).max(comes);
        }
        self
    }
}

impl LastIds {
    /// Those that no id of a parcel is above.
    pub(crate) fn covering(mut self, page: &TransferPage) -> Self {
        let OrgId(org) = page.orgs.iter().map(|org| org.id).max().unwrap_or(OrgId(0));
        let keys = page.keys.iter().map(|moved| moved.key.id);
        let KeyId(key) = keys.max().unwrap_or(KeyId(0));
        let told = page.last_ids.unwrap_or_default();
        self.org = self.org.max(org).max(told.org);
        self.key = self.key.max(key).max(told.key);
        self
    }
}
