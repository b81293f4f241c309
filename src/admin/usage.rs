//! Recorded requests: lists, and counts by group.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde::{Deserialize, Serialize};

use super::{Admin, AdminError};
use crate::model::{KeyId, OrgId, Reason, Usage, UsageQuery};
use crate::net::ClientIp;
use crate::store::usage_counts::GroupValue;
use crate::time::Timestamp;

/// The usage to list, for [`Admin::list_usage`]. Rows of usage have no id, so the listing has no further
/// pages: to process all requests, use a [`UsageSink`](crate::UsageSink).
///
/// ```
/// use keyguard::{KeyId, ListUsage};
/// let request = ListUsage::new().key_id(KeyId(7)).limit(100);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct ListUsage {
    pub(crate) key_id: Option<KeyId>,
    pub(crate) since: Timestamp,
    pub(crate) limit: usize,
}

impl Default for ListUsage {
    fn default() -> Self {
        Self {
            key_id: None,
            since: Timestamp::default(),
            limit: 1_000,
        }
    }
}

impl ListUsage {
    /// Creates a query for all recorded requests that are kept, at most 1,000.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lists only requests with this key.
    pub fn key_id(mut self, id: KeyId) -> Self {
        self.key_id = Some(id);
        self
    }

    /// Lists only requests at this time or later.
    pub fn since(mut self, time: Timestamp) -> Self {
        self.since = time;
        self
    }

    /// The maximum number of requests. Default: 1,000.
    pub fn limit(mut self, requests: usize) -> Self {
        self.limit = requests;
        self
    }
}

/// The counts of recorded requests, from [`Admin::usage`]. No count is an estimate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageReport {
    /// The first counted time; `None` if everything before the end is counted.
    pub since: Option<Timestamp>,
    /// The end of the counted time, which is not counted itself; `None` for now.
    pub until: Option<Timestamp>,
    /// Whether refusals of requests without a known key are counted.
    pub includes_keyless: bool,
    /// All counted requests, also those of groups that are not listed.
    pub requests: u64,
    /// Those of them that were refused or had a status of 400 or above.
    pub errors: u64,
    /// Periods in order of time, or other groups by descending requests. Of more than 131,072 groups,
    /// those with few requests may be missing.
    pub rows: Vec<UsageRow>,
    /// Damaged blocks of the data file with requests of this time. These requests are not counted;
    /// [`Admin::verify`] shows what is lost.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(required = true))]
    pub omitted_blocks: u64,
}

/// The requests of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageRow {
    /// What the requests have in common.
    #[serde(flatten)]
    pub group: UsageValue,
    /// All requests of the group.
    pub requests: u64,
    /// Those of them that were refused or had a status of 400 or above.
    pub errors: u64,
}

/// What the requests of a group have in common. In JSON a field of the row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum UsageValue {
    /// The start of the minute, hour or day.
    Start(Timestamp),
    /// The key.
    Key(UsedKey),
    /// The path.
    Path(String),
    /// The status of the response; 0 if the grant was dropped without `finish`.
    Status(u16),
    /// The address of the client.
    Ip(ClientIp),
    /// The reason of the refusal; `None` for requests that were not refused.
    Reason(Option<Reason>),
}

/// The key of a group of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsedKey {
    /// Its id.
    pub id: KeyId,
    /// The start of its text, as listings show it.
    #[cfg_attr(feature = "openapi", schema(example = "kg_live_2loa"))]
    pub prefix: String,
    /// Its label.
    #[cfg_attr(feature = "openapi", schema(example = "web shop"))]
    pub label: String,
    /// The name of its organization.
    #[cfg_attr(feature = "openapi", schema(example = "acme"))]
    pub org_name: String,
}

/// A page of recorded requests.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct RequestPage {
    /// The requests, in the order in which they were recorded.
    pub(crate) requests: Vec<Usage>,
    /// The field `from` of the next page; null at the end. A page before the end may have no requests.
    pub(crate) next: Option<u64>,
}

/// The latest requests.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct TailReply {
    /// The requests that the filter accepts, in the order of their times, including refusals without a known
    /// key.
    pub(crate) requests: Vec<Usage>,
    /// The number from which the next reply goes on. Requests are kept for 10 seconds after a reply.
    pub(crate) next: u64,
    /// The requests that were no longer kept.
    pub(crate) missed: u64,
    /// Whether more requests wait.
    pub(crate) has_more: bool,
}

/// The most requests that a reply reads.
const TAIL_ROWS: usize = 1_000;

impl Admin {
    /// Counts recorded requests. First stores pending usage, which waits for one commit.
    ///
    /// Totals answer a question where they can: by key, hour or day without a further filter than key and
    /// organization (by hour for 90 days, by day for longer), and by minute, hour, day or reason without key,
    /// organization, status, path and address (for 48 hours). Only the latter include
    /// [refusals without a known key](UsageReport::includes_keyless), and count whole minutes. Everything
    /// else is counted from individual requests, which are kept for
    /// [`Config::usage_retention`](crate::Config::usage_retention) and not at all with
    /// [`Config::usage_sink_only`](crate::Config::usage_sink_only). Where a range begins or ends within a
    /// period whose individual requests are no longer kept, the whole period is counted, as
    /// [`UsageReport::since`] and [`UsageReport::until`] say.
    ///
    /// Questions are answered one at a time, in bounded memory and within 10 seconds, while decisions go
    /// on.
    ///
    /// ```
    /// # use keyguard::{Config, CreateKey, KeyGuard, UsageGroup, UsageQuery, UsageValue};
    /// # let dir = tempfile::tempdir()?;
    /// # let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
    /// # kg.admin().create_org("acme")?;
    /// # let key = kg.admin().create_key(CreateKey::new("acme", "web shop"))?;
    /// # let (headers, ip) = ([("X-API-Key", key.raw_key.expose())], std::net::Ipv4Addr::LOCALHOST);
    /// kg.check(&headers, ip, "/items")?.finish(404);
    ///
    /// let report = kg.admin().usage(&UsageQuery::by(UsageGroup::Path).status("4xx"))?;
    /// assert_eq!(report.rows[0].group, UsageValue::Path("/items".into()));
    /// assert_eq!((report.requests, report.errors), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for a value of the query, or if counting takes too long;
    /// [`AdminError::Unavailable`].
    pub fn usage(&self, query: &UsageQuery) -> Result<UsageReport, AdminError> {
        query.check()?;
        self.store_usage()?;
        let _turn = self.guard.usage_turn();
        let counts = self.guard.store().count_usage(query, self.guard.now())?;
        let mut keys = UsedKeys::new(self);
        let rows = counts.rows.into_iter().map(|(group, count)| {
            Ok(UsageRow {
                group: keys.value(group)?,
                requests: count.requests,
                errors: count.errors,
            })
        });
        Ok(UsageReport {
            since: counts.since,
            until: counts.until,
            includes_keyless: counts.includes_keyless,
            requests: counts.total.requests,
            errors: counts.total.errors,
            rows: rows.collect::<Result<_, AdminError>>()?,
            omitted_blocks: counts.omitted_blocks,
        })
    }

    /// Returns a page of the individual requests that a query asks for. The first page is that from 0.
    pub(crate) fn usage_page(
        &self,
        query: &UsageQuery,
        from: u64,
    ) -> Result<RequestPage, AdminError> {
        query.check()?;
        if from == 0 {
            self.store_usage()?;
        }
        let page = self.guard.store().usage_page(query, from, query.limit)?;
        Ok(RequestPage {
            requests: page.rows,
            next: page.next,
        })
    }

    /// Returns the latest requests of this process that a query asks for, from the number `from` on.
    pub(crate) fn tail_usage(
        &self,
        query: &UsageQuery,
        from: Option<u64>,
    ) -> Result<TailReply, AdminError> {
        query.check()?;
        let followed = self.guard.recorder().follow(from, TAIL_ROWS);
        let mut orgs = HashMap::new();
        let mut requests = Vec::new();
        for usage in followed.requests {
            if query.filter.accepts(&usage)
                && self.is_of_org(&usage, query.filter.org, &mut orgs)?
            {
                requests.push(usage);
            }
        }
        Ok(TailReply {
            requests,
            next: followed.next,
            missed: followed.missed,
            has_more: followed.has_more,
        })
    }

    /// Whether a request has a key of this organization, if one is wanted. `orgs` has the known keys.
    fn is_of_org(
        &self,
        usage: &Usage,
        org: Option<OrgId>,
        orgs: &mut HashMap<KeyId, OrgId>,
    ) -> Result<bool, AdminError> {
        let (Some(org), Some(key)) = (org, usage.key_id) else {
            return Ok(org.is_none());
        };
        let found = match orgs.entry(key) {
            Entry::Occupied(found) => *found.get(),
            Entry::Vacant(entry) => *entry.insert(self.get_key(key)?.org_id),
        };
        Ok(found == org)
    }

    /// Returns recorded requests with known keys, in the order in which they were recorded. First stores
    /// pending usage, which waits for one commit.
    ///
    /// # Errors
    /// [`AdminError::Unavailable`]
    pub fn list_usage(&self, request: ListUsage) -> Result<Vec<Usage>, AdminError> {
        self.store_usage()?;
        let store = self.guard.store();
        Ok(store.usage(request.key_id, request.since, request.limit)?)
    }
}

/// Looks up the keys of groups.
struct UsedKeys<'a> {
    admin: &'a Admin,
    org_names: HashMap<OrgId, String>,
}

impl<'a> UsedKeys<'a> {
    fn new(admin: &'a Admin) -> Self {
        Self {
            admin,
            org_names: HashMap::new(),
        }
    }

    fn value(&mut self, group: GroupValue) -> Result<UsageValue, AdminError> {
        Ok(match group {
            GroupValue::Start(at) => UsageValue::Start(at),
            GroupValue::Key(id) => UsageValue::Key(self.key(id)?),
            GroupValue::Path(path) => UsageValue::Path(path),
            GroupValue::Status(status) => UsageValue::Status(status),
            GroupValue::Ip(ip) => UsageValue::Ip(ip),
            GroupValue::Reason(reason) => UsageValue::Reason(reason),
        })
    }

    fn key(&mut self, id: KeyId) -> Result<UsedKey, AdminError> {
        let key = self.admin.get_key(id)?;
        let org_name = match self.org_names.entry(key.org_id) {
            Entry::Occupied(name) => name.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.admin.get_org(key.org_id)?.name),
        };
        Ok(UsedKey {
            id,
            prefix: key.shown_prefix,
            label: key.label,
            org_name: org_name.clone(),
        })
    }
}
